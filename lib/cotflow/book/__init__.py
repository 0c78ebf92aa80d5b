"""What the chapters share besides the mathematics: parameters, claims on a page, figures, runs."""

from cotflow.book.chapter import Chapter

__all__ = ["Chapter"]
