"""The reference of the comparisons of similarities, against independent implementations.

Everything in float64 unless a test is about another dtype.
"""

from __future__ import annotations

import importlib
import itertools
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.spatial import distance
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor
from torch.nn import functional

from b2m_fast.ops.reference import pairwise_similarity, rsa_penalty, rsa_score
from reference_helpers import assert_slopes, close, patterns

if TYPE_CHECKING:
    from pathlib import Path

SMOOTH = ["mse", "atanh", "pearson", "cosine", "cka", "cka_debiased", "whitened_cosine"]
WEIGHTED, CORRELATIONS = SMOOTH[:4], SMOOTH[2:]
RANKED = ["spearman", "rho-a", "tau-a", "kendall"]


@pytest.fixture(scope="module")
def rsatoolbox() -> Any:
    pytest.importorskip("rsatoolbox")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("rsatoolbox.data")
        return importlib.import_module("rsatoolbox")


def test_dissimilarities_are_those_of_rsatoolbox(rsatoolbox: Any) -> None:
    """Correlation distance is 1 - correlation; its "euclidean" is sqeuclidean per channel."""
    x = patterns(0, 7, 6)
    dataset = rsatoolbox.data.Dataset(x.numpy().copy())

    def rdm(method: str) -> Any:
        return rsatoolbox.rdm.calc_rdm(dataset, method=method).get_vectors()[0]

    options: dict[str, Any] = {"condensed": True}
    close(1 - pairwise_similarity(x, metric="correlation", **options), rdm("correlation"))
    close(pairwise_similarity(x, metric="sqeuclidean", **options) / 6, rdm("euclidean"))


RSATOOLBOX_NAMES = [
    ("pearson", "corr"),
    ("corr", "corr"),
    ("cosine", "cosine"),
    ("spearman", "spearman"),
    ("rho-a", "rho-a"),
    ("kendall", "kendall"),
    ("tau-b", "tau-b"),
    ("tau-a", "tau-a"),
    ("whitened_cosine", "cosine_cov"),
]


@pytest.mark.parametrize(("compare", "method"), RSATOOLBOX_NAMES)
@pytest.mark.parametrize("decimals", [1, 15])
def test_scores_are_those_of_rsatoolbox(
    compare: str, method: str, decimals: int, rsatoolbox: Any
) -> None:
    """Every comparison with a name there, on condensed dissimilarities with and without ties."""
    x, y = (patterns(seed, 28, 1).abs().flatten().round(decimals=decimals) for seed in (0, 1))
    expected = rsatoolbox.rdm.compare(x.numpy(), y.numpy(), method=method)[0, 0]
    options: dict[str, Any] = {"metric": "sqeuclidean", "x_kind": "similarity"}
    close(rsa_score(x, y, compare=compare, y_kind="similarity", **options), expected)


def test_scores_of_patterns_are_those_of_rsatoolbox(rsatoolbox: Any) -> None:
    """From patterns to score: correlations give what their correlation distances give there."""
    x, y = patterns(0, 9, 6), patterns(1, 9, 4)
    rdms = [
        rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(z.numpy().copy()), method="correlation")
        for z in (x, y)
    ]
    for compare in ("corr", "spearman", "rho-a", "kendall", "tau-a", "whitened_cosine"):
        method = "cosine_cov" if compare == "whitened_cosine" else compare
        expected = rsatoolbox.rdm.compare(*rdms, method=method)[0, 0]
        close(rsa_score(x, y, compare=compare, metric="correlation"), expected)


def test_rank_correlations_are_those_of_scipy() -> None:
    """Spearman and Kendall with ties, against a second implementation."""
    x, y = patterns(0, 8, 4).round(), patterns(1, 8, 3).round()
    c, t = (distance.pdist(z, "sqeuclidean") for z in (x, y))
    for compare, oracle in (("spearman", scipy.stats.spearmanr), ("tau-b", scipy.stats.kendalltau)):
        close(rsa_score(x, y, compare=compare, metric="sqeuclidean"), oracle(c, t).statistic)


def test_whitened_cosine_is_the_cosine_after_whitening() -> None:
    """Diedrichsen et al. 2021: d' V^-1 d2 with V the covariance of the distances under no effect."""
    x, y = patterns(0, 7, 5), patterns(1, 7, 3)
    d1, d2 = (distance.pdist(z, "sqeuclidean") for z in (x, y))
    contrast = np.array(
        [np.eye(7)[i] - np.eye(7)[j] for i, j in itertools.combinations(range(7), 2)]
    )
    precision = np.linalg.inv((contrast @ contrast.T) ** 2)
    expected = d1 @ precision @ d2 / np.sqrt((d1 @ precision @ d1) * (d2 @ precision @ d2))
    close(rsa_score(x, y, compare="whitened_cosine", metric="sqeuclidean"), expected)
    # Of the similarity whose distances these are, the dot product.
    close(rsa_score(x, y, compare="whitened_cosine", metric="dot"), expected)
    # Its identity with cka, and its sign between a similarity and a distance.
    close(rsa_score(x, y, compare="cka", metric="dot"), expected)
    options: dict[str, Any] = {"metric": "sqeuclidean", "y_metric": "dot"}
    close(rsa_score(x, y, compare="whitened_cosine", **options), expected)
    close(rsa_score(x, y, compare="cka", **options), -expected)
    options = {"metric": "dot", "target_metric": "sqeuclidean"}
    close(rsa_penalty(x, y, compare="whitened_cosine", **options), 1 - expected)


def test_cka_by_its_definition() -> None:
    """Kornblith et al. 2019: HSIC ratio with centring matrices, and linear CKA in feature space."""
    x, y = patterns(0, 8, 5), patterns(1, 8, 3)
    h = np.eye(8) - np.ones((8, 8)) / 8

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        return float(np.trace(k @ h @ m @ h))

    k, m = rbf_kernel(x), rbf_kernel(y)
    expected = hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))
    close(rsa_score(x, y, compare="cka", metric="rbf"), expected)
    x0, y0 = h @ x.numpy(), h @ y.numpy()
    linear = np.linalg.norm(y0.T @ x0) ** 2 / np.linalg.norm(x0.T @ x0) / np.linalg.norm(y0.T @ y0)
    close(rsa_score(x, y, compare="cka", metric="dot"), linear)


def test_debiased_cka_by_its_definition() -> None:
    """Song et al. 2012: the closed form, and the U-statistic over all quadruples it stands for."""
    n = 6
    x, y = patterns(0, n, 4), patterns(1, n, 3)

    def closed(k: np.ndarray, m: np.ndarray) -> float:
        k, m, one = k - np.diag(np.diag(k)), m - np.diag(np.diag(m)), np.ones(n)
        products = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        value = np.trace(k @ m) + products - 2 / (n - 2) * one @ k @ m @ one
        return float(value / (n * (n - 3)))

    def quadruples(k: np.ndarray, m: np.ndarray) -> float:
        terms = [
            k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
            for i, j, q, r in itertools.permutations(range(n), 4)
        ]
        return float(np.mean(terms))

    for metric, k, m in (("dot", x @ x.T, y @ y.T), ("rbf", rbf_kernel(x), rbf_kernel(y))):
        got = rsa_score(x, y, compare="cka_debiased", metric=metric)
        for hsic in (closed, quadruples):
            km, kk, mm = (hsic(np.asarray(a), np.asarray(b)) for a, b in ((k, m), (k, k), (m, m)))
            close(got, km / math.sqrt(kk * mm))


def test_atanh_and_mse_by_their_definitions() -> None:
    """The Fisher z of Li et al. with its 1/2 (2F makes 4 times the loss), with pair weights."""
    x, y = patterns(0, 7, 5), patterns(1, 7, 5)
    c, t = (1 - distance.pdist(z, "cosine") for z in (x, y))
    w = np.random.default_rng(0).random(21)
    close(rsa_penalty(x, y, epsilon=0.0), np.mean((np.arctanh(c) - np.arctanh(t)) ** 2))
    f_c, f_t = (np.log((1 + s + 1e-3) / (1 - s + 1e-3)) for s in (c, t))
    got = rsa_penalty(x, y, epsilon=1e-3, pair_weights=w)
    close(4 * got, np.average((f_c - f_t) ** 2, weights=w))
    square = distance.squareform(w)
    close(
        rsa_penalty(x, y, compare="mse", pair_weights=square), np.average((c - t) ** 2, weights=w)
    )
    assert rsa_score(x, y, compare="atanh") == rsa_penalty(x, y)


@pytest.mark.parametrize("compare", ["mse", "atanh", "pearson", "cosine"])
def test_pair_weights_are_repetitions(compare: str) -> None:
    """A pair of weight 3 counts as three pairs; NumPy's weighted covariance agrees for pearson."""
    x, y = patterns(0, 6, 5), patterns(1, 6, 4)
    w = np.random.default_rng(0).integers(0, 4, 15)
    got = rsa_score(x, y, compare=compare, pair_weights=torch.from_numpy(w))
    c, t = (np.repeat(1 - distance.pdist(z, "cosine"), w) for z in (x, y))
    f_c, f_t = (np.log((1 + s + 1e-5) / (1 - s + 1e-5)) / 2 for s in (c, t))
    expected = {
        "mse": np.mean((c - t) ** 2),
        "atanh": np.mean((f_c - f_t) ** 2),
        "pearson": scipy.stats.pearsonr(c, t).statistic,
        "cosine": c @ t / np.linalg.norm(c) / np.linalg.norm(t),
    }
    close(got, expected[compare])


def test_layers_mix_as_one_concatenated_layer() -> None:
    """A mixture of cosines is the dot product of unit features scaled by sqrt(g_k)."""
    layers, g = [patterns(0, 7, 5), patterns(1, 7, 3)], torch.tensor([0.3, 0.9]).double()
    target = patterns(2, 7, 4)

    def joined(shares: Tensor) -> Tensor:
        parts = zip(shares, layers, strict=True)
        return torch.cat([s.sqrt() * functional.normalize(layer) for s, layer in parts], dim=1)

    for compare in SMOOTH:
        options: dict[str, Any] = {"compare": compare, "target_metric": "cosine"}
        expected = rsa_penalty(joined(g), target, metric="dot", **options)
        close(rsa_penalty(layers, target, layer_weights=g, **options), expected)
        expected = rsa_penalty(joined(torch.tensor([0.5, 0.5])), target, metric="dot", **options)
        close(rsa_penalty(layers, target, **options), expected, 1e-7)


def test_centering_subtracts_the_mean_pattern() -> None:
    """True means the mean over the rows; a given pattern, also per layer, is subtracted as is."""
    x, y, z = patterns(0, 7, 5), patterns(1, 7, 5), patterns(2, 7, 3)
    x0, y0 = x - x.mean(dim=0), y - y.mean(dim=0)
    expected = rsa_penalty(x0, y0)
    close(rsa_penalty(x, y, center=True, target_center=True), expected)
    close(rsa_penalty(x, y0, center=x.mean(dim=0)), expected)
    close(rsa_score(x, y, compare="atanh", center=True, y_center=True), expected)
    expected = rsa_penalty([x0, z - 1], y)
    close(rsa_penalty([x, z], y, center=[x.mean(dim=0), torch.ones(3)]), expected)


@pytest.mark.parametrize("compare", SMOOTH + RANKED)
@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_target_may_be_given_as_similarities(compare: str, metric: str, tmp_path: Path) -> None:
    """Responses, their matrix (upper part), its condensed form and a read-only map agree."""
    x, y = patterns(0, 7, 5) / 9, patterns(1, 7, 4) / 9
    expected = rsa_score(x, y, compare=compare, metric=metric)
    matrix = pairwise_similarity(y, metric=metric)
    np.save(tmp_path / "matrix.npy", matrix)
    forms = [
        matrix.triu(),
        pairwise_similarity(y, metric=metric, condensed=True),
        np.load(tmp_path / "matrix.npy", mmap_mode="r"),
    ]
    for form in forms:
        got = rsa_score(x, form, compare=compare, metric=metric, y_kind="similarity")
        close(got, expected)
        if compare not in RANKED:
            got = rsa_penalty(x, form, compare=compare, metric=metric, target_kind="similarity")
            close(got, expected if compare in {"mse", "atanh"} else 1 - expected)


@pytest.mark.parametrize("compare", CORRELATIONS + RANKED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_side_without_variance_has_correlation_zero(compare: str, dtype: torch.dtype) -> None:
    """Collapsed features: correlation 0 and gradient 0, instead of the ratio of two rounding errors."""
    x, y = patterns(0, 7, 5)[:1].repeat(7, 1).to(dtype), patterns(1, 7, 4).to(dtype)
    if compare in {"cosine", *RANKED}:
        x = x * 0
    x.requires_grad_()
    assert rsa_score(x, y, compare=compare) == 0
    assert rsa_score(y, x, compare=compare) == 0
    if compare in CORRELATIONS:
        y.requires_grad_()
        loss = rsa_penalty(x, y, compare=compare)
        loss.backward()
        assert loss == 1
        for side in (x, y):
            assert side.grad is not None
            assert (side.grad == 0).all()


@pytest.mark.parametrize("compare", SMOOTH + RANKED)
def test_nan_pattern_gives_nan(compare: str) -> None:
    """A NaN never hides in a comparison, not even beside a side without variance."""
    x, y = patterns(0, 6, 5), patterns(1, 6, 4)
    x[3, 2] = math.nan
    for other in (y, torch.zeros_like(y)):
        assert rsa_score(x, other, compare=compare).isnan()
        assert rsa_score(other, x, compare=compare).isnan()


@pytest.mark.parametrize("compare", SMOOTH)
@pytest.mark.parametrize("metric", ["cosine", "correlation", "rbf"])
def test_gradients_of_penalties(compare: str, metric: str) -> None:
    """Slopes to features and target, through centring and the guards of the degenerate cases."""
    options: dict[str, Any] = {"compare": compare, "metric": metric, "center": True}
    x, y = patterns(0, 5, 4), patterns(1, 5, 3)
    assert_slopes(lambda a, t: rsa_penalty(a, t, **options), x, y)


@pytest.mark.parametrize("compare", WEIGHTED)
def test_gradients_to_the_weights_of_penalties(compare: str) -> None:
    """Layer weights and pair weights may be learned."""
    layers, target = [patterns(0, 5, 4), patterns(1, 5, 3)], patterns(2, 5, 4)
    g = torch.tensor([0.4, 0.7], dtype=torch.float64)
    w = torch.linspace(0.1, 1.0, 10, dtype=torch.float64)

    def penalty(a: Tensor, b: Tensor, g: Tensor, w: Tensor) -> Tensor:
        return rsa_penalty([a, b], target, compare=compare, layer_weights=g, pair_weights=w)

    assert_slopes(penalty, *layers, g, w)
