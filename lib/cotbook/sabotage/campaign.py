"""Errors × chapters: a sweep for each chapter, a job for each error whose place it executes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cotbook import records
from cotbook.claims import Entry
from cotbook.grid import engine, outcome
from cotbook.grid.file import Sweep, digest, planned, state_of
from cotbook.provenance import execution_hash
from cotbook.run.profiles import values_of
from cotbook.run.tree import Source
from cotbook.sabotage.catalogue import CATALOGUE, Error
from cotbook.sabotage.reach import Reach, reached, reaches

Echo = Callable[[str], None]
REACH = "reach.json"


@dataclass
class Noticed:
    """What the chapters made of an error.

    Attributes
    ----------
    fails, inconclusive : claims, each as "chapter/claim".
    stopped : chapters that did not reach their end, each with a sentence.
    silent : chapters that executed the place and in which every claim held.
    """

    fails: list[str] = field(default_factory=list)
    inconclusive: list[str] = field(default_factory=list)
    stopped: dict[str, str] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)

    @property
    def caught(self) -> bool:
        return bool(self.fails)

    @property
    def executed(self) -> bool:
        return bool(self.fails or self.inconclusive or self.stopped or self.silent)


def run(
    errors: Sequence[Error],
    sources: Iterable[Source],
    root: Path,
    folder: Path,
    profile: str = "smoke",
    cores: str = "all",
    every: bool = False,
    echo: Echo = print,
) -> dict[str, Noticed]:
    """Plant every error, in the chapters that execute its place, the quickest chapter first.

    Parameters
    ----------
    folder : keeps the results, a folder a chapter; the same call goes on where one was stopped.
    every : also in chapters after the first one in which a claim failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {error.name: Noticed() for error in errors}
    known = _reach(sources, root, folder, profile, echo)
    for source, (reach, _) in sorted(known.items(), key=lambda pair: pair[1][1]):
        planted = [
            error
            for error in errors
            if (every or not found[error.name].caught) and reaches(reach, error.edit, source.name)
        ]
        if planted:
            sweep = _sweep(source, planted, root, profile)
            place = folder / source.name
            for end in engine.run(sweep, place, cores, echo=echo, tables=False):
                _note(found[end.job.swept["error"]], source.name, end, place)
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
            part = path.with_suffix(".part")
            part.write_text(json.dumps(kept), encoding="utf-8")
            os.replace(part, path)
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


def _note(noticed: Noticed, chapter: str, end: outcome.Outcome, folder: Path) -> None:
    claims: tuple[Entry, ...] = end.claims or ()
    if end.failure:
        noticed.stopped[chapter] = end.failure
        try:  # what was measured before it stopped
            claims = records.of_run(folder / outcome.FAILED / end.job.id)
        except records.RecordError:
            claims = ()
    for verdict, names in (("fails", noticed.fails), ("inconclusive", noticed.inconclusive)):
        names += [f"{chapter}/{claim.name}" for claim in claims if claim.verdict == verdict]
    if not (end.failure or any(claim.missed for claim in claims)):
        noticed.silent.append(chapter)


def counted(errors: Sequence[Error], found: dict[str, Noticed]) -> list[Error]:
    """Errors that change numbers, at a place that some chapter executes."""
    return [error for error in errors if found[error.name].executed and not error.equivalent]


def toothless(errors: Sequence[Error], found: dict[str, Noticed]) -> list[Error]:
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


def summary(errors: Sequence[Error], found: dict[str, Noticed]) -> str:
    """How many errors made a claim fail, of how many that some chapter executes."""
    count = len(counted(errors, found))
    caught = count - len(toothless(errors, found))
    return f"errors: {len(errors)}, executed by a chapter: {count}, caught: {caught}"


def write(path: Path, errors: Sequence[Error], found: dict[str, Noticed], profile: str) -> None:
    """The record: every error with what it is and who noticed it."""
    rows = {
        error.name: {
            **{key: value for key, value in asdict(error.edit).items() if value is not None},
            "breaks": error.breaks,
            **({"concerns": list(error.concerns)} if error.concerns else {}),
            **({"equivalent": error.equivalent} if error.equivalent else {}),
            **{key: value for key, value in asdict(found[error.name]).items() if value},
        }
        for error in errors
    }
    content = {"library": execution_hash(), "profile": profile, "errors": rows}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
