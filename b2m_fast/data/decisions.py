"""Memory-guided decision tasks a recurrent student is trained on.

Each task is a table: what every input channel shows in every epoch of every condition, and which
answer is right (`b2m_fast.data.epoch_task`).

Three of the tasks are neurogym's (Molano-Mazon et al. 2022), with its timings, values and noise,
written out here because neurogym 2.3.1 asks for NumPy 2.2, gymnasium 0.29 and matplotlib 3.10 and
so cannot be installed beside current ones; whole batches drawn at once are also faster than its
environments, which are stepped through trial by trial. `b2m_fast.data.neurogym_tasks` reads the
same tables from the package where it is installed, and a test holds one against the other.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.data.epoch_task import DecisionTask, EpochTask, Trials

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "DECISION_TASKS",
    "DecisionTask",
    "EpochTask",
    "Trials",
    "comparison_task",
    "decision_task",
    "direction_rule_task",
    "direction_task",
    "match_to_sample_task",
]


def direction_task(
    *,
    directions: int = 6,
    step_ms: float = 50.0,
    delay_ms: float = 1000.0,
    go_ms: float = 500.0,
    noise: float = 1.0,
) -> EpochTask:
    """Look, or look away: a remembered direction under one of two rules.

    Made to match the prefrontal recordings of Park et al. (bioRxiv 2025), whose monkeys had to move
    their eyes to a remembered place (look) or to avoid it (no-look), with places grouped into six
    directions: a target is shown for 200 ms and remembered for 1,000 ms, in steps of the recorded
    50 ms. What follows the delay is ours: the answer is the direction to look at, and to avoid a
    place is to look in the opposite direction.

    Inputs: fixation (1 until "go"), the rule (two channels, throughout), and a ring of units that
    answer the target with 1/2 + cos(difference of angles)/2; the ring is noisy all the time.

    Parameters
    ----------
    directions : int, default 6
        Directions, an even number.
    step_ms : float, default 50
        Length of a step, in milliseconds.
    delay_ms, go_ms : float
        Lengths of the delay and of the response epoch; the answer counts after 100 ms.
    noise : float, default 1
        Standard deviation of the ring's noise times sqrt(milliseconds).

    Returns
    -------
    EpochTask
        Epochs "fixation", "cue", "delay", "go"; conditions "look 1" to "no-look 6".

    Raises
    ------
    ValueError
        If `directions` is odd or less than two, or an epoch is no whole number of steps.

    Examples
    --------
    >>> task = direction_task()
    >>> task.epochs
    {'fixation': (0, 10), 'cue': (10, 14), 'delay': (14, 34), 'go': (34, 44)}
    >>> task.draw(24, np.random.default_rng(0)).inputs.shape
    torch.Size([44, 24, 9])
    """
    _check_ring(directions)
    rules = ("look", "no-look")
    pairs = list(product(range(len(rules)), range(directions)))
    rule, target = (np.array(part) for part in zip(*pairs, strict=True))
    angle = 2 * np.pi * np.arange(directions) / directions
    ring = 0.5 + 0.5 * np.cos(angle[target][:, None] - angle)
    shown = {
        epoch: np.column_stack(
            [np.full(len(pairs), epoch != "go"), np.eye(2)[rule], ring * (epoch == "cue")]
        ).astype(np.float32)
        for epoch in ("fixation", "cue", "delay", "go")
    }
    spread = np.array([0, 0, 0, *[noise] * directions], dtype=np.float32)
    return EpochTask(
        name="direction",
        step_ms=step_ms,
        timing={"fixation": 500.0, "cue": 200.0, "delay": delay_ms, "go": go_ms},
        conditions=tuple(f"{rules[r]} {d + 1}" for r, d in pairs),
        stimulus=shown,
        answer=np.where(rule == 0, target, (target + directions // 2) % directions),
        response="go",
        noise=dict.fromkeys(shown, spread),
        grace_ms=min(100.0, go_ms - step_ms),
    )


def match_to_sample_task(
    *, directions: int = 2, step_ms: float = 100.0, delay_ms: float = 1000.0, noise: float = 1.0
) -> EpochTask:
    """Delayed match to sample: was the second direction the first one (neurogym's DelayMatchSample).

    Parameters
    ----------
    directions : int, default 2
        Directions on a ring, an even number; a test that does not match is the opposite one.
    step_ms, delay_ms : float
        Length of a step and of the delay, in milliseconds.
    noise : float, default 1
        Standard deviation of the ring's noise, during both stimuli, times sqrt(milliseconds).

    Returns
    -------
    EpochTask
        Epochs "fixation", "sample", "delay", "test", "decision"; answer 0 is match, 1 is not.

    Raises
    ------
    ValueError
        If `directions` is odd or less than two, or an epoch is no whole number of steps.
    """
    _check_ring(directions)
    pairs = list(product((0, 1), range(directions)))
    answer, sample = (np.array(part) for part in zip(*pairs, strict=True))
    test = (sample + answer * (directions // 2)) % directions
    angle = 2 * np.pi * np.arange(directions) / directions
    ring = {
        "sample": np.cos(angle - angle[sample][:, None]) * 0.5 + 0.5,
        "test": np.cos(angle - angle[test][:, None]) * 0.5 + 0.5,
    }
    timing = {
        "fixation": 300.0,
        "sample": 500.0,
        "delay": delay_ms,
        "test": 500.0,
        "decision": 900.0,
    }
    silent = np.zeros((len(pairs), directions))
    spread = np.array([0, *[noise] * directions], dtype=np.float32)
    return EpochTask(
        name="delay-match-sample",
        step_ms=step_ms,
        timing=timing,
        conditions=tuple(f"{('match', 'non-match')[a]} {s + 1}" for a, s in pairs),
        stimulus={
            epoch: np.column_stack(
                [np.full(len(pairs), epoch != "decision"), ring.get(epoch, silent)]
            ).astype(np.float32)
            for epoch in timing
        },
        answer=answer,
        response="decision",
        noise=dict.fromkeys(ring, spread),
    )


def comparison_task(
    *, step_ms: float = 100.0, delay_ms: float = 1000.0, noise: float = 1.0
) -> EpochTask:
    """Parametric working memory: which of two stimuli was stronger (neurogym's DelayComparison).

    Strengths are the vibrations of Romo's monkeys, in hertz, scaled to [0.5, 1]; a pair differs by
    8 Hz.

    Parameters
    ----------
    step_ms, delay_ms : float
        Length of a step and of the delay, in milliseconds.
    noise : float, default 1
        Standard deviation of all input's noise, during both stimuli, times sqrt(milliseconds).

    Returns
    -------
    EpochTask
        Epochs "fixation", "stimulus1", "delay", "stimulus2", "decision"; answer 0: the first.

    Raises
    ------
    ValueError
        If an epoch is no whole number of steps.
    """
    strong = np.array([18.0, 22.0, 26.0, 30.0, 34.0])
    first = np.concatenate([strong, strong - 8])
    second = np.concatenate([strong - 8, strong])
    timing = {"fixation": 500.0, "stimulus1": 500.0, "delay": delay_ms, "stimulus2": 500.0}
    stimulus = {epoch: np.zeros((len(first), 2), np.float32) for epoch in (*timing, "decision")}
    for epoch in timing:
        stimulus[epoch][:, 0] = 1
    for epoch, value in (("stimulus1", first), ("stimulus2", second)):
        stimulus[epoch][:, 1] = (1 + (value - 10) / 24) / 2
    spread = np.full(2, noise, dtype=np.float32)
    return EpochTask(
        name="parametric-working-memory",
        step_ms=step_ms,
        timing={**timing, "decision": max(100.0, step_ms)},
        conditions=tuple(f"{a:.0f} then {b:.0f}" for a, b in zip(first, second, strict=True)),
        stimulus=stimulus,
        answer=(second > first).astype(np.int64),
        response="decision",
        noise={"stimulus1": spread, "stimulus2": spread},
    )


def direction_rule_task(
    *, directions: int = 16, step_ms: float = 100.0, delay_ms: float = 500.0
) -> EpochTask:
    """Delayed direction with a rule: reach there, or opposite (neurogym's yang19 dlygo and dlyanti).

    As in neurogym the answer is drawn and the stimulus follows from it and the rule, is a bump of
    height 0.8 on the ring, and has no noise; two further channels tell the rule throughout.

    Parameters
    ----------
    directions : int, default 16
        Directions on the ring, an even number.
    step_ms, delay_ms : float
        Length of a step and of the delay, in milliseconds.

    Returns
    -------
    EpochTask
        Epochs "fixation", "stimulus", "delay", "decision"; conditions "go 1" to "anti 16" name the
        answer.

    Raises
    ------
    ValueError
        If `directions` is odd or less than two, or an epoch is no whole number of steps.
    """
    _check_ring(directions)
    pairs = list(product((0, 1), range(directions)))
    rule, answer = (np.array(part) for part in zip(*pairs, strict=True))
    shown = (answer + rule * (directions // 2)) % directions
    angle = 2 * np.pi * np.arange(directions) / directions
    distance = np.abs(angle[shown][:, None] - angle)
    distance = np.minimum(distance, 2 * np.pi - distance) / (np.pi / 8)
    bump = 0.8 * np.exp(-(distance**2) / 2)
    timing = {"fixation": 500.0, "stimulus": 500.0, "delay": delay_ms, "decision": 500.0}
    return EpochTask(
        name="delay-direction-rule",
        step_ms=step_ms,
        timing=timing,
        conditions=tuple(f"{('go', 'anti')[r]} {a + 1}" for r, a in pairs),
        stimulus={
            epoch: np.column_stack(
                [
                    np.full(len(pairs), epoch != "decision"),
                    bump * (epoch == "stimulus"),
                    np.eye(2)[rule],
                ]
            ).astype(np.float32)
            for epoch in timing
        },
        answer=answer,
        response="decision",
        noise={},
    )


def _check_ring(directions: int) -> None:
    """Raise unless every direction has an opposite one."""
    if directions < 2 or directions % 2:
        raise ValueError(f"directions must be even and at least 2, got {directions}")


DECISION_TASKS: dict[str, Callable[..., EpochTask]] = {
    "direction": direction_task,
    "delay-match-sample": match_to_sample_task,
    "parametric-working-memory": comparison_task,
    "delay-direction-rule": direction_rule_task,
}


def decision_task(name: str, **options: float) -> EpochTask:
    """A task by its name.

    Parameters
    ----------
    name : str
        A key of `DECISION_TASKS`.
    **options : float
        Arguments of the task's function.

    Returns
    -------
    EpochTask
        The task.

    Raises
    ------
    ValueError
        If there is no such task.

    Examples
    --------
    >>> decision_task("parametric-working-memory").conditions[0]
    '18 then 10'
    """
    if name not in DECISION_TASKS:
        raise ValueError(f"unknown decision task {name!r}; there are {list(DECISION_TASKS)}")
    return DECISION_TASKS[name](**options)
