"""What InfoNCE gathers of its logits, and what its gradient needs of them, in plain torch.

An engine visits the pairs; before and after come these few operations on n numbers, in float64. See
csrc/include/b2m/cuda.h for the quantities.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: What is gathered of each row: negative_lse, positive_lse, positive_total, positive_count,
#: negative_max, positive_max.
STATE = 6


def empty_state(count: int, device: torch.device) -> Tensor:
    """State (6, count) of rows of which no logit has been seen."""
    state = torch.zeros(STATE, count, dtype=torch.float64, device=device)
    state[:2] = -math.inf
    state[4:] = -math.inf
    return state


def statistics(
    row_state: Tensor,
    column_state: Tensor | None,
    means: tuple[Tensor, Tensor] | None,
    *,
    top1: bool,
) -> tuple[Tensor, Tensor | None]:
    """The `STATISTICS` of both directions, (6, n) and (6, m), from their states; 0 if not wanted.

    `means`: mean logits of the rows and of the columns.
    """
    row_mean, column_mean = means or (None, None)
    top1 = top1 and row_state.shape[1] > 0  # without queries nothing can come first
    rows = _statistics(row_state, row_mean, top1=top1)
    if column_state is None:
        return rows, None
    return rows, _statistics(column_state, column_mean, top1=top1)


def _statistics(state: Tensor, logit_mean: Tensor | None, *, top1: bool) -> Tensor:
    negative_lse, positive_lse, total, count, negative_max, positive_max = state
    nothing = torch.zeros_like(count)
    first = nothing
    if top1:
        is_number = ~(negative_lse.isnan() | total.isnan())
        first = ((positive_max > negative_max) & is_number).to(torch.float64)  # a tie is a miss
    mean = total / count.clamp(min=1)
    logit_mean = nothing if logit_mean is None else logit_mean
    return torch.stack([negative_lse, positive_lse, mean, count, logit_mean, first])


def gradient_side(
    statistics_: Tensor, weight: Tensor, others: int, label_smoothing: float, dtype: torch.dtype
) -> Tensor:
    """What the gradient needs of each row, (6, count); `others` is the number of its logits.

    weight, lse, positive_lse, negative_share, inverse_count, smoothing. The target of label
    smoothing s is (1 - s) / count on the positives and s / others everywhere.
    """
    negative_lse, positive_lse, _, count, _, _ = statistics_
    share = torch.sigmoid(negative_lse - positive_lse)
    side = torch.stack(
        [
            weight,
            torch.logaddexp(negative_lse, positive_lse),
            positive_lse,
            torch.where(weight == 0, 0.0, share),
            torch.where(count > 0, (1 - label_smoothing) / count, 0.0),
            weight * (-label_smoothing / max(others, 1)),
        ]
    )
    return side.to(dtype)
