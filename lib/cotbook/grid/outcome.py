"""What became of a sweep's jobs, read from its folder.

A chapter that reached its end left ``jobs/<id>/``, whatever its claims say; one that crashed left
``failed/<id>/``. Either folder appears at once and complete.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cotbook import records
from cotbook.claims import Entry

if TYPE_CHECKING:
    from cotbook.grid.file import Job

JOBS, FAILED, LOGS = Path("jobs"), Path("failed"), Path("logs")
REASON = "failure.txt"
PLAN, TABLE, PAGE, LOG = "plan.json", "table.csv", "index.html", "snakemake.log"


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes
    ----------
    claims : its claims, if it reached its end.
    failure : otherwise one sentence on why it did not, or None if it was not run yet.
    log : the file to read then.
    """

    job: Job
    claims: tuple[Entry, ...] | None
    failure: str | None
    log: Path

    @property
    def finished(self) -> bool:
        return self.claims is not None

    @property
    def holds(self) -> bool:
        return self.finished and not any(claim.missed for claim in self.claims or ())


def present(folder: Path) -> set[str]:
    """Ids of the jobs that have a place in the folder of a sweep, though it may be empty yet."""
    found: set[str] = set()
    for kind in (JOBS, FAILED):
        with suppress(FileNotFoundError):
            found.update(os.listdir(folder / kind))
    return found


def finished(folder: Path, id: str) -> bool:
    """Whether the job of that id has its result in the folder of a sweep, undamaged."""
    if not (folder / JOBS / id / records.CLAIMS).exists():
        return False
    try:
        records.of_run(folder / JOBS / id)
    except records.RecordError:
        return False
    return True


def damaged(folder: Path, id: str) -> bool:
    """Whether something lies in place of the result, of which no claim can be read."""
    return (folder / JOBS / id / records.CLAIMS).exists() and not finished(folder, id)


def failed(folder: Path, id: str) -> bool:
    return (folder / FAILED / id / REASON).exists()


def read(folder: Path, job: Job, attempted: bool = False, ended: str = "") -> Outcome:
    """The outcome of a job; if it was ``attempted`` and left nothing, the logs say why.

    So does ``ended``, where a cluster says how its job did.
    """
    log = folder / LOGS / f"{job.id}.log"
    claims = failure = None
    if (folder / JOBS / job.id / records.CLAIMS).exists():
        try:
            claims = records.of_run(folder / JOBS / job.id)
        except records.RecordError as error:
            failure = f"{error}; the same sweep runs it again"
    elif failed(folder, job.id):
        reason = (folder / FAILED / job.id / REASON).read_text(encoding="utf-8", errors="replace")
        failure = " ".join(reason.split()) or "it left no reason"
    elif attempted and (said := last_line(log)):
        failure = f"it ended without a result: {said}"
    elif attempted and ended:
        failure = f"it ended without a result: {ended}"
        log = folder / LOG
    elif attempted:
        log = folder / LOG
        failure = f"Snakemake left it without a result: {last_line(log)}"
    return Outcome(job=job, claims=claims, failure=failure, log=log)


def last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
