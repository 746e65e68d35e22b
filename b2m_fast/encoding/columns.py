"""Columns of (rows, units) or (rows, features): standardisation and correlation, each in this one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def mean_and_spread(
    x: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each column, infinite for one that never varies: it then becomes 0."""
    spread = np.where((x != x[0]).any(axis=0), x.std(axis=0, dtype=np.float64), np.inf)
    return x.mean(axis=0, dtype=np.float64), spread


def standardised(
    values: NDArray[np.floating], like: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """Return columns from the means, in the standard deviations, of those of `like` (training rows; default: values).

    A column that never varies there becomes 0, where scipy.stats.zmap has NaN.
    """
    # columns contiguous: the same sums however the rows lie in memory
    x = np.asarray(values, dtype=np.float64, order="F")
    mean, spread = mean_and_spread(x if like is None else np.asarray(like, np.float64, order="F"))
    return np.asarray((x - mean) / spread)


def column_correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return Pearson's r of each column of a with the same column of b, (rows, columns) each; 0 where one is constant."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    product = np.asarray((a * b).sum(axis=0), dtype=np.float64)
    return np.asarray(np.divide(product, norm, out=np.zeros_like(product), where=norm > 0))
