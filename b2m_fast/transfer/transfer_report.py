"""Tables, figure and plain words about `b2m transfer`, whichever way it came out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.evaluate.convergence import Arrival, log_rank, median_ratio, median_step
from b2m_fast.transfer.experiment import finite
from b2m_fast.transfer.tables import (
    DIFFERENCES,
    Metric,
    Runs,
    canvas,
    comparison,
    difference,
    difference_table,
    mean_table,
    or_nan,
    png,
    summary,
    table,
)
from b2m_fast.transfer.transfer_arms import ARMS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from b2m_fast.evaluate.convergence import MedianRatio

__all__ = ["contrasts", "figure", "markdown", "metrics", "sentences", "summarise"]

SPEED = (
    "Steps to criterion: {metric} {sign} {criterion:g} in {consecutive} evaluations in a row, one "
    "every {every} steps. Reached: seeds that got there within {steps} steps; the others are "
    "censored, and a median they hide is marked >. Ratio: of median steps, arm / baseline, with a "
    "95 % interval from a bootstrap paired over seeds; its ends hold whatever the censored seeds "
    "would have done; * marks an interval that excludes 1. p: log-rank test, unpaired, not "
    "corrected for the number of arms."
)
MEANS = (
    "Means over seeds, of the trained students on data they were never trained on. area: mean "
    "height of the learning curve. {readout}"
)
READOUT = {
    "latent": "readout R2: of the arm's own latents from hidden states of held-out trials.",
    "contrastive": "retrieval: share of held-out samples whose own features the student finds "
    "first among all of them.",
}
EFFICIENCY = (
    "Less data: each student trained again on a share of the training data; {metric} on the test "
    "data, mean over seeds."
)


def _arrivals(runs: Runs, arm: str, seeds: Sequence[int] | None = None) -> list[Arrival]:
    chosen = runs[arm] if seeds is None else {s: runs[arm][s] for s in seeds}
    return [Arrival(r["arrival"]["step"], r["arrival"]["censored"]) for r in chosen.values()]


def _paired(runs: Runs, arm: str, base: str) -> tuple[list[Arrival], list[Arrival]]:
    seeds = sorted(set(runs.get(arm, {})) & set(runs.get(base, {})))
    return _arrivals(runs, arm, seeds), _arrivals(runs, base, seeds)


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
    for place, milliseconds in enumerate(() if vae else settings["delays_ms"]):
        columns.append(
            Metric(f"delay {milliseconds:g} ms", lambda r, k=place: or_nan(r["delays"][k]))  # type: ignore[misc]
        )
    name, key = (
        ("readout R2", "readout_r2")
        if settings["method"] == "latent"
        else ("retrieval", "retrieval")
    )
    return [*columns, Metric(name, lambda r: or_nan(r["test"].get(key)))]


def contrasts(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of arms worth comparing: each with none, and brain with each control.

    Parameters
    ----------
    arms : sequence of str
        Arms that were run.

    Returns
    -------
    list of (str, str)
        (arm, baseline).
    """
    pairs = [(arm, "none") for arm in arms if arm != "none" and "none" in arms]
    if "brain" in arms:
        pairs += [("brain", arm) for arm in arms if arm not in {"none", "brain"}]
    return pairs


def _median_cell(arrivals: Sequence[Arrival]) -> str:
    value = median_step(arrivals)
    return f"{value:.0f}" if math.isfinite(value) else f"> {max(a.step for a in arrivals)}"


def _ratio_cell(ratio: MedianRatio | None) -> str:
    if ratio is None:
        return "-"
    text = f"{ratio.ratio:.2f}" if math.isfinite(ratio.ratio) else "?"
    if ratio.n > 1:
        text += f" [{ratio.low:.2f}, {ratio.high:.2f}]"
    return text + (" *" if ratio.excludes_one else "")


def _speed_tables(runs: Runs) -> list[str]:
    rows = []
    for arm in runs:
        arrivals = _arrivals(runs, arm)
        reached = sum(not a.censored for a in arrivals)
        rows.append([arm, str(len(arrivals)), str(reached), _median_cell(arrivals)])
    lines = table(["arm", "seeds", "reached", "median steps"], rows)
    rows = []
    for arm, base in contrasts(list(runs)):
        first, second = _paired(runs, arm, base)
        p = f"{log_rank(first, second):.3g}" if len(first) > 1 else "-"
        rows.append([f"{arm} / {base}", _ratio_cell(_ratio(runs, arm, base)), p])
    return [*lines, "", *table(["steps to criterion", "ratio of medians", "p"], rows)]


def _efficiency_table(runs: Runs, metric: str) -> list[str]:
    shares = sorted({e["share"] for seeds in runs.values() for r in seeds.values()
                     for e in r["efficiency"]})  # fmt: skip
    if not shares:
        return []
    rows = []
    for arm, seeds in runs.items():
        found = [_share_values(seeds, share, metric) for share in shares]
        rows.append([arm, *(f"{np.mean(v):.3f}" if v else "-" for v in found)])
    head = ["arm", *(f"{100 * s:g} %" for s in shares)]
    return ["", EFFICIENCY.format(metric=metric), "", *table(head, rows)]


def _share_values(seeds: dict[int, dict[str, Any]], share: float, metric: str) -> list[float]:
    found = [
        or_nan(e["test"][metric])
        for r in seeds.values()
        for e in r["efficiency"]
        if e["share"] == share
    ]
    return [v for v in found if math.isfinite(v)]


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
    lines = [SPEED.format(sign=sign, **settings), "", *_speed_tables(runs)]
    lines += ["", MEANS.format(readout=READOUT[settings["method"]]), ""]
    lines += mean_table(runs, columns)
    lines += ["", DIFFERENCES, "", *difference_table(runs, columns, contrasts(list(runs)))]
    lines += _efficiency_table(runs, settings["metric"])
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
    for arm, base in contrasts(list(runs)):
        speed = _speed_words(_ratio(runs, arm, base), arm, base)
        if speed:
            out.append(speed)
        columns = [m for m in metrics(settings) if m.name not in {"readout R2", "retrieval"}]
        words = comparison(runs, columns, arm, base)
        if words:
            out.append(words)
    return out + _verdict(runs, settings)


def _speed_words(ratio: MedianRatio | None, arm: str, base: str) -> str | None:
    if ratio is None or ratio.n < 2:
        return None
    interval = f"[{ratio.low:.2f}, {ratio.high:.2f}]"
    times = f"{ratio.ratio:.2f} times" if math.isfinite(ratio.ratio) else "an unknown multiple of"
    end = "" if ratio.excludes_one else ": not told apart"
    return f"{arm} needs {times} the steps to criterion of {base} {interval}{end}."


def _verdict(runs: Runs, settings: dict[str, Any]) -> list[str]:
    """One sentence: does the brain make students faster or better, and is it the brain.

    Faster: the interval of the ratio of median steps lies below 1. Better: the 95 % interval of the
    difference on test data lies on the good side of 0.
    """
    if "brain" not in runs or "none" not in runs or len(runs["brain"]) < 2:
        return []

    def gains(base: str) -> set[str]:
        found = set()
        ratio = _ratio(runs, "brain", base)
        if ratio is not None and ratio.high < 1:
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
    controls = [arm for arm in runs if arm not in {"none", "brain"}]
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
    pairs = contrasts(list(runs))
    ratios: dict[str, Any] = {}
    for arm, base in pairs:
        ratio = _ratio(runs, arm, base)
        ratios[f"{arm} / {base}"] = None if ratio is None else {
            "ratio": finite(ratio.ratio), "low": finite(ratio.low), "high": finite(ratio.high),
            "n": ratio.n, "p_log_rank": log_rank(*_paired(runs, arm, base)),
        }  # fmt: skip
    steps = {
        arm: {
            "median": finite(median_step(_arrivals(runs, arm))),
            "reached": sum(not a.censored for a in _arrivals(runs, arm)),
            "seeds": len(runs[arm]),
        }
        for arm in runs
    }
    return summary(runs, metrics(settings), pairs) | {"steps": steps, "ratios": ratios}


# --------------------------------------------------------------------------------------------------
# Figure
# --------------------------------------------------------------------------------------------------
def _colours(arms: Sequence[str]) -> dict[str, str]:
    """The same colour for an arm in every figure; arms of several folders by their place."""
    if set(arms) <= set(ARMS):
        return {arm: f"C{k}" for k, arm in enumerate(ARMS)}
    return {arm: f"C{k % 10}" for k, arm in enumerate(arms)}


def _curves(panel: Any, runs: Runs, settings: dict[str, Any], colours: dict[str, str]) -> None:
    """Learning curves: mean and range over seeds."""
    metric, curve = settings["metric"], settings["curve"]
    for arm, seeds in runs.items():
        histories = [[e for e in r["history"] if e.get(curve) is not None] for r in seeds.values()]
        length = min(len(h) for h in histories)
        x = [e["step"] for e in histories[0][:length]]
        y = np.array([[e[curve] for e in h[:length]] for h in histories])
        panel.plot(x, y.mean(axis=0), "-", color=colours[arm], label=arm, lw=1.4)
        if len(y) > 1:
            low, high = y.min(axis=0), y.max(axis=0)
            panel.fill_between(x, low, high, color=colours[arm], alpha=0.08, lw=0)
    panel.axhline(settings["criterion"], color="0.6", lw=0.8, ls=":")
    if metric == "mse":
        panel.set_yscale("log")
    panel.set(xlabel="training step", ylabel=f"{metric}, validation (band: range over seeds)")
    panel.legend(fontsize=7)


def _arrived(panel: Any, runs: Runs, settings: dict[str, Any], colours: dict[str, str]) -> None:
    """Share of the seeds that reached the criterion."""
    for arm in runs:
        arrivals = _arrivals(runs, arm)
        steps = sorted(a.step for a in arrivals if not a.censored)
        x = [0, *steps, settings["steps"]]
        y = [k / len(arrivals) for k in range(len(steps) + 1)]
        panel.step(x, [*y, y[-1]], where="post", color=colours[arm], lw=1.4)
    panel.set(xlabel="training step", ylabel="share of seeds at criterion", ylim=(0, 1.02))


def _strip(
    panel: Any, values: dict[str, list[float]], hidden: dict[str, list[float]],
    colours: dict[str, str], label: str,
) -> None:  # fmt: skip
    """One dot a seed, censored ones as open triangles, and a bar at the median."""
    for place, (arm, numbers) in enumerate(values.items()):
        panel.plot([place] * len(numbers), numbers, "o", color=colours[arm], alpha=0.5, ms=4)
        late = hidden.get(arm, [])
        panel.plot([place] * len(late), late, "^", color=colours[arm], mfc="none", ms=5)
        if numbers or late:
            middle = np.median([*numbers, *(np.inf for _ in late)])
            if np.isfinite(middle):
                panel.plot(place, middle, "_", color=colours[arm], markersize=18, mew=2.5)
    panel.set_xticks(range(len(values)), list(values), rotation=60, ha="right", fontsize=8)
    panel.set_ylabel(label)


def _steps_strip(panel: Any, runs: Runs, colours: dict[str, str]) -> None:
    arrivals = {arm: _arrivals(runs, arm) for arm in runs}
    reached = {k: [float(a.step) for a in v if not a.censored] for k, v in arrivals.items()}
    late = {k: [float(a.step) for a in v if a.censored] for k, v in arrivals.items()}
    _strip(panel, reached, late, colours, "steps to criterion (triangle: not reached)")
    panel.set_ylim(0, None)


def _last_panel(panel: Any, runs: Runs, settings: dict[str, Any], colours: dict[str, str]) -> None:
    """Longer delays of a recurrent student, or the test error of an autoencoder."""
    if settings["student"] == "vae":
        values = {arm: [or_nan(r["test"]["ssim"]) for r in s.values()] for arm, s in runs.items()}
        _strip(panel, values, {}, colours, "SSIM, test images")
        return
    x = [settings["delay_ms"], *settings["delays_ms"]]
    for arm, seeds in runs.items():
        y = [[or_nan(v) for v in (r["test"]["accuracy"], *r["delays"])] for r in seeds.values()]
        panel.plot(x, np.mean(y, axis=0), "o-", color=colours[arm], ms=3, lw=1.4)
    panel.set(xlabel="delay, ms (first: as trained)", ylabel="accuracy, test trials")


def _less_data(panel: Any, runs: Runs, metric: str, colours: dict[str, str]) -> None:
    for arm, seeds in runs.items():
        shares = sorted({e["share"] for r in seeds.values() for e in r["efficiency"]})
        y = [np.mean(_share_values(seeds, share, metric) or [np.nan]) for share in shares]
        panel.plot([100 * s for s in shares], y, "o-", color=colours[arm], ms=3, lw=1.4)
    panel.set(xlabel="share of the training data, %", ylabel=f"{metric}, test data")


def figure(runs: Runs, settings: dict[str, Any], title: str) -> bytes:
    """A figure: learning curves, arrivals, steps to criterion, generalisation, less data.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    settings : dict
        A `TransferExperiment` as JSON holds it.
    title : str
        Title.

    Returns
    -------
    bytes
        PNG.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    less = any(r["efficiency"] for seeds in runs.values() for r in seeds.values())
    drawing = canvas(18 if less else 15, 4.4)
    panels = drawing.subplots(1, 5 if less else 4)
    colours = _colours(list(runs))
    _curves(panels[0], runs, settings, colours)
    _arrived(panels[1], runs, settings, colours)
    _steps_strip(panels[2], runs, colours)
    _last_panel(panels[3], runs, settings, colours)
    if less:
        _less_data(panels[4], runs, settings["metric"], colours)
    drawing.suptitle(title, fontsize=10)
    return png(drawing)
