"""What both engines in Python do before, between and after their blocks of pairs, in plain torch.

Rows are prepared for a metric, bands and blocks of pairs are walked through, gradients are summed
up from gradient weights, and the sums of InfoNCE become statistics. An engine computes the blocks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._types import METRICS, Contrastive, Direction, computing_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# ------------------------------------------------------------------------ the walk


def bands(count: int, rows_at: Callable[[int], int]) -> Iterator[slice]:
    """Yield bands of rows up to `count`, each of rows_at(its first row) rows."""
    begin = 0
    while begin < count:
        end = min(begin + rows_at(begin), count)
        yield slice(begin, end)
        begin = end


def blocks(count: int, step: int) -> Iterator[slice]:
    """Yield blocks of `step` up to `count`."""
    return bands(count, lambda _: step)


def size_of(span: slice) -> int:
    """Return the length of a band or block."""
    return int(span.stop - span.start)


# ------------------------------------------------------------------------ prepared rows

# Scores of bilinear metrics are dot products of prepared rows. In float64 throughout, a chunk of
# rows at a time; zero rows stay zero, and get no gradient.

#: Rows prepared at a time: 4096 x 1000 in float64 is 33 MB.
CHUNK = 4096

# A row counts as constant if all that is left of it after centring is at most so many rounding
# errors (times sqrt(d)) of its mean.
_ROUNDING_ERRORS = 8


def prepared(x: Tensor, metric: str) -> Tensor:
    """Return the rows of x (n, d) centred and normalised as the metric asks, in float64."""
    rows = x.to(torch.float64).contiguous()  # so that the order of summation is fixed
    if not METRICS[metric].normalised:
        return rows
    rows, norm, is_zero = _centred(rows, metric, x.dtype)
    return rows / torch.where(is_zero, torch.inf, norm)


def _centred(rows: Tensor, metric: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows minus their means for "correlation", their norms, and which count as zero."""
    zero = rows.new_zeros(())
    if metric == "correlation":
        mean = rows.mean(dim=1, keepdim=True)
        rows = rows - mean
        eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        zero = (_ROUNDING_ERRORS * eps * rows.shape[1] ** 0.5) * mean.abs()
    norm = _norm(rows, wide=dtype == torch.float64)
    return rows, norm, norm <= zero


def _norm(rows: Tensor, *, wide: bool) -> Tensor:
    """Return norms (n, 1); `wide`: even where a square would leave the range of float64."""
    if wide:
        largest = rows.abs().amax(dim=1, keepdim=True)
        return _norm(rows / torch.where(largest == 0, 1.0, largest), wide=False) * largest
    norm: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return norm


def through_preparation(x: Tensor, metric: str, z: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of x from that of its prepared rows z; all float64 but x."""
    if not METRICS[metric].normalised:
        return gradient
    _, norm, is_zero = _centred(x.to(torch.float64).contiguous(), metric, x.dtype)
    across = gradient - z * (z * gradient).sum(dim=1, keepdim=True)
    gradient = across / torch.where(is_zero, 1.0, norm)
    if metric == "correlation":
        gradient = gradient - gradient.mean(dim=1, keepdim=True)
    return torch.where(is_zero, 0.0, gradient)


def prepare(x: Tensor, metric: str, center: Tensor | None = None) -> Tensor:
    """Return all rows prepared, in the computing dtype; a center (d,) is subtracted first."""
    rows = torch.empty(x.shape, dtype=computing_dtype(x), device=x.device)
    for chunk in blocks(len(x), CHUNK):
        part = x[chunk]
        if center is not None:
            part = part.to(torch.float64) - center
        rows[chunk] = prepared(part, metric)
    return rows


def mean_row(x: Tensor) -> Tensor:
    """Return the mean row in float64, 0 where it is no number: a place to measure rows from."""
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for chunk in blocks(len(x), CHUNK):
        total += x[chunk].to(torch.float64).contiguous().sum(dim=0)
    mean = total / max(len(x), 1)
    return torch.where(mean.isfinite(), mean, 0.0)


def finish(gradient: Tensor, x: Tensor, metric: str, factor: Tensor | None, out: Tensor) -> None:
    """Write factor times the gradient of x, from that of its prepared rows, to `out`."""
    for chunk in blocks(len(x), CHUNK):
        part = gradient[chunk].to(torch.float64)
        z = prepared(x[chunk], metric) if METRICS[metric].normalised else part
        part = through_preparation(x[chunk], metric, z, part)
        out[chunk] = part if factor is None else part * factor


# ------------------------------------------------------------------------ gradients

# With weights G_ij = dL/draw_ij of the raw scores (dot products, or squared distances) a block adds
# G Y to the gradient of the rows and G'X to that of the columns. For squared distances that is
# sum_j 2 G_ij (x_i - y_j), with rows measured from a mean row, so that little cancels.

# bfloat16 matrices multiplied into a float32 one, on CUDA; and added to one.
_VERSION = tuple(int(number) for number in torch.__version__.split(".")[:2])
_MIXED_PRODUCTS = _VERSION >= (2, 8)
_MIXED_SUMS = _VERSION >= (2, 10)


def add_product(sums: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to `sums`, which is float32 where a and b are bfloat16.

    (In place throughout: autocast leaves such operations alone.)
    """
    if a.dtype == sums.dtype:
        sums.addmm_(a, b)
    elif not a.is_cuda:
        sums.addmm_(a.to(sums.dtype), b.to(sums.dtype))
    elif _MIXED_SUMS:
        torch.addmm(sums, a, b, out_dtype=sums.dtype, out=sums)
    else:
        product = torch.empty_like(sums, dtype=sums.dtype if _MIXED_PRODUCTS else a.dtype)
        out_dtype = {"out_dtype": sums.dtype} if _MIXED_PRODUCTS else {}
        sums.add_(torch.mm(a, b, **out_dtype, out=product))


class GradientSums:
    """What the blocks add up to, for the gradient of prepared rows (n, d)."""

    def __init__(self, values: Tensor, *, differences: bool) -> None:
        dtype = computing_dtype(values)
        self.values = values if differences else None
        self.sums = torch.zeros(values.shape, dtype=dtype, device=values.device)
        self.totals: Tensor | None = None
        if differences:
            self.totals = torch.zeros(len(values), 1, dtype=torch.float64, device=values.device)

    def add(self, rows: slice, weights: Tensor, column_values: Tensor) -> None:
        """Add the weights of some rows with columns of these values."""
        add_product(self.sums[rows], weights, column_values)
        if self.totals is not None:
            self.totals[rows] += weights.sum(dim=1, keepdim=True, dtype=torch.float64)

    def add_both(self, rows: slice, columns: slice, weights: Tensor, values: Tensor) -> None:
        """Add the weights of some rows with columns that are rows of the same matrix."""
        self.add(rows, weights, values[columns])
        self.add(columns, weights.T, values[rows])

    def gradient(self) -> Tensor:
        """Return the gradient of the prepared rows, (n, d)."""
        if self.totals is None or self.values is None:
            return self.sums
        return (2 * (self.totals * self.values - self.sums)).to(self.sums.dtype)


# ------------------------------------------------------------------------ InfoNCE

# Before and after the pairs come these few operations on n numbers, in float64. See
# csrc/include/b2m/cuda.h for the quantities.

#: What is gathered of each row: negative_lse, positive_lse, positive_total, positive_count,
#: negative_max, positive_max.
STATE = 6


def empty_states(arguments: Contrastive, *, symmetric: bool) -> tuple[Tensor, Tensor | None]:
    """Return states (6, n) of rows and (6, m) of columns of which no logit has been seen."""

    def empty(x: Tensor) -> Tensor:
        state = torch.zeros(STATE, len(x), dtype=torch.float64, device=x.device)
        state[:2] = -math.inf
        state[4:] = -math.inf
        return state

    return empty(arguments.query), empty(arguments.key) if symmetric else None


def statistics(
    row_state: Tensor,
    column_state: Tensor | None,
    means: tuple[Tensor, Tensor] | None,
    *,
    top1: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the `STATISTICS` of both directions, (6, n) and (6, m); 0 if not asked for.

    `means`: mean logits of the rows and of the columns.
    """
    row_mean, column_mean = means or (None, None)
    top1 = top1 and row_state.shape[1] > 0  # without queries nothing can come first
    rows = _statistics(row_state, row_mean, top1=top1)
    if column_state is None:
        return rows, None
    return rows, _statistics(column_state, column_mean, top1=top1)


def _statistics(state: Tensor, logit_mean: Tensor | None, *, top1: bool) -> Tensor:
    negative_lse, positive_lse, total, count, negative_max, positive_max = state
    nothing = torch.zeros_like(count)
    first = nothing
    if top1:
        is_number = ~(negative_lse.isnan() | total.isnan())
        first = ((positive_max > negative_max) & is_number).to(torch.float64)  # a tie is a miss
    mean = total / count.clamp(min=1)
    logit_mean = nothing if logit_mean is None else logit_mean
    return torch.stack([negative_lse, positive_lse, mean, count, logit_mean, first])


def gradient_quantities(
    arguments: Contrastive, rows: Direction, columns: Direction | None, label_smoothing: float
) -> tuple[Tensor, Tensor | None]:
    """Return what the gradient takes of each row, (6, n), and of each column, (6, m).

    weight, lse, positive_lse, negative_share, inverse_count, smoothing. The target of label
    smoothing s is (1 - s) / count on the positives and s / (number of logits) everywhere.
    """

    def quantities(direction: Direction, logits: int) -> Tensor:
        negative_lse, positive_lse, _, count, _, _ = direction.statistics
        weight = direction.weight
        share = torch.sigmoid(negative_lse - positive_lse)
        result = torch.stack(
            [
                weight,
                torch.logaddexp(negative_lse, positive_lse),
                positive_lse,
                torch.where(weight == 0, 0.0, share),
                torch.where(count > 0, (1 - label_smoothing) / count, 0.0),
                weight * (-label_smoothing / max(logits, 1)),
            ]
        )
        return result.to(computing_dtype(arguments.query))

    row_quantities = quantities(rows, len(arguments.key))
    if columns is None:
        return row_quantities, None
    return row_quantities, quantities(columns, len(arguments.query))
