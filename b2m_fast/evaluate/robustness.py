"""Accuracy under noise, under attack, and the smallest perturbation that fools.

Noise follows the axis of Attias et al. 2024 (Gaussian, standard deviation on pixels in [0, 1]);
images are clamped to [0, 1] afterwards, not to their own range, which would weaken the noise on
images of low contrast. The attacks of Li et al. 2019 are not known to us in detail; here they are
Foolbox's PGD, and for the smallest perturbation FMN (Linf) and DDN (L2; Foolbox's FMN stopped far
from the smallest one here), with full knowledge of the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["accuracy", "minimal_perturbation", "noise_accuracy", "pgd_accuracy"]

Norm = Literal["linf", "l2"]


def _foolbox() -> Any:
    try:
        import foolbox  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("attacks need Foolbox: pip install 'b2m-fast[transfer]'") from error
    return foolbox


def _hits(model: nn.Module, x: Tensor, y: Tensor, batch: int = 250) -> Tensor:
    """Whether each image is classified as it should be, (n,) bool."""
    model.eval()
    with torch.no_grad():
        guesses = [model(part).argmax(1) for part in x.split(batch)]
    return torch.cat(guesses) == y


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Fraction of images classified correctly.

    Parameters
    ----------
    model : Module
        Classifier of images in [0, 1]; put into evaluation mode.
    x : Tensor
        (n, 1, h, w).
    y : Tensor
        (n,) classes.

    Returns
    -------
    float
        In [0, 1].
    """
    return float(_hits(model, x, y).double().mean())


def noise_accuracy(
    model: nn.Module, x: Tensor, y: Tensor, deviations: Sequence[float], seed: int = 0
) -> list[float]:
    """Accuracy under Gaussian pixel noise.

    Parameters
    ----------
    model : Module
        Classifier of images in [0, 1].
    x : Tensor
        (n, 1, h, w).
    y : Tensor
        (n,) classes.
    deviations : sequence of float
        Standard deviations of the noise; pixels are in [0, 1].
    seed : int
        Noise: the same for every model.

    Returns
    -------
    list of float
        One accuracy per deviation.
    """
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return [accuracy(model, (x + s * noise).clamp(0, 1), y) for s in deviations]


def pgd_accuracy(
    model: nn.Module, x: Tensor, y: Tensor, norm: Norm, radii: Sequence[float], steps: int = 20
) -> list[float]:
    """Accuracy against projected gradient descent, random start.

    Parameters
    ----------
    model : Module
        Classifier of images in [0, 1]; its parameters' gradients are switched off meanwhile.
    x : Tensor
        (n, 1, h, w) in [0, 1].
    y : Tensor
        (n,) classes.
    norm : {"linf", "l2"}
        Norm of the perturbation.
    radii : sequence of float
        Largest perturbations, pixels in [0, 1].
    steps : int, default 20
        Steps of size 2.5 radius / steps.

    Returns
    -------
    list of float
        One accuracy per radius: the fraction of all images still classified correctly.

    Raises
    ------
    ImportError
        If Foolbox is not installed.
    """
    fb = _foolbox()
    kind = fb.attacks.LinfPGD if norm == "linf" else fb.attacks.L2PGD
    attack = kind(rel_stepsize=2.5 / steps, steps=steps, random_start=True)
    out = []
    with _frozen(model), torch.random.fork_rng():
        torch.manual_seed(0)
        wrapped = fb.PyTorchModel(model, bounds=(0, 1), device="cpu")
        for radius in radii:
            _, _, fooled = attack(wrapped, x, y, epsilons=radius)
            out.append(float((~fooled).double().mean()))
    return out


def minimal_perturbation(
    model: nn.Module, x: Tensor, y: Tensor, norm: Norm, steps: int = 100
) -> NDArray[np.float64]:
    """Norm of the smallest perturbation found that changes the class (FMN, DDN).

    Parameters
    ----------
    model : Module
        Classifier of images in [0, 1].
    x : Tensor
        (n, 1, h, w) in [0, 1].
    y : Tensor
        (n,) classes.
    norm : {"linf", "l2"}
        Norm of the perturbation, pixels in [0, 1].
    steps : int, default 100
        Steps of the attack.

    Returns
    -------
    ndarray
        (n,) norms; 0 where the image is misclassified as it is, infinity where no perturbation was
        found.

    Raises
    ------
    ImportError
        If Foolbox is not installed.
    """
    fb = _foolbox()
    kind = fb.attacks.LInfFMNAttack if norm == "linf" else fb.attacks.DDNAttack
    with _frozen(model), torch.random.fork_rng():
        torch.manual_seed(0)
        wrapped = fb.PyTorchModel(model, bounds=(0, 1), device="cpu")
        moved, _, fooled = kind(steps=steps)(wrapped, x, y, epsilons=None)
    change = (moved - x).flatten(1)
    size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    size = torch.where(fooled, size, torch.inf)
    result: NDArray[np.float64] = torch.where(_hits(model, x, y), size, 0.0).double().numpy()
    return result


class _frozen:
    """Evaluation mode without gradients of the parameters, for the length of a block."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()
        self.before = [p.requires_grad for p in model.parameters()]

    def __enter__(self) -> None:
        self.model.requires_grad_(requires_grad=False)

    def __exit__(self, *_: object) -> None:
        for parameter, wanted in zip(self.model.parameters(), self.before, strict=True):
            parameter.requires_grad_(wanted)
