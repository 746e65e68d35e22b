"""A network that learns its features from the responses (library only: no command uses it).

After Klindt et al. 2017 and Walker et al. 2019, whose family of models denoises in Li et al. 2019: a core of a few
convolutions shared by all neurons, then a readout for each neuron, a map of places times a vector of channels, and a
rate that is never negative. Sizes here are ours. With about a thousand images it learns less than
features trained on millions of images know (`fit_layers`).
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

from b2m_fast.encoding.features import image_tensor
from b2m_fast.encoding.ridge import finite_matrix, usable_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
    loss : {"poisson", "mse"}
        Poisson: sum of rate - count log rate, for counts and their means; mse for responses that can be negative.
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
        After `patience` passes without a better validation loss, the learning rate is divided by 3 and the best
        weights are restored; after `drops` such times training ends.
    """

    size: int = 40
    channels: int = 24
    layers: int = 3
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
        if self.loss not in {"poisson", "mse"}:
            raise ValueError(f"unknown loss {self.loss!r}; there are 'poisson' and 'mse'")
        if self.size < 16 or min(self.channels, self.layers, self.batch, self.epochs) < 1:
            raise ValueError(f"size must be at least 16, and counts at least 1: {self}")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation must be a share of the images, got {self.validation}")


class _Network(nn.Module):
    """Core and readout, sum_xy s_xy sum_c w_c maps_c(x, y) + b: a rate that is positive where it stands for counts.

    The core is a 9 x 9 convolution with stride 2, then residual depthwise-separable 5 x 5 ones, each with batch
    normalisation and ELU.
    """

    def __init__(self, colours: int, neurons: int, how: CoreReadoutSettings) -> None:
        super().__init__()
        self.how, channels = how, how.channels
        self.first = nn.Conv2d(colours, channels, 9, stride=2, padding=4, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.rest = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False),
                nn.Conv2d(channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ELU(),
            )
            for _ in range(how.layers - 1)
        )
        self.place = nn.Parameter(0.01 * torch.rand(neurons, ((how.size + 1) // 2) ** 2))
        self.weight = nn.Parameter(torch.randn(neurons, channels) / channels)
        self.bias = nn.Parameter(torch.zeros(neurons))

    def forward(self, x: Tensor) -> Tensor:
        """(n, colours, size, size) to (n, neurons)."""
        x = functional.elu(self.norm(self.first(x)))
        for layer in self.rest:
            x = x + layer(x)
        found = torch.einsum("bcp,np->bnc", x.flatten(2), self.place)
        drive = torch.einsum("bnc,nc->bn", found, self.weight) + self.bias
        return functional.softplus(drive) + 1e-6 if self.how.loss == "poisson" else drive

    def error(self, x: Tensor, target: Tensor) -> Tensor:
        """Mean error of predictions, without the penalties."""
        if self.how.loss == "poisson":
            return functional.poisson_nll_loss(self(x), target, log_input=False)
        return functional.mse_loss(self(x), target)

    def penalty(self) -> Tensor:
        """Weighted penalties: L1 norms of places times weights, and squared Laplacian of the first filters over their norm."""
        sparse = (self.place.abs().sum(dim=1) * self.weight.abs().sum(dim=1)).mean()
        w = self.first.weight.flatten(0, 1)[:, None]
        kernel = w.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
        rough = functional.conv2d(w, kernel[None, None], padding=1).square().sum()
        rough = rough / w.square().sum().clamp(min=1e-12)
        return self.how.sparsity * sparse + self.how.smoothness * rough / self.how.channels


@dataclass(frozen=True, eq=False)
class CoreReadout:
    """A fitted network.

    Attributes
    ----------
    network : nn.Module
        Core and readout, in evaluation mode, on the device of the fit.
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
        """Return responses, (images, neurons) in their unit, to images (n, H, W, C) of the fitted ones' colours."""
        x = (_pixels(images, self.settings.size, self.mean.device) - self.mean) / self.spread
        with torch.no_grad():
            parts = [self.network(part) for part in x.split(256)]
        return np.asarray(torch.cat(parts).double().numpy(force=True) * self.scale)


def fit_core_readout(
    images: NDArray[np.uint8],
    responses: NDArray[np.floating],
    *,
    settings: CoreReadoutSettings | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> CoreReadout:
    """Train a core and readouts on responses to images.

    The same seed gives the same network on the same machine; torch's own generators are left as they were.

    Parameters
    ----------
    images : ndarray
        (images, H, W, C), uint8, C = 1 or 3.
    responses : ndarray
        (images, neurons); neurons are weighed alike: each is divided by its mean (or, for ``mse``, its standard
        deviation).
    settings : CoreReadoutSettings, optional
        Sizes and training; default: those of the class.
    seed : int, default 0
        Weights, batches, and which images decide when to stop.
    device : str or torch.device
        Where to train.

    Returns
    -------
    CoreReadout
        With the weights of the best validation loss.

    Raises
    ------
    ValueError
        If numbers of images differ, there are fewer than 20, responses contain NaN or, for the Poisson loss, are
        negative, or the loss diverges.
    """
    how, where = settings or CoreReadoutSettings(), usable_device(device)
    y = finite_matrix("responses", responses).astype(np.float64)
    if len(images) != len(y) or len(images) < 20:
        raise ValueError(
            f"at least 20 images and responses (images, neurons) to the same are needed, got "
            f"{len(images)} and {y.shape}"
        )
    if how.loss == "poisson" and y.min() < 0:
        raise ValueError(f"counts cannot be negative, got {y.min():g}; use loss='mse'")
    scale = y.mean(axis=0) if how.loss == "poisson" else y.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    target = torch.as_tensor(y / scale, dtype=torch.float32, device=where)
    x = _pixels(images, how.size, where)
    rng = np.random.default_rng(seed)
    held, kept = np.split(rng.permutation(len(x)), [max(2, round(how.validation * len(x)))])
    mean = x[kept].mean(dim=(0, 2, 3), keepdim=True)
    spread = x[kept].std(dim=(0, 2, 3), keepdim=True).clamp(min=1e-6)
    x = (x - mean) / spread
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = _Network(x.shape[1], target.shape[1], how).to(where)
        level = target[kept].mean(dim=0).clamp(min=1e-3)
        with torch.no_grad():  # begin at the mean response
            network.bias.copy_(level.expm1().log() if how.loss == "poisson" else level)
        history = _train(network, x, target, kept, held, rng)
    return CoreReadout(network.eval(), mean, spread, scale, how, tuple(history))


def _pixels(images: NDArray[np.uint8], size: int, device: torch.device) -> Tensor:
    """(n, H, W, C) uint8 as (n, C, size, size) in [0, 1]."""
    x = image_tensor(images).to(device) / 255
    return functional.interpolate(x, (size, size), mode="bilinear", antialias=True)


def _train(
    network: _Network,
    x: Tensor,
    target: Tensor,
    kept: NDArray[np.int64],
    held: NDArray[np.int64],
    rng: np.random.Generator,
) -> list[float]:
    """Train on rows `kept`, to the best error on rows `held`, which is returned for every pass."""
    how = network.how
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay
    )
    best, best_state, waited, dropped = math.inf, copy.deepcopy(network.state_dict()), 0, 0
    history: list[float] = []
    while len(history) < how.epochs and dropped <= how.drops:
        network.train()
        for rows in np.array_split(rng.permutation(kept), math.ceil(len(kept) / how.batch)):
            loss = network.error(x[rows], target[rows]) + network.penalty()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        network.eval()
        with torch.no_grad():
            history.append(float(network.error(x[held], target[held])))
        if not math.isfinite(history[-1]):
            raise ValueError(f"the loss diverged in pass {len(history)}: lower the learning rate")
        waited += 1
        if history[-1] < best:
            best, best_state, waited = history[-1], copy.deepcopy(network.state_dict()), 0
        elif waited >= how.patience:
            network.load_state_dict(best_state)
            waited, dropped = 0, dropped + 1
            for group in optimiser.param_groups:
                group["lr"] /= 3
    log.debug("core and readout: %d passes, validation loss %.4f", len(history), best)
    network.load_state_dict(best_state)
    return history
