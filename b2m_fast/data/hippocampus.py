"""Rat CA1 in mazes: nelpy's example recordings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from b2m_fast.data import dataset
from b2m_fast.data.files import Root, Source, load_npz, require
from b2m_fast.data.recording import Brain, Recording, TaskMatch, TimeAxis, bin_spikes
from b2m_fast.data.tasks import EpochTask, delay_match_sample

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
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


TASK = TaskMatch(
    delay_match_sample,
    options={"directions": 2},  # two ways to run,
    defaults={"delay_ms": 3000.0},  # for three seconds
    epochs={"delay": "run"},
    conditions=_ways,
)


@dataset("hippocampus", "rat CA1 on a linear track", kind="trials", source=SOURCE, tasks=(TASK,))
def hippocampus(root: Root = None, *, maze: str = "linear_track", bin_ms: float = 100.0) -> Brain:
    """Passages through the middle of a track ("there", "back"; 31 units), or of the arms of a W ("left out" to "right in").

    A trial is one passage, its clock's zero the moment in the middle; turning back on the way is no passage. All units of the file
    are kept, also those that look unsorted (unit 19 of the W). `bin_ms` is a divisor of 3,000.
    """
    mazes = ("linear_track", "w_maze")
    require(maze in mazes, f"unknown maze {maze!r}; there are {mazes}")
    (path,) = SOURCE.paths(root)
    names = (f"{maze}_spike_t", f"{maze}_spike_unit", f"{maze}_pos")
    times, unit, position = load_npz(path, names).values()
    samples = f"{path}: {names[2]} must be (samples, 3), got {position.shape}"
    require(position.shape[1:] == (3,), samples)
    require(times.shape == unit.shape, f"{path}: {names[1]} must be as long as {names[0]}")
    position = position[np.argsort(position[:, 0], kind="stable")]
    track = maze == "linear_track"
    arms = [f"{arm} {way}" for arm in ("left", "centre", "right") for way in ("out", "in")]
    conditions = ["there", "back"] if track else arms
    events, condition = (_track_passages if track else _arm_passages)(position)
    window = (-1500.0, 1500.0)
    unit = unit.astype(np.int64)
    counts = bin_spikes(times, unit, int(unit.max()) + 1, events, window, bin_ms)
    time = TimeAxis(bin_ms, {"run": window}, window[0])
    recording = Recording(counts, np.array(conditions)[condition], maze, time=time)
    return Brain(f"hippocampus-{maze}", [recording], conditions=conditions)


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


def _arm_passages(position: Array) -> tuple[Array, Codes]:
    """Return passages through the middle of the arms of the W: x tells the arm, y the place (pixels)."""
    events, samples, way = _passages(position[:, 0], position[:, 2], 200.0, 300.0)
    arm = np.digitize(position[samples, 1], (305.0, 425.0))
    return events, (2 * arm + way).astype(np.int64)
