"""What a sweep asks Slurm itself, beside Snakemake's executor ``slurm``.

The executor asks ``sacct`` what became of its jobs. Without accounting it hears nothing and waits
for ever; so it does for a job that a person cancelled, and for all jobs once ``sacct`` did not
answer for a moment. A sweep therefore looks at the queue as well, and ends Snakemake when no job
of this run is left in it.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

OPTION = "--slurm-status-command"
RETRIES = ("--retries", "--restart-times", "-T")
LOOK, GRACE = 10.0, 20.0
# Longer than the executor ever waits between two looks at its jobs, after which it submits others.
LONGEST = 240.0


def chosen(snakemake: Sequence[str]) -> bool:
    return (_value(snakemake, "--executor") or _value(snakemake, "-e")) == "slurm"


def missing(snakemake: Sequence[str]) -> str:
    """One sentence if nobody could tell the executor what became of its jobs."""
    if _value(snakemake, OPTION) == "squeue":
        return ""
    kind = _said("scontrol", "show", "config")
    if kind is None:
        return "--executor slurm: expected a Slurm that answers here, scontrol show config does not"
    found = re.search(r"^AccountingStorageType\s*=\s*(\S+)", kind, re.MULTILINE)
    if found and found[1].endswith("/none"):
        reason = f"AccountingStorageType is {found[1]}"
    elif _said("sacct", "--allocations", "--noheader") is None:
        reason = "sacct does not answer"
    else:
        return ""
    return (
        "--executor slurm: expected accounting by slurmdbd, without which Snakemake never hears "
        f"that a job ended, but {reason}; {OPTION} squeue does without it"
    )


class Watch:
    """The jobs of one run of Snakemake, read from what it appends to the log."""

    def __init__(self, log: Path, snakemake: Sequence[str]):
        self.log = log
        self.retries = any(argument.split("=")[0] in RETRIES for argument in snakemake)
        self.start = log.stat().st_size if log.exists() else 0
        self.looked = self.busy = time.monotonic()
        self.submitted: dict[str, str] = {}  # Slurm's number and our id; a group has one of them

    def over(self, wanted: int, waiting: int) -> bool:
        """Whether Snakemake, of ``wanted`` jobs, has none left that could still end."""
        now = time.monotonic()
        if now - self.looked < LOOK:
            return False
        self.looked, before = now, len(self.submitted)
        run = self._read()
        alive = _queue(run, "--format=%i") if run else None
        if alive is None or alive.strip() or len(self.submitted) != before or not before:
            self.busy = now
        nothing_more = waiting == 0 or (len(self.submitted) >= wanted and not self.retries)
        return now - self.busy > (GRACE if nothing_more else LONGEST)

    def ends(self) -> dict[str, str]:
        """Our ids, each with a sentence on how Slurm says that its job ended."""
        if not (run := self._read()):
            return {}
        told = {}
        for line in (_queue(run, "--format=%i|%T", "--states=all") or "").split():
            number, _, state = line.partition("|")
            if number in self.submitted and state != "COMPLETED":
                told[self.submitted[number]] = f"its job {number} of Slurm is {state}"
        return told

    def _read(self) -> str:
        """The name that the jobs of this run have in Slurm, if there is one yet."""
        try:
            with self.log.open("rb") as stream:
                stream.seek(self.start)
                text = stream.read().decode("utf-8", "replace")
        except OSError:
            return ""
        pattern = r"has been submitted with SLURM jobid (\d+) \(log: (?:.*/)?([^/\n]+)/[^/\n]*\)"
        self.submitted = dict(re.findall(pattern, text))
        runs = re.findall(r"^SLURM run ID: (\S+)$", text, re.MULTILINE)
        return runs[-1] if runs else ""


def _value(snakemake: Sequence[str], option: str) -> str:
    """The last value given to an option."""
    found = ""
    for argument, following in zip(snakemake, (*snakemake[1:], ""), strict=False):
        if argument == option:
            found = following
        elif argument.startswith(f"{option}="):
            found = argument.partition("=")[2]
    return found


def _queue(run: str, *options: str) -> str | None:
    own = f"--user={os.getuid()}"  # for which Slurm need not send the jobs of all others
    return _said("squeue", "--noheader", own, f"--name={run}", *options)


def _said(*command: str) -> str | None:
    """What a command of Slurm prints; None if it fails, is not there or takes too long."""
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
