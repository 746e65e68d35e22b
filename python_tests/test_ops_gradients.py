"""Every gradient against finite differences, in float64."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import engines
from b2m_fast import ops
from ops_helpers import BILINEAR, COMPARISONS, METRICS, case, randoms

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.engines(*engines.EVERY)


def assert_slopes(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("metric", METRICS)
def test_slopes_of_scores(metric: str) -> None:
    """Gradients are the slopes of the scores, in one role and in both."""
    x, y = randoms(1, 5, 3), randoms(2, 4, 3)
    assert_slopes(lambda x, y: ops.pairwise_similarity(x, y, metric=metric), x, y)
    assert_slopes(lambda x: ops.pairwise_similarity(x, metric=metric, condensed=True), x)
    i, j = torch.tensor([0, 1, 0, 4]), torch.tensor([2, 1, 2, 0])
    assert_slopes(lambda x: ops.pair_similarity(x, i, j, metric=metric), x)
    if metric != "euclidean":  # no slope at the zeros of its diagonal
        assert_slopes(lambda x: ops.pairwise_similarity(x, metric=metric), x)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_slopes_of_info_nce(reduction: str, symmetric: bool) -> None:
    """Gradients of every input at once: both sides, extra keys, weights and scale."""
    n = 5
    m = 5 if reduction == "none" and symmetric else 4
    labels = torch.tensor([0, 1, 1, 7, 2])  # the fourth has no positive
    key_labels = torch.tensor([1, 0, 2, 1, 5])[:m]
    inputs = [randoms(1, n, 3), randoms(2, m, 3), randoms(3, 2, 3), torch.tensor(0.4).double()]
    inputs += [randoms(4, n).abs(), *([randoms(5, m).abs()] if symmetric else [])]
    for metric in BILINEAR if reduction == "mean" else ["cosine"]:

        def loss(
            q: Tensor,
            k: Tensor,
            e: Tensor,
            t: Tensor,
            w: Tensor,
            v: Tensor | None = None,
            *,
            metric: str = metric,
        ) -> Tensor:
            return ops.info_nce(
                q,
                k,
                metric=metric,
                temperature=t,
                labels=labels,
                key_labels=key_labels,
                extra_keys=e,
                symmetric=symmetric,
                weights=w,
                key_weights=v,
                label_smoothing=0.2,
                reduction=reduction,
            )

        with case(metric=metric):
            assert_slopes(loss, *inputs)


def test_slopes_of_plain_info_nce() -> None:
    """The common call, pairs on the diagonal, and the same tensor on both sides."""
    x, y = randoms(1, 5, 3), randoms(2, 5, 3)
    assert_slopes(
        lambda x, y, s: ops.info_nce(x, y, logit_scale=s), x, y, torch.tensor(3.0).double()
    )
    assert_slopes(lambda x: ops.info_nce(x, x, temperature=0.5), x)


@pytest.mark.parametrize("metric", BILINEAR)
@pytest.mark.parametrize("labelled", [True, False])
def test_slopes_of_sigmoid(labelled: bool, metric: str) -> None:
    """Gradients of both sides, scale, bias and weights."""
    labels = {}
    if labelled:
        labels = {
            "labels": torch.tensor([0, 1, 1, 2, 3]),
            "key_labels": torch.tensor([1, 0, 2, 2]),
        }

    def loss(q: Tensor, k: Tensor, s: Tensor, b: Tensor, w: Tensor) -> Tensor:
        options: dict[str, Any] = {"logit_scale": s, "logit_bias": b, "weights": w, **labels}
        return ops.sigmoid_contrastive(q, k, metric=metric, **options)

    scalars = [torch.tensor(value, dtype=torch.float64) for value in (2.0, -1.0)]
    assert_slopes(loss, randoms(1, 5, 3), randoms(2, 4, 3), *scalars, randoms(3, 5).abs())


@pytest.mark.parametrize("compare", COMPARISONS)
def test_slopes_of_rsa(compare: str) -> None:
    """Gradients of every comparison, through centring too, in every form there is.

    mse of every metric. (The gradients of the others too are the reference's in
    float64, see `test_ops_accuracy_rsa`, and those of the reference are checked like this.)
    """
    x, target, stored = randoms(1, 6, 4), randoms(2, 6, 3), torch.corrcoef(randoms(3, 6, 9))
    weights: dict[str, Any] = {}
    if compare in {"mse", "atanh", "pearson", "cosine"}:
        weights = {"pair_weights": torch.rand(15, dtype=torch.float64)}
    for metric in METRICS if compare == "mse" else ("cosine", "rbf"):
        cases: list[tuple[Tensor, dict[str, Any]]] = [(target, {"form": "pair"})]
        if metric in BILINEAR and compare not in {"mse", "atanh"}:
            cases.append((target, {"form": "feature", "center": True}))
        cases.append((stored, {"target_kind": "similarity", "target_metric": "cosine", **weights}))
        for other, options in cases:
            penalty = partial(
                ops.rsa_penalty, target=other, compare=compare, metric=metric, **options
            )
            with case(metric=metric, options=options):
                assert_slopes(penalty, x)


@pytest.mark.parametrize("metric", BILINEAR)
def test_slopes_of_layers(metric: str) -> None:
    """Gradients of several layers and of their weights."""
    target = torch.corrcoef(randoms(3, 5, 9))

    def loss(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
        return ops.rsa_penalty(
            [a, b], target, target_kind="similarity", compare="mse", metric=metric, layer_weights=g
        )

    assert_slopes(loss, randoms(1, 5, 3), randoms(2, 5, 4), torch.tensor([0.3, 0.6]).double())
