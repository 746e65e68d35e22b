"""What the CUDA engine is compared with: each written as well as its tools allow.

Inputs are leaves on the device; what a contender returns is a loss to differentiate. Rows are
divided by their norms inside (cosine similarity), as in the op.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

InfoNCE = Callable[[Tensor, Tensor, Tensor], Tensor]  # query, key, logit scale
Formula = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # scores of both sides

TEMPERATURE = 0.07
EPSILON = 1e-5  # of the atanh comparison, as in the op

# Rows of a chunk of chunked torch: large enough to fill a GPU, a few hundred MiB of scores.
CHUNK = 4096


# --------------------------------------------------------------------------------------------------
# InfoNCE
# --------------------------------------------------------------------------------------------------
def eager_info_nce(query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
    """Everybody's code: the matrix of logits and two cross entropies.

    All in the dtype of the inputs. Under autocast the cross entropies would be float32: more exact,
    and slower. This is the fast form.
    """
    logits = (scale.to(query.dtype) * F.normalize(query)) @ F.normalize(key).T
    labels = torch.arange(len(query), device=query.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


class _ChunkedInfoNCE(torch.autograd.Function):
    """Both directions in one pass over chunks of rows; logits again in the backward pass.

    Scores and exponentials in float32, products in the dtype of the inputs; one exponential a
    logit and pass (the second softmax is the first times a row and a column factor).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, scale: Tensor) -> Tensor:
        n = len(q)
        row_lse = torch.empty(n, device=q.device)
        columns, shift = torch.zeros(len(k), device=q.device), scale.detach()
        for start in range(0, n, CHUNK):
            rows = slice(start, min(start + CHUNK, n))
            e = (q[rows] @ k.T).float().mul_(scale).sub_(shift).exp_()  # cosines are at most 1
            row_lse[rows] = e.sum(dim=1).log_() + shift
            columns += e.sum(dim=0)
        column_lse = columns.log_() + shift
        positives = scale * torch.linalg.vecdot(q.float(), k.float())
        ctx.save_for_backward(q, k, scale, row_lse, column_lse)
        loss: Tensor = (row_lse.mean() + column_lse.mean()) / 2 - positives.mean()
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, scale, row_lse, column_lse = ctx.saved_tensors
        n = len(q)
        q_grad, k_grad = torch.empty_like(q), torch.zeros(k.shape, device=q.device)
        scale_grad = torch.zeros((), device=q.device)
        middle = (row_lse.mean() + column_lse.mean()) / 2
        of_row, of_column = (middle - row_lse).exp_(), (middle - column_lse).exp_()
        for start in range(0, n, CHUNK):
            rows = slice(start, min(start + CHUNK, n))
            scores = (q[rows] @ k.T).float()
            p = scores.mul(scale).sub_(middle).exp_()
            p.mul_(of_row[rows, None] + of_column)
            p.diagonal(start).sub_(2)
            scale_grad += torch.dot(p.view(-1), scores.view(-1))
            p = p.mul_(scale).to(q.dtype)
            q_grad[rows] = p @ k
            k_grad += p.T @ q[rows]
        weight = grad / (2 * n)
        return q_grad * weight.to(q.dtype), (k_grad * weight).to(k.dtype), scale_grad * weight


def chunked_info_nce(query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
    """What plain torch can do in bounded memory."""
    loss: Tensor = _ChunkedInfoNCE.apply(F.normalize(query), F.normalize(key), scale)  # type: ignore[no-untyped-call]
    return loss


def memeff_info_nce() -> InfoNCE:
    """Load memeff: fused Triton kernels. stable=False, so that its gradient is that of its loss.

    The temperature is a plain number to it; it has no gradient.
    """
    loss: Any = import_module("memeff").MemoryEfficientCLIPLoss(TEMPERATURE, stable=False)
    return lambda query, key, scale: loss(query, key)  # noqa: ARG005 - the common signature


def inf_cl_info_nce() -> InfoNCE:
    """Load Inf-CL: Triton kernels in TF32, one direction a call, depth in pieces of at most 256."""
    flash: Any = import_module("inf_cl.flash").cal_flash_loss

    def loss(query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
        q, k = F.normalize(query.float()), F.normalize(key.float())
        depth = min(q.shape[1], 256)
        forth = flash(q, k, scale=scale, head_dim=depth)
        back = flash(k, q, scale=scale, head_dim=depth)
        mean: Tensor = (forth.mean() + back.mean()) / 2
        return mean

    return loss


def missing(package: str) -> str | None:
    """Say why a package cannot be timed, if so."""
    if find_spec(package) is None:
        return f"{package} is not installed"
    if not torch.cuda.is_available():
        return f"{package} needs a CUDA device"
    return None


# --------------------------------------------------------------------------------------------------
# Representational similarity
# --------------------------------------------------------------------------------------------------
def formula(c: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """F(c) - F(t) with one logarithm, and F'(c): for a compiler, which fuses it."""
    one = 1 + EPSILON
    difference = 0.5 * torch.log((one + c) * (one - t) / ((one - c) * (one + t)))
    return difference, one / ((one - c) * (one + c))


def formula_in_place(c: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the same in as few passes over memory as ops in place allow."""
    one = 1 + EPSILON
    difference = torch.add(c, one).mul_(t - one)
    difference.div_(torch.sub(c, one).mul_(t.add_(one))).log_().mul_(0.5)
    return difference, c.square_().sub_(one * one).reciprocal_().mul_(-one)


class _ChunkedAtanh(torch.autograd.Function):
    """Tiles on and above the diagonal; the gradient is worked out in the forward pass.

    Products in the dtype of the inputs, the formula in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, formula: Formula) -> Tensor:
        n, pairs = len(x), len(x) * (len(x) - 1) // 2
        total = torch.zeros((), device=x.device)
        x_grad = torch.zeros(x.shape, device=x.device)
        for a in range(0, n, CHUNK):
            xa, ya = x[a : a + CHUNK], y[a : a + CHUNK]
            for b in range(a, n, CHUNK):
                xb, yb = x[b : b + CHUNK], y[b : b + CHUNK]
                difference, slope = formula((xa @ xb.T).float(), (ya @ yb.T).float())
                if a == b:
                    difference = difference.triu_(1)
                flat = difference.view(-1)
                total += torch.dot(flat, flat)
                weight = slope.mul_(difference).to(x.dtype)
                x_grad[a : a + CHUNK] += weight @ xb
                x_grad[b : b + CHUNK] += weight.T @ xa
        ctx.save_for_backward(x_grad.mul_(2 / pairs))
        return total / pairs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.saved_tensors[0], None, None


def chunked_atanh(features: Tensor, target: Tensor, formula: Formula = formula_in_place) -> Tensor:
    """Li et al.'s penalty by plain torch in bounded memory."""
    x, y = F.normalize(features), F.normalize(target)
    loss: Tensor = _ChunkedAtanh.apply(x, y, formula)  # type: ignore[no-untyped-call]
    return loss


@cache
def compiled_formula() -> Formula:
    return torch.compile(formula, dynamic=False)


# --------------------------------------------------------------------------------------------------
# Similarities and ceilings
# --------------------------------------------------------------------------------------------------
def eager_cosine(x: Tensor) -> Tensor:
    z = F.normalize(x)
    return z @ z.T


def product(n: int, m: int, depth: int, dtype: torch.dtype, device: str) -> Callable[[], Tensor]:
    """One product (n, depth) (depth, m) of normal values, as torch multiplies them."""
    a = torch.randn(n, depth, device=device).to(dtype)
    b = torch.randn(depth, m, device=device).to(dtype)
    out = torch.empty(n, m, dtype=dtype, device=device)
    return partial(torch.mm, a, b, out=out)


def copy(values: int, device: str) -> Callable[[], Tensor]:
    """A copy of that many floats."""
    source = torch.randn(values, device=device)
    return partial(torch.empty_like(source).copy_, source)
