"""Spike recordings: what they refuse, how time is cut into bins, and the public recordings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from b2m_fast.data import spike_datasets as spike_loaders
from b2m_fast.data.decisions import direction_task
from b2m_fast.data.files import DataError
from b2m_fast.data.recordings import Session, SpikeRecording, bin_spikes
from test_data import real


def recording(*sessions: Session, conditions: tuple[str, ...] = ("a", "b")) -> SpikeRecording:
    return SpikeRecording("test", sessions, conditions, 10.0, {"all": (0.0, 30.0)})


def session(trials: int = 4, neurons: int = 2, bins: int = 3) -> Session:
    return Session(np.ones((trials, neurons, bins)), np.arange(trials) % 2)


def test_units_with_nan_are_named() -> None:
    """NaN, infinite and negative counts are refused, with the units' numbers over all sessions."""
    broken = session()
    broken.spikes[1, 1, 2] = np.nan
    negative = session()
    negative.spikes[0, 0, 0] = -1
    with pytest.raises(DataError, match=r"2 of 6 units hold NaN.*\(units 3, 4\): leave them out"):
        recording(session(), broken, negative)


def test_sessions_must_share_a_clock() -> None:
    """Sessions of different bins are refused."""
    with pytest.raises(DataError, match=r"share one clock, got \[\(3,\), \(4,\)\] bins"):
        recording(session(), session(bins=4))


def test_labels_must_fit() -> None:
    """Conditions must be as many as trials and lie in the list of names."""
    with pytest.raises(DataError, match="session 0 has 4 trials but conditions of shape"):
        recording(Session(np.ones((4, 1, 3)), np.zeros(3, np.int64)))
    with pytest.raises(DataError, match="conditions outside 0 to 1"):
        recording(Session(np.ones((1, 1, 3)), np.array([2])))
    with pytest.raises(DataError, match="no session"):
        recording()


@pytest.mark.parametrize(
    ("spikes", "condition", "message"),
    [
        (np.ones((4, 3)), [0, 1, 0, 1], r"spikes must have 3 dimensions .*got shape \(4, 3\)"),
        ([[[1], [2, 3]]], [0], "spikes must be an array"),
        (np.ones((4, 1, 3), complex), [0, 1, 0, 1], "spikes must be real numbers.*complex128"),
        (np.ones((4, 1, 3), object), [0, 1, 0, 1], "spikes must be real numbers.*object"),
        (np.ones((4, 1, 3)), ["a", "b", "a", "b"], "condition must be real numbers.*dtype <U1"),
        (np.ones((4, 1, 3)), [0, 0.5, 1, 1], "condition must be whole numbers"),
        (np.ones((4, 1, 3)), [[0, 1, 0, 1]], "condition must have 1 dimensions"),
    ],
)
def test_wrong_kinds_of_data_are_named(spikes: Any, condition: Any, message: str) -> None:
    """What cannot be counts or conditions is refused by the field's name, not deep inside."""
    with pytest.raises(DataError, match=message):
        Session(spikes, condition)


def test_harmless_kinds_of_data_are_taken() -> None:
    """Lists, tensors and conditions written as floats mean what they say; arrays are not copied."""
    spikes = np.ones((4, 1, 3))
    assert Session(spikes, np.arange(4) % 2).spikes is spikes
    for kind in (np.ndarray.tolist, torch.from_numpy):
        found = recording(Session(kind(spikes), [0.0, 1.0, 0.0, 1.0]))  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.sessions[0].spikes, spikes)
        assert found.sessions[0].condition.dtype == np.int64
        assert found.sessions[0].condition.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sessions": (np.ones((2, 1, 3)),)}, r"sessions must be of class Session.*ndarray"),
        ({"sessions": (session(bins=0),)}, "spikes have no bins"),
        ({"conditions": "ab"}, "conditions must be a tuple of names, got 'ab'"),
        ({"conditions": (0, 1)}, "conditions must be a tuple of names"),
        ({"conditions": ("a", "a")}, "conditions must differ"),
        ({"epochs": {"delay": (3.0, 3.0)}}, "the epoch 'delay' must begin before it ends"),
        ({"bin_ms": np.inf}, "bin_ms must be positive and finite, got inf"),
        ({"start_ms": np.nan}, "start_ms must be finite"),
    ],
)
def test_wrong_recordings_are_named(changes: dict[str, Any], message: str) -> None:
    """A recording whose names or clock make no sense is refused when it is made."""
    with pytest.raises(DataError, match=message):
        replace(recording(session()), **changes)


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


def test_missing_recordings_name_origin_and_licence(tmp_path: Path) -> None:
    """Each loader says where its file comes from and what its authors allow."""
    for name in spike_loaders.SPIKE_RECORDINGS:
        with pytest.raises(DataError, match=r"(?s)github\.com/.*Licence: "):
            spike_loaders.spike_recording(name, tmp_path)
    with pytest.raises(DataError, match="unknown recording 'x'; there are"):
        spike_loaders.spike_files("x", tmp_path)
    with pytest.raises(DataError, match="unknown maze 'y'"):
        spike_loaders.hippocampus(tmp_path, "y")


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
        ("delay_unit", np.zeros(3, np.uint16), "one entry a trial"),
    ):
        np.savez(tmp_path / "pfc_memory" / "pfc_memory_park.npz", **{**good, key: value})
        with pytest.raises(DataError, match=r"pfc_memory_park\.npz.*" + message):
            spike_loaders.pfc_memory(tmp_path)


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
    found = spike_loaders.hippocampus(tmp_path)
    (only,) = found.sessions
    assert found.conditions == ("there", "back")
    assert only.condition.tolist() == [0, 1]
    assert only.spikes.shape == (2, 2, 30)
    assert only.spikes.sum(axis=2).tolist() == [[1, 1], [0, 1]]
    middle = only.spikes[0, 0].argmax()
    assert middle in {14, 15}


def test_real_pfc_fits_the_direction_task() -> None:
    """Shapes, whole counts and repeats of the real recording; its conditions are the task's."""
    found = spike_loaders.spike_recording("pfc-memory", real("pfc_memory"))
    assert found.units == len(found.sessions) == 319
    assert sum(len(s.condition) for s in found.sessions) == 232_262
    assert found.conditions == direction_task().conditions
    counts = found.sessions[0].spikes
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-5)
    assert min(np.bincount(s.condition, minlength=12).min() for s in found.sessions) == 6
    assert found.bins * found.bin_ms == found.epochs["delay"][1]


def test_real_mouse_and_rat() -> None:
    """The other recordings have the units their source describes and trials of every condition."""
    mouse = spike_loaders.spike_recording("steinmetz", real("steinmetz"))
    assert [s.spikes.shape[1] for s in mouse.sessions] == [178, 533, 228, 120, 99]
    rat = spike_loaders.spike_recording("hippocampus", real("hippocampus"))
    arms = spike_loaders.hippocampus(real("hippocampus"), "w_maze")
    assert (rat.units, arms.units) == (31, 25)
    for found in (mouse, rat, arms):
        for s in found.sessions:
            assert np.bincount(s.condition, minlength=len(found.conditions)).min() >= 10
    before, after = (rat.sessions[0].condition == c for c in (0, 1))
    assert abs(int(before.sum()) - int(after.sum())) <= 1  # there and back take turns
