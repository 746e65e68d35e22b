"""Numbers of brain-mediated transfer that tables, words and figure are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from b2m_fast.evaluate.variability import MantelTest, mantel
from b2m_fast.experiments.mediated_experiment import ALL
from b2m_fast.experiments.tables import Metric, Runs, or_nan
from b2m_fast.methods.config import PENALTIES

Array = NDArray[np.float64]

__all__ = [
    "any_run",
    "at_an_edge",
    "between",
    "encoders",
    "metrics",
    "sizes_of",
    "unchosen",
    "variability",
]


def any_run(runs: Runs) -> dict[str, Any]:
    """One of the runs, for what they have in common.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.

    Returns
    -------
    dict
        A result.
    """
    return next(r for seeds in runs.values() for r in seeds.values())


def sizes_of(runs: Runs) -> list[str]:
    """Numbers of labelled samples.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.

    Returns
    -------
    list of str
        In order; the last is `ALL`.
    """
    return list(any_run(runs)["labelled"])


def metrics(runs: Runs, settings: dict[str, Any]) -> list[Metric]:
    """A score for each number of labelled samples.

    Scores of two seeds are taken to be correlated by (share of labelled samples they have in common)
    x (share of images that are tested on): Nadeau and Bengio's (2003) for all samples, none for few.
    Seeds beyond the folds test the same images again: then it is Nadeau and Bengio's at every size,
    so that intervals do not shrink for want of new images.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    settings : dict
        A `MediatedExperiment` as JSON holds it.

    Returns
    -------
    list of Metric
        One a size.
    """
    labelled = any_run(runs)["labelled"]
    again = len({seed // settings["folds"] for seeds in runs.values() for seed in seeds}) > 1
    out = []
    for size in sizes_of(runs):
        draws = 1 if size == ALL else settings["draws"]
        shared = 1.0 if again else min(1.0, draws * labelled[size] / labelled[ALL])
        name = f"n = {size}" if size != ALL else f"all ({labelled[ALL]})"
        out.append(
            Metric(name, lambda r, k=size: or_nan(r["scores"].get(k)),  # type: ignore[misc]
                   correlation=shared / settings["folds"])
        )  # fmt: skip
    return out


def unchosen(runs: Runs, settings: dict[str, Any]) -> list[str]:
    """Sizes at which each class has one sample, so that no penalty was chosen.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    settings : dict
        A `MediatedExperiment` as JSON holds it.

    Returns
    -------
    list of str
        Sizes.
    """
    labelled = any_run(runs)["labelled"]
    return [size for size, count in labelled.items() if count < 2 * settings["classes"]]


def at_an_edge(runs: Runs, settings: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Where more than half of the chosen penalties are the smallest, or the largest, of the grid.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    settings : dict
        A `MediatedExperiment` as JSON holds it.

    Returns
    -------
    dict
        Arm -> size -> "smallest" or "largest"; arms and sizes without it are left out.
    """
    out: dict[str, dict[str, str]] = {}
    left_out = unchosen(runs, settings)
    for arm, seeds in runs.items():
        for size in (s for s in sizes_of(runs) if s not in left_out):
            counts = [r["penalties"][size] for r in seeds.values()]
            total = sum(sum(c.values()) for c in counts)
            for name, edge in (("smallest", PENALTIES[0]), ("largest", PENALTIES[-1])):
                there = sum(n for c in counts for key, n in c.items() if float(key) == edge)
                if 2 * there > total:
                    out.setdefault(arm, {})[size] = name
    return out


def encoders(runs: Runs) -> list[dict[str, Any]]:
    """Quality of the encoders of the brains that were run, each once.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.

    Returns
    -------
    list of dict
        As `b2m_fast.experiments.mediated_brains.Brain.quality`.
    """
    found = {q["name"]: q for seeds in runs.values() for r in seeds.values() for q in r["encoders"]}
    return list(found.values())


def between(seeds: dict[int, dict[str, Any]]) -> dict[str, Array]:
    """Distance between the estimates of brains, averaged over seeds.

    Parameters
    ----------
    seeds : dict
        Seed -> result of an arm.

    Returns
    -------
    dict
        Size -> (brains, brains); empty where there is no distance to compare with.
    """
    known = [r for r in seeds.values() if r["distance"] is not None and r["between"]]
    return {
        size: np.mean([r["between"][size] for r in known], axis=0)
        for size in (known[0]["between"] if known else ())
    }


def variability(runs: Runs) -> dict[str, dict[str, MantelTest]]:
    """Mantel tests of the distance between estimates, by arm and size.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.

    Returns
    -------
    dict
        Arm -> size -> test; empty where there is no distance to compare with.
    """
    return {
        arm: {
            size: mantel(distance, np.array(any_run({arm: seeds})["distance"]))
            for size, distance in found.items()
        }
        for arm, seeds in runs.items()
        if (found := between(seeds))
    }
