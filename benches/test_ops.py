"""All ops against all their contenders: `make bench`, or `pytest benches`.

The first test of a group (an op, a mode and a size) times all contenders of the group in turns, and
every test then replays the times of its contender to pytest-benchmark through a clock of its own.
pytest-benchmark by itself would time one contender to the end before the next; on a machine that is
never quite idle the two would have met different machines, and their ratio would say little. Medians,
because disturbances only ever add time.

B2M_BENCH=short takes a minute, B2M_BENCH=full (the default) about 20 on two idle cores. Cases that
a figure to reach is asked of come first. B2M_BENCH_SECONDS sets another time, for a slow machine or
a part (`-k`); a group that has not begun when a quarter more is over is skipped, and said to be. The
JSON of a whole run goes to benches/results, that of any run to the file that B2M_BENCH_OUT names; a
run that was to be whole and was not, for want of time or of a process, gets a name of its own there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

import cases
import harness
import large
import memory
import others
import peak
import report
import suite
from timed_levels import PEAK

FORM = os.environ.get("B2M_BENCH") or "full"
SECONDS = {"short": 60.0, "full": 840.0}
RESULTS = Path(__file__).parent / "results"
LIMIT = float(os.environ.get("B2M_BENCH_SECONDS") or SECONDS[FORM])
OUT = os.environ.get("B2M_BENCH_OUT")

GROUPS = suite.groups(FORM)
CASES = [(group, contender) for group in GROUPS for contender in group.op.contenders]
PROCESSES = large.COMPARISONS if FORM == "full" else ()


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
        self._budget = harness.Budget(LIMIT, selected)
        self.start = time.monotonic()
        self.found: dict[str, dict[str, harness.Measured]] = {}
        self.processes: dict[str, dict[str, Any]] = {}
        self.peaks: peak.Peaks | None = None

    def measured(self, group: cases.Group) -> dict[str, harness.Measured]:
        if group.name not in self.found and self._budget.over():
            self.found[group.name] = harness.skip(group, harness.OUT_OF_TIME)
        elif group.name not in self.found:
            if group.op.name == PEAK and self.peaks is None:
                self.peaks = peak.measure()
            seconds = self._budget.seconds(group)
            self.found[group.name] = harness.measure(group, seconds, self._server)
        return self.found[group.name]

    def process(self, compare: str) -> dict[str, Any]:
        if compare not in self.processes:
            question = large.Question(compare, threads=torch.get_num_threads())
            self.processes[compare] = large.ask(question)
        return self.processes[compare]

    def document(
        self, load: list[float], complete: bool, other_work: float | None
    ) -> dict[str, Any]:
        return report.document(
            [case for group in self.found.values() for case in group.values()],
            FORM,
            time.monotonic() - self.start,
            load,
            processes=list(self.processes.values()),
            peaks=self.peaks,
            complete=complete and FORM == "full",
            other_work=other_work,
        )


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    callspecs = [getattr(item, "callspec", None) for item in request.session.items]
    params = [spec.params for spec in callspecs if spec]
    selected = {p["group"].name: p["group"] for p in params if "group" in p}
    processes = {p["compare"] for p in params if "compare" in p} & set(PROCESSES)
    load, work = [os.getloadavg()[0]], others.OtherWork()
    with closing(memory.MemoryServer()) as server:
        state = Run(server, list(selected.values()))
        yield state
    load.append(os.getloadavg()[0])
    everything = len(selected) == len(GROUPS) and len(processes) == len(PROCESSES)
    complete = report.complete(GROUPS, PROCESSES, state.found, state.processes)
    found = state.document(load, complete, work.part())
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n\n" + report.render(found))
        if everything or OUT:
            print(f"\nWritten: {report.write(found, RESULTS, OUT, part=not complete)}")


def identify(value: cases.Group | cases.Contender) -> str:
    return value.name


@pytest.mark.skipif(not PROCESSES, reason="in the full form only")
@pytest.mark.parametrize("compare", large.COMPARISONS)
def test_process(run: Run, compare: str) -> None:
    """First: the others share the time that this leaves."""
    found = run.process(compare)
    assert found["failed"] is None, found["failed"]


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
