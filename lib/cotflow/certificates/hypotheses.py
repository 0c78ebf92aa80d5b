"""What the certificates ask of a network and of its data, in sentences."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.network.checks import require_kind, require_values
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights, require_fit

# Below every product of a few dozen numbers of the size that doubles resolve.
LARGEST = 1e60


def require_network(net: ResidualNet) -> None:
    """h_{k+1} = h_k + (1/(Lm)) Σ_j u_j σ(w_j·h_k + b_j), |σ′| ≤ 1, ℛ = (1/2N)Σ|F − y|², V trained,
    in the metric (1/(Lm))Σ|ω|²."""
    require_kind(net, ResidualNet, "certificate: expected a network such as mean_field_net(COS)")
    if not net.activation.lipschitz <= 1.0:
        raise ValueError(
            "certificate: expected an activation with |σ′| ≤ 1, received "
            f"{net.activation.name!r} with sup|σ′| = {net.activation.lipschitz:.4g}"
        )
    expected = {
        "width_scaling": "mean",
        "input_scaling": "none",
        "depth_exponent": 1.0,
        "loss_factor": 0.5,
        "metric": "particle",
    }
    for name, value in expected.items():
        if getattr(net, name) != value:
            raise ValueError(
                f"certificate: expected {name} = {value!r} (a mean_field_net), received "
                f"{getattr(net, name)!r}"
            )
    if "V" not in net.trained or any(v != 1.0 for v in net.speed.values()):
        raise ValueError(
            "certificate: expected V among the trained parameters and all speeds 1, received "
            f"trained = {net.trained}, speed = {dict(net.speed)}"
        )


def require_ball(net: ResidualNet, weights: Weights) -> None:
    """On a ball of measures also |σ| ≤ 1, A and B frozen, and one run at a time."""
    require_kind(net, ResidualNet, "certificate: expected a network such as mean_field_net(COS)")
    if not (net.activation.bound <= 1.0 and net.activation.lipschitz <= 1.0):
        raise ValueError(
            "certificate: expected an activation with |σ| ≤ 1 and |σ′| ≤ 1 (tanh, cos), received "
            f"{net.activation.name!r} with sup|σ| = {net.activation.bound:.4g} and sup|σ′| = "
            f"{net.activation.lipschitz:.4g}"
        )
    require_network(net)
    if {"A", "B"} & set(net.trained):
        raise ValueError(
            f"certificate: expected A and B frozen, received trained = {net.trained}: the ball "
            "is one of measures of (V, W, b)"
        )
    require_one_run(weights)


def require_one_run(weights: Weights) -> None:
    """No run axes."""
    require_kind(weights, Weights, "certificate: expected cotflow.Weights")
    if weights.runs:
        raise ValueError(
            "certificate: expected the weights of one run, V of shape (L, q, m), received "
            f"{tuple(weights.V.shape)}; certify the runs of a batch one after another"
        )


def require_weights(weights: Weights) -> None:
    """Weights of real and finite numbers."""
    require_kind(weights, Weights, "certificate: expected cotflow.Weights")
    for name, value in weights.tensors().items():
        require_values(value, f"certificate: expected a torch tensor for {name}")
        require_numbers(name, value)


def require_numbers(name: str, value: Tensor) -> None:
    """Of floating point, some, and none beyond :data:`LARGEST`."""
    if not value.is_floating_point():
        raise ValueError(
            f"certificate: expected real floating-point numbers in {name}, received "
            f"{str(value.dtype).removeprefix('torch.')}"
        )
    if not value.numel():
        raise ValueError(f"certificate: expected at least one number in {name}, received none")
    # In single precision the limit itself would be infinite.
    sizes = value.detach().to("cpu", torch.float64).abs()
    if not bool((sizes <= LARGEST).all()):
        raise ValueError(
            f"certificate: expected finite numbers up to {LARGEST:.0e} in {name}, received "
            f"{float(sizes.max()):.3g}"
        )


def require_data(
    weights: Weights, x: Tensor, y: Tensor | None = None, *, runs: bool = True
) -> None:
    """x of shape (*, N, d), y of shape (*, N, d′), without * where there are no runs; all numbers
    real, of floating point and finite."""
    require_weights(weights)
    if not runs:
        require_one_run(weights)
    given = {"x": x} | ({} if y is None else {"y": y})
    for name, value in given.items():
        require_values(value, f"certificate: expected a torch tensor for {name}")
    d, out = weights.A.shape[-1], weights.B.shape[-2]
    before = "*, " if runs else ""
    if x.ndim < 2 or x.shape[-2] < 1 or x.shape[-1] != d or (x.ndim > 2 and not runs):
        raise ValueError(
            f"certificate: expected x of shape ({before}N, {d}), received {tuple(x.shape)}"
        )
    if runs:
        require_fit("certificate", weights, x)
    if y is not None and (tuple(y.shape[-2:]) != (x.shape[-2], out) or (y.ndim > 2 and not runs)):
        raise ValueError(
            f"certificate: expected y of shape ({before}{x.shape[-2]}, {out}), received "
            f"{tuple(y.shape)}"
        )
    for name, value in given.items():
        require_numbers(name, value)


def coincident(points: Float[Tensor, "n q"]) -> tuple[int, int] | None:
    """The first two rows that are equal, if any."""
    _, where, counts = torch.unique(points, dim=0, return_inverse=True, return_counts=True)
    for i, group in enumerate(where.tolist()):
        if counts[group] > 1:
            return i, where.tolist().index(group, i + 1)
    return None
