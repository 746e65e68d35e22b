"""Ways from a population to a few latents: PCA, demixed PCA, factor analysis, contrastive.

Each is fitted on one population and gives an embedding, a function from a population of the same
neurons (other trials of them, say) to its latents (conditions, bins, k).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from b2m_fast.ops import info_nce

if TYPE_CHECKING:
    from b2m_fast.teachers.populations import Population

__all__ = [
    "METHODS",
    "Embedding",
    "factors",
    "fit_contrastive",
    "fit_dpca",
    "fit_factor_analysis",
    "fit_pca",
    "marginalise",
    "same_covariance",
]

Array = NDArray[np.float64]
Embedding = Callable[["Population"], Array]


def _linear(weights: Array, mean: Array) -> Embedding:
    """(conditions, bins, units) averages, less `mean`, times (units, k) `weights`."""

    def embed(population: Population) -> Array:
        return np.asarray((population.average() - mean) @ weights)

    return embed


def _signed(weights: Array) -> Array:
    """Columns with their largest entry positive, as nothing else decides their sign."""
    largest = np.abs(weights).argmax(axis=0)
    return np.asarray(weights * np.where(weights[largest, range(weights.shape[1])] < 0, -1, 1))


def fit_pca(population: Population, k: int, seed: int = 0) -> Embedding:
    """Principal components of the condition averages.

    Parameters
    ----------
    population : Population
        What to fit.
    k : int
        Latents, in the order of the variance they hold.
    seed : int
        Not used.

    Returns
    -------
    Embedding
        From a population to latents.
    """
    del seed
    average = population.average()
    mean = average.mean(axis=(0, 1))
    basis = np.linalg.svd((average - mean).reshape(-1, population.units), full_matrices=False)[2]
    return _linear(_signed(basis[:k].T), mean)


def factors(conditions: tuple[str, ...]) -> tuple[int, ...]:
    """How conditions are made of factors, read from their names.

    Parameters
    ----------
    conditions : tuple of str
        Names such as "look 3": words are levels of factors, if every combination of words is there
        in the order of `itertools.product`.

    Returns
    -------
    tuple of int
        Levels of each factor; a single factor with all conditions where names say nothing.

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
        varying = [len(level) for level in levels if len(level) > 1]
        if list(product(*levels)) == words:
            return tuple(varying)
    return (len(conditions),)


def marginalise(average: Array, shape: tuple[int, ...]) -> list[Array]:
    """Split condition averages into what depends on time alone, on each factor, and on their mix.

    Parameters
    ----------
    average : ndarray
        (conditions, bins, units), of mean 0 over conditions and bins.
    shape : tuple of int
        Levels of each factor (see `factors`).

    Returns
    -------
    list of ndarray
        Parts that sum to `average`, uncorrelated with each other: time; then every set of factors,
        small ones first, each with its mix with time.
    """
    rest = average.reshape(*shape, *average.shape[1:])
    every = range(len(shape))
    parts = []
    for size in range(len(shape) + 1):
        for kept in combinations(every, size):
            gone = tuple(axis for axis in every if axis not in kept)
            part = np.broadcast_to(
                rest.mean(axis=gone, keepdims=True) if gone else rest, rest.shape
            )
            rest = rest - part
            parts.append(part.reshape(average.shape))
    return parts


# Pseudo-trials of each condition at a time, and stretches of a trial that are told apart.
_PSEUDO_TRIALS = 20
_CONTRASTED = 5
_DPCA_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def fit_dpca(population: Population, k: int, seed: int = 0) -> Embedding:
    """Demixed principal components (Kobak et al. 2016), from the condition averages.

    For each part X_p of the averages X (`marginalise`), reduced-rank ridge regression X -> X_p:
    A = X_p X' (X X' + lambda I)^-1; encoders F are the left singular vectors of A X, decoders
    D = F' A; latents are D X. The k components of the largest singular values over all parts are
    kept, and lambda is the one at which halves of the trials predict each other's parts best.
    Written here because the reference package has had no release since 2020.

    Parameters
    ----------
    population : Population
        What to fit; the names of its conditions tell their factors.
    k : int
        Latents. They are not orthogonal; no more than k are looked for in one part.
    seed : int
        Which halves choose lambda.

    Returns
    -------
    Embedding
        From a population to latents.
    """
    rng = np.random.default_rng([seed, 30])
    shape = factors(population.conditions)
    first, second = (half.average() for half in population.halves(rng))
    error = {
        penalty: _dpca_error(first, second, shape, k, penalty)
        + _dpca_error(second, first, shape, k, penalty)
        for penalty in _DPCA_PENALTIES
    }
    average = population.average()
    mean = average.mean(axis=(0, 1))
    parts = _dpca(average - mean, shape, k, min(error, key=lambda penalty: error[penalty]))
    strength = np.concatenate([s for s, _, _ in parts])
    decoders = np.concatenate([d for _, _, d in parts], axis=1)
    best = np.argsort(-strength, kind="stable")[:k]
    return _linear(_signed(decoders[:, best]), mean)


def _dpca(
    centred: Array, shape: tuple[int, ...], k: int, penalty: float
) -> list[tuple[Array, Array, Array]]:
    """Singular values (q,), encoders (units, q) and decoders (units, q) of each part.

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
    """Squared error of the other half's parts, predicted from this half's fit."""
    mean = fit.mean(axis=(0, 1))
    shown = test - mean
    parts = marginalise(fit - mean, shape)
    return float(
        sum(
            ((part - (shown @ decoder) @ encoder.T) ** 2).sum()
            for part, (_, encoder, decoder) in zip(
                parts, _dpca(fit - mean, shape, k, penalty), strict=True
            )
        )
    )


def fit_factor_analysis(population: Population, k: int, seed: int = 0) -> Embedding:
    """Factor analysis of single (pseudo-)trials: what neurons share, apart from each one's noise.

    Parameters
    ----------
    population : Population
        What to fit.
    k : int
        Latents, in the order of their variance over conditions and bins.
    seed : int
        Which trials meet in a pseudo-trial.

    Returns
    -------
    Embedding
        From a population to latents.

    Raises
    ------
    ImportError
        If scikit-learn is not installed.
    """
    try:
        from sklearn.decomposition import FactorAnalysis  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "factor analysis needs scikit-learn: pip install 'b2m-fast[transfer]'"
        ) from error
    rng = np.random.default_rng([seed, 31])
    rates, _ = population.pseudo_trials(_PSEUDO_TRIALS, rng)
    x = rates.reshape(-1, population.units).astype(np.float64)
    mean = x.mean(axis=0)
    small = same_covariance(x - mean)
    model = FactorAnalysis(k, tol=1e-3, svd_method="lapack")
    model.fit(small)
    weights = np.asarray(model.transform(np.eye(population.units)), dtype=np.float64)
    latents = ((population.average() - mean) @ weights).reshape(-1, k)
    axes = np.linalg.svd(latents - latents.mean(axis=0), full_matrices=False)[2]
    return _linear(_signed(weights @ axes.T), mean)


def same_covariance(centred: Array) -> Array:
    """Few rows with the mean and the covariance of many: all that factor analysis looks at.

    Parameters
    ----------
    centred : ndarray
        (rows, units), of mean 0.

    Returns
    -------
    ndarray
        At most two rows a unit.
    """
    triangle = np.linalg.qr(centred, mode="r")
    triangle *= np.sqrt(len(triangle) / len(centred))
    return np.concatenate([triangle, -triangle])


def fit_contrastive(population: Population, k: int, seed: int = 0, steps: int = 300) -> Embedding:
    """A small contrastive embedding in the manner of CEBRA (Schneider et al. 2023).

    A network of one hidden layer maps the population at one moment to a point on the unit sphere in
    k dimensions; InfoNCE pulls together moments of different trials of the same condition and
    fifth of the trial, and pushes apart all others; neurons meet in new pseudo-trials as it goes. The package `cebra` does more; what is needed here is a page on top
    of the fused loss, without its dependencies.

    Parameters
    ----------
    population : Population
        What to fit.
    k : int
        Latents, at least 2: coordinates on the sphere, turned to their principal axes.
    seed : int
        Pseudo-trials, the network's first weights, and batches.
    steps : int, default 300
        Steps of Adam at batch 256.

    Returns
    -------
    Embedding
        From a population to the mean over its pseudo-trials of their places on the sphere.

    Raises
    ------
    ValueError
        If `k` is less than 2.
    """
    if k < 2:
        raise ValueError(f"a contrastive embedding lies on a sphere: k must be at least 2, got {k}")
    rng = np.random.default_rng([seed, 32])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    bins, units = population.bins, population.units
    stretch = -(-bins // _CONTRASTED)
    label = torch.arange(len(population.conditions))[:, None] * bins + torch.arange(bins) // stretch
    network = nn.Sequential(nn.Linear(units, 64), nn.GELU(), nn.Linear(64, k))
    with torch.no_grad():
        for parameter in network.parameters():
            bound = 1 / parameter.shape[-1] ** 0.5
            parameter.uniform_(-bound, bound, generator=generator)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, weight_decay=1e-4)
    for step in range(steps):
        if step % 25 == 0:  # neurons meet anew
            rates, _ = population.pseudo_trials(_PSEUDO_TRIALS, rng)
            shown = torch.from_numpy(rates).view(-1, _PSEUDO_TRIALS, bins, units)
        condition = torch.randint(len(shown), (256,), generator=generator)
        trial, other = torch.randint(_PSEUDO_TRIALS, (2, 256), generator=generator)
        moment = torch.randint(bins, (256,), generator=generator)
        query = network(shown[condition, trial, moment])
        key = network(shown[condition, other, moment])
        loss = info_nce(query, key, temperature=0.1, labels=label[condition, moment])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def places(those: Population) -> Array:
        pseudo, which = those.pseudo_trials(_PSEUDO_TRIALS, np.random.default_rng([seed, 33]))
        with torch.no_grad():
            points = nn.functional.normalize(network(torch.from_numpy(pseudo)), dim=2).double()
        return np.stack([points[which == c].mean(0).numpy() for c in np.unique(which)])

    flat = places(population).reshape(-1, k)
    axes = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)[2].T
    return lambda those: np.asarray(places(those) @ axes)


METHODS: dict[str, Callable[[Population, int, int], Embedding]] = {
    "pca": fit_pca,
    "dpca": fit_dpca,
    "fa": fit_factor_analysis,
    "cebra": fit_contrastive,
}
