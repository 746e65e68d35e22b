"""Contrastive losses over all pairs of queries and keys: InfoNCE and the sigmoid loss."""

from __future__ import annotations

from typing import Literal, Unpack, overload

import torch
from torch import Tensor

from . import _checks
from ._registration import ops as _ops
from ._types import BILINEAR, POSITIVE_COUNT, STATISTICS
from .reference.contrastive import InfoNCEAux, InfoNCEOptions

__all__ = ["InfoNCEAux", "info_nce", "sigmoid_contrastive"]

DEFAULT_TEMPERATURE = 0.07  # Radford et al. 2021


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
    r"""Pick each query's positives out of all keys, and each key's out of all queries.

    .. math::
        l_{ij} = \mathrm{logit\_scale} \cdot \mathrm{similarity}(q_i, k_j), \qquad
        L_i = \log \sum_j e^{l_{ij}} - \frac{1}{|P(i)|} \sum_{j \in P(i)} l_{ij},

    P(i) = {j : key_labels[j] == labels[i]}; the symmetric loss averages this over both directions.

    Parameters
    ----------
    query
        (N, d), float64, float32, bfloat16 or float16, any strides.
    key
        (M, d), same dtype.
    metric
        "cosine" (rows are normalised inside, the gradient goes through it), "dot" or "correlation".
    temperature, logit_scale
        Number or scalar tensor, which gets its exact gradient; logit_scale = 1 / temperature. At
        most one of them; without either the temperature is 0.07.
    labels
        (N,) integers: condition of each query. By default query i belongs to key i.
    key_labels
        (M,) integers; `labels` by default (then N must equal M), or 0..M-1 without labels.
    extra_keys
        (E, d), same dtype: further negatives of the queries only.
    symmetric
        Average the loss of the rows (queries) and of the columns (keys); else the rows alone.
    weights
        (N,) weights of the rows, 1 by default; they get gradients too.
    key_weights
        (M,) weights of the columns; `weights` by default where N == M, else 1.
    label_smoothing
        s in [0, 1]: the target is (1 - s) on the positives and s / (number of keys) everywhere.
    reduction
        "mean": weighted mean over the rows that have a positive; "sum"; "none": (N,) losses times
        their weights (symmetric: needs N == M).
    return_aux
        Return also an `InfoNCEAux`, from the same pass and without gradient: log-sum-exps, mean
        positive logit, and whether a positive came first, of each row and column.

    Returns
    -------
    loss : Tensor
        Scalar, or (N,); float64 for float64 input, else float32.
    aux : InfoNCEAux
        If return_aux.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what it was and what was expected.

    Notes
    -----
    Logits are float32 (float64 for float64), sums over keys float64. The positives are kept out of
    the sum they are compared with, so a nearly converged loss keeps its relative accuracy; no
    fixed shift, so any temperature is safe. A query without a positive has loss 0 and weight 0; a
    zero row has similarity 0 and gradient 0; NaN in a row reaches its own loss and the other
    direction's. The returned gradient is always that of the returned loss. Not twice
    differentiable (`reference.info_nce` is).

    Cost: 2 N M d operations forward, 6 N M d backward; one exponential a pair each, more in tiles
    with labelled positives; memory O((N + M) d), on CUDA with workspaces of up to 256 MiB each.

    Similarities have the precision that `pairwise_similarity` tells of, which
    `torch.set_float32_matmul_precision` chooses for float32; so have the products of the gradient.
    Nothing waits for a CUDA device: both passes can be captured in a CUDA graph.

    References
    ----------
    One positive: Radford et al. 2021, figure 3. Several: Khosla et al. 2020, equation 2 (L_out).

    Examples
    --------
    >>> query, key = torch.eye(2), torch.eye(2)
    >>> info_nce(query, key, temperature=1.0)  # log(1 + exp(-1))
    tensor(0.3133)
    """
    query, key, extra = _queries_and_keys(query, key, extra_keys, metric)
    scale = _logit_scale(temperature, logit_scale, query.device)
    n, m = query.shape[0], key.shape[0] - extra
    row_label, column_label = _labels(labels, key_labels, n, m, extra, query.device)
    _checks.one_of(reduction, "reduction", _checks.REDUCTIONS)
    if reduction == "none" and symmetric and n != m:
        raise ValueError(
            f"reduction='none' with symmetric=True needs as many keys as queries; got {m} and {n}"
        )
    label_smoothing = _checks.number(label_smoothing, "label_smoothing")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing is {label_smoothing}; expected a number from 0 to 1")
    if key_weights is not None and not symmetric:
        raise ValueError("key_weights weigh the columns, but symmetric=False leaves them out")
    row_loss, column_loss, rows, columns = _ops.info_nce(
        query,
        key,
        scale,
        row_label,
        column_label,
        metric,
        symmetric,
        label_smoothing,
        return_aux,
    )
    row_weights = _checked_weights(weights, "weights", n, row_loss)
    # Without labels query i and key i belong together: all of the smaller side have a positive.
    paired = row_label is None
    takes_part = None if paired and n <= m else rows[POSITIVE_COUNT] > 0
    loss = _reduced(row_loss, row_weights, takes_part, reduction)
    if symmetric:
        column_weights = _checked_weights(key_weights, "key_weights", m, row_loss)
        if key_weights is None and n == m:
            column_weights = row_weights
        takes_part = None if paired and m <= n else columns[POSITIVE_COUNT, :m] > 0
        column_loss = _reduced(column_loss[:m], column_weights, takes_part, reduction)
        loss = 0.5 * (loss + column_loss)
    if not return_aux:
        return loss
    return loss, _aux(rows, columns[:, :m] if symmetric else None, loss.dtype)


def _aux(rows: Tensor, columns: Tensor | None, dtype: torch.dtype) -> InfoNCEAux:
    """Return what the statistics of both directions say about a batch."""
    row = dict(zip(STATISTICS, rows.detach(), strict=True))
    column = None if columns is None else dict(zip(STATISTICS, columns.detach(), strict=True))

    def logsumexp(direction: dict[str, Tensor]) -> Tensor:
        return torch.logaddexp(direction["negative_lse"], direction["positive_lse"]).to(dtype)

    mean = torch.where(row["positive_count"] > 0, row["positive_mean"], 0.0)
    return InfoNCEAux(
        row_logsumexp=logsumexp(row),
        col_logsumexp=None if column is None else logsumexp(column),
        positive_mean=mean.to(dtype),
        row_top1=row["top1"] > 0,
        col_top1=None if column is None else column["top1"] > 0,
    )


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
    r"""Tell for every pair of a query and a key whether they belong together (SigLIP).

    .. math::
        L_i = \sum_j \log\left(1 + e^{-z_{ij} l_{ij}}\right), \qquad
        l_{ij} = \mathrm{logit\_scale} \cdot \mathrm{similarity}(q_i, k_j) + \mathrm{logit\_bias},

    z_ij = 1 where key_labels[j] == labels[i], else -1.

    Parameters
    ----------
    query
        (N, d), float64, float32, bfloat16 or float16, any strides.
    key
        (M, d), same dtype.
    metric
        "cosine", "dot" or "correlation".
    logit_scale, logit_bias
        Numbers or scalar tensors, which get their exact gradients.
    labels, key_labels
        (N,), (M,) integers, as in `info_nce`.
    weights
        (N,) weights of the rows, 1 by default; they get gradients too.
    reduction
        "mean": weighted mean over the N rows; "sum"; "none": (N,) losses times their weights.

    Returns
    -------
    Tensor
        Scalar, or (N,); float64 for float64 input, else float32.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what it was and what was expected.

    Notes
    -----
    Logits are float32 (float64 for float64), row sums float64. Cost 2 N M d operations forward,
    6 N M d backward; memory O((N + M) d). Not twice differentiable
    (`reference.sigmoid_contrastive` is).

    References
    ----------
    Zhai et al. 2023, equation 1 and algorithm 1.

    Examples
    --------
    >>> query, key = torch.eye(2), torch.eye(2)
    >>> sigmoid_contrastive(query, key, logit_scale=2.0, logit_bias=-1.0)  # 2 log(1 + exp(-1))
    tensor(0.6265)
    """
    query, key, _ = _queries_and_keys(query, key, None, metric)
    n, m = query.shape[0], key.shape[0]
    row_label, column_label = _labels(labels, key_labels, n, m, 0, query.device)
    _checks.one_of(reduction, "reduction", _checks.REDUCTIONS)
    row_loss: Tensor = _ops.sigmoid_contrastive(
        query,
        key,
        _checks.scalar(logit_scale, "logit_scale", query.device),
        row_label,
        column_label,
        metric,
        _checks.scalar(logit_bias, "logit_bias", query.device),
    )
    row_weights = _checked_weights(weights, "weights", n, row_loss)
    return _reduced(row_loss, row_weights, None, reduction)


def _queries_and_keys(
    query: Tensor, key: Tensor, extra_keys: Tensor | None, metric: str
) -> tuple[Tensor, Tensor, int]:
    """Check both sides; extra keys are appended to the keys, and counted."""
    _checks.one_of(metric, "metric", BILINEAR)
    query, key = _checks.floats(query, "query"), _checks.floats(key, "key")
    _checks.on_device(key, "key", query.device)
    _checks.nonempty_depth(query, "query")
    _checks.same_depth(query, key, "query", "key")
    query, key = _checks.same_dtype(query, key, "query", "key")
    if extra_keys is None:
        return query, key, 0
    extra_keys = _checks.floats(extra_keys, "extra_keys")
    _checks.on_device(extra_keys, "extra_keys", query.device)
    _checks.same_depth(query, extra_keys, "query", "extra_keys")
    _, extra_keys = _checks.same_dtype(query, extra_keys, "query", "extra_keys")
    return query, torch.cat([key, extra_keys]), extra_keys.shape[0]


def _logit_scale(
    temperature: float | Tensor | None, logit_scale: float | Tensor | None, device: torch.device
) -> Tensor:
    """Return the logit scale of either, as a scalar."""
    if logit_scale is not None:
        if temperature is not None:
            raise ValueError("temperature and logit_scale are both given; expected at most one")
        return _checks.scalar(logit_scale, "logit_scale", device)
    if temperature is None:
        temperature = DEFAULT_TEMPERATURE
    if not isinstance(temperature, Tensor):
        temperature = _checks.number(temperature, "temperature", "a number or a scalar tensor")
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; expected a number above 0")
        return _checks.scalar(1 / temperature, "logit_scale", device)
    # In float64: half precision would keep three digits of the scale.
    return 1 / _checks.scalar(temperature, "temperature", device).to(torch.float64)


def _labels(
    labels: Tensor | None,
    key_labels: Tensor | None,
    n: int,
    m: int,
    extra: int,
    device: torch.device,
) -> tuple[Tensor | None, Tensor | None]:
    """Check labels and return them as int32 numbered from 0; extra keys get -1, nobody's label.

    None, None stands for the diagonal; a query that would meet an extra key there needs labels.
    """
    if labels is None and key_labels is None:
        if extra == 0 or n <= m:
            return None, None
        row = torch.arange(n, device=device, dtype=torch.int32)
        column = torch.arange(m, device=device, dtype=torch.int32)
    else:
        row, column = _checked_labels(labels, key_labels, n, m, device)
        if column is row:
            row = column = _dense(row)
        else:
            row, column = _dense(torch.cat([row, column])).split([n, m])
    if extra:
        column = torch.cat([column, column.new_full((extra,), -1)])
    return row.contiguous(), column.contiguous()


def _checked_labels(
    labels: Tensor | None, key_labels: Tensor | None, n: int, m: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return both labels, which are one tensor if the keys' are the queries'."""
    if labels is not None:
        labels = _checks.integers(labels, "labels", n, device)
    if key_labels is not None:
        key_labels = _checks.integers(key_labels, "key_labels", m, device)
    if labels is None:
        labels = torch.arange(n, device=device)
    if key_labels is None:
        if n != m:
            raise ValueError(
                f"labels without key_labels label both sides, but there are {n} queries and {m} "
                "keys; give key_labels"
            )
        key_labels = labels
    return labels, key_labels


def _dense(labels: Tensor) -> Tensor:
    """Number equal labels alike, from 0, as int32; without waiting for the device."""
    values, order = labels.sort()
    if len(values) < 2:
        return torch.zeros_like(values, dtype=torch.int32)
    is_new = (values[1:] != values[:-1]).cumsum(0, dtype=torch.int32)
    numbers = torch.cat([is_new.new_zeros(1), is_new])
    return torch.empty_like(numbers).scatter_(0, order, numbers)


def _checked_weights(weights: Tensor | None, name: str, length: int, like: Tensor) -> Tensor | None:
    if weights is None:
        return None
    return _checks.vector(weights, name, length, like.device).to(like.dtype)


def _reduced(
    loss: Tensor, weights: Tensor | None, takes_part: Tensor | None, reduction: str
) -> Tensor:
    """Weight the losses of the rows that take part (None: all), and reduce them."""
    if weights is None:
        if takes_part is None:  # by few operations: small batches spend their time on them
            if reduction == "none":
                return loss
            return loss.sum() if reduction == "sum" else loss.sum() / max(loss.shape[0], 1)
        weights = torch.ones_like(loss)
    if takes_part is not None:
        weights = torch.where(takes_part, weights, 0.0)
    if reduction == "none":
        return weights * loss
    total = (weights * loss).sum()
    if reduction == "sum":
        return total
    weight = weights.sum()
    is_zero = weight == 0
    return torch.where(is_zero, 0.0, total / torch.where(is_zero, 1.0, weight))
