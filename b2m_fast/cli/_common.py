"""What the experiments' commands share: options, progress, stopping and going on, results."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

OUTCOME = """\
what comes out, in --out
  results.md    tables: means, paired differences with 95 % intervals, {tables}
  results.json  settings, versions, machine, quality of the teacher, every run, and which
                are missing and why
  results.png   figure
                these three are of the last command
  runs/         one file per finished run, named after arm, seed and a hash of all settings: other
                settings in the same --out overwrite nothing, and the old ones find their runs again
  teachers/     what is known of the teachers, and networks that teach
  checkpoints/  runs under way, from which they go on; gone when all are done

exit codes
  0 all runs done   1 a run failed   2 wrong arguments, missing data, results that cannot be written
  130 stopped by Ctrl-C
"""


@dataclass(frozen=True)
class Plan:
    """An experiment, ready to be run and reported.

    Attributes
    ----------
    command : str
        Name of the command, as typed after ``b2m``.
    lab : module
        Has ``data_fingerprint`` and ``run``.
    prepare : callable
        Makes the material of the runs.
    report : module
        Has ``markdown``, ``sentences``, ``summarise`` and ``figure``.
    experiment : Settings
        Everything the results depend on.
    settings : dict
        What the functions of the report are to know of them.
    arms, seeds : sequence
        What to run.
    out : Path
        Folder of the results.
    title : str
        Heading of the results.
    ticks, unit : int, str
        Ticks of one run, and what a tick is.
    glance : callable
        Result -> a few characters for the progress bar.
    """

    command: str
    lab: Any
    prepare: Callable[[], Any]
    report: Any
    experiment: Any
    settings: dict[str, Any]
    arms: Sequence[str]
    seeds: Sequence[int]
    out: Path
    title: str
    ticks: int
    unit: str
    glance: Callable[[dict[str, Any]], str]


# --------------------------------------------------------------------------------------------------
# Options
# --------------------------------------------------------------------------------------------------
def positive(kind: Callable[[str], float]) -> Callable[[str], Any]:
    """Parser of a positive, finite number."""

    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"must be positive and finite, got {text}")
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def folder(text: str) -> Path:
    """Parser of a folder that can be written to, or made; nothing is left there yet."""
    path = Path(text)
    try:
        check_writable(path)
    except OSError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def check_writable(path: Path) -> None:
    """Raise OSError unless files can be written to a folder, or to where it would be made."""
    there = next((p for p in (path, *path.absolute().parents) if p.exists()), path)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(f"{path} cannot be written to: {error.strerror}") from None


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Options about the machine."""
    whole = positive(int)
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--workers",
        type=whole,
        default=min(2, os.cpu_count() or 1),
        help="runs at a time, each a process (default: %(default)s)",
    )
    machine.add_argument("--threads", type=whole, default=1, help="threads per run (default: 1)")
    machine.add_argument("--quiet", action="store_true", help="no progress bar")


def add_which(
    group: Any, arms: Sequence[str], *, seeds: str = "0 1 2", out: str = "BRAIN-TASK"
) -> None:
    """Options about which runs to do."""
    group.add_argument("--data", metavar="DIR", help="your recordings (or set B2M_DATA)")
    group.add_argument("--arms", nargs="+", choices=list(arms), metavar="ARM", help="see below")
    group.add_argument("--seeds", nargs="+", type=int, metavar="N", help=f"default: {seeds}")
    group.add_argument("--out", type=folder, metavar="DIR", help=f"default: b2m-results/{out}")


def given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Options that the user has set."""
    return {n: getattr(options, n) for n in names if getattr(options, n) is not None}


def which(
    options: argparse.Namespace, arms: Sequence[str], seeds: Sequence[int]
) -> tuple[list[str], list[int]]:
    """Arms and seeds, each once, from the user's wishes or the defaults."""
    arms = list(dict.fromkeys(options.arms or arms))
    seeds = list(dict.fromkeys(options.seeds or seeds))
    if min(seeds) < 0:
        raise ValueError(f"--seeds must not be negative, got {min(seeds)}")
    return arms, seeds


def teller(options: argparse.Namespace) -> Callable[[str], None]:
    """Tells what is being done before the runs, unless that is not wanted."""

    def say(what: str) -> None:
        if not options.quiet:
            print(f"  {what}", flush=True)

    return say


def brief(value: float | None) -> str:
    """A number for the progress bar."""
    return "-" if value is None else f"{value:.3f}"


# --------------------------------------------------------------------------------------------------
# Running
# --------------------------------------------------------------------------------------------------
def conduct(
    command: str, planner: Callable[[argparse.Namespace], Plan], options: argparse.Namespace
) -> int:
    """Run what is missing of an experiment, and report what there is.

    Parameters
    ----------
    command : str
        Name of the command, for messages.
    planner : callable
        Options -> plan; raises ValueError for impossible ones.
    options : argparse.Namespace
        Parsed options.

    Returns
    -------
    int
        Exit code.
    """
    from b2m_fast.data.files import DataError  # noqa: PLC0415
    from b2m_fast.experiments.former import Payload, jobs  # noqa: PLC0415
    from b2m_fast.experiments.runs import RunStore  # noqa: PLC0415

    try:
        plan = planner(options)
        check_writable(plan.out)
        data = plan.lab.data_fingerprint(plan.experiment, options.data)
        store = RunStore(plan.out / "runs")
        todo: list[Any] = []
        runs: dict[str, dict[int, Any]] = {arm: {} for arm in plan.arms}
        for job in jobs(plan.experiment, plan.arms, plan.seeds, data):
            result = store.load(job)
            if result is None:
                todo.append(job)
            else:
                runs[job.config["arm"]][job.config["seed"]] = result
        say = print if not options.quiet else lambda *_: None
        count = len(plan.arms) * len(plan.seeds)
        say(f"arms {len(plan.arms)}, seeds {len(plan.seeds)}: {len(todo)} runs to do, "
            f"{count - len(todo)} found in {plan.out}")  # fmt: skip
        if todo:
            say("preparing the teachers ...")
            material = plan.prepare()
            _note_teacher(plan, data, material.report)
    except (DataError, ImportError, ValueError, OSError) as error:
        print(f"b2m {command}: {error}", file=sys.stderr)
        return USAGE
    code = OK
    failed: dict[tuple[str, int], str] = {}
    try:
        if todo:
            kept = plan.out / "checkpoints"
            ready = [
                replace(j, payload=Payload(
                    plan.experiment, material.of(j.config["arm"]), options.threads, kept
                ))
                for j in todo
            ]  # fmt: skip
            code, failed = _perform(plan, ready, store, options, runs)
        _report(plan, _teacher_file(plan, data), runs, _missing(plan, runs, failed), options)
    except OSError as error:  # the disk is full, say; finished runs are kept
        print(f"b2m {command}: {error}", file=sys.stderr)
        return USAGE
    return code


def _missing(
    plan: Plan, runs: dict[str, dict[int, Any]], failed: dict[tuple[str, int], str]
) -> list[dict[str, Any]]:
    """Runs that were asked for and have no result: arm, seed, and why it failed, if it did."""
    return [
        {"arm": arm, "seed": seed, "failed": failed.get((arm, seed))}
        for arm in plan.arms
        for seed in plan.seeds
        if seed not in runs[arm]
    ]


def _note_teacher(plan: Plan, data: str, report: dict[str, Any]) -> None:
    """Keep what is known of the teachers, with what was known of those of arms run before."""
    from b2m_fast.data.files import write_atomically  # noqa: PLC0415

    path = _teacher_file(plan, data)
    with suppress(FileNotFoundError, ValueError):
        before = json.loads(path.read_text())
        words = dict.fromkeys([*before.get("words", []), *report.get("words", [])])
        report = before | report | ({"words": list(words)} if words else {})
    write_atomically(path, json.dumps(report, indent=1) + "\n")


def _teacher_file(plan: Plan, data: str) -> Path:
    """What is known of the teachers of an experiment; other settings have a file of their own."""
    from b2m_fast.data.files import digest  # noqa: PLC0415

    of = digest([json.loads(json.dumps(asdict(plan.experiment))), data])
    return plan.out / "teachers" / f"report-{of}.json"


class _NoBar:
    """A progress bar that only passes messages on."""

    def update(self) -> None: ...

    def set_postfix_str(self, text: str) -> None: ...

    def write(self, text: str, file: Any) -> None:
        print(text, file=file, flush=True)

    def close(self) -> None: ...


def _bar(total: int, unit: str, *, quiet: bool) -> Any:
    """A progress bar; none if it is not wanted, or if tqdm is not there."""
    if quiet:
        return _NoBar()
    try:
        from tqdm import tqdm  # noqa: PLC0415
    except ImportError:
        print("no progress bar without tqdm (pip install 'b2m-fast[transfer]')", file=sys.stderr)
        return _NoBar()
    return tqdm(total=total, unit=unit, dynamic_ncols=True)


def _perform(
    plan: Plan, ready: list[Any], store: Any, options: argparse.Namespace,
    runs: dict[str, dict[int, Any]],
) -> tuple[int, dict[tuple[str, int], str]]:  # fmt: skip
    """Run jobs under a progress bar; results go into `runs`. Exit code, and why runs failed."""
    from b2m_fast.experiments.runs import perform  # noqa: PLC0415

    code, done = OK, 0
    failed: dict[tuple[str, int], str] = {}
    bar = _bar(len(ready) * plan.ticks, plan.unit, quiet=options.quiet)
    outcomes = perform(plan.lab.run, ready, store, workers=options.workers, tick=bar.update)
    try:
        for outcome in outcomes:
            name, config = outcome.job.name, outcome.job.config
            if outcome.result is None:
                code, failed[config["arm"], config["seed"]] = FAILED, outcome.reason
                start = " " if outcome.error == outcome.reason else "\n"
                bar.write(f"{name} FAILED:{start}{outcome.error}", file=sys.stderr)
                continue
            done += 1
            shutil.rmtree(outcome.job.payload.folder(outcome.job), ignore_errors=True)
            runs[config["arm"]][config["seed"]] = outcome.result
            bar.set_postfix_str(f"{done}/{len(ready)} runs; {name} {plan.glance(outcome.result)}")
    except KeyboardInterrupt:
        code, done = INTERRUPTED, 0
        for job in ready:  # the last one may have been stored and not yet handed over
            if (result := store.load(job)) is not None:
                runs[job.config["arm"]][job.config["seed"]] = result
                done += 1
    finally:
        outcomes.close()
        bar.close()
    with suppress(OSError):  # not there, or not empty: runs that can go on
        (plan.out / "checkpoints").rmdir()
    if code == INTERRUPTED:
        print(f"stopped: {done} of {len(ready)} runs finished and kept; "
              "the same command goes on from here", file=sys.stderr)  # fmt: skip
    return code, failed


# --------------------------------------------------------------------------------------------------
# Results
# --------------------------------------------------------------------------------------------------
def _report(
    plan: Plan, stored: Path, runs: dict[str, dict[int, Any]],
    missing: Sequence[dict[str, Any]], options: argparse.Namespace,
) -> None:  # fmt: skip
    """Write and print what there is, and name what there is not."""
    from b2m_fast.experiments import provenance  # noqa: PLC0415
    from b2m_fast.experiments.tables import missing_words  # noqa: PLC0415

    runs = {arm: seeds for arm, seeds in runs.items() if seeds}
    if not runs:
        print("no run finished: nothing to report")
        return
    teacher = json.loads(stored.read_text()) if stored.is_file() else {}
    words = [*missing_words(missing), *plan.report.sentences(runs, plan.settings, teacher)]
    full = {
        "command": plan.command,
        "experiment": asdict(plan.experiment),
        "settings": plan.settings,
        "versions": provenance.versions(),
        "machine": provenance.machine(options.threads) | {"workers": options.workers},
        "teacher": teacher,
        "summary": plan.report.summarise(runs, plan.settings),
        "words": words,
        "missing": missing,
        "runs": [r for seeds in runs.values() for r in seeds.values()],
    }
    write_results(plan.out, plan.title, plan.report, runs, plan.settings, words, full)


def write_results(
    out: Path, title: str, report: Any, runs: dict[str, dict[int, Any]],
    settings: dict[str, Any], words: Sequence[str], full: dict[str, Any],
) -> None:  # fmt: skip
    """Write and print tables, words and figure; `full` becomes results.json."""
    from b2m_fast.data.files import write_atomically  # noqa: PLC0415
    from b2m_fast.experiments.former import as_json  # noqa: PLC0415

    table = report.markdown(runs, settings)
    bullets = "".join(f"- {line}\n" for line in words)
    write_atomically(out / "results.json", as_json(full))
    write_atomically(out / "results.md", f"# {title}\n\n{table}\n{bullets}")
    print(f"\n{title}\n\n{table}")
    print("What this shows:\n" + bullets)
    try:
        write_atomically(out / "results.png", report.figure(runs, settings, title))
    except ImportError as error:
        print(error, file=sys.stderr)
    print(f"Written: {out / 'results.md'}, results.json, results.png")
