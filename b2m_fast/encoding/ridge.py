"""Ridge regression on many targets over a whole path of penalties.

One decomposition serves every penalty, and neighbouring penalties share their products with the
targets (`b2m_fast.encoding.ridge_path`). Held-out predictions of folds are reduced at once to sums
over rows, which give

    R2 = 1 - sum_f |y_f - p_f|^2 / sum_f |y_f - m_f|^2
    r  = sum_f <p_f - mean p_f, y_f - mean y_f>
         / sqrt(sum_f |p_f - mean p_f|^2 sum_f |y_f - mean y_f|^2)

over the rows of the folds f, m_f being the mean of the fold's training rows: R2 is 0 for a model
that knows nothing but the mean. Sums before ratios, as a fold may have two rows only. The penalty
with the largest R2, that is the least squared error, is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from b2m_fast.encoding.folds import splits_of
from b2m_fast.encoding.ridge_path import Solver, Sums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from b2m_fast.encoding.folds import Folds

__all__ = [
    "ALPHAS",
    "Ridge",
    "finite_matrix",
    "fit_ridge",
    "penalty_grid",
    "usable_device",
    "varying_targets",
]

ALPHAS: tuple[float, ...] = tuple(10.0 ** (e / 2) for e in range(-4, 13))


@dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted model: ((features - mean) / spread) @ weights + offset.

    Attributes
    ----------
    mean, spread : ndarray
        (p,): how features are standardised; spread is infinite for a feature that never varied,
        and 1 for all others if features were not to be standardised.
    offset : ndarray
        (targets,): means of the responses.
    weights : ndarray
        (p, targets).
    alphas : ndarray
        (targets,): the chosen penalties, as given (relative).
    scores, skill : ndarray
        (targets,): r and R2 of the held-out predictions at the chosen penalty, as defined at the
        top of the module; 0 for a constant target or prediction. They flatter a little, as the
        penalty was chosen on them: with p targets of noise the best of a path is taken.
    path : ndarray
        (alphas, targets): R2 at every penalty.
    """

    mean: NDArray[np.floating]
    spread: NDArray[np.floating]
    offset: NDArray[np.floating]
    weights: NDArray[np.floating]
    alphas: NDArray[np.float64]
    scores: NDArray[np.float64]
    skill: NDArray[np.float64]
    path: NDArray[np.float64]

    def predict(self, features: NDArray[np.floating]) -> NDArray[np.floating]:
        """Responses to new rows.

        Parameters
        ----------
        features : ndarray
            (n, p).

        Returns
        -------
        ndarray
            (n, targets), of the dtype of the weights.

        Raises
        ------
        ValueError
            If the number of features differs.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(
                f"the model has {len(self.mean)} features, got an array {features.shape}"
            )
        z = (features - self.mean) / self.spread
        return np.asarray(z.astype(self.weights.dtype) @ self.weights + self.offset)


def fit_ridge(
    features: NDArray[np.floating],
    responses: NDArray[np.floating],
    *,
    alphas: Sequence[float] = ALPHAS,
    folds: Folds = 5,
    groups: ArrayLike | None = None,
    shuffle: bool = False,
    seed: int = 0,
    shared_alpha: bool = False,
    standardise: bool = True,
    dtype: Literal["float32", "float64"] = "float32",
    device: str | torch.device = "cpu",
    targets_at_a_time: int | None = None,
) -> Ridge:
    """Fit, the penalty of each target chosen by cross-validation.

    argmin_w |y - m - Z w|^2 + alpha t |w|^2,  Z the standardised features of all rows, m the mean
    response, t = trace(Z'Z) / p the mean squared norm of a feature, of those that vary (n, if they
    are standardised). The same absolute penalty alpha t is used in the folds and on all rows.

    Parameters
    ----------
    features : ndarray
        (n, p).
    responses : ndarray
        (n, targets).
    alphas : sequence of float
        Penalties, relative to t; positive.
    folds : int, "loo" or sequence of (train, test)
        Number of folds, the folds themselves (indices of rows), or exact leave-one-out, always in
        float64: one decomposition instead of one a fold, for a few thousand rows at most. It takes
        the standardisation of the features from all rows.
    groups, shuffle, seed
        How rows are dealt into a number of folds (`folds_of`); by default, contiguous blocks.
    shared_alpha : bool, default False
        One penalty for all targets, that of the largest mean R2.
    standardise : bool, default True
        Divide features by their standard deviation (in the training rows); False: only centre them,
        as suits principal components, whose sizes mean something.
    dtype : {"float32", "float64"}
        Of products with the targets, and the result. Decompositions of up to 2,048 are done in
        float64 regardless: features such as those of a CNN have singular values so far apart that
        float32 shows in X'X.
    device : str or device
        Where to compute.
    targets_at_a_time : int, optional
        Size of batches of targets; default: such that one needs about 256 MiB.

    Returns
    -------
    Ridge
        On the CPU.

    Raises
    ------
    ValueError
        If shapes do not match, there are NaNs or infinities, fewer rows than folds, groups or
        shuffling where nothing is dealt into folds, a penalty that is not positive, no feature that
        varies (in the training rows of a fold, too), no target that varies, or no such device.

    Notes
    -----
    Memory in numbers of the dtype, besides features and responses: p targets (the weights),
    4 (len(alphas) + 4) targets for sums, q n_test k + n_train k + 2 k^2 for a decomposition of size
    k = min(n_train, p) and q of at most len(alphas), and targets_at_a_time * (n + k + n_test (q +
    len(alphas))). Multiplications: targets k (n + q n) over all folds, plus about 10 k^3 a fold.

    Leave-one-out by e_i / (1 - h_ii - 1/n), e the residuals and H the hat matrix of the centred
    features (Allen 1974); blocks as in Nunez-Elizalde et al. 2019 and Dupre la Tour et al. 2022.
    """
    x = finite_matrix("features", features)
    y = finite_matrix("responses", responses)
    if len(x) != len(y):
        raise ValueError(
            f"features (n, p) and responses (n, targets) must be of the same rows, "
            f"got {x.shape} and {y.shape}"
        )
    grid = penalty_grid("alphas", alphas)
    if dtype not in {"float32", "float64"}:
        raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}")
    varying_targets(y)
    loo = isinstance(folds, str)
    splits = splits_of(len(x), folds, groups, shuffle, seed)
    kind = torch.float64 if loo or dtype == "float64" else torch.float32
    solver = Solver(x, y, standardise, kind, usable_device(device))
    absolute = grid * solver.unit
    size = targets_at_a_time or solver.batch(splits, len(grid))
    sums = Sums(len(grid), y.shape[1])
    for train, test in splits:
        solver.hold_out(train, test, absolute, size, sums, loo=loo)
    skill, r = sums.skill(), sums.r()
    if shared_alpha:
        chosen = np.full(y.shape[1], skill.mean(axis=1).argmax())
    else:
        chosen = skill.argmax(axis=0)
    columns = np.arange(y.shape[1])
    mean, spread, offset, weights = solver.refit(absolute[chosen], size, np.dtype(dtype))
    return Ridge(
        mean=mean,
        spread=spread,
        offset=offset,
        weights=weights,
        alphas=grid[chosen],
        scores=r[chosen, columns],
        skill=skill[chosen, columns],
        path=skill,
    )


def finite_matrix(name: str, values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Know that something is a finite matrix with rows and columns.

    Parameters
    ----------
    name : str
        What to call it (in the plural) in messages.
    values : array_like
        A matrix.

    Returns
    -------
    ndarray
        The same in float32 or float64.

    Raises
    ------
    ValueError
        If it is none, or contains NaN or infinity (where is said).
    """
    found = np.asarray(values)
    if found.dtype not in {np.dtype(np.float32), np.dtype(np.float64)}:
        found = found.astype(np.float64)
    if found.ndim != 2 or 0 in found.shape:
        raise ValueError(f"{name} must be a matrix, got an array of shape {found.shape}")
    bad = ~np.isfinite(found).all(axis=0)
    if bad.any():
        raise ValueError(
            f"{name} contain NaN or infinity in {int(bad.sum())} of {found.shape[1]} columns, "
            f"the first of them column {int(bad.argmax())}"
        )
    return found


def varying_targets(y: NDArray[np.floating]) -> None:
    """Know that there is something to explain.

    Parameters
    ----------
    y : ndarray
        (n, targets).

    Raises
    ------
    ValueError
        If no target varies.
    """
    if not (y != y[0]).any():
        raise ValueError(f"none of {y.shape[1]} targets varies over the {len(y)} rows")


def usable_device(device: str | torch.device) -> torch.device:
    """A device that is there.

    Parameters
    ----------
    device : str or device
        As PyTorch names it.

    Returns
    -------
    torch.device
        The same.

    Raises
    ------
    ValueError
        If it is a CUDA device and there is none, or PyTorch knows no such device.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}: {error}") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={str(device)!r}, but there is no CUDA device")
    return found


def penalty_grid(name: str, values: Sequence[float]) -> NDArray[np.float64]:
    """Penalties to choose from, checked.

    Parameters
    ----------
    name : str
        What to call them in messages.
    values : sequence of float
        The penalties.

    Returns
    -------
    ndarray
        The same, float64.

    Raises
    ------
    ValueError
        If there are none, or they are not positive and finite.
    """
    try:
        grid = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        grid = np.empty(0)
    if grid.ndim != 1 or not grid.size or not (np.isfinite(grid) & (grid > 0)).all():
        shown = values if np.ndim(values) == 0 else list(values)
        raise ValueError(f"{name} must be positive numbers, got {shown!r}")
    return grid
