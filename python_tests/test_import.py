"""`import b2m_fast` loads nothing but itself; the ops need torch and numpy, and no other package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import b2m_fast

# What torch and numpy do at import is theirs: they are loaded before anything is measured.
LEAN = """
import json, sys
before = set(sys.modules)
import b2m_fast
alone = set(sys.modules) - before
import numpy, torch
from pathlib import Path

def threads():
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else 0

modules, started = set(sys.modules), threads()
b2m_fast.info_nce, b2m_fast.nn
ops = set(sys.modules) - modules
from b2m_fast import _info
_info.collect()
print(json.dumps({
    "package alone": sorted({name.partition(".")[0] for name in alone} - sys.stdlib_module_names),
    "parts of it": sorted(name for name in alone if name.startswith("b2m_fast.")),
    "ops": sorted({name.partition(".")[0] for name in ops} - sys.stdlib_module_names),
    "compiler": "torch._dynamo" in ops or "torch._inductor" in ops,
    "cuda": torch.cuda.is_initialized(),
    "threads": threads() - started,
}))
"""

# Distributions that neither torch nor numpy depends on cannot be imported.
ALONE = """
import importlib.abc, json, re, sys
from importlib import metadata

needed, todo = set(), ["torch", "numpy", "b2m-fast"]
while todo:
    name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
    if name in needed:
        continue
    needed.add(name)
    try:
        requirements = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        continue
    todo += [re.match(r"[\\w.-]+", r)[0] for r in requirements if "extra ==" not in r]
blocked = {
    module
    for module, names in metadata.packages_distributions().items()
    if not {re.sub(r"[-_.]+", "-", name).lower() for name in names} & needed
} - {"b2m_fast"}

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is not installed, as far as this test goes")

sys.meta_path.insert(0, Blocker())
import numpy as np, torch
import b2m_fast as b2m
from b2m_fast import drop_in

x, y = torch.randn(9, 4, requires_grad=True), torch.randn(9, 4)
i = torch.arange(9)
losses = {
    "pairwise_similarity": b2m.pairwise_similarity(x, y).mean(),
    "pair_similarity": b2m.pair_similarity(x, i, i.flip(0)).mean(),
    "info_nce": b2m.info_nce(x, y),
    "sigmoid_contrastive": b2m.sigmoid_contrastive(x, y),
    "rsa_penalty": b2m.rsa_penalty(x, np.ones((9, 3), np.float32) + i[:, None].numpy()),
    "reference": b2m.ops.reference.info_nce(x, y),
    "nn": b2m.nn.RSAPenalty("cka", center="ema")(x, y),
    "drop_in": drop_in.ClipLoss()(x, y, logit_scale=2.0),
}
sum(losses.values()).backward()
assert x.grad.isfinite().all()
for compare in ("pearson", "spearman", "kendall"):
    assert b2m.rsa_score(x, y, compare=compare).isfinite()
assert b2m.topk_similarity(x, k=2)[1].shape == (9, 2)
print(json.dumps({"blocked": sorted(blocked), "loaded": sorted(blocked & set(sys.modules))}))
"""


def run(code: str, cwd: Path, **environment: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_import_loads_nothing_until_an_op_is_used(tmp_path: Path) -> None:
    """Neither torch nor numpy with the package; no other package, thread or CUDA with the ops.

    Asking what the installation is, as `b2m info` does, does not initialise CUDA either.
    """
    assert run(LEAN, tmp_path, PYTHONWARNINGS="error") == {
        "package alone": ["b2m_fast"],
        "parts of it": [],
        "ops": ["b2m_fast"],
        "compiler": False,
        "cuda": False,
        "threads": 0,
    }


@pytest.mark.slow
def test_ops_need_torch_and_numpy_alone(tmp_path: Path) -> None:
    """Where nothing else can be imported every op, module and drop-in works."""
    result = run(ALONE, tmp_path)
    assert "pytest" in result["blocked"]  # the environment has more, and it was out of reach
    assert result["loaded"] == []


def test_names_of_the_package() -> None:
    """`dir` lists what there is; everything listed can be had; anything else is an AttributeError."""
    import importlib

    assert dir(b2m_fast) == sorted(b2m_fast.__all__)
    for name in b2m_fast.__all__:
        assert getattr(b2m_fast, name) is not None
    assert b2m_fast.info_nce is b2m_fast.ops.info_nce
    assert not hasattr(b2m_fast, "infonce")
    assert importlib.import_module("b2m_fast") is b2m_fast


def test_package_is_typed_and_versioned() -> None:
    assert b2m_fast.__version__
    assert b2m_fast.__file__ is not None
    assert (Path(b2m_fast.__file__).parent / "py.typed").is_file()
