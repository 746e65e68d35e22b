"""Ours by numbers of threads and by sizes, and the curves of time against N and D."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from b2m_fast import _info, ops
from cases import (
    FORWARD,
    GRID,
    OURS,
    STEP,
    USUAL_D,
    Contender,
    Inputs,
    Op,
    Run,
    at_high,
    plain,
    with_threads,
)
from timed_losses import chunked_info_nce, eager_info_nce, matrix_products, our_info_nce

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS, SIZES, SWEEP = "threads: ", "sizes: info_nce", "sweep: info_nce"
NO_LABELS, ANY_ORDER = "no labels", "labels in random order"

ODD_N = (1000, 2047, 2048, 2049, 2100, 2177, 4099)
ODD_D = (1, 3, 17, 64, 96, 100, 128, 512, 768, 1152, 2048)
SWEEP_N = (1024, 2048, 4096, 8192, 16384)
SWEEP_D = (16, 32, 64, 128, 256, 512, 1024)
SWEEP_AT = 4096, USUAL_D  # N of the curve against D, D of the curve against N

# A container's limits of memory, of the second and the first version of control groups.
CGROUP = Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")


def every_size() -> list[Op]:
    return [*_threads(), _sizes(), _sweep()]


def processors() -> int:
    """Processors that this process may run on."""
    return int(_info.collect()["cpu"]["processors"])


def _threads() -> list[Op]:
    """One thread, which is the measure, against two, and against all there are."""
    calls: dict[str, tuple[Callable[[Inputs], Run], str]] = {
        "info_nce": (partial(our_info_nce, ops), STEP),
        "rsa_penalty atanh": (lambda p: ops.rsa_penalty(p.x, p.y.detach()), STEP),
        "pairwise_similarity cosine": (lambda p: ops.pairwise_similarity(p.x), FORWARD),
    }
    counts = sorted({1, 2, processors()})
    sizes = tuple((4096, d) for d in (64, 128, 512))
    return [
        Op(
            f"{THREADS}{name}",
            tuple(_by_threads(count, call) for count in counts),
            sizes,
            modes=(mode,),
            memory=False,
            share=2,
        )
        for name, (call, mode) in calls.items()
    ]


def _by_threads(count: int, call: Callable[[Inputs], Run]) -> Contender:
    def too_few() -> str | None:
        return None if count <= processors() else f"{processors()} processor(s) here"

    name = f"{count} thread" + "s" * (count > 1)
    return plain(name, call, setting=partial(with_threads, count), missing=too_few)


def _sizes() -> Op:
    """Sizes that fill no tile, by one thread; the same loss with positives anywhere."""
    one = partial(with_threads, 1)

    def in_any_order(p: Inputs, _: bool) -> Callable[[], Run]:
        order = torch.randperm(len(p.x), generator=torch.Generator().manual_seed(0))
        back, numbers = order.argsort(), torch.arange(len(order))

        def run() -> Run:
            key = _Reordered.apply(p.y, order, back)  # type: ignore[no-untyped-call]
            return ops.info_nce(p.x, key, labels=numbers, key_labels=order, logit_scale=p.scale)

        return run

    contenders = (
        plain(NO_LABELS, partial(our_info_nce, ops), setting=one),
        Contender(ANY_ORDER, in_any_order, setting=one),
    )
    sizes = dict.fromkeys([*((n, USUAL_D) for n in ODD_N), *((2048, d) for d in ODD_D)])
    return Op(SIZES, contenders, tuple(sizes), modes=(STEP,), memory=False, share=1.2)


class _Reordered(torch.autograd.Function):
    """Rows in another order: two copies a step, which is less than a hundredth of it from D = 17.

    torch would add gradients up row by row, as indices might repeat.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.back = back
        return rows[order]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad[ctx.back], None, None


def _sweep() -> Op:
    """The points of the curves that the ops "info_nce" and "info_nce high" have not."""
    n_of_d, d_of_n = SWEEP_AT
    points = dict.fromkeys([*((n, d_of_n) for n in SWEEP_N), *((n_of_d, d) for d in SWEEP_D)])
    contenders = (
        plain(OURS, partial(our_info_nce, ops)),
        plain(f"{OURS} high", partial(our_info_nce, ops), setting=at_high),
        eager_info_nce(largest=_largest_matrix()),
        chunked_info_nce(),
        matrix_products(again=True),
    )
    sizes = tuple(point for point in points if point not in GRID)
    return Op(SWEEP, contenders, sizes, modes=(STEP,), memory=False, share=1.2)


def _largest_matrix(matrices: int = 5) -> int:
    """The largest N at which eager's matrices of float32 scores fill half of the memory."""
    return math.isqrt(memory() // 2 // (4 * matrices))


def memory() -> int:
    """Bytes of the machine, or fewer where a container has a limit of its own."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in LIMITS:
        with suppress(OSError, ValueError):  # there is none, or it is "max"
            found.append(int((CGROUP / limit).read_text(encoding="ascii")))
    return min(found)
