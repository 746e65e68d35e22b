"""Rows prepared for the kernels, in a precision that their dtype and metric ask for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from b2m_fast import _C

from ..._types import METRICS, Scoring
from ..cpu import address, matrix
from ..rows import GradientSums
from .kernels import KERNELS, Stream, padded, running_on


class Precision(NamedTuple):
    """What scores are computed in: `parts` bfloat16 numbers a value, `products` of them summed."""

    arithmetic: str  # "bfloat16", "float32" or "float64"
    parts: int = 1
    products: int = 1


# Parts and products of bilinear scores on tensor cores, all sums in float32: relative error about
# 2^-9 (1, 1), 2^-17 (2, 3), 2^-24 (3, 6). float32 as `torch.get_float32_matmul_precision()` says.
# "highest" for every dtype: Fisher's z, for rounding must not carry a similarity past 1 + epsilon;
# and the choice of the best keys, whose result is compared by equality.
_TENSOR_CORES = {
    torch.bfloat16: Precision("bfloat16", 1, 1),
    torch.float16: Precision("bfloat16", 2, 3),
    "highest": Precision("bfloat16", 3, 6),
    "high": Precision("bfloat16", 2, 3),
    "medium": Precision("bfloat16", 1, 1),
}


def precision_of(dtype: torch.dtype, *, bilinear: bool, exact: bool = False) -> Precision:
    """Return the precision of scores of rows; distances, and float64, are multiplied one by one."""
    if dtype == torch.float64:
        return Precision("float64")
    if not bilinear:
        return Precision("float32")
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


class Rows(NamedTuple):
    """Rows as the kernels multiply them: (count, parts * depth)."""

    data: Tensor
    precision: Precision
    inverse_norm: Tensor | None

    def part(self, rows: slice) -> Rows:
        """Return some of the rows."""
        norm = self.inverse_norm
        return Rows(self.data[rows], self.precision, None if norm is None else norm[rows])

    def values(self) -> Tensor:
        """Return the parts of the rows (count, parts, depth), the rows being their sums."""
        return self.data.view(len(self.data), self.precision.parts, -1)

    def arguments(self) -> _C._Rows:
        """Return what the kernels take: address, arithmetic, count, depth, parts."""
        count, width = self.data.shape
        arithmetic, parts, _ = self.precision
        return (
            address(self.data),
            KERNELS.ARITHMETICS[arithmetic],
            count,
            width // parts,
            parts,
        )


def prepare(
    x: Tensor, metric: str, precision: Precision, stream: Stream, center: Tensor | None = None
) -> Rows:
    """Return all rows prepared; a center (d,), float64, is subtracted first."""
    depth = x.shape[1]
    if precision.arithmetic == "bfloat16":
        depth = padded(depth, KERNELS.DEPTH_STEP)
    dtype = _ROW_DTYPES[precision.arithmetic]
    data = torch.empty((len(x), precision.parts * depth), dtype=dtype, device=x.device)
    norm = None
    if METRICS[metric].normalised:
        norm = torch.empty(len(x), dtype=torch.float64, device=x.device)
    rows = Rows(data, precision, norm)
    if len(x):
        KERNELS.prepare_rows(
            matrix(x), _C.METRICS[metric], address(center), rows.arguments(), address(norm), stream
        )
    return rows


class Operand:
    """Rows of one side, prepared for scores and, where a gradient is needed, for its products."""

    def __init__(
        self,
        x: Tensor,
        scoring: Scoring,
        stream: Stream,
        *,
        precision: Precision | None = None,
        center: Tensor | None = None,
        gradient: bool = False,
    ) -> None:
        self.x, self.scoring, self.stream = x, scoring, stream
        self.precision = precision or precision_of(x.dtype, bilinear=scoring.bilinear)
        self.rows = prepare(x, scoring.metric, self.precision, stream)
        self.inverse_norm = self.rows.inverse_norm
        self.values = self._values(center) if gradient else self.rows.data[:0]

    def _values(self, center: Tensor | None) -> Tensor:
        """Return rows (n, d) to multiply gradient weights with: bfloat16 for bfloat16, else exact.

        Those of distances are measured from a center, for little to cancel.
        """
        tensor_cores = self.precision.arithmetic == "bfloat16"
        if center is None and (self.x.dtype == torch.bfloat16 or not tensor_cores):
            return self.rows.data[:, : self.x.shape[1]]
        exact = _exact(self.x.dtype)
        return prepare(self.x, self.scoring.metric, exact, self.stream, center).data

    def sums(self) -> GradientSums:
        """Return sums of gradient weights with other rows, still 0."""
        return GradientSums(self.values, differences=not self.scoring.bilinear)

    def release(self) -> None:
        """Give the prepared rows back; gradients can still be written."""
        self.values = self.values.new_empty(0)
        self.rows = self.rows._replace(data=self.values)

    def write(self, sums: GradientSums, out: Tensor, factor: Tensor | None = None) -> None:
        """Write the gradient of x."""
        gradient = sums.gradient()
        if len(self.x):
            KERNELS.finish_rows(
                matrix(gradient),
                matrix(self.x),
                _C.METRICS[self.scoring.metric],
                0,
                address(self.inverse_norm),
                address(factor),
                matrix(out),
                self.stream,
            )


def scaled_rows(x: Tensor, center: Tensor | None, metric: str, factor: Tensor, out: Tensor) -> None:
    """Write factor times the rows of x, minus a center and prepared for a metric, to `out`."""
    with running_on(x.device) as stream:
        rows = prepare(x, metric, _exact(out.dtype), stream, center)
    torch.mul(rows.data, factor, out=out)


def scaled_rows_backward(
    grad: Tensor, x: Tensor, center: Tensor | None, metric: str, factor: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x, in the dtype of `grad`, and of factor from that of `out`."""
    dx = torch.empty(x.shape, dtype=grad.dtype, device=x.device)
    with running_on(x.device) as stream:
        rows = prepare(x, metric, _exact(grad.dtype), stream, center)
        if len(x):
            KERNELS.finish_rows(
                matrix(grad),
                matrix(x),
                _C.METRICS[metric],
                address(center),
                address(rows.inverse_norm),
                address(factor),
                matrix(dx),
                stream,
            )
    return dx, (grad * rows.data).sum(dtype=torch.float64)


def _exact(dtype: torch.dtype) -> Precision:
    return Precision("float64" if dtype == torch.float64 else "float32")


def gradient_of(x: Tensor) -> Tensor:
    """Return memory for a gradient, contiguous."""
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)
