"""Everything the results of `b2m transfer` depend on, but for the arm and the seed."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from b2m_fast.data._old import DECISION_TASKS, decision_task
from b2m_fast.experiments.experiment import Settings
from b2m_fast.methods.config import Brain2ModelConfig, TrainConfig

__all__ = [
    "BRAINS",
    "FRAME_TASKS",
    "METHODS",
    "STUDENTS",
    "TASKS",
    "TeacherSettings",
    "TransferEvaluation",
    "TransferExperiment",
]

METHODS = ("latent", "contrastive")
STUDENTS = ("gru", "rnn", "vae")
FRAME_TASKS = ("driving", "camvid")
TASKS = (*DECISION_TASKS, *FRAME_TASKS)
BRAINS = {
    "synthetic": TASKS,
    "pfc-memory": ("direction",),
    "steinmetz": ("parametric-working-memory",),
    "hippocampus": ("delay-match-sample",),
    "cowley-v4": FRAME_TASKS,
}
RECORDED = {"pfc-memory": {"directions": 6}, "hippocampus": {"directions": 2}}


@dataclass(frozen=True)
class TeacherSettings:
    """How a recording becomes a teacher.

    Attributes
    ----------
    latents : {"pca", "dpca", "fa", "cebra"}
        How latents are found.
    k : int, optional
        Number of latents; default: as many as are reproducible.
    smooth_ms : float
        Smoothing of spikes.
    stimuli : {"scenes", "images"}
        Of "cowley-v4": models of its neurons answer to the scenes, or the neurons did to images.
    session : str
        Of the images: recording session.
    neurons, repeats, rate : int, int, float
        Of the synthetic brain: neurons, trials of each condition or image, median spikes per second.
    network_units : int
        Size of the network behind the synthetic brain.
    network_steps, network_rate : int, float
        Steps and learning rate of networks that teach: that one, and the arm network.
    """

    latents: Literal["pca", "dpca", "fa", "cebra"] = "pca"
    k: int | None = None
    smooth_ms: float = 50.0
    stimuli: Literal["scenes", "images"] = "scenes"
    session: str = "210325"
    neurons: int = 100
    repeats: int = 50
    rate: float = 10.0
    network_units: int = 128
    network_steps: int = 1000
    network_rate: float = 1e-3


@dataclass(frozen=True)
class TransferEvaluation:
    """What a student is measured by.

    Attributes
    ----------
    metric : {"accuracy", "mse", "ssim"}
        Number on validation data that the criterion is about.
    criterion : float
        What it has to reach.
    consecutive : int
        In how many validations in a row.
    validation, test : int
        Held-out trials of a recurrent student.
    delays_ms : tuple of float
        Other delays that a recurrent student is tested on.
    shares : tuple of float
        Shares of the training data on which students are trained again.
    pool : int
        Trials that count as all training data for `shares`.
    """

    metric: Literal["accuracy", "mse", "ssim"] = "accuracy"
    criterion: float = 0.9
    consecutive: int = 3
    validation: int = 240
    test: int = 960
    delays_ms: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    pool: int = 2000

    def __post_init__(self) -> None:
        if not 0 < self.criterion < math.inf or (self.metric != "mse" and self.criterion > 1):
            limit = "" if self.metric == "mse" else " and at most 1"
            raise ValueError(f"the criterion must be above 0{limit}, got {self.criterion}")
        for name in ("consecutive", "validation", "test", "pool"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if any(not 0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares must be above 0 and at most 1, got {list(self.shares)}")
        if len(set(self.shares)) < len(self.shares) or len(set(self.delays_ms)) < len(
            self.delays_ms
        ):
            raise ValueError(
                f"a share or delay is there twice: {list(self.shares)}, {list(self.delays_ms)}"
            )


CURVES = {"accuracy": "validation_accuracy", "mse": "validation_error", "ssim": "validation_ssim"}


@dataclass(frozen=True)
class TransferExperiment(Settings):
    """A whole experiment.

    Attributes
    ----------
    student : {"gru", "rnn", "vae"}
        Who learns.
    brain : str
        A key of `BRAINS`.
    task : str
        One of `TASKS`.
    task_options : dict of str to float
        Of a decision task.
    units, width : int
        Hidden units, or latents of the autoencoder; channels of its first convolution.
    batch : int
        Trials or frames of a step.
    beta : float
        Weight of the autoencoder's divergence.
    transfer : Brain2ModelConfig
        Method, weight, and what else the brain's term needs.
    loop : TrainConfig
        How students are trained.
    teacher : TeacherSettings
        Where the teacher comes from.
    evaluation : TransferEvaluation
        What students are measured by.
    """

    method_version: ClassVar[int] = 2

    student: Literal["gru", "rnn", "vae"] = "gru"
    brain: str = "synthetic"
    task: str = "direction"
    task_options: dict[str, float] = field(default_factory=dict)
    units: int = 64
    width: int = 16
    batch: int = 64
    beta: float = 1.0
    transfer: Brain2ModelConfig = field(default_factory=Brain2ModelConfig)
    loop: TrainConfig = field(default_factory=TrainConfig)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    evaluation: TransferEvaluation = field(default_factory=TransferEvaluation)

    def __post_init__(self) -> None:
        if self.brain not in BRAINS:
            raise ValueError(f"unknown brain {self.brain!r}; there are {list(BRAINS)}")
        if self.task not in BRAINS[self.brain]:
            raise ValueError(
                f"--brain {self.brain} can teach {', '.join(BRAINS[self.brain])}, "
                f"not --task {self.task}"
            )
        if self.draws_frames != (self.task in FRAME_TASKS):
            fitting = FRAME_TASKS if self.draws_frames else tuple(DECISION_TASKS)
            raise ValueError(
                f"--student {self.student} can learn {', '.join(fitting)}, not --task {self.task}"
            )

        if not self.draws_frames:
            known = inspect.signature(DECISION_TASKS[self.task]).parameters
            if unknown := sorted(set(self.task_options) - set(known)):
                raise ValueError(f"--task {self.task} has no {', '.join(unknown)}")
            for name, recorded in RECORDED.get(self.brain, {}).items():
                asked = self.task_options.get(name, known[name].default)
                if asked != recorded:
                    raise ValueError(
                        f"--{name} {asked:g}: --brain {self.brain} was recorded with {recorded}, and "
                        f"conditions of the same names would not be the same {name}"
                    )
            task = decision_task(self.task, **self.task_options)  # refuses what is impossible
            for delay in self.evaluation.delays_ms:
                task.with_delay(delay)

    @property
    def draws_frames(self) -> bool:
        """Whether the student is an autoencoder."""
        return self.student == "vae"

    def shown(self) -> dict[str, Any]:
        """What a report needs to know.

        Returns
        -------
        dict
            As JSON can hold it.
        """
        delay = None
        if not self.draws_frames:
            delay = decision_task(self.task, **self.task_options).timing["delay"]
        return {
            "method": self.transfer.method,
            "student": self.student,
            "metric": self.evaluation.metric,
            "curve": CURVES[self.evaluation.metric],
            "criterion": self.evaluation.criterion,
            "consecutive": self.evaluation.consecutive,
            "every": self.loop.validate_every,
            "steps": self.loop.steps,
            "delay_ms": delay,
            "delays_ms": list(self.evaluation.delays_ms),
            "pool": None if self.draws_frames else self.evaluation.pool,
        }
