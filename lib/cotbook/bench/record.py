"""The committed record of benchmarks, and what was aimed at."""

from __future__ import annotations

import json
from pathlib import Path

RECORD = Path(__file__).with_suffix(".json")
PARTS = (
    *("steps", "gradient errors", "scaling", "batching", "batching on all cores"),
    *("memory", "long flow", "published"),
)


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
