"""Pairings: which row of the student's activity belongs to which row of the brain's.

Every strategy of Brain2Model compares rows with rows. What differs between students and teachers
is only where the rows come from:

    =====================  ==========================================  ============================
    pairing                a row of the student                        its row of the brain
    =====================  ==========================================  ============================
    `TrialLatents`         hidden state of a trial at a step           latents of the trial's
                                                                       condition at that step
    `ConditionResponses`   hidden state of a trial at a step           a recorded trial of the
                                                                       same condition
    `StimulusResponses`    encoder mean of an image                    response to that image
    =====================  ==========================================  ============================

For hidden states, rows can be steps or the mean over steps. Rows of the same label are of the same
thing (condition, condition and step, or image): for a contrastive loss they are positives.

Every pairing can be scrambled, which is the control for pairing itself: in each training batch the
brain's rows are dealt out anew, so that nothing about a trial or image is left in them. Latents
whose *conditions* are permuted once and for all still tell conditions apart, and so can teach.
Validation pairs are never scrambled.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from b2m_fast.methods.batches import InOrder, Shuffled
from b2m_fast.methods.chance import Chance, Stream

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from numpy.typing import NDArray

    from b2m_fast.data.tasks import DecisionTask
    from b2m_fast.methods.lessons import Activity
    from b2m_fast.students.vae import ConvVAE
    from b2m_fast.teachers.latents import LatentTeacher
    from b2m_fast.teachers.responses import ResponseTeacher

__all__ = ["ConditionResponses", "Pairing", "Pairs", "StimulusResponses", "TrialLatents"]

Seen_contra = TypeVar("Seen_contra", contravariant=True)


class Pairs(NamedTuple):
    """Rows of a student beside rows of a brain.

    Attributes
    ----------
    student : Tensor
        (n, d).
    brain : Tensor
        (n, k); data, without gradient.
    label : Tensor
        (n,), int64: what the row is of.
    """

    student: Tensor
    brain: Tensor
    label: Tensor


class Pairing(Protocol[Seen_contra]):
    """Draws pairs; `Seen_contra` is what it looks at of the student at work."""

    @property
    def widths(self) -> tuple[int, int]:
        """Columns of the student's and of the brain's rows, (d, k)."""

    def draw(self, fabric: Fabric, seen: Seen_contra) -> Pairs:
        """Pairs of a training step."""

    def held_out(self, fabric: Fabric, seen: Seen_contra) -> Pairs:
        """Pairs for validation, of which the brain's or the student's side was never trained on."""

    def state(self) -> dict[str, Any]:
        """Generators and places in lists."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""


class _Random:
    """A pairing that draws: its generator is what it has to remember."""

    chance: Chance

    def state(self) -> dict[str, Any]:
        """Where the generator is."""
        return self.chance.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned.

        Parameters
        ----------
        state : dict
            As returned.
        """
        self.chance.load_state(state)


class TrialLatents(_Random):
    """Trials of a recurrent student beside the latents of their conditions, z_{c,t}.

    Parameters
    ----------
    teacher : LatentTeacher
        Latents (conditions, steps, k) on the task's clock.
    task : DecisionTask
        The task.
    units : int
        Hidden units.
    window : (int, int), optional
        Steps [begin, end) to look at; of these, those at which the recording says something.
    seed : int
        Of `scramble`.
    average : bool, default False
        One row a trial, the mean over these steps; else one row a trial and step.
    scramble : bool, default False
        Deal the brain's rows out anew in each training batch.
    """

    def __init__(
        self,
        teacher: LatentTeacher,
        task: DecisionTask,
        units: int,
        *,
        seed: int,
        window: tuple[int, int] | None = None,
        average: bool = False,
        scramble: bool = False,
    ) -> None:
        conditions, steps, k = teacher.latents.shape
        if conditions != len(task.conditions):
            raise ValueError(
                f"the teacher has {conditions} conditions, the task {task.name!r} has "
                f"{len(task.conditions)}: {', '.join(task.conditions)}"
            )
        if steps != task.steps or teacher.valid.shape != (steps,):
            raise ValueError(
                f"the teacher's clock has {steps} steps ({len(teacher.valid)} marked as valid or "
                f"not), the task {task.name!r} has {task.steps}"
            )
        if not np.isfinite(teacher.latents).all():
            raise ValueError("the teacher's latents contain NaN or infinity")
        self.steps = _steps(task, window, teacher.valid)
        self.latents = torch.from_numpy(teacher.latents)[:, self.steps]
        self.widths = (units, k)
        self.average, self.scramble = average, scramble
        self.chance = Chance(seed, Stream.TEACHER)

    def draw(self, fabric: Fabric, seen: Activity) -> Pairs:
        """Rows of the trials the student just ran.

        Parameters
        ----------
        fabric : Fabric
            Knows the device.
        seen : Activity
            Hidden states and conditions.

        Returns
        -------
        Pairs
            (valid steps x trials) rows, or one row a trial.
        """
        dealt = seen.condition
        if self.scramble:
            dealt = dealt[_deal(len(dealt), self.chance)]
        return self._rows(fabric, seen, dealt)

    def held_out(self, fabric: Fabric, seen: Activity) -> Pairs:
        """Rows of trials the student never learned from.

        Parameters
        ----------
        fabric : Fabric
            Knows the device.
        seen : Activity
            Of held-out trials.

        Returns
        -------
        Pairs
            As `draw`.
        """
        return self._rows(fabric, seen, seen.condition)

    def _rows(self, fabric: Fabric, seen: Activity, dealt: Tensor) -> Pairs:
        """Rows of trials and of the conditions dealt to them."""
        hidden = seen.hidden[self.steps]
        brain = self.latents[dealt].transpose(0, 1)
        if self.average:
            rows = hidden.mean(0), brain.mean(0), seen.condition
        else:
            when = torch.arange(len(self.steps))[:, None] + len(self.steps) * seen.condition
            rows = hidden.flatten(0, 1), brain.flatten(0, 1), when.flatten()
        return Pairs(rows[0], *fabric.to_device(rows[1:]))


class ConditionResponses(_Random):
    """Trials of a recurrent student beside recorded trials of the same condition, drawn at random.

    Parameters
    ----------
    teacher : ResponseTeacher
        Responses, labelled with the task's conditions, or with those recorded in their place.
    task : DecisionTask
        The task.
    units : int
        Hidden units.
    seed : int
        Which responses are held out, and which are drawn.
    window : (int, int), optional
        Steps [begin, end) to look at; all by default.
    average : bool, default True
        One row a trial, the mean over these steps; else one row a trial and step.
    share : float, default 0.2
        Share of each condition's responses that is kept for validation, at least one.
    scramble : bool, default False
        Deal the brain's rows out anew in each training batch.
    """

    def __init__(
        self,
        teacher: ResponseTeacher,
        task: DecisionTask,
        units: int,
        *,
        seed: int,
        window: tuple[int, int] | None = None,
        average: bool = True,
        share: float = 0.2,
        scramble: bool = False,
    ) -> None:
        if teacher.stimuli is not None:
            raise ValueError(
                f"responses to images cannot be paired with conditions of {task.name!r}"
            )
        condition = np.arange(len(task.conditions))
        if teacher.condition is not None:
            condition = teacher.condition
        if condition.shape != (len(task.conditions),) or condition.min() < 0:
            raise ValueError(
                f"the teacher has labels for {len(condition)} conditions, the task {task.name!r} "
                f"has {len(task.conditions)}"
            )
        count = int(condition.max()) + 1
        numbers = np.bincount(teacher.label[teacher.label >= 0], minlength=count)
        if (teacher.label < 0).any() or len(numbers) > count:
            raise ValueError(f"labels must be conditions of {task.name!r}, 0 to {count - 1}")
        if numbers.min() < 2:
            few = [c for c, n in zip(task.conditions, numbers[condition], strict=True) if n < 2]
            raise ValueError(
                "every condition needs two responses or more, one to learn from and one for "
                f"validation; too few for {', '.join(few)}"
            )
        self.chance = Chance(seed, Stream.TEACHER)
        self.steps = _steps(task, window, None)
        self.condition = torch.from_numpy(condition)
        self.average, self.scramble = average, scramble
        self.members = [
            _split(np.flatnonzero(teacher.label == c), share, self.chance.numpy)
            for c in range(count)
        ]
        train = np.concatenate([members for members, _ in self.members])
        self.responses = torch.from_numpy(teacher.fitted(train))
        self.widths = (units, self.responses.shape[1])

    def draw(self, fabric: Fabric, seen: Activity) -> Pairs:
        """Rows of the trials the student just ran.

        Parameters
        ----------
        fabric : Fabric
            Knows the device.
        seen : Activity
            Hidden states and conditions.

        Returns
        -------
        Pairs
            One row a trial, or (steps x trials) rows with the same response at every step.
        """
        chosen, label = [], self.condition[seen.condition].tolist()
        for c, u in zip(label, self.chance.numpy.random(len(label)), strict=True):
            members = self.members[c][0]
            chosen.append(members[int(u * len(members))])
        responses = np.array(chosen)
        if self.scramble:
            responses = responses[_deal(len(responses), self.chance)]
        return self._rows(fabric, seen, responses)

    def held_out(self, fabric: Fabric, seen: Activity) -> Pairs:
        """Held-out trials of the student beside held-out responses, which take turns.

        Parameters
        ----------
        fabric : Fabric
            Knows the device.
        seen : Activity
            Of held-out trials.

        Returns
        -------
        Pairs
            As `draw`.
        """
        chosen, turn = [], [0] * len(self.members)
        for c in self.condition[seen.condition].tolist():
            kept = self.members[c][1]
            chosen.append(kept[turn[c] % len(kept)])
            turn[c] += 1
        return self._rows(fabric, seen, np.array(chosen))

    def _rows(self, fabric: Fabric, seen: Activity, chosen: NDArray[np.int64]) -> Pairs:
        """Rows of trials and chosen responses."""
        hidden, brain = seen.hidden[self.steps], self.responses[chosen]
        label = self.condition[seen.condition]
        if self.average:
            return Pairs(hidden.mean(0), *fabric.to_device((brain, label)))
        times = len(self.steps)
        return Pairs(
            hidden.flatten(0, 1), *fabric.to_device((brain.repeat(times, 1), label.repeat(times)))
        )


class StimulusResponses(InOrder):
    """Images shown to a brain, as the mean of the student's encoder, beside the responses to them.

    The mean, not a sample of z: noise would only blur the pairs. Images are held out in blocks that
    follow one another (by label): those of a video hardly differ from their neighbours, and single
    ones would have been learned with these.

    Parameters
    ----------
    teacher : ResponseTeacher
        Stimuli of the student's size and responses.
    student : ConvVAE
        The student.
    seed : int
        Which images are held out, and the order of the others.
    batch : int, default 64
        Images of a step.
    share : float, default 0.2
        Share of the images (labels) that is kept for validation, in two blocks or more where there
        are enough images, at least one image.
    scramble : bool, default False
        Deal the brain's rows out anew in each training batch.
    """

    def __init__(
        self,
        teacher: ResponseTeacher,
        student: ConvVAE,
        *,
        seed: int,
        batch: int = 64,
        share: float = 0.2,
        scramble: bool = False,
    ) -> None:
        if teacher.stimuli is None or teacher.stimuli.shape[1:] != student.shape:
            shape = None if teacher.stimuli is None else teacher.stimuli.shape
            raise ValueError(
                f"the teacher's stimuli have shape {shape}; the student takes (n, *{student.shape})"
            )
        labels = np.unique(teacher.label)
        if len(labels) < 2:
            raise ValueError("a teacher needs two images or more, got responses to a single one")
        self.chance = Chance(seed, Stream.TEACHER)
        train, kept = (
            np.flatnonzero(np.isin(teacher.label, part))
            for part in _split_blocks(labels, share, self.chance.numpy)
        )
        self.student, self.scramble = student, scramble
        self.stimuli = torch.from_numpy(teacher.stimuli)
        self.responses = torch.from_numpy(teacher.fitted(train))
        self.label = torch.from_numpy(teacher.label)
        self.widths = (student.latent, self.responses.shape[1])
        self.train, self.kept = torch.from_numpy(train), torch.from_numpy(kept)
        self.order = Shuffled(len(train), batch, self.chance.numpy)

    def draw(self, fabric: Fabric, seen: None) -> Pairs:  # noqa: ARG002
        """The next images.

        Parameters
        ----------
        fabric : Fabric
            Knows the device.
        seen : None
            Nothing: the student looks at the teacher's images here.

        Returns
        -------
        Pairs
            One row an image.
        """
        shown = self.train[torch.from_numpy(next(self.order))]
        answered = shown[_deal(len(shown), self.chance)] if self.scramble else shown
        return self._rows(fabric, shown, answered)

    def held_out(self, fabric: Fabric, seen: None) -> Pairs:  # noqa: ARG002
        """Images that are never drawn.

        Parameters
        ----------
        fabric : Fabric
            Knows the device.
        seen : None
            Nothing.

        Returns
        -------
        Pairs
            One row an image.
        """
        return self._rows(fabric, self.kept, self.kept)

    def _rows(self, fabric: Fabric, shown: Tensor, answered: Tensor) -> Pairs:
        """Rows of images shown and of responses, which are theirs unless scrambled."""
        drawn = (self.stimuli[shown], self.responses[answered], self.label[shown])
        stimuli, responses, label = fabric.to_device(drawn)
        return Pairs(self.student.encode(stimuli)[0], responses, label)


def _steps(
    task: DecisionTask, window: tuple[int, int] | None, valid: NDArray[np.bool_] | None
) -> Tensor:
    """Steps in the window that are valid."""
    begin, end = (0, task.steps) if window is None else window
    if not 0 <= begin < end <= task.steps:
        raise ValueError(
            f"the window [{begin}, {end}) is no range of the {task.steps} steps of {task.name!r}"
        )
    steps = np.arange(begin, end)
    if valid is not None:
        steps = steps[valid[begin:end]]
        if not len(steps):
            raise ValueError(
                f"the teacher says nothing about any step of the window [{begin}, {end})"
            )
    return torch.from_numpy(steps)


def _deal(count: int, chance: Chance) -> NDArray[np.int64]:
    """A random order."""
    return chance.numpy.permutation(count)


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")


def _split(
    items: NDArray[np.int64], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Items to train on and items kept back, at least one of each, in their order."""
    _check_share(share)
    kept = min(max(1, round(share * len(items))), len(items) - 1)
    order = rng.permutation(len(items))
    return items[np.sort(order[kept:])], items[np.sort(order[:kept])]


def _split_blocks(
    items: NDArray[np.int64], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As `_split`, keeping back blocks of neighbours, each half of the share."""
    _check_share(share)
    blocks = np.array_split(items, min(len(items), math.ceil(2 / share - 1e-9)))
    train, kept = _split(np.arange(len(blocks)), share, rng)
    return np.concatenate([blocks[b] for b in train]), np.concatenate([blocks[b] for b in kept])
