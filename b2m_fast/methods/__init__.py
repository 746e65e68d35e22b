"""Three ways of teaching a network from a brain, and the loop that trains it.

    config          settings, without torch     `TrainConfig`, `Regularization`, `Brain2ModelConfig`
    training        the loop                    `train`, `Objective`
    regularization  as similar as in a brain    `train_regularized`
    alignment       students beside brains      `TrialTask`, `FrameTask`
    brain2model     activity as in a brain      `brain2model_objective`
    mediated        labels from predicted responses  `BrainMediatedRegressor`, `BrainMediatedClassifier`

Names are loaded when they are first used, torch with them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "alignment": ("FrameTask", "TrialTask"),
    "brain2model": ("ContrastiveLoss", "LatentLoss", "brain2model_objective"),
    "config": ("Brain2ModelConfig", "BrainWeight", "Regularization", "TrainConfig"),
    "mediated": ("BrainEncoder", "BrainMediatedClassifier", "BrainMediatedRegressor", "fit_brains"),
    "regularization": ("RegularizationObjective", "Regularized", "train_regularized"),
    "training": ("History", "Objective", "RandomStreams", "seeded", "train"),
}
__all__ = sorted(name for names in _MODULES.values() for name in names)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
