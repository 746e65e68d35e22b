"""Controls of responses keep what they say they keep and destroy the rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from b2m_fast.data.files import DataError
from b2m_fast.teachers import response_controls
from b2m_fast.teachers.responses import ResponseTeacher, z_scored
from b2m_fast.teachers.synthetic import observe_images

RNG = np.random.default_rng


def images(repeats: int = 1) -> ResponseTeacher:
    """Twelve images whose number is written in their pixels, shown a few times."""
    label = np.repeat(np.arange(12), repeats)
    stimuli = np.repeat(np.arange(12, dtype=np.float32) / 12, repeats)[:, None, None, None]
    stimuli = stimuli + 0.001 * RNG(9).random((len(label), 3, 4, 4)).astype(np.float32)
    truth = RNG(0).normal(size=(12, 5)) @ np.diag([3, 2, 1, 1, 1])
    noise = 0.2 * RNG(1).normal(size=(len(label), 5)) if repeats > 1 else 0
    return ResponseTeacher(
        stimuli.astype(np.float32), z_scored(truth[label] + noise), label, {"name": "made up"}
    )


def conditions() -> ResponseTeacher:
    label = np.repeat(np.arange(4), 6)
    means = RNG(2).normal(size=(4, 3))
    return ResponseTeacher(None, z_scored(means[label] + 0.1 * RNG(3).normal(size=(24, 3))), label)


def test_relabelled_gives_every_image_a_foreign_response() -> None:
    """The multiset of responses stays; no image keeps its own; labels still name the images."""
    brain = images(repeats=3)
    control = response_controls.relabelled(brain, RNG(0))
    np.testing.assert_array_equal(control.responses, brain.responses)
    assert (control.label != brain.label).all()
    assert control.stimuli is not None
    shown = np.rint(control.stimuli.mean(axis=(1, 2, 3)) * 12).astype(int)
    np.testing.assert_array_equal(shown, control.label)
    assert control.report["control"] == "relabelled"
    again = response_controls.relabelled(brain, RNG(0))
    np.testing.assert_array_equal(again.label, control.label)


def test_relabelled_conditions_stay_whole() -> None:
    """Trials of one condition move together to one other condition."""
    brain = conditions()
    control = response_controls.relabelled(brain, RNG(1))
    pairs = set(zip(brain.label.tolist(), control.label.tolist(), strict=True))
    assert len(pairs) == 4
    assert all(a != b for a, b in pairs)


@pytest.mark.parametrize("brain", [images(), images(3), conditions()])
def test_gaussian_keeps_covariance_and_scatter(brain: ResponseTeacher) -> None:
    """Covariance of the mean responses and scatter of repeats stay, the geometry goes."""
    control = response_controls.gaussian(brain, RNG(0))
    labels = np.unique(brain.label)

    def parts(teacher: ResponseTeacher) -> tuple[np.ndarray, np.ndarray]:
        means = np.stack([teacher.responses[teacher.label == k].mean(axis=0) for k in labels])
        return means, teacher.responses - means[np.searchsorted(labels, teacher.label)]

    (means, scatter), (new, newscatter) = parts(brain), parts(control)
    ratio = control.responses.std(axis=0) / brain.responses.std(axis=0)
    np.testing.assert_allclose(ratio, 1, rtol=1e-5)
    np.testing.assert_allclose(np.cov(new.T), np.cov(means.T), rtol=0.05, atol=0.02)
    np.testing.assert_allclose(newscatter.std(), scatter.std(), rtol=0.05, atol=1e-6)
    upper = np.triu_indices(len(labels), 1)
    distances = [((m[:, None] - m) ** 2).sum(axis=2)[upper] for m in (means, new)]
    assert abs(np.corrcoef(*distances)[0, 1]) < 0.9


def test_label_knows_the_label_alone() -> None:
    """Every two labels are equally far apart, samples of one label not at all."""
    brain = conditions()
    control = response_controls.label(brain)
    distance = ((control.responses[:, None] - control.responses) ** 2).sum(axis=2)
    same = brain.label[:, None] == brain.label
    assert distance[same].max() < 1e-9
    assert np.ptp(distance[~same]) < 1e-4
    assert distance[~same].min() > 1


def test_label_and_known_labels_have_at_most_the_brains_width() -> None:
    """More labels than features, or components: as many dimensions as the brain and no more; labels
    are still told apart, and equally far apart on average."""
    brain = replace(images(2), components=3)
    assert images(2).width == 5
    for teacher in (brain, images(2)):
        control = response_controls.label(teacher)
        assert control.responses.shape == (24, teacher.width)
        assert control.width == np.linalg.matrix_rank(control.responses) == teacher.width
        known = response_controls.known(teacher, RNG(0).normal(size=(12, 9)))
        assert known.width == np.linalg.matrix_rank(known.responses) == teacher.width
    upper = np.triu_indices(12, 1)

    def distances(seed: int) -> np.ndarray:
        x = response_controls.label(brain, RNG(seed)).responses[::2]
        return np.asarray(((x[:, None] - x) ** 2).sum(axis=2)[upper])

    drawn = np.stack([distances(seed) for seed in range(300)])
    assert drawn.min() > 1e-4
    assert np.ptp(drawn.mean(axis=0)) < 0.25 * drawn.mean()
    features = RNG(1).normal(size=(24, 8))
    assert response_controls.network(brain, features).width == 3


def test_a_networks_trials_go_to_the_labels_of_their_conditions() -> None:
    """Where conditions share a label, its samples are trials of all of them and of no other."""
    brain = replace(conditions(), condition=np.array([2, 0, 1, 3, 3, 2]))
    number = np.eye(6)[:, None, :] + np.zeros((6, 6, 1))
    control = response_controls.network(
        replace(brain, responses=RNG(0).normal(size=(24, 6)).astype(np.float32)), number
    )
    found = np.unique(np.round(control.responses, 4), axis=0, return_inverse=True)[1].reshape(-1)
    kinds = [set(found[brain.label == number].tolist()) for number in range(4)]
    assert [len(kind) for kind in kinds] == [1, 1, 2, 2]
    assert len(set().union(*kinds)) == 6
    with pytest.raises(DataError, match="of 6 conditions"):
        response_controls.network(brain, number[:4])
    with pytest.raises(DataError, match="6 samples of label 0 need"):
        response_controls.network(brain, number[:, :2])


def test_known_labels_take_the_place_of_the_brain() -> None:
    """A row for each image, columns that vary alone; a missing row is an error."""
    brain = images(2)
    labels = np.column_stack([np.arange(12), np.ones(12), np.arange(12) % 2]).astype(np.float32)
    control = response_controls.known(brain, labels)
    assert control.responses.shape == (24, 2)
    assert np.corrcoef(control.responses[:, 0], brain.label)[0, 1] == pytest.approx(1)
    with pytest.raises(DataError, match="up to 11"):
        response_controls.known(brain, labels[:5])
    with pytest.raises(DataError, match="nothing that is known"):
        response_controls.known(brain, np.ones((12, 3)))


def test_network_and_pixels_have_at_most_the_brains_size() -> None:
    """Principal components, as many as the brain has features; constant features are refused."""
    brain = images()
    features = RNG(4).normal(size=(12, 40))
    control = response_controls.network(brain, features)
    assert control.responses.shape == (12, 5)
    np.testing.assert_allclose(control.responses.std(axis=0), 1, rtol=1e-5)
    assert response_controls.network(brain, features[:, :2]).responses.shape == (12, 2)
    pixel = response_controls.pixel(brain)
    assert abs(np.corrcoef(pixel.responses[:, 0], brain.label)[0, 1]) > 0.999
    assert pixel.report["control"] == "pixel"
    with pytest.raises(DataError, match="alike"):
        response_controls.network(brain, np.ones((12, 3)))
    with pytest.raises(DataError, match=r"expected \(12, d\)"):
        response_controls.network(brain, features[:5])
    with pytest.raises(DataError, match="where images were shown"):
        response_controls.pixel(conditions())


def test_one_label_has_no_control() -> None:
    """Nothing can be dealt out among one condition."""
    one = ResponseTeacher(
        None, RNG(0).normal(size=(5, 2)).astype(np.float32), np.zeros(5, np.int64)
    )
    with pytest.raises(DataError, match="two images or conditions"):
        response_controls.relabelled(one, RNG(0))


def test_synthetic_neurons_see_what_the_network_sees() -> None:
    """Similar features give similar responses; more repeats are more reliable; wrong input fails."""
    features = RNG(5).normal(size=(60, 4)).astype(np.float32)
    frames = np.zeros((60, 3, 8, 8), np.float32)
    few = observe_images(features, frames, RNG(6), neurons=80, repeats=2)
    many = observe_images(features, frames, RNG(6), neurons=80, repeats=40)
    assert few.report["synthetic"] is True
    assert many.report["split_half_r"] > few.report["split_half_r"] + 0.2
    upper = np.triu_indices(60, 1)
    truth = (features @ features.T)[upper]
    found = (many.responses @ many.responses.T)[upper]
    assert np.corrcoef(truth, found)[0, 1] > 0.7
    reduced = observe_images(features, frames, RNG(6), neurons=80, repeats=2, components=3)
    assert reduced.responses.shape == (60, 3)
    with pytest.raises(ValueError, match=r"\(60, units\)"):
        observe_images(features[:5], frames, RNG(0))
    with pytest.raises(ValueError, match="NaN"):
        observe_images(np.full_like(features, np.nan), frames, RNG(0))
