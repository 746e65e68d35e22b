"""What is said of columns, that is of units or features: standardisation, correlation, reliability, noise ceiling.

Each of them is written in this one place.
"""

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


def reliability(trials: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the reliability weight of each neuron, w = sigma / eta (as described by Li et al. 2019).

    sigma^2 is the variance over images of the mean over repeats, eta^2 the mean over images of the variance over
    repeats (unbiased).

    Parameters
    ----------
    trials : ndarray
        (images, repeats, neurons), NaN where there is no repeat; images with fewer than two are left out.

    Returns
    -------
    ndarray
        (neurons,), float64. 0 for a neuron that never varies; a neuron that varies over images but never over repeats
        gets the largest weight of the others (or 1).

    Raises
    ------
    ValueError
        If fewer than two images have two repeats.

    Examples
    --------
    >>> reliability(np.array([[[1.0], [3.0]], [[5.0], [7.0]]]))  # sigma 2, eta sqrt(2)
    array([1.41421356])
    """
    x, _ = _repeated(trials, "reliability")
    sigma = np.nanmean(x, axis=1).std(axis=0)
    eta = np.sqrt(np.nanvar(x, axis=1, ddof=1).mean(axis=0))
    weight: NDArray[np.float64] = np.divide(sigma, eta, out=np.zeros_like(sigma), where=eta > 0)
    weight[(eta == 0) & (sigma > 0)] = weight.max(initial=0.0) or 1.0
    return weight


def noise_ceiling(trials: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the correlation that a perfect model would have with each neuron's mean over its repeats.

    sqrt(1 - E / T): T is the variance over images of the mean over repeats, E the part of it that is noise, the mean
    over images of (variance over repeats / number of repeats); both unbiased (Hsu et al. 2004, Schoppe et al. 2016).

    Parameters
    ----------
    trials : ndarray
        (images, repeats, neurons), NaN where there is no repeat; images with fewer than two are left out.

    Returns
    -------
    ndarray
        (neurons,), float64 in [0, 1]; 0 where the noise explains all there is.

    Raises
    ------
    ValueError
        If fewer than two images have two repeats.
    """
    x, count = _repeated(trials, "a noise ceiling")
    total = np.nanmean(x, axis=1).var(axis=0, ddof=1)
    noise = (np.nanvar(x, axis=1, ddof=1) / count).mean(axis=0)
    share = np.divide(noise, total, out=np.ones_like(total), where=total > 0)
    return np.asarray(np.sqrt((1 - share).clip(0, 1)))


def _repeated(
    trials: NDArray[np.floating], what: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Images of at least two repeats for every neuron, and their numbers of repeats, (images, neurons)."""
    count = np.isfinite(trials).sum(axis=1)
    repeated = (count >= 2).all(axis=1)
    if repeated.sum() < 2:
        raise ValueError(f"{what} needs two images with two repeats, got {int(repeated.sum())}")
    return np.asarray(trials[repeated], dtype=np.float64), count[repeated]
