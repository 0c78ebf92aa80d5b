"""Memory that serves one step after another: fresh pages cost as much as the arithmetic."""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import sys
import weakref
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

# Below this many bytes the allocator keeps its pages anyway.
LARGE = 1 << 16
KEPT = 24
# Linux gives them to blocks that hold at least one.
LARGE_PAGE = 1 << 21

_free: deque[Tensor] = deque(maxlen=KEPT)


def empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """``torch.empty`` of like's dtype and device, in a block that an earlier tensor has left.

    A block comes back when the last tensor on it is gone, and only blocks of exactly the right
    size are given out again, so that nothing is shared and nothing is zeroed.
    """
    size = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or size < LARGE:
        return like.new_empty(shape)
    block = _take(size)
    owner = (ctypes.c_char * size).from_address(block.data_ptr())
    weakref.finalize(owner, _free.append, block).atexit = False
    return torch.frombuffer(owner, dtype=like.dtype).view(shape)


def _take(size: int) -> Tensor:
    for _ in range(len(_free)):
        try:
            block = _free.popleft()
        except IndexError:
            break
        if block.numel() == size:
            return block
        _free.append(block)
    block = torch.empty(size, dtype=torch.uint8, device="cpu")
    _ask_for_large_pages(block.data_ptr(), size)
    return block


@functools.cache
def _madvise() -> Callable[[ctypes.c_void_p, ctypes.c_size_t, int], int] | None:
    """The C library's madvise, on Linux."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None


def _ask_for_large_pages(start: int, size: int) -> None:
    """A wish for the whole pages of a block that is not in use yet; it may be refused."""
    advise = _madvise()
    if advise is not None and size >= LARGE_PAGE:
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (start + size - first) // mmap.PAGESIZE * mmap.PAGESIZE
        advise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)


def add(a: Tensor, b: Tensor, factor: float) -> Tensor:
    """a + factor·b."""
    if a.shape != b.shape or a.requires_grad or b.requires_grad:
        return torch.add(a, b, alpha=factor)
    return torch.add(a, b, alpha=factor, out=empty(a.shape, a))


def scaled(a: Tensor, factor: float) -> Tensor:
    """factor·a."""
    if a.requires_grad:
        return torch.mul(a, factor)
    return torch.mul(a, factor, out=empty(a.shape, a))


def squared(a: Tensor) -> Tensor:
    """a², entry by entry."""
    return torch.square(a) if a.requires_grad else torch.square(a, out=empty(a.shape, a))
