"""Tasks and alignments: what a student learns from, and which row of a brain belongs to which of its rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from b2m_fast.data.files import DataError
from b2m_fast.methods.alignment import (
    AlignedRows,
    ConditionAlignment,
    FrameTask,
    LatentAlignment,
    StimulusAlignment,
    TrialActivity,
    TrialTask,
)
from b2m_fast.methods.brain2model import LatentLoss
from b2m_fast.methods.config import Brain2ModelConfig
from b2m_fast.students.recurrent import GRUStudent
from b2m_fast.students.vae import ConvVAE
from b2m_fast.teachers.latents import LatentTeacher
from b2m_fast.teachers.responses import ResponseTeacher
from small_tasks import (
    OnTheCPU,
    condition_teacher,
    frame_task,
    image_teacher,
    latent_teacher,
    small_task,
    trial_task,
)

FABRIC: Any = OnTheCPU()
UNITS = 12


def activity(trials: int = 10, seed: int = 0) -> TrialActivity:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(small_task().steps, trials, UNITS, generator=generator)
    return TrialActivity(hidden, torch.arange(trials) % 4)


def of_latents(teacher: LatentTeacher | None = None, **options: Any) -> LatentAlignment:
    return LatentAlignment(
        teacher or latent_teacher(), trial_task(), Brain2ModelConfig(**options), 0
    )


def of_conditions(
    teacher: ResponseTeacher | None = None, average: bool = True, **options: Any
) -> ConditionAlignment:
    config = Brain2ModelConfig(average=average, **options)
    return ConditionAlignment(teacher or condition_teacher(), trial_task(), config, 0)


def of_stimuli(
    teacher: ResponseTeacher | None = None, seed: int = 0, **options: Any
) -> StimulusAlignment:
    config = Brain2ModelConfig(**options)
    return StimulusAlignment(teacher or image_teacher(), frame_task(), config, seed)


# --------------------------------------------------------------------------------------------------
# Tasks
# --------------------------------------------------------------------------------------------------
def test_a_pool_is_all_there_is() -> None:
    """A task with a pool shows its trials again and again and no others."""
    task = trial_task(pool=12, batch=5)
    assert task.pool is not None
    known = {x.numpy().tobytes() for x in task.pool.inputs.transpose(0, 1)}
    shown: list[bytes] = []
    run = task.run

    def spy(fabric: Any, trials: Any, generator: Any) -> Any:
        shown.extend(x.numpy().tobytes() for x in trials.inputs.transpose(0, 1))
        return run(fabric, trials, generator)

    task.run = spy  # type: ignore[assignment, method-assign]
    for _ in range(6):
        task.step(FABRIC)
    assert set(shown) == known
    assert [shown.count(x) for x in known] == [2] * 12


def test_loss_and_accuracy_count_only_where_answers_do() -> None:
    """Both are means over the steps of the response, of all trials."""
    task = trial_task()
    trials = task.held_out
    with torch.no_grad():
        numbers, seen = task.validate(FABRIC)
        logits, hidden = task.student(trials.inputs)
    at = trials.mask.bool()
    loss = torch.nn.functional.cross_entropy(logits[at], trials.target[at])
    assert numbers["validation_loss"] == pytest.approx(float(loss), rel=1e-5)
    right = (logits[at].argmax(1) == trials.target[at]).float().mean()
    assert numbers["validation_accuracy"] == pytest.approx(float(right))
    assert torch.equal(seen.hidden, hidden)
    assert 0 < at.float().mean() < 1


def test_frames_are_validated_in_whole() -> None:
    """The numbers of more frames than fit one batch are those of all of them at once."""
    task = frame_task()
    task.held_out = torch.from_numpy(np.tile(task.held_out.numpy(), (30, 1, 1, 1))[:300])
    with torch.no_grad():
        numbers, _ = task.validate(FABRIC)
        output = task.student(task.held_out)
    error = (output.reconstruction - task.held_out).square().mean()
    assert numbers["validation_error"] == pytest.approx(float(error), rel=1e-5)
    total = numbers["validation_error"] + numbers["validation_divergence"]
    assert numbers["validation_loss"] == pytest.approx(total, rel=1e-6)


def test_wrong_tasks() -> None:
    """Batches of nothing, and frames or tasks that are not the student's, are refused."""
    with pytest.raises(ValueError, match="batch must be at least 1"):
        trial_task(batch=0)
    with pytest.raises(ValueError, match="pool must be at least 1"):
        trial_task(pool=0)
    task = small_task()
    for channels, classes in ((3, 1), (9, 2)):
        message = (
            f"{channels} input channels and {classes} classes.*'delay-match-sample' has 3 and 2"
        )
        with pytest.raises(ValueError, match=message):
            TrialTask(GRUStudent(channels, classes, 4), task, seed=0)
    wrong = np.zeros((4, 3, 16, 16), np.float32)
    with pytest.raises(ValueError, match=r"\(4, 3, 16, 16\)"):
        FrameTask(frame_task().student, wrong, wrong, seed=0)


# --------------------------------------------------------------------------------------------------
# Alignments
# --------------------------------------------------------------------------------------------------
def test_a_trial_gets_the_latents_of_its_condition_at_its_step() -> None:
    """Each row is the hidden state of a trial at a valid step of the window, beside z_{c,t}; rows of
    one label, and only they, have the same latents."""
    teacher, seen = latent_teacher(), activity()
    rows = of_latents(teacher, window=(1, 6)).rows(FABRIC, seen)
    expected = [(t, n) for t in (3, 4, 5) for n in range(10)]  # valid from step 3
    assert len(rows.label) == len(expected)
    for row, (t, n) in enumerate(expected):
        assert torch.equal(rows.student[row], seen.hidden[t, n])
        assert rows.brain[row].tolist() == teacher.latents[n % 4, t].tolist()
        assert int(rows.label[row]) // 3 == n % 4
    for a in range(30):
        for b in range(30):
            alike = torch.equal(rows.brain[a], rows.brain[b])
            assert (rows.label[a] == rows.label[b]) == alike


def test_the_mean_of_a_trial() -> None:
    """With `average` a row is the mean over the valid steps, on both sides; labels are conditions."""
    teacher, seen = latent_teacher(), activity()
    rows = of_latents(teacher, average=True).rows(FABRIC, seen)
    torch.testing.assert_close(rows.student, seen.hidden[3:].mean(0))
    means = torch.from_numpy(teacher.latents[:, 3:].mean(1))[seen.condition]
    torch.testing.assert_close(rows.brain, means)
    assert torch.equal(rows.label, seen.condition)


def test_only_valid_steps_teach() -> None:
    """Where the recording says nothing hidden states get no gradient, and what stands in for latents
    there has no effect."""
    teacher, seen = latent_teacher(), activity()
    seen.hidden.requires_grad_()
    brain_loss = LatentLoss(UNITS, 3, "fixed")
    loss = brain_loss(of_latents(teacher).rows(FABRIC, seen))
    (gradient,) = torch.autograd.grad(loss, seen.hidden)
    assert (gradient[:3] == 0).all()
    assert (gradient[3:].abs().sum((1, 2)) > 0).all()
    changed = teacher.latents.copy()
    changed[:, :3] = 1e6
    other = replace(teacher, latents=changed)
    again = brain_loss(of_latents(other).rows(FABRIC, seen))
    assert torch.equal(loss, again)


@pytest.mark.parametrize("average", [True, False])
def test_trials_get_responses_of_their_condition(average: bool) -> None:
    """Responses are drawn from the trial's own condition, all of them sooner or later, but for those
    held out, which appear in validation alone."""
    teacher, seen = condition_teacher(), activity(40)
    aligned = of_conditions(teacher, average)
    place = {r.tobytes(): i for i, r in enumerate(aligned.responses.numpy())}

    def used(rows: AlignedRows) -> set[int]:
        found = [place[b.numpy().tobytes()] for b in rows.brain]
        assert [teacher.label[i] for i in found] == rows.label.tolist()
        assert rows.student.shape == (40 if average else 40 * 24, UNITS)
        return set(found)

    drawn = set().union(*(used(aligned.rows(FABRIC, seen)) for _ in range(40)))
    held_out = used(aligned.rows(FABRIC, seen, held_out=True))
    assert used(aligned.rows(FABRIC, seen, held_out=True)) == held_out
    assert not drawn & held_out
    assert drawn | held_out == set(range(48))
    assert [sum(teacher.label[i] == c for i in held_out) for c in range(4)] == [2] * 4


def test_conditions_of_one_recorded_condition_share_its_responses() -> None:
    """Task conditions recorded as one draw from the same rows under one label, so that no response
    is its own negative, and those held out stay held out for both."""
    label = np.repeat(np.arange(2), 10)
    responses = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    teacher = ResponseTeacher(None, responses, label, condition=np.array([1, 0, 0, 1]))
    aligned, seen = of_conditions(teacher), activity(40)
    place = {r.tobytes(): i for i, r in enumerate(aligned.responses.numpy())}
    drawn: set[int] = set()
    for _ in range(40):
        rows = aligned.rows(FABRIC, seen)
        found = [place[b.numpy().tobytes()] for b in rows.brain]
        assert rows.label.tolist() == [1, 0, 0, 1] * 10 == label[found].tolist()
        drawn |= set(found)
    held_out = {place[b.numpy().tobytes()] for b in aligned.rows(FABRIC, seen, held_out=True).brain}
    assert not drawn & held_out
    assert drawn | held_out == set(range(20))
    with pytest.raises(ValueError, match=r"labels for 2 conditions.*has 4"):
        of_conditions(replace(teacher, condition=np.array([0, 1])))


@pytest.mark.parametrize("components", [None, 3])
def test_scales_and_components_come_from_training_rows(components: int | None) -> None:
    """Held-out responses, however far away, change nothing of what is trained on; training rows
    have mean 0, variance 1 and, as components, no correlation."""
    makers: tuple[Any, ...] = (of_conditions, of_stimuli)
    for make, plain in zip(makers, (condition_teacher(), image_teacher()), strict=True):
        teacher = replace(plain, components=components)
        aligned = make(teacher)
        train = aligned.train
        if isinstance(aligned, ConditionAlignment):
            train = np.concatenate(aligned.train)
        kept = np.setdiff1d(np.arange(len(teacher.label)), train)
        assert len(kept) > 0
        far = teacher.responses.copy()
        far[kept] = 50 * far[kept][:, ::-1] + 100
        other = make(replace(teacher, responses=far))
        rows = aligned.responses[train].double()
        torch.testing.assert_close(other.responses[train].double(), rows)
        assert aligned.widths[1] == teacher.width == rows.shape[1]
        torch.testing.assert_close(
            rows.mean(0), torch.zeros(teacher.width).double(), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            rows.std(0, correction=0), torch.ones(teacher.width).double(), atol=1e-4, rtol=0
        )
        if components:
            assert np.abs(np.corrcoef(rows.T.numpy()) - np.eye(components)).max() < 1e-4


def test_images_are_held_out_in_blocks() -> None:
    """Frames of a video are almost their neighbours: few of those held out may have a neighbour
    that is trained on."""
    chosen = set()
    for seed in range(8):
        kept = of_stimuli(seed=seed).rows(FABRIC, held_out=True).label
        numbers = sorted(set(kept.tolist()))
        assert len(numbers) == 10
        edges = sum(n - 1 not in numbers for n in numbers)
        assert edges <= 2  # blocks of five
        chosen.add(tuple(numbers))
    assert len(chosen) > 1
    two = image_teacher()
    first = two.label < 2
    assert two.stimuli is not None
    small = replace(
        two, stimuli=two.stimuli[first], responses=two.responses[first], label=two.label[first]
    )
    assert len(set(of_stimuli(small).rows(FABRIC, held_out=True).label.tolist())) == 1


def test_a_response_stays_with_its_trial_over_steps() -> None:
    """Rows that are steps repeat a trial's response at every step."""
    aligned = of_conditions(average=False)
    seen = activity()
    rows = aligned.rows(FABRIC, seen)
    brain = rows.brain.unflatten(0, (24, 10))
    assert torch.equal(brain, brain[:1].expand_as(brain))
    assert torch.equal(rows.student.unflatten(0, (24, 10)), seen.hidden)


def test_images_stand_beside_their_responses() -> None:
    """Rows are encoder means of the stimuli; repeats of an image share a label; an image is either
    trained on or held out, with all of its repeats."""
    teacher = image_teacher()
    aligned = of_stimuli(teacher, batch=25)
    place = {r.tobytes(): i for i, r in enumerate(aligned.responses.numpy())}
    seen: set[int] = set()
    with torch.no_grad():
        for _ in range(4):
            rows = aligned.rows(FABRIC)
            found = [place[b.numpy().tobytes()] for b in rows.brain]
            assert teacher.label[found].tolist() == rows.label.tolist()
            assert teacher.stimuli is not None
            mean = aligned.student.encode(torch.from_numpy(teacher.stimuli[found]))[0]
            torch.testing.assert_close(rows.student, mean)
            seen |= set(rows.label.tolist())
        kept = set(aligned.rows(FABRIC, held_out=True).label.tolist())
    assert len(kept) == 10
    assert not seen & kept
    assert seen | kept == set(range(50))


def test_scrambled_rows_are_permuted_anew() -> None:
    """A scrambled alignment keeps the student's rows, the labels and the brain's rows as a set, breaks
    which belongs to which, differently in every batch, and leaves validation as it is."""
    makers: tuple[Any, ...] = (
        lambda s: of_latents(average=True, scramble=s),
        lambda s: of_conditions(scramble=s),
        lambda s: of_stimuli(batch=40, scramble=s),
    )
    for make in makers:
        seen: Any = None if make is makers[2] else activity(40)
        plain, scrambled = (make(s).rows(FABRIC, seen) for s in (False, True))
        assert torch.equal(plain.student, scrambled.student)
        assert torch.equal(plain.label, scrambled.label)
        rows_of = [sorted(rows.brain.tolist()) for rows in (plain, scrambled)]
        assert rows_of[0] == rows_of[1]
        moved = (plain.brain != scrambled.brain).any(1).float().mean()
        assert moved > 0.5
        aligned = make(True)
        first, second = (aligned.rows(FABRIC, seen).brain for _ in range(2))
        assert not torch.equal(first, second)
        kept = [make(s).rows(FABRIC, seen, held_out=True).brain for s in (False, True)]
        assert torch.equal(*kept)


def test_teachers_and_tasks_that_do_not_fit() -> None:
    """Other conditions, another clock, empty windows, too few responses: each says what is wrong."""
    task, teacher = small_task(), latent_teacher()

    def latents(window: Any = None, **changes: Any) -> LatentAlignment:
        return of_latents(replace(teacher, **changes), window=window)

    with pytest.raises(ValueError, match=r"3 conditions.*has 4"):
        latents(latents=teacher.latents[:3])
    with pytest.raises(ValueError, match=r"20 steps.*has 24"):
        latents(latents=teacher.latents[:, :20], valid=teacher.valid[:20])
    with pytest.raises(ValueError, match="NaN"):
        latents(latents=teacher.latents * np.float32(np.nan))
    with pytest.raises(ValueError, match="says nothing about any step"):
        latents(window=(0, 3))
    with pytest.raises(ValueError, match="no range of the 24 steps"):
        latents(window=(5, 30))
    responses = condition_teacher()
    few = replace(responses, responses=responses.responses[:37], label=responses.label[:37])
    with pytest.raises(ValueError, match=f"too few for {task.conditions[3]}"):
        of_conditions(few)
    with pytest.raises(ValueError, match="0 to 3"):
        of_conditions(replace(responses, label=responses.label + 1))
    images, colour = image_teacher(), np.zeros((4, 3, 16, 16), np.float32)
    other = FrameTask(ConvVAE((3, 16, 16), latent=6, width=2), colour, colour, seed=0)
    with pytest.raises(ValueError, match=r"\(100, 1, 16, 16\).*\(3, 16, 16\)"):
        StimulusAlignment(images, other, Brain2ModelConfig(), 0)
    with pytest.raises(ValueError, match="two images or more"):
        of_stimuli(replace(images, label=np.zeros(100, np.int64)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("responses", np.zeros((4, 0), np.float32)),
        ("responses", np.full((4, 2), np.nan, np.float32)),
        ("responses", np.zeros((4, 2), complex)),
        ("label", np.zeros(3, np.int64)),
        ("label", np.array(["a", "b", "c", "d"])),
        ("label", np.array([0, 1, 2, 2.5])),
        ("stimuli", np.zeros((3, 1, 16, 16), np.float32)),
        ("stimuli", np.zeros((4, 1, 16, 16), np.uint8)),
        ("stimuli", np.full((4, 1, 16, 16), 255.0)),
        ("stimuli", np.zeros((4, 16, 16))),
        ("condition", np.zeros((2, 2))),
    ],
)
def test_wrong_responses(name: str, value: Any) -> None:
    """Responses that are not what they should be are refused, by name, when the teacher is made."""
    good: dict[str, Any] = {
        "stimuli": None,
        "responses": np.zeros((4, 2), np.float32),
        "label": np.zeros(4, np.int64),
    }
    ResponseTeacher(**good)
    with pytest.raises(DataError, match=name):
        ResponseTeacher(**(good | {name: value}))


def test_images_of_another_width_are_taken() -> None:
    """Images in float64 become what students read; labels written as floats are labels."""
    images = np.random.default_rng(0).random((4, 1, 16, 16))
    teacher = ResponseTeacher(images, np.eye(4, 2), np.arange(4.0))  # type: ignore[arg-type]
    assert teacher.stimuli is not None
    assert teacher.stimuli.dtype == np.float32
    assert teacher.label.dtype == np.int64
    assert of_stimuli(teacher, batch=2).rows(FABRIC).student.shape == (2, 6)
    same = images.astype(np.float32)
    assert ResponseTeacher(same, np.eye(4, 2), np.arange(4)).stimuli is same  # type: ignore[arg-type]
