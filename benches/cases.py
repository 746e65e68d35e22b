"""What is timed: ops, their contenders, and the sizes of each form of the run."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

import baselines
import training
from b2m_fast import _info, ops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OURS = "b2m_fast"
NEIGHBOURS = 10  # k of topk_similarity
PAIRS_PER_ROW = 16  # pairs listed for pair_similarity
RESPONSES = 1000  # units of the wide targets
RSA_COMPARISONS = ("atanh", "mse", "pearson", "cosine", "cka", "cka_debiased", "whitened_cosine")
WHITENED_LIMIT = 1024  # rsatoolbox builds a matrix of pairs by pairs for it
EUCLIDEAN_LIMIT = 1024  # the reference takes every difference
TRAINING_STEP = "training step"

# Where contenders that take long are not left out.
USUAL_D, LARGEST_OF_SLOW = 128, 4096


class Inputs(NamedTuple):
    """Correlated standard normal rows (leaves with gradients) and listed pairs."""

    x: Tensor
    y: Tensor
    scale: Tensor
    bias: Tensor
    i: Tensor
    j: Tensor

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return self.x, self.y, self.scale, self.bias


def make_inputs(n: int, d: int) -> Inputs:
    generator = torch.Generator().manual_seed(n + d)
    x = torch.randn(n, d, generator=generator)
    y = x + torch.randn(n, d, generator=generator)
    i, j = torch.randint(n, (2, PAIRS_PER_ROW * n), generator=generator)
    inputs = Inputs(x, y, torch.tensor(1 / 0.07), torch.tensor(-10.0), i, j)
    for leaf in inputs.leaves:
        leaf.requires_grad_()
    return inputs


# What a contender returns: a loss, a matrix of values, or nothing (matrix products only).
Run = Any


@dataclass(frozen=True)
class Contender:
    """One way of computing what an op computes.

    `make(inputs, backward)` prepares (outside the timing) and returns the call that is timed; what
    the call returns is differentiated where the mode asks for it.
    """

    name: str
    make: Callable[[Inputs, bool], Callable[[], Run]]
    largest: int = 1 << 62
    forward_only: bool = False
    missing: Callable[[], str | None] = lambda: None
    differentiable: bool = True
    compiled: bool = False
    slow: bool = False


class Op(NamedTuple):
    """An op with its fixed options."""

    name: str
    contenders: tuple[Contender, ...]
    has_gradient: bool = True


@dataclass(frozen=True)
class Group:
    """Contenders that are timed together."""

    op: Op
    mode: str  # "forward" or "forward+backward"
    n: int
    d: int

    @property
    def name(self) -> str:
        return f"{self.op.name} {self.mode} N={self.n} D={self.d}"

    def reason_to_skip(self, contender: Contender) -> str | None:
        if contender.forward_only and self.mode != "forward":
            return "forward only"
        if self.n > contender.largest:
            return f"too slow or too large above N={contender.largest}"
        if self.d != USUAL_D and contender.slow and self.n > LARGEST_OF_SLOW:
            return f"slow: above N={LARGEST_OF_SLOW} only at D={USUAL_D}"
        if self.d != USUAL_D and contender.compiled and self.mode == "forward":
            return f"takes long to compile: forward only at D={USUAL_D}"
        return contender.missing()


def plain(name: str, call: Callable[[Inputs], Run], **options: Any) -> Contender:
    """Make a contender that needs no preparation."""
    return Contender(name, lambda inputs, _: partial(call, inputs), **options)


def compiled(call: Callable[[Inputs], Run]) -> Contender:
    def make(inputs: Inputs, _: bool) -> Callable[[], Run]:
        torch.compiler.reset()  # else shapes of other groups count against the limit of recompiles
        return partial(torch.compile(call, dynamic=False), inputs)

    return Contender("torch.compile", make, missing=_no_compiler, compiled=True)


def prepared(
    name: str, prepare: Callable[[Inputs], Any], call: Callable[[Any], Run], **options: Any
) -> Contender:
    """Make a contender without gradient that takes the inputs in another form."""
    return Contender(
        name, lambda inputs, _: partial(call, prepare(inputs)), forward_only=True, **options
    )


@cache
def _no_compiler() -> str | None:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        return f"torch.compile finds no compiler: {type(error).__name__}"
    return None


def _no_library_loss() -> str | None:
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        return None
    return f"torch {torch.__version__} has no chunked linear_cross_entropy (2.13 has)"


def _without(module: str) -> Callable[[], str | None]:
    return lambda: None if find_spec(module) else f"{module} is not installed"


# --------------------------------------------------------------------------------------------------
# Ops
# --------------------------------------------------------------------------------------------------
def _both(
    call: Callable[[Any, Inputs], Run], largest: int = 1 << 62
) -> tuple[Contender, Contender]:
    """Ours, and the reference of it: `call` takes the module that holds the op."""
    reference = plain("reference", partial(call, ops.reference), largest=largest, slow=True)
    return plain(OURS, partial(call, ops)), reference


def _matrix_products(again: bool) -> Contender:
    return Contender(
        "matrix products only",
        lambda p, backward: baselines.matrix_products(p.x, p.y, backward, again),
        differentiable=False,
    )


def _info_nce() -> Op:
    def ours(library: Any, p: Inputs) -> Run:
        return library.info_nce(p.x, p.y, logit_scale=p.scale)

    def eager(p: Inputs) -> Run:
        return baselines.eager_info_nce(p.x, p.y, p.scale)

    return Op(
        "info_nce",
        (
            *_both(ours),
            plain("torch eager", eager),
            compiled(eager),
            plain(
                "torch linear_cross_entropy",
                lambda p: baselines.library_info_nce(p.x, p.y, p.scale),
                missing=_no_library_loss,
            ),
            plain("torch chunked", lambda p: baselines.chunked_info_nce(p.x, p.y, p.scale)),
            _matrix_products(again=True),
        ),
    )


def _sigmoid() -> Op:
    def ours(library: Any, p: Inputs) -> Run:
        return library.sigmoid_contrastive(p.x, p.y, logit_scale=p.scale, logit_bias=p.bias)

    def eager(p: Inputs) -> Run:
        return baselines.eager_sigmoid(p.x, p.y, p.scale, p.bias)

    return Op(
        "sigmoid_contrastive",
        (
            *_both(ours),
            plain("torch eager", eager),
            compiled(eager),
            plain("torch chunked", lambda p: baselines.chunked_sigmoid(p.x, p.y, p.scale, p.bias)),
            _matrix_products(again=False),
        ),
    )


def _rsa_penalty(compare: str) -> Op:
    def ours(library: Any, p: Inputs) -> Run:
        return library.rsa_penalty(p.x, p.y.detach(), compare=compare)

    def eager(p: Inputs) -> Run:
        return baselines.eager_rsa(p.x, p.y.detach(), compare)

    contenders = [*_both(ours), plain("torch eager", eager)]
    if compare == "atanh":
        contenders.append(compiled(eager))
    if compare in ("atanh", "mse"):
        contenders.append(
            plain("torch tiled", lambda p: baselines.tiled_rsa(p.x, p.y.detach(), compare))
        )
    if compare != "atanh":
        contenders.append(
            plain("torch feature", lambda p: baselines.feature_rsa(p.x, p.y.detach(), compare))
        )
    return Op(f"rsa_penalty {compare}", tuple(contenders))


def _numpy(p: Inputs) -> tuple[Any, Any]:
    return p.x.detach().double().numpy(), p.y.detach().double().numpy()


def _rsa_score(compare: str) -> Op:
    def ours(library: Any, p: Inputs) -> Run:
        return library.rsa_score(p.x, p.y, compare=compare, metric="correlation")

    toolbox = prepared(
        "rsatoolbox",
        _numpy,
        lambda xy: baselines.rsatoolbox_score(xy[0], xy[1], compare),
        largest=WHITENED_LIMIT if compare == "whitened_cosine" else 4096,
        missing=_without("rsatoolbox"),
    )
    return Op(f"rsa_score {compare}", (*_both(ours), toolbox), has_gradient=False)


def _pairwise(metric: str) -> Op:
    def ours(library: Any, p: Inputs) -> Run:
        return library.pairwise_similarity(p.x, metric=metric)

    scipy = prepared(
        "scipy pdist",
        lambda p: _numpy(p)[0],
        lambda x: baselines.scipy_pdist(x, metric),
        largest=4096,
        missing=_without("scipy"),
    )
    condensed = plain(
        f"{OURS} condensed",
        lambda p: ops.pairwise_similarity(p.x, metric=metric, condensed=True),
        forward_only=True,
    )
    names = {"correlation": "torch.corrcoef", "euclidean": "torch.cdist"}
    eager = plain(names.get(metric, "torch eager"), lambda p: baselines.eager_pairwise(p.x, metric))
    both = _both(ours, EUCLIDEAN_LIMIT) if metric == "euclidean" else _both(ours)
    contenders = [*both, condensed, eager, scipy]
    if metric == "correlation":
        rsatoolbox = prepared(
            "rsatoolbox",
            lambda p: _numpy(p)[0],
            baselines.rsatoolbox_rdm,
            largest=4096,
            missing=_without("rsatoolbox"),
        )
        contenders.append(rsatoolbox)
    return Op(f"pairwise_similarity {metric}", tuple(contenders))


def _pairs() -> Op:
    def ours(library: Any, p: Inputs) -> Run:
        return library.pair_similarity(p.x, p.i, p.j)

    eager = plain("torch eager", lambda p: baselines.eager_pairs(p.x, p.i, p.j))
    return Op("pair_similarity", (*_both(ours), eager))


def _topk() -> Op:
    def ours(library: Any, p: Inputs) -> Run:
        return library.topk_similarity(p.x, p.y, NEIGHBOURS)[0]

    faiss = prepared(
        "faiss flat",
        lambda p: (p.x.detach().numpy(), p.y.detach().numpy()),
        lambda xy: baselines.faiss_topk(xy[0], xy[1], NEIGHBOURS),
        missing=_without("faiss"),
    )
    contenders = (
        *_both(ours),
        faiss,
        plain("torch eager", lambda p: baselines.eager_topk(p.x, p.y, NEIGHBOURS)),
        plain("torch chunked", lambda p: baselines.chunked_topk(p.x, p.y, NEIGHBOURS)),
    )
    return Op("topk_similarity", contenders, has_gradient=False)


def _info_nce_high() -> Op:
    """The same at "high": parts of bfloat16 where the level multiplies them faster than floats."""

    def ours(library: Any, p: Inputs) -> Run:
        return library.info_nce(p.x, p.y, logit_scale=p.scale)

    return Op(
        "info_nce high",
        (
            plain(OURS, _at_high(partial(ours, ops))),
            _reference(partial(ours, ops.reference)),
            plain("torch eager", lambda p: baselines.eager_info_nce(p.x, p.y, p.scale)),
            plain("torch chunked", lambda p: baselines.chunked_info_nce(p.x, p.y, p.scale)),
            _matrix_products(again=True),
        ),
    )


def _info_nce_bfloat16() -> Op:
    """Rows rounded to bfloat16 by every contender alike; eager with products in bfloat16."""

    def rounded(p: Inputs) -> tuple[Tensor, Tensor]:
        return p.x.to(torch.bfloat16), p.y.to(torch.bfloat16)

    def reference(p: Inputs) -> Run:
        x, y = rounded(p)
        return ops.reference.info_nce(x.float(), y.float(), logit_scale=p.scale)

    return Op(
        "info_nce bfloat16",
        (
            plain(OURS, lambda p: ops.info_nce(*rounded(p), logit_scale=p.scale)),
            _reference(reference),
            plain("torch eager", lambda p: baselines.half_info_nce(*rounded(p), p.scale)),
        ),
    )


def _reference(call: Callable[[Inputs], Run]) -> Contender:
    """What the others have to agree with; timed for the plain op alone."""
    return plain("reference", call, largest=FEW[0][0] - 1)


def _at_high(call: Callable[[Inputs], Run]) -> Callable[[Inputs], Run]:
    """Run a loss, and its gradient when that is asked for, at PyTorch's precision setting "high"."""
    return lambda p: _High.apply(call, *p.leaves)  # type: ignore[no-untyped-call]


class _High(torch.autograd.Function):
    """A loss at "high" among contenders that keep their setting."""

    @staticmethod
    def forward(ctx: Any, call: Callable[[Inputs], Run], *leaves: Tensor) -> Tensor:
        needed = any(ctx.needs_input_grad)
        none = torch.empty(0, dtype=torch.int64)
        with high_precision(), torch.set_grad_enabled(needed):
            ctx.leaves = [leaf.detach().requires_grad_(needed) for leaf in leaves]
            x, y, scale, bias = ctx.leaves
            ctx.value = call(Inputs(x, y, scale, bias, none, none))
        value: Tensor = ctx.value.detach()
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with high_precision():
            return None, *torch.autograd.grad(ctx.value, ctx.leaves, grad, allow_unused=True)


@contextmanager
def high_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _rsa_penalty_high(compare: str) -> Op:
    """rsa_penalty at "high" against responses of many units; eager is the pair form."""

    def with_target(call: Callable[[Tensor, Tensor], Run], high: bool = False) -> Any:
        def make(p: Inputs, _: bool) -> Callable[[], Run]:
            generator = torch.Generator().manual_seed(7)
            target = torch.randn(len(p.x), RESPONSES, generator=generator)

            def run(q: Inputs) -> Run:
                return call(q.x, target)

            return partial(_at_high(run) if high else run, p)

        return make

    def contender(name: str, call: Callable[..., Run], **options: Any) -> Contender:
        return Contender(name, with_target(lambda x, t: call(x, t, compare)), **options)

    ours = with_target(lambda x, t: ops.rsa_penalty(x, t, compare=compare), high=True)

    def reference(x: Tensor, t: Tensor, how: str) -> Run:
        return ops.reference.rsa_penalty(x, t, compare=how)

    best = (
        contender("torch tiled", baselines.tiled_rsa)
        if compare == "atanh"
        else contender("torch feature", baselines.feature_rsa)
    )
    contenders = (
        Contender(OURS, ours),
        contender("reference", reference, largest=FEW[0][0] - 1),
        contender("torch eager", baselines.eager_rsa),
        best,
    )
    return Op(f"rsa_penalty {compare} high, {RESPONSES} responses", contenders)


def _levels() -> Iterator[Op]:
    """Ours under each instruction level of this machine; the first, the fastest, is the measure."""
    available = _info.collect()["cpu"]["levels available"].split(", ")

    def at(level: str, call: Callable[[Inputs], Run]) -> Contender:
        def run(p: Inputs) -> Run:
            os.environ["B2M_ISA"] = level  # read at every call
            return call(p)

        return plain(level, run)

    calls: dict[str, Callable[[Inputs], Run]] = {
        "info_nce": lambda p: ops.info_nce(p.x, p.y, logit_scale=p.scale),
        "rsa_penalty atanh": lambda p: ops.rsa_penalty(p.x, p.y.detach()),
        "pairwise_similarity cosine": lambda p: ops.pairwise_similarity(p.x),
    }
    for name, call in calls.items():
        yield Op(f"levels: {name}", tuple(at(level, call) for level in reversed(available)))


def _training_step(by_condition: bool) -> Op:
    """A step of Brain Contrastive Transfer with either loss, and each loss by itself."""

    def contender(name: str) -> Contender:
        def make(inputs: Inputs, _: bool) -> Callable[[], Run]:
            call = training.calls(*inputs.x.shape, by_condition=by_condition)[name]

            def run() -> Run:
                call()  # goes backwards by itself

            return run

        return Contender(name, make, differentiable=False, missing=_without("lightning_fabric"))

    names = [name + part for name in (OURS, "reference") for part in ("", ": loss alone")]
    labels = "labels: 16 conditions" if by_condition else "no labels"
    return Op(f"{TRAINING_STEP}, {labels}", tuple(map(contender, names)))


def all_ops() -> list[Op]:
    return [
        _info_nce(),
        _info_nce_high(),
        _info_nce_bfloat16(),
        _sigmoid(),
        *map(_rsa_penalty_high, ("atanh", "pearson", "cka")),
        *map(_rsa_penalty, RSA_COMPARISONS),
        *map(_rsa_score, ("pearson", "whitened_cosine", "spearman")),
        *map(_pairwise, ("cosine", "correlation", "euclidean")),
        _pairs(),
        _topk(),
        *_levels(),
        *map(_training_step, (True, False)),
    ]


# --------------------------------------------------------------------------------------------------
# Sizes
# --------------------------------------------------------------------------------------------------
# The whole grid only for the first op; the others at the sizes that tell most.
GRID = [(n, d) for n in (1024, 4096, 8192) for d in (64, USUAL_D, 512)]
FEW = [(1024, USUAL_D), (4096, USUAL_D)]
LARGE_TOO = ("sigmoid_contrastive", "rsa_penalty atanh")


def groups(form: str) -> list[Group]:
    """Everything that is timed in one run; form is "short" or "full"."""
    if form not in ("short", "full"):
        raise ValueError(f"B2M_BENCH is {form!r}; expected 'short' or 'full'")
    found = []
    for op in all_ops():
        levels = op.name.startswith("levels")
        sizes = GRID if op.name == "info_nce" else FEW
        if op.name in ("info_nce high", "info_nce bfloat16"):
            sizes = [size for size in GRID if size[0] > FEW[0][0]]
        if op.name.endswith("responses"):
            sizes = [(4096, 512)]
        if op.name in ("pairwise_similarity cosine", "pairwise_similarity correlation"):
            sizes = [*FEW, (4096, 512)]
        if op.name == "topk_similarity":
            sizes = [*FEW, (8192, USUAL_D)]
        if op.name in LARGE_TOO:
            sizes = [*FEW, (4096, 512), (8192, USUAL_D)]
        if levels:
            sizes = FEW[1:]
        if op.name == "rsa_score spearman":
            sizes = FEW[:1]  # sorting takes long in every contender
        if form == "short":
            if op.name not in ("info_nce", *LARGE_TOO):
                continue
            sizes = FEW
        modes = ["forward", "forward+backward"] if op.has_gradient else ["forward"]
        if op.name.startswith(TRAINING_STEP):
            sizes, modes = [(4096, 64)], modes[1:]
        found += [Group(op, mode, n, d) for n, d in sizes for mode in modes]
    return found
