"""InfoNCE and the sigmoid loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._addresses import address
from .._problems import ContrastiveProblem, Scoring, computing_dtype
from .._softmax import STATE, empty_state, gradient_side, statistics
from .._torch_engine.contrastive import mean_logits
from .kernels import KERNELS, Stream, Weights, band, bands, padded, running_on, size_of, tiles
from .rows import Rows, Side
from .scores import gradients_of_rectangle

if TYPE_CHECKING:
    from collections.abc import Callable

    from b2m_fast import _C


def _contrastive(
    problem: ContrastiveProblem,
    scale: Tensor,
    query: Rows,
    key: Rows,
    rows: slice = slice(0, None),
    columns: slice = slice(0, None),
) -> _C._Contrastive:
    """Arguments for prepared rows of some queries and some keys."""
    row, column = problem.row_label, problem.column_label
    return (
        query.arguments(),
        key.arguments(),
        query.precision.products,
        address(scale),
        address(None if row is None else row[rows]),
        address(None if column is None else column[columns]),
        int(columns.start - rows.start),
    )


def info_nce(
    problem: ContrastiveProblem, symmetric: bool, *, top1: bool, logit_mean: bool
) -> tuple[Tensor, Tensor | None]:
    """Statistics (6, n) of the rows and (6, m) of the columns; 0 where not wanted."""
    device, dtype = problem.query.device, computing_dtype(problem.query)
    n, m = len(problem.query), len(problem.key)
    row_state = empty_state(n, device)
    column_state = empty_state(m, device) if symmetric else None
    if not (n and m):
        return statistics(row_state, column_state, None, top1=top1)
    means = None
    scoring, scale = Scoring(problem.metric), problem.logit_scale.to(torch.float64)
    with running_on(device) as stream:
        query = Side(problem.query, scoring, stream).rows
        key = Side(problem.key, scoring, stream).rows
        if logit_mean:
            means = mean_logits(query.values(), key.values(), scale)
        arguments = _contrastive(problem, scale, query, key)
        # Of each row and tile across, and of each column and tile down.
        quantities = STATE if top1 or problem.row_label is not None else 2
        across = quantities * tiles(m)
        for rows in bands(n, lambda _: 2 * across * dtype.itemsize):
            size = across * padded(size_of(rows), KERNELS.TILE)
            partials = torch.empty((2, size), dtype=dtype, device=device)
            KERNELS.softmax_statistics(
                arguments,
                band(rows),
                top1,
                address(row_state),
                address(column_state),
                address(partials[0]),
                address(partials[1]),
                stream,
            )
    return statistics(row_state, column_state, means, top1=top1)


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
    column_side: Tensor | None = None
    if columns is not None and column_weight is not None:
        column_side = gradient_side(columns, column_weight, n, label_smoothing, dtype)

    def launch(
        arguments: _C._Contrastive,
        own: slice,
        block: slice,
        weights: Weights,
        partials: Tensor,
        stream: Stream,
    ) -> None:
        of_rows = row_side[:, own].contiguous()
        of_columns = None if column_side is None else column_side[:, block].contiguous()
        KERNELS.softmax_weights(
            arguments,
            (0, size_of(own)),
            address(of_rows),
            address(of_columns),
            weights.arguments(),
            address(partials),
            stream,
        )

    dquery, dkey, (dscale,) = _contrastive_gradients(problem, launch, 1, wanted)
    return dquery, dkey, dscale


def _contrastive_gradients(
    problem: ContrastiveProblem,
    launch: Callable[[_C._Contrastive, slice, slice, Weights, Tensor, Stream], None],
    scalar_gradients: int,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Gradients of query, key and some scalars, each the sum of a partial sum of every tile."""
    scoring, scale = Scoring(problem.metric), problem.logit_scale.to(torch.float64)
    sums = torch.zeros(scalar_gradients, dtype=torch.float64, device=problem.query.device)
    with running_on(problem.query.device) as stream:

        def side(of: Tensor) -> Side:
            return Side(of, scoring, stream, gradient=True)

        def weigh(own: Side, others: Side, rows: slice, columns: slice) -> Tensor:
            weights = Weights(rows, columns, own.products)
            partials = sums.new_empty(len(sums), tiles(size_of(rows)), tiles(size_of(columns)))
            key = others.rows.part(columns)
            arguments = _contrastive(problem, scale, own.rows, key, rows, columns)
            launch(arguments, rows, columns, weights, partials, stream)
            sums.add_(partials.sum(dim=(1, 2)))
            return weights.values

        dquery, dkey = gradients_of_rectangle(
            problem.query, side, side(problem.key), weigh, wanted, scale
        )
    return dquery, dkey, sums


def sigmoid_contrastive(problem: ContrastiveProblem, logit_bias: Tensor) -> Tensor:
    """Loss of every row, (n,) float64."""
    n, m, device = len(problem.query), len(problem.key), problem.query.device
    losses = torch.zeros(n, dtype=torch.float64, device=device)
    if not (n and m):
        return losses
    bias, scale = logit_bias.to(torch.float64), problem.logit_scale.to(torch.float64)
    with running_on(device) as stream:
        query, key = (
            Side(x, Scoring(problem.metric), stream).rows for x in (problem.query, problem.key)
        )
        arguments = _contrastive(problem, scale, query, key)
        for rows in bands(n, lambda _: tiles(m) * losses.itemsize):
            partials = losses.new_empty(tiles(m), padded(size_of(rows), KERNELS.TILE))
            KERNELS.sigmoid_losses(
                arguments, address(bias), band(rows), address(losses), address(partials), stream
            )
    return losses


def sigmoid_contrastive_backward(
    problem: ContrastiveProblem, logit_bias: Tensor, row_weight: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
    """Gradients of query, key, logit_scale and logit_bias."""
    bias = logit_bias.to(torch.float64)
    weight = row_weight.to(computing_dtype(problem.query))

    def launch(
        arguments: _C._Contrastive,
        own: slice,
        _block: slice,
        weights: Weights,
        partials: Tensor,
        stream: Stream,
    ) -> None:
        KERNELS.sigmoid_weights(
            arguments,
            address(bias),
            (0, size_of(own)),
            address(weight[own]),
            weights.arguments(),
            address(partials),
            stream,
        )

    dquery, dkey, (dscale, dbias) = _contrastive_gradients(problem, launch, 2, wanted)
    return dquery, dkey, dscale, dbias
