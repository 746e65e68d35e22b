"""Peak memory: linear in the number of rows, whatever the number of pairs.

All calls are measured in one process, one after the other.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# 6000 rows: one float32 matrix of all pairs takes 137 MB, and plain torch needs four and more.
SETUP = """
import gc, json, re, resource, sys
from pathlib import Path
import numpy as np, torch
from b2m_fast import ops

def memory(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

torch.set_num_threads(1)
calls = json.loads(sys.argv[2])
n, d = 6000, 64
path = Path(sys.argv[1]) / "m.npy"
x = torch.randn(n, d, requires_grad=True)
y = torch.randn(n, d, requires_grad=True)

def run(call, x, y, stored):
    x.grad = y.grad = None
    exec(call, {"ops": ops, "torch": torch, "x": x, "y": y, "stored": stored})

def mapped(rows):
    write = np.lib.format.open_memmap(path, "w+", np.float32, (rows, rows))
    write[:] = 0.5
    write.flush()
    del write
    return np.load(path, mmap_mode="r+")
"""

PEAKS = """
grown = {}
for name, call in calls.items():
    run(call, x[:300].detach().requires_grad_(), y[:300].detach().requires_grad_(), None)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = memory("VmRSS")
    run(call, x, y, None)
    grown[name] = memory("VmHWM") - before
print(json.dumps(grown))
"""

# Pages of a mapped file come and go as the system likes: what is not a file is limited instead.
LIMITED = """
few, many = [x[:300].detach().requires_grad_(), y[:300].detach().requires_grad_()], [x, y]
for call in calls.values():
    run(call, *few, mapped(300))  # buffers of libraries
stored = mapped(n)
unlimited = resource.getrlimit(resource.RLIMIT_DATA)
failed = {}
for name, call in calls.items():
    most = int((memory("VmData") + 40) * 2**20)
    resource.setrlimit(resource.RLIMIT_DATA, (most, unlimited[1]))
    try:
        run(call, *many, stored)
    except (MemoryError, RuntimeError) as error:
        failed[name] = str(error)
    resource.setrlimit(resource.RLIMIT_DATA, unlimited)
print(json.dumps(failed))
"""

PEAK_CALLS = {
    "info_nce": "ops.info_nce(x, y).backward()",
    "info_nce, labels": (
        "ops.info_nce(x, y, labels=torch.arange(len(x)) // 3, return_aux=True)[0].backward()"
    ),
    "sigmoid": "ops.sigmoid_contrastive(x, y).backward()",
    "atanh": "ops.rsa_penalty(x, y.detach()).backward()",
    "cka, rbf": "ops.rsa_penalty(x, y.detach(), compare='cka', metric='rbf').backward()",
    "feature form": "ops.rsa_penalty(x, y.detach(), compare='pearson', form='feature').backward()",
    "topk": "ops.topk_similarity(x, y, 10)",
    "plain torch": "(x @ y.T).logsumexp(dim=1).sum().backward()",
}
MAPPED_CALLS = {
    "score of a map": "ops.rsa_score(x, stored, y_kind='similarity')",
    "penalty of a map": "ops.rsa_penalty(x, stored, target_kind='similarity').backward()",
    "out is a map": "ops.pairwise_similarity(x.detach(), out=stored)",
    "copy of a map": "torch.from_numpy(stored).clone()",
}


def measured(script: str, calls: dict[str, str], folder: Path) -> dict[str, float | str]:
    status = Path("/proc/self/status")
    if not status.exists() or "VmHWM" not in status.read_text():
        pytest.skip("this system does not tell the peak memory of a process")
    done = subprocess.run(
        [sys.executable, "-c", SETUP + script, str(folder), json.dumps(calls)],
        cwd=folder,  # in the repository, "-c" would import the sources, which lack the extension
        capture_output=True,
        text=True,
        check=False,
    )
    if "clear_refs" in done.stderr:
        pytest.skip("this system does not let a process reset its peak memory")
    assert done.returncode == 0, done.stderr
    results: dict[str, float | str] = json.loads(done.stdout)
    return results


def test_peak(tmp_path: Path) -> None:
    """Forward and backward over 36 million pairs grow by some copies of the inputs (1.5 MB each).

    Plain torch, which makes the matrix, shows that the measure sees one.
    """
    grown = measured(PEAKS, PEAK_CALLS, tmp_path)
    assert float(grown.pop("plain torch")) > 130
    assert {name: size for name, size in grown.items() if float(size) >= 40} == {}


def test_memory_maps(tmp_path: Path) -> None:
    """A 137 MB matrix on disk is read or written where it lies, never copied to memory.

    A copy, which does not fit into the limit, shows that there is one.
    """
    failed = measured(LIMITED, MAPPED_CALLS, tmp_path)
    assert "allocate" in str(failed.pop("copy of a map"))
    assert failed == {}
