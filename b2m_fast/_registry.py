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
import importlib
import importlib.util
import inspect
import sys
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from importlib.metadata import EntryPoint
    from types import ModuleType

__all__ = ["Entry", "Listing", "Registry", "has"]

T = TypeVar("T")
Made = TypeVar("Made")
_KINDS: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}


@dataclass(frozen=True)
class Listing:
    """What can be known of a registered thing without importing it."""

    name: str
    help: str
    about: Mapping[str, Any]  # facts that are literals
    source: str  # a module, or the distribution that offers it


def has(about: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether facts are as wanted; of several values in a tuple, here or there, one is enough; a fact not stated is any."""

    def several(value: Any) -> tuple[Any, ...]:
        return value if isinstance(value, tuple) else (value,)

    return all(
        any(value in several(about.get(key, value)) for value in several(values))
        for key, values in wanted.items()
    )


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
        known = {p.name: p for p in self._parameters() if p.kind is p.KEYWORD_ONLY}
        given = given or {}
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(
                f"{self.name} has no option {', '.join(unknown)}; it has "
                f"{', '.join(known) or 'none'}"
            )
        if lost := [n for n, p in known.items() if p.default is p.empty and n not in given]:
            raise ValueError(f"{self.name} needs the option {', '.join(lost)}")
        return {
            name: self._typed(p, given[name]) if name in given else p.default
            for name, p in known.items()
        }

    def build(self, options: Mapping[str, Any] | None = None, /, **context: Any) -> Any:
        """Call `make` with options, and with as much of the context as it has arguments for.

        A task that reads no files need not have the argument ``root``, a student for images of any size not ``size``.
        """
        values = self.options(options)
        parameters = [p for p in self._parameters() if p.kind is p.POSITIONAL_OR_KEYWORD]
        lost = [p.name for p in parameters if p.default is p.empty and p.name not in context]
        if lost:
            raise ValueError(
                f"{self.name} has the argument {', '.join(lost)}; what it is called with is "
                f"{', '.join(context)} (and options, which stand behind a *)"
            )
        taken = {p.name: context[p.name] for p in parameters if p.name in context}
        return cast("Callable[..., Any]", self.make)(**taken, **values)

    def takes(self, name: str) -> bool:
        """Return whether `make` has an argument of this name."""
        return any(p.name == name for p in self._parameters())

    def _parameters(self) -> list[inspect.Parameter]:
        return list(inspect.signature(cast("Callable[..., Any]", self.make)).parameters.values())

    def _typed(self, parameter: inspect.Parameter, value: Any) -> Any:
        said, default = parameter.annotation, parameter.default
        kind = _KINDS.get(said if isinstance(said, str) else getattr(said, "__name__", ""))
        kind = type(default) if kind is None else kind
        if kind is tuple and isinstance(value, list | tuple):
            return tuple(value)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and (kind is float or (kind is int and float(value).is_integer())):
            return kind(value)
        if kind in {int, float, bool, str} and type(value) is not kind:
            raise ValueError(
                f"the option {parameter.name} of {self.name} must be {kind.__name__}, got {value!r}"
            )
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
    facts : tuple of str, optional
        Keyword arguments that the decorator takes; default: any.
    group : str, optional
        Entry-point group, where it is not ``b2m_fast.DECORATOR``.
    """

    def __init__(
        self,
        decorator: str,
        kind: str,
        *packages: str,
        facts: tuple[str, ...] | None = None,
        group: str = "",
    ) -> None:
        self.decorator, self.kind, self.packages, self.facts = decorator, kind, packages, facts
        self.group = group or f"b2m_fast.{decorator}"
        self._entries: dict[str, Entry[T]] = {}

    def __call__(self, name: str, help: str = "", /, **about: Any) -> Callable[[Made], Made]:  # noqa: A002
        """Register what is decorated under a name, with a help line and facts.

        Name and help line must be literals, since they are also read as text; of the facts, only those that are literals are
        known before the module is imported.

        Raises
        ------
        ValueError
            If the name is taken by something else, or there is no such fact.
        """
        if self.facts is not None and (unknown := sorted(set(about) - set(self.facts))):
            raise ValueError(
                f"@{self.decorator}({name!r}): there is no {', '.join(unknown)}; there are "
                f"{', '.join(self.facts)}"
            )

        def register(made: Made) -> Made:
            known = self._entries.get(name)
            other = known is not None and _origin(known.make) != _origin(made)
            if other or (not self._is_built_in(made) and name in self._built_in):
                raise ValueError(f"another {self.kind} is called {name!r}: choose another name")
            self._entries[name] = Entry(name, help, about, cast("T", made))
            return made

        return register

    def _is_built_in(self, made: object) -> bool:
        module = getattr(made, "__module__", "")
        return any(module == p or module.startswith(f"{p}.") for p in self.packages)

    # ----------------------------------------------------------------------------------------------
    # Without importing anything
    # ----------------------------------------------------------------------------------------------
    def listings(self, **wanted: Any) -> dict[str, Listing]:
        """Return the built-in and installed ones by name; `wanted` keeps those with these facts (`has`)."""
        found = dict(self._built_in)
        for point in metadata.entry_points(group=self.group):
            distribution = point.dist.name if point.dist else point.value
            listing = Listing(point.name, f"from {distribution}", {}, distribution)
            found.setdefault(point.name, listing)
        return {name: listing for name, listing in found.items() if has(listing.about, wanted)}

    @cached_property
    def _built_in(self) -> dict[str, Listing]:
        found: dict[str, Listing] = {}
        for package in self.packages:
            for listing in self._decorated(package):
                if listing.name in found:
                    raise ValueError(
                        f"there are two {self.kind}s {listing.name!r}, in {found[listing.name].source} "
                        f"and {listing.source}"
                    )
                found[listing.name] = listing
        return found

    def _decorated(self, package: str) -> Iterator[Listing]:
        """Yield what the source of a package decorates."""
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ImportError(f"there is no module {package}")
        origin = Path(spec.origin)
        paths = sorted(origin.parent.glob("*.py")) if origin.name == "__init__.py" else [origin]
        for path in paths:
            module = package if path == origin else f"{package}.{path.stem}"
            text = path.read_text(encoding="utf-8")
            nodes = ast.walk(ast.parse(text)) if f"{self.decorator}(" in text else ()
            for node in nodes:
                for call in getattr(node, "decorator_list", []):
                    if isinstance(call, ast.Call) and _name(call.func) == self.decorator:
                        name, help_line = [*map(ast.literal_eval, call.args), ""][:2]
                        yield Listing(name, help_line, _literals(call), module)

    def about(self, name: str) -> Mapping[str, Any]:
        """Return the facts of a name; of a built-in those that are literals, without importing it."""
        listing = self.listings().get(name)
        return listing.about if listing is not None and listing.about else self.get(name).about

    def source(self, name: str) -> dict[str, str]:
        """Return what enters the hash of a run for a name: nothing for a built-in, else what it is made of.

        The SHA-256 of the file for ``file.py:name`` and ``package.module:name`` (not of what that file imports); name and
        version of the distribution for an entry point.
        """
        if name in self._built_in:
            return {}
        file = _file(name)
        if file is not None:
            return {name: hashlib.sha256(file.read_bytes()).hexdigest()}
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
        if _file(name) is None:
            return self._own(self._installed(name).load(), name)
        module, attribute = _target(name)
        if not hasattr(module, attribute):
            raise ValueError(f"{name}: there is no {attribute!r} in {module.__file__}")
        return self._own(getattr(module, attribute), name)

    def name_of(self, made: object) -> str:
        """Return the name under which something was registered.

        Raises
        ------
        ValueError
            If it was not.
        """
        for entry in self._entries.values():
            if entry.make is made:
                return entry.name
        raise ValueError(f"{made!r} is not registered as a {self.kind}: decorate it")

    def _own(self, made: Any, name: str) -> Entry[T]:
        """Return the entry of a user's object, decorated or not."""
        for entry in self._entries.values():
            if entry.make is made:
                return entry
        lines = (getattr(made, "__doc__", None) or "").strip().splitlines()
        return Entry(name, lines[0] if lines else "", {}, cast("T", made))

    def _installed(self, name: str) -> EntryPoint:
        points = list(metadata.entry_points(group=self.group, name=name))
        if len(points) > 1:
            raise ValueError(
                f"{len(points)} installed distributions offer a {self.kind} {name!r}: name one of "
                f"{', '.join(sorted(point.value for point in points))}"
            )
        if not points:
            raise ValueError(
                f"there is no {self.kind} {name!r}; there are {', '.join(self.listings())}; one of "
                "your own is named FILE.py:NAME or PACKAGE.MODULE:NAME"
            )
        return points[0]


def _name(node: ast.expr) -> str:
    """Return the last part of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _literals(call: ast.Call) -> dict[str, Any]:
    """Return the keyword arguments of a call that are literals."""
    found = {}
    for keyword in call.keywords:
        try:
            found[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except ValueError:
            continue
    return found


def _origin(made: object) -> tuple[object, object]:
    """Return what stays the same when a module is loaded again, changed or not."""
    module = sys.modules.get(getattr(made, "__module__", ""))
    return getattr(module, "__file__", id(made)), getattr(made, "__qualname__", id(made))


def _file(name: str) -> Path | None:
    """Return the file that ``file.py:name`` or ``package.module:name`` names; None for another kind of name."""
    where, colon, _ = name.rpartition(":")
    if not colon:
        return None
    if where.endswith(".py"):
        path = Path(where).expanduser()
        if not path.is_file():
            raise ValueError(f"{name}: there is no file {path}")
        return path.resolve()
    try:
        spec = importlib.util.find_spec(where)
    except (ModuleNotFoundError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise ValueError(f"{name}: there is no module {where!r}; a file is named FILE.py:NAME")
    return Path(spec.origin)


def _target(name: str) -> tuple[ModuleType, str]:
    """Return the module of ``file.py:name`` or ``package.module:name``, and the name in it."""
    where, _, attribute = name.rpartition(":")
    if not where.endswith(".py"):
        return importlib.import_module(where), attribute
    path = cast("Path", _file(name))
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    module = f"_b2m_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    known = sys.modules.get(module)
    if known is None or known.__dict__["_b2m_content"] != content:
        spec = importlib.util.spec_from_file_location(module, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be loaded as Python")
        loaded = importlib.util.module_from_spec(spec)
        loaded.__dict__["_b2m_content"] = content
        sys.modules[module] = loaded  # so that what it defines can be pickled
        try:
            spec.loader.exec_module(loaded)
        except BaseException:
            del sys.modules[module]
            raise
    return sys.modules[module], attribute
