"""A claim against a swept parameter, as one figure in the book's style."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image
from matplotlib.ticker import NullLocator

from cotbook import render
from cotbook.claims import Claim
from cotbook.figures import style
from cotbook.grid.file import label_of

PLACEHOLDER = "#010203"
MARKERS = "osD^vP"
SEEDS = ("seed", "seeds")
MOST_NAMED, MOST_TICKS = 8, 8


@dataclass(frozen=True)
class Point:
    """A claim as one job measured it, at the values that the sweep sets."""

    swept: dict[str, Any]
    claim: Claim


def axis_of(names: Sequence[str], swept: Sequence[dict[str, Any]]) -> str | None:
    """The horizontal axis: the numeric parameter with most values, seeds only if alone."""
    counts = {}
    for name in names:
        values = [values[name] for values in swept if name in values]
        numeric = all(type(value) in (int, float) and math.isfinite(value) for value in values)
        if numeric and len(values) == len(swept) and len(set(values)) > 1:
            counts[name] = len(set(values))
    candidates = [name for name in counts if name not in SEEDS] or list(counts)
    return max(candidates, key=lambda name: counts[name], default=None)


def svg(points: Sequence[Point], axis: str | None, alt: str, prefix: str) -> str:
    """The figure as inline SVG.

    Parameters
    ----------
    points : one for each job.
    axis : name of the swept value along the horizontal axis; None puts the cases side by side.
    alt : what a reader who does not see it should know.
    prefix : keeps the figure's ids apart from those of others on the page.
    """
    with mpl.rc_context():
        style.use()
        mpl.rcParams["svg.hashsalt"] = prefix
        figure = Figure(figsize=(7.6, 3.4))
        ax = figure.add_subplot()
        _draw(ax, points, axis)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(stream.getvalue(), alt, prefix)


def formula(tex: str, prefix: str) -> str | None:
    """A formula as inline SVG in the colour of the text; None if matplotlib cannot set it."""
    size, stream = 12, io.BytesIO()
    settings = {"savefig.facecolor": "none", "svg.hashsalt": prefix}
    try:
        with mpl.rc_context(settings):
            prop = FontProperties(size=size)
            depth = math_to_image(f"${tex}$", stream, prop, format="svg", color=PLACEHOLDER)
    except ValueError:
        return None
    text = _inline(stream.getvalue().decode(), tex, prefix).replace(PLACEHOLDER, "currentColor")
    width, height = (
        float(re.search(rf'\b{side}="([\d.]+)pt"', text)[1]) for side in ("width", "height")
    )
    shape = f"width:{width / size:.3f}em;height:{height / size:.3f}em"
    style = f'style="{shape};vertical-align:{-depth / size:.3f}em"'
    return text.replace("<svg ", f'<svg class="formula" {style} ', 1)


def _inline(text: str, alt: str, prefix: str) -> str:
    """A figure's file as an element of a page, with ids of its own."""
    text = text[text.index("<svg") :].rstrip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}-", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alt)}" ', 1)


def _draw(ax: Any, points: Sequence[Point], axis: str | None) -> None:
    groups: dict[str, list[tuple[float, Claim]]] = {}
    for place, point in enumerate(points):
        rest = {k: v for k, v in point.swept.items() if k != axis and k not in SEEDS}
        x = place if axis is None else float(point.swept[axis])
        groups.setdefault("" if axis is None else label_of(rest), []).append((x, point.claim))
    places = sorted({x for group in groups.values() for x, _ in group})
    log = axis is not None and places[0] > 0 and places[-1] / places[0] >= 8
    if log:
        ax.set_xscale("log")
    many = len(groups) > len(style.CYCLE)
    colours = style.shades(len(groups)) if many else style.CYCLE
    for index, (label, group) in enumerate(groups.items()):
        shift = 0.02 * (index - (len(groups) - 1) / 2) / max(1, len(groups) / 4)
        _series(ax, group, places, log, shift, label, colours[index], MARKERS[index % 6])
    _expected(ax, [(x, claim) for group in groups.values() for x, claim in group])
    if axis is None:
        ax.set_xticks(places, [_short(point) for point in points], rotation=20)
    elif len(places) <= MOST_TICKS:
        ax.set_xticks(places, [f"{x:g}" for x in places])
        ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.08)
    ax.set(xlabel=render.drawn(axis or ""), ylabel="measured")
    if len(groups) <= MOST_NAMED:
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def _series(
    ax: Any,
    group: list[tuple[float, Claim]],
    places: list[float],
    log: bool,
    shift: float,
    label: str,
    colour: Any,
    marker: str,
) -> None:
    """Measured values with their intervals, moved aside a little from other series."""
    finite = [(x, c) for x, c in group if all(map(math.isfinite, (c.low, c.high)))]
    if log:
        xs = [x * (places[-1] / places[0]) ** shift for x, _ in finite]
    else:
        xs = [x + shift * (places[-1] - places[0]) for x, _ in finite]
    measured = [c.measured for _, c in finite]
    below = [max(0.0, c.measured - c.low) for _, c in finite]
    above = [max(0.0, c.high - c.measured) for _, c in finite]
    ax.errorbar(
        xs, measured, yerr=[below, above], fmt=marker, color=colour, capsize=3, lw=1.2,
        label=render.drawn(label) or "measured",
    )  # fmt: skip


def _expected(ax: Any, points: list[tuple[float, Claim]]) -> None:
    """The prediction and what the claim allows: lines if it is the same for all, else marks."""
    low, high = ax.get_ylim()
    ends = [claim.allowed for _, claim in points]
    seen = [v for pair in ends for v in pair if math.isfinite(v)]
    seen += [c.predicted for _, c in points if math.isfinite(c.predicted)]
    low, high = min([low, *seen]), max([high, *seen])
    pad = 0.04 * (high - low)
    ax.set_ylim(low - pad, high + pad)
    bottom, top = ax.get_ylim()
    # What is not finite is drawn at the border.
    ends = [
        (min(max(floor, bottom), top), max(min(ceiling, top), bottom)) for floor, ceiling in ends
    ]
    predicted = {c.predicted for _, c in points}
    if len(predicted) == 1 and len(set(ends)) == 1:
        ax.axhspan(*ends[0], color=style.INK, alpha=0.08, lw=0)
        for value in filter(math.isfinite, predicted):
            ax.axhline(value, ls="--", lw=1.2, color=style.INK, label="predicted")
        return
    xs = [x for x, _ in points]
    floors, ceilings = zip(*ends, strict=True)
    ax.vlines(xs, floors, ceilings, color=style.INK, alpha=0.12, lw=14)
    marks = [c.predicted for _, c in points]
    ax.plot(xs, marks, "_", ms=16, mew=1.6, color=style.INK, label="predicted")


def _short(point: Point) -> str:
    text = label_of(point.swept)
    return render.drawn(text if len(text) <= 32 else text[:31] + "…")
