"""Statistics over seeds, and attacks on a network whose weak spot is known."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from b2m_fast.evaluate import robustness
from b2m_fast.experiments import statistics


@pytest.mark.parametrize("n", [2, 3, 4, 7, 20])
def test_t_interval_is_students(n: int) -> None:
    """Means and intervals are those of SciPy, for even and odd degrees of freedom."""
    stats = pytest.importorskip("scipy.stats")
    x = np.random.default_rng(n).normal(size=n)
    interval = statistics.t_interval(x.tolist())
    low, high = stats.t.interval(0.95, n - 1, loc=x.mean(), scale=stats.sem(x))
    assert interval.n == n
    assert [interval.mean, interval.low, interval.high] == pytest.approx([x.mean(), low, high])


def test_one_seed_has_no_interval() -> None:
    """One value gives NaN ends and never "excludes zero"; no value is an error."""
    interval = statistics.t_interval([1.0])
    assert np.isnan([interval.low, interval.high]).all()
    assert not interval.excludes_zero
    with pytest.raises(ValueError, match="at least one value"):
        statistics.t_interval([])


def test_pairing_removes_what_seeds_share() -> None:
    """A constant gain on scattered seeds is found exactly; unequal lengths are refused."""
    base = [0.1, 0.5, 0.9]
    interval = statistics.paired_difference([b + 0.1 for b in base], base)
    assert interval.low == pytest.approx(0.1)
    assert interval.excludes_zero
    with pytest.raises(ValueError, match="got 1, 2"):
        statistics.paired_difference([1.0], [1.0, 2.0])


def test_values_that_share_data_get_a_wider_interval() -> None:
    """Ten values of correlation 0.1: intervals hold the truth in 95 %, which plain ones do not."""
    rng = np.random.default_rng(0)
    held = {0.0: 0, 0.1: 0}
    for _ in range(1000):
        x = (0.1**0.5 * rng.normal() + 0.9**0.5 * rng.normal(size=10)).tolist()
        for correlation in held:
            interval = statistics.t_interval(x, correlation=correlation)
            held[correlation] += interval.low <= 0 <= interval.high
    assert held[0.1] == pytest.approx(950, abs=25)
    assert held[0.0] < 900
    shared = statistics.paired_difference([1.0, 2.0, 4.0], [0.0, 0.0, 0.0], correlation=0.1)
    assert shared == statistics.t_interval([1.0, 2.0, 4.0], correlation=0.1)
    with pytest.raises(ValueError, match="at least 0 and below 1, got 1"):
        statistics.t_interval([1.0, 2.0], correlation=1.0)


def test_bootstrap_is_reproducible_and_brackets_the_mean() -> None:
    """Same seed, same interval, around the mean."""
    x = np.random.default_rng(0).normal(size=30).tolist()
    a, b = (statistics.bootstrap_interval(x) for _ in range(2))
    assert a == b
    assert a.low < a.mean < a.high
    t = statistics.t_interval(x)
    assert a.high - a.low == pytest.approx(t.high - t.low, rel=0.15)


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
    with pytest.raises(ImportError, match=r"b2m-fast\[transfer\]"):
        robustness.pgd_accuracy(*linear, "linf", (0.01,))
