"""Brain2Model: both losses are their equations; both strategies train all kinds of students."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.nn import functional

from b2m_fast.methods.alignment import AlignedRows
from b2m_fast.methods.brain2model import (
    ContrastiveLoss,
    LatentLoss,
    brain2model_objective,
    ridge_solution,
)
from b2m_fast.methods.config import Brain2ModelConfig, BrainWeight, TrainConfig
from b2m_fast.methods.training import History, train
from small_tasks import (
    COMBINATIONS,
    condition_teacher,
    frame_task,
    image_teacher,
    latent_teacher,
    objective,
    task_and_teacher,
    trial_task,
)
from small_training import assert_same

pytest.importorskip("lightning_fabric", reason="the loop needs Lightning Fabric")

LOOP = TrainConfig(steps=12, validate_every=3, clip=1.0, learning_rate=5e-3)


def weights(module: torch.nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in module.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def task_part(history: History) -> list[dict[str, float]]:
    keys = ("step", "loss", "validation_loss")
    return [{key: entry[key] for key in keys} for entry in history.entries]


def some_rows(
    n: int = 20, d: int = 6, k: int = 3, dtype: torch.dtype = torch.float64
) -> AlignedRows:
    generator = torch.Generator().manual_seed(1)
    h, z = (torch.randn(n, c, generator=generator, dtype=dtype) for c in (d, k))
    return AlignedRows(h, z, torch.arange(n) % 5)


# --------------------------------------------------------------------------------------------------
# Equations (2) and (3)
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("readout", ["learned", "fixed"])
def test_latent_loss_is_its_equation(readout: Any) -> None:
    """Equation (2): the mean over rows and latents of (W h + b - z)^2."""
    rows, loss = some_rows(), LatentLoss(6, 3, readout).double()
    h, z, w, b = (x.detach().numpy() for x in (*rows[:2], loss.weight, loss.bias))
    expected = ((h @ w.T + b - z) ** 2).mean()
    assert loss(rows).item() == pytest.approx(expected, rel=1e-12)
    learns = [p.requires_grad for p in loss.parameters()]
    assert learns == ([True, True] if readout == "learned" else [])


def test_fixed_directions_are_orthonormal() -> None:
    """W W' = I, and more latents than units have no such W."""
    weight = LatentLoss(9, 4, "fixed").weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(4), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="5 latents have no 5 orthonormal directions among 4"):
        LatentLoss(4, 5, "fixed")


def test_ridge_is_the_closed_form() -> None:
    """Equation (3) gives scikit-learn's ridge with the penalty rho tr(H'H) / d, and the loss its
    error; the solution is kept for reading held-out rows."""
    rows, rho = some_rows(), 0.3
    h, z = (x.numpy() for x in rows[:2])
    penalty = rho * (h - h.mean(0)).var(0).sum() * len(h) / 6
    oracle = Ridge(penalty).fit(h, z)
    weight, bias = ridge_solution(*rows[:2], rho)
    np.testing.assert_allclose(weight.numpy(), oracle.coef_, rtol=1e-10)
    np.testing.assert_allclose(bias.numpy(), oracle.intercept_, rtol=1e-10)
    loss = LatentLoss(6, 3, "ridge", rho=rho).double()
    assert float(loss(rows)) == pytest.approx(((oracle.predict(h) - z) ** 2).mean(), rel=1e-10)
    other = some_rows(8).student
    np.testing.assert_allclose(loss.read(other).numpy(), oracle.predict(other.numpy()), rtol=1e-9)


def test_the_gradient_goes_through_the_ridge_solution() -> None:
    """Finite differences of the loss with W solved anew agree with the gradient; they would not if W
    were held."""
    rows = some_rows(9, 4, 2)
    h = rows.student.clone().requires_grad_()
    loss = LatentLoss(4, 2, "ridge", rho=0.5).double()

    def of(x: Tensor) -> Tensor:
        value: Tensor = loss(rows._replace(student=x))
        return value

    assert torch.autograd.gradcheck(of, h)
    (through,) = torch.autograd.grad(of(h), h)
    held = (functional.linear(h, loss.weight, loss.bias) - rows.brain).square().mean()
    assert not torch.allclose(through, torch.autograd.grad(held, h)[0], rtol=1e-2)


def test_ridge_survives_states_that_are_all_alike() -> None:
    """A student whose units are dead or constant gives the mean latents and a finite gradient."""
    for constant in (0.0, 3.0):
        h = torch.full((8, 4), constant, requires_grad=True)
        rows = AlignedRows(
            h, torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8)
        )
        loss = LatentLoss(4, 2, "ridge")(rows)
        loss.backward()
        spread = rows.brain - rows.brain.mean(0)
        assert float(loss.detach()) == pytest.approx(float(spread.square().mean()), rel=1e-5)
        assert h.grad is not None
        assert torch.isfinite(h.grad).all()


def test_r2_of_held_out_some_rows() -> None:
    """1 for a perfect readout, 0 for the mean, NaN where nothing varies."""
    rows, loss = some_rows(), LatentLoss(6, 3).double()
    with torch.no_grad():
        perfect = rows._replace(brain=loss.read(rows.student))
        assert loss.quality(perfect) == {"readout_r2": pytest.approx(1)}
        loss.weight.zero_()
        loss.bias.copy_(rows.brain.mean(0))
    assert loss.quality(rows) == {"readout_r2": pytest.approx(0, abs=1e-12)}
    still = rows._replace(brain=torch.ones(20, 3, dtype=torch.float64))
    assert math.isnan(loss.quality(still)["readout_r2"])


# --------------------------------------------------------------------------------------------------
# Equations (4) and (5)
# --------------------------------------------------------------------------------------------------
def plain_info_nce(p: Tensor, q: Tensor, tau: float, label: Tensor) -> Tensor:
    """Equations (4) and (5) written out, averaged over all positives of a row."""
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
    rows, heads = some_rows(), ContrastiveLoss(6, 3, 5, temperature=0.2, learn_temperature=learn)
    heads = heads.double()
    if not repeats:
        rows = rows._replace(label=torch.arange(20))
    h = rows.student.clone().requires_grad_()
    loss = heads(rows._replace(student=h))
    scale = heads.loss.logit_scale()
    tau: Any = 1 / scale
    plain = plain_info_nce(heads.brain(rows.brain), heads.student(h), tau, rows.label)
    torch.testing.assert_close(loss, plain)
    leaves = [h, *heads.parameters()]
    assert len(leaves) == 5 + learn
    for a, b in zip(
        torch.autograd.grad(loss, leaves), torch.autograd.grad(plain, leaves), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_a_learned_temperature_stays_above_its_bound() -> None:
    """However hard the loss pulls, the temperature never goes below 0.01."""
    rows = some_rows(dtype=torch.float32)
    heads = ContrastiveLoss(6, 3, learn_temperature=True)
    assert heads.temperature == pytest.approx(0.07)
    with torch.no_grad():
        assert heads.loss.log_logit_scale is not None
        heads.loss.log_logit_scale.fill_(20.0)
    assert heads.temperature == pytest.approx(0.01)
    assert heads.quality(rows)["temperature"] == pytest.approx(0.01)


def test_retrieval() -> None:
    """Rows that coincide find each other; rows that tell nothing find each other by chance; chance is
    the share of rows with the same label."""
    heads = ContrastiveLoss(6, 6, 6)
    heads.brain.load_state_dict(heads.student.state_dict())
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(40, 6, generator=generator)
    label = torch.arange(40) // 4
    alike = heads.quality(AlignedRows(h, h, label))
    assert alike["retrieval"] == alike["retrieval_reverse"] == 1.0
    assert alike["retrieval_chance"] == pytest.approx(0.1)
    turned = heads.quality(AlignedRows(h, h.roll(4, 0), label))
    assert turned["retrieval"] == turned["retrieval_reverse"] == 0.0
    random = heads.quality(AlignedRows(h, torch.randn(40, 6, generator=generator), label))
    assert random["retrieval"] < 0.4


# --------------------------------------------------------------------------------------------------
# Weight zero
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("schedule", ["constant", "pretrain"])
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_weight_zero_is_the_isolated_student(combination: str, schedule: Any) -> None:
    """With weight 0 everything of the task (random numbers, losses, weights) is that of the student
    without a teacher, to the last bit, while the brain's loss has its parameters and draws its samples."""
    zero = objective(combination, weight=BrainWeight(0.0, schedule, until=0.5))
    alone = brain2model_objective(task_and_teacher(combination)[0], None, Brain2ModelConfig(), 0)
    before = weights(zero.modules["brain_loss"])
    histories = [train(o, LOOP) for o in (zero, alone)]
    assert task_part(histories[0]) == task_part(histories[1])
    assert same(weights(zero.task.student), weights(alone.task.student))
    assert_same(zero.task.state(), alone.task.state())
    assert same(weights(zero.modules["brain_loss"]), before)
    assert all(entry["penalty"] > 0 for entry in histories[0].entries)


def test_weight_zero_in_bits_for_every_readout() -> None:
    """Also where a readout keeps what it solved (ridge) or never learns (fixed)."""
    alone = brain2model_objective(trial_task(), None, Brain2ModelConfig(), 0)
    train(alone, LOOP)
    for readout in ("learned", "fixed", "ridge"):
        zero = objective("rnn latent", weight=BrainWeight(0.0), readout=readout)
        train(zero, LOOP)
        assert same(weights(zero.task.student), weights(alone.task.student)), readout


def test_a_teacher_does_not_touch_the_tasks_streams() -> None:
    """Students of different arms see the same trials and the same noise in the same order."""
    states = []
    for teacher in (None, latent_teacher(), condition_teacher(), latent_teacher(seed=9)):
        task = trial_task()
        train(brain2model_objective(task, teacher, Brain2ModelConfig(), 0), LOOP)
        states.append(task.state())
    for state in states[1:]:
        assert_same(state, states[0])


def test_arms_of_a_seed_start_alike_and_seeds_do_not() -> None:
    """Heads start from the seed whatever the teacher's numbers are, and PyTorch's own generator is
    left as it was."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    starts = [
        weights(brain2model_objective(trial_task(seed=s), t, Brain2ModelConfig(), s).modules)
        for t, s in ((latent_teacher(), 1), (latent_teacher(seed=3), 1), (latent_teacher(), 2))
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert same(starts[0], starts[1])
    assert not same(starts[0], starts[2])


# --------------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_every_combination_learns_from_its_brain(combination: str) -> None:
    """The brain's loss falls, and what is read out of held-out samples rises well above chance."""
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
        config = Brain2ModelConfig(method, average=average, window=(4, 12))
        entries = train(brain2model_objective(trial_task(), teacher, config, 0), LOOP).entries
        assert all(math.isfinite(value) for entry in entries for value in entry.values())


@pytest.mark.slow
@pytest.mark.parametrize("combination", ["gru latent", "rnn contrastive", "vae contrastive"])
def test_scrambled_brains_teach_nothing(combination: str) -> None:
    """Where the alignment is broken anew in every batch, nothing true of held-out samples is learned."""
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
    assert [BrainWeight(2.0).at(p) for p in (0, 0.5, 0.99)] == [(1, 2)] * 3
    cosine = [BrainWeight(2.0, "cosine", until=0.5).at(p) for p in (0, 0.25, 0.5, 0.9)]
    assert cosine == [(1, 2), (1, pytest.approx(1)), (1, 0), (1, 0)]
    pretrain = [BrainWeight(2.0, "pretrain", until=0.5).at(p) for p in (0, 0.49, 0.5, 0.9)]
    assert pretrain == [(0, 2), (0, 2), (1, 0), (1, 0)]
    assert BrainWeight(0.0, "pretrain", until=0.5).at(0.1) == (1, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": -1.0},
        {"value": math.nan},
        {"schedule": "linear"},
        {"until": 0.0},
        {"until": 1.1},
        {"schedule": "pretrain"},
    ],
)
def test_wrong_weights(wrong: dict[str, Any]) -> None:
    """Weights that make no sense are refused."""
    with pytest.raises(ValueError, match=r"value must|schedule must|until must"):
        BrainWeight(**wrong)


def test_pretraining_is_of_the_brain_alone() -> None:
    """Before `until` only the brain's loss moves the student: its output layer stays; after it only
    the task does: the readout stays."""
    taught = objective("gru latent", weight=BrainWeight(1.0, "pretrain", until=0.5))
    student: Any = taught.task.student
    brain_loss = taught.modules["brain_loss"]
    seen: list[list[list[torch.Tensor]]] = []
    start = weights(student.output)
    train(
        taught,
        LOOP,
        on_validation=lambda _: seen.append([weights(student.output), weights(brain_loss)]),
    )
    assert same(seen[1][0], start)
    assert not same(seen[3][0], start)
    assert not same(seen[0][1], seen[1][1])
    assert same(seen[1][1], seen[3][1])


def test_the_weight_is_in_the_history() -> None:
    """Entries hold the mean weight of their steps."""
    entries = train(
        objective("rnn latent", weight=BrainWeight(3.0, "pretrain", until=0.5)), LOOP
    ).entries
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
    "gru latent": {"weight": BrainWeight(1.0, "cosine")},
    "rnn contrastive": {"learn_temperature": True},
    "vae contrastive": {"learn_temperature": True, "weight": BrainWeight(0.1)},
}


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_every_combination_resumes_bit_for_bit(tmp_path: Path, combination: str) -> None:
    """A training ended in the middle and begun anew ends as one that was not: student, the brain's loss, its
    buffers, history, generators and places in lists."""
    options = OPTIONS.get(combination, {})
    config = replace(LOOP, keep_best="validation_loss")

    def stop(entry: dict[str, float]) -> None:
        if entry["step"] == 6:
            raise KeyboardInterrupt

    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        train(objective(combination, **options), config, checkpoint=path, on_validation=stop)
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
    make = [
        brain2model_objective(trial_task(pool=20), None, Brain2ModelConfig(), 0) for _ in range(3)
    ]
    with pytest.raises(KeyboardInterrupt):
        train(make[0], LOOP, checkpoint=path, on_validation=stop)
    assert train(make[1], LOOP, checkpoint=path) == train(make[2], LOOP)
    assert same(weights(make[1].modules), weights(make[2].modules))


def test_teachers_that_do_not_fit() -> None:
    """Images cannot teach a decision task, latents of conditions cannot teach frames, and a method
    has to be one of the two."""
    with pytest.raises(ValueError, match="cannot be aligned with conditions"):
        brain2model_objective(trial_task(), image_teacher(), Brain2ModelConfig(), 0)
    with pytest.raises(ValueError, match="cannot teach an autoencoder"):
        brain2model_objective(frame_task(), latent_teacher(), Brain2ModelConfig(), 0)
    with pytest.raises(ValueError, match=r"stimuli have shape None"):
        brain2model_objective(frame_task(), condition_teacher(), Brain2ModelConfig(), 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "telepathy"}, "method must be one of .*'telepathy'"),
        ({"readout": "lasso"}, "readout must be one of .*'lasso'"),
        ({"rho": 0.0}, r"rho must be in \(0, inf\), got 0\.0"),
        ({"dimension": 0}, r"dimension must be in \[1, inf\), got 0"),
        ({"batch": 0}, r"batch must be in \[1, inf\), got 0"),
        ({"temperature": 0.005}, r"temperature must be in \[0\.01, inf\), got 0\.005"),
        ({"window": (5, 5)}, r"window must be .*got \(5, 5\)"),
        ({"held_out": 0.0}, r"held_out must be in \(0, 1\), got 0\.0"),
        ({"held_out": 1.0}, r"held_out must be in \(0, 1\), got 1\.0"),
    ],
)
def test_wrong_settings_name_themselves(wrong: dict[str, Any], message: str) -> None:
    """A setting that makes no sense is refused with its name and value, before there is a teacher;
    the losses refuse their own settings, too."""
    with pytest.raises(ValueError, match=message):
        Brain2ModelConfig(**wrong)
    if set(wrong) & {"readout", "rho"}:
        with pytest.raises(ValueError, match=message):
            LatentLoss(4, 2, **wrong)
    if set(wrong) & {"dimension", "temperature"}:
        with pytest.raises(ValueError, match=message):
            ContrastiveLoss(6, 3, **wrong)
