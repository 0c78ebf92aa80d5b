"""What chapters recorded is read back as it was written, and nothing else is taken for it."""

import json
import math

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbook import chapter as chapters
from cotbook import records
from cotbook.chapter import Chapter
from cotbook.claims import CASES_MIME, CLAIM_MIME, EXECUTION_MIME, Claim
from ledgers import BOOK, CLAIM, EXECUTION, UNTESTED


def through_json(content):
    return json.loads(json.dumps(content, allow_nan=False))


@given(
    predicted=st.floats(),
    measured=st.floats(),
    tolerance=st.floats(0, allow_nan=False),
    ends=st.tuples(st.floats(), st.floats()).filter(lambda ends: not ends[0] > ends[1]),
    relation=st.sampled_from(["equals", "at most", "at least"]),
)
def test_every_number_comes_back_to_its_last_bit(predicted, measured, tolerance, ends, relation):
    claim = Claim(
        name="slope",
        statement="",
        provenance="[C] x",
        kind="constant",
        predicted=predicted,
        measured=measured,
        tolerance=tolerance,
        relation=relation,
        low=ends[0],
        high=ends[1],
    )
    found = records.entry(through_json(claim.to_json()))
    for field in ("predicted", "measured", "tolerance", "low", "high"):
        assert getattr(found, field).hex() == getattr(claim, field).hex()
    assert (found.relation, found.verdict) == (relation, claim.verdict)


@pytest.mark.parametrize("entry", [CLAIM, UNTESTED])
def test_entries_come_back(entry):
    assert records.entry(through_json(entry.to_json())) == entry
    assert records.entry(through_json(entry.to_json() | {"page": "x.html#y"})) == entry


def test_executions_come_back():
    assert records.execution(through_json(EXECUTION.to_json())) == EXECUTION


def without(key):
    return {k: v for k, v in CLAIM.to_json().items() if k != key}


DAMAGED = [
    (["slope"], "a claim: expected a record, received ['slope']"),
    ({}, "claim None: name: expected a text, received nothing"),
    (without("tolerance"), "claim 'slope': tolerance: expected a number, received nothing"),
    (without("executed"), "claim 'slope': executed: expected a text, received nothing"),
    (CLAIM.to_json() | {"measured": "much"}, "measured: expected a number, received 'much'"),
    (CLAIM.to_json() | {"measured": "1.0"}, "measured: expected a number, received '1.0'"),
    (CLAIM.to_json() | {"measured": True}, "measured: expected a number, received True"),
    (CLAIM.to_json() | {"measured": None}, "measured: expected a number, received None"),
    (CLAIM.to_json() | {"measured": 10**400}, "measured: expected a number, received 1000"),
    (CLAIM.to_json() | {"statement": 3}, "statement: expected a text, received 3"),
    (CLAIM.to_json() | {"relation": "above"}, "claim 'slope': expected a relation among"),
    (CLAIM.to_json() | {"provenance": "mine"}, "claim 'slope': expected a provenance"),
    (CLAIM.to_json() | {"low": 2.0}, "claim 'slope': expected low ≤ high, received [2.0, -0.8]"),
    (
        CLAIM.to_json() | {"verdict": "fails"},
        "claim 'slope': expected the verdict 'holds', which follows from the record, "
        "received 'fails'",
    ),
    (without("verdict"), "expected the verdict 'holds'"),
]


@pytest.mark.parametrize(("content", "sentence"), DAMAGED)
def test_a_damaged_claim_is_refused_with_a_sentence(content, sentence):
    with pytest.raises(records.RecordError) as refusal:
        records.entry(content)
    assert sentence in str(refusal.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*CLAIM.to_json(), *EXECUTION.to_json()]), inner)
        ),
        max_leaves=20,
    ),
    st.sampled_from([CLAIM.to_json(), UNTESTED.to_json(), EXECUTION.to_json()]),
    st.sampled_from([*CLAIM.to_json(), *EXECUTION.to_json()]),
)
def test_nothing_but_a_sentence_answers_a_foreign_record(content, good, key):
    for tried in (content, good | {key: content}):
        for read in (records.entry, records.execution):
            try:
                read(tried)
            except records.RecordError as error:
                assert str(error)


def test_a_notebook_gives_its_claims_and_executions_in_order():
    shown = [
        {"text/plain": "x"},
        {CLAIM_MIME: UNTESTED.to_json()},
        {CLAIM_MIME: CLAIM.to_json(), "text/plain": ""},
        {EXECUTION_MIME: EXECUTION.to_json()},
    ]
    outputs = [{"output_type": "stream", "text": ""}, *({"data": data} for data in shown)]
    notebook = {"cells": [{"cell_type": "markdown"}, {"outputs": outputs}]}
    assert records.of_notebook(notebook) == ((UNTESTED, CLAIM), (EXECUTION,))


def test_claims_shown_as_one_table_are_claims_like_others(tmp_path, monkeypatch):
    outputs = []
    monkeypatch.setattr(chapters, "display", lambda data, raw: outputs.append(data))
    monkeypatch.setattr(chapters, "get_ipython", object)
    chapter = Chapter("tiny", {})
    common = {"provenance": "[M] Prop. 3", "kind": "exponent", "predicted": -1.0, "tolerance": 0.1}
    chapter.claim(name="first", statement="It falls.", measured=-1.0, **common)
    chapter.cases(
        "Exponent of the gap",
        {"$V$": {"name": "V", "measured": -1.0}, "$W$": {"name": "W", "measured": 0.0}},
        **common,
    )
    chapter.claim(name="last", statement="It ends.", measured=-1.0, **common)
    assert [entry.name for entry in chapter.claims] == ["first", "V", "W", "last"]
    assert chapter.claims[1].statement == "Exponent of the gap: $V$."
    assert outputs[1]["text/plain"] == "V: holds\nW: fails"
    assert outputs[1][CASES_MIME]["statement"] == "Exponent of the gap"
    cells = [
        nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("display_data", data)])
        for data in through_json(outputs)
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    assert records.of_notebook(notebook) == (tuple(chapter.claims), ())
    nbformat.write(notebook, tmp_path / "tiny.ipynb")
    written = json.dumps([entry.to_json() for entry in chapter.claims])
    (tmp_path / "claims.json").write_text(written)
    assert records.of_run(tmp_path) == tuple(chapter.claims)
    with pytest.raises(ValueError, match="already has a claim named 'V'"):
        chapter.cases("Again", {"$V$": {"name": "V", "measured": -1.0}}, **common)


def test_a_run_and_a_book_are_read_as_they_were_written(tmp_path):
    (tmp_path / "claims.json").write_text(json.dumps([CLAIM.to_json()]))
    assert records.of_run(tmp_path) == (CLAIM,)
    (tmp_path / "ledger.json").write_text(json.dumps(BOOK.to_json()))
    assert records.of_book(tmp_path) == BOOK
    claim = BOOK.to_json()["chapters"][0]["claims"][0]
    assert claim["page"] == "book/tiny.html#claim-tiny-slope"


@pytest.mark.parametrize("kept", [0, 1])
def test_a_claim_that_was_taken_out_of_a_run_is_missed(tmp_path, kept):
    shown = [{CLAIM_MIME: CLAIM.to_json()}, {CLAIM_MIME: UNTESTED.to_json()}]
    code = f'print("{CLAIM_MIME}":'
    outputs = [nbformat.v4.new_output("display_data", data) for data in shown]
    cells = [nbformat.v4.new_code_cell(code, outputs=outputs)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "tiny.ipynb")
    entries = [CLAIM, UNTESTED]
    (tmp_path / "claims.json").write_text(json.dumps([entry.to_json() for entry in entries]))
    assert records.of_run(tmp_path) == (CLAIM, UNTESTED)
    left = [entry.to_json() for entry in entries[:kept]]
    (tmp_path / "claims.json").write_text(json.dumps(left))
    with pytest.raises(records.RecordError, match=r"expected the claims of the notebook \(2\)"):
        records.of_run(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "cannot read"),
        ("{", "cannot read"),
        ("[" * 100_000, "cannot read"),
        ("[]", "expected a ledger, received []"),
        ("{}", "chapters: expected a list, received nothing"),
        ('{"chapters": [1]}', "expected a chapter, received 1"),
        ('{"chapters": [{"chapter": "x"}]}', "x: claims: expected a list, received nothing"),
        ('{"chapters": [{"chapter": "x", "claims": [{}]}]}', "name: expected a text"),
        ('{"chapters": []}', "library_hash: expected a text, received nothing"),
    ],
)
def test_a_file_that_is_no_ledger_is_refused(tmp_path, text, sentence):
    if text is not None:
        (tmp_path / "ledger.json").write_text(text)
    with pytest.raises(records.RecordError) as refusal:
        records.of_book(tmp_path)
    assert sentence in str(refusal.value)


def test_numbers_that_are_not_finite_are_texts_in_json():
    claim = Claim(
        name="x", statement="", provenance="[C] x", kind="constant", predicted=0,
        measured=math.nan, tolerance=0, low=-math.inf, high=math.inf,
    )  # fmt: skip
    record = claim.to_json()
    assert [record[key] for key in ("measured", "low", "high")] == ["nan", "-inf", "inf"]


def test_a_chapter_that_runs_as_a_script_prints_lines(capsys):
    chapter = Chapter("tiny", {})
    common = {"provenance": "[M] Prop. 3", "kind": "exponent", "predicted": -1.0, "tolerance": 0.1}
    chapter.claim(name="first", statement="It falls.", measured=-0.95, **common)
    chapter.cases("Exponent", {"$V$": {"name": "V", "measured": -1.0}}, **common)
    chapter.untested(name="last", statement="It ends.", provenance="[B] x", reason="no time")
    chapter.close()
    assert capsys.readouterr().out.splitlines() == [
        "  ✔ holds  first: = -1 predicted, -0.95 measured (exponent, 0.5 of the tolerance)",
        "Exponent:",
        "  ✔ holds  V: = -1 predicted, -1 measured (exponent, 0 of the tolerance)",
        "  – not tested here  last: no time",
        "claims: 2 hold, 1 not tested here",
    ]
