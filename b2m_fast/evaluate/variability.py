"""Individual variability: whether brains that respond differently also lead to different estimates.

Two matrices of distances between the same brains, one of the estimates made with each brain, one of the brains' own
responses (or their owners' ratings), are compared by a Mantel test, which permutes brains: pairs of brains are not
independent, brains are. The test is our own: the published p follow its order of random permutations, which
scipy.stats.permutation_test would change.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy
import torch
from numpy.typing import NDArray

from b2m_fast.ops import pairwise_similarity

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = NDArray[np.float64]


def correlation_distance(estimates: NDArray[np.floating]) -> Array:
    """Return 1 - r between the estimates of each pair of brains, (brains, ...) to (brains, brains).

    What follows the first dimension is one long vector; the distance to a brain whose estimates never vary is 1.

    >>> correlation_distance(np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [3.0, 2.0, 1.0]]))[0].round(9)
    array([0., 0., 2.])
    """
    x = np.ascontiguousarray(estimates, dtype=np.float64).reshape(len(estimates), -1)
    if x.shape[1] < 2 or not np.isfinite(x).all():
        raise ValueError(f"a brain needs two or more finite values, got {np.shape(estimates)}")
    distance = 1 - pairwise_similarity(torch.from_numpy(x), metric="correlation").numpy()
    np.fill_diagonal(distance, 0.0)
    return np.asarray((distance + distance.T) / 2)


def representational_distance(responses: Sequence[NDArray[np.floating]]) -> Array:
    """Return 1 - r between the representational dissimilarities of each pair of brains, (brains, brains).

    `responses` holds (stimuli, units) of each brain, to the same stimuli in the same order. A brain's dissimilarities
    are 1 - r of its responses to each pair of stimuli, units centred over stimuli.
    """
    counts = {len(r) for r in responses}
    if len(counts) != 1 or min(counts) < 3:
        raise ValueError(f"brains must have seen the same 3 or more stimuli, got {sorted(counts)}")
    pairs = []
    for r in responses:
        centred = np.ascontiguousarray(r - np.mean(r, axis=0, dtype=np.float64))
        x = torch.from_numpy(centred)
        pairs.append(pairwise_similarity(x, metric="correlation", condensed=True))
    return correlation_distance(torch.stack(pairs).numpy())


@dataclass(frozen=True)
class MantelTest:
    """Result of a Mantel test: r over pairs of brains (NaN if a distance is constant), and its one-sided p.

    p is the share of permutations, the identity among them, with a correlation at least as large; `permutations` says
    how many were looked at, `exact` whether these are all there are.
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
    """Return the Mantel test (1967) of two symmetric distance matrices of the same brains, at least 3.

    One-sided: larger distances go with larger distances. All permutations of rows and columns are looked at where
    there are at most `permutations`; p can then not be below 1 / (their number): 1/24 for 4 brains.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    square = x.ndim == 2 and x.shape == y.shape and x.shape[0] == x.shape[1] >= 3
    if not square or not all(np.isfinite(m).all() and np.allclose(m, m.T) for m in (x, y)):
        what = "two symmetric, finite matrices of the same brains, at least 3"
        raise ValueError(f"a Mantel test needs {what}, got {x.shape} and {y.shape}")
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    n = len(x)
    i, j = np.triu_indices(n, 1)
    fixed, moved = x[i, j], y[i, j]
    if method == "spearman":
        fixed, moved = scipy.stats.rankdata(fixed), scipy.stats.rankdata(moved)
    fixed, moved = fixed - fixed.mean(), moved - moved.mean()
    norm = float(np.sqrt((fixed**2).sum() * (moved**2).sum()))
    if norm <= 1e-14 * max(float(np.abs(x).max() * np.abs(y).max()), 1.0):
        return MantelTest(math.nan, 1.0, 0, exact=False)
    table = np.zeros((n, n))
    table[i, j] = table[j, i] = moved
    exact = math.factorial(n) <= permutations
    observed = float(fixed @ moved)
    orders = _orders(n, permutations, seed, exact=exact)
    count, total = 0, len(orders)
    for block in np.array_split(orders, math.ceil(total * len(i) / 1e6)):
        found = table[block[:, i], block[:, j]] @ fixed
        count += int((found >= observed - 1e-9 * norm).sum())
    if not exact:  # the identity was not drawn: it is one of the permutations
        count, total = count + 1, total + 1
    return MantelTest(observed / norm, count / total, total, exact)


@lru_cache(maxsize=4)
def _orders(n: int, permutations: int, seed: int, *, exact: bool) -> NDArray[np.int64]:
    """All permutations of n, or so many random ones, one a row."""
    if exact:
        return np.array(list(itertools.permutations(range(n))))
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n) for _ in range(permutations)])
