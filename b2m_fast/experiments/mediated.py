"""Labels estimated from predicted brain responses (Nishida et al. 2020): whether they help when labels are few, and whether it is the brains.

The method is `b2m_fast.methods.mediated`. Here are the arms, the settings, and how a run goes; labelled images, brains and readouts are
in `b2m_fast.experiments.mediated_data`, tables and words of this experiment alone in `b2m_fast.experiments.mediated_report`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta

from b2m_fast._registry import Registry
from b2m_fast.data import dataset, labels
from b2m_fast.encoding.networks import check_network
from b2m_fast.experiments import contract, experiment
from b2m_fast.experiments.contract import Prepared, flags
from b2m_fast.experiments.mediated_report import ALL, SINGLE, MediatedReport, single

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from b2m_fast._registry import Entry
    from b2m_fast.data import Brain
    from b2m_fast.experiments.contract import Context, Run
    from b2m_fast.experiments.mediated_data import Material, Views

__all__ = ["CortexSettings", "FeatureSettings", "Mediated", "Settings", "arm"]

SHUFFLE, RANDOM = 31, 32  # streams of a seed
SCORES = ("scores", "labels", "penalties", "between")  # of a run, by number of labelled samples


# --------------------------------------------------------------------------------------------------
# Arms: what stands between features and labels
# --------------------------------------------------------------------------------------------------
arm: Registry[Callable[[Material], Views]] = Registry(
    "arm", "arm", "b2m_fast.experiments.mediated", group="b2m_fast.mediated_arm"
)
"""An arm takes the labelled images and brains, and returns regressors (n, k) of the labelled images: one array, or one a brain.

Facts of its decorator: ``role``; ``combine``: through brains, which are combined in this way and not as the settings say;
``needs="measured"``: responses to the labelled images; ``compared=True``: distances between the estimates of brains are kept;
``uses``: a setting that only this arm uses.
"""


@arm("direct", "ridge on the features: standard transfer learning", role="baseline")
def direct(m: Material) -> Views:
    """Return the features."""
    return [m.features]


@arm("direct-rank", "ridge on as many principal components as responses have", uses="rank_share")
def direct_rank(m: Material) -> Views:
    """Return the leading principal components of the features, as many as hold a share of the predicted variance."""
    from b2m_fast.experiments.mediated_data import dimensions, principal_map

    stimuli, maps = [s for s, _ in m.shown()], m.maps()
    if m.settings.combine == "stacked":  # what several brains were shown counts once
        different = {s.tobytes(): s for s in stimuli}
        stimuli, maps = [np.concatenate(list(different.values()))], [np.hstack(maps)]
    share = m.settings.rank_share
    return [
        m.features @ principal_map(s, dimensions(s @ w, share))
        for s, w in zip(stimuli, maps, strict=True)
    ]


@arm("brain-each", "one brain at a time: an arm brain-NAME for each", role="other", combine="each")
@arm("brain-mean", "each brain, estimates averaged", role="other", combine="mean", compared=True)
@arm("brain-stacked", "all brains side by side, one readout", role="other", combine="stacked")
def predicted(m: Material) -> Views:
    """Return the responses that each brain is predicted to give."""
    return [m.features @ w for w in m.maps()]


@arm("shuffled", "encoders fitted anew to responses assigned to other stimuli", compared=True)
def shuffled(m: Material) -> Views:
    """Return what encoders of permuted responses predict.

    Brains that were shown the same stimuli are permuted alike: what they have in common, and how they differ, stays.
    """
    orders = [m.random(SHUFFLE).permutation(len(s)) for s, _ in m.shown()]
    pairs = zip(m.shown(), orders, strict=True)
    return [m.features @ m.encoder(s, r[order]) for (s, r), order in pairs]


@arm("random-map", "random maps with the singular values of the encoders'")
def random_map(m: Material) -> Views:
    """Return the features through Q S V' of each encoder U S V', Q random and orthonormal.

    Brains have much in common: where they are stacked, the spectrum is that of all their maps together.
    """
    from b2m_fast.experiments.mediated_data import random_map_like

    rng, maps = m.random(RANDOM), m.maps()
    maps = [np.hstack(maps)] if m.settings.combine == "stacked" else maps
    return [m.features @ random_map_like(w, rng) for w in maps]


@arm("measured", "responses measured to the labelled images", role="other", needs="measured")
def measured(m: Material) -> Views:
    """Return measured responses, standardised over the images that may be learned from."""
    from b2m_fast.encoding.columns import standardised

    return [standardised(r, r[m.pool]) for r in m.measured]


# --------------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class FeatureSettings:
    """What of an image encoders and readouts are given.

    Parameters
    ----------
    network : str
        efficientnet-lite0, torchvision:MODEL or timm:MODEL, trained on ImageNet.
    taps : tuple of str
        Modules of the network whose activations are taken.
    size : int
        Pixels of the images' sides; 32 or more.
    grid : int
        Places along each side that maps are averaged down to.
    components : int
        Principal components of each tap.
    """

    network: str = "efficientnet-lite0"
    taps: tuple[str, ...] = ("_blocks.10",)
    size: Annotated[int, Meta(ge=32)] = 112
    grid: contract.Count = 4
    components: contract.Count = 512

    def __post_init__(self) -> None:
        check_network(self.network)
        if not self.taps or len(set(self.taps)) < len(self.taps):
            raise ValueError(f"taps must be at least one, each once, got {list(self.taps)}")


@dataclass(frozen=True)
class CortexSettings:
    """Of simulated brains.

    Parameters
    ----------
    observers : int
        Number of simulated brains.
    units : int
        Units of each.
    planted : {"inside", "outside"}
        Whether the labels lie in what the brains represent.
    spread : float
        How much brains differ; 0: in their units alone.
    """

    observers: contract.Count = 8
    units: contract.Count = 60
    planted: Literal["inside", "outside"] = "inside"
    spread: contract.NotNegative = 1.0


@dataclass(frozen=True, kw_only=True)
class Settings(contract.Settings):
    """Everything the results depend on, but for the arm and the seed.

    Parameters
    ----------
    brain : str
        Data set whose recordings are the brains.
    labels : str
        What is estimated of images.
    combine : {"stacked", "mean"}
        How several brains are combined in the verdict and in the controls: one readout of all, or the mean of estimates.
    sizes : tuple of int
        Numbers of labelled samples, beside all.
    draws : int
        Sets of labelled samples of a seed and size.
    folds : int
        Seeds that together test every image once.
    rank_share : float
        Share of the predicted responses' variance whose components direct-rank keeps.
    session : str, optional
        Session whose images carry the labels, where labels are of a brain's own images; none: 201025 of cowley-v4, or
        the one that the brain's data set names.
    """

    method_version: ClassVar[int] = 4

    brain: str
    labels: str
    combine: Literal["stacked", "mean"] = "stacked"
    sizes: tuple[Annotated[int, Meta(ge=4)], ...] = (10, 20, 50, 100, 200)
    draws: contract.Count = 5
    folds: Annotated[int, Meta(ge=2)] = 10
    rank_share: Annotated[float, Meta(gt=0, le=1)] = 0.95
    session: str | None = None
    features: FeatureSettings = field(default_factory=FeatureSettings)
    cortex: CortexSettings = field(default_factory=CortexSettings)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(sorted(set(self.sizes))))


# --------------------------------------------------------------------------------------------------
# The experiment
# --------------------------------------------------------------------------------------------------
@experiment("mediated", "labels estimated from predicted brain responses (Nishida et al. 2020)")
class Mediated(MediatedReport):
    """Labels estimated from predicted brain responses."""

    command = "mediated"
    presets = "mediated"
    purpose = """\
Estimate labels of images from predicted brain responses: features of a network become the responses that brains would give, and
these become labels (brain-mediated transfer; Nishida et al. 2020):

  W = ridge from features of stimuli to the brain's responses       R = F W
  V = ridge from predicted responses to labels                      labels = F W V

That is ridge on the features with a prior of covariance W W': nothing is created, a prior is added. Does it help when labels are
few, and is it the brain's? Controls are arms like any other. The idea is the paper's; sizes, penalties, statistics and controls are
ours."""
    settings = Settings
    arms = arm
    options = {
        "what": flags("brain labels session"),
        "how": flags(
            "combine sizes draws folds rank_share features.network features.taps features.grid features.size features.components "
            "cortex.observers cortex.units cortex.planted"
        ),
    }
    choices = {
        "brain": (dataset, {"kind": ("images", "categories")}),
        "labels": (labels, {"kind": ("own", "stimuli", "observers")}),
    }
    same = ("labels", "folds")
    workers = 1  # a run takes seconds: a process of its own would take longer to start
    unit = "run"
    trains = False
    seeds_text = "0 to 9, as many as folds: every image is tested once"
    differences_text = (
        "Differences between arms on the same samples, with 95 % Student intervals over seeds; * marks an interval that excludes 0 "
        "(not corrected for the number of cells). As many seeds as folds test each image once, seeds beyond them the same images "
        "again; labelled samples overlap where n is a large part of all; intervals are widened for both (docs/mediated.md). They "
        "are about other images, given these brains: other animals or persons they do not cover."
    )
    _brain: Brain | None = None

    # ------------------------------------------------------------------------------------------ arms
    def usual_seeds(self, settings: Settings) -> Sequence[int]:
        """Return as many seeds as there are folds."""
        return range(settings.folds)

    def recorded(self, settings: Settings, context: Context) -> Brain:
        """Return the recorded brain, read once a command."""
        if self._brain is None:
            self._brain = dataset.get(settings.brain).build(root=context.data)
        return self._brain

    def possible_arms(self, settings: Settings) -> list[str]:
        """Return all arms, measured responses only where there are any."""
        return [n for n in arm.listings() if not _lacks(arm.about(n), settings)]

    def registered(self, settings: Settings, arms: Sequence[str]) -> list[str]:
        """Return the arms that are not of a single brain."""
        return [name for name in arms if not single(name)]

    def expand(self, settings: Settings, arms: Sequence[str], context: Context) -> list[str]:
        """Return the arms, the one that stands for each brain as one arm for each."""
        each = {
            n for n in self.registered(settings, arms) if _entry(n).about.get("combine") == "each"
        }
        wanted = {brain for name in arms if (brain := single(name))}
        if not each and not wanted:
            return list(arms)
        names = [f"s{k + 1}" for k in range(settings.cortex.observers)]
        if not simulated(settings):
            names = [r.session for r in self.recorded(settings, context).recordings]
        if unknown := ", ".join(sorted(wanted - set(names))):
            raise ValueError(f"there is no brain {unknown}; there are {', '.join(names)}")
        several = [SINGLE + brain for brain in names]
        found = [one for name in arms for one in (several if name in each else [name])]
        return list(dict.fromkeys(found))

    def refuse(self, settings: Settings, arms: Sequence[str], given: set[str]) -> None:
        """Raise ValueError for labels that do not go with the brain, and for settings without effect."""
        about, known = labels.about(settings.labels), simulated(settings)
        kind, count = about.get("kind"), about.get("classes", 0)
        labelled, brain = f"--labels {settings.labels}", f"--brain {settings.brain}"
        if kind == "observers" and not known:
            raise ValueError(f"{labelled} is what simulated brains rate; {brain} is none")
        if kind == "stimuli" and known:
            raise ValueError(f"{labelled} is of images a brain was shown; {brain} is simulated")
        if kind == "own" and known and not count:
            raise ValueError(f"simulated brains represent classes; {labelled} has none")
        if any(_lacks(_entry(name).about, settings) for name in arms):
            raise ValueError("no brain was shown the labelled images: leave out what is measured")
        ranks = self.uses(self.registered(settings, arms), "rank_share")
        cortex = " ".join(f"cortex.{f.name}" for f in fields(CortexSettings))
        self.refuse_unused(
            given,
            [
                (known, "simulated brains", cortex),
                (kind == "stimuli", "labels of a brain's own images", "session"),
                (ranks, "arms that are cut to a rank", "rank_share"),
            ],
        )
        few = min(settings.sizes, default=count)
        if few < count:
            raise ValueError(
                f"{few} labelled samples are fewer than the {count} classes of {settings.labels}"
            )
        if between := [n for n in settings.sizes if count < n < 2 * count]:
            raise ValueError(
                f"{between[0]} labelled samples of {count} classes: some classes have one sample, others two; give {count}, or at "
                f"least {2 * count}"
            )

    def upgrade(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Return older results with what newer runs say: whether labels are classes, and what distances are of."""
        for run in stored["runs"]:
            run.setdefault("circular", "categories" in (run["distance_of"] or ""))
            run.setdefault("classes", stored["settings"]["classes"])
        old = stored["experiment"]
        usual = dataset.about(old["brain"]).get("labelled", old["session"])
        return stored | {"settings": old | ({"session": None} if old["session"] == usual else {})}

    # ------------------------------------------------------------------------------------------ what is made and run
    def prepare(self, settings: Settings, arms: Sequence[str], context: Context) -> Prepared:
        """Load images and recordings, compute features, fit the encoders."""
        from b2m_fast.experiments import mediated_data as data

        if simulated(settings):
            material, words = data.simulated(settings, context)
        else:
            material, words = data.recorded(settings, self.recorded(settings, context), context)

        def of(name: str) -> Material:
            brains = [b for b in material.brains if single(name) in {"", b.name}]
            return replace(material, brains=tuple(brains))

        return Prepared(of, {"encoders": [b.quality for b in material.brains], "words": words})

    def run(
        self, settings: Settings, prepared: Material, arm: str, seed: int, context: Context
    ) -> Run:
        """Fit the readout of an arm at every number of labelled samples, and score it."""
        from b2m_fast.experiments.mediated_data import rounded, score, split

        start = time.perf_counter()
        pool, test = split(prepared, seed)
        material = replace(prepared, pool=pool, seed=seed)
        entry = _entry(arm)
        parts = entry.make(material)
        combine = entry.about.get("combine", settings.combine)
        views = [np.hstack(parts)] if combine == "stacked" else parts
        compared = bool(entry.about.get("compared")) and material.distance is not None
        sizes = {str(n): n for n in settings.sizes if n < len(pool)} | {ALL: len(pool)}
        found = {
            size: score(views, parts if compared else None, material, test, count)
            for size, count in sizes.items()
        }
        context.tick()
        through = "combine" in entry.about
        by_size = {k: {n: one[k] for n, one in found.items() if k in one} for k in SCORES}
        return by_size | {
            "names": list(material.names),
            "classes": 0 if material.classes is None else len(material.names),
            "labelled": sizes,
            "tested": len(test),
            "regressors": [int(v.shape[1]) for v in views],
            "encoders": [b.quality for b in material.brains if through],
            "distance": rounded(material.distance) if compared else None,
            "distance_of": material.distance_of,
            "circular": material.circular,
            "seconds": time.perf_counter() - start,
        }


# --------------------------------------------------------------------------------------------------
# What is known of arms, brains and labels
# --------------------------------------------------------------------------------------------------
def _entry(name: str) -> Entry[Any]:
    """Return a registered arm; for an arm of a single brain, the one that stands for each."""
    each = next(n for n, item in arm.listings().items() if item.about.get("combine") == "each")
    return arm.get(each if single(name) else name)


def _lacks(about: Mapping[str, Any], settings: Settings) -> bool:
    """Return whether an arm with these facts needs responses to the labelled images, and there are none."""
    shown = simulated(settings) or labels.about(settings.labels).get("kind") == "stimuli"
    return about.get("needs") == "measured" and not shown


def simulated(settings: Settings) -> bool:
    """Return whether brains are simulated once features are known."""
    return "observers" in dataset.get(settings.brain).about
