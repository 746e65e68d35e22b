"""Tables and words of `b2m mediated` alone: sizes and their intervals, encoders, labels, penalties, variability between brains."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from b2m_fast.experiments import report
from b2m_fast.experiments.figures import figure
from b2m_fast.experiments.mediated import Mediated
from b2m_fast.experiments.report import Results
from b2m_fast.experiments.settings import choose

SIZES = {"10": 10, "50": 50, "all": 900}
QUALITY = {
    "name": "201025", "units": 33, "stimuli": 1200, "r": 0.57, "r_low": 0.5, "r_high": 0.63,
    "ceiling": None,
}  # fmt: skip
Scores = tuple[float, float, float]


def made_up(arm: str, scores: Scores, seed: int) -> dict[str, Any]:
    """A run with these scores, with some scatter over seeds that all arms share."""
    rng = np.random.default_rng([seed, len(arm)])
    found = {
        size: value + 0.02 * np.sin(seed) + 0.004 * float(rng.normal())
        for size, value in zip(SIZES, scores, strict=True)
    }
    points = np.arange(4.0)
    distance = np.abs(points[:, None] - points) if arm == "brain-mean" else None
    return {
        "arm": arm,
        "seed": seed,
        "scores": found,
        "labels": {size: [value, value - 0.1] for size, value in found.items()},
        "names": ["luminance", "contrast"],
        "classes": 0,
        "labelled": SIZES,
        "penalties": {size: {"1e-06": 4, "1": 3, "1e+04": 3} for size in SIZES},
        "tested": 100,
        "encoders": [QUALITY] if arm.startswith("brain") else [],
        "between": {} if distance is None else dict.fromkeys(SIZES, (distance / 9).tolist()),
        "distance": None if distance is None else distance.tolist(),
        "distance_of": "ratings",
        "circular": False,
    }


def results(seeds: int = 10, **arms: Scores) -> Results:
    """Results with these scores (``_`` stands for ``-``), of V4's attributes."""
    settings = choose(Mediated(), {"brain": "cowley-v4", "labels": "attributes"}).settings
    names = {arm.replace("_", "-"): scores for arm, scores in arms.items()}
    runs = {a: {s: made_up(a, scores, s) for s in range(seeds)} for a, scores in names.items()}
    return Results(Mediated(), settings, runs)


def related(**arms: Scores) -> Results:
    """Arms whose estimates of eight brains lie as the brains do (1), or the other way round (-1), at each size."""
    points = np.sqrt(np.arange(8.0))
    brains = np.abs(points[:, None] - points)
    found = results(1, **dict.fromkeys(arms, (0.3, 0.5, 0.8)))
    for arm, signs in arms.items():
        run = found.runs[arm.replace("_", "-")][0]
        run["distance"] = brains.tolist()
        run["between"] = {
            size: (brains if sign > 0 else brains.max() - brains).tolist()
            for size, sign in zip(SIZES, signs, strict=True)
        }
    return found


def variability_words(found: Results) -> str:
    return next(w for w in report.words(found) if w.startswith("Mean over brains"))


# --------------------------------------------------------------------------------------------------
# What is compared
# --------------------------------------------------------------------------------------------------
def test_contrasts() -> None:
    """Every arm meets direct; the brains meet controls, the other combination and measured ones; like is compared with like."""
    experiment, found = Mediated(), results(direct=(0, 0, 0))
    arms = ["direct", "direct-rank", "brain-201025", "brain-mean", "brain-stacked", "shuffled"]
    pairs = experiment.contrasts(found.settings, arms)
    assert sorted(pairs) == sorted(
        [
            *((arm, "direct") for arm in arms[1:]),
            ("brain-stacked", "direct-rank"),
            ("brain-stacked", "shuffled"),
            ("brain-stacked", "brain-mean"),
        ]
    )
    assert experiment.contrasts(found.settings, ["shuffled"]) == []
    # responses measured in one brain are compared with that brain's encoder, not with all brains'
    some = ["brain-201025", "brain-190923", "brain-stacked", "measured"]
    assert experiment.contrasts(found.settings, some) == [("brain-201025", "measured")]
    areas = choose(experiment, {"brain": "object2vec", "combine": "mean"}).settings
    assert experiment.contrasts(areas, ["brain-mean", "measured"]) == [("brain-mean", "measured")]


def test_the_verdict_is_about_the_chosen_combination() -> None:
    """Better with few samples than direct and all controls, worse with all: both are said, single brains are no controls."""
    found = results(
        direct=(0.3, 0.5, 0.8), direct_rank=(0.3, 0.5, 0.7), brain_stacked=(0.5, 0.5, 0.7),
        brain_201025=(0.6, 0.6, 0.9), shuffled=(0.2, 0.4, 0.7), random_map=(0.2, 0.4, 0.7),
    )  # fmt: skip
    assert report.words(found)[-1] == (
        "In short: brain-stacked is better at n = 10 than direct, and than every control that was run (direct-rank, shuffled, "
        "random-map); it is worse at all (900) than direct."
    )


def test_intervals_are_widened_where_seeds_share_samples() -> None:
    """Correlation 1 / folds with all samples, next to none with 10 of 900, as 5 draws share few; seeds beyond the folds test the
    same images again, and are correlated by 1 / folds at every size."""
    found = results(direct=(0.3, 0.5, 0.8)).measures
    assert [m.label for m in found] == ["n = 10", "n = 50", "all (900)"]
    shares = [m.correlation for m in found]
    np.testing.assert_allclose(shares, [50 / 900 / 10, 250 / 900 / 10, 1 / 10])
    assert {m.level for m in found} == {1 - 0.05 / 3}
    again = results(11, direct=(0.3, 0.5, 0.8)).measures
    assert [m.correlation for m in again] == [0.1, 0.1, 0.1]


# --------------------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------------------
def test_tables() -> None:
    """Scores, differences, encoders with an unknown ceiling, labels and the Mantel test."""
    found = results(
        direct=(0.3, 0.5, 0.8), brain_mean=(0.4, 0.5, 0.8), brain_stacked=(0.5, 0.6, 0.8)
    )
    text = report.markdown(found)
    assert "| 201025 | 33    | 1200    | 0.570 (0.50, 0.63) | not known |" in text
    assert "| luminance | 0.5" in text
    assert "direct, n = 50" in text
    assert "the distance between ratings" in text
    assert (
        "| brain-mean | 1.00 (p = 0.083)" in text
    )  # 2 of 24 orders: the line and its mirror image
    assert "nan " not in text
    variability = report.summarise(found)["variability"]
    assert list(variability) == ["brain-mean"]
    assert variability["brain-mean"]["10"]["r"] == pytest.approx(1)
    assert variability["brain-mean"]["10"]["exact"] is True


def test_classes_have_no_table_of_labels() -> None:
    """A class has no score of its own; the scores are said to be shares."""
    found = results(direct=(0.3, 0.5, 0.8), brain_stacked=(0.5, 0.6, 0.8))
    for seeds in found.runs.values():
        for run in seeds.values():
            run["classes"] = 10
    text = report.markdown(found)
    assert "Label by label" not in text
    assert "Share of images classified rightly" in text


def test_summary_is_json_and_the_figure_is_drawn() -> None:
    """No NaN or infinity in the JSON, also with one seed, where there are no intervals."""
    for seeds in (1, 6):
        found = results(
            seeds, direct=(0.3, 0.5, 0.8), brain_mean=(0.4, 0.5, 0.8),
            brain_stacked=(0.5, 0.6, 0.8), shuffled=(0.2, 0.2, 0.2),
        )  # fmt: skip
        summary = report.summarise(found)
        json.dumps(summary, allow_nan=False)
        assert summary["encoders"] == [QUALITY]
        assert figure(found).startswith(b"\x89PNG")


# --------------------------------------------------------------------------------------------------
# Words
# --------------------------------------------------------------------------------------------------
def test_single_brains_are_counted_and_not_listed() -> None:
    """How many are better or worse at some size; no sentence for each."""
    words = report.words(results(direct=(0.3, 0.5, 0.8), brain_201025=(0.5, 0.4, 0.8)))
    assert any(
        w.startswith("Of 1 single brains 1 are better than direct at some n, and 1 are worse")
        for w in words
    )
    assert not any(w.startswith("brain-201025 against") for w in words)


def test_variability_is_judged_by_the_number_of_sizes() -> None:
    """p = 2/24 at three sizes is no relation."""
    found = results(direct=(0.3, 0.5, 0.8), brain_mean=(0.4, 0.5, 0.8))
    assert "p above 0.05 / 3 everywhere: no relation is shown." in variability_words(found)


def test_a_relation_counts_only_where_shuffled_encoders_lack_it() -> None:
    """Sizes at which brains pass and shuffled encoders do not; those at which both do say nothing."""
    words = variability_words(related(brain_mean=(1, 1, -1), shuffled=(1, -1, -1)))
    assert "p at most 0.05 / 3 at n = 50, and not so with shuffled encoders." in words
    assert "With n = 10 p is as small with shuffled encoders" in words
    assert words.endswith("there it says nothing.")
    words = variability_words(related(brain_mean=(1, -1, -1), shuffled=(1, 1, 1)))
    assert "no relation is shown beyond that with shuffled encoders. With n = 10" in words
    assert "n = 50" not in words
    words = variability_words(related(brain_mean=(-1, -1, -1), shuffled=(1, 1, 1)))
    assert words.endswith("everywhere: no relation is shown.")


def test_a_relation_without_its_control_is_said_to_have_none() -> None:
    """Without the arm shuffled nothing is claimed; of responses that encoders were fitted to it is said, too."""
    found = related(brain_mean=(1, 1, 1))
    words = variability_words(found)
    assert "at n = 10, 50, all, but no control was run: what it is due to is not shown." in words
    circular = "very responses that the encoders were fitted to"
    assert circular not in words
    assert circular not in report.markdown(found)
    found.runs["brain-mean"][0]["circular"] = True
    assert circular in variability_words(found)
    assert circular in report.markdown(found)


def test_penalties_that_were_not_chosen_or_lie_at_an_edge_are_told() -> None:
    """One sample of each class: no choice; most at an edge: named, with the sizes."""
    found = results(direct=(0.3, 0.5, 0.8), shuffled=(0.3, 0.5, 0.8))
    assert not any("penalt" in w for w in report.words(found))
    for run in (run for seeds in found.runs.values() for run in seeds.values()):
        run["classes"] = 10
    (words,) = (w for w in report.words(found) if "penalty" in w)
    assert words.startswith("With n = 10 each class has one sample, so no penalty can be chosen")
    for run in found.runs["direct"].values():
        low, high = {"1e-06": 9, "1": 3}, {"1e+04": 9, "1": 3}
        run["penalties"] = {"10": high, "50": high, "all": low}
    (words,) = (w for w in report.words(found) if "an edge" in w)
    assert words.endswith(
        "(1e-06 to 10000): direct at n = 50 (largest); direct at n = all (smallest)."
    )
    for run in (run for seeds in found.runs.values() for run in seeds.values()):
        run["classes"] = 0
    (words,) = (w for w in report.words(found) if "an edge" in w)
    assert "direct at n = 10, 50 (largest)" in words
