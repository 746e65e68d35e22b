"""The engine of all experiments, on a toy: settings, refusals, names of runs, workers, going on, what is reported."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from b2m_fast.experiments import engine, report, runs
from b2m_fast.experiments.settings import choose, make, plain
from toy_experiment import Toy, ToySettings

HERE = Path(__file__).parent
COMMAND = [
    sys.executable,
    "-c",
    """
import sys
from toy_experiment import Toy
from b2m_fast.experiments import engine
sys.exit(engine.main(Toy(), sys.argv[1:]))
""",
]


def run(out: Path, *arguments: str) -> int:
    return engine.main(Toy(), [*arguments, "--out", str(out), "--quiet", "--workers", "1"])


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


# --------------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------------
def test_each_source_of_a_setting_wins_over_those_before_it(tmp_path: Path) -> None:
    """Field, preset, configuration file, option: the last one that speaks wins."""
    config = {
        "training": {"gain": 0.2, "steps": 7},
        "seeds": [4],
        "preset": [{"when": {"student": "line"}, "training": {"gain": 0.3}}],
    }
    chosen = choose(Toy(), {"training": {"steps": 9}}, config)
    assert chosen.settings.training.steps == 9
    assert chosen.settings.training.gain == 0.3  # its condition fits what is configured
    assert chosen.seeds == [4]
    assert (
        choose(Toy(), {}, {"preset": [{"when": {"student": "other"}, "levels": [1.0]}]}).settings
        == ToySettings()
    )


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"training": {"step": 3}}, "did you mean training.steps"),
        ({"training": {"steps": "x"}}, "training.steps: Expected `int`"),
        ({"training": {"steps": 0}}, "training: steps must be at least 1, got 0"),
        ({"training": {"schedule": "slow"}}, "slow"),
        ({"levels": 3}, "levels"),
    ],
)
def test_a_wrong_setting_is_named(tree: dict[str, Any], words: str) -> None:
    """Unknown names, wrong types and refused values say which setting it is."""
    with pytest.raises(ValueError, match=words.replace("`", ".")):
        make(ToySettings, tree)


def test_settings_survive_json() -> None:
    """What a worker or a report reads back is the same settings."""
    settings = ToySettings(levels=(0.25,), note="x")
    assert make(ToySettings, json.loads(json.dumps(plain(settings)))) == settings


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "stepps=3"], "did you mean"),
        (["--set", "steps"], "NAME=VALUE"),
        (["--steps", "0"], "at least 1"),
        (["--student", "circle"], "there are line"),
        (["--arms", "brian"], "there is no arm 'brian'; there are none, brain, shuffled"),
        (["--seeds", "-1"], "at least 0"),
        (["--data", "/nowhere"], "/nowhere"),
        (["--config", "/nowhere.toml"], "/nowhere.toml"),
        (["--accelerator", "cuda"], "no CUDA device"),
        (["--devices", "2"], "one device"),
    ],
)
def test_refusals_come_before_anything_is_written(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong wish costs no run: exit code 2, one clear line, nothing written."""
    out = tmp_path / "out"
    assert run(out, *arguments) == engine.USAGE
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_help_names_every_default() -> None:
    """`--help` has each setting with its default, whether it has an option of its own or not."""
    text = " ".join(engine.parser(Toy()).format_help().split())
    for part in (
        "--steps",
        "default: 12",
        "training.gain (default: 0.05)",
        "levels",
        "default: 0 0.5",
        "shuffled",
    ):
        assert part in text, part


# --------------------------------------------------------------------------------------------------
# Runs
# --------------------------------------------------------------------------------------------------
def test_a_second_command_repeats_nothing(tmp_path: Path) -> None:
    """Finished runs are found again; other settings lie beside them under other names."""
    assert run(tmp_path, "--seeds", "0", "1") == engine.OK
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").iterdir()}
    assert len(before) == 6
    assert run(tmp_path, "--seeds", "0", "1", "2") == engine.OK
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").iterdir()}
    assert {p: after[p] for p in before} == before
    assert len(after) == 9
    assert run(tmp_path, "--seeds", "0", "--steps", "5") == engine.OK
    assert len(list((tmp_path / "runs").iterdir())) == 12
    assert results(tmp_path)["teacher"]["words"] == ["The toy is a TOY."]


def test_workers_give_the_same_results(tmp_path: Path) -> None:
    """Processes of their own change nothing but the time it takes."""
    assert run(tmp_path / "one", "--seeds", "0") == engine.OK
    code = engine.main(
        Toy(), ["--seeds", "0", "--workers", "2", "--quiet", "--out", str(tmp_path / "two")]
    )
    assert code == engine.OK
    one, two = (
        {(r["arm"], r["seed"]): r["curve"] for r in results(tmp_path / n)["runs"]}
        for n in ("one", "two")
    )
    assert one == two


def test_a_failed_run_is_reported_and_the_rest_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A diverged run is an exit code and a line; what is missing is said."""
    assert run(tmp_path, "--seeds", "0") == engine.OK
    assert run(tmp_path, "--seeds", "0", "--set", "note=fail") == engine.FAILED
    assert "FloatingPointError: the toy diverged" in capsys.readouterr().err


def test_a_worker_that_dies_takes_no_other_run_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A crash of the process (as a fault of a library is) costs one run."""
    monkeypatch.setenv("TOY_DIES", "brain-0")
    code = engine.main(
        Toy(), ["--seeds", "0", "1", "--workers", "2", "--quiet", "--out", str(tmp_path)]
    )
    assert code == engine.FAILED
    assert "brain-seed0 FAILED: the process ended with code 7" in capsys.readouterr().err
    missing = results(tmp_path)["missing"]
    assert [(m["arm"], m["seed"]) for m in missing] == [("brain", 0)]
    assert len(results(tmp_path)["runs"]) == 5


OWN = """
from toy_experiment import arm

@arm("mine{workers}", "twice the gain")
def mine(gain):
    return {factor} * gain
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_changed_line_of_an_own_arm_makes_its_runs_again(tmp_path: Path, workers: str) -> None:
    """The content of a user's file is part of a run's name, in worker processes too."""
    file, out = tmp_path / "own.py", tmp_path / "out"
    command = ["--arms", "none", f"{file}:mine", "--seeds", "0", "--steps", "3"]
    command += ["--workers", workers, "--quiet", "--out", str(out)]
    heights = []
    for factor in (2, 2, 3):
        file.write_text(OWN.format(factor=factor, workers=workers))
        assert engine.main(Toy(), command) == engine.OK
        found = {r["arm"]: r["height"] for r in results(out)["runs"]}
        assert set(found) == {"none", f"mine{workers}"}
        heights.append((found[f"mine{workers}"], len(list((out / "runs").iterdir()))))
    assert heights[0] == heights[1]
    assert heights[2][0] > heights[1][0]
    assert heights[2][1] == heights[1][1] + 1  # no other arm's


def test_a_folder_that_cannot_be_written_to_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of training must not end in a folder that takes no results, named or not; nor is one begun for a refused command."""
    monkeypatch.setattr(Toy, "prepare", lambda *_: pytest.fail("too late"))
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    more = ["/proc", "/proc/new/folder"] if Path("/proc").exists() else []
    for out in ("file", "file/below", *more):
        assert engine.main(Toy(), ["--out", out]) == engine.USAGE
        assert f"{out} cannot be written to: " in capsys.readouterr().err
    assert engine.main(Toy(), ["--out", "new", "--steps", "0"]) == engine.USAGE
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
    Path("b2m-results").touch()
    assert engine.main(Toy(), []) == engine.USAGE
    assert "b2m-results/toy-line cannot be written to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "which"), [(runs, "runs/"), (report, "results.json"), (engine, "teachers/")]
)
def test_a_full_disk_is_one_line(
    module: ModuleType,
    which: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What cannot be stored ends the command with code 2, not with a traceback."""
    real = module.write_atomically

    def full(path: Path, content: str | bytes) -> None:
        if which in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    monkeypatch.setattr(module, "write_atomically", full)
    assert run(tmp_path, "--arms", "none", "--seeds", "0") == engine.USAGE
    error = capsys.readouterr().err
    assert error.endswith("b2m toy: [Errno 28] No space left on device\n")
    assert "Traceback" not in error


@pytest.mark.slow
def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    """Killed after the first runs, without a farewell: whole files stay, and the same command does the rest."""
    command = ["--arms", "none", "--seeds", *map(str, range(12)), "--set", "note=pause"]
    wanted = [*command, "--workers", "1", "--quiet", "--out", str(tmp_path)]
    process = subprocess.Popen([*COMMAND, *wanted], cwd=HERE)
    while not list(tmp_path.glob("runs/*.json")) and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait(timeout=60)
    done = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*.json")}
    assert 1 <= len(done) < 12
    assert all(json.loads(path.read_text())["result"] for path in done)
    assert engine.main(Toy(), wanted) == engine.OK
    assert {p: p.stat().st_mtime_ns for p in done} == done
    assert len(results(tmp_path)["runs"]) == 12


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    """Stopped by Ctrl-C: exit code 130, finished runs stay, the same command goes on."""
    command = [
        *COMMAND,
        "--set",
        "note=wait",
        "--seeds",
        "0",
        "--workers",
        "2",
        "--out",
        str(tmp_path),
    ]
    process = subprocess.Popen(
        command, cwd=HERE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    time.sleep(6)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == engine.INTERRUPTED, error
    assert "the same command goes on from here" in error
    assert not multiprocessing.active_children()
