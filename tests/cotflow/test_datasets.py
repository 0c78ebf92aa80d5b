"""Digits, MNIST and CIFAR-10: formats, checksums, downloads that fail, and training end to end."""

import gzip
import hashlib
import io
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from cotflow.convolution import (
    ConvNet,
    DataError,
    Trainer,
    accuracy,
    initial_weights,
    load_images,
    train,
)
from cotflow.convolution.datasets import CIFAR10, MNIST, SOURCES, Source

COUNTS = {"train": 20, "t10k": 10}


def idx(values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return gzip.compress(header + values.tobytes(), mtime=0)


def small_mnist(folder):
    """The four files with few images; returns the pixels and labels."""
    rng, parts = np.random.default_rng(0), {}
    for part, count in COUNTS.items():
        parts[part] = (
            rng.integers(0, 256, (count, 28, 28), dtype=np.uint8),
            (np.arange(count) % 10).astype(np.uint8),
        )
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(parts[part][0]))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(parts[part][1]))
    return parts


def small_cifar10(folder, per_batch=4):
    """The archive of the binary version with few images a batch."""
    rng, parts = np.random.default_rng(1), []
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
            pixels = rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8)
            labels = rng.integers(0, 10, (per_batch, 1), dtype=np.uint8)
            content = np.hstack([labels, pixels]).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
            parts.append((pixels.reshape(-1, 3, 32, 32), labels[:, 0]))
    return parts


def source_of(folder, url="http://127.0.0.1:9/"):
    """Checksums of what lies in the folder; nobody listens at the address."""
    sums = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}
    names = sorted(sums, key=lambda name: ("train" not in name, "images" not in name))
    return Source(url, "sha256", {name: sums[name] for name in names})


@pytest.fixture
def served(tmp_path):
    """A folder that a server on this machine offers, and its address."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def check_standardised(data):
    channels = data.train.shape[1]
    torch.testing.assert_close(data.train.mean((0, 2, 3)), data.train.new_zeros(channels))
    std = data.train.std((0, 2, 3), correction=0)
    torch.testing.assert_close(std, data.train.new_ones(channels))


def test_digits_are_there_without_a_file():
    data = load_images("digits")
    assert data.train.shape == (1437, 1, 8, 8) and data.test.shape == (360, 1, 8, 8)
    assert set(data.train_labels.tolist()) == set(data.test_labels.tolist()) == set(range(10))
    assert not data.flip
    check_standardised(data)
    assert torch.equal(load_images("digits").test, data.test)


@pytest.mark.slow
def test_digits_are_those_of_scikit_learn():
    images, labels = load_digits(return_X_y=True)
    data = load_images("digits")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[::5]
    assert torch.equal(data.test_labels, torch.tensor(labels)[order])
    pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)[order]
    slope = (data.test[1] - data.test[0]).norm() / (pixels[1] - pixels[0]).norm()
    torch.testing.assert_close(data.test - data.test[:1], slope * (pixels - pixels[:1]))


def test_mnist_files_are_read_as_written(tmp_path):
    parts = small_mnist(tmp_path)
    data = load_images("mnist", tmp_path, source_of(tmp_path))
    pixels, labels = parts["train"]
    assert data.train.shape == (20, 1, 28, 28) and data.test.shape == (10, 1, 28, 28)
    assert data.train_labels.tolist() == labels.tolist()
    expected = (pixels - pixels.mean()) / pixels.std()
    np.testing.assert_allclose(data.train[:, 0], expected, atol=1e-5)
    check_standardised(data)


def test_cifar10_archive_is_read_as_written_and_not_unpacked(tmp_path):
    parts = small_cifar10(tmp_path)
    data = load_images("cifar10", tmp_path, source_of(tmp_path))
    pixels = np.concatenate([p for p, _ in parts[:5]]).astype(float)
    mean, std = (f(pixels, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
    np.testing.assert_allclose(data.train, (pixels - mean) / std, atol=1e-5)
    np.testing.assert_allclose(data.test, (parts[5][0] - mean) / std, atol=1e-5)
    assert data.test_labels.tolist() == parts[5][1].tolist()
    assert data.flip and data.crop == 4
    assert [p.name for p in tmp_path.iterdir()] == ["cifar-10-binary.tar.gz"]


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
@pytest.mark.parametrize("variant", ["text", "released"])
def test_two_layers_train_on_the_files_end_to_end(tmp_path, name, variant):
    {"mnist": small_mnist, "cifar10": small_cifar10}[name](tmp_path)
    data = load_images(name, tmp_path, source_of(tmp_path))
    net = ConvNet("gelu", channels=4, variant=variant)
    weights = initial_weights(net, 2, [0, 1], inputs=data.train.shape[1])
    record = train(net, weights, data, [0, 1], Trainer(epochs=12, batch=10, rate=0.1))
    assert bool((record.loss[:, -1] < record.loss[:, 0]).all())
    share = accuracy(net, record.weights, data.test, data.test_labels)
    assert share.shape == (2,) and bool(((share >= 0) & (share <= 1)).all())


@pytest.mark.parametrize("name, small", [("mnist", small_mnist), ("cifar10", small_cifar10)])
def test_absent_files_are_downloaded_and_then_used_offline(served, tmp_path, name, small):
    folder, url = served
    small(folder)
    data = load_images(name, tmp_path / "data", source_of(folder, url))
    offline = load_images(name, tmp_path / "data", source_of(folder))
    assert torch.equal(data.train, offline.train)
    assert {p.name for p in (tmp_path / "data").iterdir()} == {p.name for p in folder.iterdir()}


def test_offline_says_what_is_absent_and_writes_nothing(tmp_path):
    small_cifar10(tmp_path)
    source = source_of(tmp_path)
    with pytest.raises(DataError, match=r"cifar10: .* is absent and .* cannot be downloaded"):
        load_images("cifar10", tmp_path / "empty", source)
    assert not list((tmp_path / "empty").glob("*"))


def test_a_download_that_is_not_the_published_file_is_not_kept(served, tmp_path):
    folder, url = served
    small_cifar10(folder)
    source = source_of(folder, url)
    archive = folder / "cifar-10-binary.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-7])
    with pytest.raises(DataError, match="cannot be downloaded"):
        load_images("cifar10", tmp_path / "data", source)
    archive.unlink()
    with pytest.raises(DataError, match="404"):
        load_images("cifar10", tmp_path / "data", source)
    assert not list((tmp_path / "data").glob("*"))


def test_a_damaged_file_is_refused_and_left_alone(tmp_path):
    small_cifar10(tmp_path)
    source = source_of(tmp_path)
    archive = tmp_path / "cifar-10-binary.tar.gz"
    damaged = archive.read_bytes()[:-7]
    archive.write_bytes(damaged)
    with pytest.raises(DataError, match="is not the published file; delete or replace it"):
        load_images("cifar10", tmp_path, source)
    assert archive.read_bytes() == damaged


@pytest.mark.parametrize(
    "content, message",
    [
        (b"plain text", "is no gzipped idx file"),
        (gzip.compress(bytes([0, 0, 13, 3]) + bytes(12)), "is no gzipped idx file"),
        (gzip.compress(bytes([0, 0, 8, 3]) + bytes(4)), "is no gzipped idx file"),
        (idx(np.zeros((3, 28, 28), np.uint8))[:-9], "is no gzipped idx file"),
        (gzip.compress(bytes([0, 0, 8, 3, 0, 0, 0, 9]) + bytes(99)), "it announces"),
        (idx(np.zeros((3, 28, 28), np.uint8)), "3 images and .* 20 labels"),
    ],
    ids=["text", "magic number", "short header", "cut off", "too long", "unequal numbers"],
)
def test_files_of_another_format_are_refused(tmp_path, content, message):
    small_mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_images("mnist", tmp_path, source_of(tmp_path))


def test_archives_of_another_format_are_refused(tmp_path):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    for content in (b"no archive", gzip.compress(b"no archive either")):
        archive.write_bytes(content)
        with pytest.raises(DataError, match="is not the binary version's archive"):
            load_images("cifar10", tmp_path, source_of(tmp_path))
    with tarfile.open(archive, "w:gz") as members:
        members.addfile(tarfile.TarInfo("cifar-10-batches-py/data_batch_1"))
    with pytest.raises(DataError, match="is not the binary version's archive"):
        load_images("cifar10", tmp_path, source_of(tmp_path))


def test_an_unknown_name_is_refused():
    with pytest.raises(DataError, match="expected digits, mnist or cifar10, received 'svhn'"):
        load_images("svhn")


def test_the_published_checksums_have_the_length_of_their_algorithm():
    assert {len(digest) for digest in MNIST.values()} == {64}
    assert {len(digest) for digest in CIFAR10.values()} == {32}
    assert [SOURCES[name].algorithm for name in ("mnist", "cifar10")] == ["sha256", "md5"]
