"""Whatever is typed or written in a file: a sentence, a documented exit code, nothing half-done."""

import json
import os
import re

import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from books import invoke, tree, write_tiny_chapter

TEXT = st.text(max_size=40)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALAR, inner, max_size=4),
    max_leaves=12,
)
NAME = st.sampled_from(["depths", "seed", "bound", "device", "depth"]) | TEXT
GOOD = st.sampled_from([[2], [2, 4], 0, 1, 10.0, "cpu"])
SETTING = st.dictionaries(NAME, GOOD | VALUE, max_size=3)
SWEEP = st.fixed_dictionaries(
    {},
    optional={
        "chapter": st.just("tiny-rate") | VALUE,
        "profile": st.sampled_from(["default", "quick"]) | VALUE,
        "description": TEXT | VALUE,
        "grid": st.dictionaries(NAME, st.lists(GOOD | VALUE, max_size=3), max_size=3) | VALUE,
        "seeds": st.lists(st.integers(0, 9), max_size=3) | VALUE,
        "cases": st.lists(SETTING, max_size=3) | VALUE,
        "gird": VALUE,
    },
)
DOCUMENTED = {0, 1, 2, 3}
NASTY = ["[" * 5000, "&a [*a]", "a: &a {b: *a}", "? [x]\n: 1", "\x00", "!!python/none", "- {", "~"]


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A book whose folder ``full`` no run may use, so that nothing is ever executed."""
    root = tmp_path_factory.mktemp("book")
    write_tiny_chapter(root)
    (root / "book/profiles/quick.yml").write_text("description: one\ntiny-rate: {depths: [2]}\n")
    (root / "full").mkdir()
    (root / "full/notes.txt").write_text("mine")
    return root


def assert_refused(root, *arguments: str) -> str:
    before = tree(root)
    done = invoke(root, *arguments)
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 2, done.output
    assert done.output.strip() and "Traceback" not in done.output
    assert tree(root) == before
    return done.output


def as_yaml(content) -> str:
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False)


@given(content=SWEEP)
@example(content={"chapter": "tiny-rate", "grid": {"depths": [[2], [4]]}, "cases": [{"seed": 3}]})
@example(content={"chapter": "tiny-rate", "seeds": [1, 2]})
@settings(max_examples=60)
def test_sweep_files_of_any_shape_are_refused_with_sentences(book, content):
    (book / "fuzz.yml").write_text(as_yaml(content), encoding="utf-8")
    said = assert_refused(book, "sweep", "fuzz.yml", "-o", "full")
    assert all("fuzz.yml" in line or "unknown" in line for line in said.splitlines()) or (
        "which holds something else" in said
    )


@given(content=st.binary(max_size=60) | TEXT.map(lambda text: text.encode(errors="replace")))
@settings(max_examples=60)
def test_sweep_files_of_any_bytes_are_refused_with_a_sentence(book, content):
    (book / "fuzz.yml").write_bytes(content)
    assert_refused(book, "sweep", "fuzz.yml", "-o", "full")


@pytest.mark.parametrize("text", NASTY)
def test_nasty_yaml_is_refused_in_sweeps_and_profiles(book, text):
    (book / "fuzz.yml").write_text(text)
    assert_refused(book, "sweep", "fuzz.yml", "-o", "full")
    path = book / "book/profiles/fuzz.yml"
    path.write_text(text)
    try:
        assert_refused(book, "run", "tiny-rate", "--profile", "fuzz", "-o", "full")
    finally:
        path.unlink()


@given(
    content=st.dictionaries(
        st.sampled_from(["tiny-rate", "description"]) | NAME, SETTING | VALUE, max_size=3
    )
    | VALUE
    | st.binary(max_size=60)
)
@settings(max_examples=80)
def test_profiles_of_any_shape_are_refused_or_used(book, content):
    path = book / "book/profiles/fuzz.yml"
    path.write_bytes(content if isinstance(content, bytes) else as_yaml(content).encode())
    try:
        assert_refused(book, "run", "tiny-rate", "--profile", "fuzz", "-o", "full")
        assert invoke(book, "list").exit_code in (0, 2)
    finally:
        path.unlink()


WORDS = (
    *("tiny-rate", "full", "book", ".", "-p", "seed", "3", "depths", "[2]", "--profile", "quick"),
    *("--cores", "--retry", "--help", "--check", "-o", "sweep.yml", "/proc/nowhere", "x" * 300),
)
# What a shell can pass: bytes, text or not, without the zero byte.
TYPED = st.text(max_size=12) | st.binary(max_size=12).map(os.fsdecode)
ARGUMENT = st.sampled_from(WORDS) | TYPED.map(lambda text: text.replace("\0", ""))


@given(
    command=st.sampled_from(["run", "sweep", "list", "parameters", "ledger", "lit"]) | ARGUMENT,
    arguments=st.lists(ARGUMENT, max_size=6),
)
@example(command="run", arguments=["tiny-rate", "-p", "depths", "\udc80"])
@example(command="run", arguments=["\udc80"])
@example(command="sweep", arguments=["\udc80"])
@example(command="ledger", arguments=["\udc80"])
@settings(max_examples=150)
def test_any_command_line_ends_with_a_documented_code(book, command, arguments):
    assume("--" not in arguments and command not in ("notebooks", "bench"))
    (book / "sweep.yml").write_text("chapter: tiny-rate\nseeds: [0]\n")
    if command in ("run", "sweep"):
        arguments = [*arguments, "-o", "full"]  # the last one counts
    before = tree(book)
    done = invoke(book, command, *arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code in DOCUMENTED
    assert "Traceback" not in done.output
    assert tree(book) == before
    if command in ("run", "sweep") and "--help" not in arguments:
        assert done.exit_code == 2


@pytest.mark.parametrize(
    "output", ["~no-such-user/x", "\udc80" * 300, "x" * 5000, "full/notes.txt/x", "full"]
)
def test_impossible_output_folders_are_refused(book, output):
    (book / "sweep.yml").write_text("chapter: tiny-rate\nseeds: [0]\n")
    assert_refused(book, "sweep", "sweep.yml", "-o", output)
    assert_refused(book, "run", "tiny-rate", "-o", output)


CLAIM = {
    **{"name": "a", "statement": "b", "provenance": "[C] c", "relation": "equals", "interval": "d"},
    **{"predicted": 1.0, "measured": 1.0, "low": 1.0, "high": 1.0, "tolerance": 0.0},
    **{"chapter": "e", "library_hash": "f", "executed": "g", "verdict": "holds"},
}


@given(
    changes=st.dictionaries(st.sampled_from(list(CLAIM)), TEXT | VALUE, max_size=3),
    values=st.dictionaries(NAME, VALUE, max_size=3) | VALUE,
    raw=st.none() | st.binary(max_size=20),
)
@example(changes={"name": "\x1b]0;x\x07", "interval": "<img src=x>"}, values={}, raw=None)
@example(changes={"measured": "nan", "verdict": "fails"}, values={}, raw=None)
@settings(max_examples=80)
def test_results_of_any_content_are_printed_or_refused(book, changes, values, raw):
    folder = book / "results"
    folder.mkdir(exist_ok=True)
    record = json.dumps([CLAIM | changes], default=str).encode()
    (folder / "claims.json").write_bytes(record if raw is None else raw)
    (folder / "parameters.yml").write_text(as_yaml(values), encoding="utf-8")
    (folder / "x.ipynb").write_text('{"cells": []}')
    done = invoke(book, "ledger", "results")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code in (0, 2)
    assert "\x1b" not in done.output and "\x07" not in done.output
    assert not re.search(r"(?<!\\)<\w", done.stdout)


@pytest.mark.parametrize("words", [["l\x1b[2J"], ["--l\x1b[2J"], ["run", "a", "l\x1b[2J"]])
def test_what_was_typed_does_not_speak_to_the_terminal_when_it_is_repeated(book, words):
    assert "l\\x1b[2J" in assert_refused(book, *words)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("_toc.yml", "new deep-limit"),
        ("book/page.md", "list"),
        ("book/page.md", "bibliography"),
        ("book/tiny-rate.md", "parameters tiny-rate"),
    ],
)
def test_a_file_of_the_book_that_is_no_text_is_named(tmp_path, name, command):
    write_tiny_chapter(tmp_path)
    entry = "@misc{a, title={A}, url={https://example.org}}\n"
    (tmp_path / "book/references.bib").write_text(entry)
    (tmp_path / name).write_bytes(b"# A\n\xff\xfe\n")
    said = assert_refused(tmp_path, *command.split())
    assert "cannot read" in said and name in said
