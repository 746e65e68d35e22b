"""Controls for responses that belong, one by one, to images or conditions (`PairedTeacher`).

All of them still tell samples apart, and the same way whenever an image or condition comes again;
what they destroy is that samples which are alike to the brain are alike to the teacher.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from b2m_fast.data.files import DataError
from b2m_fast.teachers.paired import scored

if TYPE_CHECKING:
    from b2m_fast.teachers.paired import PairedTeacher

__all__ = ["gaussian", "known", "label", "network", "pixel", "relabelled"]

Array = NDArray[np.float64]


def relabelled(teacher: PairedTeacher, rng: np.random.Generator) -> PairedTeacher:
    """Responses dealt out anew among images or conditions, none keeping its own.

    Keeps every response, their geometry and the scatter of repeats. Destroys which image or
    condition a response is of.

    Parameters
    ----------
    teacher : PairedTeacher
        The brain's.
    rng : Generator
        The order, a random cycle through all.

    Returns
    -------
    PairedTeacher
        The same responses under other labels, with the images of those labels.
    """
    labels, place, first = _labels(teacher)
    cycle = rng.permutation(len(labels))
    order = np.empty_like(cycle)
    order[cycle] = np.roll(cycle, 1)
    new = order[place]
    stimuli = None if teacher.stimuli is None else teacher.stimuli[first[new]]
    return replace(
        teacher, stimuli=stimuli, label=labels[new], report=_report(teacher, "relabelled")
    )


def gaussian(teacher: PairedTeacher, rng: np.random.Generator) -> PairedTeacher:
    """Mean responses of images or conditions mixed at random: q = Q m, Q a random rotation.

    Q turns the space of samples and leaves their mean alone, so that rank and covariance between
    features stay exactly as they are, and each new mean is a sum of many random parts. Keeps the
    scatter of repeats as well. Destroys which samples are alike.

    Parameters
    ----------
    teacher : PairedTeacher
        The brain's.
    rng : Generator
        The rotation.

    Returns
    -------
    PairedTeacher
        Random responses under the same labels.
    """
    labels, place, _ = _labels(teacher)
    responses = np.asarray(teacher.responses, dtype=np.float64)
    means = np.stack([responses[place == k].mean(axis=0) for k in range(len(labels))])
    count = len(labels)
    # an orthonormal basis of the contrasts between samples: a rotation among them moves no mean
    basis = np.linalg.qr(np.column_stack([np.ones(count), np.eye(count)[:, 1:]]))[0][:, 1:]
    turn, sign = np.linalg.qr(rng.standard_normal((count - 1, count - 1)))
    turn = turn * np.sign(np.diag(sign))
    centre = means.mean(axis=0)
    mixed = basis @ (turn @ (basis.T @ (means - centre))) + centre
    drawn = responses - means[place] + mixed[place]
    return replace(teacher, responses=scored(drawn), report=_report(teacher, "gaussian"))


def label(teacher: PairedTeacher, rng: np.random.Generator | None = None) -> PairedTeacher:
    """Nothing but the label: one feature for each image or condition.

    Keeps which samples are of the same label. Destroys everything else: every label is as far from
    every other. Where there are more labels than the brain has features, the features are projected
    at random onto as many, and labels are equally far apart on average.

    Parameters
    ----------
    teacher : PairedTeacher
        The brain's.
    rng : Generator, optional
        The projection; default: always the same one.

    Returns
    -------
    PairedTeacher
        One-hot responses, z-scored, with at most the brain's width.
    """
    labels, place, _ = _labels(teacher)
    hot = np.eye(len(labels))
    if len(labels) > teacher.width:
        rng = np.random.default_rng(0) if rng is None else rng
        mixed = rng.normal(size=(len(labels), teacher.width))
        hot = np.linalg.qr(mixed - mixed.mean(axis=0))[0]
    return _instead(teacher, scored(hot[place]), "label")


def known(teacher: PairedTeacher, labels: NDArray[np.floating]) -> PairedTeacher:
    """What is known of each image besides its pixels, in the place of the brain.

    Parameters
    ----------
    teacher : PairedTeacher
        The brain's.
    labels : ndarray
        (images, d): a row for each label of the teacher.

    Returns
    -------
    PairedTeacher
        The columns that vary, z-scored; principal components of them, where they are more than the
        brain's features.

    Raises
    ------
    DataError
        If a label has no row, or nothing varies.
    """
    if labels.ndim != 2 or teacher.label.min() < 0 or teacher.label.max() >= len(labels):
        raise DataError(
            f"labels have shape {labels.shape}; expected a row for each of the images up to "
            f"{teacher.label.max()}"
        )
    rows = np.asarray(labels, dtype=np.float64)[teacher.label]
    rows = rows[:, rows.std(axis=0) > 1e-9]
    if not rows.shape[1]:
        raise DataError("nothing that is known of the images varies: labels cannot teach")
    k = teacher.width if rows.shape[1] > teacher.width else None
    if k is not None:
        k = min(k, int(np.linalg.matrix_rank(rows - rows.mean(axis=0))))
    return _instead(teacher, scored(scored(rows), k), "label")


def network(teacher: PairedTeacher, features: NDArray[np.floating]) -> PairedTeacher:
    """Features of a trained network in the place of the brain's, with at most as many dimensions.

    Parameters
    ----------
    teacher : PairedTeacher
        The brain's.
    features : ndarray
        (n, d): what the network makes of each sample; or (conditions, trials, d), for each
        condition of the task what it makes of some trials, which are dealt to the samples of the
        condition's label, those of conditions that share a label in turns.

    Returns
    -------
    PairedTeacher
        Principal components of the features, each given the same variance.

    Raises
    ------
    DataError
        If there are not as many features as samples, or they do not vary.
    """
    if features.ndim == 3:
        features = _dealt(teacher, features)
    if features.ndim != 2 or len(features) != len(teacher.label):
        raise DataError(f"features have shape {features.shape}; expected ({len(teacher.label)}, d)")
    centred = np.asarray(features, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    u, size, _ = np.linalg.svd(centred, full_matrices=False)
    kept = int((size > 1e-6 * size[0]).sum()) if size[0] > 0 else 0
    if not kept:
        raise DataError("the network answers to all samples alike: it cannot teach")
    k = min(kept, teacher.width)
    return _instead(teacher, scored(u[:, :k]), "network")


def pixel(teacher: PairedTeacher) -> PairedTeacher:
    """What the images look like, in the place of the brain: principal components of their pixels.

    Parameters
    ----------
    teacher : PairedTeacher
        The brain's, with stimuli.

    Returns
    -------
    PairedTeacher
        With at most as many features as the brain's.

    Raises
    ------
    DataError
        If there are no images, or they are all alike.
    """
    if teacher.stimuli is None:
        raise DataError("pixels can teach where images were shown; these responses have none")
    found = network(teacher, teacher.stimuli.reshape(len(teacher.stimuli), -1))
    return replace(found, report=_report(teacher, "pixel"))


def _dealt(teacher: PairedTeacher, trials: NDArray[np.floating]) -> NDArray[np.floating]:
    """Trials (conditions, trials, d) as rows (n, d) of the samples of the conditions' labels."""
    condition = np.arange(len(trials)) if teacher.condition is None else teacher.condition
    if len(trials) != len(condition) or not np.isin(teacher.label, condition).all():
        raise DataError(
            f"features have shape {trials.shape}; expected (conditions, trials, d) of "
            f"{len(condition)} conditions, one or more for each label"
        )
    out = np.empty((len(teacher.label), trials.shape[2]), dtype=trials.dtype)
    for number in np.unique(teacher.label):
        mine = teacher.label == number
        turns = trials[condition == number].swapaxes(0, 1).reshape(-1, trials.shape[2])
        if len(turns) < mine.sum():
            raise DataError(f"{mine.sum()} samples of label {number} need as many trials")
        out[mine] = turns[: mine.sum()]
    return out


def _instead(teacher: PairedTeacher, responses: NDArray[np.float32], name: str) -> PairedTeacher:
    """Other features, as they are, in the place of the brain's."""
    return replace(teacher, responses=responses, report=_report(teacher, name), components=None)


def _labels(
    teacher: PairedTeacher,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Labels, each sample's place among them, and the first sample of each."""
    labels, first, place = np.unique(teacher.label, return_index=True, return_inverse=True)
    if len(labels) < 2:
        raise DataError("a control needs two images or conditions, got one")
    return labels, place, first


def _report(teacher: PairedTeacher, name: str) -> dict[str, object]:
    return {**teacher.report, "control": name}
