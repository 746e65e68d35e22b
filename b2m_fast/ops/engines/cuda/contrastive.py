"""InfoNCE and the sigmoid loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..._types import Contrastive, Direction, Scoring, computing_dtype
from ..cpu import address
from ..rows import STATE, empty_states, gradient_quantities, size_of, statistics
from ..torch.contrastive import mean_logits
from .kernels import KERNELS, Stream, Weights, bands_of_tiles, ends, padded, running_on, tiles
from .rows import Operand, Rows
from .scores import gradients_of_rectangle

if TYPE_CHECKING:
    from collections.abc import Callable

    from b2m_fast import _C

    #: Starts the kernel of a block: its arguments, rows, columns, weights and partial sums.
    Launch = Callable[[_C._Contrastive, slice, slice, Weights, Tensor, Stream], None]


def _kernel_arguments(
    arguments: Contrastive,
    scale: Tensor,
    query: Rows,
    key: Rows,
    rows: slice = slice(0, None),
    columns: slice = slice(0, None),
) -> _C._Contrastive:
    """Return what the kernels take for prepared rows of some queries and some keys."""
    row, column = arguments.row_label, arguments.column_label
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
    arguments: Contrastive, symmetric: bool, *, top1: bool, logit_mean: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the statistics (6, n) of the rows and (6, m) of the columns; 0 if not asked for."""
    device, dtype = arguments.query.device, computing_dtype(arguments.query)
    n, m = len(arguments.query), len(arguments.key)
    row_state, column_state = empty_states(arguments, symmetric=symmetric)
    if not (n and m):
        return statistics(row_state, column_state, None, top1=top1)
    means = None
    scoring, scale = Scoring(arguments.metric), arguments.logit_scale.to(torch.float64)
    with running_on(device) as stream:
        query = Operand(arguments.query, scoring, stream).rows
        key = Operand(arguments.key, scoring, stream).rows
        if logit_mean:
            means = mean_logits(query.values(), key.values(), scale)
        given = _kernel_arguments(arguments, scale, query, key)
        # Of each row and tile across, and of each column and tile down.
        quantities = STATE if top1 or arguments.row_label is not None else 2
        across = quantities * tiles(m)
        for rows in bands_of_tiles(n, lambda _: 2 * across * dtype.itemsize):
            size = across * padded(size_of(rows), KERNELS.TILE)
            partials = torch.empty((2, size), dtype=dtype, device=device)
            KERNELS.softmax_statistics(
                given,
                ends(rows),
                top1,
                address(row_state),
                address(column_state),
                address(partials[0]),
                address(partials[1]),
                stream,
            )
    return statistics(row_state, column_state, means, top1=top1)


def info_nce_backward(
    arguments: Contrastive,
    rows: Direction,
    columns: Direction | None,
    label_smoothing: float,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Return the gradients of query, key and logit_scale."""
    all_rows, all_columns = gradient_quantities(arguments, rows, columns, label_smoothing)

    def launch(
        given: _C._Contrastive,
        rows: slice,
        columns: slice,
        weights: Weights,
        partials: Tensor,
        stream: Stream,
    ) -> None:
        of_rows = all_rows[:, rows].contiguous()
        of_columns = None if all_columns is None else all_columns[:, columns].contiguous()
        KERNELS.softmax_weights(
            given,
            (0, size_of(rows)),
            address(of_rows),
            address(of_columns),
            weights.arguments(),
            address(partials),
            stream,
        )

    dquery, dkey, (dscale,) = _gradients(arguments, launch, 1, needed)
    return dquery, dkey, dscale


def _gradients(
    arguments: Contrastive, launch: Launch, scalar_gradients: int, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Return the gradients of query, key and some scalars, each a sum of partial sums of tiles."""
    scoring, scale = Scoring(arguments.metric), arguments.logit_scale.to(torch.float64)
    sums = torch.zeros(scalar_gradients, dtype=torch.float64, device=arguments.query.device)
    with running_on(arguments.query.device) as stream:

        def operand(x: Tensor) -> Operand:
            return Operand(x, scoring, stream, gradient=True)

        def weigh(query: Operand, key: Operand, rows: slice, columns: slice) -> Tensor:
            weights = Weights(rows, columns, query.values)
            partials = sums.new_empty(len(sums), tiles(size_of(rows)), tiles(size_of(columns)))
            key_rows = key.rows.part(columns)
            given = _kernel_arguments(arguments, scale, query.rows, key_rows, rows, columns)
            launch(given, rows, columns, weights, partials, stream)
            sums.add_(partials.sum(dim=(1, 2)))
            return weights.values

        dquery, dkey = gradients_of_rectangle(
            arguments.query, operand, operand(arguments.key), weigh, needed, scale
        )
    return dquery, dkey, sums


def sigmoid_contrastive(arguments: Contrastive, logit_bias: Tensor) -> Tensor:
    """Return the loss of every row, (n,) float64."""
    n, m, device = len(arguments.query), len(arguments.key), arguments.query.device
    losses = torch.zeros(n, dtype=torch.float64, device=device)
    if not (n and m):
        return losses
    bias, scale = logit_bias.to(torch.float64), arguments.logit_scale.to(torch.float64)
    scoring = Scoring(arguments.metric)
    with running_on(device) as stream:
        query, key = (Operand(x, scoring, stream).rows for x in (arguments.query, arguments.key))
        given = _kernel_arguments(arguments, scale, query, key)
        for rows in bands_of_tiles(n, lambda _: tiles(m) * losses.itemsize):
            partials = losses.new_empty(tiles(m), padded(size_of(rows), KERNELS.TILE))
            KERNELS.sigmoid_losses(
                given, address(bias), ends(rows), address(losses), address(partials), stream
            )
    return losses


def sigmoid_contrastive_backward(
    arguments: Contrastive, logit_bias: Tensor, row_weight: Tensor, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
    """Return the gradients of query, key, logit_scale and logit_bias."""
    bias = logit_bias.to(torch.float64)
    weight = row_weight.to(computing_dtype(arguments.query))

    def launch(
        given: _C._Contrastive,
        rows: slice,
        _columns: slice,
        weights: Weights,
        partials: Tensor,
        stream: Stream,
    ) -> None:
        KERNELS.sigmoid_weights(
            given,
            address(bias),
            (0, size_of(rows)),
            address(weight[rows]),
            weights.arguments(),
            address(partials),
            stream,
        )

    dquery, dkey, (dscale, dbias) = _gradients(arguments, launch, 2, needed)
    return dquery, dkey, dscale, dbias
