"""Texts and their committed notebooks: same cells, same checked outputs, same rules for values."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook, new_output

from books import invoke, tree, write_chapter, write_tiny_chapter
from cotbook import parameters
from cotbook.keep import notebooks
from cotbook.run import profiles
from cotbook.run.kernel import environment
from cotbook.run.tree import Source, chapter, chapters, tags

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = chapters(ROOT)
SOURCES = [pytest.param(source, id=name) for name, source in CHAPTERS.items()]


def isolated(folder: Path) -> dict[str, str]:
    """The variables of a program that starts kernels: this interpreter's, without settings."""
    given = {name: value for name, value in os.environ.items() if name != "JUPYTER_PATH"}
    return environment(given, folder) | {"JUPYTER_DATA_DIR": str(folder)}


def nbval(notebook: Path, report: Path) -> tuple[int, dict[str, bool]]:
    """Exit code of nbval, and for each code cell whether it passed."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--nbval-lax", "-p", "no:cacheprovider"),
            "--nbval-current-env",
            *("--nbval-cell-timeout=600", "-o", "addopts=", f"--junitxml={report}", notebook),
        ],
        env=isolated(report.parent),
        capture_output=True,
        text=True,
    )
    assert report.exists(), done.stdout + done.stderr
    cases = ElementTree.parse(report).iter("testcase")
    return done.returncode, {case.get("name"): len(case) == 0 for case in cases}


def compared(notebook: Path) -> list[str]:
    """nbval's names of the code cells whose reference text it compares."""
    cells = nbformat.read(notebook, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    return [
        f"Cell {index}"
        for index, cell in enumerate(code)
        if notebooks.CHECKED in tags(cell) and cell.execution_count and text_of(cell)
    ]


def text_of(cell) -> str:
    return "".join(
        output["text"] if "text" in output else output["data"]["text/plain"]
        for output in cell.outputs
    ).strip()


def test_the_book_has_chapters():
    assert CHAPTERS


@pytest.mark.parametrize("source", SOURCES)
def test_text_and_committed_notebook_have_the_same_cells(source):
    committed = nbformat.read(source.paired, as_version=4).cells
    assert len(committed) == len(source.cells)
    for index, (ours, theirs) in enumerate(zip(source.cells, committed, strict=True)):
        assert (index, ours.cell_type, ours.source) == (index, theirs.cell_type, theirs.source)
        assert (index, tags(ours)) == (index, tags(theirs))
    assert not notebooks.differs(source)


def test_labels_are_given_once_in_the_book():
    given = Counter()
    for page in (ROOT / "book").rglob("*.md"):
        text = page.read_text()
        given.update(re.findall(r"^\(([\w-]+)\)=$", text, re.M))
        given.update(re.findall(r"^ *:(?:label|name): (\S+)$", text, re.M))
        given.update(re.findall(r"^\$\$ \(([\w-]+)\)$", text, re.M))
        given.update(re.findall(r"^    name: (\S+)$", text, re.M))
    assert len(given) > 100
    assert [label for label, times in given.items() if times > 1] == []


def test_every_committed_notebook_belongs_to_a_chapter():
    assert {path.stem for path in (ROOT / "book/notebooks").glob("*.ipynb")} == set(CHAPTERS)


@pytest.mark.parametrize("source", SOURCES)
def test_committed_notebooks_hold_the_text_of_checked_cells_and_nothing_else(source):
    for cell in nbformat.read(source.paired, as_version=4).cells:
        for output in cell.get("outputs", []):
            assert notebooks.CHECKED in tags(cell)
            assert output.output_type in ("stream", "display_data", "execute_result")
            assert set(output.get("data", {})) <= {"text/plain"}
        assert "attachments" not in cell


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_committed_notebooks_run_and_their_checked_cells_agree(source, tmp_path):
    code, passed = nbval(source.paired, tmp_path / "report.xml")
    names = compared(source.paired)
    assert len(names) > 0
    assert {name for name in names if not passed[name]} == set()
    assert code == 0 and all(passed.values())


def test_the_default_profile_repeats_the_parameters_cells():
    cells = {
        name: {entry.name: entry.default for entry in source.parameters}
        for name, source in CHAPTERS.items()
    }
    assert profiles.profile(ROOT, "default").values == cells


@pytest.mark.parametrize("name", profiles.profile_names(ROOT))
def test_every_profile_is_described_and_fits_the_chapters(name, monkeypatch):
    # a profile may be meant for a machine with GPUs
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    profile = profiles.profile(ROOT, name)
    assert profile.description.strip()
    for name, values in profile.values.items():
        effective = parameters.validate(CHAPTERS[name].parameters, values)
        assert values.items() <= effective.items()


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory):
    """A book of one chapter with its regenerated notebook."""
    root = tmp_path_factory.mktemp("book")
    write_tiny_chapter(root)
    done = invoke(root, "notebooks")
    assert done.exit_code == 0, done.output
    return chapter(root, "tiny-rate")


def test_a_regenerated_notebook_keeps_only_the_text_of_checked_cells(regenerated):
    cells = nbformat.read(regenerated.paired, as_version=4).cells
    outputs = {tuple(tags(cell)): text_of(cell) for cell in cells if cell.get("outputs")}
    assert outputs == {(notebooks.CHECKED,): "seed 0\n2"}
    assert [path.name for path in regenerated.paired.parent.iterdir()] == ["tiny-rate.ipynb"]
    assert not notebooks.differs(regenerated)


def test_a_notebook_regenerated_twice_is_the_same_to_the_byte(regenerated):
    first = regenerated.paired.read_bytes()
    assert notebooks.regenerate(regenerated) == 1
    assert regenerated.paired.read_bytes() == first


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('print("seed", seed)', 'print("seeds", seed)'),
        ("nbval-check-output", "hide-output"),
        ("# A tiny rate", "# Another rate"),
    ],
)
def test_check_exits_1_and_names_a_chapter_whose_notebook_is_stale(tmp_path, old, new):
    write_tiny_chapter(tmp_path)
    source = chapter(tmp_path, "tiny-rate")
    source.paired.parent.mkdir()
    nbformat.write(source.notebook(), source.paired)
    assert invoke(tmp_path, "notebooks", "--check").exit_code == 0
    source.path.write_text(source.path.read_text().replace(old, new))
    before = tree(tmp_path)
    done = invoke(tmp_path, "notebooks", "--check")
    assert done.exit_code == 1
    assert "tiny-rate: the notebook differs from the text" in done.output
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"metadata"', '"matadata"'),
        lambda text: text.replace('"source"', '"sorce"'),
        lambda text: text.replace('"code"', '"cude"'),
        lambda text: text.replace('"cells"', '"cella"'),
        lambda text: text.replace('"outputs": []', '"outputs": [{"data": 1}]'),
        lambda text: text.replace('"nbformat": 4', '"nbformat": 40'),
        lambda text: "[" * 100_000,
        lambda text: "null",
        lambda text: "",
    ],
)
def test_a_damaged_notebook_is_one_that_differs(tmp_path, damage):
    write_tiny_chapter(tmp_path)
    source = chapter(tmp_path, "tiny-rate")
    source.paired.parent.mkdir()
    nbformat.write(source.notebook(), source.paired)
    whole = source.paired.read_text()
    source.paired.write_text(damage(whole))
    assert source.paired.read_text() != whole
    done = invoke(tmp_path, "notebooks", "--check")
    assert done.exit_code == 1, done.exception
    assert "tiny-rate: the notebook differs from the text" in done.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exit_code", "tag", "code", "sentence"),
    [
        (3, "hide-input", "1 / 0", "cell [2] of wreck stopped with ZeroDivisionError"),
        (
            1,
            "nbval-check-output",
            "from IPython.display import HTML\nHTML('x')",
            "cell [2] of wreck is tagged nbval-check-output and shows text/html",
        ),
    ],
)
def test_a_chapter_that_cannot_be_a_reference_leaves_its_notebook_as_it_was(
    tmp_path, exit_code, tag, code, sentence
):
    write_chapter(tmp_path, "wreck", ("parameters", "x: int = 1"), (tag, code))
    (tmp_path / "book/notebooks").mkdir()
    (tmp_path / "book/notebooks/wreck.ipynb").write_text("as it was")
    before = tree(tmp_path)
    done = invoke(tmp_path, "notebooks", "wreck")
    assert done.exit_code == exit_code
    assert sentence in done.output
    assert tree(tmp_path) == before


@pytest.fixture(params=["plain", "hostile"])
def machine(request, tmp_path, monkeypatch):
    """As it is, or with another kernel of that name and a start-up file that changes results."""
    if request.param == "hostile":
        startup = tmp_path / "home/.ipython/profile_default/startup"
        startup.mkdir(parents=True)
        (startup / "00-first.py").write_text(
            "print('started'); import builtins; builtins.seed = 9\n"
        )
        for folder in (tmp_path / "jupyter", tmp_path / "home/.local/share/jupyter"):
            kernel = folder / "kernels/python3"
            kernel.mkdir(parents=True)
            spec = {"argv": ["/bin/false"], "display_name": "Another", "language": "python"}
            (kernel / "kernel.json").write_text(json.dumps(spec))
        monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
        monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.mark.slow
@pytest.mark.usefixtures("machine")
def test_nbval_notices_a_changed_reference(tmp_path):
    cell = new_code_cell("print(6 * 7)", metadata={"tags": [notebooks.CHECKED]}, execution_count=1)
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    codes = {}
    for text in ("42\n", "43\n"):
        cell.outputs = [new_output("stream", name="stdout", text=text)]
        path = tmp_path / f"{text.strip()}.ipynb"
        nbformat.write(new_notebook(cells=[cell], metadata=kernel), path)
        codes[text] = nbval(path, tmp_path / f"{text.strip()}.xml")
        assert compared(path) == ["Cell 0"]
    assert codes == {"42\n": (0, {"Cell 0": True}), "43\n": (1, {"Cell 0": False})}


def papermill(source: Source, output: Path, *values: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "papermill", source.paired, output, *values],
        env=isolated(output.parent),
        capture_output=True,
        text=True,
    )


@pytest.mark.usefixtures("machine")
def test_plain_papermill_sets_a_parameter_of_a_paired_notebook(regenerated, tmp_path):
    done = papermill(regenerated, tmp_path / "out.ipynb", "-p", "seed", "7", "-y", "depths: [3]")
    assert done.returncode == 0, done.stderr
    assert "Passed unknown parameter" not in done.stderr
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    assert [text_of(c) for c in cells if notebooks.CHECKED in tags(c)] == ["seed 7\n1"]


def test_a_chapter_refuses_a_value_out_of_range_from_plain_papermill(regenerated, tmp_path):
    done = papermill(regenerated, tmp_path / "out.ipynb", "-p", "seed", "-1")
    assert done.returncode == 1
    assert "ParameterError: seed: expected a whole number ≥ 0, received -1" in done.stderr
