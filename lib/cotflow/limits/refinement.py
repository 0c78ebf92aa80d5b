"""h_{j+1} = h_j + (1/D) f(h_j, Z(j/D)): a trained net of depth L run at another depth D."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp

from cotflow.limits.depth import interpolate, require_depth_variable, require_layers
from cotflow.network.numbers import positive, real, whole
from cotflow.network.tensors import Tensors, require_numbers

Rule = Literal["constant", "linear"]


Layers = TypeVar("Layers", bound=Tensors)


def refine(
    values: Float[Tensor, "*before L *after"], depth: int, rule: Rule = "linear", dim: int = 0
) -> Float[Tensor, "*before D *after"]:
    """Z(j/D) for j = 0..D−1, with layer index k of the given net at s = k/L, where its step starts.

    "constant" is Z(s) = Z_{⌊sL⌋}; "linear" is linear between the nodes and constant after the last.
    At D = rL layer rj is layer j of the given net, at D = L/r every r-th layer is left, both to
    the bit: places are found in integers, and none is ever an extrapolation.

    Parameters
    ----------
    dim : the depth axis.
    """
    depth = whole(depth, "refinement: expected a depth ≥ 1", 1)
    _require_rule(rule)
    given = require_layers(values, dim)
    position = torch.arange(depth, device=values.device) * given
    left = position // depth
    before = values.index_select(dim, left)
    if rule == "constant":
        return before
    after = values.index_select(dim, (left + 1).clamp(max=given - 1))
    theta = (position % depth).to(values.dtype) / depth
    return torch.lerp(
        before, after, theta.reshape(-1, *[1] * (values.ndim - dim % values.ndim - 1))
    )


def layer_at(
    values: Float[Tensor, "*before L *after"], s: float, rule: Rule = "linear", dim: int = 0
) -> Float[Tensor, "*before *after"]:
    """Z(s) for s in [0, 1], by the same rules as :func:`refine`; s = j/D gives its layer j."""
    _require_rule(rule)
    if rule == "linear":
        return interpolate(values, s, "starts", dim=dim)
    require_depth_variable(s)
    depth = require_layers(values, dim)
    # s·L may round across a node k/L; s itself, computed as k/L, compares exactly.
    k = int(s * depth)
    k += (k + 1) / depth <= s
    k -= k / depth > s
    return values.select(dim, min(k, depth - 1))


def _require_rule(rule: str) -> None:
    if rule not in get_args(Rule):
        raise ValueError(f"refinement: expected 'constant' or 'linear', received {rule!r}")


@torch.no_grad()
def hidden_states(
    f: Callable[[int, Tensor], Tensor], depth: int, h0: Float[Tensor, "*state"]
) -> Float[Tensor, "layers *state"]:
    """(h_0, …, h_L) of h_{k+1} = h_k + f(k, h_k)/L."""
    depth = whole(depth, "hidden states: expected a depth ≥ 1", 1)
    require_numbers(h0, "hidden states", "entries of h_0")
    states = [h0]
    for k in range(depth):
        states.append(states[-1] + f(k, states[-1]) / depth)
    return torch.stack(states)


@torch.no_grad()
def leading_difference(
    f: Callable[[int, Tensor], Tensor], states: Float[Tensor, "layers *state"]
) -> Float[Tensor, "layers *state"]:
    """δ_{k+1} = δ_k + (1/L) Df_k(h_k)[δ_k + f_k(h_k)/(2L)], δ_0 = 0, along h_0..h_L.

    The net refined to depth rL with constant weights differs from the net by (1 − 1/r)δ + O(1/L²),
    and its neural ODE by δ + O(1/L²), if Df is Lipschitz in h; the weights may be rough in depth.
    """
    require_numbers(states, "leading difference", "states")
    depth = whole(len(states) - 1, "leading difference: expected at least 1 layer", 1)
    differences = [torch.zeros_like(states[0])]
    for k in range(depth):
        last, h = differences[-1], states[k]
        push = last + (states[k + 1] - h) / 2
        differences.append(last + jvp(lambda x, k=k: f(k, x), (h,), (push,))[1] / depth)
    return torch.stack(differences)


@torch.no_grad()
def acceleration(
    residual: Callable[[Layers, Tensor], Tensor],
    layer: Layers,
    slope: Layers,
    h: Float[Tensor, "*state"],
    step: float = 1e-5,
) -> Float[Tensor, "*state"]:
    """x″ = D_θf[∂_sZ] + D_hf[f], the acceleration of x′ = f(x, Z(s)) at x = h.

    A central difference along (∂_sZ, f), since batch normalization has no forward derivative in
    its running statistics: off by O(step²), and by rounding over step.

    Parameters
    ----------
    layer, slope : Z(s) and ∂_sZ(s).
    """
    require_numbers(h, "acceleration", "entries of h")
    step = real(step, "acceleration: expected a finite step > 0", positive)
    push = residual(layer, h)

    def at(time: float) -> Tensor:
        moved = layer.map(lambda z, dz: torch.add(z, dz, alpha=time), slope)
        return residual(moved, h + time * push)

    return (at(step) - at(-step)) / (2 * step)
