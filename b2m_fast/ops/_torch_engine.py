"""The engine in plain torch, on any device: scores in blocks of bounded size.

For devices without kernels of their own, and for the operations that have none. Nothing waits for
the device, so all of it can be captured in a CUDA graph; every sum has a fixed order, but for what
torch's matrix products do. float32 products are as exact as
`torch.get_float32_matmul_precision()` says.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ._problems import (
    DISTANCES,
    Coefficients,
    Comparison,
    ContrastiveProblem,
    PairMoments,
    Scoring,
    Similarities,
    computing_dtype,
    condensed_start,
)
from ._products import GradientSums
from ._rows import CHUNK, finish, mean_row, prepare, prepared
from ._scalars import Scalar, to_tensor, to_vector
from ._softmax import empty_state, gradient_side, statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Scores held at a time (16 MiB of float32); a handful of such blocks make the working memory.
BLOCK = 2**22

# Columns of a block, where there are enough rows.
_COLUMNS = 4096

# Values a block of differences of rows may have.
_DIFFERENCES = 2**24

# Scores whose mean stands for all of them.
_TYPICAL = (128, 256)


def scalar(x: Tensor) -> Tensor:
    """Return a number as formulas over results take it."""
    return x


def scalars(x: Tensor) -> Sequence[Tensor]:
    """Return the numbers of a vector in the same way."""
    return x.unbind()


# ----------------------------------------------------------------------------------- blocks


def _slices(count: int, step: int, begin: int = 0) -> Iterator[slice]:
    for start in range(begin, count, step):
        yield slice(start, min(start + step, count))


def _rectangles(n: int, m: int) -> Iterator[tuple[slice, Iterator[slice]]]:
    """Bands of rows, each with its blocks of columns."""
    columns = max(1, min(m, _COLUMNS, BLOCK))
    for rows in _slices(n, max(1, BLOCK // columns)):
        yield rows, _slices(m, columns)


def _triangles(count: int) -> Iterator[slice]:
    """Bands of rows, to be met with all columns from their first on."""
    begin = 0
    while begin < count:
        end = min(count, begin + max(1, BLOCK // (count - begin)))
        yield slice(begin, end)
        begin = end


def _raw(x: Tensor, y: Tensor, scoring: Scoring) -> Tensor:
    """Dot products, or squared distances from differences: exact zeros, and no cancellation."""
    out = x.new_zeros((len(x), len(y)))
    if scoring.bilinear:
        return torch.mm(x, y.T, out=out)  # (autocast leaves an `out` alone)
    for rows in _slices(len(x), max(1, _DIFFERENCES // max(y.numel(), 1))):
        depth = max(1, _DIFFERENCES // max((rows.stop - rows.start) * len(y), 1))
        for values in _slices(x.shape[1], depth):
            difference = x[rows, None, values] - y[None, :, values]
            out[rows] += difference.square_().sum(dim=2)
    return out


def _scored(raw: Tensor, scoring: Scoring) -> Tensor:
    if scoring.metric == "euclidean":
        return raw.sqrt_()
    if scoring.metric == "rbf":
        return raw.mul_(-scoring.gamma).exp_()
    return raw


def _chain(weights: Tensor, scores: Tensor, scoring: Scoring) -> Tensor:
    """Turn dL/dscore into dL/draw; a distance of 0 has slope 0."""
    if scoring.metric == "euclidean":
        return weights * torch.where(scores == 0, 0.0, 0.5 / scores)
    if scoring.metric == "rbf":
        return weights * scores * -scoring.gamma
    return weights


def _triangle(rows: slice, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places of the pairs i < j in a band from its first column on, row by row."""
    i, j = torch.triu_indices(rows.stop - rows.start, count - rows.start, offset=1, device=device)
    return i, j


def _pairs_of(rows: slice, count: int) -> slice:
    """Where a condensed vector holds the pairs of a band."""
    return slice(condensed_start(rows.start, count), condensed_start(rows.stop, count))


# ----------------------------------------------------------------------------------- pairwise scores


def pairwise(x: Tensor, y: Tensor | None, scoring: Scoring, condensed: bool, out: Tensor) -> None:
    """Write all scores to `out`: (n, m), or (n(n-1)/2,) if condensed."""
    x_rows = prepare(x, scoring.metric)
    y_rows = x_rows if y is None else prepare(y, scoring.metric)
    if condensed:
        for rows in _triangles(len(x)):
            scores = _scored(_raw(x_rows[rows], x_rows[rows.start :], scoring), scoring)
            out[_pairs_of(rows, len(x))] = scores[_triangle(rows, len(x), x.device)].to(out.device)
        return
    for rows, blocks in _rectangles(len(x_rows), len(y_rows)):
        for columns in blocks:
            scores = _scored(_raw(x_rows[rows], y_rows[columns], scoring), scoring)
            out[rows, columns] = scores.to(out.device)


class _Patterns:
    """Rows as the scores need them, and as the gradient does."""

    def __init__(self, x: Tensor, metric: str, center: Tensor | None) -> None:
        self.x = x
        self.metric = metric
        self.rows = prepare(x, metric)
        self.centred = self.rows if center is None else prepare(x, metric, center)

    def sums(self, own: slice = slice(None)) -> GradientSums:
        return GradientSums(self.centred[own], differences=self.centred is not self.rows)

    def gradient(self, sums: GradientSums, factor: Tensor | None = None) -> Tensor:
        """Gradient of x."""
        out = torch.empty(self.x.shape, dtype=self.x.dtype, device=self.x.device)
        finish(sums.gradient(), self.x, self.metric, factor, out)
        return out


def _patterns(x: Tensor, y: Tensor | None, scoring: Scoring) -> tuple[_Patterns, _Patterns]:
    """Both sides of a backward pass, which may be one."""
    center = None if scoring.bilinear else mean_row(x if y is None or not len(y) else y)
    rows = _Patterns(x, scoring.metric, center)
    return rows, rows if y is None else _Patterns(y, scoring.metric, center)


def pairwise_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    scoring: Scoring,
    condensed: bool,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and y; None where not wanted."""
    x_side, y_side = _patterns(x, y, scoring)
    x_sums = x_side.sums()
    y_sums = x_sums if y is None else y_side.sums()
    both = y is None or all(wanted)

    def add(rows: slice, columns: slice, slopes: Tensor) -> None:
        # (Products round by how their factors lie in memory.)
        weights = slopes.to(x_side.rows.dtype).contiguous()
        if not scoring.bilinear:
            raw = _raw(x_side.rows[rows], y_side.rows[columns], scoring)
            weights = _chain(weights, _scored(raw, scoring), scoring)
        if both or wanted[0]:
            x_sums.add(rows, weights, y_side.centred[columns])
        if both or wanted[1]:
            y_sums.add(columns, weights.T, x_side.centred[rows])

    if condensed:
        for rows in _triangles(len(x)):
            block = grad.new_zeros((rows.stop - rows.start, len(x) - rows.start))
            block[_triangle(rows, len(x), x.device)] = grad[_pairs_of(rows, len(x))]
            add(rows, slice(rows.start, len(x)), block)
    else:
        for rows, blocks in _rectangles(len(x), len(y_side.x)):
            for columns in blocks:
                add(rows, columns, grad[rows, columns])
    dx = x_side.gradient(x_sums) if wanted[0] else None
    dy = y_side.gradient(y_sums) if wanted[1] and y is not None else None
    return dx, dy


def pair_list(x: Tensor, i: Tensor, j: Tensor, scoring: Scoring) -> Tensor:
    """Scores of the pairs (i[p], j[p]), in float64."""
    rows = prepare(x, scoring.metric)
    out = torch.empty(len(i), dtype=torch.float64, device=x.device)
    for pairs in _slices(len(i), max(1, BLOCK // max(rows.shape[1], 1))):
        a, b = rows[i[pairs]].to(torch.float64), rows[j[pairs]].to(torch.float64)
        terms = a * b if scoring.bilinear else (a - b).square_()
        out[pairs] = _scored(terms.sum(dim=1), scoring)
    return out


def pair_list_backward(grad: Tensor, x: Tensor, i: Tensor, j: Tensor, scoring: Scoring) -> Tensor:
    """Gradient of x of the same.

    Every pair counts for both its rows: the two lists are sorted by row, and summed row by row in
    that order, some columns at a time.
    """
    rows = prepare(x, scoring.metric)
    weights = grad.to(torch.float64)
    if not scoring.bilinear:
        weights = 2 * _chain(weights, pair_list(x, i, j, scoring), scoring)
    own, order = torch.cat([i, j]).sort(stable=True)
    other = torch.cat([j, i])[order]
    weights = torch.cat([weights, weights])[order, None]
    bounds = torch.searchsorted(own, torch.arange(len(x) + 1, device=x.device))
    sums = torch.zeros(rows.shape, dtype=torch.float64, device=x.device)
    for values in _slices(rows.shape[1] if len(own) else 0, max(1, BLOCK // max(len(own), 1))):
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
        own = _scored(torch.zeros(len(x), dtype=torch.float64, device=x.device), scoring)
        return torch.where(x.isnan().any(dim=1), math.nan, own)
    rows = prepare(x, scoring.metric)
    out = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for own_rows in _slices(len(x), CHUNK):
        out[own_rows] = rows[own_rows].to(torch.float64).square_().sum(dim=1)
    return out


# ----------------------------------------------------------------------------------- best of each row


def topk(x: Tensor, y: Tensor | None, k: int, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Values (n, k) in float64 and indices (n, k) of the best keys of each row."""
    x_rows = prepare(x, scoring.metric)
    y_rows = x_rows if y is None else prepare(y, scoring.metric)

    def scores(rows: slice, columns: slice) -> Tensor:
        return _scored(_raw(x_rows[rows], y_rows[columns], scoring), scoring)

    return best(scores, _rectangles(len(x_rows), len(y_rows)), x, y, k, scoring)


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


# ----------------------------------------------------------------------------------- contrastive


class _Positives(NamedTuple):
    """Which pairs are positive."""

    problem: ContrastiveProblem

    def __call__(self, rows: slice, columns: slice) -> Tensor | None:
        """Mask of a block; None: there are none."""
        row, column = self.problem.row_label, self.problem.column_label
        if row is not None and column is not None:
            return row[rows, None] == column[None, columns]
        if rows.stop <= columns.start or columns.stop <= rows.start:
            return None
        device = self.problem.query.device
        i = torch.arange(rows.start, rows.stop, device=device)
        return i[:, None] == torch.arange(columns.start, columns.stop, device=device)


class _Logits:
    """Logits of a problem, block by block."""

    def __init__(self, problem: ContrastiveProblem, bias: Tensor | None = None) -> None:
        self.query = prepare(problem.query, problem.metric)
        self.key = prepare(problem.key, problem.metric)
        self.positives = _Positives(problem)
        self.scoring = Scoring(problem.metric)
        self.scale = problem.logit_scale.to(self.query.dtype)
        self.bias = None if bias is None else bias.to(self.query.dtype)

    def blocks(self) -> Iterator[tuple[slice, Iterator[slice]]]:
        return _rectangles(len(self.query), len(self.key))

    def __call__(self, rows: slice, columns: slice) -> Tensor:
        raw = _raw(self.query[rows], self.key[columns], self.scoring).mul_(self.scale)
        return raw if self.bias is None else raw.add_(self.bias)


def mean_logits(query: Tensor, key: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Mean logit of each prepared query, and of each key: that with the mean of the other side.

    A row may be a sum of parts, (n, parts, d).
    """

    def rows(side: Tensor) -> Iterator[Tensor]:
        for part in side.split(CHUNK):
            wide = part.to(torch.float64)
            yield wide if wide.ndim == 2 else wide.sum(dim=1)

    means = []
    for side in (query, key):
        total = torch.zeros(side.shape[-1], dtype=torch.float64, device=side.device)
        for part in rows(side):
            total += part.sum(dim=0)
        means.append(total / max(len(side), 1) * scale)
    of_query = torch.cat([part @ means[1] for part in rows(query)])
    return of_query, torch.cat([part @ means[0] for part in rows(key)])


def _merge_log_sums(state: Tensor, logits: Tensor, dim: int) -> Tensor:
    """Add exp(logits) to a log-sum-exp; returns the largest logits."""
    largest = logits.amax(dim=dim)
    shift = torch.where(largest == -math.inf, 0.0, largest)
    total = (logits - shift.unsqueeze(dim)).exp_().sum(dim=dim, dtype=torch.float64)
    torch.logaddexp(state, shift + total.log(), out=state)
    return largest


def _merge(state: Tensor, negatives: Tensor, positives: Tensor | None, dim: int) -> None:
    """Merge logits into a state; those of the other kind are -inf."""
    torch.maximum(state[4], _merge_log_sums(state[0], negatives, dim), out=state[4])
    if positives is None:
        return
    torch.maximum(state[5], _merge_log_sums(state[1], positives, dim), out=state[5])
    is_one = positives != -math.inf
    state[2] += torch.where(is_one, positives, 0.0).sum(dim=dim, dtype=torch.float64)
    state[3] += is_one.sum(dim=dim)


def info_nce(
    problem: ContrastiveProblem, symmetric: bool, *, top1: bool, logit_mean: bool
) -> tuple[Tensor, Tensor | None]:
    """Statistics (6, n) of the rows and (6, m) of the columns; 0 where not wanted."""
    logits = _Logits(problem)
    device = problem.query.device
    row_state = empty_state(len(problem.query), device)
    column_state = empty_state(len(problem.key) if symmetric else 0, device)
    for rows, blocks in logits.blocks():
        for columns in blocks:
            negatives, positives = logits(rows, columns), None
            mask = logits.positives(rows, columns)
            if mask is not None:
                positives = negatives.masked_fill(~mask, -math.inf)
                negatives = negatives.masked_fill_(mask, -math.inf)
            _merge(row_state[:, rows], negatives, positives, 1)
            if symmetric:
                _merge(column_state[:, columns], negatives, positives, 0)
    means = None
    if logit_mean:
        means = mean_logits(logits.query, logits.key, problem.logit_scale.to(torch.float64))
    return statistics(row_state, column_state if symmetric else None, means, top1=top1)


def _softmax_slopes(logits: Tensor, mask: Tensor | None, side: Tensor, *, single: bool) -> Tensor:
    """dL/dlogit of one direction, rows first; `single`: a row has one positive at most."""
    weight, lse, positive_lse, negative_share, inverse_count, smoothing = side[:, :, None]
    # A row without weight may have no sums either.
    used = weight != 0
    slopes = weight * (logits - torch.where(used, lse, math.inf)).exp_()
    if mask is not None:
        if single:  # its share of the positives is exactly 1
            positive = (1 - inverse_count) - negative_share
        else:
            share = (logits - torch.where(used, positive_lse, math.inf)).exp_()
            positive = (share - inverse_count) - share * negative_share
        slopes = torch.where(mask, weight * positive, slopes)
    total: Tensor = slopes + smoothing
    return total


def info_nce_backward(
    problem: ContrastiveProblem,
    rows: Tensor,
    columns: Tensor | None,
    row_weight: Tensor,
    column_weight: Tensor | None,
    label_smoothing: float,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Gradients of query, key and logit_scale; weights are the float64 gradients of the losses."""
    n, m, dtype = len(problem.query), len(problem.key), computing_dtype(problem.query)
    row_side = gradient_side(rows, row_weight, m, label_smoothing, dtype)
    column_side = None
    if columns is not None and column_weight is not None:
        column_side = gradient_side(columns, column_weight, n, label_smoothing, dtype)
    logits = _Logits(problem)
    single = problem.row_label is None

    def slopes(row_block: slice, column_block: slice) -> Tensor:
        block = logits(row_block, column_block)
        mask = logits.positives(row_block, column_block)
        total = _softmax_slopes(block, mask, row_side[:, row_block], single=single)
        if column_side is not None:
            mask = None if mask is None else mask.T
            side = column_side[:, column_block]
            total += _softmax_slopes(block.T, mask, side, single=single).T
        return total

    dquery, dkey, dscale, _ = _contrastive_gradients(problem, logits, slopes, wanted)
    return dquery, dkey, dscale


def _contrastive_gradients(
    problem: ContrastiveProblem,
    logits: _Logits,
    slopes: Callable[[slice, slice], Tensor],
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
    """Gradients of query, key, logit_scale and a bias of all logits, from dL/dlogit by blocks."""
    factor = problem.logit_scale.to(torch.float64)
    query, key = (
        _Contrasted(side, problem.metric, rows)
        for side, rows in ((problem.query, logits.query), (problem.key, logits.key))
    )
    by_key = wanted[1] and not wanted[0]
    bias_gradient = torch.zeros((), dtype=torch.float64, device=problem.query.device)
    for rows, blocks in logits.blocks():
        for columns in blocks:
            block = slopes(rows, columns)
            bias_gradient += block.sum(dtype=torch.float64)
            if not by_key:
                query.sums.add(rows, block, key.rows[columns])
            if wanted[1]:
                key.sums.add(columns, block.T, query.rows[rows])
    dscale = (key if by_key else query).with_itself()
    dquery = query.gradient(factor) if wanted[0] else None
    dkey = key.gradient(factor) if wanted[1] else None
    return dquery, dkey, dscale, bias_gradient


class _Contrasted:
    """One side of a contrastive gradient."""

    def __init__(self, x: Tensor, metric: str, rows: Tensor) -> None:
        self.x, self.metric, self.rows = x, metric, rows
        self.sums = GradientSums(rows, differences=False)

    def with_itself(self) -> Tensor:
        """sum_ij G_ij score_ij = sum_i z_i . (G Y)_i, in float64."""
        total = torch.zeros((), dtype=torch.float64, device=self.x.device)
        for own in _slices(len(self.x), CHUNK):
            total += (self.rows[own].to(torch.float64) * self.sums.sums[own]).sum()
        return total

    def gradient(self, factor: Tensor) -> Tensor:
        out = torch.empty(self.x.shape, dtype=self.x.dtype, device=self.x.device)
        finish(self.sums.gradient(), self.x, self.metric, factor, out)
        return out


def _signed(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Logits of positives negated: a positive is a negative of the opposite logit."""
    return logits if mask is None else torch.where(mask, -logits, logits)


def sigmoid_contrastive(problem: ContrastiveProblem, logit_bias: Tensor) -> Tensor:
    """Loss of every row, (n,) float64."""
    logits = _Logits(problem, logit_bias)
    losses = torch.zeros(len(problem.query), dtype=torch.float64, device=problem.query.device)
    for rows, blocks in logits.blocks():
        for columns in blocks:
            block = _signed(logits(rows, columns), logits.positives(rows, columns))
            # Rather than softplus, which returns its argument itself above a threshold.
            terms = torch.logaddexp(block.new_zeros(()), block)
            losses[rows] += terms.sum(dim=1, dtype=torch.float64)
    return losses


def sigmoid_contrastive_backward(
    problem: ContrastiveProblem, logit_bias: Tensor, row_weight: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
    """Gradients of query, key, logit_scale and logit_bias."""
    logits = _Logits(problem, logit_bias)
    weights = row_weight.to(logits.query.dtype)[:, None]

    def slopes(rows: slice, columns: slice) -> Tensor:
        mask = logits.positives(rows, columns)
        block = _signed(logits(rows, columns), mask).sigmoid_()
        return _signed(block.mul_(weights[rows]), mask)

    return _contrastive_gradients(problem, logits, slopes, wanted)


# ----------------------------------------------------------------------------------- comparisons


class _Scores:
    """Scores of one side computed from patterns."""

    def __init__(self, comparison: Comparison, side: Similarities) -> None:
        self.rows = prepare(side.data, side.scoring.metric).to(comparison.dtype)
        self.scoring = side.scoring

    def __call__(self, rows: slice) -> Tensor:
        """Scores of a band with all items from its first on; what is not i < j may be anything."""
        raw = _raw(self.rows[rows], self.rows[rows.start :], self.scoring)
        return _scored(raw, self.scoring)


class StoredScores:
    """Scores of one side brought from where they are stored."""

    def __init__(self, comparison: Comparison, side: Similarities) -> None:
        self.side = side
        self.device, self.dtype = comparison.device, comparison.dtype
        self.count = comparison.items

    def __call__(self, rows: slice) -> Tensor:
        """The same of a band."""
        if self.side.kind == "matrix":
            return self.side.data[rows, rows.start :].to(self.device, self.dtype)
        block = torch.zeros(
            (rows.stop - rows.start, self.count - rows.start), dtype=self.dtype, device=self.device
        )
        pairs = self.side.data[_pairs_of(rows, self.count)]
        block[_triangle(rows, self.count, self.device)] = pairs.to(self.device, self.dtype)
        return block


def _source(comparison: Comparison, side: Similarities) -> Callable[[slice], Tensor]:
    make = _Scores if side.kind == "patterns" else StoredScores
    return make(comparison, side)


class _Pairs:
    """The scores of both sides and the weights of the pairs, band by band."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.c = _source(comparison, comparison.c)
        self.t = _source(comparison, comparison.t)
        self.w = None if comparison.w is None else _source(comparison, comparison.w)

    def bands(self) -> Iterator[slice]:
        return _triangles(self.comparison.items)

    def weight(self, rows: slice, like: Tensor) -> Tensor:
        """Weights of a band, 0 but for i < j."""
        return (torch.ones_like(like) if self.w is None else self.w(rows)).triu_(1)


def typical_score(comparison: Comparison, side: Similarities) -> Tensor:
    """A typical score, to shift by: moments of values shifted near their mean do not cancel.

    Exact mean of products of patterns, else the mean of some of the first pairs.
    """
    count, device = comparison.items, comparison.device
    if count < 2:
        return torch.zeros((), dtype=torch.float64, device=device)
    if side.kind == "patterns" and side.scoring.bilinear:
        total = torch.zeros(side.data.shape[1], dtype=torch.float64, device=device)
        squares = torch.zeros((), dtype=torch.float64, device=device)
        for part in side.data.split(CHUNK):
            rows = prepared(part, side.scoring.metric)
            total += rows.sum(dim=0)
            squares += rows.square().sum()
        typical = (total @ total - squares) / (count * (count - 1))
    else:
        n, m = (min(size, count) for size in _TYPICAL)
        if side.kind == "condensed":
            first = side.data[: min(m, len(side.data))].to(device, torch.float64)
            typical = first.mean()
        else:
            if side.kind == "patterns":
                rows = prepare(side.data[:m], side.scoring.metric)
                block = _scored(_raw(rows[:n], rows, side.scoring), side.scoring)
            else:
                block = side.data[:n, :m].to(device)
            i, j = torch.triu_indices(n, m, offset=1, device=device)
            typical = block[i, j].to(torch.float64).mean()
    typical = typical.to(comparison.dtype).to(torch.float64)  # what will be subtracted
    return torch.where(typical.isfinite(), typical, 0.0)


def pair_moments(comparison: Comparison, *, shifted: bool, row_sums: bool) -> PairMoments:
    """First and second moments; `shifted` by a typical score, so that centred ones do not cancel."""
    device = comparison.device
    c_shift = t_shift = torch.zeros((), dtype=torch.float64, device=device)
    if shifted:
        c_shift = typical_score(comparison, comparison.c)
        t_shift = typical_score(comparison, comparison.t)
    sums = torch.zeros(6, dtype=torch.float64, device=device)
    rows_of = torch.zeros(
        2, comparison.items if row_sums else 0, dtype=torch.float64, device=device
    )
    pairs = _Pairs(comparison)
    for rows in pairs.bands():
        c = (pairs.c(rows) - c_shift.to(comparison.dtype)).triu_(1)
        t = (pairs.t(rows) - t_shift.to(comparison.dtype)).triu_(1)
        w = pairs.weight(rows, c)
        wc, wt = (c, t) if pairs.w is None else (w * c, w * t)
        terms = (w, wc, wt, wc * c, wt * t, wc * t)
        sums += torch.stack([x.sum(dtype=torch.float64) for x in terms])
        if row_sums:
            for total, values in zip(rows_of, (c, t), strict=True):
                total[rows] += values.sum(dim=1, dtype=torch.float64)
                total[rows.start :] += values.sum(dim=0, dtype=torch.float64)
    w, wc, wt, wcc, wtt, wct = sums
    c_row, t_row = rows_of
    return PairMoments(w, wc, wt, wcc, wtt, wct, c_shift, t_shift, c_row, t_row)


def _atanh_difference(c: Tensor, t: Tensor, epsilon: float) -> Tensor:
    """F(c) - F(t) as one logarithm (csrc/pair/rsa.h): c near t keeps its digits, so does c near 1."""
    high, low = torch.maximum(c, t), torch.minimum(c, t)
    ratio = (2 * (1 + epsilon)) * (high - low) / (((1 - high) + epsilon) * ((1 + low) + epsilon))
    magnitude = 0.5 * ratio.log1p_()
    return torch.where(c > t, magnitude, -magnitude)


def squared_difference(
    comparison: Comparison, *, atanh: bool, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Sum of w and of w (F(c) - F(t))^2, F the identity or Fisher's z."""
    weight = torch.zeros((), dtype=torch.float64, device=comparison.device)
    total = torch.zeros_like(weight)
    pairs = _Pairs(comparison)
    for rows in pairs.bands():
        c, t = pairs.c(rows), pairs.t(rows)
        difference = _atanh_difference(c, t, epsilon) if atanh else c - t
        w = pairs.weight(rows, c)
        weight += w.sum(dtype=torch.float64)
        total += (w * difference.triu_(1).square_()).sum(dtype=torch.float64)
    return weight, total


def _pattern_gradient(
    comparison: Comparison,
    diagonal: Tensor | None,
    slopes: Callable[[Tensor, Tensor, slice], Tensor],
) -> Tensor:
    """Gradient of the patterns of c from dL/dc of each band, which may be anything but for i < j."""
    side = comparison.c
    patterns, _ = _patterns(side.data, None, side.scoring)
    sums = patterns.sums()
    pairs = _Pairs(comparison)
    for rows in pairs.bands():
        c, t = pairs.c(rows), pairs.t(rows)
        weights = slopes(c, t, rows) if pairs.w is None else slopes(c, t, rows) * pairs.w(rows)
        weights = _chain(weights, c, side.scoring).triu_(1)
        later = slice(rows.start, comparison.items)
        sums.add(rows, weights, patterns.centred[later])
        sums.add(later, weights.T, patterns.centred[rows])
    if diagonal is not None:
        sums.sums.addcmul_(patterns.rows, (2 * diagonal).to(patterns.rows.dtype)[:, None])
    return patterns.gradient(sums)


def linear_backward(
    comparison: Comparison,
    coefficients: Coefficients,
    per_item: Tensor | None,
    diagonal: Tensor | None,
) -> Tensor:
    """Gradient of the patterns of c."""
    c_shift, t_shift, constant, of_c, of_t = to_vector(coefficients, comparison.device).to(
        comparison.dtype
    )
    item = None if per_item is None else per_item.to(comparison.dtype)

    def slopes(c: Tensor, t: Tensor, rows: slice) -> Tensor:
        linear: Tensor = constant + of_c * (c - c_shift) + of_t * (t - t_shift)
        if item is not None:
            linear += item[rows, None] + item[rows.start :]
        return linear

    return _pattern_gradient(comparison, diagonal, slopes)


def atanh_backward(comparison: Comparison, epsilon: float, factor: Scalar) -> Tensor:
    """Gradient of the patterns of c of factor * sum w (F(c) - F(t))^2."""
    twice = to_tensor(2 * factor, comparison.dtype, comparison.device)

    def slopes(c: Tensor, t: Tensor, _rows: slice) -> Tensor:
        slope = (1 + epsilon) / (((1 - c) + epsilon) * ((1 + c) + epsilon))
        return twice * _atanh_difference(c, t, epsilon) * slope

    return _pattern_gradient(comparison, None, slopes)
