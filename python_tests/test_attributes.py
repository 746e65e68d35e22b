"""Attributes of images mean what their names say."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from b2m_fast.data.attributes import ATTRIBUTES, image_attributes


def attributes(image: NDArray[np.floating]) -> dict[str, float]:
    """Attributes of one image with values in [0, 1], gray or colour."""
    colour = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    values = image_attributes(np.rint(colour * 255).astype(np.uint8)[None])[0]
    return dict(zip(ATTRIBUTES, values.tolist(), strict=True))


def wave(angle: float, cycles: float, size: int = 64) -> NDArray[np.float64]:
    y, x = np.mgrid[:size, :size] / size
    phase = x * np.cos(angle) + y * np.sin(angle)
    return np.asarray(0.5 + 0.4 * np.sin(2 * np.pi * cycles * phase))


def test_plain_colours() -> None:
    """A red image is red, a blue one blue, by their exact values; a plain one has nothing else."""
    red, blue = np.zeros((16, 16, 3)), np.zeros((16, 16, 3))
    red[..., 0], blue[..., 2] = 1, 1
    found = attributes(red)
    assert found["luminance"] == pytest.approx(0.299)
    assert found["redness"] == pytest.approx(1)
    assert found["blueness"] == pytest.approx(-0.5)
    assert found["colourfulness"] == pytest.approx(0.3 * np.hypot(1, 0.5))
    assert attributes(blue)["blueness"] == pytest.approx(1)
    for name in ("contrast", "edges", "horizontal", "oblique", "sky", "centre", "symmetry"):
        assert found[name] == pytest.approx(0, abs=1e-9)
    assert all(np.isfinite(v) for v in attributes(np.zeros((16, 16))).values())


def test_orientation() -> None:
    """Stripes that run across are horizontal, upright ones the opposite; diagonals have opposite signs."""
    across, upright = attributes(wave(np.pi / 2, 4)), attributes(wave(0, 4))
    assert across["horizontal"] == pytest.approx(1, abs=1e-3)
    assert upright["horizontal"] == pytest.approx(-1, abs=1e-3)
    one, other = attributes(wave(np.pi / 4, 5)), attributes(wave(-np.pi / 4, 5))
    assert one["oblique"] > 0.9
    assert other["oblique"] < -0.9
    assert abs(one["horizontal"]) < 0.1


def test_texture() -> None:
    """More contrast, more and finer edges; white noise is finer than a random walk."""
    assert attributes(wave(0, 8))["edges"] > 1.8 * attributes(wave(0, 3))["edges"]
    flat = 0.5 + 0.5 * (wave(0, 4) - 0.5)
    assert attributes(flat)["contrast"] == pytest.approx(0.5 * attributes(wave(0, 4))["contrast"], rel=0.02)  # fmt: skip
    rng = np.random.default_rng(0)
    noise = rng.random((64, 64))
    smooth = np.cumsum(np.cumsum(noise - 0.5, axis=0), axis=1)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    assert abs(attributes(noise)["fineness"]) < 0.15
    assert attributes(smooth)["fineness"] < -1


def test_layout() -> None:
    """A bright upper half is sky; a busy middle is centre; a mirrored image is symmetric."""
    sky = np.zeros((32, 32))
    sky[:16] = 1
    assert attributes(sky)["sky"] == pytest.approx(1)
    middle = np.full((32, 32), 0.5)
    middle[8:24, 8:24] = wave(0.3, 2, 16)
    assert attributes(middle)["centre"] > 0.2
    left = np.random.default_rng(1).random((32, 16))
    assert attributes(np.hstack([left, left[:, ::-1]]))["symmetry"] == pytest.approx(1)
    assert attributes(np.hstack([left, 1 - left[:, ::-1]]))["symmetry"] == pytest.approx(
        -1, abs=1e-2
    )


def test_images_of_another_kind_are_refused() -> None:
    """Gray images in one channel and tiny ones have an error that says what is needed."""
    for shape in ((2, 16, 16, 1), (2, 4, 4, 3), (16, 16, 3)):
        with pytest.raises(ValueError, match="colour images"):
            image_attributes(np.zeros(shape, np.uint8))
