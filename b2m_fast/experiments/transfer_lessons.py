"""Lessons of a transfer experiment: untrained students, their tasks, their tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from b2m_fast.evaluate.reconstruction import mean_squared_error, structural_similarity
from b2m_fast.methods.alignment import FrameTask, TrialTask
from b2m_fast.methods.brain2model import ridge_solution
from b2m_fast.methods.training import seeded
from b2m_fast.students.recurrent import GRUStudent, LeakyRNN
from b2m_fast.students.vae import ConvVAE

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from numpy.typing import NDArray

    from b2m_fast.data.driving import Scenes
    from b2m_fast.data.tasks import EpochTask
    from b2m_fast.experiments.transfer_settings import TransferEvaluation, TransferExperiment

__all__ = ["SceneLesson", "TrialLesson", "condition_states", "encoded", "kept_frames"]

TEST, NETWORK, FRAMES = 6, 7, 8  # streams of a seed, beside `b2m_fast.methods.training.Stream`
TAU_MS = 100.0
RHO = 0.01  # of the ridge regression that probes latents


class TrialLesson(TrialTask):
    """A decision task with its test.

    Parameters
    ----------
    experiment : TransferExperiment
        The experiment.
    task : EpochTask
        The task.
    seed : int
        Student and trials.
    share : float, optional
        Share of `TransferEvaluation.pool` trials there are to learn from; None: as many as needed.
    kind : {"gru", "rnn"}, optional
        Another student than the experiment's.
    units : int, optional
        Another size.
    """

    def __init__(
        self,
        experiment: TransferExperiment,
        task: EpochTask,
        seed: int,
        share: float | None = None,
        *,
        kind: str | None = None,
        units: int | None = None,
    ) -> None:
        self.kind = kind or experiment.student
        self.data = ""  # trials are made, not read
        self.evaluation: TransferEvaluation = experiment.evaluation
        super().__init__(
            _student(task, self.kind, units or experiment.units, seed),
            task,
            seed=seed,
            batch=experiment.batch,
            validation=self.evaluation.validation,
            pool=None if share is None else max(1, round(share * self.evaluation.pool)),
        )

    @torch.no_grad()
    def test(self) -> tuple[dict[str, float], list[float]]:
        """The student on trials it never saw, the same for all students.

        Returns
        -------
        test : dict
            ``accuracy``: share of the steps that count at which the answer is right.
        delays : list of float
            Accuracy at each of the evaluation's delays.
        """
        self.student.eval()
        device = next(self.student.parameters()).device

        def at(delay_ms: float | None) -> float:
            rng = np.random.default_rng([0, TEST])
            trials = self.task.draw(self.evaluation.test, rng, delay_ms=delay_ms)
            logits, _ = self.student(trials.inputs.to(device))
            right = (logits.argmax(2).cpu() == trials.target).double() * trials.mask
            return float(right.sum() / trials.mask.sum())

        return {"accuracy": at(None)}, [at(delay) for delay in self.evaluation.delays_ms]


def _student(task: EpochTask, kind: str, units: int, seed: int) -> GRUStudent | LeakyRNN:
    """An untrained recurrent network."""
    with seeded(seed):
        if kind == "gru":
            return GRUStudent(task.channels, task.classes, units)
        tau = max(TAU_MS, task.step_ms)
        return LeakyRNN(task.channels, task.classes, units, step_ms=task.step_ms, tau_ms=tau)


@torch.no_grad()
def condition_states(
    network: GRUStudent | LeakyRNN, task: EpochTask, trials: int, seed: int
) -> NDArray[np.float32]:
    """Hidden states of a network in trials of every condition.

    Parameters
    ----------
    network : GRUStudent or LeakyRNN
        The network.
    task : EpochTask
        The task.
    trials : int
        Trials of each condition.
    seed : int
        The trials.

    Returns
    -------
    ndarray
        (conditions, trials, steps, units).
    """
    rng = np.random.default_rng([seed, NETWORK])
    drawn = task.draw(trials * len(task.conditions), rng)
    device = next(network.parameters()).device
    network.eval()
    hidden = network(drawn.inputs.to(device))[1].cpu().transpose(0, 1).numpy()
    order = np.argsort(drawn.condition.numpy(), kind="stable")
    states: NDArray[np.float32] = hidden[order].reshape(-1, trials, *hidden.shape[1:])
    return states


class SceneLesson(FrameTask):
    """Reconstruction of scenes, with its test; validation looks at structural similarity too.

    Parameters
    ----------
    experiment : TransferExperiment
        The experiment.
    scenes : Scenes
        The scenes.
    seed : int
        Student, frames and their order.
    share : float, optional
        Share of the training frames there is to learn from; None: all.
    units : int, optional
        Another number of latents than the experiment's.
    """

    kind = "vae"

    def __init__(
        self,
        experiment: TransferExperiment,
        scenes: Scenes,
        seed: int,
        share: float | None = None,
        *,
        units: int | None = None,
    ) -> None:
        self.scenes, self.data = scenes, scenes.digest
        with seeded(seed):
            student = ConvVAE(scenes.shape, units or experiment.units, experiment.width)
        super().__init__(
            student,
            scenes.train[kept_frames(scenes, seed, share)],
            scenes.validation,
            seed=seed,
            batch=experiment.batch,
            beta=experiment.beta,
        )

    def validate(self, fabric: Fabric) -> tuple[dict[str, float], None]:
        """Loss, its parts and structural similarity on held-out frames.

        Parameters
        ----------
        fabric : Fabric
            Knows the device.

        Returns
        -------
        numbers : dict
            Those of `FrameTask`, and ``validation_ssim``.
        seen : None
            A teacher shows its own images.
        """
        numbers, _ = super().validate(fabric)
        _, ssim = _reconstruction(self.student, self.held_out)
        return numbers | {"validation_ssim": ssim}, None

    @torch.no_grad()
    def test(self) -> tuple[dict[str, float], list[float]]:
        """The student on frames it never saw.

        Returns
        -------
        test : dict
            ``mse``, ``ssim``, and ``probe_r2``: how well what is known of a test frame can be read
            from its latents, by ridge regression from the training frames; R2, mean over what is
            known.
        delays : list
            None.
        """
        self.student.eval()
        mse, ssim = _reconstruction(self.student, torch.from_numpy(self.scenes.test))
        return {"mse": mse, "ssim": ssim, "probe_r2": self._probe()}, []

    def _probe(self) -> float:
        h, test = (
            torch.from_numpy(encoded(self.student, x)).double()
            for x in (self.scenes.train, self.scenes.test)
        )
        z = torch.from_numpy(self.scenes.train_labels).double()
        truth = torch.from_numpy(self.scenes.test_labels).double()
        weight, bias = ridge_solution(h, z, RHO)
        missed = (test @ weight.T + bias - truth).square().mean(0)
        spread = truth.var(0, correction=0)
        varies = (spread > 1e-9) & (z.var(0) > 1e-9)
        return float((1 - missed / spread)[varies].mean())


def kept_frames(scenes: Scenes, seed: int, share: float | None) -> NDArray[np.int64]:
    """Which frames a student is trained on.

    Parameters
    ----------
    scenes : Scenes
        The scenes.
    seed : int
        The choice.
    share : float, optional
        Share of the training frames; None: all.

    Returns
    -------
    ndarray
        Indices into the training frames, in order.
    """
    count = len(scenes.train)
    if share is None:
        return np.arange(count)
    kept = max(1, round(share * count))
    return np.sort(np.random.default_rng([seed, FRAMES]).permutation(count)[:kept])


def _reconstruction(student: ConvVAE, frames: torch.Tensor) -> tuple[float, float]:
    """Mean squared error and structural similarity of reconstructions from the mean."""
    device = next(student.parameters()).device
    errors, ssim = [], []
    for part in frames.split(250):
        x = part.to(device)
        y = student(x).reconstruction
        errors.append(mean_squared_error(y, x))
        ssim.append(structural_similarity(y, x))
    return float(torch.cat(errors).mean()), float(torch.cat(ssim).mean())


@torch.no_grad()
def encoded(student: ConvVAE, frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of the encoder.

    Parameters
    ----------
    student : ConvVAE
        The autoencoder.
    frames : ndarray
        (n, channels, height, width).

    Returns
    -------
    ndarray
        (n, latents).
    """
    device = next(student.parameters()).device
    parts = [student.encode(x.to(device))[0].cpu() for x in torch.from_numpy(frames).split(250)]
    means: NDArray[np.float32] = torch.cat(parts).numpy()
    return means
