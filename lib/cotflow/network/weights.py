"""The weights (A, (V_k, W_k, b_k)_k, B) of a residual network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.network.memory import add
from cotflow.network.tensors import Tensors, require_numbers

# The parameters that have a layer axis.
LAYERED = ("V", "W", "b")


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
        for name, axes in (("A", 2), ("V", 3), ("W", 3), ("B", 2), ("b", 2)):
            value = getattr(self, name)
            if value is not None and value.ndim < axes:
                raise ValueError(
                    f"weights: expected {name} with at least {axes} axes, received one of shape "
                    f"{tuple(value.shape)}"
                )
        *_, depth, q, m = self.V.shape
        expected = {
            "A": (q, self.A.shape[-1]),
            "W": (depth, m, q),
            "B": (self.B.shape[-2], q),
            "b": (depth, m),
        }
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape[-len(shape) :]) != shape:
                raise ValueError(
                    f"weights: V of shape {tuple(self.V.shape)} asks for {name} ending in {shape}, "
                    f"received {tuple(value.shape)}"
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


def require_finite(what: str, weights: Weights, x: Tensor | None = None) -> None:
    """Refuse weights, or inputs x of theirs, (*runs, n, d), that are no finite real numbers."""
    for name, value in weights.tensors().items():
        require_numbers(value, what, f"entries of {name}")
    if x is not None:
        if x.ndim < 2 or x.shape[-1] != weights.A.shape[-1]:
            raise ValueError(
                f"{what}: expected x of shape (*runs, n, {weights.A.shape[-1]}), received "
                f"{tuple(x.shape)}"
            )
        require_numbers(x, what, "entries of x")


def stack(runs: Sequence[Weights]) -> Weights:
    """Independent runs of equal shape on one leading axis."""
    return runs[0].map(lambda *parts: torch.stack(parts), *runs[1:])
