"""The former classes of recordings, made of what data sets load now: goes as soon as teachers and experiments read `Brain`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.data import hippocampus, pfc_memory, steinmetz, tasks
from b2m_fast.data import object2vec as _object2vec
from b2m_fast.data import v4 as _v4
from b2m_fast.data.files import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
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
