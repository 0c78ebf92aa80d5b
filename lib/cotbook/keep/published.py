"""The committed record of runs at the published sizes, the profile ``paper``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotbook import records
from cotbook.claims import Entry
from cotbook.errors import BadInput
from cotbook.parameters import validate
from cotbook.run import tree
from cotbook.run.profiles import values_of
from cotbook.run.system import change

RECORD = Path("book/records/paper.json")
PROFILE = "paper"


@dataclass(frozen=True)
class Published:
    """A chapter's run at the published sizes.

    Attributes
    ----------
    day : when it began, as 2026-01-31.
    parameters : those of the profile.
    """

    chapter: str
    day: str
    seconds: float
    machine: str
    threads: int
    torch: str
    library_hash: str
    parameters: dict[str, Any]
    claims: tuple[Entry, ...]


def read(root: Path) -> dict[str, Published]:
    """What the record holds, by chapter; nothing without a record.

    Raises
    ------
    BadInput : the record is damaged.
    """
    path = root / RECORD
    if not path.exists():
        return {}
    try:
        return {name: _published(name, run) for name, run in records.load(path).items()}
    except (records.RecordError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: expected what `cotflow published` wrote: {error}") from None


def _published(name: str, run: dict[str, Any]) -> Published:
    common = {"chapter": name, "library_hash": run["library_hash"], "executed": run["day"]}
    claims = tuple(records.entry(claim | common) for claim in run["claims"])
    known = {key: run[key] for key in Published.__dataclass_fields__ if key in run}
    return Published(**known | {"chapter": name, "claims": claims})


def add(root: Path, folders: Iterable[Path]) -> list[str]:
    """Put runs into the record, in place of earlier ones of their chapters; their names.

    Raises
    ------
    BadInput : a folder holds no finished run of this profile; then nothing is written.
    """
    found = {}
    for folder in folders:
        try:
            claims = records.of_run(folder)
            execution = records.execution(records.load(folder / records.EXECUTION))
        except records.RecordError as error:
            raise BadInput(f"{folder}: expected the folder of a finished run: {error}") from None
        name = execution.chapter
        given = values_of(root, PROFILE, name)
        values = validate(tree.chapter(root, name).parameters, given)
        for key, value in values.items():
            if (received := execution.parameters.get(key)) != value:
                raise BadInput(
                    f"{folder}: expected a run of {name} with the profile {PROFILE}, {key} = "
                    f"{value}, received {received}"
                )
        found[name] = {
            "day": execution.started[:10],
            "seconds": execution.seconds,
            "machine": execution.machine,
            "threads": execution.threads,
            "torch": execution.versions.get("torch", ""),
            "library_hash": execution.library_hash,
            "parameters": {key: values[key] for key in given},
            "claims": [_short(claim) for claim in claims],
        }
    path = root / RECORD
    kept = records.load(path) if path.exists() else {}
    path.parent.mkdir(exist_ok=True)
    change(path, _text(dict(sorted((kept | found).items()))))
    return list(found)


def _short(claim: Entry) -> dict[str, Any]:
    """Without what all claims of a run share."""
    shared = ("chapter", "library_hash", "executed")
    return {key: value for key, value in claim.to_json().items() if key not in shared}


def _text(content: dict[str, Any]) -> str:
    """JSON with a line for each claim, so that changes are seen line by line."""

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    chapters = []
    for name, run in content.items():
        fields = [f"  {line(key)}: {line(value)}" for key, value in run.items() if key != "claims"]
        claims = ",\n".join(f"   {line(claim)}" for claim in run["claims"])
        fields.append(f'  "claims": [\n{claims}\n  ]')
        chapters.append(f" {line(name)}: {{\n" + ",\n".join(fields) + "\n }")
    return "{\n" + ",\n".join(chapters) + "\n}\n"
