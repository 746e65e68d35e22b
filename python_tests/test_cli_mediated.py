"""`b2m mediated` as a user meets it: runs, stops and goes on, explains, and refuses nonsense."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from b2m_fast import cli
from b2m_fast.experiments import mediated_experiment as lab
from b2m_fast.experiments.mediated_arms import ARMS

SMALL = [
    "--size", "32", "--taps", "_blocks.3", "--grid", "2", "--components", "40", "--observers", "3",
    "--units", "12", "--sizes", "10", "40", "--draws", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of features for all tests of this file."""
    pytest.importorskip("efficientnet_lite_pytorch")
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "kept" in request.fixturenames:
        monkeypatch.setenv("B2M_CACHE", str(request.getfixturevalue("kept")))


def mediated(out: Path, *arguments: str) -> int:
    return cli.main(["mediated", *SMALL, "--quiet", "--out", str(out), *arguments])


def exit_code(*arguments: str) -> int:
    """Exit code, whether argparse or the command gives it."""
    try:
        return cli.main(["mediated", *arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.usefixtures("kept")
def test_the_embedded_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All arms of two seeds: tables, words, settings, encoders and the figure are written."""
    assert mediated(tmp_path, "--seeds", "0", "1") == 0
    printed = capsys.readouterr().out
    assert "SYNTHETIC" in printed
    assert "2 seeds are too few for a verdict" in printed
    full = json.loads((tmp_path / "results.json").read_text())
    arms = [*(a for a in ARMS if a != "brain-each"), "brain-s1", "brain-s2", "brain-s3"]
    assert {r["arm"] for r in full["runs"]} == set(arms)
    assert len(full["summary"]["encoders"]) == 3
    assert full["experiment"]["features"]["taps"] == ["_blocks.3"]
    assert set(full["summary"]["variability"]) == {"brain-mean", "shuffled"}
    text = (tmp_path / "results.md").read_text()
    assert "| brain-stacked - shuffled " in text
    assert "| s3 " in text
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    assert full["command"] == "mediated"


@pytest.mark.usefixtures("kept")
def test_finished_runs_are_kept_and_only_what_is_missing_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More seeds add runs; with nothing to do no material is made; other settings have runs of their own."""
    arms = ["--arms", "direct", "brain-stacked"]
    assert mediated(tmp_path, *arms, "--seeds", "0") == 0
    (run,) = tmp_path.glob("runs/direct-seed0-*.json")
    before = run.stat().st_mtime_ns
    assert cli.main(["mediated", *SMALL, "--out", str(tmp_path), *arms, "--seeds", "0", "1"]) == 0
    assert "2 runs to do, 2 found" in capsys.readouterr().out
    assert run.stat().st_mtime_ns == before

    def never(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(lab, "make_material", never)
        assert mediated(tmp_path, *arms, "--seeds", "0", "1") == 0
    assert mediated(tmp_path, *arms, "--seeds", "0", "--planted", "outside") == 0
    assert run.stat().st_mtime_ns == before
    assert len(list(tmp_path.glob("runs/direct-seed0-*.json"))) == 2


@pytest.mark.usefixtures("kept")
def test_stopped_by_ctrl_c_and_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the second run keeps the first; the same command ends with the same numbers."""
    arguments = ["--arms", "direct", "brain-mean", "--seeds", "3"]
    assert mediated(tmp_path / "whole", *arguments) == 0
    run = lab.run

    def stopped(job: object, tick: object) -> object:
        if job.config["arm"] == "brain-mean":  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return run(job, tick)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(lab, "run", stopped)
        assert mediated(tmp_path / "part", *arguments) == 130
    assert "1 of 2 runs finished and kept" in capsys.readouterr().err
    assert mediated(tmp_path / "part", *arguments) == 0

    def numbers(folder: str, arm: str) -> object:
        (path,) = (tmp_path / folder / "runs").glob(f"{arm}-seed3-*.json")
        result = json.loads(path.read_text())["result"]
        return {k: v for k, v in result.items() if k != "seconds"}

    for arm in ("direct", "brain-mean"):
        assert numbers("part", arm) == numbers("whole", arm)


@pytest.mark.usefixtures("kept")
def test_classes_and_the_other_combination(tmp_path: Path) -> None:
    """Digits as classes, brains averaged: scores are accuracies, controls have a view a brain."""
    arms = ["--arms", "direct", "brain-mean", "random-map"]
    assert mediated(tmp_path, "--labels", "digits", "--combine", "mean", *arms, "--seeds", "0") == 0
    full = json.loads((tmp_path / "results.json").read_text())
    assert full["settings"]["metric"] == "accuracy"
    found = {r["arm"]: r for r in full["runs"]}
    assert found["random-map"]["regressors"] == [12, 12, 12]
    assert found["direct"]["scores"]["all"] > 0.8


@pytest.mark.usefixtures("kept")
def test_processes_give_the_same_numbers_and_too_large_sizes_are_left_out(
    tmp_path: Path,
) -> None:
    """Two workers find what one finds; a size beyond all samples is left out, and that is said."""
    arguments = ["--arms", "direct", "brain-each", "--seeds", "0", "--sizes", "10", "5000"]
    for workers in ("1", "2"):
        assert mediated(tmp_path / workers, *arguments, "--workers", workers) == 0
    found = [
        json.loads(next((tmp_path / workers).glob("runs/brain-s1-seed0-*.json")).read_text())[
            "result"
        ]
        for workers in ("1", "2")
    ]
    assert found[0]["scores"] == found[1]["scores"]
    assert list(found[0]["scores"]) == ["10", "all"]
    words = json.loads((tmp_path / "1" / "results.json").read_text())["words"]
    assert "Left out: n = 5000, as a seed has 809 images to draw from." in words


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(
    ("folds", "words"), [("400", "each needs at least 3"), ("10", "fewer than the smallest size")]
)
def test_too_few_labelled_images(
    folds: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folds without images to score on, and sizes that cannot be had, end with code 2."""
    arguments = ["--folds", folds, "--sizes", "10" if folds == "400" else "5000"]
    assert mediated(tmp_path, *arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.usefixtures("kept")
def test_an_unknown_tap_is_named_with_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message lists the taps, and ends with code 2 before anything is written to runs."""
    assert exit_code("--taps", "_blocks.99", "--out", str(tmp_path), "--quiet") == 2
    assert "unknown taps ['_blocks.99']" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arms", "brain"], "invalid choice: 'brain'"),
        (["--brain", "cowley-v4", "--labels", "ratings"], "goes with --labels cifar10, attributes"),
        (["--brain", "cowley-v4", "--arms", "measured"], "was shown the labelled images"),
        (["--brain", "object2vec", "--planted", "outside"], "are of the synthetic brains"),
        (["--session", "201025"], "--session goes with --brain cowley-v4 --labels attributes"),
        (
            ["--brain", "cowley-v4", "--labels", "attributes", "--session", "1"],
            "unknown session '1'",
        ),
        (["--labels", "digits", "--sizes", "5"], "fewer than the 10 classes of digits"),
        (["--sizes", "2"], "sizes must rise from at least 4"),
        (["--folds", "1"], "folds must be at least 2"),
        (["--rank-share", "2"], "at most 1, got 2.0"),
        (["--size", "16"], "at least 32 pixels"),
        (["--seeds", "-1"], "--seeds must not be negative"),
        (["--brain", "cowley-v4", "--network", "resnet"], "unknown network 'resnet'"),
        (["--brain", "cowley-v4"], "--data DIR or B2M_DATA"),
        (["--brain", "object2vec", "--data", "/no/such"], "/no/such does not exist"),
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
    assert exit_code(*arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("brain", "words"), [("cowley-v4", "GPL-3.0"), ("object2vec", "do not redistribute")]
)
def test_missing_recordings_say_where_to_get_them(
    brain: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty data directory gives the origin and the licence of what is missing."""
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--brain", brain]
    assert exit_code(*arguments) == 2
    message = capsys.readouterr().err
    assert "github.com" in message
    assert words in message


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """--help explains the method, arms, brains, examples, outputs and exit codes."""
    assert exit_code("--help") == 0
    text = capsys.readouterr().out
    for word in (*ARMS, "cowley-v4", "SYNTHETIC", "results.json", "exit codes", "W W'", "outside",
                 "b2m-fast[transfer,cnn]"):  # fmt: skip
        assert word in text


def test_broken_recordings_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording that is no archive ends with code 2 and the file's name."""
    monkeypatch.setenv("B2M_CACHE", str(tmp_path))
    data = tmp_path / "object2vec"
    data.mkdir()
    (data / "object2vec_subj001.npz").write_bytes(b"broken")
    shutil.copy(data / "object2vec_subj001.npz", data / "stimuli_81x10_128px.zip")
    arguments = ["--brain", "object2vec", "--labels", "attributes", "--data", str(tmp_path)]
    assert exit_code(*arguments, "--out", str(tmp_path / "out")) == 2
    assert "object2vec_subj001.npz cannot be read" in capsys.readouterr().err
