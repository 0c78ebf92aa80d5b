"""Runs of a chapter: choose values, execute, keep the results."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from cotbook import parameters, records, render
from cotbook.claims import Entry, Execution
from cotbook.errors import BadInput, Unfinished, cannot_write
from cotbook.run.profiles import values_of
from cotbook.run.system import held
from cotbook.run.tree import Source, book_root, chapter

if TYPE_CHECKING:
    from nbformat import NotebookNode

EXECUTED = "executed.ipynb"


@dataclass(frozen=True)
class Failure:
    """Why an execution stopped: a crash, or claims that do not hold, which is a result."""

    sentence: str
    crash: bool = True


@dataclass(frozen=True)
class Result:
    """Where a run's files lie, its claims, and the failure that ended it, if any."""

    output: Path
    claims: tuple[Entry, ...]
    failure: Failure | None = None

    @property
    def holds(self) -> bool:
        return self.failure is None and not any(claim.missed for claim in self.claims)


def run(
    name: str,
    profile_name: str = "default",
    overrides: dict[str, Any] | None = None,
    output: Path | None = None,
    root: Path | None = None,
) -> Result:
    """Execute a chapter and leave its notebook, claims, record and parameters in a new folder.

    Parameters
    ----------
    name : the chapter, e.g. "depth-limit".
    profile_name : the profile whose values replace the defaults.
    overrides : values that replace both.
    output : a folder that does not exist or is empty; by default
        ``runs/<chapter>-<profile>-<date>-<time>`` under the current folder.
    root : the book's folder, by default the one around the current folder.

    Raises
    ------
    BadInput, ParameterError : the request cannot be met; nothing was written.
    """
    root = book_root(root)
    source = chapter(root, name)
    given = values_of(root, profile_name, name) | (overrides or {})
    values = parameters.validate(source.parameters, given)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    output = output_folder(output or Path(f"runs/{name}-{profile_name}-{stamp}"))
    if not _is_free(output):
        raise BadInput(f"expected a new or an empty folder for the results, received {output}")
    return perform(source, values, given, output)


def perform(
    source: Source,
    values: dict[str, Any],
    given: Iterable[str],
    output: Path,
    patience: int | None = None,
) -> Result:
    """Execute a chapter at checked values, those named in ``given`` in place of its defaults, no
    cell for longer than ``patience`` seconds.

    Raises
    ------
    Unfinished : the disk took no more; what was executed is in ``output``, if it could be kept.
    """
    with workshop_beside(output) as workshop:
        results = workshop / "results"
        try:
            done = execute(source, workshop, {key: values[key] for key in given}, patience)
            _write_results(results, source, values, done)
            output = _deliver(results, output)
        except OSError as error:
            kept = _rescue(workshop, source, output)
            where = f"the notebook is in {kept}" if kept else "nothing could be kept"
            reason = error.strerror or error
            raise Unfinished(f"{source.name} could not finish: {reason}; {where}") from None
    return Result(output=output, claims=done.claims, failure=done.failure)


def _write_results(results: Path, source: Source, values: dict[str, Any], done: Executed) -> None:
    import nbformat

    results.mkdir()
    _write_json(results / records.CLAIMS, [claim.to_json() for claim in done.claims])
    written = (results / records.CLAIMS).read_bytes()
    done.notebook.metadata[records.DIGEST] = sha256(written).hexdigest()
    nbformat.write(done.notebook, results / f"{source.name}.ipynb")
    if done.record:
        _write_json(results / records.EXECUTION, done.record.to_json())
    listing = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    (results / "parameters.yml").write_text(listing, encoding="utf-8")


def _deliver(results: Path, output: Path) -> Path:
    """Where the results lie now: in ``output``, or beside it if another run was there first."""
    try:
        os.replace(results, output)
        return output
    except OSError:
        if not (output.is_dir() and _is_free(output)):
            output = output.with_name(f"{output.name}-{os.getpid()}")
            os.replace(results, output)
            return output
    # An empty folder that none can take the place of, such as a mounted disk: a claim says that
    # the others are there.
    paths = sorted(results.iterdir(), key=lambda path: path.name == records.CLAIMS)
    try:
        for path in paths:
            shutil.copyfile(path, output / path.name)
    except OSError:
        for path in paths:
            (output / path.name).unlink(missing_ok=True)
        raise
    return output


def _rescue(workshop: Path, source: Source, output: Path) -> Path | None:
    """The executed notebook alone, put where the results would be; None if that fails too."""
    name = f"{source.name}.ipynb"
    rescued = workshop / "rescued"
    try:
        json.loads((workshop / EXECUTED).read_text(encoding="utf-8"))
        shutil.rmtree(workshop / "results", ignore_errors=True)
        rescued.mkdir()
        os.replace(workshop / EXECUTED, rescued / name)
        return _deliver(rescued, output)
    except (OSError, ValueError):
        return None


def output_folder(path: Path) -> Path:
    """The absolute path of a folder for results, which need not exist yet."""
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # an unknown ~user, a loop, a zero byte
        raise BadInput(f"expected a folder for the results, received {path}: {error}") from None


def _is_free(folder: Path) -> bool:
    try:
        return not any(_WORKSHOP.fullmatch(path.name) is None for path in folder.iterdir())
    except FileNotFoundError:
        return True
    except OSError:
        return False


@contextmanager
def workshop_beside(output: Path) -> Iterator[Path]:
    """A hidden folder beside ``output``, gone at the end however the run ends.

    Only a run that is killed by force leaves it behind, until the next one comes by. It is inside
    ``output`` if that is a folder whose surroundings are not to be written in.
    """
    missing = [folder for folder in output.parents if not folder.exists()]
    place = output.parent
    try:
        try:
            place.mkdir(parents=True, exist_ok=True)
            if output.is_dir() and not os.access(place, os.W_OK):
                place = output
            _clear(place)
            folder = TemporaryDirectory(prefix=f".cotflow-{os.getpid()}-", dir=place)
        except OSError as error:
            raise cannot_write(place, error) from None
        with folder, ExitStack() as stack:
            with suppress(OSError):  # a disk that knows no locks
                stack.enter_context(held(Path(folder.name)))
            yield Path(folder.name)
    finally:
        for made in missing:
            with suppress(OSError):  # a folder that holds results stays
                made.rmdir()


_WORKSHOP = re.compile(r"\.cotflow-(\d+)-\w+")


def _clear(folder: Path) -> None:
    """Remove the workshops of processes that were killed, here or in another container."""
    for path in folder.iterdir():
        named = _WORKSHOP.fullmatch(path.name)
        if named and path.is_dir() and not path.is_symlink() and not _lives(int(named[1])):
            with suppress(OSError), held(path) as free:
                if free:
                    shutil.rmtree(path, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # of another user
    return True


@dataclass(frozen=True)
class Executed:
    """A chapter's notebook as far as it went, what it recorded, and why it stopped, if it did."""

    notebook: NotebookNode
    claims: tuple[Entry, ...]
    record: Execution | None
    failure: Failure | None


def execute(
    source: Source, folder: Path, given: dict[str, Any], patience: int | None = None
) -> Executed:
    """The chapter executed inside ``folder``, no cell for longer than ``patience`` seconds.

    Raises
    ------
    BadInput : the chapter refused its parameters.
    Unfinished : what starts the kernels is gone, by no fault of the chapter.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    from cotbook.run.kernel import Kernel
    from cotbook.run.nursery import Lost

    text, executed = folder / "text.ipynb", folder / EXECUTED
    nbformat.write(source.notebook(), text)

    class Inside(Kernel):  # so that a run that is killed leaves nothing elsewhere
        place = folder.absolute()

    failure = None
    try:
        papermill.execute_notebook(
            # papermill fills {placeholders} in paths
            *(re.sub(r"([{}])", r"\1\1", str(path)) for path in (text, executed)),
            parameters=given,
            kernel_name="python3",
            kernel_manager_class=Inside,
            progress_bar={"desc": source.name} if sys.stderr.isatty() else False,
            cwd=folder,
            execution_timeout=patience,
            extra_arguments=["--log-level=CRITICAL"],
        )
    except papermill.PapermillExecutionError as error:
        # All that the kernel's protocol tells of an error's class is its name.
        if error.ename == parameters.ParameterError.__name__:
            raise BadInput(error.evalue) from None
        what = " ".join(f"{error.ename}: {error.evalue}".split())
        sentence = f"cell [{error.exec_count}] of {source.name} stopped with {what}"
        failure = Failure(f"{sentence}; the traceback is in the notebook.")
    except CellTimeoutError:
        failure = Failure(f"a cell of {source.name} took longer than {patience} s")
    except (DeadKernelError, Lost):
        if Kernel.nursery and Kernel.nursery.lost:
            reason = "the process that starts its kernels was killed"
            raise Unfinished(f"{source.name} could not finish: {reason}") from None
        failure = Failure(f"the process that executed {source.name} died")
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata.papermill |= {
        "input_path": f"book/{source.path.name}",
        "output_path": f"{source.name}.ipynb",
    }
    return _judged(source.name, notebook, failure)


def _judged(name: str, notebook: NotebookNode, failure: Failure | None) -> Executed:
    """With what the chapter recorded, which tells claims that do not hold from a crash."""
    try:
        claims, executions = records.of_notebook(notebook)
    except records.RecordError as error:
        failure = failure or Failure(f"{name}: {error}")
        return Executed(notebook=notebook, claims=(), record=None, failure=failure)
    missed = render.shortfalls(claims)
    if failure and executions and missed:  # a chapter's close fails exactly then
        failure = Failure(missed, crash=False)
    record = executions[-1] if executions else None
    return Executed(notebook=notebook, claims=claims, record=record, failure=failure)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
