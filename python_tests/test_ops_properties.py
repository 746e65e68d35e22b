"""What holds for any input: symmetries, invariances, agreement of the ops with each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import engines
from b2m_fast import ops
from ops_helpers import BILINEAR, COMPARISONS, DISTANCES, METRICS, randints, randoms, upper

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.engines(*engines.EVERY)

rows = st.integers(1, 140)
few_rows = st.integers(4, 40)
depths = st.integers(1, 40)
seeds = st.integers(0, 10**6)
metrics = st.sampled_from(METRICS)
bilinear = st.sampled_from(BILINEAR)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def shuffled(seed: int, n: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    order = torch.randperm(n, generator=generator, device="cpu")
    return order.to(torch.get_default_device())


def rotation(seed: int, d: int) -> Tensor:
    q: Tensor = torch.linalg.qr(randoms(seed, d, d)).Q
    return q


@given(rows, rows, depths, metrics, seeds)
def test_scores_move_with_their_rows(n: int, m: int, d: int, metric: str, seed: int) -> None:
    """Reordering rows reorders scores and gradients, to the bit: no row depends on its place."""
    x, y = randoms(seed, n, d), randoms(seed + 1, m, d)
    p, q = shuffled(seed, n), shuffled(seed + 1, m)
    scores = ops.pairwise_similarity(x, y, metric=metric)
    close(ops.pairwise_similarity(x[p], y[q], metric=metric), scores[p][:, q])


@given(rows, rows, depths, metrics, seeds)
def test_blocks_make_the_whole(n: int, m: int, d: int, metric: str, seed: int) -> None:
    """Scores of parts are parts of the scores; swapping the sides transposes."""
    x, y = randoms(seed, n, d), randoms(seed + 1, m, d)
    whole = ops.pairwise_similarity(x, y, metric=metric)
    a, b = n // 3, m // 2
    close(ops.pairwise_similarity(x[a:], y[:b], metric=metric), whole[a:, :b])
    close(ops.pairwise_similarity(y, x, metric=metric), whole.T)


@given(rows, depths, metrics, seeds)
def test_forms_of_scores_agree(n: int, d: int, metric: str, seed: int) -> None:
    """Full, condensed and listed scores are the same numbers; the full matrix is symmetric."""
    x = randoms(seed, n, d)
    full = ops.pairwise_similarity(x, metric=metric)
    close(full, full.T)
    close(ops.pairwise_similarity(x, metric=metric, condensed=True), upper(full))
    i, j = randints(seed, n, 2, 40)
    close(ops.pair_similarity(x, i, j, metric=metric), full[i, j])
    close(ops.pairwise_similarity(x, x, metric=metric), full)
    if metric in DISTANCES:
        assert (full.diagonal() == 0).all()


@given(rows, st.integers(2, 140), depths, metrics, seeds, st.booleans())
def test_topk_is_a_sort(n: int, m: int, d: int, metric: str, seed: int, ties: bool) -> None:
    """The best k are the first k of a stable sort, so ties go to the lower index."""
    x, y = randoms(seed, n, d), randoms(seed + 1, m, d)
    if ties:
        x, y = x.round(), y.round()
        metric = "sqeuclidean" if metric in DISTANCES else "dot"  # exact on integers
    k = 1 + seed % m
    values, indices = ops.topk_similarity(x, y, k, metric=metric)
    scores = ops.pairwise_similarity(x, y, metric=metric)
    best, order = scores.sort(dim=1, descending=metric not in DISTANCES, stable=True)
    close(values, best[:, :k])
    if ties:
        assert torch.equal(indices, order[:, :k])
    close(scores.gather(1, indices), values)


@given(few_rows, depths, seeds, st.floats(1e-3, 1e3), st.floats(-10, 10))
def test_invariance_of_metrics(n: int, d: int, seed: int, scale: float, shift: float) -> None:
    """Lengths do not change a cosine, nor level and length a correlation, nor offsets a distance."""
    x, y = randoms(seed, n, d), randoms(seed + 1, n, d)
    lengths = scale * (1 + randoms(seed, n, 1).square())
    close(
        ops.pairwise_similarity(lengths * x, y, metric="cosine"),
        ops.pairwise_similarity(x, y, metric="cosine"),
    )
    if d > 2:
        close(
            ops.pairwise_similarity(lengths * x + shift, y, metric="correlation"),
            ops.pairwise_similarity(x, y, metric="correlation"),
        )
    for metric in (*DISTANCES, "rbf"):
        close(
            ops.pairwise_similarity(x + shift, y + shift, metric=metric),
            ops.pairwise_similarity(x, y, metric=metric),
        )
    close(
        ops.pairwise_similarity(x @ rotation(seed, d), y @ rotation(seed, d), metric="euclidean"),
        ops.pairwise_similarity(x, y, metric="euclidean"),
    )


@given(few_rows, depths, bilinear, seeds)
def test_symmetries_of_contrastive_losses(n: int, d: int, metric: str, seed: int) -> None:
    """Neither the order of the pairs nor which side is called query matters to the losses."""
    x, y = randoms(seed, n, d), randoms(seed + 1, n, d)
    p = shuffled(seed, n)
    labels = randints(seed, 3, n)
    loss = ops.info_nce(x, y, metric=metric)
    close(ops.info_nce(y, x, metric=metric), loss)
    close(ops.info_nce(x[p], y[p], metric=metric), loss)
    close(
        ops.info_nce(x[p], y[p], metric=metric, labels=labels[p]),
        ops.info_nce(x, y, metric=metric, labels=labels),
    )
    close(ops.info_nce(x, y, metric=metric, labels=torch.arange(n) * 7 - 3), loss)
    one_way = [ops.info_nce(a, b, metric=metric, symmetric=False) for a, b in ((x, y), (y, x))]
    close((one_way[0] + one_way[1]) / 2, loss)
    sigmoid = ops.sigmoid_contrastive(x, y, metric=metric)
    close(ops.sigmoid_contrastive(x[p], y[p], metric=metric), sigmoid)
    close(ops.sigmoid_contrastive(y, x, metric=metric), sigmoid)


@given(few_rows, few_rows, depths, bilinear, seeds)
def test_extra_keys_are_keys(n: int, e: int, d: int, metric: str, seed: int) -> None:
    """Extra keys are keys that are nobody's positive; weights of 2 are rows given twice."""
    x, y, extra = randoms(seed, n, d), randoms(seed + 1, n, d), randoms(seed + 2, e, d)
    with_extra = ops.info_nce(x, y, metric=metric, extra_keys=extra, symmetric=False)
    close(with_extra, ops.info_nce(x, torch.cat([y, extra]), metric=metric, symmetric=False))
    twice = 1.0 + (torch.arange(n) % 2)
    again = torch.cat([torch.arange(n), torch.arange(1, n, 2)])
    options: dict[str, Any] = {"metric": metric, "symmetric": False, "key_labels": torch.arange(n)}
    close(
        ops.info_nce(x, y, labels=torch.arange(n), weights=twice, **options),
        ops.info_nce(x[again], y, labels=again, **options),
    )


@given(few_rows, depths, depths, st.sampled_from([*COMPARISONS, "spearman", "tau-a"]), seeds)
def test_symmetries_of_comparisons(n: int, d: int, k: int, compare: str, seed: int) -> None:
    """Scores are symmetric in their sides and blind to the order of the items; self is 1 or 0."""
    x, y = randoms(seed, n, d + 2), randoms(seed + 1, n, k + 2)
    p = shuffled(seed, n)
    score = ops.rsa_score(x, y, compare=compare)
    close(ops.rsa_score(y, x, compare=compare), score)
    close(ops.rsa_score(x[p], y[p], compare=compare), score)
    itself = ops.rsa_score(x, x, compare=compare).item()
    assert itself == pytest.approx(0 if compare in {"mse", "atanh"} else 1, abs=1e-9)
    if compare in COMPARISONS:
        close(
            ops.rsa_penalty(x, y, compare=compare),
            score if compare in {"mse", "atanh"} else 1 - score,
        )


@given(few_rows, depths, depths, seeds, st.floats(1e-2, 1e2))
def test_invariance_of_cka(n: int, d: int, k: int, seed: int, scale: float) -> None:
    """Linear cka ignores rotations, common scale and common offset, in both forms."""
    x, y = randoms(seed, n, d + 1), randoms(seed + 1, n, k + 1)
    turned = scale * x @ rotation(seed, d + 1) + randoms(seed, d + 1)
    for compare in ("cka", "cka_debiased"):
        for form in ("pair", "feature"):
            options: dict[str, Any] = {"compare": compare, "metric": "dot", "form": form}
            scores = [ops.rsa_score(side, y, **options).item() for side in (turned, x)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-6)  # offsets cost digits


@given(few_rows, depths, seeds, st.sampled_from(["mse", "atanh", "pearson", "cosine"]))
def test_pair_weights_count_pairs(n: int, d: int, seed: int, compare: str) -> None:
    """Weight 0 leaves a pair out: a block of items alone, or among others of weight 0."""
    x, y = randoms(seed, 2 * n, d + 2), randoms(seed + 1, 2 * n, d + 2)
    weights = torch.zeros(2 * n, 2 * n)
    weights[:n, :n] = 2.5
    alone = ops.rsa_penalty(x[:n], y[:n], compare=compare)
    close(ops.rsa_penalty(x, y, compare=compare, pair_weights=weights), alone)
    close(ops.rsa_penalty(x, y, compare=compare, pair_weights=upper(weights)), alone)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.T.contiguous().T,
    "every second row": lambda x: x.repeat_interleave(2, dim=0)[::2],
    "every third column": lambda x: x.repeat_interleave(3, dim=1)[:, ::3],
    "odd offset": lambda x: torch.cat([x[:1], x])[1:],
    "odd address": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    "window": lambda x: torch.nn.functional.pad(x, (3, 2, 1, 4))[1:-4, 3:-2],
    "flipped twice": lambda x: x.flip(0).flip(0),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@given(n=st.integers(0, 140), m=st.integers(0, 9), d=depths, metric=metrics, seed=seeds)
def test_layouts(
    layout: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    n: int,
    m: int,
    d: int,
    metric: str,
    seed: int,
) -> None:
    """Where the numbers lie in memory changes no bit of a score or a gradient."""
    results = []
    for arrange in (lambda x: x, layout):
        x, y = (arrange(randoms(seed + k, size, d, dtype=dtype)) for k, size in enumerate((n, m)))
        x.requires_grad_()
        scores = ops.pairwise_similarity(x, y, metric=metric)
        gradient = torch.autograd.grad(scores.sum(), x)[0]
        parts = [scores.detach(), gradient]
        if metric in BILINEAR:
            loss = ops.info_nce(x, y, metric=metric)
            parts += [loss.detach(), torch.autograd.grad(loss, x)[0]]
        results.append(parts)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("metric", METRICS)
def test_expanded_rows(metric: str) -> None:
    """Rows of stride 0 are read like copies of them."""
    row = randoms(1, 1, 5)
    x = row.expand(40, 5)
    y = randoms(2, 7, 5)
    assert torch.equal(
        ops.pairwise_similarity(x, y, metric=metric),
        ops.pairwise_similarity(x.contiguous(), y, metric=metric),
    )
    column = randoms(3, 40, 1).expand(40, 5)
    assert torch.equal(
        ops.pairwise_similarity(column, metric=metric),
        ops.pairwise_similarity(column.contiguous(), metric=metric),
    )
