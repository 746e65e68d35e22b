"""The compiled ops against other people's packages, directly."""

from __future__ import annotations

import numpy as np
import pytest
import rsatoolbox
import torch
from scipy.spatial import distance
from sklearn.metrics.pairwise import pairwise_kernels
from torch import Tensor
from torch.nn import functional

from b2m_fast import ops
from ops_helpers import randints, randoms


@pytest.mark.parametrize("metric", ["cosine", "correlation", "euclidean", "sqeuclidean"])
def test_scipy(metric: str) -> None:
    """cdist and pdist, similarities being 1 less the distances."""
    x, y = randoms(1, 130, 7), randoms(2, 290, 7)
    sign, shift = (1, 0) if "euclidean" in metric else (-1, 1)
    full = shift + sign * ops.pairwise_similarity(x, y, metric=metric)
    np.testing.assert_allclose(full, distance.cdist(x, y, metric), atol=1e-12)
    half = shift + sign * ops.pairwise_similarity(x, metric=metric, condensed=True)
    np.testing.assert_allclose(half, distance.pdist(x, metric), atol=1e-12)


@pytest.mark.parametrize(("metric", "name"), [("dot", "linear"), ("rbf", "rbf"), ("cosine",) * 2])
def test_scikit_learn(metric: str, name: str) -> None:
    """Kernels, with the default width."""
    x, y = randoms(1, 130, 7), randoms(2, 290, 7)
    got = ops.pairwise_similarity(x, y, metric=metric)
    np.testing.assert_allclose(got, pairwise_kernels(x, y, name), atol=1e-12)


def test_cross_entropy_of_logits() -> None:
    """CLIP's loss as it is usually written: two cross entropies over normalised features."""
    x, y = (randoms(seed, 130, 16).requires_grad_() for seed in (1, 2))
    scale = torch.tensor(20.0, dtype=torch.float64, requires_grad=True)
    logits = scale * functional.normalize(x) @ functional.normalize(y).T
    labels = torch.arange(130)
    expected = (
        functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)
    ) / 2
    got = ops.info_nce(x, y, logit_scale=scale)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad(loss, (x, y, scale)) for loss in (got, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-12)


def test_supervised_contrastive_formula() -> None:
    """Several positives: mean over positives of log softmax, as in cross entropy with soft targets."""
    x, y = randoms(1, 40, 6), randoms(2, 55, 6)
    labels, key_labels = randints(3, 8, 40), randints(4, 8, 55)
    positive = (labels[:, None] == key_labels).double()
    targets = positive / positive.sum(dim=1, keepdim=True)
    got = ops.info_nce(
        x, y, metric="dot", temperature=2.0, labels=labels, key_labels=key_labels, symmetric=False
    )
    torch.testing.assert_close(got, functional.cross_entropy(x @ y.T / 2, targets))


def test_sigmoid_formula() -> None:
    """SigLIP's loss as released: minus log sigmoid of labels times logits, per query."""
    x, y = (functional.normalize(randoms(seed, 40, 6)) for seed in (1, 2))
    logits = 10 * x @ y.T - 10
    expected = -functional.logsigmoid((2 * torch.eye(40) - 1) * logits).sum() / 40
    torch.testing.assert_close(ops.sigmoid_contrastive(x, y), expected)


def dissimilarities(x: Tensor, y: Tensor) -> list[rsatoolbox.rdm.RDMs]:
    return [rsatoolbox.rdm.RDMs(distance.pdist(s, "sqeuclidean")[None]) for s in (x, y)]


@pytest.mark.parametrize(
    ("compare", "method"),
    [
        ("corr", "corr"),
        ("cosine", "cosine"),
        ("spearman", "spearman"),
        ("rho-a", "rho-a"),
        ("kendall", "kendall"),
        ("tau-b", "tau-b"),
        ("tau-a", "tau-a"),
        ("whitened_cosine", "cosine_cov"),
    ],
)
def test_rsatoolbox(compare: str, method: str) -> None:
    """Comparisons of dissimilarity matrices under its names, from responses and from its vectors."""
    x, y = randoms(1, 16, 9), randoms(2, 16, 5)
    first, second = dissimilarities(x, y)
    expected = float(rsatoolbox.rdm.compare(first, second, method=method)[0, 0])
    got = ops.rsa_score(x, y, compare=compare, metric="sqeuclidean").item()
    assert got == pytest.approx(expected, abs=1e-9)
    vectors = [rdm.get_vectors()[0] for rdm in (first, second)]
    got = ops.rsa_score(*vectors, compare=compare, metric="sqeuclidean").item()
    assert got == pytest.approx(expected, abs=1e-9)


def test_linear_cka_formula() -> None:
    """Feature-space formula of linear cka, |Y'X|^2 / (|X'X| |Y'Y|) of centred features."""
    x, y = randoms(1, 150, 9), randoms(2, 150, 5)
    a, b = x - x.mean(dim=0), y - y.mean(dim=0)
    expected = (b.T @ a).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())
    for form in ("pair", "feature"):
        got = ops.rsa_score(x, y, compare="cka", metric="dot", form=form)
        torch.testing.assert_close(got, expected)
