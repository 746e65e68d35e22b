"""A brain as a scikit-learn transformer: from features of stimuli to predicted responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from b2m_fast.encoding.columns import column_correlation
from b2m_fast.encoding.ridge import ALPHAS, fit_ridge
from b2m_fast.methods.mediated_algebra import NEEDS_SCIKIT_LEARN

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.frozen import FrozenEstimator
    from sklearn.utils.validation import (
        check_array,
        check_consistent_length,
        check_is_fitted,
        validate_data,
    )
except ImportError as error:  # pragma: no cover
    raise ImportError(NEEDS_SCIKIT_LEARN) from error

if TYPE_CHECKING:
    from b2m_fast.encoding.folds import Folds

__all__ = ["BrainEncoder", "fit_brains", "not_sparse"]

Array = NDArray[np.float64]


def not_sparse(y: Any) -> None:
    """Know that labels or responses are no sparse matrix.

    Parameters
    ----------
    y : object
        What was given.

    Raises
    ------
    TypeError
        If it is one.
    """
    if hasattr(y, "toarray"):
        raise TypeError("y is a sparse matrix; give an array: y.toarray()")


class BrainEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """From features of stimuli to predicted responses: a brain as a transformer.

    W = argmin |R - Z W|^2 + alpha t |W|^2, Z the standardised features of the stimuli that the brain
    was shown; the penalty of each unit is chosen by blocked cross-validation
    (`b2m_fast.encoding.ridge.fit_ridge`). ``fit(features, responses)``, then
    ``transform(features)`` of any images. Voxels may be permuted without any consequence for what is
    later read from them. Once W is fitted they may be rotated, too; before the fit only at
    a single penalty: penalties are chosen by how well each unit is predicted.

    Parameters
    ----------
    alphas : sequence of float
        Penalties to choose from, relative to the mean squared norm of a feature.
    folds : int or sequence of (train, test), or "loo"
        How they are chosen; no more folds than stimuli.
    shuffle : bool, default False
        Deal stimuli into a number of folds at random; the default, contiguous blocks, is what films need.
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
    ridge_ : Ridge
        The fitted model.
    map_ : ndarray
        (features, units), W for features that are only centred: what the prior W W' is made of.
    n_features_in_, feature_names_in_
        As scikit-learn has them.

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

    def fit(self, X: Any, y: Any) -> BrainEncoder:
        """Fit to what a brain answered.

        Parameters
        ----------
        X : array_like
            (stimuli, features).
        y : array_like
            (stimuli, units), or (stimuli,) for a single unit.

        Returns
        -------
        BrainEncoder
            Itself.

        Raises
        ------
        ValueError
            If there are NaNs, numbers of stimuli differ, there are too few of them to choose a
            penalty, or no unit ever varies.
        """
        not_sparse(y)
        x, responses = validate_data(
            self, X, y, multi_output=True, y_numeric=True, dtype=np.float64, ensure_min_samples=2
        )
        responses = np.asarray(responses, dtype=np.float64).reshape(len(x), -1)
        if not (responses != responses[0]).any():
            raise ValueError(
                f"the brain has no variance: none of its {responses.shape[1]} units varies over "
                f"the {len(x)} stimuli"
            )
        folds = self.folds
        if isinstance(folds, int | np.integer):
            folds = min(int(folds), len(x))
        self.ridge_ = fit_ridge(
            x,
            responses,
            alphas=self.alphas,
            folds=folds,
            shuffle=self.shuffle,
            shared_alpha=self.shared_alpha,
            standardise=self.standardise,
            dtype=self.dtype,
            device=self.device,
        )
        self.map_ = self.ridge_.weights / self.ridge_.spread[:, None]
        return self

    def transform(self, X: Any) -> Array:
        """Responses the brain would give.

        Parameters
        ----------
        X : array_like
            (n, features).

        Returns
        -------
        ndarray
            (n, units), in the unit of the responses.
        """
        check_is_fitted(self)
        x = validate_data(self, X, reset=False, dtype=np.float64)
        return np.asarray(self.ridge_.predict(x), dtype=np.float64)

    def score(self, X: Any, y: Any) -> float:
        """Mean over units of the correlation of predicted and measured responses.

        Parameters
        ----------
        X : array_like
            (n, features).
        y : array_like
            (n, units).

        Returns
        -------
        float
            A unit that does not vary counts as 0.

        Raises
        ------
        ValueError
            If there are NaNs, or numbers of stimuli differ.
        """
        predicted = self.transform(X)
        measured = check_array(y, dtype=np.float64, ensure_2d=False, input_name="y")
        check_consistent_length(predicted, measured)
        measured = measured.reshape(len(predicted), -1)
        return float(column_correlation(predicted, measured).mean())

    @property
    def _n_features_out(self) -> int:
        return int(self.map_.shape[1])

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Names of the units: unit0, unit1, ...

        Parameters
        ----------
        input_features : ignored
            There for scikit-learn.

        Returns
        -------
        ndarray
            (units,), of str.
        """
        check_is_fitted(self)
        return np.array([f"unit{k}" for k in range(self._n_features_out)], dtype=object)


def fit_brains(
    recordings: Mapping[str, tuple[Any, Any]] | Sequence[tuple[Any, Any]], **options: Any
) -> list[Any]:
    """Encoders of several brains, frozen: cross-validation of labels does not fit them again.

    Parameters
    ----------
    recordings : sequence of (features, responses), or dict of such pairs by name
        What each brain was shown, as features (stimuli, p), and what it answered (stimuli, units).
        Stimuli and units may differ; the features must be of one kind. Responses keep their unit:
        divide them by their standard deviations unless loud units, or a loud brain among stacked
        ones, are to weigh more in what is read from them.
    **options
        As for `BrainEncoder`.

    Returns
    -------
    list of FrozenEstimator
        One encoder a brain.

    Raises
    ------
    ValueError
        If there is no brain, what is given for one is no pair, numbers of features differ, or a
        brain cannot be fitted; the message says which.
    """
    named: dict[str, Any] = dict(recordings) if isinstance(recordings, Mapping) else {
        f"brain {k}": pair for k, pair in enumerate(recordings)
    }  # fmt: skip
    if not named:
        raise ValueError("there is no brain: recordings is empty")
    for name, pair in named.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(
                f"{name} must be (features, responses), got a {type(pair).__name__}; recordings of a "
                "single brain are [(features, responses)]"
            )
    fitted = []
    for name, (features, responses) in named.items():
        try:
            fitted.append(BrainEncoder(**options).fit(features, responses))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    widths = {name: e.n_features_in_ for name, e in zip(named, fitted, strict=True)}
    if len(set(widths.values())) > 1:
        raise ValueError(f"all brains must be given the same kind of features, got {widths}")
    return [FrozenEstimator(encoder) for encoder in fitted]
