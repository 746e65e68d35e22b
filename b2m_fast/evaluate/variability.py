"""Individual variability: whether brains that answer differently also lead to other estimates.

Two distances between the same brains, one of what was estimated by way of each brain, one of what
the brains (or their owners) did, are compared by a Mantel test: pairs of brains are not independent,
brains are, so brains are permuted.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from b2m_fast.ops import pairwise_similarity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["MantelTest", "correlation_distance", "mantel", "representational_distance"]

Array = NDArray[np.float64]


def correlation_distance(estimates: NDArray[np.floating]) -> Array:
    """Distance 1 - r of what brains lead to.

    Parameters
    ----------
    estimates : ndarray
        (brains, ...): estimates of each brain, or ratings of each person; what follows the first
        dimension is taken as one long vector. NaN is refused.

    Returns
    -------
    ndarray
        (brains, brains), symmetric, 0 on the diagonal; 1 to a brain whose estimates never vary.

    Raises
    ------
    ValueError
        If there is a NaN, or fewer than two values each.

    Examples
    --------
    >>> correlation_distance(np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [3.0, 2.0, 1.0]]))[0].round(9)
    array([0., 0., 2.])
    """
    x = np.asarray(estimates, dtype=np.float64).reshape(len(estimates), -1)
    if x.shape[1] < 2 or not np.isfinite(x).all():
        raise ValueError(
            f"distances need at least two finite values a brain, got an array {np.shape(estimates)}"
        )
    distance = 1 - np.asarray(pairwise_similarity(_tensor(x), metric="correlation"))
    np.fill_diagonal(distance, 0.0)
    return np.asarray((distance + distance.T) / 2)


def representational_distance(responses: Sequence[NDArray[np.floating]]) -> Array:
    """Distance 1 - r of how brains tell the same stimuli apart, whatever their units.

    Each brain's pairs of stimuli get the correlation distance of its responses, units centred over
    stimuli; between brains, these lists are correlated (Pearson).

    Parameters
    ----------
    responses : sequence of ndarray
        (stimuli, units) of each brain, to the same stimuli in the same order, at least 3.

    Returns
    -------
    ndarray
        (brains, brains), symmetric, 0 on the diagonal.

    Raises
    ------
    ValueError
        If numbers of stimuli differ or are below 3, or a value is not finite.
    """
    counts = {len(r) for r in responses}
    if len(counts) != 1 or min(counts) < 3:
        raise ValueError(
            f"brains must have answered the same stimuli, at least 3, got {sorted(counts)}"
        )
    lists = []
    for r in responses:
        x = np.asarray(r, dtype=np.float64)
        x = x - x.mean(axis=0)
        found = pairwise_similarity(_tensor(x), metric="correlation", condensed=True)
        lists.append(np.asarray(found))
    return correlation_distance(np.stack(lists))


def _tensor(x: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


@dataclass(frozen=True)
class MantelTest:
    """What a Mantel test found.

    Attributes
    ----------
    r : float
        Correlation of the two distances over pairs of brains; NaN if one of them is constant.
    p : float
        Share of permutations with a correlation at least as large (one-sided), the identity being
        one of them.
    permutations : int
        How many were looked at.
    exact : bool
        Whether these are all there are.
    """

    r: float
    p: float
    permutations: int
    exact: bool


def mantel(
    a: NDArray[np.floating],
    b: NDArray[np.floating],
    *,
    method: Literal["spearman", "pearson"] = "spearman",
    permutations: int = 10_000,
    seed: int = 0,
) -> MantelTest:
    """Mantel test: whether two distance matrices of the same brains are related.

    r over the pairs i < j; under the null, the brains of one matrix carry no names, so its rows and
    columns are permuted together (Mantel 1967). All permutations are looked at where there are at
    most `permutations` of them; p can then not be below 1 / (number of them): 1/24 for 4 brains.

    Parameters
    ----------
    a, b : ndarray
        (brains, brains), symmetric, at least 3 brains; diagonals are not read.
    method : {"spearman", "pearson"}
        Correlation; ranks of tied distances are averaged.
    permutations : int, default 10,000
        Random ones where there are more than that.
    seed : int
        Source of chance.

    Returns
    -------
    MantelTest
        One-sided: larger distances go with larger distances.

    Raises
    ------
    ValueError
        If the matrices are not symmetric, finite, of the same shape and at least 3 brains.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    square = x.ndim == 2 and x.shape == y.shape and x.shape[0] == x.shape[1] >= 3
    if not square or not all(np.isfinite(m).all() and np.allclose(m, m.T) for m in (x, y)):
        raise ValueError(
            "a Mantel test needs two symmetric, finite matrices of the same brains, at least 3, "
            f"got {x.shape} and {y.shape}"
        )
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    n = len(x)
    i, j = np.triu_indices(n, 1)
    fixed, moved = (_ranks(m[i, j]) if method == "spearman" else m[i, j] for m in (x, y))
    fixed, moved = fixed - fixed.mean(), moved - moved.mean()
    norm = float(np.sqrt((fixed**2).sum() * (moved**2).sum()))
    scale = max(float(np.abs(x).max() * np.abs(y).max()), 1.0)
    if norm <= 1e-14 * scale:
        return MantelTest(math.nan, 1.0, 0, exact=False)
    table = np.zeros((n, n))
    table[i, j] = table[j, i] = moved
    exact = math.factorial(n) <= permutations
    observed = float(fixed @ moved)
    orders = _orders(n, permutations, seed, exact=exact)
    total, count = len(orders), 0
    for block in np.array_split(orders, math.ceil(total * len(i) / 1e6)):
        found = table[block[:, i], block[:, j]] @ fixed
        count += int((found >= observed - 1e-9 * norm).sum())
    if not exact:  # the identity was not drawn: it is one of the permutations
        count, total = count + 1, total + 1
    return MantelTest(observed / norm, count / total, total, exact)


@lru_cache(maxsize=4)
def _orders(n: int, permutations: int, seed: int, *, exact: bool) -> NDArray[np.int64]:
    """All permutations, or so many random ones, one a row."""
    if exact:
        return np.array(list(itertools.permutations(range(n))))
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n) for _ in range(permutations)])


def _ranks(values: Array) -> Array:
    """Ranks from 1, ties averaged."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2)[place], dtype=np.float64)
