"""Which engine computes: the compiled one for the CPU, the CUDA kernels, or plain torch in chunks.

An engine is a module with the functions of `Engine`; the ops ask `engine_of` a tensor and know of
devices nothing else. CUDA tensors go to the kernels where this build has them, else to plain torch,
which computes the same in bounded memory on any device.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from . import cpu, cuda
from . import torch as plain_torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._types import (
        Coefficients,
        Comparison,
        Contrastive,
        Direction,
        PairMoments,
        Scalar,
        Scoring,
    )


class Engine(Protocol):
    """What every engine computes; results lie on the device of the inputs.

    Results that are numbers are floats on the CPU, else 0-d tensors.
    """

    def scalar(self, x: Tensor) -> Scalar:
        """Return a number as formulas over results take it."""

    def pairwise(
        self, x: Tensor, y: Tensor | None, scoring: Scoring, condensed: bool, out: Tensor
    ) -> None:
        """Write all scores to `out`: (n, m), or (n(n-1)/2,) if condensed."""

    def pairwise_backward(
        self,
        grad: Tensor,
        x: Tensor,
        y: Tensor | None,
        scoring: Scoring,
        condensed: bool,
        needed: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of x and y; None where not needed."""

    def pair_list(self, x: Tensor, i: Tensor, j: Tensor, scoring: Scoring) -> Tensor:
        """Return the scores of the pairs (i[p], j[p]), in float64."""

    def pair_list_backward(
        self, grad: Tensor, x: Tensor, i: Tensor, j: Tensor, scoring: Scoring
    ) -> Tensor:
        """Return the gradient of x from that of the listed scores."""

    def topk(self, x: Tensor, y: Tensor | None, k: int, scoring: Scoring) -> tuple[Tensor, Tensor]:
        """Return values (n, k) in float64 and indices (n, k) of the best keys of each row."""

    def self_scores(self, x: Tensor, scoring: Scoring) -> Tensor:
        """Return score(x_i, x_i) of every row, (n,) float64."""

    def scaled_rows(
        self, x: Tensor, center: Tensor | None, metric: str, factor: Tensor, out: Tensor
    ) -> None:
        """Write factor times the rows of x, minus a center and prepared for a metric, to `out`.

        x, `out` (n, d); center (d,), factor () float64. Computed in the dtype of `out`.
        """

    def scaled_rows_backward(
        self, grad: Tensor, x: Tensor, center: Tensor | None, metric: str, factor: Tensor
    ) -> tuple[Tensor, Scalar]:
        """Return the gradients of x, in the dtype of `grad`, and of factor from that of `out`."""

    def add_cross_products(self, sums: Tensor, a: Tensor, b: Tensor | None) -> None:
        """Add a' b to `sums` (p, q), float64 and contiguous, for rows a (n, p) and b (n, q).

        b None: a' a. Multiplied in the dtype of the rows, float64 or float32.
        """

    def sum_of_products(self, a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
        """Return a x + b y."""

    def info_nce(
        self, arguments: Contrastive, symmetric: bool, *, top1: bool, logit_mean: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the statistics (6, n) of the rows, (6, m) of the columns; 0 if not asked for."""

    def info_nce_backward(
        self,
        arguments: Contrastive,
        rows: Direction,
        columns: Direction | None,
        label_smoothing: float,
        needed: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None, Scalar]:
        """Return the gradients of query, key and logit_scale."""

    def sigmoid_contrastive(self, arguments: Contrastive, logit_bias: Tensor) -> Tensor:
        """Return the loss of every row, (n,) float64."""

    def sigmoid_contrastive_backward(
        self,
        arguments: Contrastive,
        logit_bias: Tensor,
        row_weight: Tensor,
        needed: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None, Scalar, Scalar]:
        """Return the gradients of query, key, logit_scale and logit_bias."""

    def typical_scores(self, comparison: Comparison) -> tuple[Scalar, Scalar]:
        """Return the score that those of c, and of t, lie around: the best shifts of moments."""

    def pair_moments(
        self, comparison: Comparison, shifts: tuple[Scalar, Scalar], *, row_sums: bool
    ) -> PairMoments:
        """Return first and second moments of scores minus shifts (of the computing dtype)."""

    def mean_squared_difference(
        self, comparison: Comparison, *, atanh: bool, epsilon: float, with_gradient: bool
    ) -> tuple[Scalar, Tensor | None]:
        """Return the mean of (F(c) - F(t))^2 under w; 0 if w sums to 0. F: the identity or Fisher's z.

        And, if asked for, its gradient for the patterns of c, as `linear_gradient` gives one.
        """

    def linear_gradient(
        self,
        comparison: Comparison,
        coefficients: Coefficients,
        per_item: Tensor | None,
        diagonal: Tensor | None,
    ) -> Tensor:
        """Return the gradient of the patterns of c, in the dtype of the computation."""


ENGINES: dict[str, Engine] = {"cpu": cpu, "cuda": cuda, "torch": plain_torch}

_forced: list[Engine] = []


def engine_of(device: torch.device) -> Engine:
    """Return the engine for tensors on a device."""
    if _forced:
        return _forced[-1]
    if device.type == "cpu":
        return cpu
    reason = cuda.missing_on(device)
    if reason is None:
        return cuda
    _warn_once(reason)
    return plain_torch


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        f"{reason}. CUDA tensors are computed by plain torch in chunks: the same results, slower",
        stacklevel=3,
    )


@contextlib.contextmanager
def forced(name: str) -> Iterator[None]:
    """Compute with the engine of this name whatever the device, for tests; in all threads."""
    _forced.append(ENGINES[name])
    try:
        yield
    finally:
        _forced.pop()


def may_wait(device: torch.device) -> bool:
    """Return whether the host may look at a value: not while a CUDA graph is captured."""
    return device.type != "cuda" or not torch.cuda.is_current_stream_capturing()
