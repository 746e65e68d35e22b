"""Linear maps that stand in for a brain's in the controls of brain-mediated transfer, and orders that break its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.encoding.components import spectrum

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def dimensions(predicted: NDArray[np.floating], share: float) -> int:
    """Return how many principal components of predicted responses (n, units) hold a share of their variance.

    An encoder that was fitted to noisy responses has full rank; this is the rank without the noise. A share of 1 gives the
    numerical rank.
    """
    x = np.asarray(predicted, dtype=np.float64)
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    if share >= 1:
        return max(1, int((values > values[0] * max(x.shape) * np.finfo(np.float64).eps).sum()))
    held = np.cumsum(values**2)
    return min(int(np.searchsorted(held, share * held[-1]) + 1), len(values))


def principal_map(features: NDArray[np.floating], rank: int) -> Array:
    """Return the leading principal axes (p, rank) of features (n, p): a map of a brain's rank that holds no brain."""
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    x = np.asarray(features, dtype=np.float64)
    x = x - x.mean(axis=0)
    _, vectors, dual = spectrum(x)
    axes = x.T @ vectors[:, :rank] if dual else vectors[:, :rank]
    return np.ascontiguousarray(axes / np.linalg.norm(axes, axis=0) if dual else axes)


def random_map(weights: NDArray[np.floating], rng: np.random.Generator) -> Array:
    """Return a random map with the singular values of a brain's (p, units): Q S V', Q random orthonormal."""
    _, values, right = np.linalg.svd(np.asarray(weights, dtype=np.float64), full_matrices=False)
    axes, _ = np.linalg.qr(rng.normal(size=(len(weights), len(values))))
    return np.asarray((axes * values) @ right)


def block_order(n: int, block: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a random order of n rows that keeps blocks of neighbours together; the last block may be shorter.

    For an encoder refitted on shuffled responses: block 1 shuffles stimuli; longer blocks shuffle time and leave the
    responses' autocorrelation inside the blocks as it is.
    """
    if block < 1 or n <= block:
        raise ValueError(f"shuffling needs at least two blocks, got {n} rows in blocks of {block}")
    blocks = [np.arange(k, min(k + block, n)) for k in range(0, n, block)]
    return np.concatenate([blocks[k] for k in rng.permutation(len(blocks))]).astype(np.int64)
