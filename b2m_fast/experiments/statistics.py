"""Intervals over seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.evaluate.convergence import resamples

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["Interval", "bootstrap_interval", "paired_difference", "t_interval"]


@dataclass(frozen=True)
class Interval:
    """A mean with an interval.

    Attributes
    ----------
    mean : float
        Mean.
    low, high : float
        Ends of the interval; NaN for fewer than two values.
    n : int
        Number of values.
    """

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
    """Student's interval of a mean: mean +- t(level, n - 1) s sqrt(1/n + c / (1 - c)).

    Parameters
    ----------
    values : sequence of float
        One value per seed.
    level : float, default 0.95
        Coverage.
    correlation : float, default 0.0
        c, of the values with each other. Repeats of a cross-validation share training data, so that
        their scatter is too small for the mean's; Nadeau and Bengio (2003) take c to be the share
        of the data that is tested on.

    Returns
    -------
    Interval
        Mean and ends.

    Raises
    ------
    ValueError
        If there is no value, or the correlation is not in [0, 1).

    Examples
    --------
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
        return Interval(mean, float("nan"), float("nan"), 1)
    spread = (1 / x.size + correlation / (1 - correlation)) ** 0.5
    half = student_t(level, x.size - 1) * float(x.std(ddof=1)) * spread
    return Interval(mean, mean - half, mean + half, int(x.size))


def student_t(level: float, degrees: int) -> float:
    """Two-sided quantile of Student's t, by bisection on its distribution function.

    Parameters
    ----------
    level : float
        Probability between -t and t.
    degrees : int
        Degrees of freedom.

    Returns
    -------
    float
        t; 12.706 for 0.95 and 1 degree.
    """
    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        if _t_coverage(middle, degrees) < level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _t_coverage(t: float, degrees: int) -> float:
    """P(|T| < t), the finite sums for whole degrees of freedom (Abramowitz & Stegun 26.7.3-4)."""
    angle = float(np.arctan(t / degrees**0.5))
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    if degrees % 2:
        total, term = 0.0, cosine
        for k in range(1, (degrees - 1) // 2 + 1):
            total += term
            term *= cosine**2 * (2 * k) / (2 * k + 1)
        return 2 / np.pi * (angle + sine * total)
    total, term = 0.0, 1.0
    for k in range(1, degrees // 2 + 1):
        total += term
        term *= cosine**2 * (2 * k - 1) / (2 * k)
    return sine * total


def paired_difference(
    values: Sequence[float],
    baseline: Sequence[float],
    level: float = 0.95,
    *,
    correlation: float = 0.0,
) -> Interval:
    """Student's interval of the mean difference of seeds run in both arms.

    Parameters
    ----------
    values, baseline : sequence of float
        One value per seed, in the same order of seeds.
    level : float, default 0.95
        Coverage.
    correlation : float, default 0.0
        Of the differences with each other, as for `t_interval`.

    Returns
    -------
    Interval
        Of values - baseline.

    Raises
    ------
    ValueError
        If they do not have the same length.
    """
    if len(values) != len(baseline):
        raise ValueError(
            f"paired values must be as many as baseline, got {len(values)}, {len(baseline)}"
        )
    differences = [v - b for v, b in zip(values, baseline, strict=True)]
    return t_interval(differences, level, correlation=correlation)


def bootstrap_interval(
    values: Sequence[float], level: float = 0.95, *, draws: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of a mean. With fewer than about 8 values it is too narrow: use t.

    Parameters
    ----------
    values : sequence of float
        One value per seed.
    level : float, default 0.95
        Coverage.
    draws : int
        Resamples.
    seed : int
        Source of chance.

    Returns
    -------
    Interval
        Mean and ends.

    Raises
    ------
    ValueError
        If there is no value.
    """
    x = np.asarray(values, dtype=float)
    if x.size == 0:
        raise ValueError("an interval needs at least one value")
    index = resamples(x.size, draws, seed)
    low, high = np.quantile(x[index].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(x.mean()), float(low), float(high), int(x.size))
