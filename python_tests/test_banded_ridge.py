"""Banded ridge regression: bands get the scales they deserve, and himalaya is left as it was."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge as Oracle

from b2m_fast.encoding.banded import fit_banded_ridge
from b2m_fast.encoding.ridge import fit_ridge

Array = NDArray[np.float64]
SHAPES = [(120, (20, 30)), (60, (40, 50))]
GRID = (0.01, 0.1, 1.0, 10.0, 100.0)


def planted(n: int, widths: tuple[int, ...], seed: int = 0) -> tuple[list[Array], Array]:
    """Bands of unequal size; targets 0-2 hear the first band, 3-5 the second."""
    rng = np.random.default_rng(seed)
    bands = [rng.normal(size=(n, w)) * 10**b + 2 for b, w in enumerate(widths)]
    parts = [(x - 2) @ rng.normal(size=(x.shape[1], 3)) for x in bands]
    y = np.concatenate([p / p.std(axis=0) for p in parts], axis=1)
    return bands, y + 0.5 * rng.normal(size=y.shape) + 1


@pytest.mark.parametrize(("n", "widths"), SHAPES)
def test_one_band_is_ridge_regression(n: int, widths: tuple[int, ...]) -> None:
    """With a single band the penalties and predictions are those of `fit_ridge`."""
    bands, y = planted(n, widths)
    x = np.concatenate(bands, axis=1)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    plain = fit_ridge(z, y, alphas=GRID, dtype="float64", standardise=False)
    found = fit_banded_ridge([x], y, alphas=GRID, candidates=1, dtype="float64")
    np.testing.assert_allclose(found.alphas, plain.alphas)
    np.testing.assert_allclose(found.predict([x]), plain.predict(z), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.skill, plain.skill, rtol=1e-7)
    np.testing.assert_allclose(found.shares, 1)


@pytest.mark.parametrize(("n", "widths"), SHAPES)
def test_weights_solve_the_scaled_problem(n: int, widths: tuple[int, ...]) -> None:
    """The refit is ridge regression on the scaled bands, with the penalty that is reported."""
    bands, y = planted(n, widths)
    found = fit_banded_ridge(bands, y, alphas=GRID, candidates=6, dtype="float64")
    scaled = [(x - x.mean(axis=0)) / x.std(axis=0) / np.sqrt(x.shape[1]) for x in bands]
    for t in range(y.shape[1]):
        z = np.concatenate(
            [np.sqrt(g) * x for g, x in zip(found.shares[:, t], scaled, strict=True)], axis=1
        )
        oracle = Oracle(alpha=found.alphas[t] * n / z.shape[1]).fit(z, y[:, t])
        np.testing.assert_allclose(found.predict(bands)[:, t], oracle.predict(z), atol=1e-7)


@pytest.mark.parametrize(("n", "widths"), SHAPES)
def test_bands_get_their_share(n: int, widths: tuple[int, ...]) -> None:
    """A target of one band gives it the larger share, and held-out rows are predicted better."""
    bands, y = planted(n, widths)
    found = fit_banded_ridge(bands, y, shuffle=True)
    assert (found.shares[0, :3] > 0.8).all()
    assert (found.shares[1, 3:] > 0.8).all()
    np.testing.assert_allclose(found.shares.sum(axis=0), 1, rtol=1e-5)
    plain = fit_ridge(np.concatenate(bands, axis=1), y, shuffle=True)
    assert found.skill.mean() > plain.skill.mean() + 0.05
    parts = found.contributions(bands)
    np.testing.assert_allclose(parts.sum(axis=0) + found.offset, found.predict(bands), atol=1e-5)
    assert (parts[0, :, :3].std(axis=0) > 2 * parts[1, :, :3].std(axis=0)).all()


def test_batches_and_zero_shares() -> None:
    """Batches of targets change nothing; corners of the simplex may be asked for."""
    for n, widths in SHAPES:
        bands, y = planted(n, widths)
        corners = np.eye(2)
        whole = fit_banded_ridge(bands, y, candidates=corners, dtype="float64")
        parts = fit_banded_ridge(bands, y, candidates=corners, dtype="float64", targets_at_a_time=4)
        np.testing.assert_allclose(parts.predict(bands), whole.predict(bands), rtol=1e-9)
        np.testing.assert_allclose(whole.shares.round(6), np.repeat(corners, 3, axis=1))


def test_backend_of_himalaya_is_put_back() -> None:
    """Whoever uses himalaya beside us finds the backend they chose, also after an error."""
    from himalaya.backend import get_backend, set_backend

    bands, y = planted(60, (5, 5))
    before = get_backend()
    try:
        set_backend("numpy")
        fit_banded_ridge(bands, y, candidates=2)
        assert get_backend().name == "numpy"
    finally:
        set_backend(before)


def test_bad_input_is_named() -> None:
    """Bands that do not match, hold NaN or never vary are refused by number."""
    bands, y = planted(60, (5, 5))
    with pytest.raises(ValueError, match="no bands"):
        fit_banded_ridge([], y)
    with pytest.raises(ValueError, match=r"same rows, got \[\(60, 5\), \(59, 5\)\] and \(60, 6\)"):
        fit_banded_ridge([bands[0], bands[1][1:]], y)
    with pytest.raises(ValueError, match="features of band 1 contain NaN"):
        fit_banded_ridge([bands[0], bands[1] * np.nan], y)
    with pytest.raises(ValueError, match="no feature of band 0 varies"):
        fit_banded_ridge([np.ones((60, 2)), bands[1]], y)
    with pytest.raises(ValueError, match="none of 6 targets varies"):
        fit_banded_ridge(bands, np.ones((60, 6)))
    with pytest.raises(ValueError, match="shares of 2 bands"):
        fit_banded_ridge(bands, y, candidates=np.array([[0.5, 0.2]]))
    for alphas in ([-1.0], [1.0, np.inf], []):
        with pytest.raises(ValueError, match="alphas must be positive"):
            fit_banded_ridge(bands, y, alphas=alphas)
    for fold in (([0, 1], [1, 2]), ([0, 1], [])):
        with pytest.raises(ValueError, match="both not empty and without overlap"):
            fit_banded_ridge(bands, y, folds=[fold])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="shuffle are for a number of folds"):
        fit_banded_ridge(bands, y, folds=[(np.arange(30), np.arange(30, 60))], shuffle=True)
    with pytest.raises(ValueError, match=r"bands of \(5, 5\) features, got \(5,\)"):
        fit_banded_ridge(bands, y, candidates=1).predict(bands[:1])


def test_missing_himalaya_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without himalaya the message says what to install."""
    monkeypatch.setitem(sys.modules, "himalaya.backend", None)
    bands, y = planted(60, (5, 5))
    with pytest.raises(ImportError, match=r"b2m-fast\[encoding\]"):
        fit_banded_ridge(bands, y)
