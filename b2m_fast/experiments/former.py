"""What every experiment that is not yet written anew needs: jobs of arms and seeds, and settings and results as JSON holds them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from b2m_fast.experiments.runs import Job

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Payload", "Settings", "as_json", "finite", "jobs", "plain", "with_history"]


@dataclass(frozen=True)
class Settings:
    """A whole experiment: everything its results depend on, but for the arm and the seed.

    Every kind of experiment is a dataclass on top of this one.

    Attributes
    ----------
    method_version : int
        Raised when a change makes stored results of older code incomparable.
    """

    method_version: ClassVar[int]

    def run_config(self, arm: str, seed: int, data: str) -> dict[str, Any]:
        """Everything that decides one run's result, as JSON can hold it.

        Parameters
        ----------
        arm : str
            Arm.
        seed : int
            Seed.
        data : str
            Fingerprint of the data files.

        Returns
        -------
        dict
            Configuration; its hash names the run.
        """
        config: dict[str, Any] = plain(asdict(self)) | {
            "arm": arm, "seed": seed, "data": data, "method_version": self.method_version
        }  # fmt: skip
        return config


@dataclass(frozen=True)
class Payload:
    """What a run needs besides its configuration (picklable).

    Attributes
    ----------
    experiment : Settings
        The experiment.
    material : object
        Task and teacher of the run's arm.
    threads : int
        Threads it may use.
    checkpoints : Path
        Folder for what runs need to go on after an interruption.
    """

    experiment: Any
    material: Any
    threads: int
    checkpoints: Path

    def folder(self, job: Job) -> Path:
        """Where one run may keep what it needs to go on; emptied when it is done.

        Parameters
        ----------
        job : Job
            The run.

        Returns
        -------
        Path
            A folder of its own for every run and every change of its settings.
        """
        return self.checkpoints / job.key


def plain(value: Any) -> Any:
    """Tuples as lists, as they come back from JSON.

    Parameters
    ----------
    value : object
        Nested dicts, lists, tuples and scalars.

    Returns
    -------
    object
        The same without tuples.
    """
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, tuple | list) else value


def finite(value: float | None) -> float | None:
    """A number as JSON can hold it.

    Parameters
    ----------
    value : float or None
        Any number.

    Returns
    -------
    float or None
        None for NaN and infinities.
    """
    return value if value is not None and math.isfinite(value) else None


def jobs(experiment: Settings, arms: Sequence[str], seeds: Sequence[int], data: str) -> list[Job]:
    """One job per seed and arm, seeds outermost, so that whole comparisons finish first.

    Parameters
    ----------
    experiment : Settings
        The experiment.
    arms : sequence of str
        Arms.
    seeds : sequence of int
        Seeds.
    data : str
        Fingerprint of the data files.

    Returns
    -------
    list of Job
        Without payload.
    """
    return [
        Job(f"{arm}-seed{seed}", experiment.run_config(arm, seed, data))
        for seed in seeds
        for arm in arms
    ]


def as_json(results: dict[str, Any]) -> str:
    """All results of an experiment as text: one line a run, learning curves short.

    A learning curve becomes a list for each of its numbers, of five significant digits: hundreds of
    runs written out in full are many megabytes. The files of the single runs have all digits.

    Parameters
    ----------
    results : dict
        With ``runs``, a list of results, or without.

    Returns
    -------
    str
        JSON; `with_history` turns curves back.
    """
    text = json.dumps({k: v for k, v in results.items() if k != "runs"}, indent=1)
    if "runs" not in results:
        return text + "\n"

    def short(value: Any) -> Any:
        return float(f"{value:.5g}") if isinstance(value, float) else value

    def line(run: dict[str, Any]) -> str:
        if "history" not in run:
            return json.dumps(run)
        names = list(dict.fromkeys(name for entry in run["history"] for name in entry))
        curves = {name: [short(entry.get(name)) for entry in run["history"]] for name in names}
        return json.dumps(run | {"history": curves}, separators=(",", ":"))

    lines = ",\n  ".join(map(line, results["runs"]))
    return f'{text[:-2]},\n "runs": [\n  {lines}\n ]\n}}\n'


def with_history(run: dict[str, Any]) -> dict[str, Any]:
    """A run that `as_json` has written, with its learning curve as a list of entries again.

    Parameters
    ----------
    run : dict
        One of ``runs``.

    Returns
    -------
    dict
        The same; what an entry did not have is None.
    """
    curves = run["history"]
    entries = [
        dict(zip(curves, values, strict=True)) for values in zip(*curves.values(), strict=True)
    ]
    return run | {"history": entries}
