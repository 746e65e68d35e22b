"""Responses that belong, one by one, to images or to conditions of a task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.data.files import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PairedTeacher", "scored"]


@dataclass(frozen=True, eq=False)
class PairedTeacher:
    """What a brain answered to each of n samples.

    Attributes
    ----------
    stimuli : ndarray, optional
        (n, channels, height, width), float32 in [0, 1]: the images that were shown; None if a
        sample is known by the condition of a task alone.
    responses : ndarray
        (n, features), float32: features of the brain's answer, z-scored.
    label : ndarray
        (n,), int64: samples of the same label are of the same image or condition (index into the
        task's conditions).
    report : dict
        Where they come from; as JSON can hold it.
    """

    stimuli: NDArray[np.float32] | None
    responses: NDArray[np.float32]
    label: NDArray[np.int64]
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.responses)
        if self.responses.ndim != 2 or 0 in self.responses.shape:
            raise DataError(
                f"responses have shape {self.responses.shape}; expected (n, features), not empty"
            )
        if self.label.shape != (n,):
            raise DataError(f"label has shape {self.label.shape} for {n} responses")
        if not np.isfinite(self.responses).all():
            raise DataError("responses contain NaN or infinity")
        if self.stimuli is not None and (self.stimuli.ndim != 4 or len(self.stimuli) != n):
            raise DataError(
                f"stimuli have shape {self.stimuli.shape}; expected ({n}, channels, height, width)"
            )


def scored(
    responses: NDArray[np.floating], k: int | None = None, name: str = ""
) -> NDArray[np.float32]:
    """Z-scored columns (0 where they do not vary), or so many z-scored principal components.

    Parameters
    ----------
    responses : ndarray
        (n, features).
    k : int, optional
        Number of components.
    name : str
        Whose they are, for errors.

    Returns
    -------
    ndarray
        (n, features) or (n, k), float32.

    Raises
    ------
    DataError
        If `k` exceeds features or samples.
    """
    x = np.asarray(responses, dtype=np.float64)
    x = x - x.mean(axis=0)
    if k is not None:
        u, size, _ = np.linalg.svd(x, full_matrices=False)
        rank = int((size > 1e-10 * size[0]).sum())
        if not 1 <= k <= rank:
            raise DataError(
                f"{name}: {len(x)} samples of {x.shape[1]} units have {rank} components, "
                f"{k} were asked for"
            )
        x = u[:, :k] * np.sign(u[np.abs(u[:, :k]).argmax(axis=0), range(k)])
    spread = x.std(axis=0)
    return np.asarray(x / np.where(spread > 0, spread, np.inf), dtype=np.float32)
