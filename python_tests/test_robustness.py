"""Accuracy under noise and attack, on a network whose weak spot is known."""

from __future__ import annotations

import sys

import pytest
import torch

from b2m_fast.evaluate import robustness


class Linear(torch.nn.Module):
    """Two classes divided by the plane w.x = c; distances to it are known."""

    def __init__(self) -> None:
        super().__init__()
        w = torch.randn(64, generator=torch.Generator().manual_seed(0))
        self.w = torch.nn.Parameter(w / w.norm())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = 4 * (x.flatten(1) - 0.5) @ self.w
        return torch.stack([-score, score], dim=1)


@pytest.fixture
def linear() -> tuple[Linear, torch.Tensor, torch.Tensor]:
    model = Linear()
    x = 0.3 + 0.4 * torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    y = model(x).argmax(1)
    y[:4] = 1 - y[:4]
    return model, x, y


def test_noise(linear: tuple[Linear, torch.Tensor, torch.Tensor]) -> None:
    """No noise gives the accuracy, much noise nearly chance, and the noise is the same each time."""
    model, x, y = linear
    curve = robustness.noise_accuracy(model, x, y, (0.0, 0.05, 5.0))
    assert curve[0] == robustness.accuracy(model, x, y) == 0.9
    assert curve[0] >= curve[1]
    assert 0.2 < curve[2] < 0.8
    assert curve == robustness.noise_accuracy(model, x, y, (0.0, 0.05, 5.0))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_attacks_find_the_plane(
    linear: tuple[Linear, torch.Tensor, torch.Tensor], norm: robustness.Norm
) -> None:
    """Smallest perturbations are the distances to the plane; PGD succeeds just beyond them."""
    model, x, y = linear
    distance = ((x.flatten(1) - 0.5) @ model.w).abs().detach()
    if norm == "linf":
        distance = distance / model.w.detach().abs().sum()
    found = robustness.minimal_perturbation(model, x, y, norm, steps=100)
    assert (found[:4] == 0).all()
    right = torch.from_numpy(found[4:])
    assert (right >= distance[4:] * 0.999).all()
    assert float((right / distance[4:]).median()) < 1.1
    middle = float(distance[4:].median())
    strong, weak = robustness.pgd_accuracy(model, x, y, norm, (4 * middle, 1e-6), steps=20)
    assert weak == pytest.approx(0.9)
    expected = float((distance[4:] > 4 * middle).sum()) / 40
    assert strong == pytest.approx(expected, abs=0.06)


def test_attacks_leave_the_model_as_it_was(
    linear: tuple[Linear, torch.Tensor, torch.Tensor],
) -> None:
    """Parameters require gradients again, and torch's random state is untouched."""
    model, x, y = linear
    state = torch.random.get_rng_state()
    robustness.pgd_accuracy(model, x, y, "linf", (0.01,), steps=2)
    assert model.w.requires_grad
    assert model.w.grad is None
    assert torch.equal(state, torch.random.get_rng_state())


def test_missing_foolbox_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, linear: tuple[Linear, torch.Tensor, torch.Tensor]
) -> None:
    """Without Foolbox the error is the command that installs it."""
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(ImportError, match=r"b2m-fast\[experiments\]"):
        robustness.pgd_accuracy(*linear, "linf", (0.01,))
