"""Bounds of both papers and of the companion, from norms and constants of a state."""
