"""Addresses and strides of tensors, for the extension: the one file that takes them."""

from __future__ import annotations

import torch
from torch import Tensor

from b2m_fast import _C

DTYPES = {getattr(torch, name): code for name, code in _C.DTYPES.items()}

#: Address, dtype, rows, columns, row stride, column stride (strides in elements).
Matrix = tuple[int, int, int, int, int, int]


def address(x: Tensor | None) -> int:
    """Address of the first element; 0 for None."""
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
    """The same of a tensor that may be absent."""
    return None if x is None else matrix(x)


def part_of_matrix(part: Tensor, row: int, column: int) -> Matrix:
    """Describe the matrix of which `part` is all there is, beginning at (row, column).

    Nothing outside the part may be read or written.
    """
    start, dtype, rows, columns, row_stride, column_stride = matrix(part)
    start -= (row * row_stride + column * column_stride) * part.element_size()
    return start, dtype, row + rows, column + columns, row_stride, column_stride
