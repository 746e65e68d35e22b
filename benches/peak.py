"""The peak of each unit of one core, by a program that does nothing else: `peak.cpp`."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("peak.cpp")
LIMIT_SECONDS = 120

# What each level of ours multiplies with.
UNITS = {
    "generic": "sse2",
    "avx2": "avx2",
    "avx512": "avx512",
    "avx512bf16": "avx512bf16",
    "amx": "amx",
}


class Peaks(NamedTuple):
    """GFLOP/s by unit, and why there is none."""

    gflops: dict[str, float]
    missing: dict[str, str]

    def reason(self, unit: str) -> str:
        return self.missing.get(unit) or self.missing.get("all", "not measured")


def compiler() -> str | None:
    """The system's C++ compiler; CXX in the environment chooses another."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((name for name in names if name and shutil.which(name)), None)


def measure() -> Peaks:
    """Build the program and run it: some seconds."""
    using = compiler()
    if using is None:
        return Peaks({}, {"all": "no C++ compiler: CXX, c++, g++ and clang++ were looked for"})
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "peak")
        try:
            _run(using, "-O2", "-std=c++17", str(SOURCE), "-o", program)
            return parse(_run(program))
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            return Peaks({}, {"all": f"{type(error).__name__}: {said[0][:200]}"})


def _run(*command: str) -> str:
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=LIMIT_SECONDS
    ).stdout


def parse(text: str) -> Peaks:
    """Read the lines "unit GFLOP/s" and "unit - reason"."""
    peaks = Peaks({}, {})
    for line in text.splitlines():
        unit, _, rest = line.partition(" ")
        if rest.startswith("- "):
            peaks.missing[unit] = rest[2:]
        else:
            peaks.gflops[unit] = float(rest)
    return peaks
