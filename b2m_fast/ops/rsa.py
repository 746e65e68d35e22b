"""Representational similarity analysis over all pairs: a penalty to train with, a score to report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import _checks, _comparison, _ranks
from ._registration import ops as _ops
from ._types import COMPARISONS, METRICS, RANK_COMPARISONS, Scalar, Scoring, Similarities, to_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._checks import Center, Target

__all__ = ["rsa_penalty", "rsa_score"]

# Keeps the slope of sqrt(layer weight) finite at 0; far below any weight that counts.
_SMALLEST_LAYER_WEIGHT = 1e-24


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
    `torch.no_grad` the value costs less, and a graph traced or exported there cannot go backwards.
    Cost of the pair form: n^2 (d + k) operations for the value; n^2 (3 d + k) with the gradient of
    mse and atanh, which compute the scores of both sides once, and n^2 (4 d + 2 k) with that of the
    others; weighted pearson takes its value twice, about the weighted means the second time. Of the
    feature form: 2 n (d^2 + d k + k^2) and 2 n (2 d^2 + 2 d k + k^2), in float64; on the CPU in
    float32 where `torch.set_float32_matmul_precision` says "high" and not too much of the sums
    cancels. Memory O(n (d + k)), whatever n.

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
    target_metric = target_metric or metric
    _checks.one_of(compare, "compare", COMPARISONS)
    _checks.one_of(metric, "metric", tuple(METRICS))
    _checks.one_of(target_metric, "target_metric", tuple(METRICS))
    gamma, target_gamma = _checks.gamma_of_sides(gamma, metric, target_metric)
    patterns, scoring = _patterns(features, metric, center, gamma, layer_weights)
    device, count = patterns.device, patterns.shape[0]
    target = _checks.as_data(target, "target", target_kind, device)
    if target.requires_grad:
        raise ValueError(
            "target requires a gradient, but it is data here; detach it, or swap the two sides"
        )
    stored = _side(
        target, "target", target_kind, target_metric, target_center, target_gamma, device
    )
    _checks.same_count(count, stored, "features", "target")
    weights = _checks.pair_weights(pair_weights, compare, count, device)
    epsilon = _checks.epsilon(epsilon, patterns.dtype)
    _checks.comparison(compare, metric, target_metric, count)
    possible = form == "feature" and _comparison.feature_form_possible(
        _comparison.of_features(patterns, stored, weights, scoring)
    )
    _checks.form(form, compare, feature_form_possible=possible)
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
        epsilon,
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
    y_metric = y_metric or metric
    _checks.one_of(compare, "compare", (*COMPARISONS, *RANK_COMPARISONS))
    _checks.one_of(metric, "metric", tuple(METRICS))
    _checks.one_of(y_metric, "y_metric", tuple(METRICS))
    device = _checks.device_of(x, y)
    x = _checks.as_data(x, "x", x_kind, device).detach()
    y = _checks.as_data(y, "y", y_kind, device).detach()
    gamma, y_gamma = _checks.gamma_of_sides(gamma, metric, y_metric)
    c = _side(x, "x", x_kind, metric, center, gamma, device)
    t = _side(y, "y", y_kind, y_metric, y_center, y_gamma, device)
    count = _checks.items(c, "x")
    _checks.same_count(count, t, "x", "y")
    weights = _checks.pair_weights(pair_weights, compare, count, device)
    epsilon = _checks.epsilon(epsilon, torch.promote_types(x.dtype, y.dtype))
    _checks.comparison(compare, metric, y_metric, count)
    if t.data.dtype == torch.float64 and c.data.dtype != torch.float64:
        c, t = t, c  # every comparison is symmetric; computed in the precision of the first side
    w = None if weights is None else _comparison.side(weights, "similarity", Scoring("dot"))
    comparison = _comparison.between(c, t, w, count)
    _checks.form(form, compare, feature_form_possible=_comparison.feature_form_possible(comparison))
    if compare in RANK_COMPARISONS:
        value: Scalar = _ranks.score(comparison, compare)
    else:
        value = _comparison.score(comparison, compare, epsilon, form)
    return to_tensor(value, comparison.dtype, device)


def _patterns(
    features: Tensor | Sequence[Tensor],
    metric: str,
    center: Center | Sequence[Tensor],
    gamma: float | None,
    layer_weights: Tensor | None,
) -> tuple[Tensor, Scoring]:
    """Return centred patterns; layers are mixed into patterns of which dot products are taken.

    sum_k g_k (z_i^k . z_j^k) is the dot product of the rows z^k sqrt(g_k) side by side.
    """
    if isinstance(features, Tensor):
        if layer_weights is not None:
            raise ValueError("layer_weights weigh a list of layers, but features is one tensor")
        if not isinstance(center, bool | Tensor):
            raise TypeError(
                f"center is a {type(center).__name__}; expected a bool or a tensor (features is one)"
            )
        patterns = _centred(_checks.floats(features, "features"), center, "center")
        _checks.nonempty_depth(patterns, "features")
        return patterns, Scoring(metric, _checks.scoring_gamma(metric, gamma, patterns.shape[1]))
    layers = _checks.layers(features, metric)
    centers = _checks.centers(center, len(layers))
    device, wide = layers[0].device, any(x.dtype == torch.float64 for x in layers)
    dtype = torch.float64 if wide else torch.float32
    if layer_weights is None:
        layer_weights = torch.full((len(layers),), 1 / len(layers), dtype=dtype, device=device)
    shares = _checks.vector(layer_weights, "layer_weights", len(layers), device).to(dtype)
    mixed: Tensor = _ops.mixed_layers(
        layers,
        [_center_of(x, c, dtype) for x, c in zip(layers, centers, strict=True)],
        [c is True for c in centers],
        (shares + _SMALLEST_LAYER_WEIGHT).sqrt(),
        metric,
    )
    return mixed, Scoring("dot")


def _center_of(layer: Tensor, center: Center, dtype: torch.dtype) -> Tensor:
    """Return what is subtracted from the rows of a layer, (d,); or nothing, (0,)."""
    if isinstance(center, Tensor):
        return _checks.vector(center, "center", layer.shape[1], layer.device).detach()
    return layer.detach().mean(dim=0, dtype=dtype) if center else layer.new_empty(0)


def _centred(x: Tensor, center: Center, name: str) -> Tensor:
    """Return the rows minus a center; in half precision they would lose small differences."""
    if not isinstance(center, bool | Tensor):
        raise TypeError(f"{name} is a {type(center).__name__}; expected a bool or a tensor")
    if center is False:
        return x
    wide = x if x.dtype == torch.float64 else x.to(torch.float32)
    if center is True:
        return wide - wide.mean(dim=0)
    center = _checks.vector(center, name, x.shape[1], x.device)
    return wide - center.detach().to(wide.dtype)


def _side(
    data: Tensor,
    name: str,
    kind: str,
    metric: str,
    center: Center,
    gamma: float | None,
    device: torch.device,
) -> Similarities:
    """Return one side that has no gradient: centred responses, or stored similarities."""
    _checks.one_of(kind, f"{name}_kind", _checks.KINDS)
    data = _checks.floats(data, name, ndim=1 if data.ndim == 1 else 2)
    if data.ndim == 1 or kind == "similarity":
        _checks.readable_from(data, name, device)
        if isinstance(center, Tensor) or center:
            raise ValueError(f"{name} holds similarities, which have no patterns to centre")
        if data.ndim == 2 and data.shape[0] != data.shape[1]:
            raise ValueError(
                f"{name} has shape {_checks.shape_of(data)}; expected a square matrix of "
                "similarities"
            )
        return _comparison.side(data, "similarity", Scoring(metric))
    _checks.on_device(data, name, device)
    data = _centred(data, center, f"{name}_center")
    _checks.nonempty_depth(data, name)
    scoring = Scoring(metric, _checks.scoring_gamma(metric, gamma, data.shape[1]))
    return _comparison.side(data, "responses", scoring)
