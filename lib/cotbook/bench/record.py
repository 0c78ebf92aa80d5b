"""The committed record of benchmarks, and what was aimed at."""

from __future__ import annotations

import json
from pathlib import Path

RECORD = Path(__file__).with_suffix(".json")
RECORD_GPU = RECORD.with_name("record-gpu.json")
PARTS = (
    *("steps", "gradient errors", "scaling", "batching", "batching on all cores"),
    *("memory", "long flow", "published"),
)
PARTS_GPU = ("tests", "exactness", "runs", "memory", "steps", "bandwidth", "whole run")


def load() -> dict:
    """The committed record."""
    return json.loads(RECORD.read_text(encoding="utf-8"))


def aims(record: dict) -> list[list[str]]:
    """Rows (aim, what was set, reached at the two published shapes) from a record."""
    steps = [row for row in record["steps"] if row["threads"] > 1] or record["steps"]
    rows = []
    for name, other, aim in (
        ("textbook loop over compiled step", "textbook loop", 5.0),
        ("jitted scan over compiled step", "jitted scan", 2.0),
    ):
        reached = [f"{row[other] / row['compiled']:.1f}" if other in row else "–" for row in steps]
        rows.append([name, f"≥ {aim:g}", *reached])
    floors = [f"{row['compiled'] / row['floor']:.2f}" for row in steps]
    rows.append(["compiled step over floor", "≤ 1.5", *floors])
    for name, key, aim in (
        ("a batch of 8 runs over one by one", "batching on all cores", "≤ 0.7"),
        ("the same with one thread", "batching", "≤ 1"),
    ):
        ratio = record[key]["together"] / record[key]["one by one"]
        rows.append([name, aim, f"{ratio:.2f}", "–"])
    return rows


def load_gpu() -> dict | None:
    """The committed record of a card, if there is one."""
    return json.loads(RECORD_GPU.read_text(encoding="utf-8")) if RECORD_GPU.exists() else None


WAYS = (
    *("triton", "triton, captured", "parallel", "plain torch", "textbook loop"),
    *("textbook loop, captured", "torch.compile", "jitted scan"),
)


def gpu_steps(record: dict) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: milliseconds a step, a column a shape."""
    head = [f"$L={row['L']}$, {row['dtype']}" for row in record["steps"]]
    rows = [
        [name, *(f"{1e3 * row[name]:.3g}" if row.get(name) else "–" for row in record["steps"])]
        for name in WAYS
    ]
    return ["milliseconds a step", *head], rows


def gpu_aims(record: dict) -> list[list[str]]:
    """Rows (aim, what was set, reached), as far as the record goes."""
    single = {row["L"]: row for row in record["steps"] if row["dtype"] == "float32"}
    rows = []
    for depth, name, aim in (
        (1024, "triton", 20),
        (16384, "parallel", 100),
        (65536, "parallel", 500),
    ):
        row = single.get(depth, {})
        if row.get("textbook loop") and row.get(name):
            what = f"textbook loop over {name}, $L={depth}$"
            rows.append([what, f"≥ {aim}", f"{row['textbook loop'] / row[name]:.0f}"])
    for name, curve in record.get("runs", {}).items():
        seconds = dict(map(tuple, curve))
        if 64 in seconds:
            rows.append([f"64 runs over one, {name}", "≤ 4", f"{seconds[64] / seconds[1]:.1f}"])
    bandwidth = record.get("bandwidth", {})
    for name, value in bandwidth.items():
        if name != "copy":
            what = f"depth in parallel, share of the bandwidth of a copy, {name}"
            rows.append([what, "≥ 50 %", f"{value / bandwidth['copy']:.0%}"])
    return rows
