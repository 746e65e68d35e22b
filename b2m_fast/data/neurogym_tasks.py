"""The decision tasks of neurogym, read from the package itself where it is installed.

neurogym 2.3.1 pins versions of NumPy, gymnasium and matplotlib that lie behind this package's, but
its environments run with current ones: install it without its requirements (see `_HINT`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.data.decisions import decision_task
from b2m_fast.data.epoch_task import EpochTask

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

__all__ = ["neurogym_task"]

_HINT = (
    "reading tasks from neurogym needs that package: pip install gymnasium loguru natsort "
    "pydantic-settings tomlkit && pip install --no-deps neurogym; the same tasks, without it, are "
    "made by b2m_fast.data.decisions.decision_task"
)


def neurogym_task(name: str) -> EpochTask:
    """A decision task as neurogym defines it, with its own timing, stimuli and noise.

    Each condition's trial is made once by neurogym without noise; its table is what is drawn from,
    with noise added here.

    Parameters
    ----------
    name : {"delay-match-sample", "parametric-working-memory", "delay-direction-rule"}
        The task.

    Returns
    -------
    EpochTask
        With the conditions of `b2m_fast.data.decisions.decision_task`.

    Raises
    ------
    ValueError
        If there is no such task.
    ImportError
        If neurogym is not installed; the message says how to install it.
    """
    if name == "delay-match-sample":
        env = _load("neurogym.envs.native.delaymatchsample").DelayMatchSample()
        trials = [{"ground_truth": a, "sample_theta": t} for a in (1, 2) for t in env.theta]
        spread = _silence(env) * np.array([0, *[1] * len(env.theta)])
        return _table(name, env, _record(env, trials), {"sample": spread, "test": spread})
    if name == "parametric-working-memory":
        env = _load("neurogym.envs.native.delaycomparison").DelayComparison()
        trials = [{"ground_truth": a, "vpair": pair} for a in (1, 2) for pair in env.vpairs]
        spread = _silence(env) * np.ones(2)
        return _table(name, env, _record(env, trials), {"stimulus1": spread, "stimulus2": spread})
    if name == "delay-direction-rule":
        module = _load("neurogym.envs.collections.yang19")
        recorded = []
        for rule, task in enumerate((module.dlygo(), module.dlyanti())):
            env = task.envs[0].unwrapped  # the first of two modalities
            seen = 1 + env.dim_ring
            for ob, gt in _record(env, [{"ground_truth": a} for a in env.choices]):
                told = np.tile(np.eye(2)[rule], (len(ob), 1))
                recorded.append((np.column_stack([ob[:, :seen], told]), gt))
        return _table(name, env, recorded, {})
    known = ["delay-match-sample", "parametric-working-memory", "delay-direction-rule"]
    raise ValueError(f"unknown neurogym task {name!r}; there are {known}")


def _load(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(_HINT) from error


def _silence(env: Any) -> float:
    """Turn an environment's noise off; what it was, in this package's unit (sd sqrt(ms))."""
    sigma = float(env.sigma * env.dt**0.5)
    env.sigma = 0.0
    return sigma


def _record(
    env: Any, trials: Iterable[dict[str, Any]]
) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Inputs (steps, channels) and actions (steps,) of the given trials."""
    recorded = []
    for trial in trials:
        env.new_trial(**trial)
        recorded.append((np.array(env.ob), np.array(env.gt)))
    return recorded


def _table(
    name: str,
    env: Any,
    recorded: list[tuple[NDArray[np.float32], NDArray[np.int64]]],
    noise: Mapping[str, NDArray[np.float64]],
) -> EpochTask:
    """The table of what was recorded: inputs at the first step of every epoch."""
    timing = {epoch: float(env.end_t[epoch] - env.start_t[epoch]) for epoch in env.timing}
    response = list(timing)[-1]
    return EpochTask(
        name=name,
        step_ms=float(env.dt),
        timing=timing,
        conditions=decision_task(name).conditions,
        stimulus={
            epoch: np.stack([ob[env.start_ind[epoch]] for ob, _ in recorded]).astype(np.float32)
            for epoch in timing
        },
        answer=np.array([gt[env.start_ind[response]] - 1 for _, gt in recorded], dtype=np.int64),
        response=response,
        noise={epoch: np.asarray(spread, dtype=np.float32) for epoch, spread in noise.items()},
    )
