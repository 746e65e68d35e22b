"""The contract of an experiment: what it declares, and what the engine makes of that.

An experiment is one file. It declares its settings, its arms, what is measured, and how a run goes; the parser, the presets, runs
named by a hash, workers, resume, tables, intervals, the verdict in words and the figure are written once for all of them, in
`settings`, `runs`, `engine`, `report` and `figures`. Modules of experiments import torch inside functions only, because
``b2m COMMAND --help`` loads none.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, TypeVar

from msgspec import Meta

from b2m_fast.data import files_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from b2m_fast._registry import Registry
    from b2m_fast.experiments.figures import Style

__all__ = [
    "Context",
    "Experiment",
    "Inputs",
    "Measure",
    "Panel",
    "Prepared",
    "Runs",
    "Settings",
    "Table",
]

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0, le=sys.float_info.max)]
NotNegative = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
Options = dict[
    str, bool | int | float | str
]  # of what is registered: --set task_options.NAME=VALUE
Run = dict[str, Any]  # what a run returns, as JSON holds it
Runs = dict[str, dict[int, Run]]  # arm -> seed -> run


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything the results depend on, but for the arm and the seed: frozen, nested, made of what TOML can hold.

    `method_version` is raised when the same settings give other results than before, so that old runs are not taken for new
    ones.
    """

    method_version: ClassVar[int]


@dataclass(frozen=True)
class Context:
    """What a run is given besides its settings: none of it may change a result, but `accelerator` and `precision`.

    Parameters
    ----------
    data : Path, optional
        The user's folder of recordings.
    threads : int
        Threads of a run.
    accelerator, precision, devices
        As `b2m_fast.methods.config.TrainConfig` takes them.
    folder : Path
        Where a run keeps checkpoints, or the teachers what can be used again.
    tick : callable
        Called at each step of the progress bar (`Experiment.ticks` in a run).
    log : callable
        Tells the user what is being done before the runs.
    """

    data: Path | None
    folder: Path
    threads: int = 1
    accelerator: Literal["cpu", "cuda", "auto"] = "cpu"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    devices: int = 1
    tick: Callable[[], object] = lambda: None
    log: Callable[[str], object] = lambda _: None

    @property
    def device(self) -> dict[str, Any]:
        """Where to train, as arguments of `b2m_fast.methods.config.TrainConfig`."""
        return {name: getattr(self, name) for name in ("accelerator", "devices", "precision")}


@dataclass(frozen=True)
class Inputs:
    """What an experiment reads: its content enters the name of every run.

    Parameters
    ----------
    files : sequence of Path
        Files, known to exist.
    digests : sequence of str
        Of what is made and not read (rendered frames, say).
    """

    files: Sequence[Path] = ()
    digests: Sequence[str] = ()


@dataclass(frozen=True)
class Prepared:
    """What is made once a command: picklable parts of it go to the runs.

    Parameters
    ----------
    of : callable
        The part that the runs of an arm need.
    report : mapping
        What is known of the teachers, as JSON holds it; under ``"words"`` sentences for the report.
    """

    of: Callable[[str], Any]
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """A number, a curve, or a time that is taken of every run; tables, tests, words and figures follow from it.

    Two arms are compared over the seeds that both have: values by their mean difference with Student's interval, times by the
    ratio of their medians with a bootstrap interval. Curves are drawn and not tested.

    Parameters
    ----------
    label : str
        Head of its column, key of its numbers in results.json.
    of : callable
        Takes a run. ``"value"``: returns a float, NaN where the run has none. ``"curve"``: (x, y) as two sequences, NaN in y
        where there is no value. ``"time"``: `b2m_fast.evaluate.convergence.TimeToCriterion`.
    kind : {"value", "curve", "time"}
        A time is censored where a run ended before it met the criterion; an experiment has at most one.
    better : {"higher", "lower", ""}
        Which way is better (of a time always lower); empty where arms cannot be compared in it: it is in the tables, not in
        words.
    correlation : float
        Of the values of two seeds that share data: widens the intervals (Nadeau and Bengio 2003).
    digits : int
        After the decimal point.
    note : str
        What it is, with its unit, as a sentence for the report.
    decides : bool
        Whether the verdict looks at it.
    level : float
        Coverage of the interval that the verdict looks at: 1 - 0.05 / N where N measures are looked at together.
    drawn : bool
        Whether the figure has a panel of it.
    at : float, optional
        Place of a value on the axis ``axes[0]``: all drawn values that have one become a panel of curves, and one of
        differences to the tested arm.
    axes : (str, str)
        Names of a curve's axes, with their units; of a value or time without a curve, the second names its axis.
    limit : float, optional
        A line in the curve's panel: the criterion, say.
    log : str
        Axes of a curve that are logarithmic: "", "x", "y", "xy".
    """

    label: str
    of: Callable[[Run], Any]
    kind: Literal["value", "curve", "time"] = "value"
    better: Literal["higher", "lower", ""] = "higher"
    correlation: float = 0.0
    digits: int = 3
    note: str = ""
    decides: bool = False
    level: float = 0.95
    drawn: bool = False
    at: float | None = None
    axes: tuple[str, str] = ("", "")
    limit: float | None = None
    log: str = ""


@dataclass(frozen=True)
class Table:
    """A table of an experiment's own, below those that every report has.

    Parameters
    ----------
    text : str
        What it shows, in sentences.
    head : sequence of str
        Heads of the columns.
    rows : sequence of sequence of str
        Cells.
    """

    text: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Panel:
    """A panel of an experiment's own, beside those that follow from the measures.

    Parameters
    ----------
    draw : callable
        Takes the panel (matplotlib axes) and the style of each arm; see `b2m_fast.experiments.figures`.
    """

    draw: Callable[[Any, Mapping[str, Style]], object]


S = TypeVar("S", bound=Settings)


class Experiment(ABC, Generic[S]):
    """One experiment: settings, arms, measures and a run.

    The class attributes are its words and its doors; `measures`, `prepare` and `run` are what must be written. The rest has defaults
    that fit most experiments.
    """

    command: ClassVar[str]
    """Words after ``b2m``: ``"regularize"``."""
    presets: ClassVar[str]
    """Name of the file of presets."""
    purpose: ClassVar[str]
    """Question, loss, paper and controls, for the head of ``--help`` and of reports."""
    settings: ClassVar[type[Settings]]
    """A frozen dataclass; the docstrings' ``Parameters`` are the help lines of its options."""
    options: ClassVar[Mapping[str, Mapping[str, str]]]
    """Group -> flag -> dotted setting; settings without a flag are set by ``--set``."""
    choices: ClassVar[Mapping[str, tuple[Registry[Any], Mapping[str, Any]]]]
    """Settings that name something registered: the registry, and the facts that what fits has."""
    fixed: ClassVar[Mapping[str, Any]] = {}
    """Settings that the command itself decides."""
    workers: ClassVar[int] = 0
    """Default of ``--workers``; 0 is up to two."""
    arms: ClassVar[Registry[Any]]
    """Arms register with a name, a sentence and ``role="baseline" | "tested" | "control" | "other"`` ("control" if not said)."""
    means_text: ClassVar[str] = "Means over seeds."
    """What the table of means shows."""
    differences_text: ClassVar[str] = (
        "Differences between arms run with the same seeds, with 95 % Student intervals; * marks an interval that excludes 0 "
        "(not corrected for the number of cells)."
    )
    """What the table of differences shows."""
    same: ClassVar[Sequence[str]] = ()
    """Dotted settings that must be the same in results that ``b2m compare`` puts side by side."""
    clock: ClassVar[Sequence[str]] = ()
    """Dotted settings that decide when a run is validated, and so how fine a time is known."""
    unit: ClassVar[str] = "validation"
    """What the progress bar counts."""
    trains: ClassVar[bool] = True
    """Whether runs train a network, so that ``--precision`` matters."""
    seeds_text: ClassVar[str] = "0 1 2"
    """What `usual_seeds` returns, in words."""

    @property
    def reference(self) -> str:
        """How a worker's `Registry.get` finds this experiment: ``module:class``, or ``file.py:class`` of a user's own."""
        module = type(self).__module__
        own = module.startswith("_b2m_user_")
        return f"{sys.modules[module].__file__ if own else module}:{type(self).__qualname__}"

    # ------------------------------------------------------------------------------------- must be written
    @abstractmethod
    def measures(self, settings: S, runs: Runs) -> Sequence[Measure]:
        """Return what is measured; `runs` may decide what there is (numbers of samples, say)."""

    @abstractmethod
    def prepare(self, settings: S, arms: Sequence[str], context: Context) -> Prepared:
        """Load data and make the teachers of these arms, and of no others."""

    @abstractmethod
    def run(self, settings: S, prepared: Any, arm: str, seed: int, context: Context) -> Run:
        """Train or fit once, and measure."""

    # ------------------------------------------------------------------------------------- may be written
    def refuse(self, settings: S, arms: Sequence[str], given: set[str]) -> None:
        """Raise ValueError for a combination that is impossible, or for a given setting that would be ignored.

        Parameters
        ----------
        settings : Settings
            As they will be run.
        arms : sequence of str
            As they were asked for, before `expand`.
        given : set of str
            Dotted names of the settings that the user has set, and ``"data"`` where a data folder was named.
        """

    def option(self, name: str) -> str:
        """Return how a setting with a dotted name is given: ``--alpha``, or ``--set training.beta``."""
        flags = {n: flag for group in self.options.values() for flag, n in group.items()}
        return flags.get(name, f"--set {name}")

    def uses(self, arms: Sequence[str], setting: str) -> bool:
        """Return whether an arm uses a setting that only some do: its fact ``uses`` says so, or it is the user's own and may."""
        known = self.arms.listings()
        return any(name not in known or known[name].about.get("uses") == setting for name in arms)

    def refuse_unused(self, given: set[str], uses: Sequence[tuple[bool, str, str]]) -> None:
        """Raise ValueError for a given setting that nothing uses.

        `uses`: whether some settings are used, by what they would be, and their dotted names, separated by spaces.
        """
        for used, what, names in uses:
            ignored = [self.option(name) for name in names.split() if name in given]
            if ignored and not used:
                raise ValueError(f"{', '.join(ignored)}: only for {what}")

    def chosen(self, settings: S) -> list[tuple[Registry[Any], str]]:
        """Return everything registered that settings name: its registry and its name."""
        named = [(reg, attrgetter(n)(settings)) for n, (reg, _) in self.choices.items()]
        return [(registry, name) for registry, name in named if name is not None]

    def reads(self, settings: S, arms: Sequence[str], context: Context) -> Inputs:
        """Return what will be read, by default the files of all that is chosen; raise if it cannot work."""
        del arms
        about = [registry.get(name).about for registry, name in self.chosen(settings)]
        return Inputs([path for facts in about for path in files_of(facts, context.data)])

    def usual_seeds(self, settings: S) -> Sequence[int]:
        """Return the seeds of a command where neither the user nor a preset says which."""
        del settings
        return (0, 1, 2)

    def possible_arms(self, settings: S) -> list[str]:
        """Return the arms that a command without ``--arms`` runs, where no preset says which."""
        del settings
        return list(self.arms.listings())

    def registered(self, settings: S, arms: Sequence[str]) -> list[str]:
        """Return those arms that are registered by the name they have here; arms made by `expand` are not."""
        del settings
        return list(arms)

    def expand(self, settings: S, arms: Sequence[str], context: Context) -> list[str]:
        """Return the arms to run, those that stand for several replaced by each of these."""
        del settings, context
        return list(arms)

    def title(self, settings: S) -> str:
        """Return the report's title."""
        del settings
        return self.command

    def folder(self, settings: S) -> str:
        """Return the name of the default output folder below b2m-results/: the command, and what was chosen."""
        names = [registry.get(name).name for registry, name in self.chosen(settings)]
        return "-".join([*self.command.split(), *names])

    def ticks(self, settings: S) -> int:
        """Return how often a run calls `Context.tick`."""
        del settings
        return 1

    def brief(self, run: Run) -> float | None:
        """Return the number of a run that the progress bar shows."""
        del run
        return None

    def roles(self, settings: S) -> dict[str, str]:
        """Return the role of each arm; see `arms`."""
        del settings
        return {
            n: listing.about.get("role", "control") for n, listing in self.arms.listings().items()
        }

    def role(self, settings: S, arm: str) -> str:
        """Return the role of an arm that is run: a control, unless it is registered with another role."""
        return self.roles(settings).get(arm, "control")

    def contrasts(self, settings: S, arms: Sequence[str]) -> list[tuple[str, str]]:
        """Return the pairs (arm, base) to compare: each arm with the baseline, the tested one with every control."""
        roles = {arm: self.role(settings, arm) for arm in arms}
        baseline, tested, controls = (
            [arm for arm in arms if roles[arm] == role]
            for role in ("baseline", "tested", "control")
        )
        pairs = [(a, b) for b in baseline for a in arms if a != b]
        return pairs + [(t, c) for t in tested for c in controls]

    def told(self, settings: S, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return those of the compared pairs that are put in words; the tables have all."""
        del settings
        return list(pairs)

    def notes(self, settings: S, runs: Runs) -> list[str]:
        """Return sentences below the tables' heads: what a number means here."""
        del settings, runs
        return []

    def tables(self, settings: S, runs: Runs) -> list[Table]:
        """Return tables of its own."""
        del settings, runs
        return []

    def words(self, settings: S, runs: Runs) -> list[str]:
        """Return sentences of its own, before the verdict."""
        del settings, runs
        return []

    def panels(self, settings: S, runs: Runs) -> list[Panel]:
        """Return panels of its own."""
        del settings, runs
        return []

    def upgrade(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Return the content of a results.json that older code wrote as this one would have written it.

        Called for files that have ``"experiment"``: these are the old settings, and ``"settings"`` what reports were to know of
        them. ``"settings"`` of what is returned are given to `settings`; ``"runs"`` may need new names too.
        """
        return stored

    def extra_summary(self, settings: S, runs: Runs) -> dict[str, Any]:
        """Return numbers of its own for results.json."""
        del settings, runs
        return {}


def flags(names: str) -> dict[str, str]:
    """Return an option for each dotted setting, named after its last part: ``--neural-batch`` for training.neural_batch."""
    return {"--" + name.rpartition(".")[2].replace("_", "-"): name for name in names.split()}


def finite(value: float | None) -> float | None:
    """Return a number as JSON can hold it: None for NaN and infinity."""
    return value if value is not None and math.isfinite(value) else None


def or_nan(value: float | None) -> float:
    """Return a number read from JSON: NaN for None."""
    return math.nan if value is None else float(value)
