"""Initial laws: embeddings, tied, independent and smooth weights, and the published draws."""

import math

import numpy as np
import pytest
import torch

from cotflow.flows.flow import gradient_flow
from cotflow.measure.observables import largest_gap
from cotflow.measure.rates import loglog_slope
from cotflow.network.activations import GELU, RELU
from cotflow.network.initial import GaussianPath, Sizes, embeddings, independent, smooth, tied
from cotflow.network.published import PUBLISHED, gaussian_data, published

LAWS = (tied, independent, smooth)
SIZES = Sizes(depth=5, width=7, state=6, inputs=3, outputs=2)


def generator(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def deep(depth, width=7):
    return Sizes(depth=depth, width=width, state=6, inputs=3, outputs=2)


@pytest.mark.parametrize("state, product", [(5, 0.0), (6, 0.0)])
def test_embeddings_write_the_first_and_read_the_last_coordinates(state, product):
    """BA = 0 as soon as q ≥ d + d′: the net starts at the zero function."""
    A, B = embeddings(Sizes(1, 1, state, 3, 2), torch.zeros(1, dtype=torch.float64))
    assert A.shape == (state, 3) and B.shape == (2, state)
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    h = torch.arange(1.0, state + 1, dtype=torch.float64)
    assert (A @ x).tolist() == [1.0, 2.0, 3.0] + [0.0] * (state - 3)
    assert (B @ h).tolist() == [state - 1.0, state]
    assert float((B @ A).abs().max()) == product


def test_embeddings_are_the_identity_when_all_dimensions_agree():
    A, B = embeddings(Sizes(1, 1, 4, 4, 4), torch.zeros(1))
    assert torch.equal(A, torch.eye(4)) and torch.equal(B, torch.eye(4))


def test_embeddings_share_coordinates_when_the_state_is_small():
    A, B = embeddings(Sizes(1, 1, 4, 3, 2), torch.zeros(1))
    assert torch.equal(B @ A, torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("runs", [(), (4,), (2, 3)])
def test_shapes_and_zero_output(law, runs):
    weights = law(SIZES, generator(), runs=runs)
    assert weights.A.shape == (*runs, 6, 3)
    assert weights.V.shape == (*runs, 5, 6, 7)
    assert weights.W.shape == (*runs, 5, 7, 6)
    assert weights.B.shape == (*runs, 2, 6)
    assert float(weights.V.abs().max()) == 0.0
    assert {v.dtype for v in weights.tensors().values()} == {torch.float64}
    assert law(SIZES, generator(), dtype=torch.float32).W.dtype == torch.float32


@pytest.mark.parametrize("law", LAWS)
def test_entries_are_standard_normal_and_runs_differ(law):
    W = law(deep(2, width=20), generator(1), runs=(200,)).W[:, 0]
    count = W.numel()
    assert abs(float(W.mean())) < 4 / math.sqrt(count)
    assert abs(float(W.square().mean()) - 1) < 4 * math.sqrt(2 / count)
    assert len(W[:, 0, 0].unique()) == 200


@pytest.mark.parametrize("law", LAWS)
def test_one_seed_is_one_draw(law):
    assert torch.equal(law(SIZES, generator(3)).W, law(SIZES, generator(3)).W)
    assert not torch.equal(law(SIZES, generator(3)).W, law(SIZES, generator(4)).W)


def test_tied_layers_share_one_matrix_whatever_the_depth():
    shallow, deeper = tied(deep(2), generator(5), runs=(3,)), tied(deep(9), generator(5), runs=(3,))
    assert torch.equal(shallow.W[:, :1].expand(-1, 9, -1, -1), deeper.W)
    assert float(largest_gap(deeper).max()) == 0.0


def test_tied_layers_do_not_share_memory():
    weights = tied(deep(2), generator())
    weights.W[0] = 0.0
    assert float(weights.W[1].abs().min()) > 0


def test_independent_layers_are_uncorrelated():
    W = independent(deep(4, width=2000), generator(6)).W
    for k in range(3):
        correlation = float((W[k] * W[k + 1]).mean())
        assert abs(correlation) < 4 / math.sqrt(W[k].numel())


@pytest.mark.parametrize("lengthscale", [0.1, 0.5, 1.0, 4.0])
def test_smooth_law_has_the_squared_exponential_covariance(lengthscale):
    """Every empirical covariance within four standard errors √((1 + ρ²)/N) of ρ."""
    entries, s = 20_000, torch.tensor([0.0, 0.137, 0.5, 0.91, 1.0], dtype=torch.float64)
    paths = GaussianPath((1, entries), lengthscale, generator(7))(s)[:, 0]
    assert paths.shape == (5, entries)
    expected = torch.exp(-(s[:, None] - s[None]).square() / (2 * lengthscale**2))
    error = (paths @ paths.mT / entries - expected) / ((1 + expected.square()) / entries).sqrt()
    assert float(error.abs().max()) < 4


def test_smooth_law_is_one_path_at_every_depth():
    coarse, fine = smooth(deep(4), generator(8)).W, smooth(deep(12), generator(8)).W
    torch.testing.assert_close(coarse, fine[2::3], rtol=0, atol=1e-9)


def test_smooth_law_does_not_depend_on_the_signs_of_eigenvectors(monkeypatch):
    path = GaussianPath((2, 3), 0.5, generator(9))(torch.tensor([0.3, 0.8], dtype=torch.float64))
    eigh = torch.linalg.eigh

    def flipped(matrix):
        values, vectors = eigh(matrix)
        return values, vectors * (-1.0) ** torch.arange(len(values))

    monkeypatch.setattr(torch.linalg, "eigh", flipped)
    again = GaussianPath((2, 3), 0.5, generator(9))(torch.tensor([0.3, 0.8], dtype=torch.float64))
    assert torch.equal(path, again)


def test_gaps_of_the_smooth_law_are_of_order_one_over_depth():
    depths = [16, 32, 64, 128, 256]
    gaps = [float(largest_gap(smooth(deep(depth), generator(10)))) for depth in depths]
    assert loglog_slope(depths, gaps).slope == pytest.approx(-1, abs=0.05)
    rough = [float(largest_gap(independent(deep(depth), generator(10)))) for depth in depths]
    assert loglog_slope(depths, rough).slope > -0.05


def test_lengthscale_must_be_positive():
    with pytest.raises(ValueError, match=r"expected a lengthscale > 0, received 0\.0"):
        smooth(SIZES, generator(), lengthscale=0.0)


@pytest.mark.parametrize("name", ["depth", "width", "state", "inputs", "outputs"])
def test_sizes_start_at_one(name):
    sizes = {"depth": 1, "width": 1, "state": 1, "inputs": 1, "outputs": 1} | {name: 0}
    with pytest.raises(ValueError, match=f"expected {name} ≥ 1, received 0"):
        Sizes(**sizes)


@pytest.mark.parametrize("inputs, outputs", [(4, 1), (1, 4)])
def test_state_must_hold_inputs_and_outputs(inputs, outputs):
    with pytest.raises(ValueError, match=r"≥ max\(inputs, outputs\) = 4, received 3"):
        Sizes(1, 1, 3, inputs, outputs)


@pytest.mark.parametrize("law", LAWS)
def test_laws_draw_on_the_device_of_their_generator(law, device):
    weights = law(SIZES, generator(0, device))
    assert {v.device.type for v in weights.tensors().values()} == {device}
    x, y = gaussian_data(4, 3, 2, generator(0, device))
    assert {x.device.type, y.device.type} == {device}


def test_gaussian_data_are_independent_and_standard():
    x, y = gaussian_data(5000, 3, 2, generator(11), runs=(2,))
    assert x.shape == (2, 5000, 3) and y.shape == (2, 5000, 2)
    both = torch.cat([x, y], dim=-1).reshape(10_000, 5)
    covariance = both.mT @ both / 10_000
    assert float((covariance - torch.eye(5)).abs().max()) < 4 * math.sqrt(2 / 10_000)


@pytest.mark.parametrize("figure, samples, width", [("figure 1", 100, 32), ("figure 2", 50, 64)])
@pytest.mark.parametrize("seed", [0, 2])
def test_published_draws_follow_the_released_code(figure, samples, width, seed):
    """W (d×m), in figure 2 a d×d matrix that is not used, X, Y, from the global float32 stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        W = torch.randn(16, width, dtype=torch.float32)
        unused = 256 if figure == "figure 2" else 0
        torch.randn(unused, dtype=torch.float32)
        X = torch.randn(samples, 16, dtype=torch.float32)
        Y = torch.randn(samples, 16, dtype=torch.float32)
    experiment = published(figure, 3, seed)
    assert experiment.weights.W.shape == (3, width, 16)
    for layer in experiment.weights.W:
        assert torch.equal(layer, W.T)
    assert torch.equal(experiment.x, X) and torch.equal(experiment.y, Y)
    assert float(experiment.weights.V.abs().max()) == 0.0
    for embedding in (experiment.weights.A, experiment.weights.B):
        assert torch.equal(embedding, torch.eye(16, dtype=torch.float32))
    double = published(figure, 3, seed, dtype=torch.float64)
    assert torch.equal(double.x, X.double()), "drawn in single precision, then converted"


def test_published_seeds_are_runs():
    together = published("figure 1", 4, [2, 5])
    assert together.weights.W.shape == (2, 4, 32, 16)
    for r, seed in enumerate([2, 5]):
        alone = published("figure 1", 4, seed)
        assert torch.equal(together.weights.W[r], alone.weights.W)
        assert torch.equal(together.x[r], alone.x) and torch.equal(together.y[r], alone.y)


@pytest.mark.parametrize("figure", sorted(PUBLISHED))
@pytest.mark.parametrize("sigma", [GELU, RELU], ids=lambda a: a.name)
def test_published_euler_step_is_an_iteration_of_the_released_loop(figure, sigma):
    """x + σ(x W) V / L, mean squared entries, SGD at rate 10⁻²·L, as a textbook would write it."""
    depth, iterations = 4, 5
    experiment = published(figure, depth, 0, activation=sigma, dtype=torch.float64)
    W = [w.T.clone().requires_grad_() for w in experiment.weights.W]
    V = [torch.zeros(w.shape[::-1], dtype=torch.float64, requires_grad=True) for w in W]
    optimizer = torch.optim.SGD([*V, *W], lr=1e-2 * depth)
    act = {"gelu": torch.nn.functional.gelu, "relu": torch.nn.functional.relu}[sigma.name]
    losses = []
    for _ in range(iterations):
        h = experiment.x
        for v, w in zip(V, W, strict=True):
            h = h + act(h @ w) @ v / depth
        loss = torch.nn.functional.mse_loss(h, experiment.y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    record = gradient_flow(
        experiment.net,
        experiment.weights,
        experiment.x,
        experiment.y,
        step=1e-2,
        horizon=iterations * 1e-2,
    )
    np.testing.assert_allclose(record.observed["loss"][:-1], losses, rtol=1e-12)
    for k in range(depth):
        torch.testing.assert_close(record.weights.V[k], V[k].detach().T, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(record.weights.W[k], W[k].detach().T, rtol=1e-12, atol=1e-14)
    assert float((record.weights.W - experiment.weights.W).norm()) > 1e-4


def test_published_figure_must_be_known():
    with pytest.raises(ValueError, match=r"expected one of \['figure 1', 'figure 2'\], received"):
        published("figure 3", 2, 0)
