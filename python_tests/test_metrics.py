"""A metric is known in one table of the ops and in one of the reference; a new one is a line there.

The tests of the last section are what CONTRIBUTING calls "Add a metric": all it takes for the
reference, and for whatever compares similarities through it.
"""

from __future__ import annotations

import pytest
import torch
from scipy.spatial import distance
from scipy.stats import spearmanr
from torch import Tensor

from b2m_fast import _C, ops
from b2m_fast.ops import _types, reference
from b2m_fast.ops.reference import similarity
from reference_helpers import assert_slopes, close, patterns


def test_tables_agree() -> None:
    """Kernels, ops and reference have the same metrics, of the same kinds."""
    assert list(_types.METRICS) == list(_C.METRICS)
    assert set(_types.METRICS) == set(similarity.METRICS)
    for name, metric in _types.METRICS.items():
        formula = similarity.METRICS[name]
        assert metric.bilinear == (formula.prepare is not None), name
        assert metric.distance == formula.distance, name


def test_properties_are_those_of_the_scores() -> None:
    """What the table says of a metric is what its scores show."""
    x = patterns(0, 5, 4)
    for name, metric in _types.METRICS.items():
        itself = ops.pairwise_similarity(x, metric=name).diagonal()
        if metric.distance:
            assert (itself == 0).all(), name
        constant = bool((itself - itself[0]).abs().max() < 1e-12)
        assert constant != metric.lengths_count, name
        lengths = ops.pairwise_similarity(3 * x, x, metric=name)
        unchanged = torch.allclose(lengths, ops.pairwise_similarity(x, metric=name))
        assert unchanged == metric.normalised, name
        if metric.has_gamma:
            by_default = ops.pairwise_similarity(x, metric=name)
            close(ops.pairwise_similarity(x, metric=name, gamma=1 / 4), by_default)
        else:
            with pytest.raises(ValueError, match=r"gamma is 1\.0"):
                ops.pairwise_similarity(x, metric=name, gamma=1.0)


# A new metric -------------------------------------------------------------------------------------


def manhattan(difference: Tensor, _gamma: float | Tensor | None) -> Tensor:
    """Sum of absolute differences, of rows that differ by (..., d)."""
    return difference.abs().sum(dim=-1)


def signs(x: Tensor) -> Tensor:
    """Rows whose dot products count agreements of sign less disagreements."""
    return x.sign()


@pytest.fixture
def _new_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    formula = similarity.Formula(of_difference=manhattan, distance=True)
    monkeypatch.setitem(similarity.METRICS, "manhattan", formula)
    monkeypatch.setitem(similarity.METRICS, "signs", similarity.Formula(prepare=signs))


@pytest.mark.usefixtures("_new_metrics")
def test_new_metric_of_differences() -> None:
    """All of the reference takes it: scores, pairs, the nearest rows, penalties with gradients, ranks."""
    x, y = patterns(0, 70, 5), patterns(1, 8, 5)
    expected = distance.cdist(x, y, "cityblock")
    close(reference.pairwise_similarity(x, y, metric="manhattan"), expected)
    condensed = reference.pairwise_similarity(x, metric="manhattan", condensed=True)
    close(condensed, distance.pdist(x, "cityblock"))
    i, j = torch.tensor([0, 5]), torch.tensor([9, 6])
    pairs = reference.pair_similarity(x, i, j, metric="manhattan")
    close(pairs, distance.cdist(x, x, "cityblock")[i, j])
    _, indices = reference.topk_similarity(x, y, 1, metric="manhattan")
    assert indices[:, 0].tolist() == expected.argmin(axis=1).tolist()
    target = patterns(2, 8, 3)
    assert_slopes(lambda x: reference.rsa_penalty(x, target, compare="mse", metric="manhattan"), y)
    score = reference.rsa_score(x, x.sin(), compare="spearman", metric="manhattan")
    rank_correlation = spearmanr(*(distance.pdist(z, "cityblock") for z in (x, x.sin())))
    close(score, rank_correlation.statistic)
    stored = reference.rsa_score(  # a distance: 0 on the diagonal
        condensed, x, compare="whitened_cosine", metric="manhattan", x_kind="similarity"
    )
    close(stored, 1.0)


@pytest.mark.usefixtures("_new_metrics")
def test_new_metric_of_prepared_rows() -> None:
    """A bilinear one, in the contrastive losses too."""
    x, y = patterns(0, 9, 5), patterns(1, 9, 5)
    close(reference.pairwise_similarity(x, y, metric="signs"), x.sign() @ y.sign().T)
    loss = reference.info_nce(x, y, metric="signs", temperature=2.0)
    close(loss, reference.info_nce(x.sign(), y.sign(), metric="dot", temperature=2.0))


def test_unknown_metric() -> None:
    with pytest.raises(ValueError, match="unknown metric: 'manhattan'"):
        reference.pairwise_similarity(patterns(0, 3, 2), metric="manhattan")
