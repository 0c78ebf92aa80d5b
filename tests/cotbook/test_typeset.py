"""A formula and the punctuation behind it."""

import pytest
from docutils import nodes

from cotbook.sphinx.typeset import join


@pytest.mark.parametrize(
    ("behind", "kept", "rest"),
    [
        (", then", ",", " then"),
        (".", ".", None),
        ("). And", ").", " And"),
        ("-layer nets", "-layer", " nets"),
        (" and", None, " and"),
        ("x", None, "x"),
    ],
)
def test_what_stands_behind_a_formula_stays_with_it(behind, kept, rest):
    page = nodes.paragraph("", "", nodes.Text("Let "), nodes.math("", "x"), nodes.Text(behind))
    text = page.astext()
    join(None, page, "page")
    assert page.astext() == text
    together = [node for node in page if isinstance(node, nodes.inline)]
    assert [node.astext() for node in together] == ([f"x{kept}"] if kept else [])
    assert (page[-1].astext() if page[-1] not in together else None) == rest
