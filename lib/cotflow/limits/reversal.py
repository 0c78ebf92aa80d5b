"""h̃_k = h̃_{k+1} − f(h̃_{k+1}, θ_k)/L: activations made again from the last one instead of kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.network.numbers import whole
from cotflow.network.tensors import require_numbers

Residual = Callable[[int, Tensor], Tensor]


@torch.no_grad()
def reconstruct(
    f: Residual, depth: int, last: Float[Tensor, "*state"]
) -> Float[Tensor, "layers *state"]:
    """(h̃_0, …, h̃_L) from h̃_L = h_L: the explicit Euler method run backwards, not an inverse."""
    depth = whole(depth, "reversal: expected a depth ≥ 1", 1)
    require_numbers(last, "reversal", "entries of the last state")
    states = [last]
    for k in reversed(range(depth)):
        states.append(states[-1] - f(k, states[-1]) / depth)
    return torch.stack(states[::-1])


def reconstruction_bound(
    lipschitz: Float[Tensor, "L *batch"], speeds: Float[Tensor, "L *batch"]
) -> Float[Tensor, "layers *batch"]:
    """|h̃_k − h_k| ≤ e_k = (1 + Λ_k/L) e_{k+1} + Λ_k S_k/L², e_L = 0.

    At most (exp(mean Λ) − 1) max S / L ([R] Sander, Ablin, Peyré).

    Parameters
    ----------
    lipschitz, speeds : Λ_k, of f(·, θ_k) between h_k and h̃_{k+1}, and S_k = |f(h_k, θ_k)|.
    """
    if lipschitz.shape != speeds.shape:
        raise ValueError(
            "reversal: expected one constant and one speed for each layer and sample, received "
            f"shapes {tuple(lipschitz.shape)} and {tuple(speeds.shape)}"
        )
    for name, values in (("Lipschitz constants", lipschitz), ("speeds", speeds)):
        require_numbers(values, "reversal", name)
        if bool((values < 0).any()):
            raise ValueError(f"reversal: expected {name} ≥ 0, received {float(values.min()):.3g}")
    depth = len(speeds)
    bounds = [torch.zeros_like(speeds[0])]
    for rate, speed in zip(lipschitz.flip(0), speeds.flip(0), strict=True):
        bounds.append((1 + rate / depth) * bounds[-1] + rate * speed / depth**2)
    return torch.stack(bounds[::-1])


@dataclass(frozen=True)
class Backward:
    """What a backward sweep leaves: ∂_{θ_k} of the loss by layers, and the adjoint p_0."""

    gradients: list[tuple[Tensor, ...]]
    adjoint: Tensor


@torch.inference_mode(False)
def backpropagate(
    f: Residual,
    parameters: Sequence[Sequence[Tensor]],
    last: Float[Tensor, "*state"],
    adjoint: Float[Tensor, "*state"],
    states: Float[Tensor, "layers *state"] | None = None,
) -> Backward:
    """p_k = p_{k+1} + (1/L) D_hf(h_k, θ_k)ᵀp_{k+1} and ∂_{θ_k} = (1/L) D_θf(h_k, θ_k)ᵀp_{k+1}.

    Parameters
    ----------
    parameters : the tensors θ_k that f(k, ·) reads, by layers, with ``requires_grad``.
    last, adjoint : h_L and p_L.
    states : h_0..h_L for the exact gradient; without them h̃_k stands for h_k, and one layer's
        activations are alive at a time, at any depth.
    """
    depth, gradients = len(parameters), []
    complete = states is None or states.shape == (depth + 1, *last.shape)
    if not (depth and complete and adjoint.shape == last.shape):
        kept = "" if states is None else f" and states {tuple(states.shape)}"
        raise ValueError(
            "reversal: expected at least 1 layer, an adjoint of the last state's shape and all "
            f"states or none, received {depth} layers, a state {tuple(last.shape)}, an adjoint "
            f"{tuple(adjoint.shape)}{kept}"
        )
    for name, value in (("state", last), ("adjoint", adjoint)):
        require_numbers(value, "reversal", f"entries of the last {name}")
    for k in reversed(range(depth)):
        with torch.no_grad():
            last = states[k] if states is not None else last - f(k, last) / depth
        with torch.enable_grad():
            h = last.detach().requires_grad_()
            pulled = torch.autograd.grad(f(k, h), (h, *parameters[k]), adjoint / depth)
        adjoint = adjoint + pulled[0]
        gradients.append(pulled[1:])
    return Backward(gradients[::-1], adjoint)


class KeptTensors(torch.autograd.graph.saved_tensors_hooks):
    """Counts the blocks of memory that autograd keeps alive for a backward sweep.

    Attributes
    ----------
    now, peak : numbers of different storages, those of ``besides`` (the weights) not counted.
    """

    def __init__(self, besides: Iterable[Tensor] = ()):
        self._ignored = {tensor.untyped_storage().data_ptr() for tensor in besides}
        self._users: dict[int, int] = {}
        self.peak = 0
        super().__init__(self._pack, lambda kept: kept.tensor)

    # torch's own gives nothing to `as`.
    def __enter__(self) -> KeptTensors:  # type: ignore[override]
        super().__enter__()
        return self

    @property
    def now(self) -> int:
        return len(self._users)

    def _pack(self, tensor: Tensor) -> _Kept:
        block = tensor.untyped_storage().data_ptr()
        if block in self._ignored:
            return _Kept(tensor, None, self._users)
        kept = _Kept(tensor, block, self._users)
        self.peak = max(self.peak, self.now)
        return kept


class _Kept:
    def __init__(self, tensor: Tensor, block: int | None, users: dict[int, int]):
        self.tensor, self._block, self._users = tensor.detach(), block, users
        if block is not None:
            users[block] = users.get(block, 0) + 1

    def __del__(self) -> None:
        if self._block is not None:
            self._users[self._block] -= 1
            if not self._users[self._block]:
                del self._users[self._block]
