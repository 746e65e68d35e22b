"""The engines that tests of the ops run with.

cpu       the compiled engine
torch     the one in plain torch, on CPU tensors, in blocks so small that their borders matter
emulated  the CUDA kernels executed on the host, band by band; in builds with B2M_CUDA=EMULATED
cuda      CUDA tensors, with whatever computes them in this build
"""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING

import torch

from b2m_fast import _C
from b2m_fast.ops.engines import cuda, select
from b2m_fast.ops.engines.cuda import kernels as cuda_kernels
from b2m_fast.ops.engines.cuda import scores as cuda_scores
from b2m_fast.ops.engines.torch import blocks as torch_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERY = ("cpu", "torch", "emulated", "cuda")

#: Instruction levels of the CPU that multiply bfloat16 parts.
LEVELS_WITH_PARTS = ("avx512bf16", "amx", "amx-emulated")

_current = ["cpu"]


def missing(name: str) -> str | None:
    """Return why an engine is not here, if it is not."""
    if name == "emulated" and not cuda.emulated():
        return "this build has no kernels for the host (B2M_CUDA=EMULATED)"
    if name == "cuda" and not torch.cuda.is_available():
        return "no CUDA device"
    return None


def current() -> str:
    """Return the name of the engine in use."""
    return _current[-1]


def kernels() -> bool:
    """Return whether the CUDA kernels are in use."""
    return current() == "emulated" or (
        current() == "cuda" and cuda.missing_on(torch.device("cuda")) is None
    )


def by_parts() -> bool:
    """Return whether rows may be multiplied as sums of bfloat16 parts: by kernels, and some CPUs."""
    return kernels() or (current() == "cpu" and _C.isa_chosen() in LEVELS_WITH_PARTS)


def rounding(dtype: torch.dtype) -> float:
    """Return the error of a score of rows of a dtype, relative to the largest of its kind.

    Rows multiplied by parts are rounded to bfloat16, or to sums of several; all others to float32.
    """
    if by_parts() and dtype in {torch.bfloat16, torch.float16}:
        return {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-16}[dtype]
    return torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps


@contextlib.contextmanager
def _small(module: object, **values: int) -> Iterator[None]:
    """Set constants of a module for a while."""
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    yield
    for name, value in before.items():
        setattr(module, name, value)


@contextlib.contextmanager
def computing_with(name: str) -> Iterator[None]:
    """Compute with an engine, tensors being made on its device by default."""
    with contextlib.ExitStack() as stack:
        _current.append(name)
        stack.callback(_current.pop)
        if name == "torch":
            stack.enter_context(_small(torch_blocks, BLOCK=5000, _COLUMNS=90))
            stack.enter_context(select.forced("torch"))
        elif name == "emulated":
            stack.enter_context(_small(cuda_kernels, WORKSPACE=1, COLUMNS=128))
            stack.enter_context(_small(cuda_scores, _CHOSEN_FROM=64))
            stack.enter_context(select.forced("cuda"))
        elif name == "cuda":
            torch.set_default_device("cuda")
            stack.callback(torch.set_default_device, None)
            with warnings.catch_warnings():  # of plain torch, in a build without kernels
                warnings.simplefilter("ignore")
                select.engine_of(torch.device("cuda"))
        yield
