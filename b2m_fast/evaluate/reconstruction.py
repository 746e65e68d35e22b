"""How well images are reconstructed: mean squared error and structural similarity."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mean_squared_error", "structural_similarity"]

WINDOW, DEVIATION = 11, 1.5
K1, K2 = 0.01, 0.03


def _check(images: Tensor, reference: Tensor, smallest: int) -> None:
    if images.shape != reference.shape or images.ndim != 4:
        raise ValueError(
            "images and reference must both be (n, channels, height, width), got "
            f"{tuple(images.shape)} and {tuple(reference.shape)}"
        )
    if not images.numel() or min(images.shape[2:]) < smallest:
        raise ValueError(
            f"there must be an image, of at least {smallest} x {smallest} pixels, got "
            f"{tuple(images.shape)}"
        )


def mean_squared_error(images: Tensor, reference: Tensor) -> Tensor:
    """Mean squared error of each image.

    Parameters
    ----------
    images, reference : Tensor
        (n, channels, height, width).

    Returns
    -------
    Tensor
        (n,) float64.

    Raises
    ------
    ValueError
        If the shapes differ, or there is no image.
    """
    _check(images, reference, 1)
    return (images.double() - reference.double()).square().mean(dim=(1, 2, 3))


def _window_means(size: int) -> Tensor:
    """(size - 10, size): weighted means of every 11 neighbours; as products, faster than to convolve."""
    offset = torch.arange(size, dtype=torch.float64) - torch.arange(size - WINDOW + 1)[:, None]
    distance = offset - WINDOW // 2
    weight = torch.exp(-(distance**2) / (2 * DEVIATION**2)) * (distance.abs() <= WINDOW // 2)
    return weight / weight.sum(dim=1, keepdim=True)


def structural_similarity(images: Tensor, reference: Tensor, *, value_range: float = 1.0) -> Tensor:
    """Structural similarity of each image (Wang, Bovik, Sheikh and Simoncelli 2004, equation 13).

        SSIM = (2 m_x m_y + c1) (2 s_xy + c2) / ((m_x^2 + m_y^2 + c1) (s_x^2 + s_y^2 + c2))

    with local means, variances and covariance under a Gaussian window of 11 x 11 pixels and
    standard deviation 1.5, c1 = (0.01 L)^2, c2 = (0.03 L)^2; averaged over the places where the
    whole window lies in the image, and over channels.

    Parameters
    ----------
    images, reference : Tensor
        (n, channels, height, width).
    value_range : float, default 1
        L: difference of the largest and the smallest possible value.

    Returns
    -------
    Tensor
        (n,) float64; 1 for equal images.

    Raises
    ------
    ValueError
        If the shapes differ, there is no image, or it is smaller than the window.
    """
    _check(images, reference, WINDOW)
    x, y = images.double(), reference.double()
    rows, columns = (_window_means(size).to(x.device) for size in x.shape[2:])

    def local(z: Tensor) -> Tensor:
        return (rows @ z @ columns.T).flatten(1)

    mean_x, mean_y = local(x), local(y)
    variance_x = local(x * x) - mean_x**2
    variance_y = local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    c1, c2 = (K1 * value_range) ** 2, (K2 * value_range) ** 2
    ratio = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    ratio = ratio / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return ratio.mean(dim=1)
