"""Scores of all pairs, and the best of each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from b2m_fast import _C

from ..._types import Scoring, computing_dtype, condensed_start
from ..cpu import matrix, part_of_matrix
from ..rows import blocks, mean_row, size_of
from ..torch.scores import best
from . import kernels
from .kernels import KERNELS, Stream, Weights, bands_of_tiles, ends, padded, running_on
from .rows import Operand, Rows, gradient_of, precision_of, prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..rows import GradientSums

    Weigh: TypeAlias = Callable[[Operand, Operand, slice, slice], Tensor]

# Columns of a block of scores from which the best are chosen.
_CHOSEN_FROM = 2**12


def _scores(x: Rows, y: Rows, scoring: Scoring) -> _C._Scores:
    metric = _C.METRICS[scoring.metric]
    return x.arguments(), y.arguments(), x.precision.products, metric, scoring.gamma


def pairwise(x: Tensor, y: Tensor | None, scoring: Scoring, condensed: bool, out: Tensor) -> None:
    """Write all scores to `out`: (n, m), or (n(n-1)/2,) if condensed."""
    if out.numel() == 0:
        return
    with running_on(x.device) as stream:
        x_rows = Operand(x, scoring, stream).rows
        y_rows = x_rows if y is None else Operand(y, scoring, stream).rows
        arguments = _scores(x_rows, y_rows, scoring)
        if out.device == x.device:
            KERNELS.pairwise_scores(arguments, condensed, (0, len(x)), matrix(out), stream)
        else:
            _write_elsewhere(arguments, condensed, x_rows, y_rows, out, stream)


def _write_elsewhere(
    arguments: _C._Scores, condensed: bool, x: Rows, y: Rows, out: Tensor, stream: Stream
) -> None:
    """Write all scores to memory that the device does not reach, a band at a time."""
    n, m = len(x.data), len(y.data)
    like = x.data.new_empty(0, dtype=torch.float64 if out.dtype == torch.float64 else torch.float32)
    for rows in bands_of_tiles(n, lambda _: m * like.itemsize):
        if condensed:
            place = slice(condensed_start(rows.start, m), condensed_start(rows.stop, m))
            block = like.new_empty(size_of(place))
            to = part_of_matrix(block, 0, place.start)
        else:
            place = rows
            block = like.new_empty(size_of(rows), m)
            to = part_of_matrix(block, rows.start, 0)
        KERNELS.pairwise_scores(arguments, condensed, ends(rows), to, stream)
        out[place] = block.to(out.device)


def pairwise_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    scoring: Scoring,
    condensed: bool,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of x and y; None where not needed."""
    center = None if scoring.bilinear else mean_row(x if y is None or not len(y) else y)
    with running_on(x.device) as stream:

        def operand(rows: Tensor) -> Operand:
            return Operand(rows, scoring, stream, center=center, gradient=True)

        if y is None:
            return _gradient_with_itself(grad, operand(x), condensed=condensed), None

        def weigh(query: Operand, key: Operand, rows: slice, columns: slice) -> Tensor:
            band = slice(0, size_of(rows))
            return _full_weights(grad[rows, columns], query, key, band, columns)

        return gradients_of_rectangle(x, operand, operand(y), weigh, needed, None)


def _gradient_with_itself(grad: Tensor, x: Operand, *, condensed: bool) -> Tensor:
    """Return the gradient of rows in both roles."""
    sums, n, itemsize = x.sums(), len(x.x), x.values.itemsize
    for rows in bands_of_tiles(n, lambda begin: (n - begin if condensed else n) * itemsize):
        if condensed:
            columns = slice(rows.start, n)
            weights = _condensed_weights(grad, x, rows)
        else:
            columns = slice(0, n)
            weights = _full_weights(grad[rows], x, x, rows, columns)
        sums.add_both(rows, columns, weights, x.values)
    dx = gradient_of(x.x)
    x.write(sums, dx)
    return dx


def _condensed_weights(grad: Tensor, x: Operand, rows: slice) -> Tensor:
    """Return gradient weights dL/draw of a band with all items from its first on."""
    weights = Weights(rows, slice(rows.start, len(x.x)), x.values)
    weights.clear_below_diagonal()
    scores = _scores(x.rows, x.rows, x.scoring)
    KERNELS.pairwise_weights(scores, True, ends(rows), matrix(grad), weights.arguments(), x.stream)
    return weights.values


def _full_weights(grad: Tensor, x: Operand, y: Operand, rows: slice, columns: slice) -> Tensor:
    """Return gradient weights dL/draw of some rows with some columns, from dL/dscore."""
    if x.scoring.bilinear:  # the weights are the gradient
        return grad.to(x.values.dtype).contiguous()
    weights = Weights(rows, columns, x.values)
    scores = _scores(x.rows.part(rows), y.rows.part(columns), x.scoring)
    KERNELS.pairwise_weights(
        scores, False, (0, len(grad)), matrix(grad), weights.arguments(), x.stream
    )
    return weights.values


def gradients_of_rectangle(
    x: Tensor,
    operand: Callable[[Tensor], Operand],
    y: Operand,
    weigh: Weigh,
    needed: tuple[bool, bool],
    factor: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of the rows x and of the columns y, from their weights in blocks.

    Only a band of x is there in prepared form at a time, and memory of one thing is given back
    before that of the next is taken.
    """
    dx = gradient_of(x) if needed[0] else None
    y_sums = y.sums() if needed[1] else None
    if dx is not None and not len(y.x):
        dx.zero_()
    for rows in bands_of_tiles(len(x), lambda _: _width(len(y.x)) * y.values.itemsize):
        dx_band = None if dx is None else dx[rows]
        _add_band(operand(x[rows]), y, rows, weigh, dx_band, y_sums, factor)
    y.release()
    if y_sums is None:
        return dx, None
    dy = gradient_of(y.x)
    y.write(y_sums, dy, factor)
    return dx, dy


def _width(columns: int) -> int:
    """Return the columns of a block of gradient weights."""
    return min(padded(max(columns, 1), KERNELS.TILE), kernels.COLUMNS)


def _add_band(
    x: Operand,
    y: Operand,
    rows: slice,
    weigh: Weigh,
    dx: Tensor | None,
    y_sums: GradientSums | None,
    factor: Tensor | None,
) -> None:
    """Write the gradient of a band of rows, and add its share of that of the columns."""
    x_sums = None if dx is None else x.sums()
    for columns in blocks(len(y.x), _width(len(y.x))):
        weights = weigh(x, y, rows, columns)
        if x_sums is not None:
            x_sums.add(slice(None), weights, y.values[columns])
        if y_sums is not None:
            y_sums.add(columns, weights.T, x.values)
    if x_sums is not None and dx is not None:
        x.write(x_sums, dx, factor)


def topk(x: Tensor, y: Tensor | None, k: int, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Return values (n, k) in float64 and indices (n, k) of the best keys of each row."""
    with running_on(x.device) as stream:
        precision = precision_of(x.dtype, bilinear=scoring.bilinear, exact=True)
        x_rows = prepare(x, scoring.metric, precision, stream)
        y_rows = x_rows if y is None else prepare(y, scoring.metric, precision, stream)
        dtype = computing_dtype(x)

        def scores(rows: slice, columns: slice) -> Tensor:
            block = torch.empty((size_of(rows), size_of(columns)), dtype=dtype, device=x.device)
            KERNELS.pairwise_scores(
                _scores(x_rows, y_rows.part(columns), scoring),
                False,
                ends(rows),
                part_of_matrix(block, rows.start, 0),
                stream,
            )
            return block

        # Choosing takes several times the memory of a block.
        chosen_from = (
            (rows, blocks(len(y_rows.data), _CHOSEN_FROM))
            for rows in bands_of_tiles(len(x), lambda _: 8 * _CHOSEN_FROM * dtype.itemsize)
        )
        return best(scores, chosen_from, x, y, k, scoring)
