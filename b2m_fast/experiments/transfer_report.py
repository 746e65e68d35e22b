"""Tables, figure and plain words about `b2m transfer`, whichever way it came out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from b2m_fast.evaluate.convergence import FEWEST, log_rank, median_ratio, median_step
from b2m_fast.experiments.experiment import finite
from b2m_fast.experiments.statistics import t_interval
from b2m_fast.experiments.tables import (
    DIFFERENCES,
    Metric,
    Runs,
    arrivals,
    comparison,
    contrasts_of,
    counted,
    difference,
    difference_table,
    mean_table,
    or_nan,
    share_values,
    summary,
    table,
)
from b2m_fast.experiments.transfer_figure import figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from b2m_fast.evaluate.convergence import MedianRatio, TimeToCriterion

__all__ = ["contrasts", "figure", "markdown", "metrics", "sentences", "summarise"]

SPEED = (
    "Steps to criterion: {metric} {sign} {criterion:g} in {consecutive} evaluations in a row, one "
    "every {every} steps. Reached: seeds that got there within {steps} steps; the others are "
    "censored, and a median they hide is marked >. Ratio: of median steps, arm / baseline, with a "
    "95 % interval from a bootstrap paired over seeds; its ends hold whatever the censored seeds "
    "would have done; * marks an interval that excludes 1, from {fewest} seeds on: fewer are too few "
    "for it to mean anything. p: log-rank test, unpaired, not corrected for the number of arms."
)
MEANS = (
    "Means over seeds, of the trained students on data they were never trained on. area: mean "
    "height of the learning curve. {readout}"
)
PROBE = (
    "probe R2: how well what is known of a test scene (car, road; classes in its fields) is read from "
    "its latents, by ridge regression. The arm label was taught just that, so that its probe is "
    "circular and no control for the others'."
)
TERM = {"latent": ("readout R2", "readout_r2"), "contrastive": ("retrieval", "retrieval")}
READOUT = {
    "latent": "readout R2: of the arm's own latents, read from the student on held-out rows; for a "
    "recurrent student these are new trials, but of the same conditions, whose averages it was "
    "taught.",
    "contrastive": "retrieval: share of held-out samples whose own features the student finds "
    "first among all of them.",
}
EFFICIENCY = (
    "Less data: each student trained again, for as many steps, on a share of {whole}; {metric} on the "
    "test data, mean over seeds with 95 % Student intervals."
)


def _paired(runs: Runs, arm: str, base: str) -> tuple[list[TimeToCriterion], list[TimeToCriterion]]:
    seeds = sorted(set(runs.get(arm, {})) & set(runs.get(base, {})))
    return arrivals(runs, arm, seeds), arrivals(runs, base, seeds)


def _ratio(runs: Runs, arm: str, base: str) -> MedianRatio | None:
    first, second = _paired(runs, arm, base)
    if not first or any(a.step == 0 for a in second):
        return None
    return median_ratio(first, second)


def metrics(settings: dict[str, Any]) -> list[Metric]:
    """The numbers shown as means and differences.

    Parameters
    ----------
    settings : dict
        A `TransferExperiment` as JSON holds it.

    Returns
    -------
    list of Metric
        Area under the learning curve, results on test data, generalisation, readout.
    """

    def test(key: str) -> Metric:
        return Metric(key, lambda r: or_nan(r["test"].get(key)), 5 if key == "mse" else 3)

    vae = settings["student"] == "vae"
    columns = [Metric(f"area ({settings['metric']})", lambda r: or_nan(r["area"]))]
    columns += [test(key) for key in (("mse", "ssim") if vae else ("accuracy",))]
    for place, milliseconds in enumerate(settings["delays_ms"]):
        columns.append(
            Metric(f"delay {milliseconds:g} ms", lambda r, k=place: or_nan(r["delays"][k]))  # type: ignore[misc]
        )
    if vae:
        columns.append(Metric("probe R2", lambda r: or_nan(r["test"].get("probe_r2"))))
    for method in settings["method"].split("+"):
        name, key = TERM[method]
        columns.append(Metric(name, lambda r, k=key: or_nan(r["test"].get(k))))  # type: ignore[misc]
    return columns


def contrasts(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of arms worth comparing: each with none, and brain with each control.

    The arm zero is no control: it has to end where none does.

    Parameters
    ----------
    arms : sequence of str
        Arms that were run.

    Returns
    -------
    list of (str, str)
        (arm, baseline).
    """
    return contrasts_of(arms, "none", "brain", [arm for arm in arms if arm != "zero"])


def _pairs(runs: Runs, settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs of arms to compare: those the settings name, or the usual ones."""
    named: list[tuple[str, str]] | None = settings.get("contrasts")
    return contrasts(list(runs)) if named is None else named


def _median_cell(found: Sequence[TimeToCriterion]) -> str:
    value = median_step(found)
    return f"{value:.0f}" if math.isfinite(value) else f"> {max(a.step for a in found)}"


def _ratio_cell(ratio: MedianRatio | None) -> str:
    if ratio is None:
        return "-"
    text = f"{ratio.ratio:.2f}" if math.isfinite(ratio.ratio) else "?"
    if ratio.n > 1:
        text += f" [{ratio.low:.2f}, {ratio.high:.2f}]"
    return text + (" *" if ratio.excludes_one else "")


def _speed_tables(runs: Runs, settings: dict[str, Any]) -> list[str]:
    rows = []
    for arm in runs:
        found = arrivals(runs, arm)
        reached = sum(not a.censored for a in found)
        rows.append([arm, str(len(found)), str(reached), _median_cell(found)])
    lines = table(["arm", "seeds", "reached", "median steps"], rows)
    rows = []
    for arm, base in _pairs(runs, settings):
        first, second = _paired(runs, arm, base)
        p = f"{log_rank(first, second):.3g}" if len(first) > 1 else "-"
        rows.append([f"{arm} / {base}", _ratio_cell(_ratio(runs, arm, base)), p])
    return [*lines, "", *table(["steps to criterion", "ratio of medians", "p"], rows)]


def _efficiency_table(runs: Runs, settings: dict[str, Any]) -> list[str]:
    metric = settings["metric"]
    pool = settings["pool"]
    whole = "the training frames" if pool is None else f"a pool of {pool} trials (100 %)"
    shares = sorted({e["share"] for seeds in runs.values() for r in seeds.values()
                     for e in r["efficiency"]})  # fmt: skip
    if not shares:
        return []
    rows = []
    for arm, seeds in runs.items():
        found = [share_values(seeds, share, metric) for share in shares]
        rows.append([arm, *(_mean_cell(v, 5 if metric == "mse" else 3) for v in found)])
    head = ["arm", *(f"{100 * s:g} %" for s in shares)]
    return ["", EFFICIENCY.format(metric=metric, whole=whole), "", *table(head, rows)]


def _mean_cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    i = t_interval(values)
    text = f"{i.mean:.{digits}f}"
    return text + (f" [{i.low:.{digits}f}, {i.high:.{digits}f}]" if i.n > 1 else "")


def markdown(runs: Runs, settings: dict[str, Any]) -> str:
    """Tables: steps to criterion, means, paired differences, and less data if it was asked for.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    settings : dict
        A `TransferExperiment` as JSON holds it.

    Returns
    -------
    str
        Markdown.
    """
    columns = metrics(settings)
    sign = "<=" if settings["metric"] == "mse" else ">="
    lines = [SPEED.format(sign=sign, fewest=FEWEST, **settings), ""]
    lines += _speed_tables(runs, settings)
    notes = [READOUT[method] for method in settings["method"].split("+")]
    if settings["student"] == "vae":
        notes.append(PROBE)
    lines += ["", MEANS.format(readout=" ".join(notes)), ""]
    lines += mean_table(runs, columns)
    lines += ["", DIFFERENCES, "", *difference_table(runs, columns, _pairs(runs, settings))]
    lines += _efficiency_table(runs, settings)
    return "\n".join(lines) + "\n"


# --------------------------------------------------------------------------------------------------
# Words
# --------------------------------------------------------------------------------------------------
def sentences(runs: Runs, settings: dict[str, Any], teacher: dict[str, Any]) -> list[str]:
    """What the experiment shows, in words.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    settings : dict
        A `TransferExperiment` as JSON holds it.
    teacher : dict
        Report of the teacher; its ``words`` are sentences about it. May be empty.

    Returns
    -------
    list of str
        One statement each.
    """
    out = list(teacher.get("words", []))
    for arm, base in _pairs(runs, settings):
        columns = [m for m in metrics(settings) if m.name not in {t[0] for t in TERM.values()}]
        words = (
            _speed_words(_ratio(runs, arm, base), arm, base),
            comparison(runs, columns, arm, base),
        )
        if any(words):
            out.append(" ".join(filter(None, words)))
    return out + _verdict(runs, settings)


def _speed_words(ratio: MedianRatio | None, arm: str, base: str) -> str | None:
    if ratio is None or ratio.n < 2:
        return None
    interval = f"[{ratio.low:.2f}, {ratio.high:.2f}]"
    times = f"{ratio.ratio:.2f} times" if math.isfinite(ratio.ratio) else "an unknown multiple of"
    end = "" if ratio.excludes_one else ": not told apart"
    if ratio.n < FEWEST:
        end = f": {ratio.n} seeds are too few to tell"
    return f"{arm} needs {times} the steps to criterion of {base} {interval}{end}."


def _verdict(runs: Runs, settings: dict[str, Any]) -> list[str]:
    """One sentence: does the brain make students faster or better, and is it the brain.

    Faster: the interval of the ratio of median steps lies below 1. Better: the 95 % interval of the
    difference on test data lies on the good side of 0.
    """
    if "brain" not in runs or "none" not in runs or len(runs["brain"]) < 2:
        return []
    if (few := len(set(runs["brain"]) & set(runs["none"]))) < FEWEST:
        return [
            f"In short: {counted(few)} {'is' if few == 1 else 'are'} too few for a verdict; it takes {FEWEST}."
        ]

    def gains(base: str) -> set[str]:
        found = set()
        ratio = _ratio(runs, "brain", base)
        if ratio is not None and ratio.excludes_one and ratio.high < 1:
            found.add("faster to the criterion")
        for metric in metrics(settings):
            if metric.name not in {"accuracy", "mse", "ssim"}:
                continue
            interval = difference(runs, "brain", base, metric)
            sign = -1 if metric.name == "mse" else 1
            if interval is not None and interval.excludes_zero and sign * interval.mean > 0:
                found.add(f"better in {metric.name}")
        return found

    better = gains("none")
    if not better:
        null = "In short: the brain made these students neither faster to the criterion nor better "
        return [null + "on test data than no teacher."]
    controls = [arm for arm in runs if arm not in {"none", "zero", "brain"}]
    equal = [arm for arm in controls if not gains(arm) & better]
    names = " and ".join(sorted(better, reverse=True))
    if equal:
        end = f"but not than {', '.join(equal)}: that it is the brain that helps is not shown."
    elif controls:
        end = "and than every control that was run."
    else:
        end = "but no control was run, so that it is the brain that helps is not shown."
    return [f"In short: students taught by the brain are {names} than students alone, {end}"]


def summarise(runs: Runs, settings: dict[str, Any]) -> dict[str, Any]:
    """Means, paired differences and steps to criterion as JSON can hold them.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    settings : dict
        A `TransferExperiment` as JSON holds it.

    Returns
    -------
    dict
        ``means``, ``differences``, ``steps`` and ``ratios``.
    """
    pairs = _pairs(runs, settings)
    ratios: dict[str, Any] = {}
    for arm, base in pairs:
        ratio = _ratio(runs, arm, base)
        ratios[f"{arm} / {base}"] = None if ratio is None else {
            "ratio": finite(ratio.ratio), "low": finite(ratio.low), "high": finite(ratio.high),
            "n": ratio.n, "p_log_rank": log_rank(*_paired(runs, arm, base)),
        }  # fmt: skip
    steps = {
        arm: {
            "median": finite(median_step(arrivals(runs, arm))),
            "reached": sum(not a.censored for a in arrivals(runs, arm)),
            "seeds": len(runs[arm]),
        }
        for arm in runs
    }
    return summary(runs, metrics(settings), pairs) | {"steps": steps, "ratios": ratios}
