"""What can be said of an image from its pixels: labels of images that nobody has labelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.data import labels
from b2m_fast.data.recording import LabelledImages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from b2m_fast.data.recording import Stimuli

ATTRIBUTES = {
    "luminance": "mean of Y = 0.299 R + 0.587 G + 0.114 B",
    "contrast": "standard deviation of Y",
    "redness": "mean of R - G",
    "blueness": "mean of B - (R + G) / 2",
    "colourfulness": "of Hasler and Suesstrunk (2003): spread and mean of the two opponent colours",
    "edges": "mean length of the gradient of Y",
    "fineness": "slope of log amplitude over log spatial frequency (larger: finer)",
    "horizontal": "(gy^2 - gx^2) / (gy^2 + gx^2), g the gradient of Y: 1 for horizontal edges only",
    "oblique": "2 gx gy / (gy^2 + gx^2): 1 for edges along one diagonal, -1 for the other",
    "sky": "mean of Y in the upper half less that in the lower",
    "centre": "standard deviation of Y in the middle quarter less that of the rest",
    "symmetry": "correlation of Y with its mirror image, left to right",
}


@labels("attributes", "twelve attributes of the images that the brain was shown", kind="stimuli")
def stimulus_attributes(stimuli: Stimuli) -> LabelledImages:
    """Return the attributes of a set of colour images, in its order."""
    images = np.asarray(stimuli.images[:])
    return LabelledImages(images, tuple(ATTRIBUTES), values=image_attributes(images))


def image_attributes(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return twelve attributes (n, 12) of colour images (n, H, W, 3), H and W at least 8, in the order of `ATTRIBUTES`.

    Pixels are taken to be in [0, 1]. An attribute that is not defined, as the symmetry of an empty image, is 0.
    """
    if images.ndim != 4 or images.shape[3] != 3 or min(images.shape[1:3]) < 8:
        raise ValueError(f"attributes need colour images (n, H, W, 3), got {images.shape}")
    parts = [_attributes(images[k : k + 128]) for k in range(0, len(images), 128)]
    return np.concatenate(parts)


def _attributes(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    x = images.astype(np.float64) / 255
    pixels = (1, 2)
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    opponent, yellow = red - green, (red + green) / 2 - blue
    spread = np.hypot(opponent.std(axis=pixels), yellow.std(axis=pixels))
    mean = np.hypot(opponent.mean(axis=pixels), yellow.mean(axis=pixels))
    gy, gx = np.gradient(light, axis=pixels)
    energy = (gx**2 + gy**2).sum(axis=pixels)
    height, width = light.shape[1:]
    top, left = height // 4, width // 4
    middle = np.zeros((height, width), dtype=bool)
    middle[top : height - top, left : width - left] = True
    centred = light - light.mean(axis=pixels, keepdims=True)
    upper, lower = light[:, : height // 2], light[:, -(height // 2) :]
    columns = [
        light.mean(axis=pixels),
        light.std(axis=pixels),
        opponent.mean(axis=pixels),
        -yellow.mean(axis=pixels),
        spread + 0.3 * mean,
        np.hypot(gx, gy).mean(axis=pixels),
        _slope(centred),
        _ratio((gy**2 - gx**2).sum(axis=pixels), energy),
        _ratio(2 * (gx * gy).sum(axis=pixels), energy),
        upper.mean(axis=pixels) - lower.mean(axis=pixels),
        light[:, middle].std(axis=1) - light[:, ~middle].std(axis=1),
        _ratio((centred * centred[:, :, ::-1]).sum(axis=pixels), (centred**2).sum(axis=pixels)),
    ]
    return np.stack(columns, axis=1)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 1e-12)


def _slope(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least-squares slope of log mean amplitude over log frequency, rings of one cycle each."""
    height, width = centred.shape[1:]
    amplitude = np.abs(np.fft.fft2(centred))
    rows, columns = np.fft.fftfreq(height) * height, np.fft.fftfreq(width) * width
    ring = np.rint(np.hypot(rows[:, None], columns)).astype(int)
    frequency = np.arange(1, min(height, width) // 2 + 1)
    mean = np.stack([amplitude[:, ring == k].mean(axis=1) for k in frequency], axis=1)
    x = np.log(frequency) - np.log(frequency).mean()
    slope = np.log(mean + 1e-6) @ x / (x @ x)
    return np.asarray(np.where(mean.max(axis=1) > 1e-9, slope, 0.0))
