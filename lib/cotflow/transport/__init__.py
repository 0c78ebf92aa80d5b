"""Transport distances between layered measures: exact, sliced, entropic; geodesics."""
