"""An encoding model of many targets against himalaya and scikit-learn.

    B2M_BENCH_ENCODERS=full pytest benches/test_encoders.py -k b2m_fast    # ours: minutes
    B2M_BENCH_ENCODERS=full pytest benches/test_encoders.py                # all: an hour

5,000 stimuli, 4,000 features, 20,000 targets, 20 penalties, 5 folds. Without the variable, as in
`make bench`, a tenth of each size. Every contender has a process of its own, one after the other;
its peak memory is beyond the data. All but ours are given fewer targets, twice, and a straight line
through both says what all targets would take: their time is a part that does not know the targets
and a part for each. The table says so.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import encoding
from b2m_fast import _bench

FORM = os.environ.get("B2M_BENCH_ENCODERS") or "short"
SIZES = {
    "short": encoding.Problem("b2m_fast", 500, 400, 2000),
    "full": encoding.Problem("b2m_fast", 5000, 4000, 20000),
}
FEWER = {"short": (200, 400), "full": (250, 500)}  # targets of the slow ones
LIMITS = {"seconds": 180.0, "memory_mib": 8 * 1024.0}  # of ours, at full size, on two cores
RESULTS = Path(__file__).parent / "results"


def extrapolated(few: dict[str, Any], more: dict[str, Any], targets: int) -> dict[str, Any]:
    """What all targets would take, from two measurements of fewer."""
    slope = (more["seconds"] - few["seconds"]) / (more["targets"] - few["targets"])
    seconds = more["seconds"] + max(0.0, slope) * (targets - more["targets"])
    return more | {"seconds": seconds, "measured_targets": [few["targets"], more["targets"]]}


class Run:
    """What was measured so far."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    def of(self, contender: str) -> dict[str, Any]:
        if contender not in self.found:
            problem = replace(SIZES[FORM], contender=contender, threads=min(2, os.cpu_count() or 1))
            if contender == "b2m_fast":
                self.found[contender] = encoding.measure_apart(problem)
            else:
                few, more = (
                    encoding.measure_apart(replace(problem, targets=t)) for t in FEWER[FORM]
                )
                self.found[contender] = extrapolated(few, more, problem.targets)
        return self.found[contender]


def render(found: dict[str, dict[str, Any]]) -> str:
    """Lay out a table; ratios are to the first row."""
    size = SIZES[FORM]
    lines = [
        f"{size.n} x {size.p} to {size.targets} targets, {size.alphas} penalties, {size.folds} folds",
        f"{'':<44}{'s':>9}{'ratio':>8}{'MiB':>8}  targets measured",
    ]
    ours = found.get("b2m_fast", {}).get("seconds")
    for name, case in found.items():
        ratio = f"{case['seconds'] / ours:.1f}" if ours else "-"
        how = case.get("measured_targets", [case["targets"]])
        lines.append(
            f"{name:<44}{case['seconds']:>9.1f}{ratio:>8}{case['memory_mib']:>8.0f}"
            f"  {', '.join(map(str, how))}"
        )
    return "\n".join(lines)


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    state = Run()
    load = [os.getloadavg()[0]]
    yield state
    load.append(os.getloadavg()[0])
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n\n" + render(state.found))
        print(f"load {load[0]:.1f} -> {load[1]:.1f} (at the start: of others)")
        if set(state.found) == set(encoding.CONTENDERS):
            now = dt.datetime.now(dt.UTC)
            path = RESULTS / f"{now:%Y-%m-%d}-encoding-{FORM}.json"
            cases = [
                {k: v for k, v in case.items() if k not in {"chosen", "weights"}}
                for case in state.found.values()
            ]
            record = {
                "date": f"{now:%Y-%m-%dT%H:%MZ}",
                "form": FORM,
                "load_averages": load,
                "machine": _bench.machine(),
                "cases": cases,
            }
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            print(f"Written: {path}")


@pytest.mark.parametrize("contender", list(encoding.CONTENDERS))
def test_encoder(run: Run, contender: str) -> None:
    case = run.of(contender)
    ours = run.of("b2m_fast")
    if contender not in encoding.OTHER_CHOICE:
        agreement = np.isclose(case["chosen"], ours["chosen"], rtol=1e-4).mean()
        assert agreement >= 0.9, f"{contender} chose other penalties than ours"
    if contender == "b2m_fast" and FORM == "full" and (os.cpu_count() or 1) >= 2:
        for name, limit in LIMITS.items():
            assert case[name] < limit, f"{name} {case[name]:.0f}, more than {limit:.0f}"
