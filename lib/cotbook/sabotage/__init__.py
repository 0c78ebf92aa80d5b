"""Planted errors: which claims of the book notice which."""
