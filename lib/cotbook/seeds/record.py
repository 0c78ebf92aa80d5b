"""The record of runs at other seeds: one line a chapter, and only what did not hold in numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cotbook import render
from cotbook.claims import Claim, Entry, Relation, Verdict
from cotbook.errors import BadInput
from cotbook.grid.file import digest, state_of
from cotbook.parameters import validate
from cotbook.run.profiles import values_of
from cotbook.run.system import change
from cotbook.run.text import code_cells
from cotbook.run.tree import Source

RECORD = Path("book/records/reseed.json")
# Names of parameters that are seeds, and of what draws
SEED = re.compile(r"(.+_)?seeds?")
DRAWS = re.compile(r"\b(manual_seed|Generator|default_rng|qmc|rand(n|int|perm|om)?)\b")


class Miss(BaseModel):
    """A claim that did not hold, in one run."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    shift: int
    verdict: Verdict
    relation: Relation
    predicted: float
    tolerance: float
    measured: float
    low: float
    high: float

    @property
    def excess(self) -> float:
        """How far the interval reaches beyond what is allowed."""
        above, below = self.high - self.predicted, self.predicted - self.low
        away = {"equals": max(above, below), "at most": above, "at least": below}[self.relation]
        return math.inf if math.isnan(away) else away - self.tolerance

    def allowed(self) -> list[render.Piece]:
        shown = [f"{render.SIGNS[self.relation]} ", render.number(self.predicted)]
        return [*shown, " ± ", render.number(self.tolerance)] if self.tolerance else shown

    def found(self) -> list[render.Piece]:
        shown: list[render.Piece] = [render.number(self.measured)]
        if self.low < self.high:
            shown += [" [", render.number(self.low), ", ", render.number(self.high), "]"]
        return shown


class Row(BaseModel):
    """What became of one chapter at other seeds.

    Attributes
    ----------
    library, source : hashes of what ran: the library with the installed versions, and the
        chapter's cells with the profile's values.
    shifts : what was added to every seed, one entry a run.
    claims, verdicts : claims of the chapter, and verdicts of all runs.
    missed : by claim, the runs in which it did not hold.
    stopped : by shift, why a run did not reach the chapter's end.
    fixed : why there is nothing to draw anew.
    """

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    profile: str
    library: str
    source: str
    shifts: list[int] = []
    claims: int = Field(0, ge=0)
    verdicts: int = Field(0, ge=0)
    missed: dict[str, list[Miss]] = {}
    stopped: dict[int, str] = {}
    fixed: str = ""

    @property
    def told(self) -> bool:
        """Whether there is anything to keep."""
        return bool(self.shifts or self.stopped or self.fixed)

    def count(self, verdict: Verdict) -> int:
        return sum(miss.verdict == verdict for misses in self.missed.values() for miss in misses)

    def same(self, other: Row) -> bool:
        """Whether runs of both belong together."""
        fields = ("profile", "library", "source")
        return all(getattr(self, name) == getattr(other, name) for name in fields)

    def add(self, shift: int, entries: Iterable[Entry]) -> None:
        """One run more, which reached its end."""
        claims = [entry for entry in entries if isinstance(entry, Claim)]
        self.stopped.pop(shift, None)
        self.shifts = sorted({*self.shifts, shift})
        self.claims = max(self.claims, len(claims))
        self.verdicts += len(claims)
        numbers = ("predicted", "tolerance", "measured", "low", "high")
        for claim in claims:
            if claim.missed:
                values: dict[str, Any] = {name: getattr(claim, name) for name in numbers}
                miss = Miss(shift=shift, verdict=claim.verdict, relation=claim.relation, **values)
                self.missed.setdefault(claim.name, []).append(miss)


def begun(source: Source, root: Path, profile: str) -> Row:
    """The row of a chapter as it is now, without a run."""
    values = validate(source.parameters, values_of(root, profile, source.name))
    cells = [cell.source for cell in code_cells(source.text)]
    fixed = ""
    if not seeds(values):
        drawn = any(DRAWS.search(cell) for cell in cells)
        fixed = "its draws are fixed" if drawn else "draws nothing by a seed"
    return Row(
        profile=profile,
        library=state_of(source)["library"],
        source=digest({"cells": cells}, values),
        fixed=fixed,
    )


def seeds(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a chapter's values that are seeds."""
    return {name: value for name, value in values.items() if SEED.fullmatch(name)}


def read(path: Path, profile: str | None = None) -> dict[str, Row]:
    """The rows by chapter; none if there is no such file.

    Raises
    ------
    BadInput : the file is something else, is of another profile, or cannot be there.
    """
    if not path.absolute().parent.is_dir():
        raise BadInput(f"expected a file in an existing folder, received {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"cannot read {path}: {reason}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path}: expected a record of runs at other seeds, one entry a chapter")
    rows = {}
    for name, row in content.items():
        try:
            rows[name] = Row.model_validate(row)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ": ".join(map(str, (name, *first["loc"])))
            raise BadInput(f"{path}: {where}: {first['msg']}") from None
        if profile not in (None, rows[name].profile):
            raise BadInput(
                f"{path}: expected runs of the profile {profile}, received {rows[name].profile}"
            )
    return rows


def write(path: Path, rows: Mapping[str, Row]) -> None:
    """One line a chapter."""
    lines = (
        f"{json.dumps(name)}: {row.model_dump_json(exclude_defaults=True)}"
        for name, row in rows.items()
    )
    change(path, "{\n" + ",\n".join(lines) + "\n}\n")


def totals(rows: Iterable[Row]) -> tuple[int, int, int, int]:
    """Runs, verdicts, those that fail, those that are inconclusive."""
    rows = list(rows)
    runs, verdicts = sum(len(row.shifts) for row in rows), sum(row.verdicts for row in rows)
    fails, open_ = (
        sum(row.count(verdict) for row in rows) for verdict in ("fails", "inconclusive")
    )
    return runs, verdicts, fails, open_


def share(count: int, of: int) -> str:
    """A count with its share in per cent."""
    return f"{count} ({100 * count / of:.3g} %)" if count else "0"
