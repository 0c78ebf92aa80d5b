"""A figure with a slider, as a page can show it: inline SVG, one group of curves for each frame.

Needs no kernel and no network; a short inline script shows the frame that the slider is at. Without
script and on paper a few frames lie one over the other. A cell shows a slider as its value::

    Slider(
        "training time",
        frames=[Frame(f"time {t:g}", f"loss {loss:.2g}") for t, loss in zip(times, losses)],
        panels=[
            Panel(
                "Weights across layers", ("s = k/L", "entry"),
                [Moving("V₁₁", s, V[:, :, 0, 0]), Moving("W₁₁", s, W[:, :, 0, 0], dots=True)],
                "Two entries of the weights over the depth variable; they stay smooth.",
            ),
            Panel(
                "Loss", ("training time t", "loss"),
                [Curve("loss", times, losses), Marker("now", times, losses)],
                "The loss falls by three decades.",
                scales=("linear", "log"),
            ),
        ],
    )

with times and losses of shape (frames,), s of shape (L,), V and W of shape (frames, L, rows,
columns). Arrays are numpy's, or torch's on the CPU without gradients.
"""

from __future__ import annotations

import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Template

from matplotlib.figure import Figure

from cotbook.figures import style
from cotbook.figures.svg import Curve, Marker, Moving, Panel

__all__ = ["Curve", "Frame", "Marker", "Moving", "Panel", "Slider"]

LARGEST = 1_000_000  # bytes of one figure
TEMPLATE = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Frame:
    """What a position of the slider is called, e.g. "depth 64", and a few words with its number."""

    name: str
    number: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.number}" if self.number else self.name


@dataclass(frozen=True)
class Slider:
    """Panels side by side whose moving curves and markers follow one slider; axes never change.

    Parameters
    ----------
    label : what the slider sets.
    start : index of the frame that is shown first.
    """

    label: str
    frames: Sequence[Frame]
    panels: Sequence[Panel]
    start: int = 0

    def __post_init__(self) -> None:
        if not self.frames or not self.panels:
            raise ValueError("slider: expected at least one frame and one panel")
        if not 0 <= self.start < len(self.frames):
            raise ValueError(
                f"slider: expected start from 0 to {len(self.frames) - 1}, received {self.start}"
            )
        size = len(self.page.encode())
        if size > LARGEST:
            raise ValueError(
                f"slider: expected at most {LARGEST} bytes, received {size}: use fewer frames, "
                "curves or points"
            )

    def __repr__(self) -> str:
        panels = [f"{panel.title}: {panel.description}" for panel in self.panels]
        return "\n".join([*panels, f"{self.label}: {'; '.join(map(str, self.frames))}"])

    @property
    def kept(self) -> dict[int, float]:
        """Opacity of the frames that a still picture shows: the first, a middle one, the last."""
        few = sorted({0, (len(self.frames) - 1) // 2, len(self.frames) - 1})
        return dict(zip(few, (0.3, 0.6, 1.0)[-len(few) :], strict=True))

    @cached_property
    def page(self) -> str:
        """Style, control, panels and script."""
        stills = "; ".join(str(self.frames[i]) for i in self.kept)
        texts = {
            "frames": json.dumps([[f.name, f.number] for f in self.frames], ensure_ascii=False),
            "label": self.label,
            "name": self.frames[self.start].name,
            "number": self.frames[self.start].number,
            "stills": f"From faint to full: {stills}." if len(self.kept) > 1 else stills,
        }
        return TEMPLATE.substitute(
            {key: html.escape(text) for key, text in texts.items()},
            last=len(self.frames) - 1,
            start=self.start,
            panels="".join(panel.page(len(self.frames), self.kept) for panel in self.panels),
            paper=style.PAPER,
            ink=style.INK,
            accent=style.BLUE,
        )

    def _repr_html_(self) -> str:
        return self.page

    def _repr_png_(self) -> bytes:
        """The kept frames one over the other, where neither script nor SVG can be shown."""
        count = len(self.panels)
        figure = Figure(figsize=(4.1 * count, 3.3), layout="constrained")
        for ax, panel in zip(figure.subplots(1, count, squeeze=False)[0], self.panels, strict=True):
            across, up = panel.labels
            ax.set(title=panel.title, xlabel=across, ylabel=up)
            ax.set(xscale=panel.scales[0], yscale=panel.scales[1])
            for curve, colour, dashes in panel.styled():
                look = {"c": colour, "ls": (0, [float(d) for d in dashes.split()] or None)}
                if isinstance(curve, Marker):
                    look |= {"marker": "o", "ms": 7, "ls": ""}
                elif curve.dots:
                    look |= {"marker": "o", "ms": 3}
                for i, opacity in self.kept.items() if isinstance(curve, Moving) else [(0, 1.0)]:
                    x, y = curve.at(i, len(self.frames)).T
                    ax.plot(
                        x, y, label=curve.label if opacity == 1 else None, alpha=opacity, **look
                    )
            ax.legend()
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        return picture.getvalue()
