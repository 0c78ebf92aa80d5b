"""The same gradient by kernels that the machine's own C compiler builds for the sizes at hand."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import re
import threading

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from cotflow.adjoint.elementary import DOUBLE, SINGLE
from cotflow.adjoint.library import CompilerMissing as CompilerMissing
from cotflow.adjoint.library import compiler as compiler
from cotflow.adjoint.library import loaded, register_bytes, warn
from cotflow.adjoint.sweep import Sweep
from cotflow.network.activations import COVERED as COVERED
from cotflow.network.activations import Activation
from cotflow.network.memory import empty
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import LAYERED, Weights

TABLES = {torch.float32: SINGLE, torch.float64: DOUBLE}
LARGEST_STATE, LARGEST_WIDTH = 256, 1024
# Other kinds of tensors may have no memory at all.
PLAIN = (Tensor, torch.nn.Parameter, type(None))
# Below this many multiplications a step is over before a compiler has started.
WORTH_COMPILING = 100_000
# Bytes of stack that a thread of the kernel has to spare, several times what it uses.
STACK = 1 << 18


def supports(net: ResidualNet, weights: Weights, x: Tensor) -> bool:
    """Whether the kernel covers this network: an activation among COVERED, and tensors that
    :func:`cotflow.adjoint.inputs.admitted` has let in, in single or double precision on the CPU."""
    tensors = (x, weights.A, weights.V, weights.W, weights.B, weights.b)
    return (
        net.activation in COVERED
        and x.device.type == "cpu"
        and x.dtype in TABLES
        and all(type(t) in PLAIN for t in tensors)
        # A mode that watches or replaces the operations of torch would not see the kernel.
        and not _get_current_dispatch_mode()
        and weights.state <= LARGEST_STATE
        and weights.width <= LARGEST_WIDTH
    )


def built(state: int, width: int, activation: Activation, dtype: torch.dtype) -> ctypes.CDLL:
    """The kernel for these sizes; raises :class:`CompilerMissing` where there can be none."""
    return _built(state, width, COVERED.index(activation), dtype)


@functools.cache
def _built(state: int, width: int, code: int, dtype: torch.dtype) -> ctypes.CDLL:
    sizes = (f"-DQ={state}", f"-DM={width}", f"-DACTIVATION={code}")
    library = loaded(dtype.itemsize, *sizes, *TABLES[dtype].definitions())
    library.scratch_size.restype = ctypes.c_long
    return library


def available(net: ResidualNet, weights: Weights, x: Tensor) -> bool:
    """Whether a step of this network is worth compiling and can be; warns once if it cannot."""
    work = weights.depth * math.prod(x.shape[:-1]) * weights.state * weights.width
    if work < WORTH_COMPILING or not supports(net, weights, x):
        return False
    try:
        built(weights.state, weights.width, net.activation, x.dtype)
    except CompilerMissing as error:
        warn(f"the plain torch step is used, which is slower: {error}")
        return False
    return True


class Task(ctypes.Structure):
    """``struct task`` of kernel.c."""

    _fields_ = (
        [(name, ctypes.c_long) for name in ("runs", "L", "n", "D", "segment")]
        + [(name, ctypes.c_void_p) for name in ("V", "W", "b", "B", "h0", "y")]
        + [(name, ctypes.c_void_p) for name in ("states", "adjoints")]
        + [(name, ctypes.c_void_p) for name in ("last_state", "first_adjoint", "error")]
        + [(name, ctypes.c_void_p) for name in ("grad_V", "grad_W", "grad_b")]
        + [(name, ctypes.c_void_p) for name in ("squares", "scratch")]
        + [(name, ctypes.c_double) for name in ("scale", "c_q", "pull")]
        + [(f"factor_{name}", ctypes.c_double) for name in LAYERED]
        + [("threads", ctypes.c_int)]
    )


class Scratch(threading.local):
    """Room for the activations of a step, kept from one step to the next; contents are not."""

    def __init__(self) -> None:
        self._buffers: dict[torch.dtype, Tensor] = {}

    def __call__(self, size: int, like: Tensor) -> Tensor:
        if self._buffers.get(like.dtype, like[:0]).numel() < size:
            self._buffers[like.dtype] = like.new_empty(size)
        return self._buffers[like.dtype]


scratch = Scratch()


def _address(value: Tensor) -> int:
    """Where the tensor's memory begins; it has some."""
    address = value.data_ptr()
    if not address:
        raise ValueError("backend 'compiled': expected tensors with memory of their own")
    return address


@functools.cache
def roomy() -> bool:
    """Whether OpenMP gives its threads the stack that the kernel asks for."""
    asked = os.environ.get("OMP_STACKSIZE") or os.environ.get("GOMP_STACKSIZE", "")
    found = re.fullmatch(r"\s*(\d+)\s*([bkmg]?)\s*", asked, re.IGNORECASE)
    if not found:
        return True
    unit = {"b": 0, "": 10, "k": 10, "m": 20, "g": 30}[found[2].lower()]
    return int(found[1]) << unit >= STACK


def sweep(
    net: ResidualNet,
    weights: Weights,
    h0: Float[Tensor, "*runs n q"],
    y: Float[Tensor, "*data n dy"],
    factors: dict[str, float],
    segment: int | None = None,
) -> Sweep:
    """Both sweeps by the kernel; see :func:`cotflow.adjoint.plain.sweep`."""
    (*runs, n, q), L, m = h0.shape, weights.depth, weights.width
    batch = math.prod(runs)
    code = built(q, m, net.activation, h0.dtype)
    padded = -(-q // (lanes := register_bytes() // h0.element_size())) * lanes

    given = {"V": weights.V, "W": weights.W, "B": weights.B, "y": y}
    if weights.b is not None:
        given["b"] = weights.b
    shapes = {"V": (L, q, m), "W": (L, m, q), "b": (L, m)}
    shapes |= {"B": weights.B.shape[-2:], "y": y.shape[-2:]}
    inputs = {name: v.expand(*runs, *shapes[name]).contiguous() for name, v in given.items()}
    inputs["h0"] = h0.contiguous()
    partials = {name: empty((*runs, *shapes[name]), h0) for name in factors}
    outputs = {f"grad_{name}": value for name, value in partials.items()}
    outputs["error"] = empty((*runs, n, y.shape[-1]), h0)
    room: dict[str, tuple[int, ...]]
    if segment is None:
        room = {"states": (L + 1, n, padded), "adjoints": (L + 1, n, padded)}
    else:
        room = {"last_state": (n, padded), "first_adjoint": (n, padded)}
    kept = {name: empty((*runs, *shape), h0) for name, shape in room.items()}
    outputs |= kept
    squares = h0.new_zeros((*runs, L, 3), dtype=torch.float64)
    scale, c_q = net.residual_scale(L, m), net.input_scale(q)
    units = {"V": scale / n, "W": scale * c_q / n, "b": scale / n}
    task = Task(
        runs=batch, L=L, n=n, D=y.shape[-1], segment=min(segment or L, L),
        squares=_address(squares), scale=scale, c_q=c_q, pull=2.0 * net.loss_factor,
        threads=torch.get_num_threads() if roomy() else 1,
        **{name: _address(value) for name, value in (inputs | outputs).items()},
        **{f"factor_{name}": factor * units[name] for name, factor in factors.items()},
    )  # fmt: skip
    buffer = scratch(code.scratch_size(ctypes.byref(task)), h0)
    task.scratch = _address(buffer)
    code.gradient(ctypes.byref(task))

    total = squares.sum(-2).to(h0.dtype)
    squared = {name: total[..., LAYERED.index(name)] for name in factors}
    kept = {name: value[..., :q] for name, value in kept.items()}
    if segment is None:
        kept["last_state"] = kept["states"][..., -1, :, :]
        kept["first_adjoint"] = kept["adjoints"][..., 0, :, :]
    return Sweep(
        error=outputs["error"],
        partials=partials,
        squares=squared,
        last_state=kept["last_state"],
        first_adjoint=kept["first_adjoint"],
        states=kept.get("states"),
        adjoints=kept.get("adjoints"),
    )
