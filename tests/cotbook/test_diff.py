"""``cotflow diff``: two ledgers are equal to the last bit, or a line says where not."""

import copy
import json

import pytest

from books import invoke
from ledgers import BOOK, CLAIM, EXECUTION, UNTESTED

NONE = "measured numbers that moved: 0; verdicts that changed, came or went: 0"


@pytest.fixture
def compare(tmp_path):
    """Compare the ledger with one that a function changed."""

    def run(change, *options):
        (tmp_path / "old.json").write_text(json.dumps(BOOK.to_json()))
        content = copy.deepcopy(BOOK.to_json())
        change(content)
        (tmp_path / "new.json").write_text(json.dumps(content))
        return invoke(tmp_path, "diff", *options, "old.json", "new.json")

    return run


def claim(ledger, index=0):
    return ledger["chapters"][0]["claims"][index]


def test_what_another_execution_changes_is_no_difference(compare):
    def again(ledger):
        ledger["library_hash"] = "2" * 12
        (chapter,) = ledger["chapters"]
        chapter["source_hash"] = "3" * 12
        chapter["execution"] |= {
            "started": "later", "seconds": 9.0, "machine": "another", "versions": {"torch": "3"},
            "library_hash": "2" * 12,
        }  # fmt: skip
        for found in chapter["claims"]:
            found |= {"executed": "later", "library_hash": "2" * 12}
        chapter["claims"].reverse()

    done = compare(again, "--exact")
    assert (done.exit_code, done.output) == (0, f"{NONE}\n")


@pytest.mark.parametrize(
    ("change", "line", "verdict"),
    [
        (
            lambda ledger: claim(ledger).update(measured=-0.9000000000000001),
            "tiny, slope, measured: -0.9 → -0.9000000000000001 "
            "(2.2e-16 tolerances, 7.4e-16 half intervals)",
            False,
        ),
        (
            lambda ledger: claim(ledger).update(high=-0.5),
            "tiny, slope, high: -0.8 → -0.5 (0.6 tolerances, 2 half intervals)",
            False,
        ),
        (
            lambda ledger: claim(ledger).update(verdict="fails"),
            'tiny, slope, verdict: "holds" → "fails"',
            True,
        ),
        (
            lambda ledger: claim(ledger, 1).update(reason="none"),
            'tiny, limit, reason: "no norm" → "none"',
            False,
        ),
        (
            lambda ledger: claim(ledger).pop("interval"),
            'tiny, slope, interval: "95% over 5 seeds" → nothing',
            False,
        ),
        (
            lambda ledger: ledger["chapters"][0]["execution"]["parameters"].update(seed=1),
            "tiny, execution, parameters, seed: 0 → 1",
            False,
        ),
        (
            lambda ledger: ledger["chapters"][0]["claims"].pop(),
            "tiny, limit: only in old.json",
            True,
        ),
        (
            lambda ledger: claim(ledger).update(name="other"),
            "tiny, other: only in new.json",
            True,
        ),
        (lambda ledger: ledger["chapters"].pop(), "tiny: only in old.json", True),
    ],
)
def test_a_difference_is_one_line_and_verdicts_count(compare, change, line, verdict):
    done = compare(change)
    assert done.exit_code == verdict
    assert line in done.output.splitlines()
    assert compare(change, "--exact").exit_code == 1


def test_a_number_without_a_tolerance_moved_too(compare):
    done = compare(lambda ledger: claim(ledger).update(low="-inf"))
    line = "tiny, slope, low: -1.1 → -inf (inf tolerances, inf half intervals)"
    assert line in done.output.splitlines()


def test_zero_has_a_sign(compare):
    done = compare(lambda ledger: claim(ledger).update(predicted=-0.0))
    assert done.output.splitlines() == ["tiny, slope, predicted: -1.0 → -0.0", NONE]


def test_the_last_line_counts(compare):
    def change(ledger):
        claim(ledger).update(measured=-0.7, low=-1.0, verdict="inconclusive")

    last = compare(change).output.splitlines()[-1]
    assert last == (
        "measured numbers that moved: 2, at most by 0.4 tolerances (tiny, slope, measured); "
        "verdicts that changed, came or went: 1"
    )


def test_a_run_is_compared_with_its_chapter_of_a_book(tmp_path):
    entries = [CLAIM.to_json(), UNTESTED.to_json()]
    run = tmp_path / "run"
    run.mkdir()
    (run / "claims.json").write_text(json.dumps(entries))
    (run / "execution.json").write_text(json.dumps(EXECUTION.to_json()))
    content = BOOK.to_json()
    content["chapters"].append(content["chapters"][0] | {"chapter": "book/other"})
    (tmp_path / "ledger.json").write_text(json.dumps(content))
    done = invoke(tmp_path, "diff", "--exact", ".", "run")
    assert (done.exit_code, done.output) == (0, f"{NONE}\n")
    entries[0] |= {"measured": -0.7}
    (run / "claims.json").write_text(json.dumps(entries))
    done = invoke(tmp_path, "diff", ".", "run")
    assert done.output.splitlines()[0].startswith("tiny, slope, measured: -0.9 → -0.7 (0.4 tol")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"chapters": 1}', '{"chapters": [{}]}'])
def test_a_file_that_is_no_ledger_exits_2(tmp_path, text):
    (tmp_path / "good.json").write_text(json.dumps(BOOK.to_json()))
    (tmp_path / "bad.json").write_text(text)
    for names in (("good.json", "bad.json"), ("bad.json", "good.json"), ("good.json", "none")):
        done = invoke(tmp_path, "diff", *names)
        assert done.exit_code == 2
        assert "expected a ledger.json of a built book, or the folder of a run" in done.output
        assert "Traceback" not in done.output
