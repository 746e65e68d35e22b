"""Brain2Model (Gallo Aquino et al. 2025): whether a brain helps a student to learn its task, and whether it is the brain.

The method is `b2m_fast.methods.brain2model`; students with their tests, and teachers, are in `b2m_fast.experiments.brain2model_data`.
Here are the arms, the settings, what is refused, how a run goes, and the numbers that are taken of it.

Two kinds of controls answer two questions. ``shuffled`` and ``gaussian`` say nothing about a trial or image: does a target of the
same statistics help, whatever it is? ``relabelled``, ``random-code``, ``phase``, ``label`` and ``network`` tell conditions or images
apart in every trial, as the brain does, but not the way the brain does: is it the brain's geometry that helps, or any code that a
student is asked to keep in mind? The second question is the hard one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from b2m_fast._registry import Registry
from b2m_fast.data import dataset, files_of, task
from b2m_fast.experiments import contract, experiment
from b2m_fast.experiments.contract import (
    Count,
    Inputs,
    Measure,
    NotNegative,
    Positive,
    Prepared,
    finite,
    or_nan,
)
from b2m_fast.experiments.settings import by_name
from b2m_fast.methods.config import Brain2ModelConfig, BrainWeight, TrainConfig
from b2m_fast.students import student

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

    from b2m_fast.experiments.brain2model_data import Material
    from b2m_fast.experiments.contract import Context, Run, Runs
    from b2m_fast.teachers.latents import LatentTeacher
    from b2m_fast.teachers.responses import ResponseTeacher

    Teacher = LatentTeacher | ResponseTeacher

__all__ = ["Arm", "Brain2Model", "ContrastiveTransfer", "LatentTransfer", "Settings", "arm"]


# --------------------------------------------------------------------------------------------------
# Arms: what stands in the place of the brain
# --------------------------------------------------------------------------------------------------
class Arm(Protocol):
    """A function that returns the teacher of an arm. Of these arguments it has, by name, those that it uses.

    Parameters
    ----------
    teacher : LatentTeacher or ResponseTeacher
        The brain's: latents of the task's conditions at each step, or responses to samples of conditions or of images.
    rng : Generator
        For all random numbers of the arm; the same for every arm of a seed.
    labels : ndarray or None
        (training frames, d): what is known of them, where they are what the brain was shown.
    network : LatentTeacher or ResponseTeacher
        The same of a trained network like the student; one is trained where an arm has this argument.

    Facts of its decorator: ``role``; ``needs="time"`` (latents at every step) or ``needs="images"``; ``scrambled=True``: the teacher's
    rows are permuted anew in each training batch; ``weightless=True``: the weight of the brain's loss is 0.
    """

    def __call__(
        self, teacher: Teacher, rng: Generator, labels: NDArray[Any] | None, network: Teacher
    ) -> Teacher | None:
        """Return the teacher, or None for a student alone."""


arm: Registry[Callable[..., Teacher | None]] = Registry(
    "arm", "arm", "b2m_fast.experiments.brain2model", group="b2m_fast.brain2model_arm"
)


@arm("none", "no teacher: the student alone", role="baseline")
def none() -> None:
    """Return no teacher."""


@arm("zero", "the brain with weight 0: has to end where none does", role="other", weightless=True)
@arm("brain", "the recording (synthetic: a network seen through its neurons)", role="tested")
@arm("shuffled", "the same features, permuted anew in each batch", scrambled=True)
def brain(teacher: Teacher) -> Teacher:
    """Return the brain's teacher; arms differ in what is made of it."""
    return teacher


@arm("gaussian", "random features of the same rank and variance, permuted likewise", scrambled=True)
@arm("random-code", "random features of the same rank and variance, for each condition or image")
def random_code(teacher: Teacher, rng: Generator) -> Teacher:
    """Return random features that are the same whenever a condition or image comes again."""
    return _control("gaussian", teacher, rng)


@arm("relabelled", "the same features under other conditions or images, for good")
def relabelled(teacher: Teacher, rng: Generator) -> Teacher:
    """Return the brain's features of other conditions or images."""
    return _control("relabelled", teacher, rng)


@arm("reversed", "the same latents, backwards in time", needs="time")
def backwards(teacher: Teacher) -> Teacher:
    """Return the latents in the reverse order of steps."""
    return _control("time_reversed", teacher)


@arm("phase", "the same latents with random phases: spectrum and rank kept", needs="time")
def phase(teacher: Teacher, rng: Generator) -> Teacher:
    """Return latents of the same spectrum."""
    return _control("phase_randomized", teacher, rng)


@arm("label", "what is known without a brain: one-hot condition x time; labels of scenes")
def label(teacher: Teacher, rng: Generator, labels: NDArray[Any] | None) -> Teacher:
    """Return condition and time, or what is known of the frames."""
    known = labels is not None
    return _control("known", teacher, labels) if known else _control("label", teacher, rng)


@arm("pixel", "principal components of the images' pixels", needs="images")
def pixel(teacher: Teacher) -> Teacher:
    """Return what is in the images themselves."""
    return _control("pixel", teacher)


@arm("network", "a trained network like the student in the place of the brain")
def network(network: Teacher) -> Teacher:
    """Return the teacher that a trained network is."""
    return network


def _control(name: str, teacher: Teacher, *arguments: Any) -> Teacher:
    """Return a control of latents or of responses: the function of this name in the module of each."""
    from b2m_fast.teachers import latent_controls, latents, response_controls

    of_latents = isinstance(teacher, latents.LatentTeacher)
    made: Teacher = getattr(latent_controls if of_latents else response_controls, name)(
        teacher, *arguments
    )
    return made


# --------------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class TeacherSettings:
    """How a recording becomes a teacher.

    Parameters
    ----------
    latents : {"pca", "dpca", "fa", "contrastive-embedding"}
        How latents are found: principal components, demixed ones, factor analysis, or an embedding of ours in the manner of CEBRA,
        not the package.
    k : int, optional
        Latents of the brain, or components; none: as many as are reproducible, or all units.
    smooth_ms : float
        Standard deviation of the Gaussian that smooths spikes.
    stimuli : {"scenes", "images"}
        Of a brain that was shown images: models of its units answer to the scenes, or its units did to the images.
    session : str, optional
        Of the images: the session; none: the one with repeats.
    neurons : int
        Neurons of the synthetic brain.
    repeats : int
        Trials of each condition, or presentations of each image, of the synthetic brain.
    rate : float
        Median spikes per second of the synthetic brain.
    network_units : int
        Units, or latents, of the network behind the synthetic brain.
    network_steps : int
        Training steps of networks that teach: that one, and the one of the arm network.
    network_rate : float
        Learning rate of networks that teach.
    """

    latents: Literal["pca", "dpca", "fa", "contrastive-embedding"] = "pca"
    k: Count | None = None
    smooth_ms: NotNegative = 50.0
    stimuli: Literal["scenes", "images"] = "scenes"
    session: str | None = None
    neurons: Count = 100
    repeats: Count = 50
    rate: Positive = 10.0
    network_units: Count = 128
    network_steps: Count = 1000
    network_rate: Positive = 1e-3


@dataclass(frozen=True)
class Evaluation:
    """What a student is measured by.

    Parameters
    ----------
    metric : {"accuracy", "mse", "ssim"}
        What the criterion is about, on validation data: accuracy of trials; squared error or structural similarity of frames.
    criterion : float
        Accuracy or similarity to reach, or squared error to fall to.
    consecutive : int
        In how many validations in a row.
    validation : int
        Held-out trials of a recurrent student.
    test : int
        Test trials of a recurrent student.
    delays_ms : tuple of float, optional
        Other delays that a recurrent student is tested on; none: 1.5 and 2 times as long.
    shares : tuple of float
        Shares of the training data on which students are trained again.
    pool : int
        Trials that count as all training data for these shares.
    """

    metric: Literal["accuracy", "mse", "ssim"] = "accuracy"
    criterion: Positive = 0.9
    consecutive: Count = 3
    validation: Count = 240
    test: Count = 960
    delays_ms: tuple[float, ...] | None = None
    shares: tuple[float, ...] = ()
    pool: Count = 2000

    def __post_init__(self) -> None:
        if self.metric != "mse" and self.criterion > 1:
            raise ValueError(f"the criterion must be above 0 and at most 1, got {self.criterion}")
        if any(not 0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares must be above 0 and at most 1, got {list(self.shares)}")
        for values in (self.shares, self.delays_ms or ()):
            if len(set(values)) < len(values):
                raise ValueError(f"a share or delay is there twice: {list(values)}")

    @property
    def curve(self) -> str:
        """Name of the metric in a history."""
        return f"validation_{'error' if self.metric == 'mse' else self.metric}"


@dataclass(frozen=True, kw_only=True)
class Settings(contract.Settings):
    """Everything the results depend on, but for the arm and the seed.

    Parameters
    ----------
    brain : str
        Who teaches.
    task : str
        What is learned: a recurrent student decides trials, an autoencoder reconstructs frames.
    student : str
        Who learns.
    task_options, student_options : dict
        Options of the task and the student: --set task_options.NAME=VALUE.
    task_options.directions : int
        Directions of a task that has them; a recorded brain has those it was recorded with.
    task_options.delay_ms : float
        Delay of a decision task, in milliseconds; with a recorded brain, as it was recorded (hippocampus: 3000).
    units : int
        Hidden units, or latents of an autoencoder.
    width : int
        Channels of an autoencoder's first convolution.
    batch : int
        Trials or frames of a step.
    beta : float
        Weight of an autoencoder's divergence; 0.03 is twice the squared error at the end, the noise that the decoder really has.
    """

    method_version: ClassVar[int] = 3

    brain: str
    task: str
    student: str
    task_options: dict[str, Any] = field(default_factory=dict)
    student_options: dict[str, Any] = field(default_factory=dict)
    units: Count = 64
    width: Count = 8
    batch: Count = 64
    beta: NotNegative = 0.03
    transfer: Brain2ModelConfig = field(default_factory=Brain2ModelConfig)
    training: TrainConfig = field(default_factory=TrainConfig)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    evaluation: Evaluation = field(default_factory=Evaluation)

    @property
    def frames(self) -> bool:
        """Whether frames are reconstructed, and not trials decided; `check_choices` sees to it that task and student are so."""
        return self.evaluation.metric != "accuracy"


# --------------------------------------------------------------------------------------------------
# The experiment
# --------------------------------------------------------------------------------------------------
PURPOSE = """\
A brain as a second teacher (Brain2Model; Gallo Aquino et al. 2025, arXiv 2506.20834): does a student learn faster or better with it,
and is it the brain? Controls are arms like any other. The idea is the paper's, whose text was not available; equations, sizes and
numbers are ours."""


def _fixed(method: str) -> dict[str, Any]:
    """Return what a command decides itself; the device has options that all commands have."""
    machine = {"accelerator": "cpu", "devices": 1, "precision": "32-true"}
    return {"transfer": {"method": method, "scramble": False}, "training": machine}


def _options(own: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return the options of a command: its own, and those of both."""
    return {
        "what": {"--student": "student", "--brain": "brain", "--task": "task"},
        "how": {
            "--weight": "transfer.weight.value",
            "--schedule": "transfer.weight.schedule",
            "--until": "transfer.weight.until",
            **own,
            "--components": "teacher.k",
            "--stimuli": "teacher.stimuli",
            "--neurons": "teacher.neurons",
            "--network-steps": "teacher.network_steps",
            "--units": "units",
            "--steps": "training.steps",
            "--batch": "batch",
            "--learning-rate": "training.learning_rate",
            "--directions": "task_options.directions",
            "--delay": "task_options.delay_ms",
        },
        "measure": {
            "--criterion": "evaluation.criterion",
            "--every": "training.validate_every",
            "--delays": "evaluation.delays_ms",
            "--shares": "evaluation.shares",
        },
    }


PROBE = (
    "how well what is known of a test scene (car, road; classes in its fields) is read from its latents, by ridge regression. The arm "
    "label was taught just that, so that its probe is circular and no control for the others'."
)


class Brain2Model(contract.Experiment[Settings]):
    """What both strategies have in common."""

    presets = "brain2model"
    settings = Settings
    arms = arm
    choices = {
        "brain": (dataset, {"kind": ("trials", "images")}),
        "task": (task, {"kind": ("trials", "frames")}),
        "student": (student, {"kind": ("trials", "frames")}),
    }
    same = ("task", "evaluation.metric", "evaluation.criterion", "evaluation.consecutive")
    clock = ("training.steps", "training.validate_every", "evaluation.validation")
    means_text = "Means over seeds, of the trained students on data they were never trained on. area: mean height of the learning curve."
    quality: ClassVar[tuple[str, str, str]]
    """How well the brain's loss is met on held-out rows: its label, its key, and what it says."""

    # ------------------------------------------------------------------------------------------ what is refused
    def possible_arms(self, settings: Settings) -> list[str]:
        """Return the arms that this method and student can have."""
        return [n for n, a in arm.listings().items() if not _impossible(a.about, settings)]

    def refuse(self, settings: Settings, arms: Sequence[str], given: set[str]) -> None:
        """Refuse brains, tasks, students and arms that do not go together, and settings that would change nothing."""
        from b2m_fast.experiments.brain2model_data import check_choices, delays_of, make_task

        check_choices(settings, given)
        for name in arms:
            if reason := _impossible(arm.get(name).about, settings):
                raise ValueError(
                    f"--arms {name} is not possible for {settings.transfer.method} transfer to a {settings.student}: {reason}"
                )
        if settings.transfer.weight.value == 0:
            raise ValueError("the weight must be positive, got 0: with weight 0 it is the arm zero")
        self.refuse_unused(given, _uses(settings, arms))
        if not settings.frames:
            delays_of(settings, make_task(settings))

    # ------------------------------------------------------------------------------------------ what is measured
    def measures(self, settings: Settings, runs: Runs) -> list[Measure]:
        """Return learning curves, steps to the criterion, and what the trained students can do."""
        from b2m_fast.evaluate.convergence import TimeToCriterion

        e, training = settings.evaluation, settings.training
        metric, error = e.metric, e.metric == "mse"
        better: Literal["higher", "lower"] = "lower" if error else "higher"
        all_runs = [run for seeds in runs.values() for run in seeds.values()]
        delays = dict.fromkeys(ms for run in all_runs for ms in run["delays"])
        shares = sorted({share for run in all_runs for share in run["shares"]}, key=float)

        def value(label: str, *path: str, **options: Any) -> Measure:
            return Measure(label, lambda run: or_nan(_inside(run, path)), **options)

        def curve(label: str, of: Callable[[Run], Any], x: str, y: str, **options: Any) -> Measure:
            return Measure(label, of, kind="curve", drawn=True, axes=(x, y), **options)

        def learning(run: Run) -> Any:
            history = run["history"]
            return [p["step"] for p in history], [or_nan(p.get(e.curve)) for p in history]

        def by_delay(run: Run) -> Any:
            return [float(ms) for ms in run["delays"]], [or_nan(v) for v in run["delays"].values()]

        reached = Measure(
            "steps to criterion",
            lambda run: TimeToCriterion(**run["time_to_criterion"]),
            kind="time",
            decides=True,
            drawn=True,
            note=f"Steps to criterion: {metric} {'<=' if error else '>='} {e.criterion:g} in {e.consecutive} validations in a row, "
            f"one every {training.validate_every} steps, of {training.steps} steps.",
        )
        label, step = f"{metric}, validation", "training step"
        found = [
            curve(label, learning, step, label, limit=e.criterion, log="y" if error else ""),
            reached,
            value(f"area ({metric})", "area", better=better),
        ]
        if settings.frames:
            found.append(value("mse", "test", "mse", decides=True, better="lower", digits=5))
            found.append(value("ssim", "test", "ssim", decides=True, drawn=True))
            found.append(value("probe R2", "test", "probe_r2", note=PROBE))
        else:
            found.append(value("accuracy", "test", "accuracy", decides=True))
            found += [value(f"delay {ms} ms", "delays", ms) for ms in [*delays][1:]]
        if delays:
            axes = "delay, ms (first: as trained)", "accuracy, test trials"
            found.append(curve("accuracy by delay", by_delay, *axes))
        axes = "share of the training data, %", f"{metric}, test data"
        less: Any = {"better": better, "drawn": True, "axes": axes}
        for share, percent in ((share, 100 * float(share)) for share in shares):
            label = f"{metric}, {percent:g} % of the data"
            digits = 5 if error else 3
            path = ("shares", share, "test", metric)
            found.append(value(label, *path, at=percent, digits=digits, **less))
        label, key, note = self.quality
        return [*found, value(label, "test", key, better="", note=note)]

    # ------------------------------------------------------------------------------------------ how it is called
    def title(self, settings: Settings) -> str:
        """Return student, task, method and brain."""
        known = settings.brain in dataset.listings()
        simulated = known and dataset.about(settings.brain).get("synthetic")
        stand_in = settings.frames and settings.teacher.stimuli == "scenes"
        remark = " (SYNTHETIC)" if simulated else " (a STAND-IN)" if stand_in else ""
        how = f"{settings.transfer.method} transfer from {settings.brain}{remark}"
        return f"{settings.student} learns {settings.task}, {how}"

    def ticks(self, settings: Settings) -> int:
        """Return the number of validations."""
        training = settings.training
        validations = -(-training.steps // training.validate_every) + training.validate_first
        return validations * (1 + len(settings.evaluation.shares))

    def brief(self, run: Run) -> float | None:
        """Return the accuracy, or the squared error."""
        return run["test"].get("accuracy", run["test"].get("mse"))  # type: ignore[no-any-return]

    def upgrade(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Return results of the former `b2m transfer` under today's names."""
        settings, shown, runs = stored["experiment"], stored["settings"], stored["runs"]
        settings["training"] = settings.pop("loop")
        teacher, delay = settings["teacher"], shown["delay_ms"]
        if teacher["latents"] == "cebra":
            teacher["latents"] = "contrastive-embedding"
        if teacher["stimuli"] == "scenes":
            del teacher["session"]
        if delay is not None:
            del settings["width"], settings["beta"]
            if shown["delays_ms"] == [1.5 * delay, 2 * delay]:
                del settings["evaluation"]["delays_ms"]
        for run in runs:
            for part in (run, *run["efficiency"]):
                part["time_to_criterion"] = part.pop("arrival")
            run["shares"] = {f"{less['share']:g}": less for less in run.pop("efficiency")}
            places = [] if delay is None else [delay, *shown["delays_ms"]]
            scores = [run["test"].get("accuracy"), *run["delays"]]
            run["delays"] = {f"{ms:g}": score for ms, score in zip(places, scores, strict=False)}
        return stored | {"settings": settings}

    # ------------------------------------------------------------------------------------------ what is read, made and run
    def reads(self, settings: Settings, arms: Sequence[str], context: Context) -> Inputs:
        """Return the files of brain and task, and what frames are that are rendered and not read."""
        from b2m_fast.experiments.brain2model_data import make_task

        read = files_of(task.get(settings.task).about, context.data)
        files = [*files_of(dataset.get(settings.brain).about, context.data), *read]
        rendered = settings.frames and not read
        return Inputs(files, [make_task(settings, context.data).digest] if rendered else [])

    def prepare(self, settings: Settings, arms: Sequence[str], context: Context) -> Prepared:
        """Load task and brain, and make the teachers that these arms need."""
        from b2m_fast.experiments.brain2model_data import prepare

        taught, with_network = _taught(arms), [n for n in arms if arm.get(n).takes("network")]
        material, report = prepare(settings, context, bool(taught), bool(with_network))

        def of(name: str) -> Material:
            return replace(
                material,
                teacher=material.teacher if name in taught else None,
                network=material.network if name in with_network else None,
            )

        return Prepared(of, report)

    def run(
        self, settings: Settings, prepared: Material, arm: str, seed: int, context: Context
    ) -> Run:
        """Train a student and test it; then again on shares of the data, if asked for."""
        start = time.perf_counter()
        whole = _train(settings, prepared, arm, seed, None, context)
        shares = {}
        for share in settings.evaluation.shares:
            less = _train(settings, prepared, arm, seed, share, context)
            shares[f"{share:g}"] = {key: less[key] for key in ("test", "time_to_criterion")}
        return whole | {"shares": shares, "seconds": time.perf_counter() - start}


def _train(
    settings: Settings,
    prepared: Material,
    name: str,
    seed: int,
    share: float | None,
    context: Context,
) -> Run:
    """Train one student, and return what was measured."""
    from b2m_fast.evaluate.convergence import area_under_curve, steps_to_criterion
    from b2m_fast.experiments.brain2model_data import on_device, student_task, test
    from b2m_fast.methods.brain2model import brain2model_objective
    from b2m_fast.methods.training import train

    entry, e = arm.get(name), settings.evaluation
    config = replace(
        settings.transfer,
        scramble=bool(entry.about.get("scrambled")),
        window=settings.transfer.window or prepared.window,
    )
    if entry.about.get("weightless"):
        config = replace(config, weight=BrainWeight(0.0))
    learning = student_task(settings, prepared.task, seed, share)
    teacher = prepared.teacher_of(entry, seed, share)
    part = "whole" if share is None else f"share-{share:g}"
    entries = train(
        brain2model_objective(learning, teacher, config, seed),
        on_device(settings.training, context),
        checkpoint=context.folder / f"{part}.safetensors",
        identity=f"{name} {seed} {part}",
        on_validation=lambda _: context.tick(),
    ).entries
    reached = steps_to_criterion(
        entries, e.curve, e.criterion, e.consecutive, lower_is_better=e.metric == "mse"
    )
    found, delays = test(settings, learning.student, prepared.task)
    kept = ("readout_r2", "retrieval", "retrieval_chance")
    found |= {key: value for key, value in entries[-1].items() if key in kept}
    return {
        "time_to_criterion": {"step": reached.step, "censored": reached.censored},
        "area": area_under_curve(entries, e.curve),
        "test": {key: finite(value) for key, value in found.items()},
        "delays": delays,
        "history": [{key: finite(v) for key, v in entry.items()} for entry in entries],
    }


@experiment(
    "brain2model latent",
    "a student's states hold the latents of a brain (Gallo Aquino et al. 2025)",
    formerly=("transfer latent",),
)
class LatentTransfer(Brain2Model):
    """Brain Latent Transfer."""

    command = "brain2model latent"
    purpose = f"""{PURPOSE}

Brain Latent Transfer: a student learns its task and, at the same time, to let the latents of a brain be read from its hidden states:

  loss = loss of the task + weight * mean over steps |W h_t + b - z_t|^2 / k"""
    fixed = _fixed("latent")
    options = _options({"--readout": "transfer.readout", "--latents": "teacher.latents"})
    quality = (
        "readout R2",
        "readout_r2",
        "of the arm's own latents, read from the student on held-out rows; for a recurrent student these are new trials, but of the "
        "same conditions, whose averages it was taught.",
    )


@experiment(
    "brain2model contrastive",
    "a student and a brain tell samples apart alike (Gallo Aquino et al. 2025)",
    formerly=("transfer contrastive",),
)
class ContrastiveTransfer(Brain2Model):
    """Brain Contrastive Transfer."""

    command = "brain2model contrastive"
    purpose = f"""{PURPOSE}

Brain Contrastive Transfer: a student learns its task and, at the same time, to pick out of a batch the brain activity that belongs to
its own activations, and the other way round:

  loss = loss of the task + weight * symmetric InfoNCE(W_h h, W_b b; temperature)

Trials of the same condition are positives of one another."""
    fixed = _fixed("contrastive")
    options = _options(
        {
            "--temperature": "transfer.temperature",
            "--learn-temperature": "transfer.learn_temperature",
            "--dimension": "transfer.dimension",
        }
    )
    quality = (
        "retrieval",
        "retrieval",
        "share of held-out samples whose own features the student finds first among all of them.",
    )


# --------------------------------------------------------------------------------------------------
# What an arm or a setting is for
# --------------------------------------------------------------------------------------------------
def _taught(arms: Sequence[str]) -> list[str]:
    """Return the arms that have a teacher."""
    return [name for name in arms if arm.get(name).about.get("role") != "baseline"]


def _impossible(about: Mapping[str, Any], settings: Settings) -> str:
    """Return why an arm with these facts cannot be had, or an empty string."""
    needs = about.get("needs")
    if needs == "time" and settings.frames:
        return "images have no time course"
    if needs == "time" and settings.transfer.method == "contrastive":
        return "contrastive transfer averages over time"
    if needs == "images" and not settings.frames:
        return "a recurrent student sees no images"
    return ""


def _uses(settings: Settings, arms: Sequence[str]) -> list[tuple[bool, str, str]]:
    """Return what only some experiments use, for `refuse_unused`."""
    from b2m_fast.experiments.brain2model_data import observer

    def of(owner: str, names: str) -> str:
        return " ".join(f"{owner}.{name}" for name in names.split())

    taught = " ".join(n for n in by_name(settings) if n.startswith(("teacher.", "transfer.")))
    frames, latent = settings.frames, settings.transfer.method == "latent"
    synthetic = observer(settings) is not None
    network = synthetic or any(arm.get(name).takes("network") for name in arms)
    shown, shares = frames and not synthetic, bool(settings.evaluation.shares)
    images = shown and settings.teacher.stimuli == "images"
    ridge = latent and settings.transfer.readout == "ridge"
    scheduled = settings.transfer.weight.schedule != "constant"
    contrastive = of("transfer", "temperature learn_temperature dimension")
    trials = of("evaluation", "validation test delays_ms") + of(" transfer", "window average")
    return [
        (bool(_taught(arms)), "arms with a teacher", taught),
        (scheduled, "--schedule cosine or pretrain", "transfer.weight.until"),
        (synthetic, "a synthetic brain", of("teacher", "neurons repeats rate network_units")),
        (
            network,
            "a synthetic brain or the arm network",
            of("teacher", "network_steps network_rate"),
        ),
        (shown, "a brain that was shown images", "teacher.stimuli"),
        (images, "a brain that was shown images, with --stimuli images", "teacher.session"),
        (latent and not frames, "latent transfer to recurrent students", "teacher.latents"),
        (not frames, "recurrent students", f"teacher.smooth_ms {trials}"),
        (not frames and shares, "recurrent students, with --shares", "evaluation.pool"),
        (frames, "autoencoders", "width beta transfer.batch"),
        (latent, "latent transfer", "transfer.readout"),
        (ridge, "--readout ridge", "transfer.rho"),
        (not latent, "contrastive transfer", contrastive),
        (frames or not latent, "autoencoders and contrastive transfer", "transfer.held_out"),
    ]


def _inside(run: Run, path: Sequence[str]) -> Any:
    """Return a number of a run by the keys that lead to it, None where there is none."""
    found: Any = run
    for key in path:
        found = None if found is None else found.get(key)
    return found
