"""Losses under the names and signatures that other packages made common, computed by our ops.

Change the import and nothing else:

    from open_clip.loss import ClipLoss, SigLipLoss    ->  from b2m_fast.drop_in import ...
    from info_nce import InfoNCE, info_nce             ->  from b2m_fast.drop_in import ...

Single process for now: a world_size above 1 is an error, not a silently local loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import ops

__all__ = ["ClipLoss", "InfoNCE", "SigLipLoss", "info_nce"]


def _single_process(world_size: int) -> None:
    if world_size != 1:
        raise ValueError(
            f"world_size is {world_size}; expected 1, since this version computes the loss of one "
            "process"
        )


class ClipLoss(torch.nn.Module):
    """Symmetric InfoNCE with open_clip's signature.

    Parameters
    ----------
    local_loss, gather_with_grad, cache_labels, use_horovod
        Accepted for compatibility; without effect in one process.
    rank, world_size
        0 and 1.

    Raises
    ------
    ValueError
        If world_size is not 1.

    Examples
    --------
    >>> ClipLoss()(torch.eye(2), torch.eye(2), logit_scale=1.0)
    tensor(0.3133)
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ) -> None:
        super().__init__()
        _single_process(world_size)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Return the loss of normalised features (N, d); `logit_scale` is already exponentiated.

        A bias shifts all logits alike, which no softmax sees: it gets the gradient 0.
        """
        loss = ops.info_nce(image_features, text_features, metric="dot", logit_scale=logit_scale)
        if isinstance(logit_bias, Tensor):
            loss = loss + 0.0 * logit_bias.sum()
        return {"contrastive_loss": loss} if output_dict else loss


class SigLipLoss(torch.nn.Module):
    """Sigmoid loss with open_clip's signature.

    Parameters
    ----------
    cache_labels, dist_impl
        Accepted for compatibility; without effect in one process.
    rank, world_size
        0 and 1.

    Raises
    ------
    ValueError
        If world_size is not 1.

    Examples
    --------
    >>> SigLipLoss()(torch.eye(2), torch.eye(2), logit_scale=2.0, logit_bias=-1.0)
    tensor(0.6265)
    """

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: str | None = None,
    ) -> None:
        super().__init__()
        _single_process(world_size)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Return the loss of normalised features (N, d), the mean over rows of their sums."""
        loss = ops.sigmoid_contrastive(
            image_features,
            text_features,
            metric="dot",
            logit_scale=logit_scale,
            logit_bias=logit_bias,
        )
        return {"contrastive_loss": loss} if output_dict else loss


def info_nce(
    query: Tensor,
    positive_key: Tensor,
    negative_keys: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    reduction: str = "mean",
    negative_mode: str = "unpaired",
) -> Tensor:
    """One-directional InfoNCE with the signature of the package info-nce-pytorch.

    Parameters
    ----------
    query, positive_key
        (N, d); cosine similarity. Without negative_keys the other queries' positives are the
        negatives.
    negative_keys
        "unpaired": (M, d), the negatives of every query, which then replace the other positives;
        "paired": (N, M, d), each query's own.
    temperature
        Number or scalar tensor.
    reduction
        "mean", "sum" or "none".
    negative_mode
        "unpaired" or "paired".

    Returns
    -------
    Tensor
        Scalar, or (N,) for "none".

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what it was and what was expected.

    Notes
    -----
    Fused, memory O((N + M) d), except for "paired" negatives, of which there are N M d values to
    begin with.

    Examples
    --------
    >>> info_nce(torch.eye(2), torch.eye(2), temperature=1.0)  # log(1 + exp(-1))
    tensor(0.3133)
    """
    if negative_mode not in ("unpaired", "paired"):
        raise ValueError(
            f"negative_mode is {negative_mode!r}; expected one of 'unpaired', 'paired'"
        )
    if query.shape != positive_key.shape:
        raise ValueError(
            f"query has shape {tuple(query.shape)} and positive_key {tuple(positive_key.shape)}; "
            "expected the same"
        )
    if negative_keys is None:
        return ops.info_nce(
            query, positive_key, temperature=temperature, symmetric=False, reduction=reduction
        )
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}; expected one of 'mean', 'sum', 'none'")
    positive = torch.nn.functional.cosine_similarity(query, positive_key, dim=1) / temperature
    if negative_mode == "paired":
        if negative_keys.ndim != 3 or negative_keys.shape[::2] != query.shape:
            raise ValueError(
                f"negative_keys has shape {tuple(negative_keys.shape)}; expected "
                f"({query.shape[0]}, M, {query.shape[1]}) for negative_mode='paired'"
            )
        similarity = torch.nn.functional.cosine_similarity(query[:, None], negative_keys, dim=2)
        negative = (similarity / temperature).logsumexp(dim=1)
    else:
        negative = _logsumexp(query, negative_keys, temperature)
    loss = torch.logaddexp(negative, positive) - positive
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


def _logsumexp(query: Tensor, keys: Tensor, temperature: float | Tensor) -> Tensor:
    """Return log sum_j exp(cosine(query_i, key_j) / temperature), (N,), without the matrix.

    InfoNCE against a zero key, whose logit is 0, gives softplus of what is wanted; it is inverted
    as y + log(1 - exp(-y)), which loses no digits at either end.
    """
    same = torch.zeros(query.shape[0], dtype=torch.int64, device=query.device)
    softplus = ops.info_nce(
        query,
        torch.zeros_like(query[:1]),
        temperature=temperature,
        labels=same,
        key_labels=same[:1],
        extra_keys=keys,
        symmetric=False,
        reduction="none",
    )
    return softplus + torch.log(-torch.expm1(-softplus))


class InfoNCE(torch.nn.Module):
    """`info_nce` of this module as a module, with the signature of info-nce-pytorch.

    Parameters
    ----------
    temperature, reduction, negative_mode
        As in `info_nce`.

    Examples
    --------
    >>> InfoNCE(temperature=1.0)(torch.eye(2), torch.eye(2))
    tensor(0.3133)
    """

    def __init__(
        self,
        temperature: float = 0.1,
        reduction: str = "mean",
        negative_mode: str = "unpaired",
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.reduction = reduction
        self.negative_mode = negative_mode

    def forward(
        self, query: Tensor, positive_key: Tensor, negative_keys: Tensor | None = None
    ) -> Tensor:
        """Return the loss of queries and positive keys (N, d)."""
        return info_nce(
            query,
            positive_key,
            negative_keys,
            self.temperature,
            self.reduction,
            self.negative_mode,
        )
