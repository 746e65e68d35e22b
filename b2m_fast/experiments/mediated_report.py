"""Tables, words and panels of brain-mediated transfer alone: encoders, single labels, penalties, variability between brains."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from b2m_fast.data import dataset
from b2m_fast.experiments import contract
from b2m_fast.experiments.contract import Measure, Panel, Table, finite, or_nan
from b2m_fast.methods.config import PENALTIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from b2m_fast.evaluate.variability import MantelTest
    from b2m_fast.experiments.contract import Run, Runs
    from b2m_fast.experiments.mediated import Settings

ALL = "all"  # the largest number of labelled samples
LEVEL = 0.05
SINGLE = "brain-"  # how the names of arms through brains begin: of one, or how several are combined
ENCODERS = (
    "Encoders: correlation of predicted and measured responses to held-out stimuli, mean over units (quartiles); ceiling: what a "
    "perfect model would reach, known where stimuli were repeated."
)
CIRCULAR = (
    " The distance between the brains is of the very responses that the encoders were fitted to, in one session whose noise the areas "
    "share: a relation describes these data, it is no test on others."
)


# --------------------------------------------------------------------------------------------------
# Numbers
# --------------------------------------------------------------------------------------------------
def single(name: str) -> str:
    """Return the brain that an arm brain-NAME is through; empty for another arm."""
    several = {SINGLE + combine for combine in ("each", "mean", "stacked")}
    return "" if name in several or not name.startswith(SINGLE) else name.removeprefix(SINGLE)


def _any(runs: Runs) -> Run:
    """Return one of the runs, for what they have in common."""
    return next(run for seeds in runs.values() for run in seeds.values())


def _encoders(runs: Runs) -> list[dict[str, Any]]:
    """Return the quality of the encoders of the brains that were run, each once."""
    found = {q["name"]: q for seeds in runs.values() for r in seeds.values() for q in r["encoders"]}
    return list(found.values())


def _between(seeds: Mapping[int, Run]) -> dict[str, NDArray[np.float64]]:
    """Return the distance between the estimates of brains, averaged over seeds, by number of samples."""
    known = [r["between"] for r in seeds.values() if r["distance"] is not None and r["between"]]
    return {size: np.mean([b[size] for b in known], axis=0) for size in (known or [{}])[0]}


def _compared(runs: Runs) -> Runs:
    """Return the arms whose estimates of brains were compared."""
    return {name: seeds for name, seeds in runs.items() if _between(seeds)}


def _mantel(runs: Runs) -> dict[str, dict[str, MantelTest]]:
    """Return Mantel tests of the distance between estimates, by arm and number of samples."""
    from b2m_fast.evaluate.variability import mantel

    return {
        name: {
            size: mantel(d, np.array(_any({name: seeds})["distance"]))
            for size, d in _between(seeds).items()
        }
        for name, seeds in _compared(runs).items()
    }


# --------------------------------------------------------------------------------------------------
# Reports
# --------------------------------------------------------------------------------------------------
class MediatedReport(contract.Experiment["Settings"]):
    """What is measured, compared and said."""

    def role(self, settings: Settings, arm: str) -> str:
        """Return the role of an arm: tested is the way of combining brains that the settings name, a single brain is no control."""
        if arm == SINGLE + settings.combine:
            return "tested"
        return "other" if single(arm) else super().role(settings, arm)

    def contrasts(self, settings: Settings, arms: Sequence[str]) -> list[tuple[str, str]]:
        """Return those by roles, and the tested arm with the other combination and with what was measured."""
        main, pairs = SINGLE + settings.combine, super().contrasts(settings, arms)
        brain = dataset.listings().get(settings.brain)
        session = settings.session or (brain.about.get("labelled") if brain else None)
        for name, item in self.arms.listings().items():
            like = main if item.about.get("combine") and name != main else ""
            if item.about.get("needs") == "measured":
                # like with like: the brains that were measured
                like = SINGLE + session if session else main
            pairs += [(like, name)] if {like, name} <= set(arms) else []
        return pairs

    def told(self, settings: Settings, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return all pairs but those of single brains with no brain, which are counted instead."""
        role = partial(self.role, settings)
        return [(a, b) for a, b in pairs if not (single(a) and role(b) == "baseline")]

    def title(self, settings: Settings) -> str:
        """Return the labels and the brains."""
        return f"{settings.labels} from predicted responses of {settings.brain}"

    def brief(self, run: Run) -> float | None:
        """Return the score with all samples."""
        return run["scores"][ALL]  # type: ignore[no-any-return]

    def measures(self, settings: Settings, runs: Runs) -> list[Measure]:
        """Return the score at each number of labelled samples."""
        one = _any(runs)
        again = len({seed // settings.folds for seeds in runs.values() for seed in seeds}) > 1
        score, out = "accuracy" if one["classes"] else "r", []
        for size, count in one["labelled"].items():
            draws = 1 if size == ALL else settings.draws
            shared = 1.0 if again else min(1.0, draws * count / one["labelled"][ALL])
            out.append(
                Measure(
                    f"n = {size}" if size != ALL else f"all ({count})",
                    lambda r, k=size: or_nan(r["scores"].get(k)),  # type: ignore[misc]
                    correlation=shared / settings.folds,
                    decides=True,
                    level=1 - LEVEL / len(one["labelled"]),
                    drawn=True,
                    at=count,
                    axes=("labelled samples", f"{score}, test images"),
                    log="x",
                )
            )
        return out

    def notes(self, settings: Settings, runs: Runs) -> list[str]:
        """Return what the scores are."""
        what = "Correlation of estimated and true labels, mean over labels, on images"
        if _any(runs)["classes"]:
            what = "Share of images classified rightly, of those"
        return [
            f"{what} without a part in anything that was fitted to labels; by number of labelled samples n."
        ]

    def tables(self, settings: Settings, runs: Runs) -> list[Table]:
        """Return the encoders' quality, the labels one by one, and the tests of variability between brains."""
        found = [_encoder_table(runs), self._label_table(settings, runs), _mantel_table(runs)]
        return [table for table in found if table.rows]

    def words(self, settings: Settings, runs: Runs) -> list[str]:
        """Return sentences on penalties, single brains, and variability between brains."""
        return [*_penalty_words(runs), *self._single_words(settings, runs), *_mantel_words(runs)]

    def extra_summary(self, settings: Settings, runs: Runs) -> dict[str, Any]:
        """Return the encoders' quality and the Mantel tests."""
        tests = {
            name: {size: asdict(t) | {"r": finite(t.r)} for size, t in found.items()}
            for name, found in _mantel(runs).items()
        }
        return {"encoders": _encoders(runs), "variability": tests}

    def panels(self, settings: Settings, runs: Runs) -> list[Panel]:
        """Return the encoders, and the distances between estimates against those between brains."""
        drawn: list[tuple[Any, Any]] = [
            (_encoders(runs), _draw_encoders),
            (_compared(runs), _draw_distances),
        ]
        return [Panel(partial(draw, found)) for found, draw in drawn if found]

    def _label_table(self, settings: Settings, runs: Runs) -> Table:
        """Return scores with half of the sizes and with all, where labels are numbers and there are arms to compare."""
        from b2m_fast.experiments.report import cell, difference, mean

        by_role, one = {self.role(settings, name): name for name in runs}, _any(runs)
        base, tested = by_role.get("baseline"), by_role.get("tested")
        if base is None or tested is None or one["classes"]:
            return Table("", [], [])
        sizes = list(one["labelled"])
        few = sizes[(len(sizes) - 1) // 2]
        measures = dict(zip(sizes, self.measures(settings, runs), strict=True))
        shown, rows = dict.fromkeys((few, ALL)), []
        for k, name in enumerate(one["names"]):
            row = [name]
            for size in shown:
                of = partial(lambda r, k, size: float(r["labels"][size][k]), k=k, size=size)
                label = replace(measures[size], of=of)
                row += [cell(mean(runs, arm, label)).partition(" ")[0] for arm in (base, tested)]
                row.append(cell(difference(runs, tested, base, label), sign="+"))
            rows.append(row)
        head = [h for size in shown for h in (f"{base}, n = {size}", tested, "difference")]
        text = f"Label by label: r with n = {few}, and with all. Differences {tested} - {base} as above."
        return Table(text, ["label", *head], rows)

    def _single_words(self, settings: Settings, runs: Runs) -> list[str]:
        """Return how many of the single brains are better, or worse, than no brain."""
        from b2m_fast.experiments.report import favours

        base = next((name for name in runs if self.role(settings, name) == "baseline"), "")
        brains = [name for name in runs if single(name)]
        if not brains or len(runs.get(base, {})) < 2:
            return []
        columns = [replace(m, level=0.95) for m in self.measures(settings, runs)]
        signs = [{favours(runs, name, base, m) for m in columns} for name in brains]
        better, worse = (sum(sign in found for found in signs) for sign in (1, -1))
        return [
            f"Of {len(brains)} single brains {better} are better than {base} at some n, and {worse} are worse at some n (not "
            "corrected for their number)."
        ]


# --------------------------------------------------------------------------------------------------
# Encoders, penalties, variability
# --------------------------------------------------------------------------------------------------
def _encoder_table(runs: Runs) -> Table:
    rows = []
    for q in _encoders(runs):
        r = f"{q['r']:.3f} ({q['r_low']:.2f}, {q['r_high']:.2f})"
        ceiling = "not known" if q["ceiling"] is None else f"{q['ceiling']:.3f}"
        rows.append([q["name"], str(q["units"]), str(q["stimuli"]), r, ceiling])
    return Table(ENCODERS, ["brain", "units", "stimuli", "held-out r", "ceiling"], rows)


def _mantel_table(runs: Runs) -> Table:
    found = _mantel(runs)
    if not found:
        return Table("", [], [])
    one = _any(_compared(runs))
    text = (
        "Do brains that differ lead to estimates that differ? Spearman correlation over pairs of brains of the distance between "
        f"their estimates (1 - r, averaged over seeds) with the distance between {one['distance_of']}; p: Mantel test, one-sided, "
        "brains permuted. shuffled: the same with encoders that know nothing of the stimuli. Estimates are in standard deviations "
        f"of each label.{CIRCULAR * one['circular']}"
    )
    rows = [
        [name, *(f"{t.r:.2f} (p = {t.p:.2g})" for t in tests.values())]
        for name, tests in found.items()
    ]
    return Table(text, ["arm", *(f"n = {size}" for size in next(iter(found.values())))], rows)


def _penalty_words(runs: Runs) -> list[str]:
    """Return where penalties were not chosen, and where the grid may have been too narrow."""
    one, out = _any(runs), []
    alone = [size for size, count in one["labelled"].items() if count < 2 * one["classes"]]
    if alone:
        out.append(
            f"With n = {', '.join(alone)} each class has one sample, so no penalty can be chosen: all arms have the largest, "
            f"{PENALTIES[-1]:g}, which is to compare with these samples."
        )
    edges = []
    for name, seeds in runs.items():
        at = {
            size: edge
            for size in one["labelled"]
            if size not in alone and (edge := _edge([r["penalties"][size] for r in seeds.values()]))
        }
        for edge, group in groupby(at.items(), key=lambda item: item[1]):
            edges.append(f"{name} at n = {', '.join(size for size, _ in group)} ({edge})")
    if edges:
        out.append(
            f"More than half of the chosen penalties lie at an edge of the grid ({PENALTIES[0]:g} to {PENALTIES[-1]:g}): "
            f"{'; '.join(edges)}."
        )
    return out


def _edge(counts: list[dict[str, int]]) -> str:
    """Return the edge of the grid at which more than half of the chosen penalties lie; empty if there is none."""
    total = sum(sum(count.values()) for count in counts)
    for edge, penalty in (("smallest", PENALTIES[0]), ("largest", PENALTIES[-1])):
        if 2 * sum(count.get(f"{penalty:.3g}", 0) for count in counts) > total:
            return edge
    return ""


def _mantel_words(runs: Runs) -> list[str]:
    """Return where brains that differ lead to estimates that differ, and encoders that know nothing do not."""
    compared, tests = _compared(runs), _mantel(runs)
    through = {name: bool(_any({name: seeds})["encoders"]) for name, seeds in compared.items()}
    brain, null = (
        next((tests[name] for name, real in through.items() if real == which), {})
        for which in (True, False)
    )
    values = [t.r for t in brain.values() if np.isfinite(t.r)]
    if not values:
        return []
    limit, one = LEVEL / len(brain), _any(compared)
    there, by_chance = ([s for s, t in found.items() if t.p <= limit] for found in (brain, null))
    sure, both = ([s for s in there if (s in by_chance) == also] for also in (False, True))
    level = f"p at most {LEVEL:g} / {len(brain)} at n ="
    if not there:
        end = f"p above {LEVEL:g} / {len(brain)} everywhere: no relation is shown."
    elif not null:
        end = f"{level} {', '.join(there)}, but no control was run: what it is due to is not shown."
    elif sure:
        end = f"{level} {', '.join(sure)}, and not so with shuffled encoders."
    else:
        end = "no relation is shown beyond that with shuffled encoders."
    if both:
        end += (
            f" With n = {', '.join(both)} p is as small with shuffled encoders, which know nothing of the stimuli: there it says "
            "nothing."
        )
    return [
        f"Mean over brains: distance between estimates against distance between {one['distance_of']}, Spearman {min(values):.2f} to "
        f"{max(values):.2f}; {end}{CIRCULAR * bool(there and one['circular'])}"
    ]


def _draw_encoders(encoders: Sequence[dict[str, Any]], panel: Any, _: Mapping[str, Any]) -> None:
    for place, q in enumerate(encoders):
        panel.plot([place, place], [q["r_low"], q["r_high"]], "-", color="0.45", lw=1.5)
        panel.plot(place, q["r"], "o", color="0.2", ms=5)
        if q["ceiling"] is not None:
            panel.plot(place, q["ceiling"], "_", color="0.2", ms=14)
    names = [q["name"] for q in encoders]
    panel.set_xticks(range(len(names)), names, rotation=60, ha="right")
    panel.set(ylabel="encoder, held-out r (line: quartiles; bar: ceiling)", ylim=(0, 1))


def _draw_distances(compared: Runs, panel: Any, styles: Mapping[str, Any]) -> None:
    for name, seeds in compared.items():
        one, distances = _any({name: seeds}), _between(seeds)
        size = list(distances)[(len(distances) - 1) // 2]
        pairs = np.triu_indices(len(distances[size]), 1)
        x, y = np.array(one["distance"])[pairs], distances[size][pairs]
        dots: dict[str, Any] = {"color": styles[name].colour, "ms": 4, "alpha": 0.7}
        panel.plot(x, y, "o", label=f"{name}, n = {size}", **dots)
        panel.set_xlabel(f"distance between brains\n({one['distance_of']})")
    panel.set_ylabel("distance between estimates")
    panel.legend(fontsize=7, frameon=False)
