"""A transfer experiment with autoencoders: lessons, brains, arms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.data.driving import camvid, car_racing
from b2m_fast.data.files import data_root
from b2m_fast.data.v4 import cowley_v4
from b2m_fast.experiments.transfer_arms import Teachers
from b2m_fast.experiments.transfer_lessons import SceneLesson, encoded, kept_frames
from b2m_fast.experiments.transfer_networks import (
    CHANCE,
    NETWORK_SEED,
    TRUTH_SEED,
    teach_alone,
    words,
)
from b2m_fast.teachers import response_controls
from b2m_fast.teachers.responses import fit_sensory_model, image_responses, stand_in
from b2m_fast.teachers.synthetic import observe_images

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from b2m_fast.data.driving import Scenes
    from b2m_fast.experiments.transfer_settings import TransferExperiment
    from b2m_fast.teachers.responses import ResponseTeacher

__all__ = ["FrameMaterial", "frame_material", "load_scenes"]


def load_scenes(task: str, root: str | None) -> Scenes:
    """The scenes of a task.

    Parameters
    ----------
    task : {"driving", "camvid"}
        The task.
    root : str, optional
        The data directory.

    Returns
    -------
    Scenes
        The scenes.

    Raises
    ------
    DataError
        If data are missing or malformed.
    ImportError
        If the simulator is missing.
    """
    return car_racing() if task == "driving" else camvid(data_root(root))


@dataclass(frozen=True, eq=False)
class FrameMaterial(Teachers):
    """What runs with an autoencoder need besides teachers.

    Attributes
    ----------
    scenes : Scenes
        The scenes.
    of_scenes : bool
        Whether what the brain saw are the training frames; its labels are then their numbers.
    """

    brain: ResponseTeacher | None
    network: ResponseTeacher | None
    scenes: Scenes
    of_scenes: bool

    window = None

    def lesson(self, seed: int, share: float | None) -> SceneLesson:
        """An untrained student with its task.

        Parameters
        ----------
        seed : int
            Student and frames.
        share : float, optional
            Share of the training data.

        Returns
        -------
        SceneLesson
            The lesson.
        """
        return SceneLesson(self.experiment, self.scenes, seed, share)

    def teacher(self, arm: str, seed: int, share: float | None) -> ResponseTeacher | None:
        """What stands in the place of the brain in an arm.

        Parameters
        ----------
        arm : str
            A key of `b2m_fast.experiments.transfer_arms.ARMS`; this must be its material.
        seed : int
            Chance of the controls.
        share : float, optional
            Share of the training data: a teacher of training frames shows no others.

        Returns
        -------
        ResponseTeacher or None
            None for a student alone.
        """
        if arm == "none" or self.brain is None:
            return None
        teacher, rng = self.brain, np.random.default_rng([seed, CHANCE])
        if arm == "relabelled":
            teacher = response_controls.relabelled(teacher, rng)
        elif arm in {"gaussian", "random-code"}:
            teacher = response_controls.gaussian(teacher, rng)
        elif arm == "pixel":
            teacher = response_controls.pixel(teacher)
        elif arm == "label" and self.of_scenes:
            teacher = response_controls.known(teacher, self.scenes.train_labels)
        elif arm == "label":
            teacher = response_controls.label(teacher, rng)
        if share is not None and self.of_scenes:
            return _only(teacher, kept_frames(self.scenes, seed, share))
        return teacher


def _only(teacher: ResponseTeacher, labels: NDArray[np.int64]) -> ResponseTeacher:
    """The samples of these labels."""
    rows = np.isin(teacher.label, labels)
    stimuli = None if teacher.stimuli is None else teacher.stimuli[rows]
    return replace(
        teacher, stimuli=stimuli, responses=teacher.responses[rows], label=teacher.label[rows]
    )


def frame_material(
    experiment: TransferExperiment,
    arms: Sequence[str],
    root: str | None,
    kept: Path,
    say: Callable[[str], object] = lambda _: None,
) -> FrameMaterial:
    """Load scenes and recording, and make its teacher.

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
    FrameMaterial
        What the runs need.

    Raises
    ------
    DataError
        If data are missing or malformed.
    """
    scenes, settings = load_scenes(experiment.task, root), experiment.teacher
    if set(arms) <= {"none"}:
        return FrameMaterial(experiment, None, None, {}, scenes, of_scenes=False)
    report: dict[str, Any] = {}
    if experiment.brain == "synthetic":
        brain, report["truth"] = _synthetic(experiment, scenes, kept, say)
    elif settings.stimuli == "scenes":
        say("models of V4 neurons, fitted on the images they were shown")
        model = fit_sensory_model(cowley_v4(data_root(root)), min(scenes.shape[1:]))
        brain = stand_in(model, scenes.train, k=settings.k)
    else:
        recorded = cowley_v4(data_root(root))
        recording = recorded.recording(settings.session)
        brain = image_responses(recorded, recording, scenes.shape[1:], k=settings.k)
    report["brain"] = brain.report
    network = None
    if "network" in arms and brain.stimuli is not None:
        lesson = SceneLesson(experiment, scenes, NETWORK_SEED)
        report["network"] = teach_alone(
            experiment, lesson, NETWORK_SEED, kept / "network.safetensors", say
        )
        network = response_controls.network(brain, encoded(lesson.student, brain.stimuli))
    report["words"] = words(report)
    own = brain.stimuli is scenes.train
    return FrameMaterial(experiment, brain, network, report, scenes, own)


def _synthetic(
    experiment: TransferExperiment,
    scenes: Scenes,
    kept: Path,
    say: Callable[[str], object],
) -> tuple[ResponseTeacher, dict[str, Any]]:
    """Spikes of neurons that look at a trained autoencoder, and what that is."""
    settings = experiment.teacher
    lesson = SceneLesson(experiment, scenes, TRUTH_SEED, units=settings.network_units)
    report = teach_alone(experiment, lesson, TRUTH_SEED, kept / "truth.safetensors", say)
    brain = observe_images(
        encoded(lesson.student, scenes.train),
        scenes.train,
        np.random.default_rng([TRUTH_SEED, CHANCE]),
        neurons=settings.neurons,
        repeats=settings.repeats,
        rate=settings.rate,
        components=settings.k,
    )
    return brain, report
