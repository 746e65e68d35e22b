"""Tasks and teachers that train in a fraction of a second, and the combinations of student and strategy."""

from __future__ import annotations

from typing import Any

import numpy as np

from b2m_fast.data.tasks import EpochTask, delay_match_sample
from b2m_fast.methods.alignment import FrameTask, TrialTask
from b2m_fast.methods.brain2model import Brain2ModelObjective, brain2model_objective
from b2m_fast.methods.config import Brain2ModelConfig
from b2m_fast.methods.training import seeded
from b2m_fast.students.recurrent import GRUStudent, LeakyRNN
from b2m_fast.students.vae import ConvVAE
from b2m_fast.teachers.latents import LatentTeacher
from b2m_fast.teachers.responses import ResponseTeacher

COMBINATIONS = (
    "rnn latent",
    "gru latent",
    "rnn contrastive",
    "gru contrastive",
    "vae latent",
    "vae contrastive",
)


class OnTheCPU:
    """Fabric, as far as tasks and alignments need it."""

    @staticmethod
    def to_device(x: Any) -> Any:
        return x


def small_task() -> EpochTask:
    """24 steps, 4 conditions."""
    return delay_match_sample(delay_ms=200.0)


def trial_task(student: str = "rnn", seed: int = 0, **options: Any) -> TrialTask:
    task = small_task()
    kinds: dict[str, Any] = {"rnn": LeakyRNN, "gru": GRUStudent}
    with seeded(seed):
        model = kinds[student](task.channels, task.classes, 12)
    return TrialTask(model, task, seed=seed, **{"batch": 8, "validation": 16, **options})


def frames(count: int, seed: int = 0) -> Any:
    """Gray frames whose brightness and gradient vary."""
    rng = np.random.default_rng(seed)
    level, slope = rng.uniform(0.2, 0.6, (2, count, 1, 1, 1))
    ramp = np.linspace(0, 1, 16)[None, None, None]
    return np.clip(level + slope * (ramp - 0.5) + np.zeros((1, 1, 16, 1)), 0, 1).astype(np.float32)


def frame_task(seed: int = 0, **options: Any) -> FrameTask:
    with seeded(seed):
        model = ConvVAE((1, 16, 16), latent=6, width=2)
    return FrameTask(model, frames(40, 1), frames(12, 2), seed=seed, **{"batch": 16, **options})


def latent_teacher(seed: int = 0, k: int = 3) -> LatentTeacher:
    """Smooth latents of the small task's conditions; the recording starts at step 3."""
    task = small_task()
    rng = np.random.default_rng(seed)
    course = rng.normal(size=(len(task.conditions), task.steps, k)).cumsum(axis=1)
    course = (course - course.mean((0, 1))) / course.std((0, 1))
    valid = np.arange(task.steps) >= 3
    return LatentTeacher(course.astype(np.float32), valid, np.ones(k), np.ones(k) / k, {})


def condition_teacher(seed: int = 0) -> ResponseTeacher:
    """Twelve noisy responses to each condition."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(4), 12)
    pattern = rng.normal(size=(4, 10))
    responses = pattern[label] + 0.5 * rng.normal(size=(48, 10))
    return ResponseTeacher(None, responses.astype(np.float32), label)


def image_teacher(seed: int = 0, k: int = 5) -> ResponseTeacher:
    """Responses that are linear in 50 images, each shown twice."""
    rng = np.random.default_rng(seed)
    images = frames(50, seed)
    responses = images.reshape(50, -1) @ rng.normal(size=(256, k))
    responses = (responses - responses.mean(0)) / responses.std(0)
    label = np.repeat(np.arange(50), 2)
    noisy = responses[label] + 0.1 * rng.normal(size=(100, k))
    return ResponseTeacher(images[label], noisy.astype(np.float32), label)


def task_and_teacher(combination: str, seed: int = 0) -> tuple[Any, Any]:
    student, method = combination.split()
    if student == "vae":
        return frame_task(seed), image_teacher()
    teacher = latent_teacher() if method == "latent" else condition_teacher()
    return trial_task(student, seed), teacher


def objective(combination: str, seed: int = 0, **options: Any) -> Brain2ModelObjective:
    """A student, its teacher and a strategy, by name."""
    task, teacher = task_and_teacher(combination, seed)
    method: Any = combination.split()[1]
    return brain2model_objective(
        task, teacher, Brain2ModelConfig(method, batch=16, **options), seed
    )
