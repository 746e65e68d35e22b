"""The ops as modules, for code that composes modules and for parameters that are learned."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

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
    r"""`ops.rsa_penalty` as a module, with a learned mixture of layers and a running mean pattern.

    With several layers, g = softmax(layer_logits), started uniform (Li et al. 2019). With
    ``center="ema"`` the mean pattern that is subtracted is an exponential moving average over the
    batches seen in training mode,

    .. math:: \mu \leftarrow m \mu + (1 - m) \, \mathrm{mean}(f),

    which starts at 0, is updated with a batch before it is subtracted from it, and has no gradient.

    Parameters
    ----------
    compare, metric, target_metric, target_kind, target_center, gamma, epsilon, form
        As in `ops.rsa_penalty`.
    center
        False; True: the mean pattern of the batch; "ema": a running mean for each layer, of rows
        (n, d) one number a column, of maps (n, c, h, w) one a channel, over images and places.
    momentum
        m, the share that a running mean keeps of itself at each batch; from 0 to 1.
    channels
        (layers,): columns or channels of each layer, or of the single tensor, for running means
        that exist from the start; without it they are created by the first batch in training mode,
        or by a state dict that holds them. They are the buffers mean_0, mean_1, ...
    layers
        Number of layers of a list of features; None for a single tensor, or for a list with equal
        weights.

    Raises
    ------
    ValueError
        Naming the argument, what it was and what was expected.
    RuntimeError
        In eval mode, if ``center="ema"`` has no running mean yet.

    Notes
    -----
    Features may be maps (n, c, ...): they are compared as rows, flattened channels last, which is a
    view of maps stored in that order. In eval mode running means stay as they are.

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
        center: bool | Literal["ema"] = False,
        momentum: float = 0.9,
        channels: Sequence[int] | None = None,
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
        self._running = isinstance(center, str)
        if isinstance(center, str) and center != "ema":
            raise ValueError(f"center is {center!r}; expected False, True or 'ema'")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum is {momentum}; expected a number from 0 to 1")
        if channels is not None and not self._running:
            raise ValueError("channels are those of running means; give center='ema' as well")
        if channels is not None and layers is not None and len(channels) != layers:
            raise ValueError(
                f"channels has {len(channels)} entries; expected {layers}, one a layer"
            )
        self.momentum = momentum
        for k, size in enumerate(channels or ()):
            self.register_buffer(f"mean_{k}", torch.zeros(size))
        self.layer_logits: torch.nn.Parameter | None
        if layers is None:
            self.register_parameter("layer_logits", None)
        elif layers < 1:
            raise ValueError(f"layers is {layers}; expected at least 1, or None")
        else:
            self.layer_logits = torch.nn.Parameter(torch.zeros(layers))

    def extra_repr(self) -> str:
        """Return the options, for printing."""
        momentum = f", momentum={self.momentum}" if self._running else ""
        return super().extra_repr() + momentum

    def layer_weights(self) -> Tensor | None:
        """Return the mixture g, or None for a single layer."""
        return None if self.layer_logits is None else self.layer_logits.softmax(dim=0)

    def running_means(self) -> list[Tensor]:
        """Return the running mean of each layer, (columns or channels,); none before a batch."""
        buffers = self.named_buffers(recurse=False)
        return [buffer for name, buffer in buffers if name.startswith("mean_")]

    def forward(
        self,
        features: Tensor | Sequence[Tensor],
        target: Target,
        *,
        pairs: tuple[Tensor, Tensor] | None = None,
        pair_weights: Target | None = None,
    ) -> Tensor:
        """Return the penalty of features (n, d) or (n, c, ...), or a list of layers.

        Parameters
        ----------
        features
            Rows or maps, or a list of them.
        target
            As in `ops.rsa_penalty`; with `pairs` also (p,), the similarity of each pair.
        pairs
            (i, j), integers (p,) each: compare only the rows i[p] with the rows j[p] (mse, atanh,
            pearson and cosine). Takes n^2 numbers of memory. The running mean takes all n rows.
        pair_weights
            As in `ops.rsa_penalty`; not together with `pairs`.

        Returns
        -------
        Tensor
            Scalar.

        Examples
        --------
        >>> first, second = torch.eye(2), torch.ones(2, 2)
        >>> i = torch.arange(2)
        >>> similarities = torch.tensor([0.5, 0.5])
        >>> RSAPenalty("mse")(torch.cat([first, second]), similarities, pairs=(i, i + 2))
        tensor(0.0429)
        """
        single = isinstance(features, Tensor)
        maps = [features] if isinstance(features, Tensor) else list(features)
        rows = [x.flatten(2).transpose(1, 2).flatten(1) if x.ndim > 2 else x for x in maps]
        options = dict(self.options)
        if self._running:
            means = zip(self._updated_means(maps), rows, strict=True)
            centers = [mean.repeat(x.shape[1] // len(mean)) for mean, x in means]
            options["center"] = centers[0] if single else centers
        if pairs is not None:
            if pair_weights is not None:
                raise ValueError("pairs and pair_weights are both given; expected at most one")
            places = torch.minimum(*pairs), torch.maximum(*pairs)
            pair_weights = rows[0].new_zeros((len(rows[0]), len(rows[0])), dtype=torch.float32)
            if target.ndim == 1:
                similarities = target if isinstance(target, Tensor) else torch.tensor(target)
                target = pair_weights.to(similarities.dtype).index_put(places, similarities)
                options["target_kind"] = "similarity"
            ones = pair_weights.new_ones(len(pairs[0]))
            pair_weights.index_put_(places, ones, accumulate=True)
        return ops.rsa_penalty(
            rows[0] if single else rows,
            target,
            layer_weights=self.layer_weights(),
            pair_weights=pair_weights,
            **options,
        )

    def _updated_means(self, maps: list[Tensor]) -> list[Tensor]:
        """Return the running means, in training mode with this batch in them."""
        if self.training and not self.running_means():
            for k, x in enumerate(maps):
                dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
                mean = torch.zeros(x.shape[1], dtype=dtype, device=x.device)
                self.register_buffer(f"mean_{k}", mean)
        means = self.running_means()
        if not means:
            raise RuntimeError(
                "RSAPenalty(center='ema') has no running mean yet: it is updated in training mode; "
                "give it a batch there first, or load a state dict, or use center=True"
            )
        if [len(mean) for mean in means] != [x.shape[1] for x in maps]:
            raise ValueError(
                f"features have {[x.shape[1] for x in maps]} channels; expected "
                f"{[len(mean) for mean in means]}, as the running means"
            )
        if self.training:
            with torch.no_grad():
                for mean, x in zip(means, maps, strict=True):
                    if len(x):
                        batch = x.detach().mean(dim=(0, *range(2, x.ndim)), dtype=mean.dtype)
                        mean.lerp_(batch, 1 - self.momentum)
        return means

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        """Create the running means that a state dict holds, if there are none, and load them."""
        if self._running and not self.running_means():
            k = 0
            while (stored := state_dict.get(f"{prefix}mean_{k}")) is not None:
                self.register_buffer(f"mean_{k}", torch.zeros_like(stored))
                k += 1
        super()._load_from_state_dict(state_dict, prefix, *arguments)


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
