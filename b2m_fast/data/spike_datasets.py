"""Loaders of public spike recordings; nothing is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.data.files import DataError, Source, load_npz
from b2m_fast.data.recordings import Session, SpikeRecording, bin_spikes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "HIPPOCAMPUS",
    "PFC_MEMORY",
    "SPIKE_RECORDINGS",
    "STEINMETZ",
    "hippocampus",
    "pfc_memory",
    "spike_files",
    "spike_recording",
    "steinmetz",
]

PFC_MEMORY = Source(
    name="the macaque prefrontal recordings of Park et al. (bioRxiv 2025, 10.1101/2025.02.25.640211)",
    folder="pfc_memory",
    origin=(
        "github.com/pjjeongjun/Orthogonal_Code, raw_spiking_data; pack firing rates of the memory "
        "cells after target offset as pfc_memory_park.npz with delay_rate (trials, 20) in spikes/s "
        "per 50 ms bin, delay_unit, delay_look (1 look, 0 no-look), delay_direction (1 to 6)"
    ),
    licence="the repository has no licence for the data: do not redistribute; cite the preprint",
)
STEINMETZ = Source(
    name="five sessions of mouse visual cortex of Steinmetz et al. (Nature 2019)",
    folder="steinmetz",
    origin=(
        "github.com/wtguo1997/VisualCortex-NeuralDecisionStudy (session1.rds to session5.rds); pack "
        "as steinmetz5.npz with s<i>_spikes (trials, neurons, 39), s<i>_contrast_left, "
        "s<i>_contrast_right, s<i>_feedback_type"
    ),
    licence="the repository has no licence; the original deposit's is its own; cite the paper",
)
HIPPOCAMPUS = Source(
    name="nelpy's example recordings of rat hippocampus (CA1)",
    folder="hippocampus",
    origin=(
        "github.com/nelpy/example-data; pack as nelpy_hippocampus.npz with <maze>_spike_t (s), "
        "<maze>_spike_unit and <maze>_pos (t, x, y), maze being linear_track or w_maze"
    ),
    licence="MIT",
)


def pfc_memory(root: Path) -> SpikeRecording:
    """Macaque prefrontal cortex while a direction is remembered: 6 directions x 2 rules.

    Correct trials of the 319 memory cells, recorded mostly one at a time (so every unit is a
    session of its own), in the second after the target's offset. Directions are bins of 60 degrees.
    The rule may have been blocked: slow drift could help to tell look from no-look.

    Parameters
    ----------
    root : Path
        The data directory.

    Returns
    -------
    SpikeRecording
        Conditions "look 1" to "no-look 6", as in `b2m_fast.data.decisions.direction_task`; one
        epoch, "delay", of twenty 50 ms bins.

    Raises
    ------
    DataError
        If the file is missing or not as described in `PFC_MEMORY`.
    """
    path = PFC_MEMORY.path(root, "pfc_memory_park.npz")
    data = load_npz(path, ("delay_rate", "delay_unit", "delay_look", "delay_direction"))
    rate, unit = data["delay_rate"], data["delay_unit"].astype(np.int64)
    look, direction = data["delay_look"], data["delay_direction"].astype(np.int64)
    _check(
        path, rate.ndim == 2 and rate.shape[1:] == (20,), "delay_rate must be (trials, 20)", rate
    )
    for name, labels in data.items():
        _check(path, len(labels) == len(rate), f"{name} must have one entry a trial", labels)
    _check(path, bool(np.isin(look, (0, 1)).all()), "delay_look must be 0 or 1", look)
    inside = bool(((direction >= 1) & (direction <= 6)).all())
    _check(path, inside, "delay_direction must be 1 to 6", direction)
    counts = np.asarray(rate * 0.05, dtype=np.float32)  # spikes/s in bins of 50 ms
    condition = np.where(look == 1, 0, 6) + direction - 1
    order = np.argsort(unit, kind="stable")
    ends = np.flatnonzero(np.diff(unit[order])) + 1
    return SpikeRecording(
        name="pfc-memory",
        sessions=tuple(
            Session(counts[rows][:, None], condition[rows]) for rows in np.split(order, ends)
        ),
        conditions=tuple(f"{r} {d}" for r in ("look", "no-look") for d in range(1, 7)),
        bin_ms=50.0,
        epochs={"delay": (0.0, 1000.0)},
    )


def steinmetz(root: Path) -> SpikeRecording:
    """Mouse visual cortex while the stronger of two gratings is chosen: five sessions.

    Parameters
    ----------
    root : Path
        The data directory.

    Returns
    -------
    SpikeRecording
        All trials, by contrast: "left" and "right" name the stronger side, "equal" contrasts above
        zero, "none" no grating. One epoch, "stimulus", of 39 bins of 10 ms from its onset.

    Raises
    ------
    DataError
        If the file is missing or not as described in `STEINMETZ`.
    """
    path = STEINMETZ.path(root, "steinmetz5.npz")
    fields = ("spikes", "contrast_left", "contrast_right")
    data = load_npz(path, [f"s{i}_{field}" for i in range(1, 6) for field in fields])
    sessions = []
    for i in range(1, 6):
        spikes, left, right = (data[f"s{i}_{field}"] for field in fields)
        fits = spikes.ndim == 3 and left.shape == right.shape == spikes.shape[:1]
        _check(
            path, fits, f"s{i}_spikes must be (trials, neurons, bins), contrasts (trials,)", left
        )
        condition = np.select([left > right, right > left, left > 0], [0, 1, 2], 3)
        sessions.append(Session(spikes, condition.astype(np.int64)))
    return SpikeRecording(
        name="steinmetz",
        sessions=tuple(sessions),
        conditions=("left", "right", "equal", "none"),
        bin_ms=10.0,
        epochs={"stimulus": (0.0, 390.0)},
    )


def hippocampus(root: Path, maze: str = "linear_track", *, bin_ms: float = 100.0) -> SpikeRecording:
    """Rat CA1 while the animal runs through the middle of a track, or of the arms of a W.

    A trial is one passage, its clock's zero the moment in the middle; turning back on the way is no
    passage. All units of the file are kept, also those that look unsorted (unit 19 of the W).

    Parameters
    ----------
    root : Path
        The data directory.
    maze : {"linear_track", "w_maze"}
        Where: the track has conditions "there" and "back", the W "left out" to "right in".
    bin_ms : float, default 100
        Width of a bin, in milliseconds, a divisor of 3,000.

    Returns
    -------
    SpikeRecording
        One session; one epoch, "run", from 1.5 s before to 1.5 s after the middle.

    Raises
    ------
    DataError
        If the file is missing or not as described in `HIPPOCAMPUS`, or the maze is unknown.
    """
    if maze not in {"linear_track", "w_maze"}:
        raise DataError(f"unknown maze {maze!r}; there are 'linear_track' and 'w_maze'")
    path = HIPPOCAMPUS.path(root, "nelpy_hippocampus.npz")
    names = (f"{maze}_spike_t", f"{maze}_spike_unit", f"{maze}_pos")
    times, unit, position = (load_npz(path, names)[name] for name in names)
    _check(path, position.shape[1:] == (3,), f"{maze}_pos must be (samples, 3)", position)
    _check(path, times.shape == unit.shape, f"{maze}_spike_unit must fit {maze}_spike_t", unit)
    position = position[np.argsort(position[:, 0], kind="stable")]
    if maze == "linear_track":
        events, condition = _track_passages(position)
        conditions: tuple[str, ...] = ("there", "back")
    else:
        events, condition = _arm_passages(position)
        conditions = tuple(
            f"{a} {way}" for a in ("left", "centre", "right") for way in ("out", "in")
        )
    window = (-1500.0, 1500.0)
    units = int(unit.max()) + 1
    counts = bin_spikes(times, unit.astype(np.int64), units, events, window, bin_ms)
    return SpikeRecording(
        name=f"hippocampus-{maze}",
        sessions=(Session(counts, condition),),
        conditions=conditions,
        bin_ms=bin_ms,
        epochs={"run": window},
        start_ms=window[0],
    )


def _passages(
    time: NDArray[np.float64], place: NDArray[np.float64], low: float, high: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Passages between `low` and `high`: when the middle was crossed, which sample, up 0 or down 1."""
    side = np.where(place >= high, 1, np.where(place <= low, -1, 0))
    outside = np.flatnonzero(side)
    turns = np.flatnonzero(np.diff(side[outside]))
    crossed = []
    for begin, end in zip(outside[turns], outside[turns + 1], strict=True):
        beyond = (place[begin : end + 1] > (low + high) / 2) == (side[end] > 0)
        crossed.append(begin + int(beyond.argmax()))
    samples = np.asarray(crossed, dtype=np.int64)
    return time[samples], samples, np.where(side[outside[turns + 1]] > 0, 0, 1).astype(np.int64)


def _track_passages(
    position: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Passages through the middle of the track, found along its own axis."""
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


def _arm_passages(
    position: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Passages through the middle of the arms of the W: x tells the arm, y the place (pixels)."""
    events, samples, way = _passages(position[:, 0], position[:, 2], 200.0, 300.0)
    arm = np.digitize(position[samples, 1], (305.0, 425.0))
    return events, (2 * arm + way).astype(np.int64)


def _check(path: Path, right: bool, expected: str, got: NDArray[Any]) -> None:
    if not right:
        raise DataError(f"{path}: {expected}, got {got.dtype} {got.shape}")


SPIKE_RECORDINGS: dict[str, tuple[Source, str, Callable[[Path], SpikeRecording]]] = {
    "pfc-memory": (PFC_MEMORY, "pfc_memory_park.npz", pfc_memory),
    "steinmetz": (STEINMETZ, "steinmetz5.npz", steinmetz),
    "hippocampus": (HIPPOCAMPUS, "nelpy_hippocampus.npz", hippocampus),
}


def spike_files(name: str, root: Path) -> list[Path]:
    """The files a recording is read from, all known to exist.

    Parameters
    ----------
    name : str
        A key of `SPIKE_RECORDINGS`.
    root : Path
        The data directory.

    Returns
    -------
    list of Path
        Its files.

    Raises
    ------
    DataError
        If one is missing, or there is no such recording.
    """
    source, file, _ = _known(name)
    return [source.path(root, file)]


def spike_recording(name: str, root: Path) -> SpikeRecording:
    """A recording by its name.

    Parameters
    ----------
    name : str
        A key of `SPIKE_RECORDINGS`.
    root : Path
        The data directory.

    Returns
    -------
    SpikeRecording
        The recording.

    Raises
    ------
    DataError
        If a file is missing or malformed, or there is no such recording.
    """
    return _known(name)[2](root)


def _known(name: str) -> tuple[Source, str, Callable[[Path], SpikeRecording]]:
    if name not in SPIKE_RECORDINGS:
        raise DataError(f"unknown recording {name!r}; there are {list(SPIKE_RECORDINGS)}")
    return SPIKE_RECORDINGS[name]
