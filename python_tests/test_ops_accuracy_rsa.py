"""Comparisons of similarities, their gradients and both their forms against the float64 reference."""

from __future__ import annotations

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
    randoms,
    relative_errors,
    upper,
)

pytestmark = pytest.mark.engines(*engines.EVERY)


def comparable(compare: str, metric: str, target_metric: str) -> bool:
    return not (compare.startswith("cka") and {metric, target_metric} & set(DISTANCES))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("compare", COMPARISONS)
def test_rsa(compare: str, metric: str, dtype: torch.dtype) -> None:
    """Every comparison on every metric, against responses of another metric."""
    if compare == "atanh" and metric not in {"cosine", "correlation", "rbf"}:
        pytest.skip("Fisher's z is of scores in [-1, 1]")
    target_metric = {"dot": "cosine", "cosine": "correlation", "correlation": "rbf"}.get(
        metric, "cosine"
    )
    if not comparable(compare, metric, target_metric):
        pytest.skip("cka is of similarities")
    for n, d, k in [(5, 3, 1), (33, 17, 9), (113, 100, 17), (300, 17, 96)]:
        inputs = {
            "features": randoms(1, n, d, dtype=dtype),
            "target": randoms(2, n, k + 2, dtype=dtype),
        }
        inputs["features"][:, : min(d, 3)] += inputs["target"][:, : min(d, 3)]
        for form in ("auto", "pair"):
            assert_accurate(
                "rsa_penalty",
                inputs,
                fixed=("target",),
                ulps=16 if n > 5 else 256,  # ten pairs: errors do not average out
                compare=compare,
                metric=metric,
                target_metric=target_metric,
                form=form,
            )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", BILINEAR)
@pytest.mark.parametrize("compare", ["pearson", "cosine", "cka", "cka_debiased", "whitened_cosine"])
def test_feature_form(compare: str, metric: str, dtype: torch.dtype) -> None:
    """Sums in feature space are the sums over pairs, centred or not, gradient included."""
    for n, d, k in [(5, 3, 1), (300, 17, 33)]:
        inputs = {
            "features": randoms(1, n, d, dtype=dtype),
            "target": randoms(2, n, k + 2, dtype=dtype),
        }
        inputs["features"][:, :2] += inputs["target"][:, :2]
        for center in (False, True):
            options = {"compare": compare, "metric": metric, "center": center, "form": "feature"}
            assert_accurate("rsa_penalty", inputs, fixed=("target",), ulps=16, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["matrix", "condensed"])
@pytest.mark.parametrize("compare", COMPARISONS)
def test_rsa_with_stored_similarities(compare: str, kind: str, dtype: torch.dtype) -> None:
    """A target given as a matrix or its upper triangle; pair weights where they are defined."""
    for n in (2, 33, 300):
        if compare == "cka_debiased" and n < 4:
            continue
        target = torch.corrcoef(randoms(2, n, 40)).to(dtype)
        weights = randoms(3, n, n, dtype=dtype).abs()
        if kind == "condensed":
            target, weights = upper(target), upper(weights)
        inputs = {"features": randoms(1, n, 17, dtype=dtype), "target": target}
        if compare in {"mse", "atanh", "pearson", "cosine"}:
            inputs["pair_weights"] = weights
        assert_accurate(
            "rsa_penalty",
            inputs,
            fixed=("target", "pair_weights"),
            ulps=32 if n == 2 else 16,
            compare=compare,
            target_kind="similarity",
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", BILINEAR)
@pytest.mark.parametrize("compare", ["mse", "pearson", "cka"])
def test_rsa_of_layers(compare: str, metric: str, dtype: torch.dtype) -> None:
    """Several layers mixed by learned weights, centred by their means; weights get gradients."""
    # (The weights' gradient is a small rest of large sums: some fifty roundings in plain float32, and up
    # to 140 beyond twice that where the kept gradient is rounded before it is scaled: emulated kernels,
    # pearson of dot products.)
    n = 113
    inputs = {
        "features 0": randoms(1, n, 17, dtype=dtype),
        "features 1": randoms(2, n, 96, dtype=dtype),
        "layer_weights": torch.tensor([0.3, 0.5], dtype=dtype),
        "target": randoms(3, n, 9, dtype=dtype),
    }
    for center in (False, True):
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


@pytest.mark.parametrize("dtype", DTYPES)
def test_rsa_centred_on_a_given_mean(dtype: torch.dtype) -> None:
    """A running mean is subtracted as given, without a gradient of its own."""
    inputs = {
        "features": randoms(1, 60, 17, dtype=dtype),
        "target": randoms(2, 60, 9, dtype=dtype),
        "center": randoms(3, 17, dtype=dtype),
    }
    assert_accurate("rsa_penalty", inputs, fixed=("target", "center"), ulps=16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compare", [*COMPARISONS, "corr"])
def test_rsa_score(compare: str, dtype: torch.dtype) -> None:
    """The numbers one reports, on responses of two kinds, wider side second."""
    for n in (5, 113):
        inputs = {"x": randoms(1, n, 17, dtype=dtype), "y": randoms(2, n, 9, dtype=torch.float64)}
        inputs["x"][:, :3] += inputs["y"][:, :3].to(dtype)
        got = ops.rsa_score(inputs["x"], inputs["y"], compare=compare, center=True)
        truth = reference.rsa_score(inputs["x"].double(), inputs["y"], compare=compare, center=True)
        assert got.dtype == torch.float64
        # The rounded side is centred and scored in float32.
        assert relative_errors(got, truth)[0] < (1e-12 if dtype == torch.float64 else 3e-6)
