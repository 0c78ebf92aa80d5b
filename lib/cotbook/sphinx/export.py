"""The ledger beside the pages, for machines (ledger.json) and for a terminal (ledger.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from cotbook.chapter import MARKS
from cotbook.provenance import library_hash
from cotbook.render import row as claim_row
from cotbook.sphinx import executed, tables

HEAD = ("verdict", "claim", "statement", "source", "predicted", "measured", "tolerance")


def write(
    title: Callable[[BuildEnvironment, str], str],
    source_hash: Callable[[BuildEnvironment, str], str],
    app: Sphinx,
    exception: Exception | None,
) -> None:
    """Leave both files in the folder of the pages, where the build that made them was whole."""
    if exception or app.builder.name != "html":
        return
    chapters = [
        {
            "chapter": chapter.docname,
            "title": title(app.env, chapter.docname),
            "source_hash": source_hash(app.env, chapter.docname),
            "execution": chapter.execution,
            "claims": [
                record | {"page": f"{chapter.docname}.html#{tables.anchor(record)}"}
                for record in chapter.claims
            ],
        }
        for chapter in executed.read(app.env)
    ]
    ledger = {"library_hash": library_hash(), "chapters": chapters}
    text = json.dumps(ledger, indent=2, ensure_ascii=False) + "\n"
    (Path(app.outdir) / "ledger.json").write_text(text, encoding="utf-8")
    (Path(app.outdir) / "ledger.md").write_text(markdown(ledger), encoding="utf-8")


def markdown(ledger: dict) -> str:
    """One table of claims for each chapter."""
    lines = ["# Ledger of claims", "", f"Library {ledger['library_hash']}."]
    for chapter in ledger["chapters"]:
        lines += ["", f"## {chapter['title']}", "", row(HEAD), row(["---"] * len(HEAD))]
        lines += [row(cells(record)) for record in chapter["claims"]]
    return "\n".join(lines) + "\n"


def cells(record: dict) -> list[str]:
    verdict, name, predicted, measured, tolerance, source = claim_row(record)
    said = [f"{MARKS[verdict]} {verdict}", f"[{name}]({record['page']})", record["statement"]]
    if verdict == "not tested here":
        return [*said, source, record["reason"], "", ""]
    if record["low"] != record["high"]:
        measured += f" {record['interval']}"
    return [*said, source, predicted, measured, tolerance]


def row(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"
