"""Encoding models of recordings: layers of a network, and how well they predict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from b2m_fast.data.files import DataError
from b2m_fast.data.v4 import Recording, cowley_v4
from b2m_fast.encoding import quality as quality_of
from b2m_fast.encoding.encoders import LayerEncoder, crossfit, fit_encoder, fit_layers
from b2m_fast.encoding.folds import folds_of
from b2m_fast.encoding.quality import encoder_quality
from b2m_fast.encoding.reliability import noise_ceiling
from test_data import real

Array = NDArray[np.float64]


def world(n: int = 120, seed: int = 0) -> tuple[list[Array], Array]:
    """Two layers of very unequal size; four neurons follow the small one, one is noise."""
    rng = np.random.default_rng(seed)
    w = np.random.default_rng(9).normal(size=(6, 4))
    small, large = rng.normal(size=(n, 6)) * 0.01, rng.normal(size=(n, 40)) * 100
    signal = (small @ w).T
    y = np.concatenate([signal / signal.std(axis=1, keepdims=True) + 3, np.zeros((1, n))])
    return [small, large], y + 0.3 * rng.normal(size=y.shape)


def recording(trials: bool = False, n: int = 120) -> tuple[Recording, list[Array]]:
    layers, y = world(n)
    images = np.zeros((n, 4, 4, 1), dtype=np.uint8)
    repeats = y[:, :, None] + 0.5 * np.random.default_rng(1).normal(size=(*y.shape, 4))
    return (
        Recording("planted", "planted", images, y.astype(np.float32), repeats if trials else None),  # type: ignore[arg-type]
        layers,
    )


def test_small_layers_are_heard() -> None:
    """Layers weigh alike: a large one that says nothing does not drown a small one that does."""
    layers, y = world()
    new, observed = world(seed=1)
    predicted = fit_layers(layers, y).predict(new)
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(predicted[:4], observed[:4], strict=True)]
    assert min(r) > 0.8
    fewer = fit_layers(layers, y, k=3)
    assert fewer.ridge.weights.shape == (6, 5)


def test_choice_of_penalty_in_high_dimension_is_not_interpolation() -> None:
    """More features than images: the denoiser shrinks noise, and does not reproduce it."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 400)), rng.normal(size=(8, 60))
    found = crossfit(x, y)
    assert np.median(found.lambdas) >= 1
    assert found.responses.std() < 0.5
    assert fit_encoder(x, y).predict(x).std() < 0.7


def test_quality_is_of_held_out_images_only() -> None:
    """Neurons that follow the layers are predicted, the one of noise is not, with many features."""
    found, layers = recording()
    layers = [*layers, np.random.default_rng(3).normal(size=(120, 500))]
    quality = encoder_quality(found, layers=layers)
    assert quality.r[:4].min() > 0.5
    assert abs(quality.r[4]) < 0.3
    assert quality.ceiling is None
    report = quality.report()
    assert report["ceiling"] is None
    assert report["share_of_ceiling"] is None
    assert report["r"] == pytest.approx(quality.r.mean())
    assert (report["neurons"], report["images"], report["encoder"]) == (5, 120, "layers")


def test_nothing_of_a_held_out_image_is_known() -> None:
    """Changing an image's responses changes no prediction of its own fold."""
    found, layers = recording()
    spoilt = found.responses.copy()
    _, test = folds_of(120, 5, shuffle=True, seed=0)[0]
    spoilt[:, test] = spoilt[:, test[::-1]] * 50
    seen: list[Any] = []
    real_predict = LayerEncoder.predict

    def spy(self: Any, inputs: Any) -> Any:
        seen.append(real_predict(self, inputs))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LayerEncoder, "predict", spy)
        encoder_quality(found, layers=layers)
        encoder_quality(replace(found, responses=spoilt), layers=layers)
    np.testing.assert_array_equal(seen[0], seen[5])
    assert not np.allclose(seen[1], seen[6])


def test_ceiling_stands_beside_it() -> None:
    """With repeats the report holds the ceiling and the share of it that was reached."""
    found, layers = recording(trials=True)
    quality = encoder_quality(found, layers=layers)
    assert quality.ceiling is not None
    assert found.trials is not None
    np.testing.assert_array_equal(quality.ceiling, noise_ceiling(found.trials))
    report = quality.report()
    good = quality.ceiling >= 0.2
    assert report["share_of_ceiling"] == pytest.approx(
        (quality.r[good] / quality.ceiling[good]).mean()
    )


def test_core_readout_has_the_same_face(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trained network is fitted on each fold's training images and predicts the others."""
    found, _ = recording()
    fitted: list[int] = []

    class Fake:
        def predict(self, images: NDArray[np.uint8]) -> Array:
            return np.arange(5.0 * len(images)).reshape(5, -1)

    def fit(images: NDArray[np.uint8], responses: Array, *, seed: int) -> Fake:
        assert responses.shape == (5, len(images))
        fitted.append(len(images))
        return Fake()

    monkeypatch.setattr(quality_of, "fit_core_readout", fit)
    quality = encoder_quality(found, encoder="core-readout", folds=4)
    assert fitted == [90] * 4
    assert quality.encoder == "core-readout"


def test_bad_input_is_named() -> None:
    """Other images, too few of them, and unknown encoders are refused."""
    found, layers = recording()
    with pytest.raises(DataError, match="are not of its 120 images"):
        encoder_quality(found, layers=[layers[0][1:]])
    with pytest.raises(DataError, match="120 images are too few for 61 folds"):
        encoder_quality(found, layers=layers, folds=61)
    with pytest.raises(ValueError, match="unknown encoder 'deep'"):
        encoder_quality(found, encoder="deep")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"same images, got \[\(120, 6\), \(120, 40\)\] and \(5, 9\)"
    ):
        fit_layers(layers, found.responses[:, :9])
    with pytest.raises(ValueError, match=r"layers of \[6, 40\] features"):
        fit_layers(layers, found.responses).predict(layers[:1])


def test_ceiling_is_what_a_perfect_model_reaches() -> None:
    """The truth correlates with the mean over repeats as the ceiling says, also with gaps."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(30, 1500))
    noise = np.linspace(0.3, 4, 30)[:, None, None]
    trials = truth[:, :, None] + noise * rng.normal(size=(30, 1500, 6))
    trials[:, ::2, 3:] = np.nan
    mean = np.nanmean(trials, axis=2)
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(truth, mean, strict=True)]
    np.testing.assert_allclose(noise_ceiling(trials), expected, atol=0.06)


def test_ceiling_of_degenerate_neurons() -> None:
    """Nothing but noise, or silence: 0; no noise: 1; too few repeats: refused."""
    rng = np.random.default_rng(0)
    silent, perfect = np.zeros((1, 9, 2)), np.repeat(np.arange(9.0)[None, :, None], 2, axis=2)
    found = noise_ceiling(np.concatenate([silent, perfect]))
    assert found.tolist() == [0, 1]
    assert np.median(noise_ceiling(rng.normal(size=(50, 200, 3)))) < 0.3
    with pytest.raises(ValueError, match="two images with two repeats, got 0"):
        noise_ceiling(np.zeros((1, 5, 1)))


@pytest.mark.large
@pytest.mark.parametrize(
    ("session", "least"),
    [("210325", 0.55), ("190923", 0.55), ("201025", 0.5), ("210225", 0.5), ("210621", 0.5)],
)
def test_v4_is_predicted(session: str, least: float) -> None:
    """Held-out mean r over neurons of the macaque V4 sessions; the ceiling where it is known."""
    pytest.importorskip("efficientnet_lite_pytorch")
    quality = encoder_quality(cowley_v4(real("cowley_v4"), [session])[0])
    assert quality.r.mean() >= least
    assert (quality.ceiling is not None) == (session == "210325")
