"""One execution of one chapter: its parameters, its clock, its claims."""

from __future__ import annotations

import html
import re
import time
from datetime import UTC, datetime

import torch
from IPython.display import display

from cotbook import parameters, provenance
from cotbook.claims import Claim, Untested
from cotbook.figures import style

CLAIM_MIME = "application/vnd.cotflow.claim+json"
EXECUTION_MIME = "application/vnd.cotflow.execution+json"
MARKS = {"holds": "✔", "inconclusive": "?", "fails": "✘", "not tested here": "–"}
TALLY = {
    "holds": "hold",
    "inconclusive": "inconclusive",
    "fails": "fail",
    "not tested here": "not tested here",
}
SIGNS = {"equals": "=", "at most": "≤", "at least": "≥"}


def number(value: float) -> str:
    """Four significant digits, in the form a person would write."""
    text = f"{value:.4g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        return f"{mantissa}·10^{int(exponent)}"
    return text.replace("-", "−")


def html_number(value: float) -> str:
    return re.sub(r"\^(-?\d+)", r"<sup>\1</sup>", number(value)).replace("-", "−")


def html_statement(text: str) -> str:
    """Escaped text in which $…$ stays mathematics for MathJax."""
    pieces = text.split("$")
    return "".join(
        f'<span class="math notranslate nohighlight">\\({html.escape(piece)}\\)</span>'
        if i % 2
        else html.escape(piece)
        for i, piece in enumerate(pieces)
    )


def card(record: dict) -> str:
    """The claim as the reader meets it on the page."""
    rows = []
    if record["verdict"] == "not tested here":
        rows.append(("why", html.escape(record["reason"])))
    else:
        spread = ""
        if record["low"] != record["high"]:
            spread = (
                f" [{html_number(record['low'])}, {html_number(record['high'])}]"
                f" <small>{html.escape(record['interval'])}</small>"
            )
        rows.append(
            ("predicted", f"{SIGNS[record['relation']]} {html_number(record['predicted'])}")
        )
        rows.append(("measured", html_number(record["measured"]) + spread))
        rows.append(("tolerance", html_number(record["tolerance"])))
    body = "".join(f"<div><dt>{key}</dt><dd>{value}</dd></div>" for key, value in rows)
    verdict = record["verdict"]
    return (
        f'<div class="cotflow-claim cotflow-{verdict.replace(" ", "-")}" '
        f'id="claim-{record["chapter"]}-{record["name"]}">'
        f'<p class="cotflow-verdict">{MARKS[verdict]} {verdict} '
        f"<span>{html.escape(record['provenance'])}</span></p>"
        f"<p>{html_statement(record['statement'])}</p><dl>{body}</dl></div>"
    )


class ClaimsDoNotHold(AssertionError):
    """Some claims of an execution are inconclusive or fail: a result, not a crash."""


def shortfall(claim: Claim) -> str:
    """One sentence on why a claim does not hold."""
    shown = f"[{claim.low:.4g}, {claim.high:.4g}]"
    allowed = {
        "equals": f"{claim.predicted:.4g} ± {claim.tolerance:.4g}",
        "at most": f"the numbers ≤ {claim.predicted + claim.tolerance:.4g}",
        "at least": f"the numbers ≥ {claim.predicted - claim.tolerance:.4g}",
    }[claim.relation]
    word = {"inconclusive": "is inconclusive", "fails": "fails"}[claim.verdict]
    return f"{claim.name} {word}: {shown} is not inside {allowed}"


class Chapter:
    """Opens a chapter: checks its parameters, starts the clock, sets the style of figures.

    Parameters
    ----------
    name : the chapter's file name without its suffix.
    namespace : the notebook's ``globals()``; every annotated variable is checked against its
        annotation, so that a value injected by papermill meets the same rules as one that
        comes through ``cotflow run``.
    threads : torch's threads; one, because the products of one layer are too small to share.
    """

    def __init__(self, name: str, namespace: dict, threads: int = 1):
        torch.set_num_threads(threads)
        self.name = name
        self.parameters = parameters.check(namespace)
        self.claims: list[Claim | Untested] = []
        self._started = datetime.now(UTC)
        self._clock = time.perf_counter()
        style.use()

    def require(self, met: bool, sentence: str) -> None:
        """Refuse parameters that do not fit together, with a sentence that says what would."""
        if not met:
            raise parameters.ParameterError(sentence)

    def claim(self, **fields) -> None:
        """Record a :class:`cotbook.claims.Claim` and show it where the cell stands."""
        self._show(Claim(**fields))

    def table(self, head: list[str], rows: list[list[str]]) -> None:
        """Show a small table, its first column naming the rows."""

        def line(cells: list[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html_statement(c)}</{tag}>" for c in cells) + "</tr>"

        body = "".join(line(row, "td") for row in rows)
        shown = (
            f'<table class="table"><thead>{line(head, "th")}</thead><tbody>{body}</tbody></table>'
        )
        plain = "\n".join("  ".join(row) for row in [head, *rows])
        display({"text/html": shown, "text/plain": plain}, raw=True)

    def untested(self, **fields) -> None:
        """Record a statement that this machine cannot test, with the reason."""
        self._show(Untested(**fields))

    def _show(self, entry: Claim | Untested) -> None:
        if entry.name in {known.name for known in self.claims}:
            raise ValueError(f"chapter {self.name!r} already has a claim named {entry.name!r}")
        self.claims.append(entry)
        record = entry.record() | {
            "chapter": self.name,
            "library_hash": provenance.library_hash(),
            "executed": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        display(
            {
                "text/html": card(record),
                "text/plain": f"{entry.name}: {record['verdict']}",
                CLAIM_MIME: record,
            },
            raw=True,
        )

    def close(self) -> None:
        """Show the tally, leave the execution record, and fail if a claim does not hold."""
        verdicts = [entry.record()["verdict"] for entry in self.claims]
        tally = ", ".join(
            f"{verdicts.count(v)} {shown}" for v, shown in TALLY.items() if v in verdicts
        )
        device = str(self.parameters.get("device", "cpu"))
        if device.startswith("cuda"):
            device = torch.cuda.get_device_name(device)
        record = {
            "chapter": self.name,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self._clock, 1),
            "device": device,
            "machine": provenance.machine(),
            "threads": torch.get_num_threads(),
            "versions": provenance.versions(),
            "library_hash": provenance.library_hash(),
            "parameters": self.parameters,
        }
        display({"text/plain": f"claims: {tally}", EXECUTION_MIME: record}, raw=True)
        missed = [
            shortfall(entry)
            for entry, verdict in zip(self.claims, verdicts, strict=True)
            if verdict in ("inconclusive", "fails")
        ]
        if missed:
            raise ClaimsDoNotHold("; ".join(missed))
