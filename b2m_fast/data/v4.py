"""Recordings of neurons that looked at images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.data.files import DataError, Source, load_jpegs, load_npy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["COWLEY_V4", "COWLEY_V4_SESSIONS", "Recording", "cowley_v4", "cowley_v4_files"]

COWLEY_V4 = Source(
    name="the macaque V4 recordings of Cowley, Stan, Pillow and Smith (bioRxiv 2023)",
    folder="cowley_v4",
    origin=(
        "github.com/cowleygroup/V4_compact_models: images_<session>.zip, "
        "responses_avg_<session>.npy and, for 210325, responses_raw_210325.npy"
    ),
    licence=(
        "the repository is GPL-3.0, without a separate licence for the data; cite the preprint; "
        "the photographs belong to their photographers"
    ),
)
COWLEY_V4_SESSIONS = ("190923", "201025", "210225", "210325", "210621")


@dataclass(frozen=True)
class Recording:
    """What one population of neurons answered to a set of images.

    Attributes
    ----------
    name : str
        The recording's name.
    image_set : str
        Recordings of the same images, in the same order, share this name.
    images : ndarray
        (n, H, W, C), uint8, C = 3 (RGB) or 1 (gray).
    responses : ndarray
        (neurons, n), float32: mean spike count over the repeats there are.
    trials : ndarray, optional
        (neurons, n, repeats), float32: single repeats, NaN where there is none.
    truth : ndarray, optional
        (neurons, n), float32: noise-free responses, known only for synthetic recordings.
    synthetic : bool
        True for a simulation.
    """

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


def cowley_v4_files(root: Path, sessions: Sequence[str] = COWLEY_V4_SESSIONS) -> list[Path]:
    """The files `cowley_v4` reads, all known to exist.

    Parameters
    ----------
    root : Path
        The data directory.
    sessions : sequence of str
        Names of sessions.

    Returns
    -------
    list of Path
        Images and responses of each session, and the single repeats of 210325.

    Raises
    ------
    DataError
        If one is missing, or a session is unknown.
    """
    unknown = sorted(set(sessions) - set(COWLEY_V4_SESSIONS))
    if unknown:
        raise DataError(f"unknown V4 sessions {unknown}; there are {list(COWLEY_V4_SESSIONS)}")
    names = [n for s in sessions for n in (f"images_{s}.zip", f"responses_avg_{s}.npy")]
    if "210325" in sessions:
        names.append("responses_raw_210325.npy")
    return [COWLEY_V4.path(root, name) for name in names]


def cowley_v4(root: Path, sessions: Sequence[str] = COWLEY_V4_SESSIONS) -> list[Recording]:
    """Macaque V4, natural images: 5 sessions, 33 to 89 neurons, 640 to 1,200 images each.

    Only session 210325 has single repeats (6 to 10 of each image); the others are averages over
    an unstated number of repeats.

    Parameters
    ----------
    root : Path
        The data directory.
    sessions : sequence of str
        Names of sessions.

    Returns
    -------
    list of Recording
        One per session; responses in spikes per 100 ms.

    Raises
    ------
    DataError
        If a file is missing or malformed, or images and responses do not match.
    """
    cowley_v4_files(root, sessions)
    recordings = []
    for session in sessions:
        images = load_jpegs(COWLEY_V4.path(root, f"images_{session}.zip"))[1]
        mean = load_npy(COWLEY_V4.path(root, f"responses_avg_{session}.npy"), ndim=2)
        trials = None
        if session == "210325":
            path = COWLEY_V4.path(root, "responses_raw_210325.npy")
            trials = load_npy(path, ndim=3).astype(np.float32)
        recordings.append(
            Recording(
                name=f"V4-{session}",
                image_set=session,
                images=images,
                responses=mean.astype(np.float32),
                trials=trials,
            )
        )
    return recordings
