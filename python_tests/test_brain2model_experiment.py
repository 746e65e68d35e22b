"""`b2m brain2model`: settings, refusals, arms, runs, shares of the data, going on after a kill, old results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from b2m_fast.data import dataset, task
from b2m_fast.evaluate.convergence import TimeToCriterion, median_ratio
from b2m_fast.experiments import brain2model_data as data
from b2m_fast.experiments import engine, report
from b2m_fast.experiments.brain2model import (
    Brain2Model,
    ContrastiveTransfer,
    LatentTransfer,
    Settings,
    arm,
)
from b2m_fast.experiments.contract import Context
from b2m_fast.experiments.settings import choose, given_settings
from b2m_fast.students import student
from b2m_fast.teachers.latents import LatentTeacher
from device_mode import pretend_cuda

pytest.importorskip("lightning_fabric")

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
COMMANDS: dict[str, Brain2Model] = {
    "latent": LatentTransfer(),
    "contrastive": ContrastiveTransfer(),
}
SMALL = {
    "batch": 8,
    "training": {"steps": 12, "validate_every": 4},
    "teacher": {"neurons": 15, "repeats": 6, "network_units": 8, "network_steps": 5},
}
TRIALS = SMALL | {
    "task": "delay-match-sample",
    "task_options": {"directions": 2},
    "units": 6,
    "evaluation": {"validation": 16, "test": 16, "delays_ms": [1500.0], "pool": 40},
}
BARS = f"{__file__}:bars"
FRAMES = SMALL | {
    "task": BARS,
    "units": 4,
    "width": 2,
    "transfer": {"batch": 8},
    "evaluation": {"metric": "ssim", "criterion": 0.99},
}


@task("bars", "frames with a bright bar, and where it is", kind="frames")
def bars() -> Any:
    """Return frames that take no time to render."""
    from b2m_fast.data.driving import Scenes

    rng = np.random.default_rng(0)

    def part(count: int) -> tuple[Any, Any]:
        place = rng.integers(2, 14, count)
        frames = 0.1 * rng.random((count, 3, 16, 16)) + 0.1
        for frame, k in zip(frames, place, strict=True):
            frame[:, :, k - 2 : k + 2] += 0.7
        labels = np.column_stack([place, np.ones(count)])
        return frames.astype(np.float32), labels.astype(np.float32)

    (a, x), (b, y), (c, z) = (part(n) for n in (40, 12, 12))
    return Scenes("bars", ("place", "nothing"), a, b, c, x, y, z)


def made(method: str, tree: dict[str, Any], **more: Any) -> Settings:
    settings: Settings = choose(COMMANDS[method], tree | more).settings
    return settings


def prepared(settings: Settings, arms: list[str], folder: Path, **options: Any) -> Any:
    context = Context(data=None, folder=folder / "teachers", **options)
    return COMMANDS[settings.transfer.method].prepare(settings, arms, context)


def go(settings: Settings, ready: Any, arm: str, seed: int, folder: Path, **options: Any) -> Any:
    """One run as the command does it; without what differs from call to call."""
    context = Context(data=None, folder=folder / "checkpoints" / f"{arm}-{seed}", **options)
    experiment = COMMANDS[settings.transfer.method]
    found = experiment.run(settings, ready.of(arm), arm, seed, context)
    assert found.pop("seconds") > 0
    return json.loads(json.dumps(found, allow_nan=False))


# --------------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", COMMANDS)
def test_every_brain_has_presets_for_the_students_it_can_teach(method: str) -> None:
    """Brain and student alone give a whole experiment with a task that fits, or a refusal that says what would."""
    for brain in dataset.listings(kind=("trials", "images")):
        for name, listing in student.listings(kind=("trials", "frames")).items():
            chosen = choose(COMMANDS[method], {"brain": brain, "student": name})
            settings = chosen.settings
            kinds = {"trials", "images"} if "observe" in dataset.get(brain).about else set()
            kinds |= {dataset.about(brain)["kind"]}
            if {"frames": "images"}.get(listing.about["kind"], "trials") not in kinds:
                with pytest.raises(ValueError, match=f"which a {name} cannot learn"):
                    COMMANDS[method].refuse(settings, [], set())
                continue
            COMMANDS[method].refuse(settings, COMMANDS[method].possible_arms(settings), set())
            assert task.about(settings.task)["kind"] == listing.about["kind"]
            assert settings.frames == (listing.about["kind"] == "frames")
            assert len(chosen.seeds) >= 3


@pytest.mark.parametrize("name", task.listings(kind="trials"))
def test_every_task_has_longer_delays_of_its_own(name: str) -> None:
    """Another delay of the task brings other delays to be tested on."""
    for options in ({}, {"delay_ms": 2000.0}):
        settings = made("latent", {"task": name, "task_options": options})
        own, *others = data.delays_of(settings, data.make_task(settings))
        assert own == options.get("delay_ms", own)
        assert all(own < longer <= 2 * own for longer in others)
        assert len(others) == 2


def test_what_a_recorded_brain_fixes_of_a_task() -> None:
    """Options and the delay of the recording are the task's; its conditions and epochs are all matched."""
    settings = made("latent", {"brain": "hippocampus"})
    match, made_task = data.match_of(settings), data.make_task(settings)
    assert (len(made_task.conditions), made_task.timing["delay"]) == (4, 3000.0)
    names = match.names(made_task)
    assert list(names["conditions"]) == list(made_task.conditions)
    assert names["conditions"]["match 1"] == names["conditions"]["non-match 1"] == "there"
    settings = made("latent", {"brain": "steinmetz"})
    names = data.match_of(settings).names(data.make_task(settings))
    assert names["conditions"]["18 then 10"] == "left"
    assert set(names["epochs"]) == {"stimulus2"}


REFUSED = [
    ("latent", "--arms nural", "there is no arm 'nural'"),
    ("latent", "--weight 0", "weight must be positive, got 0"),
    ("latent", "--weight 1e300", "value must be in [0, 3.4e+38], got 1e+300"),
    ("latent", "--units 0", "units: Expected `int` >= 1"),
    ("latent", "--student vae --task direction", "--student vae can learn camvid, driving"),
    ("latent", "--student gru --brain cowley-v4", "which a gru cannot learn"),
    ("latent", "--student vae --brain pfc-memory", "which a vae cannot learn"),
    ("latent", "--brain steinmetz --task direction", "can teach parametric-working"),
    ("latent", "--brain object2vec", "--brain object2vec is of the kind categories"),
    ("latent", "--brain human", "there is no data set 'human'"),
    ("contrastive", "--student rnn --arms phase", "averages over time"),
    ("latent", "--arms pixel", "a recurrent student sees no images"),
    ("contrastive", "--arms reversed", "images have no time course"),
    ("latent", "--until 0.3", "--until: only for --schedule cosine or pretrain"),
    ("latent", "--schedule pretrain --until 1", "below 1 for 'pretrain'"),
    ("latent", "--shares 2", "shares must be above 0 and at most 1, got [2.0]"),
    ("latent", "--shares 0.5 0.5", "there twice: [0.5, 0.5]"),
    ("latent", "--criterion 1.5", "the criterion must be above 0 and at most 1, got 1.5"),
    ("latent", "--set metric=ssim", "--task delay-match-sample has no ssim"),
    ("latent", "--delays 1000 333", "must last whole steps"),
    ("latent", "--delay 333", "must last whole steps"),
    ("contrastive", "--delay 300", "driving has no option delay_ms"),
    ("contrastive", "--delays 300", "--delays: only for recurrent students"),
    ("latent", "--task parametric-working-memory --directions 4", "has no option directions"),
    ("latent", "--directions 8.5", "must be int, got 8.5"),
    ("latent", "--brain pfc-memory --directions 4", "--brain pfc-memory was recorded with 6"),
    ("latent", "--brain hippocampus --directions 4", "--brain hippocampus was recorded with 2"),
    ("latent", "--stimuli images", "--stimuli: only for a brain that was shown images"),
    ("latent", "--brain cowley-v4 --set session=210325", "with --stimuli images"),
    ("latent", "--brain hippocampus --neurons 7", "--neurons: only for a synthetic brain"),
    (
        "latent",
        "--brain pfc-memory --network-steps 7 --arms brain",
        "--network-steps: only for a synth",
    ),
    ("latent", "--student vae --latents fa", "--latents: only for latent transfer to recurrent"),
    (
        "latent",
        "--set temperature=0.1",
        "--set transfer.temperature: only for contrastive transfer",
    ),
    ("latent", "--set rho=0.1", "--set transfer.rho: only for --readout ridge"),
    (
        "latent",
        "--set pool=20",
        "--set evaluation.pool: only for recurrent students, with --shares",
    ),
    ("latent", "--set beta=1", "--set beta: only for autoencoders"),
    ("latent", "--arms none --weight 0.3", "--weight: only for arms with a teacher"),
    ("latent", "--set transfer.method=contrastive", "there is no such setting"),
    ("latent", "--set training.accelerator=cuda", "there is no such setting"),
    ("latent", "--data .", "nothing of this command is read from files"),
    ("latent", "--brain pfc-memory", "--data DIR or B2M_DATA"),
    ("latent", "--brain pfc-memory --data /no/such", "/no/such does not exist"),
]


@pytest.mark.parametrize(("method", "arguments", "words"), REFUSED)
def test_impossible_and_ignored_wishes_are_refused_first(
    method: str, arguments: str, words: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """Each mistake ends with code 2 and a message that names it, before anything is made or written."""
    monkeypatch.delenv("B2M_DATA", raising=False)
    out = tmp_path / "out"
    assert engine.main(COMMANDS[method], [*arguments.split(), "--out", str(out)]) == engine.USAGE
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_a_configuration_file_cannot_change_the_command(tmp_path: Path, capsys: Any) -> None:
    """What the command itself decides is refused there too, and not overruled without a word."""
    file = tmp_path / "mine.toml"
    file.write_text('[transfer]\nmethod = "contrastive"\n')
    command = ["--config", str(file), "--out", str(tmp_path / "out")]
    assert engine.main(COMMANDS["latent"], command) == engine.USAGE
    assert "transfer.method: this is decided by b2m brain2model latent" in capsys.readouterr().err


def test_arms_that_cannot_be_are_left_out() -> None:
    """Images have no time, recurrent students see no pixels; all other arms are possible."""
    for method, experiment in COMMANDS.items():
        for tree in (TRIALS, FRAMES):
            settings = made(method, tree)
            arms = experiment.possible_arms(settings)
            experiment.refuse(settings, arms, set())
            assert set(arm.listings()) - set(arms) <= {"reversed", "phase", "pixel"}
            assert ("pixel" in arms) == settings.frames
            assert ("phase" in arms) == (method == "latent" and not settings.frames)


def test_help_gives_the_true_defaults() -> None:
    """A default that --help names is the one that is used, in either command and for either kind of student."""
    for method, tree, wanted in (
        ("latent", {}, {"weight": 1, "units": 64, "batch": 64, "criterion": 0.9}),
        ("latent", {"student": "vae"}, {"weight": 0.1, "network-steps": 500, "components": 12}),
        ("contrastive", {}, {"weight": 0.01, "units": 32, "batch": 32, "criterion": 0.005}),
        ("contrastive", {"student": "rnn"}, {"weight": 0.1, "network-steps": 1500, "neurons": 100}),
    ):
        experiment = COMMANDS[method]
        settings = choose(experiment, tree).settings
        text = " ".join(engine.parser(experiment).format_help().partition("\narms\n")[0].split())
        flags = {f: n for group in experiment.options.values() for f, n in group.items()}
        for flag, value in wanted.items():
            found: Any = settings
            for part in flags[f"--{flag}"].split("."):
                found = getattr(found, part)
            assert found == value
            about = text[text.rindex(f" --{flag} ") :].partition("(default")[2].partition(" --")[0]
            assert f"{value:g}" in about.replace(";", " ").replace(")", " ").split(), (flag, about)
    assert "in the manner of CEBRA" in " ".join(
        engine.parser(COMMANDS["latent"]).format_help().split()
    )


# --------------------------------------------------------------------------------------------------
# Runs
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", COMMANDS)
@pytest.mark.parametrize("tree", [TRIALS, FRAMES], ids=["trials", "frames"])
def test_every_arm(method: str, tree: dict[str, Any], tmp_path: Path) -> None:
    """All arms run; zero is none to the last bit; every other arm is another training."""
    settings = made(method, tree)
    arms = COMMANDS[method].possible_arms(settings)
    ready = prepared(settings, arms, tmp_path)
    found = {name: go(settings, ready, name, 0, tmp_path) for name in arms}
    curves = {n: tuple(e["validation_loss"] for e in r["history"]) for n, r in found.items()}
    assert curves.pop("zero") == curves["none"]
    assert len(set(curves.values())) == len(curves)
    none, brain = found["none"], found["brain"]
    assert [e["step"] for e in none["history"]] == [0, 4, 8, 12]
    assert none["time_to_criterion"] == {"step": 12, "censored": True}
    key = COMMANDS[method].quality[1]
    assert key in brain["test"]
    assert key not in none["test"]
    if settings.frames:
        assert set(none["test"]) == {"mse", "ssim", "probe_r2"}
        heights = [e["validation_ssim"] for e in none["history"]]
        assert none["area"] == pytest.approx(np.mean(heights), abs=0.1)
    else:
        assert 0 <= none["test"]["accuracy"] <= 1
        assert [*none["delays"]] == ["1000", "1500"]


def test_controls_are_drawn_anew_for_every_seed(tmp_path: Path) -> None:
    """Seeds differ in their controls too, and one seed always gets the same."""
    ready = prepared(made("latent", TRIALS), ["random-code"], tmp_path).of("random-code")

    def latents(seed: int) -> Any:
        return ready.teacher_of(arm.get("random-code"), seed, None).latents

    assert (latents(0) == latents(0)).all()
    assert not np.allclose(latents(0), latents(1))


def test_less_data_is_less_for_the_teacher_too(tmp_path: Path) -> None:
    """On a share of the frames a teacher of frames shows no others, whatever its arm."""
    settings = made("contrastive", FRAMES)
    arms = ["brain", "relabelled", "label", "random-code"]
    ready = prepared(settings, arms, tmp_path)
    scenes = ready.of("brain").task
    learning = data.student_task(settings, scenes, 3, 0.25)
    assert isinstance(learning, data.SceneTask)
    assert len(learning.frames) == len(scenes.train) / 4
    for name in arms:
        teacher = ready.of(name).teacher_of(arm.get(name), 3, 0.25)
        seen = {x.tobytes() for x in teacher.stimuli}
        assert seen == {x.tobytes() for x in learning.frames.numpy()}


def test_shares_are_trained_one_after_the_other(tmp_path: Path) -> None:
    """The run itself is not changed by the shares, which come with their own time and test."""
    settings = made("latent", TRIALS)
    shares = replace(settings, evaluation=replace(settings.evaluation, shares=(0.1, 1.0)))
    ready = prepared(settings, ["brain"], tmp_path)
    alone = go(settings, ready, "brain", 0, tmp_path / "a")
    more = go(shares, ready, "brain", 0, tmp_path / "b")
    assert alone["history"] == more["history"]
    assert [*more["shares"]] == ["0.1", "1"]
    assert all(set(less) == {"test", "time_to_criterion"} for less in more["shares"].values())


class KilledError(BaseException):
    """Stands for a signal."""


@pytest.mark.parametrize("tree", [TRIALS, FRAMES], ids=["trials", "frames"])
def test_a_killed_run_goes_on_bit_for_bit(tree: dict[str, Any], tmp_path: Path) -> None:
    """Killed in the middle of a training and started again: the same numbers to the last bit."""
    settings = made("latent", tree)
    settings = replace(settings, evaluation=replace(settings.evaluation, shares=(0.5,)))
    ready = prepared(settings, ["brain"], tmp_path)
    ticks = []
    whole = go(settings, ready, "brain", 0, tmp_path / "whole", tick=lambda: ticks.append(1))
    assert len(ticks) == COMMANDS["latent"].ticks(settings)
    for stop in (2, 6):  # in the first training, and in that on a share
        left = iter(range(stop - 1))

        def tick(left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KilledError

        folder = tmp_path / f"killed-{stop}"
        with pytest.raises(KilledError):
            go(settings, ready, "brain", 0, folder, tick=tick)
        assert list(folder.rglob("*.safetensors"))
        assert go(settings, ready, "brain", 0, folder) == whole


def test_teachers_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that teach are kept: a second call trains nothing and gives the same latents; another student's are not taken."""
    settings, arms = made("latent", TRIALS), ["brain", "network"]
    first = prepared(settings, arms, tmp_path)

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(torch.optim.Adam, "step", never)
    second = prepared(settings, arms, tmp_path)
    one, other = (ready.of("network").network for ready in (first, second))
    assert isinstance(one, LatentTeacher)
    np.testing.assert_array_equal(one.latents, other.latents)
    assert first.report == second.report
    assert any("SYNTHETIC" in line for line in first.report["words"])
    assert any("NOT LEARNED" in line for line in first.report["words"])
    with pytest.raises(AssertionError, match="trained again"):
        prepared(replace(settings, task_options={"directions": 4}), arms, tmp_path)


@pytest.mark.parametrize("tree", [TRIALS, FRAMES], ids=["trials", "frames"])
def test_students_alone_need_no_teacher(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arm none alone trains no network behind a brain, and learns to the bit as beside others."""
    settings = made("latent", tree)
    others = prepared(settings, ["none", "brain"], tmp_path)
    expected = go(settings, others, "none", 0, tmp_path / "a")
    monkeypatch.setattr(data, "_trained", lambda *_: pytest.fail("a network was trained"))
    alone = prepared(settings, ["none"], tmp_path / "none")
    assert go(settings, alone, "none", 0, tmp_path / "b") == expected
    assert not (tmp_path / "none").exists()


def test_condition_states_are_in_the_order_of_conditions() -> None:
    """Row c holds trials of condition c: trials of one condition are more alike than of others."""
    settings = made("latent", TRIALS | {"task_options": {"directions": 2, "noise": 0.01}}, units=20)
    decisions = data.make_task(settings)
    states = data.condition_states(
        data.student_task(settings, decisions, 0).student, decisions, 3, 0
    )
    assert states.shape == (4, 3, decisions.steps, 20)
    within = states.std(axis=1).mean()
    between = states.mean(axis=1).std(axis=0).mean()
    assert between > 10 * within


@pytest.mark.parametrize("method", COMMANDS)
@pytest.mark.parametrize("tree", [TRIALS | {"student": "rnn"}, FRAMES], ids=["trials", "frames"])
def test_everything_follows_the_accelerator(
    method: str, tree: dict[str, Any], tmp_path: Path
) -> None:
    """Networks that teach, training, tests and probes where "cuda" is the CPU lie on the device, with the numbers of the CPU."""
    settings, arms = made(method, tree), ["brain", "network"]
    plain = [go(settings, prepared(settings, arms, tmp_path), name, 0, tmp_path) for name in arms]
    folder, where = tmp_path / "cuda", {"accelerator": "cuda"}
    with pretend_cuda() as mode:
        ready = prepared(settings, arms, folder, **where)
        assert [go(settings, ready, name, 0, folder, **where) for name in arms] == plain
    assert mode.asked > 0


@pytest.mark.slow
def test_the_true_teacher_is_faster_and_empty_ones_are_not(tmp_path: Path) -> None:
    """The preset's synthetic truth: half the steps or fewer with the true teacher, none without.

    The figure itself is over ten seeds; this protects it on two.
    """
    settings = made("latent", {})
    arms = ["none", "brain", "shuffled", "gaussian"]
    ready = prepared(settings, arms, tmp_path)
    found: dict[str, list[TimeToCriterion]] = {name: [] for name in arms}
    for name in arms:
        for seed in (200, 201):
            result = go(settings, ready, name, seed, tmp_path)
            found[name].append(TimeToCriterion(**result["time_to_criterion"]))
    assert median_ratio(found["brain"], found["none"]).high < 0.5
    for name in ("shuffled", "gaussian"):
        assert median_ratio(found[name], found["none"]).low > 0.7


# --------------------------------------------------------------------------------------------------
# From arguments to files
# --------------------------------------------------------------------------------------------------
SHORT = "--units 8 --network-steps 4 --neurons 12 --batch 8 --steps 8 --every 4 --workers 1 --quiet"


@pytest.mark.parametrize("method", COMMANDS)
def test_whole_experiment(method: str, tmp_path: Path, capsys: Any) -> None:
    """Arms times seeds give tables, a figure, a JSON with everything, and plain words."""
    command = "--task delay-match-sample --directions 2 --seeds 0 1 --shares 0.02 --delays 1500"
    command += f" --arms none brain shuffled label network {SHORT}"
    out = ["--out", str(tmp_path)]
    assert engine.main(COMMANDS[method], command.split() + out) == engine.OK
    printed = capsys.readouterr().out
    assert "SYNTHETIC" in printed
    assert "brain against label" in printed
    table = (tmp_path / "results.md").read_text()
    for part in ("| network ", "steps to criterion", "delay 1500 ms", "2 % of the data"):
        assert part in table
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    full = json.loads((tmp_path / "results.json").read_text())
    assert len(full["runs"]) == 10
    assert full["settings"]["transfer"]["method"] == method
    assert full["teacher"]["brain"]["synthetic"] is True
    assert "accuracy" in full["teacher"]["network"]
    assert "brain / none" in full["summary"]["ratios"]
    assert not (tmp_path / "checkpoints").exists()
    assert (
        report.load(tmp_path).settings
        == choose(
            COMMANDS[method],
            given_settings(
                COMMANDS[method], engine.parser(COMMANDS[method]).parse_args(command.split())
            ),
        ).settings
    )


def test_a_diverged_arm_is_named(tmp_path: Path, capsys: Any) -> None:
    """An arm without a result does not vanish: report, tables and JSON say why; no traceback."""
    command = f"--arms none brain --seeds 0 --weight 1e38 {SHORT} --out {tmp_path}"
    assert engine.main(COMMANDS["latent"], command.split()) == engine.FAILED
    printed = capsys.readouterr()
    assert "brain-seed0 FAILED: FloatingPointError: the loss or its gradient" in printed.err
    assert "Traceback" not in printed.err
    assert "MISSING: brain, seed 0" in (tmp_path / "results.md").read_text()


# --------------------------------------------------------------------------------------------------
# Results of older versions
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("folder", sorted(p.name for p in RESULTS.glob("transfer-*")))
def test_committed_results_are_read(folder: str) -> None:
    """Results of the former `b2m transfer` load as today's, and give the same summary."""
    found = report.load(RESULTS / folder)
    stored = json.loads((RESULTS / folder / "results.json").read_text())
    assert isinstance(found.experiment, Brain2Model)
    summary = report.summarise(found)
    for part in ("means", "differences", "steps", "ratios"):
        assert summary[part].keys() == stored["summary"][part].keys()
        for name, values in stored["summary"][part].items():
            assert (
                summary[part][name] == pytest.approx(values, rel=1e-9, nan_ok=True)
                if part == "steps"
                else True
            )
            for label, value in (values or {}).items():
                if isinstance(value, dict):
                    assert summary[part][name][label] == pytest.approx(value, rel=1e-9), label


def test_names_of_runs_stay(tmp_path: Path) -> None:
    """Another name means that everybody's stored runs are done again.

    Where that is right (a new setting, a raised method version) the name here changes with it.
    """
    for method, key in (("latent", "c592921f468cfcef"), ("contrastive", "1477f627c5063558")):
        command = ["--student", "gru", "--arms", "brain", "--seeds", "3", "--out", str(tmp_path)]
        assert engine.plan(COMMANDS[method], command).jobs()[0].key == f"brain-seed3-{key}"
