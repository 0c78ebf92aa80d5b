"""Planted errors: made, put into a copy, executed, noticed or not."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from docutils import nodes

from cotbook.claims import Claim
from cotbook.cli import main
from cotbook.errors import BadInput
from cotbook.grid.outcome import Outcome
from cotbook.records import ChapterRecord
from cotbook.run.edit import Edit
from cotbook.run.tree import Source
from cotbook.sabotage import campaign, catalogue, mutants, record
from cotbook.sabotage.catalogue import Error
from cotbook.sabotage.reach import reaches
from cotbook.sabotage.record import Noticed, Tried
from cotbook.sphinx import teeth

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


def test_a_record_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "record.json"
    assert record.read(path) == {}
    found = {
        "b": Noticed([Tried("x", "smoke", "0", fails=("é",)), Tried("y", "smoke", "1")]),
        "a": Noticed([Tried("x", "default", "2", inconclusive=("c",), stopped="it died")]),
        "c": Noticed(),
    }
    record.write(path, found)
    assert record.read(path) == found
    assert [line[2:5] for line in path.read_text().splitlines()[2:5]] == ['"a"', '"b"', '"c"']
    assert found["b"].caught and found["b"].fails == ["x/é"] and found["b"].silent == ["y"]
    assert not found["a"].caught and not found["c"].executed
    path.write_text("[]")
    with pytest.raises(BadInput, match="expected a record of planted errors"):
        record.read(path)


TEXT = """\
# A title
```{code-cell} ipython3
:tags: [parameters]
depth: int = 2
```
```{code-cell} ipython3
chapter.claim(name="a", statement="words", kind="bound", measured=depth)
chapter.cases("s", {"x": {"name": "b", "kind": "bound", "measured": depth}})
```
"""


@pytest.mark.parametrize(
    ("old", "new", "stays"),
    [
        ("# A title", "# Another\n\nMore of it.", True),
        ("measured=depth)", "measured=depth)  # so far", True),
        ('kind="bound", measured', 'kind="rounding", loose="so", measured', True),
        ('"kind": "bound"', '"kind": "exponent"', True),
        ('statement="words"', 'statement=f"{depth} words"', True),
        ("measured=depth)", "measured=depth + 1)", False),
        ('"measured": depth}', '"measured": 2 * depth}', False),
        ("int = 2", "int = 3", False),
    ],
)
def test_words_ask_for_no_new_campaign(tmp_path, old, new, stays):
    (tmp_path / "book").mkdir()
    before, after = (
        Source(tmp_path / "book/x.md", text) for text in (TEXT, TEXT.replace(old, new))
    )
    same = record.code(before, tmp_path, "default") == record.code(after, tmp_path, "default")
    assert before.text != after.text and same == stays


def test_a_result_is_of_its_edit_and_its_profile(tmp_path):
    (tmp_path / "book").mkdir()
    book = {"x": Source(tmp_path / "book/x.md", TEXT)}
    error = Error("e", Edit("book/x.md", "2", "3"), "a number")
    tried = Tried("x", "default", record.state(error.edit, book["x"], tmp_path, "default"))
    assert record.current(tried, error, book, tmp_path)
    assert not record.current(tried, error, {}, tmp_path)
    assert not record.current(replace(tried, profile="smoke"), error, book, tmp_path)
    other = replace(error, edit=Edit("book/x.md", "2", "4"))
    assert not record.current(tried, other, book, tmp_path)


def test_what_is_on_record_is_kept_and_what_is_not_is_tried(tmp_path, monkeypatch):
    """With chapters that execute nothing: who is asked for, and what becomes of the rest."""
    (tmp_path / "book").mkdir()
    book = {name: Source(tmp_path / f"book/{name}.md", TEXT) for name in ("quick", "slow")}
    seconds = {"quick": 1.0, "slow": 2.0}
    asked = []

    def execute(sweep, folder, *_, **__):
        asked.extend((sweep.chapter, job.swept["error"]) for job in sweep.jobs)
        for job in sweep.jobs:
            yield Outcome(job, (claim(failing=job.swept["error"] == "seen"),), None, folder)

    def claim(failing):
        return Claim(name="c", statement="", provenance="[R]", kind="constant", tolerance=0.5,
                     predicted=0, measured=int(failing))  # fmt: skip

    monkeypatch.setattr(campaign.engine, "run", execute)
    monkeypatch.setattr(campaign, "chapters", lambda root: book)
    monkeypatch.setattr(campaign, "reached", lambda source, values: ({}, seconds[source.name]))
    monkeypatch.setattr(campaign, "reaches", lambda reach, edit, name: True)
    monkeypatch.setattr(campaign, "state_of", lambda source: {"chapter": source.name})
    errors = [Error(n, Edit("book/x.md", "2", n), n) for n in ("seen", "unseen", "new")]

    def run(known):
        asked.clear()
        found = campaign.run(
            errors, book.values(), tmp_path, tmp_path / "s", "default", known=known
        )
        return found, sorted(asked)

    first, tried = run({})
    assert tried == sorted([("quick", "seen"), *((c, n) for c in book for n in ("unseen", "new"))])
    assert first["seen"].fails == ["quick/c"] and first["unseen"].silent == ["quick", "slow"]
    assert run(first) == (first, [])
    known = {"seen": first["seen"], "unseen": Noticed(first["unseen"].tried[:1]), "old": Noticed()}
    assert run(known) == (first, [("quick", "new"), ("slow", "new"), ("slow", "unseen")])
    stale = {"seen": Noticed([replace(first["seen"].tried[0], state="of before")])}
    assert ("quick", "seen") in run(first | stale)[1]


def test_the_page_counts_and_names_what_is_on_record(tmp_path):
    (tmp_path / "book/sabotage").mkdir(parents=True)
    (tmp_path / "book/x.md").write_text(TEXT)
    assert teeth.read(tmp_path, (), str) is None
    (tmp_path / teeth.catalogue.CATALOGUE).write_text(
        "errors:\n"
        + "".join(
            f"  {name}: {{place: book/x.md, old: int = 2, new: int = 3, breaks: {name} is wrong}}\n"
            for name in ("caught", "survivor", "same", "nowhere", "untried")
        )
        + "equivalent: {same: it is the same}\n"
    )
    found = {
        "caught": Noticed([Tried("x", "smoke", "0", fails=("a", "gone"))]),
        "survivor": Noticed([Tried("x", "smoke", "0", inconclusive=("b",))]),
        "same": Noticed([Tried("x", "smoke", "0")]),
        "nowhere": Noticed(),
    }
    record.write(tmp_path / record.RECORD, found)
    fields = {"statement": "", "provenance": "[R]", "predicted": 0, "measured": 0, "tolerance": 0}
    claims = tuple(
        Claim(name=name, chapter="x", kind=kind, **fields)
        for name, kind in (("a", "rounding"), ("b", "rounding"), ("c", "identity"))
    )
    shown = teeth.read(tmp_path, [ChapterRecord("book/x", "A page", "", None, claims)], lambda n: n)

    def said(kind):
        return "\n".join(node.astext() for node in teeth.SHOWN[kind](shown))

    assert said("summary") == "Of 2 planted errors the claims caught 1."
    assert (
        "4 errors were planted: 1 made a claim fail, 1 did not, 1 leave every statement true, "
        in said("counts")
    )
    assert "Of 3 errors the result is of an earlier state" in said("counts")
    assert "survivor is wrong" in said("missed") and "inconclusive x/b" in said("missed")
    assert "it is the same" in said("missed") and "caught is wrong" not in said("missed")
    assert "Formulas on the pages: 4 errors, 1 caught" in said("errors")
    assert "A page: 1 of 3 claims caught an error" in said("claims")
    links = [
        node["refuri"]
        for each in teeth.SHOWN["errors"](shown)
        for node in each.findall(nodes.reference)
    ]
    assert links == ["book/x#claim-x-a"]
    assert said("idle").split() == ["chapter", "claims", "A", "page", "b"]


@pytest.mark.slow
def test_a_planted_error_makes_a_claim_fail(tmp_path, monkeypatch):
    pytest.importorskip("snakemake")
    monkeypatch.chdir(ROOT)
    path = tmp_path / "record.json"
    command = ["sabotage", "gradient-next-state", "--chapter", "one-model"]
    done = CliRunner().invoke(main, [*command, "-o", str(tmp_path / "s"), "--record", str(path)])
    assert done.exit_code == 0, done.output
    assert "errors: 1, executed by a chapter: 1, caught: 1" in done.stdout
    row = record.read(path)["gradient-next-state"]
    assert row.caught and all(name.startswith("one-model/") for name in row.fails)
