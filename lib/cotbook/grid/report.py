"""The claims in folders of runs and of sweeps, as Markdown for logs and reviews."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from cotbook import records, render
from cotbook.errors import BadInput
from cotbook.grid import outcome
from cotbook.grid.file import Job, label_of
from cotbook.parameters import load_yaml


def markdown(folders: Sequence[Path]) -> str:
    """A section for each run; a folder of a sweep stands for the runs of its plan.

    Raises
    ------
    BadInput : a folder holds no results of a run or a sweep.
    """
    sections = [section for folder in folders for section in _sections(folder)]
    return "\n\n".join(sections)


def _sections(folder: Path) -> list[str]:
    refusal = f"expected the folder of one run or one sweep, like runs/NAME, received {folder}"
    try:
        if (folder / outcome.PLAN).is_file():
            return list(_of_sweep(folder))
        return [_of_run(folder)]
    except records.RecordError as error:
        raise BadInput(f"{refusal}: {error}") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        raise BadInput(refusal) from None


def _of_sweep(folder: Path) -> Iterator[str]:
    plan = json.loads((folder / outcome.PLAN).read_text(encoding="utf-8"))
    for record in plan["jobs"].values():
        job = Job(**record)
        found = outcome.read(folder, job)
        title = ", ".join(filter(None, [job.chapter, label_of(job.swept)]))
        if found.claims is not None:
            yield render.section(title, found.claims)
        else:
            ending = f"Failed: {render.escaped(found.failure)}" if found.failure else "Not run."
            yield f"### {render.escaped(title)}\n\n{ending}"


def _of_run(folder: Path) -> str:
    claims = records.of_run(folder)
    values = load_yaml((folder / "parameters.yml").read_text(encoding="utf-8"))
    chapter = sorted(folder.glob("*.ipynb"))[0].stem
    return f"{render.section(chapter, claims)}\n\nParameters: {render.escaped(label_of(values))}."
