"""A brain regularises an image classifier (Li et al. 2019): whether it becomes more robust, and whether it is the brain.

The method is `b2m_fast.methods.regularization`. Here are its arms, what the trained students are put through, and the numbers that
are taken of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from b2m_fast._registry import Registry
from b2m_fast.data import dataset, files_of, task
from b2m_fast.experiments import experiment
from b2m_fast.experiments.contract import (
    Experiment,
    Inputs,
    Measure,
    Prepared,
    Run,
    Runs,
    Settings,
    Table,
    finite,
    or_nan,
)
from b2m_fast.experiments.settings import presets
from b2m_fast.methods.config import Regularization
from b2m_fast.students import student

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from b2m_fast.data.images import ImageTask
    from b2m_fast.experiments.contract import Context
    from b2m_fast.teachers.similarity import SimilarityTarget, SimilarityTeacher

__all__ = ["Evaluation", "Regularize", "RegularizeSettings", "arm"]


# --------------------------------------------------------------------------------------------------
# Arms: what stands in the place of the brain. An arm returns the targets of the penalty, one for each set of images; none: []
# --------------------------------------------------------------------------------------------------
arm: Registry[Callable[[SimilarityTeacher], list[SimilarityTarget]]] = Registry(
    "arm", "arm", "b2m_fast.experiments.regularize", group="b2m_fast.regularize_arm"
)


@arm("none", "no teacher", role="baseline")
def none(_: SimilarityTeacher) -> list[SimilarityTarget]:
    """Return no target: the penalty is left out."""
    return []


@arm("neural", "denoised neural similarity", role="tested")
def neural(teacher: SimilarityTeacher) -> list[SimilarityTarget]:
    """Return the similarity of cross-fitted predictions, weighted by how well each unit is predicted."""
    return teacher.denoised


@arm("neural-shuffled", "the same similarities, images permuted once")
def neural_shuffled(teacher: SimilarityTeacher) -> list[SimilarityTarget]:
    """Return the neural similarity of other images."""
    from b2m_fast.teachers.similarity import shuffled

    return [shuffled(t, teacher.seed + k) for k, t in enumerate(teacher.denoised)]


@arm("mean", "similarity of mean responses over repeats, not denoised")
def mean(teacher: SimilarityTeacher) -> list[SimilarityTarget]:
    """Return the similarity of the means that the recordings give."""
    return teacher.mean


@arm("raw", "similarity of the responses as recorded, not denoised")
def raw(teacher: SimilarityTeacher) -> list[SimilarityTarget]:
    """Return the similarity of single trials."""
    return teacher.raw


@arm("pixel", "pixel similarity of the same images")
def pixel(teacher: SimilarityTeacher) -> list[SimilarityTarget]:
    """Return the cosine of images less the mean image."""
    return teacher.pixel


@arm("pixel-threshold", "pixel similarity cut at +-0.8 to -1, 0, 1 (Attias et al. 2024)")
def pixel_threshold(teacher: SimilarityTeacher) -> list[SimilarityTarget]:
    """Return the pixel similarity, thresholded."""
    from b2m_fast.teachers.similarity import thresholded

    return [thresholded(t) for t in teacher.pixel]


@arm("blur", "no teacher; a Gaussian blur before the network", blurred=True)
def blur(_: SimilarityTeacher) -> list[SimilarityTarget]:
    """Return no target: the student itself is another."""
    return []


@arm("cnn", "similarity in EfficientNet-Lite0 (trained on ImageNet)")
def cnn(teacher: SimilarityTeacher) -> list[SimilarityTarget]:
    """Return the similarity in a network's features."""
    return teacher.cnn


# --------------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Evaluation:
    """What a trained student is put through.

    Parameters
    ----------
    noise : tuple of float
        Standard deviations of Gaussian pixel noise; pixels are in [0, 1].
    linf, l2 : tuple of float
        Radii of PGD attacks, in the largest change of a pixel and in the Euclidean norm.
    pgd_steps : int
        Steps of PGD.
    minimal_steps : int
        Steps of the attacks that look for the smallest perturbation (FMN, DDN).
    attack_images : int
        Test images that are attacked.
    similarity_images : int
        Images of each set in which students are compared with targets.
    """

    noise: tuple[float, ...] = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1)
    linf: tuple[float, ...] = (1 / 255, 2 / 255)
    l2: tuple[float, ...] = (0.1, 0.2)
    pgd_steps: int = 20
    minimal_steps: int = 60
    attack_images: int = 200
    similarity_images: int = 200

    def __post_init__(self) -> None:
        for name in ("pgd_steps", "minimal_steps", "attack_images", "similarity_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not (self.noise and self.linf and self.l2) or min(*self.noise, *self.linf, *self.l2) < 0:
            raise ValueError("noise, linf and l2 need a level or more, none below 0")


@dataclass(frozen=True, kw_only=True)
class RegularizeSettings(Settings):
    """Everything the results depend on, but for the arm and the seed.

    Parameters
    ----------
    brain : str
        Data set of images and responses that teaches.
    task : str
        Images that the student learns to classify.
    student : str
        Network that learns.
    size : int
        Height and width of what the student sees, in pixels.
    width : int, optional
        Channels of the student's first layers.
    blocks : int, optional
        Residual blocks of each of the student's four groups; 2: ResNet18.
    blur : float
        Standard deviation of the blur of the arm blur, in pixels.
    student_options : mapping of str to value
        Further options of the student.
    denoiser : {"gabor", "efficientnet", "gabor+efficientnet"}
        Features of the encoding model that denoises responses.
    """

    method_version: ClassVar[int] = 3

    brain: str
    task: str
    student: str
    size: int = 32
    width: int | None = None
    blocks: int | None = None
    blur: float = 1.0
    student_options: dict[str, bool | int | float | str] = field(default_factory=dict)
    denoiser: Literal["gabor", "efficientnet", "gabor+efficientnet"] = "gabor"
    training: Regularization = field(default_factory=Regularization)
    evaluation: Evaluation = field(default_factory=Evaluation)


# --------------------------------------------------------------------------------------------------
# The experiment
# --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class _Material:
    """What the runs of an arm need: the task, the arm's targets, and those students are compared with."""

    task: ImageTask
    targets: list[SimilarityTarget]
    probes: dict[str, list[SimilarityTarget]]


@experiment("regularize", "a brain regularises a network (Li et al. 2019)")
class Regularize(Experiment[RegularizeSettings]):
    """A brain regularises an image classifier."""

    command = "regularize"
    presets = "regularize"
    summary = "a brain regularises a network (Li et al. 2019)"
    purpose = """\
Teach an image classifier with a brain, and see whether it becomes more robust.

The student learns its task and, at the same time, to find two images as similar as the units of a recording find them (Li et al.
2019, arXiv 1911.05072):

  loss = cross entropy + alpha * mean over pairs (atanh s_student - atanh S_brain)^2

Controls are arms like any other, because a gain over no teacher alone proves nothing about brains."""
    settings = RegularizeSettings
    arms = arm
    options = {
        "what": {"--brain": "brain", "--task": "task", "--student": "student"},
        "how": {
            "--alpha": "training.alpha",
            "--pairs": "training.pairs",
            "--center": "training.center",
            "--batchnorm": "training.batchnorm",
            "--epochs": "training.epochs",
            "--batch": "training.batch",
            "--neural-batch": "training.neural_batch",
            "--width": "width",
            "--blocks": "blocks",
            "--blur": "blur",
            "--denoiser": "denoiser",
        },
        "measure": {"--attack-images": "evaluation.attack_images"},
    }
    choices = {
        "brain": (dataset, {"kind": "images"}),
        "task": (task, {"kind": "images"}),
        "student": (student, {"kind": "images"}),
    }
    unit = "epoch"
    means_text = (
        "Means over seeds: accuracy (fractions of the test images; for PGD, of the attacked ones), and the smallest perturbation "
        "found that changes the class (median over correctly classified images; pixels are in [0, 1])."
    )

    # ------------------------------------------------------------------------------------------ what is measured
    def measures(self, settings: RegularizeSettings, runs: Runs) -> list[Measure]:
        """Return accuracy, and how hard the student is to fool."""
        e = settings.evaluation
        half, top = _level(e.noise, max(e.noise) / 2), _level(e.noise, max(e.noise))
        a, b = len(e.linf) // 2, len(e.l2) // 2
        robust: dict[str, Any] = {"decides": True}
        smallest = "smallest perturbation that changes the class, "
        return [
            Measure(
                "accuracy under noise",
                lambda r: (e.noise, r["noise"]),
                kind="curve",
                drawn=True,
                axes=("noise, standard deviation", "accuracy, test images"),
            ),
            Measure("clean", lambda r: float(r["accuracy"])),
            Measure(f"noise {e.noise[half]:g}", lambda r: float(r["noise"][half]), **robust),
            Measure(f"noise {e.noise[top]:g}", lambda r: float(r["noise"][top]), **robust),
            Measure(
                f"PGD Linf {e.linf[a] * 255:.3g}/255", lambda r: float(r["pgd_linf"][a]), **robust
            ),
            Measure(f"PGD L2 {e.l2[b]:g}", lambda r: float(r["pgd_l2"][b]), **robust),
            Measure(
                "median Linf",
                lambda r: or_nan(r["minimal_linf"]),
                digits=4,
                drawn=True,
                axes=("", f"{smallest}Linf"),
                **robust,
            ),
            Measure(
                "median L2",
                lambda r: or_nan(r["minimal_l2"]),
                drawn=True,
                axes=("", f"{smallest}L2"),
                **robust,
            ),
            Measure(
                "mixture of layers",
                lambda r: (range(1, len(r["gamma"] or ()) + 1), r["gamma"] or ()),
                kind="curve",
                drawn=any(r["gamma"] for seeds in runs.values() for r in seeds.values()),
                axes=("layer", "learned weight gamma"),
            ),
        ]

    def told(
        self, settings: RegularizeSettings, pairs: Sequence[tuple[str, str]]
    ) -> list[tuple[str, str]]:
        """Return the pairs of the arm under test: those of controls with no teacher are in the table."""
        return [(a, b) for a, b in pairs if self.role(settings, a) == "tested"]

    def tables(self, settings: RegularizeSettings, runs: Runs) -> list[Table]:
        """Return what the penalty did to the students."""
        head = [
            "arm",
            "penalty, own target",
            "same, without a teacher",
            "r with the brain",
            "gamma",
        ]
        return [
            Table(
                "What the penalty did: distance of the student's similarities from its arm's own target, beside that of students "
                "without a teacher; correlation with the similarity of the arm under test; and the learned mixture of the layers.",
                head,
                [self._similarity_row(settings, runs, name) for name in runs],
            )
        ]

    def _similarity_row(self, settings: RegularizeSettings, runs: Runs, name: str) -> list[str]:
        import numpy as np

        def mean(which: str, of: Callable[[Run], Any]) -> Any:
            with_it = [of(r) for r in runs.get(which, {}).values()]
            return np.mean(with_it, axis=0) if with_it and None not in with_it else None

        roles = self.roles(settings)
        baseline, tested = (
            next((a for a, r in roles.items() if r == k), "") for k in ("baseline", "tested")
        )

        def similarity(target: str, key: str) -> Callable[[Run], Any]:
            return lambda run: run["similarity"].get(target, {}).get(key)

        gamma = mean(name, lambda r: r["gamma"])
        own = None if gamma is None else mean(name, similarity(name, "penalty"))
        base = None if gamma is None else mean(baseline, similarity(name, "penalty"))
        r = mean(name, similarity(tested, "r"))
        cells = ["-" if v is None else f"{v:.3f}" for v in (own, base, r)]
        return [name, *cells, "-" if gamma is None else " ".join(f"{g:.2f}" for g in gamma)]

    def upgrade(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Return older results with the settings and the words on the teacher that newer ones have."""
        teacher = stored["teacher"]
        return stored | {
            "settings": {"student": presets(self.presets)["student"]} | stored["experiment"],
            "teacher": teacher | {"words": _words(teacher.get("recordings", {}))},
        }

    # ------------------------------------------------------------------------------------------ how it is called
    def title(self, settings: RegularizeSettings) -> str:
        """Return the task and the brain."""
        return f"{settings.task} taught by {settings.brain}"

    def folder(self, settings: RegularizeSettings) -> str:
        """Return the brain and the task."""
        return f"{settings.brain}-{settings.task}"

    def ticks(self, settings: RegularizeSettings) -> int:
        """Return the number of epochs."""
        return int(settings.training.epochs)

    def brief(self, run: Run) -> float | None:
        """Return the accuracy."""
        return float(run["accuracy"])

    # ------------------------------------------------------------------------------------------ what is read, made and run
    def reads(self, settings: RegularizeSettings, arms: Sequence[str], context: Context) -> Inputs:
        """Return the files of brain and task."""
        entries = dataset.get(settings.brain), task.get(settings.task)
        student.get(settings.student).options(self._student_options(settings, blurred=False))
        return Inputs([path for entry in entries for path in files_of(entry.about, context.data)])

    def _student_options(self, settings: RegularizeSettings, *, blurred: bool) -> dict[str, Any]:
        """Return the options of the student that are set; ValueError where it has no such option."""
        blur = settings.blur if blurred else None
        wanted = {"width": settings.width, "blocks": settings.blocks, "blur": blur}
        return {k: v for k, v in wanted.items() if v is not None} | settings.student_options

    def prepare(
        self, settings: RegularizeSettings, arms: Sequence[str], context: Context
    ) -> Prepared:
        """Load task and brain, and make the targets of these arms."""
        import numpy as np

        from b2m_fast.teachers.similarity import SimilarityTeacher

        images = task.get(settings.task).build({}, root=context.data, size=settings.size)
        brain = dataset.get(settings.brain).build({}, root=context.data)
        teacher = SimilarityTeacher(brain, settings.size, denoiser=settings.denoiser)
        targets = {name: self.arms.get(name).make(teacher) for name in arms}
        rng = np.random.default_rng(0)
        picked: dict[str, Any] = {}
        for target in next((t for t in targets.values() if t), []):
            order = rng.permutation(len(target.images))
            picked[target.name] = np.sort(order[: settings.evaluation.similarity_images])
        probes = {
            a: [t.take(picked[t.name]) for t in found] for a, found in targets.items() if found
        }
        report = teacher.report(targets)
        report["words"] = _words(report["recordings"])
        return Prepared(lambda name: _Material(images, targets[name], probes), report)

    def run(
        self,
        settings: RegularizeSettings,
        prepared: _Material,
        arm: str,
        seed: int,
        context: Context,
    ) -> Run:
        """Train a student and evaluate it."""
        import time

        import torch

        from b2m_fast.methods.regularization import train_regularized

        torch.manual_seed(seed)
        blurred = bool(self.arms.get(arm).about.get("blurred"))
        model = student.get(settings.student).build(
            self._student_options(settings, blurred=blurred),
            classes=prepared.task.classes,
            channels=1,
            size=settings.size,
        )
        start = time.perf_counter()
        trained = train_regularized(
            model,
            prepared.task,
            prepared.targets,
            settings.training,
            seed,
            on_validation=lambda _: context.tick(),
            checkpoint=context.folder / "training.safetensors",
            accelerator=context.accelerator,
            devices=context.devices,
            precision=context.precision,
        )
        middle = time.perf_counter()
        gamma = trained.penalty.layer_weights()
        compared = {name: _compare(model, gamma, found) for name, found in prepared.probes.items()}
        return {
            **_evaluate(model, prepared.task, settings.evaluation),
            "gamma": gamma.tolist() if prepared.targets and gamma is not None else None,
            "best_epoch": trained.best_epoch,
            "history": [
                {k: finite(v) for k, v in entry.items() if k != "step"}
                for entry in trained.history.entries
            ],
            "similarity": compared,
            "seconds_training": middle - start,
            "seconds_evaluation": time.perf_counter() - middle,
            "parameters": sum(p.numel() for p in model.parameters()),
        }


def _words(recordings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return sentences on how good the teacher is: what is predicted, and whether denoising helps."""

    def mean(key: str, which: Sequence[Mapping[str, Any]]) -> float:
        return float(sum(r[key] for r in which) / len(which))

    every, out = list(recordings.values()), []
    if any(r["synthetic"] for r in every):
        out.append(
            "The brain is SYNTHETIC: this shows that the method runs, not what a brain does."
        )
    if every:
        out.append(
            "Cross-fitted predictions of held-out images correlate with the recorded responses at "
            f"r = {mean('predictability_mean', every):.2f} (mean over neurons)."
        )
    for key, what in (("truth", "the noise-free responses"), ("repeats", "other repeats")):
        which = [r for r in every if r.get(f"denoised_vs_{key}_r") is not None]
        if which:
            denoised = mean(f"denoised_vs_{key}_r", which)
            single = mean(f"single_trial_vs_{key}_r", which)
            nearer = "nearer" if denoised > single else "NOT nearer"
            out.append(
                f"Similarity from denoised responses is {nearer} to that of {what} than a single trial's (r = {denoised:.2f} "
                f"against {single:.2f}; mean over {len(which)} of {len(every)} recordings)."
            )
    return out


def _level(levels: Sequence[float], wanted: float) -> int:
    """Return the place of the level nearest to the one wanted."""
    return min(range(len(levels)), key=lambda k: abs(levels[k] - wanted))


def _evaluate(model: nn.Module, images: ImageTask, evaluation: Evaluation) -> Run:
    """Return accuracy, accuracy under noise and attack, and the smallest perturbations that fool the student."""
    import numpy as np
    import torch

    from b2m_fast.evaluate import robustness

    device = next(model.parameters()).device
    x, y = (torch.from_numpy(a).to(device) for a in (images.test_x[:, None], images.test_y))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
    chosen = order[: evaluation.attack_images].to(device)
    attacked, classes = x[chosen], y[chosen]
    found: Run = {
        "accuracy": robustness.accuracy(model, x, y),
        "noise": robustness.noise_accuracy(model, x, y, evaluation.noise),
    }
    norms: list[tuple[Literal["linf", "l2"], tuple[float, ...]]] = [
        ("linf", evaluation.linf),
        ("l2", evaluation.l2),
    ]
    for norm, radii in norms:
        found[f"pgd_{norm}"] = robustness.pgd_accuracy(
            model, attacked, classes, norm, radii, evaluation.pgd_steps
        )
        size = robustness.minimal_perturbation(
            model, attacked, classes, norm, evaluation.minimal_steps
        )
        right = size[size > 0]
        found[f"minimal_{norm}"] = finite(float(np.median(right))) if right.size else None
        found[f"minimal_{norm}_all_images"] = finite(float(np.median(size)))
    return found


def _compare(
    model: nn.Module, gamma: Tensor | None, targets: Sequence[SimilarityTarget]
) -> dict[str, Any]:
    """Return how near the student's similarities are to targets: penalty and Pearson correlation, centred."""
    import numpy as np
    import torch

    from b2m_fast.ops import rsa_penalty

    penalty, r, layers = [], [], []
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        for target in targets:
            images = torch.from_numpy(target.images[:, None]).to(device)
            maps = [m.flatten(1) for m in model.taps(images)]  # type: ignore[operator]
            truth = target.similarity().to(device)
            common: dict[str, Any] = {
                "metric": "cosine",
                "target_kind": "similarity",
                "center": True,
            }
            mixed = common | {"layer_weights": gamma}
            penalty.append(float(rsa_penalty(maps, truth, compare="atanh", **mixed)))
            r.append(1 - float(rsa_penalty(maps, truth, compare="pearson", **mixed)))
            layers.append(
                [1 - float(rsa_penalty([m], truth, compare="pearson", **common)) for m in maps]
            )
    return {
        "penalty": float(np.mean(penalty)),
        "r": float(np.mean(r)),
        "r_per_layer": np.mean(layers, axis=0).tolist(),
    }
