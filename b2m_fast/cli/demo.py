"""``b2m demo``: what the package does, in two minutes: the ops on this machine, a brain that teaches, and what to do next."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from b2m_fast import _bench
from b2m_fast.experiments import experiment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NEXT = """
What to do next with data of your own
  in a training loop   loss = task_loss + 0.1 * b2m_fast.info_nce(student, brain)      (README.md)
  as an experiment     b2m brain2model latent --brain my_brain.py:load --task my_task.py:make --seeds 0 1 2 3 4 5
                       b2m regularize --brain my_brain.py:load                         (CONTRIBUTING.md: "Add a data set")
  recordings           b2m regularize --help lists those that are known, with where to get them
Arms, controls, resume and report are the same for all of them."""


def _peak_mib(step: Callable[[], object]) -> float | None:
    """Return the memory that a step takes at its peak beyond what was there, in MiB; None where Linux does not tell."""

    def read(name: str) -> int:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition(f"{name}:")[2].split()[0])

    with suppress(OSError, ValueError, IndexError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the peak so far
        before = read("VmRSS")
        step()
        return (read("VmHWM") - before) / 1024
    return None


def _memory(n: int = 8192, d: int = 64) -> str:
    """Return a line on the memory of a step of info_nce, ours and the reference's."""
    import torch

    from b2m_fast import info_nce, ops

    few = torch.randn(64, d, requires_grad=True)
    x, y = (torch.randn(n, d, requires_grad=True) for _ in range(2))
    for op in (info_nce, ops.reference.info_nce):
        op(few, few).backward()  # what the first call loads does not count
    found = [
        _peak_mib(lambda op=op: op(x, y).backward())  # type: ignore[misc]
        for op in (info_nce, ops.reference.info_nce)
    ]
    shown = ["not known here" if f is None else f"{f:.0f} MiB" for f in found]
    return f"memory of a step of info_nce, {n} x {d}: b2m_fast {shown[0]}, reference {shown[1]}"


def main(argv: Sequence[str]) -> int:
    """Run the demonstration and return its exit code."""
    parser = argparse.ArgumentParser(prog="b2m demo", description=__doc__)
    parser.add_argument("--out", default="b2m-results/demo", help="(default: %(default)s)")
    options = parser.parse_args(list(argv))
    from b2m_fast.experiments import engine

    memory = _memory()  # first: later, memory that was freed would be used again, and not be seen
    print("1. The ops on this machine, against plain torch (make bench: all of it)\n")
    if code := _bench.main(["--n", "1024", "4096", "--seconds", "1.5"]):
        return code
    print(f"\n{memory}")
    print(
        "\n2. A brain that teaches, where the truth is known: a network has learned to compare directions, simulated neurons\n"
        "   observe it, and students learn the same task with the neurons' latents as a second teacher. Controls: the same\n"
        "   latents shuffled among trials, and one-hot labels.\n"
    )
    sys.stdout.flush()
    arms = ["none", "brain", "shuffled", "label"]
    seeds = ["0", "1", "2", "3", "4", "5"]
    code = engine.main(
        experiment.get("brain2model latent").make(),
        ["--arms", *arms, "--seeds", *seeds, "--steps", "150", "--out", options.out],
    )
    print(f"\nThe figure: {options.out}/results.png\n{NEXT}")
    return code
