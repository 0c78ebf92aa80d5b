"""The field that moves particles, also those that the network does not own."""

from __future__ import annotations

import torch
from torch import Tensor

from cotflow.adjoint import Gradient
from cotflow.network import ResidualNet, Weights


def field(net: ResidualNet, sweep: Gradient, width: int, probe: Weights) -> dict[str, Tensor]:
    """∇R[μ](k, ω) = E[D_ωφ(ω, h_{k−1})ᵀ p_k] at the particles ω = (v, w, b) of ``probe``.

    A particle without mass that obeys ω̇ = −∇R[μ_t](k, ω) follows the characteristic of the flow
    μ_t through its start. At the network's own particles the field is −ω̇ of the "particle" metric.

    Parameters
    ----------
    sweep : states and adjoints of the network that stands for μ, of one run or of as many as the
        probe has.
    width : particles a layer of that network; φ carries √m or m where its scaling is not 1/m.
    probe : particles in as many layers, any number in each; its A and B are not read.

    Returns
    -------
    "V", "W" and, with a bias, "b", shaped as in the probe.
    """
    before, after = sweep.states[..., :-1, :, :], sweep.adjoints[..., 1:, :, :]
    depth = before.shape[-3]
    if probe.depth != depth:
        raise ValueError(f"field: expected a probe of depth {depth}, received {probe.depth}")
    scale = net.residual_scale(depth, width) * depth * width / before.shape[-2]
    slope = net.input_scale(probe.state)
    z = torch.matmul(before, probe.W.mT) * slope
    if probe.b is not None:
        z = z + probe.b[..., None, :]
    g = net.activation.derivative(z) * torch.matmul(after, probe.V) * scale
    found = {
        "V": torch.matmul(after.mT, net.activation(z)) * scale,
        "W": torch.matmul(g.mT, before) * slope,
    }
    if probe.b is not None:
        found["b"] = g.sum(-2)
    return found
