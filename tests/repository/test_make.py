"""``make book``: one at a time, and no half-built pages however it ends."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILDER = """\
#!/bin/bash
mkdir -p _build/html
echo half > _build/html/index.html
echo $$ > begun
until [ -e go ]; do sleep 0.05; done
echo whole > _build/html/index.html
"""


NASTY = "wörk of 'mine' and \"yours\" $HOME `touch touched` {x} 100%"


@pytest.fixture
def book(tmp_path):
    """A folder in which ``make book`` calls a builder that waits for the file ``go``."""
    tmp_path = tmp_path / NASTY
    tmp_path.mkdir()
    for name in ("requirements.txt", "pyproject.toml", "Makefile"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    commands = tmp_path / ".venv/bin"
    commands.mkdir(parents=True)
    (commands / "python").symlink_to(sys.executable)
    os.utime(commands / "python", (0, 0), follow_symlinks=False)
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


def test_a_builder_that_is_killed_leaves_no_half_built_pages(book):
    folder, make = book
    process = make()
    wait_for(folder / "begun")
    os.kill(int((folder / "begun").read_text()), signal.SIGKILL)
    said = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert "Interrupted: no half-built book was left behind." in said
    assert not (folder / "_build/html").exists()


def test_a_book_in_a_folder_of_any_name_is_found_by_what_is_said_of_it(book):
    folder, make = book
    (folder / "go").touch()
    process = make()
    said, failed = process.communicate(timeout=120)
    assert process.returncode == 0, failed
    assert f"The book is {folder}/_build/html/index.html\n" in said
    # Under another make, this one tells of its folders too.
    address = said.split("webbrowser ")[1].splitlines()[0]
    assert shlex.split(address) == [address]
    assert Path(unquote(urlsplit(address).path)) == folder / "_build/html/index.html"
    known = {"requirements.txt", "pyproject.toml", "Makefile", ".venv", "_build", "begun", "go"}
    assert {path.name for path in folder.iterdir()} == known


SHORT = "#!{python}\n"
LONG = "#!/bin/sh\n'''exec' {python} \"$0\" \"$@\"\n' '''\n"
QUOTED = LONG.replace("{python}", '"{python}"')


@pytest.mark.parametrize("head", [SHORT, LONG, QUOTED])
@pytest.mark.parametrize("name", [NASTY, "a'b", 'a"b', "a$b", "plain"])
def test_commands_of_an_environment_start_whatever_its_folder_is_called(tmp_path, name, head):
    folder = tmp_path / name / ".venv/bin"
    venv.create(folder.parent, with_pip=False)
    command, binary = folder / "command", folder / "binary"
    written = (
        head.format(python=folder / "python") + "import sys\nprint(sys.prefix, sys.argv[1:])\n"
    )
    command.write_text(written)
    command.chmod(0o755)
    binary.write_bytes(b"\x7fELF python\n")
    subprocess.run(
        [folder / "python", "-m", "cotbook.keep.scripts"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "lib")},
        check=True,
    )
    assert binary.read_bytes() == b"\x7fELF python\n"
    if name == "plain":
        assert command.read_text() == written
        return
    for start in (command, Path(".venv/bin/command"), "command"):
        done = subprocess.run(
            [start, "a b", "$HOME"],
            cwd=folder.parents[1],
            env=os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )
        assert done.stdout == f"{folder.parent} ['a b', '$HOME']\n", done.stderr
