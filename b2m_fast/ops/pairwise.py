"""Scores of all pairs, of listed pairs, and the best of each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from . import _checks
from ._registration import ops as _ops
from ._types import METRICS, Scoring
from .engines.cpu import address
from .engines.select import engine_of

if TYPE_CHECKING:
    import numpy.typing as npt

    Out = TypeVar("Out", Tensor, npt.NDArray[np.floating[Any]])

__all__ = ["pair_similarity", "pairwise_similarity", "topk_similarity"]


def _checked(x: Tensor, metric: str, gamma: float | None, name: str = "x") -> tuple[Tensor, float]:
    _checks.one_of(metric, "metric", tuple(METRICS))
    x = _checks.floats(x, name)
    _checks.nonempty_depth(x, name)
    return x, _checks.scoring_gamma(metric, gamma, x.shape[1])


def _checked_other(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    y = _checks.floats(y, "y")
    _checks.on_device(y, "y", x.device)
    _checks.same_depth(x, y, "x", "y")
    return _checks.same_dtype(x, y, "x", "y")


def pairwise_similarity(
    x: Tensor,
    y: Tensor | None = None,
    *,
    metric: str = "cosine",
    gamma: float | None = None,
    condensed: bool = False,
    out: Out | None = None,
) -> Tensor | Out:
    r"""Score every row of x against every row of y.

    .. math:: s_{ij} = x_i \cdot y_j, \quad \frac{x_i \cdot y_j}{|x_i| |y_j|}, \quad |x_i - y_j|, \dots

    Parameters
    ----------
    x
        (n, d), float64, float32, bfloat16 or float16, any strides.
    y
        (m, d), same dtype; None: x with itself.
    metric
        "dot", "cosine", "correlation" (cosine of the rows minus their means), "euclidean",
        "sqeuclidean", or "rbf" = exp(-gamma |x_i - y_j|^2).
    gamma
        Width of "rbf" (1 / unit of x squared); 1/d if None. An error for any other metric.
    condensed
        Return only the pairs i < j, row by row, as `scipy.spatial.distance.pdist`; needs y=None.
    out
        Array or tensor to write to, of the result's shape and any float dtype: a NumPy memory map,
        say. It is written tile by tile and never read; for CUDA tensors it may be in the host's
        memory. No gradient.

    Returns
    -------
    Tensor
        (n, m), or (n(n-1)/2,) if condensed, in the dtype of x; `out` itself if given.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what it was and what was expected.

    Notes
    -----
    Similarities are computed as products of prepared rows, distances by differences (no
    cancellation, exact zeros), accumulated in float32, or float64 for float64. A zero row (a
    constant one, for "correlation") has similarity 0 to everything and gradient 0; coinciding
    points have euclidean gradient 0. Cost: 2 n m d operations, half for condensed; memory
    O((n + m) d) beyond the result. The backward pass costs two such products, and one more for
    distances.

    CUDA kernels, and processors with units for bfloat16 products, multiply rows as sums of bfloat16
    parts: similarities of bfloat16 rows err by about 2^-9 of the product of their norms, of float16
    rows by 2^-17, and of float32 rows by 2^-24, 2^-17 or 2^-9 as
    `torch.set_float32_matmul_precision` says ("highest", which is PyTorch's default, "high" or
    "medium"). A processor takes parts only where that is faster than float32, which it computes in
    otherwise: with AMX from some depth on, with AVX512-BF16 for one part (bfloat16 rows, and
    "medium"). Infinite values of a row may give NaN there. Distances and float64 are always exact.
    Gradients come from products of the same precision (on CUDA torch's own, at the same setting).

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    >>> pairwise_similarity(x, metric="dot", condensed=True)
    tensor([1., 0., 2.])
    """
    x, width = _checked(x, metric, gamma)
    if y is not None:
        if condensed:
            raise ValueError("condensed=True means x with itself, but y was given; expected y=None")
        x, y = _checked_other(x, y)
    if out is None:
        result: Tensor = _ops.pairwise_similarity(x, y, metric, width, condensed)
        return result
    _write(x, y, Scoring(metric, width), condensed, out)
    return out


def _write(
    x: Tensor,
    y: Tensor | None,
    scoring: Scoring,
    condensed: bool,
    out: Tensor | npt.NDArray[np.floating[Any]],
) -> None:
    """Write the scores to memory somebody else owns."""
    if not isinstance(out, Tensor) and not getattr(getattr(out, "flags", None), "writeable", True):
        raise ValueError("out is a read-only array; expected one that can be written")
    n = x.shape[0]
    shape = (n * (n - 1) // 2,) if condensed else (n, n if y is None else y.shape[0])
    target = _checks.floats(_checks.from_array(out, "out"), "out", ndim=len(shape))
    _checks.readable_from(target, "out", x.device)
    if tuple(target.shape) != shape:
        raise ValueError(f"out has shape {_checks.shape_of(target)}; expected {shape}")
    if _overlaps_itself(target):
        raise ValueError(
            f"out has strides {target.stride()}, so that elements share memory; expected one place "
            "for each"
        )
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, y, target)):
        raise ValueError(
            "out= has no gradient, but an argument requires one; detach it or use torch.no_grad()"
        )
    for name, other in (("x", x), ("y", y)):
        if other is not None and _overlap(target, other):
            raise ValueError(f"out shares memory with {name}; expected memory of its own")
    if target.is_neg():
        raise ValueError("out is a lazily negated tensor; expected one that holds its own values")
    y = None if y is None else y.detach().resolve_neg()
    engine_of(x.device).pairwise(x.detach().resolve_neg(), y, scoring, condensed, target)
    torch.autograd.graph.increment_version(target)  # a graph that saved `out` must notice


def _overlaps_itself(x: Tensor) -> bool:
    """Return whether two elements may have the same address (an expanded tensor, say)."""
    extent = 0
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1 and stride <= extent:
            return True
        extent += (size - 1) * stride
    return False


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors' address ranges meet."""
    if a.device != b.device:
        return False

    def extent(x: Tensor) -> tuple[int, int]:
        begin = address(x)
        span = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
        return begin, begin + (span + 1) * x.element_size() if x.numel() else begin

    (a_begin, a_end), (b_begin, b_end) = extent(a), extent(b)
    return a_begin < b_end and b_begin < a_end


def pair_similarity(
    x: Tensor, i: Tensor, j: Tensor, *, metric: str = "cosine", gamma: float | None = None
) -> Tensor:
    r"""Score listed pairs of rows of x, without the matrix.

    .. math:: s_p = \mathrm{similarity}(x_{i_p}, x_{j_p})

    Parameters
    ----------
    x
        (n, d), float64, float32, bfloat16 or float16, any strides.
    i, j
        (p,) integers in [0, n); pairs may repeat.
    metric, gamma
        As in `pairwise_similarity`.

    Returns
    -------
    Tensor
        (p,), in the dtype of x.

    Raises
    ------
    TypeError, ValueError, IndexError
        Naming the argument, what it was and what was expected.

    Notes
    -----
    Summed in float64. Cost 2 p d operations, memory O(n d + p). The gradient is gathered column by
    column in the order of the pairs: deterministic without atomics. On CUDA plain torch computes
    both passes, and the check of the indices waits for the device (it is left out while a CUDA
    graph is captured).

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    >>> pair_similarity(x, torch.tensor([0, 1]), torch.tensor([2, 2]), metric="dot")
    tensor([0., 2.])
    """
    x, width = _checked(x, metric, gamma)
    if not isinstance(i, Tensor):
        raise TypeError(f"i is a {type(i).__name__}; expected a torch.Tensor of integers")
    if i.ndim != 1:
        raise ValueError(f"i has shape {_checks.shape_of(i)}; expected a vector (p,)")
    length = i.shape[0]
    i = _checks.integers(i, "i", length, x.device)
    j = _checks.integers(j, "j", length, x.device)
    result: Tensor = _ops.pair_similarity(x, i, j, metric, width)
    return result


def topk_similarity(
    x: Tensor,
    y: Tensor | None = None,
    k: int = 1,
    *,
    metric: str = "cosine",
    gamma: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the k most similar rows of y for every row of x, without the matrix.

    Parameters
    ----------
    x
        (n, d), float64, float32, bfloat16 or float16, any strides.
    y
        (m, d), same dtype; None: x with itself, each row without itself.
    k
        1 to m (to n - 1 if y is None).
    metric, gamma
        As in `pairwise_similarity`; "euclidean" and "sqeuclidean" give the nearest.

    Returns
    -------
    values : Tensor
        (n, k), best first, in the dtype of x. No gradient.
    indices : Tensor
        (n, k) int64. Ties go to the lower index; NaN comes after every number.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what it was and what was expected.

    Notes
    -----
    Cost 2 n m d operations, memory O((n + m) d + n k). On CUDA float32 products are exact to 2^-24
    for every dtype and setting.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    >>> topk_similarity(x, k=1)[1]
    tensor([[1],
            [0],
            [1]])
    """
    x, width = _checked(x, metric, gamma)
    if y is not None:
        x, y = _checked_other(x, y)
    available = x.shape[0] - 1 if y is None else y.shape[0]
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise TypeError(f"k is a {type(k).__name__}; expected an int")
    if not 0 < k <= available:
        choice = f"1 to {available}" if available > 0 else "more rows"
        raise ValueError(
            f"k is {k}; expected {choice}, there being {max(available, 0)} rows to choose from"
        )
    k = int(k)
    y = None if y is None else y.detach()
    values, indices = _ops.topk_similarity(x.detach(), y, k, metric, width)
    return values, indices
