"""All ops against all their contenders: `make bench`, or `pytest benches`.

The first test of a group (an op, a mode and a size) times all contenders of the group in turns, and
every test then replays the times of its contender to pytest-benchmark through a clock of its own.
pytest-benchmark by itself would time one contender to the end before the next; on a machine that is
never quite idle the two would have met different machines, and their ratio would say little. Medians,
because disturbances only ever add time.

B2M_BENCH=short takes half a minute, B2M_BENCH=full (the default) about 15 minutes on two cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import cases
import harness
import memory
import report
import suite

FORM = os.environ.get("B2M_BENCH") or "full"
SECONDS = {"short": 40.0, "full": 840.0}
RESULTS = Path(__file__).parent / "results"

GROUPS = suite.groups(FORM)
CASES = [(group, contender) for group in GROUPS for contender in group.op.contenders]


class Recorded:
    """A clock that only runs while a recorded call is replayed, and then by its duration."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        return self._now

    def replay(self, seconds: Iterator[float]) -> None:
        self._now += next(seconds)


CLOCK = Recorded()


class Run:
    """What was measured so far."""

    def __init__(self, server: memory.MemoryServer, selected: list[cases.Group]) -> None:
        self._server = server
        self._budget = harness.Budget(SECONDS[FORM], selected)
        self.start = time.monotonic()
        self.found: dict[str, dict[str, harness.Measured]] = {}

    def measured(self, group: cases.Group) -> dict[str, harness.Measured]:
        if group.name not in self.found:
            seconds = self._budget.seconds(group)
            self.found[group.name] = harness.measure(group, seconds, self._server)
        return self.found[group.name]


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    callspecs = [getattr(item, "callspec", None) for item in request.session.items]
    selected = {spec.params["group"].name: spec.params["group"] for spec in callspecs if spec}
    load = [os.getloadavg()[0]]
    with closing(memory.MemoryServer()) as server:
        state = Run(server, list(selected.values()))
        yield state
    everything = [case for group in state.found.values() for case in group.values()]
    load.append(os.getloadavg()[0])
    found = report.document(everything, FORM, time.monotonic() - state.start, load)
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n\n" + report.render(found))
        if len(selected) == len(GROUPS):
            print(f"\nWritten: {report.write(found, RESULTS)}")


def identify(value: cases.Group | cases.Contender) -> str:
    return value.name


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize(("group", "contender"), CASES, ids=identify)
def test_op(benchmark: Any, run: Run, group: cases.Group, contender: cases.Contender) -> None:
    case = run.measured(group)[contender.name]
    if case.skipped:
        pytest.skip(case.skipped)
    assert case.failed is None, case.failed
    benchmark.group = group.name
    benchmark.name = contender.name
    benchmark.extra_info["memory_mib"] = case.memory_mib
    replay: Callable[[Iterator[float]], None] = CLOCK.replay
    benchmark.pedantic(replay, args=(iter(case.seconds),), rounds=len(case.seconds))
