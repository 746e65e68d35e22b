"""The figure of `b2m mediated`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.experiments.drawing import named, png, sheet
from b2m_fast.experiments.mediated_arms import CONTROLS
from b2m_fast.experiments.mediated_numbers import (
    any_run,
    between,
    encoders,
    metrics,
    sizes_of,
    unchosen,
)
from b2m_fast.experiments.tables import difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from b2m_fast.experiments.tables import Runs

__all__ = ["figure"]

COLOURS = {
    "direct": "black", "direct-rank": "C7", "brain-mean": "C1", "brain-stacked": "C3",
    "shuffled": "C0", "random-map": "C2", "measured": "C4",
}  # fmt: skip


def _scores(runs: Runs, arm: str, sizes: Sequence[str]) -> Any:
    return np.array([[r["scores"][s] for s in sizes] for r in runs[arm].values()], dtype=float)


def _curves(panel: Any, runs: Runs, settings: dict[str, Any], x: list[int]) -> None:
    """Score against number of labelled samples; single brains thin."""
    sizes = sizes_of(runs)
    thin = [arm for arm in runs if arm not in COLOURS]
    for arm in runs:
        y = np.nanmean(_scores(runs, arm, sizes), axis=0)
        if arm in COLOURS:
            panel.plot(x, y, "o-", color=COLOURS[arm], ms=3, lw=1.6, label=arm)
        else:
            label = "single brains" if arm == thin[0] else None
            panel.plot(x, y, "-", color="C1", alpha=0.35, lw=0.8, label=label)
    fixed = unchosen(runs, settings)
    note = f"\n(n = {', '.join(fixed)}: penalty not chosen)" if fixed else ""
    panel.set(
        xscale="log", xlabel=f"labelled samples{note}", ylabel=f"{settings['metric']}, test images"
    )
    panel.legend(fontsize=7)


def _differences(panel: Any, runs: Runs, settings: dict[str, Any], x: list[int], main: str) -> None:
    """The brains less each other arm, with the intervals of the tables."""
    every = settings["measured"] == settings["brains"]
    others = [a for a in ("direct", *CONTROLS, *(["measured"] if every else [])) if a in runs]
    for place, arm in enumerate(others):
        found = [difference(runs, main, arm, metric) for metric in metrics(runs, settings)]
        shifted = np.array(x) * 1.05 ** (place - len(others) / 2)
        there = [(p, i) for p, i in zip(shifted, found, strict=True) if i is not None]
        middle = [i.mean for _, i in there]
        ends = [[i.mean - i.low for _, i in there], [i.high - i.mean for _, i in there]]
        panel.errorbar(
            [p for p, _ in there], middle, None if np.isnan(ends).any() else ends, fmt="o-",
            color=COLOURS[arm], ms=3, lw=1, label=arm,
        )  # fmt: skip
    panel.axhline(0, color="0.6", lw=0.8)
    panel.set(xscale="log", xlabel="labelled samples", ylabel=f"{main} less ...")
    panel.legend(fontsize=7)


def _distances(panel: Any, runs: Runs) -> None:
    """Distance between estimates, few labelled samples, against distance between brains."""
    for arm in ("shuffled", "brain-mean"):
        found = between(runs.get(arm, {}))
        if not found:
            continue
        one = any_run({arm: runs[arm]})
        size = list(found)[(len(found) - 1) // 2]
        i, j = np.triu_indices(len(found[size]), 1)
        panel.plot(np.array(one["distance"])[i, j], found[size][i, j], "o", ms=4, alpha=0.7,
                   color=COLOURS[arm], label=f"{arm}, n = {size}")  # fmt: skip
        panel.set_xlabel(f"distance between brains\n({one['distance_of']})")
    panel.set_ylabel("distance between estimates")
    panel.legend(fontsize=7)


def _encoders(panel: Any, runs: Runs) -> None:
    """Held-out correlation of each brain's encoder, with quartiles over units."""
    found = encoders(runs)
    for place, q in enumerate(found):
        panel.plot([place, place], [q["r_low"], q["r_high"]], "-", color="C1", lw=1.5)
        panel.plot(place, q["r"], "o", color="C1", ms=5)
        if q["ceiling"] is not None:
            panel.plot(place, q["ceiling"], "_", color="0.3", ms=14)
    named(panel, [q["name"] for q in found])
    panel.set(ylabel="encoder, held-out r (line: quartiles; bar: ceiling)", ylim=(0, 1))


def figure(runs: Runs, settings: dict[str, Any], title: str) -> bytes:
    """A figure: scores and differences by number of samples, encoders, distances between brains.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    settings : dict
        A `MediatedExperiment` as JSON holds it.
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
    one = any_run(runs)
    x = list(one["labelled"].values())
    main = f"brain-{settings['combine']}"
    kinds = [("curves", True), ("differences", main in runs and len(runs) > 1)]
    kinds.append(("encoders", bool(encoders(runs))))
    kinds.append(("distances", any(between(seeds) for seeds in runs.values())))
    wanted = [name for name, there in kinds if there]
    drawing = sheet(title, 4.8 * len(wanted), 4.4)
    panels = dict(zip(wanted, drawing.subplots(1, len(wanted), squeeze=False)[0], strict=True))
    _curves(panels["curves"], runs, settings, x)
    if "differences" in panels:
        _differences(panels["differences"], runs, settings, x, main)
    if "encoders" in panels:
        _encoders(panels["encoders"], runs)
    if "distances" in panels:
        _distances(panels["distances"], runs)
    return png(drawing)
