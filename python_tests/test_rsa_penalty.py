"""The penalty as a module: learned mixture, running means, maps as rows, listed pairs."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from b2m_fast import ops
from b2m_fast.nn import RSAPenalty

EPSILON = 1e-5


def maps(seed: int, n: int = 8, channels: tuple[int, ...] = (3, 2)) -> list[Tensor]:
    """Maps (n, c, 4, 5) of each layer, with gradients."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(n, c, 4, 5, generator=generator).requires_grad_() for c in channels]


def rand(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def similarities(seed: int, n: int = 8) -> Tensor:
    return torch.corrcoef(torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)))


def fisher_z(s: Tensor) -> Tensor:
    return 0.5 * (torch.log(1 + s + EPSILON) - torch.log(1 - s + EPSILON))


def written_out(
    layers: list[Tensor], means: list[Tensor], target: Tensor, i: Tensor, j: Tensor
) -> Tensor:
    """Mean over the pairs (i, j) of (F(s) - F(target))^2, s a uniform mixture of cosines.

    The cosines are those of whole maps minus a mean of each channel.
    """
    s = torch.zeros(len(i), dtype=target.dtype)
    for x, mean in zip(layers, means, strict=True):
        rows = (x - mean[:, None, None]).flatten(1)
        s = s + functional.cosine_similarity(rows[i], rows[j], dim=1) / len(layers)
    return (fisher_z(s) - fisher_z(target)).square().mean()


def test_running_means_as_written() -> None:
    """mean <- 0.9 mean + 0.1 (mean over images and places), before it is subtracted; no gradient."""
    penalty = RSAPenalty(target_kind="similarity", center="ema", layers=2)
    means = [torch.zeros(3), torch.zeros(2)]
    i, j = torch.triu_indices(8, 8, offset=1)
    for step in range(3):
        layers, target = maps(step), similarities(step)
        value = penalty(layers, target)
        means = [
            0.9 * mean + 0.1 * x.detach().mean((0, 2, 3))
            for mean, x in zip(means, layers, strict=True)
        ]
        for kept, mean in zip(penalty.running_means(), means, strict=True):
            torch.testing.assert_close(kept, mean)
            assert not kept.requires_grad
        expected = written_out(layers, means, target[i, j], i, j)
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
        got = torch.autograd.grad(value, layers)
        truth = torch.autograd.grad(expected, layers)
        torch.testing.assert_close(got, truth, rtol=1e-3, atol=1e-6)


def test_means_go_to_the_op_unchanged() -> None:
    """To the bit the op's value for rows that are flattened channels last, minus the running means."""
    penalty = RSAPenalty(target_kind="similarity", center="ema", layers=2)
    penalty(maps(0), similarities(0))
    layers, target = maps(1), similarities(1)
    value = penalty(layers, target)
    expected = ops.rsa_penalty(
        [x.permute(0, 2, 3, 1).flatten(1) for x in layers],
        target,
        target_kind="similarity",
        center=[mean.repeat(20) for mean in penalty.running_means()],
        layer_weights=torch.tensor([0.5, 0.5]),
    )
    assert torch.equal(value, expected)


@pytest.mark.parametrize("center", [False, True, "ema"])
def test_maps_are_rows(center: Any) -> None:
    """Maps of any number of dimensions, stored in any order, are their values side by side."""
    x, target = rand(1, 6, 3, 4, 5), rand(2, 6, 7)

    def value(features: Tensor) -> Tensor:
        result: Tensor = RSAPenalty(center=center)(features, target)
        return result

    assert torch.equal(value(x.flatten(2)), value(x))
    # (The order of the sums of a mean follows the memory.)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(value(last), value(x), rtol=1e-6, atol=0)
    if center != "ema":  # one number a channel, not a value
        torch.testing.assert_close(value(x.flatten(1)), value(x), rtol=1e-5, atol=1e-7)
    assert torch.equal(value(x[:, :, :1, :1]), value(x[:, :, 0, 0]))


def test_means_created_at_the_start_are_those_of_the_first_batch() -> None:
    """`channels` changes when buffers are made, and nothing else."""
    early = RSAPenalty(center="ema", channels=[3, 2], layers=2)
    late = RSAPenalty(center="ema", layers=2)
    assert [mean.tolist() for mean in early.running_means()] == [[0] * 3, [0] * 2]
    assert late.running_means() == []
    for step in range(3):
        target = rand(step, 8, 4)
        assert torch.equal(early(maps(step), target), late(maps(step), target))
    assert list(early.state_dict()) == ["layer_logits", "mean_0", "mean_1"]
    assert all(
        torch.equal(a, b) for a, b in zip(early.running_means(), late.running_means(), strict=True)
    )


@pytest.mark.parametrize("channels", [None, [3, 2]])
def test_resumed_training_goes_on_to_the_bit(channels: list[int] | None) -> None:
    """A module that loads the state of another continues as that one does, inside a model too."""

    def made() -> torch.nn.ModuleDict:
        penalty = RSAPenalty(center="ema", channels=channels, layers=2, momentum=0.7)
        return torch.nn.ModuleDict({"penalty": penalty})

    model, target = made(), rand(12, 8, 4)
    penalty: Any = model["penalty"]
    for step in range(2):
        penalty(maps(step), target)
    resumed = made()
    resumed.load_state_dict(model.state_dict())
    copies: list[Any] = [resumed["penalty"], copy.deepcopy(penalty)]
    copies.append(pickle.loads(pickle.dumps(penalty)))
    expected = penalty(maps(2), target)
    for other in copies:
        assert torch.equal(other(maps(2), target), expected)
        assert torch.equal(other.running_means()[1], penalty.running_means()[1])


def test_a_state_without_means_does_not_pass_for_one_with_means() -> None:
    """A module that has means does not take a state that has none, nor of other sizes."""
    penalty = RSAPenalty(center="ema", channels=[3, 2], layers=2)
    with pytest.raises(RuntimeError, match="mean_0"):
        penalty.load_state_dict(RSAPenalty(center="ema", layers=2).state_dict())
    with pytest.raises(RuntimeError, match="size mismatch for mean_1"):
        penalty.load_state_dict(RSAPenalty(center="ema", channels=[3, 4], layers=2).state_dict())


def test_eval_mode_uses_the_means_and_leaves_them() -> None:
    """Measuring does not change what training goes on with; without a mean it says what to do."""
    penalty = RSAPenalty(center="ema").eval()
    with pytest.raises(RuntimeError, match=r"no running mean yet.*training mode.*state dict"):
        penalty(rand(13, 6, 3), rand(14, 6, 4))
    penalty.train()(rand(15, 6, 3), rand(16, 6, 4))
    (mean,) = (m.clone() for m in penalty.running_means())
    x, y = rand(17, 6, 3), rand(18, 6, 4)
    value = penalty.eval()(x, y)
    assert torch.equal(value, penalty(x, y))
    assert torch.equal(penalty.running_means()[0], mean)
    assert torch.equal(value, ops.rsa_penalty(x, y, center=mean))
    assert penalty.train()(x[:0], y[:0]) == 0  # an empty batch has no mean
    assert torch.equal(penalty.running_means()[0], mean)


def test_wide_means_of_half_precision_and_of_doubles() -> None:
    """Means of bfloat16 features are float32, of float64 features float64."""
    for dtype, kept in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        penalty = RSAPenalty(center="ema")
        penalty(rand(19, 6, 3).to(dtype), rand(20, 6, 4).to(dtype))
        assert penalty.running_means()[0].dtype == kept


@pytest.mark.parametrize("center", [False, True, "ema"])
def test_listed_pairs(center: Any) -> None:
    """Given pairs are the penalty over just these, whatever the order in a pair; all rows centre."""
    layers, truth = maps(0), similarities(0)
    i, j = torch.tensor([0, 5, 2, 7]), torch.tensor([4, 1, 6, 3])
    options: dict[str, Any] = {"target_kind": "similarity", "center": center, "layers": 2}
    value = RSAPenalty(**options)(layers, truth[i, j], pairs=(i, j))
    weights = torch.zeros(8, 8)
    weights[torch.minimum(i, j), torch.maximum(i, j)] = 1
    weighted = RSAPenalty(**options)(layers, truth, pair_weights=weights)
    assert torch.equal(value, weighted)
    means = [x.detach().mean((0, 2, 3)) * 0.1 * (center == "ema") for x in layers]
    centred = layers if center is not True else [x - x.mean(0) for x in layers]
    expected = written_out(centred, means, truth[i, j], i, j)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
    got, written = (torch.autograd.grad(v, layers) for v in (value, expected))
    torch.testing.assert_close(got, written, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("compare", ["mse", "atanh", "pearson", "cosine"])
def test_listed_pairs_of_every_target(compare: str) -> None:
    """Similarities of the pairs, a matrix, responses: as tensors or arrays, the same number."""
    x, y = rand(21, 8, 5).to(torch.float64), rand(22, 8, 6).to(torch.float64)
    i, j = torch.arange(4), torch.arange(4, 8)
    matrix = ops.pairwise_similarity(y)
    value = RSAPenalty(compare)(x, y, pairs=(i, j))
    stored = RSAPenalty(compare, target_kind="similarity")
    for target in (matrix, matrix[i, j], matrix[i, j].numpy()):
        torch.testing.assert_close(stored(x, target, pairs=(i, j)), value)
    twice = torch.cat([i, i[:2]]), torch.cat([j, j[:2]])  # counts twice
    weights = torch.zeros(8, 8)
    weights[i, j] = torch.tensor([2.0, 2.0, 1.0, 1.0])
    weighted = RSAPenalty(compare)(x, y, pair_weights=weights)
    assert torch.equal(RSAPenalty(compare)(x, y, pairs=twice), weighted)


def test_errors_name_the_argument() -> None:
    """What does not fit is refused before anything is computed."""
    x, y = rand(23, 6, 3), rand(24, 6, 4)
    with pytest.raises(ValueError, match="center is 'mean'; expected False, True or 'ema'"):
        RSAPenalty(center="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"momentum is 1\.5"):
        RSAPenalty(center="ema", momentum=1.5)
    with pytest.raises(ValueError, match=r"channels .*center='ema'"):
        RSAPenalty(channels=[3])
    with pytest.raises(ValueError, match="channels has 1 entries; expected 2"):
        RSAPenalty(center="ema", channels=[3], layers=2)
    with pytest.raises(ValueError, match=r"features have \[3\] channels; expected \[4\]"):
        RSAPenalty(center="ema", channels=[4])(x, y)
    pairs = torch.tensor([0]), torch.tensor([1])
    with pytest.raises(ValueError, match="pairs and pair_weights are both given"):
        RSAPenalty()(x, y, pairs=pairs, pair_weights=torch.ones(6, 6))
    with pytest.raises(ValueError, match="pair_weights are not defined for compare='cka'"):
        RSAPenalty("cka")(x, y, pairs=pairs)
    assert "center='ema'" in repr(RSAPenalty(center="ema"))
    assert "momentum=0.9" in repr(RSAPenalty(center="ema"))
