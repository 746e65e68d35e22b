"""Decision tasks: what a trial shows, when the answer counts, and where chance comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from b2m_fast.data import task as registry
from b2m_fast.data.tasks import (
    EpochTask,
    delay_direction_rule,
    delay_match_sample,
    direction,
    parametric_working_memory,
)

RNG = np.random.default_rng
ALL = sorted(registry.listings(kind="trials"))
Recorded = list[tuple[NDArray[np.float32], NDArray[np.int64]]]
NEUROGYM = [name for name in ALL if name != "direction"]


@pytest.mark.parametrize("name", ALL)
def test_trials_have_the_promised_form(name: str) -> None:
    """Shapes, dtypes and ranges are those students rely on."""
    task = registry.get(name).build()
    trials = task.draw(11, RNG(0))
    assert trials.inputs.shape == (task.steps, 11, task.channels)
    assert trials.target.shape == trials.mask.shape == (task.steps, 11)
    assert trials.inputs.dtype == trials.mask.dtype == torch.float32
    assert trials.target.dtype == trials.condition.dtype == torch.int64
    assert set(trials.mask.unique().tolist()) == {0, 1}
    assert 0 <= int(trials.target.min()) <= int(trials.target.max()) < task.classes
    assert set(task.answer.tolist()) == set(range(task.classes))
    assert len(set(task.conditions)) == len(task.conditions) == len(task.answer)


@pytest.mark.parametrize("name", ALL)
def test_epochs_tile_the_trial(name: str) -> None:
    """Epochs follow one another without gaps, and the answer counts in the last one alone."""
    task = registry.get(name).build()
    ranges = list(task.epochs.values())
    assert ranges[0][0] == 0
    assert ranges[-1][1] == task.steps
    assert all(a[1] == b[0] for a, b in pairwise(ranges))
    counts = task.draw(3, RNG(0)).mask[:, 0].nonzero().ravel().tolist()
    assert counts == list(range(counts[0], task.steps))
    assert ranges[-1][0] <= counts[0]


@pytest.mark.parametrize("name", ALL)
def test_chance_comes_from_the_generator_alone(name: str) -> None:
    """The same generator state gives the same trials; another gives others."""
    task = registry.get(name).build()
    torch.manual_seed(0)
    a = task.draw(40, RNG(3))
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    b, c = task.draw(40, RNG(3)), task.draw(40, RNG(4))
    assert torch.equal(a.inputs, b.inputs)
    assert torch.equal(a.condition, b.condition)
    assert not torch.equal(a.condition, c.condition)


def test_conditions_are_balanced() -> None:
    """Conditions appear equally often, or once more; what is left over is left to chance."""
    task = direction()
    count = torch.bincount(task.draw(24, RNG(0)).condition, minlength=12)
    assert count.tolist() == [2] * 12
    few = [frozenset(task.draw(5, RNG(seed)).condition.tolist()) for seed in range(20)]
    assert all(len(chosen) == 5 for chosen in few)
    assert len(set(few)) > 10


def test_direction_task_matches_the_recordings() -> None:
    """The delay's twenty steps are the recorded 50 ms bins; the target lasts 200 ms."""
    task = direction()
    assert task.step_ms == 50
    begin, end = task.epochs["delay"]
    assert end - begin == 20
    begin, end = task.epochs["cue"]
    assert (end - begin) * task.step_ms == 200
    assert task.conditions[:1] + task.conditions[-1:] == ("look 1", "no-look 6")


def test_look_is_there_and_no_look_is_opposite() -> None:
    """Same target, opposite answers; only the rule's channels tell them apart."""
    task = direction(noise=0.0)
    look, away = task.conditions.index("look 2"), task.conditions.index("no-look 2")
    assert task.answer[look] == 1
    assert task.answer[away] == 4
    for epoch in task.epochs:
        differs = np.flatnonzero(task.stimulus[epoch][look] != task.stimulus[epoch][away])
        assert differs.tolist() == [1, 2]


def test_memory_is_needed() -> None:
    """Between cue and answer nothing but the rule is shown: without noise all directions look alike."""
    trials = direction(noise=0.0).draw(60, RNG(0))
    late = trials.inputs[14:]
    for rule in (1, 2):
        same = late[:, late[0, :, rule] == 1]
        assert torch.equal(same, same[:, :1].expand_as(same))


def test_noise_has_the_stated_size() -> None:
    """Standard deviation is noise / sqrt(step), on the noisy channels and epochs only."""
    task = direction(noise=2.0)
    quiet = direction(noise=0.0)
    difference = task.draw(600, RNG(0)).inputs
    condition = task.draw(600, RNG(0)).condition.numpy()
    for epoch, (begin, end) in task.epochs.items():
        difference[begin:end] -= torch.from_numpy(quiet.stimulus[epoch][condition])
    assert float(difference[..., :3].abs().max()) == 0
    assert float(difference[..., 3:].std()) == pytest.approx(2 / 50**0.5, rel=0.02)
    sample = registry.get("delay-match-sample").build().draw(600, RNG(1)).inputs[8:18, :, 1:]
    assert float(sample.abs().max()) == 0


def test_longer_delay() -> None:
    """A longer delay adds steps to the delay alone."""
    task = direction(noise=0.0)
    short, long = task.draw(12, RNG(0)), task.draw(12, RNG(0), delay_ms=1500)
    assert len(long.inputs) == len(short.inputs) + 10
    assert task.with_delay(1500).epochs["delay"] == (14, 44)
    assert torch.equal(short.condition, long.condition)
    assert torch.equal(short.inputs[:34], long.inputs[:34])
    assert torch.equal(short.inputs[34:], long.inputs[44:])
    assert torch.equal(short.mask.sum(0), long.mask.sum(0))


@pytest.mark.parametrize("name", NEUROGYM)
def test_tables_are_neurogyms(name: str) -> None:
    """Timing, stimuli, answers and noise are exactly what neurogym makes."""
    pytest.importorskip("neurogym", reason="neurogym is not installed: nothing to compare with")
    ours, theirs = registry.get(name).build(), neurogym_task(registry.get(name).make)
    assert ours.timing == theirs.timing
    assert ours.step_ms == theirs.step_ms
    assert ours.epochs == theirs.epochs
    assert ours.response == theirs.response
    np.testing.assert_array_equal(ours.answer, theirs.answer)
    for epoch in ours.timing:
        np.testing.assert_allclose(ours.stimulus[epoch], theirs.stimulus[epoch], atol=1e-7)
    assert list(ours.noise) == list(theirs.noise)
    for epoch in ours.noise:
        np.testing.assert_allclose(ours.noise[epoch], theirs.noise[epoch])


def neurogym_task(task: Callable[..., EpochTask]) -> EpochTask:
    """One of the three tasks that are neurogym's, as neurogym defines it: each condition's trial is made once, without noise."""
    if task is delay_match_sample:
        env = import_module("neurogym.envs.native.delaymatchsample").DelayMatchSample()
        trials = [{"ground_truth": a, "sample_theta": t} for a in (1, 2) for t in env.theta]
        spread = _silence(env) * np.array([0, *[1] * len(env.theta)])
        return _table(task, env, _record(env, trials), {"sample": spread, "test": spread})
    if task is parametric_working_memory:
        env = import_module("neurogym.envs.native.delaycomparison").DelayComparison()
        trials = [{"ground_truth": a, "vpair": pair} for a in (1, 2) for pair in env.vpairs]
        spread = _silence(env) * np.ones(2)
        return _table(task, env, _record(env, trials), {"stimulus1": spread, "stimulus2": spread})
    if task is delay_direction_rule:
        module = import_module("neurogym.envs.collections.yang19")
        recorded: Recorded = []
        for rule, made in enumerate((module.dlygo(), module.dlyanti())):
            env = made.envs[0].unwrapped  # the first of two modalities
            seen = 1 + env.dim_ring
            for ob, gt in _record(env, [{"ground_truth": a} for a in env.choices]):
                told = np.tile(np.eye(2)[rule], (len(ob), 1))
                recorded.append((np.column_stack([ob[:, :seen], told]), gt))
        return _table(task, env, recorded, {})
    raise AssertionError(task)


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


def test_bad_arguments() -> None:
    """Errors name the argument, what came and what was expected."""
    with pytest.raises(ValueError, match="directions must be even and at least 2, got 5"):
        direction(directions=5)
    with pytest.raises(ValueError, match=r"'delay' must last whole steps of 50.0 ms.*got 975"):
        direction(delay_ms=975)
    with pytest.raises(ValueError, match="at least one; got 0"):
        direction().draw(2, RNG(0), delay_ms=0)
    with pytest.raises(ValueError, match="step_ms must be positive"):
        direction(step_ms=-1)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        direction().draw(0, RNG(0))
    table = direction()
    with pytest.raises(ValueError, match="grace_ms must be shorter than 'go'"):
        EpochTask(**{**vars(table), "grace_ms": 500.0})


@pytest.mark.parametrize("name", ALL)
def test_history_is_what_the_inputs_have_told(name: str) -> None:
    """Conditions have the same number at a step if, and only if, inputs were the same so far."""
    task = replace(registry.get(name).build(), noise={})
    trials = task.draw(len(task.conditions), RNG(0))
    inputs = trials.inputs[:, trials.condition.argsort()]
    for step in range(task.steps):
        alike = (inputs[: step + 1, :, None] == inputs[: step + 1, None]).all(dim=3).all(dim=0)
        expected = task.history[:, step][:, None] == task.history[:, step]
        assert alike.numpy().tolist() == expected.tolist()


def test_nobody_knows_a_match_before_the_test() -> None:
    """One group at fixation, one for each sample from there on, four conditions from the test on."""
    task = registry.get("delay-match-sample").build()
    groups = {e: len(set(task.history[:, begin])) for e, (begin, _) in task.epochs.items()}
    assert groups == {"fixation": 1, "sample": 2, "delay": 2, "test": 4, "decision": 4}
