"""Rows prepared for a metric, in plain torch: scores of bilinear metrics are their dot products.

In float64 throughout, a chunk of rows at a time; zero rows stay zero, and get no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._problems import NORMALISED, computing_dtype

#: Rows prepared at a time: 4096 x 1000 in float64 is 33 MB.
CHUNK = 4096

# A row counts as constant if all that is left of it after centring is at most so many rounding
# errors (times sqrt(d)) of its mean.
_ROUNDING_ERRORS = 8


def prepared(x: Tensor, metric: str) -> Tensor:
    """Rows of x (n, d) centred and normalised as the metric asks, in float64."""
    rows = x.to(torch.float64).contiguous()  # reductions depend on how rows lie in memory
    if metric not in NORMALISED:
        return rows
    rows, norm, is_zero = _centred(rows, metric, x.dtype)
    return rows / torch.where(is_zero, torch.inf, norm)


def _centred(rows: Tensor, metric: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Rows minus their means for "correlation", their norms, and whether they count as zero."""
    zero = rows.new_zeros(())
    if metric == "correlation":
        mean = rows.mean(dim=1, keepdim=True)
        rows = rows - mean
        eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        zero = (_ROUNDING_ERRORS * eps * rows.shape[1] ** 0.5) * mean.abs()
    norm = _norm(rows, wide=dtype == torch.float64)
    return rows, norm, norm <= zero


def _norm(rows: Tensor, *, wide: bool) -> Tensor:
    """Norms (n, 1); `wide`: even where a square would leave the range of float64."""
    if wide:
        largest = rows.abs().amax(dim=1, keepdim=True)
        return _norm(rows / torch.where(largest == 0, 1.0, largest), wide=False) * largest
    norm: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return norm


def through_preparation(x: Tensor, metric: str, z: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of x from that of its prepared rows z; all float64 but x."""
    if metric not in NORMALISED:
        return gradient
    _, norm, is_zero = _centred(x.to(torch.float64).contiguous(), metric, x.dtype)
    across = gradient - z * (z * gradient).sum(dim=1, keepdim=True)
    gradient = across / torch.where(is_zero, 1.0, norm)
    if metric == "correlation":
        gradient = gradient - gradient.mean(dim=1, keepdim=True)
    return torch.where(is_zero, 0.0, gradient)


def prepare(x: Tensor, metric: str, center: Tensor | None = None) -> Tensor:
    """All rows prepared, rounded to the computing dtype; a center (d,) is subtracted first."""
    rows = torch.empty(x.shape, dtype=computing_dtype(x), device=x.device)
    for begin in range(0, len(x), CHUNK):
        part = x[begin : begin + CHUNK]
        if center is not None:
            part = part.to(torch.float64) - center
        rows[begin : begin + CHUNK] = prepared(part, metric)
    return rows


def mean_row(x: Tensor) -> Tensor:
    """Mean of the rows in float64, 0 where it is no number: a place to measure rows from."""
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for begin in range(0, len(x), CHUNK):
        total += x[begin : begin + CHUNK].to(torch.float64).contiguous().sum(dim=0)
    mean = total / max(len(x), 1)
    return torch.where(mean.isfinite(), mean, 0.0)


def finish(gradient: Tensor, x: Tensor, metric: str, factor: Tensor | None, out: Tensor) -> None:
    """Write factor times the gradient of x, from that of its prepared rows, to `out`."""
    for begin in range(0, len(x), CHUNK):
        own = slice(begin, begin + CHUNK)
        part = gradient[own].to(torch.float64)
        z = prepared(x[own], metric) if metric in NORMALISED else part
        part = through_preparation(x[own], metric, z, part)
        out[own] = part if factor is None else part * factor
