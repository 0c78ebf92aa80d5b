"""Convolutional residual nets: shapes, runs side by side, starts, and training that can be cut."""

import math
import multiprocessing
import signal
import time
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn
from torch.func import jvp, vjp

import cotflow.convolution.training as training
from cotflow.convolution import (
    ConvNet,
    Images,
    Layers,
    Trainer,
    accuracy,
    initial_weights,
    join,
    kernel_gaps,
    roughness,
    train,
)
from cotflow.flows.checkpoint import Checkpoint, CheckpointError

VARIANTS = ["text", "released"]


def blobs(samples=40, side=8, inputs=1, seed=0, **options):
    """Images of three classes that differ in their mean."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % 3
    noise = torch.randn(samples, inputs, side, side, generator=g, dtype=torch.float32)
    images = noise + labels[:, None, None, None]
    return Images("blobs", images, labels, images[:9], labels[:9], **options)


def random_weights(net, depth, runs=2, dtype=torch.float64, inputs=1):
    """Weights with nothing at its initial value."""
    g = torch.Generator().manual_seed(3)
    weights = initial_weights(
        net, depth, list(range(runs)), "independent", dtype=dtype, inputs=inputs
    )

    def shaken(tensors):
        return {n: v + 0.3 * torch.rand(v.shape, generator=g, dtype=dtype) for n, v in tensors}

    layers = Layers(**shaken(weights.layers.tensors().items()))
    return replace(weights, layers=layers, **shaken(weights.tensors().items()))


class Reference(nn.Module):
    """The network of one run, from torch's own modules."""

    def __init__(self, net, weights):
        super().__init__()
        self.net, self.depth, c = net, weights.depth, net.channels
        inputs = weights.stem.shape[1]
        stride, padding = {"text": (2, 2), "released": (3, 1)}[net.variant]
        self.stem = nn.Conv2d(inputs, c, 5, stride, padding, bias=False)
        self.stem_norm = nn.BatchNorm2d(c)
        self.conv1, self.conv2, self.norm1, self.norm2 = (
            nn.ModuleList(make() for _ in range(self.depth))
            for make in [lambda: nn.Conv2d(c, c, 3, padding=1, bias=False)] * 2
            + [lambda: nn.BatchNorm2d(c)] * 2
        )
        self.head = nn.Linear(4 * c, net.classes)
        self.double()
        self.sigma = {"gelu": nn.GELU(), "relu": nn.ReLU(), "identity": nn.Identity()}
        self.sigma = self.sigma[net.activation.name]
        with torch.no_grad():
            self.stem.weight.copy_(weights.stem)
            self.head.weight.copy_(weights.head)
            self.head.bias.copy_(weights.bias)
            if net.variant == "released":
                self._norm(self.stem_norm, weights, "stem_{}")
            for k, layer in enumerate(weights.layers):
                self.conv1[k].weight.copy_(layer.conv1)
                self.conv2[k].weight.copy_(layer.conv2)
                self._norm(self.norm1[k], layer, "{}1")
                self._norm(self.norm2[k], layer, "{}2")

    @staticmethod
    def _norm(norm, source, name):
        norm.weight.copy_(getattr(source, name.format("scale")))
        norm.bias.copy_(getattr(source, name.format("shift")))
        norm.running_mean.copy_(getattr(source, name.format("mean")))
        norm.running_var.copy_(getattr(source, name.format("var")))

    def forward(self, x):
        h = self.stem(x)
        if self.net.variant == "released":
            h = torch.relu(self.stem_norm(h))
        for k in range(self.depth):
            z = self.sigma(self.norm1[k](self.conv1[k](h)))
            h = h + self.norm2[k](self.conv2[k](z)) / self.depth
        return self.head(nn.functional.adaptive_avg_pool2d(h, 2).flatten(1))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["gelu", "relu", "identity"])
def test_the_network_is_the_one_of_torchs_modules_in_every_run(variant, name):
    net = ConvNet(name, channels=4, classes=3, variant=variant)
    weights = random_weights(net, 3)
    images = torch.randn(5, 1, 9, 9, generator=torch.Generator().manual_seed(1)).double()
    logits = net(weights, images)
    h = net.embed(weights, images)
    for layer in weights.layers:
        h = h + net.residual(layer, h) / weights.depth
    torch.testing.assert_close(net.classify(weights, h), logits, rtol=1e-12, atol=1e-12)
    for r in range(2):
        expected = Reference(net, weights.run(r)).eval()(images)
        torch.testing.assert_close(logits[r], expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(net(weights.run(r), images), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layers", [(1e-3, 0.1), (2e-2, 2.5e-4), (None, None)])
def test_training_is_that_of_torchs_sgd(variant, layers):
    net = ConvNet("gelu", channels=4, classes=3, variant=variant)
    weights, data = random_weights(net, 2), blobs().to(dtype=torch.float64)
    trainer = Trainer(epochs=2, batch=16, layer_rate=layers[0], layer_decay=layers[1])
    rates = {"lr": 2 * (layers[0] or 4e-2), "weight_decay": (layers[1] or 5e-4) / 2}
    record = train(net, weights, data, [5, 6], trainer)
    assert record.steps == 4
    for r, seed in enumerate([5, 6]):
        model = Reference(net, weights.run(r)).train()
        inner = [p for n, p in model.named_parameters() if n[:4] in ("conv", "norm")]
        outer = [p for n, p in model.named_parameters() if n[:4] in ("stem", "head")]
        groups = [
            {"params": outer},
            {"params": inner} | rates,
        ]
        optimizer = torch.optim.SGD(groups, lr=4e-2, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)
        losses = []
        for epoch in range(2):
            order = training.EpochOrder([seed], epoch, data, augment=False)
            for start in (0, 16):
                images, labels = order.batch(start, 16)
                loss = nn.functional.cross_entropy(model(images), labels[0])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
            schedule.step()
        trained = record.weights.run(r)
        options = {"rtol": 1e-9, "atol": 1e-9}
        torch.testing.assert_close(trained.head, model.head.weight.detach(), **options)
        torch.testing.assert_close(trained.stem, model.stem.weight.detach(), **options)
        for k, layer in enumerate(trained.layers):
            torch.testing.assert_close(layer.conv1, model.conv1[k].weight.detach(), **options)
            torch.testing.assert_close(layer.scale2, model.norm2[k].weight.detach(), **options)
            torch.testing.assert_close(layer.mean1, model.norm1[k].running_mean, **options)
            torch.testing.assert_close(layer.var2, model.norm2[k].running_var, **options)
        np.testing.assert_allclose(record.loss[r], np.reshape(losses, (2, 2)).mean(1), rtol=1e-9)


def test_tied_layers_stay_equal_for_two_steps_and_independent_ones_share_the_first():
    net = ConvNet("gelu", channels=4, classes=3)
    tied = initial_weights(net, 5, [0, 1])
    free = initial_weights(net, 5, [0, 1], "independent")
    assert float(kernel_gaps(tied.layers).max()) == 0 and float(kernel_gaps(free.layers).min()) > 0
    assert torch.equal(tied.layers[0].conv2, free.layers[0].conv2)
    deeper = initial_weights(net, 9, [0, 1], "independent")
    assert torch.equal(deeper.layers[4].conv1, free.layers[4].conv1)
    images = blobs().train
    assert torch.equal(net(tied, images), net(free, images))
    # the first step moves bn₂ alone, and all layers by the same amount
    once = train(net, tied, blobs(), [0, 1], Trainer(epochs=1, batch=40)).weights.layers
    assert float(kernel_gaps(once).max()) == 0
    torch.testing.assert_close(once.scale2[:, 0], once.scale2[:, 4], rtol=1e-5, atol=1e-7)
    assert float(once.scale2.abs().max()) > 0


def test_gaps_of_a_tied_smooth_net_are_of_order_one_over_depth_and_roughness_too():
    net, data = ConvNet("gelu", channels=4, classes=3), blobs()
    gaps, index = [], []
    for depth in (8, 16):
        start = initial_weights(net, depth, [0], dtype=torch.float64)
        layers = train(net, start, data, [0], Trainer(epochs=5, batch=20)).weights.layers
        gaps.append(float(kernel_gaps(layers).max()))
        index.append(float(roughness(layers)[0]))
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.2)
    assert index[0] / index[1] == pytest.approx(2, rel=0.1)
    free = initial_weights(net, 16, [0], "independent").layers
    assert float(roughness(free)[0]) == pytest.approx(math.sqrt(2), rel=0.05)


@pytest.mark.parametrize("start", ["tied", "independent"])
def test_runs_side_by_side_are_the_runs_alone(start):
    net, data = ConvNet("relu", channels=4, classes=3), blobs(crop=1, flip=True)
    weights = initial_weights(net, 3, [0, 1], start, dtype=torch.float64)
    trainer = Trainer(epochs=2, batch=16)
    both = train(net, weights, data, [7, 8], trainer)
    singles = [initial_weights(net, 3, [r], start, dtype=torch.float64) for r in range(2)]
    assert torch.equal(join(singles).layers.conv1, weights.layers.conv1)
    for r, alone in enumerate(singles):
        record = train(net, alone, data, [7 + r], trainer)
        for name, value in record.weights.layers.tensors().items():
            other = getattr(both.weights.layers, name)[r]
            torch.testing.assert_close(other, value[0], rtol=1e-8, atol=1e-10)


def test_mixed_precision_takes_nearly_the_same_step():
    net, data = ConvNet("gelu", channels=4, classes=3), blobs()
    images, labels = training.EpochOrder([0, 1], 0, data, augment=False).batch(0, 16)
    ends = []
    for precision in ("full", "mixed"):
        weights = random_weights(net, 24, dtype=torch.float32)
        values = {n: v.clone() for n, v in weights.tensors().items()}
        values |= {n: training.layer_first(v) for n, v in weights.layers.tensors().items()}
        momenta = {n: torch.zeros_like(values[n]) for n in ("stem", "head", *training.RESIDUAL)}
        trainer = Trainer(precision=precision)
        loss = training.step_once(net, trainer, values, momenta, images, labels, 0)
        assert {v.dtype for v in values.values()} == {torch.float32}
        ends.append((loss, values["head"]))
    torch.testing.assert_close(ends[1][0], ends[0][0], rtol=2e-2, atol=0)
    torch.testing.assert_close(ends[1][1], ends[0][1], rtol=0, atol=2e-2)


def test_learns_blobs_and_observes_every_epoch():
    net, data = ConvNet("gelu", channels=4, classes=3), blobs(120)
    record = train(
        net,
        initial_weights(net, 4, [0, 1]),
        data,
        [0, 1],
        Trainer(epochs=6, batch=20),
        observe={"gap": lambda w: kernel_gaps(w.layers).amax(-1)},
    )
    assert record.observed["gap"].shape == (2, 7) and record.loss.shape == (2, 6)
    assert bool((record.loss[:, -1] < 0.5 * record.loss[:, 0]).all())
    assert float(accuracy(net, record.weights, data.train, data.train_labels).min()) > 0.8


def test_the_published_rates_at_depth_256_are_a_flow_for_a_time_of_110():
    released = Trainer(epochs=180, layer_rate=4e-2 / 256, layer_decay=5e-4 * 256)
    assert released.at_layers(256) == pytest.approx((1.0, 5e-4))
    assert released.flow_time(781, 256) == pytest.approx(110.4, abs=0.1)
    assert released.flow_time(781, 16) == pytest.approx(released.flow_time(781, 256))


def test_augmentation_crops_and_mirrors():
    images = torch.arange(32.0).reshape(2, 1, 4, 4)
    index = torch.tensor([[1, 0]])
    shift, flip = torch.tensor([[[1, 1], [0, 2]]]), torch.tensor([[False, True]])
    plain, moved = training.augmented(images, index, shift, flip, 1)[0, :, 0]
    assert torch.equal(plain, images[1, 0])
    padded = nn.functional.pad(images[0, 0], (1, 1, 1, 1))
    assert torch.equal(moved, padded[0:4, 2:6].flip(1))


@pytest.mark.parametrize("at", [3, 5])
def test_a_training_that_is_cut_goes_on_to_the_same_bits(tmp_path, at):
    class Cut(Exception):
        pass

    class Fragile(Checkpoint):
        def keep(self, step, content, *, last):
            super().keep(step, content, last=last)
            if step == at:
                raise Cut

    net, data = ConvNet("gelu", channels=4, classes=3, variant="released"), blobs(crop=1)
    weights, path = initial_weights(net, 3, [0, 1], "independent"), tmp_path / "run.pt"
    trainer = Trainer(epochs=3, batch=16)
    observe = {"gap": lambda w: kernel_gaps(w.layers).amax(-1)}
    whole = train(net, weights, data, [0, 1], trainer, observe=observe)
    with pytest.raises(Cut):
        fragile = Fragile(path, steps=2, seconds=None)
        train(net, weights, data, [0, 1], trainer, observe=observe, checkpoint=fragile)
    kept = Checkpoint(path, steps=2, seconds=None)
    again = train(net, weights, data, [0, 1], trainer, observe=observe, checkpoint=kept)
    assert torch.equal(again.loss, whole.loss)
    assert torch.equal(again.observed["gap"], whole.observed["gap"])
    for one, other in [
        (again.weights, whole.weights),
        (again.weights.layers, whole.weights.layers),
    ]:
        for name, value in one.tensors().items():
            assert torch.equal(value, getattr(other, name)), name
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
    with pytest.raises(CheckpointError, match="of another run"):
        train(net, weights, data, [0, 2], trainer, observe=observe, checkpoint=kept)


class Slow(Checkpoint):
    def keep(self, step, content, *, last):
        super().keep(step, content, last=last)
        time.sleep(1.0)


def six_steps(checkpoint=None, progress=None):
    net, data = ConvNet("gelu", channels=4, classes=3), blobs(crop=1)
    weights = initial_weights(net, 3, [0, 1], "independent")
    options = {"checkpoint": checkpoint, "progress": progress}
    return train(net, weights, data, [0, 1], Trainer(epochs=3, batch=16), **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="no fork beside a CUDA device")
def test_a_training_that_is_killed_goes_on_to_the_same_bits(tmp_path):
    path = tmp_path / "run.pt"
    child = multiprocessing.get_context("fork").Process(
        target=six_steps, args=(Slow(path, steps=1),), daemon=True
    )
    child.start()
    end = time.monotonic() + 60
    while child.is_alive() and not path.exists() and time.monotonic() < end:
        time.sleep(0.01)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert 0 < torch.load(path, weights_only=True)["step"] < 6
    again, whole = six_steps(Checkpoint(path)), six_steps()
    assert again.steps == whole.steps == 6 and torch.equal(again.loss, whole.loss)
    for name, value in again.weights.layers.tensors().items():
        assert torch.equal(value, getattr(whole.weights.layers, name)), name


def test_a_training_is_kept_at_the_asked_interval_and_reports_every_step(tmp_path):
    class Watched(Checkpoint):
        def keep(self, step, content, *, last):
            before = path.stat().st_mtime_ns if path.exists() else None
            super().keep(step, content, last=last)
            if path.exists() and path.stat().st_mtime_ns != before:
                written.append(torch.load(path, weights_only=True)["step"])

    path, written, reported = tmp_path / "run.pt", [], []
    six_steps(Watched(path, steps=4, seconds=None), lambda *step: reported.append(step))
    assert written == [4, 6]
    assert reported == [(k, 6) for k in range(1, 7)]
    for wrong in ({"steps": 0}, {"seconds": -1.0}):
        with pytest.raises(ValueError, match="checkpoint: expected"):
            six_steps(Checkpoint(path, **wrong))


def test_a_wrong_request_is_refused_with_a_sentence():
    net, data = ConvNet("gelu", channels=4, classes=3), blobs()
    weights = initial_weights(net, 2, [0])
    with pytest.raises(ValueError, match="one seed a run"):
        train(net, weights, data, [0, 1])
    with pytest.raises(ValueError, match="for CUDA only"):
        train(net, weights, data, [0], Trainer(precision="mixed"))
    with pytest.raises(ValueError, match="epochs ≥ 1"):
        Trainer(epochs=0)
    with pytest.raises(ValueError, match="at least 2×2 positions"):
        net(weights, torch.zeros(1, 1, 2, 2, dtype=torch.float32))
    with pytest.raises(FloatingPointError, match="smaller rate"):
        train(net, weights, data, [0], Trainer(rate=1e30, epochs=9))


NET = ConvNet("gelu", channels=4, classes=3)


@pytest.mark.parametrize(
    "call",
    [
        *(lambda n=n: ConvNet(channels=n) for n in (0, -1, 1.5, "3")),
        *(lambda n=n: ConvNet(classes=n) for n in (0, -2)),
        *(lambda n=n: initial_weights(NET, n, [0]) for n in (0, -1, 1.5, math.nan)),
        *(lambda s=s: initial_weights(NET, 2, s) for s in ([], 0, [1.5], [2**64], ["a"])),
        lambda: initial_weights(NET, 2, [0], inputs=0),
        *(lambda n=n: Trainer(batch=n) for n in (0, 1, 2.5)),
        lambda: Trainer(precision="half"),
        *(lambda s=s: fitted(seeds=s) for s in (0, [1.5], [2**64])),
        lambda: fitted(train=math.nan * blobs().train),
        lambda: fitted(train=blobs().train[:5]),
        lambda: fitted(train_labels=blobs().train_labels + 3),
        lambda: fitted(train_labels=blobs().train_labels - 1),
        lambda: fitted(test_labels=blobs().test_labels.double()),
        lambda: accuracy(NET, one_run(), blobs().test[:0], blobs().test_labels[:0]),
        lambda: accuracy(NET, one_run(), blobs().test, blobs().test_labels[:3]),
        lambda: accuracy(NET, one_run(), math.inf * blobs().test, blobs().test_labels),
        lambda: accuracy(NET, one_run(), blobs().test, blobs().test_labels, batch=0),
    ],
)
def test_what_is_no_net_no_seed_and_no_image_is_refused_in_one_sentence(call, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"expected .*, received [^\n]*$"):
        call()


def one_run():
    return initial_weights(NET, 2, [0])


def fitted(seeds=(0,), **changes):
    return train(NET, one_run(), replace(blobs(), **changes), seeds, Trainer(epochs=1, batch=8))


@pytest.mark.slow
@pytest.mark.parametrize("moving", ["state", "state and scale"])
def test_forward_derivative_of_a_block_is_its_backward_one(moving):
    net, g = ConvNet("gelu", channels=3), torch.Generator().manual_seed(0)
    layer = initial_weights(net, 1, [0, 1], dtype=torch.float64).layers[0]
    layer = layer.map(lambda z: z + torch.rand(z.shape, generator=g, dtype=z.dtype))
    h, push = torch.randn(2, 2, 5, 3, 4, 4, generator=g, dtype=torch.float64)

    def block(h, scale):
        return net.residual(replace(layer, scale1=scale), h)

    slope = torch.ones_like(layer.scale1) if moving == "state and scale" else None
    at, along = ((h,), (push,)) if slope is None else ((h, layer.scale1), (push, slope))
    forward = jvp(lambda h, scale=layer.scale1: block(h, scale), at, along)[1]
    pull = vjp(lambda h, scale=layer.scale1: block(h, scale), *at)[1]
    back = sum(float((a * b).sum()) for a, b in zip(along, pull(forward), strict=True))
    assert back == pytest.approx(float(forward.square().sum()), rel=1e-12)


def test_observers_of_a_training_may_return_numbers_and_nothing_to_train_is_told(tmp_path):
    net, data = ConvNet("gelu", channels=4, classes=3), blobs()
    weights = initial_weights(net, 2, [0, 1], "independent")
    leaves = weights.map(lambda v: v.clone().requires_grad_())
    options = {"observe": {"one": lambda w: 1.5}, "checkpoint": Checkpoint(tmp_path / "run.pt")}
    trainer = Trainer(epochs=1, batch=16, rate=np.float64(0.04))
    records = [train(net, w, data, np.array([0, 1]), trainer, **options) for w in (weights, leaves)]
    for record in records:
        assert record.observed["one"].tolist() == [1.5, 1.5]
        assert not record.weights.head.requires_grad
    assert torch.equal(records[0].weights.head, records[1].weights.head)
    with pytest.raises(
        CheckpointError, match=r"other than here: the seeds, the observable 'one'\)"
    ):
        train(net, weights, data, [0, 2], trainer, **(options | {"observe": {"one": lambda w: 2}}))
    empty = weights.map(lambda v: v[:0])
    with pytest.raises(ValueError, match="at least one run, one layer and two images, received 0"):
        train(net, empty, data, [])
    few = replace(data, train=data.train[:1], train_labels=data.train_labels[:1])
    with pytest.raises(ValueError, match="two images, received 2, 2 and 1"):
        train(net, weights, few, [0, 1])
    for wrong in ({"rate": -1.0}, {"rate": math.nan}, {"momentum": 1.0}, {"decay": math.inf}):
        with pytest.raises(ValueError, match=r"^training: expected a "):
            Trainer(**wrong)
