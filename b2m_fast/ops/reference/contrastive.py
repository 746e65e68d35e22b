"""Contrastive losses over all pairs of queries and keys."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypedDict, Unpack, overload

import torch
from torch import Tensor
from torch.nn import functional

from .similarity import computing_dtype, similarity_matrix

DEFAULT_TEMPERATURE = 0.07


class InfoNCEAux(NamedTuple):
    """What the pass of `info_nce` over the logits also knows; detached.

    Attributes
    ----------
    row_logsumexp
        (N,): logsumexp_j l_ij over all keys, the extra ones included.
    col_logsumexp
        (M,): logsumexp_i l_ij; None for the one-way loss.
    positive_mean
        (N,): mean positive logit of each query; 0 for a query without a positive.
    row_top1
        (N,), bool: a positive has a larger logit than every negative of the row. Equal logits do
        not count, so that collapsed representations do not look perfect; neither does NaN.
    col_top1
        (M,), bool: the same for the columns; None for the one-way loss.
    """

    row_logsumexp: Tensor
    col_logsumexp: Tensor | None
    positive_mean: Tensor
    row_top1: Tensor
    col_top1: Tensor | None


class InfoNCEOptions(TypedDict, total=False):
    """The options of `info_nce` that do not change what it returns, for type checkers."""

    metric: str
    temperature: float | Tensor | None
    logit_scale: float | Tensor | None
    labels: Tensor | None
    key_labels: Tensor | None
    extra_keys: Tensor | None
    symmetric: bool
    weights: Tensor | None
    key_weights: Tensor | None
    label_smoothing: float
    reduction: str


@overload
def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    return_aux: Literal[False] = ...,
    **options: Unpack[InfoNCEOptions],
) -> Tensor: ...


@overload
def info_nce(
    query: Tensor, key: Tensor, *, return_aux: Literal[True], **options: Unpack[InfoNCEOptions]
) -> tuple[Tensor, InfoNCEAux]: ...


def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    metric: str = "cosine",
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    labels: Tensor | None = None,
    key_labels: Tensor | None = None,
    extra_keys: Tensor | None = None,
    symmetric: bool = True,
    weights: Tensor | None = None,
    key_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    return_aux: bool = False,
) -> Tensor | tuple[Tensor, InfoNCEAux]:
    """Pick each query's positives out of all keys, and each key's out of all queries.

    With logits l_ij = logit_scale * similarity(query_i, key_j), positives
    P(i) = {j: key_labels_j == labels_i} and label smoothing s::

        row_loss_i = logsumexp_j l_ij - (1 - s) mean_{j in P(i)} l_ij - s mean_j l_ij
        col_loss_j = logsumexp_i l_ij - (1 - s) mean_{i: j in P(i)} l_ij - s mean_i l_ij

        "mean"  sum_i w_i row_loss_i / sum_i w_i, over rows with a positive
        "sum"   sum_i w_i row_loss_i
        "none"  w_i row_loss_i

    the symmetric loss being the average of both directions.

    Parameters
    ----------
    query
        (N, d), any float dtype.
    key
        (M, d), same dtype.
    metric
        As in `pairwise_similarity`.
    temperature, logit_scale
        Number or tensor of one element; logit_scale = 1 / temperature; give at most one, the
        default being a temperature of 0.07.
    labels
        (N,), integers; by default 0..N-1.
    key_labels
        (M,), integers; by default `labels`, or 0..M-1 where that is None.
    extra_keys
        (E, d): further negatives of the rows only.
    symmetric
        Average the row loss and the column loss; else the row loss alone.
    weights
        (N,): weights of the rows, 1 by default.
    key_weights
        (M,): weights of the columns; by default `weights` where N == M, else 1.
    label_smoothing
        s, in [0, 1].
    reduction
        "mean", "sum" or "none".
    return_aux
        Return also an `InfoNCEAux`.

    Returns
    -------
    loss : Tensor
        Scalar, or (N,) for "none"; float64 for float64 input, else float32.
    aux : InfoNCEAux
        If return_aux.

    Notes
    -----
    A row or column without a positive has loss 0 and weight 0. A mean of total weight 0 is 0.

    References
    ----------
    Single positives: Radford et al. 2021, Figure 3 (CLIP). Several: Khosla et al. 2020, equation 2
    (L_out of SupCon), with queries and keys as two separate sets, so that nothing is left out of
    the denominator. Smoothing: `torch.nn.functional.cross_entropy`.

    Examples
    --------
    >>> query, key = torch.eye(2), torch.eye(2)
    >>> info_nce(query, key, temperature=1.0)  # log(1 + exp(-1))
    tensor(0.3133)
    """
    n, m = len(query), len(key)
    dtype = computing_dtype(query)
    query, key = query.to(dtype), key.to(dtype)
    if logit_scale is None:
        logit_scale = 1 / (DEFAULT_TEMPERATURE if temperature is None else temperature)
    scale = torch.as_tensor(logit_scale, dtype=dtype, device=query.device)
    positive = _positives(labels, key_labels, n, m, query.device)

    logits = scale * similarity_matrix(query, key, metric, None)
    row_logits, row_positive = logits, positive
    if extra_keys is not None:
        extra_logits = scale * similarity_matrix(query, extra_keys.to(dtype), metric, None)
        row_logits = torch.cat([logits, extra_logits], dim=1)
        row_positive = torch.cat([positive, torch.zeros_like(extra_logits, dtype=torch.bool)], 1)

    row_weights = query.new_ones(n) if weights is None else weights.to(dtype)
    loss = _reduced(
        _one_way_loss(row_logits, row_positive, label_smoothing),
        row_weights,
        row_positive.any(dim=1),
        reduction,
    )
    if symmetric:
        if key_weights is not None:
            col_weights = key_weights.to(dtype)
        else:
            col_weights = row_weights if n == m else key.new_ones(m)
        col_loss = _reduced(
            _one_way_loss(logits.T, positive.T, label_smoothing),
            col_weights,
            positive.any(dim=0),
            reduction,
        )
        loss = 0.5 * (loss + col_loss)
    if not return_aux:
        return loss

    row_logits, logits = row_logits.detach(), logits.detach()
    aux = InfoNCEAux(
        row_logsumexp=row_logits.logsumexp(dim=1),
        col_logsumexp=logits.logsumexp(dim=0) if symmetric else None,
        positive_mean=_positive_mean(row_logits, row_positive),
        row_top1=_top1(row_logits, row_positive),
        col_top1=_top1(logits.T, positive.T) if symmetric else None,
    )
    return loss, aux


def sigmoid_contrastive(
    query: Tensor,
    key: Tensor,
    *,
    metric: str = "cosine",
    logit_scale: float | Tensor = 10.0,
    logit_bias: float | Tensor = -10.0,
    labels: Tensor | None = None,
    key_labels: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Tell for every pair of a query and a key whether they belong together.

    With z_ij = 1 where key_labels_j == labels_i and -1 elsewhere::

        row_loss_i = sum_j softplus(-z_ij (logit_scale * similarity(query_i, key_j) + logit_bias))

        "mean"  sum_i w_i row_loss_i / sum_i w_i
        "sum"   sum_i w_i row_loss_i
        "none"  w_i row_loss_i

    Parameters
    ----------
    query
        (N, d), any float dtype.
    key
        (M, d), same dtype.
    metric
        As in `pairwise_similarity`.
    logit_scale, logit_bias
        Numbers or tensors of one element.
    labels, key_labels
        As in `info_nce`.
    weights
        (N,): weights of the rows, 1 by default.
    reduction
        "mean", "sum" or "none".

    Returns
    -------
    Tensor
        Scalar, or (N,) for "none"; float64 for float64 input, else float32.

    References
    ----------
    Zhai et al. 2023, equation 1 and Algorithm 1 (SigLIP).

    Examples
    --------
    >>> query, key = torch.eye(2), torch.eye(2)
    >>> sigmoid_contrastive(query, key, logit_scale=2.0, logit_bias=-1.0)  # 2 log(1 + exp(-1))
    tensor(0.6265)
    """
    dtype = computing_dtype(query)
    positive = _positives(labels, key_labels, len(query), len(key), query.device)
    similarity = similarity_matrix(query.to(dtype), key.to(dtype), metric, None)
    scale = torch.as_tensor(logit_scale, dtype=dtype, device=query.device)
    bias = torch.as_tensor(logit_bias, dtype=dtype, device=query.device)
    logits = scale * similarity + bias
    # softplus(-a) = -log sigmoid(a); torch's softplus drops log1p(exp(-20)), logsigmoid does not.
    row_loss = -functional.logsigmoid(torch.where(positive, logits, -logits)).sum(dim=1)
    row_weights = row_loss.new_ones(len(query)) if weights is None else weights.to(dtype)
    return _reduced(row_loss, row_weights, torch.ones_like(row_loss, dtype=torch.bool), reduction)


def _positives(
    labels: Tensor | None, key_labels: Tensor | None, n: int, m: int, device: torch.device
) -> Tensor:
    """Return the (n, m) bool matrix of pairs with equal labels."""
    if key_labels is None:
        key_labels = torch.arange(m, device=device) if labels is None else labels
    if labels is None:
        labels = torch.arange(n, device=device)
    return labels[:, None] == key_labels[None, :]


def _positive_mean(logits: Tensor, positive: Tensor) -> Tensor:
    """Return the mean positive logit of each row, 0 for a row without one."""
    return torch.where(positive, logits, 0.0).sum(dim=1) / positive.sum(dim=1).clamp(min=1)


def _one_way_loss(logits: Tensor, positive: Tensor, label_smoothing: float) -> Tensor:
    """Return the loss of each row of logits, 0 for a row without a positive."""
    loss = logits.logsumexp(dim=1) - (1 - label_smoothing) * _positive_mean(logits, positive)
    if label_smoothing:
        loss = loss - label_smoothing * logits.mean(dim=1)
    return torch.where(positive.any(dim=1), loss, 0.0)


def _reduced(loss: Tensor, weights: Tensor, takes_part: Tensor, reduction: str) -> Tensor:
    """Weight the losses of the rows that take part, and reduce them."""
    weights = torch.where(takes_part, weights, 0.0)
    if reduction == "none":
        return weights * loss
    total = (weights * loss).sum()
    if reduction == "sum":
        return total
    if reduction == "mean":
        weight = weights.sum()
        is_zero = weight == 0
        return torch.where(is_zero, 0.0, total / torch.where(is_zero, 1.0, weight))
    raise ValueError(f"unknown reduction: {reduction!r}")


def _top1(logits: Tensor, positive: Tensor) -> Tensor:
    """Tell for each row whether a positive has a larger logit than every negative."""
    lowest = logits.new_full((len(logits), 1), -torch.inf)  # so that no row is empty
    best_positive = torch.cat([lowest, logits.where(positive, lowest)], dim=1).amax(dim=1)
    best_negative = torch.cat([lowest, logits.where(~positive, lowest)], dim=1).amax(dim=1)
    return best_positive > best_negative
