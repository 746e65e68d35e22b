"""Populations of neurons in trials of a task: smoothed, z-scored rates, averages, pseudo-trials.

Neurons that were not recorded together are pooled into a *pseudo-population*: averages over the
trials of a condition stand side by side as if they had been recorded at once. What is lost is what
neurons share from trial to trial; what is kept is what each of them tells of the condition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.data.files import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from b2m_fast.data.recording import Brain, Recording, TimeAxis

CONSTANT = 1e-5  # of its mean: a standard deviation that may be rounding noise of float32


@dataclass(frozen=True, eq=False)
class Session:
    """Rates (trials, units, bins) of units recorded together; condition (trials,) of each trial."""

    rates: NDArray[np.float32]
    condition: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Population:
    """Rates of a (pseudo-)population in single trials.

    Attributes
    ----------
    name : str
        Name of the recording.
    sessions : tuple of Session
        Z-scored rates (trials, units, bins), float32, and the condition of each trial; every unit
        has at least two trials of every condition.
    conditions : tuple of str
        Names of the conditions.
    time : TimeAxis
        Bins and epochs.
    report : dict
        Numbers of units and trials, and of units left out.
    """

    name: str
    sessions: tuple[Session, ...]
    conditions: tuple[str, ...]
    time: TimeAxis
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def units(self) -> int:
        """Units of all sessions."""
        return sum(session.rates.shape[1] for session in self.sessions)

    @property
    def bins(self) -> int:
        """Bins of a trial."""
        return int(self.sessions[0].rates.shape[2])

    @property
    def fewest_trials(self) -> int:
        """Trials of the rarest condition of any unit."""
        n = len(self.conditions)
        return min(int(np.bincount(s.condition, minlength=n).min()) for s in self.sessions)

    def average(self) -> NDArray[np.float64]:
        """Return the mean over the trials of each condition, (conditions, bins, units)."""
        n = range(len(self.conditions))
        means = (
            [s.rates[s.condition == c].mean(axis=0, dtype=np.float64).T for c in n]
            for s in self.sessions
        )
        return np.concatenate(list(map(np.stack, means)), axis=2)

    def halves(self, rng: np.random.Generator) -> tuple[Population, Population]:
        """Return two populations of the same units from disjoint trials, split in each condition.

        Of an odd number of trials the second half gets one more or one less, at random.
        """
        parts: tuple[list[Session], list[Session]] = ([], [])
        for session in self.sessions:
            first = np.zeros(len(session.condition), dtype=bool)
            for c in range(len(self.conditions)):
                rows = rng.permutation(np.flatnonzero(session.condition == c))
                first[rows[: (len(rows) + int(rng.integers(2))) // 2]] = True
            for part, chosen in zip(parts, (first, ~first), strict=True):
                part.append(Session(session.rates[chosen], session.condition[chosen]))
        return replace(self, sessions=tuple(parts[0])), replace(self, sessions=tuple(parts[1]))

    def pseudo_trials(
        self, per_condition: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return trials of the whole population, each made of one random trial of every session.

        A session's trials of a condition are all used once before one is used again.

        Returns
        -------
        rates : ndarray
            (conditions * per_condition, bins, units), float32.
        condition : ndarray
            (conditions * per_condition,), int64.
        """
        condition = np.repeat(np.arange(len(self.conditions)), per_condition)
        parts = []
        for session in self.sessions:
            rows = []
            for c in range(len(self.conditions)):
                trials = np.flatnonzero(session.condition == c)
                rounds = -(-per_condition // len(trials))
                drawn = np.concatenate([rng.permutation(trials) for _ in range(rounds)])
                rows.append(drawn[:per_condition])
            parts.append(session.rates[np.concatenate(rows)].transpose(0, 2, 1))
        return np.concatenate(parts, axis=2).astype(np.float32), condition


def make_population(
    brain: Brain,
    *,
    smooth_ms: float = 50.0,
    minimum_trials: int = 2,
    minimum_rate: float = 0.5,
) -> Population:
    """Responses in trials of a task, smoothed in time, z-scored per unit over all trials and bins.

    Parameters
    ----------
    brain : Brain
        Recordings of trials, with bins. Counts become spikes per second; rates, traces and
        estimates stay as they are.
    smooth_ms : float, default 50
        Standard deviation of the Gaussian, in milliseconds; 0: no smoothing. It looks to both
        sides, so that a teacher at one moment knows of the next `smooth_ms`.
    minimum_trials : int, default 2
        Units with fewer trials of any condition are left out; at least 2, as without repeats noise
        cannot be estimated.
    minimum_rate : float, default 0.5
        Spiking units with a lower mean rate, in spikes per second, are left out.

    Returns
    -------
    Population
        Its report says how many units and trials there are and why units were left out.

    Raises
    ------
    DataError
        If responses have no bins, there is only one condition, no unit has repeats of every
        condition, or none is left.
    ValueError
        If `smooth_ms` is negative or not finite, or `minimum_trials` less than 2.

    Examples
    --------
    >>> population = make_population(b2m_fast.data.load("pfc-memory"), minimum_trials=16)
    >>> population.units, population.average().shape
    (315, (12, 20, 315))
    """
    if not 0 <= smooth_ms < math.inf:
        raise ValueError(f"smooth_ms must not be negative, and finite, got {smooth_ms}")
    if minimum_trials < 2:
        raise ValueError(f"minimum_trials must be at least 2, got {minimum_trials}")
    name, conditions = brain.name, tuple(brain.conditions)
    time, trials = _checked(brain, minimum_trials)
    sessions, kept_trials, enough, slow = [], [], 0, 0
    for recording, count in zip(brain.recordings, trials, strict=True):
        if count.min() >= minimum_trials:
            rates, too_slow = _rates(recording, time.bin_ms, minimum_rate)
            enough, slow = enough + len(too_slow), slow + int(too_slow.sum())
            smooth = smoother(rates.shape[2], smooth_ms / time.bin_ms).T
            rates = _z_scored(rates[:, ~too_slow] @ smooth)
            if rates.shape[1]:
                sessions.append(Session(rates, recording.codes(conditions)))
                kept_trials.append(count)
    if not sessions:
        raise DataError(
            f"{name}: none of {enough} units fires {minimum_rate} spikes/s or more and "
            f"ever varies ({slow} too slow, {enough - slow} constant)"
        )
    population = Population(name, tuple(sessions), conditions, time)
    report = {
        "recording": name,
        "synthetic": brain.synthetic,
        "units": population.units,
        "units_recorded": brain.units,
        "units_with_too_few_trials": brain.units - enough,
        "units_too_slow": slow,
        "units_constant": enough - slow - population.units,
        "sessions": len(sessions),
        "conditions": len(conditions),
        "trials_per_condition_median": float(np.median(kept_trials)),
        "trials_per_condition_min": population.fewest_trials,
        "bin_ms": time.bin_ms,
        "smooth_ms": smooth_ms,
    }
    return replace(population, report=report)


def _checked(brain: Brain, minimum_trials: int) -> tuple[TimeAxis, list[NDArray[np.int64]]]:
    """Return the bins, and each recording's trials of each condition; DataError if none is enough."""
    name, conditions, n = brain.name, tuple(brain.conditions), len(brain.conditions)
    if n < 2:
        raise DataError(f"{name}: a teacher needs at least two conditions, got {list(conditions)}")
    time = brain.recordings[0].time
    if time is None or any(r.time is None for r in brain.recordings):
        raise DataError(f"{name}: responses have no bins: their time course is needed")
    trials = [np.bincount(r.codes(conditions), minlength=n) for r in brain.recordings]
    best = max(trials, key=min)
    if best.min() < minimum_trials:
        few = ", ".join(
            f"{conditions[c]!r} {best[c]}" for c in range(n) if best[c] < minimum_trials
        )
        raise DataError(
            f"{name}: no unit has {minimum_trials} trials of each of the {n} conditions (at most "
            f"{best.min()}; the best one has of {few}): without repeats signal and noise cannot be "
            "told apart"
        )
    return time, trials


def _rates(
    recording: Recording, bin_ms: float, minimum: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return responses, counts as spikes per second, and which spiking units are too slow."""
    rates = np.concatenate([block for _, block in recording.blocks()]).astype(np.float32)
    if recording.kind == "counts":
        rates *= np.float32(1e3 / bin_ms)
    slow = rates.mean(axis=(0, 2), dtype=np.float64) < minimum
    return rates, slow & (recording.kind in {"counts", "rate"})


def smoother(bins: int, width: float) -> NDArray[np.float32]:
    """Return the matrix (bins, bins) of a Gaussian `width` bins wide; rows sum to 1 at ends too."""
    if width == 0:
        return np.eye(bins, dtype=np.float32)
    distance = np.arange(bins)[:, None] - np.arange(bins)
    weight = np.exp(-(distance**2) / (2 * width**2))
    return np.asarray(weight / weight.sum(axis=1, keepdims=True), dtype=np.float32)


def _z_scored(rates: NDArray[np.float32]) -> NDArray[np.float32]:
    """Z-score units over trials and bins; leave out those that never vary but for rounding."""
    mean = rates.mean(axis=(0, 2), dtype=np.float64)
    rates = rates[:, rates.std(axis=(0, 2), dtype=np.float64) > CONSTANT * np.abs(mean)]
    centre = rates.mean(axis=(0, 2), keepdims=True, dtype=np.float64)
    spread = rates.std(axis=(0, 2), keepdims=True, dtype=np.float64)
    return np.asarray((rates - centre) / spread, dtype=np.float32)
