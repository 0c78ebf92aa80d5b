"""One number format and one way to split a text, shown in every medium."""

import csv
import io
import math
import re
import unicodedata
from html.parser import HTMLParser

import pytest
from docutils import nodes
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cotbook import render
from cotbook.claims import Claim, Untested
from cotbook.grid.plot import Point, svg
from cotbook.sphinx import overview, tables


def claim(**options):
    defaults = {
        "name": "slope",
        "statement": "If $a<b$ & $c$.",
        "provenance": "[M] Prop. 3",
        "kind": "exponent",
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


def test_claims_of_one_statement_are_rows_with_their_anchors():
    found = {"$a$ & b": claim(low=0.0, high=2e-7, interval="5 seeds"), "c": claim(name="gap")}
    text = render.cases("If $a<b$", found)
    assert "<caption>If" in text and text.count("<small>[M] Prop. 3</small>") == 1
    assert text.count('<tr class="cotflow-fails" id="claim-tiny-') == 2
    assert 'id="claim-tiny-slope"' in text and 'id="claim-tiny-gap"' in text
    assert "&amp; b</td><td>= −1</td><td>1.25·10<sup>−7</sup> [0, 2" in text
    assert "] <small>5 seeds</small></td>" in text
    found["d"] = claim(name="other", provenance="[C] measured")
    text = render.cases("", found)
    assert text.count("<small>[M] Prop. 3</small>") == 2
    assert "d <small>[C] measured</small></td>" in text
    text = render.cases("", {case: claim(name=case, low=0, high=1, interval="3") for case in "ab"})
    assert text.count("<small>3</small>") == 1 and "<small>3</small></caption>" in text


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
        page = overview.html([overview.Row(entry, "Tiny", "x"), overview.Row(claim(), "Tiny", "x")])
        assert page.count("<tr id=") == 2 and "nan" not in page.split("<form")[0]
        points = [Point({"depth": 2}, entry), Point({"depth": 4}, claim())]
        for chosen in (points, points[:1]):
            assert svg(chosen, "depth", "what it shows", "p").startswith("<svg")


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "$</span><script>alert(1)</script>$",
    "![x](https://evil.example/x.png) [y](javascript:alert(1)) [z][C]",
    "@someone and owner/name#12, https://evil.example, www.evil.example",
    "=HYPERLINK(0)",
    "\x1b]0;title\x07\x1b[2J\x9b31m\u202egnp",
    "| a | `b` *c* _d_ ~~e~~ &lt;f&gt;",
    r"$\href{javascript:alert(1)}{x}$ $\unicode{x41}$ $\require{html}$",
    "\ud800",
]
TEXTS = st.sampled_from(HOSTILE) | st.text(max_size=30)


class Seen(HTMLParser):
    """Tags and attributes of a page, and its text."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.texts = set(), set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return "".join(self.texts)


# What MathJax takes for a formula in the text of a page.
TYPESET = re.compile(
    r"\\\((.*?)\\\)|\\\[(.*?)\\\]|\$\$(.*?)\$\$|\\begin\{(.*?)\\end\{|\\(?:eq)?ref\{(.*?)\}",
    re.DOTALL,
)


def speaks(text):
    formulas = ["".join(filter(None, found)) for found in TYPESET.findall(text)]
    return any(re.search(r"\\(href|url|require|style)", formula) for formula in formulas)


UNMARKED = [
    r"\(\href{javascript:alert(1)}{x}\) \[\require{html}\] \ref{\href{x}{y}} $$\style{a}{b}$$",
    r"$\href{a}{b}$$\href{javascript:alert(1)}{b}$$\href{c}{d}$ \\(\href{e}{f}\\)",
    r"\begin{equation}\href{javascript:alert(1)}{x}\end{equation} \$\href{a}{b}\$",
]


@given(text=st.sampled_from(UNMARKED) | TEXTS)
def test_no_text_is_a_formula_that_speaks(text):
    entry = claim(name=text, statement=text, provenance=f"[M] {text}", interval=text, chapter=text)
    untested = Untested(
        name=text, statement=text, provenance=f"[M] {text}", reason=text, chapter=text
    )
    for shown in (entry, untested):
        page = Seen(render.card(shown) + render.table([text], [[text]]))
        page.feed(render.cases(text, {text: entry}))
        page.feed(overview.html([overview.Row(shown, text, text, text)]))
        row = tables.table([[text, tables.statement(text)]])
        texts = [node.astext() for node in row.findall(nodes.Text)]
        assert not any(map(speaks, page.texts + texts))


def test_formulas_are_found_where_they_are_marked():
    assert speaks(r"a \(\href{x}{y}\)")
    assert render.written("1 < 2, a\\b and $5") == "1 &lt; 2, a\\b and $5"
    seen = Seen(render.html(render.pieces(r"$x_1$ and \(y\)"))).text
    assert TYPESET.findall(seen)[0][0] == "x_1" and len(TYPESET.findall(seen)) == 1


@given(text=TEXTS)
@example(text='x" onclick="alert(1)')
def test_no_text_speaks_to_the_browser(text):
    entry = claim(name=text, statement=text, provenance=f"[M] {text}", interval=text, chapter=text)
    shown = render.card(entry) + render.table([text], [[text]]) + render.cases(text, {text: entry})
    seen = Seen(shown)
    tags = {
        *("div", "p", "br", "span", "dl", "dt", "dd", "small", "sup"),
        *("table", "caption", "thead", "tbody", "tr", "th", "td"),
    }
    assert seen.tags <= tags
    assert seen.attributes <= {"class", "id"}
    usual = overview.Row(claim(), "Tiny", "x.html", "y.html")
    quiet = Seen(overview.html([usual]))
    loud = Seen(overview.html([overview.Row(entry, text, text, text)]))
    # A formula of the claim may be a span, a power of ten be raised.
    assert loud.tags <= quiet.tags | tags
    assert loud.attributes <= quiet.attributes
    for formula in shown.split("\\(")[1:]:
        assert not any(word in formula.split("\\)")[0] for word in ("\\href", "\\require"))


@given(text=TEXTS)
def test_no_text_speaks_to_the_terminal(text):
    shown = render.terminal(text)
    kinds = {unicodedata.category(sign) for sign in shown if sign not in "\n\t\u2060"}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<img>", "\\<img>"),
        ("![x](https://e.org)", "![x]\\(https\\://e.org)"),
        ("[x][C] [C] tiny, [0.5, 1.5]", "[x]\\[C] [C] tiny, [0.5, 1.5]"),
        ("@you #12 C# a@b.org", "@\u2060you #\u206012 C# a@\u2060b.org"),
        ("www.e.org ~~a~~ &lt;", "www\\.e.org \\~\\~a\\~\\~ \\&lt;"),
        ("a\n| b", "a \\| b"),
    ],
)
def test_no_text_speaks_to_a_forge(text, shown):
    assert render.escaped(text) == shown
    assert render.formatted(text) == shown
    assert render.terminal(shown) == shown


def test_formulas_of_a_cell_stay_formulas():
    assert render.formatted("If $a_1|b$ & c_1.") == r"If $a_1\|b$ \& c\_1."


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((f"{sign}1+1", f"'{sign}1+1") for sign in "=+-@\t\r＝"),
        *((value, str(value)) for value in (-1.5, -math.inf, math.nan, 3, "a=b", "[-1, 2]", "")),
    ],
)
def test_no_text_speaks_to_a_spreadsheet_and_numbers_stay_numbers(value, shown):
    stream = io.StringIO()
    csv.writer(stream).writerow([render.spreadsheet(value), "x"])
    assert next(csv.reader(io.StringIO(stream.getvalue(), newline=""))) == [shown, "x"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Glyph")
@given(text=TEXTS)
@example(text="$x^$")
@settings(max_examples=20, deadline=None)
def test_no_text_breaks_a_figure(text):
    points = [Point({"name": text, "depth": depth}, claim(statement=text)) for depth in (2, 4)]
    for axis in ("depth", None):
        seen = Seen(svg(points, axis, text, "p"))
        assert not seen.tags & {"script", "img", "a"}
        assert not [name for name in seen.attributes if name.startswith("on")]


def test_the_ledger_has_a_row_for_each_claim_and_a_point_where_there_is_a_share():
    near = claim(kind="bound", relation="at most", predicted=2.0, measured=1.0, tolerance=0.0)
    told = claim(name="told", tolerance=0.0)
    untested = Untested(name="x", statement="", provenance="[B] x", reason="a < b", chapter="tiny")
    rows = [overview.Row(entry, "Tiny", "tiny.html", "tiny.html#box") for entry in (near, told)]
    page = overview.html([*rows, overview.Row(untested, "Tiny", "tiny.html")])
    assert page.count("<tr id=") == 3 and page.count('<a href="#row-') == 1
    assert 'id="row-tiny-slope" class="cotflow-holds" data-chapter="tiny" data-paper="M"' in page
    assert 'data-kind="bound" data-verdict="holds" data-near="0.5"' in page
    assert 'data-kind="" data-verdict="not tested here" data-near=""' in page
    assert "<td>0.5</td>" in page and "2 entries have no such share" in page
    assert '<a href="tiny.html#box">[M] Prop. 3</a>' in page


def test_points_do_not_cover_one_another():
    rows = [overview.Row(claim(name=f"n{k}", measured=-1.05), "Tiny", "x") for k in range(5)]
    placed = [(x, dy) for _, x, dy in overview._placed(rows)]
    assert len(set(placed)) == 5


def test_a_bound_that_is_far_leads_to_the_case_that_comes_near():
    options = {"kind": "bound", "relation": "at most", "predicted": 1.0, "measured": 0.01}
    far = claim(**options, companion="near", loose="$C$ is large")
    shown = '<a href="#claim-tiny-near">near</a>'
    assert shown in render.card(far) and "<dt>loose because</dt>" in render.card(far)
    assert f"<small>near: {shown}</small>" in render.cases("x", {"y": far})
    row = overview.html([overview.Row(far, "Tiny", "x")])
    assert '<a href="#row-tiny-near">near</a>' in row and shown not in row
