"""Libraries that fit one encoding model: many targets, a path of penalties, cross-validation.

Run as a script it is one measurement in a process of its own: JSON of a `Problem` as its argument, JSON of the result
on standard output. Peak memory is what the process adds to what it held with the data in memory, so the data
themselves (features and responses) are not in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import b2m_fast
from b2m_fast.encoding.ridge import fit_ridge

Array = NDArray[np.float32]
# Penalties, relative to the number of rows; weights and chosen penalties come back.
Fit = Callable[[Array, Array, NDArray[np.float64], int], tuple[Array, NDArray[np.float64]]]


@dataclass(frozen=True)
class Problem:
    """Who fits what in one process; `targets` may be fewer than the whole problem has."""

    contender: str
    n: int
    p: int
    targets: int
    alphas: int = 20
    folds: int = 5
    threads: int = 2


def data(n: int, p: int, targets: int) -> tuple[Array, Array]:
    """Features with a spectrum like a network's, and targets of R2 from 0 to about a half.

    Targets are made in blocks of their own seeds: fewer of them are the first of more.
    """
    rng = np.random.default_rng(0)
    x = (
        rng.standard_normal((n, p), dtype=np.float32)
        * np.arange(1, p + 1, dtype=np.float32) ** -0.5
    )
    x -= x.mean(axis=0)
    x /= np.sqrt((x**2).mean())
    y = np.empty((n, targets), dtype=np.float32)
    for begin in range(0, targets, 500):
        block = np.random.default_rng(1 + begin)
        w = block.standard_normal((p, 500), dtype=np.float32) / np.float32(np.sqrt(p))
        noise = block.standard_normal((n, 500), dtype=np.float32)
        level = block.uniform(1, 10, 500).astype(np.float32)
        y[:, begin : begin + 500] = (x @ w + level * noise)[:, : targets - begin]
    y -= y.mean(axis=0)
    return x, y


def ours(x: Array, y: Array, alphas: NDArray[np.float64], folds: int) -> tuple[Array, Any]:
    found = fit_ridge(x, y, alphas=alphas.tolist(), folds=folds, standardise=False)
    return np.asarray(found.weights, dtype=np.float32), found.alphas


def _himalaya(model: str, weights: str) -> Fit:
    def fit(x: Array, y: Array, alphas: NDArray[np.float64], folds: int) -> tuple[Array, Any]:
        from himalaya import kernel_ridge, ridge
        from himalaya.backend import set_backend
        from sklearn.model_selection import KFold

        set_backend("torch")
        kind: Any = getattr(ridge if model == "RidgeCV" else kernel_ridge, model)
        options = {
            "n_targets_batch": 1000,
            "n_targets_batch_refit": 1000,
            "n_alphas_batch": 5,
        }
        found = kind(
            alphas=(alphas * len(x)).astype(np.float32),
            cv=KFold(folds),
            solver_params=options,
            fit_intercept=True,
        ).fit(torch.from_numpy(x), torch.from_numpy(y))
        back = found.coef_ if weights == "coef_" else found.get_primal_coef(torch.from_numpy(x))
        return back.numpy(), found.best_alphas_.numpy() / len(x)

    return fit


def _scikit_learn(per_target: bool) -> Fit:
    def fit(x: Array, y: Array, alphas: NDArray[np.float64], folds: int) -> tuple[Array, Any]:
        from sklearn.linear_model import RidgeCV
        from sklearn.model_selection import KFold

        how: dict[str, Any] = {"alpha_per_target": True} if per_target else {"cv": KFold(folds)}
        found = RidgeCV(alphas=alphas * len(x), **how).fit(x, y)
        chosen = np.broadcast_to(np.asarray(found.alpha_) / len(x), y.shape[1])
        return found.coef_.T, chosen

    return fit


CONTENDERS: dict[str, Fit] = {
    "b2m_fast": ours,
    "himalaya RidgeCV": _himalaya("RidgeCV", "coef_"),
    "himalaya KernelRidgeCV": _himalaya("KernelRidgeCV", "dual"),
    "scikit-learn RidgeCV, one penalty for all": _scikit_learn(False),
    "scikit-learn RidgeCV, leave-one-out": _scikit_learn(True),
}
# These choose penalties in another way, so only the others' choices can be compared with ours.
OTHER_CHOICE = {name for name in CONTENDERS if name.startswith("scikit-learn")}


def penalties(count: int) -> NDArray[np.float64]:
    """The grid of the bench, relative to n: 1e-2 to 1e6."""
    return np.geomspace(1e-2, 1e6, count)


def status_mib(field: str) -> float:
    """A size of this process, as the kernel counts it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def measure(problem: Problem) -> dict[str, Any]:
    """Time and memory of one fit; weights of a few targets are kept to be compared."""
    torch.set_num_threads(problem.threads)
    fit = CONTENDERS[problem.contender]
    small = data(60, 30, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's libraries
        fit(*small, penalties(problem.alphas), problem.folds)  # imports, thread pools
        x, y = data(problem.n, problem.p, problem.targets)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before, start, used = status_mib("VmRSS"), time.perf_counter(), time.process_time()
        weights, chosen = fit(x, y, penalties(problem.alphas), problem.folds)
        seconds, used = time.perf_counter() - start, time.process_time() - used
    return {
        **asdict(problem),
        "seconds": seconds,
        "cpu_seconds": used,
        "memory_mib": max(0.0, status_mib("VmHWM") - before),
        "data_mib": (x.nbytes + y.nbytes) / 2**20,
        "chosen": chosen[:100].tolist(),
        "weights": weights[:50, :20].tolist(),
    }


def measure_apart(problem: Problem) -> dict[str, Any]:
    """`measure` in a process of its own, with the package that is imported here."""
    threads = str(problem.threads)
    package = str(Path(b2m_fast.__file__ or "").parents[1])
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(asdict(problem))],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])]),
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{problem.contender}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    print(json.dumps(measure(Problem(**json.loads(sys.argv[1])))))
