"""``b2m compare``: arms of several finished experiments side by side, in the report that each has alone."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from b2m_fast.data.files import DataError
from b2m_fast.experiments.engine import OK, USAGE, check_writable
from b2m_fast.experiments.report import Results, load, missing_words, write
from b2m_fast.experiments.settings import by_name, plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from b2m_fast.experiments.contract import Measure, Run

HELP = """\
Draw arms of several finished experiments of one kind together: the same tables and figure as each has alone, and words on
every comparison, over all of them. Arms are named FOLDER/ARM; every arm is compared with the baseline of its own folder, and with
the arm of the same name in the first folder.

The task, what is measured and the criterion must be the same. Other settings that differ are named in the words, and so is what
each folder says of its teacher and of runs that are missing.
"""
CLOCKS = (
    "Their validations are not the same: ratios of steps between folders are no finer than the coarser of them, and the longer "
    "training has more time to reach the criterion."
)


@dataclass(frozen=True)
class Together(Results):
    """Results of several folders; arms are named FOLDER/ARM, and what is not written here is that of the first folder."""

    found: dict[str, Results] = field(default_factory=dict)

    @cached_property
    def measures(self) -> list[Measure]:
        """The measures of the folders, each taken of a run as its own folder takes it; of curves and times those that all have."""
        known = {name: {m.label: m for m in one.measures} for name, one in self.found.items()}
        every_label = dict.fromkeys(label for measures in known.values() for label in measures)

        def joined(label: str) -> Measure:
            every = [measures[label] for measures in known.values() if label in measures]

            def of(run: Run) -> Any:
                measures = known[run["folder"]]
                return measures[label].of(run) if label in measures else math.nan

            return replace(
                every[0],
                of=of,
                note=" / ".join(dict.fromkeys(m.note for m in every)),
                correlation=max(m.correlation for m in every),
                decides=False,
            )

        made = {label: joined(label) for label in every_label}
        return [
            m
            for m in made.values()
            if m.kind == "value" or all(m.label in k for k in known.values())
        ]

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Each arm with the baseline of its folder, and with its namesake in the first folder."""
        first = next(iter(self.found))
        pairs = [
            (f"{name}/{arm}", base)
            for name, one in self.found.items()
            for arm in one.runs
            for base in (*(f"{name}/{b}" for b in one.by_role("baseline")), f"{first}/{arm}")
        ]
        return [(a, b) for a, b in dict.fromkeys(pairs) if a != b and b in self.runs]

    @cached_property
    def roles(self) -> dict[str, str]:
        """The role that each arm has in its folder."""
        return {
            f"{n}/{arm}": role for n, one in self.found.items() for arm, role in one.roles.items()
        }

    def own(self, what: str) -> Any:
        """Return the tables and notes of each folder; its words, panels and numbers are in its own report."""
        if what == "extra_summary":
            return {}
        if what not in {"tables", "notes"}:
            return []
        every = [(name, item) for name, one in self.found.items() for item in one.own(what)]
        if what == "notes":
            return list(dict.fromkeys(note for _, note in every))
        return [replace(table, text=f"{name}: {table.text}") for name, table in every]

    @property
    def title(self) -> str:
        """The title of the report."""
        return f"Together: {', '.join(self.found)}"

    @property
    def asked(self) -> str:
        """The command of each folder."""
        return "\n".join(f"{name}: {one.asked}" for name, one in self.found.items())


def together(folders: Sequence[Path], arms: Sequence[str] | None = None) -> Together:
    """Return results of several folders as those of one experiment.

    Raises
    ------
    ValueError
        If they cannot be compared, or there is no such arm.
    """
    names = [path.resolve().name for path in folders]
    if len(set(names)) < len(names):
        raise ValueError(f"folders must have different names, got {names}")
    found = dict(zip(names, map(load, folders), strict=True))
    experiment = found[names[0]].experiment
    different = {}
    if len({one.experiment.settings for one in found.values()}) > 1:
        different = {"command": {name: one.experiment.command for name, one in found.items()}}
    different = different or _different({n: by_name(one.settings) for n, one in found.items()})
    for key, values in different.items():
        if any(f"{key}.".startswith(f"{same}.") for same in ("command", *experiment.same)):
            listed = ", ".join(f"{name} has {value!r}" for name, value in values.items())
            raise ValueError(
                f"these cannot be compared: {key.rpartition('.')[2]} differs: {listed}"
            )
    known = sorted({arm for one in found.values() for arm in one.runs})
    if unknown := sorted(set(arms or ()) - set(known)):
        raise ValueError(f"there are no arms {unknown}; there are {known}")
    chosen = {
        n: {a: one.runs[a] for a in arms or one.runs if a in one.runs} for n, one in found.items()
    }
    found = {n: replace(found[n], runs=runs) for n, runs in chosen.items() if runs}
    runs = {
        f"{name}/{arm}": {seed: run | {"folder": name} for seed, run in seeds.items()}
        for name, one in found.items()
        for arm, seeds in one.runs.items()
    }
    teacher = {"words": _words(found)}
    return Together(experiment, found[next(iter(found))].settings, runs, (), teacher, {}, found)


def _different(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the settings that are not the same in all folders: setting -> folder -> value."""
    keys = next(iter(settings.values()))
    by_key = {key: {name: values[key] for name, values in settings.items()} for key in keys}
    return {key: by for key, by in by_key.items() if len(set(map(str, by.values()))) > 1}


def _words(found: Mapping[str, Results]) -> list[str]:
    """Return what to know before the numbers: settings that differ; what folders say of teachers and of missing runs, once."""
    different = _different({n: by_name(one.settings) for n, one in found.items()})
    parts = [
        f"{key} ({', '.join(f'{name} {value}' for name, value in values.items())})"
        for key, values in different.items()
    ]
    out = [f"The experiments differ in {'; '.join(parts)}."] if parts else []
    if set(different) & set(next(iter(found.values())).experiment.clock):
        out.append(CLOCKS)
    said: dict[str, list[str]] = {}
    for name, one in found.items():
        for words in (*missing_words(one.missing), *one.teacher.get("words", [])):
            said.setdefault(words, []).append(name)
    return out + [f"{', '.join(names)}: {words}" for words, names in said.items()]


def _check_out(out: Path, folders: Sequence[Path]) -> None:
    """Raise ValueError for a folder with results that are not those of an earlier comparison."""
    if out.resolve() in {path.resolve() for path in folders}:
        raise ValueError(f"--out {out} is one of the folders to be compared: name another")
    path = out / "results.json"
    try:
        command = json.loads(path.read_text(encoding="utf-8")).get("command", "regularize")
    except FileNotFoundError:
        return
    except (ValueError, AttributeError):
        command = "?"
    if command != "compare":
        raise ValueError(f"{path} holds results of `b2m {command}`: name another --out")


def main(argv: Sequence[str]) -> int:
    """Run ``b2m compare`` and return its exit code."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("b2m compare", description=HELP, formatter_class=layout)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folder of results")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="(default: all)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="(default: b2m-results/compare)")
    options = parser.parse_args(list(argv))
    out = options.out or Path("b2m-results/compare")
    try:
        results = together(options.folders, options.arms)
        check_writable(out)
        _check_out(out, options.folders)
        folders = [{"name": k, "settings": plain(v.settings)} for k, v in results.found.items()]
        write(results, out, command="compare", settings={}, folders=folders, runs=[])
    except (DataError, ValueError, OSError) as error:
        print(f"b2m compare: {error}", file=sys.stderr)
        return USAGE
    return OK
