"""Macaque V4 and natural images: the sessions of Cowley, Stan, Pillow and Smith (bioRxiv 2023)."""

from __future__ import annotations

import numpy as np

from b2m_fast.data import dataset
from b2m_fast.data.driving import camvid, car_racing
from b2m_fast.data.files import Root, Source, load_jpegs, load_npy, require
from b2m_fast.data.recording import Brain, Recording, Stimuli, TaskMatch

SESSIONS = ("190923", "201025", "210225", "210325", "210621")
REPEATS = "210325"  # of the others there are averages only


def _files(session: str) -> tuple[str, str]:
    which = "raw" if session == REPEATS else "avg"
    return f"images_{session}.zip", f"responses_{which}_{session}.npy"


SOURCE = Source(
    name="the macaque V4 recordings of Cowley, Stan, Pillow and Smith (bioRxiv 2023)",
    folder="cowley_v4",
    files=tuple(name for session in SESSIONS for name in _files(session)),
    origin=(
        "github.com/cowleygroup/V4_compact_models: images_<session>.zip, "
        f"responses_avg_<session>.npy and, for {REPEATS}, responses_raw_{REPEATS}.npy"
    ),
    licence=(
        "the repository is GPL-3.0, without a separate licence for the data; cite the preprint; "
        "the photographs belong to their photographers"
    ),
)


@dataset(
    "cowley-v4",
    "macaque V4, natural images: 5 sessions of 33 to 89 units",
    kind="images",
    source=SOURCE,
    tasks=(TaskMatch(camvid), TaskMatch(car_racing)),
    repeated="210325",
    labelled="201025",
)
def cowley_v4(root: Root = None, *, sessions: tuple[str, ...] = SESSIONS) -> Brain:
    """Spike counts in 100 ms, 640 to 1,200 images a session; only 210325 has single repeats (6 to 10 of each image).

    The others are averages over an unstated number of repeats: one presentation of each image.
    """
    unknown = sorted(set(sessions) - set(SESSIONS))
    require(not unknown, f"unknown V4 sessions {unknown}; there are {list(SESSIONS)}")
    recordings, stimuli = [], []
    for session in sessions:
        zipped, responses = SOURCE.paths(root, _files(session))
        names, images = load_jpegs(zipped)
        ids = np.array([f"{session}/{name.rpartition('/')[2]}" for name in names])
        counts = load_npy(responses, ndim=3 if session == REPEATS else 2)
        got = f"{responses}: responses to {counts.shape[1]} images, but {zipped} has {len(images)}"
        require(counts.shape[1] == len(images), got)
        stimuli.append(Stimuli(tuple(ids), images, name=session))
        if session == REPEATS:  # (units, images, repeats), NaN where there is none
            there = np.isfinite(counts).all(axis=0)
            ids, counts = np.repeat(ids, there.sum(axis=1)), counts[:, there]
        rows = np.ascontiguousarray(counts.T, dtype=np.float32)
        recordings.append(Recording(rows, ids, session, unit="spikes in 100 ms"))
    return Brain("V4", recordings, stimuli)
