"""Benchmarks of a step on a CUDA card: absolute times, which is why its name is in the record."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch

from cotbook import provenance
from cotbook.bench.contenders import captured, ours, textbook
from cotbook.bench.record import PARTS_GPU
from cotbook.run import tree
from cotflow.adjoint.gradient import gradient
from cotflow.adjoint.parallel import Parallel
from cotflow.flows.flow import gradient_flow
from cotflow.network.activations import ACTIVATIONS
from cotflow.network.published import Experiment, gaussian_data, published
from cotflow.network.residual import marion_net
from cotflow.network.weights import Weights

BUDGET = 450.0
SINGLE, DOUBLE = torch.float32, torch.float64
SHAPES = [("figure 2", 64), ("figure 1", 1024), ("figure 1", 16384), ("figure 1", 65536)]
DEVICE = "cuda"


class Clock:
    """What is left of the time, and what was left out for want of it."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.left_out: list[str] = []

    def allows(self, what: str, seconds: float) -> bool:
        if time.monotonic() + seconds < self._end:
            return True
        self.left_out.append(what)
        return False


def seconds(step: Callable[[], object], most: float = 1.5) -> float:
    """Median time of a step, the device waited for; one step beforehand does not count."""
    step()
    torch.cuda.synchronize()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - start < most and len(times) < 200):
        begun = time.perf_counter()
        step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
        if times[0] > most:
            break
    return sorted(times)[len(times) // 2]


def smooth(
    figure: str, depth: int, seed: int | list[int] = 0, dtype: torch.dtype = SINGLE
) -> Experiment:
    """A published net some way into its training: the V of a short flow at depth 64, taken as a
    function of s, so that nets of all depths are close to one ODE."""
    short = published(figure, 64, seed, device=DEVICE)
    trained = gradient_flow(short.net, short.weights, short.x, short.y, step=1e-2, horizon=1.0)
    e = published(figure, depth, seed, dtype=dtype, device=DEVICE)
    top = short.weights.depth - 1
    at = torch.linspace(0, top, depth, device=DEVICE)
    low = at.floor().long().clamp_max(top - 1)
    part = (at - low)[:, None, None]

    def spread(value: torch.Tensor) -> torch.Tensor:
        return torch.lerp(value[..., low, :, :], value[..., low + 1, :, :], part).to(dtype)

    weights = trained.weights
    return replace(e, weights=replace(e.weights, V=spread(weights.V), W=spread(weights.W)))


def build(case: tuple[str, str]) -> None:
    """Have Triton build the kernels of a published shape, into its cache on disk."""
    figure, dtype = case
    e = published(figure, 8, 0, dtype=getattr(torch, dtype), device=DEVICE)
    for runs in (1, 64):
        many = published(figure, 8, list(range(runs)), dtype=e.x.dtype, device=DEVICE)
        for backend in ("triton", Parallel()):
            gradient(many.net, many.weights, many.x, many.y, backend=backend)
    gradient(e.net, e.weights, e.x, e.y, backend="triton", segment=4)


def random_weights(generator: torch.Generator, bias: bool) -> Weights:
    """Two runs, ten layers, sizes that are no powers of two."""

    def draw(*shape: int) -> torch.Tensor:
        return 0.5 * torch.randn(2, *shape, generator=generator, dtype=DOUBLE)

    b = draw(10, 40) if bias else None
    return Weights(A=draw(12, 5), V=draw(10, 12, 40), W=draw(10, 40, 12), B=draw(3, 12), b=b)


def tests() -> dict[str, int]:
    """How many tests of the library passed on the card.

    Raises
    ------
    BadInput : one did not.
    """
    command = [
        *(sys.executable, "-m", "pytest", "-q", "--numprocesses", "8", "-m", "not slow"),
        *("-k", "cuda or triton or parallel", str(tree.book_root() / "tests/cotflow")),
    ]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    passed = re.search(r"(\d+) passed", done.stdout)
    if done.returncode or not passed:
        raise tree.BadInput(
            f"bench --gpu: expected the tests to pass on the card, received\n"
            f"{(done.stdout + done.stderr)[-2000:]}"
        )
    return {"passed": int(passed[1])}


CASES = [
    *product(("gelu", "tanh", "relu", "identity"), (SINGLE, DOUBLE), (True,), (None,)),
    *product(("gelu",), (SINGLE, DOUBLE), (False,), (3,)),
]


def relative_error(case: tuple[str, torch.dtype, bool, int | None]) -> dict[str, float]:
    """Of ∂ℛ, in norm, against the plain loop in double precision on the CPU."""
    name, dtype, bias, segment = case
    generator = torch.Generator().manual_seed(0)
    weights = random_weights(generator, bias)
    x, y = gaussian_data(33, 5, 3, generator)
    net = marion_net(ACTIVATIONS[name], trained=("A", "V", "W", "b", "B"))
    exact = gradient(net, weights, x, y, backend="plain").velocity
    moved = weights.to(dtype=dtype, device=DEVICE), *(v.to(DEVICE, dtype) for v in (x, y))
    size = sum(float(value.square().sum()) for value in exact.values())
    found = {}
    for engine, backend in (("triton", "triton"), ("parallel", Parallel())):
        velocity = gradient(net, *moved, backend=backend, segment=segment).velocity
        wrong = sum(
            float((velocity[k].double().cpu() - v).square().sum()) for k, v in exact.items()
        )
        found[f"{engine}, {str(dtype).removeprefix('torch.')}"] = (wrong / size) ** 0.5
    return found


def exactness(pool: Executor) -> dict[str, float]:
    """The largest over all activations, with bias and without, odd sizes, two runs, and
    checkpointing."""
    worst: dict[str, float] = {}
    for found in pool.map(relative_error, CASES):
        worst |= {key: max(worst.get(key, 0.0), value) for key, value in found.items()}
    return worst


SCAN = r"""
import json, statistics, sys, time
import jax
from cotbook.bench.contenders import jitted_scan
from cotflow.network.published import published
jax.config.update("jax_default_matmul_precision", "highest")
step = jitted_scan(published(sys.argv[1], int(sys.argv[2]), 0))
step(), step()
times = []
while len(times) < 3 or (sum(times) < 1 and len(times) < 100):
    start = time.perf_counter()
    step()
    times.append(time.perf_counter() - start)
print(json.dumps(statistics.median(times)))
"""
COMPILED = r"""
import json, sys
from cotbook.bench.contenders import compiled_loop
from cotbook.bench.gpu import seconds
from cotflow.network.published import published
e = published(sys.argv[1], int(sys.argv[2]), 0, device="cuda")
print(json.dumps(seconds(compiled_loop(e))))
"""


def elsewhere(code: str, *arguments: object, limit: float) -> float | None:
    """A time that another process measures, so that its memory and its settings are its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", timeout=limit, env=environment
        )
        return json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, json.JSONDecodeError, IndexError):
        return None


def ways(e: Experiment) -> dict[str, Callable[[], Callable[[], object]]]:
    """Each way to make a step of this net that is worth its time, once it is called for."""
    depth, single = e.weights.depth, e.x.dtype == SINGLE
    found: dict[str, Callable[[], Callable[[], object]]] = {
        "triton": lambda: ours(e, "triton"),
        "parallel": lambda: ours(e, Parallel()),
    }
    if depth <= 1024:
        found["triton, captured"] = lambda: captured(ours(e, "triton"))
        found["plain torch"] = lambda: ours(e, "plain")
    if single and depth <= 1024:
        found["textbook loop, captured"] = lambda: captured(textbook(e))
    if single or depth <= 1024:
        found["textbook loop"] = lambda: textbook(e)
    return found


def steps(clock: Clock) -> list[dict]:
    """Seconds a step of every way that the time allows, at the published shapes and beyond."""
    rows = []
    for (figure, depth), dtype in product(SHAPES, (SINGLE, DOUBLE)):
        if dtype == DOUBLE and depth > 16384:
            continue
        e = smooth(figure, depth, dtype=dtype)
        label = str(dtype).removeprefix("torch.")
        row = {
            "figure": figure,
            "L": depth,
            "n": e.x.shape[0],
            "m": e.weights.width,
            "dtype": label,
        }
        for name, way in ways(e).items():
            # A loop of launches takes so long for a layer, and two steps are the fewest.
            cost = depth * 1e-3 if "triton" not in name and name != "parallel" else 3.0
            if clock.allows(f"{name}, L={depth}, {label}", cost):
                row[name] = seconds(way())
                torch.cuda.empty_cache()
        found = gradient(e.net, e.weights, e.x, e.y, backend=Parallel()).depth
        row["depth"] = found and vars(found)
        if dtype == SINGLE and depth <= 16384 and clock.allows(f"jitted scan, L={depth}", 25):
            row["jitted scan"] = elsewhere(SCAN, figure, depth, limit=60)
        rows.append(row)
    if clock.allows("torch.compile, L=64", 100):
        rows[0]["torch.compile"] = elsewhere(COMPILED, "figure 2", 64, limit=100)
    return rows


def batches() -> dict[str, list[list[float]]]:
    """[runs, seconds a step of all of them], by Triton, float32."""
    found = {}
    for figure, depth in (("figure 2", 64), ("figure 1", 1024)):
        curve = []
        for runs in (1, 8, 64, 512):
            if runs * depth <= 64 * 1024:
                e = published(figure, depth, list(range(runs)), device=DEVICE)
                curve.append([runs, seconds(ours(e, "triton"))])
        found[f"L={depth}"] = curve
    return found


def memory(depth: int = 16384) -> dict[str, float]:
    """GiB at the peak of a step beyond weights and data, figure 1 in float32."""
    e = smooth("figure 1", depth)
    ways: dict[str, Callable[[], object]] = {
        "textbook loop": textbook(e),
        "triton": ours(e, "triton"),
        "triton, every 128th state": ours(e, "triton", segment=128),
        "parallel": ours(e, Parallel()),
    }
    found = {}
    for name, step in ways.items():
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        found[name] = (torch.cuda.max_memory_allocated() - before) / 2**30
    return found


def bandwidth(rows: list[dict]) -> dict[str, float]:
    """Bytes a second of a large copy, and of depth in parallel: the weights that each sweep over
    all segments reads, the states and adjoints, then the gradients and the new weights."""
    source = torch.empty(2**28, device=DEVICE).normal_()
    target = torch.empty_like(source)
    found = {"copy": 2 * source.nbytes / seconds(lambda: target.copy_(source), most=0.2)}
    for row in rows:
        if row["L"] >= 16384 and row["dtype"] == "float32" and row.get("parallel") and row["depth"]:
            layer, state = 2 * row["m"] * 16 * 4, row["n"] * 16 * 4
            sweeps = row["depth"]["forward"] * (layer + state)
            sweeps += row["depth"]["backward"] * (layer + 2 * state)
            moved = row["L"] * (sweeps + 2 * layer + 2 * state + 3 * layer)
            found[f"L={row['L']}"] = moved / row["parallel"]
    return found


def whole_run(iterations: int = 80_000) -> dict[str, float]:
    """The paper's Fig. 2 at full length: seconds, and the loss at its end."""
    e = published("figure 2", 64, 0, device=DEVICE)
    start = time.perf_counter()
    record = gradient_flow(
        e.net, e.weights, e.x, e.y, step=5e-3, horizon=iterations * 5e-3, every=iterations
    )
    torch.cuda.synchronize()
    return {
        "iterations": iterations,
        "seconds": time.perf_counter() - start,
        "loss": float(record.observed["loss"][-1]),
    }


def missing() -> str:
    """What a card's record cannot be made without; nothing where all is there."""
    if not torch.cuda.is_available():
        return (
            "bench --gpu: expected a CUDA device and a torch that was built for it; there is none"
        )
    if importlib.util.find_spec("triton") is None:
        return "bench --gpu: expected Triton, which comes along with torch for CUDA; it is missing"
    return ""


def parts(clock: Clock, found: dict, pool: Executor) -> dict[str, Callable[[], object]]:
    """The parts of a record, in order."""
    measures = (
        tests,
        lambda: exactness(pool),
        batches,
        memory,
        lambda: steps(clock),
        lambda: bandwidth(found["steps"]),
        whole_run,
    )
    return dict(zip(PARTS_GPU, measures, strict=True))


def record(output: Path, only: Sequence[str] = (), say: Callable[[str], None] = print) -> None:
    """Run the benchmarks on the first CUDA device, and write the record after each part; with
    ``only``, the other parts stay as they are."""
    from triton import __version__ as triton_version

    clock = Clock(BUDGET)
    result = json.loads(output.read_text("utf-8")) if only and output.exists() else {}
    result |= {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(),
        "machine": provenance.machine(),
        "versions": {
            "torch": torch.__version__,
            "triton": triton_version,
            "cuda": torch.version.cuda,
        },
    }
    shapes = list(product(("figure 1", "figure 2"), ("float32", "float64")))
    workers = min(len(shapes) + len(CASES), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        say("kernels")
        list(pool.map(build, shapes))
        for name, measure in parts(clock, result, pool).items():
            if only and name not in only:
                continue
            say(name)
            result[name] = measure()
            result["left out"] = clock.left_out
            output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
