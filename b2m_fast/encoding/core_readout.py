"""An encoding network that learns its own features: a shared core, and a readout for each neuron.

After Walker et al. 2019 and Lurz et al. 2021, whose family of models denoises in Li et al. 2019: a
few convolutions shared by all neurons, then for each neuron one place in the maps and one weight
for each channel, and a rate that is never negative. Sizes here are ours. With about a thousand
images it learns less than features trained on millions of images know
(`b2m_fast.encoding.encoders.fit_layers`).
"""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = [
    "Core",
    "CoreReadout",
    "CoreReadoutSettings",
    "FactorisedReadout",
    "GaussianReadout",
    "fit_core_readout",
]

log = logging.getLogger("b2m_fast")


@dataclass(frozen=True)
class CoreReadoutSettings:
    """Everything a fit depends on, but for data and seed.

    Attributes
    ----------
    size : int
        Pixels of the images' sides, at least 16.
    channels, layers : int
        Of the core.
    readout : {"gaussian", "factorised"}
        One place a neuron, found by gradient (Lurz et al. 2021), or a map of places times a vector
        of channels (Klindt et al. 2017).
    loss : {"poisson", "mse"}
        Poisson: sum of rate - count log rate, for counts and their means; mse for responses that
        can be negative.
    sparsity : float
        Weight of the L1 norms of a neuron's readout.
    smoothness : float
        Weight of the squared Laplacian of the first layer's filters.
    learning_rate, weight_decay : float
        Of Adam, decoupled.
    batch, epochs : int
        Images a step; passes at most.
    validation : float
        Share of the images that decide when to stop.
    patience, drops : int
        After `patience` passes without a better validation loss, the rate is divided by 3 and the
        best weights are taken up again; after `drops` such times it ends.
    """

    size: int = 40
    channels: int = 24
    layers: int = 3
    readout: Literal["gaussian", "factorised"] = "factorised"
    loss: Literal["poisson", "mse"] = "poisson"
    sparsity: float = 0.02
    smoothness: float = 0.1
    learning_rate: float = 5e-3
    weight_decay: float = 1e-3
    batch: int = 32
    epochs: int = 80
    validation: float = 0.15
    patience: int = 5
    drops: int = 2

    def __post_init__(self) -> None:
        if self.readout not in {"gaussian", "factorised"} or self.loss not in {"poisson", "mse"}:
            raise ValueError(f"unknown readout {self.readout!r} or loss {self.loss!r}")
        if self.size < 16 or min(self.channels, self.layers, self.batch, self.epochs) < 1:
            raise ValueError(f"size must be at least 16, and counts at least 1: {self}")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation must be a share of the images, got {self.validation}")


class Core(nn.Module):
    """Stacked convolutions: 9 x 9 with stride 2, then depthwise-separable 5 x 5 ones.

    Each is followed by batch normalisation and ELU; the later ones add to what they were given.

    Parameters
    ----------
    colours, channels, layers : int
        Channels of the images, and channels and number of layers.
    """

    def __init__(self, colours: int, channels: int, layers: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(colours, channels, 9, stride=2, padding=4, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.rest = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False),
                nn.Conv2d(channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ELU(),
            )
            for _ in range(layers - 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, colours, size, size) to (n, channels, size/2, size/2)."""
        x = functional.elu(self.norm(self.first(x)))
        for layer in self.rest:
            x = x + layer(x)
        return x

    def roughness(self) -> Tensor:
        """Squared Laplacian of the first filters over their squared norm."""
        w = self.first.weight.flatten(0, 1)[:, None]
        kernel = w.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
        rough = functional.conv2d(w, kernel[None, None], padding=1)
        return rough.square().sum() / w.square().sum().clamp(min=1e-12)


class GaussianReadout(nn.Module):
    """For each neuron one place in the maps, uncertain while it learns.

    output = sum_c w_c maps_c(mu + sigma e) + b, e normal while training and 0 after, between places
    by linear interpolation.

    Parameters
    ----------
    neurons, channels : int
        Sizes.
    """

    def __init__(self, neurons: int, channels: int) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.empty(neurons, 2).uniform_(-0.3, 0.3))
        self.log_sigma = nn.Parameter(torch.full((neurons, 1), math.log(0.3)))
        self.weight = nn.Parameter(torch.randn(neurons, channels) / channels)
        self.bias = nn.Parameter(torch.zeros(neurons))

    def forward(self, maps: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, neurons)."""
        place = self.mu.expand(len(maps), -1, -1)
        if self.training:
            place = place + self.log_sigma.exp() * torch.randn_like(place)
        grid = place.clamp(-1, 1)[:, :, None]
        found = functional.grid_sample(maps, grid, align_corners=True)[..., 0]
        return torch.einsum("bcn,nc->bn", found, self.weight) + self.bias

    def penalty(self) -> Tensor:
        """L1 norm of the weights, mean over neurons."""
        return self.weight.abs().sum(dim=1).mean()


class FactorisedReadout(nn.Module):
    """For each neuron a map of places times a vector of channels.

    output = sum_xy s_xy sum_c w_c maps_c(x, y) + b.

    Parameters
    ----------
    neurons, channels, side : int
        Sizes; maps are side x side.
    """

    def __init__(self, neurons: int, channels: int, side: int) -> None:
        super().__init__()
        self.place = nn.Parameter(0.01 * torch.rand(neurons, side * side))
        self.weight = nn.Parameter(torch.randn(neurons, channels) / channels)
        self.bias = nn.Parameter(torch.zeros(neurons))

    def forward(self, maps: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, neurons)."""
        found = torch.einsum("bcp,np->bnc", maps.flatten(2), self.place)
        return torch.einsum("bnc,nc->bn", found, self.weight) + self.bias

    def penalty(self) -> Tensor:
        """Product of the L1 norms of places and weights, mean over neurons."""
        return (self.place.abs().sum(dim=1) * self.weight.abs().sum(dim=1)).mean()


class _Network(nn.Module):
    """Core and readout, and a rate that is positive where it stands for counts."""

    def __init__(self, colours: int, neurons: int, settings: CoreReadoutSettings) -> None:
        super().__init__()
        self.core = Core(colours, settings.channels, settings.layers)
        side = (settings.size + 1) // 2
        self.readout: GaussianReadout | FactorisedReadout = (
            GaussianReadout(neurons, settings.channels)
            if settings.readout == "gaussian"
            else FactorisedReadout(neurons, settings.channels, side)
        )
        self._counts = settings.loss == "poisson"

    def forward(self, x: Tensor) -> Tensor:
        drive: Tensor = self.readout(self.core(x))
        return functional.softplus(drive) + 1e-6 if self._counts else drive


@dataclass(frozen=True, eq=False)
class CoreReadout:
    """A fitted network.

    Attributes
    ----------
    network : nn.Module
        Core and readout, in evaluation mode.
    mean, spread : Tensor
        (1, colours, 1, 1): how pixels are standardised.
    scale : ndarray
        (neurons,): what the network's outputs are multiplied by.
    settings : CoreReadoutSettings
        What it was fitted with.
    history : tuple of float
        Validation loss after each pass.
    """

    network: nn.Module
    mean: Tensor
    spread: Tensor
    scale: NDArray[np.float64]
    settings: CoreReadoutSettings
    history: tuple[float, ...]

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Responses to new images.

        Parameters
        ----------
        images : ndarray
            (n, H, W, C), uint8, with the colours of those fitted; any size.

        Returns
        -------
        ndarray
            (neurons, images), in the unit of the responses.

        Raises
        ------
        ValueError
            If images are of other colours.
        """
        x = (_pixels(images, self.settings.size) - self.mean) / self.spread
        device = next(self.network.parameters()).device
        with torch.no_grad():
            parts = [self.network(part.to(device)).cpu() for part in x.split(256)]
        return np.asarray(torch.cat(parts).double().numpy().T * self.scale[:, None])


def fit_core_readout(
    images: NDArray[np.uint8],
    responses: NDArray[np.floating],
    *,
    settings: CoreReadoutSettings | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> CoreReadout:
    """Train a core and readouts on responses to images.

    The same seed gives the same network on the same machine; torch's own generators are left as
    they were.

    Parameters
    ----------
    images : ndarray
        (images, H, W, C), uint8, C = 1 or 3.
    responses : ndarray
        (neurons, images); neurons are weighed alike: each is divided by its mean (or, for ``mse``,
        its standard deviation).
    settings : CoreReadoutSettings, optional
        Sizes and training; default: those of the class.
    seed : int, default 0
        Weights, batches, and which images decide when to stop.
    device : str or device
        Where to train.

    Returns
    -------
    CoreReadout
        With the weights of the best validation loss.

    Raises
    ------
    ValueError
        If numbers of images differ, there are fewer than 20, responses contain NaN or, for the
        Poisson loss, are negative, or the loss diverges.
    """
    how = settings or CoreReadoutSettings()
    y = np.asarray(responses, dtype=np.float64)
    if y.ndim != 2 or len(images) != y.shape[1] or len(images) < 20:
        raise ValueError(
            f"at least 20 images and responses (neurons, images) to the same are needed, got "
            f"{len(images)} and {y.shape}"
        )
    if not np.isfinite(y).all():
        raise ValueError("responses contain NaN or infinity")
    if how.loss == "poisson" and y.min() < 0:
        raise ValueError(f"counts cannot be negative, got {y.min():g}; use loss='mse'")
    scale = y.mean(axis=1) if how.loss == "poisson" else y.std(axis=1)
    scale = np.where(scale > 0, scale, 1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _train(_pixels(images, how.size), y, scale, how, torch.device(device))


def _pixels(images: NDArray[np.uint8], size: int) -> Tensor:
    """(n, H, W, C) uint8 as (n, C, size, size) in [0, 1]."""
    if images.ndim != 4 or images.shape[3] not in {1, 3} or images.dtype != np.uint8:
        raise ValueError(
            f"images must be (n, H, W, 1 or 3), uint8; got {images.shape}, {images.dtype}"
        )
    parts = [
        functional.interpolate(
            torch.from_numpy(images[k : k + 256]).permute(0, 3, 1, 2).float() / 255,
            (size, size),
            mode="bilinear",
            antialias=True,
        )
        for k in range(0, len(images), 256)
    ]
    return torch.cat(parts)


def _train(
    x: Tensor,
    y: NDArray[np.float64],
    scale: NDArray[np.float64],
    how: CoreReadoutSettings,
    device: torch.device,
) -> CoreReadout:
    target = torch.from_numpy((y / scale[:, None]).T).float()
    order = torch.randperm(len(x))
    held = order[: max(2, round(how.validation * len(x)))]
    kept = order[len(held) :]
    mean = x[kept].mean(dim=(0, 2, 3), keepdim=True)
    spread = x[kept].std(dim=(0, 2, 3), keepdim=True).clamp(min=1e-6)
    x, target = ((x - mean) / spread).to(device), target.to(device)
    network = _Network(x.shape[1], target.shape[1], how).to(device)
    level = target[kept].mean(dim=0).clamp(min=1e-3)
    with torch.no_grad():  # begin at the mean response
        network.readout.bias.copy_(level.expm1().log() if how.loss == "poisson" else level)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay
    )
    best, best_state, waited, dropped = math.inf, copy.deepcopy(network.state_dict()), 0, 0
    history: list[float] = []
    for epoch in range(how.epochs):
        network.train()
        for pick in _batches(kept, how.batch):
            loss = _loss(network(x[pick]), target[pick], how)
            loss = loss + how.sparsity * network.readout.penalty()
            loss = loss + how.smoothness * network.core.roughness() / how.channels
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        network.eval()
        with torch.no_grad():
            now = float(_loss(network(x[held]), target[held], how))
        history.append(now)
        if not math.isfinite(now):
            raise ValueError(f"the loss diverged in pass {epoch + 1}: lower the learning rate")
        if now < best:
            best, best_state, waited = now, copy.deepcopy(network.state_dict()), 0
            continue
        waited += 1
        if waited >= how.patience:
            network.load_state_dict(best_state)
            waited, dropped = 0, dropped + 1
            if dropped > how.drops:
                break
            for group in optimiser.param_groups:
                group["lr"] /= 3
    log.debug("core and readout: %d passes, validation loss %.4f", len(history), best)
    network.load_state_dict(best_state)
    return CoreReadout(network.eval(), mean, spread, scale, how, tuple(history))


def _batches(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Rows in random order, `size` at a time; a last single row is left out (batch norm)."""
    for part in rows[torch.randperm(len(rows))].split(size):
        if len(part) > 1:
            yield part


def _loss(rate: Tensor, target: Tensor, how: CoreReadoutSettings) -> Tensor:
    if how.loss == "poisson":
        return (rate - target * rate.log()).mean()
    return (rate - target).square().mean()
