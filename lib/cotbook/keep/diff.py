"""What differs between two ledgers: a chapter, a claim, a number in its last bit, a verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cotbook.errors import BadInput
from cotbook.records import RecordError, ledger_content

# Another execution of the same sources has others of these.
PASSING = {
    *("library_hash", "source_hash", "executed", "started", "seconds", "machine", "versions"),
}
NUMBERS = {"predicted", "measured", "low", "high", "tolerance"}


def differences(old: Path, new: Path) -> Iterator[str]:
    """A line for each difference: chapter, claim, field, the old value and the new one.

    Chapters and claims are found by their names, whatever their order. Numbers are equal if all
    their bits are. Hashes, dates, durations, machines and versions are passed over.

    Raises
    ------
    BadInput : a file is no ledger.
    """
    try:
        before, after = ledger_content(old), ledger_content(new)
    except RecordError as error:
        raise BadInput(f"expected a ledger.json of a built book: {error}") from None
    ours, theirs = (_named(content["chapters"], "chapter") for content in (before, after))
    for name, chapter, other in _pairs(ours, theirs):
        if chapter is None or other is None:
            yield f"{name}: only in {new if chapter is None else old}"
            continue
        claims = [_named(found.pop("claims"), "name") for found in (chapter, other)]
        yield from _fields(name, chapter, other)
        for claim, mine, its in _pairs(*claims):
            if mine is None or its is None:
                yield f"{name}, {claim}: only in {new if mine is None else old}"
            else:
                yield from _fields(f"{name}, {claim}", mine, its)


def _fields(where: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for key, before, after in _pairs(old, new):
        if key in PASSING:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _fields(f"{where}, {key}", before, after)
        elif (shown := _text(key, before)) != (instead := _text(key, after)):
            yield f"{where}, {key}: {shown} → {instead}"


def _text(key: str, value: Any) -> str:
    """All digits of numbers, so that equal texts are equal bits."""
    if key in NUMBERS and isinstance(value, (int, float, str)):
        try:
            return repr(float(value))
        except ValueError:
            pass
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _named(records: list[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    return {record[key]: record for record in records}


def _pairs(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What stands under each key in both; None where it is missing."""
    for key in dict.fromkeys([*old, *new]):
        yield key, old.get(key), new.get(key)
