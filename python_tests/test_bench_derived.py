"""What the benchmarks work out from times: parts of a peak, times a pair, speed-ups, plots."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benches"))

import cases
import derived
import harness
import large
import more_tables
import peak
import plots
import suite
import timed_levels
import timed_sizes


def record(op: str, who: str, n: int, d: int, milliseconds: float | None) -> dict[str, Any]:
    return {
        "op": op,
        "mode": cases.STEP,
        "n": n,
        "d": d,
        "contender": who,
        "median_ms": milliseconds,
        "min_ms": milliseconds,
        "failed": None,
        "skipped": None,
    }


# --------------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------------
def settings() -> tuple[str | None, int, str]:
    return (
        os.environ.get("B2M_ISA"),
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
    )


@pytest.mark.parametrize("before", [None, "generic"])
def test_calls_leave_settings_as_they_found_them(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also calls that raise; and while they run, the setting is there."""
    monkeypatch.delenv("B2M_ISA", raising=False)
    if before is not None:
        monkeypatch.setenv("B2M_ISA", before)
    at_first = settings()
    found: list[Any] = []

    def call(p: cases.Inputs) -> torch.Tensor:
        found.append(settings())
        raise ArithmeticError

    of_all = [contender for op in suite.all_ops() for contender in op.contenders]
    changed = {c.name: c for c in of_all if c.setting is not nullcontext}
    assert {"b2m_fast avx512", "2 threads", "float32 generic"} <= set(changed)
    for contender in changed.values():
        probe = cases.plain(contender.name, call, setting=contender.setting)
        group = cases.Group(cases.Op("op", (probe,)), cases.STEP, 8, 4)
        with pytest.raises(ArithmeticError):
            harness.step(probe, group, cases.make_inputs(8, 4))()
        assert settings() == at_first
    during = dict(zip(changed, found, strict=True))
    assert during["b2m_fast avx512"] == ("avx512", *at_first[1:])
    assert during["2 threads"] == (before, 2, at_first[2])
    assert during["float32 generic"] == ("generic", 1, at_first[2])


def test_the_gradient_is_computed_in_the_setting_too() -> None:
    """Only the level's own backward pass may be timed with its forward pass."""
    found = []

    class Probe(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.sum()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            found.append(settings())
            return grad.expand(8, 4)

    contender = cases.plain("probe", lambda p: Probe.apply(p.x), setting=cases.at_high)  # type: ignore[no-untyped-call]
    group = cases.Group(cases.Op("op", (contender,)), cases.STEP, 8, 4)
    harness.step(contender, group, cases.make_inputs(8, 4))()
    assert [precision for _, _, precision in found] == ["high"]


# --------------------------------------------------------------------------------------------------
# Numbers that follow from times
# --------------------------------------------------------------------------------------------------
def test_parts_of_the_peak() -> None:
    """8 N^2 D operations, over the peak, or over what several products of parts leave of it."""
    records = [
        record(timed_levels.PEAK, what, 1000, 100, 4.0)  # 8e8 operations: 200 GFLOP/s
        for what in ("float32 avx512", "bfloat16 amx", "float32 high amx", "float32 amx")
    ]
    peaks = peak.Peaks({"avx512": 250.0, "amx": 3000.0}, {})
    found = derived.parts_of_peak(records, peaks)
    assert [r["gflops"] for r in found] == [200.0] * 4
    assert [r["part"] for r in found] == [0.8, 0.067, 0.2, 0.4]


def test_a_peak_that_is_missing_is_said_to_be() -> None:
    records = [record(timed_levels.PEAK, "bfloat16 amx", 1000, 100, 4.0)]
    for peaks, why in (
        (None, "peaks were not measured"),
        (peak.Peaks({}, {"amx": "refused"}), "refused"),
        (peak.Peaks({}, {"all": "no C++ compiler"}), "no C++ compiler"),
    ):
        (found,) = derived.parts_of_peak(records, peaks)
        assert (found["gflops"], found["part"], found["why"]) == (200.0, None, why)


def test_nanoseconds_a_pair() -> None:
    records = [
        record(timed_sizes.SIZES, timed_sizes.NO_LABELS, 1000, 3, 2.0),
        record(timed_sizes.SIZES, timed_sizes.ANY_ORDER, 1000, 3, 3.0),
        record(timed_sizes.SIZES, timed_sizes.NO_LABELS, 2000, 3, None) | {"failed": "wrong"},
    ]
    records += [
        record(timed_sizes.SIZES, who, 3000, 3, None) | {"skipped": "out of time"}
        for who in (timed_sizes.NO_LABELS, timed_sizes.ANY_ORDER)
    ]
    records += [
        record(timed_sizes.SIZES, timed_sizes.NO_LABELS, 8000, 1, 0.1),
        record(timed_sizes.SIZES, timed_sizes.ANY_ORDER, 8000, 1, 0.2),
    ]
    first, second, third, fourth = derived.sizes(records)
    assert (first["ns_a_pair"], first["ns_a_pair_labelled"]) == (2.0, 3.0)
    assert first["labelled_over_plain"] == 1.5
    assert (second["ns_a_pair"], second["labelled_over_plain"]) == (None, None)
    assert [r["why"] for r in (first, second, third)] == ["", "wrong", "out of time"]
    assert (fourth["ns_a_pair"], fourth["ns_a_pair_labelled"]) == (0.002, 0.003)
    assert fourth["labelled_over_plain"] == 2.0  # of the numbers before they were rounded


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 4_000),
        ({"memory.max": "max\n"}, 4_000),
        ({"memory.max": "3000\n"}, 3_000),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 4_000),
        ({"memory/memory.limit_in_bytes": "2000\n"}, 2_000),
    ],
)
def test_memory_is_that_of_the_container(
    limits: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(timed_sizes, "CGROUP", tmp_path)
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4, "SC_PHYS_PAGES": 1000}.__getitem__)
    (tmp_path / "memory").mkdir()
    for name, text in limits.items():
        (tmp_path / name).write_text(text, encoding="ascii")
    assert timed_sizes.memory() == expected


def test_threads_are_compared_with_one() -> None:
    name = f"{timed_sizes.THREADS}info_nce"
    records = [
        record(name, "1 thread", 64, 8, 10.0),
        record(name, "2 threads", 64, 8, 5.0),
        record(name, "8 threads", 64, 8, None) | {"skipped": "2 processor(s) here"},
    ]
    found = derived.threads(records)
    assert [r["times_as_fast"] for r in found] == [1.0, 2.0, None]
    text = "\n".join(more_tables.threads({"threads": found}))
    assert "2.00x" in text
    assert "2 processor(s) here" in text


# --------------------------------------------------------------------------------------------------
# Programs of their own
# --------------------------------------------------------------------------------------------------
def test_lines_of_the_peak_program() -> None:
    found = peak.parse("sse2 66.1\namx - refused by somebody\n")
    assert found == peak.Peaks({"sse2": 66.1}, {"amx": "refused by somebody"})
    assert found.reason("amx") == "refused by somebody"


def test_peak_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "no C++ compiler" in peak.measure().reason("avx2")
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho cannot >&2\nexit 1\n", encoding="ascii")
    broken.chmod(0o755)
    assert peak.measure().reason("avx2").endswith("cannot")


def test_the_peak_program_knows_every_unit() -> None:
    """It builds, and says of each unit how fast it is, or why it is not."""
    if peak.compiler() is None:
        pytest.skip("no C++ compiler")
    found = peak.measure()
    if "all" in found.missing:
        assert "x86" in found.missing["all"]
        pytest.skip(found.missing["all"])
    assert set(found.gflops) | set(found.missing) == set(peak.UNITS.values())
    assert all(gflops > 1 for gflops in found.gflops.values())


def test_the_peak_program_builds_with_compilers_that_lack_units(tmp_path: Path) -> None:
    """Every compiler that knows C++17: what it has no instructions of is missing, with the reason."""
    using = peak.compiler()
    if using is None:
        pytest.skip("no C++ compiler")
    text = peak.SOURCE.read_text(encoding="utf-8")
    for unit in ("AVX512BF16", "AMX"):
        text, count = re.subn(rf"#define KNOWS_{unit} .*", f"#define KNOWS_{unit} 0", text)
        assert count == 1
    old = tmp_path / "old.cpp"
    old.write_text(text, encoding="utf-8")
    flags = ["-O0", "-std=c++17", "-Wall", "-Werror"]
    subprocess.run([using, *flags, str(old), "-o", str(tmp_path / "old")], check=True, timeout=120)
    if platform.machine() not in {"x86_64", "AMD64"}:
        pytest.skip("only the units of x86-64 are known")
    said = subprocess.run([tmp_path / "old"], capture_output=True, check=True, timeout=120).stdout
    missing = peak.parse(said.decode()).missing
    assert missing["avx512bf16"] == missing["amx"] == "not known to this compiler"


def test_a_process_answers() -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")
    found = large.ask(large.Question("pearson", n=300, d=16, responses=40, threads=1))
    assert found["failed"] is None
    assert found["name"] == "rsa_score pearson, 300 patterns"
    assert 0.2 < found["value"] < 1  # the target holds the patterns
    assert found["seconds"] > 0
    assert 0.05 < found["peak_gb"] < 2  # torch alone takes more than the lower bound


def test_without_proc_the_seconds_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(large, "STATUS", tmp_path / "missing")
    found = large.answer(
        large.Question("pearson", n=300, d=16, responses=40, threads=torch.get_num_threads())
    )
    assert found["seconds"] > 0
    assert found["peak_gb"] is None
    line = more_tables.processes({"processes": [found | {"threads": 1}]})[-1]
    assert line.endswith("memory unknown  (1 thread)")


def test_a_process_that_fails_says_why() -> None:
    found = large.ask(large.Question("nonsense", n=20, d=4, responses=5, threads=1))
    assert "nonsense" in found["failed"]
    lines = more_tables.processes({"processes": [found]})
    assert "FAILED" in lines[-1]


# --------------------------------------------------------------------------------------------------
# Plots
# --------------------------------------------------------------------------------------------------
@pytest.fixture
def run() -> dict[str, Any]:
    n_of_d, d_of_n = timed_sizes.SWEEP_AT
    sizes = [(n, d_of_n) for n in timed_sizes.SWEEP_N] + [(n_of_d, d) for d in timed_sizes.SWEEP_D]
    records = []
    for n, d in dict.fromkeys(sizes):
        op = "info_nce" if (n, d) in cases.GRID else timed_sizes.SWEEP
        for k, who in enumerate(plots.CURVES):
            high = who.endswith("high") and op == "info_nce"
            name, of = (cases.OURS, f"{op} high") if high else (who, op)
            records.append(record(of, name, n, d, (1 + k) * n * n * d * 1e-6))
    of_peak = [
        record(timed_levels.PEAK, what, 4096, d, 1.0 * d)
        for d in (64, 512)
        for what in ("float32 avx512", "bfloat16 amx")
    ]
    peaks = peak.Peaks({"avx512": 250.0, "amx": 3000.0}, {})
    machine = {"processor": "X", "level": "amx", "threads": "2", "torch": "2"}
    return {
        "date": "2026-11-22T10:00Z",
        "machine": machine,
        "cases": records,
        "parts_of_peak": derived.parts_of_peak(of_peak, peaks),
    }


def test_curves_join_the_grid_and_the_sweep(run: dict[str, Any]) -> None:
    for against, sizes in (("n", timed_sizes.SWEEP_N), ("d", timed_sizes.SWEEP_D)):
        found = plots.curves(run, against)
        assert set(found) == set(plots.CURVES)
        assert all([x for x, _ in points] == list(sizes) for points in found.values())
    run["machine"]["level"] = "avx512"
    assert f"{cases.OURS} high" not in plots.curves(run, "n")


def test_every_level_has_a_style() -> None:
    op = next(op for op in timed_levels.every_level() if op.name == timed_levels.PEAK)
    assert {c.name for c in op.contenders} <= set(plots.LEVELS)
    assert {name.split()[-1] for name in plots.LEVELS} == set(peak.UNITS)
    assert set(derived.PARTS) <= set(plots.LEVELS)


def test_plots_are_written(
    run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run), encoding="utf-8")
    assert plots.main([str(path), "--to", str(tmp_path)]) == 0
    written = {p.stem: p.read_bytes() for p in tmp_path.glob("*.svg")}
    assert set(written) == set(plots.PLOTS)
    assert all(len(content) < 100_000 for content in written.values())
    assert all(b"2026-11-22" in content for content in written.values())
    assert b"milliseconds" in written["performance-n"]
    assert plots.main([str(path), "--to", str(tmp_path)]) == 0
    assert all((tmp_path / f"{name}.svg").read_bytes() == c for name, c in written.items())
    path.write_text(json.dumps(run | {"parts_of_peak": []}), encoding="utf-8")
    capsys.readouterr()
    assert plots.main([str(path), "--to", str(tmp_path)]) == 1
    assert "performance-peak.svg is not drawn" in capsys.readouterr().out


def test_the_newest_whole_run_is_drawn(tmp_path: Path) -> None:
    for name, date, complete in (
        ("a", "2026-01-02", True),
        ("b", "2026-01-01", True),
        ("c", "2026-01-03", False),
    ):
        run = {"date": date, "complete": complete, "parts_of_peak": []}
        (tmp_path / f"{name}-full.json").write_text(json.dumps(run), encoding="utf-8")
    (tmp_path / "old-full.json").write_text(json.dumps({"date": "2027"}), encoding="utf-8")
    assert plots.newest(tmp_path) == tmp_path / "a-full.json"
    assert plots.newest(tmp_path / "empty") is None
