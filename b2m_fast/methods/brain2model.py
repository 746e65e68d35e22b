"""Brain2Model: a student's task and a brain's term in one objective.

    L = w_task L_task + lambda L_brain                                                            (1)

L_brain is that of `b2m_fast.methods.latent` or of `b2m_fast.methods.contrastive`, on pairs of
rows from `b2m_fast.methods.pairings`: any strategy goes with any student.

    lesson (student, task) --activity--> pairing (teacher) --rows--> term (readout or heads)

Where lambda is 0 the term is computed for the record, without gradient, so the student learns to
the last bit as it does alone.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from b2m_fast.methods.chance import Stream, seeded
from b2m_fast.methods.contrastive import ContrastiveHeads
from b2m_fast.methods.latent import LatentReadout, Readout
from b2m_fast.methods.lessons import DecisionLesson, FrameLesson
from b2m_fast.methods.pairings import ConditionResponses, StimulusResponses, TrialLatents
from b2m_fast.teachers.latents import LatentTeacher
from b2m_fast.teachers.responses import ResponseTeacher

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from b2m_fast.methods.lessons import Lesson
    from b2m_fast.methods.pairings import Pairing, Pairs

__all__ = ["BrainObjective", "Teaching", "TransferConfig", "Weight", "brain_objective"]

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Weight:
    """lambda over the course of training.

    Attributes
    ----------
    value : float
        lambda, or where it starts.
    schedule : {"constant", "cosine", "pretrain"}
        As it is; value (1 + cos(pi p / until)) / 2 at the fraction p of the training, 0 from
        `until` on; or the brain's term alone before `until` and the task alone after it.
    until : float
        Fraction of the training; below 1 for "pretrain".
    """

    value: float = 1.0
    schedule: Literal["constant", "cosine", "pretrain"] = "constant"
    until: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.value <= torch.finfo(torch.float32).max:
            raise ValueError(f"a weight must be at least 0 and finite in float32, got {self.value}")
        if self.schedule not in {"constant", "cosine", "pretrain"}:
            raise ValueError(
                f"schedule must be 'constant', 'cosine' or 'pretrain', got {self.schedule!r}"
            )
        if not 0 < self.until <= 1 or (self.schedule == "pretrain" and self.until == 1):
            raise ValueError(
                "until must be above 0 and at most 1, and below 1 for 'pretrain', which is to leave "
                f"time for the task; got {self.until}"
            )

    def at(self, progress: float) -> tuple[float, float]:
        """Both weights of equation (1).

        Parameters
        ----------
        progress : float
            Fraction of the training that is done.

        Returns
        -------
        task, brain : float
            w_task and lambda. A weight of 0 is no pretraining: w_task is then always 1.
        """
        if self.value == 0 or (self.schedule != "constant" and progress >= self.until):
            return 1.0, 0.0
        if self.schedule == "pretrain":
            return 0.0, self.value
        if self.schedule == "cosine":
            return 1.0, self.value * (1 + math.cos(math.pi * progress / self.until)) / 2
        return 1.0, self.value


@dataclass(frozen=True)
class TransferConfig:
    """How a brain teaches; everything here can change the result.

    Attributes
    ----------
    method : {"latent", "contrastive"}
        Strategy.
    weight : Weight
        lambda.
    readout, rho
        Of "latent"; see `LatentReadout`.
    dimension, temperature, learn_temperature
        Of "contrastive"; see `ContrastiveHeads`.
    window : (int, int), optional
        Steps of a trial that are looked at; all by default.
    average : bool, optional
        Whether a row is the mean over these steps, or a step; by default it is for "contrastive",
        and is not for "latent".
    batch : int
        Images of a step, for a teacher of images.
    held_out : float
        Share of a teacher's samples that is kept for validation.
    scramble : bool
        Deal the brain's rows out anew in each training batch: the control for pairing itself.
    """

    method: Literal["latent", "contrastive"] = "latent"
    weight: Weight = field(default_factory=Weight)
    readout: Readout = "learned"
    rho: float = 0.01
    dimension: int = 64
    temperature: float = 0.07
    learn_temperature: bool = False
    window: tuple[int, int] | None = None
    average: bool | None = None
    batch: int = 64
    held_out: float = 0.2
    scramble: bool = False

    def __post_init__(self) -> None:
        if self.method not in {"latent", "contrastive"}:
            raise ValueError(f"method must be 'latent' or 'contrastive', got {self.method!r}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be between 0 and 1, got {self.held_out}")

    @property
    def averages(self) -> bool:
        """Whether a row is a mean over steps."""
        return self.method == "contrastive" if self.average is None else self.average


class Term(Protocol):
    """The brain's term: a module with a loss of pairs and numbers on held-out pairs."""

    def __call__(self, pairs: Pairs) -> Tensor:
        """L_brain."""

    def quality(self, pairs: Pairs) -> dict[str, float]:
        """Numbers on held-out pairs."""


@dataclass(frozen=True)
class Teaching(Generic[Seen]):
    """A teacher as the objective needs it.

    Attributes
    ----------
    pairing : Pairing
        Where rows come from.
    term : Module
        A `Term`.
    weight : Weight
        lambda.
    """

    pairing: Pairing[Seen]
    term: nn.Module
    weight: Weight


class BrainObjective(Generic[Seen]):
    """Equation (1), for `b2m_fast.methods.training.train`.

    Parameters
    ----------
    lesson : Lesson
        Student and task.
    teaching : Teaching, optional
        None: the student alone.
    """

    def __init__(self, lesson: Lesson[Seen], teaching: Teaching[Seen] | None = None) -> None:
        self.lesson, self.teaching = lesson, teaching
        self.modules = nn.ModuleDict({"student": lesson.student})
        if teaching is not None:
            self.modules["term"] = teaching.term

    def step(self, fabric: Fabric, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation (1) for the next batch.

        Parameters
        ----------
        fabric : Fabric
            Knows the device.
        progress : float
            Fraction of the training that is done.

        Returns
        -------
        loss : Tensor
            Scalar.
        parts : dict
            ``loss`` (of the task) and, with a teacher, ``penalty`` (the brain's term) and
            ``weight`` (lambda).
        """
        loss, seen = self.lesson.step(fabric)
        parts = {"loss": loss.detach()}
        if self.teaching is None:
            return loss, parts
        task, brain = self.teaching.weight.at(progress)
        with nullcontext() if brain > 0 else torch.no_grad():
            penalty = self._term(self.teaching.pairing.draw(fabric, seen))
        parts |= {"penalty": penalty.detach(), "weight": torch.tensor(brain)}
        if brain > 0:
            loss = loss + brain * penalty if task > 0 else brain * penalty
        return loss, parts

    def validate(self, fabric: Fabric) -> dict[str, float]:
        """The lesson's numbers and, with a teacher, those of the term on held-out pairs.

        Parameters
        ----------
        fabric : Fabric
            Knows the device.

        Returns
        -------
        dict
            Name -> number.
        """
        numbers, seen = self.lesson.validate(fabric)
        if self.teaching is not None:
            numbers |= self._term.quality(self.teaching.pairing.held_out(fabric, seen))
        return numbers

    @property
    def _term(self) -> Term:
        return cast("Term", self.modules["term"])

    def state(self) -> dict[str, Any]:
        """Where the lesson and the pairing are."""
        pairing = None if self.teaching is None else self.teaching.pairing.state()
        return {"lesson": self.lesson.state(), "pairing": pairing}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned.

        Parameters
        ----------
        state : dict
            As returned.
        """
        self.lesson.load_state(state["lesson"])
        if self.teaching is not None:
            self.teaching.pairing.load_state(state["pairing"])


def brain_objective(
    lesson: DecisionLesson | FrameLesson,
    teacher: LatentTeacher | ResponseTeacher | None,
    config: TransferConfig,
    seed: int,
) -> BrainObjective[Any]:
    """A student, its task and its teacher, put together.

    Parameters
    ----------
    lesson : DecisionLesson or FrameLesson
        Student and task.
    teacher : LatentTeacher or ResponseTeacher or None
        Latents on the task's clock, or responses paired with conditions, for a recurrent student;
        responses paired with images for an autoencoder; None for a student alone.
    config : TransferConfig
        How it teaches.
    seed : int
        Start of the readout or heads, and the teacher's draws; the lesson's chance is its own.

    Returns
    -------
    BrainObjective
        For `b2m_fast.methods.training.train`.

    Raises
    ------
    ValueError
        If teacher and lesson do not fit together.

    Examples
    --------
    >>> lesson = DecisionLesson(GRUStudent(task.channels, task.classes), task, seed=0)
    >>> objective = brain_objective(lesson, teacher, TransferConfig("latent"), seed=0)
    >>> history = train(objective, LoopConfig(steps=1000, clip=1.0))
    """
    if teacher is None:
        return BrainObjective(lesson)
    pairing = _pairing(lesson, teacher, config, seed)
    width, features = pairing.widths
    term: nn.Module
    with seeded(seed, Stream.HEADS):
        if config.method == "latent":
            term = LatentReadout(width, features, config.readout, rho=config.rho)
        else:
            term = ContrastiveHeads(
                width,
                features,
                config.dimension,
                temperature=config.temperature,
                learn_temperature=config.learn_temperature,
            )
    return BrainObjective(lesson, Teaching(pairing, term, config.weight))


def _pairing(
    lesson: DecisionLesson | FrameLesson,
    teacher: LatentTeacher | ResponseTeacher,
    config: TransferConfig,
    seed: int,
) -> Pairing[Any]:
    """The pairing that fits a lesson and a teacher."""
    if isinstance(lesson, FrameLesson):
        if not isinstance(teacher, ResponseTeacher):
            raise ValueError(  # noqa: TRY004
                "latents of a task's conditions cannot teach an autoencoder of frames: take "
                "responses to images (ResponseTeacher)"
            )
        return StimulusResponses(
            teacher,
            lesson.student,
            seed=seed,
            batch=config.batch,
            share=config.held_out,
            scramble=config.scramble,
        )
    task, units = lesson.task, lesson.student.units
    common: dict[str, Any] = {
        "seed": seed,
        "window": config.window,
        "average": config.averages,
        "scramble": config.scramble,
    }
    if isinstance(teacher, LatentTeacher):
        return TrialLatents(teacher, task, units, **common)
    return ConditionResponses(teacher, task, units, share=config.held_out, **common)
