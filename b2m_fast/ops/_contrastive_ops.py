"""Registration of info_nce and sigmoid_contrastive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._engine import engine_of
from ._library import fake, gradient, loss_dtype, not_twice, op, ops, or_empty
from ._problems import STATISTICS, ContrastiveProblem

if TYPE_CHECKING:
    from ._scalars import Scalar

__all__ = ["ops"]

# ----------------------------------------------------------------------------------- info_nce


def _of_scalar(gradient: Scalar, like: Tensor) -> Tensor:
    """Gradient of a scalar input, in its dtype and on its device."""
    if isinstance(gradient, Tensor):
        return gradient.to(like)
    return torch.full_like(like, gradient)


def _losses(statistics: Tensor, label_smoothing: float) -> Tensor:
    """Loss of every row from its statistics; 0 without a positive.

    lse - (1 - s) positive_mean - s logit_mean with the positives kept out of the sum they are
    compared with: lse - positive_lse = softplus(negative_lse - positive_lse).
    """
    negative_lse, positive_lse, positive_mean, count, logit_mean, _ = statistics
    # logaddexp(0, x) rather than softplus(x), which returns x itself above a threshold.
    gap = torch.logaddexp(torch.zeros_like(positive_lse), negative_lse - positive_lse)
    loss = gap + (positive_lse - positive_mean)
    if label_smoothing > 0:
        loss = loss + label_smoothing * (positive_mean - logit_mean)
    return torch.where(count > 0, loss, 0.0)


# Labels are int32, those of the keys with those of the extra keys at their end.
_INFO_NCE = (
    "Tensor query, Tensor key, Tensor logit_scale, Tensor? labels, Tensor? key_labels, str metric"
)


@op(
    f"info_nce({_INFO_NCE}, bool symmetric, float label_smoothing, bool top1)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
def _info_nce(
    query: Tensor,
    key: Tensor,
    logit_scale: Tensor,
    labels: Tensor | None,
    key_labels: Tensor | None,
    metric: str,
    symmetric: bool,
    label_smoothing: float,
    top1: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    problem = ContrastiveProblem(query, key, metric, logit_scale, labels, key_labels)
    rows, columns = engine_of(query.device).info_nce(
        problem, symmetric, top1=top1, logit_mean=label_smoothing > 0
    )
    if columns is None:
        columns = rows.new_empty((len(STATISTICS), 0))
    dtype = loss_dtype(query)
    row_loss = _losses(rows, label_smoothing).to(dtype)
    column_loss = _losses(columns, label_smoothing).to(dtype)
    return row_loss, column_loss, rows, columns


@fake("info_nce")
def _(query: Tensor, key: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    symmetric = options[-3]
    n, m = query.shape[0], key.shape[0] if symmetric else 0
    dtype = loss_dtype(query)
    return (
        query.new_empty((n,), dtype=dtype),
        query.new_empty((m,), dtype=dtype),
        query.new_empty((len(STATISTICS), n), dtype=torch.float64),
        query.new_empty((len(STATISTICS), m), dtype=torch.float64),
    )


@op(
    f"info_nce_backward(Tensor row_grad, Tensor column_grad, Tensor rows, Tensor columns, "
    f"{_INFO_NCE}, float label_smoothing, bool need_query, bool need_key)"
    " -> (Tensor, Tensor, Tensor)"
)
def _info_nce_backward(
    row_grad: Tensor,
    column_grad: Tensor,
    rows: Tensor,
    columns: Tensor,
    query: Tensor,
    key: Tensor,
    logit_scale: Tensor,
    labels: Tensor | None,
    key_labels: Tensor | None,
    metric: str,
    label_smoothing: float,
    need_query: bool,
    need_key: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    problem = ContrastiveProblem(query, key, metric, logit_scale, labels, key_labels)
    symmetric = columns.shape[1] > 0
    dquery, dkey, dscale = engine_of(query.device).info_nce_backward(
        problem,
        rows.contiguous(),
        columns.contiguous() if symmetric else None,
        _positive_weight(row_grad, rows),
        _positive_weight(column_grad, columns) if symmetric else None,
        label_smoothing,
        (need_query, need_key),
    )
    return or_empty(dquery, query), or_empty(dkey, key), _of_scalar(dscale, logit_scale)


def _positive_weight(grad: Tensor, statistics: Tensor) -> Tensor:
    """Gradient of a direction's losses in float64; rows without a positive have none."""
    count = statistics[STATISTICS.index("positive_count")]
    return torch.where(count > 0, grad.to(torch.float64), 0.0).contiguous()


@fake("info_nce_backward")
def _(
    row_grad: Tensor,
    column_grad: Tensor,
    rows: Tensor,
    columns: Tensor,
    query: Tensor,
    key: Tensor,
    logit_scale: Tensor,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    need_query, need_key = options[-2:]
    return (
        query.new_empty(query.shape if need_query else (0,)),
        key.new_empty(key.shape if need_key else (0,)),
        torch.empty_like(logit_scale),
    )


def _info_nce_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, key, logit_scale, labels, key_labels, metric, _, label_smoothing, _ = inputs
    _, _, rows, columns = output
    ctx.mark_non_differentiable(rows, columns)
    ctx.save_for_backward(query, key, logit_scale, labels, key_labels, rows, columns)
    ctx.options = metric, label_smoothing


def _info_nce_gradient(
    ctx: Any, row_grad: Tensor, column_grad: Tensor, *_statistics: Tensor
) -> tuple[Tensor | None, ...]:
    query, key, logit_scale, labels, key_labels, rows, columns = ctx.saved_tensors
    need_query, need_key, need_scale = ctx.needs_input_grad[:3]
    dquery, dkey, dscale = ops.info_nce_backward(
        row_grad,
        column_grad,
        rows,
        columns,
        query,
        key,
        logit_scale,
        labels,
        key_labels,
        *ctx.options,
        need_query,
        need_key,
    )
    return (
        dquery if need_query else None,
        dkey if need_key else None,
        dscale if need_scale else None,
        *(None,) * 6,
    )


gradient("info_nce", _info_nce_gradient, _info_nce_setup)
not_twice("info_nce")


# ----------------------------------------------------------------------------------- sigmoid_contrastive

_SIGMOID = (
    "Tensor query, Tensor key, Tensor logit_scale, Tensor logit_bias, Tensor? labels, "
    "Tensor? key_labels, str metric"
)


@op(f"sigmoid_contrastive({_SIGMOID}) -> Tensor")
def _sigmoid(
    query: Tensor,
    key: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    labels: Tensor | None,
    key_labels: Tensor | None,
    metric: str,
) -> Tensor:
    problem = ContrastiveProblem(query, key, metric, logit_scale, labels, key_labels)
    losses = engine_of(query.device).sigmoid_contrastive(problem, logit_bias)
    return losses.to(loss_dtype(query))


@fake("sigmoid_contrastive")
def _(query: Tensor, *_others: Any) -> Tensor:
    return query.new_empty((query.shape[0],), dtype=loss_dtype(query))


@op(
    f"sigmoid_contrastive_backward(Tensor grad, {_SIGMOID}, bool need_query, bool need_key)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
def _sigmoid_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    labels: Tensor | None,
    key_labels: Tensor | None,
    metric: str,
    need_query: bool,
    need_key: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    problem = ContrastiveProblem(query, key, metric, logit_scale, labels, key_labels)
    dquery, dkey, dscale, dbias = engine_of(query.device).sigmoid_contrastive_backward(
        problem, logit_bias, grad.to(torch.float64).contiguous(), (need_query, need_key)
    )
    return (
        or_empty(dquery, query),
        or_empty(dkey, key),
        _of_scalar(dscale, logit_scale),
        _of_scalar(dbias, logit_bias),
    )


@fake("sigmoid_contrastive_backward")
def _(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    need_query, need_key = options[-2:]
    return (
        query.new_empty(query.shape if need_query else (0,)),
        key.new_empty(key.shape if need_key else (0,)),
        torch.empty_like(logit_scale),
        torch.empty_like(logit_bias),
    )


def _sigmoid_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.metric = inputs
    ctx.save_for_backward(*tensors)


def _sigmoid_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[:4]
    gradients = ops.sigmoid_contrastive_backward(grad, *ctx.saved_tensors, ctx.metric, *needed[:2])
    wanted = (g if need else None for g, need in zip(gradients, needed, strict=True))
    return *wanted, None, None, None


gradient("sigmoid_contrastive", _sigmoid_gradient, _sigmoid_setup)
not_twice("sigmoid_contrastive")
