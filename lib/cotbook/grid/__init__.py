"""Sweeps: one chapter at many values, run by Snakemake, gathered in a table and a page."""

from cotbook.figures import into_files

into_files()
