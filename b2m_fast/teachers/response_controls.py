"""Controls of `ResponseTeacher`: other responses to the same images or conditions.

All tell samples apart, in the same way whenever an image or condition comes again; what they destroy
is that samples which are alike to the brain are alike to the teacher.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from b2m_fast.data.files import DataError
from b2m_fast.teachers.responses import ResponseTeacher, reduced, z_scored
from b2m_fast.teachers.shared_prefix import cycle

if TYPE_CHECKING:
    from numpy.typing import NDArray


def relabelled(teacher: ResponseTeacher, rng: np.random.Generator) -> ResponseTeacher:
    """Permute the responses of images or conditions; none keeps its own.

    Keeps every response, their geometry and the scatter of repeats. Destroys which image or
    condition a response is of: samples have other labels, and the images of those labels.
    """
    labels, place, first = _labels(teacher)
    new = cycle(len(labels), rng)[place]
    stimuli = None if teacher.stimuli is None else teacher.stimuli[first[new]]
    return replace(
        teacher, stimuli=stimuli, label=labels[new], report=_report(teacher, "relabelled")
    )


def gaussian(teacher: ResponseTeacher, rng: np.random.Generator) -> ResponseTeacher:
    """Mix the mean responses of images or conditions at random: q = Q m, Q a random rotation.

    Q rotates the space of samples and leaves their mean alone, so that rank and covariance between
    features are kept exactly, and each new mean is a sum of many random parts. Keeps the scatter of
    repeats as well. Destroys which samples are alike.
    """
    labels, place, _ = _labels(teacher)
    count = len(labels)
    responses = np.asarray(teacher.responses, dtype=np.float64)
    means = np.stack([responses[place == k].mean(axis=0) for k in range(count)])
    # an orthonormal basis of the contrasts between samples: a rotation among them moves no mean
    basis = np.linalg.qr(np.column_stack([np.ones(count), np.eye(count)[:, 1:]]))[0][:, 1:]
    rotation, sign = np.linalg.qr(rng.standard_normal((count - 1, count - 1)))
    rotation = rotation * np.sign(np.diag(sign))
    centre = means.mean(axis=0)
    mixed = basis @ (rotation @ (basis.T @ (means - centre))) + centre
    drawn = responses - means[place] + mixed[place]
    return replace(teacher, responses=z_scored(drawn), report=_report(teacher, "gaussian"))


def label(teacher: ResponseTeacher, rng: np.random.Generator | None = None) -> ResponseTeacher:
    """One-hot labels of images or conditions, z-scored.

    Keeps which samples are of the same label. Destroys everything else: every label is as far from
    every other. Where there are more labels than the brain has features, they are projected at
    random onto as many (default: always in the same way), equally far apart on average.
    """
    labels, place, _ = _labels(teacher)
    one_hot = np.eye(len(labels))
    if len(labels) > teacher.width:
        rng = np.random.default_rng(0) if rng is None else rng
        mixed = rng.normal(size=(len(labels), teacher.width))
        one_hot = np.linalg.qr(mixed - mixed.mean(axis=0))[0]
    return _instead(teacher, z_scored(one_hot[place]), "label")


def known(teacher: ResponseTeacher, labels: NDArray[np.floating]) -> ResponseTeacher:
    """What is known of each image besides its pixels: `labels` (images, d), a row for each label.

    Columns that vary, z-scored; principal components where they are more than the brain's features.
    DataError if a label has no row, or nothing varies.
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
    k = None
    if rows.shape[1] > teacher.width:
        k = min(teacher.width, int(np.linalg.matrix_rank(rows - rows.mean(axis=0))))
    return _instead(teacher, reduced(z_scored(rows), k, "labels"), "label")


def network(teacher: ResponseTeacher, features: NDArray[np.floating]) -> ResponseTeacher:
    """Principal components of a trained network's features, at most the brain's width, z-scored.

    `features` are (n, d), one row a sample; or (conditions, trials, d): trials of each condition of
    the task, which become the samples of the condition's label; conditions that share a label take
    turns. DataError if there are not as many as samples, or they do not vary.
    """
    if features.ndim == 3:
        features = _trials_of_samples(teacher, features)
    if features.ndim != 2 or len(features) != len(teacher.label):
        raise DataError(f"features have shape {features.shape}; expected ({len(teacher.label)}, d)")
    centred = np.asarray(features, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    u, size, _ = np.linalg.svd(centred, full_matrices=False)
    rank = int((size > 1e-6 * size[0]).sum()) if size[0] > 0 else 0
    if not rank:
        raise DataError("the network answers to all samples alike: it cannot teach")
    return _instead(teacher, z_scored(u[:, : min(rank, teacher.width)]), "network")


def pixel(teacher: ResponseTeacher) -> ResponseTeacher:
    """Principal components of the images' pixels; DataError where there are no images."""
    if teacher.stimuli is None:
        raise DataError("pixels can teach where images were shown; these responses have none")
    found = network(teacher, teacher.stimuli.reshape(len(teacher.stimuli), -1))
    return replace(found, report=_report(teacher, "pixel"))


def _trials_of_samples(
    teacher: ResponseTeacher, trials: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Return rows (n, d) for the samples from trials (conditions, trials, d)."""
    condition = np.arange(len(trials)) if teacher.condition is None else teacher.condition
    if len(trials) != len(condition) or not np.isin(teacher.label, condition).all():
        raise DataError(
            f"features have shape {trials.shape}; expected (conditions, trials, d) of "
            f"{len(condition)} conditions, one or more for each label"
        )
    out = np.empty((len(teacher.label), trials.shape[2]), dtype=trials.dtype)
    for number in np.unique(teacher.label):
        samples = teacher.label == number
        turns = trials[condition == number].swapaxes(0, 1).reshape(-1, trials.shape[2])
        if len(turns) < samples.sum():
            raise DataError(f"{samples.sum()} samples of label {number} need as many trials")
        out[samples] = turns[: samples.sum()]
    return out


def _instead(
    teacher: ResponseTeacher, responses: NDArray[np.float32], name: str
) -> ResponseTeacher:
    """Replace the brain's features; they are taught as they are."""
    return replace(teacher, responses=responses, report=_report(teacher, name), components=None)


def _labels(
    teacher: ResponseTeacher,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct labels, each sample's place among them, and the first sample of each."""
    labels, first, place = np.unique(teacher.label, return_index=True, return_inverse=True)
    if len(labels) < 2:
        raise DataError("a control needs two images or conditions, got one")
    return labels, place, first


def _report(teacher: ResponseTeacher, name: str) -> dict[str, object]:
    return {**teacher.report, "control": name}
