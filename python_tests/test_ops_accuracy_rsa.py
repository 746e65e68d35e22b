"""Comparisons of similarities, their gradients and both their forms against the float64 reference."""

from __future__ import annotations

from itertools import product

import pytest
import torch

import engines
from b2m_fast import ops
from b2m_fast.ops import reference
from ops_helpers import (
    BILINEAR,
    COMPARISONS,
    DISTANCES,
    DTYPES,
    METRICS,
    assert_accurate,
    case,
    randoms,
    relative_errors,
    upper,
)

pytestmark = pytest.mark.engines(*engines.EVERY)

#: A metric of the target for every metric of the features.
OTHER = {"dot": "cosine", "cosine": "correlation", "correlation": "rbf"}

FEATURE_FORM = ("pearson", "cosine", "cka", "cka_debiased", "whitened_cosine")


def comparable(compare: str, metric: str) -> bool:
    """Return whether the comparison is defined: Fisher's z of [-1, 1], cka of similarities."""
    if compare == "atanh":
        return metric in {"cosine", "correlation", "rbf"}
    return not (compare.startswith("cka") and metric in DISTANCES)


def compared(n: int, d: int, k: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Features (n, d) and a target (n, k) that has something to do with them."""
    features, target = randoms(1, n, d, dtype=dtype), randoms(2, n, k, dtype=dtype)
    features[:, : min(d, 3)] += target[:, : min(d, 3)]
    return {"features": features, "target": target}


@pytest.mark.parametrize("compare", COMPARISONS)
def test_rsa(compare: str) -> None:
    """Every comparison on every metric, against responses of another metric, over the pairs."""
    for metric, dtype in product(METRICS, DTYPES):
        if not comparable(compare, metric):
            continue
        sizes = [(5, 3, 3), (33, 17, 11), (113, 100, 19), (300, 17, 98)]
        for n, d, k in sizes if dtype in {torch.float64, torch.float32} else sizes[1:3]:
            with case(metric=metric, dtype=dtype, size=(n, d, k)):
                assert_accurate(
                    "rsa_penalty",
                    compared(n, d, k, dtype),
                    fixed=("target",),
                    ulps=16 if n > 5 else 256,  # ten pairs: errors do not average out
                    compare=compare,
                    metric=metric,
                    target_metric=OTHER.get(metric, "cosine"),
                    form="pair",
                )


@pytest.mark.parametrize("compare", FEATURE_FORM)
def test_feature_form(compare: str) -> None:
    """Sums in feature space are the sums over pairs, centred or not, gradient included."""
    sizes = [(5, 3, 3), (300, 17, 35)]
    for metric, dtype, size, center in product(BILINEAR, DTYPES, sizes, (False, True)):
        options = {"compare": compare, "metric": metric, "center": center, "form": "feature"}
        with case(metric=metric, dtype=dtype, size=size, center=center):
            inputs = compared(*size, dtype)
            assert_accurate("rsa_penalty", inputs, fixed=("target",), ulps=16, **options)


@pytest.mark.parametrize("compare", COMPARISONS)
def test_automatic_form(compare: str) -> None:
    """The form "auto" is one of the two to the bit: the one with fewer products, pairs by default."""
    for metric, (n, d, k) in product(METRICS, [(33, 17, 11), (300, 17, 11), (60, 100, 19)]):
        if not comparable(compare, metric):
            continue
        given = compared(n, d, k, torch.float32)
        options = {"compare": compare, "metric": metric}
        feature_form = metric in BILINEAR and compare in FEATURE_FORM and n > 100
        form = "feature" if feature_form else "pair"
        leaves = [given["features"].clone().requires_grad_() for _ in range(2)]
        values = [
            ops.rsa_penalty(x, given["target"], form=f, **options)  # type: ignore[arg-type]
            for x, f in zip(leaves, ("auto", form), strict=True)
        ]
        gradients = [torch.autograd.grad(v, x) for v, x in zip(values, leaves, strict=True)]
        with case(metric=metric, size=(n, d, k), form=form):
            assert torch.equal(*values)
            assert torch.equal(gradients[0][0], gradients[1][0])


@pytest.mark.parametrize("compare", COMPARISONS)
def test_rsa_with_stored_similarities(compare: str) -> None:
    """A target given as a matrix or its upper triangle; pair weights where they are defined."""
    for dtype, kind, n in product(DTYPES, ("matrix", "condensed"), (2, 33, 300)):
        if compare == "cka_debiased" and n < 4:
            continue
        target = torch.corrcoef(randoms(2, n, 40)).to(dtype)
        weights = randoms(3, n, n, dtype=dtype).abs()
        if kind == "condensed":
            target, weights = upper(target), upper(weights)
        inputs = {"features": randoms(1, n, 17, dtype=dtype), "target": target}
        if compare in {"mse", "atanh", "pearson", "cosine"}:
            inputs["pair_weights"] = weights
        with case(dtype=dtype, kind=kind, n=n):
            assert_accurate(
                "rsa_penalty",
                inputs,
                fixed=("target", "pair_weights"),
                ulps=32 if n == 2 else 16,
                compare=compare,
                target_kind="similarity",
            )


@pytest.mark.parametrize("compare", ["mse", "pearson", "cka"])
def test_rsa_of_layers(compare: str) -> None:
    """Several layers mixed by learned weights, centred by their means; weights get gradients."""
    # (The weights' gradient is a small rest of large sums: some fifty roundings in plain float32, and up
    # to 140 beyond twice that where the kept gradient is rounded before it is scaled: emulated kernels,
    # pearson of dot products.)
    n = 113
    for metric, dtype, center in product(BILINEAR, DTYPES, (False, True)):
        inputs = {
            "features 0": randoms(1, n, 17, dtype=dtype),
            "features 1": randoms(2, n, 96, dtype=dtype),
            "layer_weights": torch.tensor([0.3, 0.5], dtype=dtype),
            "target": randoms(3, n, 9, dtype=dtype),
        }
        with case(metric=metric, dtype=dtype, center=center):
            assert_accurate(
                "rsa_penalty",
                inputs,
                fixed=("target",),
                ulps=192,
                compare=compare,
                metric=metric,
                center=center,
                target_center=center,
            )


def test_rsa_centred_on_a_given_mean() -> None:
    """A running mean is subtracted as given, without a gradient of its own."""
    for dtype in DTYPES:
        inputs = {
            "features": randoms(1, 60, 17, dtype=dtype),
            "target": randoms(2, 60, 9, dtype=dtype),
            "center": randoms(3, 17, dtype=dtype),
        }
        with case(dtype=dtype):
            assert_accurate("rsa_penalty", inputs, fixed=("target", "center"), ulps=16)


@pytest.mark.parametrize("compare", [*COMPARISONS, "corr"])
def test_rsa_score(compare: str) -> None:
    """The numbers one reports, on responses of two kinds, wider side second."""
    for dtype, n in product(DTYPES, (5, 113)):
        x, y = randoms(1, n, 17, dtype=dtype), randoms(2, n, 9, dtype=torch.float64)
        x[:, :3] += y[:, :3].to(dtype)
        got = ops.rsa_score(x, y, compare=compare, center=True)
        truth = reference.rsa_score(x.double(), y, compare=compare, center=True)
        with case(dtype=dtype, n=n):
            assert got.dtype == torch.float64
            # The rounded side is centred and scored in float32.
            assert relative_errors(got, truth)[0] < (1e-12 if dtype == torch.float64 else 3e-6)
