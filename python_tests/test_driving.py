"""Driving scenes: how images become frames, the simulator's cache, and CamVid."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from b2m_fast.data import car_racing as simulator
from b2m_fast.data import driving, files
from b2m_fast.data.files import DataError
from test_data import real


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("Box2D", reason="CarRacing needs Box2D: pip install 'b2m-fast[driving]'")
    return tmp_path_factory.mktemp("cache")


def small(cache: Path, seed: int = 0) -> driving.Scenes:
    return driving.car_racing(size=32, tracks=(2, 1, 1), frames=5, seed=seed, cache=cache)


def test_frames_are_cut_about_the_middle_and_averaged() -> None:
    """A square image loses top and bottom for a wide frame; each new pixel is a mean of old ones."""
    image = np.zeros((1, 8, 8, 3), np.uint8)
    image[0, 0] = image[0, 7] = 255  # cut away
    image[0, 2:4, :2, 0] = [[255, 0], [0, 255]]
    frames = driving.to_frames(image, (3, 4))
    assert frames.shape == (1, 3, 3, 4)
    expected = np.zeros((3, 3, 4), np.float32)
    expected[0, 0, 0] = 0.25  # rows 1-2 of 6: one lit pixel in four
    expected[0, 1, 0] = 0.25
    np.testing.assert_allclose(frames[0], expected, atol=1e-6)


def test_frames_keep_what_already_fits() -> None:
    """Nothing is changed but the type where sizes agree; gray becomes three equal channels."""
    image = np.random.default_rng(0).integers(0, 255, (2, 4, 6, 3)).astype(np.uint8)
    same = driving.to_frames(image, (4, 6))
    np.testing.assert_allclose(same.transpose(0, 2, 3, 1) * 255, image, atol=1e-4)
    gray = driving.to_frames(image[..., :1], (4, 6))
    assert (gray[:, 0] == gray[:, 1]).all()
    assert driving.to_frames(image, (8, 12)).shape == (2, 3, 8, 12)


def test_car_racing_frames(cache: Path) -> None:
    """Frames of all parts in [0, 1], with the car's state beside them; tracks differ."""
    scenes = small(cache)
    assert (len(scenes.train), len(scenes.validation), len(scenes.test)) == (10, 5, 5)
    assert scenes.shape == (3, 32, 32)
    assert scenes.train.dtype == np.float32
    assert 0 <= scenes.train.min() < scenes.train.max() <= 1
    assert scenes.train_labels.shape == (10, len(scenes.label_names))
    speed = scenes.label_names.index("speed")
    assert (scenes.train_labels[:, speed] > 5).all()  # it drives
    offset = scenes.label_names.index("offset")
    assert np.abs(scenes.train_labels[:, offset]).max() < 1.5  # on the road, or hardly off it
    assert np.abs(scenes.train[:5] - scenes.train[5:]).mean() > 1e-3
    assert len({frame.tobytes() for frame in scenes.train}) == 10


def test_same_seed_same_frames(cache: Path, tmp_path: Path) -> None:
    """Frames depend on the seed alone: rendered again, the bits are the same."""
    first, again, other = small(cache), small(tmp_path), small(cache, seed=1)
    np.testing.assert_array_equal(first.train, again.train)
    np.testing.assert_array_equal(first.test_labels, again.test_labels)
    assert first.digest == again.digest != other.digest


def test_skipped_rendering_changes_nothing(cache: Path) -> None:
    """The car drives the same whether or not the frames between are drawn."""
    rng = np.random.default_rng([0, 0])
    car = simulator._environment()
    car.reset(seed=int(rng.integers(2**31)))
    driver = simulator._Driver(car, rng)
    for _ in range(simulator._SETTLE + 1):
        image = car.step(driver.action())[0]
    car.close()
    frames, _ = simulator._drive(1, [0, 0])
    np.testing.assert_array_equal(frames[0], image[:84, 6:90])


def test_cache_is_used_and_mended(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A second call renders nothing; a broken file is rendered again, with a warning."""
    first = small(cache)
    with monkeypatch.context() as patch:
        patch.setattr(simulator, "_drive", lambda *_: pytest.fail("rendered though cached"))
        assert small(cache).digest == first.digest
    (path,) = (p for p in cache.glob("*.npz") if simulator._key(4, 5, 0) in p.name)
    path.write_bytes(b"torn")
    with caplog.at_level(logging.WARNING, logger="b2m_fast"):
        assert small(cache).digest == first.digest
    assert "made again" in caplog.text
    assert not list(cache.glob(".*"))


def test_simulator_survives_warnings_as_errors() -> None:
    """Box2D's import crashes the interpreter where its warnings are errors: they are kept away."""
    pytest.importorskip("Box2D", reason="CarRacing needs Box2D: pip install 'b2m-fast[driving]'")
    code = "from b2m_fast.data.car_racing import _environment; _environment().reset(seed=0)"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stdout  # and pygame's greeting too


def test_missing_simulator_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gymnasium or Box2D the error says what to install."""
    monkeypatch.setattr("importlib.metadata.distributions", list)
    with pytest.raises(ImportError, match=r"b2m-fast\[driving\]"):
        driving.car_racing(size=32, cache=tmp_path)
    monkeypatch.setitem(sys.modules, "gymnasium.envs.box2d.car_racing", None)
    with pytest.raises(ImportError, match=r"b2m-fast\[driving\]"):
        simulator._environment()


def test_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B2M_CACHE wins over XDG_CACHE_HOME, which wins over ~/.cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert files.cache_root() == tmp_path / "x" / "b2m_fast"
    monkeypatch.setenv("B2M_CACHE", str(tmp_path / "own"))
    assert files.cache_root() == tmp_path / "own"


def test_bad_numbers(tmp_path: Path) -> None:
    """Sizes and numbers of tracks and frames must be positive, and fields whole pixels."""
    with pytest.raises(ValueError, match=r"must be positive, got 32, \(0, 1, 1\) and 75"):
        driving.car_racing(size=32, tracks=(0, 1, 1), cache=tmp_path)
    with pytest.raises(ValueError, match=r"fields must divide 48 rows.*got 5 and 4"):
        driving.camvid(tmp_path, rows=5)


def write_camvid(root: Path, **changed: np.ndarray) -> None:
    """A tiny CamVid: class 3 in the upper left field, class 5 elsewhere, one pixel of no class."""
    (root / "camvid").mkdir(exist_ok=True)
    mask = np.full((2, 48, 64), 5, np.uint8)
    mask[:, :16, :16] = 3
    mask[:, 47, 63] = 11
    image = np.full((2, 48, 64, 3), 255, np.uint8)
    arrays = {
        f"{p}_{k}": x for p in ("train", "val", "test") for k, x in (("img", image), ("lab", mask))
    }
    np.savez(root / "camvid" / "camvid_64x48.npz", allow_pickle=False, **{**arrays, **changed})


def test_camvid_labels_are_shares_of_classes(tmp_path: Path) -> None:
    """Each field's labels are the shares of the classes in it; pixels of no class count for none."""
    write_camvid(tmp_path)
    scenes = driving.camvid(tmp_path)
    labels = dict(zip(scenes.label_names, scenes.train_labels[0], strict=True))
    assert labels["road 1/1"] == 1
    assert labels["tree 1/1"] == 0
    assert labels["tree 2/3"] == 1
    assert labels["tree 3/4"] == pytest.approx(255 / 256)
    assert float(scenes.test.min()) == 1


def test_malformed_camvid(tmp_path: Path) -> None:
    """Missing, misshapen and unknown classes are explained."""
    with pytest.raises(DataError, match=r"(?s)camvid_64x48\.npz is missing.*Licence: .*Brostow"):
        driving.camvid(tmp_path)
    write_camvid(tmp_path, val_img=np.zeros((2, 48, 64, 3)))
    with pytest.raises(DataError, match="val_img must be uint8, got float64"):
        driving.camvid(tmp_path)
    write_camvid(tmp_path, val_img=np.zeros((2, 64, 48, 3), np.uint8))
    with pytest.raises(DataError, match=r"val_img must be \(val, 48, 64, 3\), got \(2, 64"):
        driving.camvid(tmp_path)
    write_camvid(tmp_path, test_lab=np.full((2, 48, 64), 12, np.uint8))
    with pytest.raises(DataError, match=r"test_lab must be 0 to 11, got up to 12"):
        driving.camvid(tmp_path)


def test_real_camvid() -> None:
    """The usual split, and classes that cover nearly all pixels."""
    scenes = driving.camvid(real("camvid"))
    assert (len(scenes.train), len(scenes.validation), len(scenes.test)) == (367, 101, 233)
    assert scenes.shape == (3, 48, 64)
    covered = scenes.train_labels.reshape(367, 12, 11).sum(axis=2)
    assert 0.9 < covered.mean() <= 1
