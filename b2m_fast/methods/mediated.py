"""Brain-mediated transfer (Nishida et al. 2020) as scikit-learn estimators.

Features of a network become the responses a brain would give, and these become labels::

    brains = fit_brains([(stimulus_features_1, responses_1), (stimulus_features_2, responses_2)])
    model = BrainMediatedClassifier(brains, combine="stacked")
    cross_val_score(model, features, labels)

The structure, ridge from features to responses and from predicted responses to labels, is the
paper's idea; its details here are ours (docs/mediated.md). No brain is needed once it is fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from b2m_fast.methods.mediated_algebra import (
    NEEDS_SCIKIT_LEARN,
    PENALTIES,
    codes,
    decided,
    fit_readout,
)
from b2m_fast.methods.mediated_encoder import BrainEncoder, fit_brains, not_sparse
from b2m_fast.methods.mediated_logistic import fit_logistic

try:
    from sklearn.base import (
        BaseEstimator,
        ClassifierMixin,
        MultiOutputMixin,
        RegressorMixin,
        is_classifier,
    )
    from sklearn.exceptions import NotFittedError
    from sklearn.model_selection import check_cv
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:  # pragma: no cover
    raise ImportError(NEEDS_SCIKIT_LEARN) from error

if TYPE_CHECKING:
    from b2m_fast.encoding.folds import Folds

__all__ = ["BrainEncoder", "BrainMediatedClassifier", "BrainMediatedRegressor", "fit_brains"]

Array = NDArray[np.float64]


class _Mediated(BaseEstimator):  # type: ignore[misc]
    """What regressor and classifier share: brains, and how their readouts are combined."""

    brains: Any
    combine: str
    penalties: Sequence[float]
    cv: Any

    def _brains(self) -> list[Any]:
        if self.brains is None:
            return []
        several = isinstance(self.brains, Sequence) and not hasattr(self.brains, "transform")
        found = list(self.brains) if several else [self.brains]
        if not found:
            raise ValueError("brains is empty; None stands for features without any brain")
        for place, brain in enumerate(found):
            if not hasattr(brain, "transform"):
                raise TypeError(
                    f"brain {place} has no transform: it is a {type(brain).__name__}; fit_brains "
                    "makes what is wanted"
                )
            try:
                check_is_fitted(brain)
            except NotFittedError as error:
                raise NotFittedError(
                    f"brain {place} is not fitted. scikit-learn's clone() forgets fits: take "
                    "brains from fit_brains, or wrap them in sklearn.frozen.FrozenEstimator"
                ) from error
        return found

    def _views(self, X: Any, x: Array) -> list[Array]:
        """Regressors of each readout: per brain, or of all brains side by side.

        x is X, validated. A brain that knows columns by name is given the names, to compare them.
        """
        if self.combine not in {"mean", "stacked"}:
            raise ValueError(f"combine must be 'mean' or 'stacked', got {self.combine!r}")
        brains = self._brains()
        named = hasattr(self, "feature_names_in_") and hasattr(X, "columns")
        views = [
            np.asarray(
                brain.transform(X if named and hasattr(brain, "feature_names_in_") else x),
                dtype=np.float64,
            )
            for brain in brains
        ] or [x]
        return [np.hstack(views)] if self.combine == "stacked" else views

    def _folds(self, x: Array, y: Any) -> Folds:
        if self.cv is None or (isinstance(self.cv, str) and self.cv == "loo"):
            return "loo"
        return list(check_cv(self.cv, y, classifier=is_classifier(self)).split(x, y))

    def _estimates(self, X: Any) -> Array:
        """Predictions (views, n, targets) of each ridge readout."""
        check_is_fitted(self)
        x = validate_data(self, X, reset=False, dtype=np.float64)
        views = self._views(X, x)
        return np.stack([r.predict(v) for r, v in zip(self.readouts_, views, strict=True)])

    def _fit_readouts(
        self, views: Sequence[Array], y: Array, *, shared: bool, folds: Folds
    ) -> None:
        self.readouts_: list[Any] = [
            fit_readout(view, y, self.penalties, shared=shared, folds=folds) for view in views
        ]

    def _feature_weights(self) -> Array:
        """Weights (targets, features) that amount to the same."""
        brains = self._brains()
        for place, brain in enumerate(brains):
            if not hasattr(brain, "map_"):
                raise AttributeError(
                    f"coef_ is of brains that are BrainEncoder; brain {place} is a "
                    f"{type(brain).__name__}, which has no map_"
                )
        maps = [np.asarray(brain.map_) for brain in brains] or [np.eye(self.n_features_in_)]
        if self.combine == "stacked":
            maps = [np.hstack(maps)]
        parts = [m @ r.weights for m, r in zip(maps, self.readouts_, strict=True)]
        return np.asarray(np.mean(parts, axis=0).T)


class BrainMediatedRegressor(RegressorMixin, MultiOutputMixin, _Mediated):  # type: ignore[misc]
    """Labels from the responses that brains would give.

    V_s = argmin |Y - F W_s V|^2 + penalty |V|^2 for brain s. Estimates are those of each brain,
    averaged, or one readout from all brains' units side by side.

    Parameters
    ----------
    brains : transformer or sequence of transformers, optional
        Fitted: see `fit_brains`. None: no brain, ridge on the features (standard transfer learning).
    combine : {"mean", "stacked"}
        How several brains are combined.
    penalties : sequence of float
        Penalties of the readout, relative to the mean squared norm of its regressors.
    cv : int, splitter or iterable, or "loo", optional
        How the penalty is chosen inside the samples given; default: exact leave-one-out. Rows of a
        film need blocks, e.g. ``cv=5``, or by groups ``cv=list(GroupKFold().split(X, y, groups))``.
    shared : bool, default False
        One penalty for all labels.

    Attributes
    ----------
    readouts_ : list of Ridge
        One a brain; a single one if stacked or without a brain.
    n_features_in_, feature_names_in_
        As scikit-learn has them.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> stimuli, features = rng.normal(size=(80, 6)), rng.normal(size=(30, 6))
    >>> brains = fit_brains([(stimuli, stimuli @ rng.normal(size=(6, 5))) for _ in range(2)])
    >>> BrainMediatedRegressor(brains).fit(features, features[:, :2]).predict(features).shape
    (30, 2)
    """

    def __init__(
        self,
        brains: Any = None,
        *,
        combine: Literal["mean", "stacked"] = "mean",
        penalties: Sequence[float] = PENALTIES,
        cv: Any = None,
        shared: bool = False,
    ) -> None:
        self.brains = brains
        self.combine = combine
        self.penalties = penalties
        self.cv = cv
        self.shared = shared

    def fit(self, X: Any, y: Any) -> BrainMediatedRegressor:
        """Fit the readout; brains stay as they are.

        Parameters
        ----------
        X : array_like
            (n, features).
        y : array_like
            (n,) or (n, labels).

        Returns
        -------
        BrainMediatedRegressor
            Itself.

        Raises
        ------
        ValueError
            If there are NaNs, fewer than three samples (``cv`` of two folds: four), no label that
            varies, or features unlike those of the brains.
        """
        not_sparse(y)
        x, labels = validate_data(
            self, X, y, multi_output=True, y_numeric=True, dtype=np.float64, ensure_min_samples=2
        )
        labels = np.asarray(labels, dtype=np.float64)
        self._single = labels.ndim == 1
        self._fit_readouts(
            self._views(X, x),
            labels.reshape(len(x), -1),
            shared=self.shared,
            folds=self._folds(x, labels),
        )
        return self

    def predict(self, X: Any) -> Array:
        """Estimated labels.

        Parameters
        ----------
        X : array_like
            (n, features).

        Returns
        -------
        ndarray
            (n,) or (n, labels), as fitted.
        """
        return self.predict_each(X).mean(axis=0)  # type: ignore[no-any-return]

    def predict_each(self, X: Any) -> Array:
        """The estimates of each brain, which may differ: see `b2m_fast.evaluate.variability`.

        Parameters
        ----------
        X : array_like
            (n, features).

        Returns
        -------
        ndarray
            (brains, n) or (brains, n, labels); stacked brains are one.
        """
        found = self._estimates(X)
        return found[..., 0] if self._single else found

    @property
    def coef_(self) -> Array:
        """Weights on the features that amount to the same, (features,) or (labels, features).

        Of brains that are `BrainEncoder`; these are in the range of the maps W.
        """
        weights = self._feature_weights()
        return weights[0] if self._single else weights


def _is_logistic(estimator: BrainMediatedClassifier) -> bool:
    fitted = getattr(estimator, "_fitted_readout", estimator.readout)
    return bool(fitted == "logistic")


class BrainMediatedClassifier(ClassifierMixin, _Mediated):  # type: ignore[misc]
    """Classes from the responses that brains would give.

    ``readout="ridge"``: ridge to codes of +1 and -1, the largest wins; one penalty for all classes.
    ``"logistic"``: multinomial logistic regression, its penalty chosen by the logarithm of held-out
    probabilities.

    Parameters
    ----------
    brains : transformer or sequence of transformers, optional
        Fitted: see `fit_brains`. None: no brain, the readout is of the features.
    combine : {"mean", "stacked"}
        Average decision values (probabilities) of the brains, or one readout of all.
    readout : {"ridge", "logistic"}
        Kind of readout.
    penalties : sequence of float
        Relative to the mean squared norm of the regressors.
    cv : int, splitter or iterable, or "loo" (ridge), optional
        How the penalty is chosen; default: exact leave-one-out for ridge, at most 5 stratified folds
        for logistic.

    Attributes
    ----------
    classes_ : ndarray
        The classes.
    readouts_ : list
        One a brain; a single one if stacked or without a brain.
    n_features_in_, feature_names_in_
        As scikit-learn has them.
    """

    def __init__(
        self,
        brains: Any = None,
        *,
        combine: Literal["mean", "stacked"] = "mean",
        readout: Literal["ridge", "logistic"] = "ridge",
        penalties: Sequence[float] = PENALTIES,
        cv: Any = None,
    ) -> None:
        self.brains = brains
        self.combine = combine
        self.readout = readout
        self.penalties = penalties
        self.cv = cv

    def fit(self, X: Any, y: Any) -> BrainMediatedClassifier:
        """Fit the readout; brains stay as they are.

        Parameters
        ----------
        X : array_like
            (n, features).
        y : array_like
            (n,), classes.

        Returns
        -------
        BrainMediatedClassifier
            Itself.

        Raises
        ------
        ValueError
            If there are NaNs, a single class, or features unlike those of the brains.
        """
        if self.readout not in {"ridge", "logistic"}:
            raise ValueError(f"readout must be 'ridge' or 'logistic', got {self.readout!r}")
        x, labels = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(labels)
        self.classes_, index = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"a classifier needs at least two classes, got one class: {self.classes_[0]}"
            )
        views = self._views(X, x)
        self._fitted_readout = self.readout
        if self.readout == "ridge":
            self._fit_readouts(views, codes(index, len(self.classes_)), shared=True,
                               folds=self._folds(x, labels))  # fmt: skip
        else:
            self.readouts_ = [fit_logistic(view, index, self.penalties, self.cv) for view in views]
        return self

    def decision_function(self, X: Any) -> Array:
        """Decision values, averaged over brains.

        Parameters
        ----------
        X : array_like
            (n, features).

        Returns
        -------
        ndarray
            (n, classes), or (n,) for two classes: positive for the second.
        """
        check_is_fitted(self)
        if self._fitted_readout == "ridge":
            values = self._estimates(X).mean(axis=0)
            return np.asarray(values[:, 0] if len(self.classes_) == 2 else values)
        p = np.log(self._probabilities(X).mean(axis=0).clip(min=1e-300))
        return np.asarray(p[:, 1] - p[:, 0] if len(self.classes_) == 2 else p)

    def predict(self, X: Any) -> NDArray[Any]:
        """Classes.

        Parameters
        ----------
        X : array_like
            (n, features).

        Returns
        -------
        ndarray
            (n,).
        """
        values = self.decision_function(X)
        chosen = decided(values[:, None] if values.ndim == 1 else values)
        return np.asarray(self.classes_[chosen])

    def predict_each(self, X: Any) -> NDArray[Any]:
        """The classes by each brain, which may differ: see `b2m_fast.evaluate.variability`.

        Parameters
        ----------
        X : array_like
            (n, features).

        Returns
        -------
        ndarray
            (brains, n); stacked brains are one.
        """
        check_is_fitted(self)
        if self._fitted_readout == "ridge":
            chosen = [decided(values) for values in self._estimates(X)]
        else:
            chosen = [p.argmax(axis=1) for p in self._probabilities(X)]
        return np.asarray(self.classes_[np.stack(chosen)])

    def _probabilities(self, X: Any) -> Array:
        """Probabilities (views, n, classes) of each logistic readout."""
        check_is_fitted(self)
        x = validate_data(self, X, reset=False, dtype=np.float64)
        views = self._views(X, x)
        return np.stack([r.predict_proba(v) for r, v in zip(self.readouts_, views, strict=True)])

    @available_if(_is_logistic)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes, averaged over brains (logistic readout only).

        Parameters
        ----------
        X : array_like
            (n, features).

        Returns
        -------
        ndarray
            (n, classes).
        """
        return np.asarray(self._probabilities(X).mean(axis=0))
