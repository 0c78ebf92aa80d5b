"""The worker that the jobs of a sweep share: what it costs, what is killed, what stays apart."""

import json
import os
import resource
import subprocess
import sys
import uuid
from pathlib import Path

import nbformat
import psutil
import pytest

from books import (
    OPENING,
    begin,
    cotflow,
    invoke,
    wait_for,
    write_chapter,
    write_sweep,
    write_tiny_chapter,
)
from cotbook.grid import ask, engine, file, job


@pytest.fixture(autouse=True, scope="module")
def snakemake():
    if engine.find_spec("snakemake") is None:
        pytest.skip("no Snakemake here, as on Python 3.14: no sweep was executed")


def seconds(root: Path, *arguments: str) -> float:
    """Of the processor, of the command and of all that it started and waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = cotflow(root, *arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout + done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.slow
def test_one_more_job_costs_a_fraction_of_a_run(tmp_path):
    """Both are measured here and now: a busy machine makes both dearer."""
    write_chapter(
        tmp_path,
        "short",
        ("remove-cell", OPENING),
        ("parameters", "seed: Seed = 0  # first seed"),
        ("remove-cell", 'chapter = Chapter("short", globals())\nchapter.close()'),
    )
    spent = {}
    for count in (2, 12):
        seeds = ", ".join(map(str, range(count)))
        name = write_sweep(tmp_path, f"chapter: short\nseeds: [{seeds}]\n", f"s{count}.yml")
        spent[count] = seconds(tmp_path, "sweep", name)
    alone = seconds(tmp_path, "run", "short")
    more = (spent[12] - spent[2]) / 10
    print(f"CPU seconds: a run {alone:.2f}, one more job of a sweep {more:.2f}")
    assert more < alone / 3


# Each job leaves its marks where another one would see them.
MARKING = """\
import math, os, random, sys, warnings
import matplotlib.pyplot as plt
import numpy as np
import torch
"""
MARKS = """\
def seen():
    return [
        getattr(math, "mark", None), os.environ.get("MARK"), "mark" in sys.path,
        len(warnings.filters), plt.rcParams["lines.linewidth"], str(torch.get_default_dtype()),
        torch.get_num_threads(), np.get_printoptions()["precision"], sorted(os.listdir())[1:],
        torch.is_grad_enabled(), "mark" in sys.modules, "mark" in globals(), os.umask(0o22),
        len(os.sched_getaffinity(0)), os.nice(0),
    ]
print(seen())
print([torch.initial_seed(), random.random(), float(np.random.rand()), os.getpid()])
"""
LEAVING = """\
math.mark = mark = os.environ["MARK"] = "here"
sys.path.append("mark")
sys.modules["mark"] = math
warnings.simplefilter("error")
plt.rcParams["lines.linewidth"] = 30
torch.set_default_dtype(torch.float64)
torch.set_num_threads(3)
np.set_printoptions(precision=1)
torch.set_grad_enabled(False)
torch.manual_seed(0), random.seed(0), np.random.seed(0)
open("mark", "w").close()
torch.rand(300, 300) @ torch.rand(300, 300)
os.umask(0), os.nice(1), os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
"""


@pytest.mark.slow
def test_a_job_sees_nothing_of_the_jobs_before_it(tmp_path):
    write_chapter(
        tmp_path,
        "marking",
        ("", MARKING),
        ("parameters", "seed: int = 0  # s"),
        ("", MARKS),
        ("", LEAVING),
    )
    write_sweep(tmp_path, "chapter: marking\nseeds: [0, 1, 2, 3]\n")
    done = invoke(tmp_path, "sweep", "sweep.yml", "--cores", "1")
    assert done.exit_code == 0, done.output
    found = []
    for path in (tmp_path / "runs/sweep-sweep/jobs").glob("*/marking.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        said = "".join(o.text for cell in cells for o in cell.get("outputs", ()) if "text" in o)
        found.append(said.splitlines()[:2])
    assert len(found) == 4
    assert len({state for state, _ in found}) == 1
    drawn = [json.loads(numbers) for _, numbers in found]
    for numbers in zip(*drawn, strict=True):  # without a seed every job draws something else
        assert len(set(numbers)) == 4


# Where Snakemake may run jobs on other machines, the first job starts the worker.
ELSEWHERE = ("--", "--executor", "local", "--cores", "2")
WAITING = """\
import os, time
from pathlib import Path
with open({started!r}, "a") as stream:
    stream.write(f"{{n}} {{os.getpid()}}\\n")
while n > 1 and not Path({go!r}).exists():
    time.sleep(0.05)
"""


class Sweep:
    """Four jobs, of which the last three wait for a file, under way on two cores."""

    def __init__(self, root: Path, *options: str):
        self.root, self.folder, self.go = root, root / "runs/sweep-sweep", root / "go"
        self.started = root / "started"
        code = WAITING.format(started=str(self.started), go=str(self.go))
        write_chapter(root, "waiting", ("parameters", "n: int = 1"), ("", code))
        write_sweep(root, "chapter: waiting\ngrid: {n: [1, 2, 3, 4]}\n")
        self.mark = uuid.uuid4().hex
        self.process = begin(root, *options, MARK=self.mark, TMPDIR=str(root / "tmp"))
        (root / "tmp").mkdir(exist_ok=True)

    def kernels(self) -> dict[int, int]:
        """Numbers of the jobs that began, with their kernels' processes."""
        lines = self.started.read_text().splitlines() if self.started.exists() else []
        return dict(map(int, line.split()) for line in lines if len(line.split()) == 2)

    def wait(self) -> None:
        """Until two jobs wait."""
        wait_for(lambda: len(self.kernels().keys() - {1}) == 2 or self.process.poll() is not None)
        assert self.process.returncode is None, self.process.communicate()

    def family(self) -> list[psutil.Process]:
        """Everything that has this sweep's environment, whoever its parent is."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("MARK") == self.mark and process.status() != "zombie":
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def worker(self) -> psutil.Process:
        workers = [p for p in self.family() if "cotbook.grid.warm" in p.cmdline()]
        (found,) = [p for p in workers if p.parent() not in workers]
        return found

    def nursery(self) -> psutil.Process:
        (found,) = [p for p in self.worker().children() if "cotbook.grid.warm" not in p.cmdline()]
        return found

    def performers(self) -> list[psutil.Process]:
        return [p for p in self.worker().children() if "cotbook.grid.warm" in p.cmdline()]

    def end(self) -> tuple[int, str, str]:
        self.go.touch()
        out, err = self.process.communicate(timeout=300)
        wait_for(lambda: not self.family(), 60)
        return self.process.returncode, out, err

    def left(self) -> list[Path]:
        """What is no result, in the folder of the sweep and among temporary files."""
        return [*self.folder.glob("jobs/.*"), *(self.root / "tmp").glob("cotflow*")]


@pytest.fixture
def begun(tmp_path):
    """Begins a sweep, which ends with the test at the latest."""
    found: list[Sweep] = []

    def begin_sweep(*options: str) -> Sweep:
        found.append(Sweep(tmp_path, *options))
        found[0].wait()
        return found[0]

    yield begin_sweep
    for sweep in found:
        sweep.process.kill()
        sweep.process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ELSEWHERE])
def test_jobs_whose_worker_is_killed_get_another_one(tmp_path, begun, options):
    """Whoever started it: the sweep, or the first job where Snakemake may be elsewhere."""
    sweep = begun(*options)
    first, kernels = sweep.worker(), sweep.kernels()
    first.kill()
    wait_for(lambda: sweep.kernels() != kernels and len(sweep.performers()) == 2)
    assert sweep.worker().pid != first.pid
    code, out, err = sweep.end()
    assert code == 0, out + err
    assert "[4/4]" in out and len(list(sweep.folder.glob("jobs/*/claims.json"))) == 4
    if options:  # jobs of a cluster outlive their sweep; the next one here clears up
        assert invoke(tmp_path, "sweep", "sweep.yml").exit_code == 0
    assert sweep.left() == []


@pytest.mark.slow
def test_a_job_that_is_killed_ends_alone(tmp_path, begun):
    sweep = begun()
    sweep.performers()[0].kill()
    code, _, err = sweep.end()
    assert code == 3
    assert err.count("it ended without a result: the process of the job was ended by SIGKILL") == 1
    assert len(list(sweep.folder.glob("jobs/*/claims.json"))) == 3
    again = invoke(tmp_path, "sweep", "sweep.yml")
    assert again.exit_code == 0, again.output
    assert "finished before: 3, to do: 1" in again.output


@pytest.mark.slow
def test_a_kernel_that_is_killed_fails_its_job_alone(tmp_path, begun):
    sweep = begun()
    psutil.Process(sweep.kernels()[2]).kill()
    code, _, err = sweep.end()
    assert code == 3
    assert err.count("failed: waiting, n = 2: the process that executed waiting died") == 1
    assert len(list(sweep.folder.glob("jobs/*/claims.json"))) == 3


@pytest.mark.slow
def test_jobs_end_with_the_nursery_of_their_kernels_and_are_no_failures(tmp_path, begun):
    sweep = begun()
    first = sweep.nursery()
    first.kill()
    code, _, err = sweep.end()
    assert code == 3
    assert err.count("the process that starts its kernels was killed") == 2
    assert not list(sweep.folder.glob("failed/*"))
    assert len(list(sweep.folder.glob("jobs/*/claims.json"))) == 2
    again = invoke(tmp_path, "sweep", "sweep.yml")
    assert again.exit_code == 0, again.output


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ELSEWHERE])
def test_all_processes_end_with_the_sweep(tmp_path, begun, options):
    sweep = begun(*options)
    assert len(sweep.family()) >= 9
    sweep.process.kill()
    sweep.process.communicate()
    wait_for(lambda: not sweep.family(), 60)
    sweep.go.touch()
    again = invoke(tmp_path, "sweep", "sweep.yml")
    assert again.exit_code == 0, again.output
    assert "finished before: 1, to do: 3" in again.output
    assert sweep.left() == []


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ELSEWHERE])
def test_an_interrupt_leaves_nothing_half_done(tmp_path, begun, options):
    sweep = begun(*options)
    sweep.process.send_signal(2)
    out, err = sweep.process.communicate(timeout=300)
    assert sweep.process.returncode == 130, out + err
    assert "1 of 4 jobs are finished and kept" in err
    wait_for(lambda: not sweep.family(), 60)
    assert sweep.left() == []


def test_where_there_can_be_no_worker_the_job_has_a_process_of_its_own(monkeypatch):
    called = []

    def refuse(process: int) -> int:
        raise OSError("not permitted")

    def replaced(program: str, command: list[str]) -> None:
        called.append(command)
        raise SystemExit

    monkeypatch.setattr(ask.os, "pidfd_open", refuse)
    monkeypatch.setattr(ask.os, "execv", replaced)
    with pytest.raises(SystemExit):
        ask.main("a job", 17)
    assert called == [[sys.executable, "-m", "cotbook.grid.job", "a job", "17"]]


def test_an_address_belongs_to_one_process_alone():
    with ask.door(os.getpid()):
        assert ask.address(os.getpid()) != ask.address(os.getppid())
        with pytest.raises(OSError, match="in use"):
            ask.door(os.getpid())


def test_asking_loads_next_to_nothing():
    command = "import sys; sys.path.insert(0, sys.argv[1]); import ask; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", command, str(Path(ask.__file__).parent)],
        capture_output=True,
        text=True,
    )
    loaded = set(done.stdout.split())
    assert "ask" in loaded
    assert not {"ctypes", "subprocess", "json", "typing", "re", "cotbook"} & loaded


def plan(root: Path) -> dict:
    sweep = file.read(root / "sweep.yml", root)
    return json.loads(json.dumps(engine.plan(sweep, sweep.jobs, root / "out")))


@pytest.mark.parametrize(
    "variables", [{"OMP_NUM_THREADS": "3"}, {"MKL_CBWR": "COMPATIBLE"}, {"CC": "cc"}]
)
def test_variables_that_change_roundings_decide_which_jobs_are_new(
    tmp_path, monkeypatch, variables
):
    write_tiny_chapter(tmp_path)
    write_sweep(tmp_path, "chapter: tiny-rate\nseeds: [0]\n")
    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"], "KEPT": "1"})
    before = plan(tmp_path)
    os.environ["OMP_NUM_THREADS"] = "1"  # as a job has it anyway
    assert plan(tmp_path) == before
    os.environ.update(variables)
    after = plan(tmp_path)
    assert not before["jobs"].keys() & after["jobs"].keys()
    assert after["threads"] == int(variables.get("OMP_NUM_THREADS", 1))
    (tmp_path / "plan.json").write_text(json.dumps(before))
    monkeypatch.chdir(tmp_path)
    os.environ["OPENBLAS_CORETYPE"] = "Haswell"  # of another machine, say
    assert job.prepare() == before  # a job has the surroundings of its plan
    assert plan(tmp_path) == before
    assert os.environ["KEPT"] == "1" and "OPENBLAS_CORETYPE" not in os.environ


THREADS = """\
import os
print("threads", os.environ.get("OMP_NUM_THREADS"), os.environ.get("MKL_NUM_THREADS"))
"""


@pytest.mark.slow
def test_a_sweep_says_what_changed_and_executes_its_jobs_anew(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    write_chapter(tmp_path, "asking", ("parameters", "seed: int = 0  # s"), ("", THREADS))
    write_sweep(tmp_path, "chapter: asking\nseeds: [0]\n")

    def sweep(*options: str) -> tuple[str, list[str]]:
        done = invoke(tmp_path, "sweep", "sweep.yml", *options)
        assert done.exit_code == 0, done.output
        found = (tmp_path / "runs/sweep-sweep/jobs").glob("*/asking.ipynb")
        texts = [nbformat.read(path, as_version=4).cells[-1].outputs[0].text for path in found]
        return done.output, sorted(texts)

    said, threads = sweep()
    assert "changed since" not in said and threads == ["threads 1 None\n"]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    said, threads = sweep()
    assert (
        "changed since the last run: OMP_NUM_THREADS; its results (1) stay in jobs/, outside the "
        "table\n" in said
    )
    assert "finished before: 0, to do: 1" in said
    assert threads == ["threads 1 None\n", "threads 2 None\n"]
    monkeypatch.setattr(file, "chapter_hash", lambda code: "another")
    library = "changed since the last run: the library or a version; its results (1) stay"
    refused = invoke(tmp_path, "sweep", "sweep.yml")
    assert library in refused.output and refused.exit_code == 3
    assert "asking or the library is not the one that the sweep began with" in refused.output
    monkeypatch.undo()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    write_sweep(tmp_path, "chapter: asking\nseeds: [0, 1]\n")
    said, threads = sweep(*ELSEWHERE, "--set-threads", "job=2")  # which is not in the plan
    assert "finished before: 1, to do: 1" in said
    assert threads == ["threads 1 None\n", "threads 1 None\n", "threads 2 None\n"]
