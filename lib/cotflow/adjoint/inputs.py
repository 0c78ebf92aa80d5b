"""What a gradient takes: one check, before any engine sees a tensor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd.forward_ad import unpack_dual

from cotflow.network.weights import Weights

REAL = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
SHAPES = {
    "x": "(*runs, n, d)",
    "y": "(*runs, n, d′)",
    "A": "(*runs, q, d)",
    "V": "(*runs, L, q, m)",
    "W": "(*runs, L, m, q)",
    "B": "(*runs, d′, q)",
    "b": "(*runs, L, m)",
}


def admitted(
    weights: Weights, x: Tensor, y: Tensor
) -> tuple[Weights, Tensor, Tensor, tuple[int, ...]]:
    """The weights, x and y, negated where that was only noted down, and the shape of the runs.

    All are of x's dtype, which is real, and on its device. Weights, x and y each have the axes of
    the runs, or none and then serve every run. No axis is empty.

    Raises
    ------
    TypeError, ValueError : something else was received; what, and what was expected.
    """
    named = {"x": x, "y": y, "A": weights.A, "V": weights.V, "W": weights.W, "B": weights.B}
    if weights.b is not None:
        named["b"] = weights.b
    for name, value in named.items():
        if not isinstance(value, Tensor):
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise TypeError(f"gradient: expected a torch tensor for {name}, received {kind}")
        if is_functorch_wrapped_tensor(value) or unpack_dual(value).tangent is not None:
            raise TypeError(
                f"gradient: expected plain tensors, received {name} under a transform such as "
                "vmap, jvp or grad, which cannot see through it; runs have axes of their own"
            )
    dtype, device, noted = x.dtype, x.device, False
    if dtype not in REAL:
        raise ValueError(f"gradient: expected x of a real floating-point dtype, received {dtype}")
    for name, value in named.items():
        if value.dtype != dtype or value.device != device or value.layout != torch.strided:
            raise ValueError(
                f"gradient: expected {name} of x's dtype and device, {dtype} on {device}, in "
                f"strided memory, received {value.dtype} on {value.device} ({value.layout})"
            )
        noted = noted or value.is_neg()
    runs = _runs({name: tuple(value.shape) for name, value in named.items()})
    if noted:
        weights = weights.map(Tensor.resolve_neg)
        x, y = x.resolve_neg(), y.resolve_neg()
    return weights, x, y, runs


def _runs(shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The axes of the runs, when all the shapes fit together."""
    if len(shapes["V"]) < 3 or min(map(len, shapes.values())) < 2:
        raise ValueError(_misfit(shapes))
    *own, L, q, m = shapes["V"]
    *data, n, d = shapes["x"]
    *targets, _, dy = shapes["y"]
    found = own or data or targets
    ends = {"x": (n, d), "y": (n, dy), "A": (q, d), "V": (L, q, m), "W": (L, m, q), "B": (dy, q)}
    ends["b"] = (L, m)
    for name, shape in shapes.items():
        runs = own if name not in ("x", "y") else found if len(shape) > 2 else []
        if shape != (*runs, *ends[name]):
            raise ValueError(_misfit(shapes))
    if 0 in shapes["V"] or 0 in shapes["x"] or dy == 0 or 0 in found:
        raise ValueError(
            f"gradient: expected at least one run, sample, layer, … in each axis; {_list(shapes)}"
        )
    return tuple(found)


def _misfit(shapes: dict[str, tuple[int, ...]]) -> str:
    expected = ", ".join(f"{name} {SHAPES[name]}" for name in shapes)
    return (
        f"gradient: expected {expected}, all weights with the same runs, and x and y with the "
        f"runs or without; {_list(shapes)}"
    )


def _list(shapes: dict[str, tuple[int, ...]]) -> str:
    return "received " + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
