"""The weights (A, (V_k, W_k, b_k)_k, B) of a residual network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.network.checks import require_kind, require_tensor
from cotflow.network.memory import add
from cotflow.network.tensors import Tensors, require_numbers

# The parameters that have a layer axis.
LAYERED = ("V", "W", "b")
# How many axes each has behind those of the runs.
AXES = {"A": 2, "V": 3, "W": 3, "B": 2, "b": 2}


@dataclass(frozen=True)
class Weights(Tensors):
    """(A, (V_k, W_k, b_k)_{k=1..L}, B), for one run or for any number of independent runs.

    Leading axes ``*runs`` are independent runs (seeds, initial laws) that advance together;
    ``weights.run(i)`` is one of them, ``weights.map(function)`` acts on every tensor and
    ``weights.to(dtype=…, device=…)`` moves them. Layer k of the papers is index k−1 of the layer
    axis L.

    >>> import torch
    >>> from cotflow import Sizes, Weights, independent
    >>> sizes = Sizes(depth=6, width=8, state=5, inputs=3, outputs=2)
    >>> weights = independent(sizes, torch.Generator(), runs=(10,))
    >>> isinstance(weights, Weights), weights.V.shape, weights.run(0).V.shape
    (True, torch.Size([10, 6, 5, 8]), torch.Size([6, 5, 8]))
    """

    A: Float[Tensor, "*runs q d"]
    V: Float[Tensor, "*runs L q m"]
    W: Float[Tensor, "*runs L m q"]
    B: Float[Tensor, "*runs dy q"]
    b: Float[Tensor, "*runs L m"] | None = None

    def __post_init__(self) -> None:
        named = {name: getattr(self, name) for name in AXES}
        if self.b is None:
            del named["b"]
        for name, value in named.items():
            require_tensor(value, f"weights: expected a torch tensor for {name}")
            if value.ndim < AXES[name]:
                raise ValueError(
                    f"weights: expected {name} with at least {AXES[name]} axes, received one of "
                    f"shape {tuple(value.shape)}"
                )
        dtype, device = self.V.dtype, self.V.device
        *_, depth, q, m = self.V.shape
        ends = {"A": (q, self.A.shape[-1]), "V": (depth, q, m), "W": (depth, m, q)}
        ends |= {"B": (self.B.shape[-2], q), "b": (depth, m)}
        for name, value in named.items():
            if value.dtype != dtype or value.device != device:
                raise ValueError(
                    f"weights: expected {dtype} on {device}, as in V, for the numbers in {name}, "
                    f"received {str(value.dtype).removeprefix('torch.')} on {value.device}"
                )
            if tuple(value.shape[-AXES[name] :]) != ends[name]:
                raise ValueError(
                    f"weights: V of shape {tuple(self.V.shape)} asks for {name} ending in "
                    f"{ends[name]}, received {tuple(value.shape)}"
                )
            if value.shape[: -AXES[name]] != self.V.shape[:-3]:
                raise ValueError(
                    "weights: expected all weights with the same runs, received V of shape "
                    f"{tuple(self.V.shape)} and {name} of shape {tuple(value.shape)}"
                )

    @property
    def depth(self) -> int:
        return self.V.shape[-3]

    @property
    def width(self) -> int:
        return self.V.shape[-1]

    @property
    def state(self) -> int:
        """Dimension q of the hidden state."""
        return self.V.shape[-2]

    @property
    def runs(self) -> tuple[int, ...]:
        """Shape of the run axes."""
        return tuple(self.V.shape[:-3])

    def plus(self, velocity: Mapping[str, Tensor], step: float) -> Weights:
        """θ + step·velocity, for the parameters that the velocity names."""
        return replace(
            self, **{name: add(getattr(self, name), v, step) for name, v in velocity.items()}
        )


def require_fit(what: str, weights: Weights, x: Tensor, y: Tensor | None = None) -> None:
    """x of shape (*data, n, d) and y of shape (*data, n, d′), whose run axes and those of the
    weights fit together.

    Raises
    ------
    TypeError, ValueError : something else was received; what, and what was expected.
    """
    require_kind(weights, Weights, f"{what}: expected cotflow.Weights")
    named = weights.tensors() | {"x": x} | ({} if y is None else {"y": y})
    for name, value in named.items():
        require_tensor(value, f"{what}: expected a torch tensor for {name}")
    d, dy = weights.A.shape[-1], weights.B.shape[-2]
    fits = x.ndim > 1 and x.shape[-1] == d
    if y is not None:
        fits = fits and y.ndim > 1 and y.shape[-2:] == (x.shape[-2], dy)
    try:
        torch.broadcast_shapes(weights.runs, *(v.shape[:-2] for v in (x, y) if v is not None))
    except RuntimeError:
        fits = False
    if not fits:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in named.items())
        raise ValueError(
            f"{what}: expected x (*runs, n, {d}) and y (*runs, n, {dy}) with runs that fit "
            f"together, received {shapes}"
        )


def require_finite(what: str, weights: Weights, x: Tensor | None = None) -> None:
    """Refuse weights, or inputs x of theirs, (*runs, n, d), that are no finite real numbers."""
    require_kind(weights, Weights, f"{what}: expected cotflow.Weights")
    for name, value in weights.tensors().items():
        require_numbers(value, what, f"entries of {name}")
    if x is not None:
        require_tensor(x, f"{what}: expected a torch tensor for x")
        if x.ndim < 2 or x.shape[-1] != weights.A.shape[-1]:
            raise ValueError(
                f"{what}: expected x of shape (*runs, n, {weights.A.shape[-1]}), received "
                f"{tuple(x.shape)}"
            )
        require_numbers(x, what, "entries of x")


def stack(runs: Sequence[Weights]) -> Weights:
    """Independent runs of equal shape on one leading axis."""
    return runs[0].map(lambda *parts: torch.stack(parts), *runs[1:])
