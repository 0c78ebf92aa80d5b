"""Which chapters execute which functions of the library."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cotbook.errors import Unfinished
from cotbook.provenance import LIBRARY
from cotbook.run.edit import Edit
from cotbook.run.runs import execute
from cotbook.run.tree import Source

MIME = "application/vnd.cotflow.reached+json"
# What is executed where Python cannot look: the sources of a compiled step, and who calls it.
COMPILED = {".c": "lib/cotflow/adjoint/compiled.py", ".h": "lib/cotflow/adjoint/compiled.py"}
# Every call is looked at where Python can only trace (3.11); later it tells each function once.
BEGIN = """\
import sys
_reached = set()
def _look(code, *_):
    _reached.add((code.co_filename, code.co_firstlineno))
    return sys.monitoring.DISABLE
if hasattr(sys, "monitoring"):
    sys.monitoring.use_tool_id(sys.monitoring.PROFILER_ID, "cotflow")
    sys.monitoring.register_callback(
        sys.monitoring.PROFILER_ID, sys.monitoring.events.PY_START, _look
    )
    sys.monitoring.set_events(sys.monitoring.PROFILER_ID, sys.monitoring.events.PY_START)
else:
    def _trace(frame, *_):
        _reached.add(frame.f_code)
    sys.settrace(_trace)
"""
END = f"""\
if hasattr(sys, "monitoring"):
    sys.monitoring.free_tool_id(sys.monitoring.PROFILER_ID)
else:
    sys.settrace(None)
    _reached = {{(code.co_filename, code.co_firstlineno) for code in _reached}}
from IPython.display import display
display({{"text/plain": "reached", "{MIME}": sorted(_reached)}}, raw=True)
"""
CELL = "```{{code-cell}} ipython3\n:tags: [remove-cell]\n\n{}```\n\n"

# By file, the lines at which the functions that were called begin; 1 stands for its import.
Reach = dict[str, list[int]]


def reached(source: Source, values: dict[str, Any]) -> tuple[Reach, float]:
    """What a chapter calls at these values, and the seconds that it takes."""
    opening, rest = re.split(r"(?=^```\{code-cell\})", source.text, maxsplit=1, flags=re.M)
    text = f"{opening}{CELL.format(BEGIN)}{rest}\n\n{CELL.format(END)}"
    with TemporaryDirectory() as folder:
        done = execute(replace(source, text=text), Path(folder), values)
    if done.failure or done.record is None:
        reason = done.failure.sentence if done.failure else "it left no record"
        raise Unfinished(f"{source.name}: expected a chapter that holds: {reason}")
    shown = [o.get("data", {}) for c in done.notebook.cells for o in c.get("outputs", ())]
    found: Reach = {}
    for name, line in next(data[MIME] for data in shown if MIME in data):
        path = Path(name)
        if path.is_relative_to(LIBRARY):
            found.setdefault(f"lib/{path.relative_to(LIBRARY).as_posix()}", []).append(line)
    return found, done.record.seconds


def reaches(reach: Reach, edit: Edit, chapter: str) -> bool:
    """Whether a chapter that calls this executes the place of an error."""
    if edit.chapter:
        return edit.chapter == chapter
    compiled = COMPILED.get(Path(edit.place).suffix)
    if compiled:
        return compiled in reach
    if edit.place not in reach:
        return False
    first = _function(edit)
    return first is None or first in reach[edit.place]


def _function(edit: Edit) -> int | None:
    """The first line of the outermost function around the place; None outside all of them."""
    text = (LIBRARY.parent / edit.place).read_text(encoding="utf-8")
    line = edit.line or text[: text.index(edit.old)].count("\n") + 1
    around = (first for first, last in _functions(ast.parse(text)) if first <= line <= last)
    return next(around, None)


def _functions(tree: ast.AST) -> Iterator[tuple[int, int]]:
    """First and last line of each; as the interpreter counts, it begins at its first decorator."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            yield first, node.end_lineno or first
        else:
            yield from _functions(node)
