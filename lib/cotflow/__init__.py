"""Flow solvers for infinitely deep, arbitrarily wide residual networks.

One direction: network → gradient → flow → what is measured and proved of it.

The front door, as a reader would look for it; everything loads on first use:

a network and its weights
    ResidualNet, Weights, Sizes, marion_net, mean_field_net; the initial laws tied, independent,
    smooth; the activations GELU, TANH, RELU, IDENTITY, COS; published, [M]'s experiments
a flow
    gradient, gradient_flow, flow, Checkpoint; the step methods EULER, HEUN, RK4, RKC2
distances between measures
    conditional_distance, labelled_distance, entropic_distance
what is read off
    largest_gap, loglog_slope; neural_ode, the limit of depth
what is proved beforehand
    certificates

The rest is in the sub-packages: :mod:`cotflow.network`, :mod:`cotflow.adjoint`,
:mod:`cotflow.flows`, :mod:`cotflow.transport`, :mod:`cotflow.limits`, :mod:`cotflow.bounds`,
:mod:`cotflow.certificates`, :mod:`cotflow.convolution`, :mod:`cotflow.measure`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cotflow import certificates as certificates
    from cotflow.adjoint.gradient import gradient as gradient
    from cotflow.flows.chebyshev import RKC2 as RKC2
    from cotflow.flows.checkpoint import Checkpoint as Checkpoint
    from cotflow.flows.flow import flow as flow
    from cotflow.flows.flow import gradient_flow as gradient_flow
    from cotflow.flows.runge_kutta import EULER as EULER
    from cotflow.flows.runge_kutta import HEUN as HEUN
    from cotflow.flows.runge_kutta import RK4 as RK4
    from cotflow.limits import neural_ode as neural_ode
    from cotflow.measure.observables import largest_gap as largest_gap
    from cotflow.measure.rates import loglog_slope as loglog_slope
    from cotflow.network.activations import COS as COS
    from cotflow.network.activations import GELU as GELU
    from cotflow.network.activations import IDENTITY as IDENTITY
    from cotflow.network.activations import RELU as RELU
    from cotflow.network.activations import TANH as TANH
    from cotflow.network.initial import Sizes as Sizes
    from cotflow.network.initial import independent as independent
    from cotflow.network.initial import smooth as smooth
    from cotflow.network.initial import tied as tied
    from cotflow.network.published import published as published
    from cotflow.network.residual import ResidualNet as ResidualNet
    from cotflow.network.residual import marion_net as marion_net
    from cotflow.network.residual import mean_field_net as mean_field_net
    from cotflow.network.weights import Weights as Weights
    from cotflow.transport.entropic import entropic_distance as entropic_distance
    from cotflow.transport.exact import conditional_distance as conditional_distance
    from cotflow.transport.exact import labelled_distance as labelled_distance

_HOMES = {
    "adjoint.gradient": ("gradient",),
    "flows.chebyshev": ("RKC2",),
    "flows.checkpoint": ("Checkpoint",),
    "flows.flow": ("flow", "gradient_flow"),
    "flows.runge_kutta": ("EULER", "HEUN", "RK4"),
    "measure.observables": ("largest_gap",),
    "measure.rates": ("loglog_slope",),
    "network.activations": ("COS", "GELU", "IDENTITY", "RELU", "TANH"),
    "network.initial": ("Sizes", "independent", "smooth", "tied"),
    "network.published": ("published",),
    "network.residual": ("ResidualNet", "marion_net", "mean_field_net"),
    "network.weights": ("Weights",),
    "transport.entropic": ("entropic_distance",),
    "transport.exact": ("conditional_distance", "labelled_distance"),
}
_HOME_OF = {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names}
_MODULES = {"certificates": "cotflow.certificates", "neural_ode": "cotflow.limits.neural_ode"}

__all__ = sorted([*_HOME_OF, *_MODULES])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        found = import_module(_MODULES[name])
    elif name in _HOME_OF:
        found = getattr(import_module(_HOME_OF[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
