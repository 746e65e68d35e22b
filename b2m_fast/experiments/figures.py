"""Figures of all experiments, in one style, made from the measures; building blocks for an experiment's own panels.

The tested arm is in colour and thick, the baseline black, controls in quiet tones. Arms differ by dashes and markers as well as by
tone, so that a figure can be read in grey and by the colour-blind. Styles cycle: any number of arms has them, known or not.
"""

from __future__ import annotations

import io
import math
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression

from b2m_fast.evaluate.convergence import median_step
from b2m_fast.experiments.report import difference, mean
from b2m_fast.experiments.statistics import t_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from b2m_fast.experiments.contract import Experiment, Measure, Panel, Runs
    from b2m_fast.experiments.statistics import Interval

__all__ = ["Style", "curve", "end_labels", "figure", "strip", "styles"]

COLOURS = {
    "tested": ("#D55E00", "#0072B2", "#009E73", "#CC79A7"),
    "baseline": ("#000000",),
    "control": ("#5F83AD", "#74A489", "#A68CBB", "#B79B5D", "#8A8A8A", "#C0838F"),
    "other": ("#A9BCD3", "#B4CDBF", "#CBBCD8", "#D5C6A1", "#BDBDBD", "#DBB9C0"),
}
DASHES = ((5, 1.6), (1.2, 1.4), (6, 1.6, 1.2, 1.6), (9, 2.5))
MARKERS = "osD^vP<X>"
MOST_BANDS = 6  # bands of more arms than these cannot be told apart
FONT = 7.5  # points
FOOT = (
    "Lines and large markers: means over seeds; bands and bars: 95 % intervals; dots: single seeds."
)
FOOT_TIMES = " Steps: the bar is the median, an open triangle a seed that did not reach the criterion before its training ended."


class Style(NamedTuple):
    """How an arm is drawn."""

    colour: str
    line: Any
    marker: str
    width: float
    front: float  # what is more important lies on top


def styles(experiment: Experiment[Any], settings: Any, arms: Sequence[str]) -> dict[str, Style]:
    """Return the style of each arm, by its role and its place among those of that role."""
    roles, count = experiment.roles(settings), dict.fromkeys(COLOURS, 0)
    out = {}
    for arm in arms:
        role = roles.get(arm, "control")
        k = count[role]
        count[role] += 1
        shown = role in {"tested", "baseline"}
        dash = DASHES[(k - shown) % len(DASHES)]
        out[arm] = Style(
            COLOURS[role][k % len(COLOURS[role])],
            "-" if shown and k == 0 else (0, dash),
            MARKERS[(k + (not shown)) % len(MARKERS)],
            {"tested": 2.6, "baseline": 1.8, "control": 1.3}.get(role, 0.9),
            {"tested": 4, "baseline": 3.5, "control": 3}.get(role, 2.5),
        )
    return out


# --------------------------------------------------------------------------------------------------
# Building blocks
# --------------------------------------------------------------------------------------------------
def curve(
    panel: Any,
    x: Sequence[float],
    intervals: Sequence[Interval | None],
    style: Style,
    *,
    band: bool = True,
) -> tuple[float, float] | None:
    """Draw means as a line, their intervals as a band; return the line's end, None where there is nothing to draw.

    Parameters
    ----------
    panel : matplotlib.axes.Axes
        Where.
    x : sequence of float
        Places.
    intervals : sequence of Interval or None
        One a place; None leaves it out.
    style : Style
        Of the arm.
    band : bool
        Whether intervals are drawn.
    """
    there = [(a, i) for a, i in zip(x, intervals, strict=True) if i is not None]
    if not there:
        return None
    places, means = [a for a, _ in there], [i.mean for _, i in there]
    panel.plot(
        places,
        means,
        color=style.colour,
        ls=style.line,
        lw=style.width,
        marker=style.marker if len(there) <= 12 else None,
        ms=3.5,
        zorder=style.front,
    )
    if band:
        ends = [i.low for _, i in there], [i.high for _, i in there]
        panel.fill_between(
            places, *ends, color=style.colour, alpha=0.16, lw=0, zorder=style.front - 2
        )
    return places[-1], means[-1]


def means_of(values: Sequence[Sequence[float]]) -> list[Interval | None]:
    """Return the mean over runs, with its interval, for each column of (runs, places); NaN is left out."""
    columns = zip(*values, strict=True)
    finite = ([v for v in column if math.isfinite(v)] for column in columns)
    return [t_interval(column) if column else None for column in finite]


def strip(
    panel: Any,
    values: Mapping[str, Sequence[float]],
    of_styles: Mapping[str, Style],
    middles: Mapping[str, Interval | float | None],
    *,
    censored: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Draw a row an arm: a dot a seed, and the mean with its interval, or the median.

    Parameters
    ----------
    panel : matplotlib.axes.Axes
        Where.
    values : mapping
        Arm -> numbers of its seeds; the order is that of the rows.
    of_styles : mapping
        Arm -> style.
    middles : mapping
        Arm -> mean with interval, or a median; None or infinite: not drawn.
    censored : mapping, optional
        Arm -> numbers that are only known to be larger than this.
    """
    for place, (arm, numbers) in enumerate(values.items()):
        style = of_styles[arm]
        late = (censored or {}).get(arm, ())
        near = {"color": style.colour, "zorder": style.front, "clip_on": False}
        panel.plot(numbers, [place] * len(numbers), "o", ms=3.2, mew=0, alpha=0.45, **near)
        panel.plot(late, [place] * len(late), ">", ms=5, mfc="none", mew=0.8, **near)
        middle = middles.get(arm)
        if isinstance(middle, float):
            if math.isfinite(middle):
                panel.plot(middle, place, "|", ms=13, mew=2.6, **near)
        elif middle is not None:
            panel.plot([middle.low, middle.high], [place] * 2, lw=1.8, **near)
            panel.plot(middle.mean, place, style.marker, ms=6.5, mec="white", mew=0.6, **near)
    panel.set_yticks(range(len(values)), list(values), fontsize=FONT)
    panel.set_ylim(len(values) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    for label, arm in zip(panel.get_yticklabels(), values, strict=True):
        label.set_color(of_styles[arm].colour if of_styles[arm].front >= 3.5 else "0.25")
    panel.grid(axis="x", color="0.93")


def end_labels(
    panel: Any, ends: Mapping[str, tuple[float, float] | None], of_styles: Mapping[str, Style]
) -> None:
    """Write the name of each line at its end, beside the panel; `figure` moves names apart, or makes them a legend."""
    for arm, end in ends.items():
        if end is not None and math.isfinite(end[1]):
            style = of_styles[arm]
            panel.annotate(
                arm,
                end,
                (1.04, end[1]),
                textcoords=panel.get_yaxis_transform(),
                fontsize=FONT,
                va="center",
                color=style.colour if style.front >= 3 else "0.35",
                weight="bold" if style.front >= 4 else "normal",
                annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-",
                    "color": style.colour,
                    "lw": 0.6,
                    "shrinkA": 0,
                    "shrinkB": 2,
                    "relpos": (0, 0.5),
                },
            )


def _move_apart(panel: Any, dpi: float) -> None:
    """Give the names at lines' ends room: as near to their lines as can be, in the same order."""
    names = sorted(
        (text for text in panel.texts if hasattr(text, "xyann")), key=lambda t: float(t.xyann[1])
    )
    if not names:
        return
    box, down = panel.get_window_extent(), panel.transData.inverted()
    gap = 1.28 * FONT * dpi / 72
    gap = min(gap, box.height * 1.1 / len(names))
    wanted = np.array([panel.transData.transform((1, t.xyann[1]))[1] for t in names])
    steps = gap * np.arange(len(names))
    low, high = box.y0 - 0.05 * box.height, box.y1 + 0.05 * box.height
    placed = np.clip(isotonic_regression(wanted - steps).x, low, max(low, high - steps[-1])) + steps
    for text, pixel in zip(names, placed, strict=True):
        text.xyann = (text.xyann[0], down.transform((box.x0, pixel))[1])


# --------------------------------------------------------------------------------------------------
# Panels that follow from the measures
# --------------------------------------------------------------------------------------------------
def _curves(panel: Any, runs: Runs, measure: Measure, of_styles: Mapping[str, Style]) -> None:
    """Draw a curve measure: mean over seeds at the places that all runs of an arm have."""
    ends = {}
    for arm, seeds in runs.items():
        found = [dict(zip(*measure.of(run), strict=True)) for run in seeds.values()]
        x = [place for place in found[0] if all(place in curve_ for curve_ in found)]
        means = means_of([[curve_[place] for place in x] for curve_ in found])
        band = len(runs) <= MOST_BANDS or of_styles[arm].front >= 3.5
        ends[arm] = curve(panel, x, means, of_styles[arm], band=band)
    _axes(panel, measure)
    end_labels(panel, ends, of_styles)


def _axes(panel: Any, measure: Measure) -> None:
    if measure.limit is not None:
        panel.axhline(measure.limit, color="0.45", lw=0.8, ls=":", zorder=1)
    for axis in measure.log:
        getattr(panel, f"set_{axis}scale")("log")
    panel.set(xlabel=measure.axes[0], ylabel=measure.axes[1] or measure.label)


def _reached(panel: Any, runs: Runs, measure: Measure, of_styles: Mapping[str, Style]) -> None:
    """Draw the share of seeds that met the criterion, over time."""
    last = max(measure.of(r).step for seeds in runs.values() for r in seeds.values())
    ends = {}
    for arm, seeds in runs.items():
        style, times = of_styles[arm], [measure.of(run) for run in seeds.values()]
        steps = sorted(t.step for t in times if not t.censored)
        shares = [k / len(times) for k in range(len(steps) + 1)]
        panel.step(
            [0, *steps, last],
            [*shares, shares[-1]],
            where="post",
            color=style.colour,
            ls=style.line,
            lw=style.width,
            zorder=style.front,
        )
        ends[arm] = (last, shares[-1])
    panel.set(ylim=(-0.02, 1.03), xlabel=measure.label, ylabel="share of seeds at the criterion")
    end_labels(panel, ends, of_styles)


def _times(panel: Any, runs: Runs, measure: Measure, of_styles: Mapping[str, Style]) -> None:
    """Draw the time of each seed, those that did not reach the criterion as open triangles."""
    found = {arm: [measure.of(run) for run in seeds.values()] for arm, seeds in runs.items()}
    strip(
        panel,
        {arm: [t.step for t in times if not t.censored] for arm, times in found.items()},
        of_styles,
        {arm: float(median_step(times)) for arm, times in found.items()},
        censored={arm: [t.step for t in times if t.censored] for arm, times in found.items()},
    )
    panel.set(xlabel=measure.label, xlim=(0, None))


def _values(panel: Any, runs: Runs, measure: Measure, of_styles: Mapping[str, Style]) -> None:
    """Draw the value of each seed, and the mean with its interval."""
    values = {
        arm: [v for v in map(measure.of, seeds.values()) if math.isfinite(v)]
        for arm, seeds in runs.items()
    }
    strip(panel, values, of_styles, {arm: mean(runs, arm, measure) for arm in runs})
    panel.set_xlabel(measure.axes[1] or measure.label)


def _levels(
    panel: Any, runs: Runs, measures: Sequence[Measure], of_styles: Mapping[str, Style]
) -> None:
    """Draw values that have places on one axis as curves."""
    x = [float(m.at or 0) for m in measures]
    ends = {}
    for arm in runs:
        band = len(runs) <= MOST_BANDS or of_styles[arm].front >= 3.5
        means = [mean(runs, arm, m) for m in measures]
        ends[arm] = curve(panel, x, means, of_styles[arm], band=band)
    _axes(panel, measures[0])
    end_labels(panel, ends, of_styles)


def _level_differences(
    panel: Any,
    runs: Runs,
    measures: Sequence[Measure],
    of_styles: Mapping[str, Style],
    tested: str,
    bases: Sequence[str],
) -> None:
    """Draw the difference of the tested arm to each other, with its interval, over the places of values."""
    from matplotlib.transforms import ScaledTranslation

    ends: dict[str, tuple[float, float] | None] = {}
    for place, arm in enumerate(bases):
        style = of_styles[arm]
        found = [(m.at, difference(runs, tested, arm, m)) for m in measures]
        there = [(x, i) for x, i in found if i is not None]
        if not there:
            continue
        inches = (place - (len(bases) - 1) / 2) * 0.035  # beside one another, not on top
        aside = panel.transData + ScaledTranslation(inches, 0, panel.figure.dpi_scale_trans)
        means = [i.mean for _, i in there]
        half = np.nan_to_num([i.high - i.mean for _, i in there])
        panel.errorbar(
            [x for x, _ in there],
            means,
            half,
            color=style.colour,
            ls=style.line,
            marker=style.marker,
            ms=3.5,
            lw=style.width,
            elinewidth=1,
            transform=aside,
            zorder=style.front,
        )
        for edge in (
            means + half,
            means - half,
        ):  # what is moved aside does not count for the axes' limits
            panel.plot([x for x, _ in there], edge, alpha=0)
        ends[arm] = (float(there[-1][0] or 0), means[-1])
    panel.axhline(0, color="0.45", lw=0.8, zorder=1)
    _axes(panel, measures[0])
    panel.set_ylabel(f"{tested} minus each")
    panel.margins(x=0.08)
    end_labels(panel, ends, of_styles)


def _own(panel: Any, own: Panel, of_styles: Mapping[str, Style]) -> None:
    own.draw(panel, of_styles)


def figure(experiment: Experiment[Any], settings: Any, runs: Runs, title: str) -> bytes:
    """Return the figure of an experiment as PNG.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ImportError(
            "the figure needs matplotlib: pip install 'b2m-fast[experiments]'"
        ) from error
    of_styles = styles(experiment, settings, list(runs))
    measures = [m for m in experiment.measures(settings, runs) if m.drawn]
    levels = [m for m in measures if m.kind == "value" and m.at is not None]
    pairs, roles = experiment.contrasts(settings, list(runs)), experiment.roles(settings)
    tested = [arm for arm in runs if roles.get(arm) == "tested"]
    draws: list[Callable[[Any], object]] = []
    for m in measures:
        if m.kind == "time":
            draws.append(partial(_reached, runs=runs, measure=m, of_styles=of_styles))
        one = {"curve": _curves, "time": _times, "value": _values}[m.kind]
        if m not in levels:
            draws.append(partial(one, runs=runs, measure=m, of_styles=of_styles))
    if levels:
        draws.append(partial(_levels, runs=runs, measures=levels, of_styles=of_styles))
        for arm in (a for a in tested if any(a == first for first, _ in pairs)):
            bases = [b for a, b in pairs if a == arm]
            draws.append(
                partial(
                    _level_differences,
                    runs=runs,
                    measures=levels,
                    of_styles=of_styles,
                    tested=arm,
                    bases=bases,
                )
            )
    draws += [
        partial(_own, own=own, of_styles=of_styles) for own in experiment.panels(settings, runs)
    ]
    columns = min(3, len(draws)) if len(draws) != 4 else 2
    rows = -(-len(draws) // max(columns, 1))
    style: Any = {
        "font.size": 8.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "0.3",
        "axes.linewidth": 0.7,
        "axes.axisbelow": True,
    }
    with rc_context(style):
        size = (5.2 * max(columns, 1), 0.8 + 3.7 * max(rows, 1))
        made = FigureCanvasAgg(
            Figure(figsize=size, dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
        ).figure
        made.suptitle(title, fontsize=11, x=0.01, ha="left", weight="bold")
        timed = any(m.kind == "time" for m in measures)
        made.supxlabel(FOOT + FOOT_TIMES * timed, fontsize=FONT, color="0.35", x=0.01, ha="left")
        panels = [made.add_subplot(rows, columns, k + 1) for k in range(len(draws))]
        for panel, draw in zip(panels, draws, strict=True):
            draw(panel)
        made.draw_without_rendering()
        for panel in panels:
            _move_apart(panel, made.dpi)
        out = io.BytesIO()
        made.savefig(out, format="png")
    return out.getvalue()
