"""Representational similarity analysis over all pairs: a penalty to train with, a score to report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import _comparison, _ranks, _sides, _validate
from ._comparison import COMPARISONS
from ._problems import METRICS, Scoring
from ._ranks import RANK_COMPARISONS
from ._rsa_ops import ops as _ops
from ._scalars import Scalar, to_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._sides import Center, Target

__all__ = ["rsa_penalty", "rsa_score"]


def rsa_penalty(
    features: Tensor | Sequence[Tensor],
    target: Target,
    *,
    compare: str = "atanh",
    metric: str = "cosine",
    target_metric: str | None = None,
    target_kind: str = "responses",
    center: Center | Sequence[Tensor] = False,
    target_center: Center = False,
    gamma: float | None = None,
    layer_weights: Tensor | None = None,
    pair_weights: Target | None = None,
    epsilon: float = 1e-5,
    form: str = "auto",
) -> Tensor:
    r"""Penalise features whose similarities c_ij differ from those of the target, t_ij.

    .. math::
        \mathrm{atanh}: \frac{\sum_{i<j} w_{ij} (F(c_{ij}) - F(t_{ij}))^2}{\sum_{i<j} w_{ij}},
        \qquad F(x) = \tfrac12 \log \frac{1 + x + \epsilon}{1 - x + \epsilon}

    ================  ==============================================================================
    mse               sum w (c - t)^2 / sum w
    atanh             as above (Li et al. 2019)
    pearson, corr     1 - weighted Pearson correlation of c and t
    cosine            1 - weighted cosine of c and t
    cka               1 - <HCH, HTH> / (|HCH| |HTH|), H = I - 11'/n, C and T with their diagonals
    cka_debiased      the same with the unbiased HSIC, n >= 4
    whitened_cosine   1 - <HDH, HD'H> / (|HDH| |HD'H|), D and D' the distances of both sides
    ================  ==============================================================================

    Parameters
    ----------
    features
        (n, d), float64, float32, bfloat16 or float16, any strides; or several layers
        [(n, d_1), ...] whose similarities are mixed: c = sum_k g_k c^k (bilinear metrics only).
    target
        Responses (n, k) of any float dtype, scored on the fly; or with target_kind="similarity" a
        matrix (n, n), of which the diagonal and the part above it are read, or its condensed
        vector (n(n-1)/2,). Tensor or NumPy array; a memory map is read tile by tile. It is data: no
        gradient. Responses in an array are brought to the features' device.
    compare
        A row of the table.
    metric
        c_ij = metric(features_i, features_j): any of `pairwise_similarity`.
    target_metric
        The same for the target; `metric` by default. For a target given as similarities it tells
        whether they are similarities or distances.
    target_kind
        "responses" or "similarity"; a vector is always a condensed similarity, with a diagonal of
        1, or 0 for distances.
    center, target_center
        True: subtract the mean pattern of the n rows (the gradient goes through it); a tensor (d,):
        subtract that, a running mean, say; a list of them for a list of layers.
    gamma
        Width of "rbf" on both sides; 1/d of either side if None.
    layer_weights
        (L,): g_k >= 0 (NaN below), which get their exact gradients; 1/L by default.
    pair_weights
        (n, n), of which the part above the diagonal is read, or condensed; for mse, atanh, pearson
        and cosine. No gradient.
    epsilon
        e of atanh, which keeps F finite at similarities of 1 and -1; at least 9.6e-7 in float32.
    form
        "pair": tile by tile over the pairs; "feature": matrix products in feature space (bilinear
        metrics, responses, no pair weights, not for mse and atanh); "auto": the cheaper one.

    Returns
    -------
    Tensor
        Scalar; float64 for float64 features, else float32.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what it was and what was expected.

    Notes
    -----
    Scores are float32 (float64 for float64 features), sums over pairs float64. F(c) - F(t) is
    computed as one inverse hyperbolic tangent, which keeps its digits when c is near t. A side of
    zero variance (pearson) or norm (cosine and the matrix comparisons) has correlation 0 and
    gradient 0. Not twice differentiable (`reference.rsa_penalty` is).

    The gradient is computed in the forward pass, if features require one and gradients are enabled,
    and kept, in the dtype of the scores, for the backward pass, which only scales it: under
    `torch.no_grad` the value costs less, and a graph traced or exported there cannot go backwards. Cost of the pair form: n^2 (d + k) operations for the value;
    n^2 (3 d + k) with the gradient of mse and atanh, which compute the scores of both sides once, and
    n^2 (4 d + 2 k) with that of the others; weighted pearson takes its value twice, about the weighted
    means the second time. Of the feature form: 2 n (d^2 + d k + k^2) and
    2 n (2 d^2 + 2 d k + k^2), in float64; on the CPU in float32 where
    `torch.set_float32_matmul_precision` says "high" and not too much of the sums cancels. Memory
    O(n (d + k)), whatever n.

    Scores have the precision that `pairwise_similarity` tells of, but for atanh, which takes full
    float32 products for every dtype: rounding must not carry a similarity past 1 + epsilon. Stored
    similarities may be in the host's memory or in a mapped file; they are brought over a band of
    rows at a time. form="auto" looks at the sums in feature space before it takes them, for which
    the host waits; while a CUDA graph is captured "auto" means "pair".

    Released code of Li et al.'s line takes F without the 1/2: its loss is 4 times this one.

    References
    ----------
    atanh: Li et al. 2019, equation 3. cka: Kornblith et al. 2019, equations 3 and 4. cka_debiased:
    Song et al. 2012, equation 5. whitened_cosine: Diedrichsen et al. 2021.

    Examples
    --------
    >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> rsa_penalty(features, torch.tensor([0.5, 0.5, 0.5]), target_kind="similarity", compare="mse")
    tensor(0.1119)
    """
    compare = "pearson" if compare == "corr" else compare
    _validate.one_of(compare, "compare", COMPARISONS)
    _validate.one_of(metric, "metric", tuple(METRICS))
    gamma, target_gamma = _sides.gamma_of_sides(gamma, metric, target_metric or metric)
    patterns, scoring = _sides.checked_features(features, metric, center, gamma, layer_weights)
    device = patterns.device
    target = _sides.data(target, "target", target_kind, device)
    if target.requires_grad:
        raise ValueError(
            "target requires a gradient, but it is data here; detach it, or swap the two sides"
        )
    stored = _sides.checked_side(
        target, "target", target_kind, target_metric or metric, target_center, target_gamma, device
    )
    _sides.same_count(patterns.shape[0], stored, "features", "target")
    weights = _sides.checked_weights(pair_weights, compare, patterns.shape[0], device)
    _sides.check_epsilon(epsilon, patterns.dtype)
    _sides.check_comparison(compare, metric, target_metric or metric, patterns.shape[0])
    _sides.check_form(form, compare, patterns, scoring, stored, weights)
    value, _ = _ops.rsa_penalty(
        patterns,
        stored.data,
        weights,
        compare,
        scoring.metric,
        scoring.gamma,
        "responses" if stored.kind == "patterns" else "similarity",
        stored.scoring.metric,
        stored.scoring.gamma,
        float(epsilon),
        form,
        torch.is_grad_enabled() and patterns.requires_grad,
    )
    result: Tensor = value
    return result


def rsa_score(
    x: Target,
    y: Target,
    *,
    compare: str = "pearson",
    metric: str = "cosine",
    y_metric: str | None = None,
    x_kind: str = "responses",
    y_kind: str = "responses",
    center: Center = False,
    y_center: Center = False,
    gamma: float | None = None,
    pair_weights: Target | None = None,
    epsilon: float = 1e-5,
    form: str = "auto",
) -> Tensor:
    r"""Compare the similarities of x with those of y, over all pairs i < j; no gradient.

    .. math:: S(\{c_{ij}\}, \{t_{ij}\}), \qquad c_{ij} = s(x_i, x_j), \quad t_{ij} = s(y_i, y_j)

    mse and atanh are those of `rsa_penalty`; pearson (or corr), cosine, cka, cka_debiased and
    whitened_cosine the correlations themselves, 1 less those penalties; and of the p scores' ranks:

    ===============  =====================================================================
    spearman         Pearson correlation of the ranks r and s (ties: average rank)
    rho-a            12 sum (r - mean)(s - mean) / (p^3 - p)
    tau-a            (concordant - discordant) / (p (p - 1) / 2)
    kendall, tau-b   (concordant - discordant) / sqrt((untied in x) (untied in y))
    ===============  =====================================================================

    Parameters
    ----------
    x, y
        Responses (n, d) and (n, k), or similarities as the target of `rsa_penalty`; tensors or
        NumPy arrays of any float dtype, memory maps included.
    compare
        See above.
    metric, y_metric
        Metrics of x and y; y_metric is `metric` by default.
    x_kind, y_kind
        "responses" or "similarity".
    center, y_center, gamma, pair_weights, epsilon, form
        As in `rsa_penalty`.

    Returns
    -------
    Tensor
        Scalar; float64 if x or y is float64, else float32.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what it was and what was expected.

    Notes
    -----
    Cost and memory as the forward pass of `rsa_penalty`. Rank comparisons hold the scores of up to
    16.8 million pairs (n = 5793) at once; above that they compute them again slab by slab, exactly
    and in bounded memory (about 1 GB; a run of equal scores stays together). With NaN the result is
    NaN. On CUDA ranks are made there, and the discordant pairs of Kendall's tau counted on the CPU.

    References
    ----------
    Nili et al. 2014 (tau-a); Schütt et al. 2023 (rho-a); names as in rsatoolbox.

    Examples
    --------
    >>> x = torch.tensor([0.1, 0.5, 0.9])
    >>> rsa_score(x, x.square(), compare="spearman", x_kind="similarity", y_kind="similarity")
    tensor(1.)
    """
    compare = "pearson" if compare == "corr" else compare
    _validate.one_of(compare, "compare", (*COMPARISONS, *RANK_COMPARISONS))
    y_metric = y_metric or metric
    device = _sides.device_of(x, y)
    x, y = (
        _sides.data(x, "x", x_kind, device).detach(),
        _sides.data(y, "y", y_kind, device).detach(),
    )
    gamma, y_gamma = _sides.gamma_of_sides(gamma, metric, y_metric)
    c = _sides.checked_side(x, "x", x_kind, metric, center, gamma, device)
    t = _sides.checked_side(y, "y", y_kind, y_metric, y_center, y_gamma, device)
    count = _sides.items(c, "x")
    _sides.same_count(count, t, "x", "y")
    weights = _sides.checked_weights(pair_weights, compare, count, device)
    _sides.check_epsilon(epsilon, torch.promote_types(x.dtype, y.dtype))
    _sides.check_comparison(compare, metric, y_metric, count)
    if t.data.dtype == torch.float64 and c.data.dtype != torch.float64:
        c, t = t, c  # every comparison is symmetric; computed in the precision of the first side
    w = None if weights is None else _comparison.side(weights, "similarity", Scoring("dot"))
    comparison = _comparison.between(c, t, w, count)
    _validate.one_of(form, "form", _sides.FORMS)
    if form == "feature":
        _sides.check_feature_form(compare, comparison)
    if compare in RANK_COMPARISONS:
        value: Scalar = _ranks.score(comparison, compare)
    else:
        value = _comparison.score(comparison, compare, float(epsilon), form)
    return to_tensor(value, comparison.dtype, device)
