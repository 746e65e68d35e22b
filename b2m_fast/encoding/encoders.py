"""Encoding models of recorded neurons: ridge regression from image features, or from the layers of a network.

Li et al. 2019 train a convolutional network per scan and use its predictions instead of single trials; as far as is
described, on the very images whose predictions become the target. `crossfit` betters this: each image is predicted by
a model that never saw it, so no image's own noise returns in its denoised response. Ridge regression on fixed features
is what recordings of about a thousand images allow, its penalty by exact leave-one-out: one decomposition a fit, and
no second choice of folds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.encoding.columns import column_correlation, standardised
from b2m_fast.encoding.components import Components, fit_components
from b2m_fast.encoding.ridge import ALPHAS, Ridge, fit_ridge

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

    from b2m_fast.encoding.folds import Folds

LAMBDAS: tuple[float, ...] = tuple(10.0 ** (e / 2) for e in range(-6, 9))


@dataclass(frozen=True)
class Denoised:
    """Cross-fitted predictions of a recording.

    Attributes
    ----------
    responses : ndarray
        (images, neurons), float64: predicted responses, in standard deviations of the observed, from their mean.
    predictability : ndarray
        (neurons,), correlation of predicted and observed on held-out images.
    lambdas : ndarray
        (folds, neurons), the ridge penalty that each fold chose.
    fold : ndarray
        (images,), the fold in which each image was held out.
    """

    responses: NDArray[np.float64]
    predictability: NDArray[np.float64]
    lambdas: NDArray[np.float64]
    fold: NDArray[np.int64]


def crossfit(
    features: NDArray[np.floating],
    responses: NDArray[np.floating],
    *,
    folds: int = 5,
    seed: int = 0,
    lambdas: Sequence[float] = LAMBDAS,
    device: str | torch.device = "cpu",
) -> Denoised:
    """Return predictions of every response by a model trained without its image.

    Per fold: features are standardised on the training images, the penalty is chosen on the training images alone,
    the held-out images are predicted. (Responses are standardised once, over all images: that sets their unit, and a
    fold's fit subtracts its own mean.)

    Parameters
    ----------
    features : ndarray
        (images, p).
    responses : ndarray
        (images, neurons).
    folds : int, default 5
        Number of folds.
    seed : int, default 0
        How images are assigned to folds.
    lambdas : sequence of float
        Penalties to choose from, in units of the mean squared feature.
    device : str or torch.device
        Where to fit.

    Returns
    -------
    Denoised
        Predictions and their quality.

    Raises
    ------
    ValueError
        If the numbers of images differ, or there are too few for the folds.
    """
    n = len(features)
    if n != len(responses) or n < 2 * folds or folds < 2:
        got = f"{features.shape}, {responses.shape}, folds={folds}"
        what = "features and responses of the same images, 2 or more folds and images in each"
        raise ValueError(f"crossfit needs {what}; got {got}")
    y = standardised(responses)
    fold = np.random.default_rng(seed).permutation(n) % folds
    predicted, chosen = np.zeros_like(y), np.zeros((folds, y.shape[1]))
    for held in range(folds):
        train, test = fold != held, fold == held
        model = _fit(features[train], y[train], lambdas, device)
        chosen[held] = model.alphas / (features.shape[1] / train.sum())
        predicted[test] = model.predict(features[test])
    return Denoised(predicted, column_correlation(predicted, y), chosen, fold.astype(np.int64))


def fit_encoder(
    features: NDArray[np.floating],
    responses: NDArray[np.floating],
    *,
    lambdas: Sequence[float] = LAMBDAS,
    device: str | torch.device = "cpu",
) -> Ridge:
    """Return the model of `crossfit`, fitted on all images; on these its predictions flatter it.

    Parameters
    ----------
    features : ndarray
        (images, p).
    responses : ndarray
        (images, neurons).
    lambdas : sequence of float
        Penalties to choose from, in units of the mean squared feature.
    device : str or torch.device
        Where to fit.

    Returns
    -------
    Ridge
        Predicts, from features (images, p) of other images, responses (images, neurons) in standard deviations of
        each neuron's responses to the images given here, from their mean.

    Raises
    ------
    ValueError
        If the numbers of images differ.
    """
    return _fit(features, standardised(responses), lambdas, device)


def _fit(
    features: NDArray[np.floating],
    y: NDArray[np.float64],
    lambdas: Sequence[float],
    device: str | torch.device,
) -> Ridge:
    x = np.asarray(features, dtype=np.float64)
    # the mean squared feature in mean squared norms of a feature, in which `fit_ridge` counts
    alphas = [penalty * (x.shape[1] / len(x)) for penalty in lambdas]
    return fit_ridge(x, y, alphas=alphas, folds="loo", dtype="float64", device=device)


@dataclass(frozen=True, eq=False)
class LayerEncoder:
    """A fitted encoding model: components of the layers of a network, and ridge regression from these."""

    components: Components
    ridge: Ridge

    def predict(self, layers: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
        """Return responses to other images, in the unit of `fit_layers`: layers (images, p) to (images, neurons)."""
        return np.asarray(self.ridge.predict(self.components.transform(layers)), np.float64)


def fit_layers(
    layers: Sequence[NDArray[np.floating]],
    responses: NDArray[np.floating],
    *,
    k: float | None = None,
    alphas: Sequence[float] = ALPHAS,
    folds: Folds = "loo",
    device: str | torch.device = "cpu",
) -> LayerEncoder:
    """Fit responses from layers of a network, layers of equal weight.

    Each layer is reduced to its principal components in these images and scaled to total variance 1, whatever its
    size; ridge regression on all of them, sizes within a layer kept.

    Parameters
    ----------
    layers : sequence of ndarray
        (images, p) each.
    responses : ndarray
        (images, neurons).
    k : int or float, optional
        Components of each layer (`fit_components`); default: all.
    alphas, folds
        Penalties, and how they are chosen (`fit_ridge`); a number of folds is of shuffled images.
    device : str or torch.device
        Where to fit the ridge regression; components are found on the CPU.

    Returns
    -------
    LayerEncoder
        Predicts responses of these neurons to other images, in standard deviations of their responses to these
        images, from their mean.

    Raises
    ------
    ValueError
        If numbers of images differ, or anything that its parts refuse.
    """
    components = fit_components(layers, k)
    ridge = fit_ridge(
        components.transform(layers),
        standardised(responses),
        alphas=alphas,
        folds=folds,
        shuffle=isinstance(folds, int | np.integer),
        standardise=False,
        device=device,
    )
    return LayerEncoder(components, ridge)
