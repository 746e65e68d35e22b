"""What PyTorch's precision setting does to float32 rows on the CPU, at every level this machine runs.

Levels that multiply bfloat16 parts faster than floats use as many parts as the setting asks for;
all others compute in float32 whatever it is.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import engines
from b2m_fast import _C, ops
from b2m_fast.ops import reference
from ops_helpers import case, randoms, relative_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

LEVELS = _C.isa_available()

#: Products of parts that a level computes faster than one product of floats.
PRODUCTS = {"avx512bf16": 1, "amx": 6, "amx-emulated": 6}
NEEDED = {"highest": 6, "high": 3, "medium": 1}

#: Relative errors of loss and gradient allowed where parts are used.
ALLOWED = {"high": (1e-5, 1e-4), "medium": (5e-3, 2e-2)}


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def by_parts(level: str, precision: str) -> bool:
    return NEEDED[precision] <= PRODUCTS.get(level, 0)


def rows(d: int) -> tuple[Tensor, Tensor]:
    x = randoms(1, 301, d, dtype=torch.float32)
    return x, x + randoms(2, 301, d, dtype=torch.float32)


def losses(library: ModuleType, x: Tensor, y: Tensor) -> dict[str, list[Tensor]]:
    """Values of losses with the gradients of both sides."""

    def step(op: str, **options: Any) -> list[Tensor]:
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_(op != "rsa_penalty")
        value = getattr(library, op)(a, b, **options)
        value.backward()
        return [t.double() for t in (value.detach(), a.grad, b.grad) if t is not None]

    return {
        "info_nce": step("info_nce", temperature=0.07),
        "sigmoid": step("sigmoid_contrastive"),
        "atanh": step("rsa_penalty"),
        "pearson": step("rsa_penalty", compare="pearson", form="pair"),
    }


@pytest.mark.parametrize("d", [17, 64, 200])
def test_errors_of_losses_and_gradients(monkeypatch: pytest.MonkeyPatch, d: int) -> None:
    """Within the promised bounds; with "highest" at most twice the error of plain float32."""
    x, y = rows(d)
    plain, truth = losses(reference, x, y), losses(reference, x.double(), y.double())
    for level, precision in product(LEVELS, NEEDED):
        monkeypatch.setenv("B2M_ISA", level)
        torch.set_float32_matmul_precision(precision)
        for name, got in losses(ops, x, y).items():
            for k, (result, exact) in enumerate(zip(got, truth[name], strict=True)):
                error = relative_errors(result, exact)[0]
                if by_parts(level, precision) and precision in ALLOWED and name != "atanh":
                    limit = ALLOWED[precision][min(k, 1)]
                else:
                    limit = 2 * relative_errors(plain[name][k], exact)[0] + 16 * 1.2e-7
                with case(level=level, precision=precision, loss=name, result=k):
                    assert error <= limit


def test_level_and_setting_choose_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores have the error of as many parts as asked for, where the level gains from them."""
    x, y = rows(200)
    wide = x.double(), y.double()
    exact = {
        metric: reference.pairwise_similarity(*wide, metric=metric)
        for metric in ("dot", "cosine", "correlation", "sqeuclidean")
    }
    best, _ = reference.topk_similarity(*wide, 3)
    bounds = {"highest": (0, 4e-7), "high": (4e-7, 2e-5), "medium": (1e-4, 8e-3)}
    for level, precision in product(LEVELS, NEEDED):
        monkeypatch.setenv("B2M_ISA", level)
        torch.set_float32_matmul_precision(precision)
        parts = precision if by_parts(level, precision) else "highest"
        for metric, truth in exact.items():
            error = relative_errors(ops.pairwise_similarity(x, y, metric=metric), truth)[0]
            # Distances are exact whatever the setting.
            least, most = bounds["highest" if metric == "sqeuclidean" else parts]
            with case(level=level, precision=precision, metric=metric):
                assert least <= error < most
        with case(level=level, precision=precision):
            assert relative_errors(ops.topk_similarity(x, y, 3)[0], best)[0] < 4e-7


def test_half_precision_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of half precision lose no more than their own rounding."""
    for dtype in (torch.bfloat16, torch.float16):
        x, y = (t.to(dtype) for t in rows(200))
        exact = reference.pairwise_similarity(x.double(), y.double())
        for level in LEVELS:
            monkeypatch.setenv("B2M_ISA", level)
            out = torch.empty(301, 301, dtype=torch.float64)
            ops.pairwise_similarity(x, y, out=out)
            with case(dtype=dtype, level=level):
                assert relative_errors(out, exact)[0] < max(4e-7, engines.rounding(dtype))


def test_repeats_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two threads, at every level and number of parts, a second call gives the first's bits."""
    torch.set_num_threads(2)
    for level, precision in product(LEVELS, NEEDED):
        if precision != "highest" and not by_parts(level, precision):
            continue  # floats, whatever the setting
        monkeypatch.setenv("B2M_ISA", level)
        torch.set_float32_matmul_precision(precision)
        first, again = losses(ops, *rows(64)), losses(ops, *rows(64))
        for name, results in first.items():
            with case(level=level, precision=precision, loss=name):
                assert all(torch.equal(a, b) for a, b in zip(results, again[name], strict=True))


@pytest.mark.parametrize("compare", ["pearson", "cosine", "cka", "cka_debiased", "whitened_cosine"])
def test_feature_form_in_single_precision(compare: str) -> None:
    """With "high" sums in feature space are float32 products, of the promised accuracy."""
    x, y = randoms(1, 1500, 40, dtype=torch.float32), randoms(2, 1500, 30, dtype=torch.float32)
    y[:, :30] += x[:, :30]

    def step(x: Tensor, **options: Any) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        value = ops.rsa_penalty(leaf, y.to(x.dtype), compare=compare, **options)
        value.backward()
        assert leaf.grad is not None
        return [value.detach().double(), leaf.grad.double()]

    exact, wide = step(x.double(), form="pair"), step(x)
    torch.set_float32_matmul_precision("high")
    high = step(x)
    assert relative_errors(high[0], exact[0])[0] < 1e-5
    assert relative_errors(high[1], exact[1])[0] < 1e-4
    assert not torch.equal(high[1], wide[1])


def test_feature_form_in_single_precision_is_left_where_it_cancels() -> None:
    """Similarities that are all alike need wide products, which they get."""
    x = 1 + 0.05 * randoms(1, 1500, 20, dtype=torch.float32)
    y = 1 + 0.05 * randoms(2, 1500, 20, dtype=torch.float32)
    torch.set_float32_matmul_precision("high")
    got = ops.rsa_penalty(x, y, compare="pearson")
    exact = reference.rsa_penalty(x.double(), y.double(), compare="pearson")
    assert relative_errors(got, exact)[0] < 1e-5
