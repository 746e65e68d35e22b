"""Controls of latent teachers: for each, what it keeps and what it destroys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from b2m_fast.data.files import DataError
from b2m_fast.data.tasks import (
    EpochTask,
    delay_direction_rule,
    delay_match_sample,
    direction,
    parametric_working_memory,
)
from b2m_fast.teachers import latent_controls as controls
from b2m_fast.teachers.latents import LatentTeacher
from latent_helpers import planted_states, planted_teacher

RNG = np.random.default_rng
TASK = direction()


@pytest.fixture(scope="module")
def brain() -> LatentTeacher:
    """A teacher that says something in the delay alone."""
    teacher = planted_teacher(4)
    valid = np.zeros(TASK.steps, bool)
    valid[slice(*TASK.epochs["delay"])] = True
    x = teacher.latents[:, valid].astype(float)
    x = (x - x.mean(axis=(0, 1))) / x.std(axis=(0, 1))
    latents = np.zeros_like(teacher.latents)
    latents[:, valid] = x
    return replace(teacher, latents=latents, valid=valid)


def inside(teacher: LatentTeacher) -> np.ndarray:
    return np.asarray(teacher.latents[:, teacher.valid], dtype=float)


def covariance(teacher: LatentTeacher) -> np.ndarray:
    return np.cov(inside(teacher).reshape(-1, teacher.k).T, bias=True)


def roughness(teacher: LatentTeacher) -> np.ndarray:
    return np.asarray((np.diff(inside(teacher), axis=1) ** 2).mean(axis=(0, 1)))


def spectrum(teacher: LatentTeacher) -> np.ndarray:
    """Power at each frequency of the cosine transform, summed over conditions."""
    from scipy.fft import dct

    return np.asarray((dct(inside(teacher), axis=1, norm="ortho") ** 2).sum(axis=0))


def time_share(teacher: LatentTeacher) -> np.ndarray:
    """Share of each latent's variance that all conditions have in common."""
    x = inside(teacher)
    return np.asarray(x.mean(axis=0).var(axis=0) / x.var(axis=(0, 1)))


def geometry(teacher: LatentTeacher) -> np.ndarray:
    """Distances between the courses of all pairs of conditions."""
    x = inside(teacher).reshape(12, -1)
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    return np.asarray(distance[np.triu_indices(12, 1)])


def likeness(a: LatentTeacher, b: LatentTeacher) -> float:
    """Correlation of the distances of all pairs of conditions."""
    return float(np.corrcoef(geometry(a), geometry(b))[0, 1])


Control = Callable[[LatentTeacher, int], LatentTeacher]
ALL: dict[str, Control] = {
    "relabelled": lambda t, s: controls.relabelled(t, RNG(s)),
    "reversed": lambda t, s: controls.time_reversed(t),
    "phase": lambda t, s: controls.phase_randomized(t, RNG(s)),
    "gaussian": lambda t, s: controls.gaussian(t, RNG(s)),
    "label": lambda t, s: controls.label(t, RNG(s)),
    "network": lambda t, s: controls.network(t, planted_states(TASK, seed=s)),
}


@pytest.mark.parametrize("name", ALL)
def test_form_scale_and_steps_are_the_brains(brain: LatentTeacher, name: str) -> None:
    """Every control is z-scored, silent where the brain is, of full rank, and says what it is."""
    control = ALL[name](brain, 0)
    assert control.latents.shape == brain.latents.shape
    assert control.latents.dtype == np.float32
    np.testing.assert_array_equal(control.valid, brain.valid)
    assert not control.latents[:, ~control.valid].any()
    np.testing.assert_allclose(inside(control).mean(axis=(0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(inside(control).std(axis=(0, 1)), 1, atol=1e-3)
    assert np.linalg.matrix_rank(covariance(control), tol=1e-3) == brain.k
    assert control.report["control"] == name
    assert control.reliability.shape == control.explained.shape == (brain.k,)


@pytest.mark.parametrize("name", ["relabelled", "phase", "gaussian", "label"])
def test_chance_comes_from_the_generator(brain: LatentTeacher, name: str) -> None:
    """The same generator gives the same control, another gives another."""
    first, same, other = (ALL[name](brain, seed).latents for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other)


def test_shuffling_moves_every_condition_and_keeps_courses(brain: LatentTeacher) -> None:
    """The same courses, none under its own name; geometry is kept up to names."""
    for seed in range(20):
        control = controls.relabelled(brain, RNG(seed))
        taken = [
            int(np.flatnonzero(np.isclose(brain.latents, course, atol=1e-5).all(axis=(1, 2)))[0])
            for course in control.latents
        ]
        assert sorted(taken) == list(range(12))
        assert not any(a == b for a, b in enumerate(taken))
    np.testing.assert_allclose(np.sort(geometry(control)), np.sort(geometry(brain)), rtol=1e-5)
    mean = np.mean([likeness(controls.relabelled(brain, RNG(s)), brain) for s in range(50)])
    assert abs(mean) < 0.15


def test_reversal_keeps_conditions_and_turns_time(brain: LatentTeacher) -> None:
    """Twice is nothing; conditions keep their geometry and mean; the course runs backwards."""
    control = controls.time_reversed(brain)
    twice = controls.time_reversed(control).latents
    np.testing.assert_allclose(twice, brain.latents, atol=1e-5)
    np.testing.assert_allclose(inside(control), inside(brain)[:, ::-1], atol=1e-5)
    np.testing.assert_allclose(inside(control).mean(axis=1), inside(brain).mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(geometry(control), geometry(brain), rtol=1e-5)
    np.testing.assert_allclose(spectrum(control), spectrum(brain), rtol=1e-3, atol=1e-4)
    assert not np.allclose(control.latents, brain.latents, atol=0.1)


def test_phase_randomisation_keeps_all_second_moments(brain: LatentTeacher) -> None:
    """Spectrum, smoothness, covariance and shares of time are exact; conditions are lost."""
    likenesses = []
    for seed in range(30):
        control = controls.phase_randomized(brain, RNG(seed))
        np.testing.assert_allclose(spectrum(control), spectrum(brain), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(roughness(control), roughness(brain), rtol=1e-3)
        np.testing.assert_allclose(covariance(control), covariance(brain), atol=1e-3)
        np.testing.assert_allclose(time_share(control), time_share(brain), atol=1e-3)
        likenesses.append(likeness(control, brain))
    assert abs(np.mean(likenesses)) < 0.15
    levels = inside(control).mean(axis=1), inside(brain).mean(axis=1)
    assert not (np.abs(levels[0] - levels[1]).max(axis=1) < 1e-3).any()


def test_gaussian_matches_rank_variance_and_smoothness(brain: LatentTeacher) -> None:
    """Covariance is exact; smoothness and shares of time are right on average; courses are new."""
    drawn = [controls.gaussian(brain, RNG(seed)) for seed in range(60)]
    for control in drawn[:5]:
        np.testing.assert_allclose(covariance(control), covariance(brain), atol=1e-3)
    ratio = np.mean([roughness(c).sum() for c in drawn]) / roughness(brain).sum()
    assert 0.6 < ratio < 1.6
    white = np.mean([(np.diff(RNG(s).normal(size=(12, 20)), axis=1) ** 2).mean() for s in range(9)])
    assert np.mean([roughness(c).mean() for c in drawn]) < 0.5 * white
    assert np.abs(np.mean([time_share(c) for c in drawn], axis=0) - time_share(brain)).max() < 0.15
    assert abs(np.mean([likeness(c, brain) for c in drawn])) < 0.15
    # a different draw each time: the mean over draws vanishes
    mean = np.mean([inside(c) for c in drawn], axis=0)
    assert np.abs(mean).mean() < 0.2


def test_label_knows_condition_and_clock_and_nothing_else(brain: LatentTeacher) -> None:
    """It is a function of one-hot condition and slow cosines; no two conditions are alike."""
    control = controls.label(brain, RNG(0))
    x = inside(control)
    steps = x.shape[1]
    waves = np.cos(np.pi * np.outer(np.arange(steps) + 0.5, np.arange(3)) / steps)
    for course in x:  # each condition's course is a sum of the three waves
        left = course - waves @ np.linalg.lstsq(waves, course, rcond=None)[0]
        assert np.abs(left).max() < 1e-4
    assert geometry(control).min() > 0.3 * geometry(control).mean()
    # whatever it is given of the brain but its shape does not matter
    other = replace(brain, latents=-2 * brain.latents)
    np.testing.assert_array_equal(controls.label(other, RNG(0)).latents, control.latents)
    # on average over projections, every two conditions are equally far apart
    mean = np.mean([geometry(controls.label(brain, RNG(s))) for s in range(200)], axis=0)
    assert np.ptp(mean) < 0.15 * mean.mean()
    assert np.ptp(geometry(brain)) > 0.5 * geometry(brain).mean()


def test_label_of_too_many_latents() -> None:
    """Labels of two conditions at one step cannot fill two latents."""
    tiny = LatentTeacher(
        np.zeros((2, 1, 2), np.float32), np.ones(1, bool), np.ones(2), np.ones(2), {}
    )
    with pytest.raises(DataError, match=r"2 latents are more than 2 conditions x 1 .*\(1\)"):
        controls.label(tiny, RNG(0))


def test_network_holds_the_networks_states(brain: LatentTeacher) -> None:
    """The latents are its principal components in the valid steps: they give its states back."""
    hidden = planted_states(TASK)
    control = controls.network(brain, hidden)
    x = inside(control).reshape(-1, brain.k)
    y = hidden[:, brain.valid].reshape(-1, hidden.shape[2])
    y = y - y.mean(axis=0)
    left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    assert (left**2).sum() < 1e-6 * (y**2).sum()
    assert control.explained.sum() == pytest.approx(1)
    np.testing.assert_allclose(covariance(control), np.eye(brain.k), atol=1e-3)
    with pytest.raises(ValueError, match=r"\(12, 44, at least 4\), got \(12, 44, 3\)"):
        controls.network(brain, hidden[:, :, :3])
    with pytest.raises(ValueError, match=r"got \(12, 20, 40\)"):
        controls.network(brain, hidden[:, :20])


# --------------------------------------------------------------------------------------------------
# What can be known yet, and what was recorded
# --------------------------------------------------------------------------------------------------
def causal_brain(task: EpochTask, k: int = 4, noise: float = 0.15) -> LatentTeacher:
    """Smooth latents that tell conditions apart from the step on at which inputs do, and noise."""
    rng = RNG(5)
    history = task.history
    x = np.zeros((len(task.conditions), task.steps, k))
    for step in range(task.steps):
        new = step == 0 or (history[:, step] != history[:, step - 1]).any()
        if new:
            drive = rng.normal(size=(len(task.conditions), k))
        x[:, step] = 0.8 * x[:, step - 1] + drive[history[:, step]]
    x += noise * x.std() * rng.normal(size=x.shape)
    x = (x - x.mean(axis=(0, 1))) / x.std(axis=(0, 1))
    return LatentTeacher(
        x.astype(np.float32),
        np.ones(task.steps, bool),
        np.ones(k),
        np.ones(k),
        {},
        np.arange(len(task.conditions)),
        history,
    )


def reachable(teacher: LatentTeacher, task: EpochTask) -> float:
    """Largest R2 of the latents from the inputs seen so far, noise aside."""
    trials = task_inputs(task)
    x = teacher.latents.astype(float)
    best = np.empty_like(x)
    for step in range(task.steps):
        for c, seen in enumerate(trials):
            alike = [np.array_equal(seen[: step + 1], other[: step + 1]) for other in trials]
            best[c, step] = x[alike, step].mean(axis=0)
    valid = teacher.valid
    return float(1 - ((x - best)[:, valid] ** 2).sum() / (x[:, valid] ** 2).sum())


def task_inputs(task: EpochTask) -> np.ndarray:
    """(conditions, steps, channels): inputs without noise."""
    trials = replace(task, noise={}).draw(len(task.conditions), RNG(0))
    order = np.argsort(trials.condition.numpy())
    return np.asarray(trials.inputs.numpy()[:, order].transpose(1, 0, 2))


TASKS = [delay_match_sample(), parametric_working_memory(), delay_direction_rule(), TASK]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: str(task.name))
@pytest.mark.parametrize("name", ALL)
def test_no_control_knows_more_of_the_future_than_the_brain(task: EpochTask, name: str) -> None:
    """Inputs seen so far determine every control as well as the brain's latents; else a control
    would lose because nobody can learn it."""
    brain = causal_brain(task)
    assert 0.9 < reachable(brain, task) < 0.9999
    make = ALL | {
        "network": lambda t, s: controls.network(
            t, RNG(s).normal(size=(len(task.conditions), task.steps, 9))
        )
    }
    for seed in range(3):
        control = make[name](brain, seed)
        assert reachable(control, task) >= reachable(brain, task) - 1e-6
        assert np.linalg.matrix_rank(covariance(control), tol=1e-3) == brain.k
        np.testing.assert_allclose(inside(control).std(axis=(0, 1)), 1, atol=1e-3)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: str(task.name))
def test_controls_destroy_what_they_say_in_a_tree_too(task: EpochTask) -> None:
    """No condition keeps its own course where conditions are known; relabelled branches stay
    branches, so that relabelling takes no variance from the brain's latents."""
    brain = causal_brain(task, noise=0.0)
    late = slice(task.steps - 3, task.steps)
    for seed in range(10):
        for name in ("relabelled", "phase", "gaussian", "label", "reversed"):
            control = ALL[name](brain, seed)
            moved = np.abs(control.latents - brain.latents)[:, late].max(axis=(1, 2))
            assert (moved > 1e-2).all(), name
        control = controls.relabelled(brain, RNG(seed))
        assert control.report["branches_kept"]
        key = [np.sort(np.round(t.latents.reshape(-1), 4)) for t in (brain, control)]
        np.testing.assert_allclose(key[0], key[1], atol=1e-3)


def test_conditions_of_one_recorded_condition_stay_together() -> None:
    """Conditions with one recording between them have one course in every control, another than
    their own; a control does not get more conditions to teach with than the brain."""
    task = parametric_working_memory()
    side = task.answer.copy()  # the recording knows two conditions
    brain = causal_brain(task)
    valid = np.zeros(task.steps, bool)
    valid[slice(*task.epochs["stimulus2"])] = True
    x = np.stack([brain.latents[1], brain.latents[6]])[side][:, valid].astype(float)
    x = (x - x.mean(axis=(0, 1))) / x.std(axis=(0, 1))
    latents = np.zeros_like(brain.latents)
    latents[:, valid] = x
    brain = replace(brain, latents=latents, valid=valid, recorded=side)
    hidden = RNG(0).normal(size=(10, task.steps, 9))
    make = ALL | {"network": lambda t, s: controls.network(t, hidden)}
    for seed in range(10):
        for name, control_of in make.items():
            control = control_of(brain, seed)
            assert len(np.unique(np.round(control.latents, 4), axis=0)) == 2, name
            for c in range(10):
                np.testing.assert_allclose(
                    control.latents[c],
                    control.latents[np.flatnonzero(side == side[c])[0]],
                    atol=1e-6,
                )
                assert not np.allclose(control.latents[c], brain.latents[c], atol=0.05), name
        relabelled = controls.relabelled(brain, RNG(seed))
        np.testing.assert_allclose(relabelled.latents, brain.latents[::-1], atol=1e-5)


def test_a_tree_without_equal_branches_is_relabelled_freely() -> None:
    """Where a branch has no like, conditions still all move, and the report says at what price."""
    history = np.array([[0, 0, 0], [0, 0, 1], [0, 2, 2]])
    latents = RNG(0).normal(size=(3, 3, 2)).astype(np.float32)
    brain = LatentTeacher(
        latents, np.ones(3, bool), np.ones(2), np.ones(2), {}, np.arange(3), history
    )
    control = controls.relabelled(brain, RNG(0))
    assert control.report["branches_kept"] is False
    assert (np.abs(control.latents - latents)[:, 2].max(axis=1) > 1e-3).all()
    with pytest.raises(DataError, match=r"shared_prefix has shape \(2, 3\); expected \(3, 3\)"):
        replace(brain, shared_prefix=history[:2])
