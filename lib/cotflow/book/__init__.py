"""What the chapters share besides the mathematics: parameters, claims on a page, figures, runs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cotflow.book.bars import progress
    from cotflow.book.chapter import Chapter

__all__ = ["Chapter", "progress"]


def __getattr__(name: str):
    # Late, because the command line must answer before torch and matplotlib are loaded.
    if name == "Chapter":
        from cotflow.book.chapter import Chapter

        return Chapter
    if name == "progress":
        from cotflow.book.bars import progress

        return progress
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
