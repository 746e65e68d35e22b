"""Latents that can teach a recurrent student: few, on its clock, and known to be reliable.

Brain2Model calls this Brain Latent Transfer; how its authors extract latents is not known to us.
Here: condition averages of a (pseudo-)population -> `b2m_fast.teachers.embeddings` -> the student's
steps -> z-scores, with the number of latents and the reliability of each found on halves of the
trials.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.data.arrays import numbers, whole_number
from b2m_fast.data.files import DataError
from b2m_fast.teachers.clocks import Alignment, align
from b2m_fast.teachers.embeddings import METHODS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from b2m_fast.data.decisions import DecisionTask
    from b2m_fast.teachers.populations import Population

__all__ = ["LatentTeacher", "make_latents", "on_clock", "rank_of_averages"]

log = logging.getLogger("b2m_fast")
UNRELIABLE = 0.5


@dataclass(frozen=True, eq=False)
class LatentTeacher:
    """What a student's hidden states are asked to hold.

    Attributes
    ----------
    latents : ndarray
        (conditions, steps, k), float32, on the student's clock; z-scored over conditions and valid
        steps, 0 elsewhere.
    valid : ndarray
        (steps,), bool: steps at which the recording says something.
    reliability : ndarray
        (k,), float64: correlation of each latent with itself in other trials (split halves,
        Spearman-Brown).
    explained : ndarray
        (k,), float64: share of the population's reproducible variance each latent holds. Latents
        that are correlated share it, so the sum can exceed 1.
    report : dict
        Counts, method, what was left out; as JSON can hold it.
    recorded : ndarray, optional
        (conditions,), int64: conditions of the task with the same number have one recorded
        condition, and so the same latents. None: each has its own.
    history : ndarray, optional
        (conditions, steps), int64: conditions with the same number at a step have had the same
        input until then (`b2m_fast.data.epoch_task.EpochTask.history`), so that nobody can know yet
        which it is. None: the condition is known from the beginning.

    Raises
    ------
    DataError
        If `latents` are no numbers in three dimensions, or `recorded` or `history` has another
        shape.
    """

    latents: NDArray[np.float32]
    valid: NDArray[np.bool_]
    reliability: NDArray[np.float64]
    explained: NDArray[np.float64]
    report: dict[str, Any]
    recorded: NDArray[np.int64] | None = None
    history: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        latents = numbers("latents", self.latents, 3, "(conditions, steps, k)")
        object.__setattr__(self, "latents", latents.astype(np.float32, copy=False))
        for name, shape in (
            ("recorded", self.latents.shape[:1]),
            ("history", self.latents.shape[:2]),
        ):
            found = getattr(self, name)
            if found is not None and found.shape != shape:
                raise DataError(f"{name} has shape {found.shape}; expected {shape}")

    @property
    def k(self) -> int:
        """Number of latents."""
        return int(self.latents.shape[2])


def on_clock(course: NDArray[np.floating], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Z-score latents over conditions and steps, and spread them over all steps.

    Parameters
    ----------
    course : ndarray
        (conditions, valid steps, k).
    valid : ndarray
        (steps,), bool.

    Returns
    -------
    ndarray
        (conditions, steps, k), float32; 0 where not valid, and for a latent that never varies.
    """
    centred = course - course.mean(axis=(0, 1))
    spread = centred.std(axis=(0, 1))
    out = np.zeros((len(course), len(valid), course.shape[2]), dtype=np.float32)
    out[:, valid] = centred / np.where(spread > 0, spread, np.inf)
    return out


def rank_of_averages(
    halves: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], maximum: int
) -> int:
    """How many principal components of condition averages are worth keeping.

    Those with which one half of the trials predicts the other best: with components u_j of half A,
    k minimises |X_B - sum_{j<=k} X_A u_j u_j'|^2, summed over both directions of all splits. More
    components than that add more noise than signal.

    Parameters
    ----------
    halves : sequence of (ndarray, ndarray)
        Averages (conditions, steps, units) of halves of the trials.
    maximum : int
        The most to choose.

    Returns
    -------
    int
        At least 1.
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
    epochs: Mapping[str, str] | None = None,
    conditions: Mapping[str, str] | None = None,
    max_stretch: float = 2.0,
) -> LatentTeacher:
    """Latents of a population as a teacher for a task.

    Parameters
    ----------
    population : Population
        Who teaches.
    task : DecisionTask
        What is taught: its steps, epochs and conditions.
    method : {"pca", "dpca", "fa", "cebra"}
        How latents are found (`b2m_fast.teachers.embeddings`).
    k : int, optional
        Number of latents; default: as many as `rank_of_averages` finds reproducible.
    maximum : int, default 12
        The most it may find.
    splits : int, default 10
        Ways of halving the trials.
    seed : int, default 0
        Splits and pseudo-trials.
    epochs, conditions : mapping of str to str, optional
        What of the task belongs to what of the recording, where names differ (see
        `b2m_fast.teachers.clocks.align`).
    max_stretch : float, default 2
        How much time may be stretched.

    Returns
    -------
    LatentTeacher
        Latents with their reliability; unreliable ones are also logged as a warning.

    Raises
    ------
    DataError
        If clocks or conditions do not match, or units, trials or distinct averages are fewer than
        latents.
    ValueError
        If the method is unknown, or `k`, `maximum` or `splits` is no whole number above 0.

    Notes
    -----
    Reliability of a latent: the method is fitted on one half of the trials and applied to both, the
    fit's latents are turned (orthogonal Procrustes) to those of all trials, and what the half that
    was not fitted gives is correlated with what the fitted one gives, over conditions and valid
    steps; r -> 2 r / (1 + r), r below 0 counting as 0, averaged over splits. Noise of the fitted half that the fit has picked
    up is absent in the other, so it lowers r rather than raise it.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; there are {list(METHODS)}")
    for name, value in (("k", k), ("maximum", maximum), ("splits", splits)):
        if value is not None:
            whole_number(name, value, 1)
    clock = align(population, task, epochs=epochs, conditions=conditions, max_stretch=max_stretch)
    rng = np.random.default_rng([seed, 34])
    halves = [population.halves(rng) for _ in range(splits)]
    averages = [(clock(a.average()), clock(b.average())) for a, b in halves]
    if k is None:
        k = rank_of_averages(averages, min(maximum, *_limits(population, clock).values()))
        k = max(k, 2) if method == "cebra" else k
    _check_size(population, clock, k)
    latents = clock(METHODS[method](population, k, seed)(population))
    evidence = [
        _split(pair, means, clock, latents, method, k, seed)
        for pair, means in zip(halves, averages, strict=True)
    ]
    reliability, held, reproduced, variance, identified = (
        np.mean(part, axis=0) for part in zip(*evidence, strict=True)
    )
    # hardly anything reproduces in noise: then shares of it would be shares of nothing
    explained = held / max(reproduced, 0.05 * variance)
    chance = 1 / len(np.unique(clock.condition))
    told_apart = identified >= min(1, chance + 2 * _error(chance, len(averages)))
    if not told_apart:
        log.warning(
            "%s: conditions are recognised in other trials no better than by chance (%.2f, chance "
            "%.2f): its latents do not tell them apart",
            population.name, identified, chance,
        )  # fmt: skip
    weak = [j for j in range(k) if reliability[j] < UNRELIABLE]
    if weak:
        log.warning(
            "%s: latents %s have a split-half reliability under %g: they teach mostly noise",
            population.name, weak, UNRELIABLE,
        )  # fmt: skip
    report = {
        **population.report,
        "method": method,
        "k": k,
        "splits": splits,
        "task": task.name,
        "epochs": clock.stretch,
        "valid_steps": int(clock.valid.sum()),
        "reliability": reliability.tolist(),
        "explained": explained.tolist(),
        "reproducible_share_of_variance": float(reproduced / variance),
        "unreliable": weak,
        "share_between_conditions": _between_conditions(latents).tolist(),
        "condition_identified_in_other_half": float(identified),
        "condition_chance": chance,
        "conditions_told_apart": bool(told_apart),
    }
    return LatentTeacher(
        on_clock(latents, clock.valid),
        clock.valid,
        reliability,
        explained,
        report,
        clock.condition,
        task.history,
    )


def _error(chance: float, splits: int) -> float:
    """Standard error of the share of conditions that guessing gets right in all splits together."""
    return float(np.sqrt(chance * (1 - chance) / (splits / chance)))


def _limits(population: Population, clock: Alignment) -> dict[str, int]:
    """What there must be as many of as latents, or these could not be told apart."""
    bins = min(population.bins, int(clock.valid.sum()))
    return {
        "units": population.units,
        "trials (of the unit with the fewest)": min(len(s.condition) for s in population.sessions),
        "distinct condition averages less one": len(np.unique(clock.condition)) * bins - 1,
    }


def _check_size(population: Population, clock: Alignment, k: int) -> None:
    for what, count in _limits(population, clock).items():
        if count < k:
            raise DataError(
                f"{population.name}: {k} latents need at least as many {what}, got {count}"
            )


def _split(
    halves: tuple[Population, Population],
    averages: tuple[NDArray[np.float64], NDArray[np.float64]],
    clock: Alignment,
    latents: NDArray[np.float64],
    method: str,
    k: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float, float]:
    """What one split of the trials says.

    Reliability (k,); variance of both halves that each latent holds (k,), that reproduces, and that
    there is; share of conditions identified.
    """
    embedding = METHODS[method](halves[0], k, seed)
    own, other = (clock(embedding(half)) for half in halves)
    turn = _procrustes(own, latents)
    own, other = (_centred(z) @ turn for z in (own, other))
    # below 0 nothing reproduces, and Spearman-Brown's 2 r / (1 + r) goes to minus infinity
    r = np.maximum(_correlation(own.reshape(-1, k), other.reshape(-1, k)), 0)
    distinct = np.unique(clock.condition, return_index=True)[1]
    identified = _identified(own[distinct], other[distinct])
    direction = own.reshape(-1, k) / np.maximum(np.linalg.norm(own.reshape(-1, k), axis=0), 1e-12)
    a, b = (_centred(x).reshape(-1, x.shape[2]) for x in averages)
    held = ((direction.T @ a) * (direction.T @ b)).sum(axis=1)
    variance = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return 2 * r / (1 + r), held, float((a * b).sum()), variance, identified


def _centred(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(x - x.mean(axis=(0, 1)))


def _procrustes(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation (k, k) that brings centred `source` nearest to `target`, scales aside."""
    k = source.shape[2]
    a, b = (_centred(z).reshape(-1, k) for z in (source, target))
    u, _, v = np.linalg.svd(a.T @ b)
    return np.asarray(u @ v)


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's r of each column, 0 where one is constant."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.asarray((a * b).sum(axis=0) / np.where(norm > 0, norm, np.inf))


def _identified(own: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Share of conditions whose course in one half is nearest to its own in the other."""
    a, b = (z.reshape(len(z), -1) for z in (own, other))
    distance = ((a[:, None] - b[None]) ** 2).sum(axis=2)
    return float((distance.argmin(axis=0) == np.arange(len(a))).mean())


def _between_conditions(latents: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each latent's variance that tells conditions apart; the rest is time alone."""
    total = latents.var(axis=(0, 1))
    return np.asarray(latents.var(axis=0).mean(axis=0) / np.where(total > 0, total, np.inf))
