"""Golden tests: numbers and options that a rebuild of the Python layer must leave as they are.

Only what users have is used: the command ``b2m``, what it prints and the files it writes. The
commands, and how their results are read and compared, are in golden/compare.py.
"""

from __future__ import annotations

import json
import math
import os
import re
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from golden import compare

HERE = Path(__file__).parent
FOLDERS = HERE.parent / "docs" / "results"
CHANGELOG = " ".join((HERE.parent / "CHANGELOG.md").read_text().split())
GOLDEN = {
    name: json.loads((HERE / "golden" / f"{name}.json").read_text())
    for name in ("histories", "summaries", "options")
}


def said_by(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of ``b2m``."""
    capsys.readouterr()
    code = compare.b2m(arguments)
    return code, *capsys.readouterr()


# --------------------------------------------------------------------------------------------------
# Histories
# --------------------------------------------------------------------------------------------------
QUICK = ("latent fixed", "contrastive vae", "mediated mean")  # for every change: one of each kind


def marked(name: str) -> Any:
    """A command with the marks it needs."""
    command = compare.COMMANDS[name]
    marks = [] if name in QUICK else [pytest.mark.slow]
    marks += [pytest.mark.nightly] if command.slow else []
    if command.data:
        reason = "needs recordings: B2M_DATA names their folder"
        marks.append(pytest.mark.skipif("B2M_DATA" not in os.environ, reason=reason))
    return pytest.param(name, marks=marks, id=name.replace(" ", "-"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of images, for all commands."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def close() -> bool:
    """Whether this machine computes as the one on which the histories were frozen."""
    return bool(compare.arithmetic() == GOLDEN["histories"]["arithmetic"])


@pytest.mark.parametrize("name", [marked(name) for name in compare.COMMANDS])
def test_history(
    name: str,
    tmp_path: Path,
    cache: Path,
    close: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Settings, teachers, learning curves and final measures of every arm are what they were."""
    monkeypatch.setenv("B2M_CACHE", str(cache))
    if not close and compare.COMMANDS[name].slow:
        pytest.skip("this machine does not compute as the one on which the histories were frozen")
    code, _, errors = said_by(capsys, *compare.COMMANDS[name].arguments(tmp_path))
    if code == 2 and "pip install" in errors:
        pytest.skip(errors.strip())
    assert code == 0, errors
    frozen = GOLDEN["histories"]["commands"][name]
    assert not compare.unlike(compare.COMMANDS[name], frozen, compare.read(tmp_path), close=close)


# --------------------------------------------------------------------------------------------------
# Summaries of the results that are kept
# --------------------------------------------------------------------------------------------------
# Labels of summaries that are called otherwise now: part of a path -> part of a path.
RELABELLED: dict[str, str] = {}


def by_label(value: Any) -> Any:
    """A summary with its lists as dicts: encoders go by their name."""
    if isinstance(value, list):
        value = {entry["name"]: {k: v for k, v in entry.items() if k != "name"} for entry in value}
    return {k: by_label(v) for k, v in value.items()} if isinstance(value, dict) else value


def assert_same_summary(old: dict[str, Any], results: Path) -> None:
    """Every number of a summary is in results.json, to nine digits."""
    new = dict(compare.leaves(by_label(json.loads(results.read_text())["summary"])))
    wrong = {}
    for path, value in compare.leaves(old):
        label = reduce(lambda text, pair: text.replace(*pair), RELABELLED.items(), path)
        found = new.get(label, "missing")
        if value is None or isinstance(found, str | None):
            same = found == value
        else:
            same = math.isclose(found, value, rel_tol=1e-9, abs_tol=1e-12)
        if not same:
            wrong[path] = (value, found)
    assert not wrong


@pytest.mark.parametrize("folder", GOLDEN["summaries"]["folders"])
def test_summary_of_kept_results(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Means, differences, intervals, ratios, p and steps of the results in docs are what they were."""
    if not re.search(r"^ +report\b", said_by(capsys, "--help")[1], re.MULTILINE):
        pytest.skip("there is no `b2m report` yet")
    code, _, errors = said_by(capsys, "report", str(FOLDERS / folder), "--out", str(tmp_path))
    assert code == 0, errors
    assert_same_summary(GOLDEN["summaries"]["folders"][folder], tmp_path / "results.json")


@pytest.mark.parametrize("name", GOLDEN["summaries"]["compare"])
def test_comparison_of_kept_results(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `b2m compare` makes of two folders in docs is what it was."""
    folders = [str(FOLDERS / folder) for folder in name.split()]
    code, _, errors = said_by(capsys, "compare", *folders, "--out", str(tmp_path))
    assert code == 0, errors
    assert_same_summary(GOLDEN["summaries"]["compare"][name], tmp_path / "results.json")


# --------------------------------------------------------------------------------------------------
# Options
# --------------------------------------------------------------------------------------------------
# "COMMAND OPTION" or "COMMAND OPTION VALUE" that is no more -> what to type instead; CHANGELOG.md
# has to name both.
SUCCESSORS = {
    "regularize --demo": "b2m demo",
    "transfer latent --latents cebra": "--latents contrastive-embedding",
}
# What every parser refuses, given last, and how: an error about it says that all before it was accepted.
WRONG = {"compare": ("", "arguments are required: DIR"), "bench": ("--d none", "argument --d: ")}
OPTIONS = [(c, o) for c, options in GOLDEN["options"].items() for o in options]


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The command's help."""
    code, text, errors = said_by(capsys, *command.split(), "--help")
    assert code == 0, errors
    return text


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=map(" ".join, OPTIONS))
def test_option(
    command: str,
    option: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An option of old is still there, with its values and defaults, or has a named successor."""
    if (gone := f"{command} {option}") in SUCCESSORS:
        assert all(word in CHANGELOG for word in (option, SUCCESSORS[gone]))
        return
    monkeypatch.chdir(tmp_path)  # a folder is looked at when it is named
    text = help_of(command, capsys)
    about = re.search(rf"^  {option}\b.*\n(?:    .*\n)*", text, re.MULTILINE)
    assert about is not None
    old = GOLDEN["options"][command][option]
    choices = old.get("choices", [])
    values = [[choice] for choice in choices] or [old["example"]]
    for given in [*values, choices] if old.get("many") else values:
        if (gone := " ".join([command, option, *given])) in SUCCESSORS:
            assert all(word in CHANGELOG for word in (*given, SUCCESSORS[gone]))
            continue
        last, error = WRONG.get(command, ("--workers none", "argument --workers: "))
        code, _, errors = said_by(capsys, *command.split(), option, *given, *last.split())
        assert code == 2
        assert error in errors
    kept = [c for c in choices if f"{command} {option} {c}" not in SUCCESSORS]
    assert all(choice in text for choice in kept)
    for word in re.findall(r"[\w.+-]*\w", old["default"] or ""):
        if word in choices or re.fullmatch(r"[\d.]+", word):
            assert word in re.findall(r"[\w.+-]*\w", about[0])
