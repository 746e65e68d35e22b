"""What `b2m_fast.encoding.ridge` computes: predictions at every penalty of a path.

With centred training features X = U S V' the predictions of every penalty a for rows X* are

    X* V diag(f_a(s) / s) U'Y,      f_a(s) = s^2 / (s^2 + a),

so one decomposition serves them all. Of X'X and XX' the smaller is decomposed. The functions f_a of
neighbouring penalties are nearly dependent: their values at the singular values are written as
F = B C with q <= len(alphas) columns of B, to the precision of the arithmetic, so that q products
with the targets, not len(alphas), give all predictions. Targets are taken a batch at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from b2m_fast.encoding.folds import Fold

__all__ = ["Decomposition", "Solver", "Sums", "mean_and_spread"]

EXACT_UP_TO = 2048  # a decomposition of this size in float64 takes seconds
BATCH_BYTES = 256 << 20
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}  # of the path's compression


class Sums:
    """Sums over held-out rows, for every penalty and target."""

    def __init__(self, alphas: int, targets: int) -> None:
        self.error = np.zeros((alphas, targets))
        self.product = np.zeros((alphas, targets))
        self.power = np.zeros((alphas, targets))
        self.null = np.zeros(targets)
        self.total = np.zeros(targets)

    def add(self, columns: slice, predicted: Tensor, observed: Tensor) -> None:
        """Add a fold's rows, (alphas, rows, b) and (rows, b), less the training mean."""
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
        """R2, (alphas, targets)."""
        ratio = np.divide(self.error, self.null, out=np.ones_like(self.error), where=self.null > 0)
        return np.asarray(1 - ratio)

    def r(self) -> NDArray[np.float64]:
        """Correlation, (alphas, targets)."""
        norm = np.sqrt(self.power * self.total)
        return np.divide(self.product, norm, out=np.zeros_like(norm), where=norm > 0)


def _array(values: Tensor) -> NDArray[np.float64]:
    return np.asarray(values.cpu().numpy())


@dataclass(frozen=True)
class Decomposition:
    """Predictions of rows are right diag(1 / (values + a)) left'Y, for every penalty a.

    Of p <= n features Z = U S V', left = ZV and right = Z* V; of more, left = U, right = Z* Z'U.
    """

    values: Tensor  # (k,), squared singular values
    basis: Tensor  # V (p, k), or U (n, k)
    left: Tensor  # (n, k)
    primal: bool

    @staticmethod
    def of(z: Tensor) -> Decomposition:
        """Decompose centred rows (n, p)."""
        primal = z.shape[1] <= z.shape[0]
        exact = z.double() if min(z.shape) <= EXACT_UP_TO else z
        values, basis = torch.linalg.eigh(exact.T @ exact if primal else exact @ exact.T)
        values, basis = values.clamp(min=0), basis.to(z.dtype)
        return Decomposition(values.double(), basis, z @ basis if primal else basis, primal)

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


def mean_and_spread(
    x: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How columns of (n, p) are standardised, in float64; one that never varies becomes 0 by an infinite spread."""
    spread = np.where((x != x[0]).any(axis=0), x.std(axis=0, dtype=np.float64), np.inf)
    return x.mean(axis=0, dtype=np.float64), spread


class Solver:
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
        with np.errstate(over="ignore", invalid="ignore"):
            spread = x.std(axis=0, dtype=np.float64)
        if not np.isfinite(spread).all():
            raise ValueError("features are so large that their squares overflow: scale them down")
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
        mean, spread = mean_and_spread(x)
        if not self._standardise:
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
        sums: Sums,
        *,
        loo: bool,
    ) -> None:
        """Predict test rows from training rows (each row from all others, for `loo`)."""
        mean, spread, z = self._standard(train)
        if not z.any():
            raise ValueError(
                f"none of {z.shape[1]} features varies over the training rows of a fold: "
                f"{len(z)} of {len(self._x)} rows"
            )
        found = Decomposition.of(z)
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
        found = Decomposition.of(z)
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
