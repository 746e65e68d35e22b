"""Loaders: what they return, and what they say when a file is missing or broken."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from b2m_fast.data import files, images
from b2m_fast.data import v4 as recordings
from b2m_fast.data.files import DataError

REAL = Path(os.environ.get("B2M_DATA") or Path(__file__).parents[1].parent / "shared" / "data")


def real(folder: str) -> Path:
    """The data directory, or a skip that says what is missing."""
    if not (REAL / folder).is_dir():
        pytest.skip(f"real data not here: set B2M_DATA to a directory with {folder}/")
    return REAL


def test_digits() -> None:
    """Digits: disjoint parts of all 1,797 images, in [0, 1], at the asked size."""
    task = images.digits(16)
    parts = (task.train_x, task.validation_x, task.test_x)
    assert sum(len(p) for p in parts) == 1797
    assert all(p.shape[1:] == (16, 16) and p.min() >= 0 and p.max() <= 1 for p in parts)
    assert task.size == 16
    distinct = {p.tobytes() for part in parts for p in part}
    assert len(distinct) == 1797


def test_to_gray_weights_and_area() -> None:
    """Gray is 0.299 R + 0.587 G + 0.114 B, and shrinking averages areas."""
    rgb = np.zeros((1, 4, 4, 3), np.uint8)
    rgb[..., 1] = 255
    np.testing.assert_allclose(images.to_gray(rgb, 4), 0.587, atol=1e-6)
    one = np.zeros((1, 4, 4, 1), np.uint8)
    one[0, :2, :2] = [[[255], [0]], [[0], [255]]]
    assert images.to_gray(one, 2)[0].tolist() == [[0.5, 0.0], [0.0, 0.0]]


def test_no_directory_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --data and B2M_DATA the error names both."""
    monkeypatch.delenv("B2M_DATA", raising=False)
    with pytest.raises(DataError, match=r"--data DIR or B2M_DATA"):
        files.data_root()


def test_environment_names_the_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """B2M_DATA is used when --data is not given, and --data wins."""
    monkeypatch.setenv("B2M_DATA", str(tmp_path))
    assert files.data_root() == tmp_path
    with pytest.raises(DataError, match="does not exist"):
        files.data_root(tmp_path / "nowhere")


def test_missing_file_names_origin_and_licence(tmp_path: Path) -> None:
    """A missing recording says where to get it and under what licence."""
    with pytest.raises(DataError, match=r"(?s)github.com/cowleygroup.*Licence: .*GPL-3"):
        recordings.cowley_v4(tmp_path)
    with pytest.raises(DataError, match=r"(?s)cifar10_subset.npz.*Licence"):
        images.cifar10_subset(tmp_path)


def test_unknown_session(tmp_path: Path) -> None:
    """An unknown session is an error that lists those there are."""
    with pytest.raises(DataError, match=r"unknown V4 sessions.*190923"):
        recordings.cowley_v4(tmp_path, ["x"])


def test_pickles_are_refused(tmp_path: Path) -> None:
    """An array that would need unpickling is refused."""
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        files.load_npy(path, ndim=1)


@pytest.mark.parametrize("content", [b"", b"not an array", b"PK\x03\x04broken"])
def test_broken_files(tmp_path: Path, content: bytes) -> None:
    """Empty, foreign and truncated files give an error that names the file."""
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz"):
        files.load_npz(path, ["x"])
    with pytest.raises(DataError, match=r"a\.npz"):
        files.load_npy(path, ndim=2)


def test_missing_key_and_wrong_dimensions(tmp_path: Path) -> None:
    """The error says which arrays there are, and which dimensions were expected."""
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(DataError, match=r"lacks the arrays \['y'\].*'x'"):
        files.load_npz(tmp_path / "a.npz", ["y"])
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"2 dimensions, got \(3,\)"):
        files.load_npy(tmp_path / "a.npy", ndim=2)


def make_session(root: Path, count: int = 3, responses: int = 3) -> None:
    """A tiny session in the layout of the V4 recordings."""
    from PIL import Image

    folder = root / "cowley_v4"
    folder.mkdir()
    with zipfile.ZipFile(folder / "images_190923.zip", "w") as archive:
        for k in reversed(range(count)):
            stream = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), 80 * k, np.uint8)).save(stream, "JPEG")
            archive.writestr(f"image{k:04d}.jpg", stream.getvalue())
    np.save(folder / "responses_avg_190923.npy", np.arange(2.0 * responses).reshape(2, -1))


def test_v4_images_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Images are sorted by name, whatever their order in the zip."""
    make_session(tmp_path)
    (recording,) = recordings.cowley_v4(tmp_path, ["190923"])
    assert recording.images[:, 0, 0, 0].tolist() == [0, 80, 160]
    assert recording.responses.shape == (2, 3)
    assert not recording.synthetic


def test_v4_counts_must_match(tmp_path: Path) -> None:
    """More responses than images is an error with both numbers."""
    make_session(tmp_path, responses=4)
    with pytest.raises(DataError, match="3 images but responses to 4"):
        recordings.cowley_v4(tmp_path, ["190923"])


def test_v4_broken_zip(tmp_path: Path) -> None:
    """A damaged zip is an error that names it."""
    make_session(tmp_path)
    (tmp_path / "cowley_v4" / "images_190923.zip").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"images_190923\.zip.*fetch it again"):
        recordings.cowley_v4(tmp_path, ["190923"])


def test_single_trial_is_the_first_there_is() -> None:
    """The single trial skips missing repeats; without trials it is the average."""
    trials = np.array([[[np.nan, 2.0], [3.0, 4.0]]], np.float32)
    stimuli = np.zeros((2, 4, 4, 1), np.uint8)
    mean = np.array([[2.0, 3.5]], np.float32)
    with_trials = recordings.Recording("a", "s", stimuli, mean, trials)
    assert with_trials.single_trial.tolist() == [[2.0, 3.0]]
    assert recordings.Recording("a", "s", stimuli, mean).single_trial is mean


def test_nan_responses_are_refused() -> None:
    """A NaN in the responses is an error, not a silent NaN target."""
    with pytest.raises(DataError, match="NaN"):
        recordings.Recording(
            "a", "s", np.zeros((1, 4, 4, 1), np.uint8), np.full((1, 1), np.nan, np.float32)
        )


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    """The fingerprint changes with a byte of a file and not with its name."""
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"1")
    b.write_bytes(b"1")
    assert files.fingerprint([a]) == files.fingerprint([b])
    b.write_bytes(b"2")
    assert files.fingerprint([a]) != files.fingerprint([b])
    assert files.fingerprint([]) == ""


def test_real_v4() -> None:
    """The session with repeats has the shapes its source describes, and trials average to means."""
    (recording,) = recordings.cowley_v4(real("cowley_v4"), ["210325"])
    assert recording.images.shape == (640, 112, 112, 3)
    assert recording.trials is not None
    assert recording.trials.shape == (50, 640, 10)
    np.testing.assert_allclose(
        np.nanmean(recording.trials, axis=2), recording.responses, rtol=1e-4, atol=1e-5
    )
    assert np.isfinite(recording.single_trial).all()


def test_real_cifar() -> None:
    """The subset is 9,500 + 500 + 2,000 gray images of ten classes."""
    task = images.cifar10_subset(real("cifar10_subset"))
    assert (len(task.train_x), len(task.validation_x), len(task.test_x)) == (9500, 500, 2000)
    assert np.bincount(task.test_y).tolist() == [200] * 10
