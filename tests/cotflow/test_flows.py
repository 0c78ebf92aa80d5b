"""Gradient flows: against gradient descent, an independent solver and the energy identity."""

import math
import subprocess
import sys
import weakref
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch
from scipy.integrate import simpson, solve_ivp

from cotflow.flows.flow import flow, gradient_flow
from cotflow.flows.runge_kutta import EULER, METHODS, RK4
from cotflow.flows.velocity import DivergenceError, frobenius_clip
from cotflow.network.activations import GELU, IDENTITY, TANH
from cotflow.network.residual import ResidualNet, marion_net, mean_field_net
from cotflow.network.weights import Weights
from problems import ALL, distance, problem


@pytest.mark.parametrize(
    "net, per_layer", [(marion_net(GELU, trained=ALL), 1), (mean_field_net(TANH, trained=ALL), 4)]
)
def test_euler_is_gradient_descent_at_rate_step_times_depth(net, per_layer):
    """Rate η·L on the layers in the layer metric, η·L·m in the particle metric, η on A and B."""
    weights, x, y = problem()
    step, count = 0.05, 6
    leaves = {k: v.clone().requires_grad_() for k, v in weights.tensors().items()}
    layered = [leaves[name] for name in ("V", "W", "b")]
    optimizer = torch.optim.SGD(
        [
            {"params": [leaves["A"], leaves["B"]], "lr": step},
            {"params": layered, "lr": step * weights.depth * per_layer},
        ]
    )
    for _ in range(count):
        optimizer.zero_grad()
        net.loss(replace(weights, **leaves), x, y).backward()
        optimizer.step()
    end = gradient_flow(net, weights, x, y, step=step, horizon=count * step).weights
    for name, value in end.tensors().items():
        torch.testing.assert_close(value, leaves[name].detach(), rtol=1e-12, atol=1e-13)


def test_only_trained_parameters_move():
    weights, x, y = problem()
    end = gradient_flow(marion_net(trained=("V",)), weights, x, y, step=0.1, horizon=0.3).weights
    assert not torch.equal(end.V, weights.V)
    for name in ("A", "W", "b", "B"):
        assert torch.equal(getattr(end, name), getattr(weights, name))


def test_every_method_converges_at_its_order():
    weights, x, y = problem(1)
    net = marion_net(TANH, trained=ALL)

    def end(method, steps):
        return gradient_flow(
            net, weights, x, y, step=0.5 / steps, horizon=0.5, method=method, every=steps
        ).weights

    reference = end(RK4, 128)
    for method in METHODS:
        steps = np.array([8, 16, 32])
        errors = [distance(end(method, int(k)), reference) for k in steps]
        slopes = -np.diff(np.log(errors)) / np.diff(np.log(steps))
        assert abs(slopes[-1] - method.order) < 0.1, (method.name, slopes)


def test_energy_identity_up_to_the_order_of_the_integrator():
    """ℓ(0) − ℓ(T) = ∫|∂ℓ|² dt; Simpson's rule is at least as accurate as every method here."""
    weights, x, y = problem(1)
    net = marion_net(TANH, trained=ALL)
    for method in METHODS:
        residuals = []
        for steps in (16, 32, 64):
            record = gradient_flow(
                net,
                weights,
                x,
                y,
                step=0.5 / steps,
                horizon=0.5,
                method=method,
                observe={"slope": lambda s: s.gradient.slope_squared},
            )
            loss, slope = record.observed["loss"], record.observed["slope"]
            dissipated = simpson(slope.numpy(), x=record.times.numpy())
            residuals.append(abs(float(loss[0] - loss[-1]) - dissipated))
        order = math.log2(residuals[-2] / residuals[-1])
        assert abs(order - method.order) < 0.15, (method.name, residuals)
    assert residuals[-1] < 1e-7


@pytest.mark.parametrize("net", [marion_net(GELU, trained=ALL), mean_field_net(TANH, trained=ALL)])
def test_agrees_with_an_independent_solver(net):
    weights, x, y = problem(2)
    rates = net.rates(weights)
    shapes = {name: value.shape for name, value in weights.tensors().items()}
    sizes = [math.prod(shape) for shape in shapes.values()]

    def unflatten(flat):
        parts = torch.as_tensor(flat).split(sizes)
        return {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}

    def velocity(_, flat):
        leaves = {name: v.clone().requires_grad_() for name, v in unflatten(flat).items()}
        loss = net.loss(Weights(**leaves), x, y)
        partial = torch.autograd.grad(loss, list(leaves.values()))
        return torch.cat(
            [-rates[name] * g.flatten() for name, g in zip(leaves, partial, strict=True)]
        ).numpy()

    start = torch.cat([value.flatten() for value in weights.tensors().values()]).numpy()
    solution = solve_ivp(velocity, (0.0, 1.0), start, method="DOP853", rtol=1e-11, atol=1e-12)
    record = gradient_flow(net, weights, x, y, step=1 / 128, horizon=1.0, method=RK4, every=128)
    assert distance(record.weights, Weights(**unflatten(solution.y[:, -1]))) < 1e-8
    assert distance(record.weights, weights) > 0.1


def scalar_flow(depth, times):
    """r(t) of ṙ = −2√(1+r²)((1+r/S)^S + 1)(1+r/S)^{S−1}; S = ∞ puts e^r for both powers."""

    def velocity(_, r):
        if math.isinf(depth):
            powers = (np.exp(r) + 1.0) * np.exp(r)
        else:
            powers = ((1.0 + r / depth) ** depth + 1.0) * (1.0 + r / depth) ** (depth - 1)
        return -2.0 * np.sqrt(1.0 + r**2) * powers

    return solve_ivp(
        velocity, (0.0, times[-1]), [0.0], t_eval=times, method="DOP853", rtol=1e-12, atol=1e-13
    ).y[0]


def scalar_net_flow(depth, steps):
    """The same r = ½ U·V by the general solver, at t = 0.1 and t = 1; U is the outer weight."""
    root = math.sqrt(2.0)
    one = torch.ones(1, 1, dtype=torch.float64)
    weights = Weights(
        A=one,
        V=torch.tensor([[root, 0.0]], dtype=torch.float64).expand(depth, 1, 2),
        W=torch.tensor([[0.0], [root]], dtype=torch.float64).expand(depth, 2, 1),
        B=one,
    )
    record = gradient_flow(
        mean_field_net(IDENTITY),
        weights,
        one,
        -one,
        step=1.0 / steps,
        horizon=1.0,
        method=RK4,
        every=steps // 10,
        observe={"r": lambda s: torch.matmul(s.weights.V, s.weights.W).squeeze() / 2},
    )
    r = record.observed["r"].reshape(depth, -1)
    assert float((r - r[0]).abs().max()) < 1e-12
    return r[0, [1, 10]].numpy(), record.observed["loss"][[1, 10]].numpy()


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_scalar_linear_net_equals_its_scalar_equation(depth):
    r, loss = scalar_net_flow(depth, 80)
    exact = scalar_flow(depth, [0.1, 1.0])
    np.testing.assert_allclose(r, exact, atol=1e-6)
    np.testing.assert_allclose(loss, 0.5 * ((1 + exact / depth) ** depth + 1) ** 2, atol=1e-6)


def test_scalar_linear_net_tends_to_the_reference_values_in_depth():
    reference = np.array([-0.319133, -1.604247])
    np.testing.assert_allclose(scalar_flow(math.inf, [0.1, 1.0]), reference, atol=1e-6)
    coarse, middle, fine = (scalar_net_flow(depth, 40)[0] for depth in (16, 32, 64))
    ratio = (coarse - reference) / (middle - reference)
    np.testing.assert_allclose(ratio, 2.0, atol=0.1)
    extrapolated = (8 * fine - 6 * middle + coarse) / 3
    np.testing.assert_allclose(extrapolated, reference, atol=1e-4)


def test_clip_bounds_every_matrix_and_is_lipschitz():
    g = torch.Generator().manual_seed(3)
    clip = frobenius_clip(1.5)
    shapes = {"A": (3, 2), "V": (50, 3, 4), "W": (50, 4, 3), "b": (50, 4)}

    def draw():
        """Norms on both sides of the radius: a random size for every layer."""
        return {
            k: torch.randn(s, generator=g, dtype=torch.float64)
            * torch.rand((*s[:-2], 1, 1) if k != "b" else (50, 1), generator=g)
            for k, s in shapes.items()
        }

    def norms(velocity):
        return {k: v.norm(dim=-1 if k == "b" else (-2, -1)) for k, v in velocity.items()}

    first, second = draw(), draw()
    clipped, other = clip(first), clip(second)
    for name in shapes:
        assert float(norms(clipped)[name].max()) <= 1.5 * (1 + 1e-14)
    assert any(bool((norms(first)[name] > 1.5).any()) for name in shapes)
    moved = norms({k: clipped[k] - other[k] for k in shapes})
    given = norms({k: first[k] - second[k] for k in shapes})
    for name in shapes:
        assert bool((moved[name] <= given[name] * (1 + 1e-12)).all())


def test_clipped_flow_moves_no_faster_than_the_radius():
    weights, x, y = problem(4, scale=1.5)
    net, step, radius = marion_net(trained=ALL), 0.01, 0.5
    clip = frobenius_clip(radius)
    record = gradient_flow(net, weights, x, y, step=step, horizon=0.2, clip=clip)
    for name, value in record.weights.tensors().items():
        moved = (value - getattr(weights, name)).norm(dim=-1 if name == "b" else (-2, -1))
        assert float(moved.max()) <= radius * 0.2 * (1 + 1e-12)
    free = gradient_flow(net, weights, x, y, step=step, horizon=0.2)
    assert distance(free.weights, record.weights) > 1e-2


def test_clipped_flow_is_the_flow_when_the_radius_exceeds_every_velocity():
    weights, x, y = problem(4)
    for method in METHODS:
        options = {"step": 0.02, "horizon": 0.2, "method": method}
        free = gradient_flow(marion_net(trained=ALL), weights, x, y, **options)
        clipped = gradient_flow(
            marion_net(trained=ALL), weights, x, y, clip=frobenius_clip(1e3), **options
        )
        assert distance(free.weights, clipped.weights) == 0.0


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_divergence_names_the_time_the_norm_and_a_way_out(method):
    weights, x, y = problem(5, scale=2.0)
    with pytest.raises(DivergenceError) as caught:
        gradient_flow(marion_net(trained=ALL), weights, x, y, step=50.0, horizon=5e3, method=method)
    text = str(caught.value)
    time, step = 50.0 * int(text.split("(step ")[1].split()[0]), "below 50"
    assert f"near time {time:.4g}" in text and "of 100" in text
    assert "largest weight entry is" in text
    assert step in text and "clip=frobenius_clip" in text


def test_divergence_does_not_hide_weights_that_are_not_numbers():
    weights, x, y = problem()
    weights.V[0, 0, 0] = math.nan
    with pytest.raises(DivergenceError, match="largest weight entry is nan"):
        gradient_flow(marion_net(), weights, x, y, step=0.1, horizon=0.1)


def test_one_diverging_run_stops_the_batch():
    weights, x, y = problem(6, runs=(2,))
    y[1] = math.inf
    with pytest.raises(DivergenceError, match="time 0"):
        gradient_flow(marion_net(), weights, x, y, step=0.1, horizon=0.1)


def test_batched_runs_equal_the_loop():
    weights, x, y = problem(7, runs=(3,))
    net = marion_net(trained=ALL)
    for method in METHODS:
        options = {"step": 0.05, "horizon": 0.25, "method": method}
        options["clip"] = frobenius_clip(0.8)
        together = gradient_flow(net, weights, x, y, **options)
        assert together.observed["loss"].shape == (3, 6)
        for r in range(3):
            alone = gradient_flow(net, weights.run(r), x[r], y[r], **options)
            torch.testing.assert_close(
                together.observed["loss"][r], alone.observed["loss"], rtol=1e-12, atol=0
            )
            assert distance(together.weights.run(r), alone.weights) < 1e-12


@pytest.mark.parametrize(
    "every, recorded", [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6]), (4, [0, 4, 6]), (99, [0, 6])]
)
def test_times_recorded(every, recorded):
    weights, x, y = problem()
    for method in METHODS:
        record = gradient_flow(
            marion_net(), weights, x, y, step=0.1, horizon=0.6, every=every, method=method
        )
        np.testing.assert_allclose(record.times, 0.1 * np.array(recorded), rtol=1e-12)
        assert record.observed["loss"].shape == (len(recorded),)
        assert record.gradient_evaluations == 6 * len(method.b) + 1
        assert (record.method, record.step) == (method, 0.1)


def test_recorded_every_so_often_is_a_subsequence():
    weights, x, y = problem()
    all_times = gradient_flow(marion_net(), weights, x, y, step=0.1, horizon=0.6)
    some = gradient_flow(marion_net(), weights, x, y, step=0.1, horizon=0.6, every=4)
    assert torch.equal(some.observed["loss"], all_times.observed["loss"][[0, 4, 6]])


def test_horizon_is_rounded_to_whole_steps():
    weights, x, y = problem()
    record = gradient_flow(marion_net(), weights, x, y, step=0.3, horizon=1.0)
    assert record.times[-1].item() == pytest.approx(0.9)
    record = gradient_flow(marion_net(), weights, x, y, step=0.3, horizon=0.01)
    assert record.times.tolist() == pytest.approx([0.0, 0.3])


def test_snapshots_are_consistent_and_leave_the_given_weights_alone():
    weights, x, y = problem()
    copies = {name: value.clone() for name, value in weights.tensors().items()}
    net = marion_net(trained=ALL)
    for snapshot in flow(net, weights, x, y, step=0.1, horizon=0.5, method=RK4):
        torch.testing.assert_close(snapshot.loss, net.loss(snapshot.weights, x, y))
        assert snapshot.time == pytest.approx(0.1 * snapshot.step)
    for name, value in copies.items():
        assert torch.equal(getattr(weights, name), value)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_no_history_of_weights_is_kept(method):
    """Not even through an observer that returns a view into a weight matrix."""
    weights, x, y = problem()
    past, alive = [], []

    def entry(snapshot):
        alive.append(sum(ref() is not None for ref in past))
        past.append(weakref.ref(snapshot.weights.V))
        past.append(weakref.ref(snapshot.gradient.states))
        return snapshot.weights.V[0, 0, 0]

    net, observe = marion_net(), {"entry": entry}
    gradient_flow(net, weights, x, y, step=0.01, horizon=0.3, method=method, observe=observe)
    assert len(past) == 62
    assert max(alive) <= 4, alive


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"step": 0.0}, "expected a finite step > 0, received 0.0"),
        ({"step": math.nan}, "expected a finite step > 0, received nan"),
        ({"step": math.inf}, "expected a finite step > 0, received inf"),
        ({"horizon": -1.0}, "expected a finite horizon > 0, received -1.0"),
        ({"horizon": math.inf}, "expected a finite horizon > 0, received inf"),
        ({"every": 0}, "expected every ≥ 1, received 0"),
    ],
)
def test_bad_arguments_give_one_sentence(wrong, message):
    weights, x, y = problem()
    with pytest.raises(ValueError) as caught:
        gradient_flow(marion_net(), weights, x, y, **({"step": 0.1, "horizon": 1.0} | wrong))
    assert str(caught.value) == f"flow: {message}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": 0.0},
        {"step": 0.1, "tolerance": 1e-3},
        {"horizon": -1.0},
        {"every": 0},
        {"times": [2.0]},
        {"method": 3},
        {"clip": 1.0},
        {"segment": 0},
        {"x": torch.zeros(5, 3, dtype=torch.float64)},
        {"y": torch.zeros(4, 2, dtype=torch.float64)},
        {"x": torch.zeros(5, 2, dtype=torch.float32)},
    ],
    ids=lambda wrong: str([*wrong]),
)
def test_a_flow_is_refused_at_the_call_and_not_at_its_first_state(wrong, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    weights, x, y = problem()
    with pytest.raises(ValueError):
        flow(marion_net(), weights, **({"x": x, "y": y, "step": 0.1, "horizon": 1.0} | wrong))


def test_a_flow_computes_nothing_before_it_is_asked():
    weights, x, y = problem()
    calls = []
    states = flow(marion_net(), weights, x, y, step=0.1, horizon=1.0, clip=calls.append)
    assert calls == [] and iter(states) is states


def test_the_loss_is_no_name_for_another_observable():
    weights, x, y = problem()
    with pytest.raises(ValueError, match=r'^observe: expected a name other than "loss"'):
        gradient_flow(
            marion_net(), weights, x, y, step=0.1, horizon=1.0, observe={"loss": lambda s: 1.0}
        )


@pytest.mark.parametrize("radius", [0.0, -1.0, math.nan])
def test_clip_asks_for_a_positive_radius(radius):
    with pytest.raises(ValueError, match=r"^clip: expected a radius > 0, received "):
        frobenius_clip(radius)


def test_network_asks_for_known_parameters():
    with pytest.raises(ValueError, match=r"expected names among A, V, W, b, B, received \['U'\]"):
        ResidualNet(trained=("V", "U"))


def test_runs_on_the_device_in_both_precisions(device):
    weights, x, y = problem()
    exact = gradient_flow(marion_net(), weights, x, y, step=0.1, horizon=0.5, method=EULER)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
        moved = weights.to(dtype=dtype, device=device)
        result = gradient_flow(
            marion_net(), moved, x.to(device, dtype), y.to(device, dtype), step=0.1, horizon=0.5
        )
        assert result.weights.V.dtype == dtype and result.weights.V.device.type == device
        assert distance(result.weights.to(dtype=torch.float64, device="cpu"), exact.weights) < (
            tolerance
        )


@pytest.mark.slow
def test_the_published_flow_at_depth_16384_fits_in_4_gigabytes():
    """Memory does not grow with the number of steps (above), so that two steps tell for 500."""
    code = """
import resource, torch
from cotflow import gradient_flow, published
torch.set_num_threads(1)
e = published("figure 1", 2**14, seed=0)
gradient_flow(e.net, e.weights, e.x, e.y, step=0.01, horizon=0.02)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 4


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"every": 1.5}, "expected every ≥ 1, received 1.5"),
        ({"every": math.nan}, "expected every ≥ 1, received nan"),
        ({"step": -0.1}, "expected a finite step > 0, received -0.1"),
        ({"step": True}, "expected a finite step > 0, received True"),
        ({"step": np.array([0.1])}, "expected a finite step > 0, received ndarray of shape (1,)"),
        ({"step": torch.ones(2)}, "expected a finite step > 0, received Tensor of shape (2,)"),
        (
            {"step": torch.ones((), device="meta")},
            "expected a finite step > 0, received Tensor of shape ()",
        ),
        ({"horizon": np.float64("nan")}, "expected a finite horizon > 0, received nan"),
        ({"horizon": 10**400}, "expected a finite horizon > 0, received 1000"),
        ({"step": 1e-300, "horizon": 1e300}, "expected a step that can be counted up to the"),
        ({"times": [0.1, math.inf]}, "expected finite times, received inf"),
        ({"times": np.array([[0.1]])}, "expected finite times, received ndarray of shape (1,)"),
        ({"times": [0.1, 0.1 + 1e-9]}, "expected times that are a step 0.1 apart or more"),
        ({"times": [-0.1, 0.1]}, "expected increasing times between 0 and the horizon 1"),
    ],
)
def test_what_is_no_number_or_no_time_is_refused_with_a_sentence(wrong, message):
    weights, x, y = problem()
    with pytest.raises(ValueError) as caught:
        gradient_flow(marion_net(), weights, x, y, **({"step": 0.1, "horizon": 1.0} | wrong))
    assert str(caught.value).startswith(f"flow: {message}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "sizes, name",
    [({"runs": (0,)}, "A"), ({"depth": 0}, "V"), ({"m": 0}, "V"), ({"n": 0}, "x"), ({"q": 0}, "A")],
    ids=str,
)
@pytest.mark.parametrize("way", [{"step": 0.1}, {"tolerance": 1e-3}], ids=str)
def test_nothing_to_train_is_refused_with_a_sentence(way, sizes, name):
    weights, x, y = problem(**sizes)
    message = rf"^flow: expected at least one run, layer, particle and sample, received {name} of"
    with pytest.raises(ValueError, match=message):
        gradient_flow(marion_net(), weights, x, y, horizon=1.0, **way)
    with pytest.raises(ValueError, match=message):
        next(flow(marion_net(), weights, x, y, horizon=1.0, **way))


@pytest.mark.parametrize("way", [{"step": 0.1}, {"tolerance": 1e-3}], ids=str)
def test_times_that_rounding_moves_are_those_times(way):
    weights, x, y = problem()
    times = [-1e-17, *(k * 0.1 for k in range(1, 4))]
    assert times[-1] > 0.3
    record = gradient_flow(marion_net(), weights, x, y, horizon=0.3, times=times, **way)
    assert record.observed["loss"].shape == (4,)
    assert record.times[0] == 0 and abs(float(record.times[-1]) - 0.3) < 1e-16
    if "tolerance" in way:
        assert record.times[-1] == 0.3
        near = [0.1, math.nextafter(0.3, 0)]
        record = gradient_flow(marion_net(), weights, x, y, horizon=0.3, times=near, **way)
        assert record.times.tolist() == [0.1, 0.3]


@pytest.mark.parametrize("way", [{"step": 0.1}, {"tolerance": 1e-3}], ids=str)
def test_no_graph_is_kept_and_none_can_be_used(way):
    """The weights used to carry θ_0's graph alone, whose gradient is 1 whatever the flow does."""
    weights, x, y = problem()
    plain = gradient_flow(marion_net(), weights, x, y, horizon=0.3, **way)
    leaves = weights.map(lambda v: v.clone().requires_grad_())
    factor = torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
    for clip in (None, lambda velocity: {name: v * factor / 10.0 for name, v in velocity.items()}):
        record = gradient_flow(
            marion_net(),
            leaves,
            x.clone().requires_grad_(),
            y,
            horizon=0.3,
            clip=clip,
            observe={"grad": lambda s: leaves.V.sum() + s.weights.V.sum()},
            **way,
        )
        assert distance(record.weights, plain.weights) < 1e-14
        for value in (*record.weights.tensors().values(), *record.observed.values()):
            assert not value.requires_grad
        with pytest.raises(RuntimeError, match="does not require grad"):
            record.weights.V.sum().backward()
        for snapshot in flow(marion_net(), leaves, x, y, horizon=0.3, clip=clip, **way):
            assert not any(v.requires_grad for v in snapshot.weights.tensors().values())
    assert leaves.V.grad is None and leaves.V.requires_grad


def test_an_observer_may_return_any_number():
    weights, x, y = problem()
    observe = {
        "float": lambda s: s.time,
        "int": lambda s: s.step,
        "bool": lambda s: s.step > 1,
        "numpy": lambda s: np.float64(s.time),
        "array": lambda s: np.full(2, s.time),
        "tensor": lambda s: torch.full((2,), s.time),
    }
    record = gradient_flow(marion_net(), weights, x, y, step=0.1, horizon=0.3, observe=observe)
    for name in ("float", "numpy"):
        assert torch.equal(record.observed[name], record.times)
    assert record.observed["int"].tolist() == [0, 1, 2, 3]
    assert record.observed["bool"].tolist() == [False, False, True, True]
    assert record.observed["array"].shape == record.observed["tensor"].shape == (2, 4)


@pytest.mark.parametrize(
    "returned, message",
    [
        (lambda s: "text", r"expected 'a' to return a number or a tensor, received 'text'"),
        (lambda s: None, r"expected 'a' to return a number or a tensor, received None"),
        (lambda s: object, r"expected 'a' to return a number or a tensor, received "),
        (lambda s: torch.zeros(s.step), r"expected 'a' to return the shape \(0,\) as before, rec"),
    ],
)
def test_an_observer_that_returns_no_number_is_named(returned, message):
    weights, x, y = problem()
    with pytest.raises(ValueError, match=f"^observe: {message}"):
        gradient_flow(marion_net(), weights, x, y, step=0.1, horizon=0.3, observe={"a": returned})
