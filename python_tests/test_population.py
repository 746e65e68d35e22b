"""Populations: smoothing, z-scores, pseudo-trials, halves, and what cannot be averaged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from b2m_fast.data.files import DataError
from b2m_fast.data.recording import Brain
from b2m_fast.teachers.population import make_population, smoother
from latent_helpers import planted_recording, trials

RNG = np.random.default_rng


def counts(sessions: int = 3, count: int = 8, neurons: int = 2, seed: int = 0) -> Brain:
    """Poisson counts of two conditions, of which the second has twice the rate."""
    rng = RNG(seed)
    parts = []
    for _ in range(sessions):
        condition = np.arange(count) % 2
        rate = np.where(condition == 1, 4.0, 2.0)[:, None, None]
        parts.append((rng.poisson(np.tile(rate, (1, neurons, 10))), condition))
    return trials(*parts, conditions=("slow", "fast"), all=(0.0, 500.0))


def responses(brain: Brain, session: int = 0) -> np.ndarray:
    """The counts themselves, to be changed in place."""
    found = brain.recordings[session].responses
    assert isinstance(found, np.ndarray)
    return found


def test_traces_are_not_counts() -> None:
    """Continuous traces may be negative and have no rate: none is too slow, constant ones leave."""
    x = RNG(0).normal(-1, 1, (8, 3, 10))
    x[:, 2] = -2.0  # never varies
    brain = trials((np.ones((8, 3, 10)), np.arange(8) % 2))
    brain = replace(brain, recordings=[replace(brain.recordings[0], responses=x, kind="trace")])
    population = make_population(brain, smooth_ms=0)
    assert (population.units, population.report["units_too_slow"]) == (2, 0)
    assert population.report["units_constant"] == 1


def test_smoothing_keeps_constants_and_lowers_noise() -> None:
    """Weights sum to 1 also at the ends; a width of 0 changes nothing; noise shrinks as it should."""
    matrix = smoother(40, 2.0)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(smoother(5, 0), np.eye(5))
    noise = RNG(0).normal(size=(4000, 40)) @ matrix.T
    # the sum of squared weights of a Gaussian of standard deviation s is 1 / (2 s sqrt(pi))
    assert noise[:, 20].var() == pytest.approx(1 / (4 * np.sqrt(np.pi)), rel=0.1)


def test_z_scores_are_over_all_trials_and_bins() -> None:
    """Mean 0 and standard deviation 1 per neuron, without touching differences of conditions."""
    population = make_population(counts(count=40))
    for s in population.sessions:
        np.testing.assert_allclose(s.rates.mean(axis=(0, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(s.rates.std(axis=(0, 2)), 1, rtol=1e-4)
    slow, fast = population.average()
    assert (fast.mean(axis=0) > 0.3).all()
    assert (slow.mean(axis=0) < -0.3).all()


def test_average_is_over_trials_of_a_condition() -> None:
    """Shapes and values of condition averages, neurons side by side."""
    population = make_population(counts(), smooth_ms=0)
    average = population.average()
    assert average.shape == (2, 10, 6)
    expected = population.sessions[1].rates[1::2].mean(axis=0).T
    np.testing.assert_allclose(average[1][:, 2:4], expected, rtol=1e-5)


def test_halves_are_disjoint_and_complete() -> None:
    """Every trial is in exactly one half, and each half has trials of every condition."""
    source = counts(count=7)
    for number in range(3):
        responses(source, number)[:, 0, 0] = np.arange(7) + 10 * number  # marks each trial
    population = make_population(source, smooth_ms=0, minimum_trials=3)
    first, second = population.halves(RNG(0))
    for whole, a, b in zip(population.sessions, first.sessions, second.sessions, strict=True):
        marks = np.concatenate([a.rates[:, 0, 0], b.rates[:, 0, 0]])
        np.testing.assert_array_equal(np.sort(marks), np.sort(whole.rates[:, 0, 0]))
        for half in (a, b):
            assert set(half.condition.tolist()) == {0, 1}
    other, _ = population.halves(RNG(1))
    assert any(
        not np.array_equal(a.rates, b.rates)
        for a, b in zip(first.sessions, other.sessions, strict=True)
    )


def test_pseudo_trials_use_every_trial_before_any_again() -> None:
    """A session's trials are all used once before one is used twice, and conditions stay apart."""
    source = counts(sessions=2)
    for number in range(2):
        responses(source, number)[:] = np.arange(8)[:, None, None] + 1
    population = make_population(source, smooth_ms=0)
    marks = {c: np.unique(population.sessions[0].rates[c::2, 0, 0]) for c in (0, 1)}
    rates, condition = population.pseudo_trials(4, RNG(0))
    assert rates.shape == (8, 10, 4)
    assert condition.tolist() == [0] * 4 + [1] * 4
    for c in (0, 1):
        for unit in (0, 2):
            np.testing.assert_array_equal(np.sort(rates[condition == c, 0, unit]), marks[c])
    more, _ = population.pseudo_trials(6, RNG(0))
    assert np.unique(more[:6, 0, 0], return_counts=True)[1].max() == 2


def test_units_not_recorded_together_share_no_noise() -> None:
    """Pseudo-trials break trial-to-trial correlation between sessions and keep it within one."""
    rng = RNG(0)
    gain = rng.choice([1.0, 3.0], 60)
    condition = np.arange(60) % 2
    spikes = [rng.poisson(np.tile((5 * gain)[:, None, None], (1, 2, 10))) for _ in range(2)]
    source = trials(*((s, condition) for s in spikes))
    rates, _ = make_population(source).pseudo_trials(30, rng)
    r = np.corrcoef(rates.mean(axis=1).T)
    assert r[0, 1] > 0.8
    assert r[2, 3] > 0.8
    assert np.abs(r[:2, 2:]).max() < 0.4


def test_what_is_left_out_is_reported() -> None:
    """Slow units and units with few trials leave, and the report counts them."""
    source = counts(sessions=3)
    responses(source)[:, 1] = 0
    last = source.recordings[2]
    lonely = replace(last, responses=responses(source, 2)[:3], stimulus=last.stimulus[:3])
    source = replace(source, recordings=[*source.recordings[:2], lonely])
    population = make_population(source)
    assert population.units == 3
    assert population.report["units_recorded"] == 6
    assert population.report["units_too_slow"] == 1
    assert population.report["units_with_too_few_trials"] == 2
    assert population.report["trials_per_condition_min"] == population.fewest_trials == 4


@pytest.mark.parametrize("count", [5.0, 0.1, 1e4])
@pytest.mark.parametrize("smooth_ms", [0.0, 50.0, 1e6])
def test_constant_units_leave(count: float, smooth_ms: float) -> None:
    """A unit that never varies must not become rounding noise of unit variance."""
    spikes = responses(counts(sessions=1, count=30, neurons=4)).astype(float)
    spikes[:, 3] = count
    source = trials((spikes, np.arange(30) % 2))
    population = make_population(source, smooth_ms=smooth_ms)
    assert population.units == 3
    assert population.report["units_constant"] == 1
    assert population.report["units_too_slow"] == 0
    spikes[:] = count
    with pytest.raises(DataError, match=r"none of 4 units .* \(0 too slow, 4 constant\)"):
        make_population(source, smooth_ms=smooth_ms)


def test_recordings_that_cannot_teach() -> None:
    """One condition, no bins, no repeats and silence are refused, each with what was found."""
    one = trials((np.ones((4, 1, 5)), np.zeros(4, np.int64)), conditions=("a",))
    with pytest.raises(DataError, match=r"at least two conditions, got \['a'\]"):
        make_population(one)
    flat = replace(counts(sessions=1).recordings[0], responses=np.ones((8, 3)), time=None)
    with pytest.raises(DataError, match="test: responses have no bins"):
        make_population(Brain("test", [flat], conditions=("slow", "fast")))
    with pytest.raises(
        DataError,
        match=r"no unit has 2 trials of each of the 2.*\(at most 1; .*'slow' 1, 'fast' 1\)",
    ):
        make_population(counts(count=2))
    x = responses(counts(sessions=1, count=9))[::2]
    lacking = trials((x, np.zeros(5, np.int64)), conditions=("slow", "fast"))
    with pytest.raises(DataError, match=r"at most 0; the best one has of 'fast' 0\)"):
        make_population(lacking)
    silent = trials((np.zeros((4, 3, 5)), np.arange(4) % 2))
    with pytest.raises(DataError, match=r"none of 3 units fires 0\.5 spikes/s"):
        make_population(silent)
    for width in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"smooth_ms must not be negative.*got {width}"):
            make_population(counts(), smooth_ms=width)
    with pytest.raises(ValueError, match="minimum_trials must be at least 2, got 1"):
        make_population(counts(), minimum_trials=1)


def test_synthetic_recordings_say_so() -> None:
    """A population of simulated spikes is marked as such in its report."""
    assert make_population(planted_recording(repeats=2)).report["synthetic"] is True
    assert make_population(counts()).report["synthetic"] is False
