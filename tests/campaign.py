"""A campaign of hostile inputs: ``python tests/campaign.py --inputs 10000 --seed 0``.

An input is (area, seed, index) and nothing else, so that ``--area A --seed S --first I --inputs 1``
does it again. Children do the inputs, batch by batch: one that crashes takes nothing with it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parent
# Of all inputs, in percent.
AREAS = {"library": 60, "commands": 25, "files": 15}
BATCH = 250
# Of processor time: what still computes after that is stopped.
ENOUGH = 5.0
# After so many seconds nothing that Python can stop is at work.
SECONDS = 120
MEMORY = 12 << 30
# What an input ends with; the first three are as it should be.
ENDS = (
    *("answered", "refused", "stopped", "crash", "traceback", "raw", "no sentence", "not finite"),
    *("disagreement", "believed"),
)
GOOD = ENDS[:3]


@dataclass(frozen=True)
class End:
    """How an input ended: one of :data:`ENDS`, and where or with which sentence."""

    area: str
    index: int
    name: str
    end: str
    said: str = ""


def shares(inputs: int, areas: dict[str, int]) -> dict[str, int]:
    """How many inputs each area gets."""
    total = sum(areas.values())
    return {area: max(1, inputs * share // total) for area, share in areas.items()}


def batches(area: str, first: int, count: int) -> Iterator[tuple[str, int, int]]:
    for start in range(first, first + count, BATCH):
        yield area, start, min(start + BATCH, first + count)


def campaign(
    inputs: int, seed: int, *, areas: dict[str, int] = AREAS, first: int = 0, workers: int = 1
) -> list[End]:
    """The ends of all inputs, by area and index."""
    every = [
        batch
        for area, count in shares(inputs, areas).items()
        for batch in batches(area, first, count)
    ]
    with ThreadPoolExecutor(workers) as pool:
        return [
            end for ends in pool.map(lambda batch: list(done(seed, *batch)), every) for end in ends
        ]


def done(seed: int, area: str, start: int, stop: int) -> Iterator[End]:
    """A batch, by as many children as it takes."""
    while start < stop:
        ends, unfinished, code, words = child(seed, area, start, stop)
        yield from ends
        if unfinished is None and code == 0:
            return
        index, name = unfinished or (start + len(ends), "start")
        yield End(area, index, name, "crash", f"exit {code}: {words}")
        start = index + 1


def child(
    seed: int, area: str, start: int, stop: int
) -> tuple[list[End], tuple[int, str] | None, int, str]:
    """(ends, the input it was at, exit code, its last words)."""
    command = [sys.executable, __file__, "--child", area, str(seed), str(start), str(stop)]
    environment = os.environ | {
        "JAXTYPING_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(
            [str(TESTS.parent / "lib"), os.environ.get("PYTHONPATH", "")]
        ),
    }
    with tempfile.TemporaryFile("w+") as report, tempfile.TemporaryFile("w+") as words:
        code = subprocess.run(
            command, stdout=report, stderr=words, stdin=subprocess.DEVNULL, env=environment
        ).returncode
        report.seek(0)
        words.seek(0)
        ends, unfinished = [], None
        for line in report:
            said = json.loads(line)
            if len(said) == 2:
                unfinished = said[0], said[1]
            else:
                ends.append(End(area, *said))
                unfinished = None
        return ends, unfinished, code, " ".join(words.read().split())[-400:]


class Enough(BaseException):
    """The input has had its time."""


def enough(number: int, frame: object) -> None:
    raise Enough


def perform(area: str, seed: int, start: int, stop: int) -> None:
    """In a child: inputs ``start`` to ``stop``, a line before and a line after each."""
    faulthandler.enable()
    signal.signal(signal.SIGPROF, enough)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what else is printed does not belong to the report
    import numpy as np
    import torch

    from hostile.draws import Draws

    torch.set_num_threads(1)
    warnings.filterwarnings("error", module="cot(flow|book)")
    inputs = importlib.import_module(f"hostile.{area}")
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder, contextlib.chdir(folder):
        for index in range(start, stop):
            d = Draws(np.random.default_rng([seed, list(AREAS).index(area), index]))
            torch.manual_seed(index)
            name = inputs.named(d)
            report.write(json.dumps([index, name]) + "\n")
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            signal.setitimer(signal.ITIMER_PROF, ENOUGH)
            try:
                end, said = inputs.ended(name, d)
            except Enough:
                end, said = "stopped", f"after {ENOUGH:g} s of processor time"
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0.0)
            report.write(json.dumps([index, name, end, said]) + "\n")


def figures(ends: list[End]) -> str:
    """A table: areas and their ends."""
    areas = list(dict.fromkeys(end.area for end in ends))
    counts = {area: collections.Counter(e.end for e in ends if e.area == area) for area in areas}
    lines = [["", "inputs", *ENDS]]
    for area in areas:
        lines.append([area, str(counts[area].total()), *(str(counts[area][end]) for end in ENDS)])
    total = sum(counts.values(), collections.Counter())
    lines.append(["all", str(total.total()), *(str(total[end]) for end in ENDS)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def faults(ends: list[End]) -> list[str]:
    """A line for each kind of fault, with the first input that shows it."""
    kinds: dict[tuple[str, str, str, str], list[End]] = {}
    for end in ends:
        if end.end not in GOOD:
            kinds.setdefault((end.end, end.area, end.name, end.said.split(": ")[0]), []).append(end)
    return [
        f"{end} ×{len(found)} in {area}, {name}: {found[0].said} "
        f"(--area {area} --first {found[0].index} --inputs 1)"
        for (end, area, name, _), found in sorted(kinds.items())
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--area", choices=AREAS)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--refusals", action="store_true", help="print each sentence once")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        area, *numbers = asked.child
        perform(area, *map(int, numbers))
        return 0
    areas = {asked.area: 100} if asked.area else AREAS
    ends = campaign(asked.inputs, asked.seed, areas=areas, first=asked.first, workers=asked.workers)
    if asked.refusals:
        print("\n".join(sorted({f"{e.name}: {e.said}" for e in ends if e.end == "refused"})))
    for line in faults(ends):
        print(line)
    print(figures(ends))
    return int(any(end.end not in GOOD for end in ends))


if __name__ == "__main__":
    sys.exit(main())
