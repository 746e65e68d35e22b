"""The synthetic cortex: recordings that say so, and trials that scatter around a known truth."""

from __future__ import annotations

import numpy as np
import pytest

from b2m_fast.data._old import Recording
from b2m_fast.teachers import synthetic


@pytest.fixture(scope="module")
def recorded() -> list[Recording]:
    return synthetic.synthetic_recordings()


def test_synthetic_recordings_say_so(recorded: list[Recording]) -> None:
    """Synthetic recordings are marked, named so, reproducible, and share their images."""
    again = synthetic.synthetic_recordings()
    for a, b in zip(recorded, again, strict=True):
        assert a.synthetic
        assert "synthetic" in a.name
        np.testing.assert_array_equal(a.responses, b.responses)
    assert recorded[0].image_set == recorded[1].image_set


def test_single_trials_scatter_around_the_truth(recorded: list[Recording]) -> None:
    """Repeats average to the known rates (times the mean gain)."""
    for r in recorded:
        assert r.trials is not None
        assert r.truth is not None
        repeated = np.isfinite(r.trials[0]).all(axis=1)
        assert repeated.sum() == 60
        mean = r.trials[:, repeated].mean(axis=2)
        assert np.corrcoef(mean.ravel(), r.truth[:, repeated].ravel())[0, 1] > 0.85
