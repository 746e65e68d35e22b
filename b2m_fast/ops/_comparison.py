"""How a comparison of two similarity matrices, and its gradient, follow from sums over the pairs.

Every comparison but atanh and the rank correlations is a function of the first and second moments
of the scores (c, t) and, where matrices are centred, of their row sums. Its gradient is then linear
in the scores:

    dL/dc_ij = w_ij (constant + of_c c'_ij + of_t t'_ij) + per_item_i + per_item_j,   i < j,

c' and t' being the scores minus a shift near their mean, which keeps centred moments from
cancelling. A forward pass gathers the sums and works out the value and these coefficients (the
"recipe"); the backward pass only applies them. Sums and gradient come from the tile engine ("pair"
form) or, for scores that are dot products, from matrix products in feature space ("feature" form,
`_feature_form`): the same numbers, whichever way is cheaper.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from . import _engine, _feature_form
from ._engine import DISTANCES, Comparison, PairMoments, Scoring, Similarities

DIFFERENCES = ("mse", "atanh")
MATRIX_COMPARISONS = ("cka", "cka_debiased", "whitened_cosine")
COMPARISONS = (*DIFFERENCES, "pearson", "cosine", *MATRIX_COMPARISONS)

# c_shift, t_shift, constant, of_c, of_t, and whether the sums came from feature space.
_COEFFICIENTS = 6

# A centred side counts as zero where its norm is at most this many eps of what centring removed.
_ROUNDING_ERRORS = 8


def side(data: Tensor, kind: str, scoring: Scoring) -> Similarities:
    """Make one side: patterns ("responses"), or stored scores ("similarity"; a vector is condensed)."""
    if data.ndim == 1:
        return Similarities(data, "condensed", scoring)
    return Similarities(data, "patterns" if kind == "responses" else "matrix", scoring)


def between(c: Similarities, t: Similarities, w: Similarities | None, items: int) -> Comparison:
    """Make the comparison of two sides, computed in the precision of c.

    Patterns of t are brought to that precision first: their scores with one another come from the
    tile engine, those with themselves from elsewhere, and both must round alike.
    """
    doubles = (c.data.dtype == torch.float64, t.data.dtype == torch.float64)
    if t.kind == "patterns" and doubles[0] != doubles[1]:
        t = t._replace(data=t.data.to(torch.float64 if doubles[0] else torch.float32))
    return Comparison(items, c, t, w)


def problem(
    features: Tensor,
    target: Tensor,
    pair_weights: Tensor | None,
    scoring: Scoring,
    target_kind: str,
    target_scoring: Scoring,
) -> Comparison:
    """Make the comparison of patterns with a target."""
    w = None if pair_weights is None else side(pair_weights, "similarity", Scoring("dot"))
    c, t = side(features, "responses", scoring), side(target, target_kind, target_scoring)
    return between(c, t, w, features.shape[0])


class Recipe(NamedTuple):
    """Coefficients of the gradient of a value that is linear in the scores."""

    constant: float
    of_c: float
    of_t: float
    per_item: Tensor | None = None
    diagonal: Tensor | None = None  # gradient of c_ii itself


_NO_GRADIENT = Recipe(0.0, 0.0, 0.0)


def recipe_size(compare: str, count: int) -> int:
    """Length of the tensor `penalty` returns for the backward pass."""
    if compare == "atanh":
        return 1
    return _COEFFICIENTS + (2 * count if compare in MATRIX_COMPARISONS else 0)


def penalty(
    comparison: Comparison, compare: str, epsilon: float, form: str
) -> tuple[float, Tensor]:
    """Value of the penalty and the recipe of its gradient, packed in a float64 vector."""
    if compare in DIFFERENCES:
        weight, total = _engine.squared_difference(
            comparison, atanh=compare == "atanh", epsilon=epsilon
        )
        value, scale = (total / weight, 1 / weight) if weight != 0 else (total * 0.0, 0.0)
        if compare == "atanh":
            return value, torch.tensor([scale], dtype=torch.float64)
        return value, torch.tensor([0, 0, 0, 2 * scale, -2 * scale, 0], dtype=torch.float64)
    moments, in_features, similarity, recipe = _correlate(comparison, compare, form)
    packed = torch.zeros(recipe_size(compare, comparison.items), dtype=torch.float64)
    # The penalty is 1 - similarity.
    packed[:_COEFFICIENTS] = torch.tensor(
        [
            moments.c_shift,
            moments.t_shift,
            -recipe.constant,
            -recipe.of_c,
            -recipe.of_t,
            in_features,
        ],
        dtype=torch.float64,
    )
    if recipe.per_item is not None and recipe.diagonal is not None:
        packed[_COEFFICIENTS:] = -torch.cat([recipe.per_item, recipe.diagonal])
    return 1 - similarity, packed


def score(comparison: Comparison, compare: str, epsilon: float, form: str) -> float:
    """Value of a comparison: a correlation, or a difference for mse and atanh."""
    if compare in DIFFERENCES:
        return penalty(comparison, compare, epsilon, form)[0]
    return _correlate(comparison, compare, form)[2]


def penalty_backward(
    comparison: Comparison, compare: str, epsilon: float, recipe: Tensor, grad: float
) -> Tensor:
    """Gradient of the patterns of c."""
    if compare == "atanh":
        return _engine.atanh_backward(comparison, epsilon, grad * float(recipe[0]))
    c_shift, t_shift, constant, of_c, of_t, in_features = recipe[:_COEFFICIENTS].tolist()
    coefficients = (c_shift, t_shift, grad * constant, grad * of_c, grad * of_t)
    per_item = diagonal = None
    if compare in MATRIX_COMPARISONS:
        per_item, diagonal = (grad * recipe[_COEFFICIENTS:]).reshape(2, -1).contiguous()
    if in_features:
        return _feature_form.linear_backward(comparison, coefficients, per_item, diagonal)
    return _engine.linear_backward(comparison, coefficients, per_item, diagonal)


def _in_feature_space(comparison: Comparison, compare: str, form: str) -> bool:
    """Whether to compute in feature space; `form` was checked to be possible."""
    if compare in DIFFERENCES or not _feature_form.possible(comparison):
        return False
    return form == "feature" or (form == "auto" and _feature_form.cheaper(comparison))


def _correlate(
    comparison: Comparison, compare: str, form: str
) -> tuple[PairMoments, bool, float, Recipe]:
    """Moments, whether from feature space, similarity, and the gradient of the similarity."""
    centred = compare != "cosine"
    matrices = compare in MATRIX_COMPARISONS
    moments = None
    if _in_feature_space(comparison, compare, form):
        feature = _feature_form.pair_moments(comparison, row_sums=matrices)
        if form == "feature" or not feature.cancel(comparison.c.data.dtype, centred=centred):
            moments = feature.moments
    in_features = moments is not None
    if moments is None:
        moments = _engine.pair_moments(comparison, shifted=centred, row_sums=matrices)
    eps = torch.finfo(torch.float64 if _is_double(comparison) else torch.float32).eps
    if matrices:
        similarity, recipe = _matrix_cosine(comparison, compare, moments, _ROUNDING_ERRORS * eps)
    elif compare == "cosine":
        similarity, recipe = _cosine(moments)
    else:
        similarity, recipe = _pearson(moments, _ROUNDING_ERRORS * eps)
    return moments, in_features, similarity, recipe


def _is_double(comparison: Comparison) -> bool:
    return comparison.c.data.dtype == torch.float64


def _is_zero(square: float, zero_square: float) -> bool:
    return square <= zero_square  # False for NaN


def _cosine(m: PairMoments) -> tuple[float, Recipe]:
    """S = sum w c t / sqrt(sum w c^2 sum w t^2)."""
    if _is_zero(m.wcc, 0.0) or _is_zero(m.wtt, 0.0):
        return 0.0, _NO_GRADIENT
    inverse_norms = 1 / (math.sqrt(m.wcc) * math.sqrt(m.wtt))
    similarity = m.wct * inverse_norms
    return similarity, Recipe(0.0, of_c=-similarity / m.wcc, of_t=inverse_norms)


def _pearson(m: PairMoments, rounding: float) -> tuple[float, Recipe]:
    """Cosine of the scores minus their weighted means."""
    if m.w == 0:
        return 0.0, _NO_GRADIENT
    c_mean, t_mean = m.wc / m.w, m.wt / m.w  # of the shifted scores
    cc, tt = m.wcc - m.wc * c_mean, m.wtt - m.wt * t_mean
    ct = m.wct - m.wc * t_mean
    c_zero = m.w * (rounding * (m.c_shift + c_mean)) ** 2
    t_zero = m.w * (rounding * (m.t_shift + t_mean)) ** 2
    if _is_zero(cc, c_zero) or _is_zero(tt, t_zero):
        return 0.0, _NO_GRADIENT
    inverse_norms = 1 / (math.sqrt(cc) * math.sqrt(tt))
    similarity = ct * inverse_norms
    of_c = -similarity / cc
    constant = -(inverse_norms * t_mean + of_c * c_mean)
    return similarity, Recipe(constant, of_c, of_t=inverse_norms)


class _Centred(NamedTuple):
    """Row sums of a matrix and what centring subtracts: a_ij - row_i - row_j + mean."""

    row: Tensor
    mean: float
    diagonal: Tensor  # of the centred matrix


def _matrix_cosine(
    comparison: Comparison, compare: str, m: PairMoments, rounding: float
) -> tuple[float, Recipe]:
    """Cosine of two centred matrices: double-centred with their diagonals, or U-centred without.

    <HCH, HTH> = sum_ij c_ij t_ij - 2/n sum_i C_i T_i + C T / n^2 with row sums C_i and total C;
    for U-centring (Song et al. 2012) n and n^2 become n - 2 and (n - 1)(n - 2), and no diagonal.
    A shift of all entries of c or t changes neither.
    """
    n = comparison.items
    if n == 0:
        return 0.0, _NO_GRADIENT
    debiased = compare == "cka_debiased"
    per_row, per_total = (n - 2, (n - 1) * (n - 2)) if debiased else (n, n * n)
    c_diagonal = (
        _diagonal(comparison.c, m.c_shift, n) if not debiased else torch.zeros_like(m.c_row)
    )
    t_diagonal = (
        _diagonal(comparison.t, m.t_shift, n) if not debiased else torch.zeros_like(m.t_row)
    )
    c_row, t_row = m.c_row + c_diagonal, m.t_row + t_diagonal
    c_total, t_total = float(c_row.sum()), float(t_row.sum())

    def inner(pairs: float, a: Tensor, b: Tensor, rows: float, totals: float) -> float:
        return 2 * pairs + float(a @ b) - 2 / per_row * rows + totals / per_total

    cc = inner(m.wcc, c_diagonal, c_diagonal, float(c_row @ c_row), c_total * c_total)
    tt = inner(m.wtt, t_diagonal, t_diagonal, float(t_row @ t_row), t_total * t_total)
    ct = inner(m.wct, c_diagonal, t_diagonal, float(c_row @ t_row), c_total * t_total)
    c_size = _size(m.w, m.wcc, m.wc, m.c_shift, c_diagonal, debiased)
    t_size = _size(m.w, m.wtt, m.wt, m.t_shift, t_diagonal, debiased)
    if _is_zero(cc, rounding**2 * c_size) or _is_zero(tt, rounding**2 * t_size):
        return 0.0, _NO_GRADIENT
    sign = 1.0
    if compare == "whitened_cosine":
        distances = [s.scoring.metric in DISTANCES for s in (comparison.c, comparison.t)]
        sign = -1.0 if distances[0] != distances[1] else 1.0
    inverse_norms = sign / (math.sqrt(cc) * math.sqrt(tt))
    similarity = ct * inverse_norms
    # Of an entry of C: inverse_norms T~_ij - similarity / cc C~_ij; a pair stands for two entries.
    of_c, of_t = -similarity / cc, inverse_norms
    mean = (of_t * t_total + of_c * c_total) / per_total
    row = (of_t * t_row + of_c * c_row) / per_row
    diagonal = torch.zeros_like(row)
    if comparison.c.scoring.metric == "dot" and comparison.c.kind == "patterns" and not debiased:
        # Every other metric has a constant score with itself.
        diagonal = of_t * t_diagonal + of_c * c_diagonal - 2 * row + mean
    return similarity, Recipe(2 * mean, 2 * of_c, 2 * of_t, per_item=-2 * row, diagonal=diagonal)


def _diagonal(side_: Similarities, shift: float, count: int) -> Tensor:
    """Scores of the items with themselves, minus the shift; (n,) float64."""
    if side_.kind == "patterns":
        scores = _engine.self_scores(side_.data, side_.scoring)
    elif side_.kind == "matrix":
        scores = side_.data.diagonal().to(torch.float64)
    else:
        own = 0.0 if side_.scoring.metric in DISTANCES else 1.0
        scores = torch.full((count,), own, dtype=torch.float64)
    return scores - shift


def _size(
    pairs: float, squares: float, total: float, shift: float, diagonal: Tensor, debiased: bool
) -> float:
    """Squared norm of a matrix before centring."""
    size = 2 * (squares + 2 * shift * total + pairs * shift * shift)
    return size if debiased else size + float((diagonal + shift).square().sum())
