"""Time and memory of calls: on a GPU, or, to rehearse a run where there is none, on the host."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

Call = Callable[[], object]

FLUSH_BYTES = 256 << 20  # several times the second-level cache of any GPU so far
WARM_UPS = 2
ROUNDS = (3, 30)


class LostDeviceError(RuntimeError):
    """The device does not answer any more: this process can measure nothing further."""


class Gpu:
    """Events around a call whose inputs are in memory, not in the caches.

    Before each call a large buffer is overwritten. That empties the second-level cache, and keeps
    the device busy while the host gets ahead, as it would be in a training step.
    """

    name = "cuda"

    def __init__(self) -> None:
        self._buffer = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def seconds(self, call: Call) -> float:
        begin, end = self._events
        self._buffer.fill_(1)
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    def peak_bytes(self, call: Call) -> int:
        """Most memory held at a time during a call, beyond what is held before it."""
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def held_bytes(self) -> int:
        return torch.cuda.memory_allocated() - FLUSH_BYTES

    def recover(self) -> None:
        """After an error: free what it left, or find out that the device is lost."""
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise LostDeviceError(str(error)) from error


class Rehearsal:
    """The host in place of a GPU: shows that every line runs, measures nothing worth keeping."""

    name = "cpu"

    def seconds(self, call: Call) -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    def peak_bytes(self, call: Call) -> int:
        call()
        return 0

    def held_bytes(self) -> int:
        return 0

    def recover(self) -> None:
        """Nothing is lost."""


Clock = Gpu | Rehearsal


@dataclass
class Timed:
    """What became of one contender: times, or why there are none."""

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    error: str | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None


def describe(error: BaseException) -> str:
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out of memory"
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:200]


def interleave(clock: Clock, calls: dict[str, Call], budget: float) -> dict[str, Timed]:
    """Call all in turns, so that each meets the same clocks and temperatures; medians decide.

    What fails is left out of the turns. Slow ones get fewer rounds, so that `budget` seconds are
    about kept.
    """
    found = {name: Timed() for name in calls}
    rounds: dict[str, int] = {}
    share = budget / max(1, len(calls))
    for name, call in calls.items():
        try:
            for _ in range(WARM_UPS):
                last = clock.seconds(call)
            found[name].peak_bytes = clock.peak_bytes(call)
        except Exception as error:  # noqa: BLE001 - whatever another library raises
            found[name].error = describe(error)
            clock.recover()
            continue
        rounds[name] = min(ROUNDS[1], max(ROUNDS[0], int(share / max(last, 1e-6))))
    for number in range(max(rounds.values(), default=0)):
        for name, count in rounds.items():
            if number < count:
                found[name].seconds.append(clock.seconds(calls[name]))
    return found
