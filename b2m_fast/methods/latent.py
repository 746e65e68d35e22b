r"""Brain Latent Transfer: a student's states are asked to hold the latents of a brain.

Latents z_{c,t} of a population (`b2m_fast.teachers.latents`), one course per condition c of a task
like the student's, are regressed on the student's hidden states:

    r_t = W h_t + b,     L_latent = 1/(T k) sum_t | r_t - z_{c,t} |^2,                              (1)
    L = L_task + lambda L_latent,                                                                  (2)

averaged over trials, over the T steps at which the recording says something; for an autoencoder
h is the encoder's mean of an image and z the brain's latents of that image. W is

    learned   by descent, with the student;
    fixed     k random orthonormal directions, b = 0: the student has to come to the latents;
    ridge     solved anew from every batch, with the gradient going through the solution:
              W' = (H'H + rho tr(H'H)/d I)^-1 H'Z,   H, Z the centred rows of the batch.            (3)

A learned W can satisfy (1) in directions the task never reads, so R^2 on held-out rows is always
reported, and W can be fixed to see what changes.

What is whose
-------------
That students regress brain-derived latents of similar tasks, as one of two strategies, is stated
in the abstract of Gallo Aquino et al. 2025 (arXiv 2506.20834). Its text was not available: (1) to
(3), the kinds of W, and every number here are ours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from b2m_fast.methods.pairings import Pairs

__all__ = ["LatentReadout", "ridge_solution"]

Readout = Literal["learned", "fixed", "ridge"]


def ridge_solution(h: Tensor, z: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """Equation (3): the linear readout that predicts z from h best, and its offset.

    Parameters
    ----------
    h, z : Tensor
        (n, d) and (n, k).
    rho : float
        Penalty, as a share of the mean variance of the columns of h.

    Returns
    -------
    weight, bias : Tensor
        (k, d) and (k,): r = h weight' + bias; differentiable in h.
    """
    centre, mean = h.mean(0), z.mean(0)
    rows = h - centre
    gram = rows.T @ rows
    size = rho * gram.trace() / len(gram) + torch.finfo(gram.dtype).tiny  # states may be all alike
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight = torch.linalg.solve(gram + size * identity, rows.T @ (z - mean)).T
    return weight, mean - weight @ centre


class LatentReadout(nn.Module):
    """W and b of equation (1), and the loss.

    Parameters
    ----------
    width, latents : int
        d and k.
    readout : {"learned", "fixed", "ridge"}
        What W is.
    rho : float, default 0.01
        Of "ridge".

    Examples
    --------
    >>> readout = LatentReadout(8, 2, "fixed")
    >>> torch.allclose(readout.weight @ readout.weight.T, torch.eye(2), atol=1e-6)
    True
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, width: int, latents: int, readout: Readout = "learned", *, rho: float = 0.01
    ) -> None:
        super().__init__()
        if readout not in {"learned", "fixed", "ridge"}:
            raise ValueError(f"readout must be 'learned', 'fixed' or 'ridge', got {readout!r}")
        if not 0 < rho < math.inf:
            raise ValueError(f"the ridge penalty must be positive and finite, got {rho}")
        if readout == "fixed" and latents > width:
            raise ValueError(
                f"{latents} latents have no {latents} orthonormal directions among {width} units: "
                "take fewer latents, more units, or another readout"
            )
        self.readout, self.rho = readout, rho
        start = nn.Linear(width, latents)
        if readout == "learned":
            self.weight, self.bias = start.weight, start.bias
            return
        weight = torch.zeros(latents, width)
        if readout == "fixed":
            nn.init.orthogonal_(weight)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", torch.zeros(latents))

    def read(self, h: Tensor) -> Tensor:
        """Equation (1): r; with "ridge" by the W and b of the last training batch.

        Parameters
        ----------
        h : Tensor
            (n, d).

        Returns
        -------
        Tensor
            (n, k).
        """
        return nn.functional.linear(_wide(h), self.weight, self.bias)

    def forward(self, pairs: Pairs) -> Tensor:
        """L_latent of equation (1).

        Parameters
        ----------
        pairs : Pairs
            Rows of the student and latents.

        Returns
        -------
        Tensor
            Scalar.
        """
        with torch.autocast(pairs.student.device.type, enabled=False):
            h, z = _wide(pairs.student), _wide(pairs.brain)
            if self.readout != "ridge":
                return (self.read(h) - z).square().mean()
            weight, bias = ridge_solution(h, z, self.rho)
            with torch.no_grad():
                self.weight.copy_(weight)
                self.bias.copy_(bias)
            return (nn.functional.linear(h, weight, bias) - z).square().mean()

    @torch.no_grad()
    def quality(self, pairs: Pairs) -> dict[str, float]:
        """R^2 of the readout: 1 - sum |r - z|^2 / sum |z - mean z|^2, over all latents.

        Parameters
        ----------
        pairs : Pairs
            Held-out rows.

        Returns
        -------
        dict
            ``readout_r2``; NaN if the latents do not vary.
        """
        with torch.autocast(pairs.student.device.type, enabled=False):
            z = pairs.brain.double()
            missed = (self.read(pairs.student).double() - z).square().sum()
            spread = (z - z.mean(0)).square().sum()
        return {"readout_r2": float(1 - missed / spread) if spread > 0 else math.nan}


def _wide(x: Tensor) -> Tensor:
    """At least float32: sums over rows do not fit less."""
    return x if x.dtype == torch.float64 else x.float()
