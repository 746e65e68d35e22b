"""Training on a GPU without one: every tensor of a step and of a validation is made on, or moved to, the device that was asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._pytree import tree_map_only

from b2m_fast.data.tasks import EpochTask
from b2m_fast.methods.alignment import ConditionAlignment
from b2m_fast.methods.config import Brain2ModelConfig, Regularization, TrainConfig
from b2m_fast.methods.regularization import RegularizationObjective
from b2m_fast.methods.training import train
from device_mode import PACKAGE, pretend_cuda
from small_tasks import condition_teacher, objective, trial_task
from test_regularization import random_target, sign, tiny_student, tiny_task

pytest.importorskip("lightning_fabric", reason="the loop needs Lightning Fabric")


def regularized(apply: Any = None, **options: Any) -> RegularizationObjective:
    config = Regularization(batch=8, neural_batch=8, **options)
    return RegularizationObjective(
        tiny_student(), tiny_task(), [random_target(apply=apply)], config, seed=0
    )


METHODS: dict[str, Callable[[], Any]] = {
    "regularization, all pairs": regularized,
    "regularization, random pairs": lambda: regularized(pairs="random", center="batch"),
    "regularization, a function of the similarity": lambda: regularized(apply=sign, center="none"),
    "latent, learned readout": lambda: objective("rnn latent", scramble=True),
    "latent, ridge readout": lambda: objective("rnn latent", readout="ridge", average=True),
    "latent, frames": lambda: objective("vae latent"),
    "contrastive, trials": lambda: objective("rnn contrastive", average=False),
    "contrastive, learned temperature": lambda: objective(
        "rnn contrastive", learn_temperature=True
    ),
    "contrastive, frames": lambda: objective("vae contrastive"),
}
every_method = pytest.mark.parametrize("name", METHODS)


# --------------------------------------------------------------------------------------------------
# Fake tensors
# --------------------------------------------------------------------------------------------------
class Backend:
    """What PyTorch asks of a device's module for autocast."""

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16]


def fake_device() -> str:
    """Return the name of a device that tensors can pretend to lie on; a PyTorch without CUDA knows no "cuda", so it is given a device
    of another name, for the whole process."""
    if torch.version.cuda is not None:
        return "cuda"
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    from b2m_fast.ops import _checks

    _setup_privateuseone_for_python_backend("gpu", backend_module=Backend())
    torch._C._set_only_lift_cpu_tensors(True)
    _checks.DEVICE_TYPES += ("gpu",)  # type: ignore[assignment]
    return "gpu"


def fake_step(name: str, device: str) -> None:
    """Take a whole step of a method on fake tensors: forward, backward and the optimiser's."""

    class Fabric:
        def to_device(self, x: Any) -> Any:
            return tree_map_only(torch.Tensor, lambda t: t.to(device), x)

    made = METHODS[name]()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in made.modules.modules():
            for key, parameter in list(module.named_parameters(recurse=False)):
                fake = mode.from_tensor(parameter.detach()).to(device)
                setattr(module, key, nn.Parameter(fake, parameter.requires_grad))
            for key, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, key, mode.from_tensor(buffer).to(device))
        loss, parts = made.step(Fabric(), 0.5)
        loss.backward()
        parameters = list(made.modules.parameters())
        torch.optim.SGD(parameters, lr=0.1).step()
    found = [
        loss,
        *parts.values(),
        *parameters,
        *(p.grad for p in parameters if p.grad is not None),
    ]
    assert loss.shape == ()
    assert all(p.grad is not None for p in made.modules["student"].parameters() if p.ndim > 1)
    assert {x.device.type for x in found} == {device}


@pytest.mark.slow
def test_a_step_on_fake_tensors_of_a_gpu() -> None:
    """Shapes and devices of a whole step of every method, as PyTorch has them on a GPU; in a process of its own."""
    package = str(Path(PACKAGE).parent)
    environment = os.environ | {"PYTHONPATH": package}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == list(METHODS)


# --------------------------------------------------------------------------------------------------
# "cuda" is the CPU
# --------------------------------------------------------------------------------------------------
@every_method
def test_training_follows_the_accelerator(name: str, tmp_path: Path) -> None:
    """Training and validation where "cuda" is the CPU: all of it lies on the device, a checkpoint resumes there, and the numbers
    are those of the CPU."""
    config: dict[str, Any] = {"validate_every": 2, "clip": 1.0, "keep_best": "validation_loss"}
    histories = []
    path = tmp_path / "checkpoint"
    for steps in (2, 4):
        made = METHODS[name]()
        with pretend_cuda() as mode:
            settings = TrainConfig(steps=4, accelerator="cuda", **config)
            on_validation = (lambda _: 1 / 0) if steps == 2 else (lambda _: None)
            try:
                histories = train(
                    made, settings, checkpoint=path, on_validation=on_validation
                ).entries
            except ZeroDivisionError:
                path.with_name("kept").write_bytes(path.read_bytes())
            assert all(p.device.type == "cuda" for p in made.modules.parameters())
        assert mode.asked > 0
    plain = train(METHODS[name](), TrainConfig(steps=4, **config)).entries
    assert histories == plain


# --------------------------------------------------------------------------------------------------
# The mode itself
# --------------------------------------------------------------------------------------------------
def test_the_mode_finds_planted_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that stays on the CPU, a tensor made without a device, and numbers read past the device are found."""
    taught = objective("rnn contrastive")

    def forgets(self: Any, fabric: Any, activity: Any, *, held_out: bool = False) -> Any:
        class Forgetful:
            def to_device(self, x: Any) -> Any:
                return x

        return rows(self, Forgetful(), activity, held_out=held_out)  # type: ignore[arg-type]

    rows = ConditionAlignment.rows
    monkeypatch.setattr(ConditionAlignment, "rows", forgets)
    config = TrainConfig(steps=1, accelerator="cuda")
    with pretend_cuda(), pytest.raises(AssertionError, match=r"are on cuda, .* on the CPU"):
        train(taught, config)
    monkeypatch.undo()

    planted = compile("import torch; x = torch.zeros(3)", f"{PACKAGE}/planted.py", "exec")
    with pretend_cuda():
        torch.zeros(3)  # not this package's
        with pytest.raises(AssertionError, match=r"planted.py, line 1: torch.zeros is not told"):
            exec(planted)
        x = torch.ones(3, device="cuda")
        with pytest.raises(TypeError, match="can't convert"):
            x.numpy()
        with pytest.raises(AssertionError, match="on the CPU"):
            x + torch.ones(3)
        assert (x + x.to("cpu").to(x)).device == x.device
        assert (2 * x).cpu().device.type == "cpu"
        assert (x * torch.tensor(2.0)).sum().item() == 6


def test_a_device_outside_the_mode() -> None:
    """An alignment is made on the CPU wherever training goes."""
    made = ConditionAlignment(condition_teacher(), trial_task(), Brain2ModelConfig(), 0)
    assert made.responses.device.type == "cpu"


def outside(function: Any) -> Any:
    """Return a function of NumPy's numbers on the CPU that runs outside the mode."""

    def run(*arguments: Any, **options: Any) -> Any:
        with unset_fake_temporarily():
            return function(*arguments, **options)

    return run


if __name__ == "__main__":
    where = fake_device()
    EpochTask.draw = outside(EpochTask.draw)  # type: ignore[method-assign]
    torch.Tensor.numpy = outside(torch.Tensor.numpy)  # type: ignore[method-assign]
    for method in METHODS:
        fake_step(method, where)
        print(method)
