"""Sphinx extensions of the book."""

from cotbook.figures import into_files

into_files()
