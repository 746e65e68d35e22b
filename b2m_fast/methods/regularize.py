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

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from b2m_fast.data.files import digest
from b2m_fast.methods.batches import ImageBatches, PairBatches, Shuffled, augment
from b2m_fast.methods.similarity_head import (
    EPSILON,
    Center,
    SimilarityHead,
    fisher_z,
    pair_penalty,
)
from b2m_fast.methods.training import LoopConfig
from b2m_fast.methods.training import train as loop_over

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lightning_fabric import Fabric

    from b2m_fast.data.images import ImageTask
    from b2m_fast.students.resnet import ResNet
    from b2m_fast.teachers.similarity import SimilarityTarget

__all__ = [
    "EPSILON",
    "Regularization",
    "SimilarityHead",
    "Trained",
    "fisher_z",
    "pair_penalty",
    "train",
]


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


class _Objective:
    """Equation (1) as what the loop trains: a task batch and a neural batch per step."""

    def __init__(
        self,
        model: ResNet,
        head: SimilarityHead,
        task: ImageTask,
        targets: Sequence[SimilarityTarget],
        config: Regularization,
        seed: int,
    ) -> None:
        self.model, self.head, self.task, self.config = model, head, task, config
        self.modules = nn.ModuleDict({"student": model, "head": head})
        self.rng, neural_rng = (np.random.default_rng([seed, stream]) for stream in (0, 1))
        self.order = Shuffled(len(task.train_x), config.batch, self.rng)
        self.neural: ImageBatches | PairBatches | None = None
        if targets and config.pairs == "all":
            self.neural = ImageBatches(targets, config.neural_batch, neural_rng)
        elif targets:
            self.neural = PairBatches(targets, config.neural_batch // 2, neural_rng)

    def step(self, fabric: Fabric, progress: float) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        chosen = next(self.order)
        x = torch.from_numpy(self.task.train_x[chosen][:, None])
        y = torch.from_numpy(self.task.train_y[chosen])
        x = augment(x, self.task.crop, self.task.flip, self.rng)
        x, y = fabric.to_device((x, y))
        loss = functional.cross_entropy(self.model(x), y)
        if self.neural is None:
            return loss, {"loss": loss.detach(), "penalty": loss.new_tensor(math.nan)}
        drawn = fabric.to_device(next(self.neural))
        penalty = _neural_penalty(self.model, self.head, drawn, self.config)
        parts = {"loss": loss.detach(), "penalty": penalty.detach()}
        return loss + self.config.alpha * penalty, parts

    def validate(self, fabric: Fabric) -> dict[str, float]:
        x = torch.from_numpy(self.task.validation_x[:, None])
        x, y = fabric.to_device((x, torch.from_numpy(self.task.validation_y)))
        logits = self.model(x)
        return {
            "validation_loss": float(functional.cross_entropy(logits, y)),
            "validation_accuracy": float((logits.argmax(1) == y).double().mean()),
        }

    def state(self) -> dict[str, Any]:
        neural = None if self.neural is None else self.neural.state()
        task = {"rng": self.rng.bit_generator.state, "order": self.order.state()}
        return {"task": task, "neural": neural}

    def load_state(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state = state["task"]["rng"]
        self.order.load_state(state["task"]["order"])
        if self.neural is not None:
            self.neural.load_state(state["neural"])


def train(
    model: ResNet,
    task: ImageTask,
    targets: Sequence[SimilarityTarget],
    config: Regularization,
    seed: int,
    tick: Callable[[dict[str, float]], object] = lambda _: None,
    *,
    checkpoint: Path | None = None,
) -> Trained:
    """Train a student on its task and, if there are targets, on the penalty; equation (1).

    Parameters
    ----------
    model : ResNet
        The student, trained in place; ends with the weights of the lowest validation loss.
    task : ImageTask
        The task.
    targets : sequence of SimilarityTarget
        Similarity targets; empty for a student without a teacher.
    config : Regularization
        How.
    seed : int
        Order, augmentation, neural batches; the task's order is the same without a target.
    tick : callable, optional
        Called after each epoch with its history entry.
    checkpoint : Path, optional
        See `b2m_fast.methods.training.train`; one is written after each epoch.

    Returns
    -------
    Trained
        Head and history.

    Raises
    ------
    FloatingPointError
        If training diverges.
    ImportError
        If Lightning Fabric is not installed.

    Examples
    --------
    >>> trained = train(ResNet(10), digits(), [], Regularization(epochs=1), seed=0)
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    head = SimilarityHead(model.channels, config.center, config.beta)
    epoch = math.ceil(len(task.train_x) / config.batch)  # steps
    loop = LoopConfig(
        steps=config.epochs * epoch,
        validate_every=epoch,
        optimizer="sgd",
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        schedule="phases",
        phases=config.phases,
        decay=config.decay,
        keep_best="validation_loss",
    )
    history = loop_over(
        _Objective(model, head, task, targets, config, seed),
        loop,
        checkpoint=checkpoint,
        identity=digest([asdict(config), seed, task.name, [t.name for t in targets]]),
        tick=lambda entry: tick(_without_step(entry)),
    )
    best = history.best_step or 0
    return Trained(head, [_without_step(entry) for entry in history.entries], best // epoch)


def _without_step(entry: dict[str, float]) -> dict[str, float]:
    """An entry of the history, of which there is one an epoch."""
    return {name: value for name, value in entry.items() if name != "step"}
