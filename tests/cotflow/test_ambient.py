"""torch's defaults of the moment change no number: dtype, device and whether gradients are kept."""

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch

import cotflow
from cotflow import certificates, neural_ode, published
from cotflow.bounds import hermite, layer_maps, pl_search
from cotflow.convolution import ConvNet, Trainer, accuracy, initial_weights, load_images, train
from cotflow.convolution.training import EpochOrder
from cotflow.limits import depth, refinement, reversal, risk_field
from cotflow.network.activations import COS, RELU, TANH
from cotflow.network.initial import GaussianPath, Sizes, independent, smooth, tied
from cotflow.network.published import gaussian_data
from cotflow.network.residual import ResidualNet, marion_net, mean_field_net
from cotflow.network.weights import Weights
from cotflow.transport import exact, geodesics, sliced, step_functions
from problems import family, problem

LIBRARY = Path(cotflow.__file__).parent
FOLDERS = sorted(path.name for path in LIBRARY.iterdir() if (path / "__init__.py").exists())
REAL = {"empty", "eye", "full", "linspace", "normal", "ones", "rand", "randn", "zeros"}
WHOLE = {"arange", "as_tensor", "randint", "randperm", "tensor"}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


AMBIENT = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: torch.device("meta"),
    "no grad": torch.no_grad,
    "inference": torch.inference_mode,
}
WEIGHTS, X, Y = problem(depth=4, q=3, m=8, d=3, dy=3, n=3, scale=0.2)
BARE = Weights(*(getattr(WEIGHTS, name) for name in ("A", "V", "W", "B")))
MU, NU, WIDER = family(1), family(2), family(3, width=5)
START = certificates.gaussian_cos(
    tied(Sizes(3, 64, 3, 2, 1), torch.Generator().manual_seed(0)), torch.Generator(), tau=1.0
)
POINTS = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
LEAF = torch.full((1,), 0.5, dtype=torch.float64, requires_grad=True)
S = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def published_draws() -> list:
    made = [published(figure, 4, seed) for figure in ("figure 1", "figure 2") for seed in (2, [0])]
    return [(e.weights.W, e.weights.A, e.x, e.y) for e in made]


def laws() -> list:
    sizes = Sizes(3, 4, 3, 2, 2)
    drawn = [law(sizes, seeded()).W for law in (tied, independent, smooth)]
    path = GaussianPath((2, 3), 1.0, seeded())
    return [*drawn, path(S), *gaussian_data(4, 2, 2, seeded()), sliced.directions(3, 2, seeded())]


def flows() -> list:
    ways = [{"step": 0.1}, {"tolerance": 1e-3}]
    net, observe = (
        marion_net(TANH),
        {"entry": lambda s: s.weights.V[0, 0, 0], "time": lambda s: s.time},
    )
    runs = [cotflow.gradient_flow(net, BARE, X, Y, horizon=0.3, observe=observe, **w) for w in ways]
    return [(r.times, r.observed, r.weights.tensors(), r.error_estimate) for r in runs]


def distances() -> list:
    slices = sliced.sliced_distance(MU, NU, sliced.directions(3, 2, seeded()))
    path = geodesics.geodesic(MU, WIDER)
    return [
        cotflow.conditional_distance(MU, NU),
        cotflow.labelled_distance(MU, NU),
        cotflow.entropic_distance(MU, NU, 0.5),
        exact.product_distance(MU, NU),
        slices.squared,
        path.at(0.3),
        *vars(step_functions.common_refinement(2, 3)).values(),
    ]


def limits() -> list:
    V, W = neural_ode.weight_functions(BARE)
    f = partial(ResidualNet(activation=TANH).residual, BARE)
    pulled = reversal.backpropagate(lambda k, h: LEAF * h, [[LEAF]] * 3, X, Y)
    omega = exact.particles(BARE)
    net = mean_field_net(TANH)
    swept = risk_field.continuous_sweep(net, lambda s: omega[int(s * 3)], X, Y, S, tolerance=1e-6)
    found = depth.distance_to_reference(BARE.V, refinement.refine(BARE.V, 8))
    return [
        neural_ode.solve(ResidualNet(activation=TANH), V, W, X, S),
        refinement.refine(BARE.V, 7),
        found.l2,
        found.sup,
        depth.interpolate(BARE.V, 0.3),
        refinement.hidden_states(f, 4, X),
        pulled.gradients,
        pulled.adjoint,
        swept,
    ]


def bounds() -> list:
    net = marion_net(TANH)
    return [
        layer_maps.jacobians(net, BARE, X),
        layer_maps.layer_lipschitz(net, BARE),
        hermite.hermite_coefficients(RELU, 4).values,
        pl_search.smallest_pl(net, BARE, X, Y, 0.1, seeded(), draws=2, rounds=2).ratio,
        cotflow.largest_gap(BARE),
    ]


def certified() -> list:
    net = mean_field_net(COS)
    at_start = certificates.initial_certificate(net, START, POINTS, 0.01 * POINTS[:, :1])
    kernels = certificates.layer_kernels(net, START, POINTS)
    return [
        at_start.holds,
        at_start.rate,
        at_start.radius,
        kernels,
        certificates.least_eigenvalue(kernels),
    ]


def images() -> list:
    net, data = ConvNet(channels=4), load_images("digits")
    start = initial_weights(net, 2, [0, 1])
    data = replace(data, train=data.train[:96], train_labels=data.train_labels[:96])
    order = EpochOrder([1], 0, replace(data, crop=2, flip=True), augment=True)
    run = train(net, start, data, [0, 1], Trainer(epochs=1, batch=32))
    return [
        start.tensors(),
        data.test,
        accuracy(net, start, data.test[:50], data.test_labels[:50]),
        order.batch(0, 8),
        run.loss,
        run.weights.tensors(),
    ]


def leaves(found) -> Iterator:
    """The tensors and numbers inside lists, tuples, dictionaries and results."""
    if is_dataclass(found):
        found = [getattr(found, field.name) for field in fields(found)]
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, (list, tuple)):
        for part in found:
            yield from leaves(part)
    else:
        yield torch.as_tensor(found, device="cpu") if not torch.is_tensor(found) else found


@pytest.mark.parametrize("ambient", AMBIENT)
@pytest.mark.parametrize(
    "compute", [published_draws, laws, flows, distances, limits, bounds, certified, images]
)
def test_defaults_of_the_moment_change_no_bit(compute: Callable[[], list], ambient: str):
    expected = list(leaves(compute()))
    with AMBIENT[ambient]():
        found = compute()
    for ours, theirs in zip(leaves(found), expected, strict=True):
        assert ours.dtype == theirs.dtype and ours.device == theirs.device
        assert torch.equal(ours, theirs)


def creations(path: Path) -> Iterator[tuple[int, str, set[str]]]:
    """Line, name and keywords of every call of torch that makes a tensor from nothing."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr=name)):
                given = {keyword.arg for keyword in node.keywords}
            case ast.Call(
                func=ast.Name(id="partial"),
                args=[ast.Attribute(value=ast.Name(id="torch"), attr=name), *_],
            ):
                given = {keyword.arg for keyword in node.keywords}
            case _:
                continue
        if name in REAL | WHOLE and None not in given:
            yield node.lineno, name, given


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_tensor_made_from_nothing_names_its_dtype_and_device(folder: str):
    for path in (LIBRARY / folder).rglob("*.py"):
        for line, name, given in creations(path):
            wanted = {"dtype", "device"} if name in REAL else {"device"}
            assert wanted <= given, f"{path}:{line}: torch.{name} names only {given}"
