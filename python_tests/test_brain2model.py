"""Both strategies with both kinds of students, put together and trained."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from b2m_fast.methods.brain2model import TransferConfig, Weight, brain_objective
from b2m_fast.methods.chance import Chance, seeded
from b2m_fast.methods.lessons import DecisionLesson
from b2m_fast.methods.training import History, LoopConfig, train
from b2m_fast.students.recurrent import GRUStudent
from small_lessons import (
    COMBINATIONS,
    Still,
    condition_teacher,
    decision_lesson,
    frame_lesson,
    image_teacher,
    latent_teacher,
    lesson_and_teacher,
    objective,
    small_task,
)
from small_training import assert_same

pytest.importorskip("lightning_fabric", reason="the loop needs Lightning Fabric")

STILL: Any = Still()
LOOP = LoopConfig(steps=12, validate_every=3, clip=1.0, learning_rate=5e-3)


def weights(module: torch.nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in module.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def task_part(history: History) -> list[dict[str, float]]:
    keys = ("step", "loss", "validation_loss")
    return [{key: entry[key] for key in keys} for entry in history.entries]


# --------------------------------------------------------------------------------------------------
# Weight zero
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("schedule", ["constant", "pretrain"])
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_weight_zero_is_the_isolated_student(combination: str, schedule: Any) -> None:
    """With weight 0 everything of the task (random numbers, losses, weights) is that of the student
    without a teacher, to the last bit, while the term has its parameters and draws its samples."""
    zero = objective(combination, weight=Weight(0.0, schedule, until=0.5))
    alone = brain_objective(lesson_and_teacher(combination)[0], None, TransferConfig(), 0)
    before = weights(zero.modules["term"])
    histories = [train(o, LOOP) for o in (zero, alone)]
    assert task_part(histories[0]) == task_part(histories[1])
    assert same(weights(zero.lesson.student), weights(alone.lesson.student))
    assert_same(zero.lesson.state(), alone.lesson.state())
    assert same(weights(zero.modules["term"]), before)
    assert all(entry["penalty"] > 0 for entry in histories[0].entries)


def test_weight_zero_in_bits_for_every_readout() -> None:
    """Also where a readout keeps what it solved (ridge) or never learns (fixed)."""
    alone = brain_objective(decision_lesson(), None, TransferConfig(), 0)
    train(alone, LOOP)
    for readout in ("learned", "fixed", "ridge"):
        zero = objective("rnn latent", weight=Weight(0.0), readout=readout)
        train(zero, LOOP)
        assert same(weights(zero.lesson.student), weights(alone.lesson.student)), readout


def test_a_teacher_does_not_touch_the_tasks_chance() -> None:
    """Students of different arms see the same trials and the same noise in the same order."""
    states = []
    for teacher in (None, latent_teacher(), condition_teacher(), latent_teacher(seed=9)):
        lesson = decision_lesson()
        train(brain_objective(lesson, teacher, TransferConfig(), 0), LOOP)
        states.append(lesson.state())
    for state in states[1:]:
        assert_same(state, states[0])


def test_arms_of_a_seed_start_alike_and_seeds_do_not() -> None:
    """Heads start from the seed whatever the teacher's numbers are, and PyTorch's own generator is
    left as it was."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    starts = [
        weights(brain_objective(decision_lesson(seed=s), t, TransferConfig(), s).modules)
        for t, s in ((latent_teacher(), 1), (latent_teacher(seed=3), 1), (latent_teacher(), 2))
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert same(starts[0], starts[1])
    assert not same(starts[0], starts[2])


# --------------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_every_combination_learns_from_its_brain(combination: str) -> None:
    """The brain's term falls, and what is read out of held-out samples rises well above chance."""
    taught = objective(combination)
    config = replace(LOOP, steps=150, validate_every=25, validate_first=True, learning_rate=1e-2)
    entries = train(taught, config).entries
    assert entries[-1]["penalty"] < 0.9 * entries[1]["penalty"]
    if combination.endswith("latent"):
        assert entries[-1]["readout_r2"] > max(0.25, entries[0]["readout_r2"])
    else:
        assert entries[-1]["retrieval"] > 2 * entries[-1]["retrieval_chance"]


@pytest.mark.parametrize("combination", ["rnn latent", "rnn contrastive"])
@pytest.mark.parametrize("average", [True, False])
def test_steps_or_their_mean(combination: str, average: bool) -> None:
    """Both strategies run on steps and on their mean, and on latents as well as on responses."""
    method: Any = combination.split()[1]
    for teacher in (latent_teacher(), condition_teacher()):
        config = TransferConfig(method, average=average, window=(4, 12))
        entries = train(brain_objective(decision_lesson(), teacher, config, 0), LOOP).entries
        assert all(math.isfinite(value) for entry in entries for value in entry.values())


@pytest.mark.parametrize("combination", ["gru latent", "rnn contrastive", "vae contrastive"])
def test_scrambled_brains_teach_nothing(combination: str) -> None:
    """Where the pairing is broken anew in every batch, nothing true of held-out samples is learned."""
    config = replace(LOOP, steps=150, validate_every=150, learning_rate=1e-2)
    # of four conditions any student finds one or two by chance: the mean over students must not
    seeds = range(4 if combination == "rnn contrastive" else 1)
    entries = [train(objective(combination, s, scramble=True), config).entries[-1] for s in seeds]
    if combination.endswith("latent"):
        assert entries[0]["readout_r2"] < 0.25
    else:
        found = sum(entry["retrieval"] for entry in entries) / len(entries)
        assert found < 2 * entries[0]["retrieval_chance"]


def test_schedules_of_the_weight() -> None:
    """Constant, half a cosine to 0, and the brain first; 0 is 0 whatever the schedule."""
    assert [Weight(2.0).at(p) for p in (0, 0.5, 0.99)] == [(1, 2)] * 3
    cosine = [Weight(2.0, "cosine", until=0.5).at(p) for p in (0, 0.25, 0.5, 0.9)]
    assert cosine == [(1, 2), (1, pytest.approx(1)), (1, 0), (1, 0)]
    pretrain = [Weight(2.0, "pretrain", until=0.5).at(p) for p in (0, 0.49, 0.5, 0.9)]
    assert pretrain == [(0, 2), (0, 2), (1, 0), (1, 0)]
    assert Weight(0.0, "pretrain", until=0.5).at(0.1) == (1, 0)


@pytest.mark.parametrize(
    "wrong",
    [{"value": -1.0}, {"value": math.nan}, {"schedule": "linear"}, {"until": 0.0}, {"until": 1.1},
     {"schedule": "pretrain"}],
)  # fmt: skip
def test_wrong_weights(wrong: dict[str, Any]) -> None:
    """Weights that make no sense are refused."""
    with pytest.raises(ValueError, match=r"weight must|schedule must|until must"):
        Weight(**wrong)


def test_pretraining_is_of_the_brain_alone() -> None:
    """Before `until` only the brain's term moves the student: its output layer stays; after it only
    the task does: the readout stays."""
    taught = objective("gru latent", weight=Weight(1.0, "pretrain", until=0.5))
    student: Any = taught.lesson.student
    term = taught.modules["term"]
    seen: list[list[list[torch.Tensor]]] = []
    start = weights(student.output)
    train(taught, LOOP, tick=lambda _: seen.append([weights(student.output), weights(term)]))
    assert same(seen[1][0], start)
    assert not same(seen[3][0], start)
    assert not same(seen[0][1], seen[1][1])
    assert same(seen[1][1], seen[3][1])


def test_the_weight_is_in_the_history() -> None:
    """Entries hold the mean weight of their steps."""
    entries = train(objective("rnn latent", weight=Weight(3.0, "pretrain", until=0.5)), LOOP).entries  # fmt: skip
    assert [entry["weight"] for entry in entries] == [3, 3, 0, 0]


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_mixed_precision(combination: str) -> None:
    """In bfloat16 every combination trains, near what it does in float32, with float32 weights."""
    losses = []
    precisions: tuple[Any, ...] = ("32-true", "bf16-mixed")
    for precision in precisions:
        taught = objective(combination)
        config = replace(LOOP, precision=precision)
        losses.append(train(taught, config).entries[-1])
        assert all(p.dtype == torch.float32 for p in taught.modules.parameters())
    for key in ("loss", "penalty"):
        assert losses[1][key] == pytest.approx(losses[0][key], rel=0.05)
    assert losses[0] != losses[1]


# --------------------------------------------------------------------------------------------------
# Resume
# --------------------------------------------------------------------------------------------------
OPTIONS: dict[str, dict[str, Any]] = {
    "rnn latent": {"readout": "ridge", "scramble": True},
    "gru latent": {"weight": Weight(1.0, "cosine")},
    "rnn contrastive": {"learn_temperature": True},
    "vae contrastive": {"learn_temperature": True, "weight": Weight(0.1)},
}


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_every_combination_resumes_bit_for_bit(tmp_path: Path, combination: str) -> None:
    """A training ended in the middle and begun anew ends as one that was not: student, term, its
    buffers, history, generators and places in lists."""
    options = OPTIONS.get(combination, {})
    config = replace(LOOP, keep_best="validation_loss")

    def stop(entry: dict[str, float]) -> None:
        if entry["step"] == 6:
            raise KeyboardInterrupt

    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        train(objective(combination, **options), config, checkpoint=path, tick=stop)
    resumed, straight = (objective(combination, **options) for _ in range(2))
    histories = [train(resumed, config, checkpoint=path), train(straight, config)]
    assert histories[0] == histories[1]
    assert same(weights(resumed.modules), weights(straight.modules))
    assert_same(resumed.state(), straight.state())


def test_a_pool_of_trials_resumes_too(tmp_path: Path) -> None:
    """With a limited pool, the place in its order is kept."""

    def stop(entry: dict[str, float]) -> None:
        if entry["step"] == 6:
            raise KeyboardInterrupt

    path = tmp_path / "checkpoint"
    make = [brain_objective(decision_lesson(pool=20), None, TransferConfig(), 0) for _ in range(3)]
    with pytest.raises(KeyboardInterrupt):
        train(make[0], LOOP, checkpoint=path, tick=stop)
    assert train(make[1], LOOP, checkpoint=path) == train(make[2], LOOP)
    assert same(weights(make[1].modules), weights(make[2].modules))


def test_chance_comes_back_and_streams_differ() -> None:
    """A stored `Chance` goes on from where it was; streams and seeds are independent."""
    chance = Chance(3, 1)
    chance.numpy.random(5)
    torch.randn(3, generator=chance.torch)
    other = Chance(0, 0)
    other.load_state(chance.state())
    assert other.numpy.random() == chance.numpy.random()
    assert torch.equal(
        torch.randn(9, generator=other.torch), torch.randn(9, generator=chance.torch)
    )
    first = {Chance(seed, stream).numpy.random() for seed in (0, 1) for stream in (0, 1)}
    assert len(first) == 4
    draws = []
    for _ in range(2):
        with seeded(4):
            draws.append(torch.rand(3))
    assert torch.equal(*draws)


# --------------------------------------------------------------------------------------------------
# Lessons
# --------------------------------------------------------------------------------------------------
def test_a_pool_is_all_there_is() -> None:
    """A lesson with a pool shows its trials again and again and no others."""
    lesson = decision_lesson(pool=12, batch=5)
    assert lesson.pool is not None
    known = {x.numpy().tobytes() for x in lesson.pool.inputs.transpose(0, 1)}
    shown: list[bytes] = []
    run = lesson._run

    def spy(fabric: Any, trials: Any, generator: Any) -> Any:
        shown.extend(x.numpy().tobytes() for x in trials.inputs.transpose(0, 1))
        return run(fabric, trials, generator)

    lesson._run = spy  # type: ignore[method-assign]
    for _ in range(6):
        lesson.step(STILL)
    assert set(shown) == known
    assert [shown.count(x) for x in known] == [2] * 12


def test_loss_and_accuracy_count_only_where_answers_do() -> None:
    """Both are means over the steps of the response, of all trials."""
    lesson = decision_lesson()
    trials = lesson.held_out
    with torch.no_grad():
        numbers, seen = lesson.validate(STILL)
        logits, hidden = lesson.student(trials.inputs)
    at = trials.mask.bool()
    loss = torch.nn.functional.cross_entropy(logits[at], trials.target[at])
    assert numbers["validation_loss"] == pytest.approx(float(loss), rel=1e-5)
    right = (logits[at].argmax(1) == trials.target[at]).float().mean()
    assert numbers["validation_accuracy"] == pytest.approx(float(right))
    assert torch.equal(seen.hidden, hidden)
    assert 0 < at.float().mean() < 1


def test_frames_are_validated_in_whole() -> None:
    """The numbers of more frames than fit one batch are those of all of them at once."""
    lesson = frame_lesson()
    lesson.held_out = torch.from_numpy(np.tile(lesson.held_out.numpy(), (30, 1, 1, 1))[:300])
    with torch.no_grad():
        numbers, _ = lesson.validate(STILL)
        output = lesson.student(lesson.held_out)
    error = (output.reconstruction - lesson.held_out).square().mean()
    assert numbers["validation_error"] == pytest.approx(float(error), rel=1e-5)
    total = numbers["validation_error"] + numbers["validation_divergence"]
    assert numbers["validation_loss"] == pytest.approx(total, rel=1e-6)


def test_wrong_lessons() -> None:
    """Batches of nothing, and frames or tasks that are not the student's, are refused."""
    with pytest.raises(ValueError, match="batch must be at least 1"):
        decision_lesson(batch=0)
    with pytest.raises(ValueError, match="pool must be at least 1"):
        decision_lesson(pool=0)
    task = small_task()
    with pytest.raises(
        ValueError, match="the student has 1 classes, the task 'delay-match-sample' has 2"
    ):
        DecisionLesson(GRUStudent(task.channels, 1, 4), task, seed=0)
    with pytest.raises(ValueError, match=r"the student has 9 input channels.* has 3"):
        DecisionLesson(GRUStudent(9, task.classes, 4), task, seed=0)
    lesson = frame_lesson()
    wrong = np.zeros((4, 3, 16, 16), np.float32)
    with pytest.raises(ValueError, match=r"\(4, 3, 16, 16\)"):
        type(lesson)(lesson.student, wrong, wrong, seed=0)


def test_teachers_that_do_not_fit() -> None:
    """Images cannot teach a decision task, latents of conditions cannot teach frames, and a method
    has to be one of the two."""
    with pytest.raises(ValueError, match="cannot be paired with conditions"):
        brain_objective(decision_lesson(), image_teacher(), TransferConfig(), 0)
    with pytest.raises(ValueError, match="cannot teach an autoencoder"):
        brain_objective(frame_lesson(), latent_teacher(), TransferConfig(), 0)
    with pytest.raises(ValueError, match=r"stimuli have shape None"):
        brain_objective(frame_lesson(), condition_teacher(), TransferConfig(), 0)
    with pytest.raises(ValueError, match="method must be"):
        TransferConfig("telepathy")  # type: ignore[arg-type]


@pytest.mark.parametrize("held_out", [0.0, 1.0, -0.2])
def test_a_share_to_hold_out_is_named(held_out: float) -> None:
    with pytest.raises(ValueError, match=f"held_out must be between 0 and 1, got {held_out}"):
        TransferConfig(held_out=held_out)
