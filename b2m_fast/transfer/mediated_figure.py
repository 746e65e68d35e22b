"""The figure of `b2m mediated`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.evaluate.statistics import t_interval
from b2m_fast.transfer.mediated_arms import CONTROLS
from b2m_fast.transfer.tables import canvas, png

if TYPE_CHECKING:
    from collections.abc import Sequence

    from b2m_fast.transfer.tables import Runs

__all__ = ["figure"]

COLOURS = {
    "direct": "black", "direct-rank": "C7", "brain-mean": "C1", "brain-stacked": "C3",
    "shuffled": "C0", "random-map": "C2", "measured": "C4",
}  # fmt: skip


def _scores(runs: Runs, arm: str, sizes: Sequence[str]) -> Any:
    return np.array([[r["scores"][s] for s in sizes] for r in runs[arm].values()], dtype=float)


def _curves(panel: Any, runs: Runs, sizes: Sequence[str], x: list[int], metric: str) -> None:
    """Score against number of labelled samples; single brains thin."""
    thin = [arm for arm in runs if arm not in COLOURS]
    for arm in runs:
        y = np.nanmean(_scores(runs, arm, sizes), axis=0)
        if arm in COLOURS:
            panel.plot(x, y, "o-", color=COLOURS[arm], ms=3, lw=1.6, label=arm)
        else:
            label = "single brains" if arm == thin[0] else None
            panel.plot(x, y, "-", color="C1", alpha=0.35, lw=0.8, label=label)
    panel.set(xscale="log", xlabel="labelled samples", ylabel=f"{metric}, test images")
    panel.legend(fontsize=7)


def _differences(panel: Any, runs: Runs, sizes: Sequence[str], x: list[int], main: str) -> None:
    """The brains less each other arm, with 95 % intervals over seeds."""
    others = [arm for arm in ("direct", *CONTROLS, "measured") if arm in runs]
    for place, arm in enumerate(others):
        seeds = sorted(set(runs[main]) & set(runs[arm]))
        low, middle, high = [], [], []
        for s in sizes:
            pairs = [(runs[main][k]["scores"][s], runs[arm][k]["scores"][s]) for k in seeds]
            i = t_interval([a - b for a, b in pairs if a is not None and b is not None] or [np.nan])
            low.append(i.mean - i.low)
            middle.append(i.mean)
            high.append(i.high - i.mean)
        shifted = np.array(x) * 1.05 ** (place - len(others) / 2)
        ends = None if np.isnan(low).any() else [low, high]
        panel.errorbar(shifted, middle, ends, fmt="o-", color=COLOURS[arm], ms=3, lw=1, label=arm)
    panel.axhline(0, color="0.6", lw=0.8)
    panel.set(xscale="log", xlabel="labelled samples", ylabel=f"{main} less ...")
    panel.legend(fontsize=7)


def _distances(panel: Any, runs: Runs) -> None:
    """Distance between estimates against distance between brains."""
    for arm in ("shuffled", "brain-mean"):
        known = [r for r in runs.get(arm, {}).values() if r["distance"] and r["between"]]
        if not known:
            continue
        size = list(known[0]["between"])[-1]
        estimates = np.mean([r["between"][size] for r in known], axis=0)
        i, j = np.triu_indices(len(estimates), 1)
        panel.plot(np.array(known[0]["distance"])[i, j], estimates[i, j], "o", ms=4, alpha=0.7,
                   color=COLOURS[arm], label=f"{arm}, n = {size}")  # fmt: skip
        panel.set_xlabel(f"distance between brains\n({known[0]['distance_of']})")
    panel.set_ylabel("distance between estimates")
    panel.legend(fontsize=7)


def _encoders(panel: Any, runs: Runs) -> None:
    """Held-out correlation of each brain's encoder, with quartiles over units."""
    found = {q["name"]: q for seeds in runs.values() for r in seeds.values() for q in r["encoders"]}
    for place, q in enumerate(found.values()):
        panel.plot([place, place], [q["r_low"], q["r_high"]], "-", color="C1", lw=1.5)
        panel.plot(place, q["r"], "o", color="C1", ms=5)
        if q["ceiling"] is not None:
            panel.plot(place, q["ceiling"], "_", color="0.3", ms=14)
    panel.set_xticks(range(len(found)), list(found), rotation=60, ha="right", fontsize=8)
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
    one = next(r for seeds in runs.values() for r in seeds.values())
    sizes, x = list(one["labelled"]), list(one["labelled"].values())
    main = f"brain-{settings['combine']}"
    kinds = [("curves", True), ("differences", main in runs and len(runs) > 1)]
    kinds.append(("encoders", any(r["encoders"] for s in runs.values() for r in s.values())))
    kinds.append(("distances", any(r["distance"] for s in runs.values() for r in s.values())))
    wanted = [name for name, there in kinds if there]
    drawing = canvas(4.8 * len(wanted), 4.4)
    panels = dict(zip(wanted, drawing.subplots(1, len(wanted), squeeze=False)[0], strict=True))
    _curves(panels["curves"], runs, sizes, x, settings["metric"])
    if "differences" in panels:
        _differences(panels["differences"], runs, sizes, x, main)
    if "encoders" in panels:
        _encoders(panels["encoders"], runs)
    if "distances" in panels:
        _distances(panels["distances"], runs)
    drawing.suptitle(title, fontsize=10)
    return png(drawing)
