"""The compiled engine as functions of tensors: allocation, addresses and strides, nothing else.

The one file that takes addresses of tensors and calls the extension. Shapes and dtypes are checked
before (`_validate`); autograd and torch.compile are added after (`_library`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from b2m_fast import _C

METRICS = _C.METRICS
BILINEAR = ("dot", "cosine", "correlation")
DISTANCES = ("euclidean", "sqeuclidean")

_DTYPES = {getattr(torch, name): code for name, code in _C.DTYPES.items()}

_Matrix = tuple[int, int, int, int, int, int]


def _matrix(x: Tensor) -> _Matrix:
    """Address, dtype, sizes and strides; a vector counts as a matrix of one row."""
    rows, columns = (1, x.shape[0]) if x.ndim == 1 else (x.shape[0], x.shape[1])
    row_stride, column_stride = (0, x.stride(0)) if x.ndim == 1 else (x.stride(0), x.stride(1))
    return address(x), _DTYPES[x.dtype], rows, columns, row_stride, column_stride


def _maybe_matrix(x: Tensor | None) -> _Matrix | None:
    return None if x is None else _matrix(x)


def address(x: Tensor | None) -> int:
    """Address of the first element; 0 for None."""
    if x is None:
        return 0
    pointer = x.data_ptr()
    if pointer == 0 and x.numel() > 0:
        raise RuntimeError(f"a tensor of shape {tuple(x.shape)} has no memory (fake, or freed)")
    return pointer


def _doubles(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64)


class Scoring(NamedTuple):
    """How two rows are scored: a name of `METRICS`, and gamma for "rbf"."""

    metric: str
    gamma: float = 0.0


# ----------------------------------------------------------------------------------- pairwise scores


def pairwise(x: Tensor, y: Tensor | None, scoring: Scoring, condensed: bool, out: Tensor) -> None:
    """Write all scores to `out`: (n, m), or (n(n-1)/2,) if condensed."""
    _C.pairwise_forward(
        _matrix(x),
        _maybe_matrix(y),
        METRICS[scoring.metric],
        scoring.gamma,
        _C.LAYOUTS["condensed" if condensed else "full"],
        _matrix(out),
        torch.get_num_threads(),
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
    dx = torch.empty(x.shape, dtype=x.dtype) if wanted[0] else None
    dy = torch.empty(y.shape, dtype=y.dtype) if wanted[1] and y is not None else None
    _C.pairwise_backward(
        _matrix(x),
        _maybe_matrix(y),
        METRICS[scoring.metric],
        scoring.gamma,
        _C.LAYOUTS["condensed" if condensed else "full"],
        _matrix(grad),
        _maybe_matrix(dx),
        _maybe_matrix(dy),
        torch.get_num_threads(),
    )
    return dx, dy


def pair_list(x: Tensor, i: Tensor, j: Tensor, scoring: Scoring) -> Tensor:
    """Scores of the pairs (i[p], j[p]), in float64."""
    i, j = i.contiguous(), j.contiguous()
    out = _doubles(len(i))
    _C.pair_list_forward(
        _matrix(x),
        address(i),
        address(j),
        len(i),
        METRICS[scoring.metric],
        scoring.gamma,
        address(out),
        torch.get_num_threads(),
    )
    return out


def pair_list_backward(grad: Tensor, x: Tensor, i: Tensor, j: Tensor, scoring: Scoring) -> Tensor:
    """Gradient of x of the same."""
    i, j = i.contiguous(), j.contiguous()
    grad = grad.to(torch.float64).contiguous()
    dx = torch.empty(x.shape, dtype=x.dtype)
    _C.pair_list_backward(
        _matrix(x),
        address(i),
        address(j),
        len(i),
        METRICS[scoring.metric],
        scoring.gamma,
        address(grad),
        _matrix(dx),
        torch.get_num_threads(),
    )
    return dx


def topk(x: Tensor, y: Tensor | None, k: int, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Values (n, k) in float64 and indices (n, k) of the best keys of each row."""
    values = _doubles(len(x), k)
    indices = torch.empty((len(x), k), dtype=torch.int64)
    _C.topk(
        _matrix(x),
        _maybe_matrix(y),
        METRICS[scoring.metric],
        scoring.gamma,
        k,
        address(values),
        address(indices),
        torch.get_num_threads(),
    )
    return values, indices


def self_scores(x: Tensor, scoring: Scoring) -> Tensor:
    """score(x_i, x_i) of every row, (n,) float64."""
    out = _doubles(len(x))
    _C.self_scores(
        _matrix(x), METRICS[scoring.metric], scoring.gamma, address(out), torch.get_num_threads()
    )
    return out


# ----------------------------------------------------------------------------------- contrastive


class ContrastiveProblem(NamedTuple):
    """Queries (n, d), keys (m, d), and which pairs are positive: equal labels, or i == j."""

    query: Tensor
    key: Tensor
    metric: str
    logit_scale: float
    row_label: Tensor | None  # (n,) int32
    column_label: Tensor | None  # (m,) int32

    def arguments(self) -> tuple[_Matrix, _Matrix, int, float]:
        """What every function of the extension takes first."""
        return _matrix(self.query), _matrix(self.key), METRICS[self.metric], self.logit_scale

    def labels(self) -> tuple[int, int]:
        """Addresses of the labels."""
        return address(self.row_label), address(self.column_label)


#: Rows of the statistics `info_nce` returns for a direction: see csrc/include/b2m/contrastive.h.
STATISTICS = (
    "negative_lse",
    "positive_lse",
    "positive_mean",
    "positive_count",
    "logit_mean",
    "top1",
)


def info_nce(
    problem: ContrastiveProblem, symmetric: bool, top1: bool
) -> tuple[Tensor, Tensor | None]:
    """Statistics (6, n) of the rows and (6, m) of the columns; the last row is unset without top1."""
    top1 = top1 and len(problem.query) > 0  # without queries nothing can come first
    rows = _doubles(len(STATISTICS), len(problem.query))
    columns = _doubles(len(STATISTICS), len(problem.key)) if symmetric else None
    if not top1:
        rows[-1] = 0
        if columns is not None:
            columns[-1] = 0
    _C.info_nce_forward(
        *problem.arguments(),
        *problem.labels(),
        address(rows),
        address(columns),
        top1,
        torch.get_num_threads(),
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
    dquery = torch.empty(problem.query.shape, dtype=problem.query.dtype) if wanted[0] else None
    dkey = torch.empty(problem.key.shape, dtype=problem.key.dtype) if wanted[1] else None
    if not (len(problem.query) and len(problem.key)):
        return _zeroed(dquery), _zeroed(dkey), 0.0
    dscale = _C.info_nce_backward(
        *problem.arguments(),
        *problem.labels(),
        address(rows),
        address(columns),
        address(row_weight),
        address(column_weight),
        label_smoothing,
        _maybe_matrix(dquery),
        _maybe_matrix(dkey),
        torch.get_num_threads(),
    )
    return dquery, dkey, dscale


def sigmoid_contrastive(problem: ContrastiveProblem, logit_bias: float) -> Tensor:
    """Loss of every row, (n,) float64."""
    row_loss = _doubles(len(problem.query))
    _C.sigmoid_forward(
        *problem.arguments(),
        logit_bias,
        *problem.labels(),
        address(row_loss),
        torch.get_num_threads(),
    )
    return row_loss


def sigmoid_contrastive_backward(
    problem: ContrastiveProblem, logit_bias: float, row_weight: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None, float, float]:
    """Gradients of query, key, logit_scale and logit_bias."""
    dquery = torch.empty(problem.query.shape, dtype=problem.query.dtype) if wanted[0] else None
    dkey = torch.empty(problem.key.shape, dtype=problem.key.dtype) if wanted[1] else None
    if not (len(problem.query) and len(problem.key)):
        return _zeroed(dquery), _zeroed(dkey), 0.0, 0.0
    dscale, dbias = _C.sigmoid_backward(
        *problem.arguments(),
        logit_bias,
        *problem.labels(),
        address(row_weight),
        _maybe_matrix(dquery),
        _maybe_matrix(dkey),
        torch.get_num_threads(),
    )
    return dquery, dkey, dscale, dbias


# ----------------------------------------------------------------------------------- comparisons


class Similarities(NamedTuple):
    """One side of a comparison: patterns (n, d), a matrix (n, n), or a condensed vector."""

    data: Tensor
    kind: str  # "patterns", "matrix" or "condensed"
    scoring: Scoring

    def arguments(self) -> tuple[int, _Matrix, int, float]:
        """What the extension takes for it."""
        return (
            _C.KINDS[self.kind],
            _matrix(self.data),
            METRICS[self.scoring.metric],
            self.scoring.gamma,
        )


class Comparison(NamedTuple):
    """Scores c and t of the pairs i < j of `items` items, with weights w or None."""

    items: int
    c: Similarities
    t: Similarities
    w: Similarities | None

    def arguments(
        self,
    ) -> tuple[
        int,
        tuple[int, _Matrix, int, float],
        tuple[int, _Matrix, int, float],
        tuple[int, _Matrix, int, float] | None,
    ]:
        """What every function of the extension takes first."""
        w = None if self.w is None else self.w.arguments()
        return self.items, self.c.arguments(), self.t.arguments(), w


class PairMoments(NamedTuple):
    """Sums over the pairs i < j of the shifted scores c' = c - c_shift and t' = t - t_shift."""

    w: float
    wc: float
    wt: float
    wcc: float
    wtt: float
    wct: float
    c_shift: float
    t_shift: float
    c_row: Tensor  # (n,): sum of c'_ij over j != i; empty if not asked for
    t_row: Tensor


def pair_moments(comparison: Comparison, *, shifted: bool, row_sums: bool) -> PairMoments:
    """First and second moments; `shifted` by a typical score, so that centred ones do not cancel."""
    threads = torch.get_num_threads()
    shifts = (0.0, 0.0)
    if shifted:
        shifts = (
            _C.typical_score(comparison.c.arguments(), comparison.items, threads),
            _C.typical_score(comparison.t.arguments(), comparison.items, threads),
        )
    c_row = _doubles(comparison.items if row_sums else 0)
    t_row = torch.empty_like(c_row)
    addresses = (address(c_row), address(t_row)) if row_sums else (0, 0)
    sums = _C.pair_moments(*comparison.arguments(), *shifts, *addresses, threads)
    return PairMoments(*sums, *shifts, c_row, t_row)


def squared_difference(
    comparison: Comparison, *, atanh: bool, epsilon: float
) -> tuple[float, float]:
    """Sum of w and of w (F(c) - F(t))^2, F the identity or Fisher's z."""
    result: tuple[float, float] = _C.squared_difference(
        *comparison.arguments(),
        _C.TRANSFORMS["atanh" if atanh else "identity"],
        epsilon,
        torch.get_num_threads(),
    )
    return result


def linear_backward(
    comparison: Comparison,
    coefficients: tuple[float, float, float, float, float],
    per_item: Tensor | None,
    diagonal: Tensor | None,
) -> Tensor:
    """Gradient of the patterns of c; coefficients: c_shift, t_shift, constant, of_c, of_t."""
    patterns = comparison.c.data
    gradient = torch.empty(patterns.shape, dtype=patterns.dtype)
    _C.linear_backward(
        *comparison.arguments(),
        coefficients,
        address(per_item),
        address(diagonal),
        _matrix(gradient),
        torch.get_num_threads(),
    )
    return gradient


def atanh_backward(comparison: Comparison, epsilon: float, factor: float) -> Tensor:
    """Gradient of the patterns of c of factor * sum w (F(c) - F(t))^2."""
    patterns = comparison.c.data
    gradient = torch.empty(patterns.shape, dtype=patterns.dtype)
    _C.atanh_backward(
        *comparison.arguments(), epsilon, factor, _matrix(gradient), torch.get_num_threads()
    )
    return gradient


def count_inversions(values: Tensor) -> int:
    """Count the pairs of positions p < q with values[p] > values[q]; (p,) float64."""
    values = values.clone()
    scratch = torch.empty_like(values)
    count: int = _C.count_inversions(address(values), address(scratch), len(values))
    return count
