"""The GPU benchmarks, rehearsed on the host: contenders agree, figures follow from records."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from b2m_fast.ops.reference import contrastive, rsa

GPU = Path(__file__).resolve().parents[1] / "benches" / "gpu"
sys.path.insert(0, str(GPU))

import contenders
import figures
import summary

N, D = 72, 16


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks and a rest, so that all of the code of the contenders runs."""
    monkeypatch.setattr(contenders, "CHUNK", 32)


@pytest.mark.parametrize(
    "loss", [contenders.eager_info_nce, contenders.chunked_info_nce], ids=["eager", "chunked"]
)
def test_contrastive_contenders_agree_with_the_reference(loss: contenders.InfoNCE) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, N, D).unbind()
    leaves = [x.requires_grad_() for x in (query, key, torch.tensor(1 / contenders.TEMPERATURE))]
    found = loss(*leaves)
    gradients = torch.autograd.grad(found, leaves)
    expected = contrastive.info_nce(leaves[0], leaves[1], logit_scale=leaves[2])
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(gradients, torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("formula", [contenders.formula, contenders.formula_in_place])
def test_penalty_contenders_agree_with_the_reference(formula: contenders.Formula) -> None:
    torch.manual_seed(0)
    features, target = torch.randn(N, D, requires_grad=True), torch.randn(N, 2 * D)
    found = contenders.chunked_atanh(features, target, formula)
    (gradient,) = torch.autograd.grad(found, features)
    expected = rsa.rsa_penalty(features, target, compare="atanh")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, features)[0])


def rehearse(script: Path, out: Path, *only: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), "--rehearse", "--out", str(out), "--only", *only]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=out.parent)


def test_rehearsal_measures_every_kind_of_item(tmp_path: Path) -> None:
    """Parent, child and records; a process of its own, as on a device."""
    out = tmp_path / "records.jsonl"
    only = ["ceilings", "forward", "rsa high", "pairwise", "million", "float32 N=8192 D=128"]
    done = rehearse(GPU / "measure.py", out, *only)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert not [r for r in records if r.get("error") or "failed" in r]
    measured = {f.case for f in figures.evaluate(records) if f.measured is not None}
    assert measured == {
        "info_nce forward bf16 N=32768 D=512",
        "info_nce step float32, all N and D",
        "rsa_penalty atanh float32 high",
        "pairwise_similarity bf16",
        "info_nce step bf16 N=1048576 D=512",
    }


def test_item_that_ends_its_process_costs_only_itself(tmp_path: Path) -> None:
    """A child that dies is noted, and the next item measured."""
    code = f"""
import os, sys
sys.path.insert(0, {str(GPU)!r})
import measure
measure.__file__ = __file__  # what the child runs
real = measure.items
measure.items = lambda: [measure.Item("dies", lambda bench: os._exit(7), 5), *real()]
sys.exit(measure.main())
"""
    script, out = tmp_path / "run.py", tmp_path / "records.jsonl"
    script.write_text(code, encoding="utf-8")
    done = rehearse(script, out, "dies", "pairwise")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert {"failed": "dies", "error": "the process ended with 7"} in records
    assert any(r.get("case") == "pairwise_similarity bf16" for r in records)


# --------------------------------------------------------------------------------------------------
# Figures
# --------------------------------------------------------------------------------------------------
def record(case: str, who: str, ms: float, **facts: object) -> figures.Record:
    return {"case": case, "contender": who, "median_ms": ms, **facts}


STEP = "info_nce step bf16 N=8192 D="
RECORDS = [
    record("product", "torch.mm", 1, flops=800e9),
    record("info_nce forward bf16 N=32768 D=512", figures.OURS, 2, flops=1120e9),
    record(f"{STEP}64", figures.OURS, 1),
    record(f"{STEP}64", "eager", 4),
    record(f"{STEP}128", figures.OURS, 1),
    record(f"{STEP}128", "eager", 9),
    record(f"{STEP}256", figures.OURS, 1),
    {"case": f"{STEP}256", "contender": "eager", "error": "out of memory"},
    {"case": f"{STEP}64", "contender": "memeff", "skipped": "memeff is not installed"},
    record("info_nce step bf16 N=1024 D=128", "eager", 1000),
    record("million", figures.OURS, 13_000, total_mib=7000),
    {"failed": "pairwise", "error": "took too long"},
]


def test_figures_follow_from_records() -> None:
    found = {(f.case, f.against): f for f in figures.evaluate(RECORDS)}
    rate = found["info_nce forward bf16 N=32768 D=512", "torch.mm bf16, counting forward"]
    assert rate.measured == pytest.approx(70)
    assert rate.reached
    eager = found["info_nce step bf16, all N and D", "eager"]
    assert eager.measured == pytest.approx(6)
    assert eager.reached is None, "a mean without all its cases says neither yes nor no"
    assert "out of memory" in eager.note
    memeff = found["info_nce step bf16, all N and D", "memeff"]
    assert memeff.reached is None
    assert "not installed" in memeff.note
    seconds = found["info_nce step bf16 N=1048576 D=512", "absolute"]
    assert seconds.reached is False
    assert found["info_nce step bf16 N=1048576 D=512", "absolute, memory with inputs"].reached
    copied = found["pairwise_similarity bf16", "copy bandwidth"]
    assert copied.reached is None
    assert "took too long" in copied.note
    assert "MISSED" in figures.table(list(found.values()))


def test_mean_counts_when_it_has_all_its_cases() -> None:
    records = [
        record(f"info_nce step bf16 N={n} D={d}", who, ms, flops=8 * n * n * d)
        for n in (8192, 32768)
        for d in (64, 128, 256, 512, 1024)
        for who, ms in ((figures.OURS, 1), ("eager", 6))
    ]
    found = {(f.case, f.against): f for f in figures.evaluate(records)}
    assert found["info_nce step bf16, all N and D", "eager"].reached


def test_stages_of_one_day_are_kept_together() -> None:
    earlier = {"stages": {"build": {"code": 0}, "tests": {"code": 1}}, "figures": [1]}
    merged = summary.merge({"stages": {"tests": {"code": 0}}}, earlier)
    assert merged == {"stages": {"build": {"code": 0}, "tests": {"code": 0}}, "figures": [1]}


def test_queue_says_what_is_missing(tmp_path: Path) -> None:
    """Without a device every stage fails at once and says why; nothing hangs, nothing is kept."""
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    results = GPU.parent / "results"
    before = set(results.iterdir())
    command = [str(GPU / "run.sh"), "tests", "sanitize", "bench"]
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHON": sys.executable,
        "OUT": str(tmp_path),
        "B2M_QUEUE_WORK": str(tmp_path / "work"),
    }
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert done.returncode == 1
    assert done.stdout.count("nothing is built") >= 2
    assert "compute-sanitizer was not found" in done.stdout
    assert set(results.iterdir()) == before
    assert {"summary.txt", "tests.log"} <= {path.name for path in tmp_path.iterdir()}
