"""The penalty as the paper states it, and the training loop around it."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from b2m_fast.data.images import ImageTask
from b2m_fast.methods.batches import ImageBatches, PairBatches, augment
from b2m_fast.methods.regularize import (
    Regularization,
    SimilarityHead,
    fisher_z,
    pair_penalty,
    train,
)
from b2m_fast.ops import rsa_penalty
from b2m_fast.students.resnet import ResNet
from b2m_fast.teachers.similarity import SimilarityTarget, unit_rows


def tiny_task(count: int = 96, size: int = 12) -> ImageTask:
    """Two classes told apart by the half that is bright."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, count)
    x = rng.uniform(0, 0.5, (count, size, size)).astype(np.float32)
    x[np.arange(count), :, : size // 2] += 0.4 * y[:, None, None].astype(np.float32)
    third = count // 3
    parts = [(x[k : k + third], y[k : k + third]) for k in (0, third, 2 * third)]
    return ImageTask("tiny", *parts[0], *parts[1], *parts[2], classes=2, crop=1, flip=False)


def random_target(count: int = 40, size: int = 12, seed: int = 1) -> SimilarityTarget:
    rng = np.random.default_rng(seed)
    images = rng.uniform(size=(count, size, size)).astype(np.float32)
    return SimilarityTarget("random", images, unit_rows(rng.normal(size=(count, 5))))


def taps_of(head: SimilarityHead, count: int = 8, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand(count, len(mean), 4, 4, generator=generator, dtype=torch.float32)
        for mean in head.means
    ]


def test_fisher_z_is_atanh_and_finite_at_the_poles() -> None:
    """F is atanh inside, 6.1 at 1, and its gradient is finite there."""
    s = torch.linspace(-0.99, 0.99, 21, dtype=torch.float64)
    torch.testing.assert_close(fisher_z(s), torch.atanh(s), rtol=1e-2, atol=1e-4)
    pole = torch.ones(1, requires_grad=True)
    value = fisher_z(pole)
    assert value.item() == pytest.approx(6.1, abs=0.01)
    value.sum().backward()
    assert pole.grad is not None
    assert torch.isfinite(pole.grad).all()


def test_released_code_is_four_times_the_written_loss() -> None:
    """F without its 0.5 makes the loss 4 times that of equation (1)."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(6, 9, generator=generator) for _ in range(2))
    target = torch.linspace(-0.5, 0.5, 6)
    ours = pair_penalty([a], [b], target, torch.ones(1))
    s = torch.nn.functional.cosine_similarity(a, b)
    twice = [torch.log(1 + v + 1e-5) - torch.log(1 - v + 1e-5) for v in (s, target)]
    assert ((twice[0] - twice[1]) ** 2).mean().item() == pytest.approx(4 * ours.item(), rel=1e-5)


def test_mixture_is_uniform_at_the_start() -> None:
    """Gamma starts at 1/5 for each of five layers and sums to 1."""
    assert SimilarityHead([2] * 5).gamma.tolist() == pytest.approx([0.2] * 5)


def test_mixture_learns_the_layer_that_matches() -> None:
    """Descent on gamma gives its weight to the layer whose similarity is the target."""
    head = SimilarityHead([3, 3, 3], center="none")
    taps = [t - 0.5 for t in taps_of(head)]
    flat = taps[1].permute(0, 2, 3, 1).flatten(1)
    target = torch.nn.functional.cosine_similarity(flat[:, None], flat, dim=2)
    head(taps, target).backward()
    assert head.free.grad is not None
    assert int(head.free.grad.argmin()) == 1
    optimizer = torch.optim.SGD(head.parameters(), lr=10.0)
    for _ in range(100):
        optimizer.zero_grad()
        head(taps, target).backward()
        optimizer.step()
    assert head.gamma[1].item() > 0.9


@pytest.mark.parametrize("center", ["ema", "batch", "none"])
def test_random_pairs_equal_all_pairs_on_the_same_pairs(center: str) -> None:
    """The paper's pairs give the fused op's value and gradient with weights on just those pairs."""
    head = SimilarityHead([3, 2], center=center)  # type: ignore[arg-type]
    taps = taps_of(head, count=8)
    for tap in taps:
        tap.requires_grad_()
    rows = torch.from_numpy(unit_rows(np.random.default_rng(0).normal(size=(8, 4))))
    target = rows @ rows.T
    first, second = torch.arange(4), torch.arange(4, 8)
    weights = torch.zeros(8, 8)
    weights[first, second] = 1
    pairs = copy.deepcopy(head)
    by_pairs = pairs.forward_pairs(
        [t[:4] for t in taps], [t[4:] for t in taps], target[first, second]
    )
    if center == "ema":
        head.update(taps)
    fused = rsa_penalty(
        [t.permute(0, 2, 3, 1).flatten(1) for t in taps],
        target,
        compare="atanh",
        metric="cosine",
        target_kind="similarity",
        center=head.centers(taps),
        layer_weights=head.gamma,
        pair_weights=weights,
    )
    torch.testing.assert_close(by_pairs, fused, rtol=1e-4, atol=1e-6)
    for x, y in zip(
        torch.autograd.grad(by_pairs, taps), torch.autograd.grad(fused, taps), strict=True
    ):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-6)


def test_running_mean() -> None:
    """The mean starts at 0, keeps 0.9 of itself, is updated before use, and carries no gradient."""
    head = SimilarityHead([2], center="ema", beta=0.9)
    tap = torch.rand(4, 2, 3, 3, requires_grad=True)
    assert head.means[0].tolist() == [0, 0]
    head([tap], torch.eye(4))
    fresh = tap.detach().mean((0, 2, 3))
    torch.testing.assert_close(head.means[0], 0.1 * fresh)
    head([tap], torch.eye(4))
    torch.testing.assert_close(head.means[0], (0.1 + 0.09) * fresh)
    assert not head.means[0].requires_grad
    assert "mean_0" in head.state_dict()
    centers = head.centers([tap])
    assert isinstance(centers, list)
    torch.testing.assert_close(centers[0].view(9, 2), head.means[0].expand(9, 2))


def test_pairs_update_the_running_mean_with_both_images() -> None:
    """Both images of the pairs enter the running mean."""
    head = SimilarityHead([1], center="ema")
    a, b = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    head.forward_pairs([a], [b], torch.zeros(2))
    assert head.means[0].item() == pytest.approx(0.05)


def test_image_batches() -> None:
    """A batch comes from one set, with its own similarities, each image once before any twice."""
    targets = [random_target(40, seed=1), random_target(24, seed=2)]
    draw = ImageBatches(targets, 8, np.random.default_rng(0))
    seen: dict[int, list[bytes]] = {0: [], 1: []}
    for _ in range(30):
        images, similarity = next(draw)
        assert images.shape == (8, 1, 12, 12)
        rows = [x.numpy().tobytes() for x in images[:, 0]]
        which = int(rows[0] in {x.tobytes() for x in targets[1].images})
        everything = [x.tobytes() for x in targets[which].images]
        index = [everything.index(row) for row in rows]
        np.testing.assert_array_equal(
            similarity.numpy(), targets[which].similarity(np.array(index)).numpy()
        )
        seen[which] += rows
    for which, rows in seen.items():
        first = rows[: len(targets[which].images)]
        assert len(set(first)) == len(first)


def test_pair_batches() -> None:
    """Pairs are of two different images of one set, with their similarity."""
    target = random_target(10)
    first, second, similarity = next(PairBatches([target], 200, np.random.default_rng(0)))
    everything = [x.tobytes() for x in target.images]
    i, j = ([everything.index(x.numpy().tobytes()) for x in side[:, 0]] for side in (first, second))
    assert all(a < b for a, b in zip(i, j, strict=True))
    np.testing.assert_array_equal(similarity.numpy(), target.pairs(np.array(i), np.array(j)).numpy())


def test_augmentation_only_moves_and_mirrors() -> None:
    """Crops are shifts of the reflected image; the mirror acts on whole images."""
    x = torch.arange(2 * 36, dtype=torch.float32).view(2, 1, 6, 6)
    still = augment(x, 0, flip=False, rng=np.random.default_rng(0))
    torch.testing.assert_close(still, x)
    moved = augment(x, 2, flip=True, rng=np.random.default_rng(1))
    assert moved.shape == x.shape
    assert all(set(m.flatten().tolist()) <= set(o.flatten().tolist()) for m, o in zip(moved, x, strict=True))  # fmt: skip


def test_penalty_goes_down_in_training() -> None:
    """Students with a target end nearer to it than students without, and the task is learned."""
    task, target = tiny_task(), random_target()
    config = Regularization(
        alpha=10, epochs=12, batch=16, neural_batch=20, phases=3, center="batch"
    )
    ends = []
    for targets in ([], [target]):
        torch.manual_seed(0)
        model = ResNet(2, width=4, blocks=1)
        out = train(model, task, targets, config, seed=0)
        with torch.no_grad():
            taps = model.eval().taps(torch.from_numpy(target.images[:, None]))
            ends.append(float(out.head(taps, target.similarity())))
        assert max(e["validation_accuracy"] for e in out.history) > 0.9
        assert math.isnan(out.history[0]["penalty"]) == (not targets)
    assert ends[1] < 0.8 * ends[0]


@pytest.mark.parametrize(
    "change", [{"pairs": "all"}, {"pairs": "random", "batchnorm": "shared", "epochs": 4}]
)
def test_the_loop_is_the_plain_one(change: dict[str, Any]) -> None:
    """Training through the common loop gives, bit for bit, what these lines of plain PyTorch give:
    order of chance, of the sums, learning rates, best weights (40 and 8 images: batches break off).
    """
    task, target = tiny_task(120), random_target(30)
    config = replace(
        Regularization(alpha=3.0, epochs=3, batch=16, neural_batch=8, phases=3), **change
    )
    torch.manual_seed(0)
    model = ResNet(2, width=2, blocks=1)
    plain = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    out = train(model, task, [target], config, seed=5)

    head = SimilarityHead(plain.channels, config.center, config.beta)
    sgd = torch.optim.SGD([*plain.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    rng, neural = (np.random.default_rng([5, stream]) for stream in (0, 1))
    batches = ImageBatches([target], 8, neural)
    pairs = PairBatches([target], 4, neural)
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
            if config.pairs == "all":
                images, similarity = next(batches)
                penalty = head(plain.taps(images), similarity)
            else:
                first, second, similarity = next(pairs)
                penalty = head.forward_pairs(plain.taps(first), plain.taps(second), similarity)
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
    assert [[entry[k] for k in keys] for entry in out.history] == history
    ours = [*model.state_dict().values(), *out.head.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(ours, weights, strict=True))


@pytest.mark.parametrize("pairs", ["all", "random"])
def test_an_interrupted_training_goes_on_bit_for_bit(tmp_path: Path, pairs: Any) -> None:
    """With a checkpoint, a training that ended in the middle gives the weights, the mixture and the
    history of one that did not."""
    task, targets = tiny_task(120), [random_target(30, seed=1), random_target(20, seed=2)]
    config = Regularization(epochs=4, batch=16, neural_batch=8, pairs=pairs, phases=2)

    def run(checkpoint: Path | None, stop: int = 0) -> tuple[list[Any], list[Tensor]]:
        seen: list[dict[str, float]] = []

        def tick(entry: dict[str, float]) -> None:
            seen.append(entry)
            if len(seen) == stop:
                raise KeyboardInterrupt

        torch.manual_seed(0)
        model = ResNet(2, width=2, blocks=1)
        out = train(model, task, targets, config, 0, tick, checkpoint=checkpoint)
        assert seen == out.history
        return out.history, [*model.state_dict().values(), *out.head.state_dict().values()]

    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        run(path, stop=2)
    history, weights = run(path)
    straight_history, straight_weights = run(None)
    assert history == straight_history
    assert all(torch.equal(a, b) for a, b in zip(weights, straight_weights, strict=True))


def test_training_is_reproducible_and_random_pairs_run() -> None:
    """Same seed, same result, for both kinds of pairs; the seed of the order matters."""
    task, target = tiny_task(48), random_target()
    finals: dict[tuple[str, int], list[float]] = {}
    for pairs in ("all", "random"):
        for seed in (0, 0, 1):
            torch.manual_seed(0)
            config = Regularization(epochs=1, batch=16, neural_batch=8, pairs=pairs)
            out = train(ResNet(2, width=2, blocks=1), task, [target], config, seed)
            finals.setdefault((pairs, seed), []).append(out.history[0]["penalty"])
    for (_, seed), values in finals.items():
        assert len(set(values)) == 1, seed
    assert finals["all", 0] != finals["all", 1]


def test_task_order_does_not_depend_on_the_teacher() -> None:
    """With alpha 0 a student with a target is the student without one (norms kept apart)."""
    task, target = tiny_task(48), random_target()
    ends = []
    for targets in ([], [target]):
        torch.manual_seed(0)
        model = ResNet(2, width=2, blocks=1)
        train(model, task, targets, Regularization(alpha=0.0, epochs=2, batch=16), seed=0)
        ends.append(model.head.weight.detach())
    torch.testing.assert_close(ends[0], ends[1])


@pytest.mark.parametrize("batchnorm", ["task", "shared"])
def test_neural_images_and_running_statistics(batchnorm: str) -> None:
    """Neural images enter the running statistics of batch normalisation only if "shared"."""
    task, target = tiny_task(48), random_target()
    bright = SimilarityTarget("bright", target.images + 5, target.rows)
    config = Regularization(alpha=0.0, epochs=1, batch=16, batchnorm=batchnorm)  # type: ignore[arg-type]
    stems = []
    for targets in ([], [bright]):
        torch.manual_seed(0)
        model = ResNet(2, width=2, blocks=1)
        train(model, task, targets, config, seed=0)
        stems.append(model.sections[0].get_submodule("1").get_buffer("running_var"))
    assert torch.allclose(stems[0], stems[1]) == (batchnorm == "task")


def test_best_validation_loss_is_kept() -> None:
    """The model ends with the weights of the epoch of lowest validation loss."""
    task = tiny_task()
    torch.manual_seed(0)
    model = ResNet(2, width=2, blocks=1)
    out = train(model, task, [], Regularization(epochs=4, batch=16, learning_rate=0.5), seed=0)
    losses = [e["validation_loss"] for e in out.history]
    assert out.best_epoch == int(np.argmin(losses)) + 1
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(task.validation_x[:, None]))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(task.validation_y))
    assert float(loss) == pytest.approx(min(losses), rel=1e-5)
