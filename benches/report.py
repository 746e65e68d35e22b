"""Tables and the JSON of a run."""

from __future__ import annotations

import datetime as dt
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import derived
import more_tables
import to_reach
from b2m_fast import _bench
from harness import OUT_OF_TIME

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from cases import Group
    from harness import Measured
    from peak import Peaks

SCHEMA = 3


def rows(measured: list[Measured]) -> list[dict[str, Any]]:
    """One flat record a case; ratio is its median over that of the first contender, ours."""
    by_group: dict[str, list[Measured]] = defaultdict(list)
    for case in measured:
        by_group[case.group.name].append(case)
    found = []
    for group in by_group.values():
        ours = group[0].median if group[0].seconds else None
        for case in group:
            median = case.median if case.seconds else None
            found.append(
                {
                    "op": case.group.op.name,
                    "mode": case.group.mode,
                    "n": case.group.n,
                    "d": case.group.d,
                    "contender": case.contender,
                    "median_ms": _ms(median),
                    "min_ms": _ms(min(case.seconds, default=None)),
                    "spread": _spread(case.seconds),
                    "rounds": len(case.seconds),
                    "ratio": None if median is None or ours is None else round(median / ours, 3),
                    "memory_mib": None if case.memory_mib is None else round(case.memory_mib, 1),
                    "skipped": case.skipped,
                    "failed": case.failed,
                }
            )
    return found


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e3 * seconds, 4)


def _spread(seconds: list[float]) -> float | None:
    """Interquartile range over the median."""
    if len(seconds) < 3:
        return None
    low, middle, high = statistics.quantiles(seconds, n=4)
    return round((high - low) / middle, 3)


def complete(
    groups: Collection[Group],
    comparisons: Collection[str],
    measured: Mapping[str, Mapping[str, Measured]],
    processes: Mapping[str, Mapping[str, Any]],
) -> bool:
    """Whether all groups began in time and all processes answered; nothing was deselected then."""
    begun = {
        name
        for name, cases in measured.items()
        if all(case.skipped != OUT_OF_TIME for case in cases.values())
    }
    answered = {compare for compare, answer in processes.items() if not answer["failed"]}
    return {group.name for group in groups} <= begun and set(comparisons) <= answered


def document(
    measured: list[Measured],
    form: str,
    wall_seconds: float,
    load: list[float],
    *,
    processes: list[dict[str, Any]] | None = None,
    peaks: Peaks | None = None,
    complete: bool = True,
    other_work: float | None = None,
) -> dict[str, Any]:
    """Everything that is kept of a run; load: of the machine, at the start and at the end.

    processes: what was measured in processes of their own; complete: of the full form nothing is
    missing; other_work: what part of the processors' time others used, None where that is not known.
    """
    records = rows(measured)
    return {
        "schema": SCHEMA,
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "form": form,
        "complete": complete,
        "wall_seconds": round(wall_seconds),
        "load_averages": [round(value, 2) for value in load],
        "other_work": None if other_work is None else round(other_work, 3),
        "machine": _bench.machine(),
        "cases": records,
        "processes": processes or [],
        "peaks": {"gflops": peaks.gflops, "missing": peaks.missing} if peaks else None,
        "geometric_means": derived.geometric_means(records),
        "shares": derived.shares(records),
        "threads": derived.threads(records),
        "sizes": derived.sizes(records),
        "parts_of_peak": derived.parts_of_peak(records, peaks),
        "figures": to_reach.judge(records, processes or []),
    }


def write(
    found: dict[str, Any], folder: Path, name: str | None = None, *, part: bool = False
) -> Path:
    """Write the JSON, under the name of the day, the level and the form unless another is given.

    A part has a name of its own, so that it takes the place of no whole run.
    """
    day = found["date"][:10]
    form = found["form"] + "-part" * part
    path = folder / f"{day}-{found['machine']['level']}-{form}.json"
    path = Path(name) if name else path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return path


def render(found: dict[str, Any]) -> str:
    """Lay out the tables: for every op and mode the contenders down, the sizes across."""
    lines = [f"{fact:<12}{text}" for fact, text in found["machine"].items()]
    loads = " -> ".join(map(str, found["load_averages"]))
    lines += [f"{'date':<12}{found['date']}", f"{'wall':<12}{found['wall_seconds']} s"]
    lines += [f"{'load':<12}{loads} (at the start: of others)", ""]
    tables: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for record in filter(derived.in_general_tables, found["cases"]):
        tables[record["op"], record["mode"]].append(record)
    if tables:
        lines.append("Median ms of calls made in turns, and (ratio to the first row).")
    for (op, mode), records in tables.items():
        lines += ["", f"{op}, {mode}", *_table(records, _time_cell)]
        if any(r["memory_mib"] is not None for r in records):
            lines += ["  peak MiB beyond the inputs", *_table(records, _memory_cell, header=False)]
    if found["geometric_means"]:
        lines += ["", "Geometric means of the ratios over all sizes"]
    lines += [
        f"  {r['op'] + ', ' + r['mode']:<60}{r['contender']:<26}{r['ratio']:>8.2f}x  ({r['sizes']})"
        for r in found["geometric_means"]
        if r["ratio"] != 1
    ]
    if found["shares"]:
        lines += ["", "Share of a training step that its loss takes, forward and backward"]
        lines += [
            f"  {s['op']:<46}{s['contender']:<26}{100 * s['share']:>7.1f} %"
            for s in found["shares"]
        ]
    lines += [*more_tables.threads(found), *more_tables.sizes(found)]
    lines += [*more_tables.parts_of_peak(found), *more_tables.processes(found)]
    failures = [r for r in found["cases"] if r["failed"]]
    lines += [
        f"FAILED {r['op']} {r['n']} {r['d']} {r['contender']}: {r['failed']}" for r in failures
    ]
    lines += more_tables.figures(found)
    return "\n".join(lines)


def _table(records: list[dict[str, Any]], cell: Any, header: bool = True) -> list[str]:
    sizes = list(dict.fromkeys((r["n"], r["d"]) for r in records))
    contenders = list(dict.fromkeys(r["contender"] for r in records))
    at = {(r["contender"], r["n"], r["d"]): cell(r) for r in records}
    lines = []
    if header:
        lines.append(f"  {'':<26}" + "".join(f"{f'{n} x {d}':>19}" for n, d in sizes))
    for contender in contenders:
        cells = [at.get((contender, n, d), "-") for n, d in sizes]
        if any(text != "-" for text in cells):
            lines.append(f"  {contender:<26}" + "".join(f"{text:>19}" for text in cells))
    if len(lines) == int(header):
        reasons = dict.fromkeys(r["skipped"] for r in records if r["skipped"])
        lines.append(f"  not measured: {'; '.join(reasons)}")
    return lines


def _time_cell(record: dict[str, Any]) -> str:
    if record["failed"]:
        return "failed"
    if record["median_ms"] is None:
        return "-"
    ratio = "" if record["ratio"] is None else f" ({record['ratio']:.2f}x)"
    return f"{record['median_ms']:,.2f}{ratio}"


def _memory_cell(record: dict[str, Any]) -> str:
    return "-" if record["memory_mib"] is None else f"{record['memory_mib']:,.1f}"
