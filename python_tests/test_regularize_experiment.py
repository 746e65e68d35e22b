"""`b2m regularize`: settings, refusals, runs from arguments to files, going on from a checkpoint, tables, words, devices."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.overrides import _pop_mode_temporarily

from b2m_fast.data import task
from b2m_fast.data.images import ImageTask
from b2m_fast.experiments import engine, regularize, report
from b2m_fast.experiments.contract import Context
from b2m_fast.experiments.regularize import Regularize, Settings, arm
from b2m_fast.experiments.report import Results
from b2m_fast.experiments.settings import choose, given_settings
from b2m_fast.methods import regularization
from device_mode import pretend_cuda

pytest.importorskip("lightning_fabric")
pytest.importorskip("foolbox")

FEW = f"{__file__}:few_digits"
SMALL = (
    f"--task {FEW} --epochs 1 --width 2 --blocks 1 --attack-images 4 --batch 64 --workers 1 --quiet --set pgd_steps=2 --set "
    "minimal_steps=3 --set brain_options.images=60 --set brain_options.neurons=10 --set brain_options.repeated=20 --set "
    "brain_options.repeats=5"
).split()


@task("few-digits", "some digits at their own 8 x 8 pixels", kind="images")
def few_digits(*, count: int = 64) -> ImageTask:
    """Return images on which a training takes no time."""
    from b2m_fast.data.images import digits

    found = digits(size=8)
    parts = {
        f"{part}_{axis}": getattr(found, f"{part}_{axis}")[:count]
        for part in ("train", "validation", "test")
        for axis in "xy"
    }
    return replace(found, name="few", **parts)


def run(out: Path, *arguments: str) -> int:
    return engine.main(Regularize(), [*SMALL, "--out", str(out), *arguments])


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def small(*arguments: str) -> Settings:
    """Settings of a command."""
    experiment = Regularize()
    options = engine.parser(experiment).parse_args([*SMALL, *arguments])
    settings: Settings = choose(experiment, given_settings(experiment, options)).settings
    return settings


# --------------------------------------------------------------------------------------------------
# What is refused
# --------------------------------------------------------------------------------------------------
REFUSED = [
    ("--arms nural", "there is no arm 'nural'"),
    ("--epochs 0", "training: epochs must be in [1, inf), got 0"),
    ("--alpha -1", "training: alpha must be in [0, inf), got -1.0"),
    ("--seeds -1", "at least 0"),
    ("--batch 1", "batch must be at least 2, got 1"),
    ("--neural-batch 2", "neural_batch must be at least 4, got 2"),
    ("--arms blur --blur 0", "blur: Expected `float` > 0"),
    ("--attack-images 0", "evaluation.attack_images: Expected `int` >= 1"),
    ("--set noise=[]", "evaluation.noise: Expected `array` of length >= 1"),
    ("--set similarity_images=2", "evaluation.similarity_images: Expected `int` >= 3"),
    ("--width wide", "the option width of resnet must be int, got 'wide'"),
    ("--width 0", "width and blocks must be at least 1, got 0, 1"),
    ("--set student_options.depth=3", "resnet has no option depth; it has width, blocks, blur"),
    ("--set task_options.count=16", "digits has no option count; it has size"),
    ("--set brain_options.units=3", "synthetic has no option units; it has images"),
    ("--blur 2 --arms none neural", "--blur: only for arms that blur"),
    ("--denoiser efficientnet --arms none raw", "--denoiser: only for arms whose responses"),
    ("--arms none blur --alpha 3 --center batch", "--alpha, --center: only for arms with a"),
    ("--brain object2vec", "--brain object2vec is of the kind categories; this needs images:"),
    ("--brain pfc-memory", "cowley-v4, synthetic, or one of your own"),
    ("--student gru", "--student gru is of the kind trials; this needs images: resnet"),
    ("--task driving", "--task driving is of the kind frames; this needs images"),
    ("--brain cowley-v4", "--data DIR or B2M_DATA"),
    ("--brain cowley-v4 --data /no/such", "/no/such does not exist"),
    ("--data .", "nothing of this command is read from files"),
    ("--data /no/such", "/no/such does not exist"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=[a for a, _ in REFUSED])
def test_impossible_and_ignored_wishes_are_refused_first(
    arguments: str, words: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """Each mistake ends with code 2 and a message that names it, before anything is trained or written."""
    monkeypatch.delenv("B2M_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert engine.main(Regularize(), ["--quiet", *arguments.split()]) == engine.USAGE
    assert words in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


def test_missing_recordings_say_where_to_get_them(tmp_path: Path, capsys: Any) -> None:
    """An empty data directory gives the origin and the licence of what is missing."""
    command = ["--brain", "cowley-v4", "--data", str(tmp_path)]
    assert engine.main(Regularize(), command) == engine.USAGE
    message = capsys.readouterr().err
    assert "github.com/cowleygroup" in message
    assert "GPL-3.0" in message
    assert not (tmp_path / "b2m-results").exists()


STRANGE = '''
from b2m_fast.experiments.regularize import arm
from b2m_fast.students import student

@arm("nothing", "returns no list")
def nothing(teacher):
    return None

@student("flat", "no layers to be compared", kind="images")
def flat(classes, channels, size):
    """Return a network without taps."""
    import torch
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * size ** 2, classes))
'''


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stranger's file."""
    file = tmp_path_factory.mktemp("strange") / "strange.py"
    file.write_text(STRANGE)
    return file


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--arms none {}:nothing", "the arm nothing must return a list of SimilarityTarget"),
        ("--student {}:flat --arms none", "has no method taps(images): it cannot be taught"),
        ("--student {}:flat --arms none --width 3", "flat has no option width; it has none"),
        ("--student {}:flat --arms none blur", "flat has no option blur; it has none"),
    ],
)
def test_what_a_stranger_gets_wrong_is_named(
    arguments: str, words: str, strange: Path, tmp_path: Path, capsys: Any
) -> None:
    """An arm that returns something else, a student without taps or options: a message, and no run."""
    command = f"--task {FEW} --quiet --workers 1 --seeds 0 {arguments.format(strange)}".split()
    assert engine.main(Regularize(), [*command, "--out", str(tmp_path / "out")]) == engine.USAGE
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out" / "runs").exists()


def test_help_teaches() -> None:
    """--help explains the method, every arm, examples, outputs and exit codes, with true defaults."""
    joined = " ".join(engine.parser(Regularize()).format_help().split())
    words = ["Li et al. 2019", *arm.listings(), "b2m regularize", "results.json", "exit codes"]
    words += ["--pairs", "--center", "resnet", "cowley-v4", "FILE.py:NAME"]
    for word in words:
        assert word in joined
    for option in (
        "--alpha X weight of the penalty in equation (1) (default: 20; task digits: 5",
        "--blur X Standard deviation of the blur of the arm blur, in pixels (default: 1)",
        "task digits: none neural neural-shuffled raw",
    ):
        assert option.lower() in joined.lower(), option


# --------------------------------------------------------------------------------------------------
# Runs
# --------------------------------------------------------------------------------------------------
def test_whole_experiment(tmp_path: Path, capsys: Any) -> None:
    """Arms times seeds give a table, a figure, a JSON with everything, and plain words."""
    arms = ["none", "neural", "pixel-threshold", "blur"]
    assert run(tmp_path, "--arms", *arms, "--seeds", "0", "1") == engine.OK
    printed = capsys.readouterr().out
    assert "SYNTHETIC" in printed
    assert "Cross-fitted predictions of held-out images" in printed
    assert "neural against pixel-threshold" in printed
    assert "pixel-threshold against none" not in printed
    table = (tmp_path / "results.md").read_text()
    assert all(f"| {name} " in table for name in arms)
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    full = results(tmp_path)
    assert len(full["runs"]) == 8
    assert full["settings"]["training"]["alpha"] > 0
    assert full["versions"]["engine"]
    assert {"cpu", "cores", "workers", "accelerator", "precision"} <= set(full["machine"])
    assert full["teacher"]["recordings"]["synthetic-0"]["synthetic"] is True
    assert "neural - none" in full["summary"]["differences"]
    neural = next(r for r in full["runs"] if r["arm"] == "neural")
    assert sum(neural["gamma"]) == pytest.approx(1, abs=1e-5)
    assert neural["history"]["penalty"][0] > 0
    assert set(neural["similarity"]) == {"neural", "pixel-threshold"}
    assert next(r for r in full["runs"] if r["arm"] == "blur")["gamma"] is None
    assert str(tmp_path) not in json.dumps(full)
    assert not (tmp_path / "checkpoints").exists()
    assert report.load(tmp_path).settings == small()


def test_arms_of_separate_commands_are_reported_together(tmp_path: Path) -> None:
    """Only what an arm needs is made: a run of none alone has no similarity with a brain that was not prepared."""
    assert run(tmp_path, "--arms", "none", "--seeds", "0") == engine.OK
    assert results(tmp_path)["teacher"]["recordings"] == {}
    assert run(tmp_path, "--arms", "none", "mean", "--seeds", "0") == engine.OK
    rows = {line.split("|")[1].strip(): line for line in _penalty_table(tmp_path)}
    assert rows["none"].split("|")[2:-1] == [
        f" {'-':{len(c) - 2}} " for c in rows["none"].split("|")[2:-1]
    ]
    assert rows["mean"].split("|")[2].strip() != "-"
    assert rows["mean"].split("|")[3].strip() == "-"  # the run of none was there before


def _penalty_table(out: Path) -> list[str]:
    text = (out / "results.md").read_text().partition("What the penalty did")[2]
    return [line for line in text.splitlines() if line.startswith("|")]


def test_a_failed_run_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: Any) -> None:
    """What a run wrote before it failed is kept, used by the next call, and gone when it is done; the numbers are the same."""
    seen: list[bool] = []
    evaluate = regularize._evaluate

    def fail(*_: Any) -> Any:
        raise RuntimeError("after training")

    def straight(settings: Any, prepared: Any, arm: str, seed: int, context: Context) -> Any:
        seen.append(any(context.folder.glob("*.safetensors")))
        return run_(experiment, settings, prepared, arm, seed, context)

    experiment, run_ = Regularize(), Regularize.run
    monkeypatch.setattr(Regularize, "run", lambda _, *arguments: straight(*arguments))
    monkeypatch.setattr(regularize, "_evaluate", fail)
    command = ["--arms", "raw", "--seeds", "0"]
    assert run(tmp_path / "part", *command) == engine.FAILED
    assert run(tmp_path / "part", *command) == engine.FAILED
    monkeypatch.setattr(regularize, "_evaluate", evaluate)
    assert run(tmp_path / "part", *command) == engine.OK
    assert seen == [False, True, True]
    assert not (tmp_path / "part" / "checkpoints").exists()
    assert run(tmp_path / "whole", *command) == engine.OK
    numbers = [_without_times(results(tmp_path / n)["runs"][0]) for n in ("part", "whole")]
    assert numbers[0] == numbers[1]


def _without_times(found: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in found.items() if not k.startswith("seconds")}


def test_the_accelerator_reaches_teachers_training_attacks_and_evaluation(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """Where "cuda" is the CPU every tensor lies on the device asked for, and the numbers are those of the CPU."""
    settings, experiment = small(), Regularize()

    def numbers(accelerator: Any) -> Any:
        context = Context(None, tmp_path / accelerator, accelerator=accelerator)
        prepared = experiment.prepare(settings, ["none", "neural"], context)
        found = experiment.run(settings, prepared.of("neural"), "neural", 0, context)
        return _without_times(json.loads(json.dumps(found)))

    def outside(make: Any) -> Any:  # networks are made on the CPU, and moved by the training
        def made(*arguments: Any) -> Any:
            with _pop_mode_temporarily():
                return make(*arguments)

        return made

    expected = numbers("cpu")
    for module, name in ((regularize, "_student"), (regularization, "RegularizationObjective")):
        monkeypatch.setattr(module, name, outside(getattr(module, name)))
    with pretend_cuda() as mode:
        assert numbers("cuda") == expected
    assert mode.asked > 0


@pytest.mark.slow
def test_precision_reaches_evaluation(tmp_path: Path) -> None:
    """Half precision is another run of its own, with other numbers."""
    for precision in ("32-true", "bf16-mixed"):
        command = ["--precision", precision, "--arms", "mean", "--seeds", "0"]
        assert run(tmp_path, *command) == engine.OK
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert results(tmp_path)["machine"]["precision"] == "bf16-mixed"


# --------------------------------------------------------------------------------------------------
# Reports
# --------------------------------------------------------------------------------------------------
def made_up(robustness: float, seed: int, name: str) -> dict[str, Any]:
    """A run whose robustness is `robustness` and a little chance shared by all arms of a seed."""
    value = robustness + 0.1 * (seed % 3) + 0.001 * ((seed * len(name)) % 3)
    taught = name not in {"none", "blur"}
    return {
        "arm": name,
        "seed": seed,
        "accuracy": 0.5,
        "noise": [0.5, 0.4, value],
        "pgd_linf": [value, value],
        "pgd_l2": [value, value],
        "minimal_linf": value,
        "minimal_l2": None,
        "gamma": [0.2] * 5 if taught else None,
        "similarity": {a: {"penalty": 0.1, "r": 0.3} for a in ("neural", "pixel")},
    }


def made_up_results(**robustness: float) -> Results:
    evaluation = regularize.Evaluation(noise=(0.0, 0.05, 0.1), linf=(0.01, 0.02), l2=(0.1, 0.2))
    settings = Settings(brain="synthetic", task="digits", student="resnet", evaluation=evaluation)
    runs = {name: {s: made_up(r, s, name) for s in range(6)} for name, r in robustness.items()}
    return Results(Regularize(), settings, runs)


def test_contrasts_and_what_is_measured() -> None:
    """Each arm with none, the brain with each control; the middle and the top level of each noise and attack."""
    found = made_up_results(none=0.3, neural=0.4, pixel=0.3)
    assert found.pairs == [("neural", "none"), ("pixel", "none"), ("neural", "pixel")]
    assert [m.label for m in found.values] == [
        "clean", "noise 0.05", "noise 0.1", "PGD Linf 5.1/255", "PGD L2 0.2", "median Linf", "median L2",
    ]  # fmt: skip
    assert report.summarise(found)["means"]["none"]["median L2"] is None
    assert not any(line.startswith("pixel against none") for line in report.words(found))


@pytest.mark.parametrize(
    ("robustness", "words"),
    [
        ({"none": 0.3, "neural": 0.3}, "neural is not shown to be better than none"),
        ({"none": 0.3, "neural": 0.2}, "neural is not shown to be better than none"),
        ({"none": 0.3, "neural": 0.4, "pixel": 0.4}, "but not than pixel: that it is the brain"),
        ({"none": 0.3, "neural": 0.4, "pixel": 0.3}, "and than every control that was run (pixel)"),
    ],
)
def test_verdict(robustness: dict[str, float], words: str) -> None:
    """The last sentence follows from the intervals: null, loss, gain without and with controls."""
    assert words in report.words(made_up_results(**robustness))[-1]


def test_the_mixture_of_layers_is_drawn_where_there_is_one() -> None:
    """Accuracy under noise, smallest perturbations and the mixture; students without a teacher have no mixture."""
    from b2m_fast.experiments.figures import figure

    for found, drawn in (
        (made_up_results(none=0.3, neural=0.4), True),
        (made_up_results(none=0.3), False),
    ):
        (mixture,) = (m for m in found.measures if m.label == "mixture of layers")
        assert mixture.drawn is drawn
    assert figure(made_up_results(none=0.3, neural=0.4, blur=0.4)).startswith(b"\x89PNG")


def test_a_denoiser_that_does_not_help_is_said() -> None:
    """A teacher whose denoising does not beat a single trial is reported so; one without repeats is not compared."""
    quality = {"synthetic": False, "predictability_mean": 0.4}
    compared = quality | {"denoised_vs_repeats_r": 0.4, "single_trial_vs_repeats_r": 0.5}
    lines = regularize._words({"a": compared, "b": quality})
    assert "NOT nearer to that of other repeats" in lines[-1]
    assert "mean over 1 of 2 recordings" in lines[-1]
    assert not any("SYNTHETIC" in line for line in lines)
    assert len(regularize._words({"b": quality})) == 1
    assert regularize._words({}) == []
    assert np.isfinite(compared["predictability_mean"])
