"""Human fMRI of 81 object categories in ten visual areas (Object2Vec)."""

from __future__ import annotations

import numpy as np

from b2m_fast.data import dataset
from b2m_fast.data.files import Axes, Root, Source, load_jpegs, load_npz, require
from b2m_fast.data.recording import Brain, Recording, Stimuli

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


@dataset("object2vec", "human fMRI, 81 categories of objects", kind="categories", source=SOURCE)
def object2vec(root: Root = None) -> Brain:
    """One person, 1,870 voxels: a recording for each area, one beta for each category of ten images, the authors' folds."""
    responses, zipped = SOURCE.paths(root)
    axes: dict[str, Axes] = {"betas": ("categories", "voxels"), "roi_index": ("voxels",)}
    axes |= {"categories": ("categories",), "fold": ("categories",), "roi_names": ("areas",)}
    betas, index, *words = load_npz(responses, axes).values()
    categories, fold, areas = (names.astype(str) for names in words)
    each = set(index.tolist()) == set(range(1, len(areas) + 1))
    require(each, f"{responses}: roi_index must name an area for each voxel, and every area")
    files, images = load_jpegs(zipped)
    presented = tuple(file.rpartition("/")[0].rpartition("/")[2] for file in files)
    strange = sorted(set(presented) ^ set(categories.tolist()))
    known = f"{zipped}: folders must be the categories of the betas, not so: {strange}"
    require(not strange, known)
    recordings = []
    for k, area in enumerate(areas.tolist(), start=1):
        voxels = betas[:, index == k].astype(np.float32)
        recordings.append(Recording(voxels, categories, area, "subj001", kind="beta", split=fold))
    stimuli = Stimuli(tuple(files), images, name="Object2Vec", presented=presented)
    remark = "The brains are areas of ONE person: they differ by area, not by person."
    return Brain("Object2Vec", recordings, [stimuli], remarks=[remark])
