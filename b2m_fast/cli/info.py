"""``b2m info``: what this installation is, or what is registered in it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from b2m_fast.data import dataset, labels, task
from b2m_fast.experiments import experiment
from b2m_fast.students import student

if TYPE_CHECKING:
    from collections.abc import Sequence

    from b2m_fast._registry import Registry


def registries() -> dict[str, Registry[Any]]:
    """Return every registry, arms under the commands that have them."""
    commands: dict[Registry[Any], list[str]] = {}
    for name in experiment.listings():
        commands.setdefault(experiment.get(name).make().arms, []).append(f"b2m {name}")
    arms = {f"arms of {', '.join(names)}": registry for registry, names in commands.items()}
    first = {"data sets": dataset, "tasks": task, "labels": labels, "students": student}
    return {**first, "experiments": experiment, **arms}


def registered() -> str:
    """Return a line for everything that is built in or offered by an installed package: name, kind or role, and help."""
    lines = []
    for title, registry in registries().items():
        lines.append(f"{title} (@{registry.decorator})")
        for name, listing in registry.listings().items():
            usual = "control" if registry.decorator == "arm" else ""
            kind = listing.about.get("kind") or listing.about.get("role", usual)
            kinds = kind if isinstance(kind, str) else ", ".join(kind)
            lines.append(f"  {name:26} {kinds:15} {listing.help}")
    own = (
        "one of your own is named FILE.py:NAME or PACKAGE.MODULE:NAME; the decorator is in brackets"
    )
    return "\n".join([*lines, own])


def main(argv: Sequence[str]) -> int:
    """Run ``b2m info`` and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="b2m info", description="Version, build and processor: what a bug report needs."
    )
    text = "instead: data sets, tasks, labels, students, experiments and arms, those of installed packages too"
    parser.add_argument("--registered", action="store_true", help=text)
    if parser.parse_args(list(argv)).registered:
        print(registered())
        return 0
    from b2m_fast import _info

    print(_info.render(_info.collect()))
    return 0
