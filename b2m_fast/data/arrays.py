"""Arrays that a user brings: made what they should be where that is harmless, refused where not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.data.files import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["images", "numbers", "whole_number", "whole_numbers"]


def numbers(name: str, value: object, ndim: int, axes: str) -> NDArray[Any]:
    """Real numbers in an array, as they are.

    Parameters
    ----------
    name : str
        The field, for errors.
    value : array_like
        An array, a list, a tensor on the CPU.
    ndim : int
        Dimensions it must have.
    axes : str
        What they are, for errors.

    Returns
    -------
    ndarray
        The same object where it is an array already.

    Raises
    ------
    DataError
        If it is not that.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{name} must be an array {axes} of numbers: {reason}") from None
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} must be real numbers {axes}, got dtype {array.dtype}")
    if array.ndim != ndim:
        raise DataError(f"{name} must have {ndim} dimensions {axes}, got shape {array.shape}")
    return array


def whole_numbers(name: str, value: object, axes: str) -> NDArray[np.int64]:
    """Whole numbers in one dimension.

    Parameters
    ----------
    name : str
        The field, for errors.
    value : array_like
        Integers, or floats without a fraction.
    axes : str
        What the dimension is, for errors.

    Returns
    -------
    ndarray
        int64.

    Raises
    ------
    DataError
        If it is not that.
    """
    array = numbers(name, value, 1, axes)
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.round(array))).all():
        raise DataError(f"{name} must be whole numbers {axes}, got {array.dtype} with fractions")
    return array.astype(np.int64, copy=False)


def images(name: str, value: object) -> NDArray[np.float32]:
    """Images of floating-point numbers from 0 to 1.

    Parameters
    ----------
    name : str
        The field, for errors.
    value : array_like
        (n, channels, height, width).

    Returns
    -------
    ndarray
        float32; the same object where it is that already.

    Raises
    ------
    DataError
        If it is not that.
    """
    array = numbers(name, value, 4, "(n, channels, height, width)")
    if array.dtype.kind != "f":
        raise DataError(
            f"{name} must be floats from 0 to 1, got dtype {array.dtype}: divide bytes by 255"
        )
    if array.size and not (array.min() >= -1e-5 and array.max() <= 1 + 1e-5):  # so is NaN
        raise DataError(f"{name} must be from 0 to 1, got {array.min():.3g} to {array.max():.3g}")
    return array.astype(np.float32, copy=False)


def whole_number(name: str, value: object, least: int) -> None:
    """Refuse what is no whole number, or too small.

    Parameters
    ----------
    name : str
        The argument, for errors.
    value : object
        Its value.
    least : int
        The smallest it may be.

    Raises
    ------
    ValueError
        If it is not that.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be a whole number, got {value!r}")  # noqa: TRY004
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
