"""Registration of rsa_penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from . import _comparison
from ._library import fake, gradient, loss_dtype, not_twice, op, ops
from ._problems import Comparison, Scoring
from ._scalars import to_tensor

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["ops"]

# ----------------------------------------------------------------------------------- rsa_penalty

_RSA = (
    "Tensor features, Tensor target, Tensor? pair_weights, str compare, str metric, float gamma, "
    "str target_kind, str target_metric, float target_gamma, float epsilon, str form"
)


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


@op(f"rsa_penalty({_RSA}, bool with_gradient) -> (Tensor, Tensor)")
def _rsa(
    features: Tensor,
    target: Tensor,
    pair_weights: Tensor | None,
    *arguments: Any,
) -> tuple[Tensor, Tensor]:
    *named, with_gradient = arguments
    options = _RSAOptions(*named)
    value, gradient = _comparison.penalty(
        options.comparison(features, target, pair_weights),
        options.compare,
        options.epsilon,
        options.form,
        with_gradient=with_gradient,
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
    ctx.mark_non_differentiable(gradient)
    ctx.save_for_backward(gradient)


def _rsa_gradient(ctx: Any, grad: Tensor, _gradient: Tensor) -> tuple[Tensor | None, ...]:
    if not ctx.with_gradient:
        raise RuntimeError(
            "b2m_fast.rsa_penalty was told (with_gradient=False) that there is no backward pass"
        )
    (gradient,) = ctx.saved_tensors
    return ops.rsa_penalty_backward(grad, gradient, ctx.dtype), *(None,) * 11


gradient("rsa_penalty", _rsa_gradient, _rsa_setup)
not_twice("rsa_penalty")
