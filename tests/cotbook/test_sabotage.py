"""Planted errors: made, put into a copy, executed, noticed or not."""

import ast
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cotbook.cli import main
from cotbook.errors import BadInput
from cotbook.run.edit import Edit
from cotbook.sabotage import catalogue, mutants
from cotbook.sabotage.reach import reaches

ROOT = Path(__file__).resolve().parents[2]


def test_errors_made_by_rule_fit_their_source_and_are_python():
    found, texts = mutants.mutants(), {}
    assert {name.rpartition("-")[2] for name in found} == {
        *("sign", "dropped", "factor", "constant", "exponent", "negation", "index"),
        *("comparison", "transposed", "reduction"),
    }
    for edit in found.values():
        text = texts.setdefault(edit.place, (ROOT / edit.place).read_text(encoding="utf-8"))
        changed = edit.applied(text)
        assert changed != text
        if edit.place.endswith(".py"):
            ast.parse(changed)


@pytest.mark.parametrize(
    ("code", "made"),
    [
        ("y = a + b", {("sign", "y = a - b"), ("dropped", "y = a")}),
        ("y = 2 * x**2", {("factor", "y = 2 / x**2"), ("constant", "y = 4 * x**2"),
                          ("exponent", "y = 2 * x**3")}),
        ("y = -x[0]", {("negation", "y = +x[0]"), ("index", "y = -x[1]")}),
        ("y = (a) @ b.mT", {("transposed", "y = (a) @ b")}),
        ("y = x.sum(-1) if a < b else x",
         {("reduction", "y = x.mean(-1) if a < b else x"),
          ("comparison", "y = x.sum(-1) if a > b else x")}),
        ("if a < b:\n    raise ValueError(f'{a + b}')", set()),
        ("def f(x: 'a + b'): ...", set()),
        ("é = ω + a * b", {("sign", "é = ω - a * b"), ("dropped", "é = ω"),
                           ("factor", "é = ω + a / b")}),
    ],
)  # fmt: skip
def test_errors_of_a_line(code, made):
    found = {(kind, edit.applied(code)) for kind, edit in mutants.of_python("lib/x.py", code)}
    assert found == made


def test_errors_of_c_leave_comments_and_directives_alone():
    code = "#define A (b + c)\n/* a - b */ x = a * b; // a / b\ny = -x;\n"
    made = [edit.applied(code) for _, edit in mutants.of_c("lib/x.c", code)]
    assert made == [code.replace("a * b", "a / b")]


def test_an_edit_that_does_not_fit_is_refused():
    with pytest.raises(BadInput, match=r"lib/x.py: expected 'a' once, found it 2 times"):
        Edit("lib/x.py", "a", "b").applied("a a")
    with pytest.raises(BadInput, match="at line 2, column 0"):
        Edit("lib/x.py", "a", "b", 2, 0).applied("a\nb")
    assert Edit("lib/x.py", "a", "b", 2, 1).applied("a\naa") == "a\nab"


def test_the_catalogue_fits_the_sources():
    errors = catalogue.read(ROOT, generated=5)
    assert len({error.name for error in errors}) == len(errors) > 5
    assert all((ROOT / error.edit.place).is_file() for error in errors)
    with pytest.raises(BadInput, match="unknown error 'adjoint-sin'"):
        catalogue.choose(errors, ["adjoint-sin"])


def test_a_place_is_reached_through_its_function():
    place = "lib/cotflow/adjoint/plain.py"
    text = (ROOT / place).read_text(encoding="utf-8")
    line = text[: text.index("def _runs_first")].count("\n") + 1
    inside = Edit(place, "value", "like", line + 2, 11)
    assert reaches({place: [1, line]}, inside, "x") and not reaches({place: [1]}, inside, "x")
    assert not reaches({}, inside, "x")
    assert reaches({"lib/cotflow/adjoint/compiled.py": [1]}, Edit("lib/a.c", "a", "b"), "x")
    assert reaches({}, Edit("book/x.md", "a", "b"), "x")
    assert not reaches({}, Edit("book/x.md", "a", "b"), "y")


@pytest.mark.slow
def test_a_planted_error_makes_a_claim_fail(tmp_path, monkeypatch):
    pytest.importorskip("snakemake")
    monkeypatch.chdir(ROOT)
    record = tmp_path / "record.json"
    command = ["sabotage", "gradient-next-state", "--chapter", "one-model"]
    done = CliRunner().invoke(main, [*command, "-o", str(tmp_path / "s"), "--record", str(record)])
    assert done.exit_code == 0, done.output
    assert "errors: 1, executed by a chapter: 1, caught: 1" in done.stdout
    row = json.loads(record.read_text())["errors"]["gradient-next-state"]
    assert row["fails"] and all(name.startswith("one-model/") for name in row["fails"])
