"""The figure of `b2m regularize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.experiments.drawing import curve, png, sheet, strip
from b2m_fast.experiments.regularize_experiment import ARMS
from b2m_fast.experiments.tables import or_nan

if TYPE_CHECKING:
    from b2m_fast.experiments.tables import Runs

__all__ = ["figure"]


def figure(runs: Runs, evaluation: dict[str, Any], title: str) -> bytes:
    """A figure: accuracy against noise, smallest perturbations, mixture of layers.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    evaluation : dict
        An `Evaluation` as JSON holds it.
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
    drawing = sheet(title, 15, 4.2)
    panels = drawing.subplots(1, 4, width_ratios=[1.5, 1, 1, 1.2])
    colours = {arm: f"C{k}" for k, arm in enumerate(ARMS)}
    for arm, seeds in runs.items():
        y = [r["noise"] for r in seeds.values()]
        curve(
            panels[0], evaluation["noise"], y, colours[arm], band=0.12, label=arm, marker="o", ms=3
        )
    panels[0].set(xlabel="noise, standard deviation", ylabel="accuracy (band: range over seeds)")
    panels[0].legend(fontsize=8)
    for panel, norm in zip(panels[1:3], ("linf", "l2"), strict=True):
        values = {a: [or_nan(r[f"minimal_{norm}"]) for r in s.values()] for a, s in runs.items()}
        strip(panel, values, colours, middle=np.mean, dot=6, bar=22)
        name = norm.replace("l", "L", 1)
        panel.set(ylabel=f"smallest perturbation, median {name}", ylim=(0, None))
    for arm, seeds in runs.items():
        mixtures = [r["gamma"] for r in seeds.values() if r["gamma"] is not None]
        if mixtures:
            curve(panels[3], range(1, 6), mixtures, colours[arm], marker="o")
    panels[3].set(xlabel="layer (tap)", ylabel="learned weight gamma", ylim=(0, 1))
    return png(drawing)
