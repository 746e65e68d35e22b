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
from scipy.optimize import isotonic_regression

from b2m_fast.evaluate.convergence import median_step
from b2m_fast.experiments.report import difference, mean
from b2m_fast.experiments.statistics import t_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from b2m_fast.experiments.contract import Experiment, Measure, Runs
    from b2m_fast.experiments.statistics import Interval

__all__ = ["Style", "curves", "figure", "means_of", "strip", "styles"]

COLOURS = {
    "tested": ("#D55E00", "#0072B2", "#009E73", "#CC79A7"),
    "baseline": ("#000000",),
    "control": ("#4F7CAC", "#5E9C78", "#9A7FB5", "#B08D3E", "#7F7F7F", "#BC6F80"),
    "other": ("#93AECB", "#9CC2AC", "#BDACCE", "#CDB884", "#ABABAB", "#D3A3AE"),
}
WIDTHS = {"tested": 2.6, "baseline": 1.8, "control": 1.3, "other": 0.9}
DASHES = ((5, 1.6), (1.2, 1.4), (6, 1.6, 1.2, 1.6), (9, 2.5))
MARKERS = "osD^vP<X>"
MOST_BANDS = 6  # bands of more arms than these cannot be told apart
MOST_NAMES = 22  # beside a panel; of more arms there is a legend
FONT = 7.5  # points
CELL = (5.2, 3.6)  # inches
FOOT = (
    "Lines and large markers: means over seeds; bands and bars: 95 % intervals; dots: single seeds."
)
FOOT_TIMES = (
    " Steps: the bar is the median, an open triangle a seed that did not reach the criterion."
)


class Style(NamedTuple):
    """How an arm is drawn."""

    role: str
    colour: str
    line: Any
    marker: str

    @property
    def width(self) -> float:
        """Width of the line, in points."""
        return WIDTHS[self.role]

    @property
    def front(self) -> float:
        """How near to the reader: what matters most lies on top."""
        return 2 + self.width

    @property
    def stands_out(self) -> bool:
        """Whether it is one of the two that the figure is about."""
        return self.role in {"tested", "baseline"}


def styles(experiment: Experiment[Any], settings: Any, arms: Sequence[str]) -> dict[str, Style]:
    """Return the style of each arm, by its role and its place among those of that role."""
    roles, count = experiment.roles(settings), dict.fromkeys(COLOURS, 0)
    out = {}
    for arm in arms:
        role = roles.get(arm, "control")
        k = count[role]
        count[role] += 1
        first = role in {"tested", "baseline"}
        line = "-" if first and k == 0 else (0, DASHES[(k - first) % len(DASHES)])
        marker = MARKERS[(k + (not first)) % len(MARKERS)]
        out[arm] = Style(role, COLOURS[role][k % len(COLOURS[role])], line, marker)
    return out


# --------------------------------------------------------------------------------------------------
# Building blocks
# --------------------------------------------------------------------------------------------------
def means_of(values: Sequence[Sequence[float]]) -> list[Interval | None]:
    """Return the mean over runs, with its interval, of each column of (runs, places); NaN is left out, None where all are."""
    columns = ([v for v in column if math.isfinite(v)] for column in zip(*values, strict=True))
    return [t_interval(column) if column else None for column in columns]


def curves(
    panel: Any,
    found: Mapping[str, tuple[Sequence[float], Sequence[Interval | None]]],
    of_styles: Mapping[str, Style],
    *,
    bars: bool = False,
) -> None:
    """Draw a line of means an arm, with its intervals, and its name at its end.

    Parameters
    ----------
    panel : matplotlib.axes.Axes
        Where.
    found : mapping
        Arm -> places, and at each a mean with its interval, or None.
    of_styles : mapping
        Arm -> style.
    bars : bool
        Intervals as bars, those of the arms beside one another; else as bands, of many arms only those that stand out.
    """
    from matplotlib.transforms import ScaledTranslation

    for k, (arm, (places, means)) in enumerate(found.items()):
        style = of_styles[arm]
        there = [(x, i) for x, i in zip(places, means, strict=True) if i is not None]
        if not there:
            continue
        x, y = [x for x, _ in there], [i.mean for _, i in there]
        ends = [i.low for _, i in there], [i.high for _, i in there]
        look = {"color": style.colour, "ls": style.line, "lw": style.width, "zorder": style.front}
        look |= {"marker": style.marker if len(x) <= 12 else None, "ms": 3.5}
        if bars:
            inches = (k - (len(found) - 1) / 2) * 0.035
            aside = panel.transData + ScaledTranslation(inches, 0, panel.figure.dpi_scale_trans)
            panel.vlines(x, *ends, color=style.colour, lw=1, transform=aside)
            panel.plot(x, y, transform=aside, **look)
            for end in ends:  # what is moved aside does not count for the axes' limits
                panel.plot(x, end, alpha=0)
        else:
            panel.plot(x, y, **look)
            if len(found) <= MOST_BANDS or style.stands_out:
                panel.fill_between(x, *ends, color=style.colour, alpha=0.16, lw=0, zorder=2)
        _name(panel, arm, x[-1], y[-1] + 1e-9 * sum(y) / len(y), style)


def strip(
    panel: Any,
    values: Mapping[str, Sequence[float]],
    middles: Mapping[str, Interval | float | None],
    of_styles: Mapping[str, Style],
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
    of_styles : mapping
        Arm -> style.
    censored : mapping, optional
        Arm -> numbers that are only known to be larger than this.
    """
    for place, (arm, numbers) in enumerate(values.items()):
        style, middle, late = of_styles[arm], middles.get(arm), (censored or {}).get(arm, ())
        look = {"color": style.colour, "zorder": style.front}
        low = place + 0.22  # seeds below the mean, so that neither hides the other
        panel.plot(numbers, [low] * len(numbers), "o", ms=3.2, mew=0, alpha=0.5, **look)
        panel.plot(late, [low] * len(late), ">", ms=4.5, mfc="none", mew=0.8, **look)
        if middle is None or (isinstance(middle, float) and not math.isfinite(middle)):
            continue
        up = place - 0.1
        if isinstance(middle, float):
            at = middle
            panel.plot(at, up, "|", ms=8, mew=2.6, **look)
        else:
            at = middle.mean
            panel.plot([middle.low, middle.high], [up, up], lw=style.width, **look)
            panel.plot(at, up, style.marker, ms=6.5, mec="white", mew=0.6, **look)
        if style.role == "baseline":
            panel.axvline(at, color="black", lw=0.7, ls=":", zorder=1)
    panel.set_yticks(range(len(values)), list(values), fontsize=FONT)
    panel.set_ylim(len(values) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x", color="0.93")
    for label, arm in zip(panel.get_yticklabels(), values, strict=True):
        label.set(color=of_styles[arm].colour if of_styles[arm].role != "other" else "0.4")
        label.set_weight("bold" if of_styles[arm].role == "tested" else "normal")


def _name(panel: Any, arm: str, x: float, y: float, style: Style) -> None:
    """Note that a line with this end wants its name beside the panel."""
    if math.isfinite(y):
        panel.__dict__.setdefault("b2m_names", []).append((y, arm, x, style))


def _write_names(panel: Any) -> None:
    """Write the names of lines beside the panel, as near to their ends as can be, in the order of these."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import ConnectionPatch

    names = sorted(panel.__dict__.get("b2m_names", ()), key=lambda name: name[0])
    if not names:
        return
    if len(names) > MOST_NAMES:
        handles = [
            Line2D([], [], color=s.colour, ls=s.line, marker=s.marker, ms=3, lw=s.width, label=arm)
            for _, arm, _, s in reversed(names)
        ]
        panel.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.05), fontsize=FONT - 2,
            ncols=-(-len(names) // 40), frameon=False, handlelength=3,
        )  # fmt: skip
        return
    height = panel.get_window_extent().height
    gap = min(1.3 * FONT * panel.figure.dpi / 72 / height, 1.1 / len(names))
    at = panel.transData + panel.transAxes.inverted()
    wanted = np.array([at.transform((x, y))[1] for y, _, x, _ in names])
    steps = gap * np.arange(len(names))
    top = max(-0.03, 1.05 - steps[-1])
    placed = np.clip(isotonic_regression(wanted - steps).x, -0.03, top) + steps
    for (y, arm, x, style), place in zip(names, placed, strict=True):
        panel.add_artist(
            ConnectionPatch(
                (x, y), (1.05, place), panel.transData, panel.transAxes,
                color=style.colour, lw=0.5, alpha=0.5, clip_on=False, shrinkA=2,
            )
        )  # fmt: skip
        look = {"transform": panel.transAxes, "clip_on": False, "color": style.colour}
        panel.plot((1.05, 1.13), (place, place), ls=style.line, lw=style.width, **look)
        panel.text(
            1.145, place, arm, fontsize=FONT, va="center",
            color="0.4" if style.role == "other" else style.colour,
            weight="bold" if style.role == "tested" else "normal", transform=panel.transAxes,
        )  # fmt: skip


# --------------------------------------------------------------------------------------------------
# Panels that follow from the measures
# --------------------------------------------------------------------------------------------------
def _axes(panel: Any, measure: Measure) -> None:
    """Set the names, the scales and the line of a measure's axes."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if measure.limit is not None:
        panel.axhline(measure.limit, color="0.45", lw=0.8, ls=":", zorder=1)
    for name in measure.log:
        getattr(panel, f"set_{name}scale")("log")
        axis = getattr(panel, f"{name}axis")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
    panel.set(xlabel=measure.axes[0], ylabel=measure.axes[1] or measure.label)


def _curve(panel: Any, runs: Runs, measure: Measure, of_styles: Mapping[str, Style]) -> None:
    """Draw a curve measure: mean over seeds at the places that all runs of an arm have."""
    found = {}
    for arm, seeds in runs.items():
        single = [dict(zip(*measure.of(run), strict=True)) for run in seeds.values()]
        x = [place for place in single[0] if all(place in of for of in single)]
        found[arm] = x, means_of([[of[place] for place in x] for of in single])
    curves(panel, found, of_styles)
    _axes(panel, measure)


def _reached(panel: Any, runs: Runs, measure: Measure, of_styles: Mapping[str, Style]) -> None:
    """Draw the share of seeds that met the criterion, over time."""
    last = max(measure.of(r).step for seeds in runs.values() for r in seeds.values())
    for arm, seeds in runs.items():
        style, times = of_styles[arm], [measure.of(run) for run in seeds.values()]
        steps = sorted(t.step for t in times if not t.censored)
        shares = [k / len(times) for k in range(len(steps) + 1)]
        look = {"color": style.colour, "ls": style.line, "lw": style.width, "zorder": style.front}
        panel.step([0, *steps, last], [*shares, shares[-1]], where="post", **look)
        early = (
            1e-9 * sum(steps) / max(len(steps), 1)
        )  # of equal ends, the faster arm is named first
        _name(panel, arm, last, shares[-1] - early, style)
    panel.set(ylim=(-0.02, 1.03), xlabel=measure.label, ylabel="share of seeds at the criterion")


def _times(panel: Any, runs: Runs, measure: Measure, of_styles: Mapping[str, Style]) -> None:
    """Draw the time of each seed, those that did not reach the criterion as open triangles."""
    found = {arm: [measure.of(run) for run in seeds.values()] for arm, seeds in runs.items()}
    strip(
        panel,
        {arm: [t.step for t in times if not t.censored] for arm, times in found.items()},
        {arm: float(median_step(times)) for arm, times in found.items()},
        of_styles,
        censored={arm: [t.step for t in times if t.censored] for arm, times in found.items()},
    )
    panel.set(xlabel=measure.label, xlim=(0, None))


def _value(panel: Any, runs: Runs, measure: Measure, of_styles: Mapping[str, Style]) -> None:
    """Draw the value of each seed, and the mean with its interval."""
    values = {
        arm: [v for v in map(measure.of, seeds.values()) if math.isfinite(v)]
        for arm, seeds in runs.items()
    }
    strip(panel, values, {arm: mean(runs, arm, measure) for arm in runs}, of_styles)
    panel.set_xlabel(measure.axes[1] or measure.label)


def _levels(
    panel: Any,
    runs: Runs,
    measures: Sequence[Measure],
    of_styles: Mapping[str, Style],
    tested: str = "",
    bases: Sequence[str] = (),
) -> None:
    """Draw values that have places on one axis: the means of each arm, or the differences of the tested arm to others."""
    x = [float(m.at or 0) for m in measures]
    if tested:
        found = {b: (x, [difference(runs, tested, b, m) for m in measures]) for b in bases}
        panel.axhline(0, color="0.45", lw=0.8, zorder=1)
    else:
        found = {arm: (x, [mean(runs, arm, m) for m in measures]) for arm in runs}
    curves(panel, found, of_styles, bars=bool(tested))
    _axes(panel, measures[0])
    panel.set_xticks(x, [f"{place:g}" for place in x])
    panel.minorticks_off()
    if tested:
        panel.set_ylabel(f"{tested} minus each")
        panel.margins(x=0.08)


def _panels(
    experiment: Experiment[Any], settings: Any, runs: Runs
) -> list[Callable[[Any], object]]:
    """Return what draws each panel."""
    of_styles = styles(experiment, settings, list(runs))
    given: Any = {"runs": runs, "of_styles": of_styles}
    measures = [m for m in experiment.measures(settings, runs) if m.drawn]
    levels = [m for m in measures if m.kind == "value" and m.at is not None]
    out: list[Callable[[Any], object]] = []
    for measure in measures:
        if measure.kind == "time":
            out.append(partial(_reached, measure=measure, **given))
        if measure not in levels:
            draw = {"curve": _curve, "time": _times, "value": _value}[measure.kind]
            out.append(partial(draw, measure=measure, **given))
    if levels:
        out.append(partial(_levels, measures=levels, **given))
        pairs = experiment.contrasts(settings, list(runs))
        for arm in (a for a, style in of_styles.items() if style.role == "tested"):
            if bases := [b for a, b in pairs if a == arm]:
                out.append(partial(_levels, measures=levels, tested=arm, bases=bases, **given))  # noqa: PERF401
    own = (panel.draw for panel in experiment.panels(settings, runs))
    return out + [lambda panel, draw=draw: draw(panel, of_styles) for draw in own]


def figure(
    experiment: Experiment[Any], settings: Any, runs: Runs, title: str, verdict: str = ""
) -> bytes:
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
    except ImportError as error:
        raise ImportError(
            "the figure needs matplotlib: pip install 'b2m-fast[experiments]'"
        ) from error
    draws = _panels(experiment, settings, runs)
    timed = any(m.drawn and m.kind == "time" for m in experiment.measures(settings, runs))
    columns = min(2 if len(draws) == 4 else 3, max(len(draws), 1))
    rows = -(-len(draws) // columns)
    width = CELL[0] * columns
    said = textwrap.fill(verdict, int(17 * width))
    head, foot = 0.5 + 0.16 * len(said.splitlines()), 0.35
    height = CELL[1] * rows + head + foot
    style: Any = {
        "font.size": 8.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "0.3",
        "axes.linewidth": 0.7,
    }
    with rc_context(style):
        made = FigureCanvasAgg(Figure(figsize=(width, height), dpi=120)).figure
        made.text(0.15 / width, 1 - 0.15 / height, title, fontsize=11, weight="bold", va="top")
        made.text(0.15 / width, 1 - 0.42 / height, said, fontsize=8.5, color="0.25", va="top")
        note = textwrap.fill(FOOT + FOOT_TIMES * timed, int(20 * width))
        made.text(0.15 / width, 0.12 / height, note, fontsize=FONT, color="0.4", va="bottom")
        for k, draw in enumerate(draws):
            left, bottom = CELL[0] * (k % columns), foot + CELL[1] * (rows - 1 - k // columns)
            cell = np.array([left, bottom, left + CELL[0], bottom + CELL[1]])
            panel = made.add_axes(_inches(cell + np.array([0.8, 0.6, -1.3, -0.3]), width, height))
            draw(panel)
            panel.autoscale_view()
            _write_names(panel)
            whole: Any = panel.get_tightbbox()
            over = (whole.extents - panel.get_window_extent().extents) / made.dpi  # ticks, names
            panel.set_position(
                _inches(cell - over + np.array([0.15, 0.1, -0.1, -0.1]), width, height)
            )
        out = io.BytesIO()
        made.savefig(out, format="png")
    return out.getvalue()


def _inches(box: Any, width: float, height: float) -> tuple[float, float, float, float]:
    """Return left, bottom, right, top in inches as left, bottom, width, height in shares of a figure."""
    left, bottom, right, top = box / (width, height, width, height)
    return left, bottom, max(right - left, 0.02), max(top - bottom, 0.02)
