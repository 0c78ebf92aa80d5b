"""The picture that stands beside a shared link: layers of a network as curves that fan out."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cotbook.figures import style

NAME, SIZE = "preview.png", (1200, 630)
ALT = "The title of the book above smooth curves that fan out from zero across the layers."
PAPER = "#fbfaf7"


def draw(folder: Path, title: str) -> None:
    """Write the picture into the folder."""
    with matplotlib.rc_context({"font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=100, facecolor=PAPER)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 0.55))
        axes.axis("off")
        s = np.linspace(0, 1, 200)
        shapes = (np.sin(2.2 * s + 0.3), 0.5 - 1.2 * s**2, -np.cos(3 * s) * s - 0.2)
        for colour, shape in zip((style.BLUE, style.INK, style.ORANGE), shapes, strict=True):
            for time in np.linspace(0.15, 1, 7):
                axes.plot(s, time * shape, color=colour, alpha=0.15 + 0.85 * time, lw=2.6)
        axes.margins(x=0, y=0.08)
        wrapped = textwrap.fill(title, 24)
        figure.text(0.055, 0.92, wrapped, va="top", fontsize=46, color=style.INK, linespacing=1.15)
        line = "A book that measures its own theorems"
        figure.text(0.055, 0.575, line, va="bottom", fontsize=21, color="#4d596b")
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / NAME, dpi=100, facecolor=PAPER)
