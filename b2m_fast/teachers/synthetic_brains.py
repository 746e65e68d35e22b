"""SYNTHETIC brains that see the same images and differ in a planted way, with their owners' ratings.

Nothing here was recorded. Channels c(x) are linear in features of an image; brain s holds them with
gains g_s, mixed into units that answer with Poisson counts. Its owner rates images by the channels of
the labels, with the same gains. Brains lie on a ring: near ones have similar gains. So it is known
what is true: whether the labels lie in what the brains represent, and which brains are alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from b2m_fast.encoding.components import fit_components
from b2m_fast.encoding.ridge import fit_ridge

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SyntheticBrain", "ratings", "synthetic_brains"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SyntheticBrain:
    """One brain and its owner.

    Attributes
    ----------
    mean : ndarray
        (p,), mean features.
    channels : ndarray
        (p, k), what its units respond to: channels of variance 1 over the stimuli.
    label_channels : ndarray
        (p, k), what its owner rates by: the same, or channels uncorrelated with all of them.
    gains : ndarray
        (k,).
    mixing : ndarray
        (k, units).
    peak : ndarray
        (units,), spikes per image at drive 0.
    """

    mean: Array
    channels: Array
    label_channels: Array
    gains: Array
    mixing: Array
    peak: Array

    def rates(self, features: NDArray[np.floating]) -> Array:
        """Expected counts: peak exp(drive / 2), drive = mixed channels, at most 3.

        Parameters
        ----------
        features : ndarray
            (n, p).

        Returns
        -------
        ndarray
            (n, units).
        """
        drive = ((features - self.mean) @ self.channels * self.gains) @ self.mixing
        return np.asarray(self.peak * np.exp(drive.clip(-3, 3) / 2))

    def record(self, features: NDArray[np.floating], rng: np.random.Generator) -> Array:
        """Poisson counts to one presentation of each image.

        Parameters
        ----------
        features : ndarray
            (n, p).
        rng : numpy.random.Generator
            Source of chance.

        Returns
        -------
        ndarray
            (n, units).
        """
        return rng.poisson(self.rates(features)).astype(np.float64)


def synthetic_brains(
    features: NDArray[np.floating],
    concepts: NDArray[np.floating],
    *,
    observers: int = 8,
    units: int = 60,
    planted: Literal["inside", "outside"] = "inside",
    spread: float = 1.0,
    seed: int = 0,
) -> list[SyntheticBrain]:
    """Brains that know some concepts, each its own way.

    The label channels are the ridge estimates of the concepts from features. ``planted="inside"``:
    they are what the units respond to. ``"outside"``: the units respond to the leading principal
    components of the features less what the label channels explain, so that the brains see
    everything but what the labels are about. Gains are exp(spread * sqrt(2) cos(2 pi (s / S - c / k))).

    Parameters
    ----------
    features : ndarray
        (n, p), of images the brains have learned from.
    concepts : ndarray
        (n, k), what is known of these images.
    observers, units : int
        Brains, and units of each.
    planted : {"inside", "outside"}
        Where the labels lie.
    spread : float, default 1.0
        Standard deviation of the logarithm of the gains; 0: all brains alike but for their units.
    seed : int
        Source of chance.

    Returns
    -------
    list of SyntheticBrain
        One an observer.
    """
    rng = np.random.default_rng([seed, 20])
    x = np.asarray(features, dtype=np.float64)
    mean = x.mean(axis=0)
    x = x - mean
    known = fit_ridge(x, concepts, folds="loo", standardise=False, dtype="float64").weights
    labels = _scaled(x, np.asarray(known, dtype=np.float64))
    k = labels.shape[1]
    channels = labels
    if planted == "outside":
        score = x @ labels
        explained = np.linalg.lstsq(score, x, rcond=None)[0]
        axes = np.asarray(fit_components([x - score @ explained], k).basis[0], dtype=np.float64)
        channels = _scaled(x, axes - labels @ (explained @ axes))
    found = []
    for s in range(observers):
        place = 2 * np.pi * (s / observers - np.arange(channels.shape[1]) / k)
        gains = np.exp(spread * 2**0.5 * np.cos(place))
        mixing = rng.normal(size=(len(gains), units))
        mixing /= np.linalg.norm(gains[:, None] * mixing, axis=0)
        peak = np.exp(rng.normal(np.log(3.0), 0.4, units))
        found.append(SyntheticBrain(mean, channels, labels, gains, mixing, peak))
    return found


def _scaled(x: Array, directions: Array) -> Array:
    """Directions along which the rows of x have variance 1."""
    return np.asarray(directions / (x @ directions).std(axis=0))


def ratings(
    brains: Sequence[SyntheticBrain],
    features: NDArray[np.floating],
    *,
    scales: int = 6,
    noise: float = 0.5,
    seed: int = 0,
) -> Array:
    """What the owners of brains say of images, on several scales.

    A scale weighs the label channels, each in the observer's own gain, with weights that are the same
    for all; standardised for each observer, plus noise.

    Parameters
    ----------
    brains : sequence of SyntheticBrain
        The observers.
    features : ndarray
        (n, p).
    scales : int, default 6
        Scales.
    noise : float, default 0.5
        Of a rating, in its standard deviations.
    seed : int
        Source of chance.

    Returns
    -------
    ndarray
        (observers, n, scales).
    """
    rng = np.random.default_rng([seed, 21])
    weights = rng.normal(size=(brains[0].label_channels.shape[1], scales))
    out = []
    for brain in brains:
        channels = (features - brain.mean) @ brain.label_channels
        value = (channels * brain.gains[: channels.shape[1]]) @ weights
        value = (value - value.mean(axis=0)) / value.std(axis=0)
        out.append(value + noise * rng.normal(size=value.shape))
    return np.stack(out)
