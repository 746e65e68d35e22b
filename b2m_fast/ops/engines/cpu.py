"""The compiled CPU engine: allocation, addresses and strides, nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from b2m_fast import _C

from .._types import (
    STATISTICS,
    Coefficients,
    Comparison,
    Contrastive,
    Direction,
    PairMoments,
    Scalar,
    Scoring,
    Similarities,
)

# ------------------------------------------------------------------------ addresses

# The one place where the addresses of tensors are taken, for this engine and for the CUDA kernels.

DTYPES = {getattr(torch, name): code for name, code in _C.DTYPES.items()}

#: Address, dtype, rows, columns, row stride, column stride (strides in elements).
Matrix = tuple[int, int, int, int, int, int]


def address(x: Tensor | None) -> int:
    """Return the address of the first element; 0 for None."""
    if x is None:
        return 0
    pointer = x.data_ptr()
    if pointer == 0 and x.numel() > 0:
        raise RuntimeError(f"a tensor of shape {tuple(x.shape)} has no memory (fake, or freed)")
    return pointer


def matrix(x: Tensor) -> Matrix:
    """Describe a matrix; a vector counts as a matrix of one row."""
    rows, columns = (1, x.shape[0]) if x.ndim == 1 else (x.shape[0], x.shape[1])
    row_stride, column_stride = (0, x.stride(0)) if x.ndim == 1 else (x.stride(0), x.stride(1))
    return address(x), DTYPES[x.dtype], rows, columns, row_stride, column_stride


def maybe_matrix(x: Tensor | None) -> Matrix | None:
    """Describe a matrix that may be absent."""
    return None if x is None else matrix(x)


def part_of_matrix(part: Tensor, row: int, column: int) -> Matrix:
    """Describe the matrix of which `part` is all there is, beginning at (row, column).

    Nothing outside the part may be read or written.
    """
    start, dtype, rows, columns, row_stride, column_stride = matrix(part)
    start -= (row * row_stride + column * column_stride) * part.element_size()
    return start, dtype, row + rows, column + columns, row_stride, column_stride


# ------------------------------------------------------------------------ settings


def scalar(x: Tensor) -> float:
    """Return a number as formulas over results take it."""
    return x.item()


def _executor() -> tuple[int, int]:
    """Return the threads, and what float32 products may lose: PyTorch's settings."""
    return torch.get_num_threads(), _C.PRECISIONS[torch.get_float32_matmul_precision()]


def _metric(scoring: Scoring) -> tuple[int, float]:
    return _C.METRICS[scoring.metric], scoring.gamma


def _layout(condensed: bool) -> int:
    return _C.LAYOUTS["condensed" if condensed else "full"]


def _doubles(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64, device="cpu")  # whatever the default device


def _gradient_of(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return memory for a gradient, contiguous."""
    return torch.empty(x.shape, dtype=dtype or x.dtype, device="cpu")


# ------------------------------------------------------------------------ pairwise scores


def pairwise(x: Tensor, y: Tensor | None, scoring: Scoring, condensed: bool, out: Tensor) -> None:
    """Write all scores to `out`."""
    layout = _layout(condensed)
    _C.pairwise_forward(
        matrix(x), maybe_matrix(y), *_metric(scoring), layout, matrix(out), _executor()
    )


def pairwise_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    scoring: Scoring,
    condensed: bool,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of x and y."""
    dx = _gradient_of(x) if needed[0] else None
    dy = _gradient_of(y) if needed[1] and y is not None else None
    _C.pairwise_backward(
        matrix(x),
        maybe_matrix(y),
        *_metric(scoring),
        _layout(condensed),
        matrix(grad),
        maybe_matrix(dx),
        maybe_matrix(dy),
        _executor(),
    )
    return dx, dy


def pair_list(x: Tensor, i: Tensor, j: Tensor, scoring: Scoring) -> Tensor:
    """Return the scores of the pairs (i[p], j[p]), in float64."""
    i, j = i.contiguous(), j.contiguous()
    out = _doubles(len(i))
    metric, gamma = _metric(scoring)
    _C.pair_list_forward(
        matrix(x), address(i), address(j), len(i), metric, gamma, address(out), _executor()
    )
    return out


def pair_list_backward(grad: Tensor, x: Tensor, i: Tensor, j: Tensor, scoring: Scoring) -> Tensor:
    """Return the gradient of x from that of the listed scores."""
    i, j = i.contiguous(), j.contiguous()
    grad = grad.to(torch.float64).contiguous()
    dx = _gradient_of(x)
    _C.pair_list_backward(
        matrix(x),
        address(i),
        address(j),
        len(i),
        *_metric(scoring),
        address(grad),
        matrix(dx),
        _executor(),
    )
    return dx


def topk(x: Tensor, y: Tensor | None, k: int, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Return values (n, k) in float64 and indices (n, k) of the best keys of each row."""
    values = _doubles(len(x), k)
    indices = torch.empty((len(x), k), dtype=torch.int64, device="cpu")
    best = address(values), address(indices)
    _C.topk(matrix(x), maybe_matrix(y), *_metric(scoring), k, *best, _executor())
    return values, indices


def self_scores(x: Tensor, scoring: Scoring) -> Tensor:
    """Return score(x_i, x_i) of every row, (n,) float64."""
    out = _doubles(len(x))
    _C.self_scores(matrix(x), *_metric(scoring), address(out), _executor())
    return out


def add_cross_products(sums: Tensor, a: Tensor, b: Tensor | None) -> None:
    """Add a' b to `sums` (p, q), float64 and contiguous; a' a if b is None."""
    _C.add_cross_products(matrix(a), maybe_matrix(b), address(sums), _executor())


def sum_of_products(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """Return a x + b y."""
    out = torch.empty((len(a), x.shape[1]), dtype=a.dtype, device="cpu")
    _C.sum_of_products(matrix(a), matrix(x), matrix(b), matrix(y), matrix(out), _executor())
    return out


def scaled_rows(x: Tensor, center: Tensor | None, metric: str, factor: Tensor, out: Tensor) -> None:
    """Write factor times the rows of x, minus a center and prepared for a metric, to `out`."""
    code = _C.METRICS[metric]
    _C.scaled_rows(matrix(x), address(center), code, float(factor), matrix(out), _executor())


def scaled_rows_backward(
    grad: Tensor, x: Tensor, center: Tensor | None, metric: str, factor: Tensor
) -> tuple[Tensor, float]:
    """Return the gradients of x, in the dtype of `grad`, and of factor."""
    dx = _gradient_of(x, grad.dtype)
    dfactor = _C.scaled_rows_backward(
        matrix(grad),
        matrix(x),
        address(center),
        _C.METRICS[metric],
        float(factor),
        matrix(dx),
        _executor(),
    )
    return dx, dfactor


# ------------------------------------------------------------------------ contrastive


def _sides(arguments: Contrastive) -> tuple[Matrix, Matrix, int, float]:
    query, key, scale, _, _, metric = arguments
    return matrix(query), matrix(key), _C.METRICS[metric], float(scale)


def _labels(arguments: Contrastive) -> tuple[int, int]:
    return address(arguments.row_label), address(arguments.column_label)


def info_nce(
    arguments: Contrastive, symmetric: bool, *, top1: bool, logit_mean: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the statistics (6, n) of the rows and (6, m) of the columns."""
    del logit_mean  # costs next to nothing
    query, key = arguments.query, arguments.key
    top1 = top1 and len(query) > 0  # without queries nothing can come first
    rows = _doubles(len(STATISTICS), len(query))
    columns = _doubles(len(STATISTICS), len(key)) if symmetric else None
    if not top1:
        rows[-1] = 0
        if columns is not None:
            columns[-1] = 0
    _C.info_nce_forward(
        *_sides(arguments),
        *_labels(arguments),
        address(rows),
        address(columns),
        top1,
        _executor(),
    )
    return rows, columns


def info_nce_backward(
    arguments: Contrastive,
    rows: Direction,
    columns: Direction | None,
    label_smoothing: float,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None, float]:
    """Return the gradients of query, key and logit_scale."""
    dquery, dkey = _gradients_of(arguments, needed)
    if not (len(arguments.query) and len(arguments.key)):
        return dquery, dkey, 0.0
    column_statistics, column_weight = columns or (None, None)
    dscale = _C.info_nce_backward(
        *_sides(arguments),
        *_labels(arguments),
        address(rows.statistics),
        address(column_statistics),
        address(rows.weight),
        address(column_weight),
        label_smoothing,
        maybe_matrix(dquery),
        maybe_matrix(dkey),
        _executor(),
    )
    return dquery, dkey, dscale


def _gradients_of(
    arguments: Contrastive, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return memory for the gradients of query and key; zeros if one of the two is empty."""
    query, key = arguments.query, arguments.key
    make = _gradient_of if len(query) and len(key) else torch.zeros_like
    return make(query) if needed[0] else None, make(key) if needed[1] else None


def sigmoid_contrastive(arguments: Contrastive, logit_bias: Tensor) -> Tensor:
    """Return the loss of every row, (n,) float64."""
    losses = _doubles(len(arguments.query))
    bias, labels = float(logit_bias), _labels(arguments)
    _C.sigmoid_forward(*_sides(arguments), bias, *labels, address(losses), _executor())
    return losses


def sigmoid_contrastive_backward(
    arguments: Contrastive, logit_bias: Tensor, row_weight: Tensor, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None, float, float]:
    """Return the gradients of query, key, logit_scale and logit_bias."""
    dquery, dkey = _gradients_of(arguments, needed)
    if not (len(arguments.query) and len(arguments.key)):
        return dquery, dkey, 0.0, 0.0
    dscale, dbias = _C.sigmoid_backward(
        *_sides(arguments),
        float(logit_bias),
        *_labels(arguments),
        address(row_weight),
        maybe_matrix(dquery),
        maybe_matrix(dkey),
        _executor(),
    )
    return dquery, dkey, dscale, dbias


# ------------------------------------------------------------------------ comparisons

_Side = tuple[int, Matrix, int, float]


def _side(side: Similarities) -> _Side:
    return _C.KINDS[side.kind], matrix(side.data), *_metric(side.scoring)


def _comparison(comparison: Comparison) -> tuple[int, _Side, _Side, _Side | None]:
    w = None if comparison.w is None else _side(comparison.w)
    return comparison.items, _side(comparison.c), _side(comparison.t), w


def typical_scores(comparison: Comparison) -> tuple[float, float]:
    """Return the score that those of c, and of t, lie around."""
    items, c, t, _ = _comparison(comparison)
    executor = _executor()
    return _C.typical_score(c, items, executor), _C.typical_score(t, items, executor)


def pair_moments(
    comparison: Comparison, shifts: tuple[Scalar, Scalar], *, row_sums: bool
) -> PairMoments:
    """Return first and second moments of scores minus shifts."""
    c_shift, t_shift = float(shifts[0]), float(shifts[1])
    c_row = _doubles(comparison.items if row_sums else 0)
    t_row = torch.empty_like(c_row)
    addresses = (address(c_row), address(t_row)) if row_sums else (0, 0)
    sums = _C.pair_moments(*_comparison(comparison), c_shift, t_shift, *addresses, _executor())
    return PairMoments(*sums, c_shift, t_shift, c_row, t_row)


def mean_squared_difference(
    comparison: Comparison, *, atanh: bool, epsilon: float, with_gradient: bool
) -> tuple[float, Tensor | None]:
    """Return the mean of (F(c) - F(t))^2 under w, and its gradient."""
    gradient = _gradient_of(comparison.c.data, comparison.dtype) if with_gradient else None
    mean = _C.mean_squared_difference(
        *_comparison(comparison),
        _C.TRANSFORMS["atanh" if atanh else "identity"],
        epsilon,
        maybe_matrix(gradient),
        _executor(),
    )
    return mean, gradient


def linear_gradient(
    comparison: Comparison,
    coefficients: Coefficients,
    per_item: Tensor | None,
    diagonal: Tensor | None,
) -> Tensor:
    """Return the gradient of the patterns of c."""
    c_shift, t_shift, constant, c_factor, t_factor = map(float, coefficients)
    gradient = _gradient_of(comparison.c.data, comparison.dtype)
    _C.linear_gradient(
        *_comparison(comparison),
        (c_shift, t_shift, constant, c_factor, t_factor),
        address(per_item),
        address(diagonal),
        matrix(gradient),
        _executor(),
    )
    return gradient


def count_inversions(values: Tensor) -> int:
    """Count the pairs of positions p < q with values[p] > values[q]; (p,) float64."""
    values = values.clone()
    scratch = torch.empty_like(values)
    count: int = _C.count_inversions(address(values), address(scratch), len(values))
    return count
