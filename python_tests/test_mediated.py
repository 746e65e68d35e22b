"""Brain-mediated transfer: the algebra of the prior, and estimators that scikit-learn can use."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge as PlainRidge
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from b2m_fast.methods.mediated import (
    BrainEncoder,
    BrainMediatedClassifier,
    BrainMediatedRegressor,
    fit_brains,
    fit_readout,
)

Array = NDArray[np.float64]


def problem(seed: int, n: int = 30, p: int = 12, units: int = 7) -> tuple[Array, Array, Array]:
    """Features, a brain's map and labels, all random."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)), rng.normal(size=(p, units)), rng.normal(size=(n, 3))


def centred(x: Array) -> Array:
    return np.asarray(x - x.mean(axis=0))


def tikhonov(features: Array, y: Array, prior: Array, penalty: float) -> Array:
    """The right-hand side of equation (4) in kernel form: b = C F' (F C F' + penalty I)^-1 Y."""
    f, t = centred(features), centred(y)
    return np.asarray(prior @ f.T @ np.linalg.solve(f @ prior @ f.T + penalty * np.eye(len(f)), t))


# --------------------------------------------------------------------------------------------------
# Algebra
# --------------------------------------------------------------------------------------------------
@given(st.integers(0, 10**6), st.sampled_from([4, 12, 25]), st.sampled_from([8, 40]))
def test_two_stages_are_tikhonov_regression(seed: int, units: int, n: int) -> None:
    """Ridge from F W to labels is Tikhonov regression on F with prior W W', whatever is larger."""
    f, w, y = problem(seed, n=n, units=units)
    readout = fit_readout(f @ w, y, (0.3,))
    penalty = 0.3 * (centred(f @ w) ** 2).sum() / n
    direct = tikhonov(f, y, w @ w.T, penalty)
    np.testing.assert_allclose(w @ readout.weights, direct, rtol=1e-6, atol=1e-8)


def test_kernel_form_is_the_two_stage_form() -> None:
    """K (K + penalty)^-1 Y with K = F W W' F' gives the readout's fitted values, to 1e-6."""
    f, w, y = problem(1)
    z = centred(f @ w)
    kernel, penalty = z @ z.T, 2.0 * (z**2).sum() / len(z)
    fitted = kernel @ np.linalg.solve(kernel + penalty * np.eye(len(z)), centred(y))
    readout = fit_readout(f @ w, y, (2.0,))
    np.testing.assert_allclose(readout.predict(f @ w), fitted + y.mean(axis=0), atol=1e-6)


def test_an_identity_prior_is_standard_transfer() -> None:
    """W W' = I: mediated and direct estimates agree, penalties chosen by each on its own."""
    f, _, y = problem(2)
    w, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))
    wide = np.hstack([w, np.zeros((12, 5))])  # more units than features
    np.testing.assert_allclose(
        fit_readout(f @ wide, y).predict(f @ wide), fit_readout(f, y).predict(f), atol=1e-8
    )


def test_what_rotations_of_voxels_change() -> None:
    """Rotation before stage A is no matter at a given penalty, but is where penalties are chosen.

    Permutation never is; nor is rotation of what a fitted encoder predicts.
    """
    f, w, y = problem(3, n=60)
    noise = np.random.default_rng(1).normal(size=(60, 7)) * np.geomspace(0.1, 20, 7)
    responses = f @ w + noise
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(7, 7)))
    new = np.random.default_rng(3).normal(size=(9, 12))

    def estimates(**options: Any) -> list[Array]:
        return [
            BrainMediatedRegressor(fit_brains([(f, r)], **options)).fit(f, y).predict(new)
            for r in (responses, responses @ turn, responses[:, ::-1])
        ]

    plain, rotated, permuted = estimates(alphas=(0.3,))
    np.testing.assert_allclose(rotated, plain, atol=1e-9)
    np.testing.assert_allclose(permuted, plain, atol=1e-9)
    for options in ({}, {"shared_alpha": True}):
        plain, rotated, permuted = estimates(**options)
        np.testing.assert_allclose(permuted, plain, atol=1e-9)
        assert np.abs(rotated - plain).max() > 1e-4, options
    np.testing.assert_allclose(
        fit_readout(f @ w @ turn, y).predict(new @ w @ turn),
        fit_readout(f @ w, y).predict(new @ w),
        atol=1e-9,
    )


@pytest.mark.parametrize("inside", [True, False])
def test_the_prior_helps_where_labels_live_in_its_range_and_hurts_where_not(inside: bool) -> None:
    """With 20 of 300 labelled samples a rank-4 brain wins if labels lie in range(W), else it loses."""
    rng = np.random.default_rng(4)
    p, n, units = 100, 20, 30
    basis, _ = np.linalg.qr(rng.normal(size=(p, p)))
    stimuli = rng.normal(size=(600, p))
    responses = stimuli @ basis[:, :4] @ rng.normal(size=(4, units))
    brains = fit_brains([(stimuli, responses + 0.5 * rng.normal(size=responses.shape))])
    direction = basis[:, :4] @ rng.normal(size=4) if inside else basis[:, 50]
    differences = []
    for _ in range(20):
        f = rng.normal(size=(300, p))
        y = f @ direction + 0.1 * rng.normal(size=300)
        scores = [
            np.corrcoef(m.fit(f[:n], y[:n]).predict(f[n:]), y[n:])[0, 1]
            for m in (BrainMediatedRegressor(brains), BrainMediatedRegressor())
        ]
        differences.append(scores[0] - scores[1])
    spread = np.std(differences, ddof=1) / 20**0.5
    assert (1 if inside else -1) * np.mean(differences) > 5 * spread


def test_the_readout_is_scikit_learns_ridge() -> None:
    """At a given penalty the weights are scikit-learn's; the unit is the mean squared row norm."""
    f, _, y = problem(5)
    unit = (centred(f) ** 2).sum() / len(f)
    ours = fit_readout(f, y, (0.1,))
    theirs = PlainRidge(alpha=0.1 * unit).fit(f, y)
    np.testing.assert_allclose(ours.weights.T, theirs.coef_, atol=1e-9)
    np.testing.assert_allclose(ours.predict(f), theirs.predict(f), atol=1e-9)


def test_the_chosen_penalty_has_the_least_leave_one_out_error() -> None:
    """The choice is what refitting without each row, one by one, would choose."""
    f, w, y = problem(6, n=15)
    y = f @ w[:, :3] + 2 * y
    grid = (1e-3, 1e-1, 1.0, 10.0)
    unit = (centred(f) ** 2).sum() / len(f)
    errors = np.zeros((len(grid), 3))
    for k, penalty in enumerate(grid):
        for row in range(len(f)):
            rest = np.arange(len(f)) != row
            model = PlainRidge(alpha=penalty * unit).fit(f[rest], y[rest])
            errors[k] += (model.predict(f[row : row + 1])[0] - y[row]) ** 2
    expected = np.array(grid)[errors.argmin(axis=0)]
    assert len(set(expected)) > 1
    np.testing.assert_array_equal(fit_readout(f, y, grid).alphas, expected)


# --------------------------------------------------------------------------------------------------
# Estimators
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "estimator",
    [
        BrainEncoder(),
        BrainMediatedRegressor(),
        BrainMediatedRegressor(cv=2),
        BrainMediatedClassifier(),
        BrainMediatedClassifier(readout="logistic", penalties=(1e-2,)),
    ],
    ids=repr,
)
def test_scikit_learn_accepts_the_estimators(estimator: Any) -> None:
    """All of scikit-learn's own checks: clones, parameters, bad input, pickles, invariances."""
    check_estimator(estimator, on_skip=None)


def brains_of(seed: int, count: int = 2) -> tuple[list[Any], Array]:
    """Brains that see different mixtures of the same features."""
    rng = np.random.default_rng(seed)
    stimuli = [rng.normal(size=(50 + k, 12)) for k in range(count)]
    pairs = [(s, s @ rng.normal(size=(12, 5)) + rng.normal(size=(len(s), 5))) for s in stimuli]
    return fit_brains(pairs), rng.normal(size=(40, 12))


def test_brains_stay_fitted_through_clones_searches_and_pipelines() -> None:
    """Cross-validation and a search over how brains are combined work, brains untouched."""
    brains, f = brains_of(8)
    y = f[:, 0] + 0.1 * f[:, 1]
    before = brains[0].transform(f)
    model = BrainMediatedRegressor(brains)
    assert clone(model).brains[0].estimator is brains[0].estimator
    search = GridSearchCV(model, {"combine": ["mean", "stacked"]}, cv=3).fit(f, y)
    assert search.best_score_ == pytest.approx(
        max(cross_val_score(BrainMediatedRegressor(brains, combine=c), f, y, cv=3).mean()
            for c in ("mean", "stacked"))
    )  # fmt: skip
    np.testing.assert_array_equal(brains[0].transform(f), before)
    piped = make_pipeline(brains[0], PlainRidge(alpha=1.0)).fit(f, y)
    assert piped.predict(f).shape == (40,)


def test_features_may_be_scaled_in_a_pipeline_before_the_encoder() -> None:
    """An encoder is a step like any other, and its own standardisation makes a scaler's idle."""
    rng = np.random.default_rng(9)
    f = rng.normal(size=(60, 5)) * [1, 10, 100, 1, 1]
    r = f @ rng.normal(size=(5, 3))
    piped = make_pipeline(StandardScaler(), BrainEncoder()).fit(f, r)
    np.testing.assert_allclose(piped.transform(f), BrainEncoder().fit(f, r).transform(f), rtol=1e-6)
    assert list(piped.get_feature_names_out()) == ["unit0", "unit1", "unit2"]


def test_mean_and_stacked_are_what_they_say() -> None:
    """Mean: average of single brains. Stacked: one readout of all units; weights are F's."""
    brains, f = brains_of(10)
    y = np.random.default_rng(0).normal(size=(40, 2))
    mean = BrainMediatedRegressor(brains).fit(f, y)
    single = [BrainMediatedRegressor(b).fit(f, y).predict(f) for b in brains]
    np.testing.assert_allclose(mean.predict_each(f), single, atol=1e-12)
    np.testing.assert_allclose(mean.predict(f), np.mean(single, axis=0), atol=1e-12)
    stacked = BrainMediatedRegressor(brains, combine="stacked").fit(f, y)
    units = np.hstack([b.transform(f) for b in brains])
    np.testing.assert_allclose(stacked.predict(f), fit_readout(units, y).predict(units))
    for model in (mean, stacked):
        np.testing.assert_allclose(centred(f) @ model.coef_.T, centred(model.predict(f)), atol=1e-8)


def test_the_classifier_without_a_brain_is_scikit_learns() -> None:
    """At one penalty, ridge to +-1 codes decides as RidgeClassifier, for two classes and three."""
    rng = np.random.default_rng(11)
    f = rng.normal(size=(60, 6))
    for classes in (2, 3):
        y = np.array(["a", "b", "c"])[(f @ rng.normal(size=(6, classes))).argmax(axis=1)]
        unit = (centred(f) ** 2).sum() / len(f)
        ours = BrainMediatedClassifier(penalties=(0.1,)).fit(f, y)
        theirs = RidgeClassifier(alpha=0.1 * unit).fit(f, y)
        np.testing.assert_allclose(
            ours.decision_function(f), theirs.decision_function(f), atol=1e-8
        )
        assert ours.score(f, y) == theirs.score(f, y)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("readout", ["ridge", "logistic"])
def test_each_brain_has_its_own_opinion_of_classes(
    readout: Literal["ridge", "logistic"], classes: int
) -> None:
    """A brain alone decides as it does among others; stacked brains are one."""
    brains, f = brains_of(12)
    y = np.array(["a", "b", "c"])[f[:, :classes].argmax(axis=1)]
    options: dict[str, Any] = {"readout": readout, "penalties": (1e-2,)}
    model = BrainMediatedClassifier(brains, **options).fit(f, y)
    each = model.predict_each(f)
    assert each.shape == (len(brains), len(f))
    for found, brain in zip(each, brains, strict=True):
        alone = BrainMediatedClassifier([brain], **options).fit(f, y)
        np.testing.assert_array_equal(found, alone.predict(f))
    stacked = BrainMediatedClassifier(brains, combine="stacked", **options).fit(f, y)
    np.testing.assert_array_equal(stacked.predict_each(f), stacked.predict(f)[None])


def test_leave_one_out_may_be_asked_for_by_name() -> None:
    """cv="loo" is what None is, as for the encoder."""
    f, _, y = problem(11)
    named, plain = (BrainMediatedRegressor(cv=cv).fit(f, y).predict(f) for cv in ("loo", None))
    np.testing.assert_array_equal(named, plain)


def test_logistic_readout() -> None:
    """Probabilities sum to 1, agree with the classes, and exist for this readout only."""
    brains, f = brains_of(12)
    y = (f[:, 0] > 0).astype(int) + (f[:, 1] > 0.5)
    model = BrainMediatedClassifier(brains, readout="logistic", penalties=(1e-3, 1e-1)).fit(f, y)
    p = model.predict_proba(f)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_array_equal(model.classes_[p.argmax(axis=1)], model.predict(f))
    assert model.score(f, y) > 0.6
    before = model.predict(f)
    model.set_params(readout="ridge")  # of the next fit
    np.testing.assert_array_equal(model.predict(f), before)
    model.set_params(readout="logistic")
    assert not hasattr(BrainMediatedClassifier(brains), "predict_proba")
    few = np.array([0, 1, 1, 1, 1])
    with pytest.raises(ValueError, match="two samples of each class"):
        model.fit(f[:5], few)


@pytest.mark.slow
def test_a_logistic_readout_knows_no_unit_of_responses() -> None:
    """Responses in volts or tesla give the same probabilities; all penalties are fitted in silence."""
    rng = np.random.default_rng(12)
    s = rng.normal(size=(60, 12))
    r = s @ rng.normal(size=(12, 5))
    f = rng.normal(size=(60, 12))
    y = (f[:, 0] > 0).astype(int) + (f[:, 1] > 0.5)
    found = [
        BrainMediatedClassifier(fit_brains([(s, r * unit)]), readout="logistic").fit(f, y)
        for unit in (1.0, 1e-13, 1e6)
    ]  # warnings are errors here: every fit converged
    assert found[0].score(f, y) > 0.55
    for other in found[1:]:
        np.testing.assert_allclose(other.predict_proba(f), found[0].predict_proba(f), atol=1e-6)


def test_a_logistic_readout_bears_folds_without_a_class() -> None:
    """Where a fold has no sample of a class to learn from, those held out count as improbable."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 10)
    f = rng.normal(size=(30, 4)) + 2 * np.eye(3, 4)[y]
    model = BrainMediatedClassifier(readout="logistic", penalties=(1e-2, 1.0), cv=3)
    blocks = [(np.setdiff1d(np.arange(30), test), test) for test in np.split(np.arange(30), 3)]
    assert model.fit(f, y).score(f, y) > 0.8
    assert model.set_params(cv=blocks).fit(f, y).score(f, y) > 0.8


def test_columns_are_known_by_name() -> None:
    """Labelled features in another order are refused; in the right one nothing is said."""
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(15)
    names = [f"tap{k}" for k in range(6)]
    s, f = (pandas.DataFrame(rng.normal(size=(30, 6)), columns=names) for _ in range(2))
    y = f["tap0"] > 0
    brains = fit_brains([(s, s.to_numpy() @ rng.normal(size=(6, 4)))])
    for model in (BrainMediatedRegressor(brains), BrainMediatedClassifier(brains)):
        model.fit(f, y.astype(int)).predict(f)  # warnings are errors here
        with pytest.raises(ValueError, match="must be in the same order as they were in fit"):
            model.fit(f[names[::-1]], y.astype(int))


def test_bad_brains_are_named() -> None:
    """No variance, NaN, other numbers of stimuli, other features, no brain, a forgotten fit."""
    rng = np.random.default_rng(13)
    f, r = rng.normal(size=(20, 4)), rng.normal(size=(20, 3))
    bad = r.copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match="brain 1: the brain has no variance: none of its 3"):
        fit_brains([(f, r), (f, np.ones((20, 3)))])
    with pytest.raises(ValueError, match=r"IT: Input y contains NaN"):
        fit_brains({"V4": (f, r), "IT": (f, bad)})
    with pytest.raises(ValueError, match="brain 0: Found input variables with inconsistent"):
        fit_brains([(f, r[:-1])])
    with pytest.raises(ValueError, match=r"same kind of features, got \{'brain 0': 4"):
        fit_brains([(f, r), (f[:, :2], r)])
    with pytest.raises(ValueError, match="there is no brain"):
        fit_brains([])
    with pytest.raises(ValueError, match=r"brain 0 must be \(features, responses\), got a ndarray"):
        fit_brains((f, r))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="brain 0: none of 4 features varies over the training"):
        fit_brains([(f[:2], r[:2])])
    with pytest.raises(TypeError, match=r"y is a sparse matrix; give an array"):
        fit_brains([(f, csr_matrix(r))])
    with pytest.raises(NotFittedError, match="fit_brains, or wrap them"):
        BrainMediatedRegressor([BrainEncoder()]).fit(f, r)
    with pytest.raises(ValueError, match="brains is empty"):
        BrainMediatedRegressor([]).fit(f, r)
    for brains, kind in (("V4", "str"), ({"V4": 0}, "dict"), ([(f, r)], "tuple")):
        with pytest.raises(TypeError, match=f"brain 0 has no transform: it is a {kind};"):
            BrainMediatedRegressor(brains).fit(f, r)
    scaled = make_pipeline(StandardScaler(), BrainEncoder()).fit(f, r)
    with pytest.raises(AttributeError, match="brain 0 is a Pipeline, which has no map_"):
        _ = BrainMediatedRegressor([scaled]).fit(f, r).coef_
    encoder = BrainEncoder().fit(f, r)
    with pytest.raises(ValueError, match="Input y contains NaN"):
        encoder.score(f, bad)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[20, 19\]"):
        encoder.score(f, r[:-1])
    with pytest.raises(ValueError, match="combine must be 'mean' or 'stacked', got 'sum'"):
        BrainMediatedRegressor(combine="sum").fit(f, r)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="X has 3 features, but BrainEncoder is expecting 4"):
        BrainMediatedRegressor(fit_brains([(f, r)])).fit(f[:, :3], r)


def test_bad_labels_are_named() -> None:
    """One class, continuous classes, an unknown readout; penalties by the values that were given."""
    f = np.random.default_rng(14).normal(size=(10, 3))
    with pytest.raises(ValueError, match="at least two classes, got one class: 7"):
        BrainMediatedClassifier().fit(f, np.full(10, 7))
    for penalties in ((), (-1.0,), (1.0, np.inf), 1.0):
        logistic = BrainMediatedClassifier(readout="logistic", penalties=penalties)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="penalties must be positive numbers, got"):
            BrainMediatedRegressor(penalties=penalties).fit(f, f[:, 0])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="penalties must be positive numbers, got"):
            logistic.fit(f, np.arange(10) % 2)
    with pytest.raises(TypeError, match="y is a sparse matrix"):
        BrainMediatedRegressor().fit(f, csr_matrix(f))
    with pytest.raises(ValueError, match="Unknown label type"):
        BrainMediatedClassifier().fit(f, f[:, 0])
    with pytest.raises(ValueError, match="readout must be 'ridge' or 'logistic'"):
        BrainMediatedClassifier(readout="svm").fit(f, np.arange(10) % 2)  # type: ignore[arg-type]
