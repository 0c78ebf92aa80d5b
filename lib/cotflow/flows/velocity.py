"""The right-hand side v(θ) = −r ∂_θℛ of the flow, what it costs, and the norm it lives in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.adjoint.gradient import Backend, Gradient, evaluated
from cotflow.network.memory import squared
from cotflow.network.numbers import Number, real, shown, whole
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import LAYERED, Weights

Clip = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class DivergenceError(ArithmeticError):
    """The flow left the range of numbers; names the time, the norm and a way out."""


class NotFiniteError(ArithmeticError):
    """The loss or the stiffness is no number, or beyond all use, at some weights; says which."""


@dataclass(frozen=True)
class FrobeniusClip:
    """π(G) = G · min(1, radius/‖G‖_F), matrix by matrix: bounded by the radius and 1-Lipschitz."""

    radius: float

    def __call__(self, velocity: dict[str, Tensor]) -> dict[str, Tensor]:
        clipped = {}
        for name, value in velocity.items():
            axes = (-1,) if name == "b" else (-2, -1)
            norm = torch.linalg.vector_norm(value, dim=axes, keepdim=True)
            clipped[name] = value * (self.radius / norm.clamp_min(self.radius))
        return clipped


def frobenius_clip(radius: Number) -> FrobeniusClip:
    """π(G) = G · min(1, radius/‖G‖_F), matrix by matrix: bounded by the radius and 1-Lipschitz.

    The clipped flow ([M] eq. (5)) applies it to each right-hand side.
    """
    return FrobeniusClip(real(radius, "clip: expected a radius > 0", lambda r: r > 0))


def _clipped(clip: Clip, velocity: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the clip makes of the velocity, without a graph."""
    found = clip(velocity)
    if not (
        isinstance(found, Mapping)
        and found.keys() == velocity.keys()
        and all(isinstance(v, Tensor) and v.shape == velocity[n].shape for n, v in found.items())
    ):
        raise ValueError(
            "clip: expected a function that returns tensors of the names and shapes it was given, "
            f"received {shown(found)}"
        )
    return {name: v.detach() for name, v in found.items()}


class VelocityField:
    """θ ↦ (gradient at θ, clipped velocity), counting its evaluations.

    Raises
    ------
    NotFiniteError : the loss of a run is not a number, or too large for its squares to be one.
    """

    def __init__(
        self,
        net: ResidualNet,
        x: Float[Tensor, "*data n d"],
        y: Float[Tensor, "*data n dy"],
        clip: Clip | None = None,
        segment: Number | None = None,
        backend: Backend = "auto",
    ) -> None:
        if clip is not None and not callable(clip):
            raise ValueError(f"clip: expected a function of velocities, received {shown(clip)}")
        if segment is not None:
            segment = whole(segment, "segment: expected at least 1 layer", 1)
        self.net, self.x, self.y, self.clip = net, x, y, clip
        self.segment, self.backend = segment, backend
        self.evaluations = 0

    def __call__(self, at: Weights) -> tuple[Gradient, dict[str, Tensor]]:
        result = evaluated(self.net, at, self.x, self.y, backend=self.backend, segment=self.segment)
        self.evaluations += 1
        # Squares of weights overflow long before the loss does.
        if not bool((result.loss < torch.finfo(result.loss.dtype).max ** 0.5).all()):
            norm = torch.stack([value.abs().max() for value in at.tensors().values()]).max()
            raise NotFiniteError(
                f"the loss is {result.loss.max():.3g} and the largest weight entry is {norm:.3g}"
            )
        if self.clip is None:
            return result, result.velocity
        # A clip with parameters of its own would hang the graph of all steps on the weights.
        return result, _clipped(self.clip, result.velocity)

    def norm(self, at: Weights, move: Mapping[str, Tensor]) -> Float[Tensor, "*runs"]:
        """|u| = (Σ_θ |u_θ|²/r_θ)^½: in the layer metric (|A|² + (1/L)Σ_k|Z_k|² + |B|²)^½.

        −v is the gradient of ℛ for this norm, and the Jacobian of v is symmetric in it.
        """
        total = torch.zeros((), dtype=at.V.dtype, device=at.V.device)
        for name, rate in self.net.rates(at).items():
            axes = tuple(range(-3 if name in LAYERED and name != "b" else -2, 0))
            total = total + squared(move[name]).sum(axes) / rate
        return total.sqrt()

    def scale(self, *points: Weights) -> Float[Tensor, "*runs"]:
        """1 + max |θ| over the points, |θ| over the trained parameters: errors are weighed by it,
        relative where weights are large and absolute where they are small."""
        norms = torch.broadcast_tensors(*(self.norm(p, p.tensors()) for p in points))
        return 1.0 + torch.stack(norms).amax(0)
