"""Errors × chapters: a sweep for each chapter, a job for each error whose place it executes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from cotbook import records
from cotbook.claims import Entry
from cotbook.errors import Unfinished
from cotbook.grid import engine, outcome
from cotbook.grid.file import Sweep, digest, planned, state_of
from cotbook.run.profiles import values_of
from cotbook.run.system import change
from cotbook.run.tree import Source, chapters
from cotbook.sabotage.catalogue import CATALOGUE, Error
from cotbook.sabotage.reach import Reach, reached, reaches
from cotbook.sabotage.record import Noticed, Record, Tried, current, state

Echo = Callable[[str], None]
REACH = "reach.json"


def run(
    errors: Sequence[Error],
    sources: Iterable[Source],
    root: Path,
    folder: Path,
    profile: str = "smoke",
    cores: str = "all",
    every: bool = False,
    echo: Echo = print,
    known: Record | None = None,
    keep: Callable[[Record], None] = lambda found: None,
) -> Record:
    """Plant every error, in the chapters that execute its place, the quickest chapter first.

    Parameters
    ----------
    folder : keeps the results, a folder a chapter; the same call goes on where one was stopped.
    every : also in chapters after the first one in which a claim failed.
    known : results of before; those of this state of edit, library and chapter stay.
    keep : receives what is known after each chapter.

    Raises
    ------
    Unfinished : jobs left no result; what the others left is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found, lost = {error.name: Noticed() for error in errors}, list[str]()
    if known:
        book = chapters(root)
        for error in errors:
            old = known.get(error.name, Noticed()).tried
            found[error.name].tried += [each for each in old if current(each, error, book, root)]
    if not (every or any(not each.caught for each in found.values())):
        return found
    executed = _reach(sources, root, folder, profile, echo)
    for source, (reach, _) in sorted(executed.items(), key=lambda pair: pair[1][1]):
        planted = [
            error
            for error in errors
            if (every or not found[error.name].caught)
            and reaches(reach, error.edit, source.name)
            and not any(
                (each.chapter, each.profile) == (source.name, profile)
                for each in found[error.name].tried
            )
        ]
        if planted:
            sweep = _sweep(source, planted, root, profile)
            place = folder / source.name
            for end in engine.run(sweep, place, cores, echo=echo, tables=False):
                error = next(each for each in planted if each.name == end.job.swept["error"])
                if end.finished or outcome.failed(place, end.job.id):
                    of_now = state(error.edit, source, root, profile)
                    found[error.name].tried.append(_tried(profile, of_now, end, place))
                else:
                    lost.append(f"{source.name}, {error.name}: {end.failure}")
            keep(found)
    if lost:
        raise Unfinished("\n".join([*lost, "the same command tries them again"]))
    return found


def _reach(
    sources: Iterable[Source], root: Path, folder: Path, profile: str, echo: Echo
) -> dict[Source, tuple[Reach, float]]:
    """What each chapter executes, kept in the folder as long as nothing changes."""
    path = folder / REACH
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kept = {}
    known = {}
    for source in sources:
        state = digest(state_of(source), {"profile": profile})
        if state not in kept:
            echo(f"{source.name}: looking at what it executes")
            kept[state] = reached(source, values_of(root, profile, source.name))
            change(path, json.dumps(kept))
        reach, seconds = kept[state]
        known[source] = (reach, seconds)
    return known


def _sweep(source: Source, errors: Sequence[Error], root: Path, profile: str) -> Sweep:
    given, state = values_of(root, profile, source.name), state_of(source)
    jobs = (
        planned(e.name, source, root, {"error": e.name}, given, state, asdict(e.edit))
        for e in errors
    )
    return Sweep(
        path=(root / CATALOGUE).resolve(),
        name="sabotage",
        chapter=source.name,
        profile=profile,
        state=state,
        jobs=tuple(jobs),
    )


def _tried(profile: str, state: str, end: outcome.Outcome, folder: Path) -> Tried:
    claims: tuple[Entry, ...] = end.claims or ()
    if end.failure:
        try:  # what was measured before it stopped
            claims = records.of_run(folder / outcome.FAILED / end.job.id)
        except records.RecordError:
            claims = ()
    named = {
        verdict: tuple(claim.name for claim in claims if claim.verdict == verdict)
        for verdict in ("fails", "inconclusive")
    }
    return Tried(end.job.chapter, profile, state, **named, stopped=end.failure or "")


def counted(errors: Sequence[Error], found: Record) -> list[Error]:
    """Errors that make something wrong, at a place that some chapter executes."""
    return [error for error in errors if found[error.name].executed and not error.equivalent]


def toothless(errors: Sequence[Error], found: Record) -> list[Error]:
    """Those that count and fail no claim."""
    return [error for error in counted(errors, found) if not found[error.name].caught]


def line(error: Error, noticed: Noticed) -> str:
    """One error and what became of it."""
    if noticed.caught:
        said = f"caught by {', '.join(noticed.fails)}"
    elif noticed.inconclusive:
        said = f"inconclusive: {', '.join(noticed.inconclusive)}"
    elif noticed.stopped:
        said = f"stopped {', '.join(noticed.stopped)}"
    elif noticed.silent:
        said = f"unnoticed by {', '.join(noticed.silent)}"
    else:
        said = "no chapter executes it"
    return f"{error.name}: {said}" + (f" (equivalent: {error.equivalent})" * bool(error.equivalent))


def summary(errors: Sequence[Error], found: Record) -> str:
    """How many errors made a claim fail, of how many that some chapter executes."""
    count = len(counted(errors, found))
    caught = count - len(toothless(errors, found))
    return f"errors: {len(errors)}, executed by a chapter: {count}, caught: {caught}"
