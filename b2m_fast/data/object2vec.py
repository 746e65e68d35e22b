"""Human fMRI of 81 object categories in ten visual areas (Object2Vec)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.data.files import DataError, Source, load_jpegs, load_npz

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["OBJECT2VEC", "CategoryRecording", "object2vec", "object2vec_files"]

OBJECT2VEC = Source(
    name="the Object2Vec fMRI data of Bonner and Epstein (Nature Communications 2021)",
    folder="object2vec",
    origin=(
        "github.com/kelseyhan-jhu/semantic at commit f8e838b, kh/object2vec_encoder_python/data; pack "
        "the first subject as object2vec_subj001.npz (betas (81, voxels), categories, roi_index from "
        "1, roi_names, fold), its stimuli as JPEG files of 128 pixels, <category>/<name>.jpg, in "
        "stimuli_81x10_128px.zip"
    ),
    licence="none is given; cite the paper; do not redistribute",
)
_FILES = ("object2vec_subj001.npz", "stimuli_81x10_128px.zip")
_KEYS = ("betas", "categories", "roi_index", "roi_names", "fold")


@dataclass(frozen=True)
class CategoryRecording:
    """What areas of one brain answered to categories of objects, each shown as several images.

    Attributes
    ----------
    name : str
        The recording's name.
    images : ndarray
        (n, H, W, 3), uint8, of all categories.
    category : ndarray
        (n,), int64: category of each image.
    categories : tuple of str
        Their names.
    areas : dict of str to ndarray
        Name of an area -> (categories, voxels), float32.
    fold : ndarray
        (categories,), int64: the authors' folds for cross-validation.
    """

    name: str
    images: NDArray[np.uint8]
    category: NDArray[np.int64]
    categories: tuple[str, ...]
    areas: dict[str, NDArray[np.float32]]
    fold: NDArray[np.int64]

    def average(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Averages over the images of each category.

        Parameters
        ----------
        values : ndarray
            (n, p), a row an image.

        Returns
        -------
        ndarray
            (categories, p).
        """
        total = np.zeros((len(self.categories), values.shape[1]))
        np.add.at(total, self.category, values)
        return total / np.bincount(self.category, minlength=len(self.categories))[:, None]


def object2vec_files(root: Path) -> list[Path]:
    """The files `object2vec` reads, known to exist.

    Parameters
    ----------
    root : Path
        The data directory.

    Returns
    -------
    list of Path
        Responses, stimuli.

    Raises
    ------
    DataError
        If one is missing.
    """
    return [OBJECT2VEC.path(root, name) for name in _FILES]


def object2vec(root: Path) -> CategoryRecording:
    """One person, 81 categories x 10 images, 1,870 voxels in ten areas: one response a category.

    Parameters
    ----------
    root : Path
        The data directory.

    Returns
    -------
    CategoryRecording
        Betas, and the images of each category.

    Raises
    ------
    DataError
        If a file is missing or malformed, or images and categories do not match.
    """
    responses, stimuli = object2vec_files(root)
    data = load_npz(responses, _KEYS)
    betas, names = data["betas"], tuple(str(c) for c in data["categories"])
    index, rois = data["roi_index"], [str(r) for r in data["roi_names"]]
    if (
        betas.ndim != 2
        or betas.shape != (len(names), len(index))
        or len(data["fold"]) != len(names)
        or set(np.unique(index)) != set(range(1, len(rois) + 1))
    ):
        raise DataError(
            f"{responses}: betas must be (categories, voxels) with a name and a fold for each "
            f"category and an area for each voxel, got {betas.shape}, {len(names)} names, "
            f"{len(data['fold'])} folds, {len(index)} areas of voxels"
        )
    if not np.isfinite(betas).all():
        raise DataError(f"{responses}: betas contain NaN or infinity")
    files, images = load_jpegs(stimuli)
    shown = [file.rpartition("/")[0].rpartition("/")[2] for file in files]
    if set(shown) != set(names):
        strange = sorted(set(shown) ^ set(names))
        raise DataError(
            f"{stimuli}: folders must be the categories of the betas, not so: {strange}"
        )
    place = {name: k for k, name in enumerate(names)}
    areas = {roi: betas[:, index == k].astype(np.float32) for k, roi in enumerate(rois, start=1)}
    category = np.array([place[name] for name in shown], dtype=np.int64)
    return CategoryRecording(
        "Object2Vec", images, category, names, areas, data["fold"].astype(np.int64)
    )
