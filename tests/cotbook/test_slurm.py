"""``cotflow sweep`` on Slurm: a real one of one node, and what is said where there is none."""

import os
import re
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

import slurm
from books import COMMAND, invoke, tree, wait_for, write_chapter, write_sweep
from cotbook.grid import engine
from cotbook.grid import slurm as asked

README = Path(__file__).parents[2] / "README.md"
# The second job waits for a file, so that there is always something to interrupt.
WAITING = """\
import time
from pathlib import Path
with open({started!r}, "a") as stream:
    stream.write(f"{{n}}\\n")
while n == 2 and not Path({go!r}).exists():
    time.sleep(0.05)
"""


def write_book(root: Path) -> Path:
    code = WAITING.format(started=str(root / "started"), go=str(root / "go"))
    write_chapter(root, "waiting", ("parameters", "n: int = 1"), ("", code))
    write_sweep(root, "chapter: waiting\ngrid: {n: [1, 2]}\n")
    return root


def pretend(folder: Path, **said: str | None) -> str:
    """A PATH on which these commands print that, or fail; the others of Slurm are not there."""
    folder.mkdir()
    for name, text in said.items():
        end = "exit 1" if text is None else f"echo {text!r}"
        (folder / name).write_text(f"#!/bin/sh\n{end}\n")
        (folder / name).chmod(0o755)
    return str(folder)


ACCOUNTING = "AccountingStorageType   = accounting_storage/slurmdbd"
NONE = "AccountingStorageType   = accounting_storage/none"


@pytest.mark.parametrize(
    ("commands", "options", "sentence"),
    [
        ({"scontrol": NONE, "sacct": ""}, (), "AccountingStorageType is accounting_storage/none"),
        ({"scontrol": ACCOUNTING, "sacct": None}, (), "sacct does not answer"),
        ({"scontrol": ACCOUNTING}, (), "sacct does not answer"),
        ({}, (), "expected a Slurm that answers here"),
        ({"scontrol": None}, (), "expected a Slurm that answers here"),
        ({"scontrol": ACCOUNTING, "sacct": ""}, (), ""),
        ({}, ("--slurm-status-command", "squeue"), ""),
        ({}, ("--slurm-status-command=squeue",), ""),
    ],
)
def test_without_accounting_nothing_is_submitted(
    tmp_path, monkeypatch, commands, options, sentence
):
    monkeypatch.setattr(engine, "find_spec", lambda name: True)
    monkeypatch.setenv("PATH", pretend(tmp_path / "bin", **commands))
    found = asked.missing(("--executor", "slurm", *options))
    assert sentence in found and bool(found) == bool(sentence)
    if not sentence:
        return
    root = write_book(tmp_path / "book")
    before = tree(root)
    for executor in (("--executor", "slurm"), ("--executor=slurm",), ("-e", "slurm")):
        done = invoke(root, "sweep", "sweep.yml", "--", *executor, *options)
        assert done.exit_code == 2, done.output
        assert done.stderr == f"{found}\n"
    assert tree(root) == before


def test_other_executors_are_not_asked_for_accounting():
    for options in ((), ("--jobs", "4"), ("--executor", "kubernetes"), ("--executor=local",)):
        assert not asked.chosen(options)


LOG = """\
SLURM run ID: first
Job 1 has been submitted with SLURM jobid 4 (log: /of/slurm_logs/rule_job/n=1-ab/4.log).
Job 2 has been submitted with SLURM jobid 5 (log: /of/slurm_logs/rule_job/n=2-cd/5.log).
"""


@pytest.mark.parametrize(
    ("queue", "wanted", "waiting", "options", "patience"),
    [
        ("", 2, 1, (), asked.GRACE),
        ("", 3, 1, (), asked.LONGEST),  # others may still be submitted
        ("", 2, 1, ("--retries=1",), asked.LONGEST),
        ("", 3, 0, ("--retries=1",), asked.GRACE),
        ("5", 2, 1, (), None),
        (None, 2, 1, (), None),  # nobody answers
    ],
)
def test_snakemake_is_ended_when_no_job_of_its_run_is_in_the_queue(
    tmp_path, monkeypatch, queue, wanted, waiting, options, patience
):
    monkeypatch.setenv("PATH", pretend(tmp_path / "bin", squeue=queue))
    now = 1000.0
    monkeypatch.setattr(asked.time, "monotonic", lambda: now)
    log = tmp_path / "log"
    log.write_text(LOG.replace("first", "earlier").replace("jobid ", "jobid 1"))
    watch = asked.Watch(log, options)
    for _ in range(100):  # nothing was submitted yet
        now += asked.LOOK
        assert not watch.over(wanted, waiting)
    with log.open("a") as stream:
        stream.write(LOG)
    begun, ended = now, None
    while ended is None and now - begun < 2 * asked.LONGEST:
        now += asked.LOOK
        ended = now - begun if watch.over(wanted, waiting) else None
    if patience is None:
        assert ended is None
    else:
        assert patience < ended <= patience + 3 * asked.LOOK
    assert watch.submitted == {"4": "n=1-ab", "5": "n=2-cd"}


def test_what_slurm_says_of_a_job_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", pretend(tmp_path / "bin", squeue="4|COMPLETED\n5|OUT_OF_MEMORY"))
    watch = asked.Watch(tmp_path / "log", ())
    assert watch.ends() == {}
    (tmp_path / "log").write_text(LOG)
    assert watch.ends() == {"n=2-cd": "its job 5 of Slurm is OUT_OF_MEMORY"}


@pytest.fixture(scope="module")
def cluster():
    if find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("no snakemake-executor-plugin-slurm here: no sweep was executed on Slurm")
    if reason := slurm.unavailable():
        pytest.skip(reason)
    with slurm.one_node() as cluster:
        yield cluster


@pytest.mark.slow
def test_a_sweep_on_slurm_survives_the_end_of_itself_of_a_job_and_of_daemons(tmp_path, cluster):
    root = write_book(tmp_path)
    folder = root / "runs/sweep-sweep"
    (line,) = re.findall(r"sweep \S+ (-- --executor slurm .*)$", README.read_text(), re.MULTILINE)
    # looks early, for the jobs are short
    options = (*line.split(), "--slurm-init-seconds-before-status-checks", "1")

    def begin() -> subprocess.Popen:
        return subprocess.Popen(
            [COMMAND, "sweep", "sweep.yml", *options],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | cluster.variables,
        )

    def begun() -> list[str]:
        path = root / "started"
        return sorted(path.read_text().split()) if path.exists() else []

    def queue() -> list[str]:
        return cluster.say("squeue", "--noheader", "--format=%i").split()

    def finished() -> list[Path]:
        return sorted(folder.glob("jobs/*/claims.json"))

    # The sweep is killed: what it submitted goes on.
    process = begin()
    wait_for(lambda: len(finished()) == 1 and begun() == ["1", "2"], 60)
    process.kill()
    process.communicate()
    wait_for(lambda: len(queue()) == 1, 30)  # Snakemake gives what its job made a new time
    (first,) = finished()
    kept = first.stat().st_mtime_ns

    # The same command submits what is missing, and all its jobs are cancelled.
    process = begin()
    wait_for(lambda: begun() == ["1", "2", "2"], 60)
    for number in queue():
        cluster.say("scancel", number)
    said, err = process.communicate(timeout=90)
    assert process.returncode == 3, said + err
    assert "finished before: 1, to do: 1" in said
    sentence, log = err.splitlines()
    assert re.fullmatch(
        r"failed: waiting, n = 2: it ended without a result: its job \d+ of Slurm is CANCELLED",
        sentence,
    )
    assert log.startswith("  log: ")

    # Daemons are killed, and start again when the executor has asked in vain.
    process = begin()
    wait_for(lambda: begun() == ["1", "2", "2", "2"], 60)
    cluster.kill("slurmdbd")
    cluster.kill("slurmctld")
    before = cluster.asked()
    wait_for(lambda: cluster.asked() >= before + 5, 60)
    cluster.start_again()
    assert queue()
    (root / "go").touch()
    said, err = process.communicate(timeout=120)
    assert process.returncode == 0, said + err
    assert begun() == ["1", "2", "2", "2"]
    assert len(finished()) == 2 and first.stat().st_mtime_ns == kept

    # An interrupt cancels what was submitted, here jobs of another text.
    (root / "go").unlink()
    with (root / "book/waiting.md").open("a") as text:
        text.write("\nOne more sentence.\n")
    process = begin()
    wait_for(lambda: begun().count("2") == 4, 60)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "the same command goes on" in err
    wait_for(lambda: not queue(), 30)
