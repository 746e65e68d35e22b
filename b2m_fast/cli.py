"""The command line: ``b2m regularize``, ``b2m info``, ``b2m bench``."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["main"]

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

REGULARIZE_HELP = """\
Teach an image classifier with a brain, and see whether it becomes more robust.

The student learns its task and, at the same time, to find two images as similar as the neurons of
a recording find them (Li et al. 2019, arXiv 1911.05072):

  loss = cross entropy + alpha * mean over pairs (atanh s_student - atanh S_brain)^2

Controls are arms like any other, because a gain over no teacher alone proves nothing about brains.
"""

REGULARIZE_EPILOG = """\
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

what comes out, in --out
  results.md    tables: means, paired differences with 95 % intervals, what the penalty did
  results.json  settings, versions, machine, quality of the teacher, every run
  results.png   figure
  runs/         one file per finished run

exit codes
  0 all runs done   1 a run failed   2 wrong arguments or missing data   130 stopped by Ctrl-C
"""


def _positive(kind: Callable[[str], float]) -> Callable[[str], Any]:
    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"must be positive and finite, got {text}")
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def _folder(text: str) -> Path:
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from None
    return path


def _add_regularize(commands: Any) -> None:
    from b2m_fast.teachers.targets import ARMS  # noqa: PLC0415
    from b2m_fast.transfer.regularize_experiment import BRAINS, TASKS  # noqa: PLC0415

    arms = "\n".join(f"  {name:16} {text}" for name, text in ARMS.items())
    parser = commands.add_parser(
        "regularize",
        help="a brain regularises a network (Li et al. 2019)",
        description=REGULARIZE_HELP,
        epilog=REGULARIZE_EPILOG.format(arms=arms),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole, real = _positive(int), _positive(float)
    what = parser.add_argument_group("what")
    what.add_argument(
        "--demo", action="store_true", help="what the command does without any option"
    )
    what.add_argument("--brain", choices=BRAINS, default="synthetic", help="default: %(default)s")
    what.add_argument("--task", choices=TASKS, help="default: digits, or cifar10-subset for V4")
    what.add_argument("--data", metavar="DIR", help="your recordings (or set B2M_DATA)")
    what.add_argument("--arms", nargs="+", choices=list(ARMS), metavar="ARM", help="see below")
    what.add_argument("--seeds", nargs="+", type=int, metavar="N", help="default: 0 1 2")
    what.add_argument("--out", type=_folder, metavar="DIR", help="default: b2m-results/BRAIN-TASK")
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
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--workers",
        type=whole,
        default=min(2, os.cpu_count() or 1),
        help="runs at a time, each a process (default: %(default)s)",
    )
    machine.add_argument("--threads", type=whole, default=1, help="threads per run (default: 1)")
    machine.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(action=_regularize)


def _presets(task: str) -> tuple[Any, list[str]]:
    """Experiment and arms of a task, before the user's wishes."""
    from b2m_fast.transfer.regularize import Regularization  # noqa: PLC0415
    from b2m_fast.transfer.regularize_experiment import Evaluation, Experiment  # noqa: PLC0415

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


def _experiment(options: argparse.Namespace) -> tuple[Any, list[str], list[int]]:
    """Experiment, arms and seeds from presets and the user's wishes."""
    if options.demo and (options.brain != "synthetic" or options.task not in {None, "digits"}):
        raise ValueError("--demo is digits and the synthetic cortex: leave out --brain and --task")
    task = options.task or ("digits" if options.brain == "synthetic" else "cifar10-subset")
    experiment, arms = _presets(task)
    names = ("alpha", "pairs", "center", "batchnorm", "epochs", "batch", "neural_batch")
    given = {n: getattr(options, n) for n in names if getattr(options, n) is not None}
    if given.get("neural_batch", 32) < 4:
        raise ValueError(f"--neural-batch must be at least 4, got {given['neural_batch']}")
    if given.get("batch", 64) < 2:
        raise ValueError(f"--batch must be at least 2, got {given['batch']}")
    outer = {
        n: getattr(options, n)
        for n in ("width", "blocks", "blur", "denoiser")
        if getattr(options, n) is not None
    }
    evaluation = experiment.evaluation
    if options.attack_images:
        evaluation = replace(evaluation, attack_images=options.attack_images)
    experiment = replace(
        experiment,
        brain=options.brain,
        training=replace(experiment.training, **given),
        evaluation=evaluation,
        **outer,
    )
    arms = list(dict.fromkeys(options.arms or arms))
    seeds = list(dict.fromkeys(options.seeds or [0, 1, 2]))
    if min(seeds) < 0:
        raise ValueError(f"--seeds must not be negative, got {min(seeds)}")
    return experiment, arms, seeds


def _regularize(options: argparse.Namespace) -> int:
    from b2m_fast.data.files import DataError  # noqa: PLC0415
    from b2m_fast.transfer import regularize_experiment as lab  # noqa: PLC0415
    from b2m_fast.transfer.runs import RunStore, write_atomically  # noqa: PLC0415

    try:
        experiment, arms, seeds = _experiment(options)
        data = lab.data_fingerprint(experiment, options.data)
        out: Path = options.out or Path("b2m-results") / f"{experiment.brain}-{experiment.task}"
        store = RunStore(out / "runs")
        todo: list[Any] = []
        runs: dict[str, dict[int, Any]] = {arm: {} for arm in arms}
        for job in lab.jobs(experiment, arms, seeds, data):
            result = store.load(job)
            if result is None:
                todo.append(job)
            else:
                runs[job.config["arm"]][job.config["seed"]] = result
        say = print if not options.quiet else lambda *_: None
        say(f"{len(arms)} arms x {len(seeds)} seeds: {len(todo)} runs to do, "
            f"{len(arms) * len(seeds) - len(todo)} found in {out}")  # fmt: skip
        teacher_file = out / "teacher.json"
        if todo:
            say("preparing the teachers ...")
            material = lab.make_material(experiment, arms, options.data)
            write_atomically(teacher_file, json.dumps(material.report, indent=1) + "\n")
    except (DataError, ImportError, ValueError) as error:
        print(f"b2m regularize: {error}", file=sys.stderr)
        return USAGE
    code = OK
    if todo:
        ready = [
            replace(j, payload=(experiment, material.of(j.config["arm"]), options.threads))
            for j in todo
        ]
        code = _perform(lab.run, ready, store, options, experiment.training.epochs, runs)
    _report(out, experiment, runs, options)
    return code


def _perform(
    function: Any, ready: list[Any], store: Any, options: argparse.Namespace,
    epochs: int, runs: dict[str, dict[int, Any]],
) -> int:  # fmt: skip
    """Run jobs under a progress bar; results go into `runs`."""
    from b2m_fast.transfer.runs import perform  # noqa: PLC0415

    try:
        from tqdm import tqdm  # noqa: PLC0415
    except ImportError:
        print("b2m: tqdm is missing (pip install 'b2m-fast[transfer]')", file=sys.stderr)
        return USAGE
    code, done = OK, 0
    bar = tqdm(total=len(ready) * epochs, unit="epoch", disable=options.quiet, dynamic_ncols=True)
    outcomes = perform(function, ready, store, workers=options.workers, tick=bar.update)
    try:
        for outcome in outcomes:
            name = outcome.job.name
            if outcome.result is None:
                code = FAILED
                bar.write(f"{name} FAILED:\n{outcome.error}", file=sys.stderr)
                continue
            done += 1
            runs[outcome.job.config["arm"]][outcome.job.config["seed"]] = outcome.result
            bar.set_postfix_str(
                f"{done}/{len(ready)} runs; {name} {outcome.result['accuracy']:.3f}"
            )
    except KeyboardInterrupt:
        code = INTERRUPTED
    finally:
        outcomes.close()
        bar.close()
    if code == INTERRUPTED:
        print(f"stopped: {done} of {len(ready)} runs finished and kept; "
              "the same command goes on from here", file=sys.stderr)  # fmt: skip
    return code


def _report(
    out: Path, experiment: Any, runs: dict[str, dict[int, Any]], options: argparse.Namespace
) -> None:
    """Write and print what there is."""
    from b2m_fast.transfer import provenance  # noqa: PLC0415
    from b2m_fast.transfer import regularize_report as report  # noqa: PLC0415
    from b2m_fast.transfer.runs import write_atomically  # noqa: PLC0415

    runs = {arm: seeds for arm, seeds in runs.items() if seeds}
    if not runs:
        print("no run finished: nothing to report")
        return
    evaluation = asdict(experiment.evaluation)
    synthetic = experiment.brain == "synthetic"
    table = report.markdown(runs, evaluation)
    stored = out / "teacher.json"
    teacher = json.loads(stored.read_text()) if stored.is_file() else {}
    words = report.sentences(runs, evaluation, teacher)
    full = {
        "experiment": asdict(experiment),
        "versions": provenance.versions(),
        "machine": provenance.machine(options.threads) | {"workers": options.workers},
        "teacher": teacher,
        "summary": report.summarise(runs, evaluation),
        "words": words,
        "runs": [r for seeds in runs.values() for r in seeds.values()],
    }
    title = f"{experiment.task} taught by {experiment.brain}" + (
        " (SYNTHETIC, simulated neurons)" if synthetic else ""
    )
    bullets = "".join(f"- {line}\n" for line in words)
    write_atomically(out / "results.json", json.dumps(full, indent=1) + "\n")
    write_atomically(out / "results.md", f"# {title}\n\n{table}\n{bullets}")
    print(f"\n{title}\n\n{table}")
    print("What this shows:\n" + bullets)
    try:
        write_atomically(out / "results.png", report.figure(runs, evaluation, title))
    except ImportError as error:
        print(error, file=sys.stderr)
    print(f"Written: {out / 'results.md'}, results.json, results.png")


def _info(_: argparse.Namespace) -> int:
    from b2m_fast import _info  # noqa: PLC0415

    print(_info.render(_info.collect()))
    return OK


def _bench(arguments: list[str]) -> int:
    from b2m_fast import _bench  # noqa: PLC0415

    return _bench.main(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``b2m``.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; default: those of the process.

    Returns
    -------
    int
        Exit code: 0 done, 1 a run failed, 2 wrong arguments or missing data, 130 interrupted.
    """
    logging.basicConfig(format="b2m: %(message)s", level=logging.WARNING)
    parser = argparse.ArgumentParser(
        prog="b2m", description="Teach networks with brains: exact losses over all pairs."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_regularize(commands)
    info = commands.add_parser("info", help="version, build, processor: what a bug report needs")
    info.set_defaults(action=_info)
    commands.add_parser("bench", help="time the ops on this machine", add_help=False)
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["bench"]:  # it has options of its own
            return _bench(arguments[1:])
        options = parser.parse_args(arguments)
        return int(options.action(options))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
