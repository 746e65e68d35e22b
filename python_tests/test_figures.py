"""Figures are drawn whatever the runs are, and every arm has a look of its own."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from b2m_fast.experiments import figures
from b2m_fast.experiments.report import Results
from made_up_experiment import levels, results


def texts(panel: Any) -> list[str]:
    return [t.get_text() for t in panel.texts]


def many(count: int) -> Results:
    others: dict[str, Any] = {f"arm{k}": (30 + k, 0.8) for k in range(count)}
    return results(3, none=(60, 0.9), brain=(20, 0.9), **others)


def test_every_arm_has_a_look_of_its_own() -> None:
    """Tested in colour, baseline black; thirty arms that nobody knows differ in colour, dashes or marker."""
    looks = figures.styles(many(30).roles)
    assert looks["none"].colour == "#000000"
    assert looks["brain"].drawn["lw"] > looks["none"].drawn["lw"] > looks["arm0"].drawn["lw"]
    assert len({(s.colour, str(s.line), s.marker) for s in looks.values()}) == 32


@pytest.mark.parametrize(
    "of",
    [
        pytest.param(many(30), id="many arms"),
        pytest.param(results(stranger=(60, 0.9)), id="one arm, not known"),
        pytest.param(results(1, none=(60, 0.9), brain=(20, 0.9)), id="one seed"),
        pytest.param(results(none=(200, 0.9), brain=(200, 0.9)), id="all censored"),
        pytest.param(results(none=(60, math.nan), brain=(20, math.nan)), id="NaN"),
        pytest.param(levels(none=(0.1, 0.2, 0.3), brain=(0.2, 0.3, 0.4)), id="levels"),
        pytest.param(levels(1, brain=(0.2, 0.3, 0.4)), id="levels, one arm and seed"),
        pytest.param(levels(none=(0.1, math.nan, 0.3), brain=(0.2, 0.3, 0.4)), id="levels, NaN"),
    ],
)
def test_a_figure_is_drawn(of: Results, recwarn: pytest.WarningsRecorder) -> None:
    """A PNG, without a warning."""
    assert figures.figure(of, "In short: " + "words " * 60).startswith(b"\x89PNG")
    assert not [str(w.message) for w in recwarn]


def test_runs_of_different_length_are_drawn_as_far_as_all_go() -> None:
    """Means of a curve are over all seeds at every place."""
    of = results(none=(60, 0.9))
    of.runs["none"][0]["history"] = of.runs["none"][0]["history"][:4]
    assert figures.figure(of).startswith(b"\x89PNG")


def test_names_at_the_ends_of_lines_do_not_overlap() -> None:
    """Lines that end at one place have their names beside one another, in their order, near their ends."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panel = FigureCanvasAgg(Figure()).figure.add_subplot()
    ends = {"a": 0.5, "b": 0.5, "c": 0.501, "d": 0.0, "e": 1.0}
    looks = figures.styles(dict.fromkeys(ends, "control"))
    for arm, y in ends.items():
        panel.plot([0, 1], [0.2, y])
        figures.name(panel, arm, looks[arm], 1, y)
    panel.autoscale_view()
    figures._write_names(panel)
    places = {t.get_text(): t.get_position()[1] for t in panel.texts}
    assert sorted(places, key=places.__getitem__) == ["d", "a", "b", "c", "e"]
    boxes = sorted((t.get_window_extent() for t in panel.texts), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 for low, high in itertools.pairwise(boxes))
    assert places["e"] == pytest.approx(0.955, abs=0.03)


def test_seeds_that_did_not_reach_the_criterion_are_open_triangles() -> None:
    """At the step where their training ended, beside the dots of those that did."""
    from matplotlib.figure import Figure

    of = results(none=(85, 0.9))
    panel = Figure().add_subplot()
    figures._times(panel, of.runs, of.measures[1], figures.styles(of.roles))
    lines: Any = panel.get_lines()
    shapes = {line.get_marker(): list(line.get_xdata()) for line in lines}
    assert shapes[">"] == [100, 100, 100]
    assert sorted(set(shapes["o"])) == [85, 95]
    assert shapes["|"] == [95]
