"""``b2m regularize``."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from b2m_fast.cli._common import (
    OUTCOME,
    Plan,
    add_machine,
    add_which,
    brief,
    conduct,
    given,
    positive,
    which,
)

HELP = """\
Teach an image classifier with a brain, and see whether it becomes more robust.

The student learns its task and, at the same time, to find two images as similar as the neurons of
a recording find them (Li et al. 2019, arXiv 1911.05072):

  loss = cross entropy + alpha * mean over pairs (atanh s_student - atanh S_brain)^2

Controls are arms like any other, because a gain over no teacher alone proves nothing about brains.
"""

EPILOG = """\
arms
{arms}

examples
  b2m regularize --demo
      A minute or two, nothing to download: digits and a SYNTHETIC cortex. Shows that it runs.
  b2m regularize --data ~/recordings --brain cowley-v4 --task cifar10-subset
      The real thing: macaque V4, gray CIFAR-10; all arms, three seeds. Stop it with Ctrl-C and
      start it again: finished runs are kept.
  b2m regularize --arms none neural pixel-threshold --seeds 0 1 2 3 4 --out results/five
      Other arms, more seeds; runs already in --out with the same settings are not repeated.
  b2m regularize --pairs random --center ema --batchnorm shared --alpha 20
      As near to the released code as this goes (two trunk passes, 16 random pairs a step).

{outcome}"""


def add(commands: Any) -> None:
    """The command's parser."""
    from b2m_fast.experiments.regularize_experiment import (  # noqa: PLC0415
        ARMS,
        BRAINS,
        TASKS,
    )

    arms = "\n".join(f"  {name:16} {text}" for name, text in ARMS.items())
    parser = commands.add_parser(
        "regularize",
        help="a brain regularises a network (Li et al. 2019)",
        description=HELP,
        epilog=EPILOG.format(arms=arms, outcome=OUTCOME.format(tables="what the penalty did")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole, real = positive(int), positive(float)
    what = parser.add_argument_group("what")
    what.add_argument(
        "--demo", action="store_true", help="what the command does without any option"
    )
    what.add_argument("--brain", choices=BRAINS, default="synthetic", help="default: %(default)s")
    what.add_argument("--task", choices=TASKS, help="default: digits, or cifar10-subset for V4")
    add_which(what, list(ARMS))
    how = parser.add_argument_group("how")
    how.add_argument("--alpha", type=real, help="weight of the penalty")
    how.add_argument(
        "--pairs", choices=("all", "random"), help="all pairs of a batch (default), or random ones"
    )
    how.add_argument(
        "--center", choices=("ema", "batch", "none"), help="mean pattern; default: ema"
    )
    how.add_argument("--batchnorm", choices=("task", "shared"), help="do neural images enter running statistics? default: task (no)")  # fmt: skip
    how.add_argument("--epochs", type=whole)
    how.add_argument("--batch", type=whole, help="task images per step")
    how.add_argument("--neural-batch", type=whole, help="neural images per step")
    how.add_argument("--width", type=whole, help="channels of the first layers")
    how.add_argument("--blocks", type=whole, help="residual blocks per group (2: ResNet18)")
    how.add_argument("--blur", type=real, help="of the arm blur, in pixels")
    how.add_argument("--denoiser", choices=("gabor", "efficientnet", "gabor+efficientnet"), help="features of the encoding model; default: gabor")  # fmt: skip
    how.add_argument("--attack-images", type=whole, help="test images that are attacked")
    add_machine(parser)
    parser.set_defaults(action=partial(conduct, "regularize", _plan))


def _presets(task: str) -> tuple[Any, list[str]]:
    """Experiment and arms of a task, before the user's wishes."""
    from b2m_fast.experiments.regularize_experiment import Evaluation, Experiment  # noqa: PLC0415
    from b2m_fast.methods.config import Regularization  # noqa: PLC0415

    if task == "digits":
        evaluation = Evaluation(
            noise=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
            linf=(8 / 255, 16 / 255, 24 / 255),
            l2=(0.5, 1.0, 1.5),
            pgd_steps=10,
            minimal_steps=30,
            attack_images=100,
        )
        training = Regularization(alpha=5.0, epochs=6, phases=3)
        return (
            Experiment(task=task, training=training, evaluation=evaluation),
            ["none", "neural", "neural-shuffled", "raw"],
        )
    arms = ["none", "neural", "neural-shuffled", "raw", "pixel", "pixel-threshold", "blur"]
    training = Regularization(alpha=10.0, epochs=8, phases=3)
    return Experiment(task=task, width=16, training=training), arms


def _plan(options: argparse.Namespace) -> Plan:
    """Experiment, arms and seeds from presets and the user's wishes."""
    from b2m_fast.experiments import regularize_experiment as lab  # noqa: PLC0415
    from b2m_fast.experiments import regularize_report as report  # noqa: PLC0415

    if options.demo and (options.brain != "synthetic" or options.task not in {None, "digits"}):
        raise ValueError("--demo is digits and the synthetic cortex: leave out --brain and --task")
    task = options.task or ("digits" if options.brain == "synthetic" else "cifar10-subset")
    experiment, arms = _presets(task)
    names = ("alpha", "pairs", "center", "batchnorm", "epochs", "batch", "neural_batch")
    training = given(options, names)
    if training.get("neural_batch", 32) < 4:
        raise ValueError(f"--neural-batch must be at least 4, got {training['neural_batch']}")
    if training.get("batch", 64) < 2:
        raise ValueError(f"--batch must be at least 2, got {training['batch']}")
    evaluation = experiment.evaluation
    if options.attack_images:
        evaluation = replace(evaluation, attack_images=options.attack_images)
    experiment = replace(
        experiment,
        brain=options.brain,
        training=replace(experiment.training, **training),
        evaluation=evaluation,
        **given(options, ("width", "blocks", "blur", "denoiser")),
    )
    arms, seeds = which(options, arms, (0, 1, 2))
    synthetic = experiment.brain == "synthetic"
    title = f"{experiment.task} taught by {experiment.brain}" + (
        " (SYNTHETIC, simulated neurons)" if synthetic else ""
    )
    return Plan(
        command="regularize",
        lab=lab,
        prepare=lambda: lab.make_material(experiment, arms, options.data),
        report=report,
        experiment=experiment,
        settings=asdict(experiment.evaluation),
        arms=arms,
        seeds=seeds,
        out=options.out or Path("b2m-results") / f"{experiment.brain}-{experiment.task}",
        title=title,
        ticks=experiment.training.epochs,
        unit="epoch",
        glance=lambda result: brief(result["accuracy"]),
    )
