"""Steps to a criterion, censoring, and what may be concluded from them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from b2m_fast.evaluate.convergence import (
    TimeToCriterion,
    area_under_curve,
    log_rank,
    median_ratio,
    median_step,
    steps_to_criterion,
)


def history(*values: float, every: int = 10, metric: str = "accuracy") -> list[dict[str, float]]:
    return [{"step": every * k, metric: v} for k, v in enumerate(values)]


def times(*steps: int, censored: int = 10**9) -> list[TimeToCriterion]:
    """Times of these steps; those at `censored` or later are censored."""
    return [TimeToCriterion(min(s, censored), s >= censored) for s in steps]


# --------------------------------------------------------------------------------------------------
# Time to criterion
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("values", "consecutive", "expected"),
    [
        ((0.9, 0.9, 0.9), 3, TimeToCriterion(0, False)),
        ((0.5, 0.9, 0.8, 0.9, 0.9, 0.95), 3, TimeToCriterion(30, False)),
        ((0.5, 0.9, 0.8, 0.9, 0.9, 0.95), 1, TimeToCriterion(10, False)),
        ((0.5, 0.8, 0.9, 0.9), 3, TimeToCriterion(30, True)),
        ((0.9, 0.9, math.nan, 0.9), 3, TimeToCriterion(30, True)),
    ],
)
def test_a_criterion_takes_a_row_of_good_evaluations(
    values: tuple[float, ...], consecutive: int, expected: TimeToCriterion
) -> None:
    """One lucky evaluation is not enough, a NaN breaks the row, an unfinished row is censored."""
    assert steps_to_criterion(history(*values), "accuracy", 0.9, consecutive) == expected


def test_errors_fall_to_their_criterion() -> None:
    """For an error, small is good."""
    curve = history(0.5, 0.1, 0.05, 0.02, metric="mse")
    found = steps_to_criterion(curve, "mse", 0.1, 2, lower_is_better=True)
    assert found == TimeToCriterion(10, False)


def test_entries_without_the_metric_are_passed_over() -> None:
    """Entries that hold training losses only do not break a row of evaluations."""
    curve = history(0.95, 0.95)
    curve.insert(1, {"step": 5, "loss": 1.0})
    assert steps_to_criterion(curve, "accuracy", 0.9, 2) == TimeToCriterion(0, False)
    assert area_under_curve(curve, "accuracy") == pytest.approx(0.95)


def test_unusable_histories_are_refused() -> None:
    """A missing metric, steps out of order and an impossible row are errors that name them."""
    with pytest.raises(ValueError, match=r"holds 'acc'; there are \['accuracy', 'step'\]"):
        steps_to_criterion(history(0.5), "acc", 0.9)
    with pytest.raises(ValueError, match="must increase"):
        area_under_curve(history(0.5, 0.6)[::-1], "accuracy")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        steps_to_criterion(history(0.5), "accuracy", 0.9, 0)


def test_area_is_the_mean_height() -> None:
    """Trapezoids over uneven steps, divided by their length: a hand-computed case."""
    curve = [{"step": 0, "a": 0.0}, {"step": 10, "a": 1.0}, {"step": 40, "a": 0.5}]
    assert area_under_curve(curve, "a") == pytest.approx((5 + 22.5) / 40)
    assert area_under_curve(curve[:1], "a") == 0.0


# --------------------------------------------------------------------------------------------------
# Log-rank
# --------------------------------------------------------------------------------------------------
def test_log_rank_by_hand() -> None:
    """Two groups of three, one censored: expected events and variance written out."""
    first = [TimeToCriterion(1, False), TimeToCriterion(3, False), TimeToCriterion(5, True)]
    second = [TimeToCriterion(2, False), TimeToCriterion(3, False), TimeToCriterion(4, False)]
    # at 1: 3 of 6; at 2: 2 of 5; at 3, two arrivals: 2 of 4; at 4: 1 of 2
    expected = 3 / 6 + 2 / 5 + 2 * 2 / 4 + 1 / 2
    variance = 1 / 4 + 6 / 25 + 2 * (1 / 4) * (2 / 3) + 1 / 4
    statistic = (2 - expected) ** 2 / variance
    assert log_rank(first, second) == pytest.approx(math.erfc(math.sqrt(statistic / 2)))


@pytest.mark.parametrize("seed", range(8))
def test_log_rank_is_that_of_scipy(seed: int) -> None:
    """p is SciPy's for groups with ties and censoring."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(seed)
    groups, data = [], []
    for size, scale in ((rng.integers(3, 15), 20), (rng.integers(3, 15), 30)):
        steps = rng.geometric(1 / scale, size)
        groups.append(times(*steps.tolist(), censored=25))
        gone = steps[steps < 25]
        data.append(stats.CensoredData(gone, right=np.full(size - len(gone), 25)))
    p = stats.logrank(*data).pvalue
    assert log_rank(*groups) == pytest.approx(p, rel=1e-9)
    assert log_rank(*groups[::-1]) == pytest.approx(p, rel=1e-9)


def test_log_rank_without_information() -> None:
    """Nobody arrives, or all at once: p is 1; an empty group is an error."""
    nobody = times(5, 5, censored=5)
    assert log_rank(nobody, nobody) == 1
    assert log_rank(times(3), times(3)) == 1
    with pytest.raises(ValueError, match="got 2 and 0"):
        log_rank(nobody, [])


# --------------------------------------------------------------------------------------------------
# Medians and their ratio
# --------------------------------------------------------------------------------------------------
def test_median_with_censoring() -> None:
    """The median is known as long as more than half arrived, and infinite otherwise."""
    assert median_step(times(10, 20, 90, censored=50)) == 20
    assert median_step(times(10, 90, 90, censored=50)) == math.inf
    with pytest.raises(ValueError, match="at least one"):
        median_step([])


def test_ratio_is_paired() -> None:
    """Half the steps in every seed is a ratio of exactly one half, however seeds scatter."""
    base = [10, 200, 40, 1000, 80, 600, 30]
    found = median_ratio(times(*(s // 2 for s in base)), times(*base))
    assert (found.ratio, found.low, found.high, found.n) == (0.5, 0.5, 0.5, 7)
    assert found.excludes_one


def test_ratio_of_alike_arms_holds_one() -> None:
    """Arms drawn from the same distribution: 1 lies in the interval, which is repeatable."""
    rng = np.random.default_rng(0)
    arm, base = (times(*rng.integers(50, 150, 20).tolist()) for _ in range(2))
    found = median_ratio(arm, base)
    assert found.low < found.ratio < found.high
    assert not found.excludes_one
    assert median_ratio(arm, base) == found


def test_interval_does_not_depend_on_what_censored_runs_would_have_done() -> None:
    """Ends are bounds: whatever later steps censored runs had arrived at, they lie further in."""
    arm = times(10, 12, 14, 20, 90, 90, 11, 13, censored=50)
    base = times(20, 90, 30, 40, 90, 45, 90, 25, censored=50)
    found = median_ratio(arm, base)
    assert found.ratio == pytest.approx(13.5 / 42.5)
    for late in (50, 60, 1000):
        filled = [
            [TimeToCriterion(late if a.censored else a.step, False) for a in g] for g in (arm, base)
        ]
        complete = median_ratio(filled[0], filled[1])
        assert found.low <= complete.low
        assert complete.high <= found.high


def test_alike_arms_are_seldom_told_apart() -> None:
    """Arms of one distribution: with 6 or 10 seeds about one star in twenty to ten, with 2 none."""
    rng = np.random.default_rng(0)

    def stars(seeds: int, experiments: int = 300) -> float:
        found = 0
        for _ in range(experiments):
            arm, base = (
                times(*(5 * rng.integers(10, 60, seeds)).tolist(), censored=260) for _ in range(2)
            )
            found += median_ratio(arm, base, draws=400).excludes_one
        return found / experiments

    assert stars(2) == stars(5) == 0
    assert stars(6) < 0.12
    assert stars(10) < 0.10


def test_hidden_medians_give_bounds() -> None:
    """A baseline that never arrives leaves no ratio, but a bound from its last step."""
    arm, never = times(*[10, 12, 14] * 2), times(*[99] * 6, censored=40)
    found = median_ratio(arm, never)
    assert math.isnan(found.ratio)
    assert found.low == 0
    assert found.high == pytest.approx(0.35)
    assert found.excludes_one
    other = median_ratio(never, arm)
    assert other.low == pytest.approx(40 / 14)
    assert other.high == math.inf
    both = median_ratio(never, never)
    assert math.isnan(both.ratio)
    assert (both.low, both.high) == (0, math.inf)


def test_ratio_refuses_what_has_none() -> None:
    """Unpaired arms and a criterion met before training are errors; one seed has no interval."""
    with pytest.raises(ValueError, match="got 1, 2"):
        median_ratio(times(1), times(1, 2))
    with pytest.raises(ValueError, match="raise the criterion"):
        median_ratio(times(1, 2), times(0, 2))
    single = median_ratio(times(5), times(10))
    assert single.ratio == 0.5
    assert math.isnan(single.low)
    assert not single.excludes_one
