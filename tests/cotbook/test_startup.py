"""What an import and a refusal load: little, so that the command answers at once."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

import cotflow
from books import ROOT, write_chapter
from cotbook.errors import BadInput
from cotbook.run import text
from cotbook.run.tree import chapter, chapters, tags

# Each of these takes longer to load than the rest of a refusal.
HEAVY = {
    *("torch", "numpy", "scipy", "matplotlib", "ot", "sklearn", "torchdiffeq"),
    *("IPython", "jupytext", "nbformat", "nbclient", "papermill", "snakemake", "sphinx"),
}
AFTERWARDS = """
import json, os, sys, time
before = dict(os.environ)
try:
    {act}
except SystemExit as end:
    code = end.code
else:
    code = 0
loaded = sorted({{name.partition(".")[0] for name in sys.modules}})
same = before == dict(os.environ)
print(json.dumps([code, loaded, same, time.process_time()]))
"""
RUN = "from cotbook.cli import main; main(sys.argv[1:], prog_name='cotflow')"


def afterwards(act: str, *arguments: str) -> tuple[int, set[str], bool, float, str]:
    """Exit code, packages loaded, whether the environment is the same, CPU time, what was said."""
    command = [sys.executable, "-c", AFTERWARDS.format(act=act), *arguments]
    # what these tests themselves have loaded may have left its mark on the environment
    kept = {key: os.environ[key] for key in ("HOME", "PATH", "PYTHONPATH") if key in os.environ}
    done = subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, check=True)
    code, loaded, same, seconds = json.loads(done.stdout.splitlines()[-1])
    return code, set(loaded), same, seconds, done.stdout + done.stderr


SWEEPS = {
    "entry.yml": "chapter: depth-limit\ngrids: {}\n",
    "name.yml": "chapter: depth-limit\ngrid: {depth: [2]}\n",
    "value.yml": "chapter: depth-limit\ngrid: {depths: [[0]]}\n",
    "broken.yml": "chapter: [\n",
}


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps")
    for name, content in SWEEPS.items():
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("--help", 0, "Re-run the chapters"),
        ("run --help", 0, "Execute CHAPTER"),
        ("list", 0, "depth-limit"),
        ("parameters depth-limit", 0, "depths"),
        ("parameters X", 2, "unknown chapter 'X'"),
        ("runn", 2, "No such command 'runn'"),
        ("run --nope", 2, "No such option"),
        ("run depth-limi", 2, "unknown chapter 'depth-limi'; nearest: depth-limit"),
        ("run depth-limit --profile smok", 2, "unknown profile 'smok'; nearest: smoke"),
        ("run depth-limit -p depth 3", 2, "unknown parameter 'depth'; nearest: depths"),
        ("run depth-limit -p depths [0]", 2, "depths: expected whole numbers ≥ 1, received 0"),
        ("run one-model -p seeds [3,3]", 2, "whole numbers ≥ 0, all different, received [3, 3]"),
        ("run depth-limit -p seeds x", 2, "seeds: expected a non-empty list"),
        ("run depth-limit -o lib", 2, "expected a new or an empty folder"),
        ("sweep nowhere.yml", 2, "cannot read the sweep file"),
        ("sweep {}/entry.yml", 2, "unknown entry 'grids'; nearest: grid"),
        ("sweep {}/name.yml", 2, "unknown parameter 'depth'; nearest: depths"),
        ("sweep {}/value.yml", 2, "depths: expected whole numbers ≥ 1, received 0"),
        ("sweep {}/broken.yml", 2, "is not readable as YAML"),
        ("ledger lib", 2, "expected the folder of one run or one sweep"),
        ("new depth-limit", 2, "is there already"),
        ("bench --only x", 2, "--only: expected some of steps"),
    ],
)
def test_help_and_refusals_load_nothing_heavy(sweeps, line, code, said):
    found = afterwards(RUN, *line.format(sweeps).split())
    assert found[0] == code, found
    assert said in found[-1]
    assert found[1] & HEAVY == set()


def test_an_unknown_notebook_is_refused_before_anything_is_computed(sweeps):
    code, loaded, *_, said = afterwards(RUN, "notebooks", "X")
    assert code == 2 and "unknown chapter 'X'" in said
    assert loaded & (HEAVY - {"nbformat"}) == set()


ELSEWHERE = ("run", "depth-limit", "-p", "device", "cuda:99", "-o", "lib")


def test_a_device_that_is_not_here_is_refused_without_torch():
    code, loaded, *_, said = afterwards(RUN, *ELSEWHERE)
    assert code == 2 and "device: expected a device of this machine" in said
    if not any(Path(entry).exists() for entry in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):
        assert loaded & HEAVY == set()


def test_a_refusal_takes_little_time_of_the_processor():
    # 0.2 s where nothing else runs; beside other work the same instructions take up to twice that
    line = ["run", "depth-limit", "-p", "depths", "[0]"]
    assert min(afterwards(RUN, *line)[3] for _ in range(3)) < 0.6


def test_the_module_is_the_command():
    command = [sys.executable, "-m", "cotbook.cli", "parameters", "X"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("unknown chapter 'X'")


NAMES = {
    *("gradient", "gradient_flow", "flow", "published", "ResidualNet", "Weights", "Sizes"),
    *("marion_net", "mean_field_net", "tied", "independent", "smooth"),
    *("GELU", "TANH", "RELU", "IDENTITY", "COS", "EULER", "HEUN", "RK4", "RKC2", "Checkpoint"),
    *("conditional_distance", "labelled_distance", "entropic_distance"),
    *("largest_gap", "loglog_slope", "neural_ode", "certificates"),
}


def test_the_front_door_opens_without_loading_anything():
    _, loaded, same, *_ = afterwards("import cotflow, cotbook")
    assert loaded & (HEAVY | {"jaxtyping", "pydantic", "yaml"}) == set()
    assert same


def test_every_name_of_the_front_door_is_there_and_told_of():
    assert len(NAMES) == 29
    assert NAMES <= set(cotflow.__all__) <= set(dir(cotflow))
    for name in cotflow.__all__:
        assert getattr(cotflow, name) is not None
        assert re.search(rf"\b{name}\b", cotflow.__doc__), name
    with pytest.raises(AttributeError, match="no attribute 'grad'"):
        cotflow.grad  # noqa: B018


def test_names_of_the_front_door_set_nothing_and_load_the_rest_on_use():
    _, loaded, same, *_ = afterwards(f"from cotflow import {', '.join(sorted(NAMES))}")
    assert same
    assert loaded & {"ot", "sklearn", "torchdiffeq", "pooch", "matplotlib", "pydantic"} == set()


SHORT = """
import torch
from cotflow.bounds.layer_maps import jacobian_norms
from cotflow.convolution import ConvNet, initial_weights, load_images
from cotflow.limits.refinement import hidden_states, leading_difference
from cotflow.measure.rates import mean_interval
net, images = ConvNet("gelu", channels=2), load_images("digits").test[:3]
weights = initial_weights(net, 2, [0])
def f(k, h):
    return net.residual(weights.layers[k], h)
states = hidden_states(f, 2, net.embed(weights, images))
jacobian_norms(f, states, 1, torch.Generator(), batch=2)
leading_difference(f, states)
mean_interval([1.0, 2.0])
"""


@pytest.mark.slow
def test_short_runs_load_no_package_that_costs_more_than_they_do():
    command = f"import sys; exec({SHORT!r}); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    assert {"torch._dynamo", "scipy.stats", "sklearn"} & set(done.stdout.split()) == set()


def both(content: str) -> tuple[list, list]:
    """Code and tags of every code cell as this book's reader and as jupytext finds them."""
    theirs = jupytext.reads(content, "md:myst").cells
    return (
        [(cell.source, cell.tags) for cell in text.code_cells(content)],
        [(cell.source, tags(cell)) for cell in theirs if cell.cell_type == "code"],
    )


PAGES = [*sorted((ROOT / "book").rglob("*.md")), ROOT / "book/_template/chapter.md"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_both_readers_find_the_same_code_cells(path):
    ours, theirs = both(path.read_text(encoding="utf-8"))
    assert ours == theirs


def test_both_readers_find_the_same_chapters_and_titles():
    found = chapters(ROOT)
    assert len(found) >= 12
    for name, source in found.items():
        prose = [cell.source for cell in source.cells if cell.cell_type == "markdown"]
        assert source.title == re.search(r"^# +(.+)$", "\n".join(prose), re.M)[1], name
        cell = next(cell for cell in source.cells if "parameters" in tags(cell))
        assert [p.name for p in source.parameters] == re.findall(r"^(\w+):", cell.source, re.M)


@pytest.mark.parametrize(
    ("content", "cells"),
    [
        ("```{code-cell}\n:tags: [a]\n\nx\n```\n", [("x", ["a"])]),
        ("```{code-cell} x\n---\ntags: [a, b]\n---\nx\n\ny\n```\n", [("x\n\ny", ["a", "b"])]),
        ("```{code-cell}\n:tags: [a,\n: b]\n:hide: 1\nx\n```", [("x", ["a", "b"])]),
        ("~~~{code-cell}\n```{code-cell}\n~~~\n", [("```{code-cell}", [])]),
        ("````{note}\n```{code-cell}\nx\n```\n````\n", []),
        ("````{code-cell}\n```\n`````\n", [("```", [])]),
        ("- a\n  ```{code-cell}\n  x\n  ```\n", []),
        ("```{code-cell} `x`\nx\n", []),
        ("```{code-cell}\n```\n", [("", [])]),
        ("```{code-cell}\nx", [("x", [])]),
    ],
)
@pytest.mark.parametrize("head", ["", "---\njupytext: {}\n---\n# A\n", "--- \na: 1\n...\n"])
def test_both_readers_agree_on_fences(head, content, cells):
    assert both(head + content) == (cells, cells)


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: "\ufeff" + content,
        lambda content: content.replace("---\n", "--- \n"),
        lambda content: content.replace("\n", "\r\n"),
    ],
    ids=["byte order mark", "space after ---", "line ends of Windows"],
)
def test_a_chapter_is_found_however_it_was_saved(tmp_path, edit):
    write_chapter(tmp_path, "plain", ("parameters", "x: int = 1  # anything"))
    before = chapter(tmp_path, "plain")
    content = (tmp_path / "book/plain.md").read_text()
    (tmp_path / "book/plain.md").write_bytes(edit(content).encode())
    found = chapter(tmp_path, "plain")
    assert (found.title, found.parameters) == (before.title, before.parameters)
    assert found.notebook() == before.notebook()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "cannot read"),
        (b"---\njupytext: {}\n---\n```{code-cell}\n:tags: [parameters\n```\n", "while parsing"),
        (b"---\njupytext: {}\n---\n```{code-cell}\n:parameters\n```\n", "expected options like"),
    ],
)
def test_a_chapter_that_cannot_be_read_is_named(tmp_path, content, said):
    write_chapter(tmp_path, "plain", ("parameters", "x: int = 1"))
    (tmp_path / "book/wreck.md").write_bytes(content)
    with pytest.raises(BadInput, match=rf"wreck\.md.*{said}|{said}.*wreck\.md"):
        chapter(tmp_path, "plain")
