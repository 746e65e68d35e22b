"""Small recordings whose truth is known, for the tests of populations, latents and controls."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from b2m_fast.data.recording import Brain, Recording, TimeAxis
from b2m_fast.data.tasks import EpochTask, direction
from b2m_fast.teachers.latents import LatentTeacher, make_latents
from b2m_fast.teachers.population import make_population
from b2m_fast.teachers.synthetic import observe


def trials(
    *sessions: tuple[NDArray[np.generic], NDArray[np.integer]],
    conditions: tuple[str, ...] = ("a", "b"),
    bin_ms: float = 50.0,
    **epochs: tuple[float, float],
) -> Brain:
    """A brain of sessions, each of counts (trials, units, bins) and conditions by number."""
    return Brain(
        "test",
        [
            Recording(
                counts, np.array(conditions)[condition], f"{k}", time=TimeAxis(bin_ms, epochs)
            )
            for k, (counts, condition) in enumerate(sessions)
        ],
        conditions=conditions,
    )


def planted_states(task: EpochTask, units: int = 40, seed: int = 0) -> NDArray[np.float64]:
    """Hidden states (conditions, steps, units) of four planted latents: direction, rule, time."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, task.steps)
    angle = 2 * np.pi * np.arange(12)[:, None] / 6
    rise = np.clip((t - 0.2) * 5, 0, 1)
    latents = np.stack(
        [
            np.cos(angle) * rise,
            np.sin(angle) * rise,
            np.where(np.arange(12) < 6, 1.0, -1.0)[:, None] * np.ones_like(t),
            np.tile(np.sin(np.pi * t), (12, 1)),
        ],
        axis=2,
    )
    return np.asarray(latents @ np.linalg.qr(rng.normal(size=(units, 4)))[0].T)


def planted_recording(repeats: int = 12, neurons: int = 60, seed: int = 0) -> Brain:
    """Spikes that see `planted_states`."""
    task = direction()
    rng = np.random.default_rng([seed, 1])
    return observe(planted_states(task), np.arange(12), task, rng, neurons=neurons, repeats=repeats)


def planted_teacher(k: int = 4) -> LatentTeacher:
    """Latents of `planted_recording`."""
    return make_latents(make_population(planted_recording()), direction(), k=k, splits=2)
