"""Registration of rsa_penalty."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _comparison
from ._library import fake, gradient, loss_dtype, not_twice, op, ops
from ._problems import Comparison, Scoring
from ._scalars import to_tensor

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


@op(f"rsa_penalty({_RSA}) -> (Tensor, Tensor)")
def _rsa(
    features: Tensor, target: Tensor, pair_weights: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor]:
    options = _RSAOptions(*arguments)
    value, recipe = _comparison.penalty(
        options.comparison(features, target, pair_weights),
        options.compare,
        options.epsilon,
        options.form,
    )
    return to_tensor(value, loss_dtype(features), features.device), recipe


@fake("rsa_penalty")
def _(
    features: Tensor, target: Tensor, pair_weights: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor]:
    size = _comparison.recipe_size(_RSAOptions(*arguments).compare, features.shape[0])
    return (
        features.new_empty((), dtype=loss_dtype(features)),
        features.new_empty((size,), dtype=torch.float64),
    )


@op(f"rsa_penalty_backward(Tensor grad, Tensor recipe, {_RSA}) -> Tensor")
def _rsa_backward(
    grad: Tensor,
    recipe: Tensor,
    features: Tensor,
    target: Tensor,
    pair_weights: Tensor | None,
    *arguments: Any,
) -> Tensor:
    options = _RSAOptions(*arguments)
    return _comparison.penalty_backward(
        options.comparison(features, target, pair_weights),
        options.compare,
        options.epsilon,
        options.form,
        recipe,
        grad,
    )


@fake("rsa_penalty_backward")
def _(grad: Tensor, recipe: Tensor, features: Tensor, *_others: Any) -> Tensor:
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


gradient("rsa_penalty", _rsa_gradient, _rsa_setup)
not_twice("rsa_penalty")
