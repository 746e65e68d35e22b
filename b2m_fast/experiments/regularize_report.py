"""Tables and plain words about `b2m regularize`, whichever way it came out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.experiments.regularize_figure import figure
from b2m_fast.experiments.tables import (
    DIFFERENCES,
    Metric,
    Runs,
    comparison,
    contrasts_of,
    difference,
    difference_table,
    mean_table,
    or_nan,
    summary,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["contrasts", "figure", "markdown", "metrics", "sentences", "summarise"]

MEANS = (
    "Means over seeds: accuracy (fractions of the test images; for PGD, of the attacked ones), and "
    "the smallest perturbation found that changes the class (median over correctly classified "
    "images; pixels are in [0, 1])."
)
SIMILARITIES = (
    "What the penalty did: distance of the student's similarities from its arm's own target, "
    "beside that of students without a teacher; correlation with the neural target; and the "
    "learned mixture of the five layers."
)


def _level(levels: Sequence[float], wanted: float) -> int:
    return int(np.argmin([abs(x - wanted) for x in levels]))


def metrics(evaluation: dict[str, Any]) -> list[Metric]:
    """The numbers shown in tables.

    Parameters
    ----------
    evaluation : dict
        An `Evaluation` as JSON holds it.

    Returns
    -------
    list of Metric
        Accuracies, and median smallest perturbations of correctly classified images.
    """
    noise, linf, l2 = evaluation["noise"], evaluation["linf"], evaluation["l2"]
    half, top = _level(noise, max(noise) / 2), _level(noise, max(noise))
    a, b = len(linf) // 2, len(l2) // 2
    return [
        Metric("clean", lambda r: float(r["accuracy"])),
        Metric(f"noise {noise[half]:g}", lambda r: float(r["noise"][half])),
        Metric(f"noise {noise[top]:g}", lambda r: float(r["noise"][top])),
        Metric(f"PGD Linf {linf[a] * 255:.3g}/255", lambda r: float(r["pgd_linf"][a])),
        Metric(f"PGD L2 {l2[b]:g}", lambda r: float(r["pgd_l2"][b])),
        Metric("median Linf", lambda r: or_nan(r["minimal_linf"]), 4),
        Metric("median L2", lambda r: or_nan(r["minimal_l2"])),
    ]


def contrasts(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of arms worth comparing: each with none, and neural with each control.

    Parameters
    ----------
    arms : sequence of str
        Arms that were run.

    Returns
    -------
    list of (str, str)
        (arm, baseline).
    """
    return contrasts_of(arms, "none", "neural", arms)


def markdown(runs: Runs, evaluation: dict[str, Any]) -> str:
    """Three tables: means per arm, paired differences, and what the penalty did to the students.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    evaluation : dict
        An `Evaluation` as JSON holds it.

    Returns
    -------
    str
        Markdown.
    """
    columns = metrics(evaluation)
    lines = [MEANS, "", *mean_table(runs, columns)]
    lines += ["", DIFFERENCES, "", *difference_table(runs, columns, contrasts(list(runs)))]
    rows = [_similarity_row(runs, arm) for arm in runs]
    head = ["arm", "penalty, own target", "same, arm none", "r with neural", "gamma"]
    lines += ["", SIMILARITIES, "", *table(head, rows)]
    return "\n".join(lines) + "\n"


def _average(runs: Runs, arm: str, of: Callable[[dict[str, Any]], Any]) -> Any:
    values = [of(r) for r in runs.get(arm, {}).values()]
    return np.mean(values, axis=0) if values else None


def _similarity_row(runs: Runs, arm: str) -> list[str]:
    first = next(iter(runs[arm].values()))
    own = base = None
    if arm in first["similarity"] and first["gamma"] is not None:
        own = _average(runs, arm, lambda r: r["similarity"][arm]["penalty"])
        if all(arm in r["similarity"] for r in runs.get("none", {}).values()):
            base = _average(runs, "none", lambda r: r["similarity"][arm]["penalty"])
    r = _average(runs, arm, lambda x: x["similarity"]["neural"]["r"])
    gamma = "-"
    if first["gamma"] is not None:
        gamma = " ".join(f"{g:.2f}" for g in _average(runs, arm, lambda x: x["gamma"]))
    return [arm, *("-" if v is None else f"{v:.3f}" for v in (own, base, r)), gamma]


def sentences(runs: Runs, evaluation: dict[str, Any], teacher: dict[str, Any]) -> list[str]:
    """What the experiment shows, in words.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    evaluation : dict
        An `Evaluation` as JSON holds it.
    teacher : dict
        `SimilarityTeacher.report`; may be empty.

    Returns
    -------
    list of str
        One statement each.
    """
    out = _about_teacher(list(teacher.get("recordings", {}).values()))
    for arm, base in contrasts(list(runs)):
        if arm != "neural" and base == "none":
            continue
        words = comparison(runs, metrics(evaluation), arm, base)
        if words:
            out.append(words)
    return out + _verdict(runs, metrics(evaluation)[1:])


def _verdict(runs: Runs, robustness: Sequence[Metric]) -> list[str]:
    """One sentence: does the neural teacher make students robust, and is it the brain.

    A gain is a 95 % interval above 0, for the same measure against `none` and against a control.
    """
    if "neural" not in runs or "none" not in runs or len(runs["neural"]) < 2:
        return []

    def gains(base: str, measures: Sequence[Metric]) -> list[Metric]:
        found = [(m, difference(runs, "neural", base, m)) for m in measures]
        return [m for m, i in found if i is not None and i.excludes_zero and i.mean > 0]

    better = gains("none", robustness)
    if not better:
        return [
            "In short: the neural teacher did not make these students more robust than no teacher."
        ]
    names = ", ".join(m.name for m in better)
    equal = [arm for arm in runs if arm not in {"none", "neural"} and not gains(arm, better)]
    end = (
        f"but not there than {', '.join(equal)}: that it is the brain that helps is not shown."
        if equal
        else "and there than every control that was run."
    )
    return [f"In short: students with the neural teacher are more robust in {names}, {end}"]


def _about_teacher(recordings: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences about the quality of the teacher."""
    if not recordings:
        return []

    def mean(key: str, which: Sequence[dict[str, Any]]) -> float:
        return float(np.mean([r[key] for r in which]))

    out = []
    if any(r["synthetic"] for r in recordings):
        out.append(
            "The brain is SYNTHETIC: this shows that the method runs, not what a brain does."
        )
    out.append(
        "Cross-fitted predictions of held-out images correlate with the recorded responses at "
        f"r = {mean('predictability_mean', recordings):.2f} (mean over neurons)."
    )
    for key, what in (("truth", "the noise-free responses"), ("repeats", "other repeats")):
        which = [r for r in recordings if r.get(f"denoised_vs_{key}_r") is not None]
        if which:
            denoised = mean(f"denoised_vs_{key}_r", which)
            single = mean(f"single_trial_vs_{key}_r", which)
            verdict = "nearer" if denoised > single else "NOT nearer"
            out.append(
                f"Similarity from denoised responses is {verdict} to that of {what} than a single "
                f"trial's (r = {denoised:.2f} against {single:.2f}; mean over {len(which)} of "
                f"{len(recordings)} recordings)."
            )
    return out


def summarise(runs: Runs, evaluation: dict[str, Any]) -> dict[str, Any]:
    """Means and paired differences as JSON can hold them.

    Parameters
    ----------
    runs : dict
        Arm -> seed -> result.
    evaluation : dict
        An `Evaluation` as JSON holds it.

    Returns
    -------
    dict
        ``means`` and ``differences``.
    """
    return summary(runs, metrics(evaluation), contrasts(list(runs)))
