"""The one training loop: device, precision, clipping, best weights, checkpoints, logging, resume.

A method says what its loss is (an `Objective`); everything a training needs besides is here, on
Lightning Fabric. A run uses one device: the students are small, and many runs (arms, seeds) go
side by side (`b2m_fast.experiments.runs`).

A run that was killed goes on from its last checkpoint, and on the CPU it ends with the same bits as
a run that was never interrupted: parameters, the optimiser's moments, every generator, the places
in every shuffled list, best weights and history are all in the checkpoint.
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from b2m_fast.data.files import digest
from b2m_fast.methods.checkpoints import CheckpointError, read_checkpoint, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lightning_fabric import Fabric
    from lightning_fabric.loggers.logger import Logger

__all__ = ["History", "LoopConfig", "Objective", "train"]

log = logging.getLogger("b2m_fast")

Entry = dict[str, float]


class Objective(Protocol):
    """What a method supplies: what is trained, the loss of the next batch, how good it is."""

    @property
    def modules(self) -> nn.ModuleDict:
        """Everything that is trained: the student, and what a method adds to it."""

    def step(self, fabric: Fabric, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the next batch, which the objective draws from generators of its own.

        Parameters
        ----------
        fabric : Fabric
            Knows the device; tensors come to it by ``fabric.to_device``.
        progress : float
            Fraction of the training that is done, in [0, 1).

        Returns
        -------
        loss : Tensor
            Scalar with a gradient.
        parts : dict
            Name -> scalar without; their means since the last validation go into the history.
        """

    def validate(self, fabric: Fabric) -> Entry:
        """Numbers on held-out data; called in evaluation mode and without gradients."""

    def state(self) -> dict[str, Any]:
        """Generators and places in lists, as `write_checkpoint` takes them."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""


@dataclass(frozen=True)
class LoopConfig:
    """How an objective is trained; everything here can change the result.

    Attributes
    ----------
    steps : int
        Batches.
    validate_every : int
        Steps between validations; the last step is always validated.
    validate_first : bool
        Validate before the first step too: the history begins with step 0.
    optimizer : {"adam", "adamw", "sgd"}
        Optimiser.
    learning_rate, weight_decay : float
        Of the optimiser.
    momentum : float
        Of "sgd".
    schedule : {"constant", "cosine", "phases"}
        Learning rate over time: as it is; learning_rate (1 + cos(pi step / steps)) / 2; or
        learning_rate * decay^phase, in phases of equally many validations.
    phases, decay : int, float
        Of the schedule "phases".
    clip : float, optional
        Largest norm of the gradient, of each of the objective's modules apart: a head's large
        gradient leaves the student's as it is.
    keep_best : str, optional
        End with the weights of the validation at which this number was lowest.
    accelerator : str
        "cpu", "cuda", or "auto".
    precision : {"32-true", "bf16-mixed"}
        Everything in float32, or matrix products and convolutions in bfloat16.
    """

    steps: int = 1000
    validate_every: int = 50
    validate_first: bool = False
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: Literal["constant", "cosine", "phases"] = "constant"
    phases: int = 1
    decay: float = 0.3
    clip: float | None = None
    keep_best: str | None = None
    accelerator: Literal["cpu", "cuda", "auto"] = "cpu"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def __post_init__(self) -> None:
        for name in ("steps", "validate_every", "phases"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "decay", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        for name, known in (
            ("optimizer", ("adam", "adamw", "sgd")),
            ("schedule", ("constant", "cosine", "phases")),
            ("precision", ("32-true", "bf16-mixed")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")

    def rate(self, step: int) -> float:
        """Learning rate of a step.

        Parameters
        ----------
        step : int
            From 0.

        Returns
        -------
        float
            Learning rate.
        """
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * step / self.steps)) / 2
        if self.schedule == "phases":
            validations = math.ceil(self.steps / self.validate_every)
            return self.learning_rate * self.decay ** (
                step // self.validate_every * self.phases // validations
            )
        return self.learning_rate


@dataclass
class History:
    """What happened.

    Attributes
    ----------
    entries : list of dict
        Per validation ``step`` (steps done), the mean of each part of the loss since the last one,
        and what the objective's `validate` returned.
    best_step : int, optional
        Step of the weights that were kept, with `LoopConfig.keep_best`.
    """

    entries: list[Entry] = field(default_factory=list)
    best_step: int | None = None


def train(
    objective: Objective,
    config: LoopConfig,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 1,
    identity: str = "",
    tick: Callable[[Entry], object] = lambda _: None,
    loggers: Sequence[Logger] = (),
) -> History:
    """Train an objective, or go on with a training that was interrupted.

    Parameters
    ----------
    objective : Objective
        What is trained, in place; ends in evaluation mode.
    config : LoopConfig
        How.
    checkpoint : Path, optional
        File from which an interrupted run goes on and to which this one writes. One that is
        damaged is put aside as ``<name>.unreadable``; one of another run is overwritten; both with
        a warning.
    checkpoint_every : int, default 1
        Validations between checkpoints; the last is always written.
    identity : str
        What tells this run from others besides `config` and the shapes of the parameters.
    tick : callable, optional
        Called with each entry of the history, those of a resumed run first.
    loggers : sequence of Logger
        Fabric's; they get each new entry.

    Returns
    -------
    History
        Entries and the best step.

    Raises
    ------
    FloatingPointError
        If the loss or the gradient is not finite, or the number to keep the best of never is.
    ImportError
        If Lightning Fabric is not installed.
    """
    if checkpoint_every < 1:
        raise ValueError(f"checkpoint_every must be at least 1, got {checkpoint_every}")
    run = _Run(objective, config, identity, loggers)
    if checkpoint is not None:
        run.resume(checkpoint)
    for entry in run.history.entries:
        tick(entry)
    if config.validate_first and not run.history.entries:
        tick(run.validate())
    while run.step < config.steps:
        run.advance()
        last = run.step == config.steps
        if run.step % config.validate_every and not last:
            continue
        entry = run.validate()
        if checkpoint is not None and (last or len(run.history.entries) % checkpoint_every == 0):
            write_checkpoint(checkpoint, run.state())
        tick(entry)
    return run.finish()


def _fabric(config: LoopConfig, loggers: Sequence[Logger]) -> Fabric:
    try:
        from lightning_fabric import Fabric  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "training needs Lightning Fabric: pip install 'b2m-fast[transfer]'"
        ) from error
    if config.accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("accelerator is 'cuda', but PyTorch finds no CUDA device")
    return Fabric(
        accelerator=config.accelerator,
        devices=1,
        precision=config.precision,
        loggers=list(loggers),
    )


def _optimizer(parameters: Sequence[nn.Parameter], config: LoopConfig) -> torch.optim.Optimizer:
    common: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, **common)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, **common)


class _Step(nn.Module):
    """A step as the forward pass of a module, which is what Fabric puts its precision around."""

    def __init__(self, objective: Objective, fabric: Fabric) -> None:
        super().__init__()
        self.trained = objective.modules
        self._objective, self._fabric = objective, fabric

    def forward(self, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        return self._objective.step(self._fabric, progress)


class _Run:
    """A training under way."""

    def __init__(
        self, objective: Objective, config: LoopConfig, identity: str, loggers: Sequence[Logger]
    ) -> None:
        self.objective, self.config = objective, config
        self.modules = objective.modules
        self.parameters = list(self.modules.parameters())
        shapes = {name: list(p.shape) for name, p in self.modules.named_parameters()}
        self.identity = digest([asdict(config), identity, shapes])
        self.fabric = _fabric(config, loggers)
        self.optimizer = _optimizer(self.parameters, config)
        self.forward, self.fabric_optimizer = self.fabric.setup(
            _Step(objective, self.fabric), self.optimizer
        )
        self.step = 0
        self.parts: dict[str, list[Tensor]] = {}
        self.history = History()
        self.best = math.inf
        self.best_weights: dict[str, Tensor] = {}
        self.modules.train()

    def advance(self) -> None:
        """One step of the optimiser."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.step)
        loss, parts = self.forward(self.step / self.config.steps)
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        finite = torch.isfinite(loss.detach())
        if self.config.clip is not None:
            for part in self.modules.values():
                # not Fabric's: it clips all that the optimiser has together
                norm = nn.utils.clip_grad_norm_(list(part.parameters()), self.config.clip)
                finite &= torch.isfinite(norm).to(finite.device)
        self.step += 1
        if not finite:
            values = ", ".join(f"{name} {float(x):.3g}" for name, x in parts.items())
            raise FloatingPointError(
                f"the loss or its gradient was not finite at step {self.step} ({values}): training "
                "diverged; try a smaller learning rate or weight"
            )
        self.fabric_optimizer.step()
        for name, value in parts.items():
            self.parts.setdefault(name, []).append(value.detach())

    def validate(self) -> Entry:
        """Close an entry of the history; keep the weights if they are the best."""
        entry: Entry = {"step": self.step}
        entry |= {name: float(torch.stack(values).mean()) for name, values in self.parts.items()}
        self.parts.clear()
        self.modules.eval()
        with torch.no_grad(), self.fabric.autocast():
            entry |= self.objective.validate(self.fabric)
        self.modules.train()
        self.history.entries.append(entry)
        self.fabric.log_dict(entry, self.step)
        if self.config.keep_best is not None:
            if self.config.keep_best not in entry:
                raise ValueError(
                    f"keep_best is {self.config.keep_best!r}; this objective has {sorted(entry)}"
                )
            if entry[self.config.keep_best] < self.best:
                self.best, self.history.best_step = entry[self.config.keep_best], self.step
                self.best_weights = {k: v.clone() for k, v in self.modules.state_dict().items()}
        return entry

    def state(self) -> dict[str, Any]:
        """Everything the rest of the run depends on."""
        return {
            "identity": self.identity,
            "step": self.step,
            "history": self.history.entries,
            "best": [self.history.best_step, self.best],
            "best_weights": self.best_weights,
            "weights": dict(self.modules.state_dict()),
            "moments": [dict(self.optimizer.state.get(p, {})) for p in self.parameters],
            "objective": self.objective.state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.fabric.device) if self._on_cuda else None,
        }

    @property
    def _on_cuda(self) -> bool:
        return self.fabric.device.type == "cuda"

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint, if there is one of this run."""
        try:
            state = read_checkpoint(path)
        except FileNotFoundError:
            return
        except CheckpointError as error:
            log.warning("%s: put aside, the run starts from the beginning", error)
            path.replace(path.with_name(path.name + ".unreadable"))
            return
        if state["identity"] != self.identity:
            log.warning("%s is of another run: this one starts from the beginning", path)
            return
        self.step = state["step"]
        self.history = History(state["history"], state["best"][0])
        self.best, self.best_weights = state["best"][1], state["best_weights"]
        self.modules.load_state_dict(state["weights"])
        for parameter, moments in zip(self.parameters, state["moments"], strict=True):
            if moments:
                self.optimizer.state[parameter] = {
                    name: value if name == "step" else _like(parameter, value)
                    for name, value in moments.items()
                }
        self.objective.load_state(state["objective"])
        torch.set_rng_state(state["torch"])
        if self._on_cuda:
            torch.cuda.set_rng_state(state["cuda"], self.fabric.device)

    def finish(self) -> History:
        """Best weights, evaluation mode."""
        self.modules.eval()
        if self.config.keep_best is not None:
            if self.history.best_step is None:
                raise FloatingPointError(
                    f"{self.config.keep_best} was never a number: training diverged; try a smaller "
                    "learning rate or weight"
                )
            self.modules.load_state_dict(self.best_weights)
        return self.history


def _like(parameter: nn.Parameter, moment: Tensor) -> Tensor:
    """A moment laid out in memory as it was: as its parameter (strides decide how sums round)."""
    return torch.empty_like(parameter, requires_grad=False).copy_(moment)
