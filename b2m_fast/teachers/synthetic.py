"""A SYNTHETIC cortex, whose truth is known.

Nothing here was recorded. Populations of Gabor energy and simple cells with divisive normalisation
look at images made here (1/f textures and overlapping ellipses) and answer with Poisson counts
under a fluctuating gain. It serves tests and the demonstration that needs no download.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from b2m_fast.data.v4 import Recording

__all__ = ["SyntheticCortex", "natural_like_images", "synthetic_recordings"]

Array = NDArray[np.float64]


def natural_like_images(count: int, size: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    """Synthetic images with some statistics of natural ones: half 1/f textures, half ellipses.

    Parameters
    ----------
    count : int
        Number of images.
    size : int, default 32
        Height and width in pixels.
    seed : int
        Source of chance.

    Returns
    -------
    ndarray
        (count, size, size, 1), uint8.
    """
    rng = np.random.default_rng([seed, 10])
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    frequency[0, 0] = 1 / size
    y, x = np.mgrid[:size, :size] / size
    out = np.empty((count, size, size))
    for k in range(count):
        if k % 2 == 0:
            noise = np.fft.fft2(rng.normal(size=(size, size))) / frequency ** rng.uniform(1.5, 2.5)
            image = np.fft.ifft2(noise).real
        else:
            image = np.zeros((size, size))
            for _ in range(10):
                cx, cy, angle = rng.uniform(0, 1, 3)
                a, b = np.exp(rng.uniform(math.log(0.12), math.log(0.5), 2))
                u = (x - cx) * math.cos(math.pi * angle) + (y - cy) * math.sin(math.pi * angle)
                v = (y - cy) * math.cos(math.pi * angle) - (x - cx) * math.sin(math.pi * angle)
                image[(u / a) ** 2 + (v / b) ** 2 < 1] = rng.normal()
        image = (image - image.mean()) / (image.std() + 1e-9)
        out[k] = 0.5 + rng.uniform(0.08, 0.22) * image
    return np.asarray(np.rint(out.clip(0, 1) * 255), dtype=np.uint8)[..., None]


class SyntheticCortex:
    """A population of model neurons: simple and complex Gabor cells with divisive normalisation.

    Parameters
    ----------
    neurons : int
        Number of neurons, four in five of them complex cells.
    size : int, default 32
        Pixels of the images it looks at.
    seed : int
        Which population.
    """

    def __init__(self, neurons: int, size: int = 32, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, 11])
        y, x = np.mgrid[:size, :size]
        wavelength = np.exp(rng.uniform(math.log(0.25 * size), math.log(0.6 * size), neurons))
        centre = rng.uniform(0.2 * size, 0.8 * size, (neurons, 2))
        angle, phase = rng.uniform(0, math.pi, neurons), rng.uniform(0, 2 * math.pi, neurons)
        filters = np.empty((2, neurons, size, size))
        for k in range(neurons):
            dx, dy = x - centre[k, 0], y - centre[k, 1]
            envelope = np.exp(-(dx**2 + dy**2) / (2 * (0.45 * wavelength[k]) ** 2))
            u = dx * math.cos(angle[k]) + dy * math.sin(angle[k])
            for part in range(2):
                wave = np.cos(2 * math.pi * u / wavelength[k] + phase[k] + part * math.pi / 2)
                g = envelope * wave
                g -= envelope * g.sum() / envelope.sum()
                filters[part, k] = g / np.linalg.norm(g)
        self.filters = filters.reshape(2, neurons, -1)
        self.complex = np.arange(neurons) % 5 > 0
        self.peak = np.exp(rng.normal(math.log(1.2), 0.5, neurons))

    def rates(self, images: NDArray[np.uint8]) -> Array:
        """Expected spike counts, without noise.

        E^2 / (c^2 + E^2 + local contrast^2) times a peak count; E is sqrt(even^2 + odd^2) for
        complex cells and the rectified even response for simple ones.

        Parameters
        ----------
        images : ndarray
            (n, size, size, 1), uint8.

        Returns
        -------
        ndarray
            (neurons, n), float64.
        """
        x = images[..., 0].reshape(len(images), -1).astype(float) / 255
        even, odd = self.filters @ x.T
        drive = np.where(self.complex[:, None], np.hypot(even, odd), even.clip(min=0))
        contrast = np.hypot(even, odd).mean(axis=0)
        rate = self.peak[:, None] * drive**2 / (0.2**2 + drive**2 + contrast**2)
        return np.asarray(rate, dtype=np.float64)

    def record(
        self, images: NDArray[np.uint8], repeats: int, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Noisy counts: Poisson, under a gain all neurons share in a trial (spread 30 %).

        Parameters
        ----------
        images : ndarray
            (n, size, size, 1), uint8.
        repeats : int
            Presentations of each image.
        rng : numpy.random.Generator
            Source of chance.

        Returns
        -------
        ndarray
            (neurons, n, repeats), float32 counts.
        """
        rate = self.rates(images)[:, :, None]
        gain = np.exp(rng.normal(0, 0.3, (1, len(images), repeats)))
        return rng.poisson(rate * gain).astype(np.float32)


def synthetic_recordings(
    images: int = 1000,
    neurons: int = 120,
    populations: int = 2,
    *,
    repeated: int = 60,
    repeats: int = 10,
    size: int = 32,
    seed: int = 0,
) -> list[Recording]:
    """Synthetic recordings in the form Li et al. 2019 describe: most images once, some repeated.

    Parameters
    ----------
    images : int
        Number of images, the same for all populations.
    neurons, populations : int
        Neurons per population, and populations.
    repeated, repeats : int
        Images shown more than once, and how often.
    size : int, default 32
        Pixels.
    seed : int
        Images, populations and noise.

    Returns
    -------
    list of Recording
        With ``synthetic=True`` and the noise-free responses in ``truth``. ``responses`` is the
        first trial of every image, as the paper's denoiser is trained on images shown once.
    """
    stimuli = natural_like_images(images, size, seed)
    shown = np.random.default_rng([seed, 12]).permutation(images)[:repeated]
    recordings = []
    for population in range(populations):
        cortex = SyntheticCortex(neurons, size, seed + 1000 * (population + 1))
        rng = np.random.default_rng([seed, 13, population])
        trials = np.full((neurons, images, repeats), np.nan, dtype=np.float32)
        trials[:, :, :1] = cortex.record(stimuli, 1, rng)
        trials[:, shown, 1:] = cortex.record(stimuli[shown], repeats - 1, rng)
        recordings.append(
            Recording(
                name=f"synthetic-{population}",
                image_set="synthetic",
                images=stimuli,
                responses=trials[:, :, 0],
                trials=trials,
                truth=cortex.rates(stimuli).astype(np.float32),
                synthetic=True,
            )
        )
    return recordings
