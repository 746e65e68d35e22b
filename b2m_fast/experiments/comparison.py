"""Arms of several finished `b2m transfer` experiments side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from b2m_fast.data.files import DataError
from b2m_fast.experiments.experiment import with_history
from b2m_fast.experiments.tables import missing_words

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from b2m_fast.experiments.tables import Runs

__all__ = ["Finished", "carried_words", "join", "read_results"]

ALIKE = ("task", "evaluation.metric", "evaluation.criterion", "evaluation.consecutive")
GRID = ("loop.steps", "loop.validate_every", "evaluation.validation")


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
    words : tuple of str
        What a reader should know of its teacher and of runs without a result.
    """

    name: str
    settings: dict[str, Any]
    experiment: dict[str, Any]
    runs: Runs
    words: tuple[str, ...] = ()


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
        words = [*missing_words(full.get("missing", [])), *full.get("teacher", {}).get("words", [])]
        return Finished(
            folder.resolve().name, full["settings"], full["experiment"], runs, tuple(words)
        )
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
    differing = _differences(found)
    for key in ALIKE:
        if key in differing:
            values = ", ".join(
                f"{name} has {value!r}" for name, value in zip(names, differing[key], strict=True)
            )
            raise ValueError(
                f"these cannot be compared: {key.rpartition('.')[2]} differs: {values}"
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
    delays = [(f.settings["delay_ms"], f.settings["delays_ms"]) for f in found]
    every = sorted({f.settings["every"] for f in found})
    settings = first | {
        "contrasts": pairs,
        "method": "+".join(dict.fromkeys(f.settings["method"] for f in found)),
        "every": " or ".join(map(str, every)),
        "steps": max(f.settings["steps"] for f in found),
        "delays_ms": first["delays_ms"] if all(d == delays[0] for d in delays) else [],
    }
    return runs, settings


def carried_words(found: Sequence[Finished], runs: Runs) -> list[str]:
    """What a reader of a comparison should know before its numbers.

    Parameters
    ----------
    found : sequence of Finished
        What is compared.
    runs : dict
        FOLDER/ARM -> seed -> result, from `join`.

    Returns
    -------
    list of str
        In which settings the experiments differ, and what each says of its own teacher and of runs
        that are missing; the same words of several are said once.
    """
    shown = [f for f in found if any(f"{f.name}/{arm}" in runs for arm in f.runs)]
    differing = _differences(shown)
    out = []
    if differing:
        parts = (
            f"{key} ({', '.join(f'{f.name} {v}' for f, v in zip(shown, values, strict=True))})"
            for key, values in differing.items()
        )
        out.append(f"The experiments differ in {'; '.join(parts)}.")
    if any(key in GRID for key in differing):
        out.append(
            "Their validations are not the same: ratios of steps between folders are no finer than "
            "the coarser of them, and the longer training has more time to reach the criterion."
        )
    said: dict[str, list[str]] = {}
    for f in shown:
        for words in f.words:
            said.setdefault(words, []).append(f.name)
    return out + [f"{', '.join(names)}: {words}" for words, names in said.items()]


def _differences(found: Sequence[Finished]) -> dict[str, list[Any]]:
    """Settings in which experiments differ, as dotted names, with the value of each."""
    flat = [_flat(f.experiment) for f in found]
    keys = dict.fromkeys(key for each in flat for key in each)
    values = {key: [each.get(key) for each in flat] for key in keys}
    return {k: v for k, v in values.items() if any(x != v[0] for x in v)}


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out
