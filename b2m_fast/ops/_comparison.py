"""How a comparison of two similarity matrices, and its gradient, follow from sums over the pairs.

Every comparison but atanh and the rank correlations is a function of the first and second moments
of the scores (c, t) and, where matrices are centred, of their row sums. Its gradient is then linear
in the scores:

    dL/dc_ij = w_ij (constant + c_factor c'_ij + t_factor t'_ij) + per_item_i + per_item_j,   i < j,

c' and t' being the scores minus a shift near their mean, which keeps centred moments from
cancelling. The sums are gathered first; value and these coefficients are worked out from them, and
then the gradient is summed up. Sums and gradient come from the tile engine ("pair" form) or, for
scores that are dot products, from matrix products in feature space ("feature" form): the same
numbers, whichever way is cheaper. Numbers stay on the device that made them (`_types`).

The gradient is computed with the value, if it will be needed: atanh and mse, whose gradient needs
no sum first, then compute the scores once, and the feature form its products.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ._types import (
    DIFFERENCES,
    MATRIX_COMPARISONS,
    METRICS,
    Coefficients,
    Comparison,
    Condition,
    PairMoments,
    Scalar,
    Scoring,
    Similarities,
    sqrt,
    to_tensor,
    where,
)
from .engines.rows import CHUNK, blocks, prepared, through_preparation
from .engines.select import engine_of, may_wait

if TYPE_CHECKING:
    from collections.abc import Iterator

# A centred side counts as zero if its norm is at most this many eps of what centring removed.
_ROUNDING_ERRORS = 8


def side(data: Tensor, kind: str, scoring: Scoring) -> Similarities:
    """Make one side: patterns ("responses"), or stored scores ("similarity", or any vector)."""
    if data.ndim == 1:
        return Similarities(data, "condensed", scoring)
    return Similarities(data, "patterns" if kind == "responses" else "matrix", scoring)


def between(c: Similarities, t: Similarities, w: Similarities | None, items: int) -> Comparison:
    """Make the comparison of two sides, computed in the precision of c.

    Patterns of t are brought to that precision first: their scores with one another come from the
    tile engine, those with themselves from `_diagonal`, and both must round alike.
    """
    doubles = (c.data.dtype == torch.float64, t.data.dtype == torch.float64)
    if t.kind == "patterns" and doubles[0] != doubles[1]:
        t = t._replace(data=t.data.to(torch.float64 if doubles[0] else torch.float32))
    return Comparison(items, c, t, w)


def of_features(
    features: Tensor, target: Similarities, pair_weights: Tensor | None, scoring: Scoring
) -> Comparison:
    """Make the comparison of patterns with a target."""
    w = None if pair_weights is None else side(pair_weights, "similarity", Scoring("dot"))
    return between(side(features, "responses", scoring), target, w, features.shape[0])


class _LinearGradient(NamedTuple):
    """Coefficients of the gradient of a value that is linear in the scores."""

    constant: Scalar
    c_factor: Scalar
    t_factor: Scalar
    per_item: Tensor | None = None
    diagonal: Tensor | None = None  # gradient of c_ii itself


def penalty(
    comparison: Comparison, compare: str, epsilon: float, form: str, *, with_gradient: bool
) -> tuple[Scalar, Tensor | None]:
    """Return the value of the penalty and, if asked for, its gradient for the patterns of c."""
    engine = engine_of(comparison.device)
    if compare in DIFFERENCES:
        return engine.mean_squared_difference(
            comparison, atanh=compare == "atanh", epsilon=epsilon, with_gradient=with_gradient
        )
    moments, features = _sums(comparison, compare, form)
    similarity, linear = _similarity(comparison, compare, moments)
    if not with_gradient:
        return 1 - similarity, None
    shifts, factors = (moments.c_shift, moments.t_shift), (-linear.c_factor, -linear.t_factor)
    coefficients = (*shifts, -linear.constant, *factors)
    per_item = None if linear.per_item is None else -linear.per_item
    diagonal = None if linear.diagonal is None else -linear.diagonal
    if features is not None:
        return 1 - similarity, features.linear_gradient(coefficients, per_item, diagonal)
    return 1 - similarity, engine.linear_gradient(comparison, coefficients, per_item, diagonal)


def score(comparison: Comparison, compare: str, epsilon: float, form: str) -> Scalar:
    """Return the value of a comparison: a correlation, or a difference for mse and atanh."""
    if compare in DIFFERENCES:
        return penalty(comparison, compare, epsilon, form, with_gradient=False)[0]
    moments, _ = _sums(comparison, compare, form)
    return _similarity(comparison, compare, moments)[0]


def _may_use_feature_space(comparison: Comparison, compare: str, form: str) -> bool:
    """Return whether the sums may come from feature space; `form` was checked to be possible.

    "auto" has to look at them before it takes them, which a CUDA graph cannot: there it is "pair".
    """
    if form == "pair" or compare in DIFFERENCES or not feature_form_possible(comparison):
        return False
    return form == "feature" or (_feature_form_cheaper(comparison) and may_wait(comparison.device))


def _sums(
    comparison: Comparison, compare: str, form: str
) -> tuple[PairMoments, _FeatureSums | None]:
    """Return the moments, and what they were computed from in feature space, if they were."""
    centred, row_sums = compare != "cosine", compare in MATRIX_COMPARISONS
    if _may_use_feature_space(comparison, compare, form):
        for single in [True, False] if _single_allowed(comparison) else [False]:
            features = _FeatureSums(comparison, row_sums=row_sums, single=single)
            trusted = form == "feature" and not single
            if trusted or features.are_accurate(centred=centred):
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
    """Return the weighted means of the scores, rounded to the dtype they are subtracted in."""

    def mean(shift: Scalar, total: Scalar) -> Scalar:
        exact = to_tensor(shift + total / where(m.w == 0, 1.0, m.w), torch.float64, m.c_row.device)
        rounded = exact.to(dtype).to(torch.float64)
        return rounded if isinstance(total, Tensor) else rounded.item()

    return mean(m.c_shift, m.wc), mean(m.t_shift, m.wt)


def _similarity(
    comparison: Comparison, compare: str, moments: PairMoments
) -> tuple[Scalar, _LinearGradient]:
    """Return the similarity, and the coefficients of its gradient."""
    rounding = _ROUNDING_ERRORS * torch.finfo(comparison.dtype).eps
    if compare in MATRIX_COMPARISONS:
        return _matrix_cosine(comparison, compare, moments, rounding)
    if compare == "cosine":
        return _cosine(moments)
    return _pearson(moments, rounding, one_pair=comparison.items <= 2)


def _inverse_norms(cc: Scalar, tt: Scalar, is_zero: Condition) -> tuple[Scalar, Scalar]:
    """Return 1 / (|c| |t|) and 1 / |c|^2, both 0 where a side counts as zero."""
    c_square, t_square = where(is_zero, 1.0, cc), where(is_zero, 1.0, tt)
    inverse_norms = 1 / (sqrt(c_square) * sqrt(t_square))
    return where(is_zero, 0.0, inverse_norms), where(is_zero, 0.0, 1 / c_square)


def _cosine(m: PairMoments) -> tuple[Scalar, _LinearGradient]:
    """Return S = sum w c t / sqrt(sum w c^2 sum w t^2)."""
    is_zero = (m.wcc <= 0.0) | (m.wtt <= 0.0)  # False for NaN
    inverse_norms, inverse_square = _inverse_norms(m.wcc, m.wtt, is_zero)
    similarity = where(is_zero, 0.0, m.wct * inverse_norms)
    return similarity, _LinearGradient(
        0.0, c_factor=-similarity * inverse_square, t_factor=inverse_norms
    )


def _pearson(m: PairMoments, rounding: float, *, one_pair: bool) -> tuple[Scalar, _LinearGradient]:
    """Return the cosine of the scores minus their weighted means; 0 for one pair or none."""
    weight = where(m.w == 0, 1.0, m.w)
    c_mean, t_mean = m.wc / weight, m.wt / weight  # of the shifted scores
    cc, tt = m.wcc - m.wc * c_mean, m.wtt - m.wt * t_mean
    ct = m.wct - m.wc * t_mean
    c_zero = m.w * (rounding * (m.c_shift + c_mean)) ** 2
    t_zero = m.w * (rounding * (m.t_shift + t_mean)) ** 2
    if one_pair:  # anything but NaN
        c_zero, t_zero = math.inf, math.inf
    is_zero = (cc <= c_zero) | (tt <= t_zero)
    inverse_norms, inverse_square = _inverse_norms(cc, tt, is_zero)
    similarity = where(is_zero, 0.0, ct * inverse_norms)
    c_factor = -similarity * inverse_square
    constant = -(inverse_norms * t_mean + c_factor * c_mean)
    return similarity, _LinearGradient(constant, c_factor, t_factor=inverse_norms)


def _matrix_cosine(
    comparison: Comparison, compare: str, m: PairMoments, rounding: float
) -> tuple[Scalar, _LinearGradient]:
    """Return the cosine of two centred matrices: double-centred, or U-centred without diagonals.

    <HCH, HTH> = sum_ij c_ij t_ij - 2/n sum_i C_i T_i + C T / n^2 with row sums C_i and total C;
    for U-centring (Song et al. 2012) n and n^2 become n - 2 and (n - 1)(n - 2), and no diagonal.
    A shift of all entries of c or t changes neither.
    """
    n = comparison.items
    if n == 0:
        return 0.0, _LinearGradient(0.0, 0.0, 0.0)
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
    is_zero = (cc <= rounding**2 * c_size) | (tt <= rounding**2 * t_size)
    sign = 1.0
    if compare == "whitened_cosine":
        distances = [METRICS[s.scoring.metric].distance for s in (comparison.c, comparison.t)]
        sign = -1.0 if distances[0] != distances[1] else 1.0
    inverse_norms, inverse_square = _inverse_norms(cc, tt, is_zero)
    # Of an entry of C: t_factor T~_ij + c_factor C~_ij; a pair stands for two entries.
    t_factor = sign * inverse_norms
    similarity = where(is_zero, 0.0, ct * t_factor)
    c_factor = -similarity * inverse_square
    mean = (t_factor * t_total + c_factor * c_total) / per_total
    row = (t_factor * t_row + c_factor * c_row) / per_row
    diagonal = torch.zeros_like(row)
    lengths_count = METRICS[comparison.c.scoring.metric].lengths_count
    if lengths_count and comparison.c.kind == "patterns" and not debiased:
        # Every other metric has a constant score with itself.
        diagonal = t_factor * t_diagonal + c_factor * c_diagonal - 2 * row + mean
    return similarity, _LinearGradient(
        2 * mean, 2 * c_factor, 2 * t_factor, per_item=-2 * row, diagonal=diagonal
    )


def _diagonal(comparison: Comparison, side_: Similarities, shift: Scalar) -> Tensor:
    """Return the scores of the items with themselves, minus the shift; (n,) float64."""
    device = comparison.device
    if side_.kind == "patterns":
        return engine_of(device).self_scores(side_.data, side_.scoring) - shift
    if side_.kind == "matrix":
        return side_.data.diagonal().to(device, torch.float64) - shift
    itself = 0.0 if METRICS[side_.scoring.metric].distance else 1.0
    return torch.full((comparison.items,), itself, dtype=torch.float64, device=device) - shift


def _size(pairs: Scalar, squares: Scalar, total: Scalar, shift: Scalar) -> Scalar:
    """Return the squared norm of a matrix without its diagonal, before centring."""
    return 2 * (squares + 2 * shift * total + pairs * shift * shift)


# ------------------------------------------------------------------------ feature space

# For scores that are dot products of prepared rows, c_ij = z_i . z_j and t_ij = u_i . u_j,
#
#     sum_ij c_ij t_ij = |Z'U|^2,   sum_ij c_ij^2 = |Z'Z|^2,   sum_j c_ij = z_i . sum_j z_j
#
# (Frobenius norms), so the moments of n (n - 1) / 2 pairs cost n (d^2 + d k + k^2) instead of
# n^2 (d + k) multiplications, and the gradient likewise. Known for linear CKA (Kornblith et al.
# 2019, section 3); the other comparisons follow once the diagonal is taken out. All in float64,
# since the means of the scores are subtracted only afterwards; rows are prepared in chunks.
#
# Where float32 may lose a little ("high", see `_single_allowed`) the products of a chunk are in
# float32, which takes half the time; their sums stay float64, and where too much of them cancels
# they are not taken.

# Prepared values (64 MiB) up to which they are kept for the passes that follow.
_KEPT = 2**23

# What must be left of a sum over all entries after its diagonal and its mean are taken out, by the
# dtype of the result: for products in float64 (eps 2.2e-16) to keep as many digits of it as the
# tile engine would, and for products in float32 (errors of about 1e-7) to keep five of a gradient.
_LEFT_OVER = {torch.float64: 1e-2, torch.float32: 1e-7}
_LEFT_OVER_OF_SINGLE = 1e-2

# Norms that float32 can divide by without loss.
_ORDINARY = (1e-30, 1e30)


def feature_form_possible(comparison: Comparison) -> bool:
    """Return whether both sides are patterns of a bilinear metric, and pairs count the same."""
    sides = (comparison.c, comparison.t)
    return comparison.w is None and all(s.kind == "patterns" and s.scoring.bilinear for s in sides)


def _single_allowed(comparison: Comparison) -> bool:
    """Return whether products may be float32: on the CPU, if torch's setting is "high".

    (Whether they keep enough digits has to be looked at, for which a device would have to be waited
    for; and "medium" would make bfloat16 products of torch's own.)
    """
    return (
        comparison.device.type == "cpu"
        and comparison.dtype == torch.float32
        and torch.get_float32_matmul_precision() == "high"
    )


def _feature_form_cheaper(comparison: Comparison) -> bool:
    """Return whether it has fewer multiplications; float64 counts double if pairs use float32.

    Those of value and gradient, even for the value alone: it has the same bits either way.
    """
    n, d, k = comparison.items, comparison.c.data.shape[1], comparison.t.data.shape[1]
    precision = 1 if comparison.dtype == torch.float64 or _single_allowed(comparison) else 2
    feature = precision * n * (2 * d * d + 2 * d * k + k * k)
    pair = n * n * (2 * d + k)  # half the pairs, forward, scores again, and two products
    return feature < pair


class _Rows:
    """The prepared rows of both sides, chunk by chunk, as often as asked for."""

    def __init__(self, comparison: Comparison, *, single: bool) -> None:
        self.comparison = comparison
        self.dtype = torch.float32 if single else torch.float64
        n, d, k = comparison.items, comparison.c.data.shape[1], comparison.t.data.shape[1]
        self.kept: list[tuple[slice, Tensor, Tensor]] | None = None
        if n * (d + k) <= _KEPT:
            self.kept = list(self._prepare())

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        return self._prepare() if self.kept is None else iter(self.kept)

    def _prepare(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        c, t = self.comparison.c, self.comparison.t
        for chunk in blocks(self.comparison.items, CHUNK):
            yield chunk, self._prepared(c, chunk), self._prepared(t, chunk)

    def _prepared(self, side: Similarities, chunk: slice) -> Tensor:
        rows = side.data[chunk]
        if self.dtype == torch.float32 and side.scoring.metric == "cosine":
            rows = rows.to(torch.float32)
            norm: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
            # False also for zero rows and NaN: what is special about them is known in one place.
            if bool(((norm > _ORDINARY[0]) & (norm < _ORDINARY[1])).all()):
                return rows / norm.to(torch.float32)
        return prepared(rows, side.scoring.metric).to(self.dtype)


def _squares(rows: Tensor) -> Tensor:
    """Return the squared norm of every row, in float64."""
    squares: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square_()
    return squares


class _FeatureSums:
    """The moments of all pairs, what they were computed from, and the gradient that follows.

    `single`: by float32 products.
    """

    def __init__(self, comparison: Comparison, *, row_sums: bool, single: bool) -> None:
        self.comparison, self.single = comparison, single
        self.rows = _Rows(comparison, single=single)
        n, d, k = comparison.items, comparison.c.data.shape[1], comparison.t.data.shape[1]
        engine = engine_of(comparison.device)
        scalar, add = engine.scalar, engine.add_cross_products
        c_self = torch.empty(n, dtype=torch.float64, device=comparison.device)
        t_self = torch.empty_like(c_self)
        cc, tt, ct = c_self.new_zeros(d, d), c_self.new_zeros(k, k), c_self.new_zeros(d, k)
        c_sum, t_sum = c_self.new_zeros(d), c_self.new_zeros(k)
        for chunk, z, u in self.rows:
            add(cc, z, None)
            add(tt, u, None)
            add(ct, z, u)
            c_sum += z.sum(dim=0, dtype=torch.float64)
            t_sum += u.sum(dim=0, dtype=torch.float64)
            c_self[chunk] = _squares(z)
            t_self[chunk] = _squares(u)
        c_row, t_row = c_self[:0], t_self[:0]
        if row_sums:
            c_row, t_row = torch.empty_like(c_self), torch.empty_like(t_self)
            for chunk, z, u in self.rows:
                c_row[chunk] = z.to(torch.float64) @ c_sum - c_self[chunk]
                t_row[chunk] = u.to(torch.float64) @ t_sum - t_self[chunk]

        def pairs(full: Tensor, diagonal: Tensor) -> Scalar:
            return scalar(full - diagonal) / 2

        self._cc, self._ct, self._c_sum = cc, ct, c_sum
        self._c_self, self._t_self = c_self, t_self
        # |C|^2 and |T|^2, diagonals included.
        c_full, t_full = cc.square().sum(), tt.square().sum()
        self._c_full, self._t_full = scalar(c_full), scalar(t_full)
        #: The same sums as `Engine.pair_moments`, unshifted.
        self.moments = PairMoments(
            w=n * (n - 1) / 2,
            wc=pairs(c_sum @ c_sum, c_self.sum()),
            wt=pairs(t_sum @ t_sum, t_self.sum()),
            wcc=pairs(c_full, c_self @ c_self),
            wtt=pairs(t_full, t_self @ t_self),
            wct=pairs(ct.square().sum(), c_self @ t_self),
            c_shift=0.0,
            t_shift=0.0,
            c_row=c_row,
            t_row=t_row,
        )

    def are_accurate(self, *, centred: bool) -> bool:
        """Return whether the moments keep as many digits as those of the pair form would.

        (Waits for the device.)
        """
        m = self.moments
        least = _LEFT_OVER_OF_SINGLE if self.single else _LEFT_OVER[self.comparison.dtype]

        def holds(total: Scalar, square: Scalar, full: Scalar) -> Condition:
            mean = total * total / where(m.w == 0, 1.0, m.w) if centred else 0.0
            return 2 * (square - mean) >= least * full

        return bool(holds(m.wc, m.wcc, self._c_full) & holds(m.wt, m.wtt, self._t_full))

    def linear_gradient(
        self, coefficients: Coefficients, per_item: Tensor | None, diagonal: Tensor | None
    ) -> Tensor:
        """Return the same gradient as `Engine.linear_gradient`.

        sum_{j != i} (a + c_factor c_ij + t_factor t_ij + p_i + p_j) z_j, each term a product with
        a d x d or k x d matrix or with a sum over all rows, minus its share of j = i.
        """
        c_shift, t_shift, constant, c_factor, t_factor = coefficients
        constant = constant - (c_factor * c_shift + t_factor * t_shift)
        item = torch.zeros_like(self._c_self) if per_item is None else per_item
        item_total = torch.zeros_like(self._c_sum)
        if per_item is not None:
            for chunk, z, _ in self.rows:
                item_total += item[chunk] @ z.to(torch.float64)
        cc = (c_factor * self._cc).to(self.rows.dtype)
        tc = (t_factor * self._ct.T).to(self.rows.dtype)
        sum_of_products = engine_of(self.comparison.device).sum_of_products
        patterns, _, scoring = self.comparison.c
        gradient = patterns.new_empty(patterns.shape, dtype=self.comparison.dtype)
        for chunk, z, u in self.rows:
            p = item[chunk, None]
            with_itself = constant + 2 * p + c_factor * self._c_self[chunk, None]
            with_itself = with_itself + t_factor * self._t_self[chunk, None]
            g = sum_of_products(u, tc, z, cc).to(torch.float64)
            wide = z.to(torch.float64)
            g += (constant + p) * self._c_sum + item_total
            g -= with_itself * wide
            if diagonal is not None:
                g += 2 * diagonal[chunk, None] * wide
            gradient[chunk] = through_preparation(patterns[chunk], scoring.metric, wide, g)
        return gradient
