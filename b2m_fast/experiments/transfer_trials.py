"""A transfer experiment with recurrent students: lessons, brains, arms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.data import dataset
from b2m_fast.data._old import decision_task
from b2m_fast.experiments.transfer_arms import Teachers
from b2m_fast.experiments.transfer_lessons import TrialLesson, condition_states
from b2m_fast.experiments.transfer_networks import (
    CHANCE,
    NETWORK_SEED,
    TRUTH_SEED,
    teach_alone,
    words,
)
from b2m_fast.teachers import latent_controls, response_controls
from b2m_fast.teachers.alignment import align
from b2m_fast.teachers.latents import LatentTeacher, make_latents
from b2m_fast.teachers.population import make_population
from b2m_fast.teachers.responses import condition_responses
from b2m_fast.teachers.synthetic import observe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from b2m_fast.data.recording import Brain
    from b2m_fast.data.tasks import EpochTask
    from b2m_fast.experiments.transfer_settings import TransferExperiment
    from b2m_fast.teachers.population import Population
    from b2m_fast.teachers.responses import ResponseTeacher

__all__ = ["TrialMaterial", "mapping", "trial_material"]

NETWORK_TRIALS = 50
MINIMUM_TRIALS = {"pfc-memory": 16}  # of each condition; keeps 315 of 319 neurons


def mapping(brain: str, task: EpochTask) -> dict[str, Any]:
    """What of a task belongs to what of a recording, where names differ; our choice.

    Parameters
    ----------
    brain : str
        Recording.
    task : EpochTask
        Task.

    Returns
    -------
    dict
        ``epochs`` and ``conditions`` of `b2m_fast.teachers.alignment.align`.
    """
    if brain == "steinmetz":  # the stronger of two stimuli; left stands for first
        sides = ("left", "right")
        conditions = {c: sides[a] for c, a in zip(task.conditions, task.answer, strict=True)}
        return {"epochs": {"stimulus2": "stimulus"}, "conditions": conditions}
    if brain == "hippocampus":  # one of two runs; the way stands for the sample
        ways = dict(zip(("1", "2"), ("there", "back"), strict=True))
        conditions = {c: ways[c.split()[1]] for c in task.conditions}
        return {"epochs": {"delay": "run"}, "conditions": conditions}
    return {}


@dataclass(frozen=True, eq=False)
class TrialMaterial(Teachers):
    """What runs with a recurrent student need besides teachers.

    Attributes
    ----------
    task : EpochTask
        The task.
    window : (int, int), optional
        Steps of a trial that the brain says something about, where that is not in the teacher.
    """

    task: EpochTask
    window: tuple[int, int] | None

    def lesson(self, seed: int, share: float | None) -> TrialLesson:
        """An untrained student with its task.

        Parameters
        ----------
        seed : int
            Student and trials.
        share : float, optional
            Share of the training data.

        Returns
        -------
        TrialLesson
            The lesson.
        """
        return TrialLesson(self.experiment, self.task, seed, share)

    def teacher(
        self, arm: str, seed: int, share: float | None
    ) -> LatentTeacher | ResponseTeacher | None:
        """What stands in the place of the brain in an arm.

        Parameters
        ----------
        arm : str
            A key of `b2m_fast.experiments.transfer_arms.ARMS`; this must be its material.
        seed : int
            Chance of the controls.
        share : float, optional
            Not used: teachers know conditions, not trials.

        Returns
        -------
        LatentTeacher or ResponseTeacher or None
            None for a student alone.
        """
        del share
        if arm == "none" or self.brain is None:
            return None
        rng = np.random.default_rng([seed, CHANCE])
        if isinstance(self.brain, LatentTeacher):
            return _latent_arm(arm, self.brain, rng)
        return _paired_arm(arm, self.brain, rng)


def _latent_arm(arm: str, brain: LatentTeacher, rng: np.random.Generator) -> LatentTeacher:
    if arm == "reversed":
        return latent_controls.time_reversed(brain)
    make = {
        "relabelled": latent_controls.relabelled,
        "phase": latent_controls.phase_randomized,
        "gaussian": latent_controls.gaussian,
        "random-code": latent_controls.gaussian,
        "label": latent_controls.label,
    }
    return make[arm](brain, rng) if arm in make else brain


def _paired_arm(arm: str, brain: ResponseTeacher, rng: np.random.Generator) -> ResponseTeacher:
    if arm == "label":
        return response_controls.label(brain, rng)
    if arm == "relabelled":
        return response_controls.relabelled(brain, rng)
    return response_controls.gaussian(brain, rng) if arm in {"gaussian", "random-code"} else brain


def trial_material(
    experiment: TransferExperiment,
    arms: Sequence[str],
    root: str | None,
    kept: Path,
    say: Callable[[str], object] = lambda _: None,
) -> TrialMaterial:
    """Load the recording and make its teacher.

    Parameters
    ----------
    experiment : TransferExperiment
        The experiment.
    arms : sequence of str
        Arms.
    root : str, optional
        The data directory.
    kept : Path
        Folder in which networks that teach are kept for the next time.
    say : callable
        Told what is being done.

    Returns
    -------
    TrialMaterial
        What the runs need.

    Raises
    ------
    DataError
        If data are missing, malformed, or cannot teach this task.
    """
    task = decision_task(experiment.task, **experiment.task_options)
    if set(arms) <= {"none"}:
        return TrialMaterial(experiment, None, None, {}, task, None)
    settings = experiment.teacher
    report: dict[str, Any] = {}
    if experiment.brain == "synthetic":
        recording, report["truth"] = _synthetic(experiment, task, kept, say)
    else:
        recording = dataset.get(experiment.brain).build(root=root)
    say(f"latents or responses of {recording.units} neurons")
    population = make_population(
        recording,
        smooth_ms=settings.smooth_ms,
        minimum_trials=MINIMUM_TRIALS.get(experiment.brain, 2),
    )
    known = mapping(experiment.brain, task)
    brain: LatentTeacher | ResponseTeacher
    window = None
    if experiment.transfer.method == "latent":
        brain = make_latents(population, task, method=settings.latents, k=settings.k, **known)
    else:
        rng = np.random.default_rng([TRUTH_SEED, CHANCE])
        brain = condition_responses(population, task, rng, k=settings.k, **known)
        window = _window(population, task, known)
    report["brain"] = brain.report
    network = None
    if "network" in arms:
        lesson = TrialLesson(experiment, task, NETWORK_SEED)
        report["network"] = teach_alone(
            experiment, lesson, NETWORK_SEED, kept / "network.safetensors", say
        )
        network = _in_place_of(brain, lesson, task, window)
    report["words"] = words(report)
    return TrialMaterial(experiment, brain, network, report, task, window)


def _window(population: Population, task: EpochTask, known: dict[str, Any]) -> tuple[int, int]:
    """First step that was recorded, and the one after the last."""
    steps = np.flatnonzero(align(population, task, **known).valid)
    return int(steps[0]), int(steps[-1]) + 1


def _synthetic(
    experiment: TransferExperiment,
    task: EpochTask,
    kept: Path,
    say: Callable[[str], object],
) -> tuple[Brain, dict[str, Any]]:
    """Spikes of neurons that look at a trained network, and what that network is."""
    settings = experiment.teacher
    lesson = TrialLesson(experiment, task, TRUTH_SEED, kind="rnn", units=settings.network_units)
    report = teach_alone(experiment, lesson, TRUTH_SEED, kept / "truth.safetensors", say)
    states = condition_states(lesson.student, task, settings.repeats, TRUTH_SEED)
    recording = observe(
        states.reshape(-1, *states.shape[2:]),
        np.repeat(np.arange(len(states)), settings.repeats),
        task,
        np.random.default_rng([TRUTH_SEED, CHANCE]),
        neurons=settings.neurons,
        rate=settings.rate,
    )
    return recording, report


def _in_place_of(
    brain: LatentTeacher | ResponseTeacher,
    lesson: TrialLesson,
    task: EpochTask,
    window: tuple[int, int] | None,
) -> LatentTeacher | ResponseTeacher:
    """A trained network as a teacher of the brain's kind and size."""
    if isinstance(brain, LatentTeacher):
        states = condition_states(lesson.student, task, NETWORK_TRIALS, NETWORK_SEED)
        return latent_controls.network(brain, states.mean(axis=1))
    trials = int(np.bincount(brain.label).max())  # of the condition the brain has most of
    begin, end = window or (0, task.steps)
    states = condition_states(lesson.student, task, trials, NETWORK_SEED)
    return response_controls.network(brain, states[:, :, begin:end].mean(axis=2))
