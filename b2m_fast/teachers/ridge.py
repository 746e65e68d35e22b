"""Ridge regression on many targets over a whole path of penalties.

With centred training features X = U S V' the predictions of every penalty a for rows X* are

    X* V diag(f_a(s) / s) U'Y,      f_a(s) = s^2 / (s^2 + a),

so one decomposition serves them all. Of X'X and XX' the smaller is decomposed. The functions f_a of
neighbouring penalties are nearly dependent: their values at the singular values are written as
F = B C with q <= len(alphas) columns of B, to the precision of the arithmetic, so that q products with the
targets, not len(alphas), give all predictions. Targets are taken a batch at a time.

Held-out predictions of folds are reduced at once to sums over rows, which give

    R2 = 1 - sum_f |y_f - p_f|^2 / sum_f |y_f - m_f|^2
    r  = sum_f <p_f - mean p_f, y_f - mean y_f> / sqrt(sum_f |p_f - mean p_f|^2 sum_f |y_f - mean y_f|^2)

over the rows of the folds f, m_f being the mean of the fold's training rows: R2 is 0 for a model that
knows nothing but the mean. Sums before ratios, as a fold may have two rows only. The penalty with the
largest R2, that is the least squared error, is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
    Folds = int | Literal["loo"] | Sequence[Fold]

__all__ = ["ALPHAS", "Ridge", "finite_matrix", "fit_ridge", "folds_of"]

ALPHAS: tuple[float, ...] = tuple(10.0 ** (e / 2) for e in range(-4, 13))
EXACT_UP_TO = 2048  # a decomposition of this size in float64 takes seconds
BATCH_BYTES = 256 << 20
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}  # of the path's compression


def folds_of(
    n: int,
    folds: int,
    *,
    groups: ArrayLike | None = None,
    shuffle: bool = False,
    seed: int = 0,
) -> list[Fold]:
    """Deal rows into folds.

    Parameters
    ----------
    n : int
        Number of rows.
    folds : int
        Number of folds, at least 2.
    groups : array_like, optional
        (n,): rows of one group stay together; folds get equal numbers of groups.
    shuffle : bool, default False
        Deal rows (groups) out at random. Without, a fold is a block of neighbours (groups in the
        order of their first row), as autocorrelated recordings need it.
    seed : int, default 0
        Of the shuffling.

    Returns
    -------
    list of (train, test)
        Ascending row numbers.

    Raises
    ------
    ValueError
        If there are fewer rows (groups) than folds, or fewer than two folds.

    Examples
    --------
    >>> [test.tolist() for train, test in folds_of(5, 2)]
    [[0, 1, 2], [3, 4]]
    """
    names = np.arange(n) if groups is None else np.asarray(groups)
    if names.shape != (n,):
        raise ValueError(f"groups must name the group of each of {n} rows, got {names.shape}")
    _, first, member = np.unique(names, return_index=True, return_inverse=True)
    if folds < 2 or len(first) < folds:
        what = "rows" if groups is None else "groups"
        raise ValueError(f"{folds} folds of {len(first)} {what}: at least 2 folds, and a row each")
    order = np.argsort(first)
    if shuffle:
        order = np.random.default_rng(seed).permutation(order)
    fold = np.empty(len(order), dtype=np.int64)
    for k, part in enumerate(np.array_split(order, folds)):
        fold[part] = k
    fold = fold[member.reshape(-1)]
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(folds)]


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
    response, t = trace(Z'Z) / p the mean squared norm of a feature, of those that vary (n, if they are
    standardised). The same absolute penalty alpha t is used in the folds and on all rows.

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
        How rows are dealt into folds (`folds_of`); by default, contiguous blocks.
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
        If shapes do not match, there are NaNs or infinities, fewer rows than folds, a penalty that
        is not positive, no feature that varies or no target that varies.

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
    grid = np.asarray(alphas, dtype=np.float64)
    if grid.ndim != 1 or not grid.size or not (np.isfinite(grid) & (grid > 0)).all():
        raise ValueError(f"alphas must be positive numbers, got {alphas!r}")
    if dtype not in {"float32", "float64"}:
        raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}")
    if not (y != y[0]).any():
        raise ValueError(f"none of {y.shape[1]} targets varies over the {len(y)} rows")
    loo = folds == "loo"
    splits = _splits(len(x), folds, groups, shuffle, seed)
    kind = torch.float64 if loo or dtype == "float64" else torch.float32
    solver = _Solver(x, y, standardise, kind, torch.device(device))
    absolute = grid * solver.unit
    size = targets_at_a_time or solver.batch(splits, len(grid))
    sums = _Sums(len(grid), y.shape[1])
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


def _splits(n: int, folds: Folds, groups: ArrayLike | None, shuffle: bool, seed: int) -> list[Fold]:
    """The folds, checked; for leave-one-out all rows, twice."""
    if isinstance(folds, str):
        if str(folds) != "loo" or n < 3:
            raise ValueError(f"folds={folds!r} of {n} rows: a number, folds, or 'loo' of 3 or more")
        return [(np.arange(n), np.arange(n))]
    if isinstance(folds, int):
        return folds_of(n, folds, groups=groups, shuffle=shuffle, seed=seed)
    splits = [(np.asarray(train), np.asarray(test)) for train, test in folds]
    for train, test in splits:
        if not len(train) or not len(test) or np.intersect1d(train, test).size:
            raise ValueError("each fold must be (train, test), both not empty and without overlap")
    if not splits:
        raise ValueError("there are no folds")
    return splits


class _Sums:
    """Sums over held-out rows, for every penalty and target."""

    def __init__(self, alphas: int, targets: int) -> None:
        self.error = np.zeros((alphas, targets))
        self.product = np.zeros((alphas, targets))
        self.power = np.zeros((alphas, targets))
        self.null = np.zeros(targets)
        self.total = np.zeros(targets)

    def add(self, columns: slice, predicted: Tensor, observed: Tensor) -> None:
        """Add a fold's rows: (alphas, rows, b) and (rows, b), both relative to the training mean."""
        n = len(observed)
        mean, target = predicted.mean(dim=1).double(), observed.mean(dim=0).double()
        power = torch.linalg.vector_norm(predicted, dim=1).double().square()
        null = torch.linalg.vector_norm(observed, dim=0).double().square()
        cross = (predicted * observed).sum(dim=1).double()
        self.error[:, columns] += _array(null - 2 * cross + power).clip(min=0)
        self.product[:, columns] += _array(cross - n * mean * target)
        self.power[:, columns] += _array(power - n * mean.square()).clip(min=0)
        self.null[columns] += _array(null)
        self.total[columns] += _array(null - n * target.square()).clip(min=0)

    def skill(self) -> NDArray[np.float64]:
        ratio = np.divide(self.error, self.null, out=np.ones_like(self.error), where=self.null > 0)
        return np.asarray(1 - ratio)

    def r(self) -> NDArray[np.float64]:
        norm = np.sqrt(self.power * self.total)
        return np.divide(self.product, norm, out=np.zeros_like(norm), where=norm > 0)


def _array(values: Tensor) -> NDArray[np.float64]:
    return np.asarray(values.cpu().numpy())


@dataclass(frozen=True)
class _Decomposition:
    """Predictions of rows are right diag(1 / (values + a)) left'Y, for every penalty a.

    Of p <= n features Z = U S V', left = ZV and right = Z* V; of more, left = U, right = Z* Z'U.
    """

    values: Tensor  # (k,), squared singular values
    basis: Tensor  # V (p, k), or U (n, k)
    left: Tensor  # (n, k)
    primal: bool

    @staticmethod
    def of(z: Tensor) -> _Decomposition:
        primal = z.shape[1] <= z.shape[0]
        exact = z.double() if min(z.shape) <= EXACT_UP_TO else z
        values, basis = torch.linalg.eigh(exact.T @ exact if primal else exact @ exact.T)
        values, basis = values.clamp(min=0), basis.to(z.dtype)
        return _Decomposition(values.double(), basis, z @ basis if primal else basis, primal)

    def right(self, z: Tensor, rows: Tensor) -> Tensor:
        """`rows` (m, p) in the basis: (m, k); z are the rows that were decomposed."""
        return rows @ self.basis if self.primal else (rows @ z.T) @ self.basis

    def back(self, z: Tensor, coefficients: Tensor) -> Tensor:
        """Weights (p, b) of features from (k, b) of the basis."""
        weights = self.basis @ coefficients
        return weights if self.primal else z.T @ weights

    def compressed(self, alphas: Tensor) -> tuple[Tensor, Tensor]:
        """1 / (values + alphas) (k, alphas) as a product of (k, q) and (q, alphas)."""
        weight = self.values.clamp(min=float(self.values.max()) * torch.finfo(torch.float64).eps)
        functions = weight[:, None] / (self.values[:, None] + alphas)
        scale = functions.amax(dim=0)
        u, s, vh = torch.linalg.svd(functions / scale, full_matrices=False)
        q = int((s > TOLERANCE[self.basis.dtype] * s[0]).sum())
        return (u * s)[:, :q] / weight[:, None], vh[:q] * scale


class _Solver:
    """Features and responses, and what is done with some of their rows."""

    def __init__(
        self,
        x: NDArray[np.floating],
        y: NDArray[np.floating],
        standardise: bool,
        kind: torch.dtype,
        device: torch.device,
    ) -> None:
        self._x, self._y, self._standardise = x, y, standardise
        self._kind, self._device = kind, device
        self._all = np.arange(len(x))
        spread = x.std(axis=0, dtype=np.float64)
        varies = (x != x[0]).any(axis=0)
        if not varies.any():
            raise ValueError(f"none of {x.shape[1]} features varies over the {len(x)} rows")
        self.unit = len(x) * (1.0 if standardise else float((spread[varies] ** 2).mean()))

    def batch(self, splits: Sequence[Fold], alphas: int) -> int:
        """Targets at a time."""
        test = max(len(test) for _, test in splits)
        rows = 2 * self._x.shape[0] + min(self._x.shape) + 3 * test * alphas
        return max(1, int(BATCH_BYTES / (rows * self._kind.itemsize)))

    def _standard(
        self, train: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], Tensor]:
        """Mean and spread over training rows, and those rows with them."""
        x = self._x[train]
        mean = x.mean(axis=0, dtype=np.float64)
        if self._standardise:
            spread = np.where((x != x[0]).any(axis=0), x.std(axis=0, dtype=np.float64), np.inf)
        else:
            spread = np.ones_like(mean)
        return mean, spread, self._rows(x, mean, spread)

    def _rows(
        self, x: NDArray[np.floating], mean: NDArray[np.float64], spread: NDArray[np.float64]
    ) -> Tensor:
        return torch.from_numpy((x - mean) / spread).to(self._device, self._kind)

    def _targets(self, size: int) -> Iterator[tuple[slice, Tensor]]:
        """Batches of targets, less their first row: a constant target is 0, without rounding."""
        for start in range(0, self._y.shape[1], size):
            columns = slice(start, start + size)
            shifted = self._y[:, columns] - self._y[0, columns]
            yield columns, torch.from_numpy(shifted).to(self._device, self._kind)

    def hold_out(
        self,
        train: NDArray[np.int64],
        test: NDArray[np.int64],
        alphas: NDArray[np.float64],
        size: int,
        sums: _Sums,
        *,
        loo: bool,
    ) -> None:
        """Predict test rows from training rows (each row from all others, for `loo`)."""
        mean, spread, z = self._standard(train)
        found = _Decomposition.of(z)
        right = found.right(z, z if loo else self._rows(self._x[test], mean, spread))
        penalties = torch.from_numpy(alphas).to(self._device)
        b, c = (part.to(self._kind) for part in found.compressed(penalties))
        stack = (right * b.T[:, None, :]).reshape(-1, right.shape[1])
        if loo:
            hat = (right * found.left) @ (1 / (found.values[:, None] + penalties)) + 1 / len(z)
            leverage = hat.T[:, :, None]
        rows, held = (torch.from_numpy(i).to(self._device) for i in (train, test))
        for columns, y in self._targets(size):
            known = y[rows]
            centre = known.mean(dim=0)
            known = known - centre
            parts = stack @ (found.left.T @ known)
            predicted = (c.T @ parts.view(len(c), -1)).view(len(alphas), len(test), -1)
            observed = y[held] - centre
            if loo:  # the prediction of a row without itself
                predicted = (predicted - leverage * observed) / (1 - leverage)
            sums.add(columns, predicted, observed)
        if loo:  # the mean of the other rows knows a little less than that of all
            sums.null *= (len(z) / (len(z) - 1)) ** 2

    def refit(
        self, alphas: NDArray[np.float64], size: int, dtype: np.dtype[np.floating]
    ) -> tuple[NDArray[np.floating], ...]:
        """Mean, spread, offset and weights of all rows, each target with its penalty."""
        mean, spread, z = self._standard(self._all)
        found = _Decomposition.of(z)
        weights = np.empty((self._x.shape[1], len(alphas)), dtype=dtype)
        offset = np.empty(len(alphas), dtype=np.float64)
        for columns, y in self._targets(size):
            centre = y.mean(dim=0)
            offset[columns] = _array(centre.double()) + self._y[0, columns]
            penalty = torch.from_numpy(alphas[columns]).to(self._device)
            share = (1 / (found.values[:, None] + penalty)).to(self._kind)
            coefficients = share * (found.left.T @ (y - centre))
            weights[:, columns] = found.back(z, coefficients).cpu().numpy()
        return mean.astype(dtype), spread.astype(dtype), offset.astype(dtype), weights
