"""Named things of one kind (data sets, tasks, students, arms): one decorator is the door for ours and for anyone's own.

    dataset = Registry("dataset", "data set", "b2m_fast.data")

    @dataset("my-brain", "what --help says of it", kind="images")
    def my_brain(root): ...

Wherever a built-in's name fits, so does ``path/file.py:name``, ``package.module:name``, and a name that an installed
distribution offers in the entry-point group ``b2m_fast.dataset``.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import itertools
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from importlib.metadata import EntryPoint

T = TypeVar("T", bound="Callable[..., Any]")
Made = TypeVar("Made")
_KINDS: dict[object, type] = {"int": int, "float": float, "bool": bool, "str": str}


@dataclass(frozen=True)
class Listing:
    """What can be known of a registered thing without importing it."""

    name: str
    help: str
    about: Mapping[str, Any]  # facts that are literals
    source: str  # a module, or the distribution that offers it


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered thing: `make` is what was decorated."""

    name: str
    help: str
    about: Mapping[str, Any]
    make: T

    def options(self, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the options of a function or class, which are its keyword-only arguments: those given, else the defaults.

        An option is an int, float, bool or str where its annotation, or else its default, is one; 8.0 is taken for an int.

        Raises
        ------
        ValueError
            For an option that it does not have or that has another type, or one without a default that is not given.
        """
        given = given or {}
        known = {p.name: p for p in self._parameters if p.kind is p.KEYWORD_ONLY}
        if unknown := sorted(set(given) - set(known)):
            there = ", ".join(known) or "none"
            raise ValueError(f"{self.name} has no option {', '.join(unknown)}; it has {there}")
        found = {name: p.default for name, p in known.items()}
        found |= {name: self._typed(known[name], value) for name, value in given.items()}
        if lost := [name for name, value in found.items() if value is inspect.Parameter.empty]:
            raise ValueError(f"{self.name} needs the option {', '.join(lost)}")
        return found

    def build(self, options: Mapping[str, Any] | None = None, /, **context: Any) -> Any:
        """Call `make` with options, and with as much of the context as it has arguments for.

        A task that reads no files need not have the argument ``root``, a student for images of any size not ``size``.
        """
        values = self.options(options)
        parameters = [p for p in self._parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        lost = [p.name for p in parameters if p.default is p.empty and p.name not in context]
        if lost:
            given = f"{', '.join(context)} (and options, which stand behind a *)"
            what = f"{self.name} has the argument {', '.join(lost)}"
            raise ValueError(f"{what}; what it is called with is {given}")
        taken = {p.name: context[p.name] for p in parameters if p.name in context}
        return self.make(**taken, **values)

    def takes(self, name: str) -> bool:
        """Return whether `make` has an argument of this name."""
        return any(p.name == name for p in self._parameters)

    @property
    def _parameters(self) -> list[inspect.Parameter]:
        return list(inspect.signature(self.make).parameters.values())

    def _typed(self, option: inspect.Parameter, value: Any) -> Any:
        """Return the value of an option as its type: 8.0 as an int, a list as a tuple."""
        stated = getattr(option.annotation, "__name__", option.annotation)
        kind = _KINDS.get(stated, type(option.default))
        if kind is tuple and isinstance(value, list):
            return tuple(value)
        whole = kind is int and isinstance(value, float) and value.is_integer()
        if whole or (kind is float and type(value) is int):
            return kind(value)
        if kind in _KINDS.values() and type(value) is not kind:
            what = f"the option {option.name} of {self.name}"
            raise ValueError(f"{what} must be {kind.__name__}, got {value!r}")
        return value


class Registry(Generic[T]):
    """Things of one kind by name; the registry is itself the decorator that registers one.

    Parameters
    ----------
    decorator : str
        The name under which the registry is used as a decorator, and the last part of the entry-point group.
    kind : str
        What is registered, as messages call it: ``"data set"``.
    *packages : str
        Modules, and packages of modules, in which the built-in ones are defined.
    facts : sequence of str, optional
        Keyword arguments that the decorator takes; default: any.
    group : str, optional
        Entry-point group, where it is not ``b2m_fast.DECORATOR``.
    """

    def __init__(
        self, decorator: str, kind: str, *packages: str, facts: Sequence[str] = (), group: str = ""
    ) -> None:
        self.decorator, self.kind, self.packages, self.facts = decorator, kind, packages, facts
        self.group = group or f"b2m_fast.{decorator}"
        self._entries: dict[str, Entry[T]] = {}
        self._every: list[
            Entry[T]
        ] = []  # those of files that have changed since, too: they may change back

    def __call__(self, name: str, help: str = "", /, **about: Any) -> Callable[[Made], Made]:  # noqa: A002
        """Register what is decorated under a name, with a help line and facts.

        Name and help line must be literals, since they are also read as text; of the facts, only those that are literals are
        known before the module is imported.

        Raises
        ------
        ValueError
            If the name is taken by something else, or there is no such fact.
        """
        if self.facts and (unknown := sorted(set(about) - set(self.facts))):
            there = f"there is no {', '.join(unknown)}; there are {', '.join(self.facts)}"
            raise ValueError(f"@{self.decorator}({name!r}): {there}")

        def register(made: Any) -> Any:
            built_in, known = self._built_in.get(name), self._entries.get(name)
            taken = built_in is not None and built_in.source != getattr(made, "__module__", "")
            if taken or (known is not None and _origin(known.make) != _origin(made)):
                raise ValueError(f"another {self.kind} is called {name!r}: choose another name")
            self._entries[name] = Entry(name, help, about, made)
            self._every.append(self._entries[name])
            return made

        return register

    # ----------------------------------------------------------------------------------------------
    # Without importing anything
    # ----------------------------------------------------------------------------------------------
    def listings(self, **wanted: Any) -> dict[str, Listing]:
        """Return the built-in and installed ones by name; `wanted` keeps those that `has` finds to have these facts."""
        found = dict(self._built_in)
        for point in metadata.entry_points(group=self.group):
            distribution = point.dist.name if point.dist else point.value
            listing = Listing(point.name, f"from {distribution}", {}, distribution)
            found.setdefault(point.name, listing)
        return {name: item for name, item in found.items() if has(item.about, wanted)}

    @cached_property
    def _built_in(self) -> dict[str, Listing]:
        found: dict[str, Listing] = {}
        for listing in itertools.chain.from_iterable(map(self._decorated, self.packages)):
            if listing.name in found:
                both = f"{found[listing.name].source} and {listing.source}"
                raise ValueError(f"there are two {self.kind}s {listing.name!r}, in {both}")
            found[listing.name] = listing
        return found

    def _decorated(self, package: str) -> Iterator[Listing]:
        """Yield what the source of a package decorates."""
        origin = _module_file(package)
        for path in sorted(origin.parent.glob("*.py")) if origin.stem == "__init__" else [origin]:
            text = path.read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(text)) if f"{self.decorator}(" in text else ():
                for call in getattr(node, "decorator_list", []):
                    called = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
                    if called.rpartition(".")[2] == self.decorator:
                        name, help_line = [*map(ast.literal_eval, call.args), ""][:2]
                        module = package if path == origin else f"{package}.{path.stem}"
                        yield Listing(name, help_line, _literals(call), module)

    def about(self, name: str) -> Mapping[str, Any]:
        """Return the facts of a name; of a built-in those that are literals, without importing it."""
        listing = self._built_in.get(name)
        return listing.about if listing is not None and listing.about else self.get(name).about

    def source(self, name: str) -> dict[str, str]:
        """Return what enters the hash of a run for a name: nothing for a built-in, else what it is made of.

        The SHA-256 of the file for ``file.py:name`` and ``package.module:name`` (not of what that file imports); name and
        version of the distribution for an entry point.
        """
        if name in self._built_in:
            return {}
        if ":" in name:
            return {name: hashlib.sha256(_file(name).read_bytes()).hexdigest()}
        dist = self._installed(name).dist
        return {name: f"{dist.name} {dist.version}" if dist else ""}

    # ----------------------------------------------------------------------------------------------
    # Importing
    # ----------------------------------------------------------------------------------------------
    def get(self, name: str) -> Entry[T]:
        """Return what a name stands for, importing the module that defines it.

        A built-in comes before what a module that is already imported has registered, and that before an installed one.

        Raises
        ------
        ValueError
            If there is nothing of that name, or two distributions offer it; the message lists what there is, and how to name
            one's own.
        """
        if name in self._built_in:
            importlib.import_module(self._built_in[name].source)
        if name in self._entries:
            return self._entries[name]
        made = _load(name) if ":" in name else self._installed(name).load()
        for entry in self._every:
            if entry.make is made:
                self._entries[entry.name] = entry
                return entry
        return Entry(name, (made.__doc__ or "").strip().partition("\n")[0], {}, made)

    def name_of(self, made: object) -> str:
        """Return the name under which something was registered; ValueError if it was not."""
        for entry in self._entries.values():
            if entry.make is made:
                return entry.name
        raise ValueError(f"{made!r} is not registered as a {self.kind}: decorate it")

    def _installed(self, name: str) -> EntryPoint:
        points = list(metadata.entry_points(group=self.group, name=name))
        if len(points) == 1:
            return points[0]
        if points:
            offers = f"{len(points)} installed distributions offer a {self.kind} {name!r}"
            values = ", ".join(sorted(point.value for point in points))
            raise ValueError(f"{offers}: name one of {values}")
        there = f"there is no {self.kind} {name!r}; there are {', '.join(self.listings())}"
        raise ValueError(f"{there}; one of your own is named FILE.py:NAME or PACKAGE.MODULE:NAME")


def has(about: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether facts are as wanted; of several values in a tuple, here or there, one is enough; a fact not stated has any."""
    return all(
        any(value in _several(about.get(key, value)) for value in _several(asked))
        for key, asked in wanted.items()
    )


def _several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _literals(call: ast.Call) -> dict[str, Any]:
    """Return the keyword arguments of a call that are literals."""
    found = {}
    for keyword in call.keywords:
        with suppress(ValueError):
            found[str(keyword.arg)] = ast.literal_eval(keyword.value)
    return found


def _origin(made: object) -> tuple[object, object]:
    """Return what stays the same when a module is loaded again, changed or not."""
    module = sys.modules.get(getattr(made, "__module__", ""))
    return getattr(module, "__file__", id(made)), getattr(made, "__qualname__", id(made))


def _module_file(name: str) -> Path:
    """Return the file of a module that is not imported for it."""
    spec = None
    with suppress(ModuleNotFoundError, ValueError):
        spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(f"there is no module {name!r}; a file is named FILE.py:NAME")
    return Path(spec.origin)


def _file(name: str) -> Path:
    """Return the file that ``file.py:name`` or ``package.module:name`` names."""
    where = name.rpartition(":")[0]
    if not where.endswith(".py"):
        return _module_file(where)
    path = Path(where).expanduser()
    if not path.is_file():
        raise ValueError(f"{name}: there is no file {path}")
    return path.resolve()


def _load(name: str) -> Any:
    """Return what ``file.py:name`` or ``package.module:name`` names; a file is loaded again once it has changed."""
    (where, _, attribute), path = name.rpartition(":"), _file(name)
    if where.endswith(".py"):
        content = path.read_bytes()
        where = f"_b2m_user_{path.stem}_{hashlib.sha256(bytes(path) + content).hexdigest()[:12]}"
        if where not in sys.modules:
            module = sys.modules[where] = ModuleType(
                where
            )  # so that what it defines can be pickled
            module.__file__ = str(path)
            try:
                exec(compile(content, path, "exec", dont_inherit=True), vars(module))  # noqa: S102
            except BaseException:
                del sys.modules[where]
                raise
    module = importlib.import_module(where)
    if not hasattr(module, attribute):
        raise ValueError(f"{name}: there is no {attribute!r} in {path}")
    return getattr(module, attribute)
