"""Nothing unsafe is loaded, workflows may do little, and the house rules are those in force."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jupytext
import pytest
import yaml

from cotbook.figures import style
from cotbook.keep.bibliography import complaints

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
UNSAFE_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
}
UNSAFE_CALLS = {"eval", "exec", "__import__", "os.system", "os.popen"}
UNSAFE_YAML = {"load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"}


SAFE_LOADERS = {"yaml.BaseLoader", "yaml.SafeLoader", "yaml.CSafeLoader"}


def name_of(node: ast.expr) -> str:
    """``a.b.c`` for a chain of attributes that starts with a name, ``.b.c`` for any other."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def unsafe(source: str) -> Iterator[str]:
    """What in Python source could execute the contents of a file or of a text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            yield from (name for name in modules if name.split(".")[0] in UNSAFE_MODULES)
            if modules in (["torch"], ["yaml"], ["numpy"]):
                yield from (name for name in names if name in UNSAFE_YAML)
        elif isinstance(node, ast.Call):
            name = name_of(node.func)
            given = {keyword.arg: keyword.value for keyword in node.keywords}

            def is_true(key: str, given=given) -> bool:
                return isinstance(given.get(key), ast.Constant) and given[key].value is True

            if name in UNSAFE_CALLS:
                yield name
            if name == "torch.load" and not is_true("weights_only"):
                yield "torch.load without weights_only=True"
            if name.startswith("yaml.") and name.removeprefix("yaml.") in UNSAFE_YAML:
                loaders = {name_of(value) for value in (*node.args[1:], *given.values())}
                if not loaders & SAFE_LOADERS:
                    yield name
            if "allow_pickle" in given and getattr(given["allow_pickle"], "value", True):
                yield f"{name} with allow_pickle"
            if is_true("shell"):
                yield f"{name} in a shell"


def sources() -> Iterator[tuple[str, str]]:
    """Every Python file of the project, and every cell of its pages and of its template."""
    for folder in ("lib", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "book").rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if text.startswith("---\n"):
            code = [
                c.source for c in jupytext.reads(text, "md:myst").cells if c.cell_type == "code"
            ]
            yield str(path.relative_to(ROOT)), "\n".join(code)


def test_nothing_unsafe_is_loaded():
    found = {where: [*unsafe(source)] for where, source in sources()}
    assert len(found) > 50
    assert {where: what for where, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "import pickle",
        "from joblib import load",
        "from yaml import unsafe_load",
        "from torch import load",
        "yaml.load(text, yaml.Loader)",
        "numpy.load(path, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_search_finds_what_is_unsafe(line):
    assert [*unsafe(line)]


def test_figures_take_their_style_and_their_colours_from_the_book():
    maps = {style.SEQUENTIAL, style.DIVERGING}
    drawn = {
        where: text for where, text in sources() if where.startswith("book/") and "plt." in text
    }
    assert len(drawn) > 5
    for where, text in drawn.items():
        assert not re.search(r"rcParams|plt\.style|set_prop_cycle", text), where
        assert not re.search(r"[\"']#[0-9a-fA-F]{3,8}[\"']", text), where
        named = re.findall(r"""(?:color|facecolor|edgecolor|mfc|mec|\bc)=["'](\w+)["']""", text)
        assert set(named) <= {"white", "none"}, where
        chosen = re.findall(r"""cmap=["'](\w+)["']|get_cmap\(["'](\w+)["']""", text)
        assert {(a or b).removesuffix("_r") for a, b in chosen} <= maps, where


def steps(workflow: dict) -> Iterator[dict]:
    for job in workflow["jobs"].values():
        yield from job.get("steps", [])
        if "uses" in job:
            yield job


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_pins_its_actions_and_asks_for_little(path):
    # YAML reads the key `on` as true
    workflow = yaml.safe_load(path.read_text())
    assert "pull_request_target" not in workflow[True]
    assert workflow["permissions"] in ({"contents": "read"}, {})
    for name, job in workflow["jobs"].items():
        assert job.get("timeout-minutes", 0 if "uses" in job else 1e9) <= 360, name
        written = {key for key, value in job.get("permissions", {}).items() if value == "write"}
        # `launch` pushes finished notebooks to a branch of their own and runs nothing else.
        allowed = {"contents"} if name == "launch" else {"pages", "id-token"}
        assert written <= allowed, name
        used = [step.get("uses", "") for step in job.get("steps", [])]
        checks_out = any("actions/checkout" in action for action in used)
        assert not (written and checks_out), f"{name}: code of the repository runs with {written}"
    for step in steps(workflow):
        if not step.get("uses", "./").startswith("./"):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step["uses"]), step
        if "actions/checkout@" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
        # An expression in a script is pasted into it before the shell reads it.
        assert "${{" not in step.get("run", ""), step


def test_pinned_actions_say_which_version_they_are_and_agree():
    text = "\n".join(path.read_text() for path in WORKFLOWS)
    used = set(re.findall(r"^ *(?:- )?uses: (?!\./)(.+)$", text, re.MULTILINE))
    assert used
    for action in used:
        assert re.search(r"# v\d+\.\d+\.\d+$", action), action
    assert len({action.split("@")[0] for action in used}) == len(used)


def test_the_audit_and_the_hooks_are_pinned_and_on_the_help_page():
    upkeep = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert {re.fullmatch(r"([\w-]+)==[\d.]+", entry)[1] for entry in upkeep["upkeep"]} == {
        "pip-audit",
        "pre-commit",
        "uv",
    }
    page = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert re.search(r"make audit .*needs the network", page)
    assert re.search(r"make lock .*needs the network", page)
    assert "make release" in page


def test_hooks_are_the_projects_own_commands():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {entry["repo"] for entry in config["repos"]} == {"local"}
    hooks = {hook["id"]: hook["entry"] for entry in config["repos"] for hook in entry["hooks"]}
    assert hooks.keys() == {"ruff", "ruff-format", "mypy", "notebooks", "bibliography"}
    from cotbook.cli import main

    for entry in hooks.values():
        tool, *command = entry.removeprefix(".venv/bin/").split()
        assert tool in ("ruff", "mypy") or (tool == "cotflow" and command[0] in main.commands)


def test_every_citation_is_defined_and_every_entry_cited():
    assert complaints(ROOT) == []


def test_what_is_wrong_with_a_bibliography_is_said(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book/page.md").write_text("As in {cite:p}`known, lost` and {cite}`bare`.\n")
    entry = "@misc{{{}, title = {{T}}, year = {{2025}}, {}}}\n"
    known = entry.format("known", "doi = {10.1/1}")
    bare, idle = entry.format("bare", ""), entry.format("idle", "eprint = {1.2}")
    (tmp_path / "book/references.bib").write_text(known + bare + idle)
    assert complaints(tmp_path) == [
        "page.md: no entry for the citation 'lost'",
        "references.bib: 'bare' has none of doi, url, eprint",
        "references.bib: no page cites 'idle'",
    ]
    (tmp_path / "book/references.bib").write_text(known + known)
    assert len(complaints(tmp_path)) == 1


def test_house_rules_fit_one_screen_and_name_commands_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(text.splitlines()) <= 60
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {*re.findall(r"\bmake (\w+)", text)} <= set(targets)
    from cotbook.cli import main

    assert {*re.findall(r"\bcotflow ([a-z]+)", text)} <= {*main.commands}


def test_the_changelog_keeps_its_form_and_knows_the_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", h) for h in headings[1:])
    assert any(heading.startswith(f"[{version}]") for heading in headings)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert {*re.findall(r"^### (.+)$", text, re.MULTILINE)} <= kinds


@pytest.fixture
def stubs(tmp_path):
    """A folder with the Makefile, where stubs(name, script) puts a program into .venv/bin."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    bin = tmp_path / ".venv/bin"
    bin.mkdir(parents=True)

    def put(name: str, script: str) -> None:
        (bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (bin / name).chmod(0o755)
        os.utime(bin / name, (0, 0))  # as old as an interpreter of the system

    put("python", "exit 1")
    for name in ("requirements.txt", "pyproject.toml", ".venv/installed", ".venv/upkeep"):
        (tmp_path / name).touch()
    return put


@pytest.mark.parametrize("code", [0, 1])
def test_an_audit_that_cannot_ask_fails_and_says_so(tmp_path, stubs, code):
    stubs("python", "echo torch==2.0+cpu; echo numpy==2.0")
    stubs("pip-audit", f'echo "$@" > asked; exit {code}')
    done = subprocess.run(["make", "audit"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode == 0) == (code == 0)
    assert ("pypi.org did not answer" in done.stderr) == (code == 1)
    assert "--strict" in (tmp_path / "asked").read_text()
    assert (tmp_path / ".venv/audited.txt").read_text() == "torch==2.0\nnumpy==2.0\n"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_no_half_built_book(tmp_path, stubs, sent):
    """make, with a program in place of jupyter-book that writes a page and never ends."""
    stubs("jupyter-book", "mkdir -p _build/html && touch _build/html/a && exec sleep 60")
    process = subprocess.Popen(
        ["make", "book"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "_build/html/a").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, sent)
    message = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert "no half-built book" in message
    assert not (tmp_path / "_build/html").exists()
