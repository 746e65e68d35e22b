"""Human fMRI of 81 object categories in ten visual areas (Object2Vec)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.data import dataset
from b2m_fast.data.files import DataError, Source, load_jpegs, load_npz
from b2m_fast.data.recording import Brain, Recording, Stimuli

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SOURCE", "object2vec"]

SOURCE = Source(
    name="the Object2Vec fMRI data of Bonner and Epstein (Nature Communications 2021)",
    folder="object2vec",
    files=("object2vec_subj001.npz", "stimuli_81x10_128px.zip"),
    origin=(
        "github.com/kelseyhan-jhu/semantic at commit f8e838b, kh/object2vec_encoder_python/data; pack "
        "the first subject as object2vec_subj001.npz (betas (81, voxels), categories, roi_index from "
        "1, roi_names, fold), its stimuli as JPEG files of 128 pixels, <category>/<name>.jpg, in "
        "stimuli_81x10_128px.zip"
    ),
    licence="none is given; cite the paper; do not redistribute",
)


@dataset(
    "object2vec",
    "human fMRI, ten visual areas, 81 categories of objects",
    kind="categories",
    source=SOURCE,
)
def object2vec(root: Path | None = None) -> Brain:
    """One person, 1,870 voxels: a recording for each area, one beta for each category of ten images, the authors' folds."""
    responses, zipped = SOURCE.paths(root)
    data = load_npz(responses, ("betas", "categories", "roi_index", "roi_names", "fold"))
    betas, categories = data["betas"], data["categories"].astype(str)
    index, areas = data["roi_index"], data["roi_names"].astype(str).tolist()
    if (
        betas.ndim != 2
        or betas.shape != (len(categories), len(index))
        or len(data["fold"]) != len(categories)
        or set(np.unique(index)) != set(range(1, len(areas) + 1))
    ):
        raise DataError(
            f"{responses}: betas must be (categories, voxels) with a name and a fold for each "
            f"category and an area for each voxel, got {betas.shape}, {len(categories)} names, "
            f"{len(data['fold'])} folds, {len(index)} areas of voxels"
        )
    files, images = load_jpegs(zipped)
    presented = tuple(file.rpartition("/")[0].rpartition("/")[2] for file in files)
    if strange := sorted(set(presented) ^ set(categories.tolist())):
        raise DataError(f"{zipped}: folders must be the categories of the betas, not so: {strange}")
    recordings = [
        Recording(
            betas[:, index == k].astype(np.float32),
            categories,
            session=area,
            subject="subj001",
            kind="beta",
            split=data["fold"].astype(str),
        )
        for k, area in enumerate(areas, start=1)
    ]
    stimuli = Stimuli(tuple(files), images, name="Object2Vec", presented=presented)
    remark = "The brains are areas of ONE person: they differ by area, not by person."
    return Brain("Object2Vec", recordings, [stimuli], remarks=[remark])
