"""Intervals over seeds, by Student's t (scipy)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Interval:
    """A mean of n values and the ends of its interval, which are NaN for a single value."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def t_interval(
    values: Sequence[float], level: float = 0.95, *, correlation: float = 0.0
) -> Interval:
    """Return the mean with Student's interval, mean +- t(level, n - 1) s sqrt(1/n + c / (1 - c)).

    c is the correlation of the values with each other, 0 <= c < 1. Repeats of a cross-validation share training
    data, so that they scatter too little; Nadeau and Bengio (2003) take c to be the share of the data tested on.

    >>> t_interval([1.0, 2.0, 3.0]).mean
    2.0
    """
    x = np.asarray(values, dtype=float)
    if x.size == 0:
        raise ValueError("an interval needs at least one value")
    if not 0 <= correlation < 1:
        raise ValueError(f"correlation must be at least 0 and below 1, got {correlation}")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, math.nan, math.nan, 1)
    spread = (1 / x.size + correlation / (1 - correlation)) ** 0.5
    half = float(scipy.stats.t.ppf((1 + level) / 2, x.size - 1) * x.std(ddof=1) * spread)
    return Interval(mean, mean - half, mean + half, int(x.size))


def paired_difference(
    values: Sequence[float],
    baseline: Sequence[float],
    level: float = 0.95,
    *,
    correlation: float = 0.0,
) -> Interval:
    """Return `t_interval` of values - baseline, one of each per seed, in the same order of seeds."""
    if len(values) != len(baseline):
        raise ValueError(f"values and baseline must pair up, got {len(values)}, {len(baseline)}")
    differences = [v - b for v, b in zip(values, baseline, strict=True)]
    return t_interval(differences, level, correlation=correlation)
