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

__all__ = ["Population", "Session", "make_population", "smoother"]

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
    brain: Brain,
    *,
    bin_ms: float | None = None,
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
    bin_ms : float, optional
        Width of wider bins than the recording's, in milliseconds.
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
        condition, or none is left; or `bin_ms` is no multiple of the recorded bins.
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
    if len(conditions) < 2:
        raise DataError(f"{name}: a teacher needs at least two conditions, got {list(conditions)}")
    time = brain.recordings[0].time
    if time is None or any(r.time is None for r in brain.recordings):
        raise DataError(f"{name}: responses have no bins: their time course is needed")
    factor = 1 if bin_ms is None else _factor(brain, time, bin_ms)
    time = replace(time, bin_ms=time.bin_ms if bin_ms is None else bin_ms)
    sessions = [Session(_rates(r, time, factor), r.codes(conditions)) for r in brain.recordings]
    spiking = [r.kind in {"counts", "rate"} for r in brain.recordings]
    repeated = _repeated(name, conditions, sessions, minimum_trials)
    smooth = smoother(sessions[0].rates.shape[2], smooth_ms / time.bin_ms).T
    kept, slow = [], 0
    for session, spikes, enough in zip(sessions, spiking, repeated, strict=True):
        if enough:
            active = session.rates.mean(axis=(0, 2), dtype=np.float64) >= minimum_rate
            active |= not spikes
            slow += int((~active).sum())
            kept.append(Session(_z_scored(session.rates[:, active] @ smooth), session.condition))
    units = sum(s.rates.shape[1] for s, enough in zip(sessions, repeated, strict=True) if enough)
    kept = [s for s in kept if s.rates.shape[1]]
    if not kept:
        raise DataError(
            f"{name}: none of {units} units fires {minimum_rate} spikes/s or more and "
            f"ever varies ({slow} too slow, {units - slow} constant)"
        )
    population = Population(name, tuple(kept), conditions, time)
    counts = np.concatenate([s.counts(len(conditions)) for s in kept])
    report = {
        "recording": name,
        "synthetic": brain.synthetic,
        "units": population.units,
        "units_recorded": brain.units,
        "units_with_too_few_trials": brain.units - units,
        "units_too_slow": slow,
        "units_constant": units - slow - population.units,
        "sessions": len(kept),
        "conditions": len(conditions),
        "trials_per_condition_median": float(np.median(counts)),
        "trials_per_condition_min": int(counts.min()),
        "bin_ms": time.bin_ms,
        "smooth_ms": smooth_ms,
    }
    return replace(population, report=report)


def _factor(brain: Brain, time: TimeAxis, bin_ms: float) -> int:
    """Return how many recorded bins go into one of `bin_ms`."""
    if not 0 < bin_ms < math.inf:
        raise DataError(f"{brain.name}: bin_ms must be positive and finite, got {bin_ms}")
    factor = round(bin_ms / time.bin_ms)
    if factor < 1 or abs(factor * time.bin_ms - bin_ms) > 1e-6 * time.bin_ms:
        raise DataError(
            f"{brain.name}: bins of {bin_ms} ms are no multiple of the recorded {time.bin_ms} ms"
        )
    bins = brain.recordings[0].responses.shape[2]
    if factor > bins:
        raise DataError(
            f"{brain.name}: bins of {bin_ms} ms are longer than a trial of {bins * time.bin_ms} ms"
        )
    return factor


def _rates(recording: Recording, time: TimeAxis, factor: int) -> NDArray[np.float32]:
    """Return responses (trials, units, bins) with `factor` bins in one; counts as spikes per second.

    An incomplete bin at the end is left out.
    """
    x = np.concatenate([block for _, block in recording.blocks()])
    bins = x.shape[2] // factor
    x = x[:, :, : bins * factor].reshape(*x.shape[:2], bins, factor).sum(axis=3, dtype=np.float32)
    scale = 1e3 / time.bin_ms if recording.kind == "counts" else 1 / factor
    return np.asarray(x * np.float32(scale))


def _repeated(
    name: str, conditions: tuple[str, ...], sessions: list[Session], minimum: int
) -> list[bool]:
    """Return which sessions have enough trials of every condition; DataError if none has."""
    counts = [s.counts(len(conditions)) for s in sessions]
    best = max(counts, key=min)
    if best.min() < minimum:
        few = ", ".join(f"{c!r} {n}" for c, n in zip(conditions, best, strict=True) if n < minimum)
        raise DataError(
            f"{name}: no unit has {minimum} trials of each of the {len(conditions)} conditions "
            f"(at most {best.min()}; the best one has of {few}): without repeats signal and noise "
            "cannot be told apart"
        )
    return [bool(n.min() >= minimum) for n in counts]


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
