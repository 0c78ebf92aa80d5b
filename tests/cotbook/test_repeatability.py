"""Seeds decide everything: bit for bit on one machine, within the tolerances on another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nbformat
import pytest

from books import invoke
from cotbook.keep.notebooks import CHECKED
from cotbook.run.tree import tags

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = "one-model"
TIMES = {"executed"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    """The book's one chapter that is quickest at its smoke profile."""
    root = tmp_path_factory.mktemp("book")
    shutil.copytree(ROOT / "book", root / "book", ignore=shutil.ignore_patterns("notebooks"))
    shutil.copy(ROOT / "_toc.yml", root)
    return root


def run(root: Path, name: str) -> tuple[list[dict], list[str]]:
    """The claims, without the moments they were made at, and the texts of the checked cells."""
    done = invoke(root, "run", CHAPTER, "--profile", "smoke", "-o", name)
    assert done.exit_code == 0, done.output
    claims = json.loads((root / name / "claims.json").read_text())
    claims = [{key: claim[key] for key in claim if key not in TIMES} for claim in claims]
    notebook = nbformat.read(root / name / f"{CHAPTER}.ipynb", as_version=4)
    outputs = [o for cell in notebook.cells if CHECKED in tags(cell) for o in cell.outputs]
    return claims, [o.text for o in outputs if o.get("name") == "stdout"]


@pytest.fixture(scope="module")
def first(book):
    claims, texts = run(book, "first")
    assert len(claims) > 3 and len(texts) > 1
    return claims, texts


def test_a_run_repeats_bit_for_bit(book, first):
    assert run(book, "again") == first


def test_other_threads_and_no_compiler_stay_within_the_tolerances(
    book, first, tmp_path, monkeypatch
):
    """Two threads and torch's plain step, as on another machine: other roundings everywhere."""
    text = book / f"book/{CHAPTER}.md"
    before = text.read_text()
    opening = f'Chapter("{CHAPTER}", globals())'
    assert opening in before
    text.write_text(before.replace(opening, opening.replace("())", "(), threads=2)")))
    for key, value in {"PATH": str(tmp_path), "CC": "", "OMP_NUM_THREADS": "2"}.items():
        monkeypatch.setenv(key, value)
    claims, texts = run(book, "elsewhere")
    text.write_text(before)
    execution = json.loads((book / "elsewhere/execution.json").read_text())
    assert execution["threads"] == 2
    assert texts == first[1]
    for here, there in zip(first[0], claims, strict=True):
        assert (here["name"], here["verdict"]) == (there["name"], there["verdict"])
        for end in ("measured", "low", "high"):
            assert abs(here[end] - there[end]) <= here["tolerance"], here["name"]
