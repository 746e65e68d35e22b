"""The bench of encoding models compares equals, and its table says what was extrapolated."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

BENCHES = Path(__file__).resolve().parents[1] / "benches"
sys.path.insert(0, str(BENCHES))

import encoding


def test_contenders_fit_the_same_model() -> None:
    """himalaya finds our penalties and weights; scikit-learn our weights where it chooses alike."""
    pytest.importorskip("himalaya")
    from himalaya.backend import get_backend, set_backend

    x, y = encoding.data(150, 60, 40)
    alphas = encoding.penalties(20)
    before = get_backend()
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's libraries
        try:
            for name, fit in encoding.CONTENDERS.items():
                found[name] = fit(x, y, alphas, 5)
        finally:
            set_backend(before)
    weights, chosen = found["b2m_fast"]
    for name, (other, others) in found.items():
        assert other.shape == weights.shape
        same = np.isclose(others, chosen, rtol=1e-4)
        if name not in encoding.OTHER_CHOICE:
            assert same.mean() >= 0.9
        assert same.any()
        np.testing.assert_allclose(other[:, same], weights[:, same], rtol=2e-3, atol=2e-4)


def test_fewer_targets_are_the_first_of_more() -> None:
    """A contender that is given fewer targets is given the same ones."""
    x, y = encoding.data(20, 8, 700)
    fewer = encoding.data(20, 8, 30)
    np.testing.assert_array_equal(fewer[0], x)
    np.testing.assert_array_equal(fewer[1], y[:, :30])


@pytest.mark.slow
def test_a_process_measures() -> None:
    """The script measures time and memory of its own fit, and returns what is compared."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from /proc")
    problem = encoding.Problem("b2m_fast", 120, 40, 2000, threads=1)
    found = encoding.measure_apart(problem)
    assert found["seconds"] > 0
    assert 0 < found["memory_mib"] < 500
    assert len(found["chosen"]) == 100
    assert np.array(found["weights"]).shape == (40, 20)
    with pytest.raises(RuntimeError, match="KeyError: 'nobody'"):
        encoding.measure_apart(encoding.Problem("nobody", 120, 40, 20))


def test_time_is_extrapolated_along_a_line() -> None:
    """A fixed part and a part for each target."""
    spec = importlib.util.spec_from_file_location("bench_encoding", BENCHES / "test_encoders.py")
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    few, more = ({"targets": t, "seconds": 7 + 0.5 * t, "memory_mib": 1.0} for t in (100, 200))
    found = bench.extrapolated(few, more, 1000)
    assert found["seconds"] == pytest.approx(507)
    assert found["measured_targets"] == [100, 200]
    table = bench.render({"b2m_fast": few | {"seconds": 50.7}, "other": found})
    assert "10.0" in table
    assert "100, 200" in table
