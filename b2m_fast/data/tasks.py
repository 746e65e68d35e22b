"""Decision tasks that a recurrent student is trained on: the protocol, tasks made of epochs, and four of them.

A task made of epochs is a table: what every input channel shows in every epoch of every condition, and which answer is right.

Three of the four are neurogym's (Molano-Mazon et al. 2022), with its timings, values and noise, written out here because neurogym
2.3.1 asks for NumPy 2.2, gymnasium 0.29 and matplotlib 3.10 and so cannot be installed beside current ones; whole batches drawn at
once are also faster than its environments, which are stepped through trial by trial. a test reads the same
tables from the package where it is installed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from b2m_fast.data import task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor


Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Trials:
    """A batch of trials, time first, as recurrent students read them.

    Parameters
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
    """What a student and a teacher need to know of a task; a function registered with ``kind="trials"`` returns one."""

    @property
    def name(self) -> str:
        """The task's name in reports."""

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
        """Named step ranges, [begin, end), in the order of time; one is called "delay" where the delay can be changed."""

    @property
    def history(self) -> Indices:
        """(conditions, steps), int64: the first condition whose input was the same up to this step."""

    def draw(
        self, count: int, rng: np.random.Generator, *, delay_ms: float | None = None
    ) -> Trials:
        """Return `count` trials balanced over conditions, all random numbers from `rng`, the delay of another length if given."""


@dataclass(frozen=True, eq=False)
class EpochTask:
    """A task whose input is constant within an epoch, but for noise; a `DecisionTask`.

    Parameters
    ----------
    name : str
        The task's name in reports.
    step_ms : float
        Length of a step, in milliseconds.
    timing : dict of str to float
        Epochs in the order of time and their lengths in milliseconds; one is called "delay".
    conditions : tuple of str
        Names of the conditions.
    stimulus : dict of str to ndarray
        For each epoch the input (conditions, channels) without noise, float32.
    answer : ndarray
        (conditions,), int64: the right answer.
    response : str
        The epoch in which the answer counts.
    noise : dict of str to ndarray
        For some epochs (channels,): standard deviation of the noise, times sqrt(milliseconds).
    grace_ms : float
        Beginning of the response epoch in which the answer does not count yet.

    Raises
    ------
    ValueError
        If an epoch is no whole number of steps, or `grace_ms` as long as the response.

    Examples
    --------
    >>> task = direction()
    >>> task.epochs
    {'fixation': (0, 10), 'cue': (10, 14), 'delay': (14, 34), 'go': (34, 44)}
    >>> task.draw(24, np.random.default_rng(0)).inputs.shape
    torch.Size([44, 24, 9])
    """

    name: str
    step_ms: float
    timing: Mapping[str, float]
    conditions: tuple[str, ...]
    stimulus: Mapping[str, NDArray[np.float32]]
    answer: Indices
    response: str
    noise: Mapping[str, NDArray[np.float32]]
    grace_ms: float = 0.0

    def __post_init__(self) -> None:
        if not self.step_ms > 0:
            raise ValueError(f"{self.name}: step_ms must be positive, got {self.step_ms}")
        for epoch, length in self.timing.items():
            steps = length / self.step_ms
            if steps < 1 or abs(steps - round(steps)) > 1e-9:
                whole = f"must last whole steps of {self.step_ms} ms, at least one"
                raise ValueError(f"{self.name}: the epoch {epoch!r} {whole}; got {length} ms")
        if not 0 <= self.grace_ms < (limit := self.timing[self.response]):
            shorter = f"shorter than {self.response!r} ({limit} ms)"
            raise ValueError(f"{self.name}: grace_ms must be {shorter}, got {self.grace_ms}")

    @cached_property
    def epochs(self) -> dict[str, tuple[int, int]]:
        """Named step ranges, [begin, end), in the order of time."""
        ranges, begin = {}, 0
        for epoch, length in self.timing.items():
            ranges[epoch] = (begin, begin + round(length / self.step_ms))
            begin = ranges[epoch][1]
        return ranges

    @cached_property
    def history(self) -> Indices:
        """(conditions, steps): the first condition whose input was the same up to this step, noise aside."""
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
        """Return the same task with another length of the epoch "delay", in milliseconds."""
        return replace(self, timing={**self.timing, "delay": delay_ms})

    def draw(
        self, count: int, rng: np.random.Generator, *, delay_ms: float | None = None
    ) -> Trials:
        """Return trials in random order, each condition as often as every other, or once more."""
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
                noise = rng.standard_normal(inputs[begin:end].shape, dtype=np.float32)
                inputs[begin:end] += self.noise[epoch] / np.float32(self.step_ms**0.5) * noise
        mask = np.zeros((self.steps, count), dtype=np.float32)
        begin, end = self.epochs[self.response]
        mask[begin + round(self.grace_ms / self.step_ms) : end] = 1
        target = np.broadcast_to(self.answer[condition], mask.shape).copy()
        return Trials(*(torch.from_numpy(x) for x in (inputs, target, mask, condition)))


# --------------------------------------------------------------------------------------------------
# The four tasks
# --------------------------------------------------------------------------------------------------
def _ring(directions: int) -> NDArray[np.float64]:
    """Return angles on a ring; raise unless every direction has an opposite one."""
    if directions < 2 or directions % 2:
        raise ValueError(f"directions must be even and at least 2, got {directions}")
    return 2 * np.pi * np.arange(directions) / directions


def _pairs(words: tuple[str, str], count: int) -> tuple[Indices, Indices, list[str]]:
    """Return all pairs of a word and a number below `count`, the number running fastest, and the names of these conditions."""
    word, number = np.divmod(np.arange(2 * count), count)
    return word, number, [f"{words[a]} {b + 1}" for a, b in zip(word, number, strict=True)]


def _table(
    name: str,
    step_ms: float,
    timing: dict[str, float],
    conditions: Sequence[str],
    shown: Callable[[str], list[NDArray[np.float64]]],
    answer: Indices,
    noise: tuple[Sequence[float], Sequence[str]],
    grace_ms: float = 0.0,
) -> EpochTask:
    """Return a task whose first channel, fixation, is 1 until the last epoch, in which the answer counts.

    `shown`: epoch -> its other channels; `noise`: standard deviations of all channels, and the epochs that have it.
    """
    response, count = list(timing)[-1], len(answer)
    columns = {epoch: [np.full(count, epoch != response), *shown(epoch)] for epoch in timing}
    tables = {epoch: np.column_stack(x).astype(np.float32) for epoch, x in columns.items()}
    spread, names = dict.fromkeys(noise[1], np.array(noise[0], np.float32)), tuple(conditions)
    return EpochTask(name, step_ms, timing, names, tables, answer, response, spread, grace_ms)


@task("direction", "a remembered direction: look there, or look away", kind="trials")
def direction(
    *,
    directions: int = 6,
    step_ms: float = 50.0,
    delay_ms: float = 1000.0,
    go_ms: float = 500.0,
    noise: float = 1.0,
) -> EpochTask:
    """Return the task of Park et al.'s monkeys (bioRxiv 2025): move the eyes to a remembered place (look), or avoid it (no-look).

    Places are grouped into directions; a target is shown for 200 ms and remembered for 1,000 ms, in steps of the recorded 50 ms. What
    follows the delay is ours: the answer is the direction to look at, and to avoid a place is to look in the opposite direction; it
    counts after 100 ms. Inputs: fixation (1 until "go"), the rule (two channels, throughout), and a ring of units that answer the
    target with 1/2 + cos(difference of angles)/2; `noise` is the standard deviation of the ring's noise, all the time, times
    sqrt(milliseconds).
    """
    angle, opposite = _ring(directions), directions // 2
    rule, target, names = _pairs(("look", "no-look"), directions)
    ring = 0.5 + 0.5 * np.cos(angle[target][:, None] - angle)
    answer = np.where(rule == 0, target, (target + opposite) % directions)
    timing = {"fixation": 500.0, "cue": 200.0, "delay": delay_ms, "go": go_ms}
    spread = [0, 0, 0, *[noise] * directions], list(timing)
    grace = min(100.0, go_ms - step_ms)

    def shown(epoch: str) -> list[NDArray[np.float64]]:
        return [np.eye(2)[rule], ring * (epoch == "cue")]

    return _table("direction", step_ms, timing, names, shown, answer, spread, grace)


@task("delay-match-sample", "was the second direction the first one?", kind="trials")
def delay_match_sample(
    *, directions: int = 2, step_ms: float = 100.0, delay_ms: float = 1000.0, noise: float = 1.0
) -> EpochTask:
    """Return neurogym's DelayMatchSample: answer 0 is match, 1 is not; a test that does not match is the opposite direction.

    `noise` is the standard deviation of the ring's noise during both stimuli, times sqrt(milliseconds).
    """
    angle = _ring(directions)
    answer, sample, names = _pairs(("match", "non-match"), directions)
    test = (sample + answer * (directions // 2)) % directions
    places = {"sample": sample, "test": test}
    ring = {e: np.cos(angle - angle[place][:, None]) * 0.5 + 0.5 for e, place in places.items()}
    timing = {"fixation": 300.0, "sample": 500.0, "delay": delay_ms, "test": 500.0}
    spread = [0, *[noise] * directions], list(ring)

    def shown(epoch: str) -> list[NDArray[np.float64]]:
        return [ring.get(epoch, np.zeros((len(names), directions)))]

    timing["decision"] = 900.0
    return _table("delay-match-sample", step_ms, timing, names, shown, answer, spread)


@task("parametric-working-memory", "which of two stimuli was the stronger?", kind="trials")
def parametric_working_memory(
    *, step_ms: float = 100.0, delay_ms: float = 1000.0, noise: float = 1.0
) -> EpochTask:
    """Return neurogym's DelayComparison: answer 0 is the first of two stimuli, 1 the second.

    Strengths are the vibrations of Romo's monkeys, in hertz, scaled to [0.5, 1]; a pair differs by 8 Hz. `noise` is the standard
    deviation of all input's noise during both stimuli, times sqrt(milliseconds).
    """
    strong = np.array([18.0, 22.0, 26.0, 30.0, 34.0])
    first, second = np.r_[strong, strong - 8], np.r_[strong - 8, strong]
    hertz = {"stimulus1": first, "stimulus2": second}
    names = [f"{a:.0f} then {b:.0f}" for a, b in zip(first, second, strict=True)]
    timing = {"fixation": 500.0, "stimulus1": 500.0, "delay": delay_ms, "stimulus2": 500.0}
    timing["decision"] = max(100.0, step_ms)
    spread, answer = ([noise, noise], list(hertz)), (second > first).astype(np.int64)

    def shown(epoch: str) -> list[NDArray[np.float64]]:
        return [(1 + (hertz[epoch] - 10) / 24) / 2 if epoch in hertz else np.zeros(len(names))]

    return _table("parametric-working-memory", step_ms, timing, names, shown, answer, spread)


@task("delay-direction-rule", "reach in the direction that was shown, or opposite", kind="trials")
def delay_direction_rule(
    *, directions: int = 16, step_ms: float = 100.0, delay_ms: float = 500.0
) -> EpochTask:
    """Return neurogym's yang19 dlygo and dlyanti as one task, conditions "go 1" to "anti 16" named after the answer.

    As in neurogym the answer is drawn and the stimulus follows from it and the rule, is a bump of height 0.8 on the ring, and has no
    noise; two further channels tell the rule throughout.
    """
    angle = _ring(directions)
    rule, answer, names = _pairs(("go", "anti"), directions)
    place = (answer + rule * (directions // 2)) % directions
    distance = np.abs(angle[place][:, None] - angle)
    distance = np.minimum(distance, 2 * np.pi - distance) / (np.pi / 8)
    bump = 0.8 * np.exp(-(distance**2) / 2)
    timing = {"fixation": 500.0, "stimulus": 500.0, "delay": delay_ms, "decision": 500.0}

    def shown(epoch: str) -> list[NDArray[np.float64]]:
        return [bump * (epoch == "stimulus"), np.eye(2)[rule]]

    return _table("delay-direction-rule", step_ms, timing, names, shown, answer, ([], []))
