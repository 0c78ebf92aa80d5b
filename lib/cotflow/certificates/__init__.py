"""Certificates of convergence: numbers computed at the start that bound the whole flow.

For h_{k+1} = h_k + (1/(Lm)) Σ_j u_j σ(w_j·h_k + b_j), |σ| ≤ 1, |σ′| ≤ 1, and the risk
(1/2N)Σ|Bh_L − y|². One direction: features → eigenvalues of their kernel → slope at one net →
slope on a ball → certificate. Every bound is rounded outward.

>>> import torch
>>> from cotflow import COS, Sizes, mean_field_net, tied
>>> from cotflow.certificates import gaussian_cos, layer_kernels, least_eigenvalue
>>> g = torch.Generator().manual_seed(0)
>>> start = gaussian_cos(tied(Sizes(4, 128, 3, 2, 1), g), g, tau=1.0)  # L, M, q, d, d′
>>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)  # N = 3
>>> kernels = layer_kernels(mean_field_net(COS), start, x)
>>> kernels.shape, bool(least_eigenvalue(kernels[0]) > 0)
(torch.Size([4, 3, 3]), True)
"""

from cotflow.certificates.blocks import BlockBall, block_ball, block_certificate
from cotflow.certificates.certificate import (
    Certificate,
    descent_budget,
    independent_certificate,
    initial_certificate,
    running_certificate,
)
from cotflow.certificates.chernoff import chernoff_probability, features_needed
from cotflow.certificates.eigenvalues import least_eigenvalue, least_feature_eigenvalue
from cotflow.certificates.features import (
    gaussian_cos,
    kernel_gaussian_cos,
    layer_kernels,
    layer_stretch,
)
from cotflow.certificates.independent import IndependentBall, independent_ball
from cotflow.certificates.initial import InitialBall, initial_ball
from cotflow.certificates.prior import PriorCertificate, prior_certificate
from cotflow.certificates.running import RunningBall, running_ball
from cotflow.certificates.slope import pl_bound, pl_bound_independent

__all__ = [
    "BlockBall",
    "Certificate",
    "IndependentBall",
    "InitialBall",
    "PriorCertificate",
    "RunningBall",
    "block_ball",
    "block_certificate",
    "chernoff_probability",
    "descent_budget",
    "features_needed",
    "gaussian_cos",
    "independent_ball",
    "independent_certificate",
    "initial_ball",
    "initial_certificate",
    "kernel_gaussian_cos",
    "layer_kernels",
    "layer_stretch",
    "least_eigenvalue",
    "least_feature_eigenvalue",
    "pl_bound",
    "pl_bound_independent",
    "prior_certificate",
    "running_ball",
    "running_certificate",
]
