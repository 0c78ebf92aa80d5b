"""The catalogue of errors: those written by hand, in ``book/sabotage/errors.yml``, and by rule."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cotbook.errors import BadInput
from cotbook.parameters import load_yaml, nearest
from cotbook.run.edit import Edit
from cotbook.sabotage.mutants import mutants

CATALOGUE = Path("book/sabotage/errors.yml")
_Text = Annotated[str, Field(min_length=1)]


class Written(BaseModel):
    """An error written by hand: the place, the edit, what it breaks, the statements it concerns."""

    model_config = ConfigDict(strict=True, extra="forbid")

    place: _Text
    old: _Text
    new: str
    breaks: _Text
    concerns: list[str] = []


class File(BaseModel):
    """The catalogue's file; ``equivalent`` are errors with which all stays true, each with why."""

    model_config = ConfigDict(strict=True, extra="forbid")

    errors: dict[str, Written] = {}
    equivalent: dict[str, str] = {}


@dataclass(frozen=True)
class Error:
    """An error that can be planted.

    Attributes
    ----------
    breaks : what is wrong then, in words; of an error made by rule, its kind.
    concerns : labels of statements.
    equivalent : why every statement stays true, if that is so.
    """

    name: str
    edit: Edit
    breaks: str
    concerns: tuple[str, ...] = ()
    equivalent: str = ""


def read(root: Path, generated: int = 0, seed: int = 0, named: Iterable[str] = ()) -> list[Error]:
    """The errors written by hand, each checked against its source, and so many made by rule.

    Parameters
    ----------
    named : names of errors made by rule that are wanted too, as far as there are such.

    Raises
    ------
    BadInput : the catalogue is damaged, or an edit does not fit its source any more.
    """
    path = root / CATALOGUE
    try:
        file = File.model_validate(load_yaml(path.read_text(encoding="utf-8")) or {})
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise BadInput(f"{path}: {' '.join(str(error).split())}") from None
    found = []
    for name, each in file.errors.items():
        edit = Edit(each.place, each.old, each.new)
        try:
            edit.applied((root / each.place).read_text(encoding="utf-8"))
        except OSError as error:
            raise BadInput(f"{path}: {name}: {each.place}: {error.strerror}") from None
        except BadInput as error:
            raise BadInput(f"{path}: {name}: {error}") from None
        found.append(
            Error(name, edit, each.breaks, tuple(each.concerns), file.equivalent.get(name, ""))
        )
    made = mutants()
    chosen = random.Random(seed).sample(sorted(made), min(generated, len(made)))
    for name in sorted({*chosen, *set(named).intersection(made)}):
        kind = name.rpartition("-")[2]
        found.append(Error(name, made[name], kind, (), file.equivalent.get(name, "")))
    return found


def choose(errors: list[Error], names: Sequence[str]) -> list[Error]:
    """Those of these names, or all.

    Raises
    ------
    BadInput : there is none of such a name.
    """
    known = {error.name: error for error in errors}
    for name in names:
        if name not in known:
            raise BadInput(f"unknown error {name!r}; {nearest(name, known)}")
    return [known[name] for name in names] or errors
