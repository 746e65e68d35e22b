"""The command line: ``b2m regularize``, ``transfer``, ``mediated``, ``compare``, ``info``, ``bench``."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from typing import TYPE_CHECKING

from b2m_fast.cli import _compare, _mediated, _regularize, _transfer
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
    _transfer.add(commands)
    _mediated.add(commands)
    _compare.add(commands)
    info = commands.add_parser("info", help="version, build, processor: what a bug report needs")
    info.set_defaults(action=_info)
    commands.add_parser("bench", help="time the ops on this machine", add_help=False)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["transfer"]:
        arguments[0] = "brain2model" if experiment.listings(command="brain2model") else "transfer"
    try:
        for words in (2, 1):
            name = " ".join(arguments[:words])
            if name in experiment.listings():
                return engine.main(experiment.get(name).make(), arguments[words:])
        if arguments[:1] == ["report"]:
            return importlib.import_module("b2m_fast.experiments.report").main(arguments[1:])
        if arguments[:1] == ["bench"]:  # it has options of its own
            return _bench(arguments[1:])
        options = parser.parse_args(arguments)
        return int(options.action(options))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
