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

from b2m_fast._lazy import lazy

__all__, __getattr__ = lazy(
    __name__,
    {
        "alignment": ("FrameTask", "TrialTask"),
        "brain2model": ("ContrastiveLoss", "LatentLoss", "brain2model_objective"),
        "config": ("Brain2ModelConfig", "BrainWeight", "Regularization", "TrainConfig"),
        "mediated": (
            "BrainEncoder",
            "BrainMediatedClassifier",
            "BrainMediatedRegressor",
            "fit_brains",
        ),
        "regularization": ("RegularizationObjective", "Regularized", "train_regularized"),
        "training": ("History", "Objective", "RandomStreams", "seeded", "train"),
    },
)
