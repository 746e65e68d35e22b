"""Pairings, readouts and contrastive heads compute what their equations say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.nn import functional

from b2m_fast.data.files import DataError
from b2m_fast.methods.contrastive import ContrastiveHeads
from b2m_fast.methods.latent import LatentReadout, ridge_solution
from b2m_fast.methods.lessons import Activity
from b2m_fast.methods.pairings import ConditionResponses, Pairs, StimulusResponses, TrialLatents
from b2m_fast.students.vae import ConvVAE
from b2m_fast.teachers.responses import ResponseTeacher
from small_lessons import Still, condition_teacher, image_teacher, latent_teacher, small_task

STILL: Any = Still()
UNITS = 7


def activity(trials: int = 10, seed: int = 0) -> Activity:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(small_task().steps, trials, UNITS, generator=generator)
    return Activity(hidden, torch.arange(trials) % 4)


def rows(n: int = 20, d: int = 6, k: int = 3, dtype: torch.dtype = torch.float64) -> Pairs:
    generator = torch.Generator().manual_seed(1)
    h, z = (torch.randn(n, c, generator=generator, dtype=dtype) for c in (d, k))
    return Pairs(h, z, torch.arange(n) % 5)


# --------------------------------------------------------------------------------------------------
# Pairings
# --------------------------------------------------------------------------------------------------
def test_a_trial_gets_the_latents_of_its_condition_at_its_step() -> None:
    """Each row is the hidden state of a trial at a valid step of the window, beside z_{c,t}; rows of
    one label, and only they, have the same latents."""
    teacher, seen = latent_teacher(), activity()
    pairs = TrialLatents(teacher, small_task(), UNITS, seed=0, window=(1, 6)).draw(STILL, seen)
    expected = [(t, n) for t in (3, 4, 5) for n in range(10)]  # valid from step 3
    assert len(pairs.label) == len(expected)
    for row, (t, n) in enumerate(expected):
        assert torch.equal(pairs.student[row], seen.hidden[t, n])
        assert pairs.brain[row].tolist() == teacher.latents[n % 4, t].tolist()
        assert int(pairs.label[row]) // 3 == n % 4
    for a in range(30):
        for b in range(30):
            alike = torch.equal(pairs.brain[a], pairs.brain[b])
            assert (pairs.label[a] == pairs.label[b]) == alike


def test_the_mean_of_a_trial() -> None:
    """With `average` a row is the mean over the valid steps, on both sides; labels are conditions."""
    teacher, seen = latent_teacher(), activity()
    pairing = TrialLatents(teacher, small_task(), UNITS, seed=0, average=True)
    pairs = pairing.draw(STILL, seen)
    torch.testing.assert_close(pairs.student, seen.hidden[3:].mean(0))
    means = torch.from_numpy(teacher.latents[:, 3:].mean(1))[seen.condition]
    torch.testing.assert_close(pairs.brain, means)
    assert torch.equal(pairs.label, seen.condition)


def test_only_valid_steps_teach() -> None:
    """Where the recording says nothing hidden states get no gradient, and what stands in for latents
    there has no effect."""
    teacher, seen = latent_teacher(), activity()
    seen.hidden.requires_grad_()
    term = LatentReadout(UNITS, 3, "fixed")
    loss = term(TrialLatents(teacher, small_task(), UNITS, seed=0).draw(STILL, seen))
    (gradient,) = torch.autograd.grad(loss, seen.hidden)
    assert (gradient[:3] == 0).all()
    assert (gradient[3:].abs().sum((1, 2)) > 0).all()
    changed = teacher.latents.copy()
    changed[:, :3] = 1e6
    other = replace(teacher, latents=changed)
    again = term(TrialLatents(other, small_task(), UNITS, seed=0).draw(STILL, seen))
    assert torch.equal(loss, again)


@pytest.mark.parametrize("average", [True, False])
def test_trials_get_responses_of_their_condition(average: bool) -> None:
    """Responses are drawn from the trial's own condition, all of them sooner or later, but for those
    held out, which appear in validation alone."""
    teacher, seen = condition_teacher(), activity(40)
    pairing = ConditionResponses(teacher, small_task(), UNITS, seed=0, average=average)
    place = {r.tobytes(): i for i, r in enumerate(pairing.responses.numpy())}

    def used(pairs: Pairs) -> set[int]:
        found = [place[b.numpy().tobytes()] for b in pairs.brain]
        assert [teacher.label[i] for i in found] == pairs.label.tolist()
        assert pairs.student.shape == (40 if average else 40 * 24, UNITS)
        return set(found)

    drawn = set().union(*(used(pairing.draw(STILL, seen)) for _ in range(40)))
    held_out = used(pairing.held_out(STILL, seen))
    assert used(pairing.held_out(STILL, seen)) == held_out
    assert not drawn & held_out
    assert drawn | held_out == set(range(48))
    assert [sum(teacher.label[i] == c for i in held_out) for c in range(4)] == [2] * 4


def test_conditions_of_one_recorded_condition_share_its_responses() -> None:
    """Task conditions recorded as one draw from the same rows under one label, so that no response
    is its own negative, and those held out stay held out for both."""
    label = np.repeat(np.arange(2), 10)
    responses = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    teacher = ResponseTeacher(None, responses, label, condition=np.array([1, 0, 0, 1]))
    pairing, seen = ConditionResponses(teacher, small_task(), UNITS, seed=0), activity(40)
    place = {r.tobytes(): i for i, r in enumerate(pairing.responses.numpy())}
    drawn: set[int] = set()
    for _ in range(40):
        pairs = pairing.draw(STILL, seen)
        found = [place[b.numpy().tobytes()] for b in pairs.brain]
        assert pairs.label.tolist() == [1, 0, 0, 1] * 10 == label[found].tolist()
        drawn |= set(found)
    held_out = {place[b.numpy().tobytes()] for b in pairing.held_out(STILL, seen).brain}
    assert not drawn & held_out
    assert drawn | held_out == set(range(20))
    with pytest.raises(ValueError, match=r"labels for 2 conditions.*has 4"):
        ConditionResponses(
            replace(teacher, condition=np.array([0, 1])), small_task(), UNITS, seed=0
        )


@pytest.mark.parametrize("components", [None, 3])
def test_scales_and_components_come_from_training_rows(components: int | None) -> None:
    """Held-out responses, however far away, change nothing of what is trained on; training rows
    have mean 0, variance 1 and, as components, no correlation."""
    model = ConvVAE((1, 16, 16), latent=6, width=2)
    makers: tuple[Any, ...] = (
        lambda t: ConditionResponses(t, small_task(), UNITS, seed=0),
        lambda t: StimulusResponses(t, model, seed=0),
    )
    for make, plain in zip(makers, (condition_teacher(), image_teacher()), strict=True):
        teacher = replace(plain, components=components)
        pairing = make(teacher)
        if isinstance(pairing, ConditionResponses):
            train = np.concatenate([members for members, _ in pairing.members])
        else:
            train = pairing.train.numpy()
        kept = np.setdiff1d(np.arange(len(teacher.label)), train)
        assert len(kept) > 0
        far = teacher.responses.copy()
        far[kept] = 50 * far[kept][:, ::-1] + 100
        other = make(replace(teacher, responses=far))
        rows = pairing.responses[train].double()
        torch.testing.assert_close(other.responses[train].double(), rows)
        assert pairing.widths[1] == teacher.width == rows.shape[1]
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
    model = ConvVAE((1, 16, 16), latent=6, width=2)
    chosen = set()
    for seed in range(8):
        kept = StimulusResponses(image_teacher(), model, seed=seed).held_out(STILL, None).label
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
    assert (
        len(set(StimulusResponses(small, model, seed=0).held_out(STILL, None).label.tolist())) == 1
    )


def test_a_response_stays_with_its_trial_over_steps() -> None:
    """Rows that are steps repeat a trial's response at every step."""
    pairing = ConditionResponses(condition_teacher(), small_task(), UNITS, seed=0, average=False)
    seen = activity()
    pairs = pairing.draw(STILL, seen)
    brain = pairs.brain.unflatten(0, (24, 10))
    assert torch.equal(brain, brain[:1].expand_as(brain))
    assert torch.equal(pairs.student.unflatten(0, (24, 10)), seen.hidden)


def test_images_are_paired_with_their_responses() -> None:
    """Rows are encoder means of the stimuli; repeats of an image share a label; an image is either
    trained on or held out, with all of its repeats."""
    teacher = image_teacher()
    model = ConvVAE((1, 16, 16), latent=6, width=2)
    pairing = StimulusResponses(teacher, model, seed=0, batch=25)
    place = {r.tobytes(): i for i, r in enumerate(pairing.responses.numpy())}
    seen: set[int] = set()
    with torch.no_grad():
        for _ in range(4):
            pairs = pairing.draw(STILL, None)
            found = [place[b.numpy().tobytes()] for b in pairs.brain]
            assert teacher.label[found].tolist() == pairs.label.tolist()
            assert teacher.stimuli is not None
            mean = model.encode(torch.from_numpy(teacher.stimuli[found]))[0]
            torch.testing.assert_close(pairs.student, mean)
            seen |= set(pairs.label.tolist())
        kept = set(pairing.held_out(STILL, None).label.tolist())
    assert len(kept) == 10
    assert not seen & kept
    assert seen | kept == set(range(50))


def test_scrambled_rows_are_dealt_out_anew() -> None:
    """A scrambled pairing keeps the student's rows, the labels and the brain's rows as a set, breaks
    which belongs to which, differently in every batch, and leaves validation as it is."""
    model = ConvVAE((1, 16, 16), latent=6, width=2)
    makers: tuple[Any, ...] = (
        lambda s: TrialLatents(latent_teacher(), small_task(), UNITS, seed=0, average=True, scramble=s),
        lambda s: ConditionResponses(condition_teacher(), small_task(), UNITS, seed=0, scramble=s),
        lambda s: StimulusResponses(image_teacher(), model, seed=0, batch=40, scramble=s),
    )  # fmt: skip
    for make in makers:
        seen: Any = None if make is makers[2] else activity(40)
        plain, scrambled = (make(s).draw(STILL, seen) for s in (False, True))
        assert torch.equal(plain.student, scrambled.student)
        assert torch.equal(plain.label, scrambled.label)
        rows_of = [sorted(pairs.brain.tolist()) for pairs in (plain, scrambled)]
        assert rows_of[0] == rows_of[1]
        moved = (plain.brain != scrambled.brain).any(1).float().mean()
        assert moved > 0.5
        pairing = make(True)
        first, second = (pairing.draw(STILL, seen).brain for _ in range(2))
        assert not torch.equal(first, second)
        kept = [make(s).held_out(STILL, seen).brain for s in (False, True)]
        assert torch.equal(*kept)


def test_teachers_and_tasks_that_do_not_fit() -> None:
    """Other conditions, another clock, empty windows, too few responses: each says what is wrong."""
    task, teacher = small_task(), latent_teacher()

    def latents(**changes: Any) -> TrialLatents:
        window = changes.pop("window", None)
        return TrialLatents(replace(teacher, **changes), task, UNITS, seed=0, window=window)

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
        ConditionResponses(few, task, UNITS, seed=0)
    with pytest.raises(ValueError, match="0 to 3"):
        ConditionResponses(replace(responses, label=responses.label + 1), task, UNITS, seed=0)
    with pytest.raises(ValueError, match="share must be between"):
        ConditionResponses(responses, task, UNITS, seed=0, share=1.0)
    images, model = image_teacher(), ConvVAE((3, 16, 16), latent=6, width=2)
    with pytest.raises(ValueError, match=r"\(100, 1, 16, 16\).*\(3, 16, 16\)"):
        StimulusResponses(images, model, seed=0)
    one = replace(images, label=np.zeros(100, np.int64))
    with pytest.raises(ValueError, match="two images or more"):
        StimulusResponses(one, ConvVAE((1, 16, 16), latent=6, width=2), seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"responses": np.zeros((4, 0), np.float32)}, "not empty"),
        ({"label": np.zeros(3, np.int64)}, "label has shape"),
        ({"responses": np.full((4, 2), np.nan, np.float32)}, "NaN"),
        ({"stimuli": np.zeros((3, 1, 16, 16), np.float32)}, "stimuli have shape"),
        ({"stimuli": np.zeros((4, 1, 16, 16), np.uint8)}, "stimuli must be floats.*uint8: divide"),
        ({"stimuli": np.full((4, 1, 16, 16), 255.0)}, "stimuli must be from 0 to 1, got 255 to"),
        ({"stimuli": np.zeros((4, 16, 16))}, "stimuli must have 4 dimensions"),
        ({"responses": np.zeros((4, 2), complex)}, "responses must be real numbers"),
        ({"label": np.array(["a", "b", "c", "d"])}, "label must be real numbers"),
        ({"label": np.array([0, 1, 2, 2.5])}, "label must be whole numbers"),
        ({"condition": np.zeros((2, 2))}, "condition must have 1 dimensions"),
    ],
)
def test_wrong_responses(changes: dict[str, Any], message: str) -> None:
    """Responses that are not what they should be are refused when the teacher is made."""
    good: dict[str, Any] = {
        "stimuli": None,
        "responses": np.zeros((4, 2), np.float32),
        "label": np.zeros(4, np.int64),
    }
    ResponseTeacher(**good)
    with pytest.raises(DataError, match=message):
        ResponseTeacher(**(good | changes))


def test_images_of_another_width_are_taken() -> None:
    """Images in float64 become what students read; labels written as floats are labels."""
    images = np.random.default_rng(0).random((4, 1, 16, 16))
    teacher = ResponseTeacher(images, np.eye(4, 2), np.arange(4.0))  # type: ignore[arg-type]
    assert teacher.stimuli is not None
    assert teacher.stimuli.dtype == np.float32
    assert teacher.label.dtype == np.int64
    pairing = StimulusResponses(teacher, ConvVAE((1, 16, 16), latent=6, width=2), seed=0, batch=2)
    assert pairing.draw(STILL, None).student.shape == (2, 6)
    same = images.astype(np.float32)
    assert ResponseTeacher(same, np.eye(4, 2), np.arange(4)).stimuli is same  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------
# Latents
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("readout", ["learned", "fixed"])
def test_latent_loss_is_its_equation(readout: Any) -> None:
    """Equation (1): the mean over rows and latents of (W h + b - z)^2."""
    pairs, term = rows(), LatentReadout(6, 3, readout).double()
    h, z, w, b = (x.detach().numpy() for x in (*pairs[:2], term.weight, term.bias))
    expected = ((h @ w.T + b - z) ** 2).mean()
    assert term(pairs).item() == pytest.approx(expected, rel=1e-12)
    learns = [p.requires_grad for p in term.parameters()]
    assert learns == ([True, True] if readout == "learned" else [])


def test_fixed_directions_are_orthonormal() -> None:
    """W W' = I, and more latents than units have no such W."""
    weight = LatentReadout(9, 4, "fixed").weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(4), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="5 latents have no 5 orthonormal directions among 4"):
        LatentReadout(4, 5, "fixed")


def test_ridge_is_the_closed_form() -> None:
    """Equation (3) gives scikit-learn's ridge with the penalty rho tr(H'H) / d, and the loss its
    error; the solution is kept for reading held-out rows."""
    pairs, rho = rows(), 0.3
    h, z = (x.numpy() for x in pairs[:2])
    penalty = rho * (h - h.mean(0)).var(0).sum() * len(h) / 6
    oracle = Ridge(penalty).fit(h, z)
    weight, bias = ridge_solution(*pairs[:2], rho)
    np.testing.assert_allclose(weight.numpy(), oracle.coef_, rtol=1e-10)
    np.testing.assert_allclose(bias.numpy(), oracle.intercept_, rtol=1e-10)
    term = LatentReadout(6, 3, "ridge", rho=rho).double()
    assert float(term(pairs)) == pytest.approx(((oracle.predict(h) - z) ** 2).mean(), rel=1e-10)
    other = rows(8).student
    np.testing.assert_allclose(term.read(other).numpy(), oracle.predict(other.numpy()), rtol=1e-9)


def test_the_gradient_goes_through_the_ridge_solution() -> None:
    """Finite differences of the loss with W solved anew agree with the gradient; they would not if W
    were held."""
    pairs = rows(9, 4, 2)
    h = pairs.student.clone().requires_grad_()
    term = LatentReadout(4, 2, "ridge", rho=0.5).double()

    def loss(x: Tensor) -> Tensor:
        value: Tensor = term(pairs._replace(student=x))
        return value

    assert torch.autograd.gradcheck(loss, h)
    (through,) = torch.autograd.grad(loss(h), h)
    held = (functional.linear(h, term.weight, term.bias) - pairs.brain).square().mean()
    assert not torch.allclose(through, torch.autograd.grad(held, h)[0], rtol=1e-2)


def test_ridge_survives_states_that_are_all_alike() -> None:
    """A student whose units are dead or constant gives the mean latents and a finite gradient."""
    for constant in (0.0, 3.0):
        h = torch.full((8, 4), constant, requires_grad=True)
        pairs = Pairs(h, torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8))  # fmt: skip
        loss = LatentReadout(4, 2, "ridge")(pairs)
        loss.backward()
        spread = pairs.brain - pairs.brain.mean(0)
        assert float(loss.detach()) == pytest.approx(float(spread.square().mean()), rel=1e-5)
        assert h.grad is not None
        assert torch.isfinite(h.grad).all()


def test_r2_of_held_out_rows() -> None:
    """1 for a perfect readout, 0 for the mean, NaN where nothing varies."""
    pairs, term = rows(), LatentReadout(6, 3).double()
    with torch.no_grad():
        perfect = pairs._replace(brain=term.read(pairs.student))
        assert term.quality(perfect) == {"readout_r2": pytest.approx(1)}
        term.weight.zero_()
        term.bias.copy_(pairs.brain.mean(0))
    assert term.quality(pairs) == {"readout_r2": pytest.approx(0, abs=1e-12)}
    still = pairs._replace(brain=torch.ones(20, 3, dtype=torch.float64))
    assert math.isnan(term.quality(still)["readout_r2"])


def test_wrong_readouts() -> None:
    """Unknown kinds and penalties that are none are refused."""
    with pytest.raises(ValueError, match="readout must be"):
        LatentReadout(4, 2, "lasso")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ridge penalty"):
        LatentReadout(4, 2, "ridge", rho=0.0)


# --------------------------------------------------------------------------------------------------
# Contrast
# --------------------------------------------------------------------------------------------------
def plain_info_nce(p: Tensor, q: Tensor, tau: float, label: Tensor) -> Tensor:
    """Equations (1) and (2) written out, averaged over all positives of a row."""
    scores = functional.normalize(p) @ functional.normalize(q).T / tau
    positive = (label[:, None] == label).to(scores)
    positive /= positive.sum(1, keepdim=True)
    both = (scores.log_softmax(1) * positive).sum(1) + (scores.T.log_softmax(1) * positive).sum(1)
    return -both.mean() / 2


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("learn", [False, True])
def test_contrastive_loss_is_its_equation(repeats: bool, learn: bool) -> None:
    """Value and gradients of student, heads and temperature are those of the formula written out,
    with every sample alone and with several samples of a label."""
    pairs, heads = rows(), ContrastiveHeads(6, 3, 5, temperature=0.2, learn_temperature=learn)
    heads = heads.double()
    if not repeats:
        pairs = pairs._replace(label=torch.arange(20))
    h = pairs.student.clone().requires_grad_()
    loss = heads(pairs._replace(student=h))
    scale = heads.loss.logit_scale()
    tau: Any = 1 / scale
    plain = plain_info_nce(heads.brain(pairs.brain), heads.student(h), tau, pairs.label)
    torch.testing.assert_close(loss, plain)
    leaves = [h, *heads.parameters()]
    assert len(leaves) == 5 + learn
    for a, b in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(plain, leaves), strict=True):  # fmt: skip
        torch.testing.assert_close(a, b)


def test_a_learned_temperature_stays_above_its_bound() -> None:
    """However hard the loss pulls, the temperature never goes below 0.01."""
    pairs = rows(dtype=torch.float32)
    heads = ContrastiveHeads(6, 3, learn_temperature=True)
    assert heads.temperature == pytest.approx(0.07)
    with torch.no_grad():
        assert heads.loss.log_logit_scale is not None
        heads.loss.log_logit_scale.fill_(20.0)
    assert heads.temperature == pytest.approx(0.01)
    assert heads.quality(pairs)["temperature"] == pytest.approx(0.01)
    with pytest.raises(ValueError, match=r"at least 0\.01"):
        ContrastiveHeads(6, 3, temperature=0.005)
    with pytest.raises(ValueError, match="dimension"):
        ContrastiveHeads(6, 3, 0)


def test_retrieval() -> None:
    """Rows that coincide find each other; rows that tell nothing find each other by chance; chance is
    the share of rows with the same label."""
    heads = ContrastiveHeads(6, 6, 6)
    heads.brain.load_state_dict(heads.student.state_dict())
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(40, 6, generator=generator)
    label = torch.arange(40) // 4
    alike = heads.quality(Pairs(h, h, label))
    assert alike["retrieval"] == alike["retrieval_reverse"] == 1.0
    assert alike["retrieval_chance"] == pytest.approx(0.1)
    turned = heads.quality(Pairs(h, h.roll(4, 0), label))
    assert turned["retrieval"] == turned["retrieval_reverse"] == 0.0
    random = heads.quality(Pairs(h, torch.randn(40, 6, generator=generator), label))
    assert random["retrieval"] < 0.4
