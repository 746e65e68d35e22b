"""How a comparison of two similarity matrices, and its gradient, follow from sums over the pairs.

Every comparison but atanh and the rank correlations is a function of the first and second moments
of the scores (c, t) and, where matrices are centred, of their row sums. Its gradient is then linear
in the scores:

    dL/dc_ij = w_ij (constant + of_c c'_ij + of_t t'_ij) + per_item_i + per_item_j,   i < j,

c' and t' being the scores minus a shift near their mean, which keeps centred moments from
cancelling. The sums are gathered first; value and these coefficients (the "recipe") are worked out
from them, and then the gradient is summed up. Sums and gradient come from the tile engine ("pair"
form) or, for scores that are dot products, from matrix products in feature space ("feature" form,
`_feature_form`): the same numbers, whichever way is cheaper. Numbers stay on the device that made
them (`_scalars`).

The gradient is computed with the value, where it will be wanted: atanh and mse, whose gradient needs
no sum first, then compute the scores once, and the feature form its products.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from . import _feature_form
from ._engine import engine_of, may_wait
from ._feature_form import FeatureSums
from ._problems import DISTANCES, Comparison, PairMoments, Scoring, Similarities
from ._scalars import Condition, Scalar, sqrt, to_tensor, where

DIFFERENCES = ("mse", "atanh")
MATRIX_COMPARISONS = ("cka", "cka_debiased", "whitened_cosine")
COMPARISONS = (*DIFFERENCES, "pearson", "cosine", *MATRIX_COMPARISONS)

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

    constant: Scalar
    of_c: Scalar
    of_t: Scalar
    per_item: Tensor | None = None
    diagonal: Tensor | None = None  # gradient of c_ii itself


def penalty(
    comparison: Comparison, compare: str, epsilon: float, form: str, *, with_gradient: bool
) -> tuple[Scalar, Tensor | None]:
    """Value of the penalty and, if wanted, its gradient for the patterns of c."""
    engine = engine_of(comparison.device)
    if compare in DIFFERENCES:
        return engine.mean_squared_difference(
            comparison, atanh=compare == "atanh", epsilon=epsilon, with_gradient=with_gradient
        )
    moments, features = _sums(comparison, compare, form)
    similarity, recipe = _similarity(comparison, compare, moments)
    if not with_gradient:
        return 1 - similarity, None
    coefficients = (moments.c_shift, moments.t_shift, -recipe.constant, -recipe.of_c, -recipe.of_t)
    per_item = None if recipe.per_item is None else -recipe.per_item
    diagonal = None if recipe.diagonal is None else -recipe.diagonal
    if features is not None:
        return 1 - similarity, features.linear_gradient(coefficients, per_item, diagonal)
    return 1 - similarity, engine.linear_gradient(comparison, coefficients, per_item, diagonal)


def score(comparison: Comparison, compare: str, epsilon: float, form: str) -> Scalar:
    """Value of a comparison: a correlation, or a difference for mse and atanh."""
    if compare in DIFFERENCES:
        return penalty(comparison, compare, epsilon, form, with_gradient=False)[0]
    moments, _ = _sums(comparison, compare, form)
    return _similarity(comparison, compare, moments)[0]


def _could_be_in_feature_space(comparison: Comparison, compare: str, form: str) -> bool:
    """Whether the sums may come from feature space; `form` was checked to be possible.

    "auto" has to look at them before it takes them, which a CUDA graph cannot: there it means pairs.
    """
    if form == "pair" or compare in DIFFERENCES or not _feature_form.possible(comparison):
        return False
    return form == "feature" or (_feature_form.cheaper(comparison) and may_wait(comparison.device))


def _sums(
    comparison: Comparison, compare: str, form: str
) -> tuple[PairMoments, FeatureSums | None]:
    """Moments, and what they were computed from in feature space, if they were."""
    centred, row_sums = compare != "cosine", compare in MATRIX_COMPARISONS
    if _could_be_in_feature_space(comparison, compare, form):
        for single in [True, False] if _feature_form.single_allowed(comparison) else [False]:
            features = FeatureSums(comparison, row_sums=row_sums, single=single)
            trusted = form == "feature" and not single
            if trusted or features.hold(centred=centred):
                return features.moments, features
    engine = engine_of(comparison.device)
    shifts = engine.typical_scores(comparison) if centred else (0.0, 0.0)
    moments = engine.pair_moments(comparison, shifts, row_sums=row_sums)
    if centred and comparison.w is not None:
        # The pairs that weigh most may lie far from where most pairs lie: about their own mean.
        shifts = _means(moments, comparison.dtype)
        moments = engine.pair_moments(comparison, shifts, row_sums=row_sums)
    return moments, None


def _means(m: PairMoments, dtype: torch.dtype) -> tuple[Scalar, Scalar]:
    """Weighted means of the scores, rounded to the dtype they are subtracted in."""

    def mean(shift: Scalar, total: Scalar) -> Scalar:
        exact = to_tensor(shift + total / where(m.w == 0, 1.0, m.w), torch.float64, m.c_row.device)
        rounded = exact.to(dtype).to(torch.float64)
        return rounded if isinstance(total, Tensor) else rounded.item()

    return mean(m.c_shift, m.wc), mean(m.t_shift, m.wt)


def _similarity(
    comparison: Comparison, compare: str, moments: PairMoments
) -> tuple[Scalar, Recipe]:
    """Similarity, and the recipe of its gradient."""
    rounding = _ROUNDING_ERRORS * torch.finfo(comparison.dtype).eps
    if compare in MATRIX_COMPARISONS:
        return _matrix_cosine(comparison, compare, moments, rounding)
    if compare == "cosine":
        return _cosine(moments)
    return _pearson(moments, rounding, one_pair=comparison.items <= 2)


def _either(first: Condition, second: Condition) -> Condition:
    return first | second


def _inverse_norms(cc: Scalar, tt: Scalar, is_zero: Condition) -> tuple[Scalar, Scalar]:
    """1 / (|c| |t|) and 1 / |c|^2, both 0 where a side counts as zero."""
    c_square, t_square = where(is_zero, 1.0, cc), where(is_zero, 1.0, tt)
    inverse_norms = 1 / (sqrt(c_square) * sqrt(t_square))
    return where(is_zero, 0.0, inverse_norms), where(is_zero, 0.0, 1 / c_square)


def _cosine(m: PairMoments) -> tuple[Scalar, Recipe]:
    """S = sum w c t / sqrt(sum w c^2 sum w t^2)."""
    is_zero = _either(m.wcc <= 0.0, m.wtt <= 0.0)  # False for NaN
    inverse_norms, inverse_square = _inverse_norms(m.wcc, m.wtt, is_zero)
    similarity = where(is_zero, 0.0, m.wct * inverse_norms)
    return similarity, Recipe(0.0, of_c=-similarity * inverse_square, of_t=inverse_norms)


def _pearson(m: PairMoments, rounding: float, *, one_pair: bool) -> tuple[Scalar, Recipe]:
    """Cosine of the scores minus their weighted means; of one pair at most nothing is left."""
    weight = where(m.w == 0, 1.0, m.w)
    c_mean, t_mean = m.wc / weight, m.wt / weight  # of the shifted scores
    cc, tt = m.wcc - m.wc * c_mean, m.wtt - m.wt * t_mean
    ct = m.wct - m.wc * t_mean
    c_zero = m.w * (rounding * (m.c_shift + c_mean)) ** 2
    t_zero = m.w * (rounding * (m.t_shift + t_mean)) ** 2
    if one_pair:  # anything but NaN
        c_zero, t_zero = math.inf, math.inf
    is_zero = _either(cc <= c_zero, tt <= t_zero)
    inverse_norms, inverse_square = _inverse_norms(cc, tt, is_zero)
    similarity = where(is_zero, 0.0, ct * inverse_norms)
    of_c = -similarity * inverse_square
    constant = -(inverse_norms * t_mean + of_c * c_mean)
    return similarity, Recipe(constant, of_c, of_t=inverse_norms)


def _matrix_cosine(
    comparison: Comparison, compare: str, m: PairMoments, rounding: float
) -> tuple[Scalar, Recipe]:
    """Cosine of two centred matrices: double-centred with their diagonals, or U-centred without.

    <HCH, HTH> = sum_ij c_ij t_ij - 2/n sum_i C_i T_i + C T / n^2 with row sums C_i and total C;
    for U-centring (Song et al. 2012) n and n^2 become n - 2 and (n - 1)(n - 2), and no diagonal.
    A shift of all entries of c or t changes neither.
    """
    n = comparison.items
    if n == 0:
        return 0.0, Recipe(0.0, 0.0, 0.0)
    scalar = engine_of(comparison.device).scalar
    debiased = compare == "cka_debiased"
    per_row, per_total = (n - 2, (n - 1) * (n - 2)) if debiased else (n, n * n)
    if debiased:
        c_diagonal, t_diagonal = torch.zeros_like(m.c_row), torch.zeros_like(m.t_row)
    else:
        c_diagonal = _diagonal(comparison, comparison.c, m.c_shift)
        t_diagonal = _diagonal(comparison, comparison.t, m.t_shift)
    c_row, t_row = m.c_row + c_diagonal, m.t_row + t_diagonal
    c_total, t_total = scalar(c_row.sum()), scalar(t_row.sum())

    def inner(pairs: Scalar, a: Tensor, b: Tensor, rows: Scalar, totals: Scalar) -> Scalar:
        return 2 * pairs + scalar(a @ b) - 2 / per_row * rows + totals / per_total

    cc = inner(m.wcc, c_diagonal, c_diagonal, scalar(c_row @ c_row), c_total * c_total)
    tt = inner(m.wtt, t_diagonal, t_diagonal, scalar(t_row @ t_row), t_total * t_total)
    ct = inner(m.wct, c_diagonal, t_diagonal, scalar(c_row @ t_row), c_total * t_total)
    c_size = _size(m.w, m.wcc, m.wc, m.c_shift)
    t_size = _size(m.w, m.wtt, m.wt, m.t_shift)
    if not debiased:
        c_size = c_size + scalar((c_diagonal + m.c_shift).square().sum())
        t_size = t_size + scalar((t_diagonal + m.t_shift).square().sum())
    is_zero = _either(cc <= rounding**2 * c_size, tt <= rounding**2 * t_size)
    sign = 1.0
    if compare == "whitened_cosine":
        distances = [s.scoring.metric in DISTANCES for s in (comparison.c, comparison.t)]
        sign = -1.0 if distances[0] != distances[1] else 1.0
    inverse_norms, inverse_square = _inverse_norms(cc, tt, is_zero)
    # Of an entry of C: of_t T~_ij + of_c C~_ij; a pair stands for two entries.
    of_t = sign * inverse_norms
    similarity = where(is_zero, 0.0, ct * of_t)
    of_c = -similarity * inverse_square
    mean = (of_t * t_total + of_c * c_total) / per_total
    row = (of_t * t_row + of_c * c_row) / per_row
    diagonal = torch.zeros_like(row)
    if comparison.c.scoring.metric == "dot" and comparison.c.kind == "patterns" and not debiased:
        # Every other metric has a constant score with itself.
        diagonal = of_t * t_diagonal + of_c * c_diagonal - 2 * row + mean
    return similarity, Recipe(2 * mean, 2 * of_c, 2 * of_t, per_item=-2 * row, diagonal=diagonal)


def _diagonal(comparison: Comparison, side_: Similarities, shift: Scalar) -> Tensor:
    """Scores of the items with themselves, minus the shift; (n,) float64."""
    device = comparison.device
    if side_.kind == "patterns":
        return engine_of(device).self_scores(side_.data, side_.scoring) - shift
    if side_.kind == "matrix":
        return side_.data.diagonal().to(device, torch.float64) - shift
    own = 0.0 if side_.scoring.metric in DISTANCES else 1.0
    return torch.full((comparison.items,), own, dtype=torch.float64, device=device) - shift


def _size(pairs: Scalar, squares: Scalar, total: Scalar, shift: Scalar) -> Scalar:
    """Squared norm of a matrix without its diagonal, before centring."""
    return 2 * (squares + 2 * shift * total + pairs * shift * shift)
