"""The predictive model that denoises responses.

Li et al. 2019 train a convolutional network per scan and use its predictions instead of single
trials; as far as is described, on the very images whose predictions become the target. Here the
predictions are *cross-fitted*: the images are dealt into folds and each fold is predicted by a
model that never saw it, so no image's own noise returns in its denoised response. This betters the
paper. The model is ours too: ridge regression on fixed image features, which is what recordings
of about a thousand images allow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.teachers.reliability import predictability

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["LAMBDAS", "Denoised", "Encoder", "crossfit", "fit_encoder", "ridge_leave_one_out"]

LAMBDAS: tuple[float, ...] = tuple(10.0 ** (e / 2) for e in range(-6, 9))


@dataclass(frozen=True)
class Denoised:
    """Cross-fitted predictions of a recording.

    Attributes
    ----------
    responses : ndarray
        (neurons, images), float64: predicted responses, in standard deviations of the observed.
    predictability : ndarray
        (neurons,), correlation of predicted and observed on held-out images.
    lambdas : ndarray
        (folds, neurons), the ridge penalty each fold chose.
    fold : ndarray
        (images,), the fold each image was held out in.
    """

    responses: NDArray[np.float64]
    predictability: NDArray[np.float64]
    lambdas: NDArray[np.float64]
    fold: NDArray[np.int64]


def ridge_leave_one_out(
    kernel: NDArray[np.float64], y: NDArray[np.float64], lambdas: Sequence[float] = LAMBDAS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Kernel ridge regression, its penalty chosen per target by exact leave-one-out error.

    alpha = (K + lambda I)^-1 y; the error of leaving out i is alpha_i / [(K + lambda I)^-1]_ii, so
    one eigendecomposition serves every penalty.

    Parameters
    ----------
    kernel : ndarray
        (n, n), inner products of the centred features.
    y : ndarray
        (n, targets), centred.
    lambdas : sequence of float
        Penalties to choose from.

    Returns
    -------
    alpha : ndarray
        (n, targets), dual coefficients: a new row k of inner products is predicted as k @ alpha.
    chosen : ndarray
        (targets,), the penalty of each.
    """
    values, vectors = np.linalg.eigh(kernel)
    projected = vectors.T @ y
    squared = vectors**2
    best = np.full(y.shape[1], np.inf)
    alpha, chosen = np.zeros_like(y), np.zeros(y.shape[1])
    for penalty in lambdas:
        inverse = 1 / (np.maximum(values, 0) + penalty)
        candidate = vectors @ (inverse[:, None] * projected)
        error = ((candidate / (squared @ inverse)[:, None]) ** 2).mean(axis=0)
        better = error < best
        best[better], chosen[better] = error[better], penalty
        alpha[:, better] = candidate[:, better]
    return alpha, chosen


def crossfit(
    features: NDArray[np.floating],
    responses: NDArray[np.floating],
    *,
    folds: int = 5,
    seed: int = 0,
    lambdas: Sequence[float] = LAMBDAS,
) -> Denoised:
    """Predict every response by a model trained without its image.

    Per fold: features are standardised on the training images, the penalty is chosen on the
    training images alone, the held-out images are predicted. (Responses are standardised once, over
    all images: that sets their unit, and a fold's fit subtracts its own mean.)

    Parameters
    ----------
    features : ndarray
        (images, p).
    responses : ndarray
        (neurons, images).
    folds : int, default 5
        Number of folds.
    seed : int, default 0
        How images are dealt into folds.
    lambdas : sequence of float
        Penalties to choose from, in units of the mean squared feature.

    Returns
    -------
    Denoised
        Predictions and their quality.

    Raises
    ------
    ValueError
        If the numbers of images differ, or there are fewer images than twice the folds.
    """
    n = responses.shape[1]
    if len(features) != n or n < 2 * folds or folds < 2:
        message = (
            f"crossfit needs features (images, p) and responses (neurons, images) of the same "
            f"images, at least 2 folds and 2 images a fold; "
            f"got {features.shape}, {responses.shape}, folds={folds}"
        )
        raise ValueError(message)
    x = np.asarray(features, dtype=np.float64)
    y = np.asarray(responses, dtype=np.float64).T
    scale = y.std(axis=0)
    y = np.divide(y - y.mean(axis=0), scale, out=np.zeros_like(y), where=scale > 0)
    fold = np.random.default_rng(seed).permutation(n) % folds
    predicted = np.zeros_like(y)
    chosen = np.zeros((folds, y.shape[1]))
    for held in range(folds):
        train, test = fold != held, fold == held
        mean, spread = x[train].mean(axis=0), x[train].std(axis=0)
        z = (x - mean) / np.where(spread > 0, spread, np.inf)
        kernel = z @ z[train].T / z.shape[1]
        offset = y[train].mean(axis=0)
        alpha, chosen[held] = ridge_leave_one_out(kernel[train], y[train] - offset, lambdas)
        predicted[test] = kernel[test] @ alpha + offset
    return Denoised(predicted.T, predictability(predicted.T, y.T), chosen, fold.astype(np.int64))


@dataclass(frozen=True, eq=False)
class Encoder:
    """A fitted encoding model, for images nobody recorded responses to.

    Attributes
    ----------
    mean, spread : ndarray
        (p,): how features are standardised (a feature that never varied has spread infinity).
    weights : ndarray
        (p, neurons).
    """

    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    weights: NDArray[np.float64]

    def predict(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Responses to new images.

        Parameters
        ----------
        features : ndarray
            (images, p).

        Returns
        -------
        ndarray
            (neurons, images), in standard deviations of each neuron's responses to the images the
            model was fitted on.
        """
        z = (features - self.mean) / self.spread
        return np.asarray((z @ self.weights).T)


def fit_encoder(
    features: NDArray[np.floating],
    responses: NDArray[np.floating],
    *,
    lambdas: Sequence[float] = LAMBDAS,
) -> Encoder:
    """The model of `crossfit`, fitted on all images.

    How well it predicts is what `crossfit` says; on its own images it would flatter itself.

    Parameters
    ----------
    features : ndarray
        (images, p).
    responses : ndarray
        (neurons, images).
    lambdas : sequence of float
        Penalties to choose from, in units of the mean squared feature.

    Returns
    -------
    Encoder
        Predicts responses of these neurons to other images.

    Raises
    ------
    ValueError
        If the numbers of images differ.
    """
    if len(features) != responses.shape[1]:
        raise ValueError(
            f"features (images, p) and responses (neurons, images) must be of the same images, "
            f"got {features.shape} and {responses.shape}"
        )
    x = np.asarray(features, dtype=np.float64)
    y = np.asarray(responses, dtype=np.float64).T
    scale = y.std(axis=0)
    y = np.divide(y - y.mean(axis=0), scale, out=np.zeros_like(y), where=scale > 0)
    mean, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread > 0, spread, np.inf)
    z = (x - mean) / spread
    alpha, _ = ridge_leave_one_out(z @ z.T / z.shape[1], y, lambdas)
    return Encoder(mean, spread, z.T @ alpha / z.shape[1])
