"""Scores of all pairs, of listed pairs, and the best of each row; rows side by side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..._types import METRICS, Scoring
from ..rows import CHUNK, GradientSums, blocks, finish, mean_row, prepare, size_of
from . import blocks as _blocks
from .blocks import chain, pairs_of, rectangles, scored, triangle, triangles
from .blocks import scores as scores_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def pairwise(x: Tensor, y: Tensor | None, scoring: Scoring, condensed: bool, out: Tensor) -> None:
    """Write all scores to `out`: (n, m), or (n(n-1)/2,) if condensed."""
    x_rows = prepare(x, scoring.metric)
    y_rows = x_rows if y is None else prepare(y, scoring.metric)
    if condensed:
        for rows in triangles(len(x)):
            block = scores_of(x_rows[rows], x_rows[rows.start :], scoring)
            out[pairs_of(rows, len(x))] = block[triangle(rows, len(x), x.device)].to(out.device)
        return
    for rows, columns_of_band in rectangles(len(x_rows), len(y_rows)):
        for columns in columns_of_band:
            block = scores_of(x_rows[rows], y_rows[columns], scoring)
            out[rows, columns] = block.to(out.device)


class Operand:
    """Rows of one side, prepared for scores and for the products of a gradient."""

    def __init__(self, x: Tensor, metric: str, center: Tensor | None) -> None:
        self.x, self.metric = x, metric
        self.rows = prepare(x, metric)
        #: The rows that gradient weights are multiplied with: those of distances minus a center.
        self.values = self.rows if center is None else prepare(x, metric, center)

    def sums(self) -> GradientSums:
        """Return sums of gradient weights with other rows, still 0."""
        return GradientSums(self.values, differences=self.values is not self.rows)

    def gradient(
        self, sums: GradientSums, factor: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Return the gradient of x, in the dtype of x unless another is asked for."""
        out = torch.empty(self.x.shape, dtype=dtype or self.x.dtype, device=self.x.device)
        finish(sums.gradient(), self.x, self.metric, factor, out)
        return out


def operands(x: Tensor, y: Tensor | None, scoring: Scoring) -> tuple[Operand, Operand]:
    """Return both sides of a backward pass, which may be one."""
    center = None if scoring.bilinear else mean_row(x if y is None or not len(y) else y)
    rows = Operand(x, scoring.metric, center)
    return rows, rows if y is None else Operand(y, scoring.metric, center)


def pairwise_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    scoring: Scoring,
    condensed: bool,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of x and y; None where not needed."""
    x_side, y_side = operands(x, y, scoring)
    x_sums = x_side.sums()
    y_sums = x_sums if y is None else y_side.sums()
    both = y is None or all(needed)

    def add(rows: slice, columns: slice, slopes: Tensor) -> None:
        # (Products round by how their factors lie in memory.)
        weights = slopes.to(x_side.rows.dtype).contiguous()
        if not scoring.bilinear:
            block = scores_of(x_side.rows[rows], y_side.rows[columns], scoring)
            weights = chain(weights, block, scoring)
        if both or needed[0]:
            x_sums.add(rows, weights, y_side.values[columns])
        if both or needed[1]:
            y_sums.add(columns, weights.T, x_side.values[rows])

    if condensed:
        for rows in triangles(len(x)):
            block = grad.new_zeros((size_of(rows), len(x) - rows.start))
            block[triangle(rows, len(x), x.device)] = grad[pairs_of(rows, len(x))]
            add(rows, slice(rows.start, len(x)), block)
    else:
        for rows, columns_of_band in rectangles(len(x), len(y_side.x)):
            for columns in columns_of_band:
                add(rows, columns, grad[rows, columns])
    dx = x_side.gradient(x_sums) if needed[0] else None
    dy = y_side.gradient(y_sums) if needed[1] and y is not None else None
    return dx, dy


def pair_list(x: Tensor, i: Tensor, j: Tensor, scoring: Scoring) -> Tensor:
    """Return the scores of the pairs (i[p], j[p]), in float64."""
    rows = prepare(x, scoring.metric)
    out = torch.empty(len(i), dtype=torch.float64, device=x.device)
    for pairs in blocks(len(i), max(1, _blocks.BLOCK // max(rows.shape[1], 1))):
        a, b = rows[i[pairs]].to(torch.float64), rows[j[pairs]].to(torch.float64)
        terms = a * b if scoring.bilinear else (a - b).square_()
        out[pairs] = scored(terms.sum(dim=1), scoring)
    return out


def pair_list_backward(grad: Tensor, x: Tensor, i: Tensor, j: Tensor, scoring: Scoring) -> Tensor:
    """Return the gradient of x from that of the listed scores.

    Every pair counts for both its rows: the two lists are sorted by row, and summed row by row in
    that order, some columns at a time.
    """
    rows = prepare(x, scoring.metric)
    weights = grad.to(torch.float64)
    if not scoring.bilinear:
        weights = 2 * chain(weights, pair_list(x, i, j, scoring), scoring)
    row, order = torch.cat([i, j]).sort(stable=True)
    other = torch.cat([j, i])[order]
    weights = torch.cat([weights, weights])[order, None]
    bounds = torch.searchsorted(row, torch.arange(len(x) + 1, device=x.device))
    sums = torch.zeros(rows.shape, dtype=torch.float64, device=x.device)
    width = rows.shape[1] if len(row) else 0
    for values in blocks(width, max(1, _blocks.BLOCK // max(len(row), 1))):
        terms = rows[other, values].to(torch.float64)
        if not scoring.bilinear:
            terms = rows[row, values].to(torch.float64) - terms
        sums[:, values] = torch.segment_reduce(
            terms * weights, "sum", offsets=bounds, axis=0, unsafe=True
        )
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    finish(sums, x, scoring.metric, None, out)
    return out


def self_scores(x: Tensor, scoring: Scoring) -> Tensor:
    """Return score(x_i, x_i) of every row, (n,) float64."""
    if not scoring.bilinear:
        scores = scored(torch.zeros(len(x), dtype=torch.float64, device=x.device), scoring)
        return torch.where(x.isnan().any(dim=1), math.nan, scores)
    rows = prepare(x, scoring.metric)
    out = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for chunk in blocks(len(x), CHUNK):
        out[chunk] = rows[chunk].to(torch.float64).square_().sum(dim=1)
    return out


# ------------------------------------------------------------------------ best of each row


def topk(x: Tensor, y: Tensor | None, k: int, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Return values (n, k) in float64 and indices (n, k) of the best keys of each row."""
    x_rows = prepare(x, scoring.metric)
    y_rows = x_rows if y is None else prepare(y, scoring.metric)

    def scores(rows: slice, columns: slice) -> Tensor:
        return scores_of(x_rows[rows], y_rows[columns], scoring)

    return best(scores, rectangles(len(x_rows), len(y_rows)), x, y, k, scoring)


def best(
    scores: Callable[[slice, slice], Tensor],
    bands_of_blocks: Iterator[tuple[slice, Iterator[slice]]],
    x: Tensor,
    y: Tensor | None,
    k: int,
    scoring: Scoring,
) -> tuple[Tensor, Tensor]:
    """Keep the k best of all blocks of scores: ties go to the lower index, NaN comes last.

    Without y a row does not meet itself: its own score is made a NaN, one more is kept, and in the
    end the row itself is put last.
    """
    values = torch.empty(len(x), k, dtype=torch.float64, device=x.device)
    indices = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    sign = 1.0 if METRICS[scoring.metric].distance else -1.0  # the smallest are kept
    for rows, columns_of_band in bands_of_blocks:
        kept: tuple[Tensor, Tensor] | None = None
        for columns in columns_of_band:
            block = scores(rows, columns)
            if y is None:
                _diagonal(block, rows, columns).fill_(math.nan)
            kept = _smallest(block.mul_(sign), columns.start, kept, k + (y is None))
        if kept is None:  # no keys; k is then 0
            continue
        ranks, places = kept
        if y is None:
            itself = torch.arange(rows.start, rows.stop, device=x.device)[:, None]
            order = (places == itself).to(torch.int8).argsort(dim=1, stable=True)[:, :k]
            ranks, places = ranks.gather(1, order), places.gather(1, order)
        values[rows] = ranks.to(torch.float64) * sign + 0.0  # never -0
        indices[rows] = places
    return values, indices


def _diagonal(block: Tensor, rows: slice, columns: slice) -> Tensor:
    """Return the part of a block's diagonal where a row meets itself."""
    offset = rows.start - columns.start
    if -len(block) < offset < block.shape[1]:
        return block.diagonal(offset)
    return block[:0, 0]


def _smallest(
    block: Tensor, first: int, kept: tuple[Tensor, Tensor] | None, k: int
) -> tuple[Tensor, Tensor]:
    """Return the k smallest of a block of columns, and of what was kept of those before it."""
    if block.dtype == torch.float64:
        values, places = block.sort(dim=1, stable=True)
    else:
        values, places = _smallest_floats(block, min(k, block.shape[1]))
    values, places = values[:, :k], places[:, :k] + first
    if kept is None:
        return values, places
    values, places = torch.cat([kept[0], values], dim=1), torch.cat([kept[1], places], dim=1)
    values, order = values.sort(dim=1, stable=True)  # what was kept has lower indices
    return values[:, :k], places.gather(1, order[:, :k])


_LOW_BITS = 2**32 - 1


def _smallest_floats(block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k smallest of float32 numbers, by integers that no two of a row share.

    The upper half of an integer orders as the number does, NaN last; the lower half is its place.
    So ties are settled, which a selection of equal numbers leaves open.
    """
    number = torch.where(block.isnan(), math.nan, block + 0.0)  # one NaN, one zero
    bits = number.view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)
    place = torch.arange(block.shape[1], device=block.device)
    keys = ((ordered << 32) | place).topk(k, dim=1, largest=False, sorted=True).values
    places = keys & _LOW_BITS
    return block.gather(1, places), places


# ------------------------------------------------------------------------ rows side by side


def scaled_rows(x: Tensor, center: Tensor | None, metric: str, factor: Tensor, out: Tensor) -> None:
    """Write factor times the rows of x, minus a center and prepared for a metric, to `out`."""
    torch.mul(prepare(_centred(x, center, out.dtype), metric), factor, out=out)


def scaled_rows_backward(
    grad: Tensor, x: Tensor, center: Tensor | None, metric: str, factor: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x, in the dtype of `grad`, and of factor from that of `out`."""
    centred = _centred(x, center, grad.dtype)
    dx = torch.empty(x.shape, dtype=grad.dtype, device=x.device)
    finish(grad, centred, metric, factor, dx)
    return dx, (grad * prepare(centred, metric)).sum(dtype=torch.float64)


def _centred(x: Tensor, center: Tensor | None, dtype: torch.dtype) -> Tensor:
    return x if center is None else (x.to(torch.float64) - center).to(dtype)


def add_cross_products(sums: Tensor, a: Tensor, b: Tensor | None) -> None:
    """Add a' b to `sums` (p, q), float64 and contiguous; a' a if b is None."""
    b = a if b is None else b
    if a.dtype == sums.dtype:
        sums.addmm_(a.T, b)
    else:
        sums.add_(a.T @ b)


def sum_of_products(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """Return a x + b y."""
    return torch.addmm(a @ x, b, y)
