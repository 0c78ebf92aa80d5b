"""The ledger as one table that a reader steers, below a picture of all claims.

Rows and picture are plain HTML: without JavaScript every row is there, in the order of the book.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from cotbook import render
from cotbook.claims import KINDS, PLURALS, Claim, Entry

PAPERS = {
    "B": "[B] Barboni, Peyré, Vialard",
    "M": "[M] Marion, Wu, Sander, Biau",
    "C": "[C] the companion",
    "R": "[R] others",
}
# The picture's axis: from this share of what is allowed up to all of it.
LEAST = 1e-6
LEFT, WIDTH, STEP, TOP, RADIUS = 150, 560, 30, 34, 4.0
# Shapes beside colours, so that kinds differ without them.
SHAPES = {
    "rounding": "square", "identity": "square", "exponent": "triangle", "constant": "circle",
    "bound": "diamond", "threshold": "cross", "outside": "cross", "search": "triangle",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A claim with its chapter, and where it leads: to its card, and to the box it is about."""

    entry: Entry
    title: str
    card: str
    box: str = ""

    @property
    def id(self) -> str:
        return row_id(self.entry)

    @property
    def papers(self) -> list[str]:
        return [key for key in PAPERS if f"[{key}]" in self.entry.provenance]

    @property
    def near(self) -> float | None:
        """The share of what is allowed that the measurement used."""
        if not isinstance(self.entry, Claim) or self.entry.strength is None:
            return None
        return max(self.entry.strength, 0.0) if math.isfinite(self.entry.strength) else None


def row_id(entry: Entry) -> str:
    """The id of a claim's row."""
    return entry.anchor.replace("claim-", "row-", 1)


def html(rows: Sequence[Row]) -> str:
    """Picture, form and table."""
    chapters = {row.entry.chapter: row.title for row in rows}
    return f"{_picture(rows)}{_form(chapters)}{_table(rows)}"


def _form(chapters: dict[str, str]) -> str:
    """What the reader steers by; a script shows it and obeys it."""

    def choice(name: str, label: str, options: dict[str, str]) -> str:
        shown = "".join(
            f'<option value="{escape(key)}">{render.written(text)}</option>'
            for key, text in options.items()
        )
        first = "" if name == "sort" else '<option value="">all</option>'
        return f'<label>{label}<select name="{name}">{first}{shown}</select></label>'

    orders = {
        "book": "order of the book", "near": "nearest to its limit first",
        "far": "farthest from its limit first",
    }  # fmt: skip
    fields = [
        '<label>search<input type="search" name="search" autocomplete="off"></label>',
        choice("chapter", "chapter", chapters),
        choice("paper", "paper", PAPERS),
        choice("kind", "kind", {kind: kind for kind in KINDS}),
        choice("verdict", "verdict", {verdict: verdict for verdict in PLURALS}),
        choice("sort", "order", orders),
    ]
    return (
        '<form class="cotflow-steer" role="search" aria-label="Claims" hidden>'
        f'{"".join(fields)}<button type="reset">show all</button>'
        '<p class="cotflow-found" role="status"></p></form>'
    )


def _table(rows: Iterable[Row]) -> str:
    head = ("verdict", "claim", "chapter", "source", "kind", "used")
    columns = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(map(_row, rows))
    return (
        '<div class="pst-scrollable-table-container"><table class="table cotflow-all">'
        '<caption>"Used" is the share of what is allowed: of a bound, what was measured over the '
        "bound; else the distance from the prediction over the tolerance. A row opens.</caption>"
        f"<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(row: Row) -> str:
    entry = row.entry
    near = "" if row.near is None else f"{row.near!r}"
    data = {
        "chapter": entry.chapter,
        "paper": " ".join(row.papers),
        "kind": entry.kind if isinstance(entry, Claim) else "",
        "verdict": entry.verdict,
        "near": near,
    }
    attributes = "".join(f' data-{key}="{escape(value)}"' for key, value in data.items())
    source = render.written(entry.provenance)
    if row.box:
        source = f'<a href="{escape(row.box)}">{source}</a>'
    cells = (
        f'<a href="{escape(row.card)}"><span class="cotflow-mark">{render.mark(entry.verdict)}'
        "</span></a>",
        f"<details><summary>{render.html(render.pieces(entry.statement))}</summary>"
        f"{_details(entry)}</details>",
        f'<a href="{escape(row.card.partition("#")[0])}">{_short(row)}</a>',
        source,
        data["kind"] or "–",
        "–" if row.near is None else render.html([render.number(float(f"{row.near:.2g}"))]),
    )
    name = entry.verdict.replace(" ", "-")
    return (
        f'<tr id="{escape(row.id)}" class="cotflow-{name}"{attributes}>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
    )


def _details(entry: Entry) -> str:
    name = f"<code>{render.written(f'{entry.chapter}/{entry.name}')}</code>"
    told = [("name", name), *render.facts(entry, "row")]
    return f"<dl>{render.definitions(told)}</dl>"


# The picture


def _picture(rows: Sequence[Row]) -> str:
    """A point for each claim, by chapter, at the share of what is allowed that it used."""
    by_chapter: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.near is not None:
            by_chapter[row.entry.chapter].append(row)
    height = TOP + STEP * len(by_chapter) + 40
    drawn = [_axis(height)]
    for index, found in enumerate(by_chapter.values()):
        y = TOP + STEP * (index + 0.5)
        drawn.append(
            f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{_short(found[0])}</text>'
        )
        drawn += [_point(row, x, y + dy) for row, x, dy in _placed(found)]
    return (
        '<figure class="cotflow-glance"><div tabindex="0" role="group" '
        'aria-label="picture, scrolls sideways">'
        f'<svg viewBox="0 0 {LEFT + WIDTH + 30} {height}" role="group" '
        'aria-label="All claims: the share of what is allowed that each used">'
        f"{''.join(drawn)}</svg></div>"
        f"<figcaption>{_caption(rows)}</figcaption></figure>"
    )


def _short(row: Row) -> str:
    """The chapter by the name of its file, which is shorter than its title."""
    return render.written(row.entry.chapter.replace("-", " "))


def _caption(rows: Sequence[Row]) -> str:
    without = sum(row.near is None for row in rows)
    legend = "".join(
        f'<span class="cotflow-key"><svg viewBox="-6 -6 12 12" aria-hidden="true">'
        f'<g class="cotflow-kind-{kind}">{_shape(kind)}</g></svg> {kind}</span> '
        for kind in KINDS
    )
    return (
        "Every claim at the share of what is allowed that it used, on a logarithmic scale; at 1 it "
        "is at its limit, and what lies beyond the left end is drawn there. A point leads to its "
        f"row. {without} entries have no such share: they are not tested here, or an equality "
        f"without a tolerance. {legend}"
    )


def _at(share: float) -> float:
    """Where a share stands on the axis, 1 at its end."""
    clipped = min(max(share, LEAST), 2.0)
    return LEFT + WIDTH * (1 - math.log10(clipped) / math.log10(LEAST))


def _axis(height: int) -> str:
    bottom = height - 38
    parts = []
    for power in range(round(math.log10(LEAST)), 1):
        x = _at(10.0**power)
        name = "1" if power == 0 else f'10<tspan dy="-5" font-size="9">−{-power}</tspan>'
        parts.append(
            f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" '
            f'class="{"cotflow-limit" if power == 0 else "cotflow-grid"}"/>'
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{name}</text>'
        )
    parts.append(
        f'<text x="{_at(1.0):.1f}" y="{TOP - 10}" text-anchor="middle">limit</text>'
        f'<text x="{LEFT + WIDTH / 2}" y="{bottom + 35}" text-anchor="middle">'
        "share of what is allowed that was used</text>"
    )
    return "".join(parts)


def _placed(rows: Iterable[Row]) -> list[tuple[Row, float, float]]:
    """Points of one chapter, pushed up and down where they would cover one another."""
    taken: list[tuple[float, float]] = []
    found = []
    for row in sorted(rows, key=lambda row: row.near or 0.0):
        x = _at(row.near or 0.0)
        for dy in (0.0, -7.0, 7.0, -14.0, 14.0):
            if all(math.hypot(x - a, dy - b) >= 1.7 * RADIUS for a, b in taken):
                break
        taken.append((x, dy))
        found.append((row, x, dy))
    return found


def _point(row: Row, x: float, y: float) -> str:
    entry = row.entry
    if not isinstance(entry, Claim):
        return ""
    said = f"{entry.chapter}/{entry.name}: {entry.verdict}, {render.plain(render.strength(entry))}"
    return (
        f'<a href="#{escape(row.id)}" class="cotflow-kind-{entry.kind}" tabindex="-1" '
        f'aria-label="{escape(said)}"><title>{render.written(said)}</title>'
        f'<g transform="translate({x:.1f} {y:.1f})">{_shape(entry.kind)}</g></a>'
    )


def _shape(kind: str) -> str:
    match SHAPES[kind]:
        case "circle":
            return '<circle r="4"/>'
        case "square":
            return '<rect x="-3" y="-3" width="6" height="6"/>'
        case "diamond":
            return '<path d="M0-5 4.5 0 0 5-4.5 0Z"/>'
        case "triangle":
            return '<path d="M0-4.6 4.4 3.4-4.4 3.4Z"/>'
        case _:
            return '<path d="M-3.5-3.5 3.5 3.5M-3.5 3.5 3.5-3.5" class="cotflow-stroke"/>'
