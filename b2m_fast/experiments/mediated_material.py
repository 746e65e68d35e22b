"""What the runs of `b2m mediated` need: labelled images, and brains from recordings or made up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from b2m_fast.data._old import cowley_v4, object2vec
from b2m_fast.data.attributes import ATTRIBUTES, image_attributes
from b2m_fast.data.files import DataError, data_root
from b2m_fast.data.images import cifar10_classes, digits
from b2m_fast.encoding.columns import column_correlation, standardised
from b2m_fast.encoding.components import fit_components
from b2m_fast.encoding.encoders import fit_layers
from b2m_fast.encoding.quality import encoder_quality
from b2m_fast.evaluate.variability import correlation_distance, representational_distance
from b2m_fast.experiments.mediated_brains import Brain, make_brain, quality_by_folds
from b2m_fast.experiments.mediated_features import image_features
from b2m_fast.teachers.synthetic import observers, ratings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from b2m_fast.experiments.mediated_settings import MediatedExperiment

__all__ = ["Material", "make_material"]

Array = NDArray[np.float64]

DISTANCE_IMAGES = 200  # of the synthetic labelled images, for distances between measured responses


@dataclass(frozen=True, eq=False)
class Material:
    """What runs need.

    Attributes
    ----------
    features : ndarray
        (n, p), of the labelled images.
    labels : ndarray
        (n, labels), float64; empty (n, 0) for classes.
    classes : ndarray, optional
        (n,), int64.
    names : tuple of str
        Names of the labels, or of the classes.
    brains : tuple of Brain
        The brains.
    measured : tuple of ndarray
        (n, units) each: responses to the labelled images, as recorded; may be empty.
    fold : ndarray, optional
        (n,), folds that come with the data.
    distance : ndarray, optional
        (brains, brains), between the brains, of what `distance_of` says.
    distance_of : str
        What the distance is of.
    report : dict
        Quality of the encoders, and words about them.
    """

    features: Array
    labels: Array
    classes: NDArray[np.int64] | None
    names: tuple[str, ...]
    brains: tuple[Brain, ...]
    measured: tuple[Array, ...] = ()
    fold: NDArray[np.int64] | None = None
    distance: Array | None = None
    distance_of: str = ""
    report: dict[str, Any] | None = None

    def named(self, arm: str) -> tuple[Brain, ...]:
        """The brains that an arm is named after.

        Parameters
        ----------
        arm : str
            Arm.

        Returns
        -------
        tuple of Brain
            None, one, or all.
        """
        if arm in {"brain-mean", "brain-stacked"}:
            return self.brains
        return tuple(b for b in self.brains if arm == f"brain-{b.name}")

    def of(self, arm: str) -> Material:
        """The part one arm needs.

        Parameters
        ----------
        arm : str
            Arm.

        Returns
        -------
        Material
            All labelled images, as all arms share their split; the brains that the arm goes through,
            or is a control of.
        """
        brains = () if arm in {"direct", "measured"} else self.named(arm) or self.brains
        measured = self.measured if arm == "measured" else ()
        return replace(self, brains=brains, measured=measured, report={})


def make_material(
    experiment: MediatedExperiment, root: str | None, say: Callable[[str], object] = lambda _: None
) -> Material:
    """Load images and recordings, compute features, fit the encoders.

    Parameters
    ----------
    experiment : MediatedExperiment
        The experiment.
    root : str, optional
        The data directory.
    say : callable
        Told what is being done.

    Returns
    -------
    Material
        What the runs need.

    Raises
    ------
    DataError
        If data are missing or malformed, or too few for the smallest size.
    ValueError
        If a tap is unknown.
    """
    make = {
        "synthetic": _synthetic, "cowley-v4": _cowley_v4, "object2vec": _object2vec
    }[experiment.brain]  # fmt: skip
    material = make(experiment, root, say)
    varies = material.labels.std(axis=0) > 0
    left_out = [n for n, v in zip(material.names, varies, strict=False) if not v]
    words: list[str] = []
    if material.classes is None and left_out:
        if not varies.any():
            raise DataError("no label varies over the labelled images")
        words.append(f"Left out, as they never vary here: {', '.join(left_out)}.")
        names = tuple(n for n, v in zip(material.names, varies, strict=True) if v)
        material = replace(material, labels=material.labels[:, varies], names=names)
    n = len(material.features)
    if n < 3 * experiment.folds:
        raise DataError(
            f"{n} labelled images in {experiment.folds} folds: each needs at least 3 to be scored on"
        )
    pool = n - -(-n // experiment.folds)
    if pool < min(experiment.sizes, default=4):
        raise DataError(
            f"{n} labelled images in {experiment.folds} folds leave {pool} to learn from, fewer "
            f"than the smallest size {min(experiment.sizes)}"
        )
    if many := [str(size) for size in experiment.sizes if size >= pool]:
        words.append(f"Left out: n = {', '.join(many)}, as a seed has {pool} images to draw from.")
    if experiment.brain == "synthetic":
        words.append(
            "The brains are SYNTHETIC: this shows that the method runs, not what brains do. Labels "
            f"were planted {experiment.cortex.planted} what the brains represent."
        )
    if experiment.brain == "object2vec":
        words.append("The brains are areas of ONE person: they differ by area, not by person.")
    report = {"encoders": [b.quality for b in material.brains], "words": words}
    return replace(material, report=report)


# --------------------------------------------------------------------------------------------------
# Brains and labels
# --------------------------------------------------------------------------------------------------
def _layers(
    parts: Sequence[NDArray[np.uint8]], experiment: MediatedExperiment,
    say: Callable[[str], object],
) -> list[list[NDArray[np.float32]]]:  # fmt: skip
    """Activations of several sets of images."""
    out = []
    for images in parts:
        say(f"features of {len(images)} images (kept for the next time)")
        out.append(image_features(images, experiment.features))
    return out


def _synthetic(
    experiment: MediatedExperiment, _: str | None, say: Callable[[str], object]
) -> Material:
    """Digits, half of them shown to the brains, the other half labelled."""
    task = digits(size=8)
    x = np.concatenate([task.train_x, task.validation_x, task.test_x])
    y = np.concatenate([task.train_y, task.validation_y, task.test_y])
    images = np.rint(x * 255).astype(np.uint8)[..., None]
    order = np.random.default_rng(0).permutation(len(y))
    shown, rest = order[: len(y) // 2], order[len(y) // 2 :]
    (layers,) = _layers([images], experiment, say)
    space = fit_components([v[shown] for v in layers], experiment.features.components)
    f = space.transform(layers).astype(np.float64)
    cortex = experiment.cortex
    made = observers(
        f[shown], np.eye(10)[y[shown]], count=cortex.observers, units=cortex.units,
        planted=cortex.planted, spread=cortex.spread,
    )  # fmt: skip
    say(f"encoders of {len(made)} synthetic brains")
    brains, measured = [], []
    for k, (name, brain) in enumerate(zip(experiment.names, made, strict=True)):
        rng = np.random.default_rng([k, 22])
        counts = brain.record(f[shown], rng)
        fit = partial(fit_layers, k=experiment.features.components)
        quality = encoder_quality(
            name, [v[shown] for v in layers], counts.astype(np.float32), fit=fit
        )
        quality = replace(quality, ceiling=column_correlation(brain.rates(f[shown]), counts))
        brains.append(make_brain(name, f[shown], counts, quality))
        measured.append(brain.record(f[rest], rng))
    said = ratings(made, f[rest])
    if experiment.labels == "ratings":
        common = said.mean(axis=0)
        names = tuple(f"scale {k + 1}" for k in range(common.shape[1]))
        return Material(
            f[rest], common, None, names, tuple(brains), tuple(measured),
            distance=_distance(said), distance_of="the observers' own ratings",
        )  # fmt: skip
    few = [m[:DISTANCE_IMAGES] for m in measured]
    return Material(
        f[rest], np.empty((len(rest), 0)), y[rest], tuple("0123456789"), tuple(brains),
        tuple(measured), distance=_geometry(few) if len(few) > 2 else None,
        distance_of="responses measured to the labelled images",
    )  # fmt: skip


def _distance(said: Array) -> Array | None:
    """Distance between the ratings of observers; a Mantel test needs three."""
    return correlation_distance(said) if len(said) > 2 else None


def _geometry(responses: Sequence[Array]) -> Array:
    """Distance between what brains tell apart, all units of a brain counting alike."""
    return representational_distance([standardised(r, r) for r in responses])


def _cifar10(
    root: str | None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    found = cifar10_classes(data_root(root))
    return np.asarray(found.images), np.asarray(found.classes), found.names


def _cowley_v4(
    experiment: MediatedExperiment, root: str | None, say: Callable[[str], object]
) -> Material:
    """Sessions of V4; labels of CIFAR-10, or attributes of one session's own images."""
    recordings = cowley_v4(data_root(root))
    own = experiment.labels == "attributes"
    sets = [r.images for r in recordings]
    if not own:
        images, classes, names = _cifar10(root)
        sets.append(images)
    layers = _layers(sets, experiment, say)
    shown = layers[: len(recordings)]
    space = fit_components(
        [np.concatenate(tap) for tap in zip(*shown, strict=True)], experiment.features.components
    )
    features = [space.transform(part).astype(np.float64) for part in layers]
    say(f"encoders of {len(recordings)} sessions")
    brains = []
    for name, recording, f, layer in zip(
        experiment.names, recordings, features, layers, strict=False
    ):
        trials = None if recording.trials is None else recording.trials.transpose(1, 2, 0)
        fit = partial(fit_layers, k=experiment.features.components)
        quality = encoder_quality(
            recording.name, layer, recording.responses.T, trials=trials, fit=fit
        )
        mine = own and name == experiment.session
        brains.append(make_brain(name, f, recording.responses.T, quality, labelled=mine))
    if not own:
        empty = np.empty((len(classes), 0))
        return Material(features[-1], empty, classes, names, tuple(brains))
    place = experiment.names.index(experiment.session)
    labels = image_attributes(recordings[place].images)
    return Material(
        features[place], labels, None, tuple(ATTRIBUTES), tuple(brains),
        (brains[place].responses,),
    )  # fmt: skip


def _object2vec(
    experiment: MediatedExperiment, root: str | None, say: Callable[[str], object]
) -> Material:
    """Areas of one person; labels of CIFAR-10, or attributes of the categories' own images."""
    recording = object2vec(data_root(root))
    own = experiment.labels == "attributes"
    sets = [recording.images]
    if not own:
        images, classes, names = _cifar10(root)
        sets.append(images)
    layers = _layers(sets, experiment, say)
    space = fit_components(layers[0], experiment.features.components)
    shown = recording.average(space.transform(layers[0]))
    say(f"encoders of {len(recording.areas)} areas")
    brains = tuple(
        make_brain(
            name, shown, area, quality_by_folds(name, shown, area, recording.fold), labelled=own
        )
        for name, area in ((n, recording.areas[n]) for n in experiment.names)
    )
    distance = _geometry([b.responses for b in brains])
    of = "responses measured to the 81 categories"
    if not own:
        f = space.transform(layers[1]).astype(np.float64)
        empty = np.empty((len(classes), 0))
        return Material(f, empty, classes, names, brains, distance=distance, distance_of=of)
    labels = recording.average(image_attributes(recording.images))
    fold = recording.fold if len(np.unique(recording.fold)) == experiment.folds else None
    return Material(
        shown, labels, None, tuple(ATTRIBUTES), brains, tuple(b.responses for b in brains), fold,
        distance, of,
    )  # fmt: skip
