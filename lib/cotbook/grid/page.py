"""The summary page of a sweep: one static file with its figures, verdicts and failures."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cotbook.grid.engine import Outcome
from cotbook.grid.file import Sweep

CSS = """
:root { --ink: #1b2330; --paper: #fbfaf7; --line: #d9d6cf; --good: #00694d; --bad: #882255; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e6e1; --paper: #14181f; --line: #3a4250; --good: #5fd0a8; --bad: #f08fb8; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 4rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.55 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.25; }
h2 { margin-top: 2.5rem; }
a { color: inherit; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem .35rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th[scope=row] { font-weight: normal; }
figure { margin: 1rem 0 2.5rem; }
figure .scroll svg { display: block; width: 100%; min-width: min(34rem, 100%); height: auto; }
figcaption { margin-top: .5rem; }
code { font-size: .92em; }
.holds { color: var(--good); }
.fails, .inconclusive, .crashed { color: var(--bad); }
"""


def html_text(sweep: Sweep, outcomes: Sequence[Outcome], folder: Path) -> str:
    """The page; links lead to what lies beside it in ``folder``."""
    title = f"{sweep.title}: sweep {sweep.name}"
    parts = [
        f"<h1>{html.escape(sweep.title)}</h1>",
        f"<p>{html.escape(sweep.description)}</p>" if sweep.description else "",
        _facts(sweep, outcomes),
        *_failures(outcomes, folder),
        *_verdicts(sweep, outcomes),
        *_figures(sweep, outcomes),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _facts(sweep: Sweep, outcomes: Sequence[Outcome]) -> str:
    finished = sum(found.claims is not None for found in outcomes)
    states = {c["library_hash"] for f in outcomes for c in f.claims or [] if "library_hash" in c}
    words = [
        f"Chapter <code>{html.escape(sweep.chapter)}</code>",
        f"profile <code>{html.escape(sweep.profile)}</code>",
        f"{finished} of {len(outcomes)} jobs finished",
        *(f"library <code>{html.escape(state)}</code>" for state in sorted(states)),
        '<a href="table.csv">all numbers as CSV</a>',
    ]
    return f"<p>{', '.join(words)}.</p>"


def _failures(outcomes: Sequence[Outcome], folder: Path) -> list[str]:
    items = []
    for found in outcomes:
        if found.failure:
            log = quote(Path(os.path.relpath(found.log, folder)).as_posix())
            items.append(
                f"<li><strong>{html.escape(found.job.label)}</strong>: "
                f'{html.escape(found.failure)} <a href="{log}">log</a></li>'
            )
    if not items:
        return []
    again = "<p><code>cotflow sweep --retry</code> runs these jobs again.</p>"
    return ["<h2>Failed jobs</h2>", f"<ul>{''.join(items)}</ul>", again]


def claims(outcomes: Sequence[Outcome]) -> dict[str, dict]:
    """Every claim that some job made, by name, as the first job recorded it."""
    found: dict[str, dict] = {}
    for outcome in outcomes:
        for claim in outcome.claims or []:
            found.setdefault(claim["name"], claim)
    return found


def _verdicts(sweep: Sweep, outcomes: Sequence[Outcome]) -> list[str]:
    names = list(claims(outcomes))
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ["job", *names])
    rows = []
    for found in outcomes:
        label = html.escape(found.job.label or "as it is")
        verdicts = {claim["name"]: claim["verdict"] for claim in found.claims or []}
        if found.claims is not None:
            notebook = quote(f"jobs/{found.job.id}/{sweep.chapter}.ipynb")
            label = f'<a href="{notebook}">{label}</a>'
        missing = "" if found.claims is not None else "crashed" if found.failure else "not run"
        cells = "".join(_verdict(verdicts.get(name, missing)) for name in names)
        rows.append(f'<tr><th scope="row">{label}</th>{cells}</tr>')
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return ["<h2>Verdicts</h2>", f'<div class="scroll">{table}</div>']


def _verdict(verdict: str) -> str:
    from cotbook.chapter import MARKS

    shown = f"{MARKS.get(verdict, '')} {verdict}".strip()
    return f'<td class="{verdict.replace(" ", "-")}">{shown}</td>'


def _figures(sweep: Sweep, outcomes: Sequence[Outcome]) -> list[str]:
    from cotbook.chapter import SIGNS, html_number

    parts = []
    for index, (name, first) in enumerate(claims(outcomes).items()):
        points = [
            (found.job.swept, claim)
            for found in outcomes
            for claim in found.claims or []
            if claim["name"] == name and "measured" in claim
        ]
        if not points:
            continue
        figure = _figure(sweep, name, points, f"c{index}")
        predicted = {claim["predicted"] for _, claim in points}
        least, most = min(predicted), max(predicted)
        shown = html_number(least) + (f" to {html_number(most)}" if most > least else "")
        parts.append(
            f'<h3 id="{html.escape(name)}">{html.escape(name)}</h3>\n'
            f'<figure><div class="scroll">{figure}</div>'
            f"<figcaption>{_statement(first['statement'], f's{index}')} Predicted: "
            f"{SIGNS[first['relation']]} {shown}, {html.escape(first['provenance'])}. "
            f"Bars: {html.escape(first['interval'])}. Grey: what the claim allows."
            "</figcaption></figure>"
        )
    return ["<h2>Measured against predicted</h2>", *parts] if parts else []


def _statement(text: str, prefix: str) -> str:
    """Text with its formulas drawn, or in their source where that is not possible."""
    from cotbook.grid.plot import formula

    return "".join(
        (formula(piece, f"{prefix}-{i}") or f"<code>{html.escape(piece)}</code>")
        if i % 2
        else html.escape(piece)
        for i, piece in enumerate(text.split("$"))
    )


def _figure(sweep: Sweep, name: str, points: list[tuple[dict[str, Any], dict]], prefix: str) -> str:
    from cotbook.grid.plot import axis_of, svg

    axis = axis_of(sweep.names, [job.swept for job in sweep.jobs])
    held = sum(claim["verdict"] == "holds" for _, claim in points)
    numbers = [float(claim["measured"]) for _, claim in points]
    alt = (
        f"{name} against {axis or 'the cases'}: measured from {min(numbers):.4g} to "
        f"{max(numbers):.4g}; the claim holds in {held} of {len(points)} jobs."
    )
    return svg(points, axis, alt, prefix)
