"""Brains of `b2m mediated`: features of what each was shown, its responses, its encoder and how good that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from b2m_fast.data.files import DataError
from b2m_fast.encoding.columns import column_correlation, standardised
from b2m_fast.encoding.quality import EncoderQuality
from b2m_fast.encoding.ridge import fit_ridge

__all__ = ["Brain", "encoder_map", "make_brain", "quality_by_folds"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Brain:
    """One brain, animal, session or area.

    Attributes
    ----------
    name : str
        Its name.
    stimuli : ndarray
        (n, p), features of what it was shown.
    responses : ndarray
        (n, units), as recorded.
    weights : ndarray, optional
        (p, units), its encoder, fitted on all stimuli; None if the stimuli are the labelled images
        (`labelled`), so that it must be fitted without those that are tested on. Predictions are in
        standard deviations of each unit's responses, those it was fitted to.
    labelled : bool
        Whether row i of the stimuli is labelled image i.
    quality : dict
        How well its responses are predicted.
    """

    name: str
    stimuli: Array
    responses: Array
    weights: Array | None
    labelled: bool
    quality: dict[str, Any]


def encoder_map(stimuli: Array, responses: Array) -> Array:
    """An encoder as a map from features to units, these in standard deviations of the responses given.

    Ridge with the penalty of each unit chosen by exact leave-one-out: images, unlike frames of a
    film, do not depend on their neighbours.

    Parameters
    ----------
    stimuli : ndarray
        (n, p).
    responses : ndarray
        (n, units).

    Returns
    -------
    ndarray
        (p, units), float64.
    """
    y = standardised(responses, responses)
    return np.asarray(
        fit_ridge(stimuli, y, folds="loo", standardise=False, dtype="float64").weights
    )


def make_brain(
    name: str, stimuli: Array, responses: NDArray[np.floating], quality: EncoderQuality, *,
    labelled: bool = False,
) -> Brain:  # fmt: skip
    """A brain with its encoder.

    Parameters
    ----------
    name : str
        Its name.
    stimuli : ndarray
        (n, p), features of what it was shown.
    responses : ndarray
        (n, units).
    quality : EncoderQuality
        How well its responses are predicted.
    labelled : bool, default False
        Whether the stimuli are the labelled images; its encoder is then left to the runs.

    Returns
    -------
    Brain
        The brain.

    Raises
    ------
    DataError
        If responses are not finite, of other stimuli, or never vary.
    """
    r = np.asarray(responses, dtype=np.float64)
    if not np.isfinite(r).all():
        bad = int((~np.isfinite(r)).any(axis=0).sum())
        raise DataError(f"{name}: {bad} of {r.shape[1]} units have NaN or infinite responses")
    if len(r) != len(stimuli):
        raise DataError(f"{name}: responses to {len(r)} stimuli, but there are {len(stimuli)}")
    if not (r != r[0]).any():
        raise DataError(f"{name}: none of its {r.shape[1]} units ever varies")
    weights = None if labelled else encoder_map(stimuli, r)
    return Brain(name, stimuli, r, weights, labelled, _shown(name, quality))


def _shown(name: str, quality: EncoderQuality) -> dict[str, Any]:
    """What runs and tables hold of a quality."""
    found = quality.report()
    low, _, high = found["r_quartiles"]
    return {
        "name": name, "units": found["neurons"], "stimuli": found["images"],
        "r": found["r"], "r_low": low, "r_high": high, "ceiling": found["ceiling"],
    }  # fmt: skip


def quality_by_folds(
    name: str, stimuli: Array, responses: NDArray[np.floating], fold: NDArray[np.int64]
) -> EncoderQuality:
    """How well `encoder_map` predicts averages over images, in folds that are given.

    Unlike `b2m_fast.encoding.quality.encoder_quality`, which finds components anew in each
    fold: averages have no layers to find them in.

    Parameters
    ----------
    name : str
        Of the brain.
    stimuli : ndarray
        (n, p).
    responses : ndarray
        (n, units).
    fold : ndarray
        (n,), the fold in which each is held out.

    Returns
    -------
    EncoderQuality
        One correlation a unit.
    """
    r = np.asarray(responses, dtype=np.float64)
    predicted = np.zeros_like(r)
    for k in np.unique(fold):
        train, test = fold != k, fold == k
        mean, offset = stimuli[train].mean(axis=0), r[train].mean(axis=0)
        found = (stimuli[test] - mean) @ encoder_map(stimuli[train], r[train])
        predicted[test] = found * r[train].std(axis=0) + offset
    return EncoderQuality(name, len(r), column_correlation(predicted, r))
