"""Ridge regression on many targets: exact over the path, against scikit-learn and himalaya."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import Ridge as Oracle
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold

from b2m_fast.encoding import ridge
from b2m_fast.encoding.folds import folds_of
from b2m_fast.encoding.ridge import ALPHAS, fit_ridge

Array = NDArray[np.float64]
SHAPES = [(60, 20), (40, 90)]
GRID = (0.01, 0.3, 1.0, 10.0, 1e3)


def planted(n: int, p: int, targets: int = 5, seed: int = 0) -> tuple[Array, Array]:
    """Correlated features of unequal size far from 0, and responses with more and more noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) @ rng.normal(size=(p, p)) * rng.uniform(0.1, 5, p) + 3
    y = x @ rng.normal(size=(p, targets))
    return x, y + y.std(axis=0) * np.geomspace(0.1, 5, targets) * rng.normal(size=y.shape) + 7


def held_out(
    x: Array, y: Array, alpha: float, splits: list[Any], *, standardise: bool
) -> tuple[Array, Array]:
    """Predictions of held-out rows, and the training mean each row was compared with."""
    spread = x.std(axis=0) if standardise else np.ones(x.shape[1])
    unit = float((((x - x.mean(axis=0)) / spread) ** 2).sum() / x.shape[1])
    predicted, null = np.zeros_like(y), np.zeros_like(y)
    for train, test in splits:
        s = x[train].std(axis=0) if standardise else 1.0
        model = Oracle(alpha=alpha * unit).fit(x[train] / s, y[train])
        predicted[test], null[test] = model.predict(x[test] / s), y[train].mean(axis=0)
    return predicted, null


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize(("n", "p"), SHAPES)
def test_path_and_choice_are_those_of_scikit_learn(n: int, p: int, standardise: bool) -> None:
    """Scores at every penalty, the choice and the refit equal a loop of plain ridge regressions."""
    x, y = planted(n, p)
    splits = folds_of(n, 4)
    found = fit_ridge(x, y, alphas=GRID, folds=4, dtype="float64", standardise=standardise)
    for k, alpha in enumerate(GRID):
        predicted, null = held_out(x, y, alpha, splits, standardise=standardise)
        error, base = ((y - predicted) ** 2).sum(axis=0), ((y - null) ** 2).sum(axis=0)
        np.testing.assert_allclose(found.path[k], 1 - error / base, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(found.alphas, np.array(GRID)[found.path.argmax(axis=0)])
    np.testing.assert_array_equal(found.skill, found.path.max(axis=0))
    spread = x.std(axis=0) if standardise else np.ones(p)
    unit = float((((x - x.mean(axis=0)) / spread) ** 2).sum() / p)
    new = planted(30, p, seed=1)[0]
    for t, alpha in enumerate(found.alphas):
        model = Oracle(alpha=alpha * unit).fit(x / spread, y[:, t])
        np.testing.assert_allclose(found.predict(new)[:, t], model.predict(new / spread), rtol=1e-9)
    assert len(set(found.alphas)) > 1  # or the choice would not have been tested


def test_r_is_the_correlation_within_folds() -> None:
    """Scores are r of predictions and responses, each relative to its mean in the fold."""
    x, y = planted(60, 20)
    splits = folds_of(60, 4)
    found = fit_ridge(x, y, alphas=[1.0], folds=splits, dtype="float64")
    predicted, _ = held_out(x, y, 1.0, splits, standardise=True)
    for _, test in splits:
        predicted[test] -= predicted[test].mean(axis=0)
        y[test] -= y[test].mean(axis=0)
    expected = [(a @ b) / np.sqrt((a @ a) * (b @ b)) for a, b in zip(predicted.T, y.T, strict=True)]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-9)


@pytest.mark.parametrize(("n", "p"), [*SHAPES, (25, 24)])
def test_leave_one_out_is_exact(n: int, p: int) -> None:
    """The closed form gives the error of really leaving each row out, intercept included.

    Without the intercept's share of the leverage a model of p > n would seem perfect at no penalty.
    """
    x, y = planted(n, p)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    found = fit_ridge(x, y, alphas=GRID, folds="loo", dtype="float64")
    for k, alpha in enumerate(GRID):
        error, base = np.zeros(y.shape[1]), np.zeros(y.shape[1])
        for row in range(n):
            rest = np.arange(n) != row
            model = Oracle(alpha=alpha * n).fit(z[rest], y[rest])
            error += (model.predict(z[row : row + 1])[0] - y[row]) ** 2
            base += (y[rest].mean(axis=0) - y[row]) ** 2
        np.testing.assert_allclose(found.path[k], 1 - error / base, rtol=1e-7, atol=1e-7)


def test_leave_one_out_is_that_of_scikit_learn() -> None:
    """Penalties and predictions of RidgeCV with one penalty a target, where its scale is ours."""
    x, y = planted(90, 30, targets=50)
    found = fit_ridge(x, y, alphas=GRID, folds="loo", dtype="float64")
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    oracle = RidgeCV(alphas=np.array(GRID) * len(x), alpha_per_target=True).fit(z, y)
    np.testing.assert_allclose(found.alphas * len(x), oracle.alpha_)
    np.testing.assert_allclose(found.predict(x), oracle.predict(z), rtol=1e-10)


def test_leave_one_out_does_not_believe_an_interpolation() -> None:
    """Noise and many features: leave-one-out chooses the largest penalty, not the smallest."""
    rng = np.random.default_rng(0)
    found = fit_ridge(rng.normal(size=(40, 200)), rng.normal(size=(40, 20)), folds="loo")
    assert np.median(found.alphas) > 10
    assert found.skill.max() < 0.5


@pytest.mark.parametrize(("n", "p"), SHAPES)
def test_himalaya_agrees(n: int, p: int) -> None:
    """Plain himalaya finds the same penalties and weights (its search: mean of folds' errors)."""
    from himalaya.backend import get_backend, set_backend
    from himalaya.ridge import solve_ridge_cv_svd

    x, y = planted(n, p)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    found = fit_ridge(z, y, alphas=GRID, folds=5, dtype="float64", standardise=False)
    before = get_backend()
    set_backend("torch")
    try:
        alphas, weights, _, _ = solve_ridge_cv_svd(
            torch.from_numpy(z),
            torch.from_numpy(y),
            alphas=torch.tensor(GRID, dtype=torch.float64) * n,
            fit_intercept=True,
            cv=KFold(5),
            warn=False,
        )
    finally:
        set_backend(before)
    np.testing.assert_allclose(found.alphas * n, alphas.numpy())
    np.testing.assert_allclose(found.weights, weights.numpy(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("exact_up_to", [ridge.EXACT_UP_TO, 0])
@pytest.mark.parametrize("folds", [5, "loo"])
@pytest.mark.parametrize(("n", "p"), [(200, 60), (80, 150)])
def test_float32_is_as_good(
    n: int, p: int, folds: int | Literal["loo"], exact_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Single precision, with its compressed path, gives the scores of double precision to 1e-5.

    Also where the decomposition itself is of float32, as it is in thousands of dimensions.
    """
    x, y = planted(n, p)
    exact = fit_ridge(x, y, dtype="float64", folds=folds)
    monkeypatch.setattr(ridge, "EXACT_UP_TO", exact_up_to)
    single = fit_ridge(x.astype(np.float32), y.astype(np.float32), folds=folds)
    assert single.weights.dtype == single.predict(x).dtype == np.float32
    np.testing.assert_allclose(single.path, exact.path, atol=1e-5)
    np.testing.assert_allclose(single.scores, exact.scores, atol=1e-3)
    best = exact.path.max(axis=0)
    chosen = exact.path[[ALPHAS.index(a) for a in single.alphas], range(y.shape[1])]
    np.testing.assert_allclose(chosen, best, atol=1e-5)


def test_compression_saves_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fine grid of penalties costs no more products than it holds different functions."""
    found: list[tuple[int, int]] = []
    whole = ridge._Decomposition.compressed

    def spy(self: Any, alphas: torch.Tensor) -> Any:
        b, c = whole(self, alphas)
        exact = 1 / (self.values[:, None] + alphas)
        error = ((b @ c - exact).abs() * self.values[:, None]).max()
        assert float(error) < 1e-5  # of f = s^2 / (s^2 + a), which is at most 1
        found.append((c.shape[0], c.shape[1]))
        return b, c

    monkeypatch.setattr(ridge._Decomposition, "compressed", spy)
    x, y = planted(80, 40)
    fit_ridge(x, y, alphas=np.geomspace(1e-2, 1e6, 60).tolist())
    assert len(found) == 5
    assert all(q < 15 and a == 60 for q, a in found)


@pytest.mark.parametrize("folds", [3, "loo"])
def test_batches_of_targets_change_nothing(folds: int | Literal["loo"]) -> None:
    """Results do not depend on how many targets are taken at a time."""
    x, y = planted(50, 12, targets=7)
    whole = fit_ridge(x, y, dtype="float64", folds=folds)
    parts = fit_ridge(x, y, dtype="float64", folds=folds, targets_at_a_time=3)
    np.testing.assert_allclose(parts.path, whole.path, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(parts.alphas, whole.alphas)
    np.testing.assert_allclose(parts.weights, whole.weights, rtol=1e-9, atol=1e-12)


def test_shared_penalty_is_the_best_on_average() -> None:
    """One penalty for all targets: that of the largest mean R2."""
    x, y = planted(60, 20)
    found = fit_ridge(x, y, shared_alpha=True)
    best = found.path.mean(axis=1).argmax()
    np.testing.assert_array_equal(found.alphas, np.full(5, ALPHAS[best]))
    np.testing.assert_array_equal(found.skill, found.path[best])


def test_constant_targets_and_features_are_harmless() -> None:
    """A constant target is predicted by itself with score 0; a constant feature has no weight."""
    x, y = planted(60, 20)
    x[:, 3], y[:, 2] = 0.1, 0.1
    for folds in (5, "loo"):
        found = fit_ridge(x, y, dtype="float64", folds=folds)
        assert found.scores[2] == found.skill[2] == 0
        np.testing.assert_allclose(found.predict(x)[:, 2], 0.1, rtol=1e-12)
        assert np.abs(found.weights[3]).max() < 1e-9
        without = fit_ridge(np.delete(x, 3, axis=1), y, dtype="float64", folds=folds)
        np.testing.assert_allclose(without.predict(np.delete(x, 3, axis=1)), found.predict(x))


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(2, 40),
    folds=st.integers(2, 6),
    shuffle=st.booleans(),
    members=st.integers(1, 4),
)
def test_folds_hold_every_row_once(n: int, folds: int, shuffle: bool, members: int) -> None:
    """Test rows partition all rows, training rows are the others, groups are never split."""
    groups = np.arange(n) // members
    if groups[-1] + 1 < folds:
        with pytest.raises(ValueError, match="folds of"):
            folds_of(n, folds, groups=groups, shuffle=shuffle)
        return
    splits = folds_of(n, folds, groups=groups, shuffle=shuffle)
    np.testing.assert_array_equal(np.sort(np.concatenate([t for _, t in splits])), np.arange(n))
    for train, test in splits:
        np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(n))
        assert not set(groups[train]) & set(groups[test])
        assert len(test)
        if not shuffle:
            assert (np.diff(test) == 1).all()


def test_blocks_are_those_of_scikit_learn() -> None:
    """Without groups and shuffling, folds are KFold's."""
    for n, k in ((10, 3), (17, 5), (40, 7)):
        for ours, theirs in zip(folds_of(n, k), KFold(k).split(np.zeros(n)), strict=True):
            for part, expected in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(part, expected)


def test_a_number_of_folds_may_be_numpys() -> None:
    """A grid search over np.arange gives NumPy integers."""
    x, y = planted(60, 20)
    np.testing.assert_array_equal(
        fit_ridge(x, y, folds=np.int64(4)).path,  # type: ignore[arg-type]
        fit_ridge(x, y, folds=4).path,
    )


def test_shuffled_folds_follow_their_seed() -> None:
    """The same seed assigns rows alike, another one does not, and neither leaves them in blocks."""
    first, again, other = (folds_of(30, 3, shuffle=True, seed=s)[0][1] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()
    assert (np.diff(first) > 1).any()


def test_autocorrelated_rows_need_blocks() -> None:
    """Slow drifts unrelated to the features look predictable in shuffled folds only."""
    rng = np.random.default_rng(0)
    t = np.linspace(0, 1, 300)[:, None]
    phase = rng.uniform(0, 2 * np.pi, size=(2, 40))
    x = np.sin(2 * np.pi * rng.uniform(1, 6, 40) * t + phase[0])
    y = np.sin(2 * np.pi * rng.uniform(1, 6, 40) * t + phase[1])
    blocks = fit_ridge(x, y, folds=5).scores.mean()
    shuffled = fit_ridge(x, y, folds=5, shuffle=True).scores.mean()
    assert shuffled > 0.9
    assert blocks < 0.6


@pytest.mark.cuda
def test_device_agrees_with_the_host() -> None:
    """A CUDA device gives the host's scores and choices."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    x, y = planted(200, 60)
    host = fit_ridge(x, y, dtype="float64")
    device = fit_ridge(x, y, dtype="float64", device="cuda")
    np.testing.assert_allclose(device.path, host.path, atol=1e-9)
    np.testing.assert_allclose(device.weights, host.weights, rtol=1e-6, atol=1e-9)


def spoilt(value: float) -> Array:
    x = np.ones((6, 4)) * np.arange(6)[:, None]
    x[2, 1] = value
    return x


GOOD = np.arange(12.0).reshape(6, 2)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((spoilt(np.nan), GOOD), {}, r"features contain NaN .* 1 of 4 columns, .* column 1"),
        ((GOOD, spoilt(np.inf)), {}, r"responses contain NaN or infinity in 1 of 4 columns"),
        ((GOOD, GOOD[:5]), {}, r"same rows, got \(6, 2\) and \(5, 2\)"),
        ((GOOD[:, 0], GOOD), {}, r"features must be a matrix, got an array of shape \(6,\)"),
        ((GOOD, GOOD[:, :0]), {}, r"responses must be a matrix"),
        ((GOOD, GOOD), {"folds": 7}, r"7 folds of 6 rows"),
        ((GOOD, GOOD), {"folds": 1}, r"at least 2 folds"),
        ((GOOD, GOOD), {"folds": "all"}, r"folds='all'"),
        ((GOOD, GOOD), {"folds": []}, r"\(train, test\)s, got \[\]"),
        ((GOOD, GOOD), {"folds": [([0, 1], [1, 2])]}, r"without overlap"),
        ((GOOD, GOOD), {"folds": 3, "groups": [0, 0, 0, 1, 1, 1]}, r"3 folds of 2 groups"),
        ((GOOD, GOOD), {"groups": [0, 1]}, r"group of each of 6 rows"),
        (
            (GOOD, GOOD),
            {"folds": "loo", "shuffle": True},
            r"shuffle are for a number.* folds are 'loo'",
        ),
        (
            (GOOD, GOOD),
            {"folds": "loo", "groups": range(6)},
            r"^groups .*for a number.* folds are 'loo'",
        ),
        (
            (GOOD, GOOD),
            {"folds": [([0, 1], [2, 3])], "groups": range(6), "shuffle": True},
            r"^groups and shuffle are for a number of folds, but folds are given themselves",
        ),
        (
            (GOOD, GOOD),
            {"folds": 2.5},
            r"folds must be a number, 'loo' or \(train, test\)s, got 2.5",
        ),
        ((GOOD, GOOD), {"alphas": 1.0}, r"alphas must be positive numbers, got 1.0"),
        ((GOOD, GOOD), {"alphas": [1.0, np.inf]}, r"alphas must be positive"),
        ((GOOD, GOOD), {"alphas": [1.0, 0.0]}, r"alphas must be positive"),
        ((GOOD, GOOD), {"alphas": []}, r"alphas must be positive"),
        ((GOOD, GOOD), {"dtype": "float16"}, r"'float32' or 'float64'"),
        ((np.ones((6, 2)), GOOD), {}, r"none of 2 features varies over the 6 rows"),
        ((GOOD, np.ones((6, 3))), {}, r"none of 3 targets varies over the 6 rows"),
        ((GOOD[:2], GOOD[:2]), {"folds": 2}, r"training rows of a fold: 1 of 2 rows"),
        ((GOOD * 1e200, GOOD), {}, r"so large that their squares overflow"),
        ((GOOD, GOOD), {"device": "gpu"}, r"unknown device 'gpu'"),
    ],
)
def test_bad_input_is_named(
    arguments: tuple[Array, Array], options: dict[str, Any], message: str
) -> None:
    """What cannot be fitted is refused, and the message says what and where."""
    with pytest.raises(ValueError, match=message):
        fit_ridge(*arguments, **options)


def test_a_device_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CUDA the message names what was asked for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device='cuda:1', but there is no CUDA device"):
        fit_ridge(GOOD, GOOD, device="cuda:1")


def test_predict_refuses_other_features() -> None:
    """A model of 20 features does not predict from 19."""
    x, y = planted(60, 20)
    with pytest.raises(ValueError, match=r"has 20 features, got \(60, 19\)"):
        fit_ridge(x, y).predict(x[:, 1:])
