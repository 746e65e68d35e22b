"""What denoises a recording: weights, cross-fitting, features; and the synthetic cortex."""

from __future__ import annotations

import numpy as np
import pytest

from b2m_fast.data.v4 import Recording
from b2m_fast.encoding import encoders as encoding
from b2m_fast.encoding import features, reliability
from b2m_fast.teachers import synthetic

RNG = np.random.default_rng


def test_reliability_is_sigma_over_eta() -> None:
    """w = sd over images of repeat means / root mean variance over repeats; missing repeats skip."""
    trials = np.array([[[1.0, 3.0, np.nan], [5.0, 7.0, np.nan], [np.nan, 0.0, np.nan]]])
    np.testing.assert_allclose(reliability.reliability(trials), [2 / np.sqrt(2)])


def test_reliability_recovers_the_truth() -> None:
    """Neurons with more signal per noise get more weight, close to the true ratio."""
    rng = RNG(0)
    signal = np.array([0.2, 0.5, 1.0, 2.0])
    trials = signal[:, None, None] * rng.normal(size=(4, 400, 1)) + rng.normal(size=(4, 400, 10))
    bias = np.sqrt(signal**2 + 0.1)  # the mean of ten repeats keeps a tenth of the noise variance
    np.testing.assert_allclose(reliability.reliability(trials), bias, rtol=0.1)


def test_reliability_of_degenerate_neurons() -> None:
    """A silent neuron weighs 0; one without noise weighs as the best other; too few repeats fail."""
    silent, perfect = np.zeros((1, 3, 2)), np.repeat([[[0.0], [1.0], [2.0]]], 2, axis=2)
    noisy = RNG(0).normal(size=(1, 3, 2))
    w = reliability.reliability(np.concatenate([silent, perfect, noisy]))
    assert w[0] == 0
    assert w[1] == w[2] > 0
    with pytest.raises(ValueError, match="two images with two repeats, got 0"):
        reliability.reliability(np.zeros((1, 5, 1)))


def test_predictability_is_a_correlation() -> None:
    """v is Pearson's r per neuron, 0 for a constant prediction."""
    observed = RNG(0).normal(size=(3, 50))
    predicted = np.stack([2 * observed[0] + 1, -observed[1], np.ones(50)])
    np.testing.assert_allclose(
        reliability.predictability(predicted, observed), [1, -1, 0], atol=1e-12
    )


def test_denoiser_never_sees_the_image_it_denoises() -> None:
    """Changing a response changes no prediction of its own fold."""
    rng = RNG(2)
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(3, 40))
    before = encoding.crossfit(x, y, folds=4)
    image = 7
    changed = y.copy()
    changed[:, image] += y.std(axis=1) * 10
    # the only thing shared with a fold's own images is the unit of measurement: undo it
    after = encoding.crossfit(x, changed, folds=4)
    unit = changed.std(axis=1) / y.std(axis=1)
    shift = (changed.mean(axis=1) - y.mean(axis=1)) / y.std(axis=1)
    same = before.fold == before.fold[image]
    np.testing.assert_allclose(
        after.responses[:, same] * unit[:, None] + shift[:, None], before.responses[:, same]
    )
    assert not np.allclose(after.responses[:, ~same], before.responses[:, ~same])


def test_crossfit_predicts_what_is_linear_and_not_noise() -> None:
    """Linear responses are predicted on held-out images; noise is not."""
    rng = RNG(3)
    x = rng.normal(size=(200, 10))
    y = np.stack([x @ rng.normal(size=10), rng.normal(size=200)])
    v = encoding.crossfit(x, y).predictability
    assert v[0] > 0.95
    assert abs(v[1]) < 0.3


def test_crossfit_refuses_unequal_images() -> None:
    """Features and responses of different numbers of images are refused, with both shapes."""
    with pytest.raises(ValueError, match=r"\(5, 2\), \(3, 6\)"):
        encoding.crossfit(np.zeros((5, 2)), np.zeros((3, 6)))


def test_gabor_filters_ignore_uniform_light() -> None:
    """Filters have norm 1 and sum 0."""
    bank = features.gabor_filters(9, 4.0, 6, 2.0)
    assert bank.shape == (12, 1, 9, 9)
    np.testing.assert_allclose(bank.flatten(1).norm(dim=1), 1, rtol=1e-5)
    np.testing.assert_allclose(bank.flatten(1).sum(1), 0, atol=1e-5)


def test_gabor_pyramid_sizes() -> None:
    """RGB and gray images of both sizes give finite features of the stated number."""
    rgb = RNG(8).integers(0, 255, (3, 112, 112, 3)).astype(np.uint8)
    assert features.gabor_pyramid(rgb).shape == (3, 2192)
    gray = features.gabor_pyramid(rgb[:, :32, :32, :1])
    assert gray.shape[0] == 3
    assert np.isfinite(gray).all()


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
