"""``cotflow diff``: two ledgers are equal to the last bit, or a line says where not."""

import copy
import json

import pytest

from books import invoke
from ledgers import BOOK


@pytest.fixture
def compare(tmp_path):
    """Compare the ledger with one that a function changed."""

    def run(change):
        (tmp_path / "old.json").write_text(json.dumps(BOOK.to_json()))
        content = copy.deepcopy(BOOK.to_json())
        change(content)
        (tmp_path / "new.json").write_text(json.dumps(content))
        return invoke(tmp_path, "diff", "old.json", "new.json")

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

    done = compare(again)
    assert (done.exit_code, done.output) == (0, "")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda ledger: claim(ledger).update(measured=-0.9000000000000001),
            "book/tiny, slope, measured: -0.9 → -0.9000000000000001",
        ),
        (lambda ledger: claim(ledger).update(low="-inf"), "book/tiny, slope, low: -1.1 → -inf"),
        (
            lambda ledger: claim(ledger).update(verdict="fails"),
            'book/tiny, slope, verdict: "holds" → "fails"',
        ),
        (
            lambda ledger: claim(ledger, 1).update(reason="none"),
            'book/tiny, limit, reason: "no norm" → "none"',
        ),
        (
            lambda ledger: claim(ledger).pop("interval"),
            'book/tiny, slope, interval: "95% over 5 seeds" → nothing',
        ),
        (
            lambda ledger: ledger["chapters"][0]["execution"]["parameters"].update(seed=1),
            "book/tiny, execution, parameters, seed: 0 → 1",
        ),
        (
            lambda ledger: ledger["chapters"][0]["claims"].pop(),
            "book/tiny, limit: only in old.json",
        ),
        (lambda ledger: claim(ledger).update(name="other"), "book/tiny, other: only in new.json"),
        (lambda ledger: ledger["chapters"].pop(), "book/tiny: only in old.json"),
    ],
)
def test_a_difference_is_one_line(compare, change, line):
    done = compare(change)
    assert done.exit_code == 1
    assert line in done.output.splitlines()


def test_zero_has_a_sign(compare):
    done = compare(lambda ledger: claim(ledger).update(predicted=-0.0))
    assert done.output == "book/tiny, slope, predicted: -1.0 → -0.0\n"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"chapters": 1}', '{"chapters": [{}]}'])
def test_a_file_that_is_no_ledger_exits_2(tmp_path, text):
    (tmp_path / "good.json").write_text(json.dumps(BOOK.to_json()))
    (tmp_path / "bad.json").write_text(text)
    for names in (("good.json", "bad.json"), ("bad.json", "good.json"), ("good.json", "none")):
        done = invoke(tmp_path, "diff", *names)
        assert done.exit_code == 2
        assert "expected a ledger.json of a built book" in done.output
        assert "Traceback" not in done.output
