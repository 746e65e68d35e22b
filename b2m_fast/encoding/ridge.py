"""Ridge regression of many targets, their penalties chosen by cross-validation over a path.

With centred training features X = U S V' the predictions of every penalty a for rows X* are

    X* V diag(f_a(s) / s) U'Y,      f_a(s) = s^2 / (s^2 + a),

so one decomposition, of the smaller of X'X and XX', serves them all. The functions f_a of neighbouring penalties are
nearly dependent: F = B C with q <= len(alphas) columns of B, to the precision of the arithmetic, so that q products
with the targets give all predictions. Held-out predictions are reduced at once to sums over rows, which give

    R2 = 1 - sum_f |y_f - p_f|^2 / sum_f |y_f - m_f|^2
    r  = sum_f <p_f - mean p_f, y_f - mean y_f>
         / sqrt(sum_f |p_f - mean p_f|^2 sum_f |y_f - mean y_f|^2)

over the rows of the folds f, m_f being the mean of the fold's training rows: R2 is 0 for a model that knows the mean
only. Sums before ratios, as a fold may have two rows only. The penalty with the largest R2, that is the least squared
error, is chosen.

The solver is our own because its memory is bounded whatever the number of targets (0.8 GB for 20,000 of them, where
himalaya's KernelRidgeCV takes 1.6 GB for 250; in time himalaya is as good, docs/mediated.md), and because the same
solver gives leave-one-out exactly, with the intercept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from b2m_fast.encoding.columns import mean_and_spread
from b2m_fast.encoding.folds import splits_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    from b2m_fast.encoding.folds import Folds

    Row = NDArray[np.float64]

ALPHAS: tuple[float, ...] = tuple(10.0 ** (e / 2) for e in range(-4, 13))
EXACT_UP_TO = 2048  # a decomposition of this size in float64 takes seconds
BATCH_BYTES = 256 << 20
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}  # of the path's compression


@dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted model: ((features - mean) / spread) @ weights + offset.

    Attributes
    ----------
    mean, spread : ndarray
        (p,): how features are standardised; spread is infinite for a feature that never varied, and 1 for all others
        if features were not to be standardised.
    offset : ndarray
        (targets,): means of the responses.
    weights : ndarray
        (p, targets).
    alphas : ndarray
        (targets,): the chosen penalties, relative, as given.
    scores, skill : ndarray
        (targets,): r and R2 of the held-out predictions at the chosen penalty, as defined at the top of the module;
        0 for a constant target or prediction. They flatter a little, as the penalty was chosen on them.
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
        """Return the responses to new rows, (n, p) to (n, targets), of the dtype of the weights."""
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f"the model has {len(self.mean)} features, got {features.shape}")
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
    """Fit ridge regression, the penalty of each target chosen by cross-validation.

    argmin_w |y - m - Z w|^2 + alpha t |w|^2,  Z the standardised features of all rows, m the mean response,
    t = trace(Z'Z) / p the mean squared norm of a feature, of those that vary (n, if they are standardised). The same
    absolute penalty alpha t is used in the folds and on all rows.

    Parameters
    ----------
    features : ndarray
        (n, p).
    responses : ndarray
        (n, targets).
    alphas : sequence of float
        Penalties, relative to t; positive.
    folds : int, "loo" or sequence of (train, test)
        Number of folds, the folds themselves (indices of rows), or exact leave-one-out, always in float64: one
        decomposition instead of one a fold, for a few thousand rows at most. It takes the standardisation of the
        features from all rows.
    groups, shuffle, seed
        How rows are assigned to a number of folds (`b2m_fast.encoding.folds.folds_of`); default: contiguous blocks.
    shared_alpha : bool, default False
        One penalty for all targets, that of the largest mean R2.
    standardise : bool, default True
        Divide features by their standard deviation (in the training rows); False: only centre them, as suits
        principal components, whose sizes mean something.
    dtype : {"float32", "float64"}
        Of products with the targets, and the result. Decompositions of up to 2,048 are done in float64 regardless:
        features such as those of a CNN have singular values so far apart that float32 shows in X'X.
    device : str or torch.device
        Where to compute.
    targets_at_a_time : int, optional
        Size of batches of targets; default: such that one needs about 256 MiB.

    Returns
    -------
    Ridge
        Arrays on the CPU.

    Raises
    ------
    ValueError
        If shapes do not match, there are NaNs or infinities, fewer rows than folds, groups or shuffling where folds
        are given, a penalty that is not positive, no feature that varies (in the training rows of a fold, too), no
        target that varies, or no such device.

    Notes
    -----
    Memory in numbers of the dtype, besides features and responses: p targets (the weights), 4 (len(alphas) + 4)
    targets for sums, q n_test k + n_train k + 2 k^2 for a decomposition of size k = min(n_train, p) and q of at most
    len(alphas), and targets_at_a_time (n + k + n_test (q + len(alphas))). Multiplications: targets k (n + q n) over
    all folds, plus about 10 k^3 a fold.

    Leave-one-out by e_i / (1 - h_ii - 1/n), e the residuals and H the hat matrix of the centred features (Allen
    1974); blocks as in Nunez-Elizalde et al. 2019 and Dupre la Tour et al. 2022.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(100, 5))
    >>> fit_ridge(x, x @ rng.normal(size=(5, 3))).predict(x).shape
    (100, 3)
    """
    x = finite_matrix("features", features)
    y = finite_matrix("responses", responses)
    if len(x) != len(y):
        got = f"{x.shape} and {y.shape}"
        raise ValueError(f"features and responses must be of the same rows, got {got}")
    check_targets_vary(y)
    grid = penalty_grid("alphas", alphas)
    if dtype not in {"float32", "float64"}:
        raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}")
    loo = isinstance(folds, str)
    splits = splits_of(len(x), folds, groups, shuffle, seed)
    kind = torch.float64 if loo or dtype == "float64" else torch.float32
    solver = _Solver(x, y, grid, standardise, loo, kind, usable_device(device))
    solver.size = targets_at_a_time or solver.batch(max(len(test) for _, test in splits))
    for train, test in splits:
        solver.hold_out(train, test)
    skill, r = solver.skill(), solver.r()
    chosen = skill.argmax(axis=0)
    if shared_alpha:
        chosen[:] = skill.mean(axis=1).argmax()
    mean, spread, offset, weights = solver.refit(chosen, dtype)
    at = chosen, np.arange(len(chosen))
    return Ridge(mean, spread, offset, weights, grid[chosen], r[at], skill[at], path=skill)


def finite_matrix(name: str, values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return a matrix in float32 or float64; raise ValueError unless it is finite with at least one row and column."""
    found = np.asarray(values)
    if found.dtype not in {np.dtype(np.float32), np.dtype(np.float64)}:
        found = found.astype(np.float64)
    if found.ndim != 2 or 0 in found.shape:
        raise ValueError(f"{name} must be a matrix, got an array of shape {found.shape}")
    bad = ~np.isfinite(found).all(axis=0)
    if bad.any():
        what = f"NaN or infinity in {int(bad.sum())} of {found.shape[1]} columns"
        raise ValueError(f"{name} contain {what}, the first of them column {int(bad.argmax())}")
    return found


def check_targets_vary(y: NDArray[np.floating]) -> None:
    """Raise ValueError if no target of (n, targets) varies."""
    if not (y != y[0]).any():
        raise ValueError(f"none of {y.shape[1]} targets varies over the {len(y)} rows")


def usable_device(device: str | torch.device) -> torch.device:
    """Return a device that is there; raise ValueError if PyTorch knows none of that name, or has no CUDA device."""
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}: {error}") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={str(device)!r}, but there is no CUDA device")
    return found


def penalty_grid(name: str, values: Sequence[float]) -> NDArray[np.float64]:
    """Return penalties as float64; raise ValueError unless there are some, all positive and finite."""
    try:
        grid = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        grid = np.empty(0)
    if grid.ndim != 1 or not grid.size or not (np.isfinite(grid) & (grid > 0)).all():
        shown = values if np.ndim(values) == 0 else list(values)
        raise ValueError(f"{name} must be positive numbers, got {shown!r}")
    return grid


class _Decomposition:
    """Centred rows Z, decomposed: predictions of rows Z* are right(Z*) diag(1 / (values + a)) left'Y for a penalty a.

    Of p <= n features Z = U S V', left = Z V and right = Z* V; of more, left = U and right = Z* Z'U.
    """

    def __init__(self, z: Tensor) -> None:
        self.z, self.primal = z, z.shape[1] <= z.shape[0]
        exact = z.double() if min(z.shape) <= EXACT_UP_TO else z
        values, basis = torch.linalg.eigh(exact.T @ exact if self.primal else exact @ exact.T)
        self.values: Tensor = values.clamp(min=0).double()  # (k,), squared singular values
        self.basis: Tensor = basis.to(z.dtype)  # V (p, k), or U (n, k)
        self.left = z @ self.basis if self.primal else self.basis  # (n, k)

    def right(self, rows: Tensor) -> Tensor:
        """`rows` (m, p) in the basis: (m, k)."""
        return rows @ self.basis if self.primal else (rows @ self.z.T) @ self.basis

    def back(self, coefficients: Tensor) -> Tensor:
        """Weights (p, b) of features from (k, b) of the basis."""
        weights = self.basis @ coefficients
        return weights if self.primal else self.z.T @ weights

    def compressed(self, alphas: Tensor) -> tuple[Tensor, Tensor]:
        """1 / (values + alphas) (k, alphas) as a product of (k, q) and (q, alphas)."""
        weight = self.values.clamp(min=float(self.values.max()) * torch.finfo(torch.float64).eps)
        functions = weight[:, None] / (self.values[:, None] + alphas)
        scale = functions.amax(dim=0)
        u, s, vh = torch.linalg.svd(functions / scale, full_matrices=False)
        q = int((s > TOLERANCE[self.basis.dtype] * s[0]).sum())
        return (u * s)[:, :q] / weight[:, None], vh[:q] * scale


class _Solver:
    """Features and responses, models of some of their rows, and sums over held-out rows for every penalty and target."""

    def __init__(
        self,
        x: NDArray[np.floating],
        y: NDArray[np.floating],
        grid: NDArray[np.float64],
        standardise: bool,
        loo: bool,
        kind: torch.dtype,
        device: torch.device,
    ) -> None:
        self.x, self.y, self.standardise, self.loo = x, y, standardise, loo
        self.kind, self.device, self.size = kind, device, 1
        with np.errstate(over="ignore", invalid="ignore"):
            spread = x.std(axis=0, dtype=np.float64)
        if not np.isfinite(spread).all():
            raise ValueError("features are so large that their squares overflow: scale them down")
        varies = (x != x[0]).any(axis=0)
        if not varies.any():
            raise ValueError(f"none of {x.shape[1]} features varies over the {len(x)} rows")
        unit = len(x) * (1.0 if standardise else float((spread[varies] ** 2).mean()))
        self.alphas = grid * unit  # absolute penalties
        self.error, self.product, self.power = np.zeros((3, len(grid), y.shape[1]))
        self.null, self.total = np.zeros((2, y.shape[1]))

    def batch(self, test: int) -> int:
        """Targets at a time, for at most so many held-out rows."""
        rows = 2 * len(self.x) + min(self.x.shape) + 3 * test * len(self.alphas)
        return max(1, int(BATCH_BYTES / (rows * self.kind.itemsize)))

    def _fitted(self, x: NDArray[np.floating]) -> tuple[Row, Row, _Decomposition]:
        """Mean and spread of training rows, and those rows standardised and decomposed."""
        mean, spread = mean_and_spread(x)
        if not self.standardise:
            spread = np.ones_like(mean)
        z = self._tensor((x - mean) / spread)
        if not z.any():
            rows = f"the training rows of a fold: {len(z)} of {len(self.x)} rows"
            raise ValueError(f"none of {z.shape[1]} features varies over {rows}")
        return mean, spread, _Decomposition(z)

    def _tensor(self, values: NDArray[np.floating]) -> Tensor:
        return torch.from_numpy(values).to(self.device, self.kind)

    def _targets(self) -> Iterator[tuple[slice, Tensor]]:
        """Batches of targets, less their first row: a constant target is 0, without rounding."""
        for start in range(0, self.y.shape[1], self.size):
            columns = slice(start, start + self.size)
            yield columns, self._tensor(self.y[:, columns] - self.y[0, columns])

    def hold_out(self, train: NDArray[np.int64], test: NDArray[np.int64]) -> None:
        """Predict test rows from training rows; for leave-one-out, each row from all others."""
        mean, spread, found = self._fitted(self.x[train])
        n = len(found.z)
        rows = found.z if self.loo else self._tensor((self.x[test] - mean) / spread)
        right = found.right(rows)
        penalties = torch.from_numpy(self.alphas).to(self.device)
        b, c = (part.to(self.kind) for part in found.compressed(penalties))
        stack = (right * b.T[:, None, :]).reshape(-1, right.shape[1])
        if self.loo:
            hat = (right * found.left) @ (1 / (found.values[:, None] + penalties)) + 1 / n
            leverage = hat.T[:, :, None]
        known, held = (torch.from_numpy(i).to(self.device) for i in (train, test))
        for columns, y in self._targets():
            fitted = y[known]
            centre = fitted.mean(dim=0)
            parts = stack @ (found.left.T @ (fitted - centre))
            predicted = (c.T @ parts.view(len(c), -1)).view(len(c.T), len(test), -1)
            observed = y[held] - centre
            if self.loo:  # the prediction of a row without itself
                predicted = (predicted - leverage * observed) / (1 - leverage)
            self._add(columns, predicted, observed)
        if self.loo:  # the mean of the other rows knows a little less than that of all
            self.null *= (n / (n - 1)) ** 2

    def _add(self, columns: slice, predicted: Tensor, observed: Tensor) -> None:
        """Add held-out rows, (alphas, rows, b) and (rows, b), less the training mean."""
        n = len(observed)
        mean, target = predicted.mean(dim=1).double(), observed.mean(dim=0).double()
        power = torch.linalg.vector_norm(predicted, dim=1).double().square()
        null = torch.linalg.vector_norm(observed, dim=0).double().square()
        cross = (predicted * observed).sum(dim=1).double()
        self.error[:, columns] += (null - 2 * cross + power).clamp(min=0).numpy(force=True)
        self.product[:, columns] += (cross - n * mean * target).numpy(force=True)
        self.power[:, columns] += (power - n * mean.square()).clamp(min=0).numpy(force=True)
        self.null[columns] += null.numpy(force=True)
        self.total[columns] += (null - n * target.square()).clamp(min=0).numpy(force=True)

    def skill(self) -> NDArray[np.float64]:
        """R2 of held-out rows, (alphas, targets)."""
        ones = np.ones_like(self.error)
        return np.asarray(1 - np.divide(self.error, self.null, out=ones, where=self.null > 0))

    def r(self) -> NDArray[np.float64]:
        """Correlation over held-out rows, (alphas, targets)."""
        norm = np.sqrt(self.power * self.total)
        return np.divide(self.product, norm, out=np.zeros_like(norm), where=norm > 0)

    def refit(self, chosen: NDArray[np.int64], dtype: str) -> tuple[NDArray[np.floating], ...]:
        """Mean, spread, offset and weights of all rows, each target with its penalty of the path."""
        mean, spread, found = self._fitted(self.x)
        weights = np.empty((self.x.shape[1], len(chosen)), dtype=dtype)
        offset = np.empty(len(chosen))
        for columns, y in self._targets():
            centre = y.mean(dim=0)
            offset[columns] = centre.double().numpy(force=True) + self.y[0, columns]
            penalty = torch.from_numpy(self.alphas[chosen[columns]]).to(self.device)
            share = (1 / (found.values[:, None] + penalty)).to(self.kind)
            coefficients = share * (found.left.T @ (y - centre))
            weights[:, columns] = found.back(coefficients).numpy(force=True)
        return mean.astype(dtype), spread.astype(dtype), offset.astype(dtype), weights
