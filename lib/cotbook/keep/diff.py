"""What differs between two ledgers: a chapter, a claim, a number in its last bit, a verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotbook.errors import BadInput
from cotbook.records import CLAIMS, EXECUTION, LEDGER, RecordError, ledger_content, load, of_run

# Another execution of the same sources has others of these.
PASSING = {
    *("library_hash", "source_hash", "executed", "started", "seconds", "machine", "versions"),
}
NUMBERS = {"predicted", "measured", "low", "high", "tolerance"}
ABSENT = "only in"

Content = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """One line: where, and what changed there.

    Attributes
    ----------
    verdict : whether it is a verdict, or a claim that only one of both ledgers has.
    tolerances : of a measured number, how far it moved in units of its claim's tolerance; None
        where that is zero.
    """

    where: str
    change: str
    verdict: bool = False
    tolerances: float | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.change}"


def differences(old: Path, new: Path) -> Iterator[Difference]:
    """Between two ledgers, each the file ledger.json or the folder of a built book or of a run.

    Chapters and claims are found by their names, whatever their order. Numbers are equal if all
    their bits are. Hashes, dates, durations, machines and versions are passed over. Beside the
    folder of a run the other ledger counts for that chapter alone.

    Raises
    ------
    BadInput : a path holds no ledger.
    """
    try:
        before, after = _chapters(old), _chapters(new)
    except RecordError as error:
        raise BadInput(
            f"expected a ledger.json of a built book, or the folder of a run: {error}"
        ) from None
    single = [set(found) for found, path in ((before, old), (after, new)) if _is_run(path)]
    for name, chapter, other in _pairs(before, after):
        if any(name not in chosen for chosen in single):
            continue
        if chapter is None or other is None:
            yield Difference(name, f"{ABSENT} {new if chapter is None else old}", verdict=True)
            continue
        mine, its = (_named(content.pop("claims"), "name") for content in (chapter, other))
        yield from _fields(name, chapter, other, single=bool(single))
        for claim, record, again in _pairs(mine, its):
            where = f"{name}, {claim}"
            if record is None or again is None:
                yield Difference(where, f"{ABSENT} {new if record is None else old}", verdict=True)
            else:
                yield from _fields(where, record, again, single=bool(single))


def summary(found: list[Difference]) -> str:
    """How many numbers moved, the farthest of them, and how many verdicts are others now."""
    moved = [each for each in found if each.tolerances is not None]
    said = f"measured numbers that moved: {len(moved)}"
    if moved:
        farthest = max(moved, key=lambda each: each.tolerances or 0.0)
        said += f", at most by {farthest.tolerances:.2g} tolerances ({farthest.where})"
    return f"{said}; verdicts that changed, came or went: {sum(each.verdict for each in found)}"


def _is_run(path: Path) -> bool:
    return (path / CLAIMS).exists()


def _chapters(path: Path) -> dict[str, Content]:
    """Plain data of each chapter, by its name without folders."""
    if _is_run(path):
        claims = [entry.to_json() for entry in of_run(path)]
        execution = load(path / EXECUTION) if (path / EXECUTION).exists() else {}
        name = claims[0]["chapter"] if claims else execution.get("chapter", path.name)
        chapters = [{"chapter": name, "claims": claims, "execution": execution}]
    else:
        chapters = ledger_content(path / LEDGER if path.is_dir() else path)["chapters"]
    return {
        name.rpartition("/")[2]: content for name, content in _named(chapters, "chapter").items()
    }


def _fields(where: str, old: Content, new: Content, *, single: bool) -> Iterator[Difference]:
    for key, before, after in _pairs(old, new):
        if key in PASSING or (single and key in ("page", "title", "chapter")):
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _fields(f"{where}, {key}", before, after, single=single)
        elif (shown := _text(key, before)) != (instead := _text(key, after)):
            tolerances, units = _distance(key, old, new)
            change = f"{shown} → {instead}{units}"
            yield Difference(f"{where}, {key}", change, key == "verdict", tolerances)


def _distance(key: str, old: Content, new: Content) -> tuple[float | None, str]:
    """How far a measured number moved, in units of the tolerance and of half the interval."""
    if key not in ("measured", "low", "high"):
        return None, ""
    try:
        way = abs(float(new[key]) - float(old[key]))
        tolerance, half = float(old["tolerance"]), (float(old["high"]) - float(old["low"])) / 2
    except (KeyError, TypeError, ValueError):
        return None, ""
    tolerances = way / tolerance if tolerance > 0 else None
    said = [] if tolerances is None else [f"{tolerances:.2g} tolerances"]
    if half > 0:
        said.append(f"{way / half:.2g} half intervals")
    return tolerances, f" ({', '.join(said)})" if said else ""


def _text(key: str, value: Any) -> str:
    """All digits of numbers, so that equal texts are equal bits."""
    if key in NUMBERS and isinstance(value, (int, float, str)):
        try:
            return repr(float(value))
        except ValueError:
            pass
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _named(records: list[Content], key: str) -> dict[str, Content]:
    return {record[key]: record for record in records}


def _pairs(old: Content, new: Content) -> Iterator[tuple[str, Any, Any]]:
    """What stands under each key in both; None where it is missing."""
    for key in dict.fromkeys([*old, *new]):
        yield key, old.get(key), new.get(key)
