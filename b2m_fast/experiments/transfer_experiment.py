"""The experiment around Brain2Model: arms, seeds, training, evaluation."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from b2m_fast.data._old import cowley_v4_files, spike_files
from b2m_fast.data.driving import CAMVID
from b2m_fast.data.files import data_root, digest, fingerprint
from b2m_fast.evaluate.convergence import area_under_curve, steps_to_criterion
from b2m_fast.experiments.experiment import finite
from b2m_fast.experiments.provenance import machine, versions
from b2m_fast.experiments.transfer_arms import SCRAMBLED
from b2m_fast.experiments.transfer_frames import frame_material, load_scenes
from b2m_fast.experiments.transfer_settings import CURVES
from b2m_fast.experiments.transfer_trials import trial_material
from b2m_fast.methods.brain2model import BrainWeight, brain2model_objective
from b2m_fast.methods.training import train

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from b2m_fast.experiments.experiment import Payload
    from b2m_fast.experiments.runs import Job
    from b2m_fast.experiments.transfer_frames import FrameMaterial
    from b2m_fast.experiments.transfer_settings import TransferExperiment
    from b2m_fast.experiments.transfer_trials import TrialMaterial

__all__ = ["data_fingerprint", "make_material", "run"]


def data_fingerprint(experiment: TransferExperiment, root: str | None) -> str:
    """Fingerprint of the data an experiment reads; also checks that they are there.

    Parameters
    ----------
    experiment : TransferExperiment
        The experiment.
    root : str, optional
        The data directory.

    Returns
    -------
    str
        Empty if it reads none.

    Raises
    ------
    DataError
        If a file is missing.
    """
    files: list[Path] = []
    if experiment.brain == "cowley-v4":
        files += cowley_v4_files(data_root(root))
    elif experiment.brain != "synthetic":
        files += spike_files(experiment.brain, data_root(root))
    if experiment.task == "camvid":
        files += CAMVID.paths(data_root(root))
    found = fingerprint(files)
    if experiment.task == "driving":  # rendered, and so a matter of versions
        found = digest([found, load_scenes(experiment.task, root).digest])
    return found


def make_material(
    experiment: TransferExperiment,
    arms: Sequence[str],
    root: str | None,
    kept: Path,
    say: Callable[[str], object] = lambda _: None,
) -> TrialMaterial | FrameMaterial:
    """Load the task and the recording, and make the teachers.

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
    TrialMaterial or FrameMaterial
        What the runs need.

    Raises
    ------
    DataError
        If data are missing, malformed, or cannot teach this task.
    """
    make = frame_material if experiment.draws_frames else trial_material
    return make(experiment, arms, root, kept, say)


@dataclass(frozen=True)
class _Course:
    """How one training went.

    Attributes
    ----------
    history : list of dict
        Its validations.
    arrival : dict
        Step of arrival at the criterion, or the last, and whether it is censored.
    test : dict
        Numbers on test data, and the term's on held-out data.
    delays : list of float
        Accuracy at other delays.
    """

    history: list[dict[str, float | None]]
    arrival: dict[str, Any]
    area: float
    test: dict[str, float | None]
    delays: list[float]


def run(job: Job, tick: Callable[[], object]) -> dict[str, Any]:
    """One run: train a student, evaluate it; then again on shares of the data, if asked for.

    Parameters
    ----------
    job : Job
        Its payload is a `Payload` with a `TransferExperiment` and the `Material` of its arm.
    tick : callable
        Called after each validation.

    Returns
    -------
    dict
        Everything measured, as JSON can hold it.
    """
    payload: Payload = job.payload
    experiment: TransferExperiment = payload.experiment
    arm, seed = job.config["arm"], job.config["seed"]
    torch.set_num_threads(payload.threads)
    start = time.perf_counter()

    def course(share: float | None) -> _Course:
        name = "whole" if share is None else f"share-{share:g}"
        return _train(
            experiment,
            payload.material,
            (arm, seed, share),
            payload.folder(job) / f"{name}.safetensors",
            digest(job.config),
            tick,
        )

    whole = course(None)
    efficiency = []
    for share in experiment.evaluation.shares:
        less = course(share)
        efficiency.append({"share": share, "test": less.test, "arrival": less.arrival})
    return {
        "arm": arm,
        "seed": seed,
        "arrival": whole.arrival,
        "area": whole.area,
        "test": whole.test,
        "delays": whole.delays,
        "efficiency": efficiency,
        "history": whole.history,
        "seconds": time.perf_counter() - start,
        "versions": versions(),
        "machine": machine(payload.threads),
    }


def _train(
    experiment: TransferExperiment,
    material: TrialMaterial | FrameMaterial,
    which: tuple[str, int, float | None],
    checkpoint: Path,
    identity: str,
    tick: Callable[[], object],
) -> _Course:
    """Train one student and measure it."""
    arm, seed, share = which
    lesson = material.lesson(seed, share)
    config = experiment.transfer
    if arm == "zero":
        config = replace(config, weight=BrainWeight(0.0))
    if arm in SCRAMBLED:
        config = replace(config, scramble=True)
    if config.window is None:
        config = replace(config, window=material.window)
    teacher = material.teacher(arm, seed, share)
    objective = brain2model_objective(lesson, teacher, config, seed)
    history = train(
        objective,
        experiment.loop,
        checkpoint=checkpoint,
        identity=f"{identity} {share}",
        on_validation=lambda _: tick(),
    )
    evaluation, curve = experiment.evaluation, CURVES[experiment.evaluation.metric]
    arrival = steps_to_criterion(
        history.entries,
        curve,
        evaluation.criterion,
        evaluation.consecutive,
        lower_is_better=evaluation.metric == "mse",
    )
    last = history.entries[-1]
    found, delays = lesson.test()
    kept = ("readout_r2", "retrieval", "retrieval_chance")
    found |= {name: last[name] for name in kept if name in last}
    return _Course(
        history=[{k: finite(v) for k, v in entry.items()} for entry in history.entries],
        arrival={"step": arrival.step, "censored": arrival.censored},
        area=area_under_curve(history.entries, curve),
        test={k: finite(v) for k, v in found.items()},
        delays=delays,
    )
