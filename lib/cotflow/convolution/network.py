"""h_{k+1} = h_k + (1/L) bn₂(conv₂(σ(bn₁(conv₁ h_k)))): [M] §5.2's network on images.

Any number of independent runs share one pass: their channels lie side by side as the groups of
one convolution, which is several times faster than one convolution a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from operator import index
from typing import Literal, SupportsIndex

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.forward_ad import make_dual, unpack_dual

from cotflow.network.activations import Activation, activation
from cotflow.network.tensors import Tensors

EPSILON = 1e-5
POOLED = 2
STRIDE = {"text": 2, "released": 3}
PADDING = {"text": 2, "released": 1}


def count(value: int, name: str) -> int:
    """``value`` as an int that is at least 1.

    Raises
    ------
    ValueError : it is none.
    """
    try:
        found = index(value)
    except TypeError:
        found = 0
    if found < 1:
        raise ValueError(f"network: expected {name} ≥ 1, a whole number, received {value!r}")
    return found


def seeds_of(seeds: Iterable[SupportsIndex], least: int = 1) -> list[int]:
    """The seeds as ints that a generator takes, at least so many.

    Raises
    ------
    ValueError : they are none.
    """
    try:
        found = [index(seed) for seed in seeds]
        fit = all(-(2**63) <= seed < 2**64 for seed in found)
    except TypeError:
        found, fit = [], False
    if not fit or len(found) < least:
        raise ValueError(
            "network: expected a list of seeds, whole numbers from -2^63 up to 2^64, received "
            f"{seeds!r}"
        )
    return found


@dataclass(frozen=True)
class Layers(Tensors):
    """Kernels, batch-norm scales and shifts, and running statistics of the residual blocks.

    Layer k of the papers is index k−1 of the axis L; ``layers[k]`` is one layer without that axis.
    """

    conv1: Float[Tensor, "*runs_L c c 3 3"]
    scale1: Float[Tensor, "*runs_L c"]
    shift1: Float[Tensor, "*runs_L c"]
    mean1: Float[Tensor, "*runs_L c"]
    var1: Float[Tensor, "*runs_L c"]
    conv2: Float[Tensor, "*runs_L c c 3 3"]
    scale2: Float[Tensor, "*runs_L c"]
    shift2: Float[Tensor, "*runs_L c"]
    mean2: Float[Tensor, "*runs_L c"]
    var2: Float[Tensor, "*runs_L c"]

    @property
    def depth(self) -> int:
        return self.scale1.shape[-2]

    def __len__(self) -> int:
        return self.depth

    def __getitem__(self, k: int) -> Layers:
        return Layers(
            **{
                name: value.select(-5 if name.startswith("conv") else -2, k)
                for name, value in self.tensors().items()
            }
        )

    def __iter__(self) -> Iterator[Layers]:
        return (self[k] for k in range(self.depth))


@dataclass(frozen=True)
class ConvWeights(Tensors):
    """Stem, residual layers and linear head; leading axes ``*runs`` are independent runs.

    The stem's batch norm exists in the released variant only.
    """

    stem: Float[Tensor, "*runs c inputs 5 5"]
    layers: Layers
    head: Float[Tensor, "*runs classes features"]
    bias: Float[Tensor, "*runs classes"]
    stem_scale: Float[Tensor, "*runs c"] | None = None
    stem_shift: Float[Tensor, "*runs c"] | None = None
    stem_mean: Float[Tensor, "*runs c"] | None = None
    stem_var: Float[Tensor, "*runs c"] | None = None

    @property
    def depth(self) -> int:
        return self.layers.depth

    @property
    def runs(self) -> tuple[int, ...]:
        return tuple(self.bias.shape[:-1])

    def stem_norm(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Running mean and variance, scale and shift of the stem's batch norm."""
        mean, var, scale, shift = self.stem_mean, self.stem_var, self.stem_scale, self.stem_shift
        if mean is None or var is None or scale is None or shift is None:
            raise ValueError("network: the released variant's stem needs its batch norm's weights")
        return mean, var, scale, shift

    def map(self, function: Callable[..., Tensor], *others: ConvWeights) -> ConvWeights:
        """function(u, …) for each tensor u, those of the layers included."""
        layers = self.layers.map(function, *(other.layers for other in others))
        return replace(super().map(function, *others), layers=layers)


def join(runs: Sequence[ConvWeights]) -> ConvWeights:
    """Runs of equal shape one after another on the first run axis."""
    return runs[0].map(lambda *parts: torch.cat(parts), *runs[1:])


def fold(h: Float[Tensor, "*runs n c y x"]) -> Float[Tensor, "n rc y x"]:
    """The runs' channels side by side."""
    return h.reshape(-1, *h.shape[-4:]).transpose(0, 1).flatten(1, 2)


def unfold(h: Float[Tensor, "n rc y x"], runs: tuple[int, ...]) -> Float[Tensor, "*runs n c y x"]:
    h = h.unflatten(1, (prod(runs), -1)).transpose(0, 1)
    return h.reshape(*runs, *h.shape[1:])


def convolve(h: Float[Tensor, "n rc y x"], kernel: Tensor, stride: int, padding: int) -> Tensor:
    """One convolution a run: ``kernel`` of shape (*runs, out, in, a, b)."""
    groups = prod(kernel.shape[:-4])
    return F.conv2d(h, kernel.flatten(0, -4), stride=stride, padding=padding, groups=groups)


def normalise(
    h: Float[Tensor, "n rc y x"],
    mean: Tensor,
    var: Tensor,
    scale: Tensor,
    shift: Tensor,
    momentum: float | None = None,
) -> Float[Tensor, "n rc y x"]:
    """scale·(h − mean)/√(var + ε) + shift, channel by channel.

    With ``momentum`` mean and variance are those of the batch, and the running ones, in place,
    move towards them by that share; without, the running ones serve.
    """
    point, push = unpack_dual(h)
    constants = mean, var, scale, shift
    if (
        momentum is None
        and push is not None
        and all(unpack_dual(v).tangent is None for v in constants)
    ):
        # torch's own forward derivative has the same bits, and loads a compiler for them
        slope = (1 / torch.sqrt(var + EPSILON)).reshape(-1, 1, 1)
        push = push * slope * scale.reshape(-1, 1, 1)
        moved: Tensor = make_dual(normalise(point, *constants), push)
        return moved
    return F.batch_norm(
        h,
        mean.reshape(-1),
        var.reshape(-1),
        scale.reshape(-1),
        shift.reshape(-1),
        training=momentum is not None,
        momentum=momentum or 0.0,
        eps=EPSILON,
    )


@dataclass(frozen=True)
class ConvNet:
    """Stem, L residual blocks h += (1/L) bn₂(conv₂(σ(bn₁(conv₁ h)))), pooling, linear head.

    The methods without an underscore use the running statistics (evaluation mode); activations
    have the shape (*runs, n, channels, height, width).

    Parameters
    ----------
    activation : σ, by name or as an object.
    variant : "text" has [M] §5.2's stem 5×5 of stride 2, linear, and Gaussian kernels of variance
        1/fan-in. "released" has the published code's: stride 3, batch norm and ReLU after the stem
        whatever σ is, uniform kernels on ±1/√fan-in.

    The blocks keep the resolution: a residual sum needs two summands of one shape. Convolutions
    have no bias, because the batch norm that follows would remove it.
    """

    activation: Activation | str = "gelu"
    channels: int = 16
    classes: int = 10
    variant: Literal["text", "released"] = "text"

    def __post_init__(self) -> None:
        object.__setattr__(self, "activation", self.sigma)
        for name in ("channels", "classes"):
            object.__setattr__(self, name, count(getattr(self, name), name))
        if self.variant not in STRIDE:
            raise ValueError(
                f"network: expected a variant among {sorted(STRIDE)}, received {self.variant!r}"
            )

    @property
    def sigma(self) -> Activation:
        """σ as an object."""
        return activation(self.activation) if isinstance(self.activation, str) else self.activation

    def embed(
        self, weights: ConvWeights, images: Float[Tensor, "*data n inputs a b"]
    ) -> Float[Tensor, "*runs n c y x"]:
        """h_0. ``images`` have the runs' leading axes, or none: then all runs see the same."""
        if images.dim() == 4:
            images = images.expand(*weights.runs, *images.shape)
        return unfold(self._embed(weights, fold(images)), weights.runs)

    def residual(
        self, layer: Layers, h: Float[Tensor, "*runs n c y x"]
    ) -> Float[Tensor, "*runs n c y x"]:
        """f(h, θ) of one layer, without the factor 1/L."""
        return unfold(self._residual(layer, fold(h)), tuple(h.shape[:-4]))

    def classify(
        self, weights: ConvWeights, h: Float[Tensor, "*runs n c y x"]
    ) -> Float[Tensor, "*runs n classes"]:
        """Logits from h_L."""
        return self._classify(weights, fold(h))

    def __call__(
        self, weights: ConvWeights, images: Float[Tensor, "*data n inputs a b"]
    ) -> Float[Tensor, "*runs n classes"]:
        """Logits of images, in evaluation mode."""
        if images.dim() == 4:
            images = images.expand(*weights.runs, *images.shape)
        h = self._embed(weights, fold(images))
        for layer in weights.layers:
            h = h + self._residual(layer, h) / weights.depth
        return self._classify(weights, h)

    def _embed(self, weights: ConvWeights, images: Tensor, momentum: float | None = None) -> Tensor:
        h = convolve(images, weights.stem, STRIDE[self.variant], PADDING[self.variant])
        if min(h.shape[-2:]) < POOLED:
            raise ValueError(
                f"network: expected images of which the stem leaves at least {POOLED}×{POOLED} "
                f"positions, received {tuple(images.shape[-2:])}, of which it leaves "
                f"{tuple(h.shape[-2:])}"
            )
        if self.variant == "released":
            h = torch.relu(normalise(h, *weights.stem_norm(), momentum))
        return h

    def _residual(self, layer: Layers, h: Tensor, momentum: float | None = None) -> Tensor:
        z = convolve(h, layer.conv1, 1, 1)
        z = normalise(z, layer.mean1, layer.var1, layer.scale1, layer.shift1, momentum)
        z = convolve(self.sigma(z), layer.conv2, 1, 1)
        return normalise(z, layer.mean2, layer.var2, layer.scale2, layer.shift2, momentum)

    def _classify(self, weights: ConvWeights, h: Tensor) -> Tensor:
        pooled = unfold(F.adaptive_avg_pool2d(h, POOLED), weights.runs).flatten(-3)
        return torch.matmul(pooled, weights.head.mT) + weights.bias.unsqueeze(-2)


def initial_weights(
    net: ConvNet,
    depth: int,
    seeds: Sequence[int],
    start: Literal["tied", "independent"] = "tied",
    *,
    inputs: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> ConvWeights:
    """One run a seed; bn₂'s scale is 0, so that every block starts as the identity.

    "tied" layers are equal, "independent" ones are drawn anew. Each seed has one generator, which
    draws head, stem, then layer after layer: runs of equal seed share them across starts and
    depths, as far as these have them.
    """
    if start not in ("tied", "independent"):
        raise ValueError(f"start: expected 'tied' or 'independent', received {start!r}")
    depth, inputs, seeds = count(depth, "depth"), count(inputs, "inputs"), seeds_of(seeds)
    c, features = net.channels, POOLED**2 * net.channels

    def one(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        normal, uniform = (
            partial(law, generator=generator, dtype=torch.float32, device="cpu")
            for law in (torch.randn, torch.rand)
        )

        def draw(*shape: int, fan_in: int) -> Tensor:
            scale: float = fan_in**-0.5
            if net.variant == "text":
                return normal(shape) * scale
            return (2 * uniform(shape) - 1) * scale

        head = draw(net.classes, features, fan_in=features)
        stem = draw(c, inputs, 5, 5, fan_in=25 * inputs)
        count = 1 if start == "tied" else depth
        pairs = torch.stack([draw(2, c, c, 3, 3, fan_in=9 * c) for _ in range(count)])
        pairs = pairs.expand(depth, -1, -1, -1, -1, -1)
        return {"head": head, "stem": stem, "conv1": pairs[:, 0], "conv2": pairs[:, 1]}

    draws = [one(seed) for seed in seeds]
    drawn = {
        name: torch.stack([d[name] for d in draws]).to(dtype=dtype, device=device)
        for name in draws[0]
    }
    runs = len(seeds)

    def constant(value: float, *shape: int) -> Tensor:
        return torch.full((runs, *shape), value, dtype=dtype, device=device)

    layers = Layers(
        conv1=drawn["conv1"].contiguous(),
        conv2=drawn["conv2"].contiguous(),
        scale1=constant(1.0, depth, c),
        scale2=constant(0.0, depth, c),
        **{name: constant(0.0, depth, c) for name in ("shift1", "mean1", "shift2", "mean2")},
        **{name: constant(1.0, depth, c) for name in ("var1", "var2")},
    )
    stem_norm = {}
    if net.variant == "released":
        values = {"stem_scale": 1.0, "stem_shift": 0.0, "stem_mean": 0.0, "stem_var": 1.0}
        stem_norm = {name: constant(value, c) for name, value in values.items()}
    bias = constant(0.0, net.classes)
    return ConvWeights(
        stem=drawn["stem"], layers=layers, head=drawn["head"], bias=bias, **stem_norm
    )
