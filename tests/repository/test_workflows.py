"""The workflow that runs a chapter as a matrix: what it may do, and what it passes on."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
# YAML 1.1 reads the key `on` as true.
CHAPTER = yaml.load((ROOT / ".github/workflows/chapter.yml").read_text(), yaml.BaseLoader)
STEPS = CHAPTER["jobs"]["chapter"]["steps"]


def test_it_only_reads_and_its_actions_are_pinned_by_commit():
    assert CHAPTER["permissions"] == {"contents": "read"}
    assert "permissions" not in CHAPTER["jobs"]["chapter"]
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert len(used) == 3
    assert all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action) for action in used)


def test_what_is_asked_for_reaches_a_script_only_through_its_environment():
    assert not [step for step in STEPS if "${{" in step.get("run", "")]


def test_started_by_hand_and_called_it_takes_the_same_inputs():
    by_hand, called = CHAPTER["on"]["workflow_dispatch"], CHAPTER["on"]["workflow_call"]
    assert by_hand["inputs"] == called["inputs"]
    assert json.loads(called["inputs"]["parameters"]["default"]) == [{}]


def step(name: str) -> str:
    return next(entry["run"] for entry in STEPS if entry.get("name") == name)


def execute(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """A step as GitHub runs it, with a command that only writes down its arguments."""
    command = folder / ".venv/bin/cotflow"
    command.parent.mkdir(parents=True, exist_ok=True)
    command.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    command.chmod(0o755)
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(not shutil.which("jq"), reason="no jq here; GitHub's machines have it")
@pytest.mark.parametrize(
    ("values", "options"),
    [
        ({}, []),
        ({"depth": 4, "widths": [8, 16]}, ["-p", "depth", "4", "-p", "widths", "[8,16]"]),
        ({"act": "$(touch x) 'gelu'"}, ["-p", "act", "\"$(touch x) 'gelu'\""]),
    ],
)
def test_every_parameter_set_becomes_options_of_a_run(tmp_path, values, options):
    environment = {"CHAPTER": "-one", "PROFILE": "smoke", "VALUES": json.dumps(values)}
    done = execute(step("Run the chapter"), tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    expected = ["run", "--profile", "smoke", *options, "-o", "results", "--", "-one"]
    assert done.stdout.splitlines() == expected
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(not shutil.which("jq"), reason="no jq here; GitHub's machines have it")
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ('{"seed\\n-o": 1}', 'expected the name of a parameter, received "seed\\n-o"'),
        ('{"seed\\n": 1}', "expected the name of a parameter"),
        ('{"--help": 1}', "expected the name of a parameter"),
        ('{"rate": 1e400}', "rate: expected numbers below 1.8e308"),
        ('{"rates": [1, -1e400]}', "rates: expected numbers below 1.8e308"),
        ("[1]", "cannot be matched"),
    ],
)
def test_parameters_that_would_become_something_else_are_refused(tmp_path, values, sentence):
    environment = {"CHAPTER": "one", "PROFILE": "smoke", "VALUES": values}
    done = execute(step("Run the chapter"), tmp_path, **environment)
    assert done.returncode != 0 and done.stdout == ""
    assert sentence in done.stderr


def test_the_ledger_goes_to_the_summary_if_there_are_results(tmp_path):
    summary = tmp_path / "summary.md"
    for made in (False, True):
        if made:
            (tmp_path / "results").mkdir()
        done = execute(step("Post the ledger"), tmp_path, GITHUB_STEP_SUMMARY=str(summary))
        assert done.returncode == 0, done.stderr
        assert summary.exists() == made
    assert summary.read_text() == "ledger\nresults\n"


LEDGER = yaml.load((ROOT / ".github/workflows/ledger.yml").read_text(), yaml.BaseLoader)


@pytest.mark.parametrize("code", [0, 1])
def test_a_pull_request_shows_what_moved_and_is_red_if_a_verdict_changed(tmp_path, code):
    (script,) = (
        entry["run"]
        for entry in LEDGER["jobs"]["compare"]["steps"]
        if entry.get("name") == "Compare"
    )
    command = tmp_path / "new/.venv/bin/cotflow"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" moved summary\nexit {code}\n')
    command.chmod(0o755)
    done = execute(script, tmp_path, GITHUB_STEP_SUMMARY=str(tmp_path / "summary"))
    assert done.returncode == code
    assert done.stdout.splitlines()[0] == "diff old/_build/html new/_build/html"
    shown = (tmp_path / "summary").read_text()
    assert shown.splitlines()[0] == "summary" and "moved" in shown


def test_every_action_is_pinned_by_commit():
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        for used in re.findall(r"uses: (\S+)", path.read_text()):
            assert re.fullmatch(r"(actions/[\w-]+@[0-9a-f]{40}|\./.*)", used), (path.name, used)
