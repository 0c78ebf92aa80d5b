"""One execution of one chapter: its parameters, its clock, its claims."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import torch
from IPython.core.getipython import get_ipython
from IPython.display import display

from cotbook import parameters, provenance, render
from cotbook.claims import (
    CASES_MIME,
    CLAIM_MIME,
    EXECUTION_MIME,
    TABLE_MIME,
    Claim,
    Entry,
    Execution,
    Untested,
    tally,
)
from cotbook.figures import style


def _put(shown: dict[str, Any], said: str = "") -> None:
    """Display in a notebook; where a chapter runs as a script, print."""
    if get_ipython() is None:
        print(said or shown["text/plain"])
    else:
        display(shown, raw=True)


class ClaimsDoNotHold(AssertionError):
    """Some claims of an execution are inconclusive or fail: a result, not a crash."""


def _settle_torch(threads: int) -> None:
    """Have torch as it is when freshly loaded, whatever a start-up file made of it."""
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.set_float32_matmul_precision("highest")
    torch.set_flush_denormal(False)
    if torch.are_deterministic_algorithms_enabled():  # to say so loads torch's compiler
        torch.use_deterministic_algorithms(False)


class Chapter:
    """Opens a chapter: checks its parameters, starts the clock, sets torch's defaults and the
    style of figures.

    What it displays carries the record beside its look in a live notebook; the book's pages are
    made from the record alone.

    Parameters
    ----------
    name : the chapter's file name without its suffix.
    namespace : the notebook's ``globals()``; every annotated variable is checked against its
        annotation, so that a value injected by papermill meets the same rules as one that
        comes through ``cotflow run``.
    threads : torch's threads; one, because the products of one layer are too small to share.
    """

    def __init__(self, name: str, namespace: dict[str, Any], threads: int = 1):
        _settle_torch(threads)
        self.name = name
        self.parameters = parameters.check(namespace)
        self.claims: list[Entry] = []
        self._library = provenance.execution_hash()
        self._started = datetime.now(UTC)
        self._clock = time.perf_counter()
        style.use()

    def require(self, met: bool, sentence: str) -> None:
        """Refuse parameters that do not fit together, with a sentence that says what would."""
        if not met:
            raise parameters.ParameterError(sentence)

    def claim(self, **fields: Any) -> None:
        """Record a :class:`cotbook.claims.Claim` and show it where the cell stands."""
        self._show(Claim(**fields, **self._origin()))

    def cases(self, statement: str, cases: Mapping[str, Mapping[str, Any]], **common: Any) -> None:
        """Record a claim for each case of one statement, and show them as one table.

        Parameters
        ----------
        statement : what the claims have in common, without a full stop; its case completes it.
        cases : the fields of a claim for each case, by what the case is called.
        common : fields that all of them share.
        """
        found = {
            case: Claim(**{**common, **fields, **self._origin()}, statement=f"{statement}: {case}.")
            for case, fields in cases.items()
        }
        for entry in found.values():
            self._keep(entry)
        rows = [{"case": case, CLAIM_MIME: entry.to_json()} for case, entry in found.items()]
        shown = {
            "text/html": render.cases(statement, found),
            "text/plain": "\n".join(f"{entry.name}: {entry.verdict}" for entry in found.values()),
            CASES_MIME: {"statement": statement, "rows": rows},
        }
        _put(shown, "\n".join([f"{statement}:", *map(render.line, found.values())]))

    def untested(self, **fields: Any) -> None:
        """Record a statement that this machine cannot test, with the reason."""
        self._show(Untested(**fields, **self._origin()))

    def table(self, head: list[str], rows: list[list[str]]) -> None:
        """Show a small table, its first column naming the rows."""
        shown = {
            "text/html": render.table(head, rows),
            "text/plain": "\n".join("  ".join(row) for row in [head, *rows]),
            TABLE_MIME: {"head": head, "rows": rows},
        }
        _put(shown)

    def _origin(self) -> dict[str, Any]:
        return {
            "chapter": self.name,
            "library_hash": self._library,
            "executed": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _keep(self, entry: Entry) -> None:
        if entry.name in {known.name for known in self.claims}:
            raise ValueError(f"chapter {self.name!r} already has a claim named {entry.name!r}")
        self.claims.append(entry)

    def _show(self, entry: Entry) -> None:
        self._keep(entry)
        shown = {
            "text/html": render.card(entry),
            "text/plain": f"{entry.name}: {entry.verdict}",
            CLAIM_MIME: entry.to_json(),
        }
        _put(shown, render.line(entry))

    def close(self) -> None:
        """Show the tally, leave the execution record, and fail if a claim does not hold."""
        device = str(self.parameters.get("device", "cpu"))
        if device.startswith("cuda"):
            device = torch.cuda.get_device_name(device)
        record = Execution(
            chapter=self.name,
            started=self._started.isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - self._clock, 1),
            device=device,
            machine=provenance.machine(),
            threads=torch.get_num_threads(),
            versions=provenance.versions(),
            library_hash=self._library,
            parameters=self.parameters,
        )
        said = f"claims: {tally(self.claims)}"
        _put({"text/plain": said, EXECUTION_MIME: record.to_json()})
        if missed := render.shortfalls(self.claims):
            raise ClaimsDoNotHold(missed)
