"""The compiled CPU engine: allocation, addresses and strides, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from b2m_fast import _C

from ._addresses import Matrix, address, matrix, maybe_matrix
from ._problems import (
    METRICS,
    STATISTICS,
    Coefficients,
    Comparison,
    ContrastiveProblem,
    PairMoments,
    Scoring,
    Similarities,
)

if TYPE_CHECKING:
    from ._scalars import Scalar


def scalar(x: Tensor) -> float:
    """Return a number as formulas over results take it."""
    return x.item()


def _executor() -> tuple[int, int]:
    """Threads, and what float32 products may lose: PyTorch's settings."""
    return torch.get_num_threads(), _C.PRECISIONS[torch.get_float32_matmul_precision()]


def _doubles(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64, device="cpu")  # whatever the default device


def _as(x: Tensor) -> Tensor:
    """Memory for a gradient, contiguous."""
    return torch.empty(x.shape, dtype=x.dtype, device="cpu")


# ----------------------------------------------------------------------------------- pairwise scores


def pairwise(x: Tensor, y: Tensor | None, scoring: Scoring, condensed: bool, out: Tensor) -> None:
    """Write all scores to `out`: (n, m), or (n(n-1)/2,) if condensed."""
    _C.pairwise_forward(
        matrix(x),
        maybe_matrix(y),
        METRICS[scoring.metric],
        scoring.gamma,
        _C.LAYOUTS["condensed" if condensed else "full"],
        matrix(out),
        _executor(),
    )


def pairwise_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    scoring: Scoring,
    condensed: bool,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and y; None where not wanted."""
    dx = _as(x) if wanted[0] else None
    dy = _as(y) if wanted[1] and y is not None else None
    _C.pairwise_backward(
        matrix(x),
        maybe_matrix(y),
        METRICS[scoring.metric],
        scoring.gamma,
        _C.LAYOUTS["condensed" if condensed else "full"],
        matrix(grad),
        maybe_matrix(dx),
        maybe_matrix(dy),
        _executor(),
    )
    return dx, dy


def pair_list(x: Tensor, i: Tensor, j: Tensor, scoring: Scoring) -> Tensor:
    """Scores of the pairs (i[p], j[p]), in float64."""
    i, j = i.contiguous(), j.contiguous()
    out = _doubles(len(i))
    _C.pair_list_forward(
        matrix(x),
        address(i),
        address(j),
        len(i),
        METRICS[scoring.metric],
        scoring.gamma,
        address(out),
        _executor(),
    )
    return out


def pair_list_backward(grad: Tensor, x: Tensor, i: Tensor, j: Tensor, scoring: Scoring) -> Tensor:
    """Gradient of x of the same."""
    i, j = i.contiguous(), j.contiguous()
    grad = grad.to(torch.float64).contiguous()
    dx = _as(x)
    _C.pair_list_backward(
        matrix(x),
        address(i),
        address(j),
        len(i),
        METRICS[scoring.metric],
        scoring.gamma,
        address(grad),
        matrix(dx),
        _executor(),
    )
    return dx


def topk(x: Tensor, y: Tensor | None, k: int, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Values (n, k) in float64 and indices (n, k) of the best keys of each row."""
    values = _doubles(len(x), k)
    indices = torch.empty((len(x), k), dtype=torch.int64, device="cpu")
    _C.topk(
        matrix(x),
        maybe_matrix(y),
        METRICS[scoring.metric],
        scoring.gamma,
        k,
        address(values),
        address(indices),
        _executor(),
    )
    return values, indices


def self_scores(x: Tensor, scoring: Scoring) -> Tensor:
    """score(x_i, x_i) of every row, (n,) float64."""
    out = _doubles(len(x))
    _C.self_scores(matrix(x), METRICS[scoring.metric], scoring.gamma, address(out), _executor())
    return out


def add_cross_products(sums: Tensor, a: Tensor, b: Tensor | None) -> None:
    """Add a' b to `sums` (p, q), float64 and contiguous, for rows a (n, p) and b (n, q) or a again."""
    _C.add_cross_products(matrix(a), maybe_matrix(b), address(sums), _executor())


def sum_of_products(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """Return a x + b y."""
    out = torch.empty((len(a), x.shape[1]), dtype=a.dtype, device="cpu")
    _C.sum_of_products(matrix(a), matrix(x), matrix(b), matrix(y), matrix(out), _executor())
    return out


def scaled_rows(x: Tensor, center: Tensor | None, metric: str, factor: Tensor, out: Tensor) -> None:
    """Write factor times the rows of x, minus a center and prepared for a bilinear metric, to `out`."""
    _C.scaled_rows(
        matrix(x), address(center), METRICS[metric], float(factor), matrix(out), _executor()
    )


def scaled_rows_backward(
    grad: Tensor, x: Tensor, center: Tensor | None, metric: str, factor: Tensor
) -> tuple[Tensor, float]:
    """Gradients of x, in the dtype of `grad`, and of factor from that of `out`."""
    dx = torch.empty(x.shape, dtype=grad.dtype, device="cpu")
    dfactor = _C.scaled_rows_backward(
        matrix(grad),
        matrix(x),
        address(center),
        METRICS[metric],
        float(factor),
        matrix(dx),
        _executor(),
    )
    return dx, dfactor


# ----------------------------------------------------------------------------------- contrastive


def _problem(problem: ContrastiveProblem) -> tuple[Matrix, Matrix, int, float]:
    return (
        matrix(problem.query),
        matrix(problem.key),
        METRICS[problem.metric],
        float(problem.logit_scale),
    )


def _labels(problem: ContrastiveProblem) -> tuple[int, int]:
    return address(problem.row_label), address(problem.column_label)


def info_nce(
    problem: ContrastiveProblem, symmetric: bool, *, top1: bool, logit_mean: bool
) -> tuple[Tensor, Tensor | None]:
    """Statistics (6, n) of the rows and (6, m) of the columns; top1 is 0 where not wanted."""
    del logit_mean  # costs next to nothing
    top1 = top1 and len(problem.query) > 0  # without queries nothing can come first
    rows = _doubles(len(STATISTICS), len(problem.query))
    columns = _doubles(len(STATISTICS), len(problem.key)) if symmetric else None
    if not top1:
        rows[-1] = 0
        if columns is not None:
            columns[-1] = 0
    _C.info_nce_forward(
        *_problem(problem),
        *_labels(problem),
        address(rows),
        address(columns),
        top1,
        _executor(),
    )
    return rows, columns


def _zeroed(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.zero_()


def info_nce_backward(
    problem: ContrastiveProblem,
    rows: Tensor,
    columns: Tensor | None,
    row_weight: Tensor,
    column_weight: Tensor | None,
    label_smoothing: float,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None, float]:
    """Gradients of query, key and logit_scale; weights are the float64 gradients of the losses."""
    dquery = _as(problem.query) if wanted[0] else None
    dkey = _as(problem.key) if wanted[1] else None
    if not (len(problem.query) and len(problem.key)):
        return _zeroed(dquery), _zeroed(dkey), 0.0
    dscale = _C.info_nce_backward(
        *_problem(problem),
        *_labels(problem),
        address(rows),
        address(columns),
        address(row_weight),
        address(column_weight),
        label_smoothing,
        maybe_matrix(dquery),
        maybe_matrix(dkey),
        _executor(),
    )
    return dquery, dkey, dscale


def sigmoid_contrastive(problem: ContrastiveProblem, logit_bias: Tensor) -> Tensor:
    """Loss of every row, (n,) float64."""
    row_loss = _doubles(len(problem.query))
    _C.sigmoid_forward(
        *_problem(problem),
        float(logit_bias),
        *_labels(problem),
        address(row_loss),
        _executor(),
    )
    return row_loss


def sigmoid_contrastive_backward(
    problem: ContrastiveProblem, logit_bias: Tensor, row_weight: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None, float, float]:
    """Gradients of query, key, logit_scale and logit_bias."""
    dquery = _as(problem.query) if wanted[0] else None
    dkey = _as(problem.key) if wanted[1] else None
    if not (len(problem.query) and len(problem.key)):
        return _zeroed(dquery), _zeroed(dkey), 0.0, 0.0
    dscale, dbias = _C.sigmoid_backward(
        *_problem(problem),
        float(logit_bias),
        *_labels(problem),
        address(row_weight),
        maybe_matrix(dquery),
        maybe_matrix(dkey),
        _executor(),
    )
    return dquery, dkey, dscale, dbias


# ----------------------------------------------------------------------------------- comparisons


def _side(side: Similarities) -> tuple[int, Matrix, int, float]:
    scoring = side.scoring
    return _C.KINDS[side.kind], matrix(side.data), METRICS[scoring.metric], scoring.gamma


def _comparison(
    comparison: Comparison,
) -> tuple[
    int,
    tuple[int, Matrix, int, float],
    tuple[int, Matrix, int, float],
    tuple[int, Matrix, int, float] | None,
]:
    w = None if comparison.w is None else _side(comparison.w)
    return comparison.items, _side(comparison.c), _side(comparison.t), w


def _pattern_gradient(comparison: Comparison) -> Tensor:
    """Memory for the gradient of the patterns of c, in the dtype of the computation."""
    return torch.empty(comparison.c.data.shape, dtype=comparison.dtype, device="cpu")


def typical_scores(comparison: Comparison) -> tuple[float, float]:
    """Score that those of c, and of t, lie around: what moments are best shifted by."""
    executor = _executor()
    return (
        _C.typical_score(_side(comparison.c), comparison.items, executor),
        _C.typical_score(_side(comparison.t), comparison.items, executor),
    )


def pair_moments(
    comparison: Comparison, shifts: tuple[Scalar, Scalar], *, row_sums: bool
) -> PairMoments:
    """First and second moments of scores minus shifts (numbers of the computing dtype)."""
    c_shift, t_shift = float(shifts[0]), float(shifts[1])
    c_row = _doubles(comparison.items if row_sums else 0)
    t_row = torch.empty_like(c_row)
    addresses = (address(c_row), address(t_row)) if row_sums else (0, 0)
    sums = _C.pair_moments(*_comparison(comparison), c_shift, t_shift, *addresses, _executor())
    return PairMoments(*sums, c_shift, t_shift, c_row, t_row)


def mean_squared_difference(
    comparison: Comparison, *, atanh: bool, epsilon: float, with_gradient: bool
) -> tuple[float, Tensor | None]:
    """Mean of (F(c) - F(t))^2 under w, F the identity or Fisher's z, and its gradient."""
    gradient = _pattern_gradient(comparison) if with_gradient else None
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
    """Gradient of the patterns of c."""
    c_shift, t_shift, constant, of_c, of_t = coefficients
    gradient = _pattern_gradient(comparison)
    _C.linear_gradient(
        *_comparison(comparison),
        (float(c_shift), float(t_shift), float(constant), float(of_c), float(of_t)),
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
