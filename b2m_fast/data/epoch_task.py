"""Tasks made of epochs: the table of a task, and the trials drawn from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["DecisionTask", "EpochTask", "Trials"]


@dataclass(frozen=True)
class Trials:
    """A batch of trials, time first, as recurrent students read them.

    Attributes
    ----------
    inputs : Tensor
        (steps, trials, channels), float32.
    target : Tensor
        (steps, trials), int64: the trial's right answer, the same at every step.
    mask : Tensor
        (steps, trials), float32: 1 at the steps where the answer counts, else 0.
    condition : Tensor
        (trials,), int64: index into the task's conditions.
    """

    inputs: Tensor
    target: Tensor
    mask: Tensor
    condition: Tensor


class DecisionTask(Protocol):
    """What a student and a teacher need to know of a task."""

    @property
    def name(self) -> str:
        """The task's name."""

    @property
    def step_ms(self) -> float:
        """Length of a step, in milliseconds."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions."""

    @property
    def steps(self) -> int:
        """Steps of a trial."""

    @property
    def channels(self) -> int:
        """Input channels."""

    @property
    def classes(self) -> int:
        """Possible answers."""

    @property
    def epochs(self) -> dict[str, tuple[int, int]]:
        """Named step ranges, [begin, end), in the order of time."""

    @property
    def history(self) -> NDArray[np.int64]:
        """(conditions, steps): the first condition whose input was the same up to this step."""

    def draw(
        self, count: int, rng: np.random.Generator, *, delay_ms: float | None = None
    ) -> Trials:
        """Trials balanced over conditions, with chance from `rng` alone."""


@dataclass(frozen=True, eq=False)
class EpochTask:
    """A task whose input is constant within an epoch, but for noise.

    Attributes
    ----------
    name : str
        The task's name.
    step_ms : float
        Length of a step, in milliseconds.
    timing : dict of str to float
        Epochs in the order of time and their lengths in milliseconds; one is called "delay".
    conditions : tuple of str
        Names of the conditions.
    stimulus : dict of str to ndarray
        For each epoch the input (conditions, channels) without noise.
    answer : ndarray
        (conditions,), int64: the right answer.
    response : str
        The epoch in which the answer counts.
    noise : dict of str to ndarray
        For some epochs (channels,): standard deviation of the noise, times sqrt(milliseconds).
    grace_ms : float
        Beginning of the response epoch in which the answer does not count yet.
    """

    name: str
    step_ms: float
    timing: Mapping[str, float]
    conditions: tuple[str, ...]
    stimulus: Mapping[str, NDArray[np.float32]]
    answer: NDArray[np.int64]
    response: str
    noise: Mapping[str, NDArray[np.float32]]
    grace_ms: float = 0.0

    def __post_init__(self) -> None:
        if not self.step_ms > 0:
            raise ValueError(f"{self.name}: step_ms must be positive, got {self.step_ms}")
        for epoch, length in self.timing.items():
            steps = length / self.step_ms
            if steps < 1 or abs(steps - round(steps)) > 1e-9:
                raise ValueError(
                    f"{self.name}: the epoch {epoch!r} must last whole steps of {self.step_ms} ms, "
                    f"at least one; got {length} ms"
                )
        if not 0 <= self.grace_ms < self.timing[self.response]:
            raise ValueError(
                f"{self.name}: grace_ms must be shorter than {self.response!r} "
                f"({self.timing[self.response]} ms), got {self.grace_ms}"
            )

    @cached_property
    def epochs(self) -> dict[str, tuple[int, int]]:
        """Named step ranges, [begin, end), in the order of time."""
        ranges, begin = {}, 0
        for epoch, length in self.timing.items():
            ranges[epoch] = (begin, begin + round(length / self.step_ms))
            begin = ranges[epoch][1]
        return ranges

    @cached_property
    def history(self) -> NDArray[np.int64]:
        """(conditions, steps): the first condition whose input was the same up to this step.

        Conditions of the same number cannot be told apart yet, noise aside.
        """
        groups = np.empty((len(self.conditions), self.steps), dtype=np.int64)
        seen = np.zeros((len(self.conditions), 0), dtype=np.float32)
        for epoch, (begin, end) in self.epochs.items():
            seen = np.hstack([seen, self.stimulus[epoch]])
            first, group = np.unique(seen, axis=0, return_index=True, return_inverse=True)[1:]
            groups[:, begin:end] = first[group.reshape(-1)][:, None]
        return groups

    @property
    def steps(self) -> int:
        """Steps of a trial."""
        return max(end for _, end in self.epochs.values())

    @property
    def channels(self) -> int:
        """Input channels."""
        return int(self.stimulus[self.response].shape[1])

    @property
    def classes(self) -> int:
        """Possible answers."""
        return int(self.answer.max()) + 1

    def with_delay(self, delay_ms: float) -> EpochTask:
        """The same task with another delay.

        Parameters
        ----------
        delay_ms : float
            Length of the epoch "delay", in milliseconds.

        Returns
        -------
        EpochTask
            With its own steps and epochs.

        Raises
        ------
        ValueError
            If that is not a whole number of steps, at least one.
        """
        return replace(self, timing={**self.timing, "delay": delay_ms})

    def draw(
        self, count: int, rng: np.random.Generator, *, delay_ms: float | None = None
    ) -> Trials:
        """Trials in random order, each condition as often as every other, or once more.

        Parameters
        ----------
        count : int
            Trials.
        rng : Generator
            The only source of chance.
        delay_ms : float, optional
            Another delay than the task's; the trials then have other numbers of steps.

        Returns
        -------
        Trials
            Of `steps` steps, or those of ``with_delay(delay_ms)``.

        Raises
        ------
        ValueError
            If `count` is not positive or the delay is no whole number of steps.
        """
        if delay_ms is not None:
            return self.with_delay(delay_ms).draw(count, rng)
        if count < 1:
            raise ValueError(f"{self.name}: count must be at least 1, got {count}")
        rounds = -(-count // len(self.conditions))
        deck = np.concatenate([rng.permutation(len(self.conditions)) for _ in range(rounds)])
        condition = rng.permutation(deck[:count])
        inputs = np.empty((self.steps, count, self.channels), dtype=np.float32)
        for epoch, (begin, end) in self.epochs.items():
            inputs[begin:end] = self.stimulus[epoch][condition]
            if epoch in self.noise:
                scale = self.noise[epoch] / np.float32(self.step_ms**0.5)
                inputs[begin:end] += scale * rng.standard_normal(
                    inputs[begin:end].shape, dtype=np.float32
                )
        mask = np.zeros((self.steps, count), dtype=np.float32)
        begin, end = self.epochs[self.response]
        mask[begin + round(self.grace_ms / self.step_ms) : end] = 1
        target = np.broadcast_to(self.answer[condition], mask.shape).copy()
        return Trials(*(torch.from_numpy(x) for x in (inputs, target, mask, condition)))
