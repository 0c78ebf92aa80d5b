"""What bounds and limits are given: numbers, or a sentence that says what was expected."""

import math
import warnings
from dataclasses import replace

import jaxtyping
import pytest
import torch

from cotflow.adjoint.gradient import gradient
from cotflow.bounds import energy, gaps, hermite, layer_maps, local_pl, pl_search
from cotflow.limits import depth, refinement, reversal, risk_field
from cotflow.network.activations import TANH
from cotflow.network.residual import marion_net, mean_field_net
from cotflow.network.weights import stack
from problems import random_problem

NAN, INF = math.nan, math.inf
NET, MEAN = marion_net(TANH), mean_field_net(TANH)
W, X, Y = random_problem(3, depth=4, q=3, m=5, d=2, dy=2, n=6, bias=False)
START = replace(W, V=0 * W.V)
BROKEN = replace(W, W=W.W * NAN)
AT, OTHER = gradient(NET, W, X, Y), gradient(NET, *random_problem(1, depth=6, q=3, bias=False))
LOST = replace(AT, adjoints=AT.adjoints * NAN)
EYE = torch.eye(3, dtype=torch.float64)
SQUARE = replace(W, A=EYE, B=EYE)
STATES = refinement.hidden_states(lambda k, h: torch.tanh(h), 4, X)
FIVE = local_pl.proposition_5(TANH, 2, 0.5, samples=3, state=3)
NORMS = local_pl.start_norms(NET, START, X)
X2, POINTS = STATES[0], torch.ones(5, 4, dtype=torch.float64)
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)
LEAF = torch.ones(1, dtype=torch.float64, requires_grad=True)


def generator():
    return torch.Generator().manual_seed(0)


def f(k, h):
    return torch.tanh(h)


def scaled(k, h):
    return LEAF * h


def search(weights=W, y=Y, radius=0.1, **counts):
    return pl_search.smallest_pl(NET, weights, X, y, radius, generator(), **counts)


def field(omega=POINTS, h=X2, p=X2, call=risk_field.risk_gradient):
    return call(MEAN, omega, h, p, width=5)


def sweep(x=X2, y=X2, omega=POINTS):
    return risk_field.continuous_sweep(MEAN, lambda s: omega, x, y, ENDS)


REFUSED = {
    "weights that are no numbers": [
        lambda: energy.no_blow_up(NET, BROKEN, X, AT.loss, 1.0),
        lambda: energy.layer_rate(NET, BROKEN, AT),
        lambda: energy.semiconvexity(MEAN, replace(SQUARE, V=NAN * W.V), AT, Y),
        lambda: gaps.gap_growth(NET, BROKEN, AT),
        lambda: layer_maps.layer_lipschitz(NET, BROKEN),
        lambda: layer_maps.jacobians(NET, BROKEN, STATES[0] @ EYE[:2]),
        lambda: local_pl.start_norms(NET, replace(BROKEN, V=START.V), X),
        lambda: local_pl.start_constant(NET, replace(BROKEN, V=START.V), X),
        lambda: search(BROKEN),
    ],
    "data that are no numbers": [
        lambda: energy.no_blow_up(NET, W, NAN * X, AT.loss, 1.0),
        lambda: energy.no_blow_up(NET, W, X, -AT.loss, 1.0),
        lambda: energy.no_blow_up(NET, W, X, AT.loss * INF, 1.0),
        lambda: energy.layer_rate(NET, W, LOST),
        lambda: energy.semiconvexity(MEAN, SQUARE, AT, torch.full((6, 3), INF).double()),
        lambda: gaps.gap_growth(NET, W, LOST),
        lambda: layer_maps.jacobian_norms(f, NAN * STATES, 3, generator()),
        lambda: layer_maps.secants(f, NAN * STATES, STATES),
        lambda: layer_maps.jacobians(NET, W, torch.full((2, 3), NAN).double()),
        lambda: local_pl.start_norms(NET, START, NAN * X),
        lambda: local_pl.start_constant(NET, START, INF * X),
        lambda: search(y=NAN * Y),
        lambda: depth.distance_to_reference(W.V, NAN * W.V),
        lambda: depth.distance_to_reference(1e200 * W.V, W.V),
        lambda: refinement.hidden_states(f, 3, NAN * X),
        lambda: refinement.leading_difference(f, NAN * STATES),
        lambda: refinement.acceleration(lambda layer, h: h, W, W, NAN * X),
        lambda: reversal.reconstruct(f, 3, NAN * X),
        lambda: reversal.reconstruction_bound(NAN * STATES, STATES.abs()),
        lambda: reversal.reconstruction_bound(-STATES.abs(), STATES.abs()),
        lambda: reversal.backpropagate(scaled, [[LEAF]], X, NAN * X),
        *(lambda k=k: field(**{k: NAN * POINTS[:, :2]}) for k in ("h", "p")),
        lambda: field(NAN * POINTS, call=risk_field.landscape),
        *(lambda k=k: sweep(**{k: NAN * X2}) for k in ("x", "y")),
        lambda: sweep(omega=NAN * POINTS),
    ],
    "shapes that do not fit": [
        lambda: energy.no_blow_up(NET, W, X[:0], AT.loss, 1.0),
        lambda: energy.no_blow_up(NET, W, X[:, :1], AT.loss, 1.0),
        lambda: energy.layer_rate(NET, W, OTHER),
        lambda: energy.layer_rate(NET, stack([W, W]), AT),
        lambda: energy.semiconvexity(MEAN, SQUARE, AT, Y[:1]),
        lambda: gaps.gap_growth(NET, W, OTHER),
        lambda: layer_maps.jacobian_norms(f, STATES[:1], 3, generator()),
        lambda: layer_maps.jacobian_norms(f, STATES, 3, generator(), batch=2),
        lambda: layer_maps.secants(f, STATES[:-1], STATES),
        lambda: layer_maps.secants(f, STATES[:, :1], STATES),
        lambda: layer_maps.secants(f, STATES[:0], STATES[:0]),
        lambda: layer_maps.jacobians(NET, W, X),
        lambda: layer_maps.jacobians(NET, W, torch.zeros(2, 3)),
        lambda: layer_maps.jacobians(NET, W, torch.zeros(0, 3).double()),
        lambda: local_pl.start_norms(NET, START, X[:0]),
        lambda: local_pl.start_norms(NET, START, X[:, :1]),
        lambda: local_pl.start_norms(NET, stack([START, START]), X),
        lambda: search(stack([W, W])),
        lambda: depth.interpolate(W.V[:0], 0.5),
        lambda: depth.interpolate(W.V.long(), 0.5),
        lambda: depth.interpolate(W.V, 0.5, dim=7),
        lambda: depth.distance_to_reference(W.V, W.V[..., :2]),
        lambda: depth.distance_to_reference(W.V, W.V[:, :1]),
        lambda: depth.distance_to_reference(W.V, W.V.expand(2, -1, -1, -1)),
        lambda: depth.distance_to_reference(W.V, W.V.float()),
        lambda: depth.distance_to_reference(W.V, W.V.to("meta")),
        lambda: depth.distance_to_reference(W.V, W.V[:0]),
        lambda: depth.distance_to_reference(W.V[0], W.V[0]),
        lambda: refinement.refine(W.V[:0], 3),
        lambda: refinement.refine(W.V, 3, dim=9),
        lambda: refinement.refine(W.V.long(), 3),
        lambda: refinement.layer_at(W.V[:0], 0.5, "constant"),
        lambda: refinement.hidden_states(f, 3, X[:0]),
        lambda: refinement.leading_difference(f, STATES[:1]),
        lambda: refinement.leading_difference(f, STATES[:0]),
        lambda: reversal.reconstruct(f, 3, X.long()),
        lambda: reversal.reconstruction_bound(STATES[:0], STATES[:0]),
        lambda: reversal.reconstruction_bound(STATES[:2], STATES),
        lambda: reversal.backpropagate(scaled, [], X, X),
        *(
            lambda c=c: field(p=X2[:1], call=c)
            for c in (risk_field.risk_gradient, risk_field.landscape)
        ),
        lambda: field(h=X2[:1], call=risk_field.landscape),
        lambda: sweep(y=X2[:1]),
        lambda: sweep(y=X2[:, :1]),
        lambda: sweep(x=X2[:3]),
        lambda: sweep(x=X2[:0], y=X2[:0]),
        lambda: reversal.backpropagate(scaled, [[LEAF]], X, X[:2]),
        lambda: reversal.backpropagate(scaled, [[LEAF]] * 3, X, X, STATES[:2]),
    ],
    "counts that are none": [
        *(lambda n=n: hermite.hermite_coefficients(TANH, n) for n in (-1, 1.5, NAN, "3")),
        lambda: hermite.hermite_coefficients(TANH, 3, 1),
        *(lambda n=n: layer_maps.jacobian_norms(f, STATES, n, generator()) for n in (0, -1, 1.5)),
        *(lambda n=n: local_pl.proposition_5(TANH, 2, 0.5, n, 3) for n in (0, -1, 1.5)),
        lambda: local_pl.proposition_5(TANH, 2, 0.5, 3, 0),
        lambda: FIVE.failure(-1, 2),
        lambda: FIVE.failure(4, 0),
        lambda: local_pl.feature_failure(0, 1, 0.5, 1.0),
        lambda: NORMS.best(0),
        lambda: search(draws=-1),
        lambda: search(rounds=1.5),
        *(lambda n=n: depth.linear_weights(n, 0.5) for n in (0, -2, 1.5, NAN)),
        *(lambda n=n: depth.overlap(3, n) for n in (0, 1.5)),
        *(lambda n=n: refinement.refine(W.V, n) for n in (0, 1.5, NAN)),
        *(lambda n=n: refinement.hidden_states(f, n, X) for n in (0, -1, 1.5)),
        *(lambda n=n: reversal.reconstruct(f, n, X) for n in (0, -1, 1.5)),
    ],
    "numbers out of range": [
        *(lambda t=t: energy.no_blow_up(NET, W, X, AT.loss, t) for t in (-1.0, NAN, INF)),
        *(lambda M=M: gaps.worst_case(NET, W, M, 1.0, 1.0) for M in (0.0, -1.0, NAN, INF, 1e200)),
        lambda: gaps.worst_case(NET, W, 1.0, 0.0, 1.0),
        lambda: gaps.worst_case(NET, W, 1.0, 1.0, -1.0),
        lambda: local_pl.proposition_5(TANH, 2, NAN, 3, 3),
        lambda: FIVE.failure(4, 2, proxy=0.0),
        lambda: local_pl.feature_failure(3, 4, NAN, 1.0),
        lambda: local_pl.theorem_6(FIVE, -1.0, 4),
        lambda: local_pl.theorem_6(FIVE, 1.0, 0),
        lambda: local_pl.proposition_8(NAN, 1.0, 1.0, 1.0, 1.0, 1.0),
        lambda: local_pl.proposition_8(1.0, 0.0, 1.0, 1.0, 1.0, 1.0),
        lambda: local_pl.proposition_8(-1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
        *(lambda M=M: NORMS.bound(M) for M in (0.0, -1.0, NAN, INF)),
        lambda: NORMS.derivatives(0.0),
        *(lambda M=M: search(radius=M) for M in (0.0, -1.0, NAN, INF)),
        lambda: search(y=NET(W, X)),
        lambda: depth.linear_weights(3, NAN),
        lambda: refinement.layer_at(W.V, NAN, "constant"),
        lambda: refinement.acceleration(lambda layer, h: h, W, W, X, step=0.0),
    ],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_answered_is_refused_in_one_sentence(kind, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for number, call in enumerate(REFUSED[kind]):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                found = call()
            except ValueError as refusal:
                said = str(refusal)
                assert "expected " in said and "received " in said and "\n" not in said, said
                continue
        raise AssertionError(f"{kind}, {number}: {found}")


def test_targets_that_are_zero_have_a_worst_case():
    zero, small = (gaps.worst_case(NET, W, 1.0, 1.0, y) for y in (0.0, 1e-90))
    assert zero == small


def test_a_layer_that_is_constant_has_a_jacobian_of_norm_zero():
    found = layer_maps.jacobian_norms(lambda k, h: 0 * h + k, STATES, 3, generator())
    assert found.shape == (4, 6) and not bool(found.any())
