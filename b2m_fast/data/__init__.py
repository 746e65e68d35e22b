"""Recordings, stimuli, tasks and labels; each data set, task and set of labels is registered in the file that defines it.

A data set is a function that returns a `Brain`, and nothing else need be written:

    from b2m_fast.data import Brain, Recording, Stimuli, dataset

    @dataset("two-mice", "two mice that saw 400 photographs", kind="images")
    def two_mice(root):  # the folder given by --data, or None
        ...
        return Brain("two mice", recordings, [Stimuli(ids, images)])

``b2m COMMAND --brain FILE.py:two_mice`` takes it. What a function is called with it takes by name; a function without the argument
is called without it.

    kind of data set      root -> `Brain`
      "images"            each presentation shows an image of `Brain.stimuli`
      "categories"        each presentation stands for several images (`Stimuli.presented`)
      "trials"            each presentation is a trial of one of `Brain.conditions`, its responses have bins
    kind of task          root, and options behind a * -> what is learned
      "images"            `b2m_fast.data.images.ImageTask`: images and their classes
      "trials"            `b2m_fast.data.tasks.DecisionTask`: trials of a decision task
      "frames"            `b2m_fast.data.driving.Scenes`: frames to be reconstructed
    kind of labels        root or stimuli -> `LabelledImages`
      "own"               images that come with their labels; about: ``classes``, how many, where labels are classes
      "stimuli"           labels of the images that the brain was shown
      "observers"         observers, features -> (observers, images, labels), of simulated brains

Further facts of the decorators: ``source``, a `Source`, says which files are read, so that they enter the hash of a run; ``tasks``, a
tuple of `TaskMatch`, which tasks the recording can teach, the default first (without it: any of its kind whose epochs and conditions
have the same names); ``repeated`` and ``labelled``, the session that serves where one with repeats, or one whose images get labels, is
needed; ``synthetic=True``, a simulation. A simulated brain that first needs a trained network or image features has functions as
facts instead, called like those of `b2m_fast.teachers.synthetic`: ``observe``, ``observe_images``, ``observers``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from b2m_fast._registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from b2m_fast.data.files import DataError, Source
    from b2m_fast.data.recording import (
        Brain,
        LabelledImages,
        Recording,
        Stimuli,
        TaskMatch,
        TimeAxis,
        bin_spikes,
    )

__all__ = [
    "Brain",
    "DataError",
    "LabelledImages",
    "Recording",
    "Source",
    "Stimuli",
    "TaskMatch",
    "TimeAxis",
    "bin_spikes",
    "dataset",
    "files_of",
    "labels",
    "load",
    "task",
]

_FACTS = ("kind", "source", "synthetic")
dataset: Registry[Callable[..., Any]] = Registry(
    "dataset",
    "data set",
    "b2m_fast.data",
    "b2m_fast.teachers",
    facts=(*_FACTS, "tasks", "repeated", "labelled", "observe", "observe_images", "observers"),
)
task: Registry[Callable[..., Any]] = Registry("task", "task", "b2m_fast.data", facts=_FACTS)
labels: Registry[Callable[..., Any]] = Registry(
    "labels", "set of labels", "b2m_fast.data", "b2m_fast.teachers", facts=(*_FACTS, "classes")
)


def load(name: str, root: str | Path | None = None, **options: Any) -> Brain:
    """Return a registered data set, or one's own (``FILE.py:NAME``), read from the data directory `root` (default: B2M_DATA).

    Raises
    ------
    ValueError
        If there is no such data set or option.
    DataError
        If files are missing or malformed.

    Examples
    --------
    >>> load("steinmetz", "data").conditions  # doctest: +SKIP
    ('left', 'right', 'equal', 'none')
    """
    brain: Brain = dataset.get(name).build(options, root=root)
    return brain


def files_of(about: Mapping[str, Any], root: str | Path | None) -> list[Path]:
    """Return the files that something registered reads, known to exist: those of its fact ``source``."""
    source: Source | None = about.get("source")
    return [] if source is None else source.paths(root)


def __getattr__(name: str) -> Any:
    """Import the contract when it is first used: it needs NumPy, which ``b2m --help`` does not load."""
    if name in __all__:
        module = "files" if name in {"DataError", "Source"} else "recording"
        return getattr(import_module(f"b2m_fast.data.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
