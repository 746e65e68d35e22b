"""Rat CA1 in mazes: nelpy's example recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.data import dataset
from b2m_fast.data.files import DataError, Source, load_npz, require
from b2m_fast.data.recording import Brain, Recording, TaskMatch, TimeAxis, bin_spikes
from b2m_fast.data.tasks import delay_match_sample

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from b2m_fast.data.tasks import EpochTask

__all__ = ["SOURCE", "hippocampus"]

SOURCE = Source(
    name="nelpy's example recordings of rat hippocampus (CA1)",
    folder="hippocampus",
    files=("nelpy_hippocampus.npz",),
    origin=(
        "github.com/nelpy/example-data; pack as nelpy_hippocampus.npz with <maze>_spike_t (s), "
        "<maze>_spike_unit and <maze>_pos (t, x, y), maze being linear_track or w_maze"
    ),
    licence="MIT",
)


def _ways(task: EpochTask) -> dict[str, str]:
    """Return the way that the animal runs for each sample: the first direction is there, the second back. Our choice."""
    way = {"1": "there", "2": "back"}
    return {condition: way[condition.split()[1]] for condition in task.conditions}


@dataset(
    "hippocampus",
    "rat CA1 on a linear track, there and back: 31 units",
    kind="trials",
    source=SOURCE,
    tasks=(
        TaskMatch(
            delay_match_sample,
            options={"directions": 2},  # two ways to run,
            defaults={"delay_ms": 3000.0},  # for three seconds
            epochs={"delay": "run"},
            conditions=_ways,
        ),
    ),
)
def hippocampus(
    root: Path | None = None, *, maze: str = "linear_track", bin_ms: float = 100.0
) -> Brain:
    """Passages through the middle of a track ("there", "back"), or of the arms of a W ("left out" to "right in").

    A trial is one passage, its clock's zero the moment in the middle; turning back on the way is no passage. All units of the file
    are kept, also those that look unsorted (unit 19 of the W). `bin_ms` is a divisor of 3,000.
    """
    if maze not in {"linear_track", "w_maze"}:
        raise DataError(f"unknown maze {maze!r}; there are 'linear_track' and 'w_maze'")
    (path,) = SOURCE.paths(root)
    names = (f"{maze}_spike_t", f"{maze}_spike_unit", f"{maze}_pos")
    times, unit, position = load_npz(path, names).values()
    require(path, position.shape[1:] == (3,), names[2], "(samples, 3)", position)
    require(path, times.shape == unit.shape, names[1], f"as long as {names[0]}", unit)
    position = position[np.argsort(position[:, 0], kind="stable")]
    if maze == "linear_track":
        events, condition = _track_passages(position)
        conditions = ["there", "back"]
    else:
        events, condition = _arm_passages(position)
        conditions = [
            f"{arm} {way}" for arm in ("left", "centre", "right") for way in ("out", "in")
        ]
    window = (-1500.0, 1500.0)
    unit = unit.astype(np.int64)
    counts = bin_spikes(times, unit, int(unit.max()) + 1, events, window, bin_ms)
    time = TimeAxis(bin_ms, {"run": window}, window[0])
    recording = Recording(counts, np.array(conditions)[condition], maze, time=time)
    return Brain(f"hippocampus-{maze}", [recording], conditions=conditions)


def _passages(
    time: NDArray[np.float64], place: NDArray[np.float64], low: float, high: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return when the middle between `low` and `high` was crossed, at which sample, and whether upwards (0) or downwards (1)."""
    side = np.where(place >= high, 1, np.where(place <= low, -1, 0))
    outside = np.flatnonzero(side)
    turns = np.flatnonzero(np.diff(side[outside]))
    crossed = []
    for begin, end in zip(outside[turns], outside[turns + 1], strict=True):
        beyond = (place[begin : end + 1] > (low + high) / 2) == (side[end] > 0)
        crossed.append(begin + int(beyond.argmax()))
    samples = np.asarray(crossed, dtype=np.int64)
    return time[samples], samples, np.where(side[outside[turns + 1]] > 0, 0, 1).astype(np.int64)


def _track_passages(position: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return passages through the middle of the track, found along its own axis."""
    time, xy = position[:, 0], position[:, 1:]
    moving = np.r_[True, np.abs(np.diff(xy, axis=0)).sum(axis=1) > 0]
    spread = xy[moving] - np.median(xy[moving], axis=0)
    axis = np.linalg.svd(spread[:: max(1, len(spread) // 2000)], full_matrices=False)[2][0]
    axis = axis * np.sign(axis.sum())
    place = xy @ axis
    low, high = np.quantile(place[moving], (0.02, 0.98))
    place = (place - low) / (high - low)
    # on the track, not beside it: the animal is also carried there and back
    across = np.abs((xy - np.median(xy[moving], axis=0)) @ np.array([-axis[1], axis[0]]))
    events, samples, way = _passages(time, place, 0.25, 0.75)
    kept = across[samples] < 0.2 * (high - low)
    return events[kept], way[kept]


def _arm_passages(position: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return passages through the middle of the arms of the W: x tells the arm, y the place (pixels)."""
    events, samples, way = _passages(position[:, 0], position[:, 2], 200.0, 300.0)
    arm = np.digitize(position[samples, 1], (305.0, 425.0))
    return events, (2 * arm + way).astype(np.int64)
