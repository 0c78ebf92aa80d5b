"""The build of the book fails when it must, repeats nothing needlessly, keeps no stale result."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml

from cotbook import provenance
from cotbook.chapter import EXECUTION_MIME

ROOT = Path(__file__).resolve().parents[2]

TOC = """\
format: jb-book
root: book/index
chapters:
- file: book/tiny
- file: book/execution-record
"""

INDEX = """\
# Ledger

```{ledger}
:summary:
```

```{ledger}
```
"""

TINY = """\
---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {name: python3, display_name: Python 3, language: python}
---
# A tiny chapter

```{code-cell} ipython3
:tags: [parameters]
seed: int = 0
```

```{code-cell} ipython3
from cotbook import Chapter

chapter = Chapter("tiny", globals())
```

```{code-cell} ipython3
chapter.claim(
    name="half",
    statement=r"Half of one is $\\tfrac12$.",
    provenance="[R] arithmetic",
    predicted=0.5,
    measured=1 / 2,
    tolerance=0,
)
```

```{code-cell} ipython3
chapter.close()
```
"""


class Book:
    """A small book in its own folder, with its own copy of the library."""

    def __init__(self, folder: Path):
        self.folder = folder
        for part in ("lib", "book/_static"):
            ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / part, folder / part, ignore=ignore)
        shared = ("_config.yml", "requirements.txt", "book/references.bib")
        for part in (*shared, "book/execution-record.md"):
            shutil.copy(ROOT / part, folder / part)
        (folder / "_toc.yml").write_text(TOC)
        (folder / "book/index.md").write_text(INDEX)
        (folder / "book/tiny.md").write_text(TINY)

    def build(self) -> subprocess.CompletedProcess:
        command = [Path(sys.executable).with_name("jupyter-book"), "build", ".", "-W", "-n"]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(self.folder / "lib")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )

    def page(self, name: str) -> str:
        return (self.folder / f"_build/html/book/{name}.html").read_text()

    @contextmanager
    def edited(self, path: str, old: str, new: str):
        """The file with one text replaced, for as long as the block lasts."""
        file = self.folder / path
        before = file.read_text()
        assert old in before
        file.write_text(before.replace(old, new))
        yield
        file.write_text(before)


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Book:
    return Book(tmp_path_factory.mktemp("book"))


@pytest.fixture(scope="module")
def builds(book) -> list[subprocess.CompletedProcess]:
    """A build from clean, and a second one with nothing changed."""
    return [book.build(), book.build()]


@pytest.fixture
def built(book, builds) -> Book:
    assert builds[0].returncode == 0, builds[0].stdout
    return book


def executed(build: subprocess.CompletedProcess) -> bool:
    return "Executing notebook" in build.stdout


def assert_ledger(book: Book) -> None:
    page = book.page("index")
    assert "1 claim measured in 1 chapter: 1 holds." in page
    assert 'href="tiny.html#claim-tiny-half"' in page
    assert r"\(\tfrac12\)" in page
    assert "✔ holds" in page
    assert 'id="claim-tiny-half"' in book.page("tiny")


def test_clean_build_has_the_claim_in_its_ledger(built, builds):
    assert executed(builds[0])
    assert_ledger(built)


def test_ledger_lies_beside_the_pages(built):
    html = built.folder / "_build/html"
    ledger = json.loads((html / "ledger.json").read_text())
    (chapter,) = ledger["chapters"]
    (claim,) = chapter["claims"]
    assert chapter["chapter"] == "book/tiny"
    assert chapter["source_hash"] == provenance.file_hash(built.folder / "book/tiny.md")
    assert chapter["execution"]["library_hash"] == ledger["library_hash"]
    assert (claim["name"], claim["verdict"], claim["measured"]) == ("half", "holds", 0.5)
    page, anchor = claim["page"].split("#")
    assert f'id="{anchor}"' in (html / page).read_text()
    shown = (html / "ledger.md").read_text()
    assert "## A tiny chapter" in shown
    assert f"| ✔ holds | [half]({claim['page']}) |" in shown
    assert "| = 0.5 | 0.5 | 0 |" in shown


def test_execution_record_names_hashes_parameters_and_versions(built):
    page = built.page("execution-record")
    notebook = nbformat.read(built.folder / "_build/jupyter_execute/book/tiny.ipynb", 4)
    record = notebook.cells[-1].outputs[0].data[EXECUTION_MIME]
    assert record["library_hash"] in page
    assert "seed = 0" in re.sub("<[^>]+>", "", page)
    assert record["versions"]["torch"] in page


def test_page_without_a_known_repository_has_downloads_and_no_launch(built):
    page = built.page("tiny")
    assert "dropdown-download-buttons" in page
    assert "dropdown-launch-buttons" not in page
    assert not (built.folder / "_build/html/launch").exists()


def test_page_of_a_known_repository_can_be_launched(built, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("COTFLOW_REPOSITORY", "https://github.com/owner/name")
    monkeypatch.setenv("COTFLOW_COMMIT", commit)
    monkeypatch.setenv("COTFLOW_LAUNCH_BRANCH", "launch")
    monkeypatch.setenv("COTFLOW_SITE", "https://owner.example/name/")
    paired = built.folder / "book/notebooks/tiny.ipynb"
    paired.parent.mkdir(exist_ok=True)
    paired.write_text("{}")
    with built.edited("book/tiny.md", "# A tiny chapter", "# A public chapter"):
        build = built.build()
    paired.unlink()
    assert build.returncode == 0, build.stdout
    page = built.page("tiny")
    assert f"https://mybinder.org/v2/gh/owner/name/{commit}?urlpath=lab/tree/" in page
    assert "https://colab.research.google.com/github/owner/name/blob/launch/tiny.ipynb" in page
    assert 'content="https://owner.example/name/_static/preview.png"' in page
    launch = nbformat.read(built.folder / "_build/html/launch/tiny.ipynb", 4)
    assert f"@ git+https://github.com/owner/name@{commit}" in launch.cells[0].source
    shutil.rmtree(built.folder / "_build/html/launch")


def test_pdf_is_printed(built, tmp_path):
    tool = [sys.executable, "-m", "cotbook.keep.pdf"]
    if subprocess.run([*tool, "--check"], capture_output=True).returncode:
        pytest.skip("no browser to print with")
    pdf = tmp_path / "book.pdf"
    subprocess.run([*tool, built.folder / "_build/html", pdf], check=True, timeout=120)
    assert pdf.read_bytes().startswith(b"%PDF-")
    assert pdf.stat().st_size > 20_000


def test_pdf_without_a_browser_ends_with_a_sentence(tmp_path):
    printed = subprocess.run(
        [sys.executable, "-m", "cotbook.keep.pdf", "--check"],
        env={**os.environ, "PATH": str(tmp_path), "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert printed.returncode == 1
    assert "no chromium or chrome was found" in printed.stderr


def test_unchanged_build_executes_nothing_and_keeps_the_ledger(built, builds):
    assert builds[1].returncode == 0, builds[1].stdout
    assert not executed(builds[1])
    assert_ledger(built)


def test_edited_prose_keeps_the_cached_outputs(built):
    with built.edited("book/tiny.md", "# A tiny chapter", "# A short chapter"):
        build = built.build()
    assert build.returncode == 0, build.stdout
    assert not executed(build)
    assert_ledger(built)
    assert "A short chapter" in built.page("index")


def test_changed_number_refreshes_a_ledger_on_an_unchanged_page(built):
    with (
        built.edited("book/tiny.md", "measured=1 / 2", "measured=0.4991"),
        built.edited("book/tiny.md", "tolerance=0", "tolerance=0.1"),
    ):
        build = built.build()
    assert build.returncode == 0, build.stdout
    assert "0.4991" in built.page("index")


def test_cards_and_tables_are_made_from_records_when_the_page_is(built):
    table = 'chapter.table(["a < b"], [["$x$"]])\nchapter.close()'
    with (
        built.edited("lib/cotbook/chapter.py", "render.card(entry)", '"<b>a live card</b>"'),
        built.edited("lib/cotbook/chapter.py", "render.table(head, rows)", '"<b>a live table</b>"'),
        built.edited("book/tiny.md", "chapter.close()", table),
    ):
        build = built.build()
    assert build.returncode == 0, build.stdout
    assert_ledger(built)
    page = built.page("tiny")
    assert "<th>a &lt; b</th>" in page
    assert "a live" not in page
    stored = (built.folder / "_build/jupyter_execute/book/tiny.ipynb").read_text()
    assert "a live card" in stored and "a live table" in stored


def test_library_change_executes_again(built):
    with built.edited("lib/cotbook/claims.py", '"""Claims:', '"""Claim:'):
        build = built.build()
    assert build.returncode == 0, build.stdout
    assert executed(build)
    assert_ledger(built)


def test_a_changed_pin_or_library_leaves_no_cached_execution(tmp_path, monkeypatch):
    from cotbook.sphinx import ledger

    app = SimpleNamespace(srcdir=str(tmp_path), outdir=str(tmp_path / "_build/html"))
    caches, keys = tmp_path / "_build/.jupyter_cache", []
    for pin, library in (
        ("torch==1", "a"),
        ("torch==1", "a"),
        ("torch==2", "a"),
        ("torch==2", "b"),
    ):
        (tmp_path / "requirements.txt").write_text(pin)
        monkeypatch.setattr(ledger, "library_hash", lambda library=library: library)
        config = SimpleNamespace()
        ledger.key_cache(app, config)
        keys.append(config.cotflow_library)
        assert config.nb_execution_cache_path == str(caches / keys[-1])
        assert {path.name for path in caches.glob("*")} <= {keys[-1]}
        (caches / keys[-1]).mkdir(parents=True, exist_ok=True)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_every_file_of_the_library_counts_and_what_tools_leave_there_does_not(
    tmp_path, monkeypatch
):
    library = tmp_path / "cotflow"
    (library / "__pycache__").mkdir(parents=True)
    (library / "a.py").write_text("")
    (library / "data.csv").write_text("1")
    monkeypatch.setattr(provenance, "LIBRARY", library)
    seen = [provenance.library_hash()]
    (library / "__pycache__/a.pyc").write_text("x")
    (library / ".a.py.swp").write_text("x")
    assert provenance.library_hash() == seen[0]
    for change in (
        lambda: (library / "data.csv").write_text("2"),
        lambda: (library / "data.csv").rename(library / "more.csv"),
        lambda: (library / "a.py").unlink(),
        lambda: monkeypatch.setattr(provenance, "versions", lambda: {"torch": "0"}),
    ):
        change()
        seen.append(provenance.library_hash())
    assert len(set(seen)) == len(seen)


def test_raising_cell_fails_the_build_from_every_tree(built):
    with built.edited("book/tiny.md", "measured=1 / 2", "measured=1 / 0"):
        warm = built.build()
        shutil.rmtree(built.folder / "_build")
        clean = built.build()
    assert all(build.returncode != 0 for build in (warm, clean))
    assert "ZeroDivisionError" in warm.stdout


def test_failing_claim_fails_the_build(built):
    with built.edited("book/tiny.md", "measured=1 / 2", "measured=1 / 3"):
        build = built.build()
    assert build.returncode != 0
    assert "half fails" in build.stdout


def test_chapter_without_execution_record_fails_the_build(built):
    with built.edited("book/tiny.md", "chapter.close()", "chapter.name"):
        build = built.build()
    assert build.returncode != 0
    assert "book/tiny: expected one execution record, found 0" in build.stdout


def test_result_of_another_library_fails_the_build_until_it_is_removed(built):
    assert built.build().returncode == 0
    path = built.folder / "_build/jupyter_execute/book/tiny.ipynb"
    record = nbformat.read(path, 4).cells[-1].outputs[0].data[EXECUTION_MIME]
    path.write_text(path.read_text().replace(record["library_hash"], "0" * 12))
    with built.edited("book/index.md", "# Ledger", "# The ledger"):
        stale = built.build()
        path.unlink()
        healed = built.build()
    assert stale.returncode != 0
    assert "comes from library 000000000000" in stale.stdout
    assert healed.returncode == 0, healed.stdout
    assert_ledger(built)


def test_citation_file_has_the_version_of_the_library():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    assert [entry.get("doi") for entry in citation["references"]] == ["10.1002/cpa.70004", None]
