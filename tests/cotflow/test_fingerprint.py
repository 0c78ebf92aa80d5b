"""What a run is made of is told apart, and is the same in every process."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import cotflow.flows.fingerprint as module
from cotflow.flows.chebyshev import RKC2
from cotflow.flows.fingerprint import fingerprint, surroundings
from cotflow.flows.velocity import frobenius_clip
from cotflow.measure.observables import largest_gap
from cotflow.network.activations import TANH
from cotflow.network.residual import marion_net

FACTOR = 2.0


def helper(x):
    return x * FACTOR


def observer(s):
    return helper(s.loss)


class Clip:
    """An object that has its way with velocities."""

    bound = 3.0

    def __init__(self, radius):
        self.radius = radius

    def __call__(self, velocity):
        return {name: v.clamp(-self.radius, self.radius) for name, v in velocity.items()}


@dataclass(frozen=True)
class Cut:
    radius: float

    def __call__(self, velocity):
        return velocity


def scaled(velocity, factor=1.0):
    return {name: v * factor for name, v in velocity.items()}


def made(factor, extra):
    return lambda s: s.loss * factor + extra


def kinds():
    return {
        "net": marion_net(TANH, speed={"W": 2.0}),
        "method": RKC2,
        "clip": frobenius_clip(0.5),
        "object": Clip(0.5),
        "dataclass": Cut(0.5),
        "partial": functools.partial(scaled, factor=2.0),
        "of torch": functools.partial(torch.clamp, min=0.0),
        "bound": Clip(0.5).__call__,
        "lambda": lambda s: s.weights.V,
        "closure": made(2.0, torch.ones(2, dtype=torch.float32)),
        "global": observer,
        "gap": lambda s: largest_gap(s.weights),
        "module": torch.nn.Linear(1, 1, bias=False).requires_grad_(False).double(),
        "cached": functools.lru_cache(helper),
        "set": {"a", "b", "c"},
    }


@pytest.mark.slow
def test_the_same_in_another_process():
    code = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("elsewhere", sys.argv[1])
there = importlib.util.module_from_spec(spec)
sys.modules["elsewhere"] = there
spec.loader.exec_module(there)
print(json.dumps(there.prints()))
"""
    found = {json.dumps(prints()) + "\n"}
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code, __file__],
            capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )  # fmt: skip
        found.add(done.stdout)
    assert len(found) == 1


def prints():
    given = kinds()
    given["module"].weight.fill_(1.0)
    return {name: fingerprint(value) for name, value in given.items()} | surroundings()


def test_each_of_its_own():
    assert len(set(prints().values())) == len(prints())


@pytest.mark.parametrize(
    "one, other",
    [
        (lambda s: s.loss, lambda s: s.loss + 1),
        (lambda s: s.loss + 1.0, lambda s: s.loss + 2.0),
        (lambda s: s.loss, lambda s: s.time),
        (lambda s, k=1: s.loss * k, lambda s, k=2: s.loss * k),
        (made(1.0, 0.0), made(2.0, 0.0)),
        (made(1.0, torch.zeros(2)), made(1.0, torch.ones(2))),
        (functools.partial(scaled, factor=1.0), functools.partial(scaled, factor=2.0)),
        (functools.partial(torch.clamp, min=0.0), functools.partial(torch.clamp, min=1.0)),
        (Clip(1.0), Clip(2.0)),
        (Cut(1.0), Cut(2.0)),
        (Clip(1.0).__call__, Clip(2.0).__call__),
        (lambda s: max(s.loss, 0), lambda s: min(s.loss, 0)),
        (lambda s: torch.exp(s.loss), lambda s: torch.log(s.loss)),
        (lambda s: [k for k in (1, 2)], lambda s: [k for k in (1, 3)]),
        ([1, [2]], [[1], 2]),
        ("1", 1),
        (None, "None"),
        (torch.zeros(2), np.zeros(2)),
        (torch.ones(2, dtype=torch.float32), torch.ones(2, dtype=torch.float64)),
    ],
)
def test_what_differs_is_told_apart(one, other):
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize(
    "one, other",
    [
        (0.1, np.float64(0.1)),
        (1, np.int64(1)),
        (1, 1.0),
        ([0.1, 0.2], (np.float64(0.1), np.float64(0.2))),
        (torch.ones(2), torch.ones(2).requires_grad_()),
        (torch.ones(2, 3), torch.ones(3, 2).mT),
        (torch.ones(2) * 1j, (torch.ones(2) * -1j).conj()),
        (Clip(1.0), Clip(np.float64(1.0))),
        (made(1.0, 2.0), made(1.0, 2.0)),
    ],
)
def test_what_is_the_same_counts_as_the_same(one, other):
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    "name, value",
    [("FACTOR", 3.0), ("helper", lambda x: x + FACTOR)],
)
def test_what_an_observer_refers_to_counts(name, value, monkeypatch):
    before = fingerprint(observer)
    monkeypatch.setitem(globals(), name, value)
    assert fingerprint(observer) != before


def test_the_code_of_a_class_counts(monkeypatch):
    before = fingerprint(Clip(1.0))
    monkeypatch.setattr(Clip, "__call__", lambda self, velocity: velocity)
    changed = fingerprint(Clip(1.0))
    monkeypatch.setattr(Clip, "bound", 4.0)
    assert len({before, changed, fingerprint(Clip(1.0))}) == 3


def test_where_code_stands_does_not_count(tmp_path):
    found = set()
    for name, text in {"a": "", "b": "# a remark\n\n\n"}.items():
        path = tmp_path / f"{name}.py"
        path.write_text(text + "def f(s):\n    return s.loss\n")
        spec = importlib.util.spec_from_file_location(name, path)
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        found.add(fingerprint(loaded.f))
    assert len(found) == 1


def test_circles_end():
    circle = [1]
    circle.append(circle)
    one = Clip(1.0)
    one.self = one
    assert len({fingerprint(circle), fingerprint(one), fingerprint([1])}) == 3


def test_the_librarys_sources_count(tmp_path, monkeypatch):
    surroundings.cache_clear()
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    before = surroundings()
    surroundings.cache_clear()
    (tmp_path / "flows" / "a.py").write_text("x = 2\n")
    after = surroundings()
    surroundings.cache_clear()
    assert {n for n in before if before[n] != after[n]} == {"the sources of cotflow"}
