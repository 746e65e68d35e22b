"""How far a neuron can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["noise_ceiling", "predictability", "reliability"]


def reliability(trials: NDArray[np.floating]) -> NDArray[np.float64]:
    """Reliability weight of each neuron from repeats, w = sigma / eta (as described by Li et al.).

    sigma^2 is the variance over images of the mean over repeats, eta^2 the mean over images of the
    variance over repeats (unbiased; only images with at least two repeats count).

    Parameters
    ----------
    trials : ndarray
        (neurons, images, repeats), NaN where there is no repeat.

    Returns
    -------
    ndarray
        (neurons,), float64. 0 for a neuron that never varies; a neuron that varies over images
        but never over repeats gets the largest weight of the others (or 1).

    Raises
    ------
    ValueError
        If fewer than two images have two repeats.

    Examples
    --------
    >>> reliability(np.array([[[1.0, 3.0], [5.0, 7.0]]]))  # sigma 2, eta sqrt(2)
    array([1.41421356])
    """
    count = np.isfinite(trials).sum(axis=2)
    repeated = (count >= 2).all(axis=0)
    if repeated.sum() < 2:
        raise ValueError(
            f"reliability needs two images with two repeats, got {int(repeated.sum())}"
        )
    x = np.asarray(trials[:, repeated], dtype=np.float64)
    sigma = np.nanmean(x, axis=2).std(axis=1)
    eta = np.sqrt(np.nanvar(x, axis=2, ddof=1).mean(axis=1))
    weight: NDArray[np.float64] = np.divide(sigma, eta, out=np.zeros_like(sigma), where=eta > 0)
    weight[(eta == 0) & (sigma > 0)] = weight.max(initial=0.0) or 1.0
    return weight


def predictability(
    predicted: NDArray[np.floating], observed: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Predictability weight of each neuron, v = corr(predicted, observed) over images.

    Parameters
    ----------
    predicted, observed : ndarray
        (neurons, images); the predictions must be of held-out images.

    Returns
    -------
    ndarray
        (neurons,), float64 in [-1, 1]; 0 where one of them is constant.
    """
    p = predicted - predicted.mean(axis=1, keepdims=True)
    o = observed - observed.mean(axis=1, keepdims=True)
    norm = np.sqrt((p**2).sum(axis=1) * (o**2).sum(axis=1))
    dot = np.asarray((p * o).sum(axis=1), dtype=np.float64)
    v: NDArray[np.float64] = np.divide(dot, norm, out=np.zeros_like(dot), where=norm > 0)
    return v


def noise_ceiling(trials: NDArray[np.floating]) -> NDArray[np.float64]:
    """Correlation a perfect model would have with each neuron's mean over its repeats.

    sqrt(1 - E / T): T is the variance over images of the mean over repeats, E the part of it that
    is noise, the mean over images of (variance over repeats / number of repeats); both unbiased
    (Hsu et al. 2004, Schoppe et al. 2016).

    Parameters
    ----------
    trials : ndarray
        (neurons, images, repeats), NaN where there is no repeat; images with fewer than two are
        left out.

    Returns
    -------
    ndarray
        (neurons,), float64 in [0, 1]; 0 where the noise explains all there is.

    Raises
    ------
    ValueError
        If fewer than two images have two repeats.
    """
    count = np.isfinite(trials).sum(axis=2)
    repeated = (count >= 2).all(axis=0)
    if repeated.sum() < 2:
        raise ValueError(
            f"a noise ceiling needs two images with two repeats, got {int(repeated.sum())}"
        )
    x = np.asarray(trials[:, repeated], dtype=np.float64)
    total = np.nanmean(x, axis=2).var(axis=1, ddof=1)
    noise = (np.nanvar(x, axis=2, ddof=1) / count[:, repeated]).mean(axis=1)
    share = np.divide(noise, total, out=np.ones_like(total), where=total > 0)
    return np.asarray(np.sqrt((1 - share).clip(0, 1)))
