"""An experiment of a stranger: numbers instead of networks, so that the engine is tested in milliseconds."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from b2m_fast._registry import Registry
from b2m_fast.experiments.contract import (
    Context,
    Experiment,
    Inputs,
    Measure,
    Prepared,
    Run,
    Runs,
    Settings,
)

arm: Registry[Any] = Registry("arm", "arm", __name__, group="b2m_fast.toy_arm")
student: Registry[Any] = Registry("student", "student", __name__, group="b2m_fast.toy_student")


@arm("none", "no teacher", role="baseline")
def none(gain: float) -> float:
    return 0.0 * gain


@arm("brain", "the teacher", role="tested")
def brain(gain: float) -> float:
    return gain


@arm("shuffled", "a teacher that knows nothing")
def shuffled(gain: float) -> float:
    return 0.1 * gain


@student("line", "learns along a line")
def line(step: int, gain: float) -> float:
    return min(1.0, step * (0.1 + gain))


@dataclass(frozen=True)
class Training:
    """How long.

    Parameters
    ----------
    steps : int
        Steps of the training.
    gain : float
        What the teacher adds in a step.
    schedule : {"constant", "cosine"}
        Of the gain.
    """

    steps: int = 12
    gain: float = 0.05
    schedule: Literal["constant", "cosine"] = "constant"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


@dataclass(frozen=True, kw_only=True)
class ToySettings(Settings):
    """A toy.

    Parameters
    ----------
    student : str
        Who learns.
    note : str, optional
        Free text.
    levels : tuple of float
        Levels of noise.
    """

    method_version: ClassVar[int] = 1

    student: str = "line"
    note: str | None = None
    levels: tuple[float, ...] = (0.0, 0.5)
    training: Training = field(default_factory=Training)


class Toy(Experiment[ToySettings]):
    """Learning along a line."""

    command = "toy"
    presets = "toy"
    purpose = "Does a number that is added to a line make it steeper?"
    settings = ToySettings
    arms = arm
    options = {
        "what": {"--student": "student"},
        "how": {"--steps": "training.steps", "--levels": "levels"},
    }
    choices = {"student": (student, {})}
    workers = 1

    def measures(self, settings: ToySettings, runs: Runs) -> Sequence[Measure]:
        from b2m_fast.evaluate.convergence import steps_to_criterion

        def time_of(run: Run) -> Any:
            entries = [{"step": s, "height": h} for s, h in zip(*run["curve"], strict=True)]
            return steps_to_criterion(entries, "height", 0.8, 1)

        return [
            Measure("height", lambda r: r["height"], decides=True, drawn=True),
            Measure(
                "steps",
                time_of,
                kind="time",
                better="lower",
                decides=True,
            ),
            Measure(
                "curve", lambda r: r["curve"], kind="curve", axes=("step", "height"), limit=0.8
            ),
        ]

    def reads(self, settings: ToySettings, arms: Sequence[str], context: Context) -> Inputs:
        return Inputs()

    def prepare(self, settings: ToySettings, arms: Sequence[str], context: Context) -> Prepared:
        gains = {a: self.arms.get(a).make(settings.training.gain) for a in arms}
        return Prepared(gains.__getitem__, {"words": ["The toy is a TOY."]})

    def run(
        self, settings: ToySettings, prepared: float, arm: str, seed: int, context: Context
    ) -> Run:
        if os.environ.get("TOY_DIES") == f"{arm}-{seed}":
            os._exit(7)
        if settings.note == "fail":
            raise FloatingPointError("the toy diverged")
        time.sleep({"wait": 30, "pause": 0.2}.get(settings.note or "", 0))
        grow = self.choices["student"][0].get(settings.student).make
        steps = list(range(settings.training.steps + 1))
        heights = [grow(s, prepared) * (1 + 0.01 * (seed % 3)) for s in steps]
        context.tick()
        return {"height": heights[-1] / 2, "curve": [steps, heights]}
