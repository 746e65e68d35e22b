"""CUDA code paths on a machine without CUDA: nothing waits, everything is on the right device.

Tensors on PyTorch's device "meta" have shapes and dtypes but no values: looking at a value is an
error, and so is mixing them with tensors that lie elsewhere. Here they stand for CUDA tensors while
a graph is captured. The kernels are replaced by functions that look at their arguments only.
"""

from __future__ import annotations

import ast
import contextlib
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from b2m_fast import _C, ops
from b2m_fast.ops import _checks, _comparison, _registration, contrastive, pairwise, rsa
from b2m_fast.ops.engines import cpu, cuda, select
from b2m_fast.ops.engines.cuda import comparison as cuda_comparison
from b2m_fast.ops.engines.cuda import contrastive as cuda_contrastive
from b2m_fast.ops.engines.cuda import kernels as cuda_kernels
from b2m_fast.ops.engines.cuda import rows as cuda_rows
from b2m_fast.ops.engines.cuda import scores as cuda_scores
from b2m_fast.ops.engines.torch import blocks as torch_blocks
from ops_helpers import COMPARISONS, case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CUDA_MODULES = (cuda_kernels, cuda_rows, cuda_scores, cuda_contrastive, cuda_comparison)
DEVICE = "meta"
ANYWHERE = 64  # the address of every tensor


def declared_kernels() -> dict[str, int]:
    """Names of the kernels and their numbers of arguments, from the stub of the extension."""
    stub = Path(ops.__file__).parents[1] / "_C.pyi"
    body = ast.parse(stub.read_text(encoding="utf-8")).body
    (kernels,) = (x for x in body if isinstance(x, ast.ClassDef) and x.name == "_Kernels")
    return {
        x.name: len(x.args.posonlyargs) - 1 for x in kernels.body if isinstance(x, ast.FunctionDef)
    }


def flat(argument: Any) -> Iterator[Any]:
    if isinstance(argument, tuple):
        for part in argument:
            yield from flat(part)
    else:
        yield argument


class Launches(SimpleNamespace):
    """Kernels that count how often they are started, and with what kinds of arguments."""

    def __init__(self) -> None:
        super().__init__(
            TILE=128, DEPTH_STEP=64, ARITHMETICS={"bfloat16": 0, "float32": 1, "float64": 2}
        )
        self.counts: dict[str, int] = {}
        for name, number in declared_kernels().items():
            setattr(self, name, self.kernel(name, number))

    def kernel(self, name: str, number: int) -> Callable[..., None]:
        def launch(*arguments: Any) -> None:
            assert len(arguments) == number, name
            assert {type(x) for x in flat(arguments)} <= {int, float, bool}, name
            assert arguments[-1] == (0, 0), "the stream"
            self.counts[name] = self.counts.get(name, 0) + 1

        return launch


class OneDevice(TorchDispatchMode):
    """Refuses every operation of torch that meets a tensor elsewhere (but for plain numbers)."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        function: torch._ops.OpOverload,
        _types: Any,
        arguments: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        result = function(*arguments, **(options or {}))
        for x in pytree.tree_leaves((arguments, options, result)):
            if isinstance(x, Tensor) and x.ndim > 0:
                assert x.device.type == DEVICE, f"{function} with a tensor on {x.device}"
        return result


@pytest.fixture(params=["torch", "cuda"])
def launches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launches]:
    """Compute on a CUDA device there is not, with either engine, as if in a graph's capture."""
    kernels = Launches()

    def somewhere(x: Tensor | None) -> int:
        assert x is None or x.device.type == DEVICE
        return 0 if x is None else ANYWHERE

    monkeypatch.setattr(cpu, "address", somewhere)
    for module in CUDA_MODULES:
        for name, value in (
            ("KERNELS", kernels),
            ("address", somewhere),
            ("running_on", lambda _: contextlib.nullcontext((0, 0))),
        ):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(cuda_kernels, "WORKSPACE", 1)
    monkeypatch.setattr(cuda_kernels, "COLUMNS", 128)
    monkeypatch.setattr(torch_blocks, "BLOCK", 30000)
    monkeypatch.setattr(_checks, "DEVICE_TYPES", (DEVICE,))
    for module in (_comparison, _registration):
        monkeypatch.setattr(module, "may_wait", lambda _: False)
    # What computes the ops, without PyTorch's dispatcher, which would not run it on this device.
    for module in (contrastive, pairwise, rsa):
        monkeypatch.setattr(module, "_ops", _registration)
    with select.forced(request.param), OneDevice():
        yield kernels
    assert bool(kernels.counts) == (request.param == "cuda")


def assert_on_device(value: Any) -> None:
    for part in value if isinstance(value, tuple) else (value,):
        assert part is None or part.device.type == DEVICE


def rows(n: int, d: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(n, d, device=DEVICE, dtype=dtype)


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("dtype", DTYPES)
def test_contrastive(dtype: torch.dtype) -> None:
    """Forward and backward of both losses, with labels, extra keys and scalars of both kinds."""
    cases = list(product((True, False), (True, False)))
    for labelled, symmetric in cases if dtype == torch.float32 else cases[:1]:
        with case(labelled=labelled, symmetric=symmetric):
            assert_contrastive_on_device(dtype, labelled, symmetric)


def assert_contrastive_on_device(dtype: torch.dtype, labelled: bool, symmetric: bool) -> None:
    query, key, extra = rows(200, 20, dtype), rows(260, 20, dtype), rows(9, 20, dtype)
    given: dict[str, Any] = {}
    if labelled:
        given["labels"] = torch.randint(9, (200,), device=DEVICE)
        given["key_labels"] = torch.randint(9, (260,), device=DEVICE)
    loss, aux = ops.info_nce(
        query,
        key,
        extra_keys=extra,
        symmetric=symmetric,
        weights=torch.ones(200, device=DEVICE),
        label_smoothing=0.1,
        return_aux=True,
        **given,
    )
    assert_on_device((loss, *aux))
    scale = torch.ones((), device=DEVICE)
    assert_on_device(ops.info_nce(query, key, logit_scale=scale, symmetric=symmetric))
    assert_on_device(ops.sigmoid_contrastive(query, key, logit_scale=scale, **given))
    labels = [x.to(torch.int32) for x in given.values()] or [None, None]
    problem = (query, key, scale, *labels)
    row_loss, column_loss, *statistics = _registration.info_nce(
        *problem, "cosine", symmetric, 0.1, False
    )
    assert_on_device(
        _registration.info_nce_backward(
            row_loss, column_loss, *statistics, *problem, "cosine", 0.1, [True, True]
        )
    )
    backward = _registration.sigmoid_contrastive_backward
    assert_on_device(backward(row_loss, *problem, "cosine", scale, [True, True]))


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("metric", ["dot", "cosine", "correlation", "euclidean", "rbf"])
def test_scores(metric: str) -> None:
    """Scores of all pairs and of listed ones, the best of each row, and their gradients."""
    for dtype in DTYPES if metric in {"cosine", "euclidean"} else DTYPES[:1]:
        with case(dtype=dtype):
            assert_scores_on_device(dtype, metric)


def assert_scores_on_device(dtype: torch.dtype, metric: str) -> None:
    x, y = rows(200, 20, dtype), rows(260, 20, dtype)
    i, j = (torch.randint(200, (50,), device=DEVICE) for _ in range(2))
    assert_on_device(ops.pairwise_similarity(x, y, metric=metric))
    assert_on_device(ops.pairwise_similarity(x, metric=metric, condensed=True))
    assert_on_device(ops.pair_similarity(x, i, j, metric=metric))
    assert_on_device(ops.topk_similarity(x, y, 7, metric=metric))
    assert_on_device(ops.topk_similarity(x, k=7, metric=metric))
    grad = rows(200, 260, dtype)
    backward = _registration.pairwise_similarity_backward
    assert_on_device(backward(grad, x, y, metric, 0.1, False, [True, True]))
    assert_on_device(
        backward(grad[:, :1].expand(200, 200), x, None, metric, 0.1, False, [True, False])
    )
    pairs = rows(1, 200 * 199 // 2, dtype)[0]
    assert_on_device(backward(pairs, x, None, metric, 0.1, True, [True, False]))
    assert_on_device(_registration.pair_similarity_backward(pairs[:50], x, i, j, metric, 0.1))


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("compare", COMPARISONS)
def test_comparisons(compare: str) -> None:
    """Penalties and scores against responses and stored similarities, and the gradient."""
    for metric, dtype in (("dot", torch.float32), ("rbf", torch.bfloat16)):
        with case(metric=metric, dtype=dtype):
            assert_comparison_on_device(dtype, metric, compare)


def assert_comparison_on_device(dtype: torch.dtype, metric: str, compare: str) -> None:
    x, y = rows(200, 20, dtype), rows(200, 30, dtype)
    stored = torch.rand(200, 200, device=DEVICE)
    weights = None
    if compare in {"mse", "atanh", "pearson", "cosine"}:
        weights = torch.rand(200 * 199 // 2, device=DEVICE)
    forms = ["auto"]  # pairs, where the host may not wait
    if compare not in {"mse", "atanh"} and metric != "rbf":
        forms.append("feature")
    for form in forms:
        options = (compare, metric, 0.1, "responses", metric, 0.1, 1e-5, form)
        value, gradient = _registration.rsa_penalty(x, y, None, *options, True)
        assert_on_device((value, gradient))
        assert_on_device(_registration.rsa_penalty_backward(value, gradient, x.dtype))
    options = (compare, metric, 0.1, "similarity", metric, 0.1, 1e-5, "auto")
    for with_gradient in (True, False):
        assert_on_device(_registration.rsa_penalty(x, stored, weights, *options, with_gradient))
    assert_on_device(
        ops.rsa_penalty(
            x, stored, compare=compare, metric=metric, center=True, target_kind="similarity"
        )
    )
    assert_on_device(ops.rsa_score(x, y, compare=compare, metric=metric))
    if metric == "dot":
        assert_on_device(ops.rsa_penalty([x, x[:, :7]], y, compare=compare, center=True))
        roots, centers = torch.rand(2, device=DEVICE), [x[0].to(torch.float32), x.new_empty(0)]
        layers = ([x, x[:, :7]], centers, [True, False], roots, "cosine")
        mixed = _registration.mixed_layers(*layers)
        gradients, of_roots = _registration.mixed_layers_backward(
            mixed, *layers, [True, True, True]
        )
        assert_on_device((*gradients, of_roots))


def test_mixed_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every argument has to be where the first is, and the error names the one that is not."""
    monkeypatch.setattr(_checks, "DEVICE_TYPES", ("cpu", DEVICE))
    here, there = torch.ones(6, 4, device=DEVICE), torch.ones(6, 4)
    index, label = torch.zeros(6, dtype=torch.int64, device=DEVICE), torch.arange(6)
    calls: dict[str, Callable[[], Any]] = {
        "y": lambda: ops.pairwise_similarity(here, there),
        "i": lambda: ops.pair_similarity(here, label, index),
        "j": lambda: ops.pair_similarity(here, index, label),
        "key": lambda: ops.info_nce(here, there),
        "extra_keys": lambda: ops.info_nce(here, here, extra_keys=there),
        "labels": lambda: ops.info_nce(here, here, labels=label),
        "key_labels": lambda: ops.sigmoid_contrastive(here, here, labels=index, key_labels=label),
        "target": lambda: ops.rsa_penalty(here, there),
        "center": lambda: ops.rsa_penalty(here, here, center=there[0]),
        "layer_weights": lambda: ops.rsa_penalty([here, here], here, layer_weights=there[0, :2]),
        r"features\[1\]": lambda: ops.rsa_penalty([here, there], here),
        "x": lambda: ops.rsa_score(there, here),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"{name} is on device cpu; expected meta"):
            call()
    calls = {
        "key": lambda: ops.info_nce(there, here),
        "target": lambda: ops.rsa_penalty(there, here),
        "pair_weights": lambda: ops.rsa_penalty(there, there, pair_weights=here[:, :1]),
        "out": lambda: ops.pairwise_similarity(there, out=here),
        "logit_scale": lambda: ops.info_nce(there, there, logit_scale=here[0, 0]),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"{name} is on device meta; expected cpu"):
            call()


def test_one_warning_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has no kernels gets plain torch, and one warning says why."""
    monkeypatch.setattr(cuda, "missing_on", lambda _: "no kernels here")
    select._warn_once.cache_clear()
    with pytest.warns(UserWarning, match=r"no kernels here\. .* plain torch in chunks"):
        assert select.engine_of(torch.device("cuda")) is select.ENGINES["torch"]
    assert select.engine_of(torch.device("cuda")) is select.ENGINES["torch"]
    select._warn_once.cache_clear()


def test_the_device_is_watched() -> None:
    """What the other tests rely on: values cannot be looked at, devices cannot be mixed."""
    x = torch.ones(3, device=DEVICE)
    with pytest.raises(RuntimeError, match="meta"):
        x.sum().item()
    with OneDevice(), pytest.raises(AssertionError, match="with a tensor on cpu"):
        x.add_(torch.ones(3))


def test_every_kernel_is_declared() -> None:
    """The stub names the kernels that the engine starts (and the extension has, if built)."""
    names = set(declared_kernels()) - {"architectures", "main_loop"}
    assert len(names) >= 12
    if hasattr(_C, "cuda"):
        assert names <= set(dir(_C.cuda))
