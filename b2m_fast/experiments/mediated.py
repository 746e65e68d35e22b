"""Labels by way of brains (Nishida et al. 2020): whether they help when labels are few, and whether it is the brains.

The method is `b2m_fast.methods.mediated`. Here are its arms, the labelled images and brains, and the scores by number of labelled
samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from b2m_fast._registry import Registry
from b2m_fast.data import dataset, files_of, labels
from b2m_fast.encoding.networks import check_network
from b2m_fast.experiments import experiment
from b2m_fast.experiments.contract import (
    Experiment,
    Inputs,
    Measure,
    Panel,
    Prepared,
    Run,
    Runs,
    Settings,
    Table,
    finite,
    or_nan,
)
from b2m_fast.experiments.mediated_maps import dimensions, principal_map, random_map_like

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from b2m_fast.evaluate.variability import MantelTest
    from b2m_fast.experiments.contract import Context
    from b2m_fast.experiments.mediated_data import Material, Views

__all__ = ["Mediated", "MediatedSettings", "arm"]

ALL = "all"  # the largest number of labelled samples
SHUFFLE, RANDOM, PARTITION, SAMPLES = 31, 32, 33, 34  # streams of a seed
DISTANCE_IMAGES = 200  # labelled images for distances between simulated brains
LEVEL = 0.05


# --------------------------------------------------------------------------------------------------
# What an arm is given
# --------------------------------------------------------------------------------------------------


# --------------------------------------------------------------------------------------------------
# Arms: what stands between features and labels. An arm returns regressors (n, k) of the labelled images, one array a brain
# --------------------------------------------------------------------------------------------------
arm: Registry[Callable[[Material], Views]] = Registry(
    "arm", "arm", "b2m_fast.experiments.mediated", group="b2m_fast.mediated_arm"
)


@arm("direct", "ridge on the features: standard transfer learning", role="baseline")
def direct(m: Material) -> Views:
    """Return the features."""
    return [m.features]


@arm(
    "direct-rank",
    "ridge on as many principal components of the features as predicted responses have",
)
def direct_rank(m: Material) -> Views:
    """Return the leading principal components of the features, as many as hold a share of the predicted variance."""
    stimuli, maps = [s for s, _ in m.shown()], m.maps()
    if m.settings.combine == "stacked":
        different: Views = []
        for s in stimuli:  # what several brains were shown counts once
            if not any(np.array_equal(s, d) for d in different):
                different.append(s)
        stimuli, maps = [np.concatenate(different)], [np.hstack(maps)]
    share = m.settings.rank_share
    return [
        m.features @ principal_map(s, dimensions(s @ w, share))
        for s, w in zip(stimuli, maps, strict=True)
    ]


@arm("brain-each", "through one brain at a time: an arm brain-NAME for each", role="other")
def brain_each(m: Material) -> Views:
    """Return predicted responses of the one brain."""
    return [m.features @ w for w in m.maps()]


@arm("brain-mean", "through each brain, estimates averaged", role="other")
def brain_mean(m: Material) -> Views:
    """Return predicted responses of each brain."""
    return [m.features @ w for w in m.maps()]


@arm("brain-stacked", "through all brains side by side, one readout", role="other")
def brain_stacked(m: Material) -> Views:
    """Return predicted responses of each brain."""
    return [m.features @ w for w in m.maps()]


@arm("shuffled", "encoders fitted anew to responses assigned to other stimuli")
def shuffled(m: Material) -> Views:
    """Return what encoders of permuted responses predict.

    Brains that were shown the same stimuli are permuted alike: what they have in common, and how they differ, stays.
    """
    from b2m_fast.experiments.mediated_data import encoder_map

    orders = [m.random(SHUFFLE).permutation(len(s)) for s, _ in m.shown()]
    pairs = zip(m.shown(), orders, strict=True)
    return [m.features @ encoder_map(s, r[order]) for (s, r), order in pairs]


@arm("random-map", "random maps with the singular values of the encoders'")
def random_map(m: Material) -> Views:
    """Return Q S V' of each encoder U S V', Q random and orthonormal.

    Brains have much in common: where they are stacked, the spectrum is that of all their maps together.
    """
    rng, maps = m.random(RANDOM), m.maps()
    if m.settings.combine == "stacked":
        maps = [np.hstack(maps)]
    return [m.features @ random_map_like(w, rng) for w in maps]


@arm("measured", "responses measured to the labelled images, where there are any", role="other")
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
    size: int = 112
    grid: int = 4
    components: int = 512

    def __post_init__(self) -> None:
        check_network(self.network)
        if not self.taps or len(set(self.taps)) < len(self.taps):
            raise ValueError(f"taps must be at least one, each once, got {list(self.taps)}")
        if self.size < 32:
            raise ValueError(f"images need at least 32 pixels, got size {self.size}")
        if min(self.grid, self.components) < 1:
            raise ValueError(
                f"grid and components must be at least 1, got {self.grid}, {self.components}"
            )


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

    observers: int = 8
    units: int = 60
    planted: Literal["inside", "outside"] = "inside"
    spread: float = 1.0

    def __post_init__(self) -> None:
        if self.observers < 1 or self.units < 1 or self.spread < 0:
            raise ValueError(
                "simulated brains need observers and units, and a spread of at least 0, got "
                f"{self.observers}, {self.units}, {self.spread}"
            )


@dataclass(frozen=True, kw_only=True)
class MediatedSettings(Settings):
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
    sizes: tuple[int, ...] = (10, 20, 50, 100, 200)
    draws: int = 5
    folds: int = 10
    rank_share: float = 0.95
    session: str | None = None
    features: FeatureSettings = field(default_factory=FeatureSettings)
    cortex: CortexSettings = field(default_factory=CortexSettings)

    def __post_init__(self) -> None:
        if self.folds < 2 or self.draws < 1:
            raise ValueError(
                f"folds must be at least 2 and draws at least 1, got {self.folds}, {self.draws}"
            )
        if not 0 < self.rank_share <= 1:
            raise ValueError(f"rank_share must be above 0, at most 1, got {self.rank_share}")
        if any(n < 4 for n in self.sizes) or list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes must rise from at least 4, got {list(self.sizes)}")


def _classes(settings: MediatedSettings) -> int:
    """Return the number of classes; 0 where labels are numbers."""
    return int(labels.get(settings.labels).about.get("classes", 0))


# --------------------------------------------------------------------------------------------------
# The experiment
# --------------------------------------------------------------------------------------------------
@experiment("mediated", "labels by way of brains' predicted responses (Nishida et al. 2020)")
class Mediated(Experiment[MediatedSettings]):
    """Labels by way of brains."""

    command = "mediated"
    presets = "mediated"
    summary = "labels by way of brains' predicted responses (Nishida et al. 2020)"
    purpose = """\
Estimate labels of images by way of brains: features of a network become the responses that brains would give, and these become
labels (brain-mediated transfer; Nishida et al. 2020):

  W = ridge from features of stimuli to the brain's responses       R = F W
  V = ridge from predicted responses to labels                      labels = F W V

That is ridge on the features with a prior of covariance W W': nothing is created, a prior is added. Does it help when labels are
few, and is it the brain's? Controls are arms like any other. The idea is the paper's; sizes, penalties, statistics and controls are
ours."""
    settings = MediatedSettings
    arms = arm
    options = {
        "what": {"--brain": "brain", "--labels": "labels", "--session": "session"},
        "how": {
            "--combine": "combine",
            "--sizes": "sizes",
            "--draws": "draws",
            "--folds": "folds",
            "--rank-share": "rank_share",
            "--network": "features.network",
            "--taps": "features.taps",
            "--grid": "features.grid",
            "--size": "features.size",
            "--components": "features.components",
            "--observers": "cortex.observers",
            "--units": "cortex.units",
            "--planted": "cortex.planted",
        },
    }
    choices = {"brain": (dataset, {}), "labels": (labels, {})}
    workers = 1  # a run takes seconds: a process of its own would take longer to start
    unit = "size"
    same = ("labels", "folds")
    differences_text = (
        "Differences between arms on the same samples, with 95 % Student intervals over seeds; * marks an interval that excludes 0 "
        "(not corrected for the number of cells). As many seeds as folds test each image once, seeds beyond them the same images "
        "again; labelled samples overlap where n is a large part of all; intervals are widened for both (docs/mediated.md). They "
        "are about other images, given these brains: other animals or persons they do not cover."
    )

    # ------------------------------------------------------------------------------------------ arms
    def brains(self, settings: MediatedSettings, context: Context | None = None) -> tuple[str, ...]:
        """Return the names of the brains."""
        entry = dataset.get(settings.brain)
        if "observers" in entry.about:
            return tuple(f"s{k + 1}" for k in range(settings.cortex.observers))
        if "parts" in entry.about:
            return tuple(entry.about["parts"])
        root = None if context is None else context.data
        return tuple(r.session for r in entry.build(root=root).recordings)

    def main(self, settings: MediatedSettings) -> str:
        """Return the arm under test."""
        return f"brain-{settings.combine}"

    def role(self, settings: MediatedSettings, arm: str) -> str:
        """Return the role of an arm: tested is the way of combining brains that the settings name, a single brain is no control."""
        if arm == self.main(settings):
            return "tested"
        return "other" if self._brain_of(arm) else super().role(settings, arm)

    def possible_arms(self, settings: MediatedSettings) -> list[str]:
        """Return all arms, measured responses only where there are any."""
        return [a for a in self.arms.listings() if self._can(settings, a)]

    def _can(self, settings: MediatedSettings, name: str) -> bool:
        """Whether an arm has what it needs: measured responses exist where the labels are of images that a brain was shown."""
        shown = labels.get(settings.labels).about["kind"] != "own"
        return self.arms.get(name).make is not measured or shown or self._simulated(settings)

    def _simulated(self, settings: MediatedSettings) -> bool:
        return "observers" in dataset.get(settings.brain).about

    def registered(self, settings: MediatedSettings, arms: Sequence[str]) -> list[str]:
        """Return the arms that are not one of several brains."""
        return [a for a in arms if not self._brain_of(a)]

    def _brain_of(self, name: str) -> str:
        """Return the brain that an arm brain-NAME is through; empty for another arm."""
        start, _, brain = name.partition("-")
        return brain if start == "brain" and name not in self.arms.listings() else ""

    def expand(
        self, settings: MediatedSettings, arms: Sequence[str], context: Context
    ) -> list[str]:
        """Return the arms, brain-each as one arm for each brain."""
        each = next(n for n in self.arms.listings() if self.arms.get(n).make is brain_each)
        wanted = {b for a in arms if (b := self._brain_of(a))}
        if each not in arms and not wanted:
            return list(arms)
        names = self.brains(settings, context)
        if unknown := sorted(wanted - set(names)):
            raise ValueError(
                f"there is no brain {', '.join(unknown)}; there are {', '.join(names)}"
            )
        out: list[str] = []
        for name in arms:
            out += [f"brain-{n}" for n in names] if name == each else [name]
        return list(dict.fromkeys(out))

    def contrasts(self, settings: MediatedSettings, arms: Sequence[str]) -> list[tuple[str, str]]:
        """Return each arm with no brain, the tested arm with its controls and the other combination, and with what was measured."""
        main, pairs = self.main(settings), super().contrasts(settings, arms)
        known = [a for a in arms if a in self.arms.listings()]
        pairs += [(main, a) for a in known if main in arms and a != main and self._combines(a)]
        for name in (a for a in known if self.arms.get(a).make is measured):
            # like with like: the brains that were measured
            one = dataset.get(settings.brain).about.get("labelled")
            like = main if one is None else f"brain-{settings.session or one}"
            pairs += [(like, name)] if like in arms else []
        return pairs

    def _combines(self, name: str) -> bool:
        return self.arms.get(name).make in {brain_mean, brain_stacked}

    def told(
        self, settings: MediatedSettings, pairs: Sequence[tuple[str, str]]
    ) -> list[tuple[str, str]]:
        """Return all pairs but those of single brains with no brain, which are counted instead."""
        base = {a for a, role in self.roles(settings).items() if role == "baseline"}
        return [(a, b) for a, b in pairs if not (self._brain_of(a) and b in base)]

    def refuse(self, settings: MediatedSettings, arms: Sequence[str], given: set[str]) -> None:
        """Raise ValueError for labels that do not go with the brain, and for settings without effect."""
        kind, classes = labels.get(settings.labels).about["kind"], _classes(settings)
        simulated = self._simulated(settings)
        if kind == "observers" and not simulated:
            raise ValueError(
                f"--labels {settings.labels} is what simulated brains rate; --brain {settings.brain} is none"
            )
        if kind == "stimuli" and simulated:
            raise ValueError(
                f"--labels {settings.labels} is of images that a brain was shown; --brain {settings.brain} is simulated"
            )
        if used := sorted(n for n in given if n.startswith("cortex.") and not simulated):
            raise ValueError(f"{', '.join(used)}: only simulated brains have that")
        if "session" in given and not (
            kind == "stimuli" and "labelled" in dataset.get(settings.brain).about
        ):
            raise ValueError(
                "--session goes with labels of a brain's own images, where sessions were shown different ones"
            )
        if any(not self._can(settings, a) for a in arms if a in self.arms.listings()):
            raise ValueError(
                "responses measured to the labelled images: no brain was shown them, leave that arm out"
            )
        if settings.sizes and settings.sizes[0] < classes:
            raise ValueError(
                f"{settings.sizes[0]} labelled samples are fewer than the {classes} classes of {settings.labels}"
            )
        if between := [n for n in settings.sizes if classes < n < 2 * classes]:
            raise ValueError(
                f"{between[0]} labelled samples of {classes} classes: some classes have one sample, others two; give {classes}, "
                f"or at least {2 * classes}"
            )

    # ------------------------------------------------------------------------------------------ how it is called
    def title(self, settings: MediatedSettings) -> str:
        """Return the labels and the brains."""
        return f"{settings.labels} by way of {settings.brain}"

    def folder(self, settings: MediatedSettings) -> str:
        """Return brain and labels."""
        return f"mediated-{settings.brain}-{settings.labels}"

    def ticks(self, settings: MediatedSettings) -> int:
        """Return the number of sizes."""
        return len(settings.sizes) + 1

    def brief(self, run: Run) -> float | None:
        """Return the score with all samples."""
        return run["scores"][ALL]  # type: ignore[no-any-return]

    # ------------------------------------------------------------------------------------------ what is measured
    def measures(self, settings: MediatedSettings, runs: Runs) -> list[Measure]:
        """Return the score at each number of labelled samples."""
        labelled: dict[str, int] = _any(runs)["labelled"]
        again = len({seed // settings.folds for seeds in runs.values() for seed in seeds}) > 1
        out = []
        for size, count in labelled.items():
            draws = 1 if size == ALL else settings.draws
            shared = 1.0 if again else min(1.0, draws * count / labelled[ALL])
            out.append(
                Measure(
                    f"n = {size}" if size != ALL else f"all ({count})",
                    lambda r, k=size: or_nan(r["scores"].get(k)),  # type: ignore[misc]
                    correlation=shared / settings.folds,
                    decides=True,
                    level=1 - LEVEL / len(labelled),
                    drawn=True,
                    at=count,
                    axes=("labelled samples", f"{self._score(settings)}, test images"),
                    log="x",
                )
            )
        return out

    def _score(self, settings: MediatedSettings) -> str:
        return "accuracy" if _classes(settings) else "r"

    def notes(self, settings: MediatedSettings, runs: Runs) -> list[str]:
        """Return what the scores are."""
        what = (
            "Share of images classified rightly, of those"
            if _classes(settings)
            else "Correlation of estimated and true labels, mean over labels, on images"
        )
        return [
            f"{what} without a part in anything that was fitted to labels; by number of labelled samples n."
        ]

    def tables(self, settings: MediatedSettings, runs: Runs) -> list[Table]:
        """Return the encoders' quality, the labels one by one, and the tests of variability between brains."""
        return [
            *_encoder_table(runs),
            *self._label_table(settings, runs),
            *_variability_table(runs),
        ]

    def _label_table(self, settings: MediatedSettings, runs: Runs) -> list[Table]:
        from b2m_fast.experiments.report import cell, difference, mean

        main = self.main(settings)
        base = next(
            (a for a, role in self.roles(settings).items() if role == "baseline" and a in runs), ""
        )
        if _classes(settings) or main not in runs or not base:
            return []
        sizes = list(_any(runs)["labelled"])
        few = sizes[(len(sizes) - 1) // 2]
        places = {
            size: m
            for size, m in zip(sizes, self.measures(settings, runs), strict=True)
            if size in {few, ALL}
        }
        rows = []
        for k, name in enumerate(_any(runs)["names"]):
            row = [name]
            for size, measure in places.items():
                one = replace(measure, of=lambda r, s=size, k=k: float(r["labels"][s][k]))  # type: ignore[misc]
                row += [
                    f"{found.mean:.3f}" if (found := mean(runs, a, one)) else "-"
                    for a in (base, main)
                ]
                row.append(cell(difference(runs, main, base, one), sign="+"))
            rows.append(row)
        head = [
            "label",
            *(h for size in places for h in (f"{base}, n = {size}", main, "difference")),
        ]
        text = (
            f"Label by label: r with n = {few}, and with all. Differences {main} - {base} as above."
        )
        return [Table(text, head, rows)]

    def words(self, settings: MediatedSettings, runs: Runs) -> list[str]:
        """Return sentences on penalties, single brains, and variability between brains."""
        return [
            *_penalty_words(settings, runs),
            *self._single_words(settings, runs),
            *_variability_words(runs),
        ]

    def _single_words(self, settings: MediatedSettings, runs: Runs) -> list[str]:
        """Return how many of the single brains are better, or worse, than no brain."""
        from b2m_fast.experiments.report import favours

        single = [a for a in runs if self._brain_of(a)]
        base = next((a for a, role in self.roles(settings).items() if role == "baseline"), "")
        if not single or len(runs.get(base, {})) < 2:
            return []
        columns = [replace(m, level=0.95) for m in self.measures(settings, runs)]
        signs = [{favours(runs, a, base, m) for m in columns} for a in single]
        better, worse = (sum(sign in found for found in signs) for sign in (1, -1))
        return [
            f"Of {len(single)} single brains {better} are better than {base} at some n, and {worse} are worse at some n (not "
            "corrected for their number)."
        ]

    def panels(self, settings: MediatedSettings, runs: Runs) -> list[Panel]:
        """Return the encoders, and the distances between estimates against those between brains."""
        return [*_encoder_panel(runs), *_distance_panel(runs)]

    def extra_summary(self, settings: MediatedSettings, runs: Runs) -> dict[str, Any]:
        """Return the encoders' quality and the Mantel tests."""
        tests = {
            arm: {
                size: {"r": finite(t.r), "p": t.p, "permutations": t.permutations, "exact": t.exact}
                for size, t in found.items()
            }
            for arm, found in _variability(runs).items()
        }
        return {"encoders": _encoders(runs), "variability": tests}

    def upgrade(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Return older results with what distances are of in every run, and a session only where it is not the usual one."""
        old = dict(stored["experiment"])
        if old["session"] == dataset.get(old["brain"]).about.get("labelled", old["session"]):
            old["session"] = None
        for run in stored["runs"]:
            run.setdefault("circular", "categories" in (run["distance_of"] or ""))
        return stored | {"settings": old}

    # ------------------------------------------------------------------------------------------ what is read, made and run
    def reads(self, settings: MediatedSettings, arms: Sequence[str], context: Context) -> Inputs:
        """Return the files of brain and labels."""
        entries = dataset.get(settings.brain), labels.get(settings.labels)
        return Inputs([path for entry in entries for path in files_of(entry.about, context.data)])

    def prepare(
        self, settings: MediatedSettings, arms: Sequence[str], context: Context
    ) -> Prepared:
        """Load images and recordings, compute features, fit the encoders."""
        from b2m_fast.experiments.mediated_data import observed, recorded

        make = observed if self._simulated(settings) else recorded
        material, remarks = make(settings, self.brains(settings, context), context)
        report = {"encoders": [b.quality for b in material.brains], "words": remarks}
        return Prepared(lambda name: self._part(material, name), report)

    def _part(self, material: Material, name: str) -> Material:
        """Return the part of the material that an arm needs: an arm of one brain only that one."""
        if one := self._brain_of(name):
            return replace(material, brains=tuple(b for b in material.brains if b.name == one))
        return material

    def run(
        self, settings: MediatedSettings, prepared: Material, arm: str, seed: int, context: Context
    ) -> Run:
        """Fit the readout of an arm at every number of labelled samples, and score it."""
        import time

        from b2m_fast.experiments.mediated_data import rounded, score, split

        start = time.perf_counter()
        pool, test = split(prepared, seed)
        material = replace(prepared, pool=pool, seed=seed)
        made = brain_each if self._brain_of(arm) else self.arms.get(arm).make
        single = made(material)
        apart = made is brain_mean or (made is not brain_stacked and settings.combine == "mean")
        views = single if apart or len(single) == 1 else [np.hstack(single)]
        compared = made in {brain_mean, shuffled} and material.distance is not None
        result: Run = {"scores": {}, "labels": {}, "penalties": {}, "between": {}}
        sizes = {str(n): n for n in settings.sizes if n < len(pool)} | {ALL: len(pool)}
        for size, count in sizes.items():
            found = score(views, single if compared else None, material, test, count)
            for key, value in found.items():
                result[key][size] = value
            context.tick()
        for _ in range(len(settings.sizes) + 1 - len(sizes)):  # more samples than there are
            context.tick()
        through = made in {brain_each, brain_mean, brain_stacked}
        return result | {
            "names": list(material.names),
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
# Labelled images and brains
# --------------------------------------------------------------------------------------------------


# --------------------------------------------------------------------------------------------------
# Readouts
# --------------------------------------------------------------------------------------------------


# --------------------------------------------------------------------------------------------------
# Tables, words and panels of its own
# --------------------------------------------------------------------------------------------------
def _any(runs: Runs) -> Run:
    """Return one of the runs, for what they have in common."""
    return next(r for seeds in runs.values() for r in seeds.values())


def _encoders(runs: Runs) -> list[dict[str, Any]]:
    """Return the quality of the encoders of the brains that were run, each once."""
    found = {q["name"]: q for seeds in runs.values() for r in seeds.values() for q in r["encoders"]}
    return list(found.values())


def _between(seeds: Mapping[int, Run]) -> dict[str, NDArray[np.float64]]:
    """Return the distance between the estimates of brains, averaged over seeds, by number of samples."""
    known = [r for r in seeds.values() if r["distance"] is not None and r["between"]]
    sizes = known[0]["between"] if known else ()
    return {size: np.mean([r["between"][size] for r in known], axis=0) for size in sizes}


def _variability(runs: Runs) -> dict[str, dict[str, MantelTest]]:
    """Return Mantel tests of the distance between estimates, by arm and number of samples."""
    from b2m_fast.evaluate.variability import mantel

    return {
        name: {
            size: mantel(d, np.array(_any({name: seeds})["distance"])) for size, d in found.items()
        }
        for name, seeds in runs.items()
        if (found := _between(seeds))
    }


def _encoder_table(runs: Runs) -> list[Table]:
    rows = [
        [
            q["name"],
            str(q["units"]),
            str(q["stimuli"]),
            f"{q['r']:.3f} ({q['r_low']:.2f}, {q['r_high']:.2f})",
            "not known" if q["ceiling"] is None else f"{q['ceiling']:.3f}",
        ]
        for q in _encoders(runs)
    ]
    text = (
        "Encoders: correlation of predicted and measured responses to held-out stimuli, mean over units (quartiles); ceiling: what "
        "a perfect model would reach, known where stimuli were repeated."
    )
    return (
        [Table(text, ["brain", "units", "stimuli", "held-out r", "ceiling"], rows)] if rows else []
    )


CIRCULAR = (
    " The distance between the brains is of the very responses that the encoders were fitted to, in one session whose noise the areas "
    "share: a relation describes these data, it is no test on others."
)


def _variability_table(runs: Runs) -> list[Table]:
    found = _variability(runs)
    if not found:
        return []
    one = _any({name: runs[name] for name in found})
    rows = [
        [name, *(f"{t.r:.2f} (p = {t.p:.2g})" for t in tests.values())]
        for name, tests in found.items()
    ]
    text = (
        "Do brains that differ lead to estimates that differ? Spearman correlation over pairs of brains of the distance between "
        f"their estimates (1 - r, averaged over seeds) with the distance between {one['distance_of']}; p: Mantel test, one-sided, "
        "brains permuted. shuffled: the same with encoders that know nothing of the stimuli. Estimates are in standard deviations "
        f"of each label.{CIRCULAR * one['circular']}"
    )
    return [Table(text, ["arm", *(f"n = {s}" for s in next(iter(found.values())))], rows)]


def _penalty_words(settings: MediatedSettings, runs: Runs) -> list[str]:
    """Return where penalties were not chosen, and where the grid may have been too narrow."""
    from b2m_fast.methods.config import PENALTIES

    labelled, out = _any(runs)["labelled"], []
    alone = [size for size, count in labelled.items() if count < 2 * _classes(settings)]
    if alone:
        out.append(
            f"With n = {', '.join(alone)} each class has one sample, so no penalty can be chosen: all arms have the largest, "
            f"{PENALTIES[-1]:g}, which is to compare with these samples."
        )
    edges = []
    for name, seeds in runs.items():
        at: dict[str, str] = {}
        for size in (s for s in labelled if s not in alone):
            counts = [r["penalties"][size] for r in seeds.values()]
            total = sum(sum(c.values()) for c in counts)
            for edge, penalty in (("smallest", PENALTIES[0]), ("largest", PENALTIES[-1])):
                if (
                    2 * sum(n for c in counts for key, n in c.items() if float(key) == penalty)
                    > total
                ):
                    at[size] = edge
        for edge, group in groupby(at.items(), key=lambda item: item[1]):
            edges.append(f"{name} at n = {', '.join(size for size, _ in group)} ({edge})")
    if edges:
        out.append(
            f"More than half of the chosen penalties lie at an edge of the grid ({PENALTIES[0]:g} to {PENALTIES[-1]:g}): "
            f"{'; '.join(edges)}."
        )
    return out


def _variability_words(runs: Runs) -> list[str]:
    """Return where brains that differ lead to estimates that differ, and encoders that know nothing do not."""
    found: dict[str, dict[str, MantelTest]] = {"brain": {}, "null": {}} | {
        "brain" if arm.get(name).make is brain_mean else "null": tests
        for name, tests in _variability(runs).items()
    }
    tests = found["brain"]
    values = [t.r for t in tests.values() if np.isfinite(t.r)]
    if not values:
        return []
    one = next(r for seeds in runs.values() for r in seeds.values() if r["distance"] is not None)
    level = f"p at most {LEVEL:g} / {len(tests)}"
    there, null = (
        [s for s, t in found[k].items() if t.p <= LEVEL / len(tests)] for k in ("brain", "null")
    )
    sure, both = [s for s in there if s not in null], [s for s in there if s in null]
    if not there:
        end = f"p above {LEVEL:g} / {len(tests)} everywhere: no relation is shown."
    elif not found["null"]:
        end = f"{level} at n = {', '.join(there)}, but no control was run: what it is due to is not shown."
    elif sure:
        end = f"{level} at n = {', '.join(sure)}, and not so with shuffled encoders."
    else:
        end = "no relation is shown beyond that with shuffled encoders."
    if both:
        end += (
            f" At n = {', '.join(both)} {level}, but also with shuffled encoders, which know nothing of the stimuli: there it says "
            "nothing."
        )
    return [
        f"Mean over brains: distance between estimates against distance between {one['distance_of']}, Spearman {min(values):.2f} to "
        f"{max(values):.2f}; {end}{CIRCULAR * bool(there and one['circular'])}"
    ]


def _encoder_panel(runs: Runs) -> list[Panel]:
    found = _encoders(runs)

    def draw(panel: Any, _: Mapping[str, Any]) -> None:
        for place, q in enumerate(found):
            panel.plot([place, place], [q["r_low"], q["r_high"]], "-", color="0.45", lw=1.5)
            panel.plot(place, q["r"], "o", color="0.2", ms=5)
            if q["ceiling"] is not None:
                panel.plot(place, q["ceiling"], "_", color="0.2", ms=14)
        panel.set_xticks(range(len(found)), [q["name"] for q in found], rotation=60, ha="right")
        panel.set(ylabel="encoder, held-out r (line: quartiles; bar: ceiling)", ylim=(0, 1))

    return [Panel(draw)] if found else []


def _distance_panel(runs: Runs) -> list[Panel]:
    found = {name: distances for name, seeds in runs.items() if (distances := _between(seeds))}

    def draw(panel: Any, styles: Mapping[str, Any]) -> None:
        for name, distances in found.items():
            one = _any({name: runs[name]})
            size = list(distances)[(len(distances) - 1) // 2]
            i, j = np.triu_indices(len(distances[size]), 1)
            x, y = np.array(one["distance"])[i, j], distances[size][i, j]
            look = {"color": styles[name].colour, "marker": styles[name].marker, "ls": ""}
            panel.plot(x, y, ms=4, alpha=0.7, label=f"{name}, n = {size}", **look)
            panel.set_xlabel(f"distance between brains\n({one['distance_of']})")
        panel.set_ylabel("distance between estimates")
        panel.legend(fontsize=7, frameon=False)

    return [Panel(draw)] if found else []
