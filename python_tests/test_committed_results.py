"""Results that are committed, whatever code wrote them, can be read, reported and drawn by this one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from b2m_fast.experiments import figures, report

FOLDERS = sorted((Path(__file__).parents[1] / "docs" / "results").glob("*/results.json"))


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of nested lists and dictionaries under its dotted name."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from leaves(value, f"{name}{key}.")
        else:
            yield f"{name}{key}", value


@pytest.mark.parametrize("path", FOLDERS, ids=[path.parent.name for path in FOLDERS])
def test_numbers_are_as_they_were(path: Path) -> None:
    """Every mean, difference, ratio and test of the committed summary comes out again."""
    results = report.load(path.parent)
    found = dict(leaves(report.summarise(results)))
    stored = dict(leaves(json.loads(path.read_text())["summary"]))
    assert set(found) == set(stored)
    for name, value in stored.items():
        if isinstance(value, float):
            assert math.isclose(found[name], value, rel_tol=1e-9, abs_tol=1e-9), name
        else:
            assert found[name] == value, name
    assert report.words(results)[-1].startswith("In short: ")


@pytest.mark.slow
@pytest.mark.parametrize("path", FOLDERS, ids=[path.parent.name for path in FOLDERS])
def test_they_are_drawn(path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """A figure without a warning."""
    assert figures.figure(report.load(path.parent)).startswith(b"\x89PNG")
    assert not [str(w.message) for w in recwarn]
