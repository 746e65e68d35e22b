"""Responses of a brain, one row a sample, to images or to conditions of a task.

No recording of a driving brain with a usable licence is known to us. For scenes that nobody
recorded, `SensoryModel` stands in: an encoding model of sensory neurons, fitted on the images they
were shown and frozen, predicts their responses to the scenes. Every report calls it a stand-in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.data.driving import to_frames
from b2m_fast.data.files import DataError, numbers, whole_number, whole_numbers
from b2m_fast.data.files import images as checked_images
from b2m_fast.encoding.columns import standardised
from b2m_fast.encoding.encoders import crossfit, fit_encoder
from b2m_fast.encoding.features import gabor_pyramid
from b2m_fast.teachers.alignment import align

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

    from b2m_fast.data.recording import Brain, Recording
    from b2m_fast.data.tasks import DecisionTask
    from b2m_fast.encoding.ridge import Ridge
    from b2m_fast.teachers.population import Population


@dataclass(frozen=True, eq=False)
class ResponseTeacher:
    """Responses to n samples, each of one image or one condition of a task.

    Parameters
    ----------
    stimuli : ndarray, optional
        (n, channels, height, width), float32 in [0, 1]: the image of each sample; None if a sample
        is known by the condition of a task alone.
    responses : ndarray
        (n, features), float32: z-scored responses.
    label : ndarray
        (n,), int64: samples with the same label are of the same image or condition.
    report : dict
        Where they come from; can be written as JSON.
    components : int, optional
        Principal components of the features to teach with; `fitted` finds them on the samples that
        are trained on. None: the features themselves.
    condition : ndarray, optional
        (conditions of the task,), int64: the label of each; conditions that share a recorded
        condition share its label. None: labels are the task's conditions.

    Raises
    ------
    DataError
        If an array has another shape or kind, responses hold NaN or infinity, or they have fewer
        components than are asked for.

    Examples
    --------
    >>> teacher = ResponseTeacher(images, responses, np.arange(len(images)))
    >>> teacher.fitted(np.arange(100)).shape  # scaled by the first 100 samples
    (200, 50)
    """

    stimuli: NDArray[np.float32] | None
    responses: NDArray[np.float32]
    label: NDArray[np.int64]
    report: dict[str, Any] = field(default_factory=dict)
    components: int | None = None
    condition: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        responses = numbers("responses", self.responses, 2, "(n, features)")
        object.__setattr__(self, "responses", responses)
        object.__setattr__(self, "label", whole_numbers("label", self.label, "(n,)"))
        if self.stimuli is not None:
            object.__setattr__(self, "stimuli", checked_images("stimuli", self.stimuli))
        if self.condition is not None:
            condition = whole_numbers("condition", self.condition, "(task's conditions,)")
            object.__setattr__(self, "condition", condition)
        n = len(responses)
        if 0 in responses.shape:
            raise DataError(
                f"responses have shape {responses.shape}; expected (n, features), not empty"
            )
        if self.label.shape != (n,):
            raise DataError(f"label has shape {self.label.shape} for {n} responses")
        if not np.isfinite(responses).all():
            raise DataError("responses contain NaN or infinity")
        if self.stimuli is not None and len(self.stimuli) != n:
            raise DataError(
                f"stimuli have shape {self.stimuli.shape}; expected ({n}, channels, height, width)"
            )
        if self.components is not None:
            self.fitted(np.arange(n))  # fewer components are found now, not in training

    @property
    def width(self) -> int:
        """Features a student is compared with."""
        return self.components or int(self.responses.shape[1])

    def fitted(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return features (n, width) of all samples; scales and components are those of `rows`.

        With `rows` the samples that are trained on, nothing is known of those held out. DataError if
        `rows` have fewer components than are asked for.
        """
        x = z_scored(self.responses, rows)
        if self.components is None:
            return x
        name = str(self.report.get("recording", "training"))
        return principal_components(x, self.components, name, rows)


def z_scored(x: NDArray[np.floating], rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """Z-score columns by the mean and deviation of some rows (all); 0 where they do not vary."""
    return standardised(x, None if rows is None else x[rows]).astype(np.float32)


def principal_components(
    x: NDArray[np.floating], k: int, name: str, rows: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Return k z-scored principal components (n, k), found on some rows (all).

    Signs are such that the sample farthest from 0 is positive. DataError names `name` if there are
    fewer than k.
    """
    x = np.asarray(x, dtype=np.float64)
    rows = np.arange(len(x)) if rows is None else rows
    x = x - x[rows].mean(axis=0)
    u, size, v = np.linalg.svd(x[rows], full_matrices=False)
    rank = int((size > 1e-10 * size[0]).sum())
    if not 1 <= k <= rank:
        raise DataError(
            f"{name}: {len(rows)} samples of {x.shape[1]} units have {rank} components, "
            f"{k} were asked for"
        )
    return z_scored(x @ v[:k].T * np.sign(u[np.abs(u[:, :k]).argmax(axis=0), range(k)]), rows)


def reduced(x: NDArray[np.floating], k: int | None, name: str) -> NDArray[np.float32]:
    """Z-score columns, or return k z-scored principal components of them."""
    return z_scored(x) if k is None else principal_components(x, k, name)


def _centred(
    x: NDArray[np.floating], rows: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    x = np.asarray(x, dtype=np.float64)
    rows = np.arange(len(x)) if rows is None else rows
    return x - x[rows].mean(axis=0), rows


def _scaled(x: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    spread = x[rows].std(axis=0)
    return np.asarray(x / np.where(spread > 0, spread, np.inf), dtype=np.float32)


# --------------------------------------------------------------------------------------------------
# Recorded responses
# --------------------------------------------------------------------------------------------------
def condition_responses(
    population: Population,
    task: DecisionTask,
    rng: np.random.Generator,
    *,
    k: int | None = None,
    **matching: Any,
) -> ResponseTeacher:
    """Single (pseudo-)trials of a population, averaged over time, labelled with conditions.

    Parameters
    ----------
    population : Population
        The recorded population.
    task : DecisionTask
        The student's task.
    rng : Generator
        Draws the pseudo-trials.
    k : int, optional
        Principal components to teach with instead of units (`ResponseTeacher.components`).
    **matching
        ``epochs``, ``conditions`` and ``max_stretch`` of `b2m_fast.teachers.alignment.align`.

    Returns
    -------
    ResponseTeacher
        Without stimuli. Each condition has as many responses as the unit with the fewest trials,
        so that no trial is used twice. Labels are recorded conditions: each response is a row once,
        however many conditions of the task it stands for (`ResponseTeacher.condition`); numbered as
        the task's conditions where each has its own.

    Raises
    ------
    DataError
        If epochs or conditions do not match, or `k` exceeds units or responses.
    ValueError
        If `k` is no whole number above 0.
    """
    if k is not None:
        whole_number("k", k, 1)
    clock = align(population, task, **matching)
    count = population.fewest_trials
    rates, recorded = population.pseudo_trials(count, rng)
    means = np.einsum("b,nbu->nu", clock.weights.mean(axis=0), rates)
    used = list(dict.fromkeys(clock.condition.tolist()))
    rows = np.concatenate([np.flatnonzero(recorded == c) for c in used])
    report = {
        **population.report,
        "task": task.name,
        "responses_per_condition": count,
        "steps": int(clock.valid.sum()),
        "components": k,
        "recorded_conditions": len(used),
    }
    label = np.repeat(np.arange(len(used)), count)
    condition = np.array([used.index(c) for c in clock.condition])
    return ResponseTeacher(None, z_scored(means[rows]), label, report, k, condition)


def images_shown(
    brain: Brain, recording: Recording, ids: Sequence[str] | None = None
) -> NDArray[np.uint8]:
    """Return the images of some ids (`Recording.shown`); DataError where an id is several images."""
    stimuli = brain.stimuli_of(recording)
    if stimuli.presented is not None:
        raise DataError(
            f"{brain.name}, {recording.session}: responses are to categories of several images; "
            "responses to single images are needed"
        )
    return stimuli.images_of(recording.shown if ids is None else ids)


def image_responses(
    brain: Brain, recording: Recording, size: tuple[int, int], *, k: int | None = None
) -> ResponseTeacher:
    """Mean responses of one recording to images, with the images as frames (height, width).

    Labels are places in `Recording.shown`. `k`: components to teach with instead of units; DataError
    if there are fewer.
    """
    images = images_shown(brain, recording)
    report = {
        "recording": f"{brain.name}-{recording.session}",
        "synthetic": brain.synthetic,
        "units": recording.unit_count,
        "images": len(images),
        "samples": len(images),
        "components": k,
        "stand_in": False,
    }
    label, responses = np.arange(len(images)), z_scored(recording.mean())
    return ResponseTeacher(to_frames(images, size), responses, label, report, k)


# --------------------------------------------------------------------------------------------------
# Predicted responses
# --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class SensoryModel:
    """Frozen encoding models of sensory neurons, which predict responses to any scene.

    Attributes
    ----------
    encoders : tuple of Ridge
        One for each recording.
    kept : tuple of ndarray
        For each, (neurons,) bool: neurons that are predicted well enough.
    pixels : int
        Height and width of the images the models see.
    report : dict
        How well responses to held-out images are predicted.
    """

    encoders: tuple[Ridge, ...]
    kept: tuple[NDArray[np.bool_], ...]
    pixels: int
    report: dict[str, Any]

    def respond(self, frames: NDArray[np.float32]) -> NDArray[np.float64]:
        """Predict responses (n, neurons) to frames (n, 3, height, width) in [0, 1].

        In standard deviations of each neuron's responses to its own images. Models see the square in
        the middle of a frame.
        """
        seen = to_frames(_bytes(frames), (self.pixels, self.pixels))
        features = gabor_pyramid(_bytes(seen), self.pixels)
        predicted = [
            e.predict(features)[:, kept] for e, kept in zip(self.encoders, self.kept, strict=True)
        ]
        return np.asarray(np.concatenate(predicted, axis=1), dtype=np.float64)


def fit_sensory_model(
    brain: Brain,
    pixels: int,
    *,
    minimum: float = 0.2,
    device: str | torch.device = "cpu",
) -> SensoryModel:
    """Fit models of neurons at the resolution of the scenes they are to respond to.

    Images are first reduced to the scenes' resolution, so that no model depends on detail that the
    scenes lack. Ridge regression on a Gabor pyramid (`b2m_fast.encoding.encoders`).

    Parameters
    ----------
    brain : Brain
        Recordings, and the images that were shown.
    pixels : int
        Smaller side of the scenes, at least 32.
    minimum : float, default 0.2
        Neurons with a lower correlation of predicted and recorded responses to held-out images are
        left out.
    device : str or torch.device
        Where image features are computed and models fitted.

    Returns
    -------
    SensoryModel
        Frozen.

    Raises
    ------
    DataError
        If no images were shown, or no neuron is predicted well enough.
    ValueError
        If there are fewer than 32 pixels.
    """
    if pixels < 32:
        raise ValueError(f"a sensory model needs at least 32 pixels, got {pixels}")
    encoders, kept, quality, spread = [], [], [], []
    for recording in brain.recordings:
        images = images_shown(brain, recording)
        bank = gabor_pyramid(_bytes(to_frames(images, (pixels, pixels))), pixels, device=device)
        responses = recording.mean()
        held_out = crossfit(bank, responses, device=device)
        good = held_out.predictability >= minimum
        encoders.append(fit_encoder(bank, responses, device=device))
        kept.append(good)
        quality.append(held_out.predictability[good])
        spread.append(held_out.responses[:, good].std(axis=0))
    r = np.concatenate(quality)
    if not r.size:
        raise DataError(
            f"none of {brain.units} neurons is predicted with r >= {minimum} at {pixels} pixels"
        )
    report = {
        "recordings": [f"{brain.name}-{recording.session}" for recording in brain.recordings],
        "synthetic": brain.synthetic,
        "features": "Gabor pyramid",
        "pixels": pixels,
        "units": len(r),
        "units_recorded": brain.units,
        "held_out_r_mean": float(r.mean()),
        "held_out_r_quartiles": np.quantile(r, [0.25, 0.5, 0.75]).tolist(),
        "predicted_sd_on_own_images": float(np.median(np.concatenate(spread))),
    }
    return SensoryModel(tuple(encoders), tuple(kept), pixels, report)


def stand_in(
    model: SensoryModel, frames: NDArray[np.float32], *, k: int | None = None
) -> ResponseTeacher:
    """Teacher of predicted responses to scenes (n, 3, height, width), float32 in [0, 1].

    Labels are the frames' numbers; k: principal components instead of neurons, in which neurons that
    are predicted better weigh more. The report says that it is a stand-in, and how much predictions
    vary, next to those for the images the model was fitted on. DataError if k exceeds neurons or
    frames.
    """
    responses = model.respond(frames)
    report = {
        **model.report,
        "stand_in": True,
        "frames": len(frames),
        "components": k,
        "predicted_sd_on_frames": float(np.median(responses.std(axis=0))),
    }
    features = reduced(responses, k, "the sensory model")
    return ResponseTeacher(frames, features, np.arange(len(frames)), report)


def _bytes(frames: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Convert frames (n, 3, h, w) in [0, 1] to images (n, h, w, 3), uint8."""
    return np.asarray(np.rint(frames.transpose(0, 2, 3, 1) * 255), dtype=np.uint8)
