"""Ours under each instruction level of this machine."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from b2m_fast import _C, ops
from cases import (
    FEW,
    STEP,
    Contender,
    Inputs,
    Op,
    Run,
    Setting,
    at_high,
    at_level,
    plain,
    together,
    with_threads,
)
from timed_losses import our_info_nce, rounded_info_nce

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PEAK = "peak: info_nce"

# Levels that multiply float32 in a way of their own; avx512bf16 does it as avx512 does.
OF_FLOATS = ("generic", "avx2", "avx512", "amx")
OF_BFLOAT16 = ("avx512bf16", "amx")


def available() -> list[str]:
    """Levels that tell something about speed, the fastest first."""
    return [level for level in reversed(_C.isa_available()) if not level.endswith("-emulated")]


def every_level() -> list[Op]:
    return [*_levels(), _peak()]


def _levels() -> Iterator[Op]:
    """The first, the fastest, is the measure."""
    calls: dict[str, Callable[[Inputs], Run]] = {
        "info_nce": partial(our_info_nce, ops),
        "rsa_penalty atanh": lambda p: ops.rsa_penalty(p.x, p.y.detach()),
        "pairwise_similarity cosine": lambda p: ops.pairwise_similarity(p.x),
    }
    for name, call in calls.items():
        contenders = (plain(at, call, setting=partial(at_level, at)) for at in available())
        yield Op(f"levels: {name}", tuple(contenders), sizes=FEW[1:], memory=False)


def _peak() -> Op:
    """A whole step by one thread, to be held against what the level's unit can do."""

    def contender(
        what: str, level: str, call: Callable[[Inputs], Run], *more: Setting
    ) -> Contender:
        setting = partial(together, partial(with_threads, 1), partial(at_level, level), *more)
        return plain(f"{what} {level}", call, setting=setting)

    floats = partial(our_info_nce, ops)
    contenders = []
    for level in available():
        if level in OF_FLOATS:
            contenders.append(contender("float32", level, floats))
        if level == "amx":  # three products of parts, where the setting by default takes six
            contenders.append(contender("float32 high", level, floats, at_high))
        if level in OF_BFLOAT16:
            contenders.append(contender("bfloat16", level, rounded_info_nce))
    sizes = tuple((4096, d) for d in (64, 128, 512, 1152))
    return Op(PEAK, tuple(contenders), sizes=sizes, modes=(STEP,), memory=False, share=2)
