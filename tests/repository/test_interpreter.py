"""``make setup`` takes the newest interpreter that fits, or says which one to install."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# An interpreter that believes to be of another version, and writes down what it was asked for.
INTERPRETER = """\
#!{real}
import sys
from pathlib import Path

sys.version_info = {version}
{damage}
if sys.argv[1] == "-c":
    exec(sys.argv[2])
elif sys.argv[1] == "--version":
    print("Python", ".".join(map(str, sys.version_info)))
elif sys.argv[2] == "venv":
    made = Path(sys.argv[-1], "bin/python")
    made.parent.mkdir(parents=True)
    made.write_text(Path(__file__).read_text())
    made.chmod(0o755)
    print("taken:", Path(__file__).name)
"""
NO_PIP = 'sys.modules["ensurepip"] = None'
SHIM = 'sys.exit("shim: no such version is chosen")'


@pytest.fixture
def setup(tmp_path):
    """setup(interpreters, *arguments) runs make with these alone on the PATH."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    path = tmp_path / "path"
    path.mkdir()
    for tool in ("bash", "sed", "touch"):
        (path / tool).symlink_to(shutil.which(tool))

    def run(interpreters: dict[str, tuple], *arguments: str) -> subprocess.CompletedProcess:
        for name, (version, *damage) in interpreters.items():
            damage = "".join(damage)
            text = INTERPRETER.format(real=sys.executable, version=version, damage=damage)
            (path / name).write_text(text)
            (path / name).chmod(0o755)
        return subprocess.run(
            [shutil.which("make"), "setup", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PATH": str(path)},
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize(
    ("interpreters", "taken"),
    [
        ({"python3.11": ((3, 11, 2),), "python3.13": ((3, 13, 0),)}, "python3.13"),
        ({"python3.14": ((3, 14, 1),), "python3": ((3, 11, 2),)}, "python3.14"),
        ({"python3": ((3, 15, 0),), "python3.12": ((3, 12, 1),)}, "python3.12"),
        ({"python3": ((3, 10, 9),), "python": ((3, 11, 2),)}, "python"),
        ({"python3.14": ((3, 14, 1), NO_PIP), "python3.12": ((3, 12, 1),)}, "python3.12"),
        ({"python3.13": ((3, 13, 0), SHIM), "python3": ((3, 11, 2),)}, "python3"),
    ],
)
def test_the_newest_that_fits_is_taken(tmp_path, setup, interpreters, taken):
    done = setup(interpreters)
    assert done.returncode == 0, done.stderr
    assert f"taken: {taken}\n" in done.stdout
    assert (tmp_path / ".venv/installed").exists()


def test_one_that_is_named_is_taken_and_stays(setup):
    both = {"python3.13": ((3, 13, 0),), "python3.12": ((3, 12, 1),)}
    assert "taken: python3.12\n" in setup(both, "PYTHON=python3.12").stdout
    assert "taken" not in setup(both).stdout


@pytest.mark.parametrize(
    ("interpreters", "named", "found"),
    [
        ({}, None, "none"),
        ({"python3": ((3, 10, 9),)}, None, "python3 (Python 3.10.9)"),
        ({"python3": ((3, 15, 0),)}, None, "python3 (Python 3.15.0)"),
        ({"python3": ((3, 11, 2), NO_PIP)}, None, "python3 (Python 3.11.2)"),
        (
            {"python3.13": ((3, 13, 0), SHIM), "python": ((2, 7, 18),)},
            None,
            "python3.13 (shim: no such version is chosen), python (Python 2.7.18)",
        ),
        (
            {"python3.9": ((3, 9, 1),), "python3.12": ((3, 12, 1),)},
            "python3.9",
            "python3.9 (Python 3.9.1)",
        ),
        ({"python3.12": ((3, 12, 1),)}, "python3.11", "none"),
    ],
)
def test_one_sentence_says_what_to_install_and_nothing_is_installed(
    tmp_path, setup, interpreters, named, found
):
    done = setup(interpreters, *([f"PYTHON={named}"] if named else []))
    assert done.returncode != 0
    said = done.stderr.splitlines()
    assert said[0] == (
        f"Python 3.11 to 3.14 with its modules venv and ensurepip is needed; found: {found}. "
        "Install one (on Debian and Ubuntu: python3 and python3-venv), or name one that is not "
        "on the PATH: make PYTHON=/path/to/python3.12 setup"
    )
    assert len(said) == 2, "the sentence, and make's own line"
    assert not (tmp_path / ".venv").exists()
