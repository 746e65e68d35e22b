"""How well images are reconstructed: mean squared error and structural similarity."""

from __future__ import annotations

import torch
from skimage import metrics
from torch import Tensor


def _check(images: Tensor, reference: Tensor, smallest: int) -> None:
    same = images.shape == reference.shape and images.ndim == 4 and images.numel()
    if not same or min(images.shape[2:]) < smallest:
        expected = (
            f"(n, channels, height, width), n at least 1, of {smallest} or more pixels a side"
        )
        got = f"{tuple(images.shape)} and {tuple(reference.shape)}"
        raise ValueError(f"images and reference must both be {expected}, got {got}")


def mean_squared_error(images: Tensor, reference: Tensor) -> Tensor:
    """Return the mean squared error of each image, (n, channels, height, width) to (n,) float64."""
    _check(images, reference, 1)
    return (images.double() - reference.double()).square().mean(dim=(1, 2, 3))


def structural_similarity(images: Tensor, reference: Tensor, *, value_range: float = 1.0) -> Tensor:
    """Return the structural similarity of each image, by scikit-image on the CPU: (n,) float64 on the images' device.

    With the window of Wang et al. 2004 (Gaussian, standard deviation 1.5, 11 x 11 pixels), averaged over the places
    where the whole window lies in the image, and over channels; `value_range` is largest less smallest possible value.
    """
    _check(images, reference, 11)
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    options = {"channel_axis": 0, "data_range": value_range, **window}
    x, y = images.double().numpy(force=True), reference.double().numpy(force=True)
    found = [metrics.structural_similarity(a, b, **options) for a, b in zip(x, y, strict=True)]
    return torch.tensor(found, dtype=torch.float64, device=images.device)
