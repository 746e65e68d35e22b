"""Scores of a block, and which blocks make up all pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..._types import Scoring, condensed_start
from ..rows import bands, blocks, size_of

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Scores held at a time (16 MiB of float32); a handful of such blocks make the working memory.
BLOCK = 2**22

# Columns of a block, where there are enough rows.
_COLUMNS = 4096

# Values a block of differences of rows may have.
_DIFFERENCES = 2**24


def rectangles(n: int, m: int) -> Iterator[tuple[slice, Iterator[slice]]]:
    """Yield bands of rows, each with its blocks of columns."""
    columns = max(1, min(m, _COLUMNS, BLOCK))
    for rows in blocks(n, max(1, BLOCK // columns)):
        yield rows, blocks(m, columns)


def triangles(count: int) -> Iterator[slice]:
    """Yield bands of rows, to be met with all columns from their first on."""
    return bands(count, lambda begin: max(1, BLOCK // (count - begin)))


def scores(x: Tensor, y: Tensor, scoring: Scoring) -> Tensor:
    """Return the scores of prepared rows x with prepared rows y."""
    return scored(_raw_scores(x, y, scoring), scoring)


def _raw_scores(x: Tensor, y: Tensor, scoring: Scoring) -> Tensor:
    """Return dot products, or squared distances from differences, which do not cancel."""
    out = x.new_zeros((len(x), len(y)))
    if scoring.bilinear:
        return torch.mm(x, y.T, out=out)  # (autocast leaves an `out` alone)
    for rows in blocks(len(x), max(1, _DIFFERENCES // max(y.numel(), 1))):
        depth = max(1, _DIFFERENCES // max(size_of(rows) * len(y), 1))
        for values in blocks(x.shape[1], depth):
            difference = x[rows, None, values] - y[None, :, values]
            out[rows] += difference.square_().sum(dim=2)
    return out


def scored(raw: Tensor, scoring: Scoring) -> Tensor:
    """Turn dot products or squared distances into scores, in place."""
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
    """Return the places of the pairs i < j in a band from its first column on, row by row."""
    i, j = torch.triu_indices(size_of(rows), count - rows.start, offset=1, device=device)
    return i, j


def pairs_of(rows: slice, count: int) -> slice:
    """Return where a condensed vector holds the pairs of a band."""
    return slice(condensed_start(rows.start, count), condensed_start(rows.stop, count))
