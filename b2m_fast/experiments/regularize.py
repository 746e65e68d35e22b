"""A brain regularises an image classifier (Li et al. 2019): whether it becomes more robust, and whether it is the brain.

The method is `b2m_fast.methods.regularization`. Here are its arms, what the trained students are put through, and the numbers that
are taken of them.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from b2m_fast._registry import Registry
from b2m_fast.data import dataset, task
from b2m_fast.data.files import require
from b2m_fast.experiments import contract, experiment
from b2m_fast.experiments.contract import Measure, Prepared, Table, finite, flags, or_nan
from b2m_fast.experiments.settings import presets
from b2m_fast.methods.config import Regularization
from b2m_fast.students import student

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from b2m_fast.data.images import ImageTask
    from b2m_fast.experiments.contract import Context, Run, Runs
    from b2m_fast.teachers.similarity import SimilarityTarget, SimilarityTeacher

__all__ = ["Evaluation", "Regularize", "Settings", "arm"]

Levels = Annotated[tuple[contract.NotNegative, ...], Meta(min_length=1)]
TEACHING = "training.alpha training.pairs training.center training.beta training.neural_batch training.batchnorm"


# --------------------------------------------------------------------------------------------------
# Arms: what stands in the place of the brain
# --------------------------------------------------------------------------------------------------
arm: Registry[Callable[[SimilarityTeacher], list[SimilarityTarget]]] = Registry(
    "arm", "arm", "b2m_fast.experiments.regularize", group="b2m_fast.regularize_arm"
)
"""An arm takes the teacher and returns the targets of the penalty, one for each set of images; without a teacher, none.

Facts of its decorator: ``role``; ``taught=False``: without a teacher; ``uses="blur"``: its student blurs the images; ``uses="denoiser"``:
of the settings that only some arms use, this one.
"""


@arm("none", "no teacher", role="baseline", taught=False)
@arm("blur", "no teacher; a Gaussian blur before the network", taught=False, uses="blur")
def none(_: SimilarityTeacher) -> list[SimilarityTarget]:
    """Return no target: there is no penalty."""
    return []


@arm("neural", "denoised neural similarity", role="tested", uses="denoiser")
def neural(teacher: SimilarityTeacher) -> list[SimilarityTarget]:
    """Return the similarity of cross-fitted predictions, weighted by how well each unit is predicted."""
    return teacher.denoised


@arm("neural-shuffled", "the same similarities, images permuted once", uses="denoiser")
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

    noise: Levels = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1)
    linf: Levels = (1 / 255, 2 / 255)
    l2: Levels = (0.1, 0.2)
    pgd_steps: contract.Count = 20
    minimal_steps: contract.Count = 60
    attack_images: contract.Count = 200
    similarity_images: Annotated[int, Meta(ge=3)] = 200


@dataclass(frozen=True, kw_only=True)
class Settings(contract.Settings):
    """Everything the results depend on, but for the arm and the seed.

    Parameters
    ----------
    brain : str
        Data set of images and responses that teaches.
    task : str
        Images that the student learns to classify.
    student : str
        Network that learns.
    brain_options, task_options, student_options : dict
        Options of brain, task and student: --set task_options.NAME=VALUE.
    student_options.width : int
        Channels of the student's first layers.
    student_options.blocks : int
        Residual blocks of each of the student's four groups; 2: ResNet18.
    blur : float
        Standard deviation of the blur of the arm blur, in pixels.
    denoiser : {"gabor", "efficientnet", "gabor+efficientnet"}
        Features of the encoding model that denoises responses.
    """

    method_version: ClassVar[int] = 3

    brain: str
    task: str
    student: str
    brain_options: contract.Options = field(default_factory=dict)
    task_options: contract.Options = field(default_factory=dict)
    student_options: contract.Options = field(default_factory=dict)
    blur: contract.Positive = 1.0
    denoiser: Literal["gabor", "efficientnet", "gabor+efficientnet"] = "gabor"
    training: Regularization = field(default_factory=Regularization)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def __post_init__(self) -> None:
        for name, least in (("batch", 2), ("neural_batch", 4)):
            if (value := getattr(self.training, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")


# --------------------------------------------------------------------------------------------------
# The experiment
# --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class _Material:
    """What the runs of an arm need: the task, the arm's targets, and the targets by arm that all students are compared with."""

    task: ImageTask
    targets: list[SimilarityTarget]
    probes: dict[str, list[SimilarityTarget]]


@experiment("regularize", "a brain regularises a network (Li et al. 2019)")
class Regularize(contract.Experiment[Settings]):
    """A brain regularises an image classifier."""

    command = "regularize"
    presets = "regularize"
    purpose = """\
Teach an image classifier with a brain, and see whether it becomes more robust.

The student learns its task and, at the same time, to find two images as similar as the units of a recording find them (Li et al.
2019, arXiv 1911.05072):

  loss = cross entropy + alpha * mean over pairs (atanh s_student - atanh S_brain)^2

Controls are arms like any other, because a gain over no teacher alone proves nothing about brains."""
    settings = Settings
    arms = arm
    options = {
        "what": flags("brain task student"),
        "how": flags(
            "training.alpha training.pairs training.center training.batchnorm training.epochs training.batch training.neural_batch "
            "student_options.width student_options.blocks blur denoiser"
        ),
        "measure": flags("evaluation.attack_images"),
    }
    choices = {
        "brain": (dataset, {"kind": "images"}),
        "task": (task, {"kind": "images"}),
        "student": (student, {"kind": "images"}),
    }
    same = ("task", "task_options", "evaluation")
    unit = "epoch"
    means_text = (
        "Means over seeds: accuracy (fractions of the test images; for PGD, of the attacked ones), and the smallest perturbation "
        "found that changes the class (median over correctly classified images; pixels are in [0, 1])."
    )

    # ------------------------------------------------------------------------------------------ what is measured
    def measures(self, settings: Settings, runs: Runs) -> list[Measure]:
        """Return accuracy, and how hard the student is to fool."""
        e = settings.evaluation
        half, top = (
            min(range(len(e.noise)), key=lambda k: abs(e.noise[k] - wanted))
            for wanted in (max(e.noise) / 2, max(e.noise))
        )
        a, b = len(e.linf) // 2, len(e.l2) // 2
        values: dict[str, Callable[[Run], float]] = {
            "clean": lambda r: r["accuracy"],
            f"noise {e.noise[half]:g}": lambda r: r["noise"][half],
            f"noise {e.noise[top]:g}": lambda r: r["noise"][top],
            f"PGD Linf {e.linf[a] * 255:.3g}/255": lambda r: r["pgd_linf"][a],
            f"PGD L2 {e.l2[b]:g}": lambda r: r["pgd_l2"][b],
        }

        def smallest(norm: str, key: str, digits: int) -> Measure:
            axes = ("", f"smallest perturbation that changes the class, {norm}")
            return Measure(
                f"median {norm}",
                lambda r: or_nan(r[key]),
                decides=True,
                drawn=True,
                digits=digits,
                axes=axes,
            )

        def curve(
            name: str, x: str, y: str, of: Callable[[Run], Any], drawn: Any = True
        ) -> Measure:
            return Measure(name, of, kind="curve", drawn=bool(drawn), axes=(x, y))

        def mixture(run: Run) -> tuple[Sequence[int], Sequence[float]]:
            weights = run["gamma"] or ()
            return range(1, len(weights) + 1), weights

        taught = [r for seeds in runs.values() for r in seeds.values() if r["gamma"]]
        noise, accuracy = "noise, standard deviation", "accuracy, test images"
        return [
            curve("accuracy under noise", noise, accuracy, lambda r: (e.noise, r["noise"])),
            *(Measure(name, of, decides=name != "clean") for name, of in values.items()),
            smallest("Linf", "minimal_linf", 4),
            smallest("L2", "minimal_l2", 3),
            curve("mixture of layers", "layer", "learned weight gamma", mixture, taught),
        ]

    def told(self, settings: Settings, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return the pairs of the arm under test: those of controls with no teacher are in the table."""
        return [(a, b) for a, b in pairs if self.role(settings, a) == "tested"]

    def tables(self, settings: Settings, runs: Runs) -> list[Table]:
        """Return what the penalty did to the students."""
        import numpy as np

        def mean(seeds: Mapping[int, Run], target: str, key: str) -> str:
            found = [run["similarity"].get(target, {}).get(key) for run in seeds.values()]
            return f"{np.mean(found):.3f}" if found and None not in found else "-"

        text = (
            "What the penalty did: distance of the student's similarities from its arm's own target, beside that of students "
            "without a teacher; correlation with the similarity of the arm under test; and the learned mixture of the layers."
        )
        head = ["arm", "penalty, own target", "same, no teacher", "r with the brain", "gamma"]
        by_role = {self.role(settings, name): name for name in runs}
        baseline, tested = runs.get(by_role.get("baseline", ""), {}), by_role.get("tested", "")
        rows = []
        for name, seeds in runs.items():
            gamma = [run["gamma"] for run in seeds.values()]
            mixture = "-" if None in gamma else " ".join(f"{g:.2f}" for g in np.mean(gamma, axis=0))
            own = [mean(these, name, "penalty") for these in (seeds, baseline)]
            rows.append([name, *own, mean(seeds, tested, "r"), mixture])
        return [Table(text, head, rows)]

    def upgrade(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Return older results with the settings and the words on the teacher that newer ones have."""
        settings, teacher = dict(stored["experiment"]), stored["teacher"]
        options = {name: settings.pop(name) for name in ("width", "blocks")}
        student_settings = {"student": presets(self.presets)["student"], "student_options": options}
        words = _words(teacher.get("recordings", {}))
        return stored | {
            "settings": settings | student_settings,
            "teacher": teacher | {"words": words},
        }

    # ------------------------------------------------------------------------------------------ how it is called
    def refuse(self, settings: Settings, arms: Sequence[str], given: set[str]) -> None:
        """Raise ValueError for options that brain, task or student does not have, and for settings that these arms do not use."""
        dataset.get(settings.brain).options(settings.brain_options)
        task.get(settings.task).options(settings.task_options)
        for name in arms:
            student.get(settings.student).options(_student_options(settings, name))
        taught = any(arm.get(name).about.get("taught", True) for name in arms)
        self.refuse_unused(
            given,
            [
                (taught, "arms with a teacher", TEACHING),
                (self.uses(arms, "denoiser"), "arms whose responses are denoised", "denoiser"),
                (self.uses(arms, "blur"), "arms that blur", "blur"),
            ],
        )

    def title(self, settings: Settings) -> str:
        """Return the task and the brain."""
        return f"{settings.task} taught by {settings.brain}"

    def ticks(self, settings: Settings) -> int:
        """Return the number of epochs."""
        return settings.training.epochs

    def brief(self, run: Run) -> float | None:
        """Return the accuracy."""
        return float(run["accuracy"])

    # ------------------------------------------------------------------------------------------ what is read, made and run
    def prepare(self, settings: Settings, arms: Sequence[str], context: Context) -> Prepared:
        """Load task and brain, and make the targets of these arms."""
        import numpy as np

        from b2m_fast.teachers.similarity import SimilarityTarget, SimilarityTeacher

        images = task.get(settings.task).build(settings.task_options, root=context.data)
        require(images.channels == 1, f"{settings.task}: images must be gray, as the teacher's are")
        for name in arms:
            has_taps = hasattr(_student(settings, name, images), "taps")
            require(has_taps, f"{settings.student} has no method taps(images): it cannot be taught")
        brain = dataset.get(settings.brain).build(settings.brain_options, root=context.data)
        teacher = SimilarityTeacher(
            brain, images.size, denoiser=settings.denoiser, device=context.accelerator
        )
        targets: dict[str, Any] = {name: arm.get(name).make(teacher) for name in arms}
        rng, picked = np.random.default_rng(0), {}
        for name, found in targets.items():
            right = isinstance(found, list) and all(isinstance(t, SimilarityTarget) for t in found)
            require(right, f"the arm {name} must return a list of SimilarityTarget, got {found!r}")
            for t in found:
                if t.name not in picked:
                    order = rng.permutation(len(t.rows))
                    picked[t.name] = np.sort(order[: settings.evaluation.similarity_images])
        probes = {
            n: [t.take(picked[t.name]) for t in found] for n, found in targets.items() if found
        }
        report = teacher.report()
        report["words"] = list(dict.fromkeys([*brain.words, *_words(report["recordings"])]))
        return Prepared(lambda name: _Material(images, targets[name], probes), report)

    def run(
        self, settings: Settings, prepared: _Material, arm: str, seed: int, context: Context
    ) -> Run:
        """Train a student and evaluate it."""
        import torch

        from b2m_fast.methods.regularization import train_regularized

        torch.manual_seed(seed)
        model = _student(settings, arm, prepared.task)
        start = time.perf_counter()
        trained = train_regularized(
            model,
            prepared.task,
            prepared.targets,
            settings.training,
            seed,
            on_validation=lambda _: context.tick(),
            checkpoint=context.folder / "training.safetensors",
            **context.device,
        )
        middle = time.perf_counter()
        half = context.precision == "bf16-mixed"
        with torch.autocast(context.accelerator, torch.bfloat16) if half else nullcontext():
            found = _evaluate(model, prepared.task, settings.evaluation)
        gamma = trained.penalty.layer_weights()
        return found | {
            "gamma": gamma.tolist() if prepared.targets and gamma is not None else None,
            "best_epoch": trained.best_epoch,
            "history": [
                {k: finite(v) for k, v in entry.items() if k != "step"}
                for entry in trained.history.entries
            ],
            "similarity": {n: _compare(model, gamma, t) for n, t in prepared.probes.items()},
            "seconds_training": middle - start,
            "seconds_evaluation": time.perf_counter() - middle,
            "parameters": sum(p.numel() for p in model.parameters()),
        }


# --------------------------------------------------------------------------------------------------
# Students
# --------------------------------------------------------------------------------------------------
def _student_options(settings: Settings, name: str) -> contract.Options:
    """Return the options of an arm's student."""
    blurred = arm.get(name).about.get("uses") == "blur"
    return settings.student_options | ({"blur": settings.blur} if blurred else {})


def _student(settings: Settings, name: str, images: ImageTask) -> Any:
    """Return an arm's student, untrained."""
    options = _student_options(settings, name)
    return student.get(settings.student).build(
        options, classes=images.classes, channels=images.channels, size=images.size
    )


def _evaluate(model: nn.Module, images: ImageTask, evaluation: Evaluation) -> Run:
    """Return accuracy, accuracy under noise and attack, and the smallest perturbations that fool the student."""
    import numpy as np
    import torch

    from b2m_fast.evaluate import robustness

    device = next(model.parameters()).device
    x, y = (torch.from_numpy(a).to(device) for a in (images.test_x[:, None], images.test_y))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
    chosen = order[: evaluation.attack_images].to(device)
    found: Run = {
        "accuracy": robustness.accuracy(model, x, y),
        "noise": robustness.noise_accuracy(model, x, y, evaluation.noise),
    }
    norms: dict[Literal["linf", "l2"], tuple[float, ...]]
    norms = {"linf": evaluation.linf, "l2": evaluation.l2}
    for norm, radii in norms.items():
        attacked = model, x[chosen], y[chosen], norm
        found[f"pgd_{norm}"] = robustness.pgd_accuracy(*attacked, radii, evaluation.pgd_steps)
        size = robustness.minimal_perturbation(*attacked, evaluation.minimal_steps)
        right = size[size > 0]
        found[f"minimal_{norm}"] = finite(float(np.median(right))) if right.size else None
        found[f"minimal_{norm}_all_images"] = finite(float(np.median(size)))
    return found


def _compare(model: Any, gamma: Tensor | None, targets: Sequence[SimilarityTarget]) -> Run:
    """Return how near the student's similarities are to targets: penalty and Pearson correlation, centred."""
    import numpy as np
    import torch

    from b2m_fast.ops import rsa_penalty

    penalty, r, layers = [], [], []
    kind: dict[str, Any] = {"metric": "cosine", "target_kind": "similarity", "center": True}
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        for target in targets:
            maps = [
                m.flatten(1)
                for m in model.taps(torch.from_numpy(target.images[:, None]).to(device))
            ]
            truth = target.similarity().to(device)

            def distance(of: list[Tensor], compare: Any, weights: Tensor | None = None) -> float:
                return float(rsa_penalty(of, truth, compare=compare, layer_weights=weights, **kind))  # noqa: B023

            penalty.append(distance(maps, "atanh", gamma))
            r.append(1 - distance(maps, "pearson", gamma))
            layers.append([1 - distance([m], "pearson") for m in maps])
    return {
        "penalty": float(np.mean(penalty)),
        "r": float(np.mean(r)),
        "r_per_layer": np.mean(layers, axis=0).tolist(),
    }


def _words(recordings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return sentences on the teacher: whether it is simulated, how well responses are predicted, and whether denoising helps."""
    import numpy as np

    from b2m_fast.data.recording import SYNTHETIC

    every = list(recordings.values())
    if not every:
        return []
    r = np.mean([one["predictability_mean"] for one in every])
    out = [SYNTHETIC] * any(one["synthetic"] for one in every)
    out.append(
        f"Cross-fitted predictions of held-out images correlate with the recorded responses at r = {r:.2f} (mean over neurons)."
    )
    for key, what in (("truth", "the noise-free responses"), ("repeats", "other repeats")):
        which = [one for one in every if one.get(f"denoised_vs_{key}_r") is not None]
        if which:
            denoised, single = (
                np.mean([one[f"{kind}_vs_{key}_r"] for one in which])
                for kind in ("denoised", "single_trial")
            )
            nearer = "nearer" if denoised > single else "NOT nearer"
            out.append(
                f"Similarity from denoised responses is {nearer} to that of {what} than a single trial's (r = {denoised:.2f} "
                f"against {single:.2f}; mean over {len(which)} of {len(every)} recordings)."
            )
    return out
