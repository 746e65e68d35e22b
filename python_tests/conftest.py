"""Settings of every test: one thread unless a test asks for more, repeatable random examples."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

import engines

if TYPE_CHECKING:
    from collections.abc import Iterator

# cuBLAS keeps to it under `torch.use_deterministic_algorithms`; read when CUDA is first used.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

settings.register_profile(
    "everyday", deadline=None, max_examples=15, derandomize="CI" in os.environ
)
settings.register_profile("long", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "everyday"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep timings and results independent of the machine's cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test marked `engines` with every engine there is here."""
    marker = metafunc.definition.get_closest_marker("engines")
    if marker is not None:
        missing = {name: engines.missing(name) for name in marker.args}
        here = [
            pytest.param(name, marks=[pytest.mark.cuda] if name == "cuda" else [])
            for name, reason in missing.items()
            if reason is None
        ]
        none = pytest.mark.skip(reason="; ".join(filter(None, missing.values())))
        metafunc.parametrize("engine", here or [pytest.param("none", marks=none)], indirect=True)


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of the engine that computes while the test runs; also the device of its tensors."""
    name = getattr(request, "param", "cpu")
    with engines.computing_with(name):
        yield name
