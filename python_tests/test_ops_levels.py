"""Instruction levels, threads and repetitions: the same numbers, to the bit where that is promised."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from b2m_fast import _C, ops
from ops_helpers import BILINEAR, DTYPES, METRICS, case, randints, randoms, relative_errors

if TYPE_CHECKING:
    from collections.abc import Callable

LEVELS = _C.isa_available()
X, Y = randoms(1, 130, 37, dtype=torch.float32), randoms(2, 270, 37, dtype=torch.float32)
Z = randoms(3, 130, 37, dtype=torch.float32) + X


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


def with_gradient(call: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    leaves = [leaf(x) for x in inputs]
    value = call(*leaves)
    return [value.detach(), *torch.autograd.grad(value.square().sum(), leaves)]


def pairwise_call(metric: str) -> Callable[[], list[Tensor]]:
    return lambda: with_gradient(lambda x, y: ops.pairwise_similarity(x, y, metric=metric), X, Y)


CALLS: dict[str, Callable[[], list[Tensor]]] = {
    **{f"pairwise {metric}": pairwise_call(metric) for metric in METRICS},
    "condensed": lambda: with_gradient(lambda x: ops.pairwise_similarity(x, condensed=True), X),
    "pairs": lambda: with_gradient(
        lambda x: ops.pair_similarity(x, *randints(4, 130, 2, 999), metric="rbf"), X
    ),
    "topk": lambda: [x.double() for x in ops.topk_similarity(X, Y, 9)],
    "info_nce": lambda: with_gradient(ops.info_nce, X, Z),
    "info_nce, labels": lambda: with_gradient(
        lambda x, y: ops.info_nce(
            x, y, labels=randints(5, 40, 130), key_labels=randints(6, 40, 270), label_smoothing=0.1
        ),
        X,
        Y,
    ),
    "sigmoid": lambda: with_gradient(ops.sigmoid_contrastive, X, Y),
    "atanh": lambda: with_gradient(lambda x: ops.rsa_penalty(x, Z), X),
    "pearson": lambda: with_gradient(
        lambda x: ops.rsa_penalty(x, Z, compare="pearson", form="pair"), X
    ),
    "cka": lambda: with_gradient(lambda x: ops.rsa_penalty(x, Z, compare="cka", metric="rbf"), X),
}


@pytest.mark.parametrize("level", LEVELS)
def test_small_integers_are_exact(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    """Where no rounding is possible every level gives the integer result, whatever its order."""
    monkeypatch.setenv("B2M_ISA", level)
    sizes = [(1, 1, 1), (3, 5, 2), (113, 239, 96), (300, 517, 17)]
    for (n, m, d), metric, dtype in product(sizes, ("dot", "sqeuclidean"), DTYPES):
        x, y = randints(1, 9, n, d) - 4, randints(2, 9, m, d) - 4
        out = torch.empty(n, m, dtype=torch.float64)
        ops.pairwise_similarity(x.to(dtype), y.to(dtype), metric=metric, out=out)
        expected, own = x @ y.T, x @ x.T
        if metric == "sqeuclidean":
            squares = (x * x).sum(1)
            expected = squares[:, None] + (y * y).sum(1) - 2 * expected
            own = squares[:, None] + squares - 2 * own
        upper = torch.empty(n * (n - 1) // 2, dtype=torch.float64)
        ops.pairwise_similarity(x.to(dtype), metric=metric, condensed=True, out=upper)
        i, j = torch.triu_indices(n, n, offset=1)
        with case(size=(n, m, d), metric=metric, dtype=dtype):
            assert torch.equal(out.to(torch.int64), expected)
            assert torch.equal(upper.to(torch.int64), own[i, j])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_integer_gradients_and_losses_are_exact(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, level: str
) -> None:
    """Gradients of dot products and the mean squared difference of integers, to the bit."""
    monkeypatch.setenv("B2M_ISA", level)
    n, m, d = 113, 239, 17
    x, y, upstream = randints(1, 9, n, d) - 4, randints(2, 9, m, d) - 4, randints(3, 5, n, m) - 2
    a, b = leaf(x.to(dtype)), leaf(y.to(dtype))
    ops.pairwise_similarity(a, b, metric="dot").backward(upstream.to(dtype))
    assert a.grad is not None
    assert b.grad is not None
    assert torch.equal(a.grad.to(torch.int64), upstream @ y)
    assert torch.equal(b.grad.to(torch.int64), upstream.T @ x)
    target = randints(4, 9, n, 5) - 4
    value = ops.rsa_penalty(
        x.double(), target.double(), compare="mse", metric="dot", target_kind="responses"
    )
    i, j = torch.triu_indices(n, n, offset=1)
    squares = ((x @ x.T) - (target @ target.T))[i, j].square()
    assert value.item() == squares.sum().item() / len(i)


@pytest.mark.parametrize("name", CALLS)
def test_levels_agree(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Every level gives the same values and gradients to rounding."""
    results = []
    for level in LEVELS:
        monkeypatch.setenv("B2M_ISA", level)
        results.append(CALLS[name]())
    for other in results[1:]:
        for got, expected in zip(other, results[0], strict=True):
            assert relative_errors(got, expected)[0] < 2e-5


@pytest.mark.parametrize("name", CALLS)
def test_threads_agree_and_repeat(name: str) -> None:
    """1, 2 and 3 threads agree to rounding; at a fixed number every repetition is bit-identical."""
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(CALLS[name]())
        for _ in range(5 if threads == 2 else 1):
            again = CALLS[name]()
            assert all(torch.equal(a, b) for a, b in zip(again, results[-1], strict=True))
    for other in results[1:]:
        for got, expected in zip(other, results[0], strict=True):
            assert relative_errors(got, expected)[0] < 2e-5


def test_more_threads_than_rows() -> None:
    """Threads that find nothing to do leave results complete."""
    for metric, threads, n in product(BILINEAR, (2, 3, 7), (0, 1, 2, 5)):
        x, y = X[:n, :3].double(), Y[:n, :3].double()
        results = []
        for number in (threads, 1):
            torch.set_num_threads(number)
            results.append([ops.info_nce(x, y, metric=metric), ops.pairwise_similarity(x, y)])
        with case(metric=metric, threads=threads, n=n):
            torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_unknown_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """A level that does not exist here is an error that lists those that do."""
    monkeypatch.setenv("B2M_ISA", "nonsense")
    with pytest.raises(ValueError, match=r"B2M_ISA=nonsense.*available: generic"):
        ops.pairwise_similarity(X, Y)
    with pytest.raises(ValueError, match="B2M_ISA=nonsense"):
        ops.info_nce(leaf(X), Z)
