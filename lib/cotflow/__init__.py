"""Flow solvers for infinitely deep, arbitrarily wide residual networks.

One direction: data → initial law → network → flow → observables → claim.
"""

import os

# Tensors of many megabytes come in large pages where torch can ask for them (Linux, CPU): a step
# at great depth otherwise spends its time on page faults. Heeded only before torch's first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from cotflow import bounds, certificates, compiled, neural_ode
from cotflow.activations import COS, GELU, IDENTITY, RELU, TANH, activation
from cotflow.adjoint import gradient
from cotflow.checkpoint import Checkpoint
from cotflow.claims import Claim, Untested
from cotflow.data import gaussian_data, published
from cotflow.depth import distance_to_reference, interpolate
from cotflow.entropic import entropic_distance
from cotflow.field import continuous_sweep, field, landscape
from cotflow.flows import (
    BOGACKI_SHAMPINE,
    EULER,
    HEUN,
    RK4,
    RKC2,
    DivergenceError,
    flow,
    frobenius_clip,
    gradient_flow,
)
from cotflow.geodesics import Geodesic, geodesic
from cotflow.initial import GaussianPath, Sizes, independent, smooth, tied
from cotflow.network import ResidualNet, Weights, marion_net, mean_field_net, stack
from cotflow.observables import gaps, largest_gap, largest_layer, largest_norm, squared_gaps
from cotflow.rates import loglog_slope, mean_interval
from cotflow.sliced import directions, sliced_distance
from cotflow.transport import (
    conditional_distance,
    labelled_distance,
    layer_distances,
    particles,
    product_distance,
)

__all__ = [
    "BOGACKI_SHAMPINE",
    "COS",
    "EULER",
    "GELU",
    "HEUN",
    "IDENTITY",
    "RELU",
    "RK4",
    "RKC2",
    "TANH",
    "Checkpoint",
    "Claim",
    "DivergenceError",
    "GaussianPath",
    "Geodesic",
    "ResidualNet",
    "Sizes",
    "Untested",
    "Weights",
    "activation",
    "bounds",
    "certificates",
    "compiled",
    "conditional_distance",
    "continuous_sweep",
    "directions",
    "distance_to_reference",
    "entropic_distance",
    "field",
    "flow",
    "frobenius_clip",
    "gaps",
    "gaussian_data",
    "geodesic",
    "gradient",
    "gradient_flow",
    "independent",
    "interpolate",
    "labelled_distance",
    "landscape",
    "largest_gap",
    "largest_layer",
    "largest_norm",
    "layer_distances",
    "loglog_slope",
    "marion_net",
    "mean_field_net",
    "mean_interval",
    "neural_ode",
    "particles",
    "product_distance",
    "published",
    "sliced_distance",
    "smooth",
    "squared_gaps",
    "stack",
    "tied",
]
