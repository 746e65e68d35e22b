"""How the ops become known to PyTorch: schema, shapes without data, gradient.

`Library.define` and `impl` instead of the `custom_op` decorator, which costs more per call than a
small loss takes. Each backward is an op of its own and says plainly that it has no derivative:
without that, PyTorch would treat the second derivative as zero and only warn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import _comparison
from ._types import (
    POSITIVE_COUNT,
    STATISTICS,
    Contrastive,
    Direction,
    Scalar,
    Scoring,
    computing_dtype,
    to_tensor,
    to_vector,
)
from .engines.select import engine_of, may_wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_library = torch.library.Library("b2m_fast", "DEF")

#: The ops that this file defines, as torch.ops knows them.
ops = torch.ops.b2m_fast


def _op(schema: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Define an op, with the decorated function as its computation on tensors of any device."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _library.define(schema)
        for key in ("CPU", "CUDA"):  # the function asks `engine_of` who computes
            _library.impl(schema.partition("(")[0], function, key)
        return function

    return register


def _fake(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as the op on tensors without data: shapes and dtypes only."""
    register: Callable[[Callable[..., Any]], Callable[..., Any]]
    register = torch.library.register_fake(f"b2m_fast::{name}", lib=_library)
    return register


def _differentiable(
    name: str, setup: Callable[..., Any], backward: Callable[..., Any], *, public: str | None = None
) -> None:
    """Register the gradient of an op; a derivative of its backward op becomes an error.

    `public`: the function that people know, if its name is another.
    """

    def refuse(_ctx: Any, *_gradients: Any) -> Any:
        raise RuntimeError(
            f"b2m_fast.{public or name} is not twice differentiable; for second derivatives use "
            f"b2m_fast.ops.reference.{public or name}, which is ordinary torch code"
        )

    register = torch.library.register_autograd
    register(f"b2m_fast::{name}", backward, setup_context=setup, lib=_library)
    register(f"b2m_fast::{name}_backward", refuse, lib=_library)


def _or_empty(gradient: Tensor | None, x: Tensor) -> Tensor:
    """Return an op's output for a gradient that may not be needed."""
    return x.new_empty((0,)) if gradient is None else gradient


def _shape_of_gradient(x: Tensor, needed: bool) -> Tensor:
    """Return what `_or_empty` returns, without data."""
    return x.new_empty(x.shape if needed else (0,))


def _of_scalar(gradient: Scalar, x: Tensor) -> Tensor:
    """Return the gradient of a scalar input, in its dtype and on its device."""
    return gradient.to(x) if isinstance(gradient, Tensor) else torch.full_like(x, gradient)


# ------------------------------------------------------------------------ info_nce

# The fields of `Contrastive`. Labels are int32, those of the keys with those of the extra keys at
# their end.
_CONTRASTIVE = (
    "Tensor query, Tensor key, Tensor logit_scale, Tensor? labels, Tensor? key_labels, str metric"
)
_FIELDS = len(Contrastive._fields)


def _losses(statistics: Tensor, label_smoothing: float, dtype: torch.dtype) -> Tensor:
    """Return the loss of every row from its statistics; 0 without a positive.

    lse - (1 - s) positive_mean - s logit_mean with the positives kept out of the sum they are
    compared with: lse - positive_lse = softplus(negative_lse - positive_lse).
    """
    negative_lse, positive_lse, positive_mean, count, logit_mean, _ = statistics
    # logaddexp(0, x) rather than softplus(x), which returns x itself above a threshold.
    gap = torch.logaddexp(torch.zeros_like(positive_lse), negative_lse - positive_lse)
    loss = gap + (positive_lse - positive_mean)
    if label_smoothing > 0:
        loss = loss + label_smoothing * (positive_mean - logit_mean)
    return torch.where(count > 0, loss, 0.0).to(dtype)


@_op(
    f"info_nce({_CONTRASTIVE}, bool symmetric, float label_smoothing, bool top1)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
def info_nce(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the losses and the statistics of the rows and of the columns."""
    arguments = Contrastive(*inputs[:_FIELDS])
    symmetric, label_smoothing, top1 = inputs[_FIELDS:]
    rows, columns = engine_of(arguments.query.device).info_nce(
        arguments, symmetric, top1=top1, logit_mean=label_smoothing > 0
    )
    if columns is None:
        columns = rows.new_empty((len(STATISTICS), 0))
    dtype = computing_dtype(arguments.query)
    row_loss = _losses(rows, label_smoothing, dtype)
    return row_loss, _losses(columns, label_smoothing, dtype), rows, columns


@_fake("info_nce")
def _(query: Tensor, key: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    symmetric = options[-3]
    n, m = query.shape[0], key.shape[0] if symmetric else 0
    dtype = computing_dtype(query)
    return (
        query.new_empty((n,), dtype=dtype),
        query.new_empty((m,), dtype=dtype),
        query.new_empty((len(STATISTICS), n), dtype=torch.float64),
        query.new_empty((len(STATISTICS), m), dtype=torch.float64),
    )


@_op(
    "info_nce_backward(Tensor row_grad, Tensor column_grad, Tensor rows, Tensor columns, "
    f"{_CONTRASTIVE}, float label_smoothing, bool[] needed) -> (Tensor, Tensor, Tensor)"
)
def info_nce_backward(
    row_grad: Tensor, column_grad: Tensor, rows: Tensor, columns: Tensor, *inputs: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and logit_scale."""
    arguments = Contrastive(*inputs[:_FIELDS])
    label_smoothing, needed = inputs[_FIELDS:]
    dquery, dkey, dscale = engine_of(arguments.query.device).info_nce_backward(
        arguments,
        _direction(rows, row_grad),
        _direction(columns, column_grad) if columns.shape[1] > 0 else None,
        label_smoothing,
        needed,
    )
    return (
        _or_empty(dquery, arguments.query),
        _or_empty(dkey, arguments.key),
        _of_scalar(dscale, arguments.logit_scale),
    )


def _direction(statistics: Tensor, grad: Tensor) -> Direction:
    """Return statistics with the gradients of the losses; rows without a positive have none."""
    weight = torch.where(statistics[POSITIVE_COUNT] > 0, grad.to(torch.float64), 0.0)
    return Direction(statistics.contiguous(), weight.contiguous())


@_fake("info_nce_backward")
def _(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    query, key, logit_scale, *_, needed = inputs[4:]
    dquery, dkey = _shape_of_gradient(query, needed[0]), _shape_of_gradient(key, needed[1])
    return dquery, dkey, torch.empty_like(logit_scale)


def _info_nce_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, metric, _, label_smoothing, _ = inputs
    _, _, rows, columns = output
    ctx.mark_non_differentiable(rows, columns)
    ctx.save_for_backward(*tensors, rows, columns)
    ctx.options = metric, label_smoothing


def _info_nce_gradient(
    ctx: Any, row_grad: Tensor, column_grad: Tensor, *_statistics: Tensor
) -> tuple[Tensor | None, ...]:
    *tensors, rows, columns = ctx.saved_tensors
    needed = ctx.needs_input_grad[:3]
    gradients = ops.info_nce_backward(
        row_grad, column_grad, rows, columns, *tensors, *ctx.options, needed[:2]
    )
    return *_if_needed(gradients, needed), *(None,) * 6


def _if_needed(gradients: Sequence[Tensor], needed: Sequence[bool]) -> Iterator[Tensor | None]:
    """Yield gradients, None instead of those that are not needed."""
    return (g if need else None for g, need in zip(gradients, needed, strict=True))


_differentiable("info_nce", _info_nce_setup, _info_nce_gradient)


# ------------------------------------------------------------------------ sigmoid_contrastive

_SIGMOID = f"{_CONTRASTIVE}, Tensor logit_bias"


@_op(f"sigmoid_contrastive({_SIGMOID}) -> Tensor")
def sigmoid_contrastive(*inputs: Any) -> Tensor:
    """Return the loss of every row."""
    *fields, logit_bias = inputs
    arguments = Contrastive(*fields)
    losses = engine_of(arguments.query.device).sigmoid_contrastive(arguments, logit_bias)
    return losses.to(computing_dtype(arguments.query))


@_fake("sigmoid_contrastive")
def _(query: Tensor, *_others: Any) -> Tensor:
    return query.new_empty((query.shape[0],), dtype=computing_dtype(query))


@_op(
    f"sigmoid_contrastive_backward(Tensor grad, {_SIGMOID}, bool[] needed)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
def sigmoid_contrastive_backward(
    grad: Tensor, *inputs: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of query, key, logit_scale and logit_bias."""
    *fields, logit_bias, needed = inputs
    arguments = Contrastive(*fields)
    dquery, dkey, dscale, dbias = engine_of(arguments.query.device).sigmoid_contrastive_backward(
        arguments, logit_bias, grad.to(torch.float64).contiguous(), needed
    )
    return (
        _or_empty(dquery, arguments.query),
        _or_empty(dkey, arguments.key),
        _of_scalar(dscale, arguments.logit_scale),
        _of_scalar(dbias, logit_bias),
    )


@_fake("sigmoid_contrastive_backward")
def _(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    query, key, logit_scale, *_, logit_bias, needed = inputs[1:]
    dquery, dkey = _shape_of_gradient(query, needed[0]), _shape_of_gradient(key, needed[1])
    return dquery, dkey, torch.empty_like(logit_scale), torch.empty_like(logit_bias)


def _sigmoid_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.metric, logit_bias = inputs
    ctx.save_for_backward(*tensors, logit_bias)


def _sigmoid_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, logit_bias = ctx.saved_tensors
    needed = *ctx.needs_input_grad[:3], ctx.needs_input_grad[-1]
    gradients = ops.sigmoid_contrastive_backward(grad, *tensors, ctx.metric, logit_bias, needed[:2])
    *of_tensors, of_bias = _if_needed(gradients, needed)
    return *of_tensors, None, None, None, of_bias


_differentiable("sigmoid_contrastive", _sigmoid_setup, _sigmoid_gradient)


# ------------------------------------------------------------------------ pairwise_similarity


@_op("pairwise_similarity(Tensor x, Tensor? y, str metric, float gamma, bool condensed) -> Tensor")
def pairwise_similarity(
    x: Tensor, y: Tensor | None, metric: str, gamma: float, condensed: bool
) -> Tensor:
    """Return all scores."""
    out = torch.empty(_pairwise_shape(x, y, condensed), dtype=x.dtype, device=x.device)
    engine_of(x.device).pairwise(x, y, Scoring(metric, gamma), condensed, out)
    return out


def _pairwise_shape(x: Tensor, y: Tensor | None, condensed: bool) -> tuple[int, ...]:
    n = x.shape[0]
    return (n * (n - 1) // 2,) if condensed else (n, n if y is None else y.shape[0])


@_fake("pairwise_similarity")
def _(x: Tensor, y: Tensor | None, metric: str, gamma: float, condensed: bool) -> Tensor:
    return x.new_empty(_pairwise_shape(x, y, condensed))


@_op(
    "pairwise_similarity_backward(Tensor grad, Tensor x, Tensor? y, str metric, float gamma, "
    "bool condensed, bool[] needed) -> (Tensor, Tensor)"
)
def pairwise_similarity_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    metric: str,
    gamma: float,
    condensed: bool,
    needed: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and y."""
    dx, dy = engine_of(x.device).pairwise_backward(
        grad, x, y, Scoring(metric, gamma), condensed, needed
    )
    return _or_empty(dx, x), _or_empty(dy, x)


@_fake("pairwise_similarity_backward")
def _(grad: Tensor, x: Tensor, y: Tensor | None, *options: Any) -> tuple[Tensor, Tensor]:
    *_, needed = options
    dy = x.new_empty((0,)) if y is None else _shape_of_gradient(y, needed[1])
    return _shape_of_gradient(x, needed[0]), dy


def _pairwise_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, y, *ctx.options = inputs
    ctx.save_for_backward(x, y)


def _pairwise_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[:2]
    gradients = ops.pairwise_similarity_backward(grad, *ctx.saved_tensors, *ctx.options, needed)
    return *_if_needed(gradients, needed), None, None, None


_differentiable("pairwise_similarity", _pairwise_setup, _pairwise_gradient)


# ------------------------------------------------------------------------ pair_similarity


@_op("pair_similarity(Tensor x, Tensor i, Tensor j, str metric, float gamma) -> Tensor")
def pair_similarity(x: Tensor, i: Tensor, j: Tensor, metric: str, gamma: float) -> Tensor:
    """Return the scores of listed pairs."""
    if may_wait(x.device):
        _check_indices(x, i, j)
    return engine_of(x.device).pair_list(x, i, j, Scoring(metric, gamma)).to(x.dtype)


def _check_indices(x: Tensor, i: Tensor, j: Tensor) -> None:
    """Raise unless all indices are rows of x; waits for the device."""
    if not len(i):
        return
    bounds = torch.stack([*torch.aminmax(i), *torch.aminmax(j)]).tolist()
    for name, low, high in (("i", *bounds[:2]), ("j", *bounds[2:])):
        if not 0 <= low <= high < len(x):
            raise IndexError(
                f"{name} holds indices from {low} to {high}; "
                f"expected 0 to {len(x) - 1}, x has {len(x)} rows"
            )


@_fake("pair_similarity")
def _(x: Tensor, i: Tensor, *_others: Any) -> Tensor:
    return x.new_empty((i.shape[0],))


@_op(
    "pair_similarity_backward(Tensor grad, Tensor x, Tensor i, Tensor j, str metric, float gamma)"
    " -> Tensor"
)
def pair_similarity_backward(
    grad: Tensor, x: Tensor, i: Tensor, j: Tensor, metric: str, gamma: float
) -> Tensor:
    """Return the gradient of x."""
    return engine_of(x.device).pair_list_backward(grad, x, i, j, Scoring(metric, gamma))


@_fake("pair_similarity_backward")
def _(grad: Tensor, x: Tensor, *_others: Any) -> Tensor:
    return x.new_empty(x.shape)


def _pair_list_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, i, j, *ctx.options = inputs
    ctx.save_for_backward(x, i, j)


def _pair_list_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    dx = ops.pair_similarity_backward(grad, *ctx.saved_tensors, *ctx.options)
    return dx, None, None, None, None


_differentiable("pair_similarity", _pair_list_setup, _pair_list_gradient)


# ------------------------------------------------------------------------ topk_similarity


@_op("topk_similarity(Tensor x, Tensor? y, int k, str metric, float gamma) -> (Tensor, Tensor)")
def topk_similarity(
    x: Tensor, y: Tensor | None, k: int, metric: str, gamma: float
) -> tuple[Tensor, Tensor]:
    """Return values and indices of the best keys of each row."""
    values, indices = engine_of(x.device).topk(x, y, k, Scoring(metric, gamma))
    return values.to(x.dtype), indices


@_fake("topk_similarity")
def _(x: Tensor, y: Tensor | None, k: int, metric: str, gamma: float) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], k)
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)


# ------------------------------------------------------------------------ mixed_layers

# centers: a mean or another center (d,) of each layer, or nothing (0,). own_mean: it is the mean of
# the layer's rows, and the gradient goes through it. needed: gradients of each layer, and of the
# roots of the weights.
_LAYERS = "Tensor[] layers, Tensor[] centers, bool[] own_mean, Tensor roots, str metric"


def _layers(
    layers: Sequence[Tensor], centers: Sequence[Tensor], roots: Tensor
) -> Iterator[tuple[Tensor, Tensor | None, Tensor, slice]]:
    """Yield rows, center, factor and columns of each layer."""
    dtype, begin = _mixed_rows(layers).dtype, 0
    factors = roots.to(torch.float64)
    for k, x in enumerate(layers):
        rows = x.to(dtype) if dtype == torch.float64 else x
        center = None
        if centers[k].numel():
            center = centers[k].to(torch.float64).contiguous()
        end = begin + x.shape[1]
        yield rows, center, factors[k], slice(begin, end)
        begin = end


@_op(f"mixed_layers({_LAYERS}) -> Tensor")
def mixed_layers(
    layers: list[Tensor], centers: list[Tensor], own_mean: list[bool], roots: Tensor, metric: str
) -> Tensor:
    """Return the rows of all layers side by side, whose dot products are the mixed similarities."""
    del own_mean  # matters to the gradient
    out = _mixed_rows(layers)
    scaled_rows = engine_of(out.device).scaled_rows
    for rows, center, factor, columns in _layers(layers, centers, roots):
        scaled_rows(rows, center, metric, factor, out[:, columns])
    return out


@_fake("mixed_layers")
def _(layers: list[Tensor], *_others: Any) -> Tensor:
    return _mixed_rows(layers)


def _mixed_rows(layers: Sequence[Tensor]) -> Tensor:
    """Return room for the rows of all layers, side by side; float64 if a layer is, else float32."""
    wide = any(x.dtype == torch.float64 for x in layers)
    shape = (layers[0].shape[0], sum(x.shape[1] for x in layers))
    return layers[0].new_empty(shape, dtype=torch.float64 if wide else torch.float32)


@_op(f"mixed_layers_backward(Tensor grad, {_LAYERS}, bool[] needed) -> (Tensor[], Tensor)")
def mixed_layers_backward(
    grad: Tensor,
    layers: list[Tensor],
    centers: list[Tensor],
    own_mean: list[bool],
    roots: Tensor,
    metric: str,
    needed: list[bool],
) -> tuple[list[Tensor], Tensor]:
    """Return the gradients of the layers and of the roots of their weights."""
    backward = engine_of(grad.device).scaled_rows_backward
    gradients: list[Tensor] = []
    of_roots: list[Scalar] = []
    for k, (rows, center, factor, columns) in enumerate(_layers(layers, centers, roots)):
        if not (needed[k] or needed[-1]):
            gradients.append(rows.new_empty((0,)))
            of_roots.append(0.0)
            continue
        dx, dfactor = backward(grad[:, columns], rows, center, metric, factor)
        if own_mean[k]:
            dx -= dx.mean(dim=0)
        gradients.append(dx.to(layers[k].dtype))
        of_roots.append(dfactor)
    return gradients, to_vector(of_roots, grad.device).to(roots.dtype)


@_fake("mixed_layers_backward")
def _(_grad: Tensor, layers: list[Tensor], *options: Any) -> tuple[list[Tensor], Tensor]:
    _, _, roots, _, needed = options
    gradients = [_shape_of_gradient(x, needed[k] or needed[-1]) for k, x in enumerate(layers)]
    return gradients, torch.empty_like(roots)


def _mixed_layers_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    layers, centers, ctx.own_mean, roots, ctx.metric = inputs
    ctx.count = len(layers)
    ctx.save_for_backward(*layers, *centers, roots)


def _mixed_layers_gradient(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *tensors, roots = ctx.saved_tensors
    layers, centers = tensors[: ctx.count], tensors[ctx.count :]
    of_layers, _, _, of_roots_needed, _ = ctx.needs_input_grad
    gradients, of_roots = ops.mixed_layers_backward(
        grad, layers, centers, ctx.own_mean, roots, ctx.metric, [*of_layers, of_roots_needed]
    )
    return list(_if_needed(gradients, of_layers)), [None] * ctx.count, None, of_roots, None


_differentiable("mixed_layers", _mixed_layers_setup, _mixed_layers_gradient, public="rsa_penalty")


# ------------------------------------------------------------------------ rsa_penalty


class _Penalty(NamedTuple):
    """The inputs of rsa_penalty, as its schema lists them."""

    features: Tensor
    target: Tensor
    pair_weights: Tensor | None
    compare: str
    metric: str
    gamma: float
    target_kind: str
    target_metric: str
    target_gamma: float
    epsilon: float
    form: str
    with_gradient: bool


@_op(
    "rsa_penalty(Tensor features, Tensor target, Tensor? pair_weights, str compare, str metric, "
    "float gamma, str target_kind, str target_metric, float target_gamma, float epsilon, str form, "
    "bool with_gradient) -> (Tensor, Tensor)"
)
def rsa_penalty(*inputs: Any) -> tuple[Tensor, Tensor]:
    """Return the value and, if asked for, its gradient for the features."""
    given = _Penalty(*inputs)
    comparison = _comparison.of_features(
        given.features,
        _comparison.side(
            given.target, given.target_kind, Scoring(given.target_metric, given.target_gamma)
        ),
        given.pair_weights,
        Scoring(given.metric, given.gamma),
    )
    value, gradient = _comparison.penalty(
        comparison, given.compare, given.epsilon, given.form, with_gradient=given.with_gradient
    )
    dtype = computing_dtype(given.features)
    if gradient is None:
        gradient = given.features.new_empty((0,), dtype=dtype)
    return to_tensor(value, dtype, given.features.device), gradient


@_fake("rsa_penalty")
def _(features: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    *_, with_gradient = options
    dtype = computing_dtype(features)
    value = features.new_empty((), dtype=dtype)
    return value, _shape_of_gradient(features, with_gradient).to(dtype)


# An op rather than `grad * gradient`: it has no derivative, so that a second backward raises
# instead of giving a wrong result.
@_op("rsa_penalty_backward(Tensor grad, Tensor gradient, ScalarType dtype) -> Tensor")
def rsa_penalty_backward(grad: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the kept gradient scaled, in the dtype of the features."""
    return (grad * gradient).to(dtype)


@_fake("rsa_penalty_backward")
def _(_grad: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    return gradient.new_empty(gradient.shape, dtype=dtype)


def _rsa_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, *_, ctx.with_gradient = inputs
    _, gradient = output
    ctx.dtype = features.dtype
    # `gradient` counts as differentiable, so that the backward op notices a second derivative;
    # nothing else uses it, and without zeros made for it that costs nothing.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(gradient)


def _rsa_gradient(
    ctx: Any, grad: Tensor | None, _of_gradient: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 12
    if not ctx.with_gradient:
        raise RuntimeError(
            "b2m_fast.rsa_penalty was called, or traced, where no gradient was wanted, and has none; "
            "trace it with features that require one"
        )
    (gradient,) = ctx.saved_tensors
    return ops.rsa_penalty_backward(grad, gradient, ctx.dtype), *(None,) * 11


_differentiable("rsa_penalty", _rsa_setup, _rsa_gradient)
