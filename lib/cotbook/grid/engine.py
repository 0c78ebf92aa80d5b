"""A sweep run by Snakemake: what is missing is executed, what is there is kept.

The folder of a sweep holds ``jobs/``, ``failed/`` and ``logs/``, one entry a job, ``table.csv``,
``index.html``, Snakemake's log, and ``plan.json``, the configuration of the packaged Snakefile.
A job's result appears complete or not at all, so a run may be killed at any time. Results of
earlier values, texts or libraries stay in ``jobs/``, outside the table, until somebody removes
them. Jobs on other machines need this folder and the book at the same paths as here. The worker
that performs the jobs (``warm.py``) is started here, or where Snakemake starts jobs elsewhere by
the first of them (``ask.py``).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from cotbook import records
from cotbook.claims import tally
from cotbook.errors import BadInput, cannot_write
from cotbook.grid import ask, outcome, slurm, table
from cotbook.grid.file import Job, Sweep
from cotbook.grid.outcome import Outcome
from cotbook.run.system import change, end_with_parent, held

SNAKEFILE = Path(__file__).with_name("Snakefile")
# With one of these, Snakemake's own settings say how much runs at once.
OWN_CORES = r"--(cores|jobs|executor|profile|workflow-profile)|-[cj]\d*|-e"
# Snakemake only shows something and executes nothing.
SHOWS = ("-n", "--dry-run", "--dryrun", "--dag", "--rulegraph", "--summary", "--help", "--version")
LOCK = ".lock"
# What the folder of a sweep holds
OWN = {
    *(LOCK, outcome.PLAN, outcome.TABLE, outcome.PAGE, outcome.LOG, ".snakemake"),
    *map(str, (outcome.JOBS, outcome.FAILED, outcome.LOGS)),
}
POLL, HEARTBEAT, PATIENCE = 0.2, 30.0, 15.0

Echo = Callable[[str], None]


def run(
    sweep: Sweep,
    folder: Path,
    cores: str = "all",
    retry: bool = False,
    snakemake: Sequence[str] = (),
    echo: Echo = print,
    tables: bool = True,
) -> list[Outcome]:
    """Execute the jobs that have no result yet, and gather all results of the sweep.

    Parameters
    ----------
    sweep : the jobs.
    folder : where results are kept: new, empty, or of an earlier run of this sweep.
    cores : how many jobs run at once on this machine, or "all".
    retry : also those that failed before.
    snakemake : further arguments for Snakemake.
    echo : receives a line of progress now and then.
    tables : write the table and the page of all results.

    Raises
    ------
    BadInput : the folder or Snakemake's arguments are refused; nothing was written.
    KeyboardInterrupt : with a message that says how to go on.
    """
    _need_snakemake()
    _refuse_foreign(folder, sweep)
    if slurm.chosen(snakemake) and (reason := slurm.missing(snakemake)):
        raise BadInput(reason)
    if tables:
        from cotbook.grid import page  # with matplotlib, which takes longer than a refusal may

    new = not folder.exists()
    with _held(folder):
        _sweep_out(folder, snakemake)
        if told := changes(sweep, folder):
            echo(told)
        wanted = _wanted(sweep, folder, retry)
        for job in wanted:
            shutil.rmtree(folder / outcome.FAILED / job.id, ignore_errors=True)
            if outcome.damaged(folder, job.id):
                echo(f"{job.label}: {outcome.read(folder, job).failure}")
                (folder / outcome.JOBS / job.id / records.CLAIMS).unlink()
        change(folder / outcome.PLAN, json.dumps(plan(sweep, wanted, folder), indent=1) + "\n")
        echo(_opening(sweep, folder, wanted))
        watch = slurm.Watch(folder / outcome.LOG, snakemake) if slurm.chosen(snakemake) else None
        if wanted:
            code = _snakemake(folder, cores, snakemake, wanted, echo, watch)
            if code == 2 and not any(outcome.finished(folder, job.id) for job in wanted):
                reason = outcome.last_line(folder / outcome.LOG)
                if new:
                    shutil.rmtree(folder)
                raise BadInput(f"Snakemake did not accept its arguments: {reason}")
        ends = watch.ends() if watch else {}
        outcomes = [
            outcome.read(folder, job, attempted=job in wanted, ended=ends.get(job.id, ""))
            for job in sweep.jobs
        ]
        if tables:
            change(folder / outcome.TABLE, table.csv_text(sweep, outcomes))
            change(folder / outcome.PAGE, page.html_text(sweep, outcomes, folder))
    return outcomes


def show(sweep: Sweep, folder: Path, retry: bool, snakemake: Sequence[str]) -> int:
    """Let Snakemake say what it would do; write nothing. Returns the exit code."""
    from tempfile import TemporaryDirectory

    _need_snakemake()
    wanted = _wanted(sweep, folder, retry)
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / outcome.PLAN
        change(path, json.dumps(plan(sweep, wanted, folder)))
        code = subprocess.run(_command(Path(scratch), path, "all", snakemake)).returncode
    return code if code in (0, 2) else 3


def _wanted(sweep: Sweep, folder: Path, retry: bool) -> list[Job]:
    return [
        job
        for job in sweep.jobs
        if not outcome.finished(folder, job.id) and (retry or not outcome.failed(folder, job.id))
    ]


def plan(sweep: Sweep, wanted: Sequence[Job], folder: Path) -> dict[str, Any]:
    """The configuration of the Snakefile, and the records that the jobs read."""
    return {
        "file": os.path.relpath(sweep.path, folder),
        "sweep": sweep.name,
        "chapter": sweep.chapter,
        "profile": sweep.profile,
        "state": sweep.state,
        "threads": _threads(sweep),
        "jobs": {job.id: job.record() for job in sweep.jobs},
        "wanted": [job.id for job in wanted],
    }


def changes(sweep: Sweep, folder: Path) -> str:
    """One sentence if there are results that the sweep's state of now did not give."""
    try:
        before = json.loads((folder / outcome.PLAN).read_text(encoding="utf-8"))
        made = sum(outcome.finished(folder, str(id)) for id in before["jobs"])
        old, new = _parts(before["state"]), _parts(sweep.state)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""  # nothing, or nothing whole, was made before
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if not (made and changed):
        return ""
    return (
        f"changed since the last run: {', '.join(changed)}; "
        f"its results ({made}) stay in jobs/, outside the table"
    )


def _parts(state: dict[str, Any]) -> dict[str, str]:
    """What decides a sweep's results, by the names that a person has for it."""
    named = {"the chapter's text": state["text"], "the library or a version": state["library"]}
    return named | dict(entry.split("=", 1) for entry in state["surroundings"])


def _threads(sweep: Sweep) -> int:
    """Cores that Snakemake keeps for a job."""
    first = _parts(sweep.state)["OMP_NUM_THREADS"].partition(",")[0].strip()
    return max(int(first), 1) if first.isdecimal() else 1


def remote(snakemake: Sequence[str]) -> bool:
    """Whether the jobs run, or may run, on other machines."""
    names = [argument.split("=")[0] for argument in snakemake]
    chosen = any(name in ("--executor", "-e", "--profile", "--workflow-profile") for name in names)
    return chosen or "SNAKEMAKE_PROFILE" in os.environ


def shows_only(snakemake: Sequence[str]) -> bool:
    return any(argument in SHOWS for argument in snakemake)


def _need_snakemake() -> None:
    if find_spec("snakemake") is None:
        remedy = "pip install 'cotflow[sweep]'"
        if sys.version_info >= (3, 14):
            remedy = "it cannot be installed on Python 3.14 or later, but on 3.11 to 3.13"
        raise BadInput(f"sweeps need Snakemake: {remedy}")


def _refuse_foreign(folder: Path, sweep: Sweep) -> None:
    """Results of something else are not mixed with this sweep's."""
    expected = f"expected a new folder, or one of a sweep of {sweep.chapter}, received {folder}"
    try:
        if not folder.exists() or not any(folder.iterdir()):
            return
    except OSError:
        raise BadInput(f"{expected}, which holds something else") from None
    try:
        found = json.loads((folder / outcome.PLAN).read_text(encoding="utf-8"))
        held, origin = str(found["chapter"]), folder / str(found.get("file", ""))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        if _begun(folder):
            return
        raise BadInput(f"{expected}, which holds something else") from None
    if held != sweep.chapter:
        raise BadInput(f"{expected}, which holds a sweep of {held}")
    # A file that is gone was moved or renamed.
    if found.get("file") and origin.is_file() and origin.resolve() != sweep.path:
        raise BadInput(
            f"{folder} holds the sweep of {origin.resolve()}: expected that file, received "
            f"{sweep.path}; -o names another folder"
        )


def _begun(folder: Path) -> bool:
    """Whether a sweep was stopped here before its plan was whole, or the plan was damaged."""
    names = {path.name for path in folder.iterdir()}
    return LOCK in names and all(
        name in OWN or (name.startswith(".") and name.endswith(".part")) for name in names
    )


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The folder for this process alone."""
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / LOCK).touch()
            free = stack.enter_context(held(folder / LOCK))
        except (OSError, ValueError) as error:
            raise cannot_write(folder, error) from None
        if not free:
            raise BadInput(f"another run of this sweep is at work in {folder}")
        yield


def _sweep_out(folder: Path, snakemake: Sequence[str]) -> None:
    """Remove what a killed run left of unfinished jobs: hidden workshops and empty places."""
    if remote(snakemake):  # jobs of a cluster outlive the run that submitted them
        return
    for entry in (folder / outcome.JOBS).glob("*"):
        if entry.name.startswith("."):
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with suppress(OSError):  # a result stays
                entry.rmdir()


def _command(
    directory: Path, configuration: Path, cores: str, snakemake: Sequence[str]
) -> list[str]:
    own = any(re.fullmatch(OWN_CORES, argument.split("=")[0]) for argument in snakemake)
    return [
        *(sys.executable, "-m", "snakemake"),
        *("--snakefile", str(SNAKEFILE), "--configfile", str(configuration)),
        *("--directory", str(directory)),
        # One crash does not stop the others. A result in place is complete, whatever Snakemake
        # had noted of its job when it was killed; and this run alone holds the folder.
        *("--keep-going", "--ignore-incomplete", "--rerun-incomplete", "--nolock"),
        # The folder's name decides whether a result is current.
        *("--rerun-triggers", "input"),
        # The jobs are all alike: there is no best order, for which others search long.
        *("--scheduler", "greedy"),
        *([] if own else ["--cores", cores]),
        *snakemake,
    ]


def _snakemake(
    folder: Path,
    cores: str,
    snakemake: Sequence[str],
    wanted: Sequence[Job],
    echo: Echo,
    watch: slurm.Watch | None = None,
) -> int:
    """Run Snakemake to its end and tell of every job that ends meanwhile."""
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {signal.SIGTERM: signal.signal(signal.SIGTERM, signal.default_int_handler)}
    command = _command(folder, folder / outcome.PLAN, cores, snakemake)
    told = _Teller(folder, wanted, echo)
    with (folder / outcome.LOG).open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=partial(end_with_parent, os.getpid()),
        )
        worker = None
        try:
            worker = None if remote(snakemake) else _worker(process, folder, log)
            while process.poll() is None:
                told.look()
                if watch and watch.over(len(wanted), len(told.waiting)):
                    _stop(process, worker)
                time.sleep(POLL)
        except KeyboardInterrupt:
            _stop(process, worker)
            _sweep_out(folder, snakemake)
            done = sum(outcome.finished(folder, job.id) for job in wanted)
            raise KeyboardInterrupt(
                f"Interrupted: nothing half-written was left behind. {done} of {len(wanted)} jobs "
                "are finished and kept; the same command goes on with the others."
            ) from None
        except BaseException:
            _stop(process, worker)
            raise
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        if worker:
            worker.wait()  # it ends with Snakemake
    told.look()
    _sweep_out(folder, snakemake)
    return process.returncode


def _worker(process: subprocess.Popen, folder: Path, log: IO[bytes]) -> subprocess.Popen | None:
    """What performs the jobs that this process of Snakemake starts, if the system allows it."""
    with suppress(AttributeError, OSError), ask.door(process.pid) as listener:
        life = os.pidfd_open(process.pid)
        try:
            return subprocess.Popen(
                ask.worker(listener, life),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno(), life],
                start_new_session=True,
            )
        finally:
            os.close(life)
    return None


def _stop(process: subprocess.Popen, worker: subprocess.Popen | None) -> None:
    """Ctrl-C for Snakemake and its jobs; whoever does not heed it in time is killed."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(PATIENCE)
            break
    if worker:
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            worker.wait(PATIENCE)
        worker.kill()
        worker.wait()


class _Teller:
    """Tells of jobs as their results appear, and every now and then that some are at work."""

    def __init__(self, folder: Path, wanted: Sequence[Job], echo: Echo):
        self.folder, self.echo = folder, echo
        self.waiting = {job.id: job for job in wanted}
        self.count = len(wanted)
        self.started = self.spoken = time.monotonic()

    def look(self) -> None:
        for job in [self.waiting[id] for id in outcome.present(self.folder) & self.waiting.keys()]:
            if not (outcome.finished(self.folder, job.id) or outcome.failed(self.folder, job.id)):
                continue
            del self.waiting[job.id]
            found = outcome.read(self.folder, job, attempted=True)
            self._say(f"{self._ended()} {job.label}: {_ending(found)}")
        if time.monotonic() - self.spoken > HEARTBEAT:
            self._say(f"{self._ended()} … {time.monotonic() - self.started:.0f} s")

    def _ended(self) -> str:
        return f"[{self.count - len(self.waiting)}/{self.count}]"

    def _say(self, line: str) -> None:
        self.echo(line)
        self.spoken = time.monotonic()


def _ending(found: Outcome) -> str:
    return found.failure or f"claims: {tally(found.claims or [])}"


def _opening(sweep: Sweep, folder: Path, wanted: Sequence[Job]) -> str:
    kept = sum(outcome.finished(folder, job.id) for job in sweep.jobs)
    crashed = sum(outcome.failed(folder, job.id) for job in sweep.jobs)
    words = [f"{sweep.chapter}: jobs: {len(sweep.jobs)}", f"finished before: {kept}"]
    if crashed:
        words.append(f"failed before: {crashed} (--retry runs them again)")
    return ", ".join([*words, f"to do: {len(wanted)}"])
