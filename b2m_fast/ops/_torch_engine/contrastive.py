"""InfoNCE and the sigmoid loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .._problems import ContrastiveProblem, Scoring, computing_dtype
from .._products import GradientSums
from .._rows import CHUNK, finish, prepare
from .._softmax import empty_state, gradient_side, statistics
from .blocks import raw_scores, rectangles, slices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
        return rectangles(len(self.query), len(self.key))

    def __call__(self, rows: slice, columns: slice) -> Tensor:
        raw = raw_scores(self.query[rows], self.key[columns], self.scoring).mul_(self.scale)
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
        for own in slices(len(self.x), CHUNK):
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
