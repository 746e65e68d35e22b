"""Reports: numbers, tables, words and one verdict, all made from an experiment's measures and the roles of its arms.

results.json holds everything, every run included; `load` reads it, `main` (``b2m report``) makes the other files from it again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from b2m_fast.data.files import DataError, write_atomically
from b2m_fast.evaluate.convergence import FEWEST, MedianRatio, log_rank, median_ratio, median_step
from b2m_fast.experiments import experiment as registry
from b2m_fast.experiments.contract import finite
from b2m_fast.experiments.settings import command_line, make, plain
from b2m_fast.experiments.statistics import Interval, paired_difference, t_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from b2m_fast.experiments.contract import Experiment, Measure, Run, Runs

TIMES = (
    "Reached: seeds that met the criterion; the others are censored, and a median they hide is marked >. Ratio: of medians, arm "
    "/ baseline, with a 95 % interval from a bootstrap paired over seeds; its ends hold whatever the censored seeds would have "
    f"done; * marks an interval that excludes 1, from {FEWEST} seeds on: fewer are too few for it to mean anything. p: log-rank "
    "test, unpaired, not corrected for the number of arms."
)
NOT_SHOWN = "that it is the brain that helps is not shown"


@dataclass(frozen=True)
class Results:
    """Everything a report is made of.

    Parameters
    ----------
    experiment, settings
        What was run.
    runs : dict
        Arm -> seed -> run; no arm without a run.
    missing : list of dict
        Runs that were asked for and have no result: ``arm``, ``seed``, and ``failed``, why (None: not run to its end).
    teacher : dict
        What is known of the teachers; ``words`` are sentences.
    made_with : dict
        ``versions``, ``machine``, and ``method_version`` of results that are not of this code.
    """

    experiment: Experiment[Any]
    settings: Any
    runs: Runs
    missing: Sequence[dict[str, Any]] = ()
    teacher: dict[str, Any] = field(default_factory=dict)
    made_with: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def measures(self) -> list[Measure]:
        """What was measured."""
        return list(self.own("measures"))

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs (arm, base) that are compared."""
        return self.experiment.contrasts(self.settings, list(self.runs))

    @cached_property
    def roles(self) -> dict[str, str]:
        """The role of each arm."""
        known = {"baseline", "tested", "other"}
        roles = {arm: self.experiment.role(self.settings, arm) for arm in self.runs}
        return {arm: role if role in known else "control" for arm, role in roles.items()}

    def own(self, what: str) -> Any:
        """Return what the experiment itself adds: its ``"tables"``, ``"notes"``, ``"words"``, ``"panels"``."""
        return getattr(self.experiment, what)(self.settings, self.runs)

    @property
    def title(self) -> str:
        """The title of the report."""
        return self.experiment.title(self.settings)

    @property
    def asked(self) -> str:
        """The command that was run."""
        seeds = sorted({seed for seeds in self.runs.values() for seed in seeds})
        command = command_line(self.experiment, self.settings)
        return f"`{command}`; seeds {' '.join(map(str, seeds))}."

    @cached_property
    def values(self) -> list[Measure]:
        """The measures that have a mean."""
        return [m for m in self.measures if m.kind == "value"]

    @cached_property
    def time(self) -> Measure | None:
        """The measure that is a time."""
        return next((m for m in self.measures if m.kind == "time"), None)

    def by_role(self, role: str) -> list[str]:
        """Return the arms that have a role."""
        return [arm for arm, its in self.roles.items() if its == role]


# --------------------------------------------------------------------------------------------------
# Numbers
# --------------------------------------------------------------------------------------------------
def mean(runs: Runs, arm: str, measure: Measure) -> Interval | None:
    """Return the mean of a value over the seeds of an arm; None if no run has it."""
    found = [v for v in map(measure.of, runs[arm].values()) if math.isfinite(v)]
    return t_interval(found, correlation=measure.correlation) if found else None


def _pairs(runs: Runs, arm: str, base: str, measure: Measure) -> list[tuple[Any, Any]]:
    """Return what was measured in two arms, for each seed that both have."""
    seeds = sorted(set(runs.get(arm, {})) & set(runs.get(base, {})))
    return [(measure.of(runs[arm][s]), measure.of(runs[base][s])) for s in seeds]


def difference(
    runs: Runs, arm: str, base: str, measure: Measure, level: float = 0.95
) -> Interval | None:
    """Return the mean difference arm - base of a value over the seeds that have it in both; None if there are none."""
    pairs = [p for p in _pairs(runs, arm, base, measure) if all(map(math.isfinite, p))]
    if not pairs:
        return None
    first, second = zip(*pairs, strict=True)
    return paired_difference(first, second, level, correlation=measure.correlation)


def ratio(runs: Runs, arm: str, base: str, measure: Measure) -> MedianRatio | None:
    """Return the ratio of median times; None without common seeds, or where the baseline needs no training at all."""
    pairs = _pairs(runs, arm, base, measure)
    if not pairs or any(second.step == 0 for _, second in pairs):
        return None
    first, second = zip(*pairs, strict=True)
    return median_ratio(first, second)


def _times(runs: Runs, arm: str, measure: Measure) -> tuple[list[Any], int, float]:
    """Return the times of an arm, how many met the criterion, and their median."""
    times = list(map(measure.of, runs[arm].values()))
    return times, sum(not t.censored for t in times), median_step(times)


def favours(runs: Runs, arm: str, base: str, measure: Measure) -> int:
    """Return 1 where an arm is better than another by the measure's interval, -1 where worse, 0 where not told apart."""
    if measure.kind == "time":
        found = ratio(runs, arm, base, measure)
        return 0 if found is None or not found.excludes_one else 1 if found.high < 1 else -1
    less = difference(runs, arm, base, measure, measure.level)
    if less is None or less.n < FEWEST or not less.excludes_zero:
        return 0
    return 1 if (less.mean > 0) == (measure.better == "higher") else -1


def _numbers(found: Interval | MedianRatio | None) -> dict[str, Any] | None:
    """Return an interval as JSON holds it."""
    return None if found is None else {k: finite(v) for k, v in asdict(found).items()}


def summarise(results: Results) -> dict[str, Any]:
    """Return means, differences, steps to the criterion and their ratios, and the experiment's own numbers, as JSON holds them."""
    runs, time = results.runs, results.time
    out: dict[str, Any] = {
        "means": {a: {m.label: _numbers(mean(runs, a, m)) for m in results.values} for a in runs},
        "differences": {
            f"{a} - {b}": {m.label: _numbers(difference(runs, a, b, m)) for m in results.values}
            for a, b in results.pairs
        },
    }
    if time is not None:
        out |= {"steps": {}, "ratios": {}}
        for arm in runs:
            times, reached, median = _times(runs, arm, time)
            out["steps"][arm] = {"median": finite(median), "reached": reached, "seeds": len(times)}
        for arm, base in results.pairs:
            found = _numbers(ratio(runs, arm, base, time))
            if found is not None:
                found["p_log_rank"] = log_rank(*zip(*_pairs(runs, arm, base, time), strict=True))
            out["ratios"][f"{arm} / {base}"] = found
    out |= results.own("extra_summary")
    return out


# --------------------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------------------
def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [" | ".join(map(str.ljust, row, widths)) for row in (head, *rows)]
    lines.insert(1, "-|-".join("-" * w for w in widths))
    return "\n".join(f"| {line} |" if k != 1 else f"|-{line}-|" for k, line in enumerate(lines))


def cell(found: Interval | MedianRatio | None, digits: int = 3, sign: str = "") -> str:
    """Return an interval as a table's cell; with sign "+" a difference, ``+0.031 [+0.002, +0.060] *``: the star is for 0 excluded."""
    if found is None:
        return "-"
    if isinstance(found, Interval):
        middle, star = found.mean, bool(sign) and found.excludes_zero
    else:
        middle, star = found.ratio, found.excludes_one
    text = f"{middle:{sign}.{digits}f}" if math.isfinite(middle) else "?"
    ends = f" [{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"
    return text + ends * (found.n > 1) + " *" * star


def _time_tables(results: Results, time: Measure) -> list[str]:
    """Return what times are, their medians, and their ratios."""
    rows = []
    for arm in results.runs:
        times, reached, median = _times(results.runs, arm, time)
        text = f"{median:.0f}" if math.isfinite(median) else f"> {max(t.step for t in times)}"
        rows.append([arm, str(len(times)), str(reached), text])
    head = ["arm", "seeds", "reached", f"median {time.label.partition(' to ')[0]}"]
    out = [f"{time.note} {TIMES}".strip(), table(head, rows)]
    rows = []
    for arm, base in results.pairs:
        both = _pairs(results.runs, arm, base, time)
        p = f"{log_rank(*zip(*both, strict=True)):.3g}" if len(both) > 1 else "-"
        rows.append([f"{arm} / {base}", cell(ratio(results.runs, arm, base, time), 2), p])
    return out + ([table([time.label, "ratio of medians", "p"], rows)] if rows else [])


def markdown(results: Results) -> str:
    """Return the head and the tables of a report: times, means, differences, and the experiment's own."""
    runs, values = results.runs, results.values
    labels, notes = [m.label for m in values], [f"{m.label}: {m.note}" for m in values if m.note]
    means = {arm: [cell(mean(runs, arm, m), m.digits) for m in values] for arm in runs}
    out = [*_head(results), *(_time_tables(results, results.time) if results.time else [])]
    out.append(" ".join([results.experiment.means_text, *notes, *results.own("notes")]))
    rows = [[a, str(len(runs[a])), *(c.partition(" ")[0] for c in row)] for a, row in means.items()]
    out.append(table(["arm", "seeds", *labels], rows))
    if results.pairs:
        rows = [
            [f"{a} - {b}", *(cell(difference(runs, a, b, m), m.digits, "+") for m in values)]
            for a, b in results.pairs
        ]
        out += [results.experiment.differences_text, table(["difference", *labels], rows)]
    for block in results.own("tables"):
        out += [block.text, table(block.head, block.rows)]
    return "\n\n".join(filter(None, out)) + "\n"


def _head(results: Results) -> list[str]:
    """Return what was asked, the command and the machine, as paragraphs."""
    out = [results.experiment.purpose.strip().replace("\n  ", "\n      "), results.asked]
    if machine := results.made_with.get("machine"):
        versions = results.made_with.get("versions", {})
        known = [f"{k} {versions[k]}" for k in ("b2m-fast", "torch", "python") if k in versions]
        where = "a GPU" if machine.get("accelerator") == "cuda" else "the CPU"
        out.append(
            f"Made on {machine['cpu']}, {machine['cores']} cores, threads a run: {machine['threads_per_run']}; "
            f"{', '.join(known)}. PyTorch computed on {where} ({machine.get('precision', '32-true')}); what scikit-learn "
            "and SciPy compute is computed on the CPU, always."
        )
    return out


# --------------------------------------------------------------------------------------------------
# Words
# --------------------------------------------------------------------------------------------------
def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"


def words(results: Results) -> list[str]:
    """Return what the results say as sentences: missing runs, the teacher, each comparison, the verdict."""
    out = [*missing_words(results.missing), *results.teacher.get("words", [])]
    for arm, base in results.experiment.told(results.settings, results.pairs):
        said = [_time_words(results, arm, base), _value_words(results, arm, base)]
        out.append(" ".join(filter(None, said)))
    return [*filter(None, out), *results.own("words"), *_verdict(results)]


def missing_words(missing: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence for each arm and each reason why runs that were asked for have no result."""
    groups: dict[tuple[str, str], list[str]] = {}
    for run in missing:
        reason = run["failed"] or "stopped before its end"
        groups.setdefault((run["arm"], reason), []).append(str(run["seed"]))
    return [
        f"MISSING: {arm}, seed {', '.join(seeds)}: {reason.rstrip('.')}. Nothing here is about these runs."
        for (arm, reason), seeds in groups.items()
    ]


def _time_words(results: Results, arm: str, base: str) -> str:
    """Return how many times as long an arm takes as another; empty with fewer than two seeds."""
    found = ratio(results.runs, arm, base, results.time) if results.time else None
    if results.time is None or found is None or found.n < 2:
        return ""
    times = f"{found.ratio:.2f} times" if math.isfinite(found.ratio) else "an unknown multiple of"
    end = "" if found.excludes_one else ": not told apart"
    if found.n < FEWEST:
        end = f": {_seeds(found.n)} are too few to tell"
    ends = f"[{found.low:.2f}, {found.high:.2f}]"
    return f"{arm} needs {times} the {results.time.label} of {base} {ends}{end}."


def _value_words(results: Results, arm: str, base: str) -> str:
    """Return in which values an arm is higher or lower than another; empty if there is nothing to compare."""
    groups: dict[str, list[Measure]] = {"higher": [], "lower": [], "not told apart": []}
    seeds = 0
    for measure in (m for m in results.values if m.better):
        found = difference(results.runs, arm, base, measure)
        if found is not None:
            seeds = max(seeds, found.n)
            sign = "higher" if found.mean > 0 else "lower"
            groups[sign if found.excludes_zero else "not told apart"].append(measure)
    parts = [f"{word} {where(found)}" for word, found in groups.items() if found]
    if seeds == 1:
        parts = ["one seed only, so nothing can be said about chance"]
    return f"{arm} against {base}: {'; '.join(parts)} ({_seeds(seeds)})." if parts else ""


def where(measures: Sequence[Measure]) -> str:
    """Return the names of measures: ``in accuracy, ssim`` or ``at n = 10, 20``."""
    names = ", ".join(m.label for m in measures)
    if any(m.at is None for m in measures):
        return f"in {names}"
    what, equals, _ = measures[0].label.partition("= ")
    return f"at {names.replace(f', {what}= ', ', ') if equals else names}"


def _claim(measures: Sequence[Measure], speed: str, quality: str) -> str:
    """Return in what an arm is better or worse: ``faster (steps to criterion) and better in accuracy``."""
    times = [m.label for m in measures if m.kind == "time"]
    others = [m for m in measures if m.kind != "time"]
    parts = [f"{speed} ({', '.join(times)})"] if times else []
    return " and ".join(parts + ([f"{quality} {where(others)}"] if others else []))


def _verdict(results: Results) -> list[str]:
    """Return one sentence: is the tested arm better than the baseline, and than every control, in the same measures."""
    tested, bases, controls = map(results.by_role, ("tested", "baseline", "control"))
    decisive = [m for m in results.measures if m.decides]
    if len(tested) != 1 or len(bases) != 1 or not decisive:
        return []
    arm, base = tested[0], bases[0]
    if (few := len(_pairs(results.runs, arm, base, decisive[0]))) < FEWEST:
        verb = "is" if few == 1 else "are"
        return [f"In short: {_seeds(few)} {verb} too few for a verdict; it takes {FEWEST}."]

    def gains(other: str, sign: int = 1) -> list[Measure]:
        return [m for m in decisive if favours(results.runs, arm, other, m) == sign]

    better, losses = gains(base), gains(base, -1)
    beaten = {control: gains(control) for control in controls}
    sure = [m for m in better if all(m in found for found in beaten.values())]
    every = f"every control that was run ({', '.join(controls)})"
    loss = f"; it is {_claim(losses, 'slower', 'worse')} than {base}" if losses else ""
    text = f"{arm} is {_claim(better, 'faster', 'better')} than {base}"
    if not better:
        text = f"{arm} is not shown to be better than {base} {where(decisive)}{loss}"
        if than := [f"{c} ({where(found)})" for c, found in beaten.items() if found]:
            text += f"; of its controls it is better than {', '.join(than)}"
    elif not controls:
        text += f", but no control was run: {NOT_SHOWN}"
    elif len(sure) == len(better):
        text += f", and than {every}"
    elif sure:
        text += f", and {_claim(sure, 'faster', 'better')} than {every}"
    else:
        equal = [c for c, found in beaten.items() if not set(found) & set(better)]
        text += f", but not than {', '.join(equal) or every}: {NOT_SHOWN}"
    return [f"In short: {text}{loss if better else ''}."]


# --------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------
def write(results: Results, out: Path, **more: Any) -> None:
    """Write results.json (with `more` in it), results.md and results.png to a folder, and print tables and words."""
    said, command = words(results), results.experiment.command
    text = f"{markdown(results)}\nWhat this shows:\n\n" + "".join(f"- {line}\n" for line in said)
    verdict = "".join(line for line in said if line.startswith("In short"))
    content = {
        "command": command if command in registry.listings() else results.experiment.reference,
        "settings": plain(results.settings),
        "method_version": results.settings.method_version,
        **results.made_with,
        "teacher": results.teacher,
        "summary": summarise(results),
        "words": said,
        "missing": list(results.missing),
        "runs": [run for seeds in results.runs.values() for run in seeds.values()],
    }
    head = f"# {results.title}\n\n" + f"**{verdict}**\n\n" * bool(verdict)
    write_atomically(out / "results.json", _as_json(content | more))
    write_atomically(out / "results.md", head + text)
    print(f"\n{results.title}\n\n{text}")
    try:
        from b2m_fast.experiments.figures import figure
    except ImportError as error:
        print(f"no figure: {error} (pip install 'b2m-fast[experiments]')", file=sys.stderr)
    else:
        write_atomically(out / "results.png", figure(results, verdict))
    print(f"Written: {out / 'results.md'}, results.json, results.png")


def _as_json(content: dict[str, Any]) -> str:
    """Return results as text: one line a run, a learning curve as a list of five digits for each of its numbers."""

    def short(value: Any) -> Any:
        return float(f"{value:.5g}") if isinstance(value, float) else value

    def line(run: Run) -> str:
        history = run.get("history", [])
        names = dict.fromkeys(name for entry in history for name in entry)
        curves = {name: [short(entry.get(name)) for entry in history] for name in names}
        return json.dumps(run | ({"history": curves} if curves else {}), separators=(",", ":"))

    text = json.dumps({k: v for k, v in content.items() if k != "runs"}, indent=1)
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
        if command in listing.about.get("formerly", ()):
            command = name
    made: Experiment[Any] = registry.get(command).make()
    return made


def load(folder: Path) -> Results:
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
        content["runs"] = list(map(_with_history, content["runs"]))
        if "experiment" in content:
            content = experiment.upgrade(content)
        runs: Runs = {}
        for run in content["runs"]:
            runs.setdefault(run["arm"], {})[run["seed"]] = run
        return Results(
            experiment,
            make(experiment.settings, content["settings"]),
            runs,
            content.get("missing", []),
            content.get("teacher", {}),
            {"method_version": content.get("method_version")}
            | {k: content[k] for k in ("versions", "machine") if k in content},
        )
    except FileNotFoundError:
        raise DataError(f"there is no {path}: name the folder of a finished experiment") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read as results ({error!r})") from error


def main(argv: Sequence[str]) -> int:
    """Run ``b2m report`` and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="b2m report",
        description="Make the report and the figure of a finished experiment again, from its results.json.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of results")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: DIR)")
    options = parser.parse_args(list(argv))
    try:
        write(load(options.folder), options.out or options.folder)
    except (DataError, OSError) as error:
        print(f"b2m report: {error}", file=sys.stderr)
        return 2
    return 0
