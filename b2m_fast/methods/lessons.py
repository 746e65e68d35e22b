"""Lessons: a student, its task, and the loss of the task alone.

A lesson draws its own batches, from generators that nothing else draws from. What a teacher may
want to look at while the student works (hidden states) is handed out beside the loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from b2m_fast.methods.batches import InOrder, Shuffled
from b2m_fast.methods.chance import Chance, Stream
from b2m_fast.students.vae import ConvVAE, vae_loss

if TYPE_CHECKING:
    import numpy as np
    from lightning_fabric import Fabric
    from numpy.typing import NDArray

    from b2m_fast.data.tasks import DecisionTask, Trials
    from b2m_fast.students.recurrent import GRUStudent, LeakyRNN

__all__ = ["Activity", "DecisionLesson", "FrameLesson", "Lesson"]

Seen_co = TypeVar("Seen_co", covariant=True)


class Activity(NamedTuple):
    """What a recurrent student did in a batch of trials.

    Attributes
    ----------
    hidden : Tensor
        (steps, trials, units).
    condition : Tensor
        (trials,), int64, on the CPU.
    """

    hidden: Tensor
    condition: Tensor


class Lesson(Protocol[Seen_co]):
    """A student and its task; `Seen_co` is what teachers get to see of the student at work."""

    @property
    def student(self) -> nn.Module:
        """The student."""

    def step(self, fabric: Fabric) -> tuple[Tensor, Seen_co]:
        """Loss of the next batch, and what the student did."""

    def validate(self, fabric: Fabric) -> tuple[dict[str, float], Seen_co]:
        """Numbers on held-out data, and what the student did."""

    def state(self) -> dict[str, Any]:
        """Generators and places in lists."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""


class DecisionLesson(InOrder):
    """A recurrent student learns a decision task.

    The loss is the cross entropy of the answers, averaged over the steps at which they count:

        L_task = sum_{t,n} m_tn CE(y_tn, target_tn) / sum_{t,n} m_tn.

    Parameters
    ----------
    student : LeakyRNN or GRUStudent
        The student.
    task : DecisionTask
        The task.
    seed : int
        Trials and noise.
    batch : int, default 64
        Trials of a step.
    validation : int, default 240
        Held-out trials, drawn once; the student runs them without noise.
    pool : int, optional
        Draw so many training trials once, and go through them in random orders; None: every
        batch is new.
    """

    def __init__(
        self,
        student: LeakyRNN | GRUStudent,
        task: DecisionTask,
        *,
        seed: int,
        batch: int = 64,
        validation: int = 240,
        pool: int | None = None,
    ) -> None:
        if student.channels != task.channels:
            raise ValueError(
                f"the student has {student.channels} input channels, the task {task.name!r} has "
                f"{task.channels}"
            )
        if student.classes < task.classes:
            raise ValueError(
                f"the student has {student.classes} classes, the task {task.name!r} has "
                f"{task.classes}"
            )
        for name, value in (("batch", batch), ("validation", validation), ("pool", pool)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.student, self.task, self.batch = student, task, batch
        self.chance = Chance(seed, Stream.TASK)
        self.held_out = task.draw(validation, Chance(seed, Stream.VALIDATION).numpy)
        self.pool = None if pool is None else task.draw(pool, self.chance.numpy)
        self.order = Shuffled(pool or 0, batch, self.chance.numpy)

    def step(self, fabric: Fabric) -> tuple[Tensor, Activity]:
        """Loss of new trials, or of the next from the pool.

        Parameters
        ----------
        fabric : Fabric
            Knows the device.

        Returns
        -------
        loss : Tensor
            Scalar.
        seen : Activity
            Hidden states and conditions.
        """
        if self.pool is None:
            trials = self.task.draw(self.batch, self.chance.numpy)
        else:
            trials = _choose(self.pool, torch.from_numpy(next(self.order)))
        loss, _, seen = self._run(fabric, trials, self.chance.torch)
        return loss, seen

    def validate(self, fabric: Fabric) -> tuple[dict[str, float], Activity]:
        """Loss and accuracy (share of the steps that count) on held-out trials.

        Parameters
        ----------
        fabric : Fabric
            Knows the device.

        Returns
        -------
        numbers : dict
            ``validation_loss``, ``validation_accuracy``.
        seen : Activity
            Hidden states and conditions.
        """
        loss, right, seen = self._run(fabric, self.held_out, None)
        return {"validation_loss": loss.item(), "validation_accuracy": right.item()}, seen

    def _run(
        self, fabric: Fabric, trials: Trials, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Activity]:
        """Loss, accuracy and activity of a batch."""
        inputs, target, mask = fabric.to_device((trials.inputs, trials.target, trials.mask))
        logits, hidden = self.student(inputs, generator=generator)
        errors = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        loss = (errors * mask.flatten()).sum() / mask.sum()
        right = ((logits.argmax(2) == target) * mask).sum() / mask.sum()
        return loss, right, Activity(hidden, trials.condition)


def _choose(trials: Trials, chosen: Tensor) -> Trials:
    """Some of the trials."""
    return type(trials)(
        trials.inputs[:, chosen],
        trials.target[:, chosen],
        trials.mask[:, chosen],
        trials.condition[chosen],
    )


class FrameLesson(InOrder):
    """An autoencoder learns to reconstruct frames; the loss is `b2m_fast.students.vae.vae_loss`.

    Parameters
    ----------
    student : ConvVAE
        The student.
    frames, held_out : ndarray
        (n, channels, height, width), float32 in [0, 1]: to train on, to validate on (from z = mean).
    seed : int
        Order and noise.
    batch : int, default 64
        Frames of a step.
    beta, error : float, {"mse", "bce"}
        Of the loss.
    """

    def __init__(
        self,
        student: ConvVAE,
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
        for x in (frames, held_out):
            if x.shape[1:] != student.shape or not len(x):
                raise ValueError(
                    f"frames have shape {x.shape}; the student takes (n, *{student.shape}), n >= 1"
                )
        self.student, self.beta, self.error = student, beta, error
        self.frames, self.held_out = torch.from_numpy(frames), torch.from_numpy(held_out)
        self.chance = Chance(seed, Stream.TASK)
        self.order = Shuffled(len(frames), batch, self.chance.numpy)

    def step(self, fabric: Fabric) -> tuple[Tensor, None]:
        """Loss of the next frames.

        Parameters
        ----------
        fabric : Fabric
            Knows the device.

        Returns
        -------
        loss : Tensor
            Scalar.
        seen : None
            A teacher shows its own images.
        """
        x = fabric.to_device(self.frames[torch.from_numpy(next(self.order))])
        output = self.student(x, self.chance.torch)
        return vae_loss(output, x, self.beta, self.error).total, None

    def validate(self, fabric: Fabric) -> tuple[dict[str, float], None]:
        """Loss and its parts on held-out frames.

        Parameters
        ----------
        fabric : Fabric
            Knows the device.

        Returns
        -------
        numbers : dict
            ``validation_loss``, ``validation_error``, ``validation_divergence``.
        seen : None
            A teacher shows its own images.
        """
        sums = torch.zeros(3, dtype=torch.float64)
        for part in self.held_out.split(250):
            x = fabric.to_device(part)
            loss = vae_loss(self.student(x), x, self.beta, self.error)
            sums += torch.stack(loss).double().cpu() * len(part)
        total, error, divergence = (sums / len(self.held_out)).tolist()
        return {
            "validation_loss": total,
            "validation_error": error,
            "validation_divergence": divergence,
        }, None
