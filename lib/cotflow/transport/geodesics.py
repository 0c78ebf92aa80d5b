"""Geodesics of the conditional transport distance: every layer is interpolated on its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.transport.exact import coupling, flat
from cotflow.transport.layers import require_layers


@dataclass(frozen=True)
class Geodesic:
    """μ_t(·|k) = Σ_a mass_{k,a} δ_{(1−t) start_{k,a} + t end_{k,a}},  0 ≤ t ≤ 1.

    Attributes
    ----------
    start, end : the two ends of each moving atom.
    masses : of sum 1 in every layer; all equal where both families have the same width, and zero
        for atoms that only fill up a layer whose plan joins fewer pairs than another's.
    """

    start: Float[Tensor, "*runs L a p"]
    end: Float[Tensor, "*runs L a p"]
    masses: Float[Tensor, "*runs L a"]

    def at(self, t: float) -> Float[Tensor, "*runs L a p"]:
        """The atoms at time t; their masses do not change."""
        if not 0.0 <= t <= 1.0:
            raise ValueError(f"geodesic: expected a time 0 ≤ t ≤ 1, received {t}")
        return torch.lerp(self.start, self.end, t)

    @property
    def velocity(self) -> Float[Tensor, "*runs L a p"]:
        """v of the continuity equation ∂_tμ + div_ω(vμ) = 0, constant along each atom's path."""
        return self.end - self.start

    @property
    def action(self) -> Float[Tensor, "*runs"]:
        """∫₀¹ ∫ |v|² dμ_t dt = d(μ_0, μ_1)² (Benamou–Brenier in every layer)."""
        return (self.masses * self.velocity.square().sum(-1)).sum(-1).mean(-1)


def geodesic(mu: Float[Tensor, "*runs L m p"], nu: Float[Tensor, "*runs L m2 p"]) -> Geodesic:
    """μ_t(·|k) = ((1−t)p₁ + t p₂)_# γ_k with γ_k an optimal plan of layer k.

    Equal widths are matched atom to atom and keep the order of ``mu``. For unequal widths the
    atoms are the pairs that the plan joins, at most m + m2 − 1 a layer. Exact up to rounding,
    O(L M³) at worst; where several plans are optimal, this is the geodesic of one of them.

    Source: [B], as restated in OT4ML.
    """
    require_layers(mu, nu, what="geodesic")
    plans = [coupling(*layer) for layer in zip(flat(mu, 2), flat(nu, 2), strict=True)]
    atoms = max(len(mass) for _, _, mass in plans)
    precision = torch.promote_types(mu.dtype, nu.dtype)

    def padded(column: int, dtype: torch.dtype) -> Tensor:
        rows = [np.pad(plan[column], (0, atoms - len(plan[column]))) for plan in plans]
        values = torch.from_numpy(np.stack(rows)).to(mu.device, dtype)
        return values.reshape(*mu.shape[:-2], atoms)

    def ends(family: Tensor, column: int) -> Tensor:
        index = (
            padded(column, torch.int64).unsqueeze(-1).expand(*mu.shape[:-2], atoms, mu.shape[-1])
        )
        return family.to(precision).gather(-2, index)

    return Geodesic(ends(mu, 0), ends(nu, 1), padded(2, precision))
