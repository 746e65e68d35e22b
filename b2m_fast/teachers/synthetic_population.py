"""A SYNTHETIC recording of a network: hidden states seen through a random map and Poisson spikes.

Nothing here was recorded. A trained network stands in for the brain, so that the right answer is
known: what a student can learn from this population is an upper bound for what the methods could
do with a real one of the same size and noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.data.recordings import Session, SpikeRecording
from b2m_fast.teachers.paired import PairedTeacher, scored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from b2m_fast.data.decisions import DecisionTask

__all__ = ["observe", "observe_images"]


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
) -> SpikeRecording:
    """Spikes of neurons that each see a random mixture of a network's units.

    rate_n(t) = b_n max(0, 1 + modulation (w_n . h(t))), w_n random and such that w_n . h has mean 0
    and standard deviation 1 over all trials and steps; b_n is log-normal about `rate`, with a
    spread of 0.5. Counts in each step are Poisson.

    Parameters
    ----------
    hidden : ndarray
        (trials, steps, units): the network's hidden states, of single trials or averaged over each
        condition's.
    condition : ndarray
        (trials,): index into the task's conditions.
    task : DecisionTask
        The task the network did: its steps, epochs and conditions become the recording's.
    rng : Generator
        The map and the spikes.
    neurons : int, default 100
        Neurons.
    repeats : int, default 1
        How often each row of `hidden` is observed, with its own spikes.
    rate : float, default 10
        Median rate, in spikes per second.
    modulation : float, default 0.5
        Standard deviation of a neuron's rate, as a share of its mean (before it is cut at 0).

    Returns
    -------
    SpikeRecording
        Marked synthetic; one session of ``trials * repeats`` trials.

    Raises
    ------
    ValueError
        If shapes do not fit the task, or `neurons`, `repeats` or `rate` is not positive.

    Examples
    --------
    >>> from b2m_fast.data.decisions import direction_task
    >>> task, rng = direction_task(), np.random.default_rng(0)
    >>> hidden = rng.normal(size=(12, task.steps, 8))
    >>> observe(hidden, np.arange(12), task, rng, neurons=30, repeats=5).sessions[0].spikes.shape
    (60, 30, 44)
    """
    if hidden.ndim != 3 or hidden.shape[:2] != (len(condition), task.steps):
        raise ValueError(
            f"hidden must be (trials, steps, units) = ({len(condition)}, {task.steps}, ...) for "
            f"the task {task.name}, got {hidden.shape}"
        )
    expected = _rates(hidden, rng, neurons, repeats, rate, modulation) * (task.step_ms / 1e3)
    counts = rng.poisson(np.repeat(expected, repeats, axis=0)).astype(np.uint16)
    return SpikeRecording(
        name=f"synthetic-{task.name}",
        sessions=(
            Session(counts.transpose(0, 2, 1), np.repeat(condition, repeats).astype(np.int64)),
        ),
        conditions=task.conditions,
        bin_ms=task.step_ms,
        epochs={
            name: (begin * task.step_ms, end * task.step_ms)
            for name, (begin, end) in task.epochs.items()
        },
        synthetic=True,
    )


def _rates(
    hidden: NDArray[np.floating],
    rng: np.random.Generator,
    neurons: int,
    repeats: int,
    rate: float,
    modulation: float,
) -> NDArray[np.float64]:
    """Spikes per second (..., neurons) of neurons that look at states (..., units)."""
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


def observe_images(
    features: NDArray[np.floating],
    images: NDArray[np.float32],
    rng: np.random.Generator,
    *,
    neurons: int = 100,
    repeats: int = 10,
    rate: float = 10.0,
    modulation: float = 0.5,
    window_ms: float = 200.0,
    components: int | None = None,
) -> PairedTeacher:
    """Spikes of neurons that each see a random mixture of what a network makes of an image.

    Rates are those of `observe`; a response is the mean count in a window over repeats, z-scored.

    Parameters
    ----------
    features : ndarray
        (n, units): the network's features of each image.
    images : ndarray
        (n, channels, height, width), float32 in [0, 1].
    rng : Generator
        The map and the spikes.
    neurons : int, default 100
        Neurons.
    repeats : int, default 10
        How often each image is shown.
    rate : float, default 10
        Median rate, in spikes per second.
    modulation : float, default 0.5
        As for `observe`.
    window_ms : float, default 200
        How long spikes are counted, in milliseconds.
    components : int, optional
        Principal components instead of neurons.

    Returns
    -------
    PairedTeacher
        Marked synthetic; labels are the images' numbers. ``split_half_r`` of the report is the mean
        over neurons of the correlation of means over halves of the repeats (None for one repeat).

    Raises
    ------
    ValueError
        If there is not one row of features for each image, or a number is not positive.
    """
    if features.ndim != 2 or len(features) != len(images):
        raise ValueError(f"features must be ({len(images)}, units), got {features.shape}")
    if not window_ms > 0:
        raise ValueError(f"window_ms must be positive, got {window_ms}")
    expected = _rates(features, rng, neurons, repeats, rate, modulation) * (window_ms / 1e3)
    counts = rng.poisson(expected, (repeats, *expected.shape))
    halves = [half.mean(axis=0) for half in (counts[::2], counts[1::2]) if len(half)]
    report = {
        "recording": "synthetic-images",
        "synthetic": True,
        "stand_in": False,
        "units": neurons,
        "images": len(images),
        "repeats": repeats,
        "components": components,
        "split_half_r": _mean_correlation(*halves) if repeats > 1 else None,
    }
    responses = scored(scored(counts.mean(axis=0)), components, "the synthetic neurons")
    return PairedTeacher(images, responses, np.arange(len(images)), report)


def _mean_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Mean over columns of Pearson's r."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return float(((a * b).sum(axis=0) / np.where(norm > 0, norm, np.inf)).mean())
