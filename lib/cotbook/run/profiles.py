"""Profiles: files of parameter values, ``book/profiles/<name>.yml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cotbook import parameters
from cotbook.errors import BadInput
from cotbook.run.tree import chapters


@dataclass(frozen=True)
class Profile:
    """Values for some parameters of some chapters, and a sentence about what they are for."""

    description: str
    values: dict[str, dict[str, Any]]


def profile_names(root: Path) -> list[str]:
    return sorted({"default", *(path.stem for path in (root / "book/profiles").glob("*.yml"))})


def values_of(root: Path, name: str, chapter: str) -> dict[str, Any]:
    """The values that the profile ``name`` gives the chapter; ``default`` may give none."""
    given = profile(root, name).values
    if chapter not in given and name != "default":
        others = ", ".join(given) or "no chapter"
        raise BadInput(f"the profile {name!r} has no values for {chapter}; it is for {others}")
    return given.get(chapter, {})


def profile(root: Path, name: str) -> Profile:
    """The file ``book/profiles/<name>.yml``; the profile ``default`` may do without a file."""
    known = profile_names(root)
    if name not in known:
        raise BadInput(f"unknown profile {name!r}; {parameters.nearest(name, known)}")
    path = root / "book/profiles" / f"{name}.yml"
    if not path.exists():
        return Profile("values of the chapters' parameters cells", {})
    try:
        content = parameters.load_yaml(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"{path} is not readable as YAML: {reason}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path}: expected chapter names with their parameters")
    content = {str(key): value for key, value in content.items()}
    said = [content.pop(key) for key in list(content) if key.startswith("description")]
    values = {key: value or {} for key, value in content.items()}
    book = chapters(root)
    for key, value in values.items():
        if key not in book:
            raise BadInput(f"{path}: unknown chapter {key!r}; {parameters.nearest(key, book)}")
        if not isinstance(value, dict):
            raise BadInput(f"{path}: expected parameters with their values under {key!r}")
        declared = [entry.name for entry in book[key].parameters]
        for name in value:
            if name not in declared:
                hint = parameters.nearest(str(name), declared)
                raise BadInput(f"{path}: unknown parameter {name!r} of {key}; {hint}")
    return Profile(" ".join(map(str, said)), values)
