"""The one training loop: device, precision, clipping, best weights, checkpoints, resume.

A method says what its loss is (an `Objective`); everything else that a training needs is here, on
Lightning Fabric. A training uses one device: the students are small, and many runs (arms, seeds) go
side by side.

A run that was killed goes on from its last checkpoint, and on the CPU it ends with the same bits as
a run that was never interrupted: parameters, the optimiser's moments, every generator, the place in
every shuffled order, best weights and history are all in the checkpoint.
"""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from b2m_fast.data.files import digest, optional
from b2m_fast.methods.checkpoints import CheckpointError, read_checkpoint, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from lightning_fabric import Fabric
    from numpy.typing import NDArray

    from b2m_fast.methods.config import TrainConfig

log = logging.getLogger("b2m_fast")

Entry = dict[str, float]


# --------------------------------------------------------------------------------------------------
# Randomness that can be stored
# --------------------------------------------------------------------------------------------------
class Stream:
    """Numbers of a seed's independent streams: drawing from one leaves the others as they are."""

    TASK = 0
    TEACHER = 1
    VALIDATION = 2
    HEADS = 3
    STUDENT = 4


class RandomStreams:
    """A NumPy generator (orders, draws) and a PyTorch one (noise) of one stream of a seed.

    Parameters
    ----------
    seed : int
        Seed of the run.
    stream : int
        One of `Stream`, or a number that nothing else uses.

    Examples
    --------
    >>> RandomStreams(seed=0, stream=Stream.TASK).numpy.permutation(3)
    array([2, 1, 0])
    """

    def __init__(self, seed: int, stream: int) -> None:
        self.numpy = np.random.default_rng([seed, stream])
        self.torch = torch.Generator().manual_seed(_torch_seed(seed, stream))

    def state(self) -> dict[str, Any]:
        """Return the states of both generators."""
        return {"numpy": self.numpy.bit_generator.state, "torch": self.torch.get_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.numpy.bit_generator.state = state["numpy"]
        self.torch.set_state(state["torch"])


@contextmanager
def seeded(seed: int, stream: int = Stream.STUDENT) -> Iterator[None]:
    """Start modules built inside from a stream; PyTorch's own generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_torch_seed(seed, stream))
        yield


def _torch_seed(seed: int, stream: int) -> int:
    return int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0] >> 1)


class ShuffledIndices:
    """Endless batches of indices: all of them in a random order, then in another, and so on.

    Parameters
    ----------
    count : int
        Indices are 0 to count - 1.
    batch : int
        Indices of a batch.
    rng : numpy.random.Generator
        Its state is stored by whoever else draws from it.
    drop_last : bool
        Leave out the last, incomplete batch of an order.
    """

    def __init__(
        self, count: int, batch: int, rng: np.random.Generator, *, drop_last: bool = False
    ) -> None:
        self.count, self.batch, self.rng, self.drop_last = count, batch, rng, drop_last
        self.left: NDArray[np.int64] = np.empty(0, np.int64)

    def __next__(self) -> NDArray[np.int64]:
        """Return the indices of the next batch, (batch,) or fewer."""
        if len(self.left) < (self.batch if self.drop_last else 1):
            self.left = self.rng.permutation(self.count)
        chosen, self.left = self.left[: self.batch], self.left[self.batch :]
        return chosen

    def state(self) -> dict[str, Any]:
        """Return what is left of the present order."""
        return {"left": torch.from_numpy(self.left.copy())}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.left = state["left"].numpy()


class Resumable:
    """Stores and restores the parts that `resumed` names; one may be a list of parts, or None."""

    resumed: ClassVar[tuple[str, ...]]

    def state(self) -> dict[str, Any]:
        """Return the state of each part, as `write_checkpoint` takes it."""
        return {name: [part.state() for part in self._parts(name)] for name in self.resumed}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        for name, stored in state.items():
            for part, its in zip(self._parts(name), stored, strict=True):
                part.load_state(its)

    def _parts(self, name: str) -> list[Any]:
        found = getattr(self, name)
        return found if isinstance(found, list) else [] if found is None else [found]


# --------------------------------------------------------------------------------------------------
# The loop
# --------------------------------------------------------------------------------------------------
class Objective(Protocol):
    """What a method supplies to the loop: modules, the loss of the next batch, a validation."""

    @property
    def modules(self) -> nn.ModuleDict:
        """Everything that is trained: the student, and what a method adds to it."""

    def step(self, fabric: Fabric, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the next batch, and its parts without gradient by name.

        The objective draws the batch from generators of its own and brings it to the device by
        ``fabric.to_device``; progress, in [0, 1), is the fraction of the training that is done. The
        mean of each part since the last validation enters the history.
        """

    def validate(self, fabric: Fabric) -> Entry:
        """Return numbers on held-out data; called in evaluation mode and without gradients."""

    def state(self) -> dict[str, Any]:
        """Return the states of generators and orders, as `write_checkpoint` takes them."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""


@dataclass
class History:
    """Numbers of a training.

    Parameters
    ----------
    entries : list of dict
        Per validation ``step`` (steps done), the mean of each part of the loss since the last one,
        and what the objective's `validate` returned.
    best_step : int, optional
        Step of the weights that were kept, with `TrainConfig.keep_best`.
    """

    entries: list[Entry] = field(default_factory=list)
    best_step: int | None = None


def train(
    objective: Objective,
    config: TrainConfig,
    *,
    checkpoint: Path | None = None,
    identity: str = "",
    on_validation: Callable[[Entry], object] = lambda _: None,
) -> History:
    """Train an objective, or go on with a training that was interrupted.

    Parameters
    ----------
    objective : Objective
        What is trained, in place; ends in evaluation mode.
    config : TrainConfig
        How it is trained.
    checkpoint : Path, optional
        File from which an interrupted run goes on and to which this one writes. One that is
        damaged is put aside as ``<name>.unreadable``; one of another run is overwritten; both with
        a warning.
    identity : str
        What tells this run from others besides `config` and the shapes of the parameters.
    on_validation : callable, optional
        Called with each entry of the history, those of a resumed run first.

    Returns
    -------
    History
        Entries and the best step.

    Raises
    ------
    FloatingPointError
        If the loss or the gradient is not finite, or the number to keep the best of never is.
    ValueError
        If there is no such device, or the objective has no number ``keep_best``.
    ImportError
        If Lightning Fabric is not installed.

    Examples
    --------
    >>> history = train(objective, TrainConfig(steps=1000, clip=1.0))
    >>> history.entries[-1]["validation_loss"]
    """
    run = _Run(objective, config, identity)
    if checkpoint is not None:
        run.resume(checkpoint)
    for entry in run.history.entries:
        on_validation(entry)
    if config.validate_first and not run.history.entries:
        on_validation(run.validate())
    while run.step < config.steps:
        run.advance()
        if run.step % config.validate_every == 0 or run.step == config.steps:
            entry = run.validate()
            if checkpoint is not None:
                write_checkpoint(checkpoint, run.state())
            on_validation(entry)
    return run.finish()


def _fabric(config: TrainConfig) -> Fabric:
    if config.accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("accelerator is 'cuda', but PyTorch finds no CUDA device")
    fabric: Fabric = optional("lightning_fabric", "training needs Lightning Fabric").Fabric(
        accelerator=config.accelerator, devices=config.devices, precision=config.precision
    )
    return fabric


def _optimizer(parameters: Sequence[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
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

    def __init__(self, objective: Objective, config: TrainConfig, identity: str) -> None:
        self.objective, self.config = objective, config
        self.modules = objective.modules
        self.parameters = list(self.modules.parameters())
        shapes = {name: list(p.shape) for name, p in self.modules.named_parameters()}
        self.identity = digest([asdict(config), identity, shapes])
        self.fabric = _fabric(config)
        self.optimizer = _optimizer(self.parameters, config)
        self.forward, self.fabric_optimizer = self.fabric.setup(
            _Step(objective, self.fabric), self.optimizer
        )
        self.on_cuda = self.fabric.device.type == "cuda"
        self.step = 0
        self.parts: dict[str, list[Tensor]] = {}
        self.history = History()
        self.best = math.inf
        self.best_weights: dict[str, Tensor] = {}
        self.modules.train()

    def advance(self) -> None:
        """Take one step of the optimiser."""
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
        """Add an entry to the history; keep the weights if they are the best."""
        entry: Entry = {"step": self.step}
        entry |= {name: float(torch.stack(values).mean()) for name, values in self.parts.items()}
        self.parts.clear()
        self.modules.eval()
        with torch.no_grad(), self.fabric.autocast():
            entry |= self.objective.validate(self.fabric)
        self.modules.train()
        self.history.entries.append(entry)
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
        """Return everything that the rest of the run depends on."""
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
            "cuda": torch.cuda.get_rng_state(self.fabric.device) if self.on_cuda else None,
        }

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
        if self.on_cuda:
            torch.cuda.set_rng_state(state["cuda"], self.fabric.device)

    def finish(self) -> History:
        """Return the history, with the best weights loaded and the modules in evaluation mode."""
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
    """Return a moment laid out in memory as its parameter: strides decide how sums round."""
    return torch.empty_like(parameter, requires_grad=False).copy_(moment)
