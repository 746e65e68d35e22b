"""The CUDA kernels: workspaces, launches band by band, and the matrix products of gradients.

The kernels (csrc/include/b2m/cuda.h) turn rows into scores and scores into sums or into gradient
weights G. Rows are handled in bands, so that G and every other workspace stay bounded; torch
multiplies G with the rows. Rows are prepared again in each backward pass: a pass over n d values,
against keeping up to 10 bytes a value from one pass to the next. Both passes prepare them by the
same kernel, so that scores round alike.

Nothing here waits for the device or depends on a value, so all of it can be captured in a CUDA
graph. Listed pairs and the choice of the best keys have no kernels: plain torch (`_torch_engine`).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from b2m_fast import _C

from ._addresses import DTYPES, Matrix, address, matrix, part_of_matrix
from ._problems import (
    METRICS,
    NORMALISED,
    Coefficients,
    Comparison,
    ContrastiveProblem,
    PairMoments,
    Scoring,
    Similarities,
    computing_dtype,
    condensed_start,
)
from ._products import GradientSums
from ._rows import mean_row
from ._scalars import Scalar, to_tensor, to_vector
from ._softmax import STATE, empty_state, gradient_side, statistics
from ._torch_engine import (
    StoredScores,
    best,
    mean_logits,
    pair_list,
    pair_list_backward,
    scalar,
    scalars,
    self_scores,
    typical_score,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "atanh_backward",
    "info_nce",
    "info_nce_backward",
    "linear_backward",
    "pair_list",
    "pair_list_backward",
    "pair_moments",
    "pairwise",
    "pairwise_backward",
    "scalar",
    "scalars",
    "self_scores",
    "sigmoid_contrastive",
    "sigmoid_contrastive_backward",
    "squared_difference",
    "topk",
]

# A submodule that is there in builds with kernels only.
_KERNELS = cast("_C._Kernels", getattr(_C, "cuda", None))

#: Bytes a workspace may take, but for a band of the fewest rows (one tile).
WORKSPACE = 2**28

#: Columns a block of gradient weights has at most.
COLUMNS = 2**15

# Columns of a block of scores from which the best are chosen.
_CHOSEN_FROM = 2**12


def on_devices() -> bool:
    """Whether this build has kernels for CUDA devices (and not for tests on the host)."""
    return _C.build_info()["cuda"] not in {"no", "emulated"}


def emulated() -> bool:
    """Whether this build has the kernels as host code, for tests: they take CPU tensors."""
    return _C.build_info()["cuda"] == "emulated"


_Stream = tuple[int, int]


@contextlib.contextmanager
def _on(device: torch.device) -> Iterator[_Stream]:
    """Make the device current; yields it with its current stream."""
    if device.type != "cuda":
        yield 0, 0
        return
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream(device)
        yield stream.device_index, stream.cuda_stream


# ----------------------------------------------------------------------------------- precision


class _Precision(NamedTuple):
    """What scores are computed in: `parts` bfloat16 numbers a value, `products` of them summed."""

    arithmetic: str  # "bfloat16", "float32" or "float64"
    parts: int = 1
    products: int = 1


# Parts and products of bilinear scores on tensor cores, all sums in float32: relative error about
# 2^-9 (1, 1), 2^-17 (2, 3), 2^-24 (3, 6). float32 as `torch.get_float32_matmul_precision()` says.
# The last for every dtype: Fisher's z, for rounding must not carry a similarity past 1 + epsilon; and
# the choice of the best keys, whose result is compared by equality.
_TENSOR_CORES = {
    torch.bfloat16: _Precision("bfloat16", 1, 1),
    torch.float16: _Precision("bfloat16", 2, 3),
    "highest": _Precision("bfloat16", 3, 6),
    "high": _Precision("bfloat16", 2, 3),
    "medium": _Precision("bfloat16", 1, 1),
}


def _precision(dtype: torch.dtype, *, bilinear: bool, exact: bool = False) -> _Precision:
    """Precision of scores of rows of a dtype; distances, and float64, are multiplied one by one."""
    if dtype == torch.float64:
        return _Precision("float64")
    if not bilinear:
        return _Precision("float32")
    if exact:
        return _TENSOR_CORES["highest"]
    if dtype == torch.float32:
        return _TENSOR_CORES[torch.get_float32_matmul_precision()]
    return _TENSOR_CORES[dtype]


_ROW_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


# ----------------------------------------------------------------------------------- prepared rows


def _padded(count: int, step: int) -> int:
    return -(-count // step) * step


def _tiles(count: int) -> int:
    return -(-count // _KERNELS.TILE)


class _Rows(NamedTuple):
    """Rows as the kernels multiply them: (count, parts * depth)."""

    data: Tensor
    precision: _Precision
    inverse_norm: Tensor | None

    def part(self, own: slice) -> _Rows:
        """Some of the rows."""
        norm = self.inverse_norm
        return _Rows(self.data[own], self.precision, None if norm is None else norm[own])

    def values(self) -> Tensor:
        """Parts of the rows (count, parts, depth), the rows being their sums."""
        return self.data.view(len(self.data), self.precision.parts, -1)

    def arguments(self) -> _C._Rows:
        """What the kernels take: address, arithmetic, count, depth, parts."""
        count, width = self.data.shape
        arithmetic, parts, _ = self.precision
        return (
            address(self.data),
            _KERNELS.ARITHMETICS[arithmetic],
            count,
            width // parts,
            parts,
        )


def _prepare(
    x: Tensor, metric: str, precision: _Precision, stream: _Stream, center: Tensor | None = None
) -> _Rows:
    depth = x.shape[1]
    if precision.arithmetic == "bfloat16":
        depth = _padded(depth, _KERNELS.DEPTH_STEP)
    dtype = _ROW_DTYPES[precision.arithmetic]
    data = torch.empty((len(x), precision.parts * depth), dtype=dtype, device=x.device)
    norm = None
    if metric in NORMALISED:
        norm = torch.empty(len(x), dtype=torch.float64, device=x.device)
    rows = _Rows(data, precision, norm)
    if len(x):
        _KERNELS.prepare_rows(
            matrix(x), METRICS[metric], address(center), rows.arguments(), address(norm), stream
        )
    return rows


class _Side:
    """Rows of one side, prepared for scores and, where a gradient is wanted, for its products."""

    def __init__(
        self,
        x: Tensor,
        scoring: Scoring,
        stream: _Stream,
        *,
        precision: _Precision | None = None,
        center: Tensor | None = None,
        gradient: bool = False,
    ) -> None:
        self.x, self.scoring, self.stream = x, scoring, stream
        self.precision = precision or _precision(x.dtype, bilinear=scoring.bilinear)
        self.rows = _prepare(x, scoring.metric, self.precision, stream)
        self.products = self._products(center) if gradient else self.rows.data[:0]

    def _products(self, center: Tensor | None) -> Tensor:
        """Rows (n, d) to multiply gradient weights with: bfloat16 for bfloat16, else exact.

        Of distances measured from a center, for little to cancel.
        """
        tensor_cores = self.precision.arithmetic == "bfloat16"
        if center is None and (self.x.dtype == torch.bfloat16 or not tensor_cores):
            return self.rows.data[:, : self.x.shape[1]]
        exact = _Precision("float64" if self.x.dtype == torch.float64 else "float32")
        return _prepare(self.x, self.scoring.metric, exact, self.stream, center).data

    def sums(self, own: slice = slice(None)) -> GradientSums:
        return GradientSums(self.products[own], differences=not self.scoring.bilinear)

    def write(
        self,
        sums: GradientSums,
        out: Tensor,
        own: slice = slice(None),
        factor: Tensor | None = None,
    ) -> None:
        """Write the gradient of rows of x to rows of `out`."""
        x, to, norm = self.x[own], out[own], self.rows.part(own).inverse_norm
        gradient = sums.gradient()
        if len(x):
            _KERNELS.finish_rows(
                matrix(gradient),
                matrix(x),
                METRICS[self.scoring.metric],
                0,
                address(norm),
                address(factor),
                matrix(to),
                self.stream,
            )


def _gradient_of(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


# ----------------------------------------------------------------------------------- bands


def _bands(count: int, bytes_of_row: Callable[[int], int]) -> Iterator[slice]:
    """Bands of rows whose workspaces fit; they begin at multiples of a tile."""
    begin, tile = 0, _KERNELS.TILE
    while begin < count:
        rows = max(1, WORKSPACE // max(bytes_of_row(begin), 1) // tile) * tile
        end = min(begin + rows, count)
        yield slice(begin, end)
        begin = end


def _band(rows: slice) -> tuple[int, int]:
    return rows.start, rows.stop


def _blocks(count: int, step: int) -> Iterator[slice]:
    for begin in range(0, count, step):
        yield slice(begin, min(begin + step, count))


def _size(own: slice) -> int:
    return int(own.stop - own.start)


class _Weights:
    """Gradient weights of a band and a block of columns, padded to whole tiles."""

    def __init__(self, rows: slice, columns: slice, like: Tensor) -> None:
        tile = _KERNELS.TILE
        shape = (_padded(_size(rows), tile), _padded(_size(columns), tile))
        self.data = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.values = self.data[: _size(rows), : _size(columns)]

    def clear_below_diagonal(self) -> None:
        """Tiles below the diagonal of a band are not written."""
        self.data[:, : len(self.data)] = 0

    def arguments(self) -> _C._Weights:
        """What the kernels take: address, dtype, stride."""
        return address(self.data), DTYPES[self.data.dtype], self.data.stride(0)


# ----------------------------------------------------------------------------------- pairwise scores


def _scores(x: _Rows, y: _Rows, scoring: Scoring) -> _C._Scores:
    metric = METRICS[scoring.metric]
    return x.arguments(), y.arguments(), x.precision.products, metric, scoring.gamma


def pairwise(x: Tensor, y: Tensor | None, scoring: Scoring, condensed: bool, out: Tensor) -> None:
    """Write all scores to `out`: (n, m), or (n(n-1)/2,) if condensed."""
    if out.numel() == 0:
        return
    with _on(x.device) as stream:
        x_rows = _Side(x, scoring, stream).rows
        y_rows = x_rows if y is None else _Side(y, scoring, stream).rows
        problem = _scores(x_rows, y_rows, scoring)

        def write(rows: slice, to: Matrix) -> None:
            _KERNELS.pairwise_scores(problem, condensed, _band(rows), to, stream)

        if out.device == x.device:
            write(slice(0, len(x)), matrix(out))
            return
        m = len(y_rows.data)
        dtype = computing_dtype(x)
        for rows in _bands(len(x), lambda _: m * dtype.itemsize):
            if condensed:
                pairs = slice(condensed_start(rows.start, m), condensed_start(rows.stop, m))
                block = torch.empty(_size(pairs), dtype=dtype, device=x.device)
                write(rows, part_of_matrix(block, 0, pairs.start))
                out[pairs] = block.to(out.device)
            else:
                block = torch.empty((_size(rows), m), dtype=dtype, device=x.device)
                write(rows, part_of_matrix(block, rows.start, 0))
                out[rows] = block.to(out.device)


def pairwise_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    scoring: Scoring,
    condensed: bool,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and y; None where not wanted."""
    dx = _gradient_of(x) if wanted[0] else None
    dy = _gradient_of(y) if wanted[1] and y is not None else None
    center = None if scoring.bilinear else mean_row(x if y is None or not len(y) else y)
    with _on(x.device) as stream:
        x_side = _Side(x, scoring, stream, center=center, gradient=True)
        if y is None:
            x_sums = x_side.sums()
            for rows, columns, weights in _score_weights(grad, x_side, x_side, condensed=condensed):
                x_sums.add(rows, weights, x_side.products[columns])
                x_sums.add(columns, weights.T, x_side.products[rows])
            if dx is not None:
                x_side.write(x_sums, dx)
            return dx, None
        y_side = _Side(y, scoring, stream, center=center, gradient=True)
        _rectangle(
            x_side, y_side, _score_weights(grad, x_side, y_side, condensed=False), (dx, dy), None
        )
    return dx, dy


def _score_weights(
    grad: Tensor, x_side: _Side, y_side: _Side, *, condensed: bool
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Gradient weights dL/draw from dL/dscore, by bands and blocks of columns."""
    scoring, like = x_side.scoring, x_side.products
    n, m = len(x_side.x), len(y_side.x)
    if condensed:
        problem = _scores(x_side.rows, y_side.rows, scoring)
        for rows in _bands(n, lambda begin: (n - begin) * like.itemsize):
            columns = slice(rows.start, n)
            weights = _Weights(rows, columns, like)
            weights.clear_below_diagonal()
            _KERNELS.pairwise_weights(
                problem, True, _band(rows), matrix(grad), weights.arguments(), x_side.stream
            )
            yield rows, columns, weights.values
        return
    for rows, columns in _rectangles(n, m, like.itemsize):
        part = grad[:, columns]
        if scoring.bilinear:  # the weights are the gradient
            yield rows, columns, part[rows].to(like.dtype).contiguous()
            continue
        weights = _Weights(rows, columns, like)
        _KERNELS.pairwise_weights(
            _scores(x_side.rows, y_side.rows.part(columns), scoring),
            False,
            _band(rows),
            matrix(part),
            weights.arguments(),
            x_side.stream,
        )
        yield rows, columns, weights.values


def _rectangles(n: int, m: int, itemsize: int) -> Iterator[tuple[slice, slice]]:
    """Bands of rows, and for each its blocks of columns."""
    width = min(_padded(m, _KERNELS.TILE), COLUMNS)
    for rows in _bands(n, lambda _: width * itemsize):
        for columns in _blocks(m, max(width, 1)):
            yield rows, columns


def _rectangle(
    row_side: _Side,
    column_side: _Side,
    blocks: Iterator[tuple[slice, slice, Tensor]],
    out: tuple[Tensor | None, Tensor | None],
    factor: Tensor | None,
) -> None:
    """Write the gradients of two sides from blocks of weights, a band of rows after the other.

    The sums of a band's rows are written as soon as its last block is there.
    """
    for x in out:
        if x is not None and not (len(row_side.x) and len(column_side.x)):
            x.zero_()
    column_sums = None if out[1] is None else column_side.sums()
    row_sums: GradientSums | None = None
    m = len(column_side.x)
    for rows, columns, weights in blocks:
        if out[0] is not None:
            if row_sums is None:
                row_sums = row_side.sums(rows)
            row_sums.add(slice(None), weights, column_side.products[columns])
            if columns.stop == m:
                row_side.write(row_sums, out[0], rows, factor)
                row_sums = None
        if column_sums is not None:
            column_sums.add(columns, weights.T, row_side.products[rows])
    if out[1] is not None and column_sums is not None:
        column_side.write(column_sums, out[1], factor=factor)


def topk(x: Tensor, y: Tensor | None, k: int, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Values (n, k) in float64 and indices (n, k) of the best keys of each row."""
    with _on(x.device) as stream:
        precision = _precision(x.dtype, bilinear=scoring.bilinear, exact=True)
        x_rows = _prepare(x, scoring.metric, precision, stream)
        y_rows = x_rows if y is None else _prepare(y, scoring.metric, precision, stream)
        dtype = computing_dtype(x)

        def scores(rows: slice, columns: slice) -> Tensor:
            block = torch.empty((_size(rows), _size(columns)), dtype=dtype, device=x.device)
            _KERNELS.pairwise_scores(
                _scores(x_rows, y_rows.part(columns), scoring),
                False,
                _band(rows),
                part_of_matrix(block, rows.start, 0),
                stream,
            )
            return block

        # Choosing takes several times the memory of a block.
        bands = _bands(len(x), lambda _: 8 * _CHOSEN_FROM * dtype.itemsize)
        blocks = ((rows, _blocks(len(y_rows.data), _CHOSEN_FROM)) for rows in bands)
        return best(scores, blocks, x, y, k, scoring)


# ----------------------------------------------------------------------------------- contrastive


class _Contrastive:
    """Both sides of a contrastive problem and its scalars, as the kernels take them."""

    def __init__(self, problem: ContrastiveProblem, stream: _Stream, *, gradient: bool) -> None:
        scoring = Scoring(problem.metric)
        self.query = _Side(problem.query, scoring, stream, gradient=gradient)
        self.key = _Side(problem.key, scoring, stream, gradient=gradient)
        self.scale = problem.logit_scale.to(torch.float64)
        self.row_label, self.column_label = problem.row_label, problem.column_label
        self.stream = stream
        self.n, self.m = len(problem.query), len(problem.key)
        self.dtype = computing_dtype(problem.query)

    def arguments(self, columns: slice = slice(None)) -> _C._Contrastive:
        """What every kernel takes first."""
        label = self.column_label
        return (
            self.query.rows.arguments(),
            self.key.rows.part(columns).arguments(),
            self.query.precision.products,
            address(self.scale),
            address(self.row_label),
            address(None if label is None else label[columns]),
            columns.start or 0,
        )

    def blocks(
        self, launch: Callable[[slice, slice, _Weights, Tensor], None], sums: Tensor
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """Weights of the blocks that `launch` computes; sums[k] grows by its k-th partial sums."""
        for rows, columns in _rectangles(self.n, self.m, self.query.products.itemsize):
            weights = _Weights(rows, columns, self.query.products)
            partials = sums.new_empty(len(sums), _tiles(_size(rows)), _tiles(_size(columns)))
            launch(rows, columns, weights, partials)
            sums += partials.sum(dim=(1, 2))
            yield rows, columns, weights.values


def info_nce(
    problem: ContrastiveProblem, symmetric: bool, *, top1: bool, logit_mean: bool
) -> tuple[Tensor, Tensor | None]:
    """Statistics (6, n) of the rows and (6, m) of the columns; 0 where not wanted."""
    device = problem.query.device
    n, m = len(problem.query), len(problem.key)
    row_state = empty_state(n, device)
    column_state = empty_state(m, device) if symmetric else None
    means = None
    if n and m:
        with _on(device) as stream:
            sides = _Contrastive(problem, stream, gradient=False)
            if logit_mean:
                means = mean_logits(sides.query.rows.values(), sides.key.rows.values(), sides.scale)
            across = _tiles(m)
            for rows in _bands(n, lambda _: 2 * STATE * across * sides.dtype.itemsize):
                # A number for each row and tile across, and for each column and tile down.
                size = STATE * across * _padded(_size(rows), _KERNELS.TILE)
                partials = torch.empty((2, size), dtype=sides.dtype, device=device)
                _KERNELS.softmax_statistics(
                    sides.arguments(),
                    _band(rows),
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
        sides: _Contrastive, band: slice, block: slice, weights: _Weights, partials: Tensor
    ) -> None:
        of_block = None if column_side is None else column_side[:, block].contiguous()
        _KERNELS.softmax_weights(
            sides.arguments(block),
            _band(band),
            address(row_side),
            address(of_block),
            weights.arguments(),
            address(partials),
            sides.stream,
        )

    dquery, dkey, (dscale,) = _contrastive_gradients(problem, launch, 1, wanted)
    return dquery, dkey, dscale


def _contrastive_gradients(
    problem: ContrastiveProblem,
    launch: Callable[[_Contrastive, slice, slice, _Weights, Tensor], None],
    scalar_gradients: int,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Gradients of query, key and some scalars."""
    dquery = _gradient_of(problem.query) if wanted[0] else None
    dkey = _gradient_of(problem.key) if wanted[1] else None
    sums = torch.zeros(scalar_gradients, dtype=torch.float64, device=problem.query.device)
    with _on(problem.query.device) as stream:
        sides = _Contrastive(problem, stream, gradient=True)
        blocks = sides.blocks(lambda *block: launch(sides, *block), sums)
        _rectangle(sides.query, sides.key, blocks, (dquery, dkey), sides.scale)
    return dquery, dkey, sums


def sigmoid_contrastive(problem: ContrastiveProblem, logit_bias: Tensor) -> Tensor:
    """Loss of every row, (n,) float64."""
    n, m, device = len(problem.query), len(problem.key), problem.query.device
    losses = torch.zeros(n, dtype=torch.float64, device=device)
    bias = logit_bias.to(torch.float64)
    if n and m:
        with _on(device) as stream:
            sides = _Contrastive(problem, stream, gradient=False)
            for rows in _bands(n, lambda _: _tiles(m) * losses.itemsize):
                partials = losses.new_empty(_tiles(m), _padded(_size(rows), _KERNELS.TILE))
                _KERNELS.sigmoid_losses(
                    sides.arguments(),
                    address(bias),
                    _band(rows),
                    address(losses),
                    address(partials),
                    stream,
                )
    return losses


def sigmoid_contrastive_backward(
    problem: ContrastiveProblem, logit_bias: Tensor, row_weight: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
    """Gradients of query, key, logit_scale and logit_bias."""
    bias = logit_bias.to(torch.float64)
    weight = row_weight.to(computing_dtype(problem.query))

    def launch(
        sides: _Contrastive, band: slice, block: slice, weights: _Weights, partials: Tensor
    ) -> None:
        _KERNELS.sigmoid_weights(
            sides.arguments(block),
            address(bias),
            _band(band),
            address(weight),
            weights.arguments(),
            address(partials),
            sides.stream,
        )

    dquery, dkey, (dscale, dbias) = _contrastive_gradients(problem, launch, 2, wanted)
    return dquery, dkey, dscale, dbias


# ----------------------------------------------------------------------------------- comparisons


class _Pairs:
    """Both sides of a comparison, as the kernels take them band by band."""

    def __init__(
        self, comparison: Comparison, stream: _Stream, *, atanh: bool, gradient: bool = False
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

    def _precision(self, dtype: torch.dtype) -> _Precision:
        if self.comparison.dtype == torch.float64:
            return _Precision("float64")
        return _precision(dtype, bilinear=self.bilinear, exact=self.atanh)

    def _side(
        self, side: Similarities, center: Tensor | None, *, gradient: bool
    ) -> _Side | StoredScores:
        if side.kind != "patterns":
            return StoredScores(self.comparison, side)
        return _Side(
            side.data,
            side.scoring,
            self.stream,
            precision=self._precision(side.data.dtype),
            center=center,
            gradient=gradient,
        )

    def bands(self, bytes_of_pair: float) -> Iterator[slice]:
        """Bands of rows that take so much, and stored scores, a pair."""
        n, size = self.comparison.items, self.comparison.dtype.itemsize
        stored = sum(size for side in (self.c, self.t, self.w) if isinstance(side, StoredScores))
        return _bands(n, lambda begin: int((n - begin) * (bytes_of_pair + stored)) + 1)

    def arguments(self, rows: slice) -> _C._Pairs:
        """What every kernel takes first; valid until called for the next band."""
        self._stored: list[Tensor] = []
        c, t, w = (self._arguments(side, rows) for side in (self.c, self.t, self.w))
        return self.comparison.items, c, t, w

    def _arguments(self, side: _Side | StoredScores | None, rows: slice) -> _C._Side:
        if isinstance(side, _Side):
            metric, gamma = METRICS[side.scoring.metric], side.scoring.gamma
            return side.rows.arguments(), side.precision.products, metric, gamma, 0, 0
        arithmetic = self._precision(self.comparison.dtype).arithmetic
        nothing = (0, _KERNELS.ARITHMETICS[arithmetic], self.comparison.items, 0, 1)
        if side is None:
            return nothing, 1, 0, 0.0, 0, 0
        block = side(rows)
        if block.stride(1) != 1:
            block = block.contiguous()
        self._stored.append(block)
        return nothing, 1, 0, 0.0, address(block), block.stride(0)

    def partials(self, rows: slice, number: int) -> Tensor:
        """Room for so many sums of each tile of a band; those below the diagonal stay 0."""
        shape = (number, _tiles(_size(rows)), _tiles(self.comparison.items - rows.start))
        return torch.zeros(shape, dtype=torch.float64, device=self.comparison.device)


def squared_difference(
    comparison: Comparison, *, atanh: bool, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Sum of w and of w (F(c) - F(t))^2, F the identity or Fisher's z."""
    sums = torch.zeros(2, dtype=torch.float64, device=comparison.device)
    transform = _C.TRANSFORMS["atanh" if atanh else "identity"]
    with _on(comparison.device) as stream:
        pairs = _Pairs(comparison, stream, atanh=atanh)
        for rows in pairs.bands(2 * 8 / _KERNELS.TILE**2):
            partials = pairs.partials(rows, len(sums))
            _KERNELS.squared_difference(
                pairs.arguments(rows), _band(rows), transform, epsilon, address(partials), stream
            )
            sums += partials.sum(dim=(1, 2))
    weight, total = sums
    return weight, total


def pair_moments(comparison: Comparison, *, shifted: bool, row_sums: bool) -> PairMoments:
    """First and second moments; `shifted` by a typical score, so that centred ones do not cancel."""
    device, n, tile = comparison.device, comparison.items, _KERNELS.TILE
    shifts = torch.zeros(2, dtype=torch.float64, device=device)
    if shifted:
        shifts = torch.stack([typical_score(comparison, s) for s in (comparison.c, comparison.t)])
    sums = torch.zeros(6, dtype=torch.float64, device=device)
    rows_of = torch.zeros(2, n if row_sums else 0, dtype=torch.float64, device=device)
    with _on(device) as stream:
        pairs = _Pairs(comparison, stream, atanh=False)
        # Row sums: for c and t, a number for each row and tile across, and each column and tile down.
        for rows in pairs.bands(4 * 8 / tile if row_sums else 6 * 8 / tile**2):
            partials = pairs.partials(rows, len(sums))
            workspace = None
            if row_sums:
                size = 4 * _tiles(n - rows.start) * _padded(_size(rows), tile)
                workspace = torch.empty(size, dtype=torch.float64, device=device)
            _KERNELS.pair_moments(
                pairs.arguments(rows),
                _band(rows),
                address(shifts),
                address(partials),
                address(rows_of[0]) if row_sums else 0,
                address(rows_of[1]) if row_sums else 0,
                address(workspace),
                stream,
            )
            sums += partials.sum(dim=(1, 2))
    w, wc, wt, wcc, wtt, wct = sums
    c_shift, t_shift = shifts
    c_row, t_row = rows_of
    return PairMoments(w, wc, wt, wcc, wtt, wct, c_shift, t_shift, c_row, t_row)


def _pattern_gradient(
    comparison: Comparison,
    diagonal: Tensor | None,
    launch: Callable[[_C._Pairs, slice, _Weights, _Stream], None],
    *,
    atanh: bool,
) -> Tensor:
    """Gradient of the patterns of c from the weights of each band, all items meeting later ones."""
    n = comparison.items
    gradient = _gradient_of(comparison.c.data)
    with _on(comparison.device) as stream:
        pairs = _Pairs(comparison, stream, atanh=atanh, gradient=True)
        own = pairs.c
        if not isinstance(own, _Side):
            raise TypeError("stored scores have no patterns to send a gradient to")
        sums = own.sums()
        for rows in pairs.bands(own.products.itemsize):
            later = slice(rows.start, n)
            weights = _Weights(rows, later, own.products)
            weights.clear_below_diagonal()
            launch(pairs.arguments(rows), rows, weights, stream)
            sums.add(rows, weights.values, own.products[later])
            sums.add(later, weights.values.T, own.products[rows])
        if diagonal is not None and own.scoring.metric == "dot":  # d(x . x)/dx = 2 x
            twice = (2 * diagonal).to(sums.sums.dtype)[:, None]
            sums.sums.addcmul_(own.products.to(sums.sums.dtype), twice)
        own.write(sums, gradient)
    return gradient


def linear_backward(
    comparison: Comparison,
    coefficients: Coefficients,
    per_item: Tensor | None,
    diagonal: Tensor | None,
) -> Tensor:
    """Gradient of the patterns of c."""
    on_device = to_vector(coefficients, comparison.device)
    item = None if per_item is None else per_item.contiguous()

    def launch(problem: _C._Pairs, rows: slice, weights: _Weights, stream: _Stream) -> None:
        _KERNELS.linear_weights(
            problem, _band(rows), address(on_device), address(item), weights.arguments(), stream
        )

    return _pattern_gradient(comparison, diagonal, launch, atanh=False)


def atanh_backward(comparison: Comparison, epsilon: float, factor: Scalar) -> Tensor:
    """Gradient of the patterns of c of factor * sum w (F(c) - F(t))^2."""
    on_device = to_tensor(factor, torch.float64, comparison.device)

    def launch(problem: _C._Pairs, rows: slice, weights: _Weights, stream: _Stream) -> None:
        _KERNELS.atanh_weights(
            problem, _band(rows), epsilon, address(on_device), weights.arguments(), stream
        )

    return _pattern_gradient(comparison, None, launch, atanh=True)
