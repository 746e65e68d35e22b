"""Time the contenders of a group in turns, after checking that they compute the same thing."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import cases
from b2m_fast import _bench

if TYPE_CHECKING:
    from memory import MemoryServer

# Loose: float32 against float64 sums, and torch.cdist, whose zeros are wrong by 1e-2.
TOLERANCE = 2e-2
LOSS_TOLERANCE = 2e-3

# Memory of small cases drowns in the resolution; compiling a case twice costs more than it tells.
SMALLEST_FOR_MEMORY = 4096
COMPILED_MEMORY_AT = 4096, 128

OVERTIME = 1 / 4  # of the time that is given
OUT_OF_TIME = "out of time: see B2M_BENCH_SECONDS"


@dataclass
class Measured:
    """What is known of one contender in one group."""

    group: cases.Group
    contender: str
    seconds: list[float] = field(default_factory=list)
    memory_mib: float | None = None
    skipped: str | None = None
    failed: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Budget:
    """Seconds for the rounds of each group, so that the whole run ends in time.

    What is left is shared by the groups that are left, a third of it kept back for first calls,
    compilation and memory. Groups of large sizes get more. On a machine that is slow or busy even
    the fewest rounds take longer than that; when that goes too far, `over` says so.
    """

    def __init__(self, total: float, groups: list[cases.Group]) -> None:
        self._end = time.monotonic() + total
        self._last = self._end + OVERTIME * total
        self._weights = {group.name: self._weight(group) for group in groups}

    def over(self) -> bool:
        return time.monotonic() > self._last

    @staticmethod
    def _weight(group: cases.Group) -> float:
        passes = 2 if group.mode == cases.STEP else 1
        return group.op.share * passes * (group.n / 1024) * (1 + group.d / 256)

    def seconds(self, group: cases.Group) -> float:
        left = max(0.0, self._end - time.monotonic())
        share = self._weights[group.name] / sum(self._weights.values())
        self._weights.pop(group.name)
        return min(30.0, max(0.5, left * share * 2 / 3))


def measure(group: cases.Group, seconds: float, memory: MemoryServer | None) -> dict[str, Measured]:
    """Measure all contenders of a group; what goes wrong with one is noted and stops no other."""
    inputs = cases.make_inputs(group.n, group.d)
    found = {c.name: Measured(group, c.name) for c in group.op.contenders}
    calls: dict[str, Callable[[], object]] = {}
    first: tuple[str, Tensor] | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's libraries
        for contender in group.op.contenders:
            case = found[contender.name]
            case.skipped = group.reason_to_skip(contender)
            if case.skipped:
                continue
            try:
                call = step(contender, group, inputs)
                value = call()
            except Exception as error:  # noqa: BLE001 - whatever another library raises
                case.failed = f"{type(error).__name__}: {error}"
                continue
            if isinstance(value, Tensor):
                first = first or (contender.name, value)
                case.failed = disagreement(value, first[1], first[0])
            if case.failed is None:
                calls[contender.name] = call
            if memory is not None and _memory_wanted(contender, group):
                case.memory_mib = memory.peak_mib(group, contender)
        first = value = None
        for name, times in _bench.interleave(calls, seconds).items():
            found[name].seconds = times
    return found


def skip(group: cases.Group, reason: str) -> dict[str, Measured]:
    """Measure nothing of a group, and say why."""
    return {c.name: Measured(group, c.name, skipped=reason) for c in group.op.contenders}


def step(
    contender: cases.Contender, group: cases.Group, inputs: cases.Inputs
) -> Callable[[], Tensor | None]:
    """What is timed: the forward pass without gradients, or forward and backward."""
    backward = group.mode != cases.FORWARD
    run = contender.make(inputs, backward)

    def call() -> Tensor | None:
        for leaf in inputs.leaves:
            leaf.grad = None
        with contender.setting():
            with torch.set_grad_enabled(backward):
                value: Tensor | None = run()
            if value is not None and backward:
                # For a matrix of values the gradient that arrives is a constant without memory.
                value.backward(torch.ones((), dtype=value.dtype).expand(value.shape))
        return None if value is None else value.detach()

    return call


def disagreement(value: Tensor, expected: Tensor, of: str) -> str | None:
    """Say how a result differs from that of another contender, if it does.

    Condensed values meet a full matrix.
    """
    if value.ndim == 1 and expected.ndim == 2:
        i, j = torch.triu_indices(len(expected), len(expected), offset=1)
        expected = expected[i, j]
    tolerance = LOSS_TOLERANCE if expected.ndim == 0 else TOLERANCE
    worst = float((value.to(expected.dtype) - expected).abs().max())
    allowed = tolerance * float(expected.abs().max())
    if worst <= allowed:  # False for NaN
        return None
    return f"differs from {of} by {worst:.3g}, more than {allowed:.3g}"


def _memory_wanted(contender: cases.Contender, group: cases.Group) -> bool:
    if group.n < SMALLEST_FOR_MEMORY or not group.op.memory:
        return False
    if contender.slow or (contender.compiled and (group.n, group.d) != COMPILED_MEMORY_AT):
        return False
    return group.mode != cases.FORWARD or not group.op.has_gradient or contender.forward_only
