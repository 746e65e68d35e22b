"""Devices reach the computation: encoding models and evaluation make no tensor without the device they were given."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from b2m_fast import encoding
from b2m_fast.evaluate import reconstruction, robustness
from device_mode import pretend_cuda

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 8)), RNG.normal(size=(60, 3))
IMAGES = RNG.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
NETWORK = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))


@pytest.mark.parametrize(
    "fit",
    [
        lambda: encoding.fit_ridge(X, Y, device="cuda").weights,
        lambda: encoding.fit_ridge(X, Y, folds="loo", device="cuda").weights,
        lambda: encoding.crossfit(X, Y, device="cuda").responses,
        lambda: encoding.fit_encoder(X, Y, device="cuda").weights,
        lambda: encoding.fit_layers([X], Y, device="cuda").ridge.weights,
        lambda: encoding.gabor_pyramid(IMAGES, device="cuda"),
        lambda: encoding.tap(NETWORK, ["1"], np.ones((5, 64), np.float32), device="cuda")["1"],
    ],
    ids=["ridge", "leave-one-out", "crossfit", "encoder", "layers", "gabor", "tap"],
)
def test_encoding_follows_its_device(fit: Callable[[], np.ndarray]) -> None:
    """Where "cuda" is the CPU, fits ask for it, make no tensor elsewhere, and give finite numbers."""
    with pretend_cuda() as mode:
        found = fit()
    assert mode.asked > 0
    assert np.isfinite(found).all()


def test_evaluation_makes_no_tensor_elsewhere() -> None:
    """Accuracy, noise, attacks and reconstruction follow the model and the images; noise is the same on any device."""
    x = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = NETWORK(x).argmax(1)
    plain = robustness.noise_accuracy(NETWORK, x, y, (0.5,))
    with pretend_cuda():
        assert robustness.accuracy(NETWORK, x, y) == 1
        assert robustness.noise_accuracy(NETWORK, x, y, (0.5,)) == plain
        assert robustness.pgd_accuracy(NETWORK, x, y, "linf", (1e-6,), 2) == [1]
        large = x.repeat(1, 1, 2, 2)
        assert reconstruction.structural_similarity(large, large).numpy() == pytest.approx(1)
        assert reconstruction.mean_squared_error(large, large).sum() == 0


# --------------------------------------------------------------------------------------------------
# No device is named but where it must be
# --------------------------------------------------------------------------------------------------
PACKAGE = Path(encoding.__file__ or "").parents[1]
# Files in which "cpu" stands otherwise than as the default of an argument or setting, how often at most, and why.
NAMED = {
    "_bench.py": (2, "a section of what `b2m info` says"),
    "_info.py": (1, "that section"),
    "experiments/brain2model.py": (
        1,
        "the default of the machine's options, which are no settings",
    ),
    "experiments/engine.py": (3, "choices and default of --accelerator, and what auto becomes"),
    "experiments/report.py": (1, "that key of reports"),
    "experiments/runs.py": (2, "that section; a key of reports: the processor's name"),
    "ops/_checks.py": (4, "tells the devices apart"),
    "ops/_comparison.py": (1, "tells the devices apart"),
    "ops/_ranks.py": (1, "inversions are counted on the CPU"),
    "ops/_types.py": (1, "tells the devices apart"),
    "ops/engines/cpu.py": (4, "the engine of the CPU"),
    "ops/engines/select.py": (2, "names of the engines"),
}


def named(tree: ast.Module) -> int:
    """Count the strings "cpu" that are no default of an argument or a field, and no part of a type."""
    counted = 0
    free: set[int] = set()
    for node in ast.walk(tree):
        found: list[Any] = []
        if isinstance(node, ast.arguments):
            found = [*node.defaults, *node.kw_defaults]
        elif isinstance(node, ast.AnnAssign):
            found = [*ast.walk(node.annotation), node.value]
        elif isinstance(node, ast.Expr):
            found = [node.value]
        free |= {id(part) for part in found if isinstance(part, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value == "cpu":
            counted += id(node) not in free
    return counted


def test_the_cpu_is_named_nowhere_else() -> None:
    """Tensors are made on, or moved to, the device given: every other place is listed with its reason."""
    found = {
        str(path.relative_to(PACKAGE)): named(ast.parse(path.read_text(encoding="utf-8")))
        for path in PACKAGE.rglob("*.py")
    }
    there = {name: count for name, count in found.items() if count}
    assert set(there) == set(NAMED)
    assert not {name: count for name, count in there.items() if count > NAMED[name][0]}


def test_a_named_cpu_is_found() -> None:
    """In a call, a comparison or a dictionary; not as a default, in a type or in a docstring."""
    source = '''
def f(x, device: str = "cpu", *, where="cpu"):
    """cpu"""
    kind: Literal["cpu", "cuda"] = "cpu"
    return x.to("cpu") if x.device.type != "cpu" else {"cpu": device}
'''
    assert named(ast.parse(source)) == 3
