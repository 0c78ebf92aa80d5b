"""The same gradient by kernels that the machine's own C compiler builds for the sizes at hand."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cotflow.adjoint.plain import Sweep
from cotflow.network.activations import GELU, IDENTITY, RELU, TANH
from cotflow.network.memory import empty
from cotflow.network.residual import ResidualNet
from cotflow.network.weights import LAYERED, Weights

COVERED = (GELU, TANH, RELU, IDENTITY)
CODES = {id(activation): code for code, activation in enumerate(COVERED)}
SUFFIX = {torch.float32: ("float", "f"), torch.float64: ("double", "")}
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math",
         "-ffp-contract=fast", "-shared", "-fPIC", "-std=gnu11")  # fmt: skip
# Below this many multiplications a step is over before a compiler has started.
WORTH_COMPILING = 100_000


class CompilerMissing(RuntimeError):
    """No C compiler, or one that cannot build the kernel."""


def supports(net: ResidualNet, weights: Weights, x: Tensor) -> bool:
    """Whether the kernel covers this network: real CPU tensors, an activation among COVERED."""
    tensors = [*weights.tensors().values(), x]
    return (
        id(net.activation) in CODES
        and all(t.device.type == "cpu" and t.dtype == x.dtype for t in tensors)
        and x.dtype in SUFFIX
        and weights.state <= 256
        and weights.width <= 1024
    )


@functools.cache
def compiler() -> str:
    """Path of cc, gcc or clang, whichever comes first."""
    found = shutil.which(os.environ.get("CC", "")) or next(
        filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None
    )
    if not found:
        raise CompilerMissing("no C compiler (cc, gcc or clang) is on the PATH")
    return found


@functools.cache
def register_bytes() -> int:
    """Width of the processor's widest vector register that the compiler will use."""
    macros = subprocess.run(
        [compiler(), "-march=native", "-dM", "-E", "-x", "c", os.devnull],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    return 64 if "__AVX512F__" in macros else 32 if "__AVX__" in macros else 16


@functools.cache
def built(state: int, width: int, code: int, dtype: torch.dtype) -> ctypes.CDLL:
    """The kernel for these sizes, from the user's cache or from the compiler."""
    real, suffix = SUFFIX[dtype]
    source = Path(__file__).with_name("kernel.c")
    options = [
        *FLAGS,
        f"-DREAL={real}",
        f"-DLANES={register_bytes() // dtype.itemsize}",
        f"-DACC={16 if register_bytes() == 64 else 8}",
        f"-DQ={state}",
        f"-DM={width}",
        f"-DACTIVATION={code}",
        *(f"-D{name}={name.lower()}{suffix}" for name in ("EXP", "ERF", "TANH")),
    ]
    # Another processor must not load what -march=native built here.
    key = "\0".join([compiler(), platform.node(), cpu(), *options, source.read_text()])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cotflow"
    library = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.so"
    if not _ours(library):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            built = Path(folder) / "kernel.so"
            command = [compiler(), *options, str(source), "-o", str(built), "-lm"]
            for extra in (["-DVECTOR_MATH", "-lmvec"], []):
                done = subprocess.run(command + extra, capture_output=True, text=True, check=False)
                if not done.returncode:
                    break
            else:
                raise CompilerMissing(f"{compiler()} could not build the kernel: {done.stderr}")
            built.chmod(0o700)
            os.replace(built, library)
    loaded = ctypes.CDLL(str(library))
    loaded.scratch_size.restype = ctypes.c_long
    return loaded


def _ours(library: Path) -> bool:
    """Whether the file is there, and nobody else can have written it."""
    try:
        found = library.stat()
    except OSError:
        return False
    return found.st_uid == os.geteuid() and not found.st_mode & 0o022


def cpu() -> str:
    """The processor's feature flags."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


@functools.cache
def _warn(reason: str) -> None:
    warnings.warn(f"the plain torch step is used, which is slower: {reason}", stacklevel=3)


def available(net: ResidualNet, weights: Weights, x: Tensor) -> bool:
    """Whether a step of this network is worth compiling and can be; warns once if it cannot."""
    work = weights.depth * x[..., 0].numel() * weights.state * weights.width
    if not supports(net, weights, x) or work < WORTH_COMPILING:
        return False
    try:
        built(weights.state, weights.width, CODES[id(net.activation)], x.dtype)
    except (CompilerMissing, OSError) as error:
        _warn(str(error))
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
    code = built(q, m, CODES[id(net.activation)], h0.dtype)
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
    squares = torch.zeros(*runs, L, 3, dtype=torch.float64)
    scale, c_q = net.residual_scale(L, m), net.input_scale(q)
    units = {"V": scale / n, "W": scale * c_q / n, "b": scale / n}
    task = Task(
        runs=batch, L=L, n=n, D=y.shape[-1], segment=min(segment or L, L),
        squares=squares.data_ptr(), scale=scale, c_q=c_q, pull=2.0 * net.loss_factor,
        threads=torch.get_num_threads(),
        **{name: value.data_ptr() for name, value in (inputs | outputs).items()},
        **{f"factor_{name}": factor * units[name] for name, factor in factors.items()},
    )  # fmt: skip
    buffer = scratch(code.scratch_size(ctypes.byref(task)), h0)
    task.scratch = buffer.data_ptr()
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
