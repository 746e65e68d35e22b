"""Banded ridge regression: each set of features its own penalty, by himalaya.

Nunez-Elizalde et al. 2019: features of different kinds (vision and sound, or early and late layers)
are scaled before a ridge regression, each target's scales chosen by cross-validation. The search is
himalaya's (Dupre la Tour et al. 2022), random over the simplex, on its torch backend.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from b2m_fast.encoding.folds import splits_of
from b2m_fast.encoding.ridge import (
    ALPHAS,
    finite_matrix,
    penalty_grid,
    usable_device,
    varying_targets,
)
from b2m_fast.encoding.ridge_path import mean_and_spread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from b2m_fast.encoding.folds import Fold

__all__ = ["BandedRidge", "fit_banded_ridge"]

LEAST_SHARE = 1e-10


@dataclass(frozen=True, eq=False)
class BandedRidge:
    """A fitted model: sum_b ((features_b - mean_b) / spread_b) @ weights_b + offset.

    Attributes
    ----------
    mean, spread : tuple of ndarray
        Of each band, (p_b,), as in `b2m_fast.encoding.ridge.Ridge`.
    offset : ndarray
        (targets,).
    weights : tuple of ndarray
        Of each band, (p_b, targets).
    shares : ndarray
        (bands, targets): the chosen scales gamma, sum 1 over bands.
    alphas : ndarray
        (targets,): the chosen penalties, relative as in `fit_ridge`.
    skill : ndarray
        (targets,): R2 of held-out rows at the chosen scales and penalty, as in
        `b2m_fast.encoding.ridge`, but all folds weigh alike whatever their sizes; they flatter.
    """

    mean: tuple[NDArray[np.floating], ...]
    spread: tuple[NDArray[np.floating], ...]
    offset: NDArray[np.floating]
    weights: tuple[NDArray[np.floating], ...]
    shares: NDArray[np.float64]
    alphas: NDArray[np.float64]
    skill: NDArray[np.float64]

    def contributions(self, bands: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
        """What each band adds to the responses.

        Parameters
        ----------
        bands : sequence of ndarray
            (n, p_b) each, in the order they were fitted.

        Returns
        -------
        ndarray
            (bands, n, targets); their sum and `offset` make the prediction.

        Raises
        ------
        ValueError
            If the bands are others than those fitted.
        """
        widths, got = [len(m) for m in self.mean], [band.shape[1] for band in bands]
        if got != widths:
            raise ValueError(f"the model has bands of {widths} features, got {got}")
        parts = [
            ((x - m) / s).astype(w.dtype) @ w
            for x, m, s, w in zip(bands, self.mean, self.spread, self.weights, strict=True)
        ]
        return np.stack(parts)

    def predict(self, bands: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
        """Responses to new rows.

        Parameters
        ----------
        bands : sequence of ndarray
            (n, p_b) each, in the order they were fitted.

        Returns
        -------
        ndarray
            (n, targets).

        Raises
        ------
        ValueError
            If the bands are others than those fitted.
        """
        return np.asarray(self.contributions(bands).sum(axis=0) + self.offset)


def fit_banded_ridge(
    bands: Sequence[NDArray[np.floating]],
    responses: NDArray[np.floating],
    *,
    candidates: int | NDArray[np.floating] = 20,
    alphas: Sequence[float] = ALPHAS,
    folds: int | Sequence[Fold] = 5,
    groups: ArrayLike | None = None,
    shuffle: bool = False,
    seed: int = 0,
    dtype: Literal["float32", "float64"] = "float32",
    device: str | torch.device = "cpu",
    targets_at_a_time: int = 1000,
) -> BandedRidge:
    """Fit, scales and penalty of each target chosen together by cross-validation.

    Ridge regression on [sqrt(gamma_b / t_b) Z_b], Z_b the standardised features of band b and t_b
    its mean squared norm of a row, with penalty alpha n / p, p features that vary: a single band is
    `fit_ridge`. Kernels of the bands where there are no more rows than features, else the features
    themselves.

    Parameters
    ----------
    bands : sequence of ndarray
        (n, p_b) each.
    responses : ndarray
        (n, targets).
    candidates : int or ndarray
        How many scales to draw from the simplex (half of them near its corners; the first are all
        equal), or (candidates, bands) to try; a share of 0 counts as 1e-10.
    alphas : sequence of float
        Penalties, relative.
    folds, groups, shuffle, seed
        As in `fit_ridge`; the seed also draws the candidates.
    dtype : {"float32", "float64"}
        Of everything.
    device : str or device
        The CPU or a CUDA device.
    targets_at_a_time : int, default 1000
        Bounds the memory of predictions: len(alphas) n_test numbers a target.

    Returns
    -------
    BandedRidge
        On the CPU.

    Raises
    ------
    ImportError
        If himalaya is missing.
    ValueError
        As `fit_ridge`, or if candidates are not shares of the bands.

    Notes
    -----
    One decomposition a candidate and fold: min(n, p)^3. Standardisation is over all rows, centring
    within folds. himalaya's choice of backend is global; it is put back.
    """
    try:
        from himalaya.backend import get_backend, set_backend  # noqa: PLC0415
        from himalaya.kernel_ridge import (  # noqa: PLC0415
            generate_dirichlet_samples,
            solve_multiple_kernel_ridge_random_search,
        )
        from himalaya.ridge import solve_group_ridge_random_search  # noqa: PLC0415
        from himalaya.scoring import l2_neg_loss  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "banded ridge regression needs himalaya: pip install 'b2m-fast[encoding]'"
        ) from error
    if not bands:
        raise ValueError("there are no bands")
    raw = [finite_matrix(f"features of band {b}", band) for b, band in enumerate(bands)]
    y = finite_matrix("responses", responses)
    n = len(y)
    if any(len(x) != n for x in raw):
        raise ValueError(
            f"bands and responses must be of the same rows, got {[x.shape for x in raw]} and "
            f"{y.shape}"
        )
    varying_targets(y)
    grid = penalty_grid("alphas", alphas)
    if isinstance(candidates, int):
        tried = generate_dirichlet_samples(candidates, len(raw), [0.1, 1.0], random_state=seed)
        tried = np.asarray(tried, dtype=np.float64)
        tried[0] = 1 / len(raw)
    else:
        tried = np.asarray(candidates, dtype=np.float64)
    if (
        tried.shape[1:] != (len(raw),)
        or not len(tried)
        or tried.min() < 0
        or not np.allclose(tried.sum(axis=1), 1)
    ):
        raise ValueError(f"candidates must be shares of {len(raw)} bands, got {tried.shape}")
    tried = tried.clip(min=LEAST_SHARE)  # the solver divides by it
    splits = splits_of(n, folds, groups, shuffle, seed)
    kind = np.dtype(dtype)
    mean, spread = zip(*map(mean_and_spread, raw), strict=True)
    scaled, unit = [], []
    for b, (x, m, s) in enumerate(zip(raw, mean, spread, strict=True)):
        z = (x - m) / s
        unit.append(np.sqrt(np.vdot(z, z) / n))
        if unit[-1] == 0:
            raise ValueError(f"no feature of band {b} varies over the {n} rows")
        scaled.append((z / unit[-1]).astype(kind))
    p = sum(int(np.isfinite(s).sum()) for s in spread)
    target = (y - y.mean(axis=0, dtype=np.float64)).astype(kind)
    penalties = grid * n / p
    common: dict[str, Any] = {
        "cv": _Splits(splits),
        "score_func": l2_neg_loss,
        "progress_bar": False,
        "n_targets_batch": targets_at_a_time,
        "n_alphas_batch": 4 if n > p else None,
        "fit_intercept": True,
    }
    where = usable_device(device)
    with _backend(get_backend, set_backend, "torch_cuda" if where.type == "cuda" else "torch"):
        features = [torch.from_numpy(z).to(where) for z in scaled]
        arrays = {
            "Y": torch.from_numpy(target).to(where),
            "n_iter": torch.from_numpy(tried.astype(kind)).to(where),
            "alphas": torch.from_numpy(penalties.astype(kind)).to(where),
        }
        if n <= p:
            kernels = torch.stack([z @ z.T for z in features])
            deltas, dual, scores, offset = solve_multiple_kernel_ridge_random_search(
                kernels, return_weights="dual", **arrays, **common
            )
            scale = torch.exp(deltas).cpu()
            weights = [g * (z.cpu().T @ dual.cpu()) for g, z in zip(scale, features, strict=True)]
        else:
            deltas, primal, scores, offset = solve_group_ridge_random_search(
                features, return_weights=True, warn=False, **arrays, **common
            )
            scale = torch.exp(deltas).cpu()
            weights = list(primal.cpu().split([z.shape[1] for z in features]))
    gamma = scale.double().numpy()
    total = gamma.sum(axis=0)
    return BandedRidge(
        mean=tuple(m.astype(kind) for m in mean),
        spread=tuple(s.astype(kind) for s in spread),
        offset=(offset.cpu().numpy() + y.mean(axis=0, dtype=np.float64)).astype(kind),
        weights=tuple((w.numpy() / u).astype(kind) for w, u in zip(weights, unit, strict=True)),
        shares=gamma / total,
        alphas=p / n / total,
        skill=_skill(-scores.max(dim=0).values.double().cpu().numpy(), target, splits),
    )


def _skill(
    error: NDArray[np.float64], y: NDArray[np.floating], splits: Sequence[Fold]
) -> NDArray[np.float64]:
    """R2 of a mean squared error, against predicting the mean of the training rows."""
    null = np.mean([((y[b] - y[a].mean(axis=0)) ** 2).mean(axis=0) for a, b in splits], axis=0)
    known = (y != y[0]).any(axis=0) & (null > 0)
    return 1 - np.divide(error, null, out=np.ones_like(error), where=known)


class _Splits:
    """Folds with the face of a scikit-learn splitter."""

    def __init__(self, folds: Sequence[Fold]) -> None:
        self._folds = list(folds)

    def split(self, *_: object) -> Iterator[Fold]:
        return iter(self._folds)

    def get_n_splits(self, *_: object) -> int:
        return len(self._folds)


@contextmanager
def _backend(get: Any, choose: Any, name: str) -> Iterator[None]:
    """Himalaya's backend for a while."""
    before = get().name
    choose(name)
    try:
        yield
    finally:
        choose(before)
