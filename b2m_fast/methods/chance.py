"""Chance: generators that can be stored, one for each purpose, so that arms share what they can."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Chance", "Stream", "seeded"]


class Stream:
    """What a seed's independent streams are for."""

    TASK = 0
    TEACHER = 1
    VALIDATION = 2
    HEADS = 3
    STUDENT = 4


class Chance:
    """A NumPy and a PyTorch generator of one stream of a seed.

    Parameters
    ----------
    seed, stream : int
        Streams of a seed are independent: drawing from one leaves the others as they are.

    Attributes
    ----------
    numpy : numpy.random.Generator
        For orders and draws of samples.
    torch : torch.Generator
        For noise, on the CPU.
    """

    def __init__(self, seed: int, stream: int) -> None:
        self.numpy = np.random.default_rng([seed, stream])
        self.torch = torch.Generator().manual_seed(_torch_seed(seed, stream))

    def state(self) -> dict[str, Any]:
        """Where both generators are."""
        return {"numpy": self.numpy.bit_generator.state, "torch": self.torch.get_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned.

        Parameters
        ----------
        state : dict
            As returned.
        """
        self.numpy.bit_generator.state = state["numpy"]
        self.torch.set_state(state["torch"])


@contextmanager
def seeded(seed: int, stream: int = Stream.STUDENT) -> Iterator[None]:
    """Modules built inside start from this stream; PyTorch's own generator stays as it was.

    Parameters
    ----------
    seed, stream : int
        As for `Chance`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_torch_seed(seed, stream))
        yield


def _torch_seed(seed: int, stream: int) -> int:
    return int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0] >> 1)
