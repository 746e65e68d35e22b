"""``b2m compare``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from b2m_fast.cli._common import OK, USAGE, check_writable, folder, write_results

if TYPE_CHECKING:
    from collections.abc import Sequence

HELP = """\
Draw arms of several finished experiments together: the same tables and figure as each has alone,
and words on every comparison, over all of them. Arms are named FOLDER/ARM; every arm is compared
with the arm `none` of its own folder, and with the arm of the same name in the first folder.

The task, the metric and the criterion must be the same. Other settings that differ are named in the
words, and so is what each folder says of its teacher and of runs that are missing.
"""

EPILOG = """\
examples
  b2m compare b2m-results/latent-gru-synthetic-delay-match-sample results/k3 --arms none brain label

exit codes
  0 done   2 wrong arguments, or results that cannot be compared
"""


def add(commands: Any) -> None:
    """The command's parser."""
    parser = commands.add_parser(
        "compare",
        help="draw arms of several experiments together",
        description=HELP,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folder of results")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="default: all")
    parser.add_argument("--out", type=folder, metavar="DIR", default=Path("b2m-results/compare"), help="default: %(default)s")  # fmt: skip
    parser.set_defaults(action=_compare)


def _check_out(out: Path, folders: Sequence[Path]) -> None:
    """Refuse a folder whose results are not those of an earlier comparison."""
    if out.resolve() in {path.resolve() for path in folders}:
        raise ValueError(f"--out {out} is one of the folders to be compared: name another")
    path = out / "results.json"
    try:
        content = json.loads(path.read_text())
        command = content.get("command", "regularize")
    except FileNotFoundError:
        return
    except (ValueError, AttributeError):
        command = "?"
    if command != "compare":
        raise ValueError(f"{path} holds results of `b2m {command}`: name another --out")


def _compare(options: argparse.Namespace) -> int:
    from b2m_fast.data.files import DataError  # noqa: PLC0415
    from b2m_fast.experiments import transfer_report as report  # noqa: PLC0415
    from b2m_fast.experiments.comparison import (  # noqa: PLC0415
        carried_words,
        join,
        read_results,
    )

    try:
        found = [read_results(path) for path in options.folders]
        runs, settings = join(found, options.arms)
        _check_out(options.out, options.folders)
        check_writable(options.out)
    except (DataError, ValueError, OSError) as error:
        print(f"b2m compare: {error}", file=sys.stderr)
        return USAGE
    words = report.sentences(runs, settings, {"words": carried_words(found, runs)})
    full = {
        "command": "compare",
        "of": [{"name": f.name, "experiment": f.experiment} for f in found],
        "summary": report.summarise(runs, settings),
        "words": words,
    }
    title = "Together: " + ", ".join(f.name for f in found)
    try:
        write_results(options.out, title, report, runs, settings, words, full)
    except OSError as error:
        print(f"b2m compare: {error}", file=sys.stderr)
        return USAGE
    return OK
