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

from b2m_fast.data import _old as recordings
from b2m_fast.data.files import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from b2m_fast.data._old import SpikeRecording

__all__ = ["Population", "Session", "make_population", "rebin", "smoother"]

CONSTANT = 1e-5  # of its mean: a standard deviation that may be rounding noise of float32


@dataclass(frozen=True, eq=False)
class Session:
    """Rates (trials, units, bins) of units recorded together; condition (trials,) of each trial."""

    rates: NDArray[np.float32]
    condition: NDArray[np.int64]

    def counts(self, conditions: int) -> NDArray[np.int64]:
        """Return the number of trials of each condition."""
        return np.bincount(self.condition, minlength=conditions)


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
    bin_ms : float
        Width of a bin, in milliseconds.
    epochs : mapping of str to (float, float)
        Begin and end of each epoch, in milliseconds.
    start_ms : float
        Begin of the first bin on the same clock.
    report : dict
        Numbers of units and trials, and of units left out.
    """

    name: str
    sessions: tuple[Session, ...]
    conditions: tuple[str, ...]
    bin_ms: float
    epochs: Mapping[str, tuple[float, float]]
    start_ms: float = 0.0
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
        return min(int(s.counts(len(self.conditions)).min()) for s in self.sessions)

    def average(self) -> NDArray[np.float64]:
        """Return the mean over the trials of each condition, (conditions, bins, units)."""
        parts = [
            [
                s.rates[s.condition == c].mean(axis=0, dtype=np.float64).T
                for c in range(len(self.conditions))
            ]
            for s in self.sessions
        ]
        return np.concatenate([np.stack(part) for part in parts], axis=2)

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
    recording: SpikeRecording,
    *,
    bin_ms: float | None = None,
    smooth_ms: float = 50.0,
    minimum_trials: int = 2,
    minimum_rate: float = 0.5,
) -> Population:
    """Rates in spikes per second, smoothed in time, z-scored per unit over all trials and bins.

    Parameters
    ----------
    recording : SpikeRecording
        The recording.
    bin_ms : float, optional
        Width of wider bins than the recording's, in milliseconds.
    smooth_ms : float, default 50
        Standard deviation of the Gaussian, in milliseconds; 0: no smoothing. It looks to both
        sides, so that a teacher at one moment knows of the next `smooth_ms`.
    minimum_trials : int, default 2
        Units with fewer trials of any condition are left out; at least 2, as without repeats noise
        cannot be estimated.
    minimum_rate : float, default 0.5
        Units with a lower mean rate, in spikes per second, are left out.

    Returns
    -------
    Population
        Its report says how many units and trials there are and why units were left out.

    Raises
    ------
    DataError
        If there is only one condition, no unit has repeats of every condition, or none is left.
    ValueError
        If `smooth_ms` is negative or not finite, or `minimum_trials` less than 2.
    """
    if not 0 <= smooth_ms < math.inf:
        raise ValueError(f"smooth_ms must not be negative, and finite, got {smooth_ms}")
    if minimum_trials < 2:
        raise ValueError(f"minimum_trials must be at least 2, got {minimum_trials}")
    name, conditions = recording.name, recording.conditions
    if len(conditions) < 2:
        raise DataError(f"{name}: a teacher needs at least two conditions, got {list(conditions)}")
    source = recording if bin_ms is None else rebin(recording, bin_ms)
    scale = np.float32(1e3 / source.bin_ms)
    rates = [
        Session(np.asarray(s.spikes, np.float32) * scale, s.condition) for s in source.sessions
    ]
    repeated = _repeated(name, conditions, rates, minimum_trials)
    smooth = smoother(source.bins, smooth_ms / source.bin_ms).T
    active = [s.rates.mean(axis=(0, 2), dtype=np.float64) >= minimum_rate for s in repeated]
    scored = [
        Session(_z_scored(s.rates[:, keep] @ smooth), s.condition)
        for s, keep in zip(repeated, active, strict=True)
    ]
    sessions = tuple(s for s in scored if s.rates.shape[1])
    enough = sum(s.rates.shape[1] for s in repeated)
    slow = enough - sum(int(keep.sum()) for keep in active)
    if not sessions:
        raise DataError(
            f"{name}: none of {enough} units fires {minimum_rate} spikes/s or more and "
            f"ever varies ({slow} too slow, {enough - slow} constant)"
        )
    population = Population(
        name, sessions, conditions, source.bin_ms, source.epochs, source.start_ms
    )
    counts = np.concatenate([s.counts(len(conditions)) for s in sessions])
    report = {
        "recording": name,
        "synthetic": recording.synthetic,
        "units": population.units,
        "units_recorded": source.units,
        "units_with_too_few_trials": source.units - enough,
        "units_too_slow": slow,
        "units_constant": enough - slow - population.units,
        "sessions": len(sessions),
        "conditions": len(conditions),
        "trials_per_condition_median": float(np.median(counts)),
        "trials_per_condition_min": int(counts.min()),
        "bin_ms": source.bin_ms,
        "smooth_ms": smooth_ms,
    }
    return replace(population, report=report)


def _repeated(
    name: str, conditions: tuple[str, ...], sessions: list[Session], minimum: int
) -> list[Session]:
    """Return the sessions with enough trials of every condition; at least one, or DataError."""
    counts = [s.counts(len(conditions)) for s in sessions]
    best = max(counts, key=min)
    if best.min() < minimum:
        few = ", ".join(f"{c!r} {n}" for c, n in zip(conditions, best, strict=True) if n < minimum)
        raise DataError(
            f"{name}: no unit has {minimum} trials of each of the {len(conditions)} conditions "
            f"(at most {best.min()}; the best one has of {few}): without repeats signal and noise "
            "cannot be told apart"
        )
    return [s for s, n in zip(sessions, counts, strict=True) if n.min() >= minimum]


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
    rates = rates[:, rates.std(axis=(0, 2), dtype=np.float64) > CONSTANT * mean]
    centre = rates.mean(axis=(0, 2), keepdims=True, dtype=np.float64)
    spread = rates.std(axis=(0, 2), keepdims=True, dtype=np.float64)
    return np.asarray((rates - centre) / spread, dtype=np.float32)


def rebin(recording: SpikeRecording, bin_ms: float) -> SpikeRecording:
    """Sum counts into wider bins, a multiple of the recorded ones; an incomplete last one goes."""
    name, old = recording.name, recording.bin_ms
    if not 0 < bin_ms < math.inf:
        raise DataError(f"{name}: bin_ms must be positive and finite, got {bin_ms}")
    factor = round(bin_ms / old)
    if factor < 1 or abs(factor * old - bin_ms) > 1e-6 * old:
        raise DataError(f"{name}: bins of {bin_ms} ms are no multiple of the recorded {old} ms")
    bins = recording.bins // factor
    if bins < 1:
        raise DataError(
            f"{name}: bins of {bin_ms} ms are longer than a trial of {recording.bins * old} ms"
        )
    sessions = []
    for s in recording.sessions:
        parts = s.spikes[:, :, : bins * factor].reshape(*s.spikes.shape[:2], bins, factor)
        sessions.append(recordings.Session(parts.sum(axis=3, dtype=np.float32), s.condition))
    return replace(recording, sessions=tuple(sessions), bin_ms=bin_ms)
