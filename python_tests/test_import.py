"""`import b2m_fast` is lean: no CUDA, no threads, no heavy package, no warning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# torch and numpy are dependencies; what they do at import is theirs. The rest is measured from there.
SCRIPT = """
import sys
import numpy, torch
from pathlib import Path

def threads():
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else 0

modules, before = set(sys.modules), threads()
import b2m_fast
added = set(sys.modules) - modules
print("cuda", torch.cuda.is_initialized())
print("threads", threads() - before)
heavy = {"foolbox", "matplotlib", "sklearn", "scipy", "tqdm", "pandas", "rsatoolbox"}
print("heavy", sorted({name.partition(".")[0] for name in added} & heavy))
print("compiler", "torch._dynamo" in added or "torch._inductor" in added)
"""


def run(code: str, cwd: Path, **environment: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def test_import_is_lean_and_silent(tmp_path: Path) -> None:
    assert run(SCRIPT, tmp_path, PYTHONWARNINGS="error") == {
        "cuda": "False",
        "threads": "0",
        "heavy": "[]",
        "compiler": "False",
    }


def test_importing_twice_in_one_process_is_harmless(tmp_path: Path) -> None:
    code = (
        "import importlib, b2m_fast, b2m_fast.ops\n"
        "import b2m_fast as again\n"
        "print('same', again is b2m_fast)"
    )
    assert run(code, tmp_path) == {"same": "True"}


def test_package_is_typed_and_versioned() -> None:
    import b2m_fast

    assert b2m_fast.__file__ is not None
    assert (Path(b2m_fast.__file__).parent / "py.typed").is_file()
