"""The summary page of a sweep: one static file with its figures, verdicts and failures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from html import escape
from itertools import count
from pathlib import Path
from urllib.parse import quote

from cotbook import render
from cotbook.claims import Claim, Entry
from cotbook.grid.file import Sweep
from cotbook.grid.outcome import JOBS, TABLE, Outcome
from cotbook.grid.plot import Point, axis_of, formula, svg

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
        f"<h1>{escape(sweep.title)}</h1>",
        f"<p>{escape(sweep.description)}</p>" if sweep.description else "",
        _facts(sweep, outcomes),
        *_failures(outcomes, folder),
        *_verdicts(sweep, outcomes),
        *_figures(sweep, outcomes),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _facts(sweep: Sweep, outcomes: Sequence[Outcome]) -> str:
    finished = sum(found.finished for found in outcomes)
    states = {claim.library_hash for found in outcomes for claim in found.claims or ()}
    words = [
        f"Chapter <code>{escape(sweep.chapter)}</code>",
        f"profile <code>{escape(sweep.profile)}</code>",
        f"{finished} of {len(outcomes)} jobs finished",
        *(f"library <code>{escape(state)}</code>" for state in sorted(states)),
        f'<a href="{TABLE}">all numbers as CSV</a>',
    ]
    return f"<p>{', '.join(words)}.</p>"


def _failures(outcomes: Sequence[Outcome], folder: Path) -> list[str]:
    items = []
    for found in outcomes:
        if found.failure:
            log = quote(Path(os.path.relpath(found.log, folder)).as_posix())
            items.append(
                f"<li><strong>{escape(found.job.label)}</strong>: "
                f'{escape(found.failure)} <a href="{log}">log</a></li>'
            )
    if not items:
        return []
    again = "<p><code>cotflow sweep --retry</code> runs these jobs again.</p>"
    return ["<h2>Failed jobs</h2>", f"<ul>{''.join(items)}</ul>", again]


def claims(outcomes: Sequence[Outcome]) -> dict[str, Entry]:
    """Every claim that some job made, by name, as the first job recorded it."""
    known: dict[str, Entry] = {}
    for found in outcomes:
        for claim in found.claims or ():
            known.setdefault(claim.name, claim)
    return known


def _verdicts(sweep: Sweep, outcomes: Sequence[Outcome]) -> list[str]:
    names = list(claims(outcomes))
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ["job", *names])
    rows = []
    for found in outcomes:
        label = escape(found.job.label or "as it is")
        verdicts = {claim.name: str(claim.verdict) for claim in found.claims or ()}
        if found.finished:
            notebook = quote(f"{JOBS}/{found.job.id}/{sweep.chapter}.ipynb")
            label = f'<a href="{notebook}">{label}</a>'
        missing = "" if found.finished else "crashed" if found.failure else "not run"
        cells = "".join(_cell(verdicts.get(name, missing)) for name in names)
        rows.append(f'<tr><th scope="row">{label}</th>{cells}</tr>')
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return ["<h2>Verdicts</h2>", f'<div class="scroll">{table}</div>']


def _cell(word: str) -> str:
    """A verdict with its mark, or why there is none."""
    shown = render.mark(word) if word in render.MARKS else word
    return f'<td class="{escape(word.replace(" ", "-"))}">{escape(shown)}</td>'


def _figures(sweep: Sweep, outcomes: Sequence[Outcome]) -> list[str]:
    parts = []
    for index, name in enumerate(claims(outcomes)):
        points = list(_points(name, outcomes))
        if points:
            parts.append(_figure(sweep, points, str(index)))
    return ["<h2>Measured against predicted</h2>", *parts] if parts else []


def _points(name: str, outcomes: Sequence[Outcome]) -> Iterator[Point]:
    """The claim of that name in every job that measured it."""
    for found in outcomes:
        for claim in found.claims or ():
            if claim.name == name and isinstance(claim, Claim):
                yield Point(found.job.swept, claim)


def _figure(sweep: Sweep, points: Sequence[Point], index: str) -> str:
    """One claim in all jobs, with what it says below; ``index`` keeps ids apart."""
    first = points[0].claim
    name = escape(first.name)
    axis = axis_of(sweep.names, [job.swept for job in sweep.jobs])
    drawing = svg(points, axis, _seen(axis, points), f"c{index}")
    predicted = {point.claim.predicted for point in points}
    least, most = min(predicted), max(predicted)
    shown: list[render.Piece] = [f"{render.SIGNS[first.relation]} ", render.number(least)]
    if most > least:
        shown += [" to ", render.number(most)]
    return (
        f'<h3 id="{name}">{name}</h3>\n'
        f'<figure><div class="scroll">{drawing}</div>'
        f"<figcaption>{_statement(first.statement, f's{index}')} Predicted: "
        f"{render.html(shown)}, {escape(first.provenance)}. "
        f"Bars: {escape(first.interval)}. Grey: what the claim allows."
        "</figcaption></figure>"
    )


def _statement(text: str, prefix: str) -> str:
    """Text with its formulas drawn, or in their source where that is not possible."""
    ids = count()

    def drawn(piece: render.Formula) -> str:
        picture = formula(piece.tex, f"{prefix}-{next(ids)}")
        return picture or f"<code>{escape(piece.tex)}</code>"

    return render.html(render.pieces(text), drawn)


def _seen(axis: str | None, points: Sequence[Point]) -> str:
    """What the figure shows, for those who do not see it."""
    held = sum(point.claim.verdict == "holds" for point in points)
    measured = [point.claim.measured for point in points]
    least, most = (render.plain([render.number(end)]) for end in (min(measured), max(measured)))
    return (
        f"{points[0].claim.name} against {axis or 'the cases'}: measured from {least} to "
        f"{most}; the claim holds in {held} of {len(points)} jobs."
    )
