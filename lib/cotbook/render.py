"""The claims of executed chapters as a Markdown table, for logs and reviews."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cotbook.parameters import load_yaml
from cotbook.run.tree import BadInput

HEAD = ("", "claim", "predicted", "measured", "tolerance", "source")


def row(claim: dict) -> tuple[str, ...]:
    """Verdict, name, predicted, measured with its interval, tolerance and provenance."""
    from cotbook.chapter import SIGNS

    predicted = measured = tolerance = "–"
    if "measured" in claim:
        number = {
            key: f"{float(claim[key]):.4g}"
            for key in ("predicted", "measured", "low", "high", "tolerance")
        }
        predicted = f"{SIGNS[claim['relation']]} {number['predicted']}"
        measured, tolerance = number["measured"], number["tolerance"]
        if number["low"] != number["high"]:
            measured += f" [{number['low']}, {number['high']}]"
    return (
        claim["verdict"], claim["name"], predicted, measured, tolerance, claim["provenance"]
    )  # fmt: skip


def tally(claims: Sequence[dict]) -> str:
    """The verdicts counted: "5 hold, 1 fail"."""
    from cotbook.chapter import TALLY

    verdicts = [claim["verdict"] for claim in claims]
    counts = [f"{verdicts.count(v)} {word}" for v, word in TALLY.items() if v in verdicts]
    return ", ".join(counts) or "none"


def markdown(folders: Sequence[Path]) -> str:
    """A section for each run; a folder of a sweep stands for the runs of its plan.

    Raises
    ------
    BadInput : a folder holds no results of a run or a sweep.
    """
    sections = [section for folder in folders for section in _sections(folder)]
    return "\n\n".join(sections) + "\n"


def _sections(folder: Path) -> list[str]:
    try:
        if (folder / "plan.json").is_file():
            return _of_sweep(folder)
        return [_of_run(folder)]
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        StopIteration,
        yaml.YAMLError,
    ):
        raise BadInput(
            f"expected the folder of one run or one sweep, like runs/NAME, received {folder}"
        ) from None


def _of_sweep(folder: Path) -> list[str]:
    from cotbook.grid.file import label_of

    sections = []
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    for name, job in plan["jobs"].items():
        title = ", ".join(filter(None, [job["chapter"], label_of(job["swept"])]))
        claims, reason = folder / "jobs" / name / "claims.json", folder / "failed" / name
        if claims.is_file():
            sections.append(_section(title, json.loads(claims.read_text(encoding="utf-8"))))
        elif (reason / "failure.txt").is_file():
            text = (reason / "failure.txt").read_text(encoding="utf-8")
            sections.append(f"### {_cell(title)}\n\nFailed: {_cell(text)}")
        else:
            sections.append(f"### {_cell(title)}\n\nNot run.")
    return sections


def _of_run(folder: Path) -> str:
    from cotbook.grid.file import label_of

    claims = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    values = load_yaml((folder / "parameters.yml").read_text(encoding="utf-8"))
    chapter = sorted(folder.glob("*.ipynb"))[0].stem
    return f"{_section(chapter, claims)}\n\nParameters: {_cell(label_of(values))}."


def _section(title: str, claims: list[dict[str, Any]]) -> str:
    from cotbook.chapter import MARKS

    lines = [f"### {_cell(title)}", "", f"Claims: {tally(claims)}."]
    if claims:
        rows = [(f"{MARKS[c['verdict']]} {c['verdict']}", *row(c)[1:]) for c in claims]
        cells = [HEAD, ("---",) * len(HEAD), *rows]
        lines += ["", *("| " + " | ".join(map(_cell, line)) + " |" for line in cells)]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text that Markdown neither reads as markup nor as the end of a cell."""
    text = " ".join(text.split())
    for sign in "\\`*_|<$":
        text = text.replace(sign, "\\" + sign)
    return text
