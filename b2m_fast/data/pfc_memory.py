"""Macaque prefrontal cortex while a direction is remembered (Park et al., bioRxiv 2025)."""

from __future__ import annotations

import numpy as np

from b2m_fast.data import dataset
from b2m_fast.data.files import Root, Source, load_npz, require
from b2m_fast.data.recording import Brain, Recording, TaskMatch, TimeAxis
from b2m_fast.data.tasks import direction

SOURCE = Source(
    name="the macaque prefrontal recordings of Park et al. (bioRxiv 2025, 10.1101/2025.02.25.640211)",
    folder="pfc_memory",
    files=("pfc_memory_park.npz",),
    origin=(
        "github.com/pjjeongjun/Orthogonal_Code, raw_spiking_data; pack firing rates of the memory "
        "cells after target offset as pfc_memory_park.npz with delay_rate (trials, 20) in spikes/s "
        "per 50 ms bin, delay_unit, delay_look (1 look, 0 no-look), delay_direction (1 to 6)"
    ),
    licence="the repository has no licence for the data: do not redistribute; cite the preprint",
)
CONDITIONS = tuple(f"{rule} {d}" for rule in ("look", "no-look") for d in range(1, 7))


# at least 16 trials of each condition keep 315 of the 319 units
TASK = TaskMatch(direction, options={"directions": 6}, minimum_trials=16)


@dataset(
    "pfc-memory", "macaque prefrontal cortex, memory", kind="trials", source=SOURCE, tasks=(TASK,)
)
def pfc_memory(root: Root = None) -> Brain:
    """Correct trials of 319 memory cells in the second after the target's offset, by 6 directions (of 60 degrees) x 2 rules.

    They were recorded mostly one at a time, so every unit is a session of its own. The rule may have been blocked: slow drift
    could help to tell look from no-look.
    """
    (path,) = SOURCE.paths(root)
    axes = dict.fromkeys(("delay_unit", "delay_look", "delay_direction"), ("trials",))
    rate, unit, look, place = load_npz(path, {"delay_rate": ("trials", 20), **axes}).values()
    require(np.isin(look, (0, 1)).all(), f"{path}: delay_look must be 0 or 1")
    require(np.isin(place, range(1, 7)).all(), f"{path}: delay_direction must be 1 to 6")
    counts = np.asarray(rate * 0.05, dtype=np.float32)  # spikes/s in bins of 50 ms
    condition = np.array(CONDITIONS)[np.where(look == 1, 0, 6) + place.astype(np.int64) - 1]
    order = np.argsort(unit, kind="stable")
    ends = np.flatnonzero(np.diff(unit[order])) + 1
    time = TimeAxis(50.0, {"delay": (0.0, 1000.0)})
    recordings = [
        Recording(counts[rows][:, None], condition[rows], f"unit {unit[rows[0]]}", time=time)
        for rows in np.split(order, ends)
    ]
    return Brain("pfc-memory", recordings, conditions=CONDITIONS)
