"""Taps: a network's own values at a named module, and the network left as it was."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from b2m_fast.encoding.features import load_network, pooled, tap, tap_names


class Small(nn.Module):
    """Two convolutions with dropout and batch normalisation, and a head for 12 x 12 images only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3)
        self.body = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(3, 4, 3))
        self.head = nn.Linear(4 * 64, 2)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.stem(x))
        self.calls += 1
        out: Tensor = self.head(y.flatten(1))
        return out


@pytest.fixture
def small() -> Small:
    torch.manual_seed(0)
    return Small()


def images(n: int, side: int = 12) -> Tensor:
    return torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(0))


def test_taps_are_the_networks_values(small: Small) -> None:
    """All batches together give what one pass in evaluation mode gives, for every tap."""
    x = images(10)
    found = tap(small, ["stem", "body.1", "body"], x, batch=4)
    small.eval()
    with torch.no_grad():
        stem = small.stem(x)
        expected = {"stem": stem, "body.1": small.body[:2](stem), "body": small.body(stem)}
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], value.flatten(1).numpy(), rtol=1e-5, atol=1e-6)


def test_model_is_left_as_it_was(small: Small) -> None:
    """Modes of training, running statistics, gradients and hooks are untouched, errors or not."""
    small.train()
    small.body[0].eval()
    before = {k: v.clone() for k, v in small.state_dict().items()}
    tap(small, ["stem"], images(5))
    with pytest.raises(RuntimeError):
        tap(small, ["stem"], torch.zeros(5, 2, 12, 12))
    assert small.training
    assert small.body[1].training
    assert not small.body[0].training
    assert all(torch.equal(v, before[k]) for k, v in small.state_dict().items())
    assert not any(m._forward_hooks for m in small.modules())
    assert all(p.grad is None for p in small.parameters())


def test_passes_end_at_the_last_tap(small: Small) -> None:
    """After the first batch nothing beyond the taps is run; a head for other sizes does no harm."""
    tap(small, ["stem"], images(12), batch=4)
    assert small.calls == 1
    assert tap(small, ["body"], images(8, side=9), batch=3)["body"].shape == (8, 4 * 25)


def test_unknown_tap_lists_the_known_ones(small: Small) -> None:
    """The message suggests what was meant and lists what there is."""
    with pytest.raises(ValueError, match=r"unknown taps \['bdy.1'\].*Did you mean.*'body.1'") as e:
        tap(small, ["bdy.1"], images(2))
    assert all(name in str(e.value) for name in tap_names(small))
    with pytest.raises(ValueError, match="unknown taps"):
        tap(small, [""], images(2))


def test_of_many_modules_the_outer_ones_are_listed() -> None:
    """Hundreds of names help nobody: those of blocks, and how many there are in all."""
    blocks = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(12)))
    with pytest.raises(ValueError, match=r"unknown taps") as e:
        tap(nn.Sequential(blocks), ["x"], torch.zeros(3, 2))
    assert "There are: 0, 0.0, 0.1, " in str(e.value)
    assert str(e.value).endswith("0.11, and what is inside them (37 in all)")


def test_what_cannot_be_tapped_is_said(small: Small) -> None:
    """Modules that are not run, run twice, or give no tensor; and nothing to run on."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.never, self.pair = nn.ReLU(), nn.ReLU(), Pair()

        def forward(self, x: Tensor) -> Tensor:
            x = self.twice(self.twice(x))
            out: Tensor = self.pair(x)[0]
            return out

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    for name, message in (
        ("twice", "run 2 times"),
        ("never", "run 0 times"),
        ("pair", "gives out tuple"),
    ):
        with pytest.raises(ValueError, match=message):
            tap(Odd(), [name], images(3))
    for inputs, names in ((images(0), ["stem"]), (images(2), [])):
        with pytest.raises(ValueError, match="nothing to tap"):
            tap(small, names, inputs)


def test_prepare_gets_the_batch(small: Small) -> None:
    """What goes into the network is what `prepare` makes of each batch."""
    raw = np.arange(5 * 144, dtype=np.uint8).reshape(5, 12, 12)
    found = tap(
        small, ["stem"], raw, batch=2, prepare=lambda b: torch.from_numpy(b / 255).float()[:, None]
    )
    direct = tap(small, ["stem"], torch.from_numpy(raw / 255).float()[:, None])
    np.testing.assert_allclose(found["stem"], direct["stem"], rtol=1e-5, atol=1e-6)


def test_pooling() -> None:
    """Maps become means of areas, sequences means of neighbours, small ones stay."""
    maps = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6)
    expected = maps.reshape(2, 3, 2, 2, 2, 3).mean(dim=(3, 5))
    torch.testing.assert_close(pooled(maps, 2), expected)
    assert pooled(maps, 5).shape == (2, 3, 4, 5)
    assert pooled(maps, None) is maps
    tokens = torch.arange(2 * 8 * 3, dtype=torch.float32).reshape(2, 8, 3)
    torch.testing.assert_close(pooled(tokens, 2), tokens.reshape(2, 4, 2, 3).mean(dim=2))
    assert pooled(tokens, 3) is tokens
    flat = torch.ones(2, 7)
    assert pooled(flat, 1) is flat


def test_preparation_resizes_and_standardises() -> None:
    """EfficientNet-Lite0 sees (x - 127) / 128 in RGB, at the size that was asked for."""
    pytest.importorskip("efficientnet_lite_pytorch")
    _, prepare = load_network("efficientnet-lite0", pretrained=False, size=16)
    flat = np.full((2, 32, 32, 1), 191, dtype=np.uint8)
    torch.testing.assert_close(prepare(flat), torch.full((2, 3, 16, 16), 0.5))
    with pytest.raises(ValueError, match="uint8"):
        prepare(flat.astype(np.float32))


def test_unknown_and_missing_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names nobody knows are refused with those there are; missing packages are named."""
    for name in ("resnet50", "efficientnet-lite0:big", "timm"):
        with pytest.raises(ValueError, match="there are efficientnet-lite0, torchvision:<model>"):
            load_network(name)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="pip install timm"):
        load_network("timm:vit_tiny_patch16_224")


def test_torchvision_network() -> None:
    """Where torchvision is installed its models can be tapped by the same names."""
    pytest.importorskip("torchvision")
    network, prepare = load_network("torchvision:resnet18", pretrained=False)
    x = np.zeros((2, 40, 40, 3), dtype=np.uint8)
    assert tap(network, ["layer1"], x, prepare=prepare, grid=7)["layer1"].shape == (2, 64 * 49)
    with pytest.raises(ValueError, match="torchvision has no model"):
        load_network("torchvision:resnet0")


def test_timm_network() -> None:
    """Where timm is installed its models can be tapped by the same names."""
    pytest.importorskip("timm")
    network, prepare = load_network("timm:resnet18", pretrained=False)
    x = np.zeros((2, 40, 40, 3), dtype=np.uint8)
    assert tap(network, ["layer1"], x, prepare=prepare, grid=7)["layer1"].shape == (2, 64 * 49)
    with pytest.raises(ValueError, match="timm has no model"):
        load_network("timm:resnet0")
