"""A training of a fraction of a second, and a process of its own in which it is killed or goes on.

``python small_training.py FOLDER N`` trains with a checkpoint in FOLDER, kills itself without a
farewell after N validations, or else writes its history and weights to FOLDER as well.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from b2m_fast.methods.checkpoints import write_checkpoint
from b2m_fast.methods.config import TrainConfig
from b2m_fast.methods.training import History, ShuffledIndices, train

CONFIG = TrainConfig(
    steps=40, validate_every=4, schedule="cosine", clip=0.5, keep_best="validation_loss"
)


class Circle:
    """Inside or outside a circle: a network with dropout, so that PyTorch's own chance counts."""

    def __init__(self, poison: int | None = None) -> None:
        self.rng = np.random.default_rng(1)
        points = np.random.default_rng(0).normal(size=(90, 2)).astype(np.float32)
        self.x = torch.from_numpy(points)
        self.y = (self.x.square().sum(1) > 1.4).long()
        self.order = ShuffledIndices(60, 16, self.rng)
        torch.manual_seed(0)
        student = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 2))
        self.modules = nn.ModuleDict({"student": student})
        self.poison, self.calls = poison, 0
        self.autocast: list[bool] = []

    def step(self, fabric: Any, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = torch.from_numpy(next(self.order))
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        loss = functional.cross_entropy(self.modules["student"](self.x[chosen]), self.y[chosen])
        self.calls += 1
        if self.calls == self.poison:
            loss = loss * float("nan")
        return loss, {"loss": loss.detach(), "progress": torch.tensor(progress)}

    def validate(self, fabric: Any) -> dict[str, float]:
        logits = self.modules["student"](self.x[60:])
        return {"validation_loss": float(functional.cross_entropy(logits, self.y[60:]))}

    def state(self) -> dict[str, Any]:
        return {"rng": self.rng.bit_generator.state, "order": self.order.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        self.order.load_state(state["order"])


def assert_same(a: Any, b: Any) -> None:
    """Equal: tensors in dtype, shape and every value, NaN included."""
    assert type(a) is type(b)
    if isinstance(a, Tensor):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b or (math.isnan(a) and math.isnan(b))


def end_of(objective: Any, history: History) -> dict[str, Any]:
    """All that came out of a training."""
    return {
        "weights": dict(objective.modules.state_dict()),
        "entries": history.entries,
        "best": history.best_step,
    }


def main(folder: Path, count: int) -> None:
    torch.set_num_threads(1)
    seen = 0

    def tick(_: dict[str, float]) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)

    circle = Circle()
    history = train(circle, CONFIG, checkpoint=folder / "checkpoint", on_validation=tick)
    write_checkpoint(folder / "end", end_of(circle, history))
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
