"""Recurrent students: a leaky rate network and a GRU, with their hidden states for others to read.

The leaky network is Euler's step of tau dh/dt = -h + W_rec phi(h) + W_in u + b + sigma xi:

    h_t = (1 - a) h_{t-1} + a ( W_rec phi(h_{t-1}) + W_in u_t + b + sigma xi_t ),   a = dt / tau  (1)
    y_t = W_out phi(h_t) + b_out                                                                  (2)

with h_0 = 0, phi a rectifier or tanh, and xi white noise of standard deviation 1. The GRU is
PyTorch's, with y_t = W_out h_t + b_out.

Only that such networks learned memory tasks is the paper's (`docs/brain2model.md`); sizes,
constants and the start of the weights are ours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from b2m_fast.students import student

if TYPE_CHECKING:
    from collections.abc import Callable

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}


@student("rnn", "leaky rate units with noise", kind="trials")
class LeakyRNN(nn.Module):
    """Leaky rate network, equations (1) and (2).

    Recurrent weights start orthogonal, so that what is in memory neither fades nor grows.

    Parameters
    ----------
    channels, classes : int
        Inputs and outputs.
    units : int, default 128
        Hidden units.
    step_ms : float
        Time step dt, in milliseconds.
    tau_ms : float, optional
        Time constant tau, in milliseconds, at least dt; default: 100, or dt where that is longer.
    noise : float, default 0.05
        sigma.
    activation : {"relu", "tanh"}
        phi.

    Examples
    --------
    >>> logits, hidden = LeakyRNN(3, 2, units=16)(torch.rand(50, 8, 3))
    >>> logits.shape, hidden.shape
    (torch.Size([50, 8, 2]), torch.Size([50, 8, 16]))
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        units: int = 128,
        step_ms: float = 20.0,
        *,
        tau_ms: float | None = None,
        noise: float = 0.05,
        activation: Literal["relu", "tanh"] = "relu",
    ) -> None:
        super().__init__()
        if tau_ms is None:
            tau_ms = max(100.0, step_ms)
        if not 0 < step_ms <= tau_ms < math.inf:
            got = f"got step_ms={step_ms} and tau_ms={tau_ms}"
            raise ValueError(f"a time step must be above 0 and at most the time constant, {got}")
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise must be at least 0 and finite, got {noise}")
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {[*_ACTIVATIONS]}, got {activation!r}")
        self.alpha = step_ms / tau_ms
        self.noise = noise
        self.activation = activation
        self.channels, self.classes, self.units = channels, classes, units
        self.input = nn.Linear(channels, units)  # W_in and b
        self.recurrent = nn.Linear(units, units, bias=False)  # W_rec
        self.output = nn.Linear(units, classes)
        nn.init.orthogonal_(self.recurrent.weight)

    def forward(
        self, inputs: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return logits (steps, trials, classes) and states h from h_0 = 0; the noise comes from `generator`, or there is none."""
        steps, trials = _shape(inputs, self.input.in_features)
        phi = _ACTIVATIONS[self.activation]
        drive = self.input(inputs).to(self.input.weight)  # states keep their digits under autocast
        if generator is not None and self.noise > 0:
            size = (steps, trials, self.units)
            xi = torch.randn(size, generator=generator, device=generator.device)
            drive = drive + self.noise * xi.to(drive)
        state = drive.new_zeros(trials, self.units)
        states = []
        for u in self.alpha * drive:
            state = torch.lerp(state, self.recurrent(phi(state)).to(state), self.alpha) + u
            states.append(state)
        hidden = torch.stack(states)
        return self.output(phi(hidden)), hidden


@student("gru", "gated recurrent units", kind="trials")
class GRUStudent(nn.Module):
    """Gated recurrent units (Cho et al. 2014) with a linear readout.

    Parameters
    ----------
    channels, classes : int
        Inputs and outputs.
    units : int, default 128
        Hidden units.

    Examples
    --------
    >>> logits, hidden = GRUStudent(3, 2, units=16)(torch.rand(50, 8, 3))
    >>> logits.shape, hidden.shape
    (torch.Size([50, 8, 2]), torch.Size([50, 8, 16]))
    """

    def __init__(self, channels: int, classes: int, units: int = 128) -> None:
        super().__init__()
        self.channels, self.classes, self.units = channels, classes, units
        self.recurrent = nn.GRU(channels, units)
        self.output = nn.Linear(units, classes)

    def forward(
        self,
        inputs: Tensor,
        *,
        generator: torch.Generator | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Return logits (steps, trials, classes) and states h from h_0 = 0; there is no noise."""
        _shape(inputs, self.recurrent.input_size)
        hidden, _ = self.recurrent(inputs)
        return self.output(hidden), hidden


def _shape(inputs: Tensor, channels: int) -> tuple[int, int]:
    """Return steps and trials of inputs; raise ValueError for another shape."""
    if inputs.ndim != 3 or inputs.shape[2] != channels or not inputs.shape[0]:
        expected = f"(steps, trials, {channels}) with at least one step"
        raise ValueError(f"inputs have shape {tuple(inputs.shape)}; expected {expected}")
    return inputs.shape[0], inputs.shape[1]
