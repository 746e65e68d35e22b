"""Representational similarity analysis over all pairs: a penalty to train with, a score to report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import _comparison, _feature_form, _ranks, _validate
from ._comparison import COMPARISONS, DIFFERENCES, MATRIX_COMPARISONS
from ._problems import BILINEAR, DISTANCES, METRICS, Comparison, Scoring, Similarities
from ._ranks import RANK_COMPARISONS
from ._rsa_ops import ops as _ops
from ._scalars import Scalar, to_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    Target = Tensor | npt.NDArray[np.floating[Any]]
    Center = bool | Tensor

__all__ = ["rsa_penalty", "rsa_score"]

_KINDS = ("responses", "similarity")
_FORMS = ("auto", "pair", "feature")

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
    gamma, target_gamma = _gamma_of_sides(gamma, metric, target_metric or metric)
    patterns, scoring = _checked_features(features, metric, center, gamma, layer_weights)
    device = patterns.device
    target = _data(target, "target", target_kind, device)
    if target.requires_grad:
        raise ValueError(
            "target requires a gradient, but it is data here; detach it, or swap the two sides"
        )
    stored = _checked_side(
        target, "target", target_kind, target_metric or metric, target_center, target_gamma, device
    )
    _same_count(patterns.shape[0], stored, "features", "target")
    weights = _checked_weights(pair_weights, compare, patterns.shape[0], device)
    _check_epsilon(epsilon, patterns.dtype)
    _check_comparison(compare, metric, target_metric or metric, patterns.shape[0])
    _check_form(form, compare, patterns, scoring, stored, weights)
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
    device = _device_of(x, y)
    x, y = _data(x, "x", x_kind, device).detach(), _data(y, "y", y_kind, device).detach()
    gamma, y_gamma = _gamma_of_sides(gamma, metric, y_metric)
    c = _checked_side(x, "x", x_kind, metric, center, gamma, device)
    t = _checked_side(y, "y", y_kind, y_metric, y_center, y_gamma, device)
    count = _items(c, "x")
    _same_count(count, t, "x", "y")
    weights = _checked_weights(pair_weights, compare, count, device)
    _check_epsilon(epsilon, torch.promote_types(x.dtype, y.dtype))
    _check_comparison(compare, metric, y_metric, count)
    if t.data.dtype == torch.float64 and c.data.dtype != torch.float64:
        c, t = t, c  # every comparison is symmetric; computed in the precision of the first side
    w = None if weights is None else _comparison.side(weights, "similarity", Scoring("dot"))
    comparison = _comparison.between(c, t, w, count)
    _validate.one_of(form, "form", _FORMS)
    if form == "feature":
        _check_feature_form(compare, comparison)
    if compare in RANK_COMPARISONS:
        value: Scalar = _ranks.score(comparison, compare)
    else:
        value = _comparison.score(comparison, compare, float(epsilon), form)
    return to_tensor(value, comparison.dtype, device)


def _device_of(*sides: Target) -> torch.device:
    """Return the device that is not the host, if any."""
    devices = [x.device for x in sides if isinstance(x, Tensor)]
    return next((d for d in devices if d.type != "cpu"), torch.device("cpu"))


def _data(x: Target, name: str, kind: str, device: torch.device) -> Tensor:
    """Return data as a tensor; responses in a NumPy array are brought to the device."""
    tensor = _validate.from_array(x, name)
    if isinstance(x, Tensor) or kind != "responses" or tensor.ndim != 2:
        return tensor
    return tensor.to(device)


def _gamma_of_sides(
    gamma: float | None, metric: str, other_metric: str
) -> tuple[float | None, float | None]:
    """Return gamma for the sides that are "rbf"."""
    if gamma is not None and "rbf" not in (metric, other_metric):
        raise ValueError(
            f"gamma is {gamma}, but the metrics are {metric!r} and {other_metric!r}; only 'rbf' has "
            "one"
        )
    return gamma if metric == "rbf" else None, gamma if other_metric == "rbf" else None


def _check_epsilon(epsilon: float, dtype: torch.dtype) -> None:
    """Raise unless epsilon covers what rounding adds to a similarity of 1."""
    epsilon = _validate.number(epsilon, "epsilon")
    least = 8 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    if not least <= epsilon < math.inf:
        raise ValueError(
            f"epsilon is {epsilon}; expected a finite number of at least {least:.1e}, by which rounding may carry a "
            "similarity past 1"
        )


def _checked_features(
    features: Tensor | Sequence[Tensor],
    metric: str,
    center: Center | Sequence[Tensor],
    gamma: float | None,
    layer_weights: Tensor | None,
) -> tuple[Tensor, Scoring]:
    """Centre; mix layers into one set of patterns whose dot products are the mixed similarities.

    sum_k g_k (z_i^k . z_j^k) is the dot product of the rows z^k sqrt(g_k) side by side.
    """
    if isinstance(features, Tensor):
        if layer_weights is not None:
            raise ValueError("layer_weights weigh a list of layers, but features is one tensor")
        if not isinstance(center, bool | Tensor):
            raise TypeError(
                f"center is a {type(center).__name__}; expected a bool or a tensor (features is one)"
            )
        patterns = _centred(_validate.floats(features, "features"), center, "center")
        _validate.nonempty_depth(patterns, "features")
        return patterns, Scoring(metric, _validate.scoring_gamma(metric, gamma, patterns.shape[1]))
    if not isinstance(features, list | tuple):
        raise TypeError(
            f"features is a {type(features).__name__}; expected a torch.Tensor or a list of them"
        )
    layers = [_validate.floats(x, f"features[{k}]") for k, x in enumerate(features)]
    if not layers:
        raise ValueError("features is an empty list; expected at least one layer")
    if metric not in BILINEAR:
        raise ValueError(
            f"metric is {metric!r}; a list of layers needs one of "
            f"{', '.join(map(repr, BILINEAR))}, whose mixtures are dot products"
        )
    if not isinstance(center, bool | Tensor | list | tuple):
        raise TypeError(
            f"center is a {type(center).__name__}; expected a bool, a tensor, or a list of tensors"
        )
    centers = [center] * len(layers) if isinstance(center, bool | Tensor) else list(center)
    if len(centers) != len(layers):
        raise ValueError(f"center has {len(centers)} entries; expected {len(layers)}, one a layer")
    for k, layer in enumerate(layers):
        if layer.shape[0] != layers[0].shape[0]:
            raise ValueError(
                f"features[{k}] has shape {_validate.shape_of(layer)} and features[0] "
                f"{_validate.shape_of(layers[0])}; expected the same number of rows"
            )
        _validate.nonempty_depth(layer, f"features[{k}]")
    dtype, device = layers[0].dtype, layers[0].device
    for k, layer in enumerate(layers[1:], start=1):
        _validate.on_device(layer, f"features[{k}]", device)
        dtype = torch.promote_types(dtype, layer.dtype)
    computing = torch.float64 if dtype == torch.float64 else torch.float32
    if layer_weights is None:
        layer_weights = torch.full((len(layers),), 1 / len(layers), dtype=computing, device=device)
    shares = _validate.vector(layer_weights, "layer_weights", len(layers), device).to(computing)
    roots = (shares + _SMALLEST_LAYER_WEIGHT).sqrt()
    columns = [_center_of(x, c, computing) for x, c in zip(layers, centers, strict=True)]
    own_mean = [c is True for c in centers]
    mixed: Tensor = _ops.mixed_layers(layers, columns, own_mean, roots, metric)
    return mixed, Scoring("dot")


def _center_of(layer: Tensor, center: Center, dtype: torch.dtype) -> Tensor:
    """What is subtracted from the rows of a layer, (d,); or nothing, (0,)."""
    if isinstance(center, Tensor):
        return _validate.vector(center, "center", layer.shape[1], layer.device).detach()
    if not isinstance(center, bool):
        raise TypeError(f"center holds a {type(center).__name__}; expected a bool or a tensor")
    return layer.detach().mean(dim=0, dtype=dtype) if center else layer.new_empty(0)


def _centred(x: Tensor, center: Center, center_name: str) -> Tensor:
    # Half precision would lose the small differences that centring is about.
    wide = x if x.dtype == torch.float64 else x.to(torch.float32)
    if isinstance(center, Tensor):
        center = _validate.vector(center, center_name, x.shape[1], x.device)
        return wide - center.detach().to(wide.dtype)
    if not isinstance(center, bool):
        raise TypeError(f"{center_name} is a {type(center).__name__}; expected a bool or a tensor")
    if not center:
        return x
    return wide - wide.mean(dim=0)


def _checked_side(
    data: Tensor,
    name: str,
    kind: str,
    metric: str,
    center: Center,
    gamma: float | None,
    device: torch.device,
) -> Similarities:
    """One side that has no gradient."""
    _validate.one_of(kind, f"{name}_kind", _KINDS)
    _validate.one_of(metric, f"{name}_metric", tuple(METRICS))
    data = _validate.floats(data, name, ndim=1 if data.ndim == 1 else 2)
    if data.ndim == 1 or kind == "similarity":
        _validate.readable_from(data, name, device)
        if isinstance(center, Tensor) or center:
            raise ValueError(f"{name} holds similarities, which have no patterns to centre")
        if data.ndim == 2 and data.shape[0] != data.shape[1]:
            raise ValueError(
                f"{name} has shape {_validate.shape_of(data)}; expected a square matrix of "
                "similarities"
            )
        return _comparison.side(data, "similarity", Scoring(metric))
    _validate.on_device(data, name, device)
    data = _centred(data, center, f"{name}_center")
    _validate.nonempty_depth(data, name)
    scoring = Scoring(metric, _validate.scoring_gamma(metric, gamma, data.shape[1]))
    return _comparison.side(data, "responses", scoring)


def _items(side: Similarities, name: str) -> int:
    """Number of items; of a condensed vector, the n of n (n - 1) / 2."""
    if side.kind != "condensed":
        return side.data.shape[0]
    length = side.data.shape[0]
    n = (1 + math.isqrt(1 + 8 * length)) // 2
    if n * (n - 1) // 2 != length:
        raise ValueError(f"{name} has {length} entries, which is no n(n-1)/2; expected condensed")
    return n


def _same_count(count: int, side: Similarities, name: str, side_name: str) -> None:
    if side.kind == "condensed":
        expected = count * (count - 1) // 2
        if side.data.shape[0] != expected:
            raise ValueError(
                f"{side_name} has {side.data.shape[0]} entries; expected {expected} = "
                f"{count} * {count - 1} / 2, one a pair of the {count} rows of {name}"
            )
    elif side.data.shape[0] != count:
        raise ValueError(
            f"{side_name} has {side.data.shape[0]} rows and {name} has {count}; expected the same"
        )


def _checked_weights(
    weights: Target | None, compare: str, count: int, device: torch.device
) -> Tensor | None:
    if weights is None:
        return None
    if compare in (*MATRIX_COMPARISONS, *RANK_COMPARISONS):
        raise ValueError(
            f"pair_weights are not defined for compare={compare!r}; only for mse, atanh, pearson "
            "and cosine"
        )
    tensor = _validate.from_array(weights, "pair_weights")
    if tensor.requires_grad:
        raise ValueError("pair_weights require a gradient, but they are data; detach them")
    tensor = _validate.floats(tensor, "pair_weights", ndim=1 if tensor.ndim == 1 else 2)
    _validate.readable_from(tensor, "pair_weights", device)
    expected = (count * (count - 1) // 2,) if tensor.ndim == 1 else (count, count)
    if tuple(tensor.shape) != expected:
        raise ValueError(
            f"pair_weights has shape {_validate.shape_of(tensor)}; expected {expected}"
        )
    return tensor


def _check_comparison(compare: str, metric: str, other_metric: str, count: int) -> None:
    if compare in ("cka", "cka_debiased"):
        for name in (metric, other_metric):
            if name in DISTANCES:
                raise ValueError(
                    f"compare={compare!r} compares similarities, but a metric is {name!r}; use "
                    "whitened_cosine for distances"
                )
    if compare == "atanh" and not {metric, other_metric}.isdisjoint(DISTANCES):
        raise ValueError(
            f"compare='atanh' is defined for similarities from -1 to 1, but the metrics are "
            f"{metric!r} and {other_metric!r}"
        )
    if compare == "cka_debiased" and count < 4:
        raise ValueError(f"compare='cka_debiased' needs at least 4 rows; got {count}")


def _check_form(
    form: str,
    compare: str,
    patterns: Tensor,
    scoring: Scoring,
    target: Similarities,
    weights: Tensor | None,
) -> None:
    _validate.one_of(form, "form", _FORMS)
    if form == "feature":
        w = None if weights is None else _comparison.side(weights, "similarity", Scoring("dot"))
        side = _comparison.side(patterns, "responses", scoring)
        _check_feature_form(compare, Comparison(patterns.shape[0], side, target, w))


def _check_feature_form(compare: str, comparison: Comparison) -> None:
    if compare in (*DIFFERENCES, *RANK_COMPARISONS) or not _feature_form.possible(comparison):
        raise ValueError(
            f"form='feature' is not possible with compare={compare!r} and these arguments: it needs "
            "responses on both sides, bilinear metrics, no pair weights, and a comparison other "
            f"than {', '.join((*DIFFERENCES, *RANK_COMPARISONS))}; use form='auto'"
        )
