"""Claims: a statement, what theory predicts, what was measured, and the verdict that follows."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal, get_args

Relation = Literal["equals", "at most", "at least"]
Verdict = Literal["holds", "inconclusive", "fails"]


@dataclass(frozen=True)
class Claim:
    """predicted ⋈ measured, up to a tolerance, where ⋈ is =, ≤ or ≥.

    The verdict is computed from the whole interval, never from the point alone:

    - "equals":   [low, high] inside [predicted − tolerance, predicted + tolerance];
    - "at most":  high ≤ predicted + tolerance;
    - "at least": low ≥ predicted − tolerance.

    It is "holds" if so, "fails" if the interval misses the allowed set altogether, and
    "inconclusive" if it straddles its border. A number that is not finite fails.

    Parameters
    ----------
    name : identifier inside the chapter, lower case with hyphens; the anchor of its cell.
    statement : one sentence, LaTeX between dollar signs allowed.
    provenance : the mark [B], [M], [C] or [R] with the result's name, e.g. "[M] Prop. 3".
    predicted, measured : numbers.
    low, high : the measured interval; both default to ``measured`` for a deterministic number.
    interval : what the interval is, e.g. "95% over 5 seeds" or "deterministic".
    """

    name: str
    statement: str
    provenance: str
    predicted: float
    measured: float
    tolerance: float
    relation: Relation = "equals"
    low: float | None = None
    high: float | None = None
    interval: str = "deterministic"

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
        if not self.tolerance >= 0:
            raise ValueError(
                f"claim {self.name!r}: expected a tolerance ≥ 0, received {self.tolerance}"
            )
        if (self.low is None) != (self.high is None):
            raise ValueError(f"claim {self.name!r}: give both ends of the interval, or neither")
        for end in ("predicted", "measured", "tolerance"):
            object.__setattr__(self, end, float(getattr(self, end)))
        low = self.measured if self.low is None else self.low
        high = self.measured if self.high is None else self.high
        object.__setattr__(self, "low", float(low))
        object.__setattr__(self, "high", float(high))
        if self.low > self.high:
            raise ValueError(
                f"claim {self.name!r}: expected low ≤ high, received [{self.low}, {self.high}]"
            )

    @property
    def verdict(self) -> Verdict:
        numbers = (self.predicted, self.measured, self.low, self.high, self.tolerance)
        if not all(math.isfinite(v) for v in numbers):
            return "fails"
        floor = -math.inf if self.relation == "at most" else self.predicted - self.tolerance
        ceiling = math.inf if self.relation == "at least" else self.predicted + self.tolerance
        if floor <= self.low and self.high <= ceiling:
            return "holds"
        return "fails" if self.high < floor or self.low > ceiling else "inconclusive"

    def record(self) -> dict:
        """The claim as plain data, verdict included."""
        return asdict(self) | {"verdict": self.verdict}


@dataclass(frozen=True)
class Untested:
    """A statement of the papers that cannot be measured here, with the reason why."""

    name: str
    statement: str
    provenance: str
    reason: str

    def record(self) -> dict:
        return asdict(self) | {"verdict": "not tested here"}
