"""Scores of all pairs, and the best of each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from .._addresses import matrix, part_of_matrix
from .._problems import METRICS, Scoring, computing_dtype, condensed_start
from .._rows import mean_row
from .._torch_engine.scores import best
from . import kernels
from .kernels import KERNELS, Stream, Weights, band, bands, blocks, padded, running_on, size_of
from .rows import Rows, Side, gradient_of, precision_of, prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    from b2m_fast import _C

    from .._products import GradientSums

    Weigh: TypeAlias = Callable[[Side, Side, slice, slice], Tensor]

# Columns of a block of scores from which the best are chosen.
_CHOSEN_FROM = 2**12


def _scores(x: Rows, y: Rows, scoring: Scoring) -> _C._Scores:
    metric = METRICS[scoring.metric]
    return x.arguments(), y.arguments(), x.precision.products, metric, scoring.gamma


def pairwise(x: Tensor, y: Tensor | None, scoring: Scoring, condensed: bool, out: Tensor) -> None:
    """Write all scores to `out`: (n, m), or (n(n-1)/2,) if condensed."""
    if out.numel() == 0:
        return
    with running_on(x.device) as stream:
        x_rows = Side(x, scoring, stream).rows
        y_rows = x_rows if y is None else Side(y, scoring, stream).rows
        problem = _scores(x_rows, y_rows, scoring)
        if out.device == x.device:
            KERNELS.pairwise_scores(problem, condensed, (0, len(x)), matrix(out), stream)
        else:
            _write_elsewhere(problem, condensed, x_rows, y_rows, out, stream)


def _write_elsewhere(
    problem: _C._Scores, condensed: bool, x: Rows, y: Rows, out: Tensor, stream: Stream
) -> None:
    """Write all scores to memory that the device does not reach, a band at a time."""
    n, m = len(x.data), len(y.data)
    like = x.data.new_empty(0, dtype=torch.float64 if out.dtype == torch.float64 else torch.float32)
    for rows in bands(n, lambda _: m * like.itemsize):
        if condensed:
            own = slice(condensed_start(rows.start, m), condensed_start(rows.stop, m))
            block = like.new_empty(size_of(own))
            to = part_of_matrix(block, 0, own.start)
        else:
            own = rows
            block = like.new_empty(size_of(own), m)
            to = part_of_matrix(block, own.start, 0)
        KERNELS.pairwise_scores(problem, condensed, band(rows), to, stream)
        out[own] = block.to(out.device)


def pairwise_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    scoring: Scoring,
    condensed: bool,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and y; None where not wanted."""
    center = None if scoring.bilinear else mean_row(x if y is None or not len(y) else y)
    with running_on(x.device) as stream:

        def side(of: Tensor) -> Side:
            return Side(of, scoring, stream, center=center, gradient=True)

        if y is None:
            return _gradient_with_itself(grad, side(x), condensed=condensed), None

        def weigh(own: Side, others: Side, rows: slice, columns: slice) -> Tensor:
            return _full_weights(grad[rows, columns], own, others, slice(0, size_of(rows)), columns)

        return gradients_of_rectangle(x, side, side(y), weigh, wanted, None)


def _gradient_with_itself(grad: Tensor, own: Side, *, condensed: bool) -> Tensor:
    """Gradient of rows in both roles."""
    sums, n, itemsize = own.sums(), len(own.x), own.products.itemsize
    for rows in bands(n, lambda begin: (n - begin if condensed else n) * itemsize):
        if condensed:
            columns = slice(rows.start, n)
            weights = _condensed_weights(grad, own, rows)
        else:
            columns = slice(0, n)
            weights = _full_weights(grad[rows], own, own, rows, columns)
        sums.add(rows, weights, own.products[columns])
        sums.add(columns, weights.T, own.products[rows])
    dx = gradient_of(own.x)
    own.write(sums, dx)
    return dx


def _condensed_weights(grad: Tensor, own: Side, rows: slice) -> Tensor:
    """Gradient weights dL/draw of a band with all items from its first on."""
    weights = Weights(rows, slice(rows.start, len(own.x)), own.products)
    weights.clear_below_diagonal()
    problem = _scores(own.rows, own.rows, own.scoring)
    KERNELS.pairwise_weights(
        problem, True, band(rows), matrix(grad), weights.arguments(), own.stream
    )
    return weights.values


def _full_weights(grad: Tensor, own: Side, others: Side, rows: slice, columns: slice) -> Tensor:
    """Gradient weights dL/draw of some rows of a side with some of the others, from dL/dscore."""
    if own.scoring.bilinear:  # the weights are the gradient
        return grad.to(own.products.dtype).contiguous()
    weights = Weights(rows, columns, own.products)
    problem = _scores(own.rows.part(rows), others.rows.part(columns), own.scoring)
    KERNELS.pairwise_weights(
        problem, False, (0, len(grad)), matrix(grad), weights.arguments(), own.stream
    )
    return weights.values


def gradients_of_rectangle(
    x: Tensor,
    side: Callable[[Tensor], Side],
    others: Side,
    weigh: Weigh,
    wanted: tuple[bool, bool],
    factor: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the rows x and of the others, from their weights in blocks.

    Only a band of x is there in prepared form at a time, and memory of one thing is given back
    before that of the next is taken.
    """
    dx = gradient_of(x) if wanted[0] else None
    sums = others.sums() if wanted[1] else None
    if dx is not None and not len(others.x):
        dx.zero_()
    for rows in bands(len(x), lambda _: _width(len(others.x)) * others.products.itemsize):
        _add_band(
            side(x[rows]), others, rows, weigh, None if dx is None else dx[rows], sums, factor
        )
    others.release()
    if sums is None:
        return dx, None
    dy = gradient_of(others.x)
    others.write(sums, dy, factor)
    return dx, dy


def _width(columns: int) -> int:
    """Columns of a block of gradient weights."""
    return min(padded(max(columns, 1), KERNELS.TILE), kernels.COLUMNS)


def _add_band(
    own: Side,
    others: Side,
    rows: slice,
    weigh: Weigh,
    dx: Tensor | None,
    sums: GradientSums | None,
    factor: Tensor | None,
) -> None:
    """Write the gradient of a band of rows, and add its share of that of the others."""
    own_sums = None if dx is None else own.sums()
    for columns in blocks(len(others.x), _width(len(others.x))):
        weights = weigh(own, others, rows, columns)
        if own_sums is not None:
            own_sums.add(slice(None), weights, others.products[columns])
        if sums is not None:
            sums.add(columns, weights.T, own.products)
    if own_sums is not None and dx is not None:
        own.write(own_sums, dx, factor)


def topk(x: Tensor, y: Tensor | None, k: int, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Values (n, k) in float64 and indices (n, k) of the best keys of each row."""
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
                band(rows),
                part_of_matrix(block, rows.start, 0),
                stream,
            )
            return block

        # Choosing takes several times the memory of a block.
        chosen_from = (
            (rows, blocks(len(y_rows.data), _CHOSEN_FROM))
            for rows in bands(len(x), lambda _: 8 * _CHOSEN_FROM * dtype.itemsize)
        )
        return best(scores, chosen_from, x, y, k, scoring)
