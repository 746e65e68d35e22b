"""Principal components of layers, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from b2m_fast.encoding.components import fit_components

RNG = np.random.default_rng


def layers(n: int = 40, seed: int = 0) -> list[np.ndarray]:
    """One layer of fewer features than rows, one of more; far from 0, of very unequal size."""
    rng = RNG(seed)
    return [
        rng.normal(size=(n, p)) @ rng.normal(size=(p, p)) * scale + 5
        for p, scale in ((12, 100.0), (70, 0.01))
    ]


@pytest.mark.parametrize("k", [3, None])
def test_scores_are_those_of_pca(k: int | None) -> None:
    """Up to sign and a common scale, scores of new rows are scikit-learn's, layer by layer."""
    train, new = layers(), layers(seed=1)
    found = fit_components(train, k)
    scores, at = found.transform(new), 0
    assert scores.dtype == np.float32
    for number, (x, y) in enumerate(zip(train, new, strict=True)):
        count = len(found.explained[number])
        assert count == (k or min(x.shape[1], len(x) - 1))
        oracle = PCA(count, svd_solver="full").fit(x)
        np.testing.assert_allclose(
            found.explained[number], oracle.explained_variance_ratio_, rtol=1e-6, atol=1e-9
        )
        ours, theirs = scores[:, at : at + count], oracle.transform(y)
        at += count
        expected = theirs / np.sqrt(oracle.transform(x).var(axis=0).sum())
        sign = np.sign((ours * expected).sum(axis=0))
        np.testing.assert_allclose(ours * sign, expected, atol=2e-4)
    assert at == scores.shape[1]


def test_layers_weigh_alike() -> None:
    """In the fitted rows every layer has total variance 1, whatever its size."""
    train = layers()
    found = fit_components(train)
    scores = found.transform(train)
    first = len(found.explained[0])
    np.testing.assert_allclose(scores[:, :first].var(axis=0).sum(), 1, rtol=1e-4)
    np.testing.assert_allclose(scores[:, first:].var(axis=0).sum(), 1, rtol=1e-4)


def test_all_components_only_rotate() -> None:
    """With all components distances between the fitted rows are kept, up to the layer's scale."""
    x = layers()[1]
    scores = fit_components([x]).transform([x]).astype(float)
    gram = (x - x.mean(axis=0)) @ (x - x.mean(axis=0)).T
    ours = scores @ scores.T
    np.testing.assert_allclose(ours / np.trace(ours), gram / np.trace(gram), atol=1e-6)


def test_share_of_the_variance() -> None:
    """A share keeps the fewest components that hold it."""
    x = layers()[0]
    found = fit_components([x], 0.9).explained[0]
    assert found.sum() >= 0.9 > found[:-1].sum()


def test_rounding_errors_are_no_components() -> None:
    """Duplicated features and rows add no component."""
    rng = RNG(0)
    x = rng.normal(size=(30, 4)) @ rng.normal(size=(4, 50))
    assert len(fit_components([x]).explained[0]) == 4
    assert len(fit_components([x, x], 10).explained[1]) == 4


def test_bad_input_is_named() -> None:
    """Layers of unequal rows, NaN, constants, and impossible numbers of components."""
    a, b = layers()
    with pytest.raises(ValueError, match=r"same rows, got \[40, 39\]"):
        fit_components([a, b[1:]])
    with pytest.raises(ValueError, match="same rows"):
        fit_components([])
    with pytest.raises(ValueError, match=r"layer 1 \(40, 70\) holds NaN"):
        fit_components([a, b * np.nan])
    with pytest.raises(ValueError, match=r"layer 0 .* never varies"):
        fit_components([np.ones((5, 3))])
    for k in (0, -1, 1.5):
        with pytest.raises(ValueError, match="number of components"):
            fit_components([a], k)
    with pytest.raises(ValueError, match=r"layers of \[12, 70\] features, got \[12\]"):
        fit_components([a, b]).transform([a])
