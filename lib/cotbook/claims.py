"""Claims: a statement, what theory predicts, what was measured, and the verdict that follows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, assert_never, get_args

Relation = Literal["equals", "at most", "at least"]
Verdict = Literal["holds", "inconclusive", "fails", "not tested here"]
Kind = Literal[
    "rounding", "identity", "exponent", "constant", "bound", "threshold", "outside", "search"
]

CLAIM_MIME = "application/vnd.cotflow.claim+json"
CASES_MIME = "application/vnd.cotflow.cases+json"
EXECUTION_MIME = "application/vnd.cotflow.execution+json"
TABLE_MIME = "application/vnd.cotflow.table+json"

KINDS: dict[Kind, str] = {
    "rounding": "two ways to one number, equal up to the roundings or the error of a method",
    "identity": "true by construction, here to be seen, not to be tested",
    "exponent": "an exponent that theory gives",
    "constant": "a number that theory gives",
    "bound": "an inequality that theory proves, with the share of it that was reached",
    "threshold": "on the right side of a mark that we set",
    "outside": "seen outside the conditions of a statement, which says nothing there",
    "search": "what a search for a counterexample came to",
}
# Beyond this a bound says why it is loose, or which case comes near it.
SLACK = 10.0
# How an interval is called whose ends are cases.
RANGE = "range over "
PLURALS: dict[Verdict, str] = {
    "holds": "hold",
    "inconclusive": "inconclusive",
    "fails": "fail",
    "not tested here": "not tested here",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the ledger: a :class:`Claim` or a statement that is :class:`Untested`.

    Parameters
    ----------
    name : identifier inside the chapter, lower case with hyphens.
    statement : one sentence, LaTeX between dollar signs allowed.
    provenance : the mark [B], [M], [C] or [R] with the result's name, e.g. "[M] Prop. 3".
    chapter, library_hash, executed : where, with which sources and when it was recorded.
    """

    name: str
    statement: str
    provenance: str
    chapter: str = ""
    library_hash: str = ""
    executed: str = ""

    @property
    def verdict(self) -> Verdict:
        raise NotImplementedError

    @property
    def missed(self) -> bool:
        """Whether it was measured and does not hold: no book with such an entry is released."""
        return self.verdict in ("inconclusive", "fails")

    @property
    def anchor(self) -> str:
        """The id of its card on the chapter's page."""
        return f"claim-{self.chapter}-{self.name}"

    def to_json(self) -> dict[str, Any]:
        """Plain data, the verdict included. A number that is not finite is the text "nan" or "inf",
        since JSON has none."""
        content = {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }
        return content | {"verdict": self.verdict}


@dataclass(frozen=True, kw_only=True)
class Claim(Entry):
    """predicted ⋈ measured, up to a tolerance, where ⋈ is =, ≤ or ≥.

    The verdict is computed from the whole interval, never from the point alone:

    - "equals":   [low, high] inside [predicted − tolerance, predicted + tolerance];
    - "at most":  high ≤ predicted + tolerance;
    - "at least": low ≥ predicted − tolerance.

    It is "holds" if so, "fails" if the interval misses the allowed set altogether, and
    "inconclusive" if it straddles its border: the error of sampling leaves it open. A range over
    cases leaves nothing open, since one case outside refutes: such a claim holds or fails. A number
    that is not finite fails.

    Beside the fields of :class:`Entry` it has these.

    Parameters
    ----------
    predicted, measured : numbers.
    kind : what sort of statement is tested, a key of :data:`KINDS`.
    low, high : the measured interval; both default to ``measured`` for a deterministic number.
    interval : what the interval is, e.g. "95% over 5 seeds" or "deterministic"; "range over …"
        if its ends are the extreme cases.
    loose : of a bound that is far from what was measured, why it is.
    companion : the claim of the same chapter that comes near to it.
    """

    predicted: float
    measured: float
    tolerance: float
    kind: Kind
    relation: Relation = "equals"
    # None as an argument alone: the fields are numbers.
    low: float = None  # type: ignore[assignment]
    high: float = None  # type: ignore[assignment]
    interval: str = "deterministic"
    loose: str = ""
    companion: str = ""

    def __post_init__(self) -> None:
        if not self.provenance.startswith(("[B]", "[M]", "[C]", "[R]")):
            raise ValueError(
                f"claim {self.name!r}: expected a provenance that starts with [B], [M], [C] or [R]"
                f", received {self.provenance!r}"
            )
        if self.relation not in get_args(Relation):
            raise ValueError(
                f"claim {self.name!r}: expected a relation among {get_args(Relation)}, "
                f"received {self.relation!r}"
            )
        if self.kind not in KINDS:
            raise ValueError(
                f"claim {self.name!r}: expected a kind among {tuple(KINDS)}, received {self.kind!r}"
            )
        if self.kind == "bound" and self.relation == "equals":
            raise ValueError(
                f"claim {self.name!r}: expected at most or at least for a bound, received equals"
            )
        if (self.loose or self.companion) and self.kind != "bound":
            raise ValueError(
                f"claim {self.name!r}: expected a bound beside loose and companion, "
                f"received the kind {self.kind!r}"
            )
        if not self.tolerance >= 0:
            raise ValueError(
                f"claim {self.name!r}: expected a tolerance ≥ 0, received {self.tolerance}"
            )
        if (self.low is None) != (self.high is None):
            raise ValueError(f"claim {self.name!r}: give both ends of the interval, or neither")
        for end in ("predicted", "measured", "tolerance"):
            object.__setattr__(self, end, float(getattr(self, end)))
        for end in ("low", "high"):
            given = getattr(self, end)
            object.__setattr__(self, end, self.measured if given is None else float(given))
        if self.low > self.high:
            raise ValueError(
                f"claim {self.name!r}: expected low ≤ high, received [{self.low}, {self.high}]"
            )

    @property
    def allowed(self) -> tuple[float, float]:
        """The ends of the set in which the whole interval must lie."""
        floor, ceiling = self.predicted - self.tolerance, self.predicted + self.tolerance
        match self.relation:
            case "equals":
                return floor, ceiling
            case "at most":
                return -math.inf, ceiling
            case "at least":
                return floor, math.inf
            case other:
                assert_never(other)

    @property
    def strength(self) -> float | None:
        """How near the measurement came to its limit, 1 being there; None where that is no ratio.

        Of a bound it is its sharpness, measured/predicted for "at most" and the inverse for "at
        least"; of others the distance to the predicted number in units of the tolerance, negative
        on the good side of an inequality.
        """
        if self.kind == "bound":
            small, large = self.high, self.predicted
            if self.relation == "at least":
                small, large = self.predicted, self.low
            return small / large if large > 0 and small >= 0 else None
        if not self.tolerance > 0:
            return None
        above, below = self.high - self.predicted, self.predicted - self.low
        away = {"equals": max(above, below), "at most": above, "at least": below}
        return away[self.relation] / self.tolerance

    @property
    def slack(self) -> float:
        """Of a bound, 1/sharpness; 1 of everything else."""
        if self.kind != "bound" or self.strength is None:
            return 1.0
        return 1 / self.strength if self.strength else math.inf

    @property
    def verdict(self) -> Verdict:
        numbers = (self.predicted, self.measured, self.low, self.high, self.tolerance)
        if not all(math.isfinite(v) for v in numbers):
            return "fails"
        floor, ceiling = self.allowed
        if floor <= self.low and self.high <= ceiling:
            return "holds"
        outside = self.high < floor or self.low > ceiling or self.interval.startswith(RANGE)
        return "fails" if outside else "inconclusive"


@dataclass(frozen=True, kw_only=True)
class Untested(Entry):
    """A statement of the papers that cannot be measured here, with the reason why."""

    reason: str

    @property
    def verdict(self) -> Verdict:
        return "not tested here"


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One execution of one chapter: when, where, how long, and from which sources and values.

    Parameters
    ----------
    started : in UTC, as ISO 8601 has it.
    seconds : the time from the chapter's opening to its close.
    """

    chapter: str
    started: str
    seconds: float
    device: str
    machine: str
    threads: int
    versions: dict[str, str]
    library_hash: str
    parameters: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def counts(entries: Iterable[Entry]) -> dict[Verdict, int]:
    """How often each verdict occurs, in one order for all; without those that do not."""
    verdicts = [entry.verdict for entry in entries]
    return {verdict: verdicts.count(verdict) for verdict in PLURALS if verdict in verdicts}


def tally(entries: Iterable[Entry]) -> str:
    """The verdicts counted: "5 hold, 1 fail"; "none" without entries."""
    found = counts(entries)
    return ", ".join(f"{found[verdict]} {PLURALS[verdict]}" for verdict in found) or "none"
