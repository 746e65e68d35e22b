"""The target of each arm: recordings in, similarities out, with a report on their quality."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.data.images import to_gray
from b2m_fast.encoding.encoders import crossfit
from b2m_fast.encoding.features import cnn_features, gabor_pyramid
from b2m_fast.encoding.reliability import predictability, reliability
from b2m_fast.teachers import controls
from b2m_fast.teachers.similarity import Target, agreement, average, cosine_similarity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from b2m_fast.data.v4 import Recording

__all__ = ["ARMS", "DENOISERS", "Teaching", "needs_brain", "prepare"]

ARMS = {
    "none": "no teacher",
    "neural": "denoised neural similarity",
    "neural-shuffled": "the same similarities, images dealt out anew",
    "raw": "similarity of the responses as recorded, not denoised",
    "pixel": "pixel similarity of the same images",
    "pixel-threshold": "pixel similarity cut at +-0.8 to -1, 0, 1 (Attias et al. 2024)",
    "blur": "no teacher; a Gaussian blur before the network",
    "cnn": "similarity in EfficientNet-Lite0 (trained on ImageNet)",
}

DENOISERS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.float32]]] = {
    "gabor": gabor_pyramid,
    "efficientnet": partial(cnn_features, block=7),
}


@dataclass(frozen=True)
class Teaching:
    """Targets of all arms, and what is known about them.

    Attributes
    ----------
    targets : dict
        Arm -> list of `Target`, one per image set; empty for arms without a teacher. ``neural`` is
        always there: every student is measured against it.
    report : dict
        Quality of the denoiser and of the similarities, per recording.
    """

    targets: dict[str, list[Target]]
    report: dict[str, Any]


def needs_brain(arm: str) -> bool:
    """Whether an arm trains on a similarity target.

    Parameters
    ----------
    arm : str
        A key of `ARMS`.

    Returns
    -------
    bool
        False for ``none`` and ``blur``.
    """
    return arm not in {"none", "blur"}


def _weights(recording: Recording) -> NDArray[np.float64]:
    """W = sigma / eta where there are repeats, else 1."""
    if recording.trials is None:
        return np.ones(len(recording.responses))
    return reliability(recording.trials)


def _standardised(responses: NDArray[np.floating]) -> NDArray[np.float64]:
    """Responses in standard deviations of each neuron (as the denoiser's predictions are)."""
    scale = responses.std(axis=1, keepdims=True, dtype=np.float64)
    out = np.zeros(responses.shape)
    np.divide(responses, scale, out=out, where=scale > 0)
    return out


def _denoised(
    recording: Recording, banks: Sequence[NDArray[np.float32]], folds: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], dict[str, Any]]:
    """Denoised similarity, raw similarity, and their quality, of one recording.

    r_hat = w v rho_hat for the denoised, r = w rho for the raw, as described for Li et al. 2019.
    """
    fits = [crossfit(b, recording.responses, folds=folds, seed=seed).responses for b in banks]
    predicted = np.mean(fits, axis=0)
    quality = predictability(predicted, recording.responses)
    w, v = _weights(recording), quality.clip(min=0)
    neural = cosine_similarity(((w * v)[:, None] * predicted).T)
    raw = cosine_similarity((w[:, None] * _standardised(recording.single_trial)).T)
    report: dict[str, Any] = {
        "neurons": len(recording.responses),
        "images": len(recording.images),
        "synthetic": recording.synthetic,
        "predictability_mean": float(quality.mean()),
        "predictability_quartiles": np.quantile(quality, [0.25, 0.5, 0.75]).tolist(),
        "has_repeats": recording.trials is not None,
        "reliability_mean": None if recording.trials is None else float(w.mean()),
        "raw_is": "single trials" if recording.trials is not None else "averages over repeats",
        "denoised_vs_raw_similarity_r": agreement(neural, raw),
    }
    if recording.trials is not None:
        repeated = np.isfinite(recording.trials).all(axis=0).sum(axis=1) >= 5
        rest = np.nanmean(recording.trials[:, repeated, 1:], axis=2)
        pick = np.flatnonzero(repeated)
        reference = cosine_similarity((w[:, None] * _standardised(rest)).T)
        trial = (w[:, None] * _standardised(recording.single_trial)[:, pick]).T
        denoised = ((w * v)[:, None] * predicted[:, pick]).T
        report["repeated_images"] = len(pick)
        report["single_trial_vs_repeats_r"] = agreement(cosine_similarity(trial), reference)
        report["denoised_vs_repeats_r"] = agreement(cosine_similarity(denoised), reference)
    if recording.truth is not None:
        truth = cosine_similarity((w[:, None] * _standardised(recording.truth)).T)
        report["single_trial_vs_truth_r"] = agreement(raw, truth)
        report["denoised_vs_truth_r"] = agreement(neural, truth)
    return neural, raw, report


def prepare(
    recordings: Sequence[Recording],
    arms: Iterable[str],
    size: int,
    *,
    denoiser: str = "gabor",
    folds: int = 5,
    seed: int = 0,
) -> Teaching:
    """Targets of the given arms.

    Parameters
    ----------
    recordings : sequence of Recording
        Recordings; those of one image set are averaged.
    arms : iterable of str
        Keys of `ARMS`.
    size : int
        Height and width of what the student sees, in pixels.
    denoiser : {"gabor", "efficientnet", "gabor+efficientnet"}
        Image features of the encoding model; for both, the mean of their predictions.
    folds : int, default 5
        Folds of the cross-fitting.
    seed : int
        Folds and shuffling.

    Returns
    -------
    Teaching
        Targets and report.

    Raises
    ------
    ValueError
        If an arm is unknown or there is no recording.
    ImportError
        If a CNN is asked for and its packages are missing.
    """
    wanted = set(arms) | {"neural"}
    if unknown := sorted(wanted - set(ARMS)):
        raise ValueError(f"unknown arms {unknown}; there are {list(ARMS)}")
    if not recordings:
        raise ValueError("there is no recording to teach from")
    targets: dict[str, list[Target]] = {arm: [] for arm in sorted(wanted)}
    report: dict[str, Any] = {"recordings": {}, "image_sets": {}}
    for number, name in enumerate(dict.fromkeys(r.image_set for r in recordings)):
        group = [r for r in recordings if r.image_set == name]
        source = group[0].images
        banks = [DENOISERS[part](source) for part in denoiser.split("+")]
        parts = [_denoised(r, banks, folds, seed) for r in group]
        report["recordings"] |= {r.name: p[2] for r, p in zip(group, parts, strict=True)}
        seen = to_gray(source, size)
        similarity = {"neural": average([p[0] for p in parts])}
        similarity["raw"] = average([p[1] for p in parts])
        similarity["neural-shuffled"] = controls.shuffled(similarity["neural"], seed + number)
        similarity["pixel"] = controls.pixel_similarity(seen)
        similarity["pixel-threshold"] = controls.threshold(similarity["pixel"])
        if "cnn" in wanted:
            similarity["cnn"] = controls.cnn_similarity(source)
        for arm in wanted & set(similarity):
            targets[arm].append(Target(name, seen, similarity[arm]))
        report["image_sets"][name] = {
            arm: _describe(similarity[arm], similarity["neural"]) for arm in sorted(similarity)
        }
    return Teaching(targets, report)


def _describe(
    similarity: NDArray[np.float32], neural: NDArray[np.float32]
) -> dict[str, float | None]:
    """Spread of a target, and its correlation with the neural one."""
    values = similarity[np.triu_indices(len(similarity), k=1)]
    r = agreement(similarity, neural)
    return {
        "sd": float(values.std()),
        "nonzero": float((values != 0).mean()),
        "r_with_neural": r if np.isfinite(r) else None,
    }
