"""Two clocks: when the recording says something about a step of the student's task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.data.files import DataError
from b2m_fast.encoding.delays import reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from b2m_fast.data.decisions import DecisionTask
    from b2m_fast.teachers.populations import Population

__all__ = [
    "Alignment",
    "align",
]


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where on the recording's clock, and in which of its conditions, the student's task is.

    Attributes
    ----------
    weights : ndarray
        (valid steps, bins): what each step reads of the recording.
    valid : ndarray
        (steps,), bool: steps at which the recording says something.
    condition : ndarray
        (task's conditions,): the recording's condition of each.
    stretch : dict of str to float
        For each epoch of the task, how much longer it lasts than the recording's.
    """

    weights: NDArray[np.float64]
    valid: NDArray[np.bool_]
    condition: NDArray[np.int64]
    stretch: dict[str, float]

    def __call__(self, course: NDArray[np.float64]) -> NDArray[np.float64]:
        """Put a time course on the student's clock.

        Parameters
        ----------
        course : ndarray
            (recorded conditions, bins, d).

        Returns
        -------
        ndarray
            (task's conditions, valid steps, d).
        """
        return np.asarray(np.einsum("sb,cbd->csd", self.weights, course[self.condition]))


def align(
    population: Population,
    task: DecisionTask,
    *,
    epochs: Mapping[str, str] | None = None,
    conditions: Mapping[str, str] | None = None,
    max_stretch: float = 2.0,
) -> Alignment:
    """Map the epochs and conditions of a task onto those of a recording.

    A step at some fraction of its epoch reads the recording at that fraction of the epoch it is
    mapped to: the mean over the bins it covers, or between bins that are wider than itself by
    linear interpolation. A step of which less than half was recorded is not valid.

    Parameters
    ----------
    population : Population
        The recording.
    task : DecisionTask
        The student's task.
    epochs : mapping of str to str, optional
        The task's epoch -> the recording's; default: those of the same name.
    conditions : mapping of str to str, optional
        The task's condition -> the recording's; default: those of the same name, if both have the
        same names: "look 1" of four directions is not "look 1" of six.
    max_stretch : float, default 2
        How much time may be stretched or compressed.

    Returns
    -------
    Alignment
        To be applied to anything on the recording's clock.

    Raises
    ------
    DataError
        If the clocks share no epoch or would be stretched further than that, an epoch was not
        recorded, a condition has no counterpart, all have the same one, or the recording has
        conditions that the task lacks and `conditions` is not given.
    """
    pairs = {name: name for name in task.epochs} if epochs is None else dict(epochs)
    pairs = {a: b for a, b in pairs.items() if epochs is not None or b in population.epochs}
    unknown = [a for a in pairs if a not in task.epochs]
    unknown += [b for b in pairs.values() if b not in population.epochs]
    if not pairs or unknown:
        raise DataError(
            f"the clocks of {population.name} and the task {task.name} do not match"
            + (f" (unknown epochs {unknown})" if unknown else "")
            + f": the recording has {list(population.epochs)}, the task {list(task.epochs)}; say "
            f"which belong together with epochs={{task's epoch: recording's epoch}}"
        )
    weights = np.zeros((task.steps, population.bins))
    valid = np.zeros(task.steps, dtype=bool)
    stretch = {}
    for ours, theirs in pairs.items():
        steps = np.arange(*task.epochs[ours])
        begin, end = population.epochs[theirs]
        ratio = len(steps) * task.step_ms / (end - begin)
        if not 1 / max_stretch <= ratio <= max_stretch:
            raise DataError(
                f"the clocks of {population.name} and the task {task.name} do not match: "
                f"{ours!r} lasts {len(steps) * task.step_ms:g} ms in the task and {theirs!r} "
                f"{end - begin:g} ms in the recording, a stretch by {ratio:.2g} where "
                f"max_stretch={max_stretch:g} is allowed"
            )
        stretch[ours] = ratio
        edges = np.linspace(begin, end, len(steps) + 1) - population.start_ms
        weights[steps], valid[steps] = reading(edges / population.bin_ms, population.bins)
    if not valid.any():
        raise DataError(
            f"{population.name}: nothing was recorded in the epochs {sorted(pairs.values())}"
        )
    condition = _conditions(population, task, conditions)
    return Alignment(weights[valid], valid, condition, stretch)


def _conditions(
    population: Population, task: DecisionTask, conditions: Mapping[str, str] | None
) -> NDArray[np.int64]:
    """The recording's condition of each condition of the task."""
    names = {name: name for name in task.conditions} if conditions is None else conditions
    lost = [c for c in task.conditions if names.get(c) not in population.conditions]
    if lost:
        raise DataError(
            f"{population.name} has no condition for {lost} of the task {task.name}: it has "
            f"{list(population.conditions)}; say which belong together with "
            f"conditions={{task's condition: recording's condition}}"
        )
    more = [c for c in population.conditions if c not in task.conditions]
    if conditions is None and more:
        raise DataError(
            f"{population.name} was recorded in conditions that the task {task.name} lacks ({more}), "
            f"so that the same names need not mean the same; say which belong together with "
            f"conditions={{task's condition: recording's condition}}"
        )
    found = np.array([population.conditions.index(names[c]) for c in task.conditions])
    if len(np.unique(found)) < 2:
        raise DataError(
            f"{population.name}: all conditions of the task {task.name} are mapped to one, "
            f"{population.conditions[found[0]]!r}: a teacher needs at least two"
        )
    return found
