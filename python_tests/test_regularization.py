"""Regularisation by a similarity: the penalty is the written one, and training does what it says."""

from __future__ import annotations

import copy
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from b2m_fast.data.images import ImageTask
from b2m_fast.methods.config import Regularization
from b2m_fast.methods.regularization import (
    NeuralBatches,
    RegularizationObjective,
    augment,
    train_regularized,
)
from b2m_fast.methods.training import RandomStreams
from b2m_fast.nn import RSAPenalty
from b2m_fast.students.resnet import ResNet
from b2m_fast.teachers.similarity import SimilarityTarget, unit_rows
from small_tasks import OnTheCPU

pytest.importorskip("lightning_fabric", reason="the loop needs Lightning Fabric")

FABRIC: Any = OnTheCPU()


def tiny_task(count: int = 96, size: int = 12, channels: int | None = None) -> ImageTask:
    """Two classes told apart by the half that is bright; gray without an axis for channels, or with it."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, count)
    x = rng.uniform(0, 0.5, (count, size, size)).astype(np.float32)
    x[np.arange(count), :, : size // 2] += 0.4 * y[:, None, None].astype(np.float32)
    if channels is not None:
        x = np.repeat(x[:, None], channels, axis=1)
    third = count // 3
    parts = [(x[k : k + third], y[k : k + third]) for k in (0, third, 2 * third)]
    return ImageTask("tiny", *parts[0], *parts[1], *parts[2], classes=2, crop=1, flip=False)


def random_target(
    count: int = 40, size: int = 12, seed: int = 1, **options: Any
) -> SimilarityTarget:
    rng = np.random.default_rng(seed)
    images = rng.uniform(size=(count, size, size)).astype(np.float32)
    return SimilarityTarget("random", images, unit_rows(rng.normal(size=(count, 5))), **options)


def tiny_student(width: int = 2) -> ResNet:
    torch.manual_seed(0)
    return ResNet(2, width=width, blocks=1)


def sign(s: Tensor) -> Tensor:
    return torch.where(s.abs() > 0.3, s.sign(), torch.zeros_like(s))


# --------------------------------------------------------------------------------------------------
# Equations
# --------------------------------------------------------------------------------------------------
def written_out(taps: list[Tensor], s_brain: Tensor, pairs: Tensor, center: str) -> Tensor:
    """Equations (1) to (4) for the first batch, with an even mixture."""

    def fisher(s: Tensor) -> Tensor:
        return 0.5 * (torch.log(1 + s + 1e-5) - torch.log(1 - s + 1e-5))

    s = torch.zeros(len(pairs))
    for f in taps:
        if center == "ema":
            f = f - 0.1 * f.detach().mean((0, 2, 3))[:, None, None]  # noqa: PLW2901
        rows = f.flatten(1)
        if center == "batch":
            rows = rows - rows.mean(0)
        i, j = pairs.T
        s = s + functional.cosine_similarity(rows[i], rows[j], dim=1) / len(taps)
    return (fisher(s) - fisher(s_brain)).square().mean()


@pytest.mark.parametrize("apply", [None, sign])
@pytest.mark.parametrize("pairs", ["all", "random"])
@pytest.mark.parametrize("center", ["ema", "batch", "none"])
def test_the_loss_is_its_equations(center: Any, pairs: Any, apply: Any) -> None:
    """Value and gradient of a step are those of equations (1) to (4) written out, for rows and for
    a target that is a function of their similarity; one batch of all pairs, and the paper's pairs
    with their two forward passes."""
    config = Regularization(alpha=3.0, pairs=pairs, center=center, neural_batch=10, batch=8)
    target = random_target(apply=apply)
    objectives = [
        RegularizationObjective(tiny_student(), tiny_task(), [target], config, seed=1)
        for _ in range(2)
    ]
    loss, parts = objectives[0].step(FABRIC, 0.0)
    plain = objectives[1]
    first = torch.from_numpy(next(plain.order).copy())
    x = augment(torch.from_numpy(plain.task.train_x)[first][:, None], 1, False, plain.streams.numpy)
    task_loss = functional.cross_entropy(
        plain.student(x), torch.from_numpy(plain.task.train_y)[first]
    )
    assert plain.neural is not None
    batch = next(plain.neural)
    if pairs == "all":
        listed = torch.combinations(torch.arange(10))
        taps = plain.student.taps(batch.images)
        everything = [image.tobytes() for image in target.images]
        index = np.array([everything.index(x.numpy().tobytes()) for x in batch.images[:, 0]])
        rows = torch.from_numpy(target.rows)[index]
        s_brain = (rows[listed[:, 0]] * rows[listed[:, 1]]).sum(1)
        s_brain = s_brain if apply is None else apply(s_brain)
    else:
        assert batch.pairs is not None
        listed = torch.stack(batch.pairs, 1)
        halves = [plain.student.taps(part) for part in batch.images.chunk(2)]
        taps = [torch.cat(both) for both in zip(*halves, strict=True)]
        s_brain = batch.target
    penalty = written_out(taps, s_brain, listed, center)
    torch.testing.assert_close(parts["penalty"], penalty.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss, task_loss + 3.0 * penalty, rtol=1e-4, atol=1e-6)
    loss.backward()
    (task_loss + 3.0 * penalty).backward()
    for a, b in zip(objectives[0].student.parameters(), plain.student.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=2e-3, atol=1e-4)


def test_released_code_is_four_times_the_written_loss() -> None:
    """F without its 0.5 makes the loss 4 times that of equation (1)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 9, generator=generator)
    target = torch.rand(6, 6, generator=generator) - 0.5
    target = (target + target.T) / 2
    ours = RSAPenalty("atanh", target_kind="similarity")(x, target)
    s = functional.cosine_similarity(x[:, None], x, dim=2)
    twice = [torch.log(1 + v + 1e-5) - torch.log(1 - v + 1e-5) for v in (s, target)]
    i, j = torch.triu_indices(6, 6, 1)
    assert ((twice[0] - twice[1])[i, j] ** 2).mean().item() == pytest.approx(
        4 * ours.item(), rel=1e-5
    )


# --------------------------------------------------------------------------------------------------
# Batches
# --------------------------------------------------------------------------------------------------
def batches_of(targets: list[SimilarityTarget], count: int, **options: Any) -> NeuralBatches:
    return NeuralBatches(
        targets, Regularization(neural_batch=count, **options), RandomStreams(0, 1)
    )


def test_batches_of_images() -> None:
    """A batch comes from one set, with its own rows, each image once before any twice."""
    targets = [random_target(40, seed=1), random_target(24, seed=2)]
    draw = batches_of(targets, 8)
    seen: dict[int, list[bytes]] = {0: [], 1: []}
    for _ in range(30):
        images, rows, _ = next(draw)
        assert images.shape == (8, 1, 12, 12)
        shown = [x.numpy().tobytes() for x in images[:, 0]]
        which = int(shown[0] in {x.tobytes() for x in targets[1].images})
        everything = [x.tobytes() for x in targets[which].images]
        index = [everything.index(x) for x in shown]
        np.testing.assert_array_equal(rows.numpy(), targets[which].rows[index])
        seen[which] += shown
    for which, shown in seen.items():
        first = shown[: len(targets[which].images)]
        assert len(set(first)) == len(first)


def test_batches_of_pairs() -> None:
    """Pairs are of two different images of one set, first before second, with their similarity."""
    target = random_target(10)
    images, similarity, pairs = next(batches_of([target], 400, pairs="random"))
    assert pairs is not None
    everything = [x.tobytes() for x in target.images]
    i, j = ([everything.index(images[k, 0].numpy().tobytes()) for k in side] for side in pairs)
    assert len(i) == len(j) == 200
    assert all(a < b for a, b in zip(i, j, strict=True))
    rows = torch.from_numpy(target.rows)
    torch.testing.assert_close(similarity, (rows[i] * rows[j]).sum(1))


def test_memory_grows_with_images_and_not_with_their_pairs() -> None:
    """50,000 images: making the objective and drawing batches takes a few bytes an image, where the
    matrix of their similarities would take 10 GB; whole rows are never copied."""
    rng = np.random.default_rng(0)
    count, width = 50_000, 64
    images = np.zeros((count, 8, 8), np.float32)
    target = SimilarityTarget("many", images, rng.normal(size=(count, width)).astype(np.float32))
    small, config = tiny_task(48, size=8), Regularization(neural_batch=32)
    tracemalloc.start()
    try:
        objective = RegularizationObjective(tiny_student(), small, [target], config, seed=0)
        assert objective.neural is not None
        for _ in range(5):
            images_of_batch, rows, _ = next(objective.neural)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert images_of_batch.shape == (32, 1, 8, 8)
    assert rows.shape == (32, width)
    assert peak < 40 * count


@pytest.mark.parametrize("shape", [(2, 1, 6, 6), (2, 3, 6, 8)])
def test_augmentation_only_moves_and_mirrors(shape: tuple[int, ...]) -> None:
    """Crops are shifts of the reflected image, the same in all its channels; the mirror acts on
    whole images."""
    x = torch.arange(math.prod(shape), dtype=torch.float32).view(shape)
    still = augment(x, 0, flip=False, rng=np.random.default_rng(0))
    assert torch.equal(still, x)
    moved = augment(x, 2, flip=True, rng=np.random.default_rng(1))
    assert moved.shape == x.shape
    step = shape[2] * shape[3]
    for image, original in zip(moved, x, strict=True):
        assert set(image.flatten().tolist()) <= set(original.flatten().tolist())
        for k in range(1, shape[1]):
            assert torch.equal(image[k], image[0] + k * step)


# --------------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------------
def test_penalty_goes_down_in_training() -> None:
    """Students with a target end nearer to it than students without, and the task is learned."""
    task, target = tiny_task(), random_target()
    config = Regularization(
        alpha=10, epochs=12, batch=16, neural_batch=20, phases=3, center="batch"
    )
    ends = []
    for targets in ([], [target]):
        model = tiny_student(width=4)
        out = train_regularized(model, task, targets, config, seed=0)
        with torch.no_grad():
            taps = model.eval().taps(torch.from_numpy(target.images[:, None]))
            ends.append(float(out.penalty(taps, torch.from_numpy(target.rows))))
        entries = out.history.entries
        assert max(e["validation_accuracy"] for e in entries) > 0.9
        assert math.isnan(entries[0]["penalty"]) == (not targets)
    assert ends[1] < 0.8 * ends[0]


class Flat(nn.Module):
    """A student that is no ResNet: colour images, two taps, no batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
        self.head = nn.Linear(6, 2)

    def taps(self, images: Tensor) -> list[Tensor]:
        x = self.first(images).relu()
        return [x, self.second(x).relu()]

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.taps(images)[-1].mean((2, 3)))
        return logits


def test_any_student_with_taps_and_any_number_of_channels() -> None:
    """Colour images, of the task and of the brain, and a student of the user's own."""
    target = random_target()
    colour = replace(target, images=np.repeat(target.images[:, None], 3, axis=1))
    config = Regularization(
        alpha=1.0, center="batch", epochs=4, batch=16, neural_batch=20, phases=1, learning_rate=0.05
    )
    out = train_regularized(Flat(), tiny_task(channels=3), [colour], config, seed=0)
    assert out.history.entries[-1]["penalty"] < out.history.entries[0]["penalty"]
    with pytest.raises(
        ValueError, match=r"target 'random' has 40 images of 1 channels.* of 3 chan"
    ):
        train_regularized(Flat(), tiny_task(channels=3), [target], config, seed=0)
    with pytest.raises(ValueError, match="has 1 images of 1 channels; at least 2"):
        train_regularized(tiny_student(), tiny_task(), [target.take(np.arange(1))], config, seed=0)


@pytest.mark.parametrize(
    "change", [{"pairs": "all"}, {"pairs": "random", "batchnorm": "shared", "epochs": 4}]
)
def test_the_loop_is_the_plain_one(change: dict[str, Any]) -> None:
    """Training through the common loop gives, bit for bit, what these lines of plain PyTorch give:
    order of random numbers, of sums, learning rates, best weights (40 and 8 images: batches break off).
    """
    task, target = tiny_task(120), random_target(30)
    config = replace(
        Regularization(alpha=3.0, epochs=3, batch=16, neural_batch=8, phases=3), **change
    )
    model = tiny_student()
    plain = copy.deepcopy(model).to(memory_format=model.memory_format)  # type: ignore[call-overload]
    out = train_regularized(model, task, [target], config, seed=5)

    head = RSAPenalty(layers=5, center="ema", channels=plain.channels, target_metric="dot")
    sgd = torch.optim.SGD([*plain.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    rng = np.random.default_rng([5, 0])
    batches = NeuralBatches([target], config, RandomStreams(5, 1))
    history, best = [], math.inf
    weights: list[Tensor] = []
    for epoch in range(config.epochs):
        plain.train()
        sgd.param_groups[0]["lr"] = 0.1 * 0.3 ** (epoch * config.phases // config.epochs)
        losses, penalties = [], []
        for chosen in torch.from_numpy(rng.permutation(len(task.train_x))).split(16):
            x = augment(torch.from_numpy(task.train_x)[chosen][:, None], 1, flip=False, rng=rng)
            loss = functional.cross_entropy(plain(x), torch.from_numpy(task.train_y)[chosen])
            norms = [m for m in plain.modules() if isinstance(m, torch.nn.BatchNorm2d)]
            for norm in norms:
                norm.momentum = 0.1 if config.batchnorm == "shared" else 0.0
            images, aim, pairs = next(batches)
            parts = [plain.taps(part) for part in images.chunk(1 if pairs is None else 2)]
            penalty = head([torch.cat(taps) for taps in zip(*parts, strict=True)], aim, pairs=pairs)
            for norm in norms:
                norm.momentum = 0.1
            sgd.zero_grad()
            (loss + 3.0 * penalty).backward()
            sgd.step()
            losses.append(loss.detach())
            penalties.append(penalty.detach())
        plain.eval()
        with torch.no_grad():
            logits = plain(torch.from_numpy(task.validation_x[:, None]))
        validation = float(functional.cross_entropy(logits, torch.from_numpy(task.validation_y)))
        history.append([float(torch.stack(v).mean()) for v in (losses, penalties)] + [validation])
        if validation < best:
            best = validation
            weights = copy.deepcopy([*plain.state_dict().values(), *head.state_dict().values()])
    keys = ("loss", "penalty", "validation_loss")
    assert [[entry[k] for k in keys] for entry in out.history.entries] == history
    ours = [*model.state_dict().values(), *out.penalty.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(ours, weights, strict=True))


@pytest.mark.parametrize("pairs", ["all", "random"])
def test_an_interrupted_training_goes_on_bit_for_bit(tmp_path: Path, pairs: Any) -> None:
    """With a checkpoint, a training that ended in the middle gives the weights, the mixture and the
    history of one that did not."""
    task, targets = tiny_task(120), [random_target(30, seed=1), random_target(20, seed=2)]
    config = Regularization(epochs=4, batch=16, neural_batch=8, pairs=pairs, phases=2)

    def run(checkpoint: Path | None, stop: int = 0) -> tuple[list[Any], list[Tensor]]:
        seen: list[dict[str, float]] = []

        def on_validation(entry: dict[str, float]) -> None:
            seen.append(entry)
            if len(seen) == stop:
                raise KeyboardInterrupt

        model = tiny_student()
        out = train_regularized(
            model, task, targets, config, 0, checkpoint=checkpoint, on_validation=on_validation
        )
        assert seen == out.history.entries
        return seen, [*model.state_dict().values(), *out.penalty.state_dict().values()]

    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        run(path, stop=2)
    history, weights = run(path)
    straight_history, straight_weights = run(None)
    assert history == straight_history
    assert all(torch.equal(a, b) for a, b in zip(weights, straight_weights, strict=True))


def test_training_is_reproducible() -> None:
    """Same seed, same result, for both kinds of pairs; the seed of the order matters."""
    task, target = tiny_task(48), random_target()
    finals: dict[tuple[str, int], set[float]] = {}
    pairs: Any
    for pairs in ("all", "random"):
        for seed in (0, 0, 1):
            config = Regularization(epochs=1, batch=16, neural_batch=8, pairs=pairs)
            out = train_regularized(tiny_student(), task, [target], config, seed)
            finals.setdefault((pairs, seed), set()).add(out.history.entries[0]["penalty"])
    assert all(len(values) == 1 for values in finals.values())
    assert finals["all", 0] != finals["all", 1]


def test_task_order_does_not_depend_on_the_teacher() -> None:
    """With alpha 0 a student with a target is the student without one (norms kept apart)."""
    task, target = tiny_task(48), random_target()
    ends = []
    for targets in ([], [target]):
        model = tiny_student()
        config = Regularization(alpha=0.0, epochs=2, batch=16)
        train_regularized(model, task, targets, config, seed=0)
        ends.append(model.head.weight.detach())
    torch.testing.assert_close(ends[0], ends[1])


@pytest.mark.parametrize("batchnorm", ["task", "shared"])
def test_neural_images_and_running_statistics(batchnorm: Any) -> None:
    """Neural images enter the running statistics of batch normalisation only if "shared"."""
    task, target = tiny_task(48), random_target()
    bright = replace(target, images=target.images + 5)
    config = Regularization(alpha=0.0, epochs=1, batch=16, batchnorm=batchnorm)
    stems = []
    for targets in ([], [bright]):
        model = tiny_student()
        train_regularized(model, task, targets, config, seed=0)
        stems.append(model.sections[0].get_submodule("1").get_buffer("running_var"))
    assert torch.allclose(stems[0], stems[1]) == (batchnorm == "task")


def test_best_validation_loss_is_kept() -> None:
    """The model ends with the weights of the epoch of lowest validation loss."""
    task, model = tiny_task(), tiny_student()
    config = Regularization(epochs=4, batch=16, learning_rate=0.5)
    out = train_regularized(model, task, [], config, seed=0)
    losses = [e["validation_loss"] for e in out.history.entries]
    assert out.best_epoch == int(np.argmin(losses)) + 1
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(task.validation_x[:, None]))
    loss = functional.cross_entropy(logits, torch.from_numpy(task.validation_y))
    assert float(loss) == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alpha": -1.0}, r"alpha must be in \[0, inf\), got -1\.0"),
        ({"alpha": math.nan}, r"alpha must be in \[0, inf\), got nan"),
        ({"pairs": "some"}, "pairs must be one of .*'some'"),
        ({"center": "median"}, "center must be one of .*'median'"),
        ({"beta": 1.0}, r"beta must be in \[0, 1\), got 1\.0"),
        ({"epochs": 0}, r"epochs must be in \[1, inf\), got 0"),
        ({"batch": 0}, r"batch must be in \[1, inf\), got 0"),
        ({"neural_batch": 1}, r"neural_batch must be in \[2, inf\), got 1"),
        ({"phases": 0}, r"phases must be in \[1, inf\), got 0"),
        ({"learning_rate": 0.0}, r"learning_rate must be in \(0, inf\), got 0\.0"),
        ({"batchnorm": "none"}, "batchnorm must be one of .*'none'"),
    ],
)
def test_wrong_settings_name_themselves(wrong: dict[str, Any], message: str) -> None:
    """A setting that makes no sense is refused with its name and value."""
    with pytest.raises(ValueError, match=message):
        Regularization(**wrong)
