"""The core-and-readout network: finds planted neurons, stops by itself, repeats itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from b2m_fast.encoding.columns import column_correlation
from b2m_fast.encoding.core_readout import (
    CoreReadoutSettings,
    _Network,
    fit_core_readout,
)

SMALL = CoreReadoutSettings(size=16, channels=8, layers=2, epochs=25, sparsity=0.005)


def spots(n: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Smooth gray images, and two neurons that count light at a place of their own, noisily."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(n, 4, 4)).astype(np.uint8)
    images = coarse.repeat(4, axis=1).repeat(4, axis=2)[..., None]
    light = coarse / 255
    rate = np.stack([8 * light[:, 0, 0] + 0.5, 8 * (1 - light[:, 3, 2]) + 0.5], axis=1)
    return images, rng.poisson(rate).astype(float)


@pytest.mark.slow
def test_planted_neurons_are_found() -> None:
    """New images are predicted nearly as well as the noise of counting allows."""
    images, counts = spots(400)
    model = fit_core_readout(images, counts, settings=SMALL)
    new, observed = spots(200, seed=1)
    predicted = model.predict(new)
    assert predicted.shape == (200, 2)
    assert (predicted > 0).all()
    assert column_correlation(predicted, observed).min() > 0.6
    np.testing.assert_allclose(predicted.mean(axis=0), observed.mean(axis=0), rtol=0.15)


def test_responses_below_zero_take_squared_error() -> None:
    """With loss="mse" responses may be negative; predictions follow them."""
    images, counts = spots(400)
    centred = counts - counts.mean(axis=0)
    model = fit_core_readout(images, centred, settings=replace(SMALL, loss="mse"))
    new, observed = spots(200, seed=1)
    assert column_correlation(model.predict(new), observed).min() > 0.6


def test_it_stops_and_keeps_the_best() -> None:
    """Noise: training ends before its last pass, with the weights of the best one."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(60, 16, 16, 3)).astype(np.uint8)
    noise = rng.poisson(3, size=(60, 4)).astype(float)
    how = replace(SMALL, epochs=200, patience=2, drops=1)
    model = fit_core_readout(images, noise, settings=how)
    assert len(model.history) < 200
    assert model.history[-1] > min(model.history)
    held = np.random.default_rng(0).permutation(60)[: round(0.15 * 60)]  # as the fit draws them
    rate = model.predict(images[held]) / model.scale
    target = noise[held] / model.scale
    loss = (rate - target * np.log(rate)).mean()
    np.testing.assert_allclose(loss, min(model.history), rtol=1e-4)


def test_seed_decides_everything() -> None:
    """The same seed repeats the fit to the bit and leaves torch's generator; another one does not."""
    images, counts = spots(80)
    how = replace(SMALL, epochs=2)
    state = torch.random.get_rng_state()
    first, again, other = (
        fit_core_readout(images, counts, settings=how, seed=s).predict(images) for s in (1, 1, 2)
    )
    assert torch.equal(state, torch.random.get_rng_state())
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_readout_is_places_times_channels() -> None:
    """output = sum_xy s_xy sum_c w_c maps_c(x, y) + b, of the maps of the core."""
    torch.manual_seed(0)
    network = _Network(1, 3, CoreReadoutSettings(size=16, channels=2, layers=1, loss="mse")).eval()
    x = torch.randn(5, 1, 16, 16)
    maps = torch.nn.functional.elu(network.norm(network.first(x)))
    place = network.place.view(3, 8, 8)
    expected = torch.einsum("bcxy,nxy,nc->bn", maps, place, network.weight) + network.bias
    torch.testing.assert_close(network(x), expected)


def test_bad_input_is_named() -> None:
    """Too few images, other images, NaN, negative counts and impossible settings are refused."""
    images, counts = spots(30)
    with pytest.raises(ValueError, match=r"at least 20 images .* got 19 and \(19, 2\)"):
        fit_core_readout(images[:19], counts[:19])
    with pytest.raises(ValueError, match=r"got 30 and \(29, 2\)"):
        fit_core_readout(images, counts[1:])
    with pytest.raises(ValueError, match="NaN"):
        fit_core_readout(images, counts * np.nan)
    with pytest.raises(ValueError, match="cannot be negative, got -1; use loss='mse'"):
        fit_core_readout(images, counts - counts.min() - 1)
    with pytest.raises(ValueError, match="uint8"):
        fit_core_readout(images / 255, counts)  # type: ignore[arg-type]
    for wrong in ({"loss": "l1"}, {"size": 8}, {"epochs": 0}):
        with pytest.raises(ValueError, match=r"unknown loss|at least 16"):
            CoreReadoutSettings(**wrong)
    with pytest.raises(ValueError, match="share of the images"):
        CoreReadoutSettings(validation=1.0)
