"""What lies around a chapter changes nothing: settings, start-up files, kernels, folders, names."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from myst_nb.core.config import NbParserConfig
from myst_parser.config.main import MdParserConfig

from books import OPENING, write_chapter, write_sweep
from cotbook import provenance
from cotbook.chapter import Chapter
from cotbook.run.kernel import environment
from cotbook.run.tree import chapter
from cotbook.sphinx.execution import Page, page

LIBRARY = provenance.LIBRARY
DRAWN = """\
from cotflow import published
one = torch.tensor(1.0).dtype
e = published("figure 1", depth=2, seed=0)
total = float(e.x.double().sum())
chapter.claim(name="drawn", statement="$x$ is drawn", provenance="[M] §5.1", kind="constant",
              predicted=0.0, measured=total, tolerance=1e9)
print(one, len(warnings.filters), os.getenv("IPYTHONDIR") == os.path.expanduser("~/.ipython"))
"""
DRAWING = """\
import matplotlib.pyplot as plt
plt.plot(seeds)
plt.show()
"""


def write_drawing_chapter(root: Path) -> None:
    write_chapter(
        root,
        "drawing",
        ("remove-cell", f"import os, warnings\nimport torch\n{OPENING}"),
        ("parameters, hide-input", "seeds: Depths = [1, 2]  # numbers"),
        ("remove-cell", 'chapter = Chapter("drawing", globals())'),
        ("hide-input", DRAWN),
        ("hide-input", DRAWING),
        ("remove-input", "chapter.close()"),
    )


@pytest.fixture(scope="module", autouse=True)
def fonts(tmp_path_factory) -> None:
    """One folder for matplotlib's list of fonts, which takes seconds to make."""
    KEPT["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


KEPT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(LIBRARY)}


def run(root: Path, **variables: str) -> tuple[list, list]:
    """The claims, without their moment, and all outputs of a run under these variables."""
    command(root, variables, "run", "drawing", "-o", "out")
    return left(root / "out")


def command(root: Path, variables: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cotbook.cli", *arguments],
        cwd=root,
        env=KEPT | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not set(root.iterdir()) & {root / "~", root / "None"}


def left(folder: Path) -> tuple[list, list]:
    claims = json.loads((folder / "claims.json").read_text())
    notebook = nbformat.read(folder / "drawing.ipynb", as_version=4)
    outputs = [
        output.get("text") or output.data.get("image/png")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    ]
    for claim in claims:
        del claim["executed"]
    return claims, [shown for shown in outputs if shown]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[list, list]:
    root, home = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("home")
    write_drawing_chapter(root)
    claims, shown = run(root, HOME=str(home))
    assert len(claims) == 1 and shown[0].startswith("torch.float32") and len(shown) == 2
    return claims, shown


def hostile_home(home: Path) -> Path:
    """Start-up files, settings, a matplotlibrc and a kernel that all would change a result."""
    startup = home / ".ipython/profile_default/startup"
    startup.mkdir(parents=True)
    double = "import torch; torch.set_default_dtype(torch.float64); print('started')\n"
    (startup / "00-double.py").write_text(double)
    settings = "c.InteractiveShellApp.exec_lines = ['import torch; torch.randn = torch.rand']\n"
    (startup.parent / "ipython_kernel_config.py").write_text(settings)
    (home / "startup.py").write_text(double)
    rc = home / ".config/matplotlib/matplotlibrc"
    rc.parent.mkdir(parents=True)
    rc.write_bytes(b"\xff\xfe: broken\nlines.linewidth: 30\n")
    kernel = home / "jupyter/kernels/python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["/bin/false"], "display_name": "Another", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    other = home / "other/cotflow"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise ImportError('another library')\n")
    return home


def hostile(home: Path, backend: str) -> dict[str, str]:
    return {
        "HOME": str(home),
        "MPLBACKEND": backend,
        "MATPLOTLIBRC": str(home / ".config/matplotlib"),
        "JUPYTER_PATH": str(home / "jupyter"),
        "PYTHONSTARTUP": str(home / "startup.py"),
        "PYTHONPATH": os.pathsep.join([str(LIBRARY), str(home / "other")]),
        "PYTHONWARNINGS": "error",
        "LC_ALL": "C",
    }


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["agg", "nonsense"])
def test_settings_and_kernels_of_the_machine_have_no_influence(plain, tmp_path, backend):
    root, home = tmp_path / "clone", hostile_home(tmp_path / "home")
    write_drawing_chapter(root)
    assert run(root, **hostile(home, backend)) == plain


@pytest.mark.slow
def test_nor_have_they_on_the_jobs_of_a_sweep(plain, tmp_path):
    if importlib.util.find_spec("snakemake") is None:
        pytest.skip("no Snakemake here, as on Python 3.14: no sweep was executed")
    root, home = tmp_path / "clone", hostile_home(tmp_path / "home")
    write_drawing_chapter(root)
    write_sweep(root, "chapter: drawing\ncases: [{}, {seeds: [1, 3]}]\n")
    variables = hostile(home, "qtagg") | {"PYTHONWARNINGS": "default"}
    command(root, variables, "sweep", "sweep.yml", "--cores", "1")
    (job,) = (root / "runs/sweep-sweep/jobs").glob("job-*")
    assert left(job) == plain
    assert "fresh process" not in (root / "runs/sweep-sweep/snakemake.log").read_text()


@pytest.mark.slow
def test_a_kernel_has_the_library_of_the_command_that_started_it(plain, tmp_path):
    """The command's own folder comes first on its path, and another library on PYTHONPATH."""
    root, home = tmp_path / "clone", hostile_home(tmp_path / "home")
    write_drawing_chapter(root)
    (root / "book/cotflow.py").write_text("raise ImportError('beside the chapter')\n")
    for name in ("cotflow", "cotbook"):
        (root / name).symlink_to(LIBRARY / name)
    assert run(root, HOME=str(tmp_path), PYTHONPATH=str(home / "other")) == plain


@pytest.mark.slow
@pytest.mark.parametrize("home", [{"HOME": "/dev/null"}, {"HOME": ""}, {}])
def test_no_home_is_needed(plain, tmp_path, home):
    write_drawing_chapter(tmp_path)
    assert run(tmp_path, **home) == plain


@pytest.mark.slow
def test_no_name_of_the_user_is_needed(plain, tmp_path):
    """As in a container under a number that no one has given a name, nor a home."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(UNKNOWN)
    write_drawing_chapter(tmp_path)
    found = run(tmp_path, PYTHONPATH=os.pathsep.join([str(LIBRARY), str(tmp_path / "site")]))
    assert found == plain


UNKNOWN = """\
import pwd

def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = unknown
"""


@pytest.mark.slow
def test_any_name_of_a_folder_will_do(plain, tmp_path):
    root = tmp_path / "wörk of 'mine' and \"yours\" $HOME {x} 100%"
    write_drawing_chapter(root)
    assert run(root, HOME=str(tmp_path)) == plain


def test_a_kernel_hears_nothing_of_settings_that_are_not_the_chapter_s(tmp_path):
    given = {
        "HOME": str(tmp_path),
        "KEPT": "as it is",
        "MPLBACKEND": "qtagg",
        "PYTHONSTARTUP": "x",
        "PYTHONWARNINGS": "error",
    }
    made = environment(given, tmp_path / "own")
    assert made["KEPT"] == "as it is" and made["MPLBACKEND"].startswith("module://")
    assert made["IPYTHONDIR"] == str(tmp_path / "own")
    assert not {"PYTHONSTARTUP", "PYTHONWARNINGS", "MPLCONFIGDIR"} & set(made)
    assert environment(given | {"HOME": "/dev/null"}, tmp_path)["MPLCONFIGDIR"] == str(tmp_path)


def test_a_chapter_begins_from_torch_s_own_defaults():
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    try:
        Chapter("any", {})
        one = torch.tensor(1.0, requires_grad=True)
        assert one.dtype == torch.float32 and one.device.type == "cpu"
        assert (2 * one).requires_grad
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_grad_enabled(True)


def test_pages_are_drawn_whatever_backend_and_settings_matplotlib_is_given(tmp_path):
    broken = tmp_path / "matplotlibrc"
    broken.write_bytes(b"\xff\xfe")
    done = subprocess.run(
        [sys.executable, "-c", "from cotbook.sphinx import preview; from cotbook.grid import plot"],
        env=os.environ | {"MPLBACKEND": "nonsense", "MATPLOTLIBRC": str(broken)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_versions_are_known_of_a_library_that_only_lies_on_the_path(monkeypatch):
    installed = provenance.versions()
    requires = metadata.requires

    def unknown(name: str) -> list[str] | None:
        if name == "cotflow":
            raise metadata.PackageNotFoundError(name)
        return requires(name)

    monkeypatch.setattr(metadata, "requires", unknown)
    provenance._versions.cache_clear()
    try:
        assert provenance.versions() == installed
    finally:
        provenance._versions.cache_clear()


def test_versions_are_read_again_when_something_was_installed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    asked, version = [], metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: asked.append(name) or version(name))
    provenance.versions()
    once = len(asked)
    provenance.versions()
    assert len(asked) == once > 10
    os.utime(tmp_path, ns=(1, 1))
    provenance.versions()
    assert len(asked) == 2 * once


@pytest.mark.parametrize(
    ("start", "end"), [("---", "\n"), ("\ufeff---", "\n"), ("--- ", "\n"), ("---", "\r\n")]
)
def test_the_build_finds_the_cells_however_an_editor_saved_the_text(tmp_path, start, end):
    """A byte order mark, a space after the dashes, other line ends: the cells that a run finds."""
    write_drawing_chapter(tmp_path)
    path = tmp_path / "book/drawing.md"
    expected = [cell.source for cell in chapter(tmp_path, "drawing").cells if cell.source[0] != "#"]
    text = start + path.read_text().removeprefix("---")
    path.write_bytes(text.replace("\n", end).encode())
    env = SimpleNamespace(
        doc2path=lambda name: path, myst_config=MdParserConfig(), mystnb_config=NbParserConfig()
    )
    assert page(env, "book/drawing").code == expected
    assert [c.source for c in chapter(tmp_path, "drawing").cells if c.source[0] != "#"] == expected


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "MKL_CBWR", "CC"])
def test_a_variable_that_changes_roundings_has_a_chapter_executed_anew(monkeypatch, name):
    def key() -> str:
        cell = nbformat.v4.new_code_cell("1")
        return Page("book/x", Path("x.md"), nbformat.v4.new_notebook(cells=[cell])).key

    monkeypatch.delenv(name, raising=False)
    without = key()
    monkeypatch.setenv(name, "3")
    assert key() != without
    monkeypatch.setenv("EDITOR", "ed")
    monkeypatch.delenv(name)
    assert key() == without


def test_nothing_in_the_library_depends_on_an_assertion():
    """``python -O`` leaves assertions out: each may only tell the type checker of a None."""
    for path in LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assert):
                assert ast.unparse(node.test).endswith(" is not None"), f"{path}:{node.lineno}"


def texts(path: Path):
    """Line and keywords of every call that reads or writes text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        given = {keyword.arg for keyword in node.keywords}
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        owner = getattr(getattr(node.func, "value", None), "id", "")
        modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        opened = name == "open" and owner not in ("os", "gzip", "tarfile")
        opened = opened and not any("b" in str(mode) for mode in modes)
        told = name in ("run", "Popen", "check_output") and given & {"text", "universal_newlines"}
        if opened or told or name in ("read_text", "write_text"):
            yield (
                node.lineno,
                given | {"encoding" for mode in modes if mode in ("utf-8", "utf-8-sig")},
            )


# A lock file without contents, and programs that print numbers.
WORDLESS = {"cotbook/grid/engine.py", "cotbook/bench/bench.py"}


def test_no_text_is_in_the_encoding_of_the_machine():
    for path in LIBRARY.rglob("*.py"):
        if path.relative_to(LIBRARY).as_posix() not in WORDLESS:
            for line, given in texts(path):
                assert "encoding" in given, f"{path}:{line} names no encoding"
