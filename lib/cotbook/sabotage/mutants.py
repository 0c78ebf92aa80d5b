"""Errors made by rule: each sign, factor, exponent and index of a source, changed alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from cotbook.provenance import LIBRARY
from cotbook.run.edit import Edit

# What computes; the other modules check, store and describe.
MODULES = (
    *("adjoint/elementary.h", "adjoint/kernel.c"),
    *(f"adjoint/{name}.py" for name in ("gradient", "plain", "segments", "parallel")),
    *(f"network/{name}.py" for name in ("residual", "activations", "initial", "published")),
    *(f"flows/{name}.py" for name in ("runge_kutta", "chebyshev", "velocity", "adaptive")),
    *("measure/observables.py", "measure/rates.py"),
    *("transport", "limits", "bounds", "certificates"),
    *("convolution/network.py", "convolution/training.py"),
)
SWAPPED = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*")}
SIGN, FACTOR = (ast.Add, ast.Sub), (ast.Mult, ast.Div, ast.MatMult)
COMPARED = {ast.Lt: ("<", ">"), ast.Gt: (">", "<"), ast.LtE: ("<=", ">="), ast.GtE: (">=", "<=")}
NAMES = {"sum": "mean", "mean": "sum", "amax": "amin", "amin": "amax", "max": "min", "min": "max"}
# Sentences for people, and what is checked before anything is computed.
SILENT = (ast.Raise, ast.Assert, ast.JoinedStr, ast.ImportFrom, ast.Import)


def mutants() -> dict[str, Edit]:
    """All of them by name, in one order for all: ``place-line-column-kind``."""
    found: dict[str, Edit] = {}
    for path in _files():
        place = f"lib/{path.relative_to(LIBRARY).as_posix()}"
        text = path.read_text(encoding="utf-8")
        stem = path.relative_to(LIBRARY / "cotflow").as_posix().replace("/", "-")
        make = of_python if path.suffix == ".py" else of_c
        for kind, edit in make(place, text):
            found[f"{stem}-{edit.line}-{edit.column}-{kind}"] = edit
    return found


def _files() -> Iterator[Path]:
    for name in MODULES:
        path = LIBRARY / "cotflow" / name
        yield from sorted(path.glob("*.py")) if path.is_dir() else [path]


def of_python(place: str, text: str) -> Iterator[tuple[str, Edit]]:
    """Pairs (kind, error) in the order of the text."""
    tree = ast.parse(text)
    found = [pair for node in _computing(tree) for pair in _of_node(place, text, node)]
    return iter(sorted(found, key=lambda pair: (pair[1].line, pair[1].column, pair[0])))


def _computing(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that compute: no sentences, no annotations, no refusals."""
    if isinstance(node, SILENT) or (isinstance(node, ast.If) and _refuses(node)):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _computing(child)


def _refuses(node: ast.If) -> bool:
    return not node.orelse and all(isinstance(each, ast.Raise) for each in node.body)


def _of_node(place: str, text: str, node: ast.AST) -> Iterator[tuple[str, Edit]]:
    lines = text.splitlines()

    def edit(line: int, column: int, old: str, new: str) -> Edit:
        return Edit(place, old, new, line, column)

    def constant(value: ast.expr, new: str, kind: str) -> Iterator[tuple[str, Edit]]:
        old = ast.get_source_segment(text, value)
        if old and old.isascii():
            yield kind, edit(value.lineno, _column(lines, value), old, new)

    match node:
        case ast.BinOp(left=left, op=op, right=right):
            at = _operator(lines, left, right)
            if at and type(op) in SWAPPED:
                old, new = SWAPPED[type(op)]
                kind = "sign" if isinstance(op, SIGN) else "factor"
                if lines[at[0] - 1].startswith(old, at[1]):
                    yield kind, edit(*at, old, new)
            if isinstance(op, SIGN) and left.lineno == right.end_lineno:
                line = lines[left.lineno - 1]
                start, end = _column(lines, left, end=True), _column(lines, right, end=True)
                if line[start:end].count("(") == line[start:end].count(")"):
                    yield "dropped", edit(left.lineno, start, line[start:end], "")
            for side in (left, right):
                if isinstance(op, FACTOR) and _is_number(side):
                    yield from constant(side, repr(2 * ast.literal_eval(side) or 1), "constant")
            if isinstance(op, ast.Pow) and _is_number(right):
                yield from constant(right, repr(1 + ast.literal_eval(right)), "exponent")
        case ast.UnaryOp(op=ast.USub(), operand=operand) if not _is_number(operand):
            yield "negation", edit(node.lineno, _column(lines, node), "-", "+")
        case ast.Subscript(slice=index):
            for part in ast.walk(index):
                if _is_number(part, whole=True):
                    yield from constant(part, repr(ast.literal_eval(part) + 1), "index")
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARED:
            at, (old, new) = _operator(lines, left, right), COMPARED[type(op)]
            if at and lines[at[0] - 1].startswith(old, at[1]):
                yield "comparison", edit(*at, old, new)
        case ast.Attribute(attr="mT" | "T", value=value) if value.end_lineno == node.end_lineno:
            start = _column(lines, value, end=True)
            yield "transposed", edit(node.end_lineno, start, f".{node.attr}", "")
        case ast.Call(func=ast.Attribute(attr=name) as called) if name in NAMES:
            start = _column(lines, called, end=True) - len(name)
            yield "reduction", edit(called.end_lineno or 0, start, name, NAMES[name])


def _is_number(node: ast.AST, whole: bool = False) -> bool:
    kinds = (int,) if whole else (int, float)
    return isinstance(node, ast.Constant) and type(node.value) in kinds


def _column(lines: list[str], node: ast.expr, end: bool = False) -> int:
    """In characters; ast counts bytes."""
    line, bytes_ = (node.end_lineno, node.end_col_offset) if end else (node.lineno, node.col_offset)
    return len(lines[(line or 1) - 1].encode()[: bytes_ or 0].decode())


def _operator(lines: list[str], left: ast.expr, right: ast.expr) -> tuple[int, int] | None:
    """Line and column of the operator between two operands; None if a comment stands there."""
    line, column = left.end_lineno or 0, _column(lines, left, end=True)
    while line <= right.lineno:
        rest = lines[line - 1][column:]
        skipped = len(rest) - len(rest.lstrip(" )"))
        if rest.strip(" )"):
            return None if rest.lstrip(" )").startswith("#") else (line, column + skipped)
        line, column = line + 1, 0
    return None


def of_c(place: str, text: str) -> Iterator[tuple[str, Edit]]:
    """The same for C: binary operators between spaces, outside comments and directives."""
    bare = re.sub(r"/\*.*?\*/|//[^\n]*", lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.S)
    swapped = dict(SWAPPED.values())
    for number, line in enumerate(bare.splitlines(), start=1):
        if line.lstrip().startswith("#"):
            continue
        for found in re.finditer(r"(?<=[\w)\]] )[-+*/](?= [\w(-])", line):
            kind = "sign" if found[0] in "+-" else "factor"
            yield kind, Edit(place, found[0], swapped[found[0]], number, found.start())
