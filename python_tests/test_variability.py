"""Distances between brains and the Mantel test, against plain sums and SciPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

from b2m_fast.evaluate.variability import (
    correlation_distance,
    mantel,
    representational_distance,
)

Array = NDArray[np.float64]


def matrix(seed: int, n: int) -> Array:
    return np.asarray(squareform(pdist(np.random.default_rng(seed).normal(size=(n, 3)))))


def test_correlation_distance_is_scipys() -> None:
    """1 - r of the flattened estimates of every pair of brains."""
    x = np.random.default_rng(0).normal(size=(4, 7, 3))
    expected = squareform(pdist(x.reshape(4, -1), "correlation"))
    np.testing.assert_allclose(correlation_distance(x), expected, atol=1e-12)
    x[1] = 5.0  # never varies
    found = correlation_distance(x)
    np.testing.assert_allclose(found[1], [1, 0, 1, 1])
    x[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="finite values"):
        correlation_distance(x)


def test_representational_distance_knows_geometry_and_not_units() -> None:
    """Other orders, scales and offsets of units are no distance; another geometry is, as with SciPy's sums."""
    rng = np.random.default_rng(1)
    a, c = rng.normal(size=(12, 5)), rng.normal(size=(12, 8))
    b = 3 * a[:, ::-1] + 1
    found = representational_distance([a, b, c])
    lists = [pdist(x - x.mean(axis=0), "correlation") for x in (a, b, c)]
    np.testing.assert_allclose(found, squareform(pdist(np.stack(lists), "correlation")), atol=1e-9)
    assert found[0, 1] < 1e-12
    assert found[0, 2] > 0.5
    with pytest.raises(ValueError, match=r"the same 3 or more stimuli, got \[11, 12\]"):
        representational_distance([a, c[1:]])


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_mantel_is_exact_where_it_can_be(method: str) -> None:
    """Correlation and p of five brains are those of going through all 120 permutations by hand."""
    a = matrix(2, 5)
    b = a + 0.6 * matrix(3, 5)
    pairs = list(itertools.combinations(range(5), 2))

    def r(order: tuple[int, ...]) -> float:
        x = [a[i, j] for i, j in pairs]
        y = [b[order[i], order[j]] for i, j in pairs]
        return float(spearmanr(x, y)[0] if method == "spearman" else np.corrcoef(x, y)[0, 1])

    all_of_them = [r(order) for order in itertools.permutations(range(5))]
    found = mantel(a, b, method=method)  # type: ignore[arg-type]
    assert found.r == pytest.approx(all_of_them[0])
    assert found.p == pytest.approx(np.mean(np.array(all_of_them) >= all_of_them[0] - 1e-9))
    assert found.exact
    assert found.permutations == 120


def test_random_permutations_come_near_the_exact_p() -> None:
    """With fewer permutations than there are, p is an estimate of the same, and never 0."""
    a = matrix(4, 6)
    b = a + 2 * matrix(5, 6)
    exact = mantel(a, b)
    drawn = mantel(a, b, permutations=500)
    assert exact.exact
    assert not drawn.exact
    assert drawn.p == pytest.approx(exact.p, abs=4 * (exact.p * (1 - exact.p) / 500) ** 0.5 + 0.003)
    assert mantel(a, a, permutations=100).p == pytest.approx(1 / 101, abs=1e-9)


def test_p_is_uniform_when_nothing_is_related() -> None:
    """Of 2,000 pairs of unrelated matrices one in ten has p <= 0.1: the test holds its level."""
    found = [mantel(matrix(k, 7), matrix(9000 + k, 7), permutations=199).p for k in range(2000)]
    assert np.mean(np.array(found) <= 0.1) == pytest.approx(0.1, abs=3.5 * (0.09 / 2000) ** 0.5)


def test_constant_distances_have_no_correlation() -> None:
    """All brains equally far apart: r is NaN and p 1, no crash."""
    flat = 1 - np.eye(5)
    found = mantel(flat, matrix(6, 5))
    assert np.isnan(found.r)
    assert found.p == 1


def test_bad_matrices() -> None:
    """Not symmetric, of other sizes, too few brains, no permutation."""
    a = matrix(7, 4)
    for x, y in ((a, a[:3, :3]), (a[:2, :2], a[:2, :2]), (a, np.triu(a)), (a, a * np.nan)):
        with pytest.raises(ValueError, match="two symmetric, finite matrices"):
            mantel(x, y)
    with pytest.raises(ValueError, match="permutations must be at least 1"):
        mantel(a, a, permutations=0)
