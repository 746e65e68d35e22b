"""From one clock to another: delayed features (library only), and the mean of bins over the steps of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


def fmri_delays(seconds_per_sample: float, longest: float = 8.0) -> tuple[int, ...]:
    """Return delays in samples that cover the rise and fall of a haemodynamic response, at least one.

    2, 4, 6 and 8 s where that is whole samples of 2 s (the four delays of Moussa's multi-brain tuning code); 3, 4, 5,
    6 s at 1 s a sample; in general all whole samples from 2 s (3 s where a sample is shorter than 2 s) to `longest`
    (6 s).

    Parameters
    ----------
    seconds_per_sample : float
        Time between samples of the recording (TR), positive.
    longest : float, default 8
        In seconds; used for samples of 2 s or more.

    Returns
    -------
    tuple of int
        Delays in samples.
    """
    if not seconds_per_sample > 0:
        raise ValueError(f"seconds_per_sample must be positive, got {seconds_per_sample}")
    first, last = (2.0, longest) if seconds_per_sample >= 2 else (3.0, min(6.0, longest))
    low = max(1, int(np.ceil(first / seconds_per_sample - 1e-9)))
    high = max(low, int(np.floor(last / seconds_per_sample + 1e-9)))
    return tuple(range(low, high + 1))


def delayed(
    features: NDArray[np.floating], delays: Sequence[int], *, runs: ArrayLike | None = None
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Return a finite impulse response: what was shown d samples ago, for several d, side by side.

    F_d[t] = [F[t - d_1] ... F[t - d_k]], 0 where that lies before the run began. Responses meet the labels of what
    caused them by one negative delay: ``delayed(responses, (-round(mean(delays)),))``.

    Parameters
    ----------
    features : ndarray
        (time, p).
    delays : sequence of int
        In samples, distinct; negative ones look ahead.
    runs : array_like, optional
        (time,): the run of each sample; nothing is carried from one run into another. Default: one.

    Returns
    -------
    delayed : ndarray
        (time, k p), of the same dtype: all features of the first delay, then of the second.
    complete : ndarray
        (time,), bool: samples of which every delay lies within the run.

    Raises
    ------
    ValueError
        If there is no delay, one is given twice or is no whole number, or a run is not contiguous.

    Examples
    --------
    >>> delayed(np.array([[1.0], [2.0], [3.0]]), (0, 1))[0]
    array([[1., 0.],
           [2., 1.],
           [3., 2.]])
    """
    x, shifts = np.asarray(features), [int(d) for d in delays]
    if not shifts or shifts != list(delays) or len(set(shifts)) != len(shifts):
        raise ValueError(f"delays must be distinct whole numbers of samples, got {delays}")
    if x.ndim != 2:
        raise ValueError(f"features must be (time, p), got {x.shape}")
    run = np.zeros(len(x), dtype=np.int64) if runs is None else np.asarray(runs)
    if run.shape != (len(x),):
        raise ValueError(f"runs must name the run of each of {len(x)} samples, got {run.shape}")
    if (run[1:] != run[:-1]).sum() + 1 > max(1, len(np.unique(run))):
        raise ValueError("the samples of a run must follow each other")
    source = np.arange(len(x))[:, None] - shifts
    inside = (source >= 0) & (source < len(x))
    source = np.where(inside, source, 0)
    inside &= run[source] == run[:, None]
    out = x[source]
    out[~inside] = 0
    return out.reshape(len(x), -1), np.asarray(inside.all(axis=1))


def _linear(middle: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Weights (steps, bins) of linear interpolation between bins at `middle` (steps, 1)."""
    near = np.clip(middle, 0, bins - 1)
    return np.asarray(np.clip(1 - np.abs(near - np.arange(bins)), 0, None))


def interval_weights(
    edges: NDArray[np.float64], bins: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return weights (steps, bins) of the mean over the bins that each step covers, and which steps were recorded.

    Steps lie between `edges`, (steps + 1,), in bins; between bins that are wider than a step, values are interpolated
    linearly at its middle. Steps of which at least half was recorded are valid, (steps,) bool.
    """
    begin, end = edges[:-1, None], edges[1:, None]
    position = np.arange(bins)
    covered = np.clip(np.minimum(end, position + 1) - np.maximum(begin, position), 0, None)
    valid = covered.sum(axis=1) > (0.5 - 1e-9) * (end - begin)[:, 0]
    if (end - begin).min() < 1 - 1e-9:
        covered = _linear((begin + end) / 2 - 0.5, bins)
    return covered / np.maximum(covered.sum(axis=1, keepdims=True), 1e-12), valid
