"""Arms of brain-mediated transfer: what stands between features and labels.

Every arm is a linear map of the same features, followed by the same readout. A gain over `direct`
alone says that some prior helps; that it is a brain's takes a gain over maps of the same rank and
spectrum that hold no brain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ARMS", "CONTROLS", "EACH", "expand_arms"]

ARMS = {
    "direct": "ridge on the features: standard transfer learning",
    "direct-rank": "ridge on as many principal components of the features as the predicted responses have",
    "brain-each": "through one brain at a time: an arm brain-NAME for each",
    "brain-mean": "through each brain, estimates averaged",
    "brain-stacked": "through all brains side by side, one readout",
    "shuffled": "encoders fitted anew to responses dealt out to other stimuli",
    "random-map": "random maps with the singular values of the encoders'",
    "measured": "responses measured to the labelled images, where there are any",
}
EACH = "brain-each"
CONTROLS = ("direct-rank", "shuffled", "random-map")


def expand_arms(arms: Sequence[str], brains: Sequence[str], *, measured: bool) -> list[str]:
    """Arms with those of single brains by name, in the order of `ARMS`.

    Parameters
    ----------
    arms : sequence of str
        Keys of `ARMS`, or ``brain-NAME``.
    brains : sequence of str
        Names of the brains.
    measured : bool
        Whether there are responses to the labelled images.

    Returns
    -------
    list of str
        Each once.

    Raises
    ------
    ValueError
        If an arm is unknown, or not possible.
    """
    single = [f"brain-{name}" for name in brains]
    if unknown := sorted(set(arms) - set(ARMS) - set(single)):
        raise ValueError(f"unknown arms {unknown}; there are {[*ARMS, *single]}")
    if "measured" in arms and not measured:
        raise ValueError("--arms measured is not possible: no brain was shown the labelled images")
    out: list[str] = []
    for arm in ARMS:
        if arm == EACH:
            out += [name for name in single if EACH in arms or name in arms]
        elif arm in arms:
            out.append(arm)
    return out
