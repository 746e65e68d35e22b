"""The loss of the package info-nce-pytorch, as a function and as a module."""

from __future__ import annotations

import torch
from torch import Tensor

from b2m_fast import ops

__all__ = ["InfoNCE", "info_nce"]


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
    if negative_mode == "paired":
        if negative_keys.ndim != 3 or negative_keys.shape[::2] != query.shape:
            raise ValueError(
                f"negative_keys has shape {tuple(negative_keys.shape)}; expected "
                f"({query.shape[0]}, M, {query.shape[1]}) for negative_mode='paired'"
            )
        keys = torch.cat([positive_key[:, None], negative_keys], dim=1)
        logits = torch.nn.functional.cosine_similarity(query[:, None], keys, dim=2) / temperature
        first = torch.zeros(len(query), dtype=torch.int64, device=query.device)
        return torch.nn.functional.cross_entropy(logits, first, reduction=reduction)
    if negative_keys.ndim != 2 or negative_keys.shape[1] != query.shape[1]:
        raise ValueError(
            f"negative_keys has shape {tuple(negative_keys.shape)}; expected (M, {query.shape[1]}) "
            "for negative_mode='unpaired'"
        )
    return _against_shared_negatives(query, positive_key, negative_keys, temperature, reduction)


def _against_shared_negatives(
    query: Tensor,
    positive_key: Tensor,
    negative_keys: Tensor,
    temperature: float | Tensor,
    reduction: str,
) -> Tensor:
    """Return log(1 + sum_j exp(n_ij - p_i)), where each query meets only its own positive p_i.

    n_ij - p_i is the dot product of (query_i / temperature, -p_i) with (negative_j, 1), and the
    positive becomes a zero key, whose logit is 0: InfoNCE again, fused and with exact gradients.
    """
    query, positive_key, negative_keys = (
        torch.nn.functional.normalize(x, dim=1) for x in (query, positive_key, negative_keys)
    )
    query = query / temperature
    positive = (query * positive_key).sum(dim=1, keepdim=True)
    same = torch.zeros(len(query), dtype=torch.int64, device=query.device)
    return ops.info_nce(
        torch.cat([query, -positive], dim=1),
        query.new_zeros((1, query.shape[1] + 1)),
        metric="dot",
        logit_scale=1.0,
        labels=same,
        key_labels=same.new_zeros(1),
        extra_keys=torch.cat([negative_keys, torch.ones_like(negative_keys[:, :1])], dim=1),
        symmetric=False,
        reduction=reduction,
    )


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
