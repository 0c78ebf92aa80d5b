"""The command ``cotflow``: its exit codes, its sentences, and what it leaves on the disk."""

import errno
import fcntl
import json
import os
import re
import resource
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from books import COMMAND, cotflow, invoke, tree, write_chapter, write_tiny_chapter
from cotbook.run import runs


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    root = tmp_path_factory.mktemp("book")
    write_tiny_chapter(root)
    (root / "book/index.md").write_text("# A page without code\n")
    profiles = root / "book/profiles"
    (profiles / "quick.yml").write_text("description: one depth\ntiny-rate: {depths: [2]}\n")
    (profiles / "stray.yml").write_text("tiny-rat: {depths: [2]}\n")
    (profiles / "misspelt.yml").write_text("tiny-rate: {depth: [2]}\n")
    (profiles / "broken.yml").write_text("tiny-rate: [\n")
    (root / "full").mkdir()
    (root / "full/notes.txt").write_text("mine")
    return root


@pytest.mark.slow
def test_a_run_whose_claims_hold_exits_0_and_leaves_its_four_files(book):
    done = cotflow(book, "run", "tiny-rate", "--profile", "quick", "-p", "seed", "7", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert " ".join(lines[1].split()) == "holds bounded ≤ 10 2 0 [M] Prop. 3"
    assert lines[2].startswith("not tested here  unbounded")
    assert lines[-1] == f"outputs: {book / 'out'}"
    assert sorted(path.name for path in (book / "out").iterdir()) == [
        "claims.json",
        "execution.json",
        "parameters.yml",
        "tiny-rate.ipynb",
    ]
    claims = json.loads((book / "out/claims.json").read_text())
    assert [(c["name"], c["verdict"]) for c in claims] == [
        ("bounded", "holds"),
        ("unbounded", "not tested here"),
    ]
    effective = {"depths": [2], "seed": 7, "bound": 10.0, "device": "cpu"}
    assert yaml.safe_load((book / "out/parameters.yml").read_text()) == effective
    assert json.loads((book / "out/execution.json").read_text())["parameters"] == effective
    notebook = nbformat.read(book / "out/tiny-rate.ipynb", as_version=4)
    assert "seed 7\n" in [
        o.text for c in notebook.cells for o in c.get("outputs", []) if "text" in o
    ]
    assert str(book) not in json.dumps(notebook.metadata)
    assert not [path for path in book.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_a_claim_that_does_not_hold_exits_1_and_is_shown(book):
    done = cotflow(book, "run", "tiny-rate", "-p", "bound", "1e-2", "-o", "missed")
    assert done.returncode == 1
    assert done.stdout.splitlines()[1].startswith("fails")
    assert "bounded fails: [" in done.stderr
    assert "traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert json.loads((book / "missed/claims.json").read_text())[0]["verdict"] == "fails"


@pytest.mark.slow
def test_a_cell_that_fails_exits_3_and_the_notebook_is_delivered(tmp_path):
    write_chapter(
        tmp_path, "wreck", ("parameters", "x: int = 1  # anything"), ("", "print('before')\n1 / 0")
    )
    done = invoke(tmp_path, "run", "wreck", "-o", "deep/out")
    assert done.exit_code == 3
    assert "cell [2] of wreck stopped with ZeroDivisionError: division by zero" in done.output
    notebook = (tmp_path / "deep/out/wreck.ipynb").read_text()
    assert "before" in notebook and "Traceback" in notebook
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


@pytest.mark.slow
def test_a_process_that_dies_exits_3_and_the_notebook_is_delivered(tmp_path):
    death = "import os\nprint('before', flush=True)\nos._exit(1)"
    write_chapter(tmp_path, "wreck", ("parameters", "x: int = 1"), ("", death))
    (tmp_path / "{out}").mkdir()
    done = invoke(tmp_path, "run", "wreck", "-o", "{out}")
    assert done.exit_code == 3
    assert "the process that executed wreck died" in done.output
    assert (tmp_path / "{out}/wreck.ipynb").exists()


@pytest.mark.slow
def test_outputs_go_to_a_dated_folder_by_default(tmp_path):
    write_chapter(tmp_path, "calm", ("parameters", "x: int = 1"))
    done = invoke(tmp_path, "run", "calm")
    assert done.exit_code == 0, done.output
    (folder,) = (tmp_path / "runs").iterdir()
    assert time.strptime(folder.name, "calm-default-%Y%m%d-%H%M%S")
    assert sorted(path.name for path in folder.iterdir()) == [
        "calm.ipynb",
        "claims.json",
        "parameters.yml",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("tiny-rate", "-p", "depth", "8"), "unknown parameter 'depth'; nearest: depths"),
        (("tiny-rate", "-p", "seed", "1.5"), "seed: expected a whole number ≥ 0, received 1.5"),
        (("tiny-rate", "-p", "seed", "true"), "seed: expected a whole number ≥ 0, received True"),
        (
            ("tiny-rate", "-p", "depths", "[8,-4]"),
            "depths: expected whole numbers ≥ 1, received -4",
        ),
        (("tiny-rate", "-p", "depths", "[]"), "depths: expected a non-empty list"),
        (("tiny-rate", "-p", "bound", "nan"), "bound: expected a finite number > 0, received nan"),
        (("tiny-rate", "-p", "device", "cuda"), "where torch sees no CUDA device"),
        (("tiny-rat",), "unknown chapter 'tiny-rat'; nearest: tiny-rate"),
        (("index",), "unknown chapter 'index'"),
        (("tiny-rate", "--profile", "quik"), "unknown profile 'quik'; nearest: quick"),
        (("tiny-rate", "--profile", "../profiles/quick"), "unknown profile"),
        (("tiny-rate", "--profile", "stray"), "unknown chapter 'tiny-rat'; nearest: tiny-rate"),
        (("tiny-rate", "--profile", "misspelt"), "misspelt.yml: unknown parameter 'depth'"),
        (("tiny-rate", "--profile", "broken"), "broken.yml is not readable as YAML"),
        (("tiny-rate", "-o", "full"), "expected a new or an empty folder for the results"),
        (("tiny-rate", "-o", "full/notes.txt"), "expected a new or an empty folder"),
        (("tiny-rate", "-o", "full/notes.txt/out"), "expected a new or an empty folder"),
        (("tiny-rate", "-o", "/proc/nowhere/out"), "cannot write in /proc/nowhere"),
        (("tiny-rate", "-o", "x" * 300), "expected a new or an empty folder"),
    ],
)
def test_bad_input_exits_2_with_one_sentence_and_writes_nothing(
    book, monkeypatch, arguments, sentence
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    before = tree(book)
    done = invoke(book, "run", *arguments)
    assert done.exit_code == 2, done.output
    assert sentence in done.output
    assert "Traceback" not in done.output
    assert tree(book) == before


def test_outside_a_book_exits_2(tmp_path):
    for arguments in (("run", "tiny-rate"), ("list",), ("parameters", "x"), ("notebooks",)):
        done = invoke(tmp_path, *arguments)
        assert done.exit_code == 2
        assert "no book here" in done.output
    assert tree(tmp_path) == {}


@given(name=st.text() | st.just("depths") | st.just("bound") | st.just("device"), value=st.text())
@example(name="depths", value="[" * 5000)
@example(name="depths", value="&a [*a]")
@example(name="seed", value="9" * 5000)
@example(name="bound", value="9" * 400)
@example(name="device", value="cuda:" + "9" * 50)
@example(name="seed", value="!!python/object/apply:os.getcwd []")
@settings(max_examples=150, deadline=None)
def test_no_text_for_a_parameter_ends_in_a_traceback(book, name, value):
    # the full folder is refused after the values, so that nothing is ever executed
    done = invoke(book, "run", "tiny-rate", "-p", name, value, "-o", "full")
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert done.output.strip()


@pytest.fixture
def napping(tmp_path):
    """A run in the middle of a cell that takes minutes: its process, its book, what that held."""
    root, started = tmp_path / "book", tmp_path / "started"
    nap = f"import os, pathlib\npathlib.Path({str(started)!r}).write_text(str(os.getpid()))"
    nap += "\nimport time\ntime.sleep(seconds)"
    write_chapter(root, "slow", ("parameters", "seconds: float = 300.0"), ("", nap))
    before = tree(root)
    process = subprocess.Popen(
        [COMMAND, "run", "slow", "-o", "deep/out"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background may ignore Ctrl-C, and children inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    wait_until(lambda: process.poll() is not None or (started.exists() and started.read_text()))
    assert (root / "deep").exists()
    yield process, root, before, int(started.read_text())
    process.kill()
    process.wait()


def wait_until(met, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not met() and time.monotonic() < deadline:
        time.sleep(0.05)


def lives(pid: int) -> bool:
    """Whether a process still runs; one that ended and was not collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_exits_with_its_number_and_leaves_nothing(napping, sent):
    process, root, before, kernel = napping
    process.send_signal(sent)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 128 + sent
    assert err == "Interrupted: nothing half-written was left behind.\n"
    assert out == ""
    assert tree(root) == before
    assert not lives(kernel)


def test_a_killed_run_leaves_nothing_where_the_results_would_be(napping):
    process, root, before, kernel = napping
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (root / "deep/out").exists()
    visible = {path for path in tree(root) if "/." not in path}
    assert visible == {*before, "deep"}
    wait_until(lambda: not lives(kernel))
    assert not lives(kernel)
    assert len(list((root / "deep").glob(".*"))) == 1
    write_chapter(root, "slow", ("parameters", "seconds: float = 0.0"))
    assert invoke(root, "run", "slow", "-o", "deep/out").exit_code == 0
    assert (root / "deep/out/slow.ipynb").exists()
    assert [path.name for path in (root / "deep").iterdir()] == ["out"]


@pytest.mark.slow
def test_parameters_that_do_not_fit_together_exit_2_and_leave_nothing(tmp_path):
    root = tmp_path / "book"
    check = (
        "from cotbook import Chapter\n"
        'chapter = Chapter("picky", globals())\n'
        'chapter.require(low < high, f"low: expected less than high = {high}, received {low}")'
    )
    write_chapter(root, "picky", ("parameters", "low: int = 1\nhigh: int = 2"), ("", check))
    before = tree(root)
    done = cotflow(root, "run", "picky", "-p", "low", "5")
    assert done.returncode == 2
    assert done.stderr == "low: expected less than high = 2, received 5\n"
    assert tree(root) == before


def test_a_profile_of_other_chapters_is_refused(tmp_path):
    write_tiny_chapter(tmp_path)
    (tmp_path / "book/profiles/few.yml").write_text("description: For nobody.\n")
    before = tree(tmp_path)
    done = invoke(tmp_path, "run", "tiny-rate", "--profile", "few")
    assert done.exit_code == 2
    assert "the profile 'few' has no values for tiny-rate; it is for no chapter" in done.output
    assert tree(tmp_path) == before


def test_list_names_chapters_and_profiles(tmp_path):
    write_tiny_chapter(tmp_path)
    (tmp_path / "book/profiles/quick.yml").write_text("description: one depth\n")
    done = invoke(tmp_path / "book", "list")
    assert done.exit_code == 0
    lines = [line.split(maxsplit=1) for line in done.output.splitlines()]
    assert ["tiny-rate", "A tiny rate"] in lines
    assert ["quick", "one depth"] in lines
    assert any(line[:1] == ["default"] for line in lines)


def test_parameters_shows_type_default_and_help(book):
    done = invoke(book, "parameters", "tiny-rate")
    assert done.exit_code == 0
    assert "depths  Depths  [2, 4]   numbers of layers L" in done.output.splitlines()


@pytest.mark.slow
def test_a_record_that_no_chapter_wrote_exits_3_and_the_notebook_is_delivered(tmp_path):
    shown = 'display({"application/vnd.cotflow.claim+json": {"name": "x"}}, raw=True)'
    write_chapter(tmp_path, "odd", ("parameters", "x: int = 1"), ("", shown))
    done = invoke(tmp_path, "run", "odd", "-o", "out")
    assert done.exit_code == 3
    assert "odd: claim 'x': statement: expected a text, received nothing" in done.output
    assert (tmp_path / "out/odd.ipynb").exists()
    assert invoke(tmp_path, "ledger", "out").output.startswith("### odd\n\nClaims: none.")
    (tmp_path / "out/claims.json").write_text('[{"name": "x"}]')
    refused = invoke(tmp_path, "ledger", "out")
    assert refused.exit_code == 2
    assert "received out: claim 'x': statement: expected a text" in refused.output


def test_a_parameter_is_set_once(book):
    done = invoke(book, "run", "tiny-rate", "-p", "seed", "1", "-p", "seed", "1", "-o", "full")
    assert done.exit_code == 2
    assert done.output == "-p seed: expected one value, received several\n"


def test_a_key_that_stands_twice_in_a_file_is_refused(tmp_path):
    write_tiny_chapter(tmp_path)
    (tmp_path / "book/profiles/two.yml").write_text("tiny-rate: {seed: 1, bound: 2, seed: 3}\n")
    (tmp_path / "sweep.yml").write_text("chapter: tiny-rate\nseeds: [1]\nseeds: [2]\n")
    before = tree(tmp_path)
    for command in (("run", "tiny-rate", "--profile", "two"), ("sweep", "sweep.yml")):
        done = invoke(tmp_path, *command)
        assert done.exit_code == 2
        assert re.search(r"expected every key once, received 'seeds?' twice", done.output)
        assert len(done.output.splitlines()) == 1
    assert tree(tmp_path) == before
    text = (tmp_path / "book/tiny-rate.md").read_text()
    options = ":tags: [parameters, hide-input]"
    twice = text.replace(options, f"{options}\n:tags: [parameters]")
    (tmp_path / "book/tiny-rate.md").write_text(twice)
    done = invoke(tmp_path, "run", "tiny-rate", "-o", "out")
    assert done.exit_code == 2 and "received 'tags' twice" in done.output


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_any_text_is_printed_in_any_encoding_and_moves_no_cursor(tmp_path, encoding):
    write_tiny_chapter(tmp_path)
    path = tmp_path / "book/tiny-rate.md"
    path.write_text(path.read_text().replace("# A tiny rate", "# A rate ≤ 1 \x1b[2J\x07 日本"))
    environment = os.environ | {"PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    done = subprocess.run(
        [COMMAND, "list"], cwd=tmp_path, capture_output=True, env=environment, check=True
    )
    assert rb"1 \x1b[2J\x07 " in done.stdout
    assert b"\x1b" not in done.stdout and done.stderr == b""


def test_a_full_disk_under_the_output_exits_3_with_a_sentence(tmp_path):
    write_tiny_chapter(tmp_path)
    with open("/dev/full", "w") as full:
        done = subprocess.run([COMMAND, "list"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 3
    assert done.stderr == b"could not finish: No space left on device\n"


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["_write_json", "_write_results"])
def test_a_full_disk_exits_3_and_the_notebook_is_kept(tmp_path, monkeypatch, moment):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs, moment, full)
    write_chapter(tmp_path, "calm", ("parameters", "x: int = 1"), ("", "print('computed')"))
    done = invoke(tmp_path, "run", "calm", "-o", "deep/out")
    assert done.exit_code == 3
    said = f"could not finish: No space left on device; the notebook is in {tmp_path}/deep/out"
    assert done.stderr == f"calm {said}\n"
    assert [path.name for path in (tmp_path / "deep").rglob("*")] == ["out", "calm.ipynb"]
    assert "computed" in (tmp_path / "deep/out/calm.ipynb").read_text()


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_a_disk_that_takes_no_notebook_exits_3_with_a_sentence(tmp_path):
    cells = (("parameters", "x: int = 1"), ("", "print('x' * 100_000)"))
    write_chapter(tmp_path, "long", *cells)
    command = [COMMAND, "run", "long", "-o", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=limited)
    assert done.returncode == 3, done.stderr
    assert "long could not finish: File too large; nothing could be kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob(".cotflow*")) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("reason", [errno.EXDEV, errno.EBUSY])
def test_results_are_put_in_an_empty_folder_that_none_can_replace(tmp_path, monkeypatch, reason):
    """A mounted disk, or a folder of a lower layer of a container."""

    def refuse(source, target):
        raise OSError(reason, os.strerror(reason))

    results, output = tmp_path / "results", tmp_path / "out"
    results.mkdir()
    output.mkdir()
    (results / "claims.json").write_text("[]")
    (results / "x.ipynb").write_text("{}")
    monkeypatch.setattr(runs.os, "replace", refuse)
    assert runs._deliver(results, output) == output
    assert sorted(path.name for path in output.iterdir()) == ["claims.json", "x.ipynb"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead = tmp_path / f".cotflow-{ended.pid}-abcdefgh"
    ours = tmp_path / f".cotflow-{os.getpid()}-abcdefgh"
    others = [ours, tmp_path / ".cotflow", tmp_path / ".cotflow-x-abc", tmp_path / f".{ended.pid}"]
    locked = tmp_path / f".cotflow-{ended.pid}-locked"  # of another container, say
    for folder in (dead, locked, *others):
        folder.mkdir()
        (folder / "file").touch()
    handle = os.open(locked, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with runs.workshop_beside(tmp_path / "out") as workshop:
        assert workshop.is_dir()
    os.close(handle)
    assert set(tmp_path.iterdir()) == {*others, locked}
