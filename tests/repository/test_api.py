"""The pages of the library."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = {path.stem: path for path in (ROOT / "book/api").glob("*.md")}
# What a book is built without.
OPTIONAL = {"triton"}


@pytest.mark.parametrize(
    "package", sorted(p.parent.name for p in (ROOT / "lib/cotflow").glob("*/__init__.py"))
)
def test_every_module_has_its_place_and_no_other_has(package):
    text = PAGES[package].read_text(encoding="utf-8")
    name, listed = re.search(r"```\{modules\} (\S+)\n(.*?)```", text, re.DOTALL).groups()
    modules = {path.stem for path in (ROOT / "lib/cotflow" / package).glob("*.py")}
    assert name == f"cotflow.{package}"
    assert sorted(listed.split()) == sorted(modules - {"__init__"} - OPTIONAL)
