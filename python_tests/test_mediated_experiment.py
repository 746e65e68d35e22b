"""Runs of `b2m mediated`: splits, samples, arms, controls, synthetic brains, features, real data."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from b2m_fast.data._old import COWLEY_V4_SESSIONS
from b2m_fast.data.files import DataError
from b2m_fast.encoding.quality import EncoderQuality
from b2m_fast.evaluate.variability import correlation_distance
from b2m_fast.experiments import mediated_experiment as lab
from b2m_fast.experiments import mediated_material as material_of
from b2m_fast.experiments.former import Payload, jobs
from b2m_fast.experiments.mediated_arms import ARMS, expand_arms
from b2m_fast.experiments.mediated_brains import make_brain
from b2m_fast.experiments.mediated_features import image_features
from b2m_fast.experiments.mediated_maps import dimensions
from b2m_fast.experiments.mediated_presets import preset
from b2m_fast.experiments.mediated_settings import (
    BRAINS,
    CortexSettings,
    FeatureSettings,
    MediatedExperiment,
)
from b2m_fast.methods.mediated import fit_readout
from b2m_fast.teachers.synthetic import observers, ratings

Array = NDArray[np.float64]
EXPERIMENT = MediatedExperiment(
    labels="ratings", sizes=(10, 40), draws=2, folds=5, cortex=CortexSettings(observers=3)
)
QUALITY = EncoderQuality("planted", 150, np.linspace(0.3, 0.7, 9))


def planted(*, labelled: bool = False, classes: bool = False, n: int = 120) -> material_of.Material:
    """Three brains that see 4 of 20 feature dimensions, and labels that lie there."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, 20))
    stimuli = features if labelled else rng.normal(size=(150, 20))
    brains, measured = [], []
    for name in ("s1", "s2", "s3"):
        mixing = rng.normal(size=(4, 9))

        def answer(x: Array, mixing: Array = mixing) -> Array:
            return x[:, :4] @ mixing + rng.normal(size=(len(x), 9))

        brains.append(make_brain(name, stimuli, answer(stimuli), QUALITY, labelled=labelled))
        measured.append(answer(features))
    labels = features[:, :4] @ rng.normal(size=(4, 2)) + 0.3 * rng.normal(size=(n, 2))
    index = None
    if classes:
        index, labels = (features[:, :3].argmax(axis=1)).astype(np.int64), np.empty((n, 0))
    names = ("a", "b", "c") if classes else ("warm", "soft")
    distance = 1 - np.eye(3)
    distance[0, 1] = distance[1, 0] = 0.2
    return material_of.Material(
        features, labels, index, names, tuple(brains), tuple(measured), distance=distance,
        distance_of="ratings",
    )  # fmt: skip


def run(arm: str, material: material_of.Material, seed: int = 0, **changes: Any) -> dict[str, Any]:
    experiment = replace(EXPERIMENT, **changes)
    job = jobs(experiment, [arm], [seed], "")[0]
    job = replace(job, payload=Payload(experiment, material.of(arm), 1, Path("unused")))
    return lab.run(job, lambda: None)


# --------------------------------------------------------------------------------------------------
# Splits and samples
# --------------------------------------------------------------------------------------------------
def test_every_image_is_tested_once_in_as_many_seeds_as_folds() -> None:
    """Seeds 0 to 4 test all images once; seeds 5 to 9 do so again, in another partition."""
    material = planted()
    for first in (0, 5):
        tested = [lab.split(material, EXPERIMENT, first + k)[1] for k in range(5)]
        assert sorted(np.concatenate(tested)) == list(range(120))
    pool, test = lab.split(material, EXPERIMENT, 3)
    assert not set(pool) & set(test)
    assert len(pool) + len(test) == 120
    assert set(test) != set(lab.split(material, EXPERIMENT, 8)[1])


def test_folds_that_come_with_the_data_are_used_first() -> None:
    """The authors' folds are the first partition, a random one the second."""
    fold = np.arange(120) % 5
    material = replace(planted(), fold=fold)
    assert set(lab.split(material, EXPERIMENT, 2)[1]) == set(np.flatnonzero(fold == 2))
    assert set(lab.split(material, EXPERIMENT, 7)[1]) != set(np.flatnonzero(fold == 2))


def test_samples_of_classes_are_balanced_and_the_same_in_every_arm() -> None:
    """Ten samples of three classes: 3 or 4 of each; the same generator draws the same ones."""
    material = planted(classes=True)
    pool = np.arange(100)
    draws = [lab._sample(material, pool, 10, np.random.default_rng(k)) for k in (1, 1, 2)]
    assert material.classes is not None
    counts = np.bincount(material.classes[draws[0]])
    assert counts.min() >= 3
    assert counts.sum() == 10 == len(set(draws[0]))
    np.testing.assert_array_equal(draws[0], draws[1])
    assert set(draws[0]) != set(draws[2])


# --------------------------------------------------------------------------------------------------
# Arms
# --------------------------------------------------------------------------------------------------
def test_the_direct_arm_is_a_ridge_readout_of_the_features() -> None:
    """Scores with all samples are those of fitting and correlating by hand."""
    material = planted()
    pool, test = lab.split(material, EXPERIMENT, 1)
    model = fit_readout(material.features[pool], material.labels[pool])
    estimate = model.predict(material.features[test])
    by_hand = [np.corrcoef(estimate[:, k], material.labels[test, k])[0, 1] for k in range(2)]
    found = run("direct", material, seed=1)
    np.testing.assert_allclose(found["labels"]["all"], by_hand, atol=1e-6)
    assert found["scores"]["all"] == pytest.approx(np.mean(by_hand), abs=1e-6)
    assert found["labelled"] == {"10": 10, "40": 40, "all": 96}
    json.dumps(found, allow_nan=False)


def test_brains_help_with_few_samples_and_controls_do_not() -> None:
    """Labels inside what the brains see: brains beat direct at n = 10, and controls lose."""
    material = planted()
    scores = {
        arm: np.mean([run(arm, material, seed)["scores"]["10"] for seed in range(5)])
        for arm in ("direct", "direct-rank", "brain-s1", "brain-mean", "brain-stacked", "shuffled",
                    "random-map", "measured")
    }  # fmt: skip
    for arm in ("brain-s1", "brain-mean", "brain-stacked", "measured"):
        assert scores[arm] > scores["direct"] + 0.2, (arm, scores)
    for arm in ("direct-rank", "shuffled", "random-map"):  # 9 of 20 dimensions, the wrong ones
        assert scores[arm] < scores["direct"] - 0.1, (arm, scores)


def test_what_stands_between_features_and_labels() -> None:
    """Widths: units of one brain, of all stacked, one view a brain for the mean; rank of the control."""
    material = planted()
    assert run("brain-s2", material)["regressors"] == [9]
    assert run("brain-stacked", material)["regressors"] == [27]
    assert run("brain-mean", material)["regressors"] == [9, 9, 9]
    for arm in ("shuffled", "random-map", "measured"):
        assert run(arm, material)["regressors"] == [27]
        assert run(arm, material, combine="mean")["regressors"] == [9, 9, 9]
    # the brains see 4 dimensions, and some noise
    assert 4 <= run("direct-rank", material)["regressors"][0] <= 8
    assert run("direct-rank", material, rank_share=1.0)["regressors"] == [20]
    assert len(run("direct-rank", material, combine="mean")["regressors"]) == 3


def test_a_run_is_given_what_its_arm_needs() -> None:
    """Brains by the arm's name, all of them for controls, none for readouts of features."""
    material = planted()
    needed = {"direct": "", "measured": "", "brain-s2": "s2", "brain-mean": "s1 s2 s3",
              "shuffled": "s1 s2 s3", "direct-rank": "s1 s2 s3"}  # fmt: skip
    for arm, names in needed.items():
        part = material.of(arm)
        assert " ".join(b.name for b in part.brains) == names
        assert len(part.measured) == (3 if arm == "measured" else 0)
        assert part.features is material.features


def test_the_random_map_has_the_spectrum_of_what_it_is_a_control_of() -> None:
    """Stacked: the singular values of all maps side by side; mean: those of each brain's map."""
    material = planted()
    whole = np.hstack([np.asarray(b.weights) for b in material.brains])
    basis = replace(material, features=np.eye(20))  # regressors are the map itself
    pool = np.arange(100)

    def spectra(combine: Literal["stacked", "mean"]) -> list[Array]:
        experiment = replace(EXPERIMENT, combine=combine)
        views = lab._views("random-map", basis, experiment, pool, 0)
        return [np.asarray(np.linalg.svd(v, compute_uv=False), np.float64) for v in views]

    (stacked,) = spectra("stacked")
    np.testing.assert_allclose(stacked, np.linalg.svd(whole, compute_uv=False), atol=1e-9)
    for found, brain in zip(spectra("mean"), material.brains, strict=True):
        expected = np.linalg.svd(np.asarray(brain.weights), compute_uv=False)
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_dimensions() -> None:
    """Components that hold a share of the variance; a share of 1 is the numerical rank."""
    x = np.random.default_rng(0).normal(size=(50, 3)) @ np.diag([10.0, 1.0, 0.1])
    x = np.hstack([x, x])
    assert dimensions(x, 0.9) == 1
    assert dimensions(x, 0.995) == 2
    assert dimensions(x, 1.0) == 3


def test_encoders_of_labelled_brains_never_see_the_test_images() -> None:
    """Recorded responses to test images become nonsense, and so units would be weighed otherwise.

    No result of an arm that goes through brains changes, neither scores nor distances; and for
    measured responses, which are looked at to be tested, those of the other seeds do.
    """
    material = planted(labelled=True)
    _, test = lab.split(material, EXPERIMENT, 0)
    spoiled = []
    for brain in material.brains:
        responses = brain.responses.copy()
        responses[test] = 1e6 * np.arange(1, 10)
        spoiled.append(replace(brain, responses=responses))
    other = replace(material, brains=tuple(spoiled))
    for arm in ("brain-mean", "brain-stacked", "shuffled", "random-map", "direct-rank"):
        for key in ("scores", "between", "penalties"):
            assert run(arm, material)[key] == run(arm, other)[key], (arm, key)
    assert run("brain-s1", material, seed=1)["scores"] != run("brain-s1", other, seed=1)["scores"]


def test_measured_responses_are_weighed_by_the_pool_alone() -> None:
    """Units are divided by what they vary in the pool: their own unit is no matter, one test image neither."""
    material = planted()
    _, test = lab.split(material, EXPERIMENT, 0)
    other = replace(
        material, measured=tuple(m * np.geomspace(1, 1e4, 9) for m in material.measured)
    )
    assert run("measured", other)["scores"] == pytest.approx(run("measured", material)["scores"])
    spoiled = tuple(m.copy() for m in material.measured)
    for m in spoiled:
        m[test[0]] = 1e6 * np.arange(1, 10)
    spoiled_material = replace(material, measured=spoiled)
    for m, n in zip(
        lab._views("measured", material, EXPERIMENT, np.setdiff1d(np.arange(120), test), 0),
        lab._views("measured", spoiled_material, EXPERIMENT, np.setdiff1d(np.arange(120), test), 0),
        strict=True,
    ):
        np.testing.assert_array_equal(np.delete(m, test[0], axis=0), np.delete(n, test[0], axis=0))


def test_distances_between_brains_do_not_depend_on_units_and_means_of_labels() -> None:
    """A label in another unit, or from another zero, leaves distances between estimates as they are."""
    material = planted()
    other = replace(material, labels=material.labels * [1.0, 1e-3] + [0.0, 50.0])
    for arm in ("brain-mean", "shuffled"):
        found = run(arm, material)["between"]
        assert np.max(found["10"]) > 0.01  # there is something to compare
        for size, distance in run(arm, other)["between"].items():
            np.testing.assert_allclose(distance, found[size], atol=2e-6)


def test_the_penalty_is_not_chosen_where_each_class_has_one_sample() -> None:
    """One sample a class: the largest penalty, without a choice; two or more: chosen, and counted."""
    material = planted(classes=True)
    changes: dict[str, Any] = {"labels": "digits", "sizes": (10, 40), "draws": 2}
    found = run("brain-mean", material, **changes)["penalties"]
    assert sum(found["10"].values()) == 2 * 3  # draws x brains: one for all classes
    assert len(found["40"]) > 1
    one = replace(material, names=tuple("abcdefghij"))  # ten samples, ten classes
    assert run("direct", one, **changes)["penalties"]["10"] == {"1e+04": 2}
    assert run("direct", one, **changes)["penalties"]["40"] != {"1e+04": 2}
    labels = run("direct", planted())["penalties"]
    assert [sum(found.values()) for found in labels.values()] == [4, 4, 2]  # draws x labels


def test_two_classes_are_told_apart_by_sign() -> None:
    """A label set of two classes has one column of codes, and is not always the first class."""
    material = planted(classes=True)
    assert material.classes is not None
    two = replace(material, classes=np.minimum(material.classes, 1), names=("a", "rest"))
    assert run("direct", two, labels="digits")["scores"]["all"] > 0.85


def test_distances_between_estimates_are_kept_for_arms_with_several_brains() -> None:
    """brain-mean and shuffled have a distance for each size, others none; without a target, none."""
    material = planted()
    for arm in ("brain-mean", "shuffled"):
        found = run(arm, material)
        assert list(found["between"]) == ["10", "40", "all"]
        assert np.shape(found["between"]["10"]) == (3, 3)
        assert found["distance"] == np.round(np.array(material.distance), 6).tolist()
    assert run("brain-stacked", material)["between"] == {}
    assert run("brain-mean", replace(material, distance=None))["between"] == {}


def test_accuracy_of_classes() -> None:
    """Classes are scored by the share of right answers."""
    found = run("direct", planted(classes=True), labels="digits")
    assert found["scores"]["all"] > 0.8
    assert found["scores"]["all"] * found["tested"] == pytest.approx(
        round(found["scores"]["all"] * found["tested"])
    )


def test_arms_of_single_brains() -> None:
    """brain-each becomes one arm a brain; a brain may be named; impossible arms are refused."""
    assert expand_arms(["shuffled", "brain-each", "direct"], ["a", "b"], measured=True) == [
        "direct", "brain-a", "brain-b", "shuffled",
    ]  # fmt: skip
    assert expand_arms(["brain-b"], ["a", "b"], measured=True) == ["brain-b"]
    with pytest.raises(ValueError, match=r"unknown arms \['brain-c'\]"):
        expand_arms(["brain-c"], ["a", "b"], measured=True)
    with pytest.raises(ValueError, match="no brain was shown the labelled images"):
        expand_arms(["measured"], ["a"], measured=False)
    assert len(expand_arms(list(ARMS), ["a"], measured=True)) == len(ARMS)


# --------------------------------------------------------------------------------------------------
# Settings, material, features
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"brain": "mouse"}, "unknown brain 'mouse'"),
        (
            {"labels": "cifar10"},
            "--brain synthetic goes with --labels ratings, digits, not cifar10",
        ),
        (
            {"labels": "digits", "sizes": (5, 10)},
            "5 labelled samples are fewer than the 10 classes",
        ),
        (
            {"labels": "digits", "sizes": (10, 15)},
            "15 labelled samples of 10 classes: some classes have one sample, others two",
        ),
        ({"sizes": (20, 10)}, "sizes must rise"),
        ({"sizes": (2,)}, "from at least 4"),
        ({"folds": 1}, "folds must be at least 2"),
        ({"rank_share": 1.5}, "rank_share must be above 0, at most 1"),
        ({"session": "190925"}, "unknown session '190925'; there are 190923"),
    ],
)
def test_settings_that_are_refused(changes: dict[str, Any], words: str) -> None:
    """Each impossible setting is named."""
    with pytest.raises(ValueError, match=words):
        replace(MediatedExperiment(), **changes)


@pytest.mark.parametrize(("brain", "labels"), [(b, x) for b, all_ in BRAINS.items() for x in all_])
def test_every_preset_is_possible(brain: str, labels: str) -> None:
    """Presets test every image once, and survive JSON, which names their runs."""
    experiment, seeds = preset(brain, labels)
    assert len(seeds) == experiment.folds
    config = experiment.run_config("direct", 0, "data")
    assert json.loads(json.dumps(config)) == config


def test_features_settings_are_checked() -> None:
    """A tap given twice, and images of a few pixels."""
    with pytest.raises(ValueError, match="each once"):
        FeatureSettings(taps=("_blocks.1", "_blocks.1"))
    with pytest.raises(ValueError, match="at least 32 pixels"):
        FeatureSettings(size=16)


def test_recordings_that_make_no_brain_are_named() -> None:
    """NaN voxels, a brain that never varies, other numbers of stimuli."""
    x, r = np.ones((10, 2)), np.random.default_rng(0).normal(size=(10, 3))
    r[2, 1] = np.nan
    with pytest.raises(DataError, match="V4-x: 1 of 3 units have NaN"):
        make_brain("V4-x", x, r, QUALITY)
    with pytest.raises(DataError, match="V4-x: none of its 3 units ever varies"):
        make_brain("V4-x", x, np.ones((10, 3)), QUALITY)
    with pytest.raises(DataError, match="responses to 8 stimuli, but there are 10"):
        make_brain("V4-x", x, np.ones((8, 3)), QUALITY)


def test_synthetic_brains_are_what_they_say() -> None:
    """Neighbours on the ring rate alike; inside, labels can be read from rates; outside, they cannot."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 30)) * np.linspace(2, 0.5, 30)
    concepts = np.eye(5)[features[:, 10:15].argmax(axis=1)]
    places: tuple[Literal["inside", "outside"], ...] = ("inside", "outside")
    for where in places:
        brains = observers(features, concepts, count=6, units=40, planted=where)
        said = ratings(brains, features, noise=0.0)
        apart = correlation_distance(said)
        assert apart[0, 1] < apart[0, 3] - 0.2
        rates = brains[0].rates(features)
        fitted = fit_readout(np.log(rates[:250]), said[0][:250]).predict(np.log(rates[250:]))
        found = np.corrcoef(fitted[:, 0], said[0][250:, 0])[0, 1]
        assert found > 0.95 if where == "inside" else abs(found) < 0.3
        counts = brains[0].record(np.repeat(features[:1], 4000, axis=0), rng)
        np.testing.assert_allclose(counts.mean(axis=0), rates[0], rtol=0.1, atol=0.05)


def test_features_are_kept_and_known_by_the_images(tmp_path: Path) -> None:
    """A second call reads the file; other images or settings make another; a broken file is remade."""
    pytest.importorskip("efficientnet_lite_pytorch")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    settings = FeatureSettings(taps=("_blocks.1", "_blocks.3"), grid=2, size=32)
    first = image_features(images, settings, tmp_path)
    (kept,) = tmp_path.iterdir()
    when = kept.stat().st_mtime_ns
    again = image_features(images, settings, tmp_path)
    assert kept.stat().st_mtime_ns == when
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    image_features(images[::-1].copy(), settings, tmp_path)
    image_features(images, replace(settings, grid=1), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    kept.write_bytes(b"not an archive")
    np.testing.assert_array_equal(image_features(images, settings, tmp_path)[0], first[0])
    with pytest.raises(ValueError, match=r"unknown taps \['_blocks.99'\]"):
        image_features(images, replace(settings, taps=("_blocks.99",)), tmp_path)


# --------------------------------------------------------------------------------------------------
# Real data
# --------------------------------------------------------------------------------------------------
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


LOADERS = {  # images are decoded once
    name: cache(getattr(material_of, name)) for name in ("cowley_v4", "object2vec", "_cifar10")
}


@pytest.fixture
def _pretend_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gray values of 8 x 8 fields in the place of a network: what is tested is what is done with them."""

    def fields(images: NDArray[np.uint8], settings: FeatureSettings) -> list[NDArray[np.float32]]:
        side = images.shape[1] // 8
        x = images[:, : 8 * side, : 8 * side].reshape(len(images), 8, side, 8, side, -1)
        return [x.mean(axis=(2, 4, 5)).reshape(len(images), -1).astype(np.float32)]

    monkeypatch.setattr(material_of, "image_features", fields)
    for name, load in LOADERS.items():
        monkeypatch.setattr(material_of, name, load)


@pytest.mark.usefixtures("_pretend_features")
@pytest.mark.parametrize(
    ("brain", "labels", "labelled", "stimuli"),
    [
        ("cowley-v4", "cifar10", 12_000, 1200),
        ("cowley-v4", "attributes", 1200, 1200),
        ("object2vec", "cifar10", 12_000, 81),
        ("object2vec", "attributes", 81, 81),
    ],
)
def test_material_of_real_recordings(brain: str, labels: str, labelled: int, stimuli: int) -> None:
    """Numbers of images, brains and labels; who was shown the labelled images; finite quality."""
    if not DATA.is_dir():
        pytest.skip(f"no data in {DATA}")
    experiment, _ = preset(brain, labels)
    experiment = replace(experiment, features=replace(experiment.features, components=20))
    material = lab.make_material(experiment, str(DATA))
    assert material.features.shape == (labelled, 20)
    assert tuple(b.name for b in material.brains) == experiment.names
    assert len(material.brains[0].stimuli) == stimuli
    shown = [b.name for b in material.brains if b.labelled]
    if labels == "cifar10":
        assert (shown, material.measured, material.names[0]) == ([], (), "airplane")
    elif brain == "cowley-v4":
        assert shown == [experiment.session]
        assert set(shown) < set(COWLEY_V4_SESSIONS)
        assert material.measured[0].shape == (1200, 89)
    else:
        assert shown == list(experiment.names)
        assert material.fold is not None
        assert material.distance is not None
    assert all(-1 < b.quality["r"] < 1 for b in material.brains)
    assert bool(material.distance is None) == (brain == "cowley-v4")
