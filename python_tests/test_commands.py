"""The command `b2m`: what is listed, what is registered, and that asking for help loads no torch and takes no time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from b2m_fast import _bench, cli
from b2m_fast.cli import info
from b2m_fast.experiments import engine, experiment

COMMANDS = [*experiment.listings(), *cli.TOOLS]
MOST = 0.7  # CPU seconds, those of the interpreter included
HELP = """
import contextlib, io, json, resource, sys
from b2m_fast.cli import main

out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
    main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
heavy = sorted({"torch", "sklearn", "matplotlib"} & set(sys.modules))
print(json.dumps([out.getvalue(), heavy, used.ru_utime + used.ru_stime]))
"""


def exit_code(*arguments: str) -> int:
    """Code of a call that argparse may end."""
    try:
        return cli.main(arguments)
    except SystemExit as stop:
        return int(str(stop.code or 0))


@pytest.mark.parametrize(
    "arguments",
    ["--help", "brain2model --help", "info --registered", *(f"{c} --help" for c in COMMANDS)],
)
def test_help_loads_no_torch_and_takes_no_time(arguments: str) -> None:
    """A process of its own that answers within 0.7 CPU seconds."""
    command = [sys.executable, "-c", HELP, *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text, heavy, seconds = json.loads(done.stdout)
    assert heavy == []
    assert len(text.splitlines()) > 3
    assert seconds < MOST


def test_commands_are_listed(capsys: Any) -> None:
    """`b2m --help` lists the commands with a sentence each; no command, or an unknown one, is an error."""
    assert exit_code("--help") == 0
    text = capsys.readouterr().out
    assert all(name.split()[0] in text for name in COMMANDS)
    assert exit_code() == exit_code("regularise") == 2


@pytest.mark.parametrize("name", experiment.listings())
def test_help_lists_what_fits(name: str) -> None:
    """Every arm, and every data set, task, student and set of labels of a kind that the command takes, with its sentence."""
    made = experiment.get(name).make()
    text = engine.parser(made).format_help()
    wanted = made.arms.listings()
    for registry, facts in made.choices.values():
        wanted |= registry.listings(**facts)
    for listing in wanted.values():
        assert f"  {listing.name} " in text
        assert listing.help in text


def test_everything_registered_is_listed(capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Built-ins with kind and sentence, and what an installed distribution offers."""
    folder = tmp_path / "stranger-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[b2m_fast.dataset]\ntwo-mice = mice:two_mice\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert exit_code("info", "--registered") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "two-mice from stranger" in lines
    assert "cowley-v4 images macaque V4, natural images: 5 sessions of 33 to 89 units" in lines
    assert "neural tested denoised neural similarity" in lines
    for registry in info.registries().values():
        for listing in registry.listings().values():
            assert any(line.startswith(f"{listing.name} ") for line in lines)
    assert len(set(info.registries().values())) == len(info.registries())


def test_info_without_an_option_is_about_the_installation(capsys: Any) -> None:
    """Sections of facts, as a bug report needs them."""
    assert exit_code("info") == 0
    text = capsys.readouterr().out
    assert all(section in text for section in ("versions", "cpu", "cuda"))


def test_bench_gets_its_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything after `b2m bench` reaches the benchmark's own parser, --help included."""
    seen: list[list[str]] = []

    def bench(arguments: list[str]) -> int:
        seen.append(arguments)
        return 0

    monkeypatch.setattr(_bench, "main", bench)
    assert exit_code("bench", "--help", "x") == 0
    assert seen == [["--help", "x"]]
