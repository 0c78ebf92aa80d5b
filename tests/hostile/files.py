"""Files that were cut off or written over: checkpoints, kernels, records, ledgers, notebooks."""

import functools
import json
from pathlib import Path

import torch
import yaml

import cotflow
from cotflow.adjoint import library
from hostile import commands
from hostile.commands import damaged
from hostile.draws import Draws
from hostile.library import problem, taken
from hostile.oracle import objection, outcome, place
from ledgers import BOOK, CLAIM, UNTESTED

PATH = Path("run.pt")


def run(horizon: float = 0.4):
    """A small run that is kept, and goes on from what was kept."""
    import numpy as np

    given = problem(Draws(np.random.default_rng(7)), runs=(), dtype=torch.float64, scale=1.0)
    net = cotflow.marion_net(cotflow.TANH)
    kept = cotflow.Checkpoint(PATH, steps=1)
    return cotflow.gradient_flow(net, *taken(given), step=0.1, horizon=horizon, checkpoint=kept)


@functools.cache
def kept() -> tuple[bytes, tuple]:
    """The file of a whole run, and its record."""
    PATH.unlink(missing_ok=True)
    record = run()
    return PATH.read_bytes(), (record.observed["loss"], record.weights.V)


@functools.cache
def foreign() -> bytes:
    """A file of the same kind that holds something else."""
    torch.save({"format": 2, "step": 1, "weights": torch.ones(3)}, "foreign.pt")
    return Path("foreign.pt").read_bytes()


def checkpoint(d: Draws) -> tuple[str, str]:
    content, expected = kept()
    other = d.one(damaged(d, content), damaged(d, content), damaged(d, content), foreign())
    PATH.write_bytes(other)
    record, error = outcome(run)
    if error is not None:
        return objection(error) or "refused", place(error)
    same = all(
        torch.equal(a, b)
        for a, b in zip((record.observed["loss"], record.weights.V), expected, strict=True)
    )
    if other == content or not other:
        return "answered", ""
    return "believed", f"a damaged checkpoint went on, {'to the same end' if same else 'elsewhere'}"


@functools.cache
def kernel() -> tuple[Path, bytes, bytes]:
    """A file of the cache, as it was written, and its key."""
    path, key = Path("cache/kernel.so").resolve(), b"key"
    path.parent.mkdir(exist_ok=True)
    library._keep(b"\x7fELF" + bytes(range(256)) * 8, path, key)
    return path, path.read_bytes(), key


def kernels(d: Draws) -> tuple[str, str]:
    """Whether a damaged kernel is taken for what was built."""
    path, content, key = kernel()
    other = damaged(d, content)
    path.unlink(missing_ok=True)
    path.write_bytes(other)
    path.chmod(d.one(0o700, 0o700, 0o777))
    right = other == content and not path.stat().st_mode & 0o022
    wrong = library.verified(path, key) != right or library.verified(path, b"another key")
    return ("believed", "a damaged kernel") if wrong else ("answered" if right else "refused", "")


def folder(d: Draws, root: Path, name: str) -> Path:
    """What a run leaves."""
    made = root / name
    made.mkdir(parents=True)
    claims = [CLAIM.to_json(), UNTESTED.to_json()]
    (made / "claims.json").write_text(json.dumps(claims))
    (made / "parameters.yml").write_text(yaml.safe_dump({"seed": 0, "depths": [2, 4]}))
    shown = [{"output_type": "display_data", "data": {}, "metadata": {}}]
    cells = [{"cell_type": "code", "source": "1", "outputs": shown, "metadata": {}}]
    (made / "tiny-rate.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4}))
    return made


def spoil(d: Draws, content: bytes) -> bytes:
    """Damaged, or with another value somewhere in it."""
    if d.chance(0.4):
        return damaged(d, content)
    known = json.loads(content)
    at = known
    while isinstance(at, list | dict) and at:
        key = d.whole(0, len(at) - 1) if isinstance(at, list) else d.one(*at)
        if d.chance(0.4) or not (isinstance(at[key], list | dict) and at[key]):
            at[key] = commands.value(d)
            if d.chance(0.2):
                del at[key]
            break
        at = at[key]
    return json.dumps(known, default=str).encode(errors="replace")


def record(d: Draws) -> tuple[str, str]:
    root = commands.book(d)
    made = folder(d, root, "results")
    path = made / d.one("claims.json", "claims.json", "parameters.yml", "tiny-rate.ipynb")
    found = damaged if path.suffix == ".yml" else spoil
    path.write_bytes(found(d, path.read_bytes()))
    return commands.judged(root, ["ledger", "results"])


def sweep(d: Draws) -> tuple[str, str]:
    root = commands.book(d)
    job = {"id": "0001-abc", "root": str(root), "chapter": "tiny-rate"}
    job |= {"swept": {"seed": 0}, "values": {"seed": 0}, "given": ["seed"]}
    made = folder(d, root, "swept/jobs/0001-abc")
    plan = root / "swept/plan.json"
    plan.write_text(json.dumps({"jobs": {"0001-abc": job}}))
    path = d.one(plan, made / "claims.json")
    path.write_bytes(spoil(d, path.read_bytes()))
    return commands.judged(root, ["ledger", "swept"])


def ledger(d: Draws) -> tuple[str, str]:
    root = commands.book(d)
    whole = json.dumps(BOOK.to_json()).encode()
    (root / "old.json").write_bytes(whole)
    (root / "new.json").write_bytes(spoil(d, whole))
    return commands.judged(
        root, ["diff", *d.one(("old.json", "new.json"), ("new.json", "old.json"))]
    )


def notebook(d: Draws) -> tuple[str, str]:
    root = commands.book(d)
    from cotbook.run.tree import chapter

    path = root / "book/notebooks/tiny-rate.ipynb"
    path.parent.mkdir()
    path.write_bytes(spoil(d, json.dumps(chapter(root, "tiny-rate").notebook()).encode()))
    return commands.judged(root, ["notebooks", "--check"])


CASES = {checkpoint: 8, kernels: 3, record: 4, sweep: 2, ledger: 3, notebook: 3}
NAMED = {case.__name__: case for case in CASES}
CHOICES = [name for name, case in NAMED.items() for _ in range(CASES[case])]


def named(d: Draws) -> str:
    """Which of them the input is."""
    return d.one(*CHOICES)


def ended(name: str, d: Draws) -> tuple[str, str]:
    """How it ends."""
    return NAMED[name](d)
