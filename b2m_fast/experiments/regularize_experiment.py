"""The experiment around `b2m_fast.methods.regularization`: arms, seeds, evaluation."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch

from b2m_fast.data import dataset, files_of
from b2m_fast.data.files import data_root, fingerprint
from b2m_fast.data.images import CIFAR10, ImageTask, cifar10_subset, digits
from b2m_fast.evaluate import robustness
from b2m_fast.experiments.former import Payload, Settings, finite
from b2m_fast.experiments.provenance import machine, versions
from b2m_fast.methods.regularization import Regularization, train_regularized
from b2m_fast.ops import rsa_penalty
from b2m_fast.students.resnet import ResNet
from b2m_fast.teachers.similarity import SimilarityTarget, SimilarityTeacher, shuffled, thresholded
from b2m_fast.teachers.synthetic import synthetic_brain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from b2m_fast.experiments.runs import Job

__all__ = [
    "ARMS",
    "BRAINS",
    "TASKS",
    "Evaluation",
    "Experiment",
    "Material",
    "data_fingerprint",
    "make_material",
    "run",
]

BRAINS = ("synthetic", "cowley-v4")
TASKS = ("digits", "cifar10-subset")
ARMS = {
    "none": "no teacher",
    "neural": "denoised neural similarity",
    "neural-shuffled": "the same similarities of permuted images",
    "raw": "similarity of the responses as recorded, not denoised",
    "pixel": "pixel similarity of the same images",
    "pixel-threshold": "pixel similarity cut at +-0.8 to -1, 0, 1 (Attias et al. 2024)",
    "blur": "no teacher; a Gaussian blur before the network",
    "cnn": "similarity in EfficientNet-Lite0 (trained on ImageNet)",
}
TARGETS: dict[str, Callable[[SimilarityTeacher], list[SimilarityTarget]]] = {
    "neural": lambda teacher: teacher.denoised,
    "neural-shuffled": lambda teacher: [
        shuffled(t, teacher.seed + k) for k, t in enumerate(teacher.denoised)
    ],
    "raw": lambda teacher: teacher.raw,
    "pixel": lambda teacher: teacher.pixel,
    "pixel-threshold": lambda teacher: [thresholded(t) for t in teacher.pixel],
    "cnn": lambda teacher: teacher.cnn,
}


@dataclass(frozen=True)
class Evaluation:
    """What a trained student is put through.

    Attributes
    ----------
    noise : tuple of float
        Standard deviations of Gaussian noise, pixels in [0, 1].
    linf, l2 : tuple of float
        Radii of PGD, pixels in [0, 1].
    pgd_steps, minimal_steps : int
        Steps of PGD and of the minimal-perturbation attack.
    attack_images : int
        Test images that are attacked.
    similarity_images : int
        Neural images per set on which student and targets are compared.
    """

    noise: tuple[float, ...] = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1)
    linf: tuple[float, ...] = (1 / 255, 2 / 255)
    l2: tuple[float, ...] = (0.1, 0.2)
    pgd_steps: int = 20
    minimal_steps: int = 60
    attack_images: int = 200
    similarity_images: int = 200


@dataclass(frozen=True)
class Experiment(Settings):
    """A whole experiment.

    Attributes
    ----------
    brain : str
        One of `BRAINS`.
    task : str
        One of `TASKS`.
    width, blocks : int
        Channels of the student's first layers, and residual blocks per group (2: ResNet18).
    blur : float
        Blur of the arm ``blur``, in pixels.
    denoiser : str
        Features of the encoding model.
    training : Regularization
        How students are trained.
    evaluation : Evaluation
        How they are evaluated.
    """

    method_version: ClassVar[int] = 2

    brain: str = "synthetic"
    task: str = "digits"
    width: int = 8
    blocks: int = 1
    blur: float = 1.0
    denoiser: str = "gabor"
    training: Regularization = field(default_factory=Regularization)
    evaluation: Evaluation = field(default_factory=Evaluation)

    @property
    def size(self) -> int:
        """Height and width of what the student sees, in pixels."""
        return 16 if self.task == "digits" else 32


@dataclass(frozen=True)
class Material:
    """What runs need: the task, targets, and small targets to compare students with.

    Attributes
    ----------
    task : ImageTask
        The task.
    targets : dict
        Arm -> targets to train on.
    probes : dict
        Arm -> targets on a few images of each set, for evaluation.
    report : dict
        Quality of the teachers.
    """

    task: ImageTask
    targets: dict[str, list[SimilarityTarget]]
    probes: dict[str, list[SimilarityTarget]]
    report: dict[str, Any]

    def of(self, arm: str) -> Material:
        """The part one arm needs.

        Parameters
        ----------
        arm : str
            Arm.

        Returns
        -------
        Material
            With the targets of that arm alone.
        """
        return replace(self, targets={arm: self.targets.get(arm, [])}, report={})


def _data_files(experiment: Experiment, root: str | None) -> list[Path]:
    files = files_of(dataset.get(experiment.brain).about, root)
    if experiment.task == "cifar10-subset":
        files += CIFAR10.paths(data_root(root))
    return files


def data_fingerprint(experiment: Experiment, root: str | None) -> str:
    """Fingerprint of the files an experiment reads; also checks that they are there.

    Parameters
    ----------
    experiment : Experiment
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
    return fingerprint(_data_files(experiment, root))


def make_material(experiment: Experiment, arms: Sequence[str], root: str | None) -> Material:
    """Load the task and the recordings, and make the targets of the arms.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    arms : sequence of str
        Arms.
    root : str, optional
        The data directory.

    Returns
    -------
    Material
        What the runs need.

    Raises
    ------
    DataError
        If data are missing or malformed.
    """
    size = experiment.size
    task = digits(size=size) if experiment.task == "digits" else cifar10_subset(data_root(root))
    simulated = experiment.brain == "synthetic"
    brain = synthetic_brain() if simulated else dataset.get(experiment.brain).build(root=root)
    teacher = SimilarityTeacher(brain, size, denoiser=experiment.denoiser)
    wanted = {"neural", *arms}
    targets = {arm: make(teacher) for arm, make in TARGETS.items() if arm in wanted}
    rng = np.random.default_rng(0)
    count = experiment.evaluation.similarity_images
    picks = [np.sort(rng.permutation(len(t))[:count]) for t in targets["neural"]]
    probes = {
        arm: [t.take(p) for t, p in zip(each, picks, strict=True)] for arm, each in targets.items()
    }
    report = teacher.report(targets)
    return Material(task, {arm: targets.get(arm, []) for arm in wanted}, probes, report)


def run(job: Job, tick: Callable[[], object]) -> dict[str, Any]:
    """One run: train a student, evaluate it.

    Parameters
    ----------
    job : Job
        Its payload is a `Payload` with an `Experiment` and the `Material` of its arm.
    tick : callable
        Called after each epoch.

    Returns
    -------
    dict
        Everything measured, as JSON can hold it.
    """
    payload: Payload = job.payload
    experiment: Experiment = payload.experiment
    material: Material = payload.material
    arm, seed = job.config["arm"], job.config["seed"]
    torch.set_num_threads(payload.threads)
    torch.manual_seed(seed)
    blur = experiment.blur if arm == "blur" else 0.0
    model = ResNet(
        material.task.classes, width=experiment.width, blocks=experiment.blocks, blur=blur
    )
    start = time.perf_counter()
    trained = train_regularized(
        model,
        material.task,
        material.targets[arm],
        experiment.training,
        seed,
        on_validation=lambda _: tick(),
        checkpoint=payload.folder(job) / "training.safetensors",
    )
    gamma = cast("torch.Tensor", trained.penalty.layer_weights()).detach()
    middle = time.perf_counter()
    result = _evaluate(model, material.task, experiment.evaluation)
    result |= {
        "arm": arm,
        "seed": seed,
        "gamma": gamma.tolist() if arm in TARGETS else None,
        "best_epoch": trained.best_epoch,
        "history": [
            {k: finite(v) for k, v in e.items() if k != "step"} for e in trained.history.entries
        ],
        "similarity": {a: _compare(model, gamma, t) for a, t in material.probes.items()},
        "seconds_training": middle - start,
        "seconds_evaluation": time.perf_counter() - middle,
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": versions(),
        "machine": machine(payload.threads),
    }
    return result


def _evaluate(model: ResNet, task: ImageTask, evaluation: Evaluation) -> dict[str, Any]:
    """Accuracy, noise, attacks."""
    x, y = torch.from_numpy(task.test_x[:, None]), torch.from_numpy(task.test_y)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
    chosen = order[: evaluation.attack_images]
    ax, ay = x[chosen], y[chosen]
    out: dict[str, Any] = {
        "accuracy": robustness.accuracy(model, x, y),
        "noise": robustness.noise_accuracy(model, x, y, evaluation.noise),
        "pgd_linf": robustness.pgd_accuracy(
            model, ax, ay, "linf", evaluation.linf, evaluation.pgd_steps
        ),
        "pgd_l2": robustness.pgd_accuracy(model, ax, ay, "l2", evaluation.l2, evaluation.pgd_steps),
    }
    for norm in ("linf", "l2"):
        size = robustness.minimal_perturbation(model, ax, ay, norm, evaluation.minimal_steps)
        right = size[size > 0]
        out[f"minimal_{norm}"] = finite(float(np.median(right))) if right.size else None
        out[f"minimal_{norm}_all_images"] = finite(float(np.median(size)))
    return out


def _compare(
    model: ResNet, gamma: torch.Tensor, targets: Sequence[SimilarityTarget]
) -> dict[str, float | list[float]]:
    """How near the student's similarities are to targets: penalty (1) and Pearson r, centred.

    With the student's own mixture of layers (uniform if it never had a teacher), and layer by layer
    the correlation; averaged over image sets.
    """
    penalty, r, layers = [], [], []
    model.eval()
    with torch.no_grad():
        for target in targets:
            taps = [t.flatten(1) for t in model.taps(torch.from_numpy(target.images[:, None]))]
            truth = target.similarity()
            common: dict[str, Any] = {
                "metric": "cosine", "target_kind": "similarity", "center": True
            }  # fmt: skip
            penalty.append(
                float(rsa_penalty(taps, truth, compare="atanh", layer_weights=gamma, **common))
            )
            r.append(
                1
                - float(rsa_penalty(taps, truth, compare="pearson", layer_weights=gamma, **common))
            )
            layers.append(
                [1 - float(rsa_penalty([t], truth, compare="pearson", **common)) for t in taps]
            )
    return {
        "penalty": float(np.mean(penalty)),
        "r": float(np.mean(r)),
        "r_per_layer": np.mean(layers, axis=0).tolist(),
    }
