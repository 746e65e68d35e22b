"""Responses that belong, one by one, to images or to conditions of a task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.data.arrays import images, numbers, whole_numbers
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
        (n,), int64: samples of the same label are of the same image or condition.
    report : dict
        Where they come from; as JSON can hold it.
    components : int, optional
        Principal components of the features to teach with; found by `fitted`, on the samples that
        are trained on alone. None: the features themselves.
    condition : ndarray, optional
        (task's conditions,), int64: the label that belongs to each; several conditions have one
        label where one recorded condition stands for them. None: labels are the task's conditions.
    """

    stimuli: NDArray[np.float32] | None
    responses: NDArray[np.float32]
    label: NDArray[np.int64]
    report: dict[str, Any] = field(default_factory=dict)
    components: int | None = None
    condition: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        responses = numbers("responses", self.responses, 2, "(n, features)")
        object.__setattr__(self, "responses", responses)
        object.__setattr__(self, "label", whole_numbers("label", self.label, "(n,)"))
        if self.stimuli is not None:
            object.__setattr__(self, "stimuli", images("stimuli", self.stimuli))
        if self.condition is not None:
            condition = whole_numbers("condition", self.condition, "(task's conditions,)")
            object.__setattr__(self, "condition", condition)
        n = len(self.responses)
        if 0 in self.responses.shape:
            raise DataError(
                f"responses have shape {self.responses.shape}; expected (n, features), not empty"
            )
        if self.label.shape != (n,):
            raise DataError(f"label has shape {self.label.shape} for {n} responses")
        if not np.isfinite(self.responses).all():
            raise DataError("responses contain NaN or infinity")
        if self.stimuli is not None and len(self.stimuli) != n:
            raise DataError(
                f"stimuli have shape {self.stimuli.shape}; expected ({n}, channels, height, width)"
            )

    @property
    def width(self) -> int:
        """Columns a student is compared with."""
        return self.components or int(self.responses.shape[1])

    def fitted(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """What a student is compared with, scaled and reduced by some of the samples alone.

        Parameters
        ----------
        rows : ndarray
            Samples that are trained on: means, standard deviations and components are theirs, so
            that nothing is known of those held out.

        Returns
        -------
        ndarray
            (n, width), float32, for all samples.

        Raises
        ------
        DataError
            If these samples have fewer components than are asked for.
        """
        x = scored(self.responses, rows=rows)
        return x if self.components is None else scored(x, self.components, "training", rows=rows)


def scored(
    responses: NDArray[np.floating],
    k: int | None = None,
    name: str = "",
    *,
    rows: NDArray[np.int64] | None = None,
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
    rows : ndarray, optional
        Samples that decide about means, scales and components; default: all.

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
    rows = np.arange(len(x)) if rows is None else rows
    x = x - x[rows].mean(axis=0)
    if k is not None:
        u, size, v = np.linalg.svd(x[rows], full_matrices=False)
        rank = int((size > 1e-10 * size[0]).sum())
        if not 1 <= k <= rank:
            raise DataError(
                f"{name}: {len(rows)} samples of {x.shape[1]} units have {rank} components, "
                f"{k} were asked for"
            )
        x = x @ v[:k].T * np.sign(u[np.abs(u[:, :k]).argmax(axis=0), range(k)])
    spread = x[rows].std(axis=0)
    return np.asarray(x / np.where(spread > 0, spread, np.inf), dtype=np.float32)
