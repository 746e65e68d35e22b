"""Scores of a block, and which blocks make up all pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._problems import Scoring, condensed_start

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Scores held at a time (16 MiB of float32); a handful of such blocks make the working memory.
BLOCK = 2**22

# Columns of a block, where there are enough rows.
_COLUMNS = 4096

# Values a block of differences of rows may have.
_DIFFERENCES = 2**24


def slices(count: int, step: int, begin: int = 0) -> Iterator[slice]:
    for start in range(begin, count, step):
        yield slice(start, min(start + step, count))


def rectangles(n: int, m: int) -> Iterator[tuple[slice, Iterator[slice]]]:
    """Bands of rows, each with its blocks of columns."""
    columns = max(1, min(m, _COLUMNS, BLOCK))
    for rows in slices(n, max(1, BLOCK // columns)):
        yield rows, slices(m, columns)


def triangles(count: int) -> Iterator[slice]:
    """Bands of rows, to be met with all columns from their first on."""
    begin = 0
    while begin < count:
        end = min(count, begin + max(1, BLOCK // (count - begin)))
        yield slice(begin, end)
        begin = end


def raw_scores(x: Tensor, y: Tensor, scoring: Scoring) -> Tensor:
    """Dot products, or squared distances from differences: exact zeros, and no cancellation."""
    out = x.new_zeros((len(x), len(y)))
    if scoring.bilinear:
        return torch.mm(x, y.T, out=out)  # (autocast leaves an `out` alone)
    for rows in slices(len(x), max(1, _DIFFERENCES // max(y.numel(), 1))):
        depth = max(1, _DIFFERENCES // max((rows.stop - rows.start) * len(y), 1))
        for values in slices(x.shape[1], depth):
            difference = x[rows, None, values] - y[None, :, values]
            out[rows] += difference.square_().sum(dim=2)
    return out


def scored(raw: Tensor, scoring: Scoring) -> Tensor:
    if scoring.metric == "euclidean":
        return raw.sqrt_()
    if scoring.metric == "rbf":
        return raw.mul_(-scoring.gamma).exp_()
    return raw


def chain(weights: Tensor, scores: Tensor, scoring: Scoring) -> Tensor:
    """Turn dL/dscore into dL/draw; a distance of 0 has slope 0."""
    if scoring.metric == "euclidean":
        return weights * torch.where(scores == 0, 0.0, 0.5 / scores)
    if scoring.metric == "rbf":
        return weights * scores * -scoring.gamma
    return weights


def triangle(rows: slice, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places of the pairs i < j in a band from its first column on, row by row."""
    i, j = torch.triu_indices(rows.stop - rows.start, count - rows.start, offset=1, device=device)
    return i, j


def pairs_of(rows: slice, count: int) -> slice:
    """Where a condensed vector holds the pairs of a band."""
    return slice(condensed_start(rows.start, count), condensed_start(rows.stop, count))
