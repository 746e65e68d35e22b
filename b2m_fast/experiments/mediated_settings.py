"""Everything the results of `b2m mediated` depend on, but for the arm and the seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from b2m_fast.data._old import COWLEY_V4_SESSIONS
from b2m_fast.encoding.networks import NetworkFeatures, check_network
from b2m_fast.experiments.former import Settings

__all__ = [
    "AREAS",
    "BRAINS",
    "CLASSES",
    "LABELS",
    "CortexSettings",
    "FeatureSettings",
    "MediatedExperiment",
]

BRAINS = {
    "synthetic": ("ratings", "digits"),
    "cowley-v4": ("cifar10", "attributes"),
    "object2vec": ("cifar10", "attributes"),
}
LABELS = ("ratings", "digits", "cifar10", "attributes")
CLASSES = {"digits": 10, "cifar10": 10}
AREAS = ("EVC", "LOC", "PFS", "OPA", "PPA", "RSC", "FFA", "OFA", "STS", "EBA")


@dataclass(frozen=True)
class FeatureSettings(NetworkFeatures):
    """What of an image a brain, or a readout, is given: layers of a network, and how many components.

    Attributes
    ----------
    components : int
        Principal components kept of each tap, found on the images the brains were shown.
    """

    components: int = 512

    def __post_init__(self) -> None:
        check_network(self.network)
        if not self.taps or len(set(self.taps)) < len(self.taps):
            raise ValueError(f"taps must be at least one, each once, got {list(self.taps)}")
        if self.size is not None and self.size < 32:
            raise ValueError(f"images need at least 32 pixels, got size {self.size}")


@dataclass(frozen=True)
class CortexSettings:
    """Of the synthetic brains; see `b2m_fast.teachers.synthetic`.

    Attributes
    ----------
    observers, units : int
        Brains, and units of each.
    planted : {"inside", "outside"}
        Whether the labels lie in what the brains represent, or all but there.
    spread : float
        How much the brains differ: standard deviation of the logarithm of their gains.
    """

    observers: int = 8
    units: int = 60
    planted: Literal["inside", "outside"] = "inside"
    spread: float = 1.0

    def __post_init__(self) -> None:
        if self.observers < 1 or self.units < 1 or self.spread < 0:
            raise ValueError(
                "the synthetic cortex needs observers and units, and a spread of at least 0, got "
                f"{self.observers}, {self.units}, {self.spread}"
            )


@dataclass(frozen=True)
class MediatedExperiment(Settings):
    """A whole experiment.

    Attributes
    ----------
    brain : str
        A key of `BRAINS`.
    labels : str
        What is estimated; see `BRAINS`.
    combine : {"stacked", "mean"}
        How brains are combined in the controls, and which arm they are controls of.
    sizes : tuple of int
        Numbers of labelled samples, beside all there are.
    draws : int
        Sets of labelled samples drawn per seed and size; scores are averaged over them.
    folds : int
        Every image is a test image in one of so many seeds.
    rank_share : float
        Of the arm `direct-rank`: it keeps as many components as hold this share of the variance of
        the predicted responses; 1: as the encoders have numerical rank.
    session : str
        Of V4: the session whose images carry the labels `attributes`.
    features : FeatureSettings
        What of an image is used.
    cortex : CortexSettings
        The synthetic brains.
    """

    method_version: ClassVar[int] = 3

    brain: str = "synthetic"
    labels: str = "ratings"
    combine: Literal["stacked", "mean"] = "stacked"
    sizes: tuple[int, ...] = (10, 20, 50, 100, 200)
    draws: int = 5
    folds: int = 10
    rank_share: float = 0.95
    session: str = "201025"
    features: FeatureSettings = field(default_factory=FeatureSettings)
    cortex: CortexSettings = field(default_factory=CortexSettings)

    def __post_init__(self) -> None:
        if self.brain not in BRAINS:
            raise ValueError(f"unknown brain {self.brain!r}; there are {list(BRAINS)}")
        if self.labels not in BRAINS[self.brain]:
            raise ValueError(
                f"--brain {self.brain} goes with --labels {', '.join(BRAINS[self.brain])}, "
                f"not {self.labels}"
            )
        if self.session not in COWLEY_V4_SESSIONS:
            raise ValueError(
                f"unknown session {self.session!r}; there are {', '.join(COWLEY_V4_SESSIONS)}"
            )
        if self.folds < 2 or self.draws < 1:
            raise ValueError(
                f"folds must be at least 2 and draws at least 1, got {self.folds}, {self.draws}"
            )
        if not 0 < self.rank_share <= 1:
            raise ValueError(f"rank_share must be above 0, at most 1, got {self.rank_share}")
        if any(n < 4 for n in self.sizes) or list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes must rise from at least 4, got {list(self.sizes)}")
        classes = CLASSES.get(self.labels, 0)
        if self.sizes and self.sizes[0] < classes:
            raise ValueError(
                f"{self.sizes[0]} labelled samples are fewer than the {classes} classes of "
                f"{self.labels}"
            )
        if between := [n for n in self.sizes if classes < n < 2 * classes]:
            raise ValueError(
                f"{between[0]} labelled samples of {classes} classes: some classes have one sample, "
                f"others two; give {classes}, or at least {2 * classes}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the brains."""
        if self.brain == "cowley-v4":
            return COWLEY_V4_SESSIONS
        if self.brain == "object2vec":
            return AREAS
        return tuple(f"s{k + 1}" for k in range(self.cortex.observers))

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the brains that were shown the images that carry labels."""
        if self.brain == "cowley-v4" and self.labels == "attributes":
            return (self.session,)
        return self.names if self.brain == "synthetic" or self.labels == "attributes" else ()

    def shown(self) -> dict[str, Any]:
        """What a report needs to know.

        Returns
        -------
        dict
            As JSON can hold it.
        """
        return {
            "brain": self.brain,
            "labels": self.labels,
            "metric": "accuracy" if self.labels in CLASSES else "r",
            "combine": self.combine,
            "sizes": list(self.sizes),
            "classes": CLASSES.get(self.labels, 0),
            "draws": self.draws,
            "folds": self.folds,
            "brains": list(self.names),
            "measured": list(self.measured),
        }
