"""Tables and words say what the runs say, nulls included."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from b2m_fast.experiments import regularize_report as report
from b2m_fast.experiments import tables
from b2m_fast.experiments.regularize_experiment import Evaluation

EVALUATION = asdict(Evaluation(noise=(0.0, 0.1), linf=(0.01,), l2=(0.1,)))


def made_up(robustness: float, seed: int, arm: str = "none") -> dict[str, Any]:
    """A run whose robustness is `robustness` and a little chance shared by all arms of a seed."""
    value = robustness + 0.1 * seed + 0.001 * ((seed * len(arm)) % 3)
    taught = arm not in {"none", "blur"}
    return {
        "accuracy": 0.5,
        "noise": [0.5, value],
        "pgd_linf": [value],
        "pgd_l2": [value],
        "minimal_linf": value,
        "minimal_l2": None,
        "gamma": [0.2] * 5 if taught else None,
        "similarity": {a: {"penalty": 0.1, "r": 0.3} for a in ("neural", "pixel")},
    }


def runs(**robustness: float) -> tables.Runs:
    return {
        arm.replace("_", "-"): {s: made_up(r, s, arm) for s in range(3)}
        for arm, r in robustness.items()
    }


def test_contrasts() -> None:
    """Every arm is compared with none, and neural with every control."""
    pairs = report.contrasts(["none", "neural", "pixel"])
    assert pairs == [("neural", "none"), ("pixel", "none"), ("neural", "pixel")]
    assert report.contrasts(["pixel", "raw"]) == []


def test_pairing_by_seed() -> None:
    """A gain of .05 is found although seeds scatter by .2; seeds missing in one arm are left out."""
    both = runs(none=0.3, neural=0.35)
    del both["neural"][2]
    summary = report.summarise(both, EVALUATION)
    difference = summary["differences"]["neural - none"]["PGD L2 0.1"]
    assert difference["mean"] == pytest.approx(0.05, abs=0.01)
    assert difference["n"] == 2
    assert summary["means"]["none"]["PGD L2 0.1"]["n"] == 3


def test_missing_numbers_are_dashes() -> None:
    """A measure no run has is a dash in the table and null in the JSON, not a crash."""
    both = runs(none=0.3, neural=0.3)
    assert report.summarise(both, EVALUATION)["means"]["none"]["median L2"] is None
    assert " -  " in report.markdown(both, EVALUATION)


@pytest.mark.parametrize(
    ("robustness", "words"),
    [
        ({"none": 0.3, "neural": 0.3}, "did not make these students more robust"),
        ({"none": 0.3, "neural": 0.2}, "did not make these students more robust"),
        ({"none": 0.3, "neural": 0.4, "pixel": 0.4}, "but not there than pixel: that it is the"),
        ({"none": 0.3, "neural": 0.4, "pixel": 0.3}, "than every control that was run"),
    ],
)
def test_verdict(robustness: dict[str, float], words: str) -> None:
    """The last sentence follows from the intervals: null, loss, gain without and with controls."""
    assert words in report.sentences(runs(**robustness), EVALUATION, {})[-1]


def test_one_seed_gives_no_verdict() -> None:
    """With one seed the words say that nothing can be said."""
    one = {arm: {0: seeds[0]} for arm, seeds in runs(none=0.1, neural=0.9).items()}
    lines = report.sentences(one, EVALUATION, {})
    assert lines == [
        "neural against none: one seed only, so nothing can be said about chance (1 seed)."
    ]
    assert "nan" not in report.markdown(one, EVALUATION)


def test_denoiser_that_does_not_help_is_said() -> None:
    """A teacher whose denoising does not beat a single trial is reported so."""
    quality = {
        "synthetic": False,
        "predictability_mean": 0.4,
        "denoised_vs_repeats_r": 0.4,
        "single_trial_vs_repeats_r": 0.5,
    }
    lines = report.sentences(runs(none=0.3), EVALUATION, {"recordings": {"a": quality}})
    assert any("NOT nearer" in line for line in lines)
    assert not any("SYNTHETIC" in line for line in lines)


def test_figure_is_a_png() -> None:
    """The figure is drawn for arms with and without a teacher."""
    pytest.importorskip("matplotlib")
    png = report.figure(runs(none=0.3, neural=0.4, blur=0.4), EVALUATION, "title")
    assert png.startswith(b"\x89PNG")
