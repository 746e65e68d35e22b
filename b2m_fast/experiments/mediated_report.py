"""Tables and plain words about `b2m mediated`, whichever way it came out."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.evaluate.convergence import FEWEST
from b2m_fast.experiments.former import finite
from b2m_fast.experiments.mediated_arms import CONTROLS
from b2m_fast.experiments.mediated_experiment import ALL
from b2m_fast.experiments.mediated_figure import figure
from b2m_fast.experiments.mediated_numbers import (
    any_run,
    at_an_edge,
    encoders,
    metrics,
    sizes_of,
    unchosen,
    variability,
)
from b2m_fast.experiments.tables import (
    Metric,
    Runs,
    comparison,
    contrasts_of,
    difference,
    difference_table,
    mean_table,
    signed,
    summary,
    table,
)
from b2m_fast.methods.config import PENALTIES

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["contrasts", "figure", "markdown", "sentences", "summarise"]

SCORES = {
    "r": "Correlation of estimated and true labels on images without a part in anything that was "
    "fitted to labels, mean over labels; by number of labelled samples n, means over seeds.",
    "accuracy": "Share of images classified rightly, of those without a part in anything that was "
    "fitted to labels; by number of labelled samples n, means over seeds.",
}
DIFFERENCES = (
    "Differences between arms on the same samples, with 95 % Student intervals over seeds; * marks an "
    "interval that excludes 0 (not corrected for the number of cells). As many seeds as folds test "
    "each image once, seeds beyond them the same images again; labelled samples overlap where n is a "
    "large part of all; intervals are widened for both (docs/mediated.md). They are about other "
    "images, given these brains: other animals or persons they do not cover."
)
ENCODERS = (
    "Encoders: correlation of predicted and measured responses to held-out stimuli, mean over units "
    "(quartiles); ceiling: what a perfect model would reach, known where stimuli were repeated."
)
PER_LABEL = (
    "Label by label: r with n = {small}, and with all. Differences {main} - direct as above."
)
VARIABILITY = (
    "Do brains that differ lead to estimates that differ? Spearman correlation over pairs of brains "
    "of the distance between their estimates (1 - r, averaged over seeds) with the distance between "
    "{of}; p: Mantel test, one-sided, brains permuted. shuffled: the same with encoders that know "
    "nothing of the stimuli. Estimates are in standard deviations of each label.{circular}"
)
CIRCULAR = (
    " The distance between the areas is of the very responses that the encoders were fitted to, in "
    "one session whose noise the areas share: a relation describes these data, it is no test on others."
)
LEVEL = 0.05


def contrasts(arms: Sequence[str], settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs of arms worth comparing: each with direct, and the brains with each control.

    Parameters
    ----------
    arms : sequence of str
        Arms that were run.
    settings : dict
        A `MediatedExperiment` as JSON holds it.

    Returns
    -------
    list of (str, str)
        (arm, baseline).
    """
    main = f"brain-{settings['combine']}"
    pairs = contrasts_of(arms, "direct", main, (*CONTROLS, "brain-mean", "brain-stacked"))
    if "measured" in arms:  # like with like: the brains that were measured
        every = settings["measured"] == settings["brains"]
        like = [main] if every else [f"brain-{name}" for name in settings["measured"]]
        pairs += [(arm, "measured") for arm in like if arm in arms]
    return pairs


# --------------------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------------------
def _encoder_table(runs: Runs) -> list[str]:
    found = encoders(runs)
    if not found:
        return []
    rows = [
        [
            q["name"], str(q["units"]), str(q["stimuli"]),
            f"{q['r']:.3f} ({q['r_low']:.2f}, {q['r_high']:.2f})",
            "not known" if q["ceiling"] is None else f"{q['ceiling']:.3f}",
        ]
        for q in found
    ]  # fmt: skip
    return ["", ENCODERS, "", *table(["brain", "units", "stimuli", "held-out r", "ceiling"], rows)]


def _label_table(runs: Runs, settings: dict[str, Any]) -> list[str]:
    main = f"brain-{settings['combine']}"
    names = any_run(runs)["names"]
    if settings["metric"] != "r" or main not in runs or "direct" not in runs:
        return []
    columns = metrics(runs, settings)
    sizes = sizes_of(runs)
    few = sizes[(len(sizes) - 1) // 2]
    rows = []
    for k, name in enumerate(names):
        row = [name]
        for size in dict.fromkeys((few, ALL)):
            place = columns[sizes.index(size)]
            metric = Metric(
                name, lambda r, s=size, k=k: float(r["labels"][s][k]),  # type: ignore[misc]
                correlation=place.correlation,
            )  # fmt: skip
            values = [np.mean([metric.of(r) for r in runs[a].values()]) for a in ("direct", main)]
            row += [
                *(f"{v:.3f}" for v in values),
                signed(difference(runs, main, "direct", metric), 3),
            ]
        rows.append(row)
    head = [h for size in dict.fromkeys((few, ALL))
            for h in (f"direct, n = {size}", main, "difference")]  # fmt: skip
    return ["", PER_LABEL.format(small=few, main=main), "", *table(["label", *head], rows)]


def _circular(settings: dict[str, Any]) -> str:
    """What to say where distances are of responses that encoders were fitted to."""
    return CIRCULAR if settings["brain"] == "object2vec" else ""


def _variability_table(runs: Runs, settings: dict[str, Any]) -> list[str]:
    found = variability(runs)
    if not found:
        return []
    sizes = list(next(iter(found.values())))
    rows = [
        [arm, *(f"{t.r:.2f} (p = {t.p:.2g})" for t in tests.values())]
        for arm, tests in found.items()
    ]
    of = any_run({arm: runs[arm] for arm in found})["distance_of"]
    text = VARIABILITY.format(of=of, circular=_circular(settings))
    return ["", text, "", *table(["arm", *(f"n = {s}" for s in sizes)], rows)]


def markdown(runs: Runs, settings: dict[str, Any]) -> str:
    """Tables: scores by number of samples, paired differences, encoders, labels, variability.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    settings : dict
        A `MediatedExperiment` as JSON holds it.

    Returns
    -------
    str
        Markdown.
    """
    columns = metrics(runs, settings)
    lines = [SCORES[settings["metric"]], "", *mean_table(runs, columns)]
    pairs = contrasts(list(runs), settings)
    if pairs:
        lines += ["", DIFFERENCES, "", *difference_table(runs, columns, pairs)]
    lines += _encoder_table(runs) + _label_table(runs, settings)
    lines += _variability_table(runs, settings)
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
        A `MediatedExperiment` as JSON holds it.
    teacher : dict
        Report of the material; its ``words`` are sentences about it. May be empty.

    Returns
    -------
    list of str
        One statement each.
    """
    out = list(teacher.get("words", [])) + _penalty_words(runs, settings)
    columns = metrics(runs, settings)
    single = [f"brain-{name}" for name in settings["brains"]]
    for arm, base in contrasts(list(runs), settings):
        told = base == "measured" or arm not in single
        words = comparison(runs, columns, arm, base) if told else None
        if words:
            out.append(words)
    out += _single_words(runs, columns, [arm for arm in single if arm in runs])
    return out + _variability_words(runs, settings) + _verdict(runs, settings)


def _penalty_words(runs: Runs, settings: dict[str, Any]) -> list[str]:
    """Where penalties were not chosen, and where the grid may have been too narrow."""
    out = []
    if found := unchosen(runs, settings):
        out.append(
            f"With n = {', '.join(found)} each class has one sample, so no penalty can be chosen: all "
            f"arms have the largest, {PENALTIES[-1]:g}, which is to compare with these samples."
        )
    edges = []
    for arm, sizes in at_an_edge(runs, settings).items():
        for name, group in groupby(sizes.items(), key=lambda item: item[1]):
            edges.append(f"{arm} at n = {', '.join(size for size, _ in group)} ({name})")
    if edges:
        out.append(
            f"More than half of the chosen penalties lie at an edge of the grid ({PENALTIES[0]:g} to "
            f"{PENALTIES[-1]:g}): {'; '.join(edges)}."
        )
    return out


def _single_words(runs: Runs, columns: Sequence[Metric], single: Sequence[str]) -> list[str]:
    """How many of the single brains are better, or worse, than no brain."""
    if not single or "direct" not in runs or len(runs["direct"]) < 2:
        return []

    def count(sign: int) -> int:
        found = [[difference(runs, arm, "direct", m) for m in columns] for arm in single]
        return sum(
            any(i is not None and i.excludes_zero and sign * i.mean > 0 for i in row)
            for row in found
        )

    better, worse = count(1), count(-1)
    words = (
        f"Of {len(single)} single brains {better} are better than direct at some n, and {worse} "
    )
    return [words + "are worse at some n (not corrected for their number)."]


def _variability_words(runs: Runs, settings: dict[str, Any]) -> list[str]:
    """Where brains that differ lead to estimates that differ, and encoders that know nothing do not."""
    found = variability(runs)
    tests = found.get("brain-mean", {})
    values = [t.r for t in tests.values() if math.isfinite(t.r)]
    if not values:
        return []
    of = any_run({"brain-mean": runs["brain-mean"]})["distance_of"]
    level = f"p at most {LEVEL:g} / {len(tests)}"
    start = (
        f"brain-mean: distance between estimates against distance between {of}, Spearman "
        f"{min(values):.2f} to {max(values):.2f}; "
    )

    def passed(arm: str) -> list[str]:
        return [s for s, t in found.get(arm, {}).items() if t.p <= LEVEL / len(tests)]

    there, null = passed("brain-mean"), passed("shuffled")
    sure, both = [s for s in there if s not in null], [s for s in there if s in null]
    if not there:
        end = f"p above {LEVEL:g} / {len(tests)} everywhere: no relation is shown."
    elif "shuffled" not in found:
        end = f"{level} at n = {', '.join(there)}, but no control was run: what it is due to is not shown."
    elif sure:
        end = f"{level} at n = {', '.join(sure)}, and not so with shuffled encoders."
    else:
        end = "no relation is shown beyond that with shuffled encoders."
    if both and "shuffled" in found:
        end += (
            f" At n = {', '.join(both)} {level}, but also with shuffled encoders, which know nothing "
            "of the stimuli: there it says nothing."
        )
    return [start + end + (_circular(settings) if there else "")]


def _gains(runs: Runs, settings: dict[str, Any], base: str, sign: int = 1) -> list[str]:
    """Sizes at which the brains are better (sign 1) or worse (-1) than an arm.

    By intervals of level 1 - 0.05 / (number of sizes): all sizes are looked at.
    """
    main = f"brain-{settings['combine']}"
    columns = metrics(runs, settings)
    out = []
    for size, metric in zip(sizes_of(runs), columns, strict=True):
        interval = difference(runs, main, base, metric, 1 - LEVEL / len(columns))
        if interval is not None and interval.excludes_zero and sign * interval.mean > 0:
            out.append(size)
    return out


def _verdict(runs: Runs, settings: dict[str, Any]) -> list[str]:
    """One sentence: are labels better estimated through the brains, and is it the brains."""
    main = f"brain-{settings['combine']}"
    if main not in runs or "direct" not in runs or len(runs[main]) < 2:
        return []
    if (few := len(set(runs[main]) & set(runs["direct"]))) < FEWEST:
        return [f"In short: {few} seeds are too few for a verdict; it takes {FEWEST}."]
    better = _gains(runs, settings, "direct")
    worse = _gains(runs, settings, "direct", -1)
    loss = f" With n = {', '.join(worse)} they are estimated worse." if worse else ""
    controls = [arm for arm in CONTROLS if arm in runs]
    beaten = {arm: set(_gains(runs, settings, arm)) for arm in controls}
    if not better:
        null = "In short: labels are at no n estimated better through the brains than directly."
        return [null + loss + _against_controls(beaten, sizes_of(runs))]
    sure = [size for size in better if all(size in found for found in beaten.values())]
    start = (
        f"In short: with n = {', '.join(better)} labels are estimated better through the brains "
    )
    if not controls:
        end = "than directly, but no control was run: that it is the brains is not shown."
    elif len(sure) == len(better):
        end = f"than directly and than with {', '.join(controls)}."
    elif sure:
        end = f"than directly, and with n = {', '.join(sure)} also than with {', '.join(controls)}."
    else:
        equal = [arm for arm in controls if not beaten[arm] & set(better)] or controls
        end = f"than directly, but not than with {', '.join(equal)}: that it is the brains is not shown."
    return [start + end + loss]


def _against_controls(beaten: dict[str, set[str]], sizes: Sequence[str]) -> str:
    """Where the brains are better than maps that hold no brain, if not better than no map at all."""
    parts = [
        f"with {arm} at n = {', '.join(s for s in sizes if s in found)}" if found
        else f"with {arm} nowhere"
        for arm, found in beaten.items()
    ]  # fmt: skip
    return f" Better through the brains than {'; '.join(parts)}." if parts else ""


def summarise(runs: Runs, settings: dict[str, Any]) -> dict[str, Any]:
    """Means, paired differences, encoders and Mantel tests as JSON can hold them.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    settings : dict
        A `MediatedExperiment` as JSON holds it.

    Returns
    -------
    dict
        ``means``, ``differences``, ``encoders`` and ``variability``.
    """
    tests = {
        arm: {
            size: {"r": finite(t.r), "p": t.p, "permutations": t.permutations, "exact": t.exact}
            for size, t in found.items()
        }
        for arm, found in variability(runs).items()
    }
    pairs = contrasts(list(runs), settings)
    return summary(runs, metrics(runs, settings), pairs) | {
        "encoders": encoders(runs), "variability": tests
    }  # fmt: skip
