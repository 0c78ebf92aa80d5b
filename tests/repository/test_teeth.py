"""The committed record of planted errors: of this catalogue and of these claims, and still true."""

import ast
import re
from pathlib import Path

import pytest

from cotbook.run.text import code_cells
from cotbook.run.tree import chapters
from cotbook.sabotage import campaign, catalogue, record
from cotbook.sabotage.record import Tried

ROOT = Path(__file__).resolve().parents[2]
BOOK = chapters(ROOT)
KNOWN = record.read(ROOT / record.RECORD)
ERRORS = {error.name: error for error in catalogue.read(ROOT, named=KNOWN)}
# By the quickest chapters, what each caught with the short runs.
SAMPLE = {
    "no-clipping": ["gradient-adjoint-before", "gaps-of-second-order", "text-displacement-sum"],
    "one-model": ["gradient-A-without-mean", "gradient-B-halved", "text-metric-without-depth"],
}


@pytest.fixture(autouse=True)
def on_record():
    if not KNOWN:
        pytest.skip("no campaign of planted errors is on record")


def names_in(cell: str) -> list[str]:
    """Patterns of the names that a cell may give its claims: its texts, with gaps where it fills
    them in."""
    texts = []
    for node in ast.walk(ast.parse(cell)):
        match node:
            case ast.JoinedStr(values=values):
                parts = [
                    re.escape(each.value) if isinstance(each, ast.Constant) else ".+"
                    for each in values
                ]
                texts.append("".join(parts))
            case ast.Constant(value=str(text)):
                texts.append(re.escape(text))
    return [text for text in texts if text.replace(".+", "")]


def test_every_error_of_the_catalogue_was_tried():
    assert set(ERRORS) - set(KNOWN) == set()


def test_every_error_on_record_is_in_the_catalogue():
    assert set(KNOWN) - set(ERRORS) == set()


def test_every_claim_on_record_has_its_name_in_its_chapter():
    patterns = {
        name: [text for cell in code_cells(source.text) for text in names_in(cell.source)]
        for name, source in BOOK.items()
    }
    named = {name for noticed in KNOWN.values() for name in noticed.fails + noticed.inconclusive}
    gone = []
    for name in sorted(named):
        chapter, _, claim = name.partition("/")
        if not any(re.fullmatch(text, claim) for text in patterns.get(chapter, ())):
            gone.append(name)
    assert not gone


def test_equivalent_errors_made_no_claim_fail():
    assert [name for name, error in ERRORS.items() if error.equivalent and KNOWN[name].caught] == []


def caught_in(name: str, chapter: str) -> Tried:
    found = (each for each in KNOWN[name].tried if each.chapter == chapter and each.fails)
    return next(each for each in found if each.profile == "smoke")


@pytest.mark.slow
@pytest.mark.parametrize("chapter", SAMPLE)
def test_claims_still_catch_what_they_caught(chapter, tmp_path, monkeypatch):
    pytest.importorskip("snakemake")
    monkeypatch.setattr(campaign, "reached", lambda *_: ({}, 0.0))
    monkeypatch.setattr(campaign, "reaches", lambda *_: True)
    errors = [ERRORS[name] for name in SAMPLE[chapter]]
    found = campaign.run(errors, [BOOK[chapter]], ROOT, tmp_path, every=True)
    lost = {
        f"{chapter}/{claim}, {error.name}"
        for error in errors
        for claim in caught_in(error.name, chapter).fails
        if f"{chapter}/{claim}" not in found[error.name].fails
    }
    assert not lost, "expected these claims to fail where these errors are planted"
