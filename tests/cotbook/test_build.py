"""The build of the book fails when it must, repeats nothing needlessly, keeps no stale result."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import tomllib
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
import yaml

from cotbook import provenance
from cotbook.chapter import EXECUTION_MIME
from cotbook.errors import BadInput
from cotbook.keep import release
from cotbook.sphinx import execution

ROOT = Path(__file__).resolve().parents[2]

TOC = """\
format: jb-book
root: book/index
chapters:
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
    kind="constant",
    predicted=0.5,
    measured=1 / 2,
    tolerance=0,
)
```

```{code-cell} ipython3
chapter.close()
```
"""

# Two chapters that meet: neither ends before the other has begun.
LEFT = TINY.replace(
    "```{code-cell} ipython3\nchapter.close()",
    """\
```{code-cell} ipython3
import time
from pathlib import Path

import matplotlib.pyplot as plt

Path("tiny.here").touch()
for _ in range(3000):
    if Path("other.here").exists():
        break
    time.sleep(0.1)
else:
    raise TimeoutError("the other chapter did not begin")
plt.plot([1, 2])
plt.show()
```

```{code-cell} ipython3
chapter.close()""",
)
RIGHT = LEFT.replace('"tiny', '"swap').replace('"other', '"tiny').replace("swap", "other")
RIGHT = RIGHT.replace("import time\n", "import time\nfrom cotbook.bench import record\n")


class Book:
    """A small book in its own folder, with its own copy of the library."""

    def __init__(self, folder: Path, **chapters: str):
        self.folder = folder
        for part in ("lib", "book/_static"):
            ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / part, folder / part, ignore=ignore)
        shared = ("_config.yml", "requirements.txt", "book/references.bib")
        for part in (*shared, "book/execution-record.md"):
            shutil.copy(ROOT / part, folder / part)
        (folder / "book/index.md").write_text(INDEX)
        toc = TOC
        for name, text in chapters.items():
            toc += f"- file: book/{name}\n"
            (folder / f"book/{name}.md").write_text(text)
        (folder / "_toc.yml").write_text(toc)

    def start(self, *options: str, **variables: str) -> subprocess.Popen:
        command = [Path(sys.executable).with_name("jupyter-book"), "build", ".", "-W", "-n"]
        return subprocess.Popen(
            [*command, *options],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(self.folder / "lib")} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A test run in the background may ignore Ctrl-C, and children inherit that.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )

    def build(self, *options: str, **variables: str) -> subprocess.CompletedProcess:
        with self.start(*options, **variables) as process:
            try:
                shown, _ = process.communicate(timeout=900)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
        return subprocess.CompletedProcess(process.args, process.returncode, plain)

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
    return Book(tmp_path_factory.mktemp("book"), tiny=TINY)


@pytest.fixture(scope="module")
def builds(book) -> list[subprocess.CompletedProcess]:
    """A build from clean, and a second one with nothing changed."""
    return [book.build(), book.build()]


@pytest.fixture
def built(book, builds) -> Book:
    assert builds[0].returncode == 0, builds[0].stdout
    return book


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Book:
    """Two chapters, executed at once where everything is set to something else than the book's."""
    folder = tmp_path_factory.mktemp("pair")
    book = Book(folder / 'ein "Bändchen", it\'s 100% {two}', tiny=LEFT, other=RIGHT)
    (book.folder / "book/matplotlibrc").write_text("backend: pdf\nfigure.figsize: 40, 1\n")
    (folder / "kernels/python3").mkdir(parents=True)
    (folder / "kernels/python3/kernel.json").write_text(
        '{"argv": ["false"], "display_name": "Another", "language": "python"}'
    )
    build = book.build(MPLBACKEND="nonsense", JUPYTER_PATH=str(folder), LC_ALL="C")
    assert build.returncode == 0, build.stdout
    assert executed(build) == {"book/tiny", "book/other"}
    return book


def executed(build: subprocess.CompletedProcess) -> set[str]:
    """The chapters that a build executed to their end."""
    assert "Executing notebook using" not in build.stdout  # MyST-NB found all in the cache
    return set(re.findall(r"^Executed (\S+) in \d+ s$", build.stdout, re.MULTILINE))


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


def test_pages_of_a_build_that_is_killed_say_so_until_the_next_one(built):
    html = built.folder / "_build/html"
    assert 'http-equiv="Refresh"' in (html / "index.html").read_text()
    process = built.start()
    deadline = time.monotonic() + 300
    while "not whole" not in (html / "index.html").read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert (
        "not whole: it is being built, or its build was stopped"
        in (html / "index.html").read_text()
    )
    assert not (html / "ledger.json").exists() and not (html / "ledger.md").exists()
    with pytest.raises(BadInput, match="expected a built book with its ledger"):
        release.check_book(built.folder, html)
    assert built.build().returncode == 0
    assert 'http-equiv="Refresh"' in (html / "index.html").read_text()
    assert (html / "ledger.json").exists()


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


def test_a_comment_in_a_renderer_of_pages_executes_nothing(built):
    with (
        built.edited("lib/cotbook/render.py", "from __future__", "# A comment.\nfrom __future__"),
        built.edited("lib/cotbook/sphinx/tables.py", "from __f", "# Another.\nfrom __f"),
    ):
        build = built.build()
    assert build.returncode == 0, build.stdout
    assert not executed(build)
    assert "reading sources... [" in build.stdout
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
    tables = """\
chapter.table(["a < b"], [["$x$"]])
chapter.cases(
    "C < D", {name: {"name": name, "measured": 1} for name in "xy"},
    provenance="[R] arithmetic", kind="bound", relation="at most", predicted=2, tolerance=0,
)
chapter.close()"""
    with (
        built.edited("lib/cotbook/chapter.py", "render.card(entry)", '"<b>a live card</b>"'),
        built.edited("lib/cotbook/chapter.py", "render.table(head, rows)", '"<b>a live table</b>"'),
        built.edited("lib/cotbook/chapter.py", "render.cases(statement, found)", '"a live case"'),
        built.edited("book/tiny.md", "chapter.close()", tables),
    ):
        build = built.build()
    assert build.returncode == 0, build.stdout
    assert "3 claims measured in 1 chapter: 3 hold." in built.page("index")
    page = built.page("tiny")
    assert "<th>a &lt; b</th>" in page
    assert "<caption>C &lt; D" in page and '<tr class="cotflow-holds" id="claim-tiny-y">' in page
    assert 'href="tiny.html#claim-tiny-x"' in built.page("index")
    assert "a live" not in page
    stored = (built.folder / "_build/jupyter_execute/book/tiny.ipynb").read_text()
    assert "a live card" in stored and "a live table" in stored


def test_library_change_executes_again(built):
    with built.edited("lib/cotflow/flows/chebyshev.py", "refresh: int = 25", "refresh: int = 24"):
        build = built.build()
    assert build.returncode == 0, build.stdout
    assert executed(build) == {"book/tiny"}
    assert_ledger(built)


@pytest.mark.skipif(execution.cores() < 2, reason="one core: one chapter at a time")
def test_chapters_are_executed_side_by_side_and_draw_whatever_the_backend(pair):
    for name in ("tiny", "other"):
        notebook = nbformat.read(pair.folder / f"_build/jupyter_execute/book/{name}.ipynb", 4)
        data = [output.get("data", {}) for output in notebook.cells[-2].outputs]
        (picture,) = (entry["image/png"] for entry in data if "image/png" in entry)
        width, height = struct.unpack(">II", base64.b64decode(picture)[16:24])
        assert 1 < width / height < 2
        assert 'src="../_images/' in pair.page(name)


@pytest.mark.skipif(execution.cores() < 2, reason="one core: one chapter at a time")
def test_every_failing_chapter_is_shown_and_the_others_are_kept(pair):
    with (
        pair.edited("book/tiny.md", "measured=1 / 2", "measured=1 / 0"),
        pair.edited("book/other.md", "measured=1 / 2", "measured=2 / 4"),
    ):
        failed = pair.build("--keep-going")
    assert failed.returncode != 0
    assert executed(failed) == {"book/other"}
    assert "tiny.md: WARNING: Executing notebook failed: CellExecutionError" in failed.stdout
    assert "ZeroDivisionError: division by zero" in failed.stdout
    assert "Execution failed" in failed.stdout
    mended = pair.build()
    assert mended.returncode == 0, mended.stdout
    assert not executed(mended)


@pytest.mark.skipif(execution.cores() < 2, reason="one core: one chapter at a time")
def test_an_interrupted_build_ends_its_kernels_and_leaves_no_half_book(pair):
    page = pair.page("tiny")
    begun = pair.folder / "begun"
    say = f'import os; print(os.getpid(), file=open({str(begun)!r}, "a"), flush=True)'
    slow = f"{say}; time.sleep(3600); plt.plot("
    with (
        pair.edited("book/tiny.md", "plt.plot(", slow),
        pair.edited("book/other.md", "plt.plot(", slow),
    ):
        process = pair.start()
        deadline = time.monotonic() + 600
        while not begun.exists() or len(begun.read_text().splitlines()) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "Interrupted" in shown
    assert not any(lives(int(line)) for line in begun.read_text().splitlines())
    assert pair.page("tiny") == page
    mended = pair.build()
    assert mended.returncode == 0, mended.stdout
    assert not executed(mended)


@pytest.mark.skipif(execution.cores() < 2, reason="one core: one chapter at a time")
def test_a_changed_record_executes_only_the_chapter_that_shows_it(pair):
    with pair.edited("lib/cotbook/bench/record.json", "{", "{ "):
        build = pair.build()
    assert build.returncode == 0, build.stdout
    assert executed(build) == {"book/other"}


def lives(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def library(tmp_path, monkeypatch) -> Path:
    """A library of a few files, and one installed package."""
    for path, text in {
        "cotflow/a.py": "",
        "cotflow/data.csv": "1",
        "cotbook/__init__.py": "",
        "cotbook/chapter.py": "from cotbook import render",
        "cotbook/render.py": "",
        "cotbook/figures/page.html": "",
        "cotbook/sphinx/tables.py": "",
        "cotbook/bench/__init__.py": "",
        "cotbook/bench/bench.py": "",
        "cotbook/bench/record.py": "from cotbook.bench import numbers",
        "cotbook/bench/record.json": "{}",
        "cotbook/bench/numbers.py": "",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.setattr(provenance, "LIBRARY", tmp_path)
    monkeypatch.setattr(provenance, "versions", lambda: {"torch": "1"})
    return tmp_path


def test_a_changed_version_or_library_leaves_no_cached_execution(library, tmp_path, monkeypatch):
    from cotbook.sphinx import ledger

    app = SimpleNamespace(outdir=str(tmp_path / "_build/html"))
    caches, keys, pages = tmp_path / "_build/.jupyter_cache", [], []
    for path, version in (
        ("cotflow/a.py", "1"),
        ("cotbook/render.py", "1"),
        ("cotflow/a.py", "2"),
        ("cotflow/data.csv", "2"),
    ):
        monkeypatch.setattr(provenance, "versions", lambda version=version: {"torch": version})
        (library / path).write_text(f"{path} {version}")
        config = SimpleNamespace()
        ledger.key_cache(app, config)
        current = Path(config.nb_execution_cache_path)
        assert current.parent == caches
        assert {path.name for path in caches.glob("*")} <= {current.name}
        current.mkdir(parents=True, exist_ok=True)
        keys.append(current.name)
        pages.append(config.cotbook_hash)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert pages[0] != pages[1] == pages[2] == pages[3]


def test_what_shapes_a_chapter_counts_and_nothing_else(library, monkeypatch):
    seen = [provenance.execution_hash()]
    for path in (
        "cotflow/__pycache__/a.pyc",
        "cotflow/.a.py.swp",
        "cotflow/a.py~",
        "cotflow.egg-info/PKG-INFO",
        "cotbook/render.py",
        "cotbook/cli.py",
        "cotbook/sphinx/tables.py",
        "cotbook/bench/record.json",
    ):
        (library / path).parent.mkdir(exist_ok=True)
        (library / path).write_text("x")
        assert provenance.execution_hash() == seen[0]
    for change in (
        lambda: (library / "cotflow/data.csv").write_text("2"),
        lambda: (library / "cotflow/data.csv").rename(library / "cotflow/more.csv"),
        lambda: (library / "cotflow/a.py").unlink(),
        lambda: (library / "cotbook/chapter.py").write_text("x"),
        lambda: (library / "cotbook/figures/page.html").write_text("x"),
        lambda: monkeypatch.setattr(provenance, "versions", lambda: {"torch": "0"}),
    ):
        change()
        seen.append(provenance.execution_hash())
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    "cell",
    [
        "%matplotlib inline\nfrom cotbook.bench import record",
        "import cotbook.bench.record as shown",
        "def late():\n    from cotbook.bench.record import load",
    ],
)
def test_a_module_that_a_chapter_imports_itself_belongs_to_its_key(library, cell):
    common, cells = ["from cotbook import Chapter", "import torch", "not Python"], [cell]
    assert provenance.chapter_hash(common) == provenance.execution_hash()
    seen = [provenance.execution_hash(), provenance.chapter_hash(cells)]
    (library / "cotbook/bench/bench.py").write_text("x")
    assert provenance.chapter_hash(cells) == seen[-1]
    for path in ("bench/record.json", "bench/record.py", "bench/numbers.py", "bench/__init__.py"):
        with (library / "cotbook" / path).open("a") as file:
            file.write(" # changed")
        seen.append(provenance.chapter_hash(cells))
    assert len(set(seen)) == len(seen)
    assert provenance.chapter_hash(common) == provenance.execution_hash() == seen[0]


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("claims.py", '"""Claims:', '"""Claim:'),
        ("figures/style.py", '"axes.titlesize": 11', '"axes.titlesize": 12'),
        ("figures/slider.html", "<", "< "),
    ],
)
def test_verdicts_and_looks_are_in_the_hash(book, monkeypatch, path, old, new):
    monkeypatch.setattr(provenance, "LIBRARY", book.folder / "lib")
    before = provenance.execution_hash()
    with book.edited(f"lib/cotbook/{path}", old, new):
        assert provenance.execution_hash() != before
    assert provenance.execution_hash() == before


def test_versions_are_those_of_all_that_a_kernel_loads():
    found = provenance.versions()
    assert {"python", "torch", "numpy", "matplotlib", "pillow", "matplotlib-inline"} <= set(found)
    assert not {"ruff", "pytest", "sphinx", "cotflow"} & set(found)


def test_raising_cell_fails_the_build_from_every_tree(built):
    with built.edited("book/tiny.md", "measured=1 / 2", "measured=1 / 0"):
        warm = built.build()
        shutil.rmtree(built.folder / "_build")
        clean = built.build()
    assert all(build.returncode != 0 for build in (warm, clean))
    assert "ZeroDivisionError" in warm.stdout


def test_an_entry_that_speaks_to_the_browser_fails_the_build(built):
    with built.edited(
        "book/references.bib",
        "@article{barboni2025,",
        "@misc{bad, url = {javascript:alert(1)}}\n@article{barboni2025,",
    ):
        build = built.build()
    assert build.returncode != 0
    assert "references.bib: 'bad': url: expected text, or an address" in build.stdout
    pages = (built.folder / "_build/html").rglob("*.html")
    assert not any("javascript:alert" in page.read_text(encoding="utf-8") for page in pages)


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
