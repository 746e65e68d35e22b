"""Delays: what was shown, on the recording's clock."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from b2m_fast.encoding.delays import delayed, fmri_delays
from b2m_fast.encoding.ridge import fit_ridge


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    shifts=st.lists(st.integers(-3, 4), min_size=1, max_size=3, unique=True),
)
def test_every_entry_is_what_was_shown_then(lengths: list[int], shifts: list[int]) -> None:
    """Each entry is the feature d samples ago in the same run, or 0; `complete` says where all are."""
    runs = np.repeat(np.arange(len(lengths)), lengths)
    x = np.arange(1.0, 1 + 2 * len(runs)).reshape(-1, 2)
    found, complete = delayed(x, shifts, runs=runs)
    for t in range(len(x)):
        known = []
        for k, d in enumerate(shifts):
            inside = 0 <= t - d < len(x) and runs[t - d] == runs[t]
            expected = x[t - d] if inside else np.zeros(2)
            np.testing.assert_array_equal(found[t, 2 * k : 2 * k + 2], expected)
            known.append(inside)
        assert complete[t] == all(known)


def test_a_negative_delay_moves_responses_back() -> None:
    """Late responses moved back lie over what caused them; what lies outside the run is 0, infinity or not."""
    x = np.random.default_rng(0).normal(size=(50, 3))
    x[0] = np.inf
    late, _ = delayed(x, (4,))
    back, known = delayed(late, (-4,))
    np.testing.assert_array_equal(back[known], x[known])
    assert known.sum() == 46
    assert (back[~known] == 0).all()


def test_delays_find_a_late_response() -> None:
    """A response to what was shown 4 and 6 s ago is predicted with delays, not without."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 5))
    fir, complete = delayed(x, (2, 3, 4))
    y = fir[:, 5:10] @ rng.normal(size=(5, 4)) + fir[:, 10:] @ rng.normal(size=(5, 4))
    assert fit_ridge(fir[complete], y[complete]).scores.min() > 0.99
    assert fit_ridge(x, y).scores.max() < 0.3


def test_usual_delays() -> None:
    """The delays that fMRI encoding studies use at 1 and 2 s a sample."""
    assert fmri_delays(2.0) == (1, 2, 3, 4)
    assert fmri_delays(1.0) == (3, 4, 5, 6)
    assert fmri_delays(10.0) == (1,)
    with pytest.raises(ValueError, match="positive"):
        fmri_delays(0.0)


def test_bad_input_is_named() -> None:
    """Impossible delays and runs are refused."""
    x = np.ones((10, 2))
    for wrong in ((), (1, 1), (1.5,)):
        with pytest.raises(ValueError, match="distinct whole numbers"):
            delayed(x, wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must follow each other"):
        delayed(x, (1,), runs=[0, 1] * 5)
    with pytest.raises(ValueError, match="run of each of 10"):
        delayed(x, (1,), runs=[0, 1])
    with pytest.raises(ValueError, match=r"\(time, p\)"):
        delayed(x[0], (1,))
