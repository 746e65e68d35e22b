"""How busy the machine was with other work: what makes the times of a run worth less."""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
# Of the processors' time; from here on the table of figures says that others computed. Not less:
# processes that torch.compile keeps to compile in are taken for others.
TOLERABLE = 0.1


def busy_ticks(text: str) -> int:
    """Ticks in which any processor worked: user, nice, system, irq, softirq and steal."""
    user, nice, system, _, _, irq, softirq, steal = map(int, text.split()[1:9])
    return user + nice + system + irq + softirq + steal


class OtherWork:
    """From its creation on: what part of the processors' time others used."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """Seconds by the clock, of all processors at work, and of this process and its children."""
        try:
            ticks = busy_ticks(STAT.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        own = sum(os.times()[:4])
        return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), own

    def part(self) -> float | None:
        """None where the system does not tell; children count once they have been waited for."""
        end = self._now()
        if self._start is None or end is None:
            return None
        clock, busy, own = (b - a for a, b in zip(self._start, end, strict=True))
        return max(0.0, busy - own) / (clock * (os.cpu_count() or 1))
