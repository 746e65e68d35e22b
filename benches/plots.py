"""Plots of a run: time against N and D, and parts of the peak by level.

    python benches/plots.py                       # the newest whole run in benches/results
    python benches/plots.py RUN.json --to FOLDER  # default: docs/figures

Needs matplotlib: pip install 'b2m-fast[transfer]'.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cases import OURS, STEP
from timed_levels import PEAK
from timed_sizes import SWEEP, SWEEP_AT

HERE = Path(__file__).parent
RESULTS, FIGURES = HERE / "results", HERE.parent / "docs" / "figures"

Document = dict[str, Any]
Points = list[tuple[int, float]]

# Okabe and Ito's colours, which the colour-blind tell apart; markers for those who print in grey.
BLACK, ORANGE, SKY, GREEN = "#000000", "#e69f00", "#56b4e9", "#009e73"
BLUE, RED, PURPLE = "#0072b2", "#d55e00", "#cc79a7"


class Style(NamedTuple):
    """One curve: its name in the legend, colour, marker and line."""

    label: str
    colour: str
    marker: str
    line: str = "-"


CURVES = {
    "torch eager": Style("torch eager", RED, "s"),
    "torch chunked": Style("best torch Function", ORANGE, "^"),
    OURS: Style("b2m_fast", BLUE, "o"),
    f"{OURS} high": Style('b2m_fast, "high"', SKY, "D"),
    "matrix products only": Style("four float32 products alone", BLACK, "", "--"),
}
LEVELS = {
    "float32 generic": Style("float32, generic", PURPLE, "v"),
    "float32 avx2": Style("float32, avx2", ORANGE, "^"),
    "float32 avx512": Style("float32, avx512", BLUE, "o"),
    "float32 amx": Style("float32, amx (six parts)", GREEN, "P"),
    "float32 high amx": Style("float32, amx (three parts)", SKY, "X"),
    "bfloat16 avx512bf16": Style("bfloat16, avx512bf16", RED, "s"),
    "bfloat16 amx": Style("bfloat16, amx", BLACK, "D"),
}


class NothingToDrawError(Exception):
    """The run has not what a plot shows."""


def curves(found: Document, against: str) -> dict[str, Points]:
    """Milliseconds of each contender of `CURVES`, against "n" or "d", in rising order."""
    fixed = dict(zip("nd", SWEEP_AT, strict=True))
    del fixed[against]
    ((held, value),) = fixed.items()
    points: dict[str, Points] = {}
    for r in found["cases"]:
        if r["mode"] != STEP or r[held] != value or r["median_ms"] is None:
            continue
        name = r["contender"]
        if (r["op"], name) == ("info_nce high", OURS):
            name = f"{OURS} high"
        elif r["op"] not in {"info_nce", SWEEP}:
            continue
        if name in CURVES:
            points.setdefault(name, []).append((r[against], r["median_ms"]))
    if found["machine"]["level"] != "amx":  # the same products, so the same curve twice
        points.pop(f"{OURS} high", None)
    if max(map(len, points.values()), default=0) < 2:
        raise NothingToDrawError(f"no two sizes of info_nce against {against.upper()}")
    return {name: sorted(points[name]) for name in CURVES if name in points}


def parts_of_peak(found: Document) -> dict[str, Points]:
    """Per cent of the peak against D of each contender of `LEVELS`."""
    points: dict[str, Points] = {}
    for r in found["parts_of_peak"]:
        if r["part"] is not None:
            points.setdefault(r["contender"], []).append((r["d"], 100 * r["part"]))
    if not points:
        raise NothingToDrawError(f"no parts of the peak ({PEAK})")
    return {name: sorted(points[name]) for name in LEVELS if name in points}


def draw_times(found: Document, against: str) -> Any:
    n, d = SWEEP_AT
    figure = _figure(
        curves(found, against),
        CURVES,
        f"D = {d}" if against == "n" else f"N = {n}",
        ("N, rows" if against == "n" else "D, columns", "milliseconds"),
        _caption(found),
    )
    from matplotlib.ticker import LogLocator, NullLocator

    axis = figure.axes[0]
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter("{x:,g}")
    return figure


def draw_peak(found: Document) -> Any:
    points = parts_of_peak(found)
    ns = {str(r["n"]) for r in found["parts_of_peak"]}
    figure = _figure(
        points,
        LEVELS,
        f"N = {', '.join(sorted(ns))}, one thread",
        ("D, columns", "8 N²D operations a step, % of the unit's peak"),
        _caption(found, threads=1),
    )
    figure.axes[0].set_ylim(0, 100)
    return figure


def _caption(found: Document, threads: int | None = None) -> str:
    machine = found["machine"]
    count = threads or int(machine["threads"])
    return (
        f"{machine['processor']}, level {machine['level']}, {count} thread{'s' * (count > 1)}, "
        f"torch {machine['torch']}, {found['date'][:10]}"
    )


def _figure(
    points: dict[str, Points],
    styles: dict[str, Style],
    what: str,
    units: tuple[str, str],
    caption: str,
) -> Any:
    """Curves over a logarithmic axis whose ticks are the sizes that were measured."""
    figure = FigureCanvasAgg(Figure(figsize=(5.6, 3.9), layout="constrained")).figure
    figure.suptitle(f"info_nce, forward and backward, {what}", fontsize=10)
    axes = figure.add_subplot()
    for name, of in points.items():
        style = styles[name]
        axes.plot(
            *zip(*of, strict=True),
            color=style.colour,
            marker=style.marker,
            linestyle=style.line,
            label=style.label,
            markersize=5,
        )
    sizes = sorted({x for of in points.values() for x, _ in of})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(units[0])
    axes.set_ylabel(units[1])
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.supxlabel(caption, fontsize=7, color="#555555")
    return figure


PLOTS: dict[str, Callable[[Document], Any]] = {
    "performance-n": lambda found: draw_times(found, "n"),
    "performance-d": lambda found: draw_times(found, "d"),
    "performance-peak": draw_peak,
}


def save(figure: Any, path: Path) -> None:
    """Write SVG with its text as text, and the same bytes for the same run."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def newest(folder: Path) -> Path | None:
    """The newest whole run that has what is drawn."""
    found = []
    for path in folder.glob("*-full.json"):
        run = json.loads(path.read_text(encoding="utf-8"))
        if run.get("complete") and "parts_of_peak" in run:
            found.append((run["date"], path))
    return max(found, default=(None, None))[1]


def main(argv: list[str] | None = None) -> int:
    """Draw; 1 where a plot could not be drawn."""
    parser = argparse.ArgumentParser(prog="benches/plots.py", description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, nargs="?", help="JSON; default: the newest whole run")
    parser.add_argument("--to", type=Path, default=FIGURES, help="folder; default: docs/figures")
    options = parser.parse_args(argv)
    run = options.run or newest(RESULTS)
    if run is None:
        print(f"{RESULTS} holds no whole run that can be drawn; `make bench` writes one")
        return 1
    found = json.loads(run.read_text(encoding="utf-8"))
    options.to.mkdir(parents=True, exist_ok=True)
    failed = False
    for name, draw in PLOTS.items():
        path = options.to / f"{name}.svg"
        try:
            save(draw(found), path)
        except NothingToDrawError as error:
            failed = True
            print(f"{path.name} is not drawn: {run.name} has {error}")
        else:
            print(f"{path} ({path.stat().st_size / 1000:.0f} kB)")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
