"""Rates and limits of measured sequences: slopes with intervals over seeds, extrapolation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit
from torch import Tensor

from cotflow.network.numbers import real, shown


class Measured(TypedDict):
    """A number with its interval, and what the interval is, ready to be passed on by keyword."""

    measured: float
    low: float
    high: float
    interval: str


@dataclass(frozen=True)
class Slope:
    """y ≈ e^intercept · x^slope.

    Attributes
    ----------
    low, high : confidence interval of the slope: Student's t over the seeds' slopes, or over the
        residuals of the one fit when there is a single seed.
    slopes : one a seed.
    """

    slope: float
    low: float
    high: float
    intercept: float
    slopes: np.ndarray
    confidence: float

    @property
    def interval(self) -> str:
        if len(self.slopes) == 1:
            return f"{self.confidence:.0%}, residuals of one fit"
        return f"{self.confidence:.0%} over {len(self.slopes)} seeds"

    def measured(self) -> Measured:
        """{measured, low, high, interval}: the slope, its interval, and over what."""
        return {
            "measured": self.slope,
            "low": self.low,
            "high": self.high,
            "interval": self.interval,
        }

    def fitted(self, x: ArrayLike) -> np.ndarray:
        """e^intercept · x^slope."""
        with np.errstate(all="ignore"):
            values: np.ndarray = np.exp(self.intercept) * _real("slope", x) ** self.slope
        return _finite("slope: the fitted line", values, 0)


def span(
    values: Tensor | ArrayLike, over: str, *, point: Literal["max", "mean", "min"] = "max"
) -> Measured:
    """{measured, low, high, interval} with low = min, high = max: all values, no statistics.

    Parameters
    ----------
    over : what the values belong to; the interval is called "range over" that.
    point : which number stands for all.

    >>> from cotflow.measure.rates import span
    >>> span([0.25, 1.0, 0.5], "3 seeds")
    {'measured': 1.0, 'low': 0.25, 'high': 1.0, 'interval': 'range over 3 seeds'}
    """
    found = values if isinstance(values, Tensor) else np.asarray(values)
    _finite("span", found.detach().cpu() if isinstance(found, Tensor) else found, 1)
    points = {"max": found.max, "mean": found.mean, "min": found.min}
    return Measured(
        measured=float(points[point]()),
        low=float(found.min()),
        high=float(found.max()),
        interval=f"range over {over}",
    )


def _real(what: str, values: ArrayLike) -> np.ndarray:
    try:
        found = np.asarray(values)
    except (ValueError, TypeError, RuntimeError):  # of other lengths, or without values
        raise ValueError(
            f"{what}: expected rows of real numbers, received {shown(values)}"
        ) from None
    if found.dtype.kind not in "buifO":
        raise ValueError(f"{what}: expected real numbers, received {found.dtype}")
    try:
        return np.asarray(found, dtype=float)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{what}: expected real numbers, received {shown(values)}") from None


def _finite(what: str, values: ArrayLike, least: int) -> np.ndarray:
    """The values as real finite numbers, so many at least."""
    found = _real(what, values)
    if found.size < least:
        raise ValueError(
            f"{what}: expected at least {least} value{'s' * (least > 1)}, received {found.size}"
        )
    wrong = ~np.isfinite(found)
    if wrong.any():
        raise ValueError(
            f"{what}: expected finite numbers, received {wrong.sum()} that are not among "
            f"{found.size}"
        )
    return found


def _confidence(what: str, confidence: float) -> float:
    return real(confidence, f"{what}: expected 0 < confidence < 1", lambda c: 0.0 < c < 1.0)


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high): Student's t interval over independent values (seeds)."""
    values = _finite("interval", values, 2)
    if values.size != max(values.shape):
        raise ValueError(f"interval: expected one row of values, received shape {values.shape}")
    confidence = _confidence("interval", confidence)
    error = values.std(ddof=1) / np.sqrt(values.size)
    half = stdtrit(values.size - 1, 0.5 + confidence / 2) * error
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def loglog_slope(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Slope:
    """Slope of log y against log x by least squares.

    Parameters
    ----------
    x : (points,), positive.
    y : (points,) or (seeds, points), positive.

    >>> from cotflow import loglog_slope
    >>> fit = loglog_slope([1, 2, 4, 8], [[8, 4, 2, 1], [16, 8, 4, 2]])
    >>> fit.slopes.shape, f"{fit.slope:.3f} in [{fit.low:.3f}, {fit.high:.3f}], {fit.interval}"
    ((2,), '-1.000 in [-1.000, -1.000], 95% over 2 seeds')
    """
    x = _real("slope", x)
    y = np.atleast_2d(_real("slope", y))
    if x.ndim != 1 or y.ndim != 2 or y.shape[1] != x.size or x.size < 2 or not len(y):
        raise ValueError(
            "slope: expected x of shape (points,) with at least 2 points and y of shape "
            f"(seeds, points), received {x.shape} and {y.shape}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (x > 0).all() and (y > 0).all()):
        raise ValueError("slope: expected positive finite numbers; logarithms were asked for")
    confidence = _confidence("slope", confidence)
    if (np.log(x) == np.log(x[0])).all():
        raise ValueError(f"slope: expected at least 2 different x, received {x[0]} alone")
    centred, logs = np.log(x) - np.log(x).mean(), np.log(y)
    slopes = logs @ centred / centred.dot(centred)
    intercept = float(logs.mean() - slopes.mean() * np.log(x).mean())
    if len(slopes) > 1:
        slope, low, high = mean_interval(slopes, confidence)
    else:
        slope, half = float(slopes[0]), float("inf")
        if x.size > 2:
            residuals = logs[0] - logs[0].mean() - slope * centred
            variance = residuals.dot(residuals) / (x.size - 2) / centred.dot(centred)
            half = float(stdtrit(x.size - 2, 0.5 + confidence / 2) * np.sqrt(variance))
        low, high = slope - half, slope + half
    return Slope(
        slope=slope,
        low=low,
        high=high,
        intercept=intercept,
        slopes=slopes,
        confidence=confidence,
    )


def richardson(values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """v(L) = v + c_1/L + c_2/L² + …  at L, 2L, 4L, … gives v, and an estimate of its error.

    Column j of the tableau is (2^j v_{i+1} − v_i)/(2^j − 1) of the one before. The estimate is the
    difference between its last entry and the best one of the column before: an estimate, not a
    bound, and on the cautious side as long as the series behaves.

    Parameters
    ----------
    values : (depths, ...), every depth twice the one before.
    """
    column = _finite("extrapolation", values, 0)
    if column.ndim < 1 or len(column) < 2:
        raise ValueError(
            f"extrapolation: expected at least 2 depths, received {len(np.atleast_1d(column))}"
        )
    for order in range(1, len(column)):
        before, gain = column[-1], 2.0**order
        column = (gain * column[1:] - column[:-1]) / (gain - 1.0)
    return np.asarray(column[-1]), np.asarray(np.abs(column[-1] - before))
