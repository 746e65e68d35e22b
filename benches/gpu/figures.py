"""The figures to reach, and what a run's records say about each.

A figure is reached, missed, or not measured (with the reason); a mean over several cases counts only
what was measured, and says how much that is.
"""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

OURS = "b2m_fast"
Record = dict[str, Any]


class Figure(NamedTuple):
    """One line of the table."""

    case: str
    against: str
    target: float
    unit: str  # "%" and "x": at least; "s" and "GB": at most
    measured: float | None
    note: str = ""
    complete: bool = True  # False: a mean without some of its cases, which says neither yes nor no

    @property
    def reached(self) -> bool | None:
        if self.measured is None or not self.complete:
            return None
        low = self.measured <= self.target
        return low if self.unit in {"s", "GB"} else self.measured >= self.target


def evaluate(records: list[Record]) -> list[Figure]:
    """All figures, in the order in which they were set."""
    run = Run(records)
    found = [
        run.rate("info_nce forward bf16 N=32768 D=512", 65, "forward"),
        run.rate("info_nce step bf16 N=32768 D=512", 55, "4 products"),
    ]
    steps = "info_nce step bf16 N="
    found += [
        run.ratio(steps, who, target, expected=10)
        for who, target in (("eager", 5), ("torch.compile", 3), ("memeff", 2), ("inf-cl", 4))
    ]
    found.append(run.ratio("info_nce step float32 N=", "eager", 4, expected=4))
    rsa = [f"rsa_penalty atanh {kind}" for kind in ("bf16", "float32 highest", "float32 high")]
    found += [run.ratio(case, "chunked", 4) for case in rsa]
    found.append(run.bandwidth("pairwise_similarity bf16", 70))
    return [*found, *run.million()]


class Run:
    """The records of a run, by case and contender."""

    def __init__(self, records: list[Record]) -> None:
        self._failed = {r["failed"]: r["error"] for r in records if "failed" in r}
        self._of: dict[tuple[str, str], Record] = {
            (r["case"], r["contender"]): r for r in records if "case" in r
        }

    def seconds(self, case: str, who: str) -> float | None:
        median = self._of.get((case, who), {}).get("median_ms")
        return None if median is None else float(median) / 1e3

    def why_not(self, case: str, who: str) -> str:
        record = self._of.get((case, who), {})
        reason = record.get("error") or record.get("skipped")
        failures = "; ".join(f"{name}: {error}" for name, error in self._failed.items())
        return str(reason or failures or "no record")[:120]

    def _quantity(self, case: str, who: str, name: str) -> float | None:
        """Operations or bytes a second."""
        seconds = self.seconds(case, who)
        return None if seconds is None else float(self._of[case, who][name]) / seconds

    def rate(self, case: str, target: float, counting: str) -> Figure:
        """Our operations a second, in per cent of torch.mm's."""
        ours = self._quantity(case, OURS, "flops")
        ceiling = self._quantity("product", "torch.mm", "flops")
        against = f"torch.mm bf16, counting {counting}"
        if ours is None or ceiling is None:
            missing = ("product", "torch.mm") if ceiling is None else (case, OURS)
            return Figure(case, against, target, "%", None, self.why_not(*missing))
        note = f"{ours / 1e12:.0f} of {ceiling / 1e12:.0f} TFLOP/s"
        return Figure(case, against, target, "%", 100 * ours / ceiling, note)

    def ratio(self, cases: str, who: str, target: float, expected: int = 1) -> Figure:
        """How many times as long `who` takes: geometric mean over the `expected` cases of that name."""
        several = cases.endswith("N=")
        names = [
            case
            for case, contender in self._of
            if contender == who
            and (case.startswith(cases) and "N=1024 " not in case if several else case == cases)
        ]
        ratios, reasons = [], set()
        for case in names:
            ours, theirs = self.seconds(case, OURS), self.seconds(case, who)
            if ours is None or theirs is None:
                reasons.add(self.why_not(case, OURS if ours is None else who))
            else:
                ratios.append(theirs / ours)
        label = cases.removesuffix(" N=") + (", all N and D" if several else "")
        if not ratios:
            reason = "; ".join(sorted(reasons)) or self.why_not(cases, who)
            return Figure(label, who, target, "x", None, reason)
        note = f"{len(ratios)} cases, {min(ratios):.1f} to {max(ratios):.1f}" if several else ""
        if len(ratios) < expected:
            reasons.add(
                "the others were not begun" if len(names) < expected else "the others failed"
            )
            note += f"; {expected - len(ratios)} missing: {'; '.join(sorted(reasons))}"
        mean = statistics.geometric_mean(ratios)
        return Figure(label, who, target, "x", mean, note, complete=len(ratios) == expected)

    def bandwidth(self, case: str, target: float) -> Figure:
        """Our bytes written a second, in per cent of what a copy moves."""
        ours = self._quantity(case, OURS, "bytes")
        ceiling = self._quantity("copy", "copy", "bytes")
        if ours is None or ceiling is None:
            reason = self.why_not("copy", "copy") if ceiling is None else self.why_not(case, OURS)
            return Figure(case, "copy bandwidth", target, "%", None, reason)
        note = f"{ours / 1e12:.2f} of {ceiling / 1e12:.2f} TB/s"
        return Figure(case, "copy bandwidth", target, "%", 100 * ours / ceiling, note)

    def million(self) -> list[Figure]:
        """Time and memory of a million by a million pairs."""
        seconds = self.seconds("million", OURS)
        record = self._of.get(("million", OURS), {})
        reason = self.why_not("million", OURS) if seconds is None else ""
        if record.get("error"):
            seconds, reason = None, record["error"]
        total = None if seconds is None else float(record["total_mib"]) * 2**20 / 1e9
        case = "info_nce step bf16 N=1048576 D=512"
        return [
            Figure(case, "absolute", 12, "s", seconds, reason),
            Figure(case, "absolute, memory with inputs", 8, "GB", total, reason),
        ]


def table(figures: list[Figure]) -> str:
    """The figures as aligned lines of text."""
    words = {True: "reached", False: "MISSED", None: "not measured (all of it)"}
    lines = [f"{'case':<42}{'against':<34}{'target':>8}{'measured':>10}  "]
    for f in figures:
        measured = "-" if f.measured is None else f"{f.measured:.3g} {f.unit}"
        note = f" ({f.note})" if f.note else ""
        lines.append(
            f"{f.case:<42}{f.against:<34}{f'{f.target:g} {f.unit}':>8}{measured:>10}  "
            f"{words[f.reached]}{note}"
        )
    return "\n".join(lines)


def times(records: list[Record]) -> str:
    """All times, a line a case: contender ms (peak MiB)."""
    by_case: dict[str, list[str]] = {}
    for r in records:
        if "case" not in r:
            continue
        if r.get("median_ms") is None:
            text = f"{r['contender']} -: {(r.get('error') or r.get('skipped') or '?')[:60]}"
        else:
            memory = f" ({r['peak_mib']:.0f})" if r.get("peak_mib") is not None else ""
            text = f"{r['contender']} {r['median_ms']:.3g}{memory}"
        by_case.setdefault(r["case"], []).append(text)
    lines = [f"{case}: {', '.join(texts)}" for case, texts in by_case.items()]
    failures = [f"{r['failed']}: {r['error']}" for r in records if "failed" in r]
    return "\n".join(lines + failures)
