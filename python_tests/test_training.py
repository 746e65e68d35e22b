"""The training loop: what it adds to an objective, that it survives being killed, and its random streams."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from b2m_fast.methods.checkpoints import CheckpointError, read_checkpoint, write_checkpoint
from b2m_fast.methods.config import TrainConfig
from b2m_fast.methods.training import RandomStreams, ShuffledIndices, seeded, train
from small_training import CONFIG, Circle, assert_same, end_of

pytest.importorskip("lightning_fabric", reason="the loop needs Lightning Fabric")
pytest.importorskip("safetensors", reason="checkpoints need safetensors")


class Interrupted(Exception):
    """Stands in for whatever ends a run."""


def stop_after(count: int) -> Any:
    """A tick that ends the run at the given entry."""
    seen = []

    def tick(entry: dict[str, float]) -> None:
        seen.append(entry)
        if len(seen) == count:
            raise Interrupted

    return tick


def interrupted(folder: Path, count: int, config: TrainConfig = CONFIG) -> Path:
    """The checkpoint of a run that ended after `count` validations."""
    path = folder / "checkpoint"
    with pytest.raises(Interrupted):
        train(
            Circle(),
            config,
            checkpoint=path,
            on_validation=stop_after(count),
        )
    return path


# --------------------------------------------------------------------------------------------------
# Resume
# --------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Half, SIGKILL, a new process, the other half: weights, history and best step are those of a
    run that nobody disturbed."""
    script = Path(__file__).with_name("small_training.py")
    package = Path(sys.modules["b2m_fast"].__file__ or "").parents[1]
    environment = os.environ | {"PYTHONPATH": str(package)}
    command = [sys.executable, str(script), str(tmp_path)]
    killed = subprocess.run([*command, "5"], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "end").exists()
    assert read_checkpoint(tmp_path / "checkpoint")["step"] == 20
    subprocess.run([*command, "0"], env=environment, check=True)
    circle = Circle()
    straight = end_of(circle, train(circle, CONFIG))
    assert_same(read_checkpoint(tmp_path / "end"), straight)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_resumes(tmp_path: Path, optimizer: Any) -> None:
    """The moments of each optimiser are in the checkpoint."""
    config = replace(CONFIG, optimizer=optimizer, weight_decay=0.01)
    path = interrupted(tmp_path, 5, config)
    assert read_checkpoint(path)["step"] == 20
    again = Circle()
    end = end_of(again, train(again, config, checkpoint=path))
    straight = Circle()
    assert_same(end, end_of(straight, train(straight, config)))


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    """With the checkpoint of its end a run takes no step, ticks its entries, and ends the same."""
    path = tmp_path / "checkpoint"
    first = Circle()
    end = end_of(first, train(first, CONFIG, checkpoint=path))
    second = Circle()
    ticks: list[dict[str, float]] = []
    history = train(second, CONFIG, checkpoint=path, on_validation=ticks.append)
    assert second.calls == 0
    assert ticks == history.entries
    assert_same(end_of(second, history), end)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_checkpoint_is_put_aside(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A file cut off, changed in one bit, or no checkpoint at all is a clear error to the reader;
    the loop keeps it under another name, says so, and starts from the beginning."""
    path = interrupted(tmp_path, 5)
    whole = path.read_bytes()
    middle = len(whole) - 40  # in a tensor
    contents = {
        "cut": whole[:-100],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "empty": b"",
        "text": b"not a checkpoint at all, not in the least",
    }
    path.write_bytes(contents[damage])
    with pytest.raises(CheckpointError, match=str(path)):
        read_checkpoint(path)
    circle = Circle()
    with caplog.at_level(logging.WARNING):
        end = end_of(circle, train(circle, CONFIG, checkpoint=path))
    assert "put aside" in caplog.text
    assert path.with_name("checkpoint.unreadable").read_bytes() == contents[damage]
    straight = Circle()
    assert_same(end, end_of(straight, train(straight, CONFIG)))


def test_a_checkpoint_of_another_run_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Other settings or another identity: the run starts from the beginning, with a warning."""
    path = interrupted(tmp_path, 5)
    for config, identity in ((replace(CONFIG, learning_rate=0.1), ""), (CONFIG, "other")):
        caplog.clear()
        circle = Circle()
        with caplog.at_level(logging.WARNING), pytest.raises(Interrupted):
            train(circle, config, checkpoint=path, identity=identity, on_validation=stop_after(1))
        assert circle.calls == 4
        assert "another run" in caplog.text


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    """Tensors of every kind, large integers, NaN and nesting survive; what cannot be told in
    tensors and JSON is refused, and the older file stays."""
    state = {
        "tensors": [torch.arange(6).view(2, 3).t(), torch.tensor(1.5, dtype=torch.bfloat16)],
        "empty": [torch.empty(0, 3), torch.from_numpy(np.empty(0, np.int64))],
        "big": 2**127 + 1,
        "nested": {"nan": math.nan, "none": None, "list": [1, "a", True, {}]},
        "shared": [torch.ones(2)] * 2,
    }
    path = tmp_path / "state"
    write_checkpoint(path, state)
    assert_same(read_checkpoint(path), state)
    with pytest.raises(TypeError, match="cannot hold a object"):
        write_checkpoint(path, {"object": object()})
    assert_same(read_checkpoint(path), state)
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_random_streams_come_back_and_differ() -> None:
    """Stored streams go on from where it was; streams and seeds are independent."""
    streams = RandomStreams(3, 1)
    streams.numpy.random(5)
    torch.randn(3, generator=streams.torch)
    other = RandomStreams(0, 0)
    other.load_state(streams.state())
    assert other.numpy.random() == streams.numpy.random()
    assert torch.equal(
        torch.randn(9, generator=other.torch), torch.randn(9, generator=streams.torch)
    )
    first = {RandomStreams(seed, stream).numpy.random() for seed in (0, 1) for stream in (0, 1)}
    assert len(first) == 4
    draws = []
    for _ in range(2):
        with seeded(4):
            draws.append(torch.rand(3))
    assert torch.equal(*draws)


def test_shuffled_indices() -> None:
    """Every index comes once an order; a last, incomplete batch is short or left out; a stored order
    goes on where it was, without touching the order of the one it was stored from."""
    rng = np.random.default_rng(0)
    whole, dropped = (ShuffledIndices(10, 4, rng, drop_last=drop) for drop in (False, True))
    assert [len(next(whole)) for _ in range(6)] == [4, 4, 2] * 2
    assert [len(next(dropped)) for _ in range(4)] == [4] * 4
    first = next(whole)
    state = whole.state()
    rest = [next(whole), next(whole)]
    assert sorted(np.concatenate([first, *rest])) == list(range(10))
    again = ShuffledIndices(10, 4, rng)
    again.load_state(state)
    for chosen in rest:
        np.testing.assert_array_equal(next(again), chosen)


# --------------------------------------------------------------------------------------------------
# What the loop adds
# --------------------------------------------------------------------------------------------------
def test_history_and_best_weights() -> None:
    """One entry per validation with the mean of the parts since the last; the last step is always
    validated; the weights of the lowest number are kept."""
    circle = Circle()
    config = replace(CONFIG, steps=10, learning_rate=0.5, schedule="constant")
    history = train(circle, config)
    assert [entry["step"] for entry in history.entries] == [4, 8, 10]
    assert [entry["progress"] for entry in history.entries] == pytest.approx([0.15, 0.55, 0.85])
    losses = [entry["validation_loss"] for entry in history.entries]
    assert history.best_step == history.entries[losses.index(min(losses))]["step"]
    assert not circle.modules.training
    with torch.no_grad():
        assert circle.validate(None)["validation_loss"] == min(losses)


def test_a_history_can_begin_before_training() -> None:
    """`validate_first` puts the untrained student at step 0, once, without parts of a loss, and
    changes nothing else."""
    first, second = (train(Circle(), replace(CONFIG, validate_first=v)) for v in (True, False))
    assert set(first.entries[0]) == {"step", "validation_loss"}
    assert first.entries[0]["step"] == 0
    assert first.entries[1:] == second.entries


def test_learning_rates() -> None:
    """Constant, half a cosine to 0, and phases that change between validations only."""
    rates = {
        kind: [TrainConfig(steps=6, validate_every=2, learning_rate=1.0, schedule=kind, phases=2).rate(s) for s in range(6)]
        for kind in ("constant", "cosine", "phases")
    }  # fmt: skip
    assert rates["constant"] == [1] * 6
    assert rates["cosine"] == pytest.approx([(1 + math.cos(math.pi * s / 6)) / 2 for s in range(6)])
    assert rates["phases"] == [1, 1, 1, 1, 0.3, 0.3]


@pytest.mark.parametrize("clip", [0.01, None])
def test_clipping_bounds_the_whole_gradient(clip: float | None) -> None:
    """With SGD at rate 1 the step is the gradient: no longer than `clip`, along the same line."""
    circle = Circle()
    circle.modules.eval()
    before = [p.detach().clone() for p in circle.modules.parameters()]
    config = TrainConfig(1, 1, optimizer="sgd", learning_rate=1.0, momentum=0.0, clip=clip)
    train(circle, config)
    after = list(circle.modules.parameters())
    change = torch.cat([(a - b).detach().flatten() for a, b in zip(after, before, strict=True)])
    assert (float(change.norm()) <= 0.01 * 1.001) == (clip is not None)
    assert float(change.norm()) > 0.009


def test_parts_are_clipped_apart() -> None:
    """A large gradient of one module leaves another's step as long as it was."""
    lengths = []
    for factor in (1.0, 1e4):
        circle = Circle()
        circle.modules["head"] = head = torch.nn.Linear(2, 1)
        step = circle.step

        def both(
            fabric: Any, progress: float, step: Any = step, head: Any = head, factor: float = factor
        ) -> Any:
            loss, parts = step(fabric, progress)
            return loss + factor * head(torch.ones(1, 2)).sum(), parts

        circle.step = both  # type: ignore[method-assign]
        before = [p.detach().clone() for p in circle.modules["student"].parameters()]
        circle.modules.eval()
        config = TrainConfig(1, 1, optimizer="sgd", learning_rate=1.0, momentum=0.0, clip=0.01)
        train(circle, config)
        after = circle.modules["student"].parameters()
        change = [(a - b).detach().flatten() for a, b in zip(after, before, strict=True)]
        lengths.append(float(torch.cat(change).norm()))
    assert lengths[0] == pytest.approx(lengths[1])


def test_precision_reaches_the_step() -> None:
    """bf16-mixed runs steps under autocast and leaves the parameters float32."""
    for precision, expected in (("32-true", False), ("bf16-mixed", True)):
        circle = Circle()
        config = replace(CONFIG, steps=4, precision=precision)  # type: ignore[arg-type]
        history = train(circle, config)
        assert circle.autocast == [expected] * 4
        assert math.isfinite(history.entries[0]["loss"])
        assert all(p.dtype == torch.float32 for p in circle.modules.parameters())


def test_divergence_is_an_error(tmp_path: Path) -> None:
    """A loss that is no number ends the run at once, naming the step and the parts of the loss;
    the checkpoint is still that of a healthy state."""
    path = tmp_path / "checkpoint"
    with pytest.raises(FloatingPointError, match=r"not finite at step 7 \(loss nan, progress 0.15"):
        train(Circle(poison=7), CONFIG, checkpoint=path)
    state = read_checkpoint(path)
    assert state["step"] == 4
    assert all(torch.isfinite(x).all() for x in state["weights"].values())


def test_an_infinite_gradient_is_an_error() -> None:
    """A finite loss with an infinite gradient does not reach the parameters."""

    class Cliff(Circle):
        def step(self, fabric: Any, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
            weight = next(self.modules.parameters())
            return (weight - weight.detach()).abs().sqrt().sum(), {}

    cliff = Cliff()
    with pytest.raises(FloatingPointError, match="gradient"):
        train(cliff, CONFIG)
    assert all(torch.isfinite(p).all() for p in cliff.modules.parameters())


def test_the_best_of_no_number_is_an_error() -> None:
    """If the number to keep the best of is never one, or is not there, the run says so."""

    class Blind(Circle):
        def validate(self, fabric: Any) -> dict[str, float]:
            return {"validation_loss": math.nan}

    with pytest.raises(FloatingPointError, match="never a number"):
        train(Blind(), CONFIG)
    with pytest.raises(ValueError, match=r"'r2'.*'validation_loss'"):
        train(Circle(), replace(CONFIG, keep_best="r2"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"validate_every": 0},
        {"phases": 0},
        {"learning_rate": -1.0},
        {"clip": math.inf},
        {"optimizer": "adagrad"},
        {"schedule": "sometimes"},
        {"precision": "16-mixed"},
        {"accelerator": "tpu"},
        {"devices": 2},
        {"weight_decay": -0.1},
        {"momentum": 1.0},
    ],
)
def test_wrong_settings_name_themselves(wrong: dict[str, Any]) -> None:
    """A setting that makes no sense, or is not supported, is refused with its name and value."""
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"{name} must be .*{value}"):
        TrainConfig(**wrong)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is trained, with the name of the setting."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    circle = Circle()
    with pytest.raises(ValueError, match="accelerator is 'cuda', but PyTorch finds no CUDA device"):
        train(circle, replace(CONFIG, accelerator="cuda"))
    assert circle.calls == 0


def test_without_fabric_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Missing packages give an error that says what to install."""
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(ImportError, match=r"b2m-fast\[experiments\]"):
        train(Circle(), CONFIG)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"b2m-fast\[experiments\]"):
        write_checkpoint(tmp_path / "state", {})


@pytest.mark.slow
def test_the_loop_is_imported_without_its_packages() -> None:
    """Importing the methods does not import Lightning Fabric, an extra that is slow to load; their
    settings, which `--help` shows, are read without PyTorch."""
    code = (
        "import sys, b2m_fast.methods.config; assert 'torch' not in sys.modules; "
        "import b2m_fast.methods.regularization, b2m_fast.methods.brain2model; "
        "sys.exit(any(n in sys.modules for n in ('lightning_fabric', 'safetensors')))"
    )
    package = Path(sys.modules["b2m_fast"].__file__ or "").parents[1]
    subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(package)}, check=True
    )
