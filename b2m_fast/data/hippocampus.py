"""Rat CA1 on a linear track: nelpy's example recording."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from b2m_fast.data import dataset
from b2m_fast.data.files import Axes, Root, Source, load_npz
from b2m_fast.data.recording import Brain, Recording, TaskMatch, TimeAxis, bin_spikes
from b2m_fast.data.tasks import EpochTask, delay_match_sample

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
SOURCE = Source(
    name="nelpy's example recordings of rat hippocampus (CA1)",
    folder="hippocampus",
    files=("nelpy_hippocampus.npz",),
    origin=(
        "github.com/nelpy/example-data; pack as nelpy_hippocampus.npz with linear_track_spike_t (s), "
        "linear_track_spike_unit and linear_track_pos (t, x, y)"
    ),
    licence="MIT",
)
WAYS = ("there", "back")


def _ways(task: EpochTask) -> dict[str, str]:
    """Return the way that the animal runs for each sample: the first direction is there, the second back. Our choice."""
    return {c: WAYS[int(c.split()[1]) - 1] for c in task.conditions}


TASK = TaskMatch(
    delay_match_sample,
    options={"directions": 2},  # two ways to run,
    defaults={"delay_ms": 3000.0},  # for three seconds
    epochs={"delay": "run"},
    conditions=_ways,
)


@dataset("hippocampus", "rat CA1 on a linear track", kind="trials", source=SOURCE, tasks=(TASK,))
def hippocampus(root: Root = None, *, bin_ms: float = 100.0) -> Brain:
    """Passages through the middle of the track (31 units), "there" or "back", from 1.5 s before to 1.5 s after it.

    A trial is one passage, its clock's zero the moment in the middle; turning back on the way is no passage. `bin_ms` is a divisor of
    3,000.
    """
    (path,) = SOURCE.paths(root)
    track = "linear_track_"
    axes: dict[str, Axes] = dict.fromkeys((f"{track}spike_t", f"{track}spike_unit"), ("spikes",))
    times, unit, position = load_npz(path, {**axes, f"{track}pos": ("samples", 3)}).values()
    events, way = _track_passages(position[np.argsort(position[:, 0], kind="stable")])
    window = (-1500.0, 1500.0)
    unit = unit.astype(np.int64)
    counts = bin_spikes(times, unit, int(unit.max()) + 1, events, window, bin_ms)
    time = TimeAxis(bin_ms, {"run": window}, window[0])
    recording = Recording(counts, np.array(WAYS)[way], "linear track", time=time)
    return Brain("hippocampus-linear_track", [recording], conditions=WAYS)


def _passages(time: Array, place: Array, low: float, high: float) -> tuple[Array, Codes, Codes]:
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


def _track_passages(position: Array) -> tuple[Array, Codes]:
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
