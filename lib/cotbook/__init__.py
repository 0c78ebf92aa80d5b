"""What the chapters share besides the mathematics: parameters, claims, figures, runs, the book.

A chapter imports from here; loading is late, since the command line must answer at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cotbook.chapter import Chapter as Chapter
    from cotbook.figures import style as style
    from cotbook.figures.bars import progress as progress

__all__ = ["Chapter", "progress", "style"]


def __getattr__(name: str) -> Any:
    if name == "Chapter":
        return import_module("cotbook.chapter").Chapter
    if name == "progress":
        return import_module("cotbook.figures.bars").progress
    if name == "style":
        return import_module("cotbook.figures.style")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
