"""Decision tasks read from neurogym itself, where it is installed. Library only: no command uses it.

neurogym 2.3.1 pins versions of NumPy, gymnasium and matplotlib that lie behind this package's, but its environments run with
current ones: install it without its requirements (see `_HINT`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.data.tasks import (
    EpochTask,
    delay_direction_rule,
    delay_match_sample,
    parametric_working_memory,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

__all__ = ["neurogym_task"]

_HINT = (
    "reading tasks from neurogym needs that package: pip install gymnasium loguru natsort "
    "pydantic-settings tomlkit && pip install --no-deps neurogym; the same tasks, without it, are "
    "in b2m_fast.data.tasks"
)
Recorded = list[tuple["NDArray[np.float32]", "NDArray[np.int64]"]]


def neurogym_task(task: Callable[..., EpochTask]) -> EpochTask:
    """Return one of the three tasks of `b2m_fast.data.tasks` that are neurogym's, as neurogym defines it.

    Each condition's trial is made once by neurogym without noise; its table is what is drawn from, with noise added here.
    """
    if task is delay_match_sample:
        env = _load("neurogym.envs.native.delaymatchsample").DelayMatchSample()
        trials = [{"ground_truth": a, "sample_theta": t} for a in (1, 2) for t in env.theta]
        spread = _silence(env) * np.array([0, *[1] * len(env.theta)])
        return _table(task, env, _record(env, trials), {"sample": spread, "test": spread})
    if task is parametric_working_memory:
        env = _load("neurogym.envs.native.delaycomparison").DelayComparison()
        trials = [{"ground_truth": a, "vpair": pair} for a in (1, 2) for pair in env.vpairs]
        spread = _silence(env) * np.ones(2)
        return _table(task, env, _record(env, trials), {"stimulus1": spread, "stimulus2": spread})
    if task is delay_direction_rule:
        module = _load("neurogym.envs.collections.yang19")
        recorded: Recorded = []
        for rule, made in enumerate((module.dlygo(), module.dlyanti())):
            env = made.envs[0].unwrapped  # the first of two modalities
            seen = 1 + env.dim_ring
            for ob, gt in _record(env, [{"ground_truth": a} for a in env.choices]):
                told = np.tile(np.eye(2)[rule], (len(ob), 1))
                recorded.append((np.column_stack([ob[:, :seen], told]), gt))
        return _table(task, env, recorded, {})
    raise ValueError(f"neurogym has no task {getattr(task, '__name__', task)}")


def _load(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(_HINT) from error


def _silence(env: Any) -> float:
    """Turn an environment's noise off and return what it was, in this package's unit (sd sqrt(ms))."""
    sigma = float(env.sigma * env.dt**0.5)
    env.sigma = 0.0
    return sigma


def _record(env: Any, trials: Iterable[dict[str, Any]]) -> Recorded:
    """Return inputs (steps, channels) and actions (steps,) of the given trials."""
    recorded = []
    for trial in trials:
        env.new_trial(**trial)
        recorded.append((np.array(env.ob), np.array(env.gt)))
    return recorded


def _table(
    task: Callable[..., EpochTask],
    env: Any,
    recorded: Recorded,
    noise: Mapping[str, NDArray[np.float64]],
) -> EpochTask:
    """Return the table of what was recorded: inputs at the first step of every epoch."""
    timing = {epoch: float(env.end_t[epoch] - env.start_t[epoch]) for epoch in env.timing}
    response, ours = list(timing)[-1], task()
    return EpochTask(
        name=ours.name,
        step_ms=float(env.dt),
        timing=timing,
        conditions=ours.conditions,
        stimulus={
            epoch: np.stack([ob[env.start_ind[epoch]] for ob, _ in recorded]).astype(np.float32)
            for epoch in timing
        },
        answer=np.array([gt[env.start_ind[response]] - 1 for _, gt in recorded], dtype=np.int64),
        response=response,
        noise={epoch: np.asarray(spread, dtype=np.float32) for epoch, spread in noise.items()},
    )
