"""Figures of the book: one style, sliders, animations, progress."""
