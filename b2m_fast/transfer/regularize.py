"""A brain regularises a network (Li et al. 2019, NeurIPS, arXiv 1911.05072).

The network learns its task, and is asked at the same time to find two images as similar as a
brain finds them:

    L = CE(head(trunk(x)), y) + alpha * mean over pairs ( F(s_ij) - F(S_ij) )^2             (1)

    s_ij   = sum_k gamma_k cos(f_i^k - mu^k, f_j^k - mu^k),   gamma = softmax(free)         (2)
    F(s)   = atanh(s) = 0.5 [log(1 + s + e) - log(1 - s + e)],   e = 1e-5                   (3)
    mu^k   <- beta mu^k + (1 - beta) mean of f^k over images and space, per channel         (4)

S is the similarity of the brain (see `b2m_fast.teachers`), f^k the five taps of the student.

What is whose
-------------
The loss, the five layers, their learned mixture, SGD and alpha = 20 are reported for the paper;
(4), beta = 0.9, e, momentum 0.9, learning rate 0.1 * 0.3^phase in five phases, 16 pairs per step,
batches of 64, the checkpoint of lowest validation loss, and batch normalisation shared by task and
neural images are those of code released by a later work that builds on theirs (Attias et al.
2024). That code writes F without the 0.5, so its loss is 4 times (1); alpha here is that of (1).
All pairs of a batch (``pairs="all"``) is ours: with the fused penalty the 32 images the paper's 16
pairs need give 496 pairs. So are the width, one cycle of phases instead of two, and
``batchnorm="task"``, which keeps neural images out of the running statistics.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from b2m_fast.ops import rsa_penalty
from b2m_fast.transfer.batches import augment, draw_images, draw_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from b2m_fast.data.images import ImageTask
    from b2m_fast.students.resnet import ResNet
    from b2m_fast.teachers.similarity import Target

__all__ = ["Regularization", "SimilarityHead", "Trained", "fisher_z", "pair_penalty", "train"]

Center = Literal["ema", "batch", "none"]
EPSILON = 1e-5


@dataclass(frozen=True)
class Regularization:
    """Everything that decides how a student is trained.

    Attributes
    ----------
    alpha : float
        Weight of the penalty in equation (1).
    pairs : {"all", "random"}
        All pairs of a batch of neural images, or random pairs in two forward passes (the paper).
    center : {"ema", "batch", "none"}
        Mean pattern that is subtracted: running mean per channel (4), mean of the batch, or none.
    beta : float
        Memory of the running mean.
    epochs, batch, neural_batch : int
        Passes over the task, task images per step, neural images per step.
    learning_rate, decay, momentum, weight_decay : float
        SGD; the rate is learning_rate * decay^phase.
    phases : int
        Phases of equal length the epochs are divided into.
    batchnorm : {"shared", "task"}
        Whether neural images enter the running statistics of batch normalisation.
    """

    alpha: float = 20.0
    pairs: Literal["all", "random"] = "all"
    center: Center = "ema"
    beta: float = 0.9
    epochs: int = 40
    batch: int = 64
    neural_batch: int = 32
    learning_rate: float = 0.1
    decay: float = 0.3
    phases: int = 5
    momentum: float = 0.9
    weight_decay: float = 0.0
    batchnorm: Literal["shared", "task"] = "task"


@dataclass
class Trained:
    """What `train` hands back.

    Attributes
    ----------
    head : SimilarityHead
        Mixture of layers and running means.
    history : list of dict
        Per epoch ``loss``, ``penalty`` (NaN without a target) and, on validation images,
        ``validation_loss`` and ``validation_accuracy``.
    best_epoch : int
        Epoch (from 1) of the lowest validation loss, whose weights the model carries.
    """

    head: SimilarityHead
    history: list[dict[str, float]]
    best_epoch: int


def fisher_z(s: Tensor) -> Tensor:
    """Equation (3): atanh, kept finite at -1 and 1.

    Parameters
    ----------
    s : Tensor
        Similarities in [-1, 1].

    Returns
    -------
    Tensor
        F(s), of the same shape; 6.1 at s = 1.
    """
    return 0.5 * (torch.log(1 + s + EPSILON) - torch.log(1 - s + EPSILON))


def pair_penalty(
    a: Sequence[Tensor], b: Sequence[Tensor], target: Tensor, layer_weights: Tensor
) -> Tensor:
    """The penalty of (1) for a list of pairs, as the paper computes it.

    Parameters
    ----------
    a, b : sequence of Tensor
        Per layer, the (centred) patterns (p, d_k) of either image of each pair.
    target, layer_weights : Tensor
        (p,) similarities of the pairs; (layers,) mixture, gamma.

    Returns
    -------
    Tensor
        Scalar.
    """
    cosines = [
        functional.cosine_similarity(x, y, dim=1, eps=1e-12) for x, y in zip(a, b, strict=True)
    ]
    s = (layer_weights[:, None] * torch.stack(cosines)).sum(0)
    penalty: Tensor = (fisher_z(s) - fisher_z(target)).square().mean()
    return penalty


def _flat(tap: Tensor) -> Tensor:
    """A map (n, channels, h, w) as rows (n, h * w * channels): a view if channels-last."""
    return tap.permute(0, 2, 3, 1).flatten(1)


class SimilarityHead(nn.Module):
    """From the taps of a student to its penalty: centring (4), mixture (2), comparison (1).

    Parameters
    ----------
    channels : sequence of int
        Channels of each tap.
    center : {"ema", "batch", "none"}
        See `Regularization`.
    beta : float
        Memory of the running mean (starts at 0).
    """

    def __init__(self, channels: Sequence[int], center: Center = "ema", beta: float = 0.9) -> None:
        super().__init__()
        self.center = center
        self.beta = beta
        self.free = nn.Parameter(torch.zeros(len(channels)))
        for k, c in enumerate(channels):
            self.register_buffer(f"mean_{k}", torch.zeros(c))

    @property
    def means(self) -> list[Tensor]:
        """Running mean of each tap, (channels,)."""
        return [self.get_buffer(f"mean_{k}") for k in range(len(self.free))]

    @property
    def gamma(self) -> Tensor:
        """Mixture of the layers, (layers,); uniform at the start."""
        return torch.softmax(self.free, dim=0)

    def update(self, taps: Sequence[Tensor]) -> None:
        """Equation (4); no gradient.

        Parameters
        ----------
        taps : sequence of Tensor
            Maps (n, channels, h, w) of the images of a step.
        """
        with torch.no_grad():
            for mean, x in zip(self.means, taps, strict=True):
                mean.lerp_(x.detach().mean(dim=(0, 2, 3)), 1 - self.beta)

    def centers(self, taps: Sequence[Tensor]) -> bool | list[Tensor]:
        """What the fused op is to subtract from the flat patterns of these taps.

        Parameters
        ----------
        taps : sequence of Tensor
            Maps (n, channels, h, w).

        Returns
        -------
        bool or list of Tensor
            Running means at every place, (h * w * channels,); or whether to subtract the batch's.
        """
        if self.center != "ema":
            return self.center == "batch"
        return [
            mean.repeat(x.shape[2] * x.shape[3]) for mean, x in zip(self.means, taps, strict=True)
        ]

    def forward(self, taps: Sequence[Tensor], target: Tensor) -> Tensor:
        """Penalty over all pairs of a batch, through the fused op.

        Parameters
        ----------
        taps : sequence of Tensor
            Maps (n, channels, h, w).
        target : Tensor
            (n, n) similarities.

        Returns
        -------
        Tensor
            Scalar, equation (1) without alpha.
        """
        if self.center == "ema":
            self.update(taps)
        return rsa_penalty(
            [_flat(x) for x in taps],
            target,
            compare="atanh",
            metric="cosine",
            target_kind="similarity",
            center=self.centers(taps),
            layer_weights=self.gamma,
            epsilon=EPSILON,
        )

    def forward_pairs(self, a: Sequence[Tensor], b: Sequence[Tensor], target: Tensor) -> Tensor:
        """Penalty over given pairs, one a row: maps ``a`` against maps ``b``.

        Parameters
        ----------
        a, b : sequence of Tensor
            Maps (p, channels, h, w) of the first and the second images.
        target : Tensor
            (p,) similarities.

        Returns
        -------
        Tensor
            As `forward`.
        """
        if self.center == "ema":
            self.update([torch.cat([x, y]) for x, y in zip(a, b, strict=True)])
        left, right = [_flat(x) for x in a], [_flat(y) for y in b]
        centers = self.centers(a)
        if centers is True:
            centers = [torch.cat([x, y]).mean(0) for x, y in zip(left, right, strict=True)]
        if centers:
            left = [x - m for x, m in zip(left, centers, strict=True)]
            right = [y - m for y, m in zip(right, centers, strict=True)]
        return pair_penalty(left, right, target, self.gamma)


def _neural_penalty(
    model: ResNet, head: SimilarityHead, drawn: tuple[Tensor, ...], config: Regularization
) -> Tensor:
    """The penalty of a batch of neural images, or of pairs of them."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    if config.batchnorm == "task":
        for norm in norms:
            norm.momentum = 0.0
    if config.pairs == "all":
        images, target = drawn
        penalty: Tensor = head(model.taps(images), target)
    else:
        first, second, target = drawn
        penalty = head.forward_pairs(model.taps(first), model.taps(second), target)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return penalty


def train(
    model: ResNet,
    task: ImageTask,
    targets: Sequence[Target],
    config: Regularization,
    seed: int,
    tick: Callable[[dict[str, float]], object] = lambda _: None,
) -> Trained:
    """Train a student on its task and, if there are targets, on the penalty; equation (1).

    Parameters
    ----------
    model : ResNet
        The student, trained in place; ends with the weights of the lowest validation loss.
    task : ImageTask
        The task.
    targets : sequence of Target
        Similarity targets; empty for a student without a teacher.
    config : Regularization
        How.
    seed : int
        Order, augmentation, neural batches; the task's order is the same without a target.
    tick : callable, optional
        Called after each epoch with its history entry.

    Returns
    -------
    Trained
        Head and history.

    Examples
    --------
    >>> trained = train(ResNet(10), digits(), [], Regularization(epochs=1), seed=0)
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    head = SimilarityHead(model.channels, config.center, config.beta)
    optimizer = torch.optim.SGD(
        [*model.parameters(), *head.parameters()],
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    task_rng, neural_rng = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    draw: Iterator[tuple[Tensor, ...]] | None = None
    if targets and config.pairs == "all":
        draw = draw_images(targets, config.neural_batch, neural_rng)
    elif targets:
        draw = draw_pairs(targets, config.neural_batch // 2, neural_rng)
    out = Trained(head, history=[], best_epoch=0)
    both = nn.ModuleList([model, head])
    best, best_state = float("inf"), both.state_dict()
    for epoch in range(config.epochs):
        phase = epoch * config.phases // config.epochs
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * config.decay**phase
        entry = _epoch(model, head, optimizer, task, draw, config, task_rng)
        entry |= _validate(model, task)
        out.history.append(entry)
        if entry["validation_loss"] < best:
            best, out.best_epoch = entry["validation_loss"], epoch + 1
            best_state = copy.deepcopy(both.state_dict())
        tick(entry)
    if out.best_epoch == 0:
        raise FloatingPointError(
            "the validation loss was never a number: training diverged; try a smaller alpha or "
            "learning rate"
        )
    both.load_state_dict(best_state)
    return out


def _epoch(
    model: ResNet,
    head: SimilarityHead,
    optimizer: torch.optim.Optimizer,
    task: ImageTask,
    draw: Iterator[tuple[Tensor, ...]] | None,
    config: Regularization,
    rng: np.random.Generator,
) -> dict[str, float]:
    """One pass over the task: a task batch, a neural batch, one backward pass of their sum."""
    model.train()
    x, y = torch.from_numpy(task.train_x[:, None]), torch.from_numpy(task.train_y)
    losses, penalties = [], []
    for chosen in torch.from_numpy(rng.permutation(len(x))).split(config.batch):
        batch = augment(x[chosen], task.crop, task.flip, rng)
        loss = functional.cross_entropy(model(batch), y[chosen])
        losses.append(loss.detach())
        if draw is not None:
            penalty = _neural_penalty(model, head, next(draw), config)
            penalties.append(penalty.detach())
            loss = loss + config.alpha * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {
        "loss": float(torch.stack(losses).mean()),
        "penalty": float(torch.stack(penalties).mean()) if penalties else float("nan"),
    }


def _validate(model: ResNet, task: ImageTask) -> dict[str, float]:
    """Loss and accuracy on the validation images."""
    model.eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(task.validation_x[:, None]))
    y = torch.from_numpy(task.validation_y)
    return {
        "validation_loss": float(functional.cross_entropy(logits, y)),
        "validation_accuracy": float((logits.argmax(1) == y).double().mean()),
    }
