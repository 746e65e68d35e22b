"""Rank correlations of the scores of all pairs, with bounded memory.

Ranks need the scores of all pairs at once, which at n items are n (n - 1) / 2 of them. Up to
`PAIRS_IN_MEMORY` they are simply held. Beyond that the values of a side are cut into slabs by
quantiles: a slab is collected in one pass over the pairs (the tile engine computes the scores
anew), ranked, and used in the next, so memory stays bounded and passes are traded for it. Exact
either way; a run of equal scores always stays in one slab. Scores are made, sorted and ranked where
the responses are; inversions, which Kendall's tau counts, always on the CPU.

With p pairs of scores, ranks R and S (ties: the average of the ranks they fill):
    spearman   Pearson correlation of R and S
    rho-a      12 sum (R - mean)(S - mean) / (p^3 - p)
    tau-a      (concordant - discordant) / (p (p - 1) / 2)
    tau-b      (concordant - discordant) / sqrt((pairs untied in c) (pairs untied in t))
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._types import computing_dtype, condensed_start
from .engines.cpu import count_inversions
from .engines.rows import blocks
from .engines.select import engine_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._types import Comparison, Similarities

#: Pairs held at a time; a slab takes about 40 bytes a pair while it is ranked.
PAIRS_IN_MEMORY = 2**24

# Scores computed at a time: a block of rows against all later items.
_BLOCK = 2**21

_SAMPLE = 2**20


def score(comparison: Comparison, compare: str) -> float:
    """Return a rank comparison; NaN if any score is NaN, 0 for a constant side or a single pair."""
    scores = _Scores(comparison)
    if scores.pairs < 2:
        return math.nan if scores.any_nan() else 0.0
    if scores.any_nan():
        return math.nan
    if compare in ("spearman", "rho-a"):
        return _rho(scores, compare)
    return _tau(scores, compare)


class _Scores:
    """The scores of both sides, block by block, in the order of a condensed vector."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.pairs = comparison.items * (comparison.items - 1) // 2
        self.held: list[tuple[Tensor, Tensor]] | None = None
        if self.pairs <= PAIRS_IN_MEMORY:
            self.held = list(self._blocks())

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.held) if self.held is not None else self._blocks()

    def any_nan(self) -> bool:
        return any(bool(c.isnan().any() or t.isnan().any()) for c, t in self.blocks())

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        n, device = self.comparison.items, self.comparison.device
        for rows in blocks(n - 1, max(1, _BLOCK // max(n, 1))):
            c, t = self.comparison.c, self.comparison.t
            yield _block(c, rows, n, device), _block(t, rows, n, device)

    def slab_edges(self, side: int) -> list[float]:
        """Return values that cut a side into slabs that fit: -inf, quantiles of a sample, inf."""
        slabs = math.ceil(self.pairs / (0.75 * PAIRS_IN_MEMORY))
        if self.held is not None or slabs < 2:
            return [-math.inf, math.inf]
        step = max(1, self.pairs // _SAMPLE)
        sample = torch.cat([block[side][::step] for block in self.blocks()]).sort().values
        cuts = [float(sample[len(sample) * i // slabs]) for i in range(1, slabs)]
        return [-math.inf, *sorted({cut for cut in cuts if math.isfinite(cut)}), math.inf]

    def collect(self, side: int, low: float, high: float) -> tuple[Tensor, Tensor]:
        """Return (c, t) of the pairs whose score on `side` is in [low, high), or is high = inf."""
        kept = []
        for block in self.blocks():
            inside = _inside(block[side], low, high)
            kept.append((block[0][inside], block[1][inside]))
        return torch.cat([c for c, _ in kept]), torch.cat([t for _, t in kept])


def _inside(values: Tensor, low: float, high: float) -> Tensor:
    return (values >= low) & ((values < high) | (high == math.inf))


def _block(side: Similarities, rows: slice, n: int, device: torch.device) -> Tensor:
    """Return the scores (i, j), i in a band of rows, i < j, as one vector on the device."""
    dtype = computing_dtype(side.data)
    if side.kind == "condensed":
        part = side.data[condensed_start(rows.start, n) : condensed_start(rows.stop, n)]
        return part.to(device, dtype)
    band, later = side.data[rows], side.data[rows.start :]
    if side.kind == "matrix":
        block = band[:, rows.start :].to(device, dtype)
    else:
        block = torch.empty((len(band), len(later)), dtype=dtype, device=device)
        engine_of(device).pairwise(band, later, side.scoring, False, block)
    n_rows, n_columns = block.shape
    i, j = torch.triu_indices(n_rows, n_columns, offset=1, device=device)
    return block[i, j]


class _Ranks:
    """Average ranks of the values of one slab among all p values."""

    def __init__(self, slab: Tensor, below: int) -> None:
        self.values = slab.sort().values
        self.below = below

    def __call__(self, x: Tensor) -> Tensor:
        low = torch.searchsorted(self.values, x, right=False)
        high = torch.searchsorted(self.values, x, right=True)
        ranks: Tensor = (low + high + 1).to(torch.float64) / 2 + self.below
        return ranks

    def ties(self) -> Tensor:
        """Return the lengths of the runs of equal values, in float64."""
        runs: Tensor = torch.unique_consecutive(self.values, return_counts=True)[1]
        return runs.to(torch.float64)


def _average_ranks(values: Tensor) -> Tensor:
    """Return ranks 1..p in float64 of all values at once; faster than looking each of them up."""
    values, order = values.sort()
    _, run, length = torch.unique_consecutive(values, return_inverse=True, return_counts=True)
    last = length.cumsum(0).to(torch.float64)
    ranks = torch.empty(len(values), dtype=torch.float64, device=values.device)
    ranks[order] = (last - (length.to(torch.float64) - 1) / 2)[run]
    return ranks


def _rho(scores: _Scores, compare: str) -> float:
    p = scores.pairs
    mean = (p + 1) / 2
    if scores.held is not None:
        r, s = (_average_ranks(torch.cat(side)) - mean for side in zip(*scores.held, strict=True))
        return _rho_of(compare, p, float(r @ s), [float(r @ r), float(s @ s)])
    c_edges, t_edges = scores.slab_edges(0), scores.slab_edges(1)
    covariance = 0.0
    variances = [(p**3 - p) / 12.0, (p**3 - p) / 12.0]  # minus (m^3 - m) / 12 for every m-fold tie
    c_below = 0
    for c_low, c_high in itertools.pairwise(c_edges):
        c_ranks = _Ranks(scores.collect(0, c_low, c_high)[0], c_below)
        c_below += len(c_ranks.values)
        ties = c_ranks.ties()
        variances[0] -= float((ties**3 - ties).sum()) / 12
        t_below = 0
        for t_low, t_high in itertools.pairwise(t_edges):
            t_ranks = _Ranks(scores.collect(1, t_low, t_high)[1], t_below)
            t_below += len(t_ranks.values)
            if c_low == -math.inf:
                ties = t_ranks.ties()
                variances[1] -= float((ties**3 - ties).sum()) / 12
            for c, t in scores.blocks():
                both = _inside(c, c_low, c_high) & _inside(t, t_low, t_high)
                covariance += float((c_ranks(c[both]) - mean) @ (t_ranks(t[both]) - mean))
    return _rho_of(compare, p, covariance, variances)


def _rho_of(compare: str, p: int, covariance: float, variances: list[float]) -> float:
    if compare == "rho-a":
        return covariance / ((p**3 - p) / 12)
    if min(variances) <= 0:
        return 0.0
    return covariance / (math.sqrt(variances[0]) * math.sqrt(variances[1]))


def _pairs_of(count: Tensor) -> int:
    """Return the number of pairs within runs of the given lengths; exact, as an int64 sum."""
    return int((count * (count - 1) // 2).sum())


def _tau(scores: _Scores, compare: str) -> float:
    p = scores.pairs
    total = p * (p - 1) // 2
    discordant = c_ties = t_ties = joint_ties = 0
    c_edges = scores.slab_edges(0)
    for low, high in itertools.pairwise(c_edges):
        c, t = scores.collect(0, low, high)
        order = t.argsort(stable=True)
        order = order[c[order].argsort(stable=True)]  # by c, then by t
        c, t = c[order], t[order]
        c_ties += _pairs_of(torch.unique_consecutive(c, return_counts=True)[1])
        new = torch.ones(len(c), dtype=torch.bool, device=c.device)
        new[1:] = (c[1:] != c[:-1]) | (t[1:] != t[:-1])
        joint_ties += _pairs_of(torch.bincount(new.cumsum(0)) if len(c) else torch.zeros(1))
        discordant += count_inversions(t.to("cpu", torch.float64).contiguous())
        if high != math.inf:  # against every pair of a higher slab
            t_sorted = t.sort().values
            for c_block, t_block in scores.blocks():
                above = t_block[c_block >= high]
                not_larger = torch.searchsorted(t_sorted, above, right=True)
                discordant += len(above) * len(t_sorted) - int(not_larger.sum())
    t_edges = scores.slab_edges(1)
    for low, high in itertools.pairwise(t_edges):
        slab = scores.collect(1, low, high)[1].sort().values
        t_ties += _pairs_of(torch.unique_consecutive(slab, return_counts=True)[1])
    difference = total - c_ties - t_ties + joint_ties - 2 * discordant
    if compare == "tau-a":
        return difference / total
    if total in (c_ties, t_ties):
        return 0.0
    return difference / (math.sqrt(total - c_ties) * math.sqrt(total - t_ties))
