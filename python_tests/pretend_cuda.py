"""A mode in which "cuda" is the CPU, and which fails where a tensor is made without a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

MAKERS = {
    getattr(torch, name)
    for name in (
        *("arange", "empty", "eye", "full", "linspace", "logspace", "normal", "ones"),
        *("rand", "randint", "randn", "randperm", "tensor", "zeros"),
    )
}


def _is_cuda(value: object) -> bool:
    named = isinstance(value, str) and value.split(":")[0] == "cuda"
    return named or (isinstance(value, torch.device) and value.type == "cuda")


class _Pretend(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in MAKERS:
            assert kwargs.get("device") is not None, f"torch.{func.__name__} without a device"
        if func is torch.device:
            return func(*args, **kwargs)
        self.asked += any(map(_is_cuda, (*args, *kwargs.values())))
        args = tuple("cpu" if _is_cuda(a) else a for a in args)
        return func(*args, **{k: "cpu" if _is_cuda(v) else v for k, v in kwargs.items()})


@contextmanager
def pretend_cuda() -> Iterator[_Pretend]:
    """Run with "cuda" meaning the CPU; ``asked`` counts the calls that named it."""
    with pytest.MonkeyPatch.context() as patch, _Pretend() as mode:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        yield mode
