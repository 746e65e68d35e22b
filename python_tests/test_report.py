"""Reports say what the runs say: numbers, intervals, censoring, nulls and controls; stored results are read again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from b2m_fast.data.files import DataError
from b2m_fast.experiments import report
from b2m_fast.experiments.report import Results, summarise, words
from b2m_fast.experiments.statistics import Interval
from made_up_experiment import MadeUp, MadeUpSettings, levels, results


def verdict(of: Results) -> str:
    return words(of)[-1]


# --------------------------------------------------------------------------------------------------
# Numbers and tables
# --------------------------------------------------------------------------------------------------
def test_arms_are_compared_by_their_roles() -> None:
    """Each arm with the baseline, the tested one with each control; an arm that nobody registered is a control."""
    of = results(none=(60, 0.9), zero=(60, 0.9), brain=(60, 0.9), label=(60, 0.9), mine=(60, 0.9))
    assert of.pairs == [
        ("zero", "none"), ("brain", "none"), ("label", "none"), ("mine", "none"),
        ("brain", "label"), ("brain", "mine"),
    ]  # fmt: skip
    assert results(label=(60, 0.9)).pairs == []


def test_differences_are_paired_by_seed() -> None:
    """A small gain is found although seeds scatter more; seeds that one arm lacks are left out."""
    of = results(none=(60, 0.3), brain=(60, 0.31))
    for seed, offset in enumerate((0.0, 0.2, 0.4)):
        for arm in of.runs:
            of.runs[arm][seed]["accuracy"] += offset
    del of.runs["brain"][9]
    summary = summarise(of)
    assert summary["differences"]["brain - none"]["accuracy"]["n"] == 9
    assert summary["differences"]["brain - none"]["accuracy"]["low"] > 0
    assert summary["means"]["none"]["accuracy"]["n"] == 10


def test_a_faster_arm() -> None:
    """Median steps, their ratio with its interval, and the log-rank test agree that the steps are halved."""
    summary = summarise(results(none=(60, 0.9), brain=(20, 0.9)))
    assert summary["steps"]["none"] == {"median": 70, "reached": 10, "seeds": 10}
    ratio = summary["ratios"]["brain / none"]
    assert ratio["ratio"] == pytest.approx(30 / 70)
    assert ratio["high"] < 1
    assert ratio["p_log_rank"] < 0.05


def test_what_never_reaches_the_criterion_is_censored() -> None:
    """An open median in the table, null in JSON, no NaN; the ratio's upper end is still known."""
    of = results(none=(200, 0.5), brain=(20, 0.9))
    summary = summarise(of)
    json.dumps(summary, allow_nan=False)
    assert summary["steps"]["none"] == {"median": None, "reached": 0, "seeds": 10}
    assert summary["ratios"]["brain / none"]["ratio"] is None
    assert summary["ratios"]["brain / none"]["high"] < 1
    text = report.markdown(of)
    assert "> 100" in text
    assert "nan" not in text
    assert "an unknown multiple of the steps to criterion" in " ".join(words(of))


def test_a_criterion_met_before_training_gives_no_ratio() -> None:
    """A baseline that is there at step 0 leaves a dash, not an error."""
    of = results(none=(0, 0.9), brain=(0, 0.9))
    for run in of.runs["none"].values():
        run["step"] = 0
    assert summarise(of)["ratios"]["brain / none"] is None
    assert "| brain / none       | -  " in report.markdown(of)


def test_numbers_that_no_run_has_are_dashes() -> None:
    """A dash in the table and null in JSON; nothing is said of them."""
    of = results(none=(60, 0.3), brain=(60, 0.3))
    for run in of.runs["brain"].values():
        run["accuracy"] = None
    assert summarise(of)["means"]["brain"]["accuracy"] is None
    assert summarise(of)["differences"]["brain - none"]["accuracy"] is None
    assert "brain against none: not told apart in error" in " ".join(words(of))


def test_one_arm_has_no_table_of_differences() -> None:
    """No head without rows, of differences and of ratios; the means are there."""
    text = report.markdown(results(brain=(60, 0.9)))
    assert "| brain | 10    | 10      | 70" in text
    assert "difference" not in text.lower()
    assert "| ratio of medians" not in text
    for block in text.split("\n\n"):
        assert not block.startswith("|") or len(block.splitlines()) > 2, block


def test_the_head_says_what_was_asked_and_how_it_was_made() -> None:
    """Question, command with what differs from the presets, machine, versions, what ran where, notes with units."""
    settings = MadeUpSettings(task="lines", weight=0.5)
    machine = {"cpu": "A CPU", "cores": 2, "threads_per_run": 1, "accelerator": "cuda"}
    of = results(2, settings, none=(60, 0.9))
    of = replace(of, made_with={"versions": {"torch": "2.0", "other": "1"}, "machine": machine})
    text = report.markdown(of)
    for part in (
        "Do made-up brains help?",
        "`b2m made-up --task lines --set weight=0.5`; seeds 0 1.",
        "Made on A CPU, 2 cores",
        "torch 2.0.",
        "PyTorch computed on a GPU",
        "SciPy compute is computed on the CPU, always",
        "error: in pixels",
        "A table of its own.",
    ):
        assert part in text


def test_an_interval_as_a_cell() -> None:
    """One value has no ends; a star marks differences whose interval excludes 0, not means."""
    assert report.cell(Interval(0.5, 0.4, 0.6, 3)) == "0.500 [0.400, 0.600]"
    assert report.cell(Interval(0.5, 0.4, 0.6, 3), 1, "+") == "+0.5 [+0.4, +0.6] *"
    assert report.cell(Interval(0.5, float("nan"), float("nan"), 1), 2, "+") == "+0.50"
    assert report.cell(None) == "-"


# --------------------------------------------------------------------------------------------------
# Words
# --------------------------------------------------------------------------------------------------
ALL = "steps to criterion, accuracy, error"
NULL = f"brain is not shown to be better than none in {ALL}"
LOSS = "; it is worse in accuracy, error than none"
FASTER = "brain is faster (steps to criterion) than none"
GAIN = "brain is faster (steps to criterion) and better in accuracy, error than none"
EVERY = "every control that was run (label, mine)"
NOT_SHOWN = "that it is the brain that helps is not shown"


@pytest.mark.parametrize(
    ("brain", "controls", "said"),
    [
        ((60, 0.8), {"label": (60, 0.8)}, NULL),
        (
            (60, 0.7),
            {"label": (60, 0.6), "mine": (60, 0.7)},
            f"{NULL}{LOSS}; of its controls it is better than label (in accuracy, error)",
        ),
        ((20, 0.8), {}, f"{FASTER}, but no control was run: {NOT_SHOWN}"),
        ((20, 0.9), {"label": (60, 0.8), "mine": (60, 0.8)}, f"{GAIN}, and than {EVERY}"),
        (
            (20, 0.9),
            {"label": (20, 0.8), "mine": (60, 0.8)},
            f"{GAIN}, and better in accuracy, error than {EVERY}",
        ),
        (
            (20, 0.8),
            {"label": (20, 0.8), "mine": (60, 0.8)},
            f"{FASTER}, but not than label: {NOT_SHOWN}",
        ),
        (
            (20, 0.9),
            {"label": (20, 0.8), "mine": (60, 0.9)},
            f"{GAIN}, but not than {EVERY}: {NOT_SHOWN}",
        ),
        (
            (20, 0.7),
            {"label": (60, 0.8), "mine": (60, 0.8)},
            f"{FASTER}, and than {EVERY}{LOSS}",
        ),
    ],
)
def test_verdict(brain: tuple[int, float], controls: dict[str, Any], said: str) -> None:
    """One sentence from the intervals: null, loss, gain without controls, over all, over some measures, over some controls."""
    assert verdict(results(none=(60, 0.8), brain=brain, **controls)) == f"In short: {said}."


def test_the_verdict_on_many_sizes_takes_wider_intervals() -> None:
    """Sizes are named once; each is judged at its own level, so that looking at many does not make one."""
    arms: dict[str, Any] = {
        "none": (0.3, 0.5, 0.8),
        "brain": (0.5, 0.5, 0.7),
        "label": (0.2, 0.4, 0.7),
    }
    assert verdict(levels(**arms)) == (
        "In short: brain is better at n = 10 than none, and than every control that was run (label); it is worse at n = 900 "
        "than none."
    )
    of = levels(none=(0.3, 0.5, 0.8), brain=(0.3, 0.5, 0.8))
    for seed, run in of.runs["brain"].items():
        run["scores"]["10"] += 0.0125 + 0.015 * (-1) ** seed
    found = summarise(of)["differences"]["brain - none"]["n = 10"]
    assert found["low"] > 0
    assert "is not shown to be better" in verdict(of)


def test_few_seeds_give_neither_stars_nor_a_verdict() -> None:
    """Five seeds, however far apart: no star at a ratio, no "faster", but that they are too few."""
    of = results(5, none=(60, 0.5), brain=(20, 0.9))
    assert "5 seeds are too few to tell" in " ".join(words(of))
    assert verdict(of) == "In short: 5 seeds are too few for a verdict; it takes 6."
    assert "] *" not in report.markdown(of).split("Means over seeds")[0]
    one = results(1, none=(60, 0.5), brain=(20, 0.9))
    assert words(one) == [
        "brain against none: one seed only, so nothing can be said about chance (1 seed).",
        "In short: 1 seed is too few for a verdict; it takes 6.",
    ]
    assert "nan" not in report.markdown(one)


def test_words_on_each_comparison() -> None:
    """How many times the steps, which values are higher and lower; measures that arms do not share are left out."""
    of = results(none=(60, 0.8), brain=(60, 0.9))
    for arm in of.runs.values():
        for run in arm.values():
            run["readout"] = 0.5
    assert words(of)[0] == (
        "brain needs 1.00 times the steps to criterion of none [1.00, 1.00]: not told apart. brain against none: higher in "
        "accuracy; lower in error (10 seeds)."
    )


def test_missing_runs_and_the_teacher_come_first() -> None:
    """Runs without a result are named with the reason, before what is known of the teacher."""
    missing = [
        {"arm": "brain", "seed": 3, "failed": "FloatingPointError: diverged."},
        {"arm": "brain", "seed": 4, "failed": "FloatingPointError: diverged."},
        {"arm": "none", "seed": 4, "failed": None},
    ]
    of = replace(results(none=(60, 0.9)), missing=missing, teacher={"words": ["It is SYNTHETIC."]})
    assert words(of)[:3] == [
        "MISSING: brain, seed 3, 4: FloatingPointError: diverged. Nothing here is about these runs.",
        "MISSING: none, seed 4: stopped before its end. Nothing here is about these runs.",
        "It is SYNTHETIC.",
    ]


# --------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------
def test_results_are_read_as_they_were_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report of a folder is made again to the byte; learning curves keep five digits."""
    of = results(none=(60, 0.9), brain=(20, 0.9))
    missing = [{"arm": "none", "seed": 10, "failed": None}]
    of = replace(of, missing=missing, teacher={"words": ["It is SYNTHETIC."]})
    report.write(of, tmp_path)
    assert "In short: brain is faster" in capsys.readouterr().out
    again = report.load(tmp_path)
    assert again.settings == of.settings
    assert again.runs == of.runs
    names = ("results.json", "results.md", "results.png")
    before = [(tmp_path / name).read_bytes() for name in names]
    assert report.main([str(tmp_path), "--out", str(tmp_path / "again")]) == 0
    assert [(tmp_path / "again" / name).read_bytes() for name in names] == before
    assert b"**In short: brain is faster" in before[1]
    assert before[0].count(b'\n  {"arm":"') == 20
    of.runs["none"][0]["history"][0]["height"] = 0.123456789
    report.write(of, tmp_path)
    assert report.load(tmp_path).runs["none"][0]["history"][0] == {"step": 0, "height": 0.12346}


def test_results_of_older_code_are_read(tmp_path: Path) -> None:
    """The experiment turns old settings into new ones; the version of the method stays that of the runs."""
    report.write(results(none=(60, 0.9)), tmp_path)
    stored: dict[str, Any] = json.loads((tmp_path / "results.json").read_text())
    del stored["settings"], stored["missing"]
    stored["experiment"] = {"subject": "lines"}
    stored["method_version"] = 1
    (tmp_path / "results.json").write_text(json.dumps(stored))
    old = report.load(tmp_path)
    assert old.settings == MadeUpSettings(task="lines")
    report.write(old, tmp_path)  # what made the runs is not forgotten
    assert json.loads((tmp_path / "results.json").read_text())["method_version"] == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "name the folder of a finished experiment"),
        ("[", "cannot be read as results"),
        ('{"command": "made_up_experiment:MadeUp"}', "cannot be read as results"),
        ('{"command": "compare"}', "name the folders that were compared"),
        ('{"command": "nothing", "runs": []}', "there is no experiment 'nothing'"),
    ],
)
def test_what_is_not_results_is_refused(
    content: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing, broken and foreign files: the reason in one line, and exit code 2."""
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(DataError, match=said):
        report.load(tmp_path)
    assert report.main([str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_without_matplotlib_there_is_no_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables and words are written all the same, and what to install is said."""
    import sys

    monkeypatch.setitem(sys.modules, "b2m_fast.experiments.figures", None)
    report.write(results(none=(60, 0.9)), tmp_path)
    assert "no figure" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results.json", "results.md"]


def test_an_experiment_with_unusual_settings_is_reported() -> None:
    """A command line that the presets alone refuse is still shown."""

    class Odd(MadeUp):
        presets = "nothing"
        choices = {"task": (MadeUp.arms, {})}

    of = replace(results(none=(60, 0.9)), experiment=Odd())
    assert "`b2m made-up --task dots`" in report.markdown(of)
