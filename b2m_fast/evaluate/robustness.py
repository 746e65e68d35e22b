"""Accuracy under noise and attack, and the smallest perturbation that changes the class.

Noise follows Attias et al. 2024 (Gaussian, standard deviation on pixels in [0, 1]); images are clamped to [0, 1]
afterwards, not to their own range, which would weaken the noise on images of low contrast. Li et al. 2019 do not
describe their attacks in detail; here they are Foolbox's PGD, and for the smallest perturbation FMN (Linf) and DDN
(L2; Foolbox's FMN stopped far from the smallest one here), with full knowledge of the network.

Models are classifiers of images x, (n, channels, height, width) in [0, 1], with classes y, (n,). They are put into
evaluation mode; images are moved to the device of the model's parameters.
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

Norm = Literal["linf", "l2"]


def _device(model: nn.Module) -> torch.device:
    """Device of a model's parameters."""
    return next(model.parameters()).device


def _correct(model: nn.Module, x: Tensor, y: Tensor, batch: int = 250) -> Tensor:
    """Whether each image is classified correctly, (n,) bool on the device of y."""
    model.eval()
    with torch.no_grad():
        guesses = [model(part.to(_device(model))).argmax(1) for part in x.split(batch)]
    return torch.cat(guesses).to(y.device) == y


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the fraction of images classified correctly."""
    return float(_correct(model, x, y).double().mean())


def noise_accuracy(
    model: nn.Module, x: Tensor, y: Tensor, deviations: Sequence[float], seed: int = 0
) -> list[float]:
    """Return the accuracy for each standard deviation of Gaussian pixel noise, the same noise for every model."""
    generator = torch.Generator().manual_seed(seed)  # of the CPU: the same noise on every device
    noise = torch.randn(x.shape, generator=generator, device=generator.device).to(x)
    return [accuracy(model, (x + s * noise).clamp(0, 1), y) for s in deviations]


def pgd_accuracy(
    model: nn.Module, x: Tensor, y: Tensor, norm: Norm, radii: Sequence[float], steps: int = 20
) -> list[float]:
    """Return the accuracy for each radius of projected gradient descent: random start, steps of 2.5 radius / steps."""
    x, y, out = x.to(_device(model)), y.to(_device(model)), []
    with _attacked(model) as (attacks, wrapped):
        kind = attacks.LinfPGD if norm == "linf" else attacks.L2PGD
        attack = kind(rel_stepsize=2.5 / steps, steps=steps, random_start=True)
        for radius in radii:
            _, _, fooled = attack(wrapped, x, y, epsilons=radius)
            out.append(float((~fooled).double().mean()))
    return out


def minimal_perturbation(
    model: nn.Module, x: Tensor, y: Tensor, norm: Norm, steps: int = 100
) -> NDArray[np.float64]:
    """Return the norm of the smallest perturbation found for each image by FMN (Linf) or DDN (L2), (n,).

    0 where the image is misclassified as it is, infinity where no perturbation was found.
    """
    x, y = x.to(_device(model)), y.to(_device(model))
    with _attacked(model) as (attacks, wrapped):
        kind = attacks.LInfFMNAttack if norm == "linf" else attacks.DDNAttack
        moved, _, fooled = kind(steps=steps)(wrapped, x, y, epsilons=None)
    change = (moved - x).flatten(1)
    size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    size = size.where(fooled, torch.inf).where(_correct(model, x, y), 0.0)
    result: NDArray[np.float64] = size.double().numpy(force=True)
    return result


@contextmanager
def _attacked(model: nn.Module) -> Iterator[tuple[Any, Any]]:
    """Foolbox's attacks, and the model as it wraps it: in evaluation mode, gradients of its parameters switched off.

    Meanwhile torch's random numbers start from seed 0.
    """
    try:
        foolbox: Any = import_module("foolbox")
    except ImportError as error:
        raise ImportError("attacks need Foolbox: pip install 'b2m-fast[experiments]'") from error
    before = [p.requires_grad for p in model.parameters()]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.eval().requires_grad_(requires_grad=False)
        try:
            yield foolbox.attacks, foolbox.PyTorchModel(model, bounds=(0, 1), device=_device(model))
        finally:
            for parameter, wanted in zip(model.parameters(), before, strict=True):
                parameter.requires_grad_(wanted)
