"""The house stays small: lines of code, files of a folder, files that one run enters."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "b2m_fast"
SILENT = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)
# Raised only with a line in CHANGELOG.md that says for what. Outside the ops the aim is 8500, which
# is not reached: this is where the rebuilding stands, and what it must not fall back from.
MOST_OUTSIDE, MOST_INSIDE = 10100, 4900


def code_lines(source: str) -> int:
    """Return the lines that are not blank, comment or docstring."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            docstrings.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def test_code_lines_are_counted() -> None:
    """Blank lines, comments and docstrings do not count; a string of two lines does."""
    assert (
        code_lines(
            '"""Doc."""\n\n# why\nx = """a\nb"""\n\n\ndef f():\n    """Doc."""\n    return x\n'
        )
        == 4
    )


def test_the_python_layer_is_thin() -> None:
    """The ops, and everything else, stay within their lines of code."""
    inside = outside = 0
    for path in PACKAGE.rglob("*.py"):
        where = path.relative_to(PACKAGE).parts[0]
        number = code_lines(path.read_text(encoding="utf-8"))
        if where in {"ops", "nn.py", "drop_in"}:
            inside += number
        else:
            outside += number
    assert inside <= MOST_INSIDE
    assert outside <= MOST_OUTSIDE


def test_the_formatter_decides_the_layout() -> None:
    """Lines are not laid out by hand."""
    skipped = sum(p.read_text(encoding="utf-8").count("fmt: skip") for p in PACKAGE.rglob("*.py"))
    assert skipped <= 10


def test_no_folder_is_crowded() -> None:
    """A folder is seen at a glance."""
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        assert len(list(folder.glob("*.py"))) <= 15, folder


RUN = """
import sys
entered = set()
def note(frame, event, _):
    name = frame.f_code.co_filename
    if event != "call" or "b2m_fast/" not in name or name.rpartition("b2m_fast/")[2] in entered:
        return
    while frame is not None:  # what a module does while it is imported does not count
        if frame.f_code.co_name == "<module>" and "b2m_fast/" in frame.f_code.co_filename:
            return
        frame = frame.f_back
    entered.add(name.rpartition("b2m_fast/")[2])
from b2m_fast.cli import main
import threading
threading.setprofile(note)
sys.setprofile(note)
code = main(sys.argv[1:])
sys.setprofile(None)
assert code == 0
print(*sorted(entered), sep="\\n", file=sys.stderr)
"""
# The most files that each enters today; the aim is 20, which is not reached.
COMMANDS = {
    "regularize --arms neural --epochs 1 --attack-images 2 --set minimal_steps=1 --set pgd_steps=1": 39,
    "brain2model latent --arms brain --steps 5 --network-steps 5": 31,
    "mediated --arms brain-stacked --sizes 10 --draws 1 --observers 2 --components 16": 27,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "most"), COMMANDS.items(), ids=[c.split(" --")[0] for c in COMMANDS]
)
def test_a_run_enters_few_files(command: str, most: int, tmp_path: Path) -> None:
    """A reader who follows one run, from the command line to the report, opens few files of this package."""
    options = ["--seeds", "0", "--workers", "1", "--quiet", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *command.split(), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    entered = [line for line in done.stderr.splitlines() if line.endswith(".py")]
    assert 5 < len(entered) <= most, entered
