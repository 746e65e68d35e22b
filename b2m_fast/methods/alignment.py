"""What Brain2Model compares: a student at its task, and rows of a brain beside its activity.

    ====================  =============================  ===========================================
    alignment             a row of the student           its row of the brain
    ====================  =============================  ===========================================
    `LatentAlignment`     trial at a step                latents of its condition at that step
    `ConditionAlignment`  trial at a step                a recorded trial of its condition, drawn
    `StimulusAlignment`   image                          response to that image
    ====================  =============================  ===========================================

For trials, a row can also be the mean over steps. Any alignment can be scrambled, which is the
control for the alignment itself: in each training batch the brain's rows are permuted anew, so that
nothing about a trial or image is left in them. (Latents whose conditions are permuted once still
tell conditions apart, and so can teach.) Rows for validation are never scrambled.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from b2m_fast.methods.training import RandomStreams, Resumable, ShuffledIndices, Stream
from b2m_fast.students.vae import vae_loss

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from numpy.typing import NDArray

    from b2m_fast.data.tasks import DecisionTask, Trials
    from b2m_fast.methods.config import Brain2ModelConfig
    from b2m_fast.teachers.latents import LatentTeacher
    from b2m_fast.teachers.responses import ResponseTeacher


class AlignedRows(NamedTuple):
    """Rows of a student beside rows of a brain.

    Parameters
    ----------
    student : Tensor
        (n, d), h of the equations.
    brain : Tensor
        (n, k), z or b of the equations; data, without gradient.
    label : Tensor
        (n,), int64: rows of one label are of the same condition, condition and step, or image.
    """

    student: Tensor
    brain: Tensor
    label: Tensor


# --------------------------------------------------------------------------------------------------
# Tasks: L_task, and the student's activity
# --------------------------------------------------------------------------------------------------
class TrialActivity(NamedTuple):
    """Activity of a recurrent student in a batch of trials.

    Parameters
    ----------
    hidden : Tensor
        (steps, trials, units).
    condition : Tensor
        (trials,), int64, on the CPU.
    """

    hidden: Tensor
    condition: Tensor


class TrialTask(Resumable):
    """A recurrent student learns a decision task.

        L_task = sum_{t,n} m_tn CE(y_tn, target_tn) / sum_{t,n} m_tn,

    m being 1 at the steps at which the answer counts, else 0.

    Parameters
    ----------
    student : b2m_fast.students.TrialStudent
        The student.
    task : DecisionTask
        The task.
    seed : int
        Seed of trials and noise.
    batch : int, default 64
        Trials of a step.
    validation : int, default 240
        Held-out trials, drawn once; the student runs them without noise.
    pool : int, optional
        Draw so many training trials once, and go through them in random orders; None: every batch
        is new.

    Raises
    ------
    ValueError
        If the student has other inputs or fewer classes than the task, or a number is below 1.
    """

    resumed = ("streams", "order")

    def __init__(
        self,
        student: Any,
        task: DecisionTask,
        *,
        seed: int,
        batch: int = 64,
        validation: int = 240,
        pool: int | None = None,
    ) -> None:
        channels = getattr(student, "channels", task.channels)
        classes = getattr(student, "classes", task.classes)
        if channels != task.channels or classes < task.classes:
            raise ValueError(
                f"the student has {channels} input channels and {classes} classes, the task "
                f"{task.name!r} has {task.channels} and {task.classes}"
            )
        for name, value in (("batch", batch), ("validation", validation), ("pool", pool)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.student, self.task, self.batch = student, task, batch
        self.streams = RandomStreams(seed, Stream.TASK)
        self.held_out = task.draw(validation, RandomStreams(seed, Stream.VALIDATION).numpy)
        self.pool = None if pool is None else task.draw(pool, self.streams.numpy)
        self.order = ShuffledIndices(pool or 0, batch, self.streams.numpy)

    def step(self, fabric: Fabric) -> tuple[Tensor, TrialActivity]:
        """Return the loss of new trials, or of the next from the pool, and the activity."""
        if self.pool is None:
            trials = self.task.draw(self.batch, self.streams.numpy)
        else:
            trials = _chosen(self.pool, torch.from_numpy(next(self.order)))
        loss, _, activity = self.run(fabric, trials, self.streams.torch)
        return loss, activity

    def validate(self, fabric: Fabric) -> tuple[dict[str, float], TrialActivity]:
        """Return loss and accuracy on held-out trials (steps that count), and the activity."""
        loss, right, activity = self.run(fabric, self.held_out)
        return {"validation_loss": loss.item(), "validation_accuracy": right.item()}, activity

    def run(
        self, fabric: Fabric, trials: Trials, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, TrialActivity]:
        """Return loss, accuracy and activity of a batch; a generator makes the student's noise."""
        inputs, target, mask = fabric.to_device((trials.inputs, trials.target, trials.mask))
        logits, hidden = self.student(inputs, generator=generator)
        errors = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        loss = (errors * mask.flatten()).sum() / mask.sum()
        right = ((logits.argmax(2) == target) * mask).sum() / mask.sum()
        return loss, right, TrialActivity(hidden, trials.condition)


def _chosen(trials: Trials, rows: Tensor) -> Trials:
    """Return some of the trials."""
    return type(trials)(
        trials.inputs[:, rows], trials.target[:, rows], trials.mask[:, rows], trials.condition[rows]
    )


class FrameTask(Resumable):
    """An autoencoder learns to reconstruct frames; L_task is `b2m_fast.students.vae.vae_loss`.

    Parameters
    ----------
    student : b2m_fast.students.FrameStudent
        The student.
    frames : ndarray
        (n, channels, height, width), float32 in [0, 1], to train on.
    held_out : ndarray
        Frames to validate on, as `frames`; reconstructed from the mean.
    seed : int
        Seed of order and noise.
    batch : int, default 64
        Frames of a step.
    beta : float, default 1
        Weight of the divergence.
    error : {"mse", "bce"}
        Squared error, or binary cross entropy.

    Raises
    ------
    ValueError
        If frames are not of the student's shape, or there are none.
    """

    resumed = ("streams", "order")

    def __init__(
        self,
        student: Any,
        frames: NDArray[np.float32],
        held_out: NDArray[np.float32],
        *,
        seed: int,
        batch: int = 64,
        beta: float = 1.0,
        error: Literal["mse", "bce"] = "mse",
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        self.shape = tuple(getattr(student, "shape", frames.shape[1:]))
        for x in (frames, held_out):
            if x.shape[1:] != self.shape or not len(x):
                raise ValueError(
                    f"frames have shape {x.shape}; the student takes (n, *{self.shape}), n >= 1"
                )
        self.student, self.beta, self.error = student, beta, error
        self.frames, self.held_out = torch.from_numpy(frames), torch.from_numpy(held_out)
        self.streams = RandomStreams(seed, Stream.TASK)
        self.order = ShuffledIndices(len(frames), batch, self.streams.numpy)

    def step(self, fabric: Fabric) -> tuple[Tensor, None]:
        """Return the loss of the next frames; a teacher shows images of its own."""
        x = fabric.to_device(self.frames[torch.from_numpy(next(self.order))])
        output = self.student(x, self.streams.torch)
        return vae_loss(output, x, self.beta, self.error).total, None

    def validate(self, fabric: Fabric) -> tuple[dict[str, float], None]:
        """Return loss, error and divergence of the held-out frames."""
        sums = np.zeros(3)
        for part in self.held_out.split(250):
            x = fabric.to_device(part)
            losses = torch.stack(vae_loss(self.student(x), x, self.beta, self.error))
            sums += losses.double().cpu().numpy() * len(part)
        names = ("validation_loss", "validation_error", "validation_divergence")
        return dict(zip(names, (sums / len(self.held_out)).tolist(), strict=True)), None


# --------------------------------------------------------------------------------------------------
# Alignments: which row of a brain belongs to a row of the student
# --------------------------------------------------------------------------------------------------
class _Alignment(Resumable):
    """What alignments have in common: whether rows are means, and how they are scrambled."""

    resumed: ClassVar[tuple[str, ...]] = ("streams",)

    def __init__(self, config: Brain2ModelConfig, seed: int) -> None:
        self.average, self.scramble = config.averages, config.scramble
        self.streams = RandomStreams(seed, Stream.TEACHER)

    def _permuted(self, rows: Any, held_out: bool) -> Any:
        """Return rows in a random order if the alignment is scrambled; those held out never are."""
        if not self.scramble or held_out:
            return rows
        return rows[self.streams.numpy.permutation(len(rows))]


class LatentAlignment(_Alignment):
    """Trials of a recurrent student beside the latents z_{c,t} of their conditions.

    Parameters
    ----------
    teacher : LatentTeacher
        Latents (conditions, steps, k) in the steps of the task.
    task : TrialTask
        Student and task.
    config : Brain2ModelConfig
        Its ``window`` (of these steps those at which the recording says something), ``averages``
        and ``scramble``.
    seed : int
        Seed of the scrambling.

    Raises
    ------
    ValueError
        If conditions or steps are not those of the task, or no step is left.
    """

    def __init__(
        self, teacher: LatentTeacher, task: TrialTask, config: Brain2ModelConfig, seed: int
    ) -> None:
        super().__init__(config, seed)
        decisions, (conditions, steps, k) = task.task, teacher.latents.shape
        if conditions != len(decisions.conditions):
            raise ValueError(
                f"the teacher has {conditions} conditions, the task {decisions.name!r} has "
                f"{len(decisions.conditions)}: {', '.join(decisions.conditions)}"
            )
        if steps != decisions.steps or teacher.valid.shape != (steps,):
            raise ValueError(
                f"the teacher has {steps} steps ({len(teacher.valid)} marked as valid or not), the "
                f"task {decisions.name!r} has {decisions.steps}"
            )
        if not np.isfinite(teacher.latents).all():
            raise ValueError("the teacher's latents contain NaN or infinity")
        self.steps = _steps(decisions, config.window, teacher.valid)
        self.latents = torch.from_numpy(teacher.latents)[:, self.steps]
        self.widths = (task.student.units, k)

    def rows(
        self, fabric: Fabric, activity: TrialActivity, *, held_out: bool = False
    ) -> AlignedRows:
        """Return (valid steps x trials) rows, or one row a trial."""
        condition, hidden = activity.condition, activity.hidden[self.steps]
        brain = self.latents[self._permuted(condition, held_out)].transpose(0, 1)
        if self.average:
            return AlignedRows(hidden.mean(0), *fabric.to_device((brain.mean(0), condition)))
        steps = torch.arange(len(self.steps), device=condition.device)
        label = steps[:, None] + len(self.steps) * condition
        return AlignedRows(
            hidden.flatten(0, 1), *fabric.to_device((brain.flatten(0, 1), label.flatten()))
        )


class ConditionAlignment(_Alignment):
    """Trials of a recurrent student beside recorded trials of the same condition, drawn at random.

    Parameters
    ----------
    teacher : ResponseTeacher
        Responses, labelled with the task's conditions, or with those recorded in their place.
    task : TrialTask
        Student and task.
    config : Brain2ModelConfig
        Its ``window``, ``averages``, ``scramble``, and ``held_out``, the share of each condition's
        responses that is kept for validation, at least one.
    seed : int
        Seed of which responses are held out, and which are drawn.

    Raises
    ------
    ValueError
        If responses are not of the task's conditions, or a condition has fewer than two.
    """

    def __init__(
        self, teacher: ResponseTeacher, task: TrialTask, config: Brain2ModelConfig, seed: int
    ) -> None:
        super().__init__(config, seed)
        decisions, names = task.task, task.task.conditions
        if teacher.stimuli is not None:
            raise ValueError(
                f"responses to images cannot be aligned with conditions of {decisions.name!r}"
            )
        recorded = np.arange(len(names)) if teacher.condition is None else teacher.condition
        if recorded.shape != (len(names),) or recorded.min() < 0:
            raise ValueError(
                f"the teacher has labels for {len(recorded)} conditions, the task "
                f"{decisions.name!r} has {len(names)}"
            )
        count = int(recorded.max()) + 1
        numbers = np.bincount(teacher.label[teacher.label >= 0], minlength=count)
        if (teacher.label < 0).any() or len(numbers) > count:
            raise ValueError(f"labels must be conditions of {decisions.name!r}, 0 to {count - 1}")
        if numbers.min() < 2:
            few = [c for c, n in zip(names, numbers[recorded], strict=True) if n < 2]
            raise ValueError(
                "every condition needs two responses or more, one to learn from and one for "
                f"validation; too few for {', '.join(few)}"
            )
        self.steps, self.recorded = _steps(decisions, config.window), recorded
        members = [np.flatnonzero(teacher.label == c) for c in range(count)]
        splits = [_split(m, config.held_out, self.streams.numpy) for m in members]
        self.train, self.kept = ([split[part] for split in splits] for part in (0, 1))
        self.responses = torch.from_numpy(teacher.fitted(np.concatenate(self.train)))
        self.widths = (task.student.units, self.responses.shape[1])

    def rows(
        self, fabric: Fabric, activity: TrialActivity, *, held_out: bool = False
    ) -> AlignedRows:
        """Return one row a trial, or (steps x trials) rows with its response at every step.

        Held-out responses take turns.
        """
        condition = self.recorded[activity.condition.numpy()]
        uniform = None if held_out else self.streams.numpy.random(len(condition))
        chosen = np.empty(len(condition), np.int64)
        for c in np.unique(condition):
            trials = np.flatnonzero(condition == c)
            if uniform is None:
                chosen[trials] = np.resize(self.kept[c], len(trials))
            else:
                place = (uniform[trials] * len(self.train[c])).astype(np.int64)
                chosen[trials] = self.train[c][place]
        brain = self.responses[self._permuted(chosen, held_out)]
        hidden, label = activity.hidden[self.steps], torch.from_numpy(condition)
        if self.average:
            return AlignedRows(hidden.mean(0), *fabric.to_device((brain, label)))
        times = len(self.steps)
        return AlignedRows(
            hidden.flatten(0, 1), *fabric.to_device((brain.repeat(times, 1), label.repeat(times)))
        )


class StimulusAlignment(_Alignment):
    """Images shown to a brain, as the mean of the student's encoder, beside the responses to them.

    The mean, not a sample of z: noise would only blur the rows. Images are held out in blocks that
    follow one another (by label): those of a video hardly differ from their neighbours, and single
    ones would have been learned with these.

    Parameters
    ----------
    teacher : ResponseTeacher
        Stimuli of the student's shape, and responses.
    task : FrameTask
        Student and task.
    config : Brain2ModelConfig
        Its ``batch``, ``scramble``, and ``held_out``, the share of the images (labels) that is kept
        for validation, in two blocks or more where there are enough images, at least one image.
    seed : int
        Seed of which images are held out, and of the order of the others.

    Raises
    ------
    ValueError
        If stimuli are not of the student's shape, or there are fewer than two.
    """

    resumed = ("streams", "order")

    def __init__(
        self, teacher: ResponseTeacher, task: FrameTask, config: Brain2ModelConfig, seed: int
    ) -> None:
        super().__init__(config, seed)
        if teacher.stimuli is None or teacher.stimuli.shape[1:] != task.shape:
            shape = None if teacher.stimuli is None else teacher.stimuli.shape
            raise ValueError(
                f"the teacher's stimuli have shape {shape}; the student takes (n, *{task.shape})"
            )
        labels = np.unique(teacher.label)
        if len(labels) < 2:
            raise ValueError("a teacher needs two images or more, got responses to a single one")
        self.train, self.kept = (
            np.flatnonzero(np.isin(teacher.label, part))
            for part in _split_blocks(labels, config.held_out, self.streams.numpy)
        )
        self.student, self.stimuli = task.student, torch.from_numpy(teacher.stimuli)
        self.responses = torch.from_numpy(teacher.fitted(self.train))
        self.label = torch.from_numpy(teacher.label)
        self.widths = (task.student.latent, self.responses.shape[1])
        self.order = ShuffledIndices(len(self.train), config.batch, self.streams.numpy)

    def rows(self, fabric: Fabric, _: None = None, *, held_out: bool = False) -> AlignedRows:
        """Return one row an image: of the next images, or of all that are held out."""
        shown = self.kept if held_out else self.train[next(self.order)]
        brain = self.responses[self._permuted(shown, held_out)]
        stimuli, responses, label = fabric.to_device(
            (self.stimuli[shown], brain, self.label[shown])
        )
        return AlignedRows(self.student.encode(stimuli)[0], responses, label)


def _steps(
    task: DecisionTask, window: tuple[int, int] | None, valid: NDArray[np.bool_] | None = None
) -> Tensor:
    """Return the steps in the window that are valid."""
    begin, end = (0, task.steps) if window is None else window
    if not 0 <= begin < end <= task.steps:
        raise ValueError(
            f"the window [{begin}, {end}) is no range of the {task.steps} steps of {task.name!r}"
        )
    steps = np.arange(begin, end)
    if valid is not None:
        steps = steps[valid[begin:end]]
    if not len(steps):
        raise ValueError(f"the teacher says nothing about any step of the window [{begin}, {end})")
    return torch.from_numpy(steps)


def _split(
    items: NDArray[np.int64], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return items to train on and items kept back, at least one of each, in their order."""
    kept = min(max(1, round(share * len(items))), len(items) - 1)
    order = rng.permutation(len(items))
    return items[np.sort(order[kept:])], items[np.sort(order[:kept])]


def _split_blocks(
    items: NDArray[np.int64], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what `_split` does, keeping back blocks of neighbours, each half of the share."""
    blocks = np.array_split(items, min(len(items), math.ceil(2 / share - 1e-9)))
    train, kept = _split(np.arange(len(blocks)), share, rng)
    return np.concatenate([blocks[b] for b in train]), np.concatenate([blocks[b] for b in kept])
