"""Benchmarks of one training step: ratios measured in one run, written to a small text file."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch
from torchdiffeq import odeint, odeint_adjoint

from cotbook import provenance
from cotbook.bench import machine
from cotbook.bench.contenders import compiled_loop, diffeq, floor, jitted_scan, ours, textbook
from cotbook.bench.record import PARTS, load
from cotflow.adjoint.gradient import gradient
from cotflow.flows.chebyshev import RKC2
from cotflow.flows.flow import gradient_flow
from cotflow.flows.method import Method
from cotflow.flows.record import FlowRecord
from cotflow.flows.runge_kutta import EULER, RK4
from cotflow.limits.depth import distance_to_reference
from cotflow.network.published import Experiment, published
from cotflow.network.weights import Weights

# The published shapes: figure, depth; n, m and d follow from the figure.
SHAPES = [("figure 2", 64), ("figure 1", 1024)]


def seconds(ways: Mapping[str, Callable[[], object]], rounds: int = 12) -> dict[str, float]:
    """Lower quartile of each way's timings. The ways take turns, so that a disturbance of the
    machine meets all of them; two steps of each do not count."""
    shares, times = {}, {name: [] for name in ways}
    for name, step in ways.items():
        step()
        start = time.perf_counter()
        step()
        shares[name] = max(1, min(50, int(0.1 / max(time.perf_counter() - start, 1e-5))))
    for _ in range(rounds):
        for name, step in ways.items():
            for _ in range(shares[name]):
                start = time.perf_counter()
                step()
                times[name].append(time.perf_counter() - start)
    return {name: statistics.quantiles(found, n=4)[0] for name, found in times.items()}


def contenders(threads: int) -> list[dict]:
    """Seconds a step of every way to do it, at the published shapes in float32; with the operations
    and bytes of a step, and how many of them the machine does in a second."""
    rows = []
    limits = {"peak": machine.peak(threads), "bandwidth": machine.bandwidth(threads)}
    for figure, depth in SHAPES:
        e = published(figure, depth, 0)
        ways = {
            "floor": floor(e),
            "compiled": ours(e, "compiled"),
            "plain torch": ours(e, "plain"),
            "textbook loop": textbook(e),
            "torchdiffeq, backprop": diffeq(e, odeint),
            "torchdiffeq, adjoint": diffeq(e, odeint_adjoint),
            "jitted scan": jitted_scan(e),
            "torch.compile": compiled_loop(e),
        }
        ways |= {name: work.run for name, work in limits.items()}
        found = seconds({name: way for name, way in ways.items() if way})
        found |= {name: work.amount / found[name] for name, work in limits.items()}
        row = {"figure": figure, "L": depth, "n": e.x.shape[0], "m": e.weights.width}
        row |= {"operations": machine.operations(e), "bytes": machine.traffic(e)}
        rows.append(row | {"threads": threads} | found)
    return rows


def gradient_errors() -> dict[str, float]:
    """Relative error in L² of torchdiffeq's weight gradients, by backprop and by its adjoint,
    against the discrete net's own; float64, after some training, so that V is not zero."""
    e = published("figure 2", 64, 0, dtype=torch.float64)
    weights = gradient_flow(e.net, e.weights, e.x, e.y, step=1e-2, horizon=2.0).weights
    e = Experiment(e.net, weights, e.x, e.y)
    exact = gradient(e.net, e.weights, e.x, e.y, backend="plain").velocity["V"] / -weights.depth
    errors = {}
    for name, solve in (("backprop", odeint), ("adjoint", odeint_adjoint)):
        found, _ = diffeq(e, solve)()
        errors[name] = float(distance_to_reference(found, exact).l2 / exact.norm() * 64**0.5)
    return errors


def scaling() -> dict[str, list[list[float]]]:
    """[size, seconds a compiled step] as one of L, m, n and the number of runs grows, float32."""
    base = {"L": 256, "n": 100, "m": 32, "runs": 1}
    grids = {
        "L": [64, 256, 1024, 4096],
        "m": [16, 32, 64, 128, 256],
        "n": [50, 100, 200, 400, 800, 1600],
        "runs": [1, 2, 4, 8, 16],
    }
    curves = {}
    for name, sizes in grids.items():
        steps = {}
        for size in sizes:
            at = base | {name: size}
            g = torch.Generator().manual_seed(0)
            e = published("figure 1", 1, 0)
            W = torch.randn(at["runs"], at["L"], at["m"], 16, generator=g)
            x = torch.randn(at["runs"], at["n"], 16, generator=g)
            eye = torch.eye(16).expand(at["runs"], -1, -1)
            weights = Weights(eye, 0.1 * W.mT.contiguous(), W, eye)
            step = ours(Experiment(e.net, weights, x, x.flip(-1)), "compiled")
            steps[size] = step
        curves[name] = [list(point) for point in seconds(steps).items()]
    return curves


def batching(runs: int = 8) -> dict[str, float]:
    """Seconds of one step of several runs together and one by one, the shapes of figure 2."""
    together = published("figure 2", 64, list(range(runs)))
    alone = [published("figure 2", 64, seed) for seed in range(runs)]
    steps = [ours(e, "compiled") for e in alone]
    ways = {
        "together": ours(together, "compiled"),
        "one by one": lambda: [step() for step in steps],
    }
    return {"runs": runs} | seconds(ways, rounds=40)


CHILD = r"""
import json, re, sys, time
from pathlib import Path
import torch
from cotflow.adjoint.gradient import gradient
from cotflow.flows.flow import gradient_flow
from cotflow.network.published import published
torch.set_num_threads(1)
depth, segment = int(sys.argv[1]), int(sys.argv[2]) or None
e = published("figure 1", depth, 0)
options = {"step": 0.01, "segment": segment}
gradient_flow(e.net, e.weights, e.x, e.y, horizon=0.02, **options)
times = []
for _ in range(5):
    start = time.perf_counter()
    gradient(e.net, e.weights, e.x, e.y, segment=segment)
    times.append(time.perf_counter() - start)
# Not ru_maxrss, which starts at the size of the process that started this one.
status = Path("/proc/self/status")
peak = int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 2**20 if status.exists() else None
print(json.dumps([depth, segment or depth, peak, min(times)]))
"""


def memory() -> list[list[float]]:
    """[depth, layers between two kept states, GiB at the peak of a process that trains figure 1
    for two steps in float32 (None where /proc is missing), seconds a gradient]; the first of a
    depth is without checkpointing, and depth 1 is the process itself."""
    rows = []
    for depth in (1, 64, 1024, 4096, 16384):
        segments = [0] if depth < 4096 else [0, depth // 16, math.isqrt(depth), 8]
        for segment in segments:
            command = [sys.executable, "-c", CHILD, str(depth), str(segment)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout))
    return rows


def published_runs() -> dict[str, dict[str, float]]:
    """Seconds of the papers' two figures at their full iteration counts in float32, and of the
    textbook loop for as many steps, from the time of a few."""

    def run(experiment: Experiment, iterations: int, step: float) -> None:
        gradient_flow(
            experiment.net, experiment.weights, experiment.x, experiment.y,
            step=step, horizon=iterations * step, every=iterations,
        )  # fmt: skip

    # Fig. 1: its left and its right half, with the reference depth.
    depths = [2, 16, 64, 256, 1014, *(2**k for k in range(1, 11)), 2**14]
    start = time.perf_counter()
    for depth in depths:
        run(published("figure 1", depth, 0), 500, 0.01)
    first = time.perf_counter() - start
    # The loop is linear in depth from here on; the deepest nets need more memory than time.
    loop = seconds({"loop": textbook(published("figure 1", 1024, 0))})["loop"] / 1024
    start = time.perf_counter()
    second = published("figure 2", 64, 0)
    run(second, 80_000, 5e-3)
    found = {
        "figure 1": {"seconds": first, "textbook loop": 500 * loop * sum(depths)},
        "figure 2": {
            "seconds": time.perf_counter() - start,
            "textbook loop": 80_000 * seconds({"loop": textbook(second)})["loop"],
        },
    }
    return found


def long_flow(horizon: float = 400.0, tolerance: float = 1e-6) -> dict[str, float]:
    """Gradients of plain descent and of the stabilised flow to the flow time of figure 2's 80,000
    iterations, and the largest relative error of each loss curve against RK4; float64."""
    e = published("figure 2", 64, 0, dtype=torch.float64)
    times = [horizon * k / 40 for k in range(1, 41)]

    def run(method: Method, **how: float) -> FlowRecord:
        return gradient_flow(
            e.net, e.weights, e.x, e.y, method=method, horizon=horizon, times=times, **how
        )

    exact = run(RK4, step=0.0125).observed["loss"]
    found: dict[str, float] = {"horizon": horizon, "tolerance": tolerance}
    for name, record in (
        ("descent", run(EULER, step=5e-3)),
        ("stabilised", run(RKC2, tolerance=tolerance)),
    ):
        found[f"{name}, gradients"] = record.gradient_evaluations
        found[f"{name}, error"] = float((record.observed["loss"] / exact - 1).abs().max())
    return found


def jax_version() -> dict[str, str]:
    try:
        return {"jax": metadata.version("jax")}
    except metadata.PackageNotFoundError:
        return {}


def on(threads: int, measure: Callable[[], object]) -> object:
    torch.set_num_threads(threads)
    return measure()


def parts() -> dict[str, Callable[[], object]]:
    """The parts of a record; the ratios of each are measured in one go."""
    cores = os.cpu_count() or 1
    ways = (
        lambda: [row for t in sorted({1, cores}) for row in on(t, lambda t=t: contenders(t))],
        lambda: on(1, gradient_errors),
        lambda: on(1, scaling),
        lambda: on(1, batching),
        lambda: on(cores, batching),
        memory,
        lambda: on(1, long_flow),
        lambda: on(cores, published_runs),
    )
    return dict(zip(PARTS, ways, strict=True))


def record(output: Path, only: Sequence[str] = (), say: Callable[[str], None] = print) -> None:
    """Run the benchmarks and write the record; with ``only``, the other parts stay as they are."""
    result = load() if only else {}
    result |= {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": provenance.machine(),
        "versions": provenance.versions() | jax_version(),
    }
    for name, measure in parts().items():
        if not only or name in only:
            say(name)
            result[name] = measure()
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
