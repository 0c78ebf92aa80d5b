"""Points that move along straight lines, as a page can show them: inline SVG moved by CSS alone.

Needs no kernel, script or network. A check box, reached by the keyboard, halts the motion; whoever
asks their system for reduced motion sees it halted half-way, with paths drawn, and may start it.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_hex
from numpy.typing import ArrayLike

from cotbook.figures import style

WIDTH, HEIGHT, MARGIN = 330, 230, 26

RULES = """<style>
.cotflow-motion { background: PAPER; color: INK; color-scheme: light; }
.cotflow-motion { padding: .6rem .8rem; border-radius: .4rem; }
.cotflow-motion .panels { display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; }
.cotflow-motion svg { flex: 1 1 17rem; min-width: 0; max-width: 100%; height: auto; }
.cotflow-motion text { fill: INK; font: 12px sans-serif; }
.cotflow-motion label { font-size: .9rem; cursor: pointer; }
.cotflow-motion .start-it { display: none; }
.cotflow-motion .moving { animation: cotflow-motion var(--time) linear infinite alternate; }
.cotflow-motion input:checked ~ .panels .moving { animation-play-state: paused; }
@keyframes cotflow-motion {
  from { transform: translate(0, 0); } to { transform: translate(var(--x), var(--y)); } }
@media (prefers-reduced-motion: reduce) {
  .cotflow-motion .moving {
    animation-play-state: paused; animation-delay: calc(var(--time) / -2); }
  .cotflow-motion input:checked ~ .panels .moving { animation-play-state: running; }
  .cotflow-motion .halt-it { display: none; }
  .cotflow-motion .start-it { display: inline; }
}
</style>""".replace("PAPER", style.PAPER).replace("INK", style.INK)


@dataclass(frozen=True)
class Motion:
    """Point i goes from start[i] to end[i] at constant speed.

    Parameters
    ----------
    start, end : (points, 2), in the coordinates of the axes.
    colours : one a point, as matplotlib names or codes them.
    description : what the picture shows, for those who do not see it.
    """

    title: str
    start: ArrayLike
    end: ArrayLike
    colours: Sequence
    description: str


@dataclass(frozen=True)
class Animation:
    """Motions side by side, on one clock and with the same axes; a cell shows it as its value.

    Parameters
    ----------
    window : ((left, right), (bottom, top)) of every panel.
    seconds : from start to end; the motion then runs back.
    """

    panels: Sequence[Motion]
    window: tuple[tuple[float, float], tuple[float, float]]
    labels: tuple[str, str]
    seconds: float = 5.0

    def __post_init__(self) -> None:
        for panel in self.panels:
            shapes = np.shape(panel.start), np.shape(panel.end)
            if shapes[0] != shapes[1] or shapes[0][1:] != (2,):
                raise ValueError(
                    "animation: expected starts and ends of one shape (points, 2), received "
                    f"{shapes[0]} and {shapes[1]}"
                )
            if len(panel.colours) != shapes[0][0]:
                raise ValueError(
                    f"animation: expected {shapes[0][0]} colours, received {len(panel.colours)}"
                )

    def __repr__(self) -> str:
        return "\n".join(f"{panel.title}: {panel.description}" for panel in self.panels)

    def _repr_html_(self) -> str:
        pictures = "".join(self._picture(panel) for panel in self.panels)
        name = "motion-" + hashlib.sha256(pictures.encode()).hexdigest()[:10]
        return (
            f'{RULES}<div class="cotflow-motion" style="--time: {self.seconds:g}s">'
            f'<input type="checkbox" id="{name}"> <label for="{name}">'
            '<span class="halt-it">halt the motion</span>'
            f'<span class="start-it">start the motion</span></label>'
            f'<div class="panels">{pictures}</div></div>'
        )

    def _screen(self, points: ArrayLike) -> np.ndarray:
        low, high = np.transpose(self.window)
        unit = (np.asarray(points, dtype=float) - low) / (high - low)
        across = MARGIN + unit[:, 0] * (WIDTH - 2 * MARGIN)
        down = HEIGHT - MARGIN - unit[:, 1] * (HEIGHT - 2 * MARGIN)
        return np.stack([across, down], axis=-1)

    def _picture(self, panel: Motion) -> str:
        paths, dots = [], []
        for (x, y), (x1, y1), colour in zip(
            self._screen(panel.start), self._screen(panel.end), panel.colours, strict=True
        ):
            colour = to_hex(colour)
            paths.append(
                f'<path d="M{x:.1f} {y:.1f}L{x1:.1f} {y1:.1f}" stroke="{colour}" opacity=".3"/>'
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" stroke="{colour}" fill="none"/>'
            )
            dots.append(
                f'<circle class="moving" cx="{x:.1f}" cy="{y:.1f}" r="3.4" fill="{colour}" '
                f'style="--x:{x1 - x:.1f}px;--y:{y1 - y:.1f}px"/>'
            )
        base, right = HEIGHT - MARGIN, WIDTH - MARGIN
        across, up = (html.escape(label) for label in self.labels)
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{html.escape(panel.description)}">'
            f'<path d="M{MARGIN} {MARGIN}V{base}H{right}" stroke="{style.INK}" fill="none"/>'
            f'<text x="{MARGIN}" y="14" font-weight="bold">{html.escape(panel.title)}</text>'
            f'<text x="{right}" y="{HEIGHT - 8}" text-anchor="end">{across}</text>'
            f'<text x="6" y="{MARGIN + 10}">{up}</text>'
            f"{''.join(paths)}{''.join(dots)}</svg>"
        )
