"""Training steps to a criterion, with censoring.

A network meets a criterion at the first of `consecutive` evaluations in a row that all meet it. If its training ends
before, the time is *censored*: it would have taken longer, nobody knows how much. Such times have no mean; medians,
the log-rank test and bounds are defined. Medians and their ratio are computed here, as no library gives bounds of a
ratio of medians for paired, censored times.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

FEWEST = 6  # seeds from which an interval of a ratio of medians holds its level: a test measures it


@dataclass(frozen=True)
class TimeToCriterion:
    """The step at which a network met a criterion, or (censored) the last step at which it had not."""

    step: int
    censored: bool


def steps_to_criterion(
    history: Sequence[Mapping[str, float]],
    metric: str,
    criterion: float,
    consecutive: int = 3,
    *,
    lower_is_better: bool = False,
) -> TimeToCriterion:
    """Return the first of `consecutive` evaluations in a row that all meet a criterion.

    Entries of the history hold ``step``, increasing; those without the metric are skipped, NaN meets no criterion.

    >>> curve = [0.4, 0.9, 0.6, 0.9, 0.95, 0.9]
    >>> history = [{"step": 10 * k, "accuracy": v} for k, v in enumerate(curve)]
    >>> steps_to_criterion(history, "accuracy", 0.9)
    TimeToCriterion(step=30, censored=False)
    """
    if consecutive < 1:
        raise ValueError(f"consecutive must be at least 1, got {consecutive}")
    steps, values = _curve(history, metric)
    row = 0
    for place, value in enumerate(values):
        met = value <= criterion if lower_is_better else value >= criterion
        row = row + 1 if met else 0
        if row == consecutive:
            return TimeToCriterion(steps[place - consecutive + 1], censored=False)
    return TimeToCriterion(steps[-1], censored=True)


def area_under_curve(history: Sequence[Mapping[str, float]], metric: str) -> float:
    """Return the mean height of a learning curve: its area (trapezoids) divided by its length in steps."""
    steps, values = _curve(history, metric)
    if len(steps) == 1:
        return values[0]
    return float(scipy.integrate.trapezoid(values, steps) / (steps[-1] - steps[0]))


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


def log_rank(first: Sequence[TimeToCriterion], second: Sequence[TimeToCriterion]) -> float:
    """Return p of the two-sided log-rank test (scipy) of two independent groups; 1 where nothing tells them apart."""
    if not first or not second:
        raise ValueError(f"each group needs a time, got {len(first)} and {len(second)}")
    groups = []
    for times in (first, second):
        met, right = ([t.step for t in times if t.censored is c] for c in (False, True))
        groups.append(scipy.stats.CensoredData(met, right=right))
    with np.errstate(invalid="ignore"):  # 0 / 0 where nobody meets the criterion
        p = float(scipy.stats.logrank(*groups).pvalue)
    return 1.0 if math.isnan(p) else p


def median_step(times: Sequence[TimeToCriterion]) -> float:
    """Return the median step; infinite where too many times are censored for it to be known."""
    if not times:
        raise ValueError("a median needs at least one time to criterion")
    return float(np.median(_bounds(times)[1]))


def _bounds(times: Sequence[TimeToCriterion]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and largest possible step of each time."""
    low = np.array([t.step for t in times], dtype=float)
    return low, np.where([t.censored for t in times], np.inf, low)


@dataclass(frozen=True)
class MedianRatio:
    """Ratio of median times of an arm and its baseline, with an interval.

    The ratio is NaN where censoring hides a median; the interval is open (0, infinity) at an end that censoring
    leaves open, and NaN for fewer than two seeds.
    """

    ratio: float
    low: float
    high: float
    n: int

    @property
    def excludes_one(self) -> bool:
        """Whether the interval lies on one side of 1; never for fewer than `FEWEST` seeds.

        Resamples of so few seeds are too much alike: with two, half of all experiments would find a difference
        between arms that do not differ.
        """
        return self.n >= FEWEST and (self.low > 1 or self.high < 1)


def median_ratio(
    arm: Sequence[TimeToCriterion],
    baseline: Sequence[TimeToCriterion],
    level: float = 0.95,
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> MedianRatio:
    """Return median time of the arm / median time of the baseline, with a percentile bootstrap over paired seeds.

    A censored time lies between its last step and infinity; the interval's lower end takes it the one way, the upper
    end the other, so that the interval holds whatever the censored runs would have done.
    """
    if len(arm) != len(baseline) or not arm:
        raise ValueError(f"arm and baseline must pair up, got {len(arm)}, {len(baseline)} times")
    if any(t.step == 0 for t in baseline):
        raise ValueError("the baseline meets the criterion before training: raise the criterion")
    medians = median_step(arm), median_step(baseline)
    ratio = medians[0] / medians[1] if math.isfinite(sum(medians)) else math.nan
    if len(arm) == 1:
        return MedianRatio(ratio, math.nan, math.nan, 1)
    index = np.random.default_rng(seed).integers(0, len(arm), (draws, len(arm)))

    def end(top: NDArray[np.float64], bottom: NDArray[np.float64], share: float) -> float:
        ratios = np.median(top[index], axis=1) / np.median(bottom[index], axis=1)
        # order statistics rather than interpolation, which cannot cross infinities
        method = "lower" if share < 0.5 else "higher"
        return float(np.quantile(ratios, share, method=method))  # type: ignore[call-overload]

    (arm_low, arm_high), (base_low, base_high) = _bounds(arm), _bounds(baseline)
    tail = (1 - level) / 2
    low, high = end(arm_low, base_high, tail), end(arm_high, base_low, 1 - tail)
    return MedianRatio(ratio, low, high, len(arm))
