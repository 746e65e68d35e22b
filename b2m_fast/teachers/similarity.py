"""From responses to the similarity of all pairs of images: what the student is asked to match.

Li et al. 2019: e_i = (r_i - mean_j r_j) / |r_i - mean_j r_j|, S_ij = e_i . e_j, averaged over
recordings of the same images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Target", "agreement", "average", "cosine_similarity", "upper_triangle"]


@dataclass(frozen=True)
class Target:
    """What a student is asked to match on one set of images.

    Attributes
    ----------
    name : str
        The set's name.
    images : ndarray
        (n, size, size), float32 in [0, 1]: what the student sees.
    similarity : ndarray
        (n, n), float32 in [-1, 1].
    """

    name: str
    images: NDArray[np.float32]
    similarity: NDArray[np.float32]


def cosine_similarity(
    patterns: NDArray[np.floating], *, center: bool = True
) -> NDArray[np.float32]:
    """Cosine of all pairs of rows, after subtracting the mean row.

    Parameters
    ----------
    patterns : ndarray
        (n, d): one row per image.
    center : bool, default True
        Subtract the mean over images first.

    Returns
    -------
    ndarray
        (n, n), float32, symmetric, 1 on the diagonal; a row of norm 0 has similarity 0 with all.

    Examples
    --------
    >>> cosine_similarity(np.array([[1.0, 0.0], [-1.0, 0.0]]))
    array([[ 1., -1.],
           [-1.,  1.]], dtype=float32)
    """
    x = np.asarray(patterns, dtype=np.float64)
    if center:
        x = x - x.mean(axis=0)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
    similarity = np.clip(x @ x.T, -1, 1)
    similarity = (similarity + similarity.T) / 2
    np.fill_diagonal(similarity, np.where(norm[:, 0] > 0, 1.0, 0.0))
    result: NDArray[np.float32] = similarity.astype(np.float32)
    return result


def average(similarities: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Mean over recordings of the same images.

    Parameters
    ----------
    similarities : sequence of ndarray
        Matrices (n, n) of the same images in the same order.

    Returns
    -------
    ndarray
        (n, n), float32.

    Raises
    ------
    ValueError
        If they do not have the same shape.
    """
    shapes = {s.shape for s in similarities}
    if len(shapes) != 1:
        raise ValueError(f"similarities to average must have one shape, got {sorted(shapes)}")
    return np.asarray(np.mean(similarities, axis=0, dtype=np.float64), dtype=np.float32)


def upper_triangle(similarity: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pairs i < j of a matrix, row by row.

    Parameters
    ----------
    similarity : ndarray
        (n, n).

    Returns
    -------
    ndarray
        (n (n - 1) / 2,).
    """
    return similarity[np.triu_indices(len(similarity), k=1)]


def agreement(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Pearson correlation of two similarities over all pairs of images.

    Parameters
    ----------
    a, b : ndarray
        (n, n).

    Returns
    -------
    float
        In [-1, 1]; NaN if one of them is constant.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(upper_triangle(a), upper_triangle(b))[0, 1])
