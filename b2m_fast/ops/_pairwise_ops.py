"""Registration of pairwise_similarity, pair_similarity and topk_similarity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._engine import engine_of, may_wait
from ._library import fake, gradient, not_twice, op, ops, or_empty
from ._problems import Scoring

__all__ = ["ops"]

# ----------------------------------------------------------------------------------- pairwise_similarity


@op("pairwise_similarity(Tensor x, Tensor? y, str metric, float gamma, bool condensed) -> Tensor")
def _pairwise(x: Tensor, y: Tensor | None, metric: str, gamma: float, condensed: bool) -> Tensor:
    out = torch.empty(_pairwise_shape(x, y, condensed), dtype=x.dtype, device=x.device)
    engine_of(x.device).pairwise(x, y, Scoring(metric, gamma), condensed, out)
    return out


def _pairwise_shape(x: Tensor, y: Tensor | None, condensed: bool) -> tuple[int, ...]:
    n = x.shape[0]
    return (n * (n - 1) // 2,) if condensed else (n, n if y is None else y.shape[0])


@fake("pairwise_similarity")
def _(x: Tensor, y: Tensor | None, metric: str, gamma: float, condensed: bool) -> Tensor:
    return x.new_empty(_pairwise_shape(x, y, condensed))


@op(
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
    dx, dy = engine_of(x.device).pairwise_backward(
        grad, x, y, Scoring(metric, gamma), condensed, wanted
    )
    return or_empty(dx, x), or_empty(dy, x)


@fake("pairwise_similarity_backward")
def _(grad: Tensor, x: Tensor, y: Tensor | None, *options: Any) -> tuple[Tensor, Tensor]:
    need_x, need_y = options[-2:]
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


gradient("pairwise_similarity", _pairwise_gradient, _pairwise_setup)
not_twice("pairwise_similarity")


# ----------------------------------------------------------------------------------- pair_similarity


@op("pair_similarity(Tensor x, Tensor i, Tensor j, str metric, float gamma) -> Tensor")
def _pair_list(x: Tensor, i: Tensor, j: Tensor, metric: str, gamma: float) -> Tensor:
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


@fake("pair_similarity")
def _(x: Tensor, i: Tensor, *_others: Any) -> Tensor:
    return x.new_empty((i.shape[0],))


@op(
    "pair_similarity_backward(Tensor grad, Tensor x, Tensor i, Tensor j, str metric, float gamma)"
    " -> Tensor"
)
def _pair_list_backward(
    grad: Tensor, x: Tensor, i: Tensor, j: Tensor, metric: str, gamma: float
) -> Tensor:
    return engine_of(x.device).pair_list_backward(grad, x, i, j, Scoring(metric, gamma))


@fake("pair_similarity_backward")
def _(grad: Tensor, x: Tensor, *_others: Any) -> Tensor:
    return x.new_empty(x.shape)


def _pair_list_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, i, j, *ctx.options = inputs
    ctx.save_for_backward(x, i, j)


def _pair_list_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, i, j = ctx.saved_tensors
    dx = ops.pair_similarity_backward(grad, x, i, j, *ctx.options)
    return dx, None, None, None, None


gradient("pair_similarity", _pair_list_gradient, _pair_list_setup)
not_twice("pair_similarity")


# ----------------------------------------------------------------------------------- topk_similarity


@op("topk_similarity(Tensor x, Tensor? y, int k, str metric, float gamma) -> (Tensor, Tensor)")
def _topk(x: Tensor, y: Tensor | None, k: int, metric: str, gamma: float) -> tuple[Tensor, Tensor]:
    values, indices = engine_of(x.device).topk(x, y, k, Scoring(metric, gamma))
    return values.to(x.dtype), indices


@fake("topk_similarity")
def _(x: Tensor, y: Tensor | None, k: int, metric: str, gamma: float) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], k)
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)
