"""The benchmarks compare equals: every contender computes what the reference computes."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch

from b2m_fast import _bench

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benches"))

import baselines
import cases
import harness
import memory
import report
import suite
import timed_losses

N, D = 72, 16

CASES = [(op, contender) for op in suite.all_ops() for contender in op.contenders]


def identify(value: cases.Op | cases.Contender) -> str:
    return value.name


def run(
    contender: cases.Contender, group: cases.Group
) -> tuple[torch.Tensor | None, list[torch.Tensor | None]]:
    inputs = cases.make_inputs(group.n, group.d)
    value = harness.step(contender, group, inputs)()
    return value, [leaf.grad for leaf in inputs.leaves]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks and a rest, so that all of the code of the baselines runs."""
    monkeypatch.setattr(baselines, "CHUNK", 32)
    monkeypatch.setattr(baselines, "TILE", 32)
    monkeypatch.delenv("B2M_ISA", raising=False)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.filterwarnings("ignore")  # of other people's libraries
@pytest.mark.parametrize(("op", "contender"), CASES, ids=identify)
def test_contenders_agree_with_the_reference(op: cases.Op, contender: cases.Contender) -> None:
    if contender.compiled or not contender.differentiable:
        pytest.skip("the same code as eager, or no loss at all")
    name = op.name.rpartition(": ")[2]  # of the op that is timed here in another respect
    plain_op = next(other for other in suite.all_ops() if other.name == name)
    reference = next(c for c in plain_op.contenders if c.name == "reference")
    mode = "forward+backward" if op.has_gradient and not contender.forward_only else "forward"
    group = cases.Group(op, mode, N, D)
    if contender.missing():
        pytest.skip(str(contender.missing()))
    value, gradients = run(contender, group)
    expected, expected_gradients = run(reference, group)
    assert value is not None
    assert expected is not None
    if value.ndim == 1 and expected.ndim == 2:
        i, j = torch.triu_indices(N, N, offset=1)
        expected = expected[i, j]
    loose = 5e-3 if contender.name == "torch.cdist" else 1e-5  # its zeros are none
    rounded = "bfloat16" in f"{op.name} {contender.name}"
    loose = 1e-2 if rounded else loose
    torch.testing.assert_close(
        value.to(expected), expected, rtol=1e-2 if rounded else 1e-4, atol=loose
    )
    for mine, theirs in zip(gradients, expected_gradients, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=max(loose, 2e-5))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("keep", [False, True])
def test_chunked_info_nce_survives_a_column_without_mass(keep: bool) -> None:
    """Its fast way loses a column whose logits all lie far below the largest one."""
    query = torch.eye(4)[[0, 0, 0, 0]]
    key = torch.eye(4)
    key[3] = torch.tensor([-1.0, 0, 0, 0])
    scale = torch.tensor(100.0)
    loss = baselines.chunked_info_nce(query, key, scale, keep)
    torch.testing.assert_close(loss, baselines.eager_info_nce(query, key, scale))


def test_a_wrong_contender_is_found() -> None:
    assert harness.disagreement(torch.tensor(1.0), torch.tensor(1.0), "it") is None
    assert harness.disagreement(torch.tensor(1.01), torch.tensor(1.0), "it") is not None
    assert harness.disagreement(torch.tensor(torch.nan), torch.tensor(1.0), "it") is not None
    factors = {"a": 1.0, "b": 1.0, "c": 2.0}

    def contender(name: str) -> cases.Contender:
        return cases.plain(name, lambda p: factors[name] * p.scale)

    contenders = map(contender, factors)
    group = cases.Group(cases.Op("op", tuple(contenders)), cases.FORWARD, 8, 4)
    found = harness.measure(group, 0.01, None)
    assert [found[name].failed for name in "ab"] == [None, None]
    assert str(found["c"].failed).startswith("differs from a by")


@pytest.fixture(scope="module")
def document() -> dict[str, object]:
    op = next(op for op in suite.all_ops() if op.name == "topk_similarity")
    group = cases.Group(op, "forward", N, D)
    measured = harness.measure(group, 0.05, None)
    return report.document(list(measured.values()), "short", 1.0, [0.5, 2.0])


def test_json_has_the_promised_fields(document: dict[str, object], tmp_path: Path) -> None:
    written = report.write(document, tmp_path)
    assert written.parent == tmp_path
    found = json.loads(written.read_text(encoding="utf-8"))
    assert {
        "date",
        "form",
        "machine",
        "cases",
        "geometric_means",
        "wall_seconds",
        "load_averages",
    } <= set(found)
    machine = found["machine"]
    assert {"processor", "processors", "level", "threads", "torch"} <= set(machine)
    first = found["cases"][0]
    assert first["contender"] == cases.OURS
    assert first["ratio"] == 1
    for case in found["cases"]:
        assert case["failed"] is None
        if case["skipped"]:
            assert "is not installed" in case["skipped"]
            continue
        assert case["rounds"] >= 1
        assert 0 < case["min_ms"] <= case["median_ms"]
    assert {mean["contender"] for mean in found["geometric_means"]} >= {"reference", "torch eager"}


def test_a_run_is_whole_if_nothing_is_missing() -> None:
    op = next(op for op in suite.all_ops() if op.name == "topk_similarity")
    groups = [cases.Group(op, "forward", n, D) for n in (N, 2 * N)]
    contenders = [c.name for c in op.contenders]
    whole = {
        group.name: {name: harness.Measured(group, name, [1.0]) for name in contenders}
        for group in groups
    }
    late = whole | {groups[1].name: harness.skip(groups[1], harness.OUT_OF_TIME)}
    for_other_reasons = whole | {groups[1].name: harness.skip(groups[1], "faiss is not installed")}
    begun = {groups[0].name: whole[groups[0].name]}
    good: dict[str, object] = {"failed": None}
    bad: dict[str, object] = {"failed": "not done after 400 s"}
    for measured, answers, expected in (
        (whole, {"pearson": good}, True),
        (for_other_reasons, {"pearson": good}, True),
        (late, {"pearson": good}, False),
        (begun, {"pearson": good}, False),
        (whole, {"pearson": bad}, False),
        (whole, {}, False),
    ):
        assert report.complete(groups, ["pearson"], measured, answers) is expected


def test_a_part_does_not_take_the_place_of_a_whole_run(
    document: dict[str, object], tmp_path: Path
) -> None:
    whole = report.write(document, tmp_path)
    part = report.write(document, tmp_path, part=True)
    assert part.name == f"{whole.stem}-part.json"
    assert report.write(document, tmp_path, str(tmp_path / "mine"), part=True).name == "mine"


def test_tables_name_every_contender(document: dict[str, object]) -> None:
    text = report.render(document)
    assert all(name in text for name in (cases.OURS, "reference", "torch eager", "torch chunked"))


@pytest.mark.parametrize("by_condition", [True, False])
def test_training_steps_differ_in_nothing_but_the_loss(by_condition: bool) -> None:
    """Both losses are the same number at first, and each alone is that of the step before."""
    pytest.importorskip("lightning_fabric")
    import training

    made = training.calls(64, 8, by_condition=by_condition)
    values = [made[name]() for name in ("b2m_fast", "reference")]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert made["b2m_fast: loss alone"]() == pytest.approx(values[0], rel=1e-6)
    assert made["b2m_fast"]() != values[0]  # it has learned


def test_the_share_of_the_loss_is_printed() -> None:
    pytest.importorskip("lightning_fabric")
    op = next(op for op in suite.all_ops() if op.name.startswith(timed_losses.TRAINING_STEP))
    measured = harness.measure(cases.Group(op, "forward+backward", 64, 8), 0.2, None)
    found = report.document(list(measured.values()), "short", 1.0, [0.5, 2.0])
    assert [s["contender"] for s in found["shares"]] == [cases.OURS, "reference"]
    assert all(0 < s["share"] < 1 for s in found["shares"])
    assert "Share of a training step" in report.render(found)


def test_forms_of_the_run() -> None:
    full, short = suite.groups("full"), suite.groups("short")
    assert {group.name for group in short} <= {group.name for group in full}
    with pytest.raises(ValueError, match="B2M_BENCH"):
        suite.groups("long")


def test_memory_of_the_matrix_of_logits_is_seen() -> None:
    op = next(op for op in suite.all_ops() if op.name == "info_nce")
    eager = next(c for c in op.contenders if c.name == "torch eager")
    n = 1536
    with closing(memory.MemoryServer()) as server:
        peak = server.peak_mib(cases.Group(op, "forward+backward", n, D), eager)
    if peak is None:
        pytest.skip("no /proc/self/clear_refs here")
    matrix = n * n * 4 / 2**20
    assert matrix < peak < 20 * matrix


def test_interleave_gives_slow_calls_fewer_rounds() -> None:
    def work(size: int) -> object:
        return sum(range(size))

    times = _bench.interleave(
        {"fast": lambda: work(1_000), "slow": lambda: work(400_000)}, seconds=0.2
    )
    assert len(times["fast"]) > len(times["slow"]) >= 1
    assert all(seconds > 0 for values in times.values() for seconds in values)


def test_short_form_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert _bench.main(["--n", "64", "96", "--d", "8", "--seconds", "0.05"]) == 0
    text = capsys.readouterr().out
    assert text.count("info_nce") == 2
    assert text.count("rsa_penalty") == 2
    assert "level" in text


def test_short_form_refuses_nonsense() -> None:
    with pytest.raises(SystemExit):
        _bench.main(["--n", "1"])
