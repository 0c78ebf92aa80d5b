"""One look for all figures: opaque ground for light and dark pages, colour-blind safe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator

INK = "#1b2330"
PAPER = "#fbfaf7"
# Okabe and Ito's palette without its yellow, which is too light on paper.
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#AA4499",
    "#3A9BD1",
    "#882255",
)
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
# What lies on, beside or under the colours of the cycle.
DARK_GREEN, GREY, BLUE_TINT, ORANGE_TINT = "#006b4f", "#6b7280", "#dfe9f3", "#f7e4d8"
SEQUENTIAL = "viridis"
DIVERGING = "RdBu"


def use() -> None:
    """Set matplotlib's defaults for the book, whatever a matplotlibrc or MPLBACKEND say.

    In a kernel figures become pictures of the page; elsewhere the backend stays as it is.
    """
    mpl.rcdefaults()
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    if hasattr(shell, "kernel"):
        shell.enable_matplotlib("inline")
    mpl.rcParams.update(
        {
            "figure.facecolor": PAPER,
            "axes.facecolor": PAPER,
            "savefig.facecolor": PAPER,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.prop_cycle": mpl.cycler(color=CYCLE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#d9d6cf",
            "grid.linewidth": 0.6,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.labelsize": 10,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
            "figure.dpi": 110,
            "savefig.dpi": 160,
            "figure.constrained_layout.use": True,
        }
    )


def power_law(ax: Any, x: float, y: float, to: float, slope: float, label: str) -> None:
    """A dashed guide y·(·/x)^slope from x to ``to`` with its label at the far end."""
    end = y * (to / x) ** slope
    ax.plot([x, to], [y, end], ls="--", lw=1.2, color=INK, alpha=0.7)
    ax.annotate(
        label, (to, end), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
    )


def label_sizes(ax: Any, at: Sequence[float], labels: Sequence[int] | None = None) -> None:
    """Ticks of the horizontal axis at the sizes that were run, and nowhere else."""
    ax.set_xticks(at, [str(label) for label in labels or at])
    ax.xaxis.set_minor_locator(NullLocator())


def shades(count: int) -> list:
    """``count`` colours along the sequential map, dark to light, for ordered families of curves."""
    return [plt.get_cmap(SEQUENTIAL)(0.88 * i / max(count - 1, 1)) for i in range(count)]
