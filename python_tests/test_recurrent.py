"""The recurrent students compute their equations, and take chance only from where they are told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from b2m_fast.students.recurrent import GRUStudent, LeakyRNN


def inputs(steps: int = 12, trials: int = 5, channels: int = 3) -> torch.Tensor:
    return torch.rand(steps, trials, channels, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_leaky_network_is_its_equation(activation: Any) -> None:
    """States and outputs follow equations (1) and (2), written out in NumPy, noise included."""
    model = LeakyRNN(3, 2, 8, step_ms=30, tau_ms=90, noise=0.3, activation=activation).double()
    u = inputs().double()
    with torch.no_grad():
        logits, hidden = model(u, generator=torch.Generator().manual_seed(7))
    xi = torch.randn(12, 5, 8, generator=torch.Generator().manual_seed(7)).double().numpy()
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}
    activations: dict[str, Any] = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}
    phi = activations[activation]
    h, a = np.zeros((5, 8)), 1 / 3
    for t in range(12):
        inside = phi(h) @ w["recurrent.weight"].T + u[t].numpy() @ w["input.weight"].T
        h = (1 - a) * h + a * (inside + w["input.bias"] + 0.3 * xi[t])
        np.testing.assert_allclose(hidden[t].numpy(), h, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(
            logits[t].numpy(), phi(h) @ w["output.weight"].T + w["output.bias"], atol=1e-12
        )


def test_time_constant() -> None:
    """Without recurrence a state relaxes as exp(-t / tau): to 1/e after tau, for small steps."""
    model = LeakyRNN(1, 1, 1, step_ms=1, tau_ms=200, noise=0)
    for parameter in model.parameters():
        parameter.data.zero_()
    model.input.weight.data.fill_(1.0)
    u = torch.zeros(1200, 1, 1)
    u[:1000] = 1.0
    h = model(u)[1].detach()[:, 0, 0]
    assert float(h[999]) == pytest.approx(1 - math.exp(-5), rel=1e-3)
    assert float(h[1199] / h[999]) == pytest.approx(math.exp(-1), rel=0.01)


def test_noise_comes_from_its_generator_alone() -> None:
    """No generator, no noise; the same generator, the same noise; PyTorch's own is not touched."""
    model, u = LeakyRNN(3, 2, 8, noise=0.5), inputs()
    before = torch.get_rng_state()
    still = [model(u)[0] for _ in range(2)]
    noisy = [model(u, generator=torch.Generator().manual_seed(s))[0] for s in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*still)
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], still[0])
    assert not torch.equal(noisy[0], noisy[2])
    generator = torch.Generator().manual_seed(1)
    LeakyRNN(3, 2, 8, noise=0.0)(u, generator=generator)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(1).get_state())


def test_recurrent_weights_start_orthogonal() -> None:
    """What is in memory neither fades nor grows at the start."""
    weight = LeakyRNN(3, 2, 16).recurrent.weight.detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(16), atol=1e-5, rtol=0)


def test_gru_is_pytorchs() -> None:
    """Hidden states are those of `nn.GRU`, the output is linear in them, a generator is unused."""
    model, u = GRUStudent(3, 2, 8), inputs()
    generator = torch.Generator().manual_seed(1)
    logits, hidden = model(u, generator=generator)
    assert torch.equal(hidden, model.recurrent(u)[0])
    assert torch.equal(logits, functional.linear(hidden, model.output.weight, model.output.bias))
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(1).get_state())


@pytest.mark.parametrize("kind", [LeakyRNN, GRUStudent])
def test_a_cue_is_remembered(kind: Any) -> None:
    """Both learn to tell, after a delay of 15 steps, which of two cues was shown."""
    torch.manual_seed(0)
    model = kind(2, 2, 24)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    generator = torch.Generator().manual_seed(0)
    right = 0.0
    for _ in range(80):
        cue = torch.randint(2, (32,), generator=generator)
        u = torch.zeros(20, 32, 2)
        u[1:4, torch.arange(32), cue] = 1.0
        logits, _ = model(u, generator=generator)
        loss = functional.cross_entropy(logits[-1], cue)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        right = float((logits[-1].argmax(1) == cue).float().mean())
    assert right == 1.0


@pytest.mark.parametrize("kind", [LeakyRNN, GRUStudent])
def test_autocast_keeps_the_digits_of_the_state(kind: Any) -> None:
    """Under bfloat16 autocast outputs stay near those of float32."""
    torch.manual_seed(0)
    model, u = kind(3, 2, 8), inputs(60)
    with torch.no_grad():
        expected = model(u)[1]
        with torch.autocast("cpu", torch.bfloat16):
            got = model(u)[1]
    assert float((got.float() - expected).abs().max()) < 0.02 * float(expected.abs().max())


@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 4), (0, 5, 3)])
@pytest.mark.parametrize("kind", [LeakyRNN, GRUStudent])
def test_wrong_inputs(kind: Any, shape: tuple[int, ...]) -> None:
    """Inputs of another shape are refused with both shapes."""
    with pytest.raises(ValueError, match=r"inputs have shape .*expected \(steps, trials, 3\)"):
        kind(3, 2, 8)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"step_ms": 0.0}, "time step"),
        ({"step_ms": 200.0, "tau_ms": 100.0}, "time step"),
        ({"tau_ms": math.inf}, "time step"),
        ({"noise": -1.0}, "noise must be"),
        ({"activation": "gelu"}, "activation must be"),
    ],
)
def test_wrong_constants(wrong: dict[str, Any], message: str) -> None:
    """Constants that make no network are refused."""
    with pytest.raises(ValueError, match=message):
        LeakyRNN(3, 2, **wrong)
