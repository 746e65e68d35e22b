"""What the tests of the compiled ops share: random inputs, and errors against the reference."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import engines
from b2m_fast import ops
from b2m_fast.ops import _types, reference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

METRICS = tuple(_types.METRICS)
BILINEAR = _types.BILINEAR
DISTANCES = tuple(name for name, metric in _types.METRICS.items() if metric.distance)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
COMPARISONS = _types.COMPARISONS

#: Relative error a float64 result may have.
DOUBLE_ERROR = 2e-12


@contextlib.contextmanager
def case(**names: object) -> Iterator[None]:
    """Name one case of a loop in the error that it raises."""
    try:
        yield
    except BaseException as error:
        error.add_note("in the case " + ", ".join(f"{name}={x}" for name, x in names.items()))
        raise


def randoms(
    seed: int, *shape: int, dtype: torch.dtype = torch.float64, offset: float = 0.2
) -> Tensor:
    """Random numbers, rounded to the dtype; the same on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    numbers = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu") + offset
    return numbers.to(torch.get_default_device(), dtype)


def randints(seed: int, high: int, *shape: int) -> Tensor:
    """Random integers in [0, high)."""
    generator = torch.Generator("cpu").manual_seed(seed)
    numbers = torch.randint(high, shape, generator=generator, device="cpu")
    return numbers.to(torch.get_default_device())


def upper(matrix: Tensor) -> Tensor:
    """Condensed vector of the pairs i < j."""
    i, j = torch.triu_indices(len(matrix), len(matrix), offset=1)
    return matrix[i, j]


def value_and_gradients(
    module: ModuleType,
    op: str,
    inputs: dict[str, Tensor],
    fixed: tuple[str, ...],
    options: dict[str, Any],
) -> dict[str, Tensor]:
    """Value and the gradient of every floating-point input not in `fixed`, upstream random.

    Inputs called "features 0", "features 1", ... are passed as a list.
    """
    leaves = {
        name: x.detach().clone().requires_grad_(x.is_floating_point() and name not in fixed)
        for name, x in inputs.items()
    }
    arguments: dict[str, Any] = {k: x for k, x in leaves.items() if " " not in k}
    if len(arguments) < len(leaves):
        arguments["features"] = [x for k, x in leaves.items() if " " in k]
    value = getattr(module, op)(**arguments, **options)
    results = {"value": value.detach()}
    if value.requires_grad:
        upstream = randoms(99, *value.shape).to(torch.bfloat16)  # exact in every dtype but float16
        value.backward(upstream.to(value.dtype))
        for name, leaf in leaves.items():
            if leaf.requires_grad:
                assert leaf.grad is not None, name
                assert leaf.grad.dtype == leaf.dtype, name
                assert leaf.grad.shape == leaf.shape, name
                results[name] = leaf.grad
    return results


def relative_errors(got: Tensor, truth: Tensor) -> tuple[float, float]:
    """Error over size: root of squares, and largest."""
    difference, truth = (got.to(torch.float64) - truth), truth.to(torch.float64)
    if truth.numel() == 0:
        return 0.0, 0.0
    tiny = 1e-300
    return (
        float(difference.norm()) / max(float(truth.norm()), tiny),
        float(difference.abs().max()) / max(float(truth.abs().max()), tiny),
    )


# Results of the reference, of the last calls: every engine is measured by the same ones.
_RESULTS: OrderedDict[object, dict[str, Tensor]] = OrderedDict()


def reference_results(
    op: str,
    inputs: dict[str, Tensor],
    dtype: torch.dtype,
    fixed: tuple[str, ...],
    options: dict[str, Any],
) -> dict[str, Tensor]:
    """Value and gradients of the reference, computed in a dtype."""
    fingerprints = [
        (name, x.shape, x.dtype, x.device, x.double().sum().item(), x.double().norm().item())
        for name, x in inputs.items()
    ]
    given = {name: x for name, x in options.items() if name != "form"}  # no matter to the reference
    key = (op, dtype, fixed, repr(given), *fingerprints)
    if key not in _RESULTS:
        cast = {k: x.to(dtype) if x.is_floating_point() else x for k, x in inputs.items()}
        _RESULTS[key] = value_and_gradients(reference, op, cast, fixed, options)
        if len(_RESULTS) > 400:
            _RESULTS.popitem(last=False)
    return _RESULTS[key]


def assert_accurate(
    op: str,
    inputs: dict[str, Tensor],
    *,
    fixed: tuple[str, ...] = (),
    ulps: float = 4,
    **options: Any,
) -> None:
    """Assert that value and gradients err at most twice as much as plain torch in float32.

    Against the reference in float64 of the same inputs, plus a floor of a few units in the last
    place of the result's dtype, or of the engine's rounding of rows; float64 results have a floor
    only.
    """
    got = value_and_gradients(ops, op, inputs, fixed, options)
    truth = reference_results(op, inputs, torch.float64, fixed, options)
    plain = reference_results(op, inputs, torch.float32, fixed, options)
    assert got.keys() == truth.keys()
    floats = [x.dtype for x in inputs.values() if x.is_floating_point()]
    for name, result in got.items():
        rounding = [torch.finfo(result.dtype).eps, *map(engines.rounding, floats)]
        assert result.shape == truth[name].shape, name
        assert result.isfinite().all(), name
        errors = relative_errors(result, truth[name])
        plain_errors = relative_errors(plain[name], truth[name])
        double = set(floats) == {torch.float64}
        if float(truth[name].norm()) < 1e-11:  # zero but for rounding: the cosine of one column
            zero = 1e-10 if double else max(1e-3, 16 * max(rounding))
            assert float(result.double().norm()) < zero, name
            continue
        for kind, error, plain_error in zip(("norm", "largest"), errors, plain_errors, strict=True):
            limit = DOUBLE_ERROR if double else 2 * plain_error + ulps * max(rounding)
            assert error <= limit, (
                f"{name}, {tuple(result.shape)} {result.dtype}: relative error ({kind}) {error:.3g}, "
                f"plain float32 {plain_error:.3g}, limit {limit:.3g}"
            )
