"""The reference, which is the specification of the ops, against independent implementations.

Everything in float64 unless a test is about another dtype.
"""

from __future__ import annotations

import doctest
import importlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.spatial import distance
from scipy.special import logsumexp
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor
from torch.nn import functional

from b2m_fast.ops.reference import (
    info_nce,
    pair_similarity,
    pairwise_similarity,
    rsa_penalty,
    rsa_score,
    sigmoid_contrastive,
    topk_similarity,
)
from reference_helpers import assert_slopes, close, patterns

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

METRICS = ["dot", "cosine", "correlation", "rbf", "euclidean", "sqeuclidean"]


def cosines(x: Tensor, y: Tensor) -> Tensor:
    return functional.normalize(x) @ functional.normalize(y).T


# Similarities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "correlation", "euclidean", "sqeuclidean"])
def test_metrics_are_those_of_scipy(metric: str) -> None:
    """The metric names mean what SciPy's mean, rectangular and condensed, in pdist's pair order."""
    x, y = patterns(0, 7, 5), patterns(1, 4, 5)
    sign, shift = (1, 0) if metric in {"euclidean", "sqeuclidean"} else (-1, 1)
    close(shift + sign * pairwise_similarity(x, y, metric=metric), distance.cdist(x, y, metric))
    condensed = pairwise_similarity(x, metric=metric, condensed=True)
    close(shift + sign * condensed, distance.pdist(x, metric))


def test_rbf_is_that_of_scikit_learn() -> None:
    """The kernel and its default width 1/d are scikit-learn's, also with a tensor for the width."""
    x, y = patterns(0, 7, 5), patterns(1, 4, 5)
    close(pairwise_similarity(x, y, metric="rbf"), rbf_kernel(x, y))
    for gamma in (0.7, torch.tensor([0.7], dtype=torch.float64)):
        close(pairwise_similarity(x, y, metric="rbf", gamma=gamma), rbf_kernel(x, y, gamma=0.7))


def test_distances_do_not_cancel_far_from_the_origin() -> None:
    """Close patterns with a large common offset keep their distances, and 0 stays exactly 0."""
    x = patterns(0, 6, 5).round(decimals=2)
    x = torch.cat([x, x[:1]])
    near = pairwise_similarity(x, metric="euclidean")
    far = pairwise_similarity(x + 2.0**30, metric="euclidean")
    close(far, near, 1e-6)
    assert far[0, 6] == 0
    assert (far.diagonal() == 0).all()


def test_euclidean_gradient_of_equal_rows_is_zero() -> None:
    """Coincident patterns must not send NaN or infinity through the square root."""
    x = patterns(0, 3, 4)
    x = torch.cat([x, x[:1]]).requires_grad_()
    pairwise_similarity(x, metric="euclidean")[0, [0, 3]].sum().backward()
    assert x.grad is not None
    assert (x.grad == 0).all()


@pytest.mark.parametrize("metric", METRICS)
def test_pairs_are_entries_of_the_matrix(metric: str) -> None:
    """The list form agrees with the matrix, whose metrics are checked against others."""
    x = patterns(0, 7, 5)
    i, j = torch.randint(7, (2, 30), generator=torch.Generator().manual_seed(2))
    close(pair_similarity(x, i, j, metric=metric), pairwise_similarity(x, metric=metric)[i, j])


@pytest.mark.parametrize("metric", METRICS)
def test_nan_row_poisons_its_own_scores_only(metric: str) -> None:
    """A NaN pattern shows where it takes part and leaves all other scores untouched."""
    x = patterns(0, 6, 5)
    clean = pairwise_similarity(x, metric=metric)
    x[2, 1] = math.nan
    scores = pairwise_similarity(x, metric=metric)
    others = torch.arange(6) != 2
    assert scores[2].isnan().all()
    assert scores[:, 2].isnan().all()
    close(scores[others][:, others], clean[others][:, others])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("metric", "constant"), [("cosine", 0.0), ("correlation", 0.1)])
def test_zero_rows_have_similarity_and_gradient_zero(
    metric: str, constant: float, dtype: torch.dtype
) -> None:
    """A silent pattern (for correlation a constant one, despite rounding) is orthogonal to all."""
    x = patterns(0, 5, 37).to(dtype)
    x[3] = constant
    x.requires_grad_()
    scores = pairwise_similarity(x, metric=metric)
    assert scores.dtype == dtype
    assert (scores[3] == 0).all()
    assert (scores[:, 3] == 0).all()
    (scores * scores.detach().cos()).sum().backward()
    assert x.grad is not None
    assert (x.grad[3] == 0).all()
    assert x.grad.isfinite().all()
    assert (x.grad[:3] != 0).any()


def test_small_variation_on_a_large_mean_is_not_constant() -> None:
    """The rounding threshold of correlation must not swallow a real pattern on a large offset."""
    x = patterns(0, 5, 30, offset=0) + 1e8
    close(pairwise_similarity(x, metric="correlation"), np.corrcoef(x), 1e-6)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("itself", [False, True])
def test_topk_is_a_stable_sort(metric: str, itself: bool) -> None:
    """Order, ties to the lower index, NaN after infinity-like numbers, own row left out."""
    x = patterns(0, 9, 4).round()
    x[1], x[4], x[7] = x[2], math.nan, 0.0
    y = None if itself else x[:8]
    scores = pairwise_similarity(x, y, metric=metric).numpy()
    merit = scores if metric == "euclidean" else -scores
    values, indices = topk_similarity(x, y, 7, metric=metric)
    for row in range(9):
        candidates = [j for j in range(scores.shape[1]) if not (itself and j == row)]
        expected = sorted(candidates, key=lambda j: (np.isnan(merit[row, j]), merit[row, j], j))
        if np.isnan(merit[row]).all():
            expected = candidates
        assert indices[row].tolist() == expected[:7]
        np.testing.assert_array_equal(values[row].numpy(), scores[row, expected[:7]])


def test_topk_breaks_many_ties_by_index() -> None:
    """A long row of equal scores: short rows come out in order from any sort."""
    key = torch.ones(500, 1, dtype=torch.float64)
    key[::7] = 2
    _, indices = topk_similarity(key[:1], key, 300, metric="dot")
    assert indices[0].tolist() == sorted(range(500), key=lambda j: (j % 7 != 0, j))[:300]


def test_topk_takes_minus_infinity_before_nan() -> None:
    """The worst number still beats NaN, whatever their order."""
    key = torch.tensor([[math.nan], [-math.inf], [1.0]], dtype=torch.float64)
    _, indices = topk_similarity(torch.ones(1, 1, dtype=torch.float64), key, 3, metric="dot")
    assert indices.tolist() == [[2, 1, 0]]


def test_out_may_be_a_memory_map(tmp_path: Path) -> None:
    """The destination is filled, converted to its own dtype, and handed back."""
    x = patterns(0, 6, 5)
    stored = np.memmap(tmp_path / "scores", dtype=np.float32, mode="w+", shape=(15,))
    assert pairwise_similarity(x, condensed=True, out=stored) is stored
    np.testing.assert_allclose(stored, 1 - distance.pdist(x, "cosine"), rtol=1e-6)
    tensor = torch.empty(6, 6, dtype=torch.float64).T
    assert pairwise_similarity(x, out=tensor) is tensor
    close(tensor, 1 - distance.cdist(x, x, "cosine"))


# Contrastive losses ------------------------------------------------------------------------------


def loop_loss(logits: np.ndarray, positive: np.ndarray, smoothing: float) -> list[float]:
    """Mean over positives of -log softmax, one number at a time."""
    losses = []
    for row, chosen in zip(logits, positive, strict=True):
        log_softmax = [value - math.log(sum(math.exp(v) for v in row)) for value in row]
        wanted = [value for value, is_chosen in zip(log_softmax, chosen, strict=False) if is_chosen]
        if not wanted:
            losses.append(0.0)
            continue
        everything = sum(log_softmax) / len(log_softmax)
        losses.append(-(1 - smoothing) * sum(wanted) / len(wanted) - smoothing * everything)
    return losses


def test_info_nce_is_the_clip_loss() -> None:
    """Defaults are CLIP: cross entropy with the diagonal in both directions, on unit features."""
    query, key = patterns(0, 8, 5), patterns(1, 8, 5)
    logits, target = 20 * cosines(query, key), torch.arange(8)
    clip = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    close(info_nce(query, key, logit_scale=20), clip / 2)
    close(info_nce(query, key, temperature=torch.tensor([0.05])), clip / 2, 1e-6)
    logits = cosines(query, key) / 0.07
    clip = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    close(info_nce(query, key), clip / 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_row_direction_is_torch_cross_entropy(smoothing: float) -> None:
    """Label smoothing over keys and extra keys, weights and reductions are torch's."""
    query, key, extra = patterns(0, 6, 5), patterns(1, 9, 5), patterns(2, 4, 5)
    weights = patterns(3, 6, 1).abs().flatten()
    logits = 3 * query @ torch.cat([key, extra]).T
    target = torch.tensor([4, 0, 8, 8, 2, 1])
    options: dict[str, Any] = {"metric": "dot", "logit_scale": 3, "symmetric": False}
    options |= {"labels": target, "key_labels": torch.arange(9), "extra_keys": extra}
    options |= {"label_smoothing": smoothing}
    rows = functional.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)
    close(info_nce(query, key, reduction="none", **options), rows)
    close(info_nce(query, key, **options), rows.mean())
    close(info_nce(query, key, weights=weights, reduction="none", **options), weights * rows)
    close(info_nce(query, key, weights=weights, reduction="sum", **options), weights @ rows)
    mean = weights @ rows / weights.sum()
    close(info_nce(query, key, weights=weights, **options), mean)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_several_positives_are_supcon_out(smoothing: float) -> None:
    """L_out of SupCon with repeated conditions, either direction, by explicit loops.

    Condition 7 has no key and condition 9 no query: those drop out of loss and weight.
    """
    labels, key_labels = torch.tensor([1, 1, 2, 7]), torch.tensor([2, 1, 9, 1, 2])
    query, key, extra = patterns(0, 4, 3), patterns(1, 5, 3), patterns(2, 2, 3)
    w, v = torch.tensor([1.0, 2.0, 3.0, 50.0]), torch.tensor([1.0, 2.0, 50.0, 3.0, 4.0])
    logits = (2 * cosines(query, key)).numpy()
    extra_logits = (2 * cosines(query, extra)).numpy()
    positive = labels[:, None].numpy() == key_labels.numpy()
    rows = loop_loss(np.hstack([logits, extra_logits]), positive, smoothing)
    columns = loop_loss(logits.T, positive.T, smoothing)
    options: dict[str, Any] = {"logit_scale": 2, "labels": labels, "key_labels": key_labels}
    options |= {"extra_keys": extra, "label_smoothing": smoothing}
    sums = w.numpy() @ rows, v.numpy() @ columns
    options |= {"weights": w, "key_weights": v}
    close(info_nce(query, key, reduction="sum", **options), sum(sums) / 2)
    close(info_nce(query, key, **options), (sums[0] / 6 + sums[1] / 10) / 2)
    options.pop("key_weights")  # N != M: every column counts alike
    close(info_nce(query, key, **options), (sums[0] / 6 + np.sum(columns) / 4) / 2)


def test_none_reduction_averages_row_and_column() -> None:
    """Per-sample losses of the symmetric loss; key weights default to the weights."""
    query, key, w = patterns(0, 5, 3), patterns(1, 5, 3), torch.tensor([1.0, 2, 3, 4, 5])
    labels = torch.tensor([0, 1, 1, 2, 0])
    logits, positive = (cosines(query, key) / 0.5).numpy(), (labels[:, None] == labels).numpy()
    both = np.array([loop_loss(logits, positive, 0), loop_loss(logits.T, positive, 0)])
    options: dict[str, Any] = {"temperature": 0.5, "labels": labels, "weights": w}
    close(info_nce(query, key, reduction="none", **options), w.numpy() * both.mean(axis=0))
    close(info_nce(query, key, **options), (both @ w.numpy()).mean() / 15)


def test_aux_describes_the_logits() -> None:
    """Log-sum-exp, positive mean and top-1 hits, extra keys in the row direction only."""
    query, key, extra = patterns(0, 6, 4), patterns(1, 6, 4), patterns(2, 3, 4)
    labels = torch.tensor([0, 1, 1, 2, 0, 3])
    key_labels = torch.tensor([0, 1, 1, 2, 0, 4])
    options: dict[str, Any] = {"labels": labels, "key_labels": key_labels, "extra_keys": extra}
    _, aux = info_nce(query.requires_grad_(), key, logit_scale=5, return_aux=True, **options)
    logits = 5 * cosines(query.detach(), key).numpy()
    row_logits = np.hstack([logits, 5 * cosines(query.detach(), extra).numpy()])
    positive = (labels[:, None] == key_labels).numpy()
    close(aux.row_logsumexp, logsumexp(row_logits, axis=1))
    means = [logits[i, positive[i]].mean() if positive[i].any() else 0.0 for i in range(6)]
    close(aux.positive_mean, means)
    best = row_logits.argmax(axis=1)
    hits = [best[i] < 6 and positive[i, best[i]] for i in range(6)]
    assert aux.row_top1.tolist() == hits
    assert 0 < sum(hits) < 6
    assert aux.col_logsumexp is not None
    assert aux.col_top1 is not None
    close(aux.col_logsumexp, logsumexp(logits, axis=0))
    assert aux.col_top1.tolist() == [positive[i, j] for j, i in enumerate(logits.argmax(axis=0))]
    assert not any(field is not None and field.requires_grad for field in aux)
    collapsed = torch.ones(6, 4)
    _, aux = info_nce(collapsed, collapsed, symmetric=False, return_aux=True)
    assert not aux.row_top1.any()
    assert aux.col_top1 is None


def test_loss_without_any_positive_is_zero() -> None:
    """A batch in which no condition repeats gives 0 and gradient 0, not 0/0."""
    query, key = patterns(0, 3, 4).requires_grad_(), patterns(1, 3, 4)
    loss = info_nce(query, key, labels=torch.tensor([0, 1, 2]), key_labels=torch.tensor([3, 4, 5]))
    loss.backward()
    assert loss == 0
    assert query.grad is not None
    assert (query.grad == 0).all()


def test_sigmoid_contrastive_is_siglip() -> None:
    """Defaults are SigLIP's loss and initial scale and bias; several positives by label."""
    x, y = patterns(0, 6, 5), patterns(1, 6, 5)
    z = 2 * torch.eye(6) - 1
    logits = 10 * cosines(x, y) - 10
    close(sigmoid_contrastive(x, y), -functional.logsigmoid(z * logits).sum() / 6)
    labels, weights = torch.tensor([0, 0, 1, 2, 2, 3]), patterns(3, 6, 1).abs().flatten()
    z = 2.0 * (labels[:, None] == labels) - 1
    rows = np.logaddexp(0, -(z * (4 * cosines(x, y) - 1)).numpy()).sum(axis=1)
    options: dict[str, Any] = {"logit_scale": 4, "logit_bias": -1, "labels": labels}
    close(sigmoid_contrastive(x, y, reduction="none", **options), rows)
    close(sigmoid_contrastive(x, y, reduction="sum", **options), rows.sum())
    weighted = weights.numpy() @ rows / weights.sum().item()
    close(sigmoid_contrastive(x, y, weights=weights, **options), weighted)


@pytest.mark.parametrize("logit", [-21.0, 30.0])
def test_sigmoid_contrastive_keeps_its_tails(logit: float) -> None:
    """A pair told apart with certainty still has a loss; a wrong one is not cut to its logit."""
    x = torch.ones(1, 1, dtype=torch.float64)
    loss = sigmoid_contrastive(x, x, logit_scale=logit + 10, logit_bias=-10.0)
    np.testing.assert_allclose(loss.item(), np.logaddexp(0, -logit), rtol=1e-13)


# All of them -------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_gradients_of_similarities(metric: str) -> None:
    """Guards against zero norms and distances must not change a slope; rectangular and condensed."""
    x, y = patterns(0, 5, 4), patterns(1, 3, 4)
    assert_slopes(lambda a, b: pairwise_similarity(a, b, metric=metric), x, y)
    assert_slopes(lambda a: pairwise_similarity(a, metric=metric, condensed=True), x)
    i, j = torch.tensor([0, 1, 4, 2]), torch.tensor([3, 3, 0, 1])
    assert_slopes(lambda a: pair_similarity(a, i, j, metric=metric), x)


def test_gradient_of_the_kernel_width() -> None:
    """The width of the kernel may be learned."""
    gamma = torch.tensor(0.4, dtype=torch.float64)
    x = patterns(0, 4, 3)
    assert_slopes(lambda a, g: pairwise_similarity(a, metric="rbf", gamma=g), x, gamma)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradients_of_contrastive_losses(reduction: str) -> None:
    """Every tensor argument has its slope: both sides, extra keys, scale, bias and weights."""
    x, y, extra = patterns(0, 5, 4), patterns(1, 5, 4), patterns(2, 3, 4)
    labels, key_labels = torch.tensor([0, 1, 1, 2, 0]), torch.tensor([0, 1, 1, 3, 0])
    weights = torch.tensor([0.5, 1.0, 2.0, 0.3, 1.1], dtype=torch.float64)
    scale, bias = torch.tensor([3.0, -2.0], dtype=torch.float64)

    def smoothed(q: Tensor, k: Tensor, e: Tensor, s: Tensor, w: Tensor, v: Tensor) -> Tensor:
        options: dict[str, Any] = {"labels": labels, "key_labels": key_labels, "extra_keys": e}
        options |= {"weights": w, "key_weights": v, "label_smoothing": 0.1, "logit_scale": s}
        loss: Tensor = info_nce(q, k, reduction=reduction, **options)
        return loss

    def hot(q: Tensor, k: Tensor, t: Tensor) -> Tensor:
        return info_nce(q, k, metric="dot", temperature=t, symmetric=False, reduction=reduction)

    def sigmoid(q: Tensor, k: Tensor, s: Tensor, b: Tensor, w: Tensor) -> Tensor:
        options: dict[str, Any] = {"logit_scale": s, "logit_bias": b, "labels": labels}
        return sigmoid_contrastive(q, k, weights=w, reduction=reduction, **options)

    assert_slopes(smoothed, x, y, extra, scale, weights, weights.flip(0))
    assert_slopes(hot, x, y, scale)
    assert_slopes(sigmoid, x, y, scale, bias, weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    """Losses of half input are float32 and exact for the rounded input; scores keep its dtype."""
    x, y = patterns(0, 6, 5).to(dtype), patterns(1, 6, 5).to(dtype)
    losses: list[Callable[..., Tensor]] = [info_nce, sigmoid_contrastive, rsa_penalty, rsa_score]
    for loss in losses:
        assert loss(x, y).dtype == torch.float32
        close(loss(x, y), loss(x.double(), y.double()), 1e-5)
    i, j = torch.tensor([[0, 1, 4], [3, 3, 0]])
    for scores in (pairwise_similarity(x), topk_similarity(x)[0], pair_similarity(x, i, j)):
        assert scores.dtype == dtype
    assert pairwise_similarity(x).equal(pairwise_similarity(x.float()).to(dtype))  # rounded once


@pytest.mark.parametrize("module", ["similarity", "contrastive", "rsa", "matrix_comparison"])
def test_examples_of_the_docstrings(module: str) -> None:
    """The numbers printed in the documentation are the ones that come out."""
    reference = importlib.import_module(f"b2m_fast.ops.reference.{module}")
    result = doctest.testmod(reference)
    assert result.attempted > 0
    assert result.failed == 0
