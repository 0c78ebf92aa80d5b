"""One job of a sweep: ``python -m cotbook.grid.job ID PARENT``, or a fork of ``grid/warm.py``.

The current folder is the sweep's, whose plan has the record of the :class:`cotbook.grid.file.Job`
of that id; PARENT is the process with which the job ends. A chapter that reaches its end leaves
``jobs/<id>/``, whatever its claims say; one that crashes leaves ``failed/<id>/``. Either folder
appears at once and complete.
"""

from __future__ import annotations

import sys

from cotbook.run.system import end_with_parent

if __name__ == "__main__":  # before the imports that take their time
    end_with_parent(int(sys.argv[2]))

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

from cotbook import provenance, render
from cotbook.errors import BadInput, Unfinished
from cotbook.grid.outcome import FAILED, JOBS, PLAN, REASON, finished

PATIENCE = 300  # seconds that a cell may take with an error planted: some never end


def perform(job: dict[str, Any]) -> int:
    """Execute the job's chapter beside its place, then move the result into place."""
    from cotbook.grid import file
    from cotbook.parameters import ParameterError
    from cotbook.run import runs
    from cotbook.run.edit import Edit, planted
    from cotbook.run.kernel import Kernel
    from cotbook.run.tree import chapter

    result, failed = JOBS / job["id"], FAILED / job["id"]
    if finished(Path(), job["id"]):
        return 0
    source = chapter(Path(job["root"]), job["chapter"])
    edit = Edit(**job["edit"]) if job["edit"] else None
    if not job["id"].endswith(file.digest(file.state_of(source), job["values"], job["edit"])):
        print(
            f"{source.name} or the library is not the one that the sweep began with: start it anew",
            file=sys.stderr,
        )
        return 2
    with runs.workshop_beside(result) as workshop:
        made = workshop / "made"
        if edit:
            source, Kernel.library = planted(edit, source, workshop)
            Kernel.nursery = None  # it has loaded the library without the error
        try:
            patience = PATIENCE if edit else None
            done = runs.perform(source, job["values"], job["given"], made, patience)
        except (BadInput, ParameterError) as error:  # values that do not fit together
            made.mkdir()
            done = runs.Result(made, (), runs.Failure(str(error)))
        if done.failure:
            print(render.terminal(done.failure.sentence), file=sys.stderr)
        crashed = done.failure is not None and done.failure.crash
        if done.failure and crashed:
            _print_traceback(made / f"{source.name}.ipynb")
            (made / REASON).write_text(f"{done.failure.sentence}\n", encoding="utf-8")
        place = failed if crashed else result
        place.parent.mkdir(exist_ok=True)
        shutil.rmtree(failed, ignore_errors=True)
        if finished(Path(), job["id"]):  # the same job, started by a run that was killed
            return 0
        try:
            os.replace(made, place)
        except OSError:  # what another one left that was killed, or that somebody damaged
            os.replace(place, workshop / "unfinished")
            os.replace(made, place)
    return int(crashed)


def _print_traceback(notebook: Path) -> None:
    """Copy the traceback of the crashed cell into the log, without the colours."""
    if not notebook.exists():
        return
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                text = "\n".join(output["traceback"])
                print(render.terminal(re.sub(r"\x1b\[[0-9;]*m", "", text)), file=sys.stderr)


def attempt(id: str, plan: dict[str, Any] | None = None) -> int:
    """Perform the job of that id; the exit code of its process."""
    # a sweep started in the background may ignore Ctrl-C, and its children inherit that
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        return perform(_record(id, plan or prepare()))
    except (BadInput, Unfinished, OSError) as error:
        print(render.terminal(str(error)), file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130


def prepare() -> dict[str, Any]:
    """The plan of the sweep; from here on this process has the surroundings that it names."""
    plan = json.loads(Path(PLAN).read_text(encoding="utf-8"))
    provenance.surround(plan.get("state", {}).get("surroundings", ()))
    return plan


def _record(id: str, plan: dict[str, Any]) -> dict[str, Any]:
    if id not in plan["jobs"]:
        raise BadInput(f"{id}: the plan of the sweep has no such job any more")
    return plan["jobs"][id]


if __name__ == "__main__":
    sys.exit(attempt(sys.argv[1]))
