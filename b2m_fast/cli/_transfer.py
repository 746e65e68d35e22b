"""``b2m transfer latent`` and ``b2m transfer contrastive``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from b2m_fast.cli._common import (
    OUTCOME,
    Plan,
    add_machine,
    add_which,
    brief,
    conduct,
    given,
    positive,
    teller,
    which,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUP_HELP = """\
A brain as a second teacher (Brain2Model; Gallo Aquino et al. 2025, arXiv 2506.20834): a student
learns its task and, at the same time, to agree with brain activity. The idea is the paper's, whose
text was not available; equations, sizes and numbers are ours.

  latent        the student's hidden states are asked to hold latents of the brain
  contrastive   student and brain are asked to tell samples apart alike
"""

HELP = {
    "latent": """\
Brain Latent Transfer: a student learns its task and, at the same time, to let the latents of a
brain be read from its hidden states:

  loss = loss of the task + weight * mean over steps |W h_t + b - z_t|^2

Does it learn faster or better, and is it the brain? Controls are arms like any other.
""",
    "contrastive": """\
Brain Contrastive Transfer: a student learns its task and, at the same time, to pick out of a batch
the brain activity that belongs to its own activations, and the other way round:

  loss = loss of the task + weight * symmetric InfoNCE(W_h h, W_b b; temperature)

Trials of the same condition are positives of one another. Controls are arms like any other.
""",
}

EPILOG = """\
arms
{arms}

brains (--data names the folder of recordings, but for the first)
  synthetic     a trained network seen through a random map and Poisson spikes: the right answer is
                known, and nothing is needed; with --student vae, a trained autoencoder
  pfc-memory    macaque prefrontal cortex, remembered directions     --task direction
  steinmetz     mouse visual cortex, the stronger of two gratings    --task parametric-working-memory
  hippocampus   rat CA1 on a linear track                            --task delay-match-sample
  cowley-v4     macaque V4, a STAND-IN for a driving brain           --task driving, camvid

examples
{examples}

{outcome}"""

EXAMPLES = {
    "latent": """\
  b2m transfer latent
      Some minutes at most, nothing to download: a GRU and a SYNTHETIC brain.
  b2m transfer latent --student gru --brain pfc-memory --data ~/recordings --seeds 0 1 2 3 4
      The real thing. Stop it with Ctrl-C and start it again: it goes on where it was.
  b2m transfer latent --student vae
      An autoencoder of rendered driving scenes.
  b2m transfer latent --components 3 --readout fixed --weight 0.3 --schedule cosine
      Other latents, another readout, another weight.
  b2m compare DIR1 DIR2
      Arms of two such experiments together.""",
    "contrastive": """\
  b2m transfer contrastive
      Some minutes at most, no recordings needed: an autoencoder of rendered driving scenes.
  b2m transfer contrastive --student vae --brain cowley-v4 --task camvid --data ~/recordings
      Streets, with models of macaque V4 neurons as the sensory stand-in. Stop it with Ctrl-C and
      start it again: it goes on where it was.
  b2m transfer contrastive --student gru --brain pfc-memory --data ~/recordings
      A recurrent student beside recorded trials of the same condition.
  b2m compare DIR1 DIR2
      Arms of two such experiments together.""",
}


def add(commands: Any) -> None:
    """The command's parser, with a command of its own for each strategy."""
    parser = commands.add_parser(
        "transfer",
        help="a brain teaches a recurrent network or an autoencoder (Brain2Model)",
        description=GROUP_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    strategies = parser.add_subparsers(metavar="STRATEGY", required=True)
    for method in HELP:
        _add_method(strategies, method)


def _add_method(strategies: Any, method: str) -> None:
    from b2m_fast.experiments.transfer_arms import ARMS  # noqa: PLC0415
    from b2m_fast.experiments.transfer_settings import BRAINS, STUDENTS, TASKS  # noqa: PLC0415

    arms = "\n".join(f"  {name:12} {text}" for name, text in ARMS.items())
    tables = "steps to criterion with censoring"
    parser = strategies.add_parser(
        method,
        help=HELP[method].partition(":")[0],
        description=HELP[method],
        epilog=EPILOG.format(
            arms=arms,
            examples=EXAMPLES[method],
            outcome=OUTCOME.format(tables=tables),
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole, real = positive(int), positive(float)
    what = parser.add_argument_group("what")
    student = "gru" if method == "latent" else "vae"
    what.add_argument("--student", choices=STUDENTS, help=f"default: {student}")
    what.add_argument("--brain", choices=list(BRAINS), default="synthetic", help="default: %(default)s")  # fmt: skip
    what.add_argument("--task", choices=TASKS, help="default: the one that goes with the brain")
    add_which(
        what,
        list(ARMS),
        seeds="0 1 2, recorded brains 0 to 9",
        out=f"{method}-STUDENT-BRAIN-TASK",
    )
    how = parser.add_argument_group("how")
    weights = "1, autoencoder 0.1" if method == "latent" else "0.1, autoencoder 0.01"
    how.add_argument("--weight", type=real, help=f"of the brain's term; default: {weights}")
    how.add_argument("--schedule", choices=("constant", "cosine", "pretrain"), help="of the weight; default: constant")  # fmt: skip
    how.add_argument("--until", type=real, help="share of the training at which cosine or pretrain ends; default: 0.5")  # fmt: skip
    if method == "latent":
        how.add_argument("--readout", choices=("learned", "fixed", "ridge"), help="W; default: learned")  # fmt: skip
        how.add_argument("--latents", choices=("pca", "dpca", "fa", "cebra"), help="how they are found: principal components (default), demixed ones, factor analysis, or an embedding of ours in the manner of CEBRA, not the package")  # fmt: skip
    else:
        how.add_argument("--temperature", type=real, help="default: 0.07")
        how.add_argument("--learn-temperature", action="store_true", default=None, help="learn it")
        how.add_argument("--dimension", type=whole, help="of the shared space; default: 64")
    components = "all neurons"
    if method == "latent":
        components = "as many as are reproducible, autoencoder 12"
    how.add_argument("--components", type=whole, metavar="K", help=f"latents of the brain; default: {components}")  # fmt: skip
    how.add_argument("--stimuli", choices=("scenes", "images"), help="cowley-v4: models of neurons answer to the scenes (default), or neurons did to images")  # fmt: skip
    how.add_argument("--neurons", type=whole, help="of the synthetic brain; default: 100")
    how.add_argument("--network-steps", type=whole, metavar="N", help="training of networks that teach: behind the synthetic brain, arm network; default: 1500, autoencoder 500")  # fmt: skip
    how.add_argument(
        "--units",
        type=whole,
        help="hidden units, or latents of the autoencoder; default: 64, autoencoder 32",
    )
    how.add_argument(
        "--steps", type=whole, help="training steps; default: by task and student, 200 to 800"
    )
    how.add_argument(
        "--batch", type=whole, help="trials or frames per step; default: 64, autoencoder 32"
    )
    how.add_argument("--learning-rate", type=real, help="default: by task and student, the best of students without a teacher")  # fmt: skip
    how.add_argument("--directions", type=whole, help="of a task with directions; default: direction 6, delay-match-sample 8, delay-direction-rule 16; a recorded brain has those it was recorded with")  # fmt: skip
    how.add_argument("--delay", type=real, metavar="MS", help="of a decision task; default: 1000, delay-direction-rule 500, hippocampus 3000")  # fmt: skip
    measure = parser.add_argument_group("measure")
    measure.add_argument("--criterion", type=real, help="validation accuracy to reach, or squared error to fall to; default: 0.9, driving 0.005, camvid 0.025")  # fmt: skip
    measure.add_argument(
        "--every",
        type=whole,
        help="steps between validations; default: by task and student, 2 to 10",
    )
    measure.add_argument("--delays", type=real, nargs="+", metavar="MS", help="other delays to be tested on; default: 1.5 and 2 times as long")  # fmt: skip
    measure.add_argument("--shares", type=real, nargs="+", metavar="S", help="train again on these shares of the data, e.g. 0.05 0.1 0.25 0.5 1")  # fmt: skip
    add_machine(parser)
    parser.set_defaults(
        action=partial(conduct, f"transfer {method}", partial(_plan, method)), default=student
    )


def _plan(method: str, options: argparse.Namespace) -> Plan:
    """Experiment, arms and seeds from presets and the user's wishes."""
    from b2m_fast.experiments import transfer_experiment as lab  # noqa: PLC0415
    from b2m_fast.experiments import transfer_report as report  # noqa: PLC0415
    from b2m_fast.experiments.transfer_arms import check_arms, default_arms  # noqa: PLC0415
    from b2m_fast.experiments.transfer_presets import preset  # noqa: PLC0415

    student = options.student or _student(options)
    experiment, arms, seeds = preset(method, student, options.brain, options.task)
    experiment = _with_wishes(experiment, options)
    arms, seeds = which(options, arms or default_arms(method, student), seeds)
    check_arms(arms, method, student)
    _check_use(options, experiment, arms)
    evaluation = experiment.evaluation
    synthetic = " (SYNTHETIC, simulated neurons)" if options.brain == "synthetic" else ""
    stand_in = " (a STAND-IN for a driving brain)" if options.brain == "cowley-v4" else ""
    name = f"{method}-{student}-{experiment.brain}-{experiment.task}"
    out: Path = options.out or Path("b2m-results") / name
    validations = -(-experiment.loop.steps // experiment.loop.validate_every) + 1
    return Plan(
        command=f"transfer {method}",
        lab=lab,
        prepare=lambda: lab.make_material(
            experiment, arms, options.data, out / "teachers", teller(options)
        ),
        report=report,
        experiment=experiment,
        settings=experiment.shown(),
        arms=arms,
        seeds=seeds,
        out=out,
        title=f"{student} learns {experiment.task}, {method} transfer from {experiment.brain}"
        f"{synthetic}{stand_in}",
        ticks=validations * (1 + len(evaluation.shares)),
        unit="validation",
        glance=lambda result: brief(result["test"][evaluation.metric]),
    )


def _student(options: argparse.Namespace) -> str:
    """The student that goes with a brain or a task, where none is named."""
    from b2m_fast.experiments.transfer_settings import BRAINS, FRAME_TASKS  # noqa: PLC0415

    if options.task is not None:
        return "vae" if options.task in FRAME_TASKS else "gru"
    if options.brain == "synthetic":
        return str(options.default)
    return "vae" if BRAINS[options.brain] == FRAME_TASKS else "gru"


def _check_use(options: argparse.Namespace, experiment: Any, arms: Sequence[str]) -> None:
    """Refuse options that would change nothing."""
    synthetic = experiment.brain == "synthetic"
    uses = {
        "neurons": (synthetic, "--brain synthetic"),
        "network_steps": (synthetic or "network" in arms, "--brain synthetic or the arm network"),
        "stimuli": (experiment.brain == "cowley-v4", "--brain cowley-v4"),
        "latents": (not experiment.draws_frames, "recurrent students"),
    }
    for name, (used, where) in uses.items():
        if getattr(options, name, None) is not None and not used:
            raise ValueError(f"--{name.replace('_', '-')} is for {where}")


def _with_wishes(experiment: Any, options: argparse.Namespace) -> Any:
    """The experiment with what the user has set."""
    from b2m_fast.experiments.transfer_presets import longer_delays  # noqa: PLC0415

    weight = experiment.transfer.weight
    if options.weight is not None:
        weight = replace(weight, value=options.weight)
    if options.schedule is not None:
        until = 1.0 if options.schedule == "constant" else 0.5
        weight = replace(weight, schedule=options.schedule, until=until)
    if options.until is not None:
        if weight.schedule == "constant":
            raise ValueError("--until goes with --schedule cosine or pretrain")
        weight = replace(weight, until=options.until)
    latent = experiment.transfer.method == "latent"
    terms = ("readout",) if latent else ("temperature", "learn_temperature", "dimension")
    kinds = ("neurons", "network_steps", "stimuli", *(("latents",) if latent else ()))
    teacher = given(options, kinds)
    if options.components is not None:
        teacher["k"] = options.components
    loop = given(options, ("steps", "learning_rate"))
    if options.every is not None:
        loop["validate_every"] = options.every
    evaluation = given(options, ("criterion",))
    for name, field in (("delays", "delays_ms"), ("shares", "shares")):
        if getattr(options, name) is not None:
            evaluation[field] = tuple(dict.fromkeys(getattr(options, name)))
    task = given(options, ("directions",))
    if options.delay is not None:
        task["delay_ms"] = options.delay
        if options.delays is None and not experiment.draws_frames:
            known = experiment.task_options | task
            evaluation["delays_ms"] = longer_delays(experiment.task, known)
    if (task or options.delays) and experiment.draws_frames:
        raise ValueError("--directions, --delay and --delays are for recurrent students")
    return replace(
        experiment,
        **given(options, ("units", "batch")),
        task_options=experiment.task_options | task,
        transfer=replace(experiment.transfer, weight=weight, **given(options, terms)),
        loop=replace(experiment.loop, **loop),
        teacher=replace(experiment.teacher, **teacher),
        evaluation=replace(experiment.evaluation, **evaluation),
    )
