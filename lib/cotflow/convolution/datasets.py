"""Images with labels: scikit-learn's digits, MNIST (idx files), CIFAR-10 (binary version)."""

from __future__ import annotations

import gzip
import math
import os
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


class DataError(ValueError):
    """A data set cannot be had; one sentence says why and what to do."""


@dataclass(frozen=True)
class Images:
    """Training and test images, each channel of training mean 0 and variance 1, with labels.

    Attributes
    ----------
    crop, flip : the augmentation that suits the images: crops after padding by so many pixels,
        and mirror images or none.
    """

    name: str
    train: Float[Tensor, "n inputs y x"]
    train_labels: Int[Tensor, "n"]
    test: Float[Tensor, "m inputs y x"]
    test_labels: Int[Tensor, "m"]
    classes: int = 10
    crop: int = 0
    flip: bool = False

    def to(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Images:
        """Images in another precision or on another device; labels follow to the device."""
        return replace(
            self,
            train=self.train.to(dtype=dtype, device=device),
            test=self.test.to(dtype=dtype, device=device),
            train_labels=self.train_labels.to(device=device),
            test_labels=self.test_labels.to(device=device),
        )


@dataclass(frozen=True)
class Source:
    """Where the files of a data set are, and their published checksums."""

    url: str
    algorithm: str
    checksums: Mapping[str, str]


# SHA-256 as many libraries list them; the authors of the data set give none.
MNIST = {
    f"{name}-ubyte.gz": digest
    for name, digest in {
        "train-images-idx3": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    }.items()
}
# MD5 as given on the page of the data set itself, repeated by several libraries.
CIFAR10 = {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}
SOURCES = {
    "mnist": Source("https://storage.googleapis.com/cvdf-datasets/mnist/", "sha256", MNIST),
    "cifar10": Source("https://www.cs.toronto.edu/~kriz/", "md5", CIFAR10),
}


def load_images(
    name: str, folder: str | os.PathLike[str] = "", source: Source | None = None
) -> Images:
    """The data set of that name: "digits", "mnist" or "cifar10".

    Parameters
    ----------
    folder : where the files lie, or are put after a download; by default the user's cache.
    source : addresses and checksums other than the published ones.

    Raises
    ------
    DataError : a file is absent and cannot be downloaded, or is not the published one.
    """
    if name == "digits":
        return digits()
    if name not in SOURCES:
        raise DataError(f"data: expected digits, mnist or cifar10, received {name!r}")
    files = fetch(name, folder, source or SOURCES[name])
    return mnist(*files) if name == "mnist" else cifar10(*files)


def fetch(name: str, folder: str | os.PathLike[str], source: Source) -> list[Path]:
    """The files of ``source``, checked; downloads those that are absent, whole or not at all."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    folder = Path(folder or pooch.os_cache("cotflow")).expanduser()
    files = []
    for file, checksum in source.checksums.items():
        path = folder / file
        if path.exists():
            if pooch.file_hash(str(path), alg=source.algorithm) != checksum:
                raise DataError(f"{name}: {path} is not the published file; delete or replace it")
        else:
            try:
                known = f"{source.algorithm}:{checksum}"
                pooch.retrieve(source.url + file, known, fname=file, path=folder)
            except Exception as reason:  # whatever went wrong below requests, sockets and files
                why = " ".join(str(reason).split())[:160]
                raise DataError(
                    f"{name}: {path} is absent and {source.url + file} cannot be downloaded "
                    f"({type(reason).__name__}: {why}); put the file there by hand, or choose "
                    "the data set digits"
                ) from reason
        files.append(path)
    return files


def digits() -> Images:
    """1797 images 8×8 of handwritten digits; every fifth of a fixed shuffle is for testing."""
    # The file alone: to import scikit-learn takes longer than the rest of a short run.
    file = metadata.distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(file), delimiter=",")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0), device="cpu")
    images = torch.tensor(rows[:, :64], dtype=torch.float32, device="cpu").reshape(-1, 1, 8, 8)[
        order
    ]
    labels = torch.tensor(rows[:, 64], dtype=torch.int64, device="cpu")[order]
    test = torch.arange(len(labels), device="cpu") % 5 == 0
    parts = images[~test], labels[~test], images[test], labels[test]
    return standardised("digits", *parts)


def mnist(train: Path, train_labels: Path, test: Path, test_labels: Path) -> Images:
    """The four gzipped idx files."""
    parts = []
    for images, labels in ((train, train_labels), (test, test_labels)):
        pixels, classes = read_idx(images, 3), read_idx(labels, 1)
        if len(pixels) != len(classes):
            raise DataError(
                f"mnist: {images} has {len(pixels)} images and {labels} {len(classes)} labels"
            )
        parts += [pixels[:, None].float(), classes.long()]
    return standardised("mnist", *parts)


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Unsigned bytes in idx format: 0, 0, 8, number of dimensions, big-endian sizes, the bytes."""
    broken = f"mnist: {path} is no gzipped idx file of bytes with {dimensions} dimension(s)"
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as reason:
        raise DataError(f"{broken} ({reason})") from reason
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < start:
        raise DataError(broken)
    shape = np.frombuffer(content, ">u4", dimensions, 4).tolist()
    if len(content) - start != math.prod(shape):
        raise DataError(f"{broken}: it announces {shape} and holds {len(content) - start} bytes")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


RECORD = 1 + 3 * 32 * 32


def cifar10(archive: Path) -> Images:
    """The binary version's archive: records of a label and 3×32×32 bytes; nothing is unpacked."""
    folder = "cifar-10-batches-bin"
    names = {
        "train": [f"{folder}/data_batch_{i}.bin" for i in range(1, 6)],
        "test": [f"{folder}/test_batch.bin"],
    }
    parts = []
    try:
        with tarfile.open(archive) as members:
            for batches in names.values():
                content = b"".join(member_bytes(members, name) for name in batches)
                if len(content) % RECORD or not content:
                    raise DataError(
                        f"cifar10: {archive} has records of another size than {RECORD} bytes"
                    )
                records = np.frombuffer(content, np.uint8).reshape(-1, RECORD).copy()
                parts.append(torch.from_numpy(records[:, 1:]).reshape(-1, 3, 32, 32).float())
                parts.append(torch.from_numpy(records[:, 0]).long())
    except (tarfile.TarError, OSError, EOFError, zlib.error, KeyError) as reason:
        raise DataError(f"cifar10: {archive} is not the binary version's archive ({reason})") from (
            reason
        )
    return standardised("cifar10", *parts, crop=4, flip=True)


def member_bytes(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    if member is None:
        raise KeyError(f"{name} is no file")
    return member.read()


def standardised(
    name: str,
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    crop: int = 0,
    flip: bool = False,
) -> Images:
    for labels in (train_labels, test_labels):
        if labels.numel() == 0 or not 0 <= int(labels.min()) <= int(labels.max()) <= 9:
            raise DataError(f"{name}: expected labels from 0 to 9, at least one image each")
    std, mean = torch.std_mean(train, (0, 2, 3), keepdim=True, correction=0)
    std = std.clamp_min(1e-12)
    return Images(
        name=name,
        train=(train - mean) / std,
        train_labels=train_labels,
        test=(test - mean) / std,
        test_labels=test_labels,
        crop=crop,
        flip=flip,
    )
