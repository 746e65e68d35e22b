"""What the engines are asked: pairs of rows, how they are scored, and what is done with the scores.

Plain named tuples of tensors, the same for every engine (`_engine`). Shapes, dtypes and devices are
checked before (`_validate`); autograd and torch.compile are added after (`_library`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from b2m_fast import _C

from ._scalars import Scalar

METRICS = _C.METRICS
BILINEAR = ("dot", "cosine", "correlation")
NORMALISED = ("cosine", "correlation")
DISTANCES = ("euclidean", "sqeuclidean")


def computing_dtype(x: Tensor) -> torch.dtype:
    """Dtype scores are computed in: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class Scoring(NamedTuple):
    """How two rows are scored: a name of `METRICS`, and gamma for "rbf"."""

    metric: str
    gamma: float = 0.0

    @property
    def bilinear(self) -> bool:
        """Whether scores are dot products of prepared rows."""
        return self.metric in BILINEAR


def condensed_start(i: int, count: int) -> int:
    """Place of the pair (i, i + 1) in a condensed vector of `count` items."""
    return i * count - i * (i + 1) // 2


# ----------------------------------------------------------------------------------- contrastive


class ContrastiveProblem(NamedTuple):
    """Queries (n, d), keys (m, d), and which pairs are positive: equal labels, or i == j."""

    query: Tensor
    key: Tensor
    metric: str
    logit_scale: Tensor  # scalar
    row_label: Tensor | None  # (n,) int32
    column_label: Tensor | None  # (m,) int32


#: Rows of the statistics `info_nce` returns for a direction: see csrc/include/b2m/contrastive.h.
STATISTICS = (
    "negative_lse",
    "positive_lse",
    "positive_mean",
    "positive_count",
    "logit_mean",
    "top1",
)


# ----------------------------------------------------------------------------------- comparisons


class Similarities(NamedTuple):
    """One side of a comparison: patterns (n, d), a matrix (n, n), or a condensed vector.

    Patterns are on the device of the problem; stored scores may be elsewhere, in a mapped file, say.
    """

    data: Tensor
    kind: str  # "patterns", "matrix" or "condensed"
    scoring: Scoring


class Comparison(NamedTuple):
    """Scores c and t of the pairs i < j of `items` items, with weights w or None.

    Computed in the precision of c. Of t only the part above the diagonal is sure to be there.
    """

    items: int
    c: Similarities
    t: Similarities
    w: Similarities | None

    @property
    def device(self) -> torch.device:
        """Device it is computed on: that of the patterns; of the stored scores if there are none."""
        if self.c.kind == "patterns":
            return self.c.data.device
        if self.t.kind == "patterns" or self.c.data.device.type == "cpu":
            return self.t.data.device
        return self.c.data.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype it is computed in."""
        return computing_dtype(self.c.data)


#: Of a gradient that is linear in the scores: c_shift, t_shift, constant, of_c, of_t.
Coefficients = tuple[Scalar, Scalar, Scalar, Scalar, Scalar]


class PairMoments(NamedTuple):
    """Sums over the pairs i < j of the shifted scores c' = c - c_shift and t' = t - t_shift."""

    w: Scalar
    wc: Scalar
    wt: Scalar
    wcc: Scalar
    wtt: Scalar
    wct: Scalar
    c_shift: Scalar
    t_shift: Scalar
    c_row: Tensor  # (n,): sum of c'_ij over j != i; empty if not asked for
    t_row: Tensor
