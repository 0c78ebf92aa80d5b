"""A release: what it refuses, and an archive that depends on the pages alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from books import invoke
from cotbook.claims import Claim, Entry, Execution, Untested
from cotbook.keep.release import BESIDE
from cotbook.provenance import execution_hash, file_hash
from cotbook.records import ChapterRecord, Ledger

IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@example.org")
WHEN = 1_700_000_000


def git(root: Path, *arguments: str) -> None:
    date = {"GIT_COMMITTER_DATE": f"{WHEN} +0000", "GIT_AUTHOR_DATE": f"{WHEN} +0000"}
    command = ["git", *IDENTITY, *arguments]
    subprocess.run(command, cwd=root, check=True, capture_output=True, env=os.environ | date)


# Of a claim that 0.5 is predicted for, up to 0.1
INTERVALS = {"holds": (0.5, 0.5), "inconclusive": (0.5, 0.9), "fails": (0.9, 0.9)}


def claims(verdict: str) -> tuple[Entry, ...]:
    low, high = INTERVALS[verdict]
    half = Claim(
        name="half", statement="", provenance="[R] arithmetic", kind="constant", predicted=0.5,
        tolerance=0.1, measured=low, low=low, high=high,
    )  # fmt: skip
    assert half.verdict == verdict
    return half, Untested(name="big", statement="", provenance="[B] x", reason="no memory")


def write_ledger(root: Path, **changes) -> None:
    """A built book of one chapter and one claim."""
    execution = Execution(
        chapter="tiny", started="", seconds=1.0, device="cpu", machine="", threads=1, versions={},
        library_hash="", parameters={},
    )  # fmt: skip
    chapter = ChapterRecord(
        docname="book/tiny",
        title="Tiny",
        source_hash=changes.get("source_hash", file_hash(root / "book/tiny.md")),
        execution=execution,
        claims=changes.get("claims", claims(changes.get("verdict", "holds"))),
    )
    library = changes.get("library_hash", execution_hash())
    ledger = Ledger(library_hash=library, chapters=(chapter,)).to_json()
    html = root / "_build/html"
    (html / "book").mkdir(parents=True, exist_ok=True)
    (html / "ledger.json").write_text(json.dumps(ledger))
    (html / "ledger.md").write_text("# Ledger\n")
    (html / "index.html").write_text("<p>home")
    (html / "book/tiny.html").write_text("<p>tiny")


@pytest.fixture
def book(tmp_path, monkeypatch) -> Path:
    """A committed book, built."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    root = tmp_path / "book"
    (root / "book").mkdir(parents=True)
    for name in (*BESIDE, "_toc.yml", "book/tiny.md"):
        (root / name).write_text(f"{name}\n")
    (root / "CHANGELOG.md").write_text("## [0.3.0] - 2026-01-01\n")
    (root / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "0.3.0"\n')
    (root / ".gitignore").write_text("_build/\ndist/\n")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "All")
    write_ledger(root)
    return root


def test_the_archive_has_pages_ledger_and_licences_and_its_checksum_fits(book):
    done = invoke(book, "release")
    assert done.exit_code == 0, done.output
    archive = book / "dist/cotflow-0.3.0-html.tar.gz"
    assert done.output == f"archive: {archive}\n"
    assert sorted(os.listdir(book / "dist")) == ["SHA256SUMS", archive.name]
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert (book / "dist/SHA256SUMS").read_text() == f"{digest}  {archive.name}\n"
    with tarfile.open(archive) as tar:
        names = tar.getnames()
        inside = {name.removeprefix("cotflow-0.3.0/") for name in names}
        pages = {"index.html", "ledger.json", "ledger.md", "book/tiny.html"}
        assert inside == {"ledger.json", "ledger.md", *BESIDE, *(f"html/{p}" for p in pages)}
        assert names == sorted(names)
        for entry in tar:
            assert (entry.mtime, entry.uid, entry.gid, entry.mode) == (WHEN, 0, 0, 0o644)
            assert entry.uname == entry.gname == ""
        shown = json.load(tar.extractfile("cotflow-0.3.0/ledger.json"))
    assert [c["verdict"] for c in shown["chapters"][0]["claims"]] == ["holds", "not tested here"]


def test_the_same_pages_give_the_same_bytes_and_another_time_does_not(book, monkeypatch):
    archive = book / "dist/cotflow-0.3.0-html.tar.gz"
    packed = []
    for epoch in (None, None, "1600000000"):
        for path in (book / "_build/html").rglob("*"):
            os.utime(path, (time.time() - 1000 * len(packed),) * 2)
        if epoch:
            monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        assert invoke(book, "release").exit_code == 0
        packed.append(archive.read_bytes())
    assert packed[0] == packed[1] != packed[2]


@pytest.mark.parametrize(
    ("ledger", "sentence"),
    [
        ({"verdict": "fails"}, "book/tiny, half: fails"),
        ({"verdict": "inconclusive"}, "book/tiny, half: inconclusive"),
        ({"library_hash": "0" * 12}, "another state of the library"),
        ({"source_hash": "0" * 12}, "tiny.md has changed since"),
        ({"claims": ()}, "expected a ledger with claims"),
    ],
)
def test_a_book_that_is_stale_or_does_not_hold_is_refused(book, ledger, sentence):
    write_ledger(book, **ledger)
    done = invoke(book, "release")
    assert done.exit_code == 2
    assert sentence in done.output
    assert not (book / "dist").exists()


def test_a_ledger_whose_verdict_was_set_by_hand_is_refused(book):
    path = book / "_build/html/ledger.json"
    write_ledger(book, verdict="fails")
    path.write_text(path.read_text().replace('"fails"', '"holds"'))
    done = invoke(book, "release")
    assert done.exit_code == 2
    assert "claim 'half': expected the verdict 'fails'" in done.output


def test_a_book_that_was_not_built_is_refused(book):
    (book / "_build/html/ledger.json").unlink()
    done = invoke(book, "release")
    assert (done.exit_code, (book / "dist").exists()) == (2, False)
    assert "expected a built book" in done.output


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("book/tiny.md", "edited", " M book/tiny.md"),
        ("book/extra.md", "new", "?? book/extra.md"),
    ],
)
def test_an_uncommitted_change_is_refused_before_anything_is_built(book, name, text, sentence):
    (book / name).write_text(text)
    for arguments in (("release", "--check"), ("release",)):
        done = invoke(book, *arguments)
        assert done.exit_code == 2
        assert sentence.strip() in done.output
    assert not (book / "dist").exists()


def test_a_version_that_the_changelog_does_not_know_is_refused(book):
    text = (book / "pyproject.toml").read_text()
    (book / "pyproject.toml").write_text(text.replace("0.3.0", "0.4.0"))
    git(book, "commit", "--all", "--quiet", "--message", "Version")
    done = invoke(book, "release", "--check")
    assert done.exit_code == 2
    assert "CHANGELOG.md: expected a section ## [0.4.0]" in done.output


def test_a_tree_that_may_be_released_passes_the_check(book):
    done = invoke(book, "release", "--check")
    assert (done.exit_code, done.output) == (0, "")


def test_without_git_there_is_a_sentence(book, monkeypatch):
    monkeypatch.setenv("PATH", str(book))
    done = invoke(book, "release", "--check")
    assert done.exit_code == 2
    assert "a release needs git, which cannot be started: No such file" in done.output
