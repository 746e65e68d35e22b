"""The former classes of recordings, made of what data sets load now: goes as soon as teachers and experiments read `Brain`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.data import dataset, hippocampus, pfc_memory, steinmetz, tasks
from b2m_fast.data import object2vec as _object2vec
from b2m_fast.data import v4 as _v4
from b2m_fast.data.files import DataError, numbers, whole_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

COWLEY_V4_SESSIONS = _v4.SESSIONS


@dataclass(frozen=True)
class Recording:
    name: str
    image_set: str
    images: NDArray[np.uint8]
    responses: NDArray[np.float32]
    trials: NDArray[np.float32] | None = None
    truth: NDArray[np.float32] | None = None
    synthetic: bool = False

    def __post_init__(self) -> None:
        neurons, n = self.responses.shape
        if len(self.images) != n:
            raise DataError(f"{self.name}: {len(self.images)} images but responses to {n}")
        if not np.isfinite(self.responses).all():
            raise DataError(f"{self.name}: responses contain NaN or infinity")
        if self.trials is not None and self.trials.shape[:2] != (neurons, n):
            raise DataError(
                f"{self.name}: trials {self.trials.shape} do not fit responses {(neurons, n)}"
            )

    @property
    def single_trial(self) -> NDArray[np.float32]:
        """The first repeat of each image (neurons, n), or `responses` where there are no trials."""
        if self.trials is None:
            return self.responses
        first = np.isfinite(self.trials).argmax(axis=2)
        return np.take_along_axis(self.trials, first[:, :, None], axis=2)[:, :, 0]


@dataclass(frozen=True, eq=False)
class Session:
    spikes: NDArray[np.floating] | NDArray[np.integer]
    condition: NDArray[np.int64]

    def __post_init__(self) -> None:
        spikes = numbers("spikes", self.spikes, 3, "(trials, neurons, bins)")
        object.__setattr__(self, "spikes", spikes)
        condition = whole_numbers("condition", self.condition, "(trials,)")
        object.__setattr__(self, "condition", condition)


@dataclass(frozen=True, eq=False)
class SpikeRecording:
    name: str
    sessions: tuple[Session, ...]
    conditions: tuple[str, ...]
    bin_ms: float
    epochs: Mapping[str, tuple[float, float]]
    start_ms: float = 0.0
    synthetic: bool = False

    def __post_init__(self) -> None:
        if not self.sessions:
            raise DataError(f"{self.name}: there is no session")
        if not all(isinstance(session, Session) for session in self.sessions):
            kinds = sorted({type(session).__name__ for session in self.sessions})
            raise DataError(f"{self.name}: sessions must be of class Session, got {kinds}")
        names: object = self.conditions  # a string is a sequence of names, too
        if isinstance(names, str) or {type(name) for name in self.conditions} - {str, np.str_}:
            raise DataError(f"{self.name}: conditions must be a tuple of names, got {names!r}")
        object.__setattr__(self, "sessions", tuple(self.sessions))
        object.__setattr__(self, "conditions", tuple(self.conditions))
        if len(set(self.conditions)) < len(self.conditions):
            raise DataError(f"{self.name}: conditions must differ, got {list(self.conditions)}")
        for name, (begin, end) in self.epochs.items():
            if not (math.isfinite(begin) and math.isfinite(end) and begin < end):
                raise DataError(
                    f"{self.name}: the epoch {name!r} must begin before it ends, got {begin} to "
                    f"{end} ms"
                )
        if not math.isfinite(self.start_ms):
            raise DataError(f"{self.name}: start_ms must be finite, got {self.start_ms}")
        bins = {session.spikes.shape[2:] for session in self.sessions}
        if len(bins) != 1:
            raise DataError(
                f"{self.name}: all sessions must share one clock, got {sorted(bins)} bins"
            )
        if bins == {(0,)}:
            raise DataError(f"{self.name}: spikes have no bins")
        if not 0 < self.bin_ms < math.inf:
            raise DataError(f"{self.name}: bin_ms must be positive and finite, got {self.bin_ms}")
        bad, first = [], 0
        for number, session in enumerate(self.sessions):
            trials, neurons, _ = session.spikes.shape
            if session.condition.shape != (trials,):
                raise DataError(
                    f"{self.name}: session {number} has {trials} trials but conditions of shape "
                    f"{session.condition.shape}"
                )
            if trials and not (
                session.condition.min() >= 0 and session.condition.max() < len(self.conditions)
            ):
                raise DataError(
                    f"{self.name}: session {number} has conditions outside 0 to "
                    f"{len(self.conditions) - 1}"
                )
            sound = (np.isfinite(session.spikes) & (session.spikes >= 0)).all(axis=(0, 2))
            bad += (first + np.flatnonzero(~sound)).tolist()
            first += neurons
        if bad:
            some = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
            raise DataError(
                f"{self.name}: {len(bad)} of {first} units hold NaN, infinite or negative counts "
                f"(units {some}): leave them out"
            )

    @property
    def units(self) -> int:
        """Neurons of all sessions."""
        return sum(session.spikes.shape[1] for session in self.sessions)

    @property
    def bins(self) -> int:
        """Bins of a trial."""
        return int(self.sessions[0].spikes.shape[2])


@dataclass(frozen=True)
class CategoryRecording:
    name: str
    images: NDArray[np.uint8]
    category: NDArray[np.int64]
    categories: tuple[str, ...]
    areas: dict[str, NDArray[np.float32]]
    fold: NDArray[np.int64]

    def average(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Averages over the images of each category.

        Parameters
        ----------
        values : ndarray
            (n, p), a row an image.

        Returns
        -------
        ndarray
            (categories, p).
        """
        total = np.zeros((len(self.categories), values.shape[1]))
        np.add.at(total, self.category, values)
        return total / np.bincount(self.category, minlength=len(self.categories))[:, None]


def cowley_v4_files(root: Path) -> list[Path]:
    return _v4.SOURCE.paths(root)


def cowley_v4(root: Path, sessions: Sequence[str] = COWLEY_V4_SESSIONS) -> list[Recording]:
    brain = _v4.cowley_v4(root, sessions=tuple(sessions))
    return [
        Recording(
            name=f"V4-{r.session}",
            image_set=r.session,
            images=np.asarray(brain.stimuli_of(r).images),
            responses=np.ascontiguousarray(r.mean().T).astype(np.float32),
            trials=np.ascontiguousarray(r.repeats().transpose(2, 0, 1)) if r.repeated else None,
        )
        for r in brain.recordings
    ]


def object2vec_files(root: Path) -> list[Path]:
    return _object2vec.SOURCE.paths(root)


def object2vec(root: Path) -> CategoryRecording:
    brain = _object2vec.object2vec(root)
    (stimuli,) = brain.stimuli
    first = brain.recordings[0]
    place = {name: k for k, name in enumerate(first.shown)}
    category = np.array([place[name] for name in stimuli.presented or ()])
    areas = {r.session: np.asarray(r.responses) for r in brain.recordings}
    fold = np.asarray(first.split).astype(np.int64)
    return CategoryRecording(
        "Object2Vec", np.asarray(stimuli.images), category, first.shown, areas, fold
    )


def spike_files(name: str, root: Path) -> list[Path]:
    sources = {
        "pfc-memory": pfc_memory.SOURCE,
        "steinmetz": steinmetz.SOURCE,
        "hippocampus": hippocampus.SOURCE,
    }
    return sources[name].paths(root)


def spike_recording(name: str, root: Path, **options: Any) -> SpikeRecording:
    brain = dataset.get(name).build(options, root=root)
    time = brain.recordings[0].time
    return SpikeRecording(
        brain.name,
        tuple(
            Session(np.asarray(r.responses), r.codes(brain.conditions)) for r in brain.recordings
        ),
        brain.conditions,
        time.bin_ms,
        time.epochs,
        time.start_ms,
    )


DECISION_TASKS: dict[str, Callable[..., tasks.EpochTask]] = {
    f().name: f
    for f in (
        tasks.direction,
        tasks.delay_match_sample,
        tasks.parametric_working_memory,
        tasks.delay_direction_rule,
    )
}


def decision_task(name: str, **options: Any) -> tasks.EpochTask:
    if name not in DECISION_TASKS:
        raise ValueError(f"unknown decision task {name!r}; there are {list(DECISION_TASKS)}")
    return DECISION_TASKS[name](**options)
