"""``cotflow reseed``: what is drawn anew, what is counted, kept and shown."""

import json
import math
import os
import re
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest

from books import COMMAND, invoke, wait_for, write_chapter
from cotbook.claims import Claim, Execution
from cotbook.errors import BadInput
from cotbook.grid import engine
from cotbook.records import ChapterRecord
from cotbook.run import tree
from cotbook.seeds import campaign, record
from cotbook.seeds.record import Row
from cotbook.sphinx import seeds as pages

PARAMETERS = """\
depth: int = 2  # layers
seeds: list[int] = [0, 1]  # of the runs
start_seed: int = 5  # of the start
seedling: int = 3  # no seed
"""
# Its claim holds as long as the first seed is below 15000. It loads neither torch nor the library.
DRAWING = """\
import time
from pathlib import Path
from IPython.display import display
root = Path({root!r})
while seeds[0] > 15000 and (root / "wait").exists():
    time.sleep(0.05)
if seeds[0] > 25000 and (root / "broken").exists():
    raise RuntimeError("a bad draw")
display({{"text/plain": "claim", "application/vnd.cotflow.claim+json": dict(
    name="small", statement="$s$ is small.", provenance="[C] tiny", relation="at most",
    kind="threshold", predicted=1.0, measured=seeds[0] / 1e4, low=seeds[0] / 1e4,
    high=seeds[0] / 1e4, interval="deterministic", tolerance=0.5, loose="", companion="",
    verdict="holds" if seeds[0] <= 15000 else "fails",
    chapter="drawing", library_hash="0123456789ab", executed="2026-01-01T00:00:00+00:00",
)}}, raw=True)
"""
FIXED = 'draw = "torch.Generator().manual_seed(0)"'


def write_book(root: Path) -> Path:
    code = DRAWING.format(root=str(root))
    write_chapter(root, "drawing", ("parameters", PARAMETERS), ("", code))
    write_chapter(root, "fixed", ("parameters", "depth: int = 2"), ("", FIXED))
    write_chapter(root, "plain", ("parameters", "depth: int = 2"), ("", "depth + 1"))
    return root


def reseed(root: Path, *options: str):
    return invoke(root, "reseed", "--cores", "1", "--record", "record.json", *options)


def row(root: Path) -> dict:
    return json.loads((root / "record.json").read_text())["drawing"]


@pytest.fixture
def book(tmp_path) -> Path:
    return write_book(tmp_path)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A book, what was said of two repetitions, and of the third one after them."""
    if engine.find_spec("snakemake") is None:
        pytest.skip("no Snakemake here, as on Python 3.14")
    root = write_book(tmp_path_factory.mktemp("reseed"))
    first = reseed(root, "--times", "2")
    kept = row(root)
    return root, first, kept, reseed(root, "--times", "3")


def test_every_seed_is_shifted_and_nothing_else(book):
    source = tree.chapter(book, "drawing")
    sweep = campaign._sweep(source, book, "default", [10_000, 30_000])
    assert [job.values for job in sweep.jobs] == [
        {"depth": 2, "seeds": [10_000, 10_001], "start_seed": 10_005, "seedling": 3},
        {"depth": 2, "seeds": [30_000, 30_001], "start_seed": 30_005, "seedling": 3},
    ]
    assert len({job.id for job in sweep.jobs}) == 2


@pytest.mark.parametrize("value", ["7", True, 0.5, [1, "2"]])
def test_what_is_no_seed_is_refused(value):
    with pytest.raises(BadInput, match=r"tiny: seed: expected whole numbers to seed with"):
        campaign.shifted("tiny: seed", value, 10)


def test_the_book_s_own_seeds_can_be_shifted():
    root = tree.book_root(Path(__file__).parent)
    for source in tree.chapters(root).values():
        found = record.begun(source, root, "default")
        assert found.fixed or campaign._sweep(source, root, "default", [10_000]).jobs


def test_repetitions_share_no_seed_with_what_chapters_add_themselves():
    pages = (Path(__file__).parents[2] / "book").glob("*.md")
    added = re.findall(r"\b(\d+)(?: \* \w+)? \+ seed\b", "".join(p.read_text() for p in pages))
    assert added and 10 * max(map(int, added)) <= campaign.SHIFT


@pytest.mark.slow
def test_a_claim_that_hangs_on_the_seed_is_found(swept):
    _, first, kept, _ = swept
    assert first.exit_code == 1, first.output
    said = first.stdout.splitlines()
    assert "fixed: its draws are fixed" in said and "plain: draws nothing by a seed" in said
    assert said[said.index("drawing: runs: 2, claims: 1, fail: 1, inconclusive: 0") + 1 :][:2] == [
        "  small: does not hold in 1 of 2",
        "    seeds + 20000: fails: 2, expected ≤ 1 ± 0.5",
    ]
    assert said[-1] == "runs: 2, verdicts: 2, fail: 1 (50 %), inconclusive: 0"
    assert (kept["shifts"], kept["claims"], kept["verdicts"]) == ([10_000, 20_000], 1, 2)
    assert [miss["shift"] for miss in kept["missed"]["small"]] == [20_000]


@pytest.mark.slow
def test_more_repetitions_extend_the_record(swept):
    root, _, kept, more = swept
    assert more.exit_code == 1
    assert "drawing: jobs: 1, finished before: 0, to do: 1" in more.stdout
    assert row(root)["shifts"] == [10_000, 20_000, 30_000]
    assert row(root)["missed"]["small"][:1] == kept["missed"]["small"]
    assert "  small: does not hold in 2 of 3" in more.stdout
    again = reseed(root, "--times", "3")  # without results, the record alone answers
    assert again.exit_code == 1 and "to do" not in again.stdout
    assert again.stdout.splitlines()[-1] == more.stdout.splitlines()[-1]


@pytest.mark.slow
def test_without_a_record_the_folder_answers(swept):
    root = swept[0]
    done = invoke(root, "reseed", "drawing", "--times", "2", "--from", "2", "--cores", "2")
    assert "drawing: jobs: 2, finished before: 2, to do: 0" in done.stdout
    assert done.stdout.splitlines()[-1] == "runs: 2, verdicts: 2, fail: 2 (100 %), inconclusive: 0"


@pytest.mark.slow
def test_a_record_of_another_text_begins_anew_with_the_first_run(swept):
    root = swept[0]
    page, before = root / "book/drawing.md", row(root)
    text = page.read_text()
    page.write_text(text.replace("# A tiny rate", "# Another heading"))  # no cell changes
    assert reseed(root, "--gather", "--times", "3").exit_code == 1
    page.write_text(text.replace("depth: int = 2", "depth: int = 3"))
    done = reseed(root, "--gather", "--times", "1")
    page.write_text(text)
    assert done.exit_code == 3 and "drawing: no run" in done.stdout
    assert "the record is of another version" in done.stdout
    assert row(root) == before  # nothing found, nothing lost


@pytest.mark.slow
def test_a_crash_is_told_kept_and_mended(book):
    (book / "broken").touch()
    done = reseed(book, "drawing", "--from", "3", "--times", "1")
    assert done.exit_code == 3
    assert "  seeds + 30000: cell [3] of drawing stopped with RuntimeError" in done.stdout
    assert "a bad draw" in row(book)["stopped"]["30000"] and "shifts" not in row(book)
    (book / "broken").unlink()
    assert reseed(book, "drawing", "--from", "3", "--times", "1").exit_code == 3
    assert reseed(book, "drawing", "--from", "3", "--times", "1", "--retry").exit_code == 1
    assert "stopped" not in row(book) and row(book)["shifts"] == [30_000]


@pytest.mark.slow
def test_an_interrupted_campaign_keeps_what_was_done_and_goes_on(book):
    (book / "wait").touch()
    command = ["reseed", "drawing", "--times", "2", "--cores", "1", "--record", "record.json"]
    process = subprocess.Popen(
        [COMMAND, *command],
        cwd=book,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    logs = book / "runs/reseed/drawing/logs"
    wait_for(lambda: (book / "record.json").exists() and list(logs.glob("shift-20000-*")))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "the same command goes on" in errors
    assert row(book)["shifts"] == [10_000]
    gathered = reseed(book, "drawing", "--times", "2", "--gather")
    assert gathered.exit_code == 3 and "drawing: runs: 1, claims: 1, all hold" in gathered.stdout
    (book / "wait").unlink()
    assert reseed(book, "drawing", "--times", "2").exit_code == 1
    assert row(book)["shifts"] == [10_000, 20_000]


WHOLE = {"profile": "default", "library": "a", "source": "b"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "cannot read"),
        ("[]", "expected a record of runs at other seeds"),
        ('{"drawing": 3}', "drawing"),
        (json.dumps({"drawing": {**WHOLE, "shifts": ["one"]}}), "drawing: shifts: 0"),
        (json.dumps({"drawing": {**WHOLE, "verdict": 1}}), "drawing: verdict"),
        (json.dumps({"other": {**WHOLE, "profile": "smoke"}}), "profile default, received smoke"),
    ],
)
def test_a_file_that_is_no_record_is_refused_and_stays(book, content, sentence):
    (book / "record.json").write_text(content)
    done = reseed(book)
    assert done.exit_code == 2 and sentence in done.output
    assert (book / "record.json").read_text() == content and not (book / "runs").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["nowhere"], "unknown chapter 'nowhere'"),
        (["--profile", "none"], "unknown profile 'none'"),
        (["--times", "0"], "--times"),
        (["--record", "nowhere/record.json"], "expected a file in an existing folder"),
    ],
)
def test_other_bad_input_is_refused_before_anything_is_written(book, options, sentence):
    (book / "record.json").write_text("{}\n")
    done = reseed(book, *options)
    assert done.exit_code == 2 and sentence in done.output
    assert (book / "record.json").read_text() == "{}\n" and not (book / "runs").exists()


def claim(measured: float, **options) -> Claim:
    defaults = {
        **{"name": "slope", "statement": "It is $-1$.", "provenance": "[C] tiny"},
        **{"predicted": -1.0, "tolerance": 0.1, "kind": "exponent", "chapter": "drawing"},
    }
    return Claim(**(defaults | options), measured=measured)


def filled(**values) -> Row:
    found = Row(profile="default", library="a", source="b", **values)
    found.add(10_000, [claim(-1.0), claim(-2.0, name="small", relation="at most")])
    found.add(20_000, [claim(-1.1, low=-1.3, high=-0.95), claim(-2.0, name="small")])
    found.add(30_000, [claim(-1.5), claim(math.nan, name="small")])
    return found


def test_a_record_is_read_as_it_was_written(tmp_path):
    rows = {"drawing": filled(), "plain": Row(**WHOLE, fixed="draws nothing by a seed")}
    rows["drawing"].stopped[40_000] = "cell [3] stopped"
    record.write(tmp_path / "record.json", rows)
    found = record.read(tmp_path / "record.json")
    assert found["plain"] == rows["plain"]
    assert repr(found["drawing"]) == repr(rows["drawing"])  # nan is not itself
    assert len((tmp_path / "record.json").read_text().splitlines()) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
    assert record.read(tmp_path / "none.json") == {}


def test_the_worst_run_is_the_one_that_is_farthest_out():
    missed = filled().missed
    assert [miss.verdict for miss in missed["slope"]] == ["inconclusive", "fails"]
    assert [miss.excess for miss in missed["slope"]] == pytest.approx([0.2, 0.4])
    assert max(missed["small"], key=lambda miss: miss.excess).shift == 30_000


def test_rows_that_found_nothing_do_not_replace_others():
    before = {"drawing": filled(), "other": filled()}
    empty = Row(profile="default", library="c", source="d")
    assert campaign.kept(before, {"drawing": empty}) == before
    empty.stopped[10_000] = "cell [3] stopped"
    assert campaign.kept(before, {"drawing": empty})["drawing"] is empty


def chapters() -> list[ChapterRecord]:
    execution = Execution(
        **{"chapter": "drawing", "started": "", "seconds": 1.0, "device": "cpu", "machine": ""},
        **{"threads": 1, "versions": {}, "library_hash": "", "parameters": {}},
    )
    return [ChapterRecord("book/drawing", "Drawing", "", execution, (claim(-1.0),))]


def test_the_page_has_a_row_a_chapter_and_a_row_a_missed_claim():
    rows = {"gone": Row(**WHOLE, fixed="its draws are fixed"), "drawing": filled()}
    rows["drawing"].stopped[40_000] = "cell [3] stopped"
    found = pages.shown(rows, chapters(), lambda name: f"{name}.html", ["gone"])
    cells = [
        [entry.astext() for entry in line.findall(lambda node: node.tagname == "entry")]
        for node in found
        for line in node.findall(lambda node: node.tagname == "row")
    ]
    assert cells == [
        ["chapter", "runs", "claims", "fail", "inconclusive"],
        ["Drawing", "3", "2", "3", "1"],
        ["gone", "0", "0", "0", "0"],
        ["all", "3", "6 verdicts", "3 (50 %)", "1 (16.7 %)"],
        ["claim", "expected", "did not hold in", "worst measurement"],
        ["It is -1.", "= −1 ± 0.1", "2 of 3: 1 inconclusive, 1 fails", "−1.5"],
        ["drawing/small", "= −1 ± 0.1", "2 of 3: 2 fails", "nan"],
    ]
    links = [
        node["refuri"]
        for part in found
        for node in part.findall(lambda n: "refuri" in getattr(n, "attributes", {}))
    ]
    assert links == ["book/drawing.html", "book/drawing.html#claim-drawing-slope"]
    said = " ".join(node.astext() for node in found)
    assert "gone: its draws are fixed." in said and "seeds + 40000: cell [3] stopped." in said
    assert "The runs of gone had another version" in said


def test_one_sentence_says_how_it_went():
    assert pages.summary({}).astext() == pages.NONE
    assert pages.shown({}, [], str)[0].astext() == pages.NONE
    assert pages.summary({"drawing": filled(), "plain": Row(**WHOLE, fixed="x")}).astext() == (
        "3 times with other seeds: of 6 verdicts 2 hold, 1 (16.7 %) is inconclusive, 3 fail."
    )
    unwell = filled(stopped={40_000: "cell [3] stopped"})
    assert (
        pages.summary({"a": unwell}).astext().endswith("3 fail, and 1 run did not reach the end.")
    )
    calm = Row(**WHOLE)
    calm.add(10_000, [claim(-1.0)])
    assert pages.summary({"a": calm}).astext().endswith("of 1 verdicts 1 hold, none fails.")
    assert pages.summary({"a": calm, "b": filled()}).astext().startswith("1 to 3 times")


def test_a_book_without_a_record_has_none(book):
    assert pages.recorded(book) == {}
    rows = {
        "drawing": record.begun(tree.chapter(book, "drawing"), book, "default"),
        "gone": filled(),
    }
    assert pages.earlier(rows, book) == ["gone"]
