"""One number format and one way to split a text, shown in every medium."""

import math

import pytest

from cotbook import render
from cotbook.claims import Claim, Untested
from cotbook.grid.plot import Point, svg
from cotbook.sphinx import tables


def claim(**options):
    defaults = {
        "name": "slope",
        "statement": "If $a<b$ & $c$.",
        "provenance": "[M] Prop. 3",
        "predicted": -1.0,
        "measured": 1.25e-7,
        "tolerance": 0.1,
        "chapter": "tiny",
    }
    return Claim(**(defaults | options))


NUMBERS = [
    (0.5, "0.5", "0.5"),
    (-3.0, "-3", "−3"),
    (1e-7, "1e-07", "1·10<sup>−7</sup>"),
    (-2.5e12, "-2.5e+12", "−2.5·10<sup>12</sup>"),
    (1e-300, "1e-300", "1·10<sup>−300</sup>"),
    (123456.0, "1.235e+05", "1.235·10<sup>5</sup>"),
    (math.inf, "inf", "inf"),
    (-math.inf, "-inf", "−inf"),
    (math.nan, "nan", "nan"),
]


@pytest.mark.parametrize(("value", "plain", "html"), NUMBERS)
def test_a_number_in_every_medium(value, plain, html):
    shown = [render.number(value)]
    assert render.plain(shown) == plain == f"{value:.4g}"
    assert render.html(shown) == html
    nodes = tables.inline(shown)
    assert "".join(node.astext() for node in nodes) == html.replace("<sup>", "").replace(
        "</sup>", ""
    )


def test_a_text_is_split_into_formulas_once():
    shown = render.pieces("If $a<b$ & $c$.")
    assert shown == ["If ", render.Formula("a<b"), " & ", render.Formula("c"), "."]
    assert render.plain(shown) == "If $a<b$ & $c$."
    assert render.html(shown, lambda formula: f"[{formula.tex}]") == "If [a<b] &amp; [c]."
    assert "\\(a&lt;b\\)" in render.html(shown)
    assert [node.tagname for node in tables.inline(shown)] == [
        *("#text", "math", "#text", "math", "#text")
    ]


def test_a_card_has_what_the_claim_says():
    text = render.card(claim(low=0.0, high=2e-7, interval="95% of <5>"))
    assert 'class="cotflow-claim cotflow-fails" id="claim-tiny-slope"' in text
    assert "✘ fails" in text
    assert "<dd>= −1</dd>" in text
    assert (
        "<dd>1.25·10<sup>−7</sup> [0, 2·10<sup>−7</sup>] <small>95% of &lt;5&gt;</small></dd>"
    ) in text
    untested = Untested(name="x", statement="", provenance="[B] x", reason="a < b", chapter="y")
    text = render.card(untested)
    assert "– not tested here" in text and "<dt>why</dt><dd>a &lt; b</dd>" in text


def test_rows_and_sections_are_characters():
    entry = claim(measured=-1.0, low=-1.05, high=-0.95, relation="at most")
    row = ("holds", "slope", "≤ -1", "-1 [-1.05, -0.95]", "0.1", "[M] Prop. 3")
    assert render.row(entry) == row
    text = render.section("a|b", [entry])
    assert text.splitlines()[0] == "### a\\|b"
    assert "| ✔ holds | slope | ≤ -1 | -1 [-1.05, -0.95] | 0.1 | [M] Prop. 3 |" in text
    assert render.section("none", []) == "### none\n\nClaims: none."


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "slope fails: [1.25e-07, 1.25e-07] is not inside -1 ± 0.1"),
        (
            {"relation": "at most", "low": -1.0, "high": 1.0},
            "slope is inconclusive: [-1, 1] is not inside the numbers ≤ -0.9",
        ),
        (
            {"relation": "at least", "measured": -9.0},
            "slope fails: [-9, -9] is not inside the numbers ≥ -1.1",
        ),
    ],
)
def test_what_a_claim_falls_short_of_is_one_sentence(options, sentence):
    assert render.shortfall(claim(**options)) == sentence
    assert render.shortfalls([claim(measured=-1.0), claim(**options)]) == sentence


@pytest.mark.parametrize(
    "options",
    [
        *({"predicted": bad} for bad in (math.nan, math.inf, -math.inf)),
        *({"measured": bad} for bad in (math.nan, math.inf, -math.inf)),
        {"tolerance": math.inf},
        {"low": math.nan, "high": 1.0},
        {"low": -math.inf, "high": math.inf},
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_number_that_is_not_finite_is_shown_everywhere(options):
    for relation in ("equals", "at most", "at least"):
        entry = claim(relation=relation, **options)
        assert render.card(entry) and render.shortfall(entry) and render.section("x", [entry])
        assert tables.claim_row(entry, "x")
        points = [Point({"depth": 2}, entry), Point({"depth": 4}, claim())]
        for chosen in (points, points[:1]):
            assert svg(chosen, "depth", "what it shows", "p").startswith("<svg")
