"""Errors of reconstructed images agree with what others compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from b2m_fast.evaluate.reconstruction import mean_squared_error, structural_similarity


def pair(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images with flat, smooth and noisy places, and noisy copies."""
    rng = np.random.default_rng(seed)
    x = rng.random(shape) * np.linspace(0, 1, shape[-1])
    x[..., : shape[-2] // 3, :] = 0.25
    y = np.clip(0.8 * x + 0.1 + rng.normal(0, 0.1, shape) * (x > 0.3), 0, 1)
    return torch.from_numpy(x), torch.from_numpy(y)


@pytest.mark.parametrize("shape", [(3, 1, 16, 20), (2, 3, 48, 64), (1, 3, 11, 11)])
@pytest.mark.parametrize("value_range", [1.0, 255.0])
def test_similarity_is_that_of_scikit_image(shape: tuple[int, ...], value_range: float) -> None:
    """SSIM is scikit-image's with the settings of Wang et al. 2004, colour included."""
    metrics = pytest.importorskip("skimage.metrics")
    x, y = (z * value_range for z in pair(*shape))
    found = structural_similarity(x, y, value_range=value_range)
    for mine, a, b in zip(found, x.numpy(), y.numpy(), strict=True):
        theirs = metrics.structural_similarity(
            a, b, data_range=value_range, channel_axis=0,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        assert float(mine) == pytest.approx(theirs, abs=1e-10)


def test_extremes() -> None:
    """Equal images have similarity 1 and error 0; a negative image is worse than a noisy one."""
    x, y = pair(2, 1, 20, 20)
    assert structural_similarity(x, x).numpy() == pytest.approx(1)
    assert mean_squared_error(x, x).numpy() == pytest.approx(0)
    assert (structural_similarity(1 - x, x) < structural_similarity(y, x)).all()


def test_error_is_per_image_and_in_double() -> None:
    """The mean of squares over all pixels of each image, from single precision too."""
    x, y = (z.float() for z in pair(4, 3, 12, 12))
    expected = ((x.numpy().astype(float) - y.numpy().astype(float)) ** 2).mean(axis=(1, 2, 3))
    assert mean_squared_error(x, y).dtype == torch.float64
    assert mean_squared_error(x, y).numpy() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shapes", [((1, 1, 8, 8), (1, 1, 8, 8)), ((1, 1, 12, 12), (1, 1, 12, 13)),
                                    ((0, 1, 12, 12), (0, 1, 12, 12)), ((12, 12), (12, 12))])  # fmt: skip
def test_wrong_shapes_are_named(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Images that differ in shape, are smaller than the window, or are none: errors with shapes."""
    with pytest.raises(ValueError, match=r"got \("):
        structural_similarity(torch.zeros(shapes[0]), torch.zeros(shapes[1]))
