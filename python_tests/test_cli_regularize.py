"""`b2m regularize` from arguments to files, and what happens when it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import small_lab
from b2m_fast import cli
from b2m_fast.experiments import regularize_experiment as lab
from b2m_fast.experiments.runs import Job

SMALL = ["--epochs", "1", "--width", "2", "--attack-images", "4", "--batch", "128"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cortex and a task that take no time."""
    small_lab.shrink(monkeypatch.setattr)


def regularize(out: Path, *arguments: str) -> int:
    return cli.main(
        ["regularize", *SMALL, "--quiet", "--workers", "1", "--out", str(out), *arguments]
    )


def exit_code(*arguments: str) -> int:
    """Code of a call that argparse may end."""
    try:
        return cli.main(list(arguments))
    except SystemExit as stop:
        return int(str(stop.code))


@pytest.mark.usefixtures("small")
def test_whole_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Arms times seeds give a table, a figure, a JSON with everything, and plain words."""
    arms = ["none", "neural", "pixel-threshold", "blur"]
    assert regularize(tmp_path, "--arms", *arms, "--seeds", "0", "1") == 0
    printed = capsys.readouterr().out
    assert "SYNTHETIC" in printed
    assert "neural against pixel-threshold" in printed
    table = (tmp_path / "results.md").read_text()
    assert all(f"| {arm} " in table for arm in arms)
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    full = json.loads((tmp_path / "results.json").read_text())
    assert len(full["runs"]) == 8
    assert full["experiment"]["training"]["alpha"] > 0
    assert full["versions"]["rsa_penalty"] == "b2m_fast.ops.rsa"
    assert {"cpu", "cores", "workers"} <= set(full["machine"])
    assert full["teacher"]["recordings"]["synthetic-0"]["synthetic"] is True
    assert "neural - none" in full["summary"]["differences"]
    neural = next(r for r in full["runs"] if r["arm"] == "neural")
    assert sum(neural["gamma"]) == pytest.approx(1, abs=1e-5)
    assert neural["history"]["penalty"][0] > 0
    assert str(tmp_path) not in json.dumps(full)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.usefixtures("small")
def test_finished_runs_are_skipped_and_broken_ones_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command again runs nothing, also after others; a broken file is run again."""
    calls: list[str] = []

    def count(job: Job, tick: Callable[[], object]) -> dict[str, Any]:
        calls.append(job.name)
        return real(job, tick)

    real = lab.run
    monkeypatch.setattr(lab, "run", count)
    command = ["--arms", "none", "blur", "--seeds", "3"]
    assert regularize(tmp_path, *command) == 0
    assert calls == ["none-seed3", "blur-seed3"]
    assert regularize(tmp_path, *command) == 0
    assert len(calls) == 2
    (path,) = tmp_path.glob("runs/blur-seed3-*.json")
    path.write_bytes(path.read_bytes()[:-20])
    assert regularize(tmp_path, *command) == 0
    assert calls[2:] == ["blur-seed3"]
    assert regularize(tmp_path, *command, "--blur", "2") == 0
    assert calls[3:] == ["none-seed3", "blur-seed3"]
    assert regularize(tmp_path, *command) == 0
    assert len(calls) == 5


@pytest.mark.usefixtures("small")
def test_a_failed_run_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One failure: the other runs are reported, the traceback is shown, the code is 1."""

    def fail(job: Job, tick: Callable[[], object]) -> dict[str, Any]:
        if job.config["arm"] == "blur":
            raise RuntimeError("no blur today")
        return real(job, tick)

    real = lab.run
    monkeypatch.setattr(lab, "run", fail)
    assert regularize(tmp_path, "--arms", "blur", "none", "--seeds", "0") == 1
    printed = capsys.readouterr()
    assert "Traceback" in printed.err
    assert "no blur today" in printed.err
    full = json.loads((tmp_path / "results.json").read_text())
    assert len(full["runs"]) == 1
    reason = "RuntimeError: no blur today"
    assert full["missing"] == [{"arm": "blur", "seed": 0, "failed": reason}]
    assert f"MISSING: blur, seed 0: {reason}" in printed.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_and_resumed(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C (or worse) after the first run leaves valid files; the next call does the rest."""
    seeds = [str(s) for s in range(40)]
    arguments = ["regularize", *SMALL, "--arms", "none", "--seeds", *seeds, "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, small_lab.__file__, *arguments, "--out", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A test run in the background of a shell inherits that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    deadline = time.monotonic() + 120
    while (
        not list(tmp_path.glob("runs/none-seed0-*.json"))
        and time.monotonic() < deadline
        and process.poll() is None
    ):
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    files = list(tmp_path.glob("runs/none-*.json"))
    results = [json.loads(path.read_text())["result"] for path in files]
    done = {f"none-seed{result['seed']}" for result in results}
    assert 1 <= len(done) == len(files) < len(seeds), err
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert f"{len(done)} of {len(seeds)} runs finished and kept" in err
        assert "| none " in out
    resumed: list[str] = []

    def fake(job: Job, tick: Callable[[], object]) -> dict[str, Any]:
        resumed.append(job.name)
        return results[0] | {"seed": job.config["seed"]}  # type: ignore[no-any-return]

    monkeypatch.setattr(lab, "run", fake)
    monkeypatch.setattr(lab, "make_material", lambda *_: lab.Material(None, {}, {}, {}))  # type: ignore[arg-type]
    assert cli.main([*arguments, "--quiet", "--out", str(tmp_path)]) == 0
    assert sorted(resumed) == sorted({f"none-seed{s}" for s in seeds} - done)
    assert len(json.loads((tmp_path / "results.json").read_text())["runs"]) == len(seeds)


@pytest.mark.usefixtures("small")
def test_a_failed_run_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run wrote before it failed is kept, used by the next call, and gone when it is done."""
    seen: list[bool] = []

    def fail(job: Job, tick: Callable[[], object]) -> dict[str, Any]:
        folder = job.payload.folder(job)
        seen.append(any(folder.glob("*.safetensors")))
        real(job, tick)
        raise RuntimeError("after training")

    real = lab.run
    monkeypatch.setattr(lab, "run", fail)
    assert regularize(tmp_path, "--arms", "none", "--seeds", "0") == 1
    assert regularize(tmp_path, "--arms", "none", "--seeds", "0") == 1
    assert seen == [False, True]
    monkeypatch.setattr(lab, "run", real)
    assert regularize(tmp_path, "--arms", "none", "--seeds", "0") == 0
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arms", "nural"], "invalid choice: 'nural'"),
        (["--alpha", "0"], "must be positive and finite, got 0"),
        (["--epochs", "many"], "--epochs"),
        (["--seeds", "-1"], "--seeds must not be negative, got -1"),
        (["--neural-batch", "2"], "--neural-batch must be at least 4, got 2"),
        (["--demo", "--brain", "cowley-v4"], "--demo is digits and the synthetic cortex"),
        (["--brain", "cowley-v4"], "--data DIR or B2M_DATA"),
        (["--brain", "cowley-v4", "--data", "/no/such"], "/no/such does not exist"),
    ],
)
def test_wrong_arguments(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each mistake ends with code 2 and a message that names the argument and what was got."""
    monkeypatch.delenv("B2M_DATA", raising=False)
    assert exit_code("regularize", *arguments) == 2
    assert words in capsys.readouterr().err


def test_missing_data_say_where_to_get_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty data directory gives the origin and the licence of what is missing."""
    assert exit_code("regularize", "--brain", "cowley-v4", "--data", str(tmp_path)) == 2
    message = capsys.readouterr().err
    assert "github.com/cowleygroup" in message
    assert "GPL-3.0" in message


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """--help explains the method, every arm, examples, outputs and exit codes."""
    assert exit_code("regularize", "--help") == 0
    text = capsys.readouterr().out
    for word in ("Li et al. 2019", "pixel-threshold", "b2m regularize --demo", "results.json",
                 "exit codes", "--pairs", "--center"):  # fmt: skip
        assert word in text


def test_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """`b2m --help` lists the commands; no command is an error."""
    assert exit_code("--help") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("regularize", "info", "bench"))
    assert exit_code() == 2


def test_bench_gets_its_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything after `b2m bench` reaches the benchmark's own parser, --help included."""
    from b2m_fast import _bench

    seen: list[list[str]] = []

    def bench(arguments: list[str]) -> int:
        seen.append(arguments)
        return 0

    monkeypatch.setattr(_bench, "main", bench)
    assert exit_code("bench", "--help", "x") == 0
    assert seen == [["--help", "x"]]
