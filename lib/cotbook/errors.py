"""Errors that a person can act on: the command prints their sentence and no traceback."""

from __future__ import annotations


class BadInput(ValueError):
    """A request that cannot be met, refused before anything is written: exit code 2."""


class CellFailure(RuntimeError):
    """A chapter stopped before its end: exit code 1."""
