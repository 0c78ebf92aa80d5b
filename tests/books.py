"""Small books in a folder of their own, and the command ``cotflow`` run in them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from cotbook.cli import main

ROOT = Path(__file__).resolve().parents[1]
COMMAND = Path(sys.executable).with_name("cotflow")
HEADER = """\
---
jupytext:
  formats: book//md:myst,book/notebooks//ipynb
  text_representation: {extension: .md, format_name: myst}
kernelspec: {display_name: Python 3, language: python, name: python3}
---
# A tiny rate
"""
PARAMETERS = """\
depths: Depths = [2, 4]  # numbers of layers L
seed: Seed = 0  # first seed
bound: Rate = 10.0  # largest depth allowed
device: Device = "cpu"  # where to compute
"""
OPENING = """\
from cotbook import Chapter
from cotbook.parameters import Depths, Device, Rate, Seed
"""
CLAIM = """\
chapter.claim(name="bounded", statement="$L$ is small", provenance="[M] Prop. 3", kind="bound",
              predicted=bound, measured=max(depths), tolerance=0, relation="at most")
chapter.untested(name="unbounded", statement="$L$ is large", provenance="[B] Thm. 1",
                 reason="it takes for ever")
"""


def write_chapter(root: Path, name: str, *cells: tuple[str, str]) -> None:
    """A text notebook of (tags, source) cells in a book at ``root``."""
    (root / "book" / "profiles").mkdir(parents=True, exist_ok=True)
    (root / "_toc.yml").touch()
    blocks = [f"```{{code-cell}} ipython3\n:tags: [{tags}]\n{code}\n```\n" for tags, code in cells]
    (root / "book" / f"{name}.md").write_text(HEADER + "\n".join(blocks))


def write_tiny_chapter(root: Path, name: str = "tiny-rate") -> None:
    """A chapter as the book has them, with one checked cell, one figure and two claims."""
    write_chapter(
        root,
        name,
        ("remove-cell", OPENING),
        ("parameters, hide-input", PARAMETERS),
        ("remove-cell", f'chapter = Chapter("{name}", globals())'),
        ("nbval-check-output", 'print("seed", seed)\nlen(depths)'),
        ("hide-input", "import matplotlib.pyplot as plt\nplt.plot(depths)\nplt.show()"),
        ("remove-input", CLAIM),
        ("remove-input", "chapter.close()"),
    )


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else b""
        for path in root.rglob("*")
    }


def cotflow(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [COMMAND, *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def write_sweep(root: Path, text: str, name: str = "sweep.yml") -> str:
    (root / name).write_text(text)
    return name


def begin(root: Path, *options: str, **variables: str) -> subprocess.Popen:
    """The sweep of ``sweep.yml`` under way, two jobs at once."""
    return subprocess.Popen(
        [COMMAND, "sweep", "sweep.yml", "--cores", "2", *options],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | variables,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition: Callable[[], Any], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def invoke(root: Path, *arguments: str):
    with contextlib.chdir(root):
        return CliRunner().invoke(main, arguments)
