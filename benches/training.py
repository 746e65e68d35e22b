"""How much of a training step is its loss over all pairs.

A GRU learns delayed matching to sample and, by Brain Contrastive Transfer, to tell trials apart as
recorded neurons do: the step that `b2m transfer contrastive --student gru` makes, at a batch where
the loss counts. The same step is timed with the fused loss and with its reference, and each loss by
itself on the rows that it meets in that step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from b2m_fast import ops
from b2m_fast.data.tasks import delay_match_sample
from b2m_fast.methods.alignment import TrialTask
from b2m_fast.methods.brain2model import brain2model_objective
from b2m_fast.methods.config import Brain2ModelConfig, BrainWeight
from b2m_fast.students.recurrent import GRUStudent
from b2m_fast.teachers.responses import ResponseTeacher

if TYPE_CHECKING:
    from collections.abc import Callable

NEURONS, REPEATS = 200, 40


class _Loss(nn.Module):
    """InfoNCE of a library (ours, or its reference); keeps the rows it was last given."""

    def __init__(self, library: Any, by_condition: bool) -> None:
        super().__init__()
        self.library, self.by_condition = library, by_condition
        self.rows: tuple[Tensor, Tensor, Tensor | None] | None = None

    def forward(self, query: Tensor, key: Tensor, *, labels: Tensor) -> Tensor:
        found = labels if self.by_condition else None
        self.rows = query.detach(), key.detach(), found
        loss: Tensor = self.library.info_nce(query, key, labels=found)
        return loss


def step(
    library: Any, batch: int, dimension: int, *, by_condition: bool
) -> tuple[Callable[[], float], Callable[[], float]]:
    """A training step, and its loss by itself (forward and backward); both return the loss.

    by_condition: trials of one condition are positives of each other, as in `b2m transfer`; else
    each trial is of its own kind, as images are.
    """
    task = delay_match_sample(directions=8)
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(len(task.conditions)), REPEATS)
    tuning = rng.standard_normal((len(task.conditions), NEURONS))
    responses = tuning[label] + rng.standard_normal((len(label), NEURONS))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = GRUStudent(task.channels, task.classes, units=64)
    lesson = TrialTask(student, task, seed=0, batch=batch, validation=len(task.conditions))
    objective = brain2model_objective(
        lesson,
        ResponseTeacher(None, responses.astype(np.float32), label),
        Brain2ModelConfig("contrastive", BrainWeight(0.1), dimension=dimension),
        seed=0,
    )
    loss = objective.modules["brain_loss"].loss = _Loss(library, by_condition)
    fabric = Fabric(accelerator="cpu", devices=1)
    optimizer = torch.optim.Adam(objective.modules.parameters())

    def whole() -> float:
        total, parts = objective.step(fabric, 0.5)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return float(parts["penalty"])

    def alone() -> float:
        if loss.rows is None:
            whole()
        query, key, labels = loss.rows  # type: ignore[misc]
        query.requires_grad_().grad = None
        key.requires_grad_().grad = None
        value: Tensor = library.info_nce(query, key, labels=labels)
        value.backward()
        return float(value.detach())

    return whole, alone


def calls(batch: int, dimension: int, *, by_condition: bool) -> dict[str, Callable[[], float]]:
    """What is timed, by name."""
    found = {}
    for name, library in (("b2m_fast", ops), ("reference", ops.reference)):
        found[name], found[f"{name}: loss alone"] = step(
            library, batch, dimension, by_condition=by_condition
        )
    return found
