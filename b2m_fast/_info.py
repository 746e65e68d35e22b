"""What this installation is and what it will use: for bug reports and for the heads of tables.

Nothing here initialises CUDA: asking must not cost a context, nor spoil a later fork.
"""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from b2m_fast import _C

_DRIVER = Path("/proc/driver/nvidia")


def collect() -> dict[str, dict[str, str]]:
    """Gather the facts, section by section.

    Returns
    -------
    dict of dict of str
        Sections ``versions``, ``cpu``, ``precision`` and ``cuda``, each a mapping of plain strings,
        so that it can be written as JSON as it is.
    """
    build = _C.build_info()
    affinity = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    return {
        "versions": {
            "b2m_fast": metadata.version("b2m-fast"),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
            "compiler": build["compiler"],
            "system": f"{platform.system()} {platform.machine()}",
        },
        "cpu": {
            "processor": _found(Path("/proc/cpuinfo"), r"^model name\s*:\s*(.+?)\s*$"),
            "levels compiled": ", ".join(_C.isa_compiled()),
            "levels available": ", ".join(_C.isa_available()),
            "level chosen": _C.isa_chosen(),
            "B2M_ISA": os.environ.get("B2M_ISA", "not set"),
            "processors": str(len(affinity(0))),
            "threads": str(torch.get_num_threads()),
            "OpenMP": build["openmp"],
        },
        "precision": {"float32 matmul": torch.get_float32_matmul_precision()},
        "cuda": {
            "compiled": build["cuda"],
            "torch built for": torch.version.cuda or "no CUDA",
            "driver": _cuda_driver(),
            "devices": ", ".join(_cuda_devices()) or "none found",
        },
    }


def render(info: dict[str, dict[str, str]]) -> str:
    """Lay out what `collect` gathered as aligned lines of text.

    Parameters
    ----------
    info : dict of dict of str
        Sections of named facts.

    Returns
    -------
    str
        One line per section title and per fact, without a final newline.
    """
    width = max((len(name) for facts in info.values() for name in facts), default=0)
    lines: list[str] = []
    for section, facts in info.items():
        lines += [section, *(f"  {name:<{width}}  {value}" for name, value in facts.items())]
    return "\n".join(lines)


def _found(path: Path, pattern: str) -> str:
    """Return what a pattern finds in a file that the kernel writes; "none found" where there is no such file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "none found"
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else "unknown"


def _cuda_driver(root: Path = _DRIVER) -> str:
    """Return the version of the NVIDIA kernel driver where the system tells it."""
    return _found(root / "version", r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s")


def _cuda_devices(root: Path = _DRIVER) -> list[str]:
    """Return the names of the machine's NVIDIA devices, from the kernel."""
    pages = sorted(root.glob("gpus/*/information"))
    return [_found(page, r"^Model:\s*(.+?)\s*$") for page in pages]
