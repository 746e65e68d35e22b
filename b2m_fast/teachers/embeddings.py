"""Embeddings of a population in a few dimensions: PCA, demixed PCA, factor analysis, contrastive.

Each is fitted on one population and returns a function from a population of the same units (other
trials of them, for example) to latents (conditions, bins, k).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import FactorAnalysis
from torch import nn

from b2m_fast.ops import info_nce

if TYPE_CHECKING:
    from b2m_fast.teachers.population import Population

Array = NDArray[np.float64]
Embedding = Callable[["Population"], Array]

_PSEUDO_TRIALS = 20  # of each condition at a time
_SEGMENTS = 5  # of a trial that the contrastive embedding tells apart
_DPCA_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def _linear(weights: Array, mean: Array) -> Embedding:
    """Return the map of averages, less `mean` (units,), by `weights` (units, k)."""
    return lambda population: np.asarray((population.average() - mean) @ weights)


def _signed(weights: Array) -> Array:
    """Turn each column so that its largest entry is positive: its sign is arbitrary otherwise."""
    largest = np.abs(weights).argmax(axis=0)
    return np.asarray(weights * np.where(weights[largest, range(weights.shape[1])] < 0, -1, 1))


def _principal_axes(x: Array) -> Array:
    """Return the principal axes (d, min(n, d)) of rows (n, d)."""
    return np.asarray(np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2].T)


def fit_pca(population: Population, k: int, **_: Any) -> Embedding:
    """Principal components of the condition averages, in the order of their variance."""
    average = population.average()
    mean = average.mean(axis=(0, 1))
    basis = np.linalg.svd((average - mean).reshape(-1, population.units), full_matrices=False)[2]
    return _linear(_signed(basis[:k].T), mean)


# --------------------------------------------------------------------------------------------------
# Demixed PCA
# --------------------------------------------------------------------------------------------------
def factors(conditions: tuple[str, ...]) -> tuple[int, ...]:
    """Return the numbers of levels of the factors that the names of conditions are made of.

    Words are levels of factors if every combination of words is there, in the order of
    `itertools.product`; otherwise all conditions are levels of one factor.

    Examples
    --------
    >>> factors(("look 1", "look 2", "look 3", "no-look 1", "no-look 2", "no-look 3"))
    (2, 3)
    >>> factors(("left", "right"))
    (2,)
    """
    words = [tuple(name.split()) for name in conditions]
    if len({len(w) for w in words}) == 1:
        levels = [tuple(dict.fromkeys(column)) for column in zip(*words, strict=True)]
        if list(product(*levels)) == words:
            return tuple(len(level) for level in levels if len(level) > 1)
    return (len(conditions),)


def marginalise(average: Array, shape: tuple[int, ...]) -> list[Array]:
    """Split averages (conditions, bins, units) of mean 0 into uncorrelated parts that sum to them.

    First the part that depends on time alone; then, for every set of factors (`shape`: the levels of
    each), small sets first, the part that depends on these factors and on their mix with time.
    """
    rest = average.reshape(*shape, *average.shape[1:])
    parts = []
    for size in range(len(shape) + 1):
        for kept in combinations(range(len(shape)), size):
            averaged = tuple(axis for axis in range(len(shape)) if axis not in kept)
            mean = rest.mean(axis=averaged, keepdims=True) if averaged else rest
            part = np.broadcast_to(mean, rest.shape)
            rest = rest - part
            parts.append(part.reshape(average.shape))
    return parts


def fit_dpca(population: Population, k: int, *, seed: int = 0, **_: Any) -> Embedding:
    """Demixed principal components (Kobak et al. 2016) of the condition averages.

    For each part X_p of the averages X (`marginalise`), reduced-rank ridge regression X -> X_p:
    A = X_p X' (X X' + lambda I)^-1; encoders F are the left singular vectors of A X, decoders
    D = F' A, latents D X. Kept are the k components of the largest singular values of all parts, not
    orthogonal; lambda is the one at which halves of the trials (split by `seed`) predict each
    other's parts best. Own code, as the reference package has had no release since 2020.
    """
    rng = np.random.default_rng([seed, 30])
    shape = factors(population.conditions)
    first, second = (half.average() for half in population.halves(rng))
    pairs = ((first, second), (second, first))
    errors = [sum(_dpca_error(*pair, shape, k, p) for pair in pairs) for p in _DPCA_PENALTIES]
    average = population.average()
    mean = average.mean(axis=(0, 1))
    parts = _dpca(average - mean, shape, k, _DPCA_PENALTIES[int(np.argmin(errors))])
    strength = np.concatenate([s for s, _, _ in parts])
    decoders = np.concatenate([d for _, _, d in parts], axis=1)
    return _linear(_signed(decoders[:, np.argsort(-strength, kind="stable")[:k]]), mean)


def _dpca(
    centred: Array, shape: tuple[int, ...], k: int, penalty: float
) -> list[tuple[Array, Array, Array]]:
    """Return singular values (q,), encoders (units, q) and decoders (units, q) of each part.

    The penalty is in units of the mean squared norm of a row.
    """
    x = centred.reshape(-1, centred.shape[2])
    rows, units = x.shape
    strength = penalty * (x**2).sum() / rows
    if units < rows:
        ridge = np.linalg.solve(x.T @ x + strength * np.eye(units), x.T)
    else:
        ridge = np.linalg.solve(x @ x.T + strength * np.eye(rows), x).T
    found = []
    for part in marginalise(centred, shape):
        target = part.reshape(x.shape)
        _, size, basis = np.linalg.svd(x @ (ridge @ target), full_matrices=False)
        encoder = basis[:k].T
        found.append((size[:k], encoder, ridge @ (target @ encoder)))
    return found


def _dpca_error(fit: Array, test: Array, shape: tuple[int, ...], k: int, penalty: float) -> float:
    """Return the squared error of the parts of `fit`, predicted from `test` by the fit of `fit`."""
    mean = fit.mean(axis=(0, 1))
    error = 0.0
    for part, (_, encoder, decoder) in zip(
        marginalise(fit - mean, shape), _dpca(fit - mean, shape, k, penalty), strict=True
    ):
        error += float(((part - ((test - mean) @ decoder) @ encoder.T) ** 2).sum())
    return error


# --------------------------------------------------------------------------------------------------
# Single trials
# --------------------------------------------------------------------------------------------------
def fit_factor_analysis(population: Population, k: int, *, seed: int = 0, **_: Any) -> Embedding:
    """Factor analysis of pseudo-trials (drawn by `seed`): what units share, without their own noise.

    Factors are turned to their principal axes over conditions and bins.
    """
    rng = np.random.default_rng([seed, 31])
    rates = population.pseudo_trials(_PSEUDO_TRIALS, rng)[0]
    x = rates.reshape(-1, population.units).astype(np.float64)
    mean = x.mean(axis=0)
    model = FactorAnalysis(k, tol=1e-3, svd_method="lapack").fit(same_covariance(x - mean))
    weights = np.asarray(model.transform(np.eye(population.units)), dtype=np.float64)
    latents = ((population.average() - mean) @ weights).reshape(-1, k)
    return _linear(_signed(weights @ _principal_axes(latents)), mean)


def same_covariance(centred: Array) -> Array:
    """Return at most two rows a unit with the mean (0) and covariance of many rows (n, units).

    These are all that factor analysis looks at.
    """
    triangle = np.linalg.qr(centred, mode="r")
    triangle *= np.sqrt(len(triangle) / len(centred))
    return np.concatenate([triangle, -triangle])


def fit_contrastive(
    population: Population,
    k: int,
    *,
    seed: int = 0,
    steps: int = 300,
    device: torch.device | str = "cpu",
) -> Embedding:
    """Contrastive embedding: a small network, in the manner of CEBRA (Schneider et al. 2023).

    A network of one hidden layer maps the population at one moment to a point on the unit sphere in
    k >= 2 dimensions. InfoNCE pulls together moments of different trials of one condition and fifth
    of the trial, and pushes apart all others (Adam, batch 256); pseudo-trials are drawn anew every
    25 steps. Latents are the means over pseudo-trials, turned to their principal axes. The package
    `cebra` does more; this is what is needed here, on the fused loss, without its dependencies.
    """
    if k < 2:
        raise ValueError(f"a contrastive embedding lies on a sphere: k must be at least 2, got {k}")
    rng = np.random.default_rng([seed, 32])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    bins, units = population.bins, population.units
    length = -(-bins // _SEGMENTS)
    segment = np.arange(len(population.conditions))[:, None] * bins + np.arange(bins) // length
    label = torch.from_numpy(segment)
    drawn: dict[str, Any] = {"generator": generator, "device": generator.device}
    layers = (nn.Linear(a, b, device=generator.device) for a, b in ((units, 64), (64, k)))
    network = nn.Sequential(next(layers), nn.GELU(), next(layers))
    with torch.no_grad():
        for parameter in network.parameters():
            bound = 1 / parameter.shape[-1] ** 0.5
            parameter.uniform_(-bound, bound, generator=generator)
    network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, weight_decay=1e-4)
    for step in range(steps):
        if step % 25 == 0:
            rates, _ = population.pseudo_trials(_PSEUDO_TRIALS, rng)
            trials = torch.from_numpy(rates).view(-1, _PSEUDO_TRIALS, bins, units)
        condition = torch.randint(len(trials), (256,), **drawn)
        trial, other = torch.randint(_PSEUDO_TRIALS, (2, 256), **drawn)
        moment = torch.randint(bins, (256,), **drawn)
        query, key = (
            network(trials[condition, chosen, moment].to(device)) for chosen in (trial, other)
        )
        labels = label[condition, moment].to(device)
        loss = info_nce(query, key, temperature=0.1, labels=labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def mean_points(those: Population) -> Array:
        pseudo, which = those.pseudo_trials(_PSEUDO_TRIALS, np.random.default_rng([seed, 33]))
        with torch.no_grad():
            points = nn.functional.normalize(network(torch.from_numpy(pseudo).to(device)), dim=2)
        points = points.double().cpu()
        return np.stack([points[which == c].mean(0).numpy() for c in np.unique(which)])

    axes = _principal_axes(mean_points(population).reshape(-1, k))
    return lambda those: np.asarray(mean_points(those) @ axes)


METHODS: dict[str, Callable[..., Embedding]] = {
    "pca": fit_pca,
    "dpca": fit_dpca,
    "fa": fit_factor_analysis,
    "contrastive-embedding": fit_contrastive,
}
