"""The student: its taps, its size, its input."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from b2m_fast.students.resnet import ResNet


def test_five_taps_after_stem_and_groups() -> None:
    """Taps lie after the stem and each group, with strides 1, 1, 2, 2, 2 and doubling channels."""
    model = ResNet(10, width=4)
    shapes = [tuple(tap.shape[1:]) for tap in model.taps(torch.rand(2, 1, 32, 32))]
    assert shapes == [(4, 32, 32), (4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)]
    assert [s[0] for s in shapes] == model.channels


def test_taps_are_rectified() -> None:
    """Every tap is taken after its ReLU."""
    assert all(
        float(tap.detach().min()) >= 0 for tap in ResNet(10, width=4).taps(torch.rand(2, 1, 16, 16))
    )


def test_default_is_resnet18() -> None:
    """The default has 17 convolutions of size 7 or 3 and one linear layer, 64 to 512 channels."""
    model = ResNet(10)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sum(m.kernel_size != (1, 1) for m in convolutions) == 17
    assert model.channels == [64, 64, 128, 256, 512]
    assert convolutions[0].stride == (1, 1)


def test_logits_come_from_the_last_tap() -> None:
    """The head reads the spatial mean of the last tap."""
    model = ResNet(7, width=4).eval()
    x = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(model(x), model.head(model.taps(x)[-1].mean((2, 3))))


def test_input_scale() -> None:
    """Pixels 0 and 1 become -2.5 and 2.5."""
    x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    assert ResNet(10, width=2).preprocess(x)[:, 0, 0, 0].tolist() == [-2.5, 2.5]


def test_blur_keeps_light_and_removes_detail() -> None:
    """The blur is a Gaussian of sum 1: uniform images stay, a checkerboard vanishes."""
    model = ResNet(10, width=2, blur=1.5)
    plain = torch.full((1, 1, 16, 16), 0.7)
    torch.testing.assert_close(model.preprocess(plain), ResNet(10, width=2).preprocess(plain))
    board = (torch.arange(16)[:, None] + torch.arange(16)).remainder(2).float()[None, None]
    assert float(model.preprocess(board).abs().max()) < 0.05


def test_blur_is_part_of_what_is_attacked() -> None:
    """Gradients of the loss pass through the blur to the image."""
    x = torch.rand(1, 1, 16, 16, requires_grad=True)
    ResNet(10, width=2, blur=1.0).eval()(x).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


@pytest.mark.parametrize("blocks", [1, 2])
def test_blocks_decide_the_depth(blocks: int) -> None:
    """`blocks` is the number of residual blocks in each of the four groups."""
    model = ResNet(10, width=2, blocks=blocks)
    assert len(list(model.sections)) == 5
    assert sum(1 for n, _ in model.named_modules() if n.endswith("conv1")) == 4 * blocks


def test_colour() -> None:
    """Images of three channels are taken, and blurred channel by channel."""
    x = torch.rand(2, 3, 16, 16)
    model = ResNet(10, 3, width=4, blur=1.0)
    assert model(x).shape == (2, 10)
    gray = ResNet(10, width=4, blur=1.0)
    for channel in range(3):
        one = slice(channel, channel + 1)
        torch.testing.assert_close(model.preprocess(x)[:, one], gray.preprocess(x[:, one]))


TRAIN = """
import torch
from b2m_fast.students.resnet import ResNet
torch.set_num_threads(2)
model = ResNet(10, 3, width=4, blocks=1)
model.to(memory_format=model.memory_format)
for step in range(4):
    x = torch.rand(27 - 2 * (step % 3), 3, 32, 32).contiguous(memory_format=torch.channels_last)
    model(x).square().mean().backward()
"""


@pytest.mark.slow
def test_odd_batches_of_narrow_networks_do_not_crash() -> None:
    """Two threads, odd batches, fewer than 16 channels: torch's fault in the channels-last backward pass is not met."""
    assert ResNet(10, width=8).memory_format is torch.contiguous_format
    assert ResNet(10, width=16).memory_format is torch.channels_last
    done = subprocess.run(
        [sys.executable, "-c", TRAIN], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
