"""Registration of rsa_penalty, and of the mixture of layers before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import _comparison
from ._engine import engine_of
from ._library import fake, gradient, loss_dtype, not_twice, op, ops
from ._problems import Comparison, Scoring
from ._scalars import to_tensor, to_vector

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._scalars import Scalar

__all__ = ["ops"]

# ----------------------------------------------------------------------------------- mixed_layers

# centers: a mean or another center (d,) of each layer, or nothing (0,). own_mean: it is the mean of
# the layer's own rows, and the gradient goes through it. wanted: gradients of each layer, and of the
# roots of the weights.
_LAYERS = "Tensor[] layers, Tensor[] centers, bool[] own_mean, Tensor roots, str metric"


def _mixed_dtype(layers: Sequence[Tensor]) -> torch.dtype:
    """Float64 if any layer is, else float32."""
    wide = any(x.dtype == torch.float64 for x in layers)
    return torch.float64 if wide else torch.float32


def _layers(
    layers: Sequence[Tensor], centers: Sequence[Tensor], roots: Tensor
) -> Iterator[tuple[Tensor, Tensor | None, Tensor, slice]]:
    """Rows, center, factor and columns of each layer."""
    dtype, begin = _mixed_dtype(layers), 0
    factors = roots.to(torch.float64)
    for k, x in enumerate(layers):
        rows = x.to(dtype) if dtype == torch.float64 else x
        center = None
        if centers[k].numel():
            center = centers[k].to(torch.float64).contiguous()
        end = begin + x.shape[1]
        yield rows, center, factors[k], slice(begin, end)
        begin = end


@op(f"mixed_layers({_LAYERS}) -> Tensor")
def _mixed_layers(
    layers: list[Tensor],
    centers: list[Tensor],
    own_mean: list[bool],
    roots: Tensor,
    metric: str,
) -> Tensor:
    del own_mean  # matters to the gradient
    out = _mixed_rows(layers)
    scaled_rows = engine_of(out.device).scaled_rows
    for rows, center, factor, columns in _layers(layers, centers, roots):
        scaled_rows(rows, center, metric, factor, out[:, columns])
    return out


def _mixed_rows(layers: Sequence[Tensor]) -> Tensor:
    """Room for the rows of all layers, side by side."""
    first = layers[0]
    shape = (first.shape[0], sum(x.shape[1] for x in layers))
    return first.new_empty(shape, dtype=_mixed_dtype(layers))


@fake("mixed_layers")
def _(layers: list[Tensor], *_others: Any) -> Tensor:
    return _mixed_rows(layers)


@op(f"mixed_layers_backward(Tensor grad, {_LAYERS}, bool[] wanted) -> (Tensor[], Tensor)")
def _mixed_layers_backward(
    grad: Tensor,
    layers: list[Tensor],
    centers: list[Tensor],
    own_mean: list[bool],
    roots: Tensor,
    metric: str,
    wanted: list[bool],
) -> tuple[list[Tensor], Tensor]:
    of_roots_wanted = wanted[-1]
    backward = engine_of(grad.device).scaled_rows_backward
    gradients: list[Tensor] = []
    of_roots: list[Scalar] = []
    for k, (rows, center, factor, columns) in enumerate(_layers(layers, centers, roots)):
        if not (wanted[k] or of_roots_wanted):
            gradients.append(rows.new_empty((0,)))
            of_roots.append(0.0)
            continue
        dx, dfactor = backward(grad[:, columns], rows, center, metric, factor)
        if own_mean[k]:
            dx -= dx.mean(dim=0)
        gradients.append(dx.to(layers[k].dtype))
        of_roots.append(dfactor)
    return gradients, to_vector(of_roots, grad.device).to(roots.dtype)


@fake("mixed_layers_backward")
def _(
    _grad: Tensor,
    layers: list[Tensor],
    _centers: list[Tensor],
    _own_mean: list[bool],
    roots: Tensor,
    _metric: str,
    wanted: list[bool],
) -> tuple[list[Tensor], Tensor]:
    shapes = [x.shape if wanted[k] or wanted[-1] else (0,) for k, x in enumerate(layers)]
    gradients = [x.new_empty(shape) for x, shape in zip(layers, shapes, strict=True)]
    return gradients, torch.empty_like(roots)


def _mixed_layers_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    layers, centers, ctx.own_mean, roots, ctx.metric = inputs
    ctx.count = len(layers)
    ctx.save_for_backward(*layers, *centers, roots)


def _mixed_layers_gradient(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *tensors, roots = ctx.saved_tensors
    layers, centers = tensors[: ctx.count], tensors[ctx.count :]
    of_layers, _, _, of_roots_wanted, _ = ctx.needs_input_grad
    wanted = [*of_layers, of_roots_wanted]
    gradients, of_roots = ops.mixed_layers_backward(
        grad, layers, centers, ctx.own_mean, roots, ctx.metric, wanted
    )
    given = [g if want else None for g, want in zip(gradients, of_layers, strict=True)]
    return given, [None] * ctx.count, None, of_roots, None


gradient("mixed_layers", _mixed_layers_gradient, _mixed_layers_setup)
not_twice("mixed_layers", public="rsa_penalty")

# ----------------------------------------------------------------------------------- rsa_penalty


class _RSAOptions(NamedTuple):
    """What the schema of rsa_penalty holds after its tensors."""

    compare: str
    metric: str
    gamma: float
    target_kind: str
    target_metric: str
    target_gamma: float
    epsilon: float
    form: str
    with_gradient: bool

    def comparison(
        self, features: Tensor, target: Tensor, pair_weights: Tensor | None
    ) -> Comparison:
        """Make the comparison of the tensors."""
        return _comparison.problem(
            features,
            target,
            pair_weights,
            Scoring(self.metric, self.gamma),
            self.target_kind,
            Scoring(self.target_metric, self.target_gamma),
        )


@op(
    "rsa_penalty(Tensor features, Tensor target, Tensor? pair_weights, str compare, str metric, "
    "float gamma, str target_kind, str target_metric, float target_gamma, float epsilon, str form, "
    "bool with_gradient) -> (Tensor, Tensor)"
)
def _rsa(
    features: Tensor,
    target: Tensor,
    pair_weights: Tensor | None,
    *arguments: Any,
) -> tuple[Tensor, Tensor]:
    options = _RSAOptions(*arguments)
    value, gradient = _comparison.penalty(
        options.comparison(features, target, pair_weights),
        options.compare,
        options.epsilon,
        options.form,
        with_gradient=options.with_gradient,
    )
    dtype = loss_dtype(features)
    if gradient is None:
        gradient = features.new_empty((0,), dtype=dtype)
    return to_tensor(value, dtype, features.device), gradient


@fake("rsa_penalty")
def _(features: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    with_gradient = arguments[-1]
    dtype = loss_dtype(features)
    return (
        features.new_empty((), dtype=dtype),
        features.new_empty(features.shape if with_gradient else (0,), dtype=dtype),
    )


# (An op, and not a product of tensors, because it has no derivative, and should say so.)
@op("rsa_penalty_backward(Tensor grad, Tensor gradient, ScalarType dtype) -> Tensor")
def _rsa_backward(grad: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    return (grad * gradient).to(dtype)


@fake("rsa_penalty_backward")
def _(_grad: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    return gradient.new_empty(gradient.shape, dtype=dtype)


def _rsa_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, *_, ctx.with_gradient = inputs
    _, gradient = output
    ctx.dtype = features.dtype
    # `gradient` counts as differentiable, so that the backward op sees whoever differentiates again;
    # nobody else uses it, and without zeros made for it that costs nothing.
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


gradient("rsa_penalty", _rsa_gradient, _rsa_setup)
not_twice("rsa_penalty")
