"""``cotflow sweep``: what a file asks for, what is executed, kept, reported and gathered."""

import contextlib
import csv
import errno
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import psutil
import pytest
import torch

from books import COMMAND, begin, invoke, tree, wait_for, write_chapter, write_sweep
from cotbook.claims import Claim
from cotbook.errors import BadInput
from cotbook.grid import engine, file, job, outcome, page, table
from cotbook.run import system

ROOT = Path(__file__).parents[2]
PARAMETERS = """\
depth: int = 2  # layers
rate: float = 0.5  # rate
seed: int = 0  # seed
depths: list[int] = [2, 4]  # several
device: Device = "cpu"  # where
"""
# Neither torch nor the library, so that a job is short.
TINY = """\
from pathlib import Path
from types import SimpleNamespace
from IPython.display import display
if depth == 8 and rate == 2 and not Path({mended!r}).exists():
    raise RuntimeError("too much of a rate")
measured = depth * rate
record = dict(name="small", statement="$L r$ is small.", provenance="[C] tiny", kind="bound",
              loose="", companion="",
              relation="at most", predicted=4.0,
              measured=measured, low=measured - 0.5, high=measured + 0.5, interval="range",
              tolerance=1.0, verdict="holds" if measured < 4.5 else "fails",
              chapter="tiny", library_hash="0123456789ab", executed="2026-01-01T00:00:00+00:00")
display({{"text/plain": "claim", "application/vnd.cotflow.claim+json": record}}, raw=True)
"""
GRID = "chapter: tiny\ngrid:\n  depth: [2, 8]\n  rate: [0.5, 2]\n"


def write_book(root: Path) -> Path:
    # the annotation is evaluated in the kernel
    cells = (("", "Device = str"), ("parameters", PARAMETERS))
    write_chapter(root, "tiny", *cells, ("", TINY.format(mended=str(root / "mended"))))
    write_chapter(root, "seedless", ("parameters", "depth: int = 2"))
    write_chapter(root, "plural", ("parameters", "seeds: list[int] = [0, 1]"))
    return root


def results(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Contents and times of every result in place."""
    paths = list((folder / "jobs").glob("[!.]*/*"))
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def snakemake():
    if engine.find_spec("snakemake") is None:
        pytest.skip("no Snakemake here, as on Python 3.14: no sweep was executed")


@pytest.fixture(scope="module")
def swept(tmp_path_factory, snakemake):
    """A book, the folder of its two by two sweep, one cell of which crashes, and what was said."""
    root = write_book(tmp_path_factory.mktemp("swept"))
    done = invoke(root, "sweep", write_sweep(root, GRID))
    return root, root / "runs/sweep-sweep", done


def test_every_cell_leaves_an_executed_notebook_and_a_crash_fails_alone(swept):
    _, folder, done = swept
    assert done.exit_code == 3, done.output
    finished = sorted(path.name.rsplit("-", 1)[0] for path in (folder / "jobs").iterdir())
    assert finished == ["depth=2,rate=0.5", "depth=2,rate=2", "depth=8,rate=0.5"]
    for path in (folder / "jobs").iterdir():
        assert sorted(entry.name for entry in path.iterdir()) == [
            "claims.json",
            "parameters.yml",
            "tiny.ipynb",
        ]
        assert "claim" in (path / "tiny.ipynb").read_text()
    (failed,) = (folder / "failed").iterdir()
    assert "RuntimeError" in (failed / "tiny.ipynb").read_text()
    assert not list(folder.glob("*/.*-*"))


def test_the_report_of_a_crash_names_chapter_parameters_error_and_log(swept):
    done = swept[2]
    (log,) = re.findall(r"^  log: (.*)$", done.stderr, re.MULTILINE)
    assert "failed: tiny, depth = 8, rate = 2: " in done.stderr
    assert "RuntimeError: too much of a rate" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert "Traceback" not in done.output
    assert "raise RuntimeError" in Path(log).read_text()


def test_progress_counts_the_jobs(swept):
    said = swept[2].stdout.splitlines()
    # after half a minute without an end, a line tells how long it has taken
    lines = [line for line in said if not re.fullmatch(r"\[\d/4\] … \d+ s", line)]
    assert lines[0] == "tiny: jobs: 4, finished before: 0, to do: 4"
    assert [line[:5] for line in lines[1:5]] == [f"[{i}/4]" for i in range(1, 5)]
    assert any(line.endswith("depth = 2, rate = 0.5: claims: 1 hold") for line in lines)


def test_the_table_is_tidy(swept):
    found = rows(swept[1])
    assert list(found[0]) == [
        *("chapter", "profile", "job", "p.depth", "p.rate", "p.seed", "p.depths", "p.device"),
        *("claim", "provenance", "relation", "predicted", "measured", "low", "high", "interval"),
        *("tolerance", "verdict", "library"),
    ]
    shown = [(r["p.depth"], r["p.rate"], r["claim"], r["measured"], r["verdict"]) for r in found]
    assert shown == [
        ("2", "0.5", "small", "1.0", "holds"),
        ("2", "2.0", "small", "4.0", "holds"),
        ("8", "0.5", "small", "4.0", "holds"),
        ("8", "2.0", "", "", "crashed"),
    ]
    assert json.loads(found[0]["p.depths"]) == [2, 4]


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags, self.ids, self.links, self.alts = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[key] for key in ("href", "src", "xlink:href") if found.get(key)]
        if tag == "svg":
            self.alts.append(found.get("aria-label", ""))


def test_the_page_stands_alone_and_says_what_its_figures_show(swept):
    folder = swept[1]
    text = (folder / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags and "http-equiv" not in text
    assert len(page.ids) == len(set(page.ids))
    assert page.alts == [
        "small against depth: measured from 1 to 4; the claim holds in 3 of 3 jobs.",
        "L r",
    ]
    for link in page.links:
        anchor = link.startswith("#")
        assert link[1:] in page.ids if anchor else (folder / unquote(link)).exists(), link
    assert "too much of a rate" in text and "✔ holds" in text and "crashed" in text


def test_the_ledger_of_a_sweep_is_markdown(swept):
    root, folder, _ = swept
    done = invoke(root, "ledger", str(folder))
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert "### tiny, depth = 2, rate = 0.5" in lines
    assert "| ✔ holds | small | ≤ 4 | 1 [0.5, 1.5] | 1 | [C] tiny |" in lines
    assert any(line.startswith("Failed: cell [") for line in lines)
    (job, *_) = sorted((folder / "jobs").iterdir())
    alone = invoke(root, "ledger", str(job)).stdout
    assert alone.startswith("### tiny\n") and "Parameters: depth = 2, rate = 0.5," in alone
    for wrong in (root, root / "nowhere", root / "sweep.yml"):
        refused = invoke(root, "ledger", str(wrong))
        assert refused.exit_code == 2
        assert "expected the folder of one run or one sweep" in refused.output


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda text: text.replace('"holds"', '"fails"'), "claim 'small': expected the verdict"),
        (lambda text: text[: len(text) // 2], "cannot read"),
        (
            lambda text: text.replace("[\n", "[" + text.strip()[1:-1] + ",", 1),
            "expected the claims of the notebook (1), received 2",
        ),
        (lambda text: "[]", "expected the claims of the notebook (1), received []"),
        (lambda text: "[3]", "a claim: expected a record, received 3"),
        (lambda text: text.replace('"measured": 1.0', '"measured": 1.1'), "expected what the run"),
        (lambda text: None, "without"),
    ],
)
def test_a_damaged_result_is_a_failure_with_a_sentence_and_is_made_anew(swept, damage, sentence):
    root, folder, _ = swept
    path = sorted((folder / "jobs").glob("*/claims.json"))[0]
    before, whole = results(folder), path.read_text()
    if (text := damage(whole)) is None:
        path.unlink()
    else:
        path.write_text(text)
    listed = invoke(root, "ledger", str(folder))
    again = invoke(root, "sweep", "sweep.yml")
    assert listed.exit_code == 0
    if text is None:
        assert "Not run." in listed.stdout
    else:
        assert f"Failed: {sentence}" in listed.stdout.replace(f"{path}: ", "")
        assert sentence in again.stdout and "the same sweep runs it again" in again.stdout
    assert again.exit_code == 3 and again.stderr.count("failed:") == 1
    assert "finished before: 2" in again.stdout
    assert path.read_text() == whole
    kept = {place: found for place, found in before.items() if str(path.parent) not in place}
    after = results(folder)
    assert {place: after[place] for place in kept} == kept and after.keys() == before.keys()


def test_a_second_run_executes_nothing_and_does_not_retry_unasked(swept):
    root, folder, _ = swept
    before = results(folder)
    done = invoke(root, "sweep", "sweep.yml")
    assert done.exit_code == 3
    assert "finished before: 3, failed before: 1 (--retry runs them again), to do: 0" in done.output
    assert "too much of a rate" in done.stderr
    assert results(folder) == before


def test_a_dry_run_writes_nothing(swept):
    root = swept[0]
    before = tree(root)
    command = [COMMAND, "sweep", "sweep.yml", "--retry", "--", "--dry-run"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^job +1$", done.stdout, re.MULTILINE)
    assert tree(root) == before


def test_arguments_that_snakemake_refuses_exit_2_and_leave_nothing(swept):
    root = swept[0]
    before = tree(root)
    done = invoke(root, "sweep", "sweep.yml", "-o", "refused", "--", "--no-such-option")
    assert done.exit_code == 2
    assert "Snakemake did not accept its arguments" in done.output
    assert "--no-such-option" in done.output
    assert tree(root) == before


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_the_same_file_is_accepted_by_other_executors(swept, name):
    pytest.importorskip(f"snakemake_executor_plugin_{name}")
    options = ("--dry-run", "--executor", name, "--jobs", "4")
    command = [COMMAND, "sweep", "sweep.yml", "-o", "elsewhere", "--", *options]
    done = subprocess.run(command, cwd=swept[0], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^job +4$", done.stdout, re.MULTILINE)


def test_a_retry_and_a_new_value_execute_these_jobs_alone(swept):
    root, folder, _ = swept
    before = results(folder)
    (root / "mended").touch()
    write_sweep(root, GRID + "cases:\n  - {depth: 3, rate: 1}\n  - {depth: 2, rate: 0.5}\n")
    done = invoke(root, "sweep", "sweep.yml", "--retry")
    after = results(folder)
    assert done.exit_code == 1, done.output  # one claim does not hold: a result
    assert done.stderr == ""
    assert {path: after[path] for path in before} == before
    fresh = {Path(path).parent.name.rsplit("-", 1)[0] for path in set(after) - set(before)}
    assert fresh == {"depth=8,rate=2", "depth=3,rate=1"}
    assert not list((folder / "failed").iterdir())
    assert [row["verdict"] for row in rows(folder)] == ["holds", "holds", "holds", "fails", "holds"]


def test_values_text_and_library_decide_which_jobs_are_new(tmp_path, monkeypatch):
    root = write_book(tmp_path)
    path = root / write_sweep(root, GRID, "s.yml")
    profile = root / "book/profiles/quick.yml"
    profile.write_text("tiny: {seed: 1}\n")

    def ids() -> set[str]:
        return {job.id for job in file.read(path, root).jobs}

    first = ids()
    assert ids() == first
    path.write_text("description: other words\nchapter: tiny\nprofile: quick\n" + GRID[14:])
    profiled = ids()
    profile.write_text("tiny: {seed: 0}\n")  # the default: the same values as before
    assert ids() == first and not profiled & first
    text = root / "book/tiny.md"
    text.write_text(text.read_text() + "\nOne more sentence.\n")
    reworded = ids()
    assert not reworded & first
    monkeypatch.setattr(file, "chapter_hash", lambda code: "another")
    assert not ids() & reworded


def test_grid_cases_and_seeds_make_a_product_without_repetitions(tmp_path):
    root = write_book(tmp_path)
    text = (
        "chapter: tiny\ngrid: {depth: [1, 2, 2]}\ncases: [{rate: 1}, {depth: 1}]\nseeds: [3, 4]\n"
    )
    sweep = file.read(root / write_sweep(root, text), root)
    assert [job.label for job in sweep.jobs] == [
        f"{setting}, seed = {seed}"
        for setting in ("depth = 1", "depth = 2", "rate = 1")
        for seed in (3, 4)
    ]
    assert sweep.jobs[-1].values["depth"] == 2
    assert sweep.names == ("depth", "seed", "rate")
    alone = file.read(root / write_sweep(root, "chapter: tiny\ncases: [{}]\n"), root)
    assert [job.label for job in alone.jobs] == ["as it is"]


BAD = [
    ("- tiny\n", "expected the entries of a sweep, the first of them 'chapter: NAME'"),
    ("", "expected the entries of a sweep, the first of them 'chapter: NAME', received None"),
    ("chapter: [\n", "is not readable as YAML"),
    ("[" * 3000, "is not readable as YAML"),
    ("grid: {depth: [2]}\n", "chapter: expected the name of a chapter, received nothing"),
    ("chapter: 3\nseeds: [1]\n", "chapter: expected the name of a chapter, received 3"),
    ("chapter: tiny\n", "expected a grid, seeds or cases, received none of them"),
    ("chapter: tini\nseeds: [1]\n", "unknown chapter 'tini'; nearest: tiny"),
    ("chapter: tiny\ngrids: {}\n", "unknown entry 'grids'; nearest: grid"),
    ("chapter: tiny\nseeds: []\n", "seeds: expected a non-empty list of seeds, received []"),
    ("chapter: tiny\nprofile: fast\nseeds: [1]\n", "unknown profile 'fast'"),
    (
        "chapter: tiny\ngrid: {depth: 2}\n",
        "grid: depth: expected parameters, each with a non-empty list of values, received 2",
    ),
    ("chapter: tiny\ngrid: {dept: [2]}\n", "unknown parameter 'dept'; nearest: depth"),
    (
        "chapter: tiny\ngrid: {depth: [2, x, 2.5]}\n",
        "sweep.yml: depth: expected a whole number, received 2.5",
    ),
    ("chapter: tiny\ngrid: {depths: [2]}\n", "depths: expected a non-empty list of whole numbers"),
    ("chapter: tiny\ncases: [2]\n", "cases: 0: expected a list of cases, each NAME: VALUE"),
    ("chapter: tiny\ngrid: {seed: [2]}\nseeds: [1]\n", "seed is set by the grid or a case as well"),
    ("chapter: seedless\nseeds: [1]\n", "seedless has no parameter 'seed' or 'seeds'"),
    ("chapter: plural\nseeds: [1]\n", "expected lists like [[0, 1], [2, 3]], received [1]"),
    (
        "chapter: tiny\ngrid: {depth: [%s], rate: [%s]}\n" % (("1," * 200,) * 2),
        "expected at most 10000 jobs, received 40000",
    ),
    ("chapter: tiny\ngrid: {device: [cuda]}\n", "where torch sees no CUDA device"),
]


@pytest.mark.parametrize(("text", "sentence"), BAD)
def test_a_bad_file_exits_2_with_sentences_and_writes_nothing(
    tmp_path, monkeypatch, text, sentence
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    root = write_book(tmp_path)
    write_sweep(root, text)
    before = tree(root)
    done = invoke(root, "sweep", "sweep.yml")
    assert done.exit_code == 2, done.output
    assert sentence in done.output
    assert "Traceback" not in done.output
    assert tree(root) == before


def test_other_bad_requests_exit_2(tmp_path, snakemake):
    root = write_book(tmp_path / "book")
    write_sweep(root, GRID)
    (root / "notes.txt").write_text("mine")
    before = tree(root)
    for arguments, sentence in [
        (("nowhere.yml",), "cannot read the sweep file nowhere.yml"),
        ((".",), "cannot read the sweep file ."),
        (("sweep.yml", "more"), "expected one sweep file, then -- and options of Snakemake"),
        (("sweep.yml", "-o", "book"), "which holds something else"),
        (("sweep.yml", "-o", "notes.txt"), "which holds something else"),
        (("sweep.yml", "-o", "/proc/nowhere/out"), "cannot write in /proc/nowhere/out"),
        (("sweep.yml", "--cores", "0"), "--cores"),
    ]:
        done = invoke(root, "sweep", *arguments)
        assert done.exit_code == 2, done.output
        assert sentence in done.output
    assert tree(root) == before
    (tmp_path / "elsewhere").mkdir()
    write_sweep(tmp_path / "elsewhere", GRID)
    assert "no book here" in invoke(tmp_path / "elsewhere", "sweep", "sweep.yml").output


@pytest.mark.parametrize(
    ("python", "sentence"),
    [
        ((3, 13), "sweeps need Snakemake: pip install 'cotflow[sweep]'"),
        ((3, 14), "sweeps need Snakemake: it cannot be installed on Python 3.14 or later, but on"),
    ],
)
def test_without_snakemake_a_sweep_is_refused(tmp_path, monkeypatch, python, sentence):
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    monkeypatch.setattr(engine, "sys", SimpleNamespace(version_info=python))
    root = write_book(tmp_path)
    write_sweep(root, GRID)
    before = tree(root)
    for options in ((), ("--", "--dry-run")):
        done = invoke(root, "sweep", "sweep.yml", *options)
        assert done.exit_code == 2
        assert sentence in done.output
    assert tree(root) == before


def test_devices_of_other_machines_are_not_looked_for_here(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    root = write_book(tmp_path)
    path = root / write_sweep(root, "chapter: tiny\ncases: [{device: cuda}]\n")
    assert file.read(path, root, elsewhere=True).jobs[0].values["device"] == "cuda"
    assert engine.remote(("--executor", "slurm")) and engine.remote(("--executor=slurm",))
    assert not engine.remote(("--jobs", "4"))


# The second job waits for a file, so that there is always something to interrupt.
WAITING = """\
import time
from pathlib import Path
from types import SimpleNamespace
with open({started!r}, "a") as stream:
    stream.write(f"{{n}}\\n")
while n == 2 and not Path({go!r}).exists():
    time.sleep(0.05)
"""


@pytest.mark.slow
def test_a_killed_sweep_keeps_what_is_finished_and_an_interrupt_says_how_to_go_on(
    tmp_path, snakemake
):
    root = tmp_path
    started, go = root / "started", root / "go"
    code = WAITING.format(started=str(started), go=str(go))
    write_chapter(root, "waiting", ("parameters", "n: int = 1"), ("", code))
    write_sweep(root, "chapter: waiting\ngrid: {n: [1, 2]}\n")
    folder = root / "runs/sweep-sweep"

    def begun() -> list[str]:
        return sorted(started.read_text().split()) if started.exists() else []

    process = begin(root)
    wait_for(lambda: list(folder.glob("jobs/n=1-*/claims.json")) and begun() == ["1", "2"])
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert psutil.wait_procs(family, timeout=120)[1] == []
    kept = results(folder)
    assert len(kept) == 3

    process = begin(root)
    wait_for(lambda: begun() == ["1", "2", "2"])
    family = psutil.Process(process.pid).children(recursive=True)
    second = invoke(root, "sweep", "sweep.yml")
    assert second.exit_code == 2
    assert "another run of this sweep is at work" in second.output
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 130
    assert err == (
        "Interrupted: nothing half-written was left behind. 0 of 1 jobs are finished and kept; "
        "the same command goes on with the others.\n"
    )
    assert psutil.wait_procs(family, timeout=120)[1] == []
    assert results(folder) == kept
    assert [path.name[:3] for path in (folder / "jobs").iterdir()] == ["n=1"]

    go.touch()
    process = begin(root)
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 0, err
    assert begun() == ["1", "2", "2", "2"]
    after = results(folder)
    assert {path: after[path] for path in kept} == kept
    assert len(after) == 6


def test_the_example_and_its_record_belong_together():
    paths = sorted((ROOT / "book/sweeps").glob("*.yml"))
    assert paths
    for path in paths:
        sweep = file.read(path, ROOT)
        with path.with_suffix(".csv").open(newline="", encoding="utf-8") as stream:
            recorded = list(csv.DictReader(stream))
        found = {tuple(row[f"p.{name}"] for name in sweep.names) for row in recorded}
        asked = {tuple(str(job.swept[name]) for name in sweep.names) for job in sweep.jobs}
        assert found == asked
        assert {row["chapter"] for row in recorded} == {sweep.chapter}


def planned(root: Path, text: str = GRID, name: str = "sweep.yml") -> file.Sweep:
    return file.read(root / write_sweep(root, text, name), root)


def test_a_second_file_of_the_same_name_is_refused(tmp_path):
    root, folder = write_book(tmp_path), tmp_path / "runs/sweep-sweep"
    folder.mkdir(parents=True)
    first = planned(root)
    (folder / "plan.json").write_text(json.dumps(engine.plan(first, first.jobs, folder)))
    (root / "other").mkdir()
    write_sweep(root / "other", GRID)
    before = tree(root)
    done = invoke(root, "sweep", "other/sweep.yml")
    assert done.exit_code == 2
    assert f"{folder} holds the sweep of {root / 'sweep.yml'}: expected that file" in done.output
    assert "-o names another folder" in done.output
    assert tree(root) == before
    engine._refuse_foreign(folder, first)
    (root / "sweep.yml").rename(root / "moved.yml")
    engine._refuse_foreign(folder, file.read(root / "other/sweep.yml", root))


@pytest.mark.parametrize(
    ("entries", "ours"),
    [
        ([".lock"], True),
        ([".lock", ".plan.json.part"], True),
        ([".lock", "jobs", "logs", "failed", "index.html", "table.csv", ".snakemake"], True),
        ([".lock", "notes.txt"], False),
        (["index.html"], False),
        ([".lock", "plan.json"], True),  # damaged
        (["plan.json"], False),
    ],
)
def test_a_folder_where_a_sweep_was_stopped_before_its_plan_is_used(tmp_path, entries, ours):
    root, folder = write_book(tmp_path / "book"), tmp_path / "out"
    folder.mkdir()
    for name in entries:
        (folder / name).write_text("{")
    if ours:
        engine._refuse_foreign(folder, planned(root))
    else:
        with pytest.raises(BadInput, match="which holds something else"):
            engine._refuse_foreign(folder, planned(root))


def gathered(root: Path, *claims: Claim, **changes) -> tuple[str, str]:
    """The page and the table of a sweep whose first job recorded these claims."""
    sweep = replace(planned(root), **changes)
    place = root / "out/jobs" / sweep.jobs[0].id
    place.mkdir(parents=True)
    (place / "claims.json").write_text(json.dumps([claim.to_json() for claim in claims]))
    outcomes = [outcome.read(root / "out", job) for job in sweep.jobs]
    assert outcomes[0].finished
    return page.html_text(sweep, outcomes, root / "out"), table.csv_text(sweep, outcomes)


def claim(**changes) -> Claim:
    fields = {
        "name": "a",
        "statement": "b",
        "provenance": "[C] c",
        "kind": "constant",
        "chapter": "tiny",
    }
    numbers = {"predicted": 1.0, "measured": 1.0, "tolerance": 0.1}
    return Claim(**(fields | numbers | changes))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_claim_that_measures_no_finite_number_fails_and_is_gathered(tmp_path, value):
    ends = {"low": value, "high": value}
    text, shown = gathered(write_book(tmp_path), claim(measured=value, **ends), claim(name="z"))
    (row, other) = csv.DictReader(shown.splitlines())
    assert (row["measured"], row["verdict"], other["verdict"]) == (str(value), "fails", "holds")
    assert "✘ fails" in text and "✔ holds" in text


def test_nothing_of_a_result_speaks_to_the_browser_or_the_spreadsheet(tmp_path):
    bad = '"><img src=x onerror=alert(1)>'
    texts = {"name": f"={bad}", "statement": f"{bad} ${bad}$ $x^$", "interval": f"@{bad}"}
    entry = claim(provenance=f"[C] {bad}", library_hash=f"+{bad}", **texts)
    changes = {"title": bad, "description": bad, "profile": f"-{bad}", "name": bad}
    text, shown = gathered(write_book(tmp_path), entry, **changes)
    assert "img" not in Page(text).tags
    (row,) = csv.DictReader(shown.splitlines())
    found = (row["claim"], row["interval"], row["library"], row["profile"])
    assert found == tuple(f"'{sign}{bad}" for sign in "=@+-")


def test_the_record_of_a_job_is_read_from_the_plan(tmp_path, monkeypatch):
    """However long it is: 8,000 seeds are more than a command line takes."""
    root = write_book(tmp_path)
    sweep = planned(root, f"chapter: plural\nseeds: [[{','.join(map(str, range(8000)))}]]\n")
    (root / "plan.json").write_text(json.dumps(engine.plan(sweep, sweep.jobs, root)))
    monkeypatch.chdir(root)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    plan = job.prepare()
    assert job._record(sweep.jobs[0].id, plan) == sweep.jobs[0].record()
    with pytest.raises(BadInput, match="the plan of the sweep has no such job any more"):
        job._record("another", plan)


@pytest.mark.slow
def test_a_job_with_many_seeds_runs_after_a_start_that_was_cut_off(tmp_path, snakemake):
    root = write_book(tmp_path)
    write_sweep(root, f"chapter: plural\nseeds: [[{','.join(map(str, range(8000)))}]]\n")
    folder = root / "runs/sweep-sweep"
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    (folder / ".plan.json.part").write_text("{")
    done = invoke(root, "sweep", "sweep.yml")
    assert done.exit_code == 0, done.output
    assert len(list(folder.glob("jobs/*/claims.json"))) == 1


@pytest.mark.parametrize("parent", ["alive", "gone"])
def test_a_job_ends_if_its_parent_was_gone_before_it_began(tmp_path, parent):
    number = os.getpid() if parent == "alive" else 1 << 22
    command = [sys.executable, "-m", "cotbook.grid.job", "any", str(number)]
    (tmp_path / "plan.json").write_text('{"jobs": {}}')
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == (3 if parent == "alive" else 1)
    assert ("no such job" in done.stderr) == (parent == "alive")


def test_a_job_hears_of_its_parents_end_before_it_imports_anything():
    text = Path(job.__file__).read_text()
    before = text[: text.index("    end_with_parent(int(sys.argv[2]))")]
    (line,) = [line for line in before.splitlines() if line.startswith("from cotbook")]
    assert line == "from cotbook.run.system import end_with_parent"
    assert "cotbook" not in Path(system.__file__).read_text()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_exits_3_and_the_same_command_goes_on(tmp_path, monkeypatch, code, snakemake):
    root = write_book(tmp_path)
    write_sweep(root, GRID)

    def full(*arguments, **options):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(engine.os, "replace", full)
        done = invoke(root, "sweep", "sweep.yml")
    assert done.exit_code == 3
    assert done.stderr == f"could not finish: {os.strerror(code)}\n"
    folder = root / "runs/sweep-sweep"
    assert [path.name for path in folder.iterdir()] == [".lock"]
    engine._refuse_foreign(folder, planned(root))


@pytest.mark.slow
def test_a_sweep_killed_while_its_first_job_starts_leaves_no_process(tmp_path, snakemake):
    root = write_book(tmp_path)
    write_sweep(root, GRID)
    process = begin(root)
    family: list[psutil.Process] = []

    def starting() -> bool:
        family[:] = psutil.Process(process.pid).children(recursive=True)
        for child in family:
            with contextlib.suppress(psutil.Error):
                if "cotbook.grid.warm" in child.cmdline():
                    return True
        return False

    wait_for(starting)
    process.kill()
    process.communicate()
    assert psutil.wait_procs(family, timeout=120)[1] == []
