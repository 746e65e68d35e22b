"""The degenerate and extreme cases whose outcome is promised: zeros, NaN, empty, huge, tiny, cold."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import engines
from b2m_fast import ops
from b2m_fast.ops import reference
from ops_helpers import BILINEAR, COMPARISONS, DISTANCES, DTYPES, METRICS, case, randints, randoms

pytestmark = pytest.mark.engines(*engines.EVERY)

NAN = math.nan


def gradients(value: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value.sum(), inputs)


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


# Zero and constant rows ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["full", "rectangle", "condensed", "list"])
def test_zero_rows(form: str) -> None:
    """A row without direction is similar to nothing, even itself, and gets no gradient."""
    for (metric, constant), dtype in product([("cosine", 0.0), ("correlation", 0.1)], DTYPES):
        x = randoms(1, 9, 40, dtype=dtype)
        x[4] = constant
        x.requires_grad_()
        if form == "list":
            i, j = torch.arange(9), torch.full((9,), 4)
            rows = ops.pair_similarity(x, i, j, metric=metric)
        elif form == "condensed":
            rows = ops.pairwise_similarity(x, metric=metric, condensed=True)
            i, j = torch.triu_indices(9, 9, offset=1)
            rows = rows[(i == 4) | (j == 4)]
        else:
            other = x.detach() if form == "rectangle" else None
            rows = ops.pairwise_similarity(x, other, metric=metric)[4]
        with case(metric=metric, dtype=dtype):
            assert (rows == 0).all()
            assert (gradients(rows, x)[0] == 0).all()


@pytest.mark.parametrize("metric", ["cosine", "correlation"])
def test_zero_rows_in_losses(metric: str) -> None:
    """Losses stay finite with a zero row on either side, which gets gradient 0."""
    x, y = leaf(randoms(1, 8, 5, dtype=torch.float32)), leaf(randoms(2, 8, 5, dtype=torch.float32))
    with torch.no_grad():
        x[2], y[5] = 0, 0
    for value in (
        ops.info_nce(x, y, metric=metric),
        ops.sigmoid_contrastive(x, y, metric=metric),
        ops.rsa_penalty(x, y.detach(), metric=metric) + ops.rsa_penalty(y, x.detach()),
    ):
        dx, dy = gradients(value, x, y)
        assert value.isfinite()
        assert torch.cat([dx, dy]).isfinite().all()
        assert torch.stack([dx[2], dy[5]]).eq(0).all()


def test_coinciding_points_have_euclidean_gradient_zero() -> None:
    """The slope of the square root at 0 must not leak infinity."""
    x = randoms(1, 5, 4, dtype=torch.float32)
    x[3] = x[0]
    x.requires_grad_()
    scores = ops.pairwise_similarity(x, metric="euclidean")
    assert scores[0, 3] == 0
    assert (gradients(scores[0, [0, 3]], x)[0] == 0).all()
    scores = ops.pair_similarity(x, torch.tensor([0]), torch.tensor([3]), metric="euclidean")
    assert (gradients(scores, x)[0] == 0).all()


@pytest.mark.parametrize("compare", ["pearson", "cosine", "cka", "cka_debiased", "whitened_cosine"])
def test_sides_without_variance(compare: str) -> None:
    """A collapsed side has correlation 0 and sends no gradient, neither NaN nor rounding noise."""
    for form, dtype in product(("pair", "feature"), (torch.float32, torch.float64)):
        x = randoms(1, 7, 5, dtype=dtype)
        flat = torch.zeros_like(x) if compare == "cosine" else x[:1].expand(7, 5).contiguous()
        for features, target in ((leaf(flat), x), (leaf(x), flat)):
            value = ops.rsa_penalty(features, target, compare=compare, form=form)
            with case(form=form, dtype=dtype):
                assert value == 1
                assert (gradients(value, features)[0] == 0).all()
                assert ops.rsa_score(features, target, compare=compare, form=form) == 0


# NaN ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_nan_reaches_its_own_scores_only(metric: str) -> None:
    """A NaN row shows wherever it takes part; other scores and gradients do not change by a bit."""
    for dtype, (n, d) in product(DTYPES, [(9, 7), (130, 300)]):
        x = randoms(1, n, d, dtype=dtype)
        broken = x.clone()
        broken[3, 2] = NAN
        others = torch.arange(n) != 3
        i, j = randints(4, n, 2, 50)
        with case(dtype=dtype, size=(n, d)):
            for y in (None, randoms(2, 11, d, dtype=dtype)):
                clean = ops.pairwise_similarity(x, y, metric=metric)
                scores = ops.pairwise_similarity(broken, y, metric=metric)
                assert scores[3].isnan().all()
                kept = (others, others) if y is None else (others, slice(None))
                assert torch.equal(scores[kept[0]][:, kept[1]], clean[kept[0]][:, kept[1]])
                if y is None:
                    assert scores[:, 3].isnan().all()
            listed = ops.pair_similarity(broken, i, j, metric=metric)
            assert torch.equal(listed.isnan(), (i == 3) | (j == 3))


def test_nan_query_in_one_way_info_nce() -> None:
    """A NaN query has a NaN loss; the losses of the others stay as they were."""
    query, key = randoms(1, 20, 6, dtype=torch.float32), randoms(2, 20, 6, dtype=torch.float32)
    clean = ops.info_nce(query, key, symmetric=False, reduction="none")
    query[7, 1] = NAN
    losses, aux = ops.info_nce(query, key, symmetric=False, reduction="none", return_aux=True)
    assert torch.equal(losses.isnan(), torch.arange(20) == 7)
    others = torch.arange(20) != 7
    # (Kernels may choose another shift for a tile with a NaN.)
    torch.testing.assert_close(
        losses[others], clean[others], rtol=1e-6 if engines.kernels() else 0, atol=0
    )
    assert not aux.row_top1[7]


def test_nan_reaches_the_other_direction() -> None:
    """A NaN query is a candidate of every key, so every column loss knows it."""
    query, key = randoms(1, 6, 4), randoms(2, 6, 4)
    query[2, 0] = NAN
    assert ops.info_nce(query, key).isnan()
    _, aux = ops.info_nce(query, key, return_aux=True)
    assert aux.col_top1 is not None
    assert not aux.col_top1.any()
    assert aux.col_logsumexp is not None
    assert aux.col_logsumexp.isnan().all()
    assert ops.sigmoid_contrastive(query, key, reduction="none").isnan().sum() == 1


@pytest.mark.parametrize("labelled", [True, False])
def test_nan_never_comes_first(labelled: bool) -> None:
    """A query with a NaN positive, or a NaN negative, is a miss, whatever its other positives."""
    query = randoms(1, 6, 4, dtype=torch.float32)
    labels = torch.tensor([0, 0, 1, 1, 2, 2]) if labelled else None
    for side in ("query", "key"):
        pair = {"query": query.clone(), "key": query.clone()}
        pair[side][1] = NAN
        _, aux = ops.info_nce(pair["query"], pair["key"], labels=labels, return_aux=True)
        _, expected = reference.info_nce(
            pair["query"].double(), pair["key"].double(), labels=labels, return_aux=True
        )
        assert torch.equal(aux.row_top1, expected.row_top1)
        assert aux.col_top1 is not None
        assert expected.col_top1 is not None
        assert torch.equal(aux.col_top1, expected.col_top1)


def test_nan_is_chosen_last() -> None:
    """Numbers come before NaN, infinity counts as a number, ties go to the lower index."""
    x = torch.ones(1, 1)
    # (A product of several parts makes a NaN of infinity.)
    largest = 1e30 if engines.by_parts() else math.inf
    y = torch.tensor([[NAN], [1.0], [-largest], [2.0], [NAN], [2.0], [largest]])
    values, indices = ops.topk_similarity(x, y, 7, metric="dot")
    assert indices.tolist() == [[6, 3, 5, 1, 2, 0, 4]]
    assert values[0, 5:].isnan().all()
    _, indices = ops.topk_similarity(x, y[:6], 6, metric="sqeuclidean")
    assert indices.tolist() == [[1, 3, 5, 2, 0, 4]]


def test_nan_makes_a_comparison_nan() -> None:
    """A comparison over all pairs cannot leave a NaN out silently."""
    x, y = randoms(1, 6, 4), randoms(2, 6, 4)
    x[2, 1] = NAN
    for compare in (*COMPARISONS, "spearman", "rho-a", "kendall", "tau-a"):
        with case(compare=compare):
            assert ops.rsa_score(x, y, compare=compare).isnan()
            assert ops.rsa_score(y, x, compare=compare).isnan()
            if compare in COMPARISONS:
                assert ops.rsa_penalty(x, y, compare=compare).isnan()


# Positives and sizes ------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [True, False])
def test_queries_without_a_positive(symmetric: bool) -> None:
    """They count nothing: the mean is over the others, and their gradient is a negative's only."""
    query, key = leaf(randoms(1, 6, 4)), randoms(2, 5, 4)
    labels, key_labels = torch.tensor([0, 1, 9, 2, 8, 1]), torch.tensor([0, 1, 2, 2, 7])
    options: dict[str, Any] = {"labels": labels, "key_labels": key_labels}
    rows = ops.info_nce(query, key, symmetric=False, reduction="none", **options)
    assert (rows[[2, 4]] == 0).all()
    mean = ops.info_nce(query, key, symmetric=False, **options)
    torch.testing.assert_close(mean, rows.sum() / 4)
    assert (gradients(mean, query)[0][[2, 4]] == 0).all()
    _, aux = ops.info_nce(query, key, symmetric=symmetric, return_aux=True, **options)
    assert (aux.positive_mean[[2, 4]] == 0).all()
    assert not aux.row_top1[[2, 4]].any()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_batch_without_positives(reduction: str) -> None:
    """The loss is 0, not 0/0, and so is every gradient."""
    query, key = leaf(randoms(1, 6, 4)), leaf(randoms(2, 6, 4))
    scale = leaf(torch.tensor(3.0))
    loss = ops.info_nce(
        query,
        key,
        labels=torch.arange(6),
        key_labels=torch.arange(6) + 10,
        logit_scale=scale,
        reduction=reduction,
        label_smoothing=0.1,
    )
    assert (loss == 0).all()
    assert all((g == 0).all() for g in gradients(loss, query, key, scale))


def test_mean_of_total_weight_zero() -> None:
    """Weights that sum to 0 give the loss 0."""
    query, key = leaf(randoms(1, 6, 4)), randoms(2, 6, 4)
    for loss in (ops.info_nce, ops.sigmoid_contrastive):
        value = loss(query, key, weights=torch.zeros(6))
        assert value == 0
        assert (gradients(value, query)[0] == 0).all()


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, 0)])
def test_no_rows(sizes: tuple[int, int]) -> None:
    """Empty batches give empty scores, losses 0 and gradients of the right shape."""
    for metric in METRICS:
        with case(metric=metric):
            assert_nothing_comes_of_nothing(*sizes, metric)


def assert_nothing_comes_of_nothing(n: int, m: int, metric: str) -> None:
    x, y = leaf(randoms(1, n, 5)), leaf(randoms(2, m, 5))
    scores = ops.pairwise_similarity(x, y, metric=metric)
    assert scores.shape == (n, m)
    assert [g.shape for g in gradients(scores, x, y)] == [x.shape, y.shape]
    none = torch.zeros(0, dtype=torch.int64)
    assert ops.pair_similarity(x, none, none, metric=metric).shape == (0,)
    if metric in BILINEAR:
        for symmetric in (True, False):
            loss, aux = ops.info_nce(x, y, metric=metric, symmetric=symmetric, return_aux=True)
            assert loss == 0
            assert aux.row_logsumexp.shape == (n,)
            assert all((g == 0).all() for g in gradients(loss, x, y))
        for side, other in ((x, y), (y, x)):  # one gradient wanted
            for loss in (
                ops.info_nce(side, other.detach(), metric=metric),
                ops.info_nce(other.detach(), side, metric=metric),
                ops.sigmoid_contrastive(side, other.detach(), metric=metric),
                ops.sigmoid_contrastive(other.detach(), side, metric=metric),
            ):
                assert gradients(loss, side)[0].shape == side.shape
        assert ops.sigmoid_contrastive(x, y, metric=metric, reduction="sum") == 0
        assert ops.sigmoid_contrastive(x, y, metric=metric) == 0


@pytest.mark.parametrize("n", [0, 1])
def test_no_pairs(n: int) -> None:
    """Without a pair a difference is 0 and a correlation 0, in value and gradient."""
    x, y = leaf(randoms(1, n, 5)), randoms(2, n, 5)
    for compare in (*COMPARISONS, "spearman", "rho-a", "kendall", "tau-a"):
        with case(compare=compare):
            if compare == "cka_debiased":
                with pytest.raises(ValueError, match="at least 4"):
                    ops.rsa_penalty(x, y, compare=compare)
                continue
            assert ops.rsa_score(x, y, compare=compare) == 0
            assert reference.rsa_score(x, y, compare=compare) == 0
            if compare in COMPARISONS:
                value = ops.rsa_penalty(x, y, compare=compare)
                assert value == (0 if compare in {"mse", "atanh"} else 1)
                assert (gradients(value, x)[0] == 0).all()
    assert ops.pairwise_similarity(x, condensed=True).shape == (0,)


def test_one_pair_of_rows() -> None:
    """A batch of one: the only key is the right one, loss 0 exactly."""
    x, y = leaf(randoms(1, 1, 5)), randoms(2, 1, 5)
    loss, aux = ops.info_nce(x, y, return_aux=True)
    assert loss == 0
    assert aux.row_top1.all()
    assert (gradients(loss, x)[0] == 0).all()


# Cold, confident, huge and tiny -------------------------------------------------------------------


@pytest.mark.parametrize("d", [512, 768, 1152])
@pytest.mark.parametrize("temperature", [0.01, 0.001])
def test_cold_softmax_of_unaligned_features(temperature: float, d: int) -> None:
    """Logits far below 1/temperature: a softmax with a fixed shift of 1/T would underflow here."""
    query, key = randoms(1, 150, d, offset=0).float(), randoms(2, 150, d, offset=0).float()
    # The second pair: every similarity is near -0.6.
    for q, k in ((leaf(query), key), (leaf(query.abs()), -key.abs())):
        loss = ops.info_nce(q, k, temperature=temperature)
        exact_q = leaf(q.double())
        exact = reference.info_nce(exact_q, k.double(), temperature=temperature)
        assert abs(loss.item() / exact.item() - 1) < 1e-5
        got, truth = gradients(loss, q)[0].double(), gradients(exact, exact_q)[0]
        assert (got - truth).norm() < 3e-7 / temperature * truth.norm()


@pytest.mark.parametrize("scale", [100.0, 300.0, 1000.0])
def test_nearly_converged_loss_keeps_its_digits(scale: float) -> None:
    """Losses of 1e-10 and less are told from 0, to which a float32 difference of logits rounds."""
    directions = functional.normalize(randoms(1, 40, 96, offset=0))
    common = functional.normalize(randoms(2, 1, 96, offset=0))
    key = functional.normalize(common + (60 / scale) ** 0.5 * directions).float()
    query = key + 0.0005 * randoms(3, 40, 96, offset=0).float()
    loss = ops.info_nce(leaf(query), key, logit_scale=scale, symmetric=False)
    # Even float64 needs the positive kept out of the sum.
    logits = scale * reference.pairwise_similarity(query.double(), key.double())
    positive = logits.diagonal().clone()
    logits.fill_diagonal_(-math.inf)
    exact = torch.log1p(torch.exp(logits.logsumexp(dim=1) - positive)).mean().item()
    assert 1e-30 < exact < 1e-7
    assert abs(loss.item() / exact - 1) < max(1e-4, 4 * scale * torch.finfo(torch.float32).eps)
    plain = reference.info_nce(query, key, logit_scale=scale, symmetric=False).item()
    assert abs(plain / exact - 1) > 1e-2  # what this protects from


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_huge_rows(dtype: torch.dtype) -> None:
    """Norms whose square overflows: directions are still right."""
    factor = 1e200 if dtype == torch.float64 else 1e30
    x = randoms(1, 9, 40, dtype=dtype)
    huge = leaf((x.double() * factor).to(dtype))
    for metric in ("cosine", "correlation"):
        truth = reference.pairwise_similarity(huge.double() / factor, metric=metric)
        scores = ops.pairwise_similarity(huge, metric=metric)
        torch.testing.assert_close(
            scores.double(), truth, rtol=0, atol=2 * torch.finfo(dtype).eps + 1e-13
        )
        gradient = gradients(scores[0, 1:], huge)[0].double() * factor
        scaled = leaf(huge.double() / factor)
        expected = gradients(reference.pairwise_similarity(scaled, metric=metric)[0, 1:], scaled)[0]
        torch.testing.assert_close(
            gradient, expected, rtol=0, atol=8 * torch.finfo(dtype).eps + 1e-13
        )
    assert ops.info_nce(huge, huge.detach()).isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("metric", ["cosine", "correlation"])
def test_denormal_rows(metric: str, dtype: torch.dtype) -> None:
    """Rows whose squares underflow still have a direction; only an exact zero has none."""
    factor = 1e-300 if dtype == torch.float64 else 1e-36
    tiny = (randoms(1, 9, 40).to(torch.bfloat16).double() * factor).to(dtype)
    scores = ops.pairwise_similarity(tiny, metric=metric)
    truth = reference.pairwise_similarity(tiny.double() / factor, metric=metric)
    torch.testing.assert_close(
        scores.double(), truth, rtol=0, atol=4 * torch.finfo(dtype).eps + 1e-13
    )


def test_saturated_sigmoid() -> None:
    """Logits of 1e4 on either side give a linear loss or none, never infinity times 0."""
    query, key = leaf(torch.eye(4)), torch.eye(4)
    for sign in (1, -1):
        loss = ops.sigmoid_contrastive(query, sign * key, logit_scale=1e4, logit_bias=0.0)
        exact = reference.sigmoid_contrastive(
            query.double(), sign * key.double(), logit_scale=1e4, logit_bias=0.0
        )
        torch.testing.assert_close(loss.double(), exact.detach(), rtol=1e-6, atol=0)
        assert gradients(loss, query)[0].isfinite().all()


def test_converged_atanh_keeps_its_digits() -> None:
    """Features that nearly match the target have a tiny loss with all its digits."""
    x = randoms(1, 50, 30)
    y = x + 1e-4 * randoms(2, 50, 30)
    matrix = reference.pairwise_similarity(y).float()
    got = float(ops.rsa_penalty(x.float(), matrix, target_kind="similarity"))
    exact = float(
        reference.rsa_penalty(x.float().double(), matrix.double(), target_kind="similarity")
    )
    assert abs(got / exact - 1) < 5e-3


@pytest.mark.parametrize("metric", DISTANCES)
def test_distances_do_not_cancel_far_from_the_origin(metric: str) -> None:
    """A large common offset costs no digit of a distance, and equal rows stay at exactly 0."""
    x = randoms(1, 130, 20, dtype=torch.float32).mul(64).round() / 64
    x[100] = x[3]
    near = ops.pairwise_similarity(x, metric=metric)
    far = ops.pairwise_similarity(x + 2.0**13, metric=metric)
    assert torch.equal(near, far)
    assert far[100, 3] == 0
    assert (far.diagonal() == 0).all()


@pytest.mark.parametrize("kind", ["one pair weighs", "one pair", "one row"])
def test_pearson_of_one_pair_is_nothing(kind: str) -> None:
    """A single pair has no variance, whatever rounding leaves of it: correlation 0, gradient 0."""
    n = {"one pair weighs": 40, "one pair": 2, "one row": 1}[kind]
    options: dict[str, Any] = {"form": "feature"}
    if kind == "one pair weighs":
        weights = torch.zeros(n, n)
        weights[3, 17] = 0.7
        options = {"pair_weights": weights}
    for seed in range(20):
        x, y = randoms(seed, n, 9).requires_grad_(), randoms(seed + 100, n, 5)
        value = ops.rsa_penalty(x, y, compare="pearson", **options)
        value.backward()
        with case(seed=seed):
            assert value.item() == 1
            assert x.grad is not None
            assert not x.grad.any()
