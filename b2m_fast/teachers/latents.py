"""Latents that can teach a recurrent student: few, at its steps, and of known reliability.

Brain2Model calls this Brain Latent Transfer; how its authors extract latents is not known to us.
Here: condition averages of a (pseudo-)population -> `b2m_fast.teachers.embeddings` -> the steps of
the student's task -> z-scores. The number of latents and the reliability of each are estimated on
halves of the trials.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from b2m_fast.data.files import DataError, numbers, whole_number
from b2m_fast.encoding.columns import column_correlation, standardised
from b2m_fast.teachers.alignment import Alignment, align
from b2m_fast.teachers.embeddings import METHODS, fit_contrastive

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from b2m_fast.data.tasks import DecisionTask
    from b2m_fast.teachers.embeddings import Embedding
    from b2m_fast.teachers.population import Population

Array = NDArray[np.float64]
log = logging.getLogger("b2m_fast")
UNRELIABLE = 0.5
ALIASES = {"cebra": "contrastive-embedding"}  # a former name; it is not the package CEBRA


@dataclass(frozen=True, eq=False)
class LatentTeacher:
    """Latents of a brain, which a student's hidden states are trained to hold.

    Attributes
    ----------
    latents : ndarray
        (conditions, steps, k), float32, at the steps of the task; z-scored over conditions and valid
        steps, 0 at the others.
    valid : ndarray
        (steps,), bool: steps that were recorded.
    reliability : ndarray
        (k,), float64: correlation of each latent with itself in other trials (split halves,
        Spearman-Brown).
    explained : ndarray
        (k,), float64: share of the population's reproducible variance each latent holds. Correlated
        latents share it, so that the sum can exceed 1.
    report : dict
        Counts, method, what was left out; can be written as JSON.
    recorded : ndarray, optional
        (conditions,), int64: conditions of the task with the same number have one recorded
        condition, and so the same latents. None: each has its own.
    shared_prefix : ndarray, optional
        (conditions, steps), int64: conditions with the same number at a step have had the same input
        so far (`EpochTask.history`), so that they cannot be told apart yet. None: the condition is
        known from the beginning.

    Raises
    ------
    DataError
        If `latents` are no numbers in three dimensions, or `recorded` or `shared_prefix` has another
        shape.
    """

    latents: NDArray[np.float32]
    valid: NDArray[np.bool_]
    reliability: NDArray[np.float64]
    explained: NDArray[np.float64]
    report: dict[str, Any]
    recorded: NDArray[np.int64] | None = None
    shared_prefix: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        latents = numbers("latents", self.latents, 3, "(conditions, steps, k)")
        object.__setattr__(self, "latents", latents.astype(np.float32, copy=False))
        for name, ndim in (("recorded", 1), ("shared_prefix", 2)):
            found, shape = getattr(self, name), self.latents.shape[:ndim]
            if found is not None and found.shape != shape:
                raise DataError(f"{name} has shape {found.shape}; expected {shape}")

    @property
    def k(self) -> int:
        """Number of latents."""
        return int(self.latents.shape[2])


def z_scored_steps(course: NDArray[np.floating], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Z-score latents (conditions, valid steps, k) over conditions and steps; add the other steps.

    The result (conditions, steps, k) is 0 where not valid, and for a latent that never varies.
    """
    out = np.zeros((len(course), len(valid), course.shape[2]), dtype=np.float32)
    out[:, valid] = standardised(course.reshape(-1, course.shape[2])).reshape(course.shape)
    return out


def rank_of_averages(halves: Sequence[tuple[Array, Array]], maximum: int) -> int:
    """Return the number of components with which halves of the trials predict each other best.

    With principal components u_j of half A, k in 1 to `maximum` minimises
    |X_B - sum_{j<=k} X_A u_j u_j'|^2, summed over both directions of all pairs of averages
    (conditions, steps, units). More components than that add more noise than signal.
    """
    gain = np.zeros(maximum)
    for pair in halves:
        a, b = (half.reshape(-1, half.shape[2]) for half in pair)
        for x, y in ((a, b), (b, a)):
            basis = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][:maximum].T
            own, other = (x - x.mean(axis=0)) @ basis, (y - y.mean(axis=0)) @ basis
            gain[: basis.shape[1]] += (2 * own * other - own**2).sum(axis=0)
    return int(np.argmax(np.cumsum(gain))) + 1


def make_latents(
    population: Population,
    task: DecisionTask,
    *,
    method: str = "pca",
    k: int | None = None,
    maximum: int = 12,
    splits: int = 10,
    seed: int = 0,
    device: torch.device | str = "cpu",
    **matching: Any,
) -> LatentTeacher:
    """Latents of a population as a teacher for a task.

    Parameters
    ----------
    population : Population
        The recorded population.
    task : DecisionTask
        The student's task: its steps, epochs and conditions.
    method : {"pca", "dpca", "fa", "contrastive-embedding"}
        See `b2m_fast.teachers.embeddings`.
    k : int, optional
        Number of latents; default: that of `rank_of_averages`.
    maximum : int, default 12
        Largest number of latents that may be found.
    splits : int, default 10
        Ways of halving the trials.
    seed : int, default 0
        Of splits and pseudo-trials.
    device : torch.device or str
        Where the contrastive embedding is fitted; the other methods run on the CPU.
    **matching
        ``epochs``, ``conditions`` and ``max_stretch`` of `b2m_fast.teachers.alignment.align`.

    Returns
    -------
    LatentTeacher
        Latents with their reliability; a warning names unreliable ones.

    Raises
    ------
    DataError
        If epochs or conditions do not match, or there are fewer units, trials or distinct averages
        than latents.
    ValueError
        If the method is unknown, or `k`, `maximum` or `splits` is no whole number above 0.

    Notes
    -----
    Reliability of a latent: the method is fitted on one half of the trials and applied to both; the
    latents of that fit are rotated (orthogonal Procrustes) to those of all trials; r is the
    correlation of both halves over conditions and valid steps. r < 0 counts as 0; 2 r / (1 + r) is
    averaged over splits. Noise of the fitted half is absent in the other, so that it lowers r.

    Cost: `splits` + 1 fits of the method.

    Examples
    --------
    >>> teacher = make_latents(make_population(recording), task, epochs={"delay": "memory"})
    >>> teacher.latents.shape, teacher.reliability.round(2)
    ((12, 44, 3), array([0.99, 0.98, 0.87]))
    """
    method = ALIASES.get(method, method)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; there are {list(METHODS)}")
    fitter = METHODS[method]
    for name, value in (("k", k), ("maximum", maximum), ("splits", splits)):
        if value is not None:
            whole_number(name, value, 1)
    clock = align(population, task, **matching)
    rng = np.random.default_rng([seed, 34])
    halves = [population.halves(rng) for _ in range(splits)]
    averages = [(clock(a.average()), clock(b.average())) for a, b in halves]
    k = _number(population, clock, averages, k, maximum, least=1 + (fitter is fit_contrastive))
    fit = partial(fitter, k=k, seed=seed, device=device)
    latents = clock(fit(population)(population))
    evidence = [
        _compare_halves(pair, means, clock, latents, fit)
        for pair, means in zip(halves, averages, strict=True)
    ]
    quality = _quality(population.name, evidence, latents, len(np.unique(clock.condition)))
    report = {
        **population.report,
        "method": method,
        "k": k,
        "splits": splits,
        "task": task.name,
        "epochs": clock.stretch,
        "valid_steps": int(clock.valid.sum()),
        **quality,
    }
    return LatentTeacher(
        z_scored_steps(latents, clock.valid),
        clock.valid,
        np.array(quality["reliability"]),
        np.array(quality["explained"]),
        report,
        clock.condition,
        task.history,
    )


def _number(
    population: Population,
    clock: Alignment,
    averages: Sequence[tuple[Array, Array]],
    k: int | None,
    maximum: int,
    least: int,
) -> int:
    """Return k, or the number that is reproducible; DataError where latents cannot be told apart."""
    bins = min(population.bins, int(clock.valid.sum()))
    limits = {
        "units": population.units,
        "trials (of the unit with the fewest)": min(len(s.condition) for s in population.sessions),
        "distinct condition averages less one": len(np.unique(clock.condition)) * bins - 1,
    }
    if k is None:
        k = max(least, rank_of_averages(averages, min(maximum, *limits.values())))
    for what, count in limits.items():
        if count < k:
            raise DataError(
                f"{population.name}: {k} latents need at least as many {what}, got {count}"
            )
    return k


class _Evidence(NamedTuple):
    """Result of one split of the trials."""

    reliability: Array  # (k,)
    held: Array  # (k,), reproducible variance that each latent holds
    reproduced: float  # reproducible variance in all
    variance: float
    identified: float  # share of conditions nearest to themselves in the other half


def _compare_halves(
    halves: tuple[Population, Population],
    averages: tuple[Array, Array],
    clock: Alignment,
    latents: Array,
    fit: Callable[[Population], Embedding],
) -> _Evidence:
    """Fit the method on the first half of the trials and compare what it gives for both."""
    k = latents.shape[2]
    embedding = fit(halves[0])
    own, other = (_centred(clock(embedding(half))) for half in halves)
    u, _, v = np.linalg.svd(own.reshape(-1, k).T @ _centred(latents).reshape(-1, k))
    own, other = own @ (u @ v), other @ (u @ v)  # orthogonal Procrustes to the latents of all
    # r < 0: nothing reproduces; Spearman-Brown of r near -1 is minus infinity
    r = np.maximum(column_correlation(own.reshape(-1, k), other.reshape(-1, k)), 0)
    distinct = np.unique(clock.condition, return_index=True)[1]
    x, y = (z[distinct].reshape(len(distinct), -1) for z in (own, other))
    distance = ((x[:, None] - y[None]) ** 2).sum(axis=2)
    identified = (distance.argmin(axis=0) == np.arange(len(x))).mean()
    direction = own.reshape(-1, k) / np.maximum(np.linalg.norm(own.reshape(-1, k), axis=0), 1e-12)
    a, b = (_centred(mean).reshape(-1, mean.shape[2]) for mean in averages)
    held = ((direction.T @ a) * (direction.T @ b)).sum(axis=1)
    variance = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return _Evidence(2 * r / (1 + r), held, float((a * b).sum()), variance, float(identified))


def _quality(
    name: str, evidence: list[_Evidence], latents: Array, conditions: int
) -> dict[str, Any]:
    """Average the evidence of all splits for the report; warn of latents that teach noise."""
    mean = _Evidence(*(np.mean(part, axis=0) for part in zip(*evidence, strict=True)))
    # at least 5 % of the variance: with almost nothing reproducible the ratio would be noise
    explained = mean.held / max(mean.reproduced, 0.05 * mean.variance)
    chance = 1 / conditions
    error = float(np.sqrt(chance * (1 - chance) / (len(evidence) / chance)))
    told_apart = bool(mean.identified >= min(1, chance + 2 * error))
    if not told_apart:
        log.warning(
            f"{name}: conditions are identified in other trials no better than by chance "
            f"({mean.identified:.2f}, chance {chance:.2f}): its latents do not tell them apart"
        )
    weak = np.flatnonzero(mean.reliability < UNRELIABLE).tolist()
    if weak:
        log.warning(
            f"{name}: latents {weak} have a split-half reliability under {UNRELIABLE:g}: they teach "
            "mostly noise"
        )
    total = latents.var(axis=(0, 1))
    between = latents.var(axis=0).mean(axis=0) / np.where(total > 0, total, np.inf)
    return {
        "reliability": mean.reliability.tolist(),
        "explained": explained.tolist(),
        "reproducible_share_of_variance": float(mean.reproduced / mean.variance),
        "unreliable": weak,
        "share_between_conditions": between.tolist(),
        "condition_identified_in_other_half": float(mean.identified),
        "condition_chance": chance,
        "conditions_told_apart": told_apart,
    }


def _centred(x: Array) -> Array:
    """Subtract the mean over conditions and steps."""
    return np.asarray(x - x.mean(axis=(0, 1)))
