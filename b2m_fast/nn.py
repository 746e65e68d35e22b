"""The ops as modules, for code that composes modules and for parameters that are learned."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import ops

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    Target = Tensor | npt.NDArray[np.floating[Any]]

__all__ = [
    "InfoNCELoss",
    "PairSimilarity",
    "PairwiseSimilarity",
    "RSAPenalty",
    "RSAScore",
    "SigmoidContrastiveLoss",
    "TopKSimilarity",
]


class _Options(torch.nn.Module):
    """A module whose state is a set of options passed on to its op."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def extra_repr(self) -> str:
        """Return the options, for printing."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class PairwiseSimilarity(_Options):
    """`ops.pairwise_similarity` as a module.

    Parameters
    ----------
    metric, gamma, condensed
        As in `ops.pairwise_similarity`.

    Examples
    --------
    >>> PairwiseSimilarity(metric="dot")(torch.eye(2))
    tensor([[1., 0.],
            [0., 1.]])
    """

    def __init__(
        self, metric: str = "cosine", *, gamma: float | None = None, condensed: bool = False
    ) -> None:
        super().__init__(metric=metric, gamma=gamma, condensed=condensed)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the scores of x (n, d) against y (m, d), or against itself."""
        return ops.pairwise_similarity(x, y, **self.options)


class PairSimilarity(_Options):
    """`ops.pair_similarity` as a module.

    Parameters
    ----------
    metric, gamma
        As in `ops.pair_similarity`.

    Examples
    --------
    >>> PairSimilarity("dot")(torch.eye(2), torch.tensor([0]), torch.tensor([1]))
    tensor([0.])
    """

    def __init__(self, metric: str = "cosine", *, gamma: float | None = None) -> None:
        super().__init__(metric=metric, gamma=gamma)

    def forward(self, x: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Return the scores of the pairs (i[p], j[p]) of rows of x (n, d)."""
        return ops.pair_similarity(x, i, j, **self.options)


class TopKSimilarity(_Options):
    """`ops.topk_similarity` as a module.

    Parameters
    ----------
    k, metric, gamma
        As in `ops.topk_similarity`.

    Examples
    --------
    >>> TopKSimilarity(k=1)(torch.eye(2), torch.eye(2))[1]
    tensor([[0],
            [1]])
    """

    def __init__(self, k: int = 1, metric: str = "cosine", *, gamma: float | None = None) -> None:
        super().__init__(k=k, metric=metric, gamma=gamma)

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return values and indices (n, k) of the best keys of each row of x (n, d)."""
        return ops.topk_similarity(x, y, **self.options)


class InfoNCELoss(_Options):
    r"""`ops.info_nce` as a module, with a fixed or a learned temperature.

    A learned one is the parameter log_logit_scale, logit_scale = exp(log_logit_scale), which is
    clamped to `max_logit_scale` in the forward pass (Radford et al. 2021 use 100).

    Parameters
    ----------
    temperature
        Fixed value, or the start of a learned one.
    learnable
        Learn it.
    max_logit_scale
        Upper bound of a learned 1 / temperature.
    metric, symmetric, label_smoothing, reduction
        As in `ops.info_nce`.

    Examples
    --------
    >>> InfoNCELoss(temperature=1.0)(torch.eye(2), torch.eye(2))
    tensor(0.3133)
    """

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        learnable: bool = False,
        max_logit_scale: float = 100.0,
        metric: str = "cosine",
        symmetric: bool = True,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            metric=metric,
            symmetric=symmetric,
            label_smoothing=label_smoothing,
            reduction=reduction,
        )
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; expected a number above 0")
        if learnable and temperature * max_logit_scale < 1:
            raise ValueError(
                f"temperature is {temperature}, but max_logit_scale is {max_logit_scale}; a learned "
                f"temperature starts at {1 / max_logit_scale} or above"
            )
        self.max_logit_scale = max_logit_scale
        self.temperature = temperature
        self.log_logit_scale: torch.nn.Parameter | None
        if learnable:
            self.log_logit_scale = torch.nn.Parameter(torch.tensor(-math.log(temperature)))
        else:
            self.register_parameter("log_logit_scale", None)

    def extra_repr(self) -> str:
        """Return temperature and options, for printing."""
        learned = self.log_logit_scale is not None
        start = "learned from " if learned else ""
        return f"temperature={start}{self.temperature}, {super().extra_repr()}"

    def logit_scale(self) -> Tensor | float:
        """Return 1 / temperature, as the loss uses it."""
        if self.log_logit_scale is None:
            return 1 / self.temperature
        return torch.exp(self.log_logit_scale.clamp(max=math.log(self.max_logit_scale)))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        *,
        labels: Tensor | None = None,
        key_labels: Tensor | None = None,
        extra_keys: Tensor | None = None,
        weights: Tensor | None = None,
        key_weights: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of queries (N, d) and keys (M, d)."""
        loss: Tensor = ops.info_nce(
            query,
            key,
            logit_scale=self.logit_scale(),
            labels=labels,
            key_labels=key_labels,
            extra_keys=extra_keys,
            weights=weights,
            key_weights=key_weights,
            **self.options,
        )
        return loss


class SigmoidContrastiveLoss(_Options):
    r"""`ops.sigmoid_contrastive` as a module, with scale and bias fixed or learned.

    Parameters
    ----------
    logit_scale, logit_bias
        Fixed values, or the start of learned ones (Zhai et al. 2023 start at 10 and -10); the scale
        is learned as its logarithm.
    learnable
        Learn both.
    metric, reduction
        As in `ops.sigmoid_contrastive`.

    Examples
    --------
    >>> SigmoidContrastiveLoss(2.0, -1.0)(torch.eye(2), torch.eye(2))
    tensor(0.6265)
    """

    def __init__(
        self,
        logit_scale: float = 10.0,
        logit_bias: float = -10.0,
        *,
        learnable: bool = False,
        metric: str = "cosine",
        reduction: str = "mean",
    ) -> None:
        super().__init__(metric=metric, reduction=reduction)
        if not logit_scale > 0:
            raise ValueError(f"logit_scale is {logit_scale}; expected a number above 0")
        self.log_logit_scale = torch.nn.Parameter(
            torch.tensor(math.log(logit_scale)), requires_grad=learnable
        )
        self.logit_bias = torch.nn.Parameter(
            torch.tensor(float(logit_bias)), requires_grad=learnable
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        *,
        labels: Tensor | None = None,
        key_labels: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of queries (N, d) and keys (M, d)."""
        return ops.sigmoid_contrastive(
            query,
            key,
            logit_scale=self.log_logit_scale.exp(),
            logit_bias=self.logit_bias,
            labels=labels,
            key_labels=key_labels,
            weights=weights,
            **self.options,
        )


class RSAPenalty(_Options):
    r"""`ops.rsa_penalty` as a module; with `layers`, their mixture is learned.

    With several layers, g = softmax(layer_logits), started uniform (Li et al. 2019).

    Parameters
    ----------
    compare, metric, target_metric, target_kind, center, target_center, gamma, epsilon, form
        As in `ops.rsa_penalty`.
    layers
        Number of layers of a list of features; None for a single tensor.

    Examples
    --------
    >>> penalty = RSAPenalty(compare="pearson", layers=2)
    >>> features = [torch.eye(4, requires_grad=True), torch.randn(4, 3)]
    >>> penalty(features, torch.randn(4, 5)).backward()
    >>> penalty.layer_weights()
    tensor([0.5000, 0.5000], grad_fn=<SoftmaxBackward0>)
    """

    def __init__(
        self,
        compare: str = "atanh",
        *,
        metric: str = "cosine",
        target_metric: str | None = None,
        target_kind: str = "responses",
        center: bool = False,
        target_center: bool = False,
        gamma: float | None = None,
        layers: int | None = None,
        epsilon: float = 1e-5,
        form: str = "auto",
    ) -> None:
        super().__init__(
            compare=compare,
            metric=metric,
            target_metric=target_metric,
            target_kind=target_kind,
            center=center,
            target_center=target_center,
            gamma=gamma,
            epsilon=epsilon,
            form=form,
        )
        self.layer_logits: torch.nn.Parameter | None
        if layers is None:
            self.register_parameter("layer_logits", None)
        elif layers < 1:
            raise ValueError(f"layers is {layers}; expected at least 1, or None")
        else:
            self.layer_logits = torch.nn.Parameter(torch.zeros(layers))

    def layer_weights(self) -> Tensor | None:
        """Return the mixture g, or None for a single layer."""
        return None if self.layer_logits is None else self.layer_logits.softmax(dim=0)

    def forward(
        self,
        features: Tensor | Sequence[Tensor],
        target: Target,
        *,
        pair_weights: Target | None = None,
    ) -> Tensor:
        """Return the penalty of features (n, d), or a list of layers, against a target."""
        return ops.rsa_penalty(
            features,
            target,
            layer_weights=self.layer_weights(),
            pair_weights=pair_weights,
            **self.options,
        )


class RSAScore(_Options):
    """`ops.rsa_score` as a module.

    Parameters
    ----------
    compare, metric, y_metric, x_kind, y_kind, center, y_center, gamma, epsilon, form
        As in `ops.rsa_score`.

    Examples
    --------
    >>> x = torch.randn(5, 3)
    >>> RSAScore("spearman")(x, x)
    tensor(1.)
    """

    def __init__(
        self,
        compare: str = "pearson",
        *,
        metric: str = "cosine",
        y_metric: str | None = None,
        x_kind: str = "responses",
        y_kind: str = "responses",
        center: bool = False,
        y_center: bool = False,
        gamma: float | None = None,
        epsilon: float = 1e-5,
        form: str = "auto",
    ) -> None:
        super().__init__(
            compare=compare,
            metric=metric,
            y_metric=y_metric,
            x_kind=x_kind,
            y_kind=y_kind,
            center=center,
            y_center=y_center,
            gamma=gamma,
            epsilon=epsilon,
            form=form,
        )

    def forward(self, x: Target, y: Target, *, pair_weights: Target | None = None) -> Tensor:
        """Return the comparison of x with y."""
        return ops.rsa_score(x, y, pair_weights=pair_weights, **self.options)
