"""`b2m mediated`: settings and refusals, splits and samples, arms and their maps, runs from arguments to files, real recordings."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from b2m_fast.data import dataset, labels, load
from b2m_fast.data.files import DataError
from b2m_fast.encoding.quality import EncoderQuality
from b2m_fast.evaluate.variability import correlation_distance
from b2m_fast.experiments import engine, report
from b2m_fast.experiments import mediated_data as data
from b2m_fast.experiments.contract import Context, Run
from b2m_fast.experiments.mediated import Mediated, Settings, arm
from b2m_fast.experiments.settings import choose
from b2m_fast.methods.mediated import fit_readout
from device_mode import pretend_cuda

pytest.importorskip("sklearn")

Array = NDArray[np.float64]
SHORT = (
    "--components 20 --observers 3 --units 12 --sizes 10 40 --draws 2 --grid 2 --size 32 --quiet"
)
QUALITY = EncoderQuality("planted", 150, np.linspace(0.3, 0.7, 9), None)
SETTINGS = choose(Mediated(), {"sizes": [10, 40], "draws": 2, "folds": 5}).settings


class Fields:
    """Gray values of 8 x 8 fields in the place of a network's features: what is tested is what is done with them."""

    def __init__(self, network: str, taps: tuple[str, ...], size: int, grid: int) -> None:
        self.taps = taps

    def __call__(self, images: NDArray[np.uint8], device: Any) -> list[NDArray[np.float32]]:
        side = images.shape[1] // 8
        x = images[:, : 8 * side, : 8 * side].reshape(len(images), 8, side, 8, side, -1)
        return [x.mean(axis=(2, 4, 5)).reshape(len(images), -1).astype(np.float32)] * len(self.taps)

    def __repr__(self) -> str:
        return f"fields {self.taps}"


@pytest.fixture
def _fields(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(data, "NetworkFeatures", Fields)
    monkeypatch.setenv("B2M_CACHE", str(tmp_path / "cache"))


def mediated(out: Path, *arguments: str) -> int:
    return engine.main(Mediated(), [*SHORT.split(), "--out", str(out), *arguments])


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def planted(*, labelled: bool = False, classes: bool = False, n: int = 120) -> data.Material:
    """Three brains that represent 4 of 20 feature dimensions, and labels that lie there."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, 20))
    stimuli = features if labelled else rng.normal(size=(150, 20))
    brains, measured = [], []
    for name in ("s1", "s2", "s3"):
        mixing = rng.normal(size=(4, 9))

        def answer(x: Array, mixing: Array = mixing) -> Array:
            return x[:, :4] @ mixing + rng.normal(size=(len(x), 9))

        quality = replace(QUALITY, recording=name)
        brains.append(data._brain(stimuli, answer(stimuli), quality, "cpu", labelled=labelled))
        measured.append(answer(features))
    values = features[:, :4] @ rng.normal(size=(4, 2)) + 0.3 * rng.normal(size=(n, 2))
    index = features[:, :3].argmax(axis=1).astype(np.int64) if classes else None
    names = ("a", "b", "c") if classes else ("warm", "soft")
    distance = 1 - np.eye(3)
    distance[0, 1] = distance[1, 0] = 0.2
    return data.Material(
        SETTINGS,
        "cpu",
        tuple(brains),
        features,
        names,
        index,
        values,
        measured=tuple(measured),
        distance=distance,
        distance_of="ratings",
    )


def run(name: str, material: data.Material, seed: int = 0, **changes: Any) -> Run:
    """One run of an arm, as the command does it."""
    settings = replace(SETTINGS, **changes)
    brains = tuple(b for b in material.brains if name == f"brain-{b.name}") or material.brains
    part = replace(material, settings=settings, brains=brains)
    return Mediated().run(settings, part, name, seed, Context(None, Path("unused")))


def views(name: str, material: data.Material, combine: Any = "stacked") -> list[Array]:
    """The regressors of an arm, of a run of seed 0."""
    pool, _ = data.split(material, 0)
    settings = replace(SETTINGS, combine=combine)
    return arm.get(name).make(replace(material, settings=settings, pool=pool))


# --------------------------------------------------------------------------------------------------
# Splits and samples
# --------------------------------------------------------------------------------------------------
def test_every_image_is_tested_once_in_as_many_seeds_as_folds() -> None:
    """Seeds 0 to 4 test all images once; seeds 5 to 9 do so again, in another partition."""
    material = planted()
    for first in (0, 5):
        tested = [data.split(material, first + k)[1] for k in range(5)]
        assert sorted(np.concatenate(tested)) == list(range(120))
    pool, test = data.split(material, 3)
    assert not set(pool) & set(test)
    assert len(pool) + len(test) == 120
    assert set(test) != set(data.split(material, 8)[1])


def test_folds_that_come_with_the_data_are_used_first() -> None:
    """The authors' folds are the first partition, a random one the second."""
    fold = np.arange(120) % 5
    material = replace(planted(), fold=fold)
    assert set(data.split(material, 2)[1]) == set(np.flatnonzero(fold == 2))
    assert set(data.split(material, 7)[1]) != set(np.flatnonzero(fold == 2))


def test_samples_of_classes_are_balanced_and_the_same_in_every_arm() -> None:
    """Ten samples of three classes: 3 or 4 of each; a seed and draw have the same ones, others have others."""
    material = replace(planted(classes=True), pool=np.arange(100))
    draws = [data.sample(material, 10, draw) for draw in (1, 1, 2)]
    assert material.classes is not None
    counts = np.bincount(material.classes[draws[0]])
    assert counts.min() >= 3
    assert counts.sum() == 10 == len(set(draws[0]))
    np.testing.assert_array_equal(draws[0], draws[1])
    assert set(draws[0]) != set(draws[2])
    assert set(draws[0]) != set(data.sample(replace(material, seed=1), 10, 1))


# --------------------------------------------------------------------------------------------------
# Arms
# --------------------------------------------------------------------------------------------------
def test_the_direct_arm_is_a_ridge_readout_of_the_features() -> None:
    """Scores with all samples are those of fitting and correlating by hand."""
    material = planted()
    pool, test = data.split(material, 1)
    model = fit_readout(material.features[pool], material.values[pool])
    estimate = model.predict(material.features[test])
    by_hand = [np.corrcoef(estimate[:, k], material.values[test, k])[0, 1] for k in range(2)]
    found = run("direct", material, seed=1)
    np.testing.assert_allclose(found["labels"]["all"], by_hand, atol=1e-6)
    assert found["scores"]["all"] == pytest.approx(np.mean(by_hand), abs=1e-6)
    assert found["labelled"] == {"10": 10, "40": 40, "all": 96}
    json.dumps(found, allow_nan=False)


def test_brains_help_with_few_samples_and_controls_do_not() -> None:
    """Labels inside what the brains represent: brains beat direct at n = 10, and controls lose."""
    material = planted()
    arms = ["direct", "direct-rank", "brain-s1", "brain-mean", "brain-stacked", "shuffled"]
    scores = {
        name: np.mean([run(name, material, seed)["scores"]["10"] for seed in range(5)])
        for name in (*arms, "random-map", "measured")
    }
    for name in ("brain-s1", "brain-mean", "brain-stacked", "measured"):
        assert scores[name] > scores["direct"] + 0.2, (name, scores)
    for name in ("direct-rank", "shuffled", "random-map"):  # 9 of 20 dimensions, the wrong ones
        assert scores[name] < scores["direct"] - 0.1, (name, scores)


def test_what_stands_between_features_and_labels() -> None:
    """Widths: units of one brain, of all stacked, one view a brain for the mean; rank of the control."""
    material = planted()
    assert run("brain-s2", material)["regressors"] == [9]
    assert run("brain-stacked", material, combine="mean")["regressors"] == [27]
    assert run("brain-mean", material)["regressors"] == [9, 9, 9]
    for name in ("shuffled", "random-map", "measured"):
        assert run(name, material)["regressors"] == [27]
        assert run(name, material, combine="mean")["regressors"] == [9, 9, 9]
    # the brains represent 4 dimensions, and some noise
    assert 4 <= run("direct-rank", material)["regressors"][0] <= 8
    assert run("direct-rank", material, rank_share=1.0)["regressors"] == [20]
    assert len(run("direct-rank", material, combine="mean")["regressors"]) == 3


def test_the_random_map_has_the_spectrum_of_what_it_is_a_control_of() -> None:
    """Stacked: the singular values of all maps side by side; mean: those of each brain's map."""
    material = planted()
    basis = replace(material, features=np.eye(20))  # regressors are the map itself
    whole = [np.hstack([np.asarray(b.weights) for b in material.brains])]
    each = [np.asarray(b.weights) for b in material.brains]
    for combine, expected in (("stacked", whole), ("mean", each)):
        for found, real in zip(views("random-map", basis, combine), expected, strict=True):
            values = [np.linalg.svd(w, compute_uv=False) for w in (found, real)]
            np.testing.assert_allclose(values[0], values[1], atol=1e-9)


def test_encoders_of_labelled_brains_never_see_the_test_images() -> None:
    """Recorded responses to test images become nonsense, and so units would be weighed otherwise.

    No result of an arm that goes through brains changes, neither scores nor distances; and for
    measured responses, which are looked at to be tested, those of the other seeds do.
    """
    material = planted(labelled=True)
    _, test = data.split(material, 0)
    spoiled = []
    for brain in material.brains:
        responses = brain.responses.copy()
        responses[test] = 1e6 * np.arange(1, 10)
        spoiled.append(replace(brain, responses=responses))
    other = replace(material, brains=tuple(spoiled))
    for name in ("brain-mean", "brain-stacked", "shuffled", "random-map", "direct-rank"):
        for key in ("scores", "between", "penalties"):
            assert run(name, material)[key] == run(name, other)[key], (name, key)
    assert run("brain-s1", material, seed=1)["scores"] != run("brain-s1", other, seed=1)["scores"]


def test_measured_responses_are_weighed_by_the_pool_alone() -> None:
    """Units are divided by what they vary in the pool: their own unit does not matter, nor does one test image."""
    material = planted()
    _, test = data.split(material, 0)
    other = replace(
        material, measured=tuple(m * np.geomspace(1, 1e4, 9) for m in material.measured)
    )
    assert run("measured", other)["scores"] == pytest.approx(run("measured", material)["scores"])
    spoiled = tuple(m.copy() for m in material.measured)
    for m in spoiled:
        m[test[0]] = 1e6 * np.arange(1, 10)
    both = (views("measured", replace(material, measured=m)) for m in (material.measured, spoiled))
    for m, n in zip(*both, strict=True):
        np.testing.assert_array_equal(np.delete(m, test[0], axis=0), np.delete(n, test[0], axis=0))


def test_distances_between_brains_do_not_depend_on_units_and_means_of_labels() -> None:
    """A label in another unit, or from another zero, leaves distances between estimates as they are."""
    material = planted()
    other = replace(material, values=material.values * [1.0, 1e-3] + [0.0, 50.0])
    for name in ("brain-mean", "shuffled"):
        found = run(name, material)["between"]
        assert np.max(found["10"]) > 0.01  # there is something to compare
        for size, distance in run(name, other)["between"].items():
            np.testing.assert_allclose(distance, found[size], atol=2e-6)


def test_the_penalty_is_not_chosen_where_each_class_has_one_sample() -> None:
    """One sample a class: the largest penalty, without a choice; two or more: chosen, and counted."""
    material = planted(classes=True)
    found = run("brain-mean", material)["penalties"]
    assert sum(found["10"].values()) == 2 * 3  # draws x brains: one for all classes
    assert len(found["40"]) > 1
    one = replace(material, names=tuple("abcdefghij"))  # ten samples, ten classes
    assert run("direct", one)["penalties"]["10"] == {"1e+04": 2}
    assert run("direct", one)["penalties"]["40"] != {"1e+04": 2}
    numbers = run("direct", planted())["penalties"]
    assert [sum(found.values()) for found in numbers.values()] == [4, 4, 2]  # draws x labels


def test_classes_are_scored_by_the_share_of_right_answers() -> None:
    """Three classes; and two, which have one column of codes, told apart by its sign."""
    material = planted(classes=True)
    found = run("direct", material)
    assert found["classes"] == 3
    assert found["scores"]["all"] > 0.8
    right = found["scores"]["all"] * found["tested"]
    assert right == pytest.approx(round(right))
    assert material.classes is not None
    two = replace(material, classes=np.minimum(material.classes, 1), names=("a", "rest"))
    assert run("direct", two)["scores"]["all"] > 0.85


def test_distances_between_estimates_are_kept_for_arms_with_several_brains() -> None:
    """brain-mean and shuffled have a distance for each size, others none; without a target, none."""
    material = planted()
    for name in ("brain-mean", "shuffled"):
        found = run(name, material)
        assert list(found["between"]) == ["10", "40", "all"]
        assert np.shape(found["between"]["10"]) == (3, 3)
        assert found["distance"] == np.round(np.array(material.distance), 6).tolist()
    assert run("brain-stacked", material)["between"] == {}
    assert run("brain-mean", replace(material, distance=None))["between"] == {}


def test_encoders_are_reported_by_the_arms_that_go_through_them() -> None:
    """Each brain once for the arms through brains, none for readouts of features and controls."""
    material = planted()
    for name, count in (("brain-s2", 1), ("brain-mean", 3), ("direct", 0), ("shuffled", 0)):
        assert len(run(name, material)["encoders"]) == count


# --------------------------------------------------------------------------------------------------
# Maps of the controls
# --------------------------------------------------------------------------------------------------
def test_dimensions() -> None:
    """Components that hold a share of the variance; a share of 1 is the numerical rank."""
    x = np.random.default_rng(0).normal(size=(50, 3)) @ np.diag([10.0, 1.0, 0.1])
    x = np.hstack([x, x])
    assert data.dimensions(x, 0.9) == 1
    assert data.dimensions(x, 0.995) == 2
    assert data.dimensions(x, 1.0) == 3


@given(st.integers(0, 10**6), st.sampled_from([(12, 7), (6, 20)]))
def test_a_random_map_keeps_the_spectrum_and_nothing_else(
    seed: int, shape: tuple[int, int]
) -> None:
    """Singular values are the brain's; the range is another."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=shape)
    found = data.random_map_like(w, rng)
    values = np.linalg.svd(w, compute_uv=False)
    np.testing.assert_allclose(np.linalg.svd(found, compute_uv=False), values, rtol=1e-9)
    assert not np.allclose(found @ found.T, w @ w.T)


@pytest.mark.parametrize("shape", [(40, 9), (9, 40)])
def test_principal_map_is_the_leading_axes(shape: tuple[int, int]) -> None:
    """The axes are those of the singular value decomposition, up to sign, in either form."""
    x = np.random.default_rng(7).normal(size=shape)
    _, _, axes = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    found = data.principal_map(x, 4)
    np.testing.assert_allclose(np.abs(axes[:4] @ found), np.eye(4), atol=1e-8)
    assert data.principal_map(x, 1000).shape[1] == min(shape[0] - 1, shape[1])
    with pytest.raises(ValueError, match="rank must be at least 1"):
        data.principal_map(x, 0)


@pytest.mark.parametrize("shape", [(200, 60), (60, 200)])
def test_a_principal_map_is_orthonormal_for_real_spectra(shape: tuple[int, int]) -> None:
    """In spectra as steep as those of networks; directions in which nothing varies are no axes."""
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(shape[1], 30)))
    x = rng.normal(size=(shape[0], 30)) * 10.0 ** -np.linspace(0, 4, 30) @ axes.T
    found = data.principal_map(x, 50)
    assert found.shape == (shape[1], 30)
    np.testing.assert_allclose(found.T @ found, np.eye(30), atol=1e-8)
    np.testing.assert_allclose(found @ (found.T @ axes), axes, atol=1e-6)


# --------------------------------------------------------------------------------------------------
# What is refused
# --------------------------------------------------------------------------------------------------
REFUSED = [
    ("--arms brain", "there is no arm 'brain'; there are direct"),
    ("--arms brain-s9", "there is no brain s9; there are s1, s2, s3"),
    ("--brain mouse", "there is no data set 'mouse'"),
    ("--brain pfc-memory --labels digits", "is of the kind trials; this needs images or categ"),
    ("--brain cowley-v4 --labels ratings", "--labels ratings is what simulated brains rate"),
    ("--labels attributes", "is of images a brain was shown; --brain synthetic is simulated"),
    ("--brain cowley-v4 --arms measured", "no brain was shown the labelled images"),
    ("--brain object2vec --planted outside", "--planted: only for simulated brains"),
    ("--brain cowley-v4 --set spread=2", "--set cortex.spread: only for simulated brains"),
    ("--session 201025", "--session: only for labels of a brain's own images"),
    ("--arms direct shuffled --rank-share 0.5", "--rank-share: only for arms that are cut to a"),
    ("--labels digits --sizes 5", "5 labelled samples are fewer than the 10 classes of digits"),
    ("--labels digits --sizes 10 15", "15 labelled samples of 10 classes: some classes have one"),
    ("--sizes 2", "Expected `int` >= 4"),
    ("--folds 1", "folds: Expected `int` >= 2"),
    ("--draws 0", "draws: Expected `int` >= 1"),
    ("--rank-share 2", "rank_share: Expected `float` <= 1"),
    ("--size 16", "features.size: Expected `int` >= 32"),
    ("--observers 0", "cortex.observers: Expected `int` >= 1"),
    ("--taps _blocks.1 _blocks.1", "taps must be at least one, each once"),
    ("--seeds -1", "at least 0"),
    ("--network resnet", "unknown network 'resnet'"),
    ("--precision bf16-mixed", "--precision bf16-mixed: no network is trained here"),
    ("--brain cowley-v4", "--data DIR or B2M_DATA"),
    ("--brain object2vec --data /no/such", "/no/such does not exist"),
    ("--data .", "nothing of this command is read from files"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=[a for a, _ in REFUSED])
def test_impossible_and_ignored_wishes_are_refused_first(
    arguments: str, words: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    """Each mistake ends with code 2 and a message that names what was wrong, before any work."""
    monkeypatch.delenv("B2M_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    short = ["--quiet", *(["--observers", "3"] if "s9" in arguments else [])]
    assert engine.main(Mediated(), [*short, *arguments.split()]) == engine.USAGE
    assert words in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.usefixtures("_fields")
@pytest.mark.parametrize(
    ("folds", "words"), [("400", "each needs at least 3"), ("10", "fewer than the smallest size")]
)
def test_too_few_labelled_images(folds: str, words: str, tmp_path: Path, capsys: Any) -> None:
    """Folds without images to score on, and sizes that cannot be had, end with code 2."""
    arguments = ["--folds", folds, "--sizes", "10" if folds == "400" else "5000"]
    assert mediated(tmp_path, *arguments) == engine.USAGE
    assert words in capsys.readouterr().err


def test_an_unknown_tap_is_named_with_those_there_are(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    """The message lists the taps, and ends with code 2 before anything is written to runs."""
    pytest.importorskip("efficientnet_lite_pytorch")
    monkeypatch.setenv("B2M_CACHE", str(tmp_path))
    assert mediated(tmp_path / "out", "--taps", "_blocks.99") == engine.USAGE
    assert "unknown taps ['_blocks.99']" in capsys.readouterr().err
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize(
    ("brain", "words"), [("cowley-v4", "GPL-3.0"), ("object2vec", "do not redistribute")]
)
def test_missing_recordings_say_where_to_get_them(
    brain: str, words: str, tmp_path: Path, capsys: Any
) -> None:
    """An empty data directory gives the origin and the licence of what is missing."""
    command = ["--data", str(tmp_path), "--brain", brain, "--quiet"]
    assert engine.main(Mediated(), [*command, "--out", str(tmp_path / "out")]) == engine.USAGE
    message = capsys.readouterr().err
    assert "github.com" in message
    assert words in message


def test_broken_recordings_are_named(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """A recording that is no archive ends with code 2 and the file's name."""
    monkeypatch.setenv("B2M_CACHE", str(tmp_path))
    folder = tmp_path / "object2vec"
    folder.mkdir()
    (folder / "object2vec_subj001.npz").write_bytes(b"broken")
    shutil.copy(folder / "object2vec_subj001.npz", folder / "stimuli_81x10_128px.zip")
    arguments = ["--brain", "object2vec", "--labels", "attributes", "--data", str(tmp_path)]
    short = ["--quiet", "--out", str(tmp_path / "out")]
    assert engine.main(Mediated(), [*arguments, *short]) == engine.USAGE
    assert "object2vec_subj001.npz cannot be read" in capsys.readouterr().err


def test_a_brain_that_never_varies_is_named() -> None:
    """Units that are all constant make no encoder."""
    with pytest.raises(DataError, match="planted: none of its 3 units ever varies"):
        data._brain(np.ones((10, 2)), np.ones((10, 3)), QUALITY, "cpu")


def test_simulated_brains_are_what_they_say() -> None:
    """Neighbours on the ring rate alike; inside, labels can be read from rates; outside, they cannot."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 30)) * np.linspace(2, 0.5, 30)
    concepts = np.eye(5)[features[:, 10:15].argmax(axis=1)]
    for where in ("inside", "outside"):
        brains = dataset.get("synthetic").about["observers"](
            features, concepts, count=6, units=40, planted=where
        )
        said = labels.get("ratings").make(brains, features, noise=0.0)
        apart = correlation_distance(said)
        assert apart[0, 1] < apart[0, 3] - 0.2
        rates = brains[0].rates(features)
        fitted = fit_readout(np.log(rates[:250]), said[0][:250]).predict(np.log(rates[250:]))
        found = np.corrcoef(fitted[:, 0], said[0][250:, 0])[0, 1]
        assert found > 0.95 if where == "inside" else abs(found) < 0.3
        counts = brains[0].record(np.repeat(features[:1], 4000, axis=0), rng)
        np.testing.assert_allclose(counts.mean(axis=0), rates[0], rtol=0.1, atol=0.05)


def test_arms_of_single_brains() -> None:
    """brain-each becomes one arm a brain; a brain may be named; measured is there where it can be."""
    experiment, context = Mediated(), Context(None, Path("unused"))
    settings = choose(experiment, {"cortex": {"observers": 2}}).settings
    expanded = experiment.expand(settings, ["shuffled", "brain-each", "direct"], context)
    assert expanded == ["shuffled", "brain-s1", "brain-s2", "direct"]
    assert experiment.expand(settings, ["brain-s2"], context) == ["brain-s2"]
    assert experiment.possible_arms(settings) == list(arm.listings())
    other = choose(experiment, {"brain": "cowley-v4"}).settings
    assert set(arm.listings()) - set(experiment.possible_arms(other)) == {"measured"}


def test_every_brain_and_labels_have_presets_that_test_each_image_once() -> None:
    """Settings that go together, as many seeds as folds; sizes may be given in any order."""
    experiment = Mediated()
    for brain in dataset.listings(kind=("images", "categories")):
        for name in labels.listings():
            chosen = choose(experiment, {"brain": brain, "labels": name})
            assert len(chosen.seeds) == chosen.settings.folds
    assert choose(experiment, {"brain": "object2vec", "labels": "attributes"}).seeds == [*range(9)]
    assert choose(experiment, {"folds": 5}).seeds == [*range(5)]
    assert choose(experiment, {"sizes": [40, 10, 10]}).settings.sizes == (10, 40)


def test_help_teaches() -> None:
    """--help explains the method, arms, brains, examples, outputs and exit codes."""
    text = " ".join(engine.parser(Mediated()).format_help().split())
    words = ["cowley-v4", "SYNTHETIC", "results.json", "exit codes", "W W'", "outside", "ratings"]
    for word in (*arm.listings(), *words, "as many as folds", "default: 10 20 50 100 200"):
        assert word in text


# --------------------------------------------------------------------------------------------------
# From arguments to files
# --------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("_fields")
def test_whole_experiment(tmp_path: Path, capsys: Any) -> None:
    """All arms of two seeds: tables, words, settings, encoders and the figure are written."""
    assert mediated(tmp_path, "--seeds", "0", "1") == engine.OK
    printed = capsys.readouterr().out
    assert "SYNTHETIC" in printed
    assert "planted inside what the brains represent" in printed
    assert "2 seeds are too few for a verdict" in printed
    full = results(tmp_path)
    singles = {"brain-s1", "brain-s2", "brain-s3"}
    assert {r["arm"] for r in full["runs"]} == set(arm.listings()) - {"brain-each"} | singles
    assert len(full["summary"]["encoders"]) == 3
    assert full["settings"]["features"]["components"] == 20
    assert set(full["summary"]["variability"]) == {"brain-mean", "shuffled"}
    text = (tmp_path / "results.md").read_text()
    assert "| brain-stacked - shuffled " in text
    assert "| s3 " in text
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    assert report.load(tmp_path).settings == choose(Mediated(), full["settings"]).settings


@pytest.mark.usefixtures("_fields")
def test_only_what_is_missing_is_done(tmp_path: Path, monkeypatch: Any) -> None:
    """More seeds add runs; with nothing to do nothing is prepared; other settings have runs of their own."""
    arms = ["--arms", "direct", "brain-stacked"]
    assert mediated(tmp_path, *arms, "--seeds", "0") == engine.OK
    (first,) = tmp_path.glob("runs/direct-seed0-*.json")
    before = first.stat().st_mtime_ns
    assert mediated(tmp_path, *arms, "--seeds", "0", "1") == engine.OK
    with monkeypatch.context() as patch:
        patch.setattr(Mediated, "prepare", None)
        assert mediated(tmp_path, *arms, "--seeds", "0", "1") == engine.OK
    assert mediated(tmp_path, *arms, "--seeds", "0", "--planted", "outside") == engine.OK
    assert first.stat().st_mtime_ns == before
    assert len(list(tmp_path.glob("runs/direct-seed0-*.json"))) == 2


@pytest.mark.usefixtures("_fields")
def test_stopped_by_ctrl_c_and_continued(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """Ctrl-C in the second run keeps the first; the same command ends with the same numbers."""
    arguments = ["--arms", "direct", "brain-mean", "--seeds", "3"]
    assert mediated(tmp_path / "whole", *arguments) == engine.OK
    once = Mediated.run

    def stopped(self: Any, settings: Any, prepared: Any, name: str, *rest: Any) -> Any:
        if name == "brain-mean":
            raise KeyboardInterrupt
        return once(self, settings, prepared, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Mediated, "run", stopped)
        assert mediated(tmp_path / "part", *arguments) == engine.INTERRUPTED
    assert "1 of 2 runs finished and kept" in capsys.readouterr().err
    assert mediated(tmp_path / "part", *arguments) == engine.OK
    part, whole = (
        [{k: v for k, v in r.items() if k != "seconds"} for r in results(tmp_path / n)["runs"]]
        for n in ("part", "whole")
    )
    assert part == whole


@pytest.mark.usefixtures("_fields")
def test_classes_and_the_other_combination(tmp_path: Path) -> None:
    """Digits as classes, brains averaged: scores are accuracies, controls have a view a brain."""
    arms = ["--arms", "direct", "brain-mean", "random-map"]
    assert mediated(tmp_path, "--labels", "digits", "--combine", "mean", *arms, "--seeds", "0") == 0
    found = {r["arm"]: r for r in results(tmp_path)["runs"]}
    assert found["random-map"]["regressors"] == [12, 12, 12]
    assert found["direct"]["classes"] == 10
    assert found["direct"]["scores"]["all"] > 0.8
    assert "Share of images classified rightly" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("_fields")
def test_processes_give_the_same_numbers_and_too_large_sizes_are_left_out(tmp_path: Path) -> None:
    """Two workers find what one finds; a size beyond all samples is left out, and that is said."""
    arguments = ["--arms", "direct", "brain-s1", "--seeds", "0", "--sizes", "10", "5000"]
    for workers in ("1", "2"):
        assert mediated(tmp_path / workers, *arguments, "--workers", workers) == engine.OK
    one, two = ([r["scores"] for r in results(tmp_path / n)["runs"]] for n in ("1", "2"))
    assert one == two
    assert list(one[0]) == ["10", "all"]
    left = "Left out: n = 5000, as a seed has 809 images to draw from."
    assert left in results(tmp_path / "1")["words"]


def test_features_are_kept_and_known_by_images_and_settings(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """A second call reads the file; other images, settings or another device make another; a broken file is made again."""
    monkeypatch.setenv("B2M_CACHE", str(tmp_path))
    monkeypatch.setattr(data, "NetworkFeatures", Fields)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    context = Context(None, tmp_path)
    features = replace(SETTINGS.features, taps=("a", "b"))
    settings = replace(SETTINGS, features=features)
    (first,) = data._layers([images], settings, context)
    (kept,) = (tmp_path / "features").iterdir()
    when = kept.stat().st_mtime_ns
    (again,) = data._layers([images], settings, context)
    assert kept.stat().st_mtime_ns == when
    np.testing.assert_array_equal(first, again)
    data._layers([images[::-1]], settings, context)
    data._layers([images], replace(settings, features=replace(features, taps=("a",))), context)
    data._layers([images], settings, replace(context, accelerator="cuda"))
    assert len(list((tmp_path / "features").iterdir())) == 4
    kept.write_bytes(b"not an archive")
    np.testing.assert_array_equal(data._layers([images], settings, context)[0], first)


@pytest.mark.usefixtures("_fields")
def test_encoders_and_readouts_are_fitted_on_the_accelerator(tmp_path: Path) -> None:
    """Where "cuda" is the CPU, fits ask for it, no tensor is made elsewhere, and the numbers are those of the CPU."""
    experiment = Mediated()
    tree = {"features": {"components": 10}, "cortex": {"observers": 3, "units": 5}, "sizes": [20]}
    settings: Settings = choose(experiment, tree | {"draws": 1}).settings

    def numbers(accelerator: Any) -> Any:
        context = Context(None, tmp_path, accelerator=accelerator)
        prepared = experiment.prepare(settings, ["shuffled"], context)
        found = experiment.run(settings, prepared.of("shuffled"), "shuffled", 0, context)
        return prepared.report, {k: v for k, v in found.items() if k != "seconds"}

    expected = numbers("cpu")
    with pretend_cuda() as mode:
        assert numbers("cuda") == expected
    assert mode.asked > 100


# --------------------------------------------------------------------------------------------------
# Real recordings
# --------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.skipif("B2M_DATA" not in os.environ, reason="needs recordings: B2M_DATA")
@pytest.mark.usefixtures("_fields")
@pytest.mark.parametrize("brain", ["cowley-v4", "object2vec"])
@pytest.mark.parametrize("name", ["cifar10", "attributes"])
def test_material_of_real_recordings(brain: str, name: str, tmp_path: Path) -> None:
    """Numbers of images, brains and labels; who was shown the labelled images; finite quality."""
    experiment = Mediated()
    settings = choose(experiment, {"brain": brain, "labels": name, "features": {"components": 20}})
    experiment._brain = cached_brain(brain)
    found = experiment.prepare(settings.settings, [], Context(None, tmp_path))
    material = found.of("direct")
    expected = {"cifar10": 12_000, "attributes": 1200 if brain == "cowley-v4" else 81}
    assert material.features.shape == (expected[name], 20)
    sessions = [r.session for r in experiment._brain.recordings]
    assert [b.name for b in material.brains] == sessions
    assert len(material.brains[0].stimuli) == (1200 if brain == "cowley-v4" else 81)
    shown = [b.name for b in material.brains if b.weights is None]
    if name == "cifar10":
        assert (shown, material.measured, material.names[0]) == ([], (), "airplane")
    elif brain == "cowley-v4":
        assert shown == ["201025"]
        assert material.measured[0].shape == (1200, 89)
    else:
        assert shown == sessions
        assert material.fold is not None
        assert material.distance is not None
        assert any("ONE person" in words for words in found.report["words"])
    assert all(-1 < b.quality["r"] < 1 for b in material.brains)
    assert bool(material.distance is None) == (brain == "cowley-v4")


@cache
def cached_brain(name: str) -> Any:
    """Images are decoded once."""
    return load(name)
