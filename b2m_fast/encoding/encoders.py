"""The predictive model that denoises responses.

Li et al. 2019 train a convolutional network per scan and use its predictions instead of single
trials; as far as is described, on the very images whose predictions become the target. Here the
predictions are *cross-fitted*: the images are dealt into folds and each fold is predicted by a
model that never saw it, so no image's own noise returns in its denoised response. This betters the
paper. The model is ours too: ridge regression on fixed image features, which is what recordings
of about a thousand images allow (`b2m_fast.encoding.ridge`), its penalty by exact leave-one-out:
one decomposition a fit, and no second choice of folds. `fit_layers` is the same for the layers of a
network, each reduced to principal components; `b2m_fast.encoding.core_readout` learns its features.
`b2m_fast.encoding.quality` says how well one of them predicts a recording.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.encoding.components import Components, fit_components
from b2m_fast.encoding.reliability import predictability
from b2m_fast.encoding.ridge import ALPHAS, Ridge, fit_ridge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from b2m_fast.encoding.folds import Folds

__all__ = [
    "LAMBDAS",
    "Denoised",
    "Encoder",
    "LayerEncoder",
    "crossfit",
    "fit_encoder",
    "fit_layers",
]

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
    y = _standardised(responses)
    fold = np.random.default_rng(seed).permutation(n) % folds
    predicted = np.zeros_like(y)
    chosen = np.zeros((folds, y.shape[1]))
    for held in range(folds):
        train, test = fold != held, fold == held
        model, chosen[held] = _fit(features[train], y[train], lambdas)
        predicted[test] = model.predict(features[test])
    return Denoised(predicted.T, predictability(predicted.T, y.T), chosen, fold.astype(np.int64))


def _standardised(responses: NDArray[np.floating]) -> NDArray[np.float64]:
    """Responses (neurons, images) in standard deviations, (images, neurons)."""
    y = np.asarray(responses, dtype=np.float64).T
    scale = y.std(axis=0)
    return np.asarray(np.divide(y - y.mean(axis=0), scale, out=np.zeros_like(y), where=scale > 0))


def _fit(
    features: NDArray[np.floating], y: NDArray[np.float64], lambdas: Sequence[float]
) -> tuple[Ridge, NDArray[np.float64]]:
    """The model, and the penalty of each neuron in units of the mean squared feature."""
    x = np.asarray(features, dtype=np.float64)
    unit = x.shape[1] / len(x)  # `fit_ridge` counts in mean squared norms of a feature
    alphas = [penalty * unit for penalty in lambdas]
    model = fit_ridge(x, y, alphas=alphas, folds="loo", dtype="float64")
    return model, model.alphas / unit


@dataclass(frozen=True, eq=False)
class Encoder:
    """A fitted encoding model, for images nobody recorded responses to.

    Attributes
    ----------
    ridge : Ridge
        The model, of responses (images, neurons).
    """

    ridge: Ridge

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
        return np.asarray(self.ridge.predict(features).T, dtype=np.float64)


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
    return Encoder(_fit(features, _standardised(responses), lambdas)[0])


@dataclass(frozen=True, eq=False)
class LayerEncoder:
    """A fitted encoding model from the layers of a network.

    Attributes
    ----------
    components : Components
        How each layer is reduced.
    ridge : Ridge
        From components to responses (images, neurons), in standard deviations.
    """

    components: Components
    ridge: Ridge

    def predict(self, layers: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
        """Responses to new images.

        Parameters
        ----------
        layers : sequence of ndarray
            (images, p) each, in the order they were fitted.

        Returns
        -------
        ndarray
            (neurons, images), in standard deviations of each neuron's responses to the images the
            model was fitted on.
        """
        return np.asarray(self.ridge.predict(self.components.transform(layers)).T, np.float64)


def fit_layers(
    layers: Sequence[NDArray[np.floating]],
    responses: NDArray[np.floating],
    *,
    k: float | None = None,
    alphas: Sequence[float] = ALPHAS,
    folds: Folds = "loo",
) -> LayerEncoder:
    """Fit responses from layers of a network, layers of equal weight.

    Each layer is reduced to its principal components in these images and scaled to total variance
    1, whatever its size; ridge regression on all of them, sizes within a layer kept.

    Parameters
    ----------
    layers : sequence of ndarray
        (images, p) each.
    responses : ndarray
        (neurons, images).
    k : int or float, optional
        Components of each layer (`b2m_fast.encoding.components.fit_components`); default: all.
    alphas, folds
        Penalties, and how they are chosen (`b2m_fast.encoding.ridge.fit_ridge`); a number of folds is
        of shuffled images.

    Returns
    -------
    LayerEncoder
        Predicts responses of these neurons to other images.

    Raises
    ------
    ValueError
        If numbers of images differ, or anything that its parts refuse.
    """
    if any(len(layer) != responses.shape[1] for layer in layers):
        raise ValueError(
            f"layers (images, p) and responses (neurons, images) must be of the same images, got "
            f"{[layer.shape for layer in layers]} and {responses.shape}"
        )
    found = fit_components(layers, k)
    model = fit_ridge(
        found.transform(layers),
        _standardised(responses),
        alphas=alphas,
        folds=folds,
        shuffle=isinstance(folds, int | np.integer),
        standardise=False,
    )
    return LayerEncoder(found, model)
