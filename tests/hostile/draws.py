"""Values drawn at random: tensors of every shape, kind and scale, and things that are none."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import torch

REAL = (torch.float64, torch.float64, torch.float64, torch.float32, torch.float16, torch.bfloat16)
OTHER = (torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex128, torch.complex64)
HUGE = 10**30


class Draws:
    """Choices of one input, from its own random generator."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def chance(self, part: float) -> bool:
        return bool(self.rng.random() < part)

    def one(self, *choices):
        return choices[int(self.rng.integers(len(choices)))]

    def whole(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def scale(self) -> float:
        """Ordinary mostly, else anywhere among the doubles."""
        if self.chance(0.7):
            return 1.0
        return 10.0 ** self.one(self.whole(-9, 9), self.whole(-300, 300), self.one(-300, 300))

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.whole(0, 99))

    def tensor(self, *shape: int, dtype=torch.float64, scale: float = 1.0) -> torch.Tensor:
        values = self.rng.standard_normal(shape) * scale
        return torch.from_numpy(np.asarray(values)).to(dtype)

    def view(self, t: torch.Tensor) -> torch.Tensor:
        """The same numbers, otherwise in memory or noted down."""
        views = [
            lambda: t,
            lambda: t.mT.contiguous().mT if t.ndim > 1 else t,
            lambda: torch.stack([t, t], -1)[..., 0],
            lambda: t.flip(-1).flip(-1) if t.ndim else t,
            lambda: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
            lambda: torch.nn.Parameter(t.clone()) if t.is_floating_point() else t,
            lambda: t.clone().requires_grad_() * 1.0 if t.is_floating_point() else t,
            lambda: torch._neg_view(-t) if t.is_floating_point() else t,
            lambda: torch.complex(t.double(), t.double()).conj().real,
            lambda: torch.complex(t.double(), -t.double()).conj().imag,
        ]
        return self.one(*views)()

    def spoiled(self, t: torch.Tensor):
        """A tensor with something about it that is not as asked."""
        if t.is_meta or t.layout != torch.strided:
            return self.wrong()

        def entry(value):
            t2 = t.detach().resolve_neg().clone(memory_format=torch.contiguous_format)
            if t2.numel() and t2.is_floating_point():
                t2.view(-1)[self.whole(0, t2.numel() - 1)] = value
            return t2

        def narrowed(least):
            if not t.ndim:
                return t
            axis = self.whole(0, t.ndim - 1)
            return t.narrow(axis, 0, self.whole(least, max(least, t.shape[axis] - 1)))

        return self.one(
            lambda: t.to(self.one(*REAL, *OTHER)),
            lambda: t.to(self.one(*REAL)),
            lambda: t.to("meta"),
            lambda: t.detach().to_sparse() if t.ndim else t,
            lambda: (
                t.detach().resolve_conj().resolve_neg().numpy()
                if t.dtype != torch.bfloat16
                else t.tolist()
            ),
            lambda: t.tolist(),
            lambda: t[None],
            lambda: t.expand(0, *t.shape),
            lambda: t.expand(2, *t.shape),
            lambda: t[0] if len(t.shape) and len(t) else t,
            lambda: t.sum(),
            lambda: t.flatten(),
            lambda: t.mT if t.ndim > 1 else t,
            lambda: narrowed(0) if t.numel() else t,
            lambda: narrowed(1) if t.numel() else t,
            lambda: t[:0] if t.ndim else t,
            lambda: torch.complex(t.double(), t.double()).conj(),
            lambda: entry(math.nan),
            lambda: entry(math.inf),
            lambda: t * 10.0 ** self.whole(-300, 300),
            lambda: t * self.one(1e-300, 1e300, 0.0),
        )()

    def wrong(self):
        """Something else altogether, or a number at the end of what numbers are."""
        return self.one(
            *(None, True, False, "text", "", b"bytes", 1j, math.nan, math.inf, -math.inf),
            *(-1, 0, 1, 2, 0.5, 1.5, HUGE, -HUGE, 2**31, 2**63, 1e300, -1e300, 1e-300, -0.0),
            *([], (), {}, set(), [1], [[1.0, 2.0], [3.0]], ["a"], {"V": 1}, range(3), object()),
            *(np.float64(0.5), np.int64(2), np.float32("nan"), np.array(2.0), np.ones(2)),
            *(np.array(["a"]), np.array([None]), np.ones((2, 2), complex), np.bool_(True)),
            *(Decimal("0.5"), Fraction(1, 2), Decimal("nan")),
            *(torch.tensor(2.0), torch.tensor(2), torch.ones(2), torch.ones(2, 3, 4)),
            *(torch.ones(2, device="meta"), torch.ones(2, 2).to_sparse(), torch.tensor(math.nan)),
            *(torch.float64, torch.int64, torch.device("meta"), type, lambda *a: None, iter([])),
        )

    def mutated(self, given: dict, part: float = 0.6) -> dict:
        """The arguments with some of them spoiled, often none."""
        given = dict(given)
        if not given or not self.chance(part):
            return given
        for _ in range(self.one(1, 1, 1, 2, 3)):
            name = self.one(*given)
            value = given[name]
            if isinstance(value, torch.Tensor) and self.chance(0.8):
                given[name] = self.spoiled(value)
            else:
                given[name] = self.wrong()
        return given
