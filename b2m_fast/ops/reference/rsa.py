"""Representational similarity analysis: compare what two sets of patterns say about all pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .matrix_comparison import DISTANCE_OF_MATRICES, compared
from .similarity import computing_dtype, formula_of, similarity_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    Target = Tensor | npt.NDArray[np.floating[Any]]
    Center = bool | Tensor


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
    gamma: float | Tensor | None = None,
    layer_weights: Tensor | None = None,
    pair_weights: Target | None = None,
    epsilon: float = 1e-5,
    form: str = "auto",
) -> Tensor:
    """Penalise features whose similarities c_ij differ from those of the target, t_ij.

    ================  ==============================================================================
    mse               sum w (c - t)^2 / sum w
    atanh             sum w (F(c) - F(t))^2 / sum w, F(x) = [log(1 + x + e) - log(1 - x + e)] / 2
    pearson, corr     1 - weighted Pearson correlation of c and t
    cosine            1 - weighted cosine of c and t
    cka               1 - <HCH, HTH> / (|HCH| |HTH|), H = I - 11'/n, C and T with their diagonals
    cka_debiased      the same with the unbiased HSIC, n >= 4
    whitened_cosine   1 - <HDH, HD'H> / (|HDH| |HD'H|), D and D' the distances of both sides
    ================  ==============================================================================

    Sums run over the pairs i < j; w_ij are the pair weights, e is epsilon.

    Parameters
    ----------
    features
        (n, d), any float dtype; or several layers [(n, d_1), ...], whose similarities are mixed:
        c = sum_k g_k c^k; bilinear metrics only.
    target
        Responses (n, k), or a similarity matrix (n, n) of which the diagonal and the part above it
        are read, or its condensed vector (n(n-1)/2,); tensor or NumPy array, memory maps included.
    compare
        A row of the table.
    metric
        c_ij = metric(features_i, features_j), as in `pairwise_similarity`.
    target_metric
        The same for the target, `metric` by default. For a target given as similarities it tells
        whether they are similarities or distances.
    target_kind
        "responses" or "similarity"; a vector is always taken for a condensed similarity, with a
        diagonal of 1, or 0 for distances.
    center, target_center
        True to subtract the mean pattern of the n rows, the gradient going through it; a tensor
        (d,) to subtract that; for a list of layers also a list of such tensors.
    gamma
        Width of "rbf", by default 1/d on either side.
    layer_weights
        (L,): g_k, 1/L by default.
    pair_weights
        (n, n), of which the part above the diagonal is read, or condensed; 1 by default. For mse,
        atanh, pearson and cosine only.
    epsilon
        e of atanh, which keeps F finite at similarities of 1 and -1.
    form
        How an engine computes the number; without meaning here.

    Returns
    -------
    Tensor
        Scalar; float64 for float64 features, else float32.

    Notes
    -----
    A side of zero variance (pearson) or zero norm (cosine, cka, cka_debiased, whitened_cosine) has
    correlation 0 and gradient 0. A centred side is zero where its norm is at most 8 eps times the
    norm of what centring removed, or of the uncentred matrix: rounding error. A mean of total
    weight 0 is 0.

    whitened_cosine equals cka but for the sign where one side is a similarity and the other a
    distance, because H removes the diagonal terms of D_ij = (s_ii + s_jj)/2 - s_ij.

    Code released with atanh penalties takes F without the 1/2, so its loss is 4 times this one.

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
    del form
    layers = [features] if isinstance(features, Tensor) else list(features)
    dtype = computing_dtype(layers[0])
    layers = [layer.to(dtype) for layer in layers]
    centers = [center] * len(layers) if isinstance(center, bool | Tensor) else list(center)
    if layer_weights is None:
        layer_weights = layers[0].new_full((len(layers),), 1 / len(layers))
    shares = layer_weights.to(dtype)
    similarity = sum(
        (
            share * _matrix(layer, "responses", metric, layer_center, gamma)
            for share, layer, layer_center in zip(shares, layers, centers, strict=True)
        ),
        start=layers[0].new_zeros(()),
    )
    target_metric = target_metric or metric
    value = compared(
        similarity,
        _matrix(_as_tensor(target, similarity), target_kind, target_metric, target_center, gamma),
        compare=compare,
        x_is_distance=formula_of(metric).distance,
        y_is_distance=formula_of(target_metric).distance,
        pair_weights=None if pair_weights is None else _as_tensor(pair_weights, similarity),
        epsilon=epsilon,
    )
    return value if compare in DISTANCE_OF_MATRICES else 1 - value


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
    gamma: float | Tensor | None = None,
    pair_weights: Target | None = None,
    epsilon: float = 1e-5,
    form: str = "auto",
) -> Tensor:
    """Compare the similarities of x with those of y, over all pairs i < j.

    mse and atanh are those of `rsa_penalty`; pearson (or corr), cosine, cka, cka_debiased and
    whitened_cosine are the correlations, 1 less those penalties. Rank correlations of the P pairs,
    without pair weights and without gradient, from ranks r and s (ties take the average rank),
    S = #concordant - #discordant pairs of pairs, Q = P(P-1)/2, and Q_x, Q_y the pairs of pairs that
    are not tied in x, in y:

    =============== =========================================================
    spearman        Pearson correlation of r and s
    rho-a           12 sum (r - mean r)(s - mean s) / (P^3 - P)
    tau-a           S / Q
    kendall, tau-b  S / sqrt(Q_x Q_y)
    =============== =========================================================

    Parameters
    ----------
    x, y
        Responses (n, d) and (n, k), or similarities as `target` of `rsa_penalty`.
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

    Notes
    -----
    A side without variance has correlation 0 with everything.

    References
    ----------
    Nili et al. 2014 (tau-a); Schütt et al. 2023 (rho-a); names as in rsatoolbox.

    Examples
    --------
    >>> x = torch.tensor([0.1, 0.5, 0.9])
    >>> rsa_score(x, x.square(), compare="spearman", x_kind="similarity", y_kind="similarity")
    tensor(1.)
    """
    del form
    y_metric = y_metric or metric
    x, y = (s if isinstance(s, Tensor) else torch.tensor(s) for s in (x, y))
    like = x.new_empty(0, dtype=torch.promote_types(computing_dtype(x), computing_dtype(y)))
    return compared(
        _matrix(_as_tensor(x, like), x_kind, metric, center, gamma),
        _matrix(_as_tensor(y, like), y_kind, y_metric, y_center, gamma),
        compare=compare,
        x_is_distance=formula_of(metric).distance,
        y_is_distance=formula_of(y_metric).distance,
        pair_weights=None if pair_weights is None else _as_tensor(pair_weights, like),
        epsilon=epsilon,
    )


def _as_tensor(values: Target, like: Tensor) -> Tensor:
    """Return the values with the dtype and device of a tensor."""
    if not isinstance(values, Tensor):
        values = torch.tensor(values)  # a copy: torch wants no view of a read-only memory map
    return values.to(like)


def _matrix(
    values: Tensor, kind: str, metric: str, center: Center, gamma: float | Tensor | None
) -> Tensor:
    """Return the full matrix of similarities, diagonal included, from either kind of source."""
    if values.ndim == 1:
        return _from_condensed(values, 0.0 if formula_of(metric).distance else 1.0)
    if kind == "similarity":
        above = values.triu(diagonal=1)
        return above + above.T + values.diagonal().diag()
    if isinstance(center, Tensor):
        values = values - center.to(values)
    elif center:
        values = values - values.mean(dim=0)
    return similarity_matrix(values, values, metric, gamma)


def _from_condensed(condensed: Tensor, diagonal: float) -> Tensor:
    """Return the symmetric matrix with these entries i < j, row-major, and this diagonal."""
    n = round((1 + (1 + 8 * len(condensed)) ** 0.5) / 2)
    i, j = torch.triu_indices(n, n, offset=1, device=condensed.device)
    matrix = condensed.new_full((n, n), diagonal)
    matrix[i, j] = condensed
    matrix[j, i] = condensed
    return matrix
