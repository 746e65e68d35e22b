"""`b2m transfer` from settings to numbers: arms, seeds, less data, going on after a kill."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from b2m_fast.data._old import DECISION_TASKS, decision_task
from b2m_fast.data.driving import Scenes
from b2m_fast.evaluate.convergence import TimeToCriterion, median_ratio
from b2m_fast.experiments import transfer_experiment as lab
from b2m_fast.experiments import transfer_frames, transfer_lessons, transfer_trials
from b2m_fast.experiments.experiment import Payload, jobs
from b2m_fast.experiments.runs import Job
from b2m_fast.experiments.transfer_arms import ARMS, check_arms, default_arms
from b2m_fast.experiments.transfer_presets import longer_delays, preset
from b2m_fast.experiments.transfer_settings import (
    BRAINS,
    TeacherSettings,
    TransferEvaluation,
    TransferExperiment,
)
from b2m_fast.methods.config import Brain2ModelConfig, BrainWeight, TrainConfig
from b2m_fast.teachers.latents import LatentTeacher

pytest.importorskip("lightning_fabric")

LOOP = TrainConfig(steps=12, validate_every=4, validate_first=True, clip=1.0)
TRIALS = TransferExperiment(
    student="gru",
    task="delay-match-sample",
    task_options={"directions": 2},
    units=6,
    batch=8,
    loop=LOOP,
    teacher=TeacherSettings(k=2, neurons=15, repeats=6, network_units=8, network_steps=5),
    evaluation=TransferEvaluation(validation=16, test=16, delays_ms=(1500.0,), pool=40),
)
FRAMES = TransferExperiment(
    student="vae",
    task="driving",
    units=4,
    width=2,
    batch=8,
    transfer=Brain2ModelConfig("contrastive", BrainWeight(0.1), batch=8, dimension=4),
    loop=LOOP,
    teacher=TeacherSettings(neurons=15, repeats=3, network_units=5, network_steps=5),
    evaluation=TransferEvaluation(metric="ssim", criterion=0.99),
)


def small_scenes(*_: object) -> Scenes:
    """Frames with a bright bar somewhere, and where it is."""
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


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes that take no time to render."""
    monkeypatch.setattr(transfer_frames, "load_scenes", small_scenes)
    monkeypatch.setattr(lab, "load_scenes", small_scenes)


def go(
    experiment: TransferExperiment, material: Any, arm: str, seed: int, folder: Path
) -> dict[str, Any]:
    """One run, as the command would do it."""
    (job,) = jobs(experiment, [arm], [seed], "")
    payload = Payload(experiment, material.of(arm), 1, folder / "checkpoints")
    result = lab.run(replace(job, payload=payload), lambda: None)
    return json.loads(json.dumps(result, allow_nan=False))  # type: ignore[no-any-return]


def forget(result: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from call to call."""
    return {k: v for k, v in result.items() if k != "seconds"}


# --------------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------------
def test_jobs_are_told_apart_by_everything_that_decides_them() -> None:
    """Seeds outermost; any setting changes the configuration, which JSON can hold."""
    names = [j.name for j in jobs(TRIALS, ["none", "brain"], [0, 1], "data")]
    assert names == ["none-seed0", "brain-seed0", "none-seed1", "brain-seed1"]
    config = TRIALS.run_config("none", 0, "data")
    assert json.loads(json.dumps(config)) == config
    for other in (
        replace(TRIALS, units=7),
        replace(TRIALS, transfer=replace(TRIALS.transfer, weight=BrainWeight(0.5))),
        replace(TRIALS, evaluation=replace(TRIALS.evaluation, delays_ms=())),
        replace(TRIALS, task_options={"directions": 4}),
    ):
        assert other.run_config("none", 0, "data") != config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"brain": "pfc-memory"}, "--brain pfc-memory can teach direction, not --task delay-match"),
        ({"student": "vae"}, "--student vae can learn driving, camvid"),
        ({"task": "driving"}, "--student gru can learn direction"),
        ({"brain": "human"}, "unknown brain 'human'"),
    ],
)
def test_impossible_combinations(change: dict[str, Any], words: str) -> None:
    """Brain, task and student that do not go together are refused, with what would."""
    with pytest.raises(ValueError, match=words):
        replace(TRIALS, **change)


@pytest.mark.parametrize("method", ["latent", "contrastive"])
@pytest.mark.parametrize("student", ["gru", "rnn", "vae"])
def test_presets_of_every_brain(method: str, student: str) -> None:
    """Every brain has a preset for the students it can teach, and a clear refusal otherwise."""
    spiking = {"pfc-memory", "steinmetz", "hippocampus"}
    for brain in BRAINS:
        if brain in (spiking if student == "vae" else {"cowley-v4"}):
            with pytest.raises(ValueError, match="cannot learn"):
                preset(method, student, brain, None)
            continue
        experiment, _, seeds = preset(method, student, brain, None)
        assert experiment.student == student
        assert experiment.transfer.method == method
        assert len(seeds) >= 3
        assert (experiment.shown()["delay_ms"] is None) == (student == "vae")


@pytest.mark.parametrize("task", list(DECISION_TASKS))
def test_every_task_has_longer_delays_of_its_own(task: str) -> None:
    """Presets of all tasks stand, and another delay brings other delays to be tested on."""
    experiment, _, _ = preset("latent", "gru", "synthetic", task)
    delay = experiment.shown()["delay_ms"]
    assert all(delay < longer <= 2 * delay for longer in experiment.evaluation.delays_ms)
    assert longer_delays(task, {"delay_ms": 2000.0}) == (3000.0, 4000.0)


def test_arms_that_need_what_is_not_there() -> None:
    """Images have no time, recurrent students see no pixels: said so, and left out by default."""
    with pytest.raises(ValueError, match="images have no time course"):
        check_arms(["reversed"], "latent", "vae")
    with pytest.raises(ValueError, match="averages over time"):
        check_arms(["phase"], "contrastive", "gru")
    with pytest.raises(ValueError, match="sees no images"):
        check_arms(["pixel"], "latent", "gru")
    with pytest.raises(ValueError, match="unknown arms"):
        check_arms(["nural"], "latent", "gru")
    for student in ("gru", "vae"):
        for method in ("latent", "contrastive"):
            arms = default_arms(method, student)
            check_arms(arms, method, student)
            assert set(ARMS) - set(arms) <= {"reversed", "phase", "pixel"}


# --------------------------------------------------------------------------------------------------
# Runs
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["latent", "contrastive"])
def test_every_arm_of_a_recurrent_student(method: Any, tmp_path: Path) -> None:
    """All arms run; zero is none to the last bit; every other arm is another training."""
    experiment = replace(TRIALS, transfer=Brain2ModelConfig(method, BrainWeight(0.5), dimension=4))
    arms = default_arms(method, "gru")
    material = lab.make_material(experiment, arms, None, tmp_path / "teachers")
    results = {arm: go(experiment, material, arm, 0, tmp_path) for arm in arms}
    curves = {arm: [e["validation_loss"] for e in r["history"]] for arm, r in results.items()}
    assert curves["zero"] == curves["none"]
    del curves["zero"]
    assert len({tuple(c) for c in curves.values()}) == len(curves)
    none, brain = results["none"], results["brain"]
    assert [e["step"] for e in none["history"]] == [0, 4, 8, 12]
    assert none["arrival"] == {"step": 12, "censored": True}
    assert len(none["delays"]) == 1
    key = "readout_r2" if method == "latent" else "retrieval"
    assert key in brain["test"]
    assert key not in none["test"]
    assert 0 <= none["test"]["accuracy"] <= 1


@pytest.mark.usefixtures("bars")
@pytest.mark.parametrize("method", ["latent", "contrastive"])
def test_every_arm_of_an_autoencoder(method: Any, tmp_path: Path) -> None:
    """All arms run with images; SSIM is in the history; zero is none to the last bit."""
    experiment = replace(
        FRAMES,
        transfer=replace(FRAMES.transfer, method=method),
        teacher=replace(FRAMES.teacher, k=3 if method == "latent" else None),
    )
    arms = default_arms(method, "vae")
    material = lab.make_material(experiment, arms, None, tmp_path / "teachers")
    results = {arm: go(experiment, material, arm, 0, tmp_path) for arm in arms}
    curves = {arm: [e["validation_loss"] for e in r["history"]] for arm, r in results.items()}
    assert curves["zero"] == curves["none"]
    del curves["zero"]
    assert len({tuple(c) for c in curves.values()}) == len(curves)
    assert all("validation_ssim" in e for e in results["none"]["history"])
    assert set(results["none"]["test"]) == {"mse", "ssim", "probe_r2"}
    assert results["none"]["area"] == pytest.approx(
        np.mean([e["validation_ssim"] for e in results["none"]["history"]]), abs=0.1
    )


def test_controls_are_drawn_anew_for_every_seed(tmp_path: Path) -> None:
    """Seeds differ in their controls too, and one seed always gets the same."""
    material = lab.make_material(TRIALS, ["brain"], None, tmp_path)

    def latents(seed: int) -> Any:
        teacher = material.of("random-code").teacher("random-code", seed, None)
        assert isinstance(teacher, LatentTeacher)
        return teacher.latents

    assert (latents(0) == latents(0)).all()
    assert not np.allclose(latents(0), latents(1))


@pytest.mark.usefixtures("bars")
def test_less_data_is_less_for_the_teacher_too(tmp_path: Path) -> None:
    """On a share of the frames a teacher of frames shows no others, whatever its arm."""
    material = lab.make_material(FRAMES, ["brain"], None, tmp_path)
    assert isinstance(material, transfer_frames.FrameMaterial)
    whole = material.lesson(3, None).frames
    lesson = material.lesson(3, 0.25)
    assert len(lesson.frames) == len(whole) / 4
    for arm in ("brain", "relabelled", "label", "random-code"):
        teacher = material.of(arm).teacher(arm, 3, 0.25)
        assert teacher is not None
        assert teacher.stimuli is not None
        seen = {x.tobytes() for x in teacher.stimuli}
        assert seen == {x.tobytes() for x in lesson.frames.numpy()}


def test_shares_are_trained_one_after_the_other(tmp_path: Path) -> None:
    """The run itself is not changed by the shares, which come with their own arrival and test."""
    material = lab.make_material(TRIALS, ["brain"], None, tmp_path)
    shares = replace(TRIALS, evaluation=replace(TRIALS.evaluation, shares=(0.1, 1.0)))
    alone = go(TRIALS, material, "brain", 0, tmp_path)
    more = go(shares, replace(material, experiment=shares), "brain", 0, tmp_path)
    assert alone["history"] == more["history"]
    assert [e["share"] for e in more["efficiency"]] == [0.1, 1.0]
    assert all(set(e) == {"share", "test", "arrival"} for e in more["efficiency"])


class KilledError(BaseException):
    """Stands for a signal."""


@pytest.mark.usefixtures("bars")
@pytest.mark.parametrize("experiment", [TRIALS, FRAMES], ids=["trials", "frames"])
def test_a_killed_run_goes_on_bit_for_bit(experiment: TransferExperiment, tmp_path: Path) -> None:
    """Killed in the middle of a training and started again: the same numbers to the last bit."""
    experiment = replace(experiment, evaluation=replace(experiment.evaluation, shares=(0.5,)))
    material = lab.make_material(experiment, ["brain"], None, tmp_path / "teachers")
    whole = go(experiment, material, "brain", 0, tmp_path / "whole")
    for ticks in (2, 6):  # in the first training, and in that on a share
        left = ticks

        def tick() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KilledError

        (job,) = jobs(experiment, ["brain"], [0], "")
        folder = tmp_path / f"killed-{ticks}"
        payload = Payload(experiment, material.of("brain"), 1, folder / "checkpoints")
        killed: Job = replace(job, payload=payload)
        with pytest.raises(KilledError):
            lab.run(killed, tick)
        assert list(payload.folder(killed).glob("*.safetensors"))
        resumed = go(experiment, material, "brain", 0, folder)
        assert forget(resumed) == forget(whole)


def test_teachers_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that teach are kept: a second call trains nothing and gives the same latents."""
    first = lab.make_material(TRIALS, ["network"], None, tmp_path)

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(torch.optim.Adam, "step", never)
    second = lab.make_material(TRIALS, ["network"], None, tmp_path)
    assert isinstance(first.brain, LatentTeacher)
    assert isinstance(second.brain, LatentTeacher)
    np.testing.assert_array_equal(first.brain.latents, second.brain.latents)
    assert isinstance(first.of("network").brain, LatentTeacher)
    assert first.report["network"] == second.report["network"]
    assert any("SYNTHETIC" in line for line in first.report["words"])


@pytest.mark.usefixtures("bars")
@pytest.mark.parametrize("experiment", [TRIALS, FRAMES])
def test_students_alone_need_no_teacher(
    experiment: TransferExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arm none alone trains no network behind a brain, and learns to the bit as beside others."""
    others = lab.make_material(experiment, ["none", "brain"], None, tmp_path / "teachers")
    expected = forget(go(experiment, others, "none", 0, tmp_path / "a"))
    for module in (transfer_trials, transfer_frames):
        monkeypatch.setattr(module, "teach_alone", lambda *_: pytest.fail("a network was trained"))
    alone = lab.make_material(experiment, ["none"], None, tmp_path / "none")
    assert forget(go(experiment, alone, "none", 0, tmp_path / "b")) == expected
    assert not (tmp_path / "none").exists()


def test_condition_states_are_in_the_order_of_conditions() -> None:
    """Row c holds trials of condition c: trials of one condition are more alike than of others."""
    task = decision_task("delay-match-sample", directions=2, noise=0.01)
    lesson = transfer_lessons.TrialLesson(replace(TRIALS, units=20), task, 0)
    states = transfer_lessons.condition_states(lesson.student, task, 3, 0)
    assert states.shape == (4, 3, task.steps, 20)
    within = states.std(axis=1).mean()
    between = states.mean(axis=1).std(axis=0).mean()
    assert between > 10 * within


@pytest.mark.parametrize("brain", ["steinmetz", "hippocampus"])
def test_mappings_name_every_condition(brain: str) -> None:
    """Every condition of the task has a counterpart, by the right answer or by the sample."""
    name = BRAINS[brain][0]
    task = decision_task(name)
    found = transfer_trials.mapping(brain, task)
    assert list(found["conditions"]) == list(task.conditions)
    assert set(found["epochs"]) <= set(task.epochs)
    if brain == "steinmetz":
        assert found["conditions"]["18 then 10"] == "left"
        assert found["conditions"]["10 then 18"] == "right"
    else:
        assert found["conditions"]["match 1"] == found["conditions"]["non-match 1"] == "there"


# --------------------------------------------------------------------------------------------------
# The synthetic truth
# --------------------------------------------------------------------------------------------------
def test_the_true_teacher_is_faster_and_empty_ones_are_not(tmp_path: Path) -> None:
    """The preset's synthetic truth: half the steps or fewer with the true teacher, none without.

    The figure itself is over ten seeds; this protects it on two.
    """
    experiment, _, _ = preset("latent", "gru", "synthetic", None)
    material = lab.make_material(experiment, ["brain"], None, tmp_path)
    found: dict[str, list[TimeToCriterion]] = {}
    for arm in ("none", "brain", "shuffled", "gaussian"):
        for seed in (200, 201):
            result = go(experiment, material, arm, seed, tmp_path)
            found.setdefault(arm, []).append(TimeToCriterion(**result["arrival"]))
    assert median_ratio(found["brain"], found["none"]).high < 0.5
    for arm in ("shuffled", "gaussian"):
        assert median_ratio(found[arm], found["none"]).low > 0.7
