"""Value and every gradient of every op against the float64 reference.

Sizes are odd, so that tiles of 112 x 256 have tails and the diagonal crosses several of them.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import engines
from b2m_fast import ops
from b2m_fast.ops import reference
from ops_helpers import (
    BILINEAR,
    DTYPES,
    METRICS,
    assert_accurate,
    case,
    randints,
    randoms,
    relative_errors,
)

pytestmark = pytest.mark.engines(*engines.EVERY)

Inputs = dict[str, Tensor]

RECTANGLES = [(1, 1, 3), (2, 3, 1), (17, 33, 17), (113, 239, 96), (300, 517, 100)]
SQUARES = [(1, 3), (2, 1), (33, 17), (113, 100), (300, 96)]


def sizes(all_sizes: list[Any], dtype: torch.dtype) -> list[Any]:
    """Return all for the dtypes that are computed in, two for those that are only read."""
    return all_sizes if dtype in {torch.float64, torch.float32} else all_sizes[2:4]


# Scores -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_pairwise(metric: str) -> None:
    """Rectangular scores and both gradients, whichever tiles and tails the sizes make."""
    for dtype in DTYPES:
        for n, m, d in sizes(RECTANGLES, dtype):
            inputs = {"x": randoms(1, n, d, dtype=dtype), "y": randoms(2, m, d, dtype=dtype)}
            with case(dtype=dtype, size=(n, m, d)):
                assert_accurate("pairwise_similarity", inputs, metric=metric)


@pytest.mark.parametrize("metric", METRICS)
def test_pairwise_with_itself(metric: str) -> None:
    """One argument in both roles: full, and the upper triangle, whose gradient has two shares."""
    for dtype, condensed in product(DTYPES, (False, True)):
        for n, d in sizes(SQUARES, dtype):
            inputs = {"x": randoms(1, n, d, dtype=dtype)}
            with case(dtype=dtype, condensed=condensed, size=(n, d)):
                assert_accurate("pairwise_similarity", inputs, metric=metric, condensed=condensed)


def test_width_of_rbf() -> None:
    """The width reaches value and gradient."""
    x, y = randoms(1, 33, 17, dtype=torch.float32), randoms(2, 18, 17, dtype=torch.float32)
    for gamma in (0.0, 0.003, 0.7):
        with case(gamma=gamma):
            assert_accurate("pairwise_similarity", {"x": x, "y": y}, metric="rbf", gamma=gamma)


@pytest.mark.parametrize("metric", METRICS)
def test_listed_pairs(metric: str) -> None:
    """Listed pairs, some listed twice and some of a row with itself, and their gradient."""
    for dtype in DTYPES:
        for n, d in sizes(SQUARES, dtype):
            i, j = randints(2, n, 2, 300)
            inputs = {"x": randoms(1, n, d, dtype=dtype)}
            with case(dtype=dtype, size=(n, d)):
                assert_accurate("pair_similarity", inputs, i=i, j=j, metric=metric)


@pytest.mark.parametrize("metric", METRICS)
def test_topk(metric: str) -> None:
    """The chosen keys have the best scores there are, to rounding, and the values are theirs."""
    rectangles = [(2, 3, 1), (17, 33, 17), (113, 239, 96), (130, 517, 100)]
    for dtype, with_itself, (n, m, d) in product(DTYPES, (False, True), rectangles):
        with case(dtype=dtype, with_itself=with_itself, size=(n, m, d)):
            assert_best_chosen(metric, dtype, n, None if with_itself else m, d)


def assert_best_chosen(metric: str, dtype: torch.dtype, n: int, m: int | None, d: int) -> None:
    x = randoms(1, n, d, dtype=dtype)
    y = None if m is None else randoms(2, m, d, dtype=dtype)
    k = 1 if m is None else min(m, 40)
    values, indices = ops.topk_similarity(x, y, k, metric=metric)
    wide = None if y is None else y.double()
    best, _ = reference.topk_similarity(x.double(), wide, k, metric=metric)
    scores = reference.pairwise_similarity(x.double(), wide, metric=metric)
    eps = max(torch.finfo(dtype).eps, 1e-14) * 4
    scale = float(scores.abs().max())
    computed = 1e-12 if dtype == torch.float64 else 4e-6
    assert float((values.double() - best).abs().max()) <= (eps + computed) * scale
    assert float((scores.gather(1, indices) - best).abs().max()) <= 2 * computed * scale
    assert all(len(set(row)) == k for row in indices.tolist())
    if y is None:
        assert (indices != torch.arange(n)[:, None]).all()


# Contrastive losses -------------------------------------------------------------------------------

CONTRASTIVE: dict[str, dict[str, Any]] = {
    "plain": {},
    "one way": {"symmetric": False},
    "cold": {"temperature": 0.01},
    "smoothing": {"label_smoothing": 0.1},
    "smoothing only": {"label_smoothing": 1.0, "reduction": "sum"},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "none, one way": {"reduction": "none", "symmetric": False},
}


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_info_nce(name: str) -> None:
    """Paired queries and keys, under every reduction."""
    for metric, dtype in product(BILINEAR, DTYPES):
        for n, d in sizes(SQUARES, dtype):
            options = CONTRASTIVE[name]
            if metric == "dot":  # logits of a size that keeps losses apart
                options = options | {"temperature": d**0.5}
            inputs = {"query": randoms(1, n, d, dtype=dtype), "key": randoms(2, n, d, dtype=dtype)}
            with case(metric=metric, dtype=dtype, size=(n, d)):
                assert_accurate("info_nce", inputs, ulps=8, metric=metric, **options)


LABELLED: dict[str, dict[str, Any]] = {
    "labels": {"labels": True},
    "more keys": {"shape": (113, 239), "labels": True},
    "fewer keys": {"shape": (239, 113), "labels": True},
    "diagonal of a rectangle": {"shape": (17, 33)},
    "queries beyond the keys": {"shape": (33, 17)},
    "extra keys": {"extra": 57},
    "extra keys, labels": {"shape": (113, 239), "extra": 300, "labels": True},
    "extra keys, more queries": {"shape": (33, 17), "extra": 23},
}


@pytest.mark.parametrize("name", LABELLED)
def test_info_nce_with_everything(name: str) -> None:
    """Positives by label, extra negatives, weights, smoothing, learned scale: all get gradients."""
    for scale, symmetric, dtype in product(("temperature", "logit_scale"), (True, False), DTYPES):
        inputs = labelled_inputs(LABELLED[name], scale, symmetric, dtype)
        with case(scale=scale, symmetric=symmetric, dtype=dtype):
            assert_accurate("info_nce", inputs, ulps=8, symmetric=symmetric, label_smoothing=0.05)


def labelled_inputs(
    options: dict[str, Any], scale: str, symmetric: bool, dtype: torch.dtype
) -> Inputs:
    n, m = options.get("shape", (113, 113))
    inputs = {
        "query": randoms(1, n, 19, dtype=dtype),
        "key": randoms(2, m, 19, dtype=dtype),
        "weights": randoms(3, n, dtype=dtype).abs(),
        scale: torch.tensor(0.11 if scale == "temperature" else 9.0, dtype=dtype),
    }
    if symmetric:
        inputs["key_weights"] = randoms(4, m, dtype=dtype).abs()
    if "extra" in options:
        inputs["extra_keys"] = randoms(5, options["extra"], 19, dtype=dtype)
    if options.get("labels"):
        inputs |= {"labels": randints(6, 20, n), "key_labels": randints(7, 20, m) - 3}
    return inputs


@pytest.mark.parametrize("op", ["info_nce", "sigmoid_contrastive"])
def test_many_labels(op: str) -> None:
    """So many pairs that the CPU engine takes them in the order of their labels; results keep theirs."""
    n, m, extra = 520, 560, 40
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        inputs = {
            "query": randoms(1, n, 7, dtype=dtype),
            "key": randoms(2, m, 7, dtype=dtype),
            "labels": randints(6, 20, n),
            "key_labels": randints(7, 20, m) - 3,
            "weights": randoms(3, n, dtype=dtype).abs(),
        }
        with case(dtype=dtype):
            if op == "info_nce":
                inputs |= {"extra_keys": randoms(5, extra, 7, dtype=dtype)}
                assert_accurate(op, inputs, ulps=16, label_smoothing=0.05)
                assert_accurate(op, inputs, ulps=16, symmetric=False, reduction="none")
            else:
                assert_accurate(op, inputs, ulps=16, reduction="none")
            call = getattr(ops, op)
            assert torch.equal(call(**inputs), call(**inputs))


@pytest.mark.parametrize("in_order", [False, True])
def test_aux_of_many_labels_keeps_the_order(in_order: bool) -> None:
    """So does what is returned beside the loss."""
    n = 640
    query, labels = randoms(1, n, 7), randints(2, 40, n)
    if in_order:
        labels = labels.sort().values
    _, aux = ops.info_nce(query, query.roll(1, 0), labels=labels, return_aux=True)
    _, truth = reference.info_nce(
        query.double(), query.roll(1, 0).double(), labels=labels, return_aux=True
    )
    for got, expected in zip(aux, truth, strict=True):
        assert got is not None
        assert expected is not None
        torch.testing.assert_close(got.double(), expected.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("extra", [0, 31])
def test_info_nce_aux(extra: int) -> None:
    """The extra outputs of the pass are those of the definition."""
    labels: dict[str, Any] = {"labels": randints(3, 80, 113), "key_labels": randints(4, 80, 130)}
    for dtype in DTYPES:
        query, key = randoms(1, 113, 19, dtype=dtype), randoms(2, 130, 19, dtype=dtype)
        key[:50] += query[:50]
        negatives = randoms(5, extra, 19, dtype=dtype)
        _, aux = ops.info_nce(query, key, return_aux=True, extra_keys=negatives, **labels)
        query, key, negatives = (x.double() for x in (query, key, negatives))
        _, truth = reference.info_nce(query, key, return_aux=True, extra_keys=negatives, **labels)
        for name, got, expected in zip(aux._fields, aux, truth, strict=True):
            assert got is not None
            assert expected is not None
            with case(dtype=dtype, field=name):
                assert not got.requires_grad
                if got.dtype == torch.bool:
                    assert torch.equal(got, expected)
                    continue
                assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
                limit = 1e-12 if dtype == torch.float64 else max(2e-6, engines.rounding(dtype))
                assert relative_errors(got, expected)[1] < limit


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_sigmoid(reduction: str) -> None:
    """The sigmoid loss with learned scale and bias, on a rectangle and with labels and weights."""
    for metric, dtype in product(BILINEAR, DTYPES):
        scalars = torch.float64 if dtype == torch.float64 else torch.float32  # float16 overflows
        for n, m, d in sizes(RECTANGLES, dtype):
            inputs = {
                "query": randoms(1, n, d, dtype=dtype),
                "key": randoms(2, m, d, dtype=dtype),
                "logit_scale": torch.tensor(0.2 if metric == "dot" else 6.0, dtype=scalars),
                "logit_bias": torch.tensor(-3.0, dtype=scalars),
            }
            labelled = inputs | {
                "weights": randoms(3, n, dtype=dtype).abs(),
                "labels": randints(4, 9, n),
                "key_labels": randints(5, 9, m),
            }
            options: dict[str, Any] = {"metric": metric, "reduction": reduction, "ulps": 16}
            with case(metric=metric, dtype=dtype, size=(n, m, d)):
                assert_accurate("sigmoid_contrastive", inputs, **options)
                assert_accurate("sigmoid_contrastive", labelled, **options)
