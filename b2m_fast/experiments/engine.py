"""What every experiment does: choose settings, prepare the teachers, run what is missing, report what there is.

settings -> fingerprint of what is read -> teachers, once -> runs (arm, seed), each a file named by a hash -> report
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import shutil
import sys
import tempfile
from dataclasses import MISSING, asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from b2m_fast._registry import has
from b2m_fast.data.files import DataError, data_root, digest, fingerprint, write_atomically
from b2m_fast.experiments.runs import Job, RunStore, machine, perform, versions
from b2m_fast.experiments.settings import (
    Field,
    add_options,
    by_name,
    choose,
    defaults_text,
    given_names,
    given_settings,
    make,
    plain,
    presets,
    read_config,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from b2m_fast._registry import Registry
    from b2m_fast.experiments.contract import Context, Experiment, Run, Runs, Settings

__all__ = ["FAILED", "INTERRUPTED", "OK", "USAGE", "Plan", "execute", "main", "parser", "plan"]

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

OUTCOME = """\
what comes out, in --out
  results.md    tables: means, paired differences with 95 % intervals, and a verdict in words
  results.json  settings, versions, machine, quality of the teacher, every run, and which are missing and why
  results.png   figure
                these three are of the last command; `b2m report DIR` makes them again
  runs/         one file a finished run, named after arm, seed and a hash of all that decides its result: other settings in
                the same --out overwrite nothing, and the old ones find their runs again
  teachers/     what is known of the teachers, and networks that teach
  checkpoints/  runs under way, from which they go on; gone when all are done

exit codes
  0 all runs done   1 a run failed   2 wrong arguments, missing data, results that cannot be written
  130 stopped by Ctrl-C
"""


# --------------------------------------------------------------------------------------------------
# From the command line to a plan
# --------------------------------------------------------------------------------------------------
def parser(experiment: Experiment[Any]) -> argparse.ArgumentParser:
    """Return the command's parser, made of the experiment's settings, arms and presets."""
    arms = "\n".join(
        f"  {name:16} {item.help}" for name, item in experiment.arms.listings().items()
    )
    chosen = "\n".join(
        f"{name.rpartition('.')[2]}\n"
        + "\n".join(f"  {n:26} {item.help}" for n, item in registry.listings(**facts).items())
        for name, (registry, facts) in experiment.choices.items()
    )
    examples = "\n".join(
        f"  {item['command']}\n      {item['says']}"
        for item in presets(experiment.presets).get("example", ())
        if item["command"].startswith(f"b2m {experiment.command}")
    )
    made = argparse.ArgumentParser(
        prog=f"b2m {experiment.command}",
        description=experiment.purpose,
        epilog=f"arms\n{arms}\n\n{chosen}\n  one of your own: FILE.py:NAME or PACKAGE.MODULE:NAME, for arms too\n\n"
        f"examples\n{examples}\n\n{OUTCOME}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    which = made.add_argument_group("which runs")
    which.add_argument("--data", metavar="DIR", help="your recordings (default: $B2M_DATA)")
    arms, seeds = (
        defaults_text(experiment, Field(name, Any, MISSING, ""), otherwise)
        for name, otherwise in (("arms", "all"), ("seeds", experiment.seeds_text))
    )
    which.add_argument("--arms", nargs="+", metavar="ARM", help=f"see below ({arms})")
    which.add_argument("--seeds", nargs="+", type=int, metavar="N", help=f"({seeds})")
    which.add_argument("--out", metavar="DIR", help="(default: below b2m-results/)")
    add_options(made, experiment)
    group = made.add_argument_group("machine")
    workers = experiment.workers or min(2, os.cpu_count() or 1)
    for flag, count, text in (
        ("--workers", workers, "runs at a time, each a process"),
        ("--threads", 1, "threads a run"),
        ("--devices", 1, "only 1 so far"),
    ):
        said = f"{text} (default: {count})"
        group.add_argument(flag, type=_positive, metavar="N", default=count, help=said)
    for flag, names, text in (
        ("--accelerator", ("cpu", "cuda", "auto"), "where torch computes"),
        ("--precision", ("32-true", "bf16-mixed"), "of training"),
    ):
        group.add_argument(
            flag, choices=names, default=names[0], help=f"{text} (default: {names[0]})"
        )
    group.add_argument("--quiet", action="store_true", help="no progress bar")
    return made


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


@dataclass(frozen=True)
class Plan:
    """An experiment with everything decided, and nothing done yet."""

    experiment: Experiment[Any]
    settings: Settings
    arms: list[str]
    seeds: list[int]
    out: Path
    context: Context
    # the user's own things by registry, with the hash of their source; and those that are arms, by arm
    sources: dict[str, dict[str, str]]
    arm_sources: dict[str, dict[str, str]]
    fingerprint: str
    workers: int = 1
    quiet: bool = False

    def jobs(self) -> list[Job]:
        """Return a job for each seed and arm, seeds outermost, so that whole comparisons finish first."""
        common = plain(self.settings) | {
            "data": self.fingerprint,
            "method_version": self.settings.method_version,
            "accelerator": self.context.accelerator,
            "precision": self.context.precision,
        }
        return [
            Job(
                f"{_file_name(arm)}-seed{seed}",
                common | {"arm": arm, "seed": seed, "sources": self.sources_of(arm)},
            )
            for seed in self.seeds
            for arm in self.arms
        ]

    def sources_of(self, arm: str) -> dict[str, dict[str, str]]:
        """Return the user's own things that a run of an arm uses, by registry, and the hash of their source."""
        own = self.arm_sources.get(arm)
        return self.sources | ({"arm": own} if own else {})


def _file_name(arm: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in arm)


def plan(experiment: Experiment[Any], argv: Sequence[str]) -> Plan:
    """Return what a command line asks for.

    Raises
    ------
    ValueError, DataError, ImportError, OSError
        For what is impossible, would be ignored, or is not there. Nothing has been trained or written then.
    """
    from b2m_fast.experiments.contract import Context

    options = parser(experiment).parse_args(list(argv))
    given = given_settings(experiment, options)
    config = read_config(Path(options.config).expanduser()) if options.config else {}
    top = {k: v for k, v in (("arms", options.arms), ("seeds", options.seeds)) if v is not None}
    chosen = choose(experiment, given | top, config)
    arms = experiment.possible_arms(chosen.settings) if chosen.arms is None else chosen.arms
    sources = _sources(experiment, chosen.settings)
    _check_kinds(experiment, chosen.settings)
    arm_sources = {
        _label(experiment, arm): experiment.arms.source(arm)
        for arm in experiment.registered(chosen.settings, arms)
    }
    names = given_names(experiment, (given, config)) | ({"data"} if options.data else set())
    if lost := sorted(names & given_names(experiment, (dict(experiment.fixed),))):
        raise ValueError(f"{', '.join(lost)}: this is decided by b2m {experiment.command} itself")
    if options.devices > 1:
        raise ValueError(f"--devices {options.devices}: one device so far")
    if options.precision != "32-true" and not experiment.trains:
        raise ValueError(f"--precision {options.precision}: no network is trained here")
    if options.data:
        data_root(options.data)
    default = Path("b2m-results") / _file_name(experiment.folder(chosen.settings))
    out = Path(options.out or default).expanduser()
    check_writable(out)
    context = Context(
        data=Path(options.data).expanduser() if options.data else None,
        folder=out / "teachers",
        threads=options.threads,
        accelerator=_accelerator(options.accelerator),
        precision=options.precision,
        devices=options.devices,
        log=(lambda _: None) if options.quiet else (lambda text: print(f"  {text}", flush=True)),
    )
    arms = [_label(experiment, arm) for arm in arms]
    experiment.refuse(chosen.settings, arms, names)
    arms = experiment.expand(chosen.settings, arms, context)
    inputs = experiment.reads(chosen.settings, arms, context)
    if options.data and not inputs.files and not sources:
        raise ValueError(
            f"--data {options.data}: nothing of this command is read from files; name a brain or task of yours"
        )
    found = [fingerprint(inputs.files), *inputs.digests]
    return Plan(
        experiment,
        chosen.settings,
        arms,
        chosen.seeds,
        out,
        context,
        sources,
        arm_sources,
        found[0] if len(found) == 1 else digest(found),
        options.workers,
        options.quiet,
    )


def _accelerator(wanted: str) -> Any:
    """Return "cpu" or "cuda"; raise ValueError where CUDA was asked for and is not there."""
    if wanted == "cpu":
        return wanted
    import torch

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ValueError("--accelerator cuda, but PyTorch finds no CUDA device")
    return "cuda" if there else "cpu"


def _label(experiment: Experiment[Any], arm: str) -> str:
    """Return an arm's name in results: a user's own, which is a control, by the name it registered, any other as it is."""
    if ":" not in arm:
        return arm
    entry = experiment.arms.get(arm)
    if (role := entry.about.get("role", "control")) != "control":
        raise ValueError(f"--arms {arm}: an arm of one's own is a control, not role={role!r}")
    return entry.name


def _registries(experiment: Experiment[Any]) -> dict[str, Registry[Any]]:
    found = {registry.decorator: registry for registry, _ in experiment.choices.values()}
    return found | {"arm": experiment.arms}


def _sources(experiment: Experiment[Any], settings: Settings) -> dict[str, dict[str, str]]:
    """Return the hash or version of everything that settings name and that is not built in, by registry."""
    found: dict[str, dict[str, str]] = {}
    for registry, name in experiment.chosen(settings):
        if source := registry.source(name):
            found.setdefault(registry.decorator, {}).update(source)
    return found


def _check_kinds(experiment: Experiment[Any], settings: Settings) -> None:
    """Raise ValueError where settings name a data set, task or student of another kind than the experiment needs."""
    for setting, (registry, facts) in experiment.choices.items():
        name = by_name(settings)[setting]
        about = {} if name is None else registry.about(name)
        if not has(about, facts):
            its, needed = (_either(facts_["kind"]) for facts_ in (about, facts))
            there = ", ".join(registry.listings(**facts))
            given = f"{experiment.option(setting)} {name} is of the kind {its}"
            raise ValueError(f"{given}; this needs {needed}: {there}, or one of your own")


def _either(kinds: str | tuple[str, ...]) -> str:
    return kinds if isinstance(kinds, str) else " or ".join(kinds)


def check_writable(path: Path) -> None:
    """Raise OSError unless files can be written to a folder, or to where it would be made."""
    there = next((p for p in (path, *path.absolute().parents) if p.exists()), path)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(f"{path} cannot be written to: {error.strerror}") from None


# --------------------------------------------------------------------------------------------------
# From a plan to results
# --------------------------------------------------------------------------------------------------
def main(experiment: Experiment[Any], argv: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    try:
        return execute(plan(experiment, argv))
    except (DataError, ImportError, ValueError, OSError) as error:
        print(f"b2m {experiment.command}: {error}", file=sys.stderr)
        return USAGE


def execute(todo: Plan) -> int:
    """Run what is missing of an experiment, and report what there is; return the exit code."""
    from b2m_fast.experiments.report import Results, write

    store = RunStore(todo.out / "runs")
    runs: Runs = {arm: {} for arm in todo.arms}
    waiting: list[Job] = []
    for job in todo.jobs():
        result = store.load(job)
        if result is None:
            waiting.append(job)
        else:
            runs[job.config["arm"]][job.config["seed"]] = result
    count = len(todo.arms) * len(todo.seeds)
    todo.context.log(
        f"{count} runs: {len(waiting)} to do, {count - len(waiting)} found in {todo.out}"
    )
    code, report = OK, {}
    failed: dict[tuple[str, int], str] = {}
    if waiting:
        todo.context.log("preparing the teachers ...")
        prepared = todo.experiment.prepare(todo.settings, todo.arms, todo.context)
        report = _note_teacher(todo, dict(prepared.report))
        parts = {arm: pickle.dumps(prepared.of(arm)) for arm in {j.config["arm"] for j in waiting}}
        ready = [replace(job, payload=_payload(todo, parts, job)) for job in waiting]
        code, failed = _perform(todo, ready, store, runs)
    there = {arm: seeds for arm, seeds in runs.items() if seeds}
    if not there:
        print("no run finished: nothing to report")
        return code
    missing = [
        {"arm": arm, "seed": seed, "failed": failed.get((arm, seed))}
        for arm in todo.arms
        for seed in todo.seeds
        if seed not in runs[arm]
    ]
    where = {"accelerator": todo.context.accelerator, "precision": todo.context.precision}
    made_on = machine(todo.context.threads) | {"workers": todo.workers} | where
    made_with = {"versions": versions(), "machine": made_on}
    teacher = _note_teacher(todo, report)
    write(Results(todo.experiment, todo.settings, there, missing, teacher, made_with), todo.out)
    return code


@dataclass(frozen=True)
class _Payload:
    """What a worker needs to do a run (picklable; user's objects only inside `prepared`)."""

    command: str
    settings: dict[str, Any]
    sources: dict[str, dict[str, str]]
    prepared: bytes
    context: dict[str, Any]


def _payload(todo: Plan, parts: dict[str, bytes], job: Job) -> _Payload:
    context = {k: v for k, v in asdict(todo.context).items() if k not in {"tick", "log"}}
    return _Payload(
        todo.experiment.reference,
        plain(todo.settings),
        todo.sources_of(job.config["arm"]),
        parts[job.config["arm"]],
        context | {"folder": todo.out / "checkpoints" / job.key},
    )


def run_job(job: Job, tick: Callable[[], object]) -> Run:
    """Do one run, in this process or in a worker of its own."""
    import torch

    from b2m_fast.experiments import experiment as registry
    from b2m_fast.experiments.contract import Context

    given: _Payload = job.payload
    made = registry.get(given.command).make()
    known = _registries(made)
    for kind, names in given.sources.items():
        for name, source in names.items():
            if known[kind].source(name) != {name: source}:
                raise ValueError(f"{name} was changed while the command ran: start it again")
            known[kind].get(name)
    torch.set_num_threads(given.context["threads"])
    settings = make(made.settings, given.settings)
    context = Context(tick=tick, **given.context)
    arm, seed = job.config["arm"], job.config["seed"]
    result = made.run(settings, pickle.loads(given.prepared), arm, seed, context)  # noqa: S301
    made_with = {"versions": versions(), "machine": machine(context.threads)}
    return {"arm": arm, "seed": seed, **result, **made_with}


def _note_teacher(todo: Plan, report: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of the teachers, with what was known of those of arms run before, and keep it.

    Other settings have a file of their own.
    """
    name = digest([plain(todo.settings), todo.fingerprint])
    path = todo.out / "teachers" / f"report-{name}.json"
    with contextlib.suppress(FileNotFoundError, ValueError):
        before = json.loads(path.read_text())
        words = dict.fromkeys([*before.get("words", []), *report.get("words", [])])
        report = before | report | ({"words": list(words)} if words else {})
    if report:
        write_atomically(path, json.dumps(report, indent=1) + "\n")
    return report


def _perform(
    todo: Plan, ready: list[Job], store: RunStore, runs: Runs
) -> tuple[int, dict[tuple[str, int], str]]:
    """Do runs under a progress bar, results into `runs`; return the exit code, and why runs failed."""
    from tqdm import tqdm

    code, done = OK, 0
    failed: dict[tuple[str, int], str] = {}
    total = len(ready) * todo.experiment.ticks(todo.settings)
    bar = tqdm(total=total, unit=todo.experiment.unit, dynamic_ncols=True, disable=todo.quiet)
    outcomes = perform(run_job, ready, store, workers=todo.workers, tick=bar.update)
    try:
        for outcome in outcomes:
            name, config = outcome.job.name, outcome.job.config
            if outcome.result is None:
                code, failed[config["arm"], config["seed"]] = FAILED, outcome.reason
                start = " " if outcome.error == outcome.reason else "\n"
                bar.write(f"{name} FAILED:{start}{outcome.error}", file=sys.stderr)
                continue
            done += 1
            shutil.rmtree(outcome.job.payload.context["folder"], ignore_errors=True)
            runs[config["arm"]][config["seed"]] = outcome.result
            value = todo.experiment.brief(outcome.result)
            shown = "-" if value is None else f"{value:.3f}"
            bar.set_postfix_str(f"{done}/{len(ready)} runs; {name} {shown}")
    except KeyboardInterrupt:
        code, done = INTERRUPTED, 0
        for job in ready:  # the last one may have been stored and not yet handed over
            if (result := store.load(job)) is not None:
                runs[job.config["arm"]][job.config["seed"]] = result
                done += 1
    finally:
        outcomes.close()
        bar.close()
    with contextlib.suppress(OSError):  # not there, or not empty: runs that can go on
        (todo.out / "checkpoints").rmdir()
    if code == INTERRUPTED:
        print(
            f"stopped: {done} of {len(ready)} runs finished and kept; the same command goes on from here",
            file=sys.stderr,
        )
    return code, failed
