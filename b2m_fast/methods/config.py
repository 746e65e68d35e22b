"""Settings of the methods. No PyTorch is loaded here, so that ``b2m --help`` can read them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

LARGEST_FLOAT32 = 3.4e38
LOWEST_TEMPERATURE = 0.01
PENALTIES: tuple[float, ...] = tuple(10.0 ** (e / 2) for e in range(-12, 9))
"""Penalties that a readout of brain-mediated transfer is given to choose from."""


def _check(config: Any, **ranges: str) -> None:
    """Refuse choices that do not exist, and numbers outside a range such as "[0, 1)"."""
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise ValueError(f"{name} must be one of {get_args(kind)}, got {value!r}")
        if name in ranges and value is not None:
            low, high = map(float, ranges[name][1:-1].split(","))
            above = value >= low if ranges[name][0] == "[" else value > low
            below = value <= high if ranges[name][-1] == "]" else value < high
            if not (above and below):
                raise ValueError(f"{name} must be in {ranges[name]}, got {value}")


@dataclass(frozen=True)
class TrainConfig:
    """How an objective is trained; everything here can change the result.

    Parameters
    ----------
    steps : int
        Number of batches.
    validate_every : int
        Steps between validations; the last step is always validated.
    validate_first : bool
        Validate before the first step too: the history then begins with step 0.
    optimizer : {"adam", "adamw", "sgd"}
        Optimiser.
    learning_rate : float
        Learning rate, or where its schedule starts.
    weight_decay : float
        Weight decay of the optimiser.
    momentum : float
        Momentum of "sgd".
    schedule : {"constant", "cosine", "phases"}
        Learning rate over time: constant; learning_rate (1 + cos(pi step / steps)) / 2; or
        learning_rate * decay^phase, in phases of equally many validations.
    phases : int
        Number of phases of the schedule "phases".
    decay : float
        Factor from phase to phase.
    clip : float, optional
        Largest norm of the gradient, of each of the objective's modules apart, so that a large
        gradient of a head leaves the student's gradient as it is.
    keep_best : str, optional
        End with the weights of the validation at which this number was lowest.
    accelerator : {"cpu", "cuda", "auto"}
        Device of the training.
    devices : int
        Number of devices of a training; more than one is not supported yet.
    precision : {"32-true", "bf16-mixed"}
        Everything in float32, or matrix products and convolutions in bfloat16.

    Raises
    ------
    ValueError
        If a setting makes no sense; the message names it.
    """

    steps: int = 1000
    validate_every: int = 50
    validate_first: bool = False
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: Literal["constant", "cosine", "phases"] = "constant"
    phases: int = 1
    decay: float = 0.3
    clip: float | None = None
    keep_best: str | None = None
    accelerator: Literal["cpu", "cuda", "auto"] = "cpu"
    devices: int = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def __post_init__(self) -> None:
        whole = dict.fromkeys(("steps", "validate_every", "phases", "devices"), "[1, inf)")
        positive = dict.fromkeys(("learning_rate", "decay", "clip"), "(0, inf)")
        _check(self, **whole, **positive, weight_decay="[0, inf)", momentum="[0, 1)")
        if self.devices > 1:
            raise ValueError(
                f"devices must be 1, got {self.devices}: a training uses one device, and runs of "
                "several arms and seeds go side by side"
            )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * step / self.steps)) / 2
        if self.schedule == "phases":
            validations = math.ceil(self.steps / self.validate_every)
            phase = step // self.validate_every * self.phases // validations
            return self.learning_rate * self.decay**phase
        return self.learning_rate


@dataclass(frozen=True)
class Regularization:
    """How a student is regularised by a similarity (`b2m_fast.methods.regularization`).

    Parameters
    ----------
    alpha : float
        Weight of the penalty in equation (1).
    pairs : {"all", "random"}
        All pairs of a batch of neural images, or random pairs in two forward passes (the paper).
    center : {"ema", "batch", "none"}
        Pattern that is subtracted: running mean per channel (4), mean of the batch, or none.
    beta : float
        Share of the running mean that is kept at each update.
    epochs : int
        Passes over the task's training images.
    batch : int
        Task images of a step.
    neural_batch : int
        Neural images of a step.
    learning_rate : float
        Learning rate of SGD in the first phase.
    decay : float
        Factor of the learning rate from phase to phase.
    phases : int
        Phases of equal length that the epochs are divided into.
    momentum : float
        Momentum of SGD.
    weight_decay : float
        Weight decay of SGD.
    batchnorm : {"shared", "task"}
        Whether neural images enter the running statistics of batch normalisation.

    Raises
    ------
    ValueError
        If a setting makes no sense; the message names it.
    """

    alpha: float = 20.0
    pairs: Literal["all", "random"] = "all"
    center: Literal["ema", "batch", "none"] = "ema"
    beta: float = 0.9
    epochs: int = 40
    batch: int = 64
    neural_batch: int = 32
    learning_rate: float = 0.1
    decay: float = 0.3
    phases: int = 5
    momentum: float = 0.9
    weight_decay: float = 0.0
    batchnorm: Literal["shared", "task"] = "task"

    def __post_init__(self) -> None:
        whole = dict.fromkeys(("epochs", "batch", "phases"), "[1, inf)")
        positive = dict.fromkeys(("learning_rate", "decay"), "(0, inf)")
        _check(self, **whole, **positive, alpha="[0, inf)", beta="[0, 1)", neural_batch="[2, inf)")

    def training(self, images: int, **options: Any) -> TrainConfig:
        """Return the settings of the training loop for a task of so many training images."""
        epoch = math.ceil(images / self.batch)
        return TrainConfig(
            steps=self.epochs * epoch,
            validate_every=epoch,
            optimizer="sgd",
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            schedule="phases",
            phases=self.phases,
            decay=self.decay,
            keep_best="validation_loss",
            **options,
        )


@dataclass(frozen=True)
class BrainWeight:
    """The weight lambda of the brain's loss over the course of training.

    Parameters
    ----------
    value : float
        lambda, or where it starts.
    schedule : {"constant", "cosine", "pretrain"}
        Constant; value (1 + cos(pi p / until)) / 2 at the fraction p of the training, 0 from
        `until` on; or the brain's loss alone before `until` and the task alone after it.
    until : float
        Fraction of the training; below 1 for "pretrain".

    Raises
    ------
    ValueError
        If a setting makes no sense; the message names it.
    """

    value: float = 1.0
    schedule: Literal["constant", "cosine", "pretrain"] = "constant"
    until: float = 1.0

    def __post_init__(self) -> None:
        _check(self, value=f"[0, {LARGEST_FLOAT32:g}]", until="(0, 1]")
        if self.schedule == "pretrain" and self.until == 1:
            raise ValueError(
                "until must be below 1 for 'pretrain', which is to leave the task time"
            )

    def at(self, progress: float) -> tuple[float, float]:
        """Return the weights (task, brain) of equation (1) at a fraction of the training.

        A weight of 0 is no pretraining: the task's weight is then always 1.
        """
        if self.value == 0 or (self.schedule != "constant" and progress >= self.until):
            return 1.0, 0.0
        if self.schedule == "pretrain":
            return 0.0, self.value
        if self.schedule == "cosine":
            return 1.0, self.value * (1 + math.cos(math.pi * progress / self.until)) / 2
        return 1.0, self.value


@dataclass(frozen=True)
class Brain2ModelConfig:
    """How a brain teaches (`b2m_fast.methods.brain2model`); everything here can change the result.

    Parameters
    ----------
    method : {"latent", "contrastive"}
        Strategy: equation (2) or equation (4).
    weight : BrainWeight
        lambda of equation (1).
    readout : {"learned", "fixed", "ridge"}
        Readout W of "latent".
    rho : float
        Penalty of the readout "ridge", as a share of the mean variance of the student's units.
    dimension : int
        Dimension in which "contrastive" compares.
    temperature : float
        Temperature of "contrastive", or where a learned one starts; 0.01 or above.
    learn_temperature : bool
        Learn the temperature.
    window : (int, int), optional
        Steps [begin, end) of a trial that are compared; all by default.
    average : bool, optional
        Whether a row is the mean over these steps, or a step; by default the mean for
        "contrastive", and a step for "latent".
    batch : int
        Images of a step, for a teacher of images.
    held_out : float
        Share of a teacher's samples that is kept for validation.
    scramble : bool
        Permute the brain's rows anew in each training batch: the control for the alignment itself.

    Raises
    ------
    ValueError
        If a setting makes no sense; the message names it.
    """

    method: Literal["latent", "contrastive"] = "latent"
    weight: BrainWeight = field(default_factory=BrainWeight)
    readout: Literal["learned", "fixed", "ridge"] = "learned"
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
        whole = dict.fromkeys(("dimension", "batch"), "[1, inf)")
        temperature = f"[{LOWEST_TEMPERATURE}, inf)"
        _check(self, **whole, rho="(0, inf)", temperature=temperature, held_out="(0, 1)")
        if self.window is not None and not 0 <= self.window[0] < self.window[1]:
            raise ValueError(f"window must be (begin, end), 0 <= begin < end, got {self.window}")

    @property
    def averages(self) -> bool:
        """Whether a row is a mean over steps."""
        return self.method == "contrastive" if self.average is None else self.average
