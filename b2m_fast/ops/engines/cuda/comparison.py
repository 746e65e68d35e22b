"""Comparisons of two similarity matrices, over bands of the upper triangle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from b2m_fast import _C

from ..._types import (
    METRICS,
    Coefficients,
    Comparison,
    PairMoments,
    Scalar,
    Similarities,
    inverse_or_zero,
    to_vector,
)
from ..cpu import address
from ..rows import mean_row, size_of
from ..torch.comparison import StoredScores
from .kernels import KERNELS, Stream, Weights, bands_of_tiles, ends, padded, running_on, tiles
from .rows import Operand, Precision, precision_of

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Pairs:
    """Both sides of a comparison, as the kernels take them band by band."""

    def __init__(
        self, comparison: Comparison, stream: Stream, *, atanh: bool, gradient: bool = False
    ) -> None:
        self.comparison, self.stream, self.atanh = comparison, stream, atanh
        patterns = [s for s in (comparison.c, comparison.t) if s.kind == "patterns"]
        # Both sides are multiplied by one loop: one by one as soon as a side needs it.
        self.bilinear = bool(patterns) and all(s.scoring.bilinear for s in patterns)
        center = None
        if gradient and not comparison.c.scoring.bilinear:
            center = mean_row(comparison.c.data)
        self.c = self._side(comparison.c, center, gradient=gradient)
        self.t = self._side(comparison.t, None, gradient=False)
        self.w = None if comparison.w is None else StoredScores(comparison, comparison.w)

    def _precision(self, dtype: torch.dtype) -> Precision:
        if self.comparison.dtype == torch.float64:
            return Precision("float64")
        return precision_of(dtype, bilinear=self.bilinear, exact=self.atanh)

    def _side(
        self, side: Similarities, center: Tensor | None, *, gradient: bool
    ) -> Operand | StoredScores:
        if side.kind != "patterns":
            return StoredScores(self.comparison, side)
        return Operand(
            side.data,
            side.scoring,
            self.stream,
            precision=self._precision(side.data.dtype),
            center=center,
            gradient=gradient,
        )

    def bands(self, bytes_of_pair: float) -> Iterator[slice]:
        """Yield bands of rows that take so many bytes, and those of stored scores, a pair."""
        n, size = self.comparison.items, self.comparison.dtype.itemsize
        stored = sum(size for side in (self.c, self.t, self.w) if isinstance(side, StoredScores))
        return bands_of_tiles(n, lambda begin: int((n - begin) * (bytes_of_pair + stored)) + 1)

    def arguments(self, rows: slice) -> _C._Pairs:
        """Return what every kernel takes first; valid until called for the next band."""
        self._stored: list[Tensor] = []
        c, t, w = (self._arguments(side, rows) for side in (self.c, self.t, self.w))
        return self.comparison.items, c, t, w

    def _arguments(self, side: Operand | StoredScores | None, rows: slice) -> _C._Side:
        if isinstance(side, Operand):
            metric, gamma = _C.METRICS[side.scoring.metric], side.scoring.gamma
            return side.rows.arguments(), side.precision.products, metric, gamma, 0, 0
        arithmetic = self._precision(self.comparison.dtype).arithmetic
        nothing = (0, KERNELS.ARITHMETICS[arithmetic], self.comparison.items, 0, 1)
        if side is None:
            return nothing, 1, 0, 0.0, 0, 0
        block = side(rows)
        if block.stride(1) != 1:
            block = block.contiguous()
        self._stored.append(block)
        return nothing, 1, 0, 0.0, address(block), block.stride(0)

    def partials(self, rows: slice, number: int) -> Tensor:
        """Return room for sums of each tile of a band; those below the diagonal stay 0."""
        shape = (number, tiles(size_of(rows)), tiles(self.comparison.items - rows.start))
        return torch.zeros(shape, dtype=torch.float64, device=self.comparison.device)


def pair_moments(
    comparison: Comparison, shifts: tuple[Scalar, Scalar], *, row_sums: bool
) -> PairMoments:
    """Return first and second moments of scores minus shifts (of the computing dtype)."""
    device, n, tile = comparison.device, comparison.items, KERNELS.TILE
    both_shifts = to_vector(shifts, device)
    sums = torch.zeros(6, dtype=torch.float64, device=device)
    rows_of = torch.zeros(2, n if row_sums else 0, dtype=torch.float64, device=device)
    with running_on(device) as stream:
        pairs = _Pairs(comparison, stream, atanh=False)
        # Row sums: for c and t, a number for each row and tile across, each column and tile down.
        for rows in pairs.bands(4 * 8 / tile if row_sums else 6 * 8 / tile**2):
            partials = pairs.partials(rows, len(sums))
            workspace = None
            if row_sums:
                size = 4 * tiles(n - rows.start) * padded(size_of(rows), tile)
                workspace = torch.empty(size, dtype=torch.float64, device=device)
            KERNELS.pair_moments(
                pairs.arguments(rows),
                ends(rows),
                address(both_shifts),
                address(partials),
                address(rows_of[0]) if row_sums else 0,
                address(rows_of[1]) if row_sums else 0,
                address(workspace),
                stream,
            )
            sums += partials.sum(dim=(1, 2))
    w, wc, wt, wcc, wtt, wct = sums
    c_shift, t_shift = both_shifts
    c_row, t_row = rows_of
    return PairMoments(w, wc, wt, wcc, wtt, wct, c_shift, t_shift, c_row, t_row)


class _PatternGradient:
    """The gradient of the patterns of c, from the weights of each band with all later items."""

    def __init__(self, pairs: _Pairs) -> None:
        if not isinstance(pairs.c, Operand):
            raise TypeError("stored scores have no patterns to send a gradient to")
        self.pairs, self.operand = pairs, pairs.c
        self.sums = self.operand.sums()

    @property
    def bytes_of_pair(self) -> int:
        return self.operand.values.itemsize

    def _later(self, rows: slice) -> slice:
        return slice(rows.start, self.pairs.comparison.items)

    def weights(self, rows: slice) -> Weights:
        """Return room for the weights of a band."""
        weights = Weights(rows, self._later(rows), self.operand.values)
        weights.clear_below_diagonal()
        return weights

    def add(self, rows: slice, weights: Weights) -> None:
        """Add the weights of a band."""
        self.sums.add_both(rows, self._later(rows), weights.values, self.operand.values)

    def add_diagonal(self, diagonal: Tensor) -> None:
        """Add the gradient of the scores of items with themselves: d(x . x)/dx = 2 x."""
        sums = self.sums.sums
        z = self.operand.values.to(sums.dtype)
        sums.addcmul_(z, (2 * diagonal).to(sums.dtype)[:, None])

    def gradient(self, factor: Tensor | None = None) -> Tensor:
        comparison = self.pairs.comparison
        out = torch.empty(self.operand.x.shape, dtype=comparison.dtype, device=comparison.device)
        self.operand.write(self.sums, out, factor)
        return out


def mean_squared_difference(
    comparison: Comparison, *, atanh: bool, epsilon: float, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the mean of (F(c) - F(t))^2 under w, and its gradient."""
    totals = torch.zeros(2, dtype=torch.float64, device=comparison.device)
    transform = _C.TRANSFORMS["atanh" if atanh else "identity"]
    with running_on(comparison.device) as stream:
        pairs = _Pairs(comparison, stream, atanh=atanh, gradient=with_gradient)
        gradient = _PatternGradient(pairs) if with_gradient else None
        per_tile = 2 * 8 / KERNELS.TILE**2
        for rows in pairs.bands(per_tile if gradient is None else gradient.bytes_of_pair):
            partials = pairs.partials(rows, len(totals))
            given = pairs.arguments(rows)
            if gradient is None:
                KERNELS.squared_difference(
                    given, ends(rows), transform, epsilon, address(partials), stream
                )
            else:
                weights = gradient.weights(rows)
                KERNELS.difference_weights(
                    given,
                    ends(rows),
                    transform,
                    epsilon,
                    weights.arguments(),
                    address(partials),
                    stream,
                )
                gradient.add(rows, weights)
                del weights  # before there is room for the next band's
            totals += partials.sum(dim=(1, 2))
        weight, total = totals
        scale = inverse_or_zero(weight)
        result = None if gradient is None else gradient.gradient(scale)
    return total * scale, result


def linear_gradient(
    comparison: Comparison,
    coefficients: Coefficients,
    per_item: Tensor | None,
    diagonal: Tensor | None,
) -> Tensor:
    """Return the gradient of the patterns of c, in the dtype of the computation."""
    on_device = to_vector(coefficients, comparison.device)
    item = None if per_item is None else per_item.contiguous()
    with running_on(comparison.device) as stream:
        pairs = _Pairs(comparison, stream, atanh=False, gradient=True)
        gradient = _PatternGradient(pairs)
        for rows in pairs.bands(gradient.bytes_of_pair):
            weights = gradient.weights(rows)
            KERNELS.linear_weights(
                pairs.arguments(rows),
                ends(rows),
                address(on_device),
                address(item),
                weights.arguments(),
                stream,
            )
            gradient.add(rows, weights)
            del weights  # before there is room for the next band's
        if diagonal is not None and METRICS[comparison.c.scoring.metric].lengths_count:
            gradient.add_diagonal(diagonal)
        return gradient.gradient()
