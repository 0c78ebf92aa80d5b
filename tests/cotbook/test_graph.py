"""No statement rests on itself."""

from cotbook.sphinx.front import LINE
from cotbook.sphinx.graph import circle


def test_a_circle_is_found():
    assert circle({"a": ["b", "c"], "b": ["c"], "c": []}) == []
    assert circle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c"]
    assert circle({"a": ["a"]}) == ["a"]


def test_a_line_of_the_map_has_a_level_needs_and_a_question():
    found = LINE.fullmatch("depth-limit: 2; one-model, gradient; Why: because; of it.")
    assert found and found["needs"] == "one-model, gradient"
    assert LINE.fullmatch("one-model: 1; ; What?")["needs"] == ""
    assert not LINE.fullmatch("one-model: 4; ; What?")
