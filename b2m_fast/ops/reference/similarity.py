"""Similarities, kernels and distances of the rows of matrices."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    Out = TypeVar("Out", Tensor, npt.NDArray[np.floating[Any]])

# A centred norm below this many rounding errors of the mean that was subtracted is rounding error.
ROUNDING_ERRORS = 8

# Rows of x whose differences from y exist at the same time.
_ROWS_AT_ONCE = 64


def computing_dtype(x: Tensor) -> torch.dtype:
    """Return float64 for float64 input and float32 for every other input.

    Parameters
    ----------
    x
        Input of any float dtype.

    Returns
    -------
    torch.dtype
        The dtype in which the op computes, and that of the losses.

    Examples
    --------
    >>> computing_dtype(torch.zeros(1, dtype=torch.bfloat16))
    torch.float32
    """
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def similarity_matrix(x: Tensor, y: Tensor, metric: str, gamma: float | Tensor | None) -> Tensor:
    """Return the matrix s_ij = metric(x_i, y_j) in the dtype of x; see `pairwise_similarity`.

    Parameters
    ----------
    x
        (n, d), float32 or float64.
    y
        (m, d), same dtype.
    metric
        A name of `METRICS`.
    gamma
        Width of "rbf", 1/d if None.

    Returns
    -------
    Tensor
        (n, m).

    Examples
    --------
    >>> similarity_matrix(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), "euclidean", None)
    tensor([[5.]])
    """
    formula = formula_of(metric)
    if formula.prepare is not None:
        return formula.prepare(x) @ formula.prepare(y).T
    # Differences, never |x|^2 + |y|^2 - 2 x.y: equal rows are at distance exactly 0, and patterns
    # far from the origin keep their digits.
    return torch.cat(
        [
            formula.of_difference(rows[:, None, :] - y[None, :, :], gamma)
            for rows in torch.split(x, _ROWS_AT_ONCE)
        ]
    )


def pairwise_similarity(
    x: Tensor,
    y: Tensor | None = None,
    *,
    metric: str = "cosine",
    gamma: float | Tensor | None = None,
    condensed: bool = False,
    out: Out | None = None,
) -> Tensor | Out:
    """Score every row of x against every row of y.

    ==============  ========================================================
    dot             x.y
    cosine          x.y / (|x| |y|)
    correlation     cosine of the rows less their own means
    rbf             exp(-gamma |x - y|^2)
    euclidean       |x - y|
    sqeuclidean     |x - y|^2
    ==============  ========================================================

    Parameters
    ----------
    x
        (n, d), any float dtype.
    y
        (m, d), same dtype; None for x itself.
    metric
        A row of the table.
    gamma
        Width of "rbf", 1/d if None, as in scikit-learn.
    condensed
        Return only the pairs i < j in row-major order, as `scipy.spatial.distance.pdist` does;
        needs y=None.
    out
        Tensor or NumPy array, memory maps included, that receives the scores; no gradient.

    Returns
    -------
    Tensor or array
        (n, m), or (n(n-1)/2,) if condensed, in the dtype of x; `out` if that was given.

    Notes
    -----
    A row of norm zero has cosine and correlation 0 with every row, and gradient 0. For correlation
    the norm of a centred row is zero if it is at most 8 eps sqrt(d) |mean of the row|, with eps of
    the computing dtype: a constant row less its rounded mean leaves rounding errors of that size.
    The gradient of the euclidean distance at distance 0 is 0.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    >>> pairwise_similarity(x, condensed=True)
    tensor([0.0000, 0.7071, 0.7071])
    >>> pairwise_similarity(x, metric="sqeuclidean")
    tensor([[ 0.,  5., 13.],
            [ 5.,  0., 10.],
            [13., 10.,  0.]])
    """
    rows = x.to(computing_dtype(x))
    other_rows = rows if y is None else y.to(rows.dtype)
    scores = similarity_matrix(rows, other_rows, metric, gamma)
    if condensed:
        scores = upper_triangle(scores)
    if out is None:
        return scores.to(x.dtype)
    if isinstance(out, Tensor):
        return out.copy_(scores.detach())
    out[...] = scores.detach().cpu().numpy()
    return out


def pair_similarity(
    x: Tensor,
    i: Tensor,
    j: Tensor,
    *,
    metric: str = "cosine",
    gamma: float | Tensor | None = None,
) -> Tensor:
    """Score listed pairs of rows: s_p = metric(x_{i_p}, x_{j_p}).

    Parameters
    ----------
    x
        (n, d), any float dtype.
    i, j
        (p,), integers in 0..n-1.
    metric, gamma
        As in `pairwise_similarity`.

    Returns
    -------
    Tensor
        (p,), in the dtype of x.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    >>> pair_similarity(x, torch.tensor([0, 2]), torch.tensor([2, 2]))
    tensor([0.7071, 1.0000])
    """
    rows = x.to(computing_dtype(x))
    formula = formula_of(metric)
    if formula.prepare is not None:
        rows = formula.prepare(rows)
        scores = (rows[i] * rows[j]).sum(dim=1)
    else:
        scores = formula.of_difference(rows[i] - rows[j], gamma)
    return scores.to(x.dtype)


def topk_similarity(
    x: Tensor,
    y: Tensor | None = None,
    k: int = 1,
    *,
    metric: str = "cosine",
    gamma: float | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the k rows of y most similar to each row of x, most similar first.

    Largest values for similarities, smallest for distances. Ties go to the lower index. NaN comes
    after every number. No gradient.

    Parameters
    ----------
    x
        (n, d), any float dtype.
    y
        (m, d), same dtype; None for x itself, each row then left out of its own list.
    k
        At most m, or n - 1 if y is None.
    metric, gamma
        As in `pairwise_similarity`.

    Returns
    -------
    values : Tensor
        (n, k), in the dtype of x.
    indices : Tensor
        (n, k), int64, rows of y.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    >>> values, indices = topk_similarity(x, k=1)
    >>> indices.flatten()
    tensor([2, 2, 0])
    """
    rows = x.detach().to(computing_dtype(x))
    other_rows = rows if y is None else y.detach().to(rows.dtype)
    scores = similarity_matrix(rows, other_rows, metric, gamma).detach()
    merit = (-scores if formula_of(metric).distance else scores).nan_to_num(
        nan=-math.inf, posinf=math.inf, neginf=-math.inf
    )
    # Two stable sorts make a lexicographic one: numbers before NaN, then merit, then index.
    order = merit.argsort(dim=1, descending=True, stable=True)
    order = order.gather(
        1, scores.isnan().gather(1, order).to(torch.int8).argsort(dim=1, stable=True)
    )
    if y is None:
        n = len(x)
        itself = torch.arange(n, device=x.device)[:, None]
        order = order[order != itself].reshape(n, max(n - 1, 0))
    indices = order[:, :k]
    return scores.gather(1, indices).to(x.dtype), indices


def upper_triangle(matrix: Tensor) -> Tensor:
    """Return the entries i < j of a square matrix in row-major order.

    Parameters
    ----------
    matrix
        (n, n).

    Returns
    -------
    Tensor
        (n(n-1)/2,).

    Examples
    --------
    >>> upper_triangle(torch.arange(9).reshape(3, 3))
    tensor([1, 2, 5])
    """
    i, j = torch.triu_indices(len(matrix), len(matrix), offset=1, device=matrix.device)
    return matrix[i, j]


# ------------------------------------------------------------------------ the metrics


def _correlation(x: Tensor) -> Tensor:
    mean = x.mean(dim=1, keepdim=True)
    rounding = ROUNDING_ERRORS * torch.finfo(x.dtype).eps * math.sqrt(x.shape[1]) * mean.abs()
    return _unit_rows(x - mean, rounding)


def _unit_rows(x: Tensor, zero: Tensor | float = 0.0) -> Tensor:
    """Divide each row by its norm; rows of norm at most `zero` become constant zeros."""
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    is_zero = norm <= zero  # False for NaN, which stays NaN
    return torch.where(is_zero, 0.0, x / torch.where(is_zero, 1.0, norm))


def _squared(difference: Tensor, _gamma: float | Tensor | None = None) -> Tensor:
    return difference.square().sum(dim=-1)


def _euclidean(difference: Tensor, _gamma: float | Tensor | None) -> Tensor:
    squared = _squared(difference)
    is_zero = squared == 0  # the slope of the square root at 0 is infinite: keep 0 away from it
    return torch.where(is_zero, 0.0, torch.where(is_zero, 1.0, squared).sqrt())


def _rbf(difference: Tensor, gamma: float | Tensor | None) -> Tensor:
    width = 1 / max(difference.shape[-1], 1) if gamma is None else gamma
    width = torch.as_tensor(width, dtype=difference.dtype, device=difference.device)
    return torch.exp(-width * _squared(difference))


class Formula(NamedTuple):
    """How a metric scores two rows: one of the first two is given.

    Attributes
    ----------
    prepare
        Rows (n, d) to rows (n, d), whose dot products are the scores.
    of_difference
        Differences of rows (..., d), and gamma, to scores (...).
    distance
        Whether smaller means more similar, and equal rows have score 0.
    """

    prepare: Callable[[Tensor], Tensor] | None = None
    of_difference: Callable[[Tensor, float | Tensor | None], Tensor] = _squared
    distance: bool = False


#: Every metric of the reference, by its name. (A new one: its formula and a line here.)
METRICS = {
    "dot": Formula(prepare=lambda x: x),
    "cosine": Formula(prepare=_unit_rows),
    "correlation": Formula(prepare=_correlation),
    "rbf": Formula(of_difference=_rbf),
    "euclidean": Formula(of_difference=_euclidean, distance=True),
    "sqeuclidean": Formula(of_difference=_squared, distance=True),
}


def formula_of(metric: str) -> Formula:
    """Return the formula of a metric.

    Parameters
    ----------
    metric
        A name of `METRICS`.

    Returns
    -------
    Formula
        What `METRICS` holds.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric: {metric!r}")
    return METRICS[metric]
