"""Recordings as paired teachers: responses to images, to conditions of a task, and predicted ones.

No recording of a driving brain with a usable licence is known to us. For scenes nobody recorded,
`SensoryModel` stands in: an encoding model of sensory neurons, fitted on the images they were shown
and frozen, predicts what they would answer to the scenes. It is called a stand-in in every report.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.data.arrays import whole_number
from b2m_fast.data.driving import to_frames
from b2m_fast.data.files import DataError
from b2m_fast.encoding.encoders import Encoder, crossfit, fit_encoder
from b2m_fast.encoding.features import cnn_features, gabor_pyramid
from b2m_fast.teachers.clocks import align
from b2m_fast.teachers.paired import PairedTeacher, scored

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from b2m_fast.data.decisions import DecisionTask
    from b2m_fast.data.v4 import Recording
    from b2m_fast.teachers.populations import Population

__all__ = [
    "FEATURES",
    "SensoryModel",
    "condition_responses",
    "fit_sensory_model",
    "image_responses",
    "stand_in",
]


def condition_responses(
    population: Population,
    task: DecisionTask,
    rng: np.random.Generator,
    *,
    per_condition: int | None = None,
    k: int | None = None,
    window: Sequence[str] | None = None,
    epochs: Mapping[str, str] | None = None,
    conditions: Mapping[str, str] | None = None,
    max_stretch: float = 2.0,
) -> PairedTeacher:
    """Single (pseudo-)trials of a population, averaged over time, labelled with a task's conditions.

    Parameters
    ----------
    population : Population
        Who teaches.
    task : DecisionTask
        Whose conditions they are.
    rng : Generator
        Which trials meet in a pseudo-trial.
    per_condition : int, optional
        Responses of each condition; default: as many as the neuron with the fewest trials has. More
        use some trials again, so that responses held out are no longer new to the last neuron.
    k : int, optional
        Principal components to teach with instead of neurons (`PairedTeacher.components`).
    window : sequence of str, optional
        Epochs of the task to average over; default: all that were recorded.
    epochs, conditions : mapping of str to str, optional
        What of the task belongs to what of the recording (see `b2m_fast.teachers.clocks.align`).
    max_stretch : float, default 2
        How much time may be stretched.

    Returns
    -------
    PairedTeacher
        Without stimuli. Labels are recorded conditions, each response a row once, however many
        conditions of the task it stands for (`PairedTeacher.condition`); numbered as the task's
        conditions where each has its own.

    Raises
    ------
    DataError
        If clocks or conditions do not match, nothing was recorded in the window, or `k` exceeds
        neurons or responses.
    ValueError
        If `per_condition` is less than 2, an epoch of the window is unknown, or a number is not
        whole.
    """
    count = population.fewest_trials if per_condition is None else per_condition
    whole_number("per_condition", count, 2)
    if k is not None:
        whole_number("k", k, 1)
    clock = align(population, task, epochs=epochs, conditions=conditions, max_stretch=max_stretch)
    looked_at = clock.valid.copy()
    if window is not None:
        if unknown := [name for name in window if name not in task.epochs]:
            raise ValueError(f"unknown epochs {unknown} of {task.name}: {list(task.epochs)}")
        steps = [step for name in window for step in range(*task.epochs[name])]
        looked_at &= np.isin(np.arange(task.steps), steps)
    if not looked_at.any():
        raise DataError(f"{population.name}: nothing was recorded in the window {window}")
    weights = clock.weights[looked_at[clock.valid]].mean(axis=0)
    rates, recorded = population.pseudo_trials(count, rng)
    means = np.einsum("b,nbu->nu", weights, rates)
    used = list(dict.fromkeys(clock.condition.tolist()))
    rows = np.concatenate([np.flatnonzero(recorded == c) for c in used])
    features = scored(means[rows])
    _check_components(features, k, population.name)
    report = {
        **population.report,
        "task": task.name,
        "responses_per_condition": count,
        "trials_used_again": count > population.fewest_trials,
        "steps": int(looked_at.sum()),
        "components": k,
        "recorded_conditions": len(used),
    }
    label = np.repeat(np.arange(len(used)), count)
    condition = np.array([used.index(c) for c in clock.condition])
    return PairedTeacher(None, features, label, report, k, condition)


def _check_components(features: NDArray[np.float32], k: int | None, name: str) -> None:
    """Raise early if there are fewer components than will be asked for."""
    if k is not None:
        scored(features, k, name)


def image_responses(
    recording: Recording, size: tuple[int, int], *, k: int | None = None, repeats: bool = False
) -> PairedTeacher:
    """What neurons answered to images, with the images as frames of a student.

    Parameters
    ----------
    recording : Recording
        Images and responses.
    size : (int, int)
        Height and width of the student's frames.
    k : int, optional
        Principal components to teach with instead of neurons (`PairedTeacher.components`).
    repeats : bool, default False
        One sample per repeat of an image, all of its label, instead of the mean over repeats.

    Returns
    -------
    PairedTeacher
        Labels are the images' numbers.

    Raises
    ------
    DataError
        If repeats are asked for and were not recorded, or `k` exceeds neurons or samples.
    """
    responses = recording.responses.T
    label = np.arange(len(recording.images))
    if repeats:
        if recording.trials is None:
            raise DataError(f"{recording.name} holds averages over repeats, no single ones")
        shown = np.isfinite(recording.trials).all(axis=0)
        label = np.repeat(label, shown.sum(axis=1))
        responses = recording.trials.transpose(1, 2, 0)[shown]
    report = {
        "recording": recording.name,
        "synthetic": recording.synthetic,
        "units": len(recording.responses),
        "images": len(recording.images),
        "samples": len(label),
        "components": k,
        "stand_in": False,
    }
    features = scored(responses)
    _check_components(features, k, recording.name)
    return PairedTeacher(to_frames(recording.images, size)[label], features, label, report, k)


def _enlarged_cnn(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return cnn_features(_bytes(to_frames(images, (112, 112))), block=7)


FEATURES: dict[str, Callable[[int], Callable[[NDArray[np.uint8]], NDArray[np.float32]]]] = {
    "gabor": lambda pixels: partial(gabor_pyramid, size=pixels),
    "efficientnet": lambda _: _enlarged_cnn,
}


@dataclass(frozen=True, eq=False)
class SensoryModel:
    """Frozen models of sensory neurons that answer to any scene.

    Attributes
    ----------
    encoders : tuple of Encoder
        One for each set of images.
    kept : tuple of ndarray
        For each, which neurons it predicts well enough.
    pixels : int
        Height and width at which it sees.
    features : str
        A key of `FEATURES`.
    report : dict
        How well it predicts the neurons' responses to images it was not fitted on.
    """

    encoders: tuple[Encoder, ...]
    kept: tuple[NDArray[np.bool_], ...]
    pixels: int
    features: str
    report: dict[str, Any]

    def respond(self, frames: NDArray[np.float32]) -> NDArray[np.float64]:
        """Predicted responses.

        Parameters
        ----------
        frames : ndarray
            (n, 3, height, width) in [0, 1]; what is seen is the square in their middle.

        Returns
        -------
        ndarray
            (n, neurons), in standard deviations of each neuron's responses to its own images.
        """
        seen = to_frames(_bytes(frames), (self.pixels, self.pixels))
        features = FEATURES[self.features](self.pixels)(_bytes(seen))
        answers = [
            e.predict(features)[kept] for e, kept in zip(self.encoders, self.kept, strict=True)
        ]
        return np.asarray(np.concatenate(answers).T, dtype=np.float64)


def fit_sensory_model(
    recordings: Sequence[Recording],
    pixels: int,
    *,
    features: str = "gabor",
    minimum: float = 0.2,
    folds: int = 5,
    seed: int = 0,
) -> SensoryModel:
    """Fit models of neurons at the resolution of the scenes they shall be shown.

    Images are reduced to the scenes' resolution first, so that no model leans on detail that the
    scenes lack. Ridge regression on fixed image features (`b2m_fast.encoding.encoders`).

    Parameters
    ----------
    recordings : sequence of Recording
        Neurons and the images they saw.
    pixels : int
        Smaller side of the scenes, at least 32.
    features : {"gabor", "efficientnet"}
        Image features.
    minimum : float, default 0.2
        Neurons whose responses to held-out images are predicted with a lower correlation are left
        out.
    folds, seed : int
        Folds of the cross-fitting, and how images are dealt into them.

    Returns
    -------
    SensoryModel
        Frozen.

    Raises
    ------
    DataError
        If there is no recording, or no neuron is predicted well enough.
    ValueError
        If the features are unknown or there are fewer than 32 pixels.
    """
    if features not in FEATURES:
        raise ValueError(f"unknown features {features!r}; there are {list(FEATURES)}")
    if pixels < 32:
        raise ValueError(f"a sensory model needs at least 32 pixels, got {pixels}")
    if not recordings:
        raise DataError("there is no recording to model")
    describe = FEATURES[features](pixels)
    encoders, kept, quality, spread = [], [], [], []
    for name in dict.fromkeys(r.image_set for r in recordings):
        group = [r for r in recordings if r.image_set == name]
        bank = describe(_bytes(to_frames(group[0].images, (pixels, pixels))))
        responses = np.concatenate([r.responses for r in group])
        held_out = crossfit(bank, responses, folds=folds, seed=seed)
        good = held_out.predictability >= minimum
        encoders.append(fit_encoder(bank, responses))
        kept.append(good)
        quality.append(held_out.predictability[good])
        spread.append(held_out.responses[good].std(axis=1))
    r = np.concatenate(quality)
    if not r.size:
        raise DataError(
            f"none of {sum(map(len, kept))} neurons is predicted with r >= {minimum} from "
            f"{features} features at {pixels} pixels"
        )
    report = {
        "recordings": [recording.name for recording in recordings],
        "synthetic": all(recording.synthetic for recording in recordings),
        "features": features,
        "pixels": pixels,
        "units": len(r),
        "units_recorded": sum(map(len, kept)),
        "held_out_r_mean": float(r.mean()),
        "held_out_r_quartiles": np.quantile(r, [0.25, 0.5, 0.75]).tolist(),
        "predicted_sd_on_own_images": float(np.median(np.concatenate(spread))),
    }
    return SensoryModel(tuple(encoders), tuple(kept), pixels, features, report)


def stand_in(
    model: SensoryModel, frames: NDArray[np.float32], *, k: int | None = None
) -> PairedTeacher:
    """Predicted responses to scenes, as a teacher.

    Parameters
    ----------
    model : SensoryModel
        Who stands in.
    frames : ndarray
        (n, 3, height, width), float32 in [0, 1].
    k : int, optional
        Principal components instead of neurons; neurons that are predicted better weigh more.

    Returns
    -------
    PairedTeacher
        Labels are the frames' numbers. The report says that it is a stand-in, and how much the
        predicted responses vary, compared with those to the images the model was fitted on.

    Raises
    ------
    DataError
        If `k` exceeds neurons or frames.
    """
    responses = model.respond(frames)
    on_frames = float(np.median(responses.std(axis=0)))
    report = {
        **model.report,
        "stand_in": True,
        "frames": len(frames),
        "components": k,
        "predicted_sd_on_frames": on_frames,
    }
    features = scored(responses, k, "the sensory model")
    return PairedTeacher(frames, features, np.arange(len(frames)), report)


def _bytes(frames: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(n, 3, h, w) in [0, 1] -> (n, h, w, 3), uint8."""
    return np.asarray(np.rint(frames.transpose(0, 2, 3, 1) * 255), dtype=np.uint8)
