"""Steps of controlled length: accuracy follows the tolerance, times are hit, batches agree."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import simpson

from cotflow.flows.adaptive import AdaptiveStep
from cotflow.flows.chebyshev import RKC2
from cotflow.flows.flow import flow, gradient_flow
from cotflow.flows.runge_kutta import BOGACKI_SHAMPINE, EULER, METHODS, RK4
from cotflow.flows.state import FlowState
from cotflow.flows.velocity import DivergenceError, VelocityField, frobenius_clip
from cotflow.network.activations import GELU, TANH
from cotflow.network.residual import marion_net, mean_field_net
from problems import ALL, distance, problem

SOLVERS = (*METHODS, RKC2)
EACH = pytest.mark.parametrize("method", SOLVERS, ids=lambda m: m.name)


@pytest.fixture(
    scope="module",
    params=[marion_net(GELU, trained=ALL), mean_field_net(TANH, trained=ALL)],
    ids=["M", "B"],
)
def solved(request):
    """A problem and the end of its flow by small steps."""
    net, (weights, x, y) = request.param, problem(2)
    fine = gradient_flow(net, weights, x, y, step=1 / 128, horizon=0.5, method=RK4)
    return net, weights, x, y, fine.weights


@pytest.mark.parametrize("method", [BOGACKI_SHAMPINE, RK4, RKC2], ids=lambda m: m.name)
def test_error_follows_the_tolerance_over_decades(method, solved):
    net, weights, x, y, reference = solved
    tolerances = (1e-3, 1e-4, 1e-5, 1e-6)
    records = [
        gradient_flow(net, weights, x, y, tolerance=tol, horizon=0.5, method=method)
        for tol in tolerances
    ]
    errors = np.array([distance(record.weights, reference) for record in records])
    assert (np.diff(errors) < 0).all(), errors
    slope = np.polyfit(np.log(tolerances), np.log(errors), 1)[0]
    # A step of error τ is τ^(1/(q+1)) long, which leaves τ^(p/(q+1)) in all: 2/3 for RKC, or 1.
    assert 0.5 < slope < 1.2, (slope, errors)
    for record, error in zip(records, errors, strict=True):
        assert error < 10 * float(record.error_estimate)
        assert record.tolerance is not None and record.step is None


@EACH
def test_first_order_methods_too_shrink_their_steps(method):
    weights, x, y = problem(2)
    net = marion_net(GELU, trained=ALL)
    loose, tight = (
        gradient_flow(net, weights, x, y, tolerance=tol, horizon=1.0, method=method)
        for tol in (1e-3, 1e-5)
    )
    assert tight.accepted > loose.accepted
    assert float(tight.error_estimate) < float(loose.error_estimate)


@EACH
def test_recording_times_and_the_horizon_are_exact(method):
    weights, x, y = problem()
    times = [0.0, 0.1, 0.1 + 1e-9, 1 / 3, 0.9]
    options = {"tolerance": 1e-4, "horizon": 1.0, "method": method}
    record = gradient_flow(marion_net(), weights, x, y, times=times, **options)
    assert record.times.tolist() == times
    assert record.observed["loss"].shape == (5,)
    last = list(flow(marion_net(), weights, x, y, **options))[-1]
    assert last.time == 1.0
    torch.testing.assert_close(
        last.loss, marion_net().loss(record.weights, x, y), rtol=1e-3, atol=0
    )


def test_every_accepted_step_is_recorded_unless_times_are_given():
    weights, x, y = problem()
    record = gradient_flow(marion_net(), weights, x, y, tolerance=1e-4, horizon=1.0)
    assert record.times.shape == (record.accepted + 1,)
    assert record.method is RKC2
    assert bool((record.times.diff() > 0).all())


def test_times_of_a_fixed_step_are_whole_numbers_of_steps():
    weights, x, y = problem()
    options = {"step": 0.1, "horizon": 1.0}
    record = gradient_flow(marion_net(), weights, x, y, times=[0.3, 0.7], **options)
    dense = gradient_flow(marion_net(), weights, x, y, **options)
    assert torch.equal(record.observed["loss"], dense.observed["loss"][[3, 7]])
    assert distance(record.weights, dense.weights) == 0.0
    with pytest.raises(ValueError, match=r"whole numbers of steps 0.1 up to 1, received 0.25"):
        gradient_flow(marion_net(), weights, x, y, times=[0.25], **options)


@pytest.mark.parametrize("method", [BOGACKI_SHAMPINE, RKC2], ids=lambda m: m.name)
def test_energy_identity(method):
    """ℓ(0) − ℓ(T) = ∫|∂ℓ|² dt along the adaptive flow."""
    weights, x, y = problem(1)
    record = gradient_flow(
        marion_net(TANH, trained=ALL),
        weights,
        x,
        y,
        tolerance=1e-7,
        horizon=0.5,
        times=np.linspace(0, 0.5, 33).tolist(),
        method=method,
        observe={"slope": lambda s: s.gradient.slope_squared},
    )
    loss, slope = record.observed["loss"], record.observed["slope"]
    dissipated = simpson(slope.numpy(), x=record.times.numpy())
    assert float(loss[0] - loss[-1]) == pytest.approx(dissipated, rel=1e-4)


@EACH
def test_a_batch_takes_common_steps_and_each_run_is_as_accurate_as_alone(method):
    weights, x, y = problem(7, runs=(3,))
    net, tolerance = marion_net(trained=ALL), 1e-4
    options = {"horizon": 0.5, "method": method, "clip": frobenius_clip(0.8)}
    together = gradient_flow(net, weights, x, y, tolerance=tolerance, **options)
    assert together.error_estimate.shape == (3,)
    assert together.observed["loss"].shape == (3, together.accepted + 1)
    for r in range(3):
        fine = gradient_flow(
            net, weights.run(r), x[r], y[r], step=1 / 128, **(options | {"method": RK4})
        )
        error = distance(together.weights.run(r), fine.weights)
        assert error < 5 * float(together.error_estimate[r])


@EACH
def test_copies_of_one_run_are_that_run(method):
    weights, x, y = problem(7)
    copies = weights.map(lambda v: v.expand(2, *v.shape))
    options = {"tolerance": 1e-4, "horizon": 0.5, "method": method}
    alone = gradient_flow(marion_net(trained=ALL), weights, x, y, **options)
    together = gradient_flow(marion_net(trained=ALL), copies, x, y, **options)
    assert together.accepted == alone.accepted
    for r in range(2):
        assert distance(together.weights.run(r), alone.weights) < 1e-10


@EACH
def test_evaluations_are_all_counted(method, monkeypatch):
    import cotflow.flows.velocity as module

    calls, true = [], module.evaluated
    monkeypatch.setattr(
        module, "evaluated", lambda *args, **options: calls.append(1) or true(*args, **options)
    )
    weights, x, y = problem(5, scale=1.5)
    for how in ({"tolerance": 1e-3}, {"step": 0.01}):
        calls.clear()
        record = gradient_flow(marion_net(), weights, x, y, horizon=0.2, method=method, **how)
        assert record.gradient_evaluations == len(calls)


@pytest.mark.parametrize("method", [BOGACKI_SHAMPINE, RKC2], ids=lambda m: m.name)
def test_a_step_that_leaves_the_numbers_is_taken_back(method):
    weights, x, y = problem(5, scale=2.0)
    field = VelocityField(marion_net(trained=ALL), x, y)
    error = torch.zeros((), dtype=torch.float64)
    state = FlowState(weights, error, proposal=1e6)
    control = AdaptiveStep(1e-2, (1e6,))
    start, velocity = field(weights)
    after, end, _ = control.advance(field, method, state, velocity)
    assert after.rejected > 5 and after.step == 1
    assert float(end.loss) < float(start.loss)


def test_divergence_is_told_and_not_an_endless_loop():
    weights, x, y = problem(6, runs=(2,))
    y[1] = math.inf
    with pytest.raises(DivergenceError, match=r"near time 0 .* loss is inf .* tolerance"):
        gradient_flow(marion_net(), weights, x, y, tolerance=1e-3, horizon=0.1)


def test_float32_runs_and_refuses_tolerances_below_its_rounding():
    weights, x, y = problem()
    single = weights.to(dtype=torch.float32)
    record = gradient_flow(marion_net(), single, x.float(), y.float(), tolerance=1e-4, horizon=1.0)
    exact = gradient_flow(marion_net(), weights, x, y, step=1 / 256, horizon=1.0, method=RK4)
    assert distance(record.weights.to(dtype=torch.float64), exact.weights) < 1e-3
    with pytest.raises(ValueError, match=r"tolerance from 1.2e-06 .* received 1e-07"):
        gradient_flow(marion_net(), single, x.float(), y.float(), tolerance=1e-7, horizon=1.0)


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "expected either a step or a tolerance, received neither"),
        ({"step": 0.1, "tolerance": 0.1}, "expected either a step or a tolerance, received both"),
        ({"tolerance": 1e-3, "every": 2}, "every counts fixed steps; give either every or times"),
        ({"step": 0.1, "every": 2, "times": [0.1]}, "every counts fixed steps; give either"),
        ({"tolerance": math.nan}, "up to 1, received nan"),
        ({"tolerance": -1.0}, "up to 1, received -1.0"),
        ({"tolerance": 1e-3, "times": []}, "increasing times between 0 and the horizon 1"),
        ({"tolerance": 1e-3, "times": [0.5, 0.2]}, "increasing times between 0 and the horizon 1"),
        ({"tolerance": 1e-3, "times": [0.5, 1.5]}, "increasing times between 0 and the horizon 1"),
    ],
)
def test_bad_arguments_give_one_sentence(given, message):
    weights, x, y = problem()
    with pytest.raises(ValueError) as caught:
        gradient_flow(marion_net(), weights, x, y, horizon=1.0, **given)
    assert str(caught.value).startswith("flow: ") and message in str(caught.value)


def test_a_flow_at_rest_stays_there_in_one_step():
    weights, x, _ = problem()
    net = marion_net()
    for method in (EULER, RKC2):
        record = gradient_flow(
            net, weights, x, net(weights, x), tolerance=1e-6, horizon=3.0, method=method
        )
        assert record.accepted == 1
        assert distance(record.weights, weights) < 1e-12
