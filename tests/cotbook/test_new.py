"""A chapter from the template passes every check that the book's own chapters pass."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from jupyter_client.manager import start_new_kernel

from books import invoke, tree, write_tiny_chapter
from cotbook import parameters
from cotbook.keep.bibliography import complaints
from cotbook.run import profiles
from cotbook.run.tree import chapter

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def copy(tmp_path) -> Path:
    """The texts of the book, where a chapter may be added."""
    root = tmp_path / "book"
    ignored = shutil.ignore_patterns("__pycache__", "_static")
    shutil.copytree(ROOT / "book", root / "book", ignore=ignored)
    shutil.copy(ROOT / "_toc.yml", root)
    return root


@pytest.fixture
def tiny(tmp_path) -> Path:
    """A book of one chapter, with a fresh notebook beside it, and with the template."""
    root = tmp_path / "tiny"
    write_tiny_chapter(root)
    shutil.copytree(ROOT / "book/_template", root / "book/_template")
    (root / "book/index.md").write_text("# Home\n")
    listed = "chapters:\n- file: book/tiny-rate\n- file: book/bibliography\n"
    (root / "_toc.yml").write_text(f"root: book/index\n{listed}")
    for name in ("default", "smoke", "paper"):
        (root / f"book/profiles/{name}.yml").write_text(f"description: {name}\n")
    paired = chapter(root, "tiny-rate").paired
    paired.parent.mkdir()
    nbformat.write(chapter(root, "tiny-rate").notebook(), paired)
    return root


def entries(root: Path) -> list[str]:
    contents = yaml.safe_load((root / "_toc.yml").read_text())
    return [entry["file"] for part in contents["parts"] for entry in part["chapters"]]


@pytest.mark.slow
def test_a_new_chapter_passes_all_checks(copy):
    before = entries(copy)
    texts = {path: path.read_text() for path in (copy / "book/profiles").glob("*.yml")}
    done = invoke(copy, "new", "euler-steps", "--title", "Steps of Euler", "--after", "depth-limit")
    assert done.exit_code == 0, done.output

    at = before.index("book/depth-limit") + 1
    assert entries(copy) == [*before[:at], "book/euler-steps", *before[at:]]
    source = chapter(copy, "euler-steps")
    assert source.title == "Steps of Euler"
    default = {entry.name: entry.default for entry in source.parameters}
    assert profiles.profile(copy, "default").values["euler-steps"] == default
    paper = profiles.profile(copy, "paper").values["euler-steps"]
    assert parameters.validate(source.parameters, paper).keys() == default.keys()
    for path, text in texts.items():
        order = list(yaml.safe_load(path.read_text()))
        assert order.index("euler-steps") == order.index("depth-limit") + 1
        block = re.search(r"\neuler-steps:\n(?:  .*\n)+", path.read_text())[0]
        assert path.read_text().replace(block, "", 1) == text
    assert complaints(copy) == []

    done = invoke(copy, "run", "euler-steps", "--profile", "smoke", "-o", "out")
    assert done.exit_code == 0, done.output
    assert "holds    euler-rate" in done.output
    assert "it/s" not in (copy / "out/euler-steps.ipynb").read_text()
    assert invoke(copy, "notebooks", "euler-steps").exit_code == 0
    done = invoke(copy, "notebooks", "--check")
    assert (done.exit_code, done.output) == (0, "")
    lint = [Path(sys.executable).with_name("ruff"), "check", "--config", ROOT / "pyproject.toml"]
    done = subprocess.run([*lint, source.paired], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("tiny-rate",), "tiny-rate.md is there already"),
        (("index",), "index.md is there already"),
        (("Deep",), "expected a name like 'deep-limit', received 'Deep'"),
        (("../deep",), "expected a name like 'deep-limit'"),
        (("deep", "--after", "nowhere"), "expected a chapter of the contents to follow"),
        (("deep", "--after", "bibliography"), "expected a chapter of the contents to follow"),
    ],
)
def test_a_chapter_that_cannot_be_is_refused_and_nothing_is_written(tiny, arguments, sentence):
    before = tree(tiny)
    done = invoke(tiny, "new", *arguments)
    assert done.exit_code == 2
    assert sentence in done.output
    assert tree(tiny) == before


def test_a_disk_that_fails_halfway_leaves_the_book_as_it_was(tiny, monkeypatch):
    from cotbook.keep import new

    before, replace = tree(tiny), new.os.replace

    def fail_at_the_contents(source, target):
        if target.name == "_toc.yml":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(new.os, "replace", fail_at_the_contents)
    assert invoke(tiny, "new", "deep").exit_code == 130
    assert tree(tiny) == before


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
def test_a_notebook_with_an_image_or_a_stray_output_is_refused(tiny, change, sentence):
    paired = chapter(tiny, "tiny-rate").paired
    assert invoke(tiny, "notebooks", "--check").exit_code == 0
    notebook = nbformat.read(paired, as_version=4)
    cell = notebook.cells[2]
    change(cell)
    nbformat.write(notebook, paired)
    done = invoke(tiny, "notebooks", "--check")
    assert done.exit_code == 1
    assert f"tiny-rate: cell 3 of the notebook {sentence}" in done.output


@pytest.mark.slow
def test_progress_is_for_those_who_watch():
    """A kernel asked by a person's front end shows a bar; asked by a program it shows nothing."""
    manager, client = start_new_kernel(kernel_name="python3")
    code = "from cotbook import progress\nsum(progress([1, 2, 3], 'runs'))"
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


def test_a_command_killed_halfway_is_completed_by_the_same_command(tiny):
    """SIGKILL between two files: nothing is put back, and the workshop stays."""
    whole = tiny.parent / "whole"
    shutil.copytree(tiny, whole)
    assert invoke(whole, "new", "deep").exit_code == 0
    for more in (0, 1, 3):  # files put in their places before the kill
        command = [sys.executable, "-c", KILLED, str(more), "deep"]
        done = subprocess.run(command, cwd=tiny, capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not (tiny / "book/deep.md").exists()
        assert len(list(tiny.rglob(".cotflow-*"))) == 1
    assert invoke(tiny, "new", "deep").exit_code == 0
    assert tree(tiny) == tree(whole)


KILLED = """
import os, signal, sys
from cotbook.cli import main
from cotbook.keep import new
left, replace = int(sys.argv[1]), os.replace
def replaced(source, target):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    replace(source, target)
os.replace = replaced
main(["new", sys.argv[2]])
"""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", "javascript:alert(1)"),
        ("url", "file:///etc/passwd"),
        ("note", "see JavaScript :alert(1)"),
        ("title", "<script>alert(1)</script>"),
        ("note", "data:text/html,x"),
    ],
)
def test_an_entry_of_the_bibliography_that_speaks_to_the_browser_is_refused(tmp_path, field, value):
    (tmp_path / "book").mkdir()
    (tmp_path / "_toc.yml").touch()
    fields = {"title": "Big data: a survey", "doi": "10.1/x", field: value}
    text = ", ".join(f"{key} = {{{text}}}" for key, text in fields.items())
    (tmp_path / "book/references.bib").write_text(f"@misc{{key, {text}}}")
    (tmp_path / "book/page.md").write_text("{cite}`key`")
    done = invoke(tmp_path, "bibliography")
    assert done.exit_code == 1
    assert f"references.bib: 'key': {field}: expected text, or an address" in done.output
    assert len(done.output.splitlines()) == 1
