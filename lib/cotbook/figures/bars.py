"""Progress where somebody watches: a terminal or a live notebook, never a stored output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable


def watched() -> bool:
    """Whether a person sees what is printed now.

    A front end in front of a person lets the kernel ask for input; nbclient, papermill, nbval
    and the build of the book do not.
    """
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:
        return bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin", False))
    return sys.stderr.isatty()


def progress(items: Iterable, what: str) -> Iterable:
    """The items, with a bar that is gone when the last one is done."""
    if not watched():
        return items
    from tqdm import tqdm

    return tqdm(items, desc=what, leave=False, file=sys.stderr)


def stepwise(what: str) -> Callable[[int, int], None] | None:
    """The same for work that reports (steps taken, steps in all) by itself."""
    if not watched():
        return None
    from tqdm import tqdm

    bar = tqdm(desc=what, leave=False, file=sys.stderr, unit="step")

    def show(taken: int, steps: int) -> None:
        bar.total = steps
        bar.update(taken - bar.n)
        if taken == steps:
            bar.close()

    return show
