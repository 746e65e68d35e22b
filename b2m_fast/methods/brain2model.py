r"""Brain2Model (Gallo Aquino et al. 2025, arXiv 2506.20834): a student's activity is a brain's.

A student learns its task, and its activity is asked to agree with that of a brain.

    L = w_task L_task + lambda L_brain                                                          (1)

Brain Latent Transfer: the student's states hold the latents of a brain, k numbers a row,

    L_brain = mean over rows of | W h + b - z |^2 / k                                           (2)
    W learned by descent; or fixed, k random orthonormal rows and b = 0; or ridge, solved anew from
    every batch with the gradient going through the solution,
    W' = (H'H + rho tr(H'H)/d I)^-1 H'Z,   H, Z the centred rows of the batch.                  (3)

Brain Contrastive Transfer: two linear heads bring both sides of a row into one space, where each
side finds the other among all rows of the batch,

    p_n = normalize(W_b b_n + c_b),   q_n = normalize(W_h h_n + c_h),   S_nm = p_n . q_m / tau  (4)
    L_brain = 1/2 [ mean_n -log softmax_m(S_nm)[n] + mean_m -log softmax_n(S_nm)[m] ]           (5)

Rows of one label (condition, condition and step, or image) are no mistake for one another: the
log-probability in (5) is averaged over all rows of the label. (5) is `b2m_fast.info_nce`, which
never stores S. tau is fixed, or learned and kept at 0.01 or above. The brain's rows are data and
get no gradient; readout and heads are thrown away after training.

h is a hidden state of a recurrent student at a step of a trial, or the mean over steps; or the mean
that an autoencoder's encoder gives for an image. `b2m_fast.methods.alignment` finds the row of the
brain that belongs to it. Where lambda is 0, L_brain is computed for the record, without gradient,
so that the student learns to the last bit as it does alone.

What is whose
-------------
That brain-derived latents of similar tasks are regressed, and that brain activity and activations
are aligned by a contrastive objective, is stated in the abstract of the paper. Its text was not
available: the equations, the kinds of W, where h is taken, and every number here are ours.

A learned W can satisfy (2) in directions that the task never reads, so R^2 on held-out rows is
always reported, and W can be fixed to see what changes.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from b2m_fast.methods.alignment import (
    AlignedRows,
    ConditionAlignment,
    FrameTask,
    LatentAlignment,
    StimulusAlignment,
    TrialTask,
)
from b2m_fast.methods.config import LOWEST_TEMPERATURE, Brain2ModelConfig, BrainWeight
from b2m_fast.methods.training import Resumable, Stream, seeded
from b2m_fast.nn import InfoNCELoss
from b2m_fast.ops import topk_similarity
from b2m_fast.teachers.latents import LatentTeacher

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from b2m_fast.teachers.responses import ResponseTeacher


# --------------------------------------------------------------------------------------------------
# Equations (2) and (3)
# --------------------------------------------------------------------------------------------------
def ridge_solution(h: Tensor, z: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """Return W (k, d) and b (k,) of equation (3), differentiable in h (n, d); z is (n, k)."""
    centre, mean = h.mean(0), z.mean(0)
    rows = h - centre
    gram = rows.T @ rows
    size = rho * gram.trace() / len(gram) + torch.finfo(gram.dtype).tiny  # states may be all alike
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight = torch.linalg.solve(gram + size * identity, rows.T @ (z - mean)).T
    return weight, mean - weight @ centre


class LatentLoss(nn.Module):
    """Equation (2), with its readout W, b.

    Sums over rows are made in float32 or wider, under autocast too.

    Parameters
    ----------
    width : int
        Columns d of the student's rows.
    latents : int
        Columns k of the brain's rows.
    readout : {"learned", "fixed", "ridge"}
        What W is.
    rho : float, default 0.01
        Penalty of "ridge", as a share of the mean variance of the columns of h.

    Raises
    ------
    ValueError
        If a setting makes no sense, or a fixed W has more latents than units.

    Examples
    --------
    >>> loss = LatentLoss(8, 2, "fixed")
    >>> loss(AlignedRows(torch.randn(6, 8), torch.randn(6, 2), torch.arange(6))).shape
    torch.Size([])
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        width: int,
        latents: int,
        readout: Literal["learned", "fixed", "ridge"] = "learned",
        *,
        rho: float = 0.01,
    ) -> None:
        super().__init__()
        Brain2ModelConfig(readout=readout, rho=rho)  # refuses what makes no sense
        if readout == "fixed" and latents > width:
            raise ValueError(
                f"{latents} latents have no {latents} orthonormal directions among {width} units: "
                "take fewer latents, more units, or another readout"
            )
        self.readout, self.rho = readout, rho
        start = nn.Linear(width, latents)
        if readout == "learned":
            self.weight, self.bias = start.weight, start.bias
            return
        weight = torch.zeros_like(start.weight)
        if readout == "fixed":
            nn.init.orthogonal_(weight)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", torch.zeros_like(start.bias))

    def read(self, h: Tensor) -> Tensor:
        """Return W h + b (n, k); with "ridge" by the W and b of the last training batch."""
        return functional.linear(_wide(h), self.weight, self.bias)

    def forward(self, rows: AlignedRows) -> Tensor:
        """Return equation (2), a scalar."""
        with torch.autocast(rows.student.device.type, enabled=False):
            h, z = _wide(rows.student), _wide(rows.brain)
            if self.readout != "ridge":
                return (self.read(h) - z).square().mean()
            weight, bias = ridge_solution(h, z, self.rho)
            with torch.no_grad():
                self.weight.copy_(weight)
                self.bias.copy_(bias)
            return (functional.linear(h, weight, bias) - z).square().mean()

    @torch.no_grad()
    def quality(self, rows: AlignedRows) -> dict[str, float]:
        """Return ``readout_r2``: 1 - sum |W h + b - z|^2 / sum |z - mean z|^2, over all latents.

        NaN if the latents do not vary.
        """
        with torch.autocast(rows.student.device.type, enabled=False):
            z = rows.brain.double()
            missed = (self.read(rows.student).double() - z).square().sum()
            spread = (z - z.mean(0)).square().sum()
        return {"readout_r2": float(1 - missed / spread) if spread > 0 else math.nan}


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


# --------------------------------------------------------------------------------------------------
# Equations (4) and (5)
# --------------------------------------------------------------------------------------------------
class ContrastiveLoss(nn.Module):
    """Equation (5), with the heads and the temperature of (4); normalised inside the op.

    Parameters
    ----------
    width : int
        Columns of the student's rows h.
    features : int
        Columns of the brain's rows b.
    dimension : int, default 64
        Columns of p and q.
    temperature : float, default 0.07
        tau, or where it starts; 0.01 or above.
    learn_temperature : bool, default False
        Learn tau.

    Raises
    ------
    ValueError
        If a setting makes no sense.

    Examples
    --------
    >>> loss = ContrastiveLoss(8, 20)
    >>> loss(AlignedRows(torch.randn(6, 8), torch.randn(6, 20), torch.arange(6))).shape
    torch.Size([])
    """

    def __init__(
        self,
        width: int,
        features: int,
        dimension: int = 64,
        *,
        temperature: float = 0.07,
        learn_temperature: bool = False,
    ) -> None:
        super().__init__()
        Brain2ModelConfig(
            dimension=dimension, temperature=temperature
        )  # refuses what makes no sense
        self.student = nn.Linear(width, dimension)  # W_h, c_h
        self.brain = nn.Linear(features, dimension)  # W_b, c_b
        self.loss = InfoNCELoss(
            temperature, learnable=learn_temperature, max_logit_scale=1 / LOWEST_TEMPERATURE
        )

    @property
    def temperature(self) -> float:
        """Tau, as the loss uses it."""
        return 1 / torch.as_tensor(self.loss.logit_scale()).item()  # in float32, as the op has it

    def forward(self, rows: AlignedRows) -> Tensor:
        """Return equation (5), a scalar."""
        p, q = self.brain(rows.brain), self.student(rows.student)
        loss: Tensor = self.loss(p, q, labels=rows.label)
        return loss

    @torch.no_grad()
    def quality(self, rows: AlignedRows) -> dict[str, float]:
        """Return how often the nearest row of the other side has the same label.

        ``retrieval`` (a row of the student finds the brain's), ``retrieval_reverse``,
        ``retrieval_chance`` (of a random row), ``temperature``.
        """
        p, q = self.brain(rows.brain), self.student(rows.student)
        label = rows.label

        def found(queries: Tensor, keys: Tensor) -> float:
            nearest = topk_similarity(queries, keys, k=1)[1][:, 0]
            return float((label[nearest] == label).double().mean())

        _, which, counts = label.unique(return_inverse=True, return_counts=True)
        return {
            "retrieval": found(q, p),
            "retrieval_reverse": found(p, q),
            "retrieval_chance": float(counts[which].double().mean()) / len(label),
            "temperature": self.temperature,
        }


# --------------------------------------------------------------------------------------------------
# Equation (1)
# --------------------------------------------------------------------------------------------------
class Brain2ModelObjective(Resumable):
    """Equation (1), for `b2m_fast.methods.training.train`.

    Parameters
    ----------
    task : TrialTask or FrameTask
        Student and task.
    alignment : LatentAlignment, ConditionAlignment or StimulusAlignment, optional
        Where rows come from; None: the student alone.
    brain_loss : LatentLoss or ContrastiveLoss, optional
        L_brain, with an alignment.
    weight : BrainWeight
        lambda.
    """

    resumed = ("task", "alignment")

    def __init__(
        self,
        task: TrialTask | FrameTask,
        alignment: LatentAlignment | ConditionAlignment | StimulusAlignment | None = None,
        brain_loss: LatentLoss | ContrastiveLoss | None = None,
        weight: BrainWeight = BrainWeight(),  # noqa: B008
    ) -> None:
        self.task: Any = task  # the activity of one kind of task fits the alignments of that kind
        self.alignment, self.brain_loss, self.weight = alignment, brain_loss, weight
        self.modules = nn.ModuleDict({"student": task.student})
        if brain_loss is not None:
            self.modules["brain_loss"] = brain_loss

    def step(self, fabric: Fabric, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Return equation (1) for the next batch, and its parts.

        ``loss`` is that of the task; with a teacher there are ``penalty``, L_brain, and ``weight``,
        lambda.
        """
        loss, activity = self.task.step(fabric)
        parts = {"loss": loss.detach()}
        if self.alignment is None or self.brain_loss is None:
            return loss, parts
        task, brain = self.weight.at(progress)
        with nullcontext() if brain > 0 else torch.no_grad():
            penalty = self.brain_loss(self.alignment.rows(fabric, activity))
        parts |= {"penalty": penalty.detach(), "weight": loss.new_tensor(brain)}
        if brain > 0:
            loss = loss + brain * penalty if task > 0 else brain * penalty
        return loss, parts

    def validate(self, fabric: Fabric) -> dict[str, float]:
        """Return the task's numbers and, with a teacher, those of L_brain on held-out rows."""
        numbers: dict[str, float]
        numbers, activity = self.task.validate(fabric)
        if self.alignment is not None and self.brain_loss is not None:
            rows = self.alignment.rows(fabric, activity, held_out=True)
            numbers |= self.brain_loss.quality(rows)
        return numbers


def brain2model_objective(
    task: TrialTask | FrameTask,
    teacher: LatentTeacher | ResponseTeacher | None,
    config: Brain2ModelConfig,
    seed: int,
) -> Brain2ModelObjective:
    """Put a student with its task and a teacher together.

    Parameters
    ----------
    task : TrialTask or FrameTask
        Student and task.
    teacher : LatentTeacher or ResponseTeacher or None
        Latents in the steps of the task, or responses labelled with its conditions, for a recurrent
        student; responses to images for an autoencoder; None for a student alone.
    config : Brain2ModelConfig
        How it teaches.
    seed : int
        Seed of the readout or heads, and of the teacher's draws; the task has its own.

    Returns
    -------
    Brain2ModelObjective
        For `b2m_fast.methods.training.train`.

    Raises
    ------
    ValueError
        If teacher and task do not fit together.

    Examples
    --------
    >>> task = TrialTask(GRUStudent(decision.channels, decision.classes), decision, seed=0)
    >>> objective = brain2model_objective(task, teacher, Brain2ModelConfig("latent"), seed=0)
    >>> history = train(objective, TrainConfig(steps=1000, clip=1.0))
    """
    if teacher is None:
        return Brain2ModelObjective(task)
    alignment: LatentAlignment | ConditionAlignment | StimulusAlignment
    if isinstance(task, FrameTask):
        if isinstance(teacher, LatentTeacher):
            raise ValueError(  # noqa: TRY004
                "latents of a task's conditions cannot teach an autoencoder of frames: take "
                "responses to images (ResponseTeacher)"
            )
        alignment = StimulusAlignment(teacher, task, config, seed)
    elif isinstance(teacher, LatentTeacher):
        alignment = LatentAlignment(teacher, task, config, seed)
    else:
        alignment = ConditionAlignment(teacher, task, config, seed)
    brain_loss: LatentLoss | ContrastiveLoss
    width, features = alignment.widths
    with seeded(seed, Stream.HEADS):
        if config.method == "latent":
            brain_loss = LatentLoss(width, features, config.readout, rho=config.rho)
        else:
            brain_loss = ContrastiveLoss(
                width,
                features,
                config.dimension,
                temperature=config.temperature,
                learn_temperature=config.learn_temperature,
            )
    return Brain2ModelObjective(task, alignment, brain_loss, config.weight)
