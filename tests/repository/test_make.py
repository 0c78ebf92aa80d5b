"""``make book``: one at a time, and no half-built pages however it ends."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILDER = """\
#!/bin/bash
mkdir -p _build/html
echo half > _build/html/index.html
touch begun
until [ -e go ]; do sleep 0.05; done
echo whole > _build/html/index.html
"""


@pytest.fixture
def book(tmp_path):
    """A folder in which ``make book`` calls a builder that waits for the file ``go``."""
    for name in ("requirements.txt", "pyproject.toml", "Makefile"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    commands = tmp_path / ".venv/bin"
    commands.mkdir(parents=True)
    (commands / "python").touch()
    (commands / "jupyter-book").write_text(BUILDER)
    (commands / "jupyter-book").chmod(0o755)
    (tmp_path / ".venv/installed").touch()
    begun = []
    yield tmp_path, lambda: begun.append(start(tmp_path)) or begun[-1]
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        ["make", "book"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed,
    )


def heed() -> None:
    """A test run in the background may ignore these, and children inherit that."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(not shutil.which("flock"), reason="no flock here: nothing keeps two apart")
def test_a_second_one_says_that_the_first_is_at_work_and_touches_nothing(book):
    folder, make = book
    first = make()
    wait_for(folder / "begun")
    second = make()
    said = second.communicate(timeout=120)[1]
    assert second.returncode != 0
    assert f"Another make book is at work in {folder}: wait for its end." in said
    assert (folder / "_build/html/index.html").read_text() == "half\n"
    (folder / "go").touch()
    said = first.communicate(timeout=120)[1]
    assert first.returncode == 0, said
    assert (folder / "_build/html/index.html").read_text() == "whole\n"
    assert make().wait(120) == 0


@pytest.mark.parametrize("sent", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_half_built_pages(book, sent):
    folder, make = book
    process = make()
    wait_for(folder / "begun")
    os.killpg(process.pid, sent)
    said = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert "Interrupted: no half-built book was left behind." in said
    assert not (folder / "_build/html").exists()
