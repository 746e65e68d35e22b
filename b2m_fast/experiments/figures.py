"""Figures of all experiments, in one style, made from the measures; building blocks for an experiment's own panels.

The tested arm is in colour and thick, the baseline black, controls in quiet tones. Arms differ by dashes and markers as well as by
tone, so that a figure can be read in grey and by the colour-blind. Styles cycle: any number of arms has them, known or not.
"""

from __future__ import annotations

import io
import math
import textwrap
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from matplotlib.ticker import LogLocator
from matplotlib.transforms import ScaledTranslation
from scipy.optimize import isotonic_regression

from b2m_fast.evaluate.convergence import median_step
from b2m_fast.experiments.report import difference, mean
from b2m_fast.experiments.statistics import t_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from b2m_fast.experiments.contract import Measure, Runs
    from b2m_fast.experiments.report import Results
    from b2m_fast.experiments.statistics import Interval

COLOURS = {
    "tested": ("#D55E00", "#0072B2", "#009E73", "#CC79A7"),
    "baseline": ("#000000",),
    "control": ("#4F7CAC", "#5E9C78", "#9A7FB5", "#B08D3E", "#7F7F7F", "#BC6F80"),
    "other": ("#93AECB", "#9CC2AC", "#BDACCE", "#CDB884", "#ABABAB", "#D3A3AE"),
}
WIDTHS = {"tested": 2.6, "baseline": 1.8, "control": 1.3, "other": 0.9}
DASHES = ((5, 1.6), (1.2, 1.4), (6, 1.6, 1.2, 1.6), (9, 2.5), (5, 1.2, 1.2, 1.2, 1.2, 1.2))
MARKERS = "osD^vP<X>"
MOST_BANDS = 6  # bands of more arms than these cannot be told apart
FONT = 7.5  # points
LOOK: Any = {
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.3",
    "axes.linewidth": 0.7,
}
FOOT = "Lines and large markers: means over seeds; bands and bars: 95 % intervals; dots: single seeds. "
FOOT_TIMES = (
    "Steps: the bar is the median, an open triangle a seed that did not reach the criterion."
)


class Style(NamedTuple):
    """How an arm is drawn; what has the wider line is more important, and lies on top."""

    role: str
    colour: str
    line: Any
    marker: str

    @property
    def drawn(self) -> dict[str, Any]:
        """Arguments of matplotlib's ``plot``."""
        width = WIDTHS[self.role]
        return {"color": self.colour, "ls": self.line, "lw": width, "zorder": 2 + width}

    @property
    def named(self) -> dict[str, Any]:
        """Arguments of matplotlib's ``text``."""
        weight = "bold" if self.role == "tested" else "normal"
        return {"color": "0.4" if self.role == "other" else self.colour, "weight": weight}


def styles(roles: Mapping[str, str]) -> dict[str, Style]:
    """Return the style of each arm, by its role and its place among those of that role."""
    out: dict[str, Style] = {}
    for arm, role in roles.items():
        k = sum(style.role == role for style in out.values())
        single = role in {"tested", "baseline"}  # the first of them is a whole line
        line = "-" if single and k == 0 else (0, DASHES[(k - single) % len(DASHES)])
        colours = COLOURS[role]
        marker = MARKERS[(k + (not single)) % len(MARKERS)]
        out[arm] = Style(role, colours[k % len(colours)], line, marker)
    return out


# --------------------------------------------------------------------------------------------------
# Building blocks
# --------------------------------------------------------------------------------------------------
def curves(
    panel: Any,
    runs: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]],
    arms: Mapping[str, Style],
) -> None:
    """Draw a line an arm: means over its runs with their 95 % intervals, and the name of the arm at its end.

    Parameters
    ----------
    panel : matplotlib.axes.Axes
        Where.
    runs : mapping
        Arm -> (x, y) of each run; a mean is drawn where all runs of the arm have an x, over those y that are numbers.
    arms : mapping
        Arm -> style.
    """
    found = {}
    for arm, single in runs.items():
        tables = [dict(zip(x, y, strict=True)) for x, y in single]
        places = [x for x in tables[0] if all(x in table for table in tables)]
        if all(float(x).is_integer() for x in places):
            panel.xaxis.get_major_locator().set_params(integer=True)
        columns = ([t[x] for t in tables if math.isfinite(t[x])] for x in places)
        found[arm] = places, [t_interval(column) if column else None for column in columns]
    _lines(panel, found, arms)


def _lines(
    panel: Any,
    found: Mapping[str, tuple[Sequence[float], Sequence[Interval | None]]],
    arms: Mapping[str, Style],
    *,
    bars: bool = False,
) -> None:
    """Draw a line of means an arm, intervals as bars beside one another, or as bands (of many arms only those of two)."""
    for k, (arm, (places, means)) in enumerate(found.items()):
        style = arms[arm]
        there = [(x, i) for x, i in zip(places, means, strict=True) if i is not None]
        if not there:
            continue
        x, y = [x for x, _ in there], [i.mean for _, i in there]
        ends = [i.low for _, i in there], [i.high for _, i in there]
        look = style.drawn | {"marker": style.marker if len(x) <= 12 else None, "ms": 3.5}
        if bars:
            inches = (k - (len(found) - 1) / 2) * 0.035
            aside = panel.transData + ScaledTranslation(inches, 0, panel.figure.dpi_scale_trans)
            panel.vlines(x, *ends, color=style.colour, lw=1, transform=aside)
            panel.plot(x, y, transform=aside, **look)
            panel.plot(x * 3, [*y, *ends[0], *ends[1]], alpha=0)  # for the axes' limits
        else:
            panel.plot(x, y, **look)
            if len(found) <= MOST_BANDS or style.role in {"tested", "baseline"}:
                panel.fill_between(x, *ends, color=style.colour, alpha=0.16, lw=0, zorder=2)
        name(panel, arm, style, x[-1], y[-1] + 1e-9 * sum(y) / len(y))


def name(panel: Any, arm: str, style: Style, x: float, y: float) -> None:
    """Have the name of an arm written beside a panel, near the end (x, y) of its line."""
    panel.__dict__.setdefault("b2m_names", []).append((y, arm, style, x))


def _write_names(panel: Any) -> None:
    """Write the names of lines beside a panel, as near to their ends as can be, in the order of these."""
    names = sorted(panel.__dict__.get("b2m_names", ()), key=lambda name: name[0])
    if not names:
        return
    gap = 1.3 * FONT * panel.figure.dpi / 72 / panel.get_window_extent().height
    to_panel, whole = panel.transData + panel.transAxes.inverted(), panel.transAxes
    wanted = np.array([to_panel.transform((x, y))[1] for y, _, _, x in names])
    steps = gap * np.arange(len(names))
    top = max(-0.03, 1.05 - steps[-1])
    places = np.clip(isotonic_regression(wanted - steps).x, -0.03, top) + steps
    for (y, arm, style, x), place in zip(names, places, strict=True):
        link = ConnectionPatch((x, y), (1.05, place), panel.transData, whole, shrinkA=2, lw=0.5)
        link.set(color=style.colour, alpha=0.5, clip_on=False)
        panel.add_artist(link)
        panel.plot((1.05, 1.13), (place, place), transform=whole, clip_on=False, **style.drawn)
        panel.text(1.145, place, arm, fontsize=FONT, va="center", transform=whole, **style.named)


def strip(
    panel: Any,
    values: Mapping[str, Sequence[float]],
    middles: Mapping[str, Interval | float | None],
    arms: Mapping[str, Style],
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
    middles : mapping
        Arm -> mean with interval, or a median; None or infinite: not drawn.
    arms : mapping
        Arm -> style.
    censored : mapping, optional
        Arm -> numbers that are only known to be larger than this.
    """
    for place, (arm, numbers) in enumerate(values.items()):
        style, middle, late = arms[arm], middles.get(arm), (censored or {}).get(arm, ())
        low, up = place + 0.22, place - 0.1  # seeds below the mean, so that neither hides the other
        look = style.drawn | {"ls": ""}
        panel.plot(numbers, [low] * len(numbers), "o", ms=3.2, mew=0, alpha=0.5, **look)
        panel.plot(late, [low] * len(late), ">", ms=4.5, mfc="none", mew=0.8, **look)
        at = middle if middle is None or isinstance(middle, float) else middle.mean
        if at is None or not math.isfinite(at):
            continue
        if isinstance(middle, float):
            panel.plot(at, up, "|", ms=8, mew=2.6, **look)
        elif middle is not None:
            panel.plot([middle.low, middle.high], [up, up], **style.drawn | {"ls": "-"})
            panel.plot(at, up, style.marker, ms=6.5, mec="white", mew=0.6, **look)
        if style.role == "baseline":
            panel.axvline(at, color="black", lw=0.7, ls=":", zorder=1)
    panel.set_yticks(range(len(values)), list(values), fontsize=FONT)
    panel.set_ylim(len(values) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x", color="0.93")
    for label, arm in zip(panel.get_yticklabels(), values, strict=True):
        label.set(**arms[arm].named)


# --------------------------------------------------------------------------------------------------
# Panels that follow from the measures
# --------------------------------------------------------------------------------------------------
def _axes(panel: Any, measure: Measure) -> None:
    """Set the names, the scales and the line of a measure's axes."""
    if measure.limit is not None:
        panel.axhline(measure.limit, color="0.45", lw=0.8, ls=":", zorder=1)
    for direction in measure.log:
        getattr(panel, f"set_{direction}scale")("log")
        ticks = {"major_locator": LogLocator(subs=(1, 2, 5)), "major_formatter": "{x:g}"}
        getattr(panel, f"{direction}axis").set(minor_formatter="", **ticks)
    panel.set(xlabel=measure.axes[0], ylabel=measure.axes[1] or measure.label)


def _curve(panel: Any, runs: Runs, measure: Measure, arms: Mapping[str, Style]) -> None:
    """Draw a curve measure: mean over seeds at the places that all runs of an arm have."""
    curves(panel, {arm: list(map(measure.of, seeds.values())) for arm, seeds in runs.items()}, arms)
    _axes(panel, measure)


def _reached(panel: Any, runs: Runs, measure: Measure, arms: Mapping[str, Style]) -> None:
    """Draw the share of seeds that met the criterion, over time."""
    times = {arm: list(map(measure.of, seeds.values())) for arm, seeds in runs.items()}
    last = max(t.step for found in times.values() for t in found)
    for arm, found in times.items():
        steps = sorted(t.step for t in found if not t.censored)
        shares = [k / len(found) for k in range(len(steps) + 1)]
        panel.step([0, *steps, last], [*shares, shares[-1]], where="post", **arms[arm].drawn)
        early = (
            1e-9 * sum(steps) / (len(steps) or 1)
        )  # of equal ends, the faster arm is named first
        name(panel, arm, arms[arm], last, shares[-1] - early)
    panel.set(ylim=(-0.02, 1.03), xlabel=measure.label, ylabel="share of seeds at the criterion")


def _times(panel: Any, runs: Runs, measure: Measure, arms: Mapping[str, Style]) -> None:
    """Draw the time of each seed, those that did not reach the criterion as open triangles."""
    times = {arm: list(map(measure.of, seeds.values())) for arm, seeds in runs.items()}
    reached = {arm: [t.step for t in found if not t.censored] for arm, found in times.items()}
    late = {arm: [t.step for t in found if t.censored] for arm, found in times.items()}
    medians = {arm: float(median_step(found)) for arm, found in times.items()}
    strip(panel, reached, medians, arms, censored=late)
    panel.set(xlabel=measure.label, xlim=(0, None))


def _value(panel: Any, runs: Runs, measure: Measure, arms: Mapping[str, Style]) -> None:
    """Draw the value of each seed, and the mean with its interval."""
    values = {arm: list(map(measure.of, seeds.values())) for arm, seeds in runs.items()}
    strip(panel, values, {arm: mean(runs, arm, measure) for arm in runs}, arms)
    panel.set_xlabel(measure.axes[1] or measure.label)


def _levels(
    panel: Any,
    results: Results,
    measures: Sequence[Measure],
    arms: Mapping[str, Style],
    tested: str,
) -> None:
    """Draw values that have places on one axis: the mean of each arm or, where one is named, its differences to others."""
    runs, x = results.runs, [float(m.at or 0) for m in measures]
    found = {arm: (x, [mean(runs, arm, m) for m in measures]) for arm in runs}
    if tested:
        bases = [b for a, b in results.pairs if a == tested]
        found = {b: (x, [difference(runs, tested, b, m) for m in measures]) for b in bases}
    _lines(panel, found, arms, bars=bool(tested))
    _axes(panel, measures[0])
    panel.set_xticks(x, [f"{place:g}" for place in x])
    panel.minorticks_off()
    if tested:
        panel.axhline(0, color="0.45", lw=0.8, zorder=1)
        panel.set_ylabel(f"{tested} minus each")
        panel.margins(x=0.08)


def _panels(results: Results) -> list[Callable[[Any], object]]:
    """Return what draws each panel."""
    arms = styles(results.roles)
    drawn = [m for m in results.measures if m.drawn]
    levels = [m for m in drawn if m.kind == "value" and m.at is not None]
    draws: dict[str, Any] = {"curve": [_curve], "time": [_reached, _times], "value": [_value]}
    out: list[Callable[[Any], object]] = [
        partial(draw, runs=results.runs, measure=m, arms=arms)
        for m in drawn
        if m not in levels
        for draw in draws[m.kind]
    ]
    if levels:
        compared = dict.fromkeys(a for a, _ in results.pairs if results.roles[a] == "tested")
        draw = partial(_levels, results=results, measures=levels, arms=arms)
        out += [partial(draw, tested=tested) for tested in ("", *compared)]
    return out + [lambda panel, own=own: own.draw(panel, arms) for own in results.own("panels")]


def figure(results: Results, verdict: str = "") -> bytes:
    """Return the figure of results as PNG."""
    draws = _panels(results)
    columns = min(2 if len(draws) == 4 else 3, max(len(draws), 1))
    rows = -(-len(draws) // columns)
    wide, high = 5.2, max(3.6, 1.1 + 0.15 * len(results.runs))  # inches of a panel
    width = wide * columns
    said = textwrap.fill(verdict, int(17 * width))
    note = textwrap.fill(FOOT + FOOT_TIMES * (results.time is not None), int(20 * width))
    foot = 0.35
    height = 0.5 + 0.16 * len(said.splitlines()) + high * rows + foot
    inches = np.array([width, height, width, height])

    def place(box: Any) -> Any:
        """Return left, bottom, right, top in inches as left, bottom, width, height in shares of the figure."""
        left, bottom, right, top = box / inches
        return left, bottom, max(right - left, 0.02), max(top - bottom, 0.02)

    with rc_context(LOOK):
        made = FigureCanvasAgg(Figure(figsize=(width, height), dpi=120)).figure
        left = 0.15 / width
        made.text(left, 1 - 0.15 / height, results.title, fontsize=11, weight="bold", va="top")
        made.text(left, 1 - 0.42 / height, said, fontsize=8.5, color="0.25", va="top")
        made.text(left, 0.12 / height, note, fontsize=FONT, color="0.4", va="bottom")
        for k, draw in enumerate(draws):
            corner = np.array([wide * (k % columns), foot + high * (rows - 1 - k // columns)] * 2)
            cell = corner + np.array([0.15, 0.1, wide - 0.1, high - 0.1])
            panel = made.add_axes(place(cell + np.array([0.7, 0.5, -1.2, -0.2])))
            draw(panel)
            panel.autoscale_view()
            _write_names(panel)
            whole: Any = panel.get_tightbbox()
            over = (whole.extents - panel.get_window_extent().extents) / made.dpi  # ticks, names
            panel.set_position(place(cell - over))
        out = io.BytesIO()
        made.savefig(out, format="png")
    return out.getvalue()
