"""Settings from dataclasses: the command line's options, presets, ``--config FILE``, ``--set NAME=VALUE``.

What a setting is comes from the field: its type, its default and, from the class's docstring, its meaning. Where several say what it
shall be, the last of these wins: field, preset, ``--config``, option or ``--set``.

A preset or configuration file (TOML) holds settings by name, nested ones as tables, and besides ``arms`` and ``seeds``. Under
``[[preset]]`` it holds further ones that count only where ``when`` fits:

    seeds = [0, 1, 2]
    task = "digits"

    [[preset]]
    when = { task = "digits" }          # a list: any of these
    training = { alpha = 5.0, epochs = 6 }

    [[preset]]
    when = { "task.kind" = "frames" }   # a fact of what is registered under the name that is set
    batch = 32
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import re
import shlex
import textwrap
import tomllib
from importlib import resources
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from b2m_fast.experiments.contract import Experiment, Settings

__all__ = [
    "Chosen",
    "Field",
    "add_options",
    "by_name",
    "choose",
    "command_line",
    "defaults_text",
    "given_settings",
    "make",
    "plain",
    "presets",
    "read_config",
]

Tree = dict[str, Any]


class Field(NamedTuple):
    """A setting that holds no others."""

    name: str  # dotted
    type: Any
    default: Any  # dataclasses.MISSING where there is none
    help: str


class Chosen(NamedTuple):
    """What a command is to run."""

    settings: Any
    arms: list[str] | None
    seeds: list[int]


# --------------------------------------------------------------------------------------------------
# Fields
# --------------------------------------------------------------------------------------------------
def fields(settings: type, prefix: str = "") -> Iterator[Field]:
    """Yield every setting of a dataclass, those of nested dataclasses under dotted names."""
    types, docs = get_type_hints(settings), _parameters(settings)
    for item in dataclasses.fields(settings):
        kind, name = types[item.name], f"{prefix}{item.name}"
        if dataclasses.is_dataclass(kind):
            yield from fields(kind, f"{name}.")  # type: ignore[arg-type]
            continue
        default = item.default
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        yield Field(name, kind, default, docs.get(item.name, ""))


def _parameters(settings: type) -> dict[str, str]:
    """Return what NumPy docstrings of a class and its bases say of each parameter, as one line each."""
    found: dict[str, str] = {}
    for base in reversed(settings.__mro__):
        text = textwrap.dedent("    " + (base.__doc__ or "")).partition("Parameters\n---")[2]
        for names, body in re.findall(
            r"^(\w[\w., ]*) :[^\n]*\n((?:[ ]{4}[^\n]*\n?|\n)*)", text, re.MULTILINE
        ):
            line = " ".join(body.split())
            found |= dict.fromkeys(re.split(r", ?", names), line)
    return found


def by_name(settings: Settings) -> dict[str, Any]:
    """Return every setting under its dotted name."""
    return {f.name: attrgetter(f.name)(settings) for f in fields(type(settings))}


def plain(value: Any) -> Any:
    """Return settings as JSON reads them back: dictionaries, lists, numbers and strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, tuple | list) else value


def make(settings: type[Settings], tree: Tree) -> Any:
    """Return the dataclass of a nested dictionary.

    Raises
    ------
    ValueError
        For an unknown name (the message has those that are alike), a wrong type or a value that the dataclass refuses.
    """
    known = {f.name: f for f in fields(settings)}
    for name in _flat(tree, known):
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.4) or list(known)
            raise ValueError(f"there is no setting {name!r}: did you mean {', '.join(near)}?")
    try:
        return msgspec.convert(tree, settings)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$.")
        place = where.rstrip("`")
        raise ValueError(f"{place}: {text}" if place else text) from None


def _flat(tree: Mapping[str, Any], known: Mapping[str, Field], prefix: str = "") -> Tree:
    """Return a nested dictionary under dotted names; a setting that is itself a dictionary stays whole."""
    out: Tree = {}
    for key, value in tree.items():
        name = prefix + key
        if isinstance(value, dict) and name not in known:
            out |= _flat(value, known, f"{name}.")
        else:
            out[name] = value
    return out


def _merged(low: Tree, high: Mapping[str, Any]) -> Tree:
    """Return nested dictionaries laid over one another, the second on top."""
    out = dict(low)
    for key, value in high.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merged(out[key], value) if both else value
    return out


def _nested(name: str, value: Any) -> Tree:
    """Return a dotted name as a nested dictionary."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return dict(value)


# --------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------
def presets(name: str) -> Tree:
    """Return the presets of an experiment: ``experiments/presets/NAME.toml``, empty if there are none."""
    file = resources.files("b2m_fast.experiments").joinpath("presets", f"{name}.toml")
    return tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def read_config(path: Path) -> Tree:
    """Return what a configuration file holds.

    Raises
    ------
    ValueError
        If it cannot be read; the message has the file's name and the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"--config {path}: {error}") from None


def choose(experiment: Experiment[Any], given: Tree, config: Tree | None = None) -> Chosen:
    """Return settings, arms and seeds: presets that fit, then the configuration file, then what was given.

    Whether a preset fits is decided in the order of the file, by what is given or configured and by the presets before it.
    """
    config = config or {}
    found: Tree = {}
    defaults: Tree = {}
    for item in fields(experiment.settings):
        if item.default is not dataclasses.MISSING:
            defaults = _merged(defaults, _nested(item.name, item.default))
    for file in (presets(experiment.presets), config):
        found = _merged(found, {k: v for k, v in file.items() if k not in {"preset", "example"}})
        for preset in file.get("preset", ()):
            own = {k: v for k, v in config.items() if k != "preset"}
            now = defaults
            for tree in (found, experiment.fixed, own, given):
                now = _merged(now, tree)
            when = preset.get("when", {}).items()
            if all(_fits(_value(experiment, now, name), wanted) for name, wanted in when):
                found = _merged(found, {k: v for k, v in preset.items() if k != "when"})
    found = _merged(_merged(found, given), experiment.fixed)
    arms, seeds = found.pop("arms", None), found.pop("seeds", None)
    settings = make(experiment.settings, found)
    seeds = experiment.usual_seeds(settings) if seeds is None else seeds
    numbers = all(isinstance(s, int) and s >= 0 for s in seeds)
    if not seeds or not numbers:
        raise ValueError(f"seeds must be whole numbers of at least 0, got {seeds}")
    unique = None if arms is None else list(dict.fromkeys(arms))
    return Chosen(settings, unique, list(dict.fromkeys(seeds)))


def _value(experiment: Experiment[Any], tree: Tree, name: str) -> Any:
    """Return what a dotted name stands for: a setting, or a fact of the registered thing that a setting names; None if neither."""
    owner, _, fact = name.rpartition(".")
    if owner in experiment.choices:
        chosen = _value(experiment, tree, owner)
        return None if chosen is None else experiment.choices[owner][0].about(chosen).get(fact)
    value: Any = tree
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _fits(value: Any, wanted: Any) -> bool:
    """Return whether a value, or one of several values of a fact, is what is wanted or in the list of that."""
    values = value if isinstance(value, tuple) else (value,)
    return any(v in wanted if isinstance(wanted, list) else v == wanted for v in values)


# --------------------------------------------------------------------------------------------------
# Command line
# --------------------------------------------------------------------------------------------------
def add_options(parser: argparse.ArgumentParser, experiment: Experiment[Any]) -> None:
    """Add an option for each setting that the experiment gives a flag, and ``--set`` for all others."""
    known = _known(experiment)
    rest = dict(known)
    for title, flags in experiment.options.items():
        group = parser.add_argument_group(title)
        for flag, name in flags.items():
            item = rest.pop(name, None) or _entry(experiment, known, name)
            text = f"{item.help.rstrip('.')} ({defaults_text(experiment, item)})".replace("%", "%%")
            group.add_argument(
                flag, dest=name, default=argparse.SUPPRESS, help=text, **_argument(item, flag)
            )
    group = parser.add_argument_group(
        "any setting",
        "Settings without an option of their own, with their defaults: "
        + ", ".join(
            f"{name} ({defaults_text(experiment, item)})" for name, item in rest.items()
        ).replace("%", "%%"),
    )
    group.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="set one of them"
    )
    group.add_argument("--config", metavar="FILE", help="settings, arms and seeds from a TOML file")


def _known(experiment: Experiment[Any]) -> dict[str, Field]:
    """Return the settings that the user can set, by dotted name."""
    fixed = given_names(experiment, [dict(experiment.fixed)])
    return {f.name: f for f in fields(experiment.settings) if f.name not in fixed}


def _entry(experiment: Experiment[Any], known: Mapping[str, Field], name: str) -> Field:
    """Return an entry of a setting that is a dictionary (options of a task, say) as a setting of its own."""
    about = _parameters(experiment.settings).get(name) or known[name.rpartition(".")[0]].help
    return Field(name, Any, dataclasses.MISSING, about)


def defaults_text(experiment: Experiment[Any], item: Field, otherwise: str = "") -> str:
    """Return the default of a setting, and what presets make of it, in words."""
    file = presets(experiment.presets)

    def value(found: Any) -> Any:
        for part in item.name.split("."):
            missing = not isinstance(found, dict) or part not in found
            found = dataclasses.MISSING if missing else found[part]
        return found

    first = value(file)
    base = item.default if first is dataclasses.MISSING else first
    shown = otherwise if base is dataclasses.MISSING else _shown(base)
    parts = [f"default: {shown}"] if shown else []
    for preset in file.get("preset", ()):
        here, when, others = value(preset), [], False
        for name, wanted in preset["when"].items():
            owner, _, last = name.rpartition(".")
            decided = _value(experiment, dict(experiment.fixed), name)
            others = others or (decided is not None and not _fits(decided, wanted))
            if decided is None:
                which = f"{owner} {last}" if owner in experiment.choices else last
                when.append(f"{which} {_shown(wanted)}")
        if here is not dataclasses.MISSING and here != base and not others:
            parts.append(f"{', '.join(when) or experiment.command}: {_shown(here)}")
    return "; ".join(parts) or "no default"


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " ".join(map(_shown, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items()) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _argument(item: Field, flag: str) -> dict[str, Any]:
    """Return what argparse needs to know of a setting's type."""
    kind = item.type
    if type(None) in get_args(kind):
        kind = next(a for a in get_args(kind) if a is not type(None))
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    options: dict[str, Any] = {}
    if get_origin(kind) is tuple:
        kind, options["nargs"] = get_args(kind)[0], "+"
    if get_origin(kind) is Literal:
        return options | {"choices": get_args(kind)}
    metavar = {int: "N", float: "X"}.get(kind, flag.lstrip("-").replace("-", "_").upper())
    if kind is Any:
        return options | {"type": _parsed, "metavar": metavar}

    def parse(text: str) -> Any:
        try:
            return msgspec.convert(text, kind, strict=False)
        except msgspec.ValidationError:
            raise argparse.ArgumentTypeError(f"must be {kind.__name__}, got {text!r}") from None

    return options | {"type": parse, "metavar": metavar}


def given_settings(experiment: Experiment[Any], options: argparse.Namespace) -> Tree:
    """Return the settings that the user has set by options and ``--set``, nested."""
    known = _known(experiment)
    found: Tree = {}
    flagged = {name for flags in experiment.options.values() for name in flags.values()}
    for name, value in vars(options).items():
        if name in flagged:
            found = _merged(found, _nested(name, value))
    for text in options.set:
        name, equals, value = text.partition("=")
        name = _full_name(name.strip(), known)
        if not equals:
            raise ValueError(f"--set {text}: write NAME=VALUE")
        parsed, kind = _parsed(value), known[name].type if name in known else Any
        if isinstance(parsed, int) and kind is float:
            parsed = float(parsed)
        if str in (kind, *get_args(kind)):  # that looks like a number
            parsed = parsed if isinstance(parsed, str) else value.strip()
        found = _merged(found, _nested(name, parsed))
    return found


def _parsed(text: str) -> Any:
    """Return a value written as TOML has it; a string needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _full_name(name: str, known: Mapping[str, Field]) -> str:
    """Return the dotted name of a setting that is named in full, or by its last part where only one ends so."""
    owner = known.get(name.rpartition(".")[0])
    if owner is not None and get_origin(owner.type) is dict:  # an entry of it
        return name
    ends = [k for k in known if k == name or k.rpartition(".")[2] == name]
    if name in known or len(ends) == 1:
        return name if name in known else ends[0]
    near = ends or difflib.get_close_matches(name, known, 3, 0.4) or list(known)
    raise ValueError(f"--set {name}: there is no such setting; did you mean {', '.join(near)}?")


def command_line(experiment: Experiment[Any], settings: Settings) -> str:
    """Return the command that makes these settings: what names something registered, and what differs from its preset."""
    flags = {name: flag for group in experiment.options.values() for flag, name in group.items()}
    values = by_name(settings)
    chosen: Tree = {}
    for name in experiment.choices:
        chosen = _merged(chosen, _nested(name, plain(values[name])))
    try:
        usual = by_name(choose(experiment, chosen).settings)
    except ValueError:  # other settings were needed to make these choices possible
        usual = values
    words = [f"b2m {experiment.command}"]
    for name, value in values.items():
        changed = {name: value} if name in experiment.choices or value != usual[name] else {}
        if isinstance(value, dict):
            changed = {f"{name}.{k}": v for k, v in value.items() if usual[name].get(k) != v}
        for full, found in changed.items():
            flag = flags.get(full, "")
            if isinstance(found, bool) and flag:
                words.append(flag if found else f"--no-{flag[2:]}")
            else:
                words.append(f"{flag} {_shown(found)}" if flag else f"--set {full}={_toml(found)}")
    return " ".join(words)


def _toml(value: Any) -> str:
    """Return a value as ``--set`` reads it, quoted for a shell."""
    return shlex.quote(json.dumps(plain(value)))


def given_names(experiment: Experiment[Any], trees: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the dotted names of settings in nested dictionaries."""
    known = {f.name: f for f in fields(experiment.settings)}
    return {name for tree in trees for name in _flat(tree, known) if name in known}
