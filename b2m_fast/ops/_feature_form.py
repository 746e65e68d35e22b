"""Sums over all pairs of dot products, without visiting the pairs.

For scores that are dot products of prepared rows, c_ij = z_i . z_j and t_ij = u_i . u_j,

    sum_ij c_ij t_ij = |Z'U|^2,   sum_ij c_ij^2 = |Z'Z|^2,   sum_j c_ij = z_i . sum_j z_j

(Frobenius norms), so the moments of n (n - 1) / 2 pairs cost n (d^2 + d k + k^2) instead of
n^2 (d + k) multiplications, and the gradient likewise. Known for linear CKA (Kornblith et al. 2019,
section 3); the other comparisons follow once the diagonal is taken out. All in float64, since the
means of the scores are subtracted only afterwards; rows are prepared in chunks.

Where float32 may lose a little ("high", see `single_allowed`) the products of a chunk are float32,
which takes half the time; their sums stay float64, and where too much of them cancels they are
not taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._engine import engine_of
from ._problems import Coefficients, Comparison, PairMoments, Similarities
from ._rows import CHUNK, prepared, through_preparation
from ._scalars import Condition, Scalar, where

if TYPE_CHECKING:
    from collections.abc import Iterator

# Prepared values (64 MiB) up to which they are kept for the passes that follow.
_KEPT = 2**23

# What must be left of a sum over all entries after its diagonal and its mean are taken out, by the
# dtype of the result: for products in float64 (eps 2.2e-16) to keep as many digits of it as the tile
# engine would, and for products in float32 (errors of about 1e-7) to keep five of a gradient.
_LEFT_OVER = {torch.float64: 1e-2, torch.float32: 1e-7}
_LEFT_OVER_OF_SINGLE = 1e-2

# Norms that float32 can divide by without loss.
_ORDINARY = (1e-30, 1e30)


def possible(comparison: Comparison) -> bool:
    """Whether both sides are patterns under a bilinear metric and every pair counts the same."""
    sides = (comparison.c, comparison.t)
    return comparison.w is None and all(s.kind == "patterns" and s.scoring.bilinear for s in sides)


def single_allowed(comparison: Comparison) -> bool:
    """Whether products may be float32: on the CPU, for float32 results, where PyTorch's setting is "high".

    (Whether they keep enough digits has to be looked at, for which a device would have to be waited
    for; and "medium" would make bfloat16 products of torch's own.)
    """
    return (
        comparison.device.type == "cpu"
        and comparison.dtype == torch.float32
        and torch.get_float32_matmul_precision() == "high"
    )


def cheaper(comparison: Comparison) -> bool:
    """Compare the multiplications of both forms; float64 counts double where the pairs use float32.

    Those of value and gradient, even if only the value is wanted: it has the same bits either way.
    """
    n, d, k = comparison.items, comparison.c.data.shape[1], comparison.t.data.shape[1]
    precision = 1 if comparison.dtype == torch.float64 or single_allowed(comparison) else 2
    feature = precision * n * (2 * d * d + 2 * d * k + k * k)
    pair = n * n * (2 * d + k)  # half the pairs, forward, scores again, and two products
    return feature < pair


class _Rows:
    """The prepared rows of both sides, chunk by chunk, as often as wanted."""

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
        for begin in range(0, self.comparison.items, CHUNK):
            end = min(begin + CHUNK, self.comparison.items)
            yield slice(begin, end), self._of(c, begin, end), self._of(t, begin, end)

    def _of(self, side: Similarities, begin: int, end: int) -> Tensor:
        rows = side.data[begin:end]
        if self.dtype == torch.float32 and side.scoring.metric == "cosine":
            rows = rows.to(torch.float32)
            norm: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
            # False also for zero rows and NaN: what is special about them is known in one place.
            if bool(((norm > _ORDINARY[0]) & (norm < _ORDINARY[1])).all()):
                return rows / norm.to(torch.float32)
        return prepared(rows, side.scoring.metric).to(self.dtype)


def _squares(rows: Tensor) -> Tensor:
    """Squared norm of every row, in float64."""
    squares: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square_()
    return squares


class FeatureSums:
    """The moments of all pairs, what they were computed from, and the gradient that follows.

    `single`: by float32 products.
    """

    def __init__(self, comparison: Comparison, *, row_sums: bool, single: bool) -> None:
        self.comparison, self.single = comparison, single
        self.rows = _Rows(comparison, single=single)
        n, d, k = comparison.items, comparison.c.data.shape[1], comparison.t.data.shape[1]
        engine = engine_of(comparison.device)
        scalar, add = engine.scalar, engine.add_cross_products
        c_own = torch.empty(n, dtype=torch.float64, device=comparison.device)
        t_own = torch.empty_like(c_own)
        cc, tt, ct = c_own.new_zeros(d, d), c_own.new_zeros(k, k), c_own.new_zeros(d, k)
        c_sum, t_sum = c_own.new_zeros(d), c_own.new_zeros(k)
        for own, z, u in self.rows:
            add(cc, z, None)
            add(tt, u, None)
            add(ct, z, u)
            c_sum += z.sum(dim=0, dtype=torch.float64)
            t_sum += u.sum(dim=0, dtype=torch.float64)
            c_own[own] = _squares(z)
            t_own[own] = _squares(u)
        c_row, t_row = c_own[:0], t_own[:0]
        if row_sums:
            c_row, t_row = torch.empty_like(c_own), torch.empty_like(t_own)
            for own, z, u in self.rows:
                c_row[own] = z.to(torch.float64) @ c_sum - c_own[own]
                t_row[own] = u.to(torch.float64) @ t_sum - t_own[own]

        def pairs(full: Tensor, own: Tensor) -> Scalar:
            return scalar(full - own) / 2

        self._cc, self._ct, self._c_sum = cc, ct, c_sum
        self._c_own, self._t_own = c_own, t_own
        # |C|^2 and |T|^2, diagonals included.
        c_full, t_full = cc.square().sum(), tt.square().sum()
        self._c_full, self._t_full = scalar(c_full), scalar(t_full)
        #: The same sums as `Engine.pair_moments`, unshifted.
        self.moments = PairMoments(
            w=n * (n - 1) / 2,
            wc=pairs(c_sum @ c_sum, c_own.sum()),
            wt=pairs(t_sum @ t_sum, t_own.sum()),
            wcc=pairs(c_full, c_own @ c_own),
            wtt=pairs(t_full, t_own @ t_own),
            wct=pairs(ct.square().sum(), c_own @ t_own),
            c_shift=0.0,
            t_shift=0.0,
            c_row=c_row,
            t_row=t_row,
        )

    def hold(self, *, centred: bool) -> bool:
        """Whether the moments keep the digits that the pair form keeps, when diagonal and mean are out.

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
        """Compute the same gradient as `Engine.linear_gradient`.

        sum_{j != i} (a + of_c c_ij + of_t t_ij + p_i + p_j) z_j, each term a product with a d x d or
        k x d matrix or with a sum over all rows, minus its share of j = i.
        """
        c_shift, t_shift, constant, of_c, of_t = coefficients
        constant = constant - (of_c * c_shift + of_t * t_shift)
        item = torch.zeros_like(self._c_own) if per_item is None else per_item
        item_total = torch.zeros_like(self._c_sum)
        if per_item is not None:
            for own, z, _ in self.rows:
                item_total += item[own] @ z.to(torch.float64)
        cc, tc = (of_c * self._cc).to(self.rows.dtype), (of_t * self._ct.T).to(self.rows.dtype)
        sum_of_products = engine_of(self.comparison.device).sum_of_products
        patterns, scoring = self.comparison.c.data, self.comparison.c.scoring
        gradient = torch.empty(
            patterns.shape, dtype=self.comparison.dtype, device=self.comparison.device
        )
        for own, z, u in self.rows:
            p = item[own, None]
            with_itself = constant + 2 * p
            with_itself = (
                with_itself + of_c * self._c_own[own, None] + of_t * self._t_own[own, None]
            )
            g = sum_of_products(u, tc, z, cc).to(torch.float64)
            wide = z.to(torch.float64)
            g += (constant + p) * self._c_sum + item_total
            g -= with_itself * wide
            if diagonal is not None:
                g += 2 * diagonal[own, None] * wide
            gradient[own] = through_preparation(patterns[own], scoring.metric, wide, g)
        return gradient
