"""ResNet for small gray images, with five taps.

Li et al. 2019 compare layers 1, 5, 9, 13 and 17 of a ResNet18: after the stem and after each of the
four residual groups. As in code released by that group's line of work: a 7 x 7 stem of stride 1
without max-pooling, groups of stride 1, 2, 2, 2, batch normalisation, taps after the ReLU, and
input scaled to 5 (x - 0.5). The width is ours to choose (theirs: 64).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ResNet"]


class _Block(nn.Module):
    """Two 3 x 3 convolutions around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def _gaussian_kernel(sigma: float) -> Tensor:
    """Separable Gaussian (k,), cut at 3 sigma, summing to 1."""
    radius = max(1, math.ceil(3 * sigma))
    t = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-(t**2) / (2 * sigma**2))
    return kernel / kernel.sum()


class ResNet(nn.Module):
    """ResNet18-like classifier of gray images in [0, 1].

    Parameters
    ----------
    classes : int
        Number of classes.
    width : int, default 64
        Channels of the stem and the first group; they double in each further group.
    blocks : sequence of int, default (2, 2, 2, 2)
        Residual blocks per group; the default is ResNet18.
    blur : float, default 0
        Standard deviation in pixels of a Gaussian blur of the input (a control: Li et al. 2023
        report that blurring is a defence of its own). 0 is no blur.

    Examples
    --------
    >>> model = ResNet(10, width=8)
    >>> [tuple(tap.shape[1:]) for tap in model.taps(torch.rand(2, 1, 32, 32))]
    [(8, 32, 32), (8, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4)]
    """

    blur_kernel: Tensor

    def __init__(
        self, classes: int, width: int = 64, blocks: Sequence[int] = (2, 2, 2, 2), blur: float = 0.0
    ) -> None:
        super().__init__()
        self.register_buffer("blur_kernel", _gaussian_kernel(blur) if blur > 0 else torch.ones(1))
        stem = nn.Sequential(
            nn.Conv2d(1, width, 7, 1, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        sections: list[nn.Module] = [stem]
        self.channels = [width]
        for group, count in enumerate(blocks):
            outputs = width * 2**group
            stride = 1 if group == 0 else 2
            sections.append(
                nn.Sequential(
                    _Block(self.channels[-1], outputs, stride),
                    *(_Block(outputs, outputs, 1) for _ in range(count - 1)),
                )
            )
            self.channels.append(outputs)
        self.sections = nn.ModuleList(sections)
        self.head = nn.Linear(self.channels[-1], classes)

    def preprocess(self, images: Tensor) -> Tensor:
        """Blur, if any, and scale to [-2.5, 2.5].

        Parameters
        ----------
        images : Tensor
            (n, 1, h, w) in [0, 1].

        Returns
        -------
        Tensor
            5 (images - 0.5), of the same shape.
        """
        size = self.blur_kernel.numel()
        if size > 1:
            pad = size // 2
            images = functional.pad(images, (pad, pad, pad, pad), mode="reflect")
            images = functional.conv2d(images, self.blur_kernel.view(1, 1, 1, size))
            images = functional.conv2d(images, self.blur_kernel.view(1, 1, size, 1))
        return 5.0 * (images - 0.5)

    def taps(self, images: Tensor) -> list[Tensor]:
        """Activations after the stem and after each group.

        Parameters
        ----------
        images : Tensor
            (n, 1, h, w) in [0, 1].

        Returns
        -------
        list of Tensor
            Five maps (n, channels, height, width), after the ReLU.
        """
        x = self.preprocess(images)
        layers = []
        for section in self.sections:
            x = section(x)
            layers.append(x)
        return layers

    def forward(self, images: Tensor) -> Tensor:
        """Class scores.

        Parameters
        ----------
        images : Tensor
            (n, 1, h, w) in [0, 1].

        Returns
        -------
        Tensor
            (n, classes), from the spatial mean of the last tap (Li et al.'s average-pooling of 4
            for 32 x 32 images).
        """
        return cast("Tensor", self.head(self.taps(images)[-1].mean(dim=(2, 3))))
