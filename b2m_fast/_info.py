"""What this installation is and what it will use: for bug reports and for the heads of tables.

Nothing here initialises CUDA: asking must not cost a context, nor spoil a later fork.
"""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from b2m_fast import _C

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["collect", "main", "render"]

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
            "levels compiled": ", ".join(_C.isa_compiled()),
            "levels available": ", ".join(_C.isa_available()),
            "level chosen": _C.isa_chosen(),
            "B2M_ISA": os.environ.get("B2M_ISA", "not set"),
            "processors": str(_processors()),
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
        lines.append(section)
        lines.extend(f"  {name:<{width}}  {value}" for name, value in facts.items())
    return "\n".join(lines)


def _processors() -> int:
    """Count the processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cuda_driver(root: Path = _DRIVER) -> str:
    """Read the version of the NVIDIA kernel driver where the system tells it."""
    try:
        text = (root / "version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "none found"
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", text)
    return found.group(1) if found else "unknown"


def _cuda_devices(root: Path = _DRIVER) -> list[str]:
    """List the names of the NVIDIA devices, from the kernel, or from torch if it is up."""
    if torch.cuda.is_initialized():
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    names: list[str] = []
    for page in sorted(root.glob("gpus/*/information")):
        try:
            text = page.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        found = re.search(r"^Model:\s*(.+?)\s*$", text, re.MULTILINE)
        names.append(found.group(1) if found else "unknown")
    return names


def main(_: Sequence[str] = ()) -> int:
    """Print the facts (``b2m info``) and return 0."""
    print(render(collect()))
    return 0
