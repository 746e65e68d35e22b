"""Peak memory of a case: what one forward (and backward) adds to the memory of its inputs.

Run as a script it is a small server: one line of JSON per case on standard input, one per answer on
standard output. It imports torch once and forks for every case, so that a case meets a fresh heap.
It never computes before it forks: a pool of threads would not survive that.

The figure is the resident peak (VmHWM, reset through /proc/self/clear_refs) less the resident
memory just before. glibc keeps freed blocks below a threshold that it raises by itself; it is fixed
here, so that resident memory follows live tensors. Resolution: some hundred KiB.
"""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import torch

import cases
import harness
import suite

THRESHOLD = 1 << 19  # bytes; larger blocks are mapped, and given back when freed
LIMIT_SECONDS = 120
WARM_UP_ROWS = 64


class MemoryServer:
    """The other end of the script; None for what cannot be measured."""

    def __init__(self) -> None:
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(THRESHOLD)}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def close(self) -> None:
        self._process.communicate()

    def peak_mib(self, group: cases.Group, contender: cases.Contender) -> float | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        question = (group.op.name, group.mode, group.n, group.d, contender.name)
        threads = torch.get_num_threads()
        self._process.stdin.write(json.dumps([*question, threads]) + "\n")
        self._process.stdin.flush()
        answer: float | None = json.loads(self._process.stdout.readline() or "null")
        return answer


def _status_kib(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found.group(1))


def _measure(name: str, mode: str, n: int, d: int, who: str, threads: int) -> float:
    torch.set_num_threads(threads)
    op = next(op for op in suite.all_ops() if op.name == name)
    contender = next(c for c in op.contenders if c.name == who)
    group = cases.Group(op, mode, n, d)
    # Libraries, pools of threads and compiled code are no memory of a call: have them beforehand.
    small = cases.make_inputs(n if contender.compiled else WARM_UP_ROWS, d)
    call = harness.step(contender, group, small)
    call()
    if contender.compiled:
        inputs = small
    else:
        inputs = cases.make_inputs(n, d)
        call = harness.step(contender, group, inputs)
    for leaf in inputs.leaves:
        leaf.grad = None
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status_kib("VmRSS")
    call()
    return max(0, _status_kib("VmHWM") - before) / 1024


def _serve() -> None:
    answers = sys.stdout
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT_SECONDS)
            warnings.simplefilter("ignore")
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            try:
                os.write(writing, json.dumps(_measure(*json.loads(line))).encode())
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            answers.write((pipe.read() or "null") + "\n")
        os.waitpid(child, 0)
        answers.flush()


if __name__ == "__main__":
    _serve()
