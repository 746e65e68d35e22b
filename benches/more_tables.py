"""The tables of a run that are not times of contenders by size."""

from __future__ import annotations

from typing import Any

import to_reach
from large import counted
from others import TOLERABLE

Document = dict[str, Any]


def threads(found: Document) -> list[str]:
    """Lay out times by numbers of threads."""
    if not found["threads"]:
        return []
    lines = ["", "Threads: median ms, and how many times as fast as one thread"]
    for r in found["threads"]:
        case = f"{r['op']}, {r['mode']}, {r['n']} x {r['d']}"
        time = "-" if r["median_ms"] is None else f"{r['median_ms']:,.2f}"
        faster = r["why"] if r["times_as_fast"] is None else f"{r['times_as_fast']:.2f}x"
        lines.append(f"  {case:<56}{r['threads']:>4}{time:>12}  {faster}")
    return lines


def sizes(found: Document) -> list[str]:
    """Lay out times a pair at sizes of every kind."""
    if not found["sizes"]:
        return []
    lines = ["", "info_nce, forward+backward, one thread: nanoseconds a pair (median)"]
    lines.append(f"  {'N x D':<16}{'no labels':>12}{'labels in random order':>26}{'ratio':>8}")
    for r in found["sizes"]:
        plain, labelled, ratio = (
            "-" if r[key] is None else f"{r[key]:.2f}"
            for key in ("ns_a_pair", "ns_a_pair_labelled", "labelled_over_plain")
        )
        size = f"{r['n']} x {r['d']}"
        lines.append(f"  {size:<16}{plain:>12}{labelled:>26}{ratio:>8}  {r['why']}".rstrip())
    return lines


def parts_of_peak(found: Document) -> list[str]:
    """Lay out the peaks of the units, and what whole steps reach of them."""
    if not found["parts_of_peak"]:
        return []
    lines = ["", "Peak of one core, register to register, GFLOP/s"]
    peaks = found["peaks"] or {"gflops": {}, "missing": {"all": "not measured"}}
    lines += [f"  {unit:<26}{gflops:>12,.0f}" for unit, gflops in peaks["gflops"].items()]
    lines += [f"  {unit:<26}{'-':>12}  {reason}" for unit, reason in peaks["missing"].items()]
    lines.append("info_nce, forward+backward, one thread: GFLOP/s of 8 N^2 D, and part of the peak")
    for r in found["parts_of_peak"]:
        rate = "-" if r["gflops"] is None else f"{r['gflops']:,.0f}"
        part = r["why"] if r["part"] is None else f"{100 * r['part']:.0f} %"
        size = f"{r['n']} x {r['d']}"
        lines.append(f"  {r['contender']:<26}{size:>14}{rate:>12}  {part}")
    return lines


def processes(found: Document) -> list[str]:
    """Lay out what was measured in processes of their own."""
    if not found["processes"]:
        return []
    lines = ["", "In a process of its own, at high: the call, and all memory the process ever held"]
    for r in found["processes"]:
        if r["failed"]:
            lines.append(f"  FAILED {r['name']}: {r['failed']}")
            continue
        memory = "memory unknown" if r["peak_gb"] is None else f"{r['peak_gb']:.2f} GB"
        lines.append(
            f"  {r['name']:<46}{r['seconds']:>8.1f} s{r['cpu_seconds']:>8.1f} s of processors"
            f"{memory:>16}  ({counted(r['threads'])})"
        )
    return lines


def figures(found: Document) -> list[str]:
    """Lay out the figures to reach; of a part of the run those that it says something about."""
    level = found["machine"]["level"]
    which = "has it" if level == to_reach.SET_FOR else f"has not: level {level}"
    lines = ["", f"Figures to reach (set for a machine with AMX; this one {which})"]
    lines.append("ratios: their median over ours, forward+backward unless said")
    work = found["other_work"]
    if work is not None and work > TOLERABLE:
        lines.append(
            f"OTHERS USED {100 * work:.0f} % OF THE PROCESSORS' TIME during this run: where threads"
            " had to wait for each other its ratios say little"
        )
    lines.append(
        f"  {'case':<58}{'against':<34}{'precision':<11}{'to reach':<18}{'verdict':<14}measured"
    )
    left_out = 0
    for r in found["figures"]:
        if not found["complete"] and r["why"] and not r["measured"] and "not run" in r["why"]:
            left_out += 1
            continue
        lines.append(
            f"  {r['case']:<58}{r['against']:<34}{r['precision']:<11}{r['to_reach']:<18}"
            f"{r['verdict']:<14}{_measured(r)}"
        )
    if left_out:
        lines.append(f"  ({left_out} more are of cases that were deselected)")
    return lines


def _measured(figure: dict[str, Any]) -> str:
    """The numbers and the reason, as far as there are any."""
    values = figure["measured"]
    if figure["mean"] is None:
        text = ", ".join(f"{value:.2f} {unit}" for unit, value in values.items())
    elif figure["sizes"] == 1:
        text = f"{figure['mean']:.2f}"
    else:
        text = ", ".join(f"{size}: {value:.2f}" for size, value in values.items())
        text += f"; mean {figure['mean']:.2f}"
    return "; ".join(filter(None, (text, figure["why"])))
