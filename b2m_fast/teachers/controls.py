"""Similarity targets that hold no brain, or a broken one.

A claim that a brain helped is a claim against these: much of the gain has been reported for
shuffled targets (Li et al. 2019) and for thresholded pixel similarity (Attias et al. 2024).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.encoding.features import cnn_features
from b2m_fast.teachers.similarity import cosine_similarity

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["cnn_similarity", "pixel_similarity", "shuffled", "threshold"]


def shuffled(similarity: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """The same matrix with its images dealt out anew: S[p][:, p] for a random order p.

    Keeps every value, the spectrum and the whole geometry; only which image is which is lost. How
    Li et al. shuffled is not known to us.

    Parameters
    ----------
    similarity : ndarray
        (n, n).
    seed : int
        Order.

    Returns
    -------
    ndarray
        (n, n).
    """
    order = np.random.default_rng(seed).permutation(len(similarity))
    return similarity[np.ix_(order, order)]


def pixel_similarity(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine of all pairs of images less the mean image.

    Parameters
    ----------
    images : ndarray
        (n, h, w).

    Returns
    -------
    ndarray
        (n, n), float32.
    """
    return cosine_similarity(images.reshape(len(images), -1))


def threshold(similarity: NDArray[np.float32], level: float = 0.8) -> NDArray[np.float32]:
    """S^Th of Attias et al. 2024: 1 above the level, -1 below minus the level, else 0.

    Parameters
    ----------
    similarity : ndarray
        (n, n).
    level : float, default 0.8
        Level; 0.8 is theirs.

    Returns
    -------
    ndarray
        (n, n), values in {-1, 0, 1}.
    """
    return np.sign(similarity) * (np.abs(similarity) > level).astype(np.float32)


def cnn_similarity(images: NDArray[np.uint8], block: int = 3) -> NDArray[np.float32]:
    """Cosine of all pairs of images in the features of a trained CNN, centred.

    Parameters
    ----------
    images : ndarray
        (n, H, W, C), uint8.
    block : int, default 3
        Block of EfficientNet-Lite0; see `b2m_fast.encoding.features.cnn_features`.

    Returns
    -------
    ndarray
        (n, n), float32.

    Raises
    ------
    ImportError
        If the network's packages are missing.
    """
    return cosine_similarity(cnn_features(images, block))
