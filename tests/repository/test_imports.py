"""Who imports whom under ``lib``, late imports and those for annotations alone included."""

import ast
from collections.abc import Container, Iterator
from pathlib import Path

import pytest

LIB = Path(__file__).resolve().parents[2] / "lib"

# A part is a folder or a file below its package, "" the package's front door. It imports only of
# its own group and of those before it.
ORDER = {
    "cotflow": [
        {"network"},
        {"measure"},
        {"adjoint"},
        {"flows"},
        {"transport"},
        {"limits"},
        {"bounds"},
        {"certificates"},
        {"convolution"},
        {""},
    ],
    "cotbook": [
        {"errors"},
        {"claims", "parameters", "provenance", "figures"},
        {"records", "render", "chapter"},
        {"run"},
        {"grid", "keep", "bench"},
        {"sabotage"},
        {"sphinx"},
        {"cli"},
        {""},
    ],
}

Graph = dict[str, set[str]]


def graph_of(lib: Path) -> Graph:
    """Every module with the modules of ``lib`` that it names in an import, wherever that stands."""
    paths = {}
    for path in lib.rglob("*.py"):
        parts = path.relative_to(lib).with_suffix("").parts
        paths[".".join(parts).removesuffix(".__init__")] = path
    return {name: set(modules(name, path, paths)) for name, path in paths.items()}


def modules(name: str, path: Path, known: Container[str]) -> Iterator[str]:
    """Of ``from a import b`` it is the module a.b, or else a, if b is something inside it."""
    for found in imported(name, path):
        inside = found.rpartition(".")[0]
        if found in known or inside in known:
            yield found if found in known else inside


def imported(name: str, path: Path) -> Iterator[str]:
    """Every full name that stands in an import: of ``from a import b`` it is a.b."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                base = ".".join([*above, *([module] if module else [])])
                yield from (f"{base}.{alias.name}" for alias in names)
            case ast.Call(args=[ast.Constant(value=str(module)), *_]):
                called = getattr(node.func, "attr", getattr(node.func, "id", None))
                if called in ("import_module", "__import__"):
                    yield module


def part_of(module: str) -> tuple[str, str]:
    package, _, rest = module.partition(".")
    return package, rest.partition(".")[0]


def circles(graph: Graph) -> list[list[str]]:
    """Groups of modules that lead back to one another, each once (Tarjan's components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1 or node in graph.get(node, ()):
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def parts(graph: Graph) -> Graph:
    """The same between parts, the front doors aside."""
    between: Graph = {}
    for module, others in graph.items():
        here = between.setdefault(".".join(part_of(module)), set())
        here |= {".".join(part_of(other)) for other in others if part_of(other) != part_of(module)}
    return between


def misplaced(graph: Graph) -> list[str]:
    """Modules that have no place in the order."""
    return [m for m in sorted(graph) if height(m) is None]


def height(module: str) -> int | None:
    package, part = part_of(module)
    groups = ORDER.get(package, [])
    return next((i for i, group in enumerate(groups) if part in group), None)


def upward(graph: Graph) -> list[str]:
    """Imports within a package of something that stands above."""
    return [
        f"{module} imports {other}"
        for module, others in sorted(graph.items())
        for other in sorted(others)
        if part_of(module)[0] == part_of(other)[0] and (height(other) or 0) > (height(module) or 0)
    ]


def across(graph: Graph) -> list[str]:
    """Imports of cotbook in cotflow."""
    return [
        f"{module} imports {other}"
        for module, others in sorted(graph.items())
        for other in sorted(others)
        if part_of(module)[0] == "cotflow" and part_of(other)[0] != "cotflow"
    ]


@pytest.fixture(scope="module")
def graph() -> Graph:
    return graph_of(LIB)


def test_every_module_has_a_place_in_the_order(graph):
    assert len(graph) > 50
    assert misplaced(graph) == []


def test_the_solvers_know_nothing_of_the_book(graph):
    assert across(graph) == []


def test_nothing_imports_what_stands_above_it(graph):
    assert upward(graph) == []


def test_no_circle_of_modules_or_of_parts(graph):
    assert circles(graph) == []
    assert circles(parts(graph)) == []


@pytest.fixture
def small(tmp_path):
    """A library in order, and a way to add a line to one of its files."""
    files = {
        "cotflow/__init__.py": "from cotflow.flows.flow import flow",
        "cotflow/network/weights.py": "import math",
        "cotflow/flows/flow.py": "from cotflow.network.weights import Weights",
        "cotbook/claims.py": "",
        "cotbook/run/__init__.py": "",
        "cotbook/run/runs.py": "from cotbook import claims\nfrom cotflow import flow",
        "cotbook/grid/job.py": "def late():\n    from cotbook.run import runs",
        "cotbook/grid/page.py": "from . import job",
    }

    def write(path: str, text: str) -> None:
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"{target.read_text() if target.exists() else ''}{text}\n")

    for path, text in files.items():
        write(path, text)
    return tmp_path, write


def faults(lib: Path) -> tuple[list, ...]:
    graph = graph_of(lib)
    rings = circles(graph) + circles(parts(graph))
    return misplaced(graph), across(graph), upward(graph), rings


def test_a_library_in_order_passes(small):
    lib, _ = small
    assert faults(lib) == ([], [], [], [])
    assert graph_of(lib)["cotbook.run.runs"] == {"cotbook.claims", "cotflow"}
    assert graph_of(lib)["cotbook.grid.page"] == {"cotbook.grid.job"}


LATE = "def late():\n    {}"
ANNOTATIONS = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {}"


@pytest.mark.parametrize("frame", ["{}", LATE, ANNOTATIONS])
@pytest.mark.parametrize(
    ("path", "line", "kind"),
    [
        ("cotbook/stray.py", "import math", 0),
        ("cotflow/stray/a.py", "import math", 0),
        ("cotflow/flows/flow.py", "import cotbook.claims", 1),
        ("cotflow/network/weights.py", "from importlib import import_module as f", None),
        ("cotflow/network/weights.py", "importlib.import_module('cotbook.claims')", 1),
        ("cotflow/network/weights.py", "from cotflow.flows.flow import flow", 2),
        ("cotflow/network/weights.py", "from ..flows import flow", 2),
        ("cotflow/network/weights.py", "from cotflow import flow", 2),
        ("cotbook/claims.py", "from cotbook.grid import job", 2),
        ("cotbook/run/runs.py", "from cotbook.grid.job import late", 2),
        ("cotbook/grid/job.py", "from cotbook.grid.page import late", 3),
        ("cotbook/grid/job.py", "import cotbook.grid.job", 3),
    ],
)
def test_a_planted_import_is_found(small, path, line, kind, frame):
    lib, write = small
    write(path, frame.format(line))
    found = [number for number, wrong in enumerate(faults(lib)) if wrong]
    assert (kind in found) if kind is not None else (found == [])


def test_a_circle_of_parts_without_one_of_modules_is_found(small):
    lib, write = small
    write("cotbook/keep/pdf.py", "from cotbook.grid import page")
    write("cotbook/grid/file.py", "from cotbook.keep import new")
    write("cotbook/keep/new.py", "")
    assert faults(lib) == ([], [], [], [["cotbook.grid", "cotbook.keep"]])
