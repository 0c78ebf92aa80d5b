"""The library's front door: every name of it, with arguments that are right, or wrong in places."""

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

import cotflow
from cotflow import certificates, neural_ode
from cotflow.flows.velocity import frobenius_clip
from hostile.draws import HUGE, Draws
from hostile.oracle import Disagreement, finite, judged, outcome

ACTIVATIONS = ("GELU", "TANH", "RELU", "IDENTITY", "COS")
# Few, since each is compiled for itself.
SHAPES = ((3, 2), (16, 32))

Call = Callable[[], object]


def sigma(d: Draws):
    return getattr(cotflow, d.one(*ACTIVATIONS))


def sizes(d: Draws) -> cotflow.Sizes:
    q, m = d.one(*SHAPES)
    return cotflow.Sizes(d.whole(1, 4), m, q, d.whole(1, 3), d.whole(1, 3))


def net(d: Draws):
    options = d.mutated(options_of(d), 0.1)
    kind = d.one(cotflow.marion_net, cotflow.mean_field_net, cotflow.ResidualNet)
    return kind(sigma(d), **options)


def options_of(d: Draws) -> dict:
    every = {
        "width_scaling": d.one("sqrt", "mean", "none"),
        "input_scaling": d.one("sqrt", "none"),
        "depth_exponent": d.one(1.0, 0.5, 0.0, 2.0),
        "loss_factor": d.one(1.0, 0.5),
        "trained": d.one(("V",), ("A", "V", "W", "B"), ("V", "W", "b"), ("A", "V", "W", "b", "B")),
        "metric": d.one("layer", "particle"),
        "speed": d.one({}, {"W": 2.0}),
    }
    return {name: value for name, value in every.items() if d.chance(0.4)}


def problem(d: Draws, runs=None, dtype=None, scale=None) -> dict:
    """The tensors of a network and of its data."""
    q, m = d.one(*SHAPES)
    L, n, din, dy = d.whole(1, 4), d.one(1, 2, 5, 33), d.whole(1, 3), d.whole(1, 3)
    runs = d.one((), (), (2,), (2, 2)) if runs is None else runs
    dtype = d.one(torch.float64, torch.float64, torch.float32) if dtype is None else dtype
    scale = d.scale() if scale is None else scale
    shapes = {"A": (q, din), "V": (L, q, m), "W": (L, m, q), "B": (dy, q), "x": (n, din)}
    shapes["y"] = n, dy
    if d.chance(0.4):
        shapes["b"] = L, m
    drawn = {
        name: d.tensor(*runs, *shape, dtype=dtype, scale=0.5 * scale)
        for name, shape in shapes.items()
    }
    return {name: d.view(value) if d.chance(0.3) else value for name, value in drawn.items()}


def taken(given: dict) -> tuple[cotflow.Weights, object, object]:
    given = dict(given)
    x, y = given.pop("x"), given.pop("y")
    return cotflow.Weights(**given), x, y


def weights(d: Draws, part: float = 0.3):
    """Weights, or something else in their place."""
    if d.chance(0.03):
        return d.wrong()
    given = d.mutated(problem(d), part)
    return taken(given)[0]


def activations(d: Draws) -> Call:
    z = d.tensor(*d.one((), (3,), (2, 0), (2, 3)), dtype=d.one(torch.float64, torch.float32))
    z = d.mutated({"z": d.view(z * d.scale())}, 0.4)["z"]
    return partial(sigma(d), z)


def weights_(d: Draws) -> Call:
    given = d.mutated(problem(d), 0.8)
    del given["x"], given["y"]

    def call():
        made = cotflow.Weights(**given)
        return made.depth, made.width, made.state, made.runs, made.map(torch.clone)

    return call


def network(d: Draws) -> Call:
    options = d.mutated(options_of(d) | {"activation": sigma(d)}, 0.8)
    kind = d.one(cotflow.marion_net, cotflow.mean_field_net, cotflow.ResidualNet)

    def call():
        made = kind(**options)
        given = cotflow.Weights(*(torch.ones(s) for s in ((3, 2), (1, 3, 2), (1, 2, 3), (1, 3))))
        return made.residual_scale(3, 4), made.input_scale(3), made.rates(given)

    return call


def forward(d: Draws) -> Call:
    given = d.mutated(problem(d, scale=d.one(1.0, 1e3, 1e-9)), 0.6)

    def call():
        w, x, y = taken(given)
        made = net(d)
        found = made(w, x), made.hidden_states(w, x), made.loss(w, x, y)
        # Plain arithmetic, by its own description: infinite where that is.
        return found if finite(found) else None

    return call


def laws(d: Draws) -> Call:
    given = {"sizes": sizes(d), "generator": d.generator(), "runs": d.one((), (2,), (1, 2))}
    given["dtype"] = d.one(torch.float64, torch.float32)
    law = d.one(cotflow.tied, cotflow.independent, cotflow.smooth)
    if law is cotflow.smooth:
        given["lengthscale"] = d.one(0.1, 1.0, 10.0) * d.scale()
    return partial(law, **d.mutated(given))


def sizes_(d: Draws) -> Call:
    given = {name: d.whole(1, 5) for name in ("depth", "width", "state", "inputs", "outputs")}
    return partial(cotflow.Sizes, **d.mutated(given, 0.8))


def published(d: Draws) -> Call:
    given = {"figure": d.one("figure 1", "figure 2"), "depth": d.whole(1, 4)}
    given |= {"seed": d.one(0, 3, [0, 1], (2,)), "dtype": d.one(torch.float32, torch.float64)}
    given |= {"activation": sigma(d), "device": "cpu"}
    return partial(cotflow.published, **d.mutated(given, 0.7))


def gradient(d: Draws) -> Call:
    given = d.mutated(problem(d))
    if d.chance(0.1):
        given = {k: v.to("meta") if torch.is_tensor(v) else v for k, v in given.items()}
    options = d.mutated({"segment": d.one(None, None, 1, 2, 7)}, 0.15)
    made = net(d)

    def call():
        w, x, y = taken(given)
        return agreed(made, w, x, y, **options)

    return call


def agreed(made, w, x, y, **options):
    """What all backends answer, or refuse, alike."""
    each = partial(outcome, cotflow.gradient, made, w, x, y, **options)
    found, error = each(backend="plain")
    for backend in ("auto", "compiled"):
        other, also = each(backend=backend)
        if "backend 'compiled': expected" in str(also):
            continue
        if (error is None) != (also is None) or sentence(error) != sentence(also):
            raise Disagreement(f"plain: {error or 'answers'}; {backend}: {also or 'answers'}")
        if error is None:
            compare(found, other, backend)
    if error is not None:
        raise error
    return found


def sentence(error: Exception | None) -> str:
    """What was expected: near the end of the numbers what is received may be inf or nan."""
    return str(error).partition(", received inf")[0].partition(", received nan")[0]


def compare(found, other, backend: str) -> None:
    names = found.velocity.keys()
    pairs = [(found.loss, other.loss), (found.slope_squared, other.slope_squared)]
    pairs += [(found.velocity[name], other.velocity[name]) for name in names]
    for k, (a, b) in enumerate(pairs):
        if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
            raise Disagreement(f"{backend}: {a.shape} of {a.dtype} and {b.shape} of {b.dtype}")
        if a.is_meta or torch.equal(a, b):
            continue
        size, least = float(a.abs().max()), torch.finfo(a.dtype).tiny ** 0.5
        within = {torch.float64: 1e-9, torch.float32: 1e-3}.get(a.dtype, 0.2)
        if not float((a - b).abs().max()) <= within * max(size, least):
            raise Disagreement(f"{backend}, part {k}: off by {(a - b).abs().max():.3g} of {size}")


METHODS = ("EULER", "HEUN", "RK4", "RKC2")


def flow_options(d: Draws) -> dict:
    given = {"horizon": 0.5, "step": d.one(0.1, 0.25)}
    if d.chance(0.4):
        given = {"horizon": 0.1 * d.one(1.0, 10.0, 1e-9), "tolerance": d.one(1e-2, 1e-3)}
    if d.chance(0.3):
        given["times"] = d.one([0.0, 0.5], [0.25, 0.5], torch.tensor([0.0, 0.5]))
    elif d.chance(0.3):
        given["every"] = d.whole(1, 3)
    if d.chance(0.3):
        given["segment"] = d.whole(1, 3)
    if d.chance(0.4):
        given["method"] = getattr(cotflow, d.one(*METHODS))
    if d.chance(0.2):
        given["clip"] = frobenius_clip(1.0)
    return given


def endless(horizon) -> bool:
    return type(horizon) in (int, float) and horizon in (2**31, 2**63, HUGE, 1e300)


def flows(d: Draws) -> Call:
    given = d.mutated(problem(d, runs=d.one((), (2,))), 0.3)
    made, options = net(d), d.mutated(flow_options(d), 0.5)
    if d.chance(0.5) or endless(options["horizon"]):
        # A long way is no fault: its first steps are enough.
        return lambda: [
            (s.time, s.loss)
            for s in itertools.islice(cotflow.flow(made, *taken(given), **options), 9)
        ]
    observers = {"gap": lambda s: cotflow.largest_gap(s.weights), "time": lambda s: s.time}
    if d.chance(0.5):
        options["observe"] = d.mutated(observers, 0.4)
    return lambda: cotflow.gradient_flow(made, *taken(given), **options)


def families(d: Draws, equal: bool = False) -> dict:
    runs, L, p = d.one((), (), (2,)), d.whole(1, 3), d.whole(1, 3)
    m, m2 = d.whole(1, 6), d.whole(1, 6)
    dtype, scale = d.one(torch.float64, torch.float64, torch.float32), d.scale()
    one, other = (
        d.tensor(*runs, L, k, p, dtype=dtype, scale=scale) for k in (m, m if equal else m2)
    )
    if d.chance(0.2):
        other = other * d.scale()
    if d.chance(0.1):
        one = one[..., :1, :].expand_as(one)
    return {"mu": d.view(one), "nu": d.view(other)}


def conditional(d: Draws) -> Call:
    given = families(d, d.chance(0.5))
    if d.chance(0.3):
        masses = []
        for t in given.values():
            mass = torch.rand(t.shape[:-1], dtype=torch.float64, generator=d.generator())
            masses.append((mass / mass.sum(-1, keepdim=True)).to(t.dtype))
        given["masses"] = tuple(masses)
        if d.chance(0.3):
            given["masses"] = tuple(d.mutated({"a": masses[0], "b": masses[1]}, 1.0).values())
    given = d.mutated(given)

    def call():
        found = cotflow.conditional_distance(**given)
        if given.get("masses") is None:
            uniform = tuple(
                torch.full(t.shape[:-1], 1.0 / t.shape[-2], dtype=torch.float64)
                for t in (given["mu"], given["nu"])
            )
            other = cotflow.conditional_distance(given["mu"], given["nu"], uniform)
            if not bool(((found - other).abs() <= 1e-7 * found + 1e-300).all()):
                raise Disagreement(f"assignment {found}, simplex {other}")
        return found

    return call


def labelled(d: Draws) -> Call:
    return partial(cotflow.labelled_distance, **d.mutated(families(d, d.chance(0.8))))


def entropic(d: Draws) -> Call:
    given = families(d, d.chance(0.5))
    size = float((given["mu"].detach().abs().max() + given["nu"].detach().abs().max()).square())
    given["epsilon"] = size * d.one(0.1, 1.0, 10.0) if size and size < 1e300 else 1.0
    given["tolerance"], given["max_iterations"] = d.one(1e-5, 1e-3, 1e-8), d.one(1, 100, 2000)
    return partial(cotflow.entropic_distance, **d.mutated(given))


def gap(d: Draws) -> Call:
    return lambda: cotflow.largest_gap(weights(d))


def slope(d: Draws) -> Call:
    points = d.whole(1, 6)
    x = d.rng.random(points) * d.scale()
    y = d.rng.random((d.whole(1, 3), points)) * d.scale()
    given = d.mutated({"x": x, "y": d.one(y, y[0], y.tolist()), "confidence": 0.95}, 0.5)

    def call():
        fit = cotflow.loglog_slope(**given)
        # Two points of one seed have no residuals: their interval is the line, and says so.
        return fit.slope, fit.intercept, fit.slopes, fit.fitted([1.0]) * 0.0

    return call


def certified(d: Draws) -> dict:
    """A start that often has a certificate."""
    n = d.whole(1, 4)
    made = cotflow.Sizes(d.whole(1, 4), d.one(16, 64), 3, 2, 1)
    g = d.generator()
    w = certificates.gaussian_cos(cotflow.tied(made, g), g)
    scale = d.scale()
    return w.tensors() | {"x": 2.0 * d.tensor(n, 2), "y": d.tensor(n, 1, scale=0.01 * scale)}


def certificate(d: Draws) -> Call:
    given = d.mutated(certified(d), 0.5)
    kind = d.one(
        certificates.initial_certificate,
        certificates.independent_certificate,
        certificates.running_certificate,
    )
    options = {"radius": d.one(None, None, 0.1)}
    if kind is certificates.initial_certificate:
        options["constants"] = d.one("sharp", "explicit")
    options = d.mutated(options, 0.3)
    made = d.one(cotflow.mean_field_net(cotflow.COS), net(d))

    def call():
        return kind(made, *taken(given), **options)

    return call


def balls(d: Draws) -> Call:
    given = d.mutated(certified(d), 0.5)
    made = d.one(cotflow.mean_field_net(cotflow.COS), net(d))
    radius = d.mutated({"radius": d.one(0.0, 0.1, 10.0) * d.scale()}, 0.3)["radius"]
    parts = {
        certificates.initial_ball: ("root", "stretch", "kernel_loss", "explicit", "obstacle"),
        certificates.independent_ball: ("root", "stretch", "growth", "kernel_loss", "obstacle"),
        certificates.running_ball: ("root", "stretch", "steepest", "obstacle"),
    }
    kind = d.one(*parts)
    asked = d.one(None, *parts[kind])

    def call():
        w, x, _ = taken(given)
        ball = kind(made, w, x)
        return ball if asked is None else finite_or_beyond(getattr(ball, asked)(radius))

    return call


def blocks(d: Draws) -> Call:
    made = cotflow.tied(cotflow.Sizes(d.whole(1, 3), d.one(4, 32), 3, 2, 1), d.generator())
    given = made.tensors() | {"x": d.scale() * d.tensor(d.whole(1, 3), 2), "y": d.tensor(3, 1)}
    given["y"] = d.scale() * given["y"][: len(given["x"])]
    given = d.mutated(given, 0.5)
    kind = d.one(cotflow.marion_net(cotflow.TANH), net(d))
    radius = d.mutated({"radius": d.one(0.0, 0.1, 10.0) * d.scale()}, 0.3)["radius"]
    asked = d.one(None, None, "root", "constant", "speed", "loss", "drift")

    def call():
        w, x, y = taken(given)
        if asked is None:
            return certificates.block_certificate(kind, w, x, y)
        return finite_or_beyond(getattr(certificates.block_ball(kind, w, x), asked)(radius))

    return call


def prior(d: Draws) -> Call:
    given = {"x": d.scale() * d.tensor(d.whole(1, 4), 2), "tau": d.scale(), "failure": 0.1}
    given |= {"state": d.one(None, 3), "output": d.scale()}
    given = d.mutated(given)
    risk = d.mutated({"risk": 1.0}, 0.3)["risk"]

    def call():
        found = certificates.prior_certificate(**given)
        gain = found.gain(risk) if found.largest_risk else 1.0
        return found, found.radius, found.rate, found.largest_risk, gain

    return call


def finite_or_beyond(value):
    """Bounds on what may be lost are infinite where nothing is known: a bound all the same."""
    return None if isinstance(value, float | np.ndarray) and np.isposinf(value).any() else value


def constants(d: Draws) -> Call:
    given = d.mutated(certified(d), 0.5)
    made = d.one(cotflow.mean_field_net(cotflow.COS), net(d))
    kind = d.one(
        certificates.pl_bound, certificates.pl_bound_independent, certificates.layer_kernels, None
    )

    def call():
        w, x, _ = taken(given)
        return certificates.layer_stretch(w) if kind is None else kind(made, w, x)

    return call


def eigenvalues(d: Draws) -> Call:
    n, m = d.whole(1, 4), d.whole(1, 5)
    phi = d.tensor(*d.one((), (2,)), n, m, scale=d.scale())
    if d.chance(0.5):
        given = {"gram": phi @ phi.mT}
        given["gram"] = (given["gram"] + given["gram"].mT) / 2
        return partial(certificates.least_eigenvalue, **d.mutated(given))
    given = {"features": phi, "error": d.one(0.0, 1e-9)}
    return partial(certificates.least_feature_eigenvalue, **d.mutated(given))


def features(d: Draws) -> Call:
    if d.chance(0.3):
        given = {"x": d.tensor(3, 2, scale=d.scale()), "tau": 1.0}
        return partial(certificates.kernel_gaussian_cos, **d.mutated(given))
    if d.chance(0.5):
        given = {"weights": cotflow.tied(sizes(d), d.generator()), "generator": d.generator()}
        given |= {"tau": 1.0, "output_gain": 1.0, "layers": d.one("tied", "independent")}
        return partial(certificates.gaussian_cos, **d.mutated(given))
    if d.chance(0.5):
        given = {"features": d.whole(1, 999), "eigenvalue": 0.1, "points": 3}
        return partial(certificates.chernoff_probability, **d.mutated(given))
    given = {"eigenvalue": d.one(0.1, 1e-9, 1e-300), "points": d.whole(1, 9), "failure": 0.1}
    return partial(certificates.features_needed, **d.mutated(given))


def ode(d: Draws) -> Call:
    given = problem(d, runs=(), dtype=torch.float64, scale=1.0)
    given.pop("b", None)
    s = torch.tensor(d.one([0.0, 1.0], [0.0, 0.3, 0.7], [1.0, 0.0]), dtype=torch.float64)
    q = given["V"].shape[-2]
    options = {"h0": d.tensor(4, q, scale=d.scale()), "s": s, "tolerance": d.one(None, 1e-3, 1e-6)}
    options = d.mutated(options, 0.5)
    if d.chance(0.5):
        rate = d.one(1.0, -1.0, 50.0, 1e300)
        if d.chance(0.3):
            options["jumps"] = d.mutated({"jumps": [0.5]}, 0.5)["jumps"]
        return lambda: neural_ode.integrate(lambda s, h: rate * h, **options)
    made, w = net(d), taken(given)[0]
    return lambda: neural_ode.solve(made, *neural_ode.weight_functions(w), **options)


def checkpoints(d: Draws) -> Call:
    given = {"path": d.one("run.pt", "", "nowhere/run.pt", ".", "/", "a\0b", "x" * 300, "~/x")}
    given |= {"steps": d.one(None, 1, 100), "seconds": d.one(None, 0, 60.0)}
    given = d.mutated(given, 0.5)
    small = problem(d, runs=(), dtype=torch.float64, scale=1.0)

    def call():
        kept = cotflow.Checkpoint(**given)
        made = cotflow.marion_net(cotflow.TANH)
        return cotflow.gradient_flow(made, *taken(small), step=0.1, horizon=0.2, checkpoint=kept)

    return call


# Names of the front door by what is done with them.
CASES: dict[Callable[[Draws], Call], int] = {
    activations: 3,
    weights_: 3,
    network: 3,
    forward: 4,
    laws: 4,
    sizes_: 2,
    published: 3,
    gradient: 14,
    flows: 10,
    conditional: 8,
    labelled: 4,
    entropic: 6,
    gap: 2,
    slope: 4,
    certificate: 6,
    balls: 4,
    blocks: 2,
    prior: 1,
    constants: 4,
    eigenvalues: 4,
    features: 4,
    ode: 5,
    checkpoints: 4,
}
NAMED = {case.__name__.strip("_"): case for case in CASES}


CHOICES = [name for name, case in NAMED.items() for _ in range(CASES[case])]


def named(d: Draws) -> str:
    """Which of them the input is."""
    return d.one(*CHOICES)


def ended(name: str, d: Draws) -> tuple[str, str]:
    """How it ends."""
    return judged(lambda: NAMED[name](d))
