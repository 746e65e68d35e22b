"""Arms of a transfer experiment: what stands in the place of the brain, and where that is possible.

Two kinds of controls answer two questions. ``shuffled`` and ``gaussian`` say nothing about a trial
or image: does a target of the same statistics help, whatever it is? ``relabelled``, ``random-code``,
``phase``, ``label`` and ``network`` tell conditions or images apart in every trial, as the brain
does, but not the way the brain does: is it the brain's geometry that helps, or any code that a
student is asked to keep in mind? The second question is the hard one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from b2m_fast.experiments.transfer_settings import TransferExperiment
    from b2m_fast.teachers.latents import LatentTeacher
    from b2m_fast.teachers.responses import ResponseTeacher

__all__ = ["ARMS", "SCRAMBLED", "Teachers", "check_arms", "default_arms"]

ARMS = {
    "none": "no teacher: the student alone",
    "zero": "the brain's term with weight 0: same parameters, same random numbers",
    "brain": "the recording (synthetic: the true teacher, seen through its neurons)",
    "shuffled": "the same features, dealt out anew among the trials or images of each batch",
    "gaussian": "random features of the same rank and variance, dealt out likewise",
    "relabelled": "the same features under other conditions or images, for good",
    "random-code": "random features of the same rank and variance, one for each condition or image",
    "reversed": "the same latents, backwards in time",
    "phase": "the same latents with random phases: spectrum and rank kept",
    "label": "what is known without a brain: one-hot condition x time; labels of scenes",
    "pixel": "principal components of the images' pixels",
    "network": "a trained network like the student in the place of the brain",
}
SCRAMBLED = ("shuffled", "gaussian")
NEED_TIME = ("reversed", "phase")


@dataclass(frozen=True, eq=False)
class Teachers:
    """What the arms of an experiment are taught by: part of the material of every kind of student.

    Attributes
    ----------
    experiment : TransferExperiment
        The experiment.
    brain : LatentTeacher or ResponseTeacher, optional
        The brain's teacher (of the arm network: the network's); None if no arm has one.
    network : LatentTeacher or ResponseTeacher, optional
        The network's.
    report : dict
        Quality of the teachers.
    """

    experiment: TransferExperiment
    brain: LatentTeacher | ResponseTeacher | None
    network: LatentTeacher | ResponseTeacher | None
    report: dict[str, Any]

    def of(self, arm: str) -> Self:
        """The part one arm needs.

        Parameters
        ----------
        arm : str
            Arm.

        Returns
        -------
        Teachers
            With one teacher, in the brain's place.
        """
        brain = self.network if arm == "network" and self.network is not None else self.brain
        return replace(self, brain=brain, network=None, report={})


def _impossible(arm: str, method: str, student: str) -> str | None:
    """Why an arm cannot be had, if it cannot."""
    if arm in NEED_TIME and student == "vae":
        return "images have no time course"
    if arm in NEED_TIME and method == "contrastive":
        return "contrastive transfer averages over time"
    if arm == "pixel" and student != "vae":
        return "a recurrent student sees no images"
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
