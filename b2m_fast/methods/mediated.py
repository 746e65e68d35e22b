"""Brain-mediated transfer (Nishida et al. 2020, AAAI, arXiv 1905.10037) as scikit-learn estimators.

Features of a network become the responses that a brain would give, and these become labels:

    W = argmin | R - Z W |^2 + alpha t |W|^2      Z, R: features of stimuli, responses          (1)
    V = argmin | Y - F W V |^2 + penalty u |V|^2  F, Y: features of samples, labels             (2)
    estimates: F W V, averaged over brains; or one V for the units of all brains                (3)

t and u are mean squared norms, so that penalties have no unit. Ridge from F W to labels is Tikhonov
regression on the features themselves, with the prior covariance W W':

    min_V |Y - F W V|^2 + penalty |V|^2
      =  min_b |Y - F b|^2 + penalty b' (W W')^+ b   over b in range(W),      b = W V           (4)

So nothing is created: a prior is added. W W' = I is standard transfer learning; an orthogonal map
of the units changes nothing. docs/mediated.md derives (4); tests hold it.

    brains = fit_brains([(stimulus_features_1, responses_1), (stimulus_features_2, responses_2)])
    model = BrainMediatedClassifier(brains, combine="stacked")
    cross_val_score(model, features, labels)

What is whose
-------------
The structure, ridge from features to responses and from predicted responses to labels, is the
paper's; how penalties are chosen, their units, the combinations and the logistic readout are ours.
No brain is needed once it is fitted. (1) can be computed on another device than the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from b2m_fast.encoding.columns import column_correlation
from b2m_fast.encoding.ridge import ALPHAS, fit_ridge, penalty_grid
from b2m_fast.methods.config import PENALTIES

try:
    from sklearn.base import (
        BaseEstimator,
        ClassifierMixin,
        MultiOutputMixin,
        RegressorMixin,
        TransformerMixin,
        is_classifier,
    )
    from sklearn.exceptions import NotFittedError
    from sklearn.frozen import FrozenEstimator
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold, check_cv
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import LabelBinarizer
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "brain-mediated transfer needs scikit-learn: pip install 'b2m-fast[experiments]'"
    ) from error

if TYPE_CHECKING:
    from b2m_fast.encoding.folds import Folds
    from b2m_fast.encoding.ridge import Ridge

Array = NDArray[np.float64]


# --------------------------------------------------------------------------------------------------
# Equation (1): brains
# --------------------------------------------------------------------------------------------------
class BrainEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Equation (1), from features of stimuli to predicted responses: a brain as a transformer.

    The penalty of each unit is chosen by blocked cross-validation
    (`b2m_fast.encoding.ridge.fit_ridge`). Permuting units changes nothing in what is later read
    from them; nor does rotating them, once W is fitted.

    Parameters
    ----------
    alphas : sequence of float
        Penalties to choose from, relative to the mean squared norm of a feature.
    folds : int or sequence of (train, test), or "loo"
        How they are chosen; no more folds than stimuli.
    shuffle : bool, default False
        Assign stimuli to folds at random; the default, contiguous blocks, is what films need.
    shared_alpha : bool, default False
        One penalty for all units.
    standardise : bool, default True
        Divide features by their standard deviation; False: only centre them.
    dtype : {"float64", "float32"}
        Of the products with the units.
    device : str
        Where the fit is computed.

    Attributes
    ----------
    ridge_ : b2m_fast.encoding.ridge.Ridge
        The fitted model.
    map_ : ndarray
        (features, units), W for features that are only centred: what the prior W W' is made of.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> features = rng.normal(size=(50, 4))
    >>> responses = features @ rng.normal(size=(4, 9))
    >>> BrainEncoder().fit(features, responses).transform(features[:3]).shape
    (3, 9)
    """

    def __init__(
        self,
        *,
        alphas: Sequence[float] = ALPHAS,
        folds: Folds = 5,
        shuffle: bool = False,
        shared_alpha: bool = False,
        standardise: bool = True,
        dtype: Literal["float32", "float64"] = "float64",
        device: str = "cpu",
    ) -> None:
        self.alphas = alphas
        self.folds = folds
        self.shuffle = shuffle
        self.shared_alpha = shared_alpha
        self.standardise = standardise
        self.dtype = dtype
        self.device = device

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any) -> Self:
        """Fit W to features X (stimuli, features) and responses y (stimuli, units) or (stimuli,).

        Raises
        ------
        ValueError
            If there are NaNs, too few stimuli to choose a penalty, or no unit that varies.
        """
        x, responses = _validated(self, X, y)
        responses = responses.reshape(len(x), -1)
        if not (responses != responses[0]).any():
            raise ValueError(
                f"the brain has no variance: none of its {responses.shape[1]} units varies over "
                f"the {len(x)} stimuli"
            )
        options = self.get_params()
        if isinstance(self.folds, int | np.integer):
            options["folds"] = min(int(self.folds), len(x))
        self.ridge_ = fit_ridge(x, responses, **options)
        self.map_ = self.ridge_.weights / self.ridge_.spread[:, None]
        return self

    def transform(self, X: Any) -> Array:
        """Return the predicted responses (n, units) to features X (n, features)."""
        check_is_fitted(self)
        x = validate_data(self, X, reset=False, dtype=np.float64)
        return np.asarray(self.ridge_.predict(x), dtype=np.float64)

    def score(self, X: Any, y: Any) -> float:
        """Return the correlation of predicted and measured responses, mean over units."""
        check_is_fitted(self)
        x, measured = _validated(self, X, y, reset=False)
        measured = measured.reshape(len(x), -1)
        return float(column_correlation(self.ridge_.predict(x), measured).mean())

    @property
    def _n_features_out(self) -> int:
        return int(self.map_.shape[1])

    def get_feature_names_out(self, input_features: Any = None) -> Any:  # noqa: ARG002
        """Return the names of the units: unit0, unit1, ..."""
        check_is_fitted(self)
        return np.array([f"unit{k}" for k in range(self._n_features_out)], dtype=object)


def _validated(estimator: Any, X: Any, y: Any, *, reset: bool = True) -> tuple[Array, Array]:
    """Return X (n, p) and y (n,) or (n, targets), checked."""
    if hasattr(y, "toarray"):
        raise TypeError("y is a sparse matrix; give an array: y.toarray()")
    options: dict[str, Any] = {
        "multi_output": True,
        "y_numeric": True,
        "ensure_min_samples": 1 + reset,
    }
    x, targets = validate_data(estimator, X, y, reset=reset, dtype=np.float64, **options)
    return x, np.asarray(targets, dtype=np.float64)


def fit_brains(
    recordings: Mapping[str, tuple[Any, Any]] | Sequence[tuple[Any, Any]], **options: Any
) -> list[Any]:
    """Fit encoders of several brains, frozen: cross-validation of labels leaves them alone.

    Parameters
    ----------
    recordings : sequence of (features, responses), or dict of such pairs by name
        Features (stimuli, p) of what each brain was shown, of one kind for all, and its responses
        (stimuli, units). Responses keep their unit: divide them by their standard deviations unless
        units of large responses are to weigh more in what is read from them.
    **options
        As for `BrainEncoder`.

    Returns
    -------
    list of FrozenEstimator
        One encoder a brain.

    Raises
    ------
    ValueError
        If there is no brain, numbers of features differ, or one cannot be fitted; with its name.
    """
    named: dict[str, Any] = {f"brain {k}": pair for k, pair in enumerate(recordings)}
    if isinstance(recordings, Mapping):
        named = dict(recordings)
    if not named:
        raise ValueError("there is no brain: recordings is empty")
    fitted = []
    for name, pair in named.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(
                f"{name} must be (features, responses), got a {type(pair).__name__}; recordings of "
                "a single brain are [(features, responses)]"
            )
        try:
            fitted.append(BrainEncoder(**options).fit(*pair))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    widths = {name: e.n_features_in_ for name, e in zip(named, fitted, strict=True)}
    if len(set(widths.values())) > 1:
        raise ValueError(f"all brains must be given the same kind of features, got {widths}")
    return [FrozenEstimator(encoder) for encoder in fitted]


# --------------------------------------------------------------------------------------------------
# Equation (2): readouts
# --------------------------------------------------------------------------------------------------
def fit_readout(
    z: NDArray[np.floating],
    y: NDArray[np.floating],
    penalties: Sequence[float] = PENALTIES,
    *,
    shared: bool = False,
    folds: Folds = "loo",
) -> Ridge:
    """Fit ridge from features or predicted responses to labels, with a penalty chosen inside.

    Penalties are relative to u = trace(Z Z') / n, Z the centred regressors: the mean squared norm
    of a row. So a penalty means the same whatever the number of columns. Exact leave-one-out by
    default, as ten samples can hardly be divided into folds; rows that depend on their neighbours
    (frames of a film) need blocks.

    Parameters
    ----------
    z : ndarray
        (n, p), regressors.
    y : ndarray
        (n, targets).
    penalties : sequence of float
        Relative penalties to choose from, above 0.
    shared : bool, default False
        One penalty for all targets rather than one for each.
    folds : int, "loo" or sequence of (train, test)
        How the penalty is chosen.

    Returns
    -------
    Ridge
        The fitted model; its ``alphas`` are the chosen penalties, as given.

    Raises
    ------
    ValueError
        As `b2m_fast.encoding.ridge.fit_ridge`.
    """
    grid = penalty_grid("penalties", penalties).tolist()
    varying = max(int((z != z[:1]).any(axis=0).sum()), 1)
    # `fit_ridge` counts in mean squared norms of a column that varies
    given = {penalty * varying / len(z): penalty for penalty in grid}
    model = fit_ridge(
        z,
        y,
        alphas=list(given),
        folds=folds,
        shared_alpha=shared,
        standardise=False,
        dtype="float64",
    )
    return replace(model, alphas=np.array([given[alpha] for alpha in model.alphas]))


class UnitRows(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Rows of mean squared norm 1 about their mean: an optimiser's steps then know no units."""

    def fit(self, X: Array, y: Any = None) -> Self:  # noqa: ARG002
        """Find the scale of (n, p)."""
        self.scale_ = float(((X - X.mean(axis=0)) ** 2).sum() / len(X)) ** 0.5 or 1.0
        return self

    def transform(self, X: Array) -> Array:
        """Return X / scale."""
        return np.asarray(X / self.scale_)


def _log_probability(model: Any, x: Array, index: NDArray[np.int64]) -> float:
    """Return the mean log-probability of the true classes."""
    p = np.zeros((len(x), 1 + max(index.max(), model.classes_.max())))
    p[:, model.classes_] = model.predict_proba(x)  # a class may be missing where it was fitted
    return float(np.log(p[np.arange(len(x)), index].clip(min=np.finfo(float).eps)).mean())


def _fit_logistic(z: Array, index: NDArray[np.int64], penalties: Sequence[float], cv: Any) -> Any:
    """Fit logistic regression to classes 0 to k - 1, with the penalty of most log-probability."""
    strengths = 1 / np.sort(penalty_grid("penalties", penalties))[::-1]
    model: Any = LogisticRegression(C=strengths[0], max_iter=10_000)
    if len(strengths) > 1:
        fewest = int(np.bincount(index).min())
        if cv is None and fewest < 2:
            raise ValueError(
                "choosing the penalty of a logistic readout needs two samples of each class; "
                "give one penalty, or readout='ridge'"
            )
        folds = StratifiedKFold(min(5, fewest)) if cv is None else cv
        model = GridSearchCV(model, {"C": strengths}, scoring=_log_probability, cv=folds)
    return make_pipeline(UnitRows(), model).fit(z, index)


# --------------------------------------------------------------------------------------------------
# Equation (3): estimators
# --------------------------------------------------------------------------------------------------
class _Mediated(BaseEstimator):  # type: ignore[misc]
    """What regressor and classifier share: brains, and how their readouts are combined."""

    brains: Any
    combine: str
    penalties: Sequence[float]
    cv: Any
    readouts_: list[Any]

    def _brains(self) -> list[Any]:
        """Return the brains, checked; none for a readout of the features."""
        if self.combine not in {"mean", "stacked"}:
            raise ValueError(f"combine must be 'mean' or 'stacked', got {self.combine!r}")
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
        """Return the regressors of each readout: of each brain, or of all brains side by side.

        x is X, validated. A brain that knows columns by name is given the names, to compare them.
        """
        views = []
        for brain in self._brains():
            named = hasattr(self, "feature_names_in_") and hasattr(brain, "feature_names_in_")
            given = X if named and hasattr(X, "columns") else x
            views.append(np.asarray(brain.transform(given), dtype=np.float64))
        views = views or [x]
        return [np.hstack(views)] if self.combine == "stacked" else views

    def _fit_ridge(self, X: Any, x: Array, y: Array, labels: Any, *, shared: bool) -> None:
        folds: Any = "loo"
        if self.cv is not None and not (isinstance(self.cv, str) and self.cv == "loo"):
            folds = list(check_cv(self.cv, labels, classifier=is_classifier(self)).split(x, labels))
        self.readouts_ = [
            fit_readout(view, y, self.penalties, shared=shared, folds=folds)
            for view in self._views(X, x)
        ]

    def _each(self, X: Any, method: str = "predict") -> Array:
        """Return (views, n, targets): what a method of each readout says."""
        check_is_fitted(self)
        x = validate_data(self, X, reset=False, dtype=np.float64)
        pairs = zip(self.readouts_, self._views(X, x), strict=True)
        return np.stack([getattr(readout, method)(view) for readout, view in pairs])


class BrainMediatedRegressor(RegressorMixin, MultiOutputMixin, _Mediated):  # type: ignore[misc]
    """Labels from the responses that brains would give, equations (2) and (3).

    Parameters
    ----------
    brains : transformer or sequence of transformers, optional
        Fitted: see `fit_brains`. None: ridge on the features (standard transfer learning).
    combine : {"mean", "stacked"}
        Average the estimates of the brains, or one readout from all brains' units side by side.
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

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the readout to features X (n, features), labels y (n,) or (n, labels); brains stay.

        Raises
        ------
        ValueError
            If there are NaNs, too few samples, no label that varies, or other features.
        """
        x, labels = _validated(self, X, y)
        self._single = labels.ndim == 1
        self._fit_ridge(X, x, labels.reshape(len(x), -1), labels, shared=self.shared)
        return self

    def predict(self, X: Any) -> Array:
        """Return the estimated labels, (n,) or (n, labels) as fitted."""
        return np.asarray(self.predict_each(X).mean(axis=0))

    def predict_each(self, X: Any) -> Array:
        """Return the estimates of each brain, (brains, n[, labels]); stacked brains are one."""
        found = self._each(X)
        return found[..., 0] if self._single else found

    @property
    def coef_(self) -> Array:
        """Weights on the features that give the same estimates, (features,) or (labels, features).

        For brains that are `BrainEncoder`; they are in the range of the maps W, equation (4).
        """
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
        weights = np.mean(parts, axis=0).T
        return np.asarray(weights[0] if self._single else weights)


def _is_logistic(estimator: BrainMediatedClassifier) -> bool:
    return bool(getattr(estimator, "_fitted_readout", estimator.readout) == "logistic")


class BrainMediatedClassifier(ClassifierMixin, _Mediated):  # type: ignore[misc]
    """Classes from the responses that brains would give, equations (2) and (3).

    ``readout="ridge"``: ridge to codes of +1 and -1, the largest wins; one penalty for all classes.
    ``"logistic"``: multinomial logistic regression, its penalty chosen by the logarithm of held-out
    probabilities.

    Parameters
    ----------
    brains : transformer or sequence of transformers, optional
        As in `BrainMediatedRegressor`.
    combine : {"mean", "stacked"}
        Average decision values or probabilities of the brains, or one readout of all.
    readout : {"ridge", "logistic"}
        Kind of readout.
    penalties : sequence of float
        Relative to the mean squared norm of the regressors.
    cv : int, splitter or iterable, or "loo" (ridge), optional
        How the penalty is chosen; default: exact leave-one-out for ridge, at most 5 stratified
        folds for logistic.

    Attributes
    ----------
    classes_ : ndarray
        The classes.
    readouts_ : list
        One a brain; a single one if stacked or without a brain.

    Examples
    --------
    >>> features = np.random.default_rng(0).normal(size=(30, 6))
    >>> BrainMediatedClassifier().fit(features, features[:, 0] > 0).predict(features).shape
    (30,)
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

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the readout to features X (n, features) and classes y (n,); brains stay as they are.

        Raises
        ------
        ValueError
            If there are NaNs, a single class, or features unlike those of the brains.
        """
        if self.readout not in {"ridge", "logistic"}:
            raise ValueError(f"readout must be 'ridge' or 'logistic', got {self.readout!r}")
        x, labels = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(labels)
        self._codes = LabelBinarizer(neg_label=-1).fit(labels)
        self.classes_ = self._codes.classes_
        if len(self.classes_) < 2:
            raise ValueError(
                f"a classifier needs at least two classes, got one class: {self.classes_[0]}"
            )
        self._fitted_readout = self.readout
        if self.readout == "ridge":
            codes = self._codes.transform(labels).astype(np.float64)
            self._fit_ridge(X, x, codes, labels, shared=True)
        else:
            index = np.searchsorted(self.classes_, labels)
            self.readouts_ = [
                _fit_logistic(view, index, self.penalties, self.cv) for view in self._views(X, x)
            ]
        return self

    def decision_function(self, X: Any) -> Array:
        """Return decision values, averaged over brains: (n, classes), or (n,) for two classes."""
        check_is_fitted(self)
        if self._fitted_readout == "ridge":
            values = self._each(X).mean(axis=0)
            return np.asarray(values[:, 0] if len(self.classes_) == 2 else values)
        p = np.log(self.predict_proba(X).clip(min=1e-300))
        return np.asarray(p[:, 1] - p[:, 0] if len(self.classes_) == 2 else p)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the classes (n,) of features X (n, features)."""
        values = self.decision_function(X)
        return np.asarray(self._codes.inverse_transform(values))

    def predict_each(self, X: Any) -> NDArray[Any]:
        """Return the classes by each brain, (brains, n); stacked brains are one."""
        check_is_fitted(self)
        if self._fitted_readout == "ridge":
            return np.stack([self._codes.inverse_transform(values) for values in self._each(X)])
        return np.asarray(self.classes_[self._each(X, "predict_proba").argmax(axis=2)])

    @available_if(_is_logistic)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Array:
        """Return the probabilities (n, classes), averaged over brains (logistic readout only)."""
        return np.asarray(self._each(X, "predict_proba").mean(axis=0))
