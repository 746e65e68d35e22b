"""Mouse visual cortex while the stronger of two gratings is chosen (Steinmetz et al., Nature 2019)."""

from __future__ import annotations

import numpy as np

from b2m_fast.data import dataset
from b2m_fast.data.files import Axes, Root, Source, load_npz
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
    time = TimeAxis(10.0, {"stimulus": (0.0, 390.0)})
    recordings = []
    for i in range(1, 6):
        axes: dict[str, Axes] = {f"s{i}_spikes": ("trials", "neurons", 39)}
        axes |= {f"s{i}_contrast_{side}": ("trials",) for side in CONDITIONS[:2]}
        spikes, left, right = load_npz(path, axes).values()
        cases = [left > right, right > left, left > 0]
        condition = np.select(cases, list(CONDITIONS[:3]), CONDITIONS[3])
        recordings.append(Recording(spikes, condition, f"session {i}", time=time))
    return Brain("steinmetz", recordings, conditions=CONDITIONS)
