"""Arms of several finished `b2m transfer` experiments side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from b2m_fast.data.files import DataError
from b2m_fast.transfer.experiment import with_history

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from b2m_fast.transfer.tables import Runs

__all__ = ["Finished", "join", "read_results"]

ALIKE = ("metric", "criterion", "consecutive")


@dataclass(frozen=True)
class Finished:
    """A finished experiment.

    Attributes
    ----------
    name : str
        Name of its folder.
    settings : dict
        What its report knows of it.
    experiment : dict
        All its settings.
    runs : dict
        Arm -> seed -> result.
    """

    name: str
    settings: dict[str, Any]
    experiment: dict[str, Any]
    runs: Runs


def read_results(folder: Path) -> Finished:
    """Read the results in a folder.

    Parameters
    ----------
    folder : Path
        Folder that a `b2m transfer` command wrote to.

    Returns
    -------
    Finished
        What is there.

    Raises
    ------
    DataError
        If there are no readable results of such a command.
    """
    path = folder / "results.json"
    try:
        full = json.loads(path.read_text())
        command = full.get("command", "regularize")
        if not command.startswith("transfer "):
            raise DataError(
                f"{path} is of `b2m {command}`; results of `b2m transfer` can be compared"
            )
        runs: Runs = {}
        for run in full["runs"]:
            runs.setdefault(run["arm"], {})[run["seed"]] = with_history(run)
        return Finished(folder.resolve().name, full["settings"], full["experiment"], runs)
    except FileNotFoundError:
        raise DataError(f"there is no {path}: name the folder of a finished experiment") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read as results ({error!r})") from error


def join(
    found: Sequence[Finished], arms: Sequence[str] | None = None
) -> tuple[Runs, dict[str, Any]]:
    """Runs of several experiments as those of one.

    Parameters
    ----------
    found : sequence of Finished
        At least one.
    arms : sequence of str, optional
        Arms to take; default: all.

    Returns
    -------
    runs : dict
        FOLDER/ARM -> seed -> result.
    settings : dict
        What a report needs to know of them, with the ``contrasts`` to draw: each arm with ``none``
        of its folder, and with its namesake in the first folder.

    Raises
    ------
    ValueError
        If they cannot be compared, or there is no such arm.
    """
    names = [f.name for f in found]
    if len(set(names)) < len(names):
        raise ValueError(f"folders must have different names, got {names}")
    first = found[0].settings
    for other in found[1:]:
        for key in (*ALIKE, "curve"):
            if other.settings[key] != first[key]:
                raise ValueError(
                    f"{other.name} has {key} {other.settings[key]!r}, {names[0]} has "
                    f"{first[key]!r}: steps to criterion cannot be compared"
                )
    known = {arm for f in found for arm in f.runs}
    if unknown := sorted(set(arms or ()) - known):
        raise ValueError(f"there are no arms {unknown}; there are {sorted(known)}")
    runs: Runs = {}
    pairs: list[tuple[str, str]] = []
    for f in found:
        for arm in f.runs if arms is None else [a for a in arms if a in f.runs]:
            runs[f"{f.name}/{arm}"] = f.runs[arm]
    for f in found:
        for arm in f.runs:
            for base in (f"{f.name}/none", f"{names[0]}/{arm}"):
                pair = (f"{f.name}/{arm}", base)
                if pair[0] != base and {*pair} <= set(runs) and pair not in pairs:
                    pairs.append(pair)
    delays = [f.settings["delays_ms"] for f in found]
    settings = first | {
        "contrasts": pairs,
        "method": "+".join(dict.fromkeys(f.settings["method"] for f in found)),
        "steps": max(f.settings["steps"] for f in found),
        "delays_ms": first["delays_ms"] if all(d == delays[0] for d in delays) else [],
    }
    return runs, settings
