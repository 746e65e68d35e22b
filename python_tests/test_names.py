"""The name of each built-in data set, task, set of labels and student stands, as a string, in one file of the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from b2m_fast.data import dataset, labels, task
from b2m_fast.students import student

PACKAGE = Path(__file__).resolve().parents[1] / "b2m_fast"
REGISTRIES = (dataset, task, labels, student)

# Words that also mean something else, and where they do.
ALSO = {"synthetic": "a key of reports: whether the responses are simulated"}
# Files from before the registries, which are still to be written anew: must shrink to nothing.
OLD: set[str] = set()


def strings(path: Path) -> Iterator[str]:
    """Every string of a file that is no docstring, parts of f-strings included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = (getattr(node, "body", None) for node in ast.walk(tree))
    first = (body[0] for body in bodies if isinstance(body, list) and body)
    docs = {id(node.value) for node in first if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def names() -> set[str]:
    return {name for registry in REGISTRIES for name in registry.listings()}


def test_each_name_is_in_one_file() -> None:
    """Whatever else needs a data set, task or student imports it, or asks the registry for its facts."""
    where: dict[str, set[str]] = {name: set() for name in names()}
    for path in PACKAGE.rglob("*.py"):
        file = str(path.relative_to(PACKAGE))
        for found in set(strings(path)) & set(where) if file not in OLD else ():
            where[found].add(file)
    assert all(where.values())
    wrong = {n: sorted(files) for n, files in where.items() if len(files) > 1 and n not in ALSO}
    assert not wrong


def test_strings_are_told_from_docstrings(tmp_path: Path) -> None:
    """A name in a docstring or comment is no string; one in a call, a default or an f-string is."""
    path = tmp_path / "a.py"
    path.write_text('"""gru"""\n# gru\ndef f(x="rnn"):\n    """vae"""\n    return f"resnet{x}"\n')
    assert set(strings(path)) == {"rnn", "resnet"}


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.decorator)
def test_every_built_in_has_help_and_kind(registry: object) -> None:
    """`--help` and the experiments have a sentence and a kind of each."""
    for listing in registry.listings().values():  # type: ignore[attr-defined]
        assert listing.help
        assert listing.about["kind"]
