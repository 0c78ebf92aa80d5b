"""Chapters as programs: where they are, their profiles, their runs."""
