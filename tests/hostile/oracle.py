"""What an input may end with: an answer, or a refusal of our own making in one sentence."""

import dataclasses
import dis
import functools
import math
import os
import reprlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

import cotbook
import cotflow
from cotflow.flows.checkpoint import CheckpointError
from cotflow.flows.velocity import DivergenceError
from cotflow.network.activations import Activation

OURS = tuple(str(Path(package.__file__).parent) for package in (cotflow, cotbook))
REFUSALS = (ValueError, TypeError, OSError, RuntimeError, ArithmeticError)
RAISES = {dis.opmap[name] for name in ("RAISE_VARARGS", "RERAISE") if name in dis.opmap}
LONGEST = 1000
# How a refusal says what would have been right.
WANTED = ("expected", "asks for", "give ")


class Disagreement(AssertionError):
    """Two ways to one number that give two."""


def outcome(function: Callable, *arguments, **options) -> tuple[object, Exception | None]:
    """(answer, None), or (None, the error)."""
    try:
        return function(*arguments, **options), None
    except Exception as error:
        return None, error


def last(trace: TracebackType) -> TracebackType:
    """The innermost frame."""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def objection(error: BaseException) -> str:
    """Why the error is no refusal of ours, or nothing."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return ""  # the machine's own answer
    if not isinstance(error, REFUSALS):
        return "raw"
    trace = last(error.__traceback__)
    code = trace.tb_frame.f_code
    if not code.co_filename.startswith(OURS):
        return "raw"
    # Raised by a statement of ours, not by what a line of ours called.
    if code.co_code[trace.tb_lasti] not in RAISES:
        return "raw"
    sentence = str(error)
    if not sentence or len(sentence) > LONGEST or not (sentence.replace("\n", "").isprintable()):
        return "no sentence"
    if not any(word in sentence for word in WANTED) and not isinstance(
        error, (DivergenceError, CheckpointError)
    ):
        return "no sentence"
    return ""


def place(error: BaseException) -> str:
    """Where it was raised, and where our code was left."""
    trace, inner = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename.startswith(OURS):
            inner = f"{'/'.join(Path(code.co_filename).parts[-3:])}:{trace.tb_lineno}"
        trace = trace.tb_next
    said = " ".join(str(error).split())[:160]
    return f"{inner or 'outside'}: {type(error).__name__}: {said}"


def numbers(value: object, depth: int = 0) -> Iterator[np.ndarray | float]:
    """All numbers inside tensors, arrays, containers and dataclasses."""
    if depth > 6:
        return
    if isinstance(value, torch.Tensor):
        if not value.is_meta and (value.is_floating_point() or value.is_complex()):
            dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
            yield bool(torch.isfinite(dense).all())
    elif isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind in "fc":
            yield bool(np.isfinite(value).all())
    elif isinstance(value, float | complex):
        yield math.isfinite(abs(value))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from numbers(item, depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from numbers(item, depth + 1)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type | Activation):
        for item in dataclasses.fields(value):
            yield from numbers(getattr(value, item.name), depth + 1)


def finite(value: object) -> bool:
    return all(numbers(value))


def inputs(call: Callable) -> list[object]:
    """What a partial or a closure holds."""
    if isinstance(call, functools.partial):
        return [call.args, call.keywords]
    return [cell.cell_contents for cell in call.__closure__ or ()]


def brief(value: object) -> str:
    return " ".join(reprlib.repr(value).split())


def judged(make: Callable[[], Callable]) -> tuple[str, str]:
    """How a call ends, and where or with which sentence."""
    given: list[object] = [math.nan]
    try:
        call = make()
        given = inputs(call)
        answer = call()
    except Disagreement as found:
        return "disagreement", str(found)
    except Exception as error:
        if os.environ.get("CAMPAIGN_TRACE"):
            traceback.print_exc()
        return objection(error) or "refused", place(error)
    if finite(given) and not finite(answer):
        return "not finite", brief(answer)
    return "answered", ""
