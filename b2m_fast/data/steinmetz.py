"""Mouse visual cortex while the stronger of two gratings is chosen (Steinmetz et al., Nature 2019)."""

from __future__ import annotations

import numpy as np

from b2m_fast.data import dataset
from b2m_fast.data.files import Root, Source, load_npz, require
from b2m_fast.data.recording import Brain, Recording, TaskMatch, TimeAxis
from b2m_fast.data.tasks import EpochTask, parametric_working_memory

SOURCE = Source(
    name="five sessions of mouse visual cortex of Steinmetz et al. (Nature 2019)",
    folder="steinmetz",
    files=("steinmetz5.npz",),
    origin=(
        "github.com/wtguo1997/VisualCortex-NeuralDecisionStudy (session1.rds to session5.rds); pack "
        "as steinmetz5.npz with s<i>_spikes (trials, neurons, 39), s<i>_contrast_left, "
        "s<i>_contrast_right, s<i>_feedback_type"
    ),
    licence="the repository has no licence; the original deposit's is its own; cite the paper",
)
CONDITIONS = ("left", "right", "equal", "none")


def _stronger_side(task: EpochTask) -> dict[str, str]:
    """Return the stronger side for each pair of stimuli: left stands for the first. Our choice."""
    return {c: CONDITIONS[a] for c, a in zip(task.conditions, task.answer, strict=True)}


TASK = TaskMatch(
    parametric_working_memory, epochs={"stimulus2": "stimulus"}, conditions=_stronger_side
)


@dataset(
    "steinmetz", "mouse visual cortex, two gratings", kind="trials", source=SOURCE, tasks=(TASK,)
)
def steinmetz(root: Root = None) -> Brain:
    """Five sessions of 99 to 533 units, all trials by the stronger side ("equal": contrasts above zero, "none": no grating), 39 bins of 10 ms from its onset."""
    (path,) = SOURCE.paths(root)
    fields = ("spikes", "contrast_left", "contrast_right")
    data = load_npz(path, [f"s{i}_{field}" for i in range(1, 6) for field in fields])
    time = TimeAxis(10.0, {"stimulus": (0.0, 390.0)})
    recordings = []
    for i in range(1, 6):
        spikes, left, right = (data[f"s{i}_{field}"] for field in fields)
        fits = spikes.ndim == 3 and left.shape == right.shape == spikes.shape[:1]
        right_form = f"{path}: s{i}_spikes must be (trials, neurons, bins), contrasts (trials,)"
        require(fits, f"{right_form}, got {spikes.shape}, {left.shape}, {right.shape}")
        condition = np.select([left > right, right > left, left > 0], [0, 1, 2], 3)
        recordings.append(
            Recording(spikes, np.array(CONDITIONS)[condition], f"session {i}", time=time)
        )
    return Brain("steinmetz", recordings, conditions=CONDITIONS)
