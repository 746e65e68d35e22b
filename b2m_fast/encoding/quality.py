"""How well an encoding model predicts a recording: correlation on held-out images, beside what repeats allow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.encoding.columns import column_correlation, noise_ceiling
from b2m_fast.encoding.encoders import fit_layers
from b2m_fast.encoding.folds import folds_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class EncoderQuality:
    """How well an encoding model predicts a recording.

    Attributes
    ----------
    recording : str
        Its name.
    images : int
        Images, each held out once.
    r : ndarray
        (neurons,): correlation of predicted and observed responses over all images.
    ceiling : ndarray, optional
        (neurons,): r of a perfect model, known where there are repeats.
    """

    recording: str
    images: int
    r: NDArray[np.float64]
    ceiling: NDArray[np.float64] | None = None

    def report(self) -> dict[str, Any]:
        """Return means over neurons, as JSON can hold them.

        ``share_of_ceiling`` is the mean of r / ceiling over neurons with a ceiling of at least 0.2; it and ``ceiling``
        are None where there are no repeats.
        """
        ceiling = share = None
        if self.ceiling is not None:
            ceiling, good = float(self.ceiling.mean()), self.ceiling >= 0.2
            share = float((self.r[good] / self.ceiling[good]).mean()) if good.any() else None
        return {
            "recording": self.recording,
            "images": self.images,
            "neurons": len(self.r),
            "r": float(self.r.mean()),
            "r_quartiles": np.quantile(self.r, [0.25, 0.5, 0.75]).tolist(),
            "ceiling": ceiling,
            "share_of_ceiling": share,
        }


def encoder_quality(
    name: str,
    inputs: NDArray[Any] | Sequence[NDArray[Any]],
    responses: NDArray[np.floating],
    *,
    trials: NDArray[np.floating] | None = None,
    fit: Callable[..., Any] = fit_layers,
    folds: int = 5,
    seed: int = 0,
) -> EncoderQuality:
    """Predict every image's responses by a model fitted without it, and return how well.

    Images are assigned to folds at random. Everything that is fitted, components and penalties included, is fitted
    within a fold's training images; so it is the kind of encoder that is judged, not the one that is then fitted on
    all images. Predictions are pooled over folds, in the unit that the encoder gives them.

    Parameters
    ----------
    name : str
        Of the recording.
    inputs : ndarray or sequence of ndarray
        What the encoder is fitted on: images or features (images, ...), or layers, (images, p) each.
    responses : ndarray
        (images, neurons).
    trials : ndarray, optional
        (images, repeats, neurons), NaN where there is no repeat, for the noise ceiling.
    fit : callable
        From inputs and responses of training images to a model whose ``predict(inputs)`` gives responses
        (images, neurons): `fit_layers` (``functools.partial(fit_layers, k=512)``) and `fit_encoder`.
    folds, seed : int
        Number of folds, and how images are assigned to them.

    Returns
    -------
    EncoderQuality
        One correlation a neuron.

    Raises
    ------
    ValueError
        If there are fewer images than twice the folds, or inputs of another number of images.
    """
    n, parts = len(responses), [inputs] if isinstance(inputs, np.ndarray) else inputs
    if n < 2 * folds:
        raise ValueError(f"{name}: {n} images are too few for {folds} folds")
    if any(len(part) != n for part in parts):
        raise ValueError(f"{name}: inputs {[x.shape for x in parts]} are not of its {n} images")
    predicted = np.zeros(responses.shape)

    def rows(of: NDArray[np.int64]) -> Any:
        return inputs[of] if isinstance(inputs, np.ndarray) else [x[of] for x in inputs]

    for train, test in folds_of(n, folds, shuffle=True, seed=seed):
        predicted[test] = fit(rows(train), responses[train]).predict(rows(test))
    ceiling = None if trials is None else noise_ceiling(trials)
    return EncoderQuality(name, n, column_correlation(predicted, responses), ceiling)
