"""Benchmarks of one training step: ratios measured in one run, written to a small text file."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch
from torchdiffeq import odeint, odeint_adjoint

from cotflow.adjoint import gradient
from cotflow.book import provenance
from cotflow.book.contenders import diffeq, floor, jitted_scan, ours, textbook
from cotflow.data import Experiment, published
from cotflow.depth import distance_to_reference
from cotflow.flows import gradient_flow
from cotflow.network import Weights

# The published shapes: figure, depth; n, m and d follow from the figure.
SHAPES = [("figure 2", 64), ("figure 1", 1024)]


def seconds(step: Callable[[], object], budget: float = 2.0) -> float:
    """Lower quartile of repeated timings, after two steps that do not count."""
    step()
    start = time.perf_counter()
    step()
    once = time.perf_counter() - start
    times = []
    for _ in range(max(5, min(200, int(budget / max(once, 1e-5))))):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.quantiles(times, n=4)[0]


def contenders(threads: int) -> list[dict]:
    """Seconds a step of every way to do it, at the published shapes in float32."""
    rows = []
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
        }
        found = {name: seconds(way) for name, way in ways.items() if way}
        n, m = e.x.shape[0], e.weights.width
        rows.append({"figure": figure, "L": depth, "n": n, "m": m, "threads": threads} | found)
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
        "n": [25, 50, 100, 200, 400, 800],
        "runs": [1, 2, 4, 8, 16],
    }
    curves = {}
    for name, sizes in grids.items():
        curves[name] = []
        for size in sizes:
            at = base | {name: size}
            g = torch.Generator().manual_seed(0)
            e = published("figure 1", 1, 0)
            W = torch.randn(at["runs"], at["L"], at["m"], 16, generator=g)
            x = torch.randn(at["runs"], at["n"], 16, generator=g)
            eye = torch.eye(16).expand(at["runs"], -1, -1)
            weights = Weights(eye, 0.1 * W.mT.contiguous(), W, eye)
            step = ours(Experiment(e.net, weights, x, x.flip(-1)), "compiled")
            curves[name].append([size, seconds(step, 1.0)])
    return curves


def batching(runs: int = 8) -> dict[str, float]:
    """Seconds of one step of several runs together and one by one, the shapes of figure 2."""
    together = published("figure 2", 64, list(range(runs)))
    alone = [published("figure 2", 64, seed) for seed in range(runs)]
    steps = [ours(e, "compiled") for e in alone]
    return {
        "runs": runs,
        "together": seconds(ours(together, "compiled")),
        "one by one": seconds(lambda: [step() for step in steps]),
    }


def peak_memory() -> list[list[float]]:
    """[depth, GiB] of a process that makes two compiled steps of figure 1, in float32."""
    code = (
        "import resource, sys, torch; torch.set_num_threads(1)\n"
        "from cotflow import published, gradient_flow\n"
        "e = published('figure 1', int(sys.argv[1]), 0)\n"
        "gradient_flow(e.net, e.weights, e.x, e.y, step=0.01, horizon=0.02)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)\n"
    )
    rows = []
    for depth in (64, 1024, 4096, 16384):
        done = subprocess.run(
            [sys.executable, "-c", code, str(depth)], capture_output=True, text=True, check=True
        )
        rows.append([depth, float(done.stdout)])
    return rows


def jax_version() -> dict[str, str]:
    try:
        return {"jax": metadata.version("jax")}
    except metadata.PackageNotFoundError:
        return {}


RECORD = Path(__file__).with_name("benchmarks.json")


def load() -> dict:
    """The committed record."""
    return json.loads(RECORD.read_text(encoding="utf-8"))


def record(output: Path, say: Callable[[str], None] = print) -> None:
    """Run every benchmark and write the record."""
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": provenance.machine(),
        "versions": provenance.versions() | jax_version(),
    }
    cores = os.cpu_count() or 1
    result["steps"] = []
    for threads in sorted({1, cores}):
        say(f"one step of every contender, {threads} thread(s)")
        torch.set_num_threads(threads)
        result["steps"] += contenders(threads)
    torch.set_num_threads(1)
    for name, measure in (
        ("gradient errors", gradient_errors),
        ("scaling", scaling),
        ("batching", batching),
        ("memory", peak_memory),
    ):
        say(name)
        result[name] = measure()
    torch.set_num_threads(cores)
    say(f"batching, {cores} thread(s)")
    result["batching on all cores"] = batching()
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
