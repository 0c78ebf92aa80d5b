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

from cotflow.activations import GELU, IDENTITY, RELU, TANH
from cotflow.network import ResidualNet, Weights

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
def kernel(state: int, width: int, code: int, dtype: torch.dtype) -> ctypes.CDLL:
    """The kernel for these sizes, from the user's cache or from the compiler."""
    real, suffix = SUFFIX[dtype]
    source = Path(__file__).with_name("kernel.c")
    options = [
        *FLAGS,
        f"-DREAL={real}",
        f"-DLANES={register_bytes() // dtype.itemsize}",
        f"-DQ={state}",
        f"-DM={width}",
        f"-DACTIVATION={code}",
        *(f"-D{name}={name.lower()}{suffix}" for name in ("EXP", "ERF", "TANH")),
    ]
    # Another processor must not load what -march=native built here.
    key = "\0".join([compiler(), platform.node(), cpu(), *options, source.read_text()])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cotflow"
    library = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.so"
    if not library.exists():
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
            os.replace(built, library)
    return ctypes.CDLL(str(library))


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
        kernel(weights.state, weights.width, CODES[id(net.activation)], x.dtype)
    except (CompilerMissing, OSError) as error:
        _warn(str(error))
        return False
    return True


class Scratch(threading.local):
    """Buffers that serve one step after another: fresh memory costs as much as the arithmetic.

    One buffer a name and precision, as large as its largest use; contents are not kept.
    """

    def __init__(self):
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def __call__(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        size, key = math.prod(shape), (name, like.dtype)
        if key not in self._buffers or self._buffers[key].numel() < size:
            self._buffers[key] = like.new_empty(size)
        return self._buffers[key][:size].view(shape)


scratch = Scratch()


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


class CompiledSweep:
    """Forward and backward sweep by the kernel; see :class:`cotflow.sweeps.PlainSweep`."""

    def __init__(self, net: ResidualNet, weights: Weights, h0: Float[Tensor, "*runs n q"]):
        self._runs, (self._n, self._q) = h0.shape[:-2], h0.shape[-2:]
        self._depth, self._width = weights.depth, weights.width
        self._kernel = kernel(self._q, self._width, CODES[id(net.activation)], h0.dtype)
        self._threads = ctypes.c_int(torch.get_num_threads())
        lanes = register_bytes() // h0.element_size()
        self._padded_q = -(-self._q // lanes) * lanes
        self._padded_m = -(-self._width // lanes) * lanes
        self._batch = h0[..., 0, 0].numel()
        self._real = ctypes.c_float if h0.dtype == torch.float32 else ctypes.c_double
        self._scale = net.residual_scale(self._depth, self._width)
        self._input_scale = net.input_scale(self._q)

        V, W = (self._flat(weights.V), self._flat(weights.W))
        layers = self._batch * self._depth
        packed = 2 * (self._q * self._padded_m + self._width * self._padded_q)
        self._pack = scratch("pack", (layers, packed), h0)
        self._kernel.pack_weights(
            ctypes.c_long(layers),
            address(V),
            address(W),
            self._real(self._scale),
            self._real(self._input_scale),
            address(self._pack),
            self._threads,
        )
        bias = scratch("bias", (self._batch, self._depth, self._padded_m), h0).zero_()
        if weights.b is not None:
            bias[..., : self._width] = self._flat(weights.b.unsqueeze(-1))[..., 0]
        wide = (self._batch, self._depth, self._n, self._padded_m)
        self._features, self._slopes = (scratch(name, wide, h0) for name in ("features", "slopes"))
        self._states = h0.new_empty(self._batch, self._depth + 1, self._n, self._padded_q)
        self._place(self._states, 0, h0)
        self._kernel.forward(
            *self._sizes(),
            address(self._pack),
            address(bias),
            address(self._states),
            address(self._features),
            address(self._slopes),
            self._threads,
        )
        self.states = self._shaped(self._states[..., : self._q])

    def backward(self, last: Float[Tensor, "*runs n q"]) -> Float[Tensor, "*runs layers n q"]:
        self._adjoints = torch.empty_like(self._states)
        self._place(self._adjoints, self._depth, last)
        self._kernel.backward(
            *self._sizes(),
            address(self._pack),
            address(self._adjoints),
            address(self._slopes),
            self._threads,
        )
        return self._shaped(self._adjoints[..., : self._q])

    def partials(self, factors: dict[str, float]) -> dict[str, Tensor]:
        layered = (self._batch, self._depth)
        found = {}
        if "V" in factors:
            found["V"] = self._slopes.new_empty(*layered, self._q, self._width)
        if "W" in factors:
            found["W"] = self._slopes.new_empty(*layered, self._width, self._q)
        self._kernel.weight_gradients(
            *self._sizes(),
            *map(address, (self._states, self._adjoints, self._features, self._slopes)),
            self._real(factors.get("V", 0.0) * self._scale / self._n),
            self._real(factors.get("W", 0.0) * self._scale * self._input_scale / self._n),
            address(found.get("V")),
            address(found.get("W")),
            self._threads,
        )
        if "b" in factors:
            total = self._slopes[..., : self._width].sum(-2)
            found["b"] = total.mul_(factors["b"] * self._scale / self._n)
        return {name: self._shaped(value) for name, value in found.items()}

    def _sizes(self) -> tuple[ctypes.c_long, ...]:
        return tuple(map(ctypes.c_long, (self._batch, self._depth, self._n)))

    def _flat(self, layered: Tensor) -> Tensor:
        """(*runs, L, …) with the runs of h0, flattened and contiguous."""
        shape = layered.shape[-3:]
        return layered.expand(*self._runs, *shape).reshape(-1, *shape).contiguous()

    def _shaped(self, flat: Tensor) -> Tensor:
        return flat.reshape(*self._runs, *flat.shape[1:])

    def _place(self, buffer: Tensor, layer: int, values: Tensor) -> None:
        """Write one layer of a padded buffer, zeros in the padding."""
        buffer[:, layer, :, self._q :] = 0.0
        buffer[:, layer, :, : self._q] = values.reshape(-1, self._n, self._q)
