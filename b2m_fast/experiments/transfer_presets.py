"""Settings of `b2m transfer` where the user says nothing: chosen on seeds that are not reported."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, cast

from b2m_fast.data._old import decision_task
from b2m_fast.experiments.transfer_settings import (
    BRAINS,
    FRAME_TASKS,
    TeacherSettings,
    TransferEvaluation,
    TransferExperiment,
)
from b2m_fast.methods.config import Brain2ModelConfig, BrainWeight, TrainConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["longer_delays", "preset"]

QUICK_ARMS = ("none", "brain", "shuffled", "label")

# (learning rate, steps, steps between validations): the rate at which students WITHOUT a teacher arrive first, the median of 3
# seeds that are not reported, of three rates or more a factor of 2 to 3 apart.
DECISIONS: dict[str, dict[str, Any]] = {
    "direction": {"options": {}, "gru": (8e-2, 200, 2), "rnn": (3e-3, 800, 10)},
    "delay-match-sample": {
        "options": {"directions": 8}, "gru": (4e-2, 300, 5), "rnn": (1e-3, 800, 10)
    },
    "parametric-working-memory": {"options": {}, "gru": (1e-2, 200, 5), "rnn": (3e-3, 200, 5)},
    "delay-direction-rule": {"options": {}, "gru": (3e-2, 400, 5), "rnn": (3e-3, 500, 10)},
}  # fmt: skip
FRAME_CRITERIA = {"driving": 0.005, "camvid": 0.025}


def _task(student: str, brain: str, task: str | None) -> str:
    """The task that goes with a brain and a student, where none is named."""
    if task is not None:
        return task
    if brain == "synthetic":
        return "driving" if student == "vae" else "delay-match-sample"
    fitting = [t for t in BRAINS[brain] if (t in FRAME_TASKS) == (student == "vae")]
    if not fitting:
        raise ValueError(
            f"--brain {brain} can teach {', '.join(BRAINS[brain])}, which a {student} cannot learn"
        )
    return "camvid" if "camvid" in fitting else fitting[0]


def preset(
    method: str, student: str, brain: str, task: str | None
) -> tuple[TransferExperiment, Sequence[str] | None, Sequence[int]]:
    """Experiment, arms and seeds that go with a choice of method, student, brain and task.

    Parameters
    ----------
    method : {"latent", "contrastive"}
        Method.
    student : {"gru", "rnn", "vae"}
        Student.
    brain : str
        A key of `b2m_fast.experiments.transfer_settings.BRAINS`.
    task : str, optional
        One of `b2m_fast.experiments.transfer_settings.TASKS`; default: the one that goes with the
        brain and the student.

    Returns
    -------
    experiment : TransferExperiment
        Settings.
    arms : sequence of str, optional
        None: all that are possible.
    seeds : sequence of int
        Seeds.

    Raises
    ------
    ValueError
        If they do not go together.
    """
    name = _task(student, brain, task)
    make = _frames if student == "vae" else _trials
    # checks what goes together before anything else does
    TransferExperiment(student=cast("Any", student), brain=brain, task=name)
    experiment = make(cast("Any", method), cast("Any", student), brain, name)
    quick = brain == "synthetic"
    return experiment, QUICK_ARMS if quick else None, range(3) if quick else range(10)


def _trials(
    method: Literal["latent", "contrastive"], student: Literal["gru", "rnn"], brain: str, task: str
) -> TransferExperiment:
    known = DECISIONS[task]
    options = dict(known["options"])
    rate, steps, every = known[student]
    if brain == "hippocampus":  # two ways to run, for three seconds
        options = {"directions": 2, "delay_ms": 3000.0}
    return TransferExperiment(
        student=student,
        brain=brain,
        task=task,
        task_options=options,
        units=64,
        batch=64,
        transfer=Brain2ModelConfig(method, BrainWeight(1.0 if method == "latent" else 0.1)),
        loop=TrainConfig(
            steps=steps,
            validate_every=every,
            validate_first=True,
            learning_rate=rate,
            clip=1.0,
        ),
        teacher=TeacherSettings(network_steps=1500),
        evaluation=TransferEvaluation(
            metric="accuracy", criterion=0.9, delays_ms=longer_delays(task, options)
        ),
    )


def longer_delays(task: str, options: dict[str, float]) -> tuple[float, ...]:
    """Delays half as long again and twice as long as a task's, in whole steps.

    Parameters
    ----------
    task : str
        A decision task.
    options : dict
        Its options.

    Returns
    -------
    tuple of float
        In milliseconds.

    Raises
    ------
    ValueError
        If the options are not the task's, or impossible.
    """
    try:
        made = decision_task(task, **options)
    except TypeError as error:
        raise ValueError(f"--task {task}: {error}") from None
    steps = made.timing["delay"] / made.step_ms
    return tuple(made.step_ms * math.ceil(factor * steps - 1e-9) for factor in (1.5, 2.0))


def _frames(
    method: Literal["latent", "contrastive"], student: Literal["vae"], brain: str, task: str
) -> TransferExperiment:
    return TransferExperiment(
        student=student,
        brain=brain,
        task=task,
        units=32,
        width=8,
        batch=32,
        beta=0.03,  # twice the squared error at the end: the noise that the decoder really has
        transfer=Brain2ModelConfig(
            method, BrainWeight(0.1 if method == "latent" else 0.01), batch=32
        ),
        loop=TrainConfig(
            steps=300 if brain == "synthetic" else {"driving": 400, "camvid": 500}[task],
            validate_every=10,
            validate_first=True,
            learning_rate=4e-3,  # best for students without a teacher, of 1e-3 to 8e-3
            clip=1.0,
        ),
        teacher=TeacherSettings(
            k=12 if method == "latent" else None,
            repeats=10,
            network_units=32,
            network_steps=500,
            network_rate=4e-3,
        ),
        evaluation=TransferEvaluation(metric="mse", criterion=FRAME_CRITERIA[task]),
    )
