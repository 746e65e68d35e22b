"""Tables and words of `b2m transfer` say what the runs say: censoring, nulls and controls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from b2m_fast.experiments import transfer_report as report
from b2m_fast.experiments.tables import Runs

SETTINGS: dict[str, Any] = {
    "method": "latent",
    "student": "gru",
    "metric": "accuracy",
    "curve": "validation_accuracy",
    "criterion": 0.9,
    "consecutive": 2,
    "every": 10,
    "steps": 100,
    "delay_ms": 500.0,
    "delays_ms": [1000.0],
    "pool": 2000,
}
VAE = SETTINGS | {
    "student": "vae",
    "metric": "ssim",
    "curve": "validation_ssim",
    "method": "contrastive",
    "delays_ms": [],
    "pool": None,
}


def made_up(arrives: int, final: float, seed: int) -> dict[str, Any]:
    """A run that arrives at a step (never, from 100 on) and ends at a value, with some scatter."""
    step = arrives + 10 * (seed % 3)
    final += 0.001 * (seed % 4)
    curve = [
        {"step": s, "validation_accuracy": 0.95 if s >= step else 0.5} for s in range(0, 101, 10)
    ]
    return {
        "arrival": {"step": min(step, 100), "censored": step >= 100},
        "history": curve,
        "area": final - 0.1,
        "test": {"accuracy": final, "ssim": final, "mse": 1 - final, "readout_r2": None},
        "delays": [final - 0.2],
        "efficiency": [],
    }


def runs(**arms: tuple[int, float]) -> Runs:
    return {
        arm: {s: made_up(arrives, final, s) for s in range(10)}
        for arm, (arrives, final) in arms.items()
    }


def test_contrasts() -> None:
    """Every arm is compared with none, and the brain with every control; zero is none."""
    pairs = report.contrasts(["none", "zero", "brain", "label"])
    assert pairs == [
        ("zero", "none"), ("brain", "none"), ("label", "none"), ("brain", "label")
    ]  # fmt: skip
    assert report.contrasts(["label"]) == []


def test_a_faster_brain_is_said_to_be_faster() -> None:
    """Ratio, interval and words agree when the brain halves the steps and no control does."""
    found = runs(none=(60, 0.9), brain=(20, 0.9), shuffled=(60, 0.9))
    ratio = report.summarise(found, SETTINGS)["ratios"]["brain / none"]
    assert ratio["ratio"] == pytest.approx(30 / 70, abs=0.1)
    assert ratio["high"] < 1
    assert ratio["p_log_rank"] < 0.05
    lines = report.sentences(found, SETTINGS, {})
    speed = [line.split(". ")[0] for line in lines if line.startswith("brain needs 0.")]
    assert speed
    assert not any("not told apart" in words for words in speed)
    assert lines[-1].endswith("than students alone, and than every control that was run.")
    assert "faster to the criterion" in lines[-1]
    assert "better" not in lines[-1]


def test_a_control_that_is_as_fast_takes_the_claim_away() -> None:
    """If the label-derived teacher does the same, the verdict names it."""
    found = runs(none=(60, 0.9), brain=(20, 0.9), label=(20, 0.9), shuffled=(60, 0.9))
    last = report.sentences(found, SETTINGS, {})[-1]
    assert "but not than label: that it is the brain that helps is not shown" in last
    assert "shuffled" not in last


def test_without_controls_nothing_is_claimed_for_the_brain() -> None:
    """A gain over no teacher alone is not called the brain's."""
    last = report.sentences(runs(none=(60, 0.8), brain=(20, 0.9)), SETTINGS, {})[-1]
    assert "faster to the criterion and better in accuracy" in last
    assert "no control was run" in last


def test_nulls_are_printed_as_nulls() -> None:
    """Arms that do not differ are said not to differ, in ratio, differences and verdict."""
    lines = report.sentences(runs(none=(60, 0.9), brain=(60, 0.9)), SETTINGS, {})
    assert any("1.00 times the steps" in line and "not told apart" in line for line in lines)
    assert "neither faster to the criterion nor better" in lines[-1]


def test_a_smaller_error_is_better() -> None:
    """For reconstruction, a lower mean squared error counts as a gain, a higher one does not."""
    better = report.sentences(runs(none=(60, 0.5), brain=(60, 0.8)), VAE, {})[-1]
    assert "better in ssim" in better
    assert "better in mse" in better
    worse = report.sentences(runs(none=(60, 0.8), brain=(60, 0.5)), VAE, {})[-1]
    assert "neither" in worse


def test_censored_medians_are_bounds() -> None:
    """An arm that never arrives has an open median in the table and null in the JSON, no crash."""
    found = runs(none=(200, 0.5), brain=(20, 0.9), label=(200, 0.5))
    table = report.markdown(found, SETTINGS)
    assert "> 100" in table
    assert "nan" not in table
    summary = report.summarise(found, SETTINGS)
    assert summary["steps"]["none"] == {"median": None, "reached": 0, "seeds": 10}
    assert summary["ratios"]["brain / none"]["ratio"] is None
    assert summary["ratios"]["brain / none"]["high"] < 1
    json.dumps(summary, allow_nan=False)
    assert "faster to the criterion" in report.sentences(found, SETTINGS, {})[-1]


def test_criterion_met_before_training_gives_no_ratio() -> None:
    """A baseline that is there at step 0 leaves a dash, not an error."""
    found = runs(none=(0, 0.9), brain=(0, 0.9))
    assert report.summarise(found, SETTINGS)["ratios"]["brain / none"] is None
    assert "| brain / none" in report.markdown(found, SETTINGS)


def test_one_seed_gives_no_verdict() -> None:
    """With one seed there is no interval, no star and no verdict."""
    one = {arm: {0: seeds[0]} for arm, seeds in runs(none=(60, 0.1), brain=(20, 0.9)).items()}
    lines = report.sentences(one, SETTINGS, {"words": ["About the teacher."]})
    assert lines[0] == "About the teacher."
    assert len(lines) == 2
    assert "one seed only" in lines[1]
    assert "nan" not in report.markdown(one, SETTINGS)


def test_few_seeds_give_neither_stars_nor_a_verdict() -> None:
    """Five seeds, however far apart: no star, no "faster", but that they are too few."""
    found = {a: dict(list(s.items())[:5]) for a, s in runs(none=(60, 0.5), brain=(20, 0.9)).items()}
    lines = report.sentences(found, SETTINGS, {})
    assert any("5 seeds are too few to tell" in line for line in lines)
    assert lines[-1] == "In short: 5 seeds are too few for a verdict; it takes 6."
    first = report.markdown(found, SETTINGS).split("Means over seeds")[0]
    assert "] *" not in first


def test_less_data_is_a_table_of_its_own() -> None:
    """Shares of the data become columns, in order, and are left out when not asked for."""
    found = runs(none=(60, 0.5))
    assert "Less data" not in report.markdown(found, SETTINGS)
    for run in found["none"].values():
        run["efficiency"] = [
            {"share": s, "test": {"accuracy": s}, "arrival": run["arrival"]} for s in (1.0, 0.05)
        ]
    table = report.markdown(found, SETTINGS)
    assert "5 % " in table
    assert "| none | 0.050 [0.050, 0.050] | 1.000 [1.000, 1.000] |" in table
    assert "a pool of 2000 trials (100 %)" in table


@pytest.mark.parametrize("settings", [SETTINGS, VAE])
def test_figure_is_a_png(settings: dict[str, Any]) -> None:
    """The figure is drawn with censored seeds, unknown arms, and shares of the data."""
    pytest.importorskip("matplotlib")
    found = runs(**{"none": (200, 0.5), "a: brain": (20, 0.9)})
    for seeds in found.values():
        for run in seeds.values():
            run["history"] = [
                {**e, "validation_ssim": e["validation_accuracy"]} for e in run["history"]
            ]
            run["efficiency"] = [{"share": 0.5, "test": run["test"], "arrival": run["arrival"]}]
    assert report.figure(found, settings, "title").startswith(b"\x89PNG")
