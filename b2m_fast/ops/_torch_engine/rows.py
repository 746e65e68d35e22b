"""Rows prepared for a bilinear metric, and products of such matrices with small ones."""

from __future__ import annotations

import torch
from torch import Tensor

from .._rows import finish, prepare


def scaled_rows(x: Tensor, center: Tensor | None, metric: str, factor: Tensor, out: Tensor) -> None:
    """Write factor times the rows of x, minus a center and prepared for a bilinear metric, to `out`."""
    torch.mul(prepare(_centred(x, center, out.dtype), metric), factor, out=out)


def scaled_rows_backward(
    grad: Tensor, x: Tensor, center: Tensor | None, metric: str, factor: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x, in the dtype of `grad`, and of factor from that of `out`."""
    centred = _centred(x, center, grad.dtype)
    dx = torch.empty(x.shape, dtype=grad.dtype, device=x.device)
    finish(grad, centred, metric, factor, dx)
    return dx, (grad * prepare(centred, metric)).sum(dtype=torch.float64)


def _centred(x: Tensor, center: Tensor | None, dtype: torch.dtype) -> Tensor:
    return x if center is None else (x.to(torch.float64) - center).to(dtype)


def add_cross_products(sums: Tensor, a: Tensor, b: Tensor | None) -> None:
    """Add a' b to `sums` (p, q), float64 and contiguous, for rows a (n, p) and b (n, q) or a again."""
    b = a if b is None else b
    if a.dtype == sums.dtype:
        sums.addmm_(a.T, b)
    else:
        sums.add_(a.T @ b)


def sum_of_products(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """Return a x + b y."""
    return torch.addmm(a @ x, b, y)
