"""Comparisons of two similarity matrices, over bands of the upper triangle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..._types import (
    Coefficients,
    Comparison,
    PairMoments,
    Scalar,
    Similarities,
    inverse_or_zero,
    to_tensor,
    to_vector,
)
from ..rows import CHUNK, prepare, prepared, size_of
from .blocks import chain, pairs_of, scores, triangle, triangles
from .scores import operands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Scores whose mean stands for all of them.
_TYPICAL = (128, 256)


class StoredScores:
    """Scores of one side brought from where they are stored."""

    def __init__(self, comparison: Comparison, side: Similarities) -> None:
        self.side = side
        self.device, self.dtype = comparison.device, comparison.dtype
        self.count = comparison.items

    def __call__(self, rows: slice) -> Tensor:
        """Return those of a band with all items from its first on, of which i < j count."""
        if self.side.kind == "matrix":
            return self.side.data[rows, rows.start :].to(self.device, self.dtype)
        shape = (size_of(rows), self.count - rows.start)
        block = torch.zeros(shape, dtype=self.dtype, device=self.device)
        pairs = self.side.data[pairs_of(rows, self.count)]
        block[triangle(rows, self.count, self.device)] = pairs.to(self.device, self.dtype)
        return block


def _scores_of(comparison: Comparison, side: Similarities) -> Callable[[slice], Tensor]:
    """Return what gives the scores of a side band by band, as `StoredScores` does."""
    if side.kind != "patterns":
        return StoredScores(comparison, side)
    prepared_rows = prepare(side.data, side.scoring.metric).to(comparison.dtype)
    return lambda rows: scores(prepared_rows[rows], prepared_rows[rows.start :], side.scoring)


class _Pairs:
    """The scores of both sides and the weights of the pairs, band by band."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.c = _scores_of(comparison, comparison.c)
        self.t = _scores_of(comparison, comparison.t)
        self.w = None if comparison.w is None else _scores_of(comparison, comparison.w)

    def bands(self) -> Iterator[slice]:
        return triangles(self.comparison.items)

    def weight(self, rows: slice, like: Tensor) -> Tensor:
        """Return the weights of a band, 0 but for i < j."""
        return (torch.ones_like(like) if self.w is None else self.w(rows)).triu_(1)


def typical_score(comparison: Comparison, side: Similarities) -> Tensor:
    """Return a score to shift by: moments of values shifted near their mean do not cancel.

    The exact mean of products of patterns, else the mean of some of the first pairs.
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
                block = scores(rows[:n], rows, side.scoring)
            else:
                block = side.data[:n, :m].to(device)
            i, j = torch.triu_indices(n, m, offset=1, device=device)
            typical = block[i, j].to(torch.float64).mean()
    typical = typical.to(comparison.dtype).to(torch.float64)  # what will be subtracted
    return torch.where(typical.isfinite(), typical, 0.0)


def typical_scores(comparison: Comparison) -> tuple[Tensor, Tensor]:
    """Return the score that those of c, and of t, lie around: the best shifts of moments."""
    return typical_score(comparison, comparison.c), typical_score(comparison, comparison.t)


def pair_moments(
    comparison: Comparison, shifts: tuple[Scalar, Scalar], *, row_sums: bool
) -> PairMoments:
    """Return first and second moments of scores minus shifts (of the computing dtype)."""
    device = comparison.device
    c_shift, t_shift = (to_tensor(shift, torch.float64, device) for shift in shifts)
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
    """Return F(c) - F(t) as one logarithm (csrc/pair/rsa.h): accurate for c near t, and near 1."""
    high, low = torch.maximum(c, t), torch.minimum(c, t)
    ratio = (2 * (1 + epsilon)) * (high - low) / (((1 - high) + epsilon) * ((1 + low) + epsilon))
    magnitude = 0.5 * ratio.log1p_()
    return torch.where(c > t, magnitude, -magnitude)


class _PatternGradient:
    """The gradient of the patterns of c, summed up band by band."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison, self.scoring = comparison, comparison.c.scoring
        self.operand, _ = operands(comparison.c.data, None, self.scoring)
        self.sums = self.operand.sums()

    def add(self, rows: slice, slopes: Tensor, c: Tensor) -> None:
        """Add dL/dc of a band, which may be anything but for i < j."""
        weights = chain(slopes, c, self.scoring).triu_(1)
        later = slice(rows.start, self.comparison.items)
        self.sums.add_both(rows, later, weights, self.operand.values)

    def add_diagonal(self, diagonal: Tensor) -> None:
        """Add the gradient of the scores of items with themselves: d(x . x)/dx = 2 x."""
        z = self.operand.rows
        self.sums.sums.addcmul_(z, (2 * diagonal).to(z.dtype)[:, None])

    def gradient(self, factor: Tensor | None = None) -> Tensor:
        return self.operand.gradient(self.sums, factor, dtype=self.comparison.dtype)


def mean_squared_difference(
    comparison: Comparison, *, atanh: bool, epsilon: float, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the mean of (F(c) - F(t))^2 under w, and its gradient."""
    weight = torch.zeros((), dtype=torch.float64, device=comparison.device)
    total = torch.zeros_like(weight)
    pairs = _Pairs(comparison)
    gradient = _PatternGradient(comparison) if with_gradient else None
    for rows in pairs.bands():
        c, t = pairs.c(rows), pairs.t(rows)
        difference = (_atanh_difference(c, t, epsilon) if atanh else c - t).triu_(1)
        w = pairs.weight(rows, c)
        weighted = w * difference
        weight += w.sum(dtype=torch.float64)
        total += (weighted * difference).sum(dtype=torch.float64)
        if gradient is not None:
            slopes = 2 * weighted
            if atanh:
                slopes *= (1 + epsilon) / (((1 - c) + epsilon) * ((1 + c) + epsilon))
            gradient.add(rows, slopes, c)
    scale = inverse_or_zero(weight)
    return total * scale, None if gradient is None else gradient.gradient(scale)


def linear_gradient(
    comparison: Comparison,
    coefficients: Coefficients,
    per_item: Tensor | None,
    diagonal: Tensor | None,
) -> Tensor:
    """Return the gradient of the patterns of c, in the dtype of the computation."""
    on_device = to_vector(coefficients, comparison.device).to(comparison.dtype)
    c_shift, t_shift, constant, c_factor, t_factor = on_device
    item = None if per_item is None else per_item.to(comparison.dtype)
    pairs, gradient = _Pairs(comparison), _PatternGradient(comparison)
    for rows in pairs.bands():
        c, t = pairs.c(rows), pairs.t(rows)
        slopes: Tensor = constant + c_factor * (c - c_shift) + t_factor * (t - t_shift)
        if item is not None:
            slopes += item[rows, None] + item[rows.start :]
        gradient.add(rows, slopes if pairs.w is None else slopes * pairs.w(rows), c)
    if diagonal is not None:
        gradient.add_diagonal(diagonal)
    return gradient.gradient()
