"""Student's intervals over seeds: SciPy's, paired, and wider where values share data."""

from __future__ import annotations

import numpy as np
import pytest

from b2m_fast.experiments import statistics


def student_t(level: float, degrees: int) -> float:
    """Two-sided quantile of Student's t, from the finite sums of its distribution (Abramowitz & Stegun 26.7.3-4)."""

    def coverage(t: float) -> float:
        angle = np.arctan(t / degrees**0.5)
        cosine, odd = np.cos(angle), degrees % 2
        total, term = 0.0, cosine if odd else 1.0
        for k in range(1, (degrees + 1) // 2 if odd else degrees // 2 + 1):
            total += term
            term *= cosine**2 * (2 * k / (2 * k + 1) if odd else (2 * k - 1) / (2 * k))
        return float(2 / np.pi * (angle + np.sin(angle) * total) if odd else np.sin(angle) * total)

    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if coverage(middle) < level else (low, middle)
    return (low + high) / 2


def test_t_interval_is_students() -> None:
    """Half-widths are t s / sqrt(n), t by bisection on its distribution, for even and odd degrees of freedom."""
    for n in (2, 3, 4, 7, 20):
        for level in (0.9, 0.95, 0.99):
            x = np.random.default_rng(n).normal(size=n)
            found = statistics.t_interval(x.tolist(), level)
            half = student_t(level, n - 1) * x.std(ddof=1) / n**0.5
            assert found.n == n
            assert found.low == pytest.approx(x.mean() - half, rel=1e-10)
            assert found.high == pytest.approx(x.mean() + half, rel=1e-10)


def test_one_seed_has_no_interval() -> None:
    """One value gives NaN ends and never "excludes zero"; no value is an error."""
    interval = statistics.t_interval([1.0])
    assert np.isnan([interval.low, interval.high]).all()
    assert not interval.excludes_zero
    with pytest.raises(ValueError, match="at least one value"):
        statistics.t_interval([])


def test_pairing_removes_what_seeds_share() -> None:
    """A constant gain on scattered seeds is found exactly; unequal lengths are refused."""
    base = [0.1, 0.5, 0.9]
    interval = statistics.paired_difference([b + 0.1 for b in base], base)
    assert interval.low == pytest.approx(0.1)
    assert interval.excludes_zero
    with pytest.raises(ValueError, match="got 1, 2"):
        statistics.paired_difference([1.0], [1.0, 2.0])


def test_values_that_share_data_get_a_wider_interval() -> None:
    """Ten values of correlation 0.1: intervals hold the truth in 95 %, which plain ones do not."""
    rng = np.random.default_rng(0)
    held = {0.0: 0, 0.1: 0}
    for _ in range(1000):
        x = (0.1**0.5 * rng.normal() + 0.9**0.5 * rng.normal(size=10)).tolist()
        for correlation in held:
            interval = statistics.t_interval(x, correlation=correlation)
            held[correlation] += interval.low <= 0 <= interval.high
    assert held[0.1] == pytest.approx(950, abs=25)
    assert held[0.0] < 900
    shared = statistics.paired_difference([1.0, 2.0, 4.0], [0.0, 0.0, 0.0], correlation=0.1)
    assert shared == statistics.t_interval([1.0, 2.0, 4.0], correlation=0.1)
    with pytest.raises(ValueError, match="at least 0 and below 1, got 1"):
        statistics.t_interval([1.0, 2.0], correlation=1.0)
