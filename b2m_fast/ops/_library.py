"""How an op becomes known to PyTorch: schema, shapes without data, gradient.

`Library.define` and `impl` instead of the `custom_op` decorator, which costs more per call than a
small loss takes. Each backward is an op of its own and says plainly that it has no derivative:
without that, PyTorch would treat the second derivative as zero and only warn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

_library = torch.library.Library("b2m_fast", "DEF")

# One function computes on every device: it asks `_engine` who does.
_KEYS = ("CPU", "CUDA")

#: The ops that `op` defined, as torch.ops knows them.
ops = torch.ops.b2m_fast


def op(schema: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Define an op, with the decorated function as its computation on tensors of any device."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _library.define(schema)
        name = schema.partition("(")[0]
        for key in _KEYS:
            _library.impl(name, function, key)
        return function

    return register


def fake(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as the op on tensors without data: shapes and dtypes only."""
    register: Callable[[Callable[..., Any]], Callable[..., Any]]
    register = torch.library.register_fake(f"b2m_fast::{name}", lib=_library)
    return register


def gradient(name: str, backward: Callable[..., Any], setup: Callable[..., Any]) -> None:
    """Register the gradient of an op: what to save, and the backward pass."""
    torch.library.register_autograd(
        f"b2m_fast::{name}", backward, setup_context=setup, lib=_library
    )


def not_twice(name: str, *, public: str | None = None) -> None:
    """Make the derivative of a backward op an error instead of a silent zero.

    `public`: the function that people know, if its name is another.
    """

    def backward(_ctx: Any, *_gradients: Any) -> Any:
        raise RuntimeError(
            f"b2m_fast.{public or name} is not twice differentiable; for second derivatives use "
            f"b2m_fast.ops.reference.{public or name}, which is ordinary torch code"
        )

    torch.library.register_autograd(f"b2m_fast::{name}_backward", backward, lib=_library)


def loss_dtype(x: Tensor) -> torch.dtype:
    """Dtype of a loss: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def or_empty(x: Tensor | None, like: Tensor) -> Tensor:
    """Return an op's output for a gradient that is not wanted."""
    return like.new_empty((0,)) if x is None else x
