"""InfoNCE and the sigmoid loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..._types import Contrastive, Direction, Scoring
from ..rows import (
    CHUNK,
    GradientSums,
    blocks,
    empty_states,
    finish,
    gradient_quantities,
    prepare,
    statistics,
)
from .blocks import rectangles, scores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _Logits:
    """Logits block by block, and which of them are positives."""

    def __init__(self, arguments: Contrastive, bias: Tensor | None = None) -> None:
        self.arguments = arguments
        self.query = prepare(arguments.query, arguments.metric)
        self.key = prepare(arguments.key, arguments.metric)
        self.scoring = Scoring(arguments.metric)
        self.scale = arguments.logit_scale.to(self.query.dtype)
        self.bias = None if bias is None else bias.to(self.query.dtype)

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        for rows, columns_of_band in rectangles(len(self.query), len(self.key)):
            for columns in columns_of_band:
                yield rows, columns

    def __call__(self, rows: slice, columns: slice) -> Tensor:
        logits = scores(self.query[rows], self.key[columns], self.scoring).mul_(self.scale)
        return logits if self.bias is None else logits.add_(self.bias)

    def positives(self, rows: slice, columns: slice) -> Tensor | None:
        """Return the mask of the positives of a block, or None where there are none."""
        row, column = self.arguments.row_label, self.arguments.column_label
        if row is not None and column is not None:
            return row[rows, None] == column[None, columns]
        if rows.stop <= columns.start or columns.stop <= rows.start:
            return None
        device = self.query.device
        i = torch.arange(rows.start, rows.stop, device=device)
        return i[:, None] == torch.arange(columns.start, columns.stop, device=device)


def mean_logits(query: Tensor, key: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean logit of each prepared query and key: that with the mean of the other side.

    A row may be a sum of parts, (n, parts, d).
    """

    def rows(x: Tensor) -> Iterator[Tensor]:
        for part in x.split(CHUNK):
            wide = part.to(torch.float64)
            yield wide if wide.ndim == 2 else wide.sum(dim=1)

    means = []
    for x in (query, key):
        total = torch.zeros(x.shape[-1], dtype=torch.float64, device=x.device)
        for part in rows(x):
            total += part.sum(dim=0)
        means.append(total / max(len(x), 1) * scale)
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
    arguments: Contrastive, symmetric: bool, *, top1: bool, logit_mean: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the statistics (6, n) of the rows and (6, m) of the columns; 0 if not asked for."""
    logits = _Logits(arguments)
    row_state, column_state = empty_states(arguments, symmetric=symmetric)
    for rows, columns in logits.blocks():
        negatives, positives = logits(rows, columns), None
        mask = logits.positives(rows, columns)
        if mask is not None:
            positives = negatives.masked_fill(~mask, -math.inf)
            negatives = negatives.masked_fill_(mask, -math.inf)
        _merge(row_state[:, rows], negatives, positives, 1)
        if column_state is not None:
            _merge(column_state[:, columns], negatives, positives, 0)
    means = None
    if logit_mean:
        means = mean_logits(logits.query, logits.key, arguments.logit_scale.to(torch.float64))
    return statistics(row_state, column_state, means, top1=top1)


def _softmax_slopes(
    logits: Tensor, mask: Tensor | None, quantities: Tensor, *, single: bool
) -> Tensor:
    """Return dL/dlogit of one direction, rows first; `single`: a row has one positive at most."""
    weight, lse, positive_lse, negative_share, inverse_count, smoothing = quantities[:, :, None]
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
    arguments: Contrastive,
    rows: Direction,
    columns: Direction | None,
    label_smoothing: float,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Return the gradients of query, key and logit_scale."""
    of_rows, of_columns = gradient_quantities(arguments, rows, columns, label_smoothing)
    logits = _Logits(arguments)
    single = arguments.row_label is None

    def slopes(rows: slice, columns: slice) -> Tensor:
        block = logits(rows, columns)
        mask = logits.positives(rows, columns)
        total = _softmax_slopes(block, mask, of_rows[:, rows], single=single)
        if of_columns is not None:
            mask = None if mask is None else mask.T
            total += _softmax_slopes(block.T, mask, of_columns[:, columns], single=single).T
        return total

    dquery, dkey, dscale, _ = _gradients(logits, slopes, needed)
    return dquery, dkey, dscale


def _gradients(
    logits: _Logits, slopes: Callable[[slice, slice], Tensor], needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
    """Return the gradients of query, key, logit_scale and a bias of all logits, from dL/dlogit."""
    arguments = logits.arguments
    factor = arguments.logit_scale.to(torch.float64)
    query_sums = GradientSums(logits.query, differences=False)
    key_sums = GradientSums(logits.key, differences=False)
    by_key = needed[1] and not needed[0]
    bias_gradient = torch.zeros((), dtype=torch.float64, device=logits.query.device)
    for rows, columns in logits.blocks():
        block = slopes(rows, columns)
        bias_gradient += block.sum(dtype=torch.float64)
        if not by_key:
            query_sums.add(rows, block, logits.key[columns])
        if needed[1]:
            key_sums.add(columns, block.T, logits.query[rows])

    def gradient(x: Tensor, sums: GradientSums) -> Tensor:
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        finish(sums.gradient(), x, arguments.metric, factor, out)
        return out

    # sum_ij G_ij score_ij = sum_i z_i . (G Y)_i
    z, sums = (logits.key, key_sums.sums) if by_key else (logits.query, query_sums.sums)
    scale_gradient = torch.zeros((), dtype=torch.float64, device=z.device)
    for chunk in blocks(len(z), CHUNK):
        scale_gradient += (z[chunk].to(torch.float64) * sums[chunk]).sum()
    dquery = gradient(arguments.query, query_sums) if needed[0] else None
    dkey = gradient(arguments.key, key_sums) if needed[1] else None
    return dquery, dkey, scale_gradient, bias_gradient


def _signed(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Negate the logits of positives: a positive is a negative of the opposite logit."""
    return logits if mask is None else torch.where(mask, -logits, logits)


def sigmoid_contrastive(arguments: Contrastive, logit_bias: Tensor) -> Tensor:
    """Return the loss of every row, (n,) float64."""
    logits = _Logits(arguments, logit_bias)
    losses = torch.zeros(len(logits.query), dtype=torch.float64, device=logits.query.device)
    for rows, columns in logits.blocks():
        block = _signed(logits(rows, columns), logits.positives(rows, columns))
        # Rather than softplus, which returns its argument itself above a threshold.
        terms = torch.logaddexp(block.new_zeros(()), block)
        losses[rows] += terms.sum(dim=1, dtype=torch.float64)
    return losses


def sigmoid_contrastive_backward(
    arguments: Contrastive, logit_bias: Tensor, row_weight: Tensor, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
    """Return the gradients of query, key, logit_scale and logit_bias."""
    logits = _Logits(arguments, logit_bias)
    weights = row_weight.to(logits.query.dtype)[:, None]

    def slopes(rows: slice, columns: slice) -> Tensor:
        mask = logits.positives(rows, columns)
        block = _signed(logits(rows, columns), mask).sigmoid_()
        return _signed(block.mul_(weights[rows]), mask)

    return _gradients(logits, slopes, needed)
