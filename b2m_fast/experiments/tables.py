"""Numbers of runs as means, paired differences, tables and words: what every report needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from b2m_fast.evaluate.convergence import TimeToCriterion
from b2m_fast.experiments.former import finite
from b2m_fast.experiments.statistics import Interval, paired_difference, t_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "DIFFERENCES",
    "Metric",
    "Runs",
    "arrivals",
    "comparison",
    "contrasts_of",
    "counted",
    "difference",
    "difference_table",
    "mean",
    "mean_table",
    "missing_words",
    "or_nan",
    "share_values",
    "signed",
    "summary",
    "table",
]

Runs = dict[str, dict[int, dict[str, Any]]]

DIFFERENCES = (
    "Differences between arms run with the same seeds, with 95 % Student intervals; * marks an "
    "interval that excludes 0 (not corrected for the number of cells)."
)


@dataclass(frozen=True)
class Metric:
    """A number of a run.

    Attributes
    ----------
    name : str
        Column head.
    of : callable
        Run -> number; NaN if the run has none.
    digits : int
        Digits after the point.
    correlation : float
        Of its values in different runs, for intervals: see `t_interval`.
    """

    name: str
    of: Callable[[dict[str, Any]], float]
    digits: int = 3
    correlation: float = 0.0


def or_nan(value: float | None) -> float:
    """A number read from JSON.

    Parameters
    ----------
    value : float or None
        The number, or None.

    Returns
    -------
    float
        NaN for None.
    """
    return math.nan if value is None else float(value)


def arrivals(runs: Runs, arm: str, seeds: Sequence[int] | None = None) -> list[TimeToCriterion]:
    """When the runs of an arm met the criterion.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result with ``arrival``.
    arm : str
        Arm.
    seeds : sequence of int, optional
        Which, in this order; default: all.

    Returns
    -------
    list of TimeToCriterion
        One per seed.
    """
    chosen = runs[arm] if seeds is None else {s: runs[arm][s] for s in seeds}
    return [
        TimeToCriterion(r["arrival"]["step"], r["arrival"]["censored"]) for r in chosen.values()
    ]


def share_values(seeds: dict[int, dict[str, Any]], share: float, metric: str) -> list[float]:
    """Results of students trained on a share of the data.

    Parameters
    ----------
    seeds : dict
        Seed -> result with ``efficiency``.
    share : float
        The share.
    metric : str
        Key of the number.

    Returns
    -------
    list of float
        Those that are numbers.
    """
    found = [
        or_nan(e["test"][metric])
        for r in seeds.values()
        for e in r["efficiency"]
        if e["share"] == share
    ]
    return [v for v in found if math.isfinite(v)]


def mean(runs: Runs, arm: str, metric: Metric) -> Interval | None:
    """Mean of a metric over the seeds of an arm.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    arm : str
        Arm.
    metric : Metric
        The number.

    Returns
    -------
    Interval or None
        None if no run has the number.
    """
    values = [v for v in (metric.of(r) for r in runs[arm].values()) if math.isfinite(v)]
    return t_interval(values, correlation=metric.correlation) if values else None


def difference(
    runs: Runs, arm: str, base: str, metric: Metric, level: float = 0.95
) -> Interval | None:
    """Mean difference of two arms over the seeds that both have.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    arm, base : str
        Arms.
    metric : Metric
        The number.
    level : float, default 0.95
        Coverage.

    Returns
    -------
    Interval or None
        None if no seed has the number in both.
    """
    seeds = sorted(set(runs.get(arm, {})) & set(runs.get(base, {})))
    pairs = [(metric.of(runs[arm][s]), metric.of(runs[base][s])) for s in seeds]
    pairs = [p for p in pairs if all(math.isfinite(v) for v in p)]
    if not pairs:
        return None
    first, second = zip(*pairs, strict=True)
    return paired_difference(first, second, level, correlation=metric.correlation)


def signed(interval: Interval | None, digits: int) -> str:
    """A difference as a cell of a table.

    Parameters
    ----------
    interval : Interval or None
        The difference.
    digits : int
        Digits after the point.

    Returns
    -------
    str
        Mean with its ends, and a star if they exclude 0.
    """
    if interval is None:
        return "-"
    text = f"{interval.mean:+.{digits}f}"
    if interval.n > 1:
        text += f" [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"
    return text + (" *" if interval.excludes_zero else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown.

    Parameters
    ----------
    head : sequence of str
        Column heads.
    rows : sequence of sequence of str
        Cells.

    Returns
    -------
    list of str
        Lines.
    """
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
             for row in (head, *rows)]  # fmt: skip
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return lines


def mean_table(runs: Runs, columns: Sequence[Metric]) -> list[str]:
    """Means over seeds, a row per arm.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    columns : sequence of Metric
        The numbers.

    Returns
    -------
    list of str
        Lines of Markdown.
    """
    rows = []
    for arm in runs:
        means = [mean(runs, arm, m) for m in columns]
        cells = [
            "-" if i is None else f"{i.mean:.{m.digits}f}"
            for i, m in zip(means, columns, strict=True)
        ]
        rows.append([arm, str(len(runs[arm])), *cells])
    return table(["arm", "seeds", *(m.name for m in columns)], rows)


def contrasts_of(
    arms: Sequence[str], base: str, main: str, controls: Sequence[str]
) -> list[tuple[str, str]]:
    """Pairs of arms worth comparing: each with a baseline, and one with each of its controls.

    Parameters
    ----------
    arms : sequence of str
        Arms that were run.
    base : str
        The baseline.
    main : str
        The arm that the controls are of.
    controls : sequence of str
        Its controls, in order; those that were not run, the baseline and the arm itself are left out.

    Returns
    -------
    list of (str, str)
        (arm, baseline).
    """
    pairs = [(arm, base) for arm in arms if arm != base and base in arms]
    if main in arms:
        pairs += [(main, arm) for arm in controls if arm in arms and arm not in {base, main}]
    return pairs


def difference_table(
    runs: Runs, columns: Sequence[Metric], pairs: Sequence[tuple[str, str]]
) -> list[str]:
    """Paired differences, a row per pair of arms.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    columns : sequence of Metric
        The numbers.
    pairs : sequence of (str, str)
        (arm, baseline).

    Returns
    -------
    list of str
        Lines of Markdown.
    """
    rows = [
        [f"{arm} - {base}", *(signed(difference(runs, arm, base, m), m.digits) for m in columns)]
        for arm, base in pairs
    ]
    return table(["difference", *(m.name for m in columns)], rows)


def comparison(runs: Runs, columns: Sequence[Metric], arm: str, base: str) -> str | None:
    """What the paired differences of two arms say, in words.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    columns : sequence of Metric
        The numbers.
    arm, base : str
        Arms.

    Returns
    -------
    str or None
        A sentence; None if there is nothing to compare.
    """
    groups: dict[str, list[str]] = {"higher": [], "lower": [], "not told apart": []}
    seeds = 0
    for metric in columns:
        interval = difference(runs, arm, base, metric)
        if interval is None:
            continue
        seeds = max(seeds, interval.n)
        sign = "higher" if interval.mean > 0 else "lower"
        groups[sign if interval.excludes_zero else "not told apart"].append(metric.name)
    parts = [f"{word} in {', '.join(names)}" for word, names in groups.items() if names]
    if seeds == 1:
        parts = ["one seed only, so nothing can be said about chance"]
    return f"{arm} against {base}: {'; '.join(parts)} ({counted(seeds)})." if parts else None


def counted(seeds: int) -> str:
    """A number of seeds, in words.

    Parameters
    ----------
    seeds : int
        How many.

    Returns
    -------
    str
        "1 seed", "2 seeds".
    """
    return f"{seeds} seed{'s' * (seeds != 1)}"


def missing_words(missing: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences about runs that were asked for and have no result.

    Parameters
    ----------
    missing : sequence of dict
        Each with ``arm``, ``seed`` and ``failed``: why it failed, None if it was not run to its end.

    Returns
    -------
    list of str
        One for each arm and reason; the arms' other seeds are all that tables and words are about.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for run in missing:
        reason = run["failed"] or "stopped before its end"
        groups.setdefault((run["arm"], reason), []).append(str(run["seed"]))
    return [
        f"MISSING: {arm}, seed {', '.join(seeds)}: {reason.rstrip('.')}. Nothing here is about "
        "these runs."
        for (arm, reason), seeds in groups.items()
    ]


def _as_json(interval: Interval | None) -> dict[str, float | int | None] | None:
    if interval is None:
        return None
    low, high = finite(interval.low), finite(interval.high)
    return {"mean": interval.mean, "low": low, "high": high, "n": interval.n}


def summary(
    runs: Runs, columns: Sequence[Metric], pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Means and paired differences as JSON can hold them.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    columns : sequence of Metric
        The numbers.
    pairs : sequence of (str, str)
        (arm, baseline).

    Returns
    -------
    dict
        ``means`` and ``differences``.
    """
    return {
        "means": {a: {m.name: _as_json(mean(runs, a, m)) for m in columns} for a in runs},
        "differences": {
            f"{a} - {b}": {m.name: _as_json(difference(runs, a, b, m)) for m in columns}
            for a, b in pairs
        },
    }
