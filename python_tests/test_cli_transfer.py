"""`b2m transfer` and `b2m compare` from arguments to files."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from b2m_fast import cli
from b2m_fast.data.files import DataError
from b2m_fast.experiments import runs, transfer_experiment
from b2m_fast.experiments.comparison import Finished, carried_words, join, read_results
from b2m_fast.experiments.transfer_arms import ARMS
from b2m_fast.experiments.transfer_presets import preset

pytest.importorskip("lightning_fabric")

SMALL = [
    "--task", "delay-match-sample", "--directions", "2", "--units", "8", "--network-steps", "4",
    "--neurons", "12", "--batch", "8", "--workers", "1",
]  # fmt: skip
SHORT = ["--steps", "8", "--every", "4"]


def transfer(method: str, out: Path, *arguments: str) -> int:
    return cli.main(["transfer", method, *SMALL, *SHORT, "--quiet", "--out", str(out), *arguments])


def exit_code(*arguments: str) -> int:
    """Code of a call that argparse may end."""
    try:
        return cli.main(list(arguments))
    except SystemExit as stop:
        return int(str(stop.code))


@pytest.mark.parametrize("method", ["latent", "contrastive"])
def test_whole_experiment(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Arms times seeds give tables, a figure, a JSON with everything, and plain words."""
    arms = ["none", "brain", "shuffled", "label", "network"]
    command = ["--arms", *arms, "--seeds", "0", "1", "--shares", "0.01", "--delays", "1500"]
    assert transfer(method, tmp_path, *command) == 0
    printed = capsys.readouterr().out
    assert "SYNTHETIC" in printed
    assert "brain against label" in printed
    table = (tmp_path / "results.md").read_text()
    assert all(f"| {arm} " in table for arm in arms)
    assert "steps to criterion" in table
    assert "delay 1500 ms" in table
    assert "Less data" in table
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    full = json.loads((tmp_path / "results.json").read_text())
    assert full["command"] == f"transfer {method}"
    assert len(full["runs"]) == 10
    assert full["experiment"]["transfer"]["method"] == method
    assert full["teacher"]["brain"]["synthetic"] is True
    assert "accuracy" in full["teacher"]["network"]
    assert "brain / none" in full["summary"]["ratios"]
    assert str(tmp_path) not in json.dumps(full)
    assert not (tmp_path / "checkpoints").exists()


def test_finished_runs_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command again runs nothing and makes no teacher, also after other settings ran.

    Results are then of the first settings again, and so is what is said of their teacher.
    """
    command = ["--arms", "brain", "--seeds", "3"]
    assert transfer("latent", tmp_path, *command) == 0
    (run,) = tmp_path.glob("runs/brain-seed3-*.json")
    before = run.read_bytes()
    words = json.loads((tmp_path / "results.json").read_text())["words"]
    assert transfer("latent", tmp_path, *command, "--components", "2") == 0
    assert json.loads((tmp_path / "results.json").read_text())["words"] != words
    assert len(list(tmp_path.glob("runs/*.json"))) == 2
    for file in tmp_path.glob("teachers/*.safetensors"):
        file.unlink()
    assert transfer("latent", tmp_path, *command) == 0
    assert run.read_bytes() == before
    assert json.loads((tmp_path / "results.json").read_text())["words"] == words
    assert not list(tmp_path.glob("teachers/*.safetensors"))


def test_a_diverged_arm_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An arm without a result does not vanish: report, tables and JSON say why; no traceback."""
    arms = ["--arms", "none", "brain", "--seeds", "0", "1", "--weight", "1e38"]
    assert transfer("latent", tmp_path, *arms) == 1
    printed = capsys.readouterr()
    assert "brain-seed0 FAILED: FloatingPointError: the loss or its gradient" in printed.err
    assert "Traceback" not in printed.err
    full = json.loads((tmp_path / "results.json").read_text())
    assert [(m["arm"], m["seed"]) for m in full["missing"]] == [("brain", 0), ("brain", 1)]
    for text in (printed.out, (tmp_path / "results.md").read_text(), *full["words"][:1]):
        assert "MISSING: brain, seed 0" in text
        assert "training diverged" in text
    assert "MISSING: none" not in printed.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_and_resumed(
    tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped within a training, by Ctrl-C or worse: the next call ends with the same numbers."""
    arguments = [
        "transfer", "latent", *SMALL, "--steps", "300", "--every", "2", "--arms", "brain",
        "--seeds", "0",
    ]  # fmt: skip
    command = [sys.executable, "-m", "b2m_fast.cli", *arguments, "--quiet"]
    assert cli.main([*arguments, "--quiet", "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "stopped"
    process = subprocess.Popen(
        [*command, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if list(out.glob("checkpoints/brain-*/*.safetensors")):
            break
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert list(out.glob("checkpoints/brain-*/*.safetensors")), err
    assert not list(out.glob("runs/*.json"))
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "0 of 1 runs finished and kept" in err
    assert cli.main([*arguments, "--quiet", "--out", str(out)]) == 0
    capsys.readouterr()

    def numbers(folder: Path) -> Any:
        (path,) = folder.glob("runs/brain-seed0-*.json")
        result = json.loads(path.read_text())["result"]
        return {k: v for k, v in result.items() if k != "seconds"}

    assert numbers(out) == numbers(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["latent", "--arms", "nural"], "invalid choice: 'nural'"),
        (["latent", "--weight", "0"], "must be positive and finite, got 0"),
        (["latent", "--seeds", "-1"], "--seeds must not be negative, got -1"),
        (["latent", "--temperature", "1"], "unrecognized arguments: --temperature"),
        (["contrastive", "--readout", "fixed"], "unrecognized arguments: --readout"),
        (["latent", "--student", "vae", "--task", "direction"], "--student vae can learn driving"),
        (["latent", "--student", "gru", "--brain", "cowley-v4"], "which a gru cannot learn"),
        (["latent", "--student", "vae", "--brain", "pfc-memory"], "which a vae cannot learn"),
        (["latent", "--brain", "steinmetz", "--task", "direction"], "can teach parametric-working"),
        (["contrastive", "--student", "rnn", "--arms", "phase"], "averages over time"),
        (["latent", "--arms", "pixel"], "a recurrent student sees no images"),
        (["contrastive", "--arms", "reversed"], "images have no time course"),
        (["latent", "--until", "0.3"], "--until goes with --schedule"),
        (["latent", "--schedule", "pretrain", "--until", "1"], "below 1 for 'pretrain'"),
        (["latent", "--shares", "2"], "shares must be above 0 and at most 1, got [2.0]"),
        (["latent", "--criterion", "1.5"], "the criterion must be above 0 and at most 1, got 1.5"),
        (["latent", "--delays", "1000", "333"], "must last whole steps"),
        (["contrastive", "--delay", "300"], "are for recurrent students"),
        (["latent", "--delay", "333"], "must last whole steps"),
        (
            ["latent", "--task", "parametric-working-memory", "--directions", "4"],
            "has no directions",
        ),
        (
            ["latent", "--brain", "pfc-memory", "--directions", "4"],
            "--directions 4: --brain pfc-memory was recorded with 6",
        ),
        (
            ["latent", "--brain", "hippocampus", "--directions", "4"],
            "--directions 4: --brain hippocampus was recorded with 2",
        ),
        (["latent", "--stimuli", "images"], "--stimuli is for --brain cowley-v4"),
        (
            ["latent", "--brain", "hippocampus", "--neurons", "7"],
            "--neurons is for --brain synthetic",
        ),
        (
            ["latent", "--brain", "pfc-memory", "--network-steps", "7", "--arms", "brain"],
            "--network-steps is for --brain synthetic or the arm network",
        ),
        (["latent", "--student", "vae", "--latents", "fa"], "--latents is for recurrent students"),
        (["latent", "--weight", "1e300"], "finite in float32, got 1e+300"),
        (["latent", "--brain", "pfc-memory"], "--data DIR or B2M_DATA"),
        (["latent", "--brain", "pfc-memory", "--data", "/no/such"], "/no/such does not exist"),
        (
            ["latent", "--brain", "pfc-memory", "--data", __file__],
            "test_cli_transfer.py is no folder",
        ),
        ([], "STRATEGY"),
    ],
)
def test_wrong_arguments(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each mistake ends with code 2 and a message that names what was wrong, before any work."""
    monkeypatch.delenv("B2M_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert exit_code("transfer", *arguments) == 2
    assert words in capsys.readouterr().err


def test_missing_recordings_say_where_to_get_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty data directory gives the origin and the licence of what is missing."""
    arguments = ["transfer", "latent", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert exit_code(*arguments, "--brain", "pfc-memory") == 2
    message = capsys.readouterr().err
    assert "github.com/pjjeongjun/Orthogonal_Code" in message
    assert "no licence" in message


def test_a_folder_that_cannot_be_written_to_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of training must not end in a folder that takes no results; nor begin to fill one.

    The default folder is looked at like one that is named.
    """
    monkeypatch.setattr(transfer_experiment, "make_material", lambda *_: pytest.fail("too late"))
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    outs = [
        "file",
        "file/below",
        *(["/proc", "/proc/new/folder"] if Path("/proc").exists() else []),
    ]
    for command in (["transfer", "latent"], ["compare", "x"]):
        for out in outs:
            assert exit_code(*command, "--out", out) == 2
            assert f"{out} cannot be written to: " in capsys.readouterr().err
    assert exit_code("transfer", "latent", "--out", "new", "--weight", "0") == 2
    assert exit_code("compare", "x", "--out", "new") == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
    Path("b2m-results").touch()
    capsys.readouterr()
    assert exit_code("transfer", "latent") == 2
    assert "cannot be written to: " in capsys.readouterr().err


@pytest.mark.parametrize("quiet", [True, False])
def test_without_tqdm_there_is_no_bar(
    quiet: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A progress bar that cannot be drawn is no reason not to run, and nothing to tell the quiet."""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    arguments = ["--arms", "none", "--seeds", "0", "--out", str(tmp_path), "--workers", "1"]
    quietly = ["--quiet"] if quiet else []
    assert cli.main(["transfer", "latent", *SHORT, "--units", "4", *arguments, *quietly]) == 0
    assert ("no progress bar without tqdm" in capsys.readouterr().err) is not quiet


@pytest.mark.parametrize("which", ["runs/", "results.json"])
def test_a_full_disk_is_one_line(
    which: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result that cannot be stored ends the command with code 2, not with a traceback."""
    real = runs.write_atomically

    def full(path: Path, content: str | bytes) -> None:
        if which in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    monkeypatch.setattr(runs, "write_atomically", full)
    assert transfer("latent", tmp_path, "--arms", "none", "--seeds", "0") == 2
    err = capsys.readouterr().err
    assert err.endswith("b2m transfer latent: [Errno 28] No space left on device\n")
    assert "Traceback" not in err


@pytest.mark.parametrize("method", ["latent", "contrastive"])
def test_help_teaches(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--help explains the method, arms, brains, examples, outputs and exit codes."""
    assert exit_code("transfer", method, "--help") == 0
    text = capsys.readouterr().out
    words = (
        *ARMS, "pfc-memory", "STAND-IN", "results.json", "teachers/", "checkpoints/", "exit codes",
        "b2m compare",
    )  # fmt: skip
    for word in words:
        assert word in text
    assert ("in the manner of CEBRA" in " ".join(text.split())) is (method == "latent")


@pytest.mark.parametrize(
    ("method", "student", "defaults"),
    [
        ("latent", "gru", {"weight": 1.0, "units": 64, "batch": 64, "criterion": 0.9}),
        ("contrastive", "vae", {"weight": 0.01, "units": 32, "batch": 32, "criterion": 0.005}),
        ("latent", "vae", {"weight": 0.1, "network-steps": 500, "components": 12}),
        ("contrastive", "rnn", {"weight": 0.1, "network-steps": 1500, "neurons": 100}),
    ],
)
def test_help_gives_the_true_defaults(
    method: str, student: str, defaults: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    """A default that --help names is the one that is used."""
    experiment = preset(method, student, "synthetic", None)[0]
    assert exit_code("transfer", method, "--help") == 0
    text = " ".join(capsys.readouterr().out.partition("\narms\n")[0].split())
    found = {
        "weight": experiment.transfer.weight.value,
        "units": experiment.units,
        "batch": experiment.batch,
        "criterion": experiment.evaluation.criterion,
        "network-steps": experiment.teacher.network_steps,
        "components": experiment.teacher.k,
        "neurons": experiment.teacher.neurons,
    }
    for name, value in defaults.items():
        assert found[name] == value
        about = text[text.rindex(f" --{name} ") :]
        about = about[about.index("default: ") :].partition(" --")[0]
        assert f"{value:g}" in about.replace(",", "").split()
    assert exit_code("transfer", "--help") == 0
    assert "2506.20834" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------
# Compare
# --------------------------------------------------------------------------------------------------
def test_arms_of_several_runs_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Arms keep their folder's name; each meets its own none and its namesake in the first."""
    for name, weight in (("weak", "0.1"), ("strong", "1")):
        command = ["--arms", "none", "brain", "--seeds", "0", "1", "--weight", weight]
        assert transfer("latent", tmp_path / name, *command) == 0
    folders = [str(tmp_path / name) for name in ("weak", "strong")]
    assert exit_code("compare", *folders, "--out", str(tmp_path / "both")) == 0
    printed = capsys.readouterr().out
    assert "strong/brain against weak/brain" in printed
    full = json.loads((tmp_path / "both" / "results.json").read_text())
    assert set(full["summary"]["ratios"]) == {
        "weak/brain / weak/none",
        "strong/none / weak/none",
        "strong/brain / strong/none",
        "strong/brain / weak/brain",
    }
    weights = [of["experiment"]["transfer"]["weight"]["value"] for of in full["of"]]
    assert weights == [0.1, 1.0]
    words = "\n".join(full["words"])
    assert "The experiments differ in transfer.weight.value (weak 0.1, strong 1.0)." in words
    assert "weak, strong: The brain is SYNTHETIC" in words
    assert "weak, strong: The network behind the brain" in words
    assert "NOT LEARNED" in words
    assert "reliability across trials" in words
    assert "Their validations are not the same" not in words
    assert (tmp_path / "both" / "results.png").read_bytes().startswith(b"\x89PNG")
    assert exit_code("compare", *folders, "--arms", "brain", "--out", str(tmp_path / "one")) == 0
    table = (tmp_path / "one" / "results.md").read_text()
    assert "| weak/brain " in table
    assert "none" not in table


def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing or foreign results, other criteria, unknown arms: code 2 and the reason.

    Results of experiments are never overwritten.
    """
    out = ["--out", str(tmp_path / "out")]
    for name, criterion in (("a", "0.9"), ("b", "0.8")):
        command = ["--arms", "none", "--seeds", "0", "--criterion", criterion]
        assert transfer("latent", tmp_path / name, *command) == 0
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    for arguments, words in (
        ([a, b], "criterion differs: a has 0.9, b has 0.8"),
        ([a, a], "different names"),
        ([a, "--arms", "brain"], "there are no arms ['brain']"),
        ([str(tmp_path)], "name the folder of a finished experiment"),
        ([a, "--out", a], "is one of the folders to be compared"),
        ([a, "--out", b], "b/results.json holds results of `b2m transfer latent`"),
    ):
        capsys.readouterr()
        before = [(tmp_path / name / "results.json").read_bytes() for name in "ab"]
        assert exit_code("compare", *out, *arguments) == 2
        assert words in capsys.readouterr().err
        assert before == [(tmp_path / name / "results.json").read_bytes() for name in "ab"]
    for _ in range(2):  # an earlier comparison may be replaced
        assert exit_code("compare", a, *out) == 0
    for content, words in (
        ('{"command": "regularize"}', "is of `b2m regularize`"),
        ("{}", "is of `b2m regularize`"),
        ("[", "cannot be read"),
        ('{"command": "transfer latent"}', "cannot be read"),
    ):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(DataError, match=words):
            read_results(tmp_path)


def finished(name: str, words: tuple[str, ...] = (), **changes: Any) -> Finished:
    """An experiment of one arm without runs."""
    experiment = preset("latent", "gru", "synthetic", changes.pop("task", None))[0]
    loop, evaluation = changes.pop("loop", {}), changes.pop("evaluation", {})
    experiment = replace(
        experiment,
        **changes,
        loop=replace(experiment.loop, **loop),
        evaluation=replace(experiment.evaluation, **evaluation),
    )
    return Finished(name, experiment.shown(), asdict(experiment), {"none": {}}, words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "direction"}, "task differs: a has 'delay-match-sample', b has 'direction'"),
        ({"evaluation": {"consecutive": 2}}, "consecutive differs: a has 3, b has 2"),
    ],
)
def test_other_tasks_are_not_compared(changes: dict[str, Any], words: str) -> None:
    """Steps to a criterion of one task say nothing about those of another."""
    with pytest.raises(ValueError, match=words):
        join([finished("a"), finished("b", **changes)])


def test_comparisons_say_what_differs_and_what_each_teacher_is() -> None:
    """Student, grid and length are named; the same warning of two folders is said once."""
    found = [
        finished("a", ("SYNTHETIC.", "k is 3.")),
        finished("b", ("SYNTHETIC.", "k is 4."), student="rnn", loop={"validate_every": 7}),
    ]
    joined, settings = join(found)
    assert settings["every"] == "5 or 7"
    differ, grid, *said = carried_words(found, joined)
    assert differ == (
        "The experiments differ in student (a gru, b rnn); loop.validate_every (a 5, b 7)."
    )
    assert grid.startswith("Their validations are not the same")
    assert said == ["a, b: SYNTHETIC.", "a: k is 3.", "b: k is 4."]
