"""The Object2Vec loader: what it reads, and what it refuses."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from b2m_fast.data.files import DataError
from b2m_fast.data.object2vec import object2vec
from test_data import real

Image = pytest.importorskip("PIL.Image")
NAMES = ("bench", "cup", "tree")


def folder(root: Path, *, shown: tuple[str, ...] = NAMES, **changes: Any) -> Path:
    """A small recording: 3 categories of 2 images, 5 voxels in 2 areas."""
    data: dict[str, Any] = {
        "betas": np.arange(15, dtype=np.float32).reshape(3, 5),
        "categories": np.array(NAMES),
        "roi_index": np.array([1, 2, 2, 1, 2], np.uint8),
        "roi_names": np.array(["EVC", "LOC"]),
        "fold": np.array([0, 1, 0], np.uint8),
    }
    (root / "object2vec").mkdir()
    np.savez(root / "object2vec" / "object2vec_subj001.npz", **(data | changes))
    with zipfile.ZipFile(root / "object2vec" / "stimuli_81x10_128px.zip", "w") as archive:
        for place, name in enumerate(shown):
            for k in range(2):
                stream = io.BytesIO()
                image = Image.fromarray(np.full((8, 8, 3), 40 * place + 20 * k, np.uint8))
                image.save(stream, format="JPEG")
                archive.writestr(f"{name}/{name}{k:03}.jpg", stream.getvalue())
    return root


def test_areas_images_and_averages(tmp_path: Path) -> None:
    """Voxels go to their areas, images to their categories, and averages are over a category's images."""
    brain = object2vec(folder(tmp_path))
    assert {r.session: np.asarray(r.responses).tolist() for r in brain.recordings} == {
        "EVC": [[0, 3], [5, 8], [10, 13]],
        "LOC": [[1, 2, 4], [6, 7, 9], [11, 12, 14]],
    }
    assert "ONE person" in brain.remarks[0]
    for recording in brain.recordings:
        assert recording.shown == NAMES
        assert np.asarray(recording.split).tolist() == ["0", "1", "0"]
        stimuli = brain.stimuli_of(recording)
        values = np.asarray(stimuli.images).reshape(6, -1)[:, :1].astype(float)
        np.testing.assert_allclose(
            stimuli.average(values, recording.shown)[:, 0], [10, 50, 90], atol=2
        )


def test_real_areas() -> None:
    """One person's ten areas hold 1,870 voxels; each of 81 categories was shown as ten images; nine folds of nine."""
    brain = object2vec(real("object2vec"))
    assert (len(brain.recordings), brain.units) == (10, 1870)
    (stimuli,) = brain.stimuli
    for recording in brain.recordings:
        assert len(recording.shown) == len(recording.stimulus) == 81
        assert len(stimuli.rows(recording.shown)) == 810
        assert np.unique(np.asarray(recording.split), return_counts=True)[1].tolist() == [9] * 9


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"betas": np.full((3, 5), np.nan, np.float32)}, r"units hold NaN"),
        ({"roi_index": np.array([1, 1, 1, 1, 1])}, "an area for each voxel"),
        ({"fold": np.array([0, 1])}, r"fold must be \(categories\), got \(2,\)"),
        ({"shown": ("bench", "cup", "lamp")}, r"not so: \['lamp', 'tree'\]"),
    ],
)
def test_malformed_recordings_are_named(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """NaN, voxels without area, missing folds, and stimuli of other categories."""
    with pytest.raises(DataError, match=words):
        object2vec(folder(tmp_path, **changes))
