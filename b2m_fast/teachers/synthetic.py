"""SYNTHETIC brains, whose truth is known; nothing here was recorded.

For tests, for demonstrations that need no download, and as upper bounds of what a real brain of the
same size and noise could do. Three kinds:

    `synthetic_brain`             neurons like those of visual cortex that look at synthetic images
    `observe`, `observe_images`   neurons that each see a random mixture of a trained network's units
    `observers`, `ratings`        brains that differ in a planted way, and what their owners rate

The data set's facts name the functions of the second and third kind, which need a network or image
features first; a simulation of one's own can be registered with functions like them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from b2m_fast.data import dataset, labels
from b2m_fast.data.recording import Brain, Recording, Stimuli, TimeAxis
from b2m_fast.encoding.columns import column_correlation
from b2m_fast.encoding.components import fit_components
from b2m_fast.encoding.features import gabor
from b2m_fast.encoding.ridge import fit_ridge
from b2m_fast.teachers.responses import ResponseTeacher, reduced, z_scored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from b2m_fast.data.tasks import DecisionTask

Array = NDArray[np.float64]
WINDOW_S = 0.2  # in which responses to images are counted


# --------------------------------------------------------------------------------------------------
# Neurons that look at images
# --------------------------------------------------------------------------------------------------
def natural_like_images(count: int, size: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    """Return images (count, size, size, 1): half 1/f textures, half overlapping ellipses."""
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
    """Simple and complex Gabor cells with divisive normalisation; four in five are complex."""

    def __init__(self, neurons: int, size: int = 32, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, 11])
        y, x = torch.from_numpy(np.mgrid[:size, :size].astype(float))
        length = np.exp(rng.uniform(math.log(0.25 * size), math.log(0.6 * size), neurons))
        centre = rng.uniform(0.2 * size, 0.8 * size, (neurons, 2))
        angle, phase = rng.uniform(0, math.pi, neurons), rng.uniform(0, 2 * math.pi, neurons)
        filters = [
            gabor(x - cx, y - cy, width, turn, start + part, 0.45 * width).flatten()
            for part in (0.0, math.pi / 2)
            for (cx, cy), width, turn, start in zip(centre, length, angle, phase, strict=True)
        ]
        self.filters = torch.stack(filters).numpy().reshape(2, neurons, -1)
        self.complex = np.arange(neurons) % 5 > 0
        self.peak = np.exp(rng.normal(math.log(1.2), 0.5, neurons))

    def rates(self, images: NDArray[np.uint8]) -> Array:
        """Return expected spike counts (neurons, n), without noise, to images (n, size, size, 1).

        E^2 / (c^2 + E^2 + local contrast^2) times a peak count; E is sqrt(even^2 + odd^2) of a
        complex cell, the rectified even response of a simple one.
        """
        x = images[..., 0].reshape(len(images), self.filters.shape[2]).astype(float) / 255
        even, odd = self.filters @ x.T
        drive = np.where(self.complex[:, None], np.hypot(even, odd), even.clip(min=0))
        contrast = np.hypot(even, odd).mean(axis=0)
        rate = self.peak[:, None] * drive**2 / (0.2**2 + drive**2 + contrast**2)
        return np.asarray(rate, dtype=np.float64)

    def record(
        self, images: NDArray[np.uint8], repeats: int, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Return Poisson counts (n, repeats, neurons) under a gain all share in a trial (SD 30 %)."""
        rate = self.rates(images)[:, :, None]
        gain = np.exp(rng.normal(0, 0.3, (1, len(images), repeats)))
        return rng.poisson(rate * gain).transpose(1, 2, 0).astype(np.float32)


# --------------------------------------------------------------------------------------------------
# Neurons that observe a network
# --------------------------------------------------------------------------------------------------
def observe(
    hidden: NDArray[np.floating],
    condition: NDArray[np.integer],
    task: DecisionTask,
    rng: np.random.Generator,
    *,
    neurons: int = 100,
    repeats: int = 1,
    rate: float = 10.0,
    modulation: float = 0.5,
) -> Brain:
    """Spikes of neurons that each see a random mixture of a network's units.

    rate_n(t) = b_n max(0, 1 + modulation (w_n . h(t))), w_n random and such that w_n . h has mean 0
    and standard deviation 1 over all trials and steps; b_n is log-normal about `rate`, with a
    deviation of 0.5. Counts in each step are Poisson.

    Parameters
    ----------
    hidden : ndarray
        (trials, steps, units): hidden states, of single trials or averaged over a condition's.
    condition : ndarray
        (trials,): index into the task's conditions.
    task : DecisionTask
        The network's task: its steps, epochs and conditions become the recording's.
    rng : Generator
        Draws the mixtures and the spikes.
    neurons : int, default 100
        Neurons.
    repeats : int, default 1
        How often each row of `hidden` is observed, each time with new spikes.
    rate : float, default 10
        Median rate, in spikes per second.
    modulation : float, default 0.5
        Standard deviation of a neuron's rate, as a share of its mean (before it is cut at 0).

    Returns
    -------
    Brain
        Marked synthetic; one recording of ``trials * repeats`` trials.

    Raises
    ------
    ValueError
        If shapes do not fit the task, or `neurons`, `repeats` or `rate` is not positive.

    Examples
    --------
    >>> from b2m_fast.data.tasks import direction
    >>> task, rng = direction(), np.random.default_rng(0)
    >>> hidden = rng.normal(size=(12, task.steps, 8))
    >>> brain = observe(hidden, np.arange(12), task, rng, neurons=30, repeats=5)
    >>> brain.recordings[0].responses.shape
    (60, 30, 44)
    """
    if hidden.ndim != 3 or hidden.shape[:2] != (len(condition), task.steps):
        raise ValueError(
            f"hidden must be (trials, steps, units) = ({len(condition)}, {task.steps}, ...) for "
            f"the task {task.name}, got {hidden.shape}"
        )
    expected = _rates(hidden, rng, neurons, repeats, rate, modulation) * (task.step_ms / 1e3)
    counts = rng.poisson(np.repeat(expected, repeats, axis=0)).astype(np.uint16)
    names = np.array(task.conditions)[np.repeat(condition, repeats)]
    epochs = {
        name: (begin * task.step_ms, end * task.step_ms)
        for name, (begin, end) in task.epochs.items()
    }
    time = TimeAxis(task.step_ms, epochs)
    recording = Recording(counts.transpose(0, 2, 1), names, "0", time=time)
    name = f"synthetic-{task.name}"
    return Brain(name, [recording], conditions=task.conditions, synthetic=True)


def observe_images(
    features: NDArray[np.floating],
    images: NDArray[np.float32],
    rng: np.random.Generator,
    *,
    neurons: int = 100,
    repeats: int = 10,
    rate: float = 10.0,
    modulation: float = 0.5,
    components: int | None = None,
) -> ResponseTeacher:
    """Responses of neurons that each see a random mixture of a network's features of an image.

    Rates are those of `observe`; a response is the mean count in 200 ms over repeats, z-scored.

    Parameters
    ----------
    features : ndarray
        (n, units): the network's features of each image.
    images : ndarray
        (n, channels, height, width), float32 in [0, 1].
    rng : Generator
        Draws the mixtures and the spikes.
    neurons, repeats : int
        Neurons, and presentations of each image.
    rate, modulation : float
        As for `observe`.
    components : int, optional
        Principal components instead of neurons.

    Returns
    -------
    ResponseTeacher
        Marked synthetic; labels are the images' numbers. ``split_half_r`` of the report is the mean
        over neurons of the correlation of means over halves of the repeats (None for one repeat).

    Raises
    ------
    ValueError
        If there is not one row of features for each image, or a number is not positive.
    """
    if features.ndim != 2 or len(features) != len(images):
        raise ValueError(f"features must be ({len(images)}, units), got {features.shape}")
    expected = _rates(features, rng, neurons, repeats, rate, modulation) * WINDOW_S
    counts = rng.poisson(expected, (repeats, *expected.shape))
    split_half = None
    if repeats > 1:
        first, second = (half.mean(axis=0) for half in (counts[::2], counts[1::2]))
        split_half = float(column_correlation(first, second).mean())
    report = {
        "recording": "synthetic-images",
        "synthetic": True,
        "stand_in": False,
        "units": neurons,
        "images": len(images),
        "repeats": repeats,
        "components": components,
        "split_half_r": split_half,
    }
    responses = reduced(z_scored(counts.mean(axis=0)), components, "the synthetic neurons")
    return ResponseTeacher(images, responses, np.arange(len(images)), report)


def _rates(
    hidden: NDArray[np.floating],
    rng: np.random.Generator,
    neurons: int,
    repeats: int,
    rate: float,
    modulation: float,
) -> Array:
    """Return spikes per second (..., neurons) of neurons that observe states (..., units)."""
    if not np.isfinite(hidden).all():
        raise ValueError("hidden contains NaN or infinity")
    for name, value in (("neurons", neurons), ("repeats", repeats), ("rate", rate)):
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
    others = tuple(range(hidden.ndim - 1))
    drive = hidden @ rng.normal(size=(hidden.shape[-1], neurons))
    drive = drive - drive.mean(axis=others)
    spread = drive.std(axis=others)
    drive = drive / np.where(spread > 0, spread, np.inf)
    base = rate * np.exp(0.5 * rng.normal(size=neurons))
    return np.asarray(base * np.maximum(0, 1 + modulation * drive))


# --------------------------------------------------------------------------------------------------
# Observers, who rate images by what their brains represent
# --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Observer:
    """One brain and its owner.

    Attributes
    ----------
    mean : ndarray
        (p,), mean features.
    channels : ndarray
        (p, k), directions the units respond to: of variance 1 over the images learned from.
    label_channels : ndarray
        (p, k), directions the owner rates by: the same, or uncorrelated with all of them.
    gains : ndarray
        (k,), how strongly each channel is represented.
    mixing : ndarray
        (k, units).
    peak : ndarray
        (units,), spikes per image at drive 0.
    """

    mean: Array
    channels: Array
    label_channels: Array
    gains: Array
    mixing: Array
    peak: Array

    def rates(self, features: NDArray[np.floating]) -> Array:
        """Return expected counts (n, units) to features (n, p): peak exp(drive / 2), drive <= 3."""
        drive = ((features - self.mean) @ self.channels * self.gains) @ self.mixing
        return np.asarray(self.peak * np.exp(drive.clip(-3, 3) / 2))

    def record(self, features: NDArray[np.floating], rng: np.random.Generator) -> Array:
        """Return Poisson counts (n, units) to one presentation of each image."""
        return rng.poisson(self.rates(features)).astype(np.float64)


def observers(
    features: NDArray[np.floating],
    concepts: NDArray[np.floating],
    *,
    count: int = 8,
    units: int = 60,
    planted: Literal["inside", "outside"] = "inside",
    spread: float = 1.0,
    seed: int = 0,
) -> list[Observer]:
    """Brains that represent the same concepts, each with its own gains.

    The label channels are the ridge estimates of the concepts from features. ``planted="inside"``:
    units respond to them. ``"outside"``: units respond to the leading principal components of what
    the label channels do not explain of the features, so that the brains represent everything but
    what the labels are about. Gains are exp(spread * sqrt(2) cos(2 pi (s / S - c / k))): brains lie
    on a ring, and neighbours have similar gains.

    Parameters
    ----------
    features : ndarray
        (n, p), of the images learned from.
    concepts : ndarray
        (n, k), what is known of these images.
    count, units : int
        Brains, and units of each.
    planted : {"inside", "outside"}
        Whether the brains represent what the labels are about.
    spread : float, default 1.0
        Standard deviation of the logarithm of the gains; 0: brains differ in their units alone.
    seed : int
        Of mixtures and peaks.

    Returns
    -------
    list of Observer
        One a brain.
    """
    rng = np.random.default_rng([seed, 20])
    x = np.asarray(features, dtype=np.float64)
    mean = x.mean(axis=0)
    x = x - mean
    known = fit_ridge(x, concepts, folds="loo", standardise=False, dtype="float64").weights
    rated = _unit_variance(x, np.asarray(known, dtype=np.float64))
    k = rated.shape[1]
    channels = rated
    if planted == "outside":
        score = x @ rated
        explained = np.linalg.lstsq(score, x, rcond=None)[0]
        axes = np.asarray(fit_components([x - score @ explained], k).basis[0], dtype=np.float64)
        channels = _unit_variance(x, axes - rated @ (explained @ axes))
    found = []
    for s in range(count):
        angle = 2 * np.pi * (s / count - np.arange(channels.shape[1]) / k)
        gains = np.exp(spread * 2**0.5 * np.cos(angle))
        mixing = rng.normal(size=(len(gains), units))
        mixing /= np.linalg.norm(gains[:, None] * mixing, axis=0)
        peak = np.exp(rng.normal(np.log(3.0), 0.4, units))
        found.append(Observer(mean, channels, rated, gains, mixing, peak))
    return found


def _unit_variance(x: Array, directions: Array) -> Array:
    """Scale directions (p, k) so that rows (n, p) have variance 1 along them."""
    return np.asarray(directions / (x @ directions).std(axis=0))


@labels(
    "ratings", "six scales by which the owners of simulated brains rate images", kind="observers"
)
def ratings(
    brains: Sequence[Observer],
    features: NDArray[np.floating],
    *,
    scales: int = 6,
    noise: float = 0.5,
    seed: int = 0,
) -> Array:
    """Return ratings (observers, n, scales) of images with features (n, p).

    A scale weighs the label channels, with the observer's own gains, by weights that are the same for
    all observers; standardised for each observer, plus Gaussian noise of standard deviation `noise`.
    """
    rng = np.random.default_rng([seed, 21])
    weights = rng.normal(size=(brains[0].label_channels.shape[1], scales))
    out = []
    for brain in brains:
        channels = (features - brain.mean) @ brain.label_channels
        value = (channels * brain.gains[: channels.shape[1]]) @ weights
        value = (value - value.mean(axis=0)) / value.std(axis=0)
        out.append(value + noise * rng.normal(size=value.shape))
    return np.stack(out)


# --------------------------------------------------------------------------------------------------
# The data set
# --------------------------------------------------------------------------------------------------
@dataset(
    "synthetic",
    "SYNTHETIC neurons, simulated here, whose truth is known; needs no files",
    kind=("images", "trials"),
    synthetic=True,
    observe=observe,
    observe_images=observe_images,
    observers=observers,
)
def synthetic_brain(
    *,
    images: int = 1000,
    neurons: int = 120,
    populations: int = 2,
    repeated: int = 60,
    repeats: int = 10,
    size: int = 32,
    seed: int = 0,
) -> Brain:
    """Recordings as Li et al. 2019 describe theirs: most images shown once, some repeated.

    All populations are shown the same images. The first presentation of each is for training, as the
    paper's denoiser is trained on images shown once. `truth` holds the noise-free responses.
    """
    stimuli = natural_like_images(images, size, seed)
    ids = np.array([f"{k:05d}" for k in range(images)])
    again = np.random.default_rng([seed, 12]).permutation(images)[:repeated]
    shown = np.concatenate([ids, np.repeat(ids[again], repeats - 1)])
    split = np.where(np.arange(len(shown)) < images, "train", "test")
    recordings = []
    for population in range(populations):
        cortex = SyntheticCortex(neurons, size, seed + 1000 * (population + 1))
        rng = np.random.default_rng([seed, 13, population])
        first = cortex.record(stimuli, 1, rng)
        more = cortex.record(stimuli[again], repeats - 1, rng)
        counts = np.concatenate([part.reshape(-1, neurons) for part in (first, more)])
        truth = cortex.rates(stimuli).T.astype(np.float32)
        recordings.append(Recording(counts, shown, f"{population}", split=split, truth=truth))
    return Brain(
        "synthetic", recordings, [Stimuli(tuple(ids), stimuli, "synthetic")], synthetic=True
    )
