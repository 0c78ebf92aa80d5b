"""A sweep's file: one chapter × a grid of parameters × seeds, and the jobs that it asks for."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cotbook import parameters
from cotbook.errors import BadInput
from cotbook.provenance import chapter_hash, surroundings
from cotbook.run.profiles import values_of
from cotbook.run.text import code_cells
from cotbook.run.tree import Source, chapter

MOST_JOBS = 10_000
_Values = Annotated[list[Any], Field(min_length=1)]


class SweepFile(BaseModel):
    """The entries of the file; the field's descriptions are what an error says was expected."""

    model_config = ConfigDict(strict=True, extra="forbid")

    description: str = Field("", description="a text")
    chapter: str = Field(description="the name of a chapter")
    profile: str = Field("default", description="the name of a profile")
    grid: dict[str, _Values] = Field(
        {}, description="parameters, each with a non-empty list of values"
    )
    seeds: _Values | None = Field(None, description="a non-empty list of seeds")
    cases: list[dict[str, Any]] = Field([], description="a list of cases, each NAME: VALUE")


@dataclass(frozen=True)
class Job:
    """One execution of the chapter.

    Attributes
    ----------
    id : the name of its folder: the swept values, readable, and a digest of all that decides
        the result (values, and the state of the sweep), so that a result found there is never
        of another state.
    swept : the values that this sweep sets.
    given : these and the profile's, which replace the defaults.
    values : the effective values of all parameters.
    edit : an error that is planted for this job alone: the fields of a
        :class:`cotbook.run.edit.Edit`.
    """

    id: str
    root: str
    chapter: str
    swept: dict[str, Any]
    given: dict[str, Any]
    values: dict[str, Any]
    edit: dict[str, Any] | None = None

    def record(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def label(self) -> str:
        return label_of(self.swept) or "as it is"


@dataclass(frozen=True)
class Sweep:
    """A sweep that can be run: its file, what decides its results (:func:`state_of`), and its
    jobs, each with checked values."""

    path: Path
    name: str
    chapter: str
    profile: str
    state: dict[str, Any]
    jobs: tuple[Job, ...]
    names: tuple[str, ...] = ()
    title: str = ""
    description: str = ""


def read(path: Path, root: Path, elsewhere: bool = False) -> Sweep:
    """The sweep in a file, every value checked against the chapter's parameters cell.

    Parameters
    ----------
    path : the file.
    root : the book's folder.
    elsewhere : the jobs run on other machines, whose devices cannot be seen from here.

    Raises
    ------
    BadInput, ParameterError : one sentence a line, each about one entry.
    """
    asked = _parse(path)
    source = chapter(root, asked.chapter)
    base = values_of(root, asked.profile, source.name)
    cells = list(_cells(path, asked, source))
    state = state_of(source)
    jobs = _check(path, source, root, base, cells, state, elsewhere)
    names = tuple(dict.fromkeys(name for job in jobs for name in job.swept))
    return Sweep(
        path=path.resolve(),
        name=path.stem,
        description=asked.description,
        chapter=source.name,
        title=source.title,
        profile=asked.profile,
        names=names,
        state=state,
        jobs=jobs,
    )


def planned(
    name: str,
    source: Source,
    root: Path,
    swept: dict[str, Any],
    given: dict[str, Any],
    state: dict[str, Any],
    edit: dict[str, Any] | None = None,
) -> Job:
    """A job that no file asks for, its values checked."""
    values = parameters.validate(source.parameters, given)
    id = f"{name}-{digest(state, values, edit)}"
    return Job(id, str(root), source.name, swept, {k: values[k] for k in given}, values, edit)


def _parse(path: Path) -> SweepFile:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadInput(f"{path}: expected a YAML file, received bytes that are no text") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"cannot read the sweep file {path}: {reason}") from None
    try:
        content = parameters.load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"{path} is not readable as YAML: {reason}") from None
    if not isinstance(content, dict):
        raise BadInput(
            f"{path}: expected the entries of a sweep, the first of them 'chapter: NAME', "
            f"received {reprlib.repr(content)}"
        )
    try:
        asked = SweepFile.model_validate(content)
    except ValidationError as error:
        lines = dict.fromkeys(_sentence(entry) for entry in error.errors(include_url=False))
        raise BadInput("\n".join(f"{path}: {line}" for line in lines)) from None
    if not asked.grid and not asked.cases and asked.seeds is None:
        raise BadInput(f"{path}: expected a grid, seeds or cases, received none of them")
    return asked


def _sentence(error: Any) -> str:
    """What pydantic found, in the words of this book's other errors."""
    key = str(error["loc"][0]) if error["loc"] else "entries"
    fields = SweepFile.model_fields
    if key not in fields:
        return f"unknown entry {key!r}; {parameters.nearest(key, fields)}"
    expected = fields[key].description
    if error["type"] == "missing":
        return f"{key}: expected {expected}, received nothing"
    parts = [part for part in error["loc"] if part != "[key]"]
    where = ": ".join(str(part) if str(part).isidentifier() else repr(part) for part in parts)
    return f"{where}: expected {expected}, received {reprlib.repr(error['input'])}"


def _cells(path: Path, asked: SweepFile, source: Source) -> Iterator[dict[str, Any]]:
    """The swept values of every job: the grid's product and the cases, each at every seed."""
    seeds: list[dict[str, Any]] = [{}]
    if asked.seeds is not None:
        name = _seed_parameter(path, source)
        if name in asked.grid or any(name in case for case in asked.cases):
            raise BadInput(f"{path}: seeds: {name} is set by the grid or a case as well")
        if name == "seeds" and not all(isinstance(entry, list) for entry in asked.seeds):
            raise BadInput(
                f"{path}: seeds: {source.name} takes several seeds at once: expected lists "
                f"like [[0, 1], [2, 3]], received {reprlib.repr(asked.seeds)}"
            )
        seeds = [{name: entry} for entry in asked.seeds]
    size = math.prod(map(len, asked.grid.values())) if asked.grid or not asked.cases else 0
    count = (size + len(asked.cases)) * len(seeds)
    if count > MOST_JOBS:
        raise BadInput(f"{path}: expected at most {MOST_JOBS} jobs, received {count}")
    grid = itertools.product(*asked.grid.values()) if size else ()
    settings = [dict(zip(asked.grid, point, strict=True)) for point in grid] + asked.cases
    for setting, seed in itertools.product(settings, seeds):
        yield setting | seed


def _seed_parameter(path: Path, source: Source) -> str:
    declared = {parameter.name for parameter in source.parameters}
    for name in ("seed", "seeds"):
        if name in declared:
            return name
    raise BadInput(f"{path}: seeds: {source.name} has no parameter 'seed' or 'seeds'")


def _check(
    path: Path,
    source: Source,
    root: Path,
    base: dict[str, Any],
    cells: Iterable[dict[str, Any]],
    state: dict[str, Any],
    elsewhere: bool,
) -> tuple[Job, ...]:
    """Jobs in the file's order, each once; all problems of all cells in one error."""
    jobs: dict[str, Job] = {}
    problems: dict[str, None] = {}
    for cell in cells:
        given = base | cell
        try:
            values = parameters.validate(source.parameters, given, elsewhere=elsewhere)
        except parameters.ParameterError as error:
            problems |= dict.fromkeys(str(error).splitlines())
            continue
        swept = {name: values[name] for name in cell}
        name = f"{_slug(swept)}-{digest(state, values)}"
        jobs.setdefault(
            name, Job(name, str(root), source.name, swept, {k: values[k] for k in given}, values)
        )
    if problems:
        raise parameters.ParameterError("\n".join(f"{path}: {line}" for line in problems))
    return tuple(jobs.values())


def state_of(source: Source) -> dict[str, Any]:
    """What decides a result besides the values.

    That is the chapter's text, the library with the installed versions, and the variables that
    change roundings: a job has one thread, unless OMP_NUM_THREADS says otherwise.
    """
    code = [cell.source for cell in code_cells(source.text)]
    threads = [] if os.environ.get("OMP_NUM_THREADS") else ["OMP_NUM_THREADS=1"]
    return {
        "chapter": source.name,
        "text": hashlib.sha256(source.path.read_bytes()).hexdigest(),
        "library": chapter_hash(code),
        "surroundings": [*threads, *surroundings()],
    }


def digest(
    state: dict[str, Any], values: dict[str, Any], edit: dict[str, Any] | None = None
) -> str:
    """Twelve hex digits, whatever the order of the values."""
    content = json.dumps([state, values, *([edit] if edit else [])], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def label_of(values: dict[str, Any]) -> str:
    """Parameters as a person would write them."""
    return ", ".join(f"{name} = {_compact(value)}" for name, value in values.items())


def _compact(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_compact, value)) + "]"
    if isinstance(value, str):  # what cannot be printed is spelt out
        return value.encode("utf-8", "backslashreplace").decode()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _slug(swept: dict[str, Any]) -> str:
    shown = ",".join(f"{name}={_compact(value)}" for name, value in swept.items())
    return re.sub(r"[^\w.,=-]+", "_", shown, flags=re.ASCII)[:60].rstrip("._-") or "job"
