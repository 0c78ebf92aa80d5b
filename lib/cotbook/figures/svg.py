"""Axes with curves as inline SVG, one group of moving curves for each frame; text is escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import ArrayLike

from cotbook.figures import style

WIDTH, HEIGHT, RIGHT, TOP, BOTTOM = 330, 230, 312, 24, 190
DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "4 2", "12 4")
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Curve:
    """A curve that is the same in every frame.

    Parameters
    ----------
    label : in the legend; an empty one is left out.
    x, y : (points,).
    dots : mark each point as well.
    colour, dashes : as matplotlib and SVG code them; by default the palette's next ones.
    """

    label: str
    x: ArrayLike
    y: ArrayLike
    dots: bool = False
    colour: str | None = None
    dashes: str | None = None

    def at(self, frame: int, frames: int) -> np.ndarray:
        """Points (points, 2) in one of the frames."""
        shapes = np.shape(self.x), np.shape(self.y)
        if shapes[0] != shapes[1] or len(shapes[0]) != 1 or shapes[0] == (0,):
            raise ValueError(
                f"{self.label!r}: expected x and y of one shape (points,), received "
                f"{shapes[0]} and {shapes[1]}"
            )
        return np.stack([np.asarray(self.x, dtype=float), np.asarray(self.y, dtype=float)], -1)


class Moving(Curve):
    """The curve y[i] over x[i] in frame i, of any length; one x (points,) may serve all frames."""

    def at(self, frame: int, frames: int) -> np.ndarray:
        shared = len(self.x) > 0 and np.ndim(self.x[0]) == 0
        self._one_each(frames, (self.y,) if shared else (self.x, self.y))
        return Curve(self.label, self.x if shared else self.x[frame], self.y[frame]).at(0, 1)

    def _one_each(self, frames: int, given: tuple) -> None:
        for values in given:
            if len(values) != frames:
                raise ValueError(
                    f"{self.label!r}: expected one entry for each of {frames} frames, "
                    f"received {len(values)}"
                )


class Marker(Moving):
    """A dot at (x[i], y[i]) in frame i; x and y are (frames,)."""

    def at(self, frame: int, frames: int) -> np.ndarray:
        self._one_each(frames, (self.x, self.y))
        return Curve.at(self, frame, frames)[[frame]]


@dataclass(frozen=True)
class Panel:
    """Axes and their curves; labels and scales, "linear" or "log", are (across, up).

    Parameters
    ----------
    description : what the picture shows, for those who do not see it.
    """

    title: str
    labels: tuple[str, str]
    curves: Sequence[Curve]
    description: str
    scales: tuple[str, str] = ("linear", "linear")

    def __post_init__(self) -> None:
        if not 0 < len(self.curves) <= len(DASHES):
            raise ValueError(f"panel: expected 1 to 6 curves, received {len(self.curves)}")
        if not set(self.scales) <= {"linear", "log"}:
            raise ValueError(f"panel: expected scales 'linear' or 'log', received {self.scales}")

    def styled(self) -> list[tuple[Curve, str, str]]:
        """Each curve with its colour and its dashes."""
        return [
            (c, to_hex(c.colour or colour), dashes if c.dashes is None else c.dashes)
            for c, colour, dashes in zip(self.curves, style.CYCLE, DASHES, strict=False)
        ]

    def page(self, frames: int, kept: Mapping[int, float]) -> str:
        """Title, picture and legend; ``kept`` are frames to be shown together and their opacity."""
        points = [[curve.at(i, frames) for i in range(frames)] for curve in self.curves]
        every = np.concatenate([p for rows in points for p in rows])
        across, up = (Axis(v, s) for v, s in zip(every.T, self.scales, strict=True))
        left = 14 + 6.6 * max((len(text) for _, text in up.ticks()), default=0)
        still, legend, moving = "", "", [""] * frames
        for (curve, colour, dashes), rows in zip(self.styled(), points, strict=True):
            x = [left + across.unit(p[:, 0]) * (RIGHT - left) for p in rows]
            y = [BOTTOM - up.unit(p[:, 1]) * (BOTTOM - TOP) for p in rows]
            if isinstance(curve, Moving):
                drawn = [_draw(curve, *at, colour, dashes) for at in zip(x, y, strict=True)]
                moving = [a + b for a, b in zip(moving, drawn, strict=True)]
            else:
                still += _draw(curve, x[0], y[0], colour, dashes)
            sample = _draw(curve, np.array([17.0, 1, 17, 33]), np.full(4, 5.0), colour, dashes)
            sample = f'<svg viewBox="0 0 34 10" aria-hidden="true">{sample}</svg>'
            legend += f"<li>{sample} {html.escape(curve.label)}</li>" if curve.label else ""
        groups = ""
        for i, inside in enumerate(moving):
            shown = f' kept" opacity="{kept[i]}' if i in kept else ""
            groups += f'<g class="frame{shown}" data-frame="{i}">{inside}</g>'
        return (
            f'<div class="panel"><p><b>{html.escape(self.title)}</b></p>'
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{html.escape(self.description)}">{self._axes(across, up, left)}'
            f"{still}{groups}</svg><ul>{legend}</ul></div>"
        )

    def _axes(self, across: Axis, up: Axis, left: float) -> str:
        drawn = ""
        for unit, text in across.ticks():
            x = left + unit * (RIGHT - left)
            drawn += f'<path class="grid" d="M{x:.1f} {TOP}V{BOTTOM}"/>'
            drawn += f'<text x="{x:.1f}" y="{BOTTOM + 15}" text-anchor="middle">{text}</text>'
        for unit, text in up.ticks():
            y = BOTTOM - unit * (BOTTOM - TOP)
            drawn += f'<path class="grid" d="M{left:.1f} {y:.1f}H{RIGHT}"/>'
            drawn += f'<text x="{left - 5:.1f}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        return (
            f'{drawn}<path class="axis" d="M{left:.1f} {TOP}V{BOTTOM}H{RIGHT}"/>'
            f'<text x="{RIGHT}" y="{HEIGHT - 7}" text-anchor="end">{html.escape(self.labels[0])}'
            f'</text><text x="4" y="14">{html.escape(self.labels[1])}</text>'
        )


class Axis:
    """An axis around all values that it must show; ``unit`` maps them into [0, 1]."""

    def __init__(self, values: np.ndarray, scale: str) -> None:
        self.log = scale == "log"
        if not np.isfinite(values).all() or (self.log and values.min() <= 0):
            expected = "positive, finite" if self.log else "finite"
            raise ValueError(f"panel: expected {expected} values on a {scale} axis")
        low, high = self._scaled(np.array([values.min(), values.max()]))
        room = 0.04 * (high - low) or 0.5
        self.low, self.high = low - room, high + room

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        return np.log10(values) if self.log else values

    def unit(self, values: np.ndarray) -> np.ndarray:
        return (self._scaled(values) - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Positions in [0, 1] and their texts."""
        if self.log:
            subs = (1,) if self.high - self.low > 2 else (1, 2, 5)
            values = LogLocator(subs=subs, numticks=6).tick_values(10**self.low, 10**self.high)
        else:
            values = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        places = zip(self.unit(values), values, strict=True)
        return [(unit, number(value)) for unit, value in places if 0 <= unit <= 1]


def number(value: float) -> str:
    """At most five digits, with a true minus and a raised power of ten."""
    mantissa, _, power = f"{value:.5g}".partition("e")
    if power:
        power = "10" + str(int(power)).translate(RAISED)
        mantissa = power if mantissa == "1" else f"{mantissa}·{power}"
    return mantissa.replace("-", "−")


def _draw(curve: Curve, x: np.ndarray, y: np.ndarray, colour: str, dashes: str) -> str:
    """One curve at points of the screen; neighbours that print alike are drawn once."""
    points = [f"{a:.1f} {b:.1f}".replace(".0", "") for a, b in zip(x, y, strict=True)]
    if isinstance(curve, Marker):
        return f'<circle cx="{x[0]:.1f}" cy="{y[0]:.1f}" r="5" fill="{colour}"/>'
    points = [new for old, new in zip([None, *points], points, strict=False) if new != old]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    drawn = f'<path class="line" d="M{" ".join(points)}" stroke="{colour}"{dashed}/>'
    if curve.dots:
        drawn += f'<path class="dots" d="{"".join(f"M{p}h0" for p in points)}" stroke="{colour}"/>'
    return drawn
