"""Arms of a transfer experiment: what stands in the place of the brain, and where that is possible."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ARMS", "check_arms", "default_arms", "needs_teacher"]

ARMS = {
    "none": "no teacher: the student alone",
    "zero": "the brain's term with weight 0: same parameters, same random numbers",
    "brain": "the recording (synthetic: the true teacher, seen through its neurons)",
    "shuffled": "the same features, dealt out anew to conditions or images",
    "reversed": "the same latents, backwards in time",
    "phase": "the same latents with random phases: spectrum and rank kept",
    "gaussian": "random features of the same rank and variance (smooth in time)",
    "label": "made of the label alone: one-hot condition x time, or image identity",
    "network": "a trained network like the student in the place of the brain",
}
NEED_TIME = ("reversed", "phase")


def needs_teacher(arm: str) -> bool:
    """Whether an arm has features to learn from.

    Parameters
    ----------
    arm : str
        A key of `ARMS`.

    Returns
    -------
    bool
        False for ``none``.
    """
    return arm != "none"


def _impossible(arm: str, method: str, student: str) -> str | None:
    """Why an arm cannot be had, if it cannot."""
    if arm in NEED_TIME and student == "vae":
        return "images have no time course"
    if arm in NEED_TIME and method == "contrastive":
        return "contrastive transfer averages over time"
    if arm == "label" and student == "vae" and method == "latent":
        return "identities of images have no latents other than random ones: that is gaussian"
    return None


def check_arms(arms: Sequence[str], method: str, student: str) -> None:
    """Refuse arms that this method and student cannot have.

    Parameters
    ----------
    arms : sequence of str
        Keys of `ARMS`.
    method : {"latent", "contrastive"}
        Method.
    student : {"gru", "rnn", "vae"}
        Student.

    Raises
    ------
    ValueError
        If there is such an arm; the message says why.
    """
    if unknown := sorted(set(arms) - set(ARMS)):
        raise ValueError(f"unknown arms {unknown}; there are {list(ARMS)}")
    for arm in arms:
        if reason := _impossible(arm, method, student):
            raise ValueError(
                f"--arms {arm} is not possible for {method} transfer to a {student}: {reason}"
            )


def default_arms(method: str, student: str) -> list[str]:
    """All arms that a method and a student can have.

    Parameters
    ----------
    method : {"latent", "contrastive"}
        Method.
    student : {"gru", "rnn", "vae"}
        Student.

    Returns
    -------
    list of str
        Keys of `ARMS`.
    """
    return [arm for arm in ARMS if _impossible(arm, method, student) is None]
