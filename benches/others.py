"""How busy our processors were with other work: what makes the times of a run worth less."""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
# Of the processors' time; from here on the table of figures says that others computed. Not less:
# processes that torch.compile keeps to compile in are taken for others.
TOLERABLE = 0.1


def usable() -> set[int] | None:
    """Numbers of the processors that this process may run on; None where the system has no such."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def busy_ticks(text: str, numbers: set[int] | None) -> tuple[int, int]:
    """Ticks in which these processors worked, and how many they are; all if not every one is told.

    Work is user, nice, system, irq, softirq and steal.
    """
    lines = {name: rest.split() for name, _, rest in (s.partition(" ") for s in text.splitlines())}
    ours = [f"cpu{number}" for number in numbers or ()]
    if not ours or not lines.keys() >= set(ours):
        ours = ["cpu"]
    ticks = 0
    for name in ours:
        user, nice, system, _, _, irq, softirq, steal = map(int, lines[name][:8])
        ticks += user + nice + system + irq + softirq + steal
    return ticks, (os.cpu_count() or 1) if ours == ["cpu"] else len(ours)


class OtherWork:
    """From its creation on: what part of our processors' time others used."""

    def __init__(self) -> None:
        self._numbers = usable()
        self._start = self._now()

    def _now(self) -> tuple[float, float, float] | None:
        """Seconds of all our processors: passed, worked, and worked for us and our children."""
        try:
            ticks, count = busy_ticks(STAT.read_text(encoding="ascii"), self._numbers)
        except (OSError, ValueError, KeyError):
            return None
        own = sum(os.times()[:4])
        return count * time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), own

    def part(self) -> float | None:
        """None where the system does not tell; children count once they have been waited for."""
        end = self._now()
        if self._start is None or end is None:
            return None
        passed, busy, own = (b - a for a, b in zip(self._start, end, strict=True))
        return max(0.0, busy - own) / passed
