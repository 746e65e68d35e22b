"""Recordings of trials: how time is cut into bins, the public recordings, and the tasks they go with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from b2m_fast.data import DataError, TaskMatch, bin_spikes, dataset, load, task
from b2m_fast.data.hippocampus import hippocampus
from b2m_fast.data.pfc_memory import pfc_memory
from test_data import real


def test_spikes_on_edges_belong_to_the_later_bin() -> None:
    """Bins are half open, and every spike in the window is counted once."""
    times = np.array([0.1, 0.2, 0.299999, 0.3, 0.35, 0.4])
    counts = bin_spikes(times, np.zeros(6, np.int64), 1, np.array([0.0]), (100, 400), 100)
    assert counts[0, 0].tolist() == [1, 2, 2]


def test_binning_counts_every_spike_once() -> None:
    """Order of spikes does not matter; overlapping trials each count what they see."""
    rng = np.random.default_rng(0)
    times, unit = rng.uniform(0, 10, 500), rng.integers(0, 3, 500)
    counts = bin_spikes(times, unit, 3, np.array([2.0, 2.5]), (-1000, 1000), 50)
    for trial, event in enumerate((2.0, 2.5)):
        seen = (times >= event - 1) & (times < event + 1)
        assert counts[trial].sum(axis=1).tolist() == np.bincount(unit[seen], minlength=3).tolist()
    order = rng.permutation(500)
    again = bin_spikes(times[order], unit[order], 3, np.array([2.0, 2.5]), (-1000, 1000), 50)
    np.testing.assert_array_equal(counts, again)
    with pytest.raises(ValueError, match=r"whole number of bins of 300"):
        bin_spikes(times, unit, 3, np.array([2.0]), (0, 1000), 300)


def test_malformed_pfc_file(tmp_path: Path) -> None:
    """A file that is not as described is refused with its path."""
    (tmp_path / "pfc_memory").mkdir()
    good: dict[str, Any] = {
        "delay_rate": np.zeros((2, 20), np.uint16),
        "delay_unit": np.zeros(2, np.uint16),
        "delay_look": np.zeros(2, np.uint8),
        "delay_direction": np.array([1, 6], np.uint8),
    }
    for key, value, message in (
        ("delay_rate", np.zeros((2, 19)), r"\(trials, 20\)"),
        ("delay_look", np.array([0, 2]), "must be 0 or 1"),
        ("delay_direction", np.array([0, 6]), "must be 1 to 6"),
        ("delay_unit", np.zeros(3, np.uint16), r"must be \(trials\), got \(3,\)"),
    ):
        np.savez(tmp_path / "pfc_memory" / "pfc_memory_park.npz", **{**good, key: value})
        with pytest.raises(DataError, match=r"pfc_memory_park\.npz.*" + message):
            pfc_memory(tmp_path)


def test_passages_through_the_track(tmp_path: Path) -> None:
    """Runs there and back are told apart and timed at the middle; turning back is no passage."""
    t = np.arange(0, 40, 0.1)
    x = np.interp(t, [0, 2, 10, 14, 18, 22, 30, 40], [0, 0, 100, 100, 60, 100, 0, 0])
    position = np.column_stack([t, x, 0.5 * x + 0.01 * np.sin(t)])
    (tmp_path / "hippocampus").mkdir()
    np.savez(
        tmp_path / "hippocampus" / "nelpy_hippocampus.npz",
        linear_track_spike_t=np.array([6.0, 6.01, 26.2]),
        linear_track_spike_unit=np.array([0, 1, 1], np.uint16),
        linear_track_pos=position,
    )
    found = hippocampus(tmp_path)
    (only,) = found.recordings
    spikes = np.asarray(only.responses)
    assert found.conditions == ("there", "back")
    assert only.stimulus.tolist() == ["there", "back"]
    assert spikes.shape == (2, 2, 30)
    assert spikes.sum(axis=2).tolist() == [[1, 1], [0, 1]]
    assert spikes[0, 0].argmax() in {14, 15}


@pytest.mark.parametrize("name", dataset.listings(kind="trials"))
def test_conditions_are_those_of_a_task(name: str) -> None:
    """A recording names tasks that there are, by options they have, and each of their conditions and epochs maps to its own."""
    for match in dataset.get(name).about.get("tasks", ()):
        entry = task.get(task.name_of(match.task))
        assert entry.about["kind"] == "trials"
        made = entry.build({**match.options, **match.defaults})
        names = match.names(made)
        assert set(names.get("epochs", {})) <= set(made.epochs)
        assert set(names.get("conditions", made.conditions)) == set(made.conditions)


def test_equal_names_need_no_map() -> None:
    """Without maps nothing is said; with them, the conditions follow the task as it was made."""
    made = task.get("direction").build()
    assert TaskMatch(task.get("direction").make).names(made) == {}
    (match,) = dataset.get("steinmetz").about["tasks"]
    names = match.names(match.task())
    assert names["epochs"] == {"stimulus2": "stimulus"}
    assert names["conditions"]["18 then 10"] == "left"
    assert names["conditions"]["26 then 34"] == "right"


def test_real_pfc_fits_the_direction_task() -> None:
    """Shapes, whole counts and repeats of the real recording; its conditions are the task's."""
    found = load("pfc-memory", real("pfc_memory"))
    assert found.units == len(found.recordings) == 319
    assert sum(len(r.stimulus) for r in found.recordings) == 232_262
    assert found.conditions == task.get("direction").build().conditions
    counts = np.asarray(found.recordings[0].responses)
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-5)
    codes = [r.codes(found.conditions) for r in found.recordings]
    assert min(np.bincount(c, minlength=12).min() for c in codes) == 6
    time = found.recordings[0].time
    assert time is not None
    assert counts.shape[2] * time.bin_ms == time.epochs["delay"][1]


def test_real_mouse_and_rat() -> None:
    """The other recordings have the units their source describes and trials of every condition."""
    mouse = load("steinmetz", real("steinmetz"))
    assert [r.unit_count for r in mouse.recordings] == [178, 533, 228, 120, 99]
    rat = load("hippocampus", real("hippocampus"))
    assert rat.units == 31
    for found in (mouse, rat):
        for r in found.recordings:
            codes = r.codes(found.conditions)
            assert np.bincount(codes, minlength=len(found.conditions)).min() >= 10
    before, after = (rat.recordings[0].stimulus == c for c in ("there", "back"))
    assert abs(int(before.sum()) - int(after.sum())) <= 1  # there and back take turns
