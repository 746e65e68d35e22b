"""From spike counts to a population that can teach: rebinned, smoothed, z-scored, pooled, averaged.

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
from b2m_fast.data.recordings import Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from b2m_fast.data.recordings import SpikeRecording

__all__ = ["Population", "gaussian_smoother", "make_population", "rebin"]

CONSTANT = 1e-5  # of its mean: a standard deviation that may be rounding noise of float32


@dataclass(frozen=True, eq=False)
class Population:
    """Rates of a (pseudo-)population in single trials.

    Attributes
    ----------
    name : str
        The recording's name.
    sessions : tuple of Session
        (trials, neurons, bins) rates, float32, and conditions; every neuron has at least two trials
        of every condition.
    conditions : tuple of str
        Names of the conditions.
    bin_ms : float
        Width of a bin, in milliseconds.
    epochs : dict of str to (float, float)
        Named stretches of time in milliseconds.
    start_ms : float
        Where the first bin begins on that clock.
    report : dict
        How it came about: counts, what was left out.
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
        """Neurons of all sessions."""
        return sum(session.spikes.shape[1] for session in self.sessions)

    @property
    def bins(self) -> int:
        """Bins of a trial."""
        return int(self.sessions[0].spikes.shape[2])

    @property
    def time_ms(self) -> NDArray[np.float64]:
        """(bins,): the middle of each bin, in milliseconds."""
        middle = self.start_ms + self.bin_ms * (np.arange(self.bins) + 0.5)
        return np.asarray(middle, dtype=np.float64)

    @property
    def fewest_trials(self) -> int:
        """Trials of the rarest condition of any neuron."""
        return min(int(_trials(s, len(self.conditions)).min()) for s in self.sessions)

    def average(self) -> NDArray[np.float64]:
        """Mean over the trials of each condition.

        Returns
        -------
        ndarray
            (conditions, bins, units), float64.
        """
        conditions = range(len(self.conditions))
        parts = [
            np.stack(
                [s.spikes[s.condition == c].mean(axis=0, dtype=np.float64).T for c in conditions]
            )
            for s in self.sessions
        ]
        return np.asarray(np.concatenate(parts, axis=2), dtype=np.float64)

    def halves(self, rng: np.random.Generator) -> tuple[Population, Population]:
        """Two populations of the same neurons from disjoint trials, split within every condition.

        Parameters
        ----------
        rng : Generator
            Which trial goes where; of an odd number the second half gets one more or one less, by
            chance.

        Returns
        -------
        tuple of Population
            The halves.
        """
        parts: tuple[list[Session], list[Session]] = ([], [])
        for session in self.sessions:
            first = np.zeros(len(session.condition), dtype=bool)
            for c in range(len(self.conditions)):
                rows = rng.permutation(np.flatnonzero(session.condition == c))
                first[rows[: (len(rows) + int(rng.integers(2))) // 2]] = True
            for part, chosen in zip(parts, (first, ~first), strict=True):
                part.append(Session(session.spikes[chosen], session.condition[chosen]))
        return replace(self, sessions=tuple(parts[0])), replace(self, sessions=tuple(parts[1]))

    def pseudo_trials(
        self, per_condition: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Trials of the whole population, each put together from one trial per session.

        Parameters
        ----------
        per_condition : int
            Trials of each condition. A session's trials are dealt out anew when they run out.
        rng : Generator
            Which trials meet.

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
                there = np.flatnonzero(session.condition == c)
                rounds = -(-per_condition // len(there))
                deck = np.concatenate([rng.permutation(there) for _ in range(rounds)])
                rows.append(deck[:per_condition])
            parts.append(session.spikes[np.concatenate(rows)].transpose(0, 2, 1))
        return np.concatenate(parts, axis=2).astype(np.float32), condition


def _trials(session: Session, conditions: int) -> NDArray[np.int64]:
    """Trials of each condition."""
    return np.bincount(session.condition, minlength=conditions)


def _z_scored(
    session: Session, bin_ms: float, smoother: NDArray[np.float32], minimum_rate: float
) -> tuple[Session, int]:
    """Smoothed rates in standard deviations, without neurons that are too slow or never vary.

    And how many are too slow. Smoothing makes rounding noise of a constant.
    """
    rates = np.asarray(session.spikes, dtype=np.float32) * np.float32(1e3 / bin_ms)
    fast = rates.mean(axis=(0, 2), dtype=np.float64) >= minimum_rate
    rates = rates[:, fast] @ smoother.T
    mean = rates.mean(axis=(0, 2), dtype=np.float64)
    rates = rates[:, rates.std(axis=(0, 2), dtype=np.float64) > CONSTANT * mean]
    centre = rates.mean(axis=(0, 2), keepdims=True, dtype=np.float64)
    spread = rates.std(axis=(0, 2), keepdims=True, dtype=np.float64)
    scored = Session(((rates - centre) / spread).astype(np.float32), session.condition)
    return scored, int((~fast).sum())


def rebin(recording: SpikeRecording, bin_ms: float) -> SpikeRecording:
    """The same spikes in wider bins; what does not fill a bin at the end is dropped.

    Parameters
    ----------
    recording : SpikeRecording
        The recording.
    bin_ms : float
        A multiple of its bins.

    Returns
    -------
    SpikeRecording
        With counts summed.

    Raises
    ------
    DataError
        If `bin_ms` is not positive and finite, no multiple of the recording's bins, or longer than a
        trial.
    """
    if not 0 < bin_ms < math.inf:
        raise DataError(f"{recording.name}: bin_ms must be positive and finite, got {bin_ms}")
    factor = round(bin_ms / recording.bin_ms)
    if factor < 1 or abs(factor * recording.bin_ms - bin_ms) > 1e-6 * recording.bin_ms:
        raise DataError(
            f"{recording.name}: bins of {bin_ms} ms are no multiple of the recorded "
            f"{recording.bin_ms} ms"
        )
    bins = recording.bins // factor
    if bins < 1:
        raise DataError(
            f"{recording.name}: bins of {bin_ms} ms are longer than a trial of "
            f"{recording.bins * recording.bin_ms} ms"
        )
    sessions = []
    for s in recording.sessions:
        parts = s.spikes[:, :, : bins * factor].reshape(*s.spikes.shape[:2], bins, factor)
        sessions.append(Session(parts.sum(axis=3, dtype=np.float32), s.condition))
    return replace(recording, sessions=tuple(sessions), bin_ms=bin_ms)


def gaussian_smoother(bins: int, width: float) -> NDArray[np.float32]:
    """Matrix that smooths a trial with a Gaussian; at the ends its weights still sum to 1.

    Parameters
    ----------
    bins : int
        Bins of a trial.
    width : float
        Standard deviation in bins; 0 is no smoothing.

    Returns
    -------
    ndarray
        (bins, bins): smoothed = rates @ matrix.T.
    """
    if width == 0:
        return np.eye(bins, dtype=np.float32)
    distance = np.arange(bins)[:, None] - np.arange(bins)
    weight = np.exp(-(distance**2) / (2 * width**2))
    return np.asarray(weight / weight.sum(axis=1, keepdims=True), dtype=np.float32)


def make_population(
    recording: SpikeRecording,
    *,
    bin_ms: float | None = None,
    smooth_ms: float = 50.0,
    minimum_trials: int = 2,
    minimum_rate: float = 0.5,
) -> Population:
    """Rates in spikes per second, smoothed, then z-scored per neuron over all its trials and bins.

    Parameters
    ----------
    recording : SpikeRecording
        The recording.
    bin_ms : float, optional
        Wider bins than the recording's, in milliseconds.
    smooth_ms : float, default 50
        Standard deviation of the Gaussian, in milliseconds; 0 for none.
    minimum_trials : int, default 2
        Neurons with fewer trials of any condition are left out; at least 2, as no repeats means no
        estimate of noise.
    minimum_rate : float, default 0.5
        Neurons with a lower mean rate, in spikes per second, are left out.

    Returns
    -------
    Population
        Its report tells how many units and trials there are and why units were left out.

    Raises
    ------
    DataError
        If there is only one condition, no neuron has repeats of every condition, or none is left.
    ValueError
        If `smooth_ms` is negative or not finite, or `minimum_trials` less than 2.

    Notes
    -----
    Neurons of one session with too few trials of a condition leave together. Smoothing looks to
    both sides: a teacher at one moment knows of the next `smooth_ms`.
    """
    if not 0 <= smooth_ms < math.inf:
        raise ValueError(f"smooth_ms must not be negative, and finite, got {smooth_ms}")
    if minimum_trials < 2:
        raise ValueError(f"minimum_trials must be at least 2, got {minimum_trials}")
    if len(recording.conditions) < 2:
        raise DataError(
            f"{recording.name}: a teacher needs at least two conditions, "
            f"got {list(recording.conditions)}"
        )
    source = recording if bin_ms is None else rebin(recording, bin_ms)
    smoother = gaussian_smoother(source.bins, smooth_ms / source.bin_ms)
    fewest = [int(_trials(s, len(source.conditions)).min()) for s in source.sessions]
    if max(fewest) < minimum_trials:
        best = _trials(source.sessions[fewest.index(max(fewest))], len(source.conditions))
        few = [f"{c!r} {n}" for c, n in zip(source.conditions, best, strict=True)
               if n < minimum_trials]  # fmt: skip
        raise DataError(
            f"{recording.name}: no unit has {minimum_trials} trials of each of the "
            f"{len(source.conditions)} conditions (at most {max(fewest)}; the best one has of "
            f"{', '.join(few)}): without repeats signal and noise cannot be told apart"
        )
    repeated = [s for s, n in zip(source.sessions, fewest, strict=True) if n >= minimum_trials]
    scored = [_z_scored(s, source.bin_ms, smoother, minimum_rate) for s in repeated]
    sessions = tuple(s for s, _ in scored if s.spikes.shape[1])
    slow = sum(count for _, count in scored)
    enough = sum(s.spikes.shape[1] for s in repeated)
    if not sessions:
        raise DataError(
            f"{recording.name}: none of {enough} units fires {minimum_rate} spikes/s or more and "
            f"ever varies ({slow} too slow, {enough - slow} constant)"
        )
    population = Population(
        name=recording.name,
        sessions=sessions,
        conditions=source.conditions,
        bin_ms=source.bin_ms,
        epochs=source.epochs,
        start_ms=source.start_ms,
    )
    counts = np.concatenate([_trials(s, len(source.conditions)) for s in sessions])
    report = {
        "recording": recording.name,
        "synthetic": recording.synthetic,
        "units": population.units,
        "units_recorded": source.units,
        "units_with_too_few_trials": source.units - enough,
        "units_too_slow": slow,
        "units_constant": enough - slow - population.units,
        "sessions": len(sessions),
        "conditions": len(source.conditions),
        "trials_per_condition_median": float(np.median(counts)),
        "trials_per_condition_min": int(counts.min()),
        "bin_ms": source.bin_ms,
        "smooth_ms": smooth_ms,
    }
    return replace(population, report=report)
