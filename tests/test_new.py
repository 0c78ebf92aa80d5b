"""A chapter from the template passes every check that the book's own chapters pass."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from jupyter_client.manager import start_new_kernel

from cotflow.book import notebooks, profiles
from cotflow.book.bibliography import complaints
from cotflow.book.tree import chapter, chapters
from test_cli import invoke, tree

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def copy(tmp_path) -> Path:
    """The texts of the book, where a chapter may be added."""
    root = tmp_path / "book"
    ignored = shutil.ignore_patterns("__pycache__", "_static", "_ext")
    shutil.copytree(ROOT / "book", root / "book", ignore=ignored)
    shutil.copy(ROOT / "_toc.yml", root)
    return root


def entries(root: Path) -> list[str]:
    contents = yaml.safe_load((root / "_toc.yml").read_text())
    return [entry["file"] for part in contents["parts"] for entry in part["chapters"]]


def test_a_new_chapter_passes_all_checks(copy):
    before, known = entries(copy), chapters(copy)
    texts = {path: path.read_text() for path in (copy / "book/profiles").glob("*.yml")}
    done = invoke(copy, "new", "euler-steps", "--title", "Steps of Euler", "--after", "depth-limit")
    assert done.exit_code == 0, done.output

    at = before.index("book/depth-limit") + 1
    assert entries(copy) == [*before[:at], "book/euler-steps", *before[at:]]
    source = chapter(copy, "euler-steps")
    assert source.title == "Steps of Euler"
    default = {entry.name: entry.default for entry in source.parameters}
    assert profiles.profile(copy, "default").values["euler-steps"] == default
    for path, text in texts.items():
        values = profiles.profile(copy, path.stem).values
        order = list(values)
        assert order.index("euler-steps") == order.index("depth-limit") + 1
        block = re.search(r"\neuler-steps:\n(?:  .*\n)+", path.read_text())[0]
        assert path.read_text().replace(block, "", 1) == text
    assert complaints(copy) == []

    done = invoke(copy, "run", "euler-steps", "--profile", "smoke", "-o", "out")
    assert done.exit_code == 0, done.output
    assert "holds    euler-rate" in done.output
    assert "it/s" not in (copy / "out/euler-steps.ipynb").read_text()
    assert invoke(copy, "notebooks", "euler-steps").exit_code == 0
    for name in known:
        assert not notebooks.differs(known[name]), name
    done = invoke(copy, "notebooks", "--check")
    assert (done.exit_code, done.output) == (0, "")
    lint = [Path(sys.executable).with_name("ruff"), "check", "--config", ROOT / "pyproject.toml"]
    done = subprocess.run([*lint, source.paired], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("depth-limit",), "depth-limit.md is there already"),
        (("index",), "index.md is there already"),
        (("Deep",), "expected a name like 'deep-limit', received 'Deep'"),
        (("../deep",), "expected a name like 'deep-limit'"),
        (("deep", "--after", "nowhere"), "expected a chapter of the contents to follow"),
        (("deep", "--after", "bibliography"), "expected a chapter of the contents to follow"),
    ],
)
def test_a_chapter_that_cannot_be_is_refused_and_nothing_is_written(copy, arguments, sentence):
    before = tree(copy)
    done = invoke(copy, "new", *arguments)
    assert done.exit_code == 2
    assert sentence in done.output
    assert tree(copy) == before


def test_a_disk_that_fails_halfway_leaves_the_book_as_it_was(copy, monkeypatch):
    from cotflow.book import new

    before, replace = tree(copy), new.os.replace

    def fail_at_the_contents(source, target):
        if target.name == "_toc.yml":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(new.os, "replace", fail_at_the_contents)
    assert invoke(copy, "new", "deep").exit_code == 130
    assert tree(copy) == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda cell: cell.outputs.append(
                nbformat.v4.new_output("display_data", {"image/png": "AAAA"})
            ),
            "holds image/png",
        ),
        (
            lambda cell: cell.outputs.append(nbformat.v4.new_output("stream", text="50%")),
            "has outputs, unchecked",
        ),
    ],
)
def test_a_notebook_with_an_image_or_a_stray_output_is_refused(copy, change, sentence):
    paired = chapter(copy, "one-model").paired
    notebook = nbformat.read(paired, as_version=4)
    cell = next(
        c for c in notebook.cells if c.cell_type == "code" and not c.outputs
    )  # fmt: skip
    change(cell)
    nbformat.write(notebook, paired)
    done = invoke(copy, "notebooks", "--check")
    assert done.exit_code == 1
    assert f"one-model: cell {notebook.cells.index(cell) + 1} of the notebook {sentence}" in (
        done.output
    )


def test_progress_is_for_those_who_watch():
    """A kernel asked by a person's front end shows a bar; asked by a program it shows nothing."""
    manager, client = start_new_kernel(kernel_name="python3")
    code = "from cotflow.book import progress\nsum(progress([1, 2, 3], 'runs'))"
    heard = {}
    try:
        for watched in (True, False):
            said = []
            client.execute_interactive(
                code, allow_stdin=watched, stdin_hook=None, timeout=60, output_hook=said.append
            )
            heard[watched] = "".join(
                m["content"]["text"] for m in said if m["msg_type"] == "stream"
            )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "runs: " in heard[True]
    assert heard[False] == ""
