"""Response teachers from recordings: what a row is of, and what a stand-in knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from b2m_fast.data.driving import to_frames
from b2m_fast.data.files import DataError
from b2m_fast.data.recording import Brain, Recording, Stimuli
from b2m_fast.data.tasks import direction, parametric_working_memory
from b2m_fast.data.v4 import cowley_v4
from b2m_fast.encoding.encoders import fit_encoder
from b2m_fast.teachers import synthetic
from b2m_fast.teachers.population import Population, make_population
from b2m_fast.teachers.responses import (
    SensoryModel,
    condition_responses,
    fit_sensory_model,
    image_responses,
    stand_in,
)
from latent_helpers import planted_recording
from test_data import real

RNG = np.random.default_rng
TASK = direction()


@pytest.fixture(scope="module")
def population() -> Population:
    return make_population(planted_recording())


@pytest.fixture(scope="module")
def model() -> SensoryModel:
    recorded = synthetic.synthetic_brain(images=400, neurons=40, populations=2)
    return fit_sensory_model(recorded, 32)


def nearest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For each row of `a`, the most correlated row of `b`."""
    return np.asarray(np.corrcoef(a, b)[: len(a), len(a) :].argmax(axis=1))


def test_responses_belong_to_the_tasks_conditions(population: Population) -> None:
    """Rows are trials of the condition of their label; means of labels are the averages."""
    teacher = condition_responses(population, TASK, RNG(0))
    assert teacher.stimuli is None
    assert teacher.responses.shape == (12 * 12, 60)
    assert np.bincount(teacher.label).tolist() == [12] * 12
    np.testing.assert_allclose(teacher.responses.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(teacher.responses.std(axis=0), 1, rtol=1e-4)
    means = np.stack([teacher.responses[teacher.label == c].mean(axis=0) for c in range(12)])
    truth = population.average().mean(axis=1)
    assert nearest(means - means.mean(0), truth - truth.mean(0)).tolist() == list(range(12))


def test_conditions_can_be_renamed(population: Population) -> None:
    """A task with other names is taught through a mapping, in the order of its own conditions."""
    task = parametric_working_memory()
    names = dict(zip(task.conditions, population.conditions[2:12], strict=True))
    teacher = condition_responses(
        population, task, RNG(0), conditions=names, epochs={"delay": "delay"}
    )
    assert teacher.label.max() == 9
    means = np.stack([teacher.responses[teacher.label == c].mean(axis=0) for c in range(10)])
    begin, end = TASK.epochs["delay"]
    truth = population.average()[2:, begin:end].mean(axis=1)
    assert nearest(means - means.mean(0), truth - truth.mean(0)).tolist() == list(range(10))


def test_one_recorded_condition_for_several_of_the_task(population: Population) -> None:
    """Each recorded response is a row once: copies under several conditions would be trained on and
    held out at the same time."""
    task = parametric_working_memory()
    names = {
        c: population.conditions[(9, 4)[a]]
        for c, a in zip(task.conditions, task.answer, strict=True)
    }
    teacher = condition_responses(
        population, task, RNG(0), conditions=names, epochs={"delay": "delay"}
    )
    assert len(np.unique(teacher.responses, axis=0)) == len(teacher.label) == 24
    assert np.bincount(teacher.label).tolist() == [12, 12]
    assert teacher.condition is not None
    assert teacher.condition.tolist() == task.answer.tolist()
    begin, end = TASK.epochs["delay"]
    truth = population.average()[[9, 4], begin:end].mean(axis=1)
    means = np.stack([teacher.responses[teacher.label == r].mean(axis=0) for r in (0, 1)])
    assert np.corrcoef(means[0] - means[1], truth[0] - truth[1])[0, 1] > 0.8


def test_only_what_was_recorded_is_averaged(population: Population) -> None:
    """Before the cue nothing is known of the direction; in the delay it is."""
    early, late = (
        condition_responses(population, TASK, RNG(0), epochs={name: name})
        for name in ("fixation", "delay")
    )
    assert (early.report["steps"], late.report["steps"]) == (10, 20)
    assert late.report["responses_per_condition"] == 12

    def between(responses: np.ndarray, label: np.ndarray) -> float:
        """Share of variance between directions, within a rule."""
        share = []
        for rule in (0, 1):
            x = responses[(label // 6) == rule]
            means = np.stack([x[label[(label // 6) == rule] % 6 == d].mean(0) for d in range(6)])
            share.append(means.var(axis=0).mean() / x.var(axis=0).mean())
        return float(np.mean(share))

    assert between(late.responses, late.label) > 3 * between(early.responses, early.label)


def test_components_are_uncorrelated(population: Population) -> None:
    """With k, a student is compared with so many principal components, each of variance 1."""
    teacher = condition_responses(population, TASK, RNG(0), k=5)
    assert (teacher.width, teacher.responses.shape[1]) == (5, 60)
    fitted = teacher.fitted(np.arange(144))
    np.testing.assert_allclose(np.cov(fitted.T, bias=True), np.eye(5), atol=1e-3)
    with pytest.raises(DataError, match=r"144 samples of 60 units have 60 components, 61 were"):
        condition_responses(population, TASK, RNG(0), k=61)


def looked() -> Brain:
    """Three neurons, four images, two presentations of each but the third."""
    shown = RNG(1).integers(0, 255, (4, 16, 16, 3)).astype(np.uint8)
    ids = np.array(list("abcdabd"))
    recording = Recording(RNG(0).normal(5, 1, (len(ids), 3)), ids, "monday")
    return Brain("test", [recording], [Stimuli(tuple("dabc"), shown[[3, 0, 1, 2]], "set")])


def test_images_beside_their_responses() -> None:
    """One row per image, with the image as a frame; neurons z-scored."""
    brain = looked()
    (recording,) = brain.recordings
    teacher = image_responses(brain, recording, (8, 8))
    assert teacher.label.tolist() == [0, 1, 2, 3]
    images = RNG(1).integers(0, 255, (4, 16, 16, 3)).astype(np.uint8)
    assert teacher.stimuli is not None
    np.testing.assert_array_equal(teacher.stimuli, to_frames(images, (8, 8)))
    x = np.asarray(recording.responses)
    expected = np.stack([(x[0] + x[4]) / 2, (x[1] + x[5]) / 2, x[2], (x[3] + x[6]) / 2])
    expected = (expected - expected.mean(axis=0)) / expected.std(axis=0)
    np.testing.assert_allclose(teacher.responses, expected, atol=1e-4)
    assert teacher.report["recording"] == "test-monday"


def test_categories_are_not_images() -> None:
    """Responses to categories of several images are refused, not paired with the wrong ones."""
    brain = looked()
    stimuli = replace(brain.stimuli[0], ids=("w", "x", "y", "z"), presented=("a", "b", "c", "d"))
    brain = replace(brain, stimuli=[stimuli])
    with pytest.raises(DataError, match="categories of several images"):
        image_responses(brain, brain.recordings[0], (8, 8))


def test_encoder_predicts_what_is_linear() -> None:
    """On new images the frozen model gives what a linear neuron would answer."""
    rng = RNG(0)
    x, w = rng.normal(size=(300, 8)), rng.normal(size=(8, 2))
    encoder = fit_encoder(x[:200], x[:200] @ w)
    predicted = encoder.predict(x[200:])
    for a, b in zip(predicted.T, (x[200:] @ w).T, strict=True):
        assert np.corrcoef(a, b)[0, 1] > 0.99
    flat = np.column_stack([x, np.ones(300)])  # a feature that never varies does no harm
    assert np.isfinite(fit_encoder(flat[:200], x[:200] @ w).predict(flat + 1)).all()
    with pytest.raises(ValueError, match=r"\(200, 8\) and \(100, 2\)"):
        fit_encoder(x[:200], x[:100] @ w)


def test_stand_in_predicts_unseen_images(model: SensoryModel) -> None:
    """Predicted responses to images the model never saw follow the neurons' true rates."""
    # the last images are new: `synthetic_brain` makes the same first ones
    recorded = synthetic.synthetic_brain(images=600, neurons=40, populations=2)
    images = np.asarray(recorded.stimuli[0].images)
    frames = to_frames(images[400:], (32, 32))
    assert (images[:400] == synthetic.natural_like_images(400)).all()
    truth = np.concatenate([r.truth[400:].T for r in recorded.recordings if r.truth is not None])
    predicted = model.respond(frames).T
    kept = np.flatnonzero(np.concatenate(model.kept))
    r = [np.corrcoef(p, truth[k])[0, 1] for p, k in zip(predicted, kept, strict=True)]
    assert np.mean(r) > 0.3
    shuffled = [np.corrcoef(p, truth[k][::-1])[0, 1] for p, k in zip(predicted, kept, strict=True)]
    assert abs(np.mean(shuffled)) < 0.1


def test_stand_in_says_so(model: SensoryModel) -> None:
    """The report calls it a stand-in, says how well it predicts, and how far scenes differ."""
    frames = RNG(0).random((30, 3, 32, 48)).astype(np.float32)
    teacher = stand_in(model, frames, k=4)
    assert teacher.stimuli is frames
    assert teacher.label.tolist() == list(range(30))
    assert teacher.responses.shape == (30, 4)
    assert teacher.report["stand_in"] is True
    assert teacher.report["synthetic"] is True
    assert teacher.report["held_out_r_mean"] > 0.2
    assert teacher.report["predicted_sd_on_frames"] > 0
    # only the square in the middle is seen
    wider = frames.copy()
    wider[..., :8] = 0
    np.testing.assert_array_equal(model.respond(wider), model.respond(frames))


def test_poorly_predicted_neurons_are_left_out(model: SensoryModel) -> None:
    """Noise is not predicted, so it does not teach."""
    brain = synthetic.synthetic_brain(images=200, neurons=20, populations=1)
    (recording,) = brain.recordings
    noise = RNG(0).uniform(size=recording.responses.shape).astype(np.float32)
    brain = replace(brain, recordings=[replace(recording, responses=noise)])
    with pytest.raises(DataError, match=r"none of 20 neurons is predicted with r >= 0.5"):
        fit_sensory_model(brain, 32, minimum=0.5)
    assert model.report["units"] < model.report["units_recorded"]
    assert model.report["held_out_r_quartiles"][0] >= 0.2


def test_bad_arguments() -> None:
    """Tiny scenes are refused."""
    with pytest.raises(ValueError, match="at least 32 pixels, got 16"):
        fit_sensory_model(looked(), 16)


def test_real_v4_predicts_held_out_images() -> None:
    """A model of real V4 neurons at the scenes' resolution predicts images it never saw."""
    found = cowley_v4(real("cowley_v4"), sessions=("210325",))
    fitted = fit_sensory_model(found, 48)
    assert fitted.report["held_out_r_mean"] > 0.35
    assert fitted.report["units"] > 40
