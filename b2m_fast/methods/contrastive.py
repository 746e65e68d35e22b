r"""Brain Contrastive Transfer: a student and a brain are asked to tell samples apart alike.

Two linear heads bring features of the brain b_n and activations of the student h_n of the same
sample into one space; each is asked to pick its partner out of the whole batch:

    p_n = normalize(W_b b_n + c_b),   q_n = normalize(W_h h_n + c_h),   S_nm = p_n . q_m / tau      (1)
    L_contrastive = 1/2 [ mean_n -log softmax_m(S_nm)[n] + mean_m -log softmax_n(S_nm)[m] ]         (2)
    L = L_task + lambda L_contrastive                                                              (3)

Where samples are of the same condition or image, taking each other for partners is no mistake:
the log-probability in (2) is then averaged over all samples of the label. (2) is
`b2m_fast.info_nce`, which never stores S. tau is fixed, or learned and kept at 0.01 or above. The
brain is data and gets no gradient; the heads are thrown away after training.

h is the mean of hidden states over a window, or a hidden state a row (`b2m_fast.methods.pairings`);
for an autoencoder the encoder's mean.

What is whose
-------------
That brain activity and activations are aligned through a contrastive objective, as one of two
strategies, is stated in the abstract of Gallo Aquino et al. 2025 (arXiv 2506.20834). Its text was
not available: (1) to (3), where h is taken, and every number here are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from b2m_fast.nn import InfoNCELoss
from b2m_fast.ops import topk_similarity

if TYPE_CHECKING:
    from b2m_fast.methods.pairings import Pairs

__all__ = ["LOWEST_TEMPERATURE", "ContrastiveHeads"]

LOWEST_TEMPERATURE = 0.01


class ContrastiveHeads(nn.Module):
    """The heads and the temperature of equation (1), and the loss (2).

    Parameters
    ----------
    width, features : int
        Columns of h and of b.
    dimension : int, default 64
        Columns of p and q.
    temperature : float, default 0.07
        tau, or where it starts; 0.01 or above.
    learn_temperature : bool, default False
        Learn it.

    Examples
    --------
    >>> heads = ContrastiveHeads(8, 20)
    >>> heads(Pairs(torch.randn(6, 8), torch.randn(6, 20), torch.arange(6))).shape
    torch.Size([])
    """

    def __init__(
        self,
        width: int,
        features: int,
        dimension: int = 64,
        *,
        temperature: float = 0.07,
        learn_temperature: bool = False,
    ) -> None:
        super().__init__()
        if dimension < 1:
            raise ValueError(f"dimension must be at least 1, got {dimension}")
        if not temperature >= LOWEST_TEMPERATURE:
            raise ValueError(
                f"temperature must be at least {LOWEST_TEMPERATURE}, got {temperature}"
            )
        self.student = nn.Linear(width, dimension)  # W_h, c_h
        self.brain = nn.Linear(features, dimension)  # W_b, c_b
        self.loss = InfoNCELoss(
            temperature, learnable=learn_temperature, max_logit_scale=1 / LOWEST_TEMPERATURE
        )

    @property
    def temperature(self) -> float:
        """Tau, as the loss uses it."""
        return 1 / torch.as_tensor(self.loss.logit_scale()).item()

    def forward(self, pairs: Pairs) -> Tensor:
        """Equation (2), normalised inside the op.

        Parameters
        ----------
        pairs : Pairs
            Rows of student and brain; rows of the same label are positives of one another.

        Returns
        -------
        Tensor
            Scalar.
        """
        p, q = self.brain(pairs.brain), self.student(pairs.student)
        loss: Tensor = self.loss(p, q, labels=pairs.label)
        return loss

    @torch.no_grad()
    def quality(self, pairs: Pairs) -> dict[str, float]:
        """How often the nearest row of the other side is of the same label.

        Parameters
        ----------
        pairs : Pairs
            Held-out rows.

        Returns
        -------
        dict
            ``retrieval`` (a row of the student finds the brain's), ``retrieval_reverse``,
            ``retrieval_chance`` (of a random row), ``temperature``.
        """
        p, q = self.brain(pairs.brain), self.student(pairs.student)
        label = pairs.label

        def found(rows: Tensor, others: Tensor) -> float:
            nearest = topk_similarity(rows, others, k=1)[1][:, 0]
            return float((label[nearest] == label).double().mean())

        _, which, counts = label.unique(return_inverse=True, return_counts=True)
        return {
            "retrieval": found(q, p),
            "retrieval_reverse": found(p, q),
            "retrieval_chance": float(counts[which].double().mean()) / len(label),
            "temperature": self.temperature,
        }
