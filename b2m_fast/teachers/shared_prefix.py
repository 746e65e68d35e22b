"""Conditions that have had the same input so far: what can be known of a trial at each step.

``prefix[c, t]`` numbers the groups of conditions whose inputs were equal up to step t; with time,
groups only split (a tree). A target that tells conditions apart before their inputs differ asks for
the future, which neither a student nor a brain can know.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Groups = NDArray[np.int64]


def prefix_means(course: NDArray[np.float64], prefix: Groups) -> NDArray[np.float64]:
    """Average a course (conditions, steps, k) over conditions that cannot be told apart yet."""
    alike = (prefix[:, None] == prefix).astype(np.float64)
    return np.asarray(np.einsum("cds,dsk->csk", alike / alike.sum(axis=1, keepdims=True), course))


def merged(prefix: Groups, place: Groups) -> Groups:
    """Return the groups (n, steps) of n sets of conditions; `place` says which set each is in.

    Two sets have the same number as long as a condition of one cannot be told from a condition of
    the other, or both from one of a third.
    """
    out = np.empty((place.max() + 1, prefix.shape[1]), dtype=np.int64)
    for step, groups in enumerate(prefix.T):
        number = np.arange(len(out))
        for group in np.unique(groups):
            joined = np.unique(number[place[groups == group]])
            number[np.isin(number, joined)] = joined[0]
        out[:, step] = number
    return out


def cycle(count: int, rng: np.random.Generator) -> Groups:
    """Return a permutation without a fixed point: one random cycle through all."""
    places = rng.permutation(count)
    order = np.empty_like(places)
    order[places] = np.roll(places, 1)
    return order


def permuted_branches(prefix: Groups, rng: np.random.Generator) -> tuple[Groups, bool]:
    """Return a permutation of the conditions that keeps the tree, and whether it does keep it.

    At every fork, branches of the same shape change places: in a random cycle, or, below branches
    that have changed places already, at random. Where a condition would keep its place (its
    branches have no equals), the permutation is one random cycle through all conditions instead.
    """
    count = len(prefix)
    levels = np.unique(prefix, axis=1, return_index=True)[1]
    tree = np.column_stack([prefix[:, np.sort(levels)], np.arange(count)])
    order = np.arange(count)
    _permute(tree, np.arange(count), np.arange(count), 0, rng, order)
    if (order == np.arange(count)).any():
        return cycle(count, rng), False
    return order, True


def _permute(
    tree: Groups,
    targets: Groups,
    sources: Groups,
    level: int,
    rng: np.random.Generator,
    order: Groups,
) -> None:
    """Fill `order` so that conditions `targets` get those of `sources`, a branch of equal shape."""
    if level == tree.shape[1]:
        order[targets] = sources
        return
    ours, theirs = (_branches(tree, rows, level) for rows in (targets, sources))
    unmoved = np.array_equal(targets, sources)
    for shape, branches in ours.items():
        n = len(branches)
        taken = cycle(n, rng) if unmoved else rng.permutation(n)
        for branch, other in zip(branches, taken, strict=True):
            _permute(tree, branch, theirs[shape][other], level + 1, rng, order)


def _branches(tree: Groups, rows: Groups, level: int) -> dict[str, list[Groups]]:
    """Return the branches at a fork by their shape."""
    found: dict[str, list[Groups]] = {}
    for group in np.unique(tree[rows, level]):
        branch = rows[tree[rows, level] == group]
        found.setdefault(_shape(tree, branch, level + 1), []).append(branch)
    return found


def _shape(tree: Groups, rows: Groups, level: int) -> str:
    """Return a branch as nested brackets, equal for branches that differ in names alone."""
    if level == tree.shape[1]:
        return "."
    groups = np.unique(tree[rows, level])
    parts = [_shape(tree, rows[tree[rows, level] == group], level + 1) for group in groups]
    return "(" + "".join(sorted(parts)) + ")"
