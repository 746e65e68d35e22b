"""Comparisons of two similarity matrices, over bands of the upper triangle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._problems import Coefficients, Comparison, PairMoments, Similarities
from .._rows import CHUNK, prepare, prepared
from .._scalars import Scalar, inverse_or_zero, to_tensor, to_vector
from .blocks import chain, pairs_of, raw_scores, scored, triangle, triangles
from .scores import patterns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Scores whose mean stands for all of them.
_TYPICAL = (128, 256)


class _Scores:
    """Scores of one side computed from patterns."""

    def __init__(self, comparison: Comparison, side: Similarities) -> None:
        self.rows = prepare(side.data, side.scoring.metric).to(comparison.dtype)
        self.scoring = side.scoring

    def __call__(self, rows: slice) -> Tensor:
        """Scores of a band with all items from its first on; what is not i < j may be anything."""
        raw = raw_scores(self.rows[rows], self.rows[rows.start :], self.scoring)
        return scored(raw, self.scoring)


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
        pairs = self.side.data[pairs_of(rows, self.count)]
        block[triangle(rows, self.count, self.device)] = pairs.to(self.device, self.dtype)
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
        return triangles(self.comparison.items)

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
                block = scored(raw_scores(rows[:n], rows, side.scoring), side.scoring)
            else:
                block = side.data[:n, :m].to(device)
            i, j = torch.triu_indices(n, m, offset=1, device=device)
            typical = block[i, j].to(torch.float64).mean()
    typical = typical.to(comparison.dtype).to(torch.float64)  # what will be subtracted
    return torch.where(typical.isfinite(), typical, 0.0)


def typical_scores(comparison: Comparison) -> tuple[Tensor, Tensor]:
    """Score that those of c, and of t, lie around: what moments are best shifted by."""
    return typical_score(comparison, comparison.c), typical_score(comparison, comparison.t)


def pair_moments(
    comparison: Comparison, shifts: tuple[Scalar, Scalar], *, row_sums: bool
) -> PairMoments:
    """First and second moments of scores minus shifts (numbers of the computing dtype)."""
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
    """F(c) - F(t) as one logarithm (csrc/pair/rsa.h): c near t keeps its digits, so does c near 1."""
    high, low = torch.maximum(c, t), torch.minimum(c, t)
    ratio = (2 * (1 + epsilon)) * (high - low) / (((1 - high) + epsilon) * ((1 + low) + epsilon))
    magnitude = 0.5 * ratio.log1p_()
    return torch.where(c > t, magnitude, -magnitude)


class _PatternSums:
    """The gradient of the patterns of c, summed up band by band."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison, self.side = comparison, comparison.c
        self.own, _ = patterns(self.side.data, None, self.side.scoring)
        self.sums = self.own.sums()

    def add(self, rows: slice, slopes: Tensor, c: Tensor) -> None:
        """Add dL/dc of a band, which may be anything but for i < j."""
        weights = chain(slopes, c, self.side.scoring).triu_(1)
        later = slice(rows.start, self.comparison.items)
        self.sums.add(rows, weights, self.own.centred[later])
        self.sums.add(later, weights.T, self.own.centred[rows])

    def gradient(self, factor: Tensor | None = None) -> Tensor:
        return self.own.gradient(self.sums, factor, dtype=self.comparison.dtype)


def mean_squared_difference(
    comparison: Comparison, *, atanh: bool, epsilon: float, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Mean of (F(c) - F(t))^2 under w, F the identity or Fisher's z, and its gradient."""
    weight = torch.zeros((), dtype=torch.float64, device=comparison.device)
    total = torch.zeros_like(weight)
    pairs = _Pairs(comparison)
    sums = _PatternSums(comparison) if with_gradient else None
    for rows in pairs.bands():
        c, t = pairs.c(rows), pairs.t(rows)
        difference = (_atanh_difference(c, t, epsilon) if atanh else c - t).triu_(1)
        w = pairs.weight(rows, c)
        weighted = w * difference
        weight += w.sum(dtype=torch.float64)
        total += (weighted * difference).sum(dtype=torch.float64)
        if sums is not None:
            slopes = 2 * weighted
            if atanh:
                slopes *= (1 + epsilon) / (((1 - c) + epsilon) * ((1 + c) + epsilon))
            sums.add(rows, slopes, c)
    scale = inverse_or_zero(weight)
    return total * scale, None if sums is None else sums.gradient(scale)


def linear_gradient(
    comparison: Comparison,
    coefficients: Coefficients,
    per_item: Tensor | None,
    diagonal: Tensor | None,
) -> Tensor:
    """Gradient of the patterns of c, in the dtype of the computation."""
    c_shift, t_shift, constant, of_c, of_t = to_vector(coefficients, comparison.device).to(
        comparison.dtype
    )
    item = None if per_item is None else per_item.to(comparison.dtype)
    pairs, sums = _Pairs(comparison), _PatternSums(comparison)
    for rows in pairs.bands():
        c, t = pairs.c(rows), pairs.t(rows)
        slopes: Tensor = constant + of_c * (c - c_shift) + of_t * (t - t_shift)
        if item is not None:
            slopes += item[rows, None] + item[rows.start :]
        sums.add(rows, slopes if pairs.w is None else slopes * pairs.w(rows), c)
    if diagonal is not None:
        own = sums.own.rows
        sums.sums.sums.addcmul_(own, (2 * diagonal).to(own.dtype)[:, None])
    return sums.gradient()
