"""Settings of `b2m mediated` where the user says nothing."""

from __future__ import annotations

from b2m_fast.experiments.mediated_settings import BRAINS, FeatureSettings, MediatedExperiment

__all__ = ["preset"]

FEATURES = {
    "synthetic": FeatureSettings(taps=("_blocks.10",), grid=2, size=64, components=128),
    "cowley-v4": FeatureSettings(taps=("_blocks.7",), grid=4, size=112, components=512),
    "object2vec": FeatureSettings(taps=("_blocks.10",), grid=4, size=112, components=512),
}


def preset(brain: str, labels: str | None) -> tuple[MediatedExperiment, range]:
    """Experiment and seeds that go with a brain and labels.

    Block 7 for V4 and block 10 for the areas because of plain ridge checks of encoders, which had seen
    responses of all sessions and areas; the rest by what is usual. Nothing was chosen by a score on
    labels.

    Parameters
    ----------
    brain : str
        A key of `b2m_fast.experiments.mediated_settings.BRAINS`.
    labels : str, optional
        What is estimated; default: the first that goes with the brain.

    Returns
    -------
    experiment : MediatedExperiment
        Settings.
    seeds : range
        Every image is tested once.

    Raises
    ------
    ValueError
        If they do not go together.
    """
    labels = BRAINS[brain][0] if labels is None else labels
    sizes: tuple[int, ...] = (10, 20, 50, 100, 200)
    folds = 10
    if brain == "object2vec" and labels == "attributes":  # 81 categories in the authors' 9 folds
        sizes, folds = (10, 20, 50), 9
    experiment = MediatedExperiment(
        brain=brain, labels=labels, sizes=sizes, folds=folds, features=FEATURES[brain]
    )
    return experiment, range(folds)
