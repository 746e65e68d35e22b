"""How alike two symmetric matrices of similarities or distances are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .similarity import ROUNDING_ERRORS, upper_triangle

DISTANCE_OF_MATRICES = ("mse", "atanh")
RANK_CORRELATIONS = ("spearman", "rho-a", "tau-a", "kendall", "tau-b")

# Rows of the matrix of all pairs of pairs that exist at the same time.
_ROWS_AT_ONCE = 1024


def compared(
    x: Tensor,
    y: Tensor,
    *,
    compare: str,
    x_is_distance: bool,
    y_is_distance: bool,
    pair_weights: Tensor | None,
    epsilon: float,
) -> Tensor:
    """Compare two symmetric matrices; see `rsa_penalty` and `rsa_score` for the formulas.

    Parameters
    ----------
    x, y
        (n, n), symmetric, float32 or float64.
    compare
        One of the comparisons of `rsa_score`.
    x_is_distance, y_is_distance
        Whether the entries are distances rather than similarities.
    pair_weights
        (n, n) or (n(n-1)/2,), 1 if None.
    epsilon
        Keeps the Fisher transform of "atanh" finite.

    Returns
    -------
    Tensor
        Scalar in the dtype of x; a distance for "mse" and "atanh", else a correlation.

    Examples
    --------
    >>> options = dict(x_is_distance=False, y_is_distance=False, pair_weights=None, epsilon=1e-5)
    >>> compared(torch.eye(3), torch.ones(3, 3), compare="mse", **options)
    tensor(1.)
    """
    if compare == "cka":
        return _matrix_cosine(_double_centered(x), _double_centered(y), x, y)
    if compare == "cka_debiased":
        x, y = _without_diagonal(x), _without_diagonal(y)
        return _matrix_cosine(_u_centered(x), _u_centered(y), x, y)
    if compare == "whitened_cosine":
        x_distances = x if x_is_distance else _distances(x)
        y_distances = y if y_is_distance else _distances(y)
        return _matrix_cosine(_double_centered(x_distances), _double_centered(y_distances), x, y)

    c, t = upper_triangle(x), upper_triangle(y)
    if compare in RANK_CORRELATIONS:
        return _rank_correlation(c.detach(), t.detach(), compare).to(c.dtype)
    if pair_weights is None:
        w = torch.ones_like(c)
    else:
        w = pair_weights if pair_weights.ndim == 1 else upper_triangle(pair_weights)
    if compare == "mse":
        return _mean((c - t).square(), w)
    if compare == "atanh":
        return _mean((_fisher_z(c, epsilon) - _fisher_z(t, epsilon)).square(), w)
    if compare == "cosine":
        return _cosine(c, t, w)
    if compare in {"pearson", "corr"}:
        return _pearson(c, t, w)
    raise ValueError(f"unknown comparison: {compare!r}")


def _mean(values: Tensor, w: Tensor) -> Tensor:
    """Return the weighted mean, 0 where the weights sum to 0."""
    weight = w.sum()
    is_zero = weight == 0
    return torch.where(is_zero, 0.0, (w * values).sum() / torch.where(is_zero, 1.0, weight))


def _fisher_z(x: Tensor, epsilon: float) -> Tensor:
    """Return atanh(x), kept finite at -1 and 1."""
    return 0.5 * (torch.log(1 + x + epsilon) - torch.log(1 - x + epsilon))


def _cosine(
    a: Tensor,
    b: Tensor,
    w: Tensor,
    a_zero: Tensor | float = 0.0,
    b_zero: Tensor | float = 0.0,
) -> Tensor:
    """Return the weighted cosine, 0 where the norm of a side is at most its `zero`."""
    ab = (w * a * b).sum()
    aa, bb = (w * a * a).sum(), (w * b * b).sum()
    is_zero = ((aa <= a_zero**2) | (bb <= b_zero**2)) & ~ab.isnan()
    # The slope of the square root at 0 is infinite: keep 0 away from it.
    a_norm = torch.where(is_zero, 1.0, aa).sqrt()
    b_norm = torch.where(is_zero, 1.0, bb).sqrt()
    return torch.where(is_zero, 0.0, ab / (a_norm * b_norm))


def _rounding(dtype: torch.dtype) -> float:
    """Return the relative size below which a difference is rounding error."""
    return ROUNDING_ERRORS * torch.finfo(dtype).eps


def _pearson(c: Tensor, t: Tensor, w: Tensor) -> Tensor:
    """Return the weighted Pearson correlation."""
    c_mean, t_mean = _mean(c, w), _mean(t, w)
    removed_norm = w.sum().sqrt() * _rounding(c.dtype)
    return _cosine(c - c_mean, t - t_mean, w, c_mean * removed_norm, t_mean * removed_norm)


def _matrix_cosine(a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return <a, b> / (|a| |b|) of centred matrices that came from x and y."""
    rounding = _rounding(x.dtype)
    return _cosine(a, b, a.new_ones(()), rounding * x.norm(), rounding * y.norm())


def _double_centered(matrix: Tensor) -> Tensor:
    """Return H A H, H = I - 11'/n."""
    row_mean = matrix.mean(dim=1, keepdim=True)
    return matrix - row_mean - row_mean.T + row_mean.mean()


def _without_diagonal(matrix: Tensor) -> Tensor:
    """Return the matrix with zeros on its diagonal."""
    return matrix.masked_fill(torch.eye(len(matrix), dtype=torch.bool, device=matrix.device), 0.0)


def _u_centered(matrix: Tensor) -> Tensor:
    """Return the matrix whose inner products are n(n-3) times the unbiased HSIC.

    Of a matrix with diagonal 0; the estimator of Song et al. 2012 written as an inner product, so
    that the HSIC of a matrix with itself is a sum of squares and cannot round to below zero.
    """
    n = len(matrix)
    row_sum = matrix.sum(dim=1, keepdim=True)
    row_part = row_sum / (n - 2)
    return _without_diagonal(matrix - row_part - row_part.T + row_sum.sum() / ((n - 1) * (n - 2)))


def _distances(similarity: Tensor) -> Tensor:
    """Return D_ij = (s_ii + s_jj)/2 - s_ij."""
    diagonal = similarity.diagonal()
    return (diagonal[:, None] + diagonal[None, :]) / 2 - similarity


def _rank_correlation(c: Tensor, t: Tensor, compare: str) -> Tensor:
    """Return a rank correlation of two vectors, in float64."""
    if (c.isnan() | t.isnan()).any():
        return c.new_full((), math.nan, dtype=torch.float64)
    r, s = _ranks(c), _ranks(t)
    p = len(c)
    if p < 2:
        return r.new_zeros(())
    if compare == "spearman":
        return _pearson(r, s, torch.ones_like(r))
    if compare == "rho-a":
        return 12 * ((r - r.mean()) * (s - s.mean())).sum() / (p**3 - p)
    concordance = _sign_product(r, s)
    if compare == "tau-a":
        return concordance / (p * (p - 1))
    # The sum of squared signs counts the ordered pairs of pairs that are not tied.
    untied = _sign_product(r, r) * _sign_product(s, s)
    return torch.where(untied == 0, 0.0, concordance / untied.sqrt())


def _ranks(values: Tensor) -> Tensor:
    """Return ranks 1..p in float64; ties take the average of the ranks they fill."""
    _, level, count = torch.unique(values, return_inverse=True, return_counts=True)
    average_rank: Tensor = count.cumsum(dim=0) - (count.to(torch.float64) - 1) / 2
    return average_rank[level]


def _sign_product(r: Tensor, s: Tensor) -> Tensor:
    """Return sum_pq sign(r_p - r_q) sign(s_p - s_q) over all ordered p, q."""
    total = r.new_zeros(())
    for r_rows, s_rows in zip(
        torch.split(r, _ROWS_AT_ONCE), torch.split(s, _ROWS_AT_ONCE), strict=True
    ):
        r_sign = (r_rows[:, None] - r[None, :]).sign()
        s_sign = (s_rows[:, None] - s[None, :]).sign()
        total = total + (r_sign * s_sign).sum()
    return total
