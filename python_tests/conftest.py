"""Settings of every test: one thread unless a test asks for more, repeatable random examples."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

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
