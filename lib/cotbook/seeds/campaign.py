"""Chapters × repetitions: a sweep for each chapter, a job for each shift of all its seeds.

Repetition 1 of every chapter comes first, then repetition 2 of every one, and so on, so that a
campaign that is stopped has asked all chapters about equally often.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cotbook import render
from cotbook.errors import BadInput
from cotbook.grid import engine, outcome
from cotbook.grid.file import Sweep, planned, state_of
from cotbook.parameters import validate
from cotbook.run.profiles import values_of
from cotbook.run.tree import Source
from cotbook.seeds.record import Row, begun, seeds, share, totals

Echo = Callable[[str], None]
# Chapters add up to 4000 to a seed themselves: repetitions share none.
SHIFT = 10_000


def run(
    sources: Iterable[Source],
    root: Path,
    folder: Path,
    repetitions: Sequence[int],
    profile: str = "default",
    cores: int | None = None,
    retry: bool = False,
    gather: bool = False,
    known: Mapping[str, Row] | None = None,
    save: Callable[[dict[str, Row]], None] = lambda rows: None,
    echo: Echo = print,
) -> tuple[dict[str, Row], bool]:
    """Execute every chapter at the seeds of each repetition.

    Parameters
    ----------
    folder : keeps the results, a folder a chapter; the same call goes on where one was stopped.
    cores : jobs at once, which are repetitions of one chapter; all cores by default.
    retry : also what crashed before.
    gather : execute nothing, look at what the folder holds.
    known : rows of earlier runs, which count and are not run again where nothing has changed.
    save : receives all rows whenever there is something new.

    Returns
    -------
    The chapters' rows, and whether every repetition reached its end.
    """
    rows, sweeps = {}, {}
    for source in sources:
        name, row = source.name, begun(source, root, profile)
        before = (known or {}).get(name)
        if before and before.same(row):
            row = before.model_copy(deep=True)
        elif before and before.told:
            echo(f"{name}: the record is of another version, and begins anew with the first run")
        rows[name] = row
        if row.fixed:
            echo(f"{name}: {row.fixed}")
        else:
            shifts = [SHIFT * number for number in repetitions]
            new = [shift for shift in shifts if shift not in row.shifts]
            sweeps[name] = _sweep(source, root, profile, new)
    for batch in _batches(repetitions, cores or os.cpu_count() or 1):
        for name, sweep in sweeps.items():
            jobs = tuple(job for job in sweep.jobs if job.swept["shift"] in batch)
            if not jobs:
                continue
            part, place = replace(sweep, jobs=jobs), folder / name
            if gather:
                ends = [outcome.read(place, job) for job in jobs]
            else:
                ends = engine.run(part, place, str(cores or "all"), retry, echo=echo, tables=False)
            if _note(rows[name], ends, place):
                save(rows)
    wanted = ((rows[name].shifts, job) for name, sweep in sweeps.items() for job in sweep.jobs)
    return rows, all(job.swept["shift"] in shifts for shifts, job in wanted)


def _batches(repetitions: Sequence[int], size: int) -> Iterator[list[int]]:
    """The shifts of as many repetitions as run at once."""
    for first in range(0, len(repetitions), size):
        yield [SHIFT * number for number in repetitions[first : first + size]]


def _sweep(source: Source, root: Path, profile: str, shifts: Iterable[int]) -> Sweep:
    given, state = values_of(root, profile, source.name), state_of(source)
    values = validate(source.parameters, given)
    jobs = []
    for shift in shifts:
        drawn = {
            name: shifted(f"{source.name}: {name}", v, shift) for name, v in seeds(values).items()
        }
        swept = {"shift": shift}
        jobs.append(planned(f"shift-{shift}", source, root, swept, given | drawn, state))
    return Sweep(
        path=(root / "_toc.yml").resolve(),
        name="reseed",
        chapter=source.name,
        profile=profile,
        state=state,
        jobs=tuple(jobs),
    )


def shifted(name: str, value: Any, by: int) -> Any:
    """A seed, or a list of them, with ``by`` added to each."""
    if isinstance(value, list):
        return [shifted(name, entry, by) for entry in value]
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadInput(f"{name}: expected whole numbers to seed with, received {value!r}")
    return value + by


def _note(row: Row, ends: Iterable[outcome.Outcome], folder: Path) -> bool:
    """Whether there is something new."""
    new = False
    for end in ends:
        if end.claims is not None:
            row.add(end.job.swept["shift"], end.claims)
        elif end.failure and outcome.failed(folder, end.job.id):
            row.stopped[end.job.swept["shift"]] = end.failure
        else:
            continue
        new = True
    return new


def kept(known: Mapping[str, Row], rows: Mapping[str, Row]) -> dict[str, Row]:
    """The rows of a record with those of a campaign in their place, as far as it found anything."""
    return {**known, **{name: row for name, row in rows.items() if row.told}}


def report(rows: Mapping[str, Row]) -> Iterator[str]:
    """A line a chapter, the claims that missed with their numbers, and the shares of all."""
    for name, row in rows.items():
        if row.fixed:
            yield f"{name}: {row.fixed}"
            continue
        fails, open_ = row.count("fails"), row.count("inconclusive")
        found = f"fail: {fails}, inconclusive: {open_}" if row.missed else "all hold"
        counted = f"runs: {len(row.shifts)}, claims: {row.claims}, {found}"
        yield f"{name}: {counted if row.shifts else 'no run'}"
        for claim, misses in row.missed.items():
            yield f"  {claim}: does not hold in {len(misses)} of {len(row.shifts)}"
            for miss in sorted(misses, key=lambda miss: miss.shift):
                numbers = render.plain([*miss.found(), ", expected ", *miss.allowed()])
                yield f"    seeds + {miss.shift}: {miss.verdict}: {numbers}"
        for shift, reason in row.stopped.items():
            yield f"  seeds + {shift}: {reason}"
    runs, verdicts, fails, open_ = totals(rows.values())
    yield (
        f"runs: {runs}, verdicts: {verdicts}, fail: {share(fails, verdicts)}, "
        f"inconclusive: {share(open_, verdicts)}"
    )
