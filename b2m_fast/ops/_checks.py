"""Checks of what callers pass: every error names the argument, what it got and what it expected.

All tensors of a call are on one device; only what is read part by part may be in the host's memory
instead. Only shapes, dtypes and devices are looked at, so that torch.compile can trace the public
functions; what depends on values is checked inside the ops.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ._types import (
    BILINEAR,
    COMPARISONS,
    DIFFERENCES,
    MATRIX_COMPARISONS,
    METRICS,
    RANK_COMPARISONS,
    Similarities,
    to_tensor,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Array = npt.NDArray[np.floating[Any]]
    Target = Tensor | Array
    Center = bool | Tensor

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DEVICE_TYPES = ("cpu", "cuda")
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

REDUCTIONS = ("mean", "sum", "none")
KINDS = ("responses", "similarity")
FORMS = ("auto", "pair", "feature")
_WITH_GAMMA = ", ".join(repr(name) for name, metric in METRICS.items() if metric.has_gamma)

# ------------------------------------------------------------------------ tensors and numbers


def shape_of(x: Tensor) -> str:
    """Return the shape as text."""
    return "(" + ", ".join(str(int(size)) for size in x.shape) + ("," if x.ndim == 1 else "") + ")"


def one_of(value: str, name: str, options: Sequence[str]) -> None:
    """Raise unless `value` is one of the options."""
    if value not in options:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, options))}")


def floats(x: object, name: str, ndim: int = 2) -> Tensor:
    """Return x if it is a dense floating-point tensor of `ndim` dimensions, else raise."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}; expected a torch.Tensor")
    if x.dtype not in FLOATS:
        raise TypeError(
            f"{name} has dtype {x.dtype}; expected float64, float32, bfloat16 or float16"
        )
    if x.layout != torch.strided:
        raise TypeError(f"{name} has layout {x.layout}; expected a dense (strided) tensor")
    _on_known_device(x, name)
    _no_tangent(x, name)
    if x.ndim != ndim:
        wanted = {0: "a scalar", 1: "a vector (n,)", 2: "a matrix (n, d)"}[ndim]
        raise ValueError(f"{name} has shape {shape_of(x)}; expected {wanted}")
    return x


def _on_known_device(x: Tensor, name: str) -> None:
    if x.device.type not in DEVICE_TYPES:
        raise ValueError(
            f"{name} is on device {x.device}; expected one of type {' or '.join(DEVICE_TYPES)}"
        )


def on_device(x: Tensor, name: str, device: torch.device) -> None:
    """Raise unless x is on the device of the other tensors."""
    if x.device != device:
        raise ValueError(
            f"{name} is on device {x.device}; expected {device}, where the other tensors are"
        )


def readable_from(x: Tensor, name: str, device: torch.device) -> None:
    """Raise unless x is on the device or in the host's memory, from where parts can be brought."""
    if x.device.type != "cpu":
        on_device(x, name, device)


def _no_tangent(x: Tensor, name: str) -> None:
    # PyTorch would silently take the tangent of an op without a forward formula for zero.
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None:
        raise NotImplementedError(
            f"{name} carries a forward-mode tangent, but the ops have no forward-mode derivative; "
            "use b2m_fast.ops.reference"
        )


def same_dtype(x: Tensor, y: Tensor, x_name: str, y_name: str) -> tuple[Tensor, Tensor]:
    """Raise if the dtypes differ; under autocast, which makes them differ, promote instead."""
    if x.dtype == y.dtype:
        return x, y
    if torch.is_autocast_enabled(x.device.type):
        wider = torch.promote_types(x.dtype, y.dtype)
        return x.to(wider), y.to(wider)
    raise TypeError(
        f"{x_name} has dtype {x.dtype} and {y_name} has dtype {y.dtype}; expected the same"
    )


def same_depth(x: Tensor, y: Tensor, x_name: str, y_name: str) -> None:
    """Raise unless both have rows of the same length."""
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{x_name} has shape {shape_of(x)} and {y_name} has shape {shape_of(y)}; "
            "expected the same number of columns"
        )


def nonempty_depth(x: Tensor, name: str) -> None:
    """Raise if the rows hold no values."""
    if x.shape[1] == 0:
        raise ValueError(f"{name} has shape {shape_of(x)}; expected at least one column")


def integers(x: object, name: str, length: int, device: torch.device) -> Tensor:
    """Return x as an int64 vector of the given length on the device, or raise."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}; expected a torch.Tensor of integers")
    if x.dtype not in INTEGERS:
        raise TypeError(f"{name} has dtype {x.dtype}; expected integers")
    if x.ndim != 1 or x.shape[0] != length:
        raise ValueError(f"{name} has shape {shape_of(x)}; expected ({length},)")
    on_device(x, name, device)
    if not torch.compiler.is_compiling() and x._is_zerotensor():
        x = x.clone()
    return x.to(torch.int64)


def vector(x: object, name: str, length: int, device: torch.device) -> Tensor:
    """Return x if it is a floating-point vector of the given length on the device, or raise."""
    x = floats(x, name, ndim=1)
    on_device(x, name, device)
    if x.shape[0] != length:
        raise ValueError(f"{name} has shape {shape_of(x)}; expected ({length},)")
    return x


def number(x: object, name: str, expected: str = "a number") -> float:
    """Return a Python or NumPy number as a float, or raise."""
    if isinstance(x, bool) or not isinstance(x, int | float | np.number):
        raise TypeError(f"{name} is a {type(x).__name__}; expected {expected}")
    return float(x)


def scalar(x: object, name: str, device: torch.device) -> Tensor:
    """Return a number or a one-element tensor as a 0-d tensor on the device.

    As everywhere in torch, a scalar may come from the host.
    """
    if not isinstance(x, Tensor):
        return to_tensor(number(x, name, "a number or a scalar tensor"), torch.float64, device)
    readable_from(x, name, device)
    if x.numel() != 1:
        raise ValueError(f"{name} has shape {shape_of(x)}; expected a scalar")
    if x.dtype not in FLOATS:
        raise TypeError(f"{name} has dtype {x.dtype}; expected a floating-point scalar")
    return x.reshape(()).to(device)


def scoring_gamma(metric: str, gamma: float | None, depth: int) -> float:
    """Return the gamma of a metric: what is given, or 1 / depth; 0 if the metric has none."""
    if not METRICS[metric].has_gamma:
        if gamma is not None:
            raise ValueError(
                f"gamma is {gamma}, but metric is {metric!r}; only {_WITH_GAMMA} has one"
            )
        return 0.0
    if gamma is None:
        return 1.0 / max(depth, 1)
    width = number(gamma, "gamma")
    if not 0 <= width < math.inf:
        raise ValueError(f"gamma is {gamma}; expected a finite number >= 0")
    return width


def gamma_of_sides(
    gamma: float | None, metric: str, other_metric: str
) -> tuple[float | None, float | None]:
    """Return gamma for the sides whose metric has one."""
    takes, other_takes = (METRICS[name].has_gamma for name in (metric, other_metric))
    if gamma is not None and not (takes or other_takes):
        raise ValueError(
            f"gamma is {gamma}, but the metrics are {metric!r} and {other_metric!r}; only "
            f"{_WITH_GAMMA} has one"
        )
    return gamma if takes else None, gamma if other_takes else None


def from_array(x: Tensor | Array, name: str) -> Tensor:
    """Return a tensor over the same memory; a read-only (memory-mapped) array stays one."""
    if isinstance(x, Tensor):
        return x.resolve_neg()  # a lazily negated tensor's memory holds the opposite sign
    if not hasattr(x, "__array_interface__"):
        raise TypeError(f"{name} is a {type(x).__name__}; expected a torch.Tensor or a NumPy array")
    with warnings.catch_warnings():
        # torch warns that writing to a read-only array is undefined; inputs are only ever read.
        warnings.filterwarnings("ignore", message=".*not writable.*")
        try:
            return torch.from_numpy(x)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name}: {error}") from None


# ------------------------------------------------------------------------ comparisons


def device_of(*sides: Target) -> torch.device:
    """Return the device that is not the host, if any."""
    devices = [x.device for x in sides if isinstance(x, Tensor)]
    return next((d for d in devices if d.type != "cpu"), torch.device("cpu"))


def as_data(x: Target, name: str, kind: str, device: torch.device) -> Tensor:
    """Return a side as a tensor; responses in a NumPy array are brought to the device."""
    tensor = from_array(x, name)
    if isinstance(x, Tensor) or kind != "responses" or tensor.ndim != 2:
        return tensor
    return tensor.to(device)


def layers(features: object, metric: str) -> list[Tensor]:
    """Return a list of layers if they can be mixed, or raise."""
    if not isinstance(features, list | tuple):
        raise TypeError(
            f"features is a {type(features).__name__}; expected a torch.Tensor or a list of them"
        )
    checked = [floats(x, f"features[{k}]") for k, x in enumerate(features)]
    if not checked:
        raise ValueError("features is an empty list; expected at least one layer")
    if metric not in BILINEAR:
        raise ValueError(
            f"metric is {metric!r}; a list of layers needs one of "
            f"{', '.join(map(repr, BILINEAR))}, whose mixtures are dot products"
        )
    for k, layer in enumerate(checked):
        if layer.shape[0] != checked[0].shape[0]:
            raise ValueError(
                f"features[{k}] has shape {shape_of(layer)} and features[0] "
                f"{shape_of(checked[0])}; expected the same number of rows"
            )
        nonempty_depth(layer, f"features[{k}]")
        on_device(layer, f"features[{k}]", checked[0].device)
    return checked


def centers(center: Center | Sequence[Tensor], count: int) -> list[Center]:
    """Return what is to be subtracted from each of so many layers."""
    if not isinstance(center, bool | Tensor | list | tuple):
        raise TypeError(
            f"center is a {type(center).__name__}; expected a bool, a tensor, or a list of tensors"
        )
    given = [center] * count if isinstance(center, bool | Tensor) else list(center)
    if len(given) != count:
        raise ValueError(f"center has {len(given)} entries; expected {count}, one a layer")
    for one in given:
        if not isinstance(one, bool | Tensor):
            raise TypeError(f"center holds a {type(one).__name__}; expected a bool or a tensor")
    return given


def items(side: Similarities, name: str) -> int:
    """Return the number of items; of a condensed vector, the n of n (n - 1) / 2."""
    if side.kind != "condensed":
        return side.data.shape[0]
    length = side.data.shape[0]
    n = (1 + math.isqrt(1 + 8 * length)) // 2
    if n * (n - 1) // 2 != length:
        raise ValueError(f"{name} has {length} entries, which is no n(n-1)/2; expected condensed")
    return n


def same_count(count: int, side: Similarities, name: str, side_name: str) -> None:
    """Raise unless the side is of so many items."""
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


def pair_weights(
    weights: Target | None, compare: str, count: int, device: torch.device
) -> Tensor | None:
    """Return the pair weights as a tensor, or raise."""
    if weights is None:
        return None
    weighted = [name for name in COMPARISONS if name not in MATRIX_COMPARISONS]
    if compare not in weighted:
        raise ValueError(
            f"pair_weights are not defined for compare={compare!r}; only for "
            f"{', '.join(weighted[:-1])} and {weighted[-1]}"
        )
    tensor = from_array(weights, "pair_weights")
    if tensor.requires_grad:
        raise ValueError("pair_weights require a gradient, but they are data; detach them")
    tensor = floats(tensor, "pair_weights", ndim=1 if tensor.ndim == 1 else 2)
    readable_from(tensor, "pair_weights", device)
    expected = (count * (count - 1) // 2,) if tensor.ndim == 1 else (count, count)
    if tuple(tensor.shape) != expected:
        raise ValueError(f"pair_weights has shape {shape_of(tensor)}; expected {expected}")
    return tensor


def epsilon(value: float, dtype: torch.dtype) -> float:
    """Return epsilon if it covers what rounding adds to a similarity of 1, else raise."""
    value = number(value, "epsilon")
    least = 8 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    if not least <= value < math.inf:
        raise ValueError(
            f"epsilon is {value}; expected a finite number of at least {least:.1e}, by which "
            "rounding may carry a similarity past 1"
        )
    return value


def comparison(compare: str, metric: str, other_metric: str, count: int) -> None:
    """Raise unless the comparison is defined for these metrics and so many items."""
    distances = [name for name in (metric, other_metric) if METRICS[name].distance]
    if compare in ("cka", "cka_debiased") and distances:
        raise ValueError(
            f"compare={compare!r} compares similarities, but a metric is {distances[0]!r}; use "
            "whitened_cosine for distances"
        )
    if compare == "atanh" and distances:
        raise ValueError(
            f"compare='atanh' is defined for similarities from -1 to 1, but the metrics are "
            f"{metric!r} and {other_metric!r}"
        )
    if compare == "cka_debiased" and count < 4:
        raise ValueError(f"compare='cka_debiased' needs at least 4 rows; got {count}")


def form(name: str, compare: str, *, feature_form_possible: bool) -> None:
    """Raise unless the form exists and can compute the comparison."""
    one_of(name, "form", FORMS)
    without = (*DIFFERENCES, *RANK_COMPARISONS)
    if name == "feature" and (compare in without or not feature_form_possible):
        raise ValueError(
            f"form='feature' is not possible with compare={compare!r} and these arguments: it needs "
            "responses on both sides, bilinear metrics, no pair weights, and a comparison other "
            f"than {', '.join(without)}; use form='auto'"
        )
