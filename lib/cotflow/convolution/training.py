"""Stochastic gradient descent with momentum on the networks of [M] §5.2, all runs at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from cotflow.convolution.datasets import Images
from cotflow.convolution.network import ConvNet, ConvWeights, Layers, seeds_of
from cotflow.flows.keeper import Keeper
from cotflow.flows.record import observation
from cotflow.network.numbers import Number, real, whole

RESIDUAL = ("conv1", "scale1", "shift1", "conv2", "scale2", "shift2")
OUTER = ("stem", "stem_scale", "stem_shift", "head", "bias")
RUNNING_LAYERED = ("mean1", "var1", "mean2", "var2")
RUNNING_OUTER = ("stem_mean", "stem_var")
STATISTICS_MOMENTUM = 0.1


@dataclass(frozen=True)
class Trainer:
    """v ← βv + ∂ℛ + decay·θ,  θ ← θ − η_t v,  with η_t = η(1 + cos(πt/T))/2 over T epochs and ℛ the
    mean loss of a batch.

    Parameters
    ----------
    layer_rate, layer_decay : c and λ give the residual layers the rate (c/η)η_tL and the decay λ/L,
        so that nets of all depths follow one flow, θ̇_k = −L∂_{θ_k}ℛ − λθ_k, [M] eq. (4) with decay,
        for one time. None stands for η and ``decay``. The released code, with η and ``decay`` for
        all parameters, is c = η/L and λ = decay·L.
    augment : crops and mirror images as far as the data set has them.
    precision : "mixed" computes forward passes in bfloat16 where this is safe; on CUDA only.
    """

    epochs: int = 10
    rate: float = 4e-2
    momentum: float = 0.9
    decay: float = 5e-4
    batch: int = 64
    layer_rate: float | None = None
    layer_decay: float | None = None
    augment: bool = True
    precision: Literal["full", "mixed"] = "full"

    def __post_init__(self) -> None:
        asked = "training: expected epochs ≥ 1 and batch ≥ 2"
        numbers: dict[str, float | None] = {
            "epochs": whole(self.epochs, asked, 1),
            "batch": whole(self.batch, asked, 2),
            "rate": real(
                self.rate, "training: expected a finite rate > 0", lambda r: 0 < r < math.inf
            ),
            "momentum": real(
                self.momentum, "training: expected a momentum from 0 up to 1", lambda b: 0 <= b < 1
            ),
            "decay": real(self.decay, "training: expected a finite decay"),
        }
        for name in ("layer_rate", "layer_decay"):
            value = getattr(self, name)
            if value is not None:
                numbers[name] = real(value, f"training: expected a finite {name}")
        if self.precision not in ("full", "mixed"):
            raise ValueError(
                f"training: expected precision 'full' or 'mixed', received {self.precision!r}"
            )
        for name, number in numbers.items():
            object.__setattr__(self, name, number)

    def rate_at(self, epoch: int) -> float:
        return 0.5 * self.rate * (1.0 + math.cos(math.pi * epoch / self.epochs))

    def at_layers(self, depth: int) -> tuple[float, float]:
        """Rate over η, and decay, of the residual layers."""
        rate = self.rate if self.layer_rate is None else self.layer_rate
        decay = self.decay if self.layer_decay is None else self.layer_decay
        return rate / self.rate * depth, decay / depth

    def flow_time(self, steps: int, depth: int) -> float:
        """Σ_t rate of the layers/(L(1 − β)), with so many steps an epoch."""
        sum_of_rates = steps * sum(self.rate_at(epoch) for epoch in range(self.epochs))
        return sum_of_rates * self.at_layers(depth)[0] / depth / (1.0 - self.momentum)


@dataclass(frozen=True)
class Record:
    """A finished training.

    Attributes
    ----------
    weights : the trained weights.
    loss : mean training loss of each epoch's batches.
    observed : what ``observe`` returned at the start and after each epoch.
    steps : gradient steps taken.
    """

    weights: ConvWeights
    loss: Float[Tensor, "*runs epochs"]
    observed: dict[str, Tensor]
    steps: int


def layer_first(value: Tensor) -> Tensor:
    """(runs, L, …) → (L, runs, …), contiguous, so that one layer's block is a view."""
    return value.transpose(0, 1).contiguous()


def assemble(values: dict[str, Tensor]) -> ConvWeights:
    """Weights with the run axis first from tensors with the layer axis first."""
    layers = {n: layer_first(values[n]) for n in (*RESIDUAL, *RUNNING_LAYERED)}
    outer = {n: values[n].clone() for n in (*OUTER, *RUNNING_OUTER) if n in values}
    return ConvWeights(layers=Layers(**layers), **outer)


@torch.inference_mode(False)
@torch.enable_grad()
def train(
    net: ConvNet,
    weights: ConvWeights,
    data: Images,
    seeds: Iterable[SupportsIndex],
    trainer: Trainer = Trainer(),
    *,
    observe: dict[str, Callable[[ConvWeights], Tensor | Number]] | None = None,
    checkpoint: Keeper | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Record:
    """Train every run of ``weights``, which has one run axis; dtype and device follow the weights.

    Parameters
    ----------
    seeds : one a run, for the order of the samples and their augmentation; runs of equal seed see
        the same batches.
    observe : functions of the weights, called at the start and after each epoch; numbers, or
        tensors of one shape.
    checkpoint : a :class:`cotflow.flows.checkpoint.Checkpoint`, where a training that was cut off
        goes on to the same bits.
    progress : called with (steps taken, steps in all) after each step.
    """
    weights = weights.map(Tensor.detach)
    like = weights.head
    drawn = seeds_of(seeds, least=0)
    if len(weights.runs) != 1 or len(drawn) != weights.runs[0]:
        raise ValueError(
            f"training: expected weights with one run axis and one seed a run, received runs of "
            f"shape {weights.runs} and {len(drawn)} seeds"
        )
    if not drawn or weights.depth < 1 or len(data.train_labels) < 2:
        raise ValueError(
            "training: expected at least one run, one layer and two images, received "
            f"{len(drawn)}, {weights.depth} and {len(data.train_labels)}"
        )
    if trainer.precision == "mixed" and like.device.type != "cuda":
        raise ValueError(f"training: mixed precision is for CUDA only, received {like.device}")
    for images, labels in ((data.train, data.train_labels), (data.test, data.test_labels)):
        _require_labelled(net, images, labels)
    data = data.to(dtype=like.dtype, device=like.device)
    samples = len(data.train_labels)
    batch = min(trainer.batch, samples)
    per_epoch = samples // batch
    observe = observe or {}

    values = {n: v.clone() for n, v in weights.tensors().items()}
    values |= {n: layer_first(v) for n, v in weights.layers.tensors().items()}
    momenta = {n: torch.zeros_like(values[n]) for n in (*OUTER, *RESIDUAL) if n in values}
    observed: dict[str, list[Tensor]] = {
        name: [observation(name, f(weights), like.device, [])] for name, f in observe.items()
    }
    losses: list[Tensor] = []
    total = torch.zeros(len(drawn), dtype=like.dtype, device=like.device)
    step, steps = 0, trainer.epochs * per_epoch
    if checkpoint is not None:
        run: dict[str, object] = {
            "the network": net,
            "the trainer": trainer,
            "the initial weights": weights,
            "the data": {n: v for n, v in vars(data).items() if isinstance(v, Tensor)},
            "the augmentation": [data.crop, data.flip],
            "the seeds": drawn,
        }
        run |= {f"the observable {name!r}": f for name, f in observe.items()}
        kept = checkpoint.restore(run, like.device)
        if kept is not None:
            values, momenta, total = kept["values"], kept["momenta"], kept["total"]
            losses, observed, step = list(kept["losses"]), kept["observed"], kept["step"]

    def state() -> dict[str, Any]:
        return {
            "values": values,
            "momenta": momenta,
            "total": total,
            "losses": losses,
            "observed": observed,
        }

    order = None
    try:
        while step < steps:
            epoch, position = divmod(step, per_epoch)
            if order is None or position == 0:
                order = EpochOrder(drawn, epoch, data, trainer.augment)
            images, labels = order.batch(position * batch, batch)
            total += step_once(net, trainer, values, momenta, images, labels, epoch)
            step += 1
            if step % per_epoch == 0:
                losses.append(total / per_epoch)
                total = torch.zeros_like(total)
                if not torch.isfinite(losses[-1]).all():
                    raise FloatingPointError(
                        f"training: the loss is not finite after epoch {epoch + 1}; "
                        "try a smaller rate"
                    )
                if observe:
                    now = assemble(values)
                    for name, f in observe.items():
                        series = observed[name]
                        series.append(observation(name, f(now), like.device, series))
            if checkpoint is not None:
                checkpoint.keep(step, state, last=step == steps)
            if progress is not None:
                progress(step, steps)
    finally:
        if checkpoint is not None:
            checkpoint.release()
    return Record(
        weights=assemble(values),
        loss=torch.stack(losses, -1),
        observed={name: torch.stack(series, -1) for name, series in observed.items()},
        steps=step,
    )


def step_once(
    net: ConvNet,
    trainer: Trainer,
    values: dict[str, Tensor],
    momenta: dict[str, Tensor],
    images: Float[Tensor, "n rc y x"],
    labels: Int[Tensor, "runs n"],
    epoch: int,
) -> Float[Tensor, "runs"]:
    """One step in place; returns the losses before it."""
    trained = {n: values[n].detach().requires_grad_() for n in momenta}
    current = values | trained
    depth = values["scale1"].shape[0]
    columns = {n: current[n].unbind(0) for n in (*RESIDUAL, *RUNNING_LAYERED)}
    layers = [Layers(**{n: column[k] for n, column in columns.items()}) for k in range(depth)]
    outer = ConvWeights(
        layers=layers[0], **{n: current[n] for n in (*OUTER, *RUNNING_OUTER) if n in current}
    )
    mixed = trainer.precision == "mixed"
    with torch.autocast(images.device.type, torch.bfloat16) if mixed else nullcontext():
        # In bfloat16 the state would lose most of an increment of size 1/L.
        h = net._embed(outer, images, STATISTICS_MOMENTUM).to(images.dtype)
        for layer in layers:
            h = h + net._residual(layer, h, STATISTICS_MOMENTUM).to(h.dtype) / depth
        logits = net._classify(outer, h)
    loss = F.cross_entropy(logits.float().mT if mixed else logits.mT, labels, reduction="none")
    loss = loss.mean(-1)
    gradients = torch.autograd.grad(loss.sum(), list(trained.values()))
    rate = trainer.rate_at(epoch)
    with torch.no_grad():
        for (name, value), gradient in zip(trained.items(), gradients, strict=True):
            factor, decay = trainer.at_layers(depth) if name in RESIDUAL else (1.0, trainer.decay)
            v = momenta[name].mul_(trainer.momentum).add_(gradient)
            v.add_(value, alpha=decay)
            values[name] = value.detach().sub_(v, alpha=rate * factor)
    return loss.detach().to(values["head"].dtype)


class EpochOrder:
    """The samples of one epoch, shuffled and augmented run by run from (seed, epoch) alone."""

    def __init__(self, seeds: Sequence[int], epoch: int, data: Images, augment: bool):
        self.data, self.augment = data, augment and (data.crop > 0 or data.flip)
        samples, device = len(data.train_labels), data.train.device
        orders, shifts, flips = [], [], []
        for seed in seeds:
            g = torch.Generator().manual_seed((seed * 1_000_003 + epoch + 1) % 2**63)
            orders.append(torch.randperm(samples, generator=g, device="cpu"))
            shifts.append(
                torch.randint(0, 2 * data.crop + 1, (samples, 2), generator=g, device="cpu")
            )
            flips.append(
                torch.rand(samples, generator=g, dtype=torch.float32, device="cpu")
                < 0.5 * data.flip
            )
        self.order = torch.stack(orders).to(device)
        self.shift, self.flip = torch.stack(shifts).to(device), torch.stack(flips).to(device)

    def batch(self, start: int, size: int) -> tuple[Tensor, Tensor]:
        """Images (n, runs·inputs, y, x) and labels (runs, n)."""
        rows = slice(start, start + size)
        index = self.order[:, rows]
        if self.augment:
            images = augmented(
                self.data.train, index, self.shift[:, rows], self.flip[:, rows], self.data.crop
            )
        else:
            images = self.data.train[index]
        return images.transpose(0, 1).flatten(1, 2), self.data.train_labels[index]


def augmented(images: Tensor, index: Tensor, shift: Tensor, flip: Tensor, crop: int) -> Tensor:
    """images[index], padded by zeros, cropped at ``shift`` and mirrored where ``flip``."""
    height, width = images.shape[-2:]
    picked = F.pad(images[index], (crop,) * 4)
    y = torch.arange(height, device=images.device) + shift[..., :1]
    x = torch.arange(width, device=images.device)
    x = torch.where(flip[..., None], width - 1 - x, x) + shift[..., 1:]
    picked = picked.movedim(2, -1)
    runs, n = index.shape
    r = torch.arange(runs, device=images.device)[:, None, None, None]
    i = torch.arange(n, device=images.device)[None, :, None, None]
    return picked[r, i, y[..., :, None], x[..., None, :]].movedim(-1, 2)


def _require_labelled(net: ConvNet, images: Tensor, labels: Tensor) -> None:
    """As many images, of finite numbers, as labels, each of them a class of the net."""
    if len(images) != len(labels) or labels.dtype.is_floating_point or labels.dtype.is_complex:
        raise ValueError(
            f"images: expected a whole number for each as its label, received {len(images)} images "
            f"and {len(labels)} labels of {labels.dtype}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < net.classes:
        raise ValueError(
            f"images: expected labels from 0 up to the net's {net.classes} classes, received some "
            f"from {int(labels.min())} to {int(labels.max())}"
        )
    if not bool(torch.isfinite(images).all()):
        raise ValueError(
            f"images: expected finite numbers, received {int((~torch.isfinite(images)).sum())} "
            "that are not"
        )


@torch.no_grad()
def accuracy(
    net: ConvNet,
    weights: ConvWeights,
    images: Float[Tensor, "n inputs y x"],
    labels: Int[Tensor, "n"],
    batch: int = 500,
) -> Float[Tensor, "*runs"]:
    """Share of images classified rightly, with the running statistics."""
    _require_labelled(net, images, labels)
    if not len(labels):
        raise ValueError("accuracy: expected at least one image, received none")
    batch = whole(batch, "accuracy: expected batch ≥ 1", 1)
    right = torch.zeros(weights.runs, dtype=torch.float32, device=weights.head.device)
    for start in range(0, len(labels), batch):
        part = images[start : start + batch].to(weights.head)
        guess = net(weights, part).argmax(-1)
        right = right + (guess == labels[start : start + batch].to(guess.device)).sum(-1)
    return right / len(labels)
