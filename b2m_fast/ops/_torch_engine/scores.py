"""Scores of all pairs, of listed pairs, and the best of each row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._problems import DISTANCES, Scoring
from .._products import GradientSums
from .._rows import CHUNK, finish, mean_row, prepare
from . import blocks as _blocks
from .blocks import chain, pairs_of, raw_scores, rectangles, scored, slices, triangle, triangles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def pairwise(x: Tensor, y: Tensor | None, scoring: Scoring, condensed: bool, out: Tensor) -> None:
    """Write all scores to `out`: (n, m), or (n(n-1)/2,) if condensed."""
    x_rows = prepare(x, scoring.metric)
    y_rows = x_rows if y is None else prepare(y, scoring.metric)
    if condensed:
        for rows in triangles(len(x)):
            scores = scored(raw_scores(x_rows[rows], x_rows[rows.start :], scoring), scoring)
            out[pairs_of(rows, len(x))] = scores[triangle(rows, len(x), x.device)].to(out.device)
        return
    for rows, blocks in rectangles(len(x_rows), len(y_rows)):
        for columns in blocks:
            scores = scored(raw_scores(x_rows[rows], y_rows[columns], scoring), scoring)
            out[rows, columns] = scores.to(out.device)


class Patterns:
    """Rows as the scores need them, and as the gradient does."""

    def __init__(self, x: Tensor, metric: str, center: Tensor | None) -> None:
        self.x = x
        self.metric = metric
        self.rows = prepare(x, metric)
        self.centred = self.rows if center is None else prepare(x, metric, center)

    def sums(self, own: slice = slice(None)) -> GradientSums:
        return GradientSums(self.centred[own], differences=self.centred is not self.rows)

    def gradient(
        self, sums: GradientSums, factor: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Gradient of x, in the dtype of x unless another is asked for."""
        out = torch.empty(self.x.shape, dtype=dtype or self.x.dtype, device=self.x.device)
        finish(sums.gradient(), self.x, self.metric, factor, out)
        return out


def patterns(x: Tensor, y: Tensor | None, scoring: Scoring) -> tuple[Patterns, Patterns]:
    """Both sides of a backward pass, which may be one."""
    center = None if scoring.bilinear else mean_row(x if y is None or not len(y) else y)
    rows = Patterns(x, scoring.metric, center)
    return rows, rows if y is None else Patterns(y, scoring.metric, center)


def pairwise_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    scoring: Scoring,
    condensed: bool,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and y; None where not wanted."""
    x_side, y_side = patterns(x, y, scoring)
    x_sums = x_side.sums()
    y_sums = x_sums if y is None else y_side.sums()
    both = y is None or all(wanted)

    def add(rows: slice, columns: slice, slopes: Tensor) -> None:
        # (Products round by how their factors lie in memory.)
        weights = slopes.to(x_side.rows.dtype).contiguous()
        if not scoring.bilinear:
            raw = raw_scores(x_side.rows[rows], y_side.rows[columns], scoring)
            weights = chain(weights, scored(raw, scoring), scoring)
        if both or wanted[0]:
            x_sums.add(rows, weights, y_side.centred[columns])
        if both or wanted[1]:
            y_sums.add(columns, weights.T, x_side.centred[rows])

    if condensed:
        for rows in triangles(len(x)):
            block = grad.new_zeros((rows.stop - rows.start, len(x) - rows.start))
            block[triangle(rows, len(x), x.device)] = grad[pairs_of(rows, len(x))]
            add(rows, slice(rows.start, len(x)), block)
    else:
        for rows, blocks in rectangles(len(x), len(y_side.x)):
            for columns in blocks:
                add(rows, columns, grad[rows, columns])
    dx = x_side.gradient(x_sums) if wanted[0] else None
    dy = y_side.gradient(y_sums) if wanted[1] and y is not None else None
    return dx, dy


def pair_list(x: Tensor, i: Tensor, j: Tensor, scoring: Scoring) -> Tensor:
    """Scores of the pairs (i[p], j[p]), in float64."""
    rows = prepare(x, scoring.metric)
    out = torch.empty(len(i), dtype=torch.float64, device=x.device)
    for pairs in slices(len(i), max(1, _blocks.BLOCK // max(rows.shape[1], 1))):
        a, b = rows[i[pairs]].to(torch.float64), rows[j[pairs]].to(torch.float64)
        terms = a * b if scoring.bilinear else (a - b).square_()
        out[pairs] = scored(terms.sum(dim=1), scoring)
    return out


def pair_list_backward(grad: Tensor, x: Tensor, i: Tensor, j: Tensor, scoring: Scoring) -> Tensor:
    """Gradient of x of the same.

    Every pair counts for both its rows: the two lists are sorted by row, and summed row by row in
    that order, some columns at a time.
    """
    rows = prepare(x, scoring.metric)
    weights = grad.to(torch.float64)
    if not scoring.bilinear:
        weights = 2 * chain(weights, pair_list(x, i, j, scoring), scoring)
    own, order = torch.cat([i, j]).sort(stable=True)
    other = torch.cat([j, i])[order]
    weights = torch.cat([weights, weights])[order, None]
    bounds = torch.searchsorted(own, torch.arange(len(x) + 1, device=x.device))
    sums = torch.zeros(rows.shape, dtype=torch.float64, device=x.device)
    for values in slices(
        rows.shape[1] if len(own) else 0, max(1, _blocks.BLOCK // max(len(own), 1))
    ):
        terms = rows[other, values].to(torch.float64)
        if not scoring.bilinear:
            terms = rows[own, values].to(torch.float64) - terms
        sums[:, values] = torch.segment_reduce(
            terms * weights, "sum", offsets=bounds, axis=0, unsafe=True
        )
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    finish(sums, x, scoring.metric, None, out)
    return out


def self_scores(x: Tensor, scoring: Scoring) -> Tensor:
    """score(x_i, x_i) of every row, (n,) float64."""
    if not scoring.bilinear:
        own = scored(torch.zeros(len(x), dtype=torch.float64, device=x.device), scoring)
        return torch.where(x.isnan().any(dim=1), math.nan, own)
    rows = prepare(x, scoring.metric)
    out = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for own_rows in slices(len(x), CHUNK):
        out[own_rows] = rows[own_rows].to(torch.float64).square_().sum(dim=1)
    return out


# ----------------------------------------------------------------------------------- best of each row


def topk(x: Tensor, y: Tensor | None, k: int, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Values (n, k) in float64 and indices (n, k) of the best keys of each row."""
    x_rows = prepare(x, scoring.metric)
    y_rows = x_rows if y is None else prepare(y, scoring.metric)

    def scores(rows: slice, columns: slice) -> Tensor:
        return scored(raw_scores(x_rows[rows], y_rows[columns], scoring), scoring)

    return best(scores, rectangles(len(x_rows), len(y_rows)), x, y, k, scoring)


def best(
    scores: Callable[[slice, slice], Tensor],
    blocks: Iterator[tuple[slice, Iterator[slice]]],
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
    sign = 1.0 if scoring.metric in DISTANCES else -1.0  # the smallest are kept
    for rows, columns_of_band in blocks:
        kept: tuple[Tensor, Tensor] | None = None
        for columns in columns_of_band:
            block = scores(rows, columns)
            if y is None:
                _own(block, rows, columns).fill_(math.nan)
            kept = _smallest(block.mul_(sign), columns.start, kept, k + (y is None))
        if kept is None:  # no keys; k is then 0
            continue
        ranks, places = kept
        if y is None:
            own = torch.arange(rows.start, rows.stop, device=x.device)[:, None]
            order = (places == own).to(torch.int8).argsort(dim=1, stable=True)[:, :k]
            ranks, places = ranks.gather(1, order), places.gather(1, order)
        values[rows] = ranks.to(torch.float64) * sign + 0.0  # never -0
        indices[rows] = places
    return values, indices


def _own(block: Tensor, rows: slice, columns: slice) -> Tensor:
    """The part of a block's diagonal where a row meets itself."""
    offset = rows.start - columns.start
    if -len(block) < offset < block.shape[1]:
        return block.diagonal(offset)
    return block[:0, 0]


def _smallest(
    block: Tensor, first: int, kept: tuple[Tensor, Tensor] | None, k: int
) -> tuple[Tensor, Tensor]:
    """The k smallest of a block of columns, and of what was kept of those before it."""
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
    """The k smallest of float32 numbers, by integers that no two of a row share.

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
