"""Reliability, noise ceilings, and the one correlation and standardisation of columns, against plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import zmap

from b2m_fast.encoding.columns import column_correlation, noise_ceiling, reliability, standardised

RNG = np.random.default_rng


def test_reliability_is_sigma_over_eta() -> None:
    """w = sd over images of repeat means / root mean variance over repeats; missing repeats skip."""
    trials = np.array([[1.0, 3.0, np.nan], [5.0, 7.0, np.nan], [np.nan, 0.0, np.nan]])[..., None]
    np.testing.assert_allclose(reliability(trials), [2 / np.sqrt(2)])


def test_reliability_recovers_the_truth() -> None:
    """Neurons with more signal per noise get more weight, close to the true ratio."""
    rng = RNG(0)
    signal = np.array([0.2, 0.5, 1.0, 2.0])
    trials = signal * rng.normal(size=(400, 1, 4)) + rng.normal(size=(400, 10, 4))
    bias = np.sqrt(signal**2 + 0.1)  # the mean of ten repeats keeps a tenth of the noise variance
    np.testing.assert_allclose(reliability(trials), bias, rtol=0.1)


def test_reliability_of_degenerate_neurons() -> None:
    """A silent neuron weighs 0; one without noise weighs as the best other; too few repeats fail."""
    silent, perfect = np.zeros((3, 2, 1)), np.repeat([[[0.0]], [[1.0]], [[2.0]]], 2, axis=1)
    noisy = RNG(0).normal(size=(3, 2, 1))
    w = reliability(np.concatenate([silent, perfect, noisy], axis=2))
    assert w[0] == 0
    assert w[1] == w[2] > 0
    with pytest.raises(ValueError, match="reliability needs two images with two repeats, got 0"):
        reliability(np.zeros((5, 1, 1)))


def test_ceiling_is_what_a_perfect_model_reaches() -> None:
    """The truth correlates with the mean over repeats as the ceiling says, also with gaps."""
    rng = RNG(0)
    truth = rng.normal(size=(1500, 30))
    trials = truth[:, None] + np.linspace(0.3, 4, 30) * rng.normal(size=(1500, 6, 30))
    trials[::2, 3:] = np.nan
    expected = column_correlation(truth, np.nanmean(trials, axis=1))
    np.testing.assert_allclose(noise_ceiling(trials), expected, atol=0.06)


def test_ceiling_of_degenerate_neurons() -> None:
    """Nothing but noise, or silence: 0; no noise: 1; too few repeats: refused."""
    silent, perfect = np.zeros((9, 2, 1)), np.repeat(np.arange(9.0)[:, None, None], 2, axis=1)
    assert noise_ceiling(np.concatenate([silent, perfect], axis=2)).tolist() == [0, 1]
    assert np.median(noise_ceiling(RNG(0).normal(size=(200, 3, 50)))) < 0.3
    with pytest.raises(ValueError, match="noise ceiling needs two images with two repeats, got 0"):
        noise_ceiling(np.zeros((5, 1, 1)))


def test_column_correlation_is_pearsons() -> None:
    """r of each column is numpy's, 0 where a column is constant."""
    a, b = RNG(0).normal(size=(2, 50, 5))
    b[:, 0], b[:, 1] = 2 * a[:, 0] + 1, -a[:, 1]
    expected = [np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)]
    np.testing.assert_allclose(column_correlation(a, b), expected, atol=1e-14)
    a[:, 2] = 1
    assert column_correlation(a, b)[2] == 0


def test_standardisation_is_scipys() -> None:
    """Columns from the means of training rows in their standard deviations, whatever the layout in memory."""
    values, like = RNG(1).normal(size=(7, 4)), RNG(2).normal(size=(9, 4))
    np.testing.assert_allclose(standardised(values, like), zmap(values, like), atol=1e-15)
    np.testing.assert_array_equal(standardised(like), standardised(np.asfortranarray(like)))
    like[:, 1] = 0.1  # varies nowhere: no division by a rounding error
    assert (standardised(values, like)[:, 1] == 0).all()
