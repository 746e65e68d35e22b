"""Rank correlations of pairs beyond memory: cut into slabs, still exact."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial import distance
from torch import Tensor

import engines
from b2m_fast import ops
from b2m_fast.ops import _ranks, reference
from ops_helpers import METRICS, case, randints, randoms, upper

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.engines(*engines.EVERY)

COMPARES = ("spearman", "rho-a", "kendall", "tau-b", "tau-a")


@pytest.fixture(params=[2**24, 100, 20], ids=lambda pairs: f"{pairs} at once")
def _slabs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold so many pairs at once; compute scores in small blocks of rows."""
    monkeypatch.setattr(_ranks, "PAIRS_IN_MEMORY", request.param)
    if request.param < 2**24:
        monkeypatch.setattr(_ranks, "_BLOCK", 100)
        monkeypatch.setattr(_ranks, "_SAMPLE", 50)


def condensed(kind: str, seed: int, n: int) -> Tensor:
    """Condensed scores without ties, with many, or nearly all the same."""
    size = n * (n - 1) // 2
    if kind == "continuous":
        return randoms(seed, size)
    if kind == "ties":
        return randints(seed, 9, size).double()
    return (randints(seed, 30, size) == 0).double()


@pytest.mark.usefixtures("_slabs")
def test_scipy() -> None:
    """Spearman and Kendall are SciPy's, whatever the ties and however the pairs are cut."""
    n, kinds = 18, ("continuous", "ties", "lopsided")
    for x_kind, y_kind in product(kinds, kinds):
        x, y = condensed(x_kind, 1, n), condensed(y_kind, 2, n)
        y = y + (x > 0.5) * randints(3, 2, len(x))
        with case(x_kind=x_kind, y_kind=y_kind):
            for compare, expected in (("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):
                got = ops.rsa_score(x, y, compare=compare).item()
                assert got == pytest.approx(expected(x.cpu(), y.cpu()).statistic, abs=1e-12)
            assert ops.rsa_score(x, y, compare="tau-b") == got


@pytest.mark.usefixtures("_slabs")
@pytest.mark.parametrize("compare", COMPARES)
def test_reference(compare: str) -> None:
    """All five are those of the definition, with ties."""
    n = 13
    x, y = condensed("ties", 1, n), condensed("ties", 2, n)
    x = x + 2 * y
    torch.testing.assert_close(
        ops.rsa_score(x, y, compare=compare),
        reference.rsa_score(x, y, compare=compare),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.usefixtures("_slabs")
def test_responses() -> None:
    """Scores computed on the way, block by block, rank as the whole matrix does."""
    x, y = randoms(1, 16, 5), randoms(2, 16, 4)
    for metric in METRICS:
        full = [upper(reference.pairwise_similarity(s, metric=metric)).cpu() for s in (x, y)]
        with case(metric=metric):
            got = ops.rsa_score(x, y, metric=metric, compare="spearman")
            assert got.item() == pytest.approx(stats.spearmanr(*full).statistic, abs=1e-12)
            got = ops.rsa_score(x, y, metric=metric, compare="tau-a")
            assert got.item() == pytest.approx(stats.kendalltau(*full).statistic, abs=1e-12)


@pytest.mark.usefixtures("_slabs")
@pytest.mark.parametrize("kind", ["matrix", "condensed"])
def test_memory_maps(kind: str, tmp_path: Path) -> None:
    """Stored distances read from disk, float32 against float64."""
    x = distance.pdist(randoms(1, 18, 4).cpu().numpy()).astype(np.float32)
    stored = x if kind == "condensed" else distance.squareform(x)
    np.save(tmp_path / "x.npy", stored)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    y = condensed("ties", 2, 18)
    for compare, expected in (("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):
        got = ops.rsa_score(mapped, y, x_kind="similarity", compare=compare)
        assert got.item() == pytest.approx(expected(x, y.cpu()).statistic, abs=1e-12)


@pytest.mark.usefixtures("_slabs")
@pytest.mark.parametrize("compare", COMPARES)
def test_degenerate(compare: str) -> None:
    """Identity is 1 (without ties), a constant side 0, a single pair 0, NaN is NaN."""
    x = condensed("continuous", 1, 20)
    assert ops.rsa_score(x, x, compare=compare).item() == pytest.approx(1, abs=1e-14)
    assert ops.rsa_score(x, -x, compare=compare).item() == pytest.approx(-1, abs=1e-14)
    assert ops.rsa_score(x, torch.ones_like(x), compare=compare) == 0
    assert ops.rsa_score(x[:1], x[:1], compare=compare) == 0
    infinite = x.clone()
    infinite[x > 1] = torch.inf
    infinite[x < -1] = -torch.inf
    got = ops.rsa_score(infinite, x, compare=compare).item()
    expected = reference.rsa_score(infinite[:78], x[:78], compare=compare).item()
    assert ops.rsa_score(infinite[:78], x[:78], compare=compare).item() == pytest.approx(expected)
    assert 0 < got < 1
    x = x.clone()
    x[7] = torch.nan
    assert ops.rsa_score(x, infinite, compare=compare).isnan()


def test_inversions() -> None:
    """The counting sort of the compiled engine counts what the definition counts."""
    from b2m_fast.ops.engines.cpu import count_inversions

    for n in (0, 1, 2, 3, 100, 257):
        values = randints(n, 40, n).double()
        i, j = torch.triu_indices(n, n, offset=1)
        assert count_inversions(values) == int((values[i] > values[j]).sum())
