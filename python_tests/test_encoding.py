"""Encoding models of recordings: cross-fitted denoising, layers of a network, and how well they predict."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import b2m_fast.encoding
from b2m_fast.data.v4 import cowley_v4
from b2m_fast.encoding.columns import noise_ceiling
from b2m_fast.encoding.encoders import LayerEncoder, crossfit, fit_encoder, fit_layers
from b2m_fast.encoding.folds import folds_of
from b2m_fast.encoding.networks import NetworkFeatures
from b2m_fast.encoding.quality import encoder_quality
from test_data import real

Array = NDArray[np.float64]
RNG = np.random.default_rng


# --------------------------------------------------------------------------------------------------
# The package
# --------------------------------------------------------------------------------------------------
def test_all_public_names_are_there() -> None:
    """Each name that the package lists can be had, and its docstring says something."""
    for name in b2m_fast.encoding.__all__:
        assert name == "ALPHAS" or getattr(b2m_fast.encoding, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = b2m_fast.encoding.nothing


def test_settings_load_no_torch() -> None:
    """Settings may name networks and layers without loading torch: --help does."""
    code = "import b2m_fast.encoding.networks as n, sys; sys.exit('encoding.features' in str(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --------------------------------------------------------------------------------------------------
# Denoising
# --------------------------------------------------------------------------------------------------
def test_denoiser_never_sees_the_image_it_denoises() -> None:
    """Changing a response changes no prediction of its own fold."""
    rng = RNG(2)
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(40, 3))
    before = crossfit(x, y, folds=4)
    image = 7
    changed = y.copy()
    changed[image] += y.std(axis=0) * 10
    # the only thing shared with a fold's own images is the unit of measurement: undo it
    after = crossfit(x, changed, folds=4)
    unit = changed.std(axis=0) / y.std(axis=0)
    shift = (changed.mean(axis=0) - y.mean(axis=0)) / y.std(axis=0)
    same = before.fold == before.fold[image]
    np.testing.assert_allclose(after.responses[same] * unit + shift, before.responses[same])
    assert not np.allclose(after.responses[~same], before.responses[~same])


def test_crossfit_predicts_what_is_linear_and_not_noise() -> None:
    """Linear responses are predicted on held-out images; noise is not."""
    rng = RNG(3)
    x = rng.normal(size=(200, 10))
    y = np.stack([x @ rng.normal(size=10), rng.normal(size=200)], axis=1)
    v = crossfit(x, y).predictability
    assert v[0] > 0.95
    assert abs(v[1]) < 0.3


def test_choice_of_penalty_in_high_dimension_is_not_interpolation() -> None:
    """More features than images: the denoiser shrinks noise, and does not reproduce it."""
    rng = RNG(0)
    x, y = rng.normal(size=(60, 400)), rng.normal(size=(60, 8))
    found = crossfit(x, y)
    assert np.median(found.lambdas) >= 1
    assert found.responses.std() < 0.5
    assert fit_encoder(x, y).predict(x).std() < 0.7


def test_unequal_images_are_refused() -> None:
    """Features and responses of different numbers of images are refused, with both shapes."""
    with pytest.raises(ValueError, match=r"\(5, 2\), \(3, 6\)"):
        crossfit(np.zeros((5, 2)), np.zeros((3, 6)))
    with pytest.raises(ValueError, match=r"\(5, 2\) and \(3, 6\)"):
        fit_encoder(np.zeros((5, 2)), np.zeros((3, 6)))


# --------------------------------------------------------------------------------------------------
# Layers, and how well they predict
# --------------------------------------------------------------------------------------------------
def world(n: int = 120, seed: int = 0) -> tuple[list[Array], Array]:
    """Two layers of very unequal size; four neurons follow the small one, one is noise."""
    rng = RNG(seed)
    w = RNG(9).normal(size=(6, 4))
    small, large = rng.normal(size=(n, 6)) * 0.01, rng.normal(size=(n, 40)) * 100
    signal = small @ w
    y = np.concatenate([signal / signal.std(axis=0) + 3, np.zeros((n, 1))], axis=1)
    return [small, large], y + 0.3 * rng.normal(size=y.shape)


def test_small_layers_are_heard() -> None:
    """Layers weigh alike: a large one that says nothing does not drown a small one that does."""
    layers, y = world()
    new, observed = world(seed=1)
    predicted = fit_layers(layers, y).predict(new)
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(predicted.T[:4], observed.T[:4], strict=True)]
    assert min(r) > 0.8
    assert fit_layers(layers, y, k=3).ridge.weights.shape == (6, 5)


def test_quality_is_of_held_out_images_only() -> None:
    """Neurons that follow the layers are predicted, the one of noise is not, with many features."""
    layers, y = world()
    layers = [*layers, RNG(3).normal(size=(120, 500))]
    quality = encoder_quality("planted", layers, y)
    assert quality.r[:4].min() > 0.5
    assert abs(quality.r[4]) < 0.3
    assert quality.ceiling is None
    report = quality.report()
    assert report["ceiling"] is None
    assert report["share_of_ceiling"] is None
    assert report["r"] == pytest.approx(quality.r.mean())
    assert (report["neurons"], report["images"], report["recording"]) == (5, 120, "planted")


def test_nothing_of_a_held_out_image_is_known() -> None:
    """Changing an image's responses changes no prediction of its own fold."""
    layers, y = world()
    changed = y.copy()
    _, test = folds_of(120, 5, shuffle=True, seed=0)[0]
    changed[test] = changed[test[::-1]] * 50
    seen: list[Any] = []
    predict = LayerEncoder.predict

    def spy(self: Any, inputs: Any) -> Any:
        seen.append(predict(self, inputs))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LayerEncoder, "predict", spy)
        encoder_quality("planted", layers, y)
        encoder_quality("planted", layers, changed)
    np.testing.assert_array_equal(seen[0], seen[5])
    assert not np.allclose(seen[1], seen[6])


def test_ceiling_stands_beside_it() -> None:
    """With repeats the report holds the ceiling and the share of it that was reached."""
    layers, y = world()
    trials = y[:, None] + 0.5 * RNG(1).normal(size=(120, 4, 5))
    quality = encoder_quality("planted", layers, y, trials=trials)
    assert quality.ceiling is not None
    np.testing.assert_array_equal(quality.ceiling, noise_ceiling(trials))
    good = quality.ceiling >= 0.2
    share = (quality.r[good] / quality.ceiling[good]).mean()
    assert quality.report()["share_of_ceiling"] == pytest.approx(share)


def test_any_encoder_can_be_judged() -> None:
    """A model fitted on images is fitted on each fold's training images and predicts the others."""
    _, y = world()
    fitted: list[int] = []

    class Fake:
        def predict(self, images: NDArray[np.uint8]) -> Array:
            return np.arange(5.0 * len(images)).reshape(-1, 5)

    def fit(images: NDArray[np.uint8], responses: Array) -> Fake:
        assert responses.shape == (len(images), 5)
        fitted.append(len(images))
        return Fake()

    encoder_quality("planted", np.zeros((120, 4, 4, 1), np.uint8), y, fit=fit, folds=4)
    assert fitted == [90] * 4


def test_bad_input_is_named() -> None:
    """Other images, too few of them, and layers of other widths are refused."""
    layers, y = world()
    with pytest.raises(
        ValueError, match=r"planted: inputs \[\(119, 6\)\] are not of its 120 images"
    ):
        encoder_quality("planted", [layers[0][1:]], y)
    with pytest.raises(ValueError, match="planted: 120 images are too few for 61 folds"):
        encoder_quality("planted", layers, y, folds=61)
    with pytest.raises(ValueError, match=r"same rows, got \(120, 46\) and \(9, 5\)"):
        fit_layers(layers, y[:9])
    with pytest.raises(ValueError, match=r"layers of \[6, 40\] features"):
        fit_layers(layers, y).predict(layers[:1])


@pytest.mark.large
@pytest.mark.parametrize(("session", "least"), [("210325", 0.55), ("210621", 0.5)])
def test_v4_is_predicted(session: str, least: float) -> None:
    """Held-out mean r over neurons of a macaque V4 session with repeats, and one without; the ceiling where it is known."""
    pytest.importorskip("efficientnet_lite_pytorch")
    brain = cowley_v4(real("cowley_v4"), sessions=(session,))
    (recording,) = brain.recordings
    layers = NetworkFeatures()(np.asarray(brain.stimuli_of(recording).images))
    trials = recording.repeats() if recording.repeated else None
    quality = encoder_quality(session, layers, recording.mean(), trials=trials)
    assert quality.r.mean() >= least
    assert (quality.ceiling is not None) == (session == "210325")
