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


def shares(row: dict) -> tuple[float, float] | None:
    """What a step's operations would take at the machine's peak, and its bytes at the bandwidth,
    over the time of ours."""
    if "peak" not in row:
        return None
    operations, read = row["operations"] / row["peak"], row["bytes"] / row["bandwidth"]
    return operations / row["compiled"], read / row["compiled"]


def roofline(row: dict) -> float | None:
    """The least time of a step, max(operations / peak, bytes / bandwidth), over that of ours."""
    found = shares(row)
    return max(found) if found else None


def aims(record: dict) -> list[list[str]]:
    """Rows (aim, what was set, reached at the two published shapes) from a record; what missed
    its aim says so."""
    steps = [row for row in record["steps"] if row["threads"] > 1] or record["steps"]

    def over(name: str) -> list[float | None]:
        return [row[name] / row["compiled"] if name in row else None for row in steps]

    def batch(key: str) -> list[float | None]:
        return [record[key]["together"] / record[key]["one by one"], None]

    # The aim of each shape, at least or at most, and how many digits tell.
    rows: list[tuple[str, str, list[float], list[float | None], str]] = [
        ("textbook loop over compiled step", "≥", [10, 20], over("textbook loop"), ".1f"),
        ("jitted scan over compiled step", "≥", [4, 4], over("jitted scan"), ".1f"),
        ("torch.compile over compiled step", "≥", [4, 4], over("torch.compile"), ".1f"),
        ("roofline over compiled step", "≥", [0.45, 0.45], [*map(roofline, steps)], ".0%"),
        (
            "a batch of 8 runs over one by one, all cores",
            "≤",
            [0.7],
            batch("batching on all cores"),
            ".2f",
        ),
        ("the same on one thread", "≤", [1], batch("batching"), ".2f"),
    ]
    return [
        [
            name,
            f"{sign} {', '.join(f'{aim:g}' for aim in dict.fromkeys(aims))}",
            *(_reached(sign, aims[min(k, len(aims) - 1)], r, form) for k, r in enumerate(reached)),
        ]
        for name, sign, aims, reached, form in rows
    ]


def _reached(sign: str, aim: float, value: float | None, form: str) -> str:
    if value is None:
        return "–"
    missed = value < aim if sign == "≥" else value > aim
    return f"{value:{form}}" + (", missed" if missed else "")


def load_gpu() -> dict | None:
    """The committed record of a card, if there is one."""
    return json.loads(RECORD_GPU.read_text(encoding="utf-8")) if RECORD_GPU.exists() else None


WAYS = (
    *("triton", "triton, captured", "parallel", "plain torch", "textbook loop"),
    *("textbook loop, captured", "torch.compile", "jitted scan"),
)


# The depth of the net whose memory a card's record tells.
MEMORY_DEPTH = 16384
# Records up to this day were made before the rule for giving up depth in parallel was mended.
MENDED = "2026-11-28"


def sequential(row: dict) -> bool:
    """Whether depth in parallel was given up and the sweep went through the layers in order."""
    depth = row.get("depth")
    return bool(depth) and depth["forward"] == 0


def gpu_sentence(record: dict) -> str:
    """What was measured on which card, as far as the record goes."""
    said = []
    if exact := record.get("exactness"):
        double, single = (
            _power(max(v for name, v in exact.items() if name.endswith(dtype)))
            for dtype in ("float64", "float32")
        )
        said.append(
            "on small nets with each activation, the gradients of both engines, layers in order "
            "and depth in parallel, differ from that of the plain loop in float64 by a relative "
            f"{double} at most in float64 and {single} in float32"
        )
    if memory := record.get("memory"):
        few, nth = next((v, name.split()[-2]) for name, v in memory.items() if "every" in name)
        said.append(
            f"a step at depth {MEMORY_DEPTH:,} takes {memory['triton']:.3g} GiB beyond weights and "
            f"data, and {few:.3g} GiB if only every {nth} state is kept"
        )
    if run := record.get("whole run"):
        said.append(
            f"the {run['iterations']:,} iterations of Fig. 2 took {run['seconds']:.0f} seconds, "
            f"down to a loss of {_power(run['loss'])}"
        )
    for name, curve in record.get("runs", {}).items():
        seconds = dict(map(tuple, curve))
        if 64 in seconds:
            share = f"{seconds[64] / seconds[1]:.2f}"
            said.append(f"64 runs at {name.replace('=', ' = ')} cost {share} times as much as one")
            break
    made = f"Recorded {record['date']} on {record['device']}, torch {record['versions']['torch']}"
    return f"{made}: {'; '.join(said)}." if said else f"{made}."


def _power(value: float) -> str:
    """One digit and a power of ten, as a person writes it."""
    digit, exponent = f"{value:.0e}".split("e")
    return f"{digit}·10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def gpu_gave_up(record: dict) -> str:
    """Why rows of the table say that they are sequential; nothing where none does."""
    depths = sorted({row["L"] for row in record["steps"] if sequential(row)})
    if not depths:
        return ""
    names = " and ".join(f"L = {depth:,}" for depth in depths)
    where = f"For {names} depth in parallel was given up"
    if record["date"] > MENDED:
        return f"{where}, and the sweep went through the layers in order."
    return (
        f"{where}, and the sweep went through the layers in order: the rule for giving up was too "
        "impatient where gaps of a few roundings stay while their sum still falls; it has been "
        "mended since (on a CPU the same net now takes 4 and 5 sweeps), and the card has not been "
        "measured anew."
    )


def gpu_steps(record: dict) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: milliseconds a step, a column a shape."""
    head = [f"$L={row['L']}$, {row['dtype']}" for row in record["steps"]]
    rows = [[name, *(_milliseconds(row, name) for row in record["steps"])] for name in WAYS]
    return ["milliseconds a step", *head], rows


def _milliseconds(row: dict, name: str) -> str:
    if not row.get(name):
        return "–"
    # Three digits, without a power of ten.
    said = f"{float(f'{1e3 * row[name]:.3g}'):g}"
    return said + " (sequential)" * (name == "parallel" and sequential(row))


def gpu_aims(record: dict) -> list[list[str]]:
    """Rows (aim, what was set, reached), as far as the record goes; what missed its aim says so."""
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
            reached = _reached("≥", aim, row["textbook loop"] / row[name], ".0f")
            reached += " (sequential)" * (name == "parallel" and sequential(row))
            rows.append([what, f"≥ {aim}", reached])
    for name, curve in record.get("runs", {}).items():
        seconds = dict(map(tuple, curve))
        if 64 in seconds:
            reached = _reached("≤", 4, seconds[64] / seconds[1], ".1f")
            rows.append([f"64 runs over one, ${name}$", "≤ 4", reached])
    bandwidth = record.get("bandwidth", {})
    for name, value in bandwidth.items():
        if name != "copy":
            what = f"depth in parallel, share of the bandwidth of a copy, ${name}$"
            reached = _reached("≥", 0.5, value / bandwidth["copy"], ".0%")
            row = single.get(int(name.removeprefix("L=")), {})
            rows.append([what, "≥ 50 %", reached + " (sequential)" * sequential(row)])
    return rows
