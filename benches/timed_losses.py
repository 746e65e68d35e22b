"""The losses against what people use instead, and against the best that plain torch can do."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import baselines
from b2m_fast import _C, ops
from cases import (
    FEW,
    GRID,
    OURS,
    STEP,
    USUAL_D,
    Contender,
    Inputs,
    Op,
    Run,
    at_high,
    at_level,
    compiled,
    plain,
    reference,
    with_reference,
    without,
)

if TYPE_CHECKING:
    from collections.abc import Callable

AVX512 = f"{OURS} avx512"
RESPONSES = 1000  # units of the wide targets
RSA_COMPARISONS = ("atanh", "mse", "pearson", "cosine", "cka", "cka_debiased", "whitened_cosine")
HIGH_COMPARISONS = ("atanh", "pearson", "cka")
TRAINING_STEP = "training step"

LARGE_TOO = (*FEW, (4096, 512), (8192, USUAL_D))


def every_loss() -> list[Op]:
    return [
        _info_nce(),
        _info_nce_high(),
        _info_nce_bfloat16(),
        _sigmoid(),
        *map(_rsa_penalty_high, HIGH_COMPARISONS),
        *map(_rsa_penalty, RSA_COMPARISONS),
        *map(_training_step, (True, False)),
    ]


# --------------------------------------------------------------------------------------------------
# Contrastive
# --------------------------------------------------------------------------------------------------
def our_info_nce(library: Any, p: Inputs) -> Run:
    """Symmetric InfoNCE of `ops`, or of its reference."""
    return library.info_nce(p.x, p.y, logit_scale=p.scale)


def rounded_info_nce(p: Inputs) -> Run:
    """The same of rows rounded to bfloat16."""
    x, y = _rounded(p)
    return ops.info_nce(x, y, logit_scale=p.scale)


def eager_info_nce(**options: Any) -> Contender:
    call = partial(_of_rows, baselines.eager_info_nce)
    return plain("torch eager", call, **options)


def chunked_info_nce(**options: Any) -> Contender:
    call = partial(_of_rows, baselines.chunked_info_nce)
    return plain("torch chunked", call, **options)


def kept_info_nce(**options: Any) -> Contender:
    """Not in the memory of the others: the chunked one with all scores kept for the way back."""
    call = partial(_of_rows, partial(baselines.chunked_info_nce, keep=True))
    return plain("torch scores kept", call, **options)


def matrix_products(again: bool) -> Contender:
    return Contender(
        "matrix products only",
        lambda p, backward: baselines.matrix_products(p.x, p.y, backward, again),
        differentiable=False,
    )


def _of_rows(loss: Callable[[Tensor, Tensor, Tensor], Tensor], p: Inputs) -> Run:
    return loss(p.x, p.y, p.scale)


def _rounded(p: Inputs) -> tuple[Tensor, Tensor]:
    return p.x.to(torch.bfloat16), p.y.to(torch.bfloat16)


def _no_library_loss() -> str | None:
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        return None
    return f"torch {torch.__version__} has no chunked linear_cross_entropy (2.13 has)"


def _no_avx512() -> str | None:
    return None if "avx512" in _C.isa_available() else "this processor or build has no avx512"


def _info_nce() -> Op:
    return Op(
        "info_nce",
        (
            *with_reference(our_info_nce),
            plain(
                AVX512,
                partial(our_info_nce, ops),
                setting=partial(at_level, "avx512"),
                missing=_no_avx512,
            ),
            eager_info_nce(),
            compiled(partial(_of_rows, baselines.eager_info_nce)),
            plain(
                "torch linear_cross_entropy",
                partial(_of_rows, baselines.library_info_nce),
                missing=_no_library_loss,
            ),
            chunked_info_nce(),
            kept_info_nce(),
            matrix_products(again=True),
        ),
        sizes=GRID,
        short=True,
        share=1.5,
    )


def _info_nce_high() -> Op:
    """All at "high", but for the float32 products, the measure of what float32 can reach."""
    return Op(
        "info_nce high",
        (
            plain(OURS, partial(our_info_nce, ops), setting=at_high),
            reference(partial(our_info_nce, ops.reference)),
            eager_info_nce(setting=at_high),
            chunked_info_nce(setting=at_high),
            kept_info_nce(setting=at_high),
            matrix_products(again=True),
        ),
        sizes=GRID,
        modes=(STEP,),
        memory=False,
        share=2,
    )


def _info_nce_bfloat16() -> Op:
    """Rows rounded to bfloat16 by every contender alike; eager with products in bfloat16."""

    def exact(p: Inputs) -> Run:
        x, y = _rounded(p)
        return ops.reference.info_nce(x.float(), y.float(), logit_scale=p.scale)

    return Op(
        "info_nce bfloat16",
        (
            plain(OURS, rounded_info_nce),
            reference(exact),
            plain("torch eager", lambda p: baselines.half_info_nce(*_rounded(p), p.scale)),
        ),
        sizes=GRID[3:],
        modes=(STEP,),
        memory=False,
        share=1.5,
    )


def _sigmoid() -> Op:
    def ours(library: Any, p: Inputs) -> Run:
        return library.sigmoid_contrastive(p.x, p.y, logit_scale=p.scale, logit_bias=p.bias)

    def eager(p: Inputs) -> Run:
        return baselines.eager_sigmoid(p.x, p.y, p.scale, p.bias)

    return Op(
        "sigmoid_contrastive",
        (
            *with_reference(ours),
            plain("torch eager", eager),
            compiled(eager),
            plain("torch chunked", lambda p: baselines.chunked_sigmoid(p.x, p.y, p.scale, p.bias)),
            matrix_products(again=False),
        ),
        sizes=LARGE_TOO,
        short=True,
    )


# --------------------------------------------------------------------------------------------------
# Representational similarity
# --------------------------------------------------------------------------------------------------
def _rsa_penalty(compare: str) -> Op:
    def ours(library: Any, p: Inputs) -> Run:
        return library.rsa_penalty(p.x, p.y.detach(), compare=compare)

    def of_plain_torch(loss: Callable[[Tensor, Tensor, str], Tensor]) -> Callable[[Inputs], Run]:
        return lambda p: loss(p.x, p.y.detach(), compare)

    eager = of_plain_torch(baselines.eager_rsa)
    contenders = [*with_reference(ours), plain("torch eager", eager)]
    if compare == "atanh":
        contenders.append(compiled(eager))
    if compare in baselines.TILED:
        contenders.append(plain("torch tiled", of_plain_torch(baselines.tiled_rsa)))
    if compare != "atanh":
        contenders.append(plain("torch feature", of_plain_torch(baselines.feature_rsa)))
    large = compare == "atanh"
    return Op(
        f"rsa_penalty {compare}",
        tuple(contenders),
        sizes=LARGE_TOO if large else FEW,
        short=large,
    )


def _rsa_penalty_high(compare: str) -> Op:
    """All at "high", against responses of many units; eager and tiled are the pair form."""

    def contender(
        name: str, call: Callable[[Tensor, Tensor, str], Tensor], **options: Any
    ) -> Contender:
        def make(p: Inputs, _: bool) -> Callable[[], Run]:
            generator = torch.Generator().manual_seed(7)
            target = torch.randn(len(p.x), RESPONSES, generator=generator)
            return partial(call, p.x, target, compare)

        return Contender(name, make, setting=at_high, **options)

    def ours(library: Any) -> Callable[[Tensor, Tensor, str], Tensor]:
        def call(x: Tensor, target: Tensor, how: str) -> Tensor:
            loss: Tensor = library.rsa_penalty(x, target, compare=how)
            return loss

        return call

    contenders = [
        contender(OURS, ours(ops)),
        contender("reference", ours(ops.reference), largest=FEW[0][0] - 1),
        contender("torch eager", baselines.eager_rsa),
        contender("torch tiled", baselines.tiled_rsa),
    ]
    if compare != "atanh":
        contenders.append(contender("torch feature", baselines.feature_rsa))
    return Op(
        high_penalty(compare), tuple(contenders), sizes=((4096, 512),), modes=(STEP,), share=4
    )


def high_penalty(compare: str) -> str:
    """The name of the op above."""
    return f"rsa_penalty {compare} high, {RESPONSES} responses"


# --------------------------------------------------------------------------------------------------
# A loss in its training step
# --------------------------------------------------------------------------------------------------
def _training_step(by_condition: bool) -> Op:
    """A step of Brain Contrastive Transfer with either loss, and each loss by itself."""

    def contender(name: str) -> Contender:
        def make(inputs: Inputs, _: bool) -> Callable[[], Run]:
            import training  # needs lightning_fabric

            call = training.calls(*inputs.x.shape, by_condition=by_condition)[name]

            def run() -> Run:
                call()  # goes backwards by itself

            return run

        return Contender(name, make, differentiable=False, missing=without("lightning_fabric"))

    names = [name + part for name in (OURS, "reference") for part in ("", ": loss alone")]
    labels = "labels: 16 conditions" if by_condition else "no labels"
    return Op(
        f"{TRAINING_STEP}, {labels}",
        tuple(map(contender, names)),
        sizes=((4096, 64),),
        modes=(STEP,),
    )
