"""How a comparison of two similarity matrices, and its gradient, follow from sums over the pairs.

Every comparison but atanh and the rank correlations is a function of the first and second moments
of the scores (c, t) and, where matrices are centred, of their row sums. Its gradient is then linear
in the scores:

    dL/dc_ij = w_ij (constant + of_c c'_ij + of_t t'_ij) + per_item_i + per_item_j,   i < j,

c' and t' being the scores minus a shift near their mean, which keeps centred moments from
cancelling. A forward pass gathers the sums and works out the value and these coefficients (the
"recipe"); the backward pass only applies them. Sums and gradient come from the tile engine ("pair"
form) or, for scores that are dot products, from matrix products in feature space ("feature" form,
`_feature_form`): the same numbers, whichever way is cheaper. Numbers stay on the device that made
them (`_scalars`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import _feature_form
from ._engine import engine_of, may_wait
from ._problems import DISTANCES, Comparison, PairMoments, Scoring, Similarities
from ._scalars import Condition, Scalar, sqrt, to_vector, where

DIFFERENCES = ("mse", "atanh")
MATRIX_COMPARISONS = ("cka", "cka_debiased", "whitened_cosine")
COMPARISONS = (*DIFFERENCES, "pearson", "cosine", *MATRIX_COMPARISONS)

# c_shift, t_shift, constant, of_c, of_t, and where the sums came from.
_COEFFICIENTS = 6
_PAIRS, _FEATURES, _SINGLE_FEATURES = 0.0, 1.0, 2.0  # the last by products in float32

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


def recipe_size(compare: str, count: int) -> int:
    """Length of the tensor `penalty` returns for the backward pass."""
    if compare == "atanh":
        return 1
    return _COEFFICIENTS + (2 * count if compare in MATRIX_COMPARISONS else 0)


def penalty(
    comparison: Comparison, compare: str, epsilon: float, form: str
) -> tuple[Scalar, Tensor]:
    """Value of the penalty and the recipe of its gradient, packed in a float64 vector."""
    device = comparison.device
    if compare in DIFFERENCES:
        weight, total = engine_of(device).squared_difference(
            comparison, atanh=compare == "atanh", epsilon=epsilon
        )
        is_zero = weight == 0
        scale = where(is_zero, 0.0, 1 / where(is_zero, 1.0, weight))
        value = total * scale
        if compare == "atanh":
            return value, to_vector([scale], device)
        return value, to_vector([0.0, 0.0, 0.0, 2 * scale, -2 * scale, 0.0], device)
    moments, source, similarity, recipe = _correlate(comparison, compare, form)
    # The penalty is 1 - similarity.
    packed = to_vector(
        [
            moments.c_shift,
            moments.t_shift,
            -recipe.constant,
            -recipe.of_c,
            -recipe.of_t,
            source,
        ],
        device,
    )
    if compare in MATRIX_COMPARISONS:
        if recipe.per_item is None or recipe.diagonal is None:  # no items
            packed = packed.new_zeros(recipe_size(compare, comparison.items))
        else:
            packed = torch.cat([packed, -recipe.per_item, -recipe.diagonal])
    return 1 - similarity, packed


def score(comparison: Comparison, compare: str, epsilon: float, form: str) -> Scalar:
    """Value of a comparison: a correlation, or a difference for mse and atanh."""
    if compare in DIFFERENCES:
        return penalty(comparison, compare, epsilon, form)[0]
    return _correlate(comparison, compare, form)[2]


def penalty_backward(
    comparison: Comparison, compare: str, epsilon: float, form: str, recipe: Tensor, grad: Tensor
) -> Tensor:
    """Gradient of the patterns of c, for the gradient `grad` of the penalty."""
    engine = engine_of(comparison.device)
    by = engine.scalar(grad)
    if compare == "atanh":
        return engine.atanh_backward(comparison, epsilon, by * engine.scalar(recipe[0]))
    c_shift, t_shift, constant, of_c, of_t, source = engine.scalars(recipe[:_COEFFICIENTS])
    coefficients = (c_shift, t_shift, by * constant, by * of_c, by * of_t)
    per_item = diagonal = None
    if compare in MATRIX_COMPARISONS:
        per_item, diagonal = (by * recipe[_COEFFICIENTS:]).reshape(2, -1)
    # (Only where both forms are possible is it looked at: that means waiting for the device.)
    if _could_be_in_feature_space(comparison, compare, form) and (
        form == "feature" or bool(source != _PAIRS)
    ):
        single = comparison.device.type == "cpu" and source == _SINGLE_FEATURES
        return _feature_form.linear_backward(
            comparison, coefficients, per_item, diagonal, single=bool(single)
        )
    return engine.linear_backward(comparison, coefficients, per_item, diagonal)


def _could_be_in_feature_space(comparison: Comparison, compare: str, form: str) -> bool:
    """Whether the sums may come from feature space; `form` was checked to be possible.

    "auto" has to look at them before it takes them, which a CUDA graph cannot: there it means pairs.
    """
    if form == "pair" or compare in DIFFERENCES or not _feature_form.possible(comparison):
        return False
    return form == "feature" or (_feature_form.cheaper(comparison) and may_wait(comparison.device))


def _correlate(
    comparison: Comparison, compare: str, form: str
) -> tuple[PairMoments, float, Scalar, Recipe]:
    """Moments and where they came from, similarity, and the gradient of the similarity."""
    centred = compare != "cosine"
    matrices = compare in MATRIX_COMPARISONS
    moments, source = None, _PAIRS
    if _could_be_in_feature_space(comparison, compare, form):
        for single in [True, False] if _feature_form.single_allowed(comparison) else [False]:
            feature = _feature_form.pair_moments(comparison, row_sums=matrices, single=single)
            trusted = form == "feature" and not single
            if trusted or feature.hold(comparison.dtype, centred=centred):
                moments, source = feature.moments, _SINGLE_FEATURES if single else _FEATURES
                break
    if moments is None:
        moments = engine_of(comparison.device).pair_moments(
            comparison, shifted=centred, row_sums=matrices
        )
    rounding = _ROUNDING_ERRORS * torch.finfo(comparison.dtype).eps
    if matrices:
        similarity, recipe = _matrix_cosine(comparison, compare, moments, rounding)
    elif compare == "cosine":
        similarity, recipe = _cosine(moments)
    else:
        similarity, recipe = _pearson(moments, rounding)
    return moments, source, similarity, recipe


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


def _pearson(m: PairMoments, rounding: float) -> tuple[Scalar, Recipe]:
    """Cosine of the scores minus their weighted means."""
    weight = where(m.w == 0, 1.0, m.w)
    c_mean, t_mean = m.wc / weight, m.wt / weight  # of the shifted scores
    cc, tt = m.wcc - m.wc * c_mean, m.wtt - m.wt * t_mean
    ct = m.wct - m.wc * t_mean
    c_zero = m.w * (rounding * (m.c_shift + c_mean)) ** 2
    t_zero = m.w * (rounding * (m.t_shift + t_mean)) ** 2
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
