"""The lock names every package of the environment, and pyproject.toml decides what is in it."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SET_UP = ("book", "sweep", "test")  # the extras that `make setup` installs
PYTHONS = [f"3.{minor}" for minor in range(11, 15)]
# The library itself, and the installer, which every interpreter brings with it.
UNPINNED = {"cotflow", "pip"}


def entries() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pins(**environment: str) -> dict[str, str]:
    """Version of every package that the lock names for this Python, or for another one."""
    chosen = {}
    for entry in map(Requirement, entries()):
        if entry.marker is None or entry.marker.evaluate(environment):
            assert entry.name not in chosen, f"{entry.name} is pinned twice"
            (chosen[entry.name],) = (pin.version for pin in entry.specifier)
    return chosen


def installed() -> dict[str, str]:
    """Version of every package here; torch's ``+cpu`` tells of its build and is left out."""
    return {
        canonicalize_name(found.name): Version(found.version).public
        for found in metadata.distributions()
    }


def needed() -> set[str]:
    """What the library and the extras of the set-up ask for, and what that asks for in turn."""
    extras, waiting = defaultdict(set), [("cotflow", frozenset(SET_UP))]
    while waiting:
        name, asked = waiting.pop()
        if name in extras and asked <= extras[name]:
            continue
        extras[name] |= asked
        for entry in map(Requirement, metadata.requires(name) or ()):
            marker = entry.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras[name])):
                waiting.append((canonicalize_name(entry.name), frozenset(entry.extras)))
    return {*extras}


def test_an_entry_is_a_version_and_perhaps_a_marker():
    for entry in entries():
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; [\w.'*=<>!() ]+)?", entry), entry


def test_every_installed_package_is_pinned_at_its_version():
    found = {name: version for name, version in installed().items() if name not in UNPINNED}
    assert len(found) > 100
    assert {*found.items()} - {*pins().items()} == set()


def test_every_package_that_is_needed_here_is_installed():
    # a package that is not installed has no metadata, and raises
    assert needed() - UNPINNED <= pins().keys()


@pytest.mark.parametrize("python", PYTHONS)
def test_every_direct_dependency_is_pinned_inside_its_range(python):
    environment = {"python_version": python, "python_full_version": f"{python}.5"}
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    wanted = [Requirement(text) for group in groups for text in group]
    wanted = [e for e in wanted if e.marker is None or e.marker.evaluate(environment)]
    pinned = pins(**environment)
    assert len(wanted) > 20
    assert [str(e) for e in wanted if pinned[canonicalize_name(e.name)] not in e.specifier] == []


def test_python_314_gets_everything_but_what_snakemake_needs():
    left_out = pins(python_full_version="3.13.0").keys() - pins(python_full_version="3.14.0").keys()
    assert {"snakemake", "immutables"} <= left_out
    needed_elsewhere = {"torch", "numpy", "jupyter-book", "pytest", "sqlalchemy", "jinja2"}
    assert not left_out & needed_elsewhere


def test_an_environment_that_strays_is_noticed(monkeypatch):
    class Stray:
        name, version = "Stray_Package", "1.0"

    monkeypatch.setattr(metadata, "distributions", lambda: [Stray])
    assert installed() == {"stray-package": "1.0"}
    assert not installed().items() <= pins().items()


def test_conda_environment_is_the_pinned_one():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    python = Requirement(conda[0].replace("=", "=="))
    version = next(iter(python.specifier)).version
    assert environment["name"] == PROJECT["name"]
    assert python.name == "python"
    assert version in Requirement(f"python{PROJECT['requires-python']}").specifier
    assert conda[1:] == ["pip"]
    assert [entry for entry in pip["pip"] if "index" not in entry] == [
        "-c requirements.txt",
        f"-e .[{','.join(SET_UP)}]",
    ]


def test_make_and_the_workflow_know_the_pythons_of_the_project():
    makefile = (ROOT / "Makefile").read_text()
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    low, high = re.search(r"\((3, \d+)\) <= sys.version_info < \((3, \d+)\)", makefile).groups()
    low, high = low.replace(", ", "."), high.replace(", ", ".")
    assert PROJECT["requires-python"] == f">={low},<{high}"
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == PYTHONS
    named = re.search(r"^PYTHONS := .*?,(.*)\)$", makefile, re.MULTILINE)[1].split()
    assert named == [*(f"python{version}" for version in reversed(PYTHONS)), "python3", "python"]
