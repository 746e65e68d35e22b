"""The autoencoder: its shape, its loss, its one source of chance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import distributions, nn
from torch.nn import functional

from b2m_fast.students.vae import ConvVAE, VAEOutput, vae_loss


def frames(shape: tuple[int, ...] = (4, 3, 48, 64)) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_default_is_the_documented_network() -> None:
    """Four convolutions of stride 2 with 32-64-128-256 channels, mirrored, 32 latents."""
    model = ConvVAE((3, 48, 64))
    down = [m for m in model.encoder if isinstance(m, nn.Conv2d)]
    up = [m for m in model.decoder if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels) for m in down] == [(3, 32), (32, 64), (64, 128), (128, 256)]  # fmt: skip
    assert [(m.in_channels, m.out_channels) for m in up] == [(256, 128), (128, 64), (64, 32), (32, 3)]  # fmt: skip
    assert {m.stride for m in [*down, *up]} == {(2, 2)}
    assert model.encode(frames())[0].shape == (4, 32)


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 48, 64), (2, 32, 16)])
def test_any_frame_of_multiples_of_16(shape: tuple[int, int, int]) -> None:
    """Reconstructions have the frame's shape and lie in [0, 1]."""
    output = ConvVAE(shape, latent=5, width=2)(frames((3, *shape)))
    assert output.reconstruction.shape == (3, *shape)
    assert output.mean.shape == output.log_variance.shape == (3, 5)
    low, high = output.reconstruction.detach().aminmax()
    assert 0 <= float(low) < float(high) <= 1


@pytest.mark.parametrize("shape", [(3, 40, 64), (3, 0, 64), (3, 64, 8), (0, 16, 16)])
def test_other_frames_are_refused(shape: tuple[int, int, int]) -> None:
    """Sizes that four halvings do not divide are refused with the sizes that would do."""
    with pytest.raises(ValueError, match="multiples of 16"):
        ConvVAE(shape)


def test_frames_of_another_size_are_refused() -> None:
    """Frames that are not those the student was made for give both shapes."""
    with pytest.raises(ValueError, match=r"\(2, 3, 16, 16\).*\(3, 48, 64\)"):
        ConvVAE((3, 48, 64), width=2)(frames((2, 3, 16, 16)))


def test_z_is_drawn_from_its_generator_alone() -> None:
    """z = mean + exp(log_variance / 2) eps with eps of the generator; without one, the mean."""
    model, x = ConvVAE((3, 48, 64), width=2), frames()
    before = torch.get_rng_state()
    with torch.no_grad():
        output = model(x, torch.Generator().manual_seed(3))
        mean, log_variance = model.encode(x)
        eps = torch.randn(mean.shape, generator=torch.Generator().manual_seed(3))
        z = mean + torch.exp(log_variance / 2) * eps
        torch.testing.assert_close(output.logits, model.decode(z))
        torch.testing.assert_close(model(x).logits, model.decode(mean))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("error", ["mse", "bce"])
def test_loss_is_its_equation(error: Any) -> None:
    """The parts are the mean error per value and PyTorch's own divergence of two Gaussians by D."""
    x = frames((3, 1, 16, 16))
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(s, generator=generator) for s in ((3, 1, 16, 16), (3, 6), (3, 6))]
    output = VAEOutput(*parts)
    loss = vae_loss(output, x, beta=2.5, error=error)
    posterior = distributions.Normal(output.mean, torch.exp(output.log_variance / 2))
    divergence = distributions.kl_divergence(posterior, distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(loss.divergence, divergence.sum(1).mean() / 256)
    guess = torch.sigmoid(output.logits)
    errors: dict[str, Any] = {"mse": functional.mse_loss, "bce": functional.binary_cross_entropy}
    expected = errors[error](guess, x)
    torch.testing.assert_close(loss.error, expected)
    torch.testing.assert_close(loss.total, loss.error + 2.5 * loss.divergence)


def test_loss_refuses_what_does_not_fit() -> None:
    """Another error, or frames of another shape, are refused."""
    output = ConvVAE((1, 16, 16), width=2)(frames((2, 1, 16, 16)))
    with pytest.raises(ValueError, match="'mse' or 'bce'"):
        vae_loss(output, frames((2, 1, 16, 16)), error="l1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape"):
        vae_loss(output, frames((2, 1, 16, 32)))


def test_it_learns_to_reconstruct() -> None:
    """Frames of one bright bar at a random place: the error falls to a fraction of the variance,
    and the bound on what the latents carry is paid for."""
    torch.manual_seed(0)
    model = ConvVAE((1, 16, 16), latent=4, width=4)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    x = torch.zeros(14, 1, 16, 16)
    for place in range(14):
        x[place, 0, :, place : place + 3] = 1.0
    for _ in range(300):
        loss = vae_loss(model(x, generator), x, beta=0.1)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    variance = float((x - x.mean(0)).square().mean())
    assert float(loss.error.detach()) < 0.5 * variance
    assert float(loss.divergence.detach()) > 0
