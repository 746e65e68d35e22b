"""What a case is: an op, its contenders, the sizes it is timed at, and settings of a call.

Which ops and contenders there are is said in `timed_losses`, `timed_similarities`, `timed_levels` and
`timed_sizes`; `suite` puts them together.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from b2m_fast import ops

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = "b2m_fast"
FORWARD, STEP = "forward", "forward+backward"
PAIRS_PER_ROW = 16  # pairs listed for pair_similarity

USUAL_D = 128
LARGEST_OF_SLOW = 4096  # rows; where contenders that take long are not left out

# The whole grid only for the first op; the others at the sizes that tell most.
GRID = tuple((n, d) for n in (1024, 4096, 8192) for d in (64, USUAL_D, 512))
FEW = ((1024, USUAL_D), (4096, USUAL_D))


class Inputs(NamedTuple):
    """Correlated standard normal rows (leaves with gradients) and listed pairs."""

    x: Tensor
    y: Tensor
    scale: Tensor
    bias: Tensor
    i: Tensor
    j: Tensor

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return self.x, self.y, self.scale, self.bias


def make_inputs(n: int, d: int) -> Inputs:
    generator = torch.Generator().manual_seed(n + d)
    x = torch.randn(n, d, generator=generator)
    y = x + torch.randn(n, d, generator=generator)
    i, j = torch.randint(n, (2, PAIRS_PER_ROW * n), generator=generator)
    inputs = Inputs(x, y, torch.tensor(1 / 0.07), torch.tensor(-10.0), i, j)
    for leaf in inputs.leaves:
        leaf.requires_grad_()
    return inputs


# What a contender returns: a loss, a matrix of values, or nothing (matrix products only).
Run = Any
Setting = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Contender:
    """One way of computing what an op computes.

    `make(inputs, backward)` prepares (outside the timing) and returns the call that is timed; what
    the call returns is differentiated where the mode asks for it. `setting` holds around the call
    and the differentiation, and puts back what it changed.
    """

    name: str
    make: Callable[[Inputs, bool], Callable[[], Run]]
    largest: int = 1 << 62
    forward_only: bool = False
    missing: Callable[[], str | None] = lambda: None
    differentiable: bool = True
    compiled: bool = False
    slow: bool = False
    setting: Setting = nullcontext


class Op(NamedTuple):
    """An op with its fixed options, and where it is timed.

    The name of an op that is timed once more in another respect is "respect: name of the op".
    """

    name: str
    contenders: tuple[Contender, ...]
    sizes: tuple[tuple[int, int], ...] = FEW
    modes: tuple[str, ...] = (FORWARD, STEP)
    short: bool = False  # also in the short form of the run, at FEW sizes
    memory: bool = True
    share: float = 1  # of the time, relative to others of the same sizes

    @property
    def has_gradient(self) -> bool:
        return STEP in self.modes


@dataclass(frozen=True)
class Group:
    """Contenders that are timed together."""

    op: Op
    mode: str
    n: int
    d: int

    @property
    def name(self) -> str:
        return f"{self.op.name} {self.mode} N={self.n} D={self.d}"

    def reason_to_skip(self, contender: Contender) -> str | None:
        if contender.forward_only and self.mode != FORWARD:
            return "forward only"
        if self.n > contender.largest:
            return f"too slow or too large above N={contender.largest}"
        if contender.slow and self.n > LARGEST_OF_SLOW:
            return f"slow: not above N={LARGEST_OF_SLOW}"
        if contender.compiled and self.mode == FORWARD:
            return "takes long to compile: not for the forward pass alone"
        return contender.missing()


# --------------------------------------------------------------------------------------------------
# Contenders
# --------------------------------------------------------------------------------------------------
def plain(name: str, call: Callable[[Inputs], Run], **options: Any) -> Contender:
    """Make a contender that needs no preparation."""
    return Contender(name, lambda inputs, _: partial(call, inputs), **options)


def compiled(call: Callable[[Inputs], Run]) -> Contender:
    def make(inputs: Inputs, _: bool) -> Callable[[], Run]:
        torch.compiler.reset()  # else shapes of other groups count against the limit of recompiles
        return partial(torch.compile(call, dynamic=False), inputs)

    return Contender("torch.compile", make, missing=_no_compiler, compiled=True)


def prepared(
    name: str, prepare: Callable[[Inputs], Any], call: Callable[[Any], Run], **options: Any
) -> Contender:
    """Make a contender without gradient that takes the inputs in another form."""
    return Contender(
        name, lambda inputs, _: partial(call, prepare(inputs)), forward_only=True, **options
    )


def reference(call: Callable[[Inputs], Run]) -> Contender:
    """What the others have to agree with; timed for the plain op alone."""
    return plain("reference", call, largest=FEW[0][0] - 1)


def with_reference(
    call: Callable[[Any, Inputs], Run], largest: int = 1 << 62, **options: Any
) -> tuple[Contender, Contender]:
    """Ours, and the reference of it: `call` takes the module that holds the op."""
    other = plain("reference", partial(call, ops.reference), largest=largest, slow=True, **options)
    return plain(OURS, partial(call, ops), **options), other


@cache
def _no_compiler() -> str | None:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        return f"torch.compile finds no compiler: {type(error).__name__}"
    return None


def without(module: str) -> Callable[[], str | None]:
    return lambda: None if find_spec(module) else f"{module} is not installed"


# --------------------------------------------------------------------------------------------------
# Settings of a call
# --------------------------------------------------------------------------------------------------
@contextmanager
def at_high() -> Iterator[None]:
    """PyTorch's precision setting "high": parts of bfloat16 where a level multiplies them faster."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def at_level(level: str) -> Iterator[None]:
    """An instruction level of ours, which is read from the environment at every call."""
    before = os.environ.get("B2M_ISA")
    os.environ["B2M_ISA"] = level
    try:
        yield
    finally:
        if before is None:
            del os.environ["B2M_ISA"]
        else:
            os.environ["B2M_ISA"] = before


@contextmanager
def with_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def together(*settings: Setting) -> Iterator[None]:
    with ExitStack() as stack:
        for setting in settings:
            stack.enter_context(setting())
        yield
