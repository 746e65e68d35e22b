"""The experiment around brain-mediated transfer: arms, labelled samples, readouts, scores.

A run is an arm and a seed. The seed decides which images are tested on (a fold: ten seeds test every
image once) and which labelled samples are drawn from the others, the same in every arm. The penalty
of a readout is chosen among these samples alone, by leave-one-out, on the same relative grid.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import LabelBinarizer

from b2m_fast.data._old import cowley_v4_files, object2vec_files
from b2m_fast.data.files import data_root, fingerprint
from b2m_fast.data.images import CIFAR10
from b2m_fast.encoding.columns import column_correlation, standardised
from b2m_fast.evaluate.variability import correlation_distance
from b2m_fast.experiments.former import finite
from b2m_fast.experiments.mediated_brains import encoder_map
from b2m_fast.experiments.mediated_maps import block_order, dimensions, principal_map, random_map
from b2m_fast.experiments.mediated_material import make_material
from b2m_fast.experiments.provenance import machine, versions
from b2m_fast.methods.config import PENALTIES
from b2m_fast.methods.mediated import fit_readout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from b2m_fast.encoding.ridge import Ridge
    from b2m_fast.experiments.former import Payload
    from b2m_fast.experiments.mediated_material import Material
    from b2m_fast.experiments.mediated_settings import MediatedExperiment
    from b2m_fast.experiments.runs import Job

__all__ = ["ALL", "data_fingerprint", "make_material", "run", "split"]

ALL = "all"
Array = NDArray[np.float64]
SHUFFLE, RANDOM, PARTITION, SAMPLES = 31, 32, 33, 34  # streams of a seed


def data_fingerprint(experiment: MediatedExperiment, root: str | None) -> str:
    """Fingerprint of the files an experiment reads; also checks that they are there.

    Parameters
    ----------
    experiment : MediatedExperiment
        The experiment.
    root : str, optional
        The data directory.

    Returns
    -------
    str
        Empty if it reads none.

    Raises
    ------
    DataError
        If a file is missing.
    """
    files: list[Path] = []
    if experiment.brain == "cowley-v4":
        files += cowley_v4_files(data_root(root))
    if experiment.brain == "object2vec":
        files += object2vec_files(data_root(root))
    if experiment.labels == "cifar10":
        files += CIFAR10.paths(data_root(root))
    return fingerprint(files)


def split(
    material: Material, experiment: MediatedExperiment, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Images to learn from, and images to be tested on.

    Parameters
    ----------
    material : Material
        The labelled images.
    experiment : MediatedExperiment
        Its ``folds`` F: seeds 0 to F - 1 test every image once, the next F do so in another partition.
    seed : int
        Seed.

    Returns
    -------
    pool, test : ndarray
        Ascending rows. Folds that come with the data make the first partition.
    """
    partition, fold = divmod(seed, experiment.folds)
    member = material.fold if partition == 0 else None
    if member is None:
        order = np.random.default_rng([partition, PARTITION]).permutation(len(material.features))
        member = order % experiment.folds
    return np.flatnonzero(member != fold), np.flatnonzero(member == fold)


def run(job: Job, tick: Callable[[], object]) -> dict[str, Any]:
    """One run: the readout of an arm at every number of labelled samples.

    Parameters
    ----------
    job : Job
        Its payload is a `Payload` with a `MediatedExperiment` and its `Material`.
    tick : callable
        Called after each number of samples.

    Returns
    -------
    dict
        Everything measured, as JSON can hold it.
    """
    payload: Payload = job.payload
    experiment: MediatedExperiment = payload.experiment
    material: Material = payload.material
    arm, seed = job.config["arm"], job.config["seed"]
    torch.set_num_threads(payload.threads)
    start = time.perf_counter()
    pool, test = split(material, experiment, seed)
    single = _views(arm, material, experiment, pool, seed)
    apart = arm == "brain-mean" or (arm != "brain-stacked" and experiment.combine == "mean")
    views = single if apart or len(single) == 1 else [np.hstack(single)]
    compare = arm in {"brain-mean", "shuffled"} and material.distance is not None
    result: dict[str, Any] = {"scores": {}, "labels": {}, "penalties": {}, "between": {}}
    sizes = {str(n): n for n in experiment.sizes if n < len(pool)} | {ALL: len(pool)}
    for size, count in sizes.items():
        found = _score(
            views, single if compare else None, material, experiment, (pool, test), count, seed
        )
        for key, value in found.items():
            result[key][size] = value
        tick()
    for _ in range(len(experiment.sizes) + 1 - len(sizes)):  # more samples than there are
        tick()
    return result | {
        "arm": arm,
        "seed": seed,
        "names": list(material.names),
        "labelled": sizes,
        "tested": len(test),
        "regressors": [int(v.shape[1]) for v in views],
        "encoders": [b.quality for b in material.named(arm)],
        "distance": None if not compare else _rounded(material.distance),
        "distance_of": material.distance_of,
        "seconds": time.perf_counter() - start,
        "versions": versions(),
        "machine": machine(payload.threads),
    }


# --------------------------------------------------------------------------------------------------
# What stands between features and labels
# --------------------------------------------------------------------------------------------------
def _views(
    arm: str, material: Material, experiment: MediatedExperiment, pool: NDArray[np.int64], seed: int
) -> list[Array]:
    """Regressors of all labelled images: one array a brain, or a single one.

    Nothing is taken from responses to images outside the pool, their unit neither.
    """
    features = material.features
    if arm == "direct":
        return [features]
    if arm == "measured":
        return [standardised(m, m[pool]) for m in material.measured]
    shown = [
        (b.stimuli[pool], b.responses[pool]) if b.labelled else (b.stimuli, b.responses)
        for b in material.brains
    ]
    if arm == "shuffled":
        # brains that were shown the same images are dealt out in the same order: what they have in
        # common, and how they differ, stays
        orders = [block_order(len(s), 1, np.random.default_rng([seed, SHUFFLE])) for s, _ in shown]
        return [
            features @ encoder_map(s, r[order]) for (s, r), order in zip(shown, orders, strict=True)
        ]
    used = material.named(arm) or material.brains
    maps = [
        encoder_map(*pair) if b.weights is None else b.weights
        for b, pair in zip(material.brains, shown, strict=True)
        if b in used
    ]
    if arm == "direct-rank":
        stimuli = [s for s, _ in shown]
        if experiment.combine == "stacked":
            stimuli, maps = [_once(stimuli)], [np.hstack(maps)]
        return [
            features @ principal_map(s, dimensions(s @ m, experiment.rank_share))
            for s, m in zip(stimuli, maps, strict=True)
        ]
    if arm == "random-map":
        # brains have much in common: it is the spectrum of all their maps together that counts
        rng = np.random.default_rng([seed, RANDOM])
        together = [np.hstack(maps)] if experiment.combine == "stacked" else maps
        maps = [random_map(m, rng) for m in together]
    return [features @ m for m in maps]


def _once(stimuli: Sequence[Array]) -> Array:
    """Stimuli of all brains, those of brains that were shown the same ones once."""
    different: list[Array] = []
    for s in stimuli:
        if not any(np.array_equal(s, d) for d in different):
            different.append(s)
    return np.concatenate(different)


# --------------------------------------------------------------------------------------------------
# Readouts
# --------------------------------------------------------------------------------------------------
def _sample(
    material: Material, pool: NDArray[np.int64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Labelled samples; of classes, as many of each as can be."""
    if count == len(pool):
        return pool
    if material.classes is None:
        return rng.permutation(pool)[:count]
    order = rng.permutation(pool)
    classes = material.classes[order]
    turn = np.empty(len(order), dtype=np.int64)
    for k in np.unique(classes):
        turn[classes == k] = np.arange((classes == k).sum())
    return order[np.lexsort((rng.random(len(order)), turn))[:count]]


def _score(
    views: Sequence[Array],
    single: Sequence[Array] | None,
    material: Material,
    experiment: MediatedExperiment,
    rows: tuple[NDArray[np.int64], NDArray[np.int64]],
    count: int,
    seed: int,
) -> dict[str, Any]:
    """Score of one number of labelled samples, averaged over draws."""
    pool, test = rows
    y, shared = _targets(material)
    per_label, between = [], []
    chosen = dict.fromkeys(PENALTIES, 0)
    for draw in range(1 if count == len(pool) else experiment.draws):
        train = _sample(material, pool, count, np.random.default_rng([seed, SAMPLES, count, draw]))
        readouts = _readouts(views, material, train)
        for readout in readouts:
            for penalty in readout.alphas[: 1 if shared else None]:
                chosen[float(penalty)] += 1
        estimates = _estimates(readouts, views, test)
        per_label.append(_per_label(estimates.mean(axis=0), material, test))
        if single is not None and len(single) > 2:
            if len(estimates) == 1:
                estimates = _estimates(_readouts(single, material, train), single, test)
            # labels have units of their own, and means that no brain decides
            between.append(correlation_distance(standardised(estimates, y[train])))
    labels = np.mean(per_label, axis=0)
    found: dict[str, Any] = {
        "scores": finite(float(labels.mean())),
        "labels": [round(float(v), 6) for v in labels],
        "penalties": {f"{penalty:.3g}": times for penalty, times in chosen.items() if times},
    }
    if between:
        found["between"] = _rounded(np.mean(between, axis=0))
    return found


def _targets(material: Material) -> tuple[Array, bool]:
    """What readouts are fitted to, and whether all of it has one penalty."""
    if material.classes is None:
        return material.labels, False
    return _codes(material).transform(material.classes).astype(np.float64), True


def _codes(material: Material) -> LabelBinarizer:
    """Classes as +1 and -1: a column for two classes, a column a class for more."""
    return LabelBinarizer(neg_label=-1).fit(np.arange(len(material.names)))


def _readouts(views: Sequence[Array], material: Material, train: NDArray[np.int64]) -> list[Ridge]:
    """One readout a view.

    The penalty is chosen by leave-one-out; but not where classes have one sample each: it would be
    judged by classes it was never told of, and always be the largest. There it is the largest.
    """
    y, shared = _targets(material)
    alone = material.classes is not None and len(train) < 2 * len(material.names)
    grid = PENALTIES[-1:] if alone else PENALTIES
    return [fit_readout(z[train], y[train], grid, shared=shared) for z in views]


def _estimates(readouts: Sequence[Ridge], views: Sequence[Array], test: NDArray[np.int64]) -> Array:
    """Estimates (views, test, labels)."""
    return np.stack([r.predict(z[test]) for r, z in zip(readouts, views, strict=True)])


def _per_label(estimate: Array, material: Material, test: NDArray[np.int64]) -> Array:
    """Correlation with each label; of classes, the share of right answers: one number."""
    if material.classes is None:
        return column_correlation(estimate, material.labels[test])
    return np.array(
        [(_codes(material).inverse_transform(estimate) == material.classes[test]).mean()]
    )


def _rounded(values: Array | None) -> list[list[float]] | None:
    return None if values is None else [[round(float(v), 6) for v in row] for row in values]
