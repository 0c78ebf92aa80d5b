"""Residual networks of any depth and width: scalings, metric, forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.network.activations import GELU, Activation
from cotflow.network.checks import require_kind, require_tensor
from cotflow.network.numbers import positive, real, shown
from cotflow.network.weights import LAYERED, Weights, require_fit

WIDTH_SCALINGS, INPUT_SCALINGS = ("sqrt", "mean", "none"), ("sqrt", "none")
METRICS = ("layer", "particle")


def _positive(name: str, value: object) -> float:
    return real(value, f"network: expected a finite {name} > 0", positive)


def _list(name: str, names: Any) -> list[object]:
    wanted = Mapping if name == "speed" else (tuple, list, set, frozenset)
    require_kind(names, wanted, f"network: expected {name} by names among A, V, W, b, B")
    return list(names)


@dataclass(frozen=True)
class ResidualNet:
    """h_0 = Ax,  h_k = h_{k−1} + L^{−β} c_m V_k σ(c_q W_k h_{k−1} + b_k),  F(x) = B h_L.

    Risk ℛ = (c_ℓ/N) Σ_i ‖F(x_i) − y_i‖².

    Parameters
    ----------
    activation : σ.
    width_scaling : c_m: "sqrt" is 1/√m ([M]), "mean" is 1/M ([B], mean field), "none" is 1; the
        width is written M where a layer is a mean over its features, and m elsewhere.
    input_scaling : c_q: "sqrt" is 1/√q ([M]), "none" is 1.
    depth_exponent : β; 1 is the neural-ODE scaling.
    loss_factor : c_ℓ: 1 in [M], ½ often in [B], 1/d′ where a loss averages over entries too.
    trained : which of A, V, W, b, B move.
    metric : "layer" gives |A|² + (1/L)Σ_k|Z_k|² + |B|², whose gradient flow is
        Ż_k = −L ∂_{Z_k}ℛ ([M] eq. (4)); "particle" gives the squared norm (1/(LM))Σ|ω|² of a
        measure with M atoms a layer, whose flow is ω̇ = −LM ∂_ωℛ ([B]).
    speed : extra factor on the velocity of a parameter, e.g. {"W": 2.0}; an absent one has 1.

    >>> import torch
    >>> from cotflow import ResidualNet, Sizes, tied
    >>> weights = tied(Sizes(depth=6, width=8, state=5, inputs=3, outputs=2), torch.Generator())
    >>> net, x = ResidualNet(), torch.ones(4, 3, dtype=torch.float64)
    >>> net(weights, x).shape, net.hidden_states(weights, x).shape
    (torch.Size([4, 2]), torch.Size([7, 4, 5]))
    """

    activation: Activation = GELU
    width_scaling: Literal["sqrt", "mean", "none"] = "sqrt"
    input_scaling: Literal["sqrt", "none"] = "sqrt"
    depth_exponent: float = 1.0
    loss_factor: float = 1.0
    trained: tuple[str, ...] = ("A", "V", "W", "B")
    metric: Literal["layer", "particle"] = "layer"
    speed: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_kind(self.activation, Activation, "network: expected an activation such as GELU")
        choices = {"width_scaling": WIDTH_SCALINGS, "input_scaling": INPUT_SCALINGS}
        for name, known in (choices | {"metric": METRICS}).items():
            if not (isinstance(getattr(self, name), str) and getattr(self, name) in known):
                raise ValueError(
                    f"network: expected {name} among {', '.join(known)}, received "
                    f"{shown(getattr(self, name))}"
                )
        for name, names in (("trained", self.trained), ("speed", self.speed)):
            given = _list(name, names)
            unknown = [n for n in given if not (isinstance(n, str) and n in ("A", *LAYERED, "B"))]
            if unknown or (name == "trained" and not given):
                raise ValueError(
                    f"network: expected names among A, V, W, b, B, received {shown(unknown)}"
                )
        plain = {
            "depth_exponent": real(
                self.depth_exponent,
                "network: expected a depth_exponent from −10 to 10",
                lambda exponent: abs(exponent) <= 10.0,
            ),
            "loss_factor": _positive("loss_factor", self.loss_factor),
            "speed": {name: _positive("speed", value) for name, value in self.speed.items()},
        }
        for name, number in plain.items():
            object.__setattr__(self, name, number)

    def residual_scale(self, depth: int, width: int) -> float:
        """L^{−β} c_m."""
        over_depth: float = depth**-self.depth_exponent
        over_width: dict[str, float] = {"sqrt": width**-0.5, "mean": 1.0 / width, "none": 1.0}
        return over_depth * over_width[self.width_scaling]

    def input_scale(self, state: int) -> float:
        """c_q."""
        return state**-0.5 if self.input_scaling == "sqrt" else 1.0

    def rates(self, weights: Weights) -> dict[str, float]:
        """Factor r with θ̇ = −r ∂_θℛ for every trained parameter, in the network's metric."""
        layered = weights.depth * (weights.width if self.metric == "particle" else 1)
        return {
            name: (layered if name in LAYERED else 1.0) * self.speed.get(name, 1.0)
            for name in self.trained
            if getattr(weights, name) is not None
        }

    def residual(
        self, weights: Weights, k: int, h: Float[Tensor, "*states n q"]
    ) -> Float[Tensor, "*runs n q"]:
        """L^{−β} c_m V σ(c_q W h + b) with the weights of layer index k."""
        z = torch.matmul(h, weights.W[..., k, :, :].mT) * self.input_scale(weights.state)
        if weights.b is not None:
            z = z + weights.b[..., k, None, :]
        scale = self.residual_scale(weights.depth, weights.width)
        return torch.matmul(self.activation(z), weights.V[..., k, :, :].mT) * scale

    def hidden_states(
        self, weights: Weights, x: Float[Tensor, "*data n d"]
    ) -> Float[Tensor, "*runs layers n q"]:
        """(h_0, …, h_L) stacked on a layer axis of length L+1; differentiable by autograd."""
        _require_data(weights, x)
        h = torch.matmul(x, weights.A.mT)
        states = [h]
        for k in range(weights.depth):
            h = h + self.residual(weights, k, h)
            states.append(h)
        return torch.stack(torch.broadcast_tensors(*states), dim=-3)

    def __call__(
        self, weights: Weights, x: Float[Tensor, "*data n d"]
    ) -> Float[Tensor, "*runs n dy"]:
        """F(x): plain arithmetic, infinite or no number where that of the dtype is."""
        _require_data(weights, x)
        h = torch.matmul(x, weights.A.mT)
        for k in range(weights.depth):
            h = h + self.residual(weights, k, h)
        return torch.matmul(h, weights.B.mT)

    def loss(
        self, weights: Weights, x: Float[Tensor, "*data n d"], y: Float[Tensor, "*data n dy"]
    ) -> Float[Tensor, "*batch"]:
        """ℛ, one number a run."""
        require_tensor(y, "network: expected a torch tensor for y")
        _require_data(weights, x, y)
        return self.loss_factor * (self(weights, x) - y).square().sum(-1).mean(-1)


def _require_data(weights: Weights, x: Tensor, y: Tensor | None = None) -> None:
    """What fits together, and is of one real dtype on one device."""
    require_fit("network", weights, x, y)
    for name, value in {"x": x, "y": weights.V if y is None else y}.items():
        V = weights.V
        if value.dtype != V.dtype or value.device != V.device or not V.is_floating_point():
            raise ValueError(
                f"network: expected {name} of a real dtype, and of the weights' dtype and device, "
                f"{V.dtype} on {V.device}, received {value.dtype} on {value.device}"
            )


class Options(TypedDict, total=False):
    """What can be said of a :class:`ResidualNet` beside its activation."""

    width_scaling: Literal["sqrt", "mean", "none"]
    input_scaling: Literal["sqrt", "none"]
    depth_exponent: float
    loss_factor: float
    trained: tuple[str, ...]
    metric: Literal["layer", "particle"]
    speed: Mapping[str, float]


def marion_net(activation: Activation = GELU, **options: Unpack[Options]) -> ResidualNet:
    """[M]'s network (3): 1/(L√m), input scale 1/√q, ℛ = (1/N)Σ‖F − y‖², A, Z and B trained.

    >>> from cotflow import TANH, marion_net
    >>> marion_net(TANH).residual_scale(depth=8, width=4)
    0.0625
    """
    return ResidualNet(activation, **options)


def mean_field_net(activation: Activation, **options: Unpack[Options]) -> ResidualNet:
    """[B]'s network: 1/(LM), inputs unscaled, ℛ = (1/2N)Σ‖F − y‖², particles trained.

    >>> from cotflow import TANH, mean_field_net
    >>> mean_field_net(TANH).residual_scale(depth=8, width=4)
    0.03125
    """
    defaults: Options = {
        "width_scaling": "mean",
        "input_scaling": "none",
        "loss_factor": 0.5,
        "trained": ("V", "W", "b"),
        "metric": "particle",
    }
    return ResidualNet(activation, **(defaults | options))
