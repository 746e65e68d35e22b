"""Networks that learn a task alone, to teach it to others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from b2m_fast.methods.brain2model import Brain2ModelObjective
from b2m_fast.methods.training import train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from b2m_fast.experiments.transfer_lessons import SceneLesson, TrialLesson
    from b2m_fast.experiments.transfer_settings import TransferExperiment

__all__ = ["CHANCE", "NETWORK_SEED", "TRUTH_SEED", "teach_alone", "words"]

# of the network behind the synthetic brain, of the arm; far from any seed a user takes
TRUTH_SEED, NETWORK_SEED = 2**40, 2**40 + 1
CHANCE = 5  # a seed's stream for controls, beside those of `b2m_fast.methods.training.Stream`


def teach_alone(
    experiment: TransferExperiment,
    lesson: TrialLesson | SceneLesson,
    seed: int,
    kept: Path,
    say: Callable[[str], object],
) -> dict[str, Any]:
    """Train the student of a lesson without a teacher, so that it can be one.

    Parameters
    ----------
    experiment : TransferExperiment
        How.
    lesson : TrialLesson or SceneLesson
        The network, trained in place, and its task.
    seed : int
        Seed the lesson was made with.
    kept : Path
        File in which the network is kept for the next time.
    say : callable
        Told what is being done.

    Returns
    -------
    dict
        Size, training, results on test data.
    """
    steps = experiment.teacher.network_steps
    say(f"a network that teaches ({lesson.kind}): {steps} steps")
    loop = replace(
        experiment.loop,
        steps=steps,
        learning_rate=experiment.teacher.network_rate,
        validate_every=max(1, steps // 10),
        validate_first=False,
    )
    known = (
        experiment.method_version, experiment.task, experiment.task_options, experiment.batch,
        experiment.beta, lesson.kind, lesson.data, seed,
    )  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same bits whatever the machine
    try:
        train(Brain2ModelObjective(lesson), loop, checkpoint=kept, identity=repr(known))
        found, _ = lesson.test()
    finally:
        torch.set_num_threads(threads)
    parameters = sum(p.numel() for p in lesson.student.parameters())
    report = {"kind": lesson.kind, "parameters": parameters, "steps": steps, **found}
    reached = found[experiment.evaluation.metric]
    wanted = experiment.evaluation.criterion
    better = reached <= wanted if experiment.evaluation.metric == "mse" else reached >= wanted
    return report | {"learned": better}


def words(report: dict[str, Any]) -> list[str]:
    """Sentences about teachers.

    Parameters
    ----------
    report : dict
        ``brain``: of the brain's teacher; ``truth``, ``network``: of networks that teach.

    Returns
    -------
    list of str
        What a reader of the results should know.
    """
    brain, out = report["brain"], []
    if brain.get("synthetic"):
        out.append(
            "The brain is SYNTHETIC: this shows what the method can do, not what a brain does."
        )
    if brain.get("stand_in"):
        out.append(
            "The brain is a STAND-IN: no recording of a driving brain with a usable licence is known "
            f"to us; models of {brain['units']} neurons, fitted on the images these were shown "
            f"(held-out r = {brain['held_out_r_mean']:.2f}), answer to the scenes."
        )
    if "reliability" in brain:
        values = ", ".join(f"{r:.2f}" for r in brain["reliability"])
        out.append(
            f"{brain['k']} latents ({brain['method']}) of {brain['units']} neurons; reliability "
            f"across trials {values}; {brain['condition_identified_in_other_half']:.2f} of the "
            f"conditions are recognised in the other half of the trials (chance "
            f"{brain['condition_chance']:.2f})."
        )
        if brain["unreliable"]:
            out.append(f"Latents {brain['unreliable']} are unreliable: they teach mostly noise.")
        if not brain["conditions_told_apart"]:
            out.append(
                "The latents do NOT TELL CONDITIONS APART: they are recognised no better than by "
                "chance, so that whatever this teacher does it is not by what it knows of them."
            )
    for name, what in (("truth", "The network behind the brain"), ("network", "The arm network")):
        if name in report:
            r = report[name]
            numbers = ", ".join(f"{k} {r[k]:.3g}" for k in ("accuracy", "mse", "ssim") if k in r)
            out.append(
                f"{what} ({r['kind']}, {r['parameters']} parameters, {r['steps']} steps): {numbers}"
                + (
                    "."
                    if r["learned"]
                    else ": it has NOT LEARNED the task (more --network-steps?)."
                )
            )
    return out
