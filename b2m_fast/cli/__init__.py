"""The command line: ``b2m COMMAND``; experiments are found in their registry, without importing them."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from typing import TYPE_CHECKING, Any

from b2m_fast.experiments import experiment

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

# Commands that are no experiment: what they are for, and the module whose `main(arguments)` they are.
TOOLS = {
    "demo": ("what the package does, in two minutes", "b2m_fast.cli.demo"),
    "compare": (
        "draw the arms of several finished experiments together",
        "b2m_fast.experiments.compare",
    ),
    "report": ("write the report of finished runs again", "b2m_fast.experiments.report"),
    "info": ("version, build, processor: what a bug report needs", "b2m_fast.cli.info"),
    "bench": ("time the ops on this machine", "b2m_fast._bench"),
}
ALIASES = {"transfer": "brain2model"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``b2m`` and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process if not given.

    Returns
    -------
    int
        0 if all went well; each command's help says what else.
    """
    logging.basicConfig(format="b2m: %(message)s", level=logging.WARNING)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in ALIASES:
        arguments[0] = ALIASES[arguments[0]]
    try:
        for words in (2, 1):
            name = " ".join(arguments[:words])
            if name in experiment.listings():
                from b2m_fast.experiments import engine

                return engine.main(experiment.get(name).make(), arguments[words:])
        if arguments and arguments[0] in TOOLS:
            tool = importlib.import_module(TOOLS[arguments[0]][1])
            return int(tool.main(arguments[1:]))
        _parser().parse_args(arguments)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    """Return the parser that knows the commands' names alone: it prints help, and refuses what is no command."""
    parser = argparse.ArgumentParser(
        prog="b2m", description="Teach networks with brains: exact losses over all pairs."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    groups: dict[str, Any] = {}
    for name, listing in experiment.listings().items():
        first, _, second = name.partition(" ")
        if second and first not in groups:
            made = commands.add_parser(first, help=f"{second}, ...: {listing.help}")
            groups[first] = made.add_subparsers(metavar="COMMAND", required=True)
        (groups[first] if second else commands).add_parser(second or first, help=listing.help)
    for name, (text, _) in TOOLS.items():
        commands.add_parser(name, help=text)
    return parser
