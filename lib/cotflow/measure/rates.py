"""Rates and limits of measured sequences: slopes with intervals over seeds, extrapolation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


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

    def measured(self) -> dict:
        """The fields of a :class:`cotbook.claims.Claim` that this slope fills."""
        return {
            "measured": self.slope,
            "low": self.low,
            "high": self.high,
            "interval": self.interval,
        }

    def fitted(self, x: ArrayLike) -> np.ndarray:
        return np.exp(self.intercept) * np.asarray(x, dtype=float) ** self.slope


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high): Student's t interval over independent values (seeds)."""
    values = np.asarray(values, dtype=float)
    if values.size < 2:
        raise ValueError(f"interval: expected at least 2 values, received {values.size}")
    half = stats.t.ppf(0.5 + confidence / 2, values.size - 1) * stats.sem(values)
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def loglog_slope(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Slope:
    """Slope of log y against log x by least squares.

    Parameters
    ----------
    x : (points,), positive.
    y : (points,) or (seeds, points), positive.
    """
    x = np.asarray(x, dtype=float)
    y = np.atleast_2d(np.asarray(y, dtype=float))
    if x.ndim != 1 or y.ndim != 2 or y.shape[1] != x.size or x.size < 2:
        raise ValueError(
            "slope: expected x of shape (points,) with at least 2 points and y of shape "
            f"(seeds, points), received {x.shape} and {y.shape}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (x > 0).all() and (y > 0).all()):
        raise ValueError("slope: expected positive finite numbers; logarithms were asked for")
    if (x == x[0]).all():
        raise ValueError(f"slope: expected at least 2 different x, received {x[0]} alone")
    centred, logs = np.log(x) - np.log(x).mean(), np.log(y)
    slopes = logs @ centred / centred.dot(centred)
    intercept = float(logs.mean() - slopes.mean() * np.log(x).mean())
    if len(slopes) > 1:
        return Slope(*mean_interval(slopes, confidence), intercept, slopes, confidence)
    slope, half = float(slopes[0]), float("inf")
    if x.size > 2:
        residuals = logs[0] - logs[0].mean() - slope * centred
        variance = residuals.dot(residuals) / (x.size - 2) / centred.dot(centred)
        half = float(stats.t.ppf(0.5 + confidence / 2, x.size - 2) * np.sqrt(variance))
    return Slope(slope, slope - half, slope + half, intercept, slopes, confidence)


def richardson(values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """v(L) = v + c_1/L + c_2/L² + …  at L, 2L, 4L, … gives v, and an estimate of its error.

    Column j of the tableau is (2^j v_{i+1} − v_i)/(2^j − 1) of the one before. The estimate is the
    difference between its last entry and the best one of the column before: an estimate, not a
    bound, and on the cautious side as long as the series behaves.

    Parameters
    ----------
    values : (depths, ...), every depth twice the one before.
    """
    column = np.asarray(values, dtype=float)
    if len(column) < 2:
        raise ValueError(f"extrapolation: expected at least 2 depths, received {len(column)}")
    for order in range(1, len(column)):
        before, gain = column[-1], 2.0**order
        column = (gain * column[1:] - column[:-1]) / (gain - 1.0)
    return np.asarray(column[-1]), np.asarray(np.abs(column[-1] - before))
