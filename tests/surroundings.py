"""The quick tests in every surrounding: ``python tests/surroundings.py [NAME …] [-- PYTEST …]``.

Named files and options of pytest take the place of the quick tests: ``-- tests/cotflow -m slow``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
C = {"LANG": "C", "LC_ALL": "C", "LANGUAGE": ""}
# By name: variables, options of Python, options of pytest.
SURROUNDINGS: dict[str, tuple[dict[str, str], list[str], list[str]]] = {
    "plain": ({}, [], []),
    "optimised": ({}, ["-O"], []),
    "float64": ({"PYTHONPATH": str(ROOT / "tests")}, [], ["-p", "surroundings"]),
    "agg": ({"MPLBACKEND": "agg"}, [], []),
    "path": ({}, [], []),
    "C": (C, [], []),
    "ascii": (C | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, [], []),
    "together": (
        C | {"PYTHONPATH": str(ROOT / "tests"), "MPLBACKEND": "agg"},
        ["-O"],
        ["-p", "surroundings"],
    ),
}
ELSEWHERE = ("path", "together")
AWKWARD = "with spaces, 'quotes' and ümlauts"


def pytest_configure() -> None:
    """As a plugin: the default dtype that a start-up file would set."""
    import torch

    torch.set_default_dtype(torch.float64)


def run(name: str, root: Path, asked: list[str]) -> int:
    """The exit code of the tests of the tree at ``root``."""
    variables, python, pytest = SURROUNDINGS[name]
    paths = [str(root / "lib"), variables.get("PYTHONPATH"), os.environ.get("PYTHONPATH")]
    environment = os.environ | variables | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # Warnings of our own are errors in all of them, by pyproject.toml.
    command = [sys.executable, *python, "-m", "pytest", *pytest, *asked]
    return subprocess.run(command, cwd=root, env=environment).returncode


def copy(folder: Path) -> Path:
    """The files that git knows, in a folder of an awkward name."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    root = folder / AWKWARD
    for name in filter(None, listed.stdout.split("\0")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name)
    return root


def main() -> int:
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    names, asked = sys.argv[1:cut] or list(SURROUNDINGS), sys.argv[cut + 1 :]
    if unknown := set(names) - set(SURROUNDINGS):
        sys.exit(f"expected some of {', '.join(SURROUNDINGS)}, received {', '.join(unknown)}")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            start = time.monotonic()
            root = copy(Path(folder) / name) if name in ELSEWHERE else ROOT
            code = run(name, root, asked or ["-m", "not slow"])
            found[name] = (
                f"{'passed' if code == 0 else f'exit {code}'}, {time.monotonic() - start:.0f} s"
            )
    print("\n".join(f"{name:10} {end}" for name, end in found.items()))
    return int(any(not end.startswith("passed") for end in found.values()))


if __name__ == "__main__":
    sys.exit(main())
