"""What the ops hand to the engines: metrics, arguments, results, and arithmetic on results.

Named tuples of tensors, the same for every engine (`engines.select`). Shapes, dtypes and devices
are checked before (`_checks`); autograd and torch.compile are added by `_registration`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

# ------------------------------------------------------------------------ metrics


class Metric(NamedTuple):
    """Properties of a metric that checks, engines and comparisons ask for."""

    bilinear: bool = False  # the dot product of prepared rows
    normalised: bool = False  # rows are prepared by dividing them by their norms
    distance: bool = False  # 0 for equal rows, larger for less similar ones
    has_gamma: bool = False  # has a width gamma, which is 1 / columns by default

    @property
    def lengths_count(self) -> bool:
        """Whether the score of a row with itself depends on the row."""
        return self.bilinear and not self.normalised


#: Every metric of the kernels, for checks, engines and comparisons. Their numbers in the kernels are
#: those of `_C.METRICS`, their formulas those of `reference`; a test compares the three.
METRICS = {
    "dot": Metric(bilinear=True),
    "cosine": Metric(bilinear=True, normalised=True),
    "correlation": Metric(bilinear=True, normalised=True),
    "sqeuclidean": Metric(distance=True),
    "euclidean": Metric(distance=True),
    "rbf": Metric(has_gamma=True),
}
BILINEAR = tuple(name for name, metric in METRICS.items() if metric.bilinear)


class Scoring(NamedTuple):
    """How two rows are scored: a name of `METRICS`, and its gamma (0 for metrics without one)."""

    metric: str
    gamma: float = 0.0

    @property
    def bilinear(self) -> bool:
        """Whether scores are dot products of prepared rows."""
        return METRICS[self.metric].bilinear


def computing_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of scores and losses: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def condensed_start(i: int, count: int) -> int:
    """Return the place of the pair (i, i + 1) in a condensed vector of `count` items."""
    return i * count - i * (i + 1) // 2


# ------------------------------------------------------------------------ contrastive


class Contrastive(NamedTuple):
    """Queries (n, d), keys (m, d), and which pairs are positive: equal labels, or i == j."""

    query: Tensor
    key: Tensor
    logit_scale: Tensor  # scalar
    row_label: Tensor | None  # (n,) int32
    column_label: Tensor | None  # (m,) int32
    metric: str


#: Rows of the statistics `info_nce` returns for a direction: see csrc/include/b2m/contrastive.h.
STATISTICS = (
    "negative_lse",
    "positive_lse",
    "positive_mean",
    "positive_count",
    "logit_mean",
    "top1",
)
POSITIVE_COUNT = STATISTICS.index("positive_count")


class Direction(NamedTuple):
    """Statistics (6, count) of the rows or of the columns, and the gradients of their losses."""

    statistics: Tensor
    weight: Tensor  # (count,) float64


# ------------------------------------------------------------------------ comparisons

DIFFERENCES = ("mse", "atanh")
MATRIX_COMPARISONS = ("cka", "cka_debiased", "whitened_cosine")
COMPARISONS = (*DIFFERENCES, "pearson", "cosine", *MATRIX_COMPARISONS)
RANK_COMPARISONS = ("spearman", "rho-a", "tau-a", "tau-b", "kendall")


class Similarities(NamedTuple):
    """One side of a comparison: patterns (n, d), a matrix (n, n), or a condensed vector.

    Patterns are on the device that computes; stored scores may be elsewhere, in a mapped file, say.
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
        """Device it is computed on: that of the patterns, else that of the stored scores."""
        if self.c.kind == "patterns":
            return self.c.data.device
        if self.t.kind == "patterns" or self.c.data.device.type == "cpu":
            return self.t.data.device
        return self.c.data.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype it is computed in."""
        return computing_dtype(self.c.data)


#: Of a gradient that is linear in the scores: shifts of c and t, constant, factors of c and t.
Coefficients = tuple["Scalar", "Scalar", "Scalar", "Scalar", "Scalar"]


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


# ------------------------------------------------------------------------ results

# Results are Python floats on the CPU and 0-d tensors on other devices. A number on a device is
# known to the host only after waiting for everything before it, so formulas over results are
# written once for both kinds, with `where` in place of branches.
Scalar = float | Tensor
Condition = bool | Tensor


def where(condition: Condition, yes: Scalar, no: Scalar) -> Scalar:
    """Return `yes` where the condition holds, else `no`; both are computed."""
    if isinstance(condition, Tensor):
        return torch.where(condition, yes, no)
    return yes if condition else no


def sqrt(x: Scalar) -> Scalar:
    """Return the square root of a number that is not negative; NaN goes through."""
    return x.sqrt() if isinstance(x, Tensor) else math.sqrt(x)


def inverse_or_zero(x: Tensor) -> Tensor:
    """Return 1 / x, and 0 for x = 0."""
    return torch.where(x == 0, 0.0, 1 / torch.where(x == 0, 1.0, x))


def to_tensor(x: Scalar, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return x as a 0-d tensor, without waiting for the device."""
    if isinstance(x, Tensor):
        return x.to(dtype)
    # (A tensor made of a number on a device would be copied there, which a graph cannot capture.)
    return torch.full((), x, dtype=dtype, device=device)


def to_vector(values: Sequence[Scalar], device: torch.device) -> Tensor:
    """Return the values as a float64 vector, without waiting for the device."""
    numbers = [x for x in values if not isinstance(x, Tensor)]
    if len(numbers) == len(values):
        return torch.tensor(numbers, dtype=torch.float64, device=device)
    return torch.stack([to_tensor(x, torch.float64, device) for x in values])
