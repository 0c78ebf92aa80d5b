"""Small networks, measures and data that several files of tests solve."""

import math

import pytest
import torch
from hypothesis import strategies as st

from cotflow.adjoint import compiled
from cotflow.network.weights import Weights

try:
    compiled.compiler()
    MISSING = None
except compiled.CompilerMissing as error:
    MISSING = str(error)
with_compiler = pytest.mark.skipif(MISSING is not None, reason=f"no compiled step: {MISSING}")

ALL = ("A", "V", "W", "b", "B")


def problem(seed=0, runs=(), depth=3, q=3, m=4, d=2, dy=2, n=5, scale=0.7, device="cpu"):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return scale * torch.randn(*runs, *shape, generator=g, dtype=torch.float64).to(device)

    weights = Weights(draw(q, d), draw(depth, q, m), draw(depth, m, q), draw(dy, q), draw(depth, m))
    return weights, draw(n, d), draw(n, dy)


def distance(a, b):
    pairs = zip(a.tensors().values(), b.tensors().values(), strict=True)
    return math.sqrt(sum(float((u - v).square().sum()) for u, v in pairs))


def random_problem(
    seed=0, runs=(), depth=4, q=3, m=5, d=2, dy=2, n=6, bias=True, device="cpu", dtype=torch.float64
):
    g = torch.Generator(device).manual_seed(seed)

    def draw(*shape):
        return 0.5 * torch.randn(*runs, *shape, generator=g, dtype=dtype, device=device)

    weights = Weights(
        A=draw(q, d),
        V=draw(depth, q, m),
        W=draw(depth, m, q),
        B=draw(dy, q),
        b=draw(depth, m) if bias else None,
    )
    return weights, draw(n, d), draw(n, dy)


def family(seed, layers=3, width=4, p=2, runs=()):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*runs, layers, width, p, generator=g, dtype=torch.float64)


sizes = {
    "seed": st.integers(0, 2**20),
    "layers": st.integers(1, 4),
    "p": st.integers(1, 3),
}
width = st.integers(1, 6)
