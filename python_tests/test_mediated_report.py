"""Tables and words of `b2m mediated` say what the runs say: gains, losses, controls and nulls."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from b2m_fast.experiments import mediated_report as report
from b2m_fast.experiments.mediated_numbers import metrics, variability
from b2m_fast.experiments.tables import Runs

SIZES = {"10": 10, "50": 50, "all": 900}
SETTINGS: dict[str, Any] = {
    "brain": "cowley-v4",
    "labels": "attributes",
    "metric": "r",
    "classes": 0,
    "combine": "stacked",
    "sizes": [10, 50, 100],
    "draws": 5,
    "folds": 10,
    "brains": ["V4-a", "V4-b"],
    "measured": ["V4-a"],
}
QUALITY = {
    "name": "V4-a", "units": 33, "stimuli": 1200, "r": 0.57, "r_low": 0.5, "r_high": 0.63,
    "ceiling": None,
}  # fmt: skip


def made_up(arm: str, scores: tuple[float, float, float], seed: int) -> dict[str, Any]:
    """A run with these scores, with some scatter over seeds that all arms share."""
    rng = np.random.default_rng([seed, len(arm)])
    found = {
        size: value + 0.02 * np.sin(seed) + 0.004 * float(rng.normal())
        for size, value in zip(SIZES, scores, strict=True)
    }
    points = np.arange(4.0)
    distance = np.abs(points[:, None] - points).tolist() if arm == "brain-mean" else None
    return {
        "arm": arm,
        "seed": seed,
        "scores": found,
        "labels": {size: [value, value - 0.1] for size, value in found.items()},
        "names": ["luminance", "contrast"],
        "labelled": SIZES,
        "penalties": {size: {"1e-06": 4, "1": 3, "1e+04": 3} for size in SIZES},
        "tested": 100,
        "encoders": [QUALITY] if arm == "brain-stacked" else [],
        "between": {}
        if distance is None
        else dict.fromkeys(SIZES, (np.array(distance) / 9).tolist()),
        "distance": distance,
        "distance_of": "ratings",
    }


def runs(seeds: int = 10, **arms: tuple[float, float, float]) -> Runs:
    return {
        (name := arm.replace("_", "-")): {s: made_up(name, scores, s) for s in range(seeds)}
        for arm, scores in arms.items()
    }


def related(*strengths: float) -> Runs:
    """An arm whose estimates of eight brains lie as the brains do (1), or the other way round (-1)."""
    points = np.sqrt(np.arange(8.0))
    brains = np.abs(points[:, None] - points)
    between = {
        size: (brains if strength > 0 else brains.max() - brains).tolist()
        for size, strength in zip(SIZES, strengths, strict=True)
    }
    one = made_up("brain-mean", (0.3, 0.5, 0.8), 0)
    return {"": {0: one | {"between": between, "distance": brains.tolist()}}}


def said(settings: dict[str, Any], **arms: tuple[float, float, float]) -> str:
    """The sentence about variability, of arms with relations of these signs."""
    found = {arm.replace("_", "-"): related(*signs)[""] for arm, signs in arms.items()}
    words = report.sentences(found, settings, {})
    return next(w for w in words if w.startswith("brain-mean: distance"))


def verdict(found: Runs) -> str:
    return report.sentences(found, SETTINGS, {})[-1]


def test_contrasts() -> None:
    """Every arm meets direct; the brains meet controls, the other combination and measured ones."""
    arms = ["direct", "direct-rank", "brain-V4-a", "brain-mean", "brain-stacked", "shuffled"]
    assert report.contrasts(arms, SETTINGS) == [
        *((arm, "direct") for arm in arms[1:]),
        ("brain-stacked", "direct-rank"),
        ("brain-stacked", "shuffled"),
        ("brain-stacked", "brain-mean"),
    ]
    assert report.contrasts(["shuffled"], SETTINGS) == []
    # responses measured in one brain are compared with that brain's encoder, not with all brains'
    some = ["brain-V4-a", "brain-V4-b", "brain-stacked", "measured"]
    assert report.contrasts(some, SETTINGS) == [("brain-V4-a", "measured")]
    every = SETTINGS | {"measured": SETTINGS["brains"]}
    assert report.contrasts(some, every) == [("brain-stacked", "measured")]


def test_a_gain_over_everything_is_said_with_the_sizes_it_holds_for() -> None:
    """Better with few samples than direct and all controls, worse with all: both are said."""
    found = runs(
        direct=(0.3, 0.5, 0.8), direct_rank=(0.3, 0.5, 0.7), brain_stacked=(0.5, 0.5, 0.7),
        shuffled=(0.2, 0.4, 0.7), random_map=(0.2, 0.4, 0.7),
    )  # fmt: skip
    last = verdict(found)
    assert last.startswith("In short: with n = 10 labels are estimated better through the brains")
    assert "than directly and than with direct-rank, shuffled, random-map." in last
    assert last.endswith("With n = all they are estimated worse.")


def test_a_control_that_does_as_well_takes_the_claim_away() -> None:
    """If the shuffled encoders do the same, the verdict names them, and them only."""
    found = runs(
        direct=(0.3, 0.5, 0.8), brain_stacked=(0.5, 0.6, 0.8), shuffled=(0.5, 0.6, 0.8),
        random_map=(0.2, 0.4, 0.7),
    )  # fmt: skip
    last = verdict(found)
    assert "than directly, but not than with shuffled: that it is the brains is not shown" in last


def test_sizes_at_which_a_control_is_beaten_are_told_apart() -> None:
    """A gain over direct at two sizes, over the control at one of them."""
    found = runs(direct=(0.3, 0.5, 0.8), brain_stacked=(0.5, 0.6, 0.8), shuffled=(0.2, 0.6, 0.8))
    assert "with n = 10, 50 labels are" in verdict(found)
    assert "and with n = 10 also than with shuffled." in verdict(found)


def test_without_controls_nothing_is_claimed_for_the_brains() -> None:
    """A gain over direct alone is not called the brains'."""
    last = verdict(runs(direct=(0.3, 0.5, 0.8), brain_stacked=(0.5, 0.6, 0.9)))
    assert "but no control was run: that it is the brains is not shown" in last


def test_nulls_and_losses_are_printed_as_such() -> None:
    """No gain anywhere is the verdict, and a loss is added to it."""
    same = runs(direct=(0.3, 0.5, 0.8), brain_stacked=(0.3, 0.5, 0.8), shuffled=(0.3, 0.5, 0.8))
    assert verdict(same) == (
        "In short: labels are at no n estimated better through the brains than directly. "
        "Better through the brains than with shuffled nowhere."
    )
    some = runs(
        direct=(0.5, 0.5, 0.8), brain_stacked=(0.4, 0.5, 0.8), shuffled=(0.3, 0.5, 0.7),
        random_map=(0.4, 0.5, 0.8),
    )  # fmt: skip
    assert verdict(some).endswith(
        "With n = 10 they are estimated worse. Better through the brains than with shuffled at "
        "n = 10, all; with random-map nowhere."
    )
    worse = runs(direct=(0.3, 0.5, 0.8), brain_stacked=(0.2, 0.4, 0.7))
    assert verdict(worse).endswith("directly. With n = 10, 50, all they are estimated worse.")


def test_few_seeds_give_no_verdict() -> None:
    """Five folds are too few; one seed and a missing direct give no verdict at all."""
    arms = {"direct": (0.3, 0.5, 0.8), "brain_stacked": (0.5, 0.6, 0.9)}
    assert verdict(runs(seeds=5, **arms)) == (
        "In short: 5 seeds are too few for a verdict; it takes 6."
    )
    assert not any("In short" in w for w in report.sentences(runs(seeds=1, **arms), SETTINGS, {}))
    alone = runs(brain_stacked=(0.5, 0.6, 0.9))
    assert not any("In short" in w for w in report.sentences(alone, SETTINGS, {}))


def test_intervals_are_widened_where_seeds_share_samples() -> None:
    """Correlation 1 / folds with all samples, next to none with 10 of 900, as 5 draws share few."""
    found = metrics(runs(direct=(0.3, 0.5, 0.8)), SETTINGS)
    assert [m.name for m in found] == ["n = 10", "n = 50", "all (900)"]
    np.testing.assert_allclose(
        [m.correlation for m in found], [50 / 900 / 10, 250 / 900 / 10, 1 / 10]
    )


def test_tables() -> None:
    """Scores, differences, encoders with an unknown ceiling, labels and the Mantel test."""
    found = runs(direct=(0.3, 0.5, 0.8), brain_mean=(0.4, 0.5, 0.8), brain_stacked=(0.5, 0.6, 0.8))
    text = report.markdown(found, SETTINGS)
    assert "| V4-a  | 33    | 1200    | 0.570 (0.50, 0.63) | not known |" in text
    assert "| luminance | 0.5" in text
    assert "direct, n = 50" in text
    assert "the distance between ratings" in text.replace("\n", " ")
    assert (
        "| brain-mean | 1.00 (p = 0.083)" in text
    )  # 2 of 24 orders: the line and its mirror image
    assert "nan " not in text
    test = variability(found)["brain-mean"]["10"]
    assert test.r == pytest.approx(1)
    assert test.exact
    assert list(variability(found)) == ["brain-mean"]


def test_words_about_variability_are_gated_by_the_number_of_sizes() -> None:
    """p = 2/24 at three sizes is no relation; single brains are counted, not listed."""
    found = runs(direct=(0.3, 0.5, 0.8), brain_mean=(0.4, 0.5, 0.8), brain_V4_a=(0.5, 0.4, 0.8))
    words = report.sentences(found, SETTINGS, {"words": ["About the data."]})
    assert words[0] == "About the data."
    assert any("p above 0.05 / 3 everywhere: no relation is shown" in w for w in words)
    assert any(w.startswith("Of 1 single brains 1 are better than direct at some n, and 1 are worse")
               for w in words)  # fmt: skip
    assert not any(w.startswith("brain-V4-a against") for w in words)


def test_a_relation_counts_only_where_shuffled_encoders_lack_it() -> None:
    """Sizes at which brains pass and shuffled encoders do not; those at which both do say nothing."""
    words = said(SETTINGS, brain_mean=(1, 1, -1), shuffled=(1, -1, -1))
    assert "p at most 0.05 / 3 at n = 50, and not so with shuffled encoders." in words
    assert "At n = 10 p at most 0.05 / 3, but also with shuffled encoders" in words
    assert words.endswith("there it says nothing.")
    words = said(SETTINGS, brain_mean=(1, -1, -1), shuffled=(1, 1, 1))
    assert "no relation is shown beyond that with shuffled encoders. At n = 10" in words
    assert "n = 50" not in words
    words = said(SETTINGS, brain_mean=(-1, -1, -1), shuffled=(1, 1, 1))
    assert words.endswith("everywhere: no relation is shown.")


def test_a_relation_without_its_control_is_said_to_have_none() -> None:
    """Without the arm shuffled nothing is claimed; of fMRI areas it is said where distances are from."""
    words = said(SETTINGS, brain_mean=(1, 1, 1))
    assert "at n = 10, 50, all, but no control was run: what it is due to is not shown." in words
    assert "very responses that the encoders were fitted to" not in words
    areas = SETTINGS | {"brain": "object2vec"}
    assert "very responses that the encoders were fitted to" in said(areas, brain_mean=(1, 1, 1))
    found = {"brain-mean": related(1, 1, 1)[""]}
    assert "very responses that the encoders were fitted to" in report.markdown(found, areas)
    assert "very responses" not in report.markdown(found, SETTINGS)


def test_penalties_that_were_not_chosen_or_lie_at_an_edge_are_told() -> None:
    """One sample of each class: no choice, in words and in the figure; most at an edge: named."""
    found = runs(direct=(0.3, 0.5, 0.8), shuffled=(0.3, 0.5, 0.8))
    assert not any("penalt" in w for w in report.sentences(found, SETTINGS, {}))
    classes = SETTINGS | {"metric": "accuracy", "classes": 10}
    (words,) = (w for w in report.sentences(found, classes, {}) if "penalty" in w)
    assert words.startswith("With n = 10 each class has one sample, so no penalty can be chosen")
    for result in found["direct"].values():
        low, high = {"1e-06": 9, "1": 3}, {"1e+04": 9, "1": 3}
        result["penalties"] = {"10": high, "50": high, "all": low}
    (words,) = (w for w in report.sentences(found, classes, {}) if "an edge" in w)
    assert words.endswith(
        "(1e-06 to 10000): direct at n = 50 (largest); direct at n = all (smallest)."
    )
    (words,) = (w for w in report.sentences(found, SETTINGS, {}) if "an edge" in w)
    assert "direct at n = 10, 50 (largest)" in words


def test_seeds_beyond_the_folds_do_not_shrink_intervals() -> None:
    """They test the same images again: correlated by 1 / folds at every size, not with all only."""
    found = metrics(runs(seeds=11, direct=(0.3, 0.5, 0.8)), SETTINGS)
    assert [m.correlation for m in found] == [0.1, 0.1, 0.1]


def test_summary_is_json_and_the_figure_is_drawn() -> None:
    """No NaN or infinity in the JSON, also with one seed, where there are no intervals."""
    for seeds in (1, 6):
        found = runs(
            seeds, direct=(0.3, 0.5, 0.8), brain_mean=(0.4, 0.5, 0.8),
            brain_stacked=(0.5, 0.6, 0.8), shuffled=(0.2, 0.2, 0.2),
        )  # fmt: skip
        summary = report.summarise(found, SETTINGS)
        json.dumps(summary, allow_nan=False)
        assert summary["encoders"] == [QUALITY]
        assert summary["variability"]["brain-mean"]["all"]["exact"] is True
        assert report.figure(found, SETTINGS, "title").startswith(b"\x89PNG")
