"""The ops as PyTorch knows them: schema, shapes without data, gradient.

`Library.define` and `impl` instead of the `custom_op` decorator, which costs more per call than a
small loss takes. Each backward is an op of its own and says plainly that it has no derivative:
without that, PyTorch would treat the second derivative as zero and only warn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import _comparison, _engine
from ._engine import STATISTICS, ContrastiveProblem, Scoring

if TYPE_CHECKING:
    from collections.abc import Callable

_library = torch.library.Library("b2m_fast", "DEF")

#: The ops defined below, as torch.ops knows them.
ops = torch.ops.b2m_fast


def _op(schema: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Define an op, with the decorated function as its computation on CPU tensors."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _library.define(schema)
        name = schema.partition("(")[0]
        _library.impl(name, function, "CPU")
        return function

    return register


def _fake(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    register: Callable[[Callable[..., Any]], Callable[..., Any]]
    register = torch.library.register_fake(f"b2m_fast::{name}", lib=_library)
    return register


def _gradient(name: str, backward: Callable[..., Any], setup: Callable[..., Any]) -> None:
    torch.library.register_autograd(
        f"b2m_fast::{name}", backward, setup_context=setup, lib=_library
    )


def _not_twice(name: str) -> None:
    """Make the derivative of a backward op an error instead of a silent zero."""

    def backward(_ctx: Any, *_gradients: Any) -> Any:
        raise RuntimeError(
            f"b2m_fast.{name} is not twice differentiable; for second derivatives use "
            f"b2m_fast.ops.reference.{name}, which is ordinary torch code"
        )

    torch.library.register_autograd(f"b2m_fast::{name}_backward", backward, lib=_library)


def _loss_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _or_empty(x: Tensor | None, like: Tensor) -> Tensor:
    """Return an op's output for a gradient that is not wanted."""
    return like.new_empty((0,)) if x is None else x


# ----------------------------------------------------------------------------------- pairwise_similarity


@_op("pairwise_similarity(Tensor x, Tensor? y, str metric, float gamma, bool condensed) -> Tensor")
def _pairwise(x: Tensor, y: Tensor | None, metric: str, gamma: float, condensed: bool) -> Tensor:
    out = torch.empty(_pairwise_shape(x, y, condensed), dtype=x.dtype)
    _engine.pairwise(x, y, Scoring(metric, gamma), condensed, out)
    return out


def _pairwise_shape(x: Tensor, y: Tensor | None, condensed: bool) -> tuple[int, ...]:
    n = x.shape[0]
    return (n * (n - 1) // 2,) if condensed else (n, n if y is None else y.shape[0])


@_fake("pairwise_similarity")
def _(x: Tensor, y: Tensor | None, metric: str, gamma: float, condensed: bool) -> Tensor:
    return x.new_empty(_pairwise_shape(x, y, condensed))


@_op(
    "pairwise_similarity_backward(Tensor grad, Tensor x, Tensor? y, str metric, float gamma, "
    "bool condensed, bool need_x, bool need_y) -> (Tensor, Tensor)"
)
def _pairwise_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    metric: str,
    gamma: float,
    condensed: bool,
    need_x: bool,
    need_y: bool,
) -> tuple[Tensor, Tensor]:
    wanted = (need_x, need_y)
    dx, dy = _engine.pairwise_backward(grad, x, y, Scoring(metric, gamma), condensed, wanted)
    return _or_empty(dx, x), _or_empty(dy, x)


@_fake("pairwise_similarity_backward")
def _(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    metric: str,
    gamma: float,
    condensed: bool,
    need_x: bool,
    need_y: bool,
) -> tuple[Tensor, Tensor]:
    dy = y.new_empty(y.shape) if need_y and y is not None else x.new_empty((0,))
    return x.new_empty(x.shape if need_x else (0,)), dy


def _pairwise_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, y, *ctx.options = inputs
    ctx.save_for_backward(x, y)


def _pairwise_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, y = ctx.saved_tensors
    need_x, need_y = ctx.needs_input_grad[:2]
    dx, dy = ops.pairwise_similarity_backward(grad, x, y, *ctx.options, need_x, need_y)
    return dx if need_x else None, dy if need_y else None, None, None, None


_gradient("pairwise_similarity", _pairwise_gradient, _pairwise_setup)
_not_twice("pairwise_similarity")


# ----------------------------------------------------------------------------------- pair_similarity


@_op("pair_similarity(Tensor x, Tensor i, Tensor j, str metric, float gamma) -> Tensor")
def _pair_list(x: Tensor, i: Tensor, j: Tensor, metric: str, gamma: float) -> Tensor:
    for name, index in (("i", i), ("j", j)):
        if len(index) and not (int(index.min()) >= 0 and int(index.max()) < len(x)):
            raise IndexError(
                f"{name} holds indices from {int(index.min())} to {int(index.max())}; "
                f"expected 0 to {len(x) - 1}, x has {len(x)} rows"
            )
    return _engine.pair_list(x, i, j, Scoring(metric, gamma)).to(x.dtype)


@_fake("pair_similarity")
def _(x: Tensor, i: Tensor, j: Tensor, metric: str, gamma: float) -> Tensor:
    return x.new_empty((i.shape[0],))


@_op(
    "pair_similarity_backward(Tensor grad, Tensor x, Tensor i, Tensor j, str metric, float gamma)"
    " -> Tensor"
)
def _pair_list_backward(
    grad: Tensor, x: Tensor, i: Tensor, j: Tensor, metric: str, gamma: float
) -> Tensor:
    return _engine.pair_list_backward(grad, x, i, j, Scoring(metric, gamma))


@_fake("pair_similarity_backward")
def _(grad: Tensor, x: Tensor, i: Tensor, j: Tensor, metric: str, gamma: float) -> Tensor:
    return x.new_empty(x.shape)


def _pair_list_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, i, j, *ctx.options = inputs
    ctx.save_for_backward(x, i, j)


def _pair_list_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, i, j = ctx.saved_tensors
    dx = ops.pair_similarity_backward(grad, x, i, j, *ctx.options)
    return dx, None, None, None, None


_gradient("pair_similarity", _pair_list_gradient, _pair_list_setup)
_not_twice("pair_similarity")


# ----------------------------------------------------------------------------------- topk_similarity


@_op("topk_similarity(Tensor x, Tensor? y, int k, str metric, float gamma) -> (Tensor, Tensor)")
def _topk(x: Tensor, y: Tensor | None, k: int, metric: str, gamma: float) -> tuple[Tensor, Tensor]:
    values, indices = _engine.topk(x, y, k, Scoring(metric, gamma))
    return values.to(x.dtype), indices


@_fake("topk_similarity")
def _(x: Tensor, y: Tensor | None, k: int, metric: str, gamma: float) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], k)
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)


# ----------------------------------------------------------------------------------- info_nce


def _dense_labels(
    labels: Tensor | None, key_labels: Tensor | None, query: Tensor, key: Tensor, extra: int
) -> tuple[Tensor | None, Tensor | None]:
    """Labels as int32 numbered from 0; the `extra` last keys get -1, which no query has.

    None, None stands for the diagonal; a query that would meet an extra key there needs labels.
    """
    n, m = len(query), len(key) - extra
    if labels is None:
        if extra == 0 or n <= m:
            return None, None
        row, column = torch.arange(n), torch.arange(m)
    else:
        row, column = labels, labels if key_labels is None else key_labels
    _, dense = torch.unique(torch.cat([row, column]), return_inverse=True)
    dense = dense.to(torch.int32)
    return dense[:n].contiguous(), torch.cat([dense[n:], dense.new_full((extra,), -1)])


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


_INFO_NCE = (
    "Tensor query, Tensor key, Tensor logit_scale, Tensor? labels, Tensor? key_labels, int extra, "
    "str metric"
)


@_op(
    f"info_nce({_INFO_NCE}, bool symmetric, float label_smoothing, bool top1)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
def _info_nce(
    query: Tensor,
    key: Tensor,
    logit_scale: Tensor,
    labels: Tensor | None,
    key_labels: Tensor | None,
    extra: int,
    metric: str,
    symmetric: bool,
    label_smoothing: float,
    top1: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    row_label, column_label = _dense_labels(labels, key_labels, query, key, extra)
    problem = ContrastiveProblem(query, key, metric, float(logit_scale), row_label, column_label)
    rows, columns = _engine.info_nce(problem, symmetric, top1)
    if columns is None:
        columns = rows.new_empty((len(STATISTICS), 0))
    dtype = _loss_dtype(query)
    row_loss = _losses(rows, label_smoothing).to(dtype)
    column_loss = _losses(columns, label_smoothing).to(dtype)
    return row_loss, column_loss, rows, columns


@_fake("info_nce")
def _(
    query: Tensor,
    key: Tensor,
    logit_scale: Tensor,
    labels: Tensor | None,
    key_labels: Tensor | None,
    extra: int,
    metric: str,
    symmetric: bool,
    label_smoothing: float,
    top1: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, m = query.shape[0], key.shape[0] if symmetric else 0
    dtype = _loss_dtype(query)
    return (
        query.new_empty((n,), dtype=dtype),
        query.new_empty((m,), dtype=dtype),
        query.new_empty((len(STATISTICS), n), dtype=torch.float64),
        query.new_empty((len(STATISTICS), m), dtype=torch.float64),
    )


@_op(
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
    extra: int,
    metric: str,
    label_smoothing: float,
    need_query: bool,
    need_key: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    row_label, column_label = _dense_labels(labels, key_labels, query, key, extra)
    problem = ContrastiveProblem(query, key, metric, float(logit_scale), row_label, column_label)
    symmetric = columns.shape[1] > 0
    dquery, dkey, dscale = _engine.info_nce_backward(
        problem,
        rows.contiguous(),
        columns.contiguous() if symmetric else None,
        _positive_weight(row_grad, rows),
        _positive_weight(column_grad, columns) if symmetric else None,
        label_smoothing,
        (need_query, need_key),
    )
    scale_gradient = torch.full_like(logit_scale, dscale)
    return _or_empty(dquery, query), _or_empty(dkey, key), scale_gradient


def _positive_weight(grad: Tensor, statistics: Tensor) -> Tensor:
    """Gradient of a direction's losses in float64; rows without a positive have none."""
    count = statistics[STATISTICS.index("positive_count")]
    return torch.where(count > 0, grad.to(torch.float64), 0.0).contiguous()


@_fake("info_nce_backward")
def _(
    row_grad: Tensor,
    column_grad: Tensor,
    rows: Tensor,
    columns: Tensor,
    query: Tensor,
    key: Tensor,
    logit_scale: Tensor,
    labels: Tensor | None,
    key_labels: Tensor | None,
    extra: int,
    metric: str,
    label_smoothing: float,
    need_query: bool,
    need_key: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        query.new_empty(query.shape if need_query else (0,)),
        key.new_empty(key.shape if need_key else (0,)),
        torch.empty_like(logit_scale),
    )


def _info_nce_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, key, logit_scale, labels, key_labels, extra, metric, _, label_smoothing, _ = inputs
    _, _, rows, columns = output
    ctx.mark_non_differentiable(rows, columns)
    ctx.save_for_backward(query, key, logit_scale, labels, key_labels, rows, columns)
    ctx.options = extra, metric, label_smoothing


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
        *(None,) * 7,
    )


_gradient("info_nce", _info_nce_gradient, _info_nce_setup)
_not_twice("info_nce")


# ----------------------------------------------------------------------------------- sigmoid_contrastive

_SIGMOID = (
    "Tensor query, Tensor key, Tensor logit_scale, Tensor logit_bias, Tensor? labels, "
    "Tensor? key_labels, str metric"
)


@_op(f"sigmoid_contrastive({_SIGMOID}) -> Tensor")
def _sigmoid(
    query: Tensor,
    key: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    labels: Tensor | None,
    key_labels: Tensor | None,
    metric: str,
) -> Tensor:
    row_label, column_label = _dense_labels(labels, key_labels, query, key, 0)
    problem = ContrastiveProblem(query, key, metric, float(logit_scale), row_label, column_label)
    return _engine.sigmoid_contrastive(problem, float(logit_bias)).to(_loss_dtype(query))


@_fake("sigmoid_contrastive")
def _(
    query: Tensor,
    key: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    labels: Tensor | None,
    key_labels: Tensor | None,
    metric: str,
) -> Tensor:
    return query.new_empty((query.shape[0],), dtype=_loss_dtype(query))


@_op(
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
    row_label, column_label = _dense_labels(labels, key_labels, query, key, 0)
    problem = ContrastiveProblem(query, key, metric, float(logit_scale), row_label, column_label)
    dquery, dkey, dscale, dbias = _engine.sigmoid_contrastive_backward(
        problem, float(logit_bias), grad.to(torch.float64).contiguous(), (need_query, need_key)
    )
    return (
        _or_empty(dquery, query),
        _or_empty(dkey, key),
        torch.full_like(logit_scale, dscale),
        torch.full_like(logit_bias, dbias),
    )


@_fake("sigmoid_contrastive_backward")
def _(
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


_gradient("sigmoid_contrastive", _sigmoid_gradient, _sigmoid_setup)
_not_twice("sigmoid_contrastive")


# ----------------------------------------------------------------------------------- rsa_penalty

_RSA = (
    "Tensor features, Tensor target, Tensor? pair_weights, str compare, str metric, float gamma, "
    "str target_kind, str target_metric, float target_gamma, float epsilon, str form"
)


@_op(f"rsa_penalty({_RSA}) -> (Tensor, Tensor)")
def _rsa(
    features: Tensor,
    target: Tensor,
    pair_weights: Tensor | None,
    compare: str,
    metric: str,
    gamma: float,
    target_kind: str,
    target_metric: str,
    target_gamma: float,
    epsilon: float,
    form: str,
) -> tuple[Tensor, Tensor]:
    problem = _comparison.problem(
        features,
        target,
        pair_weights,
        Scoring(metric, gamma),
        target_kind,
        Scoring(target_metric, target_gamma),
    )
    value, recipe = _comparison.penalty(problem, compare, epsilon, form)
    return torch.tensor(value, dtype=_loss_dtype(features)), recipe


@_fake("rsa_penalty")
def _(
    features: Tensor,
    target: Tensor,
    pair_weights: Tensor | None,
    compare: str,
    metric: str,
    gamma: float,
    target_kind: str,
    target_metric: str,
    target_gamma: float,
    epsilon: float,
    form: str,
) -> tuple[Tensor, Tensor]:
    size = _comparison.recipe_size(compare, features.shape[0])
    return (
        features.new_empty((), dtype=_loss_dtype(features)),
        features.new_empty((size,), dtype=torch.float64),
    )


@_op(f"rsa_penalty_backward(Tensor grad, Tensor recipe, {_RSA}) -> Tensor")
def _rsa_backward(
    grad: Tensor,
    recipe: Tensor,
    features: Tensor,
    target: Tensor,
    pair_weights: Tensor | None,
    compare: str,
    metric: str,
    gamma: float,
    target_kind: str,
    target_metric: str,
    target_gamma: float,
    epsilon: float,
    form: str,
) -> Tensor:
    problem = _comparison.problem(
        features,
        target,
        pair_weights,
        Scoring(metric, gamma),
        target_kind,
        Scoring(target_metric, target_gamma),
    )
    return _comparison.penalty_backward(problem, compare, epsilon, form, recipe, float(grad))


@_fake("rsa_penalty_backward")
def _(
    grad: Tensor,
    recipe: Tensor,
    features: Tensor,
    target: Tensor,
    pair_weights: Tensor | None,
    compare: str,
    metric: str,
    gamma: float,
    target_kind: str,
    target_metric: str,
    target_gamma: float,
    epsilon: float,
    form: str,
) -> Tensor:
    return features.new_empty(features.shape)


def _rsa_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, target, pair_weights, *ctx.options = inputs
    _, recipe = output
    ctx.mark_non_differentiable(recipe)
    ctx.save_for_backward(features, target, pair_weights, recipe)


def _rsa_gradient(ctx: Any, grad: Tensor, _recipe: Tensor) -> tuple[Tensor | None, ...]:
    features, target, pair_weights, recipe = ctx.saved_tensors
    gradient = ops.rsa_penalty_backward(grad, recipe, features, target, pair_weights, *ctx.options)
    return gradient, *(None,) * 10


_gradient("rsa_penalty", _rsa_gradient, _rsa_setup)
_not_twice("rsa_penalty")
