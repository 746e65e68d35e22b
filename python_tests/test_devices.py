"""Devices reach the computation: encoding models and evaluation make no tensor without the device they were given."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from b2m_fast import encoding
from b2m_fast.evaluate import reconstruction, robustness
from device_mode import pretend_cuda

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 8)), RNG.normal(size=(60, 3))
IMAGES = RNG.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
NETWORK = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))


@pytest.mark.parametrize(
    "fit",
    [
        lambda: encoding.fit_ridge(X, Y, device="cuda").weights,
        lambda: encoding.fit_ridge(X, Y, folds="loo", device="cuda").weights,
        lambda: encoding.crossfit(X, Y, device="cuda").responses,
        lambda: encoding.fit_encoder(X, Y, device="cuda").weights,
        lambda: encoding.fit_layers([X], Y, device="cuda").ridge.weights,
        lambda: encoding.gabor_pyramid(IMAGES, device="cuda"),
        lambda: encoding.tap(NETWORK, ["1"], np.ones((5, 64), np.float32), device="cuda")["1"],
    ],
    ids=["ridge", "leave-one-out", "crossfit", "encoder", "layers", "gabor", "tap"],
)
def test_encoding_follows_its_device(fit: Callable[[], np.ndarray]) -> None:
    """Where "cuda" is the CPU, fits ask for it, make no tensor elsewhere, and give finite numbers."""
    with pretend_cuda() as mode:
        found = fit()
    assert mode.asked > 0
    assert np.isfinite(found).all()


def test_evaluation_makes_no_tensor_elsewhere() -> None:
    """Accuracy, noise, attacks and reconstruction follow the model and the images; noise is the same on any device."""
    x = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = NETWORK(x).argmax(1)
    plain = robustness.noise_accuracy(NETWORK, x, y, (0.5,))
    with pretend_cuda():
        assert robustness.accuracy(NETWORK, x, y) == 1
        assert robustness.noise_accuracy(NETWORK, x, y, (0.5,)) == plain
        assert robustness.pgd_accuracy(NETWORK, x, y, "linf", (1e-6,), 2) == [1]
        large = x.repeat(1, 1, 2, 2)
        assert reconstruction.structural_similarity(large, large).numpy() == pytest.approx(1)
        assert reconstruction.mean_squared_error(large, large).sum() == 0
