"""An experiment of made-up runs, with measures of all three kinds: what reports, figures and comparisons are tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from b2m_fast._registry import Registry
from b2m_fast.evaluate.convergence import TimeToCriterion
from b2m_fast.experiments.contract import (
    Context,
    Experiment,
    Inputs,
    Measure,
    Panel,
    Prepared,
    Run,
    Runs,
    Settings,
    Table,
    or_nan,
)
from b2m_fast.experiments.report import Results

arm: Registry[Any] = Registry("arm", "arm", __name__, group="b2m_fast.made_up_arm")


@arm("none", "no teacher", role="baseline")
def none() -> None: ...


@arm("brain", "the teacher", role="tested")
def brain() -> None: ...


@arm("zero", "weight 0", role="other")
def zero() -> None: ...


@arm("label", "a teacher without a brain")
def label() -> None: ...


@dataclass(frozen=True, kw_only=True)
class MadeUpSettings(Settings):
    """Settings.

    Parameters
    ----------
    task : str
        What is learnt.
    criterion : float
        What is to be reached.
    every : int
        Steps between validations.
    sizes : tuple of int
        Numbers of samples.
    weight : float
        Of the teacher.
    """

    method_version: ClassVar[int] = 3

    task: str = "dots"
    criterion: float = 0.9
    every: int = 10
    sizes: tuple[int, ...] = ()
    weight: float = 1.0


class MadeUp(Experiment[MadeUpSettings]):
    """Runs made up by `runs`."""

    command = "made-up"
    presets = ""
    purpose = "Do made-up brains help?"
    settings = MadeUpSettings
    arms = arm
    options = {"what": {"--task": "task", "--sizes": "sizes"}}
    choices = {}
    same = ("task", "criterion")
    clock = ("every",)

    def measures(self, settings: MadeUpSettings, runs: Runs) -> Sequence[Measure]:
        if settings.sizes:
            return [self._level(n, 1 - 0.05 / len(settings.sizes)) for n in settings.sizes]
        return [
            Measure(
                "learning curve",
                lambda r: ([e["step"] for e in r["history"]], [e["height"] for e in r["history"]]),
                kind="curve",
                drawn=True,
                axes=("step", "height"),
                limit=settings.criterion,
            ),
            Measure(
                "steps to criterion",
                lambda r: TimeToCriterion(r["step"], r["censored"]),
                kind="time",
                note=f"Steps to criterion: height >= {settings.criterion:g}.",
                decides=True,
                drawn=True,
            ),
            Measure("accuracy", lambda r: or_nan(r["accuracy"]), decides=True, drawn=True),
            Measure("error", lambda r: r["error"], better="lower", decides=True, note="in pixels"),
            Measure("readout R2", lambda r: or_nan(r.get("readout")), better=""),
        ]

    def _level(self, n: int, level: float) -> Measure:
        return Measure(
            f"n = {n}",
            lambda r: r["scores"][str(n)],
            decides=True,
            level=level,
            drawn=True,
            at=n,
            axes=("samples", "r"),
            log="x",
        )

    def tables(self, settings: MadeUpSettings, runs: Runs) -> list[Table]:
        return [Table("A table of its own.", ["arm", "weight"], [[a, "1"] for a in runs])]

    def panels(self, settings: MadeUpSettings, runs: Runs) -> list[Panel]:
        return [Panel(lambda panel, arms: panel.set_xlabel(" ".join(arms)))]

    def upgrade(self, stored: dict[str, Any]) -> dict[str, Any]:
        return stored | {"settings": {"task": stored["experiment"]["subject"]}}

    def reads(self, settings: MadeUpSettings, arms: Sequence[str], context: Context) -> Inputs:
        raise NotImplementedError

    def prepare(self, settings: MadeUpSettings, arms: Sequence[str], context: Context) -> Prepared:
        raise NotImplementedError

    def run(
        self, settings: MadeUpSettings, prepared: Any, arm: str, seed: int, context: Context
    ) -> Run:
        raise NotImplementedError


def run(arm: str, seed: int, step: int, accuracy: float) -> Run:
    """Return a run that meets the criterion at a step (never, from 100 on) and ends at an accuracy, with some scatter."""
    at = step + 10 * (seed % 3)
    final = accuracy + 0.001 * ((seed + len(arm)) % 4)
    return {
        "arm": arm,
        "seed": seed,
        "step": min(at, 100),
        "censored": at >= 100,
        "accuracy": final,
        "error": 1 - final,
        "history": [{"step": s, "height": 0.95 if s >= at else 0.5} for s in range(0, 101, 10)],
    }


def results(
    seeds: int = 10, settings: MadeUpSettings | None = None, **arms: tuple[int, float]
) -> Results:
    """Return results with these arms (``_`` stands for ``-``): the step at which each meets the criterion, and its accuracy."""
    runs: Runs = {
        name: {s: run(name, s, *of) for s in range(seeds)}
        for name, of in ((arm.replace("_", "-"), of) for arm, of in arms.items())
    }
    return Results(MadeUp(), settings or MadeUpSettings(), runs)


def levels(seeds: int = 10, **arms: Sequence[float]) -> Results:
    """Return results with these scores at 10, 50 and 900 samples."""
    sizes = (10, 50, 900)

    def scores(values: Sequence[float], seed: int, arm: str) -> Mapping[str, float]:
        scatter = 0.02 * (seed % 3) + 0.001 * ((seed + len(arm)) % 5)
        return {str(n): v + scatter for n, v in zip(sizes, values, strict=True)}

    runs: Runs = {
        arm: {s: {"arm": arm, "seed": s, "scores": scores(v, s, arm)} for s in range(seeds)}
        for arm, v in arms.items()
    }
    return Results(MadeUp(), MadeUpSettings(sizes=sizes), runs)
