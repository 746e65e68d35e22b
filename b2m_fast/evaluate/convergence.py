"""How fast networks learn: steps to a criterion, with those that never arrive, and what to say.

A network has arrived at the first of `consecutive` evaluations in a row that all meet the
criterion. One that does not arrive before its training ends is *censored*: all that is known is
that it would have taken longer. Means of such numbers mean nothing; medians, the log-rank test and
bounds do.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "FEWEST",
    "Arrival",
    "MedianRatio",
    "area_under_curve",
    "log_rank",
    "median_ratio",
    "median_step",
    "resamples",
    "steps_to_criterion",
]


FEWEST = 6  # seeds from which an interval of a ratio of medians may be believed: a test measures it


@dataclass(frozen=True)
class Arrival:
    """When a network met a criterion.

    Attributes
    ----------
    step : int
        Step of arrival, or the last step looked at if it did not arrive.
    censored : bool
        Whether it did not arrive.
    """

    step: int
    censored: bool


def _curve(history: Sequence[Mapping[str, float]], metric: str) -> tuple[list[int], list[float]]:
    """Steps and values of the entries that hold a metric."""
    entries = [e for e in history if metric in e]
    if not entries:
        known = sorted({key for e in history for key in e})
        raise ValueError(f"no entry of the history holds {metric!r}; there are {known}")
    steps = [int(e["step"]) for e in entries]
    if any(b <= a for a, b in itertools.pairwise(steps)):
        raise ValueError(f"the steps of a history must increase, got {steps}")
    return steps, [float(e[metric]) for e in entries]


def steps_to_criterion(
    history: Sequence[Mapping[str, float]],
    metric: str,
    criterion: float,
    consecutive: int = 3,
    *,
    lower_is_better: bool = False,
) -> Arrival:
    """First of `consecutive` evaluations in a row that meet a criterion.

    Parameters
    ----------
    history : sequence of mapping
        Entries with ``step`` (increasing); those without the metric are passed over.
    metric : str
        Key of the numbers to look at. NaN meets no criterion.
    criterion : float
        Value to reach (or, for ``lower_is_better``, to fall to).
    consecutive : int, default 3
        Evaluations in a row that must meet it, so that one lucky evaluation does not count.
    lower_is_better : bool, default False
        Whether small values are good, as of an error.

    Returns
    -------
    Arrival
        Step and whether it is censored.

    Raises
    ------
    ValueError
        If the history lacks the metric or is not in order, or `consecutive` is not positive.

    Examples
    --------
    >>> curve = [0.4, 0.9, 0.6, 0.9, 0.95, 0.9]
    >>> history = [{"step": 10 * k, "accuracy": v} for k, v in enumerate(curve)]
    >>> steps_to_criterion(history, "accuracy", 0.9)
    Arrival(step=30, censored=False)
    """
    if consecutive < 1:
        raise ValueError(f"consecutive must be at least 1, got {consecutive}")
    steps, values = _curve(history, metric)
    row = 0
    for place, value in enumerate(values):
        met = value <= criterion if lower_is_better else value >= criterion
        row = row + 1 if met else 0
        if row == consecutive:
            return Arrival(steps[place - consecutive + 1], censored=False)
    return Arrival(steps[-1], censored=True)


def area_under_curve(history: Sequence[Mapping[str, float]], metric: str) -> float:
    """Area under a learning curve (trapezoids), divided by its length: the curve's mean height.

    Parameters
    ----------
    history : sequence of mapping
        Entries with ``step`` (increasing); those without the metric are passed over.
    metric : str
        Key of the numbers.

    Returns
    -------
    float
        In the metric's own unit; the value itself for a single entry.

    Raises
    ------
    ValueError
        If the history lacks the metric or is not in order.
    """
    steps, values = _curve(history, metric)
    if len(steps) == 1:
        return values[0]
    x, y = np.asarray(steps, dtype=float), np.asarray(values)
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))


def log_rank(first: Sequence[Arrival], second: Sequence[Arrival]) -> float:
    """Two-sided log-rank test (Mantel-Haenszel): whether two groups arrive at different rates.

    At every step t at which someone arrives, with d of the n still under way arriving and n1 of
    those n in the first group, the first group is expected to see e = d n1 / n arrivals, with
    variance v = d (n1/n) (1 - n1/n) (n - d) / (n - 1). The statistic (sum of observed - e)^2 / sum
    of v is compared with chi-square of one degree of freedom.

    Parameters
    ----------
    first, second : sequence of Arrival
        The two groups. They are treated as independent: pairing by seed is not used.

    Returns
    -------
    float
        p; 1 where nobody arrives or the groups cannot be told apart at all.

    Raises
    ------
    ValueError
        If a group is empty.
    """
    if not first or not second:
        raise ValueError(f"each group needs an arrival, got {len(first)} and {len(second)}")
    times = [np.array([a.step for a in group], dtype=float) for group in (first, second)]
    events = [np.array([not a.censored for a in group]) for group in (first, second)]
    difference = variance = 0.0
    for t in np.unique(np.concatenate([x[e] for x, e in zip(times, events, strict=True)])):
        n1, n2 = (int((x >= t).sum()) for x in times)
        d1, d2 = (int(((x == t) & e).sum()) for x, e in zip(times, events, strict=True))
        n, d = n1 + n2, d1 + d2
        difference += d1 - d * n1 / n
        if n > 1:
            variance += d * (n1 / n) * (n2 / n) * (n - d) / (n - 1)
    return math.erfc(abs(difference) / math.sqrt(2 * variance)) if variance > 0 else 1.0


def median_step(arrivals: Sequence[Arrival]) -> float:
    """Median step of arrival; infinite if too few arrived for it to be known.

    Parameters
    ----------
    arrivals : sequence of Arrival
        One per seed.

    Returns
    -------
    float
        Median.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not arrivals:
        raise ValueError("a median needs at least one arrival")
    return float(np.median(_bounds(arrivals)[1]))


def _bounds(arrivals: Sequence[Arrival]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the steps are at least, and at most."""
    low = np.array([a.step for a in arrivals], dtype=float)
    return low, np.where([a.censored for a in arrivals], np.inf, low)


@dataclass(frozen=True)
class MedianRatio:
    """Ratio of median steps to criterion, of an arm and its baseline.

    Attributes
    ----------
    ratio : float
        Ratio of the medians; NaN where censoring hides one of them.
    low, high : float
        Ends of the interval: 0 and infinity where censoring leaves an end open, NaN for fewer
        than two seeds.
    n : int
        Seeds.
    """

    ratio: float
    low: float
    high: float
    n: int

    @property
    def excludes_one(self) -> bool:
        """Whether the whole interval lies on one side of 1; never with fewer than `FEWEST` seeds.

        Resamples of so few seeds are too much alike: with two, alike arms would be told apart in
        half of all experiments.
        """
        return self.n >= FEWEST and (self.low > 1 or self.high < 1)


def median_ratio(
    arm: Sequence[Arrival],
    baseline: Sequence[Arrival],
    level: float = 0.95,
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> MedianRatio:
    """Ratio of median steps to criterion with a paired bootstrap over seeds.

    Seeds are drawn with replacement, both arms of a seed together. A censored run lies between its
    last step and infinity; the interval's lower end takes it the one way, the upper end the other,
    so it holds whatever the censored runs would have done.

    Parameters
    ----------
    arm, baseline : sequence of Arrival
        One per seed, in the same order of seeds.
    level : float, default 0.95
        Coverage.
    draws : int
        Resamples.
    seed : int
        Source of chance.

    Returns
    -------
    MedianRatio
        Ratio below 1: the arm is faster.

    Raises
    ------
    ValueError
        If they do not have the same length, there is none, or a step is 0 (a ratio has no meaning
        where the criterion is met before training).
    """
    if len(arm) != len(baseline) or not arm:
        raise ValueError(
            f"paired arrivals must be as many as baseline, got {len(arm)}, {len(baseline)}"
        )
    if any(b.step == 0 for b in baseline):
        raise ValueError("the baseline meets the criterion before training: raise the criterion")
    arm_low, arm_high = _bounds(arm)
    base_low, base_high = _bounds(baseline)
    medians = median_step(arm), median_step(baseline)
    ratio = medians[0] / medians[1] if math.isfinite(sum(medians)) else math.nan
    if len(arm) == 1:
        return MedianRatio(ratio, math.nan, math.nan, 1)
    index = resamples(len(arm), draws, seed)

    def end(top: NDArray[np.float64], bottom: NDArray[np.float64], share: float) -> float:
        ratios = np.median(top[index], axis=1) / np.median(bottom[index], axis=1)
        # order statistics rather than interpolation, which cannot cross infinities
        method = "lower" if share < 0.5 else "higher"
        return float(np.quantile(ratios, share, method=method))  # type: ignore[call-overload]

    tail = (1 - level) / 2
    low, high = end(arm_low, base_high, tail), end(arm_high, base_low, 1 - tail)
    return MedianRatio(ratio, low, high, len(arm))


def resamples(count: int, draws: int, seed: int) -> NDArray[np.int64]:
    """Which values each resample of a bootstrap takes, drawn with replacement.

    Parameters
    ----------
    count : int
        Values (seeds).
    draws : int
        Resamples.
    seed : int
        Source of chance.

    Returns
    -------
    ndarray
        (draws, count) indices; the same for arms that are resampled together.
    """
    return np.random.default_rng(seed).integers(0, count, (draws, count))
