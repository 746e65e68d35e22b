"""What every experiment needs: jobs of arms and seeds, and settings as JSON can hold them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from b2m_fast.transfer.runs import Job, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["Payload", "finite", "jobs", "plain"]


@dataclass(frozen=True)
class Payload:
    """What a run needs besides its configuration (picklable).

    Attributes
    ----------
    experiment : object
        The settings.
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
        return self.checkpoints / f"{job.name}-{digest(job.config)}"


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


def jobs(
    config: Callable[[str, int], dict[str, Any]], arms: Sequence[str], seeds: Sequence[int]
) -> list[Job]:
    """One job per seed and arm, seeds outermost, so that whole comparisons finish first.

    Parameters
    ----------
    config : callable
        ``config(arm, seed)``: everything that decides a run's result.
    arms : sequence of str
        Arms.
    seeds : sequence of int
        Seeds.

    Returns
    -------
    list of Job
        Without payload.
    """
    return [Job(f"{arm}-seed{seed}", config(arm, seed)) for seed in seeds for arm in arms]
