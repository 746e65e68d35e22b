"""A convolutional variational autoencoder (Kingma and Welling 2014) for small frames.

    z = mu(x) + exp(log_variance(x) / 2) eps,   x' = sigmoid(decoder(z))                          (1)
    L = 1/D [ sum over pixels of error(x, x') + beta KL ]                                         (2)
    KL = 1/2 sum over latents of ( mu^2 + exp(log_variance) - 1 - log_variance )                  (3)

D is the number of values of a frame, so that losses of frames of different sizes compare; error is
the squared difference or the binary cross entropy; beta = 1 gives the bound on the likelihood (of
Gaussian pixels of variance 1/2, or of coins), other values the beta-VAE of Higgins et al. 2017.

Only that a VAE reconstructed driving scenes is the paper's (`docs/brain2model.md`); the network is
ours.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from b2m_fast.students import student


class VAEOutput(NamedTuple):
    """What a forward pass returns.

    Attributes
    ----------
    logits : Tensor
        (n, channels, height, width), reconstruction before the sigmoid.
    mean, log_variance : Tensor
        (n, latent), of the distribution of z given x.
    """

    logits: Tensor
    mean: Tensor
    log_variance: Tensor

    @property
    def reconstruction(self) -> Tensor:
        """The x' of equation (1), (n, channels, height, width) in [0, 1]."""
        return torch.sigmoid(self.logits)


class VAELoss(NamedTuple):
    """Equation (2) and its two parts, scalars: total = error + beta * divergence.

    Attributes
    ----------
    total, error, divergence : Tensor
        L; mean error per value; KL / D.
    """

    total: Tensor
    error: Tensor
    divergence: Tensor


@student("vae", "convolutional variational autoencoder", kind="frames")
class ConvVAE(nn.Module):
    """Four convolutions of stride 2 down to the latents, and the same way up again.

    Parameters
    ----------
    shape : (int, int, int)
        Channels, height and width of a frame; height and width are multiples of 16.
    latent : int, default 32
        Dimensions of z.
    width : int, default 32
        Channels of the first convolution; they double in each further one (32, 64, 128, 256).

    Examples
    --------
    >>> output = ConvVAE((3, 48, 64), width=4)(torch.rand(2, 3, 48, 64))
    >>> output.reconstruction.shape, output.mean.shape
    (torch.Size([2, 3, 48, 64]), torch.Size([2, 32]))
    """

    def __init__(self, shape: tuple[int, int, int], latent: int = 32, width: int = 32) -> None:
        super().__init__()
        channels, height, breadth = shape
        if channels < 1 or height < 16 or breadth < 16 or height % 16 or breadth % 16:
            expected = "(channels, height, width) with height and width multiples of 16"
            raise ValueError(f"frames have shape {tuple(shape)}; expected {expected}")
        self.shape = (channels, height, breadth)
        self.latent = latent
        widths = [channels, *(width * 2**k for k in range(4))]
        self._small = (widths[-1], height // 16, breadth // 16)
        size = widths[-1] * (height // 16) * (breadth // 16)
        down: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            down += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.ReLU()]
        up: list[nn.Module] = []
        for inputs, outputs in pairwise(reversed(widths)):
            up += [nn.ReLU(), nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(size, 2 * latent))
        self.expand = nn.Linear(latent, size)
        self.decoder = nn.Sequential(*up)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance (n, latent) of z given x (n, channels, height, width) in [0, 1]."""
        if x.shape[1:] != self.shape:
            raise ValueError(f"frames have shape {tuple(x.shape)}; expected (n, *{self.shape})")
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """Return logits (n, channels, height, width) of the frames that z (n, latent) stands for."""
        logits: Tensor = self.decoder(self.expand(z).unflatten(1, self._small))
        return logits

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> VAEOutput:
        """Return equation (1) of x; eps comes from `generator`, or z is the mean."""
        mean, log_variance = self.encode(x)
        z = mean
        if generator is not None:
            eps = torch.randn(mean.shape, generator=generator, device=generator.device)
            z = mean + torch.exp(log_variance / 2) * eps.to(mean)
        return VAEOutput(self.decode(z), mean, log_variance)


def vae_loss(
    output: VAEOutput, x: Tensor, beta: float = 1.0, error: Literal["mse", "bce"] = "mse"
) -> VAELoss:
    """Return equation (2) of frames x (n, channels, height, width) in [0, 1], mean over frames."""
    if output.logits.shape != x.shape:
        got = f"their reconstructions {tuple(output.logits.shape)}"
        raise ValueError(f"frames have shape {tuple(x.shape)}, {got}")
    if error == "mse":
        difference = functional.mse_loss(output.reconstruction, x)
    elif error == "bce":
        difference = functional.binary_cross_entropy_with_logits(output.logits, x)
    else:
        raise ValueError(f"error must be 'mse' or 'bce', got {error!r}")
    mean, log_variance = output.mean, output.log_variance
    terms = mean.square() + log_variance.exp() - 1 - log_variance
    divergence = 0.5 * terms.sum() / x.numel()
    return VAELoss(difference + beta * divergence, difference, divergence)
