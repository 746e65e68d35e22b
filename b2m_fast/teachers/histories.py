"""What can be known of a trial's condition so far: the tree of input histories.

At each step conditions with the same number have had the same input until then; groups only ever
split. A target that tells them apart before that asks for knowledge of the future, which no student
can have and no brain had.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["cycle", "history_means", "merged_history", "permuted_branches"]

Groups = NDArray[np.int64]


def history_means(course: NDArray[np.float64], history: Groups) -> NDArray[np.float64]:
    """The part of a time course that inputs seen so far determine.

    Parameters
    ----------
    course : ndarray
        (conditions, steps, k).
    history : ndarray
        (conditions, steps), int64: at each step, which conditions cannot be told apart yet.

    Returns
    -------
    ndarray
        (conditions, steps, k): means over conditions that cannot be told apart.
    """
    alike = (history[:, None] == history).astype(np.float64)
    return np.asarray(np.einsum("cds,dsk->csk", alike / alike.sum(axis=1, keepdims=True), course))


def merged_history(history: Groups, place: Groups) -> Groups:
    """When sets of conditions can be told apart.

    Parameters
    ----------
    history : ndarray
        (conditions, steps), int64.
    place : ndarray
        (conditions,), int64: the set each belongs to, 0 to n - 1.

    Returns
    -------
    ndarray
        (n, steps), int64: two sets have the same number as long as a condition of one cannot be told
        from a condition of the other, or both from a third's.
    """
    merged = np.empty((place.max() + 1, history.shape[1]), dtype=np.int64)
    for step, groups in enumerate(history.T):
        number = np.arange(len(merged))
        for group in np.unique(groups):
            joined = np.unique(number[place[groups == group]])
            number[np.isin(number, joined)] = joined[0]
        merged[:, step] = number
    return merged


def permuted_branches(history: Groups, rng: np.random.Generator) -> tuple[Groups, bool]:
    """Another order of conditions under which the tree of histories is the same tree.

    At every fork, branches of the same shape change places: in a random cycle, or, below branches
    that have changed places already, at random. Where some condition would be left in its place
    (its branches have no equals), the order is one random cycle through all instead.

    Parameters
    ----------
    history : ndarray
        (conditions, steps), int64.
    rng : Generator
        The order.

    Returns
    -------
    order : ndarray
        (conditions,), int64: whose course each condition gets, never its own if there are two.
    kept : bool
        Whether the tree is kept.
    """
    count = len(history)
    levels = np.unique(history, axis=1, return_index=True)[1]
    tree = np.column_stack([history[:, np.sort(levels)], np.arange(count)])
    order = np.arange(count)
    _permute(tree, np.arange(count), np.arange(count), 0, rng, order)
    if (order == np.arange(count)).any():
        return cycle(count, rng), False
    return order, True


def cycle(count: int, rng: np.random.Generator) -> Groups:
    """An order in which nothing keeps its place: one random cycle through all.

    Parameters
    ----------
    count : int
        How many.
    rng : Generator
        The order.

    Returns
    -------
    ndarray
        (count,), int64.
    """
    places = rng.permutation(count)
    order = np.empty_like(places)
    order[places] = np.roll(places, 1)
    return order


def _permute(
    tree: Groups,
    targets: Groups,
    sources: Groups,
    level: int,
    rng: np.random.Generator,
    order: Groups,
) -> None:
    """Give the conditions `targets` the courses of `sources`, a branch of the same shape."""
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
    """The branches at a fork, by their shape."""
    found: dict[str, list[Groups]] = {}
    for group in np.unique(tree[rows, level]):
        branch = rows[tree[rows, level] == group]
        found.setdefault(_shape(tree, branch, level + 1), []).append(branch)
    return found


def _shape(tree: Groups, rows: Groups, level: int) -> str:
    """A branch as nested brackets: equal for branches that differ in names alone."""
    if level == tree.shape[1]:
        return "."
    groups = np.unique(tree[rows, level])
    parts = [_shape(tree, rows[tree[rows, level] == group], level + 1) for group in groups]
    return "(" + "".join(sorted(parts)) + ")"
