"""‖Df(h)‖ and |f(y) − f(x)|/|y − x|: Lipschitz constants of a net's layers where it is used."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp, vjp


def sample_norms(values: Float[Tensor, "*batch ..."], batch: int = 1) -> Float[Tensor, "*batch"]:
    """Euclidean norm of each sample: over all axes but the first ``batch``."""
    return values.flatten(batch).norm(dim=-1)


@torch.no_grad()
def jacobian_norms(
    f: Callable[[int, Tensor], Tensor],
    states: Float[Tensor, "layers *batch ..."],
    iterations: int,
    generator: torch.Generator,
    batch: int = 1,
) -> Float[Tensor, "L *batch"]:
    """‖D_hf(k, h_{k,i})‖₂ for every layer k and sample i, from below.

    Power iteration on DᵀD, each product one forward and one backward derivative. Its value never
    exceeds the norm and grows with the iterations: an estimate of a Lipschitz constant, never a
    bound. Samples, the first ``batch`` axes of a state, must not see each other in f.
    """
    norms = []
    for k, h in enumerate(states[:-1]):
        v = torch.randn(h.shape, generator=generator, dtype=h.dtype, device=h.device)
        _, pull = vjp(lambda x, k=k: f(k, x), h)
        for _ in range(iterations):
            v = v / sample_norms(v, batch).reshape(*v.shape[:batch], *[1] * (v.ndim - batch))
            pushed = jvp(lambda x, k=k: f(k, x), (h,), (v,))[1]
            v = pull(pushed)[0]
        norms.append(sample_norms(pushed, batch))
    return torch.stack(norms)


@torch.no_grad()
def secants(
    f: Callable[[int, Tensor], Tensor],
    first: Float[Tensor, "L *batch ..."],
    second: Float[Tensor, "L *batch ..."],
    batch: int = 1,
) -> Float[Tensor, "L *batch"]:
    """|f(k, y_k) − f(k, x_k)| / |y_k − x_k|, for every layer k and sample; nan where x_k = y_k.

    The only Lipschitz quotients that a comparison of two trajectories asks for.
    """
    return torch.stack(
        [
            sample_norms(f(k, y) - f(k, x), batch) / sample_norms(y - x, batch)
            for k, (x, y) in enumerate(zip(first, second, strict=True))
        ]
    )
