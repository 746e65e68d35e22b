"""Maps of the controls of brain-mediated transfer are what they say, and nothing of a brain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from b2m_fast.experiments.mediated_data import principal_map, random_map_like


@given(st.integers(0, 10**6), st.sampled_from([(12, 7), (6, 20)]))
def test_a_random_map_keeps_the_spectrum_and_nothing_else(
    seed: int, shape: tuple[int, int]
) -> None:
    """Singular values are the brain's; the range is another."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=shape)
    found = random_map_like(w, rng)
    values = np.linalg.svd(w, compute_uv=False)
    np.testing.assert_allclose(np.linalg.svd(found, compute_uv=False), values, rtol=1e-9)
    assert not np.allclose(found @ found.T, w @ w.T)


@pytest.mark.parametrize("shape", [(40, 9), (9, 40)])
def test_principal_map_is_the_leading_axes(shape: tuple[int, int]) -> None:
    """The axes are those of the singular value decomposition, up to sign, in either form."""
    x = np.random.default_rng(7).normal(size=shape)
    _, _, axes = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    found = principal_map(x, 4)
    np.testing.assert_allclose(np.abs(axes[:4] @ found), np.eye(4), atol=1e-8)
    assert principal_map(x, 1000).shape[1] == min(shape[0] - 1, shape[1])
    with pytest.raises(ValueError, match="rank must be at least 1"):
        principal_map(x, 0)


@pytest.mark.parametrize("shape", [(200, 60), (60, 200)])
def test_a_principal_map_is_orthonormal_for_real_spectra(shape: tuple[int, int]) -> None:
    """In spectra as steep as those of networks; directions in which nothing varies are no axes."""
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(shape[1], 30)))
    x = rng.normal(size=(shape[0], 30)) * 10.0 ** -np.linspace(0, 4, 30) @ axes.T
    found = principal_map(x, 50)
    assert found.shape == (shape[1], 30)
    np.testing.assert_allclose(found.T @ found, np.eye(30), atol=1e-8)
    np.testing.assert_allclose(found @ (found.T @ axes), axes, atol=1e-6)
