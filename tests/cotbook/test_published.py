"""The record of runs at the published sizes."""

import json

import pytest

from books import invoke, write_tiny_chapter
from cotbook.keep import published


@pytest.fixture
def book(tmp_path):
    write_tiny_chapter(tmp_path)
    (tmp_path / "book/profiles/paper.yml").write_text("tiny-rate: {depths: [2, 8]}\n")
    return tmp_path


def run(book, *options):
    done = invoke(book, "run", "tiny-rate", "-o", "out", *options)
    assert done.exit_code == 0, done.output


def test_a_run_of_the_profile_is_kept_and_read(book):
    run(book, "--profile", "paper")
    done = invoke(book, "published", "out")
    assert done.exit_code == 0 and "recorded: tiny-rate" in done.output
    (kept,) = published.read(book).values()
    assert kept.parameters == {"depths": [2, 8]} and kept.seconds > 0
    names = [(entry.name, entry.verdict) for entry in kept.claims]
    assert names == [("bounded", "holds"), ("unbounded", "not tested here")]
    assert kept.claims[0].measured == 8.0


def test_another_run_is_refused_and_nothing_is_overwritten(book):
    run(book)
    path = book / published.RECORD
    path.parent.mkdir()
    path.write_text("{}\n")
    done = invoke(book, "published", "out")
    assert done.exit_code == 2
    sentence = (
        "expected a run of tiny-rate with the profile paper, depths = [2, 8], received [2, 4]"
    )
    assert sentence in done.output
    (book / "empty").mkdir()
    assert invoke(book, "published", "empty").exit_code == 2
    assert path.read_text() == "{}\n"


def test_a_new_run_replaces_that_of_its_chapter_alone(book):
    run(book, "--profile", "paper")
    path = book / published.RECORD
    path.parent.mkdir()
    path.write_text(json.dumps({"zeta": {"claims": []}, "tiny-rate": {"claims": []}}))
    assert invoke(book, "published", "out").exit_code == 0
    content = json.loads(path.read_text())
    assert list(content) == ["tiny-rate", "zeta"] and len(content["tiny-rate"]["claims"]) == 2


def test_without_a_record_there_is_nothing_and_a_damaged_one_is_refused(book):
    assert published.read(book) == {}
    path = book / published.RECORD
    path.parent.mkdir()
    for text in ("[]", '{"a": {}}', "x"):
        path.write_text(text)
        with pytest.raises(published.BadInput, match="expected what `cotflow published` wrote"):
            published.read(book)
