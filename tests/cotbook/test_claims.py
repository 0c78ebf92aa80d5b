"""Verdicts follow from numbers: never set by hand, never kind to a number that is not finite."""

import json
import math
from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cotbook.claims import Claim, Untested, tally
from cotflow.measure.rates import span

numbers = st.floats(-10, 10)
RELATIONS = ("equals", "at most", "at least")


def claim(**options):
    defaults = {
        "name": "slope",
        "statement": "The gap decays as $1/L$.",
        "provenance": "[M] Prop. 3",
        "kind": "exponent",
        "predicted": 1.0,
        "measured": 1.0,
        "tolerance": 0.1,
    }
    return Claim(**(defaults | options))


def allowed(value, relation, predicted, tolerance):
    """Whether one number satisfies the relation."""
    return {
        "equals": predicted - tolerance <= value <= predicted + tolerance,
        "at most": value <= predicted + tolerance,
        "at least": value >= predicted - tolerance,
    }[relation]


@given(
    relation=st.sampled_from(RELATIONS),
    predicted=numbers,
    tolerance=st.floats(0, 5),
    low=numbers,
    length=st.floats(0, 10),
    share=st.floats(0, 1),
)
def test_verdict_is_that_of_the_whole_interval(relation, predicted, tolerance, low, length, share):
    high = low + length
    c = claim(
        relation=relation,
        predicted=predicted,
        tolerance=tolerance,
        measured=low + share * length,
        low=low,
        high=high,
    )
    ends = [allowed(v, relation, predicted, tolerance) for v in (low, high)]
    # The point of the interval that is nearest to the allowed set decides whether they meet.
    nearest = min(max(predicted, low), high)
    if all(ends):
        assert c.verdict == "holds"
    elif allowed(nearest, relation, predicted, tolerance):
        assert c.verdict == "inconclusive"
    else:
        assert c.verdict == "fails"


@given(st.sampled_from(RELATIONS), numbers, st.floats(0, 5), st.lists(numbers, min_size=1))
def test_one_case_outside_refutes(relation, predicted, tolerance, cases):
    c = claim(relation=relation, predicted=predicted, tolerance=tolerance, **span(cases, "cases"))
    inside = all(allowed(v, relation, predicted, tolerance) for v in cases)
    assert c.verdict == ("holds" if inside else "fails")


@given(relation=st.sampled_from(RELATIONS), predicted=numbers, measured=numbers)
def test_an_exact_number_is_never_inconclusive(relation, predicted, measured):
    c = claim(relation=relation, predicted=predicted, measured=measured, tolerance=0.5)
    assert (c.low, c.high) == (measured, measured)
    assert c.verdict == ("holds" if allowed(measured, relation, predicted, 0.5) else "fails")


@given(predicted=numbers, low=numbers, high=numbers, tolerance=st.floats(0, 5))
def test_equality_is_both_inequalities(predicted, low, high, tolerance):
    assume(low <= high)
    interval = {"predicted": predicted, "measured": low, "low": low, "high": high}
    equal, most, least = (
        claim(relation=r, tolerance=tolerance, **interval).verdict for r in RELATIONS
    )
    assert (equal == "holds") == (most == least == "holds")
    assert (equal == "fails") == ("fails" in (most, least))


@pytest.mark.parametrize(
    "relation, low, high, verdict",
    [
        ("equals", 0.95, 1.05, "holds"),
        ("equals", 0.95, 1.25, "inconclusive"),
        ("equals", 0.5, 1.5, "inconclusive"),
        ("equals", 1.25, 1.5, "fails"),
        ("at most", -5.0, 1.05, "holds"),
        ("at most", 0.0, 1.2, "inconclusive"),
        ("at most", 1.2, 1.3, "fails"),
        ("at least", 0.95, 7.0, "holds"),
        ("at least", 0.5, 2.0, "inconclusive"),
        ("at least", 0.1, 0.5, "fails"),
    ],
)
def test_verdicts(relation, low, high, verdict):
    measured = (low + high) / 2
    assert claim(relation=relation, measured=measured, low=low, high=high).verdict == verdict


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("relation", RELATIONS)
def test_a_number_that_is_not_finite_fails(bad, relation):
    assert claim(relation=relation, measured=bad).verdict == "fails"
    assert claim(relation=relation, predicted=bad).verdict == "fails"
    assert claim(relation=relation, low=-math.inf, high=math.inf).verdict == "fails"
    assert claim(relation=relation, low=math.nan, high=1.0).verdict == "fails"
    assert claim(relation=relation, tolerance=math.inf).verdict == "fails"


def test_a_verdict_cannot_be_set_by_hand():
    assert "verdict" not in {f.name for f in fields(Claim)}
    with pytest.raises(TypeError, match="verdict"):
        claim(verdict="holds")
    c = claim(measured=9.0)
    for setter in (setattr, object.__setattr__):
        with pytest.raises((FrozenInstanceError, AttributeError)):
            setter(c, "verdict", "holds")
    with pytest.raises(FrozenInstanceError):
        c.measured = 1.0
    assert c.verdict == "fails"


@pytest.mark.parametrize(
    ("options", "strength"),
    [
        ({"measured": 1.05}, 0.5),
        ({"measured": 1.0, "low": 0.8, "high": 1.05, "interval": "95% over 5 seeds"}, 2.0),
        ({"relation": "at most", "measured": 0.95}, -0.5),
        ({"relation": "at least", "measured": 0.95}, 0.5),
        ({"tolerance": 0.0}, None),
        ({"kind": "bound", "relation": "at most", "measured": 0.25, "tolerance": 0.0}, 0.25),
        ({"kind": "bound", "relation": "at least", "measured": 4.0}, 0.25),
        ({"kind": "bound", "relation": "at most", "measured": 0.0}, 0.0),
        ({"kind": "bound", "relation": "at most", "predicted": 0.0, "measured": 0.0}, None),
        ({"kind": "bound", "relation": "at least", "measured": -1.0}, None),
    ],
)
def test_strength_is_the_way_to_the_limit(options, strength):
    found = claim(**options).strength
    assert found == (strength and pytest.approx(strength))


def test_slack_is_the_inverse_of_a_sharpness():
    bound = {"kind": "bound", "relation": "at most", "measured": 0.25, "tolerance": 0.0}
    assert claim(**bound).slack == 4.0
    assert claim(**bound | {"measured": 0.0}).slack == math.inf
    assert claim().slack == 1.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "theorem"}, "expected a kind among"),
        ({"kind": "bound"}, "expected at most or at least for a bound, received equals"),
        ({"loose": "far"}, "expected a bound beside loose and companion, received the kind 'exp"),
        ({"companion": "near"}, "expected a bound beside loose and companion"),
    ],
)
def test_a_wrong_kind_gives_one_sentence(wrong, message):
    with pytest.raises(ValueError, match=f"claim 'slope': {message}"):
        claim(**wrong)


@pytest.mark.parametrize("mark", ["[B]", "[M]", "[C]", "[R]"])
def test_every_mark_is_accepted(mark):
    assert claim(provenance=f"{mark} well-posedness").verdict == "holds"


@pytest.mark.parametrize("provenance", ["", "M Prop. 3", "[X] Thm 1", "Prop. 3 [M]"])
def test_provenance_is_required(provenance):
    with pytest.raises(ValueError, match=r"claim 'slope': expected a provenance that starts with"):
        claim(provenance=provenance)
    with pytest.raises(TypeError, match="provenance"):
        Claim(
            name="slope", statement="", kind="exponent", predicted=1.0, measured=1.0, tolerance=0.0
        )


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"tolerance": -1.0}, "expected a tolerance ≥ 0, received -1.0"),
        ({"tolerance": math.nan}, "expected a tolerance ≥ 0, received nan"),
        ({"low": 0.0}, "give both ends of the interval, or neither"),
        ({"high": 2.0}, "give both ends of the interval, or neither"),
        ({"low": 2.0, "high": 0.0}, r"expected low ≤ high, received \[2.0, 0.0\]"),
    ],
)
def test_bad_numbers_give_one_sentence(wrong, message):
    with pytest.raises(ValueError, match=f"claim 'slope': {message}"):
        claim(**wrong)


def test_unknown_relation_is_refused():
    with pytest.raises(
        ValueError, match=r"claim 'slope': expected a relation among .*, received 'at_most'"
    ):
        claim(relation="at_most")


def test_records_are_plain_data_with_the_verdict():
    record = claim(low=0.95, high=1.3, interval="95% over 5 seeds").to_json()
    assert json.loads(json.dumps(record)) == record
    assert record["verdict"] == "inconclusive"
    assert (record["low"], record["high"]) == (0.95, 1.3)
    untested = Untested(
        name="limit", statement="As $t$ grows.", provenance="[B] convergence", reason="no norm"
    )
    assert untested.to_json()["verdict"] == "not tested here"
    assert set(untested.to_json()) == {
        *("name", "statement", "provenance", "reason", "verdict"),
        *("chapter", "library_hash", "executed"),
    }
    assert set(record) == {
        *("name", "statement", "provenance", "predicted", "measured", "tolerance", "relation"),
        *("low", "high", "interval", "verdict", "chapter", "library_hash", "executed"),
        *("kind", "loose", "companion"),
    }


def test_the_tally_counts_in_one_order_and_what_is_missed_is_one_rule():
    entries = [
        claim(measured=9.0),
        claim(),
        Untested(name="limit", statement="", provenance="[B] x", reason="no norm"),
        claim(low=0.5, high=1.0),
        claim(),
    ]
    assert tally(entries) == "2 hold, 1 inconclusive, 1 fail, 1 not tested here"
    assert tally([]) == "none"
    assert [entry.missed for entry in entries] == [True, False, False, True, False]
