"""Distances between layered measures, and the geodesics of the conditional one."""
