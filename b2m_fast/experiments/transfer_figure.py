"""The figure of `b2m transfer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.experiments.drawing import curve, png, sheet, strip
from b2m_fast.experiments.tables import arrivals, or_nan, share_values
from b2m_fast.experiments.transfer_arms import ARMS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from b2m_fast.experiments.tables import Runs

__all__ = ["figure"]


PALETTE = ("black", "0.65", "C2", "C3", "C4", "C5", "C6", "gold", "C8", "C9", "C1", "C0")
MOST_BANDS = 5  # bands of more arms than these cannot be told apart


def _colours(arms: Sequence[str]) -> dict[str, str]:
    """The same colour for an arm in every figure; arms of several folders by their place."""
    if set(arms) <= set(ARMS):
        return dict(zip(ARMS, PALETTE, strict=True))
    return {arm: f"C{k % 10}" for k, arm in enumerate(arms)}


def _curves(panel: Any, runs: Runs, settings: dict[str, Any], colours: dict[str, str]) -> None:
    """Learning curves: mean and, of few arms, range over seeds."""
    metric, key = settings["metric"], settings["curve"]
    bands = len(runs) <= MOST_BANDS
    for arm, seeds in runs.items():
        histories = [[e for e in r["history"] if e.get(key) is not None] for r in seeds.values()]
        length = min(len(h) for h in histories)
        x = [e["step"] for e in histories[0][:length]]
        y = [[e[key] for e in h[:length]] for h in histories]
        curve(panel, x, y, colours[arm], band=0.08 if bands else 0, label=arm, lw=1.4)
    panel.axhline(settings["criterion"], color="0.6", lw=0.8, ls=":")
    if metric == "mse":
        panel.set_yscale("log")
    what = "band: range over seeds" if bands else "mean over seeds"
    panel.set(xlabel="training step", ylabel=f"{metric}, validation ({what})")
    panel.legend(fontsize=7)


def _arrived(panel: Any, runs: Runs, settings: dict[str, Any], colours: dict[str, str]) -> None:
    """Share of the seeds that reached the criterion."""
    for arm in runs:
        found = arrivals(runs, arm)
        steps = sorted(a.step for a in found if not a.censored)
        x = [0, *steps, settings["steps"]]
        y = [k / len(found) for k in range(len(steps) + 1)]
        panel.step(x, [*y, y[-1]], where="post", color=colours[arm], lw=1.4)
    panel.set(xlabel="training step", ylabel="share of seeds at criterion", ylim=(0, 1.02))


def _steps_strip(panel: Any, runs: Runs, colours: dict[str, str]) -> None:
    found = {arm: arrivals(runs, arm) for arm in runs}
    reached = {k: [float(a.step) for a in v if not a.censored] for k, v in found.items()}
    late = {k: [float(a.step) for a in v if a.censored] for k, v in found.items()}
    strip(panel, reached, colours, hidden=late)
    panel.set(ylabel="steps to criterion (triangle: not reached)", ylim=(0, None))


def _last_panel(panel: Any, runs: Runs, settings: dict[str, Any], colours: dict[str, str]) -> None:
    """Longer delays of a recurrent student, or the test error of an autoencoder."""
    if settings["student"] == "vae":
        values = {arm: [or_nan(r["test"]["ssim"]) for r in s.values()] for arm, s in runs.items()}
        strip(panel, values, colours)
        panel.set_ylabel("SSIM, test images")
        return
    x = [settings["delay_ms"], *settings["delays_ms"]]
    for arm, seeds in runs.items():
        y = [
            [or_nan(v) for v in (r["test"]["accuracy"], *r["delays"][: len(x) - 1])]
            for r in seeds.values()
        ]
        curve(panel, x, y, colours[arm], marker="o", ms=3, lw=1.4)
    panel.set(xlabel="delay, ms (first: as trained)", ylabel="accuracy, test trials")


def _less_data(panel: Any, runs: Runs, metric: str, colours: dict[str, str]) -> None:
    for arm, seeds in runs.items():
        shares = sorted({e["share"] for r in seeds.values() for e in r["efficiency"]})
        y = [np.mean(share_values(seeds, share, metric) or [np.nan]) for share in shares]
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
    drawing = sheet(title, 18 if less else 15, 4.4)
    panels = drawing.subplots(1, 5 if less else 4)
    colours = _colours(list(runs))
    _curves(panels[0], runs, settings, colours)
    _arrived(panels[1], runs, settings, colours)
    _steps_strip(panels[2], runs, colours)
    _last_panel(panels[3], runs, settings, colours)
    if less:
        _less_data(panels[4], runs, settings["metric"], colours)
    return png(drawing)
