"""`b2m compare` puts arms of several folders side by side, and says where these differ."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from b2m_fast.experiments import compare, figures, report
from b2m_fast.experiments.contract import Measure
from made_up_experiment import MadeUp, MadeUpSettings, results

FIGURE = figures.figure


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is what takes time."""
    monkeypatch.setattr(figures, "figure", lambda *_: b"figure")


def store(folder: Path, settings: MadeUpSettings, seeds: int = 6) -> str:
    of = results(seeds, settings, none=(60, 0.8), brain=(20, 0.9))
    missing = [{"arm": "brain", "seed": 6, "failed": None}]
    report.write(replace(of, missing=missing, teacher={"words": ["It is SYNTHETIC."]}), folder)
    return str(folder)


def test_arms_of_two_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables, words and figure over FOLDER/ARM: the baseline of its own folder, and its namesake in the first."""
    weak = store(tmp_path / "weak", MadeUpSettings(weight=0.1))
    strong = store(tmp_path / "strong", MadeUpSettings(weight=1.0, every=5))
    out = tmp_path / "both"
    assert compare.main([weak, strong, "--out", str(out)]) == 0
    assert "strong/brain against weak/brain" in capsys.readouterr().out
    full = json.loads((out / "results.json").read_text())
    assert full["command"] == "compare"
    assert [f["settings"]["weight"] for f in full["folders"]] == [0.1, 1.0]
    assert set(full["summary"]["ratios"]) == {
        "weak/brain / weak/none",
        "strong/none / weak/none",
        "strong/brain / strong/none",
        "strong/brain / weak/brain",
    }
    assert full["words"][:4] == [
        "The experiments differ in every (weak 10, strong 5); weight (weak 0.1, strong 1.0).",
        compare.CLOCKS,
        "weak, strong: MISSING: brain, seed 6: stopped before its end. Nothing here is about these runs.",
        "weak, strong: It is SYNTHETIC.",
    ]
    assert not any("In short" in line for line in full["words"])
    text = (out / "results.md").read_text()
    assert "# Together: weak, strong" in text
    assert "strong: A table of its own." in text
    assert "weak: `b2m made-up --set weight=0.1`" in text
    of = compare.together([Path(weak), Path(strong)])
    assert FIGURE(of).startswith(b"\x89PNG")


def test_chosen_arms(tmp_path: Path) -> None:
    """Only these are in the tables; a folder without them is left out."""
    folders = [store(tmp_path / name, MadeUpSettings()) for name in ("a", "b")]
    out = tmp_path / "out"
    assert compare.main([*folders, "--arms", "brain", "--out", str(out)]) == 0
    text = (out / "results.md").read_text()
    assert "| b/brain - a/brain |" in text
    assert "none" not in text
    for _ in range(2):  # an earlier comparison may be replaced
        assert compare.main([folders[0], "--out", str(out)]) == 0


def test_runs_are_measured_as_their_own_folder_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that only one folder has are missing in the others, as the two strategies of Brain2Model have one each."""
    folders = [Path(store(tmp_path / n, MadeUpSettings(weight=w))) for n, w in (("a", 1), ("b", 2))]

    def measures(self: MadeUp, settings: MadeUpSettings, runs: object) -> list[Measure]:
        own = Measure(f"only {settings.weight:g}", lambda r: 0.0)
        return [own, Measure("weight", lambda r: settings.weight)]

    monkeypatch.setattr(MadeUp, "measures", measures)
    of = compare.together(folders)
    assert [m.label for m in of.measures] == ["only 1", "weight", "only 2"]
    means = report.summarise(of)["means"]
    assert means["a/none"]["only 1"]["mean"] == 0
    assert means["b/none"]["only 1"] is None
    assert means["a/none"]["weight"]["mean"] == 1
    assert means["b/none"]["weight"]["mean"] == 2


def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other criteria, one folder twice, unknown arms, no results: code 2 and the reason; no results are overwritten."""
    a = store(tmp_path / "a", MadeUpSettings())
    b = store(tmp_path / "b", MadeUpSettings(criterion=0.8))
    before = [(tmp_path / n / "results.json").read_bytes() for n in "ab"]
    for arguments, said in (
        ([a, b], "these cannot be compared: criterion differs: a has 0.9, b has 0.8"),
        ([a, a], "folders must have different names"),
        ([a, "--arms", "brian"], "there are no arms ['brian']; there are ['brain', 'none']"),
        ([str(tmp_path)], "name the folder of a finished experiment"),
        ([a, "--out", a], "is one of the folders to be compared"),
        ([a, "--out", b], "b/results.json holds results of `b2m made_up_experiment:MadeUp`"),
        ([a, "--out", f"{a}/results.json"], "cannot be written to"),
    ):
        out = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
        capsys.readouterr()
        assert compare.main([*arguments, *out]) == 2
        assert said in capsys.readouterr().err
    assert before == [(tmp_path / n / "results.json").read_bytes() for n in "ab"]
    assert not (tmp_path / "out").exists()


@dataclass(frozen=True, kw_only=True)
class OtherSettings(MadeUpSettings):
    """Other settings."""


class Other(MadeUp):
    """Another command."""

    command = "other"
    settings = OtherSettings


def test_other_kinds_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results of commands with other settings have no measures in common."""
    report.write(results(none=(60, 0.8)), tmp_path / "a")

    of = results(none=(60, 0.8))
    report.write(replace(of, experiment=Other()), tmp_path / "b")
    assert (
        compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")]) == 2
    )
    assert "command differs: a has 'made-up', b has 'other'" in capsys.readouterr().err
