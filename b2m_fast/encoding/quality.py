"""How well an encoding model predicts a recording: images held out, beside what repeats allow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from b2m_fast.data.files import DataError
from b2m_fast.encoding.core_readout import fit_core_readout
from b2m_fast.encoding.encoders import fit_layers
from b2m_fast.encoding.features import NetworkFeatures
from b2m_fast.encoding.folds import folds_of
from b2m_fast.encoding.reliability import noise_ceiling, predictability

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from b2m_fast.data.v4 import Recording

__all__ = ["EncoderQuality", "encoder_quality"]


@dataclass(frozen=True, eq=False)
class EncoderQuality:
    """How well an encoding model predicts a recording.

    Attributes
    ----------
    recording, encoder : str
        Names.
    images : int
        Images, each held out once.
    r : ndarray
        (neurons,): correlation of predicted and observed responses over all images.
    ceiling : ndarray, optional
        (neurons,): what a perfect model would reach, known where there are repeats.
    """

    recording: str
    encoder: str
    images: int
    r: NDArray[np.float64]
    ceiling: NDArray[np.float64] | None

    def report(self) -> dict[str, Any]:
        """Means over neurons, as JSON can hold them.

        Returns
        -------
        dict
            ``ceiling`` and ``share_of_ceiling`` (mean of r / ceiling over neurons with a ceiling of
            at least 0.2) are None where there are no repeats.
        """
        ceiling = share = None
        if self.ceiling is not None:
            ceiling, good = float(self.ceiling.mean()), self.ceiling >= 0.2
            share = float((self.r[good] / self.ceiling[good]).mean()) if good.any() else None
        return {
            "recording": self.recording,
            "encoder": self.encoder,
            "images": self.images,
            "neurons": len(self.r),
            "r": float(self.r.mean()),
            "r_quartiles": np.quantile(self.r, [0.25, 0.5, 0.75]).tolist(),
            "ceiling": ceiling,
            "share_of_ceiling": share,
        }


def encoder_quality(
    recording: Recording,
    *,
    encoder: Literal["layers", "core-readout"] = "layers",
    layers: Sequence[NDArray[np.floating]] | None = None,
    k: float | None = None,
    folds: int = 5,
    seed: int = 0,
) -> EncoderQuality:
    """Predict every image's responses by a model fitted without it.

    Images are dealt into folds at random. Everything that is fitted, components and penalties
    included, is fitted within a fold's training images; so it is the kind of encoder that is judged,
    not the one that is then fitted on all images. Predictions are pooled over folds in standard
    deviations of each fold's training responses, from their mean.

    Parameters
    ----------
    recording : Recording
        Images and responses.
    encoder : {"layers", "core-readout"}
        `fit_layers` on `NetworkFeatures`, or a network that learns its features from these
        responses (`b2m_fast.encoding.core_readout`).
    layers : sequence of ndarray, optional
        Features (images, p) for ``layers``; default: `NetworkFeatures` of the recording's images.
    k : int or float, optional
        Components of each layer.
    folds, seed : int
        Folds.

    Returns
    -------
    EncoderQuality
        One correlation a neuron.

    Raises
    ------
    DataError
        If there are fewer images than twice the folds, or layers of others.
    ValueError
        If the encoder is unknown.
    ImportError
        If the network's packages are missing.
    """
    if encoder not in {"layers", "core-readout"}:
        raise ValueError(f"unknown encoder {encoder!r}; there are 'layers' and 'core-readout'")
    responses, n = recording.responses, len(recording.images)
    if n < 2 * folds:
        raise DataError(f"{recording.name}: {n} images are too few for {folds} folds")
    if encoder == "layers" and layers is None:
        layers = NetworkFeatures()(recording.images)
    if layers is not None and any(len(layer) != n for layer in layers):
        raise DataError(
            f"{recording.name}: layers {[x.shape for x in layers]} are not of its {n} images"
        )
    predicted = np.zeros(responses.shape)
    for train, test in folds_of(n, folds, shuffle=True, seed=seed):
        if encoder == "layers" and layers is not None:
            model = fit_layers([layer[train] for layer in layers], responses[:, train], k=k)
            predicted[:, test] = model.predict([layer[test] for layer in layers])
        else:
            seen = recording.images[train]
            network = fit_core_readout(seen, responses[:, train], seed=seed)
            predicted[:, test] = network.predict(recording.images[test])
    ceiling = None if recording.trials is None else noise_ceiling(recording.trials)
    return EncoderQuality(recording.name, encoder, n, predictability(predicted, responses), ceiling)
