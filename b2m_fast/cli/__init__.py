"""The command line: ``b2m COMMAND``."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from typing import TYPE_CHECKING, Any

from b2m_fast.cli import _mediated, _regularize
from b2m_fast.cli._common import INTERRUPTED, OK
from b2m_fast.experiments import engine, experiment

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def _info(_: argparse.Namespace) -> int:
    from b2m_fast import _info  # noqa: PLC0415

    print(_info.render(_info.collect()))
    return OK


def _bench(arguments: list[str]) -> int:
    from b2m_fast import _bench  # noqa: PLC0415

    return _bench.main(arguments)


def _add_experiments(commands: Any) -> None:
    """Add the names of registered experiments; those of two words below the first of them."""
    groups: dict[str, Any] = {}
    for name, listing in experiment.listings().items():
        first, _, second = name.partition(" ")
        if second and first not in groups:
            group = commands.add_parser(first, help=f"{second}, ...: {listing.help}")
            groups[first] = group.add_subparsers(metavar="COMMAND", required=True)
        (groups[first] if second else commands).add_parser(second or first, help=listing.help)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``b2m``.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; default: those of the process.

    Returns
    -------
    int
        Exit code: 0 done, 1 a run failed, 2 wrong arguments, missing data or results
        that cannot be written, 130 interrupted.
    """
    logging.basicConfig(format="b2m: %(message)s", level=logging.WARNING)
    parser = argparse.ArgumentParser(
        prog="b2m", description="Teach networks with brains: exact losses over all pairs."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _regularize.add(commands)
    _mediated.add(commands)
    _add_experiments(commands)
    commands.add_parser("compare", help="arms of several finished experiments together")
    commands.add_parser("report", help="write the report of finished runs again")
    info = commands.add_parser("info", help="version, build, processor: what a bug report needs")
    info.set_defaults(action=_info)
    commands.add_parser("bench", help="time the ops on this machine", add_help=False)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["transfer"]:  # a former name
        arguments[0] = "brain2model"
    try:
        for words in (2, 1):
            name = " ".join(arguments[:words])
            if name in experiment.listings():
                return engine.main(experiment.get(name).make(), arguments[words:])
        if arguments[:1] in (["compare"], ["report"]):
            module = importlib.import_module(f"b2m_fast.experiments.{arguments[0]}")
            return int(module.main(arguments[1:]))
        if arguments[:1] == ["bench"]:  # it has options of its own
            return _bench(arguments[1:])
        options = parser.parse_args(arguments)
        return int(options.action(options))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
