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


def wang(x: torch.Tensor, y: torch.Tensor, value_range: float) -> torch.Tensor:
    """Equation 13 of Wang et al. 2004, written out with two matrix products an image."""

    def means(size: int) -> torch.Tensor:
        distance = torch.arange(size).double() - torch.arange(size - 10)[:, None] - 5
        weight = torch.exp(-(distance**2) / (2 * 1.5**2)) * (distance.abs() <= 5)
        return weight / weight.sum(dim=1, keepdim=True)

    rows, columns = means(x.shape[2]), means(x.shape[3])
    mean_x, mean_y, xx, yy, xy = (
        (rows @ z.double() @ columns.T).flatten(1) for z in (x, y, x * x, y * y, x * y)
    )
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    ratio = (2 * mean_x * mean_y + c1) * (2 * (xy - mean_x * mean_y) + c2)
    ratio /= (mean_x**2 + mean_y**2 + c1) * (xx - mean_x**2 + yy - mean_y**2 + c2)
    return ratio.mean(dim=1)


def test_similarity_is_that_of_wang() -> None:
    """scikit-image's SSIM is the formula of Wang et al. 2004, for gray and colour, any range and the smallest image."""
    for shape in ((3, 1, 16, 20), (2, 3, 48, 64), (1, 3, 11, 11)):
        for value_range in (1.0, 255.0):
            x, y = (z * value_range for z in pair(*shape))
            found = structural_similarity(x, y, value_range=value_range)
            torch.testing.assert_close(found, wang(x, y, value_range), rtol=1e-12, atol=1e-12)


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


def test_wrong_shapes_are_named() -> None:
    """Images that differ in shape, are smaller than the window, or are none: errors with shapes."""
    for shapes in (
        ((1, 1, 8, 8), (1, 1, 8, 8)),
        ((1, 1, 12, 12), (1, 1, 12, 13)),
        ((0, 1, 12, 12), (0, 1, 12, 12)),
        ((12, 12), (12, 12)),
    ):
        with pytest.raises(ValueError, match=r"got \("):
            structural_similarity(torch.zeros(shapes[0]), torch.zeros(shapes[1]))
