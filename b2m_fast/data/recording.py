"""What a data set loads as: responses of presentations, the stimuli by id, and the brain that holds both.

    b_pu   response of unit u at presentation p (or b_put: in time bin t), of one session
    s_p    id of the stimulus, or name of the condition, at presentation p

Readers of foreign formats need no other contract: `responses` may be anything with a shape and rows (NumPy array or memory
map, h5py or zarr data set, torch tensor on the CPU); its rows are read when they are asked for. What is wrong with them is
found at once in a NumPy array in memory, and in anything else when it is read.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args

import numpy as np

from b2m_fast.data.files import numbers, require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

Kind = Literal["counts", "rate", "trace", "beta"]
SYNTHETIC = "The brain is SYNTHETIC: this shows that the method runs, not what a brain does."
BLOCK = 2**24  # numbers read at a time from responses that need not fit into memory


class Rows(Protocol):
    """Anything with a shape whose rows can be read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis; the first counts the rows."""

    def __getitem__(self, rows: Any, /) -> Any:
        """Return rows: a slice, a list of indices in rising order, or one index."""


def take(rows: Rows, indices: NDArray[np.integer]) -> NDArray[Any]:
    """Return rows in any order and any number of times; each is read once, in rising order."""
    if isinstance(rows, np.ndarray):
        return np.asarray(rows[indices])
    unique, inverse = np.unique(indices, return_inverse=True)
    return np.asarray(rows[unique.tolist()])[inverse]


def _names(what: str, values: ArrayLike) -> NDArray[np.str_]:
    """Return ids or names in one dimension as text; whole numbers are taken as their digits."""
    array = np.asarray(values)
    texts = array.dtype.kind == "O" and all(isinstance(value, str) for value in array.ravel())
    if texts or array.dtype.kind in "iu" or not array.size:
        array = array.astype(str)
    right, got = array.dtype.kind == "U" and array.ndim == 1, f"{array.dtype} {array.shape}"
    require(right, f"{what} must be one text for each, in one dimension, got {got}")
    return array


def _some(names: Iterable[object], most: int = 5) -> str:
    """Return the first few of many, for a message."""
    found = list(names)
    more = ", ..." if len(found) > most else ""
    return ", ".join(map(str, found[:most])) + more


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

    Raises
    ------
    DataError
        If a length is not positive or a time not finite.
    """

    bin_ms: float
    epochs: Mapping[str, tuple[float, float]]
    start_ms: float = 0.0

    def __post_init__(self) -> None:
        right = 0 < self.bin_ms < math.inf and math.isfinite(self.start_ms)
        require(right, f"bin_ms must be positive and finite, start_ms finite; got {self}")
        for name, (begin, end) in self.epochs.items():
            right = -math.inf < begin < end < math.inf
            require(right, f"the epoch {name!r} must begin before it ends, got {begin} to {end} ms")


@dataclass(frozen=True, eq=False)
class Recording:
    """Responses of units that were recorded together, one row a presentation.

    Parameters
    ----------
    responses : (presentations, units) or (presentations, units, bins)
        Anything with a shape and rows, of finite real numbers; a list becomes an array.
    stimulus : (presentations,) str
        Id of the stimulus (or name of the condition) of each presentation. Repeats have the same id.
    session : str
        The session's name, unique within a brain.
    subject : str
        Whose brain it is.
    kind : {"counts", "rate", "trace", "beta"}
        Spike counts (also averages of them), spikes per second, a continuous trace (calcium, EEG), or estimates of a linear
        model (fMRI). Counts and rates are not negative.
    unit : str
        Unit of measurement, in words: ``"spikes"``, ``"dF/F"``.
    units : mapping of str to (units,) array
        What is known of each unit: area, quality ...
    split : (presentations,) str, optional
        What each presentation is for, where the data say so: ``"train"``, ``"test"``, or the name of a fold.
    time : TimeAxis, optional
        Of responses with bins, which must have one.
    truth : (stimuli, units) array, optional
        Noise-free responses to the stimuli in the order of `shown`; simulated recordings know them.

    Raises
    ------
    DataError
        If lengths or axes do not fit, or responses are not as they should be; units are named by their numbers.

    Examples
    --------
    >>> recording = Recording(np.array([[1.0, 0], [3, 2], [5, 4]]), ["a", "b", "a"], "monday")
    >>> recording.shown, recording.mean().tolist()
    (('a', 'b'), [[3.0, 2.0], [3.0, 2.0]])
    >>> recording.repeats().shape  # stimuli, repeats, units; NaN where a stimulus has fewer
    (2, 2, 2)
    """

    responses: Rows
    stimulus: NDArray[np.str_]
    session: str
    subject: str = ""
    kind: Kind = "counts"
    unit: str = ""
    units: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    split: NDArray[np.str_] | None = None
    time: TimeAxis | None = None
    truth: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        where, ndim = f"{self.session}: ", 2 if self.time is None else 3
        if not hasattr(self.responses, "shape"):
            array = numbers(f"{where}responses", self.responses, ndim, "of presentations")
            object.__setattr__(self, "responses", array)
        object.__setattr__(self, "stimulus", _names(f"{where}stimulus", self.stimulus))
        shape, count, kinds = tuple(self.responses.shape), len(self.stimulus), get_args(Kind)
        require(self.kind in kinds, f"{where}kind must be one of {_some(kinds)}, got {self.kind!r}")
        expected = "(presentations, units), or (presentations, units, bins) and a TimeAxis"
        require(len(shape) == ndim, f"{where}responses have shape {shape}; expected {expected}")
        require(all(shape[2:]), f"{where}responses have no bins")
        got = f"responses to {shape[0]} presentations, but stimulus has {count}"
        turned = ": responses are (units, presentations)? transpose them" * (shape[1] == count)
        require(shape[0] == count, f"{where}{got}{turned}")
        if self.split is not None:
            object.__setattr__(self, "split", _names(f"{where}split", self.split))
        shapes: dict[str, tuple[Any, tuple[int, ...]]] = {"split": (self.split, (count,))}
        shapes["truth"] = self.truth, (len(self.shown), shape[1])
        shapes |= {f"units[{name!r}]": (x, (shape[1],)) for name, x in self.units.items()}
        for name, (values, size) in shapes.items():
            got = f"{name} has shape {np.shape(values)}, expected {size}"
            require(values is None or np.shape(values) == size, where + got)
        if type(self.responses) is np.ndarray:
            self._check(self.responses)

    def _check(self, block: NDArray[Any]) -> NDArray[Any]:
        """Return rows that were read, known to be finite real numbers, not negative if counts or rates."""
        kind, where = block.dtype.kind, f"{self.session}: "
        require(kind in "biuf", f"{where}responses must be real numbers, got {block.dtype}")
        if kind in "bu":
            return block
        right, what = np.isfinite(block), "NaN or infinite values"
        if self.kind in {"counts", "rate"}:
            right, what = right & (block >= 0), f"NaN, infinite or negative {self.kind}"
        units = np.flatnonzero(~right.all(axis=tuple({*range(right.ndim)} - {1})))
        bad = f"{len(units)} of {self.unit_count} units hold {what} (units {_some(units, 10)})"
        require(not len(units), f"{where}{bad}: leave them out")
        return block

    # ----------------------------------------------------------------------------------------------
    # Sizes and order
    # ----------------------------------------------------------------------------------------------
    @property
    def unit_count(self) -> int:
        """Number of units."""
        return int(self.responses.shape[1])

    @cached_property
    def shown(self) -> tuple[str, ...]:
        """Ids of the stimuli that were presented, in the order of their first presentation."""
        return tuple(dict.fromkeys(self.stimulus.tolist()))

    @property
    def repeated(self) -> bool:
        """Whether any stimulus was presented more than once."""
        return len(self.shown) < len(self.stimulus)

    def codes(self, ids: Sequence[str] | None = None) -> NDArray[np.int64]:
        """Return which of `ids` (default: `shown`) each presentation shows.

        Parameters
        ----------
        ids : sequence of str, optional
            Ids or names of conditions, each once.

        Returns
        -------
        ndarray
            (presentations,), int64; -1 where it shows none of them.
        """
        place = {name: k for k, name in enumerate(self.shown if ids is None else ids)}
        unique, inverse = np.unique(self.stimulus, return_inverse=True)
        found = np.array([place.get(name, -1) for name in unique.tolist()], dtype=np.int64)
        return found[inverse]

    # ----------------------------------------------------------------------------------------------
    # Reading
    # ----------------------------------------------------------------------------------------------
    def blocks(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield all responses, some rows at a time: which rows they are, and the checked responses."""
        size = max(1, BLOCK // max(1, math.prod(self.responses.shape[1:])))
        for start in range(0, len(self.stimulus), size):
            rows = slice(start, min(start + size, len(self.stimulus)))
            yield rows, self._check(np.asarray(self.responses[rows]))

    def mean(
        self, ids: Sequence[str] | None = None, *, split: str | None = None
    ) -> NDArray[np.floating]:
        """Return the mean response to each stimulus over its repeats.

        Parameters
        ----------
        ids : sequence of str, optional
            Stimuli, each once; default: `shown`.
        split : str, optional
            Use only presentations that are for this.

        Returns
        -------
        ndarray
            (stimuli, units) or (stimuli, units, bins), summed in float64 in the order of presentation; float32, or float64 where
            the responses are.

        Raises
        ------
        DataError
            If a stimulus was not presented.
        """
        code, rank, count = self._repeats(ids, split)
        total = np.zeros((len(count), *self.responses.shape[1:]))
        dtype = np.dtype(np.float32)
        for rows, block in self.blocks():
            dtype = np.result_type(block.dtype, np.float32)
            for repeat in range(rank[rows].max(initial=-1) + 1):  # in each, a stimulus once
                here = rank[rows] == repeat
                total[code[rows][here]] += block[here]
        return np.asarray(total / count.reshape(-1, *[1] * (total.ndim - 1)), dtype=dtype)

    def first(self, ids: Sequence[str] | None = None) -> NDArray[Any]:
        """Return the first response to each stimulus: (stimuli, units) or (stimuli, units, bins)."""
        code, rank, _ = self._repeats(ids, None)
        rows = np.flatnonzero(rank == 0)
        return self._check(take(self.responses, rows[np.argsort(code[rows])]))

    def repeats(
        self, ids: Sequence[str] | None = None, *, split: str | None = None
    ) -> NDArray[np.floating]:
        """Return the single responses to each stimulus.

        Parameters
        ----------
        ids, split
            As `mean` takes them.

        Returns
        -------
        ndarray
            (stimuli, most repeats, units) or (stimuli, most repeats, units, bins), in the order of presentation, filled up with
            NaN; memory grows with the most repeats of any stimulus.

        Raises
        ------
        DataError
            If a stimulus was not presented.
        """
        code, rank, count = self._repeats(ids, split)
        shape = (len(count), int(count.max()), *self.responses.shape[1:])
        found: NDArray[Any] = np.full(shape, np.nan, dtype=np.float32)
        for rows, block in self.blocks():
            kept = rank[rows] >= 0
            found = found.astype(np.result_type(block.dtype, np.float32), copy=False)
            found[code[rows][kept], rank[rows][kept]] = block[kept]
        return found

    def _repeats(
        self, ids: Sequence[str] | None, split: str | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return of each presentation its stimulus, and how many went before it (-1: not asked for); how many a stimulus has."""
        code = self.codes(ids)
        if split is not None:
            there = self.split is not None and split in self.split
            require(there, f"{self.session}: no presentation is for {split!r}")
            code = np.where(self.split == split, code, -1)
        kept, wanted = np.flatnonzero(code >= 0), self.shown if ids is None else tuple(ids)
        count = np.bincount(code[kept], minlength=len(wanted))
        lost = [name for name, n in zip(wanted, count, strict=True) if not n]
        where = f"{self.session}: {len(lost)}"
        require(not lost, f"{where} stimuli were not presented: {_some(lost)}")
        order = kept[np.argsort(code[kept], kind="stable")]
        rank = np.full(len(code), -1)
        rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
        return code, rank, count


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

    Raises
    ------
    DataError
        If lengths do not fit, an id is there twice, or images are not bytes of one or three channels.
    """

    ids: tuple[str, ...]
    images: Rows
    name: str = "stimuli"
    presented: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(_names(f"{self.name}: ids", self.ids).tolist()))
        shape, dtype = tuple(self.images.shape), str(getattr(self.images, "dtype", "uint8"))
        fits, where = len(shape) == 4 and shape[3] in {1, 3}, f"{self.name}: "
        require(fits, f"{where}images have shape {shape}; expected (n, height, width, 1 or 3)")
        got = f"got {dtype}: floats from 0 to 1 times 255, rounded"
        require(dtype.endswith("uint8"), f"{where}images must be bytes (uint8, 0 to 255), {got}")
        for what, names in (("ids", self.ids), ("presented", self.presented or self.ids)):
            got = f"{shape[0]} images, but {what} has {len(names)}"
            require(len(names) == shape[0], where + got)
        twice = [name for name, count in Counter(self.ids).items() if count > 1]
        require(not twice, f"{where}{len(twice)} ids are there twice: {_some(twice)}")

    @cached_property
    def _presented(self) -> dict[str, list[int]]:
        """Rows of the images that each id of a presentation stands for."""
        found: dict[str, list[int]] = {}
        for k, name in enumerate(self.presented or self.ids):
            found.setdefault(name, []).append(k)
        return found

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows of the images that were presented under these ids, in their order."""
        lost = [name for name in ids if name not in self._presented]
        require(not lost, f"{self.name}: {len(lost)} ids have no image: {_some(lost)}")
        return np.array([k for name in ids for k in self._presented[name]], dtype=np.int64)

    def images_of(self, ids: Sequence[str]) -> NDArray[np.uint8]:
        """Return the images that were presented under these ids, in their order: (n, height, width, channels)."""
        return take(self.images, self.rows(ids))

    def average(self, values: NDArray[np.floating], ids: Sequence[str]) -> NDArray[np.floating]:
        """Return the mean of each id's images.

        Parameters
        ----------
        values : ndarray
            (images, p): a row for each image of the set.
        ids : sequence of str
            Ids of presentations: `Recording.shown`, say.

        Returns
        -------
        ndarray
            (len(ids), p); where each id is one image, its row as it is, else float64.
        """
        rows = self.rows(ids)
        if self.presented is None:
            return np.asarray(values[rows])
        count = np.array([len(self._presented[name]) for name in ids])
        total = np.zeros((len(ids), values.shape[1]))
        np.add.at(total, np.repeat(np.arange(len(ids)), count), values[rows])
        return np.asarray(total / count[:, None])


@dataclass(frozen=True, eq=False)
class Brain:
    """Recordings that teach together, and what was shown.

    Parameters
    ----------
    name : str
        What reports call it.
    recordings : sequence of Recording
        At least one, of different sessions. Those with bins share one time axis.
    stimuli : sequence of Stimuli
        Sets of images that the recordings' ids refer to, each recording to one set; empty where conditions were presented and
        not images.
    conditions : sequence of str
        Names of the conditions in the data set's order, where the recordings are trials of a task.
    synthetic : bool
        Whether the responses are simulated; every report says so.
    remarks : sequence of str
        Sentences that every report of this brain must have.

    Raises
    ------
    DataError
        If there is no recording, two have one session, one shows what is neither a stimulus nor a condition, clocks differ, or an
        id has an image in two sets.

    Examples
    --------
    >>> images = Stimuli(("a", "b"), np.zeros((2, 8, 8, 3), np.uint8))
    >>> brain = Brain("mouse", [Recording(np.ones((4, 30)), ["a", "b", "a", "b"], "monday")], [images])
    >>> brain.units, brain.stimuli_of(brain.recordings[0]).images.shape
    (30, (2, 8, 8, 3))
    """

    name: str
    recordings: Sequence[Recording]
    stimuli: Sequence[Stimuli] = ()
    conditions: Sequence[str] = ()
    synthetic: bool = False
    remarks: Sequence[str] = ()

    def __post_init__(self) -> None:
        where, names = f"{self.name}: ", self.conditions
        conditions = _names(f"{where}conditions", np.array(list(names))).tolist()
        differ = not isinstance(names, str) and len(set(conditions)) == len(conditions)
        require(differ, f"{where}conditions must be names that differ, got {names!r}")
        for name in ("recordings", "stimuli"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "conditions", tuple(conditions))
        require(self.recordings, f"{where}there is no recording")
        kinds = _some(sorted({type(r).__name__ for r in self.recordings}))
        right = all(isinstance(r, Recording) for r in self.recordings)
        require(right, f"{where}recordings must be of class Recording, got {kinds}")
        sessions = [r.session for r in self.recordings]
        once = len(set(sessions)) == len(sessions)
        require(once, f"{where}two recordings have one session: {_some(sessions)}")
        timed = [(r.responses.shape[2], r.time) for r in self.recordings if r.time is not None]
        clocks = sorted({(bins, time.bin_ms, time.start_ms) for bins, time in timed})
        got = f"got (bins, ms a bin, start) {_some(clocks)}"
        require(len(clocks) < 2, f"{where}all recordings must share one clock, {got}")
        for recording in self.recordings:
            if self.stimuli:
                self.stimuli_of(recording)
            elif conditions:
                lost = _some(sorted(set(recording.shown) - set(conditions)))
                what = f"{lost} are none of the conditions {_some(conditions)}"
                require(not lost, f"{where}{recording.session}: {what}")

    @property
    def units(self) -> int:
        """Number of units of all recordings."""
        return sum(recording.unit_count for recording in self.recordings)

    @property
    def words(self) -> list[str]:
        """Sentences that every report must have: that the brain is simulated, if it is, and its remarks."""
        return [SYNTHETIC] * self.synthetic + list(self.remarks)

    def recording(self, session: str) -> Recording:
        """Return the recording of a session; DataError lists those there are."""
        found = {recording.session: recording for recording in self.recordings}
        there = _some(found, 20)
        require(session in found, f"{self.name} has no session {session!r}; there are {there}")
        return found[session]

    @cached_property
    def _image_set(self) -> dict[str, Stimuli]:
        found: dict[str, Stimuli] = {}
        for stimuli in self.stimuli:
            names = set(stimuli.presented or stimuli.ids)
            twice = sorted(names & set(found))
            where = f"{self.name}: {len(twice)}"
            require(not twice, f"{where} ids are in two image sets: {_some(twice)}")
            found |= dict.fromkeys(names, stimuli)
        return found

    def stimuli_of(self, recording: Recording) -> Stimuli:
        """Return the image set that a recording's ids refer to; DataError names ids without an image, or of several sets."""
        where = f"{self.name}: {recording.session}"
        lost = [name for name in recording.shown if name not in self._image_set]
        require(not lost, f"{where}: {len(lost)} stimuli have no image: {_some(lost)}")
        found = list({id(s): s for s in map(self._image_set.get, recording.shown)}.values())
        what = f"shows images of {len(found)} sets: make one set of them"
        require(len(found) == 1, f"{where} {what}")
        return cast("Stimuli", found[0])


@dataclass(frozen=True)
class TaskMatch:
    """How a recording of trials goes with a task, where it is not by equal names.

    Parameters
    ----------
    task : callable
        The registered task itself, imported; not its name.
    options : mapping of str to value
        Options of the task that the recording fixes: others are refused.
    defaults : mapping of str to value
        Further options where the user says nothing.
    epochs : mapping of str to str, optional
        The task's epoch -> the recording's; default: those of the same name.
    conditions : callable, optional
        Takes the task as it was made; returns its condition -> the recording's. Default: those of the same name.
    minimum_trials : int
        Units with fewer trials of any condition are left out.
    """

    task: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    epochs: Mapping[str, str] | None = None
    conditions: Callable[[Any], Mapping[str, str]] | None = None
    minimum_trials: int = 2

    def names(self, task: object) -> dict[str, Any]:
        """Return ``epochs`` and ``conditions`` of `b2m_fast.teachers.alignment.align`, without those that have equal names."""
        conditions = None if self.conditions is None else self.conditions(task)
        found = {"epochs": self.epochs, "conditions": conditions}
        return {what: names for what, names in found.items() if names is not None}


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and what is said of each: a class, or values of several labels.

    Parameters
    ----------
    images : (n, height, width, channels) uint8
        Images.
    names : tuple of str
        Names of the classes, or of the labels.
    classes : (n,) int64, optional
        Class of each image.
    values : (n, labels) float64, optional
        Values of the labels, where there are no classes.
    """

    images: Rows
    names: tuple[str, ...]
    classes: NDArray[np.int64] | None = None
    values: NDArray[np.float64] | None = None


def bin_spikes(
    times: NDArray[np.floating],
    unit: NDArray[np.integer],
    units: int,
    events: NDArray[np.floating],
    window_ms: tuple[float, float],
    bin_ms: float,
) -> NDArray[np.uint16]:
    """Return counts (events, units, bins) of spikes about events, for `Recording.responses`.

    `times` and `events` are in seconds, `unit` is the number of each spike's unit, `window_ms` begin and end about an event. A spike at
    a bin's beginning belongs to it, one at its end to the next.

    Raises
    ------
    ValueError
        If the window is no whole number of bins, at least one.

    Examples
    --------
    >>> spikes = bin_spikes(
    ...     np.array([0.9, 1.1, 1.2]), np.array([0, 0, 1]), 2, np.array([1.0]), (-200, 300), 100
    ... )
    >>> spikes[0].tolist()
    [[0, 1, 0, 1, 0], [0, 0, 0, 0, 1]]
    """
    begin, end = window_ms
    bins = round((end - begin) / bin_ms)
    if bins < 1 or abs(bins * bin_ms - (end - begin)) > 1e-6 * bin_ms:
        whole = f"a whole number of bins of {bin_ms} ms, at least one"
        raise ValueError(f"the window must be {whole}; got {begin} to {end} ms")
    counts = np.zeros((len(events), units, bins), dtype=np.uint16)
    order = np.argsort(times, kind="stable")
    when, who = np.asarray(times, dtype=np.float64)[order], unit[order]
    for trial, event in enumerate(events):
        first, last = np.searchsorted(when, (event + begin / 1e3 - 1e-9, event + end / 1e3))
        # rounding to a nanosecond: a spike at the very edge of a bin belongs to the later one
        place = np.floor(((when[first:last] - event) * 1e3 - begin + 1e-6) / bin_ms)
        inside = (place >= 0) & (place < bins)
        np.add.at(counts[trial], (who[first:last][inside], place[inside].astype(np.int64)), 1)
    return counts
