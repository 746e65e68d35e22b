"""ResNet for small images, with five taps.

Li et al. 2019 compare layers 1, 5, 9, 13 and 17 of a ResNet18: after the stem and after each of the
four residual groups. As in code released by that group's line of work: a 7 x 7 stem of stride 1
without max-pooling, groups of stride 1, 2, 2, 2, batch normalisation, taps after the ReLU, and
input scaled to 5 (x - 0.5). The width is ours to choose (theirs: 64).
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from b2m_fast.students import student


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
    """Return a Gaussian (k,), cut at 3 sigma, summing to 1."""
    radius = max(1, math.ceil(3 * sigma))
    t = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-(t**2) / (2 * sigma**2))
    return kernel / kernel.sum()


@student("resnet", "residual network with five taps (ResNet18 at width 64)", kind="images")
class ResNet(nn.Module):
    """ResNet18-like classifier of images in [0, 1].

    Parameters
    ----------
    classes : int
        Number of classes.
    channels : int, default 1
        Channels of an image.
    width : int, default 64
        Channels of the stem and the first group; they double in each further group.
    blocks : int, default 2
        Residual blocks in each of the four groups; 2 is ResNet18.
    blur : float, default 0
        Standard deviation in pixels of a Gaussian blur of the input (a control: Li et al. 2023
        report that blurring is a defence of its own). 0 is no blur.

    Raises
    ------
    ValueError
        If `width` or `blocks` is below 1.

    Examples
    --------
    >>> model = ResNet(10, width=8)
    >>> [tuple(tap.shape[1:]) for tap in model.taps(torch.rand(2, 1, 32, 32))]
    [(8, 32, 32), (8, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4)]
    """

    blur_kernel: Tensor

    def __init__(
        self,
        classes: int,
        channels: int = 1,
        *,
        width: int = 64,
        blocks: int = 2,
        blur: float = 0.0,
    ) -> None:
        super().__init__()
        if min(width, blocks) < 1:
            raise ValueError(f"width and blocks must be at least 1, got {width}, {blocks}")
        self.register_buffer("blur_kernel", _gaussian_kernel(blur) if blur > 0 else torch.ones(1))
        stem = nn.Conv2d(channels, width, 7, 1, 3, bias=False)
        sections: list[nn.Module] = [nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU())]
        self.channels = [width]
        for group in range(4):
            inputs, outputs = self.channels[-1], width * 2**group
            first = _Block(inputs, outputs, 1 if group == 0 else 2)
            rest = (_Block(outputs, outputs, 1) for _ in range(blocks - 1))
            sections.append(nn.Sequential(first, *rest))
            self.channels.append(outputs)
        self.sections = nn.ModuleList(sections)
        self.head = nn.Linear(self.channels[-1], classes)

    @property
    def memory_format(self) -> torch.memory_format:
        """Format in which training is fastest: channels last where that is safe."""
        # torch 2.13 corrupts memory in the backward pass of a 1 x 1 convolution of stride 2 with fewer than 16 input channels,
        # channels last, for an odd batch and two threads
        return torch.channels_last if self.channels[0] >= 16 else torch.contiguous_format

    def preprocess(self, images: Tensor) -> Tensor:
        """Return 5 (images - 0.5), blurred first if there is a blur."""
        size = self.blur_kernel.numel()
        if size > 1:
            pad, channels = size // 2, images.shape[1]
            images = functional.pad(images, (pad, pad, pad, pad), mode="reflect")
            for shape in ((1, 1, 1, size), (1, 1, size, 1)):
                kernel = self.blur_kernel.view(shape).expand(channels, -1, -1, -1)
                images = functional.conv2d(images, kernel, groups=channels)
        return 5.0 * (images - 0.5)

    def taps(self, images: Tensor) -> list[Tensor]:
        """Return five maps (n, channels, height, width), after the ReLU of the stem and of each group."""
        x = self.preprocess(images)
        if self.memory_format is torch.contiguous_format:
            x = x.contiguous()
        layers = []
        for section in self.sections:
            x = section(x)
            layers.append(x)
        return layers

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, classes), from the spatial mean of the last tap (Li et al.: average-pooling of 4 for 32 x 32 images)."""
        return cast("Tensor", self.head(self.taps(images)[-1].mean(dim=(2, 3))))
