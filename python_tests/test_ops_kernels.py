"""What is particular to the CUDA kernels: precision, main loops, bands, mixed sides, repetition.

Executed on the host in builds for that (B2M_CUDA=EMULATED), and on a CUDA device where there is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import engines
from b2m_fast import _C, ops
from b2m_fast.ops import reference
from b2m_fast.ops._types import Scoring
from b2m_fast.ops.engines import cuda
from b2m_fast.ops.engines.cuda import kernels, scores
from b2m_fast.ops.engines.cuda.rows import Operand
from b2m_fast.ops.engines.rows import add_product
from ops_helpers import randints, randoms, relative_errors, upper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.engines("emulated", "cuda")


@pytest.fixture(autouse=True)
def _kernels(engine: str) -> None:
    if engine == "cuda" and not engines.kernels():
        pytest.skip(f"no kernels: {cuda.missing_on(torch.device('cuda'))}")


def with_gradients(call: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = call(*leaves)
    return [value.detach(), *torch.autograd.grad(value.square().sum(), leaves)]


def labels() -> dict[str, Any]:
    return {"labels": randints(5, 40, 150), "key_labels": randints(6, 40, 290)}


def stored() -> Tensor:
    return torch.corrcoef(randoms(4, 150, 30)).float()


CALLS: dict[str, Callable[[Tensor, Tensor], list[Tensor]]] = {
    "pairwise": lambda x, y: with_gradients(ops.pairwise_similarity, x, y),
    "euclidean": lambda x, y: with_gradients(
        lambda x, y: ops.pairwise_similarity(x, y, metric="euclidean"), x, y
    ),
    "condensed": lambda x, _: with_gradients(
        lambda x: ops.pairwise_similarity(x, condensed=True), x
    ),
    "pairs": lambda x, _: with_gradients(
        lambda x: ops.pair_similarity(x, *randints(3, 150, 2, 500)), x
    ),
    "topk": lambda x, y: [*ops.topk_similarity(x, y, 9), *ops.topk_similarity(x, k=3)],
    "info_nce": lambda x, y: with_gradients(ops.info_nce, x, y),
    "info_nce, everything": lambda x, y: with_gradients(
        lambda x, y: ops.info_nce(x, y, label_smoothing=0.1, extra_keys=x[:40], **labels()), x, y
    ),
    "sigmoid": lambda x, y: with_gradients(ops.sigmoid_contrastive, x, y),
    "atanh": lambda x, y: with_gradients(lambda x: ops.rsa_penalty(x, y[:150]), x),
    "atanh, stored": lambda x, _: with_gradients(
        lambda x: ops.rsa_penalty(x, stored(), target_kind="similarity"), x
    ),
    "pearson": lambda x, y: with_gradients(
        lambda x: ops.rsa_penalty(x, y[:150], compare="pearson", form="pair"), x
    ),
    "cka, rbf": lambda x, y: with_gradients(
        lambda x: ops.rsa_penalty(x, y[:150], compare="cka", metric="rbf"), x
    ),
    "cka, dot": lambda x, y: with_gradients(
        lambda x: ops.rsa_penalty(x, y[:150], compare="cka", metric="dot", form="pair"), x
    ),
}


def sides(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    x, y = randoms(1, 150, 37, dtype=dtype), randoms(2, 290, 37, dtype=dtype)
    y[:150] += x
    return x, y


# Repetition ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_repeats_to_the_bit(name: str, dtype: torch.dtype, engine: str) -> None:
    """The same input gives the same bits: no order depends on which block comes first."""
    first = CALLS[name](*sides(dtype))
    for _ in range(20 if engine == "cuda" else 3):
        again = CALLS[name](*sides(dtype))
        assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))


@pytest.mark.parametrize("name", CALLS)
def test_bands_make_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One band of all rows gives what bands of one tile give."""
    monkeypatch.setattr(kernels, "WORKSPACE", 1)
    monkeypatch.setattr(kernels, "COLUMNS", 128)
    small = CALLS[name](*sides())
    monkeypatch.setattr(kernels, "WORKSPACE", 2**28)
    monkeypatch.setattr(kernels, "COLUMNS", 2**15)
    whole = CALLS[name](*sides())
    for a, b in zip(small, whole, strict=True):
        assert relative_errors(a, b.double())[0] < 3e-6


@pytest.mark.parametrize("name", CALLS)
def test_main_loops_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main loop for every device gives what Hopper's gives."""
    if _C.cuda.main_loop(0) != "hopper":
        pytest.skip(f"this device has the main loop {_C.cuda.main_loop(0)!r} only")
    hopper = CALLS[name](*sides())
    monkeypatch.setenv("B2M_CUDA_LOOP", "ampere")
    ampere = CALLS[name](*sides())
    for a, b in zip(hopper, ampere, strict=True):
        assert relative_errors(a, b.double())[0] < 3e-6


def test_unknown_main_loop(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    """A main loop that does not exist is an error that names what was asked for."""
    if engine == "emulated":
        pytest.skip("the host executes any")
    monkeypatch.setenv("B2M_CUDA_LOOP", "nonsense")
    with pytest.raises(RuntimeError, match="B2M_CUDA_LOOP is 'nonsense'"):
        ops.pairwise_similarity(*sides())


# Precision ----------------------------------------------------------------------------------------


@pytest.fixture
def _knob() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("_knob")
@pytest.mark.parametrize(
    ("precision", "least", "most"),
    [("highest", 0, 4e-7), ("high", 4e-7, 2e-5), ("medium", 1e-4, 8e-3)],
)
def test_precision_of_float32(precision: str, least: float, most: float) -> None:
    """PyTorch's knob chooses how many products of parts a score of float32 rows is made of."""
    torch.set_float32_matmul_precision(precision)
    x, y = randoms(1, 150, 200, dtype=torch.float32), randoms(2, 170, 200, dtype=torch.float32)
    for metric in ("dot", "cosine"):
        error = relative_errors(
            ops.pairwise_similarity(x, y, metric=metric),
            reference.pairwise_similarity(x.double(), y.double(), metric=metric),
        )[0]
        assert least <= error < most
    distances = ops.pairwise_similarity(x, y, metric="sqeuclidean")
    truth = reference.pairwise_similarity(x.double(), y.double(), metric="sqeuclidean")
    assert relative_errors(distances, truth)[0] < 4e-7  # whatever the knob


@pytest.mark.parametrize("metric", ["dot", "sqeuclidean"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 2), (129, 257, 65), (300, 127, 130)])
def test_small_integers_are_exact(
    size: tuple[int, int, int], dtype: torch.dtype, metric: str
) -> None:
    """Where no rounding is possible there is none, whatever the order of the sums."""
    n, m, d = size
    x, y = randints(1, 9, n, d) - 4, randints(2, 9, m, d) - 4
    out = torch.empty(n, m, dtype=torch.float64)
    ops.pairwise_similarity(x.to(dtype), y.to(dtype), metric=metric, out=out)
    expected = x.double() @ y.double().T
    if metric == "sqeuclidean":
        expected = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * expected
    assert torch.equal(out, expected.to(torch.float64))


def test_nearly_parallel_patterns_in_half_precision() -> None:
    """Fisher's z of similarities that round to 1 stays finite, in value and gradient."""
    common = randoms(1, 1, 40)
    for dtype in (torch.bfloat16, torch.float16):
        x = (common + 0.01 * randoms(2, 150, 40)).to(dtype)
        value, gradient = with_gradients(lambda x: ops.rsa_penalty(x, stored()[:, :20]), x)
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("a_dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_add_product(a_dtype: torch.dtype) -> None:
    """Products of gradient weights with rows, transposed or not, are added in wide sums."""
    weights, rows = randoms(1, 130, 70, dtype=a_dtype), randoms(2, 70, 24, dtype=a_dtype)
    wide = torch.float64 if a_dtype == torch.float64 else torch.float32
    for a in (weights, weights.T.contiguous().T, randoms(1, 130, 128, dtype=a_dtype)[:, :70]):
        sums = randoms(3, 130, 24, dtype=wide)
        expected = sums.double() + a.double() @ rows.double()
        add_product(sums, a, rows)
        exact = a_dtype != torch.bfloat16 or torch.__version__ >= "2.8" or not a.is_cuda
        assert relative_errors(sums, expected)[0] < (2e-6 if exact else 1e-2)


@pytest.mark.parametrize("condensed", [False, True])
def test_results_written_in_bands(condensed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the device does not reach the result it gets there a band at a time, all of it."""
    monkeypatch.setattr(kernels, "WORKSPACE", 1)
    x = randoms(1, 300, 37, dtype=torch.float32)
    expected = ops.pairwise_similarity(x, condensed=condensed)
    out = torch.full(expected.shape, torch.nan, device="cpu")
    with kernels.running_on(x.device) as stream:
        rows = Operand(x, Scoring("cosine"), stream).rows
        arguments = scores._scores(rows, rows, Scoring("cosine"))
        scores._write_elsewhere(arguments, condensed, rows, rows, out, stream)
    assert torch.equal(out, expected.cpu())


# Sides of different kinds -------------------------------------------------------------------------

SIDES: dict[str, dict[str, Any]] = {
    "cosine and euclidean": {"metric": "cosine", "target_metric": "euclidean"},
    "rbf and dot": {"metric": "rbf", "target_metric": "dot"},
    "dot and rbf": {"metric": "dot", "target_metric": "rbf"},
}


@pytest.mark.parametrize("dtypes", [("float32", "bfloat16"), ("bfloat16", "float32")])
@pytest.mark.parametrize("options", SIDES.values(), ids=SIDES.keys())
def test_sides_of_different_kinds(options: dict[str, Any], dtypes: tuple[str, str]) -> None:
    """Sides of different metrics and dtypes are multiplied by one loop, each in its precision."""
    x, y = randoms(1, 150, 37), randoms(2, 150, 21)
    c, t = x.to(getattr(torch, dtypes[0])), y.to(getattr(torch, dtypes[1]))
    got = with_gradients(lambda x: ops.rsa_penalty(x, t, compare="pearson", **options), c)
    leaf = c.double().requires_grad_()
    value = reference.rsa_penalty(leaf, t.double(), compare="pearson", **options)
    truth = [value.detach(), torch.autograd.grad(value.square(), leaf)[0]]
    tolerance = 2e-5 if dtypes[0] == "float32" else 2e-2
    for a, b in zip(got, truth, strict=True):
        assert relative_errors(a, b)[0] < tolerance


@pytest.mark.parametrize("kind", ["matrix", "condensed"])
def test_two_stored_sides(kind: str) -> None:
    """Scores of two stored matrices need no patterns at all."""
    a, b = stored(), stored().square()
    c, t = (a, b) if kind == "matrix" else (upper(a), upper(b))
    for compare in ("mse", "atanh", "pearson", "cka"):
        got = ops.rsa_score(c, t, compare=compare, x_kind="similarity", y_kind="similarity")
        exact = reference.rsa_score(
            c.double(), t.double(), compare=compare, x_kind="similarity", y_kind="similarity"
        )
        torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-7)
