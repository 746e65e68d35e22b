"""`rsa_score` of 100,000 patterns: seconds and memory of a process that does nothing else.

Run as a script it is one measurement: JSON of a `Question` as its argument, JSON of an answer on
standard output. The seconds are those of the one call, the first of its process; the memory is all
that the process ever held at once, with torch, the package and both sets of patterns.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import b2m_fast
from b2m_fast import ops
from cases import at_high

COMPARISONS = ("pearson", "atanh")
LIMIT_SECONDS = 400
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Question:
    """What one process measures, at "high"."""

    compare: str
    n: int = 100_000
    d: int = 512
    responses: int = 1000
    threads: int = 2

    @property
    def name(self) -> str:
        return f"rsa_score {self.compare}, {self.n:,} patterns"


def counted(threads: int) -> str:
    return f"{threads} thread" + "s" * (threads != 1)


def peak_bytes() -> int | None:
    """What this process ever held at once, from nothing on; None where the system does not tell."""
    try:
        text = STATUS.read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)
    return 1024 * int(found.group(1)) if found else None


def answer(question: Question) -> dict[str, Any]:
    """Measure, in this process; nothing but the two sets of patterns is made before the call."""
    torch.set_num_threads(question.threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.empty(question.n, question.d).normal_(generator=generator)
    y = torch.empty(question.n, question.responses).normal_(generator=generator)
    y[:, : question.d] += x[:, : question.responses]
    with at_high():
        start = time.perf_counter()
        used = time.process_time()
        value = ops.rsa_score(x, y, compare=question.compare)
        seconds, used = time.perf_counter() - start, time.process_time() - used
    peak = peak_bytes()
    return {
        **asdict(question),
        "name": question.name,
        "value": float(value),
        "seconds": round(seconds, 3),
        "cpu_seconds": round(used, 3),
        "peak_gb": None if peak is None else round(peak / 1e9, 3),
        "failed": None,
    }


def ask(question: Question) -> dict[str, Any]:
    """The answer of a process of its own, with the package that is imported here."""
    package = str(Path(b2m_fast.__file__ or "").parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    failed = {**asdict(question), "name": question.name}
    try:
        done = subprocess.run(
            [sys.executable, __file__, json.dumps(asdict(question))],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {**failed, "failed": f"not done after {LIMIT_SECONDS} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        return {**failed, "failed": f"ended with {done.returncode}: {last[:200]}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    print(json.dumps(answer(Question(**json.loads(sys.argv[1])))))
