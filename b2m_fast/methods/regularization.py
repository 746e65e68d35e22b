r"""Neural regularisation (Li et al. 2019, NeurIPS, arXiv 1911.05072).

A network learns its task, and is asked to find two images as similar as a brain finds them.

    L = CE(network(x), y) + alpha mean over pairs ( F(s_ij) - F(S_ij) )^2                       (1)
    s_ij  = sum_k gamma_k cos(f_i^k - mu^k, f_j^k - mu^k),   gamma = softmax(free)              (2)
    F(s)  = atanh(s) = 0.5 [log(1 + s + e) - log(1 - s + e)],   e = 1e-5                        (3)
    mu^k  <- beta mu^k + (1 - beta) mean of f^k over images and space, per channel              (4)

S is the brain's similarity of the images (`b2m_fast.teachers.similarity`), f^k are the taps of the
student. The target holds a row of numbers for each image, S_ij is the product of two rows, and the
fused op takes the rows of a batch as they are: no matrix of all pairs of images is ever made.

What is whose
-------------
The loss, the five layers, their learned mixture, SGD and alpha = 20 are reported for the paper;
(4), beta = 0.9, e, momentum 0.9, learning rate 0.1 * 0.3^phase in five phases, 16 pairs a step,
batches of 64, the checkpoint of lowest validation loss, and batch normalisation shared by task and
neural images are those of code released by a later work that builds on theirs (Attias et al.
2024). That code writes F without the 0.5, so its loss is 4 times (1); alpha here is that of (1).
All pairs of a batch (``pairs="all"``) is ours: the 32 images that the paper's 16 pairs need have
496 pairs. So are the width, one cycle of phases instead of two, and ``batchnorm="task"``, which
keeps neural images out of the running statistics.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from b2m_fast.data.files import digest
from b2m_fast.methods.training import (
    History,
    RandomStreams,
    Resumable,
    ShuffledIndices,
    Stream,
    train,
)
from b2m_fast.nn import RSAPenalty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from lightning_fabric import Fabric
    from numpy.typing import NDArray

    from b2m_fast.data.images import ImageTask
    from b2m_fast.methods.config import Regularization
    from b2m_fast.teachers.similarity import SimilarityTarget


# --------------------------------------------------------------------------------------------------
# Images: of the task, and of the brain
# --------------------------------------------------------------------------------------------------
def _images(images: NDArray[np.float32], rows: NDArray[np.int64] | slice = slice(None)) -> Tensor:
    """Return some images as (n, channels, height, width); gray ones may come without an axis."""
    x = torch.from_numpy(images[rows])
    return x[:, None] if x.ndim == 3 else x


def augment(x: Tensor, crop: int, flip: bool, rng: np.random.Generator) -> Tensor:
    """Return images (n, channels, h, w) moved by up to `crop` pixels; `flip`: half mirrored."""
    n, channels, height, width = x.shape
    padded = functional.pad(x, (crop, crop, crop, crop), mode="reflect")
    top, left = (torch.from_numpy(rng.integers(0, 2 * crop + 1, n)).to(x.device) for _ in range(2))
    row = top[:, None] + torch.arange(height, device=x.device)
    column = left[:, None] + torch.arange(width, device=x.device)
    if flip:
        mirrored = torch.from_numpy(rng.random(n) < 0.5).to(x.device)
        column = torch.where(mirrored[:, None], column.flip(1), column)
    image = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[:, None, None]
    return padded[image, channel, row[:, None, :, None], column[:, None, None, :]]


class NeuralBatch(NamedTuple):
    """Neural images of one set, and their target as `b2m_fast.nn.RSAPenalty` takes it."""

    images: Tensor
    target: Tensor
    pairs: tuple[Tensor, Tensor] | None


class NeuralBatches(Resumable):
    """Endless batches of neural images of one image set, with their target.

    The sets take turns in proportion to their images. With ``pairs="all"`` images of a set are
    shuffled and used up before they come again, but for those of the last, incomplete batch. With
    ``pairs="random"`` pairs i < j are independent draws (the released code walks through a shuffled
    list of all pairs, of which a training sees a few per cent), and the batch is the first images
    followed by the second ones.
    """

    resumed = ("streams", "orders")

    def __init__(
        self, targets: Sequence[SimilarityTarget], config: Regularization, streams: RandomStreams
    ) -> None:
        self.targets, self.config, self.streams = targets, config, streams
        self.applied = any(t.apply is not None for t in targets)
        sizes = np.array([len(t.images) for t in targets], dtype=float)
        self.shares = sizes / sizes.sum()
        self.orders = [
            ShuffledIndices(len(t.images), config.neural_batch, streams.numpy, drop_last=True)
            for t in targets
        ]

    def __next__(self) -> NeuralBatch:
        """Return the next batch."""
        rng, count = self.streams.numpy, self.config.neural_batch // 2
        k = int(rng.choice(len(self.targets), p=self.shares))
        target = self.targets[k]
        if self.config.pairs == "all":
            chosen = next(self.orders[k])
            rows = (
                target.similarity(chosen) if self.applied else torch.from_numpy(target.rows[chosen])
            )
            return NeuralBatch(_images(target.images, chosen), rows, None)
        first = rng.integers(0, len(target.images), count)
        second = (first + rng.integers(1, len(target.images), count)) % len(target.images)
        i, j = np.minimum(first, second), np.maximum(first, second)
        places = torch.from_numpy(np.arange(2 * count)).chunk(2)
        images = _images(target.images, np.concatenate([i, j]))
        return NeuralBatch(images, target.pairs(i, j), (places[0], places[1]))


# --------------------------------------------------------------------------------------------------
# Equations (1) to (4)
# --------------------------------------------------------------------------------------------------
@torch.no_grad()
def _channels_of_taps(student: Any, image: Tensor) -> list[int]:
    """Return the number of channels of each tap; the student's state stays as it is."""
    student.eval()
    return [tap.shape[1] for tap in student.taps(image.to(next(student.parameters()).device))]


@contextmanager
def _frozen_statistics(network: nn.Module, frozen: bool) -> Iterator[None]:
    """Normalise by the batch; without its entering the running statistics, if these are frozen."""
    norms = [m for m in network.modules() if frozen and isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class RegularizationObjective(Resumable):
    """Equation (1), for `b2m_fast.methods.training.train`: a task batch and a neural batch a step.

    Parameters
    ----------
    student : b2m_fast.students.ImageStudent
        The student; trained in its ``memory_format``, if it has one.
    task : ImageTask
        The task.
    targets : sequence of SimilarityTarget
        One an image set; empty for a student without a teacher.
    config : Regularization
        How the student is regularised.
    seed : int
        Seed of order, augmentation and neural batches; the task's are the same without a target.

    Raises
    ------
    ValueError
        If images of task and targets have different numbers of channels, or a target has fewer than
        two images.
    """

    resumed = ("streams", "order", "neural")

    def __init__(
        self,
        student: Any,
        task: ImageTask,
        targets: Sequence[SimilarityTarget],
        config: Regularization,
        seed: int,
    ) -> None:
        wanted = _images(task.train_x, slice(1)).shape[1]
        for target in targets:
            found = _images(target.images, slice(1)).shape[1]
            if len(target.images) < 2 or found != wanted:
                raise ValueError(
                    f"target {target.name!r} has {len(target.images)} images of {found} channels; "
                    f"at least 2 are needed, of {wanted} channels, as the task {task.name!r} has"
                )
        memory_format = getattr(student, "memory_format", torch.contiguous_format)
        self.student, self.task, self.config = student.to(memory_format=memory_format), task, config
        self.streams = RandomStreams(seed, Stream.TASK)
        self.order = ShuffledIndices(len(task.train_x), config.batch, self.streams.numpy)
        self.neural = None
        kind: dict[str, Any] = {"target_metric": "dot"}  # of the target's rows
        if targets:
            self.neural = NeuralBatches(targets, config, RandomStreams(seed, Stream.TEACHER))
            kind = {"target_kind": "similarity"} if self.neural.applied else kind
        channels = _channels_of_taps(student, _images(task.train_x, slice(1)))
        centered: dict[str, Any] = {"center": config.center == "batch"}
        if config.center == "ema":
            centered = {"center": "ema", "momentum": config.beta, "channels": channels}
        self.penalty = RSAPenalty("atanh", layers=len(channels), **centered, **kind)
        self.modules = nn.ModuleDict({"student": student, "penalty": self.penalty})

    def step(self, fabric: Fabric, _: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Return equation (1) for the next batches; ``loss`` of the task, ``penalty`` (or NaN)."""
        chosen = next(self.order)
        x = augment(
            _images(self.task.train_x, chosen), self.task.crop, self.task.flip, self.streams.numpy
        )
        x, y = fabric.to_device((x, torch.from_numpy(self.task.train_y[chosen])))
        loss = functional.cross_entropy(self.student(x), y)
        if self.neural is None:
            return loss, {"loss": loss.detach(), "penalty": loss.new_tensor(math.nan)}
        images, target, pairs = fabric.to_device(next(self.neural))
        passes = [images] if pairs is None else images.chunk(2)  # random pairs: the paper's two
        with _frozen_statistics(self.student, self.config.batchnorm == "task"):
            taps = [torch.cat(parts) for parts in zip(*map(self.student.taps, passes), strict=True)]
        penalty = self.penalty(taps, target, pairs=pairs)
        parts = {"loss": loss.detach(), "penalty": penalty.detach()}
        return loss + self.config.alpha * penalty, parts

    def validate(self, fabric: Fabric) -> dict[str, float]:
        """Return loss and accuracy of the task on its validation images."""
        x, y = fabric.to_device(
            (_images(self.task.validation_x), torch.from_numpy(self.task.validation_y))
        )
        logits = self.student(x)
        return {
            "validation_loss": float(functional.cross_entropy(logits, y)),
            "validation_accuracy": float((logits.argmax(1) == y).double().mean()),
        }


@dataclass
class Regularized:
    """Result of `train_regularized`.

    Parameters
    ----------
    penalty : b2m_fast.nn.RSAPenalty
        With the learned mixture, ``penalty.layer_weights()``, and the running means.
    history : History
        One entry an epoch: ``loss``, ``penalty`` (NaN without a target) and, on validation images,
        ``validation_loss`` and ``validation_accuracy``.
    best_epoch : int
        Epoch (from 1) of the lowest validation loss, whose weights the student has.
    """

    penalty: RSAPenalty
    history: History
    best_epoch: int


def train_regularized(
    student: Any,
    task: ImageTask,
    targets: Sequence[SimilarityTarget],
    config: Regularization,
    seed: int,
    *,
    checkpoint: Path | None = None,
    on_validation: Callable[[dict[str, float]], object] = lambda _: None,
    **device: Any,
) -> Regularized:
    """Train a student on its task and, if there are targets, on the penalty; equation (1).

    Parameters
    ----------
    student : b2m_fast.students.ImageStudent
        The student, trained in place; ends with the weights of the lowest validation loss.
    task : ImageTask
        The task.
    targets : sequence of SimilarityTarget
        One an image set; empty for a student without a teacher.
    config : Regularization
        How the student is trained.
    seed : int
        Seed of order, augmentation and neural batches; the task's are the same without a target.
    checkpoint : Path, optional
        As in `b2m_fast.methods.training.train`; one is written after each epoch.
    on_validation : callable, optional
        Called after each epoch with its entry of the history.
    **device
        ``accelerator``, ``devices`` and ``precision`` of `TrainConfig`.

    Returns
    -------
    Regularized
        Penalty, history and best epoch.

    Raises
    ------
    ValueError
        If images of task and targets do not fit together, or there is no such device.
    FloatingPointError
        If training diverges.
    ImportError
        If Lightning Fabric is not installed.

    Examples
    --------
    >>> trained = train_regularized(ResNet(10), digits(), [], Regularization(epochs=1), seed=0)
    """
    training = config.training(len(task.train_x), **device)
    objective = RegularizationObjective(student, task, targets, config, seed)
    history = train(
        objective,
        training,
        checkpoint=checkpoint,
        identity=digest([asdict(config), seed, task.name, [t.name for t in targets]]),
        on_validation=on_validation,
    )
    best = history.best_step or 0
    return Regularized(objective.penalty, history, best // training.validate_every)
