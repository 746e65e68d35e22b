"""Batches: augmented task images, neural images with their similarities, random pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from b2m_fast.teachers.similarity import Target

__all__ = ["augment", "draw_images", "draw_pairs"]


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


def draw_images(
    targets: Sequence[Target], count: int, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of neural images of one image set, with their similarities.

    The sets take turns in proportion to their images; within a set images are shuffled and used
    up before they come again, but for those of the last, incomplete batch.

    Parameters
    ----------
    targets : sequence of Target
        Image sets.
    count : int
        Images in a batch.
    rng : numpy.random.Generator
        Source of chance.

    Yields
    ------
    images : Tensor
        (count, 1, size, size) in [0, 1].
    similarity : Tensor
        (count, count).
    """
    sizes = np.array([len(t.images) for t in targets], dtype=float)
    queues: list[NDArray[np.intp]] = [np.empty(0, np.intp) for _ in targets]
    while True:
        k = int(rng.choice(len(targets), p=sizes / sizes.sum()))
        if len(queues[k]) < count:
            queues[k] = rng.permutation(len(targets[k].images))
        chosen, queues[k] = queues[k][:count], queues[k][count:]
        yield (
            torch.from_numpy(targets[k].images[chosen][:, None]),
            torch.from_numpy(targets[k].similarity[np.ix_(chosen, chosen)]),
        )


def draw_pairs(
    targets: Sequence[Target], count: int, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless random pairs i < j of one image set (the paper's way).

    Draws are independent; the released code walks through a shuffled list of all pairs, of which a
    training sees a few per cent.

    Parameters
    ----------
    targets : sequence of Target
        Image sets.
    count : int
        Pairs in a batch.
    rng : numpy.random.Generator
        Source of chance.

    Yields
    ------
    first, second : Tensor
        (count, 1, size, size) in [0, 1].
    similarity : Tensor
        (count,).
    """
    sizes = np.array([len(t.images) for t in targets], dtype=float)
    while True:
        target = targets[int(rng.choice(len(targets), p=sizes / sizes.sum()))]
        n = len(target.images)
        i = rng.integers(0, n, count)
        j = (i + rng.integers(1, n, count)) % n
        i, j = np.minimum(i, j), np.maximum(i, j)
        yield (
            torch.from_numpy(target.images[i][:, None]),
            torch.from_numpy(target.images[j][:, None]),
            torch.from_numpy(target.similarity[i, j]),
        )
