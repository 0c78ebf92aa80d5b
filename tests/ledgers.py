"""A ledger of one chapter with one claim and one untested statement."""

from cotbook.claims import Claim, Execution, Untested
from cotbook.records import ChapterRecord, Ledger

ORIGIN = {"chapter": "tiny", "library_hash": "0" * 12, "executed": "2026-01-01T00:00:00+00:00"}
CLAIM = Claim(
    name="slope",
    statement="The gap decays as $1/L$.",
    provenance="[M] Prop. 3",
    kind="exponent",
    predicted=-1.0,
    measured=-0.9,
    low=-1.1,
    high=-0.8,
    interval="95% over 5 seeds",
    tolerance=0.5,
    **ORIGIN,
)
UNTESTED = Untested(
    name="limit", statement="As $t$ grows.", provenance="[B] Thm. 1", reason="no norm", **ORIGIN
)
EXECUTION = Execution(
    chapter="tiny",
    started="2026-01-01T00:00:00+00:00",
    seconds=1.5,
    device="cpu",
    machine="a machine",
    threads=1,
    versions={"python": "3.11"},
    library_hash="0" * 12,
    parameters={"seed": 0, "depths": [2, 4]},
)
BOOK = Ledger(
    library_hash="0" * 12,
    chapters=(
        ChapterRecord(
            docname="book/tiny",
            title="Tiny",
            source_hash="1" * 12,
            execution=EXECUTION,
            claims=(CLAIM, UNTESTED),
        ),
    ),
)
