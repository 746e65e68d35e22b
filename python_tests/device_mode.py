"""CUDA without a GPU: a mode in which "cuda" is the CPU, and tensors remember on which of the two they lie.

    with pretend_cuda() as mode:
        train(objective, TrainConfig(accelerator="cuda"))
    assert mode.asked > 0

Inside, a tensor that was asked for on "cuda", moved there, or computed from such tensors says that it lies on ``cuda:0``, and what
fails on a GPU fails here:

- an operation on tensors of both devices (but for numbers, copies and indices);
- `numpy()` of a tensor on "cuda".

More strictly than on a GPU, a tensor with elements that code of this package makes without saying on which device (`torch.zeros(3)`)
fails at once, even if it never meets another. `torch.from_numpy` is a tensor on the CPU. Numbers are those of the CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import b2m_fast

PACKAGE = str(Path(b2m_fast.__file__ or "").parent)
CUDA = torch.device("cuda", 0)
MAKERS = {
    getattr(torch, name)
    for name in (
        *("arange", "empty", "eye", "full", "linspace", "logspace", "normal", "ones"),
        *("rand", "randint", "randn", "randperm", "tensor", "zeros"),
    )
}
NAMING = {torch.device, torch._C._nn._parse_to}
ACROSS = {"aten::copy_", "aten::index", "aten::index_put_", "aten::index_put", "aten::_to_copy"}


def _device_of(value: object) -> str | None:
    """Return the type of the device that a value names, if it names one."""
    if isinstance(value, torch.device):
        return value.type
    if isinstance(value, str) and value.split(":")[0] in {"cuda", "cpu"}:
        return value.split(":")[0]
    return None


class _Devices:
    """Storages that lie on "cuda"; they are kept, so that no other gets their address."""

    def __init__(self) -> None:
        self.storages: dict[int, Any] = {}
        self.inside = 0  # calls with arguments on "cuda": what these make lies there, too

    def has(self, x: object) -> bool:
        return isinstance(x, Tensor) and x.untyped_storage().data_ptr() in self.storages

    def put(self, x: Tensor) -> None:
        if address := x.untyped_storage().data_ptr():
            self.storages[address] = x.untyped_storage()

    def take(self, x: Tensor) -> None:
        self.storages.pop(x.untyped_storage().data_ptr(), None)


class _Follow(TorchDispatchMode):
    """Results of tensors on "cuda" lie there; tensors of both devices do not mix."""

    def __init__(self, devices: _Devices) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.devices = devices

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = [x for x in tensors if self.devices.has(x)]
        here = [x for x in tensors if not self.devices.has(x) and x.ndim and x.numel()]
        mixed = there and here and func._schema.name not in ACROSS
        assert not mixed, (
            f"{func}: tensors {[tuple(x.shape) for x in there]} are on cuda, "
            f"{[tuple(x.shape) for x in here]} on the CPU"
        )
        result = func(*args, **kwargs)
        if there or (not tensors and self.devices.inside):
            for x in tree_leaves(result):
                if isinstance(x, Tensor):
                    self.devices.put(x)
        return result


class PretendCuda(TorchFunctionMode):
    """What PyTorch's functions say and do about devices; `asked` counts the calls that named "cuda"."""

    def __init__(self) -> None:
        super().__init__()
        self.devices = _Devices()
        self.asked = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        devices = self.devices
        first: Any = args[0] if args else None
        if func == Tensor.device.__get__:
            return CUDA if devices.has(first) else func(*args, **kwargs)
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return devices.has(first)
        read = func == Tensor.__array__ or (func == Tensor.numpy and not kwargs.get("force"))
        if read and devices.has(first):
            raise TypeError("can't convert a tensor on cuda to numpy: use Tensor.cpu() first")
        if func in NAMING:
            return func(*args, **kwargs)
        wanted = self._wanted(func, args, kwargs)
        self.asked += wanted == "cuda"
        args, kwargs = tree_map(lambda x: "cpu" if _device_of(x) else x, (args, kwargs))
        inside = any(devices.has(x) for x in tree_leaves((args, kwargs)))
        devices.inside += inside
        try:
            result = first.clone() if func is Tensor.cuda else func(*args, **kwargs)
        finally:
            devices.inside -= inside
        if func in MAKERS and kwargs.get("device") is None and result.ndim:
            caller = sys._getframe(1)
            assert not caller.f_code.co_filename.startswith(PACKAGE), (
                f"{caller.f_code.co_filename}, line {caller.f_lineno}: torch.{func.__name__} is "
                "not told on which device"
            )
        if wanted is not None and isinstance(result, Tensor):
            result = self._moved(result, wanted, made=func in MAKERS)
        return result

    def _wanted(self, func: Any, args: Any, kwargs: dict[str, Any]) -> str | None:
        """Return the device on which the result shall be, where the call says so."""
        if func in {Tensor.cuda, Tensor.cpu}:
            return "cuda" if func is Tensor.cuda else "cpu"
        named = [d for d in map(_device_of, (*args, *kwargs.values())) if d]
        if func is Tensor.to and len(args) > 1 and isinstance(args[1], Tensor):
            named.append("cuda" if self.devices.has(args[1]) else "cpu")
        return named[0] if named else None

    def _moved(self, x: Tensor, wanted: str, *, made: bool) -> Tensor:
        if self.devices.has(x) == (wanted == "cuda"):
            return x
        x = x if made else x.clone()
        (self.devices.put if wanted == "cuda" else self.devices.take)(x)
        return x


@contextmanager
def pretend_cuda() -> Iterator[PretendCuda]:
    """Run with "cuda" meaning the CPU, Lightning Fabric's accelerators included; see the top of the file."""
    import lightning_fabric

    class Fabric(lightning_fabric.Fabric):
        def __init__(self, *, accelerator: str, **options: Any) -> None:
            super().__init__(accelerator="cpu", **options)
            if accelerator == "cuda":
                self._strategy._root_device = CUDA  # type: ignore[attr-defined]
                patch.setattr(self._accelerator, "setup_device", lambda _: None)

    mode = PretendCuda()
    with pytest.MonkeyPatch.context() as patch, _Follow(mode.devices), mode:
        patch.setattr(lightning_fabric, "Fabric", Fabric)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "get_rng_state", lambda _: torch.get_rng_state())
        patch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
        yield mode
