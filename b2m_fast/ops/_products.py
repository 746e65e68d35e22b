"""Gradients of all rows from blocks of gradient weights: the matrix products of a backward pass.

With weights G_ij = dL/draw_ij of the raw scores (dot products, or squared distances) a block adds
G Y to the gradient of the rows and G'X to that of the columns. For squared distances that is
sum_j 2 G_ij (x_i - y_j), with rows measured from a mean row, so that little cancels.
"""

from __future__ import annotations

import torch
from torch import Tensor

# bfloat16 matrices multiplied into a float32 one, on CUDA; and added to one.
_VERSION = tuple(int(number) for number in torch.__version__.split(".")[:2])
_MIXED_PRODUCTS = _VERSION >= (2, 8)
_MIXED_SUMS = _VERSION >= (2, 10)


def add_product(sums: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to `sums`, which is float32 where a and b are bfloat16.

    (In place throughout: autocast leaves such operations alone.)
    """
    if a.dtype == sums.dtype:
        sums.addmm_(a, b)
    elif not a.is_cuda:
        sums.addmm_(a.to(sums.dtype), b.to(sums.dtype))
    elif _MIXED_SUMS:
        torch.addmm(sums, a, b, out_dtype=sums.dtype, out=sums)
    else:
        product = torch.empty_like(sums, dtype=sums.dtype if _MIXED_PRODUCTS else a.dtype)
        out_dtype = {"out_dtype": sums.dtype} if _MIXED_PRODUCTS else {}
        sums.add_(torch.mm(a, b, **out_dtype, out=product))


class GradientSums:
    """What the blocks add up to, for the gradient of rows (n, d)."""

    def __init__(self, rows: Tensor, *, differences: bool) -> None:
        dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
        self.rows = rows if differences else None
        self.sums = torch.zeros(rows.shape, dtype=dtype, device=rows.device)
        self.totals: Tensor | None = None
        if differences:
            self.totals = torch.zeros(len(rows), 1, dtype=torch.float64, device=rows.device)

    def add(self, own: slice, weights: Tensor, others: Tensor) -> None:
        """Add the weights of the rows `own` for the rows `others`."""
        add_product(self.sums[own], weights, others)
        if self.totals is not None:
            self.totals[own] += weights.sum(dim=1, keepdim=True, dtype=torch.float64)

    def gradient(self) -> Tensor:
        """Gradient of the prepared rows, (n, d)."""
        if self.totals is None or self.rows is None:
            return self.sums
        return (2 * (self.totals * self.rows - self.sums)).to(self.sums.dtype)
