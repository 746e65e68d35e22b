"""What the penalty of `b2m_fast.methods.regularize` is made of: its equations (1) to (4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from b2m_fast.ops import rsa_penalty

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["EPSILON", "Center", "SimilarityHead", "fisher_z", "pair_penalty"]

Center = Literal["ema", "batch", "none"]
EPSILON = 1e-5


def fisher_z(s: Tensor) -> Tensor:
    """Equation (3): atanh, kept finite at -1 and 1.

    Parameters
    ----------
    s : Tensor
        Similarities in [-1, 1].

    Returns
    -------
    Tensor
        F(s), of the same shape; 6.1 at s = 1.
    """
    return 0.5 * (torch.log(1 + s + EPSILON) - torch.log(1 - s + EPSILON))


def pair_penalty(
    a: Sequence[Tensor], b: Sequence[Tensor], target: Tensor, layer_weights: Tensor
) -> Tensor:
    """The penalty of (1) for a list of pairs, as the paper computes it.

    Parameters
    ----------
    a, b : sequence of Tensor
        Per layer, the (centred) patterns (p, d_k) of either image of each pair.
    target, layer_weights : Tensor
        (p,) similarities of the pairs; (layers,) mixture, gamma.

    Returns
    -------
    Tensor
        Scalar.
    """
    cosines = [
        functional.cosine_similarity(x, y, dim=1, eps=1e-12) for x, y in zip(a, b, strict=True)
    ]
    s = (layer_weights[:, None] * torch.stack(cosines)).sum(0)
    penalty: Tensor = (fisher_z(s) - fisher_z(target)).square().mean()
    return penalty


def _flat(tap: Tensor) -> Tensor:
    """A map (n, channels, h, w) as rows (n, h * w * channels): a view if channels-last."""
    return tap.permute(0, 2, 3, 1).flatten(1)


class SimilarityHead(nn.Module):
    """From the taps of a student to its penalty: centring (4), mixture (2), comparison (1).

    Parameters
    ----------
    channels : sequence of int
        Channels of each tap.
    center : {"ema", "batch", "none"}
        See `b2m_fast.methods.regularize.Regularization`.
    beta : float
        Memory of the running mean (starts at 0).
    """

    def __init__(self, channels: Sequence[int], center: Center = "ema", beta: float = 0.9) -> None:
        super().__init__()
        self.center = center
        self.beta = beta
        self.free = nn.Parameter(torch.zeros(len(channels)))
        for k, c in enumerate(channels):
            self.register_buffer(f"mean_{k}", torch.zeros(c))

    @property
    def means(self) -> list[Tensor]:
        """Running mean of each tap, (channels,)."""
        return [self.get_buffer(f"mean_{k}") for k in range(len(self.free))]

    @property
    def gamma(self) -> Tensor:
        """Mixture of the layers, (layers,); uniform at the start."""
        return torch.softmax(self.free, dim=0)

    def update(self, taps: Sequence[Tensor]) -> None:
        """Equation (4); no gradient.

        Parameters
        ----------
        taps : sequence of Tensor
            Maps (n, channels, h, w) of the images of a step.
        """
        with torch.no_grad():
            for mean, x in zip(self.means, taps, strict=True):
                mean.lerp_(x.detach().mean(dim=(0, 2, 3)), 1 - self.beta)

    def centers(self, taps: Sequence[Tensor]) -> bool | list[Tensor]:
        """What the fused op is to subtract from the flat patterns of these taps.

        Parameters
        ----------
        taps : sequence of Tensor
            Maps (n, channels, h, w).

        Returns
        -------
        bool or list of Tensor
            Running means at every place, (h * w * channels,); or whether to subtract the batch's.
        """
        if self.center != "ema":
            return self.center == "batch"
        return [
            mean.repeat(x.shape[2] * x.shape[3]) for mean, x in zip(self.means, taps, strict=True)
        ]

    def forward(self, taps: Sequence[Tensor], target: Tensor) -> Tensor:
        """Penalty over all pairs of a batch, through the fused op.

        Parameters
        ----------
        taps : sequence of Tensor
            Maps (n, channels, h, w).
        target : Tensor
            (n, n) similarities.

        Returns
        -------
        Tensor
            Scalar, equation (1) without alpha.
        """
        if self.center == "ema":
            self.update(taps)
        return rsa_penalty(
            [_flat(x) for x in taps],
            target,
            compare="atanh",
            metric="cosine",
            target_kind="similarity",
            center=self.centers(taps),
            layer_weights=self.gamma,
            epsilon=EPSILON,
        )

    def forward_pairs(self, a: Sequence[Tensor], b: Sequence[Tensor], target: Tensor) -> Tensor:
        """Penalty over given pairs, one a row: maps ``a`` against maps ``b``.

        Parameters
        ----------
        a, b : sequence of Tensor
            Maps (p, channels, h, w) of the first and the second images.
        target : Tensor
            (p,) similarities.

        Returns
        -------
        Tensor
            As `forward`.
        """
        if self.center == "ema":
            self.update([torch.cat([x, y]) for x, y in zip(a, b, strict=True)])
        left, right = [_flat(x) for x in a], [_flat(y) for y in b]
        centers = self.centers(a)
        if centers is True:
            centers = [torch.cat([x, y]).mean(0) for x, y in zip(left, right, strict=True)]
        if centers:
            left = [x - m for x, m in zip(left, centers, strict=True)]
            right = [y - m for y, m in zip(right, centers, strict=True)]
        return pair_penalty(left, right, target, self.gamma)
