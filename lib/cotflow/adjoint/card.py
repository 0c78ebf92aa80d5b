"""Who carries the layers: Triton's kernels on a card that they can be built for, or torch."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

from cotflow.adjoint import segments
from cotflow.adjoint.segments import Batched, Layers
from cotflow.adjoint.sweep import Sweep
from cotflow.network.activations import COVERED
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import Weights

LARGEST_STATE = 128
OLDEST = (8, 0)


def obstacle(net: ResidualNet, weights: Weights, x: Tensor) -> str:
    """Why there are no kernels of Triton for these arguments; empty if there are."""
    if net.activation not in COVERED:
        return f"they cover {', '.join(a.name for a in COVERED)}, not {net.activation.name}"
    if x.dtype not in (torch.float32, torch.float64):
        return f"they compute in float32 and float64, not in {x.dtype}"
    if weights.state > LARGEST_STATE:
        return f"they hold a state of at most {LARGEST_STATE}, not of {weights.state}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install triton; it comes along with torch for CUDA)"
    if x.device.type == "cuda":
        capability = torch.cuda.get_device_capability(x.device)
        if capability < OLDEST:
            name = torch.cuda.get_device_name(x.device)
            needed, found = (".".join(map(str, pair)) for pair in (OLDEST, capability))
            return f"they need a card of compute capability {needed}, and {name} has {found}"
    # Triton's own way to run kernels without a card, for tests.
    elif x.device.type != "cpu" or os.environ.get("TRITON_INTERPRET") != "1":
        return f"they need a CUDA device, and the tensors are on {x.device}"
    return ""


def layers(net: ResidualNet, weights: Weights, x: Tensor) -> Layers:
    """By Triton on a card that it can serve, and else by batches of products in torch."""
    if x.device.type != "cuda" or obstacle(net, weights, x):
        return Batched(net, weights)
    return kernels(net, weights, x)


def kernels(net: ResidualNet, weights: Weights, x: Tensor) -> Layers:
    """By Triton."""
    from cotflow.adjoint import triton

    return triton.Layers(net, weights)


def sweep(
    net: ResidualNet,
    weights: Weights,
    h0: Tensor,
    y: Tensor,
    factors: dict[str, float],
    segment: int | None = None,
) -> Sweep:
    """Both sweeps by Triton, one layer after the other; see :func:`cotflow.adjoint.plain.sweep`."""
    return segments.sweep(kernels(net, weights, h0), net, weights, h0, y, factors, segment)
