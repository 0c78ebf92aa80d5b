"""Kernels that are forks of a process with the chapter's imports: they are what fresh ones are."""

import json
import os
import sys
from pathlib import Path

import pytest

from books import CLAIM, OPENING, PARAMETERS, cotflow, write_chapter, write_sweep
from cotbook.grid import engine
from cotbook.run import kernel
from cotbook.run.nursery import Lost, Nursery, beginning
from cotbook.run.tree import chapter, chapters

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["import torch\nimport numpy as np"], ["torch", "numpy"]),
        (["from cotflow import tied, flow"], ["cotflow: tied, flow"]),
        (["import torch.nn.functional as F"], ["torch.nn.functional"]),
        (["from __future__ import annotations\nimport math"], ["__future__: annotations", "math"]),
        (["x: int = 3\n'text'\nDevice = str\ndef f(a=2): return g(a)", "import math"], ["math"]),
        (["import math\nprint()\nimport torch"], ["math"]),
        (["import math\n%matplotlib inline", "import torch"], []),
        (["import math\nimport unknown\nimport torch"], ["math"]),
        (["import math, tqdm.auto"], []),
        (["from . import x\nimport math"], []),
        (["import os\nos.environ['A'] = 'b'\nimport torch"], ["os"]),
        (["import sys\nsys.path[0] = ''\nimport torch"], ["sys"]),
        (["x = print()\nimport math"], []),
        (["def f(a=print()): pass\nimport math"], []),
        (["@print\ndef f(): pass\nimport math"], []),
        (["x: print() = 3\nimport math"], []),
        (["class A: print()\nimport math"], []),
        (["if x: import math"], []),
        (["assert x\nimport math"], []),
        (["[y := 3]\nimport math"], []),
        (["\0"], []),
    ],
)
def test_only_imports_before_anything_is_done_are_loaded_beforehand(cells, found):
    shown = [": ".join(filter(None, (m, ", ".join(names)))) for m, names in beginning(cells)]
    assert shown == found


def test_what_takes_long_is_loaded_beforehand_for_every_chapter_of_the_book():
    for name, source in chapters(ROOT).items():
        code = [cell.source for cell in source.cells if cell.cell_type == "code"]
        assert "cotbook" in dict(beginning(code)), name


def answer(folder: Path, monkeypatch, module: str, code: str) -> str:
    (folder / f"{module}.py").write_text(code)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    command = [sys.executable, "-c", kernel.HATCH, str(kernel.LIBRARY)]
    nursery = Nursery(command, [(module, [])], kernel.environment(os.environ, folder))
    try:
        return nursery.answer()
    finally:
        nursery.close()
        assert nursery.process.returncode is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("x = 1", ""),
        ("print('hello')", "its imports say hello"),
        ("import os; os.write(2, b'hello')", "its imports say hello"),
        ("import warnings; warnings.warn('old')", "UserWarning: old"),
        ("import nowhere", "its imports say ModuleNotFoundError: No module named 'nowhere'"),
        ("import threading as t; t.Thread(target=t.Event().wait, daemon=True).start()", "threads"),
    ],
)
def test_imports_that_would_show_are_left_to_the_kernels(tmp_path, monkeypatch, code, reason):
    found = answer(tmp_path, monkeypatch, "imported", code)
    assert reason in found and bool(reason) == bool(found)


def test_a_nursery_that_ends_too_early_is_lost(tmp_path):
    nursery = Nursery([sys.executable, "-c", "import os; os._exit(3)"], [], os.environ)
    with pytest.raises(Lost):
        nursery.answer()
    assert nursery.lost
    nursery.close()


# All that a cell can look at and that a chapter could depend on.
STATE = """\
import gc, inspect, json, locale, logging, os, resource, signal, sys, warnings
import matplotlib.pyplot as plt
import numpy as np
import torch
"""
LOOK = """\
shell = get_ipython()
mine = ("IPYTHONDIR", "JPY_PARENT_PID", "SHLVL", "_")
def state():
    return {
        "argv": sys.argv[0], "path": sys.path, "flags": str(sys.flags),
        "here": sorted(name[:14] for name in os.listdir()),
        "filters": list(map(str, warnings.filters)), "gc": gc.get_threshold(),
        "rc": {name: str(value) for name, value in plt.rcParams.items()},
        "interactive": plt.isinteractive(), "umask": os.umask(0o22),
        "torch": [str(torch.get_default_dtype()), torch.get_num_threads(),
                  torch.get_num_interop_threads(), torch.__config__.parallel_info()],
        "signals": {str(n): str(signal.getsignal(n)).split(" at ")[0] for n in (2, 10, 15, 17)},
        "recursion": [sys.getrecursionlimit(), len(inspect.stack())],
        "numpy": [np.geterr(), str(np.get_printoptions())],
        "logging": [logging.root.level, sorted(
            (name, found.level) for name, found in logging.root.manager.loggerDict.items()
            if getattr(found, "level", 0))],
        "events": {name: [getattr(call, "__qualname__", "") for call in calls]
                   for name, calls in shell.events.callbacks.items()},
        "locale": locale.setlocale(locale.LC_ALL), "main": sorted(globals()),
        "environment": {k: v for k, v in os.environ.items() if k not in mine},
        "own": [os.environ["JPY_PARENT_PID"] != "", os.path.isdir(os.environ["IPYTHONDIR"])],
        "leader": os.getpid() == os.getsid(0), "core": resource.getrlimit(resource.RLIMIT_CORE),
        "cores": sorted(os.sched_getaffinity(0)), "hooks": str(sys.displayhook).split(" at ")[0],
        "streams": [type(stream).__name__ for stream in (sys.stdin, sys.stdout, sys.stderr)],
    }
print(json.dumps(state(), sort_keys=True, indent=0))
"""
COMPUTE = """\
g = torch.Generator().manual_seed(seed)
m = torch.randn(40, 40, generator=g, dtype=torch.float64)
print(m.sum().item().hex(), torch.linalg.svdvals(m.float()).sum().item().hex())
np.linalg.svd(m.numpy())[1]
"""
DRAW = """\
fig, axes = plt.subplots(1, 2)
axes[0].plot(depths, label="$x^2$")
axes[0].legend()
plt.show()
"""


def write_looking_chapter(root: Path) -> None:
    write_chapter(
        root,
        "looking",
        ("remove-cell", STATE + OPENING),
        ("parameters, hide-input", PARAMETERS),
        ("hide-input", LOOK),
        ("remove-cell", 'chapter = Chapter("looking", globals())'),
        ("hide-input", "print(json.dumps(state(), sort_keys=True, indent=0))"),
        ("hide-input", COMPUTE),
        ("hide-input", DRAW),
        ("remove-input", CLAIM),
        ("remove-input", "chapter.close()"),
    )


MOMENTS = {
    *("executed", "started", "seconds", "start_time", "end_time", "duration"),
    *("iopub.execute_input", "iopub.status.busy", "iopub.status.idle"),
    *("shell.execute_reply", "shell.execute_reply.started"),
    "claims_sha256",  # of a file that tells them
}


def settled(content):
    """Without moments, durations and what depends on them."""
    if isinstance(content, dict):
        return {name: settled(value) for name, value in content.items() if name not in MOMENTS}
    return [settled(each) for each in content] if isinstance(content, list) else content


@pytest.mark.slow
def test_a_job_of_a_sweep_leaves_what_a_run_leaves(tmp_path):
    """Bit for bit but for the moment: notebook, pictures, claims, record, parameters."""
    if engine.find_spec("snakemake") is None:
        pytest.skip("no Snakemake here, as on Python 3.14: no sweep was executed")
    write_looking_chapter(tmp_path)
    write_sweep(tmp_path, "chapter: looking\nseeds: [3, 4]\n")
    done = cotflow(tmp_path, "sweep", "sweep.yml", "--cores", "1", "--", "--quiet")
    assert done.returncode == 0, done.stderr
    (alone,) = (tmp_path / "runs/sweep-sweep/jobs").glob("seed=4-*")
    assert "fresh process" not in (tmp_path / "runs/sweep-sweep/snakemake.log").read_text()
    done = cotflow(tmp_path, "run", "looking", "-p", "seed", "4", "-o", "run")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in alone.iterdir()} == {p.name for p in (tmp_path / "run").iterdir()}
    for path in sorted(alone.iterdir()):
        ours, theirs = path.read_text(), (tmp_path / "run" / path.name).read_text()
        if path.suffix in (".json", ".ipynb"):
            ours, theirs = settled(json.loads(ours)), settled(json.loads(theirs))
        if path.suffix == ".ipynb":
            for mine, cell in zip(ours["cells"], theirs["cells"], strict=True):
                if "injected-parameters" in cell["metadata"]["tags"]:
                    mine["id"] = cell["id"]  # which papermill draws
                assert mine == cell
            assert "image/png" in str(ours)
        assert ours == theirs
    assert chapter(tmp_path, "looking").title in (alone / "looking.ipynb").read_text()


ENDING = """\
import atexit, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
place = Path({place!r})
kept = open(place / "kept", "w")
circle = [open(place / "circle", "w")]
circle.append(circle)
kept.write("flushed"), circle[0].write("flushed")
_ = atexit.register((place / "exit").write_text, "said")
ThreadPoolExecutor(2).submit(int)
def last():
    time.sleep(0.3)
    (place / "thread").write_text("ended")
threading.Thread(target=last).start()
"""


@pytest.mark.slow
def test_a_forked_kernel_ends_as_a_fresh_one_does(tmp_path):
    """Files are flushed, exit functions called, threads awaited."""
    if engine.find_spec("snakemake") is None:
        pytest.skip("no Snakemake here, as on Python 3.14: no sweep was executed")
    place = tmp_path / "place"
    code = ENDING.format(place=str(place))
    write_chapter(tmp_path, "ending", ("parameters", "seed: int = 0  # s"), ("", code))
    write_sweep(tmp_path, "chapter: ending\nseeds: [0]\n")
    left = []
    for command in (["sweep", "sweep.yml"], ["run", "ending", "-o", "run"]):
        place.mkdir()
        done = cotflow(tmp_path, *command)
        assert done.returncode == 0, done.stderr
        left.append({path.name: path.read_text() for path in place.iterdir()})
        place.rename(tmp_path / f"left-{len(left)}")
    said = {"kept": "flushed", "circle": "flushed", "exit": "said", "thread": "ended"}
    assert left == [said, said]
