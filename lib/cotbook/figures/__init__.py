"""Figures of the book: one style, sliders, animations, progress."""

import os


def into_files() -> None:
    """Have this process draw into files alone: no window, and no matplotlibrc of anybody's."""
    os.environ.update(MPLBACKEND="agg", MATPLOTLIBRC=os.devnull)
