"""The ledger beside the pages, for machines (ledger.json) and for a terminal (ledger.md)."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

from sphinx.application import Sphinx

from cotbook import render
from cotbook.claims import Claim, Entry, Untested
from cotbook.provenance import execution_hash
from cotbook.records import LEDGER, ChapterRecord, Ledger
from cotbook.sphinx import executed

HEAD = ("verdict", "claim", "statement", "source", "predicted", "measured", "tolerance")


def write(app: Sphinx, exception: Exception | None) -> None:
    """Leave both files in the folder of the pages, where the build that made them was whole."""
    if exception or app.builder.name != "html":
        return
    ledger = Ledger(execution_hash(), tuple(executed.read(app.env)))
    text = json.dumps(ledger.to_json(), indent=2, ensure_ascii=False) + "\n"
    (Path(app.outdir) / LEDGER).write_text(text, encoding="utf-8")
    (Path(app.outdir) / "ledger.md").write_text(markdown(ledger), encoding="utf-8")


def markdown(ledger: Ledger) -> str:
    """One table of claims for each chapter."""
    lines = ["# Ledger of claims", "", f"Library {ledger.library_hash}."]
    for chapter in ledger.chapters:
        rows = (cells(chapter, entry) for entry in chapter.claims)
        title = render.formatted(chapter.title)
        lines += ["", f"## {title}", "", *render.markdown_table(HEAD, rows)]
    return "\n".join(lines) + "\n"


def cells(chapter: ChapterRecord, entry: Entry) -> list[str]:
    """Markdown: formulas stay as they are, and nothing else is markup."""
    _, name, predicted, measured, tolerance, source = map(render.escaped, render.row(entry))
    link = f"[{name}]({quote(chapter.page(entry), safe='/#')})"
    said = [render.mark(entry.verdict), link, render.formatted(entry.statement), source]
    if isinstance(entry, Untested):
        return [*said, render.formatted(entry.reason), "", ""]
    if isinstance(entry, Claim) and render.spread(entry):
        measured += f" {render.escaped(entry.interval)}"
    return [*said, predicted, measured, tolerance]
