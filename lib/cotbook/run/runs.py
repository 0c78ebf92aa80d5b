"""Runs of a chapter: choose values, execute, keep the results."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from cotbook import parameters
from cotbook.errors import BadInput
from cotbook.run.profiles import values_of
from cotbook.run.tree import Source, book_root, chapter

if TYPE_CHECKING:
    from nbformat import NotebookNode


@dataclass(frozen=True)
class Failure:
    """Why an execution stopped: a crash, or claims that do not hold, which is a result."""

    sentence: str
    crash: bool = True


@dataclass(frozen=True)
class Execution:
    """Where a run's results lie, its claims' records, and the failure that ended it, if any."""

    output: Path
    claims: list[dict]
    failure: str | None
    crashed: bool = False

    @property
    def holds(self) -> bool:
        missed = [c for c in self.claims if c["verdict"] not in ("holds", "not tested here")]
        return self.failure is None and not missed


def run(
    name: str,
    profile_name: str = "default",
    overrides: dict[str, Any] | None = None,
    output: Path | None = None,
    root: Path | None = None,
) -> Execution:
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


def perform(source: Source, values: dict, given: Iterable[str], output: Path) -> Execution:
    """Execute a chapter at checked values, those named in ``given`` in place of its defaults."""
    import nbformat

    with workshop_beside(output) as workshop:
        notebook, failure = execute(source, workshop, {key: values[key] for key in given})
        claims, execution = _records(notebook)
        results = workshop / "results"
        results.mkdir()
        nbformat.write(notebook, results / f"{source.name}.ipynb")
        _write_json(results / "claims.json", claims)
        if execution:
            _write_json(results / "execution.json", execution)
        listing = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        (results / "parameters.yml").write_text(listing, encoding="utf-8")
        try:
            os.replace(results, output)
        except OSError:  # another run delivered there in the meantime
            output = output.with_name(f"{output.name}-{os.getpid()}")
            os.replace(results, output)
    if failure is None:
        return Execution(output, claims, None)
    return Execution(output, claims, failure.sentence, failure.crash)


def output_folder(path: Path) -> Path:
    """The absolute path of a folder for results, which need not exist yet."""
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # an unknown ~user, a loop, a zero byte
        raise BadInput(f"expected a folder for the results, received {path}: {error}") from None


def _is_free(folder: Path) -> bool:
    try:
        return not any(folder.iterdir())
    except FileNotFoundError:
        return True
    except OSError:
        return False


@contextmanager
def workshop_beside(output: Path) -> Iterator[Path]:
    """A hidden folder beside ``output``, gone at the end however the run ends."""
    missing = [folder for folder in output.parents if not folder.exists()]
    try:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            folder = TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent)
        except OSError as error:
            raise BadInput(f"cannot write in {output.parent}: {error.strerror}") from None
        with folder:
            yield Path(folder.name)
    finally:
        for folder in missing:
            with suppress(OSError):  # a folder that holds results stays
                folder.rmdir()


def execute(source: Source, folder: Path, given: dict) -> tuple[NotebookNode, Failure | None]:
    """The chapter executed inside ``folder``, as far as it went, and why it stopped, if it did."""
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError

    text, executed = folder / "text.ipynb", folder / "executed.ipynb"
    nbformat.write(source.notebook(), text)
    failure = None
    try:
        papermill.execute_notebook(
            # papermill fills {placeholders} in paths
            *(re.sub(r"([{}])", r"\1\1", str(path)) for path in (text, executed)),
            parameters=given,
            kernel_name="python3",
            progress_bar={"desc": source.name} if sys.stderr.isatty() else False,
            cwd=folder,
            extra_arguments=["--log-level=CRITICAL"],
        )
    except papermill.PapermillExecutionError as error:
        if error.ename == "ParameterError":
            raise BadInput(error.evalue) from None
        if error.ename == "ClaimsDoNotHold":
            failure = Failure(error.evalue, crash=False)
        else:
            what = " ".join(f"{error.ename}: {error.evalue}".split())
            sentence = f"cell [{error.exec_count}] of {source.name} stopped with {what}"
            failure = Failure(f"{sentence}; the traceback is in the notebook.")
    except DeadKernelError:
        failure = Failure(f"the process that executed {source.name} died")
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata.papermill |= {
        "input_path": f"book/{source.path.name}",
        "output_path": f"{source.name}.ipynb",
    }
    return notebook, failure


def _records(notebook: NotebookNode) -> tuple[list[dict], dict | None]:
    """The claims and the execution record that a chapter displayed."""
    from cotbook.chapter import CLAIM_MIME, EXECUTION_MIME

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    data = [output["data"] for output in outputs if "data" in output]
    executions = [entry[EXECUTION_MIME] for entry in data if EXECUTION_MIME in entry]
    claims = [entry[CLAIM_MIME] for entry in data if CLAIM_MIME in entry]
    return claims, executions[-1] if executions else None


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
