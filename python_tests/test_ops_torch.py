"""The ops as citizens of PyTorch: schemas, gradients, compilation, autocast, threads, forks."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import engines
from b2m_fast import ops
from b2m_fast.ops import _comparison
from ops_helpers import BILINEAR, COMPARISONS, DTYPES, METRICS, case, randoms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.engines(*engines.EVERY)

LOW = torch.ops.b2m_fast

I, J = [3, 0, 6, 2, 2, 5, 1, 3, 4], [1, 4, 6, 0, 3, 5, 6, 1, 0]
LABELS, KEY_LABELS = [0, 1, 1, 2, 3, 4, 5], [1, 0, 2, 2, 1]


def listed_pairs() -> tuple[Tensor, Tensor]:
    return torch.tensor(I), torch.tensor(J)


def labels(dtype: torch.dtype = torch.int64) -> dict[str, Any]:
    return {
        "labels": torch.tensor(LABELS, dtype=dtype),
        "key_labels": torch.tensor(KEY_LABELS, dtype=dtype),
    }


def public_calls() -> dict[str, Callable[..., Any]]:
    """Every public function on two tensors of 7 rows; results that can be summed."""
    calls: dict[str, Callable[..., Any]] = {
        "pairwise": ops.pairwise_similarity,
        "pairwise, self": lambda x, _: ops.pairwise_similarity(x, metric="rbf"),
        "condensed": lambda x, _: ops.pairwise_similarity(x, condensed=True, metric="euclidean"),
        "pairs": lambda x, _: ops.pair_similarity(x, *listed_pairs()),
        "topk": lambda x, y: ops.topk_similarity(x, y, 2),
        "info_nce": lambda x, y: ops.info_nce(x, y, label_smoothing=0.1),
        "info_nce, one way": lambda x, y: ops.info_nce(x, y, symmetric=False),
        "info_nce, labels": lambda x, y: ops.info_nce(x, y[:5], **labels()),
        "info_nce, extra": lambda x, y: ops.info_nce(x, y, extra_keys=y[:2], return_aux=True),
        "sigmoid": lambda x, y: ops.sigmoid_contrastive(x, y, reduction="none"),
        "rsa_penalty": lambda x, y: ops.rsa_penalty(x, y.detach()),
        "rsa_penalty, cka": lambda x, y: ops.rsa_penalty(x, y.detach(), compare="cka"),
        "rsa_penalty, centred": lambda x, y: ops.rsa_penalty(x, y.detach(), center=True),
        "rsa_penalty, layers": lambda x, y: ops.rsa_penalty([x, y], x.detach(), compare="mse"),
    }
    return calls


CALLS = public_calls()
DIFFERENTIABLE = {name: call for name, call in CALLS.items() if name != "topk"}


def low_level_calls(dtype: torch.dtype, needs_grad: bool) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Every registered op, the backward ones too, with arguments of every kind."""

    def leaf(seed: int, *shape: int) -> Tensor:
        return randoms(seed, *shape, dtype=dtype).requires_grad_(needs_grad)

    x, y, key = leaf(1, 7, 3), leaf(2, 7, 3), leaf(3, 5, 3)
    scale, bias = torch.tensor(3.0, requires_grad=needs_grad), torch.tensor(-1.0)
    i, j = listed_pairs()
    for metric in METRICS:
        for other, condensed in ((key, False), (None, False), (None, True)):
            yield LOW.pairwise_similarity, (x, other, metric, 0.3, condensed)
        yield LOW.pair_similarity, (x, i, j, metric, 0.3)
        yield LOW.topk_similarity, (x.detach(), None, 2, metric, 0.3)
        yield LOW.topk_similarity, (x.detach(), key.detach(), 4, metric, 0.3)
    paired = torch.tensor([0, 1, 2, 2, 1, 0, 2], dtype=torch.int32)
    with_extra = torch.tensor([0, 1, 2, 2, -1], dtype=torch.int32)
    for metric in BILINEAR:
        for symmetric in (True, False):
            yield LOW.info_nce, (x, y, scale, None, None, metric, symmetric, 0.1, symmetric)
            yield (
                LOW.info_nce,
                (x, key, scale, paired, with_extra, metric, symmetric, 0.0, not symmetric),
            )
        yield LOW.sigmoid_contrastive, (x, y, scale, None, None, metric, bias)
        integers = labels(torch.int32).values()
        yield LOW.sigmoid_contrastive, (x, key, scale, *integers, metric, bias)
    target = y.detach()
    for compare in COMPARISONS:
        for form in ("pair", "feature"):
            yield (
                LOW.rsa_penalty,
                (
                    x,
                    target,
                    None,
                    compare,
                    "cosine",
                    0.0,
                    "responses",
                    "correlation",
                    0.0,
                    1e-5,
                    form,
                    needs_grad,
                ),
            )
    roots = torch.tensor([0.5, 0.7], requires_grad=needs_grad)
    for metric in BILINEAR:
        centers = [x.detach().mean(0), x.new_empty(0)]
        yield LOW.mixed_layers, ([x, leaf(5, 7, 4)], centers, [True, False], roots, metric)
    weights = randoms(4, 21, dtype=dtype).abs()
    similarity = torch.rand(7, 7).to(dtype)
    yield (
        LOW.rsa_penalty,
        (
            x,
            similarity,
            weights,
            "mse",
            "rbf",
            0.2,
            "similarity",
            "rbf",
            0.0,
            1e-5,
            "auto",
            needs_grad,
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype) -> None:
    """Schema, shapes without data and autograd registration agree with what the op does."""
    # What is registered does not depend on the engine; what an engine returns has to fit it.
    if engines.current() != "cpu" and dtype != torch.float32:
        pytest.skip("the dtypes of results are those of the registration")
    traced: Counter[object] = Counter()
    for needs_grad in (True, False) if engines.current() == "cpu" else (True,):
        for op, arguments in low_level_calls(dtype, needs_grad):
            checks = ["test_schema", "test_faketensor", "test_autograd_registration"]
            if dtype == torch.float32 and engines.current() == "cpu" and traced[op] < 3:
                checks.append("test_aot_dispatch_dynamic")  # the costly one
                traced[op] += 1
            with case(op=op, arguments=arguments, needs_grad=needs_grad):
                torch.library.opcheck(op.default, arguments, test_utils=checks)


@pytest.mark.engines("cpu", "cuda")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_opcheck_of_gradients(dtype: torch.dtype) -> None:
    """The same of the backward ops, for every combination of needed gradients."""
    checks = ["test_schema", "test_faketensor", "test_autograd_registration"]
    x, y = randoms(1, 7, 3, dtype=dtype), randoms(2, 5, 3, dtype=dtype)
    scale = torch.tensor(3.0)
    cases: list[tuple[Any, tuple[Any, ...]]] = []
    for needed in ([True, False], [False, True], [True, True]):
        upstream = torch.ones(7, 5, dtype=dtype)
        cases += [
            (LOW.pairwise_similarity_backward, (upstream, x, y, "rbf", 0.3, False, needed)),
            (
                LOW.sigmoid_contrastive_backward,
                (torch.ones(7), x, y, scale, None, None, "dot", scale, needed),
            ),
        ]
        for symmetric in (True, False):
            rows, columns, *statistics = LOW.info_nce(
                x, y, scale, None, None, "cosine", symmetric, 0.1, False
            )
            inputs = (x, y, scale, None, None, "cosine", 0.1)
            cases.append((LOW.info_nce_backward, (rows, columns, *statistics, *inputs, needed)))
    listed = (torch.ones(9, dtype=dtype), x, *listed_pairs(), "dot", 0.0)
    cases.append((LOW.pair_similarity_backward, listed))
    options = ("cka", "cosine", 0.0, "responses", "dot", 0.0, 1e-5, "pair", True)
    value, gradient = LOW.rsa_penalty(x, x, None, *options)
    cases.append((LOW.rsa_penalty_backward, (value, gradient, dtype)))
    for op, arguments in cases:
        with case(op=op, arguments=arguments):
            torch.library.opcheck(op.default, arguments, test_utils=checks)


# Derivatives --------------------------------------------------------------------------------------


def total(value: Any) -> Tensor:
    """Sum of a result that depends on the inputs."""
    if isinstance(value, tuple):
        value = value[0]
    result: Tensor = value.square().sum()
    return result


def test_second_derivative_is_refused() -> None:
    """A second derivative is an error that names the reference, never a silent zero."""
    refused = r"not twice differentiable.*b2m_fast\.ops\.reference\."
    for name, call in DIFFERENTIABLE.items():
        x, y = randoms(1, 7, 3).requires_grad_(), randoms(2, 7, 3).requires_grad_()
        (gradient,) = torch.autograd.grad(total(call(x, y)), x, create_graph=True)
        with case(name=name), pytest.raises(RuntimeError, match=refused):
            gradient.square().sum().backward()
        # With an upstream gradient of 1, too, which depends on nothing.
        value = call(x, y)
        value = value[0] if isinstance(value, tuple) else value
        (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        with case(name=name), pytest.raises(RuntimeError, match=refused):
            (gradient.square().sum() + value.sum()).backward()


def test_changed_inputs_are_noticed() -> None:
    """Changing an input between forward and backward is torch's error, not a wrong gradient."""
    for name, call in DIFFERENTIABLE.items():
        if name.startswith("rsa") and "layers" not in name:
            continue  # the next test
        x, y = randoms(1, 7, 3), randoms(2, 7, 3)
        leaf = x.clone().requires_grad_()
        middle = leaf * 1.0
        value = total(call(middle, y))
        middle.add_(1.0)
        with case(name=name), pytest.raises(RuntimeError, match="modified by an inplace operation"):
            value.backward()


@pytest.mark.parametrize("compare", COMPARISONS)
@pytest.mark.parametrize("form", ["pair", "auto"])
def test_rsa_penalty_keeps_its_gradient(compare: str, form: str) -> None:
    """Its gradient is made with the value: changed inputs do not matter, and it can be asked for twice."""
    x, y = randoms(1, 7, 3), randoms(2, 7, 3)
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(ops.reference.rsa_penalty(leaf, y, compare=compare), leaf)[0]
    middle = leaf * 1.0
    value = ops.rsa_penalty(middle, y, compare=compare, form=form)
    middle.add_(1.0)
    (once,) = torch.autograd.grad(value, leaf, retain_graph=True)
    (twice,) = torch.autograd.grad(2 * value, leaf)
    torch.testing.assert_close(once, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(twice, 2 * expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("compare", "form"), [("atanh", "pair"), ("pearson", "pair"), ("pearson", "feature")]
)
def test_rsa_penalty_makes_no_gradient_that_nobody_wants(compare: str, form: str) -> None:
    """Without a gradient to come (no leaf, or gradients disabled) only the value is computed."""
    x, y = randoms(1, 7, 3), randoms(2, 7, 3)
    made: list[bool] = []
    penalty = _comparison.penalty

    def watched(*arguments: Any, **options: Any) -> Any:
        value, gradient = penalty(*arguments, **options)
        made.append(gradient is not None)
        return value, gradient

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_comparison, "penalty", watched)
        options: dict[str, Any] = {"compare": compare, "form": form}
        without = ops.rsa_penalty(x, y, **options)
        with torch.no_grad():
            ops.rsa_penalty(x.clone().requires_grad_(), y, **options)
        value = ops.rsa_penalty(x.clone().requires_grad_(), y, **options)
    assert made == [False, False, True]
    torch.testing.assert_close(value.detach(), without, rtol=1e-6, atol=0)


def test_rsa_penalty_exported_without_a_gradient_says_so() -> None:
    """A graph traced where no gradient was wanted has none, which is an error and not a zero."""
    x, y = randoms(1, 7, 3), randoms(2, 7, 3)
    value, _ = LOW.rsa_penalty(
        x.requires_grad_(), y, None, "mse", "dot", 0.0, "responses", "dot", 0.0, 1e-5, "pair", False
    )
    with pytest.raises(RuntimeError, match="traced, where no gradient was wanted"):
        value.backward()


@pytest.mark.parametrize("compare", ["mse", "atanh"])
@pytest.mark.parametrize("total", [0.0, -1.0])
def test_rsa_penalty_weights_of_any_sum(compare: str, total: float) -> None:
    """Pair weights that sum to 0 give 0 and no gradient; to a negative number, what the formula says."""
    x, y = randoms(1, 3, 5), randoms(2, 3, 5)
    weights = torch.tensor([1.0, 2.0, total - 3.0])
    leaf, wide = x.clone().requires_grad_(), x.double().requires_grad_()
    value = ops.rsa_penalty(leaf, y, compare=compare, pair_weights=weights)
    value.backward()
    if total == 0:
        assert value.item() == 0
        assert leaf.grad is not None
        assert not leaf.grad.any()
        return
    truth = ops.reference.rsa_penalty(wide, y.double(), compare=compare, pair_weights=weights)
    truth.backward()
    torch.testing.assert_close(value.double(), truth, rtol=1e-5, atol=0)
    torch.testing.assert_close(leaf.grad, wide.grad, rtol=1e-4, atol=1e-6, check_dtype=False)


def test_rsa_penalty_half_precision_gradient_is_kept_wide() -> None:
    """A loss scaled up, as for float16 training, finds gradients that float16 itself would have lost."""
    n = 512
    x, y = randoms(1, n, 8, dtype=torch.float16), randoms(2, n, 8)
    scaled, wide = x.clone().requires_grad_(), x.float().requires_grad_()
    factor = 2.0**16
    (ops.rsa_penalty(scaled, y, compare="mse") * factor).backward()
    (ops.reference.rsa_penalty(wide, y, compare="mse") * factor).backward()
    assert scaled.grad is not None
    assert wide.grad is not None
    small = wide.grad.abs() < factor * torch.finfo(torch.float16).tiny
    assert small.float().mean() > 0.5  # unscaled, most would be subnormal
    error = (scaled.grad.float() - wide.grad).norm() / wide.grad.norm()
    assert error < 2e-3


def test_upstream_gradients_of_any_layout() -> None:
    """Expanded, transposed and stepping upstream gradients give what contiguous ones give."""
    for name, call in DIFFERENTIABLE.items():
        x, y = randoms(1, 7, 3).requires_grad_(), randoms(2, 7, 3)
        value = call(x, y)
        value = value[0] if isinstance(value, tuple) else value
        upstream = randoms(3, *value.shape)
        stepping = torch.zeros([2 * s for s in value.shape], dtype=torch.float64)
        view = stepping[tuple(slice(None, None, 2) for _ in value.shape)]
        view.copy_(upstream)
        transposed = upstream.T.contiguous().T if value.ndim == 2 else upstream
        expected = torch.autograd.grad(value, x, upstream, retain_graph=True)[0]
        with case(name=name):
            for other in (view, transposed):
                got = torch.autograd.grad(value, x, other, retain_graph=True)[0]
                assert torch.equal(got, expected)
            ones = torch.autograd.grad(value, x, torch.ones_like(upstream), retain_graph=True)[0]
            assert torch.equal(torch.autograd.grad(value.sum(), x)[0], ones)


# Modes --------------------------------------------------------------------------------------------


def test_no_grad_and_inference_mode() -> None:
    """Results without gradients are the same results."""
    for (name, call), mode in product(CALLS.items(), (torch.no_grad, torch.inference_mode)):
        x, y = randoms(1, 7, 3).requires_grad_(), randoms(2, 7, 3)
        expected = total(call(x, y)).detach()
        with mode():
            value, inside = total(call(x, y)), total(call(x * 1.0, y * 1.0))
        with case(name=name, mode=mode):
            assert not value.requires_grad
            assert torch.equal(value, expected)
            assert torch.equal(inside, expected)


@pytest.fixture
def _poison() -> Iterator[None]:
    """Let torch fill memory it does not initialise with NaN."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_poison")
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_output_is_written(dtype: torch.dtype) -> None:
    """No result and no gradient keeps a value it was not given."""
    for name, call in CALLS.items():
        x, y = (randoms(seed, 7, 3, dtype=dtype).requires_grad_() for seed in (1, 2))
        result = call(x, y)
        with case(name=name):
            for tensor in pytree.tree_leaves(result):
                assert tensor is None or tensor.isfinite().all()
            if name != "topk":
                total(result).backward()
                for side in (x, y):
                    assert side.grad is None or side.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    """A bfloat16 network against float32 targets: float32 loss, each gradient in its own dtype."""
    layer = torch.nn.Linear(6, 4)
    images, brain = randoms(1, 9, 6).float(), randoms(2, 9, 4).float().requires_grad_()
    scale = torch.tensor(5.0, requires_grad=True)
    with torch.autocast(images.device.type, dtype=dtype):
        features = layer(images)
        assert features.dtype == dtype
        losses = [
            ops.info_nce(features, brain, logit_scale=scale, extra_keys=brain[:3]),
            ops.sigmoid_contrastive(features, brain, logit_scale=scale),
            ops.rsa_penalty(features, brain.detach()),
            ops.pairwise_similarity(features, brain).mean(),
        ]
        assert {loss.dtype for loss in losses} == {torch.float32}
    torch.stack(losses).sum().backward()
    for leaf in (layer.weight, brain, scale):
        assert leaf.grad is not None
        assert leaf.grad.dtype == torch.float32
        assert leaf.grad.isfinite().all()
        assert leaf.grad.any()


# Compilation --------------------------------------------------------------------------------------


# An op is one node of the graph, whichever engine computes it.
@pytest.mark.slow
@pytest.mark.engines("cpu", "cuda")
@pytest.mark.parametrize(
    ("name", "dynamic"),
    [*((name, True) for name in CALLS), ("info_nce", False), ("rsa_penalty", False)],
)
def test_compile(name: str, dynamic: bool) -> None:
    """One graph without breaks, forward and backward, equal to eager, also on another batch."""
    torch._dynamo.reset()
    compiled = torch.compile(CALLS[name], fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for seed in (1, 2):
        sides = [randoms(seed + k, 7, 3 + 2 * (seed - 1)).float() for k in (0, 5)]
        results = []
        for call in (CALLS[name], compiled):
            x, y = (side.clone().requires_grad_() for side in sides)
            value = total(call(x, y))
            if name != "topk":
                value.backward()
            results.append((value.detach(), x.grad, y.grad))
        for eager, graph in zip(*results, strict=True):
            assert (eager is None) == (graph is None)
            if eager is not None:
                torch.testing.assert_close(graph, eager, rtol=1e-6, atol=1e-7)


@pytest.mark.engines("cpu", "cuda")
def test_compile_between_layers() -> None:
    """A training step with a layer before the loss compiles whole, module parameters included."""
    torch._dynamo.reset()
    layer, scale = torch.nn.Linear(6, 4), torch.nn.Parameter(torch.tensor(5.0))
    images, brain = randoms(1, 9, 6).float(), randoms(2, 9, 4).float()

    def step(images: Tensor, brain: Tensor) -> Tensor:
        features = layer(images)
        return ops.info_nce(features, brain, logit_scale=scale) + ops.rsa_penalty(features, brain)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(step(images, brain), (layer.weight, scale))
    got = torch.autograd.grad(compiled(images, brain), (layer.weight, scale))
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


# Threads and processes ----------------------------------------------------------------------------


@pytest.mark.engines("cpu")
def test_other_python_threads_run_meanwhile() -> None:
    """The interpreter lock is released: a thread woken during an op counts before the op ends."""
    interval = sys.getswitchinterval()
    x = randoms(1, 6000, 64, dtype=torch.float32)
    started, counts = threading.Event(), [0]
    done = threading.Event()

    def count() -> None:
        started.set()
        while not done.is_set():
            counts[0] += 1
            time.sleep(0)  # offers the lock

    counter = threading.Thread(target=count)
    sys.setswitchinterval(1000)  # nobody is asked to hand the lock over: it has to be given up
    try:
        counter.start()
        started.wait()
        before = counts[0]
        ops.info_nce(x, x)
        during = counts[0] - before
    finally:
        done.set()
        sys.setswitchinterval(interval)
        counter.join()
    assert during > 100


def _loss_of(x: Tensor, results: Any) -> None:
    torch.set_num_threads(1)
    results.put(ops.info_nce(x, x.flip(0)).item())


@pytest.mark.engines("cpu")
def test_forked_child_finishes() -> None:
    """A data-loading worker forked after the parent used several threads does not hang."""
    torch.set_num_threads(2)
    x = randoms(1, 300, 16, dtype=torch.float32)
    expected = ops.info_nce(x, x.flip(0)).item()
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=_loss_of, args=(x, results))
    child.start()
    child.join(timeout=60)
    alive = child.is_alive()
    if alive:
        child.kill()
    assert not alive
    assert child.exitcode == 0
    assert results.get() == pytest.approx(expected, rel=1e-6)
