"""Peak memory: linear in the number of rows, whatever the number of pairs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# 6000 rows: one float32 matrix of all pairs takes 137 MB, and plain torch needs four and more.
SETUP = """
import re, resource, sys
from pathlib import Path
import numpy as np, torch
from b2m_fast import ops

def memory(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

torch.set_num_threads(1)
n, d = 6000, 64
folder = Path(sys.argv[1])
x = torch.randn(n, d, requires_grad=True)
y = torch.randn(n, d, requires_grad=True)

def run(x, y):
    {call}

run(x[:300], y[:300])  # buffers of libraries
if {mapped}:
    write = np.lib.format.open_memmap(folder / "m.npy", "w+", np.float32, (n, n))
    write[:] = 0.5
    write.flush()
    del write
    stored = np.load(folder / "m.npy", mmap_mode="r+")
if {mapped}:
    # Pages of a mapped file come and go as the system likes: limit what is not a file instead.
    most = int((memory("VmData") + 40) * 2**20)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    run(x, y)
    grown = 0.0
else:
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = memory("VmRSS")
    run(x, y)
    grown = memory("VmHWM") - before
print(grown)
"""

CALLS = {
    "info_nce": "ops.info_nce(x, y).backward()",
    "info_nce, labels": (
        "ops.info_nce(x, y, labels=torch.arange(len(x)) // 3, return_aux=True)[0].backward()"
    ),
    "sigmoid": "ops.sigmoid_contrastive(x, y).backward()",
    "atanh": "ops.rsa_penalty(x, y.detach()).backward()",
    "cka, rbf": "ops.rsa_penalty(x, y.detach(), compare='cka', metric='rbf').backward()",
    "feature form": "ops.rsa_penalty(x, y.detach(), compare='pearson', form='feature').backward()",
    "topk": "ops.topk_similarity(x, y, 10)",
}
MAPPED = {
    "score of a map": (
        "ops.rsa_score(x, stored if len(x) == n else y, "
        "y_kind='similarity' if len(x) == n else 'responses')"
    ),
    "penalty of a map": (
        "ops.rsa_penalty(x, stored if len(x) == n else y.detach(), "
        "target_kind='similarity' if len(x) == n else 'responses').backward()"
    ),
    "out is a map": (
        "ops.pairwise_similarity(x.detach(), out=stored if len(x) == n else torch.zeros(300, 300))"
    ),
}


def megabytes(call: str, mapped: bool, folder: Path) -> float:
    status = Path("/proc/self/status")
    if not status.exists() or "VmHWM" not in status.read_text():
        pytest.skip("this system does not tell the peak memory of a process")
    script = SETUP.replace("{call}", call).replace("{mapped}", str(mapped))
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        cwd=folder,  # in the repository, "-c" would import the sources, which lack the extension
        capture_output=True,
        text=True,
        check=False,
    )
    if "clear_refs" in done.stderr:
        pytest.skip("this system does not let a process reset its peak memory")
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize("name", CALLS)
def test_peak(name: str, tmp_path: Path) -> None:
    """Forward and backward over 36 million pairs grow by some copies of the inputs (1.5 MB each)."""
    assert megabytes(CALLS[name], False, tmp_path) < 40


@pytest.mark.parametrize("name", MAPPED)
def test_memory_maps(name: str, tmp_path: Path) -> None:
    """A 137 MB matrix on disk is read or written where it lies, never copied to memory."""
    assert megabytes(MAPPED[name], True, tmp_path) < 40


def test_measure(tmp_path: Path) -> None:
    """The measure sees what plain torch needs, and the limit stops a copy of the map."""
    assert megabytes("(x @ y.T).logsumexp(dim=1).sum().backward()", False, tmp_path) > 130
    with pytest.raises(AssertionError, match="allocate"):
        megabytes("len(x) == n and torch.from_numpy(stored).clone()", True, tmp_path)
