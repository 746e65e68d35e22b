"""The figures to reach, and what a run's records say about each.

A figure is reached, not reached, not measured, with the reason, or not resolved: so near to its limit
that the noise of the times decides. One of several cases that misses is enough for "not reached";
"reached" takes all of them.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cases import FORWARD, OURS, STEP
from large import Question, counted
from timed_losses import AVX512, high_penalty
from timed_similarities import MANY_KEYS, WIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

REACHED, MISSED = "reached", "not reached"
UNRESOLVED, UNKNOWN = "not resolved", "not measured"
UNKNOWN_NOISE, FEWEST_ROUNDS = 0.1, 3
SET_FOR = "amx"  # the level that the figures were set for

Record = dict[str, Any]
Sizes = tuple[tuple[int, int], ...]

NARROW: Sizes = tuple((n, d) for n in (4096, 8192) for d in (64, 128))
BROAD: Sizes = tuple((n, 512) for n in (4096, 8192))
SIX: Sizes = tuple(sorted((*NARROW, *BROAD)))


@dataclass(frozen=True)
class Ratio:
    """How many times as long as ours another one takes; of several others the fastest counts."""

    case: str
    against: str
    precision: str
    op: str
    others: tuple[str, ...]
    sizes: Sizes
    each: float | None = None  # at least, at every size
    mean: float | None = None  # at least, the geometric mean
    above: bool = False  # each: more than that; within the noise it is the same
    ours: str = OURS
    mode: str = STEP

    @property
    def wanted(self) -> str:
        more = "> " if self.above else ""
        each = "" if len(self.sizes) == 1 else " each"
        parts = [f"{more}{self.each:g}x{each}"] if self.each is not None else []
        parts += [f"{self.mean:g}x mean"] if self.mean is not None else []
        return ", ".join(parts)

    def judge(self, records: Sequence[Record]) -> Record:
        of = {
            (r["contender"], r["n"], r["d"]): r
            for r in records
            if (r["op"], r["mode"]) == (self.op, self.mode)
        }
        measured: dict[str, float] = {}
        noises: dict[str, float] = {}
        missing: dict[str, list[str]] = {}
        for n, d in self.sizes:
            found = [(who, of.get((who, n, d))) for who in (self.ours, *self.others)]
            reasons = {who: _why_not(r) for who, r in found if _median(r) is None}
            if reasons:
                missing.setdefault(_joined(reasons, len(found)), []).append(f"{n} x {d}")
                continue
            ours, *others = (r for _, r in found if r is not None)
            fastest = min(others, key=lambda r: float(r["median_ms"]))
            measured[f"{n} x {d}"] = fastest["median_ms"] / ours["median_ms"]
            noises[f"{n} x {d}"] = max(_noise(ours), _noise(fastest))
        why = "; ".join(
            reason if len(at) == len(self.sizes) else f"{', '.join(at)}: {reason}"
            for reason, at in missing.items()
        )
        mean = statistics.geometric_mean(measured.values()) if measured else None
        return {
            "case": self.case,
            "against": self.against,
            "precision": self.precision,
            "to_reach": self.wanted,
            "sizes": len(self.sizes),
            "measured": {size: round(ratio, 3) for size, ratio in measured.items()},
            "noise": {size: round(noise, 4) for size, noise in noises.items()},
            "mean": None if mean is None else round(mean, 3),
            "verdict": self._verdict(measured, noises, complete=not missing),
            "why": why,
        }

    def _verdict(self, measured: dict[str, float], noises: dict[str, float], complete: bool) -> str:
        verdicts = []
        if self.each is not None:
            verdicts += [_held(measured[size], self.each, noises[size]) for size in measured]
        if self.mean is not None and complete:
            mean = statistics.geometric_mean(measured.values())
            verdicts.append(_held(mean, self.mean, statistics.fmean(noises.values())))
        if MISSED in verdicts:
            return MISSED
        if not complete:
            return UNKNOWN
        return UNRESOLVED if UNRESOLVED in verdicts else REACHED


@dataclass(frozen=True)
class Limit:
    """A number of a process of its own that has to stay below a limit."""

    name: str
    quantity: str  # "seconds" or "peak_gb"
    below: float

    def judge(self, processes: Sequence[Record]) -> Record:
        unit = {"seconds": "s", "peak_gb": "GB"}[self.quantity]
        record = next((r for r in processes if r["name"] == self.name), None)
        why = record["failed"] if record else "not run"
        value = None if record is None or why else record[self.quantity]
        if value is None:
            verdict, why = UNKNOWN, why or "the system does not tell"
        else:
            verdict = REACHED if value < self.below else MISSED
        against = "time" if self.quantity == "seconds" else "peak resident memory"
        return {
            "case": self.name,
            "against": against + (f", {counted(record['threads'])}" if record else ""),
            "precision": "high",
            "to_reach": f"< {self.below:g} {unit}",
            "sizes": 1,
            "measured": {} if value is None else {unit: value},
            "mean": None,
            "verdict": verdict,
            "why": why or "",
        }


def _joined(reasons: dict[str, str], contenders: int) -> str:
    """Reasons by contender, or the one that all of them have."""
    alike = set(reasons.values())
    if len(reasons) == contenders and len(alike) == 1:
        return alike.pop()
    return "; ".join(f"{who}: {reason}" for who, reason in reasons.items())


def _held(ratio: float, limit: float, noise: float) -> str:
    """The verdict on one ratio that has to be at least the limit."""
    if abs(ratio / limit - 1) <= noise:
        return UNRESOLVED
    return REACHED if ratio > limit else MISSED


def _noise(record: Record) -> float:
    """How far a median may be off, relative to it."""
    if record["spread"] is None or record["rounds"] < FEWEST_ROUNDS:
        return UNKNOWN_NOISE
    return float(record["spread"]) / math.sqrt(record["rounds"])


def _median(record: Record | None) -> float | None:
    return None if record is None or record["failed"] else record["median_ms"]


def _why_not(record: Record | None) -> str:
    if record is None:
        return "not run"
    return str(record["failed"] or record["skipped"] or "not run")


BEST = "best torch Function"
# In blocks, computing the scores again; and, in memory that the others do not take, with all of them kept.
FUNCTIONS = ("torch chunked", "torch scores kept")
INFO_NCE = "symmetric info_nce"
PAIRWISE, TOPK = "pairwise_similarity", "topk_similarity"
AT = "N=4096, D=512"

RATIOS = (
    Ratio(INFO_NCE, BEST, "high", "info_nce high", FUNCTIONS, SIX, each=3, mean=4),
    Ratio(INFO_NCE, "torch eager", "high", "info_nce high", ("torch eager",), SIX, mean=10),
    Ratio(
        INFO_NCE,
        "the four FP32 products",
        "high",
        "info_nce high",
        ("matrix products only",),
        SIX,
        each=1,
        above=True,
    ),
    Ratio(INFO_NCE, BEST, "highest", "info_nce", FUNCTIONS, SIX, mean=2),
    *(
        Ratio(
            f"{INFO_NCE}, avx512, {which}",
            BEST,
            "highest",
            "info_nce",
            FUNCTIONS,
            sizes,
            each=each,
            ours=AVX512,
        )
        for which, sizes, each in (("D <= 128", NARROW, 1.3), ("D = 512", BROAD, 1.0))
    ),
    Ratio(
        f"{INFO_NCE}, bfloat16 rows",
        "torch eager, bfloat16 product",
        "-",
        "info_nce bfloat16",
        ("torch eager",),
        SIX,
        mean=6,
    ),
    *(
        Ratio(
            f"rsa_penalty {compare}, {AT}, k=1000",
            against,
            "high",
            high_penalty(compare),
            (other,),
            (WIDE,),
            each=4,
        )
        for compare, against, other in (
            ("atanh", BEST, "torch tiled"),
            ("pearson", "torch eager, pair form", "torch eager"),
            ("pearson", f"{BEST}, pair form", "torch tiled"),
            ("cka", "torch eager, pair form", "torch eager"),
            ("cka", f"{BEST}, pair form", "torch tiled"),
        )
    ),
    *(
        Ratio(
            f"{PAIRWISE} {metric}, forward, {AT}",
            against,
            precision,
            f"{PAIRWISE} {metric} high",
            others,
            (WIDE,),
            each=each,
            mode=FORWARD,
        )
        for metric, against, precision, others, each in (
            ("cosine", "torch: normalise, mm", "high", ("torch eager",), 1.5),
            (
                "correlation",
                "torch: the same, corrcoef",
                "high",
                ("torch eager", "torch.corrcoef"),
                1.5,
            ),
            ("correlation", "rsatoolbox calc_rdm", "float64", ("rsatoolbox",), 20),
        )
    ),
    *(
        Ratio(
            f"{TOPK}, k=10, N=8192, D=128",
            against,
            "high",
            f"{TOPK} high",
            others,
            (MANY_KEYS,),
            each=each,
            mode=FORWARD,
        )
        for against, others, each in (
            ("torch: mm, topk", ("torch eager", "torch chunked"), 2),
            ("faiss-cpu flat", ("faiss flat",), 1),
        )
    ),
)

LIMITS = tuple(
    Limit(Question(compare).name, quantity, below)
    for compare, seconds in (("pearson", 10), ("atanh", 60))
    for quantity, below in (("seconds", seconds), ("peak_gb", 1.5))
)


def judge(records: Sequence[Record], processes: Sequence[Record]) -> list[Record]:
    """All figures, in the order in which they were set."""
    return [
        *(ratio.judge(records) for ratio in RATIOS),
        *(limit.judge(processes) for limit in LIMITS),
    ]
