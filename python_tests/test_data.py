"""Files and images: what loaders return, and what they say when a file is missing or broken."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from b2m_fast.data import dataset, files, files_of, images, labels, load, task, v4
from b2m_fast.data.files import DataError


def real(folder: str) -> Path:
    """The data directory, or a skip that says what is missing."""
    root = os.environ.get("B2M_DATA")
    if not root or not (Path(root) / folder).is_dir():
        pytest.skip(f"real data not here: set B2M_DATA to a directory with {folder}/")
    return Path(root)


def test_digits() -> None:
    """Digits: disjoint parts of all 1,797 images, in [0, 1], at the asked size; the labelled ones are the same."""
    found = images.digits(size=16)
    parts = (found.train_x, found.validation_x, found.test_x)
    assert [len(p) for p in parts] == [1197, 100, 500]
    assert all(p.shape[1:] == (16, 16) and p.min() >= 0 and p.max() <= 1 for p in parts)
    assert (found.size, found.channels) == (16, 1)
    assert len({p.tobytes() for part in parts for p in part}) == 1797
    labelled = labels.get("digits").build(root=None)
    assert np.asarray(labelled.images).shape == (1797, 8, 8, 1)
    assert labelled.classes.tolist() == [*found.train_y, *found.validation_y, *found.test_y]
    assert len(labelled.names) == labels.listings()["digits"].about["classes"] == 10


def test_colour_tasks() -> None:
    """A task of colour images has its channels before height and width."""
    x, y = np.zeros((2, 3, 8, 8), np.float32), np.zeros(2, np.int64)
    found = images.ImageTask("mine", x, y, x, y, x, y, classes=1, crop=0, flip=False)
    assert (found.size, found.channels) == (8, 3)


def test_to_gray_weights_and_area() -> None:
    """Gray is 0.299 R + 0.587 G + 0.114 B, and shrinking averages areas; floats and oblongs are refused."""
    rgb = np.zeros((1, 4, 4, 3), np.uint8)
    rgb[..., 1] = 255
    np.testing.assert_allclose(images.to_gray(rgb, 4), 0.587, atol=1e-6)
    one = np.zeros((1, 4, 4, 1), np.uint8)
    one[0, :2, :2] = [[[255], [0]], [[0], [255]]]
    assert images.to_gray(one, 2)[0].tolist() == [[0.5, 0.0], [0.0, 0.0]]
    wrongs: tuple[Any, ...] = (rgb.astype(np.float32), rgb[:, :3])
    for wrong in wrongs:
        with pytest.raises(DataError, match="square, and bytes"):
            images.to_gray(wrong, 4)


def test_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """B2M_DATA is used when --data is not given, --data wins, and errors name both."""
    monkeypatch.delenv("B2M_DATA", raising=False)
    with pytest.raises(DataError, match=r"--data DIR or B2M_DATA"):
        files.data_root()
    monkeypatch.setenv("B2M_DATA", str(tmp_path))
    assert files.data_root() == tmp_path
    with pytest.raises(DataError, match="does not exist"):
        files.data_root(tmp_path / "nowhere")


def read() -> list[Any]:
    """All that is registered and reads files."""
    entries = [r.get(name) for r in (dataset, task, labels) for name in r.listings()]
    return [entry for entry in entries if "source" in entry.about]


@pytest.mark.parametrize("entry", read(), ids=lambda entry: entry.name)
def test_missing_file_names_origin_and_licence(entry: Any, tmp_path: Path) -> None:
    """A missing file says where to get it and under what licence, whether asked for it or read."""
    (first, *_) = entry.about["source"].files
    with pytest.raises(DataError, match=rf"(?s){first} is missing.*get it: .*Licence: \w"):
        entry.build(root=tmp_path)
    with pytest.raises(DataError, match=rf"(?s){first} is missing.*Licence"):
        files_of(entry.about, tmp_path)


def test_what_is_made_reads_no_files() -> None:
    """Tasks made here have no files, and need no data directory."""
    assert files_of(task.get("digits").about, None) == []


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
    with pytest.raises(DataError, match=r"a\.npz.*fetch it again"):
        files.load_npz(path, {"x": None})
    with pytest.raises(DataError, match=r"a\.npz"):
        files.load_npy(path, ndim=2)
    with pytest.raises(DataError, match=r"a\.npz"):
        files.load_jpegs(path)


def test_missing_key_and_wrong_dimensions(tmp_path: Path) -> None:
    """The error says which arrays there are, and which dimensions were expected."""
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(DataError, match=r"lacks the arrays \['y'\].*'x'"):
        files.load_npz(tmp_path / "a.npz", {"y": None})
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"2 dimensions, got \(3,\)"):
        files.load_npy(tmp_path / "a.npy", ndim=2)


def test_axes_of_arrays(tmp_path: Path) -> None:
    """A number is the length of an axis; a word has one length in all arrays; other shapes are named."""
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros((3, 2)), y=np.zeros(3), z=np.zeros(2))
    found = files.load_npz(path, {"x": ("rows", 2), "y": ("rows",), "z": ("columns",)})
    assert [a.shape for a in found.values()] == [(3, 2), (3,), (2,)]
    wrong: dict[str, Any] = {
        r"z must be \(rows\), got \(2,\)": {"y": ("rows",), "z": ("rows",)},
        r"x must be \(rows, 3\), got \(3, 2\)": {"x": ("rows", 3)},
        r"x must be \(rows\), got \(3, 2\)": {"x": ("rows",)},
        r"y must be \(rows, columns\), got \(3,\)": {"y": ("rows", "columns")},
    }
    for message, axes in wrong.items():
        with pytest.raises(DataError, match=r"a\.npz: " + message):
            files.load_npz(path, axes)


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    """The fingerprint changes with a byte of a file and with the order, and not with a name."""
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"1")
    b.write_bytes(b"1")
    assert files.fingerprint([a]) == files.fingerprint([b])
    b.write_bytes(b"2")
    assert files.fingerprint([a, b]) != files.fingerprint([b, a])
    assert files.fingerprint([]) == ""


# --------------------------------------------------------------------------------------------------
# V4
# --------------------------------------------------------------------------------------------------
def make_session(root: Path, session: str = "190923", count: int = 3, **arrays: Any) -> Path:
    """A tiny session in the layout of the V4 recordings; the zip has a folder, and its names backwards."""
    from PIL import Image

    folder = root / "cowley_v4"
    folder.mkdir()
    with zipfile.ZipFile(folder / f"images_{session}.zip", "w") as archive:
        for k in reversed(range(count)):
            stream = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), 80 * k, np.uint8)).save(stream, "JPEG")
            archive.writestr(f"images/image{k:04d}.jpg", stream.getvalue())
    for name, value in (arrays or {"avg": np.arange(6.0).reshape(2, 3)}).items():
        np.save(folder / f"responses_{name}_{session}.npy", value)
    return folder


def test_v4_images_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Images are sorted by name, whatever their order in the zip; responses are presentations x units."""
    make_session(tmp_path)
    brain = load("cowley-v4", tmp_path, sessions=("190923",))
    (recording,) = brain.recordings
    assert recording.stimulus.tolist() == [f"190923/image{k:04d}.jpg" for k in range(3)]
    assert recording.mean().tolist() == [[0, 3], [1, 4], [2, 5]]
    shown = brain.stimuli_of(recording).images_of(recording.shown)
    assert shown[:, 0, 0, 0].tolist() == [0, 80, 160]
    assert not brain.synthetic
    assert not recording.repeated


def test_v4_repeats(tmp_path: Path) -> None:
    """Of the session with repeats each repeat is a presentation, in its order; missing ones are left out."""
    raw = np.array([[[1.0, 2, np.nan], [3, np.nan, np.nan]], [[5, 6, np.nan], [7, np.nan, np.nan]]])
    make_session(tmp_path, v4.REPEATS, count=2, raw=raw)
    (recording,) = v4.cowley_v4(tmp_path, sessions=(v4.REPEATS,)).recordings
    assert np.asarray(recording.responses).tolist() == [[1, 5], [2, 6], [3, 7]]
    assert recording.mean().tolist() == [[1.5, 5.5], [3, 7]]
    assert recording.first().tolist() == [[1, 5], [3, 7]]


def test_v4_refuses(tmp_path: Path) -> None:
    """Unknown sessions, more responses than images and a damaged zip are named."""
    with pytest.raises(DataError, match=r"unknown V4 sessions.*190923"):
        v4.cowley_v4(tmp_path, sessions=("x",))
    folder = make_session(tmp_path, avg=np.zeros((2, 4)))
    with pytest.raises(DataError, match=r"responses to 4 images, but .* has 3"):
        v4.cowley_v4(tmp_path, sessions=("190923",))
    (folder / "images_190923.zip").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"images_190923\.zip.*fetch it again"):
        v4.cowley_v4(tmp_path, sessions=("190923",))


def test_real_v4() -> None:
    """Five sessions; repeats of the one that has them average to the published averages, to the bit."""
    root = real("cowley_v4")
    brain = load("cowley-v4", root)
    assert [r.session for r in brain.recordings] == list(v4.SESSIONS)
    assert [r.responses.shape for r in brain.recordings if not r.repeated] == [
        (1200, 33), (1200, 89), (1200, 55), (1200, 51),
    ]  # fmt: skip
    for name in ("repeated", "labelled"):
        assert dataset.get("cowley-v4").about[name] in v4.SESSIONS
    recording = brain.recording(v4.REPEATS)
    assert brain.stimuli_of(recording).images.shape == (640, 112, 112, 3)
    assert recording.repeats().shape == (640, 10, 50)
    average = np.load(root / "cowley_v4" / f"responses_avg_{v4.REPEATS}.npy")
    np.testing.assert_array_equal(recording.mean().T, average.astype(np.float32))


def test_real_cifar() -> None:
    """The subset is 9,500 + 500 + 2,000 gray images of ten classes, or 12,000 colour images with labels."""
    root = real("cifar10_subset")
    found = images.cifar10_subset(root)
    assert [len(x) for x in (found.train_x, found.validation_x, found.test_x)] == [9500, 500, 2000]
    assert np.bincount(found.test_y).tolist() == [200] * 10
    labelled = images.cifar10_classes(root)
    assert labelled.images.shape == (12000, 32, 32, 3)
    assert np.bincount(np.asarray(labelled.classes)).tolist() == [1200] * 10


OWN = '''
import numpy as np
from b2m_fast.data import Brain, Recording, Stimuli

def two_mice(root, *, units: int = 5):
    """Two mice that saw three photographs."""
    images = Stimuli(("a", "b", "c"), np.zeros((3, 8, 8, 1), np.uint8))
    shown = np.array(["a", "b", "c", "a"])
    mice = [Recording(np.ones((4, units)), shown, mouse) for mouse in ("one", "two")]
    return Brain(f"two mice from {root.name}", mice, [images])
'''


def test_a_function_is_a_data_set(tmp_path: Path) -> None:
    """A stranger's plain function needs no decorator: it is found by its file, called with the folder and its options."""
    path = tmp_path / "own.py"
    path.write_text(OWN)
    name = f"{path}:two_mice"
    brain = load(name, tmp_path, units=7)
    assert brain.name == f"two mice from {tmp_path.name}"
    assert brain.units == 14
    entry = dataset.get(name)
    assert (entry.help, files_of(entry.about, tmp_path)) == (
        "Two mice that saw three photographs.",
        [],
    )
    with pytest.raises(ValueError, match="has no option neurons; it has units"):
        load(name, tmp_path, neurons=7)
