"""What a data set loads as: responses of presentations, the stimuli by id, and the brain that holds both.

    b_pu   response of unit u at presentation p (or b_put: in time bin t), of one session
    s_p    id of the stimulus, or name of the condition, at presentation p

Readers of foreign formats need no other contract: `responses` may be anything with a shape and rows (NumPy array or memory
map, h5py or zarr data set, torch tensor); rows are read when they are asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

from b2m_fast.data.files import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Brain", "Recording", "Rows", "Stimuli", "TimeAxis"]


class Rows(Protocol):
    """Anything with a shape whose rows can be read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis; the first counts the rows."""

    def __getitem__(self, rows: Any, /) -> Any:
        """Return rows: a slice, a list of indices in rising order, or one index."""


@dataclass(frozen=True)
class TimeAxis:
    """Bins of a response, and the named epochs of a presentation.

    Parameters
    ----------
    bin_ms : float
        Length of a bin, in milliseconds.
    epochs : mapping of str to (float, float)
        Begin and end of each epoch, in milliseconds on the clock of the presentation.
    start_ms : float
        When the first bin begins, on the same clock.
    """

    bin_ms: float
    epochs: Mapping[str, tuple[float, float]]
    start_ms: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.bin_ms < math.inf or not math.isfinite(self.start_ms):
            raise DataError(
                f"bin_ms must be positive and finite, start_ms finite; got {self.bin_ms}, {self.start_ms}"
            )
        for name, (begin, end) in self.epochs.items():
            if not (math.isfinite(begin) and math.isfinite(end) and begin < end):
                raise DataError(
                    f"the epoch {name!r} must begin before it ends, got {begin} to {end} ms"
                )


@dataclass(frozen=True, eq=False)
class Recording:
    """Responses of units that were recorded together, one row a presentation.

    Parameters
    ----------
    responses : (presentations, units) or (presentations, units, bins)
        Anything with a shape and rows, of real numbers.
    stimulus : (presentations,) str
        Id of the stimulus (or name of the condition) of each presentation. Repeats have the same id.
    session : str
        The session's name, unique within a brain.
    subject : str
        Whose brain it is.
    kind : {"counts", "rate", "trace", "beta"}
        Spike counts, spikes per second, a continuous trace (calcium, EEG), or estimates of a linear model (fMRI).
    unit : str
        Unit of measurement, in words: ``"spikes"``, ``"dF/F"``.
    units : mapping of str to (units,) array
        What is known of each unit: area, quality ...
    split : (presentations,) str, optional
        What each presentation is for, where the data say so: ``"train"``, ``"test"``, or the name of a fold.
    time : TimeAxis, optional
        Of responses with bins.
    truth : (stimuli, units) array, optional
        Noise-free responses to the stimuli in the order of `Recording.shown`; simulated recordings know them.
    """

    responses: Rows
    stimulus: NDArray[np.str_]
    session: str
    subject: str = ""
    kind: Literal["counts", "rate", "trace", "beta"] = "counts"
    unit: str = ""
    units: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    split: NDArray[np.str_] | None = None
    time: TimeAxis | None = None
    truth: NDArray[np.floating] | None = None

    @property
    def unit_count(self) -> int:
        """Number of units."""
        return int(self.responses.shape[1])

    @cached_property
    def shown(self) -> tuple[str, ...]:
        """Ids of the stimuli that were presented, in the order of their first presentation."""
        return tuple(dict.fromkeys(self.stimulus.tolist()))


@dataclass(frozen=True, eq=False)
class Stimuli:
    """Images by id.

    Parameters
    ----------
    ids : tuple of str
        One a picture, each once.
    images : (n, height, width, channels) uint8
        Anything with a shape and rows: gray images have one channel, colour images three.
    name : str
        What the set is called in reports.
    presented : tuple of str, optional
        Of each image, the id that recordings name, where one id stands for several images (a category); else its own id.
    """

    ids: tuple[str, ...]
    images: Rows
    name: str = "stimuli"
    presented: tuple[str, ...] | None = None

    @cached_property
    def row(self) -> dict[str, int]:
        """Row of each id."""
        return {name: k for k, name in enumerate(self.ids)}


@dataclass(frozen=True, eq=False)
class Brain:
    """Recordings that teach together, and what was shown.

    Parameters
    ----------
    name : str
        What reports call it.
    recordings : tuple of Recording
        At least one.
    stimuli : tuple of Stimuli
        Sets of images that the recordings' ids refer to; empty where conditions were presented and not images.
    conditions : tuple of str
        Names of the conditions in the data set's order, where the recordings are trials of a task.
    synthetic : bool
        Whether the responses are simulated; every report says so.
    """

    name: str
    recordings: tuple[Recording, ...]
    stimuli: tuple[Stimuli, ...] = ()
    conditions: tuple[str, ...] = ()
    synthetic: bool = False
