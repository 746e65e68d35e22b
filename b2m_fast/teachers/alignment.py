"""Align a recording with a student's task: which bins, of which condition, each step reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.data.files import DataError
from b2m_fast.encoding.delays import interval_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from b2m_fast.data.tasks import DecisionTask
    from b2m_fast.teachers.population import Population


@dataclass(frozen=True, eq=False)
class Alignment:
    """Weights that resample a recording to the steps of a task.

    Attributes
    ----------
    weights : ndarray
        (valid steps, bins), float64: how much each step reads of each bin; rows sum to 1.
    valid : ndarray
        (steps,), bool: steps of the task of which at least half was recorded.
    condition : ndarray
        (conditions of the task,), int64: the recorded condition that stands for each.
    stretch : dict of str to float
        Of each epoch of the task: its length divided by that of the recorded epoch.
    """

    weights: NDArray[np.float64]
    valid: NDArray[np.bool_]
    condition: NDArray[np.int64]
    stretch: dict[str, float]

    def __call__(self, course: NDArray[np.float64]) -> NDArray[np.float64]:
        """Resample (recorded conditions, bins, d) to (conditions of the task, valid steps, d)."""
        return np.asarray(np.einsum("sb,cbd->csd", self.weights, course[self.condition]))


def align(
    population: Population,
    task: DecisionTask,
    *,
    epochs: Mapping[str, str] | None = None,
    conditions: Mapping[str, str] | None = None,
    max_stretch: float = 2.0,
) -> Alignment:
    """Align a recording's epochs and conditions with those of a task.

    A step at some fraction of its epoch reads the recording at the same fraction of the epoch it is
    mapped to: the mean of the bins it covers, or, where bins are wider than steps, a linear
    interpolation between bins. A step of which less than half was recorded is not valid.

    Parameters
    ----------
    population : Population
        The recording.
    task : DecisionTask
        The student's task.
    epochs : mapping of str to str, optional
        Epoch of the task -> epoch of the recording; default: epochs of the same name.
    conditions : mapping of str to str, optional
        Condition of the task -> condition of the recording; default: conditions of the same name,
        if both have the same names ("look 1" of four directions is not "look 1" of six).
    max_stretch : float, default 2
        Largest factor by which time may be stretched or compressed.

    Returns
    -------
    Alignment
        Can be applied to anything with the recording's conditions and bins.

    Raises
    ------
    DataError
        If no epoch matches, an epoch would be stretched by more than `max_stretch` or was not
        recorded, a condition of the task has no counterpart, all have the same one, or the
        recording has conditions that the task lacks and `conditions` is not given.

    Examples
    --------
    >>> align(population, task, epochs={"delay": "memory"})(population.average()).shape
    (12, 20, 60)
    """
    matched = _matching_epochs(population, task, epochs)
    weights = np.zeros((task.steps, population.bins))
    valid = np.zeros(task.steps, dtype=bool)
    stretch = {}
    for name, recorded in matched.items():
        steps = np.arange(*task.epochs[name])
        begin, end = population.time.epochs[recorded]
        length = len(steps) * task.step_ms
        stretch[name] = length / (end - begin)
        if not 1 / max_stretch <= stretch[name] <= max_stretch:
            raise DataError(
                f"{population.name} and the task {task.name} do not match: {name!r} lasts {length:g} "
                f"ms in the task and {recorded!r} {end - begin:g} ms in the recording, a stretch by "
                f"{stretch[name]:.2g} where max_stretch={max_stretch:g} is allowed"
            )
        edges = np.linspace(begin, end, len(steps) + 1) - population.time.start_ms
        weights[steps], valid[steps] = interval_weights(
            edges / population.time.bin_ms, population.bins
        )
    if not valid.any():
        raise DataError(
            f"{population.name}: nothing was recorded in the epochs {sorted(matched.values())}"
        )
    condition = _matching_conditions(population, task, conditions)
    return Alignment(weights[valid], valid, condition, stretch)


def _matching_epochs(
    population: Population, task: DecisionTask, epochs: Mapping[str, str] | None
) -> Mapping[str, str]:
    """Return the recorded epoch of each epoch of the task that has one."""
    known = population.time.epochs
    matched = {name: name for name in task.epochs if name in known} if epochs is None else epochs
    unknown = sorted({*matched} - {*task.epochs}) + sorted({*matched.values()} - {*known})
    if not matched or unknown:
        raise DataError(
            f"{population.name} and the task {task.name} do not match"
            + (f" (unknown epochs {unknown})" if unknown else "")
            + f": the recording has {list(known)}, the task {list(task.epochs)}; map them with "
            "epochs={task's epoch: recording's epoch}"
        )
    return matched


def _matching_conditions(
    population: Population, task: DecisionTask, conditions: Mapping[str, str] | None
) -> NDArray[np.int64]:
    """Return the index of the recorded condition that stands for each condition of the task."""
    names = {name: name for name in task.conditions} if conditions is None else conditions
    how = "map them with conditions={task's condition: recording's condition}"
    if missing := [c for c in task.conditions if names.get(c) not in population.conditions]:
        raise DataError(
            f"{population.name} has no condition for {missing} of the task {task.name}: it has "
            f"{list(population.conditions)}; {how}"
        )
    extra = [c for c in population.conditions if c not in task.conditions]
    if conditions is None and extra:
        raise DataError(
            f"{population.name} was recorded in conditions that the task {task.name} lacks "
            f"({extra}), so that equal names need not mean the same; {how}"
        )
    found = np.array([population.conditions.index(names[c]) for c in task.conditions])
    if len(np.unique(found)) < 2:
        raise DataError(
            f"{population.name}: all conditions of the task {task.name} are mapped to one, "
            f"{population.conditions[found[0]]!r}: a teacher needs at least two"
        )
    return found
