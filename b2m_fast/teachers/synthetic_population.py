"""A SYNTHETIC recording of a network: hidden states seen through a random map and Poisson spikes.

Nothing here was recorded. A trained network stands in for the brain, so that the right answer is
known: what a student can learn from this population is an upper bound for what the methods could
do with a real one of the same size and noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.data.spikes import Session, SpikeRecording

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from b2m_fast.data.decisions import DecisionTask

__all__ = ["observe"]


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
    if not np.isfinite(hidden).all():
        raise ValueError("hidden contains NaN or infinity")
    for name, value in (("neurons", neurons), ("repeats", repeats), ("rate", rate)):
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
    drive = hidden @ rng.normal(size=(hidden.shape[2], neurons))
    drive = drive - drive.mean(axis=(0, 1))
    spread = drive.std(axis=(0, 1))
    drive = drive / np.where(spread > 0, spread, np.inf)
    base = rate * np.exp(0.5 * rng.normal(size=neurons))
    expected = base * np.maximum(0, 1 + modulation * drive) * (task.step_ms / 1e3)
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
