"""What follows from the records of a run: means, shares, speed-ups, times a pair, parts of a peak."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from peak import UNITS, Peaks
from timed_levels import PEAK
from timed_sizes import ANY_ORDER, NO_LABELS, SIZES, THREADS

if TYPE_CHECKING:
    from collections.abc import Sequence

Record = dict[str, Any]

LOSS_ALONE = ": loss alone"
# Products of bfloat16 parts that one float32 product takes (DESIGN.md, "Precision").
PARTS = {"float32 amx": 6, "float32 high amx": 3}


def in_general_tables(record: Record) -> bool:
    """Whether there is no table of its own for it."""
    return not record["op"].startswith((THREADS, SIZES, PEAK))


def geometric_means(records: Sequence[Record]) -> list[Record]:
    """Mean ratio of each contender in each op and mode, over all sizes it was timed at."""
    ratios: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for r in filter(in_general_tables, records):
        if r["ratio"] is not None:
            ratios[r["op"], r["mode"], r["contender"]].append(r["ratio"])
    return [
        {
            "op": op,
            "mode": mode,
            "contender": contender,
            "ratio": round(statistics.geometric_mean(values), 3),
            "sizes": len(values),
        }
        for (op, mode, contender), values in ratios.items()
    ]


def shares(records: Sequence[Record]) -> list[Record]:
    """What part of each training step its loss takes, forward and backward."""
    median = {(r["op"], r["contender"]): r["median_ms"] for r in records if r["median_ms"]}
    return [
        {"op": op, "contender": name, "share": round(loss / median[op, name], 3)}
        for (op, contender), loss in median.items()
        if (name := contender.removesuffix(LOSS_ALONE)) != contender and (op, name) in median
    ]


def threads(records: Sequence[Record]) -> list[Record]:
    """How many times as fast as one thread several are."""
    one = {
        (r["op"], r["n"], r["d"]): r["median_ms"] for r in records if r["contender"] == "1 thread"
    }
    found = []
    for r in records:
        if not r["op"].startswith(THREADS):
            continue
        alone = one.get((r["op"], r["n"], r["d"]))
        both = alone is not None and r["median_ms"] is not None
        found.append(
            {
                "op": r["op"].removeprefix(THREADS),
                **{key: r[key] for key in ("mode", "n", "d", "median_ms")},
                "threads": int(r["contender"].split()[0]),
                "times_as_fast": round(alone / r["median_ms"], 3) if both else None,
                "why": r["failed"] or r["skipped"] or "",
            }
        )
    return found


def sizes(records: Sequence[Record]) -> list[Record]:
    """Nanoseconds a pair of a step, without labels and with labels in random order."""
    at: dict[tuple[int, int], dict[str, Record]] = defaultdict(dict)
    for r in records:
        if r["op"] == SIZES:
            at[r["n"], r["d"]][r["contender"]] = r
    found = []
    for (n, d), of in at.items():
        plain, labelled = (
            1e6 * of[who]["median_ms"] / n**2 if who in of and of[who]["median_ms"] else None
            for who in (NO_LABELS, ANY_ORDER)
        )
        why = dict.fromkeys(r["failed"] or r["skipped"] for r in of.values())
        found.append(
            {
                "n": n,
                "d": d,
                "ns_a_pair": _rounded(plain),
                "ns_a_pair_labelled": _rounded(labelled),
                "labelled_over_plain": _rounded(labelled / plain if plain and labelled else None),
                "why": "; ".join(filter(None, why)),
            }
        )
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def parts_of_peak(records: Sequence[Record], peaks: Peaks | None) -> list[Record]:
    """GFLOP/s of whole steps by one thread, and what part of the unit's peak that is.

    8 N^2 D operations, those of the four products; the fastest of the rounds, as a peak is the
    fastest of its rounds. Where a level makes a float32 product of several products of parts, the
    peak is that of float32 products so made.
    """
    found = []
    for r in records:
        if r["op"] != PEAK:
            continue
        what = r["contender"]
        unit = UNITS[what.split()[-1]]
        milliseconds = r["min_ms"]
        gflops = None if not milliseconds else 8e-6 * r["n"] ** 2 * r["d"] / milliseconds
        whole = peaks.gflops.get(unit) if peaks else None
        peak = None if whole is None else whole / PARTS.get(what, 1)
        why = r["failed"] or r["skipped"] or ""
        if peak is None:
            why = why or (peaks.reason(unit) if peaks else "peaks were not measured")
        found.append(
            {
                "contender": what,
                "n": r["n"],
                "d": r["d"],
                "gflops": None if gflops is None else round(gflops, 1),
                "peak_gflops": None if peak is None else round(peak, 1),
                "part": None if gflops is None or peak is None else round(gflops / peak, 3),
                "why": why,
            }
        )
    return found
