"""What students of Brain2Model learn, with its tests, and what teaches them: recordings, simulated neurons, trained networks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from b2m_fast.data import TaskMatch, dataset, task
from b2m_fast.evaluate.reconstruction import mean_squared_error, structural_similarity
from b2m_fast.methods.alignment import FrameTask, TrialTask
from b2m_fast.methods.brain2model import Brain2ModelObjective, ridge_solution
from b2m_fast.methods.training import seeded, train
from b2m_fast.students import student
from b2m_fast.students.recurrent import LeakyRNN
from b2m_fast.teachers import latent_controls, response_controls, responses
from b2m_fast.teachers.alignment import align
from b2m_fast.teachers.latents import LatentTeacher, make_latents
from b2m_fast.teachers.population import make_population

if TYPE_CHECKING:
    from pathlib import Path

    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor

    from b2m_fast._registry import Entry
    from b2m_fast.data.driving import Scenes
    from b2m_fast.data.tasks import DecisionTask
    from b2m_fast.experiments.brain2model import Settings
    from b2m_fast.experiments.contract import Context
    from b2m_fast.methods.config import TrainConfig

CONTROLS, TEST, NETWORK, FRAMES = 5, 6, 7, 8  # streams, beside `b2m_fast.methods.training.Stream`
# of the network behind the synthetic brain, of the arm network; far from any seed that a user takes
TRUTH_SEED, NETWORK_SEED = 2**40, 2**40 + 1
NETWORK_TRIALS = 50  # of each condition, whose mean states a network's latents are of
RHO = 0.01  # of the ridge regression that probes latents


# --------------------------------------------------------------------------------------------------
# Brain, task and student
# --------------------------------------------------------------------------------------------------
def check_choices(settings: Settings, given: set[str]) -> None:
    """Raise ValueError unless the brain can teach the task, and the student can learn it."""
    about, made = dataset.get(settings.brain).about, task.get(settings.task)
    kind, learns = made.about.get("kind"), student.about(settings.student).get("kind")
    can = [task.name_of(match.task) for match in about.get("tasks", ())]
    shown = about.get("kind", kind) == ("images" if kind == "frames" else kind)
    teaches = f"--brain {settings.brain} can teach {', '.join(can) or 'other tasks'}"
    if kind is None:
        raise ValueError(f"--task {settings.task} must say its kind: @task(NAME, HELP, kind=...)")
    if made.name not in can if can else not (shown or observer(settings)):
        raise ValueError(f"{teaches}, not --task {settings.task}")
    if learns not in {None, kind}:
        if can and "task" not in given:
            raise ValueError(f"{teaches}, which a {settings.student} cannot learn")
        fitting = f"--student {settings.student} can learn {', '.join(task.listings(kind=learns))}"
        raise ValueError(f"{fitting}, not --task {settings.task}")
    if settings.frames != (kind == "frames"):
        raise ValueError(f"--task {settings.task} has no {settings.evaluation.metric}")


def observer(settings: Settings) -> Any:
    """Return the function of a simulated brain that sees a trained network; None of any other brain."""
    about = dataset.get(settings.brain).about
    return about.get("observe_images" if settings.frames else "observe")


def match_of(settings: Settings) -> TaskMatch:
    """Return how the brain's recording goes with the task: by equal names, if the data set does not say."""
    made = task.get(settings.task).make
    matches = dataset.get(settings.brain).about.get("tasks", ())
    return next((match for match in matches if match.task is made), TaskMatch(made))


def make_task(settings: Settings, root: Path | None = None) -> Any:
    """Return the task, a `DecisionTask` or `Scenes`, as it was when the brain was recorded; refuse other options."""
    match, options = match_of(settings), settings.task_options
    for name, recorded in match.options.items():
        if options.get(name, recorded) != recorded:
            raise ValueError(
                f"--{name} {options[name]}: --brain {settings.brain} was recorded with {recorded}, and conditions of the same "
                f"names would not be the same {name}"
            )
    entry = task.get(settings.task)
    return entry.build({**match.defaults, **options, **match.options}, root=root)


def delays_of(settings: Settings, made: DecisionTask) -> list[float]:
    """Return the task's own delay and the others that students are tested on, in ms; refuse impossible ones."""
    if "delay" not in made.epochs:
        if settings.evaluation.delays_ms:
            raise ValueError(f"--task {settings.task} has no delay that could be another")
        return []
    begin, end = made.epochs["delay"]
    others = settings.evaluation.delays_ms
    if others is None:
        steps = (math.ceil(factor * (end - begin) - 1e-9) for factor in (1.5, 2.0))
        others = tuple(made.step_ms * n for n in steps)
    for delay in others:
        made.draw(1, np.random.default_rng(0), delay_ms=delay)
    return [made.step_ms * (end - begin), *others]


def on_device(config: TrainConfig, context: Context) -> TrainConfig:
    """Return how to train, on the context's device."""
    return replace(
        config,
        accelerator=context.accelerator,
        devices=context.devices,
        precision=context.precision,
    )


# --------------------------------------------------------------------------------------------------
# Students at their task, and their tests
# --------------------------------------------------------------------------------------------------
class SceneTask(FrameTask):
    """Reconstruction of frames, with structural similarity in the numbers of a validation."""

    def validate(self, fabric: Fabric) -> tuple[dict[str, float], None]:
        """Return the numbers of `FrameTask`, and ``validation_ssim``."""
        numbers, _ = super().validate(fabric)
        return numbers | {"validation_ssim": _reconstruction(self.student, self.held_out)[1]}, None


def student_task(
    settings: Settings,
    made: Any,
    seed: int,
    share: float | None = None,
    *,
    name: str = "",
    units: int = 0,
) -> TrialTask | SceneTask:
    """Return an untrained student with its task, all random numbers from a seed.

    Parameters
    ----------
    settings : Settings
        The experiment.
    made : DecisionTask or Scenes
        What is learned.
    seed : int
        Seed of the student, of trials or the order of frames, and of the choice of frames.
    share : float, optional
        Share of the training frames, or of `Evaluation.pool` trials, that there are to learn from; None: all, or ever new trials.
    name, units : str, int
        Another student, another size than the experiment's.
    """
    size, evaluation = units or settings.units, settings.evaluation
    context = {"units": size, "latent": size, "width": settings.width}
    for part in ("shape",) if settings.frames else ("channels", "classes", "step_ms"):
        context[part] = getattr(made, part)
    with seeded(seed):
        options = {} if name else settings.student_options
        network = student.get(name or settings.student).build(options, **context)
    if settings.frames:
        frames = made.train[kept_frames(made, seed, share)]
        batch, beta = settings.batch, settings.beta
        return SceneTask(network, frames, made.validation, seed=seed, batch=batch, beta=beta)
    pool = None if share is None else max(1, round(share * evaluation.pool))
    held_out = evaluation.validation
    return TrialTask(network, made, seed=seed, batch=settings.batch, validation=held_out, pool=pool)


def kept_frames(scenes: Scenes, seed: int, share: float | None) -> NDArray[np.int64]:
    """Return which training frames a share of them is, in order; None: all."""
    count = len(scenes.train)
    kept = count if share is None else max(1, round(share * count))
    order = np.arange(count) if share is None else _rng(seed, FRAMES).permutation(count)
    return np.sort(order[:kept])


@torch.no_grad()
def test(settings: Settings, network: Any, made: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Return what a student does on data that none was trained on, and the accuracy of a recurrent one by delay, in ms.

    ``accuracy`` at the steps that count, on the same trials for all; or ``mse``, ``ssim`` and ``probe_r2`` of frames.
    """
    network.eval()
    if settings.frames:
        mse, ssim = _reconstruction(network, torch.from_numpy(made.test))
        return {"mse": mse, "ssim": ssim, "probe_r2": _probe(network, made)}, {}
    device = next(network.parameters()).device

    def accuracy(delay_ms: float | None) -> float:
        trials = made.draw(settings.evaluation.test, _rng(0, TEST), delay_ms=delay_ms)
        logits, _ = network(trials.inputs.to(device))
        right = (logits.argmax(2).cpu() == trials.target).double() * trials.mask
        return float(right.sum() / trials.mask.sum())

    own = accuracy(None)
    delays = [(ms, accuracy(ms) if k else own) for k, ms in enumerate(delays_of(settings, made))]
    return {"accuracy": own}, {f"{ms:g}": score for ms, score in delays}


def _reconstruction(network: Any, frames: Tensor) -> tuple[float, float]:
    """Return squared error and structural similarity of reconstructions from the mean."""
    device = next(network.parameters()).device
    errors, similarity = [], []
    for part in frames.split(250):
        x = part.to(device)
        y = network(x).reconstruction
        errors.append(mean_squared_error(y, x))
        similarity.append(structural_similarity(y, x))
    return float(torch.cat(errors).mean()), float(torch.cat(similarity).mean())


def _probe(network: Any, scenes: Scenes) -> float:
    """Return R2, mean over what is known of a frame, of reading it from the latents by ridge regression from the training frames."""
    h, test_h = (_latents(network, x).double() for x in (scenes.train, scenes.test))
    known = (scenes.train_labels, scenes.test_labels)
    z, truth = (torch.from_numpy(x).to(h.device).double() for x in known)
    weight, bias = ridge_solution(h, z, RHO)
    missed = (test_h @ weight.T + bias - truth).square().mean(0)
    spread = truth.var(0, correction=0)
    varies = (spread > 1e-9) & (z.var(0) > 1e-9)
    return float((1 - missed / spread)[varies].mean())


@torch.no_grad()
def _latents(network: Any, frames: NDArray[np.float32]) -> Tensor:
    """Return the mean (n, latents) of the encoder for frames, on the network's device."""
    device = next(network.parameters()).device
    parts = torch.from_numpy(frames).split(250)
    return torch.cat([network.encode(x.to(device))[0] for x in parts])


@torch.no_grad()
def condition_states(
    network: Any, made: DecisionTask, trials: int, seed: int
) -> NDArray[np.float32]:
    """Return hidden states (conditions, trials, steps, units) of a network in trials of every condition."""
    drawn = made.draw(trials * len(made.conditions), _rng(seed, NETWORK))
    device = next(network.parameters()).device
    network.eval()
    hidden = network(drawn.inputs.to(device))[1].transpose(0, 1).numpy(force=True)
    order = np.argsort(drawn.condition.numpy(), kind="stable")
    states: NDArray[np.float32] = hidden[order].reshape(-1, trials, *hidden.shape[1:])
    return states


def _rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream])


# --------------------------------------------------------------------------------------------------
# Teachers
# --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Material:
    """What the runs of an arm need.

    Parameters
    ----------
    task : DecisionTask or Scenes
        What is learned.
    teacher, network : LatentTeacher or ResponseTeacher, optional
        The brain's, and a trained network's; None: not needed.
    labels : ndarray, optional
        (training frames, d): what is known of them, where they are what the brain was shown: the teacher's labels are their numbers.
    window : (int, int), optional
        Steps of a trial that the brain says something about, where the teacher does not say so itself.
    """

    task: Any
    teacher: Any = None
    network: Any = None
    labels: NDArray[np.float32] | None = None
    window: tuple[int, int] | None = None

    def teacher_of(self, arm: Entry[Any], seed: int, share: float | None) -> Any:
        """Return the teacher of an arm; on a share of the training frames, one of training frames shows no others."""
        if self.teacher is None:
            return None
        teacher = arm.build(
            teacher=self.teacher, rng=_rng(seed, CONTROLS), labels=self.labels, network=self.network
        )
        if teacher is None or share is None or self.labels is None:
            return teacher
        rows = np.isin(teacher.label, kept_frames(self.task, seed, share))
        parts = ("stimuli", "responses", "label")
        return replace(teacher, **{name: getattr(teacher, name)[rows] for name in parts})


def prepare(
    settings: Settings, context: Context, taught: bool, with_network: bool
) -> tuple[Material, dict[str, Any]]:
    """Return the task and, if anything is taught, the brain's teacher and that of a trained network; and what is known of them."""
    made = make_task(settings, context.data)
    if not taught:
        return Material(made), {}
    report: dict[str, Any] = {}
    make = _frame_teacher if settings.frames else _trial_teacher
    material = make(settings, context, made, report)
    report["brain"] = material.teacher.report
    if with_network:
        network = _trained(settings, context, made, "network", report)
        material = replace(material, network=_of_network(material, network))
    return material, report | {"words": _words(report)}


def _trial_teacher(
    settings: Settings, context: Context, made: DecisionTask, report: dict[str, Any]
) -> Material:
    """Return latents of the task's conditions, or responses to trials of them."""
    teaching, match = settings.teacher, match_of(settings)
    if observe := observer(settings):
        rnn = student.name_of(LeakyRNN)
        truth = _trained(settings, context, made, "truth", report, rnn, teaching.network_units)
        states = condition_states(truth, made, teaching.repeats, TRUTH_SEED)
        brain = observe(
            states.reshape(-1, *states.shape[2:]),
            np.repeat(np.arange(len(states)), teaching.repeats),
            made,
            _rng(TRUTH_SEED, CONTROLS),
            neurons=teaching.neurons,
            rate=teaching.rate,
        )
    else:
        brain = dataset.get(settings.brain).build(root=context.data)
    report["remarks"] = [*brain.remarks]
    context.log(f"latents or responses of {brain.units} units")
    trials, names = match.minimum_trials, match.names(made)
    population = make_population(brain, smooth_ms=teaching.smooth_ms, minimum_trials=trials)
    if settings.transfer.method == "latent":
        method, k, device = teaching.latents, teaching.k, context.accelerator
        teacher = make_latents(population, made, method=method, k=k, device=device, **names)
        return Material(made, teacher)
    rng, steps = _rng(TRUTH_SEED, CONTROLS), np.flatnonzero(align(population, made, **names).valid)
    answers = responses.condition_responses(population, made, rng, k=teaching.k, **names)
    return Material(made, answers, window=(int(steps[0]), int(steps[-1]) + 1))


def _frame_teacher(
    settings: Settings, context: Context, scenes: Scenes, report: dict[str, Any]
) -> Material:
    """Return responses to the scenes, of simulated neurons or of models of units; or of units to the images they were shown."""
    teaching, entry = settings.teacher, dataset.get(settings.brain)
    if observe := observer(settings):
        truth = _trained(settings, context, scenes, "truth", report, "", teaching.network_units)
        teacher = observe(
            _latents(truth, scenes.train).numpy(force=True),
            scenes.train,
            _rng(TRUTH_SEED, CONTROLS),
            neurons=teaching.neurons,
            repeats=teaching.repeats,
            rate=teaching.rate,
            components=teaching.k,
        )
        return Material(scenes, teacher, labels=scenes.train_labels)
    brain = entry.build(root=context.data)
    report["remarks"] = [*brain.remarks]
    if teaching.stimuli == "scenes":
        context.log("models of units, fitted on the images that these were shown")
        model = responses.fit_sensory_model(brain, min(scenes.shape[1:]))
        teacher = responses.stand_in(model, scenes.train, k=teaching.k)
        return Material(scenes, teacher, labels=scenes.train_labels)
    session = teaching.session or entry.about.get("repeated") or brain.recordings[0].session
    recording = brain.recording(session)
    teacher = responses.image_responses(brain, recording, scenes.shape[1:], k=teaching.k)
    return Material(scenes, teacher)


def _of_network(material: Material, network: Any) -> Any:
    """Return a trained network as a teacher of the brain's kind and size."""
    teacher, made = material.teacher, material.task
    if isinstance(teacher, LatentTeacher):
        states = condition_states(network, made, NETWORK_TRIALS, NETWORK_SEED)
        return latent_controls.network(teacher, states.mean(axis=1))
    if teacher.stimuli is not None:
        seen = _latents(network, teacher.stimuli).numpy(force=True)
        return response_controls.network(teacher, seen)
    trials = int(np.bincount(teacher.label).max())  # of the condition the brain has most of
    begin, end = material.window or (0, made.steps)
    states = condition_states(network, made, trials, NETWORK_SEED)
    return response_controls.network(teacher, states[:, :, begin:end].mean(axis=2))


def _trained(
    settings: Settings,
    context: Context,
    made: Any,
    what: str,
    report: dict[str, Any],
    name: str = "",
    units: int = 0,
) -> Any:
    """Return a student that was trained without a teacher, so that it can be one; it is kept for the next time, and reported."""
    kind, steps = name or settings.student, settings.teacher.network_steps
    seed = {"truth": TRUTH_SEED, "network": NETWORK_SEED}[what]
    context.log(f"a network that teaches ({kind}): {steps} steps")
    training = replace(
        on_device(settings.training, context),
        steps=steps,
        learning_rate=settings.teacher.network_rate,
        validate_every=max(1, steps // 10),
        validate_first=False,
    )
    alone = student_task(settings, made, seed, name=name, units=units)
    sources = [settings.task, task.source(settings.task), kind, student.source(kind)]
    options = [settings.task_options, settings.student_options, settings.batch, settings.beta]
    identity = repr([settings.method_version, *sources, *options, getattr(made, "digest", "")])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same bits whatever the machine
    try:
        path = context.folder / f"{what}.safetensors"
        train(Brain2ModelObjective(alone), training, checkpoint=path, identity=identity)
        found, _ = test(settings, alone.student, made)
    finally:
        torch.set_num_threads(threads)
    metric, wanted = settings.evaluation.metric, settings.evaluation.criterion
    learned = found[metric] <= wanted if metric == "mse" else found[metric] >= wanted
    size = sum(p.numel() for p in alone.student.parameters())
    report[what] = {"kind": kind, "parameters": size, "steps": steps, **found, "learned": learned}
    return alone.student


def _words(report: dict[str, Any]) -> list[str]:
    """Return what a reader of the results should know of the teachers."""
    brain, out = report["brain"], [*report.get("remarks", ())]
    if brain.get("synthetic"):
        out.append(
            "The brain is SYNTHETIC: this shows what the method can do, not what a brain does."
        )
    if brain.get("stand_in"):
        out.append(
            f"The brain is a STAND-IN, which never saw these scenes: models of {brain['units']} neurons, fitted on the images that "
            f"were shown to them (held-out r = {brain['held_out_r_mean']:.2f}), answer to the scenes."
        )
    if "reliability" in brain:
        values = ", ".join(f"{r:.2f}" for r in brain["reliability"])
        out.append(
            f"{brain['k']} latents ({brain['method']}) of {brain['units']} neurons; reliability across trials {values}; "
            f"{brain['condition_identified_in_other_half']:.2f} of the conditions are recognised in the other half of the trials "
            f"(chance {brain['condition_chance']:.2f})."
        )
        if brain["unreliable"]:
            out.append(f"Latents {brain['unreliable']} are unreliable: they teach mostly noise.")
        if not brain["conditions_told_apart"]:
            out.append(
                "The latents do NOT TELL CONDITIONS APART: they are recognised no better than by chance, so that whatever this "
                "teacher does it is not by what it knows of them."
            )
    for what, named in (("truth", "The network behind the brain"), ("network", "The arm network")):
        if what in report:
            found = report[what]
            shown = [f"{k} {found[k]:.3g}" for k in ("accuracy", "mse", "ssim") if k in found]
            failed = ": it has NOT LEARNED the task (more --network-steps?)"
            out.append(
                f"{named} ({found['kind']}, {found['parameters']} parameters, {found['steps']} steps): {', '.join(shown)}"
                f"{'' if found['learned'] else failed}."
            )
    return out
