"""A run that is killed goes on where it was kept, bit for bit; alien files are refused."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import cotflow.flows.checkpoint as module
from cotflow.flows.chebyshev import RKC2
from cotflow.flows.checkpoint import Checkpoint, CheckpointError, fingerprint, read
from cotflow.flows.fingerprint import surroundings
from cotflow.flows.flow import gradient_flow
from cotflow.flows.runge_kutta import BOGACKI_SHAMPINE, RK4
from cotflow.flows.velocity import frobenius_clip
from cotflow.network.activations import TANH
from cotflow.network.residual import marion_net
from problems import ALL, problem

WAYS = [
    {"step": 0.05, "every": 3},
    {"step": 0.05, "method": RK4, "times": [0.5, 1.0]},
    {"step": 0.05, "method": RKC2},
    {"tolerance": 1e-5},
    {"tolerance": 1e-5, "method": BOGACKI_SHAMPINE, "times": [0.0, 0.7, 1.5]},
    {"tolerance": 1e-5, "clip": frobenius_clip(0.5)},
]


class Cut(Exception):
    pass


def same(a, b):
    assert torch.equal(a.times, b.times)
    assert a.observed.keys() == b.observed.keys()
    for name, series in a.observed.items():
        assert torch.equal(series, b.observed[name]), name
    for name, value in a.weights.tensors().items():
        assert torch.equal(value, getattr(b.weights, name)), name
    assert torch.equal(a.error_estimate, b.error_estimate)
    for name in ("accepted", "rejected", "gradient_evaluations", "largest_stages"):
        assert getattr(a, name) == getattr(b, name), name


@pytest.mark.parametrize("runs", [(), (2,)])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_resumed_equals_uninterrupted(way, runs, tmp_path):
    weights, x, y = problem(3, runs=runs)
    net, options = marion_net(TANH, trained=ALL), {"horizon": 1.5} | way
    whole = gradient_flow(net, weights, x, y, observe={"V": lambda s: s.weights.V}, **options)

    class Fragile(Checkpoint):
        """Dies two steps after its first write."""

        def restore(self, run, device):
            kept = super().restore(run, device)
            self.start = 0 if kept is None else kept["step"]
            return kept

        def keep(self, step, content, *, last):
            super().keep(step, content, last=last)
            if step == self.start + 6 and not last:
                raise Cut

    path, cuts = tmp_path / "run.pt", 0
    while True:
        keeper = Fragile(path, steps=4, seconds=None)
        try:
            resumed = gradient_flow(
                net,
                weights,
                x,
                y,
                observe={"V": lambda s: s.weights.V},
                checkpoint=keeper,
                **options,
            )
            break
        except Cut:
            cuts += 1
    assert cuts >= 1
    same(resumed, whole)
    again = gradient_flow(
        net,
        weights,
        x,
        y,
        observe={"V": lambda s: s.weights.V},
        checkpoint=Checkpoint(path),
        **options,
    )
    same(again, whole)


SCRIPT = """
import sys, torch
from cotflow import Checkpoint, RK4, gradient_flow, published
torch.set_num_threads(1)
e = published("figure 2", 8, 0)
how = {"tolerance": 1e-5} if sys.argv[2] == "adaptive" else {"step": 0.01, "method": RK4}
record = gradient_flow(e.net, e.weights, e.x, e.y, horizon=8.0, **how,
                       checkpoint=Checkpoint(sys.argv[1], steps=10))
torch.save((record.times, record.observed, record.weights.tensors(), record.error_estimate,
            record.gradient_evaluations), sys.argv[1] + ".end")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fixed", "adaptive"])
def test_killed_at_random_moments_and_resumed(kind, tmp_path):
    def start(name):
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / name), kind])

    assert start("whole").wait() == 0
    draw, killed = random.Random(kind), 0
    for _ in range(200):
        child, path = start("cut"), tmp_path / "cut"
        before = path.stat().st_mtime_ns if path.exists() else None
        while child.poll() is None and (not path.exists() or path.stat().st_mtime_ns == before):
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.4))
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
        if child.wait() == 0:
            break
        assert child.returncode == -signal.SIGKILL
        killed += 1
        # Whatever the moment: a whole file.
        assert torch.load(path, weights_only=True)["state"]["step"] >= 0
        if killed == 4:
            assert start("cut").wait() == 0
            break
    assert killed >= 1
    whole, cut = (
        torch.load(tmp_path / f"{name}.end", weights_only=True) for name in ("whole", "cut")
    )
    assert torch.equal(whole[0], cut[0])
    assert torch.equal(whole[1]["loss"], cut[1]["loss"])
    assert all(torch.equal(value, cut[2][name]) for name, value in whole[2].items())
    assert torch.equal(whole[3], cut[3]) and whole[4] == cut[4]


def run(path, net=None, **changes):
    weights, x, y = problem(3)
    options = {"tolerance": 1e-4, "horizon": 0.5, "checkpoint": Checkpoint(path)} | changes
    weights = options.pop("weights", weights)
    return gradient_flow(net or marion_net(TANH), weights, x, options.pop("y", y), **options)


def cut(velocity, at):
    return {name: v.clamp(-at, at) for name, v in velocity.items()}


def other_weights():
    return problem(4)[0]


@pytest.mark.parametrize(
    "change",
    [
        {"horizon": 0.6},
        {"tolerance": 1e-5},
        {"tolerance": None, "step": 0.1},
        {"method": BOGACKI_SHAMPINE},
        {"method": replace(RKC2, refresh=3)},
        {"clip": frobenius_clip(1.0)},
        {"times": [0.2]},
        {"observe": {"V": lambda s: s.weights.V}},
        {"net": marion_net(TANH, speed={"W": 2.0})},
        {"net": marion_net()},
        {"weights": other_weights()},
        {"y": problem(3)[2] + 1e-15},
    ],
    ids=lambda c: next(iter(c)),
)
def test_another_run_is_refused(change, tmp_path):
    path = tmp_path / "run.pt"
    run(path)
    content = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"is of another run .* give another path"):
        run(path, **change)
    assert path.read_bytes() == content


@pytest.mark.parametrize("size", [0, 10, 0.5, 0.999])
def test_truncated_files_are_refused(size, tmp_path):
    path = tmp_path / "run.pt"
    run(path)
    content = path.read_bytes()
    path.write_bytes(content[: size if isinstance(size, int) else int(size * len(content))])
    with pytest.raises(CheckpointError, match="is damaged or no checkpoint of a run; delete it"):
        run(path)


class Nasty:
    def __reduce__(self):
        return os.mkdir, ("nasty",)


@pytest.mark.parametrize(
    "content",
    [Nasty(), {"format": 1}, {"step": "3", "format": 2, "run": ""}, [1, 2], torch.zeros(3)],
    ids=["object", "mapping", "step", "list", "tensor"],
)
def test_alien_files_are_refused_and_run_no_code(content, tmp_path, monkeypatch, recwarn):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match="is damaged or no checkpoint of a run"):
        run(tmp_path / "run.pt")
    assert not Path("nasty").exists()
    assert recwarn.list == []


def test_a_failed_write_leaves_the_last_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"

    def broken(content, file):
        file.write(b"half")
        raise OSError("no space left")

    run(path)
    content = path.read_bytes()
    monkeypatch.setattr(module.torch, "save", broken)
    with pytest.raises(OSError, match="no space left"):
        module.write({}, path)
    assert path.read_bytes() == content


def test_a_missing_folder_is_told_before_the_run(tmp_path):
    with pytest.raises(CheckpointError, match=r"folder .*nowhere does not exist"):
        run(tmp_path / "nowhere" / "run.pt")


def test_writes_come_at_the_asked_interval(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        module, "write", lambda content, path: written.append(content["state"]["step"])
    )
    run(tmp_path / "a", tolerance=None, step=0.05, checkpoint=Checkpoint(tmp_path / "a", steps=4))
    assert written == [4, 8, 10]
    for wrong in ({"steps": 0}, {"seconds": -1.0}):
        with pytest.raises(ValueError, match="checkpoint: expected"):
            Checkpoint(tmp_path / "a", **wrong)


def test_fingerprint_sees_every_bit_and_the_dtype():
    x = torch.ones(3, dtype=torch.float64)
    prints = {fingerprint({"x": v}) for v in (x, x + 2e-16, x.float(), x[None], -x)}
    assert len(prints) == 5
    assert fingerprint({"x": x, "y": 1}) == fingerprint({"y": 1, "x": x.clone()})


@pytest.mark.parametrize(
    "change, named",
    [
        ({"step": 0.125}, ["the step"]),
        ({"horizon": 1.0}, ["the horizon"]),
        ({"times": [0.25]}, ["the times"]),
        ({"segment": 2}, ["the segment"]),
        ({"observe": {"a": lambda s: s.loss * 2}}, ["the observable 'a'"]),
        ({"observe": {"b": lambda s: s.loss}}, ["the observable 'b'", "the observable 'a'"]),
        ({"clip": partial(cut, at=2.0)}, ["the clip"]),
        ({"weights": other_weights(), "step": 0.125}, ["the initial weights", "the step"]),
    ],
)
def test_the_sentence_names_what_differs(change, named, tmp_path):
    given = {
        "tolerance": None,
        "step": 0.25,
        "observe": {"a": lambda s: s.loss},
        "clip": partial(cut, at=1.0),
    }
    run(tmp_path / "run.pt", **given)
    run(tmp_path / "run.pt", **given)
    with pytest.raises(CheckpointError) as caught:
        run(tmp_path / "run.pt", **(given | change))
    assert f"(other than here: {', '.join(named)})" in str(caught.value)


def test_another_library_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    run(path)
    monkeypatch.setattr(
        module, "surroundings", lambda: surroundings() | {"the sources of cotflow": "0"}
    )
    with pytest.raises(CheckpointError, match=r"other than here: the sources of cotflow\)"):
        run(path)


def test_numbers_of_numpy_and_torch_are_numbers(tmp_path):
    whole = run(tmp_path / "a", tolerance=None, step=0.125, every=2)
    steps = [np.float64(0.125), np.float32(0.125), torch.tensor(0.125), Fraction(1, 8)]
    for step in steps:
        options = {"horizon": np.float64(0.5), "every": np.int64(2), "tolerance": None}
        record = run(tmp_path / "a", step=step, segment=None, **options)
        same(record, whole)
        assert type(record.step) is float
    whole = run(tmp_path / "b", tolerance=1e-4, times=[0.0, 0.2, 0.5])
    for times in (np.array([0.0, 0.2, 0.5]), torch.tensor([0.0, 0.2, 0.5], dtype=torch.float64)):
        same(
            run(tmp_path / "b", tolerance=torch.tensor(1e-4, dtype=torch.float64), times=times),
            whole,
        )
    for wrong in ({"steps": 1.5}, {"seconds": float("nan")}, {"steps": True}):
        with pytest.raises(ValueError, match="checkpoint: expected"):
            Checkpoint(tmp_path / "a", **wrong)
    pace = {"steps": np.int64(3), "seconds": np.float32(2)}
    same(run(tmp_path / "b", times=times, checkpoint=Checkpoint(tmp_path / "b", **pace)), whole)


def test_every_flipped_bit_is_refused(tmp_path):
    path, draw = tmp_path / "run.pt", random.Random(0)
    run(path, tolerance=None, step=0.25)
    content = path.read_bytes()
    places = [draw.randrange(8 * len(content)) for _ in range(200)]
    places += [8 * (len(content) - k) + k % 8 for k in (1, 64, 65, 66, 67, 86)]
    for place in places:
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match="is damaged or no checkpoint of a run"):
            read(path, {}, torch.device("cpu"))
    path.write_bytes(content)
    run(path, tolerance=None, step=0.25)


def test_files_of_other_formats_are_told_from_damaged_ones(tmp_path):
    path = tmp_path / "run.pt"
    torch.save({"format": 1, "run": "abc", "step": 3}, path)
    with pytest.raises(CheckpointError, match=r"another version of cotflow \(format 1, this one"):
        run(path)
    module.write({"format": 3, "run": {}, "step": 3}, path)
    with pytest.raises(CheckpointError, match=r"another version of cotflow \(format 3, this one"):
        run(path)
    with pytest.raises(CheckpointError, match=r"expected numbers and tensors to keep, .* Nasty"):
        module.write({"step": Nasty()}, path)


def test_two_runs_on_one_path(tmp_path):
    path = tmp_path / "run.pt"

    def second(snapshot):
        with pytest.raises(CheckpointError, match=r"another run is at work on .*run\.pt; wait"):
            run(path)
        return snapshot.loss

    run(path, observe={"second": second})
    assert os.listdir(tmp_path) == ["run.pt"]
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "other.pt", observe={"a": lambda s: 1 / 0})
    assert os.listdir(tmp_path) == ["run.pt"]


@pytest.mark.slow
def test_a_process_that_holds_a_path_keeps_others_out_until_it_is_killed(tmp_path):
    path = tmp_path / "cut"
    child = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path), "fixed"])
    while not path.exists():
        time.sleep(0.01)
        assert child.poll() is None
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(CheckpointError, match="another run is at work on"):
        run(path)
    child.kill()
    child.wait()
    with pytest.raises(CheckpointError, match="is of another run"):
        run(path)
    assert os.listdir(tmp_path) == ["cut"]


def test_links_planted_beside_the_file_are_not_followed(tmp_path):
    treasure, path = tmp_path / "treasure", tmp_path / "run.pt"
    treasure.write_text("gold")
    for name in (".run.pt.partial", ".run.pt.0123456789abcdef.partial", "run.pt.partial"):
        (tmp_path / name).symlink_to(treasure)
    run(path)
    assert treasure.read_text() == "gold" and not path.is_symlink()
    (tmp_path / ".run.pt.lock").symlink_to(treasure)
    with pytest.raises(CheckpointError, match="cannot be kept there"):
        run(path)
    assert treasure.read_text() == "gold"


def test_what_a_killed_run_was_writing_is_taken_away(tmp_path):
    left = tmp_path / ".run.pt.0123456789abcdef.partial"
    left.write_bytes(b"half")
    (tmp_path / ".run.pt.lock").write_bytes(b"")
    others = tmp_path / ".another.pt.0123456789abcdef.partial"
    others.write_bytes(b"half")
    run(tmp_path / "run.pt")
    assert sorted(os.listdir(tmp_path)) == [others.name, "run.pt"]


@pytest.mark.parametrize("room", [0, 5000])
def test_a_full_disk_is_told_and_leaves_the_last_file(room, tmp_path):
    path = tmp_path / "run.pt"
    run(path)
    content = path.read_bytes()
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(CheckpointError) as caught:
            module.write({"x": torch.zeros(10_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    text = str(caught.value)
    assert "run.pt could not be written ([Errno 27] File too large); what was kept before" in text
    assert path.read_bytes() == content and os.listdir(tmp_path) == ["run.pt"]


def test_what_is_no_file_is_told(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(CheckpointError, match="expected the path of a file, received"):
            run(path)
    assert os.listdir(tmp_path) == ["pipe"]
