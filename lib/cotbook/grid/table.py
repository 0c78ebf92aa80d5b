"""The tidy table of a sweep: a row for each claim of each job."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from cotbook import render
from cotbook.grid.file import Sweep
from cotbook.grid.outcome import Outcome

CLAIM = (
    "name", "provenance", "relation", "predicted", "measured", "low", "high", "interval",
    "tolerance", "verdict",
)  # fmt: skip
CRASHED = "crashed"
# Parameters are told from the columns of a claim, which may have the same name.
PREFIX = "p."


def csv_text(sweep: Sweep, outcomes: Sequence[Outcome]) -> str:
    """The table as CSV: chapter, profile, job, the parameters (swept ones first), the claim.

    Numbers have all their digits and lists are JSON. A text that a spreadsheet would compute has
    an apostrophe before it. A job without a result has one row, whose verdict is "crashed" and
    whose claim is empty.
    """
    stream = io.StringIO()
    names = columns(sweep)
    head = ["chapter", "profile", "job", *(PREFIX + name for name in names), "claim", *CLAIM[1:]]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*head, "library"])
    writer.writerows(_rows(sweep, outcomes, names))
    return stream.getvalue()


def columns(sweep: Sweep) -> list[str]:
    """All parameters of the chapter, those that the sweep sets first."""
    rest = [name for name in sweep.jobs[0].values if name not in sweep.names]
    return [*sweep.names, *rest]


def _rows(sweep: Sweep, outcomes: Sequence[Outcome], names: Sequence[str]) -> Iterator[list[str]]:
    for found in outcomes:
        job = found.job
        values = [_text(job.values[name]) for name in names]
        start = [*map(_text, (sweep.chapter, sweep.profile, job.id)), *values]
        for claim in found.claims or ():
            fields = [_text(getattr(claim, field, "")) for field in CLAIM]
            yield [*start, *fields, _text(claim.library_hash)]
        if found.failure:
            yield [*start, *[""] * (len(CLAIM) - 1), CRASHED, ""]


def _text(value: Any) -> str:
    return render.spreadsheet(json.dumps(value) if isinstance(value, (list, bool)) else value)
