"""Brain-mediated transfer as algebra: ridge readouts with their whole path, and what a brain adds.

A brain is a linear map W (p, units) from features F (n, p) to predicted responses F W. Ridge from
these to labels Y is Tikhonov regression on the features themselves, with prior covariance W W'::

    min_V |Y - F W V|^2 + penalty |V|^2
      =  min_b |Y - F b|^2 + penalty b' (W W')^+ b   over b in range(W),      b = W V

So nothing is created: a prior is added. W W' = I is standard transfer; an orthogonal map of the
units changes nothing. The identity is derived in docs/mediated.md and held by tests.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from b2m_fast.encoding.components import spectrum
from b2m_fast.encoding.ridge import fit_ridge, penalty_grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from b2m_fast.encoding.folds import Folds
    from b2m_fast.encoding.ridge import Ridge

__all__ = [
    "NEEDS_SCIKIT_LEARN",
    "PENALTIES",
    "block_order",
    "codes",
    "decided",
    "dimensions",
    "fit_readout",
    "principal_map",
    "random_map",
    "standardised",
    "tikhonov",
]

Array = NDArray[np.float64]

NEEDS_SCIKIT_LEARN = (
    "the estimators of brain-mediated transfer need scikit-learn 1.6 or newer: "
    "pip install 'b2m-fast[transfer]'"
)
PENALTIES: tuple[float, ...] = tuple(10.0 ** (e / 2) for e in range(-12, 9))


def fit_readout(
    z: NDArray[np.floating],
    y: NDArray[np.floating],
    penalties: Sequence[float] = PENALTIES,
    *,
    shared: bool = False,
    folds: Folds = "loo",
) -> Ridge:
    """Ridge from features or predicted responses to labels, its penalty chosen inside the rows given.

    `b2m_fast.encoding.ridge.fit_ridge` without standardisation, in float64, with penalties relative
    to t = trace(Z Z') / n, Z the centred regressors: the mean squared norm of a row. So a penalty
    means the same in every arm, whatever its number of columns; the unit depends on Z Z' alone, as
    everything else does.

    Exact leave-one-out by default: ten labelled samples can hardly be dealt into folds. Rows that
    depend on their neighbours (frames of a film) need blocks: `folds`.

    Parameters
    ----------
    z : ndarray
        (n, p), regressors.
    y : ndarray
        (n, targets).
    penalties : sequence of float
        Relative penalties to choose from, above 0.
    shared : bool, default False
        One penalty for all targets rather than one for each.
    folds : int, "loo" or sequence of (train, test)
        How the penalty is chosen.

    Returns
    -------
    Ridge
        The fitted model, float64; its ``alphas`` are the chosen penalties, as given.

    Raises
    ------
    ValueError
        If penalties are not positive; else as `fit_ridge`.
    """
    grid = penalty_grid("penalties", penalties).tolist()
    n, varying = len(z), int((z != z[:1]).any(axis=0).sum())
    # `fit_ridge` counts in mean squared norms of a column that varies
    alphas = [penalty * max(varying, 1) / n for penalty in grid]
    model = fit_ridge(
        z,
        y,
        alphas=alphas,
        folds=folds,
        shared_alpha=shared,
        standardise=False,
        dtype="float64",
    )
    given = dict(zip(alphas, grid, strict=True))
    return replace(model, alphas=np.array([given[alpha] for alpha in model.alphas]))


def codes(index: NDArray[np.int64], classes: int) -> Array:
    """Classes as +1 and -1.

    Parameters
    ----------
    index : ndarray
        (n,), numbers of classes.
    classes : int
        How many there are.

    Returns
    -------
    ndarray
        (n, classes), or (n, 1) for two classes: +1 for the second.
    """
    if classes == 2:
        return np.where(index[:, None] == 1, 1.0, -1.0)
    return np.where(index[:, None] == np.arange(classes), 1.0, -1.0)


def decided(values: NDArray[np.floating]) -> NDArray[np.int64]:
    """Classes from estimates of their codes: the other way round.

    Parameters
    ----------
    values : ndarray
        (n, classes), or (n, 1) for two classes.

    Returns
    -------
    ndarray
        (n,), numbers of classes: the largest value; of two classes the second where it is above 0.
    """
    if values.shape[1] == 1:
        return np.asarray(values[:, 0] > 0, dtype=np.int64)
    return np.asarray(values.argmax(axis=1), dtype=np.int64)


def standardised(values: NDArray[np.floating], like: NDArray[np.floating]) -> Array:
    """Columns in standard deviations of those of another array, from its means.

    Parameters
    ----------
    values : ndarray
        (..., columns).
    like : ndarray
        (n, columns): where means and standard deviations are taken, of training rows only.

    Returns
    -------
    ndarray
        As `values`, float64; 0 in a column that never varies there.
    """
    reference = np.asarray(like, dtype=np.float64)
    found = np.asarray(values, dtype=np.float64) - reference.mean(axis=0)
    varies = (reference != reference[:1]).any(axis=0)
    found = np.divide(found, reference.std(axis=0), out=np.zeros_like(found), where=varies)
    return np.asarray(found)


def tikhonov(
    features: NDArray[np.floating],
    y: NDArray[np.floating],
    prior: NDArray[np.floating],
    penalty: float,
) -> Array:
    """The same by the other road: weights on the features with a prior covariance, in kernel form.

    b = C F' (F C F' + penalty I)^-1 Y, F and Y centred. With C = W W' these are W V of the readout V
    from F W at the same (absolute) penalty.

    Parameters
    ----------
    features : ndarray
        (n, p).
    y : ndarray
        (n, targets).
    prior : ndarray
        (p, p), the covariance C; may be singular.
    penalty : float
        Absolute, above 0.

    Returns
    -------
    ndarray
        (p, targets), weights on centred features.
    """
    f, t = np.asarray(features, dtype=np.float64), np.asarray(y, dtype=np.float64)
    f, t = f - f.mean(axis=0), t - t.mean(axis=0)
    spread = np.asarray(prior, dtype=np.float64) @ f.T
    return np.asarray(spread @ np.linalg.solve(f @ spread + penalty * np.eye(len(f)), t))


def dimensions(predicted: NDArray[np.floating], share: float) -> int:
    """Rank of what a brain predicts, noise apart: principal components that hold a share of its variance.

    An encoder fitted to noisy responses has full rank; what it squeezes features to is less.

    Parameters
    ----------
    predicted : ndarray
        (n, units).
    share : float
        Above 0; 1 gives the numerical rank.

    Returns
    -------
    int
        At least 1.
    """
    x = np.asarray(predicted, dtype=np.float64)
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    if share >= 1:
        return max(1, int((values > values[0] * max(x.shape) * np.finfo(np.float64).eps).sum()))
    held = np.cumsum(values**2)
    return min(int(np.searchsorted(held, share * held[-1]) + 1), len(values))


def principal_map(features: NDArray[np.floating], rank: int) -> Array:
    """Leading principal axes: the control that has a brain's rank and knows of no brain.

    Parameters
    ----------
    features : ndarray
        (n, p).
    rank : int
        How many; at most as many are there as dimensions in which features vary.

    Returns
    -------
    ndarray
        (p, rank), orthonormal columns, largest variance first.

    Raises
    ------
    ValueError
        If rank is below 1.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    x = np.asarray(features, dtype=np.float64)
    x = x - x.mean(axis=0)
    _, vectors, dual = spectrum(x)
    axes = x.T @ vectors[:, :rank] if dual else vectors[:, :rank]
    return np.ascontiguousarray(axes / np.linalg.norm(axes, axis=0) if dual else axes)


def random_map(weights: NDArray[np.floating], rng: np.random.Generator) -> Array:
    """A random map with the singular values of a brain's: Q S V', Q random orthonormal.

    Parameters
    ----------
    weights : ndarray
        (p, units), the brain's map.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    ndarray
        (p, units).
    """
    _, values, right = np.linalg.svd(np.asarray(weights, dtype=np.float64), full_matrices=False)
    axes, _ = np.linalg.qr(rng.normal(size=(len(weights), len(values))))
    return np.asarray((axes * values) @ right)


def block_order(n: int, block: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random order of rows that keeps blocks of neighbours together.

    For an encoder refitted on shuffled responses: block 1 shuffles stimuli; longer blocks shuffle
    time and leave the responses' autocorrelation inside the blocks as it is.

    Parameters
    ----------
    n : int
        Rows.
    block : int
        Rows of a block; the last one may be shorter.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    ndarray
        (n,), a permutation.

    Raises
    ------
    ValueError
        If there are not at least two blocks.
    """
    if block < 1 or n <= block:
        raise ValueError(f"shuffling needs at least two blocks, got {n} rows in blocks of {block}")
    blocks = [np.arange(k, min(k + block, n)) for k in range(0, n, block)]
    return np.concatenate([blocks[k] for k in rng.permutation(len(blocks))]).astype(np.int64)
