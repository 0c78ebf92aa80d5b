"""Benchmarks of one training step, and the record that the book shows."""
