"""The synthetic brain: marked as such, reproducible, with a known truth."""

from __future__ import annotations

import numpy as np
import pytest

from b2m_fast.data import load
from b2m_fast.data.recording import Brain
from b2m_fast.teachers import synthetic


@pytest.fixture(scope="module")
def recorded() -> Brain:
    return synthetic.synthetic_brain()


def test_synthetic_recordings_say_so(recorded: Brain) -> None:
    """The synthetic brain is marked, named so, reproducible, and its recordings share their images."""
    again = load("synthetic")
    assert recorded.synthetic
    assert "synthetic" in recorded.name
    assert len(recorded.stimuli) == 1
    for a, b in zip(recorded.recordings, again.recordings, strict=True):
        np.testing.assert_array_equal(np.asarray(a.responses), np.asarray(b.responses))
        assert a.shown == recorded.stimuli[0].ids


def test_single_trials_scatter_around_the_truth(recorded: Brain) -> None:
    """Repeats average to the known rates (times the mean gain); single trials are for training."""
    for r in recorded.recordings:
        assert r.truth is not None
        count = np.bincount(r.codes())
        assert (count > 1).sum() == 60
        mean, truth = r.mean()[count > 1], r.truth[count > 1]
        assert np.corrcoef(mean.ravel(), truth.ravel())[0, 1] > 0.85
        np.testing.assert_array_equal(r.mean(split="train"), r.first())
