"""Latents: that planted ones are found, noise is not believed, and clocks are matched."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from b2m_fast.data import load
from b2m_fast.data.files import DataError
from b2m_fast.data.recording import TimeAxis
from b2m_fast.data.tasks import direction, parametric_working_memory
from b2m_fast.teachers.alignment import align
from b2m_fast.teachers.embeddings import (
    METHODS,
    factors,
    fit_contrastive,
    fit_dpca,
    marginalise,
    same_covariance,
)
from b2m_fast.teachers.latents import make_latents, rank_of_averages
from b2m_fast.teachers.population import Population, Session, make_population
from b2m_fast.teachers.synthetic import observe
from device_mode import pretend_cuda
from latent_helpers import planted_recording, planted_states, planted_teacher, trials
from test_data import real

RNG = np.random.default_rng
TASK = direction()


@pytest.fixture(scope="module")
def population() -> Population:
    return make_population(planted_recording())


def noise_population() -> Population:
    """Spikes that know of no condition and no time."""
    hidden = np.zeros((12, TASK.steps, 5))
    return make_population(observe(hidden, np.arange(12), TASK, RNG(7), neurons=60, repeats=12))


def variance_explained(latents: np.ndarray, truth: np.ndarray) -> float:
    """Share of the truth's variance that a linear map from the latents gives."""
    x, y = (z.reshape(-1, z.shape[2]) for z in (latents, truth))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return float(1 - (left**2).sum() / (y**2).sum())


@pytest.mark.parametrize(
    "method",
    ["pca", "dpca", "fa", pytest.param("contrastive-embedding", marks=pytest.mark.slow)],
)
def test_planted_latents_are_found(population: Population, method: str) -> None:
    """Latents of every method hold the hidden states the spikes were drawn from, and reliably."""
    teacher = make_latents(population, TASK, method=method, k=4, splits=2)
    assert teacher.latents.shape == (12, TASK.steps, 4)
    assert teacher.latents.dtype == np.float32
    assert teacher.valid.all()
    # CEBRA's latents lie on a sphere: a linear map does not take them all the way back
    least = 0.75 if method == "contrastive-embedding" else 0.9
    assert variance_explained(teacher.latents, planted_states(TASK)) > least
    assert teacher.reliability[:3].min() > 0.8
    assert teacher.report["condition_identified_in_other_half"] > 0.8


def test_factor_analysis_looks_at_a_small_matrix() -> None:
    """Thousands of pseudo-trials become two rows a unit of the same mean and covariance.

    Else each of its many fits would take seconds on a recording of twenty neurons.
    """
    x = RNG(0).normal(size=(500, 7)) @ RNG(1).normal(size=(7, 7))
    x -= x.mean(axis=0)
    small = same_covariance(x)
    assert small.shape == (14, 7)
    np.testing.assert_allclose(small.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(small.T @ small / 14, x.T @ x / 500, atol=1e-12)


def test_latents_are_z_scored(population: Population) -> None:
    """Mean 0 and standard deviation 1 over conditions and steps; the report is JSON's."""
    import json

    teacher = make_latents(population, TASK, k=3, splits=1)
    np.testing.assert_allclose(teacher.latents.mean(axis=(0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(teacher.latents.std(axis=(0, 1)), 1, rtol=1e-4)
    assert json.loads(json.dumps(teacher.report))["k"] == 3


def test_number_of_latents_is_that_of_the_truth() -> None:
    """Cross-validation keeps the planted components and few others, of which noise has none."""
    rng = RNG(0)
    signal = rng.normal(size=(12, 20, 3)) @ rng.normal(size=(3, 50)) * 2
    halves = [
        (signal + rng.normal(size=signal.shape), signal + rng.normal(size=signal.shape))
        for _ in range(5)
    ]
    assert rank_of_averages(halves, 12) == 3
    noise = [(rng.normal(size=(12, 20, 50)), rng.normal(size=(12, 20, 50))) for _ in range(5)]
    assert rank_of_averages(noise, 12) == 1


@pytest.mark.parametrize("method", ["pca", "dpca", "fa"])
def test_noise_is_not_believed(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """Latents of spikes without signal have reliability about 0, and a warning says so.

    Reliability must not come from the fit's own noise: in-sample it would be 1.
    """
    with caplog.at_level(logging.WARNING, logger="b2m_fast"):
        teacher = make_latents(noise_population(), TASK, method=method, k=3, splits=4)
    assert np.abs(teacher.reliability).max() < 0.45
    assert np.abs(teacher.explained).max() < 0.5
    assert abs(teacher.report["reproducible_share_of_variance"]) < 0.05
    assert teacher.report["condition_identified_in_other_half"] < 0.3
    assert teacher.report["unreliable"] == [0, 1, 2]
    assert "teach mostly noise" in caplog.text


def test_latents_of_time_alone_are_said_to_be_that(
    population: Population, caplog: pytest.LogCaptureFixture
) -> None:
    """A reliable time course that every condition shares teaches nothing of conditions.

    Reliability alone would call it a good teacher.
    """
    hidden = np.tile(np.sin(np.linspace(0, 6, TASK.steps))[:, None], (12, 1, 5))
    clock = make_population(observe(hidden, np.arange(12), TASK, RNG(3), neurons=60, repeats=12))
    with caplog.at_level(logging.WARNING, logger="b2m_fast"):
        teacher = make_latents(clock, TASK, k=1, splits=4)
    assert teacher.reliability.min() > 0.8
    assert teacher.report["conditions_told_apart"] is False
    assert "no better than by chance" in caplog.text
    good = make_latents(population, TASK, k=4, splits=1)
    assert good.report["conditions_told_apart"] is True


def test_reliability_follows_the_number_of_trials() -> None:
    """More trials make the same latents more reliable."""
    few, many = (
        make_latents(make_population(planted_recording(repeats=r)), TASK, k=4, splits=4)
        for r in (2, 20)
    )
    assert (many.reliability > few.reliability).all()


def test_explained_is_of_reproducible_variance(population: Population) -> None:
    """Principal components hold decreasing shares of the reproducible variance, nearly all of it."""
    teacher = make_latents(population, TASK, k=6, splits=4)
    assert teacher.explained[0] > 0.2
    assert 0.9 < teacher.explained.sum() < 1.05
    assert np.abs(teacher.explained[4:]).max() < 0.03


def test_demixing(population: Population) -> None:
    """Each of dPCA's latents varies with one thing alone: time, rule, direction, or their mix."""
    latents = fit_dpca(population, 4)(population)
    parts = marginalise(latents - latents.mean(axis=(0, 1)), factors(TASK.conditions))
    share = np.array([(part**2).mean(axis=(0, 1)) for part in parts])
    share /= share.sum(axis=0)
    assert share.max(axis=0).min() > 0.95
    assert sorted(share.argmax(axis=0).tolist()) == [0, 1, 2, 2]  # time, rule, direction twice


def test_marginalisations_add_up_and_do_not_overlap() -> None:
    """Parts sum to the whole and are uncorrelated with one another."""
    x = RNG(0).normal(size=(6, 5, 4))
    x -= x.mean(axis=(0, 1))
    parts = marginalise(x, (2, 3))
    np.testing.assert_allclose(sum(parts), x, atol=1e-12)
    flat = np.stack([part.ravel() for part in parts])
    overlap = flat @ flat.T
    np.testing.assert_allclose(overlap, np.diag(np.diag(overlap)), atol=1e-10)
    assert np.ptp(parts[0], axis=0).max() < 1e-12  # time: the same in all conditions


def test_factors_are_read_from_names() -> None:
    """Full products of words are factors; anything else is one factor."""
    assert factors(TASK.conditions) == (2, 6)
    assert factors(parametric_working_memory().conditions) == (10,)
    assert factors(("a 1", "a 2", "b 1")) == (3,)


def test_only_the_recorded_epoch_is_valid() -> None:
    """A recording of the delay alone teaches in the delay alone, bin by bin where bins are steps."""
    hidden = planted_states(TASK)
    whole = planted_recording()
    begin, end = TASK.epochs["delay"]
    (recording,) = whole.recordings
    responses = np.asarray(recording.responses)[:, :, begin:end]
    time = TimeAxis(50.0, {"delay": (0.0, 1000.0)})
    cut = replace(whole, recordings=[replace(recording, responses=responses, time=time)])
    teacher = make_latents(make_population(cut), TASK, k=3, splits=1)
    assert np.flatnonzero(teacher.valid).tolist() == list(range(begin, end))
    assert not teacher.latents[:, ~teacher.valid].any()
    assert variance_explained(teacher.latents[:, begin:end], hidden[:, begin:end]) > 0.85
    clock = align(make_population(cut), TASK)
    np.testing.assert_allclose(clock.weights, np.eye(20), atol=1e-9)


def ramp(
    bins: int, bin_ms: float, *, start: float = 0.0, **epochs: tuple[float, float]
) -> Population:
    """A population whose single neuron tells the time."""
    rates = np.tile(start + bin_ms * (np.arange(bins) + 0.5), (4, 1, 1)).astype(np.float32)
    sessions = (Session(rates, np.arange(4) % 2),)
    return Population("ramp", sessions, ("a", "b"), TimeAxis(bin_ms, epochs, start))


def test_interpolation_and_stretch() -> None:
    """Steps read the recording at the same fraction of the epoch.

    A step over several bins is their mean; one that is narrower than a bin lies between bins.
    """
    task = parametric_working_memory(delay_ms=1000)  # steps of 100 ms
    source = ramp(30, 25.0, start=-50.0, late=(0.0, 500.0))
    names = dict(zip(task.conditions, ["a", "b"] * 5, strict=True))
    clock = align(source, task, epochs={"delay": "late"}, conditions=names)
    begin, end = task.epochs["delay"]
    assert np.flatnonzero(clock.valid).tolist() == list(range(begin, end))
    read = clock(source.average())[:, :, 0]
    np.testing.assert_allclose(read, np.tile(np.arange(25.0, 500, 50), (10, 1)), rtol=1e-5)
    assert clock.stretch == {"delay": 2.0}
    np.testing.assert_allclose(clock.weights[0, :6], [0, 0, 0.5, 0.5, 0, 0], atol=1e-9)
    wide = ramp(12, 200.0, start=-200.0, late=(0.0, 1000.0))
    clock = align(wide, task, epochs={"delay": "late"}, conditions=names)
    read = clock(wide.average())[0, :, 0]
    np.testing.assert_allclose(read, np.arange(50.0, 1000, 100), rtol=1e-5)


def test_steps_that_were_not_recorded_are_not_valid() -> None:
    """Where an epoch reaches beyond the recording, its steps are left out, not extrapolated."""
    task = parametric_working_memory()
    source = ramp(6, 100.0, delay=(0.0, 1000.0))
    names = dict.fromkeys(task.conditions[:5], "a") | dict.fromkeys(task.conditions[5:], "b")
    clock = align(source, task, conditions=names)
    begin, _ = task.epochs["delay"]
    assert np.flatnonzero(clock.valid).tolist() == list(range(begin, begin + 6))


def test_a_step_half_recorded_is_valid() -> None:
    """A step counts if at least half of it was recorded, and reads that half alone."""
    task = parametric_working_memory()
    names = dict(zip(task.conditions, ["a", "b"] * 5, strict=True))
    begin, _ = task.epochs["delay"]
    for bins, steps in ((12, 3), (13, 3), (14, 4), (15, 4)):  # of 25 ms, for steps of 100 ms
        clock = align(ramp(bins, 25.0, delay=(0.0, 1000.0)), task, conditions=names)
        assert np.flatnonzero(clock.valid).tolist() == list(range(begin, begin + steps))
        np.testing.assert_allclose(clock.weights.sum(axis=1), 1)


def test_mismatched_clocks() -> None:
    """No common epoch, unknown ones, too much stretch and unrecorded epochs are explained."""
    task = parametric_working_memory()
    names = dict(zip(task.conditions, ["a", "b"] * 5, strict=True))
    with pytest.raises(DataError, match=r"do not match: the recording has \['run'\].*epochs="):
        align(ramp(10, 100.0, run=(0.0, 1000.0)), task, conditions=names)
    with pytest.raises(DataError, match=r"unknown epochs \['nap', 'walk'\]"):
        align(ramp(10, 100.0, run=(0.0, 1000.0)), task, epochs={"nap": "walk"}, conditions=names)
    with pytest.raises(DataError, match=r"'delay' lasts 1000 ms.*400 ms.*a stretch by 2.5"):
        align(ramp(10, 100.0, delay=(0.0, 400.0)), task, conditions=names)
    with pytest.raises(DataError, match=r"nothing was recorded in the epochs \['delay'\]"):
        align(ramp(4, 100.0, start=5000, delay=(0.0, 1000.0)), task, conditions=names)


def test_conditions_without_counterpart() -> None:
    """Conditions that the recording lacks are named; one condition for all is refused."""
    task = parametric_working_memory()
    source = ramp(10, 100.0, delay=(0.0, 1000.0))
    with pytest.raises(DataError, match=r"no condition for \['18 then 10'.*it has \['a', 'b'\]"):
        align(source, task)
    with pytest.raises(DataError, match="mapped to one, 'a': a teacher needs at least two"):
        align(source, task, conditions=dict.fromkeys(task.conditions, "a"))


def test_names_of_another_geometry_are_not_believed(population: Population) -> None:
    """Four directions 90 degrees apart are not the first four of six that are 60 degrees apart.

    Their names are found in the recording, so only what the user says can tell what belongs together.
    """
    task = direction(directions=4)
    with pytest.raises(DataError, match=r"lacks \(\['look 5', 'look 6', 'no-look 5'.*conditions="):
        align(population, task)
    places = dict(zip("1234", "1245", strict=True))
    names = {c: c[:-1] + places[c[-1]] for c in task.conditions}
    assert align(population, task, conditions=names).condition.tolist() == [0, 1, 3, 4, 6, 7, 9, 10]


def test_too_many_latents(population: Population) -> None:
    """More latents than units, trials or averages are refused, with the number there is."""
    with pytest.raises(DataError, match="61 latents need at least as many units, got 60"):
        make_latents(population, TASK, k=61)
    counts = RNG(0).poisson(5, (4, 9, 10))
    few = trials((counts, np.arange(4) % 2), bin_ms=100.0, delay=(0.0, 1000.0))
    task = parametric_working_memory()
    names = dict(zip(task.conditions, ["a", "b"] * 5, strict=True))
    with pytest.raises(DataError, match=r"5 latents need at least as many trials.*got 4"):
        make_latents(make_population(few), task, k=5, conditions=names)


def test_bad_arguments(population: Population) -> None:
    """Unknown methods and numbers below one are refused."""
    with pytest.raises(ValueError, match="unknown method 'umap'; there are"):
        make_latents(population, TASK, method="umap")
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        make_latents(population, TASK, k=0)
    with pytest.raises(ValueError, match=r"k must be a whole number, got 2\.5"):
        make_latents(population, TASK, k=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="splits must be at least 1, got 0"):
        make_latents(population, TASK, splits=0)
    with pytest.raises(ValueError, match="k must be at least 2, got 1"):
        fit_contrastive(population, 1)


def test_the_contrastive_embedding_follows_its_device(population: Population) -> None:
    """Where "cuda" is the CPU, it is asked for, no tensor is made elsewhere, and the bits are equal."""
    expected = fit_contrastive(population, 2, steps=5)(population)
    with pretend_cuda() as mode:
        found = fit_contrastive(population, 2, steps=5, device="cuda")(population)
    assert mode.asked > 0
    np.testing.assert_array_equal(found, expected)


def test_the_former_name_of_the_contrastive_embedding(population: Population) -> None:
    """It is not the package CEBRA, after which it was called; the name is still taken."""
    with pytest.raises(ValueError, match="a contrastive embedding lies on a sphere"):
        make_latents(population, TASK, method="cebra", k=1)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_latents_are_repeatable(population: Population, method: str) -> None:
    """The same seed gives the same bits, whatever torch's own generator does."""
    import torch

    torch.manual_seed(1)
    first = METHODS[method](population, 3, seed=5, steps=30)(population)
    torch.manual_seed(2)
    np.testing.assert_array_equal(
        first, METHODS[method](population, 3, seed=5, steps=30)(population)
    )


def test_observation_is_linear_on_average_and_poisson() -> None:
    """Mean counts follow the hidden states linearly; their variance over repeats is their mean."""
    hidden = planted_states(TASK)
    seen = observe(
        hidden, np.arange(12), TASK, RNG(0), neurons=20, repeats=400, rate=40, modulation=0.2
    )
    (recording,) = seen.recordings
    counts = np.asarray(recording.responses, float).reshape(12, 400, 20, TASK.steps)
    mean = counts.mean(axis=1).transpose(0, 2, 1)
    assert variance_explained(hidden, mean) > 0.95
    fano = counts.var(axis=1).mean() / counts.mean()
    assert fano == pytest.approx(1, abs=0.02)
    assert seen.synthetic
    assert recording.time is not None
    assert recording.time.epochs["delay"] == (700.0, 1700.0)


def test_observation_refuses_what_does_not_fit() -> None:
    """Hidden states of another length, NaN, and numbers that are not positive are refused."""
    with pytest.raises(ValueError, match=r"hidden must be .* \(12, 44, ...\).*got \(12, 7, 3\)"):
        observe(np.zeros((12, 7, 3)), np.arange(12), TASK, RNG(0))
    with pytest.raises(ValueError, match="NaN"):
        observe(np.full((12, 44, 3), np.nan), np.arange(12), TASK, RNG(0))
    with pytest.raises(ValueError, match="repeats must be positive, got 0"):
        observe(np.zeros((12, 44, 3)), np.arange(12), TASK, RNG(0), repeats=0)


def test_planted_teacher_is_taken_from_all_trials() -> None:
    """The helper other tests use gives the latents it promises."""
    teacher = planted_teacher(3)
    assert teacher.k == 3
    assert variance_explained(teacher.latents, planted_states(TASK)[..., :]) > 0.7


def test_real_prefrontal_latents() -> None:
    """The real recording gives reliable latents that tell all twelve conditions of other trials."""
    found = make_population(load("pfc-memory", real("pfc_memory")))
    teacher = make_latents(found, TASK, k=6, splits=2)
    assert teacher.reliability.min() > 0.8
    assert teacher.report["condition_identified_in_other_half"] > 0.8
    assert np.flatnonzero(teacher.valid).tolist() == list(range(*TASK.epochs["delay"]))
    assert (np.array(teacher.report["share_between_conditions"]) > 0.5).all()


def test_teacher_knows_what_was_recorded_and_what_can_be_known(population: Population) -> None:
    """Controls need both: which conditions share a recording, and when inputs tell them apart."""
    task = parametric_working_memory()
    names = {
        c: population.conditions[3 * int(a)]
        for c, a in zip(task.conditions, task.answer, strict=True)
    }
    teacher = make_latents(
        population,
        task,
        k=2,
        splits=2,
        epochs={"stimulus2": "cue"},
        conditions=names,
        max_stretch=4,
    )
    assert teacher.recorded is not None
    assert teacher.shared_prefix is not None
    assert teacher.recorded.tolist() == (3 * task.answer).tolist()
    np.testing.assert_array_equal(teacher.shared_prefix, task.history)
    # 2 conditions x 5 steps: no more than 9 latents can be told apart, whatever the task's names
    with pytest.raises(DataError, match="distinct condition averages less one, got"):
        make_latents(
            population, task, k=10, splits=2, epochs={"stimulus2": "cue"}, conditions=names,
            max_stretch=4,
        )  # fmt: skip


def test_halves_that_contradict_each_other_are_merely_unreliable() -> None:
    """A negative split-half r counts as 0: Spearman-Brown of r near -1 is minus infinity, and one
    such split would decide the mean."""
    population = noise_population()
    for seed in range(3):
        reliability = make_latents(population, TASK, k=6, splits=1, seed=seed).reliability
        assert reliability.min() >= 0
        assert reliability.min() == 0  # noise: some half does contradict the other
