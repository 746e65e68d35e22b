"""Checks of what callers pass: every error names the argument, what it got and what it expected.

All tensors of a call are on one device; only what is read part by part may be in the host's memory
instead. Only shapes, dtypes and devices are looked at, so that the public functions can be traced by
torch.compile; what depends on values is checked inside the ops.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ._scalars import to_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DEVICE_TYPES = ("cpu", "cuda")
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def shape_of(x: Tensor) -> str:
    """Shape as text."""
    return "(" + ", ".join(str(int(size)) for size in x.shape) + ("," if x.ndim == 1 else "") + ")"


def one_of(value: str, name: str, options: Sequence[str]) -> None:
    """Raise unless `value` is one of the options."""
    if value not in options:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, options))}")


def floats(x: object, name: str, ndim: int = 2) -> Tensor:
    """Return x if it is a dense floating-point tensor of `ndim` dimensions, else raise."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}; expected a torch.Tensor")
    if x.dtype not in FLOATS:
        raise TypeError(
            f"{name} has dtype {x.dtype}; expected float64, float32, bfloat16 or float16"
        )
    if x.layout != torch.strided:
        raise TypeError(f"{name} has layout {x.layout}; expected a dense (strided) tensor")
    _on_known_device(x, name)
    _no_tangent(x, name)
    if x.ndim != ndim:
        wanted = {0: "a scalar", 1: "a vector (n,)", 2: "a matrix (n, d)"}[ndim]
        raise ValueError(f"{name} has shape {shape_of(x)}; expected {wanted}")
    return x


def _on_known_device(x: Tensor, name: str) -> None:
    if x.device.type not in DEVICE_TYPES:
        raise ValueError(
            f"{name} is on device {x.device}; expected one of type {' or '.join(DEVICE_TYPES)}"
        )


def on_device(x: Tensor, name: str, device: torch.device) -> None:
    """Raise unless x is on the device of the other tensors."""
    if x.device != device:
        raise ValueError(
            f"{name} is on device {x.device}; expected {device}, where the other tensors are"
        )


def readable_from(x: Tensor, name: str, device: torch.device) -> None:
    """Raise unless x is on the device or in the host's memory, from where parts can be brought."""
    if x.device.type != "cpu":
        on_device(x, name, device)


def _no_tangent(x: Tensor, name: str) -> None:
    # PyTorch would silently take the tangent of an op without a forward formula for zero.
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None:
        raise NotImplementedError(
            f"{name} carries a forward-mode tangent, but the ops have no forward-mode derivative; "
            "use b2m_fast.ops.reference"
        )


def same_dtype(x: Tensor, y: Tensor, x_name: str, y_name: str) -> tuple[Tensor, Tensor]:
    """Raise if the dtypes differ; under autocast, which makes them differ, promote instead."""
    if x.dtype == y.dtype:
        return x, y
    if torch.is_autocast_enabled(x.device.type):
        wider = torch.promote_types(x.dtype, y.dtype)
        return x.to(wider), y.to(wider)
    raise TypeError(
        f"{x_name} has dtype {x.dtype} and {y_name} has dtype {y.dtype}; expected the same"
    )


def same_depth(x: Tensor, y: Tensor, x_name: str, y_name: str) -> None:
    """Raise unless both have rows of the same length."""
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{x_name} has shape {shape_of(x)} and {y_name} has shape {shape_of(y)}; "
            "expected the same number of columns"
        )


def nonempty_depth(x: Tensor, name: str) -> None:
    """Raise if the rows hold no values."""
    if x.shape[1] == 0:
        raise ValueError(f"{name} has shape {shape_of(x)}; expected at least one column")


def integers(x: object, name: str, length: int, device: torch.device) -> Tensor:
    """Return x as an int64 vector of the given length on the device, or raise."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}; expected a torch.Tensor of integers")
    if x.dtype not in INTEGERS:
        raise TypeError(f"{name} has dtype {x.dtype}; expected integers")
    if x.ndim != 1 or x.shape[0] != length:
        raise ValueError(f"{name} has shape {shape_of(x)}; expected ({length},)")
    on_device(x, name, device)
    if not torch.compiler.is_compiling() and x._is_zerotensor():
        x = x.clone()
    return x.to(torch.int64)


def vector(x: object, name: str, length: int, device: torch.device) -> Tensor:
    """Return x if it is a floating-point vector of the given length on the device, or raise."""
    x = floats(x, name, ndim=1)
    on_device(x, name, device)
    if x.shape[0] != length:
        raise ValueError(f"{name} has shape {shape_of(x)}; expected ({length},)")
    return x


def number(x: object, name: str, expected: str = "a number") -> float:
    """Return a Python or NumPy number as a float, or raise."""
    if isinstance(x, bool) or not isinstance(x, int | float | np.number):
        raise TypeError(f"{name} is a {type(x).__name__}; expected {expected}")
    return float(x)


def scalar(x: object, name: str, device: torch.device) -> Tensor:
    """Return a number or a one-element tensor as a 0-d tensor on the device.

    As everywhere in torch, a scalar may come from the host.
    """
    if not isinstance(x, Tensor):
        return to_tensor(number(x, name, "a number or a scalar tensor"), torch.float64, device)
    readable_from(x, name, device)
    if x.numel() != 1:
        raise ValueError(f"{name} has shape {shape_of(x)}; expected a scalar")
    if x.dtype not in FLOATS:
        raise TypeError(f"{name} has dtype {x.dtype}; expected a floating-point scalar")
    return x.reshape(()).to(device)


def scoring_gamma(metric: str, gamma: float | None, depth: int, name: str = "gamma") -> float:
    """Return the width of "rbf": what is given, or 1/depth; 0 for every other metric."""
    if metric != "rbf":
        if gamma is not None:
            raise ValueError(f"{name} is {gamma}, but metric is {metric!r}; only 'rbf' has one")
        return 0.0
    if gamma is None:
        return 1.0 / max(depth, 1)
    width = number(gamma, name)
    if not 0 <= width < math.inf:
        raise ValueError(f"{name} is {gamma}; expected a finite number >= 0")
    return width


def from_array(x: Tensor | npt.NDArray[np.floating[Any]], name: str) -> Tensor:
    """Return a tensor over the same memory; a read-only (memory-mapped) array stays one."""
    if isinstance(x, Tensor):
        return x.resolve_neg()  # a lazily negated tensor's memory holds the opposite sign
    if not hasattr(x, "__array_interface__"):
        raise TypeError(f"{name} is a {type(x).__name__}; expected a torch.Tensor or a NumPy array")
    with warnings.catch_warnings():
        # torch warns that writing to a read-only array is undefined; inputs are only ever read.
        warnings.filterwarnings("ignore", message=".*not writable.*")
        try:
            return torch.from_numpy(x)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name}: {error}") from None
