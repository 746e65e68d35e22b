"""The table of figures to reach judges rightly, and asks only for what the benchmarks time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benches"))

import harness
import large
import more_tables
import others
import report
import suite
import to_reach
from cases import FORWARD, OURS, STEP, Group
from to_reach import MISSED, REACHED, UNKNOWN, UNRESOLVED, Limit, Ratio

SIZES = ((4096, 64), (8192, 64))
BOTH = Ratio("case", "torch", "high", "op", ("torch",), SIZES, each=3, mean=4)


def record(who: str, n: int, milliseconds: float | None, **more: Any) -> dict[str, Any]:
    """What a run keeps of one contender at D = 64."""
    return {
        "op": "op",
        "mode": STEP,
        "contender": who,
        "n": n,
        "d": 64,
        "median_ms": milliseconds,
        "spread": 0.001,
        "rounds": 100,
        "failed": None,
        "skipped": None,
        **more,
    }


def run(*ratios: float, ours: str = OURS, other: str = "torch") -> list[dict[str, Any]]:
    """A run in which another contender takes so many times as long as ours at each of `SIZES`."""
    found = []
    for (n, _), ratio in zip(SIZES, ratios, strict=False):
        found += [record(ours, n, 10.0), record(other, n, 10 * ratio)]
    return found


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ((3.1, 6.0), REACHED),  # the mean is 4.31
        ((3.0, 6.0), UNRESOLVED),  # one at its limit
        ((3.0, 3.1), MISSED),  # that one does not matter: the mean misses
        ((2.9, 60.0), MISSED),  # the mean does not make up for one
        ((3.5, 3.6), MISSED),  # each, but not the mean
        ((2.0, 2.0), MISSED),
    ],
)
def test_each_and_mean_are_both_wanted(ratios: tuple[float, ...], verdict: str) -> None:
    judged = BOTH.judge(run(*ratios))
    assert judged["verdict"] == verdict
    assert judged["to_reach"] == "3x each, 4x mean"
    assert judged["measured"] == {"4096 x 64": ratios[0], "8192 x 64": ratios[1]}
    assert judged["mean"] == pytest.approx((ratios[0] * ratios[1]) ** 0.5, abs=1e-3)


def test_faster_means_more_than_as_fast() -> None:
    faster = Ratio("case", "torch", "high", "op", ("torch",), SIZES, each=1, above=True)
    as_fast = Ratio("case", "torch", "high", "op", ("torch",), SIZES, each=1)
    assert faster.wanted == "> 1x each"
    assert as_fast.wanted == "1x each"
    for figure in (faster, as_fast):
        assert figure.judge(run(1.0, 2.0))["verdict"] == UNRESOLVED
        assert figure.judge(run(1.001, 2.0))["verdict"] == REACHED
        assert figure.judge(run(0.999, 2.0))["verdict"] == MISSED


def with_noise(records: list[dict[str, Any]], who: str, **noise: Any) -> list[dict[str, Any]]:
    return [r | noise if r["contender"] == who else r for r in records]


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(2.7, MISSED), (2.9, UNRESOLVED), (3.0, UNRESOLVED), (3.1, UNRESOLVED), (3.3, REACHED)],
)
@pytest.mark.parametrize("who", [OURS, "torch"])
def test_what_lies_within_the_noise_is_not_resolved(who: str, ratio: float, verdict: str) -> None:
    """Of the two contenders the noisier one counts: 0.2 of 16 rounds are 5 %."""
    one = Ratio("case", "torch", "high", "op", ("torch",), SIZES[:1], each=3)
    judged = one.judge(with_noise(run(ratio), who, spread=0.2, rounds=16))
    assert (judged["verdict"], judged["noise"]) == (verdict, {"4096 x 64": 0.05})


@pytest.mark.parametrize("noise", [{"spread": None}, {"rounds": 2}])
def test_too_few_rounds_are_taken_to_be_noisy(noise: dict[str, Any]) -> None:
    one = Ratio("case", "torch", "high", "op", ("torch",), SIZES[:1], each=3)
    for ratio, verdict in ((2.69, MISSED), (2.71, UNRESOLVED), (3.29, UNRESOLVED), (3.31, REACHED)):
        assert one.judge(with_noise(run(ratio), OURS, **noise))["verdict"] == verdict


def test_the_noise_of_a_mean_is_that_of_its_sizes() -> None:
    """5 % at one size and next to nothing at the other: 2.5 %."""
    mean = Ratio("case", "torch", "high", "op", ("torch",), SIZES, mean=4)
    for ratio, verdict in ((3.88, MISSED), (3.92, UNRESOLVED), (4.08, UNRESOLVED), (4.12, REACHED)):
        first, *rest = run(ratio, ratio)
        assert mean.judge([first | {"spread": 0.5}, *rest])["verdict"] == verdict


def test_the_noise_of_slower_others_does_not_count() -> None:
    several = Ratio("case", "torch", "high", "op", ("torch", "slow"), SIZES[:1], each=3)
    slow = record("slow", 4096, 90.0, spread=None)
    assert several.judge([*run(3.1), slow])["verdict"] == REACHED


def test_half_a_figure_is_none_unless_it_is_missed() -> None:
    """What was measured is shown; a size that misses decides without the others."""
    good, bad = BOTH.judge(run(9.0)), BOTH.judge(run(2.0))
    assert (good["verdict"], good["measured"]) == (UNKNOWN, {"4096 x 64": 9.0})
    assert good["why"] == "8192 x 64: not run"
    assert bad["verdict"] == MISSED
    mean = Ratio("case", "torch", "high", "op", ("torch",), SIZES, mean=4)
    assert mean.judge(run(2.0))["verdict"] == UNKNOWN  # the other one could still raise it


def test_reasons_are_those_of_the_records() -> None:
    missing = [record(OURS, 4096, 1.0), record("torch", 4096, None, skipped="not installed")]
    wrong = [
        record(OURS, 8192, None, failed="differs by 1"),
        record("torch", 8192, 1.0),
    ]
    judged = BOTH.judge([*missing, *wrong])
    assert judged["verdict"] == UNKNOWN
    assert judged["why"] == f"4096 x 64: torch: not installed; 8192 x 64: {OURS}: differs by 1"
    assert judged["measured"] == {}
    assert BOTH.judge([])["why"] == "not run"


def test_a_wrong_result_is_no_measurement() -> None:
    records = run(9.0, 9.0)
    records[1]["failed"] = "differs by 1"
    assert BOTH.judge(records)["verdict"] == UNKNOWN


def test_other_modes_and_ops_do_not_count() -> None:
    records = run(9.0, 9.0)
    assert BOTH.judge([r | {"mode": FORWARD} for r in records])["verdict"] == UNKNOWN
    assert BOTH.judge([r | {"op": "op high"} for r in records])["verdict"] == UNKNOWN


def test_the_fastest_of_several_others_counts() -> None:
    several = Ratio("case", "torch", "high", "op", ("eager", "chunked"), SIZES, each=3)
    slow = [r for r in run(9.0, 9.0, other="eager") if r["contender"] != OURS]
    assert several.judge([*run(2.0, 8.0, other="chunked"), *slow])["measured"] == {
        "4096 x 64": 2.0,
        "8192 x 64": 8.0,
    }
    assert several.judge(run(9.0, 9.0, other="eager"))["verdict"] == UNKNOWN


@pytest.mark.parametrize(
    ("found", "verdict", "why"),
    [
        ({"name": "p", "seconds": 9.9, "failed": None}, REACHED, ""),
        ({"name": "p", "seconds": 10.0, "failed": None}, MISSED, ""),
        ({"name": "p", "seconds": None, "failed": None}, UNKNOWN, "the system does not tell"),
        ({"name": "p", "failed": "killed"}, UNKNOWN, "killed"),
        ({"name": "another", "seconds": 1.0, "failed": None}, UNKNOWN, "not run"),
    ],
)
def test_limits(found: dict[str, Any], verdict: str, why: str) -> None:
    judged = Limit("p", "seconds", 10).judge([found | {"threads": 2}])
    assert (judged["verdict"], judged["why"]) == (verdict, why)
    assert judged["to_reach"] == "< 10 s"
    assert judged["against"] == ("time" if why == "not run" else "time, 2 threads")


def test_fewer_patterns_satisfy_no_limit() -> None:
    few = large.Question("pearson", n=300)
    assert few.name == "rsa_score pearson, 300 patterns"
    quick = {"name": few.name, "seconds": 0.1, "peak_gb": 0.1, "failed": None, "threads": 2}
    assert {limit.judge([quick])["verdict"] for limit in to_reach.LIMITS} == {UNKNOWN}


@pytest.mark.parametrize("figure", to_reach.RATIOS, ids=lambda f: f"{f.case} - {f.against}")
def test_figures_ask_for_what_is_timed(figure: Ratio) -> None:
    """Every contender of a figure is timed at its sizes, but for what a machine has not."""
    op = next(op for op in suite.all_ops() if op.name == figure.op)
    assert figure.mode in op.modes
    assert set(figure.sizes) <= set(op.sizes)
    contenders = {c.name: c for c in op.contenders}
    for who in (figure.ours, *figure.others):
        for n, d in figure.sizes:
            reason = Group(op, figure.mode, n, d).reason_to_skip(contenders[who])
            assert reason == contenders[who].missing()


def test_limits_ask_for_what_is_run() -> None:
    run_by_a_process = {large.Question(compare).name for compare in large.COMPARISONS}
    assert {limit.name for limit in to_reach.LIMITS} == run_by_a_process


def document(records: list[dict[str, Any]], level: str, *, complete: bool) -> dict[str, Any]:
    return {
        "machine": {"level": level},
        "complete": complete,
        "other_work": None,
        "figures": to_reach.judge(records, []),
    }


def test_the_table_has_a_line_for_every_figure() -> None:
    lines = more_tables.figures(document([], "amx", complete=True))
    assert "has it" in lines[1]
    assert sum(UNKNOWN in line for line in lines) == len(to_reach.RATIOS) + len(to_reach.LIMITS)


def test_the_table_says_that_others_computed() -> None:
    found = document([], "amx", complete=True)
    assert "OTHERS" not in "\n".join(more_tables.figures(found | {"other_work": 0.04}))
    assert "OTHERS USED 31 %" in "\n".join(more_tables.figures(found | {"other_work": 0.31}))


@pytest.mark.parametrize(
    ("numbers", "part"),
    [
        ({0, 2}, (15 - 5) / 20),  # ten seconds of two, which worked 15, 5 of them for us
        (None, (25 - 5) / 40),  # of all four
        ({0, 7}, (25 - 5) / 40),  # of one of ours nothing is told
    ],
)
def test_work_of_others_is_what_is_not_ours(
    numbers: set[int] | None, part: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stat, now = tmp_path / "stat", [100.0]
    own = [1.0]
    monkeypatch.setattr(others, "STAT", stat)
    monkeypatch.setattr(others, "usable", lambda: numbers)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("os.times", lambda: (own[0], 0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    before = [
        "cpu  100 10 20 5000 600 1 2 3 0 0",
        *(f"cpu{k} 1 1 1 9 9 1 1 1 0 0" for k in range(4)),
    ]
    stat.write_text("\n".join([*before, "intr 1 2"]), encoding="ascii")
    work = others.OtherWork()
    after = [
        "cpu  1100 510 520 9000 900 201 202 103 0 0",
        "cpu0 401 201 101 9 9 1 1 101 0 0",
        "cpu1 901 1 1 9 9 1 1 1 0 0",
        "cpu2 1 1 1 9 9 501 201 1 0 0",
        "cpu3 101 1 1 9 9 1 1 1 0 0",
    ]
    stat.write_text("\n".join([*after, "intr 1 2"]), encoding="ascii")
    now[0], own[0] = 110.0, 6.0
    assert work.part() == pytest.approx(part)
    stat.unlink()
    assert work.part() is None


def test_the_table_of_a_part_says_how_much_is_left_out() -> None:
    first = to_reach.RATIOS[0]
    records = [
        record(who, n, milliseconds, op=first.op, d=d)
        for n, d in first.sizes
        for who, milliseconds in ((first.ours, 1.0), *((who, 5.0) for who in first.others))
    ]
    lines = more_tables.figures(document(records, "avx2", complete=False))
    assert "has not: level avx2" in lines[1]
    judged = [line for line in lines if REACHED in line]
    assert len(judged) == 1
    assert "4096 x 64: 5.00" in judged[0]
    left_out = len(to_reach.RATIOS) + len(to_reach.LIMITS) - 1
    assert lines[-1] == f"  ({left_out} more are of cases that were deselected)"


def test_what_is_out_of_time_is_skipped_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine too slow for the fewest rounds ends in time, and the table says what is missing."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    figure = to_reach.RATIOS[0]
    op = next(op for op in suite.all_ops() if op.name == figure.op)
    groups = [Group(op, figure.mode, n, d) for n, d in figure.sizes]
    budget = harness.Budget(100.0, groups)
    assert budget.seconds(groups[0]) > 0.5
    now[0] = 101.0
    assert not budget.over()
    assert budget.seconds(groups[1]) == 0.5  # late, but begun
    now[0] = 126.0
    assert budget.over()
    measured = [case for group in groups for case in harness.skip(group, "out of time").values()]
    judged = figure.judge(report.rows(measured))
    assert judged["verdict"] == UNKNOWN
    assert "out of time" in judged["why"]


def test_figures_come_first() -> None:
    """Time runs out for others before it does for what a figure is asked of."""
    order = list(dict.fromkeys(group.op.name for group in suite.groups("full")))
    asked = {figure.op for figure in to_reach.RATIOS}
    last = max(order.index(name) for name in asked)
    assert not [n for n in order[last + 1 :] if n.startswith(("threads", "peak"))]
    assert set(order[last + 1 :]) >= {"sizes: info_nce", "sweep: info_nce", "rsa_penalty mse"}


def test_a_table_without_times_says_why() -> None:
    op = next(op for op in suite.all_ops() if op.name == to_reach.RATIOS[0].op)
    measured = list(harness.skip(Group(op, STEP, 4096, 64), "out of time").values())
    text = report.render(report.document(measured, "full", 1.0, [0.5, 2.0]))
    assert "not measured: out of time" in text
