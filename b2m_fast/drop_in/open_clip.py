"""Losses with the signatures of open_clip."""

from __future__ import annotations

import torch
from torch import Tensor

from b2m_fast import ops

__all__ = ["ClipLoss", "SigLipLoss"]


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
