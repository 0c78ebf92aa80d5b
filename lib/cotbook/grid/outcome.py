"""What became of a sweep's jobs, read from its folder.

A chapter that reached its end left ``jobs/<id>/``, whatever its claims say; one that crashed left
``failed/<id>/``. Either folder appears at once and complete.
"""

from __future__ import annotations

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


def finished(folder: Path, id: str) -> bool:
    """Whether the job of that id has its result in the folder of a sweep."""
    return (folder / JOBS / id / records.CLAIMS).exists()


def failed(folder: Path, id: str) -> bool:
    return (folder / FAILED / id / REASON).exists()


def read(folder: Path, job: Job, attempted: bool = False) -> Outcome:
    """The outcome of a job; if it was ``attempted`` and left nothing, the logs say why."""
    log = folder / LOGS / f"{job.id}.log"
    claims = failure = None
    if finished(folder, job.id):
        place = folder / JOBS / job.id
        try:
            claims = records.of_run(place)
        except records.RecordError as error:
            failure = f"{error}; without {place} it is run again"
    elif failed(folder, job.id):
        failure = (folder / FAILED / job.id / REASON).read_text(encoding="utf-8").strip()
    elif attempted and (said := last_line(log)):
        failure = f"it ended without a result: {said}"
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
