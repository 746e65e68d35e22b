"""Scores and similarities against what people use instead."""

from __future__ import annotations

from typing import Any

import baselines
from b2m_fast import ops
from cases import (
    FEW,
    FORWARD,
    OURS,
    USUAL_D,
    Contender,
    Inputs,
    Op,
    Run,
    at_high,
    plain,
    prepared,
    with_reference,
    without,
)

NEIGHBOURS = 10  # k of topk_similarity
WHITENED_LIMIT = 1024  # rsatoolbox builds a matrix of pairs by pairs for it
EUCLIDEAN_LIMIT = 1024  # the reference takes every difference
SLOW_LIMIT = 4096  # of packages that compute in float64 by one thread
FOR_TESTS = {"largest": FEW[0][0] - 1}  # a reference that is timed elsewhere
WIDE, MANY_KEYS = (4096, 512), (8192, USUAL_D)


def every_similarity() -> list[Op]:
    return [
        *map(_rsa_score, ("pearson", "whitened_cosine", "spearman")),
        *map(_pairwise, ("cosine", "correlation", "euclidean")),
        *(_pairwise(metric, high=True) for metric in ("cosine", "correlation")),
        _pairs(),
        _topk(),
        _topk(high=True),
    ]


def _numpy(p: Inputs) -> tuple[Any, Any]:
    return p.x.detach().double().numpy(), p.y.detach().double().numpy()


def _rsa_score(compare: str) -> Op:
    def ours(library: Any, p: Inputs) -> Run:
        return library.rsa_score(p.x, p.y, compare=compare, metric="correlation")

    toolbox = prepared(
        "rsatoolbox",
        _numpy,
        lambda xy: baselines.rsatoolbox_score(xy[0], xy[1], compare),
        largest=WHITENED_LIMIT if compare == "whitened_cosine" else SLOW_LIMIT,
        missing=without("rsatoolbox"),
    )
    return Op(
        f"rsa_score {compare}",
        (*with_reference(ours), toolbox),
        sizes=FEW[:1] if compare == "spearman" else FEW,  # sorting takes long in every contender
        modes=(FORWARD,),
    )


def _pairwise(metric: str, high: bool = False) -> Op:
    """At "high": every contender that asks for PyTorch's setting, forward alone, many columns."""
    options: dict[str, Any] = {"setting": at_high} if high else {}

    def ours(library: Any, p: Inputs) -> Run:
        return library.pairwise_similarity(p.x, metric=metric)

    condensed = plain(
        f"{OURS} condensed",
        lambda p: ops.pairwise_similarity(p.x, metric=metric, condensed=True),
        forward_only=True,
        **options,
    )
    names = {"correlation": "torch.corrcoef", "euclidean": "torch.cdist"}
    eager = plain(
        names.get(metric, "torch eager"), lambda p: baselines.eager_pairwise(p.x, metric), **options
    )
    scipy = prepared(
        "scipy pdist",
        lambda p: _numpy(p)[0],
        lambda x: baselines.scipy_pdist(x, metric),
        largest=SLOW_LIMIT,
        missing=without("scipy"),
    )
    limits = FOR_TESTS if high else {}
    if metric == "euclidean":
        limits = {"largest": EUCLIDEAN_LIMIT}
    contenders = [*with_reference(ours, **limits, **options), condensed, eager, scipy]
    if metric == "correlation":
        rsatoolbox = prepared(
            "rsatoolbox",
            lambda p: _numpy(p)[0],
            baselines.rsatoolbox_rdm,
            largest=SLOW_LIMIT,
            missing=without("rsatoolbox"),
        )
        by_hand = plain("torch eager", lambda p: baselines.eager_correlation(p.x), **options)
        contenders += [by_hand, rsatoolbox]
    name = f"pairwise_similarity {metric}"
    if high:
        return Op(f"{name} high", tuple(contenders), sizes=(WIDE,), modes=(FORWARD,), share=4)
    return Op(name, tuple(contenders), sizes=FEW if metric == "euclidean" else (*FEW, WIDE))


def _pairs() -> Op:
    def ours(library: Any, p: Inputs) -> Run:
        return library.pair_similarity(p.x, p.i, p.j)

    eager = plain("torch eager", lambda p: baselines.eager_pairs(p.x, p.i, p.j))
    return Op("pair_similarity", (*with_reference(ours), eager))


def _topk(high: bool = False) -> Op:
    options: dict[str, Any] = {"setting": at_high} if high else {}
    limits = FOR_TESTS if high else {}

    def ours(library: Any, p: Inputs) -> Run:
        return library.topk_similarity(p.x, p.y, NEIGHBOURS)[0]

    faiss = prepared(
        "faiss flat",
        lambda p: (p.x.detach().numpy(), p.y.detach().numpy()),
        lambda xy: baselines.faiss_topk(xy[0], xy[1], NEIGHBOURS),
        missing=without("faiss"),
    )

    def of_torch(name: str, values: Any) -> Contender:
        return plain(name, lambda p: values(p.x, p.y, NEIGHBOURS), **options)

    contenders = (
        *with_reference(ours, **limits, **options),
        faiss,
        of_torch("torch eager", baselines.eager_topk),
        of_torch("torch chunked", baselines.chunked_topk),
    )
    if high:
        name, sizes = "topk_similarity high", (MANY_KEYS,)
        return Op(name, contenders, sizes, modes=(FORWARD,), share=10)
    return Op("topk_similarity", contenders, modes=(FORWARD,))
