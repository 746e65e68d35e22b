"""Recordings of spiking neurons in trials of named conditions, and how time is cut into bins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.data.arrays import numbers, whole_numbers
from b2m_fast.data.files import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Session", "SpikeRecording", "bin_spikes"]


@dataclass(frozen=True, eq=False)
class Session:
    """Neurons recorded together.

    Attributes
    ----------
    spikes : ndarray
        (trials, neurons, bins): spike counts.
    condition : ndarray
        (trials,), int64: index into the recording's conditions.

    Raises
    ------
    DataError
        If either is something else; lists, CPU tensors and floats without a fraction are taken.
    """

    spikes: NDArray[np.floating] | NDArray[np.integer]
    condition: NDArray[np.int64]

    def __post_init__(self) -> None:
        spikes = numbers("spikes", self.spikes, 3, "(trials, neurons, bins)")
        object.__setattr__(self, "spikes", spikes)
        condition = whole_numbers("condition", self.condition, "(trials,)")
        object.__setattr__(self, "condition", condition)


@dataclass(frozen=True, eq=False)
class SpikeRecording:
    """Spike counts of neurons in trials of known conditions.

    Neurons of different sessions were not recorded together; a neuron recorded alone is a session
    of one.

    Attributes
    ----------
    name : str
        The recording's name.
    sessions : tuple of Session
        All on the same clock, with the same bins.
    conditions : tuple of str
        Names of the conditions.
    bin_ms : float
        Width of a bin, in milliseconds.
    epochs : dict of str to (float, float)
        Named stretches of time, [begin, end) in milliseconds.
    start_ms : float
        Where the first bin begins on that clock.
    synthetic : bool
        True for a simulation.
    """

    name: str
    sessions: tuple[Session, ...]
    conditions: tuple[str, ...]
    bin_ms: float
    epochs: Mapping[str, tuple[float, float]]
    start_ms: float = 0.0
    synthetic: bool = False

    def __post_init__(self) -> None:
        if not self.sessions:
            raise DataError(f"{self.name}: there is no session")
        if not all(isinstance(session, Session) for session in self.sessions):
            kinds = sorted({type(session).__name__ for session in self.sessions})
            raise DataError(f"{self.name}: sessions must be of class Session, got {kinds}")
        names: object = self.conditions  # a string is a sequence of names, too
        if isinstance(names, str) or {type(name) for name in self.conditions} - {str, np.str_}:
            raise DataError(f"{self.name}: conditions must be a tuple of names, got {names!r}")
        object.__setattr__(self, "sessions", tuple(self.sessions))
        object.__setattr__(self, "conditions", tuple(self.conditions))
        if len(set(self.conditions)) < len(self.conditions):
            raise DataError(f"{self.name}: conditions must differ, got {list(self.conditions)}")
        for name, (begin, end) in self.epochs.items():
            if not (math.isfinite(begin) and math.isfinite(end) and begin < end):
                raise DataError(
                    f"{self.name}: the epoch {name!r} must begin before it ends, got {begin} to "
                    f"{end} ms"
                )
        if not math.isfinite(self.start_ms):
            raise DataError(f"{self.name}: start_ms must be finite, got {self.start_ms}")
        bins = {session.spikes.shape[2:] for session in self.sessions}
        if len(bins) != 1:
            raise DataError(
                f"{self.name}: all sessions must share one clock, got {sorted(bins)} bins"
            )
        if bins == {(0,)}:
            raise DataError(f"{self.name}: spikes have no bins")
        if not 0 < self.bin_ms < math.inf:
            raise DataError(f"{self.name}: bin_ms must be positive and finite, got {self.bin_ms}")
        bad, first = [], 0
        for number, session in enumerate(self.sessions):
            trials, neurons, _ = session.spikes.shape
            if session.condition.shape != (trials,):
                raise DataError(
                    f"{self.name}: session {number} has {trials} trials but conditions of shape "
                    f"{session.condition.shape}"
                )
            if trials and not (
                session.condition.min() >= 0 and session.condition.max() < len(self.conditions)
            ):
                raise DataError(
                    f"{self.name}: session {number} has conditions outside 0 to "
                    f"{len(self.conditions) - 1}"
                )
            sound = (np.isfinite(session.spikes) & (session.spikes >= 0)).all(axis=(0, 2))
            bad += (first + np.flatnonzero(~sound)).tolist()
            first += neurons
        if bad:
            some = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
            raise DataError(
                f"{self.name}: {len(bad)} of {first} units hold NaN, infinite or negative counts "
                f"(units {some}): leave them out"
            )

    @property
    def units(self) -> int:
        """Neurons of all sessions."""
        return sum(session.spikes.shape[1] for session in self.sessions)

    @property
    def bins(self) -> int:
        """Bins of a trial."""
        return int(self.sessions[0].spikes.shape[2])


def bin_spikes(
    times: NDArray[np.floating],
    unit: NDArray[np.integer],
    units: int,
    events: NDArray[np.floating],
    window_ms: tuple[float, float],
    bin_ms: float,
) -> NDArray[np.uint16]:
    """Count spikes in bins around events.

    Parameters
    ----------
    times : ndarray
        (spikes,): when, in seconds, in any order.
    unit : ndarray
        (spikes,): which neuron, 0 to `units` - 1.
    units : int
        Number of neurons.
    events : ndarray
        (trials,): the zero of each trial's clock, in seconds.
    window_ms : (float, float)
        Beginning and end of a trial on that clock.
    bin_ms : float
        Width of a bin; a spike at a bin's beginning belongs to it, one at its end to the next.

    Returns
    -------
    ndarray
        (trials, units, bins).

    Raises
    ------
    ValueError
        If the window is no whole number of bins, at least one.

    Examples
    --------
    >>> spikes = bin_spikes(
    ...     np.array([0.9, 1.1, 1.2]), np.array([0, 0, 1]), 2, np.array([1.0]), (-200, 300), 100
    ... )
    >>> spikes[0].tolist()
    [[0, 1, 0, 1, 0], [0, 0, 0, 0, 1]]
    """
    begin, end = window_ms
    bins = round((end - begin) / bin_ms)
    if bins < 1 or abs(bins * bin_ms - (end - begin)) > 1e-6 * bin_ms:
        raise ValueError(
            f"the window must be a whole number of bins of {bin_ms} ms, at least one; "
            f"got {begin} to {end} ms"
        )
    counts = np.zeros((len(events), units, bins), dtype=np.uint16)
    order = np.argsort(times, kind="stable")
    when, who = np.asarray(times, dtype=np.float64)[order], unit[order]
    for trial, event in enumerate(events):
        first, last = np.searchsorted(when, (event + begin / 1e3 - 1e-9, event + end / 1e3))
        # rounding to a nanosecond: a spike at the very edge of a bin belongs to the later one
        place = np.floor(((when[first:last] - event) * 1e3 - begin + 1e-6) / bin_ms)
        inside = (place >= 0) & (place < bins)
        np.add.at(counts[trial], (who[first:last][inside], place[inside].astype(np.int64)), 1)
    return counts
