"""Rows that are held out together: blocks of neighbours, random rows, whole groups, or each row by itself.

Without groups and shuffling these are scikit-learn's KFold. GroupKFold balances numbers of rows and keeps no order,
and neither shuffles by a numpy Generator, which published folds follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
    Folds = int | Literal["loo"] | Sequence[Fold]


def folds_of(
    n: int,
    folds: int,
    *,
    groups: ArrayLike | None = None,
    shuffle: bool = False,
    seed: int = 0,
) -> list[Fold]:
    """Return (train, test) of each fold, ascending row numbers; folds have equal numbers of rows, or of groups.

    Rows of one of the `groups`, (n,), stay together. Without `shuffle` a fold is a block of neighbours (groups in the
    order of their first row), as autocorrelated recordings need it.

    >>> [test.tolist() for train, test in folds_of(5, 2)]
    [[0, 1, 2], [3, 4]]
    """
    names = np.arange(n) if groups is None else np.asarray(groups)
    if names.shape != (n,):
        raise ValueError(f"groups must name the group of each of {n} rows, got {names.shape}")
    _, first, member = np.unique(names, return_index=True, return_inverse=True)
    if folds < 2 or len(first) < folds:
        what = "rows" if groups is None else "groups"
        raise ValueError(f"{folds} folds of {len(first)} {what}: at least 2 folds, and a row each")
    order = np.argsort(first)
    if shuffle:
        order = np.random.default_rng(seed).permutation(order)
    held = [np.isin(member, part) for part in np.array_split(order, folds)]
    return [(np.flatnonzero(~rows), np.flatnonzero(rows)) for rows in held]


def splits_of(
    n: int, folds: Folds, groups: ArrayLike | None, shuffle: bool, seed: int
) -> list[Fold]:
    """Return (train, test) of each fold, as `fit_ridge` takes folds, checked; for "loo" all rows, twice."""
    if isinstance(folds, int | np.integer):
        return folds_of(n, int(folds), groups=groups, shuffle=shuffle, seed=seed)
    if isinstance(folds, str) and (str(folds) != "loo" or n < 3):
        raise ValueError(f"folds={folds!r} of {n} rows: a number, folds, or 'loo' of 3 or more")
    if groups is not None or shuffle:
        kind = repr(folds) if isinstance(folds, str) else "given themselves"
        raise ValueError(f"groups and shuffle are for a number of folds, but folds are {kind}")
    if isinstance(folds, str):
        return [(np.arange(n), np.arange(n))]
    try:
        splits = [(np.asarray(train), np.asarray(test)) for train, test in folds]
    except (TypeError, ValueError):
        splits = []
    if not splits:
        raise ValueError(f"folds must be a number, 'loo' or (train, test)s, got {folds!r}")
    for train, test in splits:
        if not len(train) or not len(test) or np.intersect1d(train, test).size:
            raise ValueError("each fold must be (train, test), both not empty and without overlap")
    return splits
