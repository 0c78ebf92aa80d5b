"""The machine's limits, and how near a step comes to them.

A step is at least max(operations / peak, bytes / bandwidth) seconds long: the roofline of Williams,
Waterman and Patterson (2009), with peak and bandwidth measured on the same threads in the same run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cotflow.adjoint.elementary import SINGLE
from cotflow.adjoint.library import loaded
from cotflow.network.published import Experiment

SOURCE = Path(__file__).with_suffix(".c")
# What GELU and its derivative take together in single precision, counted in elementary.h: 33
# additions, multiplications or both at once, and a division, each at the cost of a multiply-add;
# selections are free.
ACTIVATION = 34
ROUNDS = 100_000
# Numbers of an array, beyond what a cache holds.
NUMBERS = 1 << 24


@dataclass(frozen=True)
class Work:
    """Something to be timed, and how much of its kind it is: operations, or bytes."""

    run: Callable[[], object]
    amount: float


def peak(threads: int) -> Work:
    """Multiply-adds of single numbers in vector registers, two operations each."""
    code = loaded(4, *SINGLE.definitions(), source=SOURCE)
    code.multiply.restype = ctypes.c_float
    arguments = (
        ctypes.c_long(ROUNDS), ctypes.c_float(0.5), ctypes.c_float(1.0), ctypes.c_int(threads)
    )  # fmt: skip
    return Work(lambda: code.multiply(*arguments), 2.0 * threads * ROUNDS * code.multiply_adds())


def bandwidth(threads: int) -> Work:
    """c = a + b on arrays larger than the caches; each number read or written counts once."""
    code = loaded(4, *SINGLE.definitions(), source=SOURCE)
    arrays = [torch.ones(NUMBERS, dtype=torch.float32) for _ in range(3)]
    addresses = [ctypes.c_void_p(array.data_ptr()) for array in arrays]

    def run() -> list[torch.Tensor]:
        code.add(ctypes.c_long(NUMBERS), *addresses, ctypes.c_int(threads))
        return arrays

    return Work(run, 3.0 * NUMBERS * arrays[0].element_size())


def operations(e: Experiment) -> float:
    """Of a step: six products, 2nmq each, and nm activations a layer."""
    n, m, q = e.x.shape[-2], e.weights.width, e.weights.state
    return e.weights.depth * n * m * (12.0 * q + 2.0 * ACTIVATION)


def traffic(e: Experiment) -> float:
    """Bytes of a step with one layer in the cache: the weights read by both sweeps and written
    once, the states written and read."""
    numbers = 3 * (e.weights.V.numel() + e.weights.W.numel()) + 2 * e.weights.depth * e.x.numel()
    return float(numbers * e.x.element_size())
