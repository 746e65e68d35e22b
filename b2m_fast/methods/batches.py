"""Batches: shuffled indices, augmented task images, neural images with similarities, pairs.

What draws batches without end can say where it is, and go on from there (`state`, `load_state`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from b2m_fast.methods.chance import Chance
    from b2m_fast.teachers.similarity import SimilarityTarget

__all__ = ["ImageBatches", "InOrder", "PairBatches", "Shuffled", "augment"]


def augment(x: Tensor, crop: int, flip: bool, rng: np.random.Generator) -> Tensor:
    """Random crop after reflecting at the border, and random mirror image.

    Parameters
    ----------
    x : Tensor
        (n, 1, size, size).
    crop : int
        Padding in pixels.
    flip : bool
        Whether to mirror half of the images.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    Tensor
        Of the same shape.
    """
    n, _, size, _ = x.shape
    padded = functional.pad(x, (crop, crop, crop, crop), mode="reflect")
    top, left = (torch.from_numpy(rng.integers(0, 2 * crop + 1, n)) for _ in range(2))
    row = top[:, None] + torch.arange(size)
    column = left[:, None] + torch.arange(size)
    if flip:
        mirrored = torch.from_numpy(rng.random(n) < 0.5)
        column = torch.where(mirrored[:, None], column.flip(1), column)
    return padded[torch.arange(n)[:, None, None], 0, row[:, :, None], column[:, None, :]][:, None]


class Shuffled:
    """Endless batches of indices: all of them in a random order, then in another, and so on.

    Parameters
    ----------
    count : int
        Indices 0 to count - 1.
    batch : int
        Indices in a batch.
    rng : numpy.random.Generator
        Source of chance, which may serve others too: its state is theirs to keep.
    drop_last : bool
        Whether the last, incomplete batch of an order is left out.
    """

    def __init__(
        self, count: int, batch: int, rng: np.random.Generator, *, drop_last: bool = False
    ) -> None:
        self.count, self.batch, self.rng, self.drop_last = count, batch, rng, drop_last
        self.left: NDArray[np.int64] = np.empty(0, np.int64)

    def __next__(self) -> NDArray[np.int64]:
        """Indices of the next batch, (batch,) or fewer."""
        if len(self.left) < (self.batch if self.drop_last else 1):
            self.left = self.rng.permutation(self.count)
        chosen, self.left = self.left[: self.batch], self.left[self.batch :]
        return chosen

    def state(self) -> dict[str, Any]:
        """What is left of the present order."""
        return {"left": torch.from_numpy(self.left.copy())}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned.

        Parameters
        ----------
        state : dict
            As returned.
        """
        self.left = state["left"].numpy()


class InOrder:
    """What goes through things in random orders: a generator and an order are all it has to remember."""

    chance: Chance
    order: Shuffled

    def state(self) -> dict[str, Any]:
        """Where the generator is, and what is left of the order."""
        return {"chance": self.chance.state(), "order": self.order.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned.

        Parameters
        ----------
        state : dict
            As returned.
        """
        self.chance.load_state(state["chance"])
        self.order.load_state(state["order"])


class ImageBatches:
    """Endless batches of neural images of one image set, with their similarities.

    The sets take turns in proportion to their images; within a set images are shuffled and used
    up before they come again, but for those of the last, incomplete batch. Each batch is images
    (count, 1, size, size) in [0, 1] and similarities (count, count).

    Parameters
    ----------
    targets : sequence of SimilarityTarget
        Image sets.
    count : int
        Images in a batch.
    rng : numpy.random.Generator
        Source of chance, for these batches alone.
    """

    def __init__(self, targets: Sequence[SimilarityTarget], count: int, rng: np.random.Generator) -> None:
        self.targets, self.rng = targets, rng
        self.share = _shares(targets)
        self.orders = [Shuffled(len(t.images), count, rng, drop_last=True) for t in targets]

    def __next__(self) -> tuple[Tensor, Tensor]:
        """Images and similarities of the next batch."""
        k = int(self.rng.choice(len(self.targets), p=self.share))
        target, chosen = self.targets[k], next(self.orders[k])
        return (
            torch.from_numpy(target.images[chosen][:, None]),
            target.similarity(chosen),
        )

    def state(self) -> dict[str, Any]:
        """Generator and what is left of the orders."""
        return {
            "rng": self.rng.bit_generator.state,
            "orders": [order.state() for order in self.orders],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned.

        Parameters
        ----------
        state : dict
            As returned.
        """
        self.rng.bit_generator.state = state["rng"]
        for order, left in zip(self.orders, state["orders"], strict=True):
            order.load_state(left)


class PairBatches:
    """Endless random pairs i < j of one image set (the paper's way).

    Draws are independent; the released code walks through a shuffled list of all pairs, of which a
    training sees a few per cent. Each batch is first and second images (count, 1, size, size) in
    [0, 1] and similarities (count,).

    Parameters
    ----------
    targets : sequence of SimilarityTarget
        Image sets.
    count : int
        Pairs in a batch.
    rng : numpy.random.Generator
        Source of chance, for these batches alone.
    """

    def __init__(self, targets: Sequence[SimilarityTarget], count: int, rng: np.random.Generator) -> None:
        self.targets, self.count, self.rng = targets, count, rng
        self.share = _shares(targets)

    def __next__(self) -> tuple[Tensor, Tensor, Tensor]:
        """First images, second images and similarities of the next batch."""
        target = self.targets[int(self.rng.choice(len(self.targets), p=self.share))]
        n = len(target.images)
        i = self.rng.integers(0, n, self.count)
        j = (i + self.rng.integers(1, n, self.count)) % n
        i, j = np.minimum(i, j), np.maximum(i, j)
        return (
            torch.from_numpy(target.images[i][:, None]),
            torch.from_numpy(target.images[j][:, None]),
            target.pairs(i, j),
        )

    def state(self) -> dict[str, Any]:
        """The generator."""
        return {"rng": self.rng.bit_generator.state}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned.

        Parameters
        ----------
        state : dict
            As returned.
        """
        self.rng.bit_generator.state = state["rng"]


def _shares(targets: Sequence[SimilarityTarget]) -> NDArray[np.float64]:
    """Share of each image set in all images."""
    sizes = np.array([len(t.images) for t in targets], dtype=float)
    shares: NDArray[np.float64] = sizes / sizes.sum()
    return shares
