"""Banded ridge regression, each set of features with its own penalty (library only: no command uses it).

Nunez-Elizalde et al. 2019: features of different kinds (vision and sound, or early and late layers) are scaled before
a ridge regression, each target's scales chosen by cross-validation. The search is himalaya's (Dupre la Tour et al.
2022), random over the simplex, on its torch backend.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from b2m_fast.data.files import optional
from b2m_fast.encoding.columns import mean_and_spread
from b2m_fast.encoding.folds import splits_of
from b2m_fast.encoding.ridge import (
    ALPHAS,
    check_targets_vary,
    finite_matrix,
    penalty_grid,
    usable_device,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from b2m_fast.encoding.folds import Fold

LEAST_SHARE = 1e-10  # himalaya divides by it


@dataclass(frozen=True, eq=False)
class BandedRidge:
    """A fitted model: sum_b ((features_b - mean_b) / spread_b) @ weights_b + offset.

    Attributes
    ----------
    widths : tuple of int
        Features of each band; p is their sum.
    mean, spread : ndarray
        (p,), of all bands side by side, as in `Ridge`.
    offset : ndarray
        (targets,).
    weights : ndarray
        (p, targets).
    shares : ndarray
        (bands, targets): the chosen scales gamma, sum 1 over bands.
    alphas : ndarray
        (targets,): the chosen penalties, relative as in `fit_ridge`.
    skill : ndarray
        (targets,): R2 of held-out rows at the chosen scales and penalty, as in `Ridge`, but all folds weigh alike
        whatever their sizes; they flatter, as the penalty was chosen on them.
    """

    widths: tuple[int, ...]
    mean: NDArray[np.floating]
    spread: NDArray[np.floating]
    offset: NDArray[np.floating]
    weights: NDArray[np.floating]
    shares: NDArray[np.float64]
    alphas: NDArray[np.float64]
    skill: NDArray[np.float64]

    def contributions(self, bands: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
        """Return what each band, (n, p_b), adds to the responses, (bands, n, targets), without the offset."""
        if (got := tuple(band.shape[1] for band in bands)) != self.widths:
            raise ValueError(f"the model has bands of {self.widths} features, got {got}")
        z = (np.concatenate(bands, axis=1) - self.mean) / self.spread
        cuts = np.cumsum(self.widths)[:-1]
        parts = zip(np.split(z, cuts, axis=1), np.split(self.weights, cuts), strict=True)
        return np.stack([x.astype(w.dtype) @ w for x, w in parts])

    def predict(self, bands: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
        """Return the responses to new rows, (n, p_b) of each band in the order of the fit, as (n, targets)."""
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
    """Fit banded ridge regression, scales and penalty of each target chosen together by cross-validation.

    Ridge regression on [sqrt(gamma_b / t_b) Z_b], Z_b the standardised features of band b and t_b its mean squared
    norm of a row, with penalty alpha n / p, p features that vary: a single band is `fit_ridge`. Kernels of the bands
    where there are no more rows than features, else the features themselves.

    Parameters
    ----------
    bands : sequence of ndarray
        (n, p_b) each.
    responses : ndarray
        (n, targets).
    candidates : int or ndarray
        How many scales to draw from the simplex (half of them near its corners; the first are all equal), or
        (candidates, bands) to try; a share of 0 counts as 1e-10.
    alphas : sequence of float
        Penalties, relative.
    folds, groups, shuffle, seed
        As in `fit_ridge`; the seed also draws the candidates.
    dtype : {"float32", "float64"}
        Of everything.
    device : str or torch.device
        The CPU or a CUDA device.
    targets_at_a_time : int, default 1000
        Bounds the memory of predictions: len(alphas) n_test numbers a target.

    Returns
    -------
    BandedRidge
        Arrays on the CPU.

    Raises
    ------
    ImportError
        If himalaya is missing.
    ValueError
        As `fit_ridge`, or if candidates are not shares of the bands.

    Notes
    -----
    One decomposition a candidate and fold: min(n, p)^3. Standardisation is over all rows, centring within folds.
    himalaya's choice of backend is global; it is put back.
    """
    why = "banded ridge regression needs himalaya", "'b2m-fast[encoding]'"
    parts = ("backend", "kernel_ridge", "ridge")
    backend, kernel_ridge, ridge = (optional(f"himalaya.{part}", *why) for part in parts)
    if not bands:
        raise ValueError("there are no bands")
    raw = [finite_matrix(f"features of band {b}", band) for b, band in enumerate(bands)]
    y = finite_matrix("responses", responses)
    n, kind, where = len(y), np.dtype(dtype), usable_device(device)
    if any(len(x) != n for x in raw):
        got = f"{[x.shape for x in raw]} and {y.shape}"
        raise ValueError(f"bands and responses must be of the same rows, got {got}")
    check_targets_vary(y)
    grid = penalty_grid("alphas", alphas)
    if isinstance(candidates, int):
        draw = kernel_ridge.generate_dirichlet_samples
        drawn = draw(candidates, len(raw), [0.1, 1.0], random_state=seed)
        tried = np.asarray(drawn, dtype=np.float64)
        tried[0] = 1 / len(raw)
    else:
        tried = np.asarray(candidates, dtype=np.float64)
    shares = tried.shape[1:] == (len(raw),) and len(tried) and tried.min() >= 0
    if not shares or not np.allclose(tried.sum(axis=1), 1):
        raise ValueError(f"candidates must be shares of {len(raw)} bands, got {tried.shape}")
    splits = splits_of(n, folds, groups, shuffle, seed)
    x, widths = np.concatenate(raw, axis=1), [band.shape[1] for band in raw]
    mean, spread = mean_and_spread(x)
    bands = np.split((x - mean) / spread, np.cumsum(widths)[:-1], axis=1)
    unit = np.array([np.sqrt(np.vdot(z, z) / n) for z in bands])
    if not unit.all():
        raise ValueError(f"no feature of band {int(unit.argmin())} varies over the {n} rows")
    features = [
        torch.from_numpy((z / u).astype(kind)).to(where) for z, u in zip(bands, unit, strict=True)
    ]
    p = int(np.isfinite(spread).sum())
    level = y.mean(axis=0, dtype=np.float64)
    target = (y - level).astype(kind)
    arrays = {"Y": target, "n_iter": tried.clip(min=LEAST_SHARE), "alphas": grid * n / p}
    options = {
        **{name: torch.from_numpy(a.astype(kind)).to(where) for name, a in arrays.items()},
        "cv": splits,
        "fit_intercept": True,
        "n_alphas_batch": 4 if n > p else None,
        "n_targets_batch": targets_at_a_time,
        "progress_bar": False,
    }
    with _backend(backend, "torch_cuda" if where.type == "cuda" else "torch"):
        if n <= p:
            kernels = torch.stack([z @ z.T for z in features])
            deltas, dual, scores, offset = kernel_ridge.solve_multiple_kernel_ridge_random_search(
                kernels, return_weights="dual", **options
            )
            dual = dual.to(where)
            scaled = zip(deltas.to(where).exp(), features, strict=True)
            weights = torch.cat([gamma * (z.T @ dual) for gamma, z in scaled])
        else:
            deltas, weights, scores, offset = ridge.solve_group_ridge_random_search(
                features, return_weights=True, warn=False, **options
            )
    gamma = deltas.exp().double().numpy(force=True)
    total = gamma.sum(axis=0)
    errors = -scores.max(dim=0).values.double().numpy(force=True)
    null = [((target[b] - target[a].mean(axis=0)) ** 2).mean(axis=0) for a, b in splits]
    known = (target != target[0]).any(axis=0) & (np.mean(null, axis=0) > 0)
    return BandedRidge(
        widths=tuple(widths),
        mean=mean.astype(kind),
        spread=spread.astype(kind),
        offset=(offset.numpy(force=True) + level).astype(kind),
        weights=(weights.numpy(force=True) / unit.repeat(widths)[:, None]).astype(kind),
        shares=gamma / total,
        alphas=p / n / total,
        skill=1 - np.divide(errors, np.mean(null, axis=0), out=np.ones_like(errors), where=known),
    )


@contextmanager
def _backend(module: Any, name: str) -> Iterator[None]:
    """Himalaya's backend for a while."""
    before = module.get_backend().name
    module.set_backend(name)
    try:
        yield
    finally:
        module.set_backend(before)
