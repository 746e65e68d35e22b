"""The sides of a comparison as callers give them: checked, centred, mixed; every error names the argument."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import _comparison, _feature_form, _validate
from ._comparison import DIFFERENCES, MATRIX_COMPARISONS
from ._problems import BILINEAR, DISTANCES, METRICS, Comparison, Scoring, Similarities
from ._ranks import RANK_COMPARISONS
from ._rsa_ops import ops as _ops

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    Target = Tensor | npt.NDArray[np.floating[Any]]
    Center = bool | Tensor

KINDS = ("responses", "similarity")
FORMS = ("auto", "pair", "feature")

# Keeps the slope of sqrt(layer weight) finite at 0; far below any weight that counts.
_SMALLEST_LAYER_WEIGHT = 1e-24


def device_of(*sides: Target) -> torch.device:
    """Return the device that is not the host, if any."""
    devices = [x.device for x in sides if isinstance(x, Tensor)]
    return next((d for d in devices if d.type != "cpu"), torch.device("cpu"))


def data(x: Target, name: str, kind: str, device: torch.device) -> Tensor:
    """Return data as a tensor; responses in a NumPy array are brought to the device."""
    tensor = _validate.from_array(x, name)
    if isinstance(x, Tensor) or kind != "responses" or tensor.ndim != 2:
        return tensor
    return tensor.to(device)


def gamma_of_sides(
    gamma: float | None, metric: str, other_metric: str
) -> tuple[float | None, float | None]:
    """Return gamma for the sides that are "rbf"."""
    if gamma is not None and "rbf" not in (metric, other_metric):
        raise ValueError(
            f"gamma is {gamma}, but the metrics are {metric!r} and {other_metric!r}; only 'rbf' has "
            "one"
        )
    return gamma if metric == "rbf" else None, gamma if other_metric == "rbf" else None


def check_epsilon(epsilon: float, dtype: torch.dtype) -> None:
    """Raise unless epsilon covers what rounding adds to a similarity of 1."""
    epsilon = _validate.number(epsilon, "epsilon")
    least = 8 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    if not least <= epsilon < math.inf:
        raise ValueError(
            f"epsilon is {epsilon}; expected a finite number of at least {least:.1e}, by which rounding may carry a "
            "similarity past 1"
        )


def checked_features(
    features: Tensor | Sequence[Tensor],
    metric: str,
    center: Center | Sequence[Tensor],
    gamma: float | None,
    layer_weights: Tensor | None,
) -> tuple[Tensor, Scoring]:
    """Centre; mix layers into one set of patterns whose dot products are the mixed similarities.

    sum_k g_k (z_i^k . z_j^k) is the dot product of the rows z^k sqrt(g_k) side by side.
    """
    if isinstance(features, Tensor):
        if layer_weights is not None:
            raise ValueError("layer_weights weigh a list of layers, but features is one tensor")
        if not isinstance(center, bool | Tensor):
            raise TypeError(
                f"center is a {type(center).__name__}; expected a bool or a tensor (features is one)"
            )
        patterns = _centred(_validate.floats(features, "features"), center, "center")
        _validate.nonempty_depth(patterns, "features")
        return patterns, Scoring(metric, _validate.scoring_gamma(metric, gamma, patterns.shape[1]))
    if not isinstance(features, list | tuple):
        raise TypeError(
            f"features is a {type(features).__name__}; expected a torch.Tensor or a list of them"
        )
    layers = [_validate.floats(x, f"features[{k}]") for k, x in enumerate(features)]
    if not layers:
        raise ValueError("features is an empty list; expected at least one layer")
    if metric not in BILINEAR:
        raise ValueError(
            f"metric is {metric!r}; a list of layers needs one of "
            f"{', '.join(map(repr, BILINEAR))}, whose mixtures are dot products"
        )
    if not isinstance(center, bool | Tensor | list | tuple):
        raise TypeError(
            f"center is a {type(center).__name__}; expected a bool, a tensor, or a list of tensors"
        )
    centers = [center] * len(layers) if isinstance(center, bool | Tensor) else list(center)
    if len(centers) != len(layers):
        raise ValueError(f"center has {len(centers)} entries; expected {len(layers)}, one a layer")
    for k, layer in enumerate(layers):
        if layer.shape[0] != layers[0].shape[0]:
            raise ValueError(
                f"features[{k}] has shape {_validate.shape_of(layer)} and features[0] "
                f"{_validate.shape_of(layers[0])}; expected the same number of rows"
            )
        _validate.nonempty_depth(layer, f"features[{k}]")
    dtype, device = layers[0].dtype, layers[0].device
    for k, layer in enumerate(layers[1:], start=1):
        _validate.on_device(layer, f"features[{k}]", device)
        dtype = torch.promote_types(dtype, layer.dtype)
    computing = torch.float64 if dtype == torch.float64 else torch.float32
    if layer_weights is None:
        layer_weights = torch.full((len(layers),), 1 / len(layers), dtype=computing, device=device)
    shares = _validate.vector(layer_weights, "layer_weights", len(layers), device).to(computing)
    roots = (shares + _SMALLEST_LAYER_WEIGHT).sqrt()
    columns = [_center_of(x, c, computing) for x, c in zip(layers, centers, strict=True)]
    own_mean = [c is True for c in centers]
    mixed: Tensor = _ops.mixed_layers(layers, columns, own_mean, roots, metric)
    return mixed, Scoring("dot")


def _center_of(layer: Tensor, center: Center, dtype: torch.dtype) -> Tensor:
    """What is subtracted from the rows of a layer, (d,); or nothing, (0,)."""
    if isinstance(center, Tensor):
        return _validate.vector(center, "center", layer.shape[1], layer.device).detach()
    if not isinstance(center, bool):
        raise TypeError(f"center holds a {type(center).__name__}; expected a bool or a tensor")
    return layer.detach().mean(dim=0, dtype=dtype) if center else layer.new_empty(0)


def _centred(x: Tensor, center: Center, center_name: str) -> Tensor:
    # Half precision would lose the small differences that centring is about.
    wide = x if x.dtype == torch.float64 else x.to(torch.float32)
    if isinstance(center, Tensor):
        center = _validate.vector(center, center_name, x.shape[1], x.device)
        return wide - center.detach().to(wide.dtype)
    if not isinstance(center, bool):
        raise TypeError(f"{center_name} is a {type(center).__name__}; expected a bool or a tensor")
    if not center:
        return x
    return wide - wide.mean(dim=0)


def checked_side(
    data: Tensor,
    name: str,
    kind: str,
    metric: str,
    center: Center,
    gamma: float | None,
    device: torch.device,
) -> Similarities:
    """One side that has no gradient."""
    _validate.one_of(kind, f"{name}_kind", KINDS)
    _validate.one_of(metric, f"{name}_metric", tuple(METRICS))
    data = _validate.floats(data, name, ndim=1 if data.ndim == 1 else 2)
    if data.ndim == 1 or kind == "similarity":
        _validate.readable_from(data, name, device)
        if isinstance(center, Tensor) or center:
            raise ValueError(f"{name} holds similarities, which have no patterns to centre")
        if data.ndim == 2 and data.shape[0] != data.shape[1]:
            raise ValueError(
                f"{name} has shape {_validate.shape_of(data)}; expected a square matrix of "
                "similarities"
            )
        return _comparison.side(data, "similarity", Scoring(metric))
    _validate.on_device(data, name, device)
    data = _centred(data, center, f"{name}_center")
    _validate.nonempty_depth(data, name)
    scoring = Scoring(metric, _validate.scoring_gamma(metric, gamma, data.shape[1]))
    return _comparison.side(data, "responses", scoring)


def items(side: Similarities, name: str) -> int:
    """Number of items; of a condensed vector, the n of n (n - 1) / 2."""
    if side.kind != "condensed":
        return side.data.shape[0]
    length = side.data.shape[0]
    n = (1 + math.isqrt(1 + 8 * length)) // 2
    if n * (n - 1) // 2 != length:
        raise ValueError(f"{name} has {length} entries, which is no n(n-1)/2; expected condensed")
    return n


def same_count(count: int, side: Similarities, name: str, side_name: str) -> None:
    if side.kind == "condensed":
        expected = count * (count - 1) // 2
        if side.data.shape[0] != expected:
            raise ValueError(
                f"{side_name} has {side.data.shape[0]} entries; expected {expected} = "
                f"{count} * {count - 1} / 2, one a pair of the {count} rows of {name}"
            )
    elif side.data.shape[0] != count:
        raise ValueError(
            f"{side_name} has {side.data.shape[0]} rows and {name} has {count}; expected the same"
        )


def checked_weights(
    weights: Target | None, compare: str, count: int, device: torch.device
) -> Tensor | None:
    if weights is None:
        return None
    if compare in (*MATRIX_COMPARISONS, *RANK_COMPARISONS):
        raise ValueError(
            f"pair_weights are not defined for compare={compare!r}; only for mse, atanh, pearson "
            "and cosine"
        )
    tensor = _validate.from_array(weights, "pair_weights")
    if tensor.requires_grad:
        raise ValueError("pair_weights require a gradient, but they are data; detach them")
    tensor = _validate.floats(tensor, "pair_weights", ndim=1 if tensor.ndim == 1 else 2)
    _validate.readable_from(tensor, "pair_weights", device)
    expected = (count * (count - 1) // 2,) if tensor.ndim == 1 else (count, count)
    if tuple(tensor.shape) != expected:
        raise ValueError(
            f"pair_weights has shape {_validate.shape_of(tensor)}; expected {expected}"
        )
    return tensor


def check_comparison(compare: str, metric: str, other_metric: str, count: int) -> None:
    if compare in ("cka", "cka_debiased"):
        for name in (metric, other_metric):
            if name in DISTANCES:
                raise ValueError(
                    f"compare={compare!r} compares similarities, but a metric is {name!r}; use "
                    "whitened_cosine for distances"
                )
    if compare == "atanh" and not {metric, other_metric}.isdisjoint(DISTANCES):
        raise ValueError(
            f"compare='atanh' is defined for similarities from -1 to 1, but the metrics are "
            f"{metric!r} and {other_metric!r}"
        )
    if compare == "cka_debiased" and count < 4:
        raise ValueError(f"compare='cka_debiased' needs at least 4 rows; got {count}")


def check_form(
    form: str,
    compare: str,
    patterns: Tensor,
    scoring: Scoring,
    target: Similarities,
    weights: Tensor | None,
) -> None:
    _validate.one_of(form, "form", FORMS)
    if form == "feature":
        w = None if weights is None else _comparison.side(weights, "similarity", Scoring("dot"))
        side = _comparison.side(patterns, "responses", scoring)
        check_feature_form(compare, Comparison(patterns.shape[0], side, target, w))


def check_feature_form(compare: str, comparison: Comparison) -> None:
    if compare in (*DIFFERENCES, *RANK_COMPARISONS) or not _feature_form.possible(comparison):
        raise ValueError(
            f"form='feature' is not possible with compare={compare!r} and these arguments: it needs "
            "responses on both sides, bilinear metrics, no pair weights, and a comparison other "
            f"than {', '.join((*DIFFERENCES, *RANK_COMPARISONS))}; use form='auto'"
        )
