"""Arithmetic on results of a computation: Python floats from the CPU, 0-d tensors from a device.

A number on a device is only known to the host after waiting for everything before it, so formulas
over results are written once for both kinds, with `where` in place of branches.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

Scalar = float | Tensor
Condition = bool | Tensor


def where(condition: Condition, yes: Scalar, no: Scalar) -> Scalar:
    """`yes` where the condition holds, else `no`; both are computed."""
    if isinstance(condition, Tensor):
        return torch.where(condition, yes, no)
    return yes if condition else no


def sqrt(x: Scalar) -> Scalar:
    """Square root of a number that is not negative; NaN goes through."""
    return x.sqrt() if isinstance(x, Tensor) else math.sqrt(x)


def inverse_or_zero(x: Tensor) -> Tensor:
    """1 / x, and 0 of 0."""
    return torch.where(x == 0, 0.0, 1 / torch.where(x == 0, 1.0, x))


def to_tensor(x: Scalar, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return it as a 0-d tensor, without waiting for the device."""
    if isinstance(x, Tensor):
        return x.to(dtype)
    # (A tensor made of a number on a device would be copied there, which a graph cannot capture.)
    return torch.full((), x, dtype=dtype, device=device)


def to_vector(values: Sequence[Scalar], device: torch.device) -> Tensor:
    """Return them as a float64 vector, without waiting for the device."""
    numbers = [x for x in values if not isinstance(x, Tensor)]
    if len(numbers) == len(values):
        return torch.tensor(numbers, dtype=torch.float64, device=device)
    return torch.stack([to_tensor(x, torch.float64, device) for x in values])
