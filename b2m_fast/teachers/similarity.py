"""What a brain finds similar, as rows: the targets of regularisation, their controls and quality.

Li et al. 2019: with responses r_i to image i, e_i = (r_i - mean_j r_j) / |r_i - mean_j r_j| and
S_ij = e_i . e_j, averaged over recordings of the same images. A target holds the rows e (n, d) and
no matrix (n, n): S of a batch comes from the rows of the batch, and the mean over k recordings is
that of their rows side by side, times sqrt(1 / k).

A claim that a brain helped is a claim against controls that hold no brain, or a scrambled one: much
of the gain has been reported for shuffled targets (Li et al. 2019) and for thresholded pixel
similarity (Attias et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from b2m_fast.data.images import to_gray
from b2m_fast.encoding.columns import column_correlation, reliability, standardised
from b2m_fast.encoding.encoders import crossfit
from b2m_fast.encoding.features import cnn_features, gabor_pyramid
from b2m_fast.ops import rsa_score
from b2m_fast.teachers.responses import images_shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from b2m_fast.data.recording import Brain, Recording

DENOISERS: dict[str, Callable[..., NDArray[np.float32]]] = {
    "gabor": gabor_pyramid,
    "efficientnet": partial(cnn_features, block=7),
}
ROTATED = 5000  # images up to which longer rows are rotated into fewer dimensions


@dataclass(frozen=True, eq=False)
class SimilarityTarget:
    r"""Similarity that a student is trained to match on one set of images.

    .. math:: S_{ij} = e_i \cdot e_j

    Parameters
    ----------
    name : str
        Name of the set.
    images : ndarray
        (n, height, width), float32 in [0, 1]: what the student sees.
    rows : ndarray
        (n, d), float32: e, of norm 1, or 0 for an image without a pattern (`unit_rows`).
    apply : callable, optional
        Applied to the similarities of a batch, elementwise, instead of S itself.

    Notes
    -----
    Memory is that of the images and O(n d); a batch of b images costs O(b d) in `rsa_penalty`.

    Examples
    --------
    >>> target = SimilarityTarget("photographs", images, unit_rows(responses))
    >>> b2m_fast.rsa_penalty(features, target.rows[batch], target_metric="dot")
    """

    name: str
    images: NDArray[np.float32]
    rows: NDArray[np.float32]
    apply: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if len(self.images) != len(self.rows):
            raise ValueError(f"{self.name}: {len(self.images)} images but rows of {len(self.rows)}")

    def take(self, index: NDArray[np.int64]) -> SimilarityTarget:
        """Return the target of some of the images."""
        return replace(self, images=self.images[index], rows=self.rows[index])

    def similarity(self, index: NDArray[np.int64] | slice = slice(None)) -> Tensor:
        """Return the similarities (b, b) of b of the images, float32."""
        rows = torch.from_numpy(self.rows[index])
        s = rows @ rows.T
        return s if self.apply is None else self.apply(s)

    def pairs(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> Tensor:
        """Return the similarities (p,) of p pairs of images, float32."""
        s = (torch.from_numpy(self.rows[first]) * torch.from_numpy(self.rows[second])).sum(1)
        return s if self.apply is None else self.apply(s)


def unit_rows(patterns: NDArray[np.floating]) -> NDArray[np.float32]:
    """Subtract the mean row of patterns (n, d) and divide each row by its norm.

    Rows of norm 0 stay 0. Where d > n (n < 5,000), rows are rotated into n dimensions, which leaves
    all their products as they are.
    """
    x = np.asarray(patterns, dtype=np.float64)
    x = x - x.mean(axis=0)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    np.divide(x, norm, out=x, where=norm > 0)
    if len(x) < min(x.shape[1], ROTATED):
        x = np.asarray(np.linalg.qr(x.T, mode="r")).T
    return np.ascontiguousarray(x, dtype=np.float32)


def average(rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return rows whose products are the mean of those of several (n, d_k) of the same images."""
    return np.concatenate(rows, axis=1) * np.float32(len(rows) ** -0.5)


def shuffled(target: SimilarityTarget, seed: int) -> SimilarityTarget:
    """Permute the images of a target: S[p][:, p] for a random permutation p.

    Keeps every similarity, the spectrum and the whole geometry; destroys which image is which. How
    Li et al. shuffled is not known to us.
    """
    return replace(
        target, rows=target.rows[np.random.default_rng(seed).permutation(len(target.rows))]
    )


def thresholded(target: SimilarityTarget, level: float = 0.8) -> SimilarityTarget:
    """S^Th of Attias et al. 2024 (level 0.8): 1 above the level, -1 below minus the level, else 0."""
    return replace(target, apply=partial(_threshold, level=level))


def _threshold(s: Tensor, level: float) -> Tensor:
    return s.sign() * (s.abs() > level)


def agreement(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """Return Pearson's r of two similarities, given as rows, over all pairs of images."""
    return float(rsa_score(x, y, metric="dot"))


class SimilarityTeacher:
    """Targets made of recordings and of the images that were shown; each is made when asked for.

    Every property is a list of `SimilarityTarget`, one a set of images. With w the reliability of a
    neuron (1 without repeats), v the correlation of its predicted and recorded responses to held-out
    images, and rho its responses in standard deviations, patterns are

        denoised   r_i = w v rho_predicted   cross-fitted predictions of an encoding model
        raw        r_i = w rho_single        the first trial (the average, where there is no trial)
        mean       r_i = w rho_mean          the mean over trials
        pixel      the image as the student sees it
        cnn        the image in EfficientNet-Lite0, trained on ImageNet

    Parameters
    ----------
    brain : Brain
        Recordings and the images that were shown. Recordings of the same images are averaged; each
        other set of images has a target of its own.
    size : int
        Height and width of the student's images, in pixels.
    denoiser : {"gabor", "efficientnet", "gabor+efficientnet"}
        Image features of the encoding model; of several, predictions are averaged.
    folds : int, default 5
        Folds of the cross-fitting.
    seed : int
        Assigns images to folds; seed of controls.
    device : str or torch.device
        Where image features are computed and encoding models fitted.

    Raises
    ------
    ValueError
        If the denoiser is unknown.
    DataError
        If responses are not to single images.
    """

    def __init__(
        self,
        brain: Brain,
        size: int,
        *,
        denoiser: str = "gabor",
        folds: int = 5,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        if unknown := sorted(set(denoiser.split("+")) - set(DENOISERS)):
            raise ValueError(f"unknown denoisers {unknown}; there are {list(DENOISERS)}")
        self.size, self.denoiser, self.folds, self.seed = size, denoiser, folds, seed
        self.device = device
        groups: dict[frozenset[str], list[_Patterns]] = {}
        for recording in brain.recordings:
            patterns = _Patterns(brain, recording)
            groups.setdefault(frozenset(patterns.ids), []).append(patterns)
        self._sets: dict[str, list[_Patterns]] = {}
        self._images: dict[str, NDArray[np.uint8]] = {}
        for first, *others in groups.values():
            name = brain.stimuli_of(first.recording).name
            name = f"{name}/{first.recording.session}" if name in self._sets else name
            for patterns in others:
                patterns.ids = first.ids
            self._sets[name] = [first, *others]
            self._images[name] = images_shown(brain, first.recording, first.ids)

    @cached_property
    def denoised(self) -> list[SimilarityTarget]:
        """Similarity of denoised responses."""
        for name, group in self._sets.items():
            images, parts = self._images[name], self.denoiser.split("+")
            banks = [DENOISERS[part](images, device=self.device) for part in parts]
            for patterns in group:
                patterns.denoise(banks, folds=self.folds, seed=self.seed, device=self.device)
        return self._averaged(lambda patterns: patterns.denoised)

    @cached_property
    def raw(self) -> list[SimilarityTarget]:
        """Similarity of the first responses."""
        return self._averaged(lambda patterns: patterns.raw)

    @cached_property
    def mean(self) -> list[SimilarityTarget]:
        """Similarity of mean responses over repeats."""
        return self._averaged(lambda patterns: patterns.mean)

    @cached_property
    def pixel(self) -> list[SimilarityTarget]:
        """Similarity of the pixels that the student sees."""
        return self._targets(lambda name: unit_rows(self._seen[name].reshape(-1, self.size**2)))

    @cached_property
    def cnn(self) -> list[SimilarityTarget]:
        """Similarity in a trained network; ImportError without its packages."""
        return self._targets(
            lambda name: unit_rows(cnn_features(self._images[name], device=self.device))
        )

    def _averaged(self, of: Callable[[_Patterns], NDArray[np.float64]]) -> list[SimilarityTarget]:
        """Return the mean over the recordings of each set."""
        return self._targets(lambda name: average([unit_rows(of(p)) for p in self._sets[name]]))

    def _targets(self, rows: Callable[[str], NDArray[np.float32]]) -> list[SimilarityTarget]:
        return [SimilarityTarget(name, self._seen[name], rows(name)) for name in self._sets]

    @cached_property
    def _seen(self) -> dict[str, NDArray[np.float32]]:
        """Images of each set as the student sees them."""
        return {name: to_gray(images, self.size) for name, images in self._images.items()}

    def report(self) -> dict[str, Any]:
        """Describe the recordings, by name, if they were denoised; can be written as JSON."""
        patterns = [p for group in self._sets.values() for p in group if p.predicted is not None]
        return {"recordings": {p.name: p.report() for p in patterns}}


class _Patterns:
    """Patterns (images, units) of one recording: raw, mean and denoised.

    Where presentations are marked "train", these alone say which images there are, and are predicted.
    """

    def __init__(self, brain: Brain, recording: Recording) -> None:
        self.name, self.synthetic = f"{brain.name}-{recording.session}", brain.synthetic
        self.recording, self.ids = recording, recording.shown
        self.split: str | None = None
        if recording.split is not None and "train" in recording.split:
            train = recording.stimulus[recording.split == "train"].tolist()
            self.ids, self.split = tuple(dict.fromkeys(train)), "train"
        self.predicted: NDArray[np.float64] | None = None

    @cached_property
    def repeated(self) -> NDArray[np.int64]:
        """Images that were shown at least twice."""
        shown = self.recording.codes(self.ids)
        return np.flatnonzero(np.bincount(shown[shown >= 0], minlength=len(self.ids)) >= 2)

    @cached_property
    def repeats(self) -> NDArray[np.floating]:
        """Single responses (repeated images, repeats, units), NaN where there is none."""
        return self.recording.repeats([self.ids[k] for k in self.repeated])

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Reliability of each unit; 1 without repeats."""
        if len(self.repeated) < 2:
            return np.ones(self.recording.unit_count)
        return reliability(self.repeats)

    def _weighted(self, responses: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return responses in standard deviations, times the weights."""
        return np.asarray(self.weights * standardised(responses))

    @property
    def raw(self) -> NDArray[np.float64]:
        return self._weighted(self.recording.first(self.ids))

    @property
    def mean(self) -> NDArray[np.float64]:
        return self._weighted(self.recording.mean(self.ids))

    def denoise(self, banks: Sequence[NDArray[np.float32]], **options: Any) -> None:
        """Predict the responses to held-out images from image features (options of `crossfit`)."""
        responses = self.recording.mean(self.ids, split=self.split)
        fits = [crossfit(bank, responses, **options).responses for bank in banks]
        self.predicted = np.mean(fits, axis=0)
        self.quality = column_correlation(self.predicted, responses)

    @property
    def denoised(self) -> NDArray[np.float64]:
        return np.asarray(self.weights * self.quality.clip(min=0) * self.predicted)

    def report(self) -> dict[str, Any]:
        """Describe the fit, and how near denoising brings a single trial to repeats or the truth."""
        r, has_repeats = self.recording, len(self.repeated) > 1
        raw, denoised = unit_rows(self.raw), unit_rows(self.denoised)
        report: dict[str, Any] = {
            "neurons": r.unit_count,
            "images": len(self.ids),
            "synthetic": self.synthetic,
            "predictability_mean": float(self.quality.mean()),
            "predictability_quartiles": np.quantile(self.quality, [0.25, 0.5, 0.75]).tolist(),
            "has_repeats": has_repeats,
            "reliability_mean": float(self.weights.mean()) if has_repeats else None,
            "raw_is": "single trials" if has_repeats else "responses as recorded",
            "denoised_vs_raw_similarity_r": agreement(denoised, raw),
        }
        if has_repeats:
            others = unit_rows(self._weighted(np.nanmean(self.repeats[:, 1:], axis=1)))
            enough = len(others) > 2  # two images are one pair
            report["repeated_images"] = len(others)
            for key, patterns in (("single_trial", self.raw), ("denoised", self.denoised)):
                r_others = agreement(unit_rows(patterns[self.repeated]), others)
                report[f"{key}_vs_repeats_r"] = r_others if enough else None
        if r.truth is not None:
            order = [r.shown.index(name) for name in self.ids]
            truth = unit_rows(self._weighted(r.truth[order]))
            report["single_trial_vs_truth_r"] = agreement(raw, truth)
            report["denoised_vs_truth_r"] = agreement(denoised, truth)
        return report
