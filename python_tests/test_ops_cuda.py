"""On a CUDA device: streams, graphs, compilation, sizes past 2^31, memory, data from elsewhere."""

from __future__ import annotations

import gc
import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

import engines
from b2m_fast import ops
from b2m_fast.ops.engines import cuda, select
from ops_helpers import randints, randoms, relative_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.engines("cuda")

N, M, D = 300, 260, 40


def fixed(seed: int, *shape: int) -> Tensor:
    return randoms(seed, *shape, dtype=torch.float32)


def public_calls() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Every op on (300, 40) and (260, 40), each with a scalar result that depends on both."""
    labels, key_labels = randints(5, 40, N), randints(6, 40, M)
    i, j = randints(7, N, 2, 500)
    stored = torch.corrcoef(fixed(8, N, 30))
    scale = torch.tensor(9.0)
    return {
        "pairwise": lambda x, y: ops.pairwise_similarity(x, y).square().mean(),
        "euclidean": lambda x, y: ops.pairwise_similarity(x, y, metric="euclidean").mean(),
        "condensed": lambda x, _: ops.pairwise_similarity(x, condensed=True).square().mean(),
        "pairs": lambda x, _: ops.pair_similarity(x, i, j).mean(),
        "topk": lambda x, y: ops.topk_similarity(x, y, 5)[0].mean(),
        "info_nce": lambda x, y: ops.info_nce(x[:M], y),
        "info_nce, scale": lambda x, y: ops.info_nce(x[:M], y, logit_scale=scale),
        "info_nce, labels": lambda x, y: ops.info_nce(
            x, y, labels=labels, key_labels=key_labels, label_smoothing=0.1
        ),
        "sigmoid": lambda x, y: ops.sigmoid_contrastive(x[:M], y),
        "atanh": lambda x, y: ops.rsa_penalty(x[:M], y.detach()),
        "stored": lambda x, _: ops.rsa_penalty(x, stored, target_kind="similarity", compare="mse"),
        "pearson": lambda x, y: ops.rsa_penalty(x[:M], y.detach(), compare="pearson"),
        "cka": lambda x, y: ops.rsa_penalty(x[:M], y.detach(), compare="cka", metric="rbf"),
    }


NAMES = (
    "pairwise",
    "euclidean",
    "condensed",
    "pairs",
    "topk",
    "info_nce",
    "info_nce, scale",
    "info_nce, labels",
    "sigmoid",
    "atanh",
    "stored",
    "pearson",
    "cka",
)


def step(call: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
    """Value and gradient of x; y has none. Without a gradient the value alone."""
    leaf = x.detach().requires_grad_()
    value = call(leaf, y)
    if not value.requires_grad:
        return [value]
    return [value.detach(), *torch.autograd.grad(value, leaf)]


def assert_same(got: list[Tensor], expected: list[Tensor], tolerance: float = 0.0) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_names() -> None:
    """The names that tests are made of are those of the calls."""
    assert tuple(public_calls()) == NAMES


# Streams and waiting ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_side_stream(name: str) -> None:
    """Work goes to the current stream: it sees inputs that this stream makes, however late."""
    call = public_calls()[name]
    x, y = fixed(1, N, D), fixed(2, M, D)
    expected = step(call, x, y)
    late = torch.zeros_like(x)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(x)
        got = step(call, late, y)
    stream.synchronize()
    assert_same(got, expected)


@pytest.fixture
def _no_waiting() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    yield
    torch.cuda.set_sync_debug_mode(before)


@pytest.mark.usefixtures("_no_waiting")
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"pairs", "pearson"}))
def test_nothing_waits(name: str) -> None:
    """Neither pass makes the host wait (but to check indices, and to choose the feature form)."""
    call = public_calls()[name]
    x, y = fixed(1, N, D), fixed(2, M, D)
    step(call, x, y)
    torch.cuda.set_sync_debug_mode("error")
    step(call, x, y)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_a_device_that_is_not_the_current_one() -> None:
    """Results lie, and work is done, where the inputs are."""
    x, y = fixed(1, N, D), fixed(2, M, D)
    expected = ops.info_nce(x[:M], y)
    away = ops.info_nce(x[:M].to("cuda:1"), y.to("cuda:1"))
    assert away.device == torch.device("cuda:1")
    assert_same([away.to("cuda:0")], [expected])


# Graphs and compilation ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_graph_replay(name: str) -> None:
    """A captured step computes anew from what its inputs hold when it is replayed."""
    call = public_calls()[name]
    x, y = fixed(1, N, D), fixed(2, M, D)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries make their buffers before a capture
        for _ in range(3):
            step(call, x, y)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(call, x, y)
    for seed in (11, 21):
        x.copy_(fixed(seed, N, D))
        y.copy_(fixed(seed + 1, M, D))
        graph.replay()
        # While captured, "auto" means pairs: other sums, to rounding the same.
        assert_same([a.clone() for a in captured], step(call, x, y), tolerance=2e-5)


@pytest.mark.parametrize(
    "name", ["pairwise", "topk", "info_nce", "info_nce, labels", "sigmoid", "atanh", "cka"]
)
def test_compiled_with_graphs(name: str) -> None:
    """torch.compile with CUDA graphs gives what eager code gives, step after step."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("torch.compile needs triton")
    torch._dynamo.reset()
    call = public_calls()[name]
    compiled = torch.compile(call, mode="reduce-overhead", fullgraph=True)
    for seed in (1, 11, 21, 31):
        x, y = fixed(seed, N, D), fixed(seed + 1, M, D)
        torch.compiler.cudagraph_mark_step_begin()
        assert_same([a.clone() for a in step(compiled, x, y)], step(call, x, y), tolerance=2e-5)


# Sizes --------------------------------------------------------------------------------------------


def needs_gigabytes(wanted: float) -> None:
    gc.collect()
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] / 2**30
    if free < wanted:
        pytest.skip(f"{free:.1f} GiB of device memory are free; the test takes {wanted}")


def test_more_than_2_to_31_pairs() -> None:
    """Losses and gradients over 2.5e9 pairs: those of plain torch, the last row's included."""
    needs_gigabytes(4)
    n = 50_021
    x = randoms(1, n, 64, dtype=torch.float32).to(torch.bfloat16)
    y = x + randoms(2, n, 64, dtype=torch.float32).to(torch.bfloat16)
    calls: list[Callable[[Tensor, Tensor], Tensor]] = [
        lambda x, y: ops.info_nce(x, y, temperature=0.2),
        ops.sigmoid_contrastive,
        lambda x, y: ops.rsa_penalty(x, y, compare="mse"),
    ]
    for call in calls:
        got = step(call, x, y)
        with select.forced("torch"):
            expected = step(call, x, y)
        assert relative_errors(got[0], expected[0].double())[0] < 2e-3
        assert relative_errors(got[1], expected[1].double())[0] < 2e-2
        assert relative_errors(got[1][-200:], expected[1][-200:].double())[0] < 4e-2


def test_results_of_more_than_2_to_31_scores() -> None:
    """Every offset is 64 bits: the far end of a result is as right as its beginning."""
    needs_gigabytes(9)
    n = 50_021
    x = randoms(1, n, 16, dtype=torch.float32)
    full = ops.pairwise_similarity(x.to(torch.bfloat16))
    last = ops.pairwise_similarity(x[-5:].to(torch.bfloat16), x.to(torch.bfloat16))
    assert torch.equal(full[-5:], last)
    del full
    n = 70_001
    x = randoms(1, n, 16, dtype=torch.float32).to(torch.bfloat16)
    condensed = ops.pairwise_similarity(x, condensed=True)
    assert len(condensed) > 2**31
    last = ops.pairwise_similarity(x[-40:], condensed=True)
    assert torch.equal(condensed[-len(last) :], last)


@pytest.mark.parametrize("n", [8192, 16384])
def test_memory_is_linear(n: int) -> None:
    """A step takes some copies of the inputs and a bounded workspace, never the scores."""
    needs_gigabytes(4)
    x, y = (randoms(k, n, 64, dtype=torch.float32) for k in (1, 2))
    for call in (
        ops.info_nce,
        ops.sigmoid_contrastive,
        ops.rsa_penalty,
        lambda x, y: ops.topk_similarity(x, y, 5)[0].sum(),
    ):
        step(call, x[:500], y[:500])  # buffers of libraries
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(call, x, y)
        grown = torch.cuda.max_memory_allocated() - before
        # Three workspaces at most (`engines.cuda`), prepared rows, sums and gradients.
        assert grown < 3 * 2**28 + 40 * x.numel() * 4


# From and to elsewhere ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tensor", "mapped"])
@pytest.mark.parametrize("compare", ["atanh", "pearson", "cka"])
def test_stored_scores_of_the_host(kind: str, compare: str, tmp_path: Path) -> None:
    """Similarities in the host's memory, or in a file, are brought over band by band."""
    x = fixed(1, N, D)
    stored = torch.corrcoef(fixed(2, N, 30))
    elsewhere: Any = stored.cpu()
    if kind == "mapped":
        np.save(tmp_path / "m.npy", elsewhere.numpy())
        elsewhere = np.load(tmp_path / "m.npy", mmap_mode="r")
    options: dict[str, Any] = {"compare": compare, "target_kind": "similarity"}
    assert_same(
        step(lambda x, _: ops.rsa_penalty(x, elsewhere, **options), x, x),
        step(lambda x, _: ops.rsa_penalty(x, stored, **options), x, x),
    )
    assert_same(
        [ops.rsa_score(x, elsewhere, compare=compare, y_kind="similarity")],
        [ops.rsa_score(x, stored, compare=compare, y_kind="similarity")],
    )


def test_responses_in_an_array() -> None:
    """A NumPy array of responses is brought to the features' device."""
    x, y = fixed(1, N, D), fixed(2, N, 30)
    assert_same([ops.rsa_penalty(x, y.cpu().numpy())], [ops.rsa_penalty(x, y)])
    assert_same(
        [ops.rsa_score(y.cpu().numpy(), x, compare="spearman")],
        [ops.rsa_score(y, x, compare="spearman")],
        1e-6,
    )


@pytest.mark.parametrize("condensed", [False, True])
def test_out_of_the_host(condensed: bool) -> None:
    """Scores can be written to the host's memory, a mapped file say, band by band."""
    x = fixed(1, N, D)
    expected = ops.pairwise_similarity(x, condensed=condensed)
    out = np.zeros(expected.shape, dtype=np.float32)
    assert ops.pairwise_similarity(x, condensed=condensed, out=out) is out
    assert np.array_equal(out, expected.cpu().numpy())


def test_scalars_of_the_host() -> None:
    """A scalar parameter may live on the host, as in all of torch, and gets its gradient there."""
    x, y = fixed(1, M, D), fixed(2, M, D)
    here, there = torch.tensor(9.0), torch.tensor(9.0, device="cpu")
    slopes = [
        torch.autograd.grad(ops.info_nce(x, y, logit_scale=scale.requires_grad_()), scale)[0]
        for scale in (here, there)
    ]
    assert slopes[1].device.type == "cpu"
    assert_same([slopes[1].to(here.device)], slopes[:1])


# Engines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_plain_torch_agrees(name: str) -> None:
    """What a build without kernels computes on the device is what the kernels compute."""
    if not engines.kernels():
        pytest.skip(f"no kernels: {cuda.missing_on(torch.device('cuda'))}")
    call = public_calls()[name]
    x, y = fixed(1, N, D), fixed(2, M, D)
    expected = step(call, x, y)
    with select.forced("torch"):
        assert_same(step(call, x, y), expected, tolerance=2e-5)
