"""No claim of a chapter is unable to fail."""

import ast
from pathlib import Path

import pytest

from cotbook.run.text import code_cells

CHAPTERS = sorted((Path(__file__).resolve().parents[2] / "book").glob("*.md"))
ENDS = ("measured", "low", "high")


def given(cell):
    """(line, name, value) of each end of an interval that a cell writes as a word or a key."""
    for node in ast.walk(ast.parse(cell)):
        match node:
            case ast.Call():
                pairs = [(word.arg, word.value) for word in node.keywords]
            case ast.Dict():
                keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
                pairs = list(zip(keys, node.values, strict=True))
            case _:
                continue
        yield from ((node.lineno, name, value) for name, value in pairs if name in ENDS)


def fixed(value):
    """Whether an expression is the same whatever was measured."""
    return not any(
        isinstance(node, (ast.Name, ast.Attribute, ast.Call)) for node in ast.walk(value)
    )


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_measured_number_is_written_down(path):
    cells = [cell.source for cell in code_cells(path.read_text(encoding="utf-8"))]
    found = [
        f"{name} = {ast.unparse(value)}"
        for cell in cells
        for _, name, value in given(cell)
        if fixed(value)
    ]
    assert not found, f"{path.name}: expected what was measured, received {', '.join(found)}"


@pytest.mark.parametrize("cell", ["chapter.claim(low=0.0)", '{"high": -1}', "f(measured=2 * 3)"])
def test_a_number_that_is_written_down_is_seen(cell):
    assert [fixed(value) for *_, value in given(cell)] == [True]
