"""What lies beside the pages: the ledger, for machines (json) and for a terminal (md).

As long as they are not whole, their front page says so.
"""

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

FRONT, LEDGERS = "index.html", (LEDGER, "ledger.md")
HEAD = ("verdict", "claim", "statement", "source", "predicted", "measured", "tolerance")

UNFINISHED = """\
<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Not whole</title>
<p>This book is not whole: it is being built, or its build was stopped.
<code>make book</code> builds it.</p></html>
"""


def begin(app: Sphinx) -> None:
    """Until the pages are whole, their front page says so and no ledger is there."""
    folder = Path(app.outdir)
    if app.builder.name == "html" and app.config.root_doc != "index":
        folder.mkdir(parents=True, exist_ok=True)
        for name in LEDGERS:
            (folder / name).unlink(missing_ok=True)
        (folder / FRONT).write_text(UNFINISHED, encoding="utf-8")


def end(app: Sphinx, exception: Exception | None) -> None:
    """Make room for the front page that leads to the first one."""
    if not exception and app.builder.name == "html" and app.config.root_doc != "index":
        (Path(app.outdir) / FRONT).unlink(missing_ok=True)


def write(app: Sphinx, exception: Exception | None) -> None:
    """Leave both files in the folder of the pages, where the build that made them was whole."""
    if exception or app.builder.name != "html":
        return
    ledger = Ledger(execution_hash(), tuple(executed.read(app.env)))
    text = json.dumps(ledger.to_json(), indent=2, ensure_ascii=False) + "\n"
    for name, content in zip(LEDGERS, (text, markdown(ledger)), strict=True):
        (Path(app.outdir) / name).write_text(content, encoding="utf-8")


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
