"""The book's chapters as programs: find them, choose values, execute, keep the results."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jupytext
import nbformat
import yaml
from nbformat import NotebookNode

from cotflow.book import parameters

CHECKED = "nbval-check-output"


class BadInput(ValueError):
    """A request that cannot be met, refused before anything is written."""


class CellFailure(RuntimeError):
    """A chapter stopped before its end."""


@dataclass(frozen=True)
class Source:
    """One chapter's text: ``book/<name>.md`` with a jupytext header and a parameters cell."""

    path: Path
    cells: list[NotebookNode]
    header: dict

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def paired(self) -> Path:
        """The committed notebook that belongs to this text."""
        return self.path.parent / "notebooks" / f"{self.name}.ipynb"

    @property
    def title(self) -> str:
        text = "\n".join(cell.source for cell in self.cells if cell.cell_type == "markdown")
        found = re.search(r"^# +(.+)$", text, re.MULTILINE)
        return found[1].strip() if found else self.name

    @cached_property
    def parameters(self) -> tuple[parameters.Parameter, ...]:
        cell = next(cell for cell in self.cells if "parameters" in tags(cell))
        try:
            return parameters.read_cell(cell.source)
        except parameters.ParameterError as error:
            raise BadInput(f"{self.path}: {error}") from None

    def notebook(self) -> NotebookNode:
        """The text as a notebook without outputs; the same text gives the same bytes."""
        stem = re.sub(r"[^\w-]", "-", self.name, flags=re.ASCII)[:56]
        cells = []
        for index, cell in enumerate(self.cells):
            fields = {"source": cell.source, "metadata": cell.metadata, "id": f"{stem}-{index}"}
            make = getattr(nbformat.v4, f"new_{cell.cell_type}_cell")
            cells.append(make(**fields))
        metadata = {
            "jupytext": {"formats": self.header.get("formats", "")},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
        return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def book_root(start: Path | None = None) -> Path:
    """Nearest folder at or above ``start`` (by default the current one) that holds ``_toc.yml``."""
    start = Path(start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "_toc.yml").is_file():
            return folder
    raise BadInput(f"no book here: neither {start} nor a folder above it holds _toc.yml")


def chapters(root: Path) -> dict[str, Source]:
    """The executable chapters of a book by name, in alphabetical order."""
    found = {}
    for path in sorted((root / "book").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if not re.match(r"---\n(?:.*\n)*?jupytext:", text):
            continue
        try:
            notebook = jupytext.reads(text, "md:myst")
        except ValueError as error:
            raise BadInput(f"{path}: {error}") from None
        if any("parameters" in tags(cell) for cell in notebook.cells):
            found[path.stem] = Source(path, notebook.cells, notebook.metadata.get("jupytext", {}))
    return found


def chapter(root: Path, name: str) -> Source:
    known = chapters(root)
    if name not in known:
        raise BadInput(f"unknown chapter {name!r}; {parameters.nearest(name, known)}")
    return known[name]


@dataclass(frozen=True)
class Profile:
    """Values for some parameters of some chapters, and a sentence about what they are for."""

    description: str
    values: dict[str, dict[str, Any]]


def profile_names(root: Path) -> list[str]:
    return sorted({"default", *(path.stem for path in (root / "book/profiles").glob("*.yml"))})


def profile(root: Path, name: str) -> Profile:
    """The file ``book/profiles/<name>.yml``; the profile ``default`` may do without a file."""
    known = profile_names(root)
    if name not in known:
        raise BadInput(f"unknown profile {name!r}; {parameters.nearest(name, known)}")
    path = root / "book/profiles" / f"{name}.yml"
    if not path.exists():
        return Profile("values of the chapters' parameters cells", {})
    try:
        content = parameters.load_yaml(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, ValueError) as error:
        raise BadInput(f"{path} is not readable as YAML: {error}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path}: expected chapter names with their parameters")
    content = {str(key): value for key, value in content.items()}
    said = [content.pop(key) for key in list(content) if key.startswith("description")]
    values = {key: value or {} for key, value in content.items()}
    book = chapters(root)
    for key, value in values.items():
        if key not in book:
            raise BadInput(f"{path}: unknown chapter {key!r}; {parameters.nearest(key, book)}")
        if not isinstance(value, dict):
            raise BadInput(f"{path}: expected parameters with their values under {key!r}")
        declared = [entry.name for entry in book[key].parameters]
        for name in value:
            if name not in declared:
                hint = parameters.nearest(str(name), declared)
                raise BadInput(f"{path}: unknown parameter {name!r} of {key}; {hint}")
    return Profile(" ".join(map(str, said)), values)


@dataclass(frozen=True)
class Execution:
    """Where a run's results lie, its claims' records, and the failure that ended it, if any."""

    output: Path
    claims: list[dict]
    failure: str | None

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
    given = profile(root, profile_name).values.get(name, {}) | (overrides or {})
    values = parameters.validate(source.parameters, given)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    output = Path(output or f"runs/{name}-{profile_name}-{stamp}").expanduser().resolve()
    if not _is_free(output):
        raise BadInput(f"expected a new or an empty folder for the results, received {output}")

    with _workshop(output) as workshop:
        notebook, failure = _execute(source, workshop, {key: values[key] for key in given})
        claims, execution = _records(notebook)
        results = workshop / "results"
        results.mkdir()
        nbformat.write(notebook, results / f"{name}.ipynb")
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
    return Execution(output, claims, failure)


def _is_free(folder: Path) -> bool:
    try:
        return not any(folder.iterdir())
    except FileNotFoundError:
        return True
    except OSError:
        return False


@contextmanager
def _workshop(output: Path) -> Iterator[Path]:
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


def _execute(source: Source, folder: Path, given: dict) -> tuple[NotebookNode, str | None]:
    """The chapter executed inside ``folder``, as far as it went, and why it stopped, if it did."""
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
        what = " ".join(f"{error.ename}: {error.evalue}".split())
        failure = f"cell [{error.exec_count}] of {source.name} stopped with {what}"
    except DeadKernelError:
        failure = f"the process that executed {source.name} died"
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata.papermill |= {
        "input_path": f"book/{source.path.name}",
        "output_path": f"{source.name}.ipynb",
    }
    return notebook, failure


def _records(notebook: NotebookNode) -> tuple[list[dict], dict | None]:
    """The claims and the execution record that a chapter displayed."""
    from cotflow.book.chapter import CLAIM_MIME, EXECUTION_MIME

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    data = [output["data"] for output in outputs if "data" in output]
    executions = [entry[EXECUTION_MIME] for entry in data if EXECUTION_MIME in entry]
    claims = [entry[CLAIM_MIME] for entry in data if CLAIM_MIME in entry]
    return claims, executions[-1] if executions else None


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def regenerate(source: Source) -> int:
    """Execute a chapter's text at its defaults into its paired notebook; count the checked cells.

    Of the outputs only the text of cells tagged ``nbval-check-output`` is kept.
    """
    parameters.validate(source.parameters, {})
    with _workshop(source.paired) as workshop:
        executed, failure = _execute(source, workshop, {})
        if failure:
            raise CellFailure(failure)
        notebook, checked = source.notebook(), 0
        code = [cell for cell in executed.cells if cell.cell_type == "code"]
        blank = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for count, (cell, done) in enumerate(zip(blank, code, strict=True), start=1):
            cell.execution_count = count
            if CHECKED in tags(cell):
                cell.outputs = _text(done.outputs, f"cell [{count}] of {source.name}", count)
                checked += bool(cell.outputs)
        nbformat.write(notebook, workshop / "notebook.ipynb")
        os.replace(workshop / "notebook.ipynb", source.paired)
    return checked


def _text(outputs: Iterable[NotebookNode], where: str, count: int) -> list[NotebookNode]:
    """Streams, one for each name, and plain texts; nbval compares these and passes over images."""
    kept: list[NotebookNode] = []
    streams: dict[str, NotebookNode] = {}
    for output in outputs:
        if output.output_type == "stream":
            if output.name in streams:
                streams[output.name].text += output.text
            else:
                streams[output.name] = nbformat.v4.new_output(
                    "stream", name=output.name, text=output.text
                )
                kept.append(streams[output.name])
            continue
        rich = set(output.data) - {"text/plain", "image/png", "image/jpeg"}
        if rich:
            raise CellFailure(
                f"{where} is tagged {CHECKED} and shows {', '.join(sorted(rich))}, "
                "where only printed text and plain results can be compared"
            )
        if "text/plain" in output.data:
            numbered = {"execution_count": count} if output.output_type == "execute_result" else {}
            plain = {"text/plain": output.data["text/plain"]}
            kept.append(nbformat.v4.new_output(output.output_type, data=plain, **numbered))
    return kept


def differs(source: Source) -> bool:
    """Whether the paired notebook is missing or has other cells than the text."""
    if not source.paired.is_file():
        return True
    try:
        committed = nbformat.read(source.paired, as_version=4).cells
    except (ValueError, nbformat.ValidationError):
        return True

    def essence(cells: list[NotebookNode]) -> list[tuple]:
        return [(cell.cell_type, cell.source, tags(cell)) for cell in cells]

    return essence(committed) != essence(source.cells)
