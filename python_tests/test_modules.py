"""Modules and drop-ins give what the functions and the other packages' formulas give."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.nn import functional

import b2m_fast as b2m
from b2m_fast import drop_in


def features(n: int, d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def test_modules_pass_every_option_on() -> None:
    """A module is its function with options; an option that got lost would change the number."""
    x, y = features(9, 4, 0), features(9, 5, 1)
    z = features(9, 4, 2)
    torch.testing.assert_close(
        b2m.nn.PairwiseSimilarity("rbf", gamma=0.3, condensed=True)(x),
        b2m.pairwise_similarity(x, metric="rbf", gamma=0.3, condensed=True),
    )
    i = torch.tensor([0, 3])
    torch.testing.assert_close(
        b2m.nn.PairSimilarity("dot")(x, i, i + 1), b2m.pair_similarity(x, i, i + 1, metric="dot")
    )
    assert torch.equal(
        b2m.nn.TopKSimilarity(2, "euclidean")(x, z)[1],
        b2m.topk_similarity(x, z, 2, metric="euclidean")[1],
    )
    options = {"metric": "dot", "symmetric": False, "label_smoothing": 0.1, "reduction": "none"}
    torch.testing.assert_close(
        b2m.nn.InfoNCELoss(0.5, **options)(x, z),  # type: ignore[arg-type]
        b2m.info_nce(x, z, temperature=0.5, **options),  # type: ignore[call-overload]
    )
    torch.testing.assert_close(
        b2m.nn.SigmoidContrastiveLoss(3.0, -1.0, reduction="sum")(x, z),
        b2m.sigmoid_contrastive(x, z, logit_scale=3.0, logit_bias=-1.0, reduction="sum"),
        rtol=1e-6,  # the module holds its scale in float32
        atol=0,
    )
    torch.testing.assert_close(
        b2m.nn.RSAPenalty("cka", metric="dot", target_metric="rbf", gamma=0.2, center=True)(x, y),
        b2m.rsa_penalty(
            x, y, compare="cka", metric="dot", target_metric="rbf", gamma=0.2, center=True
        ),
    )
    torch.testing.assert_close(
        b2m.nn.RSAScore("spearman", metric="correlation")(x, y),
        b2m.rsa_score(x, y, compare="spearman", metric="correlation"),
    )


def test_learned_temperature_follows_its_gradient_and_stays_bounded() -> None:
    """The parameter is log(1/temperature): aligned pairs push it up, to the bound and no further."""
    loss = b2m.nn.InfoNCELoss(0.5, learnable=True, max_logit_scale=4.0)
    optimizer = torch.optim.SGD(loss.parameters(), lr=1.0)
    x = features(16, 8, 3).float()
    scales = []
    for _ in range(30):
        optimizer.zero_grad()
        loss(x, x).backward()
        optimizer.step()
        scales.append(float(torch.as_tensor(loss.logit_scale()).detach()))
    assert scales[0] > 2.0
    assert scales[-1] == pytest.approx(4.0)
    with pytest.raises(ValueError, match=r"temperature is 0\.01, but max_logit_scale is 10"):
        b2m.nn.InfoNCELoss(0.01, learnable=True, max_logit_scale=10)


def test_learned_layers_move_to_the_layer_that_matches() -> None:
    """Of two layers, the mixture's gradient favours the one whose similarities are the target's."""
    target = features(20, 6, 4)
    penalty = b2m.nn.RSAPenalty("atanh", layers=2).double()
    penalty([target.clone(), features(20, 6, 5)], target).backward()
    assert penalty.layer_logits is not None
    assert penalty.layer_logits.grad is not None
    assert penalty.layer_logits.grad[0] < 0 < penalty.layer_logits.grad[1]
    with pytest.raises(ValueError, match="layers is 0"):
        b2m.nn.RSAPenalty(layers=0)


def test_modules_can_be_copied_and_stored() -> None:
    """Training code deep-copies, pickles and restores modules."""
    module = b2m.nn.SigmoidContrastiveLoss(5.0, -3.0, learnable=True)
    other = b2m.nn.SigmoidContrastiveLoss(learnable=True)
    other.load_state_dict(module.state_dict())
    x = features(5, 3, 6).float()
    for same in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), other):
        assert torch.equal(same(x, x), module(x, x))
    assert "temperature=learned from 0.07" in repr(b2m.nn.InfoNCELoss(learnable=True))


def open_clip_loss(
    image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | float = 0.0
) -> torch.Tensor:
    logits = scale * image @ text.T + bias
    own = torch.arange(len(image))
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


@pytest.mark.parametrize("biased", [False, True])
def test_clip_loss_is_open_clips(biased: bool) -> None:
    """Value and every gradient, for features as they come (not normalised again)."""
    inputs = [features(11, 6, 7), features(11, 6, 8), torch.tensor(3.0, dtype=torch.float64)]
    if biased:
        inputs.append(torch.tensor(-1.0, dtype=torch.float64))
    ours = [x.clone().requires_grad_() for x in inputs]
    theirs = [x.clone().requires_grad_() for x in inputs]
    loss = drop_in.ClipLoss(local_loss=True, cache_labels=True)(*ours, output_dict=True)
    expected = open_clip_loss(*theirs)
    torch.testing.assert_close(loss["contrastive_loss"], expected)
    loss["contrastive_loss"].backward()
    expected.backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_siglip_loss_is_open_clips() -> None:
    """-sum log sigmoid(z (scale x.y + bias)) / N, with the gradients of scale and bias."""
    inputs = [
        features(11, 6, 9),
        features(11, 6, 10),
        torch.tensor(3.0, dtype=torch.float64),
        torch.tensor(-2.0, dtype=torch.float64),
    ]
    ours = [x.clone().requires_grad_() for x in inputs]
    theirs = [x.clone().requires_grad_() for x in inputs]
    loss = drop_in.SigLipLoss()(*ours)
    image, text, scale, bias = theirs
    sign = 2 * torch.eye(11, dtype=torch.float64) - 1
    expected = -functional.logsigmoid(sign * (scale * image @ text.T + bias)).sum() / 11
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("world_size", [0, 2])
def test_drop_ins_refuse_several_processes(world_size: int) -> None:
    """A silently local loss would train something else."""
    for loss in (drop_in.ClipLoss, drop_in.SigLipLoss):
        with pytest.raises(ValueError, match=f"world_size is {world_size}"):
            loss(world_size=world_size)


@pytest.mark.parametrize("mode", ["none", "unpaired", "paired"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("temperature", [0.1, 0.005])
def test_info_nce_is_the_packages(mode: str, reduction: str, temperature: float) -> None:
    """Cross entropy of [own positive, negatives]; low temperatures underflowed in a first version."""
    query = features(7, 5, 11).requires_grad_()
    positive, shared, own = features(7, 5, 12), features(9, 5, 13), features(63, 5, 14)
    negatives = {"none": None, "unpaired": shared, "paired": own.reshape(7, 9, 5)}[mode]
    q, p = functional.normalize(query, dim=1), functional.normalize(positive, dim=1)
    if negatives is None:
        logits, truth = q @ p.T, torch.arange(7)
    else:
        n = functional.normalize(negatives, dim=-1)
        against = q @ n.T if mode == "unpaired" else torch.einsum("nd,nmd->nm", q, n)
        logits = torch.cat([(q * p).sum(1, keepdim=True), against], dim=1)
        truth = torch.zeros(7, dtype=torch.int64)
    expected = functional.cross_entropy(logits / temperature, truth, reduction=reduction)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), query)
    paired = "paired" if mode == "paired" else "unpaired"
    loss = drop_in.InfoNCE(temperature, reduction, paired)(query, positive, negatives)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), query)[0], expected_gradient)


def test_drop_in_errors_name_the_argument() -> None:
    """Shapes that do not fit are told apart from each other."""
    x = features(4, 3, 15)
    with pytest.raises(ValueError, match="negative_mode is 'pair'"):
        drop_in.info_nce(x, x, x, negative_mode="pair")
    with pytest.raises(ValueError, match=r"negative_keys has shape \(4, 2\); expected \(M, 3\)"):
        drop_in.info_nce(x, x, x[:, :2])
    with pytest.raises(ValueError, match=r"negative_keys has shape \(4, 3\); expected \(4, M, 3\)"):
        drop_in.info_nce(x, x, x, negative_mode="paired")
    with pytest.raises(ValueError, match="positive_key"):
        drop_in.info_nce(x, x[:2])
