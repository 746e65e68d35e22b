"""Logistic readouts of brain-mediated transfer, the penalty chosen by held-out probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from b2m_fast.encoding.ridge import penalty_grid
from b2m_fast.methods.mediated_algebra import NEEDS_SCIKIT_LEARN

try:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold, check_cv
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer
except ImportError as error:  # pragma: no cover
    raise ImportError(NEEDS_SCIKIT_LEARN) from error

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["fit_logistic"]

Array = NDArray[np.float64]


def fit_logistic(view: Array, index: NDArray[np.int64], penalties: Sequence[float], cv: Any) -> Any:
    """Logistic regression with the penalty that gives held-out samples most probability.

    Of regressors of mean squared norm 1: the optimiser's steps know no units. Along the penalties
    each fit starts from the last.

    Parameters
    ----------
    view : ndarray
        (n, p), regressors.
    index : ndarray
        (n,), classes 0 to k - 1, each of them there.
    penalties : sequence of float
        Relative penalties to choose from, above 0.
    cv : int, splitter or iterable, optional
        How one is chosen; None: at most 5 stratified folds.

    Returns
    -------
    Pipeline
        Of regressors as they are given here.

    Raises
    ------
    ValueError
        If penalties are not positive, or a class has a single sample and none to be judged by.
    """
    scale = float(((view - view.mean(axis=0)) ** 2).sum() / len(view)) ** 0.5 or 1.0
    grid = sorted(penalty_grid("penalties", penalties).tolist(), reverse=True)
    best = grid[0] if len(grid) == 1 else _chosen(_divided(view, by=scale), index, grid, cv)
    scaler = FunctionTransformer(_divided, kw_args={"by": scale})
    return make_pipeline(scaler, _model().set_params(C=1 / best)).fit(view, index)


def _model() -> Any:
    return LogisticRegression(max_iter=10_000, warm_start=True)


def _divided(x: Array, by: float) -> Array:
    """In another unit; a function of the module, so that models can be pickled."""
    return x / by


def _chosen(x: Array, index: NDArray[np.int64], grid: Sequence[float], cv: Any) -> float:
    """The penalty of the least loss on held-out samples; the grid falls."""
    counts = np.bincount(index)
    if cv is None:
        if counts.min() < 2:
            raise ValueError(
                "choosing the penalty of a logistic readout needs two samples of each class; "
                "give one penalty, or readout='ridge'"
            )
        cv = StratifiedKFold(min(5, int(counts.min())))
    losses = np.zeros(len(grid))
    for train, test in check_cv(cv, index, classifier=True).split(x, index):
        path = _model()
        for k, penalty in enumerate(grid):
            path.set_params(C=1 / penalty).fit(x[train], index[train])
            p = np.zeros((len(test), len(counts)))
            p[:, path.classes_] = path.predict_proba(x[test])
            losses[k] += log_loss(index[test], p, labels=np.arange(len(counts)), normalize=False)
    return grid[int(losses.argmin())]
