"""Reports: numbers, tables, words and one verdict, all made from an experiment's measures and the roles of its arms.

``results.json`` holds everything, every run included; `load` reads it, `main` (``b2m report``) makes the other files from it again.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from b2m_fast.data.files import DataError, write_atomically
from b2m_fast.evaluate.convergence import FEWEST, log_rank, median_ratio, median_step
from b2m_fast.experiments import experiment as registry
from b2m_fast.experiments.contract import finite
from b2m_fast.experiments.settings import choose, fields, make, plain
from b2m_fast.experiments.statistics import Interval, paired_difference, t_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from b2m_fast.evaluate.convergence import MedianRatio
    from b2m_fast.experiments.contract import Experiment, Measure, Run, Runs

__all__ = [
    "Stored",
    "difference",
    "difference_cell",
    "favours",
    "load",
    "main",
    "markdown",
    "mean",
    "mean_cell",
    "summarise",
    "table",
    "words",
    "write",
]

TIMES = (
    "Reached: seeds that met the criterion; the others are censored, and a median they hide is marked >. Ratio: of medians, arm "
    "/ baseline, with a 95 % interval from a bootstrap paired over seeds; its ends hold whatever the censored seeds would have "
    f"done; * marks an interval that excludes 1, from {FEWEST} seeds on: fewer are too few for it to mean anything. p: log-rank "
    "test, unpaired, not corrected for the number of arms."
)
NOT_SHOWN = "that it is the brain that helps is not shown"


# --------------------------------------------------------------------------------------------------
# Numbers
# --------------------------------------------------------------------------------------------------
def _common(runs: Runs, arm: str, base: str) -> list[int]:
    """Return the seeds that two arms have in common."""
    return sorted(set(runs.get(arm, {})) & set(runs.get(base, {})))


def mean(runs: Runs, arm: str, measure: Measure) -> Interval | None:
    """Return the mean of a value over the seeds of an arm; None if no run has it."""
    found = [v for v in map(measure.of, runs[arm].values()) if math.isfinite(v)]
    return t_interval(found, correlation=measure.correlation) if found else None


def difference(
    runs: Runs, arm: str, base: str, measure: Measure, level: float = 0.95
) -> Interval | None:
    """Return the mean difference arm - base of a value over the seeds that have it in both; None if there are none."""
    pairs = [
        pair
        for s in _common(runs, arm, base)
        if all(map(math.isfinite, pair := (measure.of(runs[arm][s]), measure.of(runs[base][s]))))
    ]
    if not pairs:
        return None
    first, second = zip(*pairs, strict=True)
    return paired_difference(first, second, level, correlation=measure.correlation)


def _paired_times(runs: Runs, arm: str, base: str, measure: Measure) -> tuple[list[Any], list[Any]]:
    """Return the times of two arms, for the seeds that both have."""
    seeds = _common(runs, arm, base)
    return [measure.of(runs[arm][s]) for s in seeds], [measure.of(runs[base][s]) for s in seeds]


def _ratio(runs: Runs, arm: str, base: str, measure: Measure) -> MedianRatio | None:
    """Return the ratio of median times; None without common seeds, or where the baseline needs no training at all."""
    first, second = _paired_times(runs, arm, base, measure)
    if not first or any(t.step == 0 for t in second):
        return None
    return median_ratio(first, second)


def favours(runs: Runs, arm: str, base: str, measure: Measure) -> int:
    """Return 1 where an arm is better than another by the measure's interval, -1 where worse, 0 where not told apart."""
    if measure.kind == "time":
        ratio = _ratio(runs, arm, base, measure)
        return 0 if ratio is None or not ratio.excludes_one else 1 if ratio.high < 1 else -1
    found = difference(runs, arm, base, measure, measure.level)
    if found is None or not found.excludes_zero:
        return 0
    return 1 if (found.mean > 0) == (measure.better == "higher") else -1


def _interval_json(interval: Interval | None) -> dict[str, Any] | None:
    if interval is None:
        return None
    low, high = finite(interval.low), finite(interval.high)
    return {"mean": interval.mean, "low": low, "high": high, "n": interval.n}


def summarise(experiment: Experiment[Any], settings: Any, runs: Runs) -> dict[str, Any]:
    """Return means, differences, steps to the criterion and their ratios, and the experiment's own numbers, as JSON holds them."""
    measures = experiment.measures(settings, runs)
    values = [m for m in measures if m.kind == "value"]
    pairs = experiment.contrasts(settings, list(runs))
    out: dict[str, Any] = {
        "means": {a: {m.label: _interval_json(mean(runs, a, m)) for m in values} for a in runs},
        "differences": {
            f"{a} - {b}": {m.label: _interval_json(difference(runs, a, b, m)) for m in values}
            for a, b in pairs
        },
    }
    for measure in (m for m in measures if m.kind == "time"):
        out |= {"steps": {}, "ratios": {}}
        for arm, seeds in runs.items():
            times = list(map(measure.of, seeds.values()))
            reached = sum(not t.censored for t in times)
            median = finite(median_step(times))
            out["steps"][arm] = {"median": median, "reached": reached, "seeds": len(times)}
        for arm, base in pairs:
            ratio = _ratio(runs, arm, base, measure)
            out["ratios"][f"{arm} / {base}"] = (
                None
                if ratio is None
                else {
                    "ratio": finite(ratio.ratio),
                    "low": finite(ratio.low),
                    "high": finite(ratio.high),
                    "n": ratio.n,
                    "p_log_rank": log_rank(*_paired_times(runs, arm, base, measure)),
                }
            )
    return out | experiment.extra_summary(settings, runs)


# --------------------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------------------
def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in (head, *rows)
    ]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]


def mean_cell(interval: Interval | None, digits: int = 3) -> str:
    """Return a mean with its interval as a table's cell: ``0.571 [0.540, 0.602]``."""
    if interval is None:
        return "-"
    text = f"{interval.mean:.{digits}f}"
    ends = f" [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
    return text + (ends if interval.n > 1 else "")


def difference_cell(interval: Interval | None, digits: int = 3) -> str:
    """Return a difference as a table's cell, with a star where the interval excludes 0: ``+0.031 [+0.002, +0.060] *``."""
    if interval is None:
        return "-"
    text = f"{interval.mean:+.{digits}f}"
    if interval.n > 1:
        text += f" [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"
    return text + (" *" if interval.excludes_zero else "")


def _ratio_cell(ratio: MedianRatio | None) -> str:
    if ratio is None:
        return "-"
    text = f"{ratio.ratio:.2f}" if math.isfinite(ratio.ratio) else "?"
    ends = f" [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio.n > 1 else ""
    return text + ends + (" *" if ratio.excludes_one else "")


def _time_tables(runs: Runs, measure: Measure, pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Return the blocks about times: what they are, medians, ratios."""
    rows = []
    for arm, seeds in runs.items():
        times = list(map(measure.of, seeds.values()))
        median = median_step(times)
        text = f"{median:.0f}" if math.isfinite(median) else f"> {max(t.step for t in times)}"
        rows.append([arm, str(len(times)), str(sum(not t.censored for t in times)), text])
    head = ["arm", "seeds", "reached", f"median {measure.label.partition(' to ')[0]}"]
    out = [[f"{measure.note} {TIMES}".strip()], table(head, rows)]
    rows = []
    for arm, base in pairs:
        both = _paired_times(runs, arm, base, measure)
        p = f"{log_rank(*both):.3g}" if len(both[0]) > 1 else "-"
        rows.append([f"{arm} / {base}", _ratio_cell(_ratio(runs, arm, base, measure)), p])
    return out + ([table([measure.label, "ratio of medians", "p"], rows)] if rows else [])


def markdown(
    experiment: Experiment[Any], settings: Any, runs: Runs, made_with: dict[str, Any] | None = None
) -> str:
    """Return the head and the tables of a report: times, means, differences, and the experiment's own."""
    measures = experiment.measures(settings, runs)
    values = [m for m in measures if m.kind == "value"]
    pairs = experiment.contrasts(settings, list(runs))
    blocks = [[text] for text in _head(experiment, settings, runs, made_with or {})]
    for measure in (m for m in measures if m.kind == "time"):
        blocks += _time_tables(runs, measure, pairs)
    notes = [f"{m.label}: {m.note}" for m in values if m.note]
    blocks.append([" ".join([experiment.means_text, *notes, *experiment.notes(settings, runs)])])
    rows = [
        [arm, str(len(runs[arm]))]
        + [mean_cell(i, m.digits).partition(" ")[0] for m in values for i in [mean(runs, arm, m)]]
        for arm in runs
    ]
    blocks.append(table(["arm", "seeds", *(m.label for m in values)], rows))
    rows = [
        [f"{a} - {b}", *(difference_cell(difference(runs, a, b, m), m.digits) for m in values)]
        for a, b in pairs
    ]
    if rows:
        blocks.append([experiment.differences_text])
        blocks.append(table(["difference", *(m.label for m in values)], rows))
    for own in experiment.tables(settings, runs):
        blocks += [[own.text], table(own.head, own.rows)]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _head(
    experiment: Experiment[Any], settings: Any, runs: Runs, made_with: dict[str, Any]
) -> list[str]:
    """Return what was asked, the command and the machine, as paragraphs."""
    seeds = sorted({seed for of in runs.values() for seed in of})
    out = [
        experiment.purpose.strip(),
        f"`{command_line(experiment, settings)}`; arms: {len(runs)}; seeds: {' '.join(map(str, seeds))}.",
    ]
    if machine := made_with.get("machine"):
        versions = (
            f"{k} {v}"
            for k, v in made_with.get("versions", {}).items()
            if k in {"python", "b2m-fast", "torch"}
        )
        where = "a GPU" if machine.get("accelerator") == "cuda" else "the CPU"
        out.append(
            f"Made on {machine['cpu']}, {machine['cores']} cores, threads a run: {machine['threads_per_run']}; "
            f"{', '.join(versions)}. PyTorch computed on {where} ({machine.get('precision', '32-true')}); what scikit-learn "
            "and SciPy compute is always computed on the CPU."
        )
    return [text for text in out if text]


def command_line(experiment: Experiment[Any], settings: Any) -> str:
    """Return the command with the options and settings that make it differ from its presets."""
    flags = {name: flag for group in experiment.options.values() for flag, name in group.items()}
    value = {f.name: attrgetter(f.name)(settings) for f in fields(type(settings))}
    tree: dict[str, Any] = {}
    for name in experiment.choices:
        place = tree
        *outer, last = name.split(".")
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = plain(value[name])
    try:
        preset = choose(experiment, tree).settings
    except ValueError:  # what is chosen cannot go with the presets' other settings
        preset = None
    words = ["b2m", experiment.command]
    for name, found in value.items():
        same = preset is not None and found == attrgetter(name)(preset)
        if name in experiment.fixed or found is None or (same and name not in experiment.choices):
            continue
        flag = flags.get(name)
        if flag is None:
            words += ["--set", f"{name}={json.dumps(plain(found))}"]
        elif isinstance(found, bool):
            words.append(flag if found else f"--no-{flag[2:]}")
        else:
            parts = found if isinstance(found, tuple) else (found,)
            words += [flag, *(f"{x:g}" if isinstance(x, float) else str(x) for x in parts)]
    return " ".join(words[:2]) + "".join(f" {shlex.quote(w)}" for w in words[2:])


# --------------------------------------------------------------------------------------------------
# Words
# --------------------------------------------------------------------------------------------------
def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"


def words(
    experiment: Experiment[Any],
    settings: Any,
    runs: Runs,
    *,
    missing: Sequence[dict[str, Any]] = (),
    teacher: dict[str, Any] | None = None,
) -> list[str]:
    """Return what the results say as sentences: missing runs, the teacher, each comparison, the verdict."""
    measures = experiment.measures(settings, runs)
    out = [*_missing_words(missing), *(teacher or {}).get("words", [])]
    for arm, base in experiment.told(settings, experiment.contrasts(settings, list(runs))):
        said = [_time_words(runs, arm, base, m) for m in measures if m.kind == "time"]
        said.append(_value_words(runs, arm, base, [m for m in measures if m.kind == "value"]))
        if text := " ".join(filter(None, said)):
            out.append(text)
    return out + experiment.words(settings, runs) + _verdict(experiment, settings, runs, measures)


def _missing_words(missing: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence for each arm and each reason why runs that were asked for have no result."""
    groups: dict[tuple[str, str], list[str]] = {}
    for run in missing:
        reason = run["failed"] or "stopped before its end"
        groups.setdefault((run["arm"], reason), []).append(str(run["seed"]))
    return [
        f"MISSING: {arm}, seed {', '.join(seeds)}: {reason.rstrip('.')}. Nothing here is about these runs."
        for (arm, reason), seeds in groups.items()
    ]


def _time_words(runs: Runs, arm: str, base: str, measure: Measure) -> str:
    """Return how many times as long an arm takes as another; empty with fewer than two seeds."""
    ratio = _ratio(runs, arm, base, measure)
    if ratio is None or ratio.n < 2:
        return ""
    times = f"{ratio.ratio:.2f} times" if math.isfinite(ratio.ratio) else "an unknown multiple of"
    end = "" if ratio.excludes_one else ": not told apart"
    if ratio.n < FEWEST:
        end = f": {_seeds(ratio.n)} are too few to tell"
    ends = f"[{ratio.low:.2f}, {ratio.high:.2f}]"
    return f"{arm} needs {times} the {measure.label} of {base} {ends}{end}."


def _value_words(runs: Runs, arm: str, base: str, measures: Iterable[Measure]) -> str:
    """Return in which values an arm is higher or lower than another; empty if there is nothing to compare."""
    groups: dict[str, list[Measure]] = {"higher": [], "lower": [], "not told apart": []}
    seeds = 0
    for measure in measures:
        found = difference(runs, arm, base, measure) if measure.better else None
        if found is not None:
            seeds = max(seeds, found.n)
            sign = "higher" if found.mean > 0 else "lower"
            groups[sign if found.excludes_zero else "not told apart"].append(measure)
    parts = [f"{word} {_where(found)}" for word, found in groups.items() if found]
    if seeds == 1:
        parts = ["one seed only, so nothing can be said about chance"]
    return f"{arm} against {base}: {'; '.join(parts)} ({_seeds(seeds)})." if parts else ""


def _where(measures: Sequence[Measure]) -> str:
    """Return the names of values: ``in accuracy, ssim`` or ``at n = 10, n = 20``."""
    names = ", ".join(m.label for m in measures)
    if any(m.at is None for m in measures):
        return f"in {names}"
    what = measures[0].label.partition("= ")
    return f"at {names.replace(f', {what[0]}= ', ', ') if what[1] else names}"


def _claim(measures: Sequence[Measure], sign: int) -> str:
    """Return in what an arm is better (sign 1) or worse: ``faster (steps to criterion) and better in accuracy``."""
    times = [m.label for m in measures if m.kind == "time"]
    others = [m for m in measures if m.kind != "time"]
    parts = [f"{'faster' if sign > 0 else 'slower'} ({', '.join(times)})"] if times else []
    parts += [f"{'better' if sign > 0 else 'worse'} {_where(others)}"] if others else []
    return " and ".join(parts)


def _verdict(
    experiment: Experiment[Any], settings: Any, runs: Runs, measures: Sequence[Measure]
) -> list[str]:
    """Return one sentence: is the tested arm better than the baseline, and than every control, in the same measures."""
    roles = {arm: experiment.roles(settings).get(arm, "control") for arm in runs}
    tested, bases, controls = (
        [arm for arm, r in roles.items() if r == role] for role in ("tested", "baseline", "control")
    )
    decisive = [m for m in measures if m.decides]
    if len(tested) != 1 or len(bases) != 1 or not decisive:
        return []
    arm, base = tested[0], bases[0]
    if (few := len(_common(runs, arm, base))) < FEWEST:
        start = f"In short: {_seeds(few)} {'is' if few == 1 else 'are'} too few for a verdict"
        return [f"{start}; it takes {FEWEST}."]
    gains = {
        other: [m for m in decisive if favours(runs, arm, other, m) > 0]
        for other in (base, *controls)
    }
    better = gains.pop(base)
    losses = [m for m in decisive if favours(runs, arm, base, m) < 0]
    if not better:
        text = f"{arm} is not shown to be better than {base} {_where(decisive)}"
        if losses:
            text += f"; it is {_claim(losses, -1)}"
        beaten = [f"{c} ({_where(found)})" for c, found in gains.items() if found]
        if beaten:
            rest = [c for c, found in gains.items() if not found]
            text += f"; of its controls it is better than {', '.join(beaten)}"
            text += f", not than {', '.join(rest)}" if rest else ""
        return [f"In short: {text}."]
    sure = [m for m in better if all(m in found for found in gains.values())]
    text = f"In short: {arm} is {_claim(better, 1)} than {base}"
    every = f"every control that was run ({', '.join(controls)})"
    if not controls:
        text += f", but no control was run: {NOT_SHOWN}"
    elif len(sure) == len(better):
        text += f", and than {every}"
    elif sure:
        text += f", and than {every} it is {_claim(sure, 1)} only"
    else:
        equal = [c for c, found in gains.items() if not set(found) & set(better)]
        text += f", but not than {', '.join(equal)}" if equal else f", but in none than {every}"
        text += f": {NOT_SHOWN}"
    return [text + (f"; it is {_claim(losses, -1)} than {base}." if losses else ".")]


# --------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Stored:
    """Results as a folder holds them."""

    name: str
    experiment: Experiment[Any]
    settings: Any
    runs: Runs
    missing: list[dict[str, Any]] = field(default_factory=list)
    teacher: dict[str, Any] = field(default_factory=dict)
    made_with: dict[str, Any] = field(default_factory=dict)


def write(
    experiment: Experiment[Any],
    settings: Any,
    runs: Runs,
    out: Path,
    *,
    missing: Sequence[dict[str, Any]] = (),
    teacher: dict[str, Any] | None = None,
    made_with: dict[str, Any] | None = None,
) -> None:
    """Write results.json, results.md and results.png to a folder, and print the tables and words."""
    said = words(experiment, settings, runs, missing=missing, teacher=teacher)
    content = {
        "command": experiment.reference,
        "settings": plain(settings),
        "method_version": settings.method_version,
        **(made_with or {}),
        "teacher": teacher or {},
        "summary": summarise(experiment, settings, runs),
        "words": said,
        "missing": list(missing),
        "runs": [run for seeds in runs.values() for run in seeds.values()],
    }
    write_files(experiment, settings, runs, out, content, made_with)


def write_files(
    experiment: Experiment[Any],
    settings: Any,
    runs: Runs,
    out: Path,
    content: dict[str, Any],
    made_with: dict[str, Any] | None = None,
) -> None:
    """Write `content` as results.json, the report as results.md, the figure as results.png; print the report."""
    title, said = experiment.title(settings), content["words"]
    bullets = "".join(f"- {line}\n" for line in said)
    text = f"{markdown(experiment, settings, runs, made_with)}\nWhat this shows:\n\n{bullets}"
    verdict = said[-1] if said and said[-1].startswith("In short") else ""
    write_atomically(out / "results.json", _as_json(content))
    head = f"# {title}\n\n" + f"**{verdict}**\n\n" * bool(verdict)
    write_atomically(out / "results.md", head + text)
    print(f"\n{title}\n\n{text}")
    try:
        from b2m_fast.experiments.figures import figure

        write_atomically(out / "results.png", figure(experiment, settings, runs, title, verdict))
    except ImportError as error:
        print(error, file=sys.stderr)
    print(f"Written: {out / 'results.md'}, results.json, results.png")


def _as_json(content: dict[str, Any]) -> str:
    """Return results as text: one line a run, a learning curve as a list of five digits for each of its numbers."""
    text = json.dumps({k: v for k, v in content.items() if k != "runs"}, indent=1)
    if "runs" not in content:
        return text + "\n"

    def short(value: Any) -> Any:
        return float(f"{value:.5g}") if isinstance(value, float) else value

    def line(run: Run) -> str:
        if "history" not in run:
            return json.dumps(run)
        names = list(dict.fromkeys(name for entry in run["history"] for name in entry))
        curves = {name: [short(entry.get(name)) for entry in run["history"]] for name in names}
        return json.dumps(run | {"history": curves}, separators=(",", ":"))

    lines = ",\n  ".join(map(line, content["runs"]))
    return f'{text[:-2]},\n "runs": [\n  {lines}\n ]\n}}\n'


def _with_history(run: Run) -> Run:
    """Return a run that `_as_json` has written with its learning curve as a list of entries again."""
    curves = run.get("history")
    if not isinstance(curves, dict):
        return run
    entries = zip(*curves.values(), strict=True)
    return run | {"history": [dict(zip(curves, values, strict=True)) for values in entries]}


def _experiment(command: str) -> Experiment[Any]:
    """Return the experiment of a command, known by its name, a former name, or as ``FILE.py:NAME``."""
    for name, listing in registry.listings().items():
        if command in (name, *listing.about.get("formerly", ())):
            return registry.get(name).make()  # type: ignore[no-any-return]
    return registry.get(command).make()  # type: ignore[no-any-return]


def load(folder: Path) -> Stored:
    """Return the results in a folder, also those of older versions.

    Raises
    ------
    DataError
        If there are none, or none that can be read.
    """
    path = folder / "results.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        command = content.get("command", "regularize")
        if command == "compare":
            raise DataError(f"{path} is of `b2m compare`: name the folders that were compared")
        experiment = _experiment(command)
        content["runs"] = [_with_history(run) for run in content["runs"]]
        if "experiment" in content:
            content = experiment.upgrade(content)
        runs: Runs = {}
        for run in content["runs"]:
            runs.setdefault(run["arm"], {})[run["seed"]] = run
        return Stored(
            folder.resolve().name,
            experiment,
            make(experiment.settings, content["settings"]),
            runs,
            content.get("missing", []),
            content.get("teacher", {}),
            {k: content[k] for k in ("versions", "machine") if k in content},
        )
    except FileNotFoundError:
        raise DataError(f"there is no {path}: name the folder of a finished experiment") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read as results ({error!r})") from error


def main(argv: Sequence[str]) -> int:
    """Run ``b2m report`` and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="b2m report",
        description="Make results.md and results.png of a finished experiment again, from its results.json, which is "
        "written anew too where it is of an older version.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of results")
    parser.add_argument("--out", type=Path, metavar="DIR", help="another folder for the report")
    options = parser.parse_args(list(argv))
    try:
        found = load(options.folder)
        write(
            found.experiment,
            found.settings,
            found.runs,
            options.out or options.folder,
            missing=found.missing,
            teacher=found.teacher,
            made_with=found.made_with,
        )
    except (DataError, OSError) as error:
        print(f"b2m report: {error}", file=sys.stderr)
        return 2
    return 0
